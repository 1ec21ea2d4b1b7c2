"""What people see of the package: objects in a notebook, and lines said in passing."""

import sys
from collections.abc import Callable, Mapping
from html import escape
from typing import NoReturn

from tqdm.auto import tqdm

# Called between batches as progress(done, total, what); what it raises stops the work.
Progress = Callable[[int, int, str], None]


def silent(done: int, total: int, what: str) -> None:
    """Report progress to nobody."""


def bar(shown: bool) -> Progress:
    """Return a progress that is a bar in a terminal or a notebook, or nothing."""
    return _Bar() if shown else silent


class _Bar:
    """A progress bar that begins with the first report and ends with the last."""

    def __init__(self) -> None:
        self._bar: tqdm[NoReturn] | None = None

    def __call__(self, done: int, total: int, what: str) -> None:
        if self._bar is None:
            self._bar = tqdm(total=total, desc=what, unit="text")
        self._bar.update(done - self._bar.n)
        if done == total:
            self._bar.close()
            self._bar = None


def amount(n: float, noun: str) -> str:
    """Return a number of things in words: "1 pair", "1,379 pairs", "2 passes"."""
    ending = "" if f"{n:.0f}" == "1" else "es" if noun.endswith("s") else "s"
    return f"{n:,.0f} {noun}{ending}"


def card(title: str, facts: Mapping[str, object]) -> str:
    """Return an object as HTML for a notebook's rich display.

    Colours and fonts are the notebook's, so that it reads in a light and in a dark theme; the
    text's direction follows its script. Of the facts by their names, tuples and lists are joined by
    a slash, and None is a dash.
    """
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left;font-weight:normal;opacity:.75">'
        f"{escape(name)}</th>"
        f'<td dir="auto" style="text-align:left">{escape(_text(value))}</td></tr>'
        for name, value in facts.items()
    )
    return (
        f'<div class="dysem-lab-card"><strong>{escape(title)}</strong>'
        f'<table style="margin:.3em 0 0 0">{rows}</table></div>'
    )


def _text(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " / ".join(map(str, value))
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def say(message: str) -> None:
    """Write a line for the reader, apart from what a program prints for others to read.

    That is standard error; but in a notebook its ordinary output, since there the other one has the
    colour of an error.
    """
    in_a_notebook = type(sys.stdout).__module__ == "ipykernel.iostream"
    stream = sys.stdout if in_a_notebook else sys.stderr
    stream.write(message + "\n")
    stream.flush()
