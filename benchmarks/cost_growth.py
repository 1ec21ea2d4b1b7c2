"""How the cost grows with texts, languages, layers, d and k: expected slope beside found.

Each is varied alone, on random models; the cost is the processor time of all threads, which other
jobs disturb less than the clock. Slopes are of the logarithms: 1 is proportional, 0 is no growth.

    python benchmarks/cost_growth.py --out benchmarks/cost_growth
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

import dysem_lab as dl
from dysem_lab.consensus import consensus_set
from dysem_lab.models.loading import locate

ROUNDS = 3
# What all are at, where one of them is varied.
TEXTS, LANGUAGES, LAYERS, WIDTH, K = 32, 2, 8, 512, 128
# A block has 12 d² weights; k is found by sorting d values, however many of them are kept.
EXPECTED = {"texts": 1, "languages": 1, "layers": 1, "d": 2, "k": 0}
SIZES = {
    "texts": [16, 32, 64, 128],
    "languages": [1, 2, 4, 8],
    "layers": [2, 4, 8, 16],
    "d": [256, 512, 1024],
    "k": [32, 64, 128, 256, 512],
}


def random_model(folder: Path, n_layers: int = LAYERS, d: int = WIDTH) -> dl.LensModel:
    """Return a Llama that was never trained, with the tokenizer of an embedded model."""
    tokenizer = AutoTokenizer.from_pretrained(locate("smollm2-135m-instruct"))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=d,
        intermediate_size=8 * d // 3,  # three matrices of it are 8 d² weights, attention has 4 d²
        num_hidden_layers=n_layers,
        num_attention_heads=d // 64,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    where = folder / f"{n_layers}-{d}"
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(where)
    tokenizer.save_pretrained(where)
    return dl.load_model(where, device="cpu", dtype="float32")


def processor_time(function: Callable[[], object]) -> float:
    """Return the least processor time of some calls."""
    took = []
    for _ in range(ROUNDS):
        start = time.process_time()
        function()
        took.append(time.process_time() - start)
    return min(took)


def captured(
    lens: dl.LensModel, n_texts: int = TEXTS, n_languages: int = LANGUAGES
) -> Callable[[], object]:
    """Return the capture of texts of one length, of equally many in each language."""
    prompts = dl.wrap([f"{i:04d} words of one length" for i in range(n_texts * n_languages)])
    return lambda: dl.capture(lens, prompts, "attn", progress=False)


def chosen(k: int) -> Callable[[], object]:
    """Return the choice of k dimensions of 4,096 texts, in all languages."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(4096, LANGUAGES, WIDTH, generator=generator)
    return lambda: consensus_set(vectors, k, vectors.mean(1))


def runs(folder: Path) -> Iterator[tuple[str, int, Callable[[], object]]]:
    """Yield what is varied, its size, and what is timed."""
    usual = random_model(folder)
    for n in SIZES["texts"]:
        yield "texts", n, captured(usual, n_texts=n)
    for n in SIZES["languages"]:
        yield "languages", n, captured(usual, n_languages=n)
    for n in SIZES["layers"]:
        yield "layers", n, captured(random_model(folder, n_layers=n))
    for d in SIZES["d"]:
        yield "d", d, captured(random_model(folder, d=d))
    for k in SIZES["k"]:
        yield "k", k, chosen(k)


def slope(rows: pd.DataFrame) -> float:
    """Return the slope of the logarithm of the time over that of the size."""
    return float(np.polyfit(np.log(rows["size"]), np.log(rows["seconds"]), 1)[0])


def figure(table: pd.DataFrame) -> go.Figure:
    """Return a panel for each of what was varied: times, and the expected slope as a line."""
    titles = [
        f"{name}: expected {EXPECTED[name]}, found {slope(rows):.2f}"
        for name, rows in table.groupby("varied", sort=False)
    ]
    panels = make_subplots(rows=1, cols=len(titles), subplot_titles=titles)
    for column, (name, rows) in enumerate(table.groupby("varied", sort=False), 1):
        size, seconds = rows["size"].to_numpy(), rows["seconds"].to_numpy()
        line = (size / size[-1]) ** EXPECTED[name] * seconds[-1]
        for y, mode, called in ((seconds, "markers", "measured"), (line, "lines", "expected")):
            colour = {"markers": "#1f77b4", "lines": "#888888"}[mode]
            panels.add_scatter(
                x=size,
                y=y,
                mode=mode,
                name=called,
                showlegend=column == 1,
                marker_color=colour,
                row=1,
                col=column,
            )
        panels.update_xaxes(type="log", title=name, tickvals=size, row=1, col=column)
        room = [np.log10(seconds.min()) - 0.3, np.log10(seconds.max()) + 0.3]
        panels.update_yaxes(type="log", dtick="D2", range=room, row=1, col=column)
    panels.update_yaxes(title="seconds of processor", row=1, col=1)
    return panels.update_layout(width=1500, height=340, margin_t=50, template="simple_white")


def main() -> None:
    """Write the table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/cost_growth"))
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for varied, size, timed in runs(Path(folder)):
            rows.append({"varied": varied, "size": size, "seconds": processor_time(timed)})
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(out.with_suffix(".csv"), index=False, float_format="%.4g")
    for name, of_name in table.groupby("varied", sort=False):
        print(f"{name}: expected {EXPECTED[name]}, found {slope(of_name):.2f}")
    try:
        figure(table).write_image(out.with_suffix(".png"))
    except Exception as error:  # of kaleido and of the browser
        print(f"no PNG was written: {error}")


if __name__ == "__main__":
    main()
