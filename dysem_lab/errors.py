"""Errors for people: each message names the bad value and the remedy."""

import difflib
from collections.abc import Iterable, Sequence


class DysemLabError(Exception):
    """Base of every error that dysem-lab raises on purpose."""


class InputError(DysemLabError, ValueError):
    """An argument that has no meaning here: an unknown name, k = 0, a NaN, an empty text."""


class DataError(DysemLabError, ValueError):
    """A file that cannot be read as what it claims to be, or cannot be written; it is named."""


class MissingTranslationError(DysemLabError, LookupError):
    """A text has no rendering in a language that was asked for."""


class ModelError(DysemLabError, RuntimeError):
    """A model that cannot be found, read, or that fails one of the load-time checks."""


def choices(
    kind: str, value: object, valid: Iterable[object], like: str | None = None
) -> InputError:
    """Return the error for an unknown name: what it may have been meant for, and all there are.

    A valid one with a space in it describes others. `like` is one that is known to be meant.
    """
    known = list(dict.fromkeys(map(str, valid)))
    shown = repr(value) if len(repr(value)) <= 200 else f"{repr(value)[:200]} …"
    hint = did_you_mean(like or value, known)
    return InputError(f"unknown {kind} {shown}; {hint}choose one of: {', '.join(known)}")


def some_of(names: Sequence[str], shown: int = 3) -> str:
    """Return the first of several names, and how many more there are."""
    return ", ".join(names[:shown]) + f" and {len(names) - shown} more" * (len(names) > shown)


def did_you_mean(value: object, names: Iterable[str]) -> str:
    """Return a question with the name that a misspelt one is closest to; "" where none is."""
    of_lower = {name.lower(): name for name in reversed(list(names)) if " " not in name}
    close = difflib.get_close_matches(str(value).lower()[:100], of_lower, n=1)
    return f"did you mean {of_lower[close[0]]!r}? " if close and value != "" else ""
