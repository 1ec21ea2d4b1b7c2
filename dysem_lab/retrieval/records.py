"""What an index says of itself in its SQLite file: settings, shards, the texts that they hold."""

import json
import os
import sqlite3
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dysem_lab.database import Database
from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.errors import DataError, InputError, some_of
from dysem_lab.inputs import listed, require_characters, whole_number
from dysem_lab.retrieval.layout import DTYPES, Shape, packed, rows_per_shard, write

APPLICATION_ID = 0x64796903  # "dyi": a semantic index of the third format
PATTERN = "shard-*.bin"
STAGES = "first-stage-*.faiss"
NAMES_PER_QUERY = 500
Id = str | int

SCHEMA = (
    # width, dtype, encoder, made by; `state` counts the changes, `rows` the rows ever added,
    # `compacted` how often rows got other numbers; `first_stage` is JSON, where there is one.
    "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS shards (first INTEGER PRIMARY KEY, file TEXT, rows INTEGER, "
    "is_full INTEGER, n_inside INTEGER, checksum BLOB)",
    # A deleted text keeps its id, for who searches a state in which it is there.
    "CREATE TABLE IF NOT EXISTS texts (row INTEGER PRIMARY KEY, id, text TEXT, "
    "is_dead INTEGER DEFAULT 0)",
    "CREATE UNIQUE INDEX IF NOT EXISTS living ON texts (id) WHERE is_dead=0",
    "CREATE INDEX IF NOT EXISTS dead ON texts (row) WHERE is_dead=1",
)


class ShardRecord(NamedTuple):
    """A shard as the file describes it."""

    first: int
    file: str
    shape: Shape
    checksum: bytes


def database(folder: Path) -> Database:
    """Return the SQLite file of an index; errors as for `Database`."""
    return Database(
        folder / "index.sqlite", "semantic index", SCHEMA, application_id=APPLICATION_ID
    )


def is_begun(folder: Path) -> bool:
    """Return whether a folder has an index; where `create` was killed at once, it has none."""
    if not (folder / "index.sqlite").is_file():
        return False
    with database(folder).connection() as connection:
        return bool(connection.execute("SELECT count(*) FROM facts").fetchone()[0])


def facts_of(connection: sqlite3.Connection, path: Path) -> dict[str, Any]:
    """Return what an index says of itself.

    Raises:
        DataError: Something is missing, or is not what `SemanticIndex.create` wrote.
    """
    found = dict(connection.execute("SELECT name, value FROM facts"))
    kinds = {"width": int, "dtype": str, "encoder": str, "made_by": str, "state": int, "rows": int}
    wrong = [name for name, kind in kinds.items() if not isinstance(found.get(name), kind)]
    if wrong or found["dtype"] not in DTYPES:
        raise not_whole(path, f"it does not say its {some_of(wrong) or 'dtype'}")
    try:
        parsed = {name: json.loads(found.get(name, "null")) for name in ("encoder", "first_stage")}
    except ValueError as error:
        raise not_whole(
            path, f"what it says of its encoder or first stage is no JSON: {error}"
        ) from error
    return {"compacted": 0, **found, **parsed}


def not_whole(path: Path, why: str) -> DataError:
    """Return the error of an index whose SQLite file is readable, but not what was written."""
    return DataError(f"{path} is no whole index: {why}; move it away and build it anew")


def shards_of(connection: sqlite3.Connection, width: int, dtype: str) -> list[ShardRecord]:
    """Return the shards that count, in the order of their rows."""
    query = "SELECT first, file, rows, is_full, n_inside, checksum FROM shards ORDER BY first"
    return [
        ShardRecord(first, file, Shape(rows, width, dtype, bool(full), n_inside), checksum)
        for first, file, rows, full, n_inside, checksum in connection.execute(query)
    ]


def write_shards(
    folder: Path, vectors: SemanticVectors, dtype: str, first: int
) -> list[ShardRecord]:
    """Write shards that nothing refers to yet, and wait until they are on the disk.

    Raises:
        DataError: The disk does not take them.
    """
    height, made = rows_per_shard(vectors.vectors.shape[1], dtype), []
    try:
        for a in range(0, len(vectors), height):
            shape, arrays = packed(vectors[a : a + height], dtype)
            name = PATTERN.replace("*", f"{first + a:012d}-{uuid.uuid4().hex[:8]}")
            made.append(ShardRecord(first + a, name, shape, write(folder / name, shape, arrays)))
        sync(folder)
    except OSError as error:
        raise DataError(
            f"{folder} takes no more files ({error}); what was added before is whole"
        ) from error
    return made


def sync(folder: Path) -> None:
    """Wait until the names of a folder's files are on the disk, where the system offers that."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sweep(folder: Path, kept: Collection[str]) -> None:
    """Remove the files of a folder that an index made, but for these names."""
    for pattern in (PATTERN, STAGES):
        for path in folder.glob(pattern):
            if path.name not in kept:
                path.unlink(missing_ok=True)


def set_fact(connection: sqlite3.Connection, name: str, value: str | int | None) -> None:
    """Enter what an index says of itself; None removes it."""
    if value is None:
        connection.execute("DELETE FROM facts WHERE name=?", (name,))
    else:
        connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))


def to_join(shards: Iterable[ShardRecord], alive: Any) -> list[list[ShardRecord]]:
    """Return the shards that compaction makes one of, or makes anew without deleted texts.

    Args:
        shards: In the order of their rows.
        alive: Which of all rows are there, bool ``[n_rows]``.
    """
    groups: list[list[ShardRecord]] = []
    n = 0
    for of in shards:
        living = int(alive[of.first : of.first + of.shape.rows].sum())
        joined = groups and groups[-1][0].shape.full == of.shape.full
        if joined and n + living <= rows_per_shard(of.shape.width, of.shape.dtype):
            groups[-1].append(of)
            n += living
        else:
            groups.append([of])
            n = living
    return [
        group
        for group in groups
        if len(group) > 1 or not alive[group[0].first :][: group[0].shape.rows].all()
    ]


def renumber(
    connection: sqlite3.Connection,
    old: Sequence[ShardRecord],
    made: Sequence[ShardRecord],
    rows: Iterable[int],
) -> None:
    """Put shards in the place of others that follow each other, without their deleted texts.

    Args:
        connection: In a transaction.
        old: The shards that go.
        made: Those that come, from the first row of the old ones on.
        rows: The rows, ascending, that the new ones hold.
    """
    first, end = old[0].first, old[-1].first + old[-1].shape.rows
    connection.execute("DELETE FROM texts WHERE is_dead=1 AND row >= ? AND row < ?", (first, end))
    # A row's new number is no larger than its own, and free once those before it have theirs.
    connection.executemany("UPDATE texts SET row=? WHERE row=?", enumerate(rows, first))
    connection.executemany("DELETE FROM shards WHERE first=?", [(of.first,) for of in old])
    add_shards(connection, made)


def add_shards(connection: sqlite3.Connection, shards: Iterable[ShardRecord]) -> None:
    """Enter shards."""
    connection.executemany(
        "INSERT INTO shards VALUES (?, ?, ?, ?, ?, ?)",
        (
            (of.first, of.file, of.shape.rows, int(of.shape.full), of.shape.n_inside, of.checksum)
            for of in shards
        ),
    )


def _in_batches(names: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(names), NAMES_PER_QUERY):
        yield names[start : start + NAMES_PER_QUERY]


def _marks(batch: Sequence[Any]) -> str:
    return ",".join("?" * len(batch))


def rows_of(connection: sqlite3.Connection, ids: Sequence[Id]) -> dict[Id, int]:
    """Return id → row of those of the ids that are there."""
    found: dict[Id, int] = {}
    for batch in _in_batches(ids):
        query = f"SELECT id, row FROM texts WHERE is_dead=0 AND id IN ({_marks(batch)})"
        found |= connection.execute(query, batch)
    return found


def texts_at(
    connection: sqlite3.Connection, rows: Sequence[int]
) -> dict[int, tuple[Id, str | None]]:
    """Return row → id and text of those of the rows that are known, deleted ones too."""
    found: dict[int, tuple[Id, str | None]] = {}
    for batch in _in_batches(rows):
        query = f"SELECT row, id, text FROM texts WHERE row IN ({_marks(batch)})"
        found |= {row: (name, text) for row, name, text in connection.execute(query, batch)}
    return found


def texts_of(connection: sqlite3.Connection, of: ShardRecord) -> list[tuple[str, Id, str | None]]:
    """Return file, id and text of each text of a shard."""
    query = "SELECT ?, id, text FROM texts WHERE is_dead=0 AND row >= ? AND row < ? ORDER BY row"
    return connection.execute(query, (of.file, of.first, of.first + of.shape.rows)).fetchall()


def bury(connection: sqlite3.Connection, rows: Sequence[int]) -> None:
    """Mark rows as deleted, with their texts gone, and remove shards that hold no others."""
    connection.executemany(
        "UPDATE texts SET is_dead=1, text=NULL WHERE row=?", ((row,) for row in rows)
    )
    empty = connection.execute(
        "SELECT first, rows FROM shards WHERE NOT EXISTS (SELECT 1 FROM texts WHERE is_dead=0 "
        "AND row >= first AND row < first + rows)"
    ).fetchall()
    for first, n in empty:
        connection.execute("DELETE FROM shards WHERE first=?", (first,))
        connection.execute("DELETE FROM texts WHERE row >= ? AND row < ?", (first, first + n))


def n_texts(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return how many texts there are, and how many deleted ones have vectors in a shard yet."""
    (dead,) = connection.execute("SELECT count(*) FROM texts WHERE is_dead=1").fetchone()
    (rows,) = connection.execute("SELECT ifnull(sum(rows), 0) FROM shards").fetchone()
    return rows - dead, dead


def living(connection: sqlite3.Connection, n_rows: int, shards: Sequence[ShardRecord]) -> Any:
    """Return which of all rows are there, bool ``[n_rows]``."""
    alive = np.zeros(n_rows, bool)
    for of in shards:
        alive[of.first : of.first + of.shape.rows] = True
    dead = connection.execute("SELECT row FROM texts WHERE is_dead=1").fetchall()
    alive[[row for (row,) in dead]] = False
    return alive


def checked_ids(given: Iterable[Id]) -> list[Id]:
    """Return ids as a list, once each is a string or a whole number, and none is there twice.

    Raises:
        InputError: It is named.
    """
    ids: list[Id] = []
    for index, name in enumerate(listed(given, "id")):
        if isinstance(name, str):
            require_characters(name, f"id {index}")
            ids.append(str(name))
            continue
        number = whole_number(name)
        if number is None or not -(2**63) <= number < 2**63:
            raise InputError(f"id {index} must be a string or a whole number, got {name!r:.200}")
        ids.append(number)
    if len(set(ids)) < len(ids):
        seen: set[Id] = set()
        twice = [repr(name) for name in ids if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
        raise InputError(f"ids that are given twice: {some_of(twice)}; a text has one of its own")
    return ids
