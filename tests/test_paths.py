"""Where files live: the folder of the cache, as the user names it."""

import os
from pathlib import Path

import pytest

from dysem_lab import paths
from dysem_lab.errors import InputError


@pytest.mark.parametrize("value", ["", "  ", None])
def test_an_empty_name_of_the_cache_is_none(monkeypatch, tmp_path, value):
    monkeypatch.setattr(paths.platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
    if value is None:
        monkeypatch.delenv(paths.CACHE_VARIABLE)
    else:
        monkeypatch.setenv(paths.CACHE_VARIABLE, value)
    assert paths.cache_dir() == tmp_path / "dysem-lab"
    assert paths.vectors_path().parent.is_dir()


def test_the_cache_may_be_named_from_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(paths.CACHE_VARIABLE, "~/of mine/é?#%20{}")
    assert paths.cache_dir() == tmp_path / "of mine" / "é?#%20{}"
    assert paths.models_dir().is_dir()


def a_file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file"


def a_folder_that_cannot_be_made(folder: Path) -> Path:
    folder.chmod(0o555)
    return folder / "cache"


def a_folder_in_a_file(folder: Path) -> Path:
    return a_file(folder) / "cache"


def a_link_to_nowhere(folder: Path) -> Path:
    (folder / "link").symlink_to(folder / "gone" / "for good")
    return folder / "link"


def a_long_name(folder: Path) -> Path:
    return folder / ("x" * 300)


@pytest.mark.parametrize(
    "place",
    [a_file, a_folder_in_a_file, a_link_to_nowhere, a_long_name, a_folder_that_cannot_be_made],
)
@pytest.mark.parametrize("what", [paths.cache_dir, paths.vectors_path, paths.models_dir])
def test_a_cache_that_cannot_be_is_an_error_with_its_remedy(monkeypatch, tmp_path, place, what):
    if place is a_folder_that_cannot_be_made and os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    named = place(tmp_path)
    monkeypatch.setenv(paths.CACHE_VARIABLE, str(named))
    with pytest.raises(InputError, match=f"(?s){named.name}.*{paths.CACHE_VARIABLE} to a folder"):
        what()


@pytest.mark.parametrize(
    ("variable", "path"),
    [(paths.CACHE_VARIABLE, paths.cache_dir), (paths.DATA_VARIABLE, paths.local_data_dir)],
)
def test_the_home_of_nobody_is_an_error(monkeypatch, variable, path):
    monkeypatch.setenv(variable, "~nobody-of-that-name/cache")
    with pytest.raises(InputError, match=f"{variable} is '~nobody-of-that-name/cache'.*in full"):
        path()
