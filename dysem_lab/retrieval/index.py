"""A corpus on disk that is searched by the similarity of DySem, exactly.

The folder has shards of some thousand texts, each written once and mapped into memory, and a SQLite
file that says which of them count. What a kill leaves behind is a file that nothing refers to: the
index is as it was before the call, or as it is after.

Over 400 lines, as what an index is, takes and refuses is said where it is done.
"""

import json
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from filelock import FileLock
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dysem_lab.encoders.base import Encoder, require_encoder
from dysem_lab.encoders.checkpoints import optional_package
from dysem_lab.encoders.vectors import SemanticVectors, require_semantic
from dysem_lab.errors import DataError, InputError, some_of
from dysem_lab.inputs import at_least, checked, one_of, path_of, real_number
from dysem_lab.retrieval import records
from dysem_lab.retrieval.effect import in_common
from dysem_lab.retrieval.first_stage import FirstStage, built, candidates, n_sample, write
from dysem_lab.retrieval.identity import described
from dysem_lab.retrieval.layout import BLOCK, DTYPES, MOST_DIMENSIONS
from dysem_lab.retrieval.reader import Reader
from dysem_lab.retrieval.records import Id

if TYPE_CHECKING:
    from dysem_lab.retrieval.scan import Found


class Hits(NamedTuple):
    """What a search found: for each query the nearest texts, the nearest first.

    Attributes:
        scores: Their similarities, float32 ``[q, k]``; NaN where there is no further hit.
        ids: Their ids, an array of objects ``[q, k]``; None where there is no further hit.
        n_undefined: Texts that have no similarity to a query (empty joint set, or a vector that is
            zero on it), of those that were looked at: they are no hits. int64 ``[q]``.
        first_stage: What chose the texts that were looked at, in words; None where it was all.
    """

    scores: Float[Tensor, "q k"]
    ids: np.ndarray
    n_undefined: np.ndarray
    first_stage: str | None = None


class SemanticIndex(Reader):
    """The vectors and sets of a corpus on disk, searched exactly by the joint-set cosine.

    `create` makes one and `open` opens it. Processes may share it: one writes at a time, and a
    search sees the state that was there when it began.
    """

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
            dtype: "float32"; "float16" or "int8" for a half or a quarter of a value's bytes, which
                changes vectors and so the ranking (`dysem_lab.retrieval.effect` says how much).
                In int8 a dimension has a step of 1/127 of its largest value among some thousand
                texts: of vectors with huge outliers most similarities are lost (`Hits.n_undefined`
                counts them), and float16 is the smaller type that keeps them.
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
                index was made with is refused, and so is an index of a version of this package
                that makes other vectors.

        Raises:
            InputError: No index there, or of another encoder, whose difference is named, or of
                other vectors.
            DataError: An index of another format, or damaged.
        """
        index = cls(path)
        if encoder is not None:
            index.require_made_by(encoder)
        return index

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
        *,
        first_stage: int | None = None,
    ) -> Hits:
        """Return the k texts nearest to each query, exactly: every text is looked at.

        Scores are those of the stored vectors in float64, rounded to float32; of equal ones the
        text that was added first comes first. A query whose set is empty is compared on the other
        text's set alone (DySem Eq. 14).

        Args:
            queries: v and S of q queries.
            k: Number of hits; as many columns as there are texts where these are fewer.
            mask: Which texts are searched, in the order of `ids`; None is all.
            first_stage: Look only at so many texts, which `build_first_stage` chooses, and at
                those added since: near texts can be missed, scores are the same.

        Raises:
            InputError: Another width, k below 1, a mask of another length, a first stage that was
                not built or hands on fewer than k texts.
            DataError: A damaged file, which is named.
            ModelError: numba, or for a first stage faiss, is not installed.

        Source: DySem Eqs. 14-17.
        """
        require_semantic(queries)
        optional_package("numba", "index", "SemanticIndex.search")
        if queries.vectors.shape[1] != self.width:
            raise self._other_width(queries.vectors.shape[1])
        k = at_least(k, 1, "k")
        while True:
            self._refresh()
            allowed = self._masked(mask)
            stage = None if first_stage is None else self._first_stage(first_stage, k)
            found = self._found(queries, allowed, k, stage, first_stage or 0)
            rows = sorted(set(found.rows[found.rows >= 0].tolist()))
            with self._database.connection("BEGIN") as connection:
                known = records.texts_at(connection, rows)
                state = records.facts_of(connection, self.path)["state"]
                if len(known) < len(rows) and state == self._state:
                    raise records.not_whole(self.path, "it does not know all texts of its shards")
                # Else all texts of a shard were removed meanwhile, or have other rows.
                if len(known) == len(rows) and self._is_numbered(connection):
                    break
        ids = np.empty(found.rows.shape, object)
        for at, row in np.ndenumerate(found.rows):
            ids[at] = known[row][0] if row >= 0 else None
        scores = np.where(found.rows >= 0, found.scores, np.nan).astype(np.float32)
        said = stage and f"{first_stage:,} candidates of {stage.description}"
        return Hits(torch.from_numpy(scores), ids, found.n_undefined, said)

    def _found(
        self,
        queries: SemanticVectors,
        allowed: Bool[np.ndarray, " rows"],
        k: int,
        stage: FirstStage | None,
        n: int,
    ) -> "Found":
        """Return the k best of the allowed rows: all, or n that a first stage chooses."""
        from dysem_lab.retrieval.scan import best_of, best_rows, merged

        shards, k = list(self._shards.values()), min(k, int(allowed.sum()))
        if stage is None:
            return best_rows(queries, shards, allowed, k)
        n_staged = stage.n_rows
        chosen = candidates(stage, queries, allowed[:n_staged], n)
        since = allowed & (np.arange(len(allowed)) >= n_staged)
        some = best_of(queries, shards, chosen, k)
        return merged(some, best_rows(queries, shards, since, k), k) if since.any() else some

    def build_first_stage(self, n_candidates: int = 1000, share: float = 0.125) -> dict[str, Any]:
        """Build what `search(first_stage=…)` asks, from all texts, and measure what it misses.

        It takes a byte for each value, on disk and in memory. Texts that are added later are all
        looked at, until it is built again.

        Args:
            n_candidates: With which it is measured.
            share: Of its lists, that a query reads; 1 misses least.

        Returns:
            ``first stage``, in words; ``candidates``; ``recall@10``: the share of the 10 nearest
            texts by `search` that are so with a first stage too, of up to 100 texts of the index
            as queries, each without itself (n_queries).

        Raises:
            InputError: An index without texts, or a share that is none.
            DataError: A damaged shard, or a disk that takes no more.
            ModelError: faiss or numba is not installed.
        """
        optional_package("numba", "index", "SemanticIndex.build_first_stage")
        n_candidates = at_least(n_candidates, 11, "n_candidates")
        if not 0 <= real_number(share, "share") <= 1:
            raise InputError(f"share must be between 0 and 1, got {share}")
        with self._writing():
            self._refresh()
            rows = np.flatnonzero(self._alive)
            if not len(rows):
                raise InputError(f"{self.path} has no texts; add some before its first stage")
            rng = np.random.default_rng(0)
            sample = np.sort(rng.permutation(rows)[: n_sample(len(rows))])
            batches = (rows[a : a + 4 * BLOCK] for a in range(0, len(rows), 4 * BLOCK))
            stage = built(
                self._read(sample),
                len(self._alive),
                len(rows),
                share,
                ((some, self._read(some)) for some in batches),
            )
            asked = np.sort(rng.permutation(rows)[:100])
            recall = self._recall(stage, asked, n_candidates)
            name = records.STAGES.replace("*", uuid.uuid4().hex[:8])
            self._sweep()
            try:
                checksum = write(self.path / name, stage)
                records.sync(self.path)
            except (OSError, RuntimeError) as error:  # the second is faiss's
                raise DataError(f"{self.path} takes no more files ({error})") from error
            said = {
                "first stage": stage.description,
                "candidates": n_candidates,
                "recall@10": recall,
                "n_queries": len(asked),
            }
            facts = {
                "file": name,
                "mean": stage.mean.tolist(),
                "rows": stage.n_rows,
                "share": share,
                "checksum": checksum,
                "said": said,
            }
            with self._database.connection("BEGIN IMMEDIATE") as connection:
                records.set_fact(connection, "first_stage", json.dumps(facts))
                self._changed(connection)
            self._sweep()
        return said

    def _recall(self, stage: FirstStage, rows: Int[np.ndarray, " n"], n: int) -> float | None:
        """Return the share of the 10 nearest texts that are found, None where there are none."""
        queries, tops = self._read(rows), []
        for of in (stage, None):
            found = self._found(queries, self._alive, 11, of, n).rows.tolist()
            tops.append(
                [
                    [j for j in row if j not in (i, -1)][:10]
                    for i, row in zip(rows, found, strict=True)
                ]
            )
        return in_common(*tops) if any(tops[1]) else None

    def compact(self) -> int:
        """Give the disk back what deleted texts take, and join small shards that follow each other.

        Each step is done or not: a process that is killed leaves all texts in their order. A first
        stage goes; build it again. In float32 vectors stay as they are; in float16 and int8 they
        are rounded once more.

        Returns:
            How many deleted texts were removed.

        Raises:
            DataError: A damaged shard, which is named, or a disk that takes no more.
        """
        removed = 0
        with self._writing():
            self._sweep()
            self._refresh()
            alive = self._alive
            with self._database.connection("BEGIN") as connection:
                shards = records.shards_of(connection, self.width, self.dtype)
            for old in records.to_join(shards, alive):
                spans = [np.arange(of.first, of.first + of.shape.rows) for of in old]
                rows = np.concatenate([span[alive[span]] for span in spans])
                first = old[0].first
                made = records.write_shards(self.path, self._read(rows), self.dtype, first)
                with self._database.connection("BEGIN IMMEDIATE") as connection:
                    compacted = records.facts_of(connection, self.path)["compacted"]
                    records.renumber(connection, old, made, rows.tolist())
                    records.set_fact(connection, "compacted", compacted + 1)
                    records.set_fact(connection, "first_stage", None)
                    self._changed(connection)
                removed += sum(map(len, spans)) - len(rows)
            self._sweep()
        return removed

    def _writing(self) -> FileLock:
        return FileLock(self.path / "writing.lock")

    def _sweep(self) -> None:
        """Remove the files that nothing refers to: a killed writer's, and those of no texts."""
        with self._database.connection() as connection:
            shards = records.shards_of(connection, self.width, self.dtype)
            stage = records.facts_of(connection, self.path)["first_stage"]
        kept = {of.file for of in shards} | ({stage["file"]} if stage else set())
        records.sweep(self.path, kept)

    def _changed(self, connection: Any, rows: int | None = None) -> None:
        """Count a change, and the rows that were ever added."""
        connection.execute("UPDATE facts SET value=value+1 WHERE name='state'")
        if rows is not None:
            records.set_fact(connection, "rows", rows)
