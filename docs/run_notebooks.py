"""Run what the site shows and what has changed: figure notebooks, and lessons with solutions in.

`make docs` does it before it builds the site. Copies go to build/runs, where the next call finds
them: a notebook runs again when its cells, its solutions or the code have changed. Stopped, the
same command goes on where it was.
"""

import argparse
import hashlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tqdm import tqdm

from dysem_lab.batch.jobs import Job, plan
from dysem_lab.batch.run import failure, run_batch
from dysem_lab.digests import code_digest
from dysem_lab.questions.saving import atomic_write

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOKS = REPOSITORY / "notebooks"
TEACH = NOTEBOOKS / "teach"
RUNS = REPOSITORY / "build" / "runs"
AS_FOUND = "as_found"  # in a cell that was solved: what a student finds there
MADE_OF = "made_of"  # in a copy: the digest of what it depends on
CALL = re.compile(r"^(check|quiz)\((\d+),", re.MULTILINE)
SOLVED_BY = {"check": "exercise", "quiz": "quiz"}


def figure_jobs(runs: Path) -> list[Job]:
    """Return the job of each figure notebook, with its own parameters."""
    return plan([], "demo", runs)


def lesson_copies(runs: Path) -> dict[Path, Path]:
    """Return the notebooks of the course, in order, with the places of their copies."""
    return {path: runs / "teach" / path.name for path in sorted(TEACH.glob("[0-9]_*.ipynb"))}


def run_lesson(path: Path, copy: Path) -> str:
    """Run a lesson with its solutions in place, and keep the copy; return what went wrong, or "".

    Args:
        path: The notebook; beside it are ``checks`` and ``solutions/lesson<n>.py``.
        copy: Where the copy goes, unless one of the same is there.
    """
    solutions = path.parent / "solutions" / f"lesson{path.stem.partition('_')[0]}.py"
    notebook = solved(nbformat.read(path, as_version=4), solutions.read_text(encoding="utf-8"))
    digest = hashlib.sha256(code_digest().encode())
    for cell in notebook.cells:
        digest.update(cell.source.encode())
    for file in sorted((path.parent / "checks").glob("*.py")):
        digest.update(file.read_bytes())
    notebook.metadata[MADE_OF] = digest.hexdigest()
    if copy.exists():
        before = nbformat.read(copy, as_version=4).metadata.get(MADE_OF)
        if before == notebook.metadata[MADE_OF]:
            return ""
    given = {"metadata": {"path": str(path.parent)}}
    try:
        NotebookClient(notebook, timeout=None, kernel_name="python3", resources=given).execute()
    except CellExecutionError as error:
        return f"{path.name}: {error}"
    with atomic_write(copy) as file:
        nbformat.write(notebook, file)
    return ""


def solved(notebook: Any, solutions: str) -> Any:
    """Return a lesson's notebook with the solved cells in, each with what it was before."""
    parts = re.split(r"^# %% (exercise|quiz) (\d+)\n", solutions, flags=re.MULTILINE)[1:]
    cells = {
        (kind, number): source.strip()
        for kind, number, source in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    }
    for cell in notebook.cells:
        if set(cell.metadata.get("tags", [])) & {"exercise", "quiz"}:
            ((call, number),) = CALL.findall(cell.source)
            cell.metadata[AS_FOUND] = cell.source
            cell.source = cells[SOLVED_BY[call], number]
    return notebook


def run_all(runs: Path, only: Sequence[str], say: Callable[[str], None]) -> list[str]:
    """Run what is not up to date, and return what went wrong.

    Args:
        runs: The folder of the copies.
        only: Beginnings of names: a number of two digits is a figure notebook, one a lesson.
        say: Is told of each notebook that has ended.
    """
    jobs = [job for job in figure_jobs(runs) if job.notebook.stem.startswith(tuple(only))]
    lessons = {
        path: copy
        for path, copy in lesson_copies(runs).items()
        if path.stem.startswith(tuple(only))
    }
    wrong = []
    for path, copy in lessons.items():
        problem = run_lesson(path, copy)
        wrong += [problem] if problem else []
        say(f"{path.name}: {'failed' if problem else 'there'}")

    def report(job: Job, outcome: str, seconds: float) -> None:
        wrong.extend([f"{job.name}: {failure(job)}"] if outcome == "failed" else [])
        say(f"{job.name}: {outcome}" + (f" in {seconds:.0f} s" if seconds else ""))

    run_batch(jobs, report=report)
    return wrong


def main() -> None:
    """Run the notebooks with a bar, and end with an error where one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("only", nargs="*", help="beginnings of notebooks' names, such as 01 or 0_")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the copies")
    given = parser.parse_args()
    os.environ["PLOTLY_RENDERER"] = "plotly_mimetype"  # figures as data, which the site draws
    only = tuple(given.only or [""])
    named = [job.notebook.stem for job in figure_jobs(given.runs)]
    named += [path.stem for path in lesson_copies(given.runs)]
    total = sum(name.startswith(only) for name in named)
    if not total:
        sys.exit(
            f"no notebook's name begins with {' or '.join(only)}; there are {', '.join(named)}"
        )
    with tqdm(total=total, desc="notebooks", unit="notebook") as bar:

        def say(line: str) -> None:
            tqdm.write(line, file=sys.stderr)
            bar.update()

        wrong = run_all(given.runs, only, say)
    if wrong:
        sys.exit("\n\n".join(wrong))


if __name__ == "__main__":
    main()
