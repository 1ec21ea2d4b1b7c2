"""All k, m and vectors at once: against loops from the equations and the one-by-one functions."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dysem_lab.encoders.dysem import VECTORS, semantic_vectors
from dysem_lab.errors import InputError
from dysem_lab.joint import joint_set, pairwise_similarity
from dysem_lab.questions import grid as module
from dysem_lab.questions.grid import PAIRS_PER_CHUNK, Cell, check_ms, sweep
from tests.reference import dysem_pair

pytestmark = pytest.mark.usefixtures("_one_thread")


def random_vectors(n_pairs, m, d, seed=0):
    """Return vectors that are positive in two thirds of the coordinates, so that sets overlap."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2 * n_pairs, m, d, generator=generator) + 0.45


def naive_cells(vectors, source, ks, ms, kinds):
    """Return cell → (similarities, sizes of the joint sets) by loops in double precision."""
    vectors, source = vectors.double().numpy(), source.double().numpy()
    n_pairs = len(vectors) // 2
    return {
        (m, k, kind): tuple(
            zip(
                *(
                    dysem_pair(
                        *(vectors[row, :m] for row in (i, n_pairs + i)),
                        *(source[row] for row in (i, n_pairs + i)),
                        k if isinstance(k, int) else round(k * vectors.shape[-1]),
                        kind,
                    )
                    for i in range(n_pairs)
                ),
                strict=True,
            )
        )
        for m in ms
        for k in ks
        for kind in kinds
    }


@pytest.mark.parametrize("seed", [0, 1])
def test_every_cell_follows_the_equations(seed):
    vectors = random_vectors(n_pairs=7, m=4, d=20, seed=seed)
    source = random_vectors(7, 1, 20, seed + 100)[:, 0]
    ks, ms = [1, 5, 0.5, 100], [1, 2, 4]
    expected = naive_cells(vectors, source, ks, ms, VECTORS)
    found = sweep(vectors, source, ks, ms)
    assert set(found) == set(expected)
    for cell, (similarity, sizes) in expected.items():
        np.testing.assert_allclose(found[cell].similarity, similarity, atol=1e-5, err_msg=str(cell))
        assert found[cell].sizes.tolist() == list(sizes), cell
    assert expected[4, 5, "mean"] != expected[4, 5, "source"]
    assert expected[4, 5, "mean"] != expected[2, 5, "mean"]


@pytest.mark.parametrize("size", [1e10, 1e30])
def test_what_is_outside_a_joint_set_changes_no_cell(size):
    vectors = random_vectors(n_pairs=5, m=3, d=20)
    vectors[:, 0, 4] = -size  # in no consensus, but in every mean
    source = vectors[:, 0]
    for cell, (similarity, _) in sweep(vectors, source, [3, 8], [2, 3]).items():
        encoded = semantic_vectors(vectors[:, : cell.m], source, cell.k, vector=cell.vector)
        assert not encoded.sets[:, 4].any()
        first, second = encoded[:5], encoded[5:]
        one_by_one = pairwise_similarity(first.vectors, second.vectors, first.sets, second.sets)
        np.testing.assert_allclose(similarity, one_by_one, rtol=0, atol=1e-6)


@given(
    vectors=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 6)).flatmap(
        lambda size: arrays(
            np.float32, (2 * size[0], size[1], size[2]), elements=st.integers(-2, 3)
        )
    ),
    data=st.data(),
)
def test_ties_zeros_and_empty_sets_follow_the_equations(vectors, data):
    vectors = torch.from_numpy(vectors)
    twice_n, m_max, d = vectors.shape
    elements = st.integers(-2, 3)
    source = torch.from_numpy(data.draw(arrays(np.float32, (twice_n, d), elements=elements)))
    ks, ms = list(range(1, d + 2)), list(range(1, m_max + 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = sweep(vectors, source, ks, ms)
    for cell, (similarity, sizes) in naive_cells(vectors, source, ks, ms, VECTORS).items():
        np.testing.assert_allclose(found[cell].similarity, similarity, atol=1e-5, err_msg=str(cell))
        assert found[cell].sizes.tolist() == list(sizes), cell


def test_ties_go_to_the_lower_index_among_many_dimensions_too():
    # Sorting algorithms keep the order of short inputs by themselves.
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randint(-1, 5, (6, 2, 600), generator=generator).float()
    found = sweep(vectors, vectors[:, 1], [20, 100], [1, 2])
    for cell, (similarity, sizes) in naive_cells(
        vectors, vectors[:, 1], [20, 100], [1, 2], VECTORS
    ).items():
        np.testing.assert_allclose(found[cell].similarity, similarity, atol=1e-5, err_msg=str(cell))
        assert found[cell].sizes.tolist() == list(sizes), cell


@pytest.mark.parametrize("n_pairs", [1, PAIRS_PER_CHUNK - 1, PAIRS_PER_CHUNK, 2 * 130 + 5])
def test_every_cell_equals_the_one_by_one_functions(n_pairs):
    vectors = random_vectors(n_pairs, m=3, d=48)
    source = vectors[:, 1]
    ks, ms = [3, 0.25, 48], [2, 1, 3]
    found = sweep(vectors, source, ks, ms)
    assert len(found) == 3 * 3 * 2
    for m in ms:
        for k in ks:
            for kind in VECTORS:
                encoded = semantic_vectors(vectors[:, :m], source, k, vector=kind)
                first, second = encoded[:n_pairs], encoded[n_pairs:]
                similarity, sizes = found[Cell(m, k, kind)]
                expected = pairwise_similarity(
                    first.vectors, second.vectors, first.sets, second.sets
                )
                assert torch.equal(sizes, joint_set(first.sets, second.sets).sum(-1))
                torch.testing.assert_close(similarity, expected, atol=1e-5, rtol=0)


def test_pairs_do_not_see_each_other():
    vectors = random_vectors(n_pairs=150, m=2, d=16)
    whole = sweep(vectors, vectors[:, 0], [4], [2], ["mean"])[Cell(2, 4, "mean")]
    for i in (0, 127, 128, 149):
        pair = vectors[[i, 150 + i]]
        alone = sweep(pair, pair[:, 0], [4], [2], ["mean"])[Cell(2, 4, "mean")]
        assert alone.similarity.item() == pytest.approx(whole.similarity[i].item(), abs=1e-6)
        assert alone.sizes.item() == whole.sizes[i]


def test_results_keep_their_types():
    vectors = random_vectors(3, 2, 8)
    similarity, sizes = sweep(vectors, vectors[:, 0], [2], [1], ["mean"])[Cell(1, 2, "mean")]
    assert (similarity.dtype, similarity.shape) == (torch.float32, (3,))
    assert (sizes.dtype, sizes.shape) == (torch.int64, (3,))


def test_a_text_without_consensus_takes_the_set_of_the_other():
    # The first text is positive nowhere; the second in dimensions 0 and 2.
    vectors = torch.tensor([[[-1.0, -2.0, -3.0]], [[3.0, -1.0, 4.0]]])
    similarity, sizes = sweep(vectors, vectors[:, 0], [3], [1], ["mean"])[Cell(1, 3, "mean")]
    assert sizes.tolist() == [2]
    assert similarity.item() == pytest.approx(-15 / (10**0.5 * 5))


def test_pairs_without_any_consensus_are_nan_and_counted_over_all_settings():
    vectors = random_vectors(n_pairs=140, m=2, d=12).abs()
    vectors[[5, 145, 130, 270], 1] *= -1  # pairs 5 and 130 agree on nothing in two languages
    with pytest.warns(UserWarning, match=r"in 4 of 8 settings; at most 2 of 140, with m=2") as seen:
        found = sweep(vectors, vectors[:, 0], [1, 0.5], [1, 2])
    assert len(seen) == 1
    for cell, (similarity, sizes) in found.items():
        undefined = similarity.isnan().nonzero()[:, 0].tolist()
        assert undefined == ([] if cell.m == 1 else [5, 130])
        assert (sizes == 0).nonzero()[:, 0].tolist() == undefined


def test_a_vector_that_vanishes_on_its_set_has_no_similarity():
    vectors = torch.ones(2, 1, 4)
    source = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    with pytest.warns(UserWarning, match="in 1 of 2 settings; at most 1 of 1"):
        found = sweep(vectors, source, [2], [1])
    assert found[Cell(1, 2, "source")].similarity.isnan().all()
    assert found[Cell(1, 2, "mean")].similarity.item() == pytest.approx(1)


def test_ordinary_vectors_give_no_warning_and_stay_as_they_are():
    vectors = random_vectors(10, 2, 16)
    source = vectors[:, 0]
    before = vectors.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sweep(vectors, source, [4, 0.5], [1, 2])
    assert torch.equal(vectors, before)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_similarities_do_not_depend_on_the_scale_of_the_vectors(scale):
    vectors = random_vectors(5, 2, 16)
    expected = sweep(vectors, vectors[:, 0], [4], [2])
    found = sweep(scale * vectors, scale * vectors[:, 0], [4], [2])
    for cell in expected:
        torch.testing.assert_close(found[cell].similarity, expected[cell].similarity)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ms": [0]}, "m must be between 1 and 3 languages, got 0"),
        ({"ms": [1, 4]}, "m must be between 1 and 3 languages, got 4"),
        ({"ms": [1.5]}, r"between 1 and 3 languages, got 1\.5"),
        ({"ms": [True]}, "between 1 and 3 languages, got True"),
        ({"ks": [0]}, "k must be an integer >= 1 or a fraction"),
        ({"ks": [4, 1.5]}, r"got 1\.5"),
        ({"ks": ["4"]}, "k must be an int or a float, got '4'"),
        ({"kinds": ["median"]}, "'median'; did you mean 'mean'. choose one of: source, mean"),
        ({"vectors": torch.ones(3, 3, 8)}, "first and then the second texts of the same pairs"),
        ({"source": torch.ones(4, 7)}, r"source \(4, 7\)"),
        ({"source": torch.ones(2, 8)}, r"vectors \(4, 3, 8\) and source \(2, 8\)"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    usual = {"vectors": torch.ones(4, 3, 8), "source": torch.ones(4, 8), "ks": [2], "ms": [1]}
    with pytest.raises(InputError, match=message):
        sweep(**{**usual, **arguments})


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("which", ["vectors", "source"])
def test_values_that_are_not_finite_are_refused(which, value):
    both = {"vectors": torch.ones(400, 2, 4), "source": torch.ones(400, 4)}
    both[which][390, ..., 1] = value  # the last text of a pair in the second chunk
    with pytest.raises(InputError, match=f"{which} has a NaN .* first at index 390"):
        sweep(**both, ks=[2], ms=[1])


def test_check_ms_takes_every_number_of_languages():
    check_ms([1, 2, 3], 3)
    check_ms([], 3)
    check_ms(np.arange(1, 4), 3)
    with pytest.raises(InputError, match="between 1 and 2 languages, got 3"):
        check_ms([1, 2, 3], 2)


def test_no_more_pairs_are_held_at_once_than_memory_is_bounded_for(monkeypatch):
    held = []

    def chunk(vectors, source, *settings):
        held.append(len(vectors) // 2)
        return whole(vectors, source, *settings)

    whole = module._chunk
    monkeypatch.setattr(module, "_chunk", chunk)
    vectors = random_vectors(2 * PAIRS_PER_CHUNK + 5, 1, 4)
    sweep(vectors, vectors[:, 0], [2], [1])
    assert held == [PAIRS_PER_CHUNK, PAIRS_PER_CHUNK, 5]
    # The largest of a chunk's tensors: vectors of 12 languages and the widest model of the paper.
    assert 2 * PAIRS_PER_CHUNK * 12 * 4096 * 4 < 100e6
