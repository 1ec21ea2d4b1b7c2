"""Joint sets and the cosine restricted to them (Eqs. 14, 16, 17): tensors in, tensors out.

A pair whose two sets are empty, or whose vectors vanish on the joint set, has no similarity: it is
`undefined` (NaN unless told otherwise), with a warning that counts. The released DySem code returns
0.0 there; pass ``undefined=0.0`` to compare with it.

Vectors in half precision are computed, and their similarities returned, in float32; float64 stays
float64. What is outside a joint set has no part in a similarity, however large it is.
"""

import itertools
import math
import warnings
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dysem_lab.consensus import require_one_device, sets_of, vectors_of
from dysem_lab.errors import InputError
from dysem_lab.inputs import real_number

# All pairs are computed in tiles of so many texts by so many texts: some 150 MB beside the result.
TILE = 2048
VECTOR = 64  # rows of a product of matrices are computed in groups whose size divides this
# Of a text's values scaled to a largest one of 1, so small a squared norm on a joint set says that
# values there may have been lost below the range of float32: they are scaled anew without the rest.
LEAST_NORM2 = 2.0**-60
VALUES_AT_ONCE = 2**22  # of pairs that are scaled anew


def joint_set(Sx: Bool[Tensor, "*#n d"], Sy: Bool[Tensor, "*#n d"]) -> Bool[Tensor, "*n d"]:
    """Return U(x, y) = S(x) ∪ S(y); leading axes broadcast (DySem Eq. 14).

    Raises:
        InputError: No masks, or shapes that do not broadcast.
    """
    Sx, Sy = sets_of(Sx, "Sx"), sets_of(Sy, "Sy")
    require_one_device(Sx=Sx, Sy=Sy)
    try:
        return Sx | Sy
    except RuntimeError as error:
        raise InputError(
            f"Sx {tuple(Sx.shape)} and Sy {tuple(Sy.shape)} must be sets over one number of "
            "dimensions, of as many texts or of one"
        ) from error


def joint_cosine(
    vx: Float[Tensor, "n d"],
    vy: Float[Tensor, "n d"],
    U: Bool[Tensor, "n d"],
    undefined: float = math.nan,
) -> Float[Tensor, " n"]:
    """Return cos(v(x)|_U, v(y)|_U) of n pairs (DySem Eqs. 16–17).

    Args:
        vx: Semantic vectors of the first texts.
        vy: Semantic vectors of the second texts.
        U: Joint sets.
        undefined: Value where U is empty or a restricted vector is zero.

    Returns:
        Cosines within [-1, 1], float64 where a side is, else float32.

    Raises:
        InputError: Shapes differ, d = 0, U is no mask, or a value is NaN or infinite.

    Warns:
        UserWarning: How many pairs are undefined.
    """
    undefined = _checked_undefined(undefined)
    values = restricted_cosine(*_on_joint_sets(vx, vy, U))
    _warn_of_undefined(_filled(values, undefined), values.numel(), undefined)
    return values


def contributions(
    vx: Float[Tensor, "*n d"], vy: Float[Tensor, "*n d"], U: Bool[Tensor, "*n d"]
) -> Float[Tensor, "*n d"]:
    """Return what each dimension adds to the cosine on U; they sum to it.

    Args:
        vx: v(x).
        vy: v(y).
        U: Joint sets; a dimension outside contributes 0.

    Returns:
        v_j(x) v_j(y) / (‖v(x)|_U‖ ‖v(y)|_U‖), float64 where a side is, else float32; 0 everywhere
        where a norm is 0.

    Raises:
        InputError: As for `joint_cosine`.

    Source: the terms of the sum in DySem Eqs. 16–17.
    """
    vx, vy, U = _on_joint_sets(vx, vy, U)
    x, y = unit_peak(vx * U), unit_peak(vy * U)
    norms = x.norm(dim=-1, keepdim=True) * y.norm(dim=-1, keepdim=True)
    return x * y / torch.where(norms > 0, norms, 1)


def cosine(
    vx: Float[Tensor, "n d"], vy: Float[Tensor, "n d"], undefined: float = math.nan
) -> Float[Tensor, " n"]:
    """Return the plain cosine of n pairs; `undefined` where a vector is zero.

    Returns, errors and warnings as for `joint_cosine`.
    """
    vx = vectors_of(vx, "vx")
    everything = torch.ones(vx.shape, dtype=torch.bool, device=vx.device)
    return joint_cosine(vx, vy, everything, undefined)


def all_pairs_cosine(
    vx: Float[Tensor, "nx d"], vy: Float[Tensor, "ny d"], undefined: float = math.nan
) -> Float[Tensor, "nx ny"]:
    """Return the plain cosine of every row of vx with every row of vy.

    Returns, errors and warnings as for `joint_cosine`; a pair is undefined where a vector is zero.
    """
    undefined = _checked_undefined(undefined)
    vx, vy = _matrices(vectors_of(vx, "vx"), vectors_of(vy, "vy"))
    x, y = unit_peak(vx), unit_peak(vy)
    x2, y2 = (x * x).sum(-1)[:, None], (y * y).sum(-1)[None]
    values, n_undefined = x.new_empty(len(x), len(y)), 0
    for rows, columns in _tiles(len(x), len(y)):
        part = ratio(x[rows] @ y[columns].T, x2[rows], y2[:, columns])
        n_undefined += _filled(part, undefined)
        values[rows, columns] = part
    _warn_of_undefined(n_undefined, values.numel(), undefined)
    return values


def pairwise_similarity(
    vx: Float[Tensor, "n d"],
    vy: Float[Tensor, "n d"],
    Sx: Bool[Tensor, "n d"],
    Sy: Bool[Tensor, "n d"],
    undefined: float = math.nan,
) -> Float[Tensor, " n"]:
    """Return the DySem similarity of x_i and y_i for each i; see `joint_cosine`."""
    vx, vy = vectors_of(vx, "vx"), vectors_of(vy, "vy")
    Sx, Sy = sets_of(Sx, "Sx"), sets_of(Sy, "Sy")
    if not vx.shape == vy.shape == Sx.shape == Sy.shape:
        raise InputError(
            f"vx {tuple(vx.shape)}, vy {tuple(vy.shape)}, Sx {tuple(Sx.shape)} and "
            f"Sy {tuple(Sy.shape)} must agree"
        )
    return joint_cosine(vx, vy, joint_set(Sx, Sy), undefined)


def all_pairs_similarity(
    vx: Float[Tensor, "nx d"],
    vy: Float[Tensor, "ny d"],
    Sx: Bool[Tensor, "nx d"],
    Sy: Bool[Tensor, "ny d"],
    undefined: float = math.nan,
) -> Float[Tensor, "nx ny"]:
    """Return the DySem similarity of every x with every y, by matrix products only.

    With S as rows of 0 and 1, a sum over U = S(x) ∪ S(y) splits into one over S(y) and one over
    S(x) without S(y)::

        <v(x), v(y)>_U = (x ⊙ Sx)(y ⊙ (1 − Sy))ᵀ + x (y ⊙ Sy)ᵀ
        ‖v(x)‖²_U      = Σ x² ⊙ Sx + (x² ⊙ (1 − Sx)) Syᵀ        (and likewise for y)

    Only the pairs on whose joint set a text has next to nothing, beside what it has elsewhere, are
    computed one by one, as `pairwise_similarity` does. Memory beside the result is bounded.

    Arguments, returns, errors and warnings as for `joint_cosine`.
    """
    undefined = _checked_undefined(undefined)
    vx, vy = vectors_of(vx, "vx"), vectors_of(vy, "vy")
    Sx, Sy = sets_of(Sx, "Sx"), sets_of(Sy, "Sy")
    if vx.shape != Sx.shape or vy.shape != Sy.shape or vx.shape[-1] != vy.shape[-1]:
        raise InputError(
            f"vx {tuple(vx.shape)} needs Sx of its shape, got {tuple(Sx.shape)}; vy "
            f"{tuple(vy.shape)} needs Sy of its shape, got {tuple(Sy.shape)}; widths must agree"
        )
    vx, vy = _matrices(vx, vy)
    require_one_device(vx=vx, vy=vy, Sx=Sx, Sy=Sy)
    values, n_undefined = vx.new_empty(len(vx), len(vy)), 0
    for rows, columns in _tiles(len(vx), len(vy)):
        part = _tile(vx[rows], vy[columns], Sx[rows], Sy[columns])
        n_undefined += _filled(part, undefined)
        values[rows, columns] = part
    _warn_of_undefined(n_undefined, values.numel(), undefined)
    return values


def _tile(
    vx: Float[Tensor, "nx d"],
    vy: Float[Tensor, "ny d"],
    Sx: Bool[Tensor, "nx d"],
    Sy: Bool[Tensor, "ny d"],
) -> Float[Tensor, "nx ny"]:
    """Return the similarity of every x with every y, NaN where it is undefined."""
    x, y = unit_peak(vx), unit_peak(vy)
    in_x, in_y = Sx.to(x.dtype), Sy.to(y.dtype)
    x2, y2 = x * x, y * y
    dot = (x * in_x) @ (y * (1 - in_y)).T + x @ (y * in_y).T
    norm2_x = (x2 * in_x).sum(-1)[:, None] + (x2 * (1 - in_x)) @ in_y.T
    norm2_y = (y2 * in_y).sum(-1)[None, :] + in_x @ (y2 * (1 - in_y)).T
    values = ratio(dot, norm2_x, norm2_y)
    lost = (norm2_x < LEAST_NORM2) | (norm2_y < LEAST_NORM2)
    if lost.any():  # but for pairs that are undefined whatever the scale
        lost &= Sx.any(-1)[:, None] | Sy.any(-1)[None]
        lost &= (vx != 0).any(-1)[:, None] & (vy != 0).any(-1)[None]
    if lost.any():
        pairs = lost.nonzero()
        for chunk in pairs.split(max(1, VALUES_AT_ONCE // vx.shape[1])):
            i, j = chunk.unbind(1)
            values[i, j] = restricted_cosine(vx[i], vy[j], Sx[i] | Sy[j])
    return values


def restricted_cosine(
    vx: Float[Tensor, "*n d"], vy: Float[Tensor, "*n d"], U: Bool[Tensor, "*n d"]
) -> Float[Tensor, "*n"]:
    """Return the cosine on U of vectors that are known to be sound; NaN where it is undefined."""
    x, y = unit_peak(vx * U), unit_peak(vy * U)
    return ratio((x * y).sum(-1), (x * x).sum(-1), (y * y).sum(-1))


def unit_peak(vectors: Tensor) -> Tensor:
    """Return vectors scaled to a largest value of 1, so that their squares stay within range."""
    peak = vectors.abs().amax(-1, keepdim=True)
    return vectors / torch.where(peak > 0, peak, 1)


def ratio(dot: Tensor, norm2_x: Tensor, norm2_y: Tensor) -> Tensor:
    """Return dot / (‖x‖ ‖y‖) within [-1, 1], and NaN where a norm is zero."""
    value = (dot / (norm2_x.sqrt() * norm2_y.sqrt())).clamp(-1, 1)
    return value.masked_fill((norm2_x == 0) | (norm2_y == 0), math.nan)


def _on_joint_sets(vx: Tensor, vy: Tensor, U: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return vectors in one precision and their joint sets, once they are known to agree."""
    vx, vy, U = vectors_of(vx, "vx"), vectors_of(vy, "vy"), sets_of(U, "U")
    if not vx.shape == vy.shape == U.shape:
        raise InputError(
            f"vx {tuple(vx.shape)}, vy {tuple(vy.shape)} and U {tuple(U.shape)} must agree"
        )
    require_one_device(vx=vx, vy=vy, U=U)
    return *_in_one_precision(vx, vy), U


def _matrices(vx: Tensor, vy: Tensor) -> tuple[Tensor, Tensor]:
    """Return two matrices in one precision, once they are known to be of one width."""
    if vx.ndim != 2 or vy.ndim != 2:
        raise InputError(
            f"vx {tuple(vx.shape)} and vy {tuple(vy.shape)} must be matrices: [nx, d] and [ny, d]"
        )
    if vx.shape[1] != vy.shape[1]:
        raise InputError(f"vectors of width {vx.shape[1]} and {vy.shape[1]} have no cosine")
    require_one_device(vx=vx, vy=vy)
    return _in_one_precision(vx, vy)


def _in_one_precision(vx: Tensor, vy: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in the wider precision of the two."""
    precision = torch.promote_types(vx.dtype, vy.dtype)
    return vx.to(precision), vy.to(precision)


def _checked_undefined(undefined: object) -> float:
    """Return the value of undefined pairs, once it is known to be one that float32 has."""
    value = real_number(undefined, "undefined")
    if math.isfinite(value) and abs(value) > torch.finfo(torch.float32).max:
        raise InputError(f"undefined must be NaN or a number that float32 has, got {undefined!r}")
    return value


def _tiles(n_rows: int, n_columns: int) -> Iterator[tuple[slice, slice]]:
    """Yield the rows and columns of each tile of a matrix."""
    yield from itertools.product(_parts(n_rows), _parts(n_columns))


def _parts(n: int) -> list[slice]:
    """Return slices of nearly equal length, which all but the last begin and end at whole vectors.

    So a product of matrices rounds in a tile as it does in the whole.
    """
    n_parts = -(-n // TILE)
    bounds = [i * n // n_parts // VECTOR * VECTOR for i in range(n_parts)]
    return [slice(*part) for part in itertools.pairwise([*bounds, n])]


def _filled(values: Tensor, undefined: float) -> int:
    """Put `undefined` in place of NaN, in place, and return how many there were."""
    vanishes = values.isnan()
    values.masked_fill_(vanishes, undefined)
    return int(vanishes.sum())


def _warn_of_undefined(n_undefined: int, n_pairs: int, undefined: float) -> None:
    """Warn how many pairs have no similarity."""
    if n_undefined:
        warnings.warn(
            f"{n_undefined} of {n_pairs} pairs have no similarity (empty joint "
            f"set, or a vector that is zero on it); they are {undefined}",
            stacklevel=3,
        )
