"""A shard of an index: the file of some thousand texts, as it is written and mapped into memory.

Where sets are no full ones, y off S(y) lies column by column within blocks of rows, so that a query
reads only the columns of its own S(x), and y on S(y) as sparse rows of (uint16 index, value). In
float16 and int8 a column of a block has a scale: a stored value is float32(code · scale). What is
stored of y on S(y) is there a second time, 0 off S(y), in 8 bits and a step for each row: a query
reads these of every row, and the values of few.
"""

import mmap
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import xxhash
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.errors import DataError

BLOCK = 4096  # rows: a column of them is 16 kB of float32
SHARD_BYTES = 2**28  # of the values of a shard, about
ALIGNED = 64  # bytes: arrays of a file begin at whole cache lines
MOST_DIMENSIONS = 2**16  # that an index of 16 bits tells apart

DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "int8": np.dtype("i1"),
}

NO_CODES, NO_STEPS = np.zeros((0, 0), np.int8), np.zeros(0, np.float32)


class Shape(NamedTuple):
    """What tells where the arrays of a shard are in its file."""

    rows: int
    width: int
    dtype: str
    full: bool  # whether every set is full
    n_inside: int  # values on the sets; 0 where they are full


def rows_per_shard(width: int, dtype: str) -> int:
    """Return how many rows a shard has at most: whole blocks."""
    return max(1, SHARD_BYTES // (width * DTYPES[dtype].itemsize * BLOCK)) * BLOCK


def blocks_of(rows: int) -> list[slice]:
    """Return the rows of each block of a shard."""
    return [slice(a, min(a + BLOCK, rows)) for a in range(0, rows, BLOCK)]


def _arrays_of(shape: Shape) -> list[tuple[str, np.dtype, tuple[int, ...]]]:
    """Return the name, data type and shape of each array of a file, in its order."""
    codes, real = DTYPES[shape.dtype], DTYPES["float32"]
    found: list[tuple[str, np.dtype, tuple[int, ...]]] = [("inside2", real, (shape.rows,))]
    if shape.dtype != "float32":
        found.append(("scales", real, (len(blocks_of(shape.rows)), shape.width)))
    if shape.full:
        return [*found, ("vectors", codes, (shape.rows, shape.width))]
    return [
        *found,
        ("off", codes, (shape.rows * shape.width,)),
        ("values", codes, (shape.n_inside,)),
        ("columns", np.dtype("<u2"), (shape.n_inside,)),
        ("starts", np.dtype("<i8"), (shape.rows + 1,)),
        ("rough", np.dtype("i1"), (shape.rows, shape.width)),
        ("steps", real, (shape.rows,)),
    ]


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // ALIGNED) * ALIGNED


def packed(texts: SemanticVectors, dtype: str) -> tuple[Shape, dict[str, np.ndarray]]:
    """Return the arrays of a shard with these texts."""
    vectors, sets = texts.vectors.detach().cpu().float().numpy(), texts.sets.cpu().numpy()
    n, d = vectors.shape
    full = texts.full
    arrays: dict[str, np.ndarray] = {}
    codes, stored = vectors, vectors
    if dtype != "float32":
        codes, stored, arrays["scales"] = _coded(vectors, dtype)
    arrays["inside2"] = np.empty(n, np.float32)
    if not full:
        arrays["rough"], arrays["steps"] = np.empty((n, d), np.int8), np.empty(n, np.float32)
        arrays["off"] = np.empty(n * d, codes.dtype)
    values, columns = [], []
    for rows in blocks_of(n):  # at once, they would be copied many times through memory
        inside = stored[rows] if full else np.where(sets[rows], stored[rows], np.float32(0))
        with np.errstate(over="ignore"):  # a search computes such rows in float64
            arrays["inside2"][rows] = np.einsum("ij,ij->i", inside, inside)
        if not full:
            arrays["rough"][rows], arrays["steps"][rows] = _rough(inside)
            outside = np.where(sets[rows], codes.dtype.type(0), codes[rows])
            arrays["off"][rows.start * d : rows.stop * d] = outside.T.ravel()
            on = sets[rows].ravel().nonzero()[0]
            values.append(codes[rows].ravel()[on])
            columns.append((on % d).astype(np.uint16))
    if full:
        return Shape(n, d, dtype, True, 0), {**arrays, "vectors": codes}
    arrays["values"], arrays["columns"] = np.concatenate(values), np.concatenate(columns)
    arrays["starts"] = np.concatenate([[0], sets.sum(1).cumsum()]).astype(np.int64)
    return Shape(n, d, dtype, False, len(arrays["values"])), arrays


def _rough(
    inside: Float[np.ndarray, "n d"],
) -> tuple[Int[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
    """Return rows in 8 bits and the step of each: code · step is within half a step of a value."""
    steps = np.abs(inside).max(1) / np.float32(127)
    steps = np.where(steps >= np.finfo(np.float32).tiny, steps, np.float32(1))
    scaled = inside / steps[:, None]
    return np.rint(scaled, out=scaled).astype(np.int8), steps


def _coded(
    vectors: Float[np.ndarray, "n d"], dtype: str
) -> tuple[np.ndarray, Float[np.ndarray, "n d"], Float[np.ndarray, "blocks d"]]:
    """Return the codes of vectors, what they stand for, and the scales of each block."""
    blocks = blocks_of(len(vectors))
    scales = np.stack([_scales(vectors[rows], dtype) for rows in blocks])
    codes, stored = np.empty_like(vectors, DTYPES[dtype]), np.empty_like(vectors)
    for rows, of in zip(blocks, scales, strict=True):
        scaled = vectors[rows] / of
        codes[rows] = np.rint(scaled) if dtype == "int8" else scaled
        stored[rows] = codes[rows] * of
    return codes, stored, scales


def as_stored(texts: SemanticVectors, dtype: str) -> SemanticVectors:
    """Return texts as an index of a data type gives them back."""
    vectors = texts.vectors.detach().cpu().float()
    if dtype == "float32" or not len(texts):
        return SemanticVectors(vectors, texts.sets.cpu())
    return SemanticVectors(torch.from_numpy(_coded(vectors.numpy(), dtype)[1]), texts.sets.cpu())


def _scales(vectors: Float[np.ndarray, "n d"], dtype: str) -> Float[np.ndarray, " d"]:
    """Return what a value of each column is divided by; 1 where all are zero."""
    peak = np.abs(vectors).max(0)
    scales = peak / np.float32(127) if dtype == "int8" else np.exp2(np.frexp(peak)[1] - 1.0)
    scales = scales.astype(np.float32)
    # Below the normal range a rounded scale may be too small by half: codes would not fit 8 bits.
    if dtype == "int8":
        small = peak >= scales * np.float64(127.5)
        scales = np.where(small, np.nextafter(scales, np.float32(1)), scales)
    return np.where(scales > 0, scales, np.float32(1))


def write(path: Path, shape: Shape, arrays: dict[str, np.ndarray]) -> bytes:
    """Write a shard, wait until it is on the disk, and return its checksum."""
    digest = xxhash.xxh3_64(repr(tuple(shape)).encode())
    with path.open("wb") as file:
        for name, dtype, sizes in _arrays_of(shape):
            array = np.ascontiguousarray(arrays[name], dtype).reshape(sizes)
            data = array.reshape(-1).view(np.uint8).data
            for part in (data, bytes(_padded(len(data)) - len(data))):
                file.write(part)
                digest.update(part)
        file.flush()
        os.fsync(file.fileno())
    return digest.digest()


class Shard:
    """A shard of an index, mapped into memory.

    Args:
        path: Its file.
        first: Row of the index that is its first.
        shape: Of its arrays.
        checksum: From `write`.

    Raises:
        DataError: The file is not there, or not of its size.
    """

    def __init__(self, path: Path, first: int, shape: Shape, checksum: bytes) -> None:
        """Map the file; its checksum is looked at once, when it is read."""
        self.path, self.first, self.shape = path, first, shape
        self._checksum, self._sound = checksum, False
        layout = _arrays_of(shape)
        sizes = [dtype.itemsize * int(np.prod(axes)) for _, dtype, axes in layout]
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size != sum(map(_padded, sizes)):
                    raise self._damaged("is not of the size that it was written with")
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except OSError as error:
            raise self._damaged(f"cannot be read: {error.strerror}") from error
        self._arrays: dict[str, np.ndarray] = {}
        at = 0
        for (name, dtype, axes), size in zip(layout, sizes, strict=True):
            found = np.frombuffer(self._bytes, dtype, int(np.prod(axes)), at)
            self._arrays[name] = found.reshape(axes)
            at += _padded(size)

    def _damaged(self, why: str) -> DataError:
        return DataError(
            f"{self.path} is damaged: it {why}; `dysem-lab index repair` makes its "
            f"{self.shape.rows:,} texts anew, index.damaged() lists them"
        )

    def is_sound(self) -> bool:
        """Return whether the file is what was written, by its checksum; once True, it is kept."""
        if not self._sound:
            digest = xxhash.xxh3_64(repr(tuple(self.shape)).encode())
            digest.update(self._bytes)
            self._sound = digest.digest() == self._checksum
        return self._sound

    def array(self, name: str) -> np.ndarray:
        """Return one of the arrays.

        Raises:
            DataError: The file does not match its checksum.
        """
        if not self.is_sound():
            raise self._damaged("does not match its checksum")
        return self._arrays[name]

    @property
    def blocks(self) -> list[slice]:
        """The rows of each block, from 0."""
        return blocks_of(self.shape.rows)

    def coded(
        self, rows: slice
    ) -> tuple[
        Shaped[np.ndarray, "d n"],
        Shaped[np.ndarray, " i"],
        Int[np.ndarray, " i"],
        Int[np.ndarray, " n1"],
        Float[np.ndarray, " d"],
    ]:
        """Return a block as it is stored.

        Returns:
            y off S(y); of y on S(y) the values, their dimensions, and where rows begin; of each
            dimension what a code of it is multiplied by, 1 in float32.
        """
        d, starts = self.shape.width, self.array("starts")[rows.start : rows.stop + 1]
        off = self.array("off")[rows.start * d : rows.stop * d].reshape(d, -1)
        some = slice(starts[0], starts[-1])
        values, columns = self.array("values")[some], self.array("columns")[some]
        return off, values, columns, starts - starts[0], self.scales(rows.start)

    def scales(self, row: int) -> Float[np.ndarray, " d"]:
        """Return the scale of each dimension in the block of a row; 1 in float32."""
        if self.shape.dtype == "float32":
            return np.ones(self.shape.width, np.float32)
        return self.array("scales")[row // BLOCK]

    def by_block(self, rows: Int[np.ndarray, " n"]) -> list[Int[np.ndarray, " n"]]:
        """Return ascending rows, from 0, as those of each block that has some."""
        return np.split(rows, np.flatnonzero(np.diff(rows // BLOCK)) + 1) if len(rows) else []

    def some_off(
        self, rows: Int[np.ndarray, " n"], chosen: Int[np.ndarray, " c"]
    ) -> Float[np.ndarray, "c n"]:
        """Return y off S(y) of some rows of one block, on the chosen dimensions."""
        d, block = self.shape.width, self.blocks[rows[0] // BLOCK]
        codes = self.array("off")[block.start * d : block.stop * d].reshape(d, -1)
        some = np.ascontiguousarray(codes[chosen[:, None], rows - block.start])
        return values_of(some, self.scales(rows[0])[chosen, None])

    def some_inside(
        self, rows: Int[np.ndarray, " n"]
    ) -> tuple[Float[np.ndarray, " i"], Int[np.ndarray, " i"], Int[np.ndarray, " n1"]]:
        """Return values, dimensions and starts of y on S(y), of some rows of one block."""
        starts = self.array("starts")
        sizes = starts[rows + 1] - starts[rows]
        ends = np.concatenate([[0], sizes.cumsum()]).astype(np.int64)
        at = np.arange(ends[-1]) + np.repeat(starts[rows] - ends[:-1], sizes)
        columns = self.array("columns")[at]
        values = values_of(self.array("values")[at], self.scales(rows[0])[columns])
        return values, columns, ends

    def read(self, rows: Int[np.ndarray, " n"]) -> tuple[Float[Tensor, "n d"], Bool[Tensor, "n d"]]:
        """Return the stored vectors and sets of some rows, from 0."""
        n, d = len(rows), self.shape.width
        vectors, sets = np.zeros((n, d), np.float32), np.zeros((n, d), bool)
        order = np.argsort(rows, kind="stable")
        done = 0
        for within in self.by_block(rows[order]):
            here = order[done : done + len(within)]
            done += len(within)
            if self.shape.full:
                codes = self.array("vectors")[within]
                vectors[here], sets[here] = values_of(codes, self.scales(within[0])), True
                continue
            vectors[here] = self.some_off(within, np.arange(d)).T
            values, columns, starts = self.some_inside(within)
            at = np.repeat(here, np.diff(starts)), columns
            vectors[at], sets[at] = values, True
        return torch.from_numpy(vectors), torch.from_numpy(sets)


def values_of(
    codes: Shaped[np.ndarray, "*axes"], scales: Float[np.ndarray, "*axes"]
) -> Float[np.ndarray, "*axes"]:
    """Return the values that codes with these scales stand for, float32; of float32 itself."""
    if codes.dtype == np.float32:
        return codes
    return torch.from_numpy(codes).float().numpy() * scales  # numpy's conversion is slow
