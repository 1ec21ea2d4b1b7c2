"""Renderings that are looked up: parallel texts in columns, files or a data set."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from dysem_lab.data.columns import (
    ROW_KEYS,
    keys_of,
    number_of,
    pair_numbers,
    require_same_ratings,
    texts_of,
)
from dysem_lab.data.sts import STSData
from dysem_lab.data.tables import SUFFIXES, read_lines, read_table
from dysem_lab.errors import DataError, InputError, MissingTranslationError
from dysem_lab.inputs import listed, names_of, path_of
from dysem_lab.translation.translate import asked, required_renderings

_CODE = re.compile(r"[a-z]{2,3}(-[A-Za-z]{2,4}|-[1-9][0-9]?)?")  # "zh", "zh-TW", "en-1"
_COLUMNS = {False: ("text",), True: ("sentence1", "sentence2")}  # of texts, of pairs
SPLITS = frozenset(("train", "dev", "test", "trial", "valid", "val", "validation"))


class ParallelTable:
    """A translator that looks renderings up in parallel texts.

    Args:
        columns: Language code → texts, aligned by position; a mapping or a table. A text that
            occurs twice takes the first rendering that it has; an empty entry is a missing
            translation. Paraphrases are renderings too, by codes such as "en-1" and "en-2".
        name: What to call the table in messages and, with a digest of its texts, in the cache.

    Attributes:
        name: Identity for the cache.
        label: What messages call it.

    Raises:
        DataError: Columns of different lengths, fewer than two languages, or an entry that is no
            text.
        InputError: No mapping, or a column that is no list of texts.
    """

    def __init__(
        self, columns: Mapping[str, Sequence[str]] | pd.DataFrame, name: str = "table"
    ) -> None:
        """Keep the columns; see the class."""
        if not isinstance(columns, Mapping | pd.DataFrame):
            raise InputError(
                "columns must be a mapping from language codes to texts, such as "
                f"{{'en': […], 'ja': […]}}, got {type(columns).__name__}"
            )
        codes = names_of(list(columns), "language")
        given = [listed(texts, f"{code} text") for code, texts in columns.items()]
        lengths = dict(zip(codes, map(len, given), strict=True))
        if len(lengths) < 2 or len(lengths) < len(codes) or len(set(lengths.values())) != 1:
            raise DataError(
                f"{name}: need two or more columns of one length, named by language codes such as "
                f"'en' and 'ja', got {lengths or 'none'}"
            )
        self.columns = {
            code: texts_of(name, texts, code) for code, texts in zip(codes, given, strict=True)
        }
        content = json.dumps(sorted(self.columns.items()), ensure_ascii=False)
        self.label = name
        self.name = f"{name} {hashlib.sha256(content.encode()).hexdigest()[:16]}"
        self._renderings: dict[tuple[str, str], dict[str, str]] = {}

    @classmethod
    def from_data(cls, data: STSData) -> "ParallelTable":
        """Return the table of a data set that was loaded in several languages."""
        if not isinstance(data, STSData):
            raise InputError(f"data must be pairs of load_data, got {data!r:.200}")
        columns = {code: data.texts(code) for code in data.languages}
        table = cls(columns, f"{data.name} {data.digest}")
        table.label = "the demo set" if data.name == "demo" else data.name
        return table

    @classmethod
    def read(cls, path: str | Path) -> "ParallelTable":
        """Return the table in a file or folder.

        A file has one column per language, named by its code. A folder has one file per language,
        ``<anything>.<code>.<suffix>`` or ``<code>.<suffix>``: text lines (``.txt``), a ``text``
        column, or the ``sentence1`` and ``sentence2`` columns of STS files. Such files are aligned
        as `dysem_lab.data.sts.load_data` aligns them: by their column ``row`` or ``pair_ID`` where
        they have one, and their ratings must agree. A text that another file lacks is a missing
        translation.

        Raises:
            DataError: Nothing that looks like two languages is there, files of different splits,
                or files that are not aligned.
        """
        path = path_of(path, "the parallel table")
        if path.is_dir():
            return cls(_columns_of(_files_of(path)), str(path))
        if not path.is_file():
            raise DataError(f"no file or folder {path}; give a table with a column per language")
        table = read_table(path)
        codes = [code for code in table if _CODE.fullmatch(code) and code not in ROW_KEYS]
        columns = {code: table[code].tolist() for code in codes}
        of_texts = {c: of for c, of in columns.items() if any(isinstance(t, str) for t in of)}
        return cls(of_texts, str(path))

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """Return the rendering of each text; see `Translator`."""
        texts = asked(texts, source, target)
        for code in (source, target):
            if code not in self.columns:
                raise MissingTranslationError(
                    f"{self.label} has no language {code!r}; it has {', '.join(self.columns)}"
                )
        if (source, target) not in self._renderings:
            pairs = list(zip(self.columns[source], self.columns[target], strict=True))
            self._renderings[source, target] = {t: r for t, r in reversed(pairs) if r}
        known = self._renderings[source, target]
        return required_renderings([known.get(t, "") for t in texts], texts, target, self.label)


def _files_of(folder: Path) -> dict[str, Path]:
    """Return language → file of a folder with one file for each, all of one split."""
    files: dict[str, Path] = {}
    splits: dict[frozenset[str], Path] = {}
    for file in sorted(folder.iterdir()):
        code, split = _language_of(file)
        if code is None or not file.is_file():
            continue
        if code in files:
            raise DataError(
                f"{folder} has two files in {code!r}, {files[code].name} and {file.name}; keep one "
                "per language"
            )
        files[code] = file
        if split:
            splits[split] = file
    if len(splits) > 1:
        one, other, *_ = splits.values()
        raise DataError(
            f"{one} and {other.name} are of different splits; give a folder with files of one split"
        )
    return files


def _language_of(file: Path) -> tuple[str | None, frozenset[str]]:
    """Return the language code in a file name, or None, and the names of splits before it."""
    suffix = next((s for s in (*SUFFIXES[::-1], ".txt") if file.name.endswith(s)), None)
    if suffix is None:
        return None, frozenset()
    before, _, code = file.name.removesuffix(suffix).rpartition(".")
    splits = SPLITS.intersection(re.findall("[a-z]+", before.lower()))
    return (code if _CODE.fullmatch(code) else None), splits


def _columns_of(files: Mapping[str, Path]) -> dict[str, list]:
    """Return language → texts of files that hold one language each, aligned."""
    tables = {code: (str(file), _table_of(file)) for code, file in files.items()}
    of_pairs = {code: "text" not in table for code, (_, table) in tables.items()}
    if any(of_pairs.values()) and not all(of_pairs.values()):
        numbered = [file for file, table in tables.values() if keys_of(table)]
        if numbered:
            raise DataError(
                f"{numbered[0]} has numbers of its rows, and other files are not of the same kind; "
                "give all of them a column 'text', or 'sentence1' and 'sentence2'"
            )
        return {
            code: [text for name in _COLUMNS[of_pairs[code]] for text in table[name]]
            for code, (_, table) in tables.items()
        }
    for code, numbers in pair_numbers(tables).items():
        tables[code][1].index = pd.Index(numbers)
    if all(of_pairs.values()):
        require_same_ratings(tables)
    rows = sorted(set().union(*(table.index for _, table in tables.values())))
    return {
        code: [text for name in _COLUMNS[of_pairs[code]] for text in table[name].reindex(rows)]
        for code, (_, table) in tables.items()
    }


def _table_of(file: Path) -> pd.DataFrame:
    """Return the table of a file that holds one language; its score is the English one, if any."""
    if file.suffix == ".txt":
        return pd.DataFrame({"text": pd.Series(read_lines(file), dtype=object)})
    table = read_table(file)
    if not any(set(columns) <= set(table.columns) for columns in _COLUMNS.values()):
        raise DataError(f"{file}: needs a column 'text', or 'sentence1' and 'sentence2'")
    if column := next((name for name in ("score_en", "score") if name in table), None):
        scores = [number_of(value) for value in table[column].tolist()]
        table["score"] = np.array(scores, dtype=np.float64)  # NaN where there is none
    return table.drop(columns="score_en", errors="ignore")
