"""Spearman's correlation over resampled pairs: what every interval of the package is made of."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float

from dysem_lab.errors import InputError
from dysem_lab.inputs import at_least, seed_of

N_RESAMPLES = 1000
MANY = 10 * N_RESAMPLES  # no p is below its inverse, which Holm's factor leaves room for
LEVEL = 0.95
MOST_DRAWS = 2**28  # pairs in all resamples together, which are 2 GB


def settings_of(n_resamples: int, seed: int) -> tuple[int, int]:
    """Return how often pairs are resampled and by which seed, once they are known to be numbers."""
    return at_least(n_resamples, 1, "n_resamples"), seed_of(seed)


@lru_cache(maxsize=4)
def resamples(n_pairs: int, n_resamples: int, seed: int) -> np.ndarray:
    """Return how often each pair is drawn ``[resample, pair]``, with replacement."""
    if n_pairs * n_resamples > MOST_DRAWS:
        raise InputError(
            f"n_resamples={n_resamples} of {n_pairs} pairs do not fit into memory; use "
            f"{MOST_DRAWS // n_pairs} at most"
        )
    rows = np.random.default_rng(seed).integers(0, n_pairs, size=(n_resamples, n_pairs))
    return np.stack([np.bincount(row, minlength=n_pairs) for row in rows]).astype(np.float64)


def correlations(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
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


def interval(resampled: np.ndarray | float) -> tuple[float, float]:
    """Return the percentile interval at `LEVEL`; NaN where no resample has a value."""
    if np.isnan(resampled).all():
        return np.nan, np.nan
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(resampled, [tail, 1 - tail])
    return float(low), float(high)


def two_sided(resampled: np.ndarray) -> float:
    """Return p of a statistic of 0: twice the smaller share of resamples on either side of it.

    It is at least the inverse of their number; NaN where no resample has a value.
    """
    kept = resampled[~np.isnan(resampled)]
    if not len(kept):
        return np.nan
    tail = min((kept <= 0).mean(), (kept >= 0).mean())
    return float(np.clip(2 * tail, 1 / len(resampled), 1.0))


def gaps(
    x: np.ndarray, y: np.ndarray, gold: np.ndarray, n_resamples: int, seed: int
) -> Float[np.ndarray, " resample"]:
    """Return how much x scores above y in each resample."""
    counts = resamples(len(gold), n_resamples, seed)
    return correlations(x, gold, counts) - correlations(y, gold, counts)


def order_of(task: int, n_resamples: int, seed: int) -> np.ndarray:
    """Return an order of a task's resamples: those of one seed are related, but not in it."""
    return np.random.default_rng([seed, task]).permutation(n_resamples)
