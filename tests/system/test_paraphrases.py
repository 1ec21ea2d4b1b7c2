"""Paraphrases: the demo set's say what its sentences say, and any table's go where languages go."""

import csv
import itertools
import re
import statistics
from collections import Counter

import pandas as pd
import pytest

import dysem_lab as dl
from dysem_lab.data.languages import language_of, paraphrase_codes
from dysem_lab.errors import DataError, InputError, MissingTranslationError
from dysem_lab.translation.paraphrases import source_for, source_of
from tests.conftest import REPOSITORY
from tests.system.test_demo import numbers, read_demo

CODES = ["en-1", "en-2", "en-3", "en-4"]
ROWS = {code: read_demo(code) for code in ["en", *CODES]}
SIDES = ("sentence1", "sentence2")
TEXTS = {code: [row[side] for side in SIDES for row in rows] for code, rows in ROWS.items()}
PAIRS = [(e, p) for code in CODES for e, p in zip(TEXTS["en"], TEXTS[code], strict=True)]
NUMBERS = {
    **{"two": 2, "twice": 2, "doubled": 2, "doubling": 2, "three": 3, "four": 4, "five": 5},
    **{"six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "thirty": 30, "eighty": 80},
    **{"ninety": 90, "hundred": 100, "thousand": 1000, "hundreds": 100, "dozens": 12, "half": 0.5},
    "third": 1 / 3,
}
DENIALS = {
    *("not", "no", "never", "nobody", "nothing", "neither", "nor", "none", "cannot", "without"),
    *("impossible", "unknown"),
}
OTHER_DENIALS = {"failed", "fails", "turned"}  # of what is not done: turned down


def words(text):
    return re.findall(r"\w+", text)


def said(text):
    """Return the numbers of a text, in digits and in words."""
    return sorted([*numbers(text), *(NUMBERS[w] for w in words(text.lower()) if w in NUMBERS)])


def names(text):
    """Return the capitalised words within a text, without a final s."""
    return {word.rstrip("s") for word in re.findall(r"[A-Z]\w*", text[1:]) if word != "I"}


def overlap(text, other):
    x, y = (set(words(one.lower())) for one in (text, other))
    return len(x & y) / len(x | y)


@pytest.mark.parametrize("code", CODES)
def test_every_sentence_of_the_demo_set_has_four(code):
    keys = [(row["score"], row["subset"]) for row in ROWS[code]]
    assert keys == [(row["score"], row["subset"]) for row in ROWS["en"]]
    assert all(TEXTS[code])


def test_no_two_texts_are_the_same_or_the_same_words():
    texts = Counter(text.casefold() for column in TEXTS.values() for text in column)
    assert [text for text, n in texts.items() if n > 1] == []
    for same in zip(*TEXTS.values(), strict=True):
        for text, other in itertools.combinations(same, 2):
            assert sorted(words(text.lower())) != sorted(words(other.lower()))


def test_numbers_are_kept_in_digits_and_in_words():
    assert [pair for pair in PAIRS if said(pair[0]) != said(pair[1])] == []
    assert sum(bool(said(english)) for english, _ in PAIRS) >= 160


def test_what_is_denied_is_denied_and_nothing_else_is():
    denied = 0
    for english, paraphrase in PAIRS:
        found = set(words(paraphrase.lower()))
        if DENIALS & set(words(english.lower())):
            denied += 1
            assert (DENIALS | OTHER_DENIALS) & found, (english, paraphrase)
        else:
            assert not DENIALS & found, (english, paraphrase)
    assert denied >= 80


def test_names_are_kept_and_no_others_come_in():
    for english, paraphrase in PAIRS:
        there = {word.rstrip("s") for word in words(paraphrase)}
        assert names(english) <= there, (english, paraphrase)
        assert names(paraphrase) <= {word.rstrip("s") for word in words(english)}


def test_they_are_clean_and_end_as_their_sentence_does():
    for english, paraphrase in PAIRS:
        assert paraphrase[-1] == english[-1]
        assert paraphrase == " ".join(paraphrase.split())
        assert paraphrase.isascii()
        assert '"' not in paraphrase


def test_lengths_are_plausible():
    ratios = [len(paraphrase) / len(english) for english, paraphrase in PAIRS]
    assert min(ratios) >= 0.6
    assert max(ratios) <= 1.75
    assert 1 <= statistics.median(ratios) <= 1.25


def test_no_paraphrases_are_nearer_to_the_pair_s_other_sentence():
    scores = [float(row["score"]) for row in ROWS["en"]]
    of_english = [[overlap(row[a], row[b]) for row in ROWS["en"]] for a, b in (SIDES, SIDES[::-1])]
    for code, low in itertools.product(CODES, (0, 1.5, 3, 4.5)):
        part = [i for i, score in enumerate(scores) if low <= score < low + 1.5]
        for (own, other), base in zip((SIDES, SIDES[::-1]), of_english, strict=True):
            now = [overlap(ROWS[code][i][own], ROWS["en"][i][other]) for i in part]
            assert statistics.mean(now) <= statistics.mean(base[i] for i in part) + 0.01, code


def test_the_data_card_says_how_they_were_made_and_what_they_share():
    card = (REPOSITORY / "docs" / "guide" / "demo.md").read_text(encoding="utf-8")
    assert "written by the project, not by raters; not checked by others" in card
    shared = {
        code: statistics.mean(overlap(row["sentence1"], row["sentence2"]) for row in rows)
        for code, rows in {**ROWS, "fr": read_demo("fr"), "de": read_demo("de")}.items()
    }
    said_there = re.search(
        r"English (0.\d+), French (0.\d+), German (0.\d+), paraphrases (0.\d+) to (0.\d+)", card
    )
    own = [shared[code] for code in CODES]
    expected = [shared["en"], shared["fr"], shared["de"], min(own), max(own)]
    assert [float(value) for value in said_there.groups()] == pytest.approx(expected, abs=0.005)


def test_codes_of_paraphrases_are_of_their_language():
    assert paraphrase_codes(2, "fr") == ["fr-1", "fr-2"]
    assert [language_of(code) for code in ("fr-2", "en", "zh-TW", "en-0", "en-x")] == [
        *("fr", "en", "zh-TW", "en-0", "en-x")
    ]
    with pytest.raises(InputError, match="at most 99 paraphrases"):
        paraphrase_codes(100)
    prompts = dl.wrap(["A dog."] * 2, setting="language-specific", languages=["fr", "fr-12"])
    assert prompts[0] == prompts[1] != dl.wrap(["A dog."])[0]
    with pytest.raises(InputError, match="unknown language 'xx'"):
        dl.wrap(["A dog."], setting="language-specific", languages="xx-1")


def test_the_demo_set_s_are_renderings_of_it():
    data = dl.load_data("demo", languages=["en", "fr", *CODES])
    assert {code: data.texts(code) for code in CODES} == {code: TEXTS[code] for code in CODES}
    found = dl.paraphrased(dl.load_data("demo").sample(20, 1), n=2)
    assert found.languages == ("en", "en-1", "en-2")
    assert found.texts("en-2") == data.sample(20, 1).texts("en-2")


def test_a_table_a_file_and_an_object_are_sources(tmp_path):
    data = dl.load_data("demo", languages=["en", "fr"]).head(2)
    table = {"en": data.texts(), **{f"en-{i}": [f"{i} {t}" for t in data.texts()] for i in (1, 2)}}
    file = tmp_path / "mine.csv"
    pd.DataFrame(table).to_csv(file, index=False, quoting=csv.QUOTE_ALL)

    class Rephrases:
        name = "a model that says it again"

        def translate(self, texts, source, target):
            assert source == "en"
            return [f"{target.removeprefix('en-')} {text}" for text in texts]

    for source in (file, str(file), dl.ParallelTable(table), Rephrases()):
        found = dl.paraphrased(data, source, 2)
        assert found.languages == ("en", "fr", "en-1", "en-2")
        assert found.texts("en-2") == table["en-2"]
        assert found.sentences["en-1"][1] == [f"1 {text}" for text in data.sentences["en"][1]]
    with pytest.raises(MissingTranslationError, match="no language 'en-3'"):
        dl.paraphrased(data, file, 3)
    with pytest.raises(MissingTranslationError, match="no rendering in 'en-1' of"):
        dl.paraphrased(dl.load_data("demo").head(3), file, 1)


def test_the_demo_set_s_are_taken_where_they_know_every_text_and_only_there():
    assert source_for(TEXTS["en"][:5]).name.startswith("demo set ")
    assert source_for([*TEXTS["en"][:5], "A cow."]) is None
    with pytest.raises(InputError, match="paraphrases must be 'demo', a file"):
        source_of(7)
    with pytest.raises(DataError, match="no file or folder"):
        source_of("demo2")
    with pytest.raises(InputError, match="n must be a whole number of at least 1"):
        dl.paraphrased(dl.load_data("demo").head(2), n=0)


def test_a_study_takes_them_as_languages(tiny_lens, tmp_path):
    store = dl.VectorStore(tmp_path / "v.sqlite")
    codes = ["en", "en-1", "en-2"]
    study = dl.Study(tiny_lens, "demo", languages=codes, settings="english", pairs=12, store=store)
    assert study.task_languages("demo") == codes
    x = study.vectors("demo")
    alone = dl.capture(tiny_lens, dl.wrap(TEXTS["en-2"][:1]), "attn")["attn"]
    assert x.shape[:2] == (24, 3)
    assert alone[0].allclose(x[0, 2], atol=1e-5)
    table = dl.m_sweep(study, k=6).table
    assert table["m"].max() == 3
    assert set(table["languages"].iloc[-1].split("/")) == set(codes)
    with pytest.raises(DataError, match=r"no test pairs in 'en-7'; looked for test\.en-7"):
        dl.Study(tiny_lens, "demo", languages=["en", "en-7"])


def test_dysem_reads_paraphrases_as_it_reads_languages(tiny_lens):
    data = dl.load_data("demo", languages=["en", "en-1"]).head(3)
    of_data = dl.DySem(tiny_lens, ["en", "en-1"], k=6)
    made = dl.DySem(tiny_lens, ["en", "en-1"], dl.ParallelTable.from_data(data), k=6)
    renderings = {code: data.texts(code) for code in data.languages}
    expected = of_data.encode_renderings(renderings, progress=False)
    found = made.encode(data.texts(), progress=False)
    assert found.vectors.equal(expected.vectors)
    assert found.sets.equal(expected.sets)
    one = dl.DySem(tiny_lens, ["en"], k=6)
    mean = [one.encode(texts, progress=False).vectors for texts in renderings.values()]
    assert found.vectors.allclose(sum(mean) / 2, atol=1e-6)


def test_m_languages_and_m_paraphrases_are_two_curves_of_one_figure(tiny_lens, tmp_path):
    of_study = {"pairs": 12, "settings": "english", "store": dl.VectorStore(tmp_path / "v.sqlite")}
    study = dl.Study(tiny_lens, "demo", languages=["en", "fr", "de"], **of_study)
    finding = dl.m_sweep(study, k=6, paraphrases="demo")
    parts = dict(list(finding.table.groupby("setting", sort=False)))
    alone = dl.Study(tiny_lens, "demo", languages=["en", *CODES], **of_study)
    for setting, other in (("english", study), ("paraphrases", alone)):
        expected = dl.m_sweep(other, k=6).table.assign(setting=setting)
        pd.testing.assert_frame_equal(parts[setting].reset_index(drop=True), expected)
    assert parts["paraphrases"]["m"].max() == 5
    assert {trace.name for trace in finding.figure.data} >= {
        "English prompts, mean",
        "paraphrases, mean",
    }
    assert "paraphrases, mean: " in finding.caption
    assert "m languages or paraphrases" in finding.figure.layout.title.text
    assert finding.facts.settings["paraphrases"].startswith("demo set ")
