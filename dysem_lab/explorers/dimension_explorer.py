"""One dimension at a time: its sentences, its logit lens, its languages, how often S(x) has it.

Dimensions are counted from 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dysem_lab.consensus import resolve_k
from dysem_lab.display import Progress
from dysem_lab.encoders.dysem import DySem
from dysem_lab.explorers.panel import Panel, State, View, menu, slider
from dysem_lab.questions.corpus import read_corpus
from dysem_lab.questions.dimension import (
    DimensionFacts,
    by_frequency,
    dimension_facts,
    dimension_figure,
    dimension_text,
)
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import SYMBOLS


def explore_dimensions(
    source: DySem | Study,
    texts: Sequence[str] | str | None = None,
    renderings: Mapping[str, Sequence[str]] | None = None,
    *,
    dimension: int | None = None,
    k: int | float = 0.25,
    top: int = 10,
) -> Panel:
    """Return an explorer of dimensions; the corpus is read once, and nothing after runs the model.

    A click on a point of the upper plot chooses its dimension.

    Args:
        source: As for `read_corpus`. The copied line of Python calls an estimator ``dysem``, its
            texts ``texts`` and ``renderings``, and a study ``study``.
        texts: As for `read_corpus`.
        renderings: As for `read_corpus`.
        dimension: Shown first; None is the one that the most sets have.
        k: Dimensions per text shown first, or fraction of d.
        top: Sentences, and tokens of each direction.

    Raises:
        InputError: As for `read_corpus` and `dimension_facts`.
        MissingTranslationError: As for `read_corpus`.
    """
    corpus = read_corpus(source, texts, renderings)
    known: list[DimensionFacts] = []

    def update(state: State, progress: Progress) -> View:
        facts = dimension_facts(corpus, **state, top=top)
        known[:] = [facts]
        hint = "<p>Click a point of the upper plot to see its dimension.</p>"
        return View(dimension_figure(facts), dimension_text(facts) + hint)

    def python(state: State) -> str:
        read = f"study, {texts!r}" if isinstance(source, Study) else "dysem, texts, renderings"
        chosen = ", ".join(f"{name}={value!r}" for name, value in state.items())
        return (
            "from dysem_lab.questions import dimension as de; de.dimension_figure("
            f"de.dimension_facts(de.read_corpus({read}), {chosen}, top={top}))"
        )

    d_model, m = corpus.lens.d_model, len(corpus.languages)
    component, setting = corpus.components[0], corpus.settings[0]
    settings: dict[str, Any] = {"component": component, "setting": setting, "m": m}
    settings["k"] = resolve_k(k, d_model)
    first = dimension_facts(corpus, dimension, **settings, top=top).dimension
    panel = Panel(
        {
            "dimension": slider("Dimension", first, 0, d_model - 1),
            "component": menu("Component", _named(corpus.components), component),
            "setting": menu("Setting", corpus.settings, setting),
            "m": slider("m languages", m, 1, m),
            "k": slider("k dimensions", settings["k"], 1, d_model),
        },
        update,
        python,
        "dimension",
    ).refresh()

    def choose(trace: object, points: Any, state: object) -> None:
        if points.point_inds and known:
            order = by_frequency(known[0].frequency)
            panel.controls["dimension"].value = order[points.point_inds[0]]

    for trace in panel.plot.data[:1]:
        trace.on_click(choose)
    return panel


def _named(components: Sequence[str]) -> list[tuple[str, str]]:
    return [(f"{SYMBOLS[name]} ({name})", name) for name in components]
