"""Files of texts: CSV, TSV, JSON lines, parquet, plain lines; read exactly or refused by name."""

import csv
import gzip
import io
import json
import re
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dysem_lab import paths
from dysem_lab.digests import file_digest
from dysem_lab.errors import DataError
from dysem_lab.hub import data_in_time
from dysem_lab.inputs import half_of_a_pair
from dysem_lab.startup import garbage_collection_paused

SUFFIXES = (
    *(kind + packed for kind in (".csv", ".tsv", ".jsonl") for packed in ("", ".gz")),
    ".parquet",
)
# What a file may hold, unpacked; the largest of the tasks here has 5 MB and 135,000 values.
MAX_BYTES = 128 << 20
MAX_VALUES = 5_000_000
MAX_COLUMNS = 1_000
SHOWN = 5  # rows that a warning names
SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
# How files begin that are no text in UTF-8, and what to do with them.
BEGINNINGS = {
    b"\xff\xfe": "it begins as UTF-16 does; save it as UTF-8",
    b"\xfe\xff": "it begins as UTF-16 does; save it as UTF-8",
    b"\x1f\x8b": "it is packed by gzip; end its name in .gz",
    b"PK\x03\x04": "it is a zip or a spreadsheet; save the table as CSV in UTF-8",
    b"PAR1": "it is parquet; end its name in .parquet",
}
QUOTED = r'"[^"]*+(?:""[^"]*+)*+"'  # a field as a spreadsheet quotes it: inner quotes are doubled
QUOTED_CELL = re.compile(QUOTED)
QUOTED_OR_PLAIN = re.compile(rf'({QUOTED}|[^"\t\r\n]*+)(\t|\r?\n|\Z)')


def the_file(folder: Path, stem: str) -> Path | None:
    """Return the file of this name with one of `SUFFIXES`, or None; there may not be several."""
    files = [path for suffix in SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()]
    if len(files) > 1:
        raise DataError(f"{files[0]} and {files[1].name} are one table in two forms; keep one")
    return files[0] if files else None


def origin_of(file: str | Path, folder: str | Path) -> str:
    """Return a file's place in a folder, with the first digits of its sha256."""
    place = Path(file).relative_to(folder).as_posix()
    return f"{place}, sha256 {file_digest(file, 'sha256')[:16]}"


def read_table(path: Path) -> pd.DataFrame:
    """Return a CSV, TSV, JSON-lines or parquet file (gzip allowed) as a table.

    The values are strings in a CSV or TSV, Python's own in the others. A TSV is read without
    quoting, unless all its fields that hold quotes are in quotes as a spreadsheet writes them.

    Raises:
        DataError: The file cannot be read as what its suffix says, is too large, or has two columns
            of one name; the message names file and row.

    Warns:
        UserWarning: Quotes of a TSV were taken off, or may have been meant to be; a field of a CSV
            goes over lines and separators, as after a quote that is not closed.
    """
    kind = next((s.lower() for s in path.suffixes[::-1] if s.lower() != ".gz"), "")
    read = {".tsv": _read_tsv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}.get(
        kind, _read_csv
    )
    with garbage_collection_paused():
        names, columns = _guarded(read, path, kind or "a table")
    for name in names:
        if half_of_a_pair(name):
            raise DataError(f"{path}: {name!a:.200} is no name of a column; give another")
    repeated = [name for name in dict.fromkeys(names) if name and names.count(name) > 1]
    if repeated:
        raise DataError(
            f"{path}: {', '.join(map(repr, repeated))} is the name of several columns; give each a "
            "name of its own"
        )
    return pd.DataFrame(dict(enumerate(columns)), dtype=object).set_axis(names, axis=1)


def read_from_hub(path: str, what: str, instead: str, **options: Any) -> pd.DataFrame:
    """Return a table of the Hugging Face hub; options as for ``datasets.load_dataset``.

    Raises:
        DataError: It cannot be loaded; says what of it, and what to use instead.
    """
    from datasets import load_dataset  # seconds to import, and wanted only here

    try:
        with data_in_time():
            return load_dataset(path, **options).to_pandas()
    except Exception as error:  # of datasets, of the hub's client and of its network
        raise DataError(
            f"cannot load {path} ({what}) from the hub: {error}. Without a network use {instead}, "
            f"or a local folder named by {paths.DATA_VARIABLE}"
        ) from error


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file in UTF-8; only a line feed ends a line."""
    text = _guarded(_read_text, path, "text")
    # splitlines() would also break at U+2028, U+0085 and others.
    return text.removesuffix("\n").split("\n")


def _guarded(read: Callable[[Path], Any], path: Path, what: str) -> Any:
    """Return what a reader makes of a file; turn the errors of its libraries into ours."""
    from pyarrow import ArrowException

    try:
        return read(path)
    except DataError:
        raise
    # A cut gzip file raises EOFError, a damaged one zlib.error.
    except (
        *(ValueError, OSError, EOFError, zlib.error, ArrowException),
        *(RecursionError, OverflowError, MemoryError, KeyError, TypeError),
    ) as error:
        raise DataError(
            f"{path}: cannot be read as {what}: {str(error) or type(error).__name__}"
        ) from error


def _read_text(path: Path) -> str:
    """Return the text of a file, unpacked."""
    packed = path.name.lower().endswith(".gz")
    with gzip.open(path) if packed else path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise DataError(f"{path} holds more than {MAX_BYTES >> 20} MB of text; split it in parts")
    remedy = next((BEGINNINGS[start] for start in BEGINNINGS if content.startswith(start)), "")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: cannot be read as text in UTF-8 (byte 0x{content[error.start]:02x} in line "
            f"{line}): {remedy or 'it may be in Latin-1 or Windows-1252; save it as UTF-8'}"
        ) from error
    if "\0" in text:
        raise DataError(
            f"{path}: line {text.count(chr(10), 0, text.index(chr(0))) + 1} holds a null character,"
            f" as UTF-16 does; save it as UTF-8"
        )
    return text


def _read_csv(path: Path) -> tuple[list[str], list[Sequence[object]]]:
    text = _read_text(path)
    _check_header(path, text, ",")
    rows: list[list[str]] = []
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        rows.extend(reader)  # keeps those before an error
    except csv.Error as error:
        raise DataError(
            f"{path}, row {max(0, len(rows) - 1)}: cannot be read as CSV ({error} in line "
            f"{reader.line_num}); close every quote, and double those inside a quoted field"
        ) from error
    over_lines = []
    if reader.line_num > len(rows):
        over_lines = [i for i, row in enumerate(rows, -1) if any(map(_swallows, row))]
    if over_lines:
        warnings.warn(
            f"{path}: a field goes over line ends and commas in row {_shown(over_lines)}; if that "
            "is no text of several lines, a quote at its beginning should not be there",
            stacklevel=4,
        )
    remedy = "put texts and numbers that contain a comma in double quotes"
    return _rectangle(path, _without_blank_lines(rows), remedy)


def _swallows(field: str) -> bool:
    return "," in field and ("\n" in field or "\r" in field)


def _without_blank_lines(rows: list[list[str]]) -> list[list[str]]:
    """Leave out blank lines; between rows of one column, they are rows with an empty value."""
    filled = [index for index, row in enumerate(rows) if row]
    if filled and len(rows[filled[0]]) == 1:
        return [row or [""] for row in rows[filled[0] : filled[-1] + 1]]
    return [rows[index] for index in filled]


def _read_tsv(path: Path) -> tuple[list[str], list[Sequence[object]]]:
    text = _read_text(path)
    end = "\n" if "\n" in text else "\r"
    _check_header(path, text, "\t")
    rows = [line.removesuffix("\r").split("\t") for line in text.split(end)]
    rows = _without_blank_lines([row if any(row) or len(row) > 1 else [] for row in rows])
    rows = _unquoted(path, text, rows) if '"' in text else rows
    return _rectangle(path, rows, "take the tabs out of its texts, or save it as CSV")


def _unquoted(path: Path, text: str, rows: list[list[str]]) -> list[list[str]]:
    """Return the rows of a TSV with quotes: without them, if a spreadsheet put them there.

    A spreadsheet leaves no quote outside of quotes: one such field, and all stand for themselves.
    Fields that are merely in quotes may be either; it is a spreadsheet's table where names of
    columns are in quotes too, where quotes inside are doubled, or where the rows only come out even
    without line ends and tabs inside of quotes.
    """
    header, *_ = rows
    in_header = any(map(QUOTED_CELL.fullmatch, header))
    if in_header or any(len(row) != len(header) for row in rows):
        even = _without_blank_lines(_spreadsheet_rows(text))
        return _say_unquoted(path, even) if len(set(map(len, even))) == 1 else rows
    cells = [cell for row in rows for cell in row if '"' in cell]
    if not all(map(QUOTED_CELL.fullmatch, cells)):
        return rows
    if any('""' in cell[1:-1] for cell in cells):
        return _say_unquoted(path, [[_bare(cell) for cell in row] for row in rows])
    warnings.warn(
        f"{path}: {len(cells)} fields are in quotes, which are read as part of them; if a "
        "spreadsheet put them there, save the table as CSV",
        stacklevel=5,
    )
    return rows


def _say_unquoted(path: Path, rows: list[list[str]]) -> list[list[str]]:
    warnings.warn(
        f"{path}: its fields are in quotes as a spreadsheet writes them, and are read without",
        stacklevel=6,
    )
    return rows


def _spreadsheet_rows(text: str) -> list[list[str]]:
    """Return the rows of a TSV whose fields are all plain or in quotes; none if one is neither."""
    rows: list[list[str]] = [[]]
    place = 0
    while field := QUOTED_OR_PLAIN.match(text, place):
        rows[-1].append(_bare(field[1]))
        if field[2] != "\t":
            if rows[-1] == [field[1]] == [""]:  # a blank line; an empty field is in quotes
                rows[-1] = []
            rows.append([])
        place = field.end()
        if not field[2]:
            return rows
    return []


def _bare(field: str) -> str:
    """Return a field without the quotes that a spreadsheet puts around it."""
    return field[1:-1].replace('""', '"') if field.startswith('"') else field


def _check_header(path: Path, text: str, separator: str) -> None:
    """Refuse a table that is empty, too large, or separated by something else."""
    first_line = re.search(r"[^\r\n]+", text)
    header = first_line[0] if first_line else ""
    if not header.strip():
        raise DataError(f"{path}: it is empty; it needs a line with the names of its columns")
    n_columns = header.count(separator) + 1
    # Either count bounds the values, those of rows that lack some or have too many, too.
    _check_size(path, max(text.count("\n"), text.count(separator) // n_columns), n_columns)
    likely = max(SEPARATORS, key=lambda other: (header.count(other), other == separator))
    if header.count(likely) > header.count(separator):
        kind = "CSV" if separator == "," else "TSV"
        raise DataError(
            f"{path}: it looks separated by {SEPARATORS[likely]}, which is no {kind}; save it "
            f"separated by {SEPARATORS[separator]}, with points in numbers such as 4.5"
        )


def _check_size(path: Path, n_rows: int, n_columns: int) -> None:
    if n_columns > MAX_COLUMNS or n_rows * n_columns > MAX_VALUES:
        raise DataError(
            f"{path}: {n_rows:,} rows of {n_columns:,} columns are more than {MAX_COLUMNS:,} "
            f"columns or {MAX_VALUES:,} values; leave columns out, or split it in parts"
        )


def _rectangle(
    path: Path, rows: list[list[str]], remedy: str
) -> tuple[list[str], list[Sequence[object]]]:
    """Return the header and the columns; values that lack at the end of a row are empty."""
    names = [name.strip() for name in rows.pop(0)]
    short = []
    if set(map(len, rows)) - {len(names)}:
        for index, row in enumerate(rows):
            if len(row) > len(names):
                raise DataError(
                    f"{path}, row {index}: it has {len(row)} values, more values than its header "
                    f"({len(names)}); {remedy}"
                )
            if len(row) < len(names):
                short.append(index)
                row += [""] * (len(names) - len(row))
    if short:
        warnings.warn(
            f"{path}: fewer values than its header in row {_shown(short)}; those that lack at the "
            "end are taken as empty, but a line end in a text would look the same",
            stacklevel=5,
        )
    return names, list(zip(*rows, strict=True)) if rows else [()] * len(names)


def _shown(rows: Sequence[int]) -> str:
    return ", ".join(map(str, rows[:SHOWN])) + ", …" * (len(rows) > SHOWN)


def _read_jsonl(path: Path) -> tuple[list[str], list[Sequence[object]]]:
    lines = _read_text(path).split("\n")
    _check_size(path, len(lines), 1)
    records, names = [], dict[str, None]()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path}, line {number}: cannot be read as JSON ({error}); each line must be one "
                "JSON object"
            ) from error
        if not isinstance(record, dict):
            raise DataError(
                f"{path}, line {number}: {line.strip():.60} is no JSON object; each line must be "
                'one, such as {"sentence1": "…", "sentence2": "…", "score": 4.5}'
            )
        records.append(record)
        names.update(dict.fromkeys(record))
        _check_size(path, len(records), len(names))
    if not records:
        raise DataError(f"{path}: it is empty; it needs a JSON object in each line")
    return list(names), [[record.get(name) for record in records] for name in names]


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return a JSON object, none of whose names may occur twice."""
    if len(found := dict(pairs)) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} occurs twice")
    return found


def _read_parquet(path: Path) -> tuple[list[str], list[Sequence[object]]]:
    from pyarrow import parquet, types

    with parquet.ParquetFile(path) as file:
        of_file = file.metadata
        _check_size(path, of_file.num_rows, of_file.num_columns)
        groups = (of_file.row_group(group) for group in range(of_file.num_row_groups))
        if sum(group.total_byte_size for group in groups) > MAX_BYTES:
            raise DataError(f"{path} holds more than {MAX_BYTES >> 20} MB; split it in parts")
        schema = file.schema_arrow
    # As a dictionary, a text that a small file repeats a million times is in memory once.
    texts = [f.name for f in schema if types.is_string(f.type) or types.is_large_string(f.type)]
    with parquet.ParquetFile(path, read_dictionary=texts) as file:
        columns = [_values(column) for column in file.read().columns]
    # An index of pandas that has a name is a column; one that is a range is in the metadata only.
    ranges = {
        index["name"]: range(index["start"], index["stop"], index["step"])
        for index in (schema.pandas_metadata or {}).get("index_columns", ())
        if isinstance(index, dict) and index.get("name")
    }
    of_rows = {name: rows for name, rows in ranges.items() if len(rows) == of_file.num_rows}
    return [*schema.names, *of_rows], [*columns, *of_rows.values()]


def _values(column: Any) -> list[object]:
    """Return a column of arrow as Python's values."""
    from pyarrow import types

    if not types.is_dictionary(column.type):
        return column.to_pylist()
    found: list[object] = []
    for chunk in column.chunks:
        values = chunk.dictionary.to_pylist()
        found += [None if i is None else values[i] for i in chunk.indices.to_pylist()]
    return found
