"""The joint-set cosine of a query with each row of a block, in compiled loops (DySem Eqs. 14-17).

A row's vector is there in two disjoint parts: y off S(y), a column for each dimension, and y on
S(y), sparse. With U = S(x) ∪ S(y) every sum over U is one over S(x) and one over S(y), added::

    <x, y>_U = Σ_{j∈S(x)} x_j (y off S(y))_j  +  Σ_{j∈S(y)} x_j y_j
    ‖y‖²_U   = Σ_{j∈S(x)} (y off S(y))_j²     +  ‖y‖²_{S(y)}
    ‖x‖²_U   = ‖x‖²_{S(x)}                    +  Σ_{j∈S(y)} (x off S(x))_j²

Of every row only the columns of S(x) are read, and y on S(y) in 8 bits, whose steps bound how far
Σ_{j∈S(y)} x_j y_j can be from what they give. Where that, and ‖x‖_{S(x)} ≤ ‖x‖_U ≤ ‖x‖, does not
show already that a row is none of the k best, its sparse row is read, and then again for ‖x‖²_U.

What is computed in float32 only says which rows can be left out, by a margin that is a bound of its
rounding; each of the others is computed again in float64. So scores and ranks are those of float64.

Over 400 lines, as loops that are compiled together stand together.
"""

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# Sums may be taken in another order and fused; NaN and infinity keep their meaning.
FAST = {"reassoc", "contract", "nsz"}
# A squared norm outside of these may have lost values below or above the range of float32.
LEAST, MOST = np.float32(2.0**-60), np.float32(2.0**60)
# Half a step, and what is rounded in float32 as a code is made and codes are summed.
HALF_STEP = np.float32(0.51)
ALONE = 8  # where fewer than one query in so many can have a row, ‖x‖² is a sum for each of them


class Rows(NamedTuple):
    """The rows of a block, in float32 or as codes: of shape [c, n] y off S(y), and y on S(y).

    Codes are int8, or uint16 for the bits of a float16. Which value one stands for, `_stored` says.
    """

    off: np.ndarray
    values: np.ndarray
    columns: np.ndarray
    starts: np.ndarray  # of n + 1: where a row begins in values and columns
    scales: np.ndarray  # float32 [d]: of the codes of each dimension, 1 of what is float32
    inside2: np.ndarray  # ‖y‖²_{S(y)}
    rough: np.ndarray  # int8 [n, d]: y on S(y) in steps of its row, 0 off it; or [0, 0]
    steps: np.ndarray  # of n; or of none


class Query(NamedTuple):
    """A query in float64; x is scaled to a largest value of 1 on S(x)."""

    chosen: np.ndarray  # of the rows of `Rows.off`, those that are dimensions of S(x)
    on: np.ndarray  # x there
    x: np.ndarray  # [d]
    outside2: np.ndarray  # x² off S(x), 0 on it, [d]
    inside2: float  # ‖x‖²_{S(x)}
    whole2: float  # ‖x‖²


class Rounded(NamedTuple):
    """A query in float32."""

    on: np.ndarray
    x: np.ndarray
    outside2: np.ndarray
    most: np.ndarray  # of d + 1: the sums of the largest |x_j|, so many of them


class Queries(NamedTuple):
    """q queries, one after the other in float64, and side by side in float32."""

    starts: np.ndarray  # of q + 1: where a query begins in chosen and on
    chosen: np.ndarray
    on: np.ndarray
    x: np.ndarray  # [q, d]
    outside2: np.ndarray  # [q, d]
    inside2: np.ndarray  # [q]
    whole2: np.ndarray  # [q]
    outside2_32: np.ndarray  # [q, d]
    beside_x: np.ndarray  # float32 [d, q]
    beside_outside2: np.ndarray  # float32 [d, q]


class Best(NamedTuple):
    """The best rows of a query so far: a heap whose first entry is the worst of them.

    Of q queries the arrays have a first axis of q.
    """

    scores: np.ndarray  # float64 [k]
    rows: np.ndarray  # int64 [k]
    counts: np.ndarray  # int64 [2]: rows in the heap; rows without a similarity


def _value(typing: Any, code: Any, scale: Any) -> Any:
    """Return the type of `_stored`, and what writes its instructions."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        found, by = values
        if code == types.float32:
            return found
        if code == types.uint16:
            found = builder.fpext(builder.bitcast(found, ir.HalfType()), ir.FloatType())
        else:
            found = builder.sitofp(found, ir.FloatType())
        return builder.fmul(found, by)

    return types.float32(code, types.float32), generate


# Of a code and its scale, the value that it stands for: float32(code · scale), or a float32 itself.
_stored: Any = intrinsic(_value)


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
def _of_query(best: Best, q: int) -> Best:
    """Return the best rows of one of some queries."""
    return Best(best.scores[q], best.rows[q], best.counts[q])


@njit(nogil=True, cache=True)
def _exact(query: Query, rows: Rows, i: int, best: Best, row: int) -> None:
    """Offer row i of a block, computed in float64."""
    dot, y2, x2 = 0.0, 0.0, query.inside2
    for c in range(len(query.chosen)):
        j = query.chosen[c]
        y = np.float64(_stored(rows.off[j, i], rows.scales[j]))
        dot += query.on[c] * y
        y2 += y * y
    for e in range(rows.starts[i], rows.starts[i + 1]):
        j = np.int64(rows.columns[e])
        y = np.float64(_stored(rows.values[e], rows.scales[j]))
        dot += query.x[j] * y
        y2 += y * y
        x2 += query.outside2[j]
    _offer(best, dot, x2, y2, row)


@njit(nogil=True, cache=True, fastmath=FAST)
def _over_columns(
    query: Query, on: np.ndarray, rows: Rows, dot: np.ndarray, y2: np.ndarray
) -> None:
    """Add the sums over S(x) to dot and ‖y‖², four columns at a time."""
    chosen, off, scales = query.chosen, rows.off, rows.scales
    n, c = len(dot), 0
    while c + 4 <= len(chosen):
        h, j, k, m = chosen[c], chosen[c + 1], chosen[c + 2], chosen[c + 3]
        first, second, third, fourth = off[h], off[j], off[k], off[m]
        s0, s1, s2, s3 = scales[h], scales[j], scales[k], scales[m]
        x0, x1, x2, x3 = on[c], on[c + 1], on[c + 2], on[c + 3]
        for i in range(n):
            a, b = _stored(first[i], s0), _stored(second[i], s1)
            e, f = _stored(third[i], s2), _stored(fourth[i], s3)
            dot[i] += x0 * a + x1 * b + x2 * e + x3 * f
            y2[i] += a * a + b * b + e * e + f * f
        c += 4
    while c < len(chosen):
        column, s0, x0 = off[chosen[c]], scales[chosen[c]], on[c]
        for i in range(n):
            a = _stored(column[i], s0)
            dot[i] += x0 * a
            y2[i] += a * a
        c += 1


# The next three take slices of one row, over which a loop from 0 needs no other checks.
@njit(nogil=True, cache=True)
def _gathered(codes: np.ndarray, columns: np.ndarray, x: np.ndarray) -> np.float32:
    """Return Σ x_j c_j over a sparse row of codes.

    Four sums of single values: a vector instruction that gathers values takes longer.
    """
    first, second, third, fourth = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    n, one = len(codes) // 4 * 4, np.float32(1)
    for e in range(0, n, 4):
        first += _stored(codes[e], one) * x[np.int64(columns[e])]
        second += _stored(codes[e + 1], one) * x[np.int64(columns[e + 1])]
        third += _stored(codes[e + 2], one) * x[np.int64(columns[e + 2])]
        fourth += _stored(codes[e + 3], one) * x[np.int64(columns[e + 3])]
    for e in range(n, len(codes)):
        first += _stored(codes[e], one) * x[np.int64(columns[e])]
    return (first + second) + (third + fourth)


@njit(nogil=True, cache=True, fastmath=FAST)
def _roughly(codes: np.ndarray, x: np.ndarray) -> np.float32:
    """Return Σ x_j c_j over a row of codes."""
    total = np.float32(0)
    for j in range(len(codes)):
        total += _stored(codes[j], np.float32(1)) * x[j]
    return total


@njit(nogil=True, cache=True, fastmath=FAST)
def _outside(outside2: np.ndarray, columns: np.ndarray) -> np.float32:
    """Return Σ (x off S(x))_j² over a sparse row."""
    total = np.float32(0)
    for e in range(len(columns)):
        total += outside2[np.int64(columns[e])]
    return total


@njit(nogil=True, cache=True)
def _one_of(queries: Queries, q: int) -> Query:
    """Return one of some queries."""
    a, b = queries.starts[q], queries.starts[q + 1]
    return Query(
        queries.chosen[a:b],
        queries.on[a:b],
        queries.x[q],
        queries.outside2[q],
        queries.inside2[q],
        queries.whole2[q],
    )


@njit(nogil=True, cache=True)
def _bound(best: Best, query: Query, slack: float) -> np.float32:
    """Return b so that a row with <x, y> < b ‖y‖ is none of the k best; −inf where that is open."""
    x2, most_x2 = np.float32(query.inside2), np.float32(query.whole2)
    if best.counts[0] < len(best.scores) or not (x2 > LEAST and most_x2 < MOST):
        return np.float32(-np.inf)
    least = best.scores[0] - slack
    return np.float32(least * np.sqrt(x2 if least > 0 else most_x2))


@njit(nogil=True, cache=True)
def _is_hopeful(dot: np.float32, y2: np.float32, bound: np.float32) -> bool:
    """Return whether <x, y> is `bound` ‖y‖ or more, or not known well enough to say so."""
    sound = LEAST < y2 < MOST and dot > -MOST
    return not (sound and dot < bound * np.sqrt(y2))


@njit(nogil=True, cache=True)
def _look(
    query: Query,
    rows: Rows,
    i: int,
    dot: np.float32,
    x2: np.float32,
    y2: np.float32,
    slack: float,
    best: Best,
    row: int,
) -> np.float32:
    """Offer row i of a block unless its sums in float32 say that it is none; return `_bound`."""
    bound = np.float32(-np.inf)
    if best.counts[0] == len(best.scores) and LEAST < x2 < MOST:
        bound = np.float32((best.scores[0] - slack) * np.sqrt(x2))
    if _is_hopeful(dot, y2, bound):
        _exact(query, rows, i, best, row)
    return _bound(best, query, slack)


@njit(nogil=True, cache=True)
def scan(
    query: Query,
    rounded: Rounded,
    rows: Rows,
    which: np.ndarray,
    slack: float,
    best: Best,
) -> None:
    """Offer every allowed row of a block that can be one of the k best.

    Args:
        query: The query.
        rounded: The same.
        rows: The n rows of the block.
        which: Their rows in the index, int64 [n]; -1 for those that are not searched.
        slack: Bound of the error of a cosine in float32.
        best: What is found so far.
    """
    n = len(which)
    dot, y2 = np.zeros(n, np.float32), rows.inside2.copy()
    _over_columns(query, rounded.on, rows, dot, y2)
    x = rounded.x * rows.scales  # of a dimension instead of each of its codes
    x2, bound = np.float32(query.inside2), _bound(best, query, slack)
    for i in range(n):
        if which[i] < 0:
            continue
        a, b = rows.starts[i], rows.starts[i + 1]
        if len(rows.steps):
            about = dot[i] + rows.steps[i] * _roughly(rows.rough[i], rounded.x)
            most = about + HALF_STEP * rows.steps[i] * rounded.most[b - a]
            if not _is_hopeful(most, y2[i], bound):
                continue
        d = dot[i] + _gathered(rows.values[a:b], rows.columns[a:b], x)
        if _is_hopeful(d, y2[i], bound):
            whole = x2 + _outside(rounded.outside2, rows.columns[a:b])
            bound = _look(query, rows, i, d, whole, y2[i], slack, best, which[i])


@njit(nogil=True, cache=True, fastmath=FAST)
def _add_rows(values: np.ndarray, columns: np.ndarray, of: np.ndarray, sums: np.ndarray) -> None:
    """Add Σ_e values_e · of[columns_e] to sums [q], four rows of `of` [d, q] at a time."""
    n, e = len(values), 0
    while e + 4 <= n:
        first, second = of[columns[e]], of[columns[e + 1]]
        third, fourth = of[columns[e + 2]], of[columns[e + 3]]
        a, b, c, f = values[e], values[e + 1], values[e + 2], values[e + 3]
        for q in range(len(sums)):
            sums[q] += a * first[q] + b * second[q] + c * third[q] + f * fourth[q]
        e += 4
    while e < n:
        row, a = of[columns[e]], values[e]
        for q in range(len(sums)):
            sums[q] += a * row[q]
        e += 1


@njit(nogil=True, cache=True, fastmath=FAST)
def _n_hopeful(dot: np.ndarray, y2: np.ndarray, bounds: np.ndarray) -> int:
    """Return for how many of q queries `_is_hopeful` is so."""
    n = np.int32(0)
    for q in range(len(dot)):  # without a branch, for vector instructions
        sound = (y2[q] > LEAST) & (y2[q] < MOST) & (dot[q] > -MOST)
        n += np.int32(not (sound & (dot[q] < bounds[q] * np.sqrt(y2[q]))))
    return int(n)


@njit(nogil=True, cache=True)
def sift(
    queries: Queries,
    rows: Rows,
    start: int,
    dot: np.ndarray,
    y2: np.ndarray,
    which: np.ndarray,
    slack: float,
    best: Best,
) -> None:
    """As `scan` for q queries, of those n rows of a block from `start` on whose sums are known.

    Args:
        queries: The queries.
        rows: The rows of the block.
        start: Of the first of the n rows in it.
        dot: Σ_{j∈S(x)} x_j (y off S(y))_j, float32 [n, q]; it is written to.
        y2: Σ_{j∈S(x)} (y off S(y))_j², float32 [n, q]; it is written to.
        which: Their rows in the index, int64 [n]; -1 for those that are not searched.
        slack: Bound of the error of a cosine in float32.
        best: What is found so far, of all.
    """
    n = len(queries.inside2)
    bounds, x2 = np.empty(n, np.float32), np.empty(n, np.float32)
    ones = np.ones(len(queries.beside_x), np.float32)
    for q in range(n):
        bounds[q] = _bound(_of_query(best, q), _one_of(queries, q), slack)
    for i in range(len(which)):
        if which[i] < 0:
            continue
        at = start + i
        a, b = rows.starts[at], rows.starts[at + 1]
        values, columns, products, norms = rows.values[a:b], rows.columns[a:b], dot[i], y2[i]
        _add_rows(values, columns, queries.beside_x, products)
        norms += rows.inside2[at]
        n_hopeful = _n_hopeful(products, norms, bounds)
        if not n_hopeful:
            continue
        x2[:] = 0
        together = n_hopeful * ALONE > n
        if together:
            _add_rows(ones[: b - a], columns, queries.beside_outside2, x2)
        for q in range(n):
            if not _is_hopeful(products[q], norms[q], bounds[q]):
                continue
            query = _one_of(queries, q)
            outside = x2[q] if together else _outside(queries.outside2_32[q], columns)
            whole = np.float32(query.inside2) + outside
            bounds[q] = _look(
                query, rows, at, products[q], whole, norms[q], slack, _of_query(best, q), which[i]
            )


@njit(nogil=True, cache=True)
def products(codes: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return Σ x_j c_j for each row of codes [n, d]."""
    found = np.empty(len(codes), np.float32)
    for i in range(len(codes)):
        found[i] = _roughly(codes[i], x)
    return found


@njit(nogil=True, cache=True)
def select_full(
    x: np.ndarray,
    codes: np.ndarray,
    scales: np.ndarray,
    dot: np.ndarray,
    norm2: np.ndarray,
    which: np.ndarray,
    slack: float,
    best: Best,
) -> None:
    """As `scan`, of rows whose sets are full: codes or float32 [n, d], with their inner products.

    Args:
        x: The query, float64 [d].
        codes: The rows.
        scales: Of the codes of each dimension, float32 [d].
        dot: Their inner products with x in float32, [n].
        norm2: Their squared norms in float32, [n].
        which: Their rows in the index, int64 [n]; -1 for those that are not searched.
        slack: Bound of the error of a cosine in float32.
        best: What is found so far.
    """
    norm2_x = 0.0
    for j in range(len(x)):
        norm2_x += x[j] * x[j]
    x2 = np.float32(norm2_x)
    for i in range(len(which)):
        if which[i] < 0:
            continue
        sound = LEAST < x2 < MOST and LEAST < norm2[i] < MOST
        if best.counts[0] == len(best.scores) and sound:
            least = (best.scores[0] - slack) * np.sqrt(x2 * norm2[i])
            if np.isfinite(dot[i]) and dot[i] < least:
                continue
        exact_dot, exact_norm2 = 0.0, 0.0
        for j in range(len(x)):
            y = np.float64(_stored(codes[i, j], scales[j]))
            exact_dot += x[j] * y
            exact_norm2 += y * y
        _offer(best, exact_dot, norm2_x, exact_norm2, which[i])
