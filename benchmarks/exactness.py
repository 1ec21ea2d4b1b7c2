"""Do the parts add up? The largest error of explanations against cosines made without parts.

Pairs of the demo set, by every split of every vector that has one, centred on a few other texts or
not, in one language and in three. The cosine that they should add up to is made from the encoder's
vectors in float64. With --out, what was measured is kept line by line, and a second call goes on.

    python benchmarks/exactness.py --model gemma-3-270m --pairs 50
"""

import argparse
import json
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import pandas as pd
import torch

import dysem_lab as dl
from dysem_lab.models.parts import SPLITS

LANGUAGES = (("en",), ("en", "fr", "zh"))
EXACT = 1e-5


def cosine(encoder: dl.DySem, texts: Mapping[str, list[str]], mean: torch.Tensor | float) -> float:
    """Return the (centred) cosine of two texts on their joint set, without any parts."""
    encoded = encoder.encode_renderings(texts, progress=False)
    U = encoded.sets[0] | encoded.sets[1]
    x, y = (encoded.vectors.double() - mean)[:, U]
    return float(x @ y / (x.norm() * y.norm()))


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
    known = {tuple(row[name] for name in ("pair", "languages", "component", "by")) for row in rows}
    lens, data = dl.load_model(args.model), dl.load_data("demo", languages=LANGUAGES[-1])
    last = range(len(data) - args.corpus // 2, len(data))
    corpora = {code: data.select(list(last)).texts(code) for code in LANGUAGES[-1]}
    asked = product(range(min(args.pairs, last.start)), LANGUAGES, SPLITS.items())
    means: dict[tuple[str, str], torch.Tensor] = {}
    for pair, codes, (component, splits) in asked:
        texts = {code: [side[pair] for side in data.sentences[code]] for code in codes}
        corpus, named = {code: corpora[code] for code in codes}, "/".join(codes)
        encoder = dl.DySem(lens, codes, k=0.25, component=component)
        if (named, component) not in means:
            encoded = encoder.encode_renderings(corpus, progress=False)
            means[named, component] = encoded.vectors.double().mean(0)
        expected = [cosine(encoder, texts, mean) for mean in (0.0, means[named, component])]
        for by in (*splits, "language", "dimension"):
            if (pair, named, component, by) in known:
                continue
            found = [
                dl.explain(
                    encoder, *texts["en"], by, centre=centre, renderings=texts, progress=False
                ).similarity
                for centre in (None, corpus)
            ]
            plain, centred = (abs(a - b) for a, b in zip(found, expected, strict=True))
            row = {"pair": pair, "languages": named, "component": component, "by": by}
            rows.append({**row, "plain": plain, "centred": centred})
            if args.out:
                with args.out.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    table = pd.DataFrame(rows)
    largest = table.groupby(["component", "by", "languages"])[["plain", "centred"]].max()
    print(largest.unstack().map("{:.0e}".format).to_string())
    worst = float(largest.to_numpy().max())
    print(
        f"{lens.label}, {table['pair'].nunique()} pairs, {2 * len(table):,} sums: largest error "
        f"{worst:.1e}, {'within' if worst <= EXACT else 'NOT within'} {EXACT:.0e}"
    )


if __name__ == "__main__":
    main()
