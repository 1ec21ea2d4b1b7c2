"""Similarity layer by layer: what each block adds, the sum up to it, and the residual stream."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.evaluate import score
from dysem_lab.questions import layers
from dysem_lab.questions.asked import asked, require_study
from dysem_lab.questions.finding import Facts, Finding, facts_of
from dysem_lab.questions.grid import check_ms, chunks, sweep
from dysem_lab.questions.needs import Need, prepare
from dysem_lab.questions.published import paper_task, preset_of, published
from dysem_lab.questions.scores import pair_cosine
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import PALETTE, SCORE, band, layout, noted, side_by_side, whiskers

COMPONENTS = ("attn", "ffn", "resid")
PANELS = {"attn": "attention", "ffn": "FFN", "resid": "residual stream"}
KINDS = {"layer-wise": PALETTE[1], "cumulative": PALETTE[0]}
UNRELATED = "unrelated pair"
MEASURES = {"DySem": "solid", "all dimensions": "dot", UNRELATED: "dash"}
SYMBOLS = {
    ("attn", "layer-wise"): "a<sup>l</sup>",
    ("attn", "cumulative"): "A<sup>l</sup>",
    ("ffn", "layer-wise"): "f<sup>l</sup>",
    ("ffn", "cumulative"): "F<sup>l</sup>",
    ("resid", "cumulative"): "h<sup>l</sup>",
}


def layer_curves(
    study: Study,
    task: str | None = None,
    setting: str | None = None,
    vector: str = "mean",
    m: int | None = None,
    k: int | float = 0.25,
    *,
    seed: int = 0,
) -> Finding:
    """Score DySem at every layer on the pairs of a task: what a block adds, and the sum up to it.

    Args:
        study: Its first template is used.
        task: Name of one of its tasks; None is its first.
        setting: Prompt setting; None is the study's first.
        vector: "mean" or "source".
        m: The first so many of the task's languages; None is all.
        k: Dimensions per text, or fraction of d.
        seed: Of the bootstraps.

    Returns:
        As from `dysem_lab.questions.pair_layers.pair_layer_curves`, with the measure "DySem" alone:
        ``value`` is Spearman × 100, ``low`` and ``high`` its 95 % interval, ``n_dims`` the mean
        size of the joint sets.

    Raises:
        InputError: A name that the study does not have, m or k out of range, or a study that does
            not read every layer.

    Source: DySem Figures 8 and 18-21 have attention and FFN; the residual stream is ours.
    """
    require_study(study)
    task = next(iter(study.data), "") if task is None else task
    setting = study.settings[0] if setting is None else setting
    given = asked(study, task=task, setting=setting, vector=vector, k=k, seed=seed)
    codes = study.task_languages(task)
    m = len(codes) if m is None else m
    check_ms([m], len(codes))
    prepare(need_of(study))
    table = data_layers(study.prompted(settings=setting), task, vector, codes[:m], k, seed)
    del given["task"]  # it is named as the data
    prompt = {"template": study.templates[0]}
    facts = facts_of(study, [task], languages=codes[:m], **prompt, **given)
    facts = replace(facts, unsaid={"task": task, "m": m})
    paper = published_score(study, task, setting, vector)
    figure = layer_figure(table, facts, SCORE, paper)
    return Finding("layer_curves", table, figure, layer_caption(table), facts)


def kinds_of(component: str, each: Float[Tensor, "n m L d"]) -> Iterator[tuple[str, Tensor]]:
    """Yield each layer's own output and the sum up to it; the stream is such a sum already."""
    if component == "resid":
        yield "cumulative", each
    else:
        yield "layer-wise", each
        yield "cumulative", each.cumsum(2)


def at_layers(
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


def need_of(study: Study) -> Need:
    """Return what the curves of a study's tasks need: every layer of all three components."""
    return study.needs((), each=COMPONENTS)


def data_layers(
    study: Study, task: str, vector: str, codes: list[str], k: int | float, seed: int
) -> pd.DataFrame:
    """Return the table of `layer_curves`, of a study with one prompt setting."""
    asked: dict[str, Any] = {"k": k, "vectors": [vector], "languages": codes, "tasks": [task]}
    tables = [
        layers.table(study, len(codes), component=name, **asked, seed=seed).assign(component=name)
        for name in ("attn", "ffn")
    ]
    tables.append(_stream_scores(study, task, vector, codes, k, seed))
    table = pd.concat(tables, ignore_index=True).rename(columns={"spearman": "value"})
    table["measure"] = "DySem"
    columns = ["component", "kind", "measure", "layer", "value", "low", "high", "n_dims"]
    return table[columns]


def _stream_scores(
    study: Study, task: str, vector: str, codes: list[str], k: float, seed: int
) -> pd.DataFrame:
    """Score DySem on the residual stream after every block; the study has one setting."""
    parts = []
    for pairs in chunks(len(study.data[task])):
        x = study.vectors(task, "resid", languages=codes, layers="each", pairs=pairs)
        parts.append(at_layers(x, x[:, 0], k, vector))  # English is a study's first language
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
    table: pd.DataFrame, measured_on: Facts | str, value: str = "cosine", paper: float = math.nan
) -> go.Figure:
    """Return the similarity over layers: attention, FFN and the residual stream side by side.

    Layers are 1-based here, as in the paper.

    Args:
        table: Of `layer_curves`, or of a pair.
        measured_on: The line under the title.
        value: What the values are.
        paper: A published score of A^L to draw beside it; NaN where there is none.
    """
    figure = side_by_side(list(PANELS.values()))
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
        if measure == UNRELATED:  # quiet: two greys
            colour = "#777777" if kind == "cumulative" else "#BBBBBB"
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
    shaded = whiskers(table, "shaded") if "low" in table else ""
    return layout(figure, title, noted(measured_on, shaded), 480)


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
