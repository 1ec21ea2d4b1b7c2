"""A corpus on disk that is searched by the similarity of DySem, exactly.

The folder has shards of some thousand texts, each written once and mapped into memory, and a SQLite
file that says which of them count. What a kill leaves behind is a file that nothing refers to: the
index is as it was before the call, or as it is after.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from jaxtyping import Bool, Float
from torch import Tensor

from dysem_lab.encoders.base import Encoder, require_encoder
from dysem_lab.encoders.checkpoints import optional_package
from dysem_lab.encoders.vectors import SemanticVectors, require_semantic
from dysem_lab.errors import DataError, InputError, some_of
from dysem_lab.inputs import array_of, at_least, checked, one_of, path_of
from dysem_lab.retrieval import records
from dysem_lab.retrieval.identity import described, differences, identity_of
from dysem_lab.retrieval.layout import DTYPES, MOST_DIMENSIONS, Shard
from dysem_lab.retrieval.records import Id


class Hits(NamedTuple):
    """What a search found: for each query the nearest texts, the nearest first.

    Attributes:
        scores: Their similarities, float32 ``[q, k]``; NaN where there is no further hit.
        ids: Their ids, an array of objects ``[q, k]``; None where there is no further hit.
        n_undefined: Texts that have no similarity to a query (empty joint set, or a vector that is
            zero on it): they are no hits. int64 ``[q]``.
    """

    scores: Float[Tensor, "q k"]
    ids: np.ndarray
    n_undefined: np.ndarray


class SemanticIndex:
    """The vectors and sets of a corpus on disk, searched exactly by the joint-set cosine.

    `create` makes one and `open` opens it. Processes may share it: one writes at a time, and a
    search sees the state that was there when it began.

    Attributes:
        path: Its folder.
        width: Number of dimensions, d.
        dtype: In which values are stored.
        encoder: What made the vectors: the kind, settings and model of an encoder as JSON values,
            empty where that was not said.
    """

    def __init__(self, path: str | Path) -> None:
        """Read what an index says of itself; `open` also checks what made its vectors."""
        self.path = path_of(path, "the index")
        if not (self.path / "index.sqlite").is_file():
            raise InputError(
                f"no index at {self.path}; SemanticIndex.create or `dysem-lab index build` makes "
                "one"
            )
        self._database = records.database(self.path)
        with self._database.connection() as connection:
            facts = records.facts_of(connection, self.path)
        self.width: int = facts["width"]
        self.dtype: str = facts["dtype"]
        self.encoder: dict[str, Any] = facts["encoder"]
        self.made_by: str = facts["made_by"]
        self._state = -1
        self._shards: dict[str, Shard] = {}
        self._alive = np.zeros(0, bool)

    @classmethod
    def create(
        cls,
        path: str | Path,
        width: int,
        *,
        dtype: str = "float32",
        encoder: Encoder | None = None,
    ) -> Self:
        """Make an empty index in a new folder.

        Args:
            path: The folder; it is made.
            width: Number of dimensions, d.
            dtype: "float32"; "float16" or "int8" for a half or a quarter of the bytes, which
                changes vectors and so the ranking (`dysem_lab.retrieval.effect` says how much).
            encoder: What makes the vectors; `open` then refuses another.

        Raises:
            InputError: There is an index already, more dimensions than 65,536, an unknown data
                type, or an encoder of another width.
        """
        from dysem_lab import __version__

        folder = path_of(path, "the index")
        d = at_least(width, 1, "width")
        if d > MOST_DIMENSIONS:
            raise InputError(f"an index has at most {MOST_DIMENSIONS:,} dimensions, not {d:,}")
        one_of(dtype, DTYPES, "dtype")
        made_by = {} if encoder is None else described(require_encoder(encoder))
        if encoder is not None and encoder.width != d:
            raise InputError(f"{encoder.name} makes vectors of width {encoder.width}, not {d}")
        facts = {
            "width": d,
            "dtype": dtype,
            "encoder": json.dumps(made_by, ensure_ascii=False),
            "made_by": f"dysem-lab {__version__}",
            "state": 0,
            "rows": 0,
        }
        with records.database(folder).connection("BEGIN IMMEDIATE") as connection:
            if connection.execute("SELECT count(*) FROM facts").fetchone()[0]:
                raise InputError(
                    f"there is an index at {folder} already; open it, or give another path"
                )
            connection.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())
        return cls(folder)

    @classmethod
    def open(cls, path: str | Path, encoder: Encoder | None = None) -> Self:
        """Open an index.

        Args:
            path: Its folder.
            encoder: What will make the queries; one with another model or other settings than the
                index was made with is refused.

        Raises:
            InputError: No index there, or of another encoder, whose difference is named.
            DataError: An index of another format, or damaged.
        """
        index = cls(path)
        if encoder is not None:
            index.require_made_by(encoder)
        return index

    def require_made_by(self, encoder: Encoder) -> None:
        """Raise `InputError` unless an encoder is what the index was made with."""
        there, given = identity_of(self.encoder), identity_of(described(require_encoder(encoder)))
        if not there:
            if encoder.width != self.width:
                raise self._other_width(encoder.width)
            return
        if other := differences(there, given):
            raise InputError(
                f"{self.path} was made with {other}: vectors of two encoders have no similarity; "
                "use that one, or build another index"
            )

    def _other_width(self, width: int) -> InputError:
        return InputError(
            f"vectors of width {width} for {self.path}, which has width {self.width}; give its own"
        )

    def __len__(self) -> int:
        self._refresh()
        return int(self._alive.sum())

    def __repr__(self) -> str:
        return f"SemanticIndex({str(self.path)!r}, {len(self):,} texts, {self.dtype})"

    @property
    def ids(self) -> list[Id]:
        """Of all texts, in the order in which they were added."""
        with self._database.connection("BEGIN") as connection:
            query = "SELECT id FROM texts WHERE is_dead=0 ORDER BY row"
            return [name for (name,) in connection.execute(query)]

    @property
    def n_bytes(self) -> int:
        """Size on disk, in bytes."""
        return sum(path.stat().st_size for path in self.path.iterdir() if path.is_file())

    def texts(self, ids: Iterable[Id]) -> list[str | None]:
        """Return the texts that were given with the vectors, None where there was none.

        Raises:
            InputError: An id that is not there.
        """
        rows = self._rows(records.checked_ids(ids))
        with self._database.connection("BEGIN") as connection:
            known = records.texts_at(connection, rows)
        return [known[row][1] for row in rows]

    def vectors(self, ids: Iterable[Id]) -> SemanticVectors:
        """Return v and S of some texts, as they are stored.

        Raises:
            InputError: An id that is not there.
            DataError: A damaged shard.
        """
        rows = np.array(self._rows(records.checked_ids(ids)), np.int64)
        self._refresh()
        vectors = torch.zeros(len(rows), self.width)
        sets = torch.zeros(len(rows), self.width, dtype=torch.bool)
        for shard in self._shards.values():
            n = shard.shape.rows
            here = ((rows >= shard.first) & (rows < shard.first + n)).nonzero()[0]
            if len(here):
                vectors[here], sets[here] = shard.read(rows[here] - shard.first)
        return SemanticVectors(vectors, sets)

    def add(
        self,
        ids: Iterable[Id],
        vectors: SemanticVectors,
        texts: Sequence[str] | None = None,
        *,
        replace: bool = False,
    ) -> None:
        """Add n texts, all of them or none; large batches make an index that is fast to search.

        Args:
            ids: n strings or whole numbers, each of its own.
            vectors: Their v and S.
            texts: The texts, for who shows them; None keeps none.
            replace: Put them in the place of those that have the same ids.

        Raises:
            InputError: Counts differ, another width, values that float32 does not hold, an id that
                is there already (without `replace`).
            DataError: The disk is full, or does not take the files.
        """
        names = records.checked_ids(ids)
        require_semantic(vectors)
        if vectors.vectors.shape[1] != self.width:
            raise self._other_width(vectors.vectors.shape[1])
        kept = [None] * len(names) if texts is None else checked(texts)
        if not len(names) == len(vectors) == len(kept):
            raise InputError(f"{len(names)} ids, {len(vectors)} vectors and {len(kept)} texts")
        if not names:
            return
        if vectors.vectors.abs().max() > torch.finfo(torch.float32).max:
            raise InputError("vectors have a value that float32 does not hold; scale them")
        with self._writing():
            with self._database.connection() as connection:
                first = records.facts_of(connection, self.path)["rows"]
                there = records.rows_of(connection, names)
            if there and not replace:
                raise InputError(
                    f"ids that are there already: {some_of([repr(name) for name in there])}; "
                    "delete them first, or add with replace=True"
                )
            self._sweep()
            made = records.write_shards(self.path, vectors, self.dtype, first)
            with self._database.connection("BEGIN IMMEDIATE") as connection:
                records.bury(connection, list(there.values()))
                records.add_shards(connection, made)
                connection.executemany(
                    "INSERT INTO texts (row, id, text) VALUES (?, ?, ?)",
                    zip(range(first, first + len(names)), names, kept, strict=True),
                )
                self._changed(connection, first + len(names))

    def delete(self, ids: Iterable[Id]) -> None:
        """Remove texts, all of them or none; a shard without any is given back to the disk.

        Raises:
            InputError: An id that is not there.
        """
        names = records.checked_ids(ids)
        with self._writing():
            rows = self._rows(names)
            with self._database.connection("BEGIN IMMEDIATE") as connection:
                records.bury(connection, rows)
                self._changed(connection)
            self._sweep()

    def search(
        self,
        queries: SemanticVectors,
        k: int = 10,
        mask: Bool[np.ndarray, " n"] | Sequence[bool] | None = None,
    ) -> Hits:
        """Return the k texts nearest to each query, exactly: every text is looked at.

        Scores are those of the stored vectors in float64, rounded to float32; of equal ones the
        text that was added first comes first. A query whose set is empty is compared on the other
        text's set alone (DySem Eq. 14).

        Args:
            queries: v and S of q queries.
            k: Number of hits; as many columns as there are texts where these are fewer.
            mask: Which texts are searched, in the order of `ids`; None is all.

        Raises:
            InputError: Another width, k below 1, or a mask of another length.
            DataError: A damaged shard, which is named.
            ModelError: numba is not installed.

        Source: DySem Eqs. 14-17.
        """
        require_semantic(queries)
        optional_package("numba", "index", "SemanticIndex.search")
        from dysem_lab.retrieval.scan import best_rows

        if queries.vectors.shape[1] != self.width:
            raise self._other_width(queries.vectors.shape[1])
        k = at_least(k, 1, "k")
        while True:
            self._refresh()
            allowed, shards = self._masked(mask), list(self._shards.values())
            found = best_rows(queries, shards, allowed, min(k, int(allowed.sum())))
            rows = sorted(set(found.rows[found.rows >= 0].tolist()))
            with self._database.connection("BEGIN") as connection:
                known = records.texts_at(connection, rows)
            if len(known) == len(rows):  # else all texts of a shard were removed meanwhile
                break
        ids = np.empty(found.rows.shape, object)
        for at, row in np.ndenumerate(found.rows):
            ids[at] = known[row][0] if row >= 0 else None
        scores = np.where(found.rows >= 0, found.scores, np.nan).astype(np.float32)
        return Hits(torch.from_numpy(scores), ids, found.n_undefined)

    def damaged(self) -> pd.DataFrame:
        """Read all shards, and return the texts of those that are not what was written.

        Returns:
            One row per text: ``shard``, its file; ``id``; ``text``, None where it was not kept. To
            mend the index, `add` them again with ``replace=True``, or `delete` them.
        """
        broken = []
        with self._database.connection("BEGIN") as connection:
            for of in records.shards_of(connection, self.width, self.dtype):
                try:
                    sound = Shard(self.path / of.file, of.first, of.shape, of.checksum).is_sound()
                except DataError:
                    sound = False
                if not sound:
                    broken += records.texts_of(connection, of)
        return pd.DataFrame(broken, columns=["shard", "id", "text"])

    def _masked(self, mask: object) -> Bool[np.ndarray, " rows"]:
        """Return which of all rows are searched."""
        if mask is None:
            return self._alive
        given, n = array_of(mask, "mask"), int(self._alive.sum())
        if given.dtype != bool or given.shape != (n,):
            raise InputError(
                f"mask must be {n:,} booleans, one for each of index.ids, got {given.dtype} of "
                f"shape {given.shape}"
            )
        allowed = np.zeros_like(self._alive)
        allowed[self._alive] = given
        return allowed

    def _rows(self, names: Sequence[Id]) -> list[int]:
        with self._database.connection("BEGIN") as connection:
            there = records.rows_of(connection, names)
        if absent := [repr(name) for name in names if name not in there]:
            raise InputError(f"{self.path} has no text {some_of(absent)}; see index.ids")
        return [there[name] for name in names]

    def _refresh(self) -> None:
        """Map the shards of the present state."""
        for last in (False, True):
            with self._database.connection("BEGIN") as connection:
                facts = records.facts_of(connection, self.path)
                if facts["state"] == self._state:
                    return
                wanted = records.shards_of(connection, self.width, self.dtype)
                alive = records.living(connection, facts["rows"], wanted)
            try:
                shards = {
                    of.file: self._shards.get(of.file)
                    or Shard(self.path / of.file, of.first, of.shape, of.checksum)
                    for of in wanted
                }
            except DataError:
                if last:  # else it may have been given back to the disk since it was listed
                    raise
                continue
            self._state, self._shards, self._alive = facts["state"], shards, alive
            return

    def _writing(self) -> FileLock:
        return FileLock(self.path / "writing.lock")

    def _sweep(self) -> None:
        """Remove the files that nothing refers to: a killed writer's, and those of no texts."""
        with self._database.connection() as connection:
            shards = records.shards_of(connection, self.width, self.dtype)
        records.sweep(self.path, shards)

    def _changed(self, connection: Any, rows: int | None = None) -> None:
        """Count a change, and the rows that were ever added."""
        connection.execute("UPDATE facts SET value=value+1 WHERE name='state'")
        if rows is not None:
            connection.execute("UPDATE facts SET value=? WHERE name='rows'", (rows,))
