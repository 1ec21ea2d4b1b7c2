"""Scores of similarities against gold ratings: Spearman × 100, intervals, paired differences.

Similarities and gold ratings in, numbers and tidy tables out; models and files are unknown here.
There is one similarity and one gold rating per pair; pairs whose similarity is undefined (NaN) are
left out of a correlation and counted beside it.

Over 400 lines, as one pair, one task, several tasks and several methods share their resampling.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from dysem_lab.bootstrap import (
    LEVEL,
    N_RESAMPLES,
    correlations,
    gaps,
    interval,
    order_of,
    resamples,
    settings_of,
    two_sided,
)
from dysem_lab.errors import InputError
from dysem_lab.inputs import array_of, names_of, one_of, real_number

EXACT = 2**53  # up to here float64 has every whole number
AGGREGATIONS = ("all", "mean", "weighted")
Scores = Float[np.ndarray, " pair"] | Float[Tensor, " pair"]


def spearman(similarity: Scores, gold: Scores) -> float:
    """Return 100 × Spearman's rank correlation, ties ranked by their mean.

    Returns:
        A value in [-100, 100]; NaN, with a warning, where fewer than three pairs are left or one
        side is constant.

    Raises:
        InputError: Lengths differ, a gold rating is NaN, a value is infinite, or what is given is
            no row of real numbers.
    """
    kept_similarity, kept_gold = _defined(similarity, gold)
    once = np.ones((1, len(kept_gold)))
    value = np.nan
    if len(kept_gold) > 2:
        value = float(correlations(kept_similarity, kept_gold, once)[0])
    if np.isnan(value):
        warnings.warn(
            f"Spearman is undefined: {len(kept_gold)} pairs, "
            f"{len(np.unique(kept_similarity))} distinct similarities, "
            f"{len(np.unique(kept_gold))} distinct ratings",
            stacklevel=2,
        )
    return value


def score(
    similarity: Scores,
    gold: Scores,
    n_dims: float | None = None,
    *,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> dict[str, float]:
    """Return one method's score with its 95 % bootstrap interval.

    `n_dims` is the mean size of the joint set over the pairs (#Dim.), or the width of dense
    vectors. The bootstrap resamples pairs; the interval is that of percentiles.

    Returns:
        ``spearman``, ``low``, ``high`` (× 100), ``n_dims``, ``n_pairs`` (those that count),
        ``n_undefined``.

    Raises:
        InputError: As for `spearman`, or no such number of resamples, seed or `n_dims`.
    """
    return average_score([(similarity, gold)], n_dims, seed=seed, n_resamples=n_resamples)


def score_table(
    similarities: Mapping[str, Scores],
    gold: Scores,
    n_dims: Mapping[str, float] | None = None,
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """Return one row per method, in the given order; columns ``method`` and those of `score`.

    Raises:
        InputError: As for `score`, or no mapping from methods to their values.
    """
    dims = {} if n_dims is None else n_dims
    for what, given in (("similarities", similarities), ("n_dims", dims)):
        if not isinstance(given, Mapping):
            raise InputError(f"{what} must map methods to values, got {type(given).__name__}")
    return pd.DataFrame(
        {"method": name, **score(values, gold, dims.get(name), seed=seed)}
        for name, values in similarities.items()
    )


def paired_difference(
    similarity_a: Scores,
    similarity_b: Scores,
    gold: Scores,
    *,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> dict[str, float]:
    """Return how much method a scores above method b on the same pairs, by paired bootstrap.

    Both methods are resampled with the same pairs, so what they share cancels. Pairs that are
    undefined under either are left out of both.

    Returns:
        ``difference`` (a − b, Spearman × 100), ``low``, ``high`` (95 % percentile interval),
        ``p`` (two-sided: twice the smaller share of resamples on either side of zero, at least
        1 / n_resamples), ``n_pairs``, ``n_undefined``.

    Raises:
        InputError: As for `score`, or fewer than three pairs are defined under both methods.
    """
    n_resamples, seed = settings_of(n_resamples, seed)
    kept_a, kept_b, kept_gold = _defined_under_both(similarity_a, similarity_b, gold)
    if len(kept_gold) < 3:
        raise InputError(f"only {len(kept_gold)} pairs are defined under both methods; need 3")
    resampled = gaps(kept_a, kept_b, kept_gold, n_resamples, seed)
    low, high = interval(resampled)
    return {
        "difference": spearman(kept_a, kept_gold) - spearman(kept_b, kept_gold),
        "low": low,
        "high": high,
        "p": two_sided(resampled),
        "n_pairs": len(kept_gold),
        "n_undefined": len(gold) - len(kept_gold),
    }


def mean_with_interval(
    values: Scores,
    *,
    within: tuple[float, float] | None = None,
    seed: int = 0,
    n_resamples: int = 10 * N_RESAMPLES,
) -> dict[str, float]:
    """Return the mean of values, such as paired differences, with its bootstrap interval.

    Args:
        values: One per text or pair; NaN is left out.
        within: The least and the most that a value can be, such as (0, 1) of a share. Where all n
            values are equal, resamples say nothing of others; but these are a share of 0 of n,
            which is up to the end of its Wilson interval, and as far away as they can be.
        seed: Of the bootstrap.
        n_resamples: Number of bootstrap resamples; no p is below its inverse.

    Returns:
        ``mean``, ``low``, ``high`` (95 % percentile interval), ``p`` (two-sided, of a mean of 0: as
        for `paired_difference`); NaN without any value.

    Raises:
        InputError: As for `score`.

    Source: Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    n_resamples, seed = settings_of(n_resamples, seed)
    numbers = _numbers(values, "values")
    kept, _ = _defined(numbers, np.zeros(numbers.size))
    if (np.abs(kept) > 1e100).any():  # sums would leave the range of float64
        raise InputError("values must be between -1e100 and 1e100 to have a mean")
    if not len(kept):
        return dict.fromkeys(("mean", "low", "high", "p"), np.nan)
    resampled = resamples(len(kept), n_resamples, seed) @ kept / len(kept)
    mean, (low, high) = float(kept.mean()), interval(resampled)
    if within is not None and (kept == kept[0]).all():
        others = wilson_interval(0, len(kept))[1]
        low, high = (mean + others * (end - mean) for end in within)
    return {"mean": mean, "low": low, "high": high, "p": two_sided(np.asarray(resampled))}


def wilson_interval(n_successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share.

    Args:
        n_successes: Successes.
        n: Trials, at least 1.
    """
    # Half a second of CPU, which explorers and commands would wait for that ask for no share.
    from scipy.stats import binomtest

    interval = binomtest(n_successes, n).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def holm(p: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """Return p corrected for all tests that have one, by Holm's step-down method; NaN stays.

    Raises:
        InputError: What is given is no row of numbers from 0 to 1.

    Source: Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    p = _numbers(p, "p")
    if p.ndim != 1 or (p < 0).any() or (p > 1).any():
        raise InputError(f"p must be a row of numbers from 0 to 1, got {p!r:.200}")
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    corrected = np.full(len(p), np.nan)
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(factors * p[order]))
    return corrected


def mean_difference(
    name: str,
    draws: Sequence[Tensor],
    against: Sequence[Tensor] | None,
    gold: Float[np.ndarray, " n"],
    seed: int,
    n_resamples: int = N_RESAMPLES,
) -> dict[str, float]:
    """Return the mean paired difference of the draws to one method, and what their intervals span.

    The p is the largest of the draws. NaN where there is nothing to compare with, or fewer than
    three pairs are defined under both.
    """
    paired = [
        paired_difference(similarity, against[0], gold, seed=seed, n_resamples=n_resamples)
        for similarity in draws
        if against is not None and int((similarity + against[0]).isfinite().sum()) >= 3
    ]
    found = pd.DataFrame(paired, columns=["difference", "low", "high", "p"], dtype=np.float64)
    return {
        name: float(found["difference"].mean()),
        f"{name}_low": float(found["low"].min()),
        f"{name}_high": float(found["high"].max()),
        f"{name}_p": float(found["p"].max()),
    }


def average_score(
    tasks: Sequence[tuple[Scores, Scores]],
    n_dims: float | None = None,
    *,
    weights: Sequence[float] | None = None,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> dict[str, float]:
    """Return the mean of several tasks' scores with its 95 % bootstrap interval.

    `tasks` are the similarities and gold ratings of each task, and `weights` one number per task;
    None is the plain mean. The pairs of each task are resampled by themselves: one that is in two
    (STS-B is made of STS12 to STS16) counts as two. Other arguments as for `score`.

    Returns:
        As `score`; the counts are sums over the tasks. NaN without any task, and
        where the score of one is NaN.

    Raises:
        InputError: As for `score`, tasks of another form, or weights that are not one per task, at
            least 0 and somewhere above.
    """
    n_resamples, seed = settings_of(n_resamples, seed)
    width = np.nan if n_dims is None else real_number(n_dims, "n_dims")
    _check_tasks(tasks, ("similarities", "gold ratings"))
    shares = None if weights is None or not tasks else _weights(weights, len(tasks))
    scores = [spearman(similarity, gold) for similarity, gold in tasks]
    kept = [_defined(similarity, gold) for similarity, gold in tasks]
    mean = float(np.average(scores, weights=shares)) if tasks else np.nan
    low = high = np.nan
    if not np.isnan(mean):
        resampled = [
            correlations(x, y, resamples(len(y), n_resamples, seed))[order_of(i, n_resamples, seed)]
            for i, (x, y) in enumerate(kept)
        ]
        low, high = interval(np.average(resampled, axis=0, weights=shares))
    n_pairs = sum(len(y) for _, y in kept)
    n_undefined = sum(len(gold) for _, gold in tasks) - n_pairs
    found = {"spearman": mean, "low": low, "high": high, "n_dims": width}
    return {**found, "n_pairs": n_pairs, "n_undefined": n_undefined}


class Part(NamedTuple):
    """Pairs that one correlation is over: a task, or a subset of it."""

    name: str  # of the subset; "" is the whole task
    similarity: Scores
    gold: Scores
    weight: float  # in the mean over the parts of a task; they sum to 1


def parts_of_task(
    similarity: Scores, gold: Scores, subset: Sequence[str], aggregation: str
) -> list[Part]:
    """Return the parts of a task whose correlations `aggregate_score` averages.

    Arguments and errors as for `aggregate_score`.
    """
    one_of(aggregation, AGGREGATIONS, "aggregation")
    subset = names_of(subset, "subset")
    _defined(similarity, gold)  # its errors count the pairs of the task, not those of a subset
    if len(subset) != len(gold):
        raise InputError(f"{len(subset)} subsets for {len(gold)} pairs; give one per pair")
    if aggregation == "all" or len(gold) == 0:  # without any pair each of them is undefined
        return [Part("", similarity, gold, 1.0)]
    if "" in subset:
        raise InputError(
            f"pair {subset.index('')} has no subset, which {aggregation!r} needs; use 'all' "
            "or data with a 'subset' column (those of the hub have none)"
        )
    x, y, part = _numbers(similarity), _numbers(gold, "gold"), np.asarray(subset)
    weighted = aggregation == "weighted"
    sizes = {name: (part == name).mean() for name in sorted(set(subset))}
    return [
        Part(name, x[part == name], y[part == name], size if weighted else 1 / len(sizes))
        for name, size in sizes.items()
    ]


def aggregate_score(
    similarity: Scores,
    gold: Scores,
    subset: Sequence[str],
    aggregation: str,
    n_dims: float | None = None,
    *,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> dict[str, float | str]:
    """Return one method's score over the subsets of a task, with its 95 % bootstrap interval.

    `subset` names the part of the task that each pair is from (`dysem_lab.STSData.subset`), and
    `aggregation` is "all", one correlation over all pairs (SimCSE, MTEB); "mean", the plain mean of
    the subsets' correlations; or "weighted", their mean weighted by the pairs of each, undefined
    ones too (SentEval's ``mean`` and ``wmean``). For a mean, the pairs of each subset are resampled
    by themselves. Other arguments as for `score`.

    Returns:
        As `score`, and ``aggregation``. A mean is NaN, with a warning that names the subsets, where
        one has no correlation: fewer than three pairs, or a constant side.

    Raises:
        InputError: Unknown aggregation, another number of subsets than pairs, a mean over pairs
            whose subset is unknown (empty), or as for `score`.
    """
    parts = parts_of_task(similarity, gold, subset, aggregation)
    if len(parts) == 1:
        whole = score(similarity, gold, n_dims, seed=seed, n_resamples=n_resamples)
        return {**whole, "aggregation": aggregation}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Spearman is undefined")  # the one below names subsets
        undefined = [part.name for part in parts if np.isnan(spearman(part.similarity, part.gold))]
        averaged = average_score(
            [(part.similarity, part.gold) for part in parts],
            n_dims,
            weights=[part.weight for part in parts],
            seed=seed,
            n_resamples=n_resamples,
        )
    if undefined:
        warnings.warn(
            f"the {aggregation!r} aggregation is undefined: subset {', '.join(undefined)} has no "
            "correlation (fewer than three pairs, or a constant side)",
            stacklevel=2,
        )
    return {**averaged, "aggregation": aggregation}


def average_difference(
    tasks: Sequence[tuple[Scores, Scores, Scores]],
    *,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> dict[str, float]:
    """Return how much method a scores above method b in the mean over several tasks.

    `tasks` are similarities of a, similarities of b and gold ratings of each task, whose pairs are
    resampled by themselves, the same ones for both methods.

    Returns:
        ``difference``, ``low``, ``high`` and ``p``, as `paired_difference`; NaN without any task.

    Raises:
        InputError: As for `average_score`.
    """
    n_resamples, seed = settings_of(n_resamples, seed)
    _check_tasks(tasks, ("similarities of a", "similarities of b", "gold ratings"))
    differences: list[float] = []
    resampled: np.ndarray | float = 0.0
    for i, (a, b, gold) in enumerate(tasks):
        x, y, kept_gold = _defined_under_both(a, b, gold)
        differences.append(spearman(x, kept_gold) - spearman(y, kept_gold))
        if not len(kept_gold):
            resampled = np.nan
            continue
        gap = gaps(x, y, kept_gold, n_resamples, seed)
        resampled = resampled + gap[order_of(i, n_resamples, seed)] / len(tasks)
    if not tasks:
        return dict.fromkeys(("difference", "low", "high", "p"), np.nan)
    low, high = interval(resampled)
    mean = float(np.mean(differences))
    return {"difference": mean, "low": low, "high": high, "p": two_sided(np.asarray(resampled))}


def _check_tasks(tasks: object, parts: Sequence[str]) -> None:
    """Raise `InputError` unless tasks are a list, each with as many values as it should have."""
    if not isinstance(tasks, Sequence) or isinstance(tasks, str):
        raise InputError(f"tasks must be a list of ({', '.join(parts)}), got {tasks!r:.80}")
    for i, values in enumerate(tasks):
        if not isinstance(values, tuple | list) or len(values) != len(parts):
            raise InputError(f"task {i} must be ({', '.join(parts)}), got {values!r:.80}")


def _weights(weights: Sequence[float], n_tasks: int) -> Float[np.ndarray, " task"]:
    """Return the weights of a mean over tasks, once they are known to have one."""
    found = _numbers(weights, "weights")
    if found.shape != (n_tasks,) or not ((found >= 0).all() and found.any()):
        raise InputError(
            f"weights must be {n_tasks}, one per task, at least 0 and not all 0, got {weights!r}"
        )
    with np.errstate(over="ignore"):
        total = found.sum()
    if not 1e-100 < total < 1e100:  # products with scores would leave the range of float64
        raise InputError(f"weights must add up to between 1e-100 and 1e100, got {weights!r}")
    return found


def _numbers(values: object, what: str = "similarity") -> Float[np.ndarray, " n"]:
    """Return values of a tensor, array, column or list as float64, once they are real numbers.

    NaN is one; booleans, strings, objects, complex, masked and infinite numbers are refused.
    """
    if isinstance(values, Tensor) and not values.is_meta:
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values
    array = array_of(values, what)
    if array.dtype.kind not in "fiu":
        raise InputError(
            f"{what} must be real numbers, one per pair, got {array.dtype}; use .astype(float), "
            "and NaN where there is none"
        )
    whole = array.dtype.kind in "iu"
    if whole and not -EXACT <= array.min(initial=0) <= array.max(initial=0) <= EXACT:
        raise InputError(
            f"{what} has whole numbers beyond 2**53, which float64 does not tell apart; "
            "use .astype(float) if that does not matter"
        )
    array = array.astype(np.float64)
    if np.isinf(array).any():
        raise InputError(f"{what} {int(np.isinf(array).argmax())} is infinite; NaN is no value")
    return array


def _defined(similarity: Scores, gold: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Return similarities and ratings of the pairs whose similarity is defined."""
    x, y = _numbers(similarity), _numbers(gold, "gold")
    if x.ndim != 1 or x.shape != y.shape:
        raise InputError(f"similarity has shape {x.shape}, gold {y.shape}; both need one per pair")
    if np.isnan(y).any():
        raise InputError(f"gold rating {int(np.isnan(y).argmax())} is NaN; every pair needs one")
    kept = ~np.isnan(x)
    return x[kept], y[kept]


def _defined_under_both(
    similarity_a: Scores, similarity_b: Scores, gold: Scores
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return two methods' similarities and the ratings of the pairs that both define."""
    a, b = _numbers(similarity_a), _numbers(similarity_b)
    if a.shape != b.shape:
        raise InputError(f"{a.size} and {b.size} similarities: give both methods the same pairs")
    both = np.where(np.isnan(b), np.nan, a)
    kept, kept_gold = _defined(both, gold)
    return kept, b[~np.isnan(both)], kept_gold
