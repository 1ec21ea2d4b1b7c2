"""The main results as a table with the published one below it, and as one line."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dysem_lab.analyses.published import (
    AVERAGE,
    N_PAIRS,
    SENTEVAL_SICKR,
    comparison,
    published,
    remarks,
)
from dysem_lab.prompts import TEMPLATE_NAMES
from dysem_lab.questions.style import SCORE, layout

WIDTH, COLUMN, CHARACTER = 960, 110, 6.9  # in px: the table, a column at most, a letter
TITLE, HEADER, ROW, TALL_ROW, NOTE = 38, 30, 24, 42, 19  # heights in px
NOTE_WIDTH = 150  # characters of a line of notes
INK, LINE, SHADE = "#2a3f5f", "#dfe4ea", "#e8eef4"
SMALL = "<span style='font-size:10px;color:#555555'>{}</span>"
LEGEND = (
    f"{SCORE}. Bold is the best of a column, underlined the second best; ties share the mark. "
    "In small type: 95 % bootstrap interval."
)
SENTEVAL_MARK = "†"


class Block(NamedTuple):
    """One table of the figure.

    Attributes:
        title: Line above it.
        columns: Header → texts of its cells; the first column has the rows' labels.
        row_height: In px.
    """

    title: str
    columns: dict[str, list[str]]
    row_height: int

    @property
    def n_rows(self) -> int:
        """Number of rows under the header."""
        return len(next(iter(self.columns.values())))

    @property
    def height(self) -> int:
        """Height of title, header and rows in px."""
        return TITLE + HEADER + self.row_height * self.n_rows

    @property
    def label_width(self) -> float:
        """Width of the first column in px."""
        labels = next(iter(self.columns.values()))
        return 20 + CHARACTER * max(len(text.partition("<br>")[0]) for text in labels)


def marks(scores: Sequence[float]) -> list[str]:
    """Return "best", "second" or "" for each score, as it is seen: at two decimals.

    Equal scores share a mark; NaN has none.
    """
    seen = [round(value, 2) for value in scores]
    best = sorted({value for value in seen if not np.isnan(value)}, reverse=True)[:2]
    names = dict(zip(best, ("best", "second"), strict=False))
    return [names.get(value, "") for value in seen]


def _marked(scores: Sequence[float]) -> list[str]:
    tags = {"best": "<b>{}</b>", "second": "<u>{}</u>", "": "{}"}
    return [
        "–" if np.isnan(value) else tags[mark].format(f"{value:.2f}")
        for value, mark in zip(scores, marks(scores), strict=True)
    ]


def _measured(table: pd.DataFrame) -> Block:
    """Return our rows, each score with its interval."""
    tasks = {name: part for name, part in table.groupby("task", sort=False)}
    whole = tasks.get(AVERAGE, next(iter(tasks.values())))
    columns = {"Method": [_label(row) for row in whole.to_dict("records")]}
    for task, part in tasks.items():
        columns[task] = [
            text + ("" if np.isnan(low) else "<br>" + SMALL.format(f"[{low:.1f}, {high:.1f}]"))
            for text, low, high in zip(
                _marked(part["spearman"].tolist()), part["low"], part["high"], strict=True
            )
        ]
    ms = [part["m"].tolist() for part in tasks.values()]
    columns["m"] = [_span(row) for row in zip(*ms, strict=True)]
    columns["#Dim."] = [f"{dims:.0f}" for dims in whole["n_dims"]]
    return Block("Measured here", columns, TALL_ROW)


def _label(row: dict[str, str]) -> str:
    if row["method"] != "DySem":
        return row["method"]
    template = row["template"]
    prompt = "" if template == "prompteol" else TEMPLATE_NAMES.get(template, template)
    small = ", ".join(part for part in (prompt, row["origin"]) if part)
    label = f"DySem, {row['setting']}, {row['vector']}"
    return label + (f"<br>{SMALL.format(small)}" if small else "")


def _span(ms: Sequence[object]) -> str:
    """Return the numbers of languages that a row has in the tasks."""
    known = sorted({int(m) for m in ms if not pd.isna(m)})  # type: ignore[call-overload]
    return "" if not known else "–".join(map(str, dict.fromkeys((known[0], known[-1]))))


def _published(preset: str) -> Block:
    """Return the paper's rows of one model."""
    table = published(preset)
    rows = table.pivot(
        index=["table", "method", "template", "setting", "vector", "dims"],
        columns="task",
        values=["score", "n_pairs"],
    ).reset_index()
    order = ["table", "method", "template", "setting"]
    first = table.drop_duplicates(order)[order].reset_index(drop=True)
    rows = first.merge(rows.set_axis(rows.columns.map("".join), axis=1), on=order)
    columns = {"Method": [_published_label(row) for row in rows.to_dict("records")]}
    senteval = rows["n_pairsSICKR"] == SENTEVAL_SICKR
    for task in (*N_PAIRS, AVERAGE):
        texts = _marked(rows[f"score{task}"].tolist())
        if task in ("SICKR", AVERAGE):
            texts = [text + SENTEVAL_MARK * old for text, old in zip(texts, senteval, strict=True)]
        columns[task] = texts
    columns["#Dim."] = [f"{dims:.0f}" for dims in rows["dims"]]
    title = f"Published for {preset}: DySem, arXiv 2605.29751v1, Tables 1, 2 and 5"
    if senteval.any():
        title += (
            f"   ({SENTEVAL_MARK} SICK-R of {SENTEVAL_SICKR:,} pairs, "
            f"the others of {N_PAIRS['SICKR']:,})"
        )
    return Block(title, columns, ROW)


def _published_label(row: dict[str, str]) -> str:
    prompt = TEMPLATE_NAMES.get(row["template"], "") if row["table"] == "5" else ""
    vector = row["vector"] if row["method"] == "DySem" and not prompt else ""
    prompt = "" if prompt == row["method"] else prompt
    return ", ".join(part for part in (row["method"], prompt, row["setting"], vector) if part)


def main_results_figure(table: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return our rows as a table, with the published rows of this model below where there are any.

    Args:
        table: From `dysem_lab.analyses.published.main_results`.
        measured_on: From `dysem_lab.questions.style.facts`.

    Source: DySem Tables 1 and 2.
    """
    preset = table["preset"].iloc[0]
    blocks = [_measured(table), *([_published(preset)] if preset else [])]
    sentences = [LEGEND, *remarks(comparison(table))]
    notes = [line for text in sentences for line in textwrap.wrap(text, NOTE_WIDTH)]
    figure = go.Figure()
    top = 0
    for block in blocks:
        _draw(figure, block, top)
        top += block.height
    figure.add_annotation(
        text="<br>".join(notes),
        **{"x": 0, "xanchor": "left", "y": top + 10, "yanchor": "top", "align": "left"},
        **{"showarrow": False, "font_size": 12},
    )
    inside = top + 20 + NOTE * len(notes)
    figure = layout(figure, "Main results", measured_on, 100)
    height = inside + figure.layout.margin.t
    # One unit of the axes is one px, so that no text can meet another.
    hidden = {"visible": False, "fixedrange": True}
    figure.update_xaxes(range=[0, WIDTH], **hidden)
    figure.update_yaxes(range=[inside, 0], **hidden)
    margin = {"l": 20, "r": 20, "b": 0}
    return figure.update_layout(height=height, title_y=1 - 32 / height, margin=margin)


def _draw(figure: go.Figure, block: Block, top: int) -> None:
    """Draw one table with its upper edge at a height, in px."""
    label, *others = block.columns
    left = block.label_width
    width = min((WIDTH - left) / len(others), COLUMN)
    right = left + width * len(others)
    head = top + TITLE
    middles = [head + HEADER + block.row_height * (row + 0.5) for row in range(block.n_rows)]
    across = {"x0": 0, "x1": right, "layer": "below"}
    figure.add_shape(
        type="rect", y0=head, y1=head + HEADER, fillcolor=SHADE, line_width=0, **across
    )
    for middle in middles:
        edge = middle + block.row_height / 2
        figure.add_shape(type="line", y0=edge, y1=edge, line_color=LINE, line_width=1, **across)
    titles = {"x": [0], "y": [top + TITLE / 2], "text": [f"<b>{block.title}</b>"]}
    common = {"mode": "text", "hoverinfo": "skip", "showlegend": False, "cliponaxis": False}
    common["textfont"] = {"size": 13, "color": INK}
    figure.add_scatter(**titles, textposition="middle right", **common)
    for i, name in enumerate(block.columns):
        x = 4 if name == label else left + width * (i - 0.5)
        figure.add_scatter(
            x=[x] * (1 + block.n_rows),
            y=[head + HEADER / 2, *middles],
            text=[f"<b>{name}</b>", *block.columns[name]],
            textposition="middle right" if name == label else "middle center",
            **common,
        )


def main_results_caption(table: pd.DataFrame) -> str:
    """Return one line with the numbers that matter of a table of main results."""
    task = AVERAGE if AVERAGE in set(table["task"]) else table["task"].iloc[0]
    compared = comparison(table)
    part = compared[compared["task"] == task]
    n_tasks = table.loc[table["task"] != AVERAGE, "task"].nunique()
    what = f"mean of {n_tasks} tasks" if task == AVERAGE else task
    scores = [
        f"{row.method} {row.reproduced:.1f}" for row in part.itertuples() if row.method != "DySem"
    ]
    if len(dysem := part.loc[part["method"] == "DySem", "reproduced"]):
        scores.append(f"DySem {dysem.min():.1f} to {dysem.max():.1f}")
    scored = part.dropna(subset=["reproduced"])
    if scored.empty:
        return f"{SCORE}, {what}: no method has a score."
    best = scored.loc[scored["reproduced"].idxmax()]
    label = _label(best.to_dict()).partition("<br>")[0]
    languages = "" if pd.isna(best["m"]) else f", m = {best['m']}"
    line = (
        f"{SCORE}, {what}: {', '.join(scores)}; best is {label} with {best['reproduced']:.1f} "
        f"[{best['low']:.1f}, {best['high']:.1f}] on {best['n_dims']:.0f} dimensions{languages}."
    )
    gaps = part["difference"].dropna()
    if gaps.empty:
        return f"{line} No published number to compare with."
    return (
        f"{line} {len(gaps)} rows have a published number; differences to it "
        f"{gaps.min():+.1f} to {gaps.max():+.1f}."
    )
