"""One dimension at a time: its sentences, its logit lens, its languages, and how often S(x) has it.

Dimensions are counted from 0.
"""

import html
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float
from plotly.subplots import make_subplots
from torch import Tensor

from dysem_lab.consensus import consensus_set, resolve_k
from dysem_lab.data.languages import language as language_named
from dysem_lab.display import Progress, silent
from dysem_lab.encoders.dysem import DySem, language_vectors
from dysem_lab.errors import InputError, MissingTranslationError, choices
from dysem_lab.explorers.panel import Panel, State, View, menu, slider
from dysem_lab.inputs import by_language, checked, whole_number
from dysem_lab.models.lens import LensModel
from dysem_lab.models.places import places
from dysem_lab.models.readout import DEMOTED, PROMOTED, READ, dimension_index, dimension_lens, label
from dysem_lab.prompts import SETTINGS, TEMPLATES
from dysem_lab.questions.grid import check_ms
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import PALETTE, SYMBOLS, layout, superscript

LOGIT_LENS = {
    "stream": "what one more RMS of the stream in dimension j adds to a token's logit, compared "
    "with the mean token: γ_j W_U[t, j] minus its mean over all tokens t, with γ the weight of the "
    "final norm, whose divisor is held fixed",
    "final": "what one more unit in dimension j adds to a token's logit, compared with the mean "
    "token: W_U[t, j] minus its mean over all tokens t (this vector is after the final norm)",
}
WIDTH = 110  # characters of a sentence in the figure


@dataclass(eq=False)
class Corpus:
    """Texts and their vectors, for looking at dimensions.

    Attributes:
        lens: The model.
        texts: n different texts in one language.
        languages: Codes of the m languages.
        vectors: (setting, component) → s^(ℓ) of each text, float32 ``[n, m, d]``.
        measured_on: Model, data and number of texts.
    """

    lens: LensModel
    texts: list[str]
    languages: tuple[str, ...]
    vectors: Mapping[tuple[str, str], Float[Tensor, "n m d"]]
    measured_on: str
    _sets: dict[tuple[object, ...], Tensor] = field(default_factory=dict, repr=False)

    @property
    def settings(self) -> list[str]:
        """The prompt settings that were captured."""
        return list(dict.fromkeys(setting for setting, _ in self.vectors))

    @property
    def components(self) -> list[str]:
        """The components that were captured."""
        return list(dict.fromkeys(component for _, component in self.vectors))

    def read(self, component: str, setting: str, m: int) -> Float[Tensor, "n m d"]:
        """Return s^(ℓ) of each text in the first m languages.

        Raises:
            InputError: A name that the corpus does not have, or m out of range.
        """
        for kind, value, valid in (
            ("prompt setting", setting, self.settings),
            ("component", component, self.components),
        ):
            if value not in valid:
                raise choices(f"{kind} of this corpus", value, valid)
        check_ms([m], len(self.languages))
        return self.vectors[setting, component][:, :m]

    def sets(self, component: str, setting: str, m: int, k: int | float) -> Bool[Tensor, "n d"]:
        """Return S(x) of each text (DySem Eqs. 11-13); the last ones are kept.

        Raises:
            InputError: As for `read`, or k out of range.
        """
        key = (component, setting, m, resolve_k(k, self.lens.d_model))
        if key not in self._sets:
            self._sets.clear()
            self._sets[key] = consensus_set(self.read(component, setting, m), key[-1])
        return self._sets[key]


def read_corpus(
    source: DySem | Study,
    texts: Sequence[str] | str | None = None,
    renderings: Mapping[str, Sequence[str]] | None = None,
    *,
    language: str = "en",
    progress: Progress = silent,
) -> Corpus:
    """Return the vectors of a corpus.

    Args:
        source: An estimator, whose model, languages, template, contrast and translator are used; or
            a study, whose model, first template, settings and components are.
        texts: The texts, for an estimator; the name of a task, for a study (None is its first).
        renderings: Language → the texts in it, for an estimator; its translator makes the rest.
        language: The texts' own, for an estimator.
        progress: Called between batches.

    Raises:
        InputError: No texts, or a study that has none of `READ`.
        MissingTranslationError: A rendering is neither given nor to be had.
    """
    if isinstance(source, Study):
        return _of_study(source, texts, progress)
    texts = checked(() if texts is None else texts)
    if not texts:
        raise InputError("texts is empty; give a corpus of one or more")
    unique = list(dict.fromkeys(texts))
    rows = [texts.index(text) for text in unique]
    given, rendered = by_language(renderings), {}
    for code in source.languages:
        if code == language:
            rendered[code] = unique
        elif code in given:
            column = checked(given[code], f"{code} rendering")
            if len(column) != len(texts):
                raise InputError(f"{len(column)} renderings in {code!r} for {len(texts)} texts")
            rendered[code] = [column[row] for row in rows]
        elif source.translator:
            progress(len(rendered), len(source.languages), "Translating")
            rendered[code] = source.translator.translate(unique, language, code)
        else:
            raise MissingTranslationError(
                f"no renderings of {len(unique)} texts in {code!r}: give them, or DySem a "
                "translator"
            )
    free = source.template not in TEMPLATES or source.contrast is not None
    settings = SETTINGS[:1] if free else SETTINGS
    vectors = {}
    for i, setting in enumerate(settings):
        parts = []
        for j, (code, in_it) in enumerate(rendered.items()):
            progress(i * len(rendered) + j, len(settings) * len(rendered), "Reading")
            parts.append(
                language_vectors(
                    source.lens,
                    {code: in_it},
                    READ,
                    source.template,
                    setting,
                    source.contrast,
                    progress=False,
                )
            )
        for name in READ:
            vectors[setting, name] = torch.cat([part[name] for part in parts], dim=1)
    measured_on = f"{source.lens.label}, {len(unique):,} texts"
    return Corpus(source.lens, unique, source.languages, vectors, measured_on)


def _of_study(study: Study, task: Sequence[str] | str | None, progress: Progress) -> Corpus:
    task = next(iter(study.data)) if task is None else task
    if not isinstance(task, str) or task not in study.data:
        raise choices("task of this study", task, study.data)
    components = [name for name in READ if set(places(name)) <= set(study.wanted)]
    if not components:
        raise InputError(f"this study reads none of {READ}; give it components='attn'")
    plan = study.plan()
    done, total = 0, int(plan["passes"].sum())
    progress(done, total, "Capture")
    for n_texts in study.fill(plan):
        done += n_texts
        progress(done, total, "Capture")
    texts = study.texts(task, "en")
    unique = list(dict.fromkeys(texts))
    rows = [texts.index(text) for text in unique]
    vectors = {
        (setting, name): study.vectors(task, name, setting=setting)[rows]
        for setting in study.settings
        for name in components
    }
    name = study.data[task].name
    measured_on = f"{study.model.label}, {name}, {len(unique):,} texts"
    return Corpus(study.lens, unique, tuple(study.task_languages(task)), vectors, measured_on)


class DimensionFacts(NamedTuple):
    """What is known of one dimension of a corpus.

    Attributes:
        dimension: j, from 0.
        component: Of which vector.
        frequency: Share of the texts whose S(x) has each dimension, float32 ``[d]``.
        sentences: The texts with the largest mean over the languages: ``rank``, ``text``,
            ``value`` (s̄_j), ``selected`` (whether j is in S(x)), ``positive`` (codes of the
            languages in which s_j > 0, joined by "/").
        languages: One row per ``language``: ``positive`` (share of the texts with s_j > 0),
            ``value`` (mean of s_j over the texts).
        tokens: From `dimension_lens`.
        settings: component, setting, m and k.
        measured_on: Model, data, languages and settings.
    """

    dimension: int
    component: str
    frequency: Float[Tensor, " d"]
    sentences: pd.DataFrame
    languages: pd.DataFrame
    tokens: pd.DataFrame
    settings: dict[str, Any]
    measured_on: str


def dimension_facts(
    corpus: Corpus,
    dimension: int | None = None,
    *,
    component: str = "attn",
    setting: str = "english",
    m: int | None = None,
    k: int | float = 0.25,
    top: int = 10,
) -> DimensionFacts:
    """Return what is known of one dimension.

    Args:
        corpus: From `read_corpus`.
        dimension: j, from 0; None is the one that the most sets have.
        component: Vector, one of `READ` that the corpus has.
        setting: Prompt setting.
        m: The first so many languages; None is all.
        k: Dimensions per text, or fraction of d.
        top: Sentences, and tokens of each direction.

    Raises:
        InputError: A name that the corpus does not have; m, k or the dimension out of range; `top`
            below 1.
    """
    m = len(corpus.languages) if m is None else m
    if whole_number(top) is None or top < 1:
        raise InputError(f"top must be a whole number from 1, got {top!r}")
    vectors = corpus.read(component, setting, m)
    sets = corpus.sets(component, setting, m, k)
    frequency = sets.float().mean(0)
    j = dimension_index(int(frequency.argmax()) if dimension is None else dimension, len(frequency))
    values, codes = vectors[:, :, j], corpus.languages[:m]
    mean = values.mean(1)
    best = mean.sort(descending=True, stable=True).indices[:top].tolist()
    sentences = pd.DataFrame(
        {
            "rank": rank,
            "text": corpus.texts[row],
            "value": float(mean[row]),
            "selected": bool(sets[row, j]),
            "positive": "/".join(
                code for code, value in zip(codes, values[row].tolist(), strict=True) if value > 0
            ),
        }
        for rank, row in enumerate(best, 1)
    )
    languages = pd.DataFrame(
        {
            "language": codes,
            "positive": (values > 0).float().mean(0).tolist(),
            "value": values.mean(0).tolist(),
        }
    )
    settings = {"component": component, "setting": setting, "m": m, "k": k}
    return DimensionFacts(
        j,
        component,
        frequency,
        sentences,
        languages,
        dimension_lens(corpus.lens, j, component, top),
        settings,
        f"{corpus.measured_on}, {'/'.join(codes)}, {setting}, k = {k:g}",
    )


def dimension_figure(facts: DimensionFacts) -> go.Figure:
    """Return how often each dimension is selected, and what is known of one.

    Args:
        facts: From `dimension_facts`.
    """
    j, d = facts.dimension, len(facts.frequency)
    figure = make_subplots(
        rows=3,
        cols=3,
        specs=[[{"colspan": 3}, None, None], [{}, {}, {}], [{"colspan": 3}, None, None]],
        row_heights=[0.27, 0.34, 0.39],
        vertical_spacing=0.1,
        horizontal_spacing=0.08,
        subplot_titles=[
            f"in S(x) of {facts.frequency[j]:.1%} of the texts",
            "positive, share of the texts",
            "tokens promoted",
            "tokens demoted",
            "sentences with the largest values (pale: not in S(x))",
        ],
    )
    order = by_frequency(facts.frequency)
    figure.add_scatter(
        x=list(range(1, d + 1)),
        y=facts.frequency[order].tolist(),
        mode="markers",
        marker={"size": 5, "color": PALETTE[1]},
        customdata=order,
        hovertemplate="dimension %{customdata}: %{y:.1%}<extra></extra>",
        showlegend=False,
        row=1,
        col=1,
    )
    figure.add_scatter(
        x=[order.index(j) + 1],
        y=[float(facts.frequency[j])],
        mode="markers",
        marker={"size": 13, "color": PALETTE[0], "symbol": "diamond"},
        hovertemplate=f"dimension {j}: %{{y:.1%}}<extra></extra>",
        showlegend=False,
        row=1,
        col=1,
    )
    names = [language_named(code).name for code in facts.languages["language"]]
    bars = {"orientation": "h", "showlegend": False}
    figure.add_bar(
        x=facts.languages["positive"],
        y=names,
        marker_color=PALETTE[2],
        customdata=facts.languages["value"],
        hovertemplate="%{y}: positive in %{x:.1%}, mean %{customdata:.3g}<extra></extra>",
        row=2,
        col=1,
        **bars,
    )
    for column, (direction, colour) in enumerate(
        ((PROMOTED, PALETTE[0]), (DEMOTED, PALETTE[1])), 2
    ):
        part = facts.tokens[facts.tokens["direction"] == direction]
        figure.add_bar(
            x=part["effect"].abs(),
            y=part["rank"],
            marker_color=colour,
            text=part["token"].map(label) + part["effect"].map("  {:+.3f}".format),
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{text}<extra></extra>",
            row=2,
            col=column,
            **bars,
        )
    figure.add_bar(
        x=facts.sentences["value"],
        y=facts.sentences["rank"],
        marker={
            "color": PALETTE[3],
            "opacity": facts.sentences["selected"].map({True: 0.65, False: 0.2}),
        },
        customdata=facts.sentences["positive"],
        hovertemplate="%{x:.4g}, positive in %{customdata}<extra></extra>",
        row=3,
        col=1,
        **bars,
    )
    figure.add_scatter(
        x=[0] * len(facts.sentences),
        y=facts.sentences["rank"],
        mode="text",
        text=[
            f" {label(textwrap.shorten(text, WIDTH, placeholder=' …')).replace('␣', ' ')}"
            for text in facts.sentences["text"]
        ],
        textposition="middle right",
        hoverinfo="skip",
        showlegend=False,
        row=3,
        col=1,
    )
    n_tokens, n_sentences = facts.tokens["rank"].max(), len(facts.sentences)
    longest = 2.1 * facts.tokens["effect"].abs().max()
    figure.update_xaxes(title=f"the {d} dimensions, the most frequent first", row=1)
    figure.update_yaxes(tickformat=".0%", rangemode="tozero", row=1)
    figure.update_xaxes(range=[0, 1], tickformat=".0%", row=2, col=1)
    figure.update_yaxes(autorange="reversed", row=2, col=1)
    for column in (2, 3):
        figure.update_xaxes(
            range=[0, longest], showticklabels=False, showgrid=False, row=2, col=column
        )
        figure.update_yaxes(
            range=[n_tokens + 0.6, 0.4], showticklabels=False, showgrid=False, row=2, col=column
        )
    figure.update_yaxes(range=[n_sentences + 0.6, 0.4], showticklabels=False, row=3)
    figure.update_xaxes(title="mean over the languages", row=3)
    figure.update_annotations(font_size=13)
    symbol = superscript(SYMBOLS[facts.component])
    title = f"Dimension {j} of {symbol}"
    height = 500 + 22 * (n_sentences + max(int(n_tokens), len(names)))
    return layout(figure, title, facts.measured_on, height)


def by_frequency(frequency: Float[Tensor, " d"]) -> list[int]:
    """Return the dimensions in the order of the figure: the most frequent first."""
    return frequency.sort(descending=True, stable=True).indices.tolist()


def dimension_text(facts: DimensionFacts) -> str:
    """Return the numbers of a dimension as HTML, and what its logit lens is."""
    j, place = facts.dimension, by_frequency(facts.frequency).index(facts.dimension) + 1
    tokens = {
        direction: ", ".join(label(token) for token in part["token"])
        for direction, part in facts.tokens.groupby("direction", sort=False)
    }
    rows = "".join(
        f'<tr><td>{row.rank}</td><td dir="auto">{html.escape(row.text)}</td>'
        f"<td>{row.value:.4g}</td><td>{'yes' if row.selected else 'no'}</td>"
        f"<td>{row.positive}</td></tr>"
        for row in facts.sentences.itertuples()
    )
    computed = LOGIT_LENS["final" if facts.component == "final" else "stream"]
    return (
        f"<p><b>Dimension {j}</b> is in S(x) of {facts.frequency[j]:.1%} of the texts (place "
        f"{place} of {len(facts.frequency)}). Logit lens ({computed}): promotes "
        f"{tokens[PROMOTED]}; demotes {tokens[DEMOTED]}.</p>"
        "<table><thead><tr><th></th><th>Sentence</th><th>value</th><th>in S(x)</th>"
        f"<th>positive in</th></tr></thead><tbody>{rows}</tbody></table>"
    )


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
            "from dysem_lab.explorers import dimension_explorer as de; de.dimension_figure("
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
