"""The vector store: what a model said of a prompt, kept on disk so that it is asked only once.

One SQLite file holds content-addressed rows. A row's key is the model's fingerprint and data type,
the component, "sum" or "each" over layers, and a hash of the exact prompt; its value is the vector.
Rows that are written together make chunks, each with a checksum over keys and vectors: SQLite moves
a few large values at the disk's speed, and many small ones at half of it.

SQLite is chosen for what a laboratory's notebook needs: it is part of Python, survives a kill at
any moment, has one writer and many readers without a server, and answers a damaged page with an
error instead of a crash (so the file is not mapped into memory, which is no faster here).
"""

import contextlib
import hashlib
import json
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import xxhash
from jaxtyping import Bool, Float
from torch import Tensor

from dysem_lab import paths
from dysem_lab.database import Database
from dysem_lab.errors import DataError, InputError
from dysem_lab.inputs import one_of, path_of
from dysem_lab.models.facts import ModelFacts

APPLICATION_ID = 0x64796C32  # "dyl2": a vector store of the second format
PRECISIONS: dict[str, np.dtype] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
EXACT = (torch.float32, torch.float16, torch.bfloat16)  # what float32 holds exactly
KEY_BYTES = 16
# The largest that SQLite has, so that chunks are written and read in few pieces.
PAGE_BYTES = 65536
ENTRY_BYTES = 64  # of a row: its key, and its entry in an index whose pages are two thirds full
KEYS_PER_QUERY = 500
VALUES_PER_CHUNK = 2**18  # 1 MB of float32: SQLite copies it several times, so it fits the L2 cache
# One thread of torch converts to float16 and back 20 times faster than numpy; but from 32,768
# values on it takes more, which wait long for each other on a busy machine.
VALUES_PER_THREAD = 2**15 - 1
SMALL_NORM = 1e-12  # of a row whose squares may vanish in float32

SCHEMA = (
    # What all rows of one kind share. `error` is the largest relative error that storing made.
    "CREATE TABLE IF NOT EXISTS spaces (id INTEGER PRIMARY KEY, fingerprint TEXT, dtype TEXT, "
    "component TEXT, layers TEXT, precision TEXT, shape TEXT, error REAL DEFAULT 0, "
    "UNIQUE (fingerprint, dtype, component, layers, precision))",
    # `keys` are those of the rows, in their order, one after the other.
    "CREATE TABLE IF NOT EXISTS chunks (id INTEGER PRIMARY KEY, space INTEGER REFERENCES spaces, "
    "keys BLOB, checksum BLOB, vectors BLOB)",
    # The checksum of a space's description: where a flipped bit makes layer 1 of it layer 3, the
    # rows would be served as that layer's. Spaces made by earlier versions have none.
    "CREATE TABLE IF NOT EXISTS seals (space INTEGER PRIMARY KEY REFERENCES spaces, checksum BLOB)",
    # In which chunk a row is.
    "CREATE TABLE IF NOT EXISTS rows (space INTEGER REFERENCES spaces, prompt BLOB, "
    "chunk INTEGER REFERENCES chunks, PRIMARY KEY (space, prompt)) WITHOUT ROWID",
    # The fingerprint of a model that was loaded before, so that reading needs no model.
    "CREATE TABLE IF NOT EXISTS models (source TEXT, dtype TEXT, facts TEXT, "
    "PRIMARY KEY (source, dtype)) WITHOUT ROWID",
)


class Space(NamedTuple):
    """What a row is besides its prompt.

    Attributes:
        fingerprint: Of the model's weights and tokenizer.
        dtype: In which the model is computed, such as "float32".
        component: Name of an internal vector.
        layers: "sum", "each", or a block index.
    """

    fingerprint: str
    dtype: str
    component: str
    layers: str


class _Shelf(NamedTuple):
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


class VectorStore:
    """Captured vectors in one file, shared by processes, notebooks and runs.

    Args:
        path: The file; None is the user's.
        sums: Precision of cumulative vectors: "float32", or "float16" for half the disk.
        each: Precision of per-layer vectors, which are L times as large. `contents` reports the
            largest relative error that a precision made.

    Raises:
        InputError: Unknown precision.
        DataError: The file is no vector store, or is damaged.
    """

    def __init__(
        self, path: str | Path | None = None, *, sums: str = "float32", each: str = "float16"
    ) -> None:
        """Create the file if it is absent, and check that it is a vector store."""
        for precision in (sums, each):
            one_of(precision, PRECISIONS, "precision")
        self.path = paths.vectors_path() if path is None else path_of(path, "the store")
        self.precision = {"sum": sums, "each": each}
        self._database = Database(
            self.path,
            "vector store",
            SCHEMA,
            application_id=APPLICATION_ID,
            pragmas=(f"page_size={PAGE_BYTES}", "auto_vacuum=INCREMENTAL"),
        )

    def __repr__(self) -> str:
        return f"VectorStore({str(self.path)!r}, {self.n_bytes / 1e6:,.0f} MB)"

    @property
    def n_bytes(self) -> int:
        """Size on disk, in bytes."""
        return self.path.stat().st_size

    def _precision(self, layers: str) -> str:
        """Return the precision of new rows; one layer's are as small as a sum's."""
        return self.precision.get(layers, self.precision["sum"])

    def row_bytes(self, layers: str, n_values: int) -> int:
        """Return the bytes on disk of one row of so many values, with its key and its place."""
        return PRECISIONS[self._precision(layers)].itemsize * n_values + ENTRY_BYTES

    def write(
        self, vectors: Mapping[Space, Float[Tensor, "n ..."]], prompts: Sequence[str]
    ) -> None:
        """Store the vectors of n prompts, all in one transaction; rows that are there stay.

        Args:
            vectors: Space → one row per prompt.
            prompts: Keys of the prompts, from `prompt_key`.

        Raises:
            InputError: Counts differ, a value is not finite or too large for float16, or rows are
                no numbers that float32 holds exactly.
        """
        keys = _keys(prompts)
        for space, tensor in vectors.items():
            _check(space)
            _check_rows(tensor, len(keys), space)
        with self._database.connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            for space, tensor in vectors.items():
                self._add(connection, space, keys, tensor)

    def _add(
        self,
        connection: sqlite3.Connection,
        space: Space,
        keys: Sequence[bytes],
        vectors: Float[Tensor, "n ..."],
    ) -> None:
        """Add the rows of those of n keys that have none yet."""
        precision, shape = self._precision(space.layers), tuple(vectors.shape[1:])
        shelf = self._shelved(connection, space, precision, shape)
        number = shelf.number
        n_rows = max(1, VALUES_PER_CHUNK // max(1, math.prod(shape)))
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
            chunk_of = _stored(connection, number, keys)
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
            block, error = _block(rows[start : start + n_rows], precision, space)
            joined = b"".join(keys[start : start + n_rows])
            connection.execute(
                "INSERT INTO chunks VALUES (?, ?, ?, ?, ?)",
                (chunk, number, joined, _checksum(number, joined, block), block),
            )
            errors.append(error)
        self._seal(connection, shelf._replace(error=max(shelf.error, *errors)))

    def has(self, space: Space, prompts: Sequence[str]) -> Bool[np.ndarray, " n"]:
        """Return which prompt keys have their row, at least as exact as the store's precision."""
        _check(space)
        keys = _keys(prompts)
        there: set[bytes] = set()
        with self._snapshot() as connection:
            for shelf in self._accepted(connection, space):
                there |= _stored(connection, shelf.number, keys).keys()
        return np.array([key in there for key in keys], dtype=bool)

    def read(
        self, space: Space, prompts: Sequence[str]
    ) -> tuple[Float[Tensor, "n ..."] | None, Bool[np.ndarray, " n"]]:
        """Return the rows of n prompt keys, and which of them were there.

        Rows are float32; a row that was not there is zero, and the tensor is None where the store
        has nothing of this space.

        Raises:
            DataError: A row does not match its checksum.
        """
        _check(space)
        keys = _keys(prompts)
        positions = {key: position for position, key in enumerate(dict.fromkeys(keys))}
        found = np.zeros(len(positions), dtype=bool)
        rows: Tensor | None = None
        with self._snapshot() as connection:
            for shelf in self._accepted(connection, space):
                if rows is None:
                    # Of numpy, whose zeros take no memory until they are written over.
                    rows = torch.from_numpy(np.zeros((len(positions), *shelf.shape), np.float32))
                row = np.empty(shelf.shape, PRECISIONS[shelf.precision])
                row_values, row_bytes = torch.from_numpy(row), row.reshape(-1).view(np.uint8).data
                wanted = [key for key, position in positions.items() if not found[position]]
                for key, values in _stored_rows(connection, shelf, wanted):
                    if values is None:
                        raise DataError(
                            f"{self.path} is damaged: the row of prompt {key.hex()} "
                            f"({space.component}, {space.layers}) does not match its checksum; "
                            "`dysem-lab store --repair` removes such rows, and the next run "
                            "makes them again"
                        )
                    row_bytes[:] = values
                    rows[positions[key]] = row_values
                    found[positions[key]] = True
        if len(positions) < len(keys):  # repeated prompts
            order = [positions[key] for key in keys]
            rows, found = (None if rows is None else rows[order]), found[order]
        return rows, found

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection that sees one state of the file, whatever others write or prune."""
        with self._database.connection() as connection:
            connection.execute("BEGIN")
            yield connection

    def _shelves(self, connection: sqlite3.Connection) -> list[_Shelf]:
        """Return what the file says it holds, once that makes sense."""
        query = (
            "SELECT id, fingerprint, dtype, component, layers, precision, shape, error, checksum "
            "FROM spaces LEFT JOIN seals ON space=id"
        )
        shelves = []
        for number, *space, precision, shape, error, seal in connection.execute(query):
            sizes = _sizes(shape)
            typed = isinstance(error, float) and all(isinstance(value, str) for value in space)
            if sizes is None or not typed or precision not in PRECISIONS:
                raise DataError(
                    f"{self.path} is damaged: it says that it has rows of {precision!r} and "
                    f"{shape!r} for {space}; move it away"
                )
            shelves.append(_Shelf(number, Space(*space), precision, sizes, error))
            if seal not in (None, shelves[-1].seal):
                raise DataError(
                    f"{self.path} is damaged: that it has rows of {precision} and {shape} for "
                    f"{space} does not match its checksum; move it away"
                )
        return shelves

    def _accepted(self, connection: sqlite3.Connection, space: Space) -> list[_Shelf]:
        """Return where the rows of a space are, the most exact precision first."""
        accepted = ["float32"]
        if self._precision(space.layers) == "float16":
            accepted.append("float16")
        return sorted(
            (
                shelf
                for shelf in self._shelves(connection)
                if shelf.space == space and shelf.precision in accepted
            ),
            key=lambda shelf: accepted.index(shelf.precision),
        )

    def _shelved(
        self,
        connection: sqlite3.Connection,
        space: Space,
        precision: str,
        shape: tuple[int, ...],
    ) -> _Shelf:
        """Return a space in one precision, made if it is new."""
        for shelf in self._shelves(connection):
            if shelf.space == space and shelf.shape != shape:
                raise InputError(
                    f"rows of shape {list(shape)} for {space}, but {self.path} has such rows of "
                    f"shape {list(shelf.shape)}; `dysem-lab store` prunes them"
                )
            if shelf.space == space and shelf.precision == precision:
                return shelf
        made = connection.execute(
            "INSERT INTO spaces (fingerprint, dtype, component, layers, precision, shape) "
            "VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
            (*space, precision, json.dumps(shape)),
        )
        return _Shelf(made.fetchone()[0], space, precision, shape, 0.0)

    def _seal(self, connection: sqlite3.Connection, shelf: _Shelf) -> None:
        """Write down the error of a space, and the checksum of its description."""
        connection.execute("UPDATE spaces SET error=? WHERE id=?", (shelf.error, shelf.number))
        connection.execute("REPLACE INTO seals VALUES (?, ?)", (shelf.number, shelf.seal))

    def remember(self, facts: ModelFacts) -> None:
        """Keep what is known of a loaded model under the digest of its source.

        Known facts are not written again, and a file that cannot be written goes without: the facts
        save a load, and what reads stored vectors does not need them.
        """
        if self.recall(facts.source, facts.dtype) == facts:
            return
        kept = asdict(facts)
        row = (facts.source, facts.dtype, json.dumps({**kept, "checksum": _digest(kept)}))
        with contextlib.suppress(DataError), self._database.connection() as connection:
            connection.execute("INSERT OR REPLACE INTO models VALUES (?, ?, ?)", row)

    def recall(self, source: str, dtype: str) -> ModelFacts | None:
        """Return the facts of a model that was loaded before, or None."""
        with self._database.connection() as connection:
            known = _known(connection)
        return next(
            (facts for facts in known if (facts.source, facts.dtype) == (source, dtype)), None
        )

    def contents(self) -> pd.DataFrame:
        """Return one row per space and precision, with its count of rows and megabytes.

        ``model`` is its name, or its fingerprint where the store does not know the model. ``error``
        is the largest ‖stored − captured‖ / ‖captured‖ of a row (0 for float32).

        Raises:
            DataError: The file is damaged, or its index disagrees with its rows.
        """
        with self._snapshot() as connection:
            shelves = self._shelves(connection)
            counts = dict(connection.execute("SELECT space, count(*) FROM rows GROUP BY space"))
            described = {shelf.number for shelf in shelves}
            if counts != _n_rows(connection) or not described.issuperset(counts):
                raise DataError(
                    f"{self.path} is damaged: its index disagrees with its rows; `dysem-lab store "
                    "--repair` mends it, and the next run makes again what is lost"
                )
            names = {facts.fingerprint: facts.name for facts in _known(connection)}
        rows = [
            {
                "model": names.get(shelf.space.fingerprint, shelf.space.fingerprint),
                **shelf.space._asdict(),
                "precision": shelf.precision,
                "shape": shelf.shape,
                "rows": counts.get(shelf.number, 0),
                "megabytes": counts.get(shelf.number, 0) * shelf.row_bytes / 1e6,
                "error": shelf.error,
            }
            for shelf in shelves
        ]
        columns = ["model", *Space._fields, "precision", "shape", "rows", "megabytes", "error"]
        table = pd.DataFrame(rows, columns=columns)
        return table.sort_values(
            ["model", "dtype", "layers", "component", "precision"], ignore_index=True
        )

    def unknown(self) -> list[str]:
        """Return the fingerprints that have rows but no known model: nothing reads such rows."""
        with self._snapshot() as connection:
            known = {facts.fingerprint for facts in _known(connection)}
            found = {shelf.space.fingerprint for shelf in self._shelves(connection)}
        return sorted(found - known)

    def prune(
        self,
        model: str | None = None,
        component: str | None = None,
        layers: str | None = None,
    ) -> int:
        """Remove the rows that match all that is given, give the disk back, and return how many.

        Args:
            model: Name or fingerprint.
            component: Name of a component.
            layers: "sum", "each" or a block index.

        Raises:
            InputError: Nothing is given, or nothing matches.
        """
        if model is component is layers is None:
            raise InputError(f"say what to remove; to remove everything, delete {self.path}")
        with self._database.connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            shelves = self._shelves(connection)
            known = _known(connection)
            models = {model, *(facts.fingerprint for facts in known if facts.name == model)}
            chosen = [
                shelf
                for shelf in shelves
                if (model is None or shelf.space.fingerprint in models)
                and component in (None, shelf.space.component)
                and layers in (None, shelf.space.layers)
            ]
            if not chosen:
                names = {facts.fingerprint: facts.name for facts in known}
                there = ", ".join(
                    f"{names.get(space.fingerprint, space.fingerprint)}/{space.component}/"
                    f"{space.layers}"
                    for _, space, *_ in shelves
                )
                raise InputError(f"nothing matches; {self.path} has {there or 'no rows'}")
            n_rows = n_bytes = 0
            for shelf in chosen:
                number = (shelf.number,)
                connection.execute("DELETE FROM chunks WHERE space=?", number)
                removed = connection.execute("DELETE FROM rows WHERE space=?", number).rowcount
                connection.execute("DELETE FROM seals WHERE space=?", number)
                connection.execute("DELETE FROM spaces WHERE id=?", number)
                n_rows += removed
                n_bytes += removed * shelf.row_bytes
        self._give_back(n_bytes)
        return n_rows

    def check(self, *, repair: bool = False) -> int:
        """Read all rows, and return how many do not match their checksum or cannot be found.

        Args:
            repair: Remove the damaged rows, so that the next run makes them again.

        Raises:
            DataError: The file is damaged beyond its rows.
        """
        with self._database.connection() as connection:
            connection.execute("BEGIN IMMEDIATE" if repair else "BEGIN")
            self._check_structure(connection, "quick_check")
            shelves = {shelf.number: shelf for shelf in self._shelves(connection)}
            index = {
                (number, key): chunk
                for number, key, chunk in connection.execute("SELECT * FROM rows")
            }
            right: dict[tuple[int, bytes], set[int]] = {}
            broken = []
            for chunk, number in connection.execute("SELECT id, space FROM chunks").fetchall():
                shelf = shelves.get(number)
                rows = _whole_rows(connection, shelf, chunk) if shelf else {}
                for key in rows:
                    right.setdefault((number, key), set()).add(chunk)
                if not rows:
                    broken.append((chunk,))
            n_damaged = sum(chunk not in right.get(row, ()) for row, chunk in index.items())
            n_damaged += len(right.keys() - index.keys())
            if not n_damaged:  # otherwise it would report what a repair mends
                self._check_structure(connection, "integrity_check")
            if repair and (n_damaged or broken):
                connection.executemany("DELETE FROM chunks WHERE id=?", broken)
                connection.execute("DELETE FROM rows")
                connection.executemany(
                    "INSERT INTO rows VALUES (?, ?, ?)",
                    sorted((*row, min(chunks)) for row, chunks in right.items()),
                )
        return n_damaged

    def _check_structure(self, connection: sqlite3.Connection, pragma: str) -> None:
        """Raise an error unless one of SQLite's own checks finds nothing."""
        report = connection.execute(f"PRAGMA {pragma}(1)").fetchone()[0]
        if report != "ok":
            raise DataError(f"{self.path} is damaged ({report}); move it away")

    def _give_back(self, n_bytes: int) -> None:
        """Return the disk of removed rows to the file system."""
        before = self.n_bytes
        with self._database.connection() as connection:
            # A script, since it runs to the end; a single statement frees one page per step.
            connection.executescript("PRAGMA incremental_vacuum")
            # Small rows share their pages with others; only a new copy of the file closes the gaps.
            if before - self.n_bytes < 0.9 * n_bytes:
                connection.execute("VACUUM")


def prompt_key(prompt: str, max_tokens: int) -> str:
    """Return the hash under which a prompt's rows are kept: 32 hex digits.

    The limit and the place of the text inside the prompt count, since they decide what an over-long
    prompt is shortened to.
    """
    start, stop = getattr(prompt, "start", 0), getattr(prompt, "stop", len(prompt))
    text = f"{max_tokens} {start} {stop} {prompt}"
    return hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).hexdigest()


def _keys(prompts: Sequence[str]) -> list[bytes]:
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


def _check(space: Space) -> None:
    """Raise an error unless a space is one of names."""
    if not isinstance(space, Space) or not all(isinstance(name, str) for name in space):
        raise InputError(f"a space is a Space of four strings, got {space!r:.100}")


def _check_rows(rows: object, n: int, space: Space) -> None:
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


def _known(connection: sqlite3.Connection) -> list[ModelFacts]:
    """Return the facts that can be read and are whole; of the other models nothing is known."""
    known = []
    for row in connection.execute("SELECT facts FROM models"):
        with contextlib.suppress(TypeError, ValueError, KeyError, AttributeError, RecursionError):
            facts = json.loads(row[0])
            if facts.pop("checksum") == _digest(facts):
                known.append(ModelFacts(**facts))
    return known


def _digest(facts: Mapping[str, Any]) -> str:
    """Return the checksum of a model's facts."""
    return xxhash.xxh3_64_hexdigest(json.dumps(facts, sort_keys=True).encode())


def _n_rows(connection: sqlite3.Connection) -> dict[int, int]:
    """Return space → number of its rows, as the chunks have them."""
    stored: dict[int, set[bytes]] = {}
    query = "SELECT space, keys FROM chunks WHERE typeof(keys)='blob'"
    for number, joined in connection.execute(query):
        stored.setdefault(number, set()).update(_split(joined))
    return {number: len(keys) for number, keys in stored.items()}


def _split(joined: bytes) -> list[bytes]:
    """Return the keys of a chunk's rows."""
    return [joined[at : at + KEY_BYTES] for at in range(0, len(joined), KEY_BYTES)]


def _sizes(shape: object) -> tuple[int, ...] | None:
    """Return the sizes of a row, or None where this is not what `VectorStore.write` wrote."""
    with contextlib.suppress(TypeError, ValueError):
        sizes = tuple(json.loads(shape))  # type: ignore[arg-type]
        if all(type(size) is int and size > 0 for size in sizes):
            return sizes
    return None


def _checksum(number: int, keys: bytes, vectors: memoryview | bytes) -> bytes:
    """Return the checksum of a chunk of the space with this number."""
    return xxhash.xxh3_64_digest(vectors, xxhash.xxh3_64_intdigest(b"%d %s" % (number, keys)))


def _block(
    rows: Float[np.ndarray, "n ..."], precision: str, space: Space
) -> tuple[memoryview, float]:
    """Return the bytes of a chunk's rows, and the largest relative error of one."""
    block, error = np.ascontiguousarray(rows), 0.0
    if block.dtype != PRECISIONS[precision]:
        block, error = _halved(block, space)
    return block.reshape(-1).view(np.uint8).data, error


def _stored(connection: sqlite3.Connection, number: int, keys: Sequence[bytes]) -> dict[bytes, int]:
    """Return key → chunk of those of the keys that have a row in the space with this number."""
    return {
        key: chunk
        for portion, marks in _portions(keys)
        for key, chunk in connection.execute(
            # Damage may change a value's type.
            "SELECT prompt, iif(typeof(chunk)='integer', chunk, -1) FROM rows "
            f"WHERE space=? AND prompt IN ({marks})",
            (number, *portion),
        )
    }


def _stored_rows(
    connection: sqlite3.Connection, shelf: _Shelf, keys: Sequence[bytes]
) -> Iterator[tuple[bytes, memoryview | None]]:
    """Yield the key of each row that is there, and its bytes, None for a damaged one."""
    members: dict[int, list[bytes]] = {}
    for key, chunk in _stored(connection, shelf.number, keys).items():
        members.setdefault(chunk, []).append(key)
    for chunk in sorted(members):  # as they are in the file
        rows = _whole_rows(connection, shelf, chunk)
        yield from ((key, rows.get(key)) for key in members[chunk])


def _whole_rows(
    connection: sqlite3.Connection, shelf: _Shelf, chunk: object
) -> dict[bytes, memoryview]:
    """Return key → bytes of a chunk, of none unless the chunk is what `VectorStore.write` wrote."""
    stored = connection.execute(
        "SELECT keys, checksum, vectors FROM chunks WHERE id=? AND space=?", (chunk, shelf.number)
    ).fetchone()
    if stored is None or not all(isinstance(value, bytes) for value in stored):
        return {}
    joined, checksum, vectors = stored
    if checksum != _checksum(shelf.number, joined, vectors):
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


def _portions(keys: Sequence[bytes]) -> list[tuple[list[bytes], str]]:
    """Return the keys in portions of one query, with that many question marks.

    They are sorted, so that the pages of the index are read from front to back.
    """
    ordered = sorted(keys)
    portions = [ordered[i : i + KEYS_PER_QUERY] for i in range(0, len(keys), KEYS_PER_QUERY)]
    return [(portion, ",".join("?" * len(portion))) for portion in portions]
