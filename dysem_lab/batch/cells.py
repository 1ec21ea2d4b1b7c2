"""Notebooks on disk: their cells, by tag, and the parameters that they come with."""

import json
from pathlib import Path
from typing import Any

from dysem_lab import paths
from dysem_lab.errors import InputError
from dysem_lab.startup import import_nbformat


def read_cells(notebook: Path) -> list[Any]:
    """Return the cells of a notebook file, as nbformat's nodes."""
    return import_nbformat().read(notebook, as_version=4).cells


def tagged(notebook: Path, tag: str) -> list[str]:
    """Return the source of a notebook's cells with a tag."""
    cells = read_cells(notebook)
    return [cell.source for cell in cells if tag in cell.metadata.get("tags", [])]


def notebooks() -> dict[str, Path]:
    """Return the figure notebooks in reading order, by name."""
    return {path.stem: path for path in sorted(paths.notebooks_dir().glob("[0-9][0-9]_*.ipynb"))}


def defaults(notebook: Path) -> dict[str, object]:
    """Return the parameters of a notebook with the values that its cell gives them.

    Raises:
        InputError: Not one cell with the tag "parameters", one that does not run on its own, or a
            value that JSON does not have.
    """
    cells = tagged(notebook, "parameters")
    if len(cells) != 1:
        raise InputError(
            f"{notebook} has {len(cells)} cells with the tag 'parameters'; it needs exactly one"
        )
    values: dict[str, object] = {}
    try:
        exec(compile(cells[0], str(notebook), "exec"), {}, values)
        json.dumps(values, allow_nan=False)
    except Exception as error:
        raise InputError(f"{notebook}, parameters cell: {error}; use literal values") from error
    return values
