"""Tables into plotly figures."""

import pandas as pd
import plotly.graph_objects as go

from dysem_lab.data import STSData
from dysem_lab.lens import LensModel

# Okabe and Ito's palette: distinct under the common colour-vision deficiencies.
COLOURS = {
    "baseline": "#999999",
    "part": "#0072B2",
    "DySem on A^L": "#D55E00",
    "DySem on h^L": "#009E73",
    "semantic": "#D55E00",
    "random, shared": "#0072B2",
    "random, per pair": "#56B4E9",
    "all dimensions": "#999999",
}
OTHER_COLOUR = "#CC79A7"
FONTS = "Noto Sans, Noto Sans CJK SC, Noto Naskh Arabic, Noto Sans Devanagari, Arial, sans-serif"


def _layout(figure: go.Figure, title: str, facts: str, height: int) -> go.Figure:
    """Give a figure the common look, with what it was measured on under the title."""
    return figure.update_layout(
        template="plotly_white",
        font={"family": FONTS, "size": 14},
        title={"text": f"{title}<br><sup>{facts}</sup>", "x": 0.01, "xanchor": "left"},
        height=height,
        width=1000,
        margin={"l": 20, "r": 40, "t": 90, "b": 60},
    )


def _superscript(text: str) -> str:
    return text.replace("^L", "<sup>L</sup>")


def facts(lens: LensModel, data: STSData, **settings: object) -> str:
    """Return the line that says what a figure was measured on."""
    dtype = str(lens.dtype).removeprefix("torch.")
    shown = [f"{lens.name} ({dtype})", data.name, f"{len(data):,} pairs"]
    shown += [
        f"{name} {'/'.join(value) if isinstance(value, list | tuple) else value}"
        for name, value in settings.items()
    ]
    return ", ".join(shown)


def decomposition_figure(table: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return horizontal bars with 95 % intervals, one per method, with #Dim. beside each.

    Args:
        table: From `dysem_lab.analyses.decomposition`.
        measured_on: From `facts`.
    """
    figure = go.Figure()
    rows = table.iloc[::-1]
    for group in table["group"].unique():
        part = rows[rows["group"] == group]
        figure.add_bar(
            orientation="h",
            name=_superscript(group),
            y=part["method"],
            x=part["spearman"],
            marker_color=COLOURS.get(group, OTHER_COLOUR),
            error_x={
                "array": part["high"] - part["spearman"],
                "arrayminus": part["spearman"] - part["low"],
                "color": "#333333",
                "thickness": 1.2,
            },
        )
    figure.add_scatter(
        mode="text",
        y=rows["method"],
        x=rows["high"],
        text=[
            f"  <b>{score:.1f}</b>  #Dim. {dims:.0f}"
            for score, dims in zip(rows["spearman"], rows["n_dims"], strict=True)
        ],
        textposition="middle right",
        cliponaxis=False,
        showlegend=False,
    )
    labels = [_superscript(method) for method in rows["method"]]
    figure.update_yaxes(
        categoryorder="array",
        categoryarray=rows["method"],
        tickvals=rows["method"],
        ticktext=labels,
        title=None,
    )
    figure.update_xaxes(
        title="Spearman × 100, with 95 % bootstrap interval",
        range=[min(0.0, table["low"].min()), 1.22 * table["high"].max()],
    )
    figure.update_layout(legend={"orientation": "h", "y": -0.12, "x": 0})
    title = "Which part of the residual stream carries sentence meaning?"
    return _layout(figure, title, measured_on, 34 * len(table) + 200)


def decomposition_caption(table: pd.DataFrame) -> str:
    """Return one line with the numbers that matter of a decomposition table."""
    score = table.set_index("method")["spearman"]
    best = table.loc[table["spearman"].idxmax()]
    return (
        f"Spearman × 100: mean pooling {score['mean pooling']:.1f}, PromptEOL "
        f"{score['PromptEOL, N(h^L)']:.1f}, plain h^L {score['h^L']:.1f}, A^L {score['A^L']:.1f}, "
        f"F^L {score['F^L']:.1f}; best is {best['method']} with {best['spearman']:.1f} "
        f"[{best['low']:.1f}, {best['high']:.1f}] on {best['n_dims']:.0f} dimensions."
    )


def random_vs_semantic_figure(table: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return score against the number of dimensions: joint sets against random sets.

    The band of a random kind spans its seeds; the band of the joint sets is the 95 % bootstrap
    interval over pairs.

    Args:
        table: From `dysem_lab.analyses.random_vs_semantic`.
        measured_on: From `facts`.
    """
    figure = go.Figure()
    for kind in ("semantic", "random, shared", "random, per pair"):
        part = table[table["kind"] == kind]
        seeds = part.groupby("k", sort=False).agg(
            n_dims=("n_dims", "mean"),
            spearman=("spearman", "mean"),
            low=("low" if kind == "semantic" else "spearman", "min"),
            high=("high" if kind == "semantic" else "spearman", "max"),
        )
        colour = COLOURS[kind]
        figure.add_scatter(
            x=[*seeds["n_dims"], *seeds["n_dims"][::-1]],
            y=[*seeds["high"], *seeds["low"][::-1]],
            mode="lines",
            fill="toself",
            fillcolor=colour,
            opacity=0.18,
            line_width=0,
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_scatter(
            x=seeds["n_dims"],
            y=seeds["spearman"],
            mode="lines+markers",
            line_color=colour,
            name="joint sets (DySem)" if kind == "semantic" else kind,
            customdata=seeds.index.to_numpy(),
            hovertemplate="k = %{customdata}<br>#Dim. %{x:.0f}<br>%{y:.2f}",
        )
    dense = table[table["kind"] == "all dimensions"].iloc[0]
    figure.add_hline(
        y=dense["spearman"],
        line={"dash": "dash", "color": COLOURS["all dimensions"]},
        annotation_text=f"all {dense['n_dims']:.0f} dimensions: {dense['spearman']:.1f}",
        annotation_position="top left",
    )
    figure.update_xaxes(title="#Dim. (mean size of the sets)")
    figure.update_yaxes(title="Spearman × 100")
    figure.update_layout(legend={"orientation": "h", "y": -0.18, "x": 0})
    return _layout(figure, "Joint sets against random sets of equal size", measured_on, 520)


def random_vs_semantic_caption(table: pd.DataFrame) -> str:
    """Return one line with the numbers that matter of a random-against-semantic table."""
    largest = table[table["kind"] == "semantic"].iloc[-1]
    random = table[table["k"] == largest["k"]].groupby("kind")["spearman"]
    dense = table[table["kind"] == "all dimensions"].iloc[0]
    return (
        f"Spearman × 100 on {largest['n_dims']:.0f} dimensions: joint sets "
        f"{largest['spearman']:.1f}, one random set for all pairs "
        f"{random.mean()['random, shared']:.1f}, a random set for each pair "
        f"{random.mean()['random, per pair']:.1f} (means of {random.size()['random, shared']} "
        f"seeds); all {dense['n_dims']:.0f} dimensions {dense['spearman']:.1f}."
    )
