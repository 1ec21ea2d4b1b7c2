"""Similarity over layers, against plain hooks, naive loops and the analyses of the paper."""

import math

import pytest
import torch
from scipy.stats import spearmanr
from transformers import AutoModelForCausalLM, AutoTokenizer

from dysem_lab.data.sts import load_data
from dysem_lab.errors import InputError, MissingTranslationError
from dysem_lab.explorers.layer_explorer import explore_data_layers, explore_layers
from dysem_lab.models.capture import capture
from dysem_lab.models.loading import load_model
from dysem_lab.models.record import counted
from dysem_lab.models.store import VectorStore
from dysem_lab.prompts import templates, wrap
from dysem_lab.questions import grid
from dysem_lab.questions import layer_curves as question
from dysem_lab.questions import layers as layers_question
from dysem_lab.questions.layer_curves import (
    data_layers,
    layer_caption,
    layer_curves,
    layer_figure,
    published_score,
)
from dysem_lab.questions.pair_layers import (
    capture_pair,
    pair_layer_curves,
    pair_layers,
)
from dysem_lab.questions.scores import pair_cosine
from dysem_lab.questions.study import Study
from dysem_lab.translation.parallel_table import ParallelTable
from tests.notebooks.conftest import run_lines
from tests.notebooks.test_attention_explorer import passes
from tests.reference import dysem_pair, read

pytestmark = pytest.mark.usefixtures("_one_thread")

PAIR = ("A dog sleeps.", "A cat is awake.")
RENDERINGS = {"fr": ("Un chien dort.", "Un chat est éveillé.")}
EACH = ("attn", "ffn", "resid")


def by_hand(folder, setting):
    """Return (component, kind) → per layer the vectors of both texts in English and French."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = {}
    for i in (0, 1):
        for code, text in (("en", PAIR[i]), ("fr", RENDERINGS["fr"][i])):
            template = templates()["prompteol"]["en" if setting == "english" else code]
            vectors = read(model, tokenizer, template.replace("{text}", text))
            for name in EACH:
                found[i, code, name] = vectors[name]
    curves = {}
    for name in EACH:
        for kind in ("layer-wise", "cumulative"):
            curves[name, kind] = []
            for layer in range(3):
                of_layer = []
                for i in (0, 1):
                    rows = [found[i, code, name] for code in ("en", "fr")]
                    if kind == "layer-wise" or name == "resid":
                        of_layer.append([row[layer].tolist() for row in rows])
                    else:
                        of_layer.append([sum(row[: layer + 1]).tolist() for row in rows])
                curves[name, kind].append(of_layer)
    del curves["resid", "layer-wise"]
    return curves


def cosine(x, y):
    dot = sum(a * b for a, b in zip(x, y, strict=True))
    return dot / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))


@pytest.mark.parametrize("architecture", ["Llama", "Qwen3", "Phi3", "Gemma2"])
@pytest.mark.parametrize(
    ("setting", "vector", "m"),
    [("english", "mean", 2), ("language-specific", "source", 2), ("language-specific", "mean", 1)],
)
def test_a_pair_is_compared_at_every_layer_as_plain_hooks_and_loops_say(
    tiny_folder, architecture, setting, vector, m
):
    folder = tiny_folder(architecture)
    pair = capture_pair(load_model(folder), *PAIR, ("en", "fr"), RENDERINGS)
    table = pair_layer_curves(pair, setting, vector, m, k=8).table
    values = table.set_index(["component", "kind", "measure", "layer"])
    curves = by_hand(folder, setting)
    assert len(table) == 2 * 3 * len(curves)
    for (component, kind), layers in curves.items():
        for layer, (x, y) in enumerate(layers):
            x, y = x[:m], y[:m]
            similarity, n_dims = dysem_pair(x, y, x[0], y[0], 8, vector)
            row = values.loc[component, kind, "DySem", layer]
            assert row["value"] == pytest.approx(similarity, abs=1e-4, nan_ok=True)
            assert row["n_dims"] == n_dims
            means = [[sum(column) / m for column in zip(*s, strict=True)] for s in (x, y)]
            plain = cosine(*(means if vector == "mean" else (x[0], y[0])))
            row = values.loc[component, kind, "all dimensions", layer]
            assert row["value"] == pytest.approx(plain, abs=1e-4)
            assert row["n_dims"] == 32


def test_a_pair_costs_one_pass_for_all_settings_and_layers(tiny_lens):
    with counted(tiny_lens) as work:
        pair = capture_pair(tiny_lens, *PAIR, ("en", "fr"), RENDERINGS)
    # English is the same in both settings; each prompt goes once through the 3 blocks.
    n_prompts = 2 + 2 * 2
    shared = 3  # rows of the pass over what all prompts begin with, where there is one
    assert work.rows in (3 * n_prompts, 3 * n_prompts + shared)
    with counted(tiny_lens) as work:
        for setting in pair.settings:
            pair_layer_curves(pair, setting, "source", 1, 5)
    assert work.rows == 0


@pytest.fixture(scope="module")
def study(tiny_lens, tmp_path_factory):
    data = load_data("demo", languages=("en", "fr", "ja")).head(12)
    store = VectorStore(tmp_path_factory.mktemp("store") / "vectors.db")
    return Study(tiny_lens, data, languages=("en", "fr", "ja"), store=store)


def test_data_agree_with_the_analysis_of_the_paper_and_with_spearman(study, monkeypatch):
    (task,) = study.data
    table = layer_curves(study, task, "language-specific", "mean", 2, 8).table
    for component in ("attn", "ffn"):
        paper = layers_question.table(study, 2, component=component, k=8, languages=["en", "fr"])
        paper = paper[(paper["setting"] == "language-specific") & (paper["vector"] == "mean")]
        ours = table[table["component"] == component]
        for kind in ("layer-wise", "cumulative"):
            one, other = ours[ours["kind"] == kind], paper[paper["kind"] == kind]
            assert one["value"].tolist() == other["spearman"].tolist()
            assert one["n_dims"].tolist() == other["n_dims"].tolist()
    stream = table[table["component"] == "resid"].set_index("layer")
    x = study.vectors(task, "resid", setting="language-specific", languages=["en", "fr"],
                      layers="each")  # fmt: skip
    n = len(study.data[task])
    for layer in range(3):
        pairs = [
            dysem_pair(*(x[j, :, layer].tolist() for j in (i, n + i)),
                       *(x[j, 0, layer].tolist() for j in (i, n + i)), 8, "mean")
            for i in range(n)
        ]  # fmt: skip
        similarity = torch.tensor([value for value, _ in pairs])
        expected = 100 * spearmanr(similarity, study.data[task].gold).statistic
        assert stream.loc[layer, "value"] == pytest.approx(expected, abs=1e-6)
        assert stream.loc[layer, "n_dims"] == pytest.approx(sum(d for _, d in pairs) / n)
        assert stream.loc[layer, "low"] <= stream.loc[layer, "value"] <= stream.loc[layer, "high"]
    monkeypatch.setattr(grid, "PAIRS_PER_CHUNK", 5)
    again = layer_curves(study, task, "language-specific", "mean", 2, 8).table
    assert again["value"].tolist() == pytest.approx(table["value"].tolist())


def test_the_figure_has_a_panel_per_component_and_counts_layers_from_one(tiny_lens):
    pair = capture_pair(tiny_lens, *PAIR)
    table = pair_layer_curves(pair, k=8).table
    figure = pair_layer_curves(pair, k=8).figure
    assert [note.text for note in figure.layout.annotations] == [
        "attention", "FFN", "residual stream",
    ]  # fmt: skip
    assert len(figure.data) == 2 * 5
    for trace in figure.data:
        assert list(trace.x) == [1, 2, 3]
    sums = table[(table["component"] == "ffn") & (table["kind"] == "cumulative")]
    for measure, dash in (("DySem", "solid"), ("all dimensions", "dot")):
        (trace,) = [
            t for t in figure.data
            if t.xaxis == "x2" and t.name == f"sum up to it, {measure}" and t.line.dash == dash
        ]  # fmt: skip
        assert list(trace.y) == sums.loc[sums["measure"] == measure, "value"].tolist()
    last = table[(table["component"] == "resid") & (table["measure"] == "DySem")]["value"]
    assert f"h<sup>l</sup> {last.iloc[-1]:.3f} at the last layer" in layer_caption(table)


def test_the_papers_last_point_is_drawn_where_it_is_published(study, monkeypatch):
    (task,) = study.data
    assert math.isnan(published_score(study, task, "english", "mean"))
    monkeypatch.setattr(question, "preset_of", lambda name: "llama2-7b")
    monkeypatch.setattr(question, "paper_task", lambda data: "STSB")
    assert math.isnan(published_score(study, task, "english", "mean"))  # of other pairs

    class AllPairs(type(study.data[task])):
        def __len__(self):
            return 1379

    data = AllPairs(**vars(study.data[task]))
    monkeypatch.setitem(study.data, task, data)
    rows = question.published("llama2-7b")
    rows = rows[(rows["method"] == "DySem") & (rows["task"] == "STSB")]
    for row in rows[rows["template"] == "prompteol"].itertuples():
        assert published_score(study, task, row.setting, row.vector) == row.score
    table = pair_layer_curves(capture_pair(study.lens, *PAIR), k=8).table
    line = layer_figure(table, "", paper=80.5).data[-1]
    assert (list(line.x), list(line.y), line.xaxis) == ([1, 3], [80.5, 80.5], "x")


def test_findings_of_a_pair_and_of_a_study_are_their_tables_and_figures(tiny_lens, study):
    pair = capture_pair(tiny_lens, *PAIR, ("en", "fr"), RENDERINGS)
    finding = pair_layer_curves(pair, m=1, k=8)
    assert finding.table.equals(pair_layers(pair, "language-specific", "mean", 1, 8))
    assert finding.figure.to_json() == layer_figure(finding.table, finding.facts).to_json()
    assert finding.facts.record()["parameters"]["pair"] == {"en": list(PAIR)}
    (task,) = study.data
    undeclared = Study(tiny_lens, study.data, languages=("en", "fr"), store=study.store)
    finding = layer_curves(undeclared, m=2, k=8)
    english = study.prompted(settings="english")
    assert finding.table.equals(data_layers(english, task, "mean", ["en", "fr"], 8, 0))
    expected = layer_figure(finding.table, finding.facts, "Spearman × 100")
    assert finding.figure.to_json() == expected.to_json()
    assert finding.facts.record()["parameters"]["languages"] == ["en", "fr"]
    assert finding.name.endswith("_demo-12")


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"languages": ("en", "fr")}, MissingTranslationError, "no rendering of 'A dog sleeps.'"),
        ({"languages": ("en", "en")}, InputError, "one or more different codes"),
        (
            {"languages": ("en", "fr"), "renderings": {"fr": ["Un chien dort."]}},
            InputError,
            "renderings in 'fr' must be two texts",
        ),
    ],
)
def test_errors_of_a_pair_name_the_remedy(tiny_lens, change, error, said):
    with pytest.raises(error, match=said):
        capture_pair(tiny_lens, *PAIR, **change)


def test_errors_of_settings_name_the_bad_value(tiny_lens, study):
    pair = capture_pair(tiny_lens, *PAIR, template="{text} is")
    with pytest.raises(InputError, match=r"'language-specific'; choose one of: english$"):
        pair_layer_curves(pair, "language-specific")
    with pytest.raises(InputError, match="m must be between 1 and 1 languages, got 2"):
        pair_layer_curves(pair, m=2)


def unrelated_pair(lens):
    """Return the pair that the panel draws beside its own, from the demo set."""
    data = load_data("demo", languages=("en", "fr"))
    row = [of.split("/")[0] for of in data.subset].index("unrelated")
    columns = {code: [side[row] for side in sides] for code, sides in data.sentences.items()}
    return capture_pair(lens, *columns["en"], ("en", "fr"), columns)


def test_sliders_of_a_pair_run_no_pass_and_a_new_text_runs_one(tiny_lens):
    columns = {"en": [*PAIR, "It rains."], "fr": [*RENDERINGS["fr"], "Il pleut."]}
    table = ParallelTable(columns)
    panel = explore_layers(tiny_lens, *PAIR, ("en", "fr"), table)
    assert panel.message == ""
    with passes(tiny_lens) as widths:
        panel.set(setting="language-specific", vector="source", m=1, k=5).wait()
    assert widths == []
    pair = capture_pair(tiny_lens, *PAIR, ("en", "fr"), RENDERINGS)
    unrelated = unrelated_pair(tiny_lens)
    expected = pair_layer_curves(pair, "language-specific", "source", 1, 5, beside=unrelated).figure
    for one, other in zip(panel.figure.data, expected.data, strict=True):
        assert list(one.y) == pytest.approx(list(other.y), nan_ok=True)
    with passes(tiny_lens) as widths:
        panel.set(first="It rains.").wait()
    assert len(widths) in (1, 2)
    assert panel.message == ""
    panel.set(first="Unknown.").wait()
    assert panel.message == ""
    assert "Read in English alone: there is no translation of “Unknown.” into French" in panel.note


def test_the_lines_of_python_reproduce_the_views(tiny_lens, study):
    pair = explore_layers(tiny_lens, *PAIR, ("en", "fr"), renderings=RENDERINGS)
    pair.set(m=1, k=6).wait()
    data = explore_data_layers(study)
    data.set(vector="source", m=2, k=7).wait()
    for panel in (pair, data):
        assert panel.message == ""
        found = run_lines(panel.python, {"lens": tiny_lens, "study": study})
        assert found.figure.to_json() == panel.figure.to_json()


def test_data_are_captured_once_and_sliders_run_no_pass(tiny_lens, study, tmp_path):
    store = VectorStore(tmp_path / "vectors.db")
    fresh = Study(tiny_lens, study.data, languages=("en", "fr"), store=store)
    with passes(tiny_lens) as widths:
        panel = explore_data_layers(fresh)
        assert widths
        widths.clear()
        panel.set(k=9, m=1, setting="language-specific").wait()
        assert widths == []
    assert panel.message == ""
    (task,) = fresh.data
    expected = layer_curves(fresh, task, "language-specific", "mean", 1, 9).figure
    assert panel.figure.to_json() == expected.to_json()


def test_the_embedded_model_agrees_with_its_cumulative_vectors(embedded):
    lens = embedded("smollm2-135m-instruct")
    table = pair_layer_curves(capture_pair(lens, *PAIR), k=1.0).table
    sums = capture(lens, wrap(PAIR), EACH)
    for component in EACH:
        part = table[(table["component"] == component) & (table["kind"] == "cumulative")]
        last = part[part["measure"] == "all dimensions"].iloc[-1]
        assert last["layer"] == lens.n_layers - 1
        assert last["value"] == pytest.approx(float(pair_cosine(sums[component])), abs=1e-4)
