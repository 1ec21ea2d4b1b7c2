"""Does an explanation differ between pairs? Which dimension or head is first, and in how many.

Random pairs are explained by dimension and by head, centred on the demo set. First is the largest
contribution, whatever its sign, or the largest surprise beside random pairs of that set. Printed is
the part that is first in most pairs, its share of them with Wilson's 95 % interval, and the share
in which it is among the first three.

    DYSEM_LAB_DATA=… python benchmarks/explanations_differ.py --model gemma-3-270m --data stsb
"""

import argparse

import numpy as np
import pandas as pd

import dysem_lab as dl
from dysem_lab.attribution import by_dimension as by_dimensions
from dysem_lab.evaluate import wilson_interval
from dysem_lab.questions.explain import Texts
from dysem_lab.questions.explain_picture import names_of_parts
from dysem_lab.questions.reference import corpus_of, dimension_keys, reference

AT_ONCE = 25  # pairs; of the demo set enough others are left that parts are centred on
NAMED = ("dimension", "head")
BOUNDS = {("dimension", "contribution"): 0.15, ("head", "surprise"): 0.25}


def ranked(
    encoder: dl.DySem, pairs: dl.STSData
) -> dict[str, tuple[list[str], dict[str, np.ndarray]]]:
    """Return what each part adds to each of n pairs, and its surprise.

    Args:
        encoder: The encoder.
        pairs: The pairs; each of their texts runs once.

    Returns:
        "dimension" and "head" → the names of the parts, and order → ``[n, parts]``; 0 of a
        dimension outside the joint set.
    """
    found: dict[str, dict[str, list[np.ndarray]]] = {
        by: {"contribution": [], "surprise": []} for by in NAMED
    }
    names = {}
    for start in range(0, len(pairs), AT_ONCE):
        some = pairs.select(range(start, min(start + AT_ONCE, len(pairs))))
        read, n = Texts(encoder, {"en": some.texts("en")}, "head", "demo", 0, "en", True), len(some)
        corpus = corpus_of("demo", encoder.languages, "en")
        by_dimension = reference(encoder, corpus, "dimension", "en", inside=min(read.among, 2))
        rows = read.rows(0)
        names = {
            "dimension": [f"dimension {j}" for j in range(read.width)],
            "head": names_of_parts(rows),
        }
        known = {
            "dimension": [by_dimension.added[key] for key in dimension_keys(read.width)],
            "head": [read.reference.added[key] for key in rows["key"]],
        }
        for i in range(n):
            x, y, U = read.vector(i), read.vector(i + n), read.joint_set(i, i + n)
            added = {"dimension": by_dimensions(x, y, U).numpy(), "head": read.added(i, i + n)}
            for by, values in added.items():
                random, spread = np.array(known[by]).T
                surprise = (values - random) / np.where(spread > 0, spread, np.inf)
                found[by]["contribution"].append(values)
                found[by]["surprise"].append(surprise * U.numpy() if by != "head" else surprise)
    return {
        by: (names[by], {order: np.stack(values) for order, values in of.items()})
        for by, of in found.items()
    }


def main() -> None:
    """Print a row for each split and order, and whether the most frequent part is within bounds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--data", default="demo", help="demo, or stsb with DYSEM_LAB_DATA")
    parser.add_argument("--pairs", type=int, default=200, help="of the data; all where it has less")
    parser.add_argument("--k", type=float, default=0.25, help="1.0 is the plain cosine of A^L")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    encoder = dl.DySem(dl.load_model(args.model), ("en",), k=args.k)
    data, rows = dl.load_data(args.data), []
    order = np.random.default_rng(args.seed).permutation(len(data))
    pairs = data.select(sorted(order[: args.pairs].tolist()))
    for by, (names, found) in ranked(encoder, pairs).items():
        for order, values in found.items():
            first_three = np.argsort(-np.abs(values), axis=1, kind="stable")[:, :3]
            counts = np.bincount(first_three[:, 0], minlength=len(names))
            most, n = int(counts.argmax()), len(values)
            low, high = wilson_interval(int(counts[most]), n)
            row = {"by": by, "order": order, "first": names[most], "share": counts[most] / n}
            row |= {"low": low, "high": high}
            row |= {"in first 3": (first_three == most).any(1).mean(), "differ": (counts > 0).sum()}
            bound = BOUNDS.get((by, order))
            row["bound"] = "" if bound is None else f"{bound:.0%}"
            row["within"] = "" if bound is None else "yes" if row["share"] <= bound else "NO"
            rows.append(row)
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3f}".format))
    print(
        f"{encoder.lens.label}, {args.data}, {len(pairs)} pairs, k = {args.k:g}, seed {args.seed}"
    )


if __name__ == "__main__":
    main()
