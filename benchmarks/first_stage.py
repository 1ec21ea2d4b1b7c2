"""What a first stage misses among real sentences: its recall beside the exact search.

The corpus is every sentence of an STS set in each of some languages: v(y) of that language, S(y) of
all of them, so renderings of one sentence are near each other. With `--mean` it is each sentence
once, with the mean over its renderings. Queries are 100 of the texts, each without itself.

    python benchmarks/first_stage.py --data stsb --languages en ja ru --out benchmarks/first_stage
"""

import argparse
import json
import statistics
import tempfile
import time
from itertools import product
from pathlib import Path

import torch

import dysem_lab as dl

TOP = 10
ROUNDS = 11
SAME = ("model", "data", "languages", "vector", "component", "k", "n")


def corpus(data: dl.STSData, encoder: dl.DySem) -> dl.SemanticVectors:
    """Return v and S of the different sentences of a set, in each language that v is taken from."""
    texts = {code: data.texts(code) for code in encoder.languages}
    rows = list(dict(zip(texts["en"], range(len(texts["en"])), strict=True)).values())
    columns = {code: [column[i] for i in rows] for code, column in texts.items()}
    of = ["en"] if encoder.vector == "mean" else encoder.languages
    store = dl.VectorStore()
    made = [encoder.encode_renderings(columns, code, store=store) for code in of]
    return dl.SemanticVectors(
        torch.cat([some.vectors for some in made]), torch.cat([some.sets for some in made])
    )


def milliseconds(index: dl.SemanticIndex, query: dl.SemanticVectors, n: int | None) -> float:
    """Return how long a search takes, the median of some."""
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        index.search(query, TOP, first_stage=n)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e3


def table(rows: list[dict]) -> str:
    """Return the measures as Markdown."""
    lines = [
        "Recall@10: the share of the 10 nearest texts by the exact search that are found with a "
        "first stage too, of 100 texts of the corpus as queries, each without itself. The embedded "
        "models have 4-bit weights, dequantised, computed in float32.",
        "",
        "| model | data | languages | v | texts × width | lists read | candidates | recall@10 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for of in rows:
        lines.append(
            f"| {of['model']} | {of['data']} | {', '.join(of['languages'])} | {of['vector']} "
            f"| {of['n']:,} × {of['width']} | {of['lists']} | {of['candidates']:,} "
            f"| {of['recall@10']:.3f} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure each share of the lists and number of candidates; print, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--data", default="stsb")
    parser.add_argument("--languages", nargs="+", default=["en"])
    parser.add_argument("--component", default="attn")
    parser.add_argument("--setting", default="english")
    parser.add_argument("--k", type=float, default=0.25)
    parser.add_argument("--mean", action="store_true", help="each sentence once")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.125, 0.5, 1.0])
    parser.add_argument("--candidates", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--out", type=Path, help="files without suffix; what is there is kept")
    args = parser.parse_args()
    data = dl.load_data(args.data, languages=args.languages)
    encoder = dl.DySem(
        dl.load_model(args.model),
        args.languages,
        k=args.k,
        component=args.component,
        setting=args.setting,
        vector="mean" if args.mean else "source",
    )
    texts = corpus(data, encoder)
    said = {
        "model": args.model,
        "data": data.name,
        "languages": args.languages,
        "vector": encoder.vector,
        "component": args.component,
        "k": args.k,
        "n": len(texts),
        "width": encoder.width,
    }
    record = args.out and args.out.with_suffix(".json")
    known = json.loads(record.read_text()) if record and record.exists() else []
    known = [old for old in known if any(old[name] != said[name] for name in SAME)]
    with tempfile.TemporaryDirectory() as folder:
        index = dl.SemanticIndex.create(Path(folder) / "index", encoder.width)
        index.add(range(len(texts)), texts)
        exact = milliseconds(index, texts[:1], None)
        for share, n in product(args.shares, args.candidates):
            found = index.build_first_stage(n, share)
            row = {
                **said,
                "share": share,
                "candidates": n,
                "lists": found["first stage"].rpartition(", ")[2].removesuffix(" lists read"),
                "recall@10": found["recall@10"],
                "milliseconds": milliseconds(index, texts[:1], n),
                "milliseconds_exact": exact,
            }
            print(json.dumps(row), flush=True)
            known.append(row)
    if record:
        record.write_text(json.dumps(known, indent=1) + "\n")
        args.out.with_suffix(".md").write_text(table(known))


if __name__ == "__main__":
    main()
