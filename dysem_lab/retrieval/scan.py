"""The k best rows of an index for each of some queries: every row is looked at, so none is missed.

Few queries go over each block one after the other (`dysem_lab.retrieval.kernels`); of many, the
sums over joint sets of a block are products of matrices, as in `dysem_lab.all_pairs_similarity`.
Memory beside the result is bounded whatever the index has.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from threadpoolctl import threadpool_limits
from torch import Tensor

from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.retrieval import kernels, layout
from dysem_lab.retrieval.kernels import Best, Query, Rows, Sums
from dysem_lab.retrieval.layout import Shard

MANY = 12  # queries from which on products of matrices are faster
TILE_VALUES = 2**19  # of each of the matrices of a tile: 2 MB
QUERIES_AT_ONCE = 512
HOPEFUL = 8  # one pair in so many may be looked at by itself before ‖x‖² is a product of matrices


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

    def work(best: Sequence[Best]) -> None:
        search = _Many(asked) if len(asked) >= MANY else _Few(asked)
        while True:
            with next_block:
                shard, rows = next(blocks, (None, slice(0)))
            if shard is None:
                return
            first = shard.first + rows.start
            there = allowed[first : shard.first + rows.stop]
            (search.full if shard.shape.full else search.block)(shard, rows, there, first, best)

    # Each thread takes the next block when it is ready, and has a heap of its own for each query.
    # Its products are computed in it alone: threads that wait for each other are slow where a
    # machine is busy.
    best = [[_empty(k) for _ in asked] for _ in range(n_threads)]
    with ThreadPoolExecutor(n_threads) as pool, _one_blas_thread(len(asked)):
        list(pool.map(work, best))
    return _merged(best, k)


def _one_blas_thread(n_queries: int) -> AbstractContextManager:
    """Keep numpy's products to the thread that asks for them, for as many as pay for that."""
    return threadpool_limits(1, "blas") if n_queries >= MANY else nullcontext()


def _empty(k: int) -> Best:
    return Best(np.full(k, -np.inf), np.full(k, -1, np.int64), np.zeros(2, np.int64))


def _worst(best: Best) -> float:
    """Return what a row has to reach to be among the best."""
    return best.scores[0] if best.counts[0] == len(best.scores) else -np.inf


def _merged(best: Sequence[Sequence[Best]], k: int) -> Found:
    """Return what all threads found of each query, in order."""
    scores = np.stack(
        [np.concatenate([of.scores for of in one]) for one in zip(*best, strict=True)]
    )
    rows = np.stack([np.concatenate([of.rows for of in one]) for one in zip(*best, strict=True)])
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    counts = np.array([sum(of.counts[1] for of in one) for one in zip(*best, strict=True)])
    return Found(np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1), counts)


def _query(x: Float[Tensor, " d"], S: Bool[Tensor, " d"]) -> Query:
    """Return a query as the kernels take it."""
    x, S = x.detach().cpu().double(), S.cpu()
    on = x[S].abs()
    peak = on.max() if len(on) and on.max() > 0 else x.abs().max()
    x = x / peak if peak > 0 else x
    outside2 = torch.where(S, 0.0, x * x)
    inside2 = float((x[S] ** 2).sum())
    exact = x[S].numpy(), x.numpy(), outside2.numpy(), inside2, inside2 + float(outside2.sum())
    rounded = (values.float().numpy() for values in (x[S], x, outside2))
    return Query(S.nonzero()[:, 0].numpy(), *exact, *rounded)


def _slack(n_terms: int) -> float:
    """Return a bound of the error of a cosine in float32 whose sums have so many terms.

    A sum of n products errs by at most (n + 1) u Σ|x_j y_j| ≤ (n + 1) u ‖x‖‖y‖, in any order, a
    norm by half as much of itself; u = 2⁻²⁴. The rest is for what is rounded around them.
    """
    return 2 * (n_terms + 16) * 2.0**-24


class _Few:
    """Blocks searched with one query after the other.

    Args:
        asked: The queries.
    """

    def __init__(self, asked: Sequence[Query]) -> None:
        """Keep the queries."""
        self._asked = asked

    def block(
        self,
        shard: Shard,
        rows: slice,
        allowed: Bool[np.ndarray, " n"],
        first: int,
        best: Sequence[Best],
    ) -> None:
        """Offer the allowed rows of a block, the first of which is row `first` of the index."""
        slack, is_plain = _slack(shard.shape.width), shard.shape.dtype == "float32"
        sparse, inside2 = shard.inside(rows), shard.array("inside2")[rows]
        for query, found in zip(self._asked, best, strict=True):
            # What is stored otherwise is made float32 as far as it is read.
            off = shard.off(rows, None if is_plain else query.chosen)
            at = query.chosen if is_plain else np.arange(len(off))
            of = Rows(off, *sparse, inside2)
            kernels.scan(query._replace(chosen=at), of, allowed, first, slack, found)

    def full(
        self,
        shard: Shard,
        rows: slice,
        allowed: Bool[np.ndarray, " n"],
        first: int,
        best: Sequence[Best],
    ) -> None:
        """As `block`, where sets are full: joint sets are all dimensions, whatever S(x) is."""
        vectors, norm2 = shard.vectors(rows), shard.array("inside2")[rows]
        slack = _slack(shard.shape.width)
        for query, dot, found in zip(self._asked, self._dots(vectors), best, strict=True):
            kernels.select_full(query.x, vectors, dot, norm2, allowed, first, slack, found)

    def _dots(self, vectors: Float[np.ndarray, "n d"]) -> Iterable[Float[np.ndarray, " n"]]:
        """Yield the inner products of each query with all rows."""
        with np.errstate(over="ignore", invalid="ignore"):
            return [vectors @ query.x32 for query in self._asked]


class _Many(_Few):
    """Blocks searched with all queries at once, by products of matrices of bounded size.

    Args:
        asked: The queries.
    """

    def __init__(self, asked: Sequence[Query]) -> None:
        """Put the queries into matrices, and make those of a tile."""
        super().__init__(asked)
        self._x = np.stack([query.x32 for query in asked])
        self._outside2 = np.stack([query.outside2_32 for query in asked])
        self._sets = np.zeros_like(self._x)
        for row, query in zip(self._sets, asked, strict=True):
            row[query.chosen] = 1
        self._on = np.where(self._sets > 0, self._x, np.float32(0))
        with np.errstate(over="ignore"):
            bounds = [(query.inside2, query.whole2) for query in asked]
            self._bounds = np.array(bounds).T.astype(np.float32)
        width = self._x.shape[1]
        n_tiles = -(-layout.BLOCK * width // TILE_VALUES)
        self._height = -(-layout.BLOCK // n_tiles)  # of equal ones
        self._squares = np.empty((width, self._height), np.float32)
        self._inside = np.empty((self._height, width), np.float32)
        self._in_sets = np.empty((self._height, width), np.float32)

    def block(
        self,
        shard: Shard,
        rows: slice,
        allowed: Bool[np.ndarray, " n"],
        first: int,
        best: Sequence[Best],
    ) -> None:
        """As `_Few.block`."""
        off, inside2 = shard.off(rows), shard.array("inside2")[rows]
        of, slack = Rows(off, *shard.inside(rows), inside2), _slack(shard.shape.width)
        for a in range(0, len(allowed), self._height):
            tile = slice(a, min(a + self._height, len(allowed)))
            inside, in_sets = (m[: tile.stop - a] for m in (self._inside, self._in_sets))
            kernels.spread(of, a, inside, in_sets)
            outside = off[:, tile]
            # A value may be too large for float32: the kernel computes such rows in float64.
            with np.errstate(over="ignore", invalid="ignore"):
                dot = self._on @ outside
                dot += self._x @ inside.T
                y2 = self._sets @ np.multiply(outside, outside, out=self._squares[:, : len(inside)])
                y2 += inside2[tile]
                least = np.array([_worst(found) - slack for found in best], np.float32)
                least_x2, most_x2 = self._bounds
                hopeful = kernels.n_hopeful(dot, least_x2, most_x2, y2, least)
                x2 = [np.broadcast_to(bound[:, None], dot.shape) for bound in self._bounds]
                if hopeful.sum() > dot.size / HOPEFUL:  # too many to look at one by one
                    x2 = 2 * [self._outside2 @ in_sets.T + self._bounds[0][:, None]]
            for i in hopeful.nonzero()[0].tolist():
                of_query = Sums(dot[i], x2[0][i].copy(), x2[1][i].copy(), y2[i])
                some = allowed[tile], a, first, slack, best[i]
                kernels.select(self._asked[i], of, of_query, *some)

    def _dots(self, vectors: Float[np.ndarray, "n d"]) -> Iterable[Float[np.ndarray, " n"]]:
        with np.errstate(over="ignore", invalid="ignore"):
            return self._x @ vectors.T
