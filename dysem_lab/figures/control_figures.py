"""The tables of the control analyses into plotly figures, and into one line each."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dysem_lab.analyses.stability import PARAPHRASE
from dysem_lab.questions.style import (
    PALETTE,
    SCORE,
    error_bar,
    excludes_zero,
    gain,
    intervals,
    labels_at,
    layout,
    range_with_room,
)

OTHER_TEXT, CHANCE = "#E69F00", "#999999"
FREQUENT, RARE = 0.9, 0.01  # shares of texts that make a dimension universal, or all but unused


def stability_figure(table: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return how much sets overlap when the language, prompt or data type changes, and by gold.

    Args:
        table: From `dysem_lab.analyses.stability.stability`.
        measured_on: From `dysem_lab.questions.style.facts`.
    """
    kinds = [kind for kind in table["varied"].unique() if kind != "gold"]
    figure = make_subplots(
        rows=1,
        cols=2,
        column_widths=[0.55, 0.45],
        horizontal_spacing=0.11,
        subplot_titles=["same text, something else changed", "two texts, by how similar they are"],
    )
    # The largest values of a row are lowest in it: its dots make a slope with room for text.
    for i, kind in enumerate(kinds):
        part = table[table["varied"] == kind].sort_values("jaccard")
        y = i + np.linspace(-0.32, 0.32, len(part)) if len(part) > 1 else np.array([i])
        ends = {0, len(part) - 1}
        figure.add_scatter(
            x=part["jaccard"],
            y=y,
            mode="markers+text",
            marker={"color": PALETTE[1], "size": 6},
            error_x=error_bar(part["jaccard"], part["low"], part["high"]),
            text=[level if j in ends else "" for j, level in enumerate(part["level"])],
            textposition=["top center"] + ["bottom center"] * (len(part) - 1),
            textfont_size=12,
            cliponaxis=False,
            customdata=part[["level", "size"]],
            hovertemplate="%{customdata[0]}: %{x:.3f}<br>mean size %{customdata[1]:.0f}",
            name="same text",
            showlegend=i == 0,
            row=1,
            col=1,
        )
        for name, column, colour in _references():
            figure.add_scatter(
                x=[part[column].mean()] * 2,
                y=[i - 0.36, i + 0.36],
                mode="lines",
                line={"color": colour, "width": 3},
                name=name,
                legendgroup=name,
                showlegend=i == 0,
                hovertemplate=f"{name}: %{{x:.3f}}",
                row=1,
                col=1,
            )
    gold = table[table["varied"] == "gold"]
    figure.add_scatter(
        x=gold["level"],
        y=gold["jaccard"],
        mode="markers",
        marker={"color": PALETTE[2], "size": 9},
        error_y=error_bar(gold["jaccard"], gold["low"], gold["high"]),
        name="the two texts of a pair",
        customdata=gold["n"],
        hovertemplate="rated %{x}: %{y:.3f} (%{customdata} pairs)",
        row=1,
        col=2,
    )
    figure.add_scatter(
        x=gold["level"],
        y=gold["high"],
        mode="text",
        text=[f"{value:.2f}" for value in gold["jaccard"]],
        textposition="top center",
        textfont_size=12,
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
        row=1,
        col=2,
    )
    for name, column, colour in _references():
        figure.add_scatter(
            x=gold["level"],
            y=gold[column],
            mode="lines",
            line={"color": colour, "width": 3},
            name=name,
            legendgroup=name,
            showlegend=not kinds,
            row=1,
            col=2,
        )
    figure.update_yaxes(
        tickvals=list(range(len(kinds))),
        ticktext=[kind.replace("one language less", "one language<br>less") for kind in kinds],
        range=[len(kinds) - 0.4, -0.6],
        showgrid=False,
        zeroline=False,
        col=1,
    )
    figure.update_xaxes(title="Jaccard index of the sets", range=[0, 1.08], col=1)
    figure.update_yaxes(title="Jaccard index of S(x) and S(y)", range=[0, 1.02], col=2)
    figure.update_xaxes(title="gold similarity of the pair", type="category", col=2)
    title = "How stable are the sets of selected dimensions?"
    return layout(figure, title, measured_on, max(480, 120 * len(kinds) + 230))


def _references() -> Sequence[tuple[str, str, str]]:
    return (
        ("the second set from another text", "other_text", OTHER_TEXT),
        ("two random sets", "chance", CHANCE),
    )


def stability_caption(table: pd.DataFrame) -> str:
    """Return one line: mean, lowest and highest overlap of each kind of change."""
    parts = []
    for kind, rows in table[table["varied"] != "gold"].groupby("varied", sort=False):
        low, high = rows.loc[rows["jaccard"].idxmin()], rows.loc[rows["jaccard"].idxmax()]
        text = f"{kind} {rows['jaccard'].mean():.2f}"
        if len(rows) > 1:
            text += (
                f" (from {low['level']} {low['jaccard']:.2f} to {high['level']} "
                f"{high['jaccard']:.2f})"
            )
        parts.append(
            f"{text}; with another text {rows['other_text'].mean():.2f}, random "
            f"{rows['chance'].mean():.2f}"
        )
    gold = table[table["varied"] == "gold"].set_index("level")
    rated = [f"{level} {row['jaccard']:.2f}" for level, row in gold.iterrows()]
    same = gold[gold.index == f"≥ {PARAPHRASE}"]
    paraphrases = (
        f"; paraphrases {same['jaccard'].iloc[0]:.2f} [{same['low'].iloc[0]:.2f}, "
        f"{same['high'].iloc[0]:.2f}] against {same['other_text'].iloc[0]:.2f} with another text"
        if len(same)
        else ""
    )
    return (
        f"Mean Jaccard index of the selected sets when one thing changes: {'. '.join(parts)}. "
        f"Two texts of a pair by gold similarity: {', '.join(rated)}{paraphrases}."
    )


def frequency_figure(table: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return how often each dimension is selected, most frequent first, and by random sets.

    Args:
        table: From `dysem_lab.analyses.stability.selection_frequency`.
        measured_on: From `dysem_lab.questions.style.facts`.
    """
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
    figure.add_annotation(
        text=f"{frequent} of {len(table)} dimensions in more than {FREQUENT:.0%} of the texts<br>"
        f"{rare} of {len(table)} dimensions in fewer than {RARE:.0%}",
        x=0.99,
        y=0.97,
        xref="paper",
        yref="paper",
        align="right",
        showarrow=False,
    )
    figure.update_xaxes(title="dimensions, most frequently selected first")
    figure.update_yaxes(title="% of the texts", range=[0, 102])
    return layout(figure, "Are some dimensions selected for every text?", measured_on, 480)


def _shares(frequency: pd.Series) -> tuple[int, int]:
    """Return how many dimensions are universal, and how many all but unused."""
    return int((frequency > FREQUENT).sum()), int((frequency < RARE).sum())


def frequency_caption(table: pd.DataFrame) -> str:
    """Return one line: universal and unused dimensions, and what random sets would give."""
    frequent, rare = _shares(table["frequency"])
    n, n_texts = len(table), table["n_texts"].iloc[0]
    return (
        f"Over {n_texts:,} texts, {frequent} of {n} dimensions ({frequent / n:.1%}) "
        f"are selected for more than {FREQUENT:.0%} of them and {rare} ({rare / n:.1%}) for fewer "
        f"than {RARE:.0%}; random sets of the same sizes select each dimension for "
        f"{table['random'].min():.1%} to {table['random'].max():.1%}."
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
