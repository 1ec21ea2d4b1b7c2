"""Contrastive Prompting while its settings move: what comes next, and what is similar to what."""

import html
import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from dysem_lab.display import Progress, silent
from dysem_lab.encoders.contrastive import check_output
from dysem_lab.errors import InputError, choices
from dysem_lab.explorers.panel import Panel, State, View, menu, slider, text_box
from dysem_lab.inputs import checked
from dysem_lab.joint import cosine
from dysem_lab.models.last_token import Prefix, prefixes, record_edits
from dysem_lab.models.lens import LensModel
from dysem_lab.models.places import Place, output_place
from dysem_lab.models.readout import label, token_texts
from dysem_lab.models.record import Edit, finite
from dysem_lab.models.steering import (
    NORMS,
    POSITIONS,
    AuxiliaryVectors,
    Contrast,
    Intervention,
    check_contrast,
    warn_if_alpha_is_undone,
)
from dysem_lab.prompts import TEMPLATE_NAMES, TEMPLATES, auxiliaries, wrap
from dysem_lab.questions.predictions import FUNCTION_WORD, FUNCTION_WORDS, OTHER_TOKEN, ROW
from dysem_lab.questions.style import PALETTE, layout

PLAIN = "plain"
PROBES = (
    "A puppy is napping.",
    "The dog is wide awake.",
    "A cat sits on a fence.",
    "The bank raised its interest rates.",
)
MARGINS, LINE = 290, 46  # px around the rows; characters of a probe in a line


class Steered(NamedTuple):
    """What a text and the probes give under one contrast, or plain.

    Attributes:
        probabilities: Of the next token after the text's prompt, float32 ``[n_tokens]``.
        vectors: The embedding of the text and then of each probe, float32 ``[1 + n_probes, d]``.
    """

    probabilities: Float[Tensor, " n_tokens"]
    vectors: Float[Tensor, "n d"]


class SteeredTexts:
    """Texts under one prompt, with everything kept that a contrast does not change.

    A contrast changes the last token only. So all tokens before it are run once, each auxiliary
    prompt once for all blocks and positions, and a setting costs one pass of the last tokens. Norm
    "self_scaling", which changes every token, and a model whose beginnings cannot be shared cost a
    whole pass.

    Args:
        lens: The model.
        texts: The text, and then the probes.
        template: As for `dysem_lab.wrap`; a prompt, and one alone.
        progress: Called between the passes.

    Raises:
        InputError: An empty text, an unknown template, or one that is no single prompt.
    """

    def __init__(
        self,
        lens: LensModel,
        texts: Sequence[str],
        template: str = "prompteol",
        progress: Progress = silent,
    ) -> None:
        """Run the tokens that no contrast changes."""
        if template == "none":
            raise InputError("template 'none' has no prompt to contrast; use 'prompteol'")
        self.lens, self.texts, self.template = lens, checked(texts), template
        self._prompts = wrap(self.texts, template)
        self._auxiliary: dict[str, AuxiliaryVectors] = {}
        self._plain: dict[Place, Steered] = {}
        self._prefixes: list[Prefix] = []
        for prefix in prefixes(lens, self._prompts):
            progress(len(self._prefixes), len(self._prefixes) + 1, "Reading")
            self._prefixes.append(prefix)

    def read(
        self, contrast: Contrast | None = None, output_layer: int | str = "penultimate"
    ) -> Steered:
        """Return the prediction and the embeddings under a contrast; None is the plain prompt.

        Args:
            contrast: The intervention.
            output_layer: As for `dysem_lab.ContrastivePrompting`.

        Raises:
            InputError: A block or head that the model does not have, or an output layer that is
                before the contrast.
            ModelError: A vector or the prediction is not finite.
        """
        n_layers = self.lens.n_layers
        edit = Edit(self.lens)
        if contrast is None:
            place = output_place(output_layer, n_layers)
            if place in self._plain:
                return self._plain[place]
        else:
            edit = Intervention(self.lens, contrast, self._auxiliary_of(contrast))
            place = check_output(output_layer, contrast, n_layers)
        vectors = torch.empty(len(self.texts), self.lens.d_model)
        for prefix in self._prefixes:
            (read,) = record_edits(self.lens, prefix, {"": edit}, [place], logits=True).values()
            vectors[prefix.rows] = read.vectors[place]
            if read.logits is not None and 0 in prefix.rows:
                prediction = read.logits[prefix.rows.index(0)]
        finite(self.lens, "the prediction", prediction)
        result = Steered(prediction.softmax(-1), vectors)
        if contrast is None:
            self._plain[place] = result
        return result

    def _auxiliary_of(self, contrast: Contrast) -> AuxiliaryVectors | None:
        """Return the vectors of an auxiliary prompt, read at all blocks and positions at once."""
        check_contrast(contrast, self.lens)
        name = contrast.auxiliary
        if contrast.every_token:
            return None
        if name not in self._auxiliary:
            places = itertools.product(range(self.lens.n_layers), POSITIONS)
            everywhere = [Contrast(block, position=p, auxiliary=name) for block, p in places]
            self._auxiliary[name] = AuxiliaryVectors(self.lens, everywhere)
            self._auxiliary[name](self._prompts, contrast)
        return self._auxiliary[name]


@dataclass(frozen=True)
class ContrastView:
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
        measured_on: Model, prompt, contrast and output layer.
    """

    tokens: pd.DataFrame
    probes: pd.DataFrame
    moved: float
    remark: str
    text: str
    measured_on: str


def contrast_view(
    texts: SteeredTexts, contrast: Contrast, output_layer: int | str = "penultimate", top: int = 10
) -> ContrastView:
    """Return what a contrast does to the first of some texts, and to its likeness to the others.

    Args:
        texts: The text and the probes.
        contrast: The intervention.
        output_layer: Where embeddings are read, as for `dysem_lab.ContrastivePrompting`.
        top: Tokens per variant.

    Raises:
        InputError: As for `SteeredTexts.read`, or `top` below 1 or above the number of tokens.

    Source: CP (arXiv 2505.12831), Section 3 and Table 7.
    """
    lens = texts.lens
    steered, plain = texts.read(contrast, output_layer), texts.read(None, output_layer)
    name = str(contrast)
    template = TEMPLATE_NAMES.get(texts.template, texts.template)
    measured_on = f"{lens.label}, {template}, {_described(contrast)}, output layer {output_layer}"
    both = {PLAIN: plain.probabilities, name: steered.probabilities}
    moved = (steered.probabilities.double() - plain.probabilities.double()).abs().sum() / 2
    return ContrastView(
        _token_table(lens, both, top),
        _probe_table(texts.texts, plain.vectors, steered.vectors),
        float(moved),
        remark(lens, contrast),
        texts.texts[0],
        measured_on,
    )


def _described(contrast: Contrast) -> str:
    """Return the settings of a contrast as figures have them, with layers from 1."""
    used = contrast.settings
    parts = [f"layer {contrast.layer + 1}", contrast.norm]
    parts += [f"α = {used['alpha']:g}"] if used["alpha"] is not None else []
    parts += [f"at {contrast.position}"]
    parts += [f"heads {'/'.join(str(h + 1) for h in used['heads'])}"] if used["heads"] else []
    parts += [f"auxiliary {contrast.auxiliary!r}"] if used["auxiliary"] is not None else []
    return ", ".join(parts)


def _token_table(lens: LensModel, found: Mapping[str, Tensor], top: int) -> pd.DataFrame:
    n_tokens = next(iter(found.values())).numel()
    if isinstance(top, bool) or not isinstance(top, int) or not 1 <= top <= n_tokens:
        raise InputError(f"top must be between 1 and {n_tokens}, got {top!r}")
    plain = set(found[PLAIN].topk(top).indices.tolist())
    rows = []
    for variant, probabilities in found.items():
        best = probabilities.topk(top)
        ids = best.indices.tolist()
        for rank, (token, text, p) in enumerate(
            zip(ids, token_texts(lens, ids), best.values.tolist(), strict=True), 1
        ):
            rows.append(
                {
                    "variant": variant,
                    "rank": rank,
                    "token": text,
                    "id": token,
                    "probability": p,
                    "function_word": text.strip().lower() in FUNCTION_WORDS,
                    "known": token in plain,
                }
            )
    return pd.DataFrame(rows)


def _probe_table(
    texts: Sequence[str], plain: Float[Tensor, "n d"], steered: Float[Tensor, "n d"]
) -> pd.DataFrame:
    values = [
        cosine(vectors[:1].expand_as(vectors[1:]), vectors[1:]).tolist()
        for vectors in (plain, steered)
    ]
    table = pd.DataFrame({"probe": list(texts[1:]), "plain": values[0], "steered": values[1]})
    return table.assign(change=table["steered"] - table["plain"])


def remark(lens: LensModel, contrast: Contrast) -> str:
    """Return the sentence that says why α has no effect in this model; "" where it has."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        warn_if_alpha_is_undone(contrast, lens)
    return "; ".join(str(warning.message) for warning in said)


def contrast_figure(
    lens: LensModel,
    text: str,
    contrast: Contrast,
    probes: Sequence[str] = PROBES,
    template: str = "prompteol",
    output_layer: int | str = "penultimate",
    top: int = 10,
) -> go.Figure:
    """Return what a contrast does to a text: next tokens before and after, and likeness to probes.

    Arguments and errors as for `SteeredTexts` and `contrast_view`.
    """
    texts = SteeredTexts(lens, [text, *checked(probes, "probe")], template)
    return view_figure(contrast_view(texts, contrast, output_layer, top))


def view_figure(view: ContrastView) -> go.Figure:
    """Return the figure of `contrast_figure` from a view that is known already."""
    variants = view.tokens["variant"].unique().tolist()
    top = int(view.tokens["rank"].max())
    tokens_height, probes_height = ROW * top, max(2 * ROW * len(view.probes), ROW)
    figure = make_subplots(
        rows=2,
        cols=2,
        specs=[[{}, {}], [{"colspan": 2}, None]],
        row_heights=[tokens_height, probes_height],
        horizontal_spacing=0.02,
        vertical_spacing=60 / (tokens_height + probes_height),
        subplot_titles=[
            "next token, plain",
            f"next token, steered ({view.moved:.0%} moved)",
            "cosine with the probes" if len(view.probes) else "",
        ],
    )
    for column, variant in enumerate(variants, 1):
        part = view.tokens[view.tokens["variant"] == variant]
        colours = part["function_word"].map({True: FUNCTION_WORD, False: OTHER_TOKEN})
        figure.add_bar(
            orientation="h",
            x=part["probability"],
            y=part["rank"],
            marker={
                "color": colours.where(part["known"], "#FFFFFF"),
                "line": {"color": colours, "width": 1.5},
            },
            text=part["token"].map(label) + part["probability"].map("  {:.3f}".format),
            textposition="outside",
            constraintext="none",
            cliponaxis=False,
            showlegend=False,
            hovertemplate="%{text}<extra></extra>",
            row=1,
            col=column,
        )
    places = list(range(1, len(view.probes) + 1))
    dumbbell = {"row": 2, "col": 1}
    figure.add_scatter(
        x=[x for row in view.probes.itertuples() for x in (row.plain, row.steered, None)],
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
            x=view.probes[name],
            y=places,
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 10},
            name=name,
            customdata=[html.escape(probe) for probe in view.probes["probe"]],
            hovertemplate="%{customdata}: %{x:.4f}",
            **dumbbell,
        )
    for name, fill, line in (
        ("function word", FUNCTION_WORD, FUNCTION_WORD),
        ("other token", OTHER_TOKEN, OTHER_TOKEN),
        (f"hollow: not in the plain top {top}", "#FFFFFF", "#555555"),
    ):
        marker = {"color": fill, "line": {"color": line, "width": 1.5}}
        figure.add_bar(x=[None], y=[None], marker=marker, name=name, showlegend=True)
    longest = 2.1 * view.tokens["probability"].max()
    figure.update_yaxes(range=[top + 0.6, 0.4], showticklabels=False, showgrid=False, row=1)
    figure.update_yaxes(
        range=[len(places) + 0.6, 0.4],
        showticklabels=True,
        side="right",
        tickvals=places,
        ticktext=[_broken(probe) for probe in view.probes["probe"]],
        row=2,
    )
    figure.update_xaxes(range=[0, longest], showticklabels=False, showgrid=False, row=1)
    figure.update_annotations(font_size=13)
    height = tokens_height + probes_height
    title = f"What does the contrast change? “{html.escape(view.text[:60])}”"
    figure = layout(figure, title, view.measured_on, height + MARGINS)
    return figure.update_layout(margin_b=150, legend_y=-60 / height)


def _broken(probe: str) -> str:
    """Return a probe in lines that fit beside a figure."""
    lines = [""]
    for word in probe.split(" "):
        if lines[-1] and len(lines[-1]) + len(word) >= LINE:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(html.escape(line) for line in lines[:3])


def view_text(view: ContrastView) -> str:
    """Return the numbers of a view as HTML."""
    shares = [
        part.loc[part["function_word"], "probability"].sum()
        for _, part in view.tokens.groupby("variant", sort=False)
    ]
    top = int(view.tokens["rank"].max())
    rows = "".join(
        f'<tr><td dir="auto">{html.escape(row.probe)}</td><td>{row.plain:.4f}</td>'
        f"<td>{row.steered:.4f}</td><td>{row.change:+.4f}</td></tr>"
        for row in view.probes.itertuples()
    )
    said = f"<p><b>{html.escape(view.remark)}.</b></p>" if view.remark else ""
    return (
        f"<p>{view.moved:.1%} of the probability of the next token moves; function words in the "
        f"top {top}: {shares[0]:.1%} plain, {shares[-1]:.1%} steered.</p>{said}"
        "<table><thead><tr><th>Probe</th><th>plain</th><th>steered</th><th>change</th></tr>"
        f"</thead><tbody>{rows}</tbody></table>"
    )


def explore_contrast(
    lens: LensModel,
    text: str = "A dog sleeps.",
    probes: Sequence[str] = PROBES,
    template: str = "prompteol",
    contrast: Contrast | None = None,
    output_layer: int | str = "penultimate",
    top: int = 10,
) -> Panel:
    """Return an explorer of Contrastive Prompting on a text.

    What no setting changes is run once: the tokens before the last one, and each auxiliary prompt
    for all blocks and positions. A setting then costs a pass of the last tokens, and one that was
    seen before costs none.

    Args:
        lens: The model, which the copied line of Python calls ``lens``.
        text: The text; another can be typed in.
        probes: Sentences that it is compared with, one a line in the panel.
        template: Prompt shown first.
        contrast: Settings shown first; None is the paper's norm scaling with α = 2 at its fifth
            block, or at the middle one of a model with fewer than ten.
        output_layer: Shown first.
        top: Tokens per variant.
    """
    (text,), probes = checked([text]), checked(probes, "probe")
    first = contrast or Contrast(min(4, lens.n_layers // 2))
    known: dict[tuple[str, str, str], SteeredTexts] = {}
    views: dict[tuple[Any, ...], ContrastView] = {}

    def settings(state: State) -> dict[str, Any]:
        chosen = {name: state[name] for name in ("norm", "alpha", "position", "auxiliary")}
        heads = first.heads if chosen["position"] == "heads" else None
        return {"layer": state["layer"] - 1, **chosen, "heads": heads}

    def view(state: State, progress: Progress) -> ContrastView:
        key = (state["text"], state["probes"], state["template"])
        chosen = Contrast(**settings(state))
        if key not in known:
            texts = SteeredTexts(
                lens, [state["text"], *_lines(state["probes"])], state["template"], progress
            )
            known.clear()
            views.clear()
            known[key] = texts
        place = (*chosen.settings.values(), state["output_layer"])
        if place not in views:
            progress(0, 1, "Steering")
            views[place] = contrast_view(known[key], chosen, state["output_layer"], top)
        return views[place]

    def update(state: State, progress: Progress) -> View:
        shown = view(state, progress)
        return View(view_figure(shown), view_text(shown))

    def python(state: State) -> str:
        chosen = ", ".join(f"{name}={value!r}" for name, value in settings(state).items())
        others = {name: state[name] for name in ("template", "output_layer")} | {"top": top}
        rest = ", ".join(f"{name}={value!r}" for name, value in others.items())
        return (
            "from dysem_lab.explorers import contrast_explorer as ce; ce.contrast_figure("
            f"lens, {state['text']!r}, ce.Contrast({chosen}), {_lines(state['probes'])!r}, {rest})"
        )

    names = [(TEMPLATE_NAMES.get(name, name), name) for name in TEMPLATES if name != "none"]
    if template not in TEMPLATES:
        names.append((template, template))
    outputs: list[int | str] = [*range(1, lens.n_layers + 1), "penultimate", "last", "final"]
    if output_layer not in outputs:
        raise choices("output layer", output_layer, outputs)
    named = list(dict.fromkeys([*auxiliaries(), first.auxiliary]))
    return Panel(
        {
            "text": text_box("Text", text),
            "probes": text_box("Probes", "\n".join(probes), rows=max(2, len(probes))),
            "template": menu("Prompt", names, template),
            "layer": slider("Layer", first.layer + 1, 1, lens.n_layers),
            "alpha": slider("α", float(first.alpha), -5.0, 10.0, 0.1),
            "norm": menu("Norm", NORMS, first.norm),
            "position": menu("Position", list(POSITIONS), first.position),
            "auxiliary": menu("Auxiliary", named, first.auxiliary),
            "output_layer": menu("Output layer", outputs, output_layer),
        },
        update,
        python,
        "contrast",
    ).refresh()


def _lines(probes: str) -> list[str]:
    """Return the sentences that are typed in, one a line."""
    return [line.strip() for line in probes.splitlines() if line.strip()]
