"""How well does the model read each language, and do languages agree? Notebook 04."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch

from dysem_lab.consensus import consensus_set
from dysem_lab.data.languages import LANGUAGES
from dysem_lab.errors import InputError
from dysem_lab.questions.asked import asked, require_study
from dysem_lab.questions.finding import Facts, Finding, facts_of
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.scores import rank_languages
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import SCORE, bars, layout, noted, prompts_said, whiskers


def languages(study: Study, *, component: str = "attn", seed: int = 0) -> Finding:
    """Score every language alone by the plain cosine of its vectors.

    Args:
        study: Its first template is used, in each prompt setting.
        component: Internal vector.
        seed: Of the bootstraps.

    Source: DySem Figures 5 and 12.
    """
    given = asked(study, component=component, seed=seed)
    prepare(study.needs(component))
    facts, scores = facts_of(study, template=study.templates[0], **given), table(study, **given)
    return Finding("languages", scores, figure(scores, facts), caption(scores), facts)


def language_overlap(
    study: Study,
    task: str | None = None,
    *,
    setting: str = "language-specific",
    component: str = "attn",
    k: int | float = 0.25,
) -> Finding:
    """Say how much the sets overlap that each two languages select for the same text.

    A language's set is its k largest positive dimensions: the consensus set for m = 1.

    Args:
        study: Its first template is used.
        task: Its name; None is the last of those that are in the most languages.
        setting: Prompt setting.
        component: Internal vector.
        k: Dimensions per text, or fraction of d.

    Returns:
        The mean Jaccard index over texts, languages on both axes (a text for which both sets are
        empty does not count).

    Raises:
        InputError: The task is in one language only.
    """
    require_study(study)
    if task is None:
        by_languages = {name: len(study.task_languages(name)) for name in reversed(study.data)}
        task = max(by_languages, key=by_languages.__getitem__, default="")
    given = asked(study, task=task, setting=setting, component=component, k=k)
    if len(codes := study.task_languages(task)) < 2:
        raise InputError(f"{task} is in {codes[0]!r} alone; an overlap is of two languages or more")
    prepare(study.needs(component))
    facts = facts_of(study, template=study.templates[0], **given)
    overlap, chance = overlaps(study, **given)
    if len(study.data) == 1:  # it is named as the data
        settings = {name: of for name, of in facts.settings.items() if name != "task"}
        facts = replace(facts, settings=settings, unsaid={"task": task})
    tidy = overlap.rename_axis("language").reset_index()
    drawn, said = overlap_figure(overlap, facts, chance), overlap_caption(overlap, chance)
    return Finding("language_overlap", tidy, drawn, said, facts)


def table(study: Study, component: str = "attn", seed: int = 0) -> pd.DataFrame:
    """Return `rank_languages` for every task and setting of a study."""
    return pd.concat(
        [
            rank_languages(study, task, setting=setting, component=component, seed=seed)
            for task in study.data
            for setting in study.settings
        ],
        ignore_index=True,
    )


def figure(table: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return the score in each single language, ranked, one panel per task and setting."""
    many = table["task"].nunique() > 1
    prompts = table["setting"].map(prompts_said)
    panel = table["task"] + ", " + prompts if many else prompts
    figure = bars(table.assign(panel=panel), "language", "setting", "panel")
    figure.update_xaxes(categoryorder="total descending")
    figure.update_yaxes(title=SCORE)
    figure.update_layout(showlegend=False)
    title = "Plain cosine in one language: how well does the model read each?"
    return layout(figure, title, noted(facts, whiskers(table)), 230 * panel.nunique() + 160)


def caption(table: pd.DataFrame) -> str:
    """Return one line with the best and the worst language of each setting.

    The order of all is said of one task; those of several are in the table.
    """
    parts, firsts, lasts = [], [], []
    several = table["task"].nunique() > 1
    for (task, setting), part in table.groupby(["task", "setting"], sort=False):
        ordered = part.sort_values("rank")
        best, worst = ordered.iloc[0], ordered.iloc[-1]
        firsts.append(best["language"])
        lasts.append(worst["language"])
        where = f"{task}, " if several else ""
        order = "" if several else f", order {'/'.join(ordered['language'])}"
        parts.append(
            f"{where}{prompts_said(setting)}: best {best['language']} {best['spearman']:.1f}, "
            f"worst {worst['language']} {worst['spearman']:.1f}{order}"
        )
    lead = f"{_most(firsts)} scores highest and {_most(lasts)} lowest"
    return f"{lead}. Spearman × 100 of the plain cosine in a single language. {'; '.join(parts)}."


def _most(codes: Sequence[str]) -> str:
    """Return the language that is there most often, and how often, where it is not always there."""
    code, n = Counter(codes).most_common(1)[0]
    name = LANGUAGES[code].name if code in LANGUAGES else code
    return name if n == len(codes) else f"{name} (in {n} of {len(codes)} rankings)"


def overlaps(
    study: Study, task: str, setting: str, component: str, k: int | float
) -> tuple[pd.DataFrame, float]:
    """Return the table of `language_overlap`, and what it would be by chance.

    That is the Jaccard index of two random sets of the mean size, |S|² / d over 2|S| − |S|² / d.
    """
    codes = study.task_languages(task)
    sets = torch.stack(
        [
            consensus_set(study.vectors(task, component, setting=setting, languages=[code]), k)
            for code in codes
        ],
        dim=1,
    ).float()  # [2n, m, d]
    common = sets @ sets.mT
    sizes = sets.sum(-1)
    union = sizes[:, :, None] + sizes[:, None] - common
    overlap = (common / union).nanmean(0).numpy()  # 0 / 0 where both sets are empty
    size = float(sizes.mean())
    by_chance = size**2 / study.model.d_model
    return pd.DataFrame(overlap, codes, codes), by_chance / (2 * size - by_chance)


def overlap_figure(overlap: pd.DataFrame, facts: Facts | str, chance: float) -> go.Figure:
    """Return a heat map of the overlap between the sets of each two languages."""
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
    note = f"two random sets of that size: {chance:.2f}"
    return layout(figure, title, noted(facts, note), 42 * len(overlap) + 200)


def overlap_caption(overlap: pd.DataFrame, chance: float) -> str:
    """Return one line with the mean, the closest and the farthest two languages."""
    upper = overlap.where(np.triu(np.ones(overlap.shape, dtype=bool), 1)).stack()
    (a, b), (c, d) = upper.idxmax(), upper.idxmin()
    common, expected = (2 * value / (1 + value) for value in (upper.mean(), chance))
    return (
        f"Two languages have about {common:.0%} of a text's dimensions in common, where chance "
        f"would give {expected:.0%}. Mean Jaccard index of the sets that two languages select for "
        f"the same text: {upper.mean():.2f} (two random sets of that size: {chance:.2f}); closest "
        f"{a} and {b} {upper.max():.2f}, farthest {c} and {d} {upper.min():.2f}."
    )
