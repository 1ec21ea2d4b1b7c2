"""Errors for people: each message names the bad value and the remedy."""

import difflib
from collections.abc import Iterable


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


def choices(kind: str, value: object, valid: Iterable[object]) -> InputError:
    """Return the error for an unknown name: what it may have been meant for, and all there are.

    Args:
        kind: What the name stands for, such as "component".
        value: The name that came.
        valid: Iterable of the names that are known; one with a space in it describes others.
    """
    known = list(map(str, valid))
    of_lower = {name.lower(): name for name in reversed(known) if " " not in name}
    meant = difflib.get_close_matches(str(value).lower(), of_lower, n=1) if value != "" else []
    hint = f"did you mean {of_lower[meant[0]]!r}? " if meant else ""
    shown = repr(value) if len(repr(value)) <= 200 else f"{repr(value)[:200]} …"
    return InputError(f"unknown {kind} {shown}; {hint}choose one of: {', '.join(known)}")
