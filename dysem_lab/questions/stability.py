"""How stable are the selected dimensions? Notebook 13."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Bool, Float
from torch import Tensor

from dysem_lab.consensus import consensus_set
from dysem_lab.display import amount
from dysem_lab.errors import InputError
from dysem_lab.prompts import TEMPLATE_NAMES
from dysem_lab.questions.asked import asked, codes_of
from dysem_lab.questions.finding import Facts, Finding, facts_of, sources_of
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.overlap import different_texts, overlap
from dysem_lab.questions.scores import one_prompt, only_task
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import (
    CHANCE,
    PALETTE,
    error_bar,
    interval,
    layout,
    lines_down,
    noted,
    side_by_side,
    texts,
    whiskers,
)

PARAPHRASE = 4.5  # gold ratings from here on count as the same meaning
REFERENCES = (
    ("the second set from another text", "other_text", "#E69F00"),
    ("two random sets", "chance", CHANCE),
)


def stability(
    study: Study,
    languages: Sequence[str],
    *,
    component: str = "attn",
    k: int | float = 0.25,
    seed: int = 0,
    others: Mapping[str, Mapping[str, Study]] | None = None,
) -> Finding:
    """Say how far S(x) stays the same when something about the text changes.

    ``varied`` is "language" (the top k of each language alone, every two languages), "one language
    less" (S(x) with and without a language), "gold" (S(x) against S(y) of the pairs rated 0–1, …,
    4–5, and those from 4.5, which are paraphrases), and the keys of ``others``.

    Args:
        study: Of one task. Its first template and first prompt setting are used.
        languages: 𝓛.
        component: Internal vector.
        k: Dimensions per text, or fraction of d.
        seed: Of the intervals and of the drawing of another text.
        others: What else is varied → name → a study in which it has that value, such as
            ``{"dtype": {"float32": a, "bfloat16": b}}``; every two of the same key are compared, in
            their own first template and setting. They need this task on the same pairs as each
            other, which may be fewer than in `study`.

    Returns:
        One row per ``varied`` and ``level`` with ``jaccard`` (mean over texts, or pairs for
        "gold"), ``low``, ``high`` (its 95 % bootstrap interval), ``other_text`` (the same
        comparison with the second set from another text, drawn at random: what sets have in common
        whatever the text), ``chance`` (expected of two random sets of the same sizes), ``size``
        (mean size of the sets), ``n`` (texts or pairs that count: different English texts, and
        pairs of two different ones) and ``n_undefined`` (both sets empty; left out).

    Raises:
        InputError: Several tasks, a name that the study does not have, fewer than two different
            texts, or other studies with different pairs.
    """
    given = asked(study, languages=languages, component=component, k=k, seed=seed)
    task = only_task(study)
    if not isinstance(others, Mapping | None):
        raise InputError(f"others must be such as {{'dtype': {{name: study}}}}, got {others!r:.80}")
    others = {varied: studies for varied, studies in (others or {}).items() if studies}
    if (n := len(different_texts(study.texts(task, "en")))) < 2:
        raise InputError(f"{task} has {n} different texts; stability needs at least 2")
    for varied, studies in others.items():
        if len({tuple(other.texts(task, "en")) for other in studies.values()}) > 1:
            raise InputError(f"the studies that vary the {varied} have different pairs of {task}")
    changed = [one for studies in others.values() for one in studies.values()]
    for one in changed:
        codes_of(one, languages)
    prepare(study.needs(component), *(one.needs(component) for one in changed))
    scores = table(study, task, **given, others=others)
    of_study = facts_of(study, **one_prompt(study, given))
    on = "".join(
        f", {_kind(varied)} on {amount(len(next(iter(studies.values())).data[task]), 'pair')}"
        for varied, studies in others.items()
    )
    recorded = {
        varied: {
            name: {**facts_of(one).recorded, "dtype": one.model.dtype, "data": sources_of(one)}
            for name, one in studies.items()
        }
        for varied, studies in others.items()
    }
    facts = replace(
        of_study, data=of_study.data + on, recorded={**of_study.recorded, "varied": recorded}
    )
    return Finding("stability", scores, figure(scores, facts), caption(scores), facts)


def table(
    study: Study,
    task: str,
    languages: Sequence[str],
    component: str,
    k: int | float,
    seed: int,
    others: Mapping[str, Mapping[str, Study]],
) -> pd.DataFrame:
    """Return the table of `stability`."""
    x = study.vectors(task, component, languages=languages)
    sentences = study.texts(task, "en")
    unique = different_texts(sentences)
    sets, once = consensus_set(x, k), x[unique]
    rows: list[dict[str, object]] = []

    def compare(varied: str, level: str, A: Tensor, B: Tensor) -> None:
        rows.append({"varied": varied, "level": level, **overlap(A, B, seed)})

    alone = [consensus_set(once[:, [i]], k) for i in range(len(languages))]
    for i, j in combinations(range(len(languages)), 2):
        compare("language", f"{languages[i]} / {languages[j]}", alone[i], alone[j])
    if len(languages) > 1:
        for i, code in enumerate(languages):
            rest = [j for j in range(len(languages)) if j != i]
            fewer = consensus_set(once[:, rest], k)
            compare("one language less", f"without {code}", sets[unique], fewer)
    n_pairs, gold = len(sentences) // 2, study.data[task].gold
    both = zip(sentences[:n_pairs], sentences[n_pairs:], strict=True)
    different = np.array([a != b for a, b in both])
    for level, rated in _gold_bins(gold).items():
        pairs = np.flatnonzero(rated & different)
        if len(pairs):
            compare("gold", level, sets[pairs], sets[n_pairs + pairs])
    for varied, studies in others.items():
        read = {
            name: consensus_set(other.vectors(task, component, languages=languages), k)
            for name, other in studies.items()
        }
        for a, b in combinations(studies, 2):
            at = different_texts(studies[a].texts(task, "en"))
            names = (TEMPLATE_NAMES.get(name, name) for name in (a, b))
            compare(varied, " / ".join(names), read[a][at], read[b][at])
    return pd.DataFrame(rows)


def _gold_bins(gold: Float[np.ndarray, " n"]) -> dict[str, Bool[np.ndarray, " n"]]:
    """Return which pairs are rated 0–1, …, 4–5 (the last with its upper end), and from 4.5."""
    bins = {f"{i}–{i + 1}": (gold >= i) & ((gold < i + 1) | (i == 4)) for i in range(5)}
    return {**bins, f"≥ {PARAPHRASE}": gold >= PARAPHRASE}


def figure(table: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return how much sets overlap when the language, prompt or data type changes, and by gold."""
    kinds = [kind for kind in table["varied"].unique() if kind != "gold"]
    titles = ["same text, something else changed", "two texts, by how similar they are"]
    figure = side_by_side(titles, [0.55, 0.45], 0.11, shared_yaxes=False)
    # The largest values of a row are lowest in it: its dots make a slope with room for text.
    for i, kind in enumerate(kinds):
        part = table[table["varied"] == kind].sort_values("jaccard")
        y = i + np.linspace(-0.3, 0.3, len(part)) if len(part) > 1 else np.array([i])
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
        for name, column, colour in REFERENCES:
            figure.add_scatter(
                x=[part[column].mean()] * 2,
                y=[i - 0.3, i + 0.3],  # no farther, where the names of dots begin
                showlegend=i == 0,
                hovertemplate=f"{name}: %{{x:.3f}}",
                **_line(name, colour, 1),
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
    values = gold["jaccard"].map("{:.2f}".format)
    texts(figure, gold["level"], gold["high"], values, "top center", row=1, col=2)
    for name, column, colour in REFERENCES:
        line = _line(name, colour, 2)
        figure.add_scatter(x=gold["level"], y=gold[column], showlegend=not kinds, **line)
    labels = [_kind(kind).replace("language less", "language<br>less") for kind in kinds]
    lines_down(figure, labels, col=1)
    figure.update_xaxes(title="Jaccard index of the sets", range=[0, 1.08], col=1)
    figure.update_yaxes(title="Jaccard index of S(x) and S(y)", range=[0, 1.02], col=2)
    figure.update_xaxes(title="gold similarity of the pair", type="category", col=2)
    title = "How stable are the sets of selected dimensions?"
    height = max(480, 120 * len(kinds) + 230)
    return layout(figure, title, noted(facts, whiskers(table)), height)


def _kind(varied: object) -> str:
    """Return what is varied in words."""
    return "data type" if varied == "dtype" else str(varied)


def _line(name: str, colour: str, column: int) -> dict[str, Any]:
    """Return how a reference is drawn in a panel."""
    line = {"mode": "lines", "line": {"color": colour, "width": 3}}
    return {**line, "name": name, "legendgroup": name, "row": 1, "col": column}


def caption(table: pd.DataFrame) -> str:
    """Return one line: mean, lowest and highest overlap of each kind of change."""
    parts = []
    for kind, rows in table[table["varied"] != "gold"].groupby("varied", sort=False):
        low, high = rows.loc[rows["jaccard"].idxmin()], rows.loc[rows["jaccard"].idxmax()]
        text = f"{_kind(kind)} {rows['jaccard'].mean():.2f}"
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
    paraphrases = "".join(
        f"; paraphrases {interval(row, 'jaccard', of='.2f')} against {row['other_text']:.2f} with "
        "another text"
        for _, row in same.iterrows()
    )
    means = table[table["varied"] != "gold"].groupby("varied")["jaccard"].mean()
    lead = ""
    if len(means) > 1:
        most, least = _kind(means.idxmin()), _kind(means.idxmax())
        lead = f"The sets change most with {most}, least with {least}. "
    return (
        f"{lead}Mean Jaccard index of the selected sets when one thing changes: "
        f"{'. '.join(parts)}. "
        f"Two texts of a pair by gold similarity: {', '.join(rated)}{paraphrases}."
    )
