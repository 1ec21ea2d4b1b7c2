"""Studies: which forward passes they need, what they read, samples and languages of the data."""

import gc
import shutil
import warnings
from collections import namedtuple
from dataclasses import replace
from weakref import WeakValueDictionary

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dysem_lab import paths
from dysem_lab.data.languages import LANGUAGES
from dysem_lab.data.sts import STSData, available_languages, load_data
from dysem_lab.encoders.dysem import VECTORS, DySem
from dysem_lab.errors import DataError, InputError, ModelError
from dysem_lab.evaluate import spearman
from dysem_lab.models import named, record
from dysem_lab.models import passes as forward_passes
from dysem_lab.models.capture import capture
from dysem_lab.models.loading import load_model
from dysem_lab.models.places import place
from dysem_lab.models.readout import logit_lens
from dysem_lab.models.steering import Contrast
from dysem_lab.models.store import ENTRY_BYTES, VectorStore
from dysem_lab.prompts import SETTINGS, wrap
from dysem_lab.questions import decomposition, languages, layers, scores
from dysem_lab.questions.finding import Finding, facts_of
from dysem_lab.questions.grid import Cell, sweep
from dysem_lab.questions.needs import Planned, capture_needs, planning
from dysem_lab.questions.study import Study

pytestmark = pytest.mark.usefixtures("_one_thread")


@pytest.fixture
def store(tmp_path):
    return VectorStore(tmp_path / "v.sqlite")


@pytest.fixture
def passes(monkeypatch):
    """Return a list that gets the number of texts of every batch that a model runs on."""
    sizes = []
    original = record.forward

    def run(lens, ids, *others):
        sizes.append(len(ids))
        original(lens, ids, *others)

    monkeypatch.setattr(record, "forward", run)
    return sizes


@pytest.fixture(scope="module")
def few():
    """Return six pairs of the demo set in four languages."""
    return load_data("demo", languages=("en", "ja", "ru", "de")).head(6)


def n_prompts(data, languages, settings=SETTINGS, template="prompteol"):
    """Return how many different prompts the pairs make."""
    return len(
        {
            prompt
            for setting in settings
            for code in languages
            for prompt in wrap(data.texts(code), template, setting, code)
        }
    )


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


# --- samples of pairs


def numbered(n_pairs):
    """Return pairs whose every field tells the row they are."""
    return STSData(
        "numbered",
        "memory",
        np.arange(n_pairs) % 6.0,
        {
            code: tuple([f"{code} {side} {i}" for i in range(n_pairs)] for side in "ab")
            for code in ("en", "ja")
        },
        np.arange(n_pairs) + 100,
        [f"part {i}" for i in range(n_pairs)],
    )


@given(st.integers(1, 60), st.integers(0, 5), st.data())
def test_a_sample_is_of_its_size_in_row_order_and_inside_every_larger_one(n_pairs, seed, data):
    pairs = numbered(n_pairs)
    small, large = sorted(data.draw(st.tuples(*[st.integers(1, n_pairs)] * 2)))
    sampled, larger = pairs.sample(small, seed), pairs.sample(large, seed)
    assert len(sampled) == small
    assert sampled.rows.tolist() == sorted(set(sampled.rows.tolist()))
    assert set(sampled.rows) <= set(larger.rows) <= set(pairs.rows)
    for position, row in enumerate(sampled.rows - 100):
        assert sampled.gold[position] == row % 6
        assert sampled.subset[position] == f"part {row}"
        for code in ("en", "ja"):
            first, second = sampled.sentences[code]
            assert (first[position], second[position]) == (f"{code} a {row}", f"{code} b {row}")


def test_a_sample_depends_on_its_seed_only():
    pairs = numbered(200)
    np.random.seed(1)  # noqa: NPY002 (that the global generator has no say is the point)
    once = pairs.sample(20, seed=4).rows.tolist()
    np.random.seed(2)  # noqa: NPY002
    assert pairs.sample(20, seed=4).rows.tolist() == once
    assert pairs.sample(20, seed=5).rows.tolist() != once
    assert pairs.sample(20).rows.tolist() == pairs.sample(20, seed=0).rows.tolist()


def test_every_pair_is_sampled_about_as_often():
    counts = np.zeros(10)
    for seed in range(600):
        counts[numbered(10).sample(3, seed).rows - 100] += 1
    # Each count is binomial(600, 0.3): standard deviation 11.
    assert (abs(counts - 180) < 60).all()


def test_none_or_more_than_there_are_is_all_of_them():
    pairs = numbered(7)
    for size in (None, 7, 8, 1000):
        assert pairs.sample(size).digest == pairs.digest


@pytest.mark.parametrize("size", [0, -1])
def test_a_sample_of_nothing_is_refused(size):
    words = f"sample must be a whole number of at least 1, got {size}"
    with pytest.raises(InputError, match=words):
        numbered(5).sample(size)


# --- languages that a source has


def write_pairs(folder, *names):
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        separator = "\t" if ".tsv" in name else ","
        lines = [("sentence1", "sentence2", "score"), ("One.", "Two.", "3")]
        file.write_text("\n".join(map(separator.join, lines)) + "\n")


def test_the_demo_set_has_all_twelve_languages_in_their_order():
    assert available_languages("demo") == tuple(LANGUAGES)
    assert available_languages("demo", split="dev") == ()


def test_an_own_folder_has_the_languages_of_its_files(tmp_path):
    write_pairs(tmp_path, "test.ja.tsv", "test.en.csv", "dev.en.csv", "dev.hi.csv", "test.xx.csv")
    assert available_languages(tmp_path) == ("en", "ja")
    assert available_languages(str(tmp_path), split="dev") == ("en", "hi")
    assert available_languages(tmp_path, split="train") == ()
    for split in ("test", "dev"):
        codes = available_languages(tmp_path, split=split)
        assert load_data(tmp_path, split=split, languages=codes).languages == codes


def test_an_own_folder_without_english_has_its_languages_too(tmp_path):
    write_pairs(tmp_path, "test.de.csv", "test.fr.csv")
    assert load_data(tmp_path, languages=("fr", "de")).languages == ("fr", "de")
    assert available_languages(tmp_path) == ("fr", "de")


def test_a_folder_of_tasks_has_for_each_what_is_there(tmp_path):
    write_pairs(
        tmp_path,
        *("stsb/test.en.csv", "stsb/test.fr.csv", "stsb/partial/test.hi.csv", "stsb/dev.en.csv"),
        *("sick/SICK.en.csv", "sick/SICK.zh.csv", "en_mteb/STS12.csv"),
    )
    assert available_languages(tmp_path) == ("en", "fr", "hi")
    assert available_languages(tmp_path, "STSB") == ("en", "fr", "hi")
    assert available_languages(tmp_path, "STSB", "dev") == ("en",)
    assert available_languages(tmp_path, "SICKR") == ("en", "zh")
    assert available_languages(tmp_path, "STS12") == ("en",)


def test_the_folder_of_the_environment_stands_in_for_stsb(tmp_path, monkeypatch):
    write_pairs(tmp_path, "stsb/test.en.csv", "stsb/test.ko.csv", "sick/SICK.de.csv")
    monkeypatch.setenv(paths.DATA_VARIABLE, str(tmp_path))
    assert available_languages("stsb") == ("en", "ko")
    assert available_languages("stsb", "SICKR") == ("de",)


def test_the_hub_has_stsb_in_eight_languages_and_the_rest_in_english():
    assert available_languages("hub") == available_languages("hub", "STSB")
    assert set(available_languages("hub")) == {"en", "zh", "fr", "de", "es", "ru", "it", "pt"}
    assert available_languages("hub", "SICKR") == ("en",)


@pytest.mark.parametrize("source", ["demo", "hub", "folder"])
def test_languages_of_a_task_that_is_none_are_an_error(source, tmp_path):
    source = tmp_path if source == "folder" else source
    with pytest.raises(InputError, match=r"mean 'STSB'\? choose one of: STS12, .*SICKR"):
        available_languages(source, "STS99")


@pytest.mark.parametrize("task", ["STSB", "SICKR", "STS12"])
def test_languages_of_real_data_are_those_that_load(sts_folder, task):
    codes = available_languages(sts_folder, task)
    assert codes[0] == "en"
    assert len(codes) == {"STSB": 12, "SICKR": len(codes), "STS12": 1}[task]
    for code in LANGUAGES:
        if code in codes:
            assert len(load_data(sts_folder, task, languages=[code])) > 0
        else:
            with pytest.raises(DataError, match=f"in '{code}'"):
                load_data(sts_folder, task, languages=[code])


# --- what a study is made of


def test_english_comes_first_and_each_task_has_what_it_has(tiny_lens, few, store):
    english = replace(few, name="english", sentences={"en": few.sentences["en"]})
    tasks = {"many": few, "english": english}
    made = Study(tiny_lens, tasks, languages=("ru", "en", "ja", "ru"), store=store)
    assert made.languages == ["en", "ru", "ja"]
    assert made.task_languages("many") == ["en", "ru", "ja"]
    assert made.task_languages("english") == ["en"]
    assert made.data["many"].languages == ("en", "ru", "ja")
    sizes = "many 6 pairs in en/ru/ja, english 6 pairs in en"
    assert repr(made) == f"Study({tiny_lens.label}; {sizes})"


def test_languages_that_were_not_asked_for_are_neither_captured_nor_scored(
    tiny_lens, few, store, passes
):
    made = Study(tiny_lens, few, languages=["en", "ja"], store=store)
    made.capture(progress=False)
    passes.clear()
    table = languages.table(made)
    assert set(table["language"]) == {"en", "ja"}
    assert passes == []


def test_tasks_of_a_mapping_are_chosen_by_name(tiny_lens, few, store):
    tasks = {"A": few, "B": few.head(3), "C": few.head(2)}
    assert list(Study(tiny_lens, tasks, store=store).data) == ["A", "B", "C"]
    assert list(Study(tiny_lens, tasks, ["C", "A"], store=store).data) == ["C", "A"]
    with pytest.raises(InputError, match="unknown task 'D'; choose one of: A, B, C"):
        Study(tiny_lens, tasks, ["D"], store=store)


def test_pairs_and_samples_are_taken_from_each_task(tiny_lens, few, store):
    tasks = {"whole": few, "small": few.head(2)}
    heads = Study(tiny_lens, tasks, pairs=3, store=store)
    assert {name: data.rows.tolist() for name, data in heads.data.items()} == {
        "whole": [0, 1, 2],
        "small": [0, 1],
    }
    sampled = Study(tiny_lens, tasks, sample=3, seed=8, store=store)
    assert sampled.data["whole"].rows.tolist() == few.sample(3, 8).rows.tolist()
    assert len(sampled.data["small"]) == 2
    assert sampled.sampling == {"pairs": None, "sample": 3, "seed": 8}
    both = Study(tiny_lens, few, pairs=4, sample=2, seed=1, store=store)
    assert set(both.data["demo"].rows) <= {0, 1, 2, 3}
    assert len(both.data["demo"]) == 2


def test_one_name_stands_for_a_list_of_it(tiny_lens, few, store):
    names = {"tasks": "A", "languages": "ja", "templates": "knowledge", "settings": "english"}
    needed = {"components": "ffn", "each": "attn", "output_layers": "final"}
    contrast = Contrast(1)
    made = Study(tiny_lens, {"A": few, "B": few}, **names, store=store)
    same = Study(
        tiny_lens, {"A": few, "B": few}, **{name: [of] for name, of in names.items()}, store=store
    )
    one = made.needs(**needed, contrasts=contrast)
    same_need = same.needs(**{name: [of] for name, of in needed.items()}, contrasts=[contrast])
    assert one.places == same_need.places == tuple(map(place, ("ffn.sum", "attn.each", "final")))
    assert one.contrasts == same_need.contrasts == (contrast,)
    for of in (made, same):
        assert list(of.data) == ["A"]
        assert (of.languages, of.templates, of.settings) == (
            ["en", "ja"],
            ["knowledge"],
            ["english"],
        )
    plain = Study(tiny_lens, few, settings="english", store=store)
    assert plain.needs((), output_layers=2, contrasts=None).places == (place("resid.1"),)


def test_vectors_of_one_language_may_be_asked_for_by_its_code(captured):
    assert captured.vectors("demo", languages="ja").equal(
        captured.vectors("demo", languages=["ja"])
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"languages": ["en", "tlh"]}, "unknown language 'tlh'; choose one of: en, zh, .*hi"),
        ({"languages": ["ko"]}, "unknown language for demo 'ko'; choose one of: en, ja, ru, de"),
        (
            {"languages": ["tlh"], "settings": "english"},
            "unknown language for demo 'tlh'; choose one of: en, ja, ru, de",
        ),
        ({"templates": "haiku"}, "unknown template 'haiku'; choose one of: prompteol, .*knowledge"),
        (
            {"settings": ["english", "french"]},
            "unknown prompt setting 'french'; choose one of: english, language-specific",
        ),
        ({"components": "heads"}, "unknown component 'heads'; choose one of: attn, attn_raw, ffn"),
        ({"each": ["attn", "heads"]}, "unknown component 'heads'; choose one of: attn"),
        (
            {"data": "hub", "tasks": ["STSB", "SICKR"], "languages": ["ja", "fr"]},
            "unknown language for STSB/SICKR 'ja'; choose one of: en, zh, fr, de, es, ru, it, pt",
        ),
        ({"tasks": ["STSB"]}, "unknown task 'STSB'; choose one of: demo"),
        ({"data": "demo", "tasks": ["STSB"]}, "the demo set has no task 'STSB'"),
        ({"data": "demo", "tasks": ["STS99"]}, "did you mean 'STSB'. choose one of: STS12"),
        ({"languages": 3}, "languages must be one or more strings in a list, got 3"),
        ({"languages": {"en", "ja"}}, "languages must be one or more strings"),
        ({"templates": None}, "templates must be one or more strings"),
        ({"data": {"demo": ["a"]}}, r"data.'demo'. must be pairs of load_data, got .'a'."),
        ({"pairs": 1.5}, "number of pairs must be a whole number of at least 1, got 1.5"),
        ({"dtype": "int8"}, "unknown dtype 'int8'; choose one of: auto, float32"),
        ({"pairs": 0}, "number of pairs must be a whole number of at least 1, got 0"),
        ({"sample": 0}, "size of a sample must be a whole number of at least 1, got 0"),
    ],
)
def test_names_that_do_not_exist_are_refused_with_those_that_do(
    tiny_lens, few, store, arguments, message
):
    needed = {name: arguments[name] for name in ("components", "each") if name in arguments}
    rest = {name: value for name, value in arguments.items() if name not in needed}
    with pytest.raises(InputError, match=message):
        Study(**{"model": tiny_lens, "data": few, "store": store, **rest}).needs(**needed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "STSB"}, "unknown task 'STSB'; choose one of: demo"),
        ({"task": "STSB", "languages": ["en"]}, "unknown task 'STSB'; choose one of: demo"),
        ({"component": "heads"}, "unknown component 'heads'; choose one of: attn, attn_raw"),
        ({"template": "haiku"}, "unknown template 'haiku'; choose one of: prompteol"),
        ({"setting": "french"}, "unknown prompt setting 'french'; choose one of: english"),
        ({"languages": ["en", "ko"]}, "unknown language 'ko'; choose one of: en, ja"),
        ({"languages": []}, r"must be one or more different codes, got \[\]"),
        ({"languages": ["ja", "en", "ja"]}, "different codes, got .'ja', 'en', 'ja'"),
        ({"layers": "all"}, "unknown layers 'all'; choose one of: sum, each"),
    ],
)
def test_vectors_that_a_study_does_not_have_are_refused(
    tiny_lens, few, store, passes, arguments, message
):
    made = Study(tiny_lens, few, languages=["ja"], store=store)
    with pytest.raises(InputError, match=message):
        made.vectors(**{"task": "demo", **arguments})
    assert passes == []


def test_languages_of_a_task_that_a_study_does_not_have_are_refused(tiny_lens, few, store):
    with pytest.raises(InputError, match="unknown task 'STSB'; choose one of: demo"):
        Study(tiny_lens, few, store=store).task_languages("STSB")


# --- what it reads


@pytest.fixture(scope="module")
def captured(tiny_lens, few, tmp_path_factory):
    """Return a captured study in three languages with cumulative and per-layer vectors."""
    folder = tmp_path_factory.mktemp("captured")
    made = Study(
        tiny_lens,
        few,
        languages=("en", "ja", "ru"),
        templates=("prompteol", "knowledge", "none"),
        store=VectorStore(folder / "v.sqlite", each="float32"),
    )
    made.capture(("attn", "resid"), each="attn", progress=False)
    return made


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("template", ["prompteol", "knowledge"])
@pytest.mark.parametrize(
    ("component", "layers"), [("attn", "sum"), ("attn", "each"), ("resid", "sum")]
)
def test_vectors_are_those_of_capture(captured, few, setting, template, component, layers):
    found = captured.vectors("demo", component, template=template, setting=setting, layers=layers)
    assert found.dtype == torch.float32
    for column, code in enumerate(("en", "ja", "ru")):
        prompts = wrap(few.texts(code), template, setting, code)
        expected = capture(captured.lens, prompts, component, layers)[component]
        assert relative_error(found[:, column], expected) < 1e-5
    d, n_layers = captured.lens.d_model, captured.lens.n_layers
    assert found.shape == ((12, 3, n_layers, d) if layers == "each" else (12, 3, d))


def test_mean_pooling_reads_the_bare_text(captured, few):
    found = captured.vectors("demo", "mean", template="none", languages=["en"])
    expected = capture(captured.lens, few.texts("en"), "mean")["mean"]
    assert relative_error(found[:, 0], expected) < 1e-5


def test_the_layers_of_a_prompt_add_up_to_its_sum(captured):
    each = captured.vectors("demo", "attn", layers="each")
    assert relative_error(each.sum(2), captured.vectors("demo", "attn")) < 1e-5


def test_the_first_template_and_setting_are_the_usual_ones(captured):
    usual = captured.vectors("demo", languages=["ja"])
    same = captured.vectors(
        "demo", "attn", template="prompteol", setting="english", languages=["ja"]
    )
    other = captured.vectors("demo", "attn", setting="language-specific", languages=["ja"])
    assert torch.equal(usual, same)
    assert not torch.allclose(usual, other, atol=1e-3)


def test_languages_come_in_the_order_asked_for_and_pairs_by_position(captured):
    whole = captured.vectors("demo", "attn")
    assert torch.equal(captured.vectors("demo", languages=["ru", "en"]), whole[:, [2, 0]])
    some = captured.vectors("demo", "attn", pairs=[4, 1])
    assert torch.equal(some, whole[[4, 1, 10, 7]])
    assert captured.texts("demo", "en", [4, 1]) == [
        captured.data["demo"].texts("en")[i] for i in (4, 1, 10, 7)
    ]


def test_half_precision_on_disk_rounds_the_layers_only(tiny_lens, few, store):
    made = Study(tiny_lens, few, store=store)
    prompts = wrap(few.texts("en"))
    exact = capture(tiny_lens, prompts, "attn", "each")["attn"]
    error = relative_error(made.vectors("demo", layers="each")[:, 0], exact)
    assert 1e-6 < error < 1e-3
    assert relative_error(made.vectors("demo")[:, 0], exact.sum(1)) < 1e-5


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("vector", VECTORS)
def test_numbers_are_those_of_the_estimator(captured, few, setting, vector):
    languages = ("ja", "ru")
    x = captured.vectors("demo", "attn", setting=setting, languages=languages)
    source = captured.vectors("demo", "attn", languages=["en"])[:, 0]
    found = sweep(x, source, [5], [2], [vector])[Cell(2, 5, vector)]
    dysem = DySem(captured.lens, languages, k=5, setting=setting, vector=vector)
    first, second = (
        dysem.encode(
            few.sentences["en"][side],
            renderings={code: few.sentences[code][side] for code in languages},
        )
        for side in (0, 1)
    )
    expected = dysem.similarity_pairwise(first, second)
    torch.testing.assert_close(found.similarity, expected, atol=1e-5, rtol=0)
    assert torch.equal(found.sizes, (first.sets | second.sets).sum(-1))


# --- which forward passes it needs


def test_english_prompts_are_captured_once_for_both_settings(tiny_lens, few, store, passes):
    plan = Study(tiny_lens, few, languages=["ja"], store=store).capture(progress=False)
    assert plan[["setting", "language", "passes"]].values.tolist() == [
        ["english", "en", 12],
        ["english", "ja", 12],
        ["language-specific", "ja", 12],
    ]
    assert sum(passes) == 36
    assert sum(passes) == n_prompts(few, ["en", "ja"])


def test_what_prompts_of_all_languages_begin_with_is_computed_once(
    tiny_lens, few, store, monkeypatch
):
    beginnings = []
    original = record.keys_and_values

    def keys_and_values(lens, ids, *others):
        beginnings.append(lens.tokenizer.decode(ids[0]))
        return original(lens, ids, *others)

    monkeypatch.setattr(record, "keys_and_values", keys_and_values)
    Study(tiny_lens, few, languages=("en", "ja", "de"), store=store).capture(progress=False)
    assert len(beginnings) == 3, "English prompts, Japanese ones, German ones"
    assert "This sentence" in beginnings[0]


def test_another_k_m_or_vector_needs_no_pass(tiny_lens, few, store, passes):
    arguments = {"data": few, "languages": ("en", "ja", "ru"), "store": store}
    made = Study(tiny_lens, **arguments)
    made.capture(progress=False)
    assert sum(passes) == n_prompts(few, ("en", "ja", "ru"))
    passes.clear()
    for ks, ms, vectors in (([4], [1], ["mean"]), ([0.5, 7], [2, 3], ["source", "mean"])):
        again = Study(tiny_lens, **arguments)
        assert again.needs().plan()["passes"].sum() == 0
        again.capture(progress=False)
        table = scores.grid(again, ks, ms, vectors=vectors)
        assert len(table) == 2 * len(ks) * len(ms) * len(vectors)
    # Components that every pass stores along with the one asked for.
    Study(tiny_lens, **arguments).capture(("ffn", "resid", "final"), progress=False)
    # And the sentences of part of the pairs.
    Study(tiny_lens, **arguments, sample=3, seed=2).capture(progress=False)
    assert passes == []


def test_one_more_language_runs_only_its_own_prompts(tiny_lens, few, store, passes):
    Study(tiny_lens, few, languages=["ja"], store=store).capture(progress=False)
    passes.clear()
    plan = Study(tiny_lens, few, languages=["ja", "ru"], store=store).capture(progress=False)
    assert sum(passes) == n_prompts(few, ["ru"])
    needed = plan[plan["passes"] > 0]
    assert set(needed["language"]) == {"ru"}
    assert plan["texts"].tolist() == [12] * 5


def test_more_pairs_run_only_their_own_prompts(tiny_lens, few, store, passes):
    Study(tiny_lens, few, languages=["ja"], sample=2, store=store).capture(progress=False)
    assert sum(passes) == 4 * 3
    Study(tiny_lens, few, languages=["ja"], sample=5, store=store).capture(progress=False)
    assert sum(passes) == 10 * 3


def test_sentences_that_tasks_share_are_captured_once(tiny_lens, few, store, passes):
    tasks = {"A": few.select([0, 1, 2]), "B": few.select([2, 1, 4]), "C": few.select([4, 4])}
    made = Study(tiny_lens, tasks, languages=["ja"], store=store)
    plan = made.needs().plan()
    made.capture(progress=False)
    assert sum(passes) == plan["passes"].sum() == n_prompts(few.select([0, 1, 2, 4]), ["en", "ja"])
    alone = capture(tiny_lens, wrap(few.select([4, 4]).texts("ja"), languages="ja"), "attn")["attn"]
    assert relative_error(made.vectors("C", languages=["ja"])[:, 0], alone) < 1e-5


# What studies over the same store need; each is captured after the ones before it.
SEQUENCES = {
    "the same twice": [{}, {}],
    "more languages, other settings": [
        {"languages": ["ja"], "settings": "english"},
        {"languages": ["ru", "ja"], "settings": SETTINGS},
        {"settings": "language-specific", "languages": ["ru"]},
    ],
    "layers after sums, and sums after layers": [
        {"languages": ["ja"]},
        {"languages": ["ja", "ru"], "each": "attn"},
        {"languages": ["ru"], "components": ["ffn", "resid"]},
        {"each": "attn", "components": "z"},
    ],
    "mean pooling": [
        {"templates": "none", "components": "mean"},
        {"templates": ["none", "prompteol"]},
        {"templates": "{text}", "settings": "english"},
    ],
    "templates": [
        {"templates": ["prompteol", "knowledge"], "languages": ["ja"]},
        {"templates": ["knowledge", "pretended_cot"], "languages": ["ja"]},
    ],
    "what is stored and what is planned together": [
        {"components": "value", "pairs": 2},
        {"each": "ffn", "pairs": 3},
        {"components": "value", "each": "ffn", "pairs": 4},
    ],
}


@pytest.mark.parametrize("n_before", [0, 1])
@pytest.mark.parametrize("name", SEQUENCES)
def test_plans_count_what_capture_then_does(tiny_lens, few, store, passes, name, n_before):
    """With `planned` shared, the plans of several studies hold before any of them is captured."""
    needs = []
    for arguments in SEQUENCES[name]:
        asked = {of: arguments[of] for of in ("components", "each") if of in arguments}
        rest = {of: value for of, value in arguments.items() if of not in asked}
        needs.append(Study(tiny_lens, few.head(4), store=store, **rest).needs(**asked))
    for need in needs[:n_before]:
        capture_needs([need], progress=False)
    planned = set()
    plans = [need.plan(planned) for need in needs[n_before:]]
    for need, plan in zip(needs[n_before:], plans, strict=True):
        passes.clear()
        own = capture_needs([need], progress=False)
        assert sum(passes) == own["passes"].sum() == plan["passes"].sum()
        assert own["passes"].tolist() == plan["passes"].tolist()
        assert need.plan()["passes"].sum() == 0


@pytest.mark.parametrize("is_loaded", [True, False])
def test_the_plan_knows_the_megabytes(tiny_folder, tiny_lens, few, tmp_path, is_loaded):
    store = VectorStore(tmp_path / "v.sqlite")
    model = tiny_lens if is_loaded else tiny_folder("Llama")
    made = Study(model, few, languages=["ja"], templates=["prompteol", "none"], store=store)
    planned = set()
    layered = Study(model, few, languages=["ja"], store=store)
    both = (made.needs(), layered.needs(each=["attn", "ffn"]))
    megabytes = sum(need.plan(planned)["megabytes"].sum() for need in both)
    if not is_loaded:
        made = Study(tiny_lens, few, languages=["ja"], templates=["prompteol", "none"], store=store)
        layered = Study(tiny_lens, few, languages=["ja"], store=store)
    written = [
        made.capture(progress=False),
        layered.capture(each=["attn", "ffn"], progress=False),
    ]
    contents = store.contents()
    # The cumulative vectors of the second study are rows that are there already.
    again = sum(written[1]["passes"]) * 5 * (4 * 32 + ENTRY_BYTES) / 1e6
    stored = contents["megabytes"].sum() + contents["rows"].sum() * ENTRY_BYTES / 1e6
    assert megabytes == pytest.approx(stored + again)
    assert made.needs().plan()["megabytes"].sum() == 0


def test_an_interrupted_capture_goes_on_where_it_stopped(tiny_lens, few, store, monkeypatch):
    monkeypatch.setitem(forward_passes.TOKENS_PER_BATCH, "cpu", 300)
    original, done = record.forward, []

    def run(lens, ids, *others):
        if len(done) == 3:
            raise KeyboardInterrupt
        original(lens, ids, *others)
        done.append(len(ids))

    monkeypatch.setattr(record, "forward", run)
    made = Study(tiny_lens, few, languages=["ja"], store=store)
    with pytest.raises(KeyboardInterrupt):
        made.capture(progress=False)
    monkeypatch.setattr(record, "forward", original)
    plan = made.capture(progress=False)
    assert plan["passes"].sum() == n_prompts(few, ["en", "ja"]) - sum(done)
    assert 0 < sum(done) < 36
    prompts = wrap(few.texts("ja"), "prompteol", "language-specific", "ja")
    expected = capture(tiny_lens, prompts, "attn")["attn"]
    found = made.vectors("demo", setting="language-specific", languages=["ja"])[:, 0]
    assert relative_error(found, expected) < 1e-5


def test_fill_yields_the_texts_of_each_batch(tiny_lens, few, store):
    made = Study(tiny_lens, few, languages=["ja"], store=store)
    need = made.needs()
    assert sum(need.fill(need.plan())) == 36
    assert list(need.fill(need.plan())) == []


def test_a_study_whose_vectors_are_stored_never_loads_the_model(
    tiny_folder, few, store, monkeypatch, passes
):
    arguments = {
        "data": few,
        "languages": ["ja"],
        "templates": ["prompteol", "none"],
        "store": store,
    }
    first = Study(tiny_folder("Llama"), **arguments)
    assert "each" not in repr(first)
    expected = [first.vectors("demo", setting=SETTINGS[1]), first.vectors("demo", layers="each")]
    first.capture(each="attn", progress=False)

    def refuse(*_, **__):
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(named, "load_model", refuse)
    monkeypatch.setattr(named, "_LOADED", {})  # the first study holds the model still
    passes.clear()
    second = Study(tiny_folder("Llama"), **arguments)
    assert second.needs(each="attn").plan()["passes"].sum() == 0
    second.capture(each="attn")
    assert torch.equal(second.vectors("demo", setting=SETTINGS[1]), expected[0])
    assert torch.equal(second.vectors("demo", layers="each"), expected[1])
    assert second.model == first.lens.facts
    assert second.model.d_model == 32
    assert len(scores.grid(second, [5])) == 2 * 2 * 2
    assert len(layers.table(second, 2, k=5)) == 2 * 2 * 2 * 3
    assert "Llama" in repr(second) or "llama" in repr(second)
    facts_of(second)
    assert passes == []
    with pytest.raises(AssertionError, match="the model is loaded"):
        second.vectors("demo", template="knowledge")


def test_studies_of_one_model_load_it_once_and_let_it_go(tiny_folder, few, store, monkeypatch):
    loaded = []

    def load(*arguments, **settings):
        loaded.append(arguments)
        return load_model(*arguments, **settings)

    monkeypatch.setattr(named, "load_model", load)
    monkeypatch.setattr(named, "_LOADED", WeakValueDictionary())
    first, second, third = (
        Study(tiny_folder("Llama"), few.head(n_pairs), store=store) for n_pairs in (1, 2, 3)
    )
    first.capture(progress=False)
    second.capture(progress=False)
    assert first.lens is second.lens
    assert len(loaded) == 1
    first.release()
    second.release()
    gc.collect()
    third.capture(progress=False)
    assert len(loaded) == 2


def test_planning_a_model_that_was_never_seen_does_not_load_it(
    tiny_folder, few, store, monkeypatch
):
    def refuse(*_, **__):
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(named, "load_model", refuse)
    plan = Study(tiny_folder("Llama"), few, languages=["ja"], store=store).needs().plan()
    assert plan["passes"].tolist() == plan["texts"].tolist() == [12, 12, 12]
    assert (plan["megabytes"] > 0).all()


Usage = namedtuple("Usage", "total used free")


def test_a_disk_that_is_too_small_is_refused_before_any_pass(
    tiny_lens, few, store, passes, monkeypatch
):
    made = Study(tiny_lens, few, languages=["ja"], store=store)
    needed = int(made.needs().plan()["megabytes"].sum() * 1e6)
    folders = []

    def disk_usage(folder, free):
        folders.append(folder)
        return Usage(10**9, 10**9 - free, free)

    monkeypatch.setattr(shutil, "disk_usage", lambda folder: disk_usage(folder, needed - 1))
    with pytest.raises(
        ModelError,
        match=r"need about .* MB in .*v\.sqlite, but only .* free; take a smaller sample",
    ):
        made.capture(progress=False)
    assert passes == []
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: disk_usage(folder, needed + 1))
    made.capture(progress=False)
    assert sum(passes) == 36
    assert set(folders) == {store.path.parent}
    # A study that needs nothing needs no room either.
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: disk_usage(folder, 0))
    made.capture(progress=False)


def test_capture_says_what_it_will_do_unless_told_not_to(tiny_lens, few, store, capsys):
    made = Study(tiny_lens, few.head(2), store=store)
    made.capture(progress=False)
    silent = capsys.readouterr()
    assert silent.out + silent.err == ""
    Study(tiny_lens, few.head(3), store=store).capture()
    said = capsys.readouterr()
    assert "2 forward passes (of 6 prompts; the others are stored)" in said.err
    assert str(store.path) in said.err
    assert said.out == ""
    made.capture()
    quiet = capsys.readouterr()
    assert quiet.out + quiet.err == ""


def test_studies_give_no_warnings(tiny_lens, few, store):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = Study(tiny_lens, few, languages=["ja"], templates=["prompteol", "none"], store=store)
        made.capture(progress=False)
        made.vectors("demo")


# --- what figures say of it


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "demo, 6 pairs"),
        ({"pairs": 4}, "demo, 4 pairs (the first)"),
        ({"pairs": 600}, "demo, 6 pairs"),
        ({"sample": 4, "seed": 3}, "demo, 4 random pairs (seed 3)"),
        ({"sample": 600, "seed": 3}, "demo, 6 pairs"),
        (
            {"pairs": 5, "sample": 2},
            "demo, 2 random pairs from its first 5 (seed 0)",
        ),
        ({"pairs": 3, "sample": 5}, "demo, 3 pairs (the first)"),
    ],
)
def test_the_facts_say_which_pairs_there_are(tiny_lens, few, store, arguments, said):
    made = Study(tiny_lens, few, store=store, **arguments)
    assert str(facts_of(made)) == f"{tiny_lens.facts.shown} (float32 weights), {said}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "2 tasks with 9 pairs"),
        ({"pairs": 2}, "2 tasks with 4 pairs (the first of each task)"),
        ({"pairs": 4}, "2 tasks with 7 pairs (the first of each task)"),
        ({"sample": 2, "seed": 1}, "2 tasks with 4 pairs (random sample of 2 per task, seed 1)"),
        ({"sample": 4}, "2 tasks with 7 pairs (random sample of at most 4 per task, seed 0)"),
        ({"sample": 7}, "2 tasks with 9 pairs"),
    ],
)
def test_the_facts_of_several_tasks_add_their_pairs(tiny_lens, few, store, arguments, said):
    tasks = {"A": few, "B": replace(few.head(3), name="other")}
    made = Study(tiny_lens, tasks, store=store, **arguments)
    assert str(facts_of(made)) == f"{tiny_lens.facts.shown} (float32 weights), {said}"
    with_settings = str(facts_of(made, languages=["en", "ja"], k=0.25, seed=0))
    assert with_settings.endswith(f"{said}, languages en/ja, k = 0.25 d, seed 0")


def test_the_facts_say_what_a_translator_made(tiny_lens, few, store):
    by = "English by Apertium 3.8.3 0123456789abcdef (apertium 3.8.3-1, cg3 1.3.9)"
    file = "test.ru.csv, sha256 0123456789abcdef"

    def said(*origins):
        tasks = {f"t{i}": replace(few, name=f"t{i}", origins=of) for i, of in enumerate(origins)}
        made = Study(tiny_lens, tasks, languages=["en", "ja", "ru"], store=store)
        return str(facts_of(made)).partition("pairs")[2]

    assert said({"ja": file, "ru": file}) == ""
    assert said({"ja": by, "ru": by}) == ", ja/ru by Apertium 3.8.3"
    assert said({"ja": by, "ru": file}) == ", ja by Apertium 3.8.3"
    other = "English by /models/mine@0123 greedy 256"
    assert said({"ja": by, "ru": other}) == ", ja by Apertium 3.8.3, ru by mine"
    assert said({"ja": by}, {"ja": by}) == ", ja by Apertium 3.8.3"
    assert said({"ja": by}, {"ja": by, "ru": by}) == (
        ", translated by Apertium 3.8.3 where the data have none"
    )


# --- real data


def test_a_study_of_real_data_gives_the_known_numbers(sts_folder, monkeypatch):
    """First 600 pairs of STS-B test, en ja ru; values of an independent implementation."""
    # The tests' own cache has the user's models, beside which the user's vectors are.
    vectors = paths.models_dir().resolve().parent / paths.vectors_path().name
    if not vectors.is_file():
        pytest.skip("the user's store has no vectors")

    def refuse(*_, **__):
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(named, "load_model", refuse)
    made = Study(
        *("gemma-3-270m", sts_folder, ["STSB"], ["en", "ja", "ru"]),
        settings="language-specific",
        pairs=600,
        store=VectorStore(vectors),
        dtype="float32",
    )
    need = made.needs(("attn", "attn_raw", "resid", "final"))
    if n_passes := need.plan()["passes"].sum():
        pytest.skip(f"the user's store lacks {n_passes} of the vectors of gemma-3-270m on STS-B")
    table = scores.grid(
        made, [1024], [3], components=("attn", "attn_raw", "resid"), vectors=["mean"]
    ).set_index("component")
    assert (table["n_pairs"] == 600).all()
    for component, score, dims in (
        ("attn", 80.34, 219.2),
        ("attn_raw", 75.33, 218.2),
        ("resid", 81.51, 196.5),
    ):
        assert table.loc[component, "spearman"] == pytest.approx(score, abs=0.05), component
        assert table.loc[component, "n_dims"] == pytest.approx(dims, abs=0.5), component
    final = made.vectors("STSB", "final", languages=["en"])[:, 0]
    cosine = torch.nn.functional.cosine_similarity(final[:600], final[600:])
    assert spearman(cosine, made.data["STSB"].gold) == pytest.approx(74.54, abs=0.05)


def test_a_study_may_be_the_model_alone(tiny_lens, store):
    alone = Study(tiny_lens, {}, store=store)
    assert alone.data == {}
    assert alone.capture(progress=False).empty
    assert str(facts_of(alone, alpha=2)) == f"{tiny_lens.facts.shown} (float32 weights), α = 2"
    nothing = Finding("kind", pd.DataFrame(), go.Figure(), "", facts_of(alone))
    assert nothing.name.count("_") == 1
    assert nothing.facts.record()["data"] == []
    with pytest.raises(InputError, match="unknown task 'STSB'"):
        Study(tiny_lens, {}, ["STSB"], store=store)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda lens, path: Study(lens, "demo", store=path), "store must be dl.VectorStore"),
        (
            lambda lens, path: Study(None, "demo"),
            "named by a string or a path",
        ),
        (lambda lens, path: Study("gemma-3-270", "demo"), "did you mean 'gemma-3-270m'"),
        (lambda lens, path: capture(lens, ["It rains."], store=path), "store must be"),
        (lambda lens, path: logit_lens(lens, ["It rains."], top=0), "top must be"),
        (
            lambda lens, path: Study(lens, "demo", store=VectorStore(path)).vectors(
                "demo", layers=99
            ),
            "layer must be between 0 and",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_any_pass(tiny_lens, tmp_path, passes, ask, said):
    with pytest.raises(InputError, match=said):
        ask(tiny_lens, str(tmp_path / "v.sqlite"))
    assert not passes


def test_the_decomposition_says_that_it_needs_mean_pooling(tiny_lens, store):
    study = Study(tiny_lens, load_data("demo").head(4), store=store)
    with planning() as asked, pytest.raises(Planned):
        decomposition.decomposition(study, ["en"])
    n_passes = sum(int(need.plan()["passes"].sum()) for need in asked[0].needs)
    assert n_passes == 2 * 8  # each text in the prompt, and bare
