"""Prompts made ready for a forward pass: token ids, what fits, length-sorted padded batches."""

import warnings
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from dysem_lab.errors import InputError
from dysem_lab.models.lens import LensModel
from dysem_lab.prompts import Prompt

MAX_TOKENS = 512  # per prompt: DySem's released encoder truncates there
# Padded tokens of one forward pass. On a CPU small batches stay in its caches (measured: 1,024 is
# 20 % faster than 4,096 on two cores); a GPU wants to be full.
TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 16384}
# Repeated tokens below which a pass for a common beginning costs more than it saves.
SHARED_FROM = 48


def plan_batches(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Return batches of prompt indices, the longest prompts first.

    A batch holds prompts of similar length, and its padded size (prompts × longest) stays within
    the budget; a prompt longer than the budget is a batch of its own.
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

    A prompt over the limit, or over the model's own, has its *text* shortened, never its template,
    and is encoded again; a plain string (not made by `dysem_lab.wrap`) counts as text from end to
    end.

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
        encoded[index] = encode([_shorten(known[index], limit, encode)])[0]
    if over:
        warnings.warn(
            f"{len(over)} of {len(prompts)} texts were shortened to fit {limit} tokens "
            f"(the first is prompt {over[0]}); the template around them is whole",
            stacklevel=4,
        )
    return encoded


def characters_read(lens: LensModel, prompt: Prompt, max_tokens: int = MAX_TOKENS) -> int:
    """Return how many characters of a prompt's text are read: all, or what `fit` leaves of it.

    Raises:
        InputError: The template alone is over the limit.
    """
    limit = min(max_tokens, lens.n_context)

    def encode(batch: Sequence[Prompt]) -> list[list[int]]:
        return lens.tokenizer(list(batch))["input_ids"]

    if len(encode([prompt])[0]) <= limit:
        return prompt.stop - prompt.start
    shorter = _shorten(prompt, limit, encode)
    return shorter.stop - shorter.start


def _shorten(
    prompt: Prompt, limit: int, encode: Callable[[Sequence[Prompt]], list[list[int]]]
) -> Prompt:
    """Return the prompt with the longest beginning of its text that fits."""
    fits, too_long = 0, prompt.stop - prompt.start
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if len(encode([prompt.shortened(middle)])[0]) <= limit:
            fits = middle
        else:
            too_long = middle
    if fits == 0:
        raise InputError(f"a template longer than {limit} tokens leaves no room for text: {prompt}")
    return prompt.shortened(fits)


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
