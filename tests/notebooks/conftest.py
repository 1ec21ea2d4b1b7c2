"""What the tests of explorers share: no translator that only some machines have."""

import pytest

from dysem_lab.explorers import renderings


@pytest.fixture(autouse=True)
def _no_apertium(monkeypatch):
    """Let a rendering be one that is typed in, of a table or of the demo set."""
    monkeypatch.setattr(renderings, "installed_translator", lambda: None)


def run_lines(python, names):
    """Return the value of the last of some lines of Python, an expression."""
    *before, last = python.split("\n")
    exec("\n".join(before), names)
    return eval(last, names)
