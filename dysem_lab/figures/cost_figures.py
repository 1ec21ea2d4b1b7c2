"""The table of `dysem_lab.analyses.cost` into a plotly figure, and into one line."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dysem_lab.analyses.contrast_analyses import PLAIN
from dysem_lab.figures.contrast_figures import METHOD_COLOURS
from dysem_lab.prompts import TEMPLATE_NAMES
from dysem_lab.questions.style import OTHER_COLOUR, error_bar, layout

BASE, TIME = "PromptEOL", "time, measured: median and range of rounds"
MEASURED, TOKENS, BLOCKS, PAPER = "#009E73", "#0072B2", "#333333", "#CC79A7"


def cost_figure(table: pd.DataFrame, published: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return blocks per text on the left, ratios to plain PromptEOL on the right.

    Args:
        table: From `dysem_lab.analyses.cost.costs`, of one output layer and one contrast.
        published: From `dysem_lab.questions.published.published_cp`, Table 3.
        measured_on: From `dysem_lab.questions.style.facts`.
    """
    names, paper = _names(table), _published_ratios(published)
    rows = table.assign(name=names, place=range(len(table)), paper_ratio=names.map(paper))
    figure = make_subplots(
        rows=1,
        cols=2,
        shared_yaxes=True,
        column_widths=[0.42, 0.58],
        horizontal_spacing=0.04,
        subplot_titles=["blocks per text", f"ratio to plain {BASE} at the same output layer"],
    )
    _blocks(figure, rows)
    _ratios(figure, rows)
    figure.update_yaxes(
        tickvals=rows["place"],
        ticktext=rows["name"],
        range=[len(rows) - 0.4, -0.6],
        showgrid=False,
        zeroline=False,
    )
    figure.update_xaxes(title="blocks", rangemode="tozero", col=1)
    ratios = rows[["time_high", "token_blocks_ratio", "blocks_ratio", "paper_ratio"]]
    figure.update_xaxes(range=[0, 1.2 * ratios.max(axis=None)], title="ratio", col=2)
    figure.add_vline(x=1, line={"color": "#999999", "width": 1, "dash": "dot"}, row=1, col=2)
    facts = f"{measured_on}, {_machine(table)}; times differ from machine to machine"
    title = "What does Contrastive Prompting cost?"
    return layout(figure, title, facts, 74 * len(rows) + 260).update_layout(margin_l=20)


def _names(table: pd.DataFrame) -> pd.Series:
    """Return each method as the paper's Table 3 names it."""
    with_cp = table["method"].ne(PLAIN).map({True: "+CP", False: ""})
    return table["template"].map(lambda name: TEMPLATE_NAMES.get(name, name)) + with_cp


def _published_ratios(published: pd.DataFrame) -> pd.Series:
    """Return the paper's blocks per text over those of its PromptEOL, by the method's name."""
    blocks = published.set_index("method")["value"].astype(float)
    return blocks / blocks[BASE]


def _machine(table: pd.DataFrame) -> str:
    """Return what the times were measured on."""
    row = table.iloc[0]
    return (
        f"{row['device']} ({row['cores']} cores, torch threads: {row['threads']}), "
        f"{row['n_texts']} texts, {row['rounds']} rounds"
    )


def _blocks(figure: go.Figure, rows: pd.DataFrame) -> None:
    """Add what was counted, and the paper's way of counting the same pass."""
    figure.add_bar(
        orientation="h",
        x=rows["counted"],
        y=rows["place"],
        width=0.5,
        marker_color=rows["method"].map(lambda name: METHOD_COLOURS.get(name, OTHER_COLOUR)),
        text=rows["counted"],
        textposition="inside",
        insidetextanchor="start",
        hovertemplate="%{x} blocks",
        showlegend=False,
        row=1,
        col=1,
    )
    figure.add_scatter(
        x=rows["paper_blocks"],
        y=rows["place"],
        mode="markers",
        marker={"symbol": "line-ns", "size": 26, "line": {"width": 3, "color": BLOCKS}},
        name="as the paper counts them",
        hovertemplate="%{x} as the paper counts them",
        row=1,
        col=1,
    )


def _ratios(figure: go.Figure, rows: pd.DataFrame) -> None:
    """Add the measured times, what the counts would predict, and the paper's counts."""
    for ratio, shift, name, symbol, colour, size in (
        (rows["blocks_ratio"], -0.3, "blocks, counted", "line-ns", BLOCKS, 12),
        (rows["token_blocks_ratio"], -0.1, "tokens × blocks, counted", "square", TOKENS, 9),
        (rows["time_ratio"], 0.1, TIME, "circle", MEASURED, 10),
        (rows["paper_ratio"], 0.3, "blocks in the paper (LLaMA2-7B)", "diamond-open", PAPER, 11),
    ):
        reach = rows["time_high"] if name == TIME else ratio
        figure.add_scatter(
            x=ratio,
            y=rows["place"] + shift,
            mode="markers",
            marker={
                "symbol": symbol,
                "size": size,
                "color": colour,
                "line": {"width": 3 if symbol == "line-ns" else 2, "color": colour},
            },
            error_x={**error_bar(ratio, rows["time_low"], reach), "visible": name == TIME},
            name=name,
            hovertemplate="%{x:.3f}",
            row=1,
            col=2,
        )
        figure.add_scatter(
            x=reach,
            y=rows["place"] + shift,
            mode="text",
            text="\u2002\u2009" + ratio.map("{:.2f}".format).where(ratio.notna(), ""),
            textposition="middle right",
            textfont={"size": 11, "color": colour},
            cliponaxis=False,
            hoverinfo="skip",
            showlegend=False,
            row=1,
            col=2,
        )


def cost_caption(table: pd.DataFrame, published: pd.DataFrame) -> str:
    """Return one line: what CP adds to each prompt, in blocks and in time, beside the paper's.

    Args:
        table: From `dysem_lab.analyses.cost.costs`, of one output layer and one contrast.
        published: From `dysem_lab.questions.published.published_cp`, Table 3.
    """
    rows = table.assign(name=_names(table)).set_index("name")
    paper = _published_ratios(published)
    parts = []
    for name, row in rows.drop(index=BASE).iterrows():
        known = f", in the paper {paper[name]:.2f}" if name in paper else ""
        parts.append(
            f"{name} {row['time_ratio']:.2f} [{row['time_low']:.2f}, {row['time_high']:.2f}], "
            f"blocks {row['blocks_ratio']:.2f}{known}"
        )
    return (
        f"Time as a multiple of plain {BASE}'s at the same output layer, median and range of "
        f"{table['rounds'].iloc[0]} rounds: {'; '.join(parts)}. On {_machine(table)}, where plain "
        f"{BASE} took {rows.loc[BASE, 'seconds']:.1f} s for 1,000 texts; another machine takes "
        "another time."
    )
