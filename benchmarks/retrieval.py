"""The exact search of a corpus beside plain scans, in one run; one file, so that it runs alone.

The scans compute inner products of whole vectors, which is less than a cosine on joint sets: numpy
the product alone, without looking for the best; faiss (`knn`, exact) with the best 10. usearch
searches exactly by the same metric as the index, as a compiled callback over rows of vectors and
sets. All are measured in turn in every round, on the same queries, so ratios are of pairs.

With a first stage the index looks at 1,000 texts of each query; its recall is beside it. It reads
a share of its lists (`--share`), and vectors at random are the worst case for lists: none are near
each other.

Vectors are drawn at random; with `--common c` each has c times one random vector added, as models
have a direction in common. S(y) is the k largest values. The best 10 are compared with those of
`dysem_lab.all_pairs_similarity` in float64.

Each row is written when it is measured, and one that is there is not measured again (`--again`
does). The table ends with what of WANTED is missing. Memory is about 4 bytes a value of the largest
size, beside the index, which is mapped. `--on-disk 10000000` measures the index alone, whose texts
are drawn and added some at a time.

    python benchmarks/retrieval.py --sizes 300000 1000000 --out benchmarks/retrieval
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import groupby, product
from pathlib import Path

import numpy as np
import torch

import dysem_lab as dl
from dysem_lab.retrieval.effect import in_common

TOP = 10
MANY = 64
PORTION = 20_000  # rows that are drawn at once
GROUP = 100_000  # rows that are added at once: about a shard
CANDIDATES = 1000
# What the issue of a table is: texts, data types and queries of each common direction.
WANTED = [
    *product((100_000, 300_000, 1_000_000), ("float32",), (1, MANY)),
    *product((100_000,), ("float16", "int8"), (1, MANY)),
]
SAME = ("texts", "width", "k", "common", "dtype", "queries", "alone", "machine")


def drawn(n: int, d: int, k: int, common: float, seed: int) -> dl.SemanticVectors:
    """Return vectors at random with the sets of their k largest values."""
    shared = torch.randn(d, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n, d, generator=generator) + common * shared
    sets = torch.zeros(n, d, dtype=torch.bool).scatter(1, vectors.topk(k).indices, True)
    return dl.SemanticVectors(vectors, sets)


def portions(n: int, common: float, args: argparse.Namespace) -> Iterator[dl.SemanticVectors]:
    """Yield n texts, some at a time, the same whenever they are asked for."""
    for a in range(0, n, PORTION):
        yield drawn(min(PORTION, n - a), args.width, args.k, common, args.seed + 2 + a)


class Brute:
    """The best 10 rows of each query by the package's all-pairs similarity in float64.

    Args:
        queries: The queries.
    """

    def __init__(self, queries: dl.SemanticVectors) -> None:
        """Begin without rows."""
        self._queries, self._n = queries, 0
        self._best = torch.zeros(len(queries), 0, dtype=torch.float64)
        self.rows = torch.zeros(len(queries), 0, dtype=torch.int64)

    def look(self, texts: dl.SemanticVectors) -> None:
        """Look at the next texts."""
        x, y = self._queries.vectors.double(), texts.vectors.double()
        found = dl.all_pairs_similarity(x, y, self._queries.sets, texts.sets).topk(TOP)
        best = torch.cat([self._best, found.values], 1)
        rows = torch.cat([self.rows, found.indices + self._n], 1)
        order = best.sort(descending=True, stable=True).indices[:, :TOP]
        self._best, self.rows = best.gather(1, order), rows.gather(1, order)
        self._n += len(texts)


def built(
    index: dl.SemanticIndex,
    texts: Iterator[dl.SemanticVectors],
    look: Callable[[dl.SemanticVectors], None],
) -> float:
    """Add texts in groups, have each portion looked at, and return the seconds of adding."""
    group: list[dl.SemanticVectors] = []
    seconds, n = 0.0, 0
    for last, some in _with_end(texts):
        look(some)
        group.append(some)
        if last or sum(map(len, group)) >= GROUP:
            joined = dl.SemanticVectors(
                torch.cat([of.vectors for of in group]), torch.cat([of.sets for of in group])
            )
            group = []
            start = time.perf_counter()
            index.add(range(n, n + len(joined)), joined)
            seconds += time.perf_counter() - start
            n += len(joined)
    return seconds


def _with_end(texts: Iterator[dl.SemanticVectors]) -> Iterator[tuple[bool, dl.SemanticVectors]]:
    """Yield whether it is the last, and each."""
    before = None
    for some in texts:
        if before is not None:
            yield False, before
        before = some
    if before is not None:
        yield True, before


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
    index: dl.SemanticIndex,
    rows: np.ndarray | None,
    of: dl.SemanticVectors,
    packed: np.ndarray | None = None,
) -> dict[str, Callable[[], object]]:
    """Return what is timed, by its name, on these queries."""
    timed: dict[str, Callable[[], object]] = {"index": lambda: index.search(of, TOP).ids}
    if index.first_stage:
        timed["first stage"] = lambda: index.search(of, TOP, first_stage=CANDIDATES).ids
    if rows is None:
        return timed
    import faiss

    plain = np.ascontiguousarray(of.vectors.numpy())
    single = plain[0] if len(plain) == 1 else None
    timed |= {
        "numpy": lambda: rows @ single if single is not None else plain @ rows.T,
        "faiss": lambda: faiss.knn(plain, rows, TOP, metric=faiss.METRIC_INNER_PRODUCT),
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


def measured(
    n: int, common: float, dtype: str, args: argparse.Namespace, alone: bool = False
) -> Iterator[dict[str, object]]:
    """Yield what is measured of one size, data type and direction: a row for each of 1 and 64.

    Args:
        n: Texts.
        common: As for `drawn`.
        dtype: Of the index.
        args: From `main`.
        alone: Without plain scans, for which the texts would have to be in memory.
    """
    d, k = args.width, args.k
    asked = {q: drawn(q, d, k, common, args.seed) for q in (1, MANY)}
    truth = {q: Brute(of) for q, of in asked.items()}
    rows = None if alone else np.empty((n, d), np.float32)
    at = 0

    def look(some: dl.SemanticVectors) -> None:
        nonlocal at
        for of in truth.values():
            of.look(some)
        if rows is not None:
            rows[at : at + len(some)] = some.vectors.numpy()
        at += len(some)

    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        index = dl.SemanticIndex.create(Path(folder) / "index", d, dtype=dtype)
        added = built(index, portions(n, common, args), look)
        peak = in_memory("VmHWM")  # of the process: a size that is measured alone is run alone
        start = time.perf_counter()
        said = (
            index.build_first_stage(CANDIDATES, args.share)
            if dtype == "float32" and not alone
            else {}
        )
        staged = time.perf_counter() - start
        for q, queries in asked.items():
            packed = None
            if q == 1 and n <= args.usearch and rows is not None and dtype == "float32":
                packed = np.empty((n, 2 * d), np.float32)
                packed[:, :d] = rows
                for i, some in enumerate(portions(n, common, args)):
                    packed[i * PORTION :][: len(some), d:] = some.sets.numpy()
            timed = contestants(index, rows, queries, packed)
            found = {name: run() for name, run in timed.items() if name in ("index", "first stage")}
            exact, load = truth[q].rows.numpy(), os.getloadavg()[0]
            taken, worked = seconds(timed, args.rounds)
            row: dict[str, object] = {
                "texts": n,
                "width": d,
                "k": k,
                "common": common,
                "dtype": dtype,
                "queries": q,
                "alone": alone,
                "rounds": args.rounds,
                "milliseconds": {name: statistics.median(of) * 1e3 for name, of in taken.items()},
                "processor_milliseconds": {
                    name: statistics.median(of) * 1e3 for name, of in worked.items()
                },
                "same_top_10": bool((found["index"] == exact).all()),
                "top_10_in_common": in_common(found["index"], exact),
                "megabytes": index.n_bytes / 1e6,
                "megabytes_plain": n * d * 4 / 1e6,
                "megabytes_in_memory": in_memory("RssAnon"),
                "megabytes_at_most_until_added": peak,
                "seconds_to_add": added,
                "load_before": load,
            }
            if said:
                row |= {
                    "first_stage": said["first stage"],
                    "candidates": CANDIDATES,
                    "first_stage_recall": in_common(found["first stage"], exact),
                    "seconds_to_build_first_stage": staged,
                }
            if not alone:
                ratio, of_work = ratios(taken), ratios(worked)
                row |= {
                    "ratio": statistics.median(ratio),
                    "ratio_least": min(ratio),
                    "ratio_most": max(ratio),
                    "ratio_of_processor_time": statistics.median(of_work),
                }
            del packed, timed
            yield row


def in_memory(kind: str) -> float | None:
    """Return the megabytes that this process has for itself, or ever had: RssAnon, VmHWM."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1e3 for line in lines if kind in line), None)


def machine() -> str:
    """Return what it was measured on."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if "model name" in line), name)
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


HEAD = (
    "| texts × width, k | common | stored | queries | numpy | faiss | usearch | index | ratio "
    "| processor | same top 10 | first stage (recall@10) | MB (plain) | load |"
)


def cells(of: dict) -> list[object]:
    """Return a measure as a row of the table."""
    times = of["milliseconds"]
    shown = {name: f"{times[name]:.1f}" if name in times else "not timed" for name in NAMES}
    ratio = processor = "not timed"
    if "ratio" in of:
        ratio = f"{of['ratio']:.2f} ({of['ratio_least']:.2f} to {of['ratio_most']:.2f})"
        processor = f"{of['ratio_of_processor_time']:.2f}"
    recall = of.get("first_stage_recall")
    return [
        f"{of['texts']:,} × {of['width']}, {of['k']}",
        of["common"],
        of["dtype"],
        of["queries"],
        *(shown[name] for name in ("numpy", "faiss", "usearch", "index")),
        ratio,
        processor,
        "yes" if of["same_top_10"] else f"{100 * of['top_10_in_common']:.1f} % of them",
        "not timed" if recall is None else f"{shown['first stage']} ({recall:.2f})",
        f"{of['megabytes']:,.0f} ({of['megabytes_plain']:,.0f})",
        f"{of['load_before']:.1f}",
    ]


NAMES = ("numpy", "faiss", "usearch", "index", "first stage")


def on_disk(of: dict) -> str:
    """Return what a size took that was measured without plain scans, as an item of a list."""
    return (
        f"- {of['texts']:,} × {of['width']} on disk: {of['seconds_to_add']:,.0f} s to add; at most "
        f"{of['megabytes_at_most_until_added']:,.0f} MB in memory until then, texts that are drawn "
        f"and files that are mapped included; {of['megabytes_in_memory']:,.0f} MB of its own after "
        "the searches"
    )


def missing(measures: list[dict]) -> list[str]:
    """Return what of WANTED, and of 10 million texts on disk, no machine has measured."""
    there = {(of["texts"], of["dtype"], of["queries"], of["common"]) for of in measures}
    wanted = [(*of, common) for of in WANTED for common in (0.0, 1.0)]
    said = [
        f"{n:,} texts in {dtype} with a common direction of {common}, {q} "
        + ("query" if q == 1 else "queries")
        for n, dtype, q, common in wanted
        if (n, dtype, q, common) not in there
    ]
    return said if any(of.get("alone") for of in measures) else [*said, "10,000,000 texts on disk"]


def table(measures: list[dict]) -> str:
    """Return the measures as Markdown, a table for each machine, and what is not measured."""
    lines = []
    for where, some in groupby(sorted(measures, key=_order), key=lambda of: of["machine"]):
        of_machine = list(some)
        rounds = sorted({of.get("rounds", 3) for of in of_machine})
        lines += [
            f"Measured on {where}; medians of {' or '.join(map(str, rounds))} rounds in which all "
            "are timed in turn. Milliseconds; numpy is the product alone. The ratio is that of the "
            "index to the faster of numpy and faiss in the same round (least to most), by the "
            "clock; beside it that of the processor time of all threads, which other jobs disturb "
            f"less. A first stage hands on {CANDIDATES:,} texts. Load: of the machine before a "
            "row, other jobs included.",
            "",
            HEAD,
            "|---" * (HEAD.count(" | ") + 1) + "|",
            *(f"| {' | '.join(map(str, cells(of)))} |" for of in of_machine),
            "",
            *(on_disk(of) for of in of_machine if of.get("alone") and of["queries"] == 1),
            "",
        ]
    if absent := missing(measures):
        lines += ["Not measured:", "", *(f"- {said}" for said in absent), ""]
    return "\n".join(lines).replace("\n\n\n", "\n\n")


def _order(of: dict) -> tuple:
    return of["machine"], of["texts"], of["dtype"], of["common"], of["queries"]


def main() -> None:
    """Measure what is not there yet; print each row, and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=[100_000])
    parser.add_argument("--on-disk", type=int, nargs="*", default=[], help="sizes without scans")
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--k", type=int, default=160)
    parser.add_argument("--common", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float16", "int8"])
    parser.add_argument("--coded", type=int, default=100_000, help="the largest size but float32's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--usearch", type=int, default=100_000, help="the largest size for it")
    parser.add_argument("--share", type=float, default=0.125, help="of the lists, that is read")
    parser.add_argument("--folder", help="where the index is; a temporary one")
    parser.add_argument("--out", type=Path, help="files without suffix; what is there is kept")
    parser.add_argument("--again", action="store_true", help="measure rows that are there again")
    args = parser.parse_args()
    where = machine()
    plan = [
        (n, common, dtype, False)
        for n, common, dtype in product(args.sizes, args.common, args.dtypes)
        if dtype == "float32" or n <= args.coded
    ]
    plan += [(n, args.common[-1], "float32", True) for n in args.on_disk]
    record = args.out and args.out.with_suffix(".json")
    known = json.loads(record.read_text()) if record and record.exists() else []
    for n, common, dtype, alone in plan:
        here = (n, args.width, args.k, common, dtype, alone, where)
        there = [
            of
            for of in known
            if tuple({"alone": False, **of}[s] for s in SAME if s != "queries") == here
        ]
        if len(there) == 2 and not args.again:
            continue
        for of in measured(n, common, dtype, args, alone):
            row = {**of, "machine": where}
            print(json.dumps(row), flush=True)
            same = [row[s] for s in SAME]
            known = [old for old in known if [{"alone": False, **old}[s] for s in SAME] != same]
            known.append(row)
            if record:
                record.write_text(json.dumps(sorted(known, key=_order), indent=1) + "\n")
                args.out.with_suffix(".md").write_text(table(known))
    if record:
        args.out.with_suffix(".md").write_text(table(known))


if __name__ == "__main__":
    main()
