"""Runs the lessons' notebooks in this process, as students find them or with solutions in place."""

import re
from pathlib import Path

import nbformat

from tests.conftest import REPOSITORY

TEACH = REPOSITORY / "notebooks" / "teach"


def notebook_of(lesson: int) -> Path:
    """Return the notebook of a lesson."""
    (path,) = TEACH.glob(f"{lesson}_*.ipynb")
    return path


def code_cells(lesson: int) -> list[tuple[str, bool]]:
    """Return the code cells of a lesson, and whether each is an exercise."""
    notebook = nbformat.read(notebook_of(lesson), as_version=4)
    return [
        (cell.source, "exercise" in cell.metadata.get("tags", []))
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def exercise_number(source: str) -> int:
    """Return the number of the exercise that a cell checks."""
    (number,) = re.findall(r"^check\((\d+),", source, re.MULTILINE)
    return int(number)


def solutions(lesson: int, kind: str = "exercise") -> dict[int, str]:
    """Return the solved cells of a lesson, of its exercises or its quiz, by their number."""
    text = (TEACH / "solutions" / f"lesson{lesson}.py").read_text(encoding="utf-8")
    parts = re.split(r"^# %% (exercise|quiz) (\d+)\n", text, flags=re.MULTILINE)[1:]
    cells = zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    return {int(number): cell for of, number, cell in cells if of == kind}


def run_lesson(lesson: int, replaced: dict[int, str]) -> dict[str, object]:
    """Run the code cells of a lesson one after another and return their variables.

    Args:
        lesson: Its number.
        replaced: Exercise → the cell to run instead of the one that students find.
    """
    variables: dict[str, object] = {}
    for source, is_exercise in code_cells(lesson):
        if is_exercise:
            source = replaced.get(exercise_number(source), source)
        exec(compile(source, "<cell>", "exec"), variables)
    return variables
