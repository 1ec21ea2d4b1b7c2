"""The leaderboard as a figure, score beside cost, and as one line."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dysem_lab.analyses.leaderboard import LEARNED
from dysem_lab.questions.published import AVERAGE
from dysem_lab.questions.style import PALETTE, SCORE, error_bar, layout

# Systems that begin with a name have its colour.
FAMILIES = {
    "mean pooling": PALETTE[6],
    "VA": PALETTE[5],
    "WVA": PALETTE[5],
    "AlignedWVA": PALETTE[5],
    "Echo": PALETTE[4],
}
GROUPS = {
    "DySem": (" DySem", PALETTE[0]),
    "Contrastive Prompting": (" + CP", PALETTE[2]),
    "Token Prepending": (" + TP", PALETTE[3]),
}
GROUP_NAMES = {PALETTE[6]: "mean pooling", PALETTE[5]: "value aggregation", PALETTE[4]: "Echo"}
PROMPT = ("one-word prompt", PALETTE[1])
TRAINED_GROUP = ("trained", "#000000")


def group_of(method: str, kind: str) -> tuple[str, str]:
    """Return the family of a system, and its colour."""
    if kind == LEARNED:
        return TRAINED_GROUP
    for name, (mark, colour) in GROUPS.items():
        if mark in method:
            return name, colour
    colour = FAMILIES.get(method, "")
    return (GROUP_NAMES[colour], colour) if colour else PROMPT


def frontier(table: pd.DataFrame) -> pd.Series:
    """Return which systems no cheaper one beats: none is faster and scores as much.

    Args:
        table: One task of `dysem_lab.score_systems`.
    """
    ordered = table.sort_values(["seconds", "spearman"], ascending=[True, False])
    best = ordered["spearman"].cummax()
    first = (ordered["spearman"] == best) & ~best.duplicated()
    return first.reindex(table.index) & table["spearman"].notna() & table["seconds"].notna()


def _overall(table: pd.DataFrame) -> pd.DataFrame:
    """Return the average, or the only task, best score last."""
    task = AVERAGE if AVERAGE in set(table["task"]) else table["task"].iloc[0]
    kept = table[(table["task"] == task) & table["spearman"].notna()]
    return kept.sort_values("spearman", kind="stable").reset_index(drop=True)


def leaderboard_figure(table: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return one row per system: its score with the interval, and its seconds per 1,000 texts.

    A ring marks the systems without training that no faster one of them beats.

    Args:
        table: From `dysem_lab.score_systems`.
        measured_on: From `dysem_lab.questions.style.facts`.
    """
    rows = _overall(table)
    rows["efficient"] = frontier(rows[rows["kind"] != LEARNED]).reindex(
        rows.index, fill_value=False
    )
    groups = [group_of(*row) for row in rows[["method", "kind"]].itertuples(index=False)]
    rows["group"], rows["colour"] = zip(*groups, strict=True) if groups else ((), ())
    figure = make_subplots(
        1, 2, shared_yaxes=True, column_widths=[0.6, 0.4], horizontal_spacing=0.03
    )
    labels = rows["method"].tolist()
    figure.update_yaxes(categoryorder="array", categoryarray=labels, automargin=True)
    for (name, colour), part in rows.groupby(["group", "colour"], sort=False):
        common = {"legendgroup": name, "name": name, "y": part["method"]}
        figure.add_scatter(
            x=part["spearman"],
            error_x=error_bar(part["spearman"], part["low"], part["high"]),
            mode="markers",
            marker={
                "color": colour,
                "size": 10,
                "line": {"color": "black", "width": 2.5 * part["efficient"]},
            },
            customdata=part[["n_dims", "passes", "blocks", "low", "high"]],
            hovertemplate=(
                "%{y}: %{x:.1f} [%{customdata[3]:.1f}, %{customdata[4]:.1f}]<br>"
                "#Dim. %{customdata[0]:.0f}, %{customdata[1]} passes, %{customdata[2]} blocks"
                "<extra></extra>"
            ),
            **common,
            row=1,
            col=1,
        )
        figure.add_bar(
            x=part["seconds"],
            orientation="h",
            marker_color=colour,
            text=[f"{seconds:.0f}" for seconds in part["seconds"]],
            textposition="outside",
            cliponaxis=False,
            showlegend=False,
            hovertemplate="%{y}: %{x:.1f} s per 1,000 texts<extra></extra>",
            **common,
            row=1,
            col=2,
        )
    task = rows["task"].iloc[0] if len(rows) else ""
    figure.update_xaxes(title=f"{SCORE}, {task}", row=1, col=1)
    longest = rows["seconds"].max() if len(rows) else 1.0
    scale = {"type": "log", "dtick": 1, "range": [0, np.log10(max(longest, 10) * 2.2)]}
    figure.update_xaxes(title="seconds per 1,000 texts (log scale)", row=1, col=2, **scale)
    title = "What each method scores, and what it costs"
    figure = layout(figure, title, measured_on, 26 * len(rows) + 230)
    legend = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "yref": "paper"}
    return figure.update_layout(legend=legend, margin_t=figure.layout.margin.t + 40)


def leaderboard_caption(table: pd.DataFrame) -> str:
    """Return one line with the best system, the best that is not trained, and what it costs."""
    rows = _overall(table)
    if rows.empty:
        return f"{SCORE}: no system has a score."
    free = rows[rows["kind"] != LEARNED]
    over = rows["task"].iloc[0]
    n_tasks = table.loc[table["task"] != AVERAGE, "task"].nunique()
    over = f"mean of {n_tasks} tasks" if over == AVERAGE else over

    def told(row: pd.Series) -> str:
        seconds = "" if np.isnan(row["seconds"]) else f", {row['seconds']:.0f} s per 1,000 texts"
        return (
            f"{row['method']} {row['spearman']:.1f} [{row['low']:.1f}, {row['high']:.1f}]{seconds}"
        )

    parts = [f"best without training is {told(free.iloc[-1])}"] if len(free) else []
    if len(learned := rows[rows["kind"] == LEARNED]):
        parts.append(f"best trained is {told(learned.iloc[-1])}")
    if len(free) and free["seconds"].notna().any():
        fastest = free.loc[free["seconds"].idxmin()]
        parts.append(f"fastest without training is {told(fastest)}")
    kept = free[frontier(free)]
    if len(kept):
        parts.append(f"no faster one of these beats {', '.join(kept['method'])}")
    missing = sorted(set(table["method"]) - set(rows["method"]))
    if missing:
        parts.append(f"not scored: {', '.join(missing)}")
    if rows["n_timed"].notna().any():
        parts.append(f"timed on {rows['n_timed'].max():.0f} texts")
    return f"{SCORE}, {over}, of {len(rows)} systems: {'; '.join(parts)}."
