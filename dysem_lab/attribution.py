"""A similarity as a sum of parts: tensors in, tensors out.

With vectors that are sums of parts, v(x) = Σ_p p and v(y) = Σ_q q, the cosine on the joint set U is
a sum too, of which each pair of parts has a share::

    sim(x, y) = Σ_p Σ_q <p, q>_U / (‖v(x)‖_U ‖v(y)‖_U)

Centred parts, p − E[p] with the mean of that part over a corpus, add up to the cosine of the
centred vectors. U and the two norms are given, not explained. Sums are in float64.

Source: the bilinear sum, BiLRP (arXiv 2405.06604) and Moeller et al. (arXiv 2310.05703); centring,
Timkey and van Schijndel (arXiv 2109.04404).
"""

import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dysem_lab.consensus import vectors_of
from dysem_lab.errors import InputError
from dysem_lab.inputs import names_of


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
    weights = weights_of(x, y, U)
    # A few at a time: the neurons of a model would take twice the room in float64.
    return torch.cat([some.double() @ weights for some in parts.split(4096)])


def weights_of(
    x: Float[Tensor, " d"], y: Float[Tensor, " d"], U: Bool[Tensor, " d"]
) -> Float[Tensor, " d"]:
    """Return by what each dimension of x is multiplied in the cosine of x and y on U."""
    return y.double() * U / norm_product(x, y, U)


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
    return x.double() * weights_of(x, y, U)


def towards_new_pairs(n: int, inside: int = 0) -> float:
    """Return δ, by which two texts of a corpus become, once centred on its mean, like new texts.

    The mean μ of n texts leans to each of them: with x and y among these, x − μ and y − μ have the
    covariance −Σ/n, and with other texts Σ/n. x − μ + δ(x + y − 2μ) and y − μ + δ(x + y − 2μ) have
    the covariances of two new texts: x − y is left as it is, and x + y − 2μ gets their variance.

    Args:
        n: Texts of the corpus, at least 3.
        inside: How many of the two that they are to be like are in the corpus; of 2, δ is 0.
    """
    return (math.sqrt((n + 2 * (1 - inside)) / (n - 2)) - 1) / 2


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
            f"without the {n} largest of {len(U)} dimensions nothing is left of the joint set, "
            f"which has {int(U.sum())}; drop fewer"
        )
    return left


class Directions:
    """Directions that vectors are written along: v = Σ_j c_j(v) D_j + error.

    The rows of a sparse dictionary's decoder, of probes, principal components. What they do not
    hold, a dictionary's own bias included, is the error, so that the sum is exact.

    Args:
        vectors: D, one direction per row, of any length.
        names: What each is called; None numbers them from 0.
        encode: Vectors [n, d] → coefficients [n, k], as sparse autoencoders have it; None finds
            them by least squares over all d dimensions.

    Raises:
        InputError: What is no matrix of finite numbers, a direction without length, another number
            of names, the same name twice or "error"; without `encode`, directions that depend on
            each other (more than d always do), so that least squares has no one answer.
    """

    def __init__(
        self,
        vectors: Float[Tensor, "k d"] | Float[np.ndarray, "k d"],
        names: Sequence[str] | None = None,
        encode: Callable[[Float[Tensor, "n d"]], Float[Tensor, "n k"]] | None = None,
    ) -> None:
        """Check them."""
        self.vectors = vectors_of(vectors, "directions").detach().cpu().double()
        self.encode = encode
        if self.vectors.ndim != 2 or not len(self.vectors):
            raise InputError(
                f"directions must be [k, d], got {tuple(self.vectors.shape)}; one is vector[None]"
            )
        lengths = self.vectors.norm(dim=1)
        if not lengths.all():
            raise InputError(f"direction {int((lengths == 0).nonzero()[0])} is zero; leave it out")
        k, d = self.vectors.shape
        self.names = list(range(k)) if names is None else names_of(names, "name")
        if len(self.names) != k or len(set(self.names)) != k:
            raise InputError(
                f"names must be {k} different ones, one per direction, got {len(self.names)}, of "
                f"which {len(set(self.names))} differ"
            )
        if "error" in self.names:
            raise InputError("'error' is the row of what directions do not hold; rename yours")
        rank = k
        if encode is None:
            unit = self.vectors / lengths[:, None]
            rank = int(torch.linalg.matrix_rank(unit)) if k <= d else d
        if rank < k:
            raise InputError(
                f"{k} directions in {d} dimensions depend on each other (rank {rank}), so their "
                "coefficients have no one least-squares answer; give encode, or fewer directions"
            )

    def coefficients(self, vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Return c of each vector, in float64.

        Raises:
            InputError: Vectors of another width, or an `encode` that does not give one finite
                number per vector and direction.
        """
        k = len(self.vectors)
        self.require_width(vectors.shape[1])
        if self.encode is None:
            return torch.linalg.lstsq(self.vectors.T, vectors.double().T).solution.T
        with torch.no_grad():
            found = vectors_of(self.encode(vectors.float()), "what encode gives")
        if found.shape != (len(vectors), k):
            raise InputError(
                f"encode must give {(len(vectors), k)} coefficients of {len(vectors)} vectors, got "
                f"{tuple(found.shape)}"
            )
        return found.detach().cpu().double()

    def require_width(self, width: int) -> None:
        """Raise `InputError` unless directions are of vectors of a width."""
        if width != (d := self.vectors.shape[1]):
            raise InputError(
                f"directions have {d} dimensions, the vectors {width}; give some of that width"
            )

    def record(self) -> dict[str, object]:
        """Return what tells them from others, as JSON values."""
        encode = None
        if self.encode is not None:
            encode = getattr(self.encode, "__qualname__", type(self.encode).__name__)
        digest = hashlib.sha256(self.vectors.contiguous().numpy().tobytes()).hexdigest()[:16]
        return {"n": len(self.vectors), "digest": digest, "names": self.names, "encode": encode}


def removal_counts(n_words: int, fractions: Sequence[float]) -> list[int]:
    """Return how many of n words are removed at each fraction of them, to the nearest.

    A fraction and its complement remove n words together, so that a deletion in one order passes
    the texts of an insertion in the reversed one.
    """
    return [
        n_words - math.floor((1 - of) * n_words + 0.5)
        if of > 1 / 2
        else math.floor(of * n_words + 0.5)
        for of in fractions
    ]


def kept_words(
    scores: Float[np.ndarray, " words"], counts: Sequence[int]
) -> Bool[np.ndarray, "counts words"]:
    """Return which words are left once the first so many, in the order of scores, are removed.

    Args:
        scores: One for each word; the largest is removed first, of equal ones the first word.
        counts: Numbers of removed words.
    """
    places = np.argsort(np.argsort(-scores, kind="stable"), kind="stable")
    return places >= np.array(counts)[:, None]


def area_above(
    curve: Float[np.ndarray, "*n points"],
    others: Float[np.ndarray, "*n points"],
    fractions: Sequence[float],
) -> Float[np.ndarray, "*n"]:
    """Return the area by which a curve is above another, by the trapezoidal rule.

    Args:
        curve: Values at each of the fractions.
        others: Likewise.
        fractions: From 0 to 1.

    Source: deletion and insertion curves, Petsiuk et al. (arXiv 1806.07421).
    """
    return np.trapezoid(curve - others, fractions, axis=-1)
