"""Every figure notebook and every explorer runs to its end, on a tiny model and a few pairs.

Only their cells and parameters, and the files and widgets that come of them, are looked at.
"""

import json
import re
from itertools import cycle, islice

import pandas as pd
import plotly.graph_objects as go
import plotly.io
import pytest
from ipywidgets.widgets.widget import _remove_buffers

from tests.conftest import REPOSITORY
from tests.notebook_runs import code_cells, default_parameters, run_notebook

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("[0-9][0-9]_*.ipynb"))
EXPLORERS = sorted((REPOSITORY / "notebooks" / "explore").glob("*.ipynb"))

# What makes a run short; a notebook takes those that it has. The blocks of its contrasts stay: the
# tiny model has as many as they need.
FEW = {
    "languages": ["en", "fr", "zh"],
    "pairs": 6,
    "m": 2,
    "n_seeds": 2,
    "seeds": [0],
    "n_random": 2,
    "n_rotations": 2,
    "n_changed": 4,
    "n_texts": 4,
    "n_timed": 2,
    "rounds": 2,
    "inner_folds": 2,
    "layers": [3, 4],
    "alphas": [1.0, 2.0],
    "auxiliaries": ["irrelevant", "sentiment"],
    "other": "fr",  # rendering that notebook 14 takes for the second translator's
    "top": 3,
    "methods": ["all"],  # the trained reference would only take its time
}
FEW_OF = {"21_transfer": {"sample": 36}}  # texts of each task; no pairs
# Where a notebook shows several tasks it gets two, one of them in English alone.
SEVERAL = {"03", "04", "05", "06", "07", "08", "09", "10", "15", "20", "24"}
TASKS = {
    "STS16": ({"en": "en_mteb/STS16.csv"}, 1186),
    "STSB": ({code: f"stsb/test.{code}.csv" for code in FEW["languages"]}, 1379),
}
# Columns that have nothing to say here: the model is in no paper, the contrasts are of all heads,
# no task is scored by F1, and no data have dev pairs.
EMPTY = {
    *("chosen_on", "choosing_score"),
    *("heads", "f1", "note", "preset", "origin", "published", "difference"),
    *("published_dims", "published_pairs", "published_vector"),
}
# What a caption that only names its measure begins with.
NO_SENTENCE = re.compile(
    "Spearman × 100|Accuracy|Mean accuracy|Gain|Time as|Mean Jaccard|Share|KL|Area|Next token"
)
MOST_NUMBERS = 80
# What is typed into the boxes of the explorers; all others take a sentence of the demo set.
SENTENCE = "My new laptop is light and very fast."
TYPED = {
    "languages": "en, zh",
    "receiver": "Nobody answered the phone.",  # not the donor, which would change nothing
    **dict.fromkeys(("renderings", "first_renderings", "second_renderings"), "fr: Il pleut."),
}


@pytest.fixture(scope="module")
def deep_folder(tiny_folder, _one_thread):
    """Return the folder of a random model with as many blocks as the notebooks' contrasts need."""
    return tiny_folder("Llama", n_layers=8)


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory):
    """Return a folder of two STS tasks of their published sizes, made of the demo set."""
    folder = tmp_path_factory.mktemp("tasks")
    demo = REPOSITORY / "dysem_lab" / "demo"
    for files, size in TASKS.values():
        for code, name in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            lines = (demo / f"test.{code}.csv").read_text(encoding="utf-8").splitlines()
            rows = [lines[0], *islice(cycle(lines[1:]), size)]
            (folder / name).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def _no_browser(monkeypatch):
    """Let a PNG cost nothing, and a figure show itself as in JupyterLab."""

    monkeypatch.setenv("BROWSER_PATH", "none is started")
    monkeypatch.setattr(go.Figure, "to_image", lambda figure, **options: b"PNG")
    monkeypatch.setattr(plotly.io.renderers, "default", "plotly_mimetype")


def few(path, model, out, tasks):
    """Return the parameters that make a notebook's run short."""
    own = default_parameters(path)
    given = {name: value for name, value in FEW.items() if name in own}
    given |= FEW_OF.get(path.stem, {})
    if path.stem[:2] in SEVERAL:
        given |= {"data": str(tasks), "tasks": list(TASKS)}
    return given | {"model": str(model), "out": str(out)}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.usefixtures("_no_browser")
def test_a_figure_notebook_shows_and_saves_its_figures(path, deep_folder, task_folder, tmp_path):
    given = few(path, deep_folder, tmp_path, task_folder)
    run = run_notebook(path, **given)
    records = [json.loads(file.read_text(encoding="utf-8")) for file in tmp_path.glob("*.json")]
    n_saves = sum(source.count(".save(out)") for source, _ in code_cells(path))
    assert len(run.figures) == len(records) >= n_saves > 0
    for record in records:
        name = record["name"]
        kinds = {file.suffix for file in tmp_path.iterdir() if file.stem == name}
        assert kinds == {".csv", ".json", ".html", ".png"}
        table = pd.read_csv(tmp_path / f"{name}.csv")
        assert len(table)
        assert {column for column in table if table[column].isna().all()} <= EMPTY
        if "reproduced" in table:
            shown = run.names["finding"].table["reproduced"]
            assert table["reproduced"].tolist() == pytest.approx(
                shown.tolist(), rel=1e-5, nan_ok=True
            )
        assert record["caption"] in run.text
        check_caption(record["caption"])
        assert record["model"]["name"] == deep_folder.name
        assert record["parameters"]
        for parameter, value in record["parameters"].items():
            assert given.get(parameter, value) == value
        if "tasks" in given:
            assert {one["task"] for one in record["data"]} == set(TASKS)
            assert "task" not in table or set(TASKS) <= set(table["task"])
    for figure in run.figures:
        assert figure["data"]
        assert deep_folder.name in json.dumps(figure["layout"])
        under = figure["layout"]["title"]["subtitle"]["text"].replace(deep_folder.name, "")
        assert not re.findall(r"\w*[a-z]_[a-z]\w*|\bn [a-z]+", under), under  # keys of the code


def check_caption(caption):
    """A caption begins with a sentence of what is found, and is no list of numbers."""
    assert not NO_SENTENCE.match(caption), caption
    assert len(re.findall(r"\d+(?:\.\d+)?", caption)) < MOST_NUMBERS, caption


def another(name, control):
    """Return a value that a control does not have yet: an end, a step, an option, a text."""
    if hasattr(control, "options"):
        values = [value for _, value in control._options_full]
        return values[0] if control.value == values[-1] else values[-1]
    if hasattr(control, "min"):
        return control.min + control.step if control.value == control.min else control.min
    return TYPED.get(name, SENTENCE)


@pytest.mark.parametrize("path", EXPLORERS, ids=lambda path: path.stem)
@pytest.mark.usefixtures("_no_browser")
@pytest.mark.filterwarnings("ignore:pairs without a similarity")  # of three, on random weights
def test_an_explorer_follows_each_of_its_controls(path, deep_folder):
    given = {"pairs": 3} if "pairs" in default_parameters(path) else {}
    run = run_notebook(path, model=str(deep_folder), **given)
    panel = run.last.wait(60)
    assert panel.message == ""
    assert panel.figure.data
    for name, control in panel.controls.items():
        shown, old = panel.figure, control.value
        control.value = new = another(name, control)
        panel.wait(60)
        assert panel.message == "", f"{name} = {new!r}"
        assert new == old or panel.figure is not shown, f"{name} = {new!r}"
        assert panel.figure.data
    json.dumps(_remove_buffers(panel.plot.get_state())[0], allow_nan=False)
    exec(panel.python, run.names)
