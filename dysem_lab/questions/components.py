"""Attention, FFN or the whole stream? Notebook 03."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import plotly.graph_objects as go
from torch import Tensor

from dysem_lab.evaluate import score
from dysem_lab.questions.asked import asked
from dysem_lab.questions.finding import Facts, Finding, facts_of
from dysem_lab.questions.grid import sweep
from dysem_lab.questions.names import SYMBOLS
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.scores import mean_size, pair_cosine
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import (
    SCORE,
    bars,
    layout,
    noted,
    over,
    rows_of,
    whiskers,
    with_average,
)

COMPONENTS = ("resid", "attn", "attn_raw", "ffn")


def components(
    study: Study,
    components: Sequence[str] = COMPONENTS,
    *,
    k: int | float = 0.25,
    seed: int = 0,
) -> Finding:
    """Score h^L, A^L and F^L in English alone: plain cosine, and DySem with m = 1.

    "attn_raw", the attention output before a post-norm, is left out where the model has none.

    Args:
        study: Its first template and first prompt setting are used.
        components: Internal vectors.
        k: Dimensions per text, or fraction of d.
        seed: Of the bootstraps.

    Returns:
        One row per task, component and ``method`` ("all dimensions", "DySem, m = 1").

    Source: DySem Figures 4 and 11.
    """
    given = asked(study, components=components, k=k, seed=seed)
    prepare(study.needs(given["components"]))
    facts = facts_of(study, template=study.templates[0], **given)
    scores = table(study, **given)
    there = list(dict.fromkeys(scores["component"]))  # a model may have no post-norm
    facts = replace(facts, settings={**facts.settings, "components": there})
    return Finding("components", scores, figure(scores, facts), caption(scores), facts)


def table(study: Study, components: Sequence[str], k: int | float, seed: int) -> pd.DataFrame:
    """Return the table of `components`."""
    rows = []
    for task, data in study.data.items():
        read = {name: study.vectors(task, name, languages=["en"]) for name in components}
        for name, vectors in read.items():
            if name == "attn_raw" and "attn" in read and _agree(vectors, read["attn"]):
                continue
            plain = pair_cosine(vectors[:, 0])
            (selected,) = sweep(vectors, vectors[:, 0], [k], [1], ["source"]).values()
            for method, similarity, dims in (
                ("all dimensions", plain, study.model.d_model),
                ("DySem, m = 1", selected.similarity, mean_size(selected.sizes)),
            ):
                result = score(similarity, data.gold, dims, seed=seed)
                rows.append({"task": task, "component": name, "method": method, **result})
    return pd.DataFrame(rows)


def _agree(a: Tensor, b: Tensor) -> bool:
    """Return whether vectors are the same up to rounding, which differs between batches."""
    return bool((a - b).norm() <= 1e-3 * b.norm())


def figure(table: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return the score of each component per task, on all dimensions and under DySem with m = 1.

    Several tasks have a panel of their average, too.
    """
    labels = {**SYMBOLS, "attn_raw": "A^L<br>before<br>post-norm"}
    table = with_average(table, ["component", "method"])
    figure = bars(table, "component", "method", "task", labels)
    figure.update_yaxes(title=SCORE, col=1)
    title = "h<sup>L</sup>, A<sup>L</sup> or F<sup>L</sup>? Each component in English"
    height = 300 * rows_of(table["task"].unique()) + 240
    return layout(figure, title, noted(facts, whiskers(table)), height)


def caption(table: pd.DataFrame) -> str:
    """Return one line with each component's average, and how often it is the best of a task."""
    mean = table.groupby(["method", "component"], sort=False)["spearman"].mean()
    parts = []
    for method in dict.fromkeys(table["method"]):
        scores = ", ".join(f"{SYMBOLS[name]} {value:.1f}" for name, value in mean[method].items())
        of_method = table[table["method"] == method]
        winners = of_method.loc[of_method.groupby("task")["spearman"].idxmax(), "component"]
        counts = winners.value_counts()
        wins = ", ".join(f"{SYMBOLS[name]} {count}" for name, count in counts.items())
        of_tasks = f"; best in tasks: {wins}" if table["task"].nunique() > 1 else ""
        parts.append(f"{method}: {scores}{of_tasks}")
    best = mean["DySem, m = 1"].idxmax()
    agrees = "as in the paper" if best == "attn" else "in the paper A^L has"
    highest = "average" if table["task"].nunique() > 1 else "score"
    lead = f"{SYMBOLS[best]} has the highest {highest} under DySem ({agrees})"
    scores = f"Spearman × 100 in English{over(table)}. {'. '.join(parts)}"
    return f"{lead}{_overlapping(table, best)}. {scores}."


def _overlapping(table: pd.DataFrame, best: str) -> str:
    """Return in words whether the interval of the best component overlaps with those of others."""
    dysem = table[table["method"] == "DySem, m = 1"]
    own = dysem[dysem["component"] == best].set_index("task")
    others = dysem[dysem["component"] != best]
    if others.empty:
        return ""
    low, high = (others["task"].map(own[end]) for end in ("low", "high"))
    met = others[(others["high"] >= low) & (others["low"] <= high)]
    if (n_tasks := table["task"].nunique()) > 1:
        n_met = met["task"].nunique()
        return f"; its 95 % interval overlaps with another's in {n_met} of {n_tasks} tasks"
    names = " and ".join(SYMBOLS[name] for name in met["component"]) or "no other"
    return f"; its 95 % interval overlaps with that of {names}"
