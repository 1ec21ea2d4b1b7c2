"""Similarity over the layers, of two texts and of a task's pairs, while settings move."""

from collections.abc import Mapping, Sequence
from typing import Any

from dysem_lab.consensus import resolve_k
from dysem_lab.display import Progress
from dysem_lab.encoders.settings import VECTORS
from dysem_lab.explorers.panel import Panel, State, View, menu, slider, text_box
from dysem_lab.explorers.renderings import checked_renderings
from dysem_lab.inputs import checked, names_of
from dysem_lab.models.lens import LensModel
from dysem_lab.prompts import SETTINGS, TEMPLATES
from dysem_lab.questions.finding import Finding
from dysem_lab.questions.layer_curves import layer_curves, need_of
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
) -> Panel:
    """Return an explorer of a pair over the layers; only a new text runs the model.

    Args:
        lens: The model, which the copied line of Python calls ``lens``.
        a: One text, in the first of the languages.
        b: The other.
        languages: In the order in which they join the consensus.
        translator: Makes the renderings that are not given, those of texts that are typed in among
            them.
        renderings: Language → a and b in it.
        template: As for `dysem_lab.wrap`.
        k: Dimensions per text shown first, or fraction of d.

    Raises:
        InputError: As for `capture_pair`.
        MissingTranslationError: As for `capture_pair`.
    """
    a, b = checked([a, b])
    given = checked_renderings(renderings)
    known: dict[tuple[str, str], LayeredPair] = {}

    def read(first: str, second: str) -> LayeredPair:
        if (first, second) not in known:
            of_them = given if (first, second) == (a, b) else None
            captured = capture_pair(lens, first, second, languages, of_them, translator, template)
            known.clear()
            known[first, second] = captured
        return known[first, second]

    def update(state: State, progress: Progress) -> View:
        progress(0, 1, "Reading")
        pair = read(state["first"], state["second"])
        chosen = {name: state[name] for name in ("setting", "vector", "m", "k")}
        found = pair_layer_curves(pair, **chosen)
        return View(found.figure, found.caption)

    def python(state: State) -> str:
        pair = known[state["first"], state["second"]]
        others = {code: list(texts) for code, texts in list(pair.texts.items())[1:]}
        made = f"{state['first']!r}, {state['second']!r}, {list(pair.languages)!r}, {others!r}"
        chosen = ", ".join(f"{name}={state[name]!r}" for name in ("setting", "vector", "m", "k"))
        return (
            "from dysem_lab.questions.pair_layers import capture_pair, pair_layer_curves; "
            f"pair_layer_curves(capture_pair(lens, {made}, template={template!r}), {chosen}).figure"
        )

    settings = SETTINGS if template in TEMPLATES else SETTINGS[:1]
    n_languages = len(names_of(languages, "language"))
    return Panel(
        {
            "first": text_box("First text", a),
            "second": text_box("Second text", b),
            **_choices(settings, n_languages, resolve_k(k, lens.d_model), lens.d_model),
        },
        update,
        python,
        "layers",
    ).refresh()


def explore_data_layers(study: Study, task: str | None = None, *, k: int | float = 0.25) -> Panel:
    """Return an explorer of a task's Spearman over the layers; what the store has runs no pass.

    Args:
        study: The copied line of Python calls it ``study``.
        task: Shown first; None is the study's first.
        k: Dimensions per text shown first, or fraction of d.
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
        chosen = ", ".join(f"{name}={value!r}" for name, value in arguments(state).items())
        return (
            "from dysem_lab.questions.layer_curves import layer_curves; "
            f"layer_curves(study, {chosen}).figure"
        )

    tasks = list(study.data)
    d_model = study.model.d_model
    n_languages = max(len(study.task_languages(name)) for name in tasks)
    return Panel(
        {
            "task": menu("Task", tasks, tasks[0] if task is None else task),
            **_choices(study.settings, n_languages, resolve_k(k, d_model), d_model),
        },
        update,
        python,
        "layers",
    ).refresh()


def _choices(settings: Sequence[str], n_languages: int, k: int, d_model: int) -> dict[str, Any]:
    """Return the controls that both explorers have."""
    return {
        "setting": menu("Setting", settings, settings[0]),
        "vector": menu("Vector", VECTORS, "mean"),
        "m": slider("m languages", n_languages, 1, n_languages),
        "k": slider("k dimensions", k, 1, d_model),
    }
