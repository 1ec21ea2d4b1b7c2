"""The package itself: import direction, notebooks' rules, the wheel, the README's example."""

import ast
import json
import re
import subprocess
import sys
import zipfile

import nbformat
import pandas as pd
import pytest

import dysem_lab
from dysem_lab import paths
from dysem_lab.digests import NOT_OF_FIGURES, code_digest
from dysem_lab.pages.export import FILES
from tests.conftest import REPOSITORY, WHOLE

PACKAGE = REPOSITORY / "dysem_lab"
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
# data → prompts → capture → consensus → joint → evaluate → figures → the three doors. Within a
# package, a module imports only from those before it too.
ORDER = [
    "startup",
    "errors",
    "inputs",
    "display",
    "paths",
    "database",
    "digests",
    "weights",
    "hub",
    "data.languages",
    "data.tables",
    "data.columns",
    "data.sts_tasks",
    "data.sts",
    "data.fit_texts",
    "data.transfer_data",
    "translation.translate",
    "translation.parallel_table",
    "translation.paraphrases",
    "translation.seq2seq",
    "translation.translation_cache",
    "translation.apertium",
    "translation.renderings",
    "translation.named",
    "prompts",
    "models.facts",
    "models.spaces",
    "models.chunks",
    "models.store",
    "models.storage",
    "models.own_pass",
    "models.tokenizer_state",
    "models.identity",
    "models.lens",
    "models.passes",
    "models.places",
    "models.record",
    "models.last_token",
    "models.steering",
    "models.edits",
    "models.capture",
    "models.readout",
    "models.attended",
    "models.text_tokens",
    "models.parts",
    "models.gradients",
    "models.unread",
    "models.checks",
    "models.gguf_tensors",
    "models.embedded",
    "models.names",
    "models.untrained",
    "models.loading",
    "models.named",
    "consensus",
    "joint",
    "attribution",
    "bootstrap",
    "evaluate",
    "encoders.settings",
    "encoders.vectors",
    "encoders.base",
    "encoders.contrastive",
    "encoders.prepending",
    "encoders.echo",
    "encoders.embed_filter",
    "encoders.geneol",
    "encoders.aggregation",
    "encoders.kv_embedding",
    "encoders.checkpoints",
    "encoders.trained_base",
    "encoders.trained",
    "encoders.llm2vec",
    "encoders.dysem",
    "encoders.systems",
    "encoders.saved",
    "encoders.maps",
    "encoders.transform",
    "harnesses.sentence_api",
    "harnesses.mteb_api",
    "retrieval.identity",
    "retrieval.layout",
    "retrieval.kernels",
    "retrieval.scan",
    "retrieval.effect",
    "retrieval.first_stage",
    "retrieval.records",
    "retrieval.reader",
    "retrieval.index",
    "retrieval.mteb_backend",
    "cluster.texts",
    "cluster.shards",
    "cluster.pool",
    "cluster.capture",
    "questions.needs",
    "questions.study",
    "questions.names",
    "questions.saving",
    "questions.finding",
    "questions.style",
    "questions.grid",
    "questions.asked",
    "questions.published",
    "questions.scores",
    "questions.contrast_rows",
    "questions.transfer_scores",
    "questions.transfer",
    "questions.decomposition",
    "questions.random_sets",
    "questions.components",
    "questions.languages",
    "questions.sweeps",
    "questions.layers",
    "questions.main_results",
    "questions.contrast",
    "questions.contrast_sweeps",
    "questions.layer_alpha",
    "questions.contrast_dysem",
    "questions.predictions",
    "questions.stream",
    "questions.cost",
    "questions.shared_passes",
    "questions.choice",
    "questions.chosen",
    "questions.leaderboard_picture",
    "questions.leaderboard",
    "questions.ladder",
    "questions.floors",
    "questions.controls",
    "questions.verdict",
    "questions.audit",
    "questions.overlap",
    "questions.layer_choice",
    "questions.stability",
    "questions.selection_frequency",
    "questions.translators",
    "questions.splits",
    "questions.reference",
    "questions.word_order",
    "questions.explain_picture",
    "questions.token_map",
    "questions.explain",
    "questions.causal_sets",
    "questions.causal_picture",
    "questions.causal_passes",
    "questions.causal_table",
    "questions.causal",
    "questions.concept_words",
    "questions.concept_picture",
    "questions.concept_passes",
    "questions.concept",
    "questions.pair_parts",
    "questions.heads_picture",
    "questions.heads_passes",
    "questions.heads",
    "questions.head_ablation",
    "questions.residuals",
    "questions.ledger",
    "questions.faithfulness_passes",
    "questions.faithfulness_picture",
    "questions.faithfulness",
    "questions.head_patching",
    "questions.attention",
    "questions.steered",
    "questions.contrast_effect",
    "questions.searched",
    "questions.search",
    "questions.why_near",
    "questions.indexed",
    "questions.pair_view",
    "questions.pair",
    "questions.scale",
    "questions.patching_picture",
    "questions.patching",
    "questions.corpus",
    "questions.dimension_facts",
    "questions.dimension",
    "questions.layer_curves",
    "questions.pair_layers",
    "batch.cells",
    "batch.seeds",
    "batch.gallery",
    "batch.jobs",
    "batch.again",
    "batch.kernels",
    "batch.run",
    "batch.spread",
    "pages.packed",
    "pages.export",
    "cli.terminal",
    "cli.run",
    "cli.capture",
    "cli.compare",
    "cli.score",
    "cli.audit",
    "cli.inspect",
    "cli.notebooks",
    "cli.export",
    "cli.index",
    "cli.index_search",
    "cli.index_upkeep",
    "cli.__main__",
    "explorers.controls",
    "explorers.screen",
    "explorers.panel",
    "explorers.python",
    "explorers.examples",
    "explorers.renderings",
    "explorers.standing",
    "explorers.attention_explorer",
    "explorers.contrast_explorer",
    "explorers.dimension_explorer",
    "explorers.layer_explorer",
    "explorers.pair_explorer",
    "explorers.patch_explorer",
    "explorers.search_explorer",
]
MATHEMATICS = ("consensus", "joint", "attribution", "bootstrap", "evaluate")


def imports_of(module: str) -> set[str]:
    """Return the modules that one imports; ours without the package's name."""
    path = PACKAGE.joinpath(*module.split(".")).with_suffix(".py")
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module_or_package = node.module.removeprefix("dysem_lab").lstrip(".")
            if not node.module.startswith("dysem_lab") or module_or_package in ORDER:
                names.add(module_or_package)
            else:  # a package, so what is imported from it are modules
                of = f"{module_or_package}." if module_or_package else ""
                names |= {of + alias.name for alias in node.names}
    return names


def ours(modules: set[str]) -> set[str]:
    return {name for name in modules if name in ORDER}


def test_a_module_imports_only_from_those_before_it():
    there = {path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py")}
    modules = {".".join(path.parts) for path in there if path.stem != "__init__"}
    assert modules == set(ORDER)
    for position, module in enumerate(ORDER):
        late = ours(imports_of(module)) - set(ORDER[:position])
        assert not late, f"{module} imports {late}"


def test_the_mathematics_knows_no_models_files_or_widgets():
    for module in MATHEMATICS:
        assert ours(imports_of(module)) <= {"errors", "inputs", *MATHEMATICS}
        assert not imports_of(module) & {"transformers", "pathlib", "transformer_lens", "plotly"}


def test_only_one_module_imports_transformer_lens():
    users = [
        module
        for module in ORDER
        if any(n and n.startswith("transformer_lens") for n in imports_of(module))
    ]
    assert users == ["models.lens"]


def test_every_public_name_is_named_where_the_package_says_what_it_has():
    said = set(re.findall(r"`(\w+)`", dysem_lab.__doc__))
    assert said == set(dysem_lab.__all__)


def test_every_public_name_is_there_and_importing_needs_no_model_library():
    for name in dysem_lab.__all__:
        assert getattr(dysem_lab, name) is not None
    code = (
        "import sys, dysem_lab; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="attribute capture_all"):
        dysem_lab.capture_all  # noqa: B018


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_hold_prose_parameters_and_calls(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert len(code) <= 12
    for cell in code:
        assert len(cell.source.splitlines()) <= 20
        assert not re.search(
            r"^\s*(def|class|%|!)|sys\.path|/home/|/tmp/", cell.source, re.MULTILINE
        )
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    assert prose[0].source.startswith("# ")
    assert any("How to read it" in cell.source for cell in prose)


def contents(folder):
    """Return the files of a folder, without what Python and JupyterLab leave in it."""
    left = {"__pycache__", ".ipynb_checkpoints"}
    return {
        name: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not left & set((name := path.relative_to(folder)).parts)
    }


def test_the_wheel_works_from_another_folder(tmp_path):
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    done = subprocess.run([*build, str(REPOSITORY)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    zipfile.ZipFile(wheel).extractall(site)
    pages = [f"pages/{name}" for name in FILES]
    of_panels = [f"explorers/{name}" for name in ("panel.css", "panel.js", "late.js")]
    for name in ("__init__.pyi", "py.typed", *of_panels, *pages):
        assert (site / "dysem_lab" / name).is_file(), name
    code = (
        "import json, dysem_lab as dl; from dysem_lab import paths\n"
        "from dysem_lab.batch.cells import notebooks\n"
        "from dysem_lab.digests import code_digest\n"
        "print(json.dumps([dl.__file__, len(dl.load_data(languages=list(dl.LANGUAGES))), "
        "list(notebooks()), len(dl.presets()), dl.wrap(['A.']), code_digest()]))\n"
        "from dysem_lab.cli.notebooks import copy_notebooks; copy_notebooks(paths.Path('mine'))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=elsewhere,
        env={"PYTHONPATH": str(site), "PATH": "", "HOME": str(tmp_path)},
    )
    assert run.returncode == 0, run.stderr
    file, n_pairs, notebooks, n_presets, prompts, digest = json.loads(run.stdout)
    assert file.startswith(str(site))
    assert n_pairs == 132
    assert notebooks == [path.stem for path in NOTEBOOKS]
    assert n_presets == 20
    assert prompts == ['This sentence : "A." means in one word:"']
    assert contents(elsewhere / "mine") == contents(REPOSITORY / "notebooks")
    assert digest == code_digest()  # figures say which code made them where there is no git


def test_the_digest_of_the_code_is_of_what_makes_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "package_file", lambda name: tmp_path / name)
    for folder in ("batch", "cli", "notebooks/teach/checks", "questions", "demo"):
        (tmp_path / folder).mkdir(parents=True)

    def digest(name, text):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return code_digest.__wrapped__()

    first = digest("questions/ladder.py", "1")
    for name in ("cli/run.py", "batch/gallery.py", "notebooks/teach/checks/lesson1.py", "a.md"):
        assert digest(name, "1") == first
    digests = [first, digest("questions/ladder.py", "2"), digest("demo/test.en.csv", "1")]
    digests += [digest("prompts.json", "1"), digest("batch/run.py", "1")]
    assert len(set(digests)) == 5


def test_no_figure_notebook_imports_what_the_digest_of_the_code_leaves_out():
    left_out = tuple(name.removesuffix(".py").replace("/", ".") for name in NOT_OF_FIGURES)
    makers = [name for name in ORDER if not name.startswith((*left_out, "batch."))]
    for module in makers:
        late = [name for name in imports_of(module) if name.startswith(left_out)]
        assert not late, f"{module} imports {late}"
    for path in NOTEBOOKS:
        code = "".join(
            cell.source
            for cell in nbformat.read(path, as_version=4).cells
            if cell.cell_type == "code"
        )
        named = re.findall(r"(?:from|import) dysem_lab\.([\w.]+)", code)
        assert not [name for name in named if f"{name}.".startswith(left_out)], path.stem


# What the README's example prints of all pairs of the demo set, and of the first.
README = {132: [159.5, 51.52, 35.26, 65.04, 201.07], 24: [159.5, 64.96, 25.33, 85.34, 198.71]}


def test_the_readme_example_runs_and_prints_what_it_says(embedded, monkeypatch, capsys):
    load, n_pairs = dysem_lab.load_data, 132 if WHOLE else 24
    monkeypatch.setattr(dysem_lab, "load_model", embedded)
    monkeypatch.setattr(dysem_lab, "load_data", lambda *a, **k: load(*a, **k).head(n_pairs))
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    said = re.search(r"```text\n(.*?)```", readme, re.DOTALL)
    assert code is not None
    assert said is not None
    exec(code[1], {})
    texts = (capsys.readouterr().out, said[1])
    numbers, expected = ([*map(float, re.findall(r"-?\d+\.\d+", text))] for text in texts)
    assert expected == README[132]
    assert numbers == pytest.approx(README[n_pairs], abs=0.02)
    assert len(readme.splitlines()) < 120


RESULTS = REPOSITORY / "docs" / "results.md"
NAMES = {"Gemma": "gemma-3-270m", "SmolLM2": "smollm2-135m-instruct"}


def test_the_readme_shows_a_committed_figure_of_each_model_with_its_caption():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[([^\]]*\[[^\]]*\][^\]]*)\]\(figures/(.*)\.png\)", readme)
    paths = [REPOSITORY / "figures" / f"{name}.json" for _, name in shown]
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    assert [caption for caption, _ in shown] == [record["caption"] for record in records]
    assert [record["model"]["name"] for record in records] == [*NAMES.values()]


def test_the_results_say_of_dysem_what_the_committed_tables_say():
    said = RESULTS.read_text(encoding="utf-8")
    figures = REPOSITORY / "figures"
    rows = re.findall(r"^\| (Gemma|SmolLM2) \| (PromptEOL|A\^L|h\^L)[^|]*\| (.*) \|$", said, re.M)
    assert len(rows) == 6
    for model, label, scores in rows:
        path = figures / f"decomposition_{NAMES[model]}_stsb-test-1379.csv"
        table = pd.read_csv(path).set_index("method")
        dense = "PromptEOL, N(h^L)" if label == "PromptEOL" else label
        cells = [f"{table.loc[dense, 'spearman']:.1f}"]
        for vector in ("source", "mean"):
            kind = f"DySem {label}, language-specific, {vector}"
            if kind in table.index:
                row = table.loc[kind]
                cells.append(f"{row['spearman']:.1f} on {row['n_dims']:.0f} dimensions")
        assert [cell.strip() for cell in scores.split("|") if cell.strip()] == cells
    of_gemma = "gemma-3-270m_stsb-test-1379.csv"
    ladder = pd.read_csv(figures / f"ladder_{of_gemma}")
    mean = ladder.query("rung == 'mean, all d' and vector == 'mean'")["spearman"].item()
    random = pd.read_csv(figures / f"random_vs_semantic_{of_gemma}")
    random = random.query("kind == 'random, shared' and k == 0.25")
    assert len(random) == 5
    shared, size = random["spearman"].mean(), random["n_dims"].iloc[0]
    assert (
        f"of A^L scores {mean:.1f}, and one random set of {size:.0f} dimensions for all pairs "
        f"{shared:.1f} (mean of 5 seeds)"
    ) in said


def test_the_first_600_pairs_of_stsb_are_captions_as_the_results_say(sts_folder):
    data = dysem_lab.load_data(sts_folder, "STSB").head(600)
    assert {part.split("/")[0] for part in data.subset} == {"main-captions"}


def test_the_results_say_of_contrastive_prompting_what_the_committed_tables_say():
    said = RESULTS.read_text(encoding="utf-8").replace("−", "-")
    prompts = "PromptEOL|Pretended CoT|Knowledge Enhancement|CK"
    found = dict(re.findall(rf"^\| ({prompts}), [^|]* \| (.*) \|$", said, re.M))
    assert len(found) == 4
    folder = REPOSITORY / "figures"
    averages = {}
    for model, name in NAMES.items():
        (path,) = folder.glob(f"cp_main_results_{name}_7-tasks-*.csv")
        table = pd.read_csv(path)
        assert f"{table['n_pairs'].min()} random pairs of each of the seven STS tasks" in said
        averages[model] = table[table["task"] == "Avg."].set_index(["template", "output_layer"])
    templates = ("prompteol", "pretended_cot", "knowledge", "ck")
    for label, template in zip(prompts.split("|"), templates, strict=True):
        cells = []
        for model, average in averages.items():
            rows = average.loc[(template, "penultimate")].set_index("method")
            cells.append(f"{rows.loc['plain', 'spearman']:.1f}")
            for method in ("CP-NS", "CP-NR"):
                row = rows.loc[method]
                sure = "*" if row["gain_p_holm"] < 0.05 else ""
                cells.append(f"{row['spearman']:.1f} ({row['gain']:+.1f}{sure})")
            if model == "Gemma":  # in which both norms give the same vectors
                assert cells.pop() == cells[-1]
        assert found[label].split(" | ") == cells
    earlier, moved = [], {}
    for model, average in averages.items():
        plain = average.query("method == 'plain'")["spearman"].loc["prompteol"]
        earlier.append(f"{plain['penultimate'] - plain['final']:+.1f} in {model}")
        grid = pd.read_csv(folder / f"cp_layer_alpha_{NAMES[model]}_stsb-dev-300.csv")
        for template, rows in grid.query("alpha == 3").set_index("layer").groupby("template"):
            stars = rows["gain_p_holm"].lt(0.05).map({True: "*", False: ""})
            moved[model, template] = rows["gain"].map("{:+.1f}".format) + stars
    assert f"changes its score by {' and by '.join(earlier)}" in said
    gemma, smollm2 = (moved[model, "pretended_cot"] for model in NAMES)
    other = moved["SmolLM2", "prompteol"]
    assert (
        f"changes the score of Pretended CoT by {gemma[4]}, {gemma[5]} and {gemma[6]} at blocks 5, "
        f"6 and 7 in Gemma, and by {smollm2[5]}, {smollm2[6]} and {smollm2[7]} at blocks 6, 7 and "
        "8 in SmolLM2"
    ) in said
    assert f"by {other[3]} at block 4 and by {other[4]} at block 5 in SmolLM2, neither" in said


def test_the_results_say_of_other_languages_what_the_committed_tables_say():
    said, figures = RESULTS.read_text(encoding="utf-8"), REPOSITORY / "figures"
    mixed = pd.read_csv(figures / "cp_with_dysem_gemma-3-270m_stsb-test-500.csv")
    mixed = mixed.query("component == 'attn' and method == 'plain'").set_index("vector")["spearman"]
    assert f"{mixed['mean']:.1f} against {mixed['plain cosine']:.1f} with English prompts" in said


def test_the_results_say_of_the_leaderboard_what_the_committed_tables_say():
    tables = []
    for model in NAMES.values():
        (path,) = (REPOSITORY / "figures").glob(f"leaderboard_{model}_7-tasks-*.csv")
        table = pd.read_csv(path)
        tables.append(table[table["task"] == "Avg."].set_index("method"))
    heading = "| method | Gemma | 95 % interval | SmolLM2 | 95 % interval | passes per text |"
    said = RESULTS.read_text(encoding="utf-8")
    rows = said.split(heading)[1].split("\n\n")[0].strip().splitlines()[1:]
    assert len(rows) > 8
    for line in rows:
        method, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        found = [table.loc[method.removesuffix(" (the trained reference)")] for table in tables]
        expected = [
            cell
            for row in found
            for cell in (f"{row['spearman']:.1f}", f"{row['low']:.1f} to {row['high']:.1f}")
        ]
        assert cells == [*expected, f"{found[0]['passes']:.0f}"]
    for table in tables[:1]:  # Gemma: what is said of it
        plain = {"PromptEOL", "Pretended CoT", "Knowledge Enhancement"}
        for method, row in table.iterrows():
            of = next((name for name in plain if method.startswith(name)), None)
            if of and ("DySem" in method or "CP-" in method):
                assert row["spearman"] < table.loc[of, "spearman"]


@pytest.mark.parametrize("page", [REPOSITORY / "README.md", RESULTS])
def test_what_is_said_of_the_gain_is_what_the_committed_ladders_say(page):
    readme = " ".join(page.read_text(encoding="utf-8").split())
    said = re.search(
        r"gains Gemma ([\d.]+) \[([\d.]+), ([\d.]+)\] .* costs SmolLM2, .*?, "
        r"([\d.]+) \[([\d.]+), ([\d.]+)\]",
        readme,
    )
    assert said is not None
    found = []
    for model, sign in (("gemma-3-270m", 1), ("smollm2-135m-instruct", -1)):
        (path,) = (REPOSITORY / "figures").glob(f"ladder_{model}_stsb-test-*.csv")
        row = pd.read_csv(path).query("rung == 'top k' and vector == 'mean'").iloc[0]
        bounds = sorted(sign * row[["total_low", "total_high"]])
        found += [f"{value:.1f}" for value in (sign * row["total"], *bounds)]
    assert list(said.groups()) == found


def test_the_readme_says_of_other_languages_and_tasks_what_the_committed_tables_say():
    readme = " ".join((REPOSITORY / "README.md").read_text(encoding="utf-8").split())
    dysem, eol, mean, alone, gains = {}, {}, {}, {}, {}
    for model, name in NAMES.items():
        path = REPOSITORY / "figures" / f"main_results_{name}_7-tasks-700.csv"
        average = pd.read_csv(path).query("task == 'Avg.'").set_index("method")["reproduced"]
        dysem[model] = f"{average['DySem'].min():.1f} to {average['DySem'].max():.1f}"
        eol[model] = f"{average['PromptEOL']:.1f}"
        path = REPOSITORY / "figures" / f"cp_with_dysem_{name}_stsb-test-500.csv"
        of_attn = pd.read_csv(path).query("component == 'attn' and method == 'plain'")
        scores = of_attn.set_index("vector")["spearman"]
        mean[model], alone[model] = f"{scores['mean']:.1f}", f"{scores['plain cosine']:.1f}"
        path = REPOSITORY / "figures" / f"cp_main_results_{name}_7-tasks-700.csv"
        rows = "task == 'Avg.' and method == 'CP-NS' and output_layer == 'penultimate'"
        found = pd.read_csv(path).query(rows).set_index("template")
        assert (found["gain_p_holm"].drop("prompteol") < 0.05).all()
        gains[model] = found["gain"]
    assert (
        f"score {dysem['Gemma']} in Gemma, where PromptEOL has {eol['Gemma']}, and "
        f"{dysem['SmolLM2']} in SmolLM2, where it has {eol['SmolLM2']}"
    ) in readme
    assert (
        f"scores {mean['Gemma']} in Gemma and {mean['SmolLM2']} in SmolLM2, English alone "
        f"{alone['Gemma']} and {alone['SmolLM2']}"
    ) in readme
    lost, of_smol = -gains["Gemma"], gains["SmolLM2"]
    assert f"of every prompt in Gemma, by {lost.min():.1f} to {lost.max():.1f}" in readme
    assert f"raises that of Pretended CoT by {of_smol['pretended_cot']:.1f}" in readme
    assert f"that of CK by {of_smol['ck']:.1f}, lowers that" in readme
    assert f"Enhancement by {-of_smol['knowledge']:.1f}, all for certain" in readme
    assert f"of PromptEOL by {of_smol['prompteol']:+.1f}, which is not certain" in readme


RUNS = ("run_with_hooks", "run_with_cache", "generate", "add_hook", "register_forward_hook")


def test_only_the_record_runs_a_model():
    """Walk the calls: of the bridge itself, of its modules, and of what puts hooks on it."""
    reads = re.compile(r"\.bridge\.(parameters|named_\w+|original_model\.get_\w+|eval)(\(|$)")
    callers = set()
    for module in ORDER:
        path = PACKAGE.joinpath(*module.split(".")).with_suffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if re.search(r"\.bridge(\.|$)", called) and not reads.search(called):
                callers.add(module)
            if called.rpartition(".")[2] in RUNS:
                callers.add(module)
    # A translator generates with a model of its own.
    assert callers == {"models.record", "translation.seq2seq"}
