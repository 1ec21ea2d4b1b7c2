"""The tables of `dysem_lab.analyses.contrast_analyses` into plotly figures and one line each."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dysem_lab.analyses.contrast_analyses import PLAIN
from dysem_lab.errors import InputError
from dysem_lab.prompts import TEMPLATE_NAMES
from dysem_lab.questions.published import AVERAGE
from dysem_lab.questions.style import (
    PALETTE,
    SCORE,
    SYMBOLS,
    band,
    bars,
    error_bar,
    layout,
    superscript,
)

METHOD_COLOURS = {
    PLAIN: "#999999",
    "CP-NS": "#D55E00",
    "CP-NR": "#0072B2",
    "CP scaled_recovering": "#E69F00",
    "CP head_recovering": "#56B4E9",
    "CP self_scaling": "#CC79A7",
}
NAMES = {**TEMPLATE_NAMES, "ck": "CK (mean of CoT and KE)"}
# Losses orange, gains blue: told apart under the common colour-vision deficiencies.
GAINS = [[0, "#D55E00"], [0.5, "#FFFFFF"], [1, "#0072B2"]]


def main_figure(table: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return scores of every prompt with and without CP, tasks across, coloured by the gain.

    Args:
        table: From `dysem_lab.analyses.contrast_analyses.contrast_scores`.
        measured_on: From `dysem_lab.questions.style.facts`.
    """
    rows = table.assign(row=_row_labels(table))
    order = list(dict.fromkeys(rows["row"]))
    tasks = list(dict.fromkeys(rows["task"]))
    scores = rows.pivot(index="row", columns="task", values="spearman").loc[order, tasks]
    gains = rows.pivot(index="row", columns="task", values="gain").loc[order, tasks]
    low = rows.pivot(index="row", columns="task", values="gain_low").loc[order, tasks]
    high = rows.pivot(index="row", columns="task", values="gain_high").loc[order, tasks]
    sure = (low > 0) | (high < 0)
    text = [
        [
            f"{value:.2f}"
            if np.isnan(gain)
            else f"{value:.2f}<br>{gain:+.2f}{'*' if found else ''}"
            for value, gain, found in zip(*cells, strict=True)
        ]
        for cells in zip(scores.to_numpy(), gains.to_numpy(), sure.to_numpy(), strict=True)
    ]
    reach = float(np.nanmax(np.abs(gains.to_numpy()))) if gains.notna().any(axis=None) else 1.0
    figure = go.Figure(
        go.Heatmap(
            z=gains.fillna(0.0),
            x=tasks,
            y=order,
            text=text,
            texttemplate="%{text}",
            colorscale=GAINS,
            zmin=-1.6 * reach,
            zmax=1.6 * reach,
            showscale=False,
            xgap=2,
            ygap=2,
            hoverinfo="skip",
        )
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(side="top")
    note = "below a score: the gain over the plain prompt at the same output layer (* 95 % sure)"
    title = "Contrastive Prompting beside the plain prompt"
    layout(figure, title, f"{measured_on}; {note}", 190 + 46 * len(order))
    return figure.update_layout(margin_l=420)


def _row_labels(table: pd.DataFrame) -> pd.Series:
    """Return what tells the rows of a task apart: prompt, method, what varies, output layer."""
    names = table["template"].map(lambda name: NAMES.get(name, name))
    steered = table["method"] != PLAIN
    labels = names + ", " + table["method"]
    for column, words in (("layer", " block {:g}"), ("alpha", " α={:g}"), ("position", " {}")):
        if table.loc[steered, column].nunique() > 1:
            one_based = table[column] + 1 if column == "layer" else table[column]
            said = [
                "" if pd.isna(value) or value == "" else words.format(value) for value in one_based
            ]
            labels += pd.Series(said, table.index)
    return labels + ", output " + table["output_layer"].astype(str)


def main_caption(table: pd.DataFrame) -> str:
    """Return one line: the best gain over the plain prompt, and how many gains are certain."""
    over = table[table["task"] == (AVERAGE if AVERAGE in set(table["task"]) else table["task"][0])]
    steered = over[over["method"] != PLAIN]
    best, worst = (steered.loc[at] for at in (steered["gain"].idxmax(), steered["gain"].idxmin()))
    each = table[(table["method"] != PLAIN) & (table["task"] != AVERAGE)]
    up, down = int((each["gain_low"] > 0).sum()), int((each["gain_high"] < 0).sum())
    where = (
        f" in the mean over {each['task'].nunique()} tasks" if each["task"].nunique() > 1 else ""
    )
    return (
        f"Against the plain prompt at the same output layer, CP changes the score{where} by "
        f"{worst['gain']:+.2f} ({_short(worst)}) to {best['gain']:+.2f} ({_short(best)}); of "
        f"{len(each)} comparisons {up} gain and {down} lose for certain (95 %)."
    )


def _short(row: pd.Series) -> str:
    return f"{NAMES.get(row['template'], row['template'])}, {row['method']}, {row['output_layer']}"


def layer_alpha_figure(table: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return a heat map of block × α for each template; norm recovering, which has no α, beside it.

    Args:
        table: From `dysem_lab.analyses.contrast_analyses.contrast_scores`, of one task and output
            layer.
        measured_on: From `dysem_lab.questions.style.facts`.
    """
    _one(table, "task", "output_layer")
    templates = list(dict.fromkeys(table["template"]))
    figure = _template_panels(table, templates)
    steered = table[table["method"] != PLAIN]
    # A few cells may lose far more than the others differ by; the colour ends before them.
    reach = float(steered["gain"].abs().quantile(0.75)) or 1.0
    for column, template in enumerate(templates, start=1):
        part = steered[steered["template"] == template].assign(
            alpha=lambda rows: [
                "NR" if np.isnan(alpha) else f"α={alpha:g}" for alpha in rows["alpha"]
            ]
        )
        columns = list(dict.fromkeys(part["alpha"]))
        shown = part.pivot(index="layer", columns="alpha", values="spearman")[columns]
        gains = part.pivot(index="layer", columns="alpha", values="gain")[columns]
        figure.add_heatmap(
            z=gains,
            x=columns,
            y=[f"block {layer + 1}" for layer in shown.index],
            text=[[f"{value:.1f}" for value in row] for row in shown.to_numpy()],
            texttemplate="%{text}",
            colorscale=GAINS,
            zmin=-1.5 * reach,
            zmax=1.5 * reach,
            colorbar={"title": "gain over<br>plain", "thickness": 14},
            showscale=column == len(templates),
            xgap=2,
            ygap=2,
            row=1,
            col=column,
        )
    layout(figure, "Where to contrast, and how strongly?", measured_on, 480)
    return figure.update_layout(margin_r=120)


def _template_panels(table: pd.DataFrame, templates: list[str]) -> go.Figure:
    """Return one panel per template, with the plain prompt's score in its title."""
    return make_subplots(
        1,
        len(templates),
        subplot_titles=[_panel_title(table, template) for template in templates],
        horizontal_spacing=0.05,
        shared_yaxes=True,
    )


def _panel_title(table: pd.DataFrame, template: str) -> str:
    plain = table[(table["template"] == template) & (table["method"] == PLAIN)]["spearman"].iloc[0]
    return f"{NAMES.get(template, template)} (plain {plain:.1f})"


def layer_alpha_caption(table: pd.DataFrame) -> str:
    """Return one line with the best cell of each template and its gain."""
    parts = []
    for template, part in table.groupby("template", sort=False):
        plain = part[part["method"] == PLAIN]["spearman"].iloc[0]
        best = part.loc[part[part["method"] != PLAIN]["spearman"].idxmax()]
        alpha = "" if np.isnan(best["alpha"]) else f", α = {best['alpha']:g}"
        parts.append(
            f"{NAMES.get(str(template), template)} {plain:.2f} plain, at best "
            f"{best['spearman']:.2f} ({best['method']}, block {best['layer'] + 1}{alpha}; gain "
            f"{best['gain']:+.2f} "
            f"[{best['gain_low']:.2f}, {best['gain_high']:.2f}])"
        )
    return f"Best of the grid, output layer {table['output_layer'].iloc[0]}: {'; '.join(parts)}."


def output_layer_figure(table: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return scores against the number of blocks run, and below them what CP gains at each.

    Args:
        table: From `dysem_lab.analyses.contrast_analyses.contrast_scores` of one task, output
            layers as numbers.
        measured_on: From `dysem_lab.questions.style.facts`.
    """
    _one(table, "task")
    templates = list(dict.fromkeys(table["template"]))
    figure = make_subplots(
        2,
        len(templates),
        subplot_titles=[NAMES.get(template, template) for template in templates],
        shared_xaxes=True,
        vertical_spacing=0.09,
        horizontal_spacing=0.06,
    )
    for column, template in enumerate(templates, start=1):
        of_template = table[table["template"] == template]
        for i, (method, rows) in enumerate(of_template.groupby("method", sort=False)):
            colour = METHOD_COLOURS.get(str(method), PALETTE[i % len(PALETTE)])
            place = {"row": 1, "col": column}
            legend = {"name": str(method), "legendgroup": str(method)}
            blocks = rows["output_layer"]
            band(figure, blocks, rows["low"], rows["high"], colour, **place)
            _line(figure, rows, "spearman", colour, {**legend, "showlegend": column == 1}, place)
            if method != PLAIN:
                place = {"row": 2, "col": column}
                band(figure, blocks, rows["gain_low"], rows["gain_high"], colour, **place)
                _line(figure, rows, "gain", colour, {**legend, "showlegend": False}, place)
        figure.add_hline(y=0, line_dash="dot", line_color="#555555", row=2, col=column)
    figure.update_xaxes(title="blocks run", row=2)
    figure.update_yaxes(title=SCORE, row=1, col=1)
    figure.update_yaxes(title="gain over plain", row=2, col=1)
    return layout(figure, "At which layer to read the embedding?", measured_on, 720)


def _line(
    figure: go.Figure,
    rows: pd.DataFrame,
    column: str,
    colour: str,
    legend: dict[str, object],
    place: dict[str, int],
) -> None:
    figure.add_scatter(
        x=rows["output_layer"],
        y=rows[column],
        mode="lines+markers",
        marker_size=5,
        line_color=colour,
        hovertemplate="%{x}: %{y:.2f}",
        **legend,
        **place,
    )


def output_layer_caption(table: pd.DataFrame) -> str:
    """Return one line with the best output layer of each method, and how often CP is above."""
    parts = []
    for template, part in table.groupby("template", sort=False):
        best = part.loc[part.groupby("method", sort=False)["spearman"].idxmax()]
        scores = ", ".join(
            f"{row.method} {row.spearman:.1f} after {row.output_layer}" for row in best.itertuples()
        )
        steered = part[part["method"] != PLAIN]
        above = int((steered["gain_low"] > 0).sum()), int((steered["gain_high"] < 0).sum())
        parts.append(
            f"{NAMES.get(str(template), template)}: {scores}; at the same layer CP is certainly "
            f"above plain in {above[0]} and below in {above[1]} of {len(steered)}"
        )
    return f"Best score and the number of blocks run. {'; '.join(parts)}."


def gains_figure(table: pd.DataFrame, by: str, title: str, measured_on: str) -> go.Figure:
    """Return the score of each variant as a dot with its interval, the plain prompt as a line.

    Args:
        table: From `dysem_lab.analyses.contrast_analyses.contrast_scores` of one task and output
            layer.
        by: Column that tells the variants apart: "auxiliary" or "position".
        title: Of the figure.
        measured_on: From `dysem_lab.questions.style.facts`.
    """
    _one(table, "task", "output_layer")
    templates = list(dict.fromkeys(table["template"]))
    figure = _template_panels(table, templates)
    steered = table[table["method"] != PLAIN]
    # A variant that loses by far would press the others together: it is put at the edge.
    edge = -max(3.0, 6 * float(steered["gain"].abs().median()))
    for column, template in enumerate(templates, start=1):
        part = steered[steered["template"] == template]
        for i, (method, rows) in enumerate(part.groupby("method", sort=False)):
            far = rows["gain"] < edge
            symbol = ("circle", "diamond", "square", "cross")[i % 4]
            figure.add_scatter(
                x=rows["gain"].clip(lower=edge),
                y=rows[by],
                orientation="h",
                mode="markers+text",
                text=[
                    f"  {gain:+.1f}" if out else ""
                    for gain, out in zip(rows["gain"], far, strict=True)
                ],
                textposition="middle right",
                marker={
                    "size": 9,
                    "color": METHOD_COLOURS.get(str(method), PALETTE[i % len(PALETTE)]),
                    "symbol": ["triangle-left" if out else symbol for out in far],
                },
                error_x=error_bar(rows["gain"].where(~far), rows["gain_low"], rows["gain_high"]),
                name=str(method),
                legendgroup=str(method),
                showlegend=column == 1,
                customdata=rows[["spearman", "gain"]],
                hovertemplate="%{customdata[0]:.2f} (%{customdata[1]:+.2f})",
                row=1,
                col=column,
            )
        figure.add_vline(x=0, line_dash="dot", line_color="#555555", row=1, col=column)
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(title="gain over plain")
    n_rows = steered[by].nunique()
    return layout(figure, title, measured_on, 280 + 42 * n_rows).update_layout(
        scattermode="group", margin_l=140
    )


def gains_caption(table: pd.DataFrame, by: str) -> str:
    """Return one line: the largest and the smallest gain of each template, and the certain ones."""
    parts = []
    for template, part in table.groupby("template", sort=False):
        plain = part[part["method"] == PLAIN]["spearman"].iloc[0]
        steered = part[part["method"] != PLAIN]
        best, worst = (
            steered.loc[at] for at in (steered["gain"].idxmax(), steered["gain"].idxmin())
        )
        up, down = int((steered["gain_low"] > 0).sum()), int((steered["gain_high"] < 0).sum())
        parts.append(
            f"{NAMES.get(str(template), template)} (plain {plain:.2f}): from {worst['gain']:+.2f} "
            f"({worst[by]}, {worst['method']}) to {best['gain']:+.2f} ({best[by]}, "
            f"{best['method']}), {up} of {len(steered)} certainly above and {down} below"
        )
    return f"Gain over the plain prompt at the same output layer. {'; '.join(parts)}."


def combined_figure(table: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return DySem with and without CP: grouped bars per vector, one panel per component.

    Args:
        table: From `dysem_lab.analyses.contrast_analyses.combined_scores`.
        measured_on: From `dysem_lab.questions.style.facts`.
    """
    alphas = ["" if np.isnan(alpha) else f" α={alpha:g}" for alpha in table["alpha"]]
    shown = table.assign(method=table["method"] + alphas, component=table["component"].map(_symbol))
    colours = {
        label: METHOD_COLOURS[method]
        for label, method in zip(shown["method"], table["method"], strict=True)
    }
    figure = bars(shown, "vector", "method", "component", colours=colours)
    figure.update_yaxes(title=SCORE, col=1)
    return layout(figure, "DySem on vectors that CP has steered", measured_on, 480)


def _symbol(component: str) -> str:
    return superscript(SYMBOLS.get(component, component))


def combined_caption(table: pd.DataFrame) -> str:
    """Return one line: DySem alone, CP alone and both, per component."""
    parts = []
    for component, part in table.groupby("component", sort=False):
        best = part.loc[part.groupby(part["method"] == PLAIN)["spearman"].idxmax()]
        steered = part[(part["method"] != PLAIN) & (part["vector"] != "plain cosine")]
        top = steered.loc[steered["gain"].idxmax()]
        plain = best[best["method"] == PLAIN].iloc[0]
        parts.append(
            f"{SYMBOLS[component]}: best without CP {plain['spearman']:.1f} ({plain['vector']}); "
            f"the largest gain of CP on DySem is {top['gain']:+.2f} [{top['gain_low']:.2f}, "
            f"{top['gain_high']:.2f}] ({top['method']}, {top['vector']})"
        )
    return f"{'; '.join(parts)}."


def _one(table: pd.DataFrame, *columns: str) -> None:
    """Raise an error unless the columns have one value each."""
    for column in columns:
        if table[column].nunique() != 1:
            raise InputError(
                f"this figure is for one {column}, but the table has {table[column].nunique()}; "
                f"choose one: table[table[{column!r}] == value]"
            )
