"""The batch job: figure notebooks run by papermill, skipped where they are up to date.

First the vectors that any of the notebooks needs are captured, once, by one loaded model at a time;
then the notebooks read them from the store, several at once if wanted, without loading a model.

A notebook writes into a work folder of its own; its figures move into the output folder together
when it has succeeded, and a stamp records what they were made from. A killed run therefore leaves
finished figures whole, and the same command again makes the rest.
"""

import contextlib
import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from dysem_lab import paths
from dysem_lab.batch.cells import notebooks, read_cells
from dysem_lab.batch.gallery import write_gallery
from dysem_lab.batch.jobs import EXECUTED, Job, JobNeed, needs
from dysem_lab.digests import file_digest
from dysem_lab.errors import ModelError
from dysem_lab.questions import saving
from dysem_lab.questions.needs import Need
from dysem_lab.startup import import_nbformat


def capture(needed: Sequence[JobNeed], progress: Callable[[int], None]) -> None:
    """Capture what the jobs need into the store, holding one model at a time.

    A model that cannot be loaded is left to its notebooks, which report it. ``progress`` is called
    after each batch with the number of texts that it held.
    """
    models: dict[tuple[str, str], list[tuple[Need, pd.DataFrame]]] = {}
    for need, plan in (pair for of_job in needed for pair in of_job.plans):
        models.setdefault((need.study.name, need.study.dtype), []).append((need, plan))
    for plans in models.values():
        with contextlib.suppress(ModelError):
            for need, plan in plans:
                for n_texts in need.fill(plan):
                    progress(n_texts)
        for need, _ in plans:
            need.study.release()


def run_batch(
    jobs: Sequence[Job],
    n_parallel: int = 1,
    report: Callable[[Job, str, float], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, str]:
    """Run the jobs that are not up to date; return job name → "made", "up to date" or "failed".

    A failed job does not stop the others; one whose study refuses its parameters fails before
    anything runs. On an interrupt, running notebooks are ended and what is finished stays.

    Args:
        jobs: From `dysem_lab.batch.jobs.plan`.
        n_parallel: Notebooks that run at once; they share the machine's cores.
        report: Called as each job ends, with the job, its outcome and the seconds that it took.
        progress: Called while vectors are captured, with the texts done and all texts.

    Raises:
        DataError: The output folder cannot be written to.
    """
    outcomes: dict[str, str] = {}
    running: set[subprocess.Popen[bytes]] = set()

    def end(job: Job, outcome: str, seconds: float) -> None:
        outcomes[job.name] = outcome
        if report is not None:
            report(job, outcome, seconds)

    def work(job: Job) -> tuple[str, float]:
        start = time.monotonic()
        return _execute(job, n_parallel, running), time.monotonic() - start

    todo = []
    for job in jobs:
        if not job.why():
            end(job, "up to date", 0.0)
        elif job.problem:
            end(job, "failed", 0.0)
        else:
            todo.append(job)
    for out in {job.out for job in todo}:
        _check_folder(out)
    needed = needs(todo)
    done, total = 0, sum(need.passes for need in needed)

    def advance(n_texts: int) -> None:
        nonlocal done
        done += n_texts
        if progress is not None:
            progress(done, total)

    capture(needed, advance)
    todo.sort(key=lambda job: not job.runs_the_model)  # the longest ones first
    with ThreadPoolExecutor(max_workers=n_parallel) as pool:
        futures = {pool.submit(work, job): job for job in todo}
        try:
            for future in as_completed(futures):
                end(futures[future], *future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.kill()
            raise
        finally:
            for out in {job.out for job in jobs if job.out.is_dir()}:
                write_gallery(out, notebooks())
    return outcomes


def _check_folder(out: Path) -> None:
    """Make the output folder, or raise an error before hours of capture would end in it."""
    try:
        (out / EXECUTED).mkdir(parents=True, exist_ok=True)
        if not os.access(out / EXECUTED, os.W_OK) or not os.access(out, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise saving.unwritable(out, error) from error


def _execute(job: Job, n_parallel: int, running: set[subprocess.Popen[bytes]]) -> str:
    """Run one notebook in a papermill process of its own and take over its figures."""
    try:
        # Two batches may share a folder; the second to come finds the figures made.
        with FileLock(job.stamp.with_suffix(".lock")):
            return _make(job, n_parallel, running) if job.why() else "up to date"
    except OSError as error:
        where = error.filename2 or error.filename or job.out
        raise saving.unwritable(Path(where), error) from error


def _make(job: Job, n_parallel: int, running: set[subprocess.Popen[bytes]]) -> str:
    """Run one notebook in a folder of its own, and take over its figures once they are whole."""
    inputs = job.inputs()
    work = job.stamp.parent / f".{job.name}.work"
    with _emptied(work):
        made = work / "figures"
        made.mkdir()
        call = {
            "input_path": _literal(job.notebook),
            "output_path": _literal(work / "run.ipynb"),
            "parameters": {**job.parameters, "out": str(made)},
        }
        threads = max(1, (os.cpu_count() or 1) // n_parallel)
        with job.log.open("wb") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "dysem_lab.batch.run"),
                    *(str(os.getpid()), str(paths.package_file("")), json.dumps(call)),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # an interrupt is for the batch, which ends its notebooks
                # A number of threads that the user has set stays.
                env={
                    **{"OMP_NUM_THREADS": str(threads), **os.environ, **_interpreter()},
                    saving.JOB_VARIABLE: json.dumps(job.made_by),
                },
            )
            running.add(process)
            try:
                code = process.wait()
            finally:
                running.discard(process)
        if (work / "run.ipynb").exists():
            (work / "run.ipynb").replace(job.executed)
        if code != 0:
            job.stamp.unlink(missing_ok=True)
            return "failed"
        files = sorted(path for path in made.iterdir() if not path.name.startswith("."))
        for path in sorted(files, key=lambda path: path.suffix == ".json"):  # provenance last
            path.replace(job.out / path.name)
    names = [path.name for path in files if path.name != saving.PLOTLY_JS]
    digests = {name: file_digest(job.out / name, "sha256", remembered=False) for name in names}
    stamp = {"inputs": inputs, "files": digests}
    with saving.atomic_write(job.stamp) as path:
        path.write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
    return "made"


def _interpreter() -> dict[str, str]:
    """Return the environment in which neither papermill nor a kernel imports what lies here."""
    settings = {"PYTHONWARNINGS": "default", "PYTHONSAFEPATH": "1"}
    if given := os.environ.get("PYTHONPATH"):
        # A kernel removes the first entry where it is the current folder, which it does not expect
        # to have been named.
        settings["PYTHONPATH"] = os.pathsep.join([os.devnull, given])
    return settings


def _literal(path: Path) -> str:
    """Return a path for papermill, which fills in what stands in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


@contextlib.contextmanager
def _emptied(folder: Path) -> Iterator[None]:
    """Make a folder, empty whatever a killed run left, and remove it at the end."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def failure(job: Job) -> str:
    """Return the last error line of a failed job and where to look."""
    if job.problem:
        return job.problem
    cause = ""
    with contextlib.suppress(Exception):  # there is no copy, or one that is cut
        for cell in read_cells(job.executed):
            for output in cell.get("outputs", []):
                if output.output_type == "error":
                    cause = f"{output.ename}: {output.evalue}"
    if not cause and job.log.exists():
        cause = job.log.read_text(errors="replace").strip().rpartition("\n")[2]
    where = " and ".join(str(path) for path in (job.executed, job.log) if path.exists())
    return f"{cause or 'no error was recorded'}" + (f"\n  see {where}" if where else "")


def _run_notebook(parent: int, package: Path, call: Mapping[str, Any]) -> None:
    """Run one notebook in this process, and end with the batch that started it.

    The kernel, a child of this process, does the same, so a killed batch leaves nothing running.
    Figures are stamped with the code of the batch's ``package``, so it must be this one.
    """
    if (here := paths.package_file("")) != package:
        sys.exit(
            f"the notebook would run the code in {here}, not the batch's in {package}, which only "
            f"the current folder leads to; install that, or set PYTHONPATH={package.parent}"
        )
    import_nbformat()
    import papermill

    # The file by which the kernel is reached: a killed run leaves it in its work folder.
    tempfile.tempdir = str(Path(call["parameters"]["out"]).parent)
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # cells' output, into the log

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    papermill.execute_notebook(
        **call, kernel_name="python3", language="python", progress_bar=False, log_output=True
    )


if __name__ == "__main__":
    _run_notebook(int(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
