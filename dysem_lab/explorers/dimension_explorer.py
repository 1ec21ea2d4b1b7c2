"""One dimension at a time: its sentences and words, its share of a cosine, and is that its own?

Dimensions are counted from 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dysem_lab.consensus import resolve_k
from dysem_lab.display import Progress
from dysem_lab.encoders.dysem import DySem, language_vectors
from dysem_lab.explorers.controls import menu, slider
from dysem_lab.explorers.panel import Panel, State, View
from dysem_lab.explorers.python import IMPORT, call
from dysem_lab.explorers.renderings import (
    Renderer,
    language_boxes,
    nowhere_read,
    parse_renderings,
    read_note,
    readings,
    sentence_boxes,
    typed_sentence,
)
from dysem_lab.questions.corpus import read_corpus
from dysem_lab.questions.dimension import dimension as dimension_of
from dysem_lab.questions.dimension import dimension_figure, dimension_text, sentence_text
from dysem_lab.questions.dimension_facts import dimension_facts, most_telling, of_sentence
from dysem_lab.questions.names import SETTING_NAMES, VECTOR_NAMES, named
from dysem_lab.questions.study import Study

CHOSEN = ("dimension", "component", "setting", "m", "k")  # controls of `dimension_facts`


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
    """Return an explorer of dimensions; the corpus is read once.

    A click on a point of the upper plots chooses its dimension. A sentence that is typed in is read
    in those of the corpus' languages that it is to be had in; nothing else runs the model.

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

    renderer = Renderer(source.translator if isinstance(source, DySem) else None)
    template = source.template if isinstance(source, DySem) else source.templates[0]
    own = "en" if "en" in corpus.languages else corpus.languages[0]
    read: dict[tuple[Any, ...], Tensor] = {}  # the last sentence's vectors

    def sentence(state: State, progress: Progress) -> tuple[str, str]:
        """Return where the sentence stands, as HTML, and a note."""
        text, typed = typed_sentence(state["text"], "sentence"), state["renderings"]
        component, setting, codes = state["component"], state["setting"], corpus.languages
        if text in corpus.texts and state["language"] == own and not typed.strip():
            of_corpus = corpus.read(component, setting, state["m"])
            return standing(state, of_corpus[corpus.texts.index(text)], codes[: state["m"]]), ""
        found = renderer.render(
            [text], [parse_renderings(typed)], codes[: state["m"]], state["language"], codes
        )
        texts = {code: found.texts[0][code] for code in found.languages if code in codes}
        if not texts:
            return "", f"The sentence is not read: {nowhere_read('sentence', codes)}."
        key = (component, setting, *texts.items())
        if key not in read:
            progress(0, 1, "Reading")
            read.clear()
            contrast = source.contrast if isinstance(source, DySem) else None
            given = {code: [of] for code, of in texts.items()}
            vectors = language_vectors(
                corpus.lens, given, component, template, setting, contrast, progress=False
            )
            read[key] = vectors[component][0]
        notes = (found.note, read_note(corpus.lens, [texts], template, setting))
        shown = readings([texts], ["Sentence"]) if [*texts] != [state["language"]] else ""
        return standing(state, read[key], [*texts]) + shown, " ".join(filter(None, notes))

    def standing(state: State, vectors: Tensor, languages: Sequence[str]) -> str:
        chosen = {name: state[name] for name in ("component", "setting", "k")}
        of = of_sentence(corpus, vectors, languages, state["dimension"], **chosen)
        return sentence_text(of, languages)

    def update(state: State, progress: Progress) -> View:
        chosen = {name: state[name] for name in CHOSEN}
        facts = dimension_facts(corpus, **chosen, top=top)
        said, note = sentence(state, progress)
        hint = "<p>Click a point of the upper plots to see its dimension.</p>"
        return View(dimension_figure(facts), said + dimension_text(facts) + hint, note)

    def python(state: State) -> str:
        if isinstance(source, Study):
            of = ["study"] if texts is None else ["study", repr(texts)]
        else:
            of = ["dysem", "texts"] if renderings is None else ["dysem", "texts", "renderings"]
        corpus_of = f"dl.read_corpus({', '.join(of)})"
        chosen = {name: state[name] for name in CHOSEN}
        line = call("dl.dimension", dimension_of, corpus_of, **chosen, top=top)
        return f"{IMPORT}\n\n{line}"

    d_model, m = corpus.lens.d_model, len(corpus.languages)
    component, setting = corpus.components[0], corpus.settings[0]
    settings: dict[str, Any] = {"component": component, "setting": setting, "m": m}
    settings["k"] = resolve_k(k, d_model)
    first = most_telling(corpus, **settings) if dimension is None else dimension
    panel = Panel(
        {
            "dimension": slider("Dimension", first, 0, d_model - 1),
            **sentence_boxes("text", "Sentence", corpus.texts[0], "renderings"),
            "language": language_boxes(corpus.languages, own)["language"],
            "component": menu("Vector", named(VECTOR_NAMES, corpus.components), component),
            "setting": menu("Prompts", named(SETTING_NAMES, corpus.settings), setting),
            "m": slider("m languages", m, 1, m),
            "k": slider("k dimensions", settings["k"], 1, d_model),
        },
        update,
        python,
        lambda state: f"Dimension {state['dimension']}",
        folded=("renderings", "language", "component", "setting", "m", "k"),
        plain=plain,
    ).refresh()

    def choose(trace: Any, points: Any, state: object) -> None:
        if points.point_inds:
            panel.controls["dimension"].value = int(trace.customdata[points.point_inds[0]])

    for trace in panel.plot.data if panel.plot else ():
        if trace.xaxis in ("x", "x2") and trace.customdata is not None:
            trace.on_click(choose)
    return panel
