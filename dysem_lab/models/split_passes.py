"""Many contrasts of the same prompts at little more than the cost of one."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.models.activations import MEANS, Reader, Wanted, fill, missing_rows, space_of
from dysem_lab.models.lens import LensModel
from dysem_lab.models.passes import (
    MAX_TOKENS,
    batch_budget,
    common_prefix,
    keys_and_values,
    pad,
    plan_batches,
    run,
    tokenize,
    worth_sharing,
)
from dysem_lab.models.steering import AuxiliaryVectors, Contrast, Intervention, contrast_facts
from dysem_lab.models.store import VectorStore, prompt_key

# Tokens, of all the rows of a pass over last tokens, whose keys and values are held at once.
LAST_TOKEN_BUDGET = 8192


def whole_pass(contrast: Contrast | None) -> bool:
    """Return whether a contrast changes every token, so that it needs a pass of its own."""
    return contrast is not None and contrast.norm == "self_scaling"


def fill_contrasts(
    lens: LensModel,
    prompts: Sequence[str],
    contrasts: Sequence[Contrast | None],
    wanted: Sequence[Wanted],
    store: VectorStore,
    max_tokens: int = MAX_TOKENS,
    tokens_per_batch: int | None = None,
) -> Iterator[int]:
    """Capture vectors of the same prompts under many contrasts into the store.

    A contrast changes the last token only. So all tokens before it are run once per batch, the
    auxiliary prompt once for all blocks, and then the last token of each text under all contrasts
    together. Each batch, of prompts with equally many tokens, is one transaction per contrast.

    Args:
        lens: The model.
        prompts: Different prompts, made by `dysem_lab.wrap`.
        contrasts: None stands for the plain prompt.
        wanted: What to read.
        store: Where the vectors go, each contrast under its own fingerprint (`contrast_facts`). A
            batch runs under the contrasts that it lacks a row of.
        max_tokens: As for `dysem_lab.capture`.
        tokens_per_batch: As for `dysem_lab.capture`.

    Yields:
        After each batch the number of texts that it held.

    Raises:
        ModelError: As for `dysem_lab.capture`.
    """
    lens.check_own_pass()
    facts = {contrast: contrast_facts(lens.facts, contrast) for contrast in contrasts}
    keys = [prompt_key(prompt, max_tokens) for prompt in prompts]
    lacking = {
        contrast: missing_rows(facts[contrast], store, keys, wanted) for contrast in contrasts
    }
    reads_all_tokens = any(kind.component in MEANS for kind in wanted)
    splits = lens.shares_prefix and not reads_all_tokens
    last_token_only = [
        contrast
        for contrast, rows in lacking.items()
        if rows and splits and not whole_pass(contrast)
    ]
    for contrast in last_token_only:
        store.remember(facts[contrast])
    for batch, read in _split_batches(
        lens,
        prompts,
        {contrast: set(lacking[contrast]) for contrast in last_token_only},
        wanted,
        max_tokens,
        tokens_per_batch,
    ):
        vectors = {
            space_of(facts[contrast], kind): of_contrast[kind]
            for contrast, of_contrast in read.items()
            for kind in wanted
        }
        store.write(vectors, [keys[index] for index in batch])
        yield len(batch)
    limits = (max_tokens, tokens_per_batch)
    for contrast, rows in lacking.items():
        if contrast not in last_token_only and rows:
            edit = Intervention(lens, contrast) if contrast else None
            yield from fill(lens, prompts, wanted, store, rows, *limits, edit)


def _split_batches(
    lens: LensModel,
    prompts: Sequence[str],
    lacking: Mapping[Contrast | None, set[int]],
    wanted: Sequence[Wanted],
    max_tokens: int,
    tokens_per_batch: int | None,
) -> Iterator[tuple[list[int], dict[Contrast | None, dict[Wanted, Float[Tensor, "batch ..."]]]]]:
    """Run the prompts under the contrasts that lack them, all tokens but the last only once."""
    only = sorted(set().union(*lacking.values()))
    if not only:
        return
    auxiliary = AuxiliaryVectors(lens, filter(None, lacking))
    edits = {
        contrast: Intervention(lens, contrast, auxiliary) if contrast else None
        for contrast in lacking
    }
    n_blocks = max(kind.n_blocks(lens.n_layers) for kind in wanted)
    token_ids = tokenize(lens, prompts, max_tokens)
    n_shared = common_prefix([ids[:-1] for ids in token_ids])
    shared = None
    if worth_sharing(n_shared, len(prompts)):
        shared = keys_and_values(lens, pad(lens, [token_ids[0][:n_shared]])[0], None, n_blocks)
    else:
        n_shared = 0
    for batch in _equal_batches(
        [len(token_ids[index]) - n_shared for index in only], batch_budget(lens, tokens_per_batch)
    ):
        batch = [only[index] for index in batch]
        ids, _ = pad(lens, [token_ids[index] for index in batch])
        before = shared
        if ids.shape[1] > n_shared + 1:
            before = keys_and_values(lens, ids[:, n_shared:-1], shared, n_blocks)
        here = [contrast for contrast, rows in lacking.items() if not rows.isdisjoint(batch)]
        read: dict[Contrast | None, dict[Wanted, Tensor]] = {}
        at_once = max(1, LAST_TOKEN_BUDGET // ids.numel())
        for start in range(0, len(here), at_once):
            together = here[start : start + at_once]
            mask = torch.ones_like(ids).repeat_interleave(len(together), 0)
            readers = {kind: Reader(*kind, lens.n_layers, mask[:, -1:]) for kind in wanted}
            hooks = []
            for position, contrast in enumerate(together):
                if edit := edits[contrast]:
                    rows = slice(position, None, len(together))
                    hooks += edit.hooks([prompts[index] for index in batch], mask[:, -1:], rows)
            hooks += [hook for reader in readers.values() for hook in reader.hooks()]
            last = ids[:, -1:].repeat_interleave(len(together), 0)
            run(lens, last, mask, hooks, before, n_blocks)
            vectors = {kind: reader.read(lens, len(last)) for kind, reader in readers.items()}
            for position, contrast in enumerate(together):
                read[contrast] = {
                    kind: rows[position :: len(together)] for kind, rows in vectors.items()
                }
        auxiliary.forget()
        yield batch, read


def _equal_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Return batches of positions with equal lengths within the budget of tokens, longest first."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    groups = [list(group) for _, group in itertools.groupby(order, key=lengths.__getitem__)]
    return [
        [group[index] for index in batch]
        for group in groups
        for batch in plan_batches([lengths[group[0]]] * len(group), budget)
    ]
