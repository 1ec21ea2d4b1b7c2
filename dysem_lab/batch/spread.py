"""The batch job on a Ray cluster: the notebooks of one model, with its capture, are one task."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from dysem_lab.batch.cells import notebooks
from dysem_lab.batch.gallery import write_gallery
from dysem_lab.batch.jobs import Job
from dysem_lab.batch.run import run_batch
from dysem_lab.cluster.pool import connected, hired, pooled

Ended = tuple[str, str, float]  # name of a job, outcome, seconds


def run_spread(
    jobs: Sequence[Job],
    n_parallel: int = 1,
    report: Callable[[Job, str, float], None] | None = None,
    n_workers: int | None = None,
) -> dict[str, str]:
    """Run the jobs that are not up to date on the workers of a cluster; as `run_batch`.

    The vectors of a model are captured by the worker that runs its notebooks, into the store of
    that machine. All machines see the output folder under the same path; what a lost worker has
    finished there is not made again.

    Args:
        jobs: From `dysem_lab.batch.jobs.plan`.
        n_parallel: Notebooks of a worker that run at once.
        report: As for `run_batch`; called when all notebooks of a model have ended.
        n_workers: As for `dysem_lab.cluster.capture.capture_shards`.

    Raises:
        InputError: More workers than the cluster has room for.
        ModelError: Ray is not installed, or a worker was lost again and again.
        DataError: As for `run_batch`.
    """
    ray = connected()
    of_model: dict[object, list[Job]] = {}
    for job in jobs:
        # Anew: what a job has made of its notebook stays here.
        own = replace(job, out=job.out.resolve())
        of_model.setdefault(job.parameters["model"], []).append(own)
    named, outcomes = {job.name: job for job in jobs}, {}
    tasks = [(group, n_parallel) for group in of_model.values()]
    for group in pooled(ray, hired(ray, n_workers, Press), tasks):
        for name, outcome, seconds in group:
            outcomes[name] = outcome
            if report is not None:
                report(named[name], outcome, seconds)
    for out in {job.out for job in jobs if job.out.is_dir()}:
        write_gallery(out, notebooks())
    return outcomes


class Press:
    """A worker that runs the notebooks of one model after those of another."""

    def make(self, jobs: Sequence[Job], n_parallel: int) -> list[Ended]:
        """Run the jobs of one model."""
        ended: list[Ended] = []
        run_batch(jobs, n_parallel, lambda job, *how: ended.append((job.name, *how)))
        return ended
