"""Texts as every encoder gives them: a vector each, and the set of dimensions that count."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dysem_lab.consensus import require_one_device, sets_of, vectors_of
from dysem_lab.display import amount, card
from dysem_lab.errors import InputError
from dysem_lab.inputs import array_of
from dysem_lab.joint import joint_set


@dataclass(frozen=True, eq=False)
class SemanticVectors:
    """Texts as an encoder sees them; `numpy.asarray` gives the vectors where all sets are full.

    Attributes:
        vectors: v(x), float32 ``[n, d]`` (Eq. 15); half precision becomes that, float64 stays.
        sets: S(x), bool ``[n, d]`` (Eq. 13); a row may be empty. None is all dimensions, as for
            every encoder but DySem; it takes no memory.

    Raises:
        InputError: Two other things than vectors and masks of one shape with d ≥ 1.
    """

    vectors: Float[Tensor, "n d"]
    sets: Bool[Tensor, "n d"] = None  # type: ignore[assignment]  # never None once it is made

    def __post_init__(self) -> None:
        """Check that vectors and sets belong together."""
        vectors = vectors_of(self.vectors, "vectors")
        everything = torch.ones((), dtype=torch.bool, device=vectors.device).expand(vectors.shape)
        sets = everything if self.sets is None else sets_of(self.sets, "sets")
        if vectors.ndim != 2 or vectors.shape != sets.shape:
            raise InputError(
                f"vectors {tuple(vectors.shape)} and sets {tuple(sets.shape)} must both be [n, d]"
            )
        require_one_device(vectors=vectors, sets=sets)
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "sets", sets)

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, index: Any) -> "SemanticVectors":
        """Return the texts at these positions: an integer, a slice, a list or a mask.

        Raises:
            IndexError: A position past the end, or a mask of another length.
            InputError: Something else; 0.9 is no position.
        """
        rows = _positions(index, len(self))
        if self.sets.stride() == (0, 0) and self.full:  # else many values would be looked at
            return SemanticVectors(self.vectors[rows])
        return SemanticVectors(self.vectors[rows], self.sets[rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Float[np.ndarray, "n d"]:
        """Return the vectors, if they are all that there is to the texts.

        Raises:
            InputError: A set is not full, so that a plain cosine of the vectors is another
                similarity.
        """
        if not self.full:
            raise InputError(
                "SemanticVectors are no array; give their .vectors or .masked(), or compare them "
                "by DySem's similarity"
            )
        return np.array(self.vectors.detach().cpu().numpy(), dtype, copy=copy)

    @property
    def full(self) -> bool:
        """Whether every set has all dimensions: the joint cosine is then the plain one."""
        one_value = self.sets.stride() == (0, 0)  # a single True, expanded
        return bool((self.sets[:1, :1] if one_value else self.sets).all())

    def masked(self) -> Float[Tensor, "n d"]:
        """Return the vectors with the dimensions outside each text's own set S(x) set to zero.

        DySem compares two texts on the union of their sets, so it has no vector of one text by
        itself; a classifier needs one. Here a text says nothing on the dimensions that it was not
        assigned. That is our reading: the paper has no transfer tasks. A text with an empty set is
        the zero vector, which a classifier answers by its intercept. Where every set is full, the
        vectors are as they are.
        """
        return self.vectors if self.full else torch.where(self.sets, self.vectors, 0.0)

    def __repr__(self) -> str:
        mean_size = self.sets.sum(1).float().mean() if len(self) else 0.0
        n, d = self.vectors.shape
        return f"SemanticVectors({amount(n, 'text')}, d={d}, mean |S|={mean_size:.1f})"

    def _repr_html_(self) -> str:
        sizes = self.sets.sum(1).tolist()
        span = f"{sum(sizes) / len(sizes):.1f} ({min(sizes)} to {max(sizes)})" if sizes else None
        return card(
            "SemanticVectors",
            {
                "texts": len(self),
                "dimensions (d)": self.vectors.shape[1],
                "mean |S(x)| (least to greatest)": span,
                "texts with an empty set": sizes.count(0),
            },
        )


def _positions(index: Any, n: int) -> Int[np.ndarray, " rows"]:
    """Return which of n texts an index chooses; see `SemanticVectors.__getitem__`."""
    if isinstance(index, slice):
        try:
            return np.arange(n)[index].copy()  # torch takes no negative strides
        except (TypeError, ValueError) as error:
            raise InputError(f"{index!r:.80} chooses no texts: {error}") from error
    chosen = array_of(index, "an index of texts")
    kinds = ("iu", "biu")  # one position; a list of them, or a mask
    if chosen.ndim > 1 or (chosen.size and chosen.dtype.kind not in kinds[chosen.ndim]):
        raise InputError(
            f"texts are chosen by a number, a slice, a list of numbers or a mask, got {index!r:.80}"
        )
    return np.atleast_1d(np.arange(n)[chosen if chosen.size else []])


def n_dims(e1: SemanticVectors, e2: SemanticVectors) -> float:
    """Return #Dim., the mean size of the joint sets of the pairs (e1[i], e2[i])."""
    e1, e2 = require_semantic(e1), require_semantic(e2)
    if len(e1) != len(e2):
        raise InputError(f"{len(e1)} and {len(e2)} texts are no pairs")
    return float(joint_set(e1.sets, e2.sets).sum(-1).double().mean())


def require_semantic(given: object) -> SemanticVectors:
    """Return what is given, once it is known to have sets."""
    if not isinstance(given, SemanticVectors):
        raise InputError(
            f"give SemanticVectors, as DySem's encode returns them, got {type(given).__name__}"
        )
    return given
