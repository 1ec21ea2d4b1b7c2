"""The tables of `dysem_lab.analyses.predictions` into plotly figures, and into one line each."""

import html
import textwrap

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dysem_lab.figures.contrast_figures import METHOD_COLOURS
from dysem_lab.models.readout import visible
from dysem_lab.questions.style import PALETTE, layout

FUNCTION_WORD, OTHER_TOKEN = "#D55E00", "#0072B2"
CHANGE = [[0, "#F1F3F7"], [0.5, "#F0A35E"], [1, "#A63C00"]]
ROW, TITLE, TOP, BOTTOM = 19, 64, 70, 70  # heights in px: a token, a sentence, the margins
LINE = 105  # characters of a sentence in a line
SAME = 0.005  # difference of probabilities that a figure does not show


def predictions_figure(table: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return each sentence's most probable next tokens, one column of bars per variant.

    Args:
        table: From `dysem_lab.analyses.predictions.predictions`.
        measured_on: From `dysem_lab.questions.style.facts`.
    """
    variants = table["variant"].unique().tolist()
    sentences = list(table.groupby("prompt", sort=False))
    top = int(table.groupby(["prompt", "id"])["rank"].min().max())
    height = TOP + len(sentences) * (ROW * top + TITLE) + BOTTOM
    figure = make_subplots(
        rows=len(sentences),
        cols=len(variants),
        horizontal_spacing=0.02,
        vertical_spacing=TITLE / (height - TOP - TITLE - BOTTOM),
        shared_xaxes="all",
    )
    longest = 1.45 * table["probability"].max()
    for row, (_, of_sentence) in enumerate(sentences, 1):
        first = _shown(of_sentence, variants[0], top)["id"]
        for column, variant in enumerate(variants, 1):
            part = _shown(of_sentence, variant, top)
            colours = part["function_word"].map({True: FUNCTION_WORD, False: OTHER_TOKEN})
            fills = colours.where(part["id"].isin(first), "#FFFFFF")
            figure.add_bar(
                orientation="h",
                x=part["probability"],
                y=part["place"],
                marker={"color": fills, "line": {"color": colours, "width": 1.5}},
                text=part["token"].map(visible) + part["probability"].map("  {:.3f}".format),
                textposition="outside",
                textfont={"size": 12, "color": "#2a3f5f"},
                cliponaxis=False,
                showlegend=False,
                hovertemplate="%{text}",
                row=row,
                col=column,
            )
            whole = part.iloc[0]
            moved = "" if column == 1 else f"{whole['total_variation']:.0%} moved, "
            share = f"function words {whole['function_word_share']:.0%}"
            _above(figure, row, column, f"{variant}: {moved}{share}", 4, 12)
        text = textwrap.shorten(of_sentence["text"].iloc[0], LINE, placeholder=" …")
        _above(figure, row, 1, f"<b>{html.escape(text, quote=False)}</b>", 24, 14)
    for name, fill, line in (
        ("function word", FUNCTION_WORD, FUNCTION_WORD),
        ("other token", OTHER_TOKEN, OTHER_TOKEN),
        (f"hollow: not in the top {top} of {variants[0]}", "#FFFFFF", "#555555"),
    ):
        marker = {"color": fill, "line": {"color": line, "width": 1.5}}
        figure.add_bar(x=[None], y=[None], marker=marker, name=name, showlegend=True)
    figure.update_yaxes(range=[top + 0.5, 0.5], showticklabels=False, showgrid=False)
    figure.update_xaxes(range=[0, longest], showticklabels=False, showgrid=False, zeroline=True)
    figure.update_layout(bargap=0.25)
    title = "What would the model say next? Most probable tokens, with their probabilities"
    return layout(figure, title, measured_on, height).update_layout(
        margin={"l": 20, "t": TOP + TITLE, "b": BOTTOM}, legend_y=-20 / height
    )


def _shown(of_sentence: pd.DataFrame, variant: str, top: int) -> pd.DataFrame:
    """Return a variant's rows of its own top, in order, with their places from 1."""
    part = of_sentence[of_sentence["variant"] == variant]
    part = part.sort_values("rank", kind="stable").head(top)
    return part.assign(place=range(1, len(part) + 1))


def _above(figure: go.Figure, row: int, column: int, text: str, shift: int, size: int) -> None:
    """Write a line above the left end of a panel."""
    figure.add_annotation(
        text=text,
        x=0,
        y=1,
        xref="x domain",
        yref="y domain",
        xanchor="left",
        yanchor="bottom",
        yshift=shift,
        showarrow=False,
        font_size=size,
        row=row,
        col=column,
    )


def predictions_caption(table: pd.DataFrame) -> str:
    """Return one line: how much of each prediction moved, and to function words or away."""
    variants = table["variant"].unique().tolist()
    of_prompt = table.drop_duplicates(["prompt", "variant"]).set_index(["variant", "prompt"])
    best = table[table["rank"] == 1].drop_duplicates(["prompt", "variant"])
    best = best.set_index(["variant", "prompt"])["id"]
    plain, n = of_prompt.loc[variants[0]], len(of_prompt.loc[variants[0]])
    share = plain["function_word_share"].mean()
    parts = []
    for name in variants[1:]:
        rows = of_prompt.loc[name]
        difference = rows["function_word_share"] - plain["function_word_share"]
        parts.append(
            f"{name}: {rows['total_variation'].mean():.0%} of the probability moves, another first "
            f"token in {(best[name] != best[variants[0]]).sum()} of {n}, function words "
            f"{rows['function_word_share'].mean():.1%} (more in {(difference > 0).sum()} of {n})"
        )
    start = f"Next token of {n} sentences, means. {variants[0]}: function words {share:.1%}"
    if not parts:
        return f"{start}."
    shares = [of_prompt.loc[name, "function_word_share"].mean() for name in variants[1:]]
    if all(value < share for value in shares):
        verdict = "CP moves probability away from function words, as it is meant to"
    elif all(value > share for value in shares):
        verdict = "CP moves probability towards function words here, not away from them"
    else:
        verdict = "CP does not move probability in one direction"
    return f"{start}. {'; '.join(parts)}. {verdict}{_agreement(table, variants)}."


def _agreement(table: pd.DataFrame, variants: list[str]) -> str:
    """Return which variants are one and the same here, if any are."""
    wide = table.pivot(index=["prompt", "id"], columns="variant", values="probability")
    same = [
        f"{a} and {b} predict the same"
        for i, a in enumerate(variants)
        for b in variants[i + 1 :]
        if (wide[a] - wide[b]).abs().max() < SAME
    ]
    return f"; {', '.join(same)}" if same else ""


def stream_figure(table: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return the change of the residual stream at every token, and at the last one in two ways.

    Blocks are 1-based here, as in the paper.

    Args:
        table: From `dysem_lab.analyses.predictions.stream_change`, with the name of the contrast in
            a column ``variant``; the first variant is the heat map's.
        measured_on: From `dysem_lab.questions.style.facts`.
    """
    variants = table["variant"].unique().tolist()
    first = table[table["variant"] == variants[0]]
    tokens = first.drop_duplicates("position").set_index("position")["token"].map(visible)
    n_blocks = int(table["layer"].max()) + 1
    height = 18 * n_blocks + 310
    figure = make_subplots(
        rows=1,
        cols=3,
        shared_yaxes=True,
        column_widths=[0.5, 0.25, 0.25],
        horizontal_spacing=0.03,
        subplot_titles=[
            f"{variants[0]}: ‖h′ − h‖ / ‖h‖ at every token",
            "the same, last token",
            "cosine of h′ with h, last token",
        ],
    )
    figure.add_heatmap(
        z=first.pivot(index="layer", columns="position", values="change"),
        x=tokens.index,
        y=np.sort(first["layer"].unique()) + 1,
        colorscale=CHANGE,
        zmin=0,
        xgap=1,
        ygap=1,
        colorbar={
            "orientation": "h",
            "x": 0.0,
            "xanchor": "left",
            "y": -115 / (height - 280),
            "yanchor": "top",
            "len": 0.47,
            "thickness": 12,
        },
        customdata=np.tile(tokens.to_numpy(), (first["layer"].nunique(), 1)),
        hovertemplate="%{customdata}, block %{y}: %{z:.3f}<extra></extra>",
        row=1,
        col=1,
    )
    last = table[table["position"] == table["position"].max()]
    for i, (name, part) in enumerate(last.groupby("variant", sort=False)):
        for column, value in ((2, "change"), (3, "cosine")):
            figure.add_scatter(
                x=part[value],
                y=part["layer"] + 1,
                mode="lines+markers",
                marker={"size": 6, "symbol": ("circle", "diamond-open", "square-open")[i % 3]},
                line={
                    "color": METHOD_COLOURS.get(name, PALETTE[i % len(PALETTE)]),
                    "dash": ("solid", "dot", "dash")[i % 3],
                },
                name=name,
                legendgroup=name,
                showlegend=column == 2,
                hovertemplate="block %{y}: %{x:.3f}",
                row=1,
                col=column,
            )
    figure.update_xaxes(
        tickvals=tokens.index, ticktext=tokens, tickangle=-90, showgrid=False, title=None, col=1
    )
    figure.update_xaxes(rangemode="tozero", col=2)
    figure.update_yaxes(title="after block", col=1)
    figure.update_yaxes(range=[0.5, n_blocks + 0.5], zeroline=False)
    title = "What moves in the residual stream?"
    return layout(figure, title, measured_on, height).update_layout(
        legend={"x": 0.55, "y": -115 / (height - 280)}, margin_b=180
    )


def stream_caption(table: pd.DataFrame) -> str:
    """Return one line: where the stream begins to move, how far, and what is left at the end."""
    position = table["position"].max()
    parts = []
    for name, rows in table.groupby("variant", sort=False):
        last = rows[rows["position"] == position].set_index("layer")
        moved = last.index[last["change"] > 0]
        if moved.empty:
            parts.append(f"{name}: nothing moves")
            continue
        start, lowest = moved.min(), last["cosine"].idxmin()
        parts.append(
            f"{name}: moved by {last.loc[start, 'change']:.0%} after block {start + 1}, most "
            f"({last['change'].max():.0%}) after block {last['change'].idxmax() + 1}, by "
            f"{last['change'].iloc[-1]:.0%} after the last of {len(last)}; cosine at least "
            f"{last.loc[lowest, 'cosine']:.3f} (block {lowest + 1})"
        )
    others = table.loc[table["position"] < position].groupby("variant", sort=False)["change"].max()
    still = [name for name, change in others.items() if change == 0]
    if len(still) == len(others):
        rest = "no other token moves at all"
    else:
        rest = f"other tokens move too under {', '.join(set(others.index) - set(still))}"
    return f"Residual stream at the last token, relative to its norm. {'; '.join(parts)}; {rest}."
