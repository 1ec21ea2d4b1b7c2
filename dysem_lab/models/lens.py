"""A loaded model with its hook points. The only module that imports TransformerLens."""

import threading
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dysem_lab.display import card
from dysem_lab.errors import InputError
from dysem_lab.models.facts import ModelFacts, shown
from dysem_lab.models.identity import Identity
from dysem_lab.models.storage import described

IN_MEMORY = "in memory"


@dataclass(eq=False)
class LensModel:
    """A causal language model on TransformerLens hook points, with its own tokenizer.

    One lock guards every forward pass: two threads in one bridge corrupt its caches silently, and
    widget callbacks run on a thread of their own.

    Attributes:
        bridge: The ``transformer_lens`` ``TransformerBridge`` (raw weights: no folding, no
            centering).
        tokenizer: The model's own tokenizer, left-padding.
        name: The name that it was loaded by.
        source: What identifies the files that the model came from (see
            `dysem_lab.models.loading.source_digest`); "in memory" where there are none.
        shares_prefix: Whether `dysem_lab.capture` may compute a common beginning of the prompts
            once; the load-time check turns it off for architectures where that is not exact.
        last_alone: Whether it may compute for the last token alone what nothing else reads in the
            last block; likewise.
        stored_as: Data type or quantisation of the weights where they came from; None is as they
            are in memory, "" is not known.
        lock: Held during every forward pass.
        identity: What the model was when it was loaded; None takes what it is now.
    """

    bridge: Any  # a third-party class whose attributes are made at run time
    tokenizer: PreTrainedTokenizerBase
    name: str
    source: str = IN_MEMORY
    shares_prefix: bool = True
    last_alone: bool = True
    stored_as: str | None = None
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    identity: Identity = None  # type: ignore[assignment]  # never None once it is made

    def __post_init__(self) -> None:
        """Note what the model is now, so that later changes are seen."""
        if self.identity is None:
            self.identity = Identity(self._networks, self.tokenizer)

    @property
    def _networks(self) -> list[nn.Module]:
        """What a forward pass goes through: the model of transformers, and the hook points."""
        return [self.bridge.original_model, self.bridge]

    @property
    def n_layers(self) -> int:
        """Number of blocks, L."""
        return self.bridge.cfg.n_layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream, d."""
        return self.bridge.cfg.d_model

    @property
    def n_heads(self) -> int:
        """Number of query heads."""
        return self.bridge.cfg.n_heads

    @property
    def n_kv_heads(self) -> int:
        """Number of key-value heads (fewer than `n_heads` with grouped-query attention)."""
        return self.bridge.cfg.n_key_value_heads or self.n_heads

    @property
    def d_head(self) -> int:
        """Width of one head; ``n_heads * d_head`` need not be `d_model`."""
        return self.bridge.cfg.d_head

    @property
    def post_norms(self) -> bool:
        """Whether a norm follows attention and FFN before they are added (Gemma 2 and 3)."""
        return "blocks.0.ln1_post.hook_out" in self.bridge.hook_dict

    @property
    def n_context(self) -> int:
        """Longest sequence that the model has positions for, in tokens."""
        return self.bridge.cfg.n_ctx

    @property
    def n_embeddings(self) -> int:
        """Number of tokens that have an embedding; a tokenizer may know more."""
        return embedded_tokens(self.bridge.original_model)

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights in memory, which is that of the computation."""
        return next(self.bridge.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.bridge.parameters()).device

    @property
    def weights(self) -> str:
        """How the weights are stored, and in which data type they are computed with."""
        dtype = str(self.dtype).removeprefix("torch.")
        return described(dtype if self.stored_as is None else self.stored_as, dtype)

    @property
    def label(self) -> str:
        """The name with what is said of the weights."""
        return f"{shown(self.name)} ({self.weights})"

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits of all that a forward pass depends on.

        Of a model that was loaded from files, their contents (weights, configuration, tokenizer);
        of one that was built in memory, all of its tensors, its configuration and its tokenizer. A
        change in memory since then gives another fingerprint; see `dysem_lab.models.identity` for
        what stays unseen. The first time costs seconds per gigabyte, afterwards it costs
        milliseconds.
        """
        return self.identity.digest(self._networks, self.tokenizer)[0]

    @property
    def facts(self) -> ModelFacts:
        """What analyses and figures say of the model.

        The source of a model that was built or changed in memory is its own, so that no store takes
        it for the one of the files.
        """
        fingerprint, changed = self.identity.digest(self._networks, self.tokenizer)
        source = f"{self.source} {fingerprint}" if self.source == IN_MEMORY else self.source
        if changed:
            source = f"{self.source} changed in memory {fingerprint}"
        dtype, device = str(self.dtype).removeprefix("torch."), str(self.device)
        return ModelFacts(
            *(self.name, source, fingerprint, dtype, device),
            *(self.n_layers, self.d_model, self.weights),
        )

    def check_own_pass(self) -> None:
        """Raise an error unless a forward pass is the model's own, so that a store may keep it.

        Raises:
            ModelError: As `dysem_lab.models.identity.Identity.require_own_pass`.
        """
        remedy = "lens.bridge.reset_hooks(including_permanent=True), lens.bridge.eval()"
        with self.lock:  # our own hooks are on while a pass holds it
            self.identity.require_own_pass(self.name, self._networks, remedy)

    def __repr__(self) -> str:
        return (
            f"LensModel({self.name!r}, L={self.n_layers}, d={self.d_model}, "
            f"heads={self.n_heads}/{self.n_kv_heads}x{self.d_head}, "
            f"{self.weights} on {self.device})"
        )

    def _repr_html_(self) -> str:
        grouped = (
            "" if self.n_kv_heads == self.n_heads else f", {self.n_kv_heads} of keys and values"
        )
        return card(
            f"LensModel {self.name}",
            {
                "blocks (L)": self.n_layers,
                "width of the residual stream (d)": self.d_model,
                "heads": f"{self.n_heads}{grouped}, of width {self.d_head}",
                "weights": f"{self.weights} on {self.device}",
                "longest input": f"{self.n_context:,} tokens",
                "norm after attention and FFN": self.post_norms,
            },
        )


def embedded_tokens(model: Any) -> int:
    """Return the number of tokens that have an embedding in a model of transformers."""
    return model.get_input_embeddings().weight.shape[0]


def require_model(lens: Any) -> LensModel:
    """Return the model; raise `InputError` where it is something else, such as the name of one."""
    if not hasattr(lens, "d_model"):
        raise InputError(
            f"lens must be a model of load_model, got {lens!r:.80}; use lens = load_model(name)"
        )
    return lens


def boot(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    source: str = IN_MEMORY,
    content: str | None = None,
    stored_as: str | None = None,
) -> LensModel:
    """Return the model on TransformerLens hook points.

    The transformers model is taken over: the bridge replaces its attention by the hooked, eager
    one in place, so load a second copy where an untouched reference is needed.

    Args:
        model: A causal language model in evaluation mode, on its device and in its dtype.
        tokenizer: Its tokenizer; set to pad on the left, with the end token where it has no pad, or
            one without an embedding.
        name: What to call it.
        source: What identifies the files that the model came from, if any.
        content: Digest of the contents of these files; None has the tensors themselves hashed.
        stored_as: As in `LensModel`.
    """
    # A heavy import (seconds), wanted only once a model is loaded.
    from transformer_lens.model_bridge import TransformerBridge

    tokenizer.padding_side = "left"
    n_embeddings = embedded_tokens(model)
    if tokenizer.pad_token is None or tokenizer.pad_token_id >= n_embeddings:
        # Nothing sees a pad, but it must have an embedding.
        ends = tokenizer.eos_token is not None and tokenizer.eos_token_id < n_embeddings
        tokenizer.pad_token = tokenizer.eos_token if ends else tokenizer.convert_ids_to_tokens(0)
    if tokenizer.bos_token_id in tokenizer("")["input_ids"]:
        # True here, and TransformerLens would load a second tokenizer (seconds) to make it so.
        tokenizer.init_kwargs["add_bos_token"] = True
    if not model.config.architectures:  # a model built in memory
        model.config.architectures = [type(model).__name__]
    bridge = TransformerBridge.boot_transformers(
        model.name_or_path or name,
        hf_model=model,
        tokenizer=tokenizer,
        dtype=model.dtype,
        device=str(model.device),
    )
    tokenizer.padding_side = "left"  # which TransformerLens may have changed
    bridge.eval()
    networks = [bridge.original_model, bridge]
    identity = Identity(networks, tokenizer, content, is_ours=content is not None)
    return LensModel(bridge, tokenizer, name, source, identity=identity, stored_as=stored_as)
