"""Do the parts add up? The largest error of explanations against cosines made without parts.

Pairs of the demo set, by every split of every vector that has one, centred on a few other texts or
not, in one language and in three. The cosine that they should add up to is made from the encoder's
vectors in float64. With --out, what was measured is kept line by line, and a second call goes on.

    python benchmarks/exactness.py --model gemma-3-270m --pairs 50
"""

import argparse
import json
from itertools import product
from pathlib import Path

import pandas as pd
import torch

import dysem_lab as dl
from dysem_lab.models.parts import SPLITS
from dysem_lab.questions.explain import Texts

LANGUAGES = (("en",), ("en", "fr", "zh"))
EXACT = 1e-5


def largest_error(
    encoder: dl.DySem,
    columns: dict[str, list[str]],
    by: str,
    corpus: dict[str, list[str]] | None,
) -> float:
    """Return how far the parts of a pair are at most from the (centred) cosine.

    Args:
        encoder: The encoder.
        columns: Language → the first texts of the pairs, then the second ones.
        by: The split.
        corpus: What parts are centred on; None is not at all.
    """
    texts = Texts(encoder, columns, by, corpus, 0, "en", False)
    encoded = encoder.encode_renderings(columns, progress=False)
    mean: torch.Tensor | float = 0.0
    if corpus is not None:
        mean = encoder.encode_renderings(corpus, progress=False).vectors.double().mean(0)
    errors, n = [], len(columns["en"]) // 2
    for i in range(n):
        U = encoded.sets[i] | encoded.sets[i + n]
        x, y = ((encoded.vectors[j].double() - mean)[U] for j in (i, i + n))
        added = texts.added(i, i + n).sum()
        errors.append(abs(float(added) - float(x @ y / (x.norm() * y.norm()))))
    return max(errors)


def main() -> None:
    """Print the largest error of each vector and split, and whether all are below the bound."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--corpus", type=int, default=24, help="texts, from the last pairs")
    parser.add_argument("--out", type=Path, help="file of what was measured, one JSON per line")
    args = parser.parse_args()
    rows = []
    if args.out and args.out.exists():
        rows = [json.loads(line) for line in args.out.read_text().splitlines()]
    known = {(row["languages"], row["component"], row["by"]) for row in rows}
    lens, data = dl.load_model(args.model), dl.load_data("demo", languages=LANGUAGES[-1])
    pairs, last = data.head(args.pairs), range(len(data) - args.corpus // 2, len(data))
    for codes, (component, splits) in product(LANGUAGES, SPLITS.items()):
        columns = {code: pairs.texts(code) for code in codes}
        corpus = {code: data.select(list(last)).texts(code) for code in codes}
        encoder = dl.DySem(lens, codes, k=0.25, component=component)
        for by in (*splits, "language", "dimension"):
            where = ("/".join(codes), component, by)
            if where in known:
                continue
            row = dict(zip(("languages", "component", "by"), where, strict=True))
            row["plain"] = largest_error(encoder, columns, by, None)
            row["centred"] = largest_error(encoder, columns, by, corpus)
            rows.append(row)
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    table = pd.DataFrame(rows).set_index(["component", "by", "languages"])[["plain", "centred"]]
    print(table.unstack().map("{:.0e}".format).to_string())
    worst = float(table.to_numpy().max())
    print(
        f"{lens.label}, {len(pairs)} pairs, centred on {args.corpus} texts or not: largest error "
        f"{worst:.1e}, {'within' if worst <= EXACT else 'NOT within'} {EXACT:.0e}"
    )


if __name__ == "__main__":
    main()
