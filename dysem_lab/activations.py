"""The last token's internal vectors, read from hook points in length-sorted batches."""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformers import Cache

from dysem_lab.errors import InputError, ModelError, choices
from dysem_lab.lens import LensModel
from dysem_lab.prompts import Prompt

MAX_TOKENS = 512  # per prompt: DySem's released encoder truncates there
# Padded tokens of one forward pass. On a CPU small batches stay in its caches (measured: 1,024 is
# 20 % faster than 4,096 on two cores); a GPU wants to be full.
TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 16384}


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
    "resid": Component("blocks.{layer}.hook_out", "residual stream h^l after the block"),
    "value": Component("blocks.{layer}.attn.hook_v", "value vectors, un-repeated GQA groups"),
    "z": Component("blocks.{layer}.attn.hook_z", "contextualised value vectors before W_O"),
    "final": Component("ln_final.hook_out", "residual stream after the final norm"),
    "mean": Component("ln_final.hook_out", "mean over the real tokens of `final`"),
}


@dataclass
class _Reader:
    """Reads one component of one batch while the model runs.

    ``rows`` is float32 ``[batch, ...]`` for the sum and ``[batch, L, ...]`` for each layer, so the
    memory for a sum does not depend on the number of layers.
    """

    component: str
    layers: str
    n_layers: int
    mask: Int[Tensor, "batch pos"]
    rows: Tensor | None = None

    def hooks(self) -> Iterator[tuple[str, Callable[..., None]]]:
        """Yield (hook point, hook function) pairs."""
        name = COMPONENTS[self.component].hook
        if "{layer}" not in name:
            yield name, lambda tensor, hook: self._read(tensor, 0, 1)
            return
        # The residual stream is cumulative already: its sum over blocks is its last value, h^L.
        first = self.n_layers - 1 if (self.component, self.layers) == ("resid", "sum") else 0
        for layer in range(first, self.n_layers):
            yield (
                name.format(layer=layer),
                lambda tensor, hook, layer=layer: self._read(tensor, layer, self.n_layers),
            )

    def _read(self, tensor: Tensor, layer: int, n_layers: int) -> None:
        if self.component == "mean":
            weights = self.mask[..., None] / self.mask.sum(1)[:, None, None]
            vector = (tensor.float() * weights).sum(1)
        else:
            texts = torch.arange(len(tensor), device=tensor.device)
            vector = tensor[texts, self.mask.sum(1) - 1].float()
        if n_layers == 1 or self.layers == "sum":
            self.rows = vector.clone() if self.rows is None else self.rows.add_(vector)
        else:
            if self.rows is None:
                self.rows = vector.new_empty(vector.shape[0], n_layers, *vector.shape[1:])
            self.rows[:, layer] = vector


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
    """Return the token ids of each prompt, as the model's own tokenizer makes them.

    A prompt over the limit has its *text* shortened, never its template, and is tokenised again; a
    plain string (not made by `dysem_lab.wrap`) counts as text from end to end.

    Raises:
        InputError: The template alone is over the limit.

    Warns:
        UserWarning: How many texts were shortened.
    """
    limit = min(max_tokens, lens.n_context)
    encoded = lens.tokenizer(list(prompts))["input_ids"]
    over = [index for index, ids in enumerate(encoded) if len(ids) > limit]
    for index in over:
        encoded[index] = _shorten(lens, prompts[index], limit)
    if over:
        warnings.warn(
            f"{len(over)} of {len(prompts)} texts were shortened to fit {limit} tokens "
            f"(the first is prompt {over[0]}); the template around them is whole",
            stacklevel=3,
        )
    return encoded


def _shorten(lens: LensModel, prompt: str, limit: int) -> list[int]:
    """Return the ids of the prompt with the longest beginning of its text that fits."""
    if not isinstance(prompt, Prompt):
        prompt = Prompt.build("", prompt, "")
    fits, too_long = 0, prompt.stop - prompt.start
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if len(lens.tokenizer(prompt.shortened(middle))["input_ids"]) <= limit:
            fits = middle
        else:
            too_long = middle
    if fits == 0:
        raise InputError(f"a template longer than {limit} tokens leaves no room for text: {prompt}")
    return lens.tokenizer(prompt.shortened(fits))["input_ids"]


def pad(
    lens: LensModel, token_ids: Sequence[Sequence[int]], side: str = "right"
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Return padded token ids and their attention mask (1 for real tokens), on the model's device.

    Padding on the right leaves every real token at its own position, so it is exact for absolute
    positions, sliding windows and a cached prefix alike: causal attention never sees the pads.
    """
    width, pad_id = max(map(len, token_ids)), lens.tokenizer.pad_token_id

    def padded(row: Sequence[int], fill: int) -> list[int]:
        pads = [fill] * (width - len(row))
        return [*row, *pads] if side == "right" else [*pads, *row]

    ids = torch.tensor([padded(row, pad_id) for row in token_ids])
    mask = torch.tensor([padded([1] * len(row), 0) for row in token_ids])
    return ids.to(lens.device), mask.to(lens.device)


def run(
    lens: LensModel,
    ids: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch all_pos"],
    fwd_hooks: Sequence[tuple[str, Callable[..., object]]],
    prefix: Cache | None = None,
) -> None:
    """Run one batch through all blocks with the given hooks.

    Only the last position is unembedded. The hooks are removed whatever happens, and the model's
    lock is held.

    Args:
        lens: The model.
        ids: Token ids after the prefix.
        mask: Attention mask of prefix and ids together.
        fwd_hooks: (hook point, hook function) pairs.
        prefix: Keys and values of tokens that every row begins with; not changed.
    """
    cache: Any = copy.deepcopy(prefix)
    if cache is not None:
        cache.batch_repeat_interleave(len(ids))
    with torch.inference_mode(), lens.lock, lens.bridge.hooks(fwd_hooks=list(fwd_hooks)):
        lens.bridge(
            ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=1,
        )


def shared_prefix(lens: LensModel, token_ids: Sequence[int]) -> Cache:
    """Return the keys and values of the tokens that a set of prompts begins with."""
    ids, mask = pad(lens, [token_ids])
    with torch.inference_mode(), lens.lock:
        _, cache = lens.bridge(
            ids,
            attention_mask=mask,
            return_type="logits_and_cache",
            use_cache=True,
            logits_to_keep=1,
        )
    return cache


def _common_prefix(token_ids: list[list[int]]) -> int:
    """Return how many first tokens all rows share, leaving each row at least one of its own."""
    if not token_ids:
        return 0
    first, last = min(token_ids), max(token_ids)
    longest = min(map(len, token_ids)) - 1
    return next((i for i in range(longest) if first[i] != last[i]), max(longest, 0))


def capture(
    lens: LensModel,
    prompts: Sequence[str],
    components: str | Sequence[str] = ("attn", "ffn", "resid"),
    layers: str = "sum",
    *,
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
        components: Names of `COMPONENTS`: attn, attn_raw, ffn, resid, value, z, final, mean.
        layers: "sum" adds over the blocks: A^L (attn), F^L (ffn), and h^L for resid, which is
            cumulative by itself. "each" keeps every block: a^l, f^l, h^l.
        max_tokens: A longer prompt has its text shortened, with a warning that counts.
        tokens_per_batch: Padded tokens of one forward pass; None fits the device.
        progress: Show a progress bar when there is more than one batch.
        description: Its label.

    Returns:
        Component → float32 tensor on the CPU: ``[n, d]`` for "sum" and for final and mean;
        ``[n, L, d]`` for "each". For value the last axes are ``[n_kv, d_head]``, for z
        ``[n_heads, d_head]``.

    Raises:
        InputError: Unknown component or layers, or an empty prompt.
        ModelError: A hook point did not fire, or gave a value that is not finite.

    Source: DySem Section 3.1, Eqs. 3–6 (component sums); Section 3.2 (last token).
    """
    names = [components] if isinstance(components, str) else list(components)
    for name in names:
        if name not in COMPONENTS:
            raise choices("component", name, COMPONENTS)
    if layers not in ("sum", "each"):
        raise choices("layers", layers, ("sum", "each"))
    if isinstance(prompts, str):
        raise InputError(f"prompts must be a list of strings; pass [{prompts[:40]!r}]")
    unique = list(dict.fromkeys(prompts))
    if not all(isinstance(prompt, str) and prompt.strip() for prompt in unique):
        index = next(i for i, p in enumerate(prompts) if not isinstance(p, str) or not p.strip())
        raise InputError(f"prompt {index} is empty; wrap a text with words in it")

    stored = {name: torch.empty(len(unique), *_row_shape(lens, name, layers)) for name in names}
    token_ids = tokenize(lens, unique, max_tokens) if unique else []
    # The mean needs every position; the others need what differs between the prompts.
    share = lens.shares_prefix and "mean" not in names and len(unique) > 1
    n_shared = _common_prefix(token_ids) if share else 0
    prefix = shared_prefix(lens, token_ids[0][:n_shared]) if n_shared else None
    own_ids = [ids[n_shared:] for ids in token_ids]
    budget = tokens_per_batch or TOKENS_PER_BATCH.get(lens.device.type, TOKENS_PER_BATCH["cpu"])
    batches = plan_batches([len(ids) for ids in own_ids], budget)
    hidden = not progress or len(batches) < 2
    with tqdm(total=len(unique), desc=description, unit="text", disable=hidden) as bar:
        for batch in batches:
            ids, mask = pad(lens, [own_ids[index] for index in batch])
            readers = {name: _Reader(name, layers, lens.n_layers, mask) for name in names}
            hooks = [hook for reader in readers.values() for hook in reader.hooks()]
            whole_mask = torch.nn.functional.pad(mask, (n_shared, 0), value=1)
            run(lens, ids, whole_mask, hooks, prefix)
            for name, reader in readers.items():
                stored[name][batch] = _checked(lens, reader, len(batch))
            bar.update(len(batch))
    position = {prompt: row for row, prompt in enumerate(unique)}
    order = torch.tensor([position[prompt] for prompt in prompts], dtype=torch.long)
    return {name: rows[order] for name, rows in stored.items()}


def _row_shape(lens: LensModel, component: str, layers: str) -> tuple[int, ...]:
    """Return the shape of one prompt's row of a component."""
    per_layer = {"value": (lens.n_kv_heads, lens.d_head), "z": (lens.n_heads, lens.d_head)}
    vector = per_layer.get(component, (lens.d_model,))
    stacked = layers == "each" and "{layer}" in COMPONENTS[component].hook
    return (lens.n_layers, *vector) if stacked else vector


def _checked(lens: LensModel, reader: _Reader, n_texts: int) -> Float[Tensor, "batch ..."]:
    """Return what a reader read, on the CPU, once it is known to be whole and finite."""
    name = reader.component
    expected = (n_texts, *_row_shape(lens, name, reader.layers))
    if reader.rows is None or reader.rows.shape != expected:
        came = "nothing" if reader.rows is None else f"shape {tuple(reader.rows.shape)}"
        raise ModelError(
            f"{lens.name}: component {name!r} ({COMPONENTS[name].hook}) gave {came} where "
            f"{expected} was expected; this architecture does not have it"
        )
    if not torch.isfinite(reader.rows).all():
        raise ModelError(
            f"{lens.name}: component {name!r} is not finite in {lens.dtype}; "
            "load the model with dtype='float32' or 'bfloat16'"
        )
    return reader.rows.cpu()
