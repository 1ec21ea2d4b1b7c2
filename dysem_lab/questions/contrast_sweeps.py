"""Where to read the embedding, what to subtract, and where in the block? Notebooks 17 to 19.

Each of the three is a table of contrasts (`dysem_lab.questions.contrast.contrast_scores`) along
another axis.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dysem_lab.inputs import names_of, several
from dysem_lab.questions.asked import asked
from dysem_lab.questions.contrast import (
    PLAIN,
    both_norms,
    contrast_scores,
    extremes,
    prompt_name,
    require_contrasts,
    said_of,
)
from dysem_lab.questions.finding import Facts, Finding, facts_of
from dysem_lab.questions.names import POSITION_NAMES
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.scores import LEVEL, certain, with_holm
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import (
    APART,
    METHOD_COLOURS,
    PALETTE,
    SCORE,
    band,
    error_bar,
    layout,
    one_of_each,
    one_task,
    side_by_side,
)


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
    scores = with_holm(pd.concat(tables, ignore_index=True))
    by_block = scores[scores["output_layer"] != "final"]
    drawn, said = output_layers_figure(by_block, facts), output_layers_caption(by_block)
    return Finding("cp_output_layer", scores, drawn, said, facts)


def output_layers_figure(table: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return scores against the number of blocks run, and below them what CP gains at each."""
    templates = list(dict.fromkeys(one_task(table)["template"]))
    figure = make_subplots(
        2,
        len(templates),
        subplot_titles=[prompt_name(template) for template in templates],
        shared_xaxes=True,
        vertical_spacing=0.09,
        horizontal_spacing=0.06,
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
    title = "At which layer to read the embedding? (shaded: 95 % interval; above, of plain)"
    return layout(figure, title, facts, 720)


def output_layers_caption(table: pd.DataFrame) -> str:
    """Return one line with the best output layer of each method, and how often CP is above."""
    parts = []
    for template, part in table.groupby("template", sort=False):
        best = part.loc[part.groupby("method", sort=False)["spearman"].idxmax()]
        scores = ", ".join(
            f"{row.method} {row.spearman:.1f} after {row.output_layer}" for row in best.itertuples()
        )
        steered = part[part["method"] != PLAIN]
        above, below = certain(steered)
        parts.append(
            f"{prompt_name(template)}: {scores}; at the same layer CP is certainly "
            f"above plain in {above} and below in {below} of {len(steered)}"
        )
    above, below = certain(table[table["method"] != PLAIN])
    return (
        f"At the same output layer CP is above the plain prompt in {above} and below it in {below} "
        f"of {int((table['method'] != PLAIN).sum())} comparisons for certain (p < {LEVEL:g} after "
        f"Holm). Best score and the number of blocks run. {'; '.join(parts)}."
    )


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
    names = "cp_position", "Where in the block?"
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
    facts = facts_of(study, **values, **said_of(contrasts), **given)
    tables = [contrast_scores(study, **where, **part, seed=given["seed"]) for part in parts]
    scores = with_holm(pd.concat(tables, ignore_index=True))
    drawn = variants_figure(scores, field, title, facts)
    return Finding(kind, scores, drawn, variants_caption(scores, field), facts)


def variants_figure(table: pd.DataFrame, by: str, title: str, facts: Facts | str) -> go.Figure:
    """Return the gain of each variant, told apart by a column, as a dot with its interval."""
    templates = list(dict.fromkeys(one_of_each(table, "task", "output_layer")["template"]))
    figure = template_panels(table, templates)
    steered = table[table["method"] != PLAIN]
    # A variant that loses by far would press the others together: it is put at the edge.
    edge, beyond = -max(3.0, 6 * float(steered["gain"].abs().median())), False
    for column, template in enumerate(templates, start=1):
        part = steered[steered["template"] == template]
        ends = _axis(part, edge)
        beyond |= bool((part["gain"] < ends[0]).any())
        figure.update_xaxes(range=ends, row=1, col=column)
        for i, (method, rows) in enumerate(part.groupby("method", sort=False)):
            far = rows["gain"] < ends[0]
            symbol = ("circle", "diamond", "square", "cross")[i % 4]
            figure.add_scatter(
                x=rows["gain"].clip(lower=ends[0]),
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
                cliponaxis=False,  # or the edge would cut a triangle in half
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
    names = {
        name: POSITION_NAMES.get(name, name).replace(", ", ",<br>") for name in steered[by].unique()
    }
    # The ticks, which are not seen, keep the names clear of a triangle at the edge.
    ticks = {"ticks": "outside", "ticklen": 8, "tickcolor": "rgba(0,0,0,0)"}
    figure.update_yaxes(
        autorange="reversed", tickvals=[*names], ticktext=[*names.values()], **ticks
    )
    figure.update_xaxes(title="gain over plain")
    if beyond:
        triangle = {"symbol": "triangle-left", "size": 9, "color": "#555555"}
        name = "beyond the edge of the axis: its gain is written beside it"
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=triangle, name=name)
    n_rows = steered[by].nunique()
    return layout(figure, title, facts, 280 + 42 * n_rows).update_layout(
        scattermode="group", margin_l=190
    )


def _axis(part: pd.DataFrame, edge: float) -> tuple[float, float]:
    """Return the ends of a panel's axis: 0 and the intervals of all gains from an edge on.

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
    for template, part in table.groupby("template", sort=False):
        plain = part[part["method"] == PLAIN]["spearman"].iloc[0]
        steered = part[part["method"] != PLAIN]
        best, worst = extremes(steered)
        up, down = certain(steered)
        parts.append(
            f"{prompt_name(template)} (plain {plain:.2f}): from {worst['gain']:+.2f} "
            f"({_variant(worst, by)}) to {best['gain']:+.2f} ({_variant(best, by)}), {up} of "
            f"{len(steered)} certainly above and {down} below"
        )
    steered = table[table["method"] != PLAIN]
    up, down = certain(steered)
    return (
        f"Of {len(steered)} comparisons {up} gain and {down} lose for certain (p < {LEVEL:g} after "
        f"Holm). Gain over the plain prompt at the same output layer. {'; '.join(parts)}."
    )


def _variant(row: pd.Series, by: str) -> str:
    """Return a variant in words, with its norm."""
    return f"{POSITION_NAMES.get(row[by], row[by])}; {row['method']}"


def template_panels(table: pd.DataFrame, templates: Sequence[str]) -> go.Figure:
    """Return one panel per template, with the plain prompt's score in its title."""
    plain = table[table["method"] == PLAIN].groupby("template")["spearman"].first()
    titles = [f"{prompt_name(name)} (plain {plain[name]:.1f})" for name in templates]
    return side_by_side(titles, gap=0.05)
