"""Digests of files: taken once, and again whenever a file may have changed."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
import xxhash

from dysem_lab import digests, paths
from dysem_lab.digests import file_digest, folder_digest, model_files, verify_digests


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(paths.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """Return the names of the files that are read from now on."""
    names: list[str] = []
    whole = digests._hashed
    monkeypatch.setattr(
        digests, "_hashed", lambda file, a: names.append(file.name) or whole(file, a)
    )
    return names


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(digests, "TICK", -1.0)  # files are old at once
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_bytes(name.encode() * 1000)
    return folder


@pytest.mark.parametrize("n_bytes", [0, 1, 2**18, 2**18 + 1, 10**6])
def test_a_digest_is_that_of_all_bytes(tmp_path, n_bytes):
    content = os.urandom(n_bytes)
    file = tmp_path / "file"
    file.write_bytes(content)
    assert file_digest(file) == xxhash.xxh3_128_hexdigest(content)
    assert file_digest(file, "sha256") == hashlib.sha256(content).hexdigest()


def test_a_file_is_read_once_until_it_changes(folder, hashed):
    file = folder / "model.safetensors"
    first = file_digest(file)
    assert [file_digest(file), file_digest(str(file))] == [first, first]
    assert hashed == ["model.safetensors"]
    content = bytearray(file.read_bytes())
    content[500] ^= 1
    stat = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a copying tool would set it
    assert file_digest(file) == xxhash.xxh3_128_hexdigest(content) != first
    content[500] ^= 1
    (folder / "other").write_bytes(content)
    (folder / "other").replace(file)
    assert file_digest(file) == first
    assert hashed == ["model.safetensors"] * 3


def test_a_young_file_is_read_again(folder, hashed, monkeypatch):
    monkeypatch.setattr(digests, "TICK", 60.0)
    file_digest(folder / "config.json")
    file_digest(folder / "config.json")
    assert len(hashed) == 2, "it may change again within a tick of the file system's clock"
    os.utime(folder / "config.json", (time.time() - 100, time.time() - 100))
    file_digest(folder / "config.json")
    assert len(hashed) == 3, "its time of change is young"


def test_a_cache_that_cannot_be_written_or_is_damaged_costs_time_only(folder, cache, hashed):
    file = folder / "config.json"
    right = file_digest(file)
    (record,) = (cache / "digests").iterdir()
    for content in ("", "[]", "{", json.dumps({"path": "x"})):
        record.write_text(content)
        assert file_digest(file) == right
    record.unlink()
    (cache / "digests").rmdir()
    (cache / "digests").write_text("a file")
    assert file_digest(file) == right


def test_the_digest_of_a_folder_is_of_what_a_model_reads(folder):
    before = folder_digest(folder)
    for name in ("README.md", ".gitattributes", "pytorch_model.bin", "generation_config.json"):
        (folder / name).write_text("another")
    (folder / "checkpoint-500").mkdir()
    assert folder_digest(folder) == before
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + b"?")
        assert folder_digest(folder) != before
        (folder / name).write_bytes(content)
    assert folder_digest(folder) == before, "the same content is the same digest"
    (folder / "special_tokens_map.json").write_text("{}")
    assert folder_digest(folder) != before
    (folder / "special_tokens_map.json").unlink()
    (folder / "config.json").replace(folder / "config2.json")
    assert folder_digest(folder) != before, "names count"


def test_shards_in_another_folder_count(folder):
    (folder / "parts").mkdir()
    (folder / "parts" / "1.safetensors").write_bytes(b"1")
    index = {"weight_map": {"a": "parts/1.safetensors", "b": "parts/2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "parts/1.safetensors" in model_files(folder)
    before = folder_digest(folder)
    (folder / "parts" / "1.safetensors").write_bytes(b"2")
    assert folder_digest(folder) != before


def test_verifying_finds_what_left_no_trace(folder, monkeypatch):
    for file in model_files(folder).values():
        file_digest(file)
    assert {row["state"] for row in verify_digests()} == {"as remembered"}
    state = digests._state
    damaged = folder / "model.safetensors"
    before = state(damaged)
    damaged.write_bytes(b"?" + damaged.read_bytes()[1:])
    monkeypatch.setattr(digests, "_state", lambda file: before if file == damaged else state(file))
    (folder / "config.json").unlink()
    (folder / "tokenizer.json").write_text("{}")
    found = {Path(row["path"]).name: row["state"] for row in verify_digests()}
    assert found == {
        "model.safetensors": "DAMAGED",
        "config.json": "gone",
        "tokenizer.json": "changed",
    }
    assert file_digest(damaged) == xxhash.xxh3_128_hexdigest(damaged.read_bytes()), "not remembered"
