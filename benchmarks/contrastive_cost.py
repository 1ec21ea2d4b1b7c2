"""Contrastive Prompting: its time against the plain prompt, and a grid against full runs.

    python benchmarks/contrastive_cost.py --data FOLDER [--model smollm2-135m-instruct]

Two ratios, each of times taken in turn in the same run:

- CP at one block over the plain prompt at the same output layer (target: at most 1.35 at block 4);
- a grid of 5 blocks x 5 alphas for one template over 25 full runs of CP (the full runs are timed on
  five settings, one per block, and counted five times).
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import dysem_lab as dl

LAYERS, ALPHAS = (3, 4, 5, 6, 7), (0.5, 1.0, 2.0, 3.0, 4.0)


def seconds(work: Callable[[], object]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print both ratios, with the spread over the rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="demo")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    lens = dl.load_model(arguments.model)
    task = None if arguments.data == "demo" else "STSB"
    pairs = dl.load_data(arguments.data, task).sample(arguments.texts // 2, seed=0)
    texts = pairs.texts("en")
    prompts = dl.wrap(texts)
    block = lens.n_layers - 2  # the penultimate output layer
    cp = dl.ContrastivePrompting(lens, layer=4)
    plain = lambda: dl.capture(lens, prompts, "resid", block, progress=False)  # noqa: E731
    steered = lambda: cp.encode(texts, progress=False)  # noqa: E731
    plain(), steered()
    ratios = []
    for _ in range(arguments.rounds):
        without, with_cp = seconds(plain), seconds(steered)
        ratios.append(with_cp / without)
    print(
        f"{arguments.model}, {len(set(texts))} texts, {arguments.threads} threads: CP at block 4 "
        f"over plain at the penultimate layer {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} rounds)"
    )

    contrasts = [dl.Contrast(layer, "scaling", alpha) for layer in LAYERS for alpha in ALPHAS]
    with tempfile.TemporaryDirectory() as folder:
        study = dl.Study(
            lens,
            pairs,
            settings="english",
            store=dl.VectorStore(Path(folder) / "vectors.sqlite"),
        )
        wanted = {"output_layers": ["penultimate"], "contrasts": contrasts}
        grid = seconds(lambda: study.capture((), **wanted, progress=False))
    full = 0.0
    for layer in LAYERS:
        one = dl.ContrastivePrompting(lens, layer)
        full += len(ALPHAS) * seconds(lambda one=one: one.encode(texts, progress=False))
    print(
        f"grid of {len(contrasts)} settings {grid:.0f} s, "
        f"25 full runs {full:.0f} s: {grid / full:.2f}"
    )


if __name__ == "__main__":
    main()
