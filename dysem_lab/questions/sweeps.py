"""How many languages, how many dimensions, which prompts? Notebooks 05, 06, 08 and 09.

Each of the four is the same grid of DySem settings (`dysem_lab.questions.scores.grid`) along
another axis.
"""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from dysem_lab.data.languages import paraphrase_codes
from dysem_lab.encoders.settings import VECTORS
from dysem_lab.prompts import TEMPLATE_NAMES
from dysem_lab.questions.asked import asked
from dysem_lab.questions.finding import Facts, Finding, facts_of
from dysem_lab.questions.names import SYMBOLS
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.scores import (
    ALIGNED,
    grid,
    plain_scores,
    second_half,
    with_languages,
)
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import (
    BASELINES,
    COLOURS,
    SCORE,
    average,
    bars,
    best,
    curves,
    layout,
    named_settings,
    noted,
    over,
    prompts_said,
    rows_of,
    whiskers,
    with_average,
)
from dysem_lab.translation.paraphrases import N_WRITTEN, Paraphrases, paraphrased, source_of
from dysem_lab.translation.translate import Translator

TICKS = 6  # numbers of languages that are written below a panel
CLOSE = 1.0  # Spearman × 100: so near to the best is as good
PARAPHRASES = "paraphrases"  # in the place of a prompt setting


def m_sweep(
    study: Study,
    *,
    k: int | float = 0.25,
    component: str = "attn",
    paraphrases: Paraphrases | None = None,
    seed: int = 0,
) -> Finding:
    """How many languages? DySem for each m, languages added best first.

    With paraphrases it also asks "m languages or m paraphrases?": the English text and its
    paraphrases, in English prompts, are added best first as languages are.

    Args:
        study: Its tasks and prompt settings; its first template is used.
        k: Dimensions per text, or fraction of d.
        component: Internal vector.
        paraphrases: Where four paraphrases of each text are from, as for `dysem_lab.paraphrased`;
            their rows have "paraphrases" as ``setting``. None asks about languages alone.
        seed: Of the bootstraps.

    Source: DySem Figures 6 and 13–16; paraphrases are a control of our own.
    """
    given = asked(study, component=component, k=k, seed=seed)
    by = None if paraphrases is None else source_of(paraphrases)
    studies = {"": study} if by is None else {"": study, PARAPHRASES: _rephrased(study, by)}
    prepare(*(each.needs(component) for each in studies.values()))
    template = study.templates[0]
    facts = facts_of(study, template=template, **given, paraphrases=by.name if by else None)
    tables = [grid(each, [k], components=[component], seed=seed) for each in studies.values()]
    for name, part in zip(studies, tables, strict=True):
        part["setting"] = name or part["setting"]
    scores = pd.concat(tables, ignore_index=True)
    facts = with_languages(facts, tables[0])
    return Finding("m_sweep", scores, m_sweep_figure(scores, facts), m_sweep_caption(scores), facts)


def _rephrased(study: Study, by: Translator) -> Study:
    """Return the study of the English texts and their paraphrases, in English prompts."""
    codes = ["en", *paraphrase_codes(N_WRITTEN)]
    data = {task: paraphrased(pairs, by) for task, pairs in study.data.items()}
    return study.on(data, languages=codes).prompted(settings="english")


def m_sweep_figure(table: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return the score against the number of languages, one line per prompt setting and vector."""
    what = "languages or paraphrases" if PARAPHRASES in set(table["setting"]) else "languages"
    title = f"How many languages? m {what} in the consensus"
    named = with_average(named_settings(table), ["method", "m"])
    figure = _curves(named, "m", "method", title, facts)
    step = -(-int(table["m"].max()) // TICKS)
    return figure.update_xaxes(title="m", tick0=1, dtick=step, tickangle=0)


def _curves(table: pd.DataFrame, x: str, line: str, title: str, facts: Facts | str) -> go.Figure:
    """Return one panel per task; of one task, a panel per line with the others in grey."""
    several = table["task"].nunique() > 1
    panel = table["task"] if several else table[line].str.replace(", ", ",<br>", n=1)
    figure = curves(table.assign(panel=panel), x, line, "panel", beside=not several)
    figure.update_yaxes(title=SCORE, col=1).update_yaxes(matches="y")
    note = whiskers(table, "shaded")
    if not several:
        figure.update_layout(showlegend=False).update_annotations(font_size=14)
        note = f"{note}; grey: the other panels"
    elif table[line].nunique() > 2:  # of so many, nothing is shaded
        half = (table["high"] - table["low"]).median() / 2
        note = f"95 % intervals are not drawn: in a task about ±{half:.0f}"
    return layout(figure, title, noted(facts, note), 320 * rows_of(panel.unique()) + 240)


def m_sweep_caption(table: pd.DataFrame) -> str:
    """Return one line with the best m of each prompt setting and vector.

    Means are over the tasks that have the most languages, so that every m is on the same ones.
    """
    most = table[table["setting"] != PARAPHRASES].groupby("task")["m"].max()
    table = table[table["task"].isin(most.index[most == most.max()])]
    parts, best_ms, below = [], [], 0
    for (setting, vector), part in table.groupby(["setting", "vector"], sort=False):
        mean = part.groupby("m")[["spearman", "n_dims"]].mean()
        m = mean["spearman"].idxmax()
        best_ms.append(m)
        below += mean["spearman"].iloc[-1] < mean["spearman"].iloc[0]
        parts.append(
            f"{prompts_said(setting)}, {vector}: {mean['spearman'].iloc[0]:.1f} with m = "
            f"{mean.index[0]}, best {mean.loc[m, 'spearman']:.1f} with m = {m} on "
            f"{mean.loc[m, 'n_dims']:.0f} dimensions, {mean['spearman'].iloc[-1]:.1f} with m = "
            f"{mean.index[-1]}"
        )
    ms = sorted(set(best_ms))
    at_best = f"{ms[0]}" if len(ms) == 1 else f"{ms[0]} to {ms[-1]}, by setting"
    return (
        f"The best number of languages is {at_best} (chosen on the labels that it is scored on); "
        f"with all {table['m'].max()}, {below} of {len(parts)} settings score below a single "
        f"language (not tested). Spearman × 100 against m{over(table)}, languages added best "
        f"first. {'; '.join(parts)}."
    )


def prompt_vector(
    study: Study, m: int, *, k: int | float = 0.25, component: str = "attn", seed: int = 0
) -> Finding:
    """English or language-specific prompts? source or mean? DySem in each combination.

    Args:
        study: Its tasks and prompt settings; its first template is used.
        m: Languages in the consensus, best first; a task with fewer uses all that it has.
        k: Dimensions per text, or fraction of d.
        component: Internal vector.
        seed: Of the bootstraps.

    Source: DySem Figures 7 and 17.
    """
    given = asked(study, component=component, m=m, k=k, seed=seed)
    prepare(study.needs(component))
    facts = facts_of(study, template=study.templates[0], **given)
    scores = grid(study, [k], [m], components=[component], seed=seed)
    facts = with_languages(facts, scores)
    drawn, said = prompt_vector_figure(scores, facts), prompt_vector_caption(scores)
    return Finding("prompt_vector", scores, drawn, said, facts)


def prompt_vector_figure(table: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return grouped bars: prompt setting × vector for each task."""
    named = with_average(named_settings(table), ["method"])
    figure = bars(named.assign(panel=""), "task", "method", "panel")
    figure.update_yaxes(title=SCORE)
    title = "English or language-specific prompts? source or mean?"
    return layout(figure, title, noted(facts, whiskers(named)), 480)


def prompt_vector_caption(table: pd.DataFrame) -> str:
    """Return one line with the four combinations, averaged over tasks, and the best one."""
    mean = average(named_settings(table), ["method"]).sort_values("spearman", ascending=False)
    scores = ", ".join(
        f"{row.method} {row.spearman:.1f} (#Dim. {row.n_dims:.0f})" for row in mean.itertuples()
    )
    prompts, _, vector = mean["method"].iloc[0].rpartition(", ")
    of = {2: "the two", 4: "the four"}.get(len(mean), f"{len(mean)}")
    lead = f"{prompts[0].upper()}{prompts[1:]} with the {vector} vector score highest of {of}"
    return f"{lead} (not tested). Spearman × 100{over(table)}: {scores}."


def k_sweep(
    study: Study,
    ks: Sequence[int | float],
    m: int,
    *,
    component: str = "attn",
    vectors: Sequence[str] = VECTORS,
    seed: int = 0,
) -> Finding:
    """How many dimensions? DySem for each k.

    Args:
        study: Its tasks and prompt settings; its first template is used.
        ks: Dimensions per text, or fractions of d.
        m: Languages in the consensus, best first; a task with fewer uses all that it has.
        component: Internal vector.
        vectors: "mean" and "source".
        seed: Of the bootstraps.

    Source: DySem Figures 9 and 22–24.
    """
    given = asked(study, component=component, m=m, ks=ks, vectors=vectors, seed=seed)
    prepare(study.needs(component))
    facts = facts_of(study, template=study.templates[0], **given)
    of = {"vectors": given["vectors"], "seed": seed}
    scores = grid(study, given["ks"], [m], components=[component], **of)
    facts = with_languages(facts, scores)
    drawn = k_sweep_figure(scores, facts, study.model.d_model)
    return Finding("k_sweep", scores, drawn, k_sweep_caption(scores), facts)


def k_sweep_figure(table: pd.DataFrame, facts: Facts | str, d_model: int) -> go.Figure:
    """Return the score against k, as a fraction of d below and as a number above."""
    fraction = [k if isinstance(k, float) and k <= 1 else min(1.0, k / d_model) for k in table["k"]]
    named = named_settings(table).assign(fraction=fraction)
    named["line"] = named["method"] + ", m = " + named["m"].astype(str)
    title = "How many dimensions? k as a share of d, and as a number"
    line = "method" if named["m"].nunique() == 1 else "line"
    figure = _curves(with_average(named, [line, "fraction"]), "fraction", line, title, facts)
    ticks = sorted(set(fraction))
    return figure.update_xaxes(
        title="k",
        type="log",
        tickvals=ticks,
        ticktext=[f"{tick:g}<br>{max(1, round(tick * d_model))}" for tick in ticks],
        tickangle=0,
        tickfont_size=10,
    )


def k_sweep_caption(table: pd.DataFrame) -> str:
    """Return one line with the best and the smallest k of each prompt setting and vector."""
    parts, lost = [], pd.Series(dtype=float)
    for (setting, vector, m), part in table.groupby(["setting", "vector", "m"], sort=False):
        mean = part.groupby("k", sort=False)[["spearman", "n_dims"]].mean()
        best, least = mean["spearman"].idxmax(), mean["n_dims"].idxmin()
        lost = lost.combine(mean["spearman"].max() - mean["spearman"], max, fill_value=0.0)
        parts.append(
            f"{prompts_said(setting)}, {vector}, m = {m}{over(part)}: "
            f"{mean.loc[least, 'spearman']:.1f} on {mean.loc[least, 'n_dims']:.0f} dimensions "
            f"(k = {least:g}), best {mean.loc[best, 'spearman']:.1f} on "
            f"{mean.loc[best, 'n_dims']:.0f} (k = {best:g})"
        )
    sizes = table.groupby("k")["n_dims"].mean()[lost.index[lost < CLOSE]]
    enough = f"k = {sizes.idxmin():g} is the smallest" if len(sizes) else "There is no k"
    return (
        f"{enough} with which every setting is within {CLOSE:g} of its best score. "
        f"Spearman × 100 against k. {'; '.join(parts)}."
    )


def templates(
    study: Study,
    m: int,
    *,
    k: int | float = 0.25,
    component: str = "attn",
    vectors: Sequence[str] = VECTORS,
    seed: int = 0,
) -> Finding:
    """Does DySem depend on the prompt? DySem, AlignedWVA and the plain cosine by template.

    Args:
        study: Its tasks, templates and prompt settings.
        m: Languages in the consensus, best first; a task with fewer uses all that it has.
        k: Dimensions per text, or fraction of d.
        component: Internal vector.
        vectors: "mean" and "source".
        seed: Of the bootstraps.

    Source: DySem Table 5.
    """
    given = asked(study, component=component, m=m, k=k, vectors=vectors, seed=seed)
    english = study.prompted(settings="english", languages="en")
    aligned = second_half(study.n_layers)
    prepare(study.needs(component), english.needs("final", output_layers=aligned))
    facts, of = facts_of(study, **given), {"vectors": given["vectors"], "seed": seed}
    of_grid = grid(study, [k], [m], components=[component], **of)
    facts = with_languages(facts, of_grid)
    plain = plain_scores(study, {"final": "final", component: component, ALIGNED: aligned}, seed)
    both = plain.assign(setting="english", vector="plain cosine", m=1, languages="en")
    scores = pd.concat([both, of_grid])
    drawn, said = templates_figure(of_grid, plain, facts), templates_caption(of_grid, plain)
    return Finding("templates", scores, drawn, said, facts)


def templates_figure(table: pd.DataFrame, plain: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return the score of each template under each prompt setting and vector, and without DySem."""
    baseline = plain.assign(method=plain["component"].map(SYMBOLS) + ", English, all d")
    colours = dict(zip(baseline["method"].unique(), BASELINES, strict=False)) | COLOURS
    both = pd.concat([baseline, _methods_of_templates(table)], ignore_index=True)
    both["template"] = both["template"].map(lambda name: TEMPLATE_NAMES.get(name, name))
    x, panel = ("template", "task") if both["task"].nunique() == 1 else ("task", "template")
    figure = bars(both, x, "method", panel, colours=colours)
    figure.update_yaxes(title=SCORE)
    title = "Does DySem depend on the prompt?"
    height = 300 * both[panel].nunique() + 260
    return layout(figure, title, noted(facts, whiskers(both)), height)


def _methods_of_templates(table: pd.DataFrame) -> pd.DataFrame:
    """Return the grid with named methods; in English alone, settings and vectors are the same."""
    named = named_settings(table)
    named.loc[named["languages"] == "en", "method"] = "DySem, m = 1"
    return named.drop_duplicates(["task", "template", "method"])


def templates_caption(table: pd.DataFrame, plain: pd.DataFrame) -> str:
    """Return one line with each template's best DySem score beside its plain ones."""
    plain = plain[plain["task"].isin(table["task"])]
    parts, above = [], 0
    for template, part in table.groupby("template", sort=False):
        at_best = best(average(_methods_of_templates(part), ["method"]))
        own = plain[plain["template"] == template].groupby("component")["spearman"].mean()
        above += at_best["spearman"] > own.max()
        alone = ", ".join(f"{SYMBOLS[name]} {value:.1f}" for name, value in own.items())
        parts.append(
            f"{TEMPLATE_NAMES.get(template, template)}: {alone}, DySem at best "
            f"{at_best['spearman']:.1f} ({at_best['method'].removeprefix('DySem, ')})"
        )
    return (
        f"Under {above} of {len(parts)} prompts DySem at its best is above the plain cosine (not "
        "tested). "
        f"Spearman × 100{over(table)}. {'; '.join(parts)}."
    )
