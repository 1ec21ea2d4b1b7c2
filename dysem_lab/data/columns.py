"""Columns of tables: texts, ratings, which pair each row is; sound, or refused by file and row."""

import math
import numbers
import re
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from jaxtyping import Int

from dysem_lab.errors import DataError
from dysem_lab.inputs import half_of_a_pair, has_words, plainly_texts

ROW_KEYS = ("row", "pair_ID")  # columns that say which pair a row of an incomplete file is
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*", re.ASCII | re.IGNORECASE)
ROW_NUMBER = re.compile(r"\s*(\d{1,18})(\.0*)?\s*", re.ASCII)


def require_columns(file: str, table: pd.DataFrame, names: Iterable[str]) -> None:
    """Raise `DataError` unless a table has these columns."""
    if missing := set(names) - set(table.columns):
        raise DataError(
            f"{file}: no column {', '.join(sorted(missing))}; it has {', '.join(table.columns)}"
        )


def texts_of(file: str, values: list, column: str) -> list[str]:
    """Return a column of texts, "" where one is missing or nothing of it can be seen.

    Raises:
        DataError: One is no text, or holds half of a surrogate pair; names file and row.
    """
    if plainly_texts(values):
        return values
    return [_text_of(file, row, column, value) for row, value in enumerate(values)]


def _text_of(file: str, row: int, column: str, value: object) -> str:
    if is_missing(value):
        return ""
    if not isinstance(value, str):
        raise DataError(f"{file}, row {row}: {column} is {value!r:.200}, not a text")
    if half := half_of_a_pair(value):
        raise DataError(
            f"{file}, row {row}: {column} holds {half!a}, half of a surrogate pair, which is no "
            "character; take it out"
        )
    return value if has_words(value) else ""


def is_missing(value: object) -> bool:
    """Return whether a value of a table is none: a null of JSON or parquet."""
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def number_of(value: object) -> float | None:
    """Return a value of a table as a finite number, or None where it is none.

    True and False are none, and neither is "4,5".
    """
    if isinstance(value, str):
        number = float(value) if NUMBER.fullmatch(value) else math.nan
    elif isinstance(value, numbers.Number) and not isinstance(value, bool | complex):
        try:
            number = float(value)  # type: ignore[arg-type]  # Decimal is a Number too
        except (OverflowError, ValueError):
            return None
    else:
        return None
    return number if math.isfinite(number) else None


def ratings(file: str, table: pd.DataFrame, column: str, most: float) -> list[float]:
    """Return a column of numbers, none of them below 0 or above `most`.

    Raises:
        DataError: One is no such number; names file and row.
    """
    values = table[column].tolist()
    known = {}  # ratings repeat; as keys, True and 1 would be one value
    if all(isinstance(value, str) for value in values):
        known = {value: number_of(value) for value in set(values)}
    found = []
    for row, value in enumerate(values):
        number = known[value] if known else number_of(value)
        if number is None or not 0 <= number <= most:
            point = value.replace(",", ".", 1) if isinstance(value, str) and "," in value else ""
            remedy = f"; write {point}" if point and number_of(point) is not None else ""
            raise DataError(
                f"{file}, row {row}: {column} {value!r:.200} is not within 0 to {most:g}{remedy}"
            )
        found.append(number)
    return found


def pair_numbers(
    tables: Mapping[str, tuple[str, pd.DataFrame]],
) -> dict[str, Int[np.ndarray, " n"]]:
    """Return which pair each row of each table is, so that equal numbers are the same pair.

    That is said by a column of `ROW_KEYS` that all tables have. Where none has one, tables of one
    length are aligned by position; where some have a column "row", the others are complete.

    Raises:
        DataError: A number that is none or occurs twice; tables that cannot be aligned.
    """
    keys = {code: keys_of(table) for code, (_, table) in tables.items()}
    of_all = [key for key in ROW_KEYS if all(key in of for of in keys.values())]
    without = [code for code, of in keys.items() if not of]
    key = of_all[0] if of_all else ROW_KEYS[0]
    for code, of in keys.items():
        if of and key not in of:
            own = next(iter(of))
            other = next(file for c, (file, _) in tables.items() if own not in keys[c])
            raise DataError(
                f"languages are not aligned: {tables[code][0]} numbers its pairs by {own!r}, "
                f"{other} does not; give both the same column of numbers"
            )
    lengths = {tables[code][0]: len(tables[code][1]) for code in without}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{file} has {n} rows" for file, n in lengths.items())
        raise DataError(
            f"languages are not aligned: {counts}; give every file the same pairs, or a 'row' "
            "column with the 0-based row of each pair in the complete file"
        )
    found = {}
    for code, (file, table) in tables.items():
        if code in without:
            found[code] = np.arange(len(table))
            continue
        name = keys[code][key]
        found[code] = _row_numbers(file, name, table[name].tolist())
        if without and len(found[code]) and found[code].max() >= min(lengths.values()):
            raise DataError(
                f"languages are not aligned: {file} has row {found[code].max()}, but "
                f"{next(iter(lengths))} without a column {key!r} has {min(lengths.values())} rows "
                "and is not complete; give it that column"
            )
    return found


def keys_of(table: pd.DataFrame) -> dict[str, str]:
    """Return which of `ROW_KEYS` a table has, with its own spelling."""
    spelled = {name.lower(): name for name in table.columns}
    found = {key: spelled.get(key.lower()) for key in ROW_KEYS}
    return {key: key if key in table else name for key, name in found.items() if name is not None}


def _row_numbers(file: str, key: str, values: Iterable[object]) -> Int[np.ndarray, " n"]:
    """Return a column of row numbers, each a whole one from 0 on and none twice."""
    rows: dict[int, None] = {}
    for index, value in enumerate(values):
        number = _row_number(value)
        if number is None:
            raise DataError(
                f"{file}, row {index}: {key} {value!r:.200} is not a whole number from 0 on"
            )
        if number in rows:
            raise DataError(f"{file}: {number} occurs twice in its column {key!r}")
        rows[number] = None
    return np.array(list(rows), dtype=np.int64)


def _row_number(value: object) -> int | None:
    """Return a value of a table as a row number; None if it is none or larger than any is."""
    if isinstance(value, str):
        digits = ROW_NUMBER.fullmatch(value)
        return int(digits[1]) if digits else None
    number = number_of(value)
    whole = number is not None and number.is_integer() and 0 <= number < 2**53
    return int(value) if whole else None  # type: ignore[call-overload]


def require_same_ratings(tables: Mapping[str, tuple[str, pd.DataFrame]]) -> None:
    """Refuse tables, by the number of the pair, that are not of the same pairs as ratings tell.

    A translation that was rated anew carries the English rating beside its own, in "score_en".

    Raises:
        DataError: The ratings of a pair differ; names both files, the pair and both ratings.
    """
    rated = {code: (f, table) for code, (f, table) in tables.items() if "score" in table}
    if not rated:
        return
    first = "en" if "en" in rated else next(iter(rated))
    standard_file, standard = rated[first]
    for file, table in rated.values():
        column = "score_en" if first == "en" and "score_en" in table else "score"
        rows = table.index[table.index.isin(standard.index)]
        scores = table.loc[rows, column].to_numpy(np.float64)
        gold = standard.loc[rows, "score"].to_numpy(np.float64)
        if (differs := np.abs(scores - gold) > 1e-6).any():
            i = int(differs.argmax())
            raise DataError(
                f"{file}, row {rows[i]}: score {scores[i]:g}, but {standard_file} has {gold[i]:g}; "
                "the files are not aligned"
            )
