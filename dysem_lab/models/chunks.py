"""Rows of the vector store as its file has them: keys, chunks of vectors, checksums.

Rows that are written together make chunks, each with a checksum over keys and vectors: SQLite moves
a few large values at the disk's speed, and many small ones at half of it.
"""

import math
import sqlite3
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import xxhash
from jaxtyping import Float
from torch import Tensor

from dysem_lab.errors import InputError
from dysem_lab.models.spaces import PRECISIONS, Shelf, Space

EXACT = (torch.float32, torch.float16, torch.bfloat16)  # what float32 holds exactly
KEY_BYTES = 16
KEYS_PER_QUERY = 500
VALUES_PER_CHUNK = 2**18  # 1 MB of float32: SQLite copies it several times, so it fits the L2 cache
# One thread of torch converts to float16 and back 20 times faster than numpy; but from 32,768
# values on it takes more, which wait long for each other on a busy machine.
VALUES_PER_THREAD = 2**15 - 1
SMALL_NORM = 1e-12  # of a row whose squares may vanish in float32


def keys_of(prompts: Sequence[str]) -> list[bytes]:
    """Return the keys of prompts as the file has them."""
    try:
        keys = [bytes.fromhex(prompt) for prompt in prompts]
        if all(len(key) == KEY_BYTES for key in keys):
            return keys
    except (TypeError, ValueError):
        pass
    raise InputError(
        f"the keys of prompts are a list of what `prompt_key` returns, got {prompts!r:.100}"
    )


def check_rows(rows: object, n: int, space: Space) -> None:
    """Raise an error unless these are n rows that can be stored and read again."""
    if (
        not isinstance(rows, Tensor)
        or rows.dtype not in EXACT
        or not rows.ndim
        or 0 in rows.shape[1:]
    ):
        raise InputError(
            f"rows of {space.component} must be a tensor [n, ...] of float32 or half precision, "
            f"got {getattr(rows, 'dtype', type(rows).__name__)} of shape "
            f"{list(getattr(rows, 'shape', []))}"
        )
    if len(rows) != n:
        raise InputError(f"{len(rows)} rows for {n} prompts")
    if not torch.isfinite(rows).all():
        raise InputError(f"rows of {space.component} have a NaN or infinite value")


def counted_rows(connection: sqlite3.Connection) -> dict[int, int]:
    """Return space → number of its rows, as the chunks have them."""
    found: dict[int, set[bytes]] = {}
    query = "SELECT space, keys FROM chunks WHERE typeof(keys)='blob'"
    for number, joined in connection.execute(query):
        found.setdefault(number, set()).update(_split(joined))
    return {number: len(keys) for number, keys in found.items()}


def _split(joined: bytes) -> list[bytes]:
    """Return the keys of a chunk's rows."""
    return [joined[at : at + KEY_BYTES] for at in range(0, len(joined), KEY_BYTES)]


def checksum_of(number: int, keys: bytes, vectors: memoryview | bytes) -> bytes:
    """Return the checksum of a chunk of the space with this number."""
    return xxhash.xxh3_64_digest(vectors, xxhash.xxh3_64_intdigest(b"%d %s" % (number, keys)))


def stored(connection: sqlite3.Connection, number: int, keys: Sequence[bytes]) -> dict[bytes, int]:
    """Return key → chunk of those of the keys that have a row in the space with this number."""
    ordered = sorted(keys)  # so that the pages of the index are read from front to back
    found: dict[bytes, int] = {}
    for start in range(0, len(ordered), KEYS_PER_QUERY):
        portion = ordered[start : start + KEYS_PER_QUERY]
        found |= connection.execute(
            # Damage may change a value's type.
            "SELECT prompt, iif(typeof(chunk)='integer', chunk, -1) FROM rows "
            f"WHERE space=? AND prompt IN ({','.join('?' * len(portion))})",
            (number, *portion),
        )
    return found


def stored_rows(
    connection: sqlite3.Connection, shelf: Shelf, keys: Sequence[bytes]
) -> Iterator[tuple[bytes, memoryview | None]]:
    """Yield the key of each row that is there, and its bytes, None for a damaged one."""
    members: dict[int, list[bytes]] = {}
    for key, chunk in stored(connection, shelf.number, keys).items():
        members.setdefault(chunk, []).append(key)
    for chunk in sorted(members):  # as they are in the file
        rows = whole_rows(connection, shelf, chunk)
        yield from ((key, rows.get(key)) for key in members[chunk])


def whole_rows(
    connection: sqlite3.Connection, shelf: Shelf, chunk: object
) -> dict[bytes, memoryview]:
    """Return key → bytes of a chunk, of none unless the chunk is what `VectorStore.write` wrote."""
    stored = connection.execute(
        "SELECT keys, checksum, vectors FROM chunks WHERE id=? AND space=?", (chunk, shelf.number)
    ).fetchone()
    if stored is None or not all(isinstance(value, bytes) for value in stored):
        return {}
    joined, checksum, vectors = stored
    if checksum != checksum_of(shelf.number, joined, vectors):
        return {}
    keys, size = _split(joined), shelf.row_bytes
    if len(vectors) != size * len(keys):
        return {}
    view = memoryview(vectors)
    return {key: view[at * size : (at + 1) * size] for at, key in enumerate(keys)}


def _halved(
    rows: Float[np.ndarray, "n ..."], space: Space
) -> tuple[Float[np.ndarray, "n ..."], float]:
    """Return the rows in float16, and the largest relative error of a row."""
    halves, lost = torch.empty(rows.shape, dtype=torch.float16), torch.empty(rows.shape)
    parts = (
        tensor.flatten().split(VALUES_PER_THREAD)
        for tensor in (torch.from_numpy(rows), halves, lost)
    )
    for row, half, difference in zip(*parts, strict=True):
        half.copy_(row)
        difference.copy_(half).sub_(row)  # of one data type: four times as fast as of two
    norms = _norms(rows)
    with np.errstate(invalid="ignore"):
        error = (_norms(lost.numpy()) / np.where(norms > 0, norms, 1)).max()
    if not np.isfinite(error):
        option = "each" if space.layers == "each" else "sums"
        raise InputError(
            f"{space.component} ({space.layers}) has a value of {np.abs(rows).max():.3g}, too "
            f"large for float16; open the store with {option}='float32'"
        )
    return halves.numpy(), float(error)


def _norms(rows: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, " n"]:
    """Return ‖row‖ of each row."""
    flat = rows.reshape(len(rows), -1)
    norms = np.sqrt(np.einsum("ij,ij->i", flat, flat))
    if norms.min() < SMALL_NORM:
        norms = np.linalg.norm(flat.astype(np.float64), axis=1)
    return norms


def add_rows(
    connection: sqlite3.Connection,
    shelf: Shelf,
    keys: Sequence[bytes],
    vectors: Float[Tensor, "n ..."],
) -> float:
    """Add the rows of those of n keys that have none yet, and return their largest error."""
    number, precision = shelf.number, shelf.precision
    n_rows = max(1, VALUES_PER_CHUNK // math.prod(shelf.shape))
    (first,) = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM chunks").fetchone()

    def enter(verb: str, keys: Sequence[bytes]) -> int:
        """Enter the keys into the index, and return how many of them it took."""
        before = connection.total_changes
        # Sorted, so that each page of the index is met once.
        entries = sorted((key, first + index // n_rows) for index, key in enumerate(keys))
        connection.executemany(f"{verb} INTO rows VALUES ({number}, ?, ?)", entries)
        return connection.total_changes - before

    # As a rule all are new; asking the index first would double its share of the time.
    if enter("INSERT OR IGNORE", keys) < len(keys):
        chunk_of = stored(connection, number, keys)
        new: dict[bytes, int] = {}
        for index, key in enumerate(keys):
            if chunk_of[key] >= first:
                new.setdefault(key, index)
        keys, vectors = list(new), vectors[list(new.values())]
        enter("REPLACE", keys)
    exact = precision == "float16" and vectors.dtype == torch.float16
    rows = (vectors if exact else vectors.float()).detach().cpu().numpy()
    errors = [0.0]
    for chunk, start in enumerate(range(0, len(keys), n_rows), first):
        block, error = np.ascontiguousarray(rows[start : start + n_rows]), 0.0
        if block.dtype != PRECISIONS[precision]:
            block, error = _halved(block, shelf.space)
        values = block.reshape(-1).view(np.uint8).data
        joined = b"".join(keys[start : start + n_rows])
        connection.execute(
            "INSERT INTO chunks VALUES (?, ?, ?, ?, ?)",
            (chunk, number, joined, checksum_of(number, joined, values), values),
        )
        errors.append(error)
    return max(errors)
