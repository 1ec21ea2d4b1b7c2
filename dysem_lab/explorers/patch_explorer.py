"""A part of one text's stream in the pass of another, beside what its controls do."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from dysem_lab.consensus import resolve_k
from dysem_lab.display import Progress
from dysem_lab.encoders.base import require_model
from dysem_lab.encoders.settings import check_settings
from dysem_lab.explorers.panel import Panel, State, View, menu, slider, text_box
from dysem_lab.explorers.renderings import (
    EXAMPLE,
    Renderer,
    empty_when_it_changes,
    parse_languages,
    parse_renderings,
)
from dysem_lab.inputs import by_language, checked, names_of, one_of
from dysem_lab.models.lens import LensModel
from dysem_lab.models.places import Place
from dysem_lab.models.readout import label
from dysem_lab.prompts import SETTINGS, TEMPLATE_NAMES, TEMPLATES
from dysem_lab.questions.causal_sets import OWN
from dysem_lab.questions.patching import Exchange
from dysem_lab.questions.patching_picture import SETS, Effect, caption, figure
from dysem_lab.translation.translate import Translator

NAMES = {OWN: "S(x): positive in every language", "largest |v|": "as many of the largest |v|"}
N_WORDS = 3  # of each set in the list


def explore_patch(
    lens: LensModel,
    receiver: str,
    donor: str,
    languages: Sequence[str] | None = None,
    translator: Translator | None = None,
    renderings: Mapping[str, str] | None = None,
    *,
    layer: int | None = None,
    dimensions: str = OWN,
    k: int | float = 0.25,
    template: str = "prompteol",
    setting: str = "language-specific",
    language: str = "en",
) -> Panel:
    """Return an explorer that puts a part of a donor's stream into a receiver's pass.

    Both texts run once; a move of block or k then costs passes of the last token alone, one that
    was seen before none. Controls: ``receiver``, ``donor``, ``renderings`` (the donor in other
    languages, lines such as ``fr: Oui.``; emptied when it changes), ``languages``, ``layer`` (from
    1), ``dimensions`` (which set), ``k``, ``template``, ``setting``.

    Args:
        lens: The model, which the copied line of Python calls ``lens``.
        receiver: The text whose pass is changed.
        donor: The text whose vector is put in.
        languages: 𝓛 of the donor's consensus; None is its own language and those of `renderings`.
        translator: Renders what is not typed in.
        renderings: Language → the donor in it, to begin with.
        layer: Block shown first, 0-based; None is three quarters up the model.
        dimensions: Set shown first; as for `patch_effect`, like the next four.
        k: Dimensions per text, or fraction of d.
        template: Prompt template.
        setting: "english" or "language-specific".
        language: The texts' own.

    Raises:
        InputError: Settings that do not exist.
    """
    receiver, donor = checked([receiver, donor])
    given = by_language(renderings)
    checked([*given.values()], "rendering")
    codes = names_of(languages or dict.fromkeys([language, *given]), "language")
    check_settings(codes, "resid", template, setting, "mean")
    one_of(dimensions, SETS, "dimensions")
    n_layers = require_model(lens).n_layers
    layer = 3 * n_layers // 4 if layer is None else layer
    Place("resid", layer).check(n_layers)
    templates = dict.fromkeys([*TEMPLATES, template])
    typed = "\n".join(f"{code}: {text}" for code, text in given.items() if code != language)
    controls = {
        "donor": text_box("Donor", donor),
        "renderings": text_box("Its translations", typed, rows=3, example=EXAMPLE),
        "receiver": text_box("Receiver", receiver),
        "languages": text_box("Languages", ", ".join(codes)),
        "layer": slider("Block", layer + 1, 1, n_layers),
        "dimensions": menu("Set", [(NAMES[name], name) for name in SETS], dimensions),
        "k": slider("k dimensions", resolve_k(k, lens.d_model), 1, lens.d_model),
        "template": menu(
            "Template", [(TEMPLATE_NAMES.get(name, name), name) for name in templates], template
        ),
        "setting": menu("Setting", SETTINGS, setting),
    }
    empty_when_it_changes(controls["donor"], controls["renderings"])
    source = Renderer(translator, language)
    known: dict[tuple[object, ...], Exchange] = {}
    effects: dict[tuple[int, int], Effect] = {}

    def texts(state: State) -> tuple[dict[str, str], list[str]]:
        codes = parse_languages(state["languages"])
        return source.render(state["donor"], parse_renderings(state["renderings"]), codes), codes

    def update(state: State, progress: Progress) -> View:
        donor, codes = texts(state)
        prompted = (state["template"], state["setting"], language)
        key = (state["receiver"], *donor.items(), *codes, *prompted, lens.fingerprint)
        if key not in known:
            exchange = Exchange(lens, state["receiver"], donor, codes, *prompted, progress)
            known.clear()
            effects.clear()
            known[key] = exchange
        at = state["layer"] - 1, state["k"]
        if at not in effects:
            progress(0, 1, "Patching")
            effects[at] = known[key].effect(*at)
        effect, shown = effects[at], state["dimensions"]
        return View(figure(effect, shown), effect_text(effect, shown))

    def python(state: State) -> str:
        donor, codes = texts(state)
        named: dict[str, Any] = {name: state[name] for name in ("k", "template", "setting")}
        values = ", ".join(f"{name}={value!r}" for name, value in named.items())
        return (
            f"import dysem_lab as dl; dl.patch_effect(lens, {state['receiver']!r}, {donor!r}, "
            f"{state['layer'] - 1}, {codes!r}, {state['dimensions']!r}, {values}, "
            f"language={language!r}).figure"
        )

    return Panel(controls, update, python, "patch").refresh()


def effect_text(effect: Effect, dimensions: str) -> str:
    """Return the numbers of an effect as HTML."""
    words = effect.tokens[effect.tokens["rank"] <= N_WORDS]
    said = words["token"].map(label) + words["probability"].map(" {:.2f}".format)
    first = said.groupby(words["set"]).agg(", ".join)
    rows = "".join(
        f"<tr><td>{html.escape(row.set)}</td><td>{row.n_dims:.0f}</td><td>{row.moved:.2f}</td>"
        f"<td>{row.to_donor:.3f}</td><td>{row.to_receiver:.3f}</td><td>{first[row.set]}</td></tr>"
        for row in effect.table.dropna(subset="n_dims").itertuples()
    )
    return (
        f"<p>{caption(effect, dimensions)}</p><table><thead><tr><th>Patched</th><th>of d</th>"
        "<th>way</th><th>cosine to donor</th><th>to receiver</th><th>next words</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )
