"""Joint sets and restricted cosines (Eqs. 14-17), semantic vectors, and what pairs are made of."""

import itertools
import math
import subprocess
import sys
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dysem_lab.consensus import consensus_set
from dysem_lab.encoders.dysem import semantic_vectors
from dysem_lab.encoders.vectors import SemanticVectors, n_dims
from dysem_lab.errors import InputError
from dysem_lab.joint import (
    all_pairs_cosine,
    all_pairs_similarity,
    contributions,
    cosine,
    joint_cosine,
    joint_set,
    pairwise_similarity,
)
from dysem_lab.questions.random_sets import draw_sets
from dysem_lab.questions.scores import pair_cosine, pair_similarity

quick = settings(deadline=None, max_examples=100)
NAN = float("nan")


def naive_cosine(x, y, chosen):
    """Return Eqs. 16-17 by a loop over the dimensions; NaN where there is no value."""
    chosen = [j for j in range(len(x)) if chosen[j]]
    dot = math.fsum(float(x[j]) * float(y[j]) for j in chosen)
    norm_x = math.sqrt(math.fsum(float(x[j]) ** 2 for j in chosen))
    norm_y = math.sqrt(math.fsum(float(y[j]) ** 2 for j in chosen))
    return dot / (norm_x * norm_y) if norm_x > 0 and norm_y > 0 else NAN


def naive_similarity(x, y, Sx, Sy):
    return naive_cosine(x, y, [bool(a) or bool(b) for a, b in zip(Sx, Sy, strict=True)])


def quietly(function, *arguments, **named):
    """Call a function of which undefined pairs are expected; their warning has tests of its own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "[0-9]+ of [0-9]+ pairs have no similarity")
        return function(*arguments, **named)


def masks(*rows):
    return torch.tensor(rows, dtype=torch.bool)


@st.composite
def two_sides(draw, same_length):
    """Draw vx, vy (small integers, so zeros and exact cancellation occur), Sx, Sy."""
    nx, d = draw(st.integers(1, 4)), draw(st.integers(1, 7))
    ny = nx if same_length else draw(st.integers(1, 4))
    values = [
        draw(arrays(np.float32, (n, d), elements=st.sampled_from([-3, -1, 0, 0, 1, 2, 5])))
        for n in (nx, ny)
    ]
    sets = [draw(arrays(np.bool_, (n, d))) for n in (nx, ny)]
    return [torch.tensor(array) for array in (*values, *sets)]


def gaussian_sides(nx, ny, d, seed, keep=0.3):
    generator = torch.Generator().manual_seed(seed)
    vx, vy = (torch.randn(n, d, generator=generator) for n in (nx, ny))
    Sx, Sy = (torch.rand(n, d, generator=generator) < keep for n in (nx, ny))
    return vx, vy, Sx, Sy


# --- joint_set


def test_joint_set_is_the_union():
    Sx, Sy = masks([1, 1, 0, 0]), masks([1, 0, 1, 0])
    assert joint_set(Sx, Sy).tolist() == [[True, True, True, False]]


def test_joint_set_broadcasts_leading_axes():
    Sx, Sy = masks([1, 0, 0], [0, 1, 0]), masks([0, 0, 1], [0, 0, 0], [1, 1, 1])
    U = joint_set(Sx[:, None], Sy[None])
    assert U.shape == (2, 3, 3)
    for i, j in itertools.product(range(2), range(3)):
        expected = [a or b for a, b in zip(Sx[i].tolist(), Sy[j].tolist(), strict=True)]
        assert U[i, j].tolist() == expected


@quick
@given(two_sides(same_length=True))
def test_joint_set_is_symmetric_and_holds_both(sides):
    _, _, Sx, Sy = sides
    U = joint_set(Sx, Sy)
    assert torch.equal(U, joint_set(Sy, Sx))
    assert torch.equal(U & Sx, Sx)
    assert torch.equal(U & Sy, Sy)
    assert torch.equal(joint_set(Sx, Sx), Sx)
    sizes, size_x, size_y = (mask.sum(-1) for mask in (U, Sx, Sy))
    assert (torch.maximum(size_x, size_y) <= sizes).all()
    assert (sizes <= size_x + size_y).all()


# --- joint_cosine, pairwise_similarity


def test_cosine_by_hand_ignores_what_is_outside_the_set():
    vx = torch.tensor([[3.0, 4.0, 100.0], [1.0, 2.0, -9.0]])
    vy = torch.tensor([[4.0, 3.0, -50.0], [-2.0, 1.0, 7.0]])
    U = masks([1, 1, 0], [1, 1, 0])
    assert joint_cosine(vx, vy, U).tolist() == pytest.approx([24 / 25, 0.0])


def test_similarity_by_hand_uses_the_union_of_both_sets():
    vx = torch.tensor([[1.0, 2.0, 2.0, 7.0]])
    vy = torch.tensor([[2.0, 1.0, -2.0, 7.0]])
    Sx, Sy = masks([1, 1, 0, 0]), masks([0, 1, 1, 0])  # U = {0, 1, 2}: dot 0, norms 3
    assert pairwise_similarity(vx, vy, Sx, Sy).item() == pytest.approx(0.0)
    # The intersection {1} alone would give 1, and {0, 1} alone 4/5.
    assert pairwise_similarity(vx, vy, Sx, Sx).item() == pytest.approx(4 / 5)


def test_where_one_set_is_empty_the_other_one_is_used_alone():
    vx, vy = torch.tensor([[3.0, 4.0, 9.0]]), torch.tensor([[4.0, 3.0, -9.0]])
    some, none = masks([1, 1, 0]), masks([0, 0, 0])
    for Sx, Sy in ((some, none), (none, some)):
        assert pairwise_similarity(vx, vy, Sx, Sy).item() == pytest.approx(24 / 25)
        assert all_pairs_similarity(vx, vy, Sx, Sy).item() == pytest.approx(24 / 25)


UNDEFINED_PAIRS = (
    torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 5.0], [1.0, 1.0]]),
    torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 5.0], [0.0, 0.0]]),
    masks([0, 0], [1, 0], [1, 0], [1, 1]),
    masks([0, 0], [0, 1], [0, 0], [1, 1]),
)  # no set; fine; the first vector is zero on U; the second one is zero everywhere


def test_pairs_without_a_similarity_are_nan_and_counted():
    with pytest.warns(UserWarning, match="3 of 4 pairs have no similarity .*; they are nan"):
        similarity = pairwise_similarity(*UNDEFINED_PAIRS)
    assert similarity.isnan().tolist() == [True, False, True, True]
    assert similarity[1].item() == pytest.approx(11 / math.sqrt(125))


def test_pairs_without_a_similarity_take_the_value_that_was_asked_for():
    with pytest.warns(UserWarning, match=r"3 of 4 pairs have no similarity .*; they are 0\.0"):
        similarity = pairwise_similarity(*UNDEFINED_PAIRS, undefined=0.0)
    assert similarity[[0, 2, 3]].tolist() == [0.0, 0.0, 0.0]
    assert similarity[1].item() == pytest.approx(11 / math.sqrt(125))
    vx, vy, Sx, Sy = UNDEFINED_PAIRS
    with pytest.warns(UserWarning, match="3 of 4"):
        direct = joint_cosine(vx, vy, joint_set(Sx, Sy), 0.0)
    assert torch.equal(direct, similarity)


def test_all_pairs_count_and_fill_the_undefined_ones_too():
    vx, vy = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[2.0, 0.0], [2.0, 3.0]])
    Sx, Sy = masks([1, 0], [1, 1]), masks([0, 0], [1, 1])
    with pytest.warns(UserWarning, match="2 of 4 pairs have no similarity .*; they are nan"):
        matrix = all_pairs_similarity(vx, vy, Sx, Sy)
    assert matrix.isnan().tolist() == [[False, False], [True, True]]
    with pytest.warns(UserWarning, match=r"2 of 4 .*; they are 0\.0"):
        matrix = all_pairs_similarity(vx, vy, Sx, Sy, undefined=0.0)
    assert matrix.flatten().tolist() == pytest.approx([1.0, 2 / math.sqrt(13), 0.0, 0.0])


def test_defined_pairs_give_no_warning():
    sides = gaussian_sides(5, 5, 40, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not pairwise_similarity(*sides).isnan().any()
        assert not all_pairs_similarity(*sides).isnan().any()


@quick
@given(two_sides(same_length=True))
def test_pairwise_agrees_with_the_naive_implementation(sides):
    found = quietly(pairwise_similarity, *sides)
    expected = [naive_similarity(*row) for row in zip(*(s.tolist() for s in sides), strict=True)]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6, equal_nan=True)


@quick
@given(two_sides(same_length=False))
def test_all_pairs_agree_with_the_naive_implementation(sides):
    found = quietly(all_pairs_similarity, *sides)
    vx, vy, Sx, Sy = (side.tolist() for side in sides)
    expected = [
        [naive_similarity(x, y, a, b) for y, b in zip(vy, Sy, strict=True)]
        for x, a in zip(vx, Sx, strict=True)
    ]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6, equal_nan=True)


def as_they_are(vx, vy):
    return vx, vy


def with_a_large_offset(vx, vy):
    return vx + 100, vy + 100


def with_opposite_offsets(vx, vy):
    return vx + 30, vy - 30


def with_a_massive_activation(vx, vy):
    factor = torch.ones(vx.shape[1])
    factor[7] = 1e3
    return vx * factor, vy * factor


def with_a_constant_massive_activation(vx, vy):
    vx, vy = vx.clone(), vy.clone()
    vx[:, 7] = vy[:, 7] = 1e3
    return vx, vy


@pytest.mark.parametrize(
    "change",
    [
        as_they_are,
        with_a_large_offset,
        with_opposite_offsets,
        with_a_massive_activation,
        with_a_constant_massive_activation,
    ],
)
def test_all_pairs_stay_within_1e_5_of_the_loop_over_pairs(change):
    vx, vy, Sx, Sy = gaussian_sides(12, 9, 640, seed=1)
    vx, vy = change(vx, vy)
    found = all_pairs_similarity(vx, vy, Sx, Sy)
    loop = [
        [naive_similarity(x, y, a, b) for y, b in zip(vy.tolist(), Sy.tolist(), strict=True)]
        for x, a in zip(vx.tolist(), Sx.tolist(), strict=True)
    ]
    assert found.shape == (12, 9)
    np.testing.assert_allclose(found.numpy(), loop, rtol=0, atol=1e-5)
    for i in range(12):
        row = pairwise_similarity(vx[i].expand_as(vy), vy, Sx[i].expand_as(Sy), Sy)
        np.testing.assert_allclose(row.numpy(), loop[i], rtol=0, atol=1e-5)


def test_all_pairs_are_symmetric_under_swapping():
    vx, vy, Sx, Sy = gaussian_sides(12, 9, 640, seed=2)
    swapped = all_pairs_similarity(vy, vx, Sy, Sx)
    torch.testing.assert_close(swapped.T, all_pairs_similarity(vx, vy, Sx, Sy), rtol=0, atol=1e-6)


@quick
@given(two_sides(same_length=True))
def test_pairwise_is_symmetric_under_swapping(sides):
    vx, vy, Sx, Sy = sides
    torch.testing.assert_close(
        quietly(pairwise_similarity, vy, vx, Sy, Sx),
        quietly(pairwise_similarity, vx, vy, Sx, Sy),
        equal_nan=True,
    )


@quick
@given(two_sides(same_length=True), st.floats(1e-4, 1e4), st.floats(1e-4, 1e4))
def test_scale_does_not_matter(sides, scale_x, scale_y):
    vx, vy, Sx, Sy = sides
    scaled = (vx * scale_x, vy * scale_y, Sx, Sy)
    for function in (pairwise_similarity, all_pairs_similarity):
        torch.testing.assert_close(
            quietly(function, *scaled), quietly(function, *sides), atol=1e-5, rtol=0, equal_nan=True
        )


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e20, 1e30])
def test_extreme_but_finite_vectors_have_their_similarity(scale):
    # Their squares leave the range of float32.
    vx, vy = torch.tensor([[3.0, 4.0]]) * scale, torch.tensor([[4.0, 3.0]]) * scale
    everything = masks([1, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [
            joint_cosine(vx, vy, everything).item(),
            all_pairs_similarity(vx, vy, everything, everything).item(),
        ]
    assert found == pytest.approx([24 / 25, 24 / 25])


@quick
@given(two_sides(same_length=True))
def test_a_text_has_similarity_one_with_itself_and_none_is_out_of_range(sides):
    vx, vy, Sx, Sy = sides
    itself = quietly(pairwise_similarity, vx, vx, Sx, Sx)
    opposite = quietly(pairwise_similarity, vx, -vx, Sx, Sx)
    defined = ~itself.isnan()
    torch.testing.assert_close(itself[defined], torch.ones(int(defined.sum())))
    torch.testing.assert_close(opposite[defined], -torch.ones(int(defined.sum())))
    for function in (pairwise_similarity, all_pairs_similarity):
        values = quietly(function, vx, vy, Sx, Sy, undefined=0.0)
        assert (values.abs() <= 1).all()


def test_nearly_parallel_vectors_do_not_exceed_one():
    vx = torch.rand(200, 333, generator=torch.Generator().manual_seed(0))
    everything = torch.ones(200, 333, dtype=torch.bool)
    assert (pairwise_similarity(vx, vx * 1.1, everything, everything) <= 1).all()
    assert (all_pairs_similarity(vx, vx * 1.1, everything, everything) <= 1).all()


@pytest.mark.parametrize("bad", [NAN, float("inf"), float("-inf")])
@pytest.mark.parametrize("side", ["vx", "vy"])
def test_values_that_are_not_finite_are_refused_even_outside_the_set(bad, side):
    sides = {"vx": torch.ones(3, 4), "vy": torch.ones(3, 4)}
    sides[side][2, 1] = bad
    U = masks([1, 0, 0, 0]).expand(3, 4)
    message = rf"{side} has a NaN or infinite .*index 2\b"
    with pytest.raises(InputError, match=message):
        joint_cosine(**sides, U=U)
    with pytest.raises(InputError, match=message):
        pairwise_similarity(**sides, Sx=U, Sy=U)
    with pytest.raises(InputError, match=message):
        all_pairs_similarity(**sides, Sx=U, Sy=U)


def zeros(*shapes):
    """Return two arrays of numbers and then arrays of sets, of the given shapes."""
    return [
        torch.zeros(shape, dtype=torch.bool if i > 1 else None) for i, shape in enumerate(shapes)
    ]


@pytest.mark.parametrize(
    "shapes",
    [
        [(3, 4), (2, 4), (3, 4)],
        [(3, 4), (3, 5), (3, 4)],
        [(3, 4), (3, 4), (2, 4)],
        [(3, 4), (3, 4), (1, 4)],
        [(3, 4), (1, 4), (3, 4)],
    ],
)
def test_cosine_refuses_shapes_that_differ(shapes):
    with pytest.raises(InputError, match="must agree") as caught:
        joint_cosine(*zeros(*shapes))
    assert all(str(shape) in str(caught.value) for shape in shapes)


@pytest.mark.parametrize(
    "shapes",
    [
        [(3, 4), (2, 4), (3, 4), (2, 4)],
        [(3, 4), (3, 5), (3, 4), (3, 5)],
        [(3, 4), (3, 4), (3, 4), (2, 4)],
        [(3, 4), (1, 4), (3, 4), (1, 4)],
    ],
)
def test_pairwise_refuses_sides_that_differ(shapes):
    with pytest.raises(InputError, match=r"\(3, 4\)"):
        pairwise_similarity(*zeros(*shapes))


@pytest.mark.parametrize(
    "shapes",
    [
        [(3, 4), (2, 4), (2, 4), (2, 4)],
        [(3, 4), (2, 4), (3, 4), (3, 4)],
        [(3, 4), (2, 5), (3, 4), (2, 5)],
        [(3, 4), (2, 4), (1, 4), (2, 4)],
    ],
)
def test_all_pairs_refuse_shapes_that_do_not_fit(shapes):
    with pytest.raises(InputError, match="needs Sx of its shape") as caught:
        all_pairs_similarity(*zeros(*shapes))
    assert all(str(shape) in str(caught.value) for shape in shapes)


# --- what is outside a joint set, however large it is; half precision


def exact_similarity(x, y, Sx, Sy):
    """Return Eqs. 14-17 with sums that are exact whatever the size of the values."""
    U = [j for j in range(len(x)) if Sx[j] or Sy[j]]
    dot, x2, y2 = (
        sum((Fraction(a[j]) * Fraction(b[j]) for j in U), Fraction(0))
        for a, b in ((x, y), (x, x), (y, y))
    )
    if not x2 or not y2:
        return NAN
    return (-1 if dot < 0 else 1) * math.sqrt(dot**2 / (x2 * y2))


def exact_matrix(vx, vy, Sx, Sy):
    vx, vy = vx.double().tolist(), vy.double().tolist()
    rows = zip(vx, Sx.tolist(), strict=True)
    columns = list(zip(vy, Sy.tolist(), strict=True))
    return [[exact_similarity(x, y, a, b) for y, b in columns] for x, a in rows]


EXTREMES = {
    torch.float16: [0, 1, -0.5, 3, 6e-8, 1e-4, 5e3, -3e4, 65504],
    torch.bfloat16: [0, 1, -0.5, 3, 1e-40, 1e-30, 5e3, 3e4, 1e15, 3e38],
    torch.float32: [0, 1, -0.7, 3.1, 1e-45, -1e-40, 1e-30, 1e-12, 5e3, 3e4, 1e15, 1e38, -3.4e38],
    torch.float64: [0, 1, -0.7, 3.1, 5e-324, -1e-310, 1e-160, 1e-12, 3e4, 1e38, 1e160, -1.7e308],
}


@pytest.mark.parametrize("dtype", EXTREMES, ids=str)
@given(data=st.data())
def test_all_pairs_and_pairs_are_right_whatever_is_beside_the_joint_set(dtype, data):
    nx, ny, d = (data.draw(st.integers(1, most)) for most in (4, 4, 6))
    row = st.lists(st.sampled_from(EXTREMES[dtype]), min_size=d, max_size=d)
    vx, vy = (torch.tensor([data.draw(row) for _ in range(n)], dtype=dtype) for n in (nx, ny))
    Sx, Sy = (torch.tensor(data.draw(arrays(np.bool_, (n, d)))) for n in (nx, ny))
    expected = exact_matrix(vx, vy, Sx, Sy)
    found = quietly(all_pairs_similarity, vx, vy, Sx, Sy)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6, equal_nan=True)
    i, j = (grid.flatten() for grid in torch.meshgrid(*map(torch.arange, (nx, ny)), indexing="ij"))
    pairs = quietly(pairwise_similarity, vx[i], vy[j], Sx[i], Sy[j])
    assert pairs.dtype == found.dtype
    np.testing.assert_allclose(
        pairs.view(nx, ny).numpy(), expected, rtol=0, atol=1e-6, equal_nan=True
    )
    everything = torch.ones(nx, d, dtype=torch.bool), torch.ones(ny, d, dtype=torch.bool)
    np.testing.assert_allclose(
        quietly(all_pairs_cosine, vx, vy).numpy(),
        exact_matrix(vx, vy, *everything),
        rtol=0,
        atol=1e-6,
        equal_nan=True,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [5e3, 3e4, 1e10, 1e30])
def test_an_outlier_outside_the_joint_set_changes_nothing(dtype, size):
    size = min(size, torch.finfo(dtype).max)
    vx, vy, Sx, Sy = gaussian_sides(6, 5, 64, seed=3)
    vx, vy = vx.to(dtype), vy.to(dtype)
    Sx[:, 7] = Sy[:, 7] = False
    calm = all_pairs_similarity(vx, vy, Sx, Sy)
    vx[:, 7], vy[:, 7] = size, -size
    found = all_pairs_similarity(vx, vy, Sx, Sy)
    np.testing.assert_allclose(found.numpy(), calm.numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.numpy(), exact_matrix(vx, vy, Sx, Sy), rtol=0, atol=1e-6)
    pairs = pairwise_similarity(vx[:5], vy, Sx[:5], Sy)
    np.testing.assert_allclose(pairs.numpy(), calm.diagonal().numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_and_returned_in_float32(dtype):
    vx, vy, Sx, Sy = gaussian_sides(5, 5, 40, seed=4)
    half, single = [v.to(dtype) for v in (vx, vy)], [v.to(dtype).float() for v in (vx, vy)]
    for function in (all_pairs_similarity, pairwise_similarity):
        assert torch.equal(function(*half, Sx, Sy), function(*single, Sx, Sy))
    for function in (all_pairs_cosine, cosine):
        assert torch.equal(function(*half), function(*single))
    assert torch.equal(joint_cosine(*half, Sx), joint_cosine(*single, Sx))


def test_two_precisions_are_compared_in_the_wider_one():
    vx, vy, Sx, Sy = gaussian_sides(3, 3, 40, seed=4)
    for function in (all_pairs_similarity, pairwise_similarity):
        mixed = function(vx.double(), vy.half(), Sx, Sy)
        assert torch.equal(mixed, function(vx.double(), vy.half().double(), Sx, Sy))


def test_vectors_may_be_arrays_of_any_layout_and_whole_numbers():
    x = np.array([[3, 4, 9], [1, 2, 9]])
    U = np.array([[True, True, False]] * 2)
    expected = [24 / 25, 1.0]
    y = np.array([[4.0, 3.0, -9.0], [2.0, 4.0, -9.0]])
    assert joint_cosine(x, y, U).tolist() == pytest.approx(expected)
    assert joint_cosine(x[::-1], y[::-1], U).tolist() == pytest.approx(expected[::-1])
    assert joint_cosine(x.tolist(), y.tolist(), U).tolist() == pytest.approx(expected)


VECTORS, MASK = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (torch.ones(2, 0), r"must be \[..., d\] with d >= 1, got shape \(2, 0\)"),
        (torch.tensor(1.0), r"got shape \(\)"),
        (MASK, "must be real numbers in a dense tensor, got torch.bool"),
        (VECTORS + 1j, "got torch.complex64"),
        (VECTORS.to("meta"), r"got torch.float32 \(torch.strided, meta\)"),
        (VECTORS.to_sparse(), r"got torch.float32 \(torch.sparse_coo, cpu\)"),
        ([["a", "b", "c"]] * 2, "must be a tensor or an array of numbers, got list"),
        ([[1.0, 2.0, 3.0], [1.0]], "must be numbers in a list or an array"),
        (None, "must be a tensor or an array of numbers, got NoneType"),
        (np.ma.masked_equal(np.ones((2, 3)), 2), "is a masked array"),
        (VECTORS * NAN, "has a NaN or infinite value, first at index 0"),
    ],
    ids=repr,
)
def test_what_is_no_matrix_of_real_numbers_is_refused_by_name(bad, words):
    for function, arguments in (
        (cosine, ()),
        (all_pairs_cosine, ()),
        (joint_cosine, (MASK,)),
        (pairwise_similarity, (MASK, MASK)),
        (all_pairs_similarity, (MASK, MASK)),
    ):
        with pytest.raises(InputError, match=f"^vx .*{words}|^vx {words}"):
            function(bad, VECTORS, *arguments)
        with pytest.raises(InputError, match=f"^vy .*{words}|^vy {words}"):
            function(VECTORS, bad, *arguments)
    with pytest.raises(InputError, match=words):
        SemanticVectors(bad, MASK)
    with pytest.raises(InputError, match=words):
        consensus_set(bad, 1)


@pytest.mark.parametrize("bad", [VECTORS, MASK.int(), None, "11", [[1, 0, 1]] * 2], ids=repr)
def test_what_is_no_mask_is_refused_by_name(bad):
    calls = [
        lambda: joint_set(bad, MASK),
        lambda: joint_cosine(VECTORS, VECTORS, bad),
        lambda: pairwise_similarity(VECTORS, VECTORS, MASK, bad),
        lambda: all_pairs_similarity(VECTORS, VECTORS, MASK, bad),
    ]
    if bad is not None:  # which stands for full sets there
        calls.append(lambda: SemanticVectors(VECTORS, bad))
    for call in calls:
        with pytest.raises(InputError, match=r"must be a mask of booleans|must be a tensor or an"):
            call()
    with pytest.raises(InputError, match="must be sets over one number of dimensions"):
        joint_set(MASK, MASK[:, :2])


@pytest.mark.parametrize("bad", [None, "0", True, 1e300, 1j, [0.0, 1.0]])
def test_the_value_of_undefined_pairs_must_be_a_number_even_where_all_are_defined(bad):
    for function, sets in ((cosine, ()), (all_pairs_cosine, ()), (joint_cosine, (MASK,))):
        with pytest.raises(InputError, match="undefined must be"):
            function(VECTORS, VECTORS, *sets, undefined=bad)
    with pytest.warns(UserWarning, match="they are -inf"):
        assert cosine(VECTORS, 0 * VECTORS, -math.inf).tolist() == [-math.inf] * 2


def test_similarities_have_gradients():
    vx, vy, Sx, Sy = gaussian_sides(3, 3, 8, seed=5)
    for function in (all_pairs_similarity, pairwise_similarity):
        x = vx.clone().requires_grad_()
        function(x, vy, Sx, Sy).sum().backward()
        assert torch.isfinite(x.grad).all()
        assert x.grad.abs().sum() > 0


# --- tiles of all pairs


def test_tiles_give_what_the_whole_gives(monkeypatch):
    sides = gaussian_sides(300, 411, 96, seed=6)
    sides[0][250] = 0.0
    sides[2][20] = sides[3][400] = False
    cosines, similarities = (
        quietly(function, *arguments)
        for function, arguments in (
            (all_pairs_cosine, sides[:2]),
            (all_pairs_similarity, sides),
        )
    )
    monkeypatch.setattr("dysem_lab.joint.TILE", 128)
    with pytest.warns(UserWarning, match="412 of 123300 pairs have no similarity"):
        tiled = all_pairs_similarity(*sides)
    np.testing.assert_allclose(tiled, similarities, rtol=0, atol=1e-6, equal_nan=True)
    with pytest.warns(UserWarning, match="411 of 123300 pairs have no similarity"):
        tiled = all_pairs_cosine(*sides[:2])
    np.testing.assert_allclose(tiled, cosines, rtol=0, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("call", ["all_pairs_similarity(v, v, S, S)", "all_pairs_cosine(v, v)"])
def test_all_pairs_need_little_memory_beside_the_result(call):
    # The result has 144 MB; computed at once, six times as much.
    code = f"""
import resource, torch
from dysem_lab.joint import all_pairs_cosine, all_pairs_similarity
v = torch.randn(6000, 32, generator=torch.Generator().manual_seed(0))
S = v > 0
{call.replace("v, v", "v[:9], v[:9]").replace("S, S", "S[:9], S[:9]")}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{call}
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 350_000  # KiB


def test_no_texts_give_no_similarities():
    empty, mask = torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.bool)
    assert pairwise_similarity(empty, empty, mask, mask).shape == (0,)
    two = torch.ones(2, 4)
    assert all_pairs_similarity(two, empty, two.bool(), mask).shape == (2, 0)


# --- semantic_vectors


RENDERINGS = torch.tensor(
    [[[1.0, 6.0, 2.0, -1.0], [3.0, 2.0, 2.0, 9.0]], [[-1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 2.0, 4.0]]]
)  # I = {0, 1, 2} and {2, 3}; means [2, 4, 2, 4] and [0, 0.5, 1.5, 2.5]
SOURCE = torch.tensor([[5.0, 1.0, 6.0, 7.0], [-2.0, 3.0, 4.0, -4.0]])


@pytest.mark.parametrize(
    ("vector", "rank_by", "sets"),
    [
        ("mean", "mean", [[0, 1, 0, 0], [0, 0, 0, 1]]),
        ("mean", "vector", [[0, 1, 0, 0], [0, 0, 0, 1]]),
        ("source", "mean", [[0, 1, 0, 0], [0, 0, 0, 1]]),
        ("source", "vector", [[0, 0, 1, 0], [0, 0, 1, 0]]),
    ],
)
def test_semantic_vectors_by_hand(vector, rank_by, sets):
    encoded = semantic_vectors(RENDERINGS, SOURCE, 1, vector=vector, rank_by=rank_by)
    mean = torch.tensor([[2.0, 4.0, 2.0, 4.0], [0.0, 0.5, 1.5, 2.5]])
    assert torch.equal(encoded.vectors, SOURCE if vector == "source" else mean)
    assert torch.equal(encoded.sets, masks(*sets))


def test_semantic_vectors_are_the_mean_by_the_mean_unless_told_otherwise():
    encoded = semantic_vectors(RENDERINGS, None, 2)
    assert encoded.vectors.tolist() == [[2.0, 4.0, 2.0, 4.0], [0.0, 0.5, 1.5, 2.5]]
    assert torch.equal(encoded.sets, masks([1, 1, 0, 0], [0, 0, 1, 1]))


def test_the_source_may_be_negative_inside_the_consensus_when_it_is_not_one_of_its_languages():
    encoded = semantic_vectors(RENDERINGS, SOURCE, 4, vector="source")
    assert encoded.sets[1, 3]
    assert encoded.vectors[1, 3] == -4.0


def test_source_vectors_need_a_source():
    with pytest.raises(InputError, match="vector='source' needs the vectors of the source"):
        semantic_vectors(RENDERINGS, None, 2, vector="source")


@pytest.mark.parametrize("wrong", [{"vector": "average"}, {"rank_by": "source"}])
def test_unknown_choices_are_refused_and_not_taken_for_another(wrong):
    (name,) = wrong.values()
    with pytest.raises(InputError, match=f"{name}.*mean"):
        semantic_vectors(RENDERINGS, SOURCE, 2, **wrong)


@quick
@given(
    arrays(np.float32, (4, 2, 6), elements=st.sampled_from([-2, 0, 1, 2, 4])),
    st.integers(1, 7),
    st.sampled_from(["mean", "source"]),
)
def test_the_whole_of_equations_11_to_17_agrees_with_loops(vectors, k, vector):
    encoded = semantic_vectors(torch.tensor(vectors), torch.tensor(vectors[:, 0]), k, vector=vector)
    found, size = quietly(pair_similarity, encoded)
    means = [[(a + b) / 2 for a, b in zip(*text, strict=True)] for text in vectors.tolist()]
    v = means if vector == "mean" else vectors[:, 0].tolist()
    S = []
    for text, mean in zip(vectors.tolist(), means, strict=True):
        consensus = [j for j in range(6) if text[0][j] > 0 and text[1][j] > 0]
        S.append(sorted(consensus, key=lambda j, mean=mean: (-mean[j], j))[:k])
    unions = [set(S[i]) | set(S[2 + i]) for i in range(2)]
    expected = [
        naive_cosine(v[i], v[2 + i], [j in U for j in range(6)]) for i, U in enumerate(unions)
    ]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6, equal_nan=True)
    assert size == sum(map(len, unions)) / 2


# --- SemanticVectors and n_dims


def five_texts():
    vectors = torch.arange(20.0).reshape(5, 4)
    return SemanticVectors(vectors, torch.arange(20).reshape(5, 4) % 3 == 0)


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (slice(1, 3), [1, 2]),
        (slice(None, None, 2), [0, 2, 4]),
        (slice(5, 9), []),
        (slice(None, None, -2), [4, 2, 0]),
        ([4, 0, 0], [4, 0, 0]),
        (torch.tensor([True, False, False, True, False]), [0, 3]),
        (torch.tensor([3, 1]), [3, 1]),
        (0, [0]),
        (4, [4]),
        (-1, [4]),
        (-5, [0]),
        (np.int64(3), [3]),
        (torch.tensor(3), [3]),
    ],
)
def test_indexing_keeps_vectors_and_sets_together(index, rows):
    texts = five_texts()
    chosen = texts[index]
    assert isinstance(chosen, SemanticVectors)
    assert len(chosen) == len(rows)
    assert chosen.vectors.shape == chosen.sets.shape == (len(rows), 4)
    for position, row in enumerate(rows):
        assert torch.equal(chosen.vectors[position], texts.vectors[row])
        assert torch.equal(chosen.sets[position], texts.sets[row])


def test_a_mask_of_one_text_is_a_mask_and_not_a_position():
    one = five_texts()[2]
    for mask, expected in ((True, 1), (False, 0)):
        assert len(one[torch.tensor([mask])]) == expected
        assert len(one[np.array([mask])]) == expected


@pytest.mark.parametrize("index", [5, -6, 100])
def test_an_index_beyond_the_texts_is_an_index_error(index):
    with pytest.raises(IndexError):
        five_texts()[index]


def test_iterating_gives_each_text_once():
    # islice, because iteration that never sees an IndexError would never end.
    texts = list(itertools.islice(five_texts(), 10))
    assert [text.vectors[0, 0].item() for text in texts if len(text)] == [0, 4, 8, 12, 16]
    assert len(texts) == 5


def test_repr_says_how_many_texts_how_wide_and_how_large_the_sets_are():
    sets = masks([1, 1, 1], [0, 0, 0], [1, 0, 0], [1, 1, 0])
    assert repr(SemanticVectors(torch.zeros(4, 3), sets)) == (
        "SemanticVectors(4 texts, d=3, mean |S|=1.5)"
    )
    assert repr(SemanticVectors(torch.zeros(0, 3), sets[:0])) == (
        "SemanticVectors(0 texts, d=3, mean |S|=0.0)"
    )


def test_n_dims_is_the_mean_size_of_the_unions():
    first = SemanticVectors(torch.zeros(3, 4), masks([1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]))
    second = SemanticVectors(torch.zeros(3, 4), masks([0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]))
    assert n_dims(first, second) == pytest.approx((3 + 0 + 4) / 3, abs=1e-12)
    assert n_dims(second, first) == n_dims(first, second)


@pytest.mark.parametrize("n_second", [1, 2])
def test_n_dims_refuses_texts_that_are_no_pairs(n_second):
    with pytest.raises(InputError):
        n_dims(five_texts(), five_texts()[:n_second])


# --- pair_cosine, pair_similarity, random_sets


def test_pair_cosine_takes_row_i_with_row_n_plus_i():
    vectors = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 0.0], [1.0, 1.0], [4.0, 3.0], [1.0, 2.0]])
    with pytest.warns(UserWarning, match="1 of 3 pairs"):
        found = pair_cosine(vectors)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), [math.sqrt(0.5), 24 / 25, NAN], rtol=1e-6)


def test_pair_cosine_agrees_with_a_loop():
    vectors = torch.randn(20, 50, generator=torch.Generator().manual_seed(3))
    rows = vectors.tolist()
    expected = [naive_cosine(rows[i], rows[10 + i], [True] * 50) for i in range(10)]
    np.testing.assert_allclose(pair_cosine(vectors).numpy(), expected, atol=1e-6)


def test_pair_similarity_takes_text_i_with_text_n_plus_i():
    vectors = torch.tensor([[3.0, 4.0, 1.0], [1.0, 1.0, 1.0], [4.0, 3.0, -1.0], [1.0, -1.0, 1.0]])
    sets = masks([1, 0, 0], [1, 0, 1], [0, 1, 0], [0, 1, 0])
    similarity, size = pair_similarity(SemanticVectors(vectors, sets))
    assert similarity.tolist() == pytest.approx([24 / 25, 1 / 3])
    assert size == pytest.approx(2.5)


@pytest.mark.parametrize("n_texts", [3, 5])
def test_pairs_of_an_odd_number_of_texts_are_refused(n_texts):
    vectors, sets = torch.ones(n_texts, 4), torch.ones(n_texts, 4, dtype=torch.bool)
    with pytest.raises(InputError):
        pair_cosine(vectors)
    with pytest.raises(InputError):
        pair_similarity(SemanticVectors(vectors, sets))


@quick
@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(0, 5))
def test_random_sets_have_the_sizes_asked_for(sizes, seed):
    drawn = draw_sets(torch.tensor(sizes), 12, seed)
    assert drawn.dtype == torch.bool
    assert drawn.shape == (len(sizes), 12)
    assert drawn.sum(-1).tolist() == sizes
    assert torch.equal(drawn, draw_sets(torch.tensor(sizes), 12, seed))


def test_random_sets_differ_between_rows_and_seeds():
    sizes = torch.full((20,), 32)
    drawn = draw_sets(sizes, 64, 0)
    assert len({tuple(row) for row in drawn.tolist()}) == 20
    assert not torch.equal(drawn, draw_sets(sizes, 64, 1))


def test_random_sets_leave_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    draw_sets(torch.tensor([2, 3]), 8, 5)
    assert torch.equal(torch.rand(3), expected)


def test_random_sets_choose_every_dimension_equally_often():
    # 4,000 rows of 3 out of 12: each dimension 1,000 times, standard deviation 27.4; 5 of them.
    counts = draw_sets(torch.full((4000,), 3), 12, 0).sum(0)
    assert ((counts - 1000).abs() < 137).all()
    # Pairs of dimensions together in 4000 * (3 * 2) / (12 * 11) = 181.8 rows, deviation 13.2.
    mask = draw_sets(torch.full((4000,), 3), 12, 1).double()
    together = (mask.T @ mask)[~torch.eye(12, dtype=torch.bool)]
    assert ((together - 181.8).abs() < 66).all()


def test_consensus_sets_feed_the_joint_set_as_they_are():
    vectors = torch.tensor([[[1.0, 2.0, -1.0]], [[-1.0, 2.0, 3.0]]])
    S = consensus_set(vectors, 1)
    assert torch.equal(joint_set(S[0], S[1]), torch.tensor([False, True, True]))


def test_contributions_are_the_terms_of_the_cosine():
    generator = torch.Generator().manual_seed(1)
    vx, vy = torch.randn(2, 5, 12, generator=generator)
    U = torch.rand(5, 12, generator=generator) < 0.5
    U[0], U[1] = False, True
    found = contributions(vx, vy, U)
    for i in range(5):
        inside = [j for j in range(12) if U[i, j]]
        norm = math.sqrt(sum(vx[i, j] ** 2 for j in inside)) * math.sqrt(
            sum(vy[i, j] ** 2 for j in inside)
        )
        for j in range(12):
            term = float(vx[i, j] * vy[i, j]) / norm if j in inside else 0.0
            assert float(found[i, j]) == pytest.approx(term, abs=1e-6)
