"""The vector store against a plain file of the same bytes, in one run: seconds and their ratios.

Both write the same float16 rows in portions and read them back as float32. The plain file has no
keys and no checksums, and is safe on disk at its end, the store after each portion; so a plain file
that waits for the disk after each portion is timed too. Rounding rows from float32, with its error
measured, is a time of its own.

    python benchmarks/vector_store.py
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import dysem_lab as dl
from dysem_lab.models.store import Space, prompt_key

PORTION = 4096  # rows of one transaction
SPACE = Space("benchmark", "float32", "attn", "each")


def plain_write(path: Path, portions: list[np.ndarray], *, each_is_safe: bool = False) -> float:
    """Return the seconds to write the portions and to wait until all, or each, are on disk."""
    start = time.perf_counter()
    with path.open("wb") as file:
        for portion in portions:
            file.write(portion)
            if each_is_safe:
                file.flush()
                os.fsync(file.fileno())
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - start


def store_write(path: Path, rows: torch.Tensor, keys: list[str]) -> tuple[dl.VectorStore, float]:
    """Return a new store with a row per key, and the seconds to write them."""
    store = dl.VectorStore(path, each="float16")
    start = time.perf_counter()
    for at in range(0, len(keys), PORTION):
        store.write({SPACE: rows[: len(keys) - at]}, keys[at : at + PORTION])
    return store, time.perf_counter() - start


def plain_read(path: Path, width: int) -> tuple[float, float]:
    """Return the seconds to read the rows as float32, and those to read their bytes alone."""
    seconds = []
    for convert in (True, False):
        start = time.perf_counter()
        with path.open("rb") as file:
            while (rows := np.fromfile(file, np.float16, PORTION * width)).size:
                if convert:
                    torch.from_numpy(rows).float()
        seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1]


def main() -> None:
    """Print the median ratios of some rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    n, width = arguments.rows, arguments.width
    rows = torch.randn(min(n, PORTION), width, generator=torch.Generator().manual_seed(0))
    halves = rows.half().numpy()
    keys = [prompt_key(f"text {index}", 512) for index in range(n)]
    starts = range(0, n, PORTION)
    writes, durable, rounded, reads, bytes_alone = [], [], [], [], []
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "plain"
            portions = [halves[: n - at] for at in starts]
            before = plain_write(plain, portions)
            store, seconds = store_write(Path(folder) / "store.sqlite", rows.half(), keys)
            plain.unlink()
            # Disks of virtual machines begin fast and are then held back: hence before and after.
            after = plain_write(plain, portions)
            writes.append(((before + after) / 2, seconds))
            plain.unlink()
            durable.append((plain_write(plain, portions, each_is_safe=True), seconds))
            other, seconds = store_write(Path(folder) / "other.sqlite", rows, keys)
            other.path.unlink()
            plain.unlink()
            rounded.append(((after + plain_write(plain, portions)) / 2, seconds))

            converted, alone = plain_read(plain, width)
            start = time.perf_counter()
            for at in starts:
                vectors, found = store.read(SPACE, keys[at : at + PORTION])
                if not found.all():
                    raise SystemExit("rows are missing")
            seconds = time.perf_counter() - start
            if not torch.equal(vectors, torch.from_numpy(halves[: len(vectors)]).float()):
                raise SystemExit("rows differ")
            reads.append((converted, seconds))
            bytes_alone.append((alone, seconds))
            size = store.n_bytes / plain.stat().st_size
    print(f"{n:,} rows of {width} float16, {PORTION} per transaction; {size:.2f} times the disk")
    for what, pairs in (
        ("write", writes),
        ("write, each portion safe", durable),
        ("write, rounded from float32", rounded),
        ("read", reads),
        ("read, bytes alone", bytes_alone),
    ):
        ratios = [ours / theirs for theirs, ours in pairs]
        print(
            f"{what}: plain file {statistics.median(p for p, _ in pairs):.2f} s, store "
            f"{statistics.median(o for _, o in pairs):.2f} s, ratio "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
