"""One layer's output, or the sum up to it? Notebook 07."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.encoders.settings import VECTORS
from dysem_lab.evaluate import score
from dysem_lab.inputs import one_of
from dysem_lab.questions.asked import asked
from dysem_lab.questions.finding import Facts, Finding, facts_of
from dysem_lab.questions.grid import check_ms, chunks, sweep
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.scores import language_order, mean_size, most_languages, with_languages
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import (
    PALETTE,
    SCORE,
    curves,
    layout,
    named_settings,
    noted,
    over,
    prompts_said,
    rgba,
    rows_of,
    whiskers,
    with_average,
)

PER_LAYER = ("attn", "attn_raw", "ffn")  # what a block adds to the stream


def layers(
    study: Study,
    m: int,
    *,
    component: str = "attn",
    k: int | float = 0.25,
    vectors: Sequence[str] = VECTORS,
    seed: int = 0,
) -> Finding:
    """Score DySem on each layer's output alone and on the sum up to that layer.

    Args:
        study: Its tasks and prompt settings; its first template is used.
        m: Number of languages, ranked by the sum over all layers; a task with fewer uses all.
        component: "attn" (a^l and A^l), "attn_raw" or "ffn" (f^l and F^l).
        k: Dimensions per text, or fraction of d.
        vectors: "mean" and "source".
        seed: Of the bootstraps.

    Returns:
        One row per task, setting, vector, ``kind`` ("layer-wise", "cumulative") and ``layer``
        (0-based block index).

    Raises:
        InputError: k, m or a name out of range.

    Source: DySem Figures 8 and 18–21.
    """
    one_of(component, PER_LAYER, "component for layers")  # h^l is a sum over layers already
    given = asked(study, component=component, m=m, k=k, vectors=vectors, seed=seed)
    prepare(study.needs(component, each=component))
    facts = facts_of(study, template=study.templates[0], **given)
    scores = table(study, **given)
    facts = with_languages(facts, scores)
    return Finding("layers", scores, figure(scores, facts), caption(scores), facts)


def table(
    study: Study,
    m: int,
    *,
    component: str = "attn",
    k: int | float = 0.25,
    vectors: Sequence[str] = VECTORS,
    languages: Mapping[str, Sequence[str]] | Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the table of `layers`, of all tasks or some, in given orders of languages (`grid`)."""
    one_of(component, PER_LAYER, "component for layers")
    check_ms([m], most_languages(study, languages))
    rows = []
    for task in study.data if tasks is None else tasks:
        data = study.data[task]
        for setting in study.settings:
            order = language_order(study, task, study.templates[0], setting, component, languages)
            codes = order[:m]
            read = list(dict.fromkeys([*codes, "en"]))  # English is the source
            where: dict[str, Any] = {"setting": setting, "languages": read, "layers": "each"}
            results: dict[tuple[str, str, int], list[Tensor]] = {}
            for pairs in chunks(len(data)):
                x = study.vectors(task, component, **where, pairs=pairs)
                for cell, part in _layer_chunk(x, len(codes), read.index("en"), k, vectors):
                    results.setdefault(cell, []).append(part)
            for (kind, vector, layer), parts in results.items():
                similarity, sizes = torch.cat(parts, dim=1)
                rows.append(
                    {
                        "task": task,
                        "setting": setting,
                        "vector": vector,
                        "kind": kind,
                        "layer": layer,
                        "languages": "/".join(codes),
                        "k": k,
                        **score(similarity, data.gold, mean_size(sizes), seed=seed),
                    }
                )
    return pd.DataFrame(rows)


def _layer_chunk(
    x: Float[Tensor, "twice_c languages L d"],
    m: int,
    english: int,
    k: int | float,
    vectors: Sequence[str],
) -> Iterator[tuple[tuple[str, str, int], Float[Tensor, "2 c"]]]:
    """Yield (kind, vector, layer) with the similarities and set sizes of some pairs."""
    for kind, each in (("layer-wise", x), ("cumulative", x.cumsum(2))):
        for layer, at in enumerate(each.unbind(2)):
            cells = sweep(at[:, :m], at[:, english], [k], [m], vectors)
            for cell, result in cells.items():
                sizes = result.sizes.to(result.similarity.dtype)
                yield (kind, cell.vector, layer), torch.stack([result.similarity, sizes])


def figure(table: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return layer-wise and cumulative scores over layers, one panel per setting and vector.

    Layers are 1-based here, as in the paper. Of several tasks it is their average, with a thin line
    for each; where there is one setting and vector, each task has a panel.
    """
    named = named_settings(table).assign(layer=table["layer"] + 1)
    single = named["method"].nunique() == 1
    of_tasks = named.iloc[:0]
    if table["task"].nunique() > 1:
        named = with_average(named, ["method", "kind", "layer"])
        if not single:
            is_average = named["task"] == "average"
            of_tasks, named = named[~is_average], named[is_average]
    panel = named["task"] if single else named["method"].str.replace(", ", ",<br>", n=1)
    colours = {"layer-wise": PALETTE[1], "cumulative": PALETTE[0]}
    figure = curves(named.assign(panel=panel), "layer", "kind", "panel", colours)
    columns_of = {method: 1 + i for i, method in enumerate(dict.fromkeys(named["method"]))}
    for (method, kind, task), part in of_tasks.groupby(["method", "kind", "task"], sort=False):
        figure.add_scatter(
            x=part["layer"],
            y=part["spearman"],
            mode="lines",
            line={"color": rgba(colours[kind], 0.3), "width": 1},
            name=str(task),
            hovertemplate="%{x}: %{y:.2f}",
            showlegend=False,
            row=1,
            col=columns_of[method],
        )
    n, columns = panel.nunique(), min(4, panel.nunique())
    for i in range(n - columns, n):  # the lowest panels: others have no room below
        figure.update_xaxes(title="layer", row=1 + i // columns, col=1 + i % columns)
    figure.update_yaxes(title=SCORE, col=1).update_yaxes(matches="y", nticks=8)
    figure.update_annotations(font_size=12)
    height = 270 * rows_of(panel.unique()) + 240
    title = "One layer's output, or the sum up to it?"
    note = (
        whiskers(named, "shaded") if of_tasks.empty else "average over the tasks; thin: each task"
    )
    return layout(figure, title, noted(facts, note), height)


def caption(table: pd.DataFrame) -> str:
    """Return one line with the last cumulative score and the best layers of both kinds."""
    parts, wins = [], 0
    for (setting, vector), part in table.groupby(["setting", "vector"], sort=False):
        mean = part.groupby(["kind", "layer"])["spearman"].mean()
        one, total = mean["layer-wise"], mean["cumulative"]
        wins += total.iloc[-1] > one.max()
        parts.append(
            f"{prompts_said(setting)}, {vector}: all layers summed {total.iloc[-1]:.1f}, best sum "
            f"{total.max():.1f} (to layer {total.idxmax() + 1} of {len(total)}), best single layer "
            f"{one.max():.1f} (layer {one.idxmax() + 1})"
        )
    return (
        f"The sum over all layers scores higher than every single layer in {wins} of {len(parts)} "
        f"settings (not tested; in the paper it does). Spearman × 100{over(table)}. "
        f"{'; '.join(parts)}."
    )
