"""What comes before torch: threads that sleep, and heavy imports without what they need not do."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

IRI_GRAMMAR = "rfc3987_syntax"
SPINS = "1000"  # of a waiting thread before it sleeps; libgomp's own number is 300,000


def let_waiting_threads_sleep() -> None:
    """Have OpenMP's threads sleep where they wait, unless the user says how they wait.

    By default they spin, so that two kernels on one machine keep each other's threads from the
    cores: on two cores a capture of 4 seconds took 11 beside another one, and 7 when they sleep.
    It has to be set before torch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Pause the collector while a million objects are made that stay, since it visits them all.

    Imports of torch and transformers take an eighth less so, a large vocabulary half.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def import_nbformat() -> ModuleType:
    """Return nbformat, imported without a grammar that no notebook needs.

    nbformat imports jsonschema, and that imports rfc3987-syntax where it is installed, as it is
    with JupyterLab: a grammar of internationalised addresses that takes five to ten seconds to
    compile. plotly imports nbformat before it first shows or saves a figure or makes a widget of
    one, and papermill at once; so call this before them.
    """
    if "jsonschema" not in sys.modules and IRI_GRAMMAR not in sys.modules:
        sys.modules[IRI_GRAMMAR] = None  # type: ignore[assignment]  # its import fails, as if absent
        try:
            import_module("jsonschema")
        finally:
            del sys.modules[IRI_GRAMMAR]
    import nbformat

    return nbformat
