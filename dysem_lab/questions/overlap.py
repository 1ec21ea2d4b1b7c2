"""How much two sets of dimensions overlap, and how much they would by chance."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.special import gammaln
from torch import Tensor

from dysem_lab.bootstrap import LEVEL, N_RESAMPLES

VALUES_PER_CHUNK = 2_000_000  # of the chance level; bounds the memory to about 100 MB


def jaccard(A: Bool[Tensor, "n d"], B: Bool[Tensor, "n d"]) -> Float[np.ndarray, " n"]:
    """Return |A ∩ B| / |A ∪ B| of each row, NaN where both are empty."""
    common, either = (A & B).sum(-1).double(), (A | B).sum(-1).double()
    return (common / either).numpy()  # 0 / 0 is NaN


def chance_jaccard(
    sizes_a: Int[np.ndarray, " n"], sizes_b: Int[np.ndarray, " n"], d_model: int
) -> Float[np.ndarray, " n"]:
    """Return the expected Jaccard index of two independent random sets of these sizes out of d.

    The overlap h of two such sets is hypergeometric, so this is Σ_h P(h) h / (a + b − h), exactly;
    NaN where both sets are empty.
    """
    log_factorial = gammaln(np.arange(d_model + 2) + 1)

    def log_choose(n: np.ndarray, r: np.ndarray) -> np.ndarray:
        return log_factorial[n] - log_factorial[r] - log_factorial[n - r]

    sizes, row = np.unique(np.stack([sizes_a, sizes_b]), axis=1, return_inverse=True)
    expected = []
    h = np.arange(int(sizes.min(axis=0).max(initial=0)) + 1)
    n_chunks = max(1, sizes.shape[1] * len(h) // VALUES_PER_CHUNK)
    for chunk in np.array_split(sizes, n_chunks, axis=1):
        a, b = chunk[0][:, None], chunk[1][:, None]
        possible = (h <= a) & (h <= b) & (a + b - h <= d_model)
        overlap = np.where(possible, h, np.maximum(0, a + b - d_model))
        log_p = log_choose(a, overlap) + log_choose(d_model - a, b - overlap)
        p = np.exp(log_p - log_choose(np.full_like(b, d_model), b)) * possible
        with np.errstate(invalid="ignore"):
            expected.append((p * (overlap / (a + b - overlap))).sum(1))
    return np.concatenate(expected)[row.reshape(-1)]


def different_texts(texts: Sequence[str]) -> list[int]:
    """Return the position at which each different text occurs first."""
    return sorted({text: i for i, text in reversed(list(enumerate(texts)))}.values())


def overlap(A: Bool[Tensor, "n d"], B: Bool[Tensor, "n d"], seed: int) -> dict[str, float]:
    """Return the mean Jaccard index of A[i] and B[i], its interval and what to compare it with."""
    values = jaccard(A, B)
    sizes = [S.sum(-1).numpy() for S in (A, B)]
    kept = ~np.isnan(values)
    low = high = mean = chance = other = np.nan
    generator = np.random.default_rng(seed)
    if kept.any():
        mean, n = float(values[kept].mean()), int(kept.sum())
        drawn = generator.integers(0, n, size=(N_RESAMPLES, n))
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(values[kept][drawn].mean(1), [tail, 1 - tail])
        chance = float(chance_jaccard(sizes[0][kept], sizes[1][kept], A.shape[-1]).mean())
    if len(A) > 1:
        order = torch.from_numpy(generator.permutation(len(A)))
        mismatched = jaccard(A[order], B[order.roll(1)])
        other = float(np.mean(mismatched[~np.isnan(mismatched)]))
    return {
        "jaccard": mean,
        "low": float(low),
        "high": float(high),
        "other_text": other,
        "chance": chance,
        "size": float(np.mean(sizes)),
        "n": int(kept.sum()),
        "n_undefined": int((~kept).sum()),
    }
