"""Names of models, checked before torch and transformers are imported, which takes seconds."""

import csv
from functools import cache
from pathlib import Path

from dysem_lab import paths
from dysem_lab.errors import InputError, ModelError, choices, did_you_mean
from dysem_lab.models.embedded import EMBEDDED


@cache
def preset_ids() -> dict[str, str]:
    """Return preset → hub id of the ten models of the DySem paper."""
    with paths.package_file("presets.csv").open(encoding="utf-8", newline="") as file:
        return {row["model"].lower(): row["hf_id"] for row in csv.DictReader(file)}


def local_path(name: str | Path) -> Path | None:
    """Return the folder or the file on this machine that a name stands for; None for others.

    An embedded model's name stands for none, whatever the working folder has.
    """
    if str(name) in EMBEDDED or not str(name).strip():
        return None
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long, of no user, with a NUL
        return None


def check_name(name: str | Path) -> None:
    """Raise an error unless a name can be one of a model; nothing is loaded, and no hub is asked.

    Raises:
        InputError: No name at all, or one that is neither known nor of the form of the hub.
        ModelError: A folder or a file that is not there, or no folder of a model.
    """
    if not isinstance(name, str | Path) or not str(name).strip():
        raise InputError(f"a model is named by a string or a path, got {name!r:.100}")
    text, path = str(name), local_path(name)
    if text in EMBEDDED or text in preset_ids():
        return
    is_gguf = text.lower().endswith(".gguf")
    if path is not None:
        if path.is_file() and not is_gguf:
            raise ModelError(f"{path} is a file; give the folder that it is in, or a .gguf file")
        return
    if is_gguf:
        raise ModelError(f"no file {text:.300}")
    if text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise ModelError(
            f"no folder {text.removeprefix('./'):.300}; give a folder with config.json and "
            "safetensors"
        )
    if "/" not in text:
        raise choices("model", text, (*EMBEDDED, *preset_ids(), "a hub id"))
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError as error:
        raise ModelError(
            f"no folder {text:.100}, and no name that the hub could have: write owner/name"
        ) from error


def similar_hub_id(hub_id: str) -> str:
    """Return a question that names the preset's hub id that is closest to one, or ""."""
    return "" if hub_id in preset_ids().values() else did_you_mean(hub_id, preset_ids().values())
