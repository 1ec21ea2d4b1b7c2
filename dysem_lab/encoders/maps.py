"""Changes of vectors that are fitted on the vectors of other texts: tensors in, tensors out.

They compute in float64 and return the precision that they were given.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.consensus import require_finite, vectors_of
from dysem_lab.errors import InputError
from dysem_lab.inputs import at_least, one_of

TOP = 3  # directions that are removed, fixed beforehand
LARGEST = 1e100  # whose square, summed up, float64 has
FITTED = ("centre", "z", "mean_direction", "all_but_the_top", "pca", "whitening")
PROJECTIONS = ("pca", "whitening")  # onto k new coordinates
WITH_K = (*PROJECTIONS, "all_but_the_top")
SCALED = ("z", "whitening")  # divided by a spread that is fitted

Map = Callable[[Tensor], Tensor]  # vectors [..., d] → vectors [..., d], or [..., k]


def fitted(kind: str, vectors: Float[Tensor, "n d"], k: int | None = None) -> Map:
    """Return x ↦ f(x) of one kind, fitted on the vectors of n other texts.

    With μ and σ, the mean and the standard deviation of each dimension, u_i and λ_i, the principal
    directions and variances of x − μ:

    - "centre": x − μ (arXiv 2109.04404)
    - "z": (x − μ) / σ (arXiv 2109.04404)
    - "mean_direction": x − (x·μ̂) μ̂ with μ̂ = μ / ‖μ‖ (arXiv 2511.11041)
    - "all_but_the_top": x − μ − Σ_{i≤k} u_i u_iᵀ (x − μ) (Mu & Viswanath, arXiv 1702.01417)
    - "pca": (x − μ) U_k, and "whitening": (x − μ) U_k Λ_k^{-1/2} (Su et al., arXiv 2103.15316)

    The texts that each needs at least are `fewest_texts`.

    Args:
        kind: A name of `FITTED`.
        vectors: The fitting texts.
        k: Number of principal directions: those removed (None is 3) or kept.

    Raises:
        InputError: Too few texts, texts that span fewer than k directions, a dimension without
            spread for "z", a mean of zero for "mean_direction", NaN.
    """
    one_of(kind, FITTED, "transform that is fitted on vectors")
    k, x = directions_of(kind, k), _several(vectors)
    n, d = x.shape
    if kind in WITH_K and k > d:
        raise InputError(f"k={k} principal directions are more than the {d} dimensions")
    if n < (fewest := fewest_texts(kind, k)):
        of_k = f" with k={k}" if kind in WITH_K else ""
        fewer = " or use a smaller k" if of_k and k > 1 else " or use 'centre'"
        raise InputError(
            f"{kind!r}{of_k} needs at least {fewest:,} fitting texts that differ, got {n:,}; fit "
            "on more" + (fewer if n > 1 else "")
        )
    mean = x.mean(0)
    if kind == "centre":
        return _double(lambda v: v - mean)
    if kind == "z":
        std = x.std(0, correction=0)
        if not (std > 0).all():
            raise InputError(
                f"dimension {int((std > 0).long().argmin())} has one value in all {len(x)} fitting "
                "texts, so z-scores have no scale there; fit on more texts, or use 'centre'"
            )
        return _double(lambda v: (v - mean) / std)
    if kind == "mean_direction":
        if not mean.any():
            raise InputError("the mean of the fitting texts is 0, which has no direction")
        unit = mean / mean.norm()
        return _double(lambda v: v - (v @ unit)[..., None] * unit)
    directions, variances = principal(x, k)
    if kind == "all_but_the_top":
        return _double(lambda v: (v - mean) - ((v - mean) @ directions) @ directions.T)
    basis = directions if kind == "pca" else directions / variances.sqrt()
    return _double(lambda v: (v - mean) @ basis)


def directions_of(kind: str, k: int | None) -> int:
    """Return how many directions a kind removes or keeps: k, or 3 where it may be left out.

    Raises:
        InputError: No k where it is needed, or one below 1.
    """
    if k is None and kind in PROJECTIONS:
        raise InputError(f"{kind!r} needs k, the number of directions that are kept")
    return TOP if k is None else at_least(k, 1, "k, the number of principal directions,")


def fewest_texts(kind: str, k: int = TOP) -> int:
    """Return how many different texts a transform is fitted on at least.

    A mean needs 2 (that of one is the text itself), k principal directions k + 1, the points that
    span them. What divides by a fitted spread needs 2 more: the inverse of a variance has an
    expected value from 4 texts on (k + 3, of the k variances of a whitening), and before that
    the vectors are made of the dimensions in which the few texts happen to be alike.

    Args:
        kind: A name of `FITTED`.
        k: Principal directions.

    Source: the mean of the inverse Wishart distribution, n − 1 degrees of freedom (Mardia, Kent and
        Bibby, Multivariate Analysis, 1979, Section 3.8).
    """
    n_directions = k if kind in WITH_K else 1
    return n_directions + (3 if kind in SCALED else 1)


def principal(
    vectors: Float[Tensor, "n d"], k: int
) -> tuple[Float[Tensor, "d k"], Float[Tensor, " k"]]:
    """Return the first k principal directions of n vectors, and the variances along them.

    Raises:
        InputError: The vectors span fewer than k directions.
    """
    x = _several(vectors)
    n, d = x.shape
    _, scale, directions = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    rank = int((scale > scale[0] * max(n, d) * torch.finfo(scale.dtype).eps).sum())
    if rank < k:
        raise InputError(
            f"the {n:,} fitting texts span {rank} directions, fewer than k={k}; fit on more texts "
            "that differ"
        )
    return directions[:k].T, scale[:k].square() / (n - 1)


def random_rotation(d_model: int, seed: int) -> Float[Tensor, "d d"]:
    """Return a random orthogonal matrix, uniform over all of them, float64."""
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(d_model, d_model, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()


def rotated(vectors: Float[Tensor, "*n d"], rotation: Float[Tensor, "d d"]) -> Tensor:
    """Return x Q, which keeps every cosine on all d dimensions."""
    return vectors @ rotation.to(vectors.dtype)


def _several(vectors: object) -> Float[Tensor, "n d"]:
    """Return the vectors of texts in float64, once sums of their squares are finite."""
    x = vectors_of(vectors, "the fitting vectors").double()
    if x.ndim != 2 or not len(x):
        raise InputError(f"a transform is fitted on vectors [n, d], got {tuple(x.shape)}")
    if x.abs().max() > LARGEST:
        raise InputError(
            f"the fitting vectors have a value of {x.abs().max():.1e}, beyond {LARGEST:.0e}, whose "
            "squares float64 does not have; scale them down"
        )
    return x


def _double(change: Map) -> Map:
    """Return a map that computes in float64, and gives the precision that it was given."""

    def changed(vectors: Tensor) -> Tensor:
        vectors = vectors_of(vectors, "vectors")
        moved = change(vectors.double()).to(vectors.dtype)
        require_finite("what became of the vectors", moved)
        return moved

    return changed
