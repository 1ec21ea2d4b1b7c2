"""Digests of files and folders: a full hash once per file, remembered until the file changes.

A digest is remembered in the user's cache under the file's path, size, times of modification and of
change, and inode, and taken again where one of them moved. What leaves no trace there, such as a
disk that loses a bit, is seen by `verify_digests` only.
"""

import contextlib
import functools
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import xxhash

from dysem_lab import paths

# Seconds for which a file may change again without another time of change; younger ones are not
# remembered.
TICK = 2.0

# What a folder with a model has beside it: nothing that a forward pass depends on.
NOT_READ = (".bin", ".ckpt", ".gguf", ".h5", ".jinja", ".md", ".msgpack", ".onnx", ".pt", ".pth")
MANIFEST = "dysem_lab.json"  # what a conversion writes of itself
NOT_READ_NAMES = (MANIFEST, "generation_config.json", "trainer_state.json")

# What no figure notebook imports. Where the package is installed it has the notebooks in it; in a
# checkout they are beside it.
NOT_OF_FIGURES = (
    *("batch/gallery.py", "batch/seeds.py"),
    *("cli/", "explorers/", "notebooks/", "pages/"),
)


@functools.cache
def code_digest() -> str:
    """Return 64 hex digits of the code and the tables of this package that make figures.

    It is the same in a checkout and where the package is installed, and stays as it is when only
    figures, prose, the gallery, the command line, explorers or pages change. Notebooks are not in
    it.
    """
    package = paths.package_file("")
    files = {
        path.relative_to(package).as_posix(): path
        for suffix in ("*.py", "*.json", "*.csv")
        for path in package.rglob(suffix)
    }
    digest = hashlib.sha256()
    for name in sorted(files):
        if not name.startswith(NOT_OF_FIGURES):
            digest.update(name.encode() + files[name].read_bytes())
    return digest.hexdigest()


def file_digest(path: str | Path, algorithm: str = "xxh3_128", *, remembered: bool = True) -> str:
    """Return the digest of a file's bytes in hex: xxh3_128 is as fast as memory.

    A remembered one will do, unless told otherwise, where nothing tells that the file has changed.

    Raises:
        OSError: The file cannot be read.
    """
    file = Path(path).resolve()
    key = xxhash.xxh3_128_hexdigest(f"{algorithm} {file}".encode(errors="surrogateescape"))
    state = _state(file)
    record = _record(key)
    if remembered and record and record["state"] == state:
        return record["digest"]
    digest = _hashed(file, algorithm)
    settled = time.time() - max(state["mtime_ns"], state["ctime_ns"]) / 1e9 > TICK
    if settled and _state(file) == state:
        record = {"path": str(file), "algorithm": algorithm, "state": state, "digest": digest}
        with contextlib.suppress(OSError):  # without a cache to write to, it is taken each time
            paths.write_whole(paths.digests_dir() / f"{key}.json", json.dumps(record))
    return digest


def model_files(folder: str | Path) -> dict[str, Path]:
    """Return name → file of what a model that is loaded from a folder may depend on."""
    folder = Path(folder)
    found = {
        file.name: file
        for file in sorted(folder.iterdir())
        if file.is_file()
        and not file.name.startswith(".")
        and file.suffix not in NOT_READ
        and file.name not in NOT_READ_NAMES
    }
    for index in [file for name, file in found.items() if name.endswith(".index.json")]:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            there = {name: folder / name for name in sorted(set(shards))}  # some in other folders
            found |= {name: file for name, file in there.items() if file.is_file()}
    return found


def folder_digest(folder: str | Path, *, remembered: bool = True) -> str:
    """Return 32 hex digits of the contents of a folder's `model_files`, and of their names."""
    digest = xxhash.xxh3_128()
    for name, file in model_files(folder).items():
        digest.update(f"{name} {file_digest(file, remembered=remembered)}\n".encode())
    return digest.hexdigest()


def verify_digests() -> list[dict[str, Any]]:
    """Hash every file anew that a digest is remembered of, and return what became of them.

    Returns:
        One dictionary per remembered file: ``path``, ``state`` ("as remembered", "changed" where
        the file says so itself, "gone", or "DAMAGED": other bytes under the same size and times).
    """
    rows = []
    for where in sorted(paths.digests_dir().glob("*.json")):
        record = _record(where.stem)
        if record is None:
            continue
        file, state = Path(record["path"]), "gone"
        with contextlib.suppress(OSError):
            if _state(file) != record["state"]:
                state = "changed"
            elif _hashed(file, record["algorithm"]) == record["digest"]:
                state = "as remembered"
            else:
                state = "DAMAGED"
        if state != "as remembered":
            where.unlink(missing_ok=True)
        rows.append({"path": str(file), "state": state})
    return rows


def _state(file: Path) -> dict[str, int]:
    """Return what changes with a file's contents."""
    stat = file.stat()
    return {
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,
        "inode": stat.st_ino,
        "device": stat.st_dev,
    }


def _hashed(file: Path, algorithm: str) -> str:
    kind: Any = xxhash.xxh3_128 if algorithm == "xxh3_128" else algorithm
    # Read and not mapped: a mapped file that another process cuts ends this one.
    with file.open("rb", buffering=0) as stream:
        return hashlib.file_digest(stream, kind).hexdigest()


def _record(key: str) -> dict[str, Any] | None:
    """Return a remembered digest; None where there is none, or none that is whole."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        record = json.loads((paths.digests_dir() / f"{key}.json").read_text(encoding="utf-8"))
        if isinstance(record, dict) and record.keys() >= {"path", "algorithm", "state", "digest"}:
            return record
    return None
