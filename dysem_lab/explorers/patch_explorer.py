"""A part of one text's stream in the pass of another, beside what its controls do."""

import html
from collections.abc import Mapping, Sequence

from dysem_lab.consensus import resolve_k
from dysem_lab.display import Progress
from dysem_lab.encoders.base import PromptEncoder
from dysem_lab.encoders.settings import check_settings
from dysem_lab.explorers.controls import menu, slider, text_box
from dysem_lab.explorers.panel import Panel, State, View
from dysem_lab.explorers.python import IMPORT, assigned, call
from dysem_lab.explorers.renderings import (
    Rendered,
    Renderer,
    language_boxes,
    parse_languages,
    parse_renderings,
    read_note,
    readings,
    sentence_boxes,
    typed_sentence,
)
from dysem_lab.explorers.standing import Standing
from dysem_lab.inputs import by_language, checked, names_of, one_of
from dysem_lab.models.lens import LensModel, require_model
from dysem_lab.models.places import Place
from dysem_lab.models.readout import label
from dysem_lab.models.store import VectorStore
from dysem_lab.prompts import SETTINGS, TEMPLATE_NAMES, TEMPLATES
from dysem_lab.questions.causal_sets import OWN
from dysem_lab.questions.names import SETTING_NAMES, named
from dysem_lab.questions.patching import Exchange, patch_effect
from dysem_lab.questions.patching_picture import RECEIVER, SETS, Effect, caption, figure
from dysem_lab.questions.scale import Scale
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
    store: VectorStore | None = None,
    plain: bool | None = None,
) -> Panel:
    """Return an explorer that puts a part of a donor's stream into a receiver's pass.

    Both texts run once; a move of block or k then costs passes of the last token alone, one that
    was seen before none. Renderings come from where
    `dysem_lab.explorers.pair_explorer.explore_pair` has them. Controls: ``receiver``, ``donor``,
    ``renderings`` (the donor in other languages, lines such as ``fr: Oui.``; emptied when it
    changes), ``languages``, ``language`` (the texts' own), ``layer`` (from 1), ``dimensions``
    (which set), ``k``, ``template``, ``setting``.

    Args:
        lens: The model, which the Python of the panel calls ``lens``.
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
        store: Where the demo pairs are kept that a cosine is placed among; None is the user's.
        plain: As for `Panel`.

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
        **sentence_boxes("donor", "Donor", donor, "renderings", typed),
        "receiver": text_box("Receiver", receiver),
        "layer": slider("Block", layer + 1, 1, n_layers),
        **language_boxes(codes, language),
        "dimensions": menu("Set", named(NAMES, SETS), dimensions),
        "k": slider("k dimensions", resolve_k(k, lens.d_model), 1, lens.d_model),
        "template": menu("Template", named(TEMPLATE_NAMES, templates), template),
        "setting": menu("Prompts", named(SETTING_NAMES, SETTINGS), setting),
    }
    source, standing = Renderer(translator), Standing(store)
    known: dict[tuple[object, ...], Exchange] = {}
    effects: dict[tuple[int, int], Effect] = {}

    def texts_of(state: State) -> Rendered:
        return source.render(
            [typed_sentence(state["donor"], "donor")],
            [parse_renderings(state["renderings"])],
            parse_languages(state["languages"]),
            state["language"],
        )

    def update(state: State, progress: Progress) -> View:
        read, own = texts_of(state), state["language"]
        (donor,), codes = read.texts, read.languages
        receiver = typed_sentence(state["receiver"], "receiver")
        prompted = (state["template"], state["setting"], own)
        key = (receiver, *donor.items(), *codes, *prompted, lens.fingerprint)
        if key not in known:
            exchange = Exchange(lens, receiver, donor, codes, *prompted, progress)
            known.clear()
            effects.clear()
            known[key] = exchange
        at = state["layer"] - 1, state["k"]
        if at not in effects:
            progress(0, 1, "Patching")
            effects[at] = known[key].effect(*at)
        effect, shown = effects[at], state["dimensions"]
        scale, offer = None, None
        if own == "en":  # h^L of the prompt, which is the same in both settings
            scale, offer = standing.scale(PromptEncoder(lens, state["template"], "last"))
        cut = read_note(lens, [donor, {own: receiver}], state["template"], state["setting"])
        return View(
            figure(effect, shown),
            effect_text(effect, shown, scale) + readings([donor], ["Donor"]),
            " ".join(filter(None, (read.note, cut))),
            offer,
        )

    def python(state: State) -> str:
        read, own = texts_of(state), state["language"]
        given = ("lens", repr(state["receiver"]), "donor", repr(state["layer"] - 1))
        asked = {name: state[name] for name in ("dimensions", "k", "template", "setting")}
        codes = repr(read.languages)
        line = call("dl.patch_effect", patch_effect, *given, codes, **asked, language=own)
        return "\n".join([IMPORT, "", assigned("donor", read.texts[0]), line])

    return Panel(
        controls,
        update,
        python,
        lambda state: f"Patch: {state['donor']} into {state['receiver']}",
        folded=[name for name in controls if name not in ("donor", "receiver", "layer")],
        plain=plain,
    ).refresh()


def effect_text(effect: Effect, dimensions: str, scale: Scale | None = None) -> str:
    """Return the numbers of an effect as HTML.

    Args:
        effect: Of a patch.
        dimensions: As for `patch_effect`.
        scale: Where a cosine of two texts' own h^L stands among those of the demo pairs.
    """
    words = effect.tokens[effect.tokens["rank"] <= N_WORDS]
    said = words["token"].map(label) + words["probability"].map(" {:.2f}".format)
    first = said.groupby(words["set"]).agg(", ".join)
    rows = "".join(
        f"<tr><td>{html.escape(row.set)}</td><td>{row.n_dims:.0f}</td><td>{row.moved:.2f}</td>"
        f"<td>{row.to_donor:.3f}</td><td>{row.to_receiver:.3f}</td><td>{first[row.set]}</td></tr>"
        for row in effect.table.dropna(subset="n_dims").itertuples()
    )
    return (
        f"<p>{caption(effect, dimensions)}</p>{_beside(effect, scale)}<table><thead><tr>"
        "<th>Patched</th><th>of d</th><th>way</th><th>cosine to donor</th><th>to receiver</th>"
        f"<th>next words</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _beside(effect: Effect, scale: Scale | None) -> str:
    """Return where the cosine of the two texts as they are stands, if there is a scale."""
    if scale is None:
        return ""
    own = float(effect.table.set_index("set").loc[RECEIVER, "to_donor"])
    return (
        f"<p>As they are, the cosine of the two texts' h<sup>L</sup> is {own:.3f}: "
        f"{html.escape(scale.place(own))}.</p>"
    )
