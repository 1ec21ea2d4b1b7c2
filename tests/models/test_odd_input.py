"""Odd containers and numbers that once gave a silent wrong number, or a traceback not of ours."""

import sqlite3
from typing import Any

import numpy as np
import pytest
import torch

from dysem_lab.consensus import consensus_set, vectors_of
from dysem_lab.data.sts import STSData, load_data
from dysem_lab.data.tables import read_table
from dysem_lab.errors import DataError, InputError
from dysem_lab.evaluate import average_score, spearman
from dysem_lab.inputs import checked, names_of
from dysem_lab.models.edits import contrast
from dysem_lab.models.steering import Contrast
from dysem_lab.translation.parallel_table import ParallelTable
from dysem_lab.translation.translation_cache import CachedTranslator


def _pairs(**changed: Any) -> STSData:
    whole: dict[str, Any] = {
        "gold": [1.0, 2.0, 3.0],
        "sentences": {"en": (["a", "b", "c"], ["d", "e", "f"])},
        "rows": [0, 1, 2],
    }
    return STSData(name="own", source="here", subset=["", "", ""], **{**whole, **changed})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"gold": np.ma.array([1.0, 2.0, 3.0], mask=[0, 1, 0])}, "masked"),
        ({"gold": torch.ones(3, requires_grad=True)}, "gold must be numbers"),
        ({"gold": torch.ones(3).bfloat16()}, "gold must be numbers"),
        ({"gold": [[1], [1, 2], 3]}, "gold must be numbers"),
        ({"rows": np.ma.array([0, 1, 2], mask=[0, 1, 0])}, "masked"),
        ({"rows": [[1], [1, 2], 3]}, "rows must be numbers"),
        ({"rows": np.array([2**63, 1, 2], np.uint64)}, "row 0 is beyond int64"),
        ({"sentences": {1: (["a"] * 3, ["b"] * 3)}}, "languages must be"),
    ],
)
def test_pairs_refuse_what_would_lose_a_mask_or_overflow(changed, said):
    with pytest.raises(InputError, match=said):
        _pairs(**changed)


@pytest.mark.parametrize(
    "index",
    [
        np.ma.array([0, 1], mask=[0, 1]),
        np.ma.array([True] * 132, mask=[True] * 132),
        [[1], [1, 2]],
        [True, False, 1],
        torch.ones(1, requires_grad=True),
        torch.ones(1).bfloat16(),
    ],
)
def test_select_refuses_masked_mixed_and_ragged_positions(index):
    with pytest.raises(InputError):
        load_data("demo").select(index)


@pytest.mark.parametrize("weights", [[1e308, 1e308], [1e-320, 1e-320]])
def test_weights_that_leave_the_range_of_floats_are_refused(weights):
    task = (np.arange(9.0), np.arange(9.0))
    with pytest.raises(InputError, match="weights must add up"):
        average_score([task, task], weights=weights, n_resamples=3)


def test_whole_numbers_that_would_tie_in_float64_are_refused():
    big = [2**60 + i for i in range(9)]
    with pytest.raises(InputError, match=r"beyond 2\*\*53"):
        spearman(big, np.arange(9.0))
    assert spearman([2**53 - i for i in range(9)], -np.arange(9.0)) == 100


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(3, 4, device="meta"),
        torch.nested.nested_tensor([torch.ones(4), torch.ones(4)]),
    ],
)
def test_tensors_without_values_or_a_shape_are_refused(tensor):
    for call in (lambda: vectors_of(tensor, "vectors"), lambda: consensus_set(tensor, 2)):
        with pytest.raises(InputError, match=r"dense|real numbers"):
            call()


class _Table:
    """A table that does not say how many axes it has, as those of polars do not."""

    columns = ("text", "other")

    def __iter__(self):
        return iter(self.columns)


def test_tables_of_other_libraries_are_not_the_names_of_their_columns():
    for read in (checked, names_of):
        with pytest.raises(InputError, match="_Table"):
            read(_Table())


class _Echo:
    def __init__(self, name: str = "echo") -> None:
        self.name = name

    def translate(self, texts, source, target):
        return [f"{target} {text}" for text in texts]


def test_half_surrogates_in_names_are_refused_before_anything_is_stored(tmp_path):
    with pytest.raises(InputError, match="surrogate"):
        CachedTranslator(_Echo("\ud800"), tmp_path / "a.sqlite")
    with pytest.raises(InputError, match="surrogate"):
        CachedTranslator(_Echo(), tmp_path / "a.sqlite").translate(["a"], "en", "\ud800")
    with pytest.raises(InputError, match="surrogate"):
        ParallelTable({"\ud800": ["a"], "fr": ["b"]})


def test_a_column_name_of_half_a_surrogate_pair_names_the_file(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"\\ud800": 1}\n')
    with pytest.raises(DataError, match=r"a\.jsonl: '\\ud800'"):
        read_table(tmp_path / "a.jsonl")


def test_a_rendering_that_has_become_null_is_made_again(tmp_path):
    path = tmp_path / "a.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE translations (translator, source, target, text, rendering, checksum, "
            "PRIMARY KEY (translator, source, target, text))"
        )
        connection.execute("INSERT INTO translations VALUES ('echo', 'en', 'fr', 'a', NULL, x'00')")
    connection.close()
    with pytest.warns(UserWarning, match="made again: 1 rendering in 'fr'"):
        assert CachedTranslator(_Echo(), path).translate(["a"], "en", "fr") == ["fr a"]


def test_a_contrast_of_another_kind_and_an_alpha_beyond_floats_are_refused(tiny_lens):
    for given in ({"layer": 1}, ["heads"], {}):
        with pytest.raises(InputError, match=r"contrast must be a dl\.Contrast"):
            contrast(tiny_lens, given)
    with pytest.raises(InputError, match="alpha must be a number"):
        Contrast(alpha=10**400)
