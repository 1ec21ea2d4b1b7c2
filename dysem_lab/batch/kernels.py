"""Processes that run notebooks, kept warm: each notebook has a fork of one with heavy imports done.

Run as a program it is such a process: it reads calls, a line of JSON each, and answers with their
exit status.
"""

import contextlib
import gc
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NoReturn

from dysem_lab import paths
from dysem_lab.errors import ModelError
from dysem_lab.startup import garbage_collection_paused, import_nbformat

# Elsewhere a process that has imported these libraries may not fork.
WARM = sys.platform == "linux"
# What takes a notebook's first seconds. None of them starts threads or opens a device, and this
# package is not among them: its modules ask once whether they are in a kernel.
HEAVY = (
    *("torch", "pandas", "scipy.stats", "sklearn.linear_model", "plotly.graph_objects", "kaleido"),
    *("transformers", "accelerate", "transformer_lens.model_bridge", "ipykernel.kernelapp"),
)
OF_A_KERNEL = ("tqdm.auto", "tqdm.autonotebook", "plotly.io")  # likewise, and come with the above


def n_threads(n_parallel: int) -> int:
    """Return how many threads each of so many processes has that share the machine's cores."""
    return max(1, (os.cpu_count() or 1) // n_parallel)


class Kernels:
    """Runs notebooks, each in a process of its own that ends with this one.

    Args:
        n_parallel: Notebooks that run at once; they share the machine's cores.

    Attributes:
        killed: Whether they were ended before they had finished.
    """

    def __init__(self, n_parallel: int) -> None:
        """Start nothing yet."""
        self._threads = n_threads(n_parallel)
        self.killed = False
        self._idle: list[subprocess.Popen[str]] = []
        self._all: list[subprocess.Popen[str]] = []

    def run(self, call: Mapping[str, Any], environment: Mapping[str, str], log: Path) -> int:
        """Run one notebook and return the exit status of its process.

        Args:
            call: Arguments of ``papermill.execute_notebook``.
            environment: What it has besides.
            log: Gets what it prints.
        """
        log.write_bytes(b"")
        try:
            process = self._idle.pop()
        except IndexError:
            process = self._start(log)
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, as the status says
            given = {"call": dict(call), "environment": dict(environment), "log": str(log)}
            process.stdin.write(json.dumps(given) + "\n")
            process.stdin.flush()
        if not (answer := process.stdout.readline()):
            return process.wait() or 1
        if WARM:
            self._idle.append(process)
        return int(answer)

    def _start(self, log: Path) -> subprocess.Popen[str]:
        with log.open("ab") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "dysem_lab.batch.kernels", str(paths.package_file(""))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # an interrupt is for the batch, which ends its notebooks
                # A number of threads that the user has set stays.
                env={"OMP_NUM_THREADS": str(self._threads), **os.environ, **_interpreter()},
            )
        self._all.append(process)
        return process

    def kill(self) -> None:
        """End the notebooks that run; no other is to run."""
        self.killed = True
        for process in self._all:
            process.kill()
            process.stdin.close()  # type: ignore[union-attr]  # a pipe, by whose end forks end

    def close(self) -> None:
        """End the processes, which run no notebook any more."""
        for process in self._all:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()
            process.stdout.close()


def _interpreter() -> dict[str, str]:
    """Return the environment in which neither papermill nor a kernel imports what lies here."""
    settings = {"PYTHONWARNINGS": "default", "PYTHONSAFEPATH": "1"}
    if given := os.environ.get("PYTHONPATH"):
        # A kernel removes the first entry where it is the current folder, which it does not expect
        # to have been named.
        settings["PYTHONPATH"] = os.pathsep.join([os.devnull, given])
    return settings


# --- in such a process


def _serve(asked: IO[str], answers: IO[str], package: Path) -> None:
    """Run notebooks as they are asked for, until nobody can ask any more."""
    if WARM:
        import_nbformat()
        with garbage_collection_paused(), contextlib.suppress(Exception):  # a notebook says why
            for name in ("papermill", *HEAVY):
                import_module(name)
        gc.freeze()  # forks share the memory that no collection touches
    for line in asked:
        given = json.loads(line)
        if not WARM:
            status = _run(asked, package, **given)
        elif child := os.fork():
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        else:
            answers.close()
            os._exit(_run(asked, package, **given))
        print(status, file=answers, flush=True)
        if not WARM:
            return


def _run(
    asked: IO[str],
    package: Path,
    call: Mapping[str, Any],
    environment: Mapping[str, str],
    log: str,
) -> int:
    """Run one notebook in this process, and return its exit status.

    It ends with the batch, and so does the kernel, a child of this process: a killed batch leaves
    nothing running. Figures are stamped with the code of the batch's ``package``, so it must be
    this one.
    """
    with open(log, "ab") as file, open(os.devnull) as nothing:  # noqa: PTH123 - for their numbers
        for number, of in enumerate((nothing, file, file)):
            os.dup2(of.fileno(), number)
    os.environ.update(environment)
    try:
        if (here := paths.package_file("")) != package:
            raise ModelError(
                f"the notebook would run the code in {here}, not the batch's in {package}, which "
                f"only the current folder leads to; install that, or set "
                f"PYTHONPATH={package.parent}"
            )
        given = {"kernel_manager_class": _forked_kernel(asked)} if WARM else {}
        import_nbformat()
        import papermill

        # The file by which the kernel is reached: a killed run leaves it in its work folder.
        tempfile.tempdir = str(Path(call["parameters"]["out"]).parent)
        logging.basicConfig(level=logging.INFO, format="%(message)s")  # cells' output, into the log

        def end_with_batch() -> None:
            os.read(asked.fileno(), 1)  # nothing comes while this notebook runs, until the end
            os._exit(1)

        threading.Thread(target=end_with_batch, daemon=True).start()
        papermill.execute_notebook(
            **call,
            **given,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            log_output=True,
        )
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _forked_kernel(asked: IO[str]) -> type:
    """Fork this process into a kernel, and return what papermill is to manage it by.

    It has no threads yet, and no settings that are papermill's alone. The kernel waits for the file
    that says how it is reached.
    """
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_client.provisioning import LocalProvisioner

    reading, writing = os.pipe()
    parent, child = os.getpid(), os.fork()
    if not child:
        asked.close()
        os.close(writing)
        _be_kernel(parent, os.fdopen(reading).readline())
    os.close(reading)

    class Forked(LocalProvisioner):
        """Starts the kernel that is there already."""

        async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
            self.process = _Child(child)  # type: ignore[assignment]
            self.pid = child
            os.write(writing, f"{self.parent.connection_file}\n".encode())  # type: ignore[union-attr]
            os.close(writing)
            return self.connection_info

    class Manager(AsyncKernelManager):
        """Manages that kernel."""

        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.provisioner = Forked(parent=self, kernel_spec=self.kernel_spec)

    return Manager


class _Child:
    """A process that was forked, as far as a kernel's manager asks for one of `subprocess`."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def wait(self) -> int | None:
        while self.poll() is None:
            time.sleep(0.05)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _be_kernel(parent: int, connection_file: str) -> NoReturn:
    """Serve cells until the manager or the parent ends."""
    from ipykernel.kernelapp import IPKernelApp

    if connection_file:
        for name in [one for one in sys.modules if one.startswith(OF_A_KERNEL)]:
            del sys.modules[name]
        where = ["-f", connection_file.removesuffix("\n")]
        IPKernelApp.launch_instance([*where, f"--IPKernelApp.parent_handle={parent}"])
    os._exit(0)


if __name__ == "__main__":
    # What is printed meanwhile is no answer.
    with os.fdopen(os.dup(0)) as asked, os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        _serve(asked, answers, Path(sys.argv[1]))
