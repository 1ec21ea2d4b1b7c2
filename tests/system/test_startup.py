"""What keeps the first call quick: measured by what is imported, not by the clock."""

import gc
import os
import subprocess
import sys

import pytest

from dysem_lab.startup import garbage_collection_paused


def modules_after(code: str) -> set[str]:
    """Return the modules that a fresh interpreter has after some code."""
    output = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(output.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import dysem_lab as dl; dl.explore_dimensions",
        "from dysem_lab.questions import style; import plotly.io",
        "from dysem_lab.questions import saving; import plotly.io",
    ],
)
def test_what_shows_figures_compiles_no_grammar_of_addresses(code):
    found = modules_after(code)
    assert "nbformat" in found
    assert "rfc3987_syntax" not in found


def test_an_explorer_waits_for_no_statistics_that_it_shows_none_of():
    found = modules_after("import dysem_lab as dl; dl.explore_pair, dl.explore_search")
    assert "dysem_lab.explorers.search_explorer" in found
    assert "scipy.stats" not in found


@pytest.mark.parametrize(
    ("given", "spins"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None"),
    ],
)
def test_waiting_threads_sleep_unless_the_user_says_how_they_wait(given, spins):
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    code = "import os, dysem_lab; print(os.environ.get('GOMP_SPINCOUNT'))"
    said = subprocess.run(
        [sys.executable, "-c", code], env=kept | given, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == spins


def test_jsonschema_still_validates_and_the_grammar_can_still_be_imported():
    code = (
        "from dysem_lab.startup import import_nbformat; nbformat = import_nbformat()\n"
        "nbformat.validate(nbformat.v4.new_notebook())\n"
        "import rfc3987_syntax"
    )
    pytest.importorskip("rfc3987_syntax")
    assert "rfc3987_syntax" in modules_after(code)


def test_the_package_itself_imports_no_library_of_models():
    assert not {"torch", "transformers", "pandas", "plotly"} & modules_after("import dysem_lab")


@pytest.mark.parametrize("was_enabled", [True, False])
def test_the_collector_is_as_it_was(was_enabled):
    before = gc.isenabled()
    try:
        gc.enable() if was_enabled else gc.disable()
        paused = garbage_collection_paused()
        with pytest.raises(KeyError, match="False"), paused:
            raise KeyError(gc.isenabled())
        assert gc.isenabled() == was_enabled
        with garbage_collection_paused():
            assert not gc.isenabled()
        assert gc.isenabled() == was_enabled
    finally:
        gc.enable() if before else gc.disable()
