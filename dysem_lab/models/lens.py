"""A loaded model with its hook points. The only module that imports TransformerLens."""

import hashlib
import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dysem_lab.display import card
from dysem_lab.models.store import ModelFacts


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
        source: Digest of where the weights came from (sha256 of the file, commit of the hub).
        shares_prefix: Whether `dysem_lab.capture` may compute a common beginning of the prompts
            once; the load-time check turns it off for architectures where that is not exact.
        lock: Held during every forward pass.
    """

    bridge: Any  # a third-party class whose attributes are made at run time
    tokenizer: PreTrainedTokenizerBase
    name: str
    source: str = "in memory"
    shares_prefix: bool = True
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

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
    def dtype(self) -> torch.dtype:
        """Data type of the weights."""
        return next(self.bridge.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.bridge.parameters()).device

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that tell these weights and this tokenizer from others.

        Hashes the name, shape and 1,024 evenly spaced elements of each parameter and the
        tokenizer's vocabulary, so it costs milliseconds for any size and needs no files.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(self.bridge.original_model.named_parameters()):
            flat = tensor.detach().reshape(-1)
            sample = flat[:: max(1, flat.numel() // 1024)].float().cpu().numpy()
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(sample.tobytes())
        vocabulary = self.tokenizer.get_vocab()
        pairs = [f"({token!r}, {vocabulary[token]})" for token in sorted(vocabulary)]
        digest.update(f"[{', '.join(pairs)}]".encode())
        return digest.hexdigest()[:16]

    @property
    def facts(self) -> ModelFacts:
        """What analyses and figures say of the model."""
        dtype, device = str(self.dtype).removeprefix("torch."), str(self.device)
        return ModelFacts(
            self.name, self.source, self.fingerprint, dtype, device, self.n_layers, self.d_model
        )

    def __repr__(self) -> str:
        return (
            f"LensModel({self.name!r}, L={self.n_layers}, d={self.d_model}, "
            f"heads={self.n_heads}/{self.n_kv_heads}x{self.d_head}, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device})"
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
                "weights": f"{str(self.dtype).removeprefix('torch.')} on {self.device}",
                "longest input": f"{self.n_context:,} tokens",
                "norm after attention and FFN": self.post_norms,
            },
        )


def boot(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, source: str = "in memory"
) -> LensModel:
    """Return the model on TransformerLens hook points.

    The transformers model is taken over: the bridge replaces its attention by the hooked, eager
    one in place, so load a second copy where an untouched reference is needed.

    Args:
        model: A causal language model in evaluation mode, on its device and in its dtype.
        tokenizer: Its tokenizer; set to pad on the left, with the end token where it has no pad.
        name: What to call it.
        source: Digest of the weights' source.
    """
    # A heavy import (seconds), wanted only once a model is loaded.
    from transformer_lens.model_bridge import TransformerBridge

    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
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
    return LensModel(bridge.eval(), tokenizer, name, source)
