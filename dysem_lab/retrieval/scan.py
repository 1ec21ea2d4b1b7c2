"""The k best rows of an index for each of some queries: every row is looked at, so none is missed.

Few queries go over each block one after the other (`dysem_lab.retrieval.kernels`); of many, the
sums over joint sets of a block are products of matrices, as in `dysem_lab.all_pairs_similarity`.
Memory beside the result is bounded whatever the index has.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from threadpoolctl import threadpool_limits
from torch import Tensor

from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.retrieval import kernels, layout
from dysem_lab.retrieval.kernels import Best, Queries, Query, Rounded, Rows
from dysem_lab.retrieval.layout import NO_CODES, NO_STEPS, Shard

MANY = 12  # queries from which on products of matrices are faster
TILE_VALUES = 2**18  # of a tile: 1 MB
QUERIES_AT_ONCE = 512


class Found(NamedTuple):
    """The best rows of each query, the best first.

    Attributes:
        scores: Their similarities, −inf where there is none.
        rows: Their rows in the index; -1 where there is none.
        n_undefined: Rows that have no similarity to a query.
    """

    scores: Float[np.ndarray, "q k"]
    rows: Int[np.ndarray, "q k"]
    n_undefined: Int[np.ndarray, " q"]


def best_rows(
    queries: SemanticVectors,
    shards: Sequence[Shard],
    allowed: Bool[np.ndarray, " n"],
    k: int,
) -> Found:
    """Return the k best of the allowed rows for each query; equal ones in the order of the rows."""
    parts = [
        _best_rows(queries[a : a + QUERIES_AT_ONCE], shards, allowed, k)
        for a in range(0, len(queries), QUERIES_AT_ONCE)
    ]
    if not parts:
        return Found(np.zeros((0, k)), np.zeros((0, k), np.int64), np.zeros(0, np.int64))
    return Found(*map(np.concatenate, zip(*parts, strict=True)))


def _best_rows(
    queries: SemanticVectors, shards: Sequence[Shard], allowed: Bool[np.ndarray, " n"], k: int
) -> Found:
    asked = [_query(x, S) for x, S in zip(queries.vectors, queries.sets, strict=True)]
    blocks = (
        (shard, rows)
        for shard in shards
        for rows in shard.blocks
        if allowed[shard.first + rows.start : shard.first + rows.stop].any()
    )
    n_threads, next_block = torch.get_num_threads(), Lock()
    many = _together(asked) if len(asked) >= MANY else None

    def work(best: Best) -> None:
        search = _Few(asked) if many is None else _Many(many)
        while True:
            with next_block:
                shard, rows = next(blocks, (None, slice(0)))
            if shard is None:
                return
            within = np.arange(shard.first + rows.start, shard.first + rows.stop)
            which = np.where(allowed[within], within, -1)
            if shard.shape.full:
                _full(asked, shard.vectors(rows), shard.array("inside2")[rows], which, best)
            else:
                search.block(shard, rows, which, best)

    # Each thread takes the next block when it is ready, and has a heap of its own for each query.
    # Its products are computed in it alone: threads that wait for each other are slow where a
    # machine is busy.
    best = [_empty(len(asked), k) for _ in range(n_threads)]
    with ThreadPoolExecutor(n_threads) as pool, _one_blas_thread(len(asked)):
        list(pool.map(work, best))
    return _merged(best, k)


def best_of(
    queries: SemanticVectors, shards: Sequence[Shard], candidates: Int[np.ndarray, "q c"], k: int
) -> Found:
    """Return the k best of some rows for each query, with the numbers of `best_rows`.

    Args:
        queries: q queries.
        shards: Of the index.
        candidates: Of each query rows of the index, in any order; -1 is none.
        k: Number of rows.
    """
    best = _empty(len(queries), k)
    for i, rows in enumerate(candidates):
        asked = [_query(queries.vectors[i], queries.sets[i])]
        found, rows = Best(*(array[i : i + 1] for array in best)), np.sort(rows)
        for shard in shards:
            there = rows[(rows >= shard.first) & (rows < shard.first + shard.shape.rows)]
            for within in shard.by_block(there - shard.first):
                _offer_some(asked, shard, within, found)
    return _merged([best], k)


def _offer_some(
    asked: Sequence[tuple[Query, Rounded]],
    shard: Shard,
    within: Int[np.ndarray, " n"],
    best: Best,
) -> None:
    """Offer some rows of one block of a shard, from 0, to one query."""
    which, inside2 = within + shard.first, shard.array("inside2")[within]
    if shard.shape.full:
        return _full(asked, shard.vectors(within), inside2, which, best)
    (query, rounded), found = asked[0], Best(*(array[0] for array in best))
    off, sparse = shard.some_off(within, query.chosen), shard.some_inside(within)
    of = Rows(off, *sparse, inside2, NO_CODES, NO_STEPS)
    query = query._replace(chosen=np.arange(len(of.off)))
    return kernels.scan(query, rounded, of, which, _slack(shard.shape.width), found)


def merged(first: Found, second: Found, k: int) -> Found:
    """Return the k best rows of two searches of other rows."""
    parts = (
        Best(of.scores, of.rows, np.stack([of.n_undefined] * 2, axis=1)) for of in (first, second)
    )
    return _merged([*parts], k)


def _one_blas_thread(n_queries: int) -> AbstractContextManager:
    """Keep numpy's products to the thread that asks for them, for as many as pay for that."""
    return threadpool_limits(1, "blas") if n_queries >= MANY else nullcontext()


def _empty(q: int, k: int) -> Best:
    return Best(np.full((q, k), -np.inf), np.full((q, k), -1, np.int64), np.zeros((q, 2), np.int64))


def _merged(best: Sequence[Best], k: int) -> Found:
    """Return what all threads found of each query, in order."""
    scores = np.concatenate([of.scores for of in best], axis=1)
    rows = np.concatenate([of.rows for of in best], axis=1)
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    counts = np.sum([of.counts[:, 1] for of in best], axis=0)
    return Found(np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1), counts)


def _query(x: Float[Tensor, " d"], S: Bool[Tensor, " d"]) -> tuple[Query, Rounded]:
    """Return a query as the kernels take it."""
    x, S = x.detach().cpu().double(), S.cpu()
    on = x[S].abs()
    peak = on.max() if len(on) and on.max() > 0 else x.abs().max()
    x = x / peak if peak > 0 else x
    outside2 = torch.where(S, 0.0, x * x)
    inside2 = float((x[S] ** 2).sum())
    exact = x[S].numpy(), x.numpy(), outside2.numpy(), inside2, inside2 + float(outside2.sum())
    most = torch.cat([x.new_zeros(1), x.abs().sort(descending=True).values.cumsum(0)])
    rounded = (values.float().numpy() for values in (x[S], x, outside2, most))
    return Query(S.nonzero()[:, 0].numpy(), *exact), Rounded(*rounded)


def _together(asked: Sequence[tuple[Query, Rounded]]) -> Queries:
    """Return queries in arrays."""
    exact, rounded = zip(*asked, strict=True)
    chosen, on, x, outside2, inside2, whole2 = zip(*exact, strict=True)
    x32, outside2_32 = (
        np.stack([getattr(of, name) for of in rounded]) for name in ("x", "outside2")
    )
    return Queries(
        starts=np.cumsum([0, *map(len, chosen)]),
        chosen=np.concatenate(chosen),
        on=np.concatenate(on),
        x=np.stack(x),
        outside2=np.stack(outside2),
        inside2=np.array(inside2),
        whole2=np.array(whole2),
        outside2_32=outside2_32,
        beside_x=np.ascontiguousarray(x32.T),
        beside_outside2=np.ascontiguousarray(outside2_32.T),
    )


def _slack(n_terms: int) -> float:
    """Return a bound of the error of a cosine in float32 whose sums have so many terms.

    A sum of n products errs by at most (n + 1) u Σ|x_j y_j| ≤ (n + 1) u ‖x‖‖y‖, in any order, a
    norm by half as much of itself; u = 2⁻²⁴. The rest is for what is rounded around them.
    """
    return 2 * (n_terms + 16) * 2.0**-24


def _full(
    asked: Sequence[tuple[Query, Rounded]],
    vectors: Float[np.ndarray, "n d"],
    norm2: Float[np.ndarray, " n"],
    which: Int[np.ndarray, " n"],
    best: Best,
) -> None:
    """Search rows whose sets are full: joint sets are all dimensions, whatever S(x) is."""
    x = np.stack([rounded.x for _, rounded in asked])
    with np.errstate(over="ignore", invalid="ignore"):
        dots = [vectors @ x[0]] if len(x) == 1 else x @ vectors.T
    for i, ((query, _), dot) in enumerate(zip(asked, dots, strict=True)):
        found = Best(*(array[i] for array in best))
        kernels.select_full(query.x, vectors, dot, norm2, which, _slack(len(x[0])), found)


class _Few:
    """Blocks searched with one query after the other.

    Args:
        asked: The queries.
    """

    def __init__(self, asked: Sequence[tuple[Query, Rounded]]) -> None:
        """Keep the queries."""
        self._asked = asked

    def block(self, shard: Shard, rows: slice, which: Int[np.ndarray, " n"], best: Best) -> None:
        """Offer the rows of a block that are searched, by their rows in the index; -1 are none."""
        slack, is_plain = _slack(shard.shape.width), shard.shape.dtype == "float32"
        sparse, inside2 = shard.inside(rows), shard.array("inside2")[rows]
        rough = shard.roughly(rows)
        for i, (query, rounded) in enumerate(self._asked):
            # What is stored otherwise is made float32 as far as it is read.
            off = shard.off(rows, None if is_plain else query.chosen)
            at = query.chosen if is_plain else np.arange(len(off))
            of, found = Rows(off, *sparse, inside2, *rough), Best(*(array[i] for array in best))
            there = query._replace(chosen=at), rounded
            kernels.scan(*there, of, which, slack, found)


class _Many:
    """Blocks searched with all queries at once, by products of matrices of bounded size.

    Args:
        queries: The queries.
    """

    def __init__(self, queries: Queries) -> None:
        """Put S(x) into matrices, and make those of a tile."""
        self._queries = queries
        q, width = queries.x.shape
        self._sets = np.zeros((width, q), np.float32)
        for i, (a, b) in enumerate(pairwise(queries.starts)):
            self._sets[queries.chosen[a:b], i] = 1
        self._on = np.where(self._sets > 0, queries.beside_x, np.float32(0))
        n_tiles = -(-layout.BLOCK * width // TILE_VALUES)
        self._height = -(-layout.BLOCK // n_tiles)  # of equal ones
        self._tile = np.empty((width, self._height), np.float32)
        self._sums = np.empty((2, self._height, q), np.float32)

    def block(self, shard: Shard, rows: slice, which: Int[np.ndarray, " n"], best: Best) -> None:
        """As `_Few.block`."""
        off, inside2 = shard.off(rows), shard.array("inside2")[rows]
        of = Rows(off, *shard.inside(rows), inside2, NO_CODES, NO_STEPS)
        slack = _slack(shard.shape.width)
        for a in range(0, len(which), self._height):
            n = len(which[a : a + self._height])
            tile, (dot, y2) = self._tile[:, :n], self._sums[:, :n]
            tile[:] = off[:, a : a + n]  # of its long rows it would be read again for each product
            # A value may be too large for float32: the kernel computes such rows in float64.
            with np.errstate(over="ignore", invalid="ignore"):
                np.matmul(tile.T, self._on, out=dot)
                np.matmul(np.square(tile, out=tile).T, self._sets, out=y2)
            kernels.sift(self._queries, of, a, dot, y2, which[a : a + n], slack, best)
