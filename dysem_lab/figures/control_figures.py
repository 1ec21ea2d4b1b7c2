"""The tables of the control analyses into plotly figures, and into one line each."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dysem_lab.analyses.stability import PARAPHRASE
from dysem_lab.questions.style import PALETTE, SCORE, error_bar, layout

VECTOR_COLOURS = {"mean": "#D55E00", "source": "#0072B2"}
CHOICE_COLOURS = {"test": "#D55E00", "dev": "#0072B2"}
OTHER_TEXT, CHANCE = "#E69F00", "#999999"
FREQUENT, RARE = 0.9, 0.01  # shares of texts that make a dimension universal, or all but unused
SHOWN_RUNGS = {
    "source, all d": "source vector, all dimensions",
    "mean, all d": "mean over languages, all dimensions",
    "positive mean": "positive mean",
    "consensus": "consensus: positive in every language",
    "top k": "top k of the consensus = DySem",
    "random, per pair": "random set for each pair",
    "random, shared": "one random set for all pairs",
    "bottom k": "bottom k of the consensus",
    "intersection": "top k, intersection for union",
}
STEP_NAMES = {
    "mean, all d": "mean over languages",
    "positive mean": "positive mean",
    "consensus": "consensus",
    "top k": "top k",
}


def ladder_figure(table: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return the rungs from top to bottom: scores on the left, paired steps on the right.

    Args:
        table: From `dysem_lab.analyses.ladder.ladder`.
        measured_on: From `dysem_lab.questions.style.facts`.
    """
    figure = make_subplots(
        rows=1,
        cols=2,
        shared_yaxes=True,
        column_widths=[0.42, 0.58],
        horizontal_spacing=0.03,
        subplot_titles=["score", "paired difference"],
    )
    steps = table.loc[table["kind"] == "step", "rung"].unique().tolist()
    controls = table.loc[table["kind"] == "control", "rung"].unique().tolist()
    lines = ["<b>steps, each against the one before</b>", *steps]
    lines += ["<b>in place of top k, each against it</b>", *controls]
    place = {name: i for i, name in enumerate(lines)}
    step = ["step", "step_low", "step_high"]
    scores, steps_range = _range(table[["low", "high"]]), _range(table[step].assign(zero=0.0), 0.6)
    for vector, part in table.groupby("vector", sort=False):
        name, colour = f"{vector} vector", VECTOR_COLOURS[vector]
        both = part["rung"].map(table.groupby("rung")["vector"].nunique()) > 1
        y = part["rung"].map(place) + np.where(both, {"mean": -0.18, "source": 0.18}[vector], 0)
        _intervals(figure, part[["spearman", "low", "high"]], y, 1, name, colour)
        _texts(figure, part["high"], y, part["spearman"].map("{:.1f}".format), 1, colour)
        part, y = part[part["against"] != ""], y[part["against"] != ""]
        if len(part):
            _intervals(figure, part[step], y, 2, name, colour)
            _texts(figure, steps_range[1], y, part.apply(_gain, axis=1, name="step"), 2, colour)
    labels = [_rung_label(name, table) if name in SHOWN_RUNGS else name for name in lines]
    figure.update_yaxes(
        tickvals=list(place.values()),
        ticktext=labels,
        range=[len(lines) - 0.4, -0.5],
        zeroline=False,
        showgrid=False,
    )
    figure.update_xaxes(title=SCORE, range=scores, col=1)
    figure.update_xaxes(
        title=f"difference in {SCORE}",
        range=steps_range,
        zeroline=True,
        zerolinecolor="#333333",
        col=2,
    )
    return layout(
        figure, "Which step of the method earns the score?", measured_on, 44 * len(lines) + 200
    )


def _rung_label(rung: str, table: pd.DataFrame) -> str:
    """Return the name of a rung with its #Dim. and its undefined pairs."""
    part = table[table["rung"] == rung]
    undefined = int(part["n_undefined"].max())
    lost = f", {undefined:,} pairs undefined" if undefined else ""
    size = f"#Dim. {part['n_dims'].iloc[0]:.0f}{lost}"
    return f"{SHOWN_RUNGS[rung]}<br><span style='font-size:11px'>{size}</span>"


def _intervals(
    figure: go.Figure, values: pd.DataFrame, y: pd.Series, col: int, name: str, colour: str
) -> None:
    """Add points with horizontal intervals to one of the panels side by side.

    Args:
        figure: The figure.
        values: Three columns: value, low, high.
        y: Place of each row.
        col: Panel, from 1; the first one names the colour in the legend.
        name: Name of the colour.
        colour: Of the points.
    """
    value, low, high = (values[column] for column in values)
    figure.add_scatter(
        x=value,
        y=y,
        mode="markers",
        name=name,
        legendgroup=name,
        showlegend=col == 1,
        marker={"color": colour, "size": 8},
        error_x=error_bar(value, low, high),
        hovertemplate="%{x:.3f}",
        row=1,
        col=col,
    )


def _texts(
    figure: go.Figure, x: pd.Series | float, y: pd.Series, text: pd.Series, col: int, colour: str
) -> None:
    """Add texts that begin at each x, or all end at one x."""
    in_column = not isinstance(x, pd.Series)
    figure.add_scatter(
        x=[x] * len(y) if in_column else x,
        y=y,
        mode="text",
        text="\u2002" + text,
        textposition="middle left" if in_column else "middle right",
        textfont={"size": 12, "color": colour},
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
        row=1,
        col=col,
    )


def _range(values: pd.DataFrame, room: float = 0.22) -> list[float]:
    """Return an axis range with room on the right for text, as a share of the span."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    span = max(high - low, 1e-6)
    return [low - 0.06 * span, high + room * span]


def ladder_caption(table: pd.DataFrame) -> str:
    """Return one line: where the ladder starts and ends, and which steps matter.

    A step matters where its 95 % interval excludes 0.
    """
    rows = table.set_index(["rung", "vector"])
    first = rows.loc[("source, all d", "source")]
    end = {vector: rows.loc[("top k", vector)] for vector in ("mean", "source")}
    chain = [(name, rows.loc[(rung, "mean")]) for rung, name in STEP_NAMES.items()]
    matter = [f"{name} {_gain(row, 'step')}" for name, row in chain if _excludes_zero(row, "step")]
    rest = [
        f"{name} {_gain(row, 'step')}" for name, row in chain if not _excludes_zero(row, "step")
    ]
    others = [
        f"{rung} {_gain(row, 'step')}"
        for (rung, vector), row in rows[rows["kind"] == "control"].iterrows()
        if vector == "mean"
    ]
    undefined = table[table["n_undefined"] > 0].drop_duplicates("rung")
    lost = [f"{row.n_undefined:,} pairs without {row.rung}" for row in undefined.itertuples()]
    cut = end["mean"]["cut"]
    parts = [
        f"{SCORE}: source vector on all {first['n_dims']:.0f} dimensions {first['spearman']:.1f}; "
        f"DySem with the mean vector {end['mean']['spearman']:.1f} "
        f"({_gain(end['mean'], 'total')}) and with the source vector "
        f"{end['source']['spearman']:.1f} ({_gain(end['source'], 'total')}) on "
        f"{end['mean']['n_dims']:.0f}",
        f"Steps of the mean vector whose interval excludes 0: {', '.join(matter) or 'none'}",
        f"steps whose interval does not: {', '.join(rest) or 'none'}",
        f"In place of top k: {', '.join(others)}",
    ]
    if cut < 1:
        parts.append(f"k cuts the consensus of {cut:.0%} of the texts and leaves the others whole")
    if lost:
        parts.append(f"Undefined: {', '.join(lost)}")
    return ". ".join(parts[:2]) + "; " + ". ".join(parts[2:]) + "."


def _gain(row: pd.Series, name: str) -> str:
    """Return a difference with its interval, with two digits where one would hide its side of 0."""
    values = row[name], row[f"{name}_low"], row[f"{name}_high"]
    if np.isnan(values[0]):
        return "undefined"
    digits = 2 if any(0 < abs(bound) < 0.05 for bound in values[1:]) else 1
    value, low, high = (
        f"{number:{'+' if i == 0 else ''}.{digits}f}" for i, number in enumerate(values)
    )
    return f"{value} [{low}, {high}]"


def _excludes_zero(row: pd.Series, name: str) -> bool:
    return bool(row[f"{name}_low"] > 0 or row[f"{name}_high"] < 0)


def honest_choice_figure(table: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return score on test against m, with languages ranked on test or on dev, and both choices.

    Args:
        table: From `dysem_lab.analyses.choice.honest_choice`.
        measured_on: From `dysem_lab.questions.style.facts`.
    """
    panels = list(table.groupby(["setting", "vector"], sort=False))
    titles = [f"{setting}, {vector}: {_verdict(part)}" for (setting, vector), part in panels]
    n_rows = -(-len(panels) // 2)
    figure = make_subplots(
        rows=n_rows,
        cols=2,
        shared_yaxes=True,
        subplot_titles=titles,
        horizontal_spacing=0.05,
        vertical_spacing=0.3 / n_rows,
    )
    for i, (_, part) in enumerate(panels):
        at = {"row": 1 + i // 2, "col": 1 + i % 2}
        for name, rows in part.groupby("chosen_on", sort=False):
            chosen = rows[rows["chosen"]].iloc[0]
            line = rows[rows["k"] == chosen["k"]].sort_values("m")
            colour = CHOICE_COLOURS[name]
            figure.add_scatter(
                x=line["m"],
                y=line["spearman"],
                mode="lines+markers",
                marker_size=4,
                line={"color": colour, "dash": "solid" if name == "test" else "dot"},
                name=f"languages ranked on {name}",
                legendgroup=f"{name} line",
                showlegend=i == 0,
                customdata=line[["languages", "n_dims"]],
                hovertemplate="%{customdata[0]}: %{y:.2f}<br>#Dim. %{customdata[1]:.0f}",
                **at,
            )
            figure.add_scatter(
                x=[chosen["m"] + {"test": -0.07, "dev": 0.07}[name]],
                y=[chosen["spearman"]],
                mode="markers",
                marker={
                    "color": colour,
                    "size": 14,
                    "symbol": {"test": "diamond-open", "dev": "circle-open"}[name],
                    "line_width": 3,
                },
                error_y=error_bar(*(pd.Series([chosen[c]]) for c in ("spearman", "low", "high"))),
                name=f"chosen on {name}",
                legendgroup=f"{name} choice",
                showlegend=i == 0,
                hovertemplate=f"{chosen['languages']}, k = {chosen['k']}: %{{y:.2f}}",
                **at,
            )
    figure.update_xaxes(dtick=1, title="m, number of languages")
    figure.update_yaxes(title=f"{SCORE} on test", col=1)
    figure.update_annotations(font_size=14)
    title = "What is choosing on the test labels worth? Above each panel: test choice − dev choice"
    return layout(figure, title, measured_on, 330 * n_rows + 150)


def honest_choice_caption(table: pd.DataFrame) -> str:
    """Return one line: both choices of every setting and vector, and their difference."""
    parts, optimistic = [], 0
    groups = list(table[table["chosen"]].groupby(["setting", "vector"], sort=False))
    several = table["k"].nunique() > 1
    for (setting, vector), rows in groups:
        test, dev = (rows[rows["chosen_on"] == name].iloc[0] for name in ("test", "dev"))
        optimistic += bool(test["optimism_low"] > 0)
        ways = [
            f"{row['languages']}" + (f" (k = {row['k']})" if several else "") for row in (test, dev)
        ]
        if _same_choice(rows):
            parts.append(f"{setting}, {vector}: both choose {ways[0]}, {test['spearman']:.1f}")
        else:
            parts.append(
                f"{setting}, {vector}: chosen on test {ways[0]} {test['spearman']:.1f}, chosen on "
                f"dev {ways[1]} {dev['spearman']:.1f}, difference {_gain(test, 'optimism')}"
            )
    return (
        f"{SCORE} on test. {'; '.join(parts)}. Choosing on test scores higher, with an interval "
        f"that excludes 0, in {optimistic} of {len(groups)}."
    )


def _verdict(part: pd.DataFrame) -> str:
    """Return what stands above a panel."""
    chosen = part[part["chosen"]]
    if _same_choice(chosen):
        return "the same choice"
    return _gain(chosen[chosen["chosen_on"] == "test"].iloc[0], "optimism")


def _same_choice(rows: pd.DataFrame) -> bool:
    """Return whether the two chosen rows of one setting and vector are one way to measure."""
    return len(set(zip(rows["languages"].map(_as_set), rows["k"], strict=True))) == 1


def _as_set(languages: str) -> frozenset[str]:
    return frozenset(languages.split("/"))


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
    differences = _range(table[difference].assign(zero=0.0), 0.8)
    for i, name in enumerate(sources):
        part = table[table["source"] == name]
        y = part["method"].map({m: j for j, m in enumerate(methods)}) + offsets[i]
        colour = PALETTE[i % len(PALETTE)]
        _intervals(figure, part[["spearman", "low", "high"]], y, 1, name, colour)
        _texts(figure, part["high"], y, part["spearman"].map("{:.1f}".format), 1, colour)
        if i:
            _intervals(figure, part[difference], y, 2, name, colour)
            gains = part.apply(_gain, axis=1, name="difference")
            _texts(figure, differences[1], y, gains, 2, colour)
            overlap = part[["jaccard", "jaccard_low", "jaccard_high"]]
            _intervals(figure, overlap, y, 3, name, colour)
            _texts(
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
    figure.update_xaxes(title=SCORE, range=_range(table[["low", "high"]]), col=1)
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
            f"{row['method']} {_gain(row, 'difference')}"
            + (" (excludes 0)" if _excludes_zero(row, "difference") else "")
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
