"""The explorers' notebooks without a browser: each opens a working panel on every model.

On a tiny Llama they run with all other notebooks.
"""

import json

import pytest
from ipywidgets.widgets.widget import _remove_buffers

import dysem_lab as dl
from dysem_lab.models.embedded import EMBEDDED
from tests.conftest import REPOSITORY
from tests.notebook_runs import default_parameters, run_notebook
from tests.notebooks.test_browser import CHROMIUM

EXPLORERS = sorted((REPOSITORY / "notebooks" / "explore").glob("*.ipynb"))
ids = [path.stem for path in EXPLORERS]


def check_it_works(path, lens, monkeypatch):
    """The panel shows a figure, its line of Python draws one too, and every slider moves."""
    monkeypatch.setattr(dl, "load_model", lambda model: model)  # a study takes both
    run = run_notebook(path, model=lens)
    panel = run.last.wait(600)
    assert panel.message == ""
    assert panel.figure.data
    state, _, _ = _remove_buffers(panel.plot.get_state())
    json.dumps(state, allow_nan=False)
    exec(panel.python, run.names)
    for control in panel.controls.values():
        if hasattr(control, "min"):
            control.value = control.min
            panel.wait(600)
            assert panel.message == ""


@pytest.mark.parametrize("path", EXPLORERS, ids=ids)
def test_a_notebook_has_one_cell_of_parameters_and_one_that_explores(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    kinds = [cell["cell_type"] for cell in cells]
    assert kinds == ["markdown", "code", "code", "markdown"]
    assert cells[1]["metadata"] == {"tags": ["parameters"]}
    assert "".join(cells[0]["source"]).startswith("# ")
    assert "How to read it" in "".join(cells[3]["source"])


@pytest.mark.parametrize("architecture", ["Qwen3", "Phi3"])
@pytest.mark.parametrize("path", EXPLORERS, ids=ids)
def test_a_notebook_works_on_a_tiny_model_of_another_kind(
    path, architecture, tiny_folder, monkeypatch
):
    check_it_works(path, dl.load_model(tiny_folder(architecture)), monkeypatch)


@pytest.mark.parametrize(
    ("path", "name"),
    # The one that it names itself runs it in JupyterLab, where there is a browser.
    [
        pytest.param(path, name, id=f"{path.stem}-{name}")
        for path in EXPLORERS
        for name in EMBEDDED
        if CHROMIUM is None or name != default_parameters(path)["model"]
    ],
)
def test_a_notebook_works_on_an_embedded_model(path, name, embedded, monkeypatch):
    check_it_works(path, embedded(name), monkeypatch)
