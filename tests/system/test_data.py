"""Sentence pairs from folders, from the hub (local stand-ins) and their alignment by row."""

import contextlib
import csv
import gzip
import hashlib
import json
import os
import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dysem_lab import paths
from dysem_lab.data import sts as data_module
from dysem_lab.data.sts import STSData, available_languages, load_data
from dysem_lab.data.sts_tasks import TASKS
from dysem_lab.data.tables import SUFFIXES
from dysem_lab.errors import DataError, InputError
from dysem_lab.questions.finding import sources_of
from dysem_lab.questions.study import Study

HEADER = ("sentence1", "sentence2", "score", "subset")
# Every sentence here is one that some reader turns into something else.
TRICKY = [
    ("NA", "None", 0.0, "words"),
    ("null", "nan", 1.25, "words"),
    ('He said "no", twice.', "It's, well, a comma.", 2.5, "marks"),
    ("1999", "2020-01-01", 3.0, "numbers"),
    ("  two spaces in front", "Ein Straßencafé — 東京。", 4.75, "letters"),
    ("true", "-1e5", 5.0, "words"),
]
MISSING_IN_HINDI_OR_ARABIC = {1245, 1270, 1337, 1356, 1370}


def write_table(path: Path, rows, header=HEADER) -> Path:
    """Write rows in the format that the suffix of the path says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pd.DataFrame(list(rows), columns=list(header)).to_parquet(path)
        return path
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8", newline="") as file:
        if ".jsonl" in path.suffixes:
            for row in rows:
                file.write(json.dumps(dict(zip(header, row, strict=True))) + "\n")
        else:
            writer = csv.writer(file, delimiter="\t" if ".tsv" in path.suffixes else ",")
            writer.writerows([header, *rows])
    return path


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a gzip CSV with the standard library: the truth that the loader is held against."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def pairs_of(data: STSData, language: str) -> list[tuple[str, str]]:
    return list(zip(*data.sentences[language], strict=True))


def load_small(*arguments, **options) -> STSData:
    """Return what is loaded of a task that has fewer pairs here than the published one."""
    with pytest.warns(UserWarning, match="its scores do not compare with published ones"):
        return load_data(*arguments, **options)


def own_data(folder: Path, **languages) -> Path:
    """Write ``test.<language>.csv`` for each language, from rows of four or five values."""
    for language, rows in languages.items():
        header = (*HEADER, "row")[: len(rows[0])] if rows else HEADER
        write_table(folder / f"test.{language}.csv", rows, header)
    return folder


# --- formats ---------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same_sentences_scores_and_subsets(tmp_path, suffix):
    write_table(tmp_path / f"test.en{suffix}", TRICKY)
    quoted = pytest.warns(UserWarning, match="its fields are in quotes as a spreadsheet writes")
    with quoted if ".tsv" in suffix else contextlib.nullcontext():
        data = load_data(tmp_path)
    assert pairs_of(data, "en") == [row[:2] for row in TRICKY]
    assert data.gold.tolist() == [row[2] for row in TRICKY]
    assert data.gold.dtype == np.float64
    assert data.subset == [row[3] for row in TRICKY]
    assert data.rows.tolist() == list(range(len(TRICKY)))
    assert data.n_dropped == 0
    assert data.source == f"local folder {tmp_path.name}"


def test_a_byte_order_mark_is_not_part_of_the_header(tmp_path):
    text = "\ufeffsentence1,sentence2,score\na cat,a dog,1\n"
    (tmp_path / "test.en.csv").write_text(text, encoding="utf-8")
    assert load_data(tmp_path).sentences["en"] == (["a cat"], ["a dog"])


def test_a_file_without_a_subset_column_has_empty_subsets(tmp_path):
    write_table(tmp_path / "test.en.csv", [("a", "b", 1.0), ("c", "d", 2.0)], HEADER[:3])
    assert load_data(tmp_path).subset == ["", ""]


def test_the_split_chooses_the_file(tmp_path):
    write_table(tmp_path / "test.en.csv", [("of test", "b", 1.0, "")])
    write_table(tmp_path / "dev.en.csv", [("of dev", "b", 1.0, "")])
    assert load_data(tmp_path, split="dev").texts("en") == ["of dev", "b"]
    assert load_data(tmp_path).texts("en") == ["of test", "b"]


# --- layout of the STS folder, on stand-ins --------------------------------------------------


@pytest.fixture
def standin(tmp_path):
    """Return a folder laid out as the STS data, with five STS-B pairs and four of SICK."""
    scores = [0.0, 1.0, 2.0, 3.0, 4.0]

    def rows(language, kept=range(5), numbered=False):
        return [
            (f"{language} first {i}", f"{language} second {i}", scores[i], f"g{i}")
            + (i,) * numbered
            for i in kept
        ]

    for split in ("test", "dev"):
        for language in ("en", "zh"):
            name = f"stsb/{split}.{language}.csv.gz"
            write_table(tmp_path / name, rows(f"{split} {language}"))
    partial = tmp_path / "stsb" / "partial"
    write_table(partial / "test.ar.csv.gz", rows("test ar", (0, 1, 3), True), (*HEADER, "row"))
    write_table(partial / "test.hi.csv.gz", rows("test hi", (1, 3, 4), True), (*HEADER, "row"))
    write_table(tmp_path / "en_mteb" / "STS12.csv.gz", rows("sts12"))
    sick = (*HEADER, "pair_ID", "entailment")
    english = [(f"en a{i}", f"en b{i}", i / 2, "TRAIN", i, "NEUTRAL") for i in (2, 5, 7, 9)]
    polish = [(f"pl a{i}", f"pl b{i}", i / 2, "TRAIN", i, "NEUTRAL") for i in (9, 2, 7)]
    write_table(tmp_path / "sick" / "SICK.en.csv.gz", english, sick)
    write_table(tmp_path / "sick" / "SICK.pl.csv.gz", polish, sick)
    japanese = [(f"ja a{i}", f"ja b{i}", 1.0, "TRAIN", i, "NEUTRAL", i / 2) for i in (2, 5, 7, 9)]
    write_table(tmp_path / "sick" / "SICK.ja.csv.gz", japanese, (*sick, "score_en"))
    return tmp_path


def test_a_folder_of_sts_data_is_stsb_unless_a_task_is_named(standin):
    data = load_small(standin)
    assert data.name == "STSB test"
    assert data.texts("en")[:2] == ["test en first 0", "test en first 1"]
    assert load_small(standin, split="dev").texts("en")[5] == "dev en second 0"
    assert load_small(standin, "STS12").texts("en")[0] == "sts12 first 0"


def test_incomplete_languages_are_aligned_by_their_row_column(standin):
    data = load_small(standin, languages=("en", "zh", "ar", "hi"))
    assert data.rows.tolist() == [1, 3]
    assert data.gold.tolist() == [1.0, 3.0]
    assert data.subset == ["g1", "g3"]
    assert data.n_dropped == 3
    assert "3 incomplete rows dropped" in repr(data)
    for language in ("en", "zh", "ar", "hi"):
        assert pairs_of(data, language) == [
            (f"test {language} first {i}", f"test {language} second {i}") for i in (1, 3)
        ]


def test_rows_that_one_of_two_incomplete_languages_lacks_are_all_counted(standin):
    # ar has rows 0 1 3, hi has 1 3 4: rows 0 and 4 are left out.
    data = load_data(standin, languages=("ar", "hi"))
    assert data.rows.tolist() == [1, 3]
    assert data.n_dropped == 2


def test_sick_is_aligned_by_pair_id_whatever_the_order_in_the_file(standin):
    data = load_small(standin, "SICKR", languages=("en", "pl"))
    assert data.rows.tolist() == [2, 7, 9]
    assert data.gold.tolist() == [1.0, 3.5, 4.5]
    assert pairs_of(data, "pl") == [(f"pl a{i}", f"pl b{i}") for i in (2, 7, 9)]
    assert pairs_of(data, "en") == [(f"en a{i}", f"en b{i}") for i in (2, 7, 9)]
    assert data.n_dropped == 1


@pytest.mark.parametrize("languages", [("en", "ja"), ("ja", "en")])
def test_a_translation_rated_anew_aligns_with_english_in_either_order(standin, languages):
    data = load_small(standin, "SICKR", languages=languages)
    assert data.rows.tolist() == [2, 5, 7, 9]
    assert pairs_of(data, "ja") == [(f"ja a{i}", f"ja b{i}") for i in (2, 5, 7, 9)]


def test_a_translation_rated_anew_keeps_its_own_rating_when_alone(standin):
    assert load_data(standin, "SICKR", languages=("ja",)).gold.tolist() == [1.0] * 4
    both = load_small(standin, "SICKR", languages=("en", "ja"))
    assert both.gold.tolist() == [1.0, 2.5, 3.5, 4.5]


SICK_HEADER = (*HEADER, "pair_ID", "entailment")


def sick_rows(language, test, ids=(2, 5, 7, 9)):
    """Return rows of SICK, those with an id in ``test`` of its test part."""
    return [
        (f"{language} a{i}", f"{language} b{i}", i / 2, "TEST" if i in test else "TRAIN", i, "")
        for i in ids
    ]


def test_the_test_part_of_sick_is_its_pairs_alone_in_every_language(tmp_path):
    write_table(tmp_path / "sick" / "SICK.en.csv", sick_rows("en", (5, 9, 2)), SICK_HEADER)
    write_table(tmp_path / "sick" / "SICK.pl.csv", sick_rows("pl", (9, 2), (9, 2, 7)), SICK_HEADER)
    everything = load_small(tmp_path, "SICKR", languages=("en", "pl"))
    assert (everything.rows.tolist(), everything.n_dropped) == ([2, 7, 9], 1)
    data = load_small(tmp_path, "SICKR-test", languages=("en", "pl"))
    assert data.name == "SICKR-test test"
    assert data.rows.tolist() == [2, 9]
    assert data.n_dropped == 1  # 5; pair 7, of another part, is not a dropped one
    assert data.subset == ["TEST", "TEST"]
    assert pairs_of(data, "pl") == [("pl a2", "pl b2"), ("pl a9", "pl b9")]


def test_the_test_part_of_sick_without_numbers_keeps_the_rows_of_the_complete_file(tmp_path):
    def write(language, rows):
        write_table(tmp_path / "sick" / f"SICK.{language}.csv", [r[:4] for r in rows], HEADER)

    write("en", sick_rows("en", (5, 9)))
    write("fr", sick_rows("fr", (5, 9)))
    data = load_small(tmp_path, "SICKR-test", languages=("en", "fr"))
    assert data.rows.tolist() == [1, 3]
    assert pairs_of(data, "fr") == [("fr a5", "fr b5"), ("fr a9", "fr b9")]
    # As many test pairs, but of other files: by their position they would be other pairs.
    write("fr", sick_rows("fr", (5, 9), (5, 7, 9)))
    with pytest.raises(DataError, match=r"SICK\.en\.csv has 4 rows.*SICK\.fr\.csv has 3 rows"):
        load_data(tmp_path, "SICKR-test", languages=("en", "fr"))


@pytest.mark.parametrize(
    "header", [HEADER, (*HEADER[:3], "part")], ids=["other subsets", "no subset column"]
)
def test_sick_without_its_test_part_names_the_file_and_what_it_lacks(tmp_path, header):
    rows = [("a", "b", 1.0, "TRAIN"), ("c", "d", 2.0, "TRIAL")]
    write_table(tmp_path / "sick" / "SICK.en.csv", rows, header)
    with pytest.raises(DataError, match=r"SICK\.en\.csv: no pair has 'TEST' in a column 'subset'"):
        load_data(tmp_path, "SICKR-test")


def test_a_bad_row_is_counted_in_the_complete_file(tmp_path):
    rows = sick_rows("en", (7, 9))
    rows[3] = (*rows[3][:2], "9.5", *rows[3][3:])
    write_table(tmp_path / "sick" / "SICK.en.csv", rows, SICK_HEADER)
    with pytest.raises(DataError, match=r"SICK\.en\.csv, row 3: score '9\.5'"):
        load_data(tmp_path, "SICKR-test")


@pytest.mark.parametrize(
    ("task", "file"),
    [
        ("STS12-raw", r"en/STS12"),
        ("STSB-senteval", r"en_senteval/STSB\.test"),
        ("SICKR-senteval", r"en_senteval/SICK-R\.test"),
    ],
)
def test_another_form_of_a_task_is_never_taken_in_its_place(standin, task, file):
    # The folder has the plain tasks, STS12, STSB and SICKR.
    with pytest.raises(DataError, match=rf"no {task} pairs in 'en'; looked for {file} with"):
        load_data(standin, task)


@pytest.mark.parametrize("task", ["STS12-raw", "SICKR-test", "SICKR-senteval"])
def test_other_forms_with_one_set_of_pairs_have_no_dev_split(standin, task):
    with pytest.raises(InputError, match=rf"{task} has one set of pairs; use split='test'"):
        load_data(standin, task, split="dev")


def test_languages_of_the_other_forms_are_those_they_are_in(standin):
    assert available_languages(standin, "SICKR-test") == available_languages(standin, "SICKR")
    assert available_languages(standin, "STSB-senteval", "dev") == ("en",)
    assert available_languages(standin, "STS12-raw") == ("en",)


def test_another_number_of_english_pairs_than_published_is_said_with_the_file(standin):
    wanted = r"en_mteb/STS12\.csv\.gz: 5 pairs, where STS12 test has 3,108; .*published"
    with pytest.warns(UserWarning, match=wanted):
        assert len(load_data(standin, "STS12")) == 5
    with pytest.warns(UserWarning, match=r"test\.en\.csv\.gz: 5 pairs, where STSB test has 1,379"):
        load_data(standin, languages=("en", "zh"))
    with pytest.warns(UserWarning, match=r"dev\.en\.csv\.gz: 5 pairs, where STSB dev has 1,500"):
        load_data(standin, split="dev")


def test_own_pairs_and_incomplete_translations_are_of_any_number(standin, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_data(standin, languages=("ar",))
        load_data(own_data(tmp_path / "own", en=[("a", "b", 1.0, "")]))


def test_real_pairs_that_a_translation_lacks_are_no_wrong_file(sts_folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_data(sts_folder, languages=("en", "ar"))
        load_data(sts_folder, "SICKR", languages=("en", "pt"))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_null_is_not_the_name_of_a_subset(tmp_path, suffix):
    write_table(tmp_path / f"test.en{suffix}", [("a", "b", 1.0, None), ("c", "d", 2.0, "news")])
    assert load_data(tmp_path).subset == ["", "news"]


def test_a_repeated_language_is_loaded_once(standin):
    assert load_small(standin, languages=("en", "zh", "en")).languages == ("en", "zh")


def test_pairs_of_a_task_with_one_set_are_not_called_dev(standin):
    # STS12 has test pairs only; a name that says "dev" would let test scores pass for dev scores.
    try:
        name = load_data(standin, "STS12", split="dev").name
    except (DataError, InputError):
        return
    assert "dev" not in name


# --- the real data ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "split", "n"),
    [
        ("STS12", "test", 3108),
        ("STS13", "test", 1500),
        ("STS14", "test", 3750),
        ("STS15", "test", 3000),
        ("STS16", "test", 1186),
        ("STSB", "test", 1379),
        ("STSB", "dev", 1500),
        ("SICKR", "test", 9927),
        ("STS12-raw", "test", 3108),
        ("STS13-raw", "test", 1500),
        ("STS14-raw", "test", 3750),
        ("STS15-raw", "test", 3000),
        ("STS16-raw", "test", 1186),
        ("STSB-senteval", "test", 1379),
        ("STSB-senteval", "dev", 1500),
        ("SICKR-test", "test", 4927),
        ("SICKR-senteval", "test", 4927),
    ],
)
def test_real_data_have_the_published_number_of_pairs(sts_folder, task, split, n):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_data(sts_folder, task, split)
    assert data.name == f"{task} {split}"
    assert TASKS[task].sizes[split] == n
    assert len(data) == len(data.gold) == n
    assert [len(side) for side in data.sentences["en"]] == [n, n]
    assert data.n_dropped == 0
    assert 0 <= data.gold.min() < data.gold.max() <= 5


def test_real_sts12_is_the_lower_cased_form_that_mteb_scores(sts_folder):
    data = load_data(sts_folder, "STS12")
    assert pairs_of(data, "en")[0][0] == (
        "the problem likely will mean corrective changes before the shuttle fleet starts flying "
        "again ."
    )
    assert all(text == text.lower() for text in data.texts("en"))


def without_spaces(texts):
    return ["".join(text.split()) for text in texts]


@pytest.mark.parametrize(
    ("plain", "other", "split"),
    [
        *((f"STS{year}", f"STS{year}-raw", "test") for year in range(12, 17)),
        *(("STSB-senteval", "STSB", split) for split in ("test", "dev")),
    ],
)
def test_real_tokens_and_raw_text_are_the_same_pairs_apart_from_spaces_and_case(
    sts_folder, plain, other, split
):
    tokens, raw = (load_data(sts_folder, task, split) for task in (plain, other))
    assert tokens.gold.tolist() == raw.gold.tolist()
    assert tokens.subset == raw.subset
    assert tokens.rows.tolist() == raw.rows.tolist()
    # The tokeniser drops a control byte, which stands for an apostrophe in one sentence of STS12.
    lower = [text.lower().replace("\x12", "") for text in raw.texts()]
    assert without_spaces(tokens.texts()) == without_spaces(lower)
    assert all(text == text.lower() for text in tokens.texts())
    differs = [a != b for a, b in zip(tokens.texts(), raw.texts(), strict=True)]
    assert np.mean(differs) > 0.8
    assert tokens.digest != raw.digest


def test_real_raw_sts12_is_in_natural_case(sts_folder):
    assert pairs_of(load_data(sts_folder, "STS12-raw"), "en")[0][0] == (
        "The problem likely will mean corrective changes before the shuttle fleet starts flying "
        "again."
    )


def test_the_subsets_of_real_sts12_to_sts16_are_semeval_s(sts_folder):
    # Of the SemEval archives; SMT of STS13 may not be passed on, so it has three.
    sizes = {
        12: {"MSRpar": 750, "MSRvid": 750, "SMTeuroparl": 459, "OnWN": 750, "SMTnews": 399},
        13: {"FNWN": 189, "headlines": 750, "OnWN": 561},
        14: {"deft-forum": 450, "deft-news": 300, "headlines": 750, "images": 750}
        | {"OnWN": 750, "tweet-news": 750},
        15: {"answers-forums": 375, "answers-students": 750, "belief": 375}
        | {"headlines": 750, "images": 750},
        16: {"answer-answer": 254, "headlines": 249, "plagiarism": 230}
        | {"postediting": 244, "question-question": 209},
    }
    for year, wanted in sizes.items():
        names = [n.removeprefix("surprise.") for n in load_data(sts_folder, f"STS{year}").subset]
        assert Counter(names) == wanted


def test_real_sick_test_is_the_pairs_that_senteval_scores(sts_folder):
    everything, test = (load_data(sts_folder, task) for task in ("SICKR", "SICKR-test"))
    truth = read_rows(sts_folder / "en_senteval" / "SICK-R.test.csv.gz")
    assert test.rows.tolist() == [int(row["pair_ID"]) for row in truth]
    assert test.gold.tolist() == [float(row["score"]) for row in truth]
    assert set(test.subset) == {"TEST"}
    # Its text is that of all pairs, untokenised; SentEval's is the same but for its spaces.
    place = {row: i for i, row in enumerate(everything.rows.tolist())}
    chosen = everything.select([place[row] for row in test.rows.tolist()])
    assert pairs_of(test, "en") == pairs_of(chosen, "en")
    senteval = load_data(sts_folder, "SICKR-senteval")
    assert senteval.rows.tolist() == test.rows.tolist()
    assert senteval.gold.tolist() == test.gold.tolist()
    assert pairs_of(senteval, "en") == [(row["sentence1"], row["sentence2"]) for row in truth]
    assert senteval.texts() != test.texts()
    assert without_spaces(senteval.texts()) == without_spaces(test.texts())


def test_real_sick_test_in_portuguese_drops_those_of_its_pairs_that_it_lacks(sts_folder):
    data = load_data(sts_folder, "SICKR-test", languages=("en", "pt"))
    assert (len(data), data.n_dropped) == (4906, 21)
    rows = read_rows(sts_folder / "sick" / "SICK.pt.csv.gz")
    assert data.rows.tolist() == [int(r["pair_ID"]) for r in rows if r["subset"] == "TEST"]


def test_real_stsb_in_four_languages_keeps_1374_pairs_aligned_by_content(sts_folder):
    data = load_data(sts_folder, languages=("en", "zh", "ar", "hi"))
    assert len(data) == 1374
    assert data.n_dropped == 5
    assert set(range(1379)) - set(data.rows.tolist()) == MISSING_IN_HINDI_OR_ARABIC
    files = {
        "en": "test.en.csv.gz",
        "zh": "test.zh.csv.gz",
        "ar": "partial/test.ar.csv.gz",
        "hi": "partial/test.hi.csv.gz",
    }
    for language, name in files.items():
        truth = {
            int(row.get("row", number)): row
            for number, row in enumerate(read_rows(sts_folder / "stsb" / name))
        }
        wanted = [truth[row] for row in data.rows]
        assert pairs_of(data, language) == [(r["sentence1"], r["sentence2"]) for r in wanted]
        assert data.gold.tolist() == [float(row["score"]) for row in wanted]
        assert data.subset == [row["subset"] for row in wanted]
    # After the last gap, position and row number differ by five.
    position = data.rows.tolist().index(1371)
    assert position == 1366
    english = read_rows(sts_folder / "stsb" / "test.en.csv.gz")[1371]
    assert data.sentences["en"][0][position] == english["sentence1"]


def test_real_sick_in_portuguese_drops_the_87_pairs_it_lacks(sts_folder):
    data = load_data(sts_folder, "SICKR", languages=("en", "pt"))
    assert (len(data), data.n_dropped) == (9840, 87)
    truth = {int(r["pair_ID"]): r for r in read_rows(sts_folder / "sick" / "SICK.pt.csv.gz")}
    assert data.rows.tolist() == sorted(truth)
    assert pairs_of(data, "pt") == [
        (truth[row]["sentence1"], truth[row]["sentence2"]) for row in data.rows
    ]


def test_real_sick_in_japanese_takes_the_english_rating(sts_folder):
    data = load_data(sts_folder, "SICKR", languages=("en", "ja"))
    english = read_rows(sts_folder / "sick" / "SICK.en.csv.gz")
    assert len(data) == 9927
    assert data.gold.tolist() == [float(row["score"]) for row in english]


def test_stsb_by_name_is_the_folder_of_the_environment_variable(sts_folder, monkeypatch):
    monkeypatch.setenv(paths.DATA_VARIABLE, str(sts_folder))
    data = load_data("stsb", split="dev", languages=("en", "fr"))
    assert len(data) == 1500
    assert data.source == f"local folder {sts_folder.name}"


# --- errors ----------------------------------------------------------------------------------


def test_missing_columns_are_named_with_those_that_are_there(tmp_path):
    write_table(tmp_path / "test.en.csv", [("a", "b", 1.0)], ("sentence1", "text", "gold"))
    with pytest.raises(DataError, match=r"test\.en\.csv: no column score, sentence2; .*gold"):
        load_data(tmp_path)


@pytest.mark.parametrize("score", ["5.01", "-0.1", "high", "", "nan", "inf"])
def test_a_score_that_is_no_rating_names_file_row_and_value(tmp_path, score):
    own_data(tmp_path, en=[("a", "b", "1", ""), ("c", "d", score, ""), ("e", "f", "9", "")])
    with pytest.raises(DataError, match=rf"test\.en\.csv, row 1: score '{score}' .*0 to 5"):
        load_data(tmp_path)


@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize("empty", ["", "  ", "\u3000", "\u200b", "\u2060\u00a0"])
def test_an_empty_sentence_names_file_row_and_column(tmp_path, column, empty):
    row = ["c", "d", 1.0, ""]
    row[column] = empty
    own_data(tmp_path, en=[("a", "b", 1.0, ""), ("a", "b", 1.0, ""), row])
    with pytest.raises(DataError, match=rf"test\.en\.csv, row 2: sentence{column + 1} is empty"):
        load_data(tmp_path)


def test_a_json_null_is_an_empty_sentence(tmp_path):
    write_table(tmp_path / "test.en.jsonl", [("a", "b", 1.0, ""), (None, "d", 1.0, "")])
    with pytest.raises(DataError, match=r"test\.en\.jsonl, row 1: sentence1 is empty"):
        load_data(tmp_path)


def test_scores_that_differ_between_languages_name_both_files_the_row_and_both_scores(tmp_path):
    english = [("a", "b", 1.0, ""), ("c", "d", 2.0, ""), ("e", "f", 3.0, "")]
    french = [("à", "b", 1.0, ""), ("ç", "d", 2.5, ""), ("é", "f", 3.0, "")]
    own_data(tmp_path, en=english, fr=french)
    with pytest.raises(DataError, match=r"test\.fr\.csv, row 1: score 2\.5.*test\.en\.csv has 2;"):
        load_data(tmp_path, languages=("en", "fr"))


def test_languages_of_different_length_name_the_files_their_rows_and_the_remedy(tmp_path):
    own_data(tmp_path, en=[("a", "b", 1.0, "")] * 3, fr=[("a", "b", 1.0, "")] * 2)
    with pytest.raises(
        DataError, match=r"test\.en\.csv has 3 rows.*test\.fr\.csv has 2 rows.*'row' column"
    ):
        load_data(tmp_path, languages=("en", "fr"))


def test_a_repeated_row_is_named_with_its_file(tmp_path):
    own_data(tmp_path, en=[("a", "b", 1.0, "", 4), ("c", "d", 1.0, "", 4)])
    with pytest.raises(DataError, match=r"test\.en\.csv: 4 occurs twice.*'row'"):
        load_data(tmp_path)


@pytest.mark.parametrize("row", ["x", "", "1.7"])
def test_a_row_number_that_is_none_names_file_and_row(tmp_path, row):
    own_data(tmp_path, en=[("a", "b", 1.0, "", "0"), ("c", "d", 1.0, "", row)])
    with pytest.raises(DataError, match=r"test\.en\.csv, row 1"):
        load_data(tmp_path)


@pytest.mark.parametrize("row", ["1e30", "nan", "-1", "9223372036854775808", "1e3"])
def test_a_row_number_that_no_file_has_is_refused(tmp_path, row):
    own_data(tmp_path, en=[("a", "b", 1.0, "", "0"), ("c", "d", 1.0, "", row)])
    with pytest.raises(
        DataError, match=rf"test\.en\.csv, row 1: row '{row}' is not a whole number"
    ):
        load_data(tmp_path)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("column", "value"),
    [("score", True), ("row", True), ("row", 1e30), ("score_en", float("nan")), ("score", None)],
)
def test_a_typed_value_that_is_no_number_is_refused(tmp_path, suffix, column, value):
    row = {"sentence1": "a", "sentence2": "b", "score": 1, "row": 0, "score_en": 1.0, column: value}
    path = write_table(tmp_path / f"test.en{suffix}", [row.values()], row)
    with pytest.raises(DataError, match=rf"{path.name}, row 0: {column} "):
        load_data(tmp_path)


def test_a_decimal_comma_is_named_with_the_number_meant(tmp_path):
    own_data(tmp_path, en=[("a", "b", "4,5", "")])
    with pytest.raises(DataError, match=r"row 0: score '4,5' is not within 0 to 5; write 4\.5"):
        load_data(tmp_path)


@pytest.mark.parametrize("score", ["nan", "", "x", "-1", "6", "1e400"])
def test_a_translation_s_english_rating_must_be_one(tmp_path, score):
    header = (*HEADER[:3], "score_en")
    write_table(tmp_path / "test.en.csv", [("a", "b", 1.0)], HEADER[:3])
    write_table(tmp_path / "test.ja.csv", [("あ", "い", 2.0, score)], header)
    with pytest.raises(DataError, match=rf"test\.ja\.csv, row 0: score_en '{score}' is not within"):
        load_data(tmp_path, languages=("en", "ja"))


def test_a_text_that_is_a_number_or_half_a_character_is_refused(tmp_path):
    for value, words in ((5, "is 5, not a text"), (["a"], "is .'a'., not a text")):
        write_table(tmp_path / "test.en.jsonl", [("a", "b", 1.0), ("a", value, 1.0)], HEADER[:3])
        with pytest.raises(DataError, match=rf"test\.en\.jsonl, row 1: sentence2 {words}"):
            load_data(tmp_path)
    half = '{"sentence1": "\\ud83d", "sentence2": "b", "score": 1}'
    (tmp_path / "test.en.jsonl").write_text(half, encoding="utf-8")
    with pytest.raises(DataError, match=r"row 0: sentence1 holds '\\ud83d', half of a surrogate"):
        load_data(tmp_path)


def test_one_table_in_two_forms_is_refused(tmp_path):
    for suffix in (".csv", ".csv.gz"):
        write_table(tmp_path / f"test.en{suffix}", TRICKY)
    with pytest.raises(
        DataError, match=r"test\.en\.csv and test\.en\.csv\.gz are one table in two"
    ):
        load_data(tmp_path)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_real_pairs_without_their_first_rows_are_aligned_by_number_or_refused(
    sts_folder, tmp_path, suffix
):
    english = read_rows(sts_folder / "stsb" / "test.en.csv.gz")
    arabic = read_rows(sts_folder / "stsb" / "partial" / "test.ar.csv.gz")
    columns = list(arabic[0])
    write_table(tmp_path / "test.ar.csv.gz", [row.values() for row in arabic], columns)
    rows = [(*row.values(), number) for number, row in enumerate(english)][2:]
    write_table(tmp_path / f"test.en{suffix}", rows, columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of quotes that are taken off
        data = load_data(tmp_path, languages=("en", "ar"))
        assert len(data) == 1375
        by_row = {int(row["row"]): row for row in arabic}
        for row, *pairs in zip(data.rows, pairs_of(data, "en"), pairs_of(data, "ar"), strict=True):
            for pair, of in zip(pairs, (english[row], by_row[row]), strict=True):
                assert pair == (of["sentence1"], of["sentence2"])
        write_table(tmp_path / f"test.en{suffix}", [row[:-1] for row in rows], columns[:-1])
        with pytest.raises(DataError, match=r"not aligned: .*test\.ar.* has row 1378.*1377 rows"):
            load_data(tmp_path, languages=("en", "ar"))


def test_no_row_in_common_is_an_error(tmp_path):
    own_data(tmp_path, en=[("a", "b", 1.0, "", 0)], fr=[("a", "b", 1.0, "", 1)])
    with pytest.raises(DataError, match=r"no row is in every language.*test\.fr\.csv"):
        load_data(tmp_path, languages=("en", "fr"))


def test_sentences_with_unquoted_commas_are_not_shifted_into_other_columns(tmp_path):
    text = "sentence1,sentence2,score\nYes, please.,No thanks.,1.0\nWell, no.,Oh yes.,2.0\n"
    (tmp_path / "test.en.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"test\.en\.csv"):
        load_data(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("test.en.csv", b""),
        ("test.en.csv", b'sentence1,sentence2,score\n"a,b,1\n'),
        ("test.en.csv", "sentence1,sentence2,score\ncafé,b,1\n".encode("latin-1")),
        ("test.en.csv.gz", b"sentence1,sentence2,score\na,b,1\n"),
        ("test.en.csv.gz", gzip.compress(b"sentence1,sentence2,score\n" + b"a,b,1\n" * 999)[:-9]),
        ("test.en.jsonl", b'{"sentence1": "a"'),
        ("test.en.parquet", b"PAR1 not really"),
    ],
    ids=["empty", "open quote", "latin-1", "not gzip", "cut gzip", "cut json", "not parquet"],
)
def test_a_damaged_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"test\.en"):
        load_data(tmp_path)


def test_an_unknown_task_lists_the_known_ones():
    with pytest.raises(InputError, match=r"unknown task 'STS17'.*STS12.*STSB.*SICKR"):
        load_data("demo", "STS17")


def test_an_unknown_task_lists_every_form_of_each():
    with pytest.raises(InputError) as raised:
        load_data("demo", "SICKR-train")
    for name in ("STS16", "STSB", "SICKR", "STS12-raw", "STS16-raw", "STSB-senteval"):
        assert f" {name}," in str(raised.value)
    assert str(raised.value).endswith("SICKR-test, SICKR-senteval")


def test_an_unknown_source_lists_what_may_be_given(tmp_path):
    with pytest.raises(DataError, match=r"no folder .*nowhere.*'demo', 'stsb', 'hub' or a folder"):
        load_data(tmp_path / "nowhere")


def test_an_unknown_split_says_which_files_were_looked_for(standin):
    with pytest.raises(DataError, match=r"no STSB pairs in 'en'.*stsb/train\.en.*\.csv\.gz"):
        load_data(standin, "STSB", split="train")


def test_an_absent_language_says_which_files_were_looked_for(standin):
    with pytest.raises(DataError, match=r"'fr'.*stsb/test\.fr or stsb/partial/test\.fr"):
        load_data(standin, languages=("en", "fr"))
    with pytest.raises(DataError, match=r"no STS12 pairs in 'zh'"):
        load_data(standin, "STS12", languages=("en", "zh"))


def test_one_language_may_be_given_by_its_code_alone():
    assert load_data("demo", languages="ja").languages == ("ja",)


@pytest.mark.parametrize("languages", [None, 3, {"en"}, ["en", 3], ["../en"], ["e\0n"], ["e n"]])
def test_what_is_no_language_is_refused(languages):
    with pytest.raises(InputError, match="language"):
        load_data("demo", languages=languages)


@pytest.mark.parametrize(
    "arguments",
    [
        (None,),
        (3,),
        (["demo"],),
        ("x" * 300,),
        ("~no such user/x",),
        ("demo", ["STSB"]),
        ("demo", 3),
    ]
    + [("demo", None, split) for split in (None, 3, "../test", "te st", "")],
)
def test_what_is_no_source_task_or_split_is_refused(arguments):
    with pytest.raises(InputError):
        load_data(*arguments)
    with pytest.raises(InputError):
        available_languages(*arguments)


def test_no_languages_is_an_error():
    with pytest.raises(InputError, match=r"languages is empty.*\('en',\)"):
        load_data("demo", languages=())


def test_the_demo_set_does_not_pass_for_a_task():
    # load_data(task="STSB") would otherwise give the demo set without a word.
    with pytest.raises((InputError, DataError), match="demo"):
        load_data("demo", "STSB")


# --- STSData ---------------------------------------------------------------------------------


def small(first=("a", "b", "c"), second=("d", "e", "f"), gold=(0.0, 2.5, 5.0)) -> STSData:
    return STSData(
        name="small",
        source="this test",
        gold=np.array(gold),
        sentences={
            "en": (list(first), list(second)),
            "fr": ([f"le {t}" for t in first], [f"la {t}" for t in second]),
        },
        rows=np.array([3, 5, 8]),
        subset=["x", "y", "z"],
    )


def test_texts_are_all_first_sentences_then_all_second_ones():
    assert small().texts("fr") == ["le a", "le b", "le c", "la d", "la e", "la f"]
    with pytest.raises(InputError, match=r"unknown language 'de'.*en, fr"):
        small().texts("de")
    with pytest.raises(InputError, match=r"unknown language \['en'\]"):
        small().texts(["en"])


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), max_size=6))
def test_select_takes_the_same_positions_everywhere(index):
    data, chosen = small(), small().select(index)
    assert len(chosen) == len(index)
    assert chosen.gold.tolist() == [data.gold[i] for i in index]
    assert chosen.rows.tolist() == [data.rows[i] for i in index]
    assert chosen.subset == [data.subset[i] for i in index]
    for language in ("en", "fr"):
        assert pairs_of(chosen, language) == [pairs_of(data, language)[i] for i in index]


def test_select_takes_a_boolean_mask_as_a_mask():
    data = small()
    assert data.select(data.gold > 1).rows.tolist() == [5, 8]


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ([0.9], "whole numbers, or a mask"),
        ([True, False], "a mask of 3 pairs must be as long, got 2"),
        (np.ones(4, dtype=bool), "must be as long, got 4"),
        ([3], "go from 0 to 2, got 3"),
        ([-4, 0], "got -4 to 0"),
        ([2**63], "got 9223372036854775808"),
        ([10**30], "whole numbers, or a mask"),
        ([[0, 1]], "whole numbers, or a mask"),
        (1, "whole numbers, or a mask"),
        ("01", "whole numbers, or a mask"),
        (["0"], "whole numbers, or a mask"),
        ({0, 1}, "whole numbers, or a mask"),
        (None, "whole numbers, or a mask"),
        ([np.nan], "whole numbers, or a mask"),
    ],
)
def test_what_selects_no_pairs_is_refused(index, words):
    with pytest.raises(InputError, match=words):
        small().select(index)


def test_nothing_may_be_selected_and_the_last_by_minus_one():
    assert len(small().select([])) == 0
    assert len(small().select(range(0))) == 0
    assert small().select([-1]).rows.tolist() == [8]


@pytest.mark.parametrize("n", [True, 1.5, 0, -1, "2", float("nan"), [1]])
def test_a_number_of_pairs_is_a_whole_one(n):
    for take in (small().sample, small().head):
        with pytest.raises(InputError, match="must be a whole number of at least 1"):
            take(n)


@pytest.mark.parametrize("seed", [True, 1.5, -1, None, "0"])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(InputError, match="the seed must be a whole number of at least 0"):
        small().sample(2, seed)


def test_numbers_of_numpy_count_as_whole():
    assert (
        small().sample(np.int64(2), np.int32(1)).rows.tolist() == small().sample(2, 1).rows.tolist()
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sentences": {"en": ("abc", "def")}}, "give one as"),
        ({"sentences": {"en": "ab"}}, "'en' must be two lists"),
        ({"sentences": {"en": (["a", "b", "c"],)}}, "'en' must be two lists"),
        ({"sentences": [["a", "b", "c"], ["d", "e", "f"]]}, "a mapping from languages"),
        ({"sentences": {"en": ({"a": 1, "b": 2, "c": 3}, ["d", "e", "f"])}}, "got dict"),
        ({"sentences": {"en": (["a", "b"], ["d", "e", "f"])}}, "3 ratings need as many"),
        ({"sentences": {"en": (["a", "", "c"], ["d", "e", "f"])}}, "en sentence 1 is empty"),
        ({"gold": np.array([1.0, 2.0])}, "2 ratings need as many"),
        ({"gold": np.array([True, False, True])}, "gold must be n numbers, got bool"),
        ({"gold": np.array([1.0, np.nan, 2.0])}, "gold 1 is no number"),
        ({"rows": np.array([0.5, 1, 2])}, "rows must be n numbers, got float64"),
        ({"subset": ["x"]}, "3 ratings need as many"),
        ({"subset": "xyz"}, "subsets must be a list of strings"),
        ({"sentences": {"en": 3}}, "'en' must be two lists"),
    ],
)
def test_pairs_that_do_not_fit_together_are_refused(change, words):
    with pytest.raises(InputError, match=words):
        replace(small(), **change)


def test_pairs_may_be_columns_of_a_table():
    table = pd.DataFrame({"a": ["x", "y", "z"], "b": ["u", "v", "w"], "score": [1, 2, 3]})
    data = replace(small(), sentences={"en": (table["a"], table["b"])}, gold=table["score"])
    assert data.texts() == ["x", "y", "z", "u", "v", "w"]
    assert data.gold.dtype == np.float64
    assert data.select([2]).gold.tolist() == [3.0]


@pytest.mark.parametrize(("n", "kept"), [(1, [3]), (2, [3, 5]), (99, [3, 5, 8]), (None, [3, 5, 8])])
def test_head_takes_the_first_pairs(n, kept):
    assert small().head(n).rows.tolist() == kept


@pytest.mark.parametrize("n", [0, -1])
def test_head_of_no_pairs_is_an_error(n):
    with pytest.raises(InputError, match=rf"at least 1, got {n}"):
        small().head(n)


def test_the_digest_is_sixteen_hex_digits_and_stable():
    assert small().digest == small().digest
    assert len(small().digest) == 16
    assert set(small().digest) <= set("0123456789abcdef")


def test_the_digest_changes_with_one_character_one_rating_or_the_order():
    variants = [
        small(),
        small(first=("a", "b", "C")),
        small(second=("d", "e ", "f")),
        small(gold=(0.0, 2.5, 4.999)),
        small(first=("b", "a", "c")),
        small().select([0, 1]),
    ]
    assert len({data.digest for data in variants}) == len(variants)


def test_the_digest_changes_with_the_place_where_one_sentence_ends():
    data = small()
    one = replace(data, sentences={"en": (["ab", "c", "d"], ["e", "f", "g"])})
    two = replace(data, sentences={"en": (["a", "bc", "d"], ["e", "f", "g"])})
    assert one.digest != two.digest


# --- the hub, through local stand-ins --------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Put local folders in the place of the hub's data sets; return the folder of them all."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.delenv(paths.DATA_VARIABLE, raising=False)
    header = HEADER[:3]
    for name, splits in {"sts12": ("test",), "stsb": ("test", "validation")}.items():
        for split in splits:
            rows = [(f"{name} {split} a{i}", f"{name} {split} b{i}", i / 2) for i in range(3)]
            write_table(tmp_path / name / f"{split}.jsonl", rows, header)
    multi = tmp_path / "multi"
    card = "---\nconfigs:\n"
    for language in ("fr", "de"):
        card += f"- config_name: {language}\n  data_files:\n"
        for split in ("test", "dev"):
            rows = [(f"{language} {split} a{i}", "NA", i / 2) for i in range(3)]
            scored = (*header[:2], "similarity_score")
            write_table(multi / language / f"{split}.jsonl", rows, scored)
            card += f"  - split: {split}\n    path: {language}/{split}.jsonl\n"
    (multi / "README.md").write_text(card + "---\n", encoding="utf-8")
    for task, name in (("STS12", "sts12"), ("STSB", "stsb")):
        monkeypatch.setitem(TASKS, task, TASKS[task]._replace(hub=str(tmp_path / name)))
    monkeypatch.setattr(data_module, "MULTILINGUAL_STSB", (str(multi), None))
    return tmp_path


def test_the_hub_gives_english_pairs_and_says_where_they_are_from(hub):
    data = load_small("hub", "STS12")
    assert pairs_of(data, "en") == [(f"sts12 test a{i}", f"sts12 test b{i}") for i in range(3)]
    assert data.gold.tolist() == [0.0, 0.5, 1.0]
    assert data.source == f"the hub ({hub / 'sts12'})"
    assert data.origins == {"en": f"{hub / 'sts12'}@{TASKS['STS12'].revision}"}


def test_the_hub_joins_english_stsb_with_its_translations_in_both_splits(hub):
    for split, english in (("test", "test"), ("dev", "validation")):
        data = load_small("hub", split=split, languages=("en", "fr", "de"))
        assert data.name == f"STSB {split}"
        assert data.sentences["en"][0] == [f"stsb {english} a{i}" for i in range(3)]
        assert data.sentences["de"] == ([f"de {split} a{i}" for i in range(3)], ["NA"] * 3)
        assert data.gold.tolist() == [0.0, 0.5, 1.0]
        assert str(hub / "stsb") in data.source
        assert str(hub / "multi") in data.source
        assert data.origins["en"].startswith(f"{hub / 'stsb'}@")
        assert data.origins["de"].startswith(f"{hub / 'multi'}@")
        assert data.origins["de"].endswith(" (de), translated by DeepL")


def test_stsb_by_name_falls_back_to_the_hub_and_says_so(hub):
    data = load_small("stsb")
    assert data.sentences["en"][0][0] == "stsb test a0"
    assert data.source.startswith("the hub (")


def test_a_file_is_known_by_its_sha256(tmp_path):
    table = pd.DataFrame({"sentence1": ["a b"], "sentence2": ["b c"], "score": [1.0]})
    for code in ("en", "fr"):
        table.to_csv(tmp_path / f"test.{code}.csv", index=False)
    data = load_data(tmp_path, languages=("en", "fr")).head(1)
    digest = hashlib.sha256((tmp_path / "test.fr.csv").read_bytes()).hexdigest()
    assert data.origins["fr"] == f"test.fr.csv, sha256 {digest[:16]}"
    assert data.origins.keys() == {"en", "fr"}
    facts = sources_of(Study("gemma-3-270m", data, languages=["fr"]))
    assert facts[0]["origins"] == data.origins
    own = replace(data, origins={"en": "mine"})
    facts = sources_of(Study("gemma-3-270m", own, languages=["fr"]))
    assert facts[0]["origins"] == {"en": "mine", "fr": "not known"}
    with pytest.raises(InputError, match="origins must be a mapping"):
        replace(data, origins="mine")


def test_the_hub_has_other_tasks_in_english_only(hub):
    with pytest.raises(DataError, match=r"STS12 in English only, not in 'fr'"):
        load_data("hub", "STS12", languages=("en", "fr"))


@pytest.mark.parametrize("source", ["hub", "stsb"])
@pytest.mark.parametrize(
    ("task", "plain", "file"),
    [
        ("STS12-raw", "STS12", "en/STS12"),
        ("STS16-raw", "STS16", "en/STS16"),
        ("STSB-senteval", "STSB", r"en_senteval/STSB\.test"),
        ("SICKR-test", "SICKR", r"sick/SICK\.en"),
        ("SICKR-senteval", "SICKR", r"en_senteval/SICK-R\.test"),
    ],
)
def test_a_form_that_the_hub_lacks_is_an_error_with_what_to_use_instead(
    hub, source, task, plain, file
):
    wanted = rf"the hub has no {task}; use {plain}, .* local folder with {file} .*"
    with pytest.raises(DataError, match=wanted + paths.DATA_VARIABLE):
        load_data(source, task)
    assert available_languages(source, task) == ()


@pytest.mark.parametrize(
    ("split", "languages"), [("nowhere", ("en",)), ("test", ("en", "ko"))], ids=["split", "config"]
)
def test_what_the_hub_lacks_is_an_error_with_the_remedy(hub, split, languages):
    with pytest.raises(DataError, match=rf"cannot load .*demo set.*{paths.DATA_VARIABLE}"):
        load_data("hub", split=split, languages=languages)


def test_two_hub_languages_of_different_length_are_an_error(hub):
    write_table(
        hub / "multi" / "de" / "test.jsonl",
        [("de test a0", "NA", 0.0), ("de test a1", "NA", 0.5)],
        (*HEADER[:2], "similarity_score"),
    )
    with pytest.raises(DataError, match="not aligned"):
        load_data("hub", languages=("fr", "de"))


def test_a_damaged_hub_file_is_an_error_with_the_remedy(hub):
    (hub / "sts12" / "test.jsonl").write_text('{"sentence1": "a"\n garbage', encoding="utf-8")
    with pytest.raises(DataError, match=r"cannot load .*sts12.*demo set"):
        load_data("hub", "STS12")


def test_offline_the_hub_fails_at_once_without_touching_the_network(tmp_path):
    # In a process of its own: huggingface_hub reads HF_HUB_OFFLINE when it is imported.
    script = """
import socket, sys
def refuse(*arguments, **keywords):
    print("touched the network")
    sys.exit(3)
socket.getaddrinfo = socket.create_connection = refuse
from dysem_lab.data.sts import load_data
from dysem_lab.errors import DataError
try:
    load_data("hub", "STS12")
except DataError as error:
    print(error)
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("cannot load mteb/sts12-sts")
    assert "demo set" in done.stdout
    assert paths.DATA_VARIABLE in done.stdout
