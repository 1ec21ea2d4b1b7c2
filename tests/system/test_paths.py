"""Where files live: the folder of the cache, as the user names it."""

from pathlib import Path

import pytest

from dysem_lab import paths
from dysem_lab.errors import InputError
from tests.unwritable import read_only


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


def a_folder_in_a_file(folder: Path) -> Path:
    return a_file(folder) / "cache"


def a_link_to_nowhere(folder: Path) -> Path:
    (folder / "link").symlink_to(folder / "gone" / "for good")
    return folder / "link"


def a_long_name(folder: Path) -> Path:
    return folder / ("x" * 300)


@pytest.mark.parametrize("place", [a_file, a_folder_in_a_file, a_link_to_nowhere, a_long_name])
@pytest.mark.parametrize("what", [paths.cache_dir, paths.vectors_path, paths.models_dir])
def test_a_cache_that_cannot_be_is_an_error_with_its_remedy(monkeypatch, tmp_path, place, what):
    named = place(tmp_path)
    monkeypatch.setenv(paths.CACHE_VARIABLE, str(named))
    with pytest.raises(InputError, match=f"(?s){named.name}.*{paths.CACHE_VARIABLE} to a folder"):
        what()


def test_a_cache_where_nothing_can_be_written_is_read_but_not_made(monkeypatch, open_folder):
    monkeypatch.setenv(paths.CACHE_VARIABLE, str(open_folder))
    with read_only(open_folder):
        assert paths.cache_dir() == open_folder
        with pytest.raises(InputError, match=rf"{open_folder}/models is no folder and cannot"):
            paths.models_dir()
        monkeypatch.setenv(paths.CACHE_VARIABLE, str(open_folder / "new"))
        with pytest.raises(InputError, match=r"Permission denied.*to a folder that you may write"):
            paths.cache_dir()


@pytest.mark.parametrize(
    ("variable", "path"),
    [(paths.CACHE_VARIABLE, paths.cache_dir), (paths.DATA_VARIABLE, paths.local_data_dir)],
)
def test_the_home_of_nobody_is_an_error(monkeypatch, variable, path):
    monkeypatch.setenv(variable, "~nobody-of-that-name/cache")
    with pytest.raises(InputError, match=f"{variable} is '~nobody-of-that-name/cache'.*in full"):
        path()
