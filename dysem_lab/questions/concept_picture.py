"""What `concept` shows: the share of texts whose words are decoded, examples, meaning in words."""

import html
import textwrap
from typing import NamedTuple

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dysem_lab.display import amount
from dysem_lab.models.readout import label
from dysem_lab.questions.finding import Facts
from dysem_lab.questions.names import SYMBOLS
from dysem_lab.questions.style import (
    PALETTE,
    annotate,
    interval,
    layout,
    lines_down,
    measured,
    superscript,
)

# What is read: vectors, and parts of them.
TEXT, DIFFERENCE, DIMENSION, HEAD = "text", "difference", "one dimension", "one head"
DIRECTIONS = "random directions"
ON, OFF, WHOLE, SETS = "S(x)", "off S(x)", "whole", "random sets"
EACH, MEAN = "each", "mean"  # the mean over the languages of what is measured; the mean vector
LEVEL = 0.05
LABELS, BETWEEN = 0.19, 110  # share of the width, and px between the panels and the examples
LINE, CHARACTERS, LETTERS = 24, 44, 14  # of the examples: px; characters of a text, of a token


class Head(NamedTuple):
    """A head, 0-based."""

    block: int
    head: int


def name_of(component: str, vector: str, part: str) -> str:
    """Return what a kind of vector is called."""
    if vector in (DIMENSION, DIRECTIONS):
        return vector
    named = HEAD if component == HEAD else part
    return f"{DIFFERENCE}, {named}" if vector == DIFFERENCE else named


def figure(table: pd.DataFrame, examples: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return a panel per component, a line per part, and the top tokens of a few texts below.

    Args:
        table: Of `concept`.
        examples: Its examples.
        facts: What it was measured on.
    """
    components = [name for name in table["component"].unique() if name != HEAD]
    # Bold lines are taller than they are asked to be.
    panels, rows = 500, 60 + LINE * len(examples) + 7 * int(examples["hit"].sum())  # px
    whole = panels + BETWEEN + rows
    drawn = make_subplots(cols=len(components), shared_yaxes=True)
    width = (1 - LABELS) / len(components)
    for col, component in enumerate(components, 1):
        of = table[table["component"].isin([component, HEAD])]
        kinds = of[of["language"] == MEAN].reset_index(drop=True)
        lines = [name_of(*kind) for kind in kinds[["component", "vector", "part"]].to_numpy()]
        where = {"row": 1, "col": col}
        for offset, language, colour, said in (
            (-0.16, MEAN, PALETTE[0], "mean over the languages"),
            (0.16, EACH, PALETTE[1], "a single language, mean of all"),
        ):
            part = of[of["language"] == language].reset_index(drop=True)
            values, y = part[["words", "words_low", "words_high"]], part.index.to_series() + offset
            measured(drawn, values, y, col, said, colour, ".0%", hovertemplate="%{x:.1%}")
            drawn.add_scatter(
                x=part["words_other"],
                y=y,
                mode="markers",
                marker={"color": "#777777", "symbol": "line-ns-open", "size": 9, "line_width": 2},
                name="the same for words of another text",
                showlegend=col == 1 and language == MEAN,
                hovertemplate="another text %{x:.1%}<extra></extra>",
                **where,
            )
        lines_down(drawn, [f"<b>{line}</b>" if line == ON else line for line in lines], **where)
        most = float(of.loc[of["language"].isin([EACH, MEAN]), "words_high"].max())
        at, wide = LABELS + (col - 1) * width, width - 0.03
        ends = [-0.02, 1.2 * max(most, 0.1)]
        drawn.update_xaxes(range=ends, tickformat=".0%", domain=[at, at + wide], **where)
        drawn.update_yaxes(domain=[1 - panels / whole, 1], **where)
        annotate(drawn, superscript(SYMBOLS[component]), at + wide / 2, 1, yanchor="bottom")
    said = "share of texts with a word of theirs among the top tokens"
    annotate(drawn, said, 1, 1 - (panels + 24) / whole, yanchor="top", xanchor="right")
    drawn.add_trace(_examples(examples, rows / whole))
    title = "Does the consensus of the languages decode to a concept? Logit lens"
    drawn = layout(drawn, title, facts, whole + 150)
    return drawn.update_layout(
        margin={"l": 20, "r": 20, "b": 20},
        legend={"y": 1 - (panels + 50) / whole, "yanchor": "top", "x": 0},
    )


def _examples(examples: pd.DataFrame, top: float) -> go.Table:
    """Return the top tokens of each part of a few texts; bold where one is a word of the text."""
    cells: list[list[str]] = [[], [], []]
    for text, rows in examples.groupby("text", sort=False):
        short = textwrap.shorten(str(text), CHARACTERS, placeholder=" …")
        answer = rows["answer"].iloc[0]
        first = [html.escape(short, quote=False), f"the model says: {_clean(answer)}"]
        cells[0] += (first + [""] * len(rows))[: len(rows)]
        for row in rows.itertuples():
            said = [name_of(row.component, row.vector, row.part)]
            said.append(" · ".join(map(_clean, row.tokens)))
            for column, cell in zip(cells[1:], said, strict=True):
                column.append(f"<b>{cell}</b>" if row.hit else cell)
    return go.Table(
        domain={"y": [0, top]},
        columnwidth=[3, 1.7, 4.6],
        header={
            "values": [
                "text (English)",
                "part of the mean",
                "first tokens; <b>bold: a word of the text is in the top</b>",
            ],
            "align": "left",
            "fill_color": "#FFFFFF",
            "line_color": "#DDDDDD",
        },
        cells={
            "values": cells,
            "align": "left",
            "height": LINE,
            "fill_color": "#FFFFFF",
            "line_color": "#EEEEEE",
            "font_size": 12,
        },
    )


def _clean(token: str) -> str:
    return label(token.strip()[:LETTERS] or token)


def caption(table: pd.DataFrame, model: str, top: int, head: Head) -> str:
    """Return what was found in a sentence of meaning, then the numbers.

    Args:
        table: Of `concept`.
        model: Its name.
        top: Tokens that were looked at.
        head: The head that was chosen.
    """
    languages = table.loc[~table["language"].isin([EACH, MEAN]), "language"].nunique()
    components = [name for name in table["component"].unique() if name != HEAD]
    rows = table[table["language"] == MEAN].set_index(["component", "vector", "part"])
    n_tests = int(table[["specific_p", "difference_p"]].notna().to_numpy().sum())
    numbers = [_numbers(rows.loc[name], table, name) for name in components]
    head_rows = rows.loc[HEAD]
    return (
        f"On {model} {_verdicts(rows, components, languages)}. Share of {rows['n_texts'].max()} "
        f"texts with a word of theirs, in any language, among the top {amount(top, 'token')} of "
        "the mean over the languages, with its 95 % interval, and as “other” with a word of "
        f"another text: {' '.join(numbers)} Block {head.block + 1} head {head.head + 1}, chosen on "
        f"the other half of the texts: {_share(head_rows.loc[(TEXT, WHOLE)])}. Holm over {n_tests} "
        "comparisons."
    )


def _verdicts(rows: pd.DataFrame, components: list[str], languages: int) -> str:
    """Return the answer in words, as the table has it."""
    found = {name: _found(rows.loc[name]) for name in components}
    nothing = [SYMBOLS[name] for name in components if not found[name]]
    said = []
    if nothing:
        said.append(
            f"the consensus of {languages} languages does not decode to a concept, on "
            f"{' or on '.join(nothing)}: the words of the text are not surely more often among its "
            "top tokens than those of another text"
        )
    said += [
        f"the consensus of {languages} languages on {SYMBOLS[name]} decodes to {found[name]}"
        for name in components
        if found[name]
    ]
    return "; ".join(said)


def _found(rows: pd.DataFrame) -> str:
    """Return what the part on S(x) of a component decodes to; "" is to nothing of its text."""
    on = rows.loc[(TEXT, ON)]
    if not _sure(on, "specific", 1):
        return ""
    names = {SETS: "random sets of its size", OFF: "what is left without it", WHOLE: "the whole"}
    compared = []
    for how, sign in (("more", 1), ("less", -1)):
        surely = [
            said
            for part, said in names.items()
            if _sure(rows.loc[(TEXT, part)], "difference", sign)
        ]
        compared += [f"{how} often than {' and '.join(surely)}"] if surely else []
    return (
        f"a word of the text in {on['words']:.0%} of the texts and to none in "
        f"{1 - on['words']:.0%}, "
        f"{', '.join(compared) or 'about as often as any other part of the vector'}"
    )


def _sure(row: pd.Series, name: str, sign: int) -> bool:
    bound = row[f"{name}_low"] if sign > 0 else -row[f"{name}_high"]
    return bool(row[f"{name}_holm"] < LEVEL and bound > 0)


def _share(row: pd.Series) -> str:
    """Return a share of texts with its interval, and that of another text's words."""
    return f"{interval(row, 'words', ('words_low', 'words_high'), '.2f')}, other " + (
        f"{row['words_other']:.2f}"
    )


def _numbers(rows: pd.DataFrame, table: pd.DataFrame, component: str) -> str:
    """Return the numbers of a component that matter most; all of them are in the table."""
    said = [f"{ON} {_share(rows.loc[(TEXT, ON)])}"]
    said += [f"{name} {rows.loc[(TEXT, name), 'words']:.2f}" for name in (OFF, SETS, WHOLE)]
    said += [
        f"{DIFFERENCE} of two texts on S(x) {rows.loc[(DIFFERENCE, ON), 'words']:.2f}",
        f"off it {rows.loc[(DIFFERENCE, OFF), 'words']:.2f}",
    ]
    each = table[(table["language"] == EACH) & (table["component"] == component)]
    each = each.set_index(["vector", "part"]).loc[(TEXT, ON)]
    return (
        f"{SYMBOLS[component]}, S(x) of {amount(rows.loc[(TEXT, ON), 'n_dims'], 'dimension')}: "
        f"{'; '.join(said)}. In a single language S(x) {each['words']:.2f}; two languages share "
        f"{each['agreement']:.0%} of its top tokens (of two texts {each['agreement_other']:.0%})."
    )
