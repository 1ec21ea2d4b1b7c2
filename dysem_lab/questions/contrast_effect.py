"""What does a contrast change for one text? Its next tokens, and its likeness to other texts."""

import html
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

from dysem_lab.encoders.contrastive import check_output
from dysem_lab.inputs import at_least, checked
from dysem_lab.joint import cosine
from dysem_lab.models.lens import LensModel, require_model
from dysem_lab.models.readout import label, token_texts
from dysem_lab.models.steering import Contrast, check_contrast, warn_if_alpha_is_undone
from dysem_lab.prompts import TEMPLATE_NAMES
from dysem_lab.questions.finding import Facts, Finding
from dysem_lab.questions.names import POSITION_NAMES
from dysem_lab.questions.predictions import (
    FUNCTION_WORDS,
    ROW,
    check_top,
    colour_legend,
    token_bars,
    total_variation,
)
from dysem_lab.questions.steered import SteeredTexts
from dysem_lab.questions.style import PALETTE, layout

PLAIN = "plain"
PROBES = (
    "A puppy is napping.",
    "The dog is wide awake.",
    "A cat sits on a fence.",
    "The bank raised its interest rates.",
)
MARGINS, LINE = 290, 46  # px around the rows; characters of a probe in a line


def contrast_effect(
    lens: LensModel,
    text: str,
    contrast: Contrast,
    probes: Sequence[str] = PROBES,
    template: str = "prompteol",
    output_layer: int | str = "penultimate",
    top: int = 10,
) -> Finding:
    """Show what a contrast does to a text: next tokens before and after, and likeness to probes.

    Args:
        lens: The model.
        text: The text.
        contrast: The intervention.
        probes: Sentences that the text is compared with.
        template: As for `dysem_lab.wrap`; a prompt, and one alone.
        output_layer: Where embeddings are read, as for `dysem_lab.ContrastivePrompting`.
        top: Tokens per variant.

    Returns:
        The rows of `Effect.tokens`, with ``shown`` "next token"; then one row per probe and
        ``variant``, with ``shown`` "probe", ``probe`` and ``cosine``.

    Raises:
        InputError: As for `SteeredTexts` and `read_effect`.
        ModelError: A vector or the prediction is not finite.

    Source: CP (arXiv 2505.12831), Section 3 and Table 7.
    """
    check_contrast(contrast, require_model(lens))
    check_output(output_layer, contrast, lens.n_layers)
    at_least(top, 1, "top")
    texts = SteeredTexts(lens, [text, *checked(probes, "probe")], template)
    effect = read_effect(texts, contrast, output_layer, top)
    asked = {"template": template, "output_layer": output_layer, "top": top}
    facts = Facts(
        lens.facts,
        effect.asked,
        texts.texts[0],
        len(texts.texts),
        [{"label": one} for one in texts.texts],
        unsaid={"text": text, "probes": probes, **asked, "contrast": contrast.settings},
    )
    return Finding("contrast_effect", table(effect), figure(effect), caption(effect), facts)


@dataclass(frozen=True)
class Effect:
    """What a contrast does to a text.

    Attributes:
        tokens: One row per ``variant`` ("plain" and the contrast's name) and ``rank`` from 1 of its
            most probable next tokens: ``token``, ``id``, ``probability``, ``function_word``,
            ``known`` (whether it is among the plain prompt's too).
        probes: One row per ``probe``: its cosine with the text when both are ``plain`` and when
            both are ``steered``, and their difference ``change``.
        moved: Half the summed absolute difference of the two distributions (0 for equal ones, 1
            for disjoint ones).
        remark: What to know of these settings in this model; "" where there is nothing.
        text: The text.
        model: Its name, and how its weights are stored.
        asked: Prompt, contrast and output layer.
    """

    tokens: pd.DataFrame
    probes: pd.DataFrame
    moved: float
    remark: str
    text: str
    model: str
    asked: str

    @property
    def measured_on(self) -> str:
        """The line under the figure's title."""
        return f"{self.model}, {self.asked}"


def read_effect(
    texts: SteeredTexts, contrast: Contrast, output_layer: int | str = "penultimate", top: int = 10
) -> Effect:
    """Return what a contrast does to the first of some texts, and to its likeness to the others.

    Args:
        texts: The text and the probes.
        contrast: The intervention.
        output_layer: Where embeddings are read, as for `dysem_lab.ContrastivePrompting`.
        top: Tokens per variant.

    Raises:
        InputError: As for `SteeredTexts.read`, or `top` below 1 or above the number of tokens.
    """
    lens = texts.lens
    steered, plain = texts.read(contrast, output_layer), texts.read(None, output_layer)
    template = TEMPLATE_NAMES.get(texts.template, texts.template)
    both = {PLAIN: plain.probabilities, str(contrast): steered.probabilities}
    cosines = {
        name: cosine(vectors[:1].expand_as(vectors[1:]), vectors[1:]).tolist()
        for name, vectors in (("plain", plain.vectors), ("steered", steered.vectors))
    }
    probes = pd.DataFrame({"probe": list(texts.texts[1:]), **cosines})
    return Effect(
        _token_table(lens, both, top),
        probes.assign(change=probes["steered"] - probes["plain"]),
        total_variation(steered.probabilities, plain.probabilities),
        remark(lens, contrast),
        texts.texts[0],
        lens.label,
        f"{template}, {_described(contrast)}, output layer {output_layer}",
    )


def _described(contrast: Contrast) -> str:
    """Return the settings of a contrast as figures have them, with layers from 1."""
    used = contrast.settings
    parts = [f"layer {contrast.layer + 1}", contrast.norm]
    parts += [f"α = {used['alpha']:g}"] if used["alpha"] is not None else []
    parts += [f"at {POSITION_NAMES.get(contrast.position, contrast.position)}"]
    parts += [f"heads {'/'.join(str(h + 1) for h in used['heads'])}"] if used["heads"] else []
    parts += [f"auxiliary {contrast.auxiliary!r}"] if used["auxiliary"] is not None else []
    return ", ".join(parts)


def _token_table(lens: LensModel, found: Mapping[str, Tensor], top: int) -> pd.DataFrame:
    check_top(top, found[PLAIN].numel())
    parts = []
    for variant, probabilities in found.items():
        best = probabilities.topk(top)
        ids = best.indices.tolist()
        part = {"variant": variant, "rank": range(1, top + 1), "token": token_texts(lens, ids)}
        parts.append(pd.DataFrame({**part, "id": ids, "probability": best.values.tolist()}))
    table = pd.concat(parts, ignore_index=True)
    words = table["token"].str.strip().str.lower().isin(FUNCTION_WORDS)
    plain = table.loc[table["variant"] == PLAIN, "id"]
    return table.assign(function_word=words, known=table["id"].isin(plain))


def remark(lens: LensModel, contrast: Contrast) -> str:
    """Return the sentence that says why α has no effect in this model; "" where it has."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        warn_if_alpha_is_undone(contrast, lens)
    return "; ".join(str(warning.message) for warning in said)


def table(effect: Effect) -> pd.DataFrame:
    """Return the table of `contrast_effect`: the next tokens and the probes of an effect."""
    names = dict(zip(("plain", "steered"), effect.tokens["variant"].unique(), strict=True))
    probes = effect.probes.rename(columns=names).melt(
        "probe", list(names.values()), "variant", "cosine"
    )
    parts = [
        effect.tokens.assign(shown="next token").astype({"rank": "Int64", "id": "Int64"}),
        probes.assign(shown="probe"),
    ]
    found = pd.concat([part for part in parts if len(part)], ignore_index=True)
    return found[["shown", *found.columns.drop("shown")]]


def figure(effect: Effect) -> go.Figure:
    """Return the figure of `contrast_effect` from an effect that is known already."""
    variants = effect.tokens["variant"].unique().tolist()
    top = int(effect.tokens["rank"].max())
    tokens_height, probes_height = ROW * top, max(2 * ROW * len(effect.probes), ROW)
    figure = make_subplots(
        rows=2,
        cols=2,
        specs=[[{}, {}], [{"colspan": 2}, None]],
        row_heights=[tokens_height, probes_height],
        horizontal_spacing=0.02,
        vertical_spacing=60 / (tokens_height + probes_height),
        subplot_titles=[
            "next token, plain",
            f"next token, steered ({effect.moved:.0%} moved)",
            "cosine with the probes" if len(effect.probes) else "",
        ],
    )
    for column, variant in enumerate(variants, 1):
        part = effect.tokens[effect.tokens["variant"] == variant]
        options = {"constraintext": "none", "hovertemplate": "%{text}<extra></extra>"}
        token_bars(figure, part.assign(y=part["rank"]), label, 1, column, **options)
    places = list(range(1, len(effect.probes) + 1))
    dumbbell = {"row": 2, "col": 1}
    figure.add_scatter(
        x=[x for row in effect.probes.itertuples() for x in (row.plain, row.steered, None)],
        y=[y for place in places for y in (place, place, None)],
        mode="lines",
        line={"color": "#999999", "width": 2},
        hoverinfo="skip",
        showlegend=False,
        **dumbbell,
    )
    for name, colour, symbol in (
        ("plain", "#777777", "circle"),
        ("steered", PALETTE[0], "diamond"),
    ):
        figure.add_scatter(
            x=effect.probes[name],
            y=places,
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 10},
            name=name,
            customdata=[html.escape(probe, quote=False) for probe in effect.probes["probe"]],
            hovertemplate="%{customdata}: %{x:.4f}",
            **dumbbell,
        )
    colour_legend(figure, f"hollow: not in the plain top {top}")
    longest = 2.1 * effect.tokens["probability"].max()
    figure.update_yaxes(range=[top + 0.6, 0.4], showticklabels=False, showgrid=False, row=1)
    figure.update_yaxes(
        range=[len(places) + 0.6, 0.4],
        showticklabels=True,
        side="right",
        tickvals=places,
        ticktext=[_broken(probe) for probe in effect.probes["probe"]],
        row=2,
    )
    figure.update_xaxes(range=[0, longest], showticklabels=False, showgrid=False, row=1)
    figure.update_annotations(font_size=13)
    height = tokens_height + probes_height
    title = f"What does the contrast change? “{html.escape(effect.text[:60], quote=False)}”"
    figure = layout(figure, title, effect.measured_on, height + MARGINS)
    return figure.update_layout(margin_b=150, legend_y=-60 / height)


def _broken(probe: str) -> str:
    """Return a probe in lines that fit beside a figure."""
    lines = textwrap.wrap(probe, LINE, break_long_words=False, break_on_hyphens=False)
    return "<br>".join(html.escape(line, quote=False) for line in lines[:3])


def caption(effect: Effect) -> str:
    """Return one line: how much of the prediction moves, and how the likeness to probes changes."""
    changes = "".join(
        f"; cosine with “{row.probe}” {row.plain:.4f} plain, {row.steered:.4f} steered"
        for row in effect.probes.itertuples()
    )
    said = f" {effect.remark}." if effect.remark else ""
    return f"{summary(effect)}{changes}.{said}"


def summary(effect: Effect) -> str:
    """Return how much of the prediction moves, and what function words have of it."""
    shares = [
        part.loc[part["function_word"], "probability"].sum()
        for _, part in effect.tokens.groupby("variant", sort=False)
    ]
    top = int(effect.tokens["rank"].max())
    return (
        f"{effect.moved:.1%} of the probability of the next token moves; function words in the "
        f"top {top}: {shares[0]:.1%} plain, {shares[-1]:.1%} steered"
    )
