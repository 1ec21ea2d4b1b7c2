"""Two sentences under DySem: why they are similar, and their sets, while settings move."""

import html
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from dysem_lab.consensus import resolve_k
from dysem_lab.data.sts import STSData, load_data
from dysem_lab.display import Progress
from dysem_lab.encoders.dysem import DySem
from dysem_lab.encoders.settings import VECTORS, check_settings
from dysem_lab.errors import InputError
from dysem_lab.explorers.controls import menu, slider
from dysem_lab.explorers.examples import example_pairs
from dysem_lab.explorers.panel import Panel, State, View
from dysem_lab.explorers.python import IMPORT, assigned, call
from dysem_lab.explorers.renderings import (
    SIDES,
    Rendered,
    Renderer,
    checked_renderings,
    language_boxes,
    pair_boxes,
    parse_languages,
    parse_renderings,
    read_note,
    typed_sentence,
    use_all,
)
from dysem_lab.explorers.standing import Standing, headline
from dysem_lab.inputs import checked, names_of, one_of
from dysem_lab.models.lens import LensModel, require_model
from dysem_lab.models.parts import SPLITS
from dysem_lab.models.places import VECTOR_COMPONENTS
from dysem_lab.models.store import VectorStore
from dysem_lab.prompts import SETTINGS, TEMPLATE_NAMES, TEMPLATES
from dysem_lab.questions.explain import explain
from dysem_lab.questions.names import COMPARED_NAMES, SETTING_NAMES, VECTOR_NAMES, named
from dysem_lab.questions.pair import pair, pair_figure, pair_text
from dysem_lab.questions.pair_view import Captures, PairView, pair_view, why_similar
from dysem_lab.translation.translate import Translator

SHOWN = {
    "why: which words": "token",
    "why: which heads": "head",
    "why: which blocks": "block",
    "why: which dimensions": "dimension",
    "as in the paper": "paper",
}
IN_VIEW = ("first", "second", "show")  # the others are under "Settings"
# Pairs of the demo set that an explanation is centred on here: few, since a panel is waited for.
CENTRE_PAIRS = 32


def explore_pair(
    lens: LensModel,
    a: str,
    b: str,
    languages: Sequence[str] | None = None,
    translator: Translator | None = None,
    renderings: Mapping[str, Sequence[str]] | None = None,
    *,
    k: int | float = 0.25,
    component: str = "attn",
    template: str = "prompteol",
    setting: str = "language-specific",
    vector: str = "mean",
    language: str = "en",
    show: str = "token",
    store: VectorStore | None = None,
    plain: bool | None = None,
) -> Panel:
    """Return a panel on two sentences; vectors are kept, so that k and m run no forward pass.

    It first says how similar they are, beside the demo pairs, and why (`dysem_lab.explain`, centred
    on 32 pairs of the demo set, which run through the model once); the sets and the numbers of the
    paper are one click away.

    Renderings come from what is typed in, else from the translator, the demo set, or Apertium where
    it is installed; a language that has none is left out, and that is said. Controls: ``first``,
    ``second``, ``first_renderings``, ``second_renderings`` (lines such as ``fr: Oui.``; emptied
    when the sentence changes), ``languages`` (codes in order), ``language`` (the sentences' own),
    ``m`` (the first so many of them), ``k`` (dimensions per text), ``component``, ``template``,
    ``setting``, ``vector``, ``show``.

    Args:
        lens: The model, which the Python of the panel calls ``lens``.
        a: x.
        b: y.
        languages: 𝓛 at first; None is the texts' own language and those of the renderings.
        translator: Renders what is not typed in.
        renderings: Language → (x, y) in it, to begin with.
        k: As for `dysem_lab.DySem`, like the next four; where the controls begin.
        component: Cumulative vector.
        template: Prompt template.
        setting: "english" or "language-specific".
        vector: "mean" or "source".
        language: The texts' own.
        show: "token", "head", "block" or "dimension" explain; "paper" shows sets and values.
        store: Where the demo pairs are kept that the similarity is placed among; None is the
            user's.
        plain: As for `Panel`.

    Raises:
        DysemLabError: ipywidgets is missing.
        InputError: Settings that do not exist.
    """
    a, b = checked([a, b])
    given = checked_renderings(renderings)
    for code, texts in given.items():
        if len(texts) != 2:
            raise InputError(f"renderings[{code!r}] must be x and y in it, got {texts!r}")
    codes = names_of(languages or dict.fromkeys([language, *given]), "language")
    require_model(lens)
    check_settings(codes, component, template, setting, vector)
    one_of(show, [*SHOWN.values()], "show")
    templates = dict.fromkeys([*TEMPLATES, template])
    controls = {
        **pair_boxes(a, b, given, language),
        "show": menu("Show", [*SHOWN.items()], show),
        **language_boxes(codes, language),
        "m": slider("m languages", len(codes), 1, len(codes)),
        "k": slider("k dimensions", resolve_k(k, lens.d_model), 1, lens.d_model),
        "component": menu("Vector", named(VECTOR_NAMES, VECTOR_COMPONENTS), component),
        "template": menu("Template", named(TEMPLATE_NAMES, templates), template),
        "setting": menu("Prompts", named(SETTING_NAMES, SETTINGS), setting),
        "vector": menu("Compared is", named(COMPARED_NAMES, VECTORS), vector),
    }
    controls["languages"].observe(lambda change: use_all(change["new"], controls["m"]), "value")
    source, captures, standing = Renderer(translator), Captures(lens), Standing(store)

    def texts_of(state: State) -> Rendered:
        asked = parse_languages(state["languages"])
        return source.render(
            [typed_sentence(state[side], f"{side} sentence") for side in SIDES],
            [parse_renderings(state[f"{side}_renderings"]) for side in SIDES],
            asked[: state["m"]],
            state["language"],
            asked,
        )

    def settings(state: State) -> dict[str, Any]:
        return {name: state[name] for name in ("k", "component", "template", "setting", "vector")}

    def asked(state: State) -> tuple[str, str | None]:
        """Return by what x and y are split: by block, where the component has no such parts."""
        by = state["show"]
        if by != "dimension" and by not in SPLITS[state["component"]]:
            by = "block"
        return by, by if by == "token" else None

    def update(state: State, progress: Progress) -> View:
        texts, own = texts_of(state), state["language"]
        (x, y), codes, chosen = texts.texts, texts.languages, settings(state)
        if state["show"] == "paper":
            read: dict[str, Any] = {"captures": captures, "progress": progress}
            view = pair_view(lens, x, y, codes, **chosen, language=own, **read)
            figure, why = pair_figure(view), ""
        else:
            by, other = asked(state)
            centre = _centre((own, *codes))
            view, found = why_similar(
                lens, x, y, codes, by, other, centre, **chosen, language=own, progress=progress
            )
            figure = pair_figure(view) if found is None else found.figure
            why = "" if found is None else f"{found.above}<p>{html.escape(str(found))}</p>"
        place, offer = standing.of(view.encoder, view.similarity, own)
        cut = read_note(lens, texts.texts, state["template"], state["setting"])
        note = " ".join(filter(None, (texts.note, cut)))
        answer = headline(_what(view), view.similarity, place)
        return View(figure, why + pair_text(view), note, offer, answer)

    def python(state: State) -> str:
        texts, own, chosen = texts_of(state), state["language"], settings(state)
        codes = repr(texts.languages)
        lines = [IMPORT, "", *map(assigned, "xy", texts.texts)]
        if state["show"] == "paper":
            return "\n".join(
                [*lines, call("dl.pair", pair, "lens", "x", "y", codes, **chosen, language=own)]
            )
        centre = [own, *(code for code in texts.languages if code != own)]
        split = [*map(repr, filter(None, asked(state))), "centre=centre"]
        return "\n".join(
            [
                *lines,
                f"dysem = {call('dl.DySem', DySem, 'lens', codes, **chosen)}",
                f"centre = dl.load_data('demo', languages={centre}).sample({CENTRE_PAIRS})",
                call("dl.explain", explain, "dysem", "x", "y", *split, language=own),
            ]
        )

    def title(state: State) -> str:
        return f"{state['first']} / {state['second']}"

    return Panel(
        controls,
        update,
        python,
        title,
        folded=[name for name in controls if name not in IN_VIEW],
        examples=example_pairs(codes),
        plain=plain,
    ).refresh()


def _what(view: PairView) -> str:
    """Return what the number of a pair is, and on how many dimensions."""
    return f"DySem similarity, on {view.n_dims} of {view.encoded.vectors.shape[-1]} dimensions"


@cache
def _centre(codes: tuple[str, ...]) -> STSData:
    """Return the pairs that explanations are centred on."""
    return load_data("demo", languages=codes).sample(CENTRE_PAIRS)
