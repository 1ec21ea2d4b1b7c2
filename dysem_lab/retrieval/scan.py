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
from jaxtyping import Bool, Float, Int, Shaped
from threadpoolctl import threadpool_limits
from torch import Tensor

from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.retrieval import kernels, layout
from dysem_lab.retrieval.kernels import Best, Queries, Query, Rounded, Rows
from dysem_lab.retrieval.layout import NO_CODES, NO_STEPS, Shard, values_of

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
    wanted = [
        (shard, rows)
        for shard in shards
        for rows in shard.blocks
        if allowed[shard.first + rows.start : shard.first + rows.stop].any()
    ]
    n_threads = max(1, min(torch.get_num_threads(), len(wanted)))
    blocks, next_block = iter(wanted), Lock()
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
                _full(asked, *_codes_of(shard, rows), shard.array("inside2")[rows], which, best)
            else:
                search.block(shard, rows, which, best)

    # Each thread takes the next block when it is ready, and has a heap of its own for each query.
    # Its products are computed in it alone: threads that wait for each other are slow where a
    # machine is busy.
    best = [_empty(len(asked), k) for _ in range(n_threads)]
    with ThreadPoolExecutor(n_threads) as pool, _one_blas_thread(len(asked)):
        others = [pool.submit(work, of) for of in best[1:]]
        work(best[0])  # here: a thread less to wait for
        for other in others:
            other.result()
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
        return _full(asked, *_codes_of(shard, within), inside2, which, best)
    (query, rounded), found = asked[0], Best(*(array[0] for array in best))
    off, sparse = shard.some_off(within, query.chosen), shard.some_inside(within)
    of = Rows(off, *sparse, np.ones_like(rounded.x), inside2, NO_CODES, NO_STEPS)
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
    values, chosen = x.detach().cpu().double().numpy(), S.cpu().numpy().nonzero()[0]
    on = np.abs(values[chosen])
    peak = on.max() if on.any() else np.abs(values).max()
    values = values / peak if peak > 0 else values
    outside2, most = values * values, np.zeros(len(values) + 1)
    outside2[chosen] = 0
    np.cumsum(np.sort(np.abs(values))[::-1], out=most[1:])
    on, inside2 = values[chosen], float(np.square(values[chosen]).sum())
    whole2 = inside2 + float(outside2.sum())
    with np.errstate(over="ignore", under="ignore"):  # the kernels see to that
        rounded = (of.astype(np.float32) for of in (on, values, outside2, most))
        return Query(chosen, on, values, outside2, inside2, whole2), Rounded(*rounded)


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
    norm by half as much of itself; u = 2⁻²⁴. The rest is for what is rounded around them: of a code
    the stored value, and x_j · scale, by u each.
    """
    return 2 * (n_terms + 16) * 2.0**-24


def _bits(codes: Shaped[np.ndarray, "*axes"]) -> Shaped[np.ndarray, "*axes"]:
    """Return codes as the kernels take them: numba knows no float16."""
    return codes.view(np.uint16) if codes.dtype == np.float16 else codes


def _codes_of(
    shard: Shard, rows: slice | Int[np.ndarray, " n"]
) -> tuple[Shaped[np.ndarray, "n d"], Float[np.ndarray, " d"]]:
    """Return rows of one block whose sets are full as they are stored, and their scales."""
    first = rows.start if isinstance(rows, slice) else rows[0]
    return shard.array("vectors")[rows], shard.scales(first)


def _full(
    asked: Sequence[tuple[Query, Rounded]],
    codes: Shaped[np.ndarray, "n d"],
    scales: Float[np.ndarray, " d"],
    norm2: Float[np.ndarray, " n"],
    which: Int[np.ndarray, " n"],
    best: Best,
) -> None:
    """Search rows whose sets are full: joint sets are all dimensions, whatever S(x) is."""
    x = np.stack([rounded.x for _, rounded in asked])
    slack = _slack(x.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        if len(x) < MANY and codes.dtype != np.float32:
            codes = _bits(codes)
            dots = [kernels.products(codes, row * scales) for row in x]
        else:
            codes = values_of(codes, scales)
            dots = [codes @ x[0]] if len(x) == 1 else x @ codes.T
    for i, ((query, _), dot) in enumerate(zip(asked, dots, strict=True)):
        found = Best(*(array[i] for array in best))
        kernels.select_full(query.x, codes, scales, dot, norm2, which, slack, found)


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
        off, values, *places = shard.coded(rows)
        of_each = (shard.array(name)[rows] for name in ("inside2", "rough", "steps"))
        of, slack = Rows(_bits(off), _bits(values), *places, *of_each), _slack(shard.shape.width)
        for i, (query, rounded) in enumerate(self._asked):
            kernels.scan(query, rounded, of, which, slack, Best(*(array[i] for array in best)))


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
        off, values, columns, starts, scales = shard.coded(rows)
        off, values = values_of(off, scales[:, None]), values_of(values, scales[columns])
        inside2 = shard.array("inside2")[rows]
        of = Rows(off, values, columns, starts, scales, inside2, NO_CODES, NO_STEPS)
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
