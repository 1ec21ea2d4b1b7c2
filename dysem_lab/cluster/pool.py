"""Workers of a Ray cluster: actors of one class, each of which gets one task after the other.

Ray schedules them, restarts those that are lost, and gives them their task again.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from dysem_lab.encoders.checkpoints import optional_package
from dysem_lab.errors import DysemLabError, InputError, ModelError
from dysem_lab.inputs import at_least

TRIES = 3  # of a task whose worker was lost, after the first


def connected() -> Any:
    """Return Ray, connected to a cluster.

    Raises:
        ModelError: Ray is not installed, or cannot be started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent unless asked for
    ray = optional_package("ray", "cluster", "--engine ray")
    if not ray.is_initialized():
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
        except Exception as error:  # of its parts, each of its own kind
            raise ModelError(
                f"Ray could not be started, nor a cluster joined ({error}); `ray status` says what "
                "runs here, and RAY_ADDRESS names another"
            ) from error
    return ray


def share_of(ray: Any, n_workers: int | None) -> tuple[int, dict[str, float]]:
    """Return how many workers there are, and what each has of the cluster.

    Raises:
        InputError: There are more workers than GPUs or, where there is none, than cores.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus, cores = ([int(machine.get(kind, 0)) for machine in machines] for kind in ("GPU", "CPU"))
    n = (sum(gpus) or len(machines)) if n_workers is None else at_least(n_workers, 1, "workers")
    if n > (most := sum(gpus) or sum(cores)):
        raise InputError(
            f"{n} workers, but the cluster has {most} {'GPUs' if sum(gpus) else 'cores'}; give "
            "fewer, or start more machines first"
        )
    if sum(gpus):
        return n, {"num_gpus": 1}
    fits = (c for c in range(max(cores), 0, -1) if sum(has // c for has in cores) >= n)
    return n, {"num_cpus": next(fits)}


def hired(ray: Any, n_workers: int | None, kind: type, *arguments: Any) -> list[Any]:
    """Return actors of a class, made with the same arguments; errors as for `share_of`."""
    n, share = share_of(ray, n_workers)
    actor = ray.remote(max_restarts=-1, max_task_retries=TRIES, **share)(kind)
    return [actor.remote(*arguments) for _ in range(n)]


@contextmanager
def errors_of(ray: Any) -> Iterator[None]:
    """Raise the errors of this package as they were on the worker."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, DysemLabError) else error) from None
    except ray.exceptions.RayError as error:
        raise ModelError(
            f"a worker was lost {TRIES + 1} times at the same work ({error}); what is written "
            "stays, and the same command goes on; give workers more memory, or shards fewer --rows"
        ) from error


def pooled(ray: Any, workers: list[Any], tasks: Iterable[tuple]) -> Iterator[Any]:
    """Yield what the workers' ``make`` returns of each task, as they end.

    No more tasks are taken than there are workers free, so that they may be read from a stream.

    Raises:
        DysemLabError: What a worker raised.
        ModelError: A task whose worker was lost again and again.
    """
    from ray.util import ActorPool

    pool = ActorPool(workers)
    with errors_of(ray):
        for task in tasks:
            if not pool.has_free():
                yield pool.get_next_unordered()
            pool.submit(lambda worker, given: worker.make.remote(*given), task)
        while pool.has_next():
            yield pool.get_next_unordered()
