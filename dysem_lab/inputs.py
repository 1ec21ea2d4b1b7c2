"""What callers hand over: texts, names and numbers, with one rule for each in the package.

Each function takes what was given, and returns it in one form or raises `InputError`, which calls
it by the name that is its argument ``what`` or ``kind``.
"""

import operator
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from dysem_lab.errors import InputError, choices

# Letters and symbols by their category in Unicode that nobody sees: fillers of Hangul and Braille.
BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"
LETTER = re.compile(rf"[^\W_{BLANK_LETTERS}]")
MOST_SEED = 2**32 - 1  # that every library takes
UNSEEN = ("Z", "M", "Cc", "Cf", "Cs")  # separators, marks on nothing, controls, formats, surrogates


def whole_number(value: object) -> int | None:
    """Return an integer, numpy's included, as a Python one; None for anything else."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def at_least(value: object, least: int, what: str) -> int:
    """Return a whole number as a Python one, once it is known to be `least` or more."""
    number = whole_number(value)
    if number is None or number < least:
        raise InputError(f"{what} must be a whole number of at least {least}, got {value!r}")
    return number


def index_of(value: object, size: int, what: str, of: str = "") -> int:
    """Return a whole number as a Python one, once it is known to be from 0 and below a size."""
    number = whole_number(value)
    if number is None or not 0 <= number < size:
        raise InputError(f"{what} must be between 0 and {size - 1}{of}, got {value!r:.200}")
    return number


def seed_of(value: object, what: str = "seed") -> int:
    """Return a seed, a whole number from 0 to `MOST_SEED`, as a Python one."""
    seed = at_least(value, 0, what)
    if seed > MOST_SEED:
        raise InputError(f"{what} must be at most {MOST_SEED}, got {seed}")
    return seed


def check_k(k: object, d_model: int | None = None, what: str = "k") -> int | float:
    """Return k, a number of dimensions or a fraction of d, as Python's int or float."""
    if isinstance(k, bool) or not isinstance(k, Real):
        raise InputError(f"{what} must be an int or a float, got {k!r:.200}")
    if isinstance(k, Integral) and int(k) >= 1:
        return int(k)
    if not isinstance(k, Integral) and 0 < float(k) <= 1:
        return float(k)
    of = "d" if d_model is None else f"d={d_model}"
    raise InputError(f"{what} must be an integer >= 1 or a fraction in (0, 1] of {of}, got {k!r}")


def real_number(value: object, what: str) -> float:
    """Return a single real number as a float, one of numpy or torch included; NaN is one.

    Infinity is one too; True and "1" are none.
    """
    try:
        single = value.item() if hasattr(value, "item") else value
        if isinstance(single, Real) and not isinstance(single, bool):
            return float(single)
    except (ValueError, RuntimeError, OverflowError):  # several numbers, or one beyond floats
        pass
    raise InputError(f"{what} must be a number, got {value!r:.200}")


def one_of(value: object, valid: Collection[str], kind: str) -> str:
    """Return a name, once it is known to be one of the valid ones."""
    if not isinstance(value, str) or value not in valid:
        raise choices(kind, value, valid)
    return value


def names_of(given: str | Iterable[str], what: str = "name") -> list[str]:
    """Return one name or several as a list: a string is one name, never its letters."""
    given = [given] if isinstance(given, str) else given
    ordered = isinstance(given, Mapping) or _has_order(given)  # `LANGUAGES` is a mapping of names
    names = list(given) if ordered else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise InputError(f"{what}s must be one or more strings in a list, got {given!r:.200}")
    for name in names:
        require_characters(name, f"{what} {name!a:.200}")
    return names


def different(given: str | Iterable[str], what: str = "name") -> list[str]:
    """Return one name or several different ones as a list; see `names_of`."""
    names = names_of(given, what)
    if not names or len(set(names)) < len(names):
        raise InputError(f"{what}s must be one or more different codes, got {names}")
    return names


def several(given: Any, what: str, least: int = 1) -> list[Any]:
    """Return one value or more as a list, whatever they are; what has no order is refused."""
    if not _has_order(given) or len(values := list(given)) < least:
        raise InputError(f"{what} must be one or more values in a list, got {given!r:.200}")
    return values


def path_of(given: str | Path, what: str = "path") -> Path:
    """Return a path with ~ as the user's folder, once it is known that a file could have it."""
    if not isinstance(given, str | Path):
        raise InputError(f"{what} must be a string or a path, got {given!r:.200}")
    if given == "":  # which Path takes for the current folder
        raise InputError(f"{what} is an empty string; give a path, '.' for the current folder")
    try:
        path = Path(given).expanduser()
        path.exists()
        if "\0" in str(given):  # which exists() does not mind
            raise ValueError("it has a null character")
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{what} {str(given)!r:.200} is no path: {error}") from error
    return path


def listed(texts: Iterable, what: str = "text") -> list:
    """Return what holds texts in an order as a list, whatever the texts are.

    A column of a table and a one-dimensional array do; one string, a mapping, a table, a set and an
    array of more axes do not.
    """
    if isinstance(texts, str):
        raise InputError(f"{what}s must be a list of strings; give one as [{texts[:40]!r}]")
    if not _has_order(texts):
        raise InputError(
            f"{what}s must be a list of strings, got {type(texts).__name__}{_remedy(texts)}"
        )
    return list(texts)


def checked(texts: Iterable[str], what: str = "text") -> list[str]:
    """Return texts as a list, once each of them is known to have words.

    Raises:
        InputError: As for `listed`; or a text, named by its index, that is empty, has nothing
            visible, or holds half of a surrogate pair.
    """
    texts = listed(texts, what)
    if plainly_texts(texts):
        return texts
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not has_words(text):
            raise InputError(
                f"{what} {index} is empty or not a string: {text!r:.200}; give it words"
            )
        require_characters(text, f"{what} {index}")
    return texts


def by_language(renderings: object) -> dict[str, Any]:
    """Return renderings by their language, each of them still to be `checked` where it is read.

    They come as a mapping or as a table with a column for each language; None is none.
    """
    if renderings is None:
        return {}
    table: Any = renderings
    if isinstance(renderings, Mapping) or _is_table(renderings):
        return {code: table[code] for code in table}
    raise InputError(
        "renderings must be texts by their language, such as {'ja': [...]}, got "
        f"{type(renderings).__name__}"
    )


def require_characters(text: str, what: str) -> None:
    """Raise `InputError` if a text holds half of a surrogate pair: no tokenizer takes one."""
    if half := half_of_a_pair(text):
        raise InputError(
            f"{what} holds {half!a}, half of a surrogate pair, which is no character: "
            "read its file as UTF-8, or take the character out"
        )


def has_words(text: str) -> bool:
    """Return whether anything in a text can be seen: not only white space and format characters."""
    return any(
        not unicodedata.category(character).startswith(UNSEEN) and character not in BLANK_LETTERS
        for character in text
    )


def plainly_texts(texts: list) -> bool:
    """Return whether all are surely texts with words: quick, where `checked` looks at each."""
    try:
        joined = "".join(texts)
    except TypeError:
        return False
    return all(map(LETTER.search, texts)) and not half_of_a_pair(joined)


def half_of_a_pair(text: str) -> str:
    """Return the first half of a surrogate pair that stands alone in a text, or ""."""
    try:
        text.encode()
    except UnicodeEncodeError as error:  # no encoding takes it
        return text[error.start]
    return ""


def _has_order(given: object) -> bool:
    """Return whether iterating gives items one by one, in the order that the caller meant."""
    no_list = isinstance(given, str | bytes | bytearray | Mapping | set | frozenset)
    no_list = no_list or hasattr(given, "columns")  # tables that do not say how many axes they have
    return isinstance(given, Iterable) and not no_list and getattr(given, "ndim", 1) == 1


def _is_table(given: object) -> bool:
    return getattr(given, "ndim", 1) == 2 and hasattr(given, "columns")


def array_of(given: object, what: str) -> np.ndarray:
    """Return numbers as an array, whatever holds them but a masked one: the mask would be lost."""
    if isinstance(given, np.ma.MaskedArray):
        raise InputError(f"{what} is a masked array; leave out what is masked")
    try:
        return np.asarray(given)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{what} must be numbers in a list or an array: {error}") from error


def _remedy(given: Any) -> str:
    """Return how the texts are got out of something that holds them otherwise."""
    if isinstance(given, Mapping):
        return "; give one of its values, a list of texts"
    if _is_table(given):
        return f"; give one of its columns: {', '.join(map(str, given.columns[:8]))}"
    if getattr(given, "ndim", 1) != 1:
        return f" of shape {tuple(getattr(given, 'shape', ()))}; give one axis of texts"
    return "; give a list, which has an order"
