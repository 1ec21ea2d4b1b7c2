"""Many edits of the last token at little more than the cost of one.

What changes at the last token leaves all tokens before it as they are, so these run once.
"""

import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache

from dysem_lab.models.lens import LensModel
from dysem_lab.models.passes import MAX_TOKENS, batch_budget, pad, plan_batches, tokenize
from dysem_lab.models.places import Place
from dysem_lab.models.record import Edit, Hook, Reader, forward, keys_and_values, shared_prefix

# Tokens, of all the rows of a pass over last tokens, whose keys and values are held at once.
LAST_TOKEN_BUDGET = 8192


class Prefix(NamedTuple):
    """Prompts of equal length whose tokens before the last one have run.

    Attributes:
        rows: Their positions among all prompts.
        prompts: The prompts.
        ids: Their token ids.
        before: Keys and values of all tokens but the last; None where all tokens must run.
    """

    rows: list[int]
    prompts: list[str]
    ids: Int[Tensor, "batch pos"]
    before: Cache | None


def prefixes(
    lens: LensModel,
    prompts: Sequence[str],
    only: Sequence[int] | None = None,
    n_blocks: int | None = None,
    *,
    max_tokens: int = MAX_TOKENS,
    tokens_per_batch: int | None = None,
) -> Iterator[Prefix]:
    """Run all tokens but the last of each prompt: what comes after them may change cheaply.

    Args:
        lens: The model.
        prompts: Different prompts.
        only: Positions of those that are run; None is all.
        n_blocks: The first blocks only; None is all of them.
        max_tokens: As for `dysem_lab.capture`.
        tokens_per_batch: As for `dysem_lab.capture`.
    """
    only = range(len(prompts)) if only is None else only
    token_ids = tokenize(lens, prompts, max_tokens)
    n_shared, shared = 0, None
    if lens.shares_prefix:
        n_shared, shared = shared_prefix(lens, [ids[:-1] for ids in token_ids], n_blocks)
    budget = batch_budget(lens, tokens_per_batch)
    for of_batch in _equal_batches([len(token_ids[index]) - n_shared for index in only], budget):
        batch = [only[index] for index in of_batch]
        ids, _ = pad(lens, [token_ids[index] for index in batch])
        before = shared
        if lens.shares_prefix and ids.shape[1] > n_shared + 1:
            before = keys_and_values(lens, ids[:, n_shared:-1], shared, n_blocks)
        yield Prefix(batch, [prompts[index] for index in batch], ids, before)


def _equal_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Return batches of positions with equal lengths within the budget of tokens, longest first."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    groups = [list(group) for _, group in itertools.groupby(order, key=lengths.__getitem__)]
    return [
        [group[index] for index in batch]
        for group in groups
        for batch in plan_batches([lengths[group[0]]] * len(group), budget)
    ]


Key = TypeVar("Key", bound=Hashable)


class LastToken(NamedTuple):
    """What a pass over last tokens read under one edit.

    Attributes:
        vectors: Place → ``[batch, ...]``, float32 on the CPU.
        logits: Of the next token, float32 on the CPU; None where they were not asked for.
    """

    vectors: dict[Place, Tensor]
    logits: Float[Tensor, "batch n_tokens"] | None


def record_edits(
    lens: LensModel,
    prefix: Prefix,
    edits: Mapping[Key, Edit],
    places: Sequence[Place],
    *,
    logits: bool = False,
) -> dict[Key, LastToken]:
    """Run the last token of prompts under many edits together.

    Args:
        lens: The model.
        prefix: From `prefixes`. An edit of every token runs all of them anew.
        edits: Each under a name.
        places: What is read at the last token.
        logits: Read the next token's logits too.
    """
    n_blocks = None if logits else max(place.n_blocks(lens.n_layers) for place in places)
    read: dict[Key, LastToken] = {}
    at_once = max(1, LAST_TOKEN_BUDGET // prefix.ids.numel())
    names = list(edits)
    for start in range(0, len(names), at_once):
        together = names[start : start + at_once]
        whole = prefix.before is None or any(edits[name].every_token for name in together)
        ids = prefix.ids if whole else prefix.ids[:, -1:]
        ids = ids.repeat_interleave(len(together), 0)
        mask = torch.ones_like(ids)
        readers = {place: Reader(place, lens, mask) for place in places}
        hooks: list[Hook] = []
        for position, name in enumerate(together):
            rows = slice(position, None, len(together))
            hooks += edits[name].hooks(prefix.prompts, mask, rows)
        hooks += [hook for reader in readers.values() for hook in reader.hooks()]
        all_tokens = mask.new_ones(len(ids), prefix.ids.shape[1])
        before = None if whole else prefix.before
        found = forward(lens, ids, all_tokens, hooks, before, n_blocks, logits=logits)
        vectors = {place: reader.read() for place, reader in readers.items()}
        for position, name in enumerate(together):
            mine = slice(position, None, len(together))
            read[name] = LastToken(
                {place: rows[mine] for place, rows in vectors.items()},
                None if found is None else found[mine].float().cpu(),
            )
    return read
