"""DySem for many settings at once: every k, m and vector over the same captured vectors.

Languages are added in one order, so the consensus of the first m follows from that of the first
m − 1; one sort of a text's dimensions serves every k; and the sums of all k are one matrix product.
"""

import numbers
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dysem_lab.consensus import require_finite, resolve_k
from dysem_lab.encoders.settings import VECTORS
from dysem_lab.errors import InputError, choices
from dysem_lab.joint import LEAST_NORM2, joint_set, ratio, restricted_cosine, unit_peak

PAIRS_PER_CHUNK = 128  # bounds the memory: 200 MB for 12 languages and d = 4096


class Cell(NamedTuple):
    """One setting of a grid.

    Attributes:
        m: The first m languages make the consensus.
        k: Dimensions per text, as given.
        vector: "mean" or "source".
    """

    m: int
    k: int | float
    vector: str


class CellResult(NamedTuple):
    """What one setting gives for every pair.

    Attributes:
        similarity: Float32 ``[n]``, NaN where undefined.
        sizes: Size of each pair's joint set, int64 ``[n]``.
    """

    similarity: Float[Tensor, " n"]
    sizes: Int[Tensor, " n"]


def check_ms(ms: Sequence[int], n_languages: int) -> None:
    """Raise `InputError` unless every m is a number of languages that there are."""
    for m in ms:
        if not isinstance(m, numbers.Integral) or isinstance(m, bool) or not 1 <= m <= n_languages:
            raise InputError(f"m must be between 1 and {n_languages} languages, got {m!r}")


def sweep(
    vectors: Float[Tensor, "twice_n m d"],
    source: Float[Tensor, "twice_n d"],
    ks: Sequence[int | float],
    ms: Sequence[int],
    kinds: Sequence[str] = VECTORS,
) -> dict[Cell, CellResult]:
    """Return the similarity of text i with text n + i for each m, k and semantic vector.

    Each cell equals `dysem_lab.encoders.dysem.semantic_vectors` on the first m languages, then
    `dysem_lab.joint.pairwise_similarity`; ranking is by the mean over the m languages (Eq. 12).

    Args:
        vectors: s^(ℓ)(x) of 2n texts in all languages, in the order in which they are added.
        source: s^(source)(x) (Eq. 15).
        ks: Numbers of dimensions, or fractions of d.
        ms: Numbers of languages.
        kinds: Semantic vectors, "mean" and "source".

    Raises:
        InputError: A k or m out of range, an unknown vector, an odd number of texts, NaN.
    """
    check_ms(ms, vectors.shape[1])
    for kind in kinds:
        if kind not in VECTORS:
            raise choices("vector", kind, VECTORS)
    if len(vectors) % 2 or source.shape != (len(vectors), vectors.shape[2]):
        raise InputError(
            f"vectors {tuple(vectors.shape)} and source {tuple(source.shape)} must hold the first "
            "and then the second texts of the same pairs"
        )
    for in_one_language in vectors.unbind(1):  # a check of all at once takes twice their memory
        require_finite("vectors", in_one_language)
    require_finite("source", source)
    n_pairs = len(vectors) // 2
    results: dict[Cell, list[CellResult]] = {}
    for first in chunks(n_pairs):
        rows = [*first, *(n_pairs + i for i in first)]
        for cell, result in _chunk(vectors[rows], source[rows], ks, ms, kinds):
            results.setdefault(cell, []).append(result)
    merged = {
        cell: CellResult(*(torch.cat(column) for column in zip(*parts, strict=True)))
        for cell, parts in results.items()
    }
    undefined = {c: int(torch.isnan(r.similarity).sum()) for c, r in merged.items()}
    if worst := max(undefined.values(), default=0):
        cell = max(undefined, key=undefined.__getitem__)
        n_cells = sum(count > 0 for count in undefined.values())
        warnings.warn(
            f"pairs without a similarity (empty joint set) in {n_cells} of {len(merged)} settings; "
            f"at most {worst} of {n_pairs}, with m={cell.m}, k={cell.k}, {cell.vector}",
            stacklevel=2,
        )
    return merged


def chunks(n_pairs: int) -> Iterator[range]:
    """Yield the positions of pairs, as many at once as memory is bounded for."""
    for start in range(0, n_pairs, PAIRS_PER_CHUNK):
        yield range(start, min(start + PAIRS_PER_CHUNK, n_pairs))


def _chunk(
    vectors: Float[Tensor, "twice_c m d"],
    source: Float[Tensor, "twice_c d"],
    ks: Sequence[int | float],
    ms: Sequence[int],
    kinds: Sequence[str],
) -> Iterator[tuple[Cell, CellResult]]:
    """Yield every cell of some pairs."""
    n_pairs, d_model = len(vectors) // 2, vectors.shape[-1]
    kept = [resolve_k(k, d_model) for k in ks]
    lowest = vectors.cummin(dim=1).values
    mean = vectors.cumsum(dim=1)
    for m in ms:
        keys = mean[:, m - 1] / m
        sets = _top_ks(keys, lowest[:, m - 1] > 0, kept)
        joint = joint_set(sets[:n_pairs], sets[n_pairs:])
        sizes = joint.sum(-1)
        weights = joint.to(vectors.dtype)
        for kind in kinds:
            v = keys if kind == "mean" else source
            x, y = unit_peak(v[:n_pairs]), unit_peak(v[n_pairs:])
            sums = weights @ torch.stack([x * y, x * x, y * y], dim=-1)  # [pairs, ks, 3]
            similarity = ratio(*sums.unbind(-1))
            # As in `all_pairs_similarity`: what is outside a joint set has no part in the scale.
            lost = (sums[..., 1:] < LEAST_NORM2).any(-1) & joint.any(-1)
            if lost.any():
                pair, column = lost.nonzero(as_tuple=True)
                similarity[lost] = restricted_cosine(
                    v[pair], v[n_pairs + pair], joint[pair, column]
                )
            for i, k in enumerate(ks):
                yield Cell(m, k, kind), CellResult(similarity[:, i], sizes[:, i])


def _top_ks(
    keys: Float[Tensor, "n d"], allowed: Bool[Tensor, "n d"], ks: Sequence[int]
) -> Bool[Tensor, "n ks d"]:
    """Return the top-k sets of each text for several k, as `dysem_lab.consensus.top_k` does."""
    masked = keys.masked_fill(~allowed, -torch.inf)
    order = masked.sort(dim=-1, descending=True, stable=True).indices
    places = torch.arange(keys.shape[-1]).expand_as(order)
    ranks = torch.empty_like(order).scatter_(-1, order, places)
    return (ranks[:, None] < torch.tensor(ks)[:, None]) & allowed[:, None]
