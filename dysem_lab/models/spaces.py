"""Kinds of rows in the vector store: what its file says that it holds, and whether that is so."""

import contextlib
import json
import math
import sqlite3
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

from dysem_lab.errors import DataError, InputError

PRECISIONS: dict[str, np.dtype] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}


class Space(NamedTuple):
    """What a row is besides its prompt."""

    fingerprint: str  # of the model's weights and tokenizer
    dtype: str  # in which the model is computed, such as "float32"
    component: str  # name of an internal vector
    layers: str  # "sum", "each", or a block index


class Shelf(NamedTuple):
    """A space in one precision, as the file describes it."""

    number: int
    space: Space
    precision: str
    shape: tuple[int, ...]
    error: float

    @property
    def row_bytes(self) -> int:
        """Bytes of one row's values."""
        return PRECISIONS[self.precision].itemsize * math.prod(self.shape)

    @property
    def seal(self) -> bytes:
        """Checksum of this description."""
        return xxhash.xxh3_64_digest(json.dumps(self).encode())


def check_space(space: Space) -> None:
    """Raise an error unless a space is one of names."""
    if not isinstance(space, Space) or not all(isinstance(name, str) for name in space):
        raise InputError(f"a space is a Space of four strings, got {space!r:.100}")


def shelves(connection: sqlite3.Connection, path: Path) -> list[Shelf]:
    """Return what the file says it holds, once that makes sense."""
    query = (
        "SELECT id, fingerprint, dtype, component, layers, precision, shape, error, checksum "
        "FROM spaces LEFT JOIN seals ON space=id"
    )
    found = []
    for number, *space, precision, shape, error, seal in connection.execute(query):
        sizes = sizes_of(shape)
        typed = isinstance(error, float) and all(isinstance(value, str) for value in space)
        if sizes is None or not typed or precision not in PRECISIONS:
            raise DataError(
                f"{path} is damaged: it says that it has rows of {precision!r} and "
                f"{shape!r} for {space}; move it away"
            )
        found.append(Shelf(number, Space(*space), precision, sizes, error))
        if seal not in (None, found[-1].seal):
            raise DataError(
                f"{path} is damaged: that it has rows of {precision} and {shape} for "
                f"{space} does not match its checksum; move it away"
            )
    return found


def sizes_of(shape: object) -> tuple[int, ...] | None:
    """Return the sizes of a row, or None where this is not what `VectorStore.write` wrote."""
    with contextlib.suppress(TypeError, ValueError):
        sizes = tuple(json.loads(shape))  # type: ignore[arg-type]
        if all(type(size) is int and size > 0 for size in sizes):
            return sizes
    return None


def shelved(
    connection: sqlite3.Connection,
    path: Path,
    space: Space,
    precision: str,
    shape: tuple[int, ...],
) -> Shelf:
    """Return a space in one precision, made if it is new."""
    for shelf in shelves(connection, path):
        if shelf.space == space and shelf.shape != shape:
            raise InputError(
                f"rows of shape {list(shape)} for {space}, but {path} has such rows of "
                f"shape {list(shelf.shape)}; `dysem-lab store` prunes them"
            )
        if shelf.space == space and shelf.precision == precision:
            return shelf
    made = connection.execute(
        "INSERT INTO spaces (fingerprint, dtype, component, layers, precision, shape) "
        "VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
        (*space, precision, json.dumps(shape)),
    )
    return Shelf(made.fetchone()[0], space, precision, shape, 0.0)


def seal(connection: sqlite3.Connection, shelf: Shelf) -> None:
    """Write down the error of a space, and the checksum of its description."""
    connection.execute("UPDATE spaces SET error=? WHERE id=?", (shelf.error, shelf.number))
    connection.execute("REPLACE INTO seals VALUES (?, ?)", (shelf.number, shelf.seal))
