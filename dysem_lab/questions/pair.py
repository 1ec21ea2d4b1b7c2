"""How similar are two texts, and on which dimensions? The pair explorer."""

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch

from dysem_lab.data.languages import language as language_named
from dysem_lab.display import amount
from dysem_lab.joint import contributions, joint_set
from dysem_lab.models.lens import LensModel
from dysem_lab.models.store import VectorStore
from dysem_lab.questions.finding import Finding
from dysem_lab.questions.pair_view import Captures, PairView, pair_view
from dysem_lab.questions.style import DIVERGING, PALETTE, layout

N_BARS = 16
# Where a dimension is a member, as code 0 to 3 of the map, with its colour.
MEMBERSHIP = ("in neither set", "in S(x) only", "in S(y) only", "in both sets")
MEMBER_COLOURS = ("rgba(128,128,128,0.25)", PALETTE[1], PALETTE[3], PALETTE[2])
UNDEFINED = (
    "no dimension is positive in every language for either sentence, so the similarity is "
    "undefined; use fewer languages or another component"
)


def pair(
    lens: LensModel,
    first: Mapping[str, str],
    second: Mapping[str, str],
    languages: Sequence[str] | None = None,
    *,
    store: VectorStore | None = None,
    **settings: Any,
) -> Finding:
    """Compare two texts under DySem: its similarity, and what each dimension of U adds to it.

    Args (k and the other settings too), errors and source are those of `pair_view`; `store` is as
    for `dysem_lab.capture`. The table is that of `pair_table`.
    """
    captures = Captures(lens, store)
    view = pair_view(lens, first, second, languages, captures=captures, **settings)
    return Finding("pair", pair_table(view), pair_figure(view), pair_caption(view), view.facts)


def pair_table(view: PairView) -> pd.DataFrame:
    """Return one row per dimension of U, the largest contribution first.

    Columns: ``dimension``, ``in_x``, ``in_y``, ``v_x``, ``v_y``, ``contribution`` to the
    similarity (they sum to it), ``membership`` (of `MEMBERSHIP`).
    """
    (vx, vy), (Sx, Sy) = view.encoded.vectors, view.encoded.sets
    U, codes = joint_set(Sx, Sy), Sx.int() + 2 * Sy.int()
    table = pd.DataFrame(
        {
            "dimension": U.nonzero()[:, 0].numpy(),
            "in_x": Sx[U].numpy(),
            "in_y": Sy[U].numpy(),
            "v_x": vx[U].numpy(),
            "v_y": vy[U].numpy(),
            "contribution": contributions(vx, vy, U)[U].numpy(),
            "membership": [MEMBERSHIP[code] for code in codes[U].tolist()],
        }
    )
    order = table["contribution"].abs().sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True)


def pair_figure(view: PairView) -> go.Figure:
    """Return the map of both texts over the d dimensions, and the largest contributions.

    Rows of the map are aligned: who is in S(x), S(y) and U, then the values v(x) and v(y), clipped
    at their 99th percentile. Bars are the dimensions of U that add most to the similarity.
    """
    table = pair_table(view)
    shown = table.head(N_BARS)
    largest = shown["dimension"].astype(str).tolist()
    width = view.encoded.vectors.shape[-1]
    whole = {"range": [-0.5, width - 0.5], "showgrid": False}
    axes = {
        "yaxis": {"domain": [0.84, 1], "autorange": "reversed"},
        "yaxis2": {"domain": [0.65, 0.77], "autorange": "reversed"},
        "yaxis3": {"domain": [0, 0.46], "title": "contribution"},
        "xaxis": {**whole, "anchor": "y", "matches": "x2", "showticklabels": False},
        "xaxis2": {
            **whole,
            "anchor": "y2",
            "title": f"dimension of {width} (colours of v end at ±{_rounded(_bound(view))}; "
            "1 % are beyond)",
        },
        "xaxis3": {
            "anchor": "y3",
            "type": "category",
            "categoryorder": "array",
            "categoryarray": largest,
            "tickangle": -60,
            "title": f"the {len(shown)} dimensions of U that add most; the other "
            f"{len(table) - len(shown)} add {_number(table['contribution'].iloc[N_BARS:].sum())}",
        },
    }
    figure = go.Figure([*_map(view), *_bars(shown), *_legend()], {**axes, "bargap": 0.25})
    title = (
        f"DySem {_number(view.similarity)} on {amount(view.n_dims, 'dimension')}, "
        f"plain cosine {_number(view.plain)}"
    )
    return layout(figure, title, view.facts, 620).update_layout(margin_b=110, legend_y=-0.25)


def _map(view: PairView) -> list[dict[str, Any]]:
    """Return the traces of who is in which set, and of the values."""
    Sx, Sy = view.encoded.sets
    codes = Sx.int() + 2 * Sy.int()  # of `MEMBERSHIP`
    steps = [
        [edge / 4, colour]
        for code, colour in enumerate(MEMBER_COLOURS)
        for edge in (code, code + 1)
    ]
    members = {
        "type": "heatmap",
        "z": torch.stack([Sx.int(), 2 * Sy.int(), codes]).numpy().astype("int8"),
        "y": ["S(x)", "S(y)", "U"],
        "xaxis": "x",
        "yaxis": "y",
        "zmin": -0.5,
        "zmax": 3.5,
        "colorscale": steps,
        "showscale": False,
        "customdata": np.tile(np.array(MEMBERSHIP, dtype=object)[codes.numpy()], (3, 1)),
        "hovertemplate": "dimension %{x}: %{customdata}<extra>%{y}</extra>",
    }
    bound = _bound(view)
    values = {
        "type": "heatmap",
        "z": view.encoded.vectors.numpy(),
        "y": ["v(x)", "v(y)"],
        "xaxis": "x2",
        "yaxis": "y2",
        "zmin": -bound,
        "zmax": bound,
        "colorscale": DIVERGING,
        "colorbar": {"thickness": 10, "len": 0.3, "y": 0.7, "tickformat": ".2g", "nticks": 3},
        "hovertemplate": "dimension %{x}: %{z:.3g}<extra>%{y}</extra>",
    }
    return [members, values]


def _bars(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return bars of contributions, one trace per membership."""
    parts = {name: table[table["membership"] == name] for name in MEMBERSHIP[1:]}
    return [
        {
            "type": "bar",
            "x": part["dimension"].astype(str).tolist(),
            "y": part["contribution"].to_numpy(),
            "xaxis": "x3",
            "yaxis": "y3",
            "name": name,
            "marker": {"color": colour},
            "text": [f"{value:.2g}" for value in part["contribution"]],
            "textposition": "outside",
            "textfont": {"size": 10},
            "cliponaxis": False,
            "customdata": part[["v_x", "v_y"]].to_numpy(),
            "hovertemplate": "dimension %{x}: %{y:.4f}<br>v(x) = %{customdata[0]:.3g}, "
            "v(y) = %{customdata[1]:.3g}",
            "showlegend": False,
        }
        for (name, part), colour in zip(parts.items(), MEMBER_COLOURS[1:], strict=True)
    ]


def _bound(view: PairView) -> float:
    """Return the value at which the colours of v end."""
    return view.encoded.vectors.abs().flatten().quantile(0.99).item() or 1.0


def _rounded(value: float) -> str:
    """Return two digits of a number, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _legend() -> list[dict[str, Any]]:
    """Return a name for each colour of the map, whether or not a bar has it."""
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "x": [None],
            "y": [None],
            "xaxis": "x3",
            "yaxis": "y3",
            "name": name,
            "marker": {"color": colour, "symbol": "square", "size": 11},
        }
        for name, colour in zip(MEMBERSHIP, MEMBER_COLOURS, strict=True)
    ]


def _numbers(view: PairView) -> list[str]:
    """Return what is said of a pair: its similarity, its plain cosine, and what lies between."""
    Sx, Sy = view.encoded.sets
    d = Sx.numel()
    mean = f"mean over the languages on all {d} dimensions {_number(view.all_dimensions)}"
    return [
        f"<b>DySem similarity {_number(view.similarity)}</b> on |U| = {view.n_dims} of {d} "
        f"dimensions (|S(x)| = {int(Sx.sum())}, |S(y)| = {int(Sy.sum())}, "
        f"{int((Sx & Sy).sum())} in both)",
        *([mean] if view.encoder.vector == "mean" else []),
        f"<b>plain cosine {_number(view.plain)}</b> ({view.language}, all {d} dimensions)",
        *([] if view.n_dims else [UNDEFINED]),
    ]


def pair_caption(view: PairView) -> str:
    """Return the numbers of a pair as one line."""
    return re.sub("</?b>", "", f"{'; '.join(_numbers(view))}.")


def pair_text(view: PairView) -> str:
    """Return the numbers of a pair as HTML, with what each language contributes."""
    rows = "".join(
        f"<tr><td>{html.escape(language_named(code).name)}</td>"
        f'<td lang="{code}" dir="auto">{html.escape(view.first[code])}</td>'
        f'<td lang="{code}" dir="auto">{html.escape(view.second[code])}</td>'
        f"<td>{_number(cosine)}</td></tr>"
        for code, cosine in view.per_language.items()
    )
    return (
        f"<p>{'; '.join(_numbers(view))}.</p><table><thead><tr><th>Language</th><th>x</th>"
        f"<th>y</th><th>cosine in it alone</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4f}"
