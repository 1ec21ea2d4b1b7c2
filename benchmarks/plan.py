"""What a large job takes: passes, bytes, hours, money; the tables of docs/guide/cluster.md.

Passes and bytes follow from counts and shapes. Hours and money follow from a rate and a price,
which are yours to give: time `dysem-lab capture` on a few thousand of your texts.

    python benchmarks/plan.py --rate 1000 --price 2
"""

import argparse
from typing import NamedTuple

from tabulate import tabulate

from dysem_lab.models.loading import presets, size_of

N_LANGUAGES = 12
# Different English texts in the test pairs of STS12 to STS16, STS-B and SICK-R, counted in the data
# that `dysem_lab.load_data` reads: 29,601 task by task, and a text of several tasks runs once.
N_TEXTS = 29_023
COMPONENTS = 3  # attention, FFN, stream
VALUE = 4  # bytes of a float32
CORPUS = 100_000_000


class Job(NamedTuple):
    """Passes of one model, and the bytes that are kept of them."""

    what: str
    passes: int
    n_bytes: int

    def row(self, rate: float, price: float) -> list[str]:
        """Return a row of a table."""
        hours = self.passes / rate / 3600
        size = f"{self.n_bytes / 1e9:,.0f}"
        return [self.what, f"{self.passes:,}", size, f"{hours:,.1f}", f"{hours * price:,.0f}"]


def paper(*, each: bool) -> list[Job]:
    """Return the paper's job for each of its models: 7 tasks, 12 languages, one prompt setting.

    Args:
        each: Keep the vectors of every block, whose sums are the cumulative ones; or those alone.
    """
    passes = N_TEXTS * N_LANGUAGES
    models = presets().drop_duplicates("model")
    sizes = zip(models["model"], models["n_layers"], models["d_model"], strict=True)
    return [
        Job(name, passes, passes * COMPONENTS * (L if each else 1) * d * VALUE)
        for name, L, d in sizes
    ]


def corpus(d: int, m: int, n: int = CORPUS) -> Job:
    """Return the capture of one vector of n texts in m languages."""
    return Job(f"d = {d:,}, m = {m}", n * m, n * m * d * VALUE)


def index_bytes(n: int, d: int, k: int) -> int:
    """Return the bytes of an index of n texts in float32, without their ids and texts.

    Of each text: d values by column, k on its set with their columns (16 bits), these in 8 bits for
    all d with a step, a norm, a place.
    """
    return n * (d * VALUE + k * (VALUE + 2) + d + VALUE + VALUE + 8)


def tables(rate: float, price: float) -> str:
    """Return the tables of the page."""
    columns = ["", "passes", "GB of shards", "hours", "price"]
    per_layer, cumulative = paper(each=True), paper(each=False)
    rows = [job.row(rate, price) for job in per_layer]
    for what, jobs in (("all ten", per_layer), ("all ten, cumulative alone", cumulative)):
        total = Job(what, sum(job.passes for job in jobs), sum(job.n_bytes for job in jobs))
        rows.append(total.row(rate, price))
    sizes = [size_of("gemma-3-270m"), size_of("llama3.1-8b")]
    widths = [size[1] for size in sizes if size]
    large = [
        [*corpus(d, m).row(rate, price), f"{index_bytes(CORPUS, d, d // 4) / 1e9:,.0f}"]
        for d in widths
        for m in (1, 4)
    ]
    return "\n\n".join(
        [
            tabulate(rows, columns, "pipe", disable_numparse=True),
            tabulate(large, [*columns, "GB of index"], "pipe", disable_numparse=True),
        ]
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, required=True, help="texts a second of one worker")
    parser.add_argument("--price", type=float, required=True, help="of an hour of one worker")
    arguments = parser.parse_args()
    print(tables(arguments.rate, arguments.price))


if __name__ == "__main__":
    main()
