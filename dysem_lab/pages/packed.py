"""Vectors and sets as text that a script file can hold: base64 of float16, and of bits."""

import base64
import math

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

LARGEST = 2.0**15  # of what is stored: float16 ends at 65,504


def packed_vectors(vectors: Float[Tensor, "n d"]) -> dict[str, object]:
    """Return vectors as their mean and what is left of each: in half precision, and a byte more.

    What all texts share is large beside what differs, so half precision of the vectors themselves
    would round away what a centred similarity is about. What it still rounds makes two dimensions
    change their rank now and then, and the wrong one of them moves a similarity: the byte is 256th
    parts of the last place. And a value near 0 could change its sign, which the consensus asks for
    (DySem Eq. 11): the signs are bits of their own.

    Returns:
        All in base64, little-endian. ``mean``: float32 of d values. ``halves``: float16 of n × d,
        of what is left divided by ``scale``, a power of two at which nothing overflows. ``rest``:
        int8. ``positive``: as from `packed_sets`.
    """
    mean = vectors.double().mean(0).float()
    left = (vectors.double() - mean.double()).numpy()
    largest = float(np.abs(left).max())
    scale = 2.0 ** math.ceil(math.log2(largest / LARGEST)) if largest else 1.0
    halves = (left / scale).astype("<f2")
    rest = (left / scale - halves) / last_place(halves) * 256
    return {
        "mean": _text(mean.numpy().astype("<f4")),
        "scale": scale,
        "halves": _text(halves),
        "rest": _text(rest.round().clip(-128, 127).astype("i1")),
        "positive": packed_sets(vectors > 0),
    }


def last_place(halves: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Return how far each number of half precision is from the next."""
    exponent = (halves.view("<u2") >> 10) & 31
    return 2.0 ** (np.maximum(exponent, 1).astype(float) - 25)


def packed_sets(sets: Bool[Tensor, "n d"]) -> str:
    """Return sets as bits in base64, the lowest bit first, each row filled up to whole bytes."""
    return _text(np.packbits(sets.numpy(), axis=1, bitorder="little"))


def _text(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
