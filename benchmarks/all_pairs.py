"""All-pairs similarity against the loop over pairs, in one run: pairs per second and their ratio.

python benchmarks/all_pairs.py
"""

import time

import torch

import dysem_lab as dl


def main() -> None:
    """Print the ratio at the width of the paper's models."""
    generator = torch.Generator().manual_seed(0)
    n, d = 1000, 4096
    vectors = torch.randn(n, d, generator=generator)
    sets = torch.rand(n, d, generator=generator) < 0.25
    start = time.perf_counter()
    matrix = dl.all_pairs_similarity(vectors, vectors, sets, sets)
    all_rate = n * n / (time.perf_counter() - start)
    looped = 2000
    start = time.perf_counter()
    worst = 0.0
    for pair in range(looped):
        i, j = pair % n, (pair * 7) % n
        U = sets[i] | sets[j]
        x, y = vectors[i][U], vectors[j][U]
        worst = max(worst, abs(float(x @ y / (x.norm() * y.norm())) - float(matrix[i, j])))
    loop_rate = looped / (time.perf_counter() - start)
    print(
        f"d = {d}, {torch.get_num_threads()} threads: {all_rate:,.0f} pairs/s by matrix products, "
        f"{loop_rate:,.0f} by the loop, ratio {all_rate / loop_rate:.0f}, largest error {worst:.0e}"
    )


if __name__ == "__main__":
    main()
