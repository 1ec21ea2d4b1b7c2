"""Two sentences under DySem: why they are similar, and their sets, while settings move."""

import html
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from dysem_lab.consensus import resolve_k
from dysem_lab.data.sts import STSData, load_data
from dysem_lab.display import Progress
from dysem_lab.encoders.base import require_model
from dysem_lab.encoders.settings import VECTORS, check_settings
from dysem_lab.errors import InputError
from dysem_lab.explorers.panel import Panel, State, View, menu, slider, text_box
from dysem_lab.explorers.renderings import (
    EXAMPLE,
    Renderer,
    checked_renderings,
    empty_when_it_changes,
    parse_languages,
    parse_renderings,
)
from dysem_lab.inputs import checked, names_of, one_of
from dysem_lab.models.lens import LensModel
from dysem_lab.models.parts import SPLITS
from dysem_lab.models.places import VECTOR_COMPONENTS
from dysem_lab.prompts import SETTINGS, TEMPLATE_NAMES, TEMPLATES
from dysem_lab.questions.pair import pair_figure, pair_text
from dysem_lab.questions.pair_view import Captures, pair_view, why_similar
from dysem_lab.questions.style import SYMBOLS
from dysem_lab.translation.translate import Translator

SHOWN = {
    "why: which words": "token",
    "why: which heads": "head",
    "why: which blocks": "block",
    "why: which dimensions": "dimension",
    "as in the paper": "paper",
}
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
) -> Panel:
    """Return a panel on two sentences; vectors are kept, so that k and m run no forward pass.

    It first says why they are similar (`dysem_lab.explain`, centred on 32 pairs of the demo set,
    which run through the model once); the sets and the numbers of the paper are one click away.

    Renderings come from what is typed in, else from the translator. Controls: ``first``,
    ``second``, ``first_renderings``, ``second_renderings`` (lines such as ``fr: Oui.``; emptied
    when the sentence changes), ``languages`` (codes in order), ``m`` (the first so many of them),
    ``k`` (dimensions per text), ``component``, ``template``, ``setting``, ``vector``, ``show``.

    Args:
        lens: The model, which the copied line of Python calls ``lens``.
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

    Raises:
        DysemLabError: ipywidgets is missing.
        InputError: Settings that do not exist.
    """
    a, b = checked([a, b])
    given = checked_renderings(renderings)
    for code, pair in given.items():
        if len(pair) != 2:
            raise InputError(f"renderings[{code!r}] must be x and y in it, got {pair!r}")
    codes = names_of(languages or dict.fromkeys([language, *given]), "language")
    require_model(lens)
    check_settings(codes, component, template, setting, vector)
    one_of(show, [*SHOWN.values()], "show")
    typed = [
        "\n".join(f"{code}: {pair[i]}" for code, pair in given.items() if code != language)
        for i in (0, 1)
    ]
    templates = dict.fromkeys([*TEMPLATES, template])
    controls = {
        "show": menu("Show", [*SHOWN.items()], show),
        "first": text_box("Sentence x", a),
        "second": text_box("Sentence y", b),
        "first_renderings": text_box("Translations of x", typed[0], rows=3, example=EXAMPLE),
        "second_renderings": text_box("Translations of y", typed[1], rows=3, example=EXAMPLE),
        "languages": text_box("Languages", ", ".join(codes)),
        "m": slider("m languages", len(codes), 1, len(codes)),
        "k": slider("k dimensions", resolve_k(k, lens.d_model), 1, lens.d_model),
        "component": menu(
            "Component", [(SYMBOLS.get(name, name), name) for name in VECTOR_COMPONENTS], component
        ),
        "template": menu(
            "Template", [(TEMPLATE_NAMES.get(name, name), name) for name in templates], template
        ),
        "setting": menu("Setting", SETTINGS, setting),
        "vector": menu("Vector", VECTORS, vector),
    }
    for side in ("first", "second"):
        empty_when_it_changes(controls[side], controls[f"{side}_renderings"])
    controls["languages"].observe(lambda change: _use_all(change["new"], controls["m"]), "value")
    source = Renderer(translator, language)
    captures = Captures(lens)

    def arguments(state: State) -> tuple[dict[str, str], dict[str, str], list[str]]:
        codes = parse_languages(state["languages"])[: state["m"]]
        first, second = (
            source.render(state[side], parse_renderings(state[f"{side}_renderings"]), codes)
            for side in ("first", "second")
        )
        return first, second, codes

    def settings(state: State) -> dict[str, Any]:
        names = ("k", "component", "template", "setting", "vector")
        return {name: state[name] for name in names} | {"language": language}

    def asked(state: State) -> tuple[str, str | None]:
        """Return by what x and y are split: by block, where the component has no such parts."""
        by = state["show"]
        if by != "dimension" and by not in SPLITS[state["component"]]:
            by = "block"
        return by, by if by == "token" else None

    def update(state: State, progress: Progress) -> View:
        first, second, codes = arguments(state)
        named = settings(state)
        if state["show"] == "paper":
            view = pair_view(
                lens, first, second, codes, **named, captures=captures, progress=progress
            )
            return View(pair_figure(view), pair_text(view))
        centre = _centre((language, *codes))
        view, found = why_similar(
            lens, first, second, codes, *asked(state), centre, **named, progress=progress
        )
        if found is None:
            return View(pair_figure(view), pair_text(view))
        return View(found.figure, f"{found.above}<p>{html.escape(str(found))}</p>{pair_text(view)}")

    def python(state: State) -> str:
        first, second, codes = arguments(state)
        named = settings(state)
        if state["show"] == "paper":
            values = ", ".join(f"{name}={value!r}" for name, value in named.items())
            return (
                "from dysem_lab.questions.pair import pair_figure; "
                "from dysem_lab.questions.pair_view import pair_view; "
                f"view = pair_view(lens, {first!r}, {second!r}, {codes!r}, {values}); "
                "pair_figure(view)"
            )
        own = named.pop("language")
        values = ", ".join(f"{name}={value!r}" for name, value in named.items())
        return (
            "import dysem_lab as dl; centre = "
            f"dl.load_data('demo', languages={[own, *codes]!r}).sample({CENTRE_PAIRS}); "
            f"dl.explain(dl.DySem(lens, {codes!r}, {values}), {first!r}, {second!r}, "
            f"{', '.join(map(repr, asked(state)))}, centre, language={own!r})"
        )

    return Panel(controls, update, python, "pair").refresh()


@cache
def _centre(codes: tuple[str, ...]) -> STSData:
    """Return the pairs that explanations are centred on."""
    return load_data("demo", languages=codes).sample(CENTRE_PAIRS)


def _use_all(codes: str, m: Any) -> None:
    """Let m reach as far as there are languages, and use them all."""
    n_languages = max(1, len(codes.replace(",", " ").split()))
    m.max = n_languages
    m.value = n_languages
