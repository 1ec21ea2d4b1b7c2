"""An explanation against the capture of its two texts, in one run: seconds, ratio, memory.

The reference corpus is fitted before, as it is kept. Pairs are of the demo set, in English; each
has its own pass in both. Then more pairs are explained, to see whether memory grows.

    python benchmarks/explain.py --model gemma-3-270m
"""

import argparse
import resource
import statistics
import time

import dysem_lab as dl


def seconds(run, pairs) -> list[float]:
    """Return how long each pair takes."""
    taken = []
    for x, y in pairs:
        start = time.perf_counter()
        run(x, y)
        taken.append(time.perf_counter() - start)
    return taken


def peak_mb() -> float:
    """Return the largest resident size of the process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print the median ratio of each split, and the growth of memory."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--stream", type=int, default=500, help="pairs for the growth of memory")
    args = parser.parse_args()
    lens = dl.load_model(args.model)
    encoder = dl.DySem(lens, ("en",), k=0.25)
    data = dl.load_data("demo")
    first, second = data.sentences["en"]
    pairs = list(zip(first, second, strict=True))
    timed = pairs[: args.pairs]

    def capture(x: str, y: str) -> None:
        dl.capture(lens, dl.wrap([x, y], setting="language-specific"), "attn", progress=False)

    for by in ("head", "token", "dimension"):

        def explain(x: str, y: str, by: str = by) -> None:
            dl.explain(encoder, x, y, by, progress=False)

        explain("One text.", "Another text.")
        capture(*timed[0])
        captured, explained = seconds(capture, timed), seconds(explain, timed)
        ratio = statistics.median(
            mine / plain for mine, plain in zip(explained, captured, strict=True)
        )
        print(
            f"by {by}: capture {statistics.median(captured) * 1e3:.0f} ms, explain "
            f"{statistics.median(explained) * 1e3:.0f} ms, {ratio:.2f} times"
        )
    before = peak_mb()
    texts = [*first, *second]
    for i in range(args.stream):
        j = (7 * i + 1) % len(texts)
        dl.explain(encoder, texts[i % len(texts)], texts[j], "head", progress=False)
    print(f"{args.stream} more pairs: peak {before:.0f} → {peak_mb():.0f} MB")


if __name__ == "__main__":
    main()
