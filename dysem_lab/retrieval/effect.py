"""What a ranking keeps of the exact one: of fewer bytes for a value, or of a first stage."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dysem_lab.display import amount
from dysem_lab.encoders.vectors import SemanticVectors, require_semantic
from dysem_lab.errors import InputError
from dysem_lab.inputs import at_least, one_of
from dysem_lab.joint import all_pairs_similarity
from dysem_lab.retrieval.layout import DTYPES, as_stored


def in_common(found: Sequence[Iterable[Any]], exact: Sequence[Iterable[Any]]) -> float:
    """Return the mean share of the hits of exact rankings that other ones have too.

    Args:
        found: Of q queries the ids or rows, of any order.
        exact: The exact ones; a query without any does not count.

    Raises:
        InputError: Rankings of other numbers of queries, or none.
    """
    pairs = [(set(of), set(right)) for of, right in zip(found, exact, strict=False)]
    shares = [len(of & right) / len(right) for of, right in pairs if right]
    if len(found) != len(exact) or not shares:
        raise InputError(f"rankings of {len(found)} and {len(exact)} queries have no share")
    return float(np.mean(shares))


def n_lost(texts: SemanticVectors, dtype: str) -> int:
    """Return how many texts are zero on their own sets once they are stored, and were not before.

    They have no similarity to a text with the same set, and to others on its set alone. In int8 a
    value below 1/254 of the largest one of its dimension, among some thousand texts, is stored as
    0: one text with huge values can hide all others.

    Args:
        texts: A corpus in memory.
        dtype: As for `ranking_kept`.

    Raises:
        InputError: An unknown data type.
    """
    texts = require_semantic(texts)
    stored = as_stored(texts, one_of(dtype, DTYPES, "dtype"))
    there, left = (((of.vectors != 0) & of.sets).any(1) for of in (texts, stored))
    return int((there.cpu() & ~left).sum())


def ranking_kept(texts: SemanticVectors, dtype: str, k: int = 10, n: int = 100) -> float:
    """Return the share of the k nearest texts that are so too where texts are stored otherwise.

    A pair without a similarity comes last; `n_lost` counts the texts that lost theirs.

    Args:
        texts: A corpus in memory; n of them, spread over it, are the queries, each of which is not
            its own hit.
        dtype: "float16" or "int8"; see `dysem_lab.SemanticIndex.create`.
        k: Number of nearest texts.
        n: Number of queries.

    Raises:
        InputError: An unknown data type, or no more than k texts.
    """
    texts = require_semantic(texts)
    one_of(dtype, DTYPES, "dtype")
    k, n = at_least(k, 1, "k"), min(at_least(n, 1, "n"), len(texts))
    if len(texts) <= k:
        raise InputError(
            f"the {k} nearest beside a query need more than {amount(len(texts), 'text')}; give more"
        )
    rows = np.linspace(0, len(texts) - 1, n).astype(int)
    queries, ranked = texts[rows], []
    for others in (as_stored(texts, dtype), texts):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".* pairs have no similarity")
            similarity = all_pairs_similarity(
                queries.vectors, others.vectors, queries.sets, others.sets, undefined=-2.0
            )
        similarity[range(n), rows] = -3.0
        ranked.append(similarity.topk(k).indices.tolist())
    return in_common(*ranked)
