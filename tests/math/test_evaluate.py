"""Spearman and its aggregations against scipy, intervals and differences against naive loops."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr

from dysem_lab.errors import InputError
from dysem_lab.evaluate import (
    aggregate_score,
    average_difference,
    average_score,
    mean_with_interval,
    paired_difference,
    score,
    score_table,
    spearman,
    wilson_interval,
)

quick = settings(deadline=None, max_examples=100)
# Of 201 values the 2.5 % and 97.5 % points are the sixth from either end, nothing in between.
N_RESAMPLES = 201
COLUMNS = ["spearman", "low", "high", "n_dims", "n_pairs", "n_undefined"]


def ordinary_data(n_pairs, noise=1.0, seed=0):
    """Return similarities and ratings with ties in both, as STS has them."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=n_pairs)
    similarity = np.round(truth + noise * generator.normal(size=n_pairs), 1)
    gold = np.clip(np.round(2.5 + truth, 0), 0, 5)
    return similarity, gold


def naive_spearman(x, y):
    return 100 * spearmanr(x, y).statistic


def naive_resamples(n_pairs, seed, n_resamples=N_RESAMPLES):
    return np.random.default_rng(seed).integers(0, n_pairs, size=(n_resamples, n_pairs))


# --- spearman


def test_spearman_by_hand():
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 30.0])) == 100.0
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([5.0, 0.0, -5.0])) == -100.0
    # Squared rank differences 0, 1, 1, 0 of four: 1 - 6 * 2 / (4 * 15) = 0.8.
    found = spearman(np.array([0.1, 0.2, 0.3, 0.4]), np.array([1.0, 3.0, 2.0, 5.0]))
    assert found == pytest.approx(80.0)
    # Ranks 1.5, 1.5, 3 and 1, 2, 3: 1.5 / sqrt(1.5 * 2).
    found = spearman(np.array([7.0, 7.0, 9.0]), np.array([1.0, 2.0, 3.0]))
    assert found == pytest.approx(100 * 1.5 / np.sqrt(3))


@quick
@given(st.integers(3, 12), st.data())
def test_spearman_agrees_with_scipy_where_there_are_ties(n_pairs, data):
    x, y = (
        data.draw(
            arrays(np.float64, n_pairs, elements=st.integers(-2, 2)).filter(
                lambda values: len(set(values)) > 1
            )
        )
        for _ in range(2)
    )
    assert spearman(x, y) == pytest.approx(naive_spearman(x, y), abs=1e-9)
    assert spearman(x, y) == pytest.approx(spearman(y, x), abs=1e-9)


@pytest.mark.parametrize("n_pairs", [3, 50, 1379])
def test_spearman_agrees_with_scipy_on_ordinary_data(n_pairs):
    similarity, gold = ordinary_data(n_pairs, seed=n_pairs)
    assert spearman(similarity, gold) == pytest.approx(naive_spearman(similarity, gold), abs=1e-9)


def test_spearman_sees_the_order_only():
    similarity, gold = ordinary_data(80)
    assert spearman(np.exp(similarity), gold) == spearman(similarity, gold)
    assert spearman(similarity, 5 - gold) == pytest.approx(-spearman(similarity, gold), abs=1e-9)


def test_spearman_leaves_undefined_pairs_out():
    similarity, gold = ordinary_data(40)
    kept = np.arange(40) % 7 != 0
    with_holes = np.where(kept, similarity, np.nan)
    expected = naive_spearman(similarity[kept], gold[kept])
    assert spearman(with_holes, gold) == pytest.approx(expected, abs=1e-9)
    assert expected != pytest.approx(naive_spearman(similarity, gold), abs=1e-3)


@pytest.mark.parametrize(
    ("similarity", "gold", "pairs", "distinct"),
    [
        ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], 3, 1),
        ([1.0, 2.0, 3.0], [4.0, 4.0, 4.0], 3, 3),
        ([1.0, np.nan, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0], 3, 1),
        ([1.0, 2.0], [1.0, 2.0], 2, 2),
        ([1.0, np.nan, 2.0], [1.0, 2.0, 3.0], 2, 2),
        ([np.nan, np.nan, np.nan], [1.0, 2.0, 3.0], 0, 0),
        ([], [], 0, 0),
    ],
)
def test_spearman_without_a_value_is_nan_with_a_warning(similarity, gold, pairs, distinct):
    with pytest.warns(UserWarning, match=f"undefined: {pairs} pairs, {distinct} distinct"):
        assert np.isnan(spearman(np.array(similarity), np.array(gold)))


def test_spearman_with_a_value_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spearman(np.array([1.0, 2.0, 2.0]), np.array([1.0, 1.0, 2.0]))


@pytest.mark.parametrize("function", [spearman, score])
def test_bad_ratings_are_refused(function):
    similarity = np.array([0.1, np.nan, 0.3])
    with pytest.raises(InputError, match="gold rating 2 is NaN"):
        function(similarity, np.array([1.0, 2.0, np.nan]))
    # Also where the pair would be left out anyway: a missing rating is an error of the data.
    with pytest.raises(InputError, match="gold rating 1 is NaN"):
        function(similarity, np.array([1.0, np.nan, 3.0]))
    with pytest.raises(InputError, match=r"similarity has shape \(3,\), gold \(2,\)"):
        function(similarity, np.array([1.0, 2.0]))
    with pytest.raises(InputError, match=r"similarity has shape \(3, 1\)"):
        function(similarity[:, None], np.ones((3, 1)))
    with pytest.raises(InputError, match=r"similarity has shape \(3, 1\), gold \(3,\)"):
        function(similarity[:, None], np.ones(3))


FOUR = np.arange(4.0)


@pytest.mark.parametrize(
    "values",
    [
        torch.arange(4),
        torch.arange(4.0, dtype=torch.bfloat16),
        torch.arange(4.0, dtype=torch.float16),
        torch.arange(4.0, requires_grad=True),
        np.arange(4, dtype=np.uint8),
        np.arange(4.0, dtype=np.longdouble),
        pd.Series([0, 1, 2, 3], index=[3, 2, 1, 0]),
        [0, 1.0, 2, 3],
        (0, 1, 2, 3),
    ],
    ids=lambda values: f"{type(values).__name__} {getattr(values, 'dtype', '')}",
)
def test_numbers_of_every_kind_are_scored_alike(values):
    gold = np.array([0.0, 2.0, 1.0, 3.0])
    expected = score(FOUR, gold, n_resamples=20)
    assert score(values, gold, n_resamples=20) == expected
    assert score(gold, values, n_resamples=20) == score(gold, FOUR, n_resamples=20)
    assert spearman(values, gold) == expected["spearman"] == 80.0
    assert paired_difference(values, FOUR, gold, n_resamples=20)["difference"] == 0
    assert average_score([(values, gold)], n_resamples=20)["spearman"] == 80.0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (FOUR > 1, "must be real numbers, one per pair, got bool"),
        (torch.arange(4) > 1, "got bool"),
        (FOUR + 1j, "got complex128"),
        (np.array(["0", "1", "2", "3"]), "got <U1"),
        (["0", "1", "2", "3"], "got <U1"),
        (np.array([0, 1, 2, None]), "got object"),
        (np.ma.masked_equal(FOUR, 2), "is a masked array"),
        (np.array(["2020-01-01"] * 4, dtype="datetime64[D]"), "got datetime64"),
        ("0123", "got <U4"),
        ({0: 1.0}, "got object"),
        (None, "got object"),
        ([0.0, [1.0], 2.0, 3.0], "must be numbers in a list or an array"),
        (torch.arange(4.0).to_sparse(), "must be numbers in a list or an array"),
        (torch.arange(4.0).to("meta"), "must be numbers in a list or an array"),
        (0.5, r"\(\)"),
        (FOUR[:, None], r"\(4, 1\)"),
        (FOUR[:3], r"3"),
        ([], r"0"),
        ([0, 1, 2, np.inf], "3 is infinite"),
        ([0, -np.inf, 2, 3], "1 is infinite"),
        ([10**400, 1, 2, 3], "must be real numbers, one per pair"),
    ],
    ids=lambda value: f"{value!r:.40}",
)
def test_what_is_no_row_of_real_numbers_is_refused(values, words):
    for call in (
        lambda: spearman(values, FOUR),
        lambda: score(values, FOUR),
        lambda: score_table({"a": values}, FOUR),
        lambda: paired_difference(values, FOUR, FOUR),
        lambda: paired_difference(FOUR, values, FOUR),
        lambda: average_score([(values, FOUR)]),
        lambda: average_difference([(FOUR, values, FOUR)]),
        lambda: aggregate_score(values, FOUR, ["a"] * 4, "mean"),
    ):
        with pytest.raises(InputError, match=f"similarity.*{words}|the same pairs"):
            call()
    for function in (spearman, score):
        with pytest.raises(InputError, match="gold"):
            function(FOUR, values)


@pytest.mark.parametrize("bad", [0, -1, True, 1.5, None, "10", 1e3])
def test_a_number_of_resamples_is_a_whole_number_from_1(bad):
    for call in (
        lambda: score(FOUR, FOUR, n_resamples=bad),
        lambda: paired_difference(FOUR, FOUR, FOUR, n_resamples=bad),
        lambda: average_score([(FOUR, FOUR)], n_resamples=bad),
        lambda: average_difference([(FOUR, FOUR, FOUR)], n_resamples=bad),
        lambda: aggregate_score(FOUR, FOUR, ["a"] * 4, "mean", n_resamples=bad),
    ):
        with pytest.raises(InputError, match="n_resamples must be a whole number of at least 1"):
            call()


@pytest.mark.parametrize("many", [10**9, 10**30])
def test_more_resamples_than_fit_into_memory_are_refused(many):
    for call in (
        lambda: score(FOUR, FOUR, n_resamples=many),
        lambda: paired_difference(FOUR, FOUR, FOUR, n_resamples=many),
        lambda: average_score([(FOUR, FOUR)], n_resamples=many),
        lambda: average_difference([(FOUR, FOUR, FOUR)], n_resamples=many),
    ):
        with pytest.raises(InputError, match=f"n_resamples={many} of 4 pairs .* use 67108864 at"):
            call()


@pytest.mark.parametrize("bad", [-1, None, 0.0, True, "0", [0]])
def test_a_seed_is_a_whole_number_from_0(bad):
    for call in (
        lambda: score(FOUR, FOUR, seed=bad),
        lambda: score_table({"a": FOUR}, FOUR, seed=bad),
        lambda: paired_difference(FOUR, FOUR, FOUR, seed=bad),
        lambda: average_score([(FOUR, FOUR)], seed=bad),
        lambda: average_difference([(FOUR, FOUR, FOUR)], seed=bad),
    ):
        with pytest.raises(InputError, match="seed must be a whole number of at least 0"):
            call()


def test_numbers_of_numpy_are_numbers_of_resamples_and_seeds():
    plain = score(FOUR, FOUR[::-1], n_resamples=30, seed=3)
    assert score(FOUR, FOUR[::-1], n_resamples=np.int64(30), seed=np.int64(3)) == plain


@pytest.mark.parametrize("n_dims", ["a", True, [1.0, 2.0], 1j])
def test_the_number_of_dimensions_is_a_number(n_dims):
    with pytest.raises(InputError, match="n_dims must be a number"):
        score(FOUR, FOUR, n_dims)
    with pytest.raises(InputError, match="n_dims must be a number"):
        average_score([(FOUR, FOUR)], n_dims)


def test_one_resample_without_a_correlation_has_no_interval():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seed = next(s for s in range(99) if len(set(naive_resamples(3, s, 1)[0])) == 1)
        found = score(FOUR[:3], FOUR[:3], n_resamples=1, seed=seed)
    assert found["spearman"] == 100
    assert np.isnan([found["low"], found["high"]]).all()


def test_no_pairs_have_no_score():
    none = np.array([])
    with pytest.warns(UserWarning, match="Spearman is undefined: 0 pairs"):
        assert score(none, none)["n_pairs"] == 0
    with pytest.warns(UserWarning, match="Spearman is undefined: 0 pairs"):
        assert np.isnan(average_difference([(none, none, none)])["low"])
    assert np.isnan(list(average_difference([]).values())).all()
    with pytest.raises(InputError, match="only 0 pairs are defined under both"):
        paired_difference(none, none, none)


@pytest.mark.parametrize(
    "weights", [[1.0], [1, 2, 3], [0, 0], [-1, 2], [1, np.nan], "ab", [[1, 2]]]
)
def test_weights_are_one_per_task_and_have_a_mean(weights):
    with pytest.raises(InputError, match="weights"):
        average_score([(FOUR, FOUR), (FOUR, FOUR)], weights=weights)


@pytest.mark.parametrize("tasks", [None, 3, "ab", [FOUR], [(FOUR,)], [(FOUR,) * 4], [None]])
def test_tasks_are_a_list_of_similarities_and_ratings(tasks):
    with pytest.raises(InputError, match=r"task.* must be .*\(similarities"):
        average_score(tasks)
    with pytest.raises(InputError, match=r"task.* must be .*\(similarities of a"):
        average_difference(tasks)


def test_a_table_of_scores_needs_methods():
    with pytest.raises(InputError, match="similarities must map methods to values, got list"):
        score_table([FOUR], FOUR)
    with pytest.raises(InputError, match="n_dims must map methods to values, got float"):
        score_table({"a": FOUR}, FOUR, 3.0)


# --- score


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("noise", [0.3, 1.0, 5.0])
def test_the_interval_contains_the_score_on_ordinary_data(noise, seed):
    similarity, gold = ordinary_data(120, noise, seed)
    result = score(similarity, gold, n_resamples=300)
    assert result["spearman"] == pytest.approx(naive_spearman(similarity, gold), abs=1e-9)
    assert -100 <= result["low"] < result["spearman"] < result["high"] <= 100


@pytest.mark.parametrize("seed", [0, 1, 17])
def test_the_interval_agrees_with_a_naive_bootstrap(seed):
    similarity, gold = ordinary_data(40, seed=seed)
    values = sorted(
        naive_spearman(similarity[rows], gold[rows]) for rows in naive_resamples(40, seed)
    )
    result = score(similarity, gold, seed=seed, n_resamples=N_RESAMPLES)
    assert result["low"] == pytest.approx(values[5], abs=1e-6)
    assert result["high"] == pytest.approx(values[-6], abs=1e-6)


def test_resamples_of_undefined_correlation_are_left_out_of_the_interval():
    # Two ratings among four pairs: one resample in eight or so has a constant side.
    similarity, gold = np.array([0.1, 0.4, 0.2, 0.3]), np.array([0.0, 1.0, 0.0, 1.0])
    values = [
        naive_spearman(similarity[rows], gold[rows])
        for rows in naive_resamples(4, 3, 400)
        if len(set(rows)) > 1 and len(set(gold[rows])) > 1
    ]
    assert len(values) < 400
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = score(similarity, gold, seed=3, n_resamples=400)
    low, high = np.quantile(values, [0.025, 0.975])
    assert result["low"] == pytest.approx(low, abs=1e-6)
    assert result["high"] == pytest.approx(high, abs=1e-6)


def test_the_interval_agrees_with_a_naive_bootstrap_of_data_too_large_to_rank_at_once():
    # 801 resamples of 2,500 pairs go in two uneven chunks; the percentiles are 20 from either end.
    similarity, gold = ordinary_data(2500)
    values = sorted(
        naive_spearman(similarity[rows], gold[rows]) for rows in naive_resamples(2500, 0, 801)
    )
    result = score(similarity, gold, n_resamples=801)
    assert result["low"] == pytest.approx(values[20], abs=1e-6)
    assert result["high"] == pytest.approx(values[-21], abs=1e-6)


def test_the_default_is_a_thousand_resamples():
    similarity, gold = ordinary_data(30)
    values = [naive_spearman(similarity[rows], gold[rows]) for rows in naive_resamples(30, 0, 1000)]
    low, high = np.quantile(values, [0.025, 0.975])
    result = score(similarity, gold)
    assert (result["low"], result["high"]) == (pytest.approx(low), pytest.approx(high))


def test_the_interval_depends_on_the_seed_only():
    similarity, gold = ordinary_data(60)
    np.random.seed(1)  # noqa: NPY002 (that the global generator has no say is the point)
    first = score(similarity, gold, seed=5)
    np.random.seed(2)  # noqa: NPY002
    assert score(similarity, gold, seed=5) == pytest.approx(first, nan_ok=True, abs=0)
    other = score(similarity, gold, seed=6)
    assert other["spearman"] == first["spearman"]
    assert (other["low"], other["high"]) != (first["low"], first["high"])


def test_sixteen_times_the_pairs_give_an_interval_of_about_a_quarter():
    def mean_width(n_pairs):
        results = [score(*ordinary_data(n_pairs, seed=seed), n_resamples=200) for seed in range(5)]
        return np.mean([result["high"] - result["low"] for result in results])

    assert mean_width(960) / mean_width(60) == pytest.approx(1 / 4, rel=0.25)


def test_score_counts_the_pairs():
    similarity, gold = ordinary_data(30)
    similarity[[3, 4, 29]] = np.nan
    result = score(similarity, gold, 219.5, n_resamples=50)
    assert list(result) == COLUMNS
    assert (result["n_pairs"], result["n_undefined"]) == (27, 3)
    assert result["n_dims"] == 219.5
    whole = score(*ordinary_data(30), 640, n_resamples=50)
    assert (whole["n_pairs"], whole["n_undefined"]) == (30, 0)
    assert whole["n_dims"] == 640.0
    assert isinstance(whole["n_dims"], float)
    assert np.isnan(score(*ordinary_data(30), n_resamples=50)["n_dims"])


def test_undefined_pairs_leave_the_score_of_the_others():
    similarity, gold = ordinary_data(30)
    kept = np.arange(30) % 4 != 1
    holes = score(np.where(kept, similarity, np.nan), gold, n_resamples=50)
    without = score(similarity[kept], gold[kept], n_resamples=50)
    assert [holes[name] for name in COLUMNS[:3]] == [without[name] for name in COLUMNS[:3]]


@pytest.mark.parametrize(
    ("similarity", "n_pairs", "n_undefined"),
    [
        ([0.5, 0.5, 0.5, 0.5], 4, 0),
        ([0.5, 0.6, np.nan, np.nan], 2, 2),
        ([np.nan] * 4, 0, 4),
    ],
)
def test_a_score_that_does_not_exist_has_no_interval(similarity, n_pairs, n_undefined):
    with pytest.warns(UserWarning, match="Spearman is undefined"):
        result = score(np.array(similarity), np.arange(4.0))
    assert np.isnan([result[name] for name in ("spearman", "low", "high")]).all()
    assert (result["n_pairs"], result["n_undefined"]) == (n_pairs, n_undefined)


def test_torch_and_numpy_are_alike():
    similarity, gold = ordinary_data(50)
    similarity = similarity.astype(np.float32)
    similarity[7] = np.nan
    expected = score(similarity, gold, 3, n_resamples=50)
    other = gold[::-1].copy()
    difference = paired_difference(similarity, other, gold, n_resamples=50)
    for kind in (torch.float32, torch.float64):
        tensors = torch.tensor(similarity, dtype=kind), torch.tensor(gold, dtype=kind)
        assert spearman(*tensors) == expected["spearman"]
        assert spearman(tensors[0], gold) == spearman(similarity, tensors[1])
        assert score(*tensors, 3, n_resamples=50) == expected
        found = paired_difference(tensors[0], torch.tensor(other), tensors[1], n_resamples=50)
        assert found == difference


# --- score_table


def test_score_table_has_a_row_per_method_in_the_order_given():
    similarity, gold = ordinary_data(60)
    methods = {"z": similarity, "a": -similarity, "m": torch.tensor(gold)}
    table = score_table(methods, gold, {"a": 640, "z": 219.5}, seed=3)
    assert list(table.columns) == ["method", *COLUMNS]
    assert list(table["method"]) == ["z", "a", "m"]
    assert table.index.tolist() == [0, 1, 2]
    np.testing.assert_allclose(table["n_dims"], [219.5, 640, np.nan])
    naive = naive_spearman(similarity, gold)
    np.testing.assert_allclose(table["spearman"], [naive, -naive, 100], atol=1e-9)
    for row, values in enumerate(methods.values()):
        expected = score(values, gold, seed=3)
        np.testing.assert_array_equal(
            table.loc[row, ["low", "high"]].tolist(), [expected["low"], expected["high"]]
        )


def test_score_table_counts_undefined_pairs_of_each_method():
    similarity, gold = ordinary_data(30)
    holes = similarity.copy()
    holes[:4] = np.nan
    table = score_table({"whole": similarity, "holes": holes}, gold)
    assert table["n_pairs"].tolist() == [30, 26]
    assert table["n_undefined"].tolist() == [0, 4]
    assert table["n_dims"].isna().all()


# --- paired_difference


def test_a_method_does_not_differ_from_itself():
    similarity, gold = ordinary_data(50)
    result = paired_difference(similarity, similarity.copy(), gold, n_resamples=100)
    assert result == {
        "difference": 0.0,
        "low": 0.0,
        "high": 0.0,
        "p": 1.0,
        "n_pairs": 50,
        "n_undefined": 0,
    }


def test_the_difference_is_positive_where_the_first_is_better():
    good, gold = ordinary_data(200, noise=0.2)
    bad = ordinary_data(200, noise=5)[0]
    result = paired_difference(good, bad, gold)
    assert 0 < result["low"] < result["difference"] < result["high"]
    assert result["p"] == 1 / 1000  # no resample on the other side: the least that can be said
    swapped = paired_difference(bad, good, gold)
    assert swapped["difference"] == -result["difference"]
    assert swapped["low"] == pytest.approx(-result["high"], abs=1e-9)
    assert swapped["high"] == pytest.approx(-result["low"], abs=1e-9)
    assert swapped["p"] == result["p"]


def naive_paired(a, b, gold, seed):
    """Return difference, low, high and p by a loop over resamples, each ranked by scipy."""
    values = []
    for rows in naive_resamples(len(gold), seed):
        values.append(naive_spearman(a[rows], gold[rows]) - naive_spearman(b[rows], gold[rows]))
    values.sort()
    below = sum(value <= 0 for value in values) / len(values)
    above = sum(value >= 0 for value in values) / len(values)
    p = min(1, max(1 / len(values), 2 * min(below, above)))
    difference = naive_spearman(a, gold) - naive_spearman(b, gold)
    return [difference, values[5], values[-6], p]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_paired_difference_agrees_with_a_naive_loop(seed):
    a, gold = ordinary_data(35, noise=1.0, seed=seed)
    b = a + np.random.default_rng(100 + seed).normal(size=35)
    expected = naive_paired(a, b, gold, seed)
    result = paired_difference(a, b, gold, seed=seed, n_resamples=N_RESAMPLES)
    found = [result[name] for name in ("difference", "low", "high", "p")]
    assert found == pytest.approx(expected, abs=1e-6)
    assert 1 / N_RESAMPLES < expected[3] < 1  # or the loop would not have tested p


def test_pairing_cancels_what_both_methods_share():
    a, gold = ordinary_data(150, noise=1.0)
    b = a + 0.3 * np.random.default_rng(5).normal(size=150)
    paired = paired_difference(a, b, gold)
    intervals = [score(values, gold) for values in (a, b)]
    unpaired = np.hypot(*(each["high"] - each["low"] for each in intervals))
    assert paired["high"] - paired["low"] < 0.7 * unpaired


def test_pairs_undefined_under_either_are_dropped_from_both():
    a, gold = ordinary_data(40)
    b = ordinary_data(40, noise=3)[0]
    a[[1, 2]] = np.nan
    b[[2, 30, 39]] = np.nan
    kept = [i for i in range(40) if i not in (1, 2, 30, 39)]
    result = paired_difference(a, b, gold, n_resamples=100)
    expected = paired_difference(a[kept], b[kept], gold[kept], n_resamples=100)
    assert (result.pop("n_pairs"), result.pop("n_undefined")) == (36, 4)
    assert (expected.pop("n_pairs"), expected.pop("n_undefined")) == (36, 0)
    assert result == expected
    naive = naive_spearman(a[kept], gold[kept]) - naive_spearman(b[kept], gold[kept])
    assert result["difference"] == pytest.approx(naive, abs=1e-9)


def test_the_paired_difference_depends_on_the_seed_only():
    a, gold = ordinary_data(40)
    b = ordinary_data(40, noise=3)[0]
    assert paired_difference(a, b, gold, seed=1) == paired_difference(a, b, gold, seed=1)
    assert paired_difference(a, b, gold, seed=1) != paired_difference(a, b, gold, seed=2)


def test_no_p_value_is_claimed_where_the_difference_does_not_exist():
    similarity, gold = ordinary_data(40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = paired_difference(similarity, np.zeros(40), gold, n_resamples=100)
    assert np.isnan([result["difference"], result["low"], result["high"]]).all()
    assert np.isnan(result["p"])


def test_resamples_of_undefined_correlation_do_not_lower_p():
    # Only pair 0 has another rating than the rest: a third of the resamples leave it out, or have
    # nothing else, and say nothing about either method.
    gold = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    a = np.array([0.9, 0.1, 0.5, 0.2, 0.95, 0.3])
    b = np.array([0.5, 0.1, 0.6, 0.2, 0.3, 0.7])
    values = []
    for rows in naive_resamples(6, 0):
        if len(set(gold[rows])) > 1 and len(set(a[rows])) > 1 and len(set(b[rows])) > 1:
            values.append(naive_spearman(a[rows], gold[rows]) - naive_spearman(b[rows], gold[rows]))
    assert len(values) < 0.8 * N_RESAMPLES
    below, above = (
        np.mean(side) for side in (np.less_equal(values, 0), np.greater_equal(values, 0))
    )
    result = paired_difference(a, b, gold, n_resamples=N_RESAMPLES)
    assert result["p"] == pytest.approx(2 * min(below, above), abs=1e-9)


def test_paired_difference_refuses_what_it_cannot_compare():
    four = np.arange(4.0)
    with pytest.raises(InputError, match="4 and 3 similarities: give both methods the same pairs"):
        paired_difference(four, four[:3], four)
    with pytest.raises(InputError, match=r"similarity has shape \(4,\), gold \(3,\)"):
        paired_difference(four, four, four[:3])
    with pytest.raises(InputError, match="gold rating 2 is NaN"):
        paired_difference(four, four, np.array([0.0, 1.0, np.nan, 3.0]))
    one_side = np.array([0.0, 1.0, np.nan, 3.0])
    other_side = np.array([np.nan, 1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="only 2 pairs are defined under both methods; need 3"):
        paired_difference(one_side, other_side, four)


# --- aggregate_score

MEANS = ["mean", "weighted"]


def three_subsets(seed=0, sizes=(12, 30, 21)):
    """Return similarities, ratings and the interleaved subsets of pairs, of unlike quality."""
    generator = np.random.default_rng(seed)
    names = generator.permutation(np.repeat(["news", "captions", "forum"], sizes))
    noise = np.select([names == "news", names == "captions"], [0.2, 1.0], 4.0)
    truth = generator.normal(size=len(names))
    similarity = np.round(truth + noise * generator.normal(size=len(names)), 1)
    return similarity, np.clip(np.round(2.5 + truth), 0, 5), names.tolist()


def test_aggregations_by_hand():
    # News: 100. Forum: squared rank differences 0, 1, 1, 0 of four, 80. The pairs of the two are
    # interleaved; all together have the ranks 1 2 3 4 5 6 7 and 5 1 6 3 7 2 4, whose squared
    # differences are 16, 1, 9, 1, 4, 16, 9.
    similarity = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    subset = ["news", "forum", "news", "forum", "news", "forum", "forum"]
    gold = np.array([3.0, 0.0, 4.0, 2.0, 5.0, 1.0, 2.5])
    found = {
        name: aggregate_score(similarity, gold, subset, name, n_resamples=20)["spearman"]
        for name in ("all", *MEANS)
    }
    assert found["mean"] == pytest.approx((100 + 80) / 2)
    assert found["weighted"] == pytest.approx((3 * 100 + 4 * 80) / 7)
    assert found["all"] == pytest.approx(100 * (1 - 6 * 56 / (7 * 48)))


def test_all_and_mean_may_be_of_opposite_sign():
    # Both subsets are in perfect order, but the one with higher ratings has lower similarities:
    # each rank differs by three, 1 - 6 * 54 / 210.
    similarity, gold = np.arange(6.0), np.array([3.0, 4.0, 5.0, 0.0, 1.0, 2.0])
    subset = ["a"] * 3 + ["b"] * 3
    values = [
        aggregate_score(similarity, gold, subset, name, n_resamples=20)["spearman"]
        for name in ("all", *MEANS)
    ]
    assert values == pytest.approx([100 * (1 - 324 / 210), 100, 100])


@quick
@given(st.integers(1, 4), st.data())
def test_aggregations_agree_with_scipy_whatever_the_order_of_the_pairs(n_subsets, data):
    names, x, y = [], [], []
    for name in range(n_subsets):
        size = data.draw(st.integers(3, 7))
        names += [f"s{name}"] * size
        for side in (x, y):
            values = arrays(np.float64, size, elements=st.integers(0, 3))
            side.extend(data.draw(values.filter(lambda a: len(set(a)) > 1)))
    names, x, y = np.array(names), np.array(x), np.array(y)
    parts = [names == name for name in dict.fromkeys(names.tolist())]
    each = [naive_spearman(x[part], y[part]) for part in parts]
    expected = {
        "all": naive_spearman(x, y),
        "mean": sum(each) / len(each),
        "weighted": sum(v * part.sum() for v, part in zip(each, parts, strict=True)) / len(x),
    }
    order = data.draw(st.permutations(range(len(x))))
    for name, value in expected.items():
        for rows in (list(range(len(x))), order):
            result = aggregate_score(x[rows], y[rows], names[rows].tolist(), name, n_resamples=40)
            assert result["spearman"] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("aggregation", MEANS)
def test_one_subset_is_all_of_it(aggregation):
    similarity, gold = ordinary_data(60)
    similarity[5] = np.nan
    one = ["TEST"] * 60
    whole = aggregate_score(similarity, gold, one, "all", 64, seed=2)
    result = aggregate_score(similarity, gold, one, aggregation, 64, seed=2)
    assert result.pop("aggregation") == aggregation
    assert whole.pop("aggregation") == "all"
    assert result == pytest.approx(whole, abs=1e-9)
    assert whole == score(similarity, gold, 64, seed=2)


def test_subsets_of_one_size_make_the_weighted_mean_the_plain_one():
    similarity, gold, subset = three_subsets(sizes=(20, 20, 20))
    plain, weighted = (aggregate_score(similarity, gold, subset, name) for name in MEANS)
    for column in COLUMNS[:3]:
        assert plain[column] == pytest.approx(weighted[column], abs=1e-9)


@pytest.mark.parametrize("aggregation", MEANS)
@pytest.mark.parametrize("seed", [0, 3])
def test_the_interval_of_a_mean_resamples_each_subset_by_itself(aggregation, seed):
    similarity, gold, subset = three_subsets(seed)
    names = np.array(subset)
    resampled = []
    for i, name in enumerate(sorted(set(subset))):
        x, y = similarity[names == name], gold[names == name]
        values = [naive_spearman(x[rows], y[rows]) for rows in naive_resamples(len(x), seed)]
        values = np.array(values)[np.random.default_rng([seed, i]).permutation(N_RESAMPLES)]
        resampled.append(values * (len(x) / len(names) if aggregation == "weighted" else 1 / 3))
    values = np.sort(np.sum(resampled, axis=0))
    result = aggregate_score(
        similarity, gold, subset, aggregation, seed=seed, n_resamples=N_RESAMPLES
    )
    assert result["low"] == pytest.approx(values[5], abs=1e-6)
    assert result["high"] == pytest.approx(values[-6], abs=1e-6)
    assert result["low"] < result["spearman"] < result["high"]


def test_how_the_subsets_are_interleaved_has_no_say_in_the_interval():
    similarity, gold, subset = three_subsets()
    names = np.array(subset)
    grouped = np.concatenate([np.flatnonzero(names == n) for n in ("news", "captions", "forum")])
    again = [subset[i] for i in grouped]
    for name in MEANS:
        first = aggregate_score(similarity, gold, subset, name, n_resamples=50)
        other = aggregate_score(similarity[grouped], gold[grouped], again, name, n_resamples=50)
        assert first == pytest.approx(other, nan_ok=True, abs=1e-9)


def test_the_row_says_which_aggregation_it_is_and_counts_the_pairs():
    similarity, gold, subset = three_subsets()
    similarity[[0, 7]] = np.nan
    for name in ("all", *MEANS):
        result = aggregate_score(similarity, gold, subset, name, 219.5, n_resamples=50)
        assert list(result) == [*COLUMNS, "aggregation"]
        assert (result["n_pairs"], result["n_undefined"]) == (61, 2)
        assert (result["n_dims"], result["aggregation"]) == (219.5, name)


def test_a_subset_weighs_what_it_has_in_pairs_whichever_of_them_are_undefined():
    # Or the weights, and with them the score, would be of each method's own making.
    similarity = np.array([0.1, 0.2, 0.3, np.nan, 0.3, 0.2, 0.1])
    gold, subset = np.array([1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0]), ["a"] * 4 + ["b"] * 3
    result = aggregate_score(similarity, gold, subset, "weighted", n_resamples=20)
    assert result["spearman"] == pytest.approx((4 * 100 - 3 * 100) / 7)


@pytest.mark.parametrize("aggregation", MEANS)
@pytest.mark.parametrize(
    ("similarity", "gold"),
    [
        ([0.3, 0.3, 0.3, 0.3], [1.0, 2.0, 3.0, 4.0]),
        ([0.1, 0.2, 0.3, 0.4], [2.0, 2.0, 2.0, 2.0]),
        ([0.1, 0.2, np.nan, np.nan], [1.0, 2.0, 3.0, 4.0]),
        ([np.nan] * 4, [1.0, 2.0, 3.0, 4.0]),
    ],
    ids=["constant similarity", "constant rating", "two pairs", "no pairs"],
)
def test_a_subset_without_a_correlation_is_named_and_never_left_out(aggregation, similarity, gold):
    good, good_gold, subset = three_subsets()
    x, y = np.concatenate([good, similarity]), np.concatenate([good_gold, gold])
    names = [*subset, *["FNWN"] * 4]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        result = aggregate_score(x, y, names, aggregation, n_resamples=50)
    (warning,) = said
    assert f"'{aggregation}' aggregation is undefined: subset FNWN has no" in str(warning.message)
    assert np.isnan([result[name] for name in ("spearman", "low", "high")]).all()
    n_undefined = int(np.isnan(similarity).sum())
    assert (result["n_pairs"], result["n_undefined"]) == (67 - n_undefined, n_undefined)
    # Over all pairs together there is a correlation.
    assert np.isfinite(aggregate_score(x, y, names, "all", n_resamples=50)["spearman"])


@pytest.mark.parametrize("aggregation", ["all", *MEANS])
def test_no_pairs_have_no_score_under_any_aggregation(aggregation):
    with pytest.warns(UserWarning, match="undefined: 0 pairs"):
        result = aggregate_score(np.array([]), np.array([]), [], aggregation)
    assert np.isnan(result["spearman"])
    assert result["aggregation"] == aggregation


def test_several_subsets_without_a_correlation_are_all_named():
    similarity, gold, subset = three_subsets()
    subset[0], subset[1] = "x", "y"
    with pytest.warns(UserWarning, match="subset x, y has no correlation"):
        aggregate_score(similarity, gold, subset, "mean", n_resamples=50)


def test_aggregations_of_torch_and_numpy_are_alike():
    similarity, gold, subset = three_subsets()
    similarity = similarity.astype(np.float32)
    for name in ("all", *MEANS):
        expected = aggregate_score(similarity, gold, subset, name, 3, n_resamples=50)
        tensors = torch.tensor(similarity), torch.tensor(gold)
        assert aggregate_score(*tensors, subset, name, 3, n_resamples=50) == expected


def test_bad_input_of_an_aggregation_is_refused():
    x, y, names = np.arange(4.0), np.arange(4.0), ["a", "a", "b", "b"]
    with pytest.raises(InputError, match=r"unknown aggregation 'wmean'.*: all, mean, weighted"):
        aggregate_score(x, y, names, "wmean")
    for unnamed in (None, [1, 2, 3, 4], ["a", "b", None, "b"], {"a", "b"}):
        with pytest.raises(InputError, match="subsets must be one or more strings in a list"):
            aggregate_score(x, y, unnamed, "mean")
    with pytest.raises(InputError, match="3 subsets for 4 pairs"):
        aggregate_score(x, y, names[:3], "all")
    with pytest.raises(InputError, match=r"similarity has shape \(3,\), gold \(4,\)"):
        aggregate_score(x[:3], y, names, "mean")
    with pytest.raises(InputError, match="gold rating 3 is NaN"):
        aggregate_score(x, np.array([0.0, 1.0, 2.0, np.nan]), names, "weighted")


@pytest.mark.parametrize("aggregation", MEANS)
def test_pairs_of_an_unknown_subset_are_not_taken_for_one_subset(aggregation):
    # Data without a 'subset' column, such as the hub's: a mean would be "all" without a word.
    similarity, gold = ordinary_data(30)
    with pytest.raises(
        InputError, match=rf"pair 0 has no subset, which '{aggregation}' needs.*all"
    ):
        aggregate_score(similarity, gold, [""] * 30, aggregation)
    with pytest.raises(InputError, match="pair 29 has no subset"):
        aggregate_score(similarity, gold, ["a"] * 29 + [""], aggregation)
    assert aggregate_score(similarity, gold, [""] * 30, "all")["n_pairs"] == 30


# --- average_score


def test_the_average_over_tasks_is_plain_unless_it_is_weighted():
    tasks = [ordinary_data(n, noise, seed=n) for n, noise in ((20, 0.3), (40, 1.0), (60, 4.0))]
    each = [naive_spearman(*task) for task in tasks]
    assert average_score(tasks)["spearman"] == pytest.approx(sum(each) / 3)
    weighted = average_score(tasks, weights=[1, 0, 3])
    assert weighted["spearman"] == pytest.approx((each[0] + 3 * each[2]) / 4)
    assert weighted["low"] < weighted["spearman"] < weighted["high"]


@pytest.mark.parametrize("bad", [[np.nan] * 3, [0.1, 0.2, np.nan], [0.5] * 3])
def test_an_average_with_a_task_without_a_score_is_nan_with_a_warning(bad):
    tasks = [ordinary_data(30), (np.array(bad), np.array([1.0, 2.0, 3.0]))]
    with pytest.warns(UserWarning, match="Spearman is undefined"):
        result = average_score(tasks, n_resamples=50)
    assert np.isnan([result[name] for name in ("spearman", "low", "high")]).all()
    assert result["n_pairs"] + result["n_undefined"] == 33


def test_the_average_over_no_task_is_undefined_whatever_the_weights():
    for weights in (None, []):
        assert np.isnan(average_score([], weights=weights)["spearman"])


# --- shares


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_bounds_are_where_a_test_of_the_proportion_just_rejects(case):
    correct, n = case
    low, high = wilson_interval(correct, n)
    assert 0 <= low <= correct / n + 1e-12
    assert correct / n - 1e-12 <= high <= 1
    for bound, end in ((low, 0), (high, n)):
        if correct == end:
            assert bound == pytest.approx(end / n, abs=1e-9)
        else:
            deviation = abs(correct / n - bound)
            assert deviation == pytest.approx(
                1.959964 * math.sqrt(bound * (1 - bound) / n), rel=1e-4
            )


def test_a_share_of_none_or_of_all_has_an_interval():
    none = mean_with_interval(np.zeros(66), within=(0, 1))
    assert (none["mean"], none["low"]) == (0, 0)
    assert none["high"] == pytest.approx(1.959964**2 / (66 + 1.959964**2))  # Wilson, by hand
    every = mean_with_interval(np.ones(66), within=(0, 1))
    assert (every["low"], every["high"]) == pytest.approx((1 - none["high"], 1))
    difference = mean_with_interval(np.zeros(66), within=(-1, 1))
    assert (difference["low"], difference["high"]) == pytest.approx((-none["high"], none["high"]))
    assert difference["p"] == 1
    several = np.array([0.0, 0, 1, 0])
    assert mean_with_interval(several, within=(0, 1)) == mean_with_interval(several)
    nothing = mean_with_interval(np.full(3, np.nan), within=(0, 1))
    assert all(map(np.isnan, nothing.values()))


def test_a_share_that_nobody_has_is_below_its_interval_s_end():
    """Of n texts none has a word: a share as high as the end would leave none in 1 of 40 draws."""
    for n in (12, 66, 500):
        high = mean_with_interval(np.zeros(n), within=(0, 1))["high"]
        assert 0.01 < (1 - high) ** n < 0.05
