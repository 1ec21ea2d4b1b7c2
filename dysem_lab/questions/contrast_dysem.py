"""Both methods at once: DySem on vectors that Contrastive Prompting has steered. Notebook 23."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from torch import Tensor

from dysem_lab.display import amount
from dysem_lab.encoders.dysem import semantic_vectors
from dysem_lab.encoders.settings import VECTORS
from dysem_lab.evaluate import paired_difference, score
from dysem_lab.models.steering import Contrast
from dysem_lab.questions.asked import asked
from dysem_lab.questions.contrast_rows import (
    NO_GAIN,
    PLAIN,
    both_norms,
    compared,
    contrast_row,
    drawn_once,
    norms_said,
    once,
    one_setting,
)
from dysem_lab.questions.finding import Facts, Finding, facts_of
from dysem_lab.questions.names import SYMBOLS
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.scores import (
    LEVEL,
    by_holm,
    certain,
    gain_columns,
    pair_cosine,
    pair_similarity,
)
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import (
    METHOD_COLOURS,
    SCORE,
    bars,
    gained,
    layout,
    noted,
    one_task,
    superscript,
    whiskers,
)

BARS = {  # what is compared → its name under the bars
    "plain cosine": "plain cosine,<br>English",
    "source": "DySem,<br>source vector",
    "mean": "DySem,<br>mean vector",
}


def cp_with_dysem(
    study: Study,
    languages: Sequence[str],
    layer: int,
    alpha: float,
    *,
    components: Sequence[str] = ("attn", "resid"),
    k: int | float = 0.25,
    seed: int = 0,
) -> Finding:
    """Score DySem on the vectors of CP, in both of its norms, and on plain ones.

    Args:
        study: Of one task, in the English setting. Its first template is used.
        languages: 𝓛, the consensus.
        layer: Block of the contrast, 0-based.
        alpha: Of norm scaling.
        components: Internal vectors s^(ℓ).
        k: Dimensions per text, or fraction of d.
        seed: Of the bootstraps.

    Returns:
        One row per component, contrast and ``vector`` ("plain cosine" in English, "source",
        "mean"), with the columns of `dysem_lab.questions.contrast.contrast_scores`; the gain is
        over the same without contrast.

    Source: ours; no paper combines the two.
    """
    of_contrast = {"layer": layer, "alpha": alpha}
    given = asked(study, languages=languages, k=k, **of_contrast, components=components, seed=seed)
    contrasts = both_norms(layer, alpha)
    prepare(study.needs(given["components"], contrasts=contrasts))
    facts = facts_of(study, **given)
    scores = table(study, given["languages"], contrasts, given["components"], k, seed)
    return Finding("cp_with_dysem", scores, figure(scores, facts), caption(scores), facts)


def table(
    study: Study,
    languages: Sequence[str],
    contrasts: Sequence[Contrast | None],
    components: Sequence[str],
    k: int | float,
    seed: int,
) -> pd.DataFrame:
    """Return the table of `cp_with_dysem`; the contrast None is DySem alone."""
    rows = []
    for task, component in product(study.data, components):
        gold = study.data[task].gold
        without: dict[str, Tensor] = {}
        for contrast in sorted(contrasts, key=lambda one: one is not None):
            vectors = study.vectors(task, component, languages=languages, contrast=contrast)
            source = study.vectors(task, component, languages=["en"], contrast=contrast)[:, 0]
            cells = {"plain cosine": (pair_cosine(source), float(study.model.d_model))}
            for vector in VECTORS:
                cells[vector] = pair_similarity(semantic_vectors(vectors, source, k, vector=vector))
            for vector, (similarity, n_dims) in cells.items():
                gain = NO_GAIN
                if contrast is None:
                    without[vector] = similarity
                elif vector in without:
                    gain = paired_difference(similarity, without[vector], gold, seed=seed)
                rows.append(
                    {
                        "task": task,
                        "component": component,
                        "vector": vector,
                        **contrast_row(contrast),
                        **score(similarity, gold, n_dims, seed=seed),
                        **gain_columns(gain),
                    }
                )
    return once(pd.DataFrame(rows), study.lens)


def figure(table: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return DySem with and without CP: grouped bars per vector, one panel per component."""
    table = drawn_once(one_task(table))
    gains = table["gain"].map("{:+.1f}".format).where(table["gain"].notna(), "")
    stars = (table["gain_p_holm"] < LEVEL).map({True: "*", False: ""})
    alphas = ["" if np.isnan(alpha) else f" α={alpha:g}" for alpha in table["alpha"]]
    symbols = [superscript(SYMBOLS.get(component, component)) for component in table["component"]]
    shown = table.assign(
        method=table["method"] + alphas,
        component=symbols,
        vector=table["vector"].map(BARS),
        change=gains + stars,
    )
    colours = {
        label: METHOD_COLOURS[method]
        for label, method in zip(shown["method"], table["method"], strict=True)
    }
    figure = bars(shown, "vector", "method", "component", colours=colours, text="change")
    figure.update_yaxes(title=SCORE, col=1)
    notes = (
        whiskers(table),
        f"in a bar: what CP adds (* {by_holm(table, 'by')})",
        norms_said(table),
    )
    title = "DySem on vectors that CP has steered"
    return layout(figure, title, noted(facts, *notes), 520)


def caption(table: pd.DataFrame) -> str:
    """Return one line: DySem alone, CP alone and both, per component."""
    both = compared(table)
    both = both[both["vector"] != "plain cosine"]
    (up, down), parts = certain(both), []
    for component, part in drawn_once(one_task(table)).groupby("component", sort=False):
        without = part[part["method"] == PLAIN]
        plain = without.loc[without["spearman"].idxmax()]
        steered = part[(part["method"] != PLAIN) & (part["vector"] != "plain cosine")]
        top = steered.loc[steered["gain"].idxmax()]
        parts.append(
            f"{SYMBOLS[component]}: best without CP {plain['spearman']:.1f} ({plain['vector']}); "
            f"the largest gain of CP on DySem is {gained(top)} ({top['method']}, {top['vector']})"
        )
    return (
        f"On top of DySem, CP gains in {up} and loses in {down} of "
        f"{amount(len(both), 'comparison')} for certain (p < {LEVEL:g} after Holm)."
        f"{one_setting(table)} {SCORE}. {'; '.join(parts)}."
    )
