"""Texts that are too many for memory: parquet or JSON lines at any fsspec address, row by row."""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import xxhash

from dysem_lab.data.languages import LANGUAGES
from dysem_lab.errors import DataError, DysemLabError, InputError
from dysem_lab.inputs import has_words, plainly_texts, require_characters

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz")
ROWS_READ = 4096  # at once
# A cut gzip file raises EOFError, a damaged one zlib.error; pyarrow's are of the first three.
UNREADABLE = (ValueError, OSError, NotImplementedError, EOFError, zlib.error)


class Rows(NamedTuple):
    """Consecutive rows of the input: their ids, and language → their texts in it."""

    ids: list[str]
    texts: dict[str, list[str]]

    @property
    def digest(self) -> str:
        """Sixteen hex digits of ids, languages and texts."""
        return xxhash.xxh3_64_hexdigest(json.dumps(self).encode())


def file_system(address: str) -> tuple[Any, str]:
    """Return the fsspec file system of an address, and the path in it.

    Raises:
        InputError: A protocol that fsspec does not know, or whose package is not installed.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(str(address))
    except (ImportError, ValueError) as error:
        raise InputError(f"cannot reach {address!r:.200}: {error}") from error


def absolute(address: str) -> str:
    """Return an address that means the same in every process, whatever its working folder."""
    files, path = file_system(address)
    return files.unstrip_protocol(path)


def files_of(address: str) -> tuple[Any, list[str]]:
    """Return the file system of an address or pattern, and its files in the order of their names.

    Raises:
        InputError: There is none, or one that is neither parquet nor JSON lines.
    """
    files, path = file_system(address)
    found = sorted(name for name in files.glob(path) if files.isfile(name))
    if not found:
        raise InputError(f"no file {address}; give one, or a pattern such as 'texts/*.parquet'")
    for name in found:
        if not name.endswith(SUFFIXES):
            raise InputError(
                f"{name} ends in none of {', '.join(SUFFIXES)}; save it as one of these"
            )
    return files, found


def languages_of(address: str, languages: Sequence[str] = (), column: str = "") -> dict[str, str]:
    """Return language → the column that has its texts.

    Args:
        address: As for `rows`.
        languages: Codes; none are all that name a column, or English where there is a ``text``.
        column: Of the texts of a single language.

    Raises:
        InputError: Several languages for one column, or no column that can be meant.
        DataError: A file that cannot be read.
    """
    if column:
        if len(languages) > 1:
            raise InputError(f"--column {column} has one language, not {', '.join(languages)}")
        return {code: column for code in languages or ("en",)}
    if languages:
        return {code: code for code in languages}
    files, (name, *_) = files_of(address)
    there = _columns(files, name)
    if codes := [code for code in LANGUAGES if code in there]:
        return {code: code for code in codes}
    if "text" not in there:
        raise InputError(
            f"{name} has no column 'text' and none of a language ({', '.join(LANGUAGES)}), but "
            f"{', '.join(there) or 'no rows'}; name one with --column"
        )
    return {"en": "text"}


def rows(
    address: str, columns: Mapping[str, str], ids: str = "", n: int = ROWS_READ
) -> Iterator[Rows]:
    """Yield n rows at a time, the last time the rest, in the order of files and rows.

    Args:
        address: A file, or a pattern of several: ``corpus.parquet``, ``s3://bucket/*.jsonl``.
        columns: Language → column of its texts.
        ids: Column of the ids; "" is the file's name and the row, counted from 1.
        n: How many.

    Raises:
        InputError: As for `files_of`.
        DataError: A file that cannot be read or lacks a column, a text without words or an id that
            is none; names file and row.
    """
    files, names = files_of(address)
    short = [PurePosixPath(name).name for name in names]
    if len(set(short)) < len(short):
        short = names
    for name in names:  # of all, before the first is read at length
        _require_columns(files, name, [*columns.values(), *([ids] if ids else [])])
    waiting = Rows([], {code: [] for code in columns})
    for name, called in zip(names, short, strict=True):
        first = 1
        for part in _parts(files, name, [*columns.values(), *([ids] if ids else [])]):
            size = len(next(iter(part.values())))
            for code, column in columns.items():
                waiting.texts[code].extend(_texts(name, first, column, part[column]))
            waiting.ids.extend(
                _ids(name, first, ids, part[ids])
                if ids
                else [f"{called}:{row}" for row in range(first, first + size)]
            )
            first += size
            while len(waiting.ids) >= n:
                yield _cut(waiting, slice(n))
                waiting = _cut(waiting, slice(n, None))
    if waiting.ids:
        yield waiting


def _cut(of: Rows, where: slice) -> Rows:
    return Rows(of.ids[where], {code: texts[where] for code, texts in of.texts.items()})


def _texts(file: str, first: int, column: str, values: list) -> list[str]:
    """Return values of a column, once each is known to be a text with words."""
    if not plainly_texts(values):
        for row, value in enumerate(values, first):
            if not isinstance(value, str) or not has_words(value):
                raise DataError(
                    f"{file}, row {row}: {column} is {value!r:.200}, not a text with words; leave "
                    "the row out, or give it one"
                )
            require_characters(value, f"{file}, row {row}: {column}")
    return values


def _ids(file: str, first: int, column: str, values: list) -> list[str]:
    """Return values of a column as ids."""
    for row, value in enumerate(values, first):
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise DataError(f"{file}, row {row}: {column} is {value!r:.200}, which is no id")
    return list(map(str, values))


def _parts(files: Any, name: str, columns: Sequence[str]) -> Iterator[dict[str, list]]:
    """Yield column → values of some rows of a file at a time."""
    try:
        if name.endswith(".parquet"):
            from pyarrow.parquet import ParquetFile

            with files.open(name, "rb") as file:
                for batch in ParquetFile(file).iter_batches(ROWS_READ, columns=list(columns)):
                    yield batch.to_pydict()
            return
        with files.open(name, "rt", encoding="utf-8", compression="infer") as file:
            lines = filter(None, map(str.strip, file))
            first = 1
            while some := list(islice(lines, ROWS_READ)):
                records = [_record(name, row, line) for row, line in enumerate(some, first)]
                yield {column: [record.get(column) for record in records] for column in columns}
                first += len(some)
    except DysemLabError:
        raise
    except UNREADABLE as error:
        raise DataError(f"{name}: cannot be read: {error or type(error).__name__}") from error


def _require_columns(files: Any, name: str, columns: Sequence[str]) -> None:
    """Raise `DataError` where a file has rows, and not these columns."""
    there = _columns(files, name)
    if there and (missing := [column for column in columns if column not in there]):
        raise DataError(f"{name} has no column {', '.join(missing)}, but {', '.join(there)}")


def _columns(files: Any, name: str) -> list[str]:
    """Return the columns of a parquet file, or of the first row of JSON lines."""
    try:
        if name.endswith(".parquet"):
            from pyarrow.parquet import read_schema

            with files.open(name, "rb") as file:
                return read_schema(file).names
        with files.open(name, "rt", encoding="utf-8", compression="infer") as file:
            first = next(filter(None, map(str.strip, file)), "{}")
        return list(_record(name, 1, first))
    except DysemLabError:
        raise
    except UNREADABLE as error:
        raise DataError(f"{name}: cannot be read: {error or type(error).__name__}") from error


def _record(file: str, row: int, line: str) -> dict[str, Any]:
    """Return a line of JSON as an object."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}, row {row}: {line!r:.80} is no JSON ({error})") from None
    if not isinstance(record, dict):
        raise DataError(f"{file}, row {row}: {line!r:.80} is no object with columns")
    return record
