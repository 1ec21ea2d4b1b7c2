"""A model of the same shape with fresh weights: what architecture and tokenizer give alone."""

from copy import deepcopy

import torch
from transformers import AutoModelForCausalLM

from dysem_lab.inputs import seed_of
from dysem_lab.models.checks import check_once
from dysem_lab.models.lens import LensModel, boot, require_model


def name_of(model: str, seed: int) -> str:
    """Return the name of a model that was never trained."""
    return f"{model} with random weights, seed {seed}"


def untrained(lens: LensModel, seed: int = 0) -> LensModel:
    """Return a model of the same architecture and tokenizer, whose weights were never trained.

    They are drawn as transformers draws them for a model that is to be trained. The control of
    every claim that something was learnt (arXiv 2501.17727, 2512.18792).

    Args:
        lens: The model.
        seed: Of the weights; the random state of torch is left as it is.

    Raises:
        InputError: No seed, such as one below 0.
        ModelError: As for `dysem_lab.load_model`, whose checks it goes through.
    """
    lens, seed = require_model(lens), seed_of(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = deepcopy(lens.bridge.original_model.config)
        model = AutoModelForCausalLM.from_config(config, dtype=lens.dtype)
    named = name_of(lens.name, seed)
    fresh = boot(model.eval().to(lens.device), deepcopy(lens.tokenizer), named, stored_as=None)
    check_once(fresh)
    return fresh
