"""Settings: DySem's by name, checked before torch is loaded, which takes seconds; and files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dysem_lab.errors import InputError
from dysem_lab.inputs import different, one_of, path_of
from dysem_lab.models.places import VECTOR_COMPONENTS
from dysem_lab.prompts import template_parts

VECTORS = ("source", "mean")
RANKINGS = ("mean", "vector")


def check_settings(
    languages: str | Sequence[str],
    component: str = "attn",
    template: str = "prompteol",
    setting: str = "english",
    vector: str = "mean",
    rank_by: str = "mean",
) -> tuple[str, ...]:
    """Return the languages, once every name is one that `dysem_lab.DySem` takes.

    Raises:
        InputError: A name that does not exist; no languages, or one twice.
    """
    codes = tuple(different(languages, "language"))
    one_of(component, VECTOR_COMPONENTS, "component")
    one_of(vector, VECTORS, "vector")
    one_of(rank_by, RANKINGS, "rank_by")
    for code in codes:
        template_parts(template, setting, code)
    return codes


def save_settings(where: str | Path, settings: dict[str, Any]) -> Path:
    """Write settings as JSON and return the file.

    Raises:
        InputError: The file cannot be written.
    """
    path = path_of(where)
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path} ({error}); give the path of a file") from error
    return path


def load_settings(where: str | Path, kind: str) -> dict[str, Any]:
    """Return what `save_settings` wrote of an encoder of this kind.

    Raises:
        InputError: The file cannot be read, or holds no JSON object.
    """
    path = path_of(where)
    try:
        if path.exists() and not path.is_file():  # a folder, or a device that never ends
            raise OSError("it is no file")
        settings = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {where} ({error}); give a file that `save` wrote") from error
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, nested without an end
        raise InputError(f"{where} is not a saved configuration of {kind}: {error}") from error
    if not isinstance(settings, dict):
        raise InputError(
            f"{where} is not a saved configuration of {kind}: its JSON is no object of settings"
        )
    return settings
