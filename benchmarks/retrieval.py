"""The exact search of a corpus on disk beside plain scans of the same vectors, in one run.

The scans compute inner products of whole vectors, which is less than a cosine on joint sets: numpy
the product alone, without looking for the best; faiss (`knn`, exact) with the best 10. usearch
searches exactly by the same metric as the index, as a compiled callback over rows of vectors and
sets. All are measured in turn in every round, on the same queries, so ratios are of pairs.

Vectors are drawn at random; with `--common c` each has c times one random vector added, as models
have a direction in common. S(y) is the k largest values. The best 10 are compared with those of
`dysem_lab.all_pairs_similarity` in float64.

    python benchmarks/retrieval.py --sizes 100000 300000 --out benchmarks/retrieval
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import dysem_lab as dl
from dysem_lab.retrieval.effect import in_common

TOP = 10
MANY = 64
PORTION = 20_000  # rows that are made and added at once


def drawn(n: int, d: int, k: int, common: float, seed: int) -> dl.SemanticVectors:
    """Return vectors at random with the sets of their k largest values."""
    shared = torch.randn(d, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n, d, generator=generator) + common * shared
    sets = torch.zeros(n, d, dtype=torch.bool).scatter(1, vectors.topk(k).indices, True)
    return dl.SemanticVectors(vectors, sets)


def brute(queries: dl.SemanticVectors, portions: list[dl.SemanticVectors]) -> np.ndarray:
    """Return the best 10 rows of each query by the package's all-pairs similarity in float64."""
    best, rows, first = [], [], 0
    for texts in portions:
        x, y = queries.vectors.double(), texts.vectors.double()
        found = dl.all_pairs_similarity(x, y, queries.sets, texts.sets).topk(TOP)
        best.append(found.values)
        rows.append(found.indices + first)
        first += len(texts)
    order = torch.cat(best, 1).sort(descending=True, stable=True).indices[:, :TOP]
    return torch.cat(rows, 1).gather(1, order).numpy()


def joint_metric(d: int) -> object:
    """Return 1 − the joint-set cosine of two rows of v and S as usearch's compiled metric."""
    from numba import carray, cfunc, float32, types
    from usearch.index import CompiledMetric, MetricKind, MetricSignature

    row = types.CPointer(float32)

    @cfunc(float32(row, row), fastmath=True)
    def distance(x, y):
        a, b = carray(x, 2 * d), carray(y, 2 * d)
        dot = x2 = y2 = float32(0)
        for j in range(d):
            inside = max(a[d + j], b[d + j])
            u, v = a[j] * inside, b[j] * inside
            dot += u * v
            x2 += u * u
            y2 += v * v
        return float32(1) - dot / np.sqrt(x2 * y2)

    # numba's function has to outlive the metric
    joint_metric.kept = distance
    return CompiledMetric(
        pointer=distance.address, kind=MetricKind.Cos, signature=MetricSignature.ArrayArray
    )


def contestants(
    index: dl.SemanticIndex, rows: np.ndarray, of: dl.SemanticVectors, packed: np.ndarray | None
) -> dict[str, Callable[[], object]]:
    """Return what is timed, by its name, on these queries."""
    import faiss

    plain = np.ascontiguousarray(of.vectors.numpy())
    single = plain[0] if len(plain) == 1 else None
    timed: dict[str, Callable[[], object]] = {
        "numpy": lambda: rows @ single if single is not None else plain @ rows.T,
        "faiss": lambda: faiss.knn(plain, rows, TOP, metric=faiss.METRIC_INNER_PRODUCT),
        "index": lambda: index.search(of, TOP).ids,
    }
    if packed is not None and len(plain) == 1:
        from usearch.index import search

        metric = joint_metric(of.vectors.shape[1])
        asked = np.concatenate([plain, of.sets.numpy()], axis=1, dtype=np.float32)
        threads = torch.get_num_threads()
        timed["usearch"] = lambda: (
            search(packed, asked, TOP, metric, exact=True, threads=threads).keys
        )
    return timed


Times = dict[str, list[float]]


def seconds(timed: dict[str, Callable[[], object]], rounds: int) -> tuple[Times, Times]:
    """Return how long each takes in each round, all in turn: by the clock, and of all threads."""
    taken: Times = {name: [] for name in timed}
    worked: Times = {name: [] for name in timed}
    for run in timed.values():
        run()  # compiled, mapped and looked through
    for _ in range(rounds):
        for name, run in timed.items():
            wall, work = time.perf_counter(), time.process_time()
            run()
            taken[name].append(time.perf_counter() - wall)
            worked[name].append(time.process_time() - work)
    return taken, worked


def ratios(taken: Times) -> list[float]:
    """Return the time of the index by that of the faster scan, round by round."""
    return [
        ours / min(scans)
        for ours, *scans in zip(taken["index"], taken["numpy"], taken["faiss"], strict=True)
    ]


def measured(n: int, common: float, args: argparse.Namespace) -> list[dict[str, object]]:
    """Return what is measured of one size."""
    d, k, measures = args.width, args.k, []
    portions = [
        drawn(min(PORTION, n - a), d, k, common, args.seed + 2 + a) for a in range(0, n, PORTION)
    ]
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        index = dl.SemanticIndex.create(Path(folder) / "index", d, dtype=args.dtype)
        start = time.perf_counter()
        group = 5  # 100,000 rows: about a shard
        for a in range(0, len(portions), group):
            some = portions[a : a + group]
            joined = dl.SemanticVectors(
                torch.cat([of.vectors for of in some]), torch.cat([of.sets for of in some])
            )
            index.add(range(a * PORTION, a * PORTION + len(joined)), joined)
            del joined
        built = time.perf_counter() - start
        rows = np.concatenate([of.vectors.numpy() for of in portions])
        for q in (1, MANY):
            queries = drawn(q, d, k, common, args.seed)
            packed = None
            if q == 1 and n <= args.usearch:
                sets = [of.sets.numpy().astype(np.float32) for of in portions]
                packed = np.concatenate([rows, np.concatenate(sets)], axis=1)
            timed = contestants(index, rows, queries, packed)
            exact, found = brute(queries, portions), timed["index"]()
            load = os.getloadavg()[0]
            taken, worked = seconds(timed, args.rounds)
            ratio, of_work = ratios(taken), ratios(worked)
            measures.append(
                {
                    "texts": n,
                    "width": d,
                    "k": k,
                    "common": common,
                    "dtype": args.dtype,
                    "queries": q,
                    "milliseconds": {
                        name: statistics.median(of) * 1e3 for name, of in taken.items()
                    },
                    "ratio": statistics.median(ratio),
                    "ratio_least": min(ratio),
                    "ratio_most": max(ratio),
                    "ratio_of_processor_time": statistics.median(of_work),
                    "same_top_10": bool((found == exact).all()),
                    "top_10_in_common": in_common(found, exact),
                    "megabytes": index.n_bytes / 1e6,
                    "megabytes_plain": rows.nbytes / 1e6,
                    "seconds_to_add": built,
                    "load_before": load,
                }
            )
            print(json.dumps(measures[-1]), flush=True)
            del packed, timed
    return measures


def machine() -> str:
    """Return what it was measured on."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if "model name" in line), name)
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def table(measures: list[dict], where: str, rounds: int) -> str:
    """Return the measures as Markdown."""
    said = (
        f"Measured on {where}; medians of {rounds} rounds in which all are timed in turn. "
        "Milliseconds; numpy is the product alone. The ratio is that of the index to the faster of "
        "numpy and faiss in the same round (least to most), by the clock; beside it that of the "
        "processor time of all threads, which other jobs disturb less. Load: of the machine before "
        "a row, other jobs included."
    )
    head = (
        "| texts × width, k | common | stored | queries | numpy | faiss | usearch | index | ratio "
        "| processor | same top 10 | MB (plain) | load |"
    )
    rows = []
    for of in measures:
        times = of["milliseconds"]
        cells = [
            f"{of['texts']:,} × {of['width']}, {of['k']}",
            of["common"],
            of["dtype"],
            of["queries"],
            *(f"{times[name]:.1f}" for name in ("numpy", "faiss")),
            f"{times['usearch']:.1f}" if "usearch" in times else "not timed",
            f"{times['index']:.1f}",
            f"{of['ratio']:.2f} ({of['ratio_least']:.2f} to {of['ratio_most']:.2f})",
            f"{of['ratio_of_processor_time']:.2f}",
            "yes" if of["same_top_10"] else f"{100 * of['top_10_in_common']:.1f} % of them",
            f"{of['megabytes']:,.0f} ({of['megabytes_plain']:,.0f})",
            f"{of['load_before']:.1f}",
        ]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([said, "", head, "|---" * head.count(" | ") + "|---|", *rows, ""])


def main() -> None:
    """Measure all sizes; print them, and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000])
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--k", type=int, default=160)
    parser.add_argument("--common", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--usearch", type=int, default=100_000, help="the largest size for it")
    parser.add_argument("--folder", help="where the index is; a temporary one")
    parser.add_argument("--out", type=Path, help="files without suffix; JSON is added to")
    args = parser.parse_args()
    where = machine()
    for n in args.sizes:
        for common in args.common:
            measures = [{**of, "machine": where} for of in measured(n, common, args)]
            if args.out is None:
                continue
            record = args.out.with_suffix(".json")
            known = json.loads(record.read_text()) if record.exists() else []
            same = ("texts", "width", "k", "common", "dtype", "queries", "machine")
            kept = [
                old
                for old in known
                if not any(all(old[s] == of[s] for s in same) for of in measures)
            ]
            everything = sorted(
                kept + measures,
                key=lambda of: (of["texts"], of["dtype"], of["common"], of["queries"]),
            )
            record.write_text(json.dumps(everything, indent=1) + "\n")
            args.out.with_suffix(".md").write_text(table(everything, where, args.rounds))
    print(where)


if __name__ == "__main__":
    main()
