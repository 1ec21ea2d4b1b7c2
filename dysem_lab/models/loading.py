"""Models by name: embedded, from the hub, from a folder or a GGUF file, checked before use."""

import hashlib
import json
from functools import cache
from pathlib import Path

import pandas as pd
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from dysem_lab import paths
from dysem_lab.errors import InputError, ModelError, choices
from dysem_lab.models.checks import check_once
from dysem_lab.models.embedded import (
    EMBEDDED,
    MANIFEST,
    converted_folder,
    ensure_embedded,
    ensure_gguf,
    file_sha256,
)
from dysem_lab.models.lens import LensModel, boot
from dysem_lab.startup import garbage_collection_paused

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEFAULT_MODEL = "gemma-3-270m"


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
        InputError: Unknown dtype, or a revision for a model that is not on the hub.
        ModelError: The model is not to be found, has no safetensors weights, needs code of its own,
            or fails a load-time check (see `dysem_lab.models.checks`).
    """
    device, dtype = resolve_device(device, dtype)
    source = locate(name)
    if revision is not None and Path(source).exists():
        raise InputError(f"revision={revision!r} is for hub models; {name} is on this machine")
    try:
        with garbage_collection_paused():
            tokenizer = AutoTokenizer.from_pretrained(
                source, revision=revision or "main", trust_remote_code=False
            )
            model = AutoModelForCausalLM.from_pretrained(
                source,
                revision=revision or "main",
                dtype=DTYPES[dtype],
                attn_implementation="eager",
                use_safetensors=True,
                trust_remote_code=False,
            )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(
            f"cannot load {str(name)!r}{f' ({source})' if source != str(name) else ''}: {error}\n"
            "Without a network, give a folder with its weights in place of its name, or a model "
            f"that comes with a package: {', '.join(EMBEDDED)}. Weights must be safetensors, and "
            "the architecture one that transformers knows without code of the model's own"
        ) from error
    try:
        with garbage_collection_paused():
            digest = source_digest(name, revision)
            lens = boot(model.eval().to(device), tokenizer, str(name), digest)
    except (ValueError, KeyError, AttributeError, NotImplementedError) as error:
        raise ModelError(
            f"{name}: TransformerLens has no bridge for {type(model).__name__}: {str(error)[:300]}"
        ) from error
    check_once(lens)
    return lens


def resolve_device(device: str = "auto", dtype: str = "auto") -> tuple[str, str]:
    """Return the device and the data type that `load_model` will use.

    Raises:
        InputError: Unknown dtype.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = "bfloat16" if device.startswith("cuda") else "float32"
    if dtype not in DTYPES:
        raise choices("dtype", dtype, ("auto", *DTYPES))
    return device, dtype


def locate(name: str | Path) -> str:
    """Return what transformers can load: a folder on this machine or a hub id.

    An embedded model or a GGUF file is converted first, if it was not yet.
    """
    if str(name) in EMBEDDED:
        return str(ensure_embedded(str(name)))
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"no file {path}")
        return str(ensure_gguf(path))
    if path.is_dir():
        return str(path)
    if str(name).startswith((".", "/", "~")):
        raise ModelError(f"no folder {path}; give a folder with config.json and safetensors")
    preset = presets().query("preset == @name")
    if len(preset):
        return preset["hf_id"].iloc[0]
    if "/" not in str(name):
        raise choices("model", str(name), (*EMBEDDED, *presets()["preset"].unique(), "a hub id"))
    return str(name)


def size_of(name: str | Path) -> tuple[int, int] | None:
    """Return (L, d) of a model without loading or converting it; None where that is not known."""
    table = presets()
    row = table[table["preset"] == str(name)]
    if len(row):
        return int(row["n_layers"].iloc[0]), int(row["d_model"].iloc[0])
    if str(name) in EMBEDDED:
        model = EMBEDDED[str(name)]
        return model.n_layers, model.d_model
    path = Path(name).expanduser()
    if path.is_file():
        path = converted_folder(source_digest(name))
        if not (path / MANIFEST).is_file():
            return None
    try:
        source = str(path) if path.is_dir() else str(name)
        config = AutoConfig.from_pretrained(source).get_text_config()
    except (OSError, ValueError, KeyError):
        return None
    return config.num_hidden_layers, config.hidden_size


def source_digest(name: str | Path, revision: str | None = None) -> str:
    """Return what identifies a model's weights without loading them.

    The sha256 of an embedded or GGUF source; for a folder, a hash of its configuration and of the
    names, sizes and times of its files; for the hub, the id and the commit where it is known.
    """
    if str(name) in EMBEDDED:
        return EMBEDDED[str(name)].sha256
    path = Path(name).expanduser()
    if path.is_file():
        return file_sha256(path)
    if path.is_dir():
        if (path / MANIFEST).is_file():
            return json.loads((path / MANIFEST).read_text(encoding="utf-8"))["source_sha256"]
        digest = hashlib.sha256()
        for file in sorted(path.iterdir()):
            stat = file.stat()
            digest.update(f"{file.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()
    from huggingface_hub import try_to_load_from_cache

    hub_id = locate(name)
    config = try_to_load_from_cache(hub_id, "config.json", revision=revision or "main")
    commit = Path(config).parent.name if isinstance(config, str) else revision or "main"
    return f"{hub_id}@{commit}"
