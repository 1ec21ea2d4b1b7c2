"""Does Contrastive Prompting sharpen an embedding? Notebook 15; and the scores of all CP questions.

Every table has Contrastive Prompting (CP, arXiv 2505.12831) scored beside the plain prompt at the
same output layer.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from dysem_lab.bootstrap import MANY
from dysem_lab.display import amount
from dysem_lab.errors import InputError
from dysem_lab.evaluate import (
    average_difference,
    average_score,
    paired_difference,
    score,
)
from dysem_lab.models.steering import Contrast
from dysem_lab.questions.asked import asked
from dysem_lab.questions.contrast_rows import (
    NO_GAIN,
    PLAIN,
    Method,
    both_norms,
    compared,
    drawn_once,
    norms_said,
    once,
    one_setting,
    prompt_name,
)
from dysem_lab.questions.finding import Facts, Finding, facts_of
from dysem_lab.questions.names import OUTPUTS, said
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.published import AVERAGE
from dysem_lab.questions.scores import LEVEL, certain, gain_columns, pair_cosine
from dysem_lab.questions.study import Study, named_layers
from dysem_lab.questions.style import GAINS, layout


def contrast_gains(
    study: Study,
    contrasts: Mapping[str, tuple[int, float]],
    output_layers: Sequence[int | str] = ("penultimate", "final"),
    *,
    seed: int = 0,
) -> Finding:
    """Does CP gain on the plain prompt? Each prompt with and without CP, in both of its norms.

    Args:
        study: Its tasks; in the English setting. It has the templates of all contrasts.
        contrasts: Template → block (0-based) and α of its contrast. "ck" is the mean of the
            embeddings of Pretended CoT and Knowledge Enhancement.
        output_layers: Where embeddings are read, as for `dysem_lab.ContrastivePrompting`.
        seed: Of the bootstraps.

    Returns:
        As from `contrast_scores`.

    Source: CP (arXiv 2505.12831), Tables 1 and 2.
    """
    given = asked(study, output_layers=output_layers, seed=seed)
    alike: dict[tuple[int, float], list[str]] = {}  # templates with the same contrast
    for template, (layer, alpha) in require_contrasts(contrasts).items():
        alike.setdefault((layer, alpha), []).append(template)
    parts: list[dict[str, Any]] = [
        {
            "contrasts": both_norms(*of_contrast),
            "output_layers": output_layers,
            "templates": names,
        }
        for of_contrast, names in alike.items()
    ]
    prepare(*(study.needs((), **part) for part in parts))
    facts = facts_of(study, **given, auxiliary="irrelevant")
    facts = replace(facts, unsaid={"contrasts": dict(contrasts)})
    each = [contrast_scores(study, **part, seed=seed) for part in parts]
    scores = once(pd.concat(each, ignore_index=True), study.lens)
    return Finding("cp_main_results", scores, figure(scores, facts), caption(scores), facts)


def require_contrasts(contrasts: object) -> Mapping[str, tuple[int, float]]:
    """Return a mapping of templates to blocks and α; raise `InputError` where it is none."""
    if (
        not isinstance(contrasts, Mapping)
        or not contrasts
        or not all(isinstance(of, tuple | list) and len(of) == 2 for of in contrasts.values())
    ):
        raise InputError(
            f"contrasts must be such as {{'prompteol': (4, 2.0)}}, got {contrasts!r:.80}"
        )
    return contrasts


def said_of(contrasts: Mapping[str, tuple[int, float]]) -> dict[str, str]:
    """Return the contrasts of templates as a setting that is said in words."""
    each = [
        f"{prompt_name(template)} at block {layer + 1}, α = {alpha:g}"
        for template, (layer, alpha) in contrasts.items()
    ]
    return {"contrasts": f"with {'; '.join(each)}"}


# --- what several questions share


def contrast_scores(
    study: Study,
    contrasts: Sequence[Contrast | None],
    output_layers: Sequence[int | str] | int | str = "penultimate",
    *,
    templates: Sequence[str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Score contrasts, and how much each gains on the plain prompt.

    The gain is over the plain prompt **at the same output layer**, on the same pairs: the papers
    compare with the plain prompt at another layer, so part of their gain is the layer's.

    Args:
        study: Its tasks; in the English setting.
        contrasts: Interventions, None among them: the plain prompt.
        output_layers: As for `dysem_lab.questions.study.Study.needs`.
        templates: "ck" is the mean of the embeddings of Pretended CoT and Knowledge Enhancement;
            None is the study's.
        seed: Of the bootstraps.

    Returns:
        One row per task, template, output layer and contrast, and of several tasks their mean
        ("Avg."): ``method`` ("plain", "CP-NS", "CP-NR", …), ``layer`` (0-based block), ``norm``,
        ``alpha``, ``position``, ``auxiliary``, ``heads``, the columns of `dysem_lab.score`, and
        ``gain``, ``gain_low``, ``gain_high``, ``gain_p`` (paired bootstrap; NaN for the plain
        prompt), ``gain_p_holm``, corrected for all ``n_compared`` of the table, and ``repeated``:
        whether an earlier row has the same vectors (`once`).

    Raises:
        InputError: There is no plain prompt to compare with.

    Source: CP (arXiv 2505.12831), Tables 1, 2, 4, 5 and Figure 3.
    """
    if None not in contrasts:
        raise InputError("a table needs None among its contrasts: the plain prompt to compare")
    layers = named_layers(output_layers, contrasts, study.n_layers)
    prompts = study.templates if templates is None else templates
    rows: list[dict[str, object]] = []
    drawn: dict[str, Any] = {"seed": seed, "n_resamples": MANY}
    measured: dict[Method, list[tuple[Tensor, Tensor, np.ndarray]]] = {}
    for task, data in study.data.items():
        for method, similarity, plain in _similarities(study, task, prompts, layers, contrasts):
            of_task = similarity, plain, data.gold
            measured.setdefault(method, []).append(of_task)
            gain = paired_difference(*of_task, **drawn) if method.contrast else NO_GAIN
            result = score(similarity, data.gold, study.model.d_model, seed=seed)
            rows.append({"task": task, **method.labels(), **result, **gain_columns(gain)})
    if len(study.data) > 1:
        for method, tasks in measured.items():
            scored = [(steered, gold) for steered, _, gold in tasks]
            result = average_score(scored, study.model.d_model, seed=seed)
            gain = average_difference(tasks, **drawn) if method.contrast else NO_GAIN
            rows.append({"task": AVERAGE, **method.labels(), **result, **gain_columns(gain)})
    return once(pd.DataFrame(rows), study.lens)


def _similarities(
    study: Study,
    task: str,
    templates: Sequence[str],
    output_layers: Sequence[int | str],
    contrasts: Sequence[Contrast | None],
) -> Iterator[tuple[Method, Float[Tensor, " n"], Float[Tensor, " n"]]]:
    """Yield each method with its cosine of each pair, and that of the plain prompt."""
    for template in templates:
        for output_layer in output_layers:
            cosines = {
                contrast: pair_cosine(
                    study.embeddings(task, output_layer, template=template, contrast=contrast)
                )
                for contrast in contrasts
            }
            for contrast, similarity in cosines.items():
                yield Method(template, output_layer, contrast), similarity, cosines[None]


# --- figure and caption


def figure(table: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return scores of every prompt with and without CP, tasks across, coloured by the gain."""
    rows = drawn_once(table)
    rows = rows.assign(row=_row_labels(rows))
    order = list(dict.fromkeys(rows["row"]))
    tasks = list(dict.fromkeys(rows["task"]))
    scores, gains, p = (
        rows.pivot(index="row", columns="task", values=column).loc[order, tasks]
        for column in ("spearman", "gain", "gain_p_holm")
    )
    sure = p < LEVEL
    stars = sure.replace({True: "*", False: ""})
    changes = ("<br>" + gains.map("{:+.2f}".format) + stars).where(gains.notna(), "")
    text = scores.map("{:.2f}".format) + changes
    reach = float(np.nanmax(np.abs(gains.to_numpy()))) if gains.notna().any(axis=None) else 1.0
    figure = go.Figure(
        go.Heatmap(
            z=gains.fillna(0.0),
            x=tasks,
            y=order,
            text=text.to_numpy().tolist(),
            texttemplate="%{text}",
            colorscale=GAINS,
            zmin=-1.6 * reach,
            zmax=1.6 * reach,
            showscale=False,
            xgap=2,
            ygap=2,
            hoverinfo="skip",
        )
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(side="top")
    note = (
        "below a score: the gain over plain at the same output layer "
        f"(* p < {LEVEL:g} by {_families(table)})"
    )
    title = "Contrastive Prompting beside the plain prompt"
    layout(figure, title, f"{facts}, {note}, {norms_said(rows)}", 190 + 46 * len(order))
    return figure.update_layout(margin_l=420)


def _families(table: pd.DataFrame) -> str:
    """Return how many comparisons Holm corrects together: those of tasks, and their means."""
    is_mean = table["task"] == AVERAGE
    cells, means = (
        " and ".join(map(str, sorted(set(part["n_compared"]), reverse=True)))
        for part in (table[~is_mean], table[is_mean])
    )
    return f"Holm over {cells} cells" + (f"; averages over {means}" if means else "")


def _row_labels(table: pd.DataFrame) -> pd.Series:
    """Return what tells the rows of a task apart: prompt, method, what varies, output layer."""
    names = table["template"].map(prompt_name)
    steered = table["method"] != PLAIN
    labels = names + ", " + table["method"]
    for column, words in (("layer", " block {:g}"), ("alpha", " α={:g}"), ("position", " {}")):
        if column != "position" or table.loc[steered, column].nunique() > 1:
            one_based = table[column] + 1 if column == "layer" else table[column]
            said = [
                "" if pd.isna(value) or value == "" else words.format(value) for value in one_based
            ]
            labels += pd.Series(said, table.index)
    outputs = [
        OUTPUTS.get(name, f"block {name}").removeprefix("the ") for name in table["output_layer"]
    ]
    return labels + ", " + pd.Series(outputs, table.index)


def caption(table: pd.DataFrame) -> str:
    """Return one line: how many gains are certain, and the best and the worst in the mean."""
    each = compared(table)
    of_mean, shown = each["task"] == AVERAGE, drawn_once(table)
    of_tasks = each[~of_mean]
    over = shown[shown["task"] == (AVERAGE if of_mean.any() else of_tasks["task"].iloc[0])]
    best, worst = extremes(over)
    up, down = certain(of_tasks)
    n_tasks = of_tasks["task"].nunique()
    lead = f" In the mean over {n_tasks} tasks CP" if n_tasks > 1 else " CP"
    return (
        f"Of {amount(len(of_tasks), 'comparison')} with the plain prompt at the same output layer, "
        f"CP gains in {up} and loses in {down} for certain (p < {LEVEL:g} after Holm)."
        f"{one_setting(table)}{lead} changes the score by {best['gain']:+.2f} at best "
        f"({_short(best)}) and by {worst['gain']:+.2f} at worst ({_short(worst)})."
    )


def extremes(table: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Return the rows with the largest and the smallest gain."""
    return table.loc[table["gain"].idxmax()], table.loc[table["gain"].idxmin()]


def _short(row: pd.Series) -> str:
    where = said("output_layer", row["output_layer"])
    return f"{prompt_name(row['template'])}, {row['method']}, {where}"
