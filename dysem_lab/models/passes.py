"""Prompts through the model: token ids, length-sorted batches, hooked forward passes."""

import contextlib
import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import Cache, DynamicCache

from dysem_lab.errors import InputError
from dysem_lab.models.lens import LensModel
from dysem_lab.prompts import Prompt

MAX_TOKENS = 512  # per prompt: DySem's released encoder truncates there
# Padded tokens of one forward pass. On a CPU small batches stay in its caches (measured: 1,024 is
# 20 % faster than 4,096 on two cores); a GPU wants to be full.
TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 16384}
# Repeated tokens below which a pass for a common beginning costs more than it saves.
SHARED_FROM = 48

Hook = tuple[str, Callable[..., Tensor | None]]  # hook point, function(tensor, hook)


def plan_batches(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Return batches of prompt indices, the longest prompts first.

    A batch holds prompts of similar length, and its padded size (prompts × longest) stays within
    the budget; a prompt longer than the budget is a batch of its own.

    Args:
        lengths: Tokens of each prompt.
        tokens_per_batch: Budget of padded tokens.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    for index in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= tokens_per_batch:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def tokenize(lens: LensModel, prompts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Return the token ids of each prompt, as the model's own tokenizer makes them; see `fit`."""
    return fit(lens, prompts, max_tokens, lambda batch: lens.tokenizer(list(batch))["input_ids"])


def fit(
    lens: LensModel,
    prompts: Sequence[str],
    max_tokens: int,
    encode: Callable[[Sequence[Prompt]], list[list[int]]],
) -> list[list[int]]:
    """Return the token ids of each prompt, shortened where they are too many.

    A prompt over the limit has its *text* shortened, never its template, and is tokenised again; a
    plain string (not made by `dysem_lab.wrap`) counts as text from end to end.

    Args:
        lens: The model, which has a limit of its own.
        prompts: n prompts.
        max_tokens: Limit of each.
        encode: Prompts → token ids.

    Raises:
        InputError: The template alone is over the limit.

    Warns:
        UserWarning: How many texts were shortened.
    """
    limit = min(max_tokens, lens.n_context)
    known = [
        prompt if isinstance(prompt, Prompt) else Prompt.build("", prompt, "") for prompt in prompts
    ]
    encoded = encode(known)
    over = [index for index, ids in enumerate(encoded) if len(ids) > limit]
    for index in over:
        encoded[index] = _shorten(known[index], limit, encode)
    if over:
        warnings.warn(
            f"{len(over)} of {len(prompts)} texts were shortened to fit {limit} tokens "
            f"(the first is prompt {over[0]}); the template around them is whole",
            stacklevel=4,
        )
    return encoded


def _shorten(
    prompt: Prompt, limit: int, encode: Callable[[Sequence[Prompt]], list[list[int]]]
) -> list[int]:
    """Return the ids of the prompt with the longest beginning of its text that fits."""
    fits, too_long = 0, prompt.stop - prompt.start
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if len(encode([prompt.shortened(middle)])[0]) <= limit:
            fits = middle
        else:
            too_long = middle
    if fits == 0:
        raise InputError(f"a template longer than {limit} tokens leaves no room for text: {prompt}")
    return encode([prompt.shortened(fits)])[0]


def pad(
    lens: LensModel, token_ids: Sequence[Sequence[int]], side: str = "right"
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Return padded token ids and their attention mask (1 for real tokens), on the model's device.

    Padding on the right leaves every real token at its own position, so it is exact for absolute
    positions, sliding windows and a cached prefix alike: causal attention never sees the pads.

    Raises:
        InputError: A prompt without tokens, or with one that has no embedding.
    """
    width, pad_id = max(map(len, token_ids)), lens.tokenizer.pad_token_id
    if min(map(len, token_ids)) == 0:
        raise InputError(f"the tokenizer of {lens.name} makes no token of a prompt; give it words")

    def padded(row: Sequence[int], fill: int) -> list[int]:
        pads = [fill] * (width - len(row))
        return [*row, *pads] if side == "right" else [*pads, *row]

    ids = torch.tensor([padded(row, pad_id) for row in token_ids])
    if (largest := int(ids.max())) >= lens.n_embeddings:
        token = lens.tokenizer.convert_ids_to_tokens(largest)
        raise InputError(
            f"a prompt has the token {token!r} with id {largest}, but only {lens.n_embeddings} "
            f"tokens of {lens.name} have an embedding; take it out of the text"
        )
    mask = torch.tensor([padded([1] * len(row), 0) for row in token_ids])
    return ids.to(lens.device), mask.to(lens.device)


class _StoppedError(Exception):
    """Ends a pass whose hooks have read what they wanted."""


def _stop_here(tensor: Tensor, hook: object) -> NoReturn:
    raise _StoppedError


def run(
    lens: LensModel,
    ids: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch all_pos"],
    fwd_hooks: Sequence[Hook],
    before: Cache | None = None,
    n_blocks: int | None = None,
) -> None:
    """Run one batch through the blocks with the given hooks.

    The unembedding, in small batches a large part of a pass, runs only where a hook is in it, and
    for the last position. The hooks are removed whatever happens, and the model's lock is held.

    Args:
        lens: The model.
        ids: Token ids after those of ``before``.
        mask: Attention mask of all tokens together.
        fwd_hooks: (hook point, hook function) pairs.
        before: Keys and values of earlier tokens, from `keys_and_values`, which is not changed. One
            row of it serves as many successive rows of ``ids`` as there are for each.
        n_blocks: Stop before the next block, without unembedding; None runs them all.
    """
    stop = n_blocks if n_blocks is not None and n_blocks < lens.n_layers else None
    cache = _copied(before, len(ids))
    hooks = list(fwd_hooks)
    if stop is None and not any(name.startswith("unembed.") for name, _ in hooks):
        hooks.append(("unembed.hook_in", _stop_here))
    with (
        torch.inference_mode(),
        lens.lock,
        lens.bridge.hooks(fwd_hooks=hooks),
        contextlib.suppress(_StoppedError),
    ):
        lens.bridge(
            ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=1,
            stop_at_layer=stop,
        )


def keys_and_values(
    lens: LensModel,
    ids: Int[Tensor, "batch pos"],
    before: Cache | None = None,
    n_blocks: int | None = None,
) -> Cache:
    """Return the keys and values of tokens that prompts begin with, for passes over the rest.

    Args:
        lens: The model.
        ids: Rows of the same length, without padding, after the tokens of ``before``.
        before: As for `run`.
        n_blocks: The first blocks only; None is all of them.
    """
    cache = _copied(before, len(ids))
    n_before = cache.get_seq_length() if cache is not None else 0
    mask = ids.new_ones(len(ids), n_before + ids.shape[1])
    options = {"attention_mask": mask, "use_cache": True, "logits_to_keep": 1}
    with torch.inference_mode(), lens.lock:
        if n_blocks is not None and n_blocks < lens.n_layers:
            # A pass that stops returns no cache, but fills the one that it is given.
            if cache is None:
                cache = DynamicCache(config=lens.bridge.original_model.config.get_text_config())
            lens.bridge(ids, past_key_values=cache, stop_at_layer=n_blocks, **options)
        else:
            _, cache = lens.bridge(
                ids, past_key_values=cache, return_type="logits_and_cache", **options
            )
    return cache


def _copied(before: Cache | None, n_rows: int) -> Any:
    """Return a copy that a pass may fill, each row repeated to give as many as the batch has."""
    cache: Any = copy.deepcopy(before)
    if cache is not None and (repeats := n_rows // cache.layers[0].keys.shape[0]) > 1:
        cache.batch_repeat_interleave(repeats)
    return cache


def common_prefix(token_ids: list[list[int]]) -> int:
    """Return how many first tokens all rows share, leaving each row at least one of its own."""
    if not token_ids:
        return 0
    first, last = min(token_ids), max(token_ids)
    longest = min(map(len, token_ids)) - 1
    return next((i for i in range(longest) if first[i] != last[i]), max(longest, 0))


def worth_sharing(n_tokens: int, n_rows: int) -> bool:
    """Return whether a common beginning saves more than the pass of its own that it costs."""
    return n_tokens * (n_rows - 1) >= SHARED_FROM


def batch_budget(lens: LensModel, tokens_per_batch: int | None) -> int:
    """Return the padded tokens of one forward pass: those given, or what fits the device."""
    return tokens_per_batch or TOKENS_PER_BATCH.get(lens.device.type, TOKENS_PER_BATCH["cpu"])
