"""Where to read the embedding, what to subtract, and where in the block? Notebooks 17 to 19.

Each of the three is a table of contrasts (`dysem_lab.questions.contrast.contrast_scores`) along
another axis.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dysem_lab.display import amount
from dysem_lab.inputs import names_of, several
from dysem_lab.questions.asked import asked
from dysem_lab.questions.contrast import (
    contrast_scores,
    extremes,
    require_contrasts,
    said_of,
)
from dysem_lab.questions.contrast_rows import (
    PLAIN,
    both_norms,
    compared,
    drawn_once,
    norms_said,
    once,
    one_setting,
    prompt_name,
)
from dysem_lab.questions.finding import Facts, Finding, facts_of
from dysem_lab.questions.names import AUXILIARY_NAMES, POSITION_NAMES
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.scores import LEVEL, by_holm, certain
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import (
    APART,
    METHOD_COLOURS,
    PALETTE,
    SCORE,
    band,
    error_bar,
    layout,
    noted,
    one_of_each,
    one_task,
    side_by_side,
    texts,
    whiskers,
)

VARIANT_NAMES = {  # what the variants are called beside a figure and in its caption
    **POSITION_NAMES,
    **{name: words.removeprefix("asks for ") for name, words in AUXILIARY_NAMES.items()},
}


def output_layers(
    study: Study, contrasts: Mapping[str, tuple[int, float]], *, seed: int = 0
) -> Finding:
    """At which layer to read the embedding? Both norms after every block from the contrast on.

    Args:
        study: Of one task, in the English setting; its templates.
        contrasts: Template → block (0-based) and α of its contrast.
        seed: Of the bootstraps.

    Source: CP (arXiv 2505.12831), Figure 3 d; the same curve of the plain prompt is ours.
    """
    given = asked(study, seed=seed)
    parts: list[dict[str, Any]] = [
        {"contrasts": both_norms(*of_contrast), "output_layers": "all", "templates": [template]}
        for template, of_contrast in require_contrasts(contrasts).items()
    ]
    prepare(*(study.needs((), **part) for part in parts))
    facts = facts_of(study, **said_of(contrasts), **given, auxiliary="irrelevant")
    tables = [contrast_scores(study, **part, seed=seed) for part in parts]
    scores = once(pd.concat(tables, ignore_index=True), study.lens)
    by_block = scores[scores["output_layer"] != "final"]
    drawn, said = output_layers_figure(by_block, facts), output_layers_caption(scores)
    return Finding("cp_output_layer", scores, drawn, said, facts)


def output_layers_figure(table: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return scores against the number of blocks run, and below them what CP gains at each."""
    table = drawn_once(one_task(table))
    templates = list(dict.fromkeys(table["template"]))
    figure = make_subplots(
        2,
        len(templates),
        subplot_titles=[prompt_name(template) for template in templates],
        shared_xaxes="all",
        shared_yaxes="rows",
        vertical_spacing=0.09,
        horizontal_spacing=0.03,
    )
    for column, template in enumerate(templates, start=1):
        of_template = table[table["template"] == template]
        methods = of_template.groupby("method", sort=False)
        for i, (method, rows) in enumerate(methods):
            # The plain prompt and the first contrast are solid: those that follow may cover it.
            symbol, dash = APART[max(0, i - 1) % len(APART)]
            colour = METHOD_COLOURS.get(str(method), PALETTE[i % len(PALETTE)])
            values = [("spearman", "low", "high"), ("gain", "gain_low", "gain_high")]
            for row, (value, low, high) in enumerate(values[: 1 + (method != PLAIN)], start=1):
                place = {"row": row, "col": column}
                if row == 2 or method == PLAIN:  # three bands above are told apart by nobody
                    band(figure, rows["output_layer"], rows[low], rows[high], colour, **place)
                figure.add_scatter(
                    x=rows["output_layer"],
                    y=rows[value],
                    mode="lines+markers",
                    marker={"size": 5, "symbol": symbol},
                    line={"color": colour, "dash": dash},
                    hovertemplate="%{x}: %{y:.2f}",
                    name=str(method),
                    legendgroup=str(method),
                    showlegend=place == {"row": 1, "col": 1},
                    **place,
                )
        figure.add_hline(y=0, line_dash="dot", line_color="#555555", row=2, col=column)
    figure.update_xaxes(title="blocks run", row=2)
    figure.update_yaxes(title=SCORE, row=1, col=1)
    figure.update_yaxes(title="gain over plain", row=2, col=1)
    said = f"{facts}, shaded: 95 % bootstrap intervals (above: of plain), {norms_said(table)}"
    return layout(figure, "At which layer to read the embedding?", said, 720)


def output_layers_caption(table: pd.DataFrame) -> str:
    """Return one line with the best output layer of each method, and how often CP is above."""
    table = table.assign(output_layer=table["output_layer"].map(_after))
    parts = []
    for template, part in drawn_once(table).groupby("template", sort=False):
        best = part.loc[part.groupby("method", sort=False)["spearman"].idxmax()]
        scores = ", ".join(
            f"{row.method} {row.spearman:.1f} after {row.output_layer}" for row in best.itertuples()
        )
        steered = compared(part)
        above, below = certain(steered)
        parts.append(
            f"{prompt_name(template)}: {scores}; at the same layer CP is certainly "
            f"above plain in {above} and below in {below} of {len(steered)}"
        )
    steered = compared(table)
    above, below = certain(steered)
    return (
        f"At the same output layer CP is above the plain prompt in {above} and below it in {below} "
        f"of {amount(len(steered), 'comparison')} for certain (p < {LEVEL:g} after Holm)."
        f"{one_setting(table)} The best scores: {'; '.join(parts)}."
    )


def _after(output_layer: object) -> str:
    """Return in words after what an embedding is read."""
    return "the final norm" if output_layer == "final" else f"{output_layer} blocks"


def auxiliary_prompts(
    study: Study,
    auxiliaries: Sequence[str],
    contrasts: Mapping[str, tuple[int, float]],
    output_layer: int | str = "penultimate",
    *,
    seed: int = 0,
) -> Finding:
    """What should be subtracted? Both norms with each auxiliary prompt.

    Args:
        study: Of one task, in the English setting; its templates.
        auxiliaries: Names of `dysem_lab.prompts.auxiliaries`, or prompts with ``{text}``.
        contrasts: Template → block (0-based) and α of its contrast.
        output_layer: Where the embedding is read, as for `dysem_lab.ContrastivePrompting`.
        seed: Of the bootstraps.

    Source: CP (arXiv 2505.12831), Table 4.
    """
    given = asked(study, output_layer=output_layer, seed=seed)
    values = {"auxiliaries": several(names_of(auxiliaries, "auxiliary prompt"), "auxiliaries")}
    names = "cp_auxiliary_prompts", "What should the auxiliary prompt ask for?"
    return _variants(*names, study, "auxiliary", values, contrasts, given)


def positions(
    study: Study,
    positions: Sequence[str],
    contrasts: Mapping[str, tuple[int, float]],
    output_layer: int | str = "penultimate",
    *,
    seed: int = 0,
) -> Finding:
    """Where in the block? Both norms at each place.

    Args:
        study: Of one task, in the English setting; its templates.
        positions: Names of `dysem_lab.models.steering.POSITIONS`.
        contrasts: Template → block (0-based) and α of its contrast.
        output_layer: Where the embedding is read, as for `dysem_lab.ContrastivePrompting`.
        seed: Of the bootstraps.

    Source: CP (arXiv 2505.12831), Table 5.
    """
    given = asked(study, output_layer=output_layer, seed=seed)
    values = {"positions": several(names_of(positions, "position"), "positions")}
    names = "cp_position", "At which place of a block to subtract the auxiliary prompt?"
    return _variants(*names, study, "position", values, contrasts, given)


def _variants(
    kind: str,
    title: str,
    study: Study,
    field: str,
    values: Mapping[str, list[str]],
    contrasts: Mapping[str, tuple[int, float]],
    given: Mapping[str, Any],
) -> Finding:
    """Return what is found of both norms with each value of a contrast's field."""
    parts: list[dict[str, Any]] = []
    for template, (layer, alpha) in require_contrasts(contrasts).items():
        each = [both_norms(layer, alpha, **{field: value}) for value in chain(*values.values())]
        steered = list(dict.fromkeys([None, *chain(*each)]))
        parts.append({"contrasts": steered, "templates": [template]})
    where: dict[str, Any] = {"output_layers": [given["output_layer"]]}
    prepare(*(study.needs((), **where, **part) for part in parts))
    facts = facts_of(study, **said_of(contrasts), **given)
    facts = replace(facts, unsaid=values)  # the figure has them at its side
    tables = [contrast_scores(study, **where, **part, seed=given["seed"]) for part in parts]
    scores = once(pd.concat(tables, ignore_index=True), study.lens)
    drawn = variants_figure(scores, field, title, facts)
    return Finding(kind, scores, drawn, variants_caption(scores, field), facts)


def variants_figure(table: pd.DataFrame, by: str, title: str, facts: Facts | str) -> go.Figure:
    """Return the gain of each variant, told apart by a column, as a dot with its interval."""
    templates = list(dict.fromkeys(one_of_each(table, "task", "output_layer")["template"]))
    figure = template_panels(table, templates)
    steered = compared(drawn_once(table))
    # A variant that loses by far would press the others together: it is put at the edge.
    ends = _axis(steered, -max(3.0, 6 * float(steered["gain"].abs().median())))
    beyond, methods = bool((steered["gain"] < ends[0]).any()), steered["method"].unique().tolist()
    for column, template in enumerate(templates, start=1):
        part = steered[steered["template"] == template]
        for method, rows in part.groupby("method", sort=False):
            far = rows["gain"] < ends[0]
            stars = (rows["gain_p_holm"] < LEVEL).map({True: "*", False: ""})
            # Marks and stars of a method lie at the same height.
            place: dict[str, Any] = {"row": 1, "col": column}
            place |= {"orientation": "h", "offsetgroup": method}
            i = methods.index(method)
            symbol = ("circle", "diamond", "square", "cross")[i % 4]
            figure.add_scatter(
                x=rows["gain"].clip(lower=ends[0]),
                y=rows[by],
                mode="markers+text",
                text=[
                    f"  {gain:+.1f}{star}" if out else ""
                    for gain, out, star in zip(rows["gain"], far, stars, strict=True)
                ],
                textposition="middle right",
                marker={
                    "size": 9,
                    "color": METHOD_COLOURS.get(str(method), PALETTE[i % len(PALETTE)]),
                    "symbol": ["triangle-left" if out else symbol for out in far],
                },
                cliponaxis=False,  # or the edge would cut a triangle in half
                error_x=error_bar(rows["gain"].where(~far), rows["gain_low"], rows["gain_high"]),
                name=str(method),
                legendgroup=str(method),
                showlegend=column == 1,
                customdata=rows[["spearman", "gain"]],
                hovertemplate="%{customdata[0]:.2f} (%{customdata[1]:+.2f})",
                **place,
            )
            texts(figure, rows["gain_high"], rows[by], "\u2009" + stars.mask(far, ""), **place)
        figure.add_vline(x=0, line_dash="dot", line_color="#555555", row=1, col=column)
    names = {name: _in_words(name).replace(", ", ",<br>") for name in steered[by].unique()}
    # The ticks, which are not seen, keep the names clear of a triangle at the edge.
    ticks = {"ticks": "outside", "ticklen": 8, "tickcolor": "rgba(0,0,0,0)"}
    figure.update_yaxes(
        autorange="reversed", tickvals=[*names], ticktext=[*names.values()], **ticks
    )
    figure.update_xaxes(title="gain over plain", range=ends)
    if beyond:
        triangle = {"symbol": "triangle-left", "size": 9, "color": "#555555"}
        name = "beyond the edge of the axis: its gain is written beside it"
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=triangle, name=name)
    said = noted(facts, whiskers(steered), f"* {by_holm(table, 'by')}", norms_said(steered))
    n_rows = steered[by].nunique()
    return layout(figure, title, said, 280 + 46 * n_rows).update_layout(
        scattermode="group", margin_l=210
    )


def _axis(part: pd.DataFrame, edge: float) -> tuple[float, float]:
    """Return the ends of the panels' axis: 0 and the intervals of all gains from an edge on.

    A gain below the edge is inside, too, where another's interval reaches as far.
    """
    inside = part["gain"] >= edge
    while True:
        low = min(0.0, float(part.loc[inside, "gain_low"].min()) if inside.any() else edge)
        high = max(0.0, float(part.loc[inside, "gain_high"].max()) if inside.any() else 0.0)
        room = 0.04 * (high - low)
        low, high = low - room, high + room
        if (part["gain"] >= low).equals(inside):
            return low, high
        inside = part["gain"] >= low


def variants_caption(table: pd.DataFrame, by: str) -> str:
    """Return one line: the largest and the smallest gain of each template, and the certain ones."""
    parts = []
    for template, part in drawn_once(table).groupby("template", sort=False):
        plain = part[part["method"] == PLAIN]["spearman"].iloc[0]
        steered = compared(part)
        best, worst = extremes(steered)
        up, down = certain(steered)
        parts.append(
            f"{prompt_name(template)} (plain {plain:.2f}): from {worst['gain']:+.2f} "
            f"({_variant(worst, by)}) to {best['gain']:+.2f} ({_variant(best, by)}), {up} of "
            f"{len(steered)} certainly above and {down} below"
        )
    steered = compared(table)
    up, down = certain(steered)
    return (
        f"Of {amount(len(steered), 'comparison')} {up} gain and {down} lose for certain "
        f"(p < {LEVEL:g} after Holm).{one_setting(table)} Gain over the plain prompt at the same "
        f"output layer. {'; '.join(parts)}."
    )


def _variant(row: pd.Series, by: str) -> str:
    """Return a variant in words, with its norm."""
    return f"{_in_words(row[by])}; {row['method']}"


def _in_words(name: str) -> str:
    """Return what a place, or an auxiliary prompt, is called; a prompt of one's own is its text."""
    return VARIANT_NAMES.get(name, name)


def template_panels(table: pd.DataFrame, templates: Sequence[str]) -> go.Figure:
    """Return one panel per template, with the plain prompt's score in its title."""
    plain = table[table["method"] == PLAIN].groupby("template")["spearman"].first()
    titles = [f"{prompt_name(name)} (plain {plain[name]:.1f})" for name in templates]
    return side_by_side(titles, gap=0.05)
