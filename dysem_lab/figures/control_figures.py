"""The tables of the control analyses into plotly figures, and into one line each."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dysem_lab.questions.style import (
    CHANCE,
    PALETTE,
    SCORE,
    excludes_zero,
    gain,
    intervals,
    labels_at,
    layout,
    range_with_room,
)


def translators_figure(table: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return scores, paired differences and overlap of the sets for each translation source.

    Args:
        table: From `dysem_lab.analyses.translators.translators`.
        measured_on: From `dysem_lab.questions.style.facts`.
    """
    sources = table["source"].unique().tolist()
    methods = table["method"].unique().tolist()
    figure = make_subplots(
        rows=1,
        cols=3,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        column_widths=[0.36, 0.36, 0.28],
        subplot_titles=["score", f"difference to {sources[0]}", f"overlap with {sources[0]}"],
    )
    offsets = np.linspace(-0.25, 0.25, len(sources))
    difference = ["difference", "difference_low", "difference_high"]
    differences = range_with_room(table[difference].assign(zero=0.0), 0.8)
    for i, name in enumerate(sources):
        part = table[table["source"] == name]
        y = part["method"].map({m: j for j, m in enumerate(methods)}) + offsets[i]
        colour = PALETTE[i % len(PALETTE)]
        intervals(figure, part[["spearman", "low", "high"]], y, 1, name, colour)
        labels_at(figure, part["high"], y, part["spearman"].map("{:.1f}".format), 1, colour)
        if i:
            intervals(figure, part[difference], y, 2, name, colour)
            gains = part.apply(gain, axis=1, name="difference")
            labels_at(figure, differences[1], y, gains, 2, colour)
            overlap = part[["jaccard", "jaccard_low", "jaccard_high"]]
            intervals(figure, overlap, y, 3, name, colour)
            labels_at(
                figure,
                overlap["jaccard_high"],
                y,
                overlap["jaccard"].map("{:.2f}".format),
                3,
                colour,
            )
        if i:
            figure.add_scatter(
                x=part["chance"],
                y=y,
                mode="markers",
                marker={"color": CHANCE, "size": 14, "symbol": "line-ns", "line_width": 3},
                marker_line_color=CHANCE,
                name="two random sets",
                legendgroup="chance",
                showlegend=i == 1,
                hovertemplate="two random sets: %{x:.3f}",
                row=1,
                col=3,
            )
    figure.update_yaxes(
        tickvals=list(range(len(methods))),
        ticktext=methods,
        range=[len(methods) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )
    figure.update_xaxes(title=SCORE, range=range_with_room(table[["low", "high"]]), col=1)
    figure.update_xaxes(title=f"difference in {SCORE}", range=differences, col=2)
    figure.update_xaxes(zeroline=True, zerolinecolor="#333333", col=2)
    figure.update_xaxes(title="Jaccard index of the sets", range=[0, 1.25], col=3)
    figure.update_xaxes(tickvals=[0, 0.25, 0.5, 0.75, 1], col=3)
    title = "How much hangs on the translator?"
    height = 26 * len(methods) * len(sources) + 40 * len(methods) + 220
    return layout(figure, title, measured_on, height)


def translators_caption(table: pd.DataFrame) -> str:
    """Return one line: each source against the first one, by method."""
    first = table["source"].iloc[0]
    scores = table.set_index(["method", "source"])["spearman"]
    parts = []
    for source, rows in table[table["source"] != first].groupby("source", sort=False):
        differences = [
            f"{row['method']} {gain(row, 'difference')}"
            + (" (excludes 0)" if excludes_zero(row, "difference") else "")
            for _, row in rows.iterrows()
        ]
        overlaps = rows.drop_duplicates("m")
        parts.append(
            f"{source} against {first}: {', '.join(differences)}; Jaccard index of the sets "
            f"{overlaps['jaccard'].min():.2f} to {overlaps['jaccard'].max():.2f} (random "
            f"{rows['chance'].max():.2f}), characters in common {rows['agreement'].iloc[0]:.0%}"
        )
    own = ", ".join(f"{method} {scores[method, first]:.1f}" for method in table["method"].unique())
    return f"{SCORE} with {first}: {own}. {'. '.join(parts)}."
