"""Scores of similarities against gold ratings: Spearman × 100, intervals, paired differences.

Similarities and gold ratings in, numbers and tidy tables out; models and files are unknown here.
Pairs whose similarity is undefined (NaN) are left out of a correlation and counted beside it.
"""

import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from dysem_lab.errors import InputError
from dysem_lab.inputs import array_of, at_least, names_of, one_of, real_number

N_RESAMPLES = 1000
LEVEL = 0.95
EXACT = 2**53  # up to here float64 has every whole number
AGGREGATIONS = ("all", "mean", "weighted")
MOST_DRAWS = 2**28  # pairs in all resamples together, which are 2 GB
Scores = Float[np.ndarray, " pair"] | Float[Tensor, " pair"]


def spearman(similarity: Scores, gold: Scores) -> float:
    """Return 100 × Spearman's rank correlation, ties ranked by their mean.

    Args:
        similarity: One value per pair; NaN marks an undefined pair, which is left out.
        gold: Gold scores of the same pairs.

    Returns:
        A value in [-100, 100]; NaN, with a warning, where fewer than three pairs are left or one
        side is constant.

    Raises:
        InputError: Lengths differ, a gold rating is NaN, a value is infinite, or what is given is
            no row of real numbers.
    """
    kept_similarity, kept_gold = _defined(similarity, gold)
    once = np.ones((1, len(kept_gold)))
    value = (
        float(_correlations(kept_similarity, kept_gold, once)[0]) if len(kept_gold) > 2 else np.nan
    )
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

    Args:
        similarity: One value per pair, NaN where undefined.
        gold: Gold scores of the same pairs.
        n_dims: Mean size of the joint set over the pairs (#Dim.), or the width of dense vectors.
        seed: Of the bootstrap, which resamples pairs.
        n_resamples: Number of bootstrap resamples (percentile interval).

    Returns:
        ``spearman``, ``low``, ``high`` (× 100), ``n_dims``, ``n_pairs`` (those that count),
        ``n_undefined``.

    Raises:
        InputError: As for `spearman`, or no such number of resamples, seed or `n_dims`.
    """
    n_resamples, seed = _bootstrap(n_resamples, seed)
    width = np.nan if n_dims is None else real_number(n_dims, "n_dims")
    kept_similarity, kept_gold = _defined(similarity, gold)
    value = spearman(similarity, gold)
    low = high = np.nan
    if not np.isnan(value):
        counts = _resamples(len(kept_gold), n_resamples, seed)
        low, high = _interval(_correlations(kept_similarity, kept_gold, counts))
    return {
        "spearman": value,
        "low": low,
        "high": high,
        "n_dims": width,
        "n_pairs": len(kept_gold),
        "n_undefined": len(gold) - len(kept_gold),
    }


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
    n_resamples, seed = _bootstrap(n_resamples, seed)
    kept_a, kept_b, kept_gold = _defined_under_both(similarity_a, similarity_b, gold)
    if len(kept_gold) < 3:
        raise InputError(f"only {len(kept_gold)} pairs are defined under both methods; need 3")
    counts = _resamples(len(kept_gold), n_resamples, seed)
    resampled = _correlations(kept_a, kept_gold, counts) - _correlations(kept_b, kept_gold, counts)
    resampled = resampled[~np.isnan(resampled)]
    low, high = _interval(resampled) if len(resampled) else (np.nan, np.nan)
    tail = np.nan if not len(resampled) else min((resampled <= 0).mean(), (resampled >= 0).mean())
    return {
        "difference": spearman(kept_a, kept_gold) - spearman(kept_b, kept_gold),
        "low": low,
        "high": high,
        "p": float(np.clip(2 * tail, 1 / n_resamples, 1.0)),
        "n_pairs": len(kept_gold),
        "n_undefined": len(gold) - len(kept_gold),
    }


def mean_difference(
    name: str,
    draws: Sequence[Tensor],
    against: Sequence[Tensor] | None,
    gold: Float[np.ndarray, " n"],
    seed: int,
) -> dict[str, float]:
    """Return the mean paired difference of the draws to one method, and what their intervals span.

    NaN where there is nothing to compare with, or fewer than three pairs are defined under both.
    """
    differences = pd.DataFrame(
        {name: np.nan, f"{name}_low": np.nan, f"{name}_high": np.nan}, index=range(len(draws))
    )
    for i, similarity in enumerate(draws):
        if against is not None and int((similarity + against[0]).isfinite().sum()) >= 3:
            paired = paired_difference(similarity, against[0], gold, seed=seed)
            differences.loc[i] = [paired[column] for column in ("difference", "low", "high")]
    return {
        name: float(differences[name].mean()),
        f"{name}_low": float(differences[f"{name}_low"].min()),
        f"{name}_high": float(differences[f"{name}_high"].max()),
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

    Args:
        tasks: Similarities and gold ratings of each task.
        n_dims: Mean over the tasks of #Dim.
        weights: One per task; None is the plain mean.
        seed: Of the bootstrap, which resamples the pairs of each task by themselves. A pair that is
            in two tasks (STS-B is made of STS12 to STS16) counts as two.
        n_resamples: Number of bootstrap resamples (percentile interval).

    Returns:
        As `dysem_lab.evaluate.score`; the counts are sums over the tasks. NaN without any task, and
        where the score of one is NaN.

    Raises:
        InputError: As for `dysem_lab.evaluate.score`, tasks of another form, or weights that are
            not one per task, at least 0 and somewhere above.
    """
    n_resamples, seed = _bootstrap(n_resamples, seed)
    width = np.nan if n_dims is None else real_number(n_dims, "n_dims")
    _check_tasks(tasks, ("similarities", "gold ratings"))
    shares = None if weights is None or not tasks else _weights(weights, len(tasks))
    scores = [spearman(similarity, gold) for similarity, gold in tasks]
    kept = [_defined(similarity, gold) for similarity, gold in tasks]
    mean = float(np.average(scores, weights=shares)) if tasks else np.nan
    low = high = np.nan
    if not np.isnan(mean):
        resampled = []
        for i, (x, y) in enumerate(kept):
            counts = _resamples(len(y), n_resamples, seed)
            # One seed draws related pairs in all tasks; in another order they are independent.
            order = np.random.default_rng([seed, i]).permutation(n_resamples)
            resampled.append(_correlations(x, y, counts)[order])
        low, high = _interval(np.average(resampled, axis=0, weights=shares))
    n_pairs = sum(len(y) for _, y in kept)
    return {
        "spearman": mean,
        "low": low,
        "high": high,
        "n_dims": width,
        "n_pairs": n_pairs,
        "n_undefined": sum(len(gold) for _, gold in tasks) - n_pairs,
    }


class Part(NamedTuple):
    """Pairs that one correlation is over: a task, or a subset of it.

    Attributes:
        name: Of the subset; "" is the whole task.
        similarity: One value per pair, NaN where undefined.
        gold: Gold scores of the same pairs.
        weight: In the mean over the parts of a task; they sum to 1.
    """

    name: str
    similarity: Scores
    gold: Scores
    weight: float


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
    names = sorted(set(subset))
    shares = {
        name: (part == name).mean() if aggregation == "weighted" else 1 / len(names)
        for name in names
    }
    return [Part(name, x[part == name], y[part == name], shares[name]) for name in names]


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

    Args:
        similarity: One value per pair, NaN where undefined.
        gold: Gold scores of the same pairs.
        subset: Name of the part of the task that each pair is from (`dysem_lab.STSData.subset`).
        aggregation: "all", one correlation over all pairs (SimCSE, MTEB); "mean", the plain mean
            of the subsets' correlations, or "weighted", their mean weighted by the pairs of each,
            undefined ones too (SentEval's ``mean`` and ``wmean``).
        n_dims: As for `score`.
        seed: Of the bootstrap, which resamples the pairs, for a mean those of each subset by
            themselves.
        n_resamples: Number of bootstrap resamples (percentile interval).

    Returns:
        As `score`, and ``aggregation``. A mean is NaN, with a warning that names the subsets, where
        one has no correlation: fewer than three pairs, or a constant side.

    Raises:
        InputError: Unknown aggregation, another number of subsets than pairs, a mean over pairs
            whose subset is unknown (empty), or as for `spearman`.
    """
    parts = parts_of_task(similarity, gold, subset, aggregation)
    if len(parts) == 1:
        whole = score(similarity, gold, n_dims, seed=seed, n_resamples=n_resamples)
        return {**whole, "aggregation": aggregation}
    pairs = [(part.similarity, part.gold) for part in parts]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Spearman is undefined")  # the one below names subsets
        undefined = [part.name for part in parts if np.isnan(spearman(part.similarity, part.gold))]
        averaged = average_score(
            pairs,
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

    Args:
        tasks: Similarities of a, similarities of b and gold ratings of each task.
        seed: Of the bootstrap, which resamples the pairs of each task by themselves, the same ones
            for both methods.
        n_resamples: Number of bootstrap resamples (percentile interval).

    Returns:
        ``difference``, ``low``, ``high``; NaN without any task.

    Raises:
        InputError: As for `dysem_lab.evaluate.score`, or tasks of another form.
    """
    n_resamples, seed = _bootstrap(n_resamples, seed)
    _check_tasks(tasks, ("similarities of a", "similarities of b", "gold ratings"))
    differences: list[float] = []
    resampled: np.ndarray | float = 0.0
    for i, (a, b, gold) in enumerate(tasks):
        x, y, kept_gold = _defined_under_both(a, b, gold)
        differences.append(spearman(x, kept_gold) - spearman(y, kept_gold))
        if not len(kept_gold):
            resampled = np.nan
            continue
        counts = _resamples(len(kept_gold), n_resamples, seed)
        gap = _correlations(x, kept_gold, counts) - _correlations(y, kept_gold, counts)
        order = np.random.default_rng([seed, i]).permutation(n_resamples)
        resampled = resampled + gap[order] / len(tasks)
    low, high = _interval(resampled) if tasks else (np.nan, np.nan)
    mean = float(np.mean(differences)) if tasks else np.nan
    return {"difference": mean, "low": low, "high": high}


def _bootstrap(n_resamples: int, seed: int) -> tuple[int, int]:
    """Return how often pairs are resampled and by which seed, once they are known to be numbers."""
    return at_least(n_resamples, 1, "n_resamples"), at_least(seed, 0, "seed")


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
    """Return values as float64, once they are known to be real numbers, or NaN.

    Args:
        values: A tensor of any kind, an array, a column of a table, or a list.
        what: What an error calls them.

    Raises:
        InputError: Booleans, strings, objects, complex or masked numbers, or an infinite one.
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
    if (
        array.dtype.kind in "iu"
        and array.size
        and not -EXACT <= array.min() <= array.max() <= EXACT
    ):
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


@lru_cache(maxsize=4)
def _resamples(n_pairs: int, n_resamples: int, seed: int) -> np.ndarray:
    """Return how often each pair is drawn ``[resample, pair]``, with replacement."""
    if n_pairs * n_resamples > MOST_DRAWS:
        raise InputError(
            f"n_resamples={n_resamples} of {n_pairs} pairs do not fit into memory; use "
            f"{MOST_DRAWS // n_pairs} at most"
        )
    rows = np.random.default_rng(seed).integers(0, n_pairs, size=(n_resamples, n_pairs))
    return np.stack([np.bincount(row, minlength=n_pairs) for row in rows]).astype(np.float64)


def _correlations(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return 100 × Spearman of each resample; NaN where a side is constant.

    A resample is given by how often each pair is in it, so its ranks are a cumulative sum over the
    pairs in sorted order: exactly the ranks of the drawn pairs, without sorting each resample.
    """
    values = []
    for chunk in np.array_split(counts, max(1, counts.size // 1_000_000)):  # bounds the memory
        rank_x, rank_y = _ranks(x, chunk), _ranks(y, chunk)
        total = chunk.sum(axis=1, keepdims=True)
        rank_x -= (total + 1) / 2  # the mean rank, whatever the ties
        rank_y -= (total + 1) / 2
        weighted = chunk * rank_x
        covariance = (weighted * rank_y).sum(1)
        scale = np.sqrt((weighted * rank_x).sum(1) * (chunk * rank_y**2).sum(1))
        # A constant side has equal ranks, whose distance from their mean is rounding at most.
        constant = scale < 1e-9 * total[:, 0] ** 2
        values.append(100 * covariance / np.where(constant, np.nan, scale))
    return np.concatenate(values)


def _ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the rank of each pair in each resample ``[resample, pair]``, ties by their mean."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    if len(sizes) < len(values):
        order = np.argsort(group, kind="stable")
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        grouped = np.add.reduceat(counts[:, order], starts, axis=1)
    else:
        grouped = np.empty_like(counts)
        grouped[:, group] = counts
    ranks = np.cumsum(grouped, axis=1) - (grouped - 1) / 2
    return ranks[:, group]


def _interval(resampled: np.ndarray | float) -> tuple[float, float]:
    """Return the percentile interval at `LEVEL`; NaN where no resample has a value."""
    if np.isnan(resampled).all():
        return np.nan, np.nan
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(resampled, [tail, 1 - tail])
    return float(low), float(high)
