"""Consensus sets: the dimensions of one text that are positive in every language (Eqs. 11–13)."""

from numbers import Integral, Real

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dysem_lab.errors import InputError


def resolve_k(k: int | float, d_model: int) -> int:
    """Return k as a number of dimensions.

    Args:
        k: An integer ≥ 1 (more than `d_model` means all), or a fraction of d in (0, 1] as a float,
            rounded to the nearest dimension and at least 1. The paper's 1024 of 4096 is 0.25.
        d_model: Number of dimensions, d.

    Raises:
        InputError: k is neither.
    """
    if isinstance(k, bool) or not isinstance(k, Real):
        raise InputError(f"k must be an int or a float, got {k!r}")
    if isinstance(k, Integral) and k >= 1:
        return min(int(k), d_model)
    if not isinstance(k, Integral) and 0 < k <= 1:
        return max(1, int(k * d_model + 0.5))
    raise InputError(f"k must be an integer >= 1 or a fraction in (0, 1] of d={d_model}, got {k!r}")


def require_finite(name: str, tensor: Tensor) -> None:
    """Raise `InputError` if a tensor holds NaN or infinity: they would give a silent number."""
    if not torch.isfinite(tensor).all():
        row = int((~torch.isfinite(tensor)).nonzero()[0, 0])
        raise InputError(
            f"{name} has a NaN or infinite value, first at index {row}; leave those "
            "texts out, or capture in float32 or bfloat16 if float16 overflowed"
        )


def top_k(
    keys: Float[Tensor, "*n d"], allowed: Bool[Tensor, "*n d"], k: int
) -> Bool[Tensor, "*n d"]:
    """Return the k allowed dimensions with the largest keys; fewer where fewer are allowed.

    Equal keys go to the lower index, so the result is deterministic.
    """
    masked = keys.masked_fill(~allowed, -torch.inf)
    order = masked.sort(dim=-1, descending=True, stable=True).indices[..., :k]
    return torch.zeros_like(allowed).scatter(-1, order, True) & allowed


def consensus_set(
    vectors: Float[Tensor, "... m d"],
    k: int | float,
    rank_by: Float[Tensor, "... d"] | None = None,
) -> Bool[Tensor, "... d"]:
    """Return S(x): the k highest-ranked dimensions that are positive in every language.

    Args:
        vectors: s^(ℓ)(x), the m languages of one text ``[m, d]`` or of n texts ``[n, m, d]``.
        k: Number of dimensions, or a fraction of d (see `resolve_k`). |S| = min(k, |I|): a text
            with a small consensus has a small set, one without any has the empty set.
        rank_by: Ranking keys ``[d]`` or ``[n, d]``; None is the mean over the languages (Eq. 12).

    Returns:
        Mask of the selected dimensions, ``[d]`` or ``[n, d]``.

    Raises:
        InputError: Wrong shapes, m = 0, k out of range, NaN or infinite values.

    Source: DySem Eq. 11 (I, strict inequality), Eq. 12 (mean), Eq. 13 (top k). The released code
    ranks by the semantic vector instead of the mean: pass that vector as `rank_by`.
    """
    if vectors.ndim not in (2, 3) or vectors.shape[-2] == 0:
        raise InputError(
            f"vectors must be [m, d] or [n, m, d] with m >= 1, got shape {tuple(vectors.shape)}"
        )
    keys = vectors.mean(dim=-2) if rank_by is None else rank_by
    require_finite("vectors", vectors)
    if keys.shape != vectors.shape[:-2] + vectors.shape[-1:]:
        raise InputError(
            f"rank_by has shape {tuple(keys.shape)}, but vectors {tuple(vectors.shape)} "
            f"need {tuple(vectors.shape[:-2] + vectors.shape[-1:])}"
        )
    require_finite("the tensor of ranking keys", keys)
    consensus = (vectors > 0).all(dim=-2)
    return top_k(keys, consensus, resolve_k(k, vectors.shape[-1]))
