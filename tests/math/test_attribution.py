"""A similarity as a sum of parts: hand-computed cases and properties."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dysem_lab.attribution import (
    Directions,
    by_dimension,
    norm_product,
    one_sided,
    shares_of_mean_cosine,
    towards_new_pairs,
    two_sided,
    without_largest,
)
from dysem_lab.errors import InputError
from dysem_lab.joint import joint_cosine


def test_hand_computed():
    # x = (3, 4, 9), y = (4, 3, -9), U = the first two: cos = (12 + 12) / 25.
    parts = torch.tensor([[3.0, 0, 9], [0, 4, 0]])
    x, y = parts.sum(0), torch.tensor([4.0, 3, -9])
    U = torch.tensor([True, True, False])
    assert norm_product(x, y, U) == 25
    assert one_sided(parts, x, y, U).tolist() == [12 / 25, 12 / 25]
    others = torch.tensor([[4.0, 0, 0], [0, 3, -9]])
    assert two_sided(parts, others, x, y, U).tolist() == [[12 / 25, 0], [0, 12 / 25]]
    assert by_dimension(x, y, U).tolist() == [12 / 25, 12 / 25, 0]


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 5), st.integers(1, 12))
def test_parts_add_up_to_the_cosine(seed, n_parts, n_others, d):
    torch.manual_seed(seed)
    # In float64: parts that nearly cancel leave the rounding of their float32 sum.
    parts, others = torch.randn(n_parts, d).double(), torch.randn(n_others, d).double()
    x, y = parts.sum(0), others.sum(0)
    U = torch.rand(d) < 0.7
    U[0] = True
    expected = joint_cosine(x[None], y[None], U[None]).item()
    assert one_sided(parts, x, y, U).sum().item() == pytest.approx(expected, abs=1e-5)
    matrix = two_sided(parts, others, x, y, U)
    assert matrix.sum().item() == pytest.approx(expected, abs=1e-5)
    assert torch.allclose(matrix.sum(1), one_sided(parts, x, y, U))
    assert by_dimension(x, y, U).sum().item() == pytest.approx(expected, abs=1e-5)


def test_no_similarity_is_refused():
    x, y, U = torch.tensor([0.0, 1]), torch.ones(2), torch.tensor([True, False])
    with pytest.raises(InputError, match="vector of x is zero on the joint set of 1 dimensions"):
        norm_product(x, y, U)
    with pytest.raises(InputError, match="vector of y is zero"):
        one_sided(y[None], y, x, U)
    with pytest.raises(InputError, match="joint set of 0 dimensions"):
        norm_product(y, y, torch.zeros(2, dtype=torch.bool))


@pytest.mark.parametrize("n", [3, 4, 10, 100])
@pytest.mark.parametrize("inside", [0, 1, 2])
def test_two_texts_of_a_corpus_get_the_covariance_of_new_ones(n, inside):
    """x − μ and y − μ as combinations of n independent texts, and of two others."""
    of_corpus = np.eye(n)[:2] - 1 / n
    delta = towards_new_pairs(n, inside)
    moved = (of_corpus + delta * of_corpus.sum(0)) @ (of_corpus + delta * of_corpus.sum(0)).T
    two = np.eye(n + 2)[[*range(inside), *range(n, n + 2 - inside)]]
    new = two - np.append(np.full(n, 1 / n), [0, 0])
    new = new @ new.T
    # One inside and one outside differ in their lengths; of two alike, all is the same.
    assert moved.mean() == pytest.approx(new.mean())
    assert np.trace(moved) == pytest.approx(np.trace(new))
    if inside != 1:
        assert np.allclose(moved, new)


def test_shares_are_those_of_the_mean_over_all_pairs():
    torch.manual_seed(0)
    vectors = torch.randn(7, 5) + torch.tensor([3.0, 0, 0, 1, 0])
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    terms = (unit[:, None] * unit[None]).mean((0, 1)).double()
    assert torch.allclose(shares_of_mean_cosine(vectors), terms / terms.sum(), atol=1e-6)


def test_the_largest_shares_are_left_out():
    shares, U = torch.tensor([0.1, 0.6, 0.3]), torch.tensor([True, True, False])
    assert without_largest(U, shares, 0).tolist() == [True, True, False]
    assert without_largest(U, shares, 1).tolist() == [True, False, False]
    assert without_largest(U, shares, 2).tolist() == [True, False, False]
    with pytest.raises(InputError, match="left of the joint set, which has 2; drop fewer"):
        without_largest(U, shares, 3)


def test_directions_by_hand():
    # v = 2 (2, 0, 0) + 3 (0, 1, 0) + (0, 0, 5)
    directions = Directions(torch.tensor([[2.0, 0, 0], [0, 1, 0]]), ["first", "second"])
    v = torch.tensor([[4.0, 3, 5]])
    assert directions.coefficients(v)[0].tolist() == pytest.approx([2, 3])
    assert Directions(np.eye(3)[:2]).names == [0, 1]
    # A dictionary with a bias of its own: ReLU of v minus it.
    relu = Directions(torch.eye(3), encode=lambda x: (x - 3.5).relu())
    assert relu.coefficients(v).tolist() == [[0.5, 0, 1.5]]
    assert relu.record()["encode"].endswith("<lambda>")
    assert directions.record()["names"] == ["first", "second"]


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(0, 6))
def test_what_directions_do_not_hold_is_at_right_angles_to_them(seed, k, more):
    torch.manual_seed(seed)
    rows, vectors = torch.randn(k, k + more).double(), torch.randn(3, k + more).double()
    error = vectors - Directions(rows).coefficients(vectors) @ rows
    assert (error @ rows.T).abs().max() < 1e-6 * (1 + error.abs().max())
    if not more:
        assert error.abs().max() < 1e-6


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((torch.zeros(3),), r"directions must be \[k, d\]"),
        ((torch.zeros(0, 3),), r"got \(0, 3\)"),
        ((torch.tensor([[1.0, 0], [0, 0]]),), "direction 1 is zero"),
        ((torch.tensor([[1.0, torch.nan]]),), "NaN or infinite value, first at index 0"),
        (("ab",), "directions"),
        ((torch.ones(3, 2),), "3 directions in 2 dimensions depend on each other"),
        (
            (torch.tensor([[1.0, 2, 0], [2, 4, 0]]),),
            r"depend on each other \(rank 1\).*give encode",
        ),
        ((torch.eye(2), ["a"]), "names must be 2 different ones, one per direction, got 1"),
        ((torch.eye(2), ["a", "a"]), "of which 1 differ"),
        ((torch.eye(2), [1, 2]), "names must be one or more strings"),
    ],
)
def test_what_is_no_direction_is_refused(given, said):
    with pytest.raises(InputError, match=said):
        Directions(*given)


def test_coefficients_that_are_none_are_refused():
    with pytest.raises(InputError, match="directions have 2 dimensions, the vectors 3"):
        Directions(torch.eye(2)).coefficients(torch.ones(1, 3))
    with pytest.raises(InputError, match=r"must give \(1, 2\) coefficients.* got \(1, 3\)"):
        Directions(torch.eye(2), encode=lambda x: torch.ones(1, 3)).coefficients(torch.ones(1, 2))
    with pytest.raises(InputError, match="what encode gives has a NaN"):
        Directions(torch.eye(2), encode=lambda x: x * torch.nan).coefficients(torch.ones(1, 2))
