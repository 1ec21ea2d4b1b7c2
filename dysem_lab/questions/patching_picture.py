"""What patches of one block did, and the picture of it: next words, and how far each goes."""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from dysem_lab.display import amount
from dysem_lab.models.readout import label, visible
from dysem_lab.questions.causal_sets import COMPLEMENT, LARGEST, OWN, ROTATED, SIZE, WHOLE
from dysem_lab.questions.finding import Facts
from dysem_lab.questions.style import PALETTE, error_bar, layout

SETS = (OWN, LARGEST)  # what can be asked about
SHOWN = (*SETS, SIZE, ROTATED, COMPLEMENT, WHOLE)
RECEIVER, DONOR = "receiver", "donor"  # their own passes
ROW, MARGINS = 24, 330  # px of a token or a set; px around
LETTERS = 14  # of a token in the figure


class Effect(NamedTuple):
    """What patches of one block do.

    Attributes:
        table: The table of `patch_effect`.
        tokens: ``set``, ``rank`` from 1, ``token``, ``id`` and ``probability`` of the next tokens.
        moved: Set → how far each draw goes, float64.
        layer: The block, 0-based.
        d_model: d.
        facts: What it was measured on.
    """

    table: pd.DataFrame
    tokens: pd.DataFrame
    moved: Mapping[str, Float[Tensor, " draws"]]
    layer: int
    d_model: int
    facts: Facts


def figure(effect: Effect, dimensions: str = OWN) -> go.Figure:
    """Return the next tokens of five passes, and how far each patch goes, with its draws' range.

    Args:
        effect: From `Exchange.effect`.
        dimensions: As for `patch_effect`.
    """
    table = effect.table.set_index("set")
    n_draws, top = int(table.loc[SIZE, "n_draws"]), int(effect.tokens["rank"].max())
    passes = {
        RECEIVER: "receiver",
        dimensions: dimensions,
        SIZE: amount(n_draws, "random set"),
        WHOLE: "whole vector",
        DONOR: "donor",
    }
    sets = [name for name in SHOWN if name == dimensions or name not in SETS]
    heights = [ROW * top, ROW * len(sets)]
    drawn = make_subplots(
        rows=2,
        cols=5,
        specs=[[{}] * 5, [{"colspan": 3}, None, None, {"colspan": 2}, None]],
        row_heights=heights,
        vertical_spacing=60 / (sum(heights) + 60),
        horizontal_spacing=0.02,
        subplot_titles=[
            *passes.values(),
            "way to the donor's h<sup>L</sup> (1: all of it)",
            "gain of its first word (nats)",
        ],
    )
    colours = dict.fromkeys([RECEIVER, SIZE, ROTATED], PALETTE[6]) | {dimensions: PALETTE[0]}
    for column, name in enumerate(passes, 1):
        part = effect.tokens[effect.tokens["set"] == name]
        words = part["token"].map(_shortened)
        drawn.add_bar(
            orientation="h",
            x=part["probability"],
            y=part["rank"],
            marker={"color": colours.get(name, PALETTE[1]), "opacity": 0.65},
            text=words + part["probability"].map(" {:.2f}".format),
            textposition="outside",
            textfont={"size": 12},
            constraintext="none",
            cliponaxis=False,
            customdata=part["token"].map(label),
            hovertemplate="%{customdata}: %{x:.4f}<extra></extra>",
            showlegend=False,
            row=1,
            col=column,
        )
    places = list(range(len(sets), 0, -1))
    for column, measure in ((1, "moved"), (4, "gain")):
        of = table.loc[sets]
        middle, low, high = (of[measure + end] for end in ("", "_low", "_high"))
        drawn.add_scatter(
            x=middle,
            y=places,
            mode="markers",
            marker={
                "size": 11,
                "color": [colours.get(name, PALETTE[1]) for name in sets],
            },
            error_x=error_bar(middle, low, high),
            customdata=[f"{name}, {int(of.loc[name, 'n_draws'])} drawn" for name in sets],
            hovertemplate="%{customdata}: %{x:.3f}<extra></extra>",
            showlegend=False,
            row=2,
            col=column,
        )
        names = [f"<b>{name}</b>" if name == dimensions else name for name in sets]
        ticks = {"tickvals": places, "ticktext": names, "showticklabels": column == 1}
        drawn.update_yaxes(range=[0.4, len(sets) + 0.6], row=2, col=column, **ticks)
        drawn.add_vline(0, line={"color": "#999999", "width": 1}, row=2, col=column)
    longest = 2.6 * effect.tokens.loc[effect.tokens["set"].isin(passes), "probability"].max()
    hidden = {"showticklabels": False, "showgrid": False, "row": 1}
    drawn.update_xaxes(range=[0, longest], **hidden)
    drawn.update_yaxes(range=[top + 0.6, 0.4], **hidden)
    drawn.update_annotations(font_size=13)
    title = f"What does {dimensions} of the donor carry at block {effect.layer + 1}?"
    height = sum(heights) + MARGINS
    return layout(drawn, title, effect.facts, height).update_layout(margin_l=170)


def _shortened(token: str) -> str:
    """Return a token as it fits beside its bar."""
    return label(token if len(token) <= LETTERS else f"{token[: LETTERS - 1]}…")


def caption(effect: Effect, dimensions: str = OWN) -> str:
    """Return in words how far a patch goes beside its controls, and which words come next.

    Args:
        effect: From `Exchange.effect`.
        dimensions: As for `patch_effect`.
    """
    moved, n_dims = effect.moved, effect.table.set_index("set").loc[dimensions, "n_dims"]
    own, size, rotated = moved[dimensions], moved[SIZE], moved[ROTATED]
    words = effect.tokens[effect.tokens["rank"] == 1].set_index("set")["token"].map(visible)
    return (
        f"{dimensions} of the donor ({n_dims:.0f} of {effect.d_model} dimensions) takes the "
        f"receiver {_share(own)} of the way to the donor at block {effect.layer + 1}: further "
        f"than {int((size < own).sum())} of {len(size)} random sets of its size (mean "
        f"{_share(size)}) and than {int((rotated < own).sum())} of {len(rotated)} times the "
        f"same construction in a random rotation ({_share(rotated)}); the complement of S(x) goes "
        f"{_share(moved[COMPLEMENT])}, the whole vector {_share(moved[WHOLE])}. Next "
        f"word “{words[dimensions]}”, where the receiver's own is “{words[RECEIVER]}” and the "
        f"donor's “{words[DONOR]}”. One pair of texts is an example and no test: that is notebook "
        "27."
    )


def _share(moved: Float[Tensor, " draws"]) -> str:
    """Return a mean in percent; a negative that is none in whole percents is 0."""
    return f"{round(moved.mean().item(), 2) + 0.0:.0%}"
