"""Where files live. The only module that knows."""

import os
from pathlib import Path

import platformdirs

DATA_VARIABLE = "DYSEM_LAB_DATA"
CACHE_VARIABLE = "DYSEM_LAB_CACHE"


def cache_dir() -> Path:
    """Return the folder of converted models, translations and captured vectors.

    It is the one that the environment variable ``DYSEM_LAB_CACHE`` names, else the user's cache;
    created if absent.
    """
    named = os.environ.get(CACHE_VARIABLE)
    path = Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("dysem-lab"))
    path.mkdir(parents=True, exist_ok=True)
    return path


def models_dir() -> Path:
    """Return the folder of converted models inside the cache."""
    path = cache_dir() / "models"
    path.mkdir(exist_ok=True)
    return path


def demo_dir() -> Path:
    """Return the folder of the demo set that ships in the package."""
    return package_file("demo")


def translations_path() -> Path:
    """Return the SQLite file that holds every translation made so far."""
    return cache_dir() / "translations.sqlite"


def vectors_path() -> Path:
    """Return the SQLite file that holds every captured vector."""
    return cache_dir() / "vectors.sqlite"


def passed_check_path(key: str) -> Path:
    """Return the JSON file that says that a model passed its load-time check."""
    folder = cache_dir() / "checked"
    folder.mkdir(exist_ok=True)
    return folder / f"{key}.json"


def digests_dir() -> Path:
    """Return the folder of remembered digests of files."""
    folder = cache_dir() / "digests"
    folder.mkdir(exist_ok=True)
    return folder


def settings_path(name: str) -> Path:
    """Return the JSON file of settings that a user saved under a name."""
    folder = cache_dir() / "settings"
    folder.mkdir(exist_ok=True)
    return folder / f"{name}.json"


def package_file(name: str) -> Path:
    """Return the path of a file or folder that ships inside the package."""
    return Path(__file__).resolve().parent / name


def local_data_dir() -> Path | None:
    """Return the folder named by the environment variable ``DYSEM_LAB_DATA``, or None."""
    value = os.environ.get(DATA_VARIABLE)
    return Path(value).expanduser() if value else None


def notebooks_dir() -> Path:
    """Return the folder of the figure notebooks: beside the package in a checkout, or inside it.

    A wheel carries the notebooks as package data, so that the batch job works from any folder.
    """
    inside = package_file("notebooks")
    return inside if inside.is_dir() else package_file("").parent / "notebooks"
