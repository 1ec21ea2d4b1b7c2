"""Checkpoints that load whole or not at all: gaps, damaged files, and whatever libraries raise."""

import contextlib
import errno
import json
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from dysem_lab.digests import model_files
from dysem_lab.errors import DysemLabError, ModelError, some_of

# What checkpoints carry besides the weights of a model of text: tables that are computed, and the
# parts that see, hear or guess several tokens ahead.
KNOWN_EXTRAS = (
    "*inv_freq",
    "*position_ids",
    "*embed_positions.weights",
    "*masked_bias",
    "*vision_*",
    "*visual.*",
    "*audio_*",
    "*multi_modal_projector.*",
    "mtp.*",
)
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
OBJECTS = ("config.json", "tokenizer.json", "tokenizer_config.json")
LFS_POINTER = b"version https://git-lfs"


def require_whole(
    name: str | Path, info: Mapping[str, Any], *, optional: Iterable[str] = ()
) -> None:
    """Refuse a checkpoint that is not, key for key, what the architecture takes.

    ``info`` is what ``from_pretrained(…, output_loading_info=True)`` returns beside the model; keys
    of the ``optional`` patterns, such as "lm_head.*", may be absent or in excess, because nothing
    reads them. A tied head that is not in the file is none of the missing keys.

    Raises:
        ModelError: Names the keys that are missing, that the architecture has no place for, or
            whose shape is another.
    """
    optional = tuple(optional)
    missing, extra = (
        sorted(key for key in info[kind] if not any(fnmatchcase(key, one) for one in allowed))
        for kind, allowed in (
            ("missing_keys", optional),
            ("unexpected_keys", (*optional, *KNOWN_EXTRAS)),
        )
    )
    other = sorted(f"{key} {tuple(found)}" for key, found, _ in info["mismatched_keys"])
    faults = [
        f"{what} {some_of(keys)}"
        for what, keys in (
            ("no weights for", missing),
            ("weights that the architecture has no place for:", extra),
            ("weights of another shape than the configuration says:", other),
        )
        if keys
    ]
    if faults or info["error_msgs"]:
        raise ModelError(
            f"{name} has {'; '.join([*faults, *map(str, info['error_msgs'])])}. What is missing "
            "would be random numbers, so it is refused; fetch or save the checkpoint anew, whole "
            "and with the configuration that it was trained with"
        )


@contextlib.contextmanager
def loading(name: str | Path, where: str | Path | None = None, remedy: str = "") -> Iterator[None]:
    """Turn whatever a library raises inside the block into one error with file and remedy.

    Our own errors pass, and so does an interrupt. ``name`` is what the caller named, and ``where``
    the folder or the hub id that it is loaded from, if that is another.

    Raises:
        ModelError: Anything but an error of our own was raised; it is the cause of this one.
    """
    try:
        yield
    except DysemLabError:
        raise
    except Exception as error:
        what = f"{name!s:.200}"
        if where is not None and str(where) != str(name):
            what += f" ({where!s:.200})"
        faults = damaged_files(where if where is not None else name)
        cause = "; ".join(faults) or _cause(error)
        raise ModelError(f"cannot load {what}: {cause}\n{remedy}") from error


def _cause(error: Exception) -> str:
    """Return what went wrong in words."""
    if isinstance(error, MemoryError) or "allocate" in str(error) or "OutOfMemory" in repr(error):
        return f"there is not enough memory for it ({error!s:.200})"
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        return f"the disk, or your share of it, is full ({error}); free some of it"
    text = f"{str(error).strip():.800}"
    if isinstance(error, KeyError | IndexError | AttributeError | TypeError) or not text:
        return f"{type(error).__name__} {text}".strip()  # what went wrong inside a library
    return text


def damaged_files(folder: str | Path) -> list[str]:
    """Return a sentence on each file of a model's folder that is not what its name says.

    A name that is no folder on this machine has none.
    """
    try:
        files = model_files(folder)
    except (OSError, ValueError):
        return []
    return [f"{folder}/{name} {fault}" for name, file in files.items() if (fault := _fault(file))]


def _fault(file: Path) -> str:
    """Return what is wrong with a file of weights or of JSON; "" where nothing is."""
    from safetensors import SafetensorError, safe_open

    try:
        with file.open("rb") as stream:
            if stream.read(len(LFS_POINTER)) == LFS_POINTER:
                return "is a pointer of git LFS and not the file; run `git lfs pull`"
        if file.suffix == ".json":
            content = json.loads(file.read_text(encoding="utf-8"))
            if file.name in OBJECTS and not isinstance(content, dict):
                return "is no JSON object; fetch it again"
        if file.suffix == ".safetensors":
            with safe_open(file, "np"):
                pass
    except SafetensorError as error:
        return f"is cut or damaged ({error}); fetch it again"
    except (ValueError, RecursionError) as error:
        return f"is no JSON ({type(error).__name__}: {error!s:.100}); fetch it again"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return ""
