"""Consensus sets: the dimensions of one text that are positive in every language (Eqs. 11–13)."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dysem_lab.errors import InputError
from dysem_lab.inputs import array_of, check_k

WIDE = (torch.float32, torch.float64)  # what is computed in; everything narrower becomes float32


def resolve_k(k: int | float, d_model: int) -> int:
    """Return k as a number of dimensions.

    Args:
        k: An integer ≥ 1 (more than `d_model` means all), or a fraction of d in (0, 1] as a float,
            rounded to the nearest dimension and at least 1. The paper's 1024 of 4096 is 0.25.
        d_model: Number of dimensions, d.

    Raises:
        InputError: k is neither.
    """
    k = check_k(k, d_model)
    return min(k, d_model) if isinstance(k, int) else max(1, int(k * d_model + 0.5))


def vectors_of(values: object, name: str) -> Tensor:
    """Return vectors as a tensor that sums and squares can be taken of.

    float32 and float64 stay what they are. Half precision becomes float32, in which everything is
    computed and returned: in 16 bits means tie that differ, and squares overflow. So do integers.

    Raises:
        InputError: No tensor or array ``[..., d]`` of finite numbers, d ≥ 1; a NaN or infinite
            value is named by its first index.
    """
    if not isinstance(values, Tensor):
        values = _tensor(values, name)
    kind = values.dtype
    if kind == torch.bool or kind.is_complex or not _is_dense(values):
        raise InputError(f"{name} must be real numbers in a dense tensor, got {_said(values)}")
    if values.ndim == 0 or values.shape[-1] == 0:
        raise InputError(f"{name} must be [..., d] with d >= 1, got shape {tuple(values.shape)}")
    values = values if kind in WIDE else values.float()
    require_finite(name, values)
    return values


def sets_of(values: object, name: str) -> Bool[Tensor, "*n d"]:
    """Return sets of dimensions as a tensor of booleans.

    Raises:
        InputError: No tensor or array of booleans.
    """
    if not isinstance(values, Tensor):
        values = _tensor(values, name)
    if values.dtype != torch.bool or not _is_dense(values):
        raise InputError(f"{name} must be a mask of booleans, got {_said(values)}")
    return values


def require_one_device(**tensors: Tensor) -> None:
    """Raise `InputError` if tensors that belong together are not on one device."""
    if len({tensor.device for tensor in tensors.values()}) > 1:
        places = ", ".join(f"{name} on {tensor.device}" for name, tensor in tensors.items())
        raise InputError(f"{places}: move them to one device, such as with .cpu()")


def require_finite(name: str, tensor: Tensor) -> None:
    """Raise `InputError` if a tensor holds NaN or infinity: they would give a silent number."""
    if not torch.isfinite(tensor).all():
        row = int((~torch.isfinite(tensor)).nonzero()[0, 0])
        raise InputError(
            f"{name} has a NaN or infinite value, first at index {row}; leave those "
            "texts out, or capture in float32 or bfloat16 if float16 overflowed"
        )


def _tensor(values: object, name: str) -> Tensor:
    """Return an array, or numbers in lists, as a tensor."""
    array = np.array(array_of(values, name), order="C")  # torch takes no negative strides
    try:
        return torch.tensor(array)
    except (TypeError, ValueError) as error:  # strings, objects, dates, longer floats
        raise InputError(
            f"{name} must be a tensor or an array of numbers, got {type(values).__name__} of "
            f"{array.dtype}"
        ) from error


def _is_dense(tensor: Tensor) -> bool:
    """Return whether every value of a tensor is there, as a number of its own."""
    elsewhere = tensor.is_meta or tensor.is_quantized or tensor.is_nested
    return tensor.layout == torch.strided and not elsewhere


def _said(tensor: Tensor) -> str:
    return f"{tensor.dtype} ({tensor.layout}, {tensor.device})"


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
        vectors: s^(ℓ)(x), the m languages of one text ``[m, d]`` or of n texts ``[n, m, d]``; in
            half precision they are ranked by their mean in float32 (see `vectors_of`).
        k: Number of dimensions, or a fraction of d (see `resolve_k`). |S| = min(k, |I|): a text
            with a small consensus has a small set, one without any has the empty set.
        rank_by: Ranking keys ``[d]`` or ``[n, d]``; None is the mean over the languages (Eq. 12).

    Returns:
        Mask of the selected dimensions, ``[d]`` or ``[n, d]``.

    Raises:
        InputError: Wrong shapes, m = 0, d = 0, k out of range, NaN or infinite values.

    Source: DySem Eq. 11 (I, strict inequality), Eq. 12 (mean), Eq. 13 (top k). The released code
    ranks by the semantic vector instead of the mean: pass that vector as `rank_by`.
    """
    vectors = vectors_of(vectors, "vectors")
    if vectors.ndim not in (2, 3) or vectors.shape[-2] == 0:
        raise InputError(
            f"vectors must be [m, d] or [n, m, d] with m >= 1, got shape {tuple(vectors.shape)}"
        )
    keys = vectors.mean(dim=-2) if rank_by is None else rank_by
    keys = vectors_of(keys, "the tensor of ranking keys")
    if keys.shape != vectors.shape[:-2] + vectors.shape[-1:]:
        raise InputError(
            f"rank_by has shape {tuple(keys.shape)}, but vectors {tuple(vectors.shape)} "
            f"need {tuple(vectors.shape[:-2] + vectors.shape[-1:])}"
        )
    require_one_device(vectors=vectors, rank_by=keys)
    consensus = (vectors > 0).all(dim=-2)
    return top_k(keys, consensus, resolve_k(k, vectors.shape[-1]))
