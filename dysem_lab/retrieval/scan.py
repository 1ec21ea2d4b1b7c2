"""The k best rows of an index for each of some queries: every row is looked at, so none is missed.

Few queries go over each block one after the other (`dysem_lab.retrieval.kernels`); of many, the
sums over joint sets of a block are products of matrices, as in `dysem_lab.all_pairs_similarity`.
Memory beside the result is bounded whatever the index has.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.retrieval import kernels
from dysem_lab.retrieval.kernels import Best, Query, Rows
from dysem_lab.retrieval.layout import Shard

MANY = 12  # queries from which on products of matrices are faster
TILE_VALUES = 2**21  # of the matrices of a tile: three of 8 MB
QUERIES_AT_ONCE = 1024


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
    n_threads = torch.get_num_threads()
    # A heap of each query for each thread that may come upon a good row.
    best = [[_empty(k) for _ in asked] for _ in range(n_threads)]
    with ThreadPoolExecutor(n_threads) as pool:
        for shard in shards:
            searched = allowed[shard.first : shard.first + shard.shape.rows]
            blocks = [rows for rows in shard.blocks if searched[rows].any()]
            if not blocks:
                continue
            if shard.shape.full:
                matrix = torch.from_numpy(np.stack([query.x32 for query in asked]))
                for rows in blocks:
                    _full(asked, matrix, shard, rows, searched[rows], best[0], pool)
            elif len(asked) < MANY:
                _few(asked, shard, blocks, searched, best, pool)
            else:
                tiles = _Tiles(asked, shard.shape.width)
                for rows in blocks:
                    tiles.search(shard, rows, searched[rows], best[0], pool)
    return _merged(best, k)


def _empty(k: int) -> Best:
    return Best(np.full(k, -np.inf), np.full(k, -1, np.int64), np.zeros(2, np.int64))


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
    exact = x[S].numpy(), x.numpy(), outside2.numpy(), inside2
    rounded = (values.float().numpy() for values in (x[S], x, outside2))
    return Query(S.nonzero()[:, 0].numpy(), *exact, *rounded)


def _slack(n_terms: int) -> float:
    """Return a bound of the error of a cosine in float32 whose sums have so many terms.

    A sum of n products errs by at most (n + 1) u Σ|x_j y_j| ≤ (n + 1) u ‖x‖‖y‖, in any order, a
    norm by half as much of itself; u = 2⁻²⁴. The rest is for what is rounded around them.
    """
    return 2 * (n_terms + 16) * 2.0**-24


def _few(
    asked: Sequence[Query],
    shard: Shard,
    blocks: Sequence[slice],
    searched: Bool[np.ndarray, " n"],
    best: Sequence[Sequence[Best]],
    pool: ThreadPoolExecutor,
) -> None:
    """Search blocks with few queries: a thread takes the next block when it is ready."""
    slack, left = _slack(shard.shape.width), iter(blocks)
    inside2 = shard.array("inside2")
    is_plain = shard.shape.dtype == "float32"

    def work(mine: Sequence[Best]) -> None:
        for rows in left:
            sparse, first = shard.inside(rows), shard.first + rows.start
            for query, found in zip(asked, mine, strict=True):
                # What is stored otherwise is made float32 as far as it is read.
                off = shard.off(rows, None if is_plain else query.chosen)
                at = query.chosen if is_plain else np.arange(len(off))
                of = Rows(off, *sparse, inside2[rows])
                kernels.scan(query._replace(chosen=at), of, searched[rows], first, slack, found)

    list(pool.map(work, best))


class _Tiles:
    """Sums over joint sets of many queries with the rows of a block, in matrices of bounded size.

    Args:
        asked: The queries.
        width: Number of dimensions, d.
    """

    def __init__(self, asked: Sequence[Query], width: int) -> None:
        """Put the queries into matrices, and make those of a tile."""
        self._asked = asked
        self._x = torch.from_numpy(np.stack([query.x32 for query in asked]))
        self._outside2 = torch.from_numpy(np.stack([query.outside2_32 for query in asked]))
        self._sets = torch.zeros_like(self._x)
        for row, query in zip(self._sets, asked, strict=True):
            row[torch.from_numpy(query.chosen)] = 1
        self._on = torch.where(self._sets > 0, self._x, 0.0)
        self._inside2 = torch.tensor([query.inside2 for query in asked])[:, None]
        self._height = max(1, TILE_VALUES // width)
        self._inside = torch.empty(self._height, width)
        self._in_sets = torch.empty(self._height, width)

    def search(
        self,
        shard: Shard,
        rows: slice,
        allowed: Bool[np.ndarray, " n"],
        best: Sequence[Best],
        pool: ThreadPoolExecutor,
    ) -> None:
        """Offer the allowed rows of a block to every query."""
        off, inside2 = shard.off(rows), shard.array("inside2")[rows]
        of = Rows(off, *shard.inside(rows), inside2)
        first, slack = shard.first + rows.start, _slack(shard.shape.width)
        for a in range(0, len(allowed), self._height):
            tile = slice(a, min(a + self._height, len(allowed)))
            n = tile.stop - a
            inside, in_sets = self._inside[:n], self._in_sets[:n]
            kernels.spread(of, a, inside.numpy(), in_sets.numpy())
            outside = torch.from_numpy(off)[:, tile]
            dot = torch.addmm(self._on @ outside, self._x, inside.T)
            x2 = torch.addmm(self._inside2, self._outside2, in_sets.T)
            y2 = torch.addmm(torch.from_numpy(inside2[tile])[None], self._sets, outside * outside)
            sums = zip(dot.numpy(), x2.numpy(), y2.numpy(), strict=True)
            some = repeat(allowed[tile]), repeat(a), repeat(first), repeat(slack)
            list(pool.map(kernels.select, self._asked, repeat(of), sums, *some, best))


def _full(
    asked: Sequence[Query],
    matrix: Float[Tensor, "q d"],
    shard: Shard,
    rows: slice,
    allowed: Bool[np.ndarray, " n"],
    best: Sequence[Best],
    pool: ThreadPoolExecutor,
) -> None:
    """Search a block whose sets are full: the joint sets are all dimensions, whatever S(x) is."""
    vectors, norm2 = shard.vectors(rows), shard.array("inside2")[rows]
    dot = (matrix @ torch.from_numpy(vectors).T).numpy()
    slack, first = _slack(shard.shape.width), shard.first + rows.start
    xs = (query.x for query in asked)
    same = repeat(norm2), repeat(allowed), repeat(first), repeat(slack)
    list(pool.map(kernels.select_full, xs, repeat(vectors), dot, *same, best))
