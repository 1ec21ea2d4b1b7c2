"""Where files live. The only module that knows."""

import os
import threading
from pathlib import Path

import platformdirs

from dysem_lab.errors import InputError

DATA_VARIABLE = "DYSEM_LAB_DATA"
CACHE_VARIABLE = "DYSEM_LAB_CACHE"


def cache_dir() -> Path:
    """Return the folder of converted models, translations and captured vectors.

    It is the one that the environment variable ``DYSEM_LAB_CACHE`` names, else, also where that is
    empty, the user's cache; created if absent.

    Raises:
        InputError: It is no folder and cannot be made one.
    """
    return _made(_named(CACHE_VARIABLE) or Path(platformdirs.user_cache_dir("dysem-lab")))


def _named(variable: str) -> Path | None:
    """Return the path that an environment variable names; None where it is empty or not set."""
    value = os.environ.get(variable, "").strip()
    try:
        return Path(value).expanduser() if value else None
    except RuntimeError as error:  # "~" of somebody who is not known here
        raise InputError(f"{variable} is {value!r}: {error}; write the path in full") from error


def _made(folder: Path) -> Path:
    """Return a folder of the cache, created if absent."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"the cache {folder} is no folder and cannot be made one ({error.strerror}); set "
            f"{CACHE_VARIABLE} to a folder that you may write to"
        ) from error
    return folder


def models_dir() -> Path:
    """Return the folder of converted models inside the cache."""
    return _made(cache_dir() / "models")


def demo_dir() -> Path:
    """Return the folder of the demo set that ships in the package."""
    return package_file("demo")


def translations_path() -> Path:
    """Return the SQLite file that holds every translation made so far."""
    return cache_dir() / "translations.sqlite"


def vectors_path() -> Path:
    """Return the SQLite file that holds every captured vector."""
    return cache_dir() / "vectors.sqlite"


def parts_path(key: str) -> Path:
    """Return the file of a reference corpus in parts."""
    return _made(cache_dir() / "parts") / f"{key[:32]}.safetensors"


def removals_path(key: str) -> Path:
    """Return the file of what a model made of texts without some of their words."""
    return _made(cache_dir() / "removals") / f"{key[:32]}.jsonl"


def passed_check_path(key: str) -> Path:
    """Return the JSON file that says that a model passed its load-time check."""
    return _made(cache_dir() / "checked") / f"{key}.json"


def digests_dir() -> Path:
    """Return the folder of remembered digests of files."""
    folder = cache_dir() / "digests"
    folder.mkdir(exist_ok=True)
    return folder


def settings_path(name: str) -> Path:
    """Return the JSON file of settings that a user saved under a name."""
    return _made(cache_dir() / "settings") / f"{name}.json"


def write_whole(path: Path, text: str) -> None:
    """Write a file of the cache under a name of its own, and rename it once it is whole."""
    own = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    own.write_text(text, encoding="utf-8")
    own.replace(path)


def package_file(name: str) -> Path:
    """Return the path of a file or folder that ships inside the package."""
    return Path(__file__).resolve().parent / name


def local_data_dir() -> Path | None:
    """Return the folder named by the environment variable ``DYSEM_LAB_DATA``, or None."""
    return _named(DATA_VARIABLE)


def notebooks_dir() -> Path:
    """Return the folder of the notebooks: beside the package in a checkout, or inside it.

    The figure notebooks are in it, and the folders ``explore`` and ``teach``. A wheel carries them
    as package data, so that the batch job works from any folder.
    """
    inside = package_file("notebooks")
    return inside if inside.is_dir() else package_file("").parent / "notebooks"
