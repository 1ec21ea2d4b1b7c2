"""Runs a notebook in this process: its cells as a kernel runs them, its parameters replaced.

Only cells and what they show are looked at, so this holds whatever the package is made of.
"""

import json
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

FIGURE = "application/vnd.plotly.v1+json"


@dataclass
class Run:
    """What is left of a notebook that has run.

    Attributes:
        names: Its variables.
        last: The value that it showed last.
        text: What its cells printed, and the plain form of what they showed.
        figures: The plotly figures that they showed.
    """

    names: dict[str, Any]
    last: Any = None
    text: str = ""
    figures: list[dict[str, Any]] = field(default_factory=list)


def code_cells(path: Path) -> list[tuple[str, list[str]]]:
    """Return the source and the tags of each code cell."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [
        ("".join(cell["source"]), cell["metadata"].get("tags", []))
        for cell in cells
        if cell["cell_type"] == "code"
    ]


def default_parameters(path: Path) -> dict[str, Any]:
    """Return the parameters of a notebook as it has them."""
    (source,) = [source for source, tags in code_cells(path) if "parameters" in tags]
    names: dict[str, Any] = {}
    exec(source, {}, names)
    return names


def run_notebook(path: Path, **parameters: Any) -> Run:
    """Run all code cells of a notebook one after another; the first error of a cell is raised.

    Args:
        path: The notebook.
        parameters: Replace its own, and are set after its cell of parameters, as papermill does.
    """
    assert set(parameters) <= set(default_parameters(path))
    module = types.ModuleType(path.stem)
    run = Run(module.__dict__)
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(
        config=Config({"HistoryManager": {"enabled": False}}),
        user_module=module,
        user_ns=run.names,
    )

    def show(value: Any) -> None:
        if value is not None:
            run.last = value
            add(shell.display_formatter.format(value)[0])

    def add(data: dict[str, Any]) -> None:
        run.text += data.get("text/plain", "") + "\n"
        if FIGURE in data:
            run.figures.append(data[FIGURE])

    try:
        for source, tags in code_cells(path):
            with shell.display_trap, capture_output() as captured:
                sys.displayhook = show
                result = shell.run_cell(source)
            result.raise_error()
            # What fails to show itself is a traceback on the screen to IPython, and no error.
            assert "Traceback" not in captured.stdout, captured.stdout
            run.text += captured.stdout
            for output in captured.outputs:
                add(output.data)
            if "parameters" in tags:
                shell.push(parameters)
    finally:
        InteractiveShell.clear_instance()
    return run
