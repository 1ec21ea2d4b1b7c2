"""The DySem paper's numbers, and the methods of its main results measured here beside them.

The numbers are a copy of Tables 1 and 2 (main results) and 5 (two other prompts) of DySem, arXiv
2605.29751v1.
"""

from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab import paths
from dysem_lab.consensus import resolve_k
from dysem_lab.data.sts import TASKS, STSData
from dysem_lab.encoders.settings import VECTORS
from dysem_lab.errors import InputError, choices
from dysem_lab.evaluate import Scores, average_score, score
from dysem_lab.inputs import names_of
from dysem_lab.joint import joint_cosine
from dysem_lab.models.loading import presets
from dysem_lab.questions.grid import sweep
from dysem_lab.questions.study import Study

AVERAGE = "Avg."
# Pairs of each task as MTEB has them, which DySem's own runs use.
N_PAIRS = {
    "STS12": 3108,
    "STS13": 1500,
    "STS14": 3750,
    "STS15": 3000,
    "STS16": 1186,
    "STSB": 1379,
    "SICKR": 9927,
}
# Rows that the paper took over from papers which evaluate with SentEval, whose SICK-R is the test
# part alone. (It took over LLM2Vec too, which reports MTEB's.)
SENTEVAL_SICKR = 4927
SENTEVAL_METHODS = (
    "Sentence-BERT",
    "SimCSE",
    "PromptBERT",
    "Token Prepending",
    "Contrastive Prompting(Scaling)",
    "Contrastive Prompting(Recovering)",
    "SemPA",
)
BASELINES = {  # template → its method in the paper's tables
    "none": "Mean Pooling",
    "prompteol": "PromptEOL",
    "pretended_cot": "Pretended CoT",
    "knowledge": "Knowledge Enhancement",
}
UNSTATED = "unspecified"  # the semantic vector of DySem's rows in Table 5
LABELS = [
    *("model", "preset", "method", "template", "setting", "vector", "origin", "k", "m"),
    "languages",
]
Cell = tuple[dict[str, object], Float[Tensor, " n"], float]  # labels, similarities, #Dim.


class DySemRow(NamedTuple):
    """One DySem row of a table of results.

    Attributes:
        setting: Prompt setting.
        vector: "mean" or "source".
        m: The first m languages; None is all that a task has.
        origin: Where these settings come from; empty for one's own.
    """

    setting: str
    vector: str
    m: int | None = None
    origin: str = ""


def preset_of(model: str) -> str:
    """Return which of the paper's ten models a preset, hub id or name of the paper is, or ""."""
    names = presets()[["preset", "hf_id", "model"]]
    found = names[(names == model).any(axis=1)]
    return found["preset"].iloc[0] if len(found) else ""


def paper_settings(preset: str) -> list[DySemRow]:
    """Return the DySem rows of one of the ten models: Table 4's, and where the script differs, its.

    Raises:
        InputError: Unknown preset.
    """
    rows = []
    for row in _settings(preset).itertuples():
        rows.append(DySemRow(row.setting, row.vector, row.m, "Table 4"))
        if row.m_in_repo_script != row.m:
            rows.append(DySemRow(row.setting, row.vector, row.m_in_repo_script, "released script"))
    return rows


def _settings(preset: str) -> pd.DataFrame:
    """Return Table 4's rows of a preset."""
    table = presets()
    if preset not in set(table["preset"]):
        raise choices("preset", preset, table["preset"].unique())
    return table[table["preset"] == preset]


def published(model: str | None = None) -> pd.DataFrame:
    """Return the paper's scores, Tables 1, 2 and 5, one row per score.

    Args:
        model: A preset, hub id or name of the paper; None is all of its models.

    Returns:
        ``source``, ``table``, ``model``, ``preset`` (empty where the model is none of the ten),
        ``method``, ``template`` and ``setting`` (empty where the method has none of ours),
        ``vector``, ``dims`` (#Dim.), ``task`` (one of the seven, or "Avg.", their mean as printed),
        ``score`` (Spearman × 100), ``n_pairs``. The pairs of SICKR are 9,927 (MTEB's) or 4,927
        (SentEval's); averages with the one and with the other are not strictly comparable.

    Raises:
        InputError: A model that the paper has no numbers for.
    """
    table = _published()
    if model is None:
        return table.copy()
    kept = table[table["model"] == model]
    if preset := preset_of(model):
        kept = table[table["preset"] == preset]
    if kept.empty:
        names = table["preset"].where(table["preset"] != "", table["model"])
        raise choices("published model", model, names.unique())
    return kept.reset_index(drop=True)


@cache
def _published() -> pd.DataFrame:
    table = pd.read_csv(paths.package_file("published_dysem.csv"), dtype={"table": str})
    table = table.rename(columns={"Avg": AVERAGE}).fillna({"prompt": "", "vector": ""})
    table.insert(3, "preset", table["model"].map(preset_of))
    prompt = table.pop("prompt").str.partition(" / ")
    templates = {"none": "none", **{method: name for name, method in BASELINES.items()}}
    table.insert(5, "template", prompt[0].map(templates).fillna(""))
    table.insert(6, "setting", prompt[2])
    long = table.melt(
        id_vars=[name for name in table if name not in (*N_PAIRS, AVERAGE)],
        var_name="task",
        value_name="score",
        ignore_index=False,
    ).sort_index(kind="stable", ignore_index=True)
    copied = long["method"].isin(SENTEVAL_METHODS) & (long["task"] == "SICKR")
    n_pairs = long["task"].map(N_PAIRS).mask(copied, SENTEVAL_SICKR)
    whole = n_pairs.groupby(long.index // (len(N_PAIRS) + 1)).transform("sum")
    return long.assign(n_pairs=n_pairs.fillna(whole).astype(int))


def published_cp(table: str | None = None) -> pd.DataFrame:
    """Return the numbers of Tables 3 to 6 of CP (arXiv 2505.12831), all of LLaMA2-7B or trained.

    Args:
        table: "3" (cost), "4" (auxiliary prompts), "5" (positions), "6" (transfer); None is all.

    Returns:
        ``source``, ``table``, ``method``, ``model``, ``setting``, ``task``, ``metric``, ``value``,
        ``delta`` (to the row without CP, as printed), ``note``.

    Raises:
        InputError: A table that the paper does not have.
    """
    rows = pd.read_csv(paths.package_file("published_cp.csv"), dtype={"table": str})
    if table is None:
        return rows
    if table not in set(rows["table"]):
        raise choices("table of CP", table, sorted(set(rows["table"])))
    return rows[rows["table"] == table].reset_index(drop=True)


def main_results(
    study: Study,
    languages: Sequence[str] | pd.DataFrame | None = None,
    m: int | None = None,
    *,
    rows: Sequence[DySemRow] | None = None,
    k: int | float = 1024,
    baselines: Sequence[str] = tuple(BASELINES),
    preset: str | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Score the methods of the paper's main results on every task, and on their average.

    Mean pooling and the one-word prompts are plain cosines in English on all d dimensions. DySem is
    on A^L with the study's first template; a task that has fewer than m languages uses those that
    it has. STS12 to STS16 have English only: there m is 1, and all rows of DySem are the same.

    Args:
        study: Model, tasks and languages.
        languages: The order in which they are added, or an order for each task and setting as
            `dysem_lab.questions.languages.table` ranks them; None is the study's.
        m: The first so many of them; None is all that a task has.
        rows: DySem's rows, such as from `paper_settings`; None is each prompt setting with each
            semantic vector and this `m`.
        k: Dimensions per text, or fraction of d.
        baselines: Templates of the plain cosines; "none" is mean pooling.
        preset: Which of the paper's models this is; None tells by its name.
        seed: Of the bootstraps.

    Returns:
        One row per task and method with ``model``, ``preset`` (empty for other models), ``task``,
        ``method``, ``template``, ``setting``, ``vector``, ``origin``, ``k`` (as a number of
        dimensions), ``m``, ``languages`` (joined by "/"), ``note``, and the columns of
        `dysem_lab.evaluate.score`. With several tasks, a last block has the task "Avg.":
        `average_score` over the tasks that every method has a score for.

    Raises:
        InputError: A preset, language, template, m or k that does not exist, or a preset whose
            model has another size than this one.

    Source: DySem Tables 1 and 2.
    """
    if rows is None:
        settings = product(study.settings, VECTORS)
        rows = [DySemRow(setting, vector, m) for setting, vector in settings]
    elif m is not None:
        raise InputError(f"m={m} and rows that have their own m exclude each other; give one")
    for row in rows:
        if row.m is not None and (isinstance(row.m, bool) or row.m < 1):
            raise InputError(f"m must be a number of languages, at least 1, got {row.m!r}")
    preset = preset_of(study.model.name) if preset is None else preset
    if preset:
        check_preset(study, preset)
    results: list[dict[str, object]] = []
    measured: list[list[tuple[Scores, Scores]]] = []  # [task][method]
    for task, data in study.data.items():
        cells = [
            *(_baseline(study, task, template) for template in baselines),
            *(_dysem(study, task, _order(study, languages, task, row), row, k) for row in rows),
        ]
        measured.append([(similarity, data.gold) for _, similarity, _ in cells])
        place = {"model": study.model.name, "preset": preset, "task": paper_task(data)}
        for labels, similarity, n_dims in cells:
            results.append({**place, **labels, **score(similarity, data.gold, n_dims, seed=seed)})
    table = pd.DataFrame(results)
    if len(study.data) > 1:
        table = pd.concat([table, _averages(table, measured, seed)], ignore_index=True)
    return table.astype({"k": "Int64", "m": "Int64"})


def check_preset(study: Study, preset: str) -> None:
    """Raise `InputError` where a study's model cannot be the preset, by its depth and width."""
    facts = _settings(preset).iloc[0]
    if (study.model.n_layers, study.model.d_model) != (facts["n_layers"], facts["d_model"]):
        raise InputError(
            f"{study.model.name} with L={study.model.n_layers}, d={study.model.d_model} is not "
            f"{preset}, which has L={facts['n_layers']}, d={facts['d_model']}; leave the preset out"
        )


def paper_task(data: STSData) -> str:
    """Return the task that pairs are the test set of, as the paper's tables name it.

    "STSB test" is "STSB"; "STSB dev" and "demo" stay as they are, since no published number is
    about them.
    """
    task, _, split = data.name.partition(" ")
    return task if task in TASKS and split == "test" else data.name


def _baseline(study: Study, task: str, template: str) -> Cell:
    """Return the plain cosine of one template's vectors in English."""
    if template not in BASELINES:
        raise choices("template of a baseline", template, BASELINES)
    component = "mean" if template == "none" else "final"
    x = study.vectors(task, component, template=template, setting="english", languages=["en"])[:, 0]
    n_pairs, d_model = len(x) // 2, x.shape[1]
    everything = torch.ones(n_pairs, d_model, dtype=torch.bool)
    labels: dict[str, object] = {"method": BASELINES[template], "template": template}
    labels |= {"setting": "", "vector": "", "origin": "", "k": None, "m": None}
    labels |= {"languages": "en", "note": ""}
    return labels, joint_cosine(x[:n_pairs], x[n_pairs:], everything), d_model


def _order(
    study: Study, languages: Sequence[str] | pd.DataFrame | None, task: str, row: DySemRow
) -> list[str]:
    """Return a task's languages in the order in which they are added; English if none is left."""
    there = study.task_languages(task)
    if languages is None:
        return there
    if isinstance(languages, pd.DataFrame):
        place = (languages["task"] == task) & (languages["setting"] == row.setting)
        return languages[place].sort_values("rank")["language"].tolist()
    order = names_of(languages, "language")
    for code in order:
        if code not in study.languages:
            raise choices("language of this study", code, study.languages)
    return [code for code in order if code in there] or ["en"]


def _dysem(study: Study, task: str, order: list[str], row: DySemRow, k: int | float) -> Cell:
    """Return DySem on A^L with the first m languages of an order."""
    wanted = len(order) if row.m is None else row.m
    m = min(wanted, len(order))
    x = study.vectors(task, "attn", setting=row.setting, languages=order[:m])
    source = study.vectors(task, "attn", setting=row.setting, languages=["en"])[:, 0]
    (result,) = sweep(x, source, [k], [m], [row.vector]).values()
    note = ""
    if study.task_languages(task) == ["en"]:
        note = "English only, so m = 1"
    elif m < wanted:
        note = f"m = {m} in place of {wanted}, for want of languages"
    labels = {"method": "DySem", "template": study.templates[0], **row._asdict()}
    labels |= {
        "k": resolve_k(k, x.shape[-1]),
        "m": m,
        "languages": "/".join(order[:m]),
        "note": note,
    }
    return labels, result.similarity, float(result.sizes.double().mean())


def _averages(
    table: pd.DataFrame, measured: Sequence[Sequence[tuple[Scores, Scores]]], seed: int
) -> pd.DataFrame:
    """Return one row per method over the tasks that every method has a score for."""
    tasks, kept = list(dict.fromkeys(table["task"])), averaged_tasks(table)
    left_out = [task for task in tasks if task not in kept]
    note = f"without {', '.join(left_out)}, where a method has no score" if left_out else ""
    rows = []
    for i in range(len(measured[0])):
        parts = table.iloc[i :: len(measured[0])]
        # What differs between the tasks, such as the number of languages, is left blank.
        blank = {"k": None, "m": None}
        labels = {
            name: parts[name].iloc[0]
            if parts[name].nunique(dropna=False) == 1
            else blank.get(name, "")
            for name in LABELS
        }
        used = [methods[i] for task, methods in zip(tasks, measured, strict=True) if task in kept]
        n_dims = parts.loc[parts["task"].isin(kept), "n_dims"].mean()
        average = average_score(used, n_dims, seed=seed)
        rows.append({**labels, "task": AVERAGE, "note": note, **average})
    return pd.DataFrame(rows)


def averaged_tasks(table: pd.DataFrame) -> list[str]:
    """Return the tasks that the average of a table of results is over: those without a NaN."""
    parts = table[table["task"] != AVERAGE]
    whole = parts["spearman"].notna().groupby(parts["task"], sort=False).all()
    return whole.index[whole].tolist()


def comparison(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of results with the published numbers beside them.

    The published average is over the same tasks: the printed one for all seven, else the mean of
    the printed scores.

    Args:
        table: From `main_results`.

    Returns:
        The table with ``reproduced`` for ``spearman``, and with ``published``, ``difference``
        (reproduced − published), ``published_dims``, ``published_pairs`` (of the paper's set) and
        ``published_vector`` ("unspecified" in Table 5). All are NaN where the paper has no number;
        `remarks` says so in words.
    """
    keys = ["method", "template", "setting", "task"]
    columns = {"score": "published", "dims": "published_dims", "n_pairs": "published_pairs"}
    columns["vector"] = "published_vector"
    preset = table["preset"].iloc[0]
    known = published(preset) if preset else published().iloc[:0]
    known = _same_average(known, averaged_tasks(table))[[*keys, *columns]].rename(columns=columns)
    result = table.rename(columns={"spearman": "reproduced"})
    result = result.merge(known, how="left", on=keys, validate="many_to_one")
    same = (result["vector"] == result["published_vector"]) | (result["vector"] == "")
    same |= result["published_vector"] == UNSTATED
    result[list(columns.values())] = result[list(columns.values())].where(same)
    difference = result["reproduced"] - result["published"]
    result.insert(result.columns.get_loc("published") + 1, "difference", difference)
    return result


def _same_average(known: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """Return published scores with averages over these tasks, or none if one is not published."""
    if set(tasks) == set(N_PAIRS):
        return known
    scores = known[known["task"] != AVERAGE]
    if not set(tasks) <= set(N_PAIRS):
        return scores
    rest = [name for name in known if name not in ("task", "score", "n_pairs")]
    parts = scores[scores["task"].isin(tasks)].groupby(rest, sort=False, as_index=False)
    averages = parts.agg({"score": "mean", "n_pairs": "sum"}).assign(task=AVERAGE)
    return pd.concat([scores, averages], ignore_index=True)


def remarks(compared: pd.DataFrame) -> list[str]:
    """Return what a reader of a comparison must know besides its numbers, one sentence each.

    Args:
        compared: From `comparison`.
    """
    sentences = []
    preset = compared["preset"].iloc[0]
    tasks = compared[compared["task"] != AVERAGE]
    unknown = [task for task in tasks["task"].unique() if task not in N_PAIRS]
    if not preset:
        sentences.append(
            f"No published number exists for {compared['model'].iloc[0]}: the DySem paper is about "
            f"{', '.join(presets()['preset'].unique())}."
        )
    elif unknown:
        sentences.append(
            f"No published number exists for {', '.join(unknown)}: the DySem paper reports the "
            f"test sets of {', '.join(N_PAIRS)}."
        )
    both = tasks.dropna(subset=["published"]).drop_duplicates("task")
    fewer = [
        f"{row.task} {n_pairs:,} of {row.published_pairs:,.0f}"
        for row in both.itertuples()
        if (n_pairs := row.n_pairs + row.n_undefined) != row.published_pairs
    ]
    if fewer:
        sentences.append(f"Not all of the paper's pairs are here: {', '.join(fewer)}.")
    ks = compared.dropna(subset=["k", "published"])["k"].unique()
    paper_k = _settings(preset)["k"].iloc[0] if preset else None
    sentences += [f"k is {k} here, {paper_k} in the paper." for k in ks if k != paper_k]
    stated = compared.dropna(subset=["published"])
    stated = stated[(stated["method"] == "DySem") & (stated["published_vector"] != UNSTATED)]
    if len(stated):
        ms = [f"{row.m} ({row.setting}, {row.vector})" for row in _settings(preset).itertuples()]
        sentences.append(f"In the paper, m is {' and '.join(ms)} in every task.")
    if "SICKR" in set(both["task"]):
        sentences.append(
            f"The published SICK-R, and averages with it, have {N_PAIRS['SICKR']:,} pairs (MTEB), "
            f"not the {SENTEVAL_SICKR:,} of SentEval."
        )
    if (compared["published_vector"] == UNSTATED).any():
        sentences.append(
            "For this template the paper does not say which semantic vector and how many languages "
            "its DySem rows have (Table 5); each of ours stands beside the same number."
        )
    for note, part in compared[compared["note"] != ""].groupby("note", sort=False):
        sentences.append(f"{', '.join(part['task'].unique())}: {note}.")
    return sentences
