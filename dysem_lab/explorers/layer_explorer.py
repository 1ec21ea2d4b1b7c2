"""Similarity layer by layer: what each block adds, the sum up to it, and the residual stream."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from dysem_lab.consensus import resolve_k
from dysem_lab.display import Progress
from dysem_lab.encoders.settings import VECTORS
from dysem_lab.errors import InputError, MissingTranslationError, choices
from dysem_lab.evaluate import score
from dysem_lab.explorers.panel import Panel, State, View, menu, slider, text_box
from dysem_lab.inputs import by_language, checked, names_of
from dysem_lab.models.capture import capture
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.lens import LensModel
from dysem_lab.models.places import places
from dysem_lab.models.store import VectorStore
from dysem_lab.prompts import SETTINGS, TEMPLATES, wrap
from dysem_lab.questions import layers as layers_question
from dysem_lab.questions.grid import PAIRS_PER_CHUNK, check_ms, sweep
from dysem_lab.questions.published import paper_task, preset_of, published
from dysem_lab.questions.scores import pair_cosine
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import PALETTE, SCORE, band, facts, layout
from dysem_lab.translation.translate import Translator

COMPONENTS = ("attn", "ffn", "resid")
PANELS = {"attn": "attention", "ffn": "FFN", "resid": "residual stream"}
KINDS = {"layer-wise": PALETTE[1], "cumulative": PALETTE[0]}
MEASURES = {"DySem": "solid", "all dimensions": "dot"}
SYMBOLS = {
    ("attn", "layer-wise"): "a<sup>l</sup>",
    ("attn", "cumulative"): "A<sup>l</sup>",
    ("ffn", "layer-wise"): "f<sup>l</sup>",
    ("ffn", "cumulative"): "F<sup>l</sup>",
    ("resid", "cumulative"): "h<sup>l</sup>",
}


@dataclass(frozen=True, eq=False)
class LayeredPair:
    """Two texts at every layer, in several languages and prompt settings, from one capture.

    Attributes:
        model: Of which model.
        languages: Codes of the m languages; the texts' own is the first.
        template: Of the prompts.
        texts: Language → the two texts in it.
        vectors: (setting, component) → s^(ℓ) of the first and of the second text at every layer,
            float32 ``[2, m, L, d]``.
    """

    model: ModelFacts
    languages: tuple[str, ...]
    template: str
    texts: Mapping[str, Sequence[str]]
    vectors: Mapping[tuple[str, str], Float[Tensor, "2 m L d"]]

    @property
    def settings(self) -> tuple[str, ...]:
        """The prompt settings that were captured."""
        return tuple(dict.fromkeys(setting for setting, _ in self.vectors))


def capture_pair(
    lens: LensModel,
    first: str,
    second: str,
    languages: Sequence[str] = ("en",),
    renderings: Mapping[str, Sequence[str]] | None = None,
    translator: Translator | None = None,
    template: str = "prompteol",
    *,
    store: VectorStore | None = None,
) -> LayeredPair:
    """Capture two texts at every layer.

    Args:
        lens: The model.
        first: One text, in the first of the languages.
        second: The other.
        languages: Different codes, in the order in which they join the consensus.
        renderings: Language → the two texts in it.
        translator: Makes the renderings that are not given.
        template: As for `dysem_lab.wrap`; a free template has the English setting only.
        store: As for `dysem_lab.capture`.

    Raises:
        InputError: No language or one twice, an empty text, renderings that are not two.
        MissingTranslationError: A rendering is neither given nor to be had.
    """
    codes = names_of(languages, "language")
    if not codes or len(set(codes)) < len(codes):
        raise InputError(f"languages must be one or more different codes, got {languages}")
    given = by_language(renderings)
    texts = {codes[0]: checked([first, second])}
    for code in codes[1:]:
        texts[code] = _rendered(texts[codes[0]], codes[0], code, given, translator)
    settings = SETTINGS if template in TEMPLATES else SETTINGS[:1]
    prompts = {
        (setting, code): wrap(texts[code], template, setting, code)
        for setting in settings
        for code in codes
    }
    everything = [prompt for pair in prompts.values() for prompt in pair]
    read = capture(lens, everything, COMPONENTS, "each", store=store, progress=False)
    vectors = {
        (setting, component): rows.unflatten(0, (len(settings), len(codes), 2))[i].transpose(0, 1)
        for component, rows in read.items()
        for i, setting in enumerate(settings)
    }
    return LayeredPair(lens.facts, tuple(codes), template, texts, vectors)


def _rendered(
    texts: list[str],
    source: str,
    target: str,
    renderings: Mapping[str, Sequence[str]],
    translator: Translator | None,
) -> list[str]:
    """Return the two texts in another language."""
    if target in renderings:
        given = checked(renderings[target], f"{target} rendering")
        if len(given) != 2:
            raise InputError(f"renderings in {target!r} must be two texts: {given!r:.200}")
        return given
    if translator is None:
        raise MissingTranslationError(
            f"no rendering of {texts[0]!r} in {target!r}: give renderings or a translator, or use "
            f"languages=({source!r},)"
        )
    return translator.translate(texts, source, target)


def pair_layers(
    pair: LayeredPair,
    setting: str = "english",
    vector: str = "mean",
    m: int | None = None,
    k: int | float = 0.25,
) -> pd.DataFrame:
    """Return the similarity of a pair at every layer.

    Args:
        pair: From `capture_pair`.
        setting: Prompt setting.
        vector: "mean" over the first m languages, or "source".
        m: The first so many languages; None is all.
        k: Dimensions per text, or fraction of d.

    Returns:
        One row per ``component`` ("attn", "ffn", "resid"), ``kind`` ("layer-wise": a^l, f^l;
        "cumulative": A^l, F^l, h^l), ``measure`` ("DySem": on the joint set; "all dimensions": the
        plain cosine of the same vectors) and ``layer`` (0-based): ``value`` (a cosine; NaN where it
        is undefined), ``n_dims`` (dimensions that it is over).

    Raises:
        InputError: A setting that the pair does not have, m, k or a vector out of range.

    Source: DySem Eqs. 3-6 and 11-17.
    """
    if setting not in pair.settings:
        raise choices("prompt setting", setting, pair.settings)
    m = len(pair.languages) if m is None else m
    check_ms([m], len(pair.languages))
    rows = []
    for component in COMPONENTS:
        each = pair.vectors[setting, component]
        for kind, x in _kinds(component, each):
            similarity, sizes, plain = _at_layers(x[:, :m], x[:, 0], k, vector)
            for layer in range(each.shape[2]):
                labels = {"component": component, "kind": kind, "layer": layer}
                for measure, values, dims in (
                    ("DySem", similarity, float(sizes[0, layer])),
                    ("all dimensions", plain, float(each.shape[3])),
                ):
                    value = float(values[0, layer])
                    rows.append({**labels, "measure": measure, "value": value, "n_dims": dims})
    return pd.DataFrame(rows)[["component", "kind", "measure", "layer", "value", "n_dims"]]


def _kinds(component: str, each: Float[Tensor, "n m L d"]) -> Iterator[tuple[str, Tensor]]:
    """Yield each layer's own output and the sum up to it; the stream is such a sum already."""
    if component == "resid":
        yield "cumulative", each
    else:
        yield "layer-wise", each
        yield "cumulative", each.cumsum(2)


def _at_layers(
    x: Float[Tensor, "twice_n m L d"], source: Float[Tensor, "twice_n L d"], k: float, vector: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return similarities, sizes of the joint sets and plain cosines of n pairs, ``[n, L]`` each.

    To `dysem_lab.questions.grid.sweep` the layers of a pair are pairs of their own.
    """
    n_layers, m = x.shape[2], x.shape[1]
    flat, flat_source = x.transpose(1, 2).flatten(0, 1), source.flatten(0, 1)
    (result,) = sweep(flat, flat_source, [k], [m], [vector]).values()
    plain = pair_cosine(flat.mean(1) if vector == "mean" else flat_source)
    return tuple(t.unflatten(0, (-1, n_layers)) for t in (result.similarity, result.sizes, plain))


def data_layers(
    study: Study,
    task: str,
    setting: str | None = None,
    vector: str = "mean",
    m: int | None = None,
    k: int | float = 0.25,
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """Score DySem at every layer on the pairs of a task.

    Args:
        study: Made with ``each=("attn", "ffn", "resid")``; its first template is used.
        task: Name of one of its tasks.
        setting: Prompt setting; None is the study's first.
        vector: "mean" or "source".
        m: The first so many of the task's languages; None is all.
        k: Dimensions per text, or fraction of d.
        seed: Of the bootstraps.

    Returns:
        As from `pair_layers`, with the measure "DySem" alone: ``value`` is Spearman × 100, ``low``
        and ``high`` its 95 % interval, ``n_dims`` the mean size of the joint sets.

    Raises:
        InputError: A name that the study does not have, m or k out of range, or a study that does
            not read every layer.

    Source: DySem Figures 8 and 18-21 have attention and FFN; the residual stream is ours.
    """
    setting = study.settings[0] if setting is None else setting
    if setting not in study.settings:
        raise choices("prompt setting of this study", setting, study.settings)
    if missing := set(places(COMPONENTS, "each")) - set(study.wanted):
        names = ", ".join(sorted(kind.component for kind in missing))
        raise InputError(
            f"this study does not read {names} at every layer; give it each={COMPONENTS}"
        )
    codes = study.task_languages(task)
    m = len(codes) if m is None else m
    check_ms([m], len(codes))
    narrow = copy.copy(study)
    narrow.data, narrow.settings = {task: study.data[task]}, [setting]
    tables = [
        layers_question.table(
            narrow, m, component=name, k=k, vectors=[vector], languages=codes[:m], seed=seed
        ).assign(component=name)
        for name in ("attn", "ffn")
    ]
    tables.append(_stream_scores(narrow, task, vector, codes[:m], k, seed))
    table = pd.concat(tables, ignore_index=True).rename(columns={"spearman": "value"})
    table["measure"] = "DySem"
    columns = ["component", "kind", "measure", "layer", "value", "low", "high", "n_dims"]
    return table[columns]


def _stream_scores(
    study: Study, task: str, vector: str, codes: list[str], k: float, seed: int
) -> pd.DataFrame:
    """Score DySem on the residual stream after every block; the study has one setting."""
    parts = []
    for start in range(0, len(study.data[task]), PAIRS_PER_CHUNK):
        pairs = range(start, min(start + PAIRS_PER_CHUNK, len(study.data[task])))
        x = study.vectors(task, "resid", languages=codes, layers="each", pairs=pairs)
        parts.append(_at_layers(x, x[:, 0], k, vector))  # English is a study's first language
    similarity, sizes, _ = (torch.cat(column) for column in zip(*parts, strict=True))
    gold = study.data[task].gold
    return pd.DataFrame(
        {
            "component": "resid",
            "kind": "cumulative",
            "layer": layer,
            **score(of_layer, gold, float(sizes[:, layer].double().mean()), seed=seed),
        }
        for layer, of_layer in enumerate(similarity.unbind(1))
    )


def published_score(study: Study, task: str, setting: str, vector: str) -> float:
    """Return the paper's score of A^L over all layers with this setting and vector, or NaN.

    The paper prints its curves over layers as figures only; their last point is in its tables.

    Source: DySem Tables 1 and 2.
    """
    preset = preset_of(study.model.name)
    if not preset:
        return math.nan
    rows = published(preset)
    rows = rows[(rows["method"] == "DySem") & (rows["template"] == study.templates[0])]
    rows = rows[(rows["setting"] == setting) & (rows["vector"] == vector)]
    data = study.data[task]
    rows = rows[(rows["task"] == paper_task(data)) & (rows["n_pairs"] == len(data))]
    return float(rows["score"].iloc[0]) if len(rows) else math.nan


def layer_figure(
    table: pd.DataFrame, measured_on: str, value: str = "cosine", paper: float = math.nan
) -> go.Figure:
    """Return the similarity over layers: attention, FFN and the residual stream side by side.

    Layers are 1-based here, as in the paper.

    Args:
        table: From `pair_layers` or `data_layers`.
        measured_on: The line under the title.
        value: What the values are.
        paper: A published score of A^L to draw beside it; NaN where there is none.
    """
    figure = make_subplots(
        rows=1,
        cols=3,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        subplot_titles=list(PANELS.values()),
    )
    named: set[str] = set()
    for (component, kind, measure), part in table.groupby(
        ["component", "kind", "measure"], sort=False
    ):
        place = {"row": 1, "col": 1 + COMPONENTS.index(component)}
        layers, colour = part["layer"] + 1, KINDS[kind]
        if "low" in part:
            band(figure, layers, part["low"], part["high"], colour, **place)
        name = {"layer-wise": "one layer", "cumulative": "sum up to it"}[kind]
        name = f"{name}, {measure}"
        figure.add_scatter(
            x=layers,
            y=part["value"],
            mode="lines+markers",
            marker_size=5,
            line={"color": colour, "dash": MEASURES[measure]},
            name=name,
            legendgroup=name,
            showlegend=name not in named,
            customdata=part["n_dims"],
            hovertemplate=f"{SYMBOLS[component, kind]}, layer %{{x}}: %{{y:.3f}}"
            "<br>#Dim. %{customdata:.0f}",
            **place,
        )
        named.add(name)
    if not math.isnan(paper):
        last = int(table["layer"].max()) + 1
        figure.add_scatter(
            x=[1, last],
            y=[paper, paper],
            mode="lines",
            line={"color": "#555555", "dash": "dash"},
            name="the paper's A<sup>L</sup>, all layers",
            hovertemplate="%{y:.2f}",
            row=1,
            col=1,
        )
    figure.update_xaxes(title="layer")
    figure.update_yaxes(title=value, col=1)
    title = "Where does the similarity arise, layer by layer?"
    return layout(figure, title, measured_on, 480)


def pair_figure(
    pair: LayeredPair,
    setting: str = "english",
    vector: str = "mean",
    m: int | None = None,
    k: int | float = 0.25,
) -> go.Figure:
    """Return `layer_figure` of a pair; arguments and errors as for `pair_layers`."""
    table = pair_layers(pair, setting, vector, m, k)
    codes = "/".join(pair.languages[:m])
    shown = [pair.model.label, codes, setting, vector, f"k = {k:g}"]
    return layer_figure(table, ", ".join(shown))


def data_figure(
    study: Study,
    task: str,
    setting: str | None = None,
    vector: str = "mean",
    m: int | None = None,
    k: int | float = 0.25,
) -> go.Figure:
    """Return `layer_figure` of a task's pairs; arguments and errors as for `data_layers`."""
    table = data_layers(study, task, setting, vector, m, k)
    return _data_figure(study, task, table, setting or study.settings[0], vector, m, k)


def _data_figure(
    study: Study,
    task: str,
    table: pd.DataFrame,
    setting: str,
    vector: str,
    m: int | None,
    k: float,
) -> go.Figure:
    codes = study.task_languages(task)[:m]
    only = copy.copy(study)
    only.data = {task: study.data[task]}
    measured_on = facts(only, languages=codes, prompts=setting, vector=vector, k=k)
    return layer_figure(table, measured_on, SCORE, published_score(study, task, setting, vector))


def layer_caption(table: pd.DataFrame) -> str:
    """Return one line, ready for HTML: the last and the best value of each curve of DySem."""
    parts = []
    for (component, kind), part in table[table["measure"] == "DySem"].groupby(
        ["component", "kind"], sort=False
    ):
        values = part.set_index("layer")["value"]
        digits = 1 if "low" in part else 3
        if values.notna().any():
            best = values.idxmax()
            parts.append(
                f"{SYMBOLS[component, kind]} {values.iloc[-1]:.{digits}f} at the last layer, at "
                f"most {values[best]:.{digits}f} (layer {best + 1})"
            )
    return f"DySem: {'; '.join(parts)}." if parts else "No joint set at any layer."


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
    renderings = {
        code: checked(pair, f"{code} rendering") for code, pair in by_language(renderings).items()
    }
    known: dict[tuple[str, str], LayeredPair] = {}

    def read(first: str, second: str) -> LayeredPair:
        if (first, second) not in known:
            given = renderings if (first, second) == (a, b) else None
            captured = capture_pair(lens, first, second, languages, given, translator, template)
            known.clear()
            known[first, second] = captured
        return known[first, second]

    def update(state: State, progress: Progress) -> View:
        progress(0, 1, "Reading")
        pair = read(state["first"], state["second"])
        chosen = {name: state[name] for name in ("setting", "vector", "m", "k")}
        return View(pair_figure(pair, **chosen), layer_caption(pair_layers(pair, **chosen)))

    def python(state: State) -> str:
        pair = known[state["first"], state["second"]]
        others = {code: list(texts) for code, texts in list(pair.texts.items())[1:]}
        made = f"{state['first']!r}, {state['second']!r}, {list(pair.languages)!r}, {others!r}"
        chosen = ", ".join(f"{name}={state[name]!r}" for name in ("setting", "vector", "m", "k"))
        return (
            "from dysem_lab.explorers.layer_explorer import capture_pair, pair_figure; pair_figure("
            f"capture_pair(lens, {made}, template={template!r}), {chosen})"
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
        study: Made with ``each=("attn", "ffn", "resid")``, which the copied line of Python calls
            ``study``.
        task: Shown first; None is the study's first.
        k: Dimensions per text shown first, or fraction of d.
    """
    tables: dict[tuple[Any, ...], pd.DataFrame] = {}

    def arguments(state: State) -> dict[str, Any]:
        chosen = {name: state[name] for name in ("task", "setting", "vector", "m", "k")}
        return {**chosen, "m": min(chosen["m"], len(study.task_languages(chosen["task"])))}

    def update(state: State, progress: Progress) -> View:
        plan = study.plan()
        done, total = 0, int(plan["passes"].sum())
        if total:
            progress(done, total, "Capture")
        for n_texts in study.fill(plan):
            done += n_texts
            progress(done, total, "Capture")
        chosen = arguments(state)
        key = tuple(chosen.values())
        if key not in tables:
            tables[key] = data_layers(study, **chosen)
        return View(_data_figure(study, table=tables[key], **chosen), layer_caption(tables[key]))

    def python(state: State) -> str:
        chosen = ", ".join(f"{name}={value!r}" for name, value in arguments(state).items())
        return (
            "from dysem_lab.explorers.layer_explorer import data_figure; "
            f"data_figure(study, {chosen})"
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
