"""The only way to run a model: prompts and places in, what the pass reads out, under an edit.

Every forward pass of the package goes through `forward` or `keys_and_values`, which hold the
model's lock, remove their hooks whatever happens, and compute no gradients unless asked.

Over 400 lines, as nothing else may run a model: a test sees to it.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache, DynamicCache

from dysem_lab.errors import InputError, ModelError
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.lens import LensModel, require_model
from dysem_lab.models.passes import (
    MAX_TOKENS,
    batch_budget,
    common_prefix,
    pad,
    plan_batches,
    tokenize,
    worth_sharing,
)
from dysem_lab.models.places import COMPONENTS, Place

Hook = tuple[str, Callable[..., Tensor | None]]  # hook point, function(tensor, hook)


class Edit:
    """How prompts go through a model. This class is the plain forward pass; subclasses change it.

    Args:
        lens: The model.
    """

    every_token = False  # whether tokens before the last one change as well

    def __init__(self, lens: LensModel) -> None:
        """Remember the model; nothing is run."""
        self.lens = require_model(lens)

    @property
    def facts(self) -> ModelFacts:
        """Of the edited model: a fingerprint of its own, so that a store keeps it apart."""
        return self.lens.facts

    def check_reach(self, place: Place) -> None:
        """Raise `InputError` where a vector is known to be read before the change."""

    def tokenize(self, prompts: Sequence[str], max_tokens: int) -> list[list[int]]:
        """Return the token ids of each prompt; see `dysem_lab.models.passes.tokenize`."""
        return tokenize(self.lens, prompts, max_tokens)

    def hooks(
        self,
        prompts: Sequence[str],
        mask: Int[Tensor, "batch pos"],
        rows: slice = slice(None),
    ) -> list[Hook]:
        """Return the hooks that make the change in the pass over these prompts.

        Args:
            prompts: Of the rows that are changed.
            mask: Attention mask of the pass (1 for real tokens, padding on the right).
            rows: Which rows of the pass are these prompts, where others are in it too.
        """
        return []

    def pooled(
        self, prompts: Sequence[str], mask: Int[Tensor, "batch pos"]
    ) -> Int[Tensor, "batch pos"]:
        """Return what each token counts in a mean over the pass: the real ones 1."""
        return mask


@dataclass
class Work:
    """What went through the blocks of a model.

    Attributes:
        rows: Rows of a batch, summed over blocks.
        tokens: Tokens, padding included, summed over blocks.
    """

    rows: int = 0
    tokens: int = 0


_counting: WeakKeyDictionary[LensModel, Work] = WeakKeyDictionary()


@contextlib.contextmanager
def counted(lens: LensModel) -> Iterator[Work]:
    """Count what goes through the model's blocks until the block of code ends, by hooks.

    They are on during the passes only, so a store may be read and written in between.
    """
    work = Work()
    with lens.lock:
        before = _counting.get(lens)
        _counting[lens] = work
        try:
            yield work
        finally:
            del _counting[lens]
            if before is not None:
                _counting[lens] = before


def _counters(lens: LensModel) -> list[Hook]:
    """Return the hooks that count, where somebody does."""
    work = _counting.get(lens)
    if work is None:
        return []

    def count(tensor: Tensor, hook: object) -> None:
        work.rows += tensor.shape[0]
        work.tokens += tensor.shape[0] * tensor.shape[1]

    return [(f"blocks.{layer}.hook_out", count) for layer in range(lens.n_layers)]


class _StoppedError(Exception):
    """Ends a pass whose hooks have read what they wanted."""


def _stop_here(tensor: Tensor, hook: object) -> NoReturn:
    raise _StoppedError


def forward(
    lens: LensModel,
    ids: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch all_pos"],
    hooks: Sequence[Hook] = (),
    before: Cache | None = None,
    n_blocks: int | None = None,
    *,
    logits: bool = False,
    gradients: bool = False,
) -> Float[Tensor, "batch n_tokens"] | None:
    """Run one batch through the blocks with the given hooks.

    The unembedding, in small batches a large part of a pass, runs only where it is asked for or a
    hook is in it, and for the last position.

    Args:
        lens: The model.
        ids: Token ids after those of ``before``.
        mask: Attention mask of all tokens together.
        hooks: (hook point, hook function) pairs.
        before: Keys and values of earlier tokens, from `keys_and_values`, which is not changed. One
            row of it serves as many successive rows of ``ids`` as there are for each.
        n_blocks: Stop before the next block, without unembedding; None runs them all.
        logits: Return the logits of the last position.
        gradients: Keep what a backward pass needs; None of the package's captures does.
    """
    stop = n_blocks if n_blocks is not None and n_blocks < lens.n_layers else None
    cache = _copied(before, len(ids))
    hooks = [*_counters(lens), *hooks]
    unembeds = logits or any(name.startswith("unembed.") for name, _ in hooks)
    if stop is None and not unembeds:
        hooks.append(("unembed.hook_in", _stop_here))
    with (
        torch.enable_grad() if gradients else torch.inference_mode(),
        lens.lock,
        lens.bridge.hooks(fwd_hooks=hooks),
        contextlib.suppress(_StoppedError),
    ):
        found = lens.bridge(
            ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=1,
            stop_at_layer=stop,
        )
        return found[:, -1] if logits else None
    return None


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
        before: As for `forward`.
        n_blocks: The first blocks only; None is all of them.
    """
    cache = _copied(before, len(ids))
    n_before = cache.get_seq_length() if cache is not None else 0
    mask = ids.new_ones(len(ids), n_before + ids.shape[1])
    options = {"attention_mask": mask, "use_cache": True, "logits_to_keep": 1}
    hooks = _counters(lens)
    if lens.last_alone:  # nothing but keys and values is read, of any token
        keep, spread = _of_last_token(lens, torch.ones_like(ids), (n_blocks or lens.n_layers) - 1)
        hooks = [*spread, *hooks, *keep]
    with torch.inference_mode(), lens.lock, lens.bridge.hooks(fwd_hooks=hooks):
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


@dataclass
class Reader:
    """Reads one place of one batch while the model runs.

    ``rows`` is float32 ``[batch, ...]`` for the sum and for one block and ``[batch, L, ...]`` for
    each block, so the memory for a sum does not depend on the number of blocks. A mean is over the
    tokens that ``pooled`` marks, everything else is read at the last one that ``mask`` does.
    """

    place: Place
    lens: LensModel
    mask: Int[Tensor, "batch pos"]
    pooled: Int[Tensor, "batch pos"] | None = None
    rows: Tensor | None = None

    def hooks(self) -> list[Hook]:
        """Return (hook point, hook function) pairs."""
        return [
            (point, lambda tensor, hook, block=block: self._read(tensor, block))
            for block, point in self.place.read_at(self.lens.n_layers)
        ]

    def read(self) -> Float[Tensor, "batch ..."]:
        """Return what was read, on the CPU, once it is known to be whole and finite.

        Raises:
            ModelError: The hook point did not fire, or gave a value that is not finite.
        """
        lens, name = self.lens, self.place.component
        expected = (len(self.mask), *row_shape(lens, self.place))
        if self.rows is None or self.rows.shape != expected:
            came = "nothing" if self.rows is None else f"shape {tuple(self.rows.shape)}"
            raise ModelError(
                f"{lens.name}: component {name!r} ({COMPONENTS[name].hook}) gave {came} where "
                f"{expected} was expected; this architecture does not have it"
            )
        return finite(lens, f"component {name!r}", self.rows.cpu())

    def _read(self, tensor: Tensor, block: int) -> None:
        if self.place.of_last_token:
            texts = torch.arange(len(tensor), device=tensor.device)
            vector = tensor[texts, self.mask.sum(1) - 1].float()
        else:
            pooled = self.mask if self.pooled is None else self.pooled
            weights = pooled / pooled.sum(1, keepdim=True)
            vector = torch.einsum("bp,bp...->b...", weights, tensor.float())
        if self.place.blocks != "each":
            self.rows = vector.clone() if self.rows is None else self.rows.add_(vector)
            return
        if self.rows is None:
            self.rows = vector.new_empty(vector.shape[0], self.lens.n_layers, *vector.shape[1:])
        self.rows[:, block] = vector


def row_shape(lens: LensModel, place: Place) -> tuple[int, ...]:
    """Return the shape of one prompt's row of a place."""
    shapes = {
        "d": (lens.d_model,),
        "kv": (lens.n_kv_heads, lens.d_head),
        "heads": (lens.n_heads, lens.d_head),
    }
    vector = shapes[COMPONENTS[place.component].axes]
    return (lens.n_layers, *vector) if place.blocks == "each" else vector


def finite(lens: LensModel, what: str, tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return the tensor, once it is known to be finite.

    Raises:
        ModelError: It is not, with what to do about it.
    """
    if not torch.isfinite(tensor).all():
        raise ModelError(
            f"{lens.name}: {what} is not finite in {lens.dtype}; take an alpha nearer to 1 where "
            "there is one, or load the model with dtype='float32' or 'bfloat16'"
        )
    return tensor


def record(
    lens: LensModel,
    prompts: Sequence[str],
    places: Sequence[Place],
    only: Sequence[int] | None = None,
    *,
    edit: Edit | None = None,
    max_tokens: int = MAX_TOKENS,
    tokens_per_batch: int | None = None,
) -> Iterator[tuple[list[int], dict[Place, Float[Tensor, "batch ..."]]]]:
    """Run prompts, longest first, yielding the positions of each batch with its vectors.

    The keys and values of the tokens that all prompts begin with are computed once.

    Args:
        lens: The model.
        prompts: Different prompts.
        places: What is read.
        only: Positions of those that are run; None is all.
        edit: A change of the forward pass; None is the plain pass.
        max_tokens: As for `dysem_lab.capture`.
        tokens_per_batch: As for `dysem_lab.capture`.
    """
    only = range(len(prompts)) if only is None else only
    if not len(only):
        return
    edit = edit_of(lens, edit)
    token_ids = edit.tokenize(prompts, max_tokens)
    # A mean, and an edit of every token, need every position; the others what differs.
    all_positions = edit.every_token or not all(place.of_last_token for place in places)
    n_blocks = max(place.n_blocks(lens.n_layers) for place in places)
    n_shared, shared = 0, None
    if lens.shares_prefix and not all_positions:
        n_shared, shared = shared_prefix(lens, token_ids, n_blocks)
    own_ids = [token_ids[index][n_shared:] for index in only]
    for of_batch in plan_batches(list(map(len, own_ids)), batch_budget(lens, tokens_per_batch)):
        batch = [only[index] for index in of_batch]
        ids, mask = pad(lens, [own_ids[index] for index in of_batch])
        these = [prompts[index] for index in batch]
        pooled = edit.pooled(these, mask)
        readers = {place: Reader(place, lens, mask, pooled) for place in places}
        hooks = edit.hooks(these, mask)
        hooks += [hook for reader in readers.values() for hook in reader.hooks()]
        if lens.last_alone and not all_positions:
            keep, spread = _of_last_token(lens, mask, n_blocks - 1)
            hooks = [*spread, *hooks, *keep]  # an edit and a reader see every position
        whole_mask = torch.nn.functional.pad(mask, (n_shared, 0), value=1)
        forward(lens, ids, whole_mask, hooks, shared, n_blocks)
        yield batch, {place: reader.read() for place, reader in readers.items()}


# Products of the last block that runs which one token needs: where their input is cut to it, and
# where what comes of it is spread. Keys and values are of every token.
ALONE = (
    ("attn.q.hook_in", "attn.q.hook_out"),
    ("attn.o.hook_in", "attn.o.hook_out"),
    ("mlp.hook_in", "mlp.hook_out"),
)


def _of_last_token(
    lens: LensModel, mask: Int[Tensor, "batch pos"], block: int
) -> tuple[list[Hook], list[Hook]]:
    """Return hooks by which queries, W_O and FFN of a block run for the last token, not for all.

    Nothing reads the other tokens after the last block that runs. The first hooks keep that token
    of the input, the second spread what comes of it over all positions: a query is turned to its
    position after that, and is right at the one position that is read. An architecture that lacks
    some of these points computes that part for all tokens.
    """
    last = (torch.arange(len(mask), device=mask.device), mask.sum(1) - 1)

    def keep(x: Float[Tensor, "batch pos ..."], hook: object) -> Float[Tensor, "batch 1 ..."]:
        return x[last][:, None]

    def spread(x: Float[Tensor, "batch 1 ..."], hook: object) -> Float[Tensor, "batch pos ..."]:
        return x.expand(-1, mask.shape[1], *x.shape[2:]).clone()  # an edit may write into it

    points = [tuple(f"blocks.{block}.{point}" for point in pair) for pair in ALONE]
    there = [pair for pair in points if all(point in lens.bridge.hook_dict for point in pair)]
    return [(cut, keep) for cut, _ in there], [(out, spread) for _, out in there]


def shared_prefix(
    lens: LensModel, token_ids: list[list[int]], n_blocks: int | None
) -> tuple[int, Cache | None]:
    """Return how many first tokens are computed once for all rows, and their keys and values."""
    n_shared = common_prefix(token_ids)
    if not worth_sharing(n_shared, len(token_ids)):
        return 0, None
    ids, _ = pad(lens, [token_ids[0][:n_shared]])
    return n_shared, keys_and_values(lens, ids, None, n_blocks)


class Activations(NamedTuple):
    """What hook points saw in one pass, at every token.

    Attributes:
        seen: Hook point → its tensor, ``[batch, pos, ...]`` for most (an attention pattern is
            ``[batch, head, query, key]``), in the model's dtype and on its device.
        ids: Token ids of the pass.
        mask: 1 for real tokens, 0 for padding.
    """

    seen: dict[str, Tensor]
    ids: Int[Tensor, "batch pos"]
    mask: Int[Tensor, "batch pos"]


def edit_of(lens: LensModel, edit: Edit | None) -> Edit:
    """Return an edit of a model; None is the plain pass.

    Raises:
        InputError: It is no edit, or one of another model.
    """
    if edit is None:
        return Edit(lens)
    if not isinstance(edit, Edit):
        raise InputError(
            f"edit must be one of dl.ablate, dl.patch or dl.contrast, got {type(edit).__name__}"
        )
    if edit.lens is not lens:
        raise InputError(
            f"the edit is of another model ({edit.lens.name}) than {lens.name}; make it with the "
            "model that it is to change"
        )
    return edit


def activations(
    lens: LensModel,
    prompts: Sequence[str],
    points: Sequence[str],
    *,
    edit: Edit | None = None,
    hooks: Sequence[Hook] = (),
    side: str = "right",
    n_blocks: int | None = None,
    gradients: bool = False,
) -> Activations:
    """Return what hook points see in one pass over a few prompts, at every token.

    Args:
        lens: The model.
        prompts: A few prompts; all are in one batch.
        points: Hook points, such as "blocks.0.hook_out".
        edit: A change of the forward pass; None is the plain pass.
        hooks: (hook point, function) pairs beside it.
        side: Where shorter prompts are padded, "right" or "left"; an edit needs "right".
        n_blocks: Run the first blocks only; None runs them all.
        gradients: As for `forward`.

    Raises:
        ModelError: A hook point that this architecture does not have, or that did not fire.
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Hook:
        # A hook's own name is the canonical one, which may differ from the alias asked for.
        def see(tensor: Tensor, hook: object) -> None:
            seen[name] = tensor if gradients else tensor.detach().clone()

        return name, see

    edit = edit_of(lens, edit)
    ids, mask = pad(lens, edit.tokenize(prompts, MAX_TOKENS), side)
    silent = [name for name in points if name not in lens.bridge.hook_dict]
    if not silent:
        made = [*edit.hooks(prompts, mask), *hooks, *map(keep, points)]
        forward(lens, ids, mask, made, n_blocks=n_blocks, gradients=gradients)
        silent = [name for name in points if name not in seen]
    if silent:
        raise ModelError(f"{lens.name} does not show {', '.join(silent[:3])}: nothing came from it")
    return Activations(seen, ids, mask)


def next_token_logits(
    lens: LensModel, prompts: Sequence[str], edit: Edit | None = None
) -> Float[Tensor, "n n_tokens"]:
    """Return the logits of the token after each prompt, float32 on the CPU.

    Each prompt is a pass of its own, so nothing is padded; only its last position is unembedded.

    Raises:
        ModelError: They are not finite.
    """
    edit = edit_of(lens, edit)
    rows = []
    for prompt in prompts:
        ids, mask = pad(lens, edit.tokenize([prompt], MAX_TOKENS))
        logits = forward(lens, ids, mask, edit.hooks([prompt], mask), logits=True)
        assert logits is not None
        rows.append(finite(lens, "the prediction", logits[0].float()).cpu())
    return torch.stack(rows)


def unembed(
    lens: LensModel, stream: Float[Tensor, "*n d"], *, normed: bool = False
) -> Float[Tensor, "*n n_tokens"]:
    """Return the logits that residual streams would give, float32 on the CPU.

    Args:
        lens: The model.
        stream: Vectors of the residual stream, after any block.
        normed: They are after the final norm already, as the component "final" is.
    """
    flat = stream.reshape(-1, 1, lens.d_model).to(lens.device, lens.dtype)
    with torch.inference_mode(), lens.lock:
        logits = lens.bridge.unembed(flat if normed else lens.bridge.ln_final(flat))
    return logits.float().cpu().reshape(*stream.shape[:-1], -1)


def final_norm(lens: LensModel, stream: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Return residual streams after the model's final norm, float32 on the CPU."""
    with torch.inference_mode(), lens.lock:
        return lens.bridge.ln_final(stream.to(lens.device, lens.dtype)[:, None])[:, 0].float().cpu()


class Norm(NamedTuple):
    """A norm of the model: N(x) = gain ⊙ (x − mean) / scale(x) + bias; an RMSNorm has no mean.

    Attributes:
        gain: Float32 on the CPU.
        bias: Likewise; zero in an RMSNorm.
        centres: Whether the mean over the dimensions is subtracted (LayerNorm).
    """

    gain: Float[Tensor, " d"]
    bias: Float[Tensor, " d"]
    centres: bool


def norm_of(lens: LensModel, name: str) -> Norm:
    """Return a norm of the model, such as "ln_final" or "blocks.3.ln1_post".

    Asked of the norm itself, since architectures store it in different ways (Gemma's gain is 1 plus
    its parameter): by a large vector whose mean is 0, its negative, and one of ones.
    """
    probe = torch.ones(lens.d_model)
    probe[1::2] = -1
    if lens.d_model % 2:
        probe[-1] = -2
        probe[-2] = 1
    probes = 2.0**10 * torch.stack([probe, -probe, torch.ones_like(probe)])
    with torch.inference_mode(), lens.lock:
        norm = lens.bridge.get_submodule(name)
        up, down, ones = norm(probes.to(lens.device, lens.dtype)[:, None])[:, 0].float().cpu()
    gain, bias = (up - down) / 2 / probe * probe.square().mean().sqrt(), (up + down) / 2
    return Norm(gain, bias, bool((ones - bias).norm() < gain.norm() / 2))


def output_matrix(
    lens: LensModel, block: int
) -> tuple[Float[Tensor, "n_heads d_head d"], Float[Tensor, " d"] | None]:
    """Return W_O of a block, a matrix for each head, and its bias b_O where there is one.

    Raises:
        ModelError: This architecture's attention has none that can be told apart by head.
    """
    attention = lens.bridge.blocks[block].attn
    weights = _matrix(lens, block, attention, "W_O")
    if weights is None or weights.shape != (lens.n_heads, lens.d_head, lens.d_model):
        raise ModelError(
            f"{lens.name}: block {block} has no W_O of {lens.n_heads} heads, so its attention "
            "output is not a sum over heads; explain it by block"
        )
    bias = getattr(attention, "b_O", None)
    return weights.detach(), None if bias is None else bias.detach().float().cpu()


def _matrix(lens: LensModel, block: int, module: Any, name: str) -> Tensor | None:
    """Return a matrix of a block's module as the bridge shows it, or None.

    Raises:
        ModelError: It is there as packed integers alone.
    """
    try:
        return getattr(module, name, None)
    except NotImplementedError as error:  # TransformerLens, of quantised weights
        raise ModelError(
            f"{lens.name} computes with {lens.stored_as or 'quantised'} weights, so there is no "
            f"{name} of block {block} to split its output by; explain it by block or dimension, or "
            "load the model without its quantisation"
        ) from error


NEURONS = "blocks.{layer}.mlp.out.hook_in"  # what W_out reads: after the nonlinearity and a gate


def neuron_matrix(
    lens: LensModel, block: int
) -> tuple[Float[Tensor, "d_ff d"], Float[Tensor, " d"] | None]:
    """Return W_out of a block, a row for each neuron, and its bias b_out where there is one.

    Raises:
        ModelError: This architecture's FFN does not show its neurons, as a mixture of experts.
    """
    ffn = lens.bridge.blocks[block].mlp
    weights = _matrix(lens, block, ffn, "W_out")
    shown = NEURONS.format(layer=block) in lens.bridge.hook_dict
    if weights is None or weights.ndim != 2 or weights.shape[1] != lens.d_model or not shown:
        raise ModelError(
            f"{lens.name}: the FFN of block {block} does not show its neurons, or has no one W_out "
            "of them; explain it by 'ffn'"
        )
    bias = getattr(ffn, "b_out", None)
    return weights.detach(), None if bias is None else bias.detach().float().cpu()
