"""Candidates for an exact search, by an approximate one over centred vectors (faiss).

A sum over a joint set is one over all dimensions in which those of both sets count 1, those of one
set 1, those of neither 0. No product of two vectors is that; where dimensions off a text's own set
are halved it is 1, 1/2 and 1/4, which finds more than whole vectors do. So a text is w(y) / ‖w(y)‖,
w(y) being y with that, less the mean of all, which changes no rank; 8 bits a value, in lists of
which a query reads some (IVF). It says which texts are worth a look, not how near they are.
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
from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.errors import DataError

PER_LIST = 40  # texts that are drawn to find the centre of a list
FEWEST_READ = 16  # lists
AT_ONCE = 4096
OFF = 0.5  # what a dimension off a text's set counts
AGAIN = "`dysem-lab index first-stage` or index.build_first_stage() makes it anew"


class FirstStage(NamedTuple):
    """A first stage in memory.

    Attributes:
        lists: faiss's index; its numbers are rows of the index on disk.
        mean: What is subtracted, float32 ``[d]``.
        n_rows: Rows of the index that were there when it was built, deleted ones too.
        share: Of the lists, that a query reads.
    """

    lists: Any
    mean: Float[np.ndarray, " d"]
    n_rows: int
    share: float

    @property
    def description(self) -> str:
        """What it is, in words."""
        n = self.lists.nlist
        return f"faiss IVF{n},SQ8 on centred vectors, {self.n_read} of {n} lists read"

    @property
    def n_read(self) -> int:
        """How many lists a query reads."""
        return min(self.lists.nlist, max(FEWEST_READ, round(self.share * self.lists.nlist)))


def n_lists(n: int) -> int:
    """Return how many lists n texts are kept in: √n, which takes seconds for a million texts."""
    return max(1, min(round(n**0.5), n // PER_LIST))


def n_sample(n: int) -> int:
    """Return of how many of n texts lists and mean are made."""
    return min(n, PER_LIST * n_lists(n))


def require_faiss(caller: str) -> Any:
    """Return faiss, or raise `ModelError` with the remedy."""
    return optional_package("faiss", "first-stage", caller)


def _weighted(texts: SemanticVectors) -> Float[np.ndarray, "n d"]:
    """Return w(y) / ‖w(y)‖ of n texts; a zero vector stays."""
    found = np.empty(texts.vectors.shape, np.float32)
    for a in range(0, len(texts), AT_ONCE):  # float64 holds what float32 does, squared too
        some = slice(a, a + AT_ONCE)
        vectors = texts.vectors[some].detach().cpu().double().numpy()
        if not texts.full:
            vectors = np.where(texts.sets[some].cpu().numpy(), vectors, OFF * vectors)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        found[some] = vectors / np.where(norms > 0, norms, 1)
    return found


def built(
    sample: SemanticVectors,
    n_rows: int,
    n: int,
    share: float,
    batches: Iterator[tuple[Int[np.ndarray, " b"], SemanticVectors]],
) -> FirstStage:
    """Return a first stage of n texts.

    Args:
        sample: Some of them, drawn at random: of these mean and lists are made.
        n_rows: Rows of the index, deleted ones too.
        n: How many texts there are.
        share: Of the lists, that a query reads.
        batches: Rows and texts, some at a time.
    """
    faiss = require_faiss("SemanticIndex.build_first_stage")
    drawn = _weighted(sample)
    d, mean = drawn.shape[1], drawn.mean(0)
    kind = faiss.ScalarQuantizer.QT_8bit
    lists = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(d), d, n_lists(n), kind, faiss.METRIC_INNER_PRODUCT
    )
    faiss.omp_set_num_threads(torch.get_num_threads())
    lists.cp.min_points_per_centroid = 1  # of a few texts it says nothing
    lists.train(drawn - mean)
    for rows, texts in batches:
        lists.add_with_ids(_weighted(texts) - mean, rows)
    return FirstStage(lists, mean, n_rows, share)


def candidates(
    stage: FirstStage,
    queries: SemanticVectors,
    allowed: Bool[np.ndarray, " rows"],
    n: int,
) -> Int[np.ndarray, "q m"]:
    """Return up to n rows for each query, of those that are allowed; -1 where there are no more."""
    n = min(n, int(allowed.sum()))  # faiss takes memory for all that are asked for
    if not n:
        return np.zeros((len(queries), 0), np.int64)
    faiss = require_faiss("SemanticIndex.search(first_stage=…)")
    bits = np.packbits(allowed, bitorder="little")
    some = faiss.SearchParametersIVF(sel=faiss.IDSelectorBitmap(bits), nprobe=stage.n_read)
    faiss.omp_set_num_threads(torch.get_num_threads())
    return stage.lists.search(_weighted(queries), n, params=some)[1]


def write(path: Path, stage: FirstStage) -> str:
    """Write the lists of a first stage, wait until they are on the disk, return their checksum."""
    require_faiss("SemanticIndex.build_first_stage").write_index(stage.lists, str(path))
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return _checksum(path)


def read(
    path: Path, mean: Float[np.ndarray, " d"], n_rows: int, share: float, checksum: str
) -> FirstStage:
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
    return FirstStage(faiss.read_index(str(path)), mean, n_rows, share)


def _checksum(path: Path) -> str:
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while part := file.read(2**24):
            digest.update(part)
    return digest.hexdigest()
