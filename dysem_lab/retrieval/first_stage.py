"""Candidates for an exact search, by an approximate one over centred vectors (faiss).

All dimensions count in it, less the mean of the texts; each vector has length 1 and 8 bits a value,
in lists of which a query reads some (IVF). It says which texts are worth a look, not how near they
are.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash
from jaxtyping import Bool, Float, Int

from dysem_lab.encoders.checkpoints import optional_package
from dysem_lab.errors import DataError

PER_LIST = 40  # texts that are drawn to find the centre of a list
READ = 16  # one list in so many is read
FEWEST_READ = 16
AT_ONCE = 4096
AGAIN = "`dysem-lab index first-stage` or index.build_first_stage() makes it anew"


class FirstStage(NamedTuple):
    """A first stage in memory.

    Attributes:
        lists: faiss's index; its numbers are rows of the index on disk.
        mean: What is subtracted, float32 ``[d]``.
        n_rows: Rows of the index that were there when it was built, deleted ones too.
    """

    lists: Any
    mean: Float[np.ndarray, " d"]
    n_rows: int

    @property
    def description(self) -> str:
        """What it is, in words."""
        n = self.lists.nlist
        return f"faiss IVF{n},SQ8 on centred vectors, {self.n_read} of {n} lists read"

    @property
    def n_read(self) -> int:
        """How many lists a query reads."""
        return min(self.lists.nlist, max(FEWEST_READ, self.lists.nlist // READ))


def n_lists(n: int) -> int:
    """Return how many lists n texts are kept in: √n, which takes seconds for a million texts."""
    return max(1, min(round(n**0.5), n // PER_LIST))


def n_sample(n: int) -> int:
    """Return of how many of n texts lists and mean are made."""
    return min(n, PER_LIST * n_lists(n))


def require_faiss(caller: str) -> Any:
    """Return faiss, or raise `ModelError` with the remedy."""
    return optional_package("faiss", "first-stage", caller)


def _centred(
    vectors: Float[np.ndarray, "n d"], mean: Float[np.ndarray, " d"]
) -> Float[np.ndarray, "n d"]:
    """Return vectors less the mean, each of length 1; a zero vector stays."""
    found = np.empty(vectors.shape, np.float32)
    for a in range(0, len(vectors), AT_ONCE):  # float64 holds what float32 does, squared too
        centred = vectors[a : a + AT_ONCE].astype(np.float64) - mean
        norms = np.linalg.norm(centred, axis=1, keepdims=True)
        found[a : a + AT_ONCE] = centred / np.where(norms > 0, norms, 1)
    return found


def built(
    sample: Float[np.ndarray, "n d"],
    n_rows: int,
    n: int,
    batches: Iterator[tuple[Int[np.ndarray, " b"], Float[np.ndarray, "b d"]]],
) -> FirstStage:
    """Return a first stage of n texts.

    Args:
        sample: Some of their vectors, drawn at random: of these mean and lists are made.
        n_rows: Rows of the index, deleted ones too.
        n: How many texts there are.
        batches: Rows and vectors, some at a time.
    """
    faiss = require_faiss("SemanticIndex.build_first_stage")
    d, mean = sample.shape[1], sample.astype(np.float64).mean(0).astype(np.float32)
    kind = faiss.ScalarQuantizer.QT_8bit
    lists = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(d), d, n_lists(n), kind, faiss.METRIC_INNER_PRODUCT
    )
    faiss.omp_set_num_threads(torch.get_num_threads())
    lists.cp.min_points_per_centroid = 1  # of a few texts it says nothing
    lists.train(_centred(sample, mean))
    for rows, vectors in batches:
        lists.add_with_ids(_centred(vectors, mean), rows)
    return FirstStage(lists, mean, n_rows)


def candidates(
    stage: FirstStage,
    queries: Float[np.ndarray, "q d"],
    allowed: Bool[np.ndarray, " rows"],
    n: int,
) -> Int[np.ndarray, "q n"]:
    """Return n rows for each query, of those that are allowed; -1 where there are no more."""
    faiss = require_faiss("SemanticIndex.search(first_stage=…)")
    bits = np.packbits(allowed, bitorder="little")
    some = faiss.SearchParametersIVF(sel=faiss.IDSelectorBitmap(bits), nprobe=stage.n_read)
    faiss.omp_set_num_threads(torch.get_num_threads())
    return stage.lists.search(_centred(queries, stage.mean), n, params=some)[1]


def write(path: Path, stage: FirstStage) -> str:
    """Write the lists of a first stage, wait until they are on the disk, return their checksum."""
    require_faiss("SemanticIndex.build_first_stage").write_index(stage.lists, str(path))
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return _checksum(path)


def read(path: Path, mean: Float[np.ndarray, " d"], n_rows: int, checksum: str) -> FirstStage:
    """Return a first stage that was written.

    Raises:
        DataError: The file is not there, or is another.
        ModelError: faiss is not installed.
    """
    faiss = require_faiss("SemanticIndex.search(first_stage=…)")
    try:
        found = _checksum(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; {AGAIN}") from error
    if found != checksum:
        raise DataError(f"{path} is damaged: it does not match its checksum; {AGAIN}")
    return FirstStage(faiss.read_index(str(path)), mean, n_rows)


def _checksum(path: Path) -> str:
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while part := file.read(2**24):
            digest.update(part)
    return digest.hexdigest()
