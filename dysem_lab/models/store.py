"""The vector store: what a model said of a prompt, kept on disk so that it is asked only once.

One SQLite file holds content-addressed rows. A row's key is the model's fingerprint and data type,
the component, "sum" or "each" over layers, and a hash of the exact prompt; its value is the vector
with a checksum over key and value. SQLite is chosen for what a laboratory's notebook needs: it is
part of Python, survives a kill at any moment, has one writer and many readers without a server, and
answers a damaged page with an error instead of a crash (so the file is not mapped into memory,
which is no faster here).
"""

import contextlib
import hashlib
import json
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
from dysem_lab.errors import DataError, InputError, choices

APPLICATION_ID = 0x64796C31  # "dyl1": a vector store of the first format
PRECISIONS: dict[str, np.dtype] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
CHECKSUM_BYTES = 8
KEY_BYTES = 16
# Of the sizes that SQLite has, the one that wastes least on rows of 2 to 16 KB (the sums) and of
# more than 64 KB; a row of 33 to 64 KB has a page to itself.
PAGE_BYTES = 65536
KEYS_PER_QUERY = 500
VALUES_PER_BLOCK = 2**20  # of rows that are rounded together, in memory that is used again
# One thread of torch converts to float16 and back 20 times faster than numpy; but from 32,768
# values on it takes more, which wait long for each other on a busy machine.
VALUES_PER_THREAD = 2**15 - 1
SMALL_NORM = 1e-12  # of a row whose squares may vanish in float32

SCHEMA = (
    # What all rows of one kind share. `error` is the largest relative error that storing made.
    "CREATE TABLE IF NOT EXISTS spaces (id INTEGER PRIMARY KEY, fingerprint TEXT, dtype TEXT, "
    "component TEXT, layers TEXT, precision TEXT, shape TEXT, error REAL DEFAULT 0, "
    "UNIQUE (fingerprint, dtype, component, layers, precision))",
    "CREATE TABLE IF NOT EXISTS rows (space INTEGER REFERENCES spaces, prompt BLOB, vector BLOB, "
    "PRIMARY KEY (space, prompt))",
    # The fingerprint of a model that was loaded before, so that reading needs no model.
    "CREATE TABLE IF NOT EXISTS models (source TEXT, dtype TEXT, facts TEXT, "
    "PRIMARY KEY (source, dtype)) WITHOUT ROWID",
)


class Space(NamedTuple):
    """What a row is besides its prompt.

    Attributes:
        fingerprint: Of the model's weights and tokenizer.
        dtype: Of the model's weights, such as "float32".
        component: Name of an internal vector.
        layers: "sum", "each", or a block index.
    """

    fingerprint: str
    dtype: str
    component: str
    layers: str


@dataclass(frozen=True)
class ModelFacts:
    """What analyses and figures say of a model; kept in the store, so that they need not load it.

    Attributes:
        name: The name that it was loaded by.
        source: Digest of where the weights came from.
        fingerprint: Of weights and tokenizer.
        dtype: Of the weights.
        device: Where it ran.
        n_layers: Number of blocks, L.
        d_model: Width of the residual stream, d.
    """

    name: str
    source: str
    fingerprint: str
    dtype: str
    device: str
    n_layers: int
    d_model: int

    def edited(self, label: str, settings: Mapping[str, Any]) -> "ModelFacts":
        """Return the facts of this model with a change of its forward pass.

        Args:
            label: What the change is called.
            settings: What it consists of, as JSON values: they make the fingerprint.
        """
        text = json.dumps(settings, sort_keys=True).encode()
        digest = hashlib.sha256(text).hexdigest()[:16]
        return replace(
            self,
            name=f"{self.name} + {label}",
            source=f"{self.source} + {digest}",
            fingerprint=f"{self.fingerprint}+{digest}",
        )


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
            if precision not in PRECISIONS:
                raise choices("precision", precision, PRECISIONS)
        self.path = Path(path) if path is not None else paths.vectors_path()
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
        """Return the bytes on disk of one row of so many values, with its share of its page."""
        row = PRECISIONS[self._precision(layers)].itemsize * n_values + CHECKSUM_BYTES + KEY_BYTES
        per_page = PAGE_BYTES // row
        return PAGE_BYTES // per_page if per_page else row

    def write(
        self, vectors: Mapping[Space, Float[Tensor, "n ..."]], prompts: Sequence[str]
    ) -> None:
        """Store the vectors of n prompts, all in one transaction; rows that are there stay.

        Args:
            vectors: Space → one row per prompt.
            prompts: Keys of the prompts, from `prompt_key`.

        Raises:
            InputError: Counts differ, or a value is too large for float16.
        """
        keys = [bytes.fromhex(prompt) for prompt in prompts]
        for tensor in vectors.values():
            if len(tensor) != len(keys):
                raise InputError(f"{len(tensor)} rows for {len(keys)} prompts")
        with self._database.connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            for space, tensor in vectors.items():
                precision, shape = self._precision(space.layers), tuple(tensor.shape[1:])
                number = self._shelved(connection, space, precision, shape)
                errors = [0.0]
                exact = precision == "float16" and tensor.dtype == torch.float16
                values = (tensor if exact else tensor.float()).cpu().numpy()
                rows = _sealed_rows(number, keys, values, precision, space, errors)
                connection.executemany("INSERT OR IGNORE INTO rows VALUES (?, ?, ?)", rows)
                connection.execute(
                    "UPDATE spaces SET error=max(error, ?) WHERE id=?", (max(errors), number)
                )

    def has(self, space: Space, prompts: Sequence[str]) -> Bool[np.ndarray, " n"]:
        """Return which prompt keys have their row, at least as exact as the store's precision."""
        keys = [bytes.fromhex(prompt) for prompt in prompts]
        there: set[bytes] = set()
        with self._snapshot() as connection:
            for shelf in self._accepted(connection, space):
                for portion, marks in _portions(keys):
                    query = f"SELECT prompt FROM rows WHERE space=? AND prompt IN ({marks})"
                    there.update(
                        row[0] for row in connection.execute(query, (shelf.number, *portion))
                    )
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
        keys = [bytes.fromhex(prompt) for prompt in prompts]
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
                for portion, marks in _portions(wanted):
                    query = f"SELECT prompt, vector FROM rows WHERE space=? AND prompt IN ({marks})"
                    for key, blob in connection.execute(query, (shelf.number, *portion)):
                        if not _is_whole(shelf, key, blob):
                            raise DataError(
                                f"{self.path} is damaged: the row of prompt {key.hex()} "
                                f"({space.component}, {space.layers}) does not match its checksum; "
                                "`dysem-lab store --repair` removes such rows, and the next run "
                                "makes them again"
                            )
                        row_bytes[:] = memoryview(blob)[: shelf.row_bytes]
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
            "SELECT id, fingerprint, dtype, component, layers, precision, shape, error FROM spaces"
        )
        shelves = []
        for number, *space, precision, shape, error in connection.execute(query):
            sizes = _sizes(shape)
            typed = isinstance(error, float) and all(isinstance(value, str) for value in space)
            if sizes is None or not typed or precision not in PRECISIONS:
                raise DataError(
                    f"{self.path} is damaged: it says that it has rows of {precision!r} and "
                    f"{shape!r} for {space}; move it away"
                )
            shelves.append(_Shelf(number, Space(*space), precision, sizes, error))
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
    ) -> int:
        """Return the id of a space in one precision, made if it is new."""
        for shelf in self._shelves(connection):
            if shelf.space == space and shelf.shape != shape:
                raise InputError(
                    f"rows of shape {list(shape)} for {space}, but {self.path} has such rows of "
                    f"shape {list(shelf.shape)}; `dysem-lab store` prunes them"
                )
            if shelf.space == space and shelf.precision == precision:
                return shelf.number
        made = connection.execute(
            "INSERT INTO spaces (fingerprint, dtype, component, layers, precision, shape) "
            "VALUES (?, ?, ?, ?, ?, ?) RETURNING id",
            (*space, precision, json.dumps(shape)),
        )
        return made.fetchone()[0]

    def remember(self, facts: ModelFacts) -> None:
        """Keep what is known of a loaded model under the digest of its source."""
        with self._database.connection() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO models VALUES (?, ?, ?)",
                (facts.source, facts.dtype, json.dumps(asdict(facts))),
            )

    def recall(self, source: str, dtype: str) -> ModelFacts | None:
        """Return the facts of a model that was loaded before, or None."""
        with self._database.connection() as connection:
            known = _known(connection)
        return next(
            (facts for facts in known if (facts.source, facts.dtype) == (source, dtype)), None
        )

    def contents(self) -> pd.DataFrame:
        """Return one row per space and precision, with its count of rows and megabytes.

        ``error`` is the largest ‖stored − captured‖ / ‖captured‖ of a row (0 for float32).
        """
        with self._snapshot() as connection:
            shelves = self._shelves(connection)
            counts = dict(connection.execute("SELECT space, count(*) FROM rows GROUP BY space"))
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
                removed = connection.execute("DELETE FROM rows WHERE space=?", number).rowcount
                connection.execute("DELETE FROM spaces WHERE id=?", number)
                n_rows += removed
                n_bytes += removed * shelf.row_bytes
        self._give_back(n_bytes)
        return n_rows

    def check(self, *, repair: bool = False) -> int:
        """Read every row, and return how many do not match their checksum.

        Args:
            repair: Remove the damaged rows, so that the next run makes them again.

        Raises:
            DataError: The file is damaged beyond its rows.
        """
        with self._database.connection() as connection:
            connection.execute("BEGIN IMMEDIATE" if repair else "BEGIN")
            report = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if report != "ok":
                raise DataError(f"{self.path} is damaged ({report}); move it away")
            shelves = {shelf.number: shelf for shelf in self._shelves(connection)}
            damaged = [
                (row,)
                for row, number, key, blob in connection.execute(
                    "SELECT rowid, space, prompt, vector FROM rows"
                )
                if number not in shelves or not _is_whole(shelves[number], key, blob)
            ]
            if repair:
                _mend(connection, damaged)
            elif not damaged:
                report = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
                if report != "ok":
                    raise DataError(
                        f"{self.path} is damaged ({report}); `dysem-lab store --repair` mends it"
                    )
        return len(damaged)

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


def _known(connection: sqlite3.Connection) -> list[ModelFacts]:
    """Return the facts that can be read; a model whose facts cannot is one not known yet."""
    known = []
    for row in connection.execute("SELECT facts FROM models"):
        with contextlib.suppress(TypeError, ValueError):
            known.append(ModelFacts(**json.loads(row[0])))
    return known


def _sizes(shape: object) -> tuple[int, ...] | None:
    """Return the sizes of a row, or None where this is not what `VectorStore.write` wrote."""
    with contextlib.suppress(TypeError, ValueError):
        sizes = tuple(json.loads(shape))  # type: ignore[arg-type]
        if all(type(size) is int and size > 0 for size in sizes):
            return sizes
    return None


def _mend(connection: sqlite3.Connection, damaged: Sequence[tuple[int]]) -> None:
    """Remove the rows with these ids, and make the index of the others anew."""
    # SQLite refuses to remove a row that its index does not have, unless the schema is writable.
    connection.execute("PRAGMA writable_schema=ON")
    connection.executemany("DELETE FROM rows WHERE rowid=?", damaged)
    # A row that its index had lost was perhaps made again.
    connection.execute(
        "DELETE FROM rows WHERE rowid NOT IN "
        "(SELECT min(rowid) FROM rows NOT INDEXED GROUP BY space, prompt)"
    )
    connection.execute("REINDEX rows")


def _checksum(number: int, key: bytes, values: bytes | memoryview) -> bytes:
    """Return the checksum of a row; it covers the row's key too."""
    checksum = xxhash.xxh3_64(b"%d %s" % (number, key))
    checksum.update(values)
    return checksum.digest()


def _sealed_rows(
    number: int,
    keys: Sequence[bytes],
    rows: Float[np.ndarray, "n ..."],
    precision: str,
    space: Space,
    errors: list[float],
) -> Iterator[tuple[int, bytes, memoryview]]:
    """Yield what is stored of each row, and add the relative errors of rounding to the list.

    A row's memory is used again for another one, so it is to be taken before the next is asked for.
    """
    # Neighbouring keys share pages, so they are written, and read, together.
    order = sorted(range(len(keys)), key=keys.__getitem__)
    n_values = math.prod(rows.shape[1:])
    n_rows = max(1, min(len(order), VALUES_PER_BLOCK // max(1, n_values)))
    n_bytes = n_values * PRECISIONS[precision].itemsize
    sealed = np.empty((n_rows, n_bytes + CHECKSUM_BYTES), np.uint8)
    for start in range(0, len(order), n_rows):
        chosen = order[start : start + n_rows]
        block = rows[chosen]
        if block.dtype != PRECISIONS[precision]:
            block, error = _halved(block, space)
            errors.append(error)
        sealed[: len(chosen), :n_bytes] = block.reshape(len(chosen), -1).view(np.uint8)
        for index, memory in zip(chosen, sealed, strict=False):
            row = memory.data
            row[n_bytes:] = _checksum(number, keys[index], row[:n_bytes])
            yield number, keys[index], row


def _is_whole(shelf: _Shelf, key: object, blob: object) -> bool:
    """Return whether this is what `_sealed_rows` made; damage may also change a value's type."""
    if not isinstance(key, bytes) or not isinstance(blob, bytes):
        return False
    size = shelf.row_bytes
    return blob[size:] == _checksum(shelf.number, key, memoryview(blob)[:size])


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

    They are sorted, as `VectorStore.write` wrote them, so that the file is read from front to back.
    """
    ordered = sorted(keys)
    portions = [ordered[i : i + KEYS_PER_QUERY] for i in range(0, len(keys), KEYS_PER_QUERY)]
    return [(portion, ",".join("?" * len(portion))) for portion in portions]
