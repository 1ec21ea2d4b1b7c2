"""What bfloat16 is worth and what it costs: texts per second, the sets S(x), similarities, scores.

DySem in three languages on the demo set, in float32 and in the other type, in turn within one run.

    python benchmarks/half_precision.py --dtype bfloat16
"""

import argparse
import statistics
import time

import torch

import dysem_lab as dl

LANGUAGES = ("en", "ja", "ru")


def main() -> None:
    """Print a line per model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--pairs", type=int, default=132)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--k", type=float, default=0.25)
    parser.add_argument("--models", nargs="+", default=["gemma-3-270m", "smollm2-135m-instruct"])
    arguments = parser.parse_args()
    data = dl.load_data("demo", languages=LANGUAGES).head(arguments.pairs)
    renderings = {code: data.texts(code) for code in LANGUAGES}
    n = len(data)
    print(f"{data}; {torch.get_num_threads()} threads")
    for name in arguments.models:
        encoders = {
            dtype: dl.DySem(
                dl.load_model(name, device="cpu", dtype=dtype), LANGUAGES, k=arguments.k
            )
            for dtype in ("float32", arguments.dtype)
        }
        encoded, took = {}, {dtype: [] for dtype in encoders}
        for _ in range(arguments.rounds):
            for dtype, encoder in encoders.items():
                begin = time.process_time()
                encoded[dtype] = encoder.encode_renderings(renderings, progress=False)
                took[dtype].append(time.process_time() - begin)
        full, half = encoded.values()
        similarities = [
            encoder.similarity_pairwise(encoded[dtype][:n], encoded[dtype][n:])
            for dtype, encoder in encoders.items()
        ]
        scores = [dl.spearman(values, data.gold) for values in similarities]
        common = (full.sets & half.sets).sum(1) / (full.sets | half.sets).sum(1)
        ratios = [a / b for a, b in zip(*took.values(), strict=True)]
        print(
            f"{name}: {statistics.median(ratios):.2f} times the texts per CPU second "
            f"({min(ratios):.2f} to {max(ratios):.2f}); Jaccard index of the sets "
            f"{common.mean():.3f}, least {common.min():.3f}; similarity moved by at most "
            f"{(similarities[0] - similarities[1]).abs().max():.1e}; Spearman × 100 "
            f"{scores[0]:.2f} in float32, {scores[1]:.2f} in {arguments.dtype}"
        )


if __name__ == "__main__":
    main()
