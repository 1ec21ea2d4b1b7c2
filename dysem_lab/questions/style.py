"""The common look of all figures: palette, fonts, layout, and what a figure was measured on.

Over 400 lines, as every figure draws its points, intervals, lines and texts by these functions.
"""

import html
import math
import re
from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from dysem_lab.errors import InputError
from dysem_lab.prompts import SETTINGS
from dysem_lab.questions.finding import Facts
from dysem_lab.questions.names import said
from dysem_lab.startup import import_nbformat

import_nbformat()  # before plotly does, to show a figure

# Okabe and Ito's palette: distinct under the common colour-vision deficiencies.
PALETTE = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#999999")
# Negative, zero, positive. Zero is see-through, so that it is quiet on any ground.
DIVERGING = ((0.0, PALETTE[1]), (0.5, "rgba(128,128,128,0.05)"), (1.0, PALETTE[0]))
COLOURS = {
    "all dimensions": "#999999",
    "DySem, m = 1": "#D55E00",
    "English prompts, source": "#56B4E9",
    "English prompts, mean": "#0072B2",
    "language-specific prompts, source": "#E69F00",
    "language-specific prompts, mean": "#D55E00",
    "paraphrases, source": "#CC79A7",
    "paraphrases, mean": "#009E73",
    "english": "#0072B2",
    "language-specific": "#D55E00",
    "prompteol": "#0072B2",
    "pretended_cot": "#E69F00",
    "knowledge": "#009E73",
}
OTHER_COLOUR = "#CC79A7"
METHOD_COLOURS = {  # of Contrastive Prompting, beside the plain prompt
    "plain": "#999999",
    "CP-NS": "#D55E00",
    "CP-NR": "#0072B2",
    "CP (either norm)": "#009E73",
    "CP scaled_recovering": "#E69F00",
    "CP head_recovering": "#56B4E9",
    "CP self_scaling": "#CC79A7",
}
# Losses orange, gains blue: told apart under the common colour-vision deficiencies.
GAINS = [[0, "#D55E00"], [0.5, "#FFFFFF"], [1, "#0072B2"]]
BASELINES = ("#999999", OTHER_COLOUR, "#444444")  # what is plotted beside a method
# Symbol and dash of the methods in a panel: a line that another one covers is seen through it.
APART = (("circle", "solid"), ("diamond-open", "dot"), ("square-open", "dash"))
OTHERS = "#999999"  # lines of other panels, behind a panel's own
CHANCE = "#999999"  # what random sets would give
FONTS = "Noto Sans, Noto Sans CJK SC, Noto Naskh Arabic, Noto Sans Devanagari, Arial, sans-serif"
SCORE = "Spearman × 100"
LINE = 145  # characters under a title
LOWER = 8  # pixels that plotly sets a single line under a title lower than the first of several
TITLE_LINE = 18  # pixels of a further line in the title of a panel
LEGEND = 68  # pixels from panels down to a legend: axis labels and title are between them


def layout(figure: go.Figure, title: str, facts: Facts | str, height: int) -> go.Figure:
    """Give a figure the common look, with what it was measured on under the title."""
    # The names of a model and of data come from the user.
    lines = [superscript(html.escape(line, quote=False)) for line in _lines(str(facts))]
    top, bottom = 88 + 17 * len(lines), 60
    top += LOWER * (len(lines) == 1)
    titles = [note.text for note in figure.layout.annotations if note.yanchor == "bottom"]
    top += TITLE_LINE * max((text.count("<br>") for text in titles), default=0)
    inside = max(LEGEND, height - top - bottom)
    return figure.update_layout(
        template="plotly_white",
        font={"family": FONTS, "size": 14},
        title={
            "text": title,
            "subtitle": {"text": "<br>".join(lines), "font_size": 12},
            "x": 0.01,
            "xanchor": "left",
            "y": 1 - 32 / height,
        },
        height=height,
        width=1000,
        margin={"l": 70, "r": 40, "t": top, "b": bottom},
        legend={"orientation": "h", "y": -LEGEND / inside, "x": 0, "yanchor": "top"},
    )


def _lines(text: str) -> list[str]:
    """Return a list by comma as lines of much the same length, where one is too long.

    A no-break space and what stands in brackets are not broken at.
    """
    first, *parts = re.split(r"(?<=[,;]) (?![^()]*\))", text)
    longest = min(LINE, len(text) / max(1, math.ceil(len(text) / LINE)) + 20)
    lines = [first]
    for part in parts:
        if len(lines[-1]) + 1 + len(part) <= longest:
            lines[-1] += f" {part}"
        else:
            lines.append(part)
    return lines


def with_gaps(values: Float[np.ndarray, "n m"]) -> list[list[float | None]]:
    """Return the values of a map with None for NaN: a widget's travel as JSON, which has no NaN."""
    return [[None if value != value else value for value in row] for row in values.tolist()]


def superscript(text: str) -> str:
    """Return a symbol such as A^L or W_O as plotly sets it."""
    return text.replace("^L", "<sup>L</sup>").replace("W_O", "W<sub>O</sub>")


def rgba(colour: str, alpha: float) -> str:
    """Return a hexadecimal colour with an opacity."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def error_bar(value: pd.Series, low: pd.Series, high: pd.Series) -> dict[str, object]:
    """Return the error bar from low to high around value."""
    return {
        "type": "data",
        "symmetric": False,
        "array": high - value,
        "arrayminus": value - low,
        "thickness": 1.2,
        "width": 3,
    }


def band(
    figure: go.Figure,
    x: pd.Series,
    low: pd.Series,
    high: pd.Series,
    colour: str,
    opacity: float = 0.12,
    **options: object,
) -> None:
    """Shade the interval around a line; options are the trace's, such as its row and column."""
    figure.add_scatter(
        x=[*x, *x[::-1]],
        y=[*high, *low[::-1]],
        mode="lines",
        fill="toself",
        fillcolor=rgba(colour, opacity),
        line_width=0,
        hoverinfo="skip",
        showlegend=False,
        **options,
    )


def rows_of(names: Sized, columns: int = 4) -> int:
    """Return in how many rows of panels so many names are."""
    return -(-len(names) // columns)


def panel_grid(
    names: Sequence[str], columns: int = 4
) -> tuple[go.Figure, dict[str, tuple[int, int]]]:
    """Return a figure with one panel per name, and each panel's row and column."""
    columns = min(columns, len(names))
    n_rows = rows_of(names, columns)
    figure = make_subplots(
        rows=n_rows,
        cols=columns,
        subplot_titles=names if len(names) > 1 else None,
        horizontal_spacing=0.06,
        vertical_spacing=0.3 / n_rows,
    )
    return figure, {name: (1 + i // columns, 1 + i % columns) for i, name in enumerate(names)}


def curves(
    table: pd.DataFrame,
    x: str,
    line: str,
    panel: str,
    colours: dict[str, str] | None = None,
    beside: bool = False,
) -> go.Figure:
    """Return one panel per value of a column with one line per value of another.

    Intervals are shaded where a panel has at most two lines: of more, nobody tells them apart.

    Args:
        table: Tidy scores.
        x: Column on the horizontal axis.
        line: Column that tells the lines apart.
        panel: Column that tells the panels apart.
        colours: Line → colour; None takes them from the common palette.
        beside: Whether each panel has the lines of all others behind its own, in grey.
    """
    figure, places = panel_grid(list(dict.fromkeys(table[panel])))
    for where, (row, column) in places.items() if beside else ():
        for _, part in table[table[panel] != where].groupby(line, sort=False):
            part = part.sort_values(x)
            figure.add_scatter(
                x=part[x],
                y=part["spearman"],
                mode="lines",
                line={"color": rgba(OTHERS, 0.5), "width": 1},
                hoverinfo="skip",
                showlegend=False,
                row=row,
                col=column,
            )
    shaded = table.groupby(panel)[line].nunique().max() <= 2
    for i, (name, group) in enumerate(table.groupby(line, sort=False)):
        colour = (colours or COLOURS).get(name, PALETTE[i % len(PALETTE)])
        for position, (where, part) in enumerate(group.groupby(panel, sort=False)):
            row, column = places[where]
            part = part.sort_values(x)
            of_line = {"legendgroup": name, "row": row, "col": column}
            if shaded:
                band(figure, part[x], part["low"], part["high"], colour, 0.09, **of_line)
            figure.add_scatter(
                x=part[x],
                y=part["spearman"],
                mode="lines+markers",
                marker_size=5,
                line_color=colour,
                name=superscript(str(name)),
                showlegend=position == 0,
                customdata=part[["n_dims", "low", "high"]],
                hovertemplate="%{x}: %{y:.2f} [%{customdata[1]:.1f}, %{customdata[2]:.1f}]"
                "<br>#Dim. %{customdata[0]:.0f}",
                **of_line,
            )
    return figure


def bars(
    table: pd.DataFrame,
    x: str,
    colour: str,
    panel: str,
    labels: dict[str, str] | None = None,
    colours: dict[str, str] | None = None,
    text: str | None = None,
) -> go.Figure:
    """Return grouped bars with intervals, one panel per value of a column.

    Args:
        table: Tidy scores.
        x: Column on the horizontal axis.
        colour: Column that tells the bars of a group apart.
        panel: Column that tells the panels apart.
        labels: Names to show for the values of `x` and `colour`.
        colours: Value of `colour` → colour; None takes them from the common palette.
        text: Column with what is written in the middle of each bar.
    """
    shown = labels or {}
    panels = list(dict.fromkeys(table[panel]))
    figure, places = panel_grid(panels, columns=4 if table[x].nunique() < 5 else 1)
    for i, (name, group) in enumerate(table.groupby(colour, sort=False)):
        for position, (where, part) in enumerate(group.groupby(panel, sort=False)):
            row, column = places[where]
            figure.add_bar(
                x=[superscript(shown.get(value, str(value))) for value in part[x]],
                y=part["spearman"],
                name=superscript(shown.get(name, str(name))),
                legendgroup=name,
                showlegend=position == 0,
                marker_color=(colours or COLOURS).get(name, PALETTE[i % len(PALETTE)]),
                error_y={
                    **error_bar(part["spearman"], part["low"], part["high"]),
                    "color": "#333333",
                    "width": 2,
                },
                text=None if text is None else part[text],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                customdata=part["n_dims"],
                hovertemplate="%{y:.2f}<br>#Dim. %{customdata:.0f}",
                row=row,
                col=column,
            )
    low = float(np.nanmin([table["low"].min(), table["spearman"].min()]))
    figure.update_yaxes(range=[min(0.0, 1.05 * low), 1.05 * float(table["high"].max())])
    return figure


def prompts_said(setting: str) -> str:
    """Return a prompt setting in words; what stands in the place of one is left as it is."""
    return said("setting", setting) if setting in SETTINGS else setting


def named_settings(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a ``method`` of prompt setting and vector."""
    return table.assign(method=table["setting"].map(prompts_said) + ", " + table["vector"])


def noted(facts: Facts | str, *notes: str) -> str:
    """Return what a figure was measured on, and after it what its marks are."""
    return ", ".join([str(facts), *filter(None, notes)])


def whiskers(table: pd.DataFrame, mark: str = "whiskers") -> str:
    """Return what the marks of `low` and `high` are; an average of tasks has no interval here."""
    without = " (an average has none)" if "average" in set(table.get("task", ())) else ""
    return f"{mark}: 95 % bootstrap intervals{without}"


def interval(
    row: Mapping[Any, Any] | pd.Series,
    value: str = "spearman",
    bounds: Sequence[str] = ("low", "high"),
    of: str = ".1f",
) -> str:
    """Return a value of a row with its interval, written as `of` says; a sign is the value's."""
    low, high = (f"{row[name]:{of.lstrip('+')}}" for name in bounds)
    return f"{row[value]:{of}} [{low}, {high}]"


def gained(row: pd.Series) -> str:
    """Return a gain over the plain prompt with its interval."""
    return interval(row, "gain", ("gain_low", "gain_high"), "+.2f")


def best(table: pd.DataFrame) -> pd.Series:
    """Return the row with the highest score."""
    return table.loc[table["spearman"].idxmax()]


def over(table: pd.DataFrame) -> str:
    """Return how many tasks a mean is over, where it is over several."""
    n_tasks = table["task"].nunique()
    return "" if n_tasks == 1 else f", mean over {n_tasks} tasks"


def one_task(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table, once it is known to be of one task."""
    return one_of_each(table, "task")


def one_of_each(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Return the table, once it is known that each of the columns has one value."""
    for column in columns:
        if (n_values := table[column].nunique()) != 1:
            raise InputError(
                f"this figure is for one {column}, but the table has {n_values}; choose one: "
                f"table[table[{column!r}] == value]"
            )
    return table


def with_average(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the table with the mean over its tasks as one more, where every task has a score."""
    n_tasks = table["task"].nunique()
    if n_tasks == 1:
        return table
    scored = table[table["spearman"].notna()]
    of_all = scored.groupby(list(by))["task"].transform("nunique") == n_tasks
    return pd.concat([table, average(scored[of_all], by)], ignore_index=True)


def average(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the mean score over tasks for each combination of columns."""
    mean = table.groupby(list(by), sort=False, as_index=False)[["spearman", "n_dims"]].mean()
    return mean.assign(task="average", low=np.nan, high=np.nan)


def side_by_side(
    titles: Sequence[str], widths: Sequence[float] | None = None, gap: float = 0.03, **options: Any
) -> go.Figure:
    """Return a figure with one panel per title; the panels have the vertical axis in common."""
    return make_subplots(
        rows=1,
        cols=len(titles),
        subplot_titles=titles,
        column_widths=widths,
        horizontal_spacing=gap,
        **{"shared_yaxes": True, **options},
    )


def lines_down(
    figure: go.Figure, labels: Sequence[str], above: float = 0.6, below: float = 0.4, **where: int
) -> None:
    """Name the lines 0, 1, … of panels from top to bottom, with room above and below them."""
    figure.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=labels,
        range=[len(labels) - below, -above],
        showgrid=False,
        zeroline=False,
        **where,
    )


def measured(
    figure: go.Figure,
    values: pd.DataFrame,
    y: pd.Series,
    col: int,
    name: str,
    colour: str,
    text: pd.Series | str,
    at: pd.Series | float | None = None,
    **options: Any,
) -> None:
    """Add points with horizontal intervals to one of the panels side by side, and their texts.

    Args:
        figure: The figure.
        values: Three columns: value, low, high.
        y: Place of each row.
        col: Panel, from 1; the first one names the colour in the legend.
        name: Name of the colour.
        colour: Of points and texts.
        text: Said of each row; or how its value is written, such as ".1f".
        at: Where each text begins, or where all of them end; None is the end of the interval.
        **options: Of the points.
    """
    value, low, high = (values[column] for column in values)
    figure.add_scatter(
        x=value,
        y=y,
        mode="markers",
        name=name,
        legendgroup=name,
        showlegend=col == 1,
        marker={"color": colour, "size": 8},
        error_x=error_bar(value, low, high),
        row=1,
        col=col,
        **{"hovertemplate": "%{x:.3f}", **options},
    )
    words = value.map(f"{{:{text}}}".format) if isinstance(text, str) else text
    texts(figure, high if at is None else at, y, "\u2002" + words, row=1, col=col, colour=colour)


def texts(
    figure: go.Figure,
    x: pd.Series | float,
    y: pd.Series,
    text: Sequence[str] | pd.Series,
    position: str | None = None,
    size: int = 12,
    colour: str | None = None,
    **where: Any,
) -> None:
    """Add texts that begin at each x, or all end at one x; or that lie as `position` says."""
    in_column = isinstance(x, float)
    figure.add_scatter(
        x=[x] * len(y) if in_column else x,
        y=y,
        mode="text",
        text=text,
        textposition=position or ("middle left" if in_column else "middle right"),
        textfont={"size": size, **({"color": colour} if colour else {})},
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
        **where,
    )


def annotate(figure: go.Figure, text: str, x: float, y: float, **options: Any) -> None:
    """Write a text on a figure, at shares of the whole where the options do not say otherwise."""
    placed = {"xref": "paper", "yref": "paper", "showarrow": False, **options}
    figure.add_annotation(text=text, x=x, y=y, **placed)


def difference_axis(figure: go.Figure, title: str, ends: Sequence[float], **where: int) -> None:
    """Give a panel of differences its title, its range and a line at 0."""
    dark = {"zeroline": True, "zerolinecolor": "#333333"}
    figure.update_xaxes(title=f"difference in {title}", range=ends, **dark, **where)


def range_with_room(values: pd.DataFrame | pd.Series, room: float = 0.22) -> list[float]:
    """Return an axis range with room on the right for text, as a share of the span."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    span = max(high - low, 1e-6)
    return [low - 0.06 * span, high + room * span]


def gain(row: pd.Series, name: str) -> str:
    """Return a difference with its interval, with two digits where one would hide its side of 0."""
    values = row[name], row[f"{name}_low"], row[f"{name}_high"]
    if np.isnan(values[0]):
        return "undefined"
    digits = 2 if any(0 < abs(bound) < 0.05 for bound in values[1:]) else 1
    value, low, high = (
        f"{number:{'+' if i == 0 else ''}.{digits}f}" for i, number in enumerate(values)
    )
    return f"{value} [{low}, {high}]"
