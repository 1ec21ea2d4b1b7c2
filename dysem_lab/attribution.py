"""A similarity as a sum of parts: tensors in, tensors out.

With vectors that are sums of parts, v(x) = Σ_p p and v(y) = Σ_q q, the cosine on the joint set U is
a sum too, of which each pair of parts has a share::

    sim(x, y) = Σ_p Σ_q <p, q>_U / (‖v(x)‖_U ‖v(y)‖_U)

Centred parts, p − E[p] with the mean of that part over a corpus, add up to the cosine of the
centred vectors. U and the two norms are given, not explained. Sums are in float64.

Source: the bilinear sum, BiLRP (arXiv 2405.06604) and Moeller et al. (arXiv 2310.05703); centring,
Timkey and van Schijndel (arXiv 2109.04404).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dysem_lab.errors import InputError


def norm_product(x: Float[Tensor, " d"], y: Float[Tensor, " d"], U: Bool[Tensor, " d"]) -> float:
    """Return ‖x‖_U ‖y‖_U.

    Raises:
        InputError: It is zero, so that there is no similarity to explain.
    """
    norms = [vector.double()[U].norm().item() for vector in (x, y)]
    if not all(norms):
        zero = "x" if not norms[0] else "y"
        raise InputError(
            f"there is no similarity to explain: the vector of {zero} is zero on the joint set of "
            f"{int(U.sum())} dimensions; use fewer languages, another component or centre=None"
        )
    return norms[0] * norms[1]


def one_sided(
    parts: Float[Tensor, "parts d"],
    x: Float[Tensor, " d"],
    y: Float[Tensor, " d"],
    U: Bool[Tensor, " d"],
) -> Float[Tensor, " parts"]:
    """Return what each part of x adds to the cosine of x and y on U.

    Args:
        parts: Of x; they add up to it.
        x: The vector of the first text.
        y: That of the second.
        U: The joint set.

    Raises:
        InputError: As for `norm_product`.
    """
    return parts.double() @ (y.double() * U) / norm_product(x, y, U)


def two_sided(
    parts_x: Float[Tensor, "parts d"],
    parts_y: Float[Tensor, "others d"],
    x: Float[Tensor, " d"],
    y: Float[Tensor, " d"],
    U: Bool[Tensor, " d"],
) -> Float[Tensor, "parts others"]:
    """Return what each part of x and each part of y add together; see `one_sided`."""
    return (parts_x.double() * U) @ parts_y.double().T / norm_product(x, y, U)


def by_dimension(
    x: Float[Tensor, " d"], y: Float[Tensor, " d"], U: Bool[Tensor, " d"]
) -> Float[Tensor, " d"]:
    """Return what each dimension adds to the cosine of x and y on U; see `one_sided`."""
    return x.double() * y.double() * U / norm_product(x, y, U)


def shares_of_mean_cosine(vectors: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """Return each dimension's share of the mean cosine of two texts of a corpus, on all dimensions.

    The mean over all pairs, a text with itself among them, of the terms of their cosine: the square
    of the mean of the unit vectors, over its sum.
    """
    unit = torch.nn.functional.normalize(vectors.double(), dim=-1)
    squares = unit.mean(0).square()
    return squares / squares.sum().clamp(min=1e-300)


def without_largest(
    U: Bool[Tensor, " d"], shares: Float[Tensor, " d"], n: int
) -> Bool[Tensor, " d"]:
    """Return a joint set without the n dimensions that have the largest shares of the mean cosine.

    Raises:
        InputError: Nothing is left.
    """
    if not n:
        return U
    largest = shares.sort(descending=True, stable=True).indices[:n]
    left = U.clone()
    left[largest] = False
    if not left.any():
        raise InputError(
            f"without the {n} largest dimensions the joint set is empty; drop fewer of its "
            f"{int(U.sum())}"
        )
    return left
