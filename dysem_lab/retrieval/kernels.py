"""The joint-set cosine of a query with each row of a block, in compiled loops (DySem Eqs. 14-17).

A row's vector is there in two disjoint parts: y off S(y), a column for each dimension, and y on
S(y), sparse. With U = S(x) ∪ S(y) every sum over U is one over S(x) and one over S(y), added::

    <x, y>_U = Σ_{j∈S(x)} x_j (y off S(y))_j  +  Σ_{j∈S(y)} x_j y_j
    ‖y‖²_U   = Σ_{j∈S(x)} (y off S(y))_j²     +  ‖y‖²_{S(y)}
    ‖x‖²_U   = ‖x‖²_{S(x)}                    +  Σ_{j∈S(y)} (x off S(x))_j²

Only the columns of S(x) are read, and the sparse rows. ‖x‖²_U needs a second look at each sparse
row, so it is taken where ‖x‖_{S(x)} ≤ ‖x‖_U ≤ ‖x‖ does not show already that a row is none of the k
best.

What is computed in float32 only says which rows can be left out, by a margin that is a bound of its
rounding; each of the others is computed again in float64. So scores and ranks are those of float64.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

# Sums may be taken in another order and fused; NaN and infinity keep their meaning.
FAST = {"reassoc", "contract", "nsz"}
# A squared norm outside of these may have lost values below or above the range of float32.
LEAST, MOST = np.float32(2.0**-60), np.float32(2.0**60)


class Rows(NamedTuple):
    """The rows of a block, float32: of shape [c, n] y off S(y), and y on S(y)."""

    off: np.ndarray
    values: np.ndarray
    columns: np.ndarray
    starts: np.ndarray  # of n + 1: where a row begins in values and columns
    inside2: np.ndarray  # ‖y‖²_{S(y)}


class Query(NamedTuple):
    """A query in float64, and in float32; x is scaled to a largest value of 1 on S(x)."""

    chosen: np.ndarray  # of the rows of `Rows.off`, those that are dimensions of S(x)
    on: np.ndarray  # x there, float64
    x: np.ndarray  # float64 [d]
    outside2: np.ndarray  # x² off S(x), 0 on it, float64 [d]
    inside2: float  # ‖x‖²_{S(x)}
    whole2: float  # ‖x‖²
    on32: np.ndarray
    x32: np.ndarray
    outside2_32: np.ndarray


class Sums(NamedTuple):
    """Sums over the joint sets of a query with n rows, in float32, [n] each."""

    dot: np.ndarray
    least_x2: np.ndarray  # bounds of ‖x‖²
    most_x2: np.ndarray
    y2: np.ndarray


class Best(NamedTuple):
    """The best rows of a query so far: a heap whose first entry is the worst of them."""

    scores: np.ndarray  # float64 [k]
    rows: np.ndarray  # int64 [k]
    counts: np.ndarray  # int64 [2]: rows in the heap; rows without a similarity


@njit(nogil=True, cache=True)
def _worse(score: float, row: int, other_score: float, other_row: int) -> bool:
    """Return whether a row comes after another: a lower score, or an equal one added later."""
    return score < other_score or (score == other_score and row > other_row)


@njit(nogil=True, cache=True)
def _push(best: Best, score: float, row: int) -> None:
    """Put a row among the k best, if it is one of them."""
    scores, rows, counts = best
    n = counts[0]
    if n < len(scores):
        at = n
        counts[0] += 1
        while at > 0:
            above = (at - 1) // 2
            if not _worse(score, row, scores[above], rows[above]):
                break
            scores[at], rows[at] = scores[above], rows[above]
            at = above
    else:
        if not _worse(scores[0], rows[0], score, row):
            return
        at = 0
        while 2 * at + 1 < n:
            below = 2 * at + 1
            other = below + 1
            if other < n and _worse(scores[other], rows[other], scores[below], rows[below]):
                below = other
            if not _worse(scores[below], rows[below], score, row):
                break
            scores[at], rows[at] = scores[below], rows[below]
            at = below
    scores[at], rows[at] = score, row


@njit(nogil=True, cache=True)
def _offer(best: Best, dot: float, x2: float, y2: float, row: int) -> None:
    """Put a row among the k best by its sums over the joint set, or count it as undefined."""
    if x2 == 0 or y2 == 0:
        best.counts[1] += 1
        return
    _push(best, min(1.0, max(-1.0, dot / (np.sqrt(x2) * np.sqrt(y2)))), row)


@njit(nogil=True, cache=True)
def _exact(query: Query, rows: Rows, i: int, best: Best, row: int) -> None:
    """Offer row i of a block, computed in float64."""
    dot, y2, x2 = 0.0, 0.0, query.inside2
    for c in range(len(query.chosen)):
        y = np.float64(rows.off[query.chosen[c], i])
        dot += query.on[c] * y
        y2 += y * y
    for e in range(rows.starts[i], rows.starts[i + 1]):
        y = np.float64(rows.values[e])
        dot += query.x[rows.columns[e]] * y
        y2 += y * y
        x2 += query.outside2[rows.columns[e]]
    _offer(best, dot, x2, y2, row)


@njit(nogil=True, cache=True, fastmath=FAST)
def _over_columns(query: Query, off: np.ndarray, dot: np.ndarray, y2: np.ndarray) -> None:
    """Add the sums over S(x) to dot and ‖y‖², four columns at a time."""
    n, c = len(dot), 0
    while c + 4 <= len(query.chosen):
        first, second = off[query.chosen[c]], off[query.chosen[c + 1]]
        third, fourth = off[query.chosen[c + 2]], off[query.chosen[c + 3]]
        x0, x1, x2, x3 = query.on32[c], query.on32[c + 1], query.on32[c + 2], query.on32[c + 3]
        for i in range(n):
            a, b, e, f = first[i], second[i], third[i], fourth[i]
            dot[i] += x0 * a + x1 * b + x2 * e + x3 * f
            y2[i] += a * a + b * b + e * e + f * f
        c += 4
    while c < len(query.chosen):
        column, x0 = off[query.chosen[c]], query.on32[c]
        for i in range(n):
            dot[i] += x0 * column[i]
            y2[i] += column[i] * column[i]
        c += 1


# Each takes the slices of one row, over which a loop from 0 becomes vector instructions.
@njit(nogil=True, cache=True, fastmath=FAST)
def _gathered(values: np.ndarray, columns: np.ndarray, x: np.ndarray) -> np.float32:
    """Return Σ x_j y_j over a sparse row."""
    total = np.float32(0)
    for e in range(len(values)):
        total += values[e] * x[np.int64(columns[e])]
    return total


@njit(nogil=True, cache=True, fastmath=FAST)
def _outside(outside2: np.ndarray, columns: np.ndarray) -> np.float32:
    """Return Σ (x off S(x))_j² over a sparse row."""
    total = np.float32(0)
    for e in range(len(columns)):
        total += outside2[np.int64(columns[e])]
    return total


@njit(nogil=True, cache=True)
def scan(
    query: Query, rows: Rows, allowed: np.ndarray, first: int, slack: float, best: Best
) -> None:
    """Offer every allowed row of a block that can be one of the k best.

    Args:
        query: The query.
        rows: The n rows of the block.
        allowed: Which of them are searched, bool [n].
        first: Row of the index that is the block's first.
        slack: Bound of the error of a cosine in float32.
        best: What is found so far.
    """
    n = len(allowed)
    dot, y2 = np.zeros(n, np.float32), rows.inside2.copy()
    _over_columns(query, rows.off, dot, y2)
    x2, most_x2 = np.float32(query.inside2), np.float32(query.whole2)
    for i in range(n):
        if not allowed[i]:
            continue
        if best.counts[0] == len(best.scores) and LEAST < y2[i] < MOST:
            a, b, least = rows.starts[i], rows.starts[i + 1], best.scores[0] - slack
            columns = rows.columns[a:b]
            d = dot[i] + _gathered(rows.values[a:b], columns, query.x32)
            if np.isfinite(d):
                some_x2 = x2 if least > 0 else most_x2
                if x2 > LEAST and some_x2 < MOST and d < least * np.sqrt(some_x2 * y2[i]):
                    continue
                whole = x2 + _outside(query.outside2_32, columns)
                if LEAST < whole < MOST and d < least * np.sqrt(whole * y2[i]):
                    continue
        _exact(query, rows, i, best, first + i)


@njit(nogil=True, cache=True, fastmath=FAST)
def _hopeful(dot: np.float32, x2: np.float32, y2: np.float32, least: np.float32) -> bool:
    """Return whether a cosine can be `least` or more, or has to be computed in float64."""
    sound = LEAST < x2 < MOST and LEAST < y2 < MOST and dot > -MOST
    return not (sound and dot < least * np.sqrt(x2 * y2))


@njit(nogil=True, cache=True, fastmath=FAST)
def n_hopeful(
    dot: np.ndarray, least_x2: np.ndarray, most_x2: np.ndarray, y2: np.ndarray, least: np.ndarray
) -> np.ndarray:
    """Return how many of n rows can have a cosine of `least` or more with each of q queries.

    Args:
        dot: <x, y> over the joint sets, float32 [q, n].
        least_x2: A bound of ‖x‖² over the joint sets, float32 [q].
        most_x2: Another, float32 [q].
        y2: ‖y‖² over the joint sets, float32 [q, n].
        least: float32 [q].
    """
    counts = np.zeros(len(dot), np.int64)
    for q in range(len(dot)):
        products, norms, bound, n = dot[q], y2[q], least[q], np.int32(0)
        x2 = least_x2[q] if bound > 0 else most_x2[q]
        if not (least_x2[q] > LEAST and most_x2[q] < MOST):
            counts[q] = len(products)
            continue
        for i in range(len(products)):  # without a branch, for vector instructions
            sound = (norms[i] > LEAST) & (norms[i] < MOST) & (products[i] > -MOST)
            hopeless = sound & (products[i] < bound * np.sqrt(x2 * norms[i]))
            n += np.int32(not hopeless)
        counts[q] = n
    return counts


@njit(nogil=True, cache=True)
def select(
    query: Query,
    rows: Rows,
    sums: Sums,
    allowed: np.ndarray,
    start: int,
    first: int,
    slack: float,
    best: Best,
) -> None:
    """As `scan`, of those rows of a block from `start` on whose sums are known."""
    for i in range(len(allowed)):
        if not allowed[i]:
            continue
        if best.counts[0] == len(best.scores) and sums.least_x2[i] > LEAST:
            least, dot, y2 = np.float32(best.scores[0] - slack), sums.dot[i], sums.y2[i]
            if not _hopeful(dot, sums.least_x2[i] if least > 0 else sums.most_x2[i], y2, least):
                continue
            some = rows.columns[rows.starts[start + i] : rows.starts[start + i + 1]]
            x2 = np.float32(query.inside2) + _outside(query.outside2_32, some)
            if not _hopeful(dot, x2, y2, least):
                continue
        _exact(query, rows, start + i, best, first + start + i)


@njit(nogil=True, cache=True)
def select_full(
    x: np.ndarray,
    vectors: np.ndarray,
    dot: np.ndarray,
    norm2: np.ndarray,
    allowed: np.ndarray,
    first: int,
    slack: float,
    best: Best,
) -> None:
    """As `scan`, of rows whose sets are full: float32 [n, d], with their inner products.

    Args:
        x: The query, float64 [d].
        vectors: The rows.
        dot: Their inner products with x in float32, [n].
        norm2: Their squared norms in float32, [n].
        allowed: Which of them are searched, bool [n].
        first: Row of the index that is the first.
        slack: Bound of the error of a cosine in float32.
        best: What is found so far.
    """
    norm2_x = 0.0
    for j in range(len(x)):
        norm2_x += x[j] * x[j]
    x2 = np.float32(norm2_x)
    for i in range(len(allowed)):
        if not allowed[i]:
            continue
        sound = LEAST < x2 < MOST and LEAST < norm2[i] < MOST
        if best.counts[0] == len(best.scores) and sound:
            least = (best.scores[0] - slack) * np.sqrt(x2 * norm2[i])
            if np.isfinite(dot[i]) and dot[i] < least:
                continue
        exact_dot, exact_norm2 = 0.0, 0.0
        for j in range(len(x)):
            y = np.float64(vectors[i, j])
            exact_dot += x[j] * y
            exact_norm2 += y * y
        _offer(best, exact_dot, norm2_x, exact_norm2, first + i)


@njit(nogil=True, cache=True)
def spread(rows: Rows, start: int, inside: np.ndarray, sets: np.ndarray) -> None:
    """Write y on S(y), and S(y) as 0 and 1, of rows from `start` on into matrices [n, d]."""
    inside[:] = 0
    sets[:] = 0
    for i in range(len(inside)):
        for e in range(rows.starts[start + i], rows.starts[start + i + 1]):
            inside[i, rows.columns[e]] = rows.values[e]
            sets[i, rows.columns[e]] = 1
