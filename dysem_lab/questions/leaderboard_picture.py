"""The figure and the caption of a leaderboard."""

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dysem_lab.display import amount
from dysem_lab.questions.chosen import END
from dysem_lab.questions.finding import Facts
from dysem_lab.questions.published import AVERAGE
from dysem_lab.questions.style import PALETTE, SCORE, error_bar, interval, layout

LEARNED = "trained"
OTHER = "#8C564B"  # the palette's seven are taken
# Group and colour of a system, by its name; or by a part of it that begins with a space.
GROUPS = {
    " DySem": ("DySem", PALETTE[0]),
    " + CP": ("Contrastive Prompting", PALETTE[2]),
    " + TP": ("Token Prepending", PALETTE[3]),
    " + GenEOL": ("GenEOL", OTHER),
    **dict.fromkeys(("VA", "WVA", "AlignedWVA"), ("value aggregation", PALETTE[5])),
    "mean pooling": ("mean pooling", PALETTE[6]),
    "Echo": ("Echo", PALETTE[4]),
}
PROMPT = ("one-word prompt", PALETTE[1])
CENTRED = "_centred"  # ends the short name of a system that has it
TRAINED_GROUP = ("trained", "#000000")
UNTIMED = " + ?"  # of what a time lacks: the making of renderings that are there already


def group_of(method: str, kind: str) -> tuple[str, str]:
    """Return the family of a system, and its colour."""
    if kind == LEARNED:
        return TRAINED_GROUP
    marks = (mark for mark in GROUPS if mark == method or (mark[0] == " " and mark in method))
    return GROUPS.get(next(marks, ""), PROMPT)


def frontier(table: pd.DataFrame) -> pd.Series:
    """Return which systems no cheaper one beats in one task: none is faster and scores as much."""
    ordered = table.sort_values(["seconds", "spearman"], ascending=[True, False])
    best = ordered["spearman"].cummax()
    first = (ordered["spearman"] == best) & ~best.duplicated()
    return first.reindex(table.index) & table["spearman"].notna() & table["seconds"].notna()


def _overall(table: pd.DataFrame) -> pd.DataFrame:
    """Return the average, or the only task, best score last."""
    task = AVERAGE if AVERAGE in set(table["task"]) else table["task"].iloc[0]
    kept = table[(table["task"] == task) & table["spearman"].notna()]
    return kept.sort_values("spearman", kind="stable").reset_index(drop=True)


def _split(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the systems as they are, and their rows on centred vectors, which name their system.

    A row on centred vectors whose system is not there stands for itself.
    """
    of = rows["system"].str.removesuffix(CENTRED)
    centred = rows["system"].str.endswith(CENTRED) & of.isin(rows["system"])
    own = rows[~centred].reset_index(drop=True)
    method_of = own.set_index("system")["method"]
    return own, rows[centred].assign(method=of[centred].map(method_of))


def figure(table: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return one row per system: its score with the interval, and its seconds per 1,000 texts.

    The score on centred vectors is a diamond on the row of its system.

    A ring marks the systems without training that no faster one of them beats. Times are points,
    as on a logarithmic axis the length of a bar has no meaning; a hollow one has the making of the
    renderings in it.
    """
    rows, centred = _split(_overall(table))
    rows["efficient"] = frontier(rows[rows["kind"] != LEARNED]).reindex(
        rows.index, fill_value=False
    )
    groups = list(map(group_of, rows["method"], rows["kind"]))
    rows[["group", "colour"]] = pd.DataFrame(groups, rows.index, ["group", "colour"])
    drawn = make_subplots(
        1, 2, shared_yaxes=True, column_widths=[0.6, 0.4], horizontal_spacing=0.03
    )
    rows["time"] = [_time(row) for _, row in rows.iterrows()]
    labels = rows["method"].tolist()
    drawn.update_yaxes(categoryorder="array", categoryarray=labels, automargin=True)
    in_lines = [label.replace(" (best of", "<br>(best of") for label in labels]
    row = 26 if in_lines == labels else 38
    drawn.update_yaxes(tickvals=labels, ticktext=in_lines)
    for (name, colour), part in rows.groupby(["group", "colour"], sort=False):
        common = {"legendgroup": name, "name": name, "y": part["method"]}
        drawn.add_scatter(
            x=part["spearman"],
            error_x=error_bar(part["spearman"], part["low"], part["high"]),
            mode="markers",
            marker={"color": colour, "size": 10},
            customdata=part[["n_dims", "passes", "blocks", "low", "high", "n_pairs"]],
            hovertemplate=(
                "%{y}: %{x:.1f} [%{customdata[3]:.1f}, %{customdata[4]:.1f}] on "
                "%{customdata[5]:,} pairs<br>"
                "#Dim. %{customdata[0]:.0f}, %{customdata[1]} passes, %{customdata[2]} blocks"
                "<extra></extra>"
            ),
            **common,
            row=1,
            col=1,
        )
        drawn.add_scatter(
            x=part["seconds"],
            mode="markers",
            marker={"color": colour, "size": 10},
            customdata=part[["time"]],
            showlegend=False,
            hovertemplate="%{y}: %{customdata[0]} s per 1,000 texts<extra></extra>",
            **common,
            row=1,
            col=2,
        )
    task = rows["task"].iloc[0] if len(rows) else ""
    drawn.update_xaxes(title=f"{SCORE}, {task}", row=1, col=1)
    ringed = rows[rows["efficient"]]
    if len(ringed):
        drawn.add_scatter(
            x=ringed["spearman"],
            y=ringed["method"],
            mode="markers",
            marker={"symbol": "circle-open", "color": "black", "size": 13, "line": {"width": 2.5}},
            name="ring: without training, and no faster one scores more",
            hoverinfo="skip",
            row=1,
            col=1,
        )
    if len(centred):
        drawn.add_scatter(
            x=centred["spearman"],
            y=centred["method"],
            mode="markers",
            marker={"symbol": "diamond-open", "color": "#333333", "size": 9},
            customdata=centred[["low", "high"]],
            name="diamond: its vectors centred on other texts",
            hovertemplate="%{y}, centred: %{x:.1f} [%{customdata[0]:.1f}, %{customdata[1]:.1f}]"
            "<extra></extra>",
            row=1,
            col=1,
        )
    made = rows[rows["with_renderings"] > rows["seconds"]]
    if len(made):
        drawn.add_scatter(
            x=made["with_renderings"],
            y=made["method"],
            mode="markers",
            marker={
                "color": "white",
                "size": 9,
                "line": {"color": made["colour"].tolist(), "width": 2},
            },
            name="hollow: with the making of its translations",
            hovertemplate="%{y}: %{x:.1f} s per 1,000 texts with their renderings<extra></extra>",
            row=1,
            col=2,
        )
    if any(said.endswith(UNTIMED) for said in rows["time"]):
        said = f"{UNTIMED.strip()}: its translations or paraphrases are given, and not timed"
        unseen = {"color": "rgba(0,0,0,0)"}
        drawn.add_scatter(
            x=[None], y=[labels[0]], mode="markers", marker=unseen, name=said, row=1, col=2
        )
    timed = rows[["seconds", "with_renderings"]]
    drawn.add_scatter(
        x=timed.max(axis=1),
        y=rows["method"],
        mode="text",
        text=[f"\u2002{said}" for said in rows["time"]],
        textposition="middle right",
        cliponaxis=False,
        showlegend=False,
        hoverinfo="skip",
        row=1,
        col=2,
    )
    ends = (1.0, 10.0)
    if timed.notna().any(axis=None):
        ends = (timed.min(axis=None) / 1.5, timed.max(axis=None) * 5)
    scale = {"type": "log", "dtick": 1, "range": [math.log10(end) for end in ends]}
    drawn.update_xaxes(title="seconds per 1,000 texts (log scale)", row=1, col=2, **scale)
    title = "What each method scores, and what it costs"
    return layout(drawn, title, facts, row * len(rows) + 320)


def _time(row: pd.Series) -> str:
    """Return the seconds of a system as they are said, with those that its renderings add."""
    if np.isnan(row["seconds"]):
        return ""
    added = row["with_renderings"] - row["seconds"]
    more = UNTIMED if np.isnan(added) else f" + {added:.0f}" if added else ""
    return f"{row['seconds']:.0f}{more}"


def caption(table: pd.DataFrame) -> str:
    """Return one line with the best system, the best that is not trained, and what it costs."""
    scored = _overall(table)
    rows, centred = _split(scored)
    if rows.empty:
        return f"{SCORE}: no system has a score."
    free = rows[rows["kind"] != LEARNED]
    n_tasks = table.loc[table["task"] != AVERAGE, "task"].nunique()
    over = rows["task"].iloc[0].replace(AVERAGE, f"mean of {n_tasks} tasks")

    def told(row: pd.Series) -> str:
        time = f", {_time(row)} s per 1,000 texts" if _time(row) else ""
        return f"{row['method']} {interval(row)}{time}"

    lead = ""
    if len(free) > 1:
        beaten = int((free["high"] < free["low"].iloc[-1]).sum())
        lead = (
            f"Without training {free['method'].iloc[-1]} scores most, with an interval above those "
            f"of {beaten} of {len(free) - 1} others. "
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
    parts += _choices(free)
    if len(centred):
        gains = centred.set_index("method")["spearman"] - rows.set_index("method")["spearman"]
        gains = gains.dropna()
        parts.append(
            f"centred on other texts {(gains > 0).sum()} of {len(gains)} score more, the median by "
            f"{gains.median():+.1f}, from {gains.min():+.1f} to {gains.max():+.1f} (not tested)"
        )
    missing = sorted(set(table["method"]) - set(scored["method"]))
    if missing:
        parts.append(f"not scored: {', '.join(missing)}")
    if rows["n_timed"].notna().any():
        parts.append(f"timed on {amount(rows['n_timed'].max(), 'text')}")
    if (rows["with_renderings"] != rows["seconds"])[rows["seconds"].notna()].any():
        parts.append(
            "after a + is the making of the translations or paraphrases that a system reads (? "
            "where they are of the data and not timed)"
        )
    return f"{lead}{SCORE}, {over}, of {amount(len(rows), 'system')}: {'; '.join(parts)}."


def _choices(free: pd.DataFrame) -> list[str]:
    """Return what is said of the settings that were chosen on other pairs, and how they do here."""
    if "n_tried" not in free:
        return []
    chosen = free[free["n_tried"] > 0]
    if chosen.empty:
        return ["every system is at its paper's settings, none chosen on dev pairs"]
    rest = free[free["n_tried"] == 0]
    said = []
    for _, row in chosen.iterrows():
        name = row["system"].removesuffix(END)
        family = rest[rest["system"].str.startswith(name)]  # DySem has several
        least, most = family["spearman"].min(), family["spearman"].max()
        ends = f"{least:.1f}" if len(family) == 1 else f"{least:.1f} to {most:.1f}"
        paper = f", at its paper's settings {ends}" if len(family) else ""
        said.append(
            f"{row['method']} {interval(row)} ({row['choosing_score']:.1f} where it was chosen"
            f"{paper})"
        )
    return [f"at settings chosen on other pairs {', '.join(said)}"]
