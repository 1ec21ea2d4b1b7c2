"""Contrastive Prompting while its settings move: what comes next, and what is similar to what."""

import html
from collections.abc import Sequence
from typing import Any

from dysem_lab.display import Progress
from dysem_lab.encoders.base import PromptEncoder
from dysem_lab.errors import InputError, choices
from dysem_lab.explorers.controls import menu, slider, text_box
from dysem_lab.explorers.panel import Panel, State, View
from dysem_lab.explorers.python import call
from dysem_lab.explorers.renderings import read_note, typed_sentence
from dysem_lab.explorers.standing import Standing
from dysem_lab.inputs import checked
from dysem_lab.models.lens import LensModel, require_model
from dysem_lab.models.places import output_place
from dysem_lab.models.steering import NORMS, POSITIONS, Contrast
from dysem_lab.models.store import VectorStore
from dysem_lab.prompts import TEMPLATE_NAMES, TEMPLATES, auxiliaries
from dysem_lab.questions.contrast_effect import (
    PROBES,
    Effect,
    contrast_effect,
    figure,
    read_effect,
    summary,
)
from dysem_lab.questions.names import (
    AUXILIARY_NAMES,
    NORM_NAMES,
    OUTPUT_NAMES,
    POSITION_NAMES,
    named,
)
from dysem_lab.questions.scale import Scale
from dysem_lab.questions.steered import SteeredTexts


def explore_contrast(
    lens: LensModel,
    text: str = "A dog sleeps.",
    probes: Sequence[str] = PROBES,
    template: str = "prompteol",
    contrast: Contrast | None = None,
    output_layer: int | str = "penultimate",
    top: int = 10,
    *,
    store: VectorStore | None = None,
    plain: bool | None = None,
) -> Panel:
    """Return an explorer of Contrastive Prompting on a text.

    What no setting changes is run once: the tokens before the last one, and each auxiliary prompt
    for all blocks and positions. A setting then costs a pass of the last tokens, and one that was
    seen before costs none.

    Args:
        lens: The model, which the Python of the panel calls ``lens``.
        text: The text; another can be typed in.
        probes: Sentences that it is compared with, one a line in the panel.
        template: Prompt shown first.
        contrast: Settings shown first; None is the paper's norm scaling with α = 2 at its fifth
            block, or at the middle one of a model with fewer than ten.
        output_layer: Shown first.
        top: Tokens per variant.
        store: Where the demo pairs are kept that a plain cosine is placed among; None is the
            user's. A steered one has no scale: its demo pairs would have to be steered too.
        plain: As for `Panel`.
    """
    (text,), probes = checked([text]), checked(probes, "probe")
    first = contrast or Contrast(min(4, require_model(lens).n_layers // 2))
    known: dict[tuple[str, str, str], SteeredTexts] = {}
    effects: dict[tuple[Any, ...], Effect] = {}
    standing = Standing(store)

    def settings(state: State) -> dict[str, Any]:
        chosen = {name: state[name] for name in ("norm", "alpha", "position", "auxiliary")}
        heads = first.heads if chosen["position"] == "heads" else None
        return {"layer": state["layer"] - 1, **chosen, "heads": heads}

    def effect_at(state: State, progress: Progress) -> Effect:
        text = typed_sentence(state["text"], "text")
        key = (text, state["probes"], state["template"])
        chosen = Contrast(**settings(state))
        if not chosen.reaches(output_place(state["output_layer"], lens.n_layers), lens.n_layers):
            raise InputError(
                f"the vector is read {output_names[state['output_layer']]}, which the contrast at "
                f"layer {state['layer']} does not reach; choose a lower Layer, or open Settings "
                "and choose a later block under Vector read"
            )
        if key not in known:
            texts = SteeredTexts(
                lens, [text, *_lines(state["probes"])], state["template"], progress
            )
            known.clear()
            effects.clear()
            known[key] = texts
        place = (*chosen.settings.values(), state["output_layer"])
        if place not in effects:
            progress(0, 1, "Steering")
            effects[place] = read_effect(known[key], chosen, state["output_layer"], top)
        return effects[place]

    def update(state: State, progress: Progress) -> View:
        effect = effect_at(state, progress)
        encoder = PromptEncoder(lens, state["template"], state["output_layer"])
        scale, offer = standing.scale(encoder)
        texts = [{"en": text} for text in (effect.text, *_lines(state["probes"]))]
        note = read_note(lens, texts, state["template"])
        return View(figure(effect), effect_text(effect, scale), note, offer)

    def python(state: State) -> str:
        contrast = call("ce.Contrast", Contrast, **settings(state))
        given = ("lens", repr(state["text"]), "contrast", repr(_lines(state["probes"])))
        others = {name: state[name] for name in ("template", "output_layer")} | {"top": top}
        return "\n".join(
            [
                "from dysem_lab.questions import contrast_effect as ce",
                "",
                f"contrast = {contrast}",
                call("ce.contrast_effect", contrast_effect, *given, **others),
            ]
        )

    names = [(TEMPLATE_NAMES.get(name, name), name) for name in TEMPLATES if name != "none"]
    if template not in TEMPLATES:
        names.append((template, template))
    outputs: list[int | str] = [*range(1, lens.n_layers + 1), "penultimate", "last", "final"]
    if output_layer not in outputs:
        raise choices("output layer", output_layer, outputs)
    after = {block: f"after block {block}" for block in range(1, lens.n_layers + 1)}
    output_names: dict[Any, str] = {**after, **OUTPUT_NAMES}
    others = list(dict.fromkeys([*auxiliaries(), first.auxiliary]))
    return Panel(
        {
            "text": text_box("Text", text),
            "probes": text_box("Probes", "\n".join(probes), rows=max(2, len(probes))),
            "template": menu("Prompt", names, template),
            "layer": slider("Layer", first.layer + 1, 1, lens.n_layers),
            "alpha": slider("α", float(first.alpha), -5.0, 10.0, 0.1),
            "norm": menu("Norm", named(NORM_NAMES, NORMS), first.norm),
            "position": menu("Position", named(POSITION_NAMES, POSITIONS), first.position),
            "auxiliary": menu("Auxiliary", named(AUXILIARY_NAMES, others), first.auxiliary),
            "output_layer": menu("Vector read", named(output_names, outputs), output_layer),
        },
        update,
        python,
        lambda state: f"Contrast: {state['text']}",
        folded=("template", "norm", "position", "auxiliary", "output_layer"),
        plain=plain,
    ).refresh()


def _lines(probes: str) -> list[str]:
    """Return the sentences that are typed in, one a line."""
    return [line.strip() for line in probes.splitlines() if line.strip()]


def effect_text(effect: Effect, scale: Scale | None = None) -> str:
    """Return the numbers of an effect as HTML.

    Args:
        effect: From `read_effect`.
        scale: Where a plain cosine stands among those of the demo pairs.
    """
    rows = "".join(
        f'<tr><td dir="auto">{html.escape(row.probe)}</td><td>{row.plain:.4f}</td>'
        + (f"<td>{scale.above(row.plain)}</td>" if scale else "")
        + (
            f"<td>{row.steered:.4f}</td><td>{round(row.change, 4) + 0:+.4f}</td></tr>"
            if row.change == row.change
            else "<td>undefined</td><td></td></tr>"
        )
        for row in effect.probes.itertuples()
    )
    said = f"<p><b>{html.escape(effect.remark)}.</b></p>" if effect.remark else ""
    if effect.probes["change"].isna().any():
        said += "<p>A vector of which the contrast leaves only zeros has no cosine.</p>"
    if effect.probes.empty:
        return f"<p>{summary(effect)}.</p>{said}<p>Type probes, one a line, to compare with.</p>"
    above = f"<th>plain, above so many of the {scale.of}</th>" if scale else ""
    return (
        f"<p>{summary(effect)}.</p>{said}<table><thead><tr><th>Probe</th><th>plain</th>{above}"
        f"<th>steered</th><th>change</th></tr></thead><tbody>{rows}</tbody></table>"
    )
