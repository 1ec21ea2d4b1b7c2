"""The scale of a similarity: against loops over pairs, and what it says of one number."""

import numpy as np
import pytest

import dysem_lab as dl
from dysem_lab.data.sts import STSData
from dysem_lab.errors import InputError
from dysem_lab.models.store import VectorStore
from dysem_lab.questions.scale import Scale, scale, seconds_needed, unread

pytestmark = pytest.mark.usefixtures("_one_thread")


def pairs(n=8, codes=("en", "fr")):
    sentences = {
        code: ([f"{code} one {i}" for i in range(n)], [f"{code} two {i * i}" for i in range(n)])
        for code in codes
    }
    gold = np.linspace(0, 5, n)
    return STSData("made up", "here", gold, sentences, np.arange(n), [""] * n)


def test_the_scale_is_the_similarity_of_each_pair_and_of_shuffled_ones(tiny_lens, tmp_path):
    store, data = VectorStore(tmp_path / "store.sqlite"), pairs()
    encoder = dl.DySem(tiny_lens, ("en", "fr"), k=0.5)
    assert unread(encoder, store, data) == 2 * len(set(data.texts("en")))
    found = scale(encoder, data, store=store, progress=False)
    assert unread(encoder, store, data) == 0
    columns = {code: data.texts(code) for code in ("en", "fr")}
    encoded = encoder.encode_renderings(columns, progress=False)
    every = encoder.similarity(encoded[:8], encoded[8:])
    np.testing.assert_allclose(found.pairs, every.diag(), atol=1e-5)
    np.testing.assert_allclose(found.related, every.diag()[data.gold >= 4], atol=1e-5)
    # Each second text is met once, and never by the first text of its own pair.
    met = [
        [j for j in range(8) if j != i and abs(every[i, j] - value) < 1e-5]
        for i, value in enumerate(found.unrelated)
    ]
    assert all(met)
    assert found.unrelated.mean() == pytest.approx(
        scale(encoder, data, store=store, progress=False).unrelated.mean()
    )
    assert list(found.unrelated) != list(
        scale(encoder, data, store=store, seed=5, progress=False).unrelated
    )


def test_a_place_is_counted_and_pairs_without_similarity_are_left_out():
    found = Scale("it", np.array([0.1, 0.4, np.nan]), np.array([0.4]), np.array([0.0, 0.2]), 0)
    said = found.place(0.3)
    assert said == (
        "higher than 50 % of the 2 pairs of it; than 0 % of the 1 related ones, and than 100 % of "
        "2 unrelated ones"
    )
    assert found.place(0.4) == (
        "higher than 50 % of the 2 pairs of it (50 % have the same); than 0 % of the 1 related "
        "ones, and than 100 % of 2 unrelated ones"
    )
    assert "no similarity" in found.place(float("nan"))
    # Read in a batch of other lengths, a pair of the corpus is not above itself.
    for noise in (-3e-7, 3e-7):
        assert found.place(0.4 + noise) == found.place(0.4)
        assert found.above(0.2 + noise) == "50 %"


def test_the_time_is_told_by_the_first_passes(tiny_lens, tmp_path):
    store, data = VectorStore(tmp_path / "store.sqlite"), pairs(20)
    encoder = dl.PromptEncoder(tiny_lens)
    n, clock = unread(encoder, store, data), iter([0.0, 4.0])
    assert seconds_needed(encoder, store, data, lambda: next(clock)) == 4.0 / 16 * (n - 16)
    assert unread(encoder, store, data) == n - 16
    scale(encoder, data, store=store, progress=False)
    assert seconds_needed(encoder, store, data) == 0


def test_what_has_no_scale_is_refused(tiny_lens):
    encoder = dl.DySem(tiny_lens, ("en", "de"), k=0.5)
    with pytest.raises(InputError, match="made up has no de, so there is no scale in en/de"):
        scale(encoder, pairs())
    with pytest.raises(InputError, match="has 1 pair; a scale needs 2 or more"):
        scale(dl.PromptEncoder(tiny_lens), pairs(1))
