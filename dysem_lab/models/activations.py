"""The last token's internal vectors, read from hook points, and kept in the store."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from dysem_lab.errors import DataError, InputError, ModelError, choices
from dysem_lab.inputs import at_least, checked, names_of, whole_number
from dysem_lab.models.lens import LensModel
from dysem_lab.models.passes import (
    MAX_TOKENS,
    Hook,
    batch_budget,
    common_prefix,
    keys_and_values,
    pad,
    plan_batches,
    run,
    tokenize,
    worth_sharing,
)
from dysem_lab.models.store import ModelFacts, Space, VectorStore, prompt_key

MIN_TEXTS_FOR_BAR = 50


class Component(NamedTuple):
    """Where an internal vector is read.

    Attributes:
        hook: Hook point of block ``{layer}``; without a slot, of the whole model.
        meaning: What it is, with its symbol.
    """

    hook: str
    meaning: str


COMPONENTS: dict[str, Component] = {
    "attn": Component("blocks.{layer}.hook_attn_out", "attention output a^l added to the stream"),
    "attn_raw": Component("blocks.{layer}.attn.hook_out", "attention output before a post-norm"),
    "ffn": Component("blocks.{layer}.hook_mlp_out", "FFN output f^l added to the stream"),
    "ffn_raw": Component("blocks.{layer}.mlp.hook_out", "FFN output before a post-norm"),
    "resid": Component("blocks.{layer}.hook_out", "residual stream h^l after the block"),
    "value": Component("blocks.{layer}.attn.hook_v", "value vectors, un-repeated GQA groups"),
    "z": Component("blocks.{layer}.attn.hook_z", "contextualised value vectors before W_O"),
    "final": Component("ln_final.hook_out", "residual stream after the final norm"),
    "mean": Component("ln_final.hook_out", "mean over the real tokens of `final`"),
    "value_mean": Component("blocks.{layer}.attn.hook_v", "mean over the real tokens of `value`"),
}
MEANS = ("mean", "value_mean")  # over tokens; all others are of the last token

Layers = str | int | range


class Edit:
    """How prompts go through a model. This class is the plain forward pass; subclasses change it.

    Args:
        lens: The model.
    """

    every_token = False  # whether tokens before the last one change as well

    def __init__(self, lens: LensModel) -> None:
        """Remember the model; nothing is run."""
        self.lens = lens

    @property
    def facts(self) -> ModelFacts:
        """Of the edited model: a fingerprint of its own, so that a store keeps it apart."""
        return self.lens.facts

    def tokenize(self, prompts: Sequence[str], max_tokens: int) -> list[list[int]]:
        """Return the token ids of each prompt; see `dysem_lab.models.passes.tokenize`."""
        return tokenize(self.lens, prompts, max_tokens)

    def hooks(self, prompts: Sequence[str], mask: Int[Tensor, "batch pos"]) -> list[Hook]:
        """Return the hooks that make the change in the pass over these prompts."""
        return []

    def pooled(
        self, prompts: Sequence[str], mask: Int[Tensor, "batch pos"]
    ) -> Int[Tensor, "batch pos"]:
        """Return which tokens a mean is over (1) in the pass over these prompts: all real ones."""
        return mask


@dataclass
class Reader:
    """Reads one component of one batch while the model runs.

    ``rows`` is float32 ``[batch, ...]`` for the sum and for one layer and ``[batch, L, ...]`` for
    each layer, so the memory for a sum does not depend on the number of layers. A mean is over the
    tokens that ``pooled`` marks, everything else is read at the last one that ``mask`` does.
    """

    component: str
    layers: "Layers"
    n_layers: int
    mask: Int[Tensor, "batch pos"]
    pooled: Int[Tensor, "batch pos"] | None = None
    rows: Tensor | None = None

    def hooks(self) -> Iterator[Hook]:
        """Yield (hook point, hook function) pairs."""
        name = COMPONENTS[self.component].hook
        if "{layer}" not in name:
            yield name, lambda tensor, hook: self._read(tensor, 0, 1)
            return
        if isinstance(self.layers, int):
            yield name.format(layer=self.layers), lambda tensor, hook: self._read(tensor, 0, 1)
            return
        blocks = self.layers if isinstance(self.layers, range) else range(self.n_layers)
        # The residual stream is cumulative already: its sum over blocks is its last value, h^L.
        if (self.component, self.layers) == ("resid", "sum"):
            blocks = blocks[-1:]
        for layer in blocks:
            yield (
                name.format(layer=layer),
                lambda tensor, hook, layer=layer: self._read(tensor, layer, self.n_layers),
            )

    def read(self, lens: LensModel, n_texts: int) -> Float[Tensor, "batch ..."]:
        """Return what was read, on the CPU, once it is known to be whole and finite.

        Raises:
            ModelError: The hook point did not fire, or gave a value that is not finite.
        """
        name = self.component
        expected = (n_texts, *_row_shape(lens, name, self.layers))
        if self.rows is None or self.rows.shape != expected:
            came = "nothing" if self.rows is None else f"shape {tuple(self.rows.shape)}"
            raise ModelError(
                f"{lens.name}: component {name!r} ({COMPONENTS[name].hook}) gave {came} where "
                f"{expected} was expected; this architecture does not have it"
            )
        if not torch.isfinite(self.rows).all():
            raise ModelError(
                f"{lens.name}: component {name!r} is not finite in {lens.dtype}; "
                "load the model with dtype='float32' or 'bfloat16'"
            )
        return self.rows.cpu()

    def _read(self, tensor: Tensor, layer: int, n_layers: int) -> None:
        if self.component in MEANS:
            pooled = self.mask if self.pooled is None else self.pooled
            weights = pooled / pooled.sum(1, keepdim=True)
            vector = torch.einsum("bp,bp...->b...", weights, tensor.float())
        else:
            texts = torch.arange(len(tensor), device=tensor.device)
            vector = tensor[texts, self.mask.sum(1) - 1].float()
        if n_layers == 1 or self.layers != "each":
            self.rows = vector.clone() if self.rows is None else self.rows.add_(vector)
        else:
            if self.rows is None:
                self.rows = vector.new_empty(vector.shape[0], n_layers, *vector.shape[1:])
            self.rows[:, layer] = vector


class Wanted(NamedTuple):
    """One kind of vector to read: a component, summed over blocks, at each, or at one."""

    component: str
    layers: Layers

    def n_blocks(self, n_layers: int) -> int:
        """Return how many blocks must run to read it."""
        if isinstance(self.layers, range):
            return self.layers.stop
        return self.layers + 1 if isinstance(self.layers, int) else n_layers


# What a pass that writes to the store reads besides what was asked for: small, and then there for
# the next analysis.
CUMULATIVE = tuple(Wanted(name, "sum") for name in ("attn", "attn_raw", "ffn", "resid", "final"))


def wanted_vectors(components: str | Sequence[str], layers: Layers = "sum") -> list[Wanted]:
    """Return what to read, once the names are known to be ones.

    Components with one vector per text ("final", "mean") are the same for all kinds of `layers`.

    Raises:
        InputError: Unknown component or layers, or no component.
    """
    names = names_of(components, "component")
    if not names:
        raise InputError(f"no component is named; choose from: {', '.join(COMPONENTS)}")
    for name in names:
        if name not in COMPONENTS:
            raise choices("component", name, COMPONENTS)
    layers = _layers(layers)
    return [Wanted(name, layers if "{layer}" in COMPONENTS[name].hook else "sum") for name in names]


def _layers(layers: object) -> Layers:
    """Return the layers that were given, a block as a Python integer."""
    if isinstance(layers, range) or (isinstance(layers, str) and layers in ("sum", "each")):
        return layers
    block = whole_number(layers)
    if block is None:
        raise choices("layers", layers, ("sum", "each", "a block index", "a range of blocks"))
    return block


def capture(
    lens: LensModel,
    prompts: Sequence[str],
    components: str | Sequence[str] = ("attn", "ffn", "resid"),
    layers: Layers = "sum",
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
            prompt that is empty or has no embedding for one of its tokens.
        ModelError: A hook point did not fire, or gave a value that is not finite; or there is a
            store, and the forward pass is not the model's own (`LensModel.check_own_pass`).

    Source: DySem Section 3.1, Eqs. 3–6 (component sums); Section 3.2 (last token).
    """
    layers = _layers(layers)
    wanted = wanted_vectors(components, layers)
    _check_blocks(layers, lens.n_layers)
    edit = edit or Edit(lens)
    prompts = checked(prompts, "prompt")
    unique = unique_prompts(prompts)
    if tokens_per_batch is not None:
        tokens_per_batch = at_least(tokens_per_batch, 1, "tokens_per_batch")
    limits = (at_least(max_tokens, 1, "max_tokens"), tokens_per_batch)
    if store is None or not unique:
        store, only = None, list(range(len(unique)))
        rows = {
            kind: torch.empty(len(unique), *_row_shape(lens, *kind))
            for kind in dict.fromkeys(wanted)
        }
    else:
        lens.check_own_pass()
        facts = edit.facts
        keys = [prompt_key(prompt, max_tokens) for prompt in unique]
        only = missing_rows(facts, store, keys, wanted)
    with _bar(progress, len(only), description) as bar:
        if store is None:
            for batch, read in batches(lens, unique, wanted, only, *limits, edit):
                for kind, vectors in read.items():
                    rows[kind][batch] = vectors
                bar.update(len(batch))
        else:
            for n_texts in fill(lens, unique, wanted, store, only, *limits, edit):
                bar.update(n_texts)
            rows = read_rows(facts, store, keys, wanted)
    position = {prompt: row for row, prompt in enumerate(unique)}
    order = torch.tensor([position[prompt] for prompt in prompts], dtype=torch.long)
    return {kind.component: rows[kind][order] for kind in wanted}


def _check_blocks(layers: Layers, n_layers: int) -> None:
    """Raise an error unless the model has the blocks that are named."""
    if isinstance(layers, int) and not 0 <= layers < n_layers:
        raise InputError(f"layer must be between 0 and {n_layers - 1}, got {layers}")
    if isinstance(layers, range) and not (
        layers.step == 1 and 0 <= layers.start < layers.stop <= n_layers
    ):
        raise InputError(f"layers must be one or more blocks of range(0, {n_layers}), got {layers}")


def unique_prompts(prompts: Sequence[str]) -> list[str]:
    """Return the different prompts in order.

    Raises:
        InputError: A prompt is empty, or the prompts are no list of strings.
    """
    return list(dict.fromkeys(checked(prompts, "prompt")))


def missing_rows(
    model: ModelFacts, store: VectorStore, keys: Sequence[str], wanted: Sequence[Wanted]
) -> list[int]:
    """Return the positions of the prompts that need a forward pass.

    Args:
        model: Whose vectors.
        store: Where they would be.
        keys: From `dysem_lab.models.store.prompt_key`.
        wanted: From `wanted_vectors`.
    """
    there = np.ones(len(keys), dtype=bool)
    for kind in wanted:
        there &= store.has(space_of(model, kind), keys)
    return np.flatnonzero(~there).tolist()


def read_rows(
    model: ModelFacts, store: VectorStore, keys: Sequence[str], wanted: Sequence[Wanted]
) -> dict[Wanted, Float[Tensor, "n ..."]]:
    """Return the stored vectors of prompts that are known to be in the store."""
    rows = {}
    for kind in wanted:
        vectors, found = store.read(space_of(model, kind), keys)
        if vectors is None or not found.all():
            raise DataError(
                f"{store.path} lost rows of {model.name} while they were read; run again"
            )
        rows[kind] = vectors
    return rows


def space_of(model: ModelFacts, kind: Wanted) -> Space:
    """Return the space of the store that holds one kind of a model's vectors."""
    return Space(model.fingerprint, model.dtype, kind.component, str(kind.layers))


def stored_with(wanted: Sequence[Wanted]) -> list[Wanted]:
    """Return everything that one pass writes to the store where this is wanted."""
    partial = all(
        kind.component in MEANS or isinstance(kind.layers, int | range) for kind in wanted
    )
    extra = () if partial else CUMULATIVE
    return list(dict.fromkeys([*wanted, *extra]))


def fill(
    lens: LensModel,
    prompts: Sequence[str],
    wanted: Sequence[Wanted],
    store: VectorStore,
    only: Sequence[int],
    max_tokens: int = MAX_TOKENS,
    tokens_per_batch: int | None = None,
    edit: Edit | None = None,
) -> Iterator[int]:
    """Capture vectors into the store, yielding after each batch how many texts it held.

    Each batch is one transaction. The batches left by an interrupted run are the ones that an
    undisturbed run would have made next, so the numbers are equal.

    Args:
        lens: The model.
        prompts: Different prompts.
        wanted: From `wanted_vectors`; the cumulative vectors are stored along with them.
        store: Where the vectors go.
        only: Positions of the prompts that need a pass, from `missing_rows`.
        max_tokens: As for `capture`.
        tokens_per_batch: As for `capture`.
        edit: As for `capture`.

    Raises:
        ModelError: As for `capture`.
    """
    lens.check_own_pass()
    edit = edit or Edit(lens)
    facts = edit.facts
    store.remember(facts)
    everything = stored_with(wanted)
    limits = (max_tokens, tokens_per_batch)
    for batch, read in batches(lens, prompts, everything, only, *limits, edit):
        rows = {space_of(facts, kind): read[kind] for kind in everything}
        store.write(rows, [prompt_key(prompts[index], max_tokens) for index in batch])
        yield len(batch)


def batches(
    lens: LensModel,
    prompts: Sequence[str],
    wanted: Sequence[Wanted],
    only: Sequence[int],
    max_tokens: int = MAX_TOKENS,
    tokens_per_batch: int | None = None,
    edit: Edit | None = None,
) -> Iterator[tuple[list[int], dict[Wanted, Float[Tensor, "batch ..."]]]]:
    """Run the prompts at these positions, longest first, yielding each batch with its vectors."""
    if not only:
        return
    edit = edit or Edit(lens)
    token_ids = edit.tokenize(prompts, max_tokens)
    # A mean, and an edit of every token, need every position; the others what differs.
    all_positions = edit.every_token or any(kind.component in MEANS for kind in wanted)
    n_shared = common_prefix(token_ids) if lens.shares_prefix and not all_positions else 0
    n_blocks = max(kind.n_blocks(lens.n_layers) for kind in wanted)
    prefix = None
    if worth_sharing(n_shared, len(prompts)):
        prefix = keys_and_values(lens, pad(lens, [token_ids[0][:n_shared]])[0], None, n_blocks)
    else:
        n_shared = 0
    own_ids = [token_ids[index][n_shared:] for index in only]
    for of_batch in plan_batches(list(map(len, own_ids)), batch_budget(lens, tokens_per_batch)):
        batch = [only[index] for index in of_batch]
        ids, mask = pad(lens, [own_ids[index] for index in of_batch])
        these = [prompts[index] for index in batch]
        pooled = edit.pooled(these, mask)
        readers = {kind: Reader(*kind, lens.n_layers, mask, pooled) for kind in wanted}
        hooks = edit.hooks(these, mask)
        hooks += [hook for reader in readers.values() for hook in reader.hooks()]
        whole_mask = torch.nn.functional.pad(mask, (n_shared, 0), value=1)
        run(lens, ids, whole_mask, hooks, prefix, n_blocks)
        yield batch, {kind: reader.read(lens, len(batch)) for kind, reader in readers.items()}


def _bar(progress: bool, n_texts: int, description: str) -> "tqdm[NoReturn]":
    """Return the progress bar of a capture; hidden where the work is short."""
    hidden = not progress or n_texts < MIN_TEXTS_FOR_BAR
    return tqdm(total=n_texts, desc=description, unit="text", disable=hidden)


def _row_shape(lens: LensModel, component: str, layers: Layers) -> tuple[int, ...]:
    """Return the shape of one prompt's row of a component."""
    values = (lens.n_kv_heads, lens.d_head)
    per_layer = {"value": values, "value_mean": values, "z": (lens.n_heads, lens.d_head)}
    vector = per_layer.get(component, (lens.d_model,))
    stacked = layers == "each" and "{layer}" in COMPONENTS[component].hook
    return (lens.n_layers, *vector) if stacked else vector
