"""Capture into the vector store against capture without one, in one run: seconds and their ratio.

The model is simulated: it waits as long as one of 10 or 1,000 texts a second would. A batch brings
the last token's three cumulative vectors of each text and is one transaction, as in a capture. At
the end all rows are read, and then a tenth of them, here and there, against `numpy.load` of a plain
file of the same rows.

    python benchmarks/capture_store.py
"""

import argparse
import statistics
import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch

import dysem_lab as dl
from dysem_lab.models.store import Space, VectorStore, prompt_key

SPACES = [Space("benchmark", "float32", name, "sum") for name in ("attn", "ffn", "resid")]
RATES = {10: 2, 1000: 100}  # texts per second of the model → batches
PORTION = 4096  # rows of one read


def captured(
    store: VectorStore | None, rows: torch.Tensor, keys: list[str], batch: int, rate: int
) -> float:
    """Return the seconds of a capture by a model of so many texts a second."""
    start = time.perf_counter()
    for at in range(0, len(keys), batch):
        time.sleep(batch / rate)
        if store is not None:
            store.write(dict.fromkeys(SPACES, rows), keys[at : at + batch])
    return time.perf_counter() - start


def read(store: VectorStore, keys: list[str]) -> float:
    """Return the seconds to read the rows of the keys in each space."""
    start = time.perf_counter()
    for space, at in product(SPACES, range(0, len(keys), PORTION)):
        _, found = store.read(space, keys[at : at + PORTION])
        if not found.all():
            raise SystemExit("rows are missing")
    return time.perf_counter() - start


def plain_read(path: Path, positions: np.ndarray) -> float:
    """Return the seconds to read rows of a plain file as float32, once per space."""
    start = time.perf_counter()
    for _ in SPACES:
        torch.from_numpy(np.load(path, mmap_mode="r")[positions]).float()
    return time.perf_counter() - start


def main() -> None:
    """Print the median ratios of some rounds, for each width and precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--widths", type=int, nargs="+", default=[640, 4096])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    batch, generator = arguments.batch, torch.Generator().manual_seed(0)
    for width, precision in product(arguments.widths, ("float32", "float16")):
        rows = torch.randn(batch, width, generator=generator)
        print(f"{batch} texts of 3 × {width} {precision} a batch")
        for rate, n_batches in RATES.items():
            keys = [prompt_key(f"text {index}", 512) for index in range(n_batches * batch)]
            some = np.random.default_rng(0).permutation(len(keys))[: len(keys) // 10]
            ratios: dict[str, list[float]] = {"capture": [], "read all": [], "read a tenth": []}
            for _ in range(arguments.rounds):
                with tempfile.TemporaryDirectory() as folder:
                    store = dl.VectorStore(Path(folder) / "store.sqlite", sums=precision)
                    plain, values = Path(folder) / "plain.npy", rows.repeat(n_batches, 1).numpy()
                    np.save(plain, values.astype(precision))
                    ratios["capture"].append(
                        captured(store, rows, keys, batch, rate)
                        / captured(None, rows, keys, batch, rate)
                    )
                    ratios["read all"].append(
                        read(store, keys) / plain_read(plain, np.arange(len(keys)))
                    )
                    ratios["read a tenth"].append(
                        read(store, [keys[index] for index in some]) / plain_read(plain, some)
                    )
                    disk = store.n_bytes / (3 * plain.stat().st_size)
            print(
                f"  {rate:,} texts a second: "
                + ", ".join(
                    f"{what} {statistics.median(values):.2f} ({min(values):.2f} to "
                    f"{max(values):.2f})"
                    for what, values in ratios.items()
                )
                + f" times; {disk:.2f} times the disk"
            )


if __name__ == "__main__":
    main()
