"""One rule for texts, names and whole numbers, whoever hands them over."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dysem_lab.data.languages import LANGUAGES
from dysem_lab.errors import InputError
from dysem_lab.inputs import (
    MOST_SEED,
    at_least,
    check_k,
    checked,
    different,
    has_words,
    index_of,
    names_of,
    path_of,
    seed_of,
    several,
    whole_number,
)

TEXTS = ["A dog sleeps.", "Ein Hund schläft."]


@pytest.mark.parametrize(
    "texts", [TEXTS, tuple(TEXTS), pd.Series(TEXTS), np.array(TEXTS), iter(TEXTS)], ids=type
)
def test_texts_come_in_any_ordered_list(texts):
    assert checked(texts) == TEXTS


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ("A dog.", r"give one as \['A dog.'\]"),
        (pd.DataFrame({"first": TEXTS}), "got DataFrame; give one of its columns: first"),
        ({"en": TEXTS}, "got dict; give one of its values"),
        (np.array([TEXTS, TEXTS]), r"of shape \(2, 2\); give one axis"),
        (np.array("A dog."), r"of shape \(\); give one axis"),
        (set(TEXTS), "got set; give a list, which has an order"),
        (b"A dog.", "got bytes"),
        (7, "got int"),
        (None, "got NoneType"),
        ([TEXTS], "text 0 is empty or not a string"),
        (["A dog.", None], "text 1 is empty or not a string: None"),
        (["A dog.", "\u200b"], "text 1 is empty"),
        (["A dog.", "half \ud83d"], r"text 1 holds '\\ud83d', half of a surrogate pair"),
    ],
)
def test_what_is_no_list_of_texts_is_refused_with_the_remedy(texts, words):
    with pytest.raises(InputError, match=words):
        checked(texts)


@pytest.mark.parametrize("text", ["a", "!", "7", "雨", "😀", "ไ", "\u200bа"])
def test_what_can_be_seen_counts_as_words(text):
    assert has_words(text)


@pytest.mark.parametrize(
    "text", ["", " \t", "\u200b", "\ufeff", "\u2060\u00a0", "\u3164", "\u0301"]
)
def test_what_nobody_sees_does_not(text):
    assert not has_words(text)


def test_a_string_is_one_name_and_never_its_letters():
    assert names_of("en") == ["en"]
    assert names_of(("en", "ja")) == ["en", "ja"]
    assert names_of(LANGUAGES) == list(LANGUAGES)
    for bad in (None, 3, {"en"}, ["en", 3], [["en"]]):
        with pytest.raises(InputError, match="names must be one or more strings"):
            names_of(bad)


def test_whole_numbers():
    assert [whole_number(value) for value in (3, np.int64(3), True, 3.0, "3")] == [3, 3] + [
        None
    ] * 3
    assert type(at_least(np.int64(3), 1, "k")) is int
    for bad in (0, -1, 1.5, True, "3", float("nan")):
        with pytest.raises(InputError, match="k must be a whole number of at least 1, got"):
            at_least(bad, 1, "k")


def test_seeds_are_those_that_every_library_takes():
    assert [type(seed_of(seed)) for seed in (0, np.uint32(MOST_SEED))] == [int, int]
    np.random.RandomState(MOST_SEED)
    for bad in (-1, 0.5, None, "0", True):
        with pytest.raises(InputError, match="seed must be a whole number of at least 0, got"):
            seed_of(bad)
    with pytest.raises(InputError, match=f"seed must be at most {MOST_SEED}, got {2**70}"):
        seed_of(2**70)


def test_k_is_a_number_of_dimensions_or_a_fraction_of_them():
    assert [check_k(k) for k in (1, np.int64(7), 1.0, np.float32(0.25))] == [1, 7, 1.0, 0.25]
    assert [type(check_k(k)) for k in (np.int64(7), np.float32(0.25))] == [int, float]
    for bad in (0, -1, 1.5, 0.0, float("nan")):
        with pytest.raises(InputError, match="k must be an integer >= 1 or a fraction in"):
            check_k(bad)
    for bad in (True, "4", None, [4]):
        with pytest.raises(InputError, match="k must be an int or a float, got"):
            check_k(bad)


def test_an_index_is_one_that_there_is():
    assert type(index_of(np.int64(2), 3, "layer")) is int
    for bad in (3, -1, 1.0, True, None):
        with pytest.raises(InputError, match="layer must be between 0 and 2 here, got"):
            index_of(bad, 3, "layer", " here")


def test_several_values_come_in_an_order_and_different_ones_once():
    assert several(np.array([2, 1]), "ks") == [2, 1]
    for bad in ([], "12", 1, {1}, None):
        with pytest.raises(InputError, match="ks must be one or more values in a list, got"):
            several(bad, "ks")
    assert different("en", "language") == ["en"]
    for bad in ([], ["en", "en"]):
        with pytest.raises(InputError, match="languages must be one or more different codes"):
            different(bad, "language")


def test_an_empty_path_is_not_the_current_folder():
    with pytest.raises(InputError, match=r"folder is an empty string; give a path, '.' for"):
        path_of("", "folder")
    assert path_of(".") == Path()
