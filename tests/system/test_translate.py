"""Translators: parallel tables, tiny seq2seq models, and the cache that all of them share."""

import builtins
import contextlib
import csv
import gzip
import io
import json
import multiprocessing
import pickle
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from dysem_lab import paths
from dysem_lab.data.sts import STSData, load_data
from dysem_lab.errors import DataError, InputError, MissingTranslationError, ModelError
from dysem_lab.hub import OnHub
from dysem_lab.inputs import has_words
from dysem_lab.translation import seq2seq
from dysem_lab.translation.named import translated, translator_in
from dysem_lab.translation.parallel_table import ParallelTable
from dysem_lab.translation.seq2seq import NLLB, Seq2SeqTranslator
from dysem_lab.translation.translation_cache import CachedTranslator

# --- ParallelTable ---------------------------------------------------------------------------

CAT, DOG, HEN = "A cat, asleep.", 'A "dog".', "None"
TABLE = {"en": [CAT, DOG, HEN], "fr": ["Un chat.", "Un chien.", "NA"], "de": ["", "Hund", "null"]}


def write_csv(path: Path, header, rows) -> Path:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8", newline="") as file:
        delimiter = "\t" if ".tsv" in path.suffixes else ","
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


def test_a_table_gives_the_rendering_at_the_same_position_in_any_direction():
    table = ParallelTable(TABLE)
    assert table.translate([HEN, CAT, HEN], "en", "fr") == ["NA", "Un chat.", "NA"]
    assert table.translate(["Hund"], "de", "en") == [DOG]
    assert table.translate([], "en", "fr") == []


def test_a_repeated_text_takes_the_rendering_of_its_first_occurrence():
    table = ParallelTable({"en": ["a", "b", "a"], "fr": ["one", "two", "three"]})
    assert table.translate(["a", "b", "a"], "en", "fr") == ["one", "two", "one"]


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".tsv", ".jsonl", ".parquet"])
def test_a_file_has_one_column_per_language(tmp_path, suffix):
    path = tmp_path / f"parallel{suffix}"
    rows = list(zip(*TABLE.values(), strict=True))
    if suffix == ".parquet":
        pd.DataFrame(TABLE).to_parquet(path)
    elif suffix == ".jsonl":
        lines = [json.dumps(dict(zip(TABLE, row, strict=True))) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        write_csv(path, list(TABLE), rows)
    quoted = pytest.warns(UserWarning, match="its fields are in quotes as a spreadsheet writes")
    with quoted if suffix == ".tsv" else contextlib.nullcontext():
        table = ParallelTable.read(path)
    assert table.columns == TABLE
    assert table.translate([DOG, HEN], "en", "fr") == ["Un chien.", "NA"]
    assert str(path) in table.name


def test_other_columns_of_a_file_are_no_languages(tmp_path):
    header = ["Source", "zh-TW", "en", "comment"]
    path = write_csv(tmp_path / "t.csv", header, [["s", "貓", "cat", "c"]])
    assert ParallelTable.read(path).columns == {"zh-TW": ["貓"], "en": ["cat"]}


def test_a_folder_may_hold_text_lines_text_columns_and_sts_pairs(tmp_path):
    (tmp_path / "en.txt").write_text("one\ntwo\nthree\nfour\n", encoding="utf-8")
    write_csv(tmp_path / "mine.fr.csv", ["text", "x"], [[t, "-"] for t in ("un", "deux", "3", "4")])
    pairs = [["eins", "drei", "1"], ["zwei", "vier", "2"]]
    write_csv(tmp_path / "test.de.csv.gz", ["sentence1", "sentence2", "score"], pairs)
    (tmp_path / "README.md").write_text("not a language", encoding="utf-8")
    (tmp_path / "missing_rows.json").write_text("{}", encoding="utf-8")
    table = ParallelTable.read(tmp_path)
    assert table.columns == {
        "en": ["one", "two", "three", "four"],
        "fr": ["un", "deux", "3", "4"],
        "de": ["eins", "zwei", "drei", "vier"],
    }
    assert table.translate(["four", "one"], "en", "de") == ["vier", "eins"]


def test_the_demo_folder_is_a_parallel_table():
    table = ParallelTable.read(paths.demo_dir())
    assert len(table.columns) == 12 + 4  # languages, and paraphrases in English
    data = load_data("demo", languages=("en", "ja"))
    assert table.translate(data.texts("en"), "en", "ja") == data.texts("ja")


def test_a_data_set_in_several_languages_is_a_table():
    data = load_data("demo", languages=("en", "fr", "ja"))
    table = ParallelTable.from_data(data)
    assert table.translate(data.texts("fr"), "fr", "ja") == data.texts("ja")
    assert data.digest in table.name
    assert ParallelTable.from_data(data.head(5)).name != table.name


@pytest.mark.parametrize("separator", ["\u2028", "\x85", "\x0c", "\x1c"])
def test_a_line_of_text_ends_at_a_line_feed_only(tmp_path, separator):
    # str.splitlines would break here too, and shift every line after it.
    (tmp_path / "en.txt").write_text(f"one{separator}more\ntwo\n", encoding="utf-8")
    (tmp_path / "fr.txt").write_text("un\ndeux\n", encoding="utf-8")
    assert ParallelTable.read(tmp_path).translate(["two"], "en", "fr") == ["deux"]


def test_a_byte_order_mark_is_not_part_of_the_first_line(tmp_path):
    (tmp_path / "en.txt").write_text("one\ntwo\n", encoding="utf-8-sig")
    (tmp_path / "fr.txt").write_text("un\ndeux\n", encoding="utf-8")
    assert ParallelTable.read(tmp_path).translate(["one"], "en", "fr") == ["un"]


def test_two_files_of_one_language_are_not_taken_for_one_another(tmp_path):
    # Taking the last one would pair the dev set of one language with the test set of another.
    (tmp_path / "test.en.txt").write_text("tested\n", encoding="utf-8")
    (tmp_path / "dev.en.txt").write_text("developed\n", encoding="utf-8")
    (tmp_path / "dev.fr.txt").write_text("développé\n", encoding="utf-8")
    try:
        table = ParallelTable.read(tmp_path)
    except DataError:
        return
    assert table.translate(["developed"], "en", "fr") == ["développé"]
    with pytest.raises(MissingTranslationError):
        table.translate(["tested"], "en", "fr")


def test_a_text_that_is_not_there_names_text_language_table_and_remedy():
    with pytest.raises(MissingTranslationError, match=r"mine.* no rendering in 'fr' of 'A cow'"):
        ParallelTable(TABLE, "mine").translate([CAT, "A cow"], "en", "fr")
    with pytest.raises(MissingTranslationError, match=r"add it to the table.*leave that language"):
        ParallelTable(TABLE).translate(["A cow"], "en", "fr")


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_an_empty_cell_is_a_missing_translation_and_never_an_empty_text(empty):
    table = ParallelTable({"en": ["a", "b"], "fr": ["un", empty]})
    assert table.translate(["a"], "en", "fr") == ["un"]
    with pytest.raises(MissingTranslationError, match="in 'fr' of 'b'"):
        table.translate(["a", "b"], "en", "fr")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("layout", ["file", "folder"])
def test_a_null_cell_is_a_missing_translation(tmp_path, suffix, layout):
    columns = {"en": ["a", "b"], "fr": [None, "deux"]}
    tables = {"all": pd.DataFrame(columns)}
    if layout == "folder":
        tables = {code: pd.DataFrame({"text": texts}) for code, texts in columns.items()}
    for name, table in tables.items():
        path = tmp_path / f"{name}{suffix}"
        if suffix == ".parquet":
            table.to_parquet(path)
        else:
            table.to_json(path, orient="records", lines=True)
    read = ParallelTable.read(tmp_path if layout == "folder" else path)
    assert read.translate(["b"], "en", "fr") == ["deux"]
    with pytest.raises(MissingTranslationError, match="in 'fr' of 'a'"):
        read.translate(["a"], "en", "fr")


@pytest.mark.parametrize(("source", "target"), [("en", "ja"), ("ja", "en")])
def test_an_absent_language_is_named_with_those_that_are_there(source, target):
    with pytest.raises(MissingTranslationError, match=r"no language 'ja'; it has en, fr, de"):
        ParallelTable(TABLE).translate([CAT], source, target)


@pytest.mark.parametrize("columns", [{}, {"en": ["a"]}, {"en": ["a", "b"], "fr": ["un"]}])
def test_a_table_needs_two_columns_of_one_length(columns):
    with pytest.raises(DataError, match=r"mine: need two or more columns of one length"):
        ParallelTable(columns, "mine")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"en": "ab", "fr": ["un", "deux"]}, "give one as"),
        ({"en": {"a": 1, "b": 2}, "fr": ["un", "deux"]}, "en texts must be .* got dict"),
        ({"en": pd.DataFrame({"x": ["a"]}), "fr": ["un"]}, "give one of its columns: x"),
        ({"en": np.array([["a"], ["b"]]), "fr": ["un", "deux"]}, "give one axis"),
        ({"en": {"a", "b"}, "fr": ["un", "deux"]}, "got set"),
        ({1: ["a"], 2: ["b"]}, "languages must be one or more strings"),
        ([["a"], ["b"]], "columns must be a mapping from language codes"),
        ("en", "columns must be a mapping"),
        (None, "columns must be a mapping"),
    ],
)
def test_columns_that_are_no_lists_of_texts_are_refused(columns, words):
    with pytest.raises(InputError, match=words):
        ParallelTable(columns)


@pytest.mark.parametrize(
    ("entry", "words"),
    [(5, "is 5, not a text"), (["b"], "not a text"), ("x\ud83d", "half of a surrogate pair")],
)
def test_an_entry_that_is_no_text_is_named(entry, words):
    with pytest.raises(DataError, match=rf"mine, row 1: fr .*{words}"):
        ParallelTable({"en": ["a", "b"], "fr": ["un", entry]}, "mine")


@pytest.mark.parametrize("data", [None, TABLE, [["a"], ["b"]], pd.DataFrame(TABLE)], ids=type)
def test_what_is_no_data_set_makes_no_table(data):
    with pytest.raises(InputError, match="data must be pairs of load_data"):
        ParallelTable.from_data(data)


def test_a_table_of_pandas_has_columns_too():
    frame = pd.DataFrame({"en": ["a", "b"], "fr": ["un", None]})
    assert ParallelTable(frame).columns == {"en": ["a", "b"], "fr": ["un", ""]}
    with pytest.raises(DataError, match="two or more columns"):
        ParallelTable(pd.DataFrame([["a", "b"]], columns=["en", "en"]))


def test_tables_of_other_texts_have_other_names_wherever_a_text_ends():
    one = ParallelTable({"en": ["a\x1fb", "c"], "fr": ["x\x1fy", "z"]})
    two = ParallelTable({"en": ["a", "b\x1fc"], "fr": ["x", "y\x1fz"]})
    assert one.name != two.name
    again = ParallelTable({"fr": ["x", "y\x1fz"], "en": ["a", "b\x1fc"]})
    assert two.name == again.name


def test_a_text_that_lacks_its_first_rendering_takes_the_next():
    table = ParallelTable({"en": ["a", "a", "b"], "fr": ["", "deux", "trois"]})
    assert table.translate(["a"], "en", "fr") == ["deux"]


PARTIAL = [["a0", "b0", "1", "0"], ["a2", "b2", "3", "2"]]


@pytest.mark.parametrize("key", ["row", "pair_ID", "Pair_id"])
def test_files_with_numbers_are_aligned_by_them(tmp_path, key):
    columns = ["sentence1", "sentence2", "score", key]
    write_csv(tmp_path / "test.en.csv", columns, [["x2", "y2", "3", "2"], ["x0", "y0", "1", "0"]])
    write_csv(tmp_path / "test.ar.csv", columns, [["a1", "b1", "2", "1"], *PARTIAL])
    table = ParallelTable.read(tmp_path)
    assert table.translate(["x0", "y0", "x2", "y2"], "en", "ar") == ["a0", "b0", "a2", "b2"]
    with pytest.raises(MissingTranslationError, match="in 'en' of 'a1'"):
        table.translate(["a1"], "ar", "en")


def test_a_complete_file_needs_no_numbers_and_texts_have_them_too(tmp_path):
    write_csv(tmp_path / "en.csv", ["text"], [["zero"], ["one"], ["two"]])
    write_csv(tmp_path / "ar.csv", ["row", "text"], [["2", "اثنان"], ["0", "صفر"]])
    table = ParallelTable.read(tmp_path)
    assert table.translate(["zero", "two"], "en", "ar") == ["صفر", "اثنان"]
    (tmp_path / "en.csv").unlink()
    (tmp_path / "en.txt").write_text("zero\none\ntwo\n", encoding="utf-8")
    assert ParallelTable.read(tmp_path).translate(["two"], "en", "ar") == ["اثنان"]


def test_files_that_cannot_be_aligned_are_refused(tmp_path):
    columns = ["sentence1", "sentence2", "score", "pair_ID"]
    write_csv(tmp_path / "ar.csv", columns, PARTIAL)
    for rows in ([["x", "y", "1"], ["u", "v", "3"]], [["x", "y", "1"]] * 3):
        write_csv(tmp_path / "en.csv", columns[:3], rows)
        with pytest.raises(
            DataError, match=r"ar\.csv numbers its pairs by 'pair_ID', .*en\.csv does"
        ):
            ParallelTable.read(tmp_path)
    write_csv(tmp_path / "en.csv", ["text"], [["x"], ["u"], ["y"], ["v"]])
    with pytest.raises(DataError, match=r"ar\.csv has numbers .* not of the same kind"):
        ParallelTable.read(tmp_path)
    write_csv(tmp_path / "en.csv", columns[:3], [["u", "v", "3"], ["x", "y", "1"]])
    write_csv(tmp_path / "ar.csv", columns[:3], [row[:3] for row in PARTIAL])
    with pytest.raises(DataError, match=r"score 1, but .* has 3; the files are not aligned"):
        ParallelTable.read(tmp_path)


@pytest.mark.parametrize(
    ("english", "french"),
    [("test.en", "dev.fr"), ("sts-train.en", "sts_test.fr"), ("validation.en", "test.fr")],
)
def test_files_of_different_splits_are_not_laid_side_by_side(tmp_path, english, french):
    for name in (english, french):
        (tmp_path / f"{name}.txt").write_text("one\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"{english}\.txt|{french}\.txt.* of different splits"):
        ParallelTable.read(tmp_path)
    (tmp_path / f"{french}.txt").rename(tmp_path / "fr.txt")
    assert len(ParallelTable.read(tmp_path).columns) == 2


def test_row_numbers_of_a_file_are_no_language(tmp_path):
    write_csv(tmp_path / "t.csv", ["row", "en", "fr"], [["0", "one", "un"]])
    assert ParallelTable.read(tmp_path / "t.csv").columns == {"en": ["one"], "fr": ["un"]}


def truth_of(path: Path) -> dict[int, tuple[str, str]]:
    """Return row → pair of a real file, read with the standard library."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        return {
            int(row.get("row") or row.get("pair_ID") or number): (
                row["sentence1"],
                row["sentence2"],
            )
            for number, row in enumerate(rows)
        }


@pytest.mark.parametrize("first", [0, 2, 100])
@pytest.mark.parametrize("order", [1, -1])
def test_real_renderings_of_a_part_of_stsb_are_all_right(sts_folder, tmp_path, first, order):
    english = truth_of(sts_folder / "stsb" / "test.en.csv.gz")
    arabic = truth_of(sts_folder / "stsb" / "partial" / "test.ar.csv.gz")
    (tmp_path / "test.ar.csv.gz").symlink_to(sts_folder / "stsb" / "partial" / "test.ar.csv.gz")
    rows = [[*english[row], row] for row in english if row >= first][::order]
    write_csv(tmp_path / "test.en.csv", ["sentence1", "sentence2", "row"], rows)
    table = ParallelTable.read(tmp_path)
    there = [row for row in english if row >= first and row in arabic]
    assert len(there) == 1377 - first
    known = {}  # a sentence that occurs twice has its first rendering
    for side in (0, 1):
        for row in there:
            known.setdefault(english[row][side], arabic[row][side])
    assert table.translate(list(known), "en", "ar") == list(known.values())
    write_csv(tmp_path / "test.en.csv", ["sentence1", "sentence2"], [row[:2] for row in rows])
    if first:
        with pytest.raises(DataError, match=r"not aligned: .*test\.ar.* has row 1378"):
            ParallelTable.read(tmp_path)


def test_real_renderings_of_sick_are_all_right_whatever_the_order(sts_folder, tmp_path):
    for name in ("SICK.pt", "SICK.ja"):
        (tmp_path / f"{name}.csv.gz").symlink_to(sts_folder / "sick" / f"{name}.csv.gz")
    english = truth_of(sts_folder / "sick" / "SICK.en.csv.gz")
    rows = [[*english[row], row] for row in english][::-1]
    write_csv(tmp_path / "SICK.en.csv", ["sentence1", "sentence2", "pair_ID"], rows)
    table = ParallelTable.read(tmp_path)
    for code in ("pt", "ja"):
        other = truth_of(sts_folder / "sick" / f"SICK.{code}.csv.gz")
        known = {}
        for side in (0, 1):
            for row in sorted(other):
                known.setdefault(english[row][side], other[row][side])
        assert table.translate(list(known), "en", code) == list(known.values())


def test_a_path_without_a_table_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no file or folder .*nowhere"):
        ParallelTable.read(tmp_path / "nowhere")
    (tmp_path / "en.txt").write_text("one\n", encoding="utf-8")
    with pytest.raises(DataError, match="two or more columns"):
        ParallelTable.read(tmp_path)
    write_csv(tmp_path / "fr.csv", ["texte"], [["un"]])
    with pytest.raises(DataError, match=r"fr\.csv: needs a column 'text', or 'sentence1'"):
        ParallelTable.read(tmp_path)


# --- what every translator is asked -----------------------------------------------------------


class Counting:
    """A translator that remembers what it was asked."""

    def __init__(self, name="counting", empty=()):
        """Give an empty rendering for the texts in ``empty``."""
        self.name = name
        self.empty = empty
        self.asked: list[str] = []

    def translate(self, texts, source, target):
        self.asked += texts
        return ["" if t in self.empty else f"{self.name} {source}-{target} {t}" for t in texts]


@pytest.fixture(params=["table", "cache", "model"])
def anyone(request, tmp_path):
    """Return each kind of translator; none of them gets so far as to need a model."""
    if request.param == "table":
        return ParallelTable(TABLE)
    if request.param == "model":
        return Seq2SeqTranslator(str(tmp_path / "nowhere"))
    return CachedTranslator(Counting(), tmp_path / "c.sqlite")


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (CAT, "give one as"),
        ({"en": [CAT]}, "got dict; give one of its values"),
        (pd.DataFrame({"first": [CAT]}), "give one of its columns: first"),
        (np.array([[CAT]]), "give one axis"),
        ({CAT}, "got set"),
        (None, "got NoneType"),
        ([CAT, None], "text 1 is empty or not a string: None"),
        ([CAT, ""], "text 1 is empty"),
        ([CAT, "\u200b"], "text 1 is empty"),
        ([CAT, "x\ud83d"], "text 1 holds .* half of a surrogate pair"),
    ],
)
def test_texts_that_are_no_list_of_words_are_refused(anyone, texts, words):
    with pytest.raises(InputError, match=words):
        anyone.translate(texts, "en", "fr")


@pytest.mark.parametrize("codes", [(None, "fr"), ("en", ["fr"]), (3, "fr")])
def test_a_language_that_is_no_code_is_refused(anyone, codes):
    with pytest.raises(InputError, match="must be the code of a language"):
        anyone.translate([CAT], *codes)


@pytest.mark.parametrize("path", ["t.csv", "folder"])
@pytest.mark.parametrize("given", [3, None, "x" * 300])
def test_what_is_no_path_of_a_table_is_refused(path, given):
    with pytest.raises(InputError, match="the parallel table"):
        ParallelTable.read(given)


# --- CachedTranslator ------------------------------------------------------------------------


def stored(path: Path) -> dict[str, str]:
    connection = sqlite3.connect(path)
    try:
        return dict(connection.execute("SELECT text, rendering FROM translations"))
    finally:
        connection.close()


def test_what_was_translated_once_is_not_translated_again(tmp_path):
    inner = Counting()
    cached = CachedTranslator(inner, tmp_path / "c.sqlite")
    first = cached.translate(["a", "b"], "en", "fr")
    assert first == ["counting en-fr a", "counting en-fr b"]
    assert cached.translate(["a", "b"], "en", "fr") == first
    assert inner.asked == ["a", "b"]
    assert cached.translate(["b", "c"], "en", "fr") == ["counting en-fr b", "counting en-fr c"]
    assert inner.asked == ["a", "b", "c"]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_order_and_duplicates_are_kept_and_each_text_is_made_once(tmp_path, batch_size):
    inner = Counting()
    cached = CachedTranslator(inner, tmp_path / "c.sqlite", batch_size)
    cached.translate(["m"], "en", "fr")
    wanted = ["z", "a", "z", "m", "b", "a"]
    assert cached.translate(wanted, "en", "fr") == [f"counting en-fr {t}" for t in wanted]
    assert inner.asked == ["m", "z", "a", "b"]
    assert cached.translate([], "en", "fr") == []


def test_languages_are_part_of_the_key(tmp_path):
    inner = Counting()
    cached = CachedTranslator(inner, tmp_path / "c.sqlite")
    pairs = [("en", "fr"), ("en", "de"), ("de", "fr"), ("fr", "en")]
    for source, target in pairs:
        assert cached.translate(["a"], source, target) == [f"counting {source}-{target} a"]
    assert len(inner.asked) == 4


def test_another_instance_finds_the_renderings_in_the_file(tmp_path):
    CachedTranslator(Counting(), tmp_path / "c.sqlite").translate(["a", "b"], "en", "fr")
    inner = Counting()
    again = CachedTranslator(inner, str(tmp_path / "c.sqlite"))
    assert again.translate(["b", "a"], "en", "fr") == ["counting en-fr b", "counting en-fr a"]
    assert inner.asked == []


def test_two_translators_with_different_names_do_not_mix(tmp_path):
    one = CachedTranslator(Counting("one"), tmp_path / "c.sqlite")
    two = CachedTranslator(Counting("two"), tmp_path / "c.sqlite")
    assert one.translate(["a"], "en", "fr") == ["one en-fr a"]
    assert two.translate(["a"], "en", "fr") == ["two en-fr a"]
    assert one.translate(["a"], "en", "fr") == ["one en-fr a"]
    assert (one.name, two.name) == ("one", "two")


def test_two_tables_without_a_name_of_their_own_do_not_mix(tmp_path):
    # The name is the identity for the cache: one name must mean one set of renderings.
    one = ParallelTable({"en": ["bank"], "fr": ["rive"]})
    two = ParallelTable({"en": ["bank"], "fr": ["banque"]})
    path = tmp_path / "c.sqlite"
    assert CachedTranslator(one, path).translate(["bank"], "en", "fr") == ["rive"]
    assert CachedTranslator(two, path).translate(["bank"], "en", "fr") == ["banque"]


def test_a_corrected_table_is_not_answered_from_the_old_one(tmp_path):
    path = tmp_path / "c.sqlite"
    for rendering in ("rive", "banque"):
        write_csv(tmp_path / "t.csv", ["en", "fr"], [["bank", rendering]])
        cached = CachedTranslator(ParallelTable.read(tmp_path / "t.csv"), path)
        assert cached.translate(["bank"], "en", "fr") == [rendering]


def test_the_cache_is_a_translator_itself(tmp_path):
    inner = Counting()
    near = CachedTranslator(CachedTranslator(inner, tmp_path / "far.sqlite"), tmp_path / "n.sqlite")
    assert near.translate(["a"], "en", "fr") == near.translate(["a"], "en", "fr")
    assert inner.asked == ["a"]


def test_the_default_file_is_in_the_user_s_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DYSEM_LAB_CACHE", str(tmp_path))
    cached = CachedTranslator(Counting())
    cached.translate(["a"], "en", "fr")
    assert cached.path == tmp_path / "translations.sqlite"
    assert stored(cached.path) == {"a": "counting en-fr a"}


def test_one_language_to_itself_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"both 'en'; nothing to translate"):
        CachedTranslator(Counting(), tmp_path / "c.sqlite").translate(["a"], "en", "en")


@pytest.mark.parametrize("empty", ["", " \n\u3000"])
def test_an_empty_rendering_is_an_error_and_none_of_its_batch_is_stored(tmp_path, empty):
    class Lossy(Counting):
        def translate(self, texts, source, target):
            return [r or empty for r in super().translate(texts, source, target)]

    cached = CachedTranslator(Lossy(empty=("d",)), tmp_path / "c.sqlite", batch_size=2)
    with pytest.raises(MissingTranslationError, match=r"counting has no rendering in 'fr' of 'd'"):
        cached.translate(["a", "b", "c", "d", "e"], "en", "fr")
    assert set(stored(cached.path)) == {"a", "b"}


def test_an_error_of_the_inner_translator_passes_and_earlier_batches_stay(tmp_path):
    table = ParallelTable({"en": ["a", "b"], "fr": ["un", "deux"]})
    cached = CachedTranslator(table, tmp_path / "c.sqlite", batch_size=1)
    with pytest.raises(MissingTranslationError, match="of 'x'"):
        cached.translate(["a", "x", "b"], "en", "fr")
    assert stored(cached.path) == {"a": "un"}


def test_any_text_comes_back_as_it_was_made(tmp_path):
    class Mirror:
        name = "mirror"

        def translate(self, texts, source, target):
            return [f"<{text}>" for text in texts]

    path = tmp_path / "c.sqlite"

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.text().filter(has_words), max_size=5))
    def check(texts):
        for _ in range(2):  # made, then read
            cached = CachedTranslator(Mirror(), path)
            assert cached.translate(texts, "en", "fr") == [f"<{text}>" for text in texts]

    check()


def damage_from_the_start(path: Path) -> None:
    path.write_bytes(b"this is not a database, whatever its name says\n" * 100)


def damage_the_middle(path: Path) -> None:
    CachedTranslator(Counting(), path).translate([f"text {i}" for i in range(500)], "en", "fr")
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))


def another_table(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE translations (word TEXT)")
    connection.commit()
    connection.close()


@pytest.mark.parametrize("damage", [damage_from_the_start, damage_the_middle, another_table])
def test_a_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "broken.sqlite"
    damage(path)
    with pytest.raises(DataError, match=r"broken\.sqlite is not a usable translation cache.*move"):
        CachedTranslator(Counting(), path).translate(["text 400"], "en", "fr")


def made_of(path, texts):
    """Return the renderings of texts, the texts that were made anew, and what was warned of."""
    inner = Counting()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = CachedTranslator(inner, path).translate(texts, "en", "fr")
    return made, inner.asked, [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    "change",
    [
        "rendering = 'counting en-fr b'",
        "rendering = upper(rendering)",
        "rendering = x'ff'",
        "rendering = 2020",
        "checksum = zeroblob(16)",
        "checksum = 'x'",
        "text = 'a', source = 'de'",
    ],
)
def test_a_changed_row_is_named_and_made_again_and_kept(tmp_path, change):
    path = tmp_path / "c.sqlite"
    made_of(path, ["a", "b"])
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE translations SET {change} WHERE text = 'a'")
    made, asked, warned = made_of(path, ["a", "b"])
    assert made == ["counting en-fr a", "counting en-fr b"]
    assert asked == ["a"]
    if "source" not in change:
        assert "c.sqlite: damaged and made again: 1 rendering in 'fr': 'a'" in warned[0]
    assert made_of(path, ["a", "b"]) == (made, [], [])


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_bit_anywhere_gives_the_right_rendering_or_an_error(tmp_path, seed):
    texts = [f"text {i} — {'ж' * (i % 60)}" for i in range(120)]
    whole = tmp_path / "whole.sqlite"
    expected, _, _ = made_of(whole, texts)
    content, random_ = whole.read_bytes(), random.Random(seed)
    n_warned = 0
    for number in range(60):
        damaged, place = bytearray(content), random_.randrange(8 * len(content))
        damaged[place // 8] ^= 1 << place % 8
        path = tmp_path / f"{number}.sqlite"
        path.write_bytes(damaged)
        try:
            made, _, warned = made_of(path, texts)
        except DataError:
            continue
        assert made == expected, place
        n_warned += bool(warned)
    assert n_warned > 5


OLD_TABLE = (
    "CREATE TABLE translations (translator TEXT, source TEXT, target TEXT, text TEXT, rendering "
    "TEXT NOT NULL CHECK (trim(rendering) != ''), PRIMARY KEY (translator, source, target, text)) "
    "WITHOUT ROWID"
)


def test_a_file_from_before_there_were_checksums_is_taken_as_it_is_and_said(tmp_path, capsys):
    path = tmp_path / "old.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(OLD_TABLE)
        rows = [("counting", "en", "fr", text, f"old {text}") for text in "ab"]
        connection.executemany("INSERT INTO translations VALUES (?, ?, ?, ?, ?)", rows)
    assert made_of(path, ["a", "b", "c"])[:2] == (["old a", "old b", "counting en-fr c"], ["c"])
    assert "old.sqlite: 2 renderings of before there were checksums" in capsys.readouterr().err
    assert made_of(path, ["a", "b", "c"])[1] == []
    assert capsys.readouterr().err == ""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE translations SET rendering = 'bad' WHERE text = 'a'")
    assert made_of(path, ["a"])[0] == ["counting en-fr a"]


class Wrong:
    """A translator that gives what it is told to."""

    name = "wrong"

    def __init__(self, made):
        """Give ``made``, whatever is asked."""
        self.made = made

    def translate(self, texts, source, target):
        return self.made


@pytest.mark.parametrize(
    "made",
    [["un"], ["un", "deux", "trois"], ["un", None], ["un", 2], ["un", "\u200b"], ["un", "\ud83d"]],
)
def test_what_is_no_rendering_of_each_text_is_refused(tmp_path, made):
    with pytest.raises(MissingTranslationError, match="wrong"):
        CachedTranslator(Wrong(made), tmp_path / "c.sqlite").translate(["a", "b"], "en", "fr")


@pytest.mark.parametrize("made", ["un", {"a": "un"}, None])
def test_renderings_that_are_no_list_are_refused(tmp_path, made):
    with pytest.raises(InputError, match="renderings must be a list"):
        CachedTranslator(Wrong(made), tmp_path / "c.sqlite").translate(["a", "b"], "en", "fr")


@pytest.mark.parametrize("arguments", [(None,), ("nllb",), (Counting(3),), (Counting(), "c", 0)])
def test_what_is_no_translator_or_size_is_refused(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"translator has a name|batch_size must be a whole"):
        CachedTranslator(*arguments)


SLOW = """
import sys, time
from dysem_lab.translation.translation_cache import CachedTranslator
class Slow:
    name = "slow"
    calls = 0
    def translate(self, texts, source, target):
        # Batch number n is asked for only once the n - 1 before it are committed.
        self.calls += 1
        print(self.calls, flush=True)
        time.sleep(0.02 if self.calls < 4 else 60)
        return [text.upper() for text in texts]
CachedTranslator(Slow(), sys.argv[1], batch_size=5).translate(
    [f"text {i}" for i in range(40)], "en", "fr")
"""


def test_a_killed_run_keeps_its_committed_batches_and_the_rest_can_be_made(tmp_path):
    path = tmp_path / "c.sqlite"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    for line in process.stdout:
        if line.strip() == "4":
            break
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    assert process.wait(timeout=30) == -signal.SIGKILL
    assert stored(path) == {f"text {i}": f"TEXT {i}" for i in range(15)}

    class Rest:
        name = "slow"
        asked: list[str] = []  # noqa: RUF012

        def translate(self, texts, source, target):
            self.asked.extend(texts)
            return [text.upper() for text in texts]

    texts = [f"text {i}" for i in range(40)]
    result = CachedTranslator(Rest(), path, batch_size=5).translate(texts, "en", "fr")
    assert result == [text.upper() for text in texts]
    assert Rest.asked == texts[15:]


N_FILES = 40


def use_many_caches(folder, barrier, failures, first):
    """Meet the other processes at one fresh file after the other and translate into it."""
    found = []
    for number in range(N_FILES):
        barrier.wait(timeout=60)
        try:
            cached = CachedTranslator(Counting(), folder / f"{number}.sqlite", batch_size=2)
            texts = [f"text {i}" for i in range(first, first + 4)]
            made = cached.translate(texts, "en", "fr")
            assert made == [f"counting en-fr {text}" for text in texts]
        except Exception as error:
            found.append(f"{number}: {error!r}")
    failures.put(found)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_processes_share_a_file_from_its_first_moment_on(tmp_path, capfd):
    context = multiprocessing.get_context("fork")
    barrier, failures = context.Barrier(4), context.Queue()
    arguments = [(tmp_path, barrier, failures, first) for first in (0, 1, 2, 30)]
    workers = [context.Process(target=use_many_caches, args=a) for a in arguments]
    for worker in workers:
        worker.start()
    found = [failure for _ in workers for failure in failures.get(timeout=120)]
    for worker in workers:
        worker.join()
    assert found == []
    everything = {f"text {i}": f"counting en-fr text {i}" for i in (*range(6), *range(30, 34))}
    for number in range(N_FILES):
        assert stored(tmp_path / f"{number}.sqlite") == everything


# --- Seq2SeqTranslator -----------------------------------------------------------------------

LETTERS = "▁abcdefghijklmnopqrstuvwxyz"
PAD, END, UNKNOWN = 1, 2, 3
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
LANGUAGE_TOKENS = ["eng_Latn", "fra_Latn", "deu_Latn", "jpn_Jpan"]
LONGEST = 8
SENTENCES = ["a cat", "the dog is old", "zebra", "x", "quick fox"]


def tiny_model(model_class, config_class, n_tokens: int, wanted, end_scale=1.0):
    """Return a random model that writes only ``wanted`` tokens and the end token."""
    torch.manual_seed(7)
    config = config_class(
        vocab_size=n_tokens,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        pad_token_id=PAD,
        bos_token_id=0,
        eos_token_id=END,
        decoder_start_token_id=END,
        tie_word_embeddings=False,
        forced_eos_token_id=None,
        init_std=1.0,
    )
    model = model_class(config).eval()
    head = torch.zeros_like(model.lm_head.weight)
    for token in wanted:
        head[token] = torch.randn(16)
    head[END] = torch.randn(16) * end_scale
    model.lm_head.weight.data = head
    return model


def greedy(model, ids: list[int], start: list[int], longest: int = LONGEST) -> list[int]:
    """Decode one text greedily with plain forward passes; return what follows ``start``."""
    written = list(start)
    with torch.inference_mode():
        while len(written) <= longest:
            logits = model(
                input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([written])
            ).logits
            written.append(int(logits[0, -1].argmax()))
            if written[-1] == END:
                break
    return written[len(start) :]


@pytest.fixture(scope="session")
def nllb(tmp_path_factory):
    """Return the folder of a tiny random model with an NLLB tokenizer of single letters."""
    from transformers import M2M100Config, M2M100ForConditionalGeneration, NllbTokenizer

    folder = tmp_path_factory.mktemp("seq2seq") / "tiny-nllb"
    vocabulary = {token: i for i, token in enumerate([*SPECIALS, *LETTERS, *LANGUAGE_TOKENS])}
    tokenizer = NllbTokenizer(
        vocab=vocabulary, merges=[], extra_special_tokens=LANGUAGE_TOKENS, src_lang="deu_Latn"
    )
    tokenizer.save_pretrained(folder)
    model = tiny_model(
        M2M100ForConditionalGeneration,
        M2M100Config,
        len(tokenizer),
        [vocabulary[letter] for letter in LETTERS],
        end_scale=1.8,
    )
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def raw(nllb):
    from transformers import M2M100ForConditionalGeneration

    return M2M100ForConditionalGeneration.from_pretrained(nllb).eval()


def ids_of(text: str, language_token: str) -> list[int]:
    """Return what NLLB's encoder reads: source language, letters, end; written out by hand."""
    tokens = [*SPECIALS, *LETTERS]
    letters = [tokens.index(letter) for letter in "▁" + text.replace(" ", "▁")]
    return [len(tokens) + LANGUAGE_TOKENS.index(language_token), *letters, END]


def language_id(token: str) -> int:
    return len(SPECIALS) + len(LETTERS) + LANGUAGE_TOKENS.index(token)


def spelled(ids: list[int]) -> str:
    letters = "".join(LETTERS[i - len(SPECIALS)] for i in ids if i != END)
    return letters.replace("▁", " ").removeprefix(" ")


def translator(folder: Path, **options) -> Seq2SeqTranslator:
    options = {"device": "cpu", "max_new_tokens": LONGEST, **options}
    return Seq2SeqTranslator(str(folder), **options)


@pytest.fixture(autouse=True)
def _quick_and_quiet():
    # A second thread only slows a model of 16 dimensions down. Random models rarely end of their
    # own accord; one test below looks at the warning itself.
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*were cut at max_new_tokens")
        yield
    torch.set_num_threads(n_threads)


@pytest.mark.parametrize(
    ("source", "target", "source_token", "target_token"),
    [
        ("en", "fr", "eng_Latn", "fra_Latn"),
        ("en", "ja", "eng_Latn", "jpn_Jpan"),
        ("de", "fr", "deu_Latn", "fra_Latn"),
    ],
)
def test_renderings_are_the_greedy_ones_after_the_target_language_token(
    nllb, raw, source, target, source_token, target_token
):
    ids = [
        greedy(raw, ids_of(text, source_token), [END, language_id(target_token)])
        for text in SENTENCES
    ]
    expected = [spelled(i) for i in ids]
    assert all(text.strip() for text in expected), "the stand-in must write something"
    assert translator(nllb).translate(SENTENCES, source, target) == expected


def test_the_stand_in_tells_languages_and_texts_apart(nllb, raw):
    made = {
        (source, target): translator(nllb).translate(SENTENCES, source, target)
        for source, target in (("en", "fr"), ("en", "ja"), ("en", "de"), ("de", "fr"))
    }
    assert made["en", "fr"] != made["en", "ja"] != made["en", "de"] != made["en", "fr"]
    assert made["en", "fr"] != made["de", "fr"]
    assert len(set(made["en", "fr"])) > 1
    ends = [
        greedy(raw, ids_of(text, "eng_Latn"), [END, language_id("fra_Latn")])[-1] == END
        for text in SENTENCES
    ]
    assert any(ends), "some rendering must end before the limit, or batches are never padded"
    assert not all(ends)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_a_batch_gives_what_single_texts_give(nllb, batch_size):
    made = translator(nllb, batch_size=batch_size).translate(SENTENCES, "en", "fr")
    one = translator(nllb)
    assert made == [one.translate([text], "en", "fr")[0] for text in SENTENCES]


def test_renderings_are_deterministic(nllb):
    first = translator(nllb)
    made = first.translate(SENTENCES, "en", "fr")
    torch.manual_seed(123)
    assert first.translate(SENTENCES, "en", "fr") == made
    assert translator(nllb).translate(SENTENCES, "en", "fr") == made


def test_sampling_and_beams_of_the_model_s_own_configuration_are_off(nllb, tmp_path):
    folder = tmp_path / "sampling"
    shutil.copytree(nllb, folder)
    file = folder / "generation_config.json"
    own = {"do_sample": True, "temperature": 5.0, "num_beams": 4}
    file.write_text(json.dumps({**json.loads(file.read_text()), **own}), encoding="utf-8")
    expected = translator(nllb).translate(SENTENCES, "en", "fr")
    assert translator(folder).translate(SENTENCES, "en", "fr") == expected


def test_threads_with_different_source_languages_do_not_disturb_each_other(nllb):
    # Widgets call from threads of their own. One text per batch makes room for a change between.
    texts = SENTENCES * 3
    shared = translator(nllb, batch_size=1, max_new_tokens=3)
    expected = {code: shared.translate(texts, code, "fr") for code in ("en", "de")}
    assert expected["en"] != expected["de"]
    made = {}
    barrier = threading.Barrier(2)

    def work(code):
        barrier.wait()
        made[code] = shared.translate(texts, code, "fr")

    threads = [threading.Thread(target=work, args=(code,)) for code in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == expected


def test_the_name_tells_model_revision_and_length(nllb):
    assert str(nllb) in translator(nllb).name
    pinned = translator(nllb, revision="abc123")
    assert "abc123" in pinned.name
    names = {
        translator(nllb).name,
        pinned.name,
        translator(nllb, max_new_tokens=7).name,
        translator(nllb.parent).name,
    }
    assert len(names) == 4
    assert Seq2SeqTranslator().model == NLLB
    assert Seq2SeqTranslator().revision is not None


def changed_copy(nllb, folder, change):
    """Return a copy of the model with one change: a JSON file's entry, or a function of it."""
    shutil.copytree(nllb, folder)
    if callable(change):
        change(folder)
        return folder
    name, entry, value = change
    content = json.loads((folder / name).read_text(encoding="utf-8"))
    content[entry] = value
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def rewritten(change):
    """Return a function that rewrites the weights of a folder."""

    def rewrite(folder):
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return rewrite


def nudge(weights):
    weights["model.encoder.layers.0.self_attn.q_proj.weight"][3, 5] += 1e-3


@pytest.mark.parametrize(
    "change",
    [
        rewritten(nudge),
        ("config.json", "scale_embedding", False),
        ("config.json", "activation_function", "gelu"),
        ("tokenizer.json", "normalizer", {"type": "Lowercase"}),
        ("tokenizer_config.json", "src_lang", "eng_Latn"),
        ("generation_config.json", "repetition_penalty", 1.5),
    ],
    ids=["weights", "scale", "activation", "normalizer", "source language", "generation"],
)
def test_everything_that_a_rendering_depends_on_is_in_the_name(nllb, tmp_path, change):
    folder = tmp_path / "model"
    name = translator(shutil.copytree(nllb, folder)).name
    assert translator(folder, device="auto", batch_size=3).name == name
    (folder / "README.md").write_text("words for people", encoding="utf-8")
    assert translator(folder).name == name
    shutil.rmtree(folder)
    assert translator(changed_copy(nllb, folder, change)).name != name


def test_a_pair_is_in_the_name_since_it_leaves_the_language_tokens_out(nllb):
    pairs = (None, ("en", "fr"), ["fr", "en"])
    assert len({translator(nllb, pair=pair).name for pair in pairs}) == 3
    listed, in_a_tuple = (translator(nllb, pair=kind(("en", "fr"))) for kind in (list, tuple))
    assert listed.name == in_a_tuple.name
    assert len(listed.translate(["x"], "en", "fr")) == 1
    for pair in ("en-fr", ("en",), 3, ("en", 3)):
        with pytest.raises(InputError, match=r"pair must be two|languages must be"):
            translator(nllb, pair=pair)


def test_a_retrained_model_under_the_same_path_is_asked_anew(nllb, tmp_path):
    folder, cache = shutil.copytree(nllb, tmp_path / "model"), tmp_path / "c.sqlite"
    before = CachedTranslator(translator(folder), cache).translate(SENTENCES, "en", "fr")
    shutil.rmtree(folder)

    def retrain(weights):
        torch.manual_seed(1)
        head = weights["lm_head.weight"]
        head[(head != 0).any(1)] = torch.randn(int((head != 0).any(1).sum()), head.shape[1])

    changed_copy(nllb, folder, rewritten(retrain))
    after = CachedTranslator(translator(folder), cache).translate(SENTENCES, "en", "fr")
    assert after == translator(folder).translate(SENTENCES, "en", "fr")
    assert after != before


def test_files_that_change_after_the_name_is_known_are_refused(nllb, tmp_path):
    folder = shutil.copytree(nllb, tmp_path / "model")
    early = CachedTranslator(translator(folder), tmp_path / "c.sqlite")
    assert str(folder) in early.name
    rewritten(nudge)(folder)
    with pytest.raises(ModelError, match="were changed after this translator was made; make it"):
        early.translate(["x"], "en", "fr")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda w: w.pop("model.decoder.layers.0.fc1.weight"),
            r"has no weights for model\.decoder\.layers\.0\.fc1\.weight",
        ),
        (lambda w: w.pop("model.shared.weight"), "has no weights for model.*weight"),
        (
            lambda w: w.update({"model.adapter.weight": torch.zeros(2)}),
            r"no place for: model\.adapter\.weight",
        ),
        (
            lambda w: w.update({f"_orig_mod.{key}": w.pop(key) for key in list(w)}),
            "has no weights for .*_orig_mod",
        ),
        (
            lambda w: w.update({"model.decoder.layers.0.fc1.weight": torch.zeros(3, 16)}),
            r"model\.decoder\.layers\.0\.fc1\.weight",
        ),
    ],
    ids=["missing", "embeddings", "extra", "prefix", "shape"],
)
def test_weights_that_are_not_all_there_are_refused_by_name(nllb, tmp_path, change, words):
    folder = changed_copy(nllb, tmp_path / "model", rewritten(change))
    with pytest.raises(ModelError, match=f"(?s){words}"):
        translator(folder).translate(["x"], "en", "fr")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda whole: whole[: len(whole) // 2], "is cut or damaged"),
        (lambda whole: b"version https://git-lfs.github.com/spec/v1\n", "pointer of git LFS"),
        (lambda whole: b"", "model.safetensors"),
    ],
)
def test_a_damaged_file_of_weights_is_named(nllb, tmp_path, content, words):
    folder = shutil.copytree(nllb, tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(content(weights.read_bytes()))
    with pytest.raises(ModelError, match=f"(?s)cannot load .*{words}"):
        translator(folder).translate(["x"], "en", "fr")


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there_is_an_error(nllb, device):
    with pytest.raises(ModelError, match="cannot load"):
        translator(nllb, device=device).translate(["x"], "en", "fr")


def test_a_model_of_the_hub_is_its_commit_and_never_a_branch(monkeypatch):
    commits = {None: "1" * 40, "main": "1" * 40, "refs/pr/45": "2" * 40}
    monkeypatch.setattr(
        seq2seq, "find_on_hub", lambda name, revision: OnHub(commits[revision], True)
    )
    assert Seq2SeqTranslator("own/er").name == f"own/er@{'1' * 40} greedy 256"
    assert Seq2SeqTranslator("own/er", revision="main").name == Seq2SeqTranslator("own/er").name
    assert Seq2SeqTranslator().name == f"{NLLB}@{'2' * 40} greedy 256"
    # A commit stands for itself, also where the hub is out of reach.
    pinned = Seq2SeqTranslator("own/er", revision="a" * 40)
    assert pinned.name == f"own/er@{'a' * 40} greedy 256"


def test_a_model_of_the_hub_that_cannot_be_had_is_an_error(monkeypatch):
    def unreachable(name, revision):
        raise ConnectionError("no answer")

    monkeypatch.setattr(seq2seq, "find_on_hub", unreachable)
    with pytest.raises(ModelError, match=r"cannot load own/er: no answer.*(?s:.*)parallel table"):
        CachedTranslator(Seq2SeqTranslator("own/er"), "unused.sqlite")


def test_a_text_longer_than_the_model_s_positions_is_named_and_not_cut(nllb):
    fits = "a" * 61  # and a space before it, the language and the end
    assert len(translator(nllb).translate([fits], "en", "fr")) == 1
    with pytest.raises(InputError, match=r"text 3 has 65 tokens, .* reads at most 64: 'aaa"):
        translator(nllb, batch_size=2).translate(["x", fits, "y", fits + "a"], "en", "fr")
    with pytest.raises(InputError, match=r"max_new_tokens is 65, but .* writes at most 64"):
        translator(nllb, max_new_tokens=65).translate(["x"], "en", "fr")


def test_a_model_that_breaks_down_is_named_with_its_texts(nllb, monkeypatch):
    broken = translator(nllb, batch_size=2)
    monkeypatch.setattr(broken._loaded[0], "generate", lambda **_: [][0])
    with pytest.raises(ModelError, match=r"tiny-nllb broke down on texts 0 to 1 \(list index"):
        broken.translate(SENTENCES, "en", "fr")


@pytest.mark.parametrize(
    "arguments", [{"model": 3}, {"model": None}, {"batch_size": 0}, {"max_new_tokens": 1.5}]
)
def test_a_setting_that_has_no_meaning_is_refused(arguments):
    with pytest.raises(InputError, match=r"model must be|must be a whole number of at least 1"):
        Seq2SeqTranslator(**arguments)


def test_a_cached_model_is_asked_once(nllb, tmp_path):
    made = CachedTranslator(translator(nllb), tmp_path / "c.sqlite").translate(["x"], "en", "fr")
    absent = translator(nllb)
    absent.__dict__["_loaded"] = None  # it must not even be loaded again
    assert CachedTranslator(absent, tmp_path / "c.sqlite").translate(["x"], "en", "fr") == made


@pytest.mark.parametrize(("source", "target"), [("en", "xx"), ("xx", "en"), ("en", "ko")])
def test_a_language_without_a_token_is_named_with_the_remedy(nllb, source, target):
    missing = "ko" if target == "ko" else "xx"
    with pytest.raises(MissingTranslationError, match=rf"no token for '{missing}'.*say pair="):
        translator(nllb).translate(["x"], source, target)


def test_a_model_of_one_pair_gets_no_language_token(nllb, raw):
    # The tokenizer keeps the source language that it was saved with.
    expected = [spelled(greedy(raw, ids_of(t, "deu_Latn"), [END])) for t in SENTENCES]
    assert all(text.strip() for text in expected), "the stand-in must write something"
    made = translator(nllb, pair=("en", "cs")).translate(SENTENCES, "en", "cs")
    assert made == expected


@pytest.mark.parametrize(("source", "target"), [("fr", "en"), ("en", "de")])
def test_a_model_of_one_pair_refuses_other_pairs(nllb, source, target):
    with pytest.raises(MissingTranslationError, match=rf"en to fr only, not {source} to {target}"):
        translator(nllb, pair=("en", "fr")).translate(["x"], source, target)


def test_a_rendering_that_is_cut_is_told(nllb):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        translator(nllb, max_new_tokens=2).translate(["the dog is old"], "en", "fr")
    messages = [str(w.message) for w in caught]
    assert any("1 renderings were cut at max_new_tokens=2" in message for message in messages)


def test_an_empty_rendering_is_an_error(nllb, tmp_path):
    folder = tmp_path / "silent"
    shutil.copytree(nllb, folder)
    weights = load_file(folder / "model.safetensors")
    # With all-zero rows every logit ties at 0, and the first token, <s>, is never spelled out.
    weights["lm_head.weight"] = torch.zeros_like(weights["lm_head.weight"])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MissingTranslationError, match=r"silent has no rendering in 'fr' of 'x'"):
        translator(folder).translate(["x"], "en", "fr")


class Bomb:
    def __init__(self, marker: Path):
        """Remember which file to make when unpickled."""
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def test_a_folder_with_pickled_weights_only_is_refused_unopened(nllb, tmp_path):
    folder = tmp_path / "pickled"
    folder.mkdir()
    for file in nllb.iterdir():
        if file.name != "model.safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    marker = tmp_path / "ran"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(ModelError, match=r"(?s)cannot load .*pickled.*safetensors"):
        translator(folder).translate(["x"], "en", "fr")
    assert not marker.exists()


@pytest.mark.parametrize("part", ["model", "tokenizer"])
def test_code_in_a_model_folder_never_runs_whatever_is_answered(nllb, tmp_path, monkeypatch, part):
    folder = tmp_path / "coded"
    shutil.copytree(nllb, folder)
    marker = tmp_path / "ran"
    (folder / "own.py").write_text(
        f"open({str(marker)!r}, 'w').close()\n"
        "from transformers import NllbTokenizer, M2M100Config, M2M100ForConditionalGeneration\n"
        "class Own(NllbTokenizer): pass\n"
        "class OwnConfig(M2M100Config): model_type = 'own'\n"
        "class OwnModel(M2M100ForConditionalGeneration): config_class = OwnConfig\n",
        encoding="utf-8",
    )
    changes = {
        "model": (
            "config.json",
            {
                "model_type": "own",
                "auto_map": {
                    "AutoConfig": "own.OwnConfig",
                    "AutoModelForSeq2SeqLM": "own.OwnModel",
                },
            },
        ),
        "tokenizer": (
            "tokenizer_config.json",
            {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}},
        ),
    }
    name, change = changes[part]
    settings_of = json.loads((folder / name).read_text(encoding="utf-8"))
    (folder / name).write_text(json.dumps({**settings_of, **change}), encoding="utf-8")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(builtins, "input", lambda *_: "y")
    # A folder with code of its own may be refused or read without it.
    with contextlib.suppress(ModelError):
        translator(folder).translate(["x"], "en", "fr")
    assert not marker.exists()


def test_nothing_is_loaded_before_the_first_translation(tmp_path):
    absent = translator(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"cannot load the translator: no folder .*nowhere.*table"):
        absent.translate(["x"], "en", "fr")


# --- M2M100 and mBART, whose language tokens have other names -----------------------------------


@pytest.fixture(scope="session")
def m2m100(tmp_path_factory):
    """Return a tiny M2M100 whose vocabulary has the ordinary pieces "en" and "fr" too."""
    import sentencepiece
    from transformers import M2M100Config, M2M100ForConditionalGeneration, M2M100Tokenizer
    from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

    folder = tmp_path_factory.mktemp("seq2seq") / "tiny-m2m100"
    folder.mkdir()
    trained = io.BytesIO()
    lines = ["the hen went to the den and the men ended it", "a friend fries fresh french fruit"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines * 30),
        model_writer=trained,
        vocab_size=60,
        model_type="bpe",
        minloglevel=2,
    )
    (folder / "trained.model").write_bytes(trained.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    names = [pieces.id_to_piece(i) for i in range(pieces.get_piece_size())]
    assert {"en", "fr"} <= set(names)
    vocabulary = {name: i for i, name in enumerate(dict.fromkeys([*SPECIALS, *names]))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    # The released tokenizers list their language tokens as special ones.
    language_tokens = [f"__{code}__" for code in FAIRSEQ_LANGUAGE_CODES["m2m100"]]
    tokenizer = M2M100Tokenizer(
        str(folder / "vocab.json"),
        str(folder / "trained.model"),
        additional_special_tokens=language_tokens,
    )
    tokenizer.save_pretrained(folder)
    n_tokens = max(tokenizer.lang_code_to_id.values()) + 1
    tiny_model(
        M2M100ForConditionalGeneration, M2M100Config, n_tokens, range(4, len(vocabulary))
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("source", "target"), [("en", "fr"), ("ja", "ko")])
def test_m2m100_is_started_with_its_own_language_tokens(m2m100, source, target):
    from transformers import M2M100ForConditionalGeneration, M2M100Tokenizer

    tokenizer = M2M100Tokenizer.from_pretrained(m2m100)
    model = M2M100ForConditionalGeneration.from_pretrained(m2m100).eval()
    texts = ["the men", "a friend went"]
    expected = []
    for text in texts:
        pieces = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
        ids = [tokenizer.lang_code_to_id[source], *pieces, END]
        written = greedy(model, ids, [END, tokenizer.lang_code_to_id[target]])
        expected.append(tokenizer.decode(written, skip_special_tokens=True))
    assert all(text.strip() for text in expected), "the stand-in must write something"
    assert translator(m2m100).translate(texts, source, target) == expected


@pytest.fixture(scope="session")
def mbart(tmp_path_factory):
    """Return a tiny mBART-50 whose vocabulary has the ordinary pieces "en" and "de" too."""
    from transformers import MBart50Tokenizer, MBartConfig, MBartForConditionalGeneration
    from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES

    folder = tmp_path_factory.mktemp("seq2seq") / "tiny-mbart"
    vocabulary = [(token, 0.0) for token in SPECIALS]
    vocabulary += [(letter, -3.0) for letter in LETTERS] + [("en", -4.0), ("de", -4.0)]
    vocabulary += [(token, 0.0) for token in [*FAIRSEQ_LANGUAGE_CODES, "<mask>"]]
    tokenizer = MBart50Tokenizer(vocab=vocabulary)
    tokenizer.save_pretrained(folder)
    letters = range(len(SPECIALS), len(SPECIALS) + len(LETTERS))
    tiny_model(
        MBartForConditionalGeneration, MBartConfig, len(vocabulary), letters
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("source", "target", "source_token", "target_token"),
    [
        ("fr", "es", "fr_XX", "es_XX"),
        ("en", "fr", "en_XX", "fr_XX"),
        ("fr", "de", "fr_XX", "de_DE"),
        ("fr", "zh", "fr_XX", "zh_CN"),
        ("hi", "ko", "hi_IN", "ko_KR"),
    ],
)
def test_mbart_is_started_with_its_own_language_tokens(
    mbart, source, target, source_token, target_token
):
    from transformers import MBart50Tokenizer, MBartForConditionalGeneration

    tokenizer = MBart50Tokenizer.from_pretrained(mbart)
    model = MBartForConditionalGeneration.from_pretrained(mbart).eval()
    texts = ["a cat", "zebra"]
    expected = []
    for text in texts:
        pieces = tokenizer(text, add_special_tokens=False).input_ids
        ids = [tokenizer.convert_tokens_to_ids(source_token), *pieces, END]
        written = greedy(model, ids, [END, tokenizer.convert_tokens_to_ids(target_token)])
        expected.append(tokenizer.decode(written, skip_special_tokens=True))
    assert all(text.strip() for text in expected), "the stand-in must write something"
    assert translator(mbart).translate(texts, source, target) == expected


# --- pairs with what a translator makes of them


class Shouting:
    """A translator into "xx" that shouts, and has no word for a cat."""

    name = "shouting 1"

    def translate(self, texts, source, target):
        if target != "xx" or any("cat" in text for text in texts):
            raise MissingTranslationError(f"no rendering in {target!r}")
        return [text.upper() for text in texts]


def pairs_about(*animals, language="en"):
    first, second = [f"A {one}." for one in animals], [f"One {one}." for one in animals]
    gold, rows = np.arange(len(animals)), np.arange(len(animals))
    sentences = {language: (first, second)}
    return STSData("zoo", "here", gold, sentences, rows, [""] * len(animals))


@pytest.mark.parametrize("cached", [False, True])
def test_pairs_get_what_a_translator_makes_and_those_without_are_dropped(
    tmp_path, monkeypatch, cached
):
    by = CachedTranslator(Shouting(), tmp_path / "cache.sqlite") if cached else Shouting()
    made = translated(pairs_about("dog", "cat", "hen", "cow"), ["en", "xx", "yy"], by)
    assert made.sentences["xx"] == (
        ["A DOG.", "A HEN.", "A COW."],
        ["ONE DOG.", "ONE HEN.", "ONE COW."],
    )
    assert made.languages == ("en", "xx")
    assert made.rows.tolist() == made.gold.tolist() == [0, 2, 3]
    assert made.n_dropped == 1
    assert made.source == "here; xx from English by shouting 1"
    assert made.origins == {"xx": "English by shouting 1"}
    assert translator_in(made.origins["xx"]) == "shouting 1"
    monkeypatch.setattr(Shouting, "packages", {"lungs": "2.0", "ears": "1.0"}, raising=False)
    made = translated(pairs_about("dog"), ["xx"], by)
    assert made.origins == {"xx": "English by shouting 1 (lungs 2.0, ears 1.0)"}
    assert translator_in(made.origins["xx"]) == "shouting 1"


def test_the_origin_of_a_file_has_no_translator_and_a_digest_is_no_part_of_a_name():
    for origin in ("", "not known", "test.fr.csv, sha256 0123456789abcdef", "en by demo"):
        assert translator_in(origin) == ""
    assert translator_in("English by Apertium 3.8.3 0123456789abcdef (cg3 1.3)") == "Apertium 3.8.3"
    assert translator_in("English by org/name@0123 greedy 256 eng_Latn-fra_Latn") == "org/name"


def test_renderings_that_the_pairs_have_stay(tmp_path):
    pairs = pairs_about("dog")
    pairs.sentences["xx"] = (["un"], ["deux"])
    assert translated(pairs, ["xx"], Shouting()) is pairs
    with pytest.raises(MissingTranslationError, match="renders no pair of zoo in xx"):
        translated(pairs_about("cat"), "xx", Shouting())


@pytest.mark.parametrize("translator", [None, 3, "apertum"])
def test_what_is_no_translator_is_refused(translator):
    with pytest.raises(InputError, match="translator"):
        translated(pairs_about("dog"), ["xx"], translator)
