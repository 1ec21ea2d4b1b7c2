"""What the tests of the cluster room do on a cluster of their own, in a process of its own.

Ray leaves open files and running processes to the end of its process, which the tests' own warnings
would report as errors. Called with JSON; the last line that it prints is JSON.
"""

import json
import os
import signal
import sys
from pathlib import Path

from dysem_lab.cluster import capture, pool
from dysem_lab.errors import DataError, DysemLabError


class KilledOnce(capture.Worker):
    """A worker that is killed when it has written a part of shard 2, if none was before."""

    def make(self, manifest, number, rows):
        from pyarrow import parquet

        killed = Path(self.request.folder.removeprefix("file://")).parent / "killed"
        write = parquet.write_table

        def half(table, file, **options):
            file.write(b"PAR1 and half a shard")
            file.flush()
            killed.write_text(f"shard {number}")
            os.kill(os.getpid(), signal.SIGKILL)

        if number == 2 and not killed.exists():
            parquet.write_table = half
        try:
            return super().make(manifest, number, rows)
        finally:
            parquet.write_table = write


class Broken:
    """A worker whose every task ends in an error, or in its death."""

    def make(self, how):
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise DataError(how)


def started():
    """Start Ray; return why it did not, as on a machine so busy that it gives up after 30 s."""
    import ray

    for _ in range(3):
        try:
            ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
            return ""
        except Exception as error:
            failure = str(error)
            ray.shutdown()
    return failure


def error_of(call):
    """Return the kind and the words of the error that a call ends in."""
    try:
        call()
    except DysemLabError as error:
        return f"{type(error).__name__}: {error}"
    return None


def main(request):
    """Return what was reported of a capture, and the errors of tasks that fail."""
    if failure := started():
        return {"not started": failure}
    import ray

    said = []
    capture.hired = lambda ray, n, kind, *given: pool.hired(ray, n, KilledOnce, *given)
    asked = capture.Request(**request)
    capture.capture_shards(asked, "ray", 2, lambda *how: said.append(how))
    pool.TRIES = 1
    workers = pool.hired(ray, 1, Broken)
    errors = [
        error_of(lambda: list(pool.pooled(ray, workers, [("the disk is full",)]))),
        error_of(lambda: list(pool.pooled(ray, workers, [("killed",)]))),
    ]
    workers.clear()  # its core is free for others
    errors.append(error_of(lambda: pool.hired(ray, 3, Broken)))
    ray.shutdown()
    return {"said": said, "errors": errors}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]))) + "\n")
