"""The last token's internal vectors, read once and kept in the store."""

from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from dysem_lab.errors import DataError
from dysem_lab.inputs import at_least, checked
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.last_token import prefixes, record_edits
from dysem_lab.models.lens import LensModel
from dysem_lab.models.passes import MAX_TOKENS
from dysem_lab.models.places import Blocks, Place, places
from dysem_lab.models.record import Edit, edit_of, record, row_shape
from dysem_lab.models.steering import AuxiliaryVectors, Contrast, Intervention, contrast_facts
from dysem_lab.models.store import Space, VectorStore, prompt_key, require_store

MIN_TEXTS_FOR_BAR = 50
# What a pass that writes to the store reads besides what was asked for: small, and then there for
# the next question.
CUMULATIVE = tuple(Place(name) for name in ("attn", "attn_raw", "ffn", "resid", "final"))


def capture(
    lens: LensModel,
    prompts: Sequence[str],
    components: str | Sequence[str] = ("attn", "ffn", "resid"),
    layers: Blocks = "sum",
    *,
    edit: Edit | None = None,
    store: VectorStore | None = None,
    max_tokens: int = MAX_TOKENS,
    tokens_per_batch: int | None = None,
    progress: bool = True,
    description: str = "capture",
) -> dict[str, Float[Tensor, "n ..."]]:
    """Return internal vectors of the last real token of each prompt.

    Repeated prompts are computed once, and so are the keys and values of the tokens that all
    prompts begin with (a quarter of a PromptEOL prompt). Output order is input order.

    Args:
        lens: The model.
        prompts: n prompts, as `dysem_lab.wrap` makes them.
        components: Names of `COMPONENTS`: attn, attn_raw, ffn, resid, value, z, final, mean, ….
        layers: "sum" adds over the blocks: A^L (attn), F^L (ffn), and h^L for resid, which is
            cumulative by itself. "each" keeps every block: a^l, f^l, h^l. A block index keeps
            that one, a range adds over its blocks, and no later block runs.
        edit: A change of the forward pass, such as a contrast; None is the plain pass.
        store: Vectors that it has are read from it; the others are captured and written to it batch
            by batch, so an interrupted run loses at most one batch.
        max_tokens: A longer prompt has its text shortened, with a warning that counts.
        tokens_per_batch: Padded tokens of one forward pass; None fits the device.
        progress: Show a progress bar where there are 50 texts or more.
        description: Its label.

    Returns:
        Component → float32 tensor on the CPU: ``[n, d]`` for "sum" and for final and mean;
        ``[n, L, d]`` for "each". For value the last axes are ``[n_kv, d_head]``, for z
        ``[n_heads, d_head]``.

    Raises:
        InputError: Unknown component or layers or none, a block that the model does not have, a
            contrast that comes after what is read, a prompt that is empty or has no embedding for
            one of its tokens.
        ModelError: A hook point did not fire, or gave a value that is not finite; or there is a
            store, and the forward pass is not the model's own (`LensModel.check_own_pass`).

    Source: DySem Section 3.1, Eqs. 3–6 (component sums); Section 3.2 (last token).
    """
    edit = edit_of(lens, edit)
    wanted = places(components, layers)
    for place in wanted:
        place.check(lens.n_layers)
        edit.check_reach(place)
    prompts = checked(prompts, "prompt")
    position = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
    unique = list(position)
    if tokens_per_batch is not None:
        tokens_per_batch = at_least(tokens_per_batch, 1, "tokens_per_batch")
    max_tokens = at_least(max_tokens, 1, "max_tokens")
    limits: dict[str, Any] = {"max_tokens": max_tokens, "tokens_per_batch": tokens_per_batch}
    if store is not None and unique:
        require_store(store)
        lens.check_own_pass()
        facts = edit.facts
        keys = [prompt_key(prompt, max_tokens) for prompt in unique]
        only = missing_rows(facts, store, keys, wanted)
        with _bar(progress, len(only), description) as bar:
            for n_texts in fill(lens, unique, keys, wanted, store, only, edit=edit, **limits):
                bar.update(n_texts)
        rows = read_rows(facts, store, keys, wanted)
    else:
        shapes = {place: (len(unique), *row_shape(lens, place)) for place in wanted}
        rows = {place: torch.empty(shape, dtype=torch.float32) for place, shape in shapes.items()}
        with _bar(progress, len(unique), description) as bar:
            for batch, read in record(lens, unique, list(rows), edit=edit, **limits):
                for place, vectors in read.items():
                    rows[place][batch] = vectors
                bar.update(len(batch))
    order = torch.tensor([position[prompt] for prompt in prompts], dtype=torch.long)
    return {place.component: rows[place][order] for place in wanted}


def unique_prompts(prompts: Sequence[str]) -> list[str]:
    """Return the different prompts in order.

    Raises:
        InputError: A prompt is empty, or the prompts are no list of strings.
    """
    return list(dict.fromkeys(checked(prompts, "prompt")))


def space_of(model: ModelFacts, place: Place) -> Space:
    """Return the space of the store that holds one kind of a model's vectors."""
    return Space(model.fingerprint, model.dtype, place.component, str(place.blocks))


def missing_rows(
    model: ModelFacts, store: VectorStore, keys: Sequence[str], wanted: Sequence[Place]
) -> list[int]:
    """Return the positions of the prompts, told by their keys, that need a forward pass."""
    there = np.ones(len(keys), dtype=bool)
    for place in wanted:
        there &= store.has(space_of(model, place), keys)
    return np.flatnonzero(~there).tolist()


def read_rows(
    model: ModelFacts, store: VectorStore, keys: Sequence[str], wanted: Sequence[Place]
) -> dict[Place, Float[Tensor, "n ..."]]:
    """Return the stored vectors of prompts that are known to be in the store."""
    rows = {}
    for place in wanted:
        vectors, found = store.read(space_of(model, place), keys)
        if vectors is None or not found.all():
            raise DataError(
                f"{store.path} lost rows of {model.name} while they were read; run again"
            )
        rows[place] = vectors
    return rows


def stored_with(wanted: Sequence[Place]) -> list[Place]:
    """Return everything that one pass writes to the store where this is wanted."""
    runs_all = any(
        place.of_last_token and not isinstance(place.blocks, int | range) for place in wanted
    )
    return list(dict.fromkeys([*wanted, *(CUMULATIVE if runs_all else ())]))


def fill(
    lens: LensModel,
    prompts: Sequence[str],
    keys: Sequence[str],
    wanted: Sequence[Place],
    store: VectorStore,
    only: Sequence[int],
    *,
    edit: Edit | None = None,
    max_tokens: int = MAX_TOKENS,
    tokens_per_batch: int | None = None,
) -> Iterator[int]:
    """Capture vectors into the store, yielding after each batch how many texts it held.

    Each batch is one transaction. The batches left by an interrupted run are the ones that an
    undisturbed run would have made next, so the numbers are equal. The cumulative vectors are
    stored along with those that are wanted.

    Arguments and errors as for `capture`; the prompts are all different, ``keys`` are theirs in the
    store (`prompt_key`), and only those at the positions from `missing_rows` are run.
    """
    lens.check_own_pass()
    edit = edit_of(lens, edit)
    facts = edit.facts
    store.remember(facts)
    everything = stored_with(wanted)
    limits: dict[str, Any] = {"max_tokens": max_tokens, "tokens_per_batch": tokens_per_batch}
    for batch, read in record(lens, prompts, everything, only, edit=edit, **limits):
        rows = {space_of(facts, place): read[place] for place in everything}
        store.write(rows, [keys[index] for index in batch])
        yield len(batch)


def fill_contrasts(
    lens: LensModel,
    prompts: Sequence[str],
    contrasts: Sequence[Contrast | None],
    wanted: Sequence[Place],
    store: VectorStore,
    *,
    max_tokens: int = MAX_TOKENS,
    tokens_per_batch: int | None = None,
) -> Iterator[int]:
    """Capture vectors of the same prompts under many contrasts into the store.

    A contrast changes the last token only. So all tokens before it are run once per batch, the
    auxiliary prompt once for all blocks, and then the last token of each text under all contrasts
    together. Each batch, of prompts with equally many tokens, is one transaction per contrast.

    Each contrast (None is the plain prompt) has its vectors under its own fingerprint
    (`contrast_facts`), and a batch runs under those that it lacks a row of. Arguments, what is
    yielded and errors as for `fill`; the prompts are made by `dysem_lab.wrap`.
    """
    lens.check_own_pass()
    limits: dict[str, Any] = {"max_tokens": max_tokens, "tokens_per_batch": tokens_per_batch}
    keys = [prompt_key(prompt, max_tokens) for prompt in prompts]
    facts = {contrast: contrast_facts(lens.facts, contrast) for contrast in contrasts}
    lacking = {
        contrast: set(missing_rows(of_contrast, store, keys, wanted))
        for contrast, of_contrast in facts.items()
    }
    splits = lens.shares_prefix and all(place.of_last_token for place in wanted)
    last_token_only = {
        contrast: rows
        for contrast, rows in lacking.items()
        if rows and splits and not (contrast and contrast.every_token)
    }
    auxiliary = AuxiliaryVectors(lens, filter(None, last_token_only))
    edits = {
        contrast: Intervention(lens, contrast, auxiliary) if contrast else Edit(lens)
        for contrast in last_token_only
    }
    for contrast in last_token_only:
        store.remember(facts[contrast])
    only = sorted(set().union(*last_token_only.values()))
    n_blocks = max((place.n_blocks(lens.n_layers) for place in wanted), default=0)
    for prefix in prefixes(lens, prompts, only, n_blocks, **limits) if only else ():
        here = {
            contrast: edits[contrast]
            for contrast, rows in last_token_only.items()
            if not rows.isdisjoint(prefix.rows)
        }
        vectors = {
            space_of(facts[contrast], place): read.vectors[place]
            for contrast, read in record_edits(lens, prefix, here, wanted).items()
            for place in wanted
        }
        auxiliary.forget()
        store.write(vectors, [keys[index] for index in prefix.rows])
        yield len(prefix.rows)
    for contrast, rows in lacking.items():
        if contrast not in last_token_only and rows:
            edit = Intervention(lens, contrast) if contrast else None
            yield from fill(lens, prompts, keys, wanted, store, sorted(rows), edit=edit, **limits)


def _bar(progress: bool, n_texts: int, description: str) -> "tqdm[NoReturn]":
    """Return the progress bar of a capture; hidden where the work is short."""
    hidden = not progress or n_texts < MIN_TEXTS_FOR_BAR
    return tqdm(total=n_texts, desc=description, unit="text", disable=hidden)
