"""The vector store: what a model said of a prompt, kept on disk so that it is asked only once.

One SQLite file holds content-addressed rows. A row's key is the model's fingerprint and data type,
the component, "sum" or "each" over layers, and a hash of the exact prompt; its value is the vector.

SQLite is chosen for what a laboratory's notebook needs: it is part of Python, survives a kill at
any moment, has one writer and many readers without a server, and answers a damaged page with an
error instead of a crash (so the file is not mapped into memory, which is no faster here).
"""

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

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
from dysem_lab.models.chunks import (
    KEY_BYTES,
    add_rows,
    check_rows,
    counted_rows,
    keys_of,
    stored,
    stored_rows,
    whole_rows,
)
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.spaces import PRECISIONS, Shelf, Space, check_space, seal, shelved, shelves

APPLICATION_ID = 0x64796C32  # "dyl2": a vector store of the second format
# The largest that SQLite has, so that chunks are written and read in few pieces.
PAGE_BYTES = 65536
ENTRY_BYTES = 64  # of a row: its key, and its entry in an index whose pages are two thirds full

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
        keys = keys_of(prompts)
        for space, tensor in vectors.items():
            check_space(space)
            check_rows(tensor, len(keys), space)
        with self._database.connection("BEGIN IMMEDIATE") as connection:
            for space, tensor in vectors.items():
                precision, shape = self._precision(space.layers), tuple(tensor.shape[1:])
                shelf = shelved(connection, self.path, space, precision, shape)
                error = add_rows(connection, shelf, keys, tensor)
                seal(connection, shelf._replace(error=max(shelf.error, error)))

    def has(self, space: Space, prompts: Sequence[str]) -> Bool[np.ndarray, " n"]:
        """Return which prompt keys have their row, at least as exact as the store's precision."""
        check_space(space)
        keys = keys_of(prompts)
        there: set[bytes] = set()
        with self._database.connection("BEGIN") as connection:
            for shelf in self._accepted(connection, space):
                there |= stored(connection, shelf.number, keys).keys()
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
        check_space(space)
        keys = keys_of(prompts)
        positions = {key: position for position, key in enumerate(dict.fromkeys(keys))}
        found = np.zeros(len(positions), dtype=bool)
        rows: Tensor | None = None
        with self._database.connection("BEGIN") as connection:
            for shelf in self._accepted(connection, space):
                if rows is None:
                    # Of numpy, whose zeros take no memory until they are written over.
                    rows = torch.from_numpy(np.zeros((len(positions), *shelf.shape), np.float32))
                row = np.empty(shelf.shape, PRECISIONS[shelf.precision])
                row_values, row_bytes = torch.from_numpy(row), row.reshape(-1).view(np.uint8).data
                wanted = [key for key, position in positions.items() if not found[position]]
                for key, values in stored_rows(connection, shelf, wanted):
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

    def _accepted(self, connection: sqlite3.Connection, space: Space) -> list[Shelf]:
        """Return where the rows of a space are, the most exact precision first."""
        accepted = dict.fromkeys(("float32", self._precision(space.layers)))
        there = {s.precision: s for s in shelves(connection, self.path) if s.space == space}
        return [there[precision] for precision in accepted if precision in there]

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
            known = {(facts.source, facts.dtype): facts for facts in _known(connection)}
        return known.get((source, dtype))

    def contents(self) -> pd.DataFrame:
        """Return one row per space and precision, with its count of rows and megabytes.

        ``model`` is its name, or its fingerprint where the store does not know the model. ``error``
        is the largest ‖stored − captured‖ / ‖captured‖ of a row (0 for float32).

        Raises:
            DataError: The file is damaged, or its index disagrees with its rows.
        """
        with self._database.connection("BEGIN") as connection:
            described = shelves(connection, self.path)
            counts = dict(connection.execute("SELECT space, count(*) FROM rows GROUP BY space"))
            known = {shelf.number for shelf in described}
            if counts != counted_rows(connection) or not known.issuperset(counts):
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
            for shelf in described
        ]
        columns = ["model", *Space._fields, "precision", "shape", "rows", "megabytes", "error"]
        table = pd.DataFrame(rows, columns=columns)
        return table.sort_values(
            ["model", "dtype", "layers", "component", "precision"], ignore_index=True
        )

    def unknown(self) -> list[str]:
        """Return the fingerprints that have rows but no known model: nothing reads such rows."""
        with self._database.connection("BEGIN") as connection:
            known = {facts.fingerprint for facts in _known(connection)}
            found = {shelf.space.fingerprint for shelf in shelves(connection, self.path)}
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
        with self._database.connection("BEGIN IMMEDIATE") as connection:
            described = shelves(connection, self.path)
            known = _known(connection)
            models = {model, *(facts.fingerprint for facts in known if facts.name == model)}
            chosen = [
                shelf
                for shelf in described
                if (model is None or shelf.space.fingerprint in models)
                and component in (None, shelf.space.component)
                and layers in (None, shelf.space.layers)
            ]
            if not chosen:
                names = {facts.fingerprint: facts.name for facts in known}
                there = ", ".join(
                    f"{names.get(space.fingerprint, space.fingerprint)}/{space.component}/"
                    f"{space.layers}"
                    for _, space, *_ in described
                )
                raise InputError(f"nothing matches; {self.path} has {there or 'no rows'}")
            n_rows = n_bytes = 0
            for shelf in chosen:
                for place in ("chunks WHERE space", "seals WHERE space", "spaces WHERE id"):
                    connection.execute(f"DELETE FROM {place}=?", (shelf.number,))
                rows = connection.execute("DELETE FROM rows WHERE space=?", (shelf.number,))
                n_rows += rows.rowcount
                n_bytes += rows.rowcount * shelf.row_bytes
        self._give_back(n_bytes)
        return n_rows

    def check(self, *, repair: bool = False) -> int:
        """Read all rows, and return how many do not match their checksum or cannot be found.

        Args:
            repair: Remove the damaged rows, so that the next run makes them again.

        Raises:
            DataError: The file is damaged beyond its rows.
        """
        with self._database.connection("BEGIN IMMEDIATE" if repair else "BEGIN") as connection:
            self._check_structure(connection, "quick_check")
            described = {shelf.number: shelf for shelf in shelves(connection, self.path)}
            entries = connection.execute("SELECT * FROM rows")
            index = {(number, key): chunk for number, key, chunk in entries}
            right: dict[tuple[int, bytes], set[int]] = {}
            broken = []
            for chunk, number in connection.execute("SELECT id, space FROM chunks").fetchall():
                shelf = described.get(number)
                rows = whole_rows(connection, shelf, chunk) if shelf else {}
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


def require_store(store: object) -> VectorStore:
    """Return the store; raise `InputError` where it is something else, such as its path."""
    if not isinstance(store, VectorStore):
        raise InputError(f"store must be dl.VectorStore(path), got {store!r:.200}")
    return store


def prompt_key(prompt: str, max_tokens: int) -> str:
    """Return the hash under which a prompt's rows are kept: 32 hex digits.

    The limit and the place of the text inside the prompt count, since they decide what an over-long
    prompt is shortened to.
    """
    start, stop = getattr(prompt, "start", 0), getattr(prompt, "stop", len(prompt))
    text = f"{max_tokens} {start} {stop} {prompt}"
    return hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).hexdigest()


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
