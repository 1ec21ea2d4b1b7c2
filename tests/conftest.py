"""Shared fixtures: where real data is, the embedded models, and tiny random models."""

import os
from pathlib import Path

import pytest

from dysem_lab import paths

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def sts_folder() -> Path:
    """Return the folder of real STS data, or skip where there is none."""
    named = os.environ.get(paths.DATA_VARIABLE)
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not (folder / "stsb").is_dir():
        pytest.skip(f"real STS data is absent: no {folder}/stsb (set {paths.DATA_VARIABLE})")
    return folder
