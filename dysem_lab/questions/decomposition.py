"""Which part of the residual stream carries sentence meaning? Notebook 01."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from dysem_lab.display import amount
from dysem_lab.encoders.dysem import semantic_vectors
from dysem_lab.encoders.settings import VECTORS
from dysem_lab.evaluate import paired_difference, score
from dysem_lab.prompts import TEMPLATE_NAMES
from dysem_lab.questions.asked import asked
from dysem_lab.questions.finding import Facts, Finding, facts_of
from dysem_lab.questions.names import SYMBOLS
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.scores import gain_columns, pair_cosine, pair_similarity, with_holm
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import (
    OTHER_COLOUR,
    best,
    error_bar,
    interval,
    layout,
    one_task,
    superscript,
)

PLAIN = ("final", "resid", "attn", "ffn")
GROUP_COLOURS = {
    "baseline": "#999999",
    "part": "#0072B2",
    "DySem on A^L": "#D55E00",
    "DySem on h^L": "#009E73",
}


def decomposition(
    study: Study,
    languages: Sequence[str],
    *,
    k: int | float = 0.25,
    components: Sequence[str] = ("attn", "resid"),
    seed: int = 0,
) -> Finding:
    """Score each part of h^L = h^0 + A^L + F^L alone, and DySem on the parts that it uses.

    Args:
        study: Of one task. Its first template is used, and "none" for mean pooling; DySem in its
            prompt settings.
        languages: 𝓛, English among them where it should be.
        k: Dimensions per text, or fraction of d.
        components: Parts that DySem is run on.
        seed: Of the bootstraps.

    Returns:
        One row per task and method with ``group``, ``method``, ``component``, ``setting``,
        ``vector``; ``gain``, ``gain_low``, ``gain_high`` are the paired difference to the plain
        cosine of the same component in English (NaN for parts).

    Source: DySem Section 3.1 and Figure 2.
    """
    given = asked(study, languages=languages, k=k, components=components, seed=seed)
    pooled = study.prompted("none").needs(())
    prepare(study.needs([*dict.fromkeys((*PLAIN, *given["components"]))]), pooled)
    facts = facts_of(study, template=study.templates[0], **given)
    scores = table(study, **given)
    return Finding("decomposition", scores, figure(scores, facts), caption(scores), facts)


def table(
    study: Study,
    languages: Sequence[str],
    k: int | float = 0.25,
    components: Sequence[str] = ("attn", "resid"),
    seed: int = 0,
) -> pd.DataFrame:
    """Return the table of `decomposition`, of each task of this study."""
    prompt = TEMPLATE_NAMES.get(study.templates[0], study.templates[0])
    rows: list[dict[str, object]] = []
    for task, data in study.data.items():
        d_model = study.model.d_model
        parts = {
            name: study.vectors(task, name, languages=["en"])[:, 0]
            for name in dict.fromkeys((*PLAIN, *components))
        }
        cosines = {name: pair_cosine(vectors) for name, vectors in parts.items()}
        pooled = pair_cosine(study.vectors(task, "mean", template="none", languages=["en"])[:, 0])
        plain = [
            ("baseline", "mean pooling", "mean", pooled),
            ("baseline", f"{prompt}, {SYMBOLS['final']}", "final", cosines["final"]),
            *(("part", SYMBOLS[name], name, cosines[name]) for name in PLAIN[1:]),
        ]
        for group, method, name, similarity in plain:
            labels = {"task": task, "group": group, "method": method, "component": name}
            rows.append({**labels, **score(similarity, data.gold, d_model, seed=seed)})
        for setting in study.settings:
            for name in components:
                vectors = study.vectors(task, name, setting=setting, languages=languages)
                for vector in VECTORS:
                    encoded = semantic_vectors(vectors, parts[name], k, vector=vector)
                    similarity, dims = pair_similarity(encoded)
                    gain = paired_difference(similarity, cosines[name], data.gold, seed=seed)
                    rows.append(
                        {
                            "task": task,
                            "group": f"DySem on {SYMBOLS[name]}",
                            "method": f"DySem {SYMBOLS[name]}, {setting}, {vector}",
                            "component": name,
                            "setting": setting,
                            "vector": vector,
                            **score(similarity, data.gold, dims, seed=seed),
                            **gain_columns(gain),
                        }
                    )
    return with_holm(pd.DataFrame(rows))


def figure(table: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return horizontal bars with 95 % intervals, one per method, with #Dim. beside each."""
    figure = go.Figure()
    rows = one_task(table).iloc[::-1]
    for group in table["group"].unique():
        part = rows[rows["group"] == group]
        figure.add_bar(
            orientation="h",
            name=superscript(group),
            y=part["method"],
            x=part["spearman"],
            marker_color=GROUP_COLOURS.get(group, OTHER_COLOUR),
            error_x={
                **error_bar(part["spearman"], part["low"], part["high"]),
                "color": "#333333",
            },
        )
    figure.add_scatter(
        mode="text",
        y=rows["method"],
        x=rows["high"],
        text=[
            f"  <b>{score:.1f}</b>  #Dim. {dims:.0f}"
            for score, dims in zip(rows["spearman"], rows["n_dims"], strict=True)
        ],
        textposition="middle right",
        cliponaxis=False,
        showlegend=False,
    )
    labels = [superscript(_shown(method)) for method in rows["method"]]
    figure.update_yaxes(
        categoryorder="array",
        categoryarray=rows["method"],
        tickvals=rows["method"],
        ticktext=labels,
        ticklabelstandoff=6,
        title=None,
    )
    figure.update_xaxes(
        title="Spearman × 100, with 95 % bootstrap interval",
        range=[min(0.0, table["low"].min()), 1.22 * table["high"].max()],
    )
    title = "Which part of the residual stream carries sentence meaning?"
    return layout(figure, title, facts, 34 * len(table) + 220).update_layout(margin_l=20)


def _shown(method: str) -> str:
    """Return a method of the table as a reader sees it."""
    return method.replace(", english,", ", English,")


def caption(table: pd.DataFrame) -> str:
    """Return one line with the numbers that matter of a decomposition table."""
    score = one_task(table).set_index("method")["spearman"]
    final = next(name for name in score.index if name.endswith(", N(h^L)"))
    top = best(table)
    ours = score[score.index.str.startswith("DySem")]
    plain = score.drop(ours.index)
    worst, most = (
        f"{'ahead of' if gap > 0 else 'behind'} {whom} by {abs(gap):.1f}"
        for gap, whom in (
            (ours.min() - plain.max(), "it"),
            (ours.max() - plain.max(), "the best plain vector"),
        )
    )
    return (
        f"The best of DySem's {len(ours)} settings is {most}, the worst is {worst} (best on these "
        "pairs; not tested). "
        f"Spearman × 100: mean pooling {score['mean pooling']:.1f}, {final.partition(',')[0]} "
        f"{score[final]:.1f}, plain h^L {score['h^L']:.1f}, A^L {score['A^L']:.1f}, "
        f"F^L {score['F^L']:.1f}; best is {_shown(top['method'])} with {interval(top)} on "
        f"{amount(top['n_dims'], 'dimension')}."
    )
