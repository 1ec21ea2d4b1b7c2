"""Are some dimensions selected for every text? Notebook 13."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dysem_lab.consensus import consensus_set
from dysem_lab.questions.asked import asked
from dysem_lab.questions.finding import Facts, Finding, facts_of
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.overlap import different_texts
from dysem_lab.questions.random_sets import draw_sets
from dysem_lab.questions.scores import one_prompt, only_task
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import CHANCE, PALETTE, annotate, layout

FREQUENT, RARE = 0.9, 0.01  # shares of texts that make a dimension universal, or all but unused


def selection_frequency(
    study: Study,
    languages: Sequence[str],
    *,
    component: str = "attn",
    k: int | float = 0.25,
    seed: int = 0,
) -> Finding:
    """Count how often each dimension is in S(x), over the different texts of a task.

    Args:
        study: Of one task. Its first template and first prompt setting are used.
        languages: 𝓛.
        component: Internal vector.
        k: Dimensions per text, or fraction of d.
        seed: Of the random sets.

    Returns:
        One row per dimension, the most frequent first: ``rank`` (from 1), ``dimension`` (0-based
        index), ``frequency`` (share of the texts), ``random`` (the frequency at that rank when
        every text draws as many dimensions at random) and ``n_texts``.

    Raises:
        InputError: Several tasks, or a name that the study does not have.
    """
    given = asked(study, languages=languages, component=component, k=k, seed=seed)
    task = only_task(study)
    prepare(study.needs(component))
    facts, counted = facts_of(study, **one_prompt(study, given)), table(study, task, **given)
    return Finding("selection_frequency", counted, figure(counted, facts), caption(counted), facts)


def table(
    study: Study, task: str, languages: Sequence[str], component: str, k: int | float, seed: int
) -> pd.DataFrame:
    """Return the table of `selection_frequency`."""
    x = study.vectors(task, component, languages=languages)
    sets = consensus_set(x, k)[different_texts(study.texts(task, "en"))]
    drawn = draw_sets(sets.sum(-1), sets.shape[-1], seed)
    frequency, dimension = sets.double().mean(0).sort(descending=True, stable=True)
    return pd.DataFrame(
        {
            "rank": np.arange(1, len(frequency) + 1),
            "dimension": dimension.numpy(),
            "frequency": frequency.numpy(),
            "random": drawn.double().mean(0).sort(descending=True).values.numpy(),
            "n_texts": len(sets),
        }
    )


def figure(table: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return how often each dimension is selected, most frequent first, and by random sets."""
    figure = go.Figure()
    for column, name, colour in (
        ("frequency", "selected by S(x)", PALETTE[0]),
        ("random", "selected by random sets of the same sizes", CHANCE),
    ):
        figure.add_scatter(
            x=table["rank"],
            y=100 * table[column],
            mode="lines",
            line={"color": colour, "width": 3},
            name=name,
            customdata=table["dimension"],
            hovertemplate="rank %{x}: %{y:.1f} % of the texts"
            + ("<br>dimension %{customdata}" if column == "frequency" else ""),
        )
    frequent, rare = _shares(table["frequency"])
    said = (
        f"{frequent} of {len(table)} dimensions in more than {FREQUENT:.0%} of the texts<br>"
        f"{rare} of {len(table)} dimensions in fewer than {RARE:.0%}"
    )
    annotate(figure, said, 0.99, 0.97, align="right")
    figure.update_xaxes(title="dimensions, most frequently selected first")
    figure.update_yaxes(title="% of the texts", range=[0, 102])
    return layout(figure, "Are some dimensions selected for every text?", facts, 480)


def caption(table: pd.DataFrame) -> str:
    """Return one line: universal and unused dimensions, and what random sets would give."""
    frequent, rare = _shares(table["frequency"])
    n, n_texts = len(table), table["n_texts"].iloc[0]
    return (
        f"Over {n_texts:,} texts, {frequent} of {n} dimensions ({frequent / n:.1%}) "
        f"are selected for more than {FREQUENT:.0%} of them and {rare} ({rare / n:.1%}) for fewer "
        f"than {RARE:.0%}; random sets of the same sizes select each dimension for "
        f"{table['random'].min():.1%} to {table['random'].max():.1%}."
    )


def _shares(frequency: pd.Series) -> tuple[int, int]:
    """Return how many dimensions are universal, and how many all but unused."""
    return int((frequency > FREQUENT).sum()), int((frequency < RARE).sum())
