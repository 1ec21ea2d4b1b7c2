"""Lines of Python that reproduce a view: short, without what is the default anyway."""

import json
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

IMPORT = "import dysem_lab as dl"


def call(name: str, function: Callable[..., Any], *given: str, **named: object) -> str:
    """Return a call, with those of the named arguments that are not the function's defaults.

    Args:
        name: How the function is called, such as ``dl.pair``.
        function: The function or class itself.
        given: The first arguments, as they are written.
        named: The others, as values.
    """
    defaults = {of.name: of.default for of in signature(function).parameters.values()}
    said = [f"{key}={value!r}" for key, value in named.items() if defaults.get(key) != value]
    return f"{name}({', '.join([*given, *said])})"


def assigned(name: str, texts: Mapping[str, object]) -> str:
    """Return the assignment of a text in several languages, one a line."""
    lines = f",\n{' ' * (len(name) + 4)}".join(
        f"{json.dumps(code)}: {text!r}" for code, text in texts.items()
    )
    return f"{name} = {{{lines}}}"
