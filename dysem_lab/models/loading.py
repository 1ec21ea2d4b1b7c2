"""Models by name: embedded, from the hub, from a folder or a GGUF file, checked before use."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import xxhash
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging
from transformers.utils.peft_utils import find_adapter_config_file

from dysem_lab import paths
from dysem_lab.digests import file_digest, folder_digest
from dysem_lab.errors import InputError, ModelError
from dysem_lab.hub import cached_snapshot, find_on_hub
from dysem_lab.inputs import one_of
from dysem_lab.models.checks import check_once
from dysem_lab.models.embedded import (
    EMBEDDED,
    MANIFEST,
    converted_folder,
    ensure_embedded,
    ensure_gguf,
    stored_as_of,
)
from dysem_lab.models.lens import LensModel, boot
from dysem_lab.models.names import check_name, local_path, preset_ids, similar_hub_id
from dysem_lab.models.storage import safetensors_storage, whole_number_weights
from dysem_lab.startup import garbage_collection_paused
from dysem_lab.weights import loading, require_whole

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEFAULT_MODEL = "gemma-3-270m"
INSTANT_BYTES = 4 * 2**30  # of weights on this machine, which need no progress bar
REMEDY = (
    "Without a network, give a folder with its weights in place of its name, or a model that comes "
    f"with a package: {', '.join(EMBEDDED)}. Weights must be safetensors, and the architecture one "
    "that transformers knows without code of the model's own"
)


@cache
def presets() -> pd.DataFrame:
    """Return the ten models of the DySem paper with its settings for each (Table 4).

    Columns: ``preset`` (the name that `load_model` takes), ``model``, ``hf_id``, ``setting``,
    ``vector``, ``m`` (Table 4), ``m_in_repo_script`` (of the released script), ``k``,
    ``n_layers``, ``d_model``, ``n_heads``, ``n_kv_heads``, ``d_head``.
    """
    table = pd.read_csv(paths.package_file("presets.csv"))
    table.insert(0, "preset", table["model"].str.lower())
    settings = {"English": "english", "LS": "language-specific"}
    table["setting"] = table.pop("prompt").map(settings)
    return table


def load_model(
    name: str | Path = DEFAULT_MODEL,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> LensModel:
    """Return a checked model on TransformerLens hook points.

    Args:
        name: An embedded model ("gemma-3-270m", "smollm2-135m-instruct"), a preset of the paper
            ("llama2-7b", …; see `presets`), a hub id, a folder with safetensors weights, or a
            ``.gguf`` file (converted once, kept in the user's cache).
        revision: Branch, tag or commit on the hub.
        device: "auto" is CUDA where there is one, else the CPU.
        dtype: "float32", "bfloat16", "float16"; "auto" is bfloat16 on CUDA, else float32.

    Raises:
        InputError: Unknown name or dtype, or a revision for a model that is not on the hub.
        ModelError: The model is not to be found, cannot be loaded whole, has no safetensors
            weights, needs code of its own, is too large, or fails a load-time check (see
            `dysem_lab.models.checks`); or the device is not one of this machine.
    """
    device, dtype = resolve_device(device, dtype)
    check_name(name)
    if revision is not None and (str(name) in EMBEDDED or local_path(name) is not None):
        raise InputError(f"revision={revision!r} is for hub models; {name} is on this machine")
    source = locate(name)
    on_machine = Path(source).is_dir()
    with loading(name, source, f"{similar_hub_id(source)}{REMEDY}"):
        at = {} if on_machine else find_on_hub(source, revision)._asdict()
        before = content_digest(source) if on_machine else ""
        with garbage_collection_paused(), torch.inference_mode(False):
            tokenizer = AutoTokenizer.from_pretrained(source, **at, trust_remote_code=False)
            model, info = whole_model(
                AutoModelForCausalLM,
                source,
                at,
                dtype=DTYPES[dtype],
                attn_implementation="eager",
            )
            require_whole(name, info)
            model = model.eval().to(device)
        folder = source if on_machine else cached_snapshot(source, at["revision"]) or source
        content = content_digest(folder)
        if on_machine and content != before:
            raise ModelError(f"{source} changed while it was read; load it again")
        storage = stored_as(folder)
    with (
        loading(name, source, f"TransformerLens has no bridge for {type(model).__name__}"),
        garbage_collection_paused(),
    ):
        digest = source_digest(name, at.get("revision"))
        lens = boot(model, tokenizer, str(name), digest, content, storage)
    with loading(name, source, "The load-time checks could not be run"):
        check_once(lens)
    return lens


def _is_instant(source: str) -> bool:
    """Whether a model is so small and so near that it is there at once."""
    files = Path(source).glob("*.safetensors")
    return Path(source).is_dir() and sum(file.stat().st_size for file in files) < INSTANT_BYTES


@contextmanager
def _without_bar() -> Iterator[None]:
    """Hide transformers' progress bars until the block of code ends."""
    if not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def whole_model(
    kind: Any, source: str, at: Mapping[str, Any], **options: Any
) -> tuple[Any, dict[str, Any]]:
    """Return a model of transformers, and what its checkpoint lacked or had in excess.

    An adapter's base is loaded first, and must be whole; what is returned is of the adapter then.
    ``at`` is where a source on the hub is, from `dysem_lab.hub.find_on_hub`; options are those of
    ``from_pretrained``, which the kind of model has.

    Raises:
        ModelError: The base of an adapter is not whole, or is an adapter itself.
    """
    base = base_of(source, at)
    where, at_where = source, at
    if base is not None:
        where = locate(base)
        at_where = {} if Path(where).is_dir() else find_on_hub(where)._asdict()
        if base_of(where, at_where) is not None:
            raise ModelError(f"{source} is an adapter of an adapter, {base}; merge that one first")
    with _without_bar() if _is_instant(where) else nullcontext():
        model, info = kind.from_pretrained(
            where,
            **at_where,
            **options,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `require_whole` names them
        )
    folder = (
        Path(where) if Path(where).is_dir() else cached_snapshot(where, at_where.get("revision"))
    )
    if folder is not None and getattr(model.config, "quantization_config", None) is None:
        parameters = {name for name, _ in model.named_parameters()}
        if odd := whole_number_weights(folder, parameters):
            raise ModelError(
                f"{where} has {', '.join(odd[:3])} as whole numbers, and its configuration "
                "declares no quantisation that says what they stand for; give a checkpoint in "
                "float32, bfloat16 or float16, or one that declares it"
            )
    if base is not None:
        require_whole(where, {**info, "unexpected_keys": own_keys(model, info["unexpected_keys"])})
        info = model.load_adapter(
            source, adapter_kwargs=dict(at), ignore_mismatched_sizes=True
        ).to_dict()
        model.eval()
    return model, info


def own_keys(model: Any, keys: Iterable[str]) -> set[str]:
    """Return those keys of a checkpoint that are of a model's own modules, and not of a head."""
    children = {name for name, _ in model.named_children()}
    prefix = f"{model.base_model_prefix}."
    return {key for key in keys if key.removeprefix(prefix).split(".")[0] in children}


def base_of(source: str, at: Mapping[str, Any]) -> str | None:
    """Return the model that an adapter was trained on; None for a whole model.

    Raises:
        ModelError: An adapter that names none.
    """
    settings = find_adapter_config_file(source, **at)
    if settings is None:
        return None
    content = json.loads(Path(settings).read_text(encoding="utf-8"))
    base = content.get("base_model_name_or_path") if isinstance(content, dict) else None
    if not isinstance(base, str) or not base:
        raise ModelError(f"{settings} names no base; write it there as base_model_name_or_path")
    return base


def resolve_device(device: str = "auto", dtype: str = "auto") -> tuple[str, str]:
    """Return the device and the data type that `load_model` will use.

    Raises:
        InputError: Unknown dtype.
        ModelError: A device that this machine, or this build of torch, does not have.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
        if torch.empty(0, device=place).is_meta:
            raise ValueError("meta tensors hold no numbers")
    except Exception as error:  # of several kinds, by device and build
        raise ModelError(
            f"device {device!r} cannot be used here ({str(error).splitlines()[0]:.150}); give "
            "'auto', 'cpu' or, with a GPU and a build of torch for it, 'cuda'"
        ) from error
    device = str(place)
    if one_of(dtype, ("auto", *DTYPES), "dtype") == "auto":
        dtype = "bfloat16" if device.startswith("cuda") else "float32"
    return device, dtype


def locate(name: str | Path) -> str:
    """Return what transformers can load: a folder on this machine or a hub id.

    An embedded model or a GGUF file is converted first, if it was not yet.

    Raises:
        InputError: As for `dysem_lab.models.names.check_name`.
        ModelError: As there, or as for `dysem_lab.models.embedded.ensure_embedded`.
    """
    check_name(name)
    if str(name) in EMBEDDED:
        return str(ensure_embedded(str(name)))
    path = local_path(name)
    if path is not None:
        return str(ensure_gguf(path) if path.is_file() else path)
    return preset_ids().get(str(name), str(name))


def require_found(name: str | Path) -> None:
    """Refuse a name of the hub that neither the hub nor its cache has; no weights are fetched.

    Raises:
        InputError: As for `dysem_lab.models.names.check_name`.
        ModelError: As there, or the model is not to be found.
    """
    check_name(name)
    if str(name) in EMBEDDED or local_path(name) is not None:
        return
    source = preset_ids().get(str(name), str(name))
    with loading(name, source, f"{similar_hub_id(source)}{REMEDY}"):
        find_on_hub(source)


def size_of(name: str | Path) -> tuple[int, int] | None:
    """Return (L, d) of a model without loading or converting it; None where that is not known."""
    if str(name) in EMBEDDED:
        model = EMBEDDED[str(name)]
        return model.n_layers, model.d_model
    try:
        check_name(name)
        path = local_path(name)
        row = presets().query("preset == @name")
        if path is None and len(row):
            return int(row["n_layers"].iloc[0]), int(row["d_model"].iloc[0])
        if path is not None and path.is_file():
            path = converted_folder(file_digest(path, "sha256"))
            if not (path / MANIFEST).is_file():
                return None
        at = {} if path is not None else find_on_hub(str(name))._asdict()
        source = str(name) if path is None else str(path)
        config = AutoConfig.from_pretrained(source, **at, trust_remote_code=False)
        text = config.get_text_config()
        return text.num_hidden_layers, text.hidden_size
    except Exception:  # whatever a damaged configuration makes of it: it is not known
        return None


def stored_as(source: str | Path, revision: str | None = None) -> str:
    """Return the data type or quantisation in which a loaded model has its weights on disk.

    Of an adapter it is that of its base. "" is not known: what was converted from GGUF before that
    was written down. Of a hub id, the files must be in the cache.
    """
    folder = Path(source) if Path(source).is_dir() else cached_snapshot(str(source), revision)
    if folder is None:
        return ""
    if (folder / MANIFEST).is_file():
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return stored_as_of(manifest["source_sha256"]) or manifest.get("stored_as", "")
    base = base_of(str(folder), {})
    return safetensors_storage(folder) if base is None else stored_as(locate(base))


def source_digest(name: str | Path, revision: str | None = None) -> str:
    """Return what identifies a model, without loading it: equal only if all it depends on is.

    The sha256 of an embedded or GGUF source and a digest of what it was converted to; for a folder,
    a digest of the contents of its files, weights, configuration and tokenizer, and of the base of
    an adapter; for the hub that of the cached files, the id and the commit. What is not converted
    or not in the cache yet has the sha256, or the id and the revision, alone. Arguments as for
    `load_model`.

    Raises:
        ModelError: A file cannot be read.
    """
    check_name(name)
    with loading(name, remedy="Check that its files can be read"):
        path = local_path(name)
        if str(name) in EMBEDDED or (path is not None and path.is_file()):
            sha256 = EMBEDDED[str(name)].sha256 if path is None else file_digest(path, "sha256")
            folder = converted_folder(sha256)
            there = (folder / MANIFEST).is_file()
            return f"{sha256} {folder_digest(folder)}" if there else sha256
        if path is not None:
            return content_digest(str(path))
        hub_id = preset_ids().get(str(name), str(name))
        snapshot = cached_snapshot(hub_id, revision)
        if snapshot is None:
            return f"{hub_id}@{revision or 'main'}"
        return f"{content_digest(str(snapshot))} {hub_id}@{snapshot.name}"


def content_digest(folder: str | Path) -> str:
    """Return a digest of the files of a model's folder, and of those of an adapter's base.

    Raises:
        OSError: A file cannot be read.
        ModelError: An adapter that comes back to itself.
    """
    digests, seen = [], set()
    while True:
        if (place := Path(folder).resolve()) in seen:
            raise ModelError(f"{folder} is an adapter whose base comes back to itself")
        seen.add(place)
        digests.append(folder_digest(folder))
        base = base_of(str(folder), {})
        if base is None:
            break
        found = locate(base)
        snapshot = Path(found) if Path(found).is_dir() else cached_snapshot(found)
        if snapshot is None:
            digests.append(f"{found} that is not here yet")
            break
        folder = snapshot
    return digests[0] if len(digests) == 1 else xxhash.xxh3_128_hexdigest(repr(digests).encode())
