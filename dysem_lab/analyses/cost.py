"""What Contrastive Prompting costs: blocks and tokens that run, counted, and the time they take."""

import os
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import pandas as pd
import torch

from dysem_lab.analyses.contrast_analyses import Method
from dysem_lab.encoders.base import PromptEncoder
from dysem_lab.encoders.contrastive import ContrastivePrompting
from dysem_lab.errors import InputError
from dysem_lab.models.lens import LensModel
from dysem_lab.models.passes import MAX_TOKENS, tokenize
from dysem_lab.models.record import counted
from dysem_lab.models.steering import auxiliary_prompts
from dysem_lab.prompts import parts_of, wrap
from dysem_lab.questions.study import Study

Name = TypeVar("Name")


def encoder(lens: LensModel, method: Method) -> PromptEncoder:
    """Return the encoder of a method.

    Raises:
        InputError: As for `dysem_lab.ContrastivePrompting`.
    """
    template, output_layer, contrast = method
    if contrast is None:
        return PromptEncoder(lens, template, output_layer)
    return ContrastivePrompting(
        lens,
        contrast.layer,
        contrast.norm,
        contrast.alpha,
        contrast.position,
        output_layer,
        template,
        contrast.auxiliary,
        contrast.heads,
    )


def tokens_per_text(lens: LensModel, method: Method, texts: Sequence[str]) -> float:
    """Return the mean number of tokens of a text's prompts together, the auxiliary one included."""
    prompts: list[Sequence[str]] = [wrap(texts, name) for name in parts_of(method.template)]
    if method.contrast and not method.contrast.every_token:
        prompts.append(auxiliary_prompts(prompts[0], method.contrast.auxiliary))
    ids = [row for part in prompts for row in tokenize(lens, part, MAX_TOKENS)]
    return sum(map(len, ids)) / len(texts)


def costs(
    study: Study, methods: Sequence[Method], n_texts: int = 64, rounds: int = 3, seed: int = 0
) -> pd.DataFrame:
    """Measure what methods cost on texts of a study, beside plain PromptEOL at the same output.

    The methods take turns, each round in another order, so that a change of the machine's load
    meets all of them; ratios are taken within a round. Nothing is read from a store. The first
    pass of each method, over one text, is not timed: it counts the blocks.

    Args:
        study: Whose English texts.
        methods: With plain PromptEOL at each output layer that occurs.
        n_texts: A random sample of so many different texts; all where there are fewer.
        rounds: Times that each method encodes them.
        seed: Of the sample.

    Returns:
        One row per method: the columns of `Method.labels`;

        - ``blocks`` per text, computed from the settings, and ``counted`` by hooks;
          ``paper_blocks``, as the paper counts them, with l in place of l + 1;
        - ``token_blocks`` per text: tokens times the blocks that they went through, counted by
          hooks: longer prompts and padding count, and a beginning that all prompts have in common
          is counted once, as it is run;
        - ``tokens`` per text, all its prompts together;
        - ``seconds`` per 1,000 texts and ``tokens_per_second``, medians over rounds;
        - ``blocks_ratio``, ``token_blocks_ratio`` and ``time_ratio`` to plain PromptEOL at the same
          output layer, the last as the median over rounds, with the least and the greatest in
          ``time_low`` and ``time_high``;
        - ``n_texts``, ``rounds``, ``device``, ``cores`` of the machine, ``threads`` in use.

    Raises:
        InputError: Numbers below 1, a method twice, no plain PromptEOL to compare one with, or
            settings that the model does not have.

    Source: CP (arXiv 2505.12831), Table 3, which counts blocks and has no times.
    """
    base = [Method("prompteol", method.output_layer, None) for method in methods]
    _check(methods, base, n_texts, rounds)
    texts = _sample(study, n_texts, seed)
    lens = study.lens
    encoders = {method: encoder(lens, method) for method in methods}
    n_counted = {}
    for method, of_method in encoders.items():
        with counted(lens) as work:
            of_method.encode(texts[:1], progress=False)
        n_counted[method] = work.rows
    seconds, token_blocks = _rounds(lens, encoders, texts, rounds)
    rows = []
    for method, plain in zip(methods, base, strict=True):
        ratios = [a / b for a, b in zip(seconds[method], seconds[plain], strict=True)]
        median = statistics.median(seconds[method])
        n_tokens = tokens_per_text(lens, method, texts)
        blocks = encoders[method].blocks
        shared = method.contrast is not None and not method.contrast.every_token
        rows.append(
            {
                **method.labels(),
                "blocks": blocks,
                "counted": n_counted[method],
                "paper_blocks": blocks - shared,
                "token_blocks": token_blocks[method] / len(texts),
                "tokens": n_tokens,
                "seconds": 1000 * median / len(texts),
                "tokens_per_second": n_tokens * len(texts) / median,
                "blocks_ratio": n_counted[method] / n_counted[plain],
                "token_blocks_ratio": token_blocks[method] / token_blocks[plain],
                "time_ratio": statistics.median(ratios),
                "time_low": min(ratios),
                "time_high": max(ratios),
                "n_texts": len(texts),
                "rounds": rounds,
                "device": lens.device.type,
                "cores": os.cpu_count(),
                "threads": torch.get_num_threads(),
            }
        )
    return pd.DataFrame(rows)


def _rounds(
    lens: LensModel, encoders: Mapping[Method, PromptEncoder], texts: Sequence[str], rounds: int
) -> tuple[dict[Method, list[float]], dict[Method, int]]:
    """Return the seconds of each method in each round, and its tokens times blocks."""
    seconds: dict[Method, list[float]] = {method: [] for method in encoders}
    token_blocks: dict[Method, int] = {}
    for method in in_turns(list(encoders), rounds):
        with counted(lens) as work:
            began = time.perf_counter()
            encoders[method].encode(texts, progress=False)
            seconds[method].append(time.perf_counter() - began)
        token_blocks[method] = work.tokens
    return seconds, token_blocks


def in_turns(names: Sequence[Name], rounds: int) -> Iterator[Name]:
    """Yield every name once per round, each round in another order.

    A change of the machine's load meets all that is measured in turns.
    """
    for start in range(rounds):
        for i in range(len(names)):
            yield names[(start + i) % len(names)]


def _check(methods: Sequence[Method], base: Sequence[Method], n_texts: int, rounds: int) -> None:
    """Raise an error unless there is something to measure and something to compare it with."""
    for name, number in (("n_texts", n_texts), ("rounds", rounds)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise InputError(f"{name} must be a whole number from 1, got {number!r}")
    if not methods or len(set(methods)) < len(methods):
        raise InputError("methods must be one or more different ones")
    for method, plain in zip(methods, base, strict=True):
        if plain not in methods:
            raise InputError(
                f"{method.template} at output layer {method.output_layer!r} has nothing to be "
                f"compared with; add {plain} to the methods"
            )


def _sample(study: Study, n_texts: int, seed: int) -> list[str]:
    """Return different English texts of a study, from all its tasks."""
    texts = list(dict.fromkeys(text for task in study.data for text in study.texts(task, "en")))
    return random.Random(seed).sample(texts, min(n_texts, len(texts)))
