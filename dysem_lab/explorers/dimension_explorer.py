"""One dimension at a time: its sentences and words, its share of a cosine, and is that its own?

Dimensions are counted from 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dysem_lab.consensus import resolve_k
from dysem_lab.display import Progress
from dysem_lab.encoders.dysem import DySem
from dysem_lab.explorers.controls import menu, slider
from dysem_lab.explorers.panel import Panel, State, View
from dysem_lab.explorers.python import IMPORT, call
from dysem_lab.questions.corpus import read_corpus
from dysem_lab.questions.dimension import dimension as dimension_of
from dysem_lab.questions.dimension import dimension_figure, dimension_text
from dysem_lab.questions.dimension_facts import dimension_facts, most_telling
from dysem_lab.questions.names import SETTING_NAMES, VECTOR_NAMES, named
from dysem_lab.questions.study import Study


def explore_dimensions(
    source: DySem | Study,
    texts: Sequence[str] | str | None = None,
    renderings: Mapping[str, Sequence[str]] | None = None,
    *,
    dimension: int | None = None,
    k: int | float = 0.25,
    top: int = 10,
    plain: bool | None = None,
) -> Panel:
    """Return an explorer of dimensions; the corpus is read once, and nothing after runs the model.

    A click on a point of the upper plots chooses its dimension.

    Args:
        source: As for `read_corpus`. The copied line of Python calls an estimator ``dysem``, its
            texts ``texts`` and ``renderings``, and a study ``study``.
        texts: As for `read_corpus`.
        renderings: As for `read_corpus`.
        dimension: Shown first; None is the one that tells most (`most_telling`).
        k: Dimensions per text shown first, or fraction of d.
        top: Sentences, and tokens of each direction.
        plain: As for `Panel`.

    Raises:
        InputError: As for `read_corpus` and `dimension_facts`.
        MissingTranslationError: As for `read_corpus`.
    """
    corpus = read_corpus(source, texts, renderings)

    def update(state: State, progress: Progress) -> View:
        facts = dimension_facts(corpus, **state, top=top)
        hint = "<p>Click a point of the upper plots to see its dimension.</p>"
        return View(dimension_figure(facts), dimension_text(facts) + hint)

    def python(state: State) -> str:
        if isinstance(source, Study):
            of = ["study"] if texts is None else ["study", repr(texts)]
        else:
            of = ["dysem", "texts"] if renderings is None else ["dysem", "texts", "renderings"]
        read = f"dl.read_corpus({', '.join(of)})"
        line = call("dl.dimension", dimension_of, read, **state, top=top)
        return f"{IMPORT}\n\n{line}"

    d_model, m = corpus.lens.d_model, len(corpus.languages)
    component, setting = corpus.components[0], corpus.settings[0]
    settings: dict[str, Any] = {"component": component, "setting": setting, "m": m}
    settings["k"] = resolve_k(k, d_model)
    first = most_telling(corpus, **settings) if dimension is None else dimension
    panel = Panel(
        {
            "dimension": slider("Dimension", first, 0, d_model - 1),
            "component": menu("Vector", named(VECTOR_NAMES, corpus.components), component),
            "setting": menu("Prompts", named(SETTING_NAMES, corpus.settings), setting),
            "m": slider("m languages", m, 1, m),
            "k": slider("k dimensions", settings["k"], 1, d_model),
        },
        update,
        python,
        lambda state: f"Dimension {state['dimension']}",
        folded=("component", "setting", "m", "k"),
        plain=plain,
    ).refresh()

    def choose(trace: Any, points: Any, state: object) -> None:
        if points.point_inds:
            panel.controls["dimension"].value = int(trace.customdata[points.point_inds[0]])

    for trace in panel.plot.data if panel.plot else ():
        if trace.xaxis in ("x", "x2") and trace.customdata is not None:
            trace.on_click(choose)
    return panel
