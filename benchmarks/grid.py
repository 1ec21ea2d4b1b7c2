"""What a grid over a whole test set costs: CPU seconds and peak memory, on random stored vectors.

Every k, m and vector of both prompt settings in all languages.

    OMP_NUM_THREADS=1 python benchmarks/grid.py
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from dysem_lab.data.languages import LANGUAGES
from dysem_lab.data.sts import STSData
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.loading import source_digest
from dysem_lab.models.passes import MAX_TOKENS
from dysem_lab.models.store import Space, VectorStore, prompt_key
from dysem_lab.prompts import wrap
from dysem_lab.questions.scores import grid
from dysem_lab.questions.study import Study

KS = (0.05, 0.1, 0.25, 0.5, 1.0)


def stored(folder: Path, n_pairs: int, d_model: int) -> Study:
    """Return a study of a model that is not there, whose vectors are random and in the store."""
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    name, codes = str(folder / "model"), list(LANGUAGES)
    store = VectorStore(folder / "vectors.sqlite")
    store.remember(ModelFacts(name, source_digest(name), "f", "float32", "cpu", 2, d_model, ""))
    sentences = {
        code: tuple([f"{code} {side} {i}" for i in range(n_pairs)] for side in ("one", "two"))
        for code in codes
    }
    gold = np.random.default_rng(0).uniform(0, 5, n_pairs)
    data = STSData("random", "memory", gold, sentences, np.arange(n_pairs), [""] * n_pairs)
    study = Study(name, data, languages=codes, store=store, dtype="float32")
    space = Space("f", "float32", "attn", "sum")
    for setting in study.settings:
        for code in codes:
            prompts = wrap(data.texts(code), "prompteol", setting, code)
            keys = [prompt_key(prompt, MAX_TOKENS) for prompt in prompts]
            store.write({space: torch.randn(2 * n_pairs, d_model) + 1}, keys)
    return study


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1379)
    parser.add_argument("--d", type=int, default=640)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        study = stored(Path(folder), arguments.pairs, arguments.d)
        start = time.process_time()
        table = grid(study, KS)
        seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{len(table)} cells, {arguments.pairs} pairs, d = {arguments.d}: {seconds:.1f} CPU s, "
        f"at most {peak:.2f} GiB of memory, {torch.get_num_threads()} threads"
    )


if __name__ == "__main__":
    main()
