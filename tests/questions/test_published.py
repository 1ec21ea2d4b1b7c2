"""The paper's table, the main results beside it, their figure, and `evaluate --compare`."""

import dataclasses
import functools
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata, spearmanr
from typer.testing import CliRunner

import dysem_lab as dl
from dysem_lab.cli import cli, main
from dysem_lab.data.sts import load_data
from dysem_lab.errors import InputError
from dysem_lab.evaluate import average_score
from dysem_lab.questions import main_results, published
from dysem_lab.questions.main_results import (
    DySemRow,
    comparison,
    marks,
    paper_settings,
    remarks,
)
from dysem_lab.questions.main_results import caption as main_results_caption
from dysem_lab.questions.main_results import figure as main_results_figure
from dysem_lab.questions.published import AVERAGE, N_PAIRS, preset_of

SEVEN = ["STS12", "STS13", "STS14", "STS15", "STS16", "STSB", "SICKR"]
TEN = [
    *("llama2-7b", "llama3.1-8b", "qwen2.5-7b", "qwen3-8b"),
    *("llama2-7b-it", "llama3.1-8b-it", "qwen2.5-7b-it", "qwen3-8b-it"),
    *("phi3-mini-it", "phi3.5-mini-it"),
]


# The paper's table


@pytest.mark.parametrize(
    ("model", "table", "method", "template", "setting", "vector", "dims", "scores"),
    [
        (
            *("llama2-7b", "1", "DySem", "prompteol", "language-specific", "mean", 1240),
            [72.68, 84.75, 77.28, 83.47, 79.19, 80.06, 75.39, 78.98],
        ),
        (
            *("qwen3-8b", "1", "DySem", "prompteol", "language-specific", "mean", 675),
            [77.54, 84.33, 76.95, 83.91, 81.19, 81.26, 78.56, 80.54],
        ),
        (
            *("phi3.5-mini-it", "2", "Mean Pooling", "none", "", "mean last hidden", 3072),
            [53.55, 54.63, 46.27, 51.68, 53.20, 43.63, 44.05, 49.57],
        ),
        (
            *("llama2-7b", "5", "DySem", "knowledge", "english", "unspecified", 1117),
            [70.69, 86.45, 78.98, 84.14, 81.80, 83.91, 78.79, 80.68],
        ),
    ],
)
def test_published_has_the_printed_numbers(
    model, table, method, template, setting, vector, dims, scores
):
    rows = dl_published(model)
    rows = rows[(rows["table"] == table) & (rows["method"] == method)]
    rows = rows[(rows["template"] == template) & (rows["setting"] == setting)]
    assert rows["task"].tolist() == [*SEVEN, "Avg."]
    assert rows["score"].tolist() == scores
    assert set(rows["vector"]) == {vector}
    assert set(rows["dims"]) == {dims}


def dl_published(model=None):
    return published.published(model)


def test_published_is_whole_and_its_averages_are_those_of_its_scores():
    table = dl_published()
    assert len(table) == 90 * 8
    assert list(dict.fromkeys(table["preset"])) == ["", *TEN]
    assert not table.isna().any().any()
    off = []
    for start in range(0, len(table), 8):
        rows = table.iloc[start : start + 8]
        assert rows["task"].tolist() == [*SEVEN, "Avg."]
        assert rows["method"].nunique() == 1
        if abs(rows["score"].iloc[:7].mean() - rows["score"].iloc[7]) > 0.02:
            off.append(rows["method"].iloc[0])
    assert off == ["Sentence-BERT"]  # printed 74.89 in its own paper too


def test_published_says_which_sick_r_a_number_is_of():
    table = dl_published().query("task == 'SICKR'")
    pairs = table.groupby("method")["n_pairs"].unique().map(list)
    for method in ("Mean Pooling", "PromptEOL", "AlignedWVA", "DySem", "LLM2Vec"):
        assert pairs[method] == [9927]
    for method in ("SimCSE", "PromptBERT", "Token Prepending", "SemPA"):
        assert pairs[method] == [4927]
    averages = dl_published("llama2-7b").query("task == 'Avg.'").set_index("method")["n_pairs"]
    assert averages["Token Prepending"] == 13923 + 4927
    assert set(averages["DySem"]) == {13923 + 9927}


def test_published_takes_every_name_of_a_model():
    by_preset = dl_published("qwen2.5-7b-it")
    assert len(by_preset) == 5 * 8
    for name in ("Qwen2.5-7B-it", "Qwen/Qwen2.5-7B-Instruct"):
        pd.testing.assert_frame_equal(dl_published(name), by_preset)
    assert len(dl_published("BERT-base-NLI (110M)")) == 8
    with pytest.raises(InputError, match=r"unknown published model 'gemma-3-270m'.*llama2-7b"):
        dl_published("gemma-3-270m")


def test_published_is_a_copy():
    changed = dl_published()
    changed.loc[:, "score"] = 0.0
    assert dl_published()["score"].min() > 0


def test_paper_settings_are_table_4_and_where_it_differs_the_script():
    assert paper_settings("llama2-7b") == [
        ("english", "source", 9, "Table 4"),
        ("english", "source", 12, "released script"),
        ("language-specific", "mean", 4, "Table 4"),
    ]
    assert [row.m for row in paper_settings("qwen2.5-7b")] == [11, 12, 7]
    assert [row.m for row in paper_settings("phi3-mini-it")] == [8, 4]
    with pytest.raises(InputError, match="unknown preset 'llama2'") as raised:
        paper_settings("llama2")
    assert all(name in str(raised.value) for name in TEN)


def test_preset_of_knows_the_ten_by_each_name_and_no_other():
    assert preset_of("llama2-7b") == "llama2-7b"
    assert preset_of("meta-llama/Llama-2-7b-hf") == "llama2-7b"
    assert preset_of("LLaMA2-7B") == "llama2-7b"
    assert preset_of("meta-llama/Llama-2-13b-hf") == ""
    assert preset_of("gemma-3-270m") == ""


# Our rows, against a naive computation


@pytest.fixture(scope="module")
def two_tasks():
    """Return 14 pairs in three languages and 12 others in English alone."""
    demo = load_data("demo", languages=("en", "ja", "ru"))
    stsb = demo.select(range(14))
    english = load_data("demo").select(range(14, 26))
    parts = {"STSB": (stsb, "STSB test"), "STS12": (english, "STS12 test")}
    return {task: dataclasses.replace(data, name=name) for task, (data, name) in parts.items()}


@pytest.fixture(scope="module")
def study(tiny_lens, two_tasks, tmp_path_factory):
    store = dl.VectorStore(tmp_path_factory.mktemp("store") / "v.sqlite")
    study = dl.Study(tiny_lens, two_tasks, None, ("en", "ja", "ru"), store=store)
    study.capture(progress=False)
    return study


@pytest.fixture(scope="module")
def table(study):
    return main_results.table(study, k=6)


@pytest.fixture(scope="module")
def naive_vectors(tiny_lens, two_tasks):
    """Return a function that reads one task's vectors without a study, in one language."""

    @functools.cache
    def read(task, language, template, setting, component):
        prompts = dl.wrap(two_tasks[task].texts(language), template, setting, language)
        return dl.capture(tiny_lens, prompts, component, progress=False)[component].double().numpy()

    return read


def naive_cosine(x, y, dims):
    x, y = x[dims], y[dims]
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def naive_dysem(by_language, vector, k, source=None):
    """Return (similarity, size) of each pair by Eqs. 11–17, dimension by dimension.

    The source is the first language unless its vectors are given.
    """
    n_pairs = len(by_language[0]) // 2
    mean = np.mean(by_language, axis=0)
    source = by_language[0] if source is None else source
    v = source if vector == "source" else mean
    sets = []
    for text in range(2 * n_pairs):
        positive = [
            j for j in range(mean.shape[1]) if all(vectors[text, j] > 0 for vectors in by_language)
        ]
        sets.append(set(sorted(positive, key=lambda j: (-mean[text, j], j))[:k]))
    result = []
    for i in range(n_pairs):
        union = sorted(sets[i] | sets[n_pairs + i])
        result.append((naive_cosine(v[i], v[n_pairs + i], union), len(union)))
    return result


@pytest.mark.parametrize(
    ("method", "template", "component"),
    [
        ("Mean Pooling", "none", "mean"),
        ("PromptEOL", "prompteol", "final"),
        ("Pretended CoT", "pretended_cot", "final"),
        ("Knowledge Enhancement", "knowledge", "final"),
    ],
)
def test_baselines_are_plain_cosines_in_english(
    table, naive_vectors, two_tasks, method, template, component
):
    for task, data in two_tasks.items():
        x = naive_vectors(task, "en", template, "english", component)
        n = len(data)
        cosines = [naive_cosine(x[i], x[n + i], slice(None)) for i in range(n)]
        (row,) = table[(table["task"] == task) & (table["method"] == method)].to_dict("records")
        assert row["spearman"] == pytest.approx(100 * spearmanr(cosines, data.gold)[0], abs=1e-6)
        assert (row["n_dims"], row["n_pairs"], row["template"]) == (32, n, template)
        assert row["low"] < row["spearman"] < row["high"]


@pytest.mark.parametrize("setting", ["english", "language-specific"])
@pytest.mark.parametrize("vector", ["source", "mean"])
def test_dysem_rows_follow_the_equations_in_the_languages_that_a_task_has(
    table, naive_vectors, two_tasks, setting, vector
):
    for task, data in two_tasks.items():
        by_language = [
            naive_vectors(task, code, "prompteol", setting, "attn") for code in data.languages
        ]
        similarity, sizes = np.transpose(naive_dysem(by_language, vector, 6))
        wanted = (table["task"] == task) & (table["method"] == "DySem")
        wanted &= (table["setting"] == setting) & (table["vector"] == vector)
        (row,) = table[wanted].to_dict("records")
        assert row["spearman"] == pytest.approx(100 * spearmanr(similarity, data.gold)[0], abs=1e-6)
        assert row["n_dims"] == pytest.approx(sizes.mean())
        assert (row["m"], row["languages"]) == (len(data.languages), "/".join(data.languages))
        assert row["k"] == 6


def test_english_only_tasks_have_one_dysem_number_and_say_why(table):
    rows = table[(table["task"] == "STS12") & (table["method"] == "DySem")]
    assert len(rows) == 4
    assert rows["spearman"].nunique() == rows["n_dims"].nunique() == 1
    assert set(rows["note"]) == {"English only, so m = 1"}
    assert set(table.loc[table["task"] == "STSB", "note"]) == {""}


def test_the_average_is_over_the_tasks_and_leaves_blank_what_differs(table):
    assert table["task"].drop_duplicates().tolist() == ["STSB", "STS12", AVERAGE]
    for keys, rows in table.groupby(["method", "setting", "vector"]):
        *parts, average = rows.to_dict("records")
        assert average["task"] == AVERAGE
        assert average["spearman"] == pytest.approx(np.mean([part["spearman"] for part in parts]))
        assert average["n_dims"] == pytest.approx(np.mean([part["n_dims"] for part in parts]))
        assert average["n_pairs"] == 26
        assert average["low"] < average["spearman"] < average["high"]
        assert pd.isna(average["m"])  # none, or 3 and 1
        assert average["languages"] == ("en" if keys[0] != "DySem" else "")


def test_languages_are_added_in_the_order_given_and_m_cuts_it(study, naive_vectors, two_tasks):
    by_language = [
        naive_vectors("STSB", code, "prompteol", "english", "attn") for code in ("ru", "en")
    ]
    rows = main_results.table(study, ["ru", "en", "ja"], 2, k=6, baselines=[])
    row = rows[(rows["task"] == "STSB") & (rows["vector"] == "mean")].iloc[0]
    similarity, _ = np.transpose(naive_dysem(by_language, "mean", 6))
    assert row["languages"] == "ru/en"
    assert row["spearman"] == pytest.approx(
        100 * spearmanr(similarity, two_tasks["STSB"].gold)[0], abs=1e-6
    )
    without_english = main_results.table(study, ["ru", "ja"], k=6, baselines=[])
    rows = without_english[without_english["vector"] == "source"].set_index(["task", "setting"])
    row = rows.loc[("STSB", "english")]
    # The source vector is English whether or not English is in the consensus.
    read = {c: naive_vectors("STSB", c, "prompteol", "english", "attn") for c in ("ru", "ja", "en")}
    similarity, _ = np.transpose(naive_dysem([read["ru"], read["ja"]], "source", 6, read["en"]))
    expected = 100 * spearmanr(similarity, two_tasks["STSB"].gold)[0]
    assert row["languages"] == "ru/ja"
    assert row["spearman"] == pytest.approx(expected, abs=1e-6)
    assert rows.loc[("STS12", "english"), "languages"] == "en"


def test_a_ranking_gives_each_task_and_setting_its_own_order(study):
    ranking = pd.DataFrame(
        [
            (task, setting, code, rank)
            for task, setting, order in (
                ("STSB", "english", "ja en ru"),
                ("STSB", "language-specific", "ru ja en"),
                ("STS12", "english", "en"),
                ("STS12", "language-specific", "en"),
            )
            for rank, code in reversed(list(enumerate(order.split(), start=1)))
        ],
        columns=["task", "setting", "language", "rank"],
    )
    rows = [
        DySemRow("english", "source", 2, "Table 4"),
        DySemRow("english", "source", 9, "released script"),
        DySemRow("language-specific", "mean", 1, "Table 4"),
    ]
    table = main_results.table(study, ranking, rows=rows, baselines=["none"])
    stsb = table[(table["task"] == "STSB") & (table["method"] == "DySem")]
    assert stsb["languages"].tolist() == ["ja/en", "ja/en/ru", "ru"]
    assert stsb["m"].tolist() == [2, 3, 1]
    assert stsb["origin"].tolist() == ["Table 4", "released script", "Table 4"]
    assert stsb["note"].tolist() == ["", "m = 3 in place of 9, for want of languages", ""]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"languages": ["en", "xx"]}, r"unknown language of this study 'xx'.*en, ja, ru"),
        ({"m": 0}, "m must be a whole number of at least 1, got 0"),
        ({"m": 2, "rows": [DySemRow("english", "mean")]}, "m=2 and rows .* exclude each other"),
        ({"rows": [DySemRow("english", "median")]}, "unknown vector 'median'"),
        ({"rows": [DySemRow("chinese", "mean")]}, "unknown prompt setting 'chinese'"),
        ({"baselines": ["poem"]}, "unknown template of a baseline 'poem'.*knowledge"),
        ({"k": 0}, "k must be an integer >= 1"),
        ({"preset": "llama3"}, "unknown preset 'llama3'.*llama3.1-8b"),
        ({"preset": "llama2-7b"}, "L=3, d=32 is not llama2-7b, which has L=32, d=4096"),
    ],
)
def test_main_results_refuses_what_does_not_exist(study, arguments, message):
    with pytest.raises(InputError, match=message):
        main_results.table(study, **arguments)


def test_a_task_without_a_score_is_left_out_of_every_average(study, tiny_lens, two_tasks):
    flat = np.full(len(two_tasks["STS12"]), 3.0)
    tasks = two_tasks | {"STS12": dataclasses.replace(two_tasks["STS12"], gold=flat)}
    study = dl.Study(tiny_lens, tasks, store=study.store)
    with pytest.warns(UserWarning, match="Spearman is undefined"):
        table = main_results.table(study, baselines=["prompteol"])
    scores = table.set_index(["task", "method"])["spearman"]
    assert scores["STS12"].isna().all()
    assert scores[(AVERAGE, "PromptEOL")] == scores[("STSB", "PromptEOL")]
    said = " ".join(remarks(comparison(table)))
    assert "Avg.: without STS12, where a method has no score." in said
    texts = figure_texts(main_results_figure(table, "here"))
    assert texts.count("–") == 5  # five methods without a score on STS12


def test_the_average_of_one_task_is_its_score_with_its_interval():
    generator = np.random.default_rng(1)
    gold = generator.integers(0, 6, 60).astype(float)
    similarity = gold + generator.normal(size=60)
    similarity[3] = np.nan
    assert average_score([(similarity, gold)], 7.0, seed=4) == dl.score(
        similarity, gold, 7.0, seed=4
    )
    nothing = average_score([])
    assert np.isnan([nothing["spearman"], nothing["low"], nothing["high"]]).all()


def test_tasks_are_resampled_independently():
    generator = np.random.default_rng(2)
    gold = generator.normal(size=200)
    tasks = [(gold + generator.normal(size=200), gold) for _ in range(4)]
    widths = [score["high"] - score["low"] for score in (dl.score(*task) for task in tasks)]
    average = average_score(tasks)
    # The mean of four independent scores has half the spread of one.
    ratio = (average["high"] - average["low"]) / np.sqrt(np.mean(np.square(widths)))
    assert 0.4 < ratio < 0.6
    # And the interval is that of a bootstrap done by sorting every resample.
    means = []
    for _ in range(600):
        drawn = [generator.integers(0, 200, 200) for _ in tasks]
        means.append(
            np.mean(
                [
                    100 * np.corrcoef(rankdata(x[rows]), rankdata(y[rows]))[0, 1]
                    for (x, y), rows in zip(tasks, drawn, strict=True)
                ]
            )
        )
    assert average["low"] == pytest.approx(np.quantile(means, 0.025), abs=1.0)
    assert average["high"] == pytest.approx(np.quantile(means, 0.975), abs=1.0)


# The comparison


def results(scores, model="llama2-7b", **changed):
    """Return a table of results for {task: score}, the same for five rows of methods."""
    methods = [
        ("Mean Pooling", "none", "", ""),
        ("PromptEOL", "prompteol", "", ""),
        ("DySem", "prompteol", "english", "source"),
        ("DySem", "prompteol", "english", "mean"),
        ("DySem", "prompteol", "language-specific", "mean"),
    ]
    rows = [
        {
            "model": model,
            "preset": preset_of(model),
            "task": task,
            "method": method,
            "template": template,
            "setting": setting,
            "vector": vector,
            "origin": "",
            "k": 1024 if method == "DySem" else None,
            "m": 9 if method == "DySem" else None,
            "languages": "en",
            "note": "",
            "spearman": value,
            "low": value - 1,
            "high": value + 1,
            "n_dims": 100.0,
            "n_pairs": N_PAIRS.get(task, 10),
            "n_undefined": 0,
            **changed,
        }
        for task, value in scores.items()
        for method, template, setting, vector in methods
    ]
    return pd.DataFrame(rows).astype({"k": "Int64", "m": "Int64"})


def test_comparison_subtracts_the_published_number_of_the_same_row():
    compared = comparison(results({"STSB": 80.0}))
    assert compared["reproduced"].tolist() == [80.0] * 5
    assert compared["published"].iloc[[0, 1, 2, 4]].tolist() == [42.66, 71.72, 80.67, 80.06]
    assert compared["difference"].iloc[[0, 1, 2, 4]].tolist() == pytest.approx(
        [37.34, 8.28, -0.67, -0.06]
    )
    assert compared["published_dims"].iloc[[0, 1, 2, 4]].tolist() == [4096, 4096, 1238, 1240]
    # LLaMA2-7B's published English row has the source vector, so the mean has no counterpart.
    assert compared.iloc[3][["published", "difference", "published_dims"]].isna().all()


def test_the_published_average_is_over_the_same_tasks():
    two = comparison(results({"STS12": 70.0, "STSB": 80.0, AVERAGE: 75.0}))
    row = two[two["task"] == AVERAGE].iloc[4]
    assert row["published"] == pytest.approx((72.68 + 80.06) / 2)
    assert row["difference"] == pytest.approx(75 - (72.68 + 80.06) / 2)
    assert row["published_pairs"] == 3108 + 1379
    seven = comparison(results({**dict.fromkeys(SEVEN, 70.0), AVERAGE: 70.0}))
    assert seven[seven["task"] == AVERAGE]["published"].iloc[4] == 78.98  # as printed
    mixed = comparison(results({"demo": 70.0, "STSB": 80.0, AVERAGE: 75.0}))
    assert mixed.loc[mixed["task"] != "STSB", "published"].isna().all()


def test_a_task_without_a_score_is_in_neither_average():
    table = results({"STS12": np.nan, "STSB": 80.0, AVERAGE: 80.0})
    compared = comparison(table)
    assert compared[compared["task"] == AVERAGE]["published"].iloc[4] == 80.06
    assert compared[compared["task"] == "STS12"]["difference"].isna().all()


def test_a_model_without_published_numbers_gets_words_and_no_number():
    compared = comparison(results({"STSB": 80.0}, model="gemma-3-270m"))
    assert len(compared) == 5
    columns = ["published", "difference", "published_dims", "published_pairs", "published_vector"]
    assert compared[columns].isna().all().all()
    (sentence,) = remarks(compared)
    assert sentence.startswith("No published number exists for gemma-3-270m")
    assert all(name in sentence for name in TEN)


def test_table_5_stands_beside_both_vectors_and_says_that_it_does_not_name_one():
    table = results({"STSB": 80.0}).replace({"template": {"prompteol": "pretended_cot"}})
    table["method"] = table["method"].replace({"PromptEOL": "Pretended CoT"})
    compared = comparison(table)
    assert compared["published"].tolist() == [42.66, 72.11, 82.56, 82.56, 81.92]
    said = " ".join(remarks(compared))
    assert "does not say which semantic vector" in said
    assert "In the paper, m is" not in said


def test_remarks_name_what_differs_from_the_paper():
    everything = remarks(comparison(results({"STSB": 80.0})))
    assert everything == [
        "In the paper, m is 9 (english, source) and 4 (language-specific, mean) in every task."
    ]
    few = remarks(comparison(results({"STSB": 80.0, "SICKR": 70.0}, n_pairs=600, k=512)))
    assert few[0] == (
        "Not all of the paper's pairs are here: STSB 600 of 1,379, SICKR 600 of 9,927."
    )
    assert few[1] == "k is 512 here, 1024 in the paper."
    assert "9,927 pairs (MTEB), not the 4,927 of SentEval" in few[3]
    (demo,) = remarks(comparison(results({"demo": 50.0})))
    assert demo.startswith("No published number exists for demo: the DySem paper reports the test")
    noted = remarks(comparison(results({"STS12": 1.0, "STS13": 2.0}, note="so")))
    assert noted[-1] == "STS12, STS13: so."


def test_only_test_sets_are_taken_for_the_paper_s_tasks():
    pairs = load_data("demo").head(3)

    def named(name):
        return published.paper_task(dataclasses.replace(pairs, name=name))

    assert named("STSB test") == "STSB"
    assert named("STSB dev") == "STSB dev"
    assert named("demo") == "demo"
    assert named("STS17 test") == "STS17 test"


# The figure


def figure_texts(figure):
    cells = [text for block in figure.data for texts in block.cells.values for text in texts]
    return [*cells, *(note.text for note in figure.layout.annotations)]


def column(figure, name, block=0):
    """Return the cells under a header, in our table (0) or in the published one (1)."""
    table = figure.data[block]
    cells = dict(zip(table.header.values, table.cells.values, strict=True))[f"<b>{name}</b>"]
    return [text.partition("<br>")[0] for text in cells]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([1.0, 3.0, 2.0], ["", "best", "second"]),
        ([3.0, 3.0, 2.0, 1.0], ["best", "best", "second", ""]),
        ([3.0, 2.0, 2.0], ["best", "second", "second"]),
        ([80.001, 80.004, 79.996], ["best", "best", "best"]),  # 80.00 to a reader
        ([80.006, 80.001], ["best", "second"]),
        ([np.nan, 1.0, np.nan], ["", "best", ""]),
        ([np.nan, np.nan], ["", ""]),
        ([-3.0, -1.0], ["second", "best"]),
        ([5.0, 5.0], ["best", "best"]),
    ],
)
def test_marks_are_of_the_seen_scores(scores, expected):
    assert marks(scores) == expected


def test_the_figure_marks_columns_and_shows_intervals(table):
    figure = main_results_figure(table, "measured on this")
    assert "measured on this" in figure.layout.title.subtitle.text
    for task in ("STSB", "STS12", AVERAGE):
        scores = table.loc[table["task"] == task, "spearman"].round(2)
        cells = column(figure, task)
        for value, cell in zip(scores, cells, strict=True):
            ranked = sorted(set(scores), reverse=True)
            tag = {ranked[0]: "<b>{}</b>", ranked[1]: "<u>{}</u>"}.get(value, "{}")
            assert cell == tag.format(f"{value:.2f}")
    row = table.iloc[0]
    assert any(f"[{row['low']:.1f}, {row['high']:.1f}]" in text for text in figure_texts(figure))
    assert column(figure, "m") == ["", "", "", "", *["1–3"] * 4]
    assert column(figure, "Method")[-1] == "DySem, language-specific, mean"
    notes = " ".join(note.text for note in figure.layout.annotations)
    assert "STS12: English only, so m = 1." in notes.replace("<br>", " ")
    assert "No published number exists" in notes
    assert not any("Published for" in text for text in figure_texts(figure))


def test_the_figure_says_where_its_systems_act(tiny_folder, tmp_path):
    store = dl.VectorStore(tmp_path / "v.sqlite")
    deep = str(tiny_folder("Llama", n_layers=8))
    study = dl.Study(deep, "demo", languages=["en", "ja"], pairs=6, store=store)
    finding = dl.main_results(study)
    under = finding.figure.layout.title.subtitle.text.replace("<br>", " ")
    # Block 5 and α = 2 are CP's for LLaMA2-7B, blocks 2 to 7 those of TP's released code.
    assert under.endswith(
        "DySem on A<sup>L</sup> with PromptEOL, Token Prepending in blocks 2 to 7, "
        "Contrastive Prompting at block 5 (scaling: α = 2)"
    )
    methods = column(finding.figure, "Method")
    assert "Contrastive Prompting (Scaling)" in methods
    assert "Contrastive Prompting(Scaling)" in set(finding.table["method"])  # as in the paper
    lines = {text.count("<br>") for text in finding.figure.data[0].cells.values[0]}
    assert lines == {1}  # each beside its score, above the interval


def test_the_figure_of_a_preset_has_the_published_rows_below():
    figure = main_results_figure(results({"STSB": 80.0}), "llama2-7b")
    titles = [text for text in figure_texts(figure) if "Published for llama2-7b" in text]
    assert len(titles) == 1
    assert "† SICK-R of 4,927 pairs, the others of 9,927" in titles[0]
    methods = column(figure, "Method", block=1)
    assert methods[:3] == ["Mean Pooling", "PromptEOL", "LLM2Vec"]
    assert len(methods) == 18
    sick = dict(zip(methods, column(figure, "SICKR", block=1), strict=True))
    assert sick["Token Prepending"] == "75.40†"
    assert sick["DySem, language-specific, mean"] == "75.39"
    average = dict(zip(methods, column(figure, AVERAGE, block=1), strict=True))
    assert average["DySem, Knowledge Enhancement, English"] == "<b>80.68</b>"
    assert average["DySem, Knowledge Enhancement, language-specific"] == "<u>80.52</u>"
    assert column(figure, "STSB") == ["<b>80.00</b>"] * 5
    assert "†" not in "".join(
        figure_texts(main_results_figure(results({"STSB": 8.0}, "qwen3-8b"), ""))
    )


def test_both_tables_of_the_figure_fit_into_it_whole():
    tall = {**dict.fromkeys(SEVEN, 70.0), AVERAGE: 70.0}
    figure = main_results_figure(results(tall, origin="released script"), "llama2-7b")
    margin = figure.layout.margin
    high = figure.layout.height - margin.t - margin.b
    wide = figure.layout.width - margin.l - margin.r
    ours, paper = figure.data
    assert 0 <= paper.domain.y[0] < paper.domain.y[1] < ours.domain.y[0] < ours.domain.y[1] < 1
    for block in (ours, paper):
        rows = len(block.cells.values[0])
        needed = block.header.height + rows * block.cells.height
        assert needed <= high * (block.domain.y[1] - block.domain.y[0]) + 1e-6  # nothing to scroll
        lines = max(text.count("<br>") + 1 for column in block.cells.values for text in column)
        assert block.cells.height >= 17 * lines + 16  # what plotly gives a cell with markup
        scale = wide * block.domain.x[1] / sum(block.columnwidth)
        longest = max(len(text.partition("<br>")[0]) for text in block.cells.values[0])
        assert 6.5 * longest + 16 < scale * block.columnwidth[0]
    notes, *_ = [note for note in figure.layout.annotations if note.align == "left"]
    assert notes.y < paper.domain.y[0]


def test_the_caption_says_the_numbers_of_the_table():
    table = results({"STSB": 80.0}, model="gemma-3-270m")
    table.loc[4, ["spearman", "low", "high", "n_dims"]] = [81.24, 79.0, 83.0, 219.4]
    assert main_results_caption(table) == (
        "DySem at its best is ahead of Mean Pooling, the best other method, by 1.2 (not tested). "
        "Spearman × 100, STSB: Mean Pooling 80.0, PromptEOL 80.0, DySem 80.0 to 81.2; best is "
        "DySem, language-specific, mean with 81.2 [79.0, 83.0] on 219 dimensions, m = 9. "
        "No published number to compare with."
    )
    seven = results({**dict.fromkeys(SEVEN, 70.0), AVERAGE: 70.0})
    caption = main_results_caption(seven)
    assert caption.startswith("DySem at its best scores as much as Mean Pooling, the best other")
    assert "Spearman × 100, mean of 7 tasks: Mean Pooling 70.0" in caption
    # 46.96 (mean pooling) to 78.98 (DySem, language-specific) are published.
    assert caption.endswith("4 rows have a published number; differences to it -9.0 to +23.0.")
    nothing = results({"STSB": np.nan})
    assert main_results_caption(nothing) == "Spearman × 100, STSB: no method has a score."


# The command line


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


def evaluate(*arguments):
    return CliRunner().invoke(cli, ["evaluate", *map(str, arguments)], catch_exceptions=False)


def test_evaluate_compare_without_published_numbers_says_so(own_cache, tiny_folder):
    arguments = ("--model", tiny_folder("Llama"), "--compare", "--pairs", 8, "--k", "0.5")
    result = json.loads(evaluate(*arguments, "--json").stdout)
    assert result["preset"] is None
    assert result["remarks"][0].startswith(
        f"No published number exists for {Path(tiny_folder('Llama')).name}:"
    )
    rows = result["scores"]
    assert [row["method"] for row in rows] == ["Mean Pooling", "PromptEOL", *["DySem"] * 4]
    assert all(row["published"] is None and row["difference"] is None for row in rows)
    assert {row["languages"] for row in rows[2:]} == {"en/ja/ru"}
    assert {row["k"] for row in rows[2:]} == {16}
    text = evaluate(*arguments).output
    assert f"{rows[-1]['reproduced']:.2f} ({rows[-1]['low']:.1f} to {rows[-1]['high']:.1f})" in text
    assert "No published number exists" in " ".join(text.split())


@pytest.fixture
def fake_hub(tmp_path, monkeypatch, tiny_folder):
    """Put a random model where the hub's cache would have LLaMA2-7B, and cut the network."""
    from huggingface_hub import constants

    commit = "0" * 40
    repository = tmp_path / "hub" / "models--meta-llama--Llama-2-7b-hf"
    shutil.copytree(tiny_folder("Llama"), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def sts_like_folder(tmp_path):
    """Write the demo's first pairs as STS-B in four languages, and others as STS12 in English."""
    data = load_data("demo", languages=("en", "ja", "ru", "de"))
    (tmp_path / "data" / "stsb").mkdir(parents=True)
    (tmp_path / "data" / "en_mteb").mkdir()

    def write(path, language, rows):
        first, second = data.sentences[language]
        columns = {"sentence1": first, "sentence2": second, "score": data.gold}
        pd.DataFrame(columns).iloc[rows].to_csv(path, index=False)

    for code in data.languages:
        write(tmp_path / "data" / "stsb" / f"test.{code}.csv", code, slice(0, 10))
    write(tmp_path / "data" / "en_mteb" / "STS12.csv", "en", slice(10, 18))
    return tmp_path / "data"


def fails(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dysem-lab", "evaluate", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.filterwarnings("ignore:.* its scores do not compare with published ones")
def test_evaluate_compare_runs_a_preset_with_the_paper_s_settings(
    own_cache, fake_hub, sts_like_folder, monkeypatch, capsys
):
    arguments = ("--preset", "llama2-7b", "--compare", "--data", sts_like_folder)
    shown = fails((*arguments, "--task", "STS12"), monkeypatch, capsys)
    assert "llama2-7b with L=3, d=32 is not llama2-7b, which has L=32, d=4096" in shown
    small = dl.presets().assign(n_layers=3, d_model=32)
    monkeypatch.setattr(published, "presets", lambda: small)
    arguments += ("--task", "STSB", "--task", "STS12")
    result = json.loads(evaluate(*arguments, "--json").stdout)
    assert (result["model"], result["preset"]) == ("llama2-7b", "llama2-7b")
    assert result["data"] == "STSB test, STS12 test"
    table = pd.DataFrame(result["scores"])
    assert table["task"].drop_duplicates().tolist() == ["STSB", "STS12", AVERAGE]
    stsb = table[table["task"] == "STSB"].set_index("origin", drop=False)
    assert stsb["method"].tolist() == ["Mean Pooling", "PromptEOL", *["DySem"] * 3]
    assert stsb["origin"].tolist() == ["", "", "Table 4", "released script", "Table 4"]
    assert stsb["setting"].tolist() == ["", "", "english", "english", "language-specific"]
    assert stsb["published"].tolist() == [42.66, 71.72, 80.67, 80.67, 80.06]
    assert stsb["m"].tolist()[2:] == [4, 4, 4]
    assert set(stsb["languages"].iloc[2].split("/")) == {"en", "ja", "ru", "de"}
    difference = table["reproduced"] - table["published"]
    assert table["difference"].to_numpy() == pytest.approx(difference.to_numpy(), abs=1e-6)
    said = result["remarks"]
    assert "STSB: m = 4 in place of 9, for want of languages." in said
    assert "STSB: m = 4 in place of 12, for want of languages." in said
    assert "STS12: English only, so m = 1." in said
    assert "STSB 10 of 1,379, STS12 8 of 3,108" in said[0]
    assert said[-1].startswith("Languages are ranked by their scores on the labels")
    ranked = re.search(r"STSB english ([a-z/]+)", said[-1])[1]
    assert ranked == stsb["languages"].iloc[2]
    single = single_scores(sts_like_folder)
    assert single == sorted(single, reverse=True)

    text = evaluate(*arguments).output
    assert "DySem, english, source, released script" in text
    assert "80.67" in text
    assert "released script" in text


def single_scores(folder):
    """Return STS-B's single-language scores in the order in which evaluate ranked them."""
    study = dl.Study("llama2-7b", folder, ["STSB"], ["en", "ja", "ru", "de"])
    result = json.loads(
        evaluate(
            *("--preset", "llama2-7b", "--compare", "--data", folder, "--task", "STSB", "--json")
        ).stdout
    )
    order = re.search(r"STSB language-specific ([a-z/]+)", result["remarks"][-1])[1].split("/")
    scores = []
    for code in order:
        x = study.vectors("STSB", setting="language-specific", languages=[code])[:, 0].numpy()
        cosines = [naive_cosine(x[i], x[10 + i], slice(None)) for i in range(10)]
        scores.append(spearmanr(cosines, study.data["STSB"].gold)[0])
    return scores


def test_evaluate_compare_errors_are_sentences(own_cache, fake_hub, monkeypatch, capsys):
    shown = fails(("--preset", "llama2", "--compare"), monkeypatch, capsys)
    assert "unknown preset 'llama2'; did you mean 'llama2-7b'?" in shown
    assert f"choose one of: {', '.join(TEN)}" in shown
    shown = fails(("--preset", "llama2-7b"), monkeypatch, capsys)
    assert "--preset goes with --compare" in shown
    # A preset whose weights are not on this machine keeps the loader's own words.
    shown = fails(("--preset", "qwen3-8b", "--compare", "--pairs", 5), monkeypatch, capsys)
    assert "cannot load qwen3-8b (Qwen/Qwen3-8B-Base)" in shown


def test_evaluate_takes_a_random_sample(own_cache, tiny_folder, tiny_lens):
    arguments = ("--model", tiny_folder("Llama"), "--languages", "en", "--json", "--sample", 8)
    scores = json.loads(evaluate(*arguments, "--seed", 3).stdout)["scores"]
    assert all(row["n_pairs"] + row["n_undefined"] == 8 for row in scores)
    data = load_data("demo")
    sample = data.select(np.sort(np.random.default_rng(3).permutation(len(data))[:8]))
    x = dl.capture(tiny_lens, sample.texts("en"), "mean", progress=False)["mean"].numpy()
    cosines = [naive_cosine(x[i], x[8 + i], slice(None)) for i in range(8)]
    (pooled,) = [row for row in scores if row["method"] == "mean pooling"]
    assert pooled["spearman"] == pytest.approx(100 * spearmanr(cosines, sample.gold)[0], abs=1e-6)
