"""How the cost of a capture grows with texts, languages, layers, d and k: slopes, expected and found.

Each is varied alone, on random models; the cost is the processor time of all threads, which other
jobs disturb less than the clock. Slopes are of the logarithms: 1 is proportional, 0 is no growth.

    python benchmarks/cost_growth.py --out benchmarks/cost_growth
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.express as px
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

import dysem_lab as dl
from dysem_lab.models.loading import locate

ROUNDS = 3
TEXTS, LANGUAGES, LAYERS, WIDTH, K = 64, 2, 8, 512, 128
# Of the logarithms, where nothing else costs: every block has 12 d² weights and more; the sets are
# found by sorting d values, however many are kept.
EXPECTED = {"texts": 1.0, "languages": 1.0, "layers": 1.0, "d": 2.0, "k": 0.0}


def random_model(folder: Path, n_layers: int, d: int) -> dl.LensModel:
    """Return a Llama that was never trained, with the tokenizer of an embedded model."""
    tokenizer = AutoTokenizer.from_pretrained(locate("smollm2-135m-instruct"))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=d,
        intermediate_size=4 * d,
        num_hidden_layers=n_layers,
        num_attention_heads=d // 64,
        num_key_value_heads=d // 64,
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


def captured(lens: dl.LensModel, n_texts: int, n_languages: int) -> Callable[[], object]:
    """Return the capture of the first texts of the demo set in its first languages."""
    data = dl.load_data("demo", languages=list(dl.LANGUAGES)[:n_languages])
    prompts = [
        prompt
        for code in data.sentences
        for prompt in dl.wrap(data.texts(code)[:n_texts], "prompteol", "language-specific", code)
    ]
    return lambda: dl.capture(lens, prompts, "attn", progress=False)
