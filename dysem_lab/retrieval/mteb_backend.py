"""An index on disk where MTEB's retrieval asks for a search index (mteb 2)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.errors import InputError
from dysem_lab.harnesses.sentence_api import unpack
from dysem_lab.retrieval.index import SemanticIndex


class IndexBackend:
    """A `SemanticIndex` as the search index of `mteb.models.SearchEncoderWrapper`.

    ``SearchEncoderWrapper(dl.mteb_model(dysem), index_backend=IndexBackend(folder, dysem.dense))``
    is a model for `mteb.evaluate`. Documents are searched exactly, by the encoder's similarity; a
    document that has none to a query is no hit.

    Args:
        path: Folder of the index; it is made with the first documents.
        dense: Whether embeddings are vectors, as those of a dense encoder; DySem's are packed
            vectors and sets.
        dtype: As for `SemanticIndex.create`.

    Raises:
        InputError: There is an index already.
    """

    def __init__(self, path: str | Path, dense: bool = False, dtype: str = "float32") -> None:
        """Keep the arguments; nothing is written yet."""
        self._path, self._dense, self._dtype = Path(path), dense, dtype
        self._index: SemanticIndex | None = None
        self._names: list[str] = []
        if (self._path / "index.sqlite").exists():
            raise InputError(f"there is an index at {path} already; give another folder")

    def add_documents(self, embeddings: Any, idxs: Sequence[str]) -> None:
        """Add documents by their embeddings; errors as for `SemanticIndex.add`."""
        vectors = self._unpacked(embeddings)
        if self._index is None:
            width = vectors.vectors.shape[1]
            self._index = SemanticIndex.create(self._path, width, dtype=self._dtype)
        first = len(self._names)
        self._index.add(range(first, first + len(vectors)), vectors)
        self._names += idxs

    def search(
        self,
        embeddings: Any,
        top_k: int,
        similarity_fn: Callable[..., Any] | None = None,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        query_idx_to_id: Mapping[int, str] | None = None,
    ) -> tuple[list[list[float]], list[list[int]]]:
        """Return scores and positions of the documents that are nearest to each query.

        Args:
            embeddings: Of q queries.
            top_k: Documents of each.
            similarity_fn: Not asked: the index has the encoder's similarity.
            top_ranked: Query → the documents that are ranked; positions are then in this list.
            query_idx_to_id: Position of a query → its name in `top_ranked`.

        Raises:
            InputError: No documents, or as for `SemanticIndex.search`.
        """
        if self._index is None:
            raise InputError("there are no documents yet; call add_documents first")
        queries = self._unpacked(embeddings)
        if top_ranked is None:
            return _listed(self._index.search(queries, top_k))
        scores, positions = [], []
        at = {name: position for position, name in enumerate(self._names)}
        for i in range(len(queries)):
            ranked = [at[name] for name in top_ranked[(query_idx_to_id or {})[i]]]
            mask = np.zeros(len(self._names), bool)
            mask[ranked] = True
            (of_query,), (found,) = _listed(self._index.search(queries[[i]], top_k, mask))
            scores.append(of_query)
            positions.append([ranked.index(position) for position in found])
        return scores, positions

    def clear(self) -> None:
        """Remove all documents."""
        if self._index is not None:
            self._index.delete(self._index.ids)
        self._names = []

    def _unpacked(self, embeddings: Any) -> SemanticVectors:
        rows = torch.as_tensor(embeddings)
        return SemanticVectors(rows) if self._dense else unpack(rows)


def _listed(hits: Any) -> tuple[list[list[float]], list[list[int]]]:
    """Return hits as lists, without what is none."""
    there = [[name is not None for name in row] for row in hits.ids]
    return (
        [row[some].tolist() for row, some in zip(hits.scores, there, strict=True)],
        [row[some].tolist() for row, some in zip(hits.ids, there, strict=True)],
    )
