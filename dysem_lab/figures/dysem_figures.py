"""Tables into plotly figures, and into one line each that says what is seen."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dysem_lab.analyses.dysem_analyses import SYMBOLS
from dysem_lab.errors import InputError
from dysem_lab.prompts import TEMPLATE_NAMES
from dysem_lab.questions.style import (
    COLOURS,
    OTHER_COLOUR,
    PALETTE,
    SCORE,
    band,
    bars,
    curves,
    error_bar,
    layout,
    superscript,
)

BASELINES = ("#999999", OTHER_COLOUR)  # what is plotted beside a method


def _named_settings(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(method=table["setting"] + ", " + table["vector"])


def _interval(row: pd.Series) -> str:
    return f"{row['spearman']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"


def _best(table: pd.DataFrame) -> pd.Series:
    return table.loc[table["spearman"].idxmax()]


def _over(table: pd.DataFrame) -> str:
    """Return how many tasks a mean is over, where it is over several."""
    n_tasks = table["task"].nunique()
    return "" if n_tasks == 1 else f", mean over {n_tasks} tasks"


def _one_task(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table, once it is known to be of one task."""
    if (n_tasks := table["task"].nunique()) != 1:
        raise InputError(
            f"this figure is for one task, but the table has {n_tasks}; choose one: "
            "table[table['task'] == name]"
        )
    return table


def _average(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return the mean score over tasks for each combination of columns."""
    mean = table.groupby(list(by), sort=False, as_index=False)[["spearman", "n_dims"]].mean()
    return mean.assign(task="average", low=np.nan, high=np.nan)


def decomposition_figure(table: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return horizontal bars with 95 % intervals, one per method, with #Dim. beside each.

    Args:
        table: From `dysem_lab.analyses.dysem_analyses.decomposition`.
        measured_on: From `facts`.
    """
    figure = go.Figure()
    rows = _one_task(table).iloc[::-1]
    for group in table["group"].unique():
        part = rows[rows["group"] == group]
        figure.add_bar(
            orientation="h",
            name=superscript(group),
            y=part["method"],
            x=part["spearman"],
            marker_color=COLOURS.get(group, OTHER_COLOUR),
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
    labels = [superscript(method) for method in rows["method"]]
    figure.update_yaxes(
        categoryorder="array",
        categoryarray=rows["method"],
        tickvals=rows["method"],
        ticktext=labels,
        title=None,
    )
    figure.update_xaxes(
        title="Spearman × 100, with 95 % bootstrap interval",
        range=[min(0.0, table["low"].min()), 1.22 * table["high"].max()],
    )
    title = "Which part of the residual stream carries sentence meaning?"
    return layout(figure, title, measured_on, 34 * len(table) + 220).update_layout(margin_l=20)


def decomposition_caption(table: pd.DataFrame) -> str:
    """Return one line with the numbers that matter of a decomposition table."""
    score = _one_task(table).set_index("method")["spearman"]
    final = next(name for name in score.index if name.endswith(", N(h^L)"))
    best = table.loc[table["spearman"].idxmax()]
    return (
        f"Spearman × 100: mean pooling {score['mean pooling']:.1f}, {final.partition(',')[0]} "
        f"{score[final]:.1f}, plain h^L {score['h^L']:.1f}, A^L {score['A^L']:.1f}, "
        f"F^L {score['F^L']:.1f}; best is {best['method']} with {best['spearman']:.1f} "
        f"[{best['low']:.1f}, {best['high']:.1f}] on {best['n_dims']:.0f} dimensions."
    )


def random_vs_semantic_figure(table: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return score against the number of dimensions: joint sets against random sets.

    The band of a random kind spans its seeds; the band of the joint sets is the 95 % bootstrap
    interval over pairs.

    Args:
        table: From `dysem_lab.analyses.dysem_analyses.random_vs_semantic`.
        measured_on: From `facts`.
    """
    figure = go.Figure()
    for kind in ("semantic", "random, shared", "random, per pair"):
        part = _one_task(table)[table["kind"] == kind]
        seeds = part.groupby("k", sort=False).agg(
            n_dims=("n_dims", "mean"),
            spearman=("spearman", "mean"),
            low=("low" if kind == "semantic" else "spearman", "min"),
            high=("high" if kind == "semantic" else "spearman", "max"),
        )
        colour = COLOURS[kind]
        band(figure, seeds["n_dims"], seeds["low"], seeds["high"], colour, 0.18)
        figure.add_scatter(
            x=seeds["n_dims"],
            y=seeds["spearman"],
            mode="lines+markers",
            line_color=colour,
            name="joint sets (DySem)" if kind == "semantic" else kind,
            customdata=seeds.index.to_numpy(),
            hovertemplate="k = %{customdata}<br>#Dim. %{x:.0f}<br>%{y:.2f}",
        )
    dense = table[table["kind"] == "all dimensions"].iloc[0]
    figure.add_hline(
        y=dense["spearman"],
        line={"dash": "dash", "color": COLOURS["all dimensions"]},
        annotation_text=f"all {dense['n_dims']:.0f} dimensions: {dense['spearman']:.1f}",
        annotation_position="top left",
    )
    figure.update_xaxes(title="#Dim. (mean size of the sets)")
    figure.update_yaxes(title="Spearman × 100")
    return layout(figure, "Joint sets against random sets of equal size", measured_on, 520)


def random_vs_semantic_caption(table: pd.DataFrame) -> str:
    """Return one line with the numbers that matter of a random-against-semantic table."""
    largest = _one_task(table)[table["kind"] == "semantic"].iloc[-1]
    random = table[table["k"] == largest["k"]].groupby("kind")["spearman"]
    dense = table[table["kind"] == "all dimensions"].iloc[0]
    return (
        f"Spearman × 100 on {largest['n_dims']:.0f} dimensions: joint sets "
        f"{largest['spearman']:.1f}, one random set for all pairs "
        f"{random.mean()['random, shared']:.1f}, a random set for each pair "
        f"{random.mean()['random, per pair']:.1f} (means of {random.size()['random, shared']} "
        f"seeds); all {dense['n_dims']:.0f} dimensions {dense['spearman']:.1f}."
    )


def components_figure(table: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return the score of each component per task, on all dimensions and under DySem with m = 1.

    Args:
        table: From `dysem_lab.analyses.dysem_analyses.component_scores`.
        measured_on: From `facts`.
    """
    labels = {**SYMBOLS, "attn_raw": "A^L, raw"}
    figure = bars(table, "component", "method", "task", labels)
    figure.update_yaxes(title=SCORE, col=1)
    n_rows = -(-table["task"].nunique() // 4)
    title = "h<sup>L</sup>, A<sup>L</sup> or F<sup>L</sup>? Each component in English"
    return layout(figure, title, measured_on, 260 * n_rows + 240)


def components_caption(table: pd.DataFrame) -> str:
    """Return one line with each component's average, and how often it is the best of a task."""
    mean = table.groupby(["method", "component"], sort=False)["spearman"].mean()
    parts = []
    for method in dict.fromkeys(table["method"]):
        scores = ", ".join(f"{SYMBOLS[name]} {value:.1f}" for name, value in mean[method].items())
        of_method = table[table["method"] == method]
        winners = of_method.loc[of_method.groupby("task")["spearman"].idxmax(), "component"]
        counts = winners.value_counts()
        wins = ", ".join(f"{SYMBOLS[name]} {count}" for name, count in counts.items())
        parts.append(f"{method}: {scores}; best in tasks: {wins}")
    best = mean["DySem, m = 1"].idxmax()
    agrees = (
        "As in the paper, A^L"
        if best == "attn"
        else f"Unlike the paper's models, {SYMBOLS[best]} and not A^L"
    )
    said = f"{agrees} has the highest average under DySem"
    return f"Spearman × 100 in English{_over(table)}. {'. '.join(parts)}. {said}."


def languages_figure(table: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return the score in each single language, ranked, one panel per task and setting.

    Args:
        table: From `dysem_lab.analyses.dysem_analyses.single_languages`.
        measured_on: From `facts`.
    """
    many = table["task"].nunique() > 1
    panel = table["task"] + ", " + table["setting"] if many else table["setting"]
    figure = bars(table.assign(panel=panel), "language", "setting", "panel")
    figure.update_xaxes(categoryorder="total descending")
    figure.update_yaxes(title=SCORE)
    figure.update_layout(showlegend=False)
    title = "Plain cosine in one language: how well does the model read each?"
    return layout(figure, title, measured_on, 230 * panel.nunique() + 160)


def languages_caption(table: pd.DataFrame) -> str:
    """Return one line with the best and the worst language of each setting."""
    parts = []
    for (task, setting), part in table.groupby(["task", "setting"], sort=False):
        ordered = part.sort_values("rank")
        best, worst = ordered.iloc[0], ordered.iloc[-1]
        where = f"{task}, " if table["task"].nunique() > 1 else ""
        parts.append(
            f"{where}{setting} prompts: best {best['language']} {best['spearman']:.1f}, worst "
            f"{worst['language']} {worst['spearman']:.1f}, order {'/'.join(ordered['language'])}"
        )
    return f"Spearman × 100 of the plain cosine in a single language. {'; '.join(parts)}."


def overlap_figure(overlap: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return a heat map of the overlap between the sets of each two languages.

    Args:
        overlap: Mean Jaccard index, languages on both axes.
        measured_on: From `facts`.
    """
    off_diagonal = overlap.where(~np.eye(len(overlap), dtype=bool))
    figure = go.Figure(
        go.Heatmap(
            z=off_diagonal,
            x=overlap.columns,
            y=overlap.index,
            colorscale="Cividis",
            texttemplate="%{z:.2f}",
            colorbar_title="Jaccard",
        )
    )
    figure.update_yaxes(autorange="reversed")
    title = "Do languages select the same dimensions for the same text?"
    return layout(figure, title, measured_on, 42 * len(overlap) + 190)


def overlap_caption(overlap: pd.DataFrame, chance: float) -> str:
    """Return one line with the mean, the closest and the farthest two languages.

    Args:
        overlap: Mean Jaccard index, languages on both axes.
        chance: Jaccard index of two random sets of the mean size.
    """
    upper = overlap.where(np.triu(np.ones(overlap.shape, dtype=bool), 1)).stack()
    (a, b), (c, d) = upper.idxmax(), upper.idxmin()
    return (
        f"Mean Jaccard index of the sets that two languages select for the same text: "
        f"{upper.mean():.2f} (two random sets of that size: {chance:.2f}); closest {a} and {b} "
        f"{upper.max():.2f}, farthest {c} and {d} {upper.min():.2f}."
    )


def m_sweep_figure(table: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return the score against the number of languages, one line per prompt setting and vector.

    Args:
        table: From `dysem_lab.analyses.dysem_analyses.grid` with one k.
        measured_on: From `facts`.
    """
    figure = curves(_named_settings(table), "m", "method", "task")
    figure.update_xaxes(title="m, languages in the consensus", dtick=1)
    figure.update_yaxes(title=SCORE, col=1)
    height = 300 * -(-table["task"].nunique() // 4) + 260
    return layout(figure, "How many languages?", measured_on, height)


def m_sweep_caption(table: pd.DataFrame) -> str:
    """Return one line with the best m of each prompt setting and vector.

    Means are over the tasks that have the most languages, so that every m is on the same ones.
    """
    longest = table.groupby("task")["m"].transform("max")
    table = table[longest == table["m"].max()]
    parts = []
    for (setting, vector), part in table.groupby(["setting", "vector"], sort=False):
        mean = part.groupby("m")[["spearman", "n_dims"]].mean()
        m = mean["spearman"].idxmax()
        parts.append(
            f"{setting}, {vector}: {mean['spearman'].iloc[0]:.1f} with m = {mean.index[0]}, best "
            f"{mean.loc[m, 'spearman']:.1f} with m = {m} on {mean.loc[m, 'n_dims']:.0f} "
            f"dimensions, {mean['spearman'].iloc[-1]:.1f} with m = {mean.index[-1]}"
        )
    over = _over(table)
    return f"Spearman × 100 against m{over}, languages added best first. {'; '.join(parts)}."


def prompt_vector_figure(table: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return grouped bars: prompt setting × vector for each task.

    Args:
        table: From `dysem_lab.analyses.dysem_analyses.grid` with one k and one m.
        measured_on: From `facts`.
    """
    figure = bars(_named_settings(table).assign(panel=""), "task", "method", "panel")
    figure.update_yaxes(title=SCORE)
    return layout(figure, "English or language-specific prompts? source or mean?", measured_on, 480)


def prompt_vector_caption(table: pd.DataFrame) -> str:
    """Return one line with the four combinations, averaged over tasks, and the best one."""
    mean = _average(_named_settings(table), ["method"]).sort_values("spearman", ascending=False)
    scores = ", ".join(
        f"{row.method} {row.spearman:.1f} (#Dim. {row.n_dims:.0f})" for row in mean.itertuples()
    )
    return f"Spearman × 100{_over(table)}, best first: {scores}."


def layers_figure(table: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return layer-wise and cumulative scores over layers, one panel per setting and vector.

    Layers are 1-based here, as in the paper.

    Args:
        table: From `dysem_lab.analyses.dysem_analyses.layer_scores`.
        measured_on: From `facts`.
    """
    many = table["task"].nunique() > 1
    named = _named_settings(table).assign(layer=table["layer"] + 1)
    if many:
        named = pd.concat([named, _average(named, ["method", "kind", "layer"])])
    single = named["method"].nunique() == 1
    panel = named["task"] if single else named["method"]
    if many and not single:
        panel = named["task"] + "<br>" + named["method"]
    colours = {"layer-wise": PALETTE[1], "cumulative": PALETTE[0]}
    figure = curves(named.assign(panel=panel), "layer", "kind", "panel", colours)
    figure.update_xaxes(title="layer")
    figure.update_yaxes(title=SCORE, col=1)
    figure.update_annotations(font_size=12)
    height = 270 * -(-panel.nunique() // 4) + 240
    title = "One layer's output, or the sum up to it?"
    return layout(figure, title, measured_on, height)


def layers_caption(table: pd.DataFrame) -> str:
    """Return one line with the last cumulative score and the best layers of both kinds."""
    parts, wins = [], 0
    for (setting, vector), part in table.groupby(["setting", "vector"], sort=False):
        mean = part.groupby(["kind", "layer"])["spearman"].mean()
        one, total = mean["layer-wise"], mean["cumulative"]
        wins += total.iloc[-1] > one.max()
        parts.append(
            f"{setting}, {vector}: all layers summed {total.iloc[-1]:.1f}, best sum "
            f"{total.max():.1f} (to layer {total.idxmax() + 1} of {len(total)}), best single layer "
            f"{one.max():.1f} (layer {one.idxmax() + 1})"
        )
    verdict = f"the sum over all layers beats every single layer in {wins} of {len(parts)} settings"
    return f"Spearman × 100{_over(table)}. {'; '.join(parts)}; {verdict} (in the paper it does)."


def k_sweep_figure(table: pd.DataFrame, measured_on: str, d_model: int) -> go.Figure:
    """Return the score against k, as a fraction of d below and as a number above.

    Args:
        table: From `dysem_lab.analyses.dysem_analyses.grid` with several k.
        measured_on: From `facts`.
        d_model: Width of the residual stream, d.
    """
    fraction = [k if isinstance(k, float) and k <= 1 else min(1.0, k / d_model) for k in table["k"]]
    named = _named_settings(table).assign(fraction=fraction)
    named["line"] = named["method"] + ", m = " + named["m"].astype(str)
    single = named["m"].nunique() == 1
    figure = curves(named, "fraction", "method" if single else "line", "task")
    ticks = sorted(set(fraction))
    figure.update_xaxes(
        title="k as a fraction of d (and as a number)",
        type="log",
        tickvals=ticks,
        ticktext=[f"{tick:g}<br>{round(tick * d_model)}" for tick in ticks],
        tickangle=0,
        tickfont_size=11,
    )
    figure.update_yaxes(title=SCORE, col=1)
    height = 320 * -(-table["task"].nunique() // 4) + 260
    return layout(figure, "How many dimensions?", measured_on, height)


def k_sweep_caption(table: pd.DataFrame) -> str:
    """Return one line with the best and the smallest k of each prompt setting and vector."""
    parts = []
    for (setting, vector, m), part in table.groupby(["setting", "vector", "m"], sort=False):
        mean = part.groupby("k", sort=False)[["spearman", "n_dims"]].mean()
        best, least = mean["spearman"].idxmax(), mean["n_dims"].idxmin()
        parts.append(
            f"{setting}, {vector}, m = {m}{_over(part)}: {mean.loc[least, 'spearman']:.1f} on "
            f"{mean.loc[least, 'n_dims']:.0f} dimensions (k = {least:g}), best "
            f"{mean.loc[best, 'spearman']:.1f} on {mean.loc[best, 'n_dims']:.0f} (k = {best:g})"
        )
    return f"Spearman × 100 against k. {'; '.join(parts)}."


def templates_figure(table: pd.DataFrame, plain: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return the score of each template under each prompt setting and vector, and without DySem.

    Args:
        table: From `dysem_lab.analyses.dysem_analyses.grid` over several templates.
        plain: From `dysem_lab.analyses.dysem_analyses.plain_scores` of the same study.
        measured_on: From `facts`.
    """
    baseline = plain.assign(method=plain["component"].map(SYMBOLS) + ", English, all d")
    colours = dict(zip(baseline["method"].unique(), BASELINES, strict=False)) | COLOURS
    both = pd.concat([baseline, _methods_of_templates(table)], ignore_index=True)
    both["template"] = both["template"].map(lambda name: TEMPLATE_NAMES.get(name, name))
    x, panel = ("template", "task") if both["task"].nunique() == 1 else ("task", "template")
    figure = bars(both, x, "method", panel, colours=colours)
    figure.update_yaxes(title=SCORE)
    title = "Does DySem depend on the prompt?"
    return layout(figure, title, measured_on, 300 * both[panel].nunique() + 260)


def _methods_of_templates(table: pd.DataFrame) -> pd.DataFrame:
    """Return the grid with named methods; in English alone, settings and vectors are the same."""
    named = _named_settings(table)
    named.loc[named["languages"] == "en", "method"] = "DySem, m = 1"
    return named.drop_duplicates(["task", "template", "method"])


def templates_caption(table: pd.DataFrame, plain: pd.DataFrame) -> str:
    """Return one line with each template's best DySem score beside its plain ones."""
    plain = plain[plain["task"].isin(table["task"])]
    parts = []
    for template, part in table.groupby("template", sort=False):
        best = _best(_average(_methods_of_templates(part), ["method"]))
        own = plain[plain["template"] == template].groupby("component")["spearman"].mean()
        alone = ", ".join(f"{SYMBOLS[name]} {value:.1f}" for name, value in own.items())
        parts.append(
            f"{TEMPLATE_NAMES.get(template, template)}: {alone}, DySem at best "
            f"{best['spearman']:.1f} ({best['method'].removeprefix('DySem, ')})"
        )
    return f"Spearman × 100{_over(table)}. {'; '.join(parts)}."
