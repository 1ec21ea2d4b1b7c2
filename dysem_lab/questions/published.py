"""The numbers of the papers: DySem's Tables 1, 2 and 5 (arXiv 2605.29751v1), CP's 3 to 6."""

from functools import cache

import pandas as pd

from dysem_lab import paths
from dysem_lab.data.sts import STSData
from dysem_lab.data.sts_tasks import TASKS
from dysem_lab.errors import choices
from dysem_lab.models.loading import presets

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


def preset_of(model: str) -> str:
    """Return which of the paper's ten models a preset, hub id or name of the paper is, or ""."""
    names = presets()[["preset", "hf_id", "model"]]
    found = names[(names == model).any(axis=1)]
    return found["preset"].iloc[0] if len(found) else ""


def settings_of(preset: str) -> pd.DataFrame:
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


def paper_task(data: STSData) -> str:
    """Return the task that pairs are the test set of, as the paper's tables name it.

    "STSB test" is "STSB"; "STSB dev" and "demo" stay as they are, since no published number is
    about them.
    """
    task, _, split = data.name.partition(" ")
    return task if task in TASKS and split == "test" else data.name
