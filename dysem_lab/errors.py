"""Errors for people: each message names the bad value and the remedy."""

from collections.abc import Iterable


class DysemLabError(Exception):
    """Base of every error that dysem-lab raises on purpose."""


class InputError(DysemLabError, ValueError):
    """An argument that has no meaning here: an unknown name, k = 0, a NaN, an empty text."""


class DataError(DysemLabError, ValueError):
    """A data file that cannot be read as what it claims to be; the message names file and row."""


class MissingTranslationError(DysemLabError, LookupError):
    """A text has no rendering in a language that was asked for."""


class ModelError(DysemLabError, RuntimeError):
    """A model that cannot be found, read, or that fails one of the load-time checks."""


def choices(kind: str, value: object, valid: Iterable[object]) -> InputError:
    """Return the error for an unknown name, listing the valid ones.

    Args:
        kind: What the name stands for, such as "component".
        value: The name that came.
        valid: Iterable of the names that are known.
    """
    return InputError(f"unknown {kind} {value!r}; choose one of: {', '.join(map(str, valid))}")
