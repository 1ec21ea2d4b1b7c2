"""The batch job: figure notebooks run by papermill, skipped where they are up to date.

The vectors that any of the notebooks needs are captured once, by one loaded model at a time. Each
notebook runs as soon as its own are in the store, several at once if wanted, without loading a
model.

A notebook writes into a work folder of its own; its figures move into the output folder together
when it has succeeded, and a stamp records what they were made from. A killed run therefore leaves
finished figures whole, and the same command again makes the rest.
"""

import contextlib
import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from itertools import chain
from pathlib import Path

import pandas as pd
import torch
from filelock import FileLock

from dysem_lab.batch.cells import notebooks, read_cells
from dysem_lab.batch.gallery import write_gallery
from dysem_lab.batch.jobs import EXECUTED, Job, JobNeed, needs
from dysem_lab.batch.kernels import Kernels, n_threads
from dysem_lab.digests import file_digest
from dysem_lab.errors import ModelError
from dysem_lab.questions import saving
from dysem_lab.questions.needs import Need


def capture(needed: Sequence[JobNeed], progress: Callable[[int], None]) -> Iterator[Job]:
    """Capture what the jobs need into the store, holding one model at a time.

    A model that cannot be loaded is left to its notebooks, which report it. ``progress`` is called
    after each batch with the number of texts that it held.

    Yields:
        Each job, as soon as all that it needs is there: the plans of a job take for granted what
        those before it of the same model capture.
    """
    yield from (of_job.job for of_job in needed if not of_job.plans)
    models: dict[tuple[str, str], list[tuple[Job, Need, pd.DataFrame]]] = {}
    for of_job in needed:
        for need, plan in of_job.plans:
            of_model = models.setdefault((need.study.name, need.study.dtype), [])
            of_model.append((of_job.job, need, plan))
    left = {of_job.job.name: len(of_job.plans) for of_job in needed}
    for plans in models.values():
        loads = True
        for job, need, plan in plans:
            try:
                for n_texts in need.fill(plan) if loads else ():
                    progress(n_texts)
            except ModelError:
                loads = False
            left[job.name] -= 1
            if not left[job.name]:
                yield job
        for _, need, _ in plans:
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

    def end(job: Job, outcome: str, seconds: float) -> None:
        outcomes[job.name] = outcome
        if report is not None:
            report(job, outcome, seconds)

    def work(job: Job) -> None:
        with free:
            if kernels.killed:
                return
            start = time.monotonic()
            outcome = _execute(job, kernels)
        if not kernels.killed:
            end(job, outcome, time.monotonic() - start)

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
    # Those that run the model take longest, so they begin at once and capture what they need.
    longest = sorted((job for job in todo if job.runs_the_model), key=lambda job: -job.n_texts)
    needed = needs([job for job in todo if not job.runs_the_model])
    done, total = 0, sum(need.passes for need in needed)

    def advance(n_texts: int) -> None:
        nonlocal done
        done += n_texts
        if progress is not None:
            progress(done, total)

    free = threading.Semaphore(n_parallel - 1)  # the capture is one of those that run at once
    futures: list[Future[None]] = []
    with (
        contextlib.closing(Kernels(n_parallel)) as kernels,
        ThreadPoolExecutor(max_workers=n_parallel) as pool,
    ):
        try:
            with _threads(n_threads(n_parallel)):
                for job in chain(longest, capture(needed, advance)):
                    futures.append(pool.submit(work, job))
            free.release()
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            kernels.kill()
            free.release()
            raise
        finally:
            for out in {job.out for job in jobs if job.out.is_dir()}:
                write_gallery(out, notebooks())
    return outcomes


@contextlib.contextmanager
def _threads(n: int) -> Iterator[None]:
    """Have torch compute with so many threads, unless the user has set their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if "OMP_NUM_THREADS" in os.environ else n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_folder(out: Path) -> None:
    """Make the output folder, or raise an error before hours of capture would end in it."""
    try:
        (out / EXECUTED).mkdir(parents=True, exist_ok=True)
        if not os.access(out / EXECUTED, os.W_OK) or not os.access(out, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise saving.unwritable(out, error) from error


def _execute(job: Job, kernels: Kernels) -> str:
    """Run one notebook in a process of its own and take over its figures."""
    try:
        # Two batches may share a folder; the second to come finds the figures made.
        with FileLock(job.stamp.with_suffix(".lock")):
            return _make(job, kernels) if job.why() else "up to date"
    except OSError as error:
        where = error.filename2 or error.filename or job.out
        raise saving.unwritable(Path(where), error) from error


def _make(job: Job, kernels: Kernels) -> str:
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
        code = kernels.run(call, {saving.JOB_VARIABLE: json.dumps(job.made_by)}, job.log)
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
