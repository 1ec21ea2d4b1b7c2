"""Consensus sets (Eqs. 11-13): hand cases, a naive second implementation, laws, refusals."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dysem_lab.consensus import consensus_set, resolve_k, top_k
from dysem_lab.errors import DysemLabError, InputError

quick = settings(deadline=None, max_examples=100)


def small_integers(n_axes):
    """Draw vectors with many ties, zeros and negatives; three quarters of the values positive."""
    shapes = st.tuples(*[st.integers(1, 4)] * (n_axes - 1), st.integers(1, 9))
    return shapes.flatmap(lambda shape: arrays(np.int64, shape, elements=st.integers(-1, 3)))


def naive_set(vectors, k, keys=None):
    """Return S(x) as a set of indices, by Eqs. 11-13 in exact arithmetic."""
    m, d = len(vectors), len(vectors[0])
    consensus = [j for j in range(d) if all(vectors[i][j] > 0 for i in range(m))]
    if keys is None:
        keys = [Fraction(sum(int(vectors[i][j]) for i in range(m)), m) for j in range(d)]
    return set(sorted(consensus, key=lambda j: (-keys[j], j))[:k])


def indices(mask):
    assert mask.dtype == torch.bool
    assert mask.ndim == 1
    return {j for j, chosen in enumerate(mask.tolist()) if chosen}


def floats(array):
    return torch.tensor(np.asarray(array), dtype=torch.float32)


# Dimensions:        0    1     2    3    4    5
TWO_LANGUAGES = [[1.0, 5.0, -1.0, 2.0, 0.0, 3.0], [2.0, 1.0, 9.0, 2.0, 8.0, 4.0]]
# Dimension 2 is negative and 4 is zero in one language, so I = {0, 1, 3, 5};
# the means there are 1.5, 3, 2, 3.5.


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (1, {5}),
        (2, {1, 5}),
        (3, {1, 3, 5}),
        (4, {0, 1, 3, 5}),
        (5, {0, 1, 3, 5}),
        (6, {0, 1, 3, 5}),
        (1024, {0, 1, 3, 5}),
        (0.5, {1, 3, 5}),
        (1.0, {0, 1, 3, 5}),
    ],
)
def test_two_languages_by_hand(k, expected):
    assert indices(consensus_set(torch.tensor(TWO_LANGUAGES), k)) == expected


def test_the_mean_ranks_and_not_the_first_language_or_the_smallest_value():
    # Means 5.5, 4, 5: by the first language dimension 1 would win, by the minimum dimension 2.
    vectors = torch.tensor([[1.0, 7.0, 5.0], [10.0, 1.0, 5.0]])
    assert indices(consensus_set(vectors, 1)) == {0}


def test_a_dimension_outside_the_consensus_is_not_chosen_however_large_its_mean():
    vectors = torch.tensor([[1e6, 0.1], [-1e-3, 0.1]])
    assert indices(consensus_set(vectors, 1)) == {1}


def test_positive_is_strict_at_zero():
    smallest = torch.finfo(torch.float32).tiny
    vectors = torch.tensor([[0.0, -0.0, smallest, -smallest, 1.0], [1.0, 1.0, 1.0, 1.0, 0.0]])
    assert indices(consensus_set(vectors, 5)) == {2}


def test_equal_means_go_to_the_lower_index():
    vectors = torch.tensor([[1.0, 3.0, 2.0, 2.0, 4.0], [3.0, 1.0, 2.0, 2.0, 4.0]])
    assert indices(consensus_set(vectors, 1)) == {4}
    assert indices(consensus_set(vectors, 2)) == {4, 0}
    assert indices(consensus_set(vectors, 3)) == {4, 0, 1}
    assert indices(consensus_set(vectors, 4)) == {4, 0, 1, 2}


def test_equal_means_go_to_the_lower_index_in_a_wide_vector():
    # Sorting of many equal keys is where an unstable sort would show.
    allowed = torch.arange(4096) % 3 != 0
    chosen = consensus_set(torch.where(allowed, 1.0, -1.0).expand(4, 2, 4096), 1000)
    first_thousand = [j for j in range(4096) if j % 3 != 0][:1000]
    assert all(indices(row) == set(first_thousand) for row in chosen)


def test_no_shared_positive_dimension_gives_the_empty_set():
    vectors = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]])
    assert indices(consensus_set(vectors, 2)) == set()
    assert indices(consensus_set(torch.zeros(2, 3), 1.0)) == set()


def test_one_language_takes_its_own_positive_dimensions():
    assert indices(consensus_set(torch.tensor([[3.0, -4.0, 1.0, 2.0]]), 2)) == {0, 3}


def test_no_text_gives_no_rows():
    assert consensus_set(torch.zeros(0, 3, 5), 2).shape == (0, 5)


def test_rank_by_replaces_the_mean_but_not_the_consensus():
    vectors = torch.tensor(TWO_LANGUAGES)
    source = torch.tensor([9.0, 1.0, 99.0, 8.0, 99.0, -1.0])  # 2 and 4 are not in I
    assert indices(consensus_set(vectors, 1, rank_by=source)) == {0}
    assert indices(consensus_set(vectors, 2, rank_by=source)) == {0, 3}
    assert indices(consensus_set(vectors, 3, rank_by=source)) == {0, 1, 3}
    assert indices(consensus_set(vectors, 4, rank_by=source)) == {0, 1, 3, 5}


@quick
@given(small_integers(2), st.integers(1, 12))
def test_agrees_with_the_naive_implementation(vectors, k):
    assert indices(consensus_set(floats(vectors), k)) == naive_set(vectors, k)


@quick
@given(small_integers(2), st.integers(1, 12), st.data())
def test_agrees_with_the_naive_implementation_for_given_keys(vectors, k, data):
    keys = data.draw(arrays(np.int64, vectors.shape[1], elements=st.integers(-2, 2)))
    assert indices(consensus_set(floats(vectors), k, floats(keys))) == naive_set(vectors, k, keys)


def test_agrees_with_the_naive_implementation_at_the_width_of_a_real_model():
    vectors = np.random.default_rng(0).normal(0.5, 1, size=(3, 640)).astype(np.float32)
    keys = [Fraction(sum(Fraction(float(value)) for value in column), 3) for column in vectors.T]
    for k in (1, 50, 160, 640):
        assert indices(consensus_set(torch.tensor(vectors), k)) == naive_set(vectors, k, keys)


@quick
@given(small_integers(3), st.integers(1, 12), st.booleans(), st.data())
def test_each_text_of_a_batch_is_treated_alone(vectors, k, given_keys, data):
    keys = None
    if given_keys:
        shape = (len(vectors), vectors.shape[2])
        keys = floats(data.draw(arrays(np.int64, shape, elements=st.integers(-2, 2))))
    batch = consensus_set(floats(vectors), k, keys)
    assert batch.shape == (len(vectors), vectors.shape[2])
    for row, text in enumerate(vectors):
        alone = consensus_set(floats(text), k, None if keys is None else keys[row])
        assert torch.equal(batch[row], alone)


@quick
@given(small_integers(2), st.integers(1, 12))
def test_size_is_the_smaller_of_k_and_the_consensus(vectors, k):
    assert int(consensus_set(floats(vectors), k).sum()) == min(k, (vectors > 0).all(axis=0).sum())


@quick
@given(small_integers(2), st.integers(1, 12), st.integers(1, 12))
def test_smaller_k_and_more_languages_select_subsets(vectors, k1, k2):
    small, large = sorted((k1, k2))
    chosen, more = (indices(consensus_set(floats(vectors), k)) for k in (small, large))
    assert chosen <= more
    everything = vectors.shape[1]
    fewer_languages = indices(consensus_set(floats(vectors[:1]), everything))
    assert more <= indices(consensus_set(floats(vectors), everything)) <= fewer_languages


@quick
@given(small_integers(2), st.integers(1, 12), st.integers(-20, 20))
def test_scale_does_not_matter(vectors, k, exponent):
    # Powers of two scale without rounding, so ties stay ties.
    scaled = consensus_set(floats(vectors) * 2.0**exponent, k)
    assert torch.equal(scaled, consensus_set(floats(vectors), k))


@quick
@given(small_integers(2), st.integers(1, 12), st.randoms())
def test_order_of_the_languages_does_not_matter(vectors, k, random):
    order = random.sample(range(len(vectors)), len(vectors))
    shuffled = consensus_set(floats(vectors[order]), k)
    assert torch.equal(shuffled, consensus_set(floats(vectors), k))


def test_the_arguments_are_left_as_they_were():
    vectors, keys = torch.tensor(TWO_LANGUAGES), torch.arange(6.0)
    consensus_set(vectors, 2, keys)
    assert torch.equal(vectors, torch.tensor(TWO_LANGUAGES))
    assert torch.equal(keys, torch.arange(6.0))


def test_top_k_prefers_the_lower_index_and_never_takes_what_is_not_allowed():
    keys = torch.tensor([2.0, 7.0, 2.0, -5.0, 2.0])
    allowed = torch.tensor([True, False, True, True, True])
    assert indices(top_k(keys, allowed, 1)) == {0}
    assert indices(top_k(keys, allowed, 2)) == {0, 2}
    assert indices(top_k(keys, allowed, 3)) == {0, 2, 4}
    assert indices(top_k(keys, allowed, 4)) == {0, 2, 3, 4}
    assert indices(top_k(keys, allowed, 5)) == {0, 2, 3, 4}
    assert indices(top_k(keys, torch.zeros(5, dtype=torch.bool), 3)) == set()


@pytest.mark.parametrize(
    ("k", "d_model", "expected"),
    [
        (1, 640, 1),  # one dimension,
        (1.0, 640, 640),  # and all of them
        (1024, 4096, 1024),
        (0.25, 4096, 1024),
        (640, 640, 640),
        (641, 640, 640),
        (10**9, 640, 640),
        (0.5, 7, 4),  # 3.5 is nearest to both; half goes up
        (0.5, 5, 3),  # not to even
        (0.3, 10, 3),
        (0.34, 10, 3),
        (0.36, 10, 4),
        (0.999, 10, 10),
        (0.001, 10, 1),  # at least one
        (5e-324, 4096, 1),
        (1, 1, 1),
        (0.01, 1, 1),
    ],
)
def test_k_as_a_number_of_dimensions(k, d_model, expected):
    resolved = resolve_k(k, d_model)
    assert resolved == expected
    assert type(resolved) is int


@quick
@given(st.floats(0, 1, exclude_min=True), st.integers(1, 8192))
def test_a_fraction_is_the_nearest_whole_number_of_dimensions(k, d_model):
    resolved = resolve_k(k, d_model)
    assert 1 <= resolved <= d_model
    exact = Fraction(k) * d_model
    assert resolved == 1 or abs(resolved - exact) <= Fraction(1, 2) + Fraction(1, 10**9)


@pytest.mark.parametrize(
    "k", [0, -1, -1024, 0.0, -0.0, -0.25, 1.0000001, 1024.0, float("nan"), float("inf")]
)
def test_k_without_a_meaning_is_refused_with_what_would_have_one(k):
    message = rf"integer >= 1 or a fraction in \(0, 1\] of d=640, got {k!r}"
    with pytest.raises(InputError, match=message):
        resolve_k(k, 640)
    with pytest.raises(InputError, match=message):
        consensus_set(torch.ones(2, 640), k)


@pytest.mark.parametrize("k", [True, False, None, "3", [3], 1 + 0j])
def test_k_of_another_type_is_refused(k):
    with pytest.raises(InputError, match="k must be an int or a float, got ") as caught:
        resolve_k(k, 640)
    assert repr(k) in str(caught.value)


@pytest.mark.parametrize("shape", [(5,), (0, 5), (3, 0, 5), (2, 2, 2, 5)])
def test_vectors_of_a_wrong_shape_are_refused(shape):
    with pytest.raises(InputError, match=r"\[m, d\] or \[n, m, d\]") as caught:
        consensus_set(torch.ones(shape), 1)
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "key_shape", "needed"),
    [
        ((2, 5), (4,), (5,)),
        ((2, 5), (2, 5), (5,)),
        ((3, 2, 5), (5,), (3, 5)),
        ((3, 2, 5), (2, 5), (3, 5)),
        ((3, 2, 5), (3, 2, 5), (3, 5)),
    ],
)
def test_keys_of_a_wrong_shape_are_refused(shape, key_shape, needed):
    with pytest.raises(InputError, match="rank_by has shape") as caught:
        consensus_set(torch.ones(shape), 1, torch.ones(key_shape))
    for named in (shape, key_shape, needed):
        assert str(named) in str(caught.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(bad):
    vectors = torch.ones(4, 2, 5)
    vectors[2, 1, 3] = bad
    with pytest.raises(InputError, match=r"vectors has a NaN or infinite .*index 2\b"):
        consensus_set(vectors, 1, torch.ones(4, 5))
    with pytest.raises(InputError, match="NaN or infinite"):
        consensus_set(vectors, 1)
    keys = torch.ones(4, 5)
    keys[3, 0] = bad
    with pytest.raises(InputError, match=r"ranking keys has a NaN or infinite .*index 3\b"):
        consensus_set(torch.ones(4, 2, 5), 1, keys)


def test_a_bad_value_in_the_vectors_is_blamed_on_the_vectors():
    vectors = torch.ones(2, 5)
    vectors[1, 4] = float("nan")
    with pytest.raises(InputError, match=r"^vectors has a NaN"):
        consensus_set(vectors, 1)


def test_a_refusal_is_a_value_error_of_this_package():
    assert issubclass(InputError, DysemLabError)
    assert issubclass(InputError, ValueError)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_ranked_by_its_mean_in_float32(dtype):
    # In 16 bits the means of both dimensions are 1024, and the tie would go to the first.
    vectors = torch.tensor([[2048.0, 2048.0], [0.5, 1.0]], dtype=dtype)
    assert indices(consensus_set(vectors, 1)) == {1}
    assert indices(consensus_set(vectors, 1, torch.tensor([2.0, 1.0], dtype=dtype))) == {0}


def test_whole_numbers_and_arrays_have_consensus_sets():
    vectors = [[3, 1, 2], [1, 1, -2]]
    for same in (vectors, np.array(vectors), torch.tensor(vectors), np.array(vectors)[::-1]):
        assert indices(consensus_set(same, 1)) == {0}
