"""DySem's scores over tasks and settings: what several questions share.

Every table has one row per task and setting, with the columns of `dysem_lab.evaluate.score`:
``spearman``, ``low``, ``high`` (× 100, 95 % bootstrap interval over pairs), ``n_dims`` (#Dim.),
``n_pairs``, ``n_undefined``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import cast

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from dysem_lab.data.sts import STSData
from dysem_lab.display import amount
from dysem_lab.encoders.settings import VECTORS
from dysem_lab.encoders.vectors import SemanticVectors, n_dims
from dysem_lab.errors import InputError, choices
from dysem_lab.evaluate import holm, score
from dysem_lab.inputs import names_of
from dysem_lab.joint import cosine, pairwise_similarity
from dysem_lab.questions.asked import require_study
from dysem_lab.questions.finding import Facts
from dysem_lab.questions.grid import check_ms, sweep
from dysem_lab.questions.names import said as in_words
from dysem_lab.questions.published import AVERAGE
from dysem_lab.questions.study import Study

ALIGNED = "aligned_wva"
LEVEL = 0.05  # of a p that Holm has corrected
Scored = tuple[Float[Tensor, " n"], float]  # similarities of the pairs, and #Dim.


def pair_cosine(vectors: Float[Tensor, "twice_n d"]) -> Float[Tensor, " n"]:
    """Return the plain cosine of row i with row n + i, in float32; NaN where a row is zero."""
    n_pairs = len(vectors) // 2
    return cosine(vectors[:n_pairs], vectors[n_pairs:])


def pair_similarity(encoded: SemanticVectors) -> Scored:
    """Return the DySem similarity of text i with text n + i, and #Dim."""
    n_pairs = len(encoded) // 2
    first, second = encoded[:n_pairs], encoded[n_pairs:]
    similarity = pairwise_similarity(first.vectors, second.vectors, first.sets, second.sets)
    return similarity, n_dims(first, second)


def only_task(study: Study) -> str:
    """Return the name of a study's one task.

    Raises:
        InputError: It is no study, or has no task or several.
    """
    require_study(study)
    if len(study.data) != 1:
        names = ", ".join(study.data) or "none"
        raise InputError(f"this question is about one task, but the study has {names}; give one")
    return next(iter(study.data))


def require_order(data: STSData) -> None:
    """Raise `InputError` where no pair is rated above another, so that there are no ranks."""
    if len(set(data.gold.tolist())) < 2:
        raise InputError(
            f"{amount(len(data), 'pair')} with the one score {data.gold[0]:g} have no order to "
            "compare with; give pairs with different ones"
        )


def one_prompt(study: Study, given: Mapping[str, object]) -> dict[str, object]:
    """Return the settings of a question about languages, with the study's first prompts."""
    prompt = {"template": study.templates[0], "setting": study.settings[0]}
    return {"languages": given["languages"], **prompt, **given}


def rank_languages(
    study: Study,
    task: str,
    *,
    template: str | None = None,
    setting: str | None = None,
    component: str = "attn",
    seed: int = 0,
) -> pd.DataFrame:
    """Score every language alone by the plain cosine of its vectors, best first.

    The paper adds languages to the consensus in this order, chosen on the labels that it reports
    on.

    Returns:
        One row per language: ``task``, ``setting``, ``language``, ``rank`` (1 is best) and the
        score.

    Source: DySem Section 4 and Figures 5 and 12.
    """
    setting = setting if setting is not None else study.settings[0]
    rows = []
    for code in study.task_languages(task):
        vectors = study.vectors(
            task, component, template=template, setting=setting, languages=[code]
        )
        result = score(
            pair_cosine(vectors[:, 0]), study.data[task].gold, study.model.d_model, seed=seed
        )
        rows.append({"task": task, "setting": setting, "language": code, **result})
    table = pd.DataFrame(rows).sort_values("spearman", ascending=False, ignore_index=True)
    table.insert(3, "rank", table.index + 1)
    return table


def grid(
    study: Study,
    ks: Sequence[int | float],
    ms: Sequence[int] | None = None,
    *,
    components: Sequence[str] = ("attn",),
    vectors: Sequence[str] = VECTORS,
    languages: Mapping[str, Sequence[str]] | Sequence[str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Score DySem for every task, template, setting, component, m, k and vector.

    Args:
        study: Its tasks, templates and settings span the grid.
        ks: Dimensions per text, or fractions of d.
        ms: Numbers of languages; a task with fewer uses all that it has. None is each number.
        components: Internal vectors.
        vectors: "mean" and "source".
        languages: Order in which languages are added, or one order per setting. None ranks them by
            their single-language score on the same pairs: the paper's protocol, which uses the
            labels that it reports on.
        seed: Of the bootstraps.

    Returns:
        One row per cell with ``task``, ``template``, ``setting``, ``component``, ``m``,
        ``languages`` (joined by "/"), ``k``, ``vector``.

    Raises:
        InputError: k, m or a name out of range.

    Source: DySem Figures 6, 7, 9, 13–17, 22–24 and Table 5.
    """
    check_ms(ms or [1], most_languages(study, languages))
    rows = []
    for task, template, setting, component in (
        (task, template, setting, component)
        for task in study.data
        for template in study.templates
        for setting in study.settings
        for component in components
        if template != "none"
    ):
        order = language_order(study, task, template, setting, component, languages)
        x = study.vectors(task, component, template=template, setting=setting, languages=order)
        english = study.vectors(task, component, template=template, languages=["en"])
        available = range(1, len(order) + 1)
        used = list(dict.fromkeys(min(m, len(order)) for m in ms or available))
        for cell, result in sweep(x, english[:, 0], ks, used, vectors).items():
            rows.append(
                {
                    "task": task,
                    "template": template,
                    "setting": setting,
                    "component": component,
                    "m": cell.m,
                    "languages": "/".join(order[: cell.m]),
                    "k": cell.k,
                    "vector": cell.vector,
                    **score(
                        result.similarity, study.data[task].gold, mean_size(result.sizes), seed=seed
                    ),
                }
            )
    return pd.DataFrame(rows)


def language_order(
    study: Study,
    task: str,
    template: str,
    setting: str,
    component: str,
    languages: Mapping[str, Sequence[str]] | Sequence[str] | None,
) -> list[str]:
    """Return the languages that a task has in the order in which they join the consensus."""
    if languages is None:
        ranked = rank_languages(
            study, task, template=template, setting=setting, component=component
        )
        return ranked["language"].tolist()
    if isinstance(languages, Mapping) and setting not in languages:
        raise choices("prompt setting with an order of languages", setting, languages)
    given = languages[setting] if isinstance(languages, Mapping) else languages
    order = names_of(given, "language")
    for code in order:
        if code not in study.languages:
            raise choices("language", code, study.languages)
    return [code for code in order if code in study.task_languages(task)]


def with_languages(facts: Facts, table: pd.DataFrame) -> Facts:
    """Return the facts with the languages of each task's largest consensus in a table of `grid`.

    They differ between prompt settings, and between tasks and prompts, of which only the table can
    speak.
    """
    sizes = table["languages"].str.count("/")
    of_each = sizes.groupby([table["task"], table["setting"]])
    largest = table[sizes == of_each.transform("max")]
    orders = {setting: set(part["languages"]) for setting, part in largest.groupby("setting")}
    if any(len(order) > 1 for order in orders.values()):
        whose = "task" if table["task"].nunique() > 1 else "prompt"
        of_tasks = [cast("list[str]", data["languages"]) for data in facts.sources]
        codes = dict.fromkeys(code for of_task in of_tasks for code in of_task)
        of = f" of {'/'.join(codes)}" if codes else ""
        said = f"each {whose}'s own order{of}, in the table"
    elif len(all_orders := set.union(*orders.values())) == 1:
        said = all_orders.pop()
    else:
        each = ((order.pop(), in_words("setting", setting)) for setting, order in orders.items())
        said = " and ".join(f"{order} ({prompts})" for order, prompts in each)
    return replace(facts, settings={**facts.settings, "languages best first": said})


def most_languages(
    study: Study, languages: Mapping[str, Sequence[str]] | Sequence[str] | None
) -> int:
    """Return how many languages a consensus can have at most."""
    most = max(len(study.task_languages(task)) for task in study.data)
    if languages is None:
        return most
    orders = languages.values() if isinstance(languages, Mapping) else [languages]
    return min(most, max(len(names_of(order, "language")) for order in orders))


def plain_scores(study: Study, read: Mapping[str, str], seed: int) -> pd.DataFrame:
    """Score the plain cosine in English, on all d, of each template: what DySem starts from.

    Args:
        study: Its tasks and templates.
        read: Name of a vector → where it is read, as for `Study.embeddings`, or a component.
        seed: Of the bootstraps.

    Returns:
        One row per task, template and vector, whose name is in ``component``.
    """
    rows = []
    for task, template, (name, where) in product(study.data, study.templates, read.items()):
        if "." in where:
            vectors = study.embeddings(task, where, template=template)
        else:
            vectors = study.vectors(task, where, template=template, languages=["en"])[:, 0]
        result = score(pair_cosine(vectors), study.data[task].gold, study.model.d_model, seed=seed)
        rows.append({"task": task, "template": template, "component": name, **result})
    return pd.DataFrame(rows)


def second_half(n_layers: int) -> str:
    """Return where AlignedWVA is read: the attention outputs of the second half of the blocks.

    Source: arXiv 2602.01572; see `dysem_lab.ValueAggregation`.
    """
    return f"attn_raw.{n_layers // 2}-{n_layers - 1}"


def gain_columns(difference: Mapping[str, float], name: str = "gain") -> dict[str, float]:
    """Return a paired difference as the columns of a gain, or of another name."""
    columns = {"": "difference", "_low": "low", "_high": "high", "_p": "p"}
    return {f"{name}{end}": difference[column] for end, column in columns.items()}


def with_holm(table: pd.DataFrame, name: str = "gain") -> pd.DataFrame:
    """Return a table of gains with ``gain_p_holm``, and ``n_compared``: over how many.

    The tasks are corrected together, and so are the means over tasks, which are not news.

    Args:
        table: With ``gain_p``, and ``task`` where there are several.
        name: What its gains are called, such as "difference".
    """
    of_mean = [task == AVERAGE for task in table.get("task", [""] * len(table))]
    p = table[f"{name}_p"].groupby(of_mean)
    corrected = p.transform(lambda of_part: holm(of_part.to_numpy(float)))
    return table.assign(**{f"{name}_p_holm": corrected, "n_compared": p.transform("count")})


def counted_once(table: pd.DataFrame, same: pd.Series, name: str = "gain") -> pd.DataFrame:
    """Return a table of `with_holm` in which rows of the same vectors are one comparison.

    Args:
        table: With ``gain_p``, as for `with_holm`.
        same: Rows of which it has the same value have the same vectors; their scores differ by
            rounding.
        name: What its gains are called.

    Returns:
        The table with ``repeated``: whether an earlier row has the same vectors. Such a row has the
        corrected p of that one.
    """
    p, repeated = table[f"{name}_p"], same.duplicated()
    once = with_holm(table.assign(**{f"{name}_p": p.mask(repeated)}), name)
    corrected = once.groupby(same)[f"{name}_p_holm"].transform("first")
    columns = {f"{name}_p": p, f"{name}_p_holm": corrected}
    return once.assign(**columns, repeated=repeated)


def certain(table: pd.DataFrame, name: str = "gain") -> tuple[int, int]:
    """Return how many gains, and how many losses, are certain once Holm has corrected them."""
    sure, gains = table[f"{name}_p_holm"] < LEVEL, table[name]
    return int((sure & (gains > 0)).sum()), int((sure & (gains < 0)).sum())


def by_holm(table: pd.DataFrame, word: str = "after") -> str:
    """Return in words what is certain in a table of `with_holm`."""
    return f"p < {LEVEL:g} {word} Holm over {amount(int(table['n_compared'].max()), 'comparison')}"


def mean_size(sizes: Tensor) -> float:
    """Return #Dim., the mean size of the joint sets."""
    return float(sizes.double().mean())
