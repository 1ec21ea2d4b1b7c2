"""Vectors and sets as text that a script file can hold: base64 of float16, and of bits."""

import base64
import math

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

LARGEST = 2.0**15  # of what is stored: float16 ends at 65,504


def packed_vectors(vectors: Float[Tensor, "n d"]) -> dict[str, object]:
    """Return vectors as their mean and, in half precision, what is left of each.

    What all texts share is large beside what differs, so half precision of the vectors themselves
    would round away what a centred similarity is about. And a value near 0 could change its sign,
    which the consensus asks for (DySem Eq. 11): the signs are bits of their own.

    Returns:
        ``mean``: little-endian float32 of d values in base64. ``scale``, a power of two at which
        nothing overflows, and ``values``: float16; a vector is the mean + scale × values.
        ``positive``: as from `packed_sets`.
    """
    mean = vectors.double().mean(0).float()
    left = vectors.double() - mean.double()
    largest = float(left.abs().max())
    scale = 2.0 ** math.ceil(math.log2(largest / LARGEST)) if largest else 1.0
    return {
        "mean": _text(mean.numpy().astype("<f4")),
        "scale": scale,
        "values": _text((left / scale).half().numpy().astype("<f2")),
        "positive": packed_sets(vectors > 0),
    }


def packed_sets(sets: Bool[Tensor, "n d"]) -> str:
    """Return sets as bits in base64, the lowest bit first, each row filled up to whole bytes."""
    return _text(np.packbits(sets.numpy(), axis=1, bitorder="little"))


def _text(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
