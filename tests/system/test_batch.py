"""The batch job end to end on a tiny model: captures, figures, skipping, failures, kills."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest
from typer.testing import CliRunner

from dysem_lab import paths
from dysem_lab.batch import run as batch
from dysem_lab.batch.again import again, require_same
from dysem_lab.batch.jobs import ELSEWHERE, needs, plan
from dysem_lab.cli import cli
from dysem_lab.data.sts import load_data
from dysem_lab.errors import DataError, DysemLabError, InputError
from dysem_lab.models.loading import load_model
from dysem_lab.models.store import VectorStore
from dysem_lab.questions import decomposition, saving
from dysem_lab.questions.finding import facts_of
from dysem_lab.questions.study import Study
from tests.conftest import REPOSITORY
from tests.unwritable import read_only

PARAMETERS = {"pairs": 24, "languages": ["en", "ja"]}
TWO = ["01", "02"]
FIGURE = "decomposition_{model}_demo-24"


def arguments(folder, out, *more):
    return [
        *("figures", "--model", str(folder), "--out", str(out)),
        *("--pairs", "24", "-p", 'languages=["en","ja"]'),
        *(more if "--only" in more else ("--only", "01", "--only", "02", *more)),
    ]


def command(*given):
    return [sys.executable, "-m", "dysem_lab.cli", *arguments(*given)]


def run(*given):
    """Run the same in this process, which has imported it all."""
    return CliRunner().invoke(cli, arguments(*given), catch_exceptions=False)


def run_figures(*given):
    return CliRunner().invoke(cli, ["figures", *given], catch_exceptions=False)


def below(pid):
    """Return the processes that a process has started, and those that they have."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def of_another(job):
    """Return the work folder of a job whose name begins like that of this one."""
    return job.stamp.parent / f".{job.name}-it.work"


def connections(out):
    """Return the files by which kernels are reached, each in the work folder of its notebook."""
    return set((out / "executed").glob(".*.work/*.json"))


@pytest.fixture(scope="module")
def made(tiny_folder, tmp_path_factory):
    """Run two notebooks once on a tiny model."""
    folder, out = tiny_folder("Llama"), tmp_path_factory.mktemp("figures")
    jobs = plan([str(folder)], "demo", out, only=TWO, parameters=PARAMETERS)
    of_another(jobs[0]).mkdir(parents=True)
    outcomes = batch.run_batch(jobs, n_parallel=2)
    logs = "\n".join(job.log.read_text() for job in jobs)
    assert set(outcomes.values()) == {"made"}, logs
    return folder, out, jobs


def test_each_figure_has_its_files_and_its_numbers(made):
    folder, out, jobs = made
    name = FIGURE.format(model=folder.name)
    table = pd.read_csv(out / f"{name}.csv")
    lens = load_model(folder)
    data = load_data("demo", languages=("en", "ja")).head(24)
    study = Study(lens, data, languages=["en", "ja"], store=VectorStore(out / "own.sqlite"))
    expected = decomposition.table(study, ["en", "ja"])
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
    assert [path for path in (out / "executed").iterdir() if path.name[0] == "."] == [
        of_another(jobs[0])
    ]


def again_one(*given, **more):
    """Return the one job that a record names."""
    (job,) = again(*given, **more).jobs
    return job


def test_a_figure_is_made_again_from_its_record(made, tmp_path):
    folder, out, jobs = made
    file = out / f"{FIGURE.format(model=folder.name)}.json"
    record = json.loads(file.read_text())
    assert str(folder) not in json.dumps(record["made_by"])  # a path is of one machine
    assert record["made_by"]["parameters"]["model"] == f"{ELSEWHERE}{folder.name}"
    assert {"processor", "cores", "threads"} <= set(record["machine"])
    job = again_one(file, out, models=[str(folder)])
    assert job in jobs
    assert not job.why()
    with pytest.raises(InputError, match=f"named '{folder.name}'; give it with --model PATH"):
        again(file, out)
    with pytest.raises(InputError, match="says itself what k is"):
        again(file, out, models=[str(folder)], parameters={"k": 7})

    elsewhere = tmp_path / "record.json"
    for named in ("sts", f"{ELSEWHERE}sts"):
        record["made_by"]["parameters"]["data"] = named
        elsewhere.write_text(json.dumps(record))
        with pytest.raises(InputError, match="named 'sts'; give it with --data PATH"):
            again(elsewhere, out, models=[str(folder)])
        assert again_one(elsewhere, out, models=[str(folder)], data="demo") in jobs
    for name in ("", "0", "01"):  # `--only` takes beginnings, a record has the whole name
        elsewhere.write_text(json.dumps({"made_by": {**record["made_by"], "notebook": name}}))
        with pytest.raises(InputError, match=f"record.json: unknown notebook '{name}'"):
            again(elsewhere, out, models=[str(folder)], data="demo")
    record["made_by"]["folder"] = "../../elsewhere"
    wrong = [record, {"made_by": {"notebook": "01"}}, {}, []]
    for text in ("", *map(json.dumps, wrong)):
        elsewhere.write_text(text)
        with pytest.raises(InputError, match="does not say how to make it again"):
            again(elsewhere, out)


def test_all_figures_of_a_folder_are_made_again_each_job_once(made, tmp_path):
    """Two notebooks whose figures are there, one also for other tasks, one for another seed."""
    folder, out, jobs = made
    records = {file.name: json.loads(file.read_text()) for file in out.glob("*.json")}
    named = dict(zip(("02", "01"), sorted(records, reverse=True), strict=True))
    twice = {**records[named["01"]], "name": "a second figure of one job"}
    of_tasks = json.loads(json.dumps(records[named["02"]]))
    of_tasks["made_by"]["parameters"]["tasks"] = ["STS12", "STSB"]
    of_task = json.loads(json.dumps(of_tasks))
    of_task["made_by"]["parameters"]["tasks"] = ["STSB"]
    of_seed = json.loads(json.dumps(records[named["01"]]))
    of_seed["made_by"]["parameters"]["seed"] = 1
    of_seed["made_by"]["folder"] = "seeds/1"
    old = {name: of for name, of in records[named["01"]].items() if name != "made_by"}
    here = tmp_path / "here"
    (here / "seeds" / "1").mkdir(parents=True)
    for name, record in {
        **records,
        **{"twice.json": twice, "tasks.json": of_tasks, "task.json": of_task},
        **{"seeds/1/x.json": of_seed, "old.json": old},
    }.items():
        (here / name).write_text(json.dumps(record))
    (here / "own.json").write_text("[1]")

    found = again(here, out, models=[str(folder)])
    assert (found.n_records, [file.name for file in found.silent]) == (8, ["old.json", "own.json"])
    assert len(found.jobs) == 5
    assert all(job in found.jobs for job in jobs)
    assert len({job.stamp for job in found.jobs}) == 5
    assert {job.out: job.parameters["seed"] for job in found.jobs} == {
        out: 0,
        out / "seeds" / "1": 1,
    }
    given = ("--from", str(here), "--model", str(folder), "--out", str(out))
    shown = run_figures(*given, "--dry-run", "--json")
    said = " ".join(shown.stderr.split())
    assert f"2 of 8 records in {here} do not say how to make them again" in said
    assert "old.json, own.json" in said
    states = {row["notebook"]: row["state"] for row in json.loads(shown.stdout)}
    assert {job.name for job in jobs} == {
        name for name, state in states.items() if state == "up to date"
    }
    assert {"2-tasks", "STSB"} <= {part for name in states for part in name.split("_")}

    with pytest.raises(InputError, match=rf"machine .*: --model PATH/{folder.name} \(5\)"):
        again(here, out)
    with pytest.raises(InputError, match=r"no record in .* names a folder or file 'x' as its data"):
        again(here, out, models=[str(folder)], data=str(tmp_path / "x"))
    other = tmp_path / "other" / folder.name
    with pytest.raises(InputError, match=f"could both be the model .* call '{folder.name}'"):
        again(here, out, models=[str(folder), str(other)])
    for name in ("only", "none"):
        (tmp_path / name).mkdir()
    (tmp_path / "only" / "old.json").write_text(json.dumps(old))
    with pytest.raises(InputError, match=r"none of 1 record in .* says how to make"):
        again(tmp_path / "only", out)
    with pytest.raises(InputError, match=r"none of 0 records in .* says how to make"):
        again(tmp_path / "none", out)


def test_figures_of_another_seed_are_made_again_beside_the_others(made, tmp_path):
    """The names of files do not tell a seed: in one folder they would replace the others."""
    folder, _, jobs = made
    first = tmp_path / "first"
    (job,) = plan([str(folder)], "demo", first / "seeds" / "1", only=["01"], parameters=PARAMETERS)
    assert job.made_by["folder"] == "seeds/1"
    assert "folder" not in jobs[0].made_by
    (first / "seeds" / "1").mkdir(parents=True)
    record = first / "seeds" / "1" / "a.json"
    record.write_text(json.dumps({"made_by": job.made_by}))
    for place, out in ((record, first), (first, first), (record.parent, record.parent)):
        assert again_one(place, out, models=[str(folder)]) == job


def test_other_data_or_weights_of_the_same_name_are_refused(tiny_folder, tmp_path):
    """They would make other numbers under the record of the first."""
    model, pairs = tmp_path / "small", tmp_path / "pairs"
    shutil.copytree(tiny_folder("Llama"), model)
    shutil.copytree(paths.demo_dir(), pairs)
    given = {"models": [str(model)], "data": str(pairs)}
    (job,) = plan([str(model)], str(pairs), tmp_path, only=["01"], parameters=PARAMETERS)
    digest = load_data(pairs, languages=("en", "ja")).head(24).digest
    source = load_model(model).facts.source
    file = tmp_path / "a.json"
    record = {
        "made_by": job.made_by,
        "data": [{"label": "my pairs", "digest": digest}],
        "model": {"source": source},
    }
    file.write_text(json.dumps(record))
    require_same(again(file, tmp_path, **given))
    arguments = ("--from", str(file), "--model", str(model), "--data", str(pairs), "--dry-run")
    assert run_figures(*arguments).exit_code == 0

    table = pd.read_csv(pairs / "test.ja.csv", dtype=str)
    table.loc[0, "sentence1"] += "。"
    table.to_csv(pairs / "test.ja.csv", index=False)
    now = load_data(pairs, languages=("en", "ja")).head(24).digest
    assert now != digest
    told = rf"a\.json was .* my pairs had the digest {digest}; here is {now}\. .* without --from"
    with pytest.raises(InputError, match=told):
        run_figures(*arguments)
    with pytest.raises(InputError, match=told):  # of a folder likewise
        require_same(again(tmp_path, tmp_path, **given))
    require_same(again(file, tmp_path, models=[str(model)], data="demo"))  # meant to be another

    shutil.copytree(paths.demo_dir(), pairs, dirs_exist_ok=True)
    config = model / "config.json"
    config.write_text(config.read_text() + "\n")  # any file that a model is loaded from
    told = rf"small had the digest {source}; here is \w+\. Give those weights"
    with pytest.raises(InputError, match=told):
        require_same(again(file, tmp_path, **given))
    del record["data"], record["model"]  # as before there were digests
    file.write_text(json.dumps(record))
    require_same(again(file, tmp_path, **given))


def test_what_every_committed_record_says_makes_it_again(tmp_path):
    found = again(REPOSITORY / "figures", tmp_path)
    assert len({job.stamp for job in found.jobs}) == len(found.jobs)
    for job in found.jobs:
        assert not job.other_languages
    names = {job.notebook.stem for job in found.jobs}
    assert {"25_audit", "26_why_similar", "27_causal", "29_heads"} <= names


def test_a_parameter_that_is_a_path_is_recorded_by_its_last_part(tmp_path):
    (tmp_path / "pairs").mkdir()
    given = {"other_data": str(tmp_path / "pairs"), "other_label": "this / that"}
    (job,) = plan([], "demo", tmp_path, only=["14"], parameters=given)
    parameters = job.made_by["parameters"]
    assert (parameters["other_data"], parameters["other_label"]) == ("…/pairs", "this / that")
    assert (parameters["data"], parameters["model"]) == ("demo", "gemma-3-270m")
    (hub,) = plan(["owner/model"], "demo", tmp_path, only=["01"])
    assert hub.made_by["parameters"]["model"] == "owner/model"  # all of it is its name

    record = tmp_path / "a.json"
    record.write_text(json.dumps({"made_by": job.made_by}))
    with pytest.raises(InputError, match="give it with -p other_data=PATH"):
        again(record, tmp_path)
    assert again_one(record, tmp_path, parameters={"other_data": given["other_data"]}) == job
    with pytest.raises(InputError, match=r"-p other_data=PATH/pairs \(1\)"):
        again(tmp_path, tmp_path)
    assert again_one(tmp_path, tmp_path, parameters={"other_data": given["other_data"]}) == job


def test_a_mapping_is_a_value_where_a_notebook_has_one(tmp_path):
    x = {"en": "It rains.", "fr": "Il pleut."}
    (job,) = plan([], "demo", tmp_path, only=["26"], parameters={"x": x})
    (own,) = plan([], "demo", tmp_path, only=["26"])
    assert job.parameters["x"] == x
    assert job.name != own.name  # as the names of their figures
    for wrong in ("It rains.", {"en": 3}, ["It rains."]):
        with pytest.raises(InputError, match="'x' must be a mapping of strings"):
            plan([], "demo", tmp_path, only=["26"], parameters={"x": wrong})


def test_png_files_are_written_where_there_is_a_browser(made):
    folder, out, _ = made
    if saving.find_browser() is None:
        pytest.skip("no Chromium for PNG export")
    png = out / f"{FIGURE.format(model=folder.name)}.png"
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert png.stat().st_size > 10_000


def test_what_is_up_to_date_is_skipped_and_what_changed_is_not(made, tmp_path):
    folder, out, jobs = made
    assert not any(job.why() for job in jobs)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.csv")}
    assert set(batch.run_batch(jobs).values()) == {"up to date"}
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.csv")} == before

    for change in ({"seed": 1}, {"languages": ["en", "ru"]}, {"pairs": 23}):
        changed = plan([str(folder)], "demo", out, only=TWO, parameters={**PARAMETERS, **change})
        assert all(job.why() for job in changed), change
    csv = next(iter(before))
    text = csv.read_text()
    csv.write_text(text + "tampered\n")
    try:
        assert sum(not job.why() for job in jobs) == 1
    finally:
        csv.write_text(text)
    assert not any(job.why() for job in jobs)


def test_a_failing_notebook_is_reported_and_the_others_go_on(made, tmp_path, monkeypatch):
    (folder, _, jobs), out = made, tmp_path / "out"
    copies = tmp_path / "notebooks"
    copies.mkdir()
    for job in jobs:
        shutil.copy(job.notebook, copies)
    broken = nbformat.read(copies / jobs[1].notebook.name, as_version=4)
    broken.cells.append(nbformat.v4.new_code_cell("raise ValueError('no such moon')"))
    nbformat.write(broken, copies / jobs[1].notebook.name)
    monkeypatch.setattr(paths, "notebooks_dir", lambda: copies)
    done = run(folder, out, "-p", "seed=3", "--jobs", "2")
    assert done.exit_code == 1
    assert "no such moon" in done.stderr.replace("\n", " ")
    assert "02_random_vs_semantic" in done.stderr
    executed = next((out / "executed").glob("02_*.ipynb"))
    assert str(executed) in done.stderr.replace("\n", "")
    errors = [
        output
        for cell in nbformat.read(executed, as_version=4).cells
        for output in cell.get("outputs", [])
        if output.output_type == "error"
    ]
    assert len(errors) == 1
    assert len(list(out.glob("decomposition_*.csv"))) == 1
    assert not list(out.glob("random_vs_semantic_*"))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"setting": "klingon"}, "unknown prompt setting 'klingon'"),
        ({"languages": "xx"}, "unknown language 'xx'"),  # one name, not its letters
        ({"pairs": "lots"}, "lots"),
        ({"template": "prompteo"}, "did you mean 'prompteol'"),
        ({"vector": "klingon"}, "unknown vector 'klingon'"),
    ],
)
def test_parameters_that_a_study_refuses_fail_before_anything_runs(
    tiny_folder, tmp_path, monkeypatch, parameters, message
):
    monkeypatch.setattr(batch.Kernels, "run", lambda *_: pytest.fail("it was run"))
    (job,) = plan([str(tiny_folder())], "demo", tmp_path, only=["02"], parameters=parameters)
    assert batch.run_batch([job]) == {job.name: "failed"}
    assert message in batch.failure(job)


def test_a_batch_gives_the_same_numbers_though_it_was_killed_and_whatever_surrounds_it(
    made, tiny_folder, tmp_path, monkeypatch
):
    """Modules and JSON files of others, and names with braces, which papermill would fill in."""
    folder, undisturbed, _ = made
    other = tiny_folder("Qwen3")
    here, out = tmp_path / "here", tmp_path / "o{u}t {0} {"
    model = here / "{model} {} it"
    shutil.copytree(folder, model)
    for module in ("html", "json", "pathlib", "fnmatch", "zmq", "pandas", "IPython", "dysem_lab"):
        (here / f"{module}.py").write_text("raise SystemExit('imported from the current folder')")
    out.mkdir()
    foreign = {"cut.json": b'{"name": "cut"', "list.json": b"[1]", "binary.json": b"\xff\x00"}
    for name, content in foreign.items():
        (out / name).write_bytes(content)
    temporary = Path(tempfile.mkdtemp())  # its path is short, which Chromium needs of it
    monkeypatch.setenv("TMPDIR", str(temporary))
    executable, *rest = command(model, out, "--model", str(other), "--only", "02")
    of_both = [executable, "-P", *rest]
    for sign in (signal.SIGKILL, signal.SIGINT):
        left = connections(out)
        process = subprocess.Popen(
            of_both, cwd=here, start_new_session=True, stderr=subprocess.PIPE
        )
        # Until there is a kernel, which then imports for seconds.
        while process.poll() is None and not connections(out) - left:
            time.sleep(0.05)
        time.sleep(1)
        assert process.poll() is None, process.stderr.read()
        started = below(process.pid)
        assert len(started) >= 3, "a process that forks, a notebook and its kernel"
        os.killpg(process.pid, sign)
        _, errors = process.communicate(timeout=60)
        _, alive = psutil.wait_procs(started, timeout=30)
        assert not alive, "a notebook outlives its batch"
        assert not list(temporary.glob("*.json")), "the file of a kernel's connection stays"
        assert not list(out.glob("*.csv"))
    assert process.returncode == 130
    assert b"interrupted" in errors
    assert b"Traceback" not in errors
    done = subprocess.run([*of_both, "--jobs", "2"], cwd=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stderr.split())
    for name, content in foreign.items():
        assert f"{name} is no record of a figure" in said
        assert (out / name).read_bytes() == content
    records = list(out.glob("random_vs_semantic_*_demo-24.json"))
    assert len(records) == 2
    index = (out / "index.html").read_text("utf-8")
    gallery = (out / "README.md").read_text("utf-8")
    for record in records:
        assert f"{record.stem}.html" in index
        assert f"### {record.stem}" in gallery
        assert f"{record.stem}.csv" in gallery
    (ours,) = (record for record in records if other.name not in record.stem)
    (theirs,) = undisturbed.glob("random_vs_semantic_*.csv")
    assert ours.with_suffix(".csv").read_text() == theirs.read_text()
    assert (out / "executed" / "02_random_vs_semantic_{model} {} it_demo_24.ipynb").is_file()
    assert not [path for path in (out / "executed").iterdir() if path.name[0] == "."]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", out.name]
    assert not list(temporary.glob("*.json"))
    shutil.rmtree(temporary)


def test_a_notebook_that_would_run_other_code_than_its_batch_does_not_run(tmp_path):
    command = [sys.executable, "-m", "dysem_lab.batch.kernels", str(tmp_path)]
    log = tmp_path / "log"
    asked = json.dumps({"call": {}, "environment": {}, "log": str(log)}) + "\n"
    run = subprocess.run(command, input=asked, capture_output=True, text=True)
    assert run.stdout == "1\n", run.stderr
    assert f"not the batch's in {tmp_path}" in log.read_text()
    assert f"set PYTHONPATH={tmp_path.parent}" in log.read_text()


STAMPS = (
    *("", "{", "[]", "3", "null", '"text"', "[" * 10**5, "\0"),
    *('{"inputs": 3, "files": {}}', '{"inputs": {}, "files": 3}', '{"inputs": null}'),
    *('{"inputs": ["a"], "files": {}}', '{"inputs": {}, "files": ["a"]}'),
)


@pytest.mark.parametrize("stamp", [*STAMPS, b"\xff\xfe"])
def test_a_stamp_that_says_nothing_is_none(tmp_path, stamp):
    (job,) = plan(["gemma-3-270m"], "demo", tmp_path, only=["01"])
    job.stamp.parent.mkdir()
    job.stamp.write_bytes(stamp if isinstance(stamp, bytes) else stamp.encode())
    assert job.why() == "not made yet"


@pytest.mark.parametrize(
    "files",
    [
        {"a.csv": 3},
        {"a.csv": None},
        {"a.csv": "0" * 64},
        {"gone.csv": "0" * 64},
        {"folder": "0" * 64},
        {"": "0" * 64},
        {"\0": "0" * 64},
        {"x" * 300: "0" * 64},
        {"../../etc/passwd": "0" * 64},
    ],
)
def test_files_of_a_stamp_that_are_not_there_or_not_those_are_made_anew(tmp_path, files):
    (tmp_path / "a.csv").write_text("here")
    (tmp_path / "folder").mkdir()
    (job,) = plan(["gemma-3-270m"], "demo", tmp_path, only=["01"])
    job.stamp.parent.mkdir()
    job.stamp.write_text(json.dumps({"inputs": job.inputs(), "files": {}}))
    assert not job.why()
    job.stamp.write_text(json.dumps({"inputs": job.inputs(), "files": files}))
    (name,) = files
    assert job.why().startswith((f"{name} is gone", f"{name} was changed", f"{name} cannot be"))


@pytest.mark.parametrize(
    ("notebook", "name", "given", "taken"),
    [
        ("01", "languages", "en", ["en"]),
        ("01", "languages", ("en", "ja"), ["en", "ja"]),
        ("01", "k", 0.25, 0.25),
        ("02", "ks", 0.5, [0.5]),
        ("03", "tasks", "STSB", ["STSB"]),
        ("03", "tasks", None, None),
        ("03", "tasks", ["STSB"], ["STSB"]),
        ("16", "output_layer", 3, 3),
        ("17", "templates", "knowledge", ["knowledge"]),
        ("15", "output_layers", ["final", 3], ["final", 3]),
        ("24", "translator", "apertium", "apertium"),
        ("21", "transfer_tasks", "MR", ["MR"]),
        ("08", "vectors", "mean", ["mean"]),
        ("01", "pairs", 5, 5),
    ],
)
def test_a_single_value_is_a_list_of_one_where_a_notebook_has_a_list(
    tmp_path, notebook, name, given, taken
):
    jobs = plan(["gemma-3-270m"], "demo", tmp_path, only=[notebook], parameters={name: given})
    assert jobs[0].parameters[name] == taken


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("seed", "one", "a number, such as 0, got 'one'"),
        ("seed", [1], "a number"),
        ("seed", None, "a number"),
        ("seed", True, "a number"),
        ("k", float("nan"), "a number"),
        ("k", 1e999, "a number"),
        ("k", {"a": 1}, "a number"),
        ("languages", {"en", "ja"}, "a list of strings or numbers"),
        ("languages", [["en"]], "a list of strings or numbers"),
        ("languages", None, "a list of strings or numbers"),
        ("template", ["prompteol"], "a string, such as 'prompteol'"),
        ("template", None, "a string"),
        ("pairs", {1, 2}, "a number, a string or a list"),
        ("pairs", b"12", "a number, a string or a list"),
        ("pairs", 3j, "a number, a string or a list"),
        ("pairs", ..., "a number, a string or a list"),
    ],
)
def test_a_value_of_another_kind_is_refused_before_anything_runs(tmp_path, name, value, kind):
    with pytest.raises(InputError, match=f"notebook parameter '{name}' must be {kind}"):
        plan(["gemma-3-270m"], "demo", tmp_path, only=["01"], parameters={name: value})


def test_a_notebook_takes_those_of_its_languages_that_the_data_have(tmp_path):
    table = pd.DataFrame({"sentence1": ["a b"], "sentence2": ["b c"], "score": [1.0]})
    own, others, one = ("en", "ru", "fr"), ("en", "fr", "de"), ("en",)
    for name, codes in (("own", own), ("others", others), ("one", one)):
        (tmp_path / name).mkdir()
        for code in codes:
            table.to_csv(tmp_path / name / f"test.{code}.csv", index=False)

    def languages(data, **given):
        (job,) = plan([], str(data), tmp_path, only=["01"], parameters=given)
        return job.parameters["languages"], job.other_languages

    assert languages("demo") == (["en", "ja", "ru"], False)
    assert languages("hub") == (["en", "ru"], True)
    assert languages(tmp_path / "own") == (["en", "ru"], True)
    assert languages(tmp_path / "others") == (["en", "fr", "de"], True)
    assert languages(tmp_path / "one") == (["en", "ja", "ru"], False)  # refused by the study
    assert languages("hub", languages=["en", "ja"]) == (["en", "ja"], False)
    said = run_figures("--data", str(tmp_path / "own"), "--only", "01", "--dry-run")
    assert "lack languages of notebook 01: in en, ru instead" in said.stderr


def test_known_names_are_not_folders_that_happen_to_be_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("demo", "gemma-3-270m", "mine"):
        (tmp_path / name).mkdir()
    (job, other) = plan(["gemma-3-270m", "mine"], "demo", tmp_path, only=["01"])
    assert (job.parameters["model"], job.parameters["data"]) == ("gemma-3-270m", "demo")
    assert other.parameters["model"] == str(tmp_path / "mine")


@pytest.mark.parametrize("of_model", ["x" * 240, "語" * 80])
def test_a_name_that_is_too_long_for_a_file_is_cut(tmp_path, of_model):
    names = []
    for last in "ab":
        for folder in (of_model[:-1] + last, "d" * 240):
            (tmp_path / folder).mkdir(exist_ok=True)
        model, data = str(tmp_path / (of_model[:-1] + last)), str(tmp_path / ("d" * 240))
        (job,) = plan([model], data, tmp_path, only=["01"])
        assert job.why() == "not made yet"
        names.append(job.name)
    assert max(len(f"{name}.ipynb".encode()) for name in names) < 250
    assert len(set(names)) == 2


@pytest.mark.parametrize("what", ["model", "data"])
def test_what_no_path_can_be_is_refused(tmp_path, what):
    given = {"model": "gemma-3-270m", "data": "demo"} | {what: "x" * 300}
    with pytest.raises(InputError, match=rf"{what} 'xxx"):
        plan([given["model"]], given["data"], tmp_path, only=["01"])


def test_the_model_may_be_a_parameter_but_not_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (job,) = plan([], "demo", "out", only=["01"], parameters={"model": "mine"})
    assert job.parameters["model"] == str(tmp_path / "mine")
    with pytest.raises(InputError, match="both by --model and by -p model"):
        plan(["gemma-3-270m"], "demo", "out", only=["01"], parameters={"model": "mine"})


def test_models_whose_figures_would_have_one_name_are_refused(tmp_path):
    for name in ("tiny one", "tiny-one"):
        (tmp_path / name).mkdir()
    models = [str(tmp_path / name) for name in ("tiny one", "tiny-one")]
    with pytest.raises(InputError, match="would both write 01_decomposition_tiny-one_demo"):
        plan(models, "demo", tmp_path, only=["01"])


@pytest.mark.parametrize("place", ["a file", "in a file"])
def test_a_place_that_cannot_be_written_is_named(tiny_folder, tmp_path, place):
    (tmp_path / "file").write_text("here")
    out = tmp_path / "file" / ("out" if place == "in a file" else "")
    jobs = plan([str(tiny_folder())], "demo", out, only=["01"], parameters=PARAMETERS)
    with pytest.raises(DataError, match=rf"{tmp_path / 'file'}.* cannot be written.*give a folder"):
        batch.run_batch(jobs)


def test_a_folder_that_is_read_only_is_named_before_anything_is_captured(
    tiny_folder, open_folder, monkeypatch
):
    monkeypatch.setattr(batch, "capture", lambda *_: pytest.fail("it was captured"))
    jobs = plan([str(tiny_folder())], "demo", open_folder, only=["01"], parameters=PARAMETERS)
    assert not jobs[0].problem
    with (
        read_only(open_folder),
        pytest.raises(DataError, match=rf"{open_folder} cannot be written \(Permission denied\)"),
    ):
        batch.run_batch(jobs)


@pytest.mark.parametrize("model", ["gemma3-270m", "./nowhere", "no.gguf", ""])
def test_a_name_that_no_model_has_is_refused(tmp_path, model):
    with pytest.raises(DysemLabError, match=r"gemma-3-270m|no folder|no file|named by"):
        plan([model], "demo", tmp_path, only=["01"])


def test_a_copy_that_is_cut_leaves_the_log_to_say_what_failed(tmp_path):
    (job,) = plan(["gemma-3-270m"], "demo", tmp_path, only=["01"])
    job.executed.parent.mkdir()
    for content in ("", "{", '{"cells": [3]}', "[]", '{"cells": []}'):
        job.executed.write_text(content)
        job.log.write_text("first\nOSError: the last line\n")
        assert batch.failure(job).startswith("OSError: the last line\n  see ")


def dry_run(folder, out, *more):
    """Return job name → what a dry run says of it."""
    done = run(folder, out, "--dry-run", "--json", *more)
    return {row["notebook"].split("_")[0]: row for row in json.loads(done.stdout)}


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
    table = decomposition.table(study, ["en"])
    figure = decomposition.figure(table, facts_of(study))
    record = facts_of(study, k=1024).record()
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
    (job,) = plan([folder], "demo", tmp_path, only=["17"], parameters={"prompteol": [99, 2]})
    assert "layer must be between 0 and 2, got 99" in job.problem
    (board,) = plan([folder], "demo", tmp_path, only=["24"])
    assert board.runs_the_model
    assert not job.runs_the_model
