"""Is an attribution true? Words are removed in its order, and the similarity is followed.

Notebook 28. What a word adds to a similarity is a hypothesis; that the similarity falls without the
word is a fact. Each way of scoring words is judged by how much faster than in random orders the
similarity falls as words are removed in its order, and rises as they are put in.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from dysem_lab.attribution import area_above
from dysem_lab.display import bar
from dysem_lab.encoders.dysem import DySem
from dysem_lab.errors import InputError
from dysem_lab.evaluate import holm, mean_with_interval, spearman
from dysem_lab.inputs import at_least
from dysem_lab.models.parts import require_split
from dysem_lab.questions.asked import asked
from dysem_lab.questions.faithfulness_passes import (
    FROZEN,
    GRADIENT,
    INTEGRATED,
    JACOBIAN,
    LEFT_OUT,
    METHODS,
    RANDOM,
    REMOVALS,
    ROLLOUT,
    SETS,
    SUM,
    TEXT,
    Pair,
    Plan,
    Removals,
)
from dysem_lab.questions.faithfulness_picture import DELETION, INSERTION, MAIN, caption, figure
from dysem_lab.questions.finding import Finding, facts_of
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.reference import corpus_of
from dysem_lab.questions.scores import only_task
from dysem_lab.questions.study import Study

CURVES = (DELETION, INSERTION)
N_FAILING = 10


@dataclass(frozen=True, repr=False)
class Faithfulness(Finding):
    """A finding about orders of words.

    Attributes:
        curves: Mean similarity at each fraction of removed words: a row per ``removal``, ``sets``,
            ``curve``, ``method`` and ``fraction``.
        pairs: A row per pair and method: its ``area`` under the main row's conditions, in
            similarity, its ``drop``, and the words in the method's order.
        failing: The pairs in which the order of the exact sum does worst beside random orders.
    """

    curves: pd.DataFrame
    pairs: pd.DataFrame
    failing: pd.DataFrame


def faithfulness(
    study: Study,
    k: int | float = 0.25,
    component: str = "attn",
    *,
    centre: object = "demo",
    integrated: int | None = None,
    jacobian: int = 20,
    steps: int = 50,
    n_points: int = 4,
    n_random: int = 3,
    seed: int = 0,
) -> Faithfulness:
    """Remove words in the order of each attribution, and follow the centred similarity.

    English alone: the similarity is that of DySem with one language, centred on a corpus, and words
    are removed from the first text of each pair. They are removed in two ways: dropped from the
    ``text``, which runs anew; or from what the last token reads (``reading``: z alone, at every
    block and head), with the corpus mean in their place. U is that of the whole texts (``frozen``)
    or selected ``anew``. A word's score is the sum over its tokens.

    Args:
        study: Of one task. Its first template is used, in English.
        k: Dimensions per text, or a fraction of d.
        component: As for `DySem`; one that is a sum over tokens.
        centre: As for `dysem_lab.explain`; not None.
        integrated: How many pairs, drawn at random, have integrated gradients; None is all.
        jacobian: How many of these have the Jacobian's order too.
        steps: Of integrated gradients, from the mean embedding of the corpus's tokens.
        n_points: All words are removed in so many equal steps.
        n_random: Random orders of each text; their mean is what each order is compared with.
        seed: Of the random orders, the draw of `integrated`, and the bootstraps.

    Returns:
        One row per ``removal``, ``sets``, ``curve`` ("deletion", "insertion") and ``method``:
        ``area``, ``low``, ``high``: the area between the curve and that of random orders, positive
        where the order is better, divided by the mean drop (the similarity of the whole text minus
        that without any word); ``n_pairs``; ``drop``; ``worse``, the share of pairs in which the
        order does worse than random ones; ``ahead``, ``ahead_low``, ``ahead_high``, ``p``: the area
        of the exact sum minus that of the method on the same pairs, and ``p_holm``, corrected for
        all rows that have one; ``passes``, forward and backward passes over a text; ``rank``,
        ``rank_low``, ``rank_high``: Spearman's correlation (from -1 to 1) with leave-one-out over
        the words of a text, its mean over the texts that have one. Intervals are 95 % bootstraps
        over pairs. "random" is one of the orders against the others.

    Raises:
        InputError: Several tasks, numbers out of range, no corpus, or a component that is no sum
            over tokens.
        ModelError: As for `dysem_lab.explain`.

    Source: deletion and insertion, Petsiuk et al. (arXiv 1806.07421); integrated gradients,
        Sundararajan et al. (arXiv 1703.01365); integrated Jacobians, Moeller et al.
        (arXiv 2310.05703); rollout, Abnar and Zuidema (arXiv 2005.00928).
    """
    given = asked(study, k=k, component=component, steps=steps, n_points=n_points)
    given |= {"n_random": at_least(n_random, 2, "n_random"), **asked(study, seed=seed)}
    unsaid = {**asked(study, jacobian=jacobian), "integrated": integrated}
    require_split(component, "token")
    task = only_task(study)
    data = study.data[task]
    n = len(data)
    if centre is None:
        raise InputError("what is removed is replaced by a corpus mean; give centre a corpus")
    n_integrated = n if integrated is None else min(n, at_least(integrated, 0, "integrated"))
    order = np.random.default_rng(seed).permutation(n).tolist()
    drawn = frozenset(order[:n_integrated])
    few = frozenset(order[: min(n_integrated, jacobian)])
    plan = Plan(n_points, n_random, steps, drawn, few, seed)
    prepare(study.needs(()), runs_the_model=True)
    template = study.templates[0]
    encoder = DySem(study.lens, ["en"], None, k, component, template, setting="english")
    first, second = data.sentences["en"]
    corpus = corpus_of(centre, encoder.languages, "en")
    pairs = Removals(encoder, first, second, corpus, plan, bar(True)).measure()
    found = measured(pairs, plan)
    table, curves = _table(pairs, plan, found), _curves(pairs, plan)
    of_pairs = _of_pairs(pairs, found, first, second)
    failing = _failing(of_pairs)
    facts = facts_of(study, **given)
    recorded: dict[str, Any] = {"corpus": corpus.name, "corpus_digest": corpus.digest}
    recorded["failing"] = failing.to_dict("records")
    unsaid["centre"] = corpus.name
    facts = replace(facts, unsaid=unsaid, recorded={**facts.recorded, **recorded})
    drawn_figure = figure(table, curves, facts)
    return Faithfulness(
        "faithfulness", table, drawn_figure, caption(table), facts, curves, of_pairs, failing
    )


Areas = dict[tuple[str, str, str, str], Float[np.ndarray, " pairs"]]


def measured(pairs: Sequence[Pair], plan: Plan) -> tuple[Areas, Float[np.ndarray, "2 2 pairs"]]:
    """Return the area of each order beside random ones, and the drop, of every pair.

    Returns:
        (removal, sets, curve, method) → area in similarity, NaN where a pair has no scores of it;
        and the drop, by removal and sets.
    """
    areas: Areas = {}
    drops = np.zeros((len(REMOVALS), len(SETS), len(pairs)))
    for i, pair in enumerate(pairs):
        for r, removal in enumerate(REMOVALS):
            for s, sets in enumerate(SETS):
                by_method = _of_pair(pair, plan, removal, sets)
                random = by_method.pop(RANDOM)
                drops[r, s, i] = random[0, 0] - random[0, -1]
                for method, (falling, rising) in by_method.items():
                    mean = random.mean(0)
                    found = {
                        DELETION: area_above(mean, falling, plan.fractions),
                        INSERTION: area_above(rising, mean[::-1], plan.fractions),
                    }
                    for curve, area in found.items():
                        key = removal, sets, curve, method
                        areas.setdefault(key, np.full(len(pairs), np.nan))[i] = area
                one, others = random[0], random[1:].mean(0)
                beside = float(area_above(others, one, plan.fractions))
                # An insertion in the reversed order goes the same way back.
                for curve, value in ((DELETION, beside), (INSERTION, -beside)):
                    key = removal, sets, curve, RANDOM
                    areas.setdefault(key, np.full(len(pairs), np.nan))[i] = value
    return areas, drops


def _of_pair(
    pair: Pair, plan: Plan, removal: str, sets: str
) -> dict[str, Float[np.ndarray, "curves points"]]:
    """Return method → its deletion and its insertion curve; the deletions in random orders."""
    counts = plan.counts(len(pair.words))
    found = {
        method: np.stack(
            [
                pair.curve(removal, sets, np.array(pair.scores[method]), counts, inserted=inserted)
                for inserted in (False, True)
            ]
        )
        for method in METHODS
        if method in pair.scores
    }
    random = [
        pair.curve(removal, sets, scores, counts) for scores in plan.random_orders(pair.words)
    ]
    return {**found, RANDOM: np.stack(random)}


def _table(
    pairs: Sequence[Pair], plan: Plan, found: tuple[Areas, Float[np.ndarray, "2 2 pairs"]]
) -> pd.DataFrame:
    """Return the table of `faithfulness`."""
    areas, drops = found
    rank = {method: _rank(pairs, method, plan.seed) for method in (*METHODS, RANDOM)}
    passes = _passes(pairs, plan)
    rows = []
    for (removal, sets, curve, method), area in areas.items():
        there = ~np.isnan(area)
        drop = float(drops[REMOVALS.index(removal), SETS.index(sets)][there].mean())
        mean = mean_with_interval(area / drop, seed=plan.seed)
        ahead = mean_with_interval(
            (areas[removal, sets, curve, SUM] - area) / drop
            if method != SUM
            else np.full(len(area), np.nan),
            seed=plan.seed,
        )
        row: dict[str, Any] = {"removal": removal, "sets": sets, "curve": curve, "method": method}
        row |= {"area": mean["mean"], "low": mean["low"], "high": mean["high"]}
        row |= {"n_pairs": int(there.sum()), "drop": drop, "worse": float((area[there] < 0).mean())}
        row |= {"ahead": ahead["mean"], "ahead_low": ahead["low"], "ahead_high": ahead["high"]}
        rows.append({**row, "p": ahead["p"], "passes": passes[method], **rank[method]})
    table = pd.DataFrame(rows)
    table.insert(table.columns.get_loc("p") + 1, "p_holm", holm(table["p"].to_numpy()))
    order = {name: i for i, name in enumerate((*REMOVALS, *SETS, *CURVES, *METHODS, RANDOM))}
    keys = ["removal", "sets", "curve", "method"]
    return table.sort_values(keys, key=lambda column: column.map(order), ignore_index=True)


def _passes(pairs: Sequence[Pair], plan: Plan) -> dict[str, float]:
    """Return method → forward and backward passes over a text, beside those of the corpus."""
    words = float(np.mean([len(pair.words) for pair in pairs]))
    return {
        SUM: 1,
        GRADIENT: 2,
        INTEGRATED: 2 * plan.steps,
        JACOBIAN: 2 * plan.steps,
        ROLLOUT: 1,
        LEFT_OUT: 1 + words,
        RANDOM: 0,
    }


def _rank(pairs: Sequence[Pair], method: str, seed: int) -> dict[str, float]:
    """Return the mean rank correlation of a method's scores with leave-one-out."""
    values = np.full(len(pairs), np.nan)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Spearman is undefined")
        for i, pair in enumerate(pairs):
            if method in pair.scores and method != LEFT_OUT:
                values[i] = spearman(np.array(pair.scores[method]), np.array(pair.scores[LEFT_OUT]))
    mean = mean_with_interval(values / 100, seed=seed)
    return {"rank": mean["mean"], "rank_low": mean["low"], "rank_high": mean["high"]}


def _curves(pairs: Sequence[Pair], plan: Plan) -> pd.DataFrame:
    """Return the mean curves."""
    sums: dict[tuple[str, str, str, str], list[Float[np.ndarray, " points"]]] = {}
    for pair in pairs:
        for removal in REMOVALS:
            for sets in SETS:
                for method, both in _of_pair(pair, plan, removal, sets).items():
                    falling, rising = both[0], both[1]
                    if method == RANDOM:
                        falling, rising = both.mean(0), both.mean(0)[::-1]
                    sums.setdefault((removal, sets, DELETION, method), []).append(falling)
                    sums.setdefault((removal, sets, INSERTION, method), []).append(rising)
    rows = [
        {
            **dict(zip(("removal", "sets", "curve", "method"), key, strict=True)),
            "fraction": fraction,
            "similarity": value,
            "n_pairs": len(curves),
        }
        for key, curves in sums.items()
        for fraction, value in zip(plan.fractions, np.nanmean(curves, 0), strict=True)
    ]
    return pd.DataFrame(rows)


def _of_pairs(
    pairs: Sequence[Pair],
    found: tuple[Areas, Float[np.ndarray, "2 2 pairs"]],
    first: Sequence[str],
    second: Sequence[str],
) -> pd.DataFrame:
    """Return a row per pair and method, under the main row's conditions."""
    areas, drops = found
    rows = []
    for i, (pair, x, y) in enumerate(zip(pairs, first, second, strict=True)):
        whole = pair.similarity[TEXT]["1" * len(pair.words)][SETS.index(FROZEN)]
        about: dict[str, Any] = {"pair": i, "x": x, "y": y, "similarity": whole}
        about["drop"] = drops[REMOVALS.index(TEXT), SETS.index(FROZEN), i]
        for method, scores in pair.scores.items():
            order = np.argsort(-np.array(scores), kind="stable")
            words = " > ".join(pair.words[word] for word in order)
            rows.append({**about, "method": method, "area": areas[(*MAIN, method)][i]})
            rows[-1]["order"] = words
    return pd.DataFrame(rows)


def _failing(of_pairs: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs in which the exact sum does worst, beside what wins there."""
    own = of_pairs[of_pairs["method"] == SUM].set_index("pair")
    ranked = of_pairs.sort_values("area", ascending=False, kind="stable")
    best = ranked.drop_duplicates("pair").set_index("pair")
    table = own.drop(columns="method").assign(
        best=best["method"], best_area=best["area"], best_order=best["order"]
    )
    worst = table[table["area"] < 0].sort_values("area", kind="stable")
    return worst.head(N_FAILING).reset_index()
