"""The batch job end to end on a tiny model: captures, figures, skipping, failures, kills."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from dysem_lab import batch, paths
from dysem_lab.analyses.dysem_analyses import decomposition
from dysem_lab.analyses.study import Study
from dysem_lab.data.sts import load_data
from dysem_lab.errors import InputError
from dysem_lab.figures import dysem_figures, saving, style
from dysem_lab.jobs import needs, plan
from dysem_lab.models.loading import load_model
from dysem_lab.models.store import VectorStore

PARAMETERS = {"pairs": 24, "languages": ["en", "ja"]}
TWO = ["01", "02"]
FIGURE = "decomposition_{model}_demo-24"


def command(folder, out, *more):
    return [
        *(sys.executable, "-m", "dysem_lab.cli", "figures", "--model", str(folder)),
        *("--out", str(out), "--pairs", "24", "-p", 'languages=["en","ja"]'),
        *(more if "--only" in more else ("--only", "01", "--only", "02", *more)),
    ]


def running(folder):
    """Return the command lines of processes that mention a folder."""
    lines = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(process.read_bytes().decode(errors="replace"))
    return [line for line in lines if str(folder) in line]


@pytest.fixture(scope="module")
def made(tiny_folder, tmp_path_factory):
    """Run two notebooks once on a tiny model."""
    folder, out = tiny_folder("Llama"), tmp_path_factory.mktemp("figures")
    jobs = plan([str(folder)], "demo", out, only=TWO, parameters=PARAMETERS)
    outcomes = batch.run_batch(jobs, n_parallel=2)
    logs = "\n".join(job.log.read_text() for job in jobs)
    assert set(outcomes.values()) == {"made"}, logs
    return folder, out, jobs


def test_each_figure_has_its_files_and_its_numbers(made):
    folder, out, _ = made
    name = FIGURE.format(model=folder.name)
    table = pd.read_csv(out / f"{name}.csv")
    lens = load_model(folder)
    data = load_data("demo", languages=("en", "ja")).head(24)
    study = Study(lens, data, languages=["en", "ja"], store=VectorStore(out / "own.sqlite"))
    expected = decomposition(study, ["en", "ja"])
    assert table["method"].tolist() == expected["method"].tolist()
    assert table["spearman"].tolist() == pytest.approx(expected["spearman"].tolist(), abs=1e-3)
    record = json.loads((out / f"{name}.json").read_text())
    assert record["model"]["fingerprint"] == lens.fingerprint
    assert [data["digest"] for data in record["data"]] == [data.digest]
    assert record["parameters"]["languages"] == ["en", "ja"]
    assert record["parameters"]["seed"] == 0
    assert set(saving.LIBRARIES) < set(record["versions"])
    page = (out / f"{name}.html").read_text()
    assert 'src="plotly.min.js"' in page
    assert len(page) < 100_000
    assert (out / "plotly.min.js").exists()
    gallery = (out / "README.md").read_text()
    assert record["caption"] in gallery
    assert len(list(out.glob("*.json"))) == 2
    assert sorted(path.name for path in (out / "executed").iterdir() if path.name[0] == ".") == []


def test_png_files_are_written_where_there_is_a_browser(made):
    folder, out, _ = made
    if saving.find_browser() is None:
        pytest.skip("no Chromium for PNG export")
    png = out / f"{FIGURE.format(model=folder.name)}.png"
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert png.stat().st_size > 10_000


def test_what_is_up_to_date_is_skipped_and_what_changed_is_not(made, tmp_path):
    folder, out, jobs = made
    assert all(job.up_to_date() for job in jobs)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.csv")}
    assert set(batch.run_batch(jobs).values()) == {"up to date"}
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.csv")} == before

    for change in ({"seed": 1}, {"languages": ["en", "ru"]}, {"pairs": 23}):
        changed = plan([str(folder)], "demo", out, only=TWO, parameters={**PARAMETERS, **change})
        assert not any(job.up_to_date() for job in changed), change
    csv = next(iter(before))
    text = csv.read_text()
    csv.write_text(text + "tampered\n")
    try:
        assert sum(job.up_to_date() for job in jobs) == 1
    finally:
        csv.write_text(text)
    assert all(job.up_to_date() for job in jobs)


def test_a_failing_notebook_is_reported_and_the_others_go_on(made, tmp_path):
    folder, _, _ = made
    out = tmp_path / "out"
    arguments = command(folder, out, "-p", "setting=klingon", "-p", "seed=3", "--jobs", "2")
    run = subprocess.run(arguments, capture_output=True, text=True)
    assert run.returncode == 1
    assert "unknown prompt setting 'klingon'" in run.stderr.replace("\n", " ")
    assert "02_random_vs_semantic" in run.stderr
    executed = next((out / "executed").glob("02_*.ipynb"))
    assert str(executed) in run.stderr.replace("\n", "")
    errors = [
        output
        for cell in nbformat.read(executed, as_version=4).cells
        for output in cell.get("outputs", [])
        if output.output_type == "error"
    ]
    assert len(errors) == 1
    assert len(list(out.glob("decomposition_*.csv"))) == 1
    assert not list(out.glob("random_vs_semantic_*"))


def test_a_killed_batch_run_again_gives_the_same_numbers(made, tmp_path):
    folder, undisturbed, _ = made
    out = tmp_path / "out"
    arguments = command(folder, out, "--only", "01")
    for seconds in (4, 9):
        process = subprocess.Popen(
            arguments, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 30
        while running(out) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not running(out), "a notebook outlives its batch"
        for csv in out.glob("*.csv"):
            assert csv.read_text() == (undisturbed / csv.name).read_text()
    subprocess.run(arguments, check=True, capture_output=True)
    name = FIGURE.format(model=folder.name)
    assert (out / f"{name}.csv").read_text() == (undisturbed / f"{name}.csv").read_text()


def test_an_interrupt_ends_the_notebooks_and_keeps_what_is_finished(made, tmp_path):
    folder, _, _ = made
    # Several, so that a slow test does not find them all finished.
    several = [part for number in ("01", "02", "03", "04") for part in ("--only", number)]
    process = subprocess.Popen(
        command(folder, tmp_path / "out", *several), start_new_session=True, stderr=-1
    )
    while not any("dysem_lab.batch" in line for line in running(tmp_path)):
        time.sleep(0.2)
    time.sleep(2)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"interrupted" in errors
    assert b"Traceback" not in errors
    deadline = time.monotonic() + 30
    while running(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not running(tmp_path), "a notebook goes on after the interrupt"


def dry_run(folder, out, *more):
    """Return job name → what a dry run says of it."""
    arguments = command(folder, out, "--dry-run", "--json", *more)
    run = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return {row["notebook"].split("_")[0]: row for row in json.loads(run.stdout)}


def test_a_dry_run_says_what_would_run_why_and_what_it_costs(made, tmp_path):
    folder, out, _ = made
    for row in dry_run(folder, out).values():
        assert (row["state"], row["why"], row["passes"]) == ("up to date", "", 0)
    # Another k needs no forward pass, another language only its own.
    again = dry_run(folder, out, "-p", "k=7")
    assert again["01"]["why"] == "changed: parameters"
    assert (again["01"]["passes"], again["02"]["state"]) == (0, "up to date")
    more = dry_run(folder, out, "-p", 'languages=["en","ja","ru"]')
    texts = len(set(load_data("demo", languages=("en", "ru")).head(24).texts("ru")))
    # Notebook 01 uses both prompt settings, and what it captures is there for 02.
    assert (more["01"]["passes"], more["02"]["passes"]) == (2 * texts, 0)
    d_model, vectors = 32, 5
    expected = 2 * texts * vectors * (4 * d_model + 24) / 1e6
    assert more["01"]["megabytes"] == pytest.approx(expected, abs=0.06)
    fresh = dry_run(folder, tmp_path / "other")
    assert {row["why"] for row in fresh.values()} == {"not made yet"}
    assert sum(row["passes"] for row in fresh.values()) == 0


def test_notebooks_read_what_the_batch_captured_without_loading_a_model(made):
    _, _, jobs = made
    for job in jobs:
        log = job.log.read_text()
        assert "Study(" in log
        assert "Loading weights" not in log


def test_two_models_share_one_call_and_one_index(made, tiny_folder, tmp_path):
    folder, _, _ = made
    other = tiny_folder("Qwen3")
    arguments = command(folder, tmp_path, "--model", str(other), "--only", "02", "--jobs", "2")
    run = subprocess.run(arguments, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    index = (tmp_path / "index.html").read_text()
    gallery = (tmp_path / "README.md").read_text()
    for model in (folder, other):
        name = f"random_vs_semantic_{model.name}_demo-24"
        assert f"{name}.html" in index
        assert f"{name}.csv" in gallery


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"only": ["99"]}, "unknown notebook '99'; choose one of: 01_decomposition, 02_random"),
        (
            {"parameters": {"colour": 1}},
            "unknown notebook parameter 'colour'; choose one of: .*seed",
        ),
    ],
)
def test_names_that_no_notebook_has_are_refused(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        plan(["gemma-3-270m"], "demo", tmp_path, **arguments)


@pytest.mark.parametrize("tagged", [0, 2])
def test_a_notebook_needs_exactly_one_parameters_cell(tmp_path, monkeypatch, tagged):
    notebook = nbformat.v4.new_notebook()
    for _ in range(tagged):
        cell = nbformat.v4.new_code_cell("seed = 0", metadata={"tags": ["parameters"]})
        notebook.cells.append(cell)
    nbformat.write(notebook, tmp_path / "01_mine.ipynb")
    monkeypatch.setattr(paths, "notebooks_dir", lambda: tmp_path)
    with pytest.raises(InputError, match=f"01_mine.ipynb has {tagged} cells with the tag"):
        plan(["gemma-3-270m"], "demo", tmp_path)


def test_without_a_browser_everything_but_the_png_is_written(tiny_lens, tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "find_browser", lambda: None)
    study = Study(tiny_lens, "demo", pairs=20, store=VectorStore(tmp_path / "v.sqlite"))
    table = decomposition(study, ["en"])
    figure = dysem_figures.decomposition_figure(table, style.facts(study))
    record = saving.provenance(study, {"k": 1024})
    out = tmp_path / "out"
    with pytest.warns(UserWarning, match="no PNG was written: .*apt-get install chromium"):
        written = saving.save_figure(figure, table, "mine", out, record, "What is seen.")
    assert set(written) == {"html", "csv", "json"}
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["mine.html", "mine.csv", "mine.json", "plotly.min.js"]
    )
    shown = [trace.name for trace in figure.data if trace.name]
    assert shown == [group.replace("^L", "<sup>L</sup>") for group in table["group"].unique()]
    with pytest.raises(InputError, match="'a/b'"):
        saving.save_figure(figure, table, "a/b", out, record, "")


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    file = tmp_path / "x.csv"
    file.write_text("old")

    def fail_halfway():
        with saving.atomic_write(file) as temporary:
            temporary.write_text("half of the ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_halfway()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", ["data", "out"])
def test_data_and_out_are_no_notebook_parameters(tmp_path, name):
    with pytest.raises(InputError, match=f"give --{name}"):
        plan(["gemma-3-270m"], "demo", tmp_path, parameters={name: "stsb"})


@pytest.mark.parametrize(
    ("only", "name", "value", "expected"),
    [
        ("01", "languages", "en", ["en"]),
        ("01", "languages", ["en", "ja"], ["en", "ja"]),
        ("02", "ks", 0.5, [0.5]),
        ("08", "vectors", "mean", ["mean"]),
        ("04", "tasks", "STSB", ["STSB"]),
        ("04", "tasks", None, None),
        ("21", "transfer_tasks", "MR", ["MR"]),
        ("01", "pairs", 5, 5),
    ],
)
def test_one_value_stands_for_a_list_of_it(tmp_path, only, name, value, expected):
    (job,) = plan(["gemma-3-270m"], "demo", tmp_path, only=[only], parameters={name: value})
    assert job.parameters[name] == expected


def test_two_models_of_one_name_are_refused(tmp_path):
    for parent in ("a", "b"):
        (tmp_path / parent / "tiny").mkdir(parents=True)
    models = [str(tmp_path / parent / "tiny") for parent in ("a", "b")]
    with pytest.raises(InputError, match="would both write 01_decomposition_tiny_demo"):
        plan(models, "demo", tmp_path, only=["01"])


def test_a_dry_run_says_what_would_fail_and_what_runs_the_model_itself(tiny_folder, tmp_path):
    folder = str(tiny_folder("Llama"))
    bad = {"languages": ["en", "xx"]}
    (job,) = plan([folder], "demo", tmp_path, only=["01"], parameters=bad)
    assert "unknown language" in job.problem
    assert needs([job])[0].passes == 0
    (job,) = plan([folder], "demo", tmp_path, only=["17"], parameters={"layer": 99})
    assert "layer must be between 0 and 2, got 99" in job.problem
    (board,) = plan([folder], "demo", tmp_path, only=["24"])
    assert board.runs_the_model
    assert not job.runs_the_model


def test_a_name_that_begins_like_another_s_keeps_its_work_folder(tiny_folder, tmp_path):
    jobs = plan(
        [str(tiny_folder("Llama"))], "demo", tmp_path, only=["02"], parameters={"pairs": 24}
    )
    other = tmp_path / "executed" / f".{jobs[0].name}-it.work"
    other.mkdir(parents=True)
    assert batch.run_batch(jobs) == {jobs[0].name: "made"}
    assert other.is_dir()
    assert not (other.parent / f".{jobs[0].name}.work").exists()
    assert batch.run_batch(jobs) == {jobs[0].name: "up to date"}
