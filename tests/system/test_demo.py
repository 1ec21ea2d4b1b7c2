"""The demo set in the package: coverage, alignment and the script of each language."""

import csv
import re
import statistics
import unicodedata
from collections import Counter

import pytest

from dysem_lab import paths
from dysem_lab.data.languages import LANGUAGES
from dysem_lab.data.sts import load_data
from tests.conftest import REPOSITORY

CODES = ["en", "zh", "fr", "de", "es", "ru", "ar", "ja", "ko", "it", "pt", "hi"]
TRANSLATIONS = CODES[1:]
FINAL = {
    **dict.fromkeys(CODES, ".?!"),
    "zh": "。？！",
    "ja": "。？！",
    "ar": ".؟!",
    "hi": "।?!",
}
QUESTION = {"zh": "？", "ja": "？", "ar": "؟"}
# Characters per English character: (least, middle from, middle to, most), by how dense scripts are.
RATIO = {
    **dict.fromkeys(("fr", "de", "es", "it", "pt"), (0.6, 0.95, 1.35, 2.0)),
    "ru": (0.5, 0.8, 1.25, 2.0),
    "ar": (0.4, 0.6, 1.0, 1.6),
    "hi": (0.5, 0.8, 1.25, 1.8),
    "ko": (0.25, 0.4, 0.7, 1.0),
    "ja": (0.2, 0.35, 0.6, 1.0),
    "zh": (0.15, 0.25, 0.45, 0.7),
}


def read_demo(code: str) -> list[dict[str, str]]:
    """Read a file of the demo set with the standard library, not with the package's loader."""
    file = paths.demo_dir() / f"test.{code}.csv"
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


ROWS = {code: read_demo(code) for code in CODES}
TEXTS = {
    code: [row[side] for side in ("sentence1", "sentence2") for row in rows]
    for code, rows in ROWS.items()
}


def numbers(text: str) -> list[int]:
    """Return the numbers written in digits, whatever the digits and thousands separators are."""
    joined = re.sub(r"(?<=\d)[.,'\s\u00a0\u202f](?=\d{3}(?!\d))", "", text)
    return sorted(int(digits) for digits in re.findall(r"\d+", joined))


def test_there_is_one_file_for_each_language_of_the_paper_and_each_paraphrase():
    files = {path.name for path in paths.demo_dir().iterdir() if path.suffix == ".csv"}
    rephrased = {f"test.en-{i}.csv" for i in (1, 2, 3, 4)}  # see tests/system/test_paraphrases.py
    assert files == {f"test.{code}.csv" for code in CODES} | rephrased
    assert set(LANGUAGES) == set(CODES)


def test_there_are_enough_pairs_and_every_level_of_the_scale_is_filled():
    assert len(ROWS["en"]) >= 120
    levels = Counter(float(row["score"]) for row in ROWS["en"])
    assert sorted(levels) == [level / 2 for level in range(11)]
    assert min(levels.values()) >= 5


def test_every_phenomenon_is_covered():
    phenomena = Counter(row["subset"].partition("/")[0] for row in ROWS["en"])
    wanted = {"paraphrase", "negation", "role-reversal", "number", "word-sense", "unrelated"}
    assert wanted <= set(phenomena)
    assert min(phenomena[name] for name in wanted) >= 5


def test_unrelated_and_word_sense_pairs_score_low_and_paraphrases_high():
    scores: dict[str, list[float]] = {}
    for row in ROWS["en"]:
        scores.setdefault(row["subset"].partition("/")[0], []).append(float(row["score"]))
    assert max(scores["unrelated"]) <= 1
    assert max(scores["word-sense"]) <= 1
    assert min(scores["paraphrase"]) >= 4


@pytest.mark.parametrize("code", TRANSLATIONS)
def test_scores_and_subsets_are_those_of_english_row_by_row(code):
    keys = [(row["score"], row["subset"]) for row in ROWS[code]]
    assert keys == [(row["score"], row["subset"]) for row in ROWS["en"]]


def test_all_twelve_languages_load_together_and_complete():
    data = load_data("demo", languages=CODES)
    assert data.languages == tuple(CODES)
    assert data.n_dropped == 0
    assert "demo" in data.source
    for code in CODES:
        assert data.texts(code) == TEXTS[code]


@pytest.mark.parametrize("code", CODES)
def test_letters_are_of_the_language_s_script(code):
    prefixes = tuple(LANGUAGES[code].script.split())
    assert prefixes
    letters = [letter for text in TEXTS[code] for letter in text if letter.isalpha()]
    strange = Counter(
        letter for letter in letters if not unicodedata.name(letter).startswith(prefixes)
    )
    assert strange.total() <= 0.1 * len(letters), strange
    for text in TEXTS[code]:
        own = [unicodedata.name(letter).startswith(prefixes) for letter in text if letter.isalpha()]
        assert sum(own) >= 0.5 * len(own), text


def test_japanese_has_kana_and_chinese_has_none():
    def kana(text):
        return any(unicodedata.name(char, "").startswith(("HIRAGANA", "KATAKANA")) for char in text)

    assert all(map(kana, TEXTS["ja"]))
    assert not any(map(kana, TEXTS["zh"]))


@pytest.mark.parametrize("code", TRANSLATIONS)
def test_lengths_against_english_are_plausible_for_the_script(code):
    least, middle_from, middle_to, most = RATIO[code]
    pairs = list(zip(TEXTS[code], TEXTS["en"], strict=True))
    ratios = [len(text) / len(english) for text, english in pairs]
    strange = [pair for pair, r in zip(pairs, ratios, strict=True) if not least <= r <= most]
    assert not strange
    assert middle_from <= statistics.median(ratios) <= middle_to


@pytest.mark.parametrize("code", CODES)
def test_no_sentence_occurs_twice_in_a_language(code):
    assert [text for text, n in Counter(TEXTS[code]).items() if n > 1] == []


def test_no_sentence_is_shared_between_languages():
    owners: dict[str, set[str]] = {}
    for code, texts in TEXTS.items():
        for text in texts:
            owners.setdefault(text.casefold(), set()).add(code)
    assert {text: codes for text, codes in owners.items() if len(codes) > 1} == {}


@pytest.mark.parametrize("code", CODES)
def test_sentences_are_clean(code):
    for text in TEXTS[code]:
        assert text == text.strip()
        assert text == unicodedata.normalize("NFC", text)
        assert '"' not in text
        assert "  " not in text
        # Line breaks, control and invisible characters: Cc, Cf, Zl, Zp.
        assert not [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")], text
        assert "\ufffd" not in text


@pytest.mark.parametrize("code", CODES)
def test_sentences_end_in_the_language_s_full_stop_or_question_mark(code):
    assert [text for text in TEXTS[code] if text[-1] not in FINAL[code]] == []


@pytest.mark.parametrize("code", TRANSLATIONS)
def test_questions_are_questions_in_every_language(code):
    mark = QUESTION.get(code, "?")
    asked = [text.endswith(mark) for text in TEXTS[code]]
    assert asked == [text.endswith("?") for text in TEXTS["en"]]


@pytest.mark.parametrize("code", TRANSLATIONS)
def test_numbers_in_digits_are_kept(code):
    # Korean writes months in digits and some languages write numbers out: compare where both have
    # digits.
    both = [
        (english, text)
        for english, text in zip(TEXTS["en"], TEXTS[code], strict=True)
        if numbers(english) and numbers(text)
    ]
    assert len(both) >= 5
    assert [pair for pair in both if numbers(pair[0]) != numbers(pair[1])] == []


def test_a_pair_that_differs_in_english_differs_in_every_language():
    for code, rows in ROWS.items():
        assert [row for row in rows if row["sentence1"] == row["sentence2"]] == [], code


def test_chinese_is_simplified():
    # GB 2312 has the simplified characters only.
    assert [
        text for text in TEXTS["zh"] if text.encode("gb2312", "ignore").decode("gb2312") != text
    ] == []


def test_each_language_in_latin_script_is_the_one_its_file_says():
    words = {
        "en": {"the", "was", "of", "is", "to", "and"},
        "fr": {"le", "les", "est", "une", "dans", "et"},
        "de": {"der", "die", "das", "und", "ist", "ein"},
        "es": {"el", "los", "las", "una", "en", "y"},
        "it": {"il", "di", "è", "che", "gli", "della"},
        "pt": {"o", "os", "do", "da", "uma", "não"},
    }
    for code in words:
        found = Counter(re.findall(r"\w+", " ".join(TEXTS[code]).lower()))
        votes = {name: sum(found[word] for word in common) for name, common in words.items()}
        assert max(votes, key=votes.get) == code, votes
        assert votes[code] > 2 * sorted(votes.values())[-2], votes


def test_the_data_card_says_how_the_scores_are_spread_and_what_pairs_show():
    rows = ROWS["en"]
    assert set(Counter(row["score"] for row in rows).values()) == {12}
    topics = Counter(row["subset"].partition("/")[2] for row in rows)
    card = (REPOSITORY / "docs" / "guide" / "demo.md").read_text(encoding="utf-8")
    assert f"eleven pairs each: {', '.join(sorted(topics))} |" in card
    assert set(topics.values()) == {11}
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row["subset"].partition("/")[0], []).append(float(row["score"]))
    said = re.findall(r"^\| ([\w-]+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", card, re.M)
    assert {name: tuple(map(float, values)) for name, *values in said} == {
        name: (len(of), min(of), statistics.median(of), max(of)) for name, of in scores.items()
    }


def test_wherever_the_demo_set_is_shown_it_says_whose_scores_it_has():
    data = load_data("demo").head(3)
    for shown in (data.source, repr(data), data._repr_html_()):
        assert "scores assigned by its writers" in shown
