"""Similarity over the layers, of two texts and of a task's pairs, while settings move."""

from collections.abc import Mapping, Sequence
from typing import Any

from dysem_lab.consensus import resolve_k
from dysem_lab.data.sts import demo_data
from dysem_lab.display import Progress
from dysem_lab.encoders.dysem import DySem
from dysem_lab.encoders.settings import VECTORS
from dysem_lab.explorers.controls import menu, slider
from dysem_lab.explorers.examples import example_pairs, pair_of
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
    readings,
    typed_sentence,
    use_all,
)
from dysem_lab.explorers.standing import Standing, headline
from dysem_lab.inputs import checked, names_of
from dysem_lab.models.lens import LensModel
from dysem_lab.models.store import VectorStore
from dysem_lab.prompts import SETTINGS, TEMPLATES
from dysem_lab.questions.asked import require_study
from dysem_lab.questions.finding import Finding
from dysem_lab.questions.layer_curves import layer_curves, need_of
from dysem_lab.questions.names import COMPARED_NAMES, SETTING_NAMES, named
from dysem_lab.questions.pair_layers import LayeredPair, capture_pair, pair_layer_curves
from dysem_lab.questions.study import Study
from dysem_lab.translation.translate import Translator


def explore_layers(
    lens: LensModel,
    a: str,
    b: str,
    languages: Sequence[str] = ("en",),
    translator: Translator | None = None,
    renderings: Mapping[str, Sequence[str]] | None = None,
    *,
    template: str = "prompteol",
    k: int | float = 0.25,
    language: str | None = None,
    store: VectorStore | None = None,
    plain: bool | None = None,
) -> Panel:
    """Return an explorer of a pair over the layers; only a new text runs the model.

    An unrelated pair of the demo set is drawn beside it. Renderings come from where
    `dysem_lab.explorers.pair_explorer.explore_pair` has them. Controls: ``first``, ``second``,
    ``first_renderings``, ``second_renderings``, ``languages``, ``language``, ``setting``,
    ``vector``, ``m``, ``k``.

    Args:
        lens: The model, which the Python of the panel calls ``lens``.
        a: One text.
        b: The other.
        languages: In the order in which they join the consensus.
        translator: Makes the renderings that are not given, those of texts that are typed in among
            them.
        renderings: Language → a and b in it.
        template: As for `dysem_lab.wrap`.
        k: Dimensions per text shown first, or fraction of d.
        language: The texts' own; None is the first of the languages.
        store: As for `explore_pair`, like `plain`.
        plain: As for `Panel`.

    Raises:
        InputError: A language that there is not, or texts that are none.
    """
    a, b = checked([a, b])
    given = checked_renderings(renderings)
    codes = names_of(languages, "language")
    own = codes[0] if language is None else language
    settings = SETTINGS if template in TEMPLATES else SETTINGS[:1]
    controls = {
        **pair_boxes(a, b, given, own),
        **language_boxes(codes, own),
        **_choices(settings, settings[-1], len(codes), resolve_k(k, lens.d_model), lens.d_model),
    }
    controls["languages"].observe(lambda change: use_all(change["new"], controls["m"]), "value")
    source, standing = Renderer(translator), Standing(store)
    known: dict[str, LayeredPair] = {}

    def texts_of(state: State) -> Rendered:
        return source.render(
            [typed_sentence(state[side], f"{side} sentence") for side in SIDES],
            [parse_renderings(state[f"{side}_renderings"]) for side in SIDES],
            parse_languages(state["languages"]),
            state["language"],
        )

    def read(kind: str, texts: Sequence[Mapping[str, str]], codes: list[str], own: str) -> Any:
        """Return a pair at every layer: of the panel, or the unrelated one."""
        key = repr((lens.fingerprint, kind, texts, codes, own))
        if key not in known:
            for old in [old for old in known if f", '{kind}', " in old]:
                del known[old]
            columns = {code: [of[code] for of in texts] for code in texts[0]}
            first, second = columns[own]
            known[key] = capture_pair(
                lens, first, second, codes, columns, None, template, language=own
            )
        return known[key]

    def chosen(state: State, codes: Sequence[str]) -> dict[str, Any]:
        asked = parse_languages(state["languages"])[: state["m"]]
        m = max(1, len([code for code in asked if code in codes]))
        return {**{name: state[name] for name in ("setting", "vector", "k")}, "m": m}

    def update(state: State, progress: Progress) -> View:
        texts, own = texts_of(state), state["language"]
        codes, asked = texts.languages, chosen(state, texts.languages)
        progress(0, 2, "Reading")
        pair = read("pair", texts.texts, codes, own)
        progress(1, 2, "Reading")
        beside = read("unrelated", _unrelated(texts.texts[0]), codes, own)
        found = pair_layer_curves(pair, **asked, beside=beside)
        last = _last(found)
        encoder = DySem(
            lens,
            codes[: asked["m"]],
            k=state["k"],
            template=template,
            setting=state["setting"],
            vector=state["vector"],
        )
        place, offer = standing.of(encoder, last, own)
        what = "DySem similarity of all that attention wrote (A<sup>L</sup>), at the last layer"
        text = f"<p>{found.caption}</p>" + readings(texts.texts, ("x", "y"))
        cut = read_note(lens, texts.texts, template, state["setting"])
        note = " ".join(filter(None, (texts.note, cut)))
        return View(found.figure, text, note, offer, headline(what, last, place))

    def python(state: State) -> str:
        texts, own = texts_of(state), state["language"]
        codes, beside = texts.languages, _unrelated(texts.texts[0])
        of_own = {"language": own if own != codes[0] else None, "template": template}

        def captured(texts: str) -> str:
            given = ("lens", f"*{texts}[{own!r}]", repr(codes), texts)
            return call("capture_pair", capture_pair, *given, **of_own)

        drawn = call(
            "pair_layer_curves", pair_layer_curves, "pair", "beside=beside", **chosen(state, codes)
        )
        return "\n".join(
            [
                "from dysem_lab.questions.pair_layers import capture_pair, pair_layer_curves",
                "",
                *(
                    assigned(name, {code: [of[code] for of in both] for code in both[0]})
                    for name, both in (("texts", texts.texts), ("unrelated", beside))
                ),
                f"pair, beside = {captured('texts')}, {captured('unrelated')}",
                drawn,
            ]
        )

    return Panel(
        controls,
        update,
        python,
        lambda state: f"Layer by layer: {state['first']} / {state['second']}",
        folded=[name for name in controls if name not in SIDES],
        examples=example_pairs(codes),
        plain=plain,
    ).refresh()


def _unrelated(texts: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the demo set's first unrelated pair in the languages of a text."""
    data, row = demo_data(), pair_of("unrelated")
    return [{code: data.sentences[code][side][row] for code in texts} for side in (0, 1)]


def _last(found: Finding) -> float:
    """Return DySem's similarity on A^L, which is that of the other explorers."""
    of = found.table
    of = of[(of["component"] == "attn") & (of["kind"] == "cumulative") & (of["measure"] == "DySem")]
    return float(of["value"].iloc[-1])


def explore_data_layers(
    study: Study, task: str | None = None, *, k: int | float = 0.25, plain: bool | None = None
) -> Panel:
    """Return an explorer of a task's Spearman over the layers; what the store has runs no pass.

    Args:
        study: The copied line of Python calls it ``study``.
        task: Shown first; None is the study's first.
        k: Dimensions per text shown first, or fraction of d.
        plain: As for `Panel`.
    """
    known: dict[tuple[Any, ...], Finding] = {}

    def arguments(state: State) -> dict[str, Any]:
        chosen = {name: state[name] for name in ("task", "setting", "vector", "m", "k")}
        return {**chosen, "m": min(chosen["m"], len(study.task_languages(chosen["task"])))}

    def update(state: State, progress: Progress) -> View:
        need_of(study).capture(progress)
        chosen = arguments(state)
        key = tuple(chosen.values())
        if key not in known:
            known[key] = layer_curves(study, **chosen)
        return View(known[key].figure, known[key].caption)

    def python(state: State) -> str:
        asked = call("dl.layer_curves", layer_curves, "study", **arguments(state))
        return f"{IMPORT}\n\n{asked}"

    require_study(study)
    tasks = list(study.data)
    d_model = study.model.d_model
    n_languages = max(len(study.task_languages(name)) for name in tasks)
    return Panel(
        {
            "task": menu("Task", tasks, tasks[0] if task is None else task),
            **_choices(
                study.settings, study.settings[0], n_languages, resolve_k(k, d_model), d_model
            ),
        },
        update,
        python,
        lambda state: f"{state['task']}, layer by layer",
        plain=plain,
    ).refresh()


def _choices(
    settings: Sequence[str], setting: str, n_languages: int, k: int, d_model: int
) -> dict[str, Any]:
    """Return the controls that both explorers have."""
    return {
        "setting": menu("Prompts", named(SETTING_NAMES, settings), setting),
        "vector": menu("Compared is", named(COMPARED_NAMES, VECTORS), "mean"),
        "m": slider("m languages", n_languages, 1, n_languages),
        "k": slider("k dimensions", k, 1, d_model),
    }
