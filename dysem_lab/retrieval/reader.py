"""What is read of an index on disk: its settings, ids and texts, and shards mapped into memory."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int

from dysem_lab.display import amount
from dysem_lab.encoders.base import Encoder, require_encoder
from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.errors import DataError, InputError, some_of
from dysem_lab.inputs import array_of, at_least, path_of
from dysem_lab.retrieval import records
from dysem_lab.retrieval.first_stage import FirstStage, read
from dysem_lab.retrieval.identity import (
    described,
    differences,
    encoders_differ,
    require_vectors,
)
from dysem_lab.retrieval.layout import Shard
from dysem_lab.retrieval.records import Id


class Reader:
    """An index as it is on disk; `dysem_lab.SemanticIndex` also writes and searches it.

    Attributes:
        path: Its folder.
        width: Number of dimensions, d.
        dtype: In which values are stored.
        encoder: What made the vectors: the kind, settings and model of an encoder as JSON values,
            empty where that was not said.
    """

    def __init__(self, path: str | Path) -> None:
        """Read what an index says of itself."""
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
        self._state, self._compacted = -1, 0
        self._shards: dict[str, Shard] = {}
        self._alive = np.zeros(0, bool)
        self._staged: dict[str, Any] | None = None
        self._stage: tuple[str, FirstStage] | None = None

    def _other_width(self, width: int) -> InputError:
        return InputError(
            f"vectors of width {width} for {self.path}, which has width {self.width}; give its own"
        )

    def __len__(self) -> int:
        with self._database.connection("BEGIN") as connection:
            return records.n_texts(connection)[0]

    def __repr__(self) -> str:
        return f"SemanticIndex({str(self.path)!r}, {amount(len(self), 'text')}, {self.dtype})"

    @property
    def first_stage(self) -> dict[str, Any] | None:
        """What `build_first_stage` said; None where there is none."""
        self._refresh()
        return self._staged and self._staged["said"]

    @property
    def ids(self) -> list[Id]:
        """Of all texts, in the order in which they were added."""
        with self._database.connection("BEGIN") as connection:
            query = "SELECT id FROM texts WHERE is_dead=0 ORDER BY row"
            return [name for (name,) in connection.execute(query)]

    @property
    def n_deleted(self) -> int:
        """Deleted texts whose vectors are still on disk; `SemanticIndex.compact` removes them."""
        with self._database.connection("BEGIN") as connection:
            return records.n_texts(connection)[1]

    @property
    def n_bytes(self) -> int:
        """Size on disk, in bytes."""
        return sum(path.stat().st_size for path in self.path.iterdir() if path.is_file())

    def texts(self, ids: Iterable[Id]) -> list[str | None]:
        """Return the texts that were given with the vectors, None where there was none.

        Raises:
            InputError: An id that is not there.
        """
        names = records.checked_ids(ids)
        with self._database.connection("BEGIN") as connection:
            rows = self._rows_in(connection, names)
            known = records.texts_at(connection, rows)
        return [known[row][1] for row in rows]

    def vectors(self, ids: Iterable[Id]) -> SemanticVectors:
        """Return v and S of some texts, as they are stored.

        Raises:
            InputError: An id that is not there.
            DataError: A damaged shard.
        """
        names = records.checked_ids(ids)
        while True:
            self._refresh()
            with self._database.connection("BEGIN") as connection:
                rows = np.array(self._rows_in(connection, names), np.int64)
                if self._is_numbered(connection) and (rows < len(self._alive)).all():
                    break
        return self._read(rows)

    def _read(self, rows: Int[np.ndarray, " n"]) -> SemanticVectors:
        """Return v and S of some rows of the state that was read."""
        vectors = torch.zeros(len(rows), self.width)
        sets = torch.zeros(len(rows), self.width, dtype=torch.bool)
        for shard in self._shards.values():
            n = shard.shape.rows
            here = ((rows >= shard.first) & (rows < shard.first + n)).nonzero()[0]
            if len(here):
                vectors[here], sets[here] = shard.read(rows[here] - shard.first)
        return SemanticVectors(vectors, sets)

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
            return self._rows_in(connection, names)

    def _is_numbered(self, connection: Any) -> bool:
        """Return whether rows have the numbers of the state that was read: none was compacted."""
        return records.facts_of(connection, self.path)["compacted"] == self._compacted

    def _rows_in(self, connection: Any, names: Sequence[Id]) -> list[int]:
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
                if any(of.first + of.shape.rows > facts["rows"] for of in wanted):
                    raise records.not_whole(self.path, f"it has more than {facts['rows']:,} rows")
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
            self._state, self._compacted = facts["state"], facts["compacted"]
            self._shards, self._alive = shards, alive
            self._staged = facts["first_stage"]
            return

    def require_vectors(self) -> None:
        """Raise `InputError` unless this version makes the same vectors of a text."""
        if self.encoder:
            require_vectors(self.encoder, str(self.path), self.made_by, "build another index")

    def require_made_by(self, encoder: Encoder) -> None:
        """Raise `InputError` unless an encoder, and this version of it, made the index."""
        self.require_vectors()
        given = described(require_encoder(encoder))
        if not self.encoder:
            if encoder.width != self.width:
                raise self._other_width(encoder.width)
            return
        self._require_none(encoders_differ(self.encoder, given))

    def require_settings(self, kind: str, settings: Mapping[str, Any]) -> None:
        """Raise `InputError` where no encoder of these settings made the index.

        Args:
            kind: Of the encoder: the name of its class.
            settings: Some of them, as JSON values; no model is needed for that.
        """
        if self.encoder:
            made = {"encoder": self.encoder["encoder"].rpartition(".")[2], **self.encoder["config"]}
            asked = {"encoder": kind, **settings}
            self._require_none(differences({name: made.get(name) for name in asked}, asked))

    def _require_none(self, other: str) -> None:
        if other:
            raise InputError(
                f"{self.path} was made with {other}: vectors of two encoders have no similarity; "
                "use that one, or build another index"
            )

    def _first_stage(self, n: int, k: int) -> FirstStage:
        """Return the first stage of the present state, read once."""
        if at_least(n, 1, "first_stage") < k:
            raise InputError(f"first_stage={n} hands on fewer texts than k={k}; give more")
        facts = self._staged
        if facts is None:
            raise InputError(
                f"{self.path} has no first stage; index.build_first_stage() or `dysem-lab index "
                "first-stage` makes one"
            )
        if self._stage is None or self._stage[0] != facts["file"]:
            mean = np.array(facts["mean"], np.float32)
            said = mean, facts["rows"], facts["share"], facts["checksum"]
            stage = read(self.path / facts["file"], *said)
            self._stage = facts["file"], stage
        return self._stage[1]
