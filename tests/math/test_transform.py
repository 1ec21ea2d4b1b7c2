"""Transforms against numpy and scikit-learn, by hand, and on the encoders that have them."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

import dysem_lab as dl
from dysem_lab.data.fit_texts import fit_texts
from dysem_lab.encoders.maps import (
    FITTED,
    PROJECTIONS,
    fewest_texts,
    fitted,
    principal,
    random_rotation,
    rotated,
)
from dysem_lab.encoders.transform import KINDS, Transform
from dysem_lab.errors import InputError
from dysem_lab.joint import cosine

pytestmark = pytest.mark.usefixtures("_one_thread")
FIT = ["A cat sleeps.", "It is raining.", "She plays chess.", "Two men talk.", "The sun is out."]
TEXTS = ["A dog runs.", "A man eats."]
FRENCH = ["Un chien court.", "Un homme mange."]


def normal(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def test_hand_computed_cases():
    fit = torch.tensor([[1.0, 0.0], [3.0, 4.0]]).repeat(2, 1)  # mean (2, 2), deviations (1, 2)
    x = torch.tensor([[3.0, 2.0], [2.0, 0.0]])
    assert fitted("centre", fit)(x).tolist() == [[1.0, 0.0], [0.0, -2.0]]
    assert fitted("z", fit)(x).tolist() == [[1.0, 0.0], [0.0, -1.0]]
    # (3, 2) along (1, 1)/√2 is 5/√2, so (2.5, 2.5) goes.
    found = fitted("mean_direction", fit)(x)
    torch.testing.assert_close(found, torch.tensor([[0.5, -0.5], [1.0, -1.0]]))
    # The one principal direction is (1, 2)/√5: (1, 0) leaves (1, 0) − (1, 2)/5.
    found = fitted("all_but_the_top", fit, 1)(x[:1])
    torch.testing.assert_close(found, torch.tensor([[0.8, -0.4]]))
    found = fitted("pca", fit, 1)(x[:1])
    torch.testing.assert_close(found.abs(), torch.tensor([[5**-0.5]]))
    # The variance along it is that of twice ±√5, which is 20/3.
    found = fitted("whitening", fit, 1)(x[:1])
    torch.testing.assert_close(found.abs(), torch.tensor([[(100 / 3) ** -0.5]]))


def test_the_projections_are_those_of_scikit_learn():
    fit, x = normal(0, 40, 12), normal(1, 6, 12)
    for kind, whiten in (("pca", False), ("whitening", True)):
        found = fitted(kind, fit, 5)(x).numpy()
        expected = PCA(5, whiten=whiten, svd_solver="full").fit(fit.numpy()).transform(x.numpy())
        np.testing.assert_allclose(abs(found), abs(expected), atol=1e-10)  # signs are free
    found = fitted("z", fit)(x).numpy()
    np.testing.assert_allclose(found, StandardScaler().fit(fit).transform(x), atol=1e-10)


@given(st.integers(0, 10_000), st.integers(2, 8), st.integers(1, 4))
def test_whitened_fitting_texts_have_identity_covariance(seed, d, scale):
    fit = 10.0**scale * normal(seed, 5 * d, d) * torch.linspace(0.1, 3, d).double()
    white = fitted("whitening", fit, d)(fit).numpy()
    np.testing.assert_allclose(np.cov(white.T), np.eye(d), atol=1e-8)


@given(st.integers(0, 10_000), st.integers(2, 16))
def test_a_rotation_is_orthogonal_and_keeps_cosines(seed, d):
    rotation = random_rotation(d, seed)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(d), atol=1e-12)
    x, y = normal(seed, 5, d), normal(seed + 1, 5, d)
    found = cosine(rotated(x, rotation), rotated(y, rotation))
    np.testing.assert_allclose(found, cosine(x, y), atol=1e-12)
    assert not torch.equal(rotation, random_rotation(d, seed + 1))


def test_rotations_are_uniform():
    """Whatever QR's signs are, no entry has a preferred sign."""
    first = torch.stack([random_rotation(2, seed)[0, 0] for seed in range(400)])
    assert abs(first.mean()) < 0.12  # standard deviation 0.035
    assert (first > 0).double().mean().item() == pytest.approx(0.5, abs=0.1)


@given(st.integers(0, 10_000), st.sampled_from(FITTED))
def test_all_compute_in_float64_and_keep_the_precision(seed, kind):
    fit, x = normal(seed, 12, 6), normal(seed + 1, 3, 6)
    change = fitted(kind, fit, 2)
    exact, single = change(x), change(x.float())
    assert (exact.dtype, single.dtype) == (torch.float64, torch.float32)
    np.testing.assert_allclose(exact, single, rtol=1e-4, atol=1e-5)
    several = change(x[None].expand(4, 3, 6))  # whatever stands before d
    np.testing.assert_allclose(several[2], exact, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "vectors", "k", "said"),
    [
        ("pca", torch.randn(5, 8), 5, r"k=5 needs at least 6 .* got 5; .* use a smaller k"),
        ("whitening", torch.randn(7, 8), 5, r"k=5 needs at least 8 fitting texts that differ"),
        ("z", torch.randn(3, 8), None, r"'z' needs at least 4 .*, got 3; .* or use 'centre'"),
        ("whitening", torch.randn(5, 8), 9, "k=9 principal directions are more than the 8"),
        ("all_but_the_top", torch.randn(3, 8), None, r"k=3 needs at least 4 .* got 3"),
        ("whitening", torch.randn(2, 8).repeat(5, 1), 3, "span 1 directions, fewer than k=3"),
        ("pca", torch.randn(5, 8), None, "needs k"),
        ("centre", torch.randn(1, 8), None, "'centre' needs at least 2 .* got 1; fit on more"),
        ("centre", torch.randn(8), None, r"vectors \[n, d\], got \(8,\)"),
        ("centre", torch.tensor([[1.0, float("nan")], [1.0, 2.0]]), None, "NaN"),
        (
            "z",
            torch.tensor([[1.0, 5.0], [2.0, 5.0]]).repeat(2, 1),
            None,
            "1 has one value in all 4",
        ),
        ("mean_direction", torch.tensor([[1.0, 5.0], [-1.0, -5.0]]), None, "no direction"),
        ("centring", torch.randn(4, 8), None, "unknown transform"),
    ],
)
def test_what_cannot_be_fitted_is_refused(kind, vectors, k, said):
    with pytest.raises(InputError, match=said):
        fitted(kind, vectors, k)


@pytest.mark.parametrize(("kind", "k"), [("z", 1), ("whitening", 1), ("whitening", 4)])
def test_with_fewer_texts_a_scaled_vector_has_no_expected_length(kind, k):
    """Squared lengths of other vectors, by draws: their mean is finite from the least number on.

    Of normal values it is k (n + 1) (n − 1) / (n (n − k − 2)), of z-scores n / (n − 1) times that.
    """
    n = fewest_texts(kind, k) + 6  # far enough from it for a mean of draws
    found = torch.stack(
        [fitted(kind, normal(seed, n, k), k)(normal(10**6 + seed, 50, k)) for seed in range(600)]
    )
    expected = k * (n + 1) * (n - 1) / (n * (n - k - 2)) * (n / (n - 1) if kind == "z" else 1)
    assert found.square().sum(-1).mean().item() == pytest.approx(expected, rel=0.06)
    assert fewest_texts(kind, k) - k - 2 == 1  # the first n for which the divisor is above 0


def test_principal_directions_are_those_of_the_covariance():
    x = normal(4, 30, 6)
    directions, variances = principal(x, 6)
    values, _ = np.linalg.eigh(np.cov(x.numpy().T))
    np.testing.assert_allclose(variances, values[::-1], atol=1e-10)
    np.testing.assert_allclose(directions.T @ directions, np.eye(6), atol=1e-12)


def test_fitting_texts_are_different_ones_and_named():
    data = dl.load_data("demo", languages=("en", "fr"))
    texts = fit_texts("demo", ("en", "fr"))
    assert texts.name == f"{len(set(data.texts('en')))} texts of demo"
    assert list(texts.renderings) == ["en", "fr"]
    assert texts == fit_texts(data, ("fr",))
    assert fit_texts(["b", "a", "b"], ()).renderings == {"en": ["b", "a"]}
    for given_, said in (
        (["a", "a"], "two different texts"),
        ({"fr": ["a", "b"]}, "unknown language of the texts 'en'"),
        ({"en": ["a", "b"], "fr": ["a"]}, "not aligned"),
        (3, "list of strings"),
    ):
        with pytest.raises(InputError, match=said):
            fit_texts(given_, ("fr",))


@pytest.mark.parametrize("kind", FITTED)
def test_a_dense_encoder_is_changed_in_one_line(tiny_lens, kind):
    encoder = dl.PromptEncoder(tiny_lens)
    k = 2 if kind in PROJECTIONS else None
    changed = Transform(kind, fit=FIT, k=k)(encoder, progress=False)
    before = encoder.encode([*FIT, *TEXTS], progress=False).vectors
    expected = fitted(kind, before[: len(FIT)], k)(before[len(FIT) :])
    found = changed.encode(TEXTS, progress=False)
    torch.testing.assert_close(found.vectors, expected, rtol=1e-3, atol=1e-4)
    assert found.vectors.shape == (2, changed.width)
    assert found.full
    assert "5 texts" in changed.name
    assert "5 texts" in changed.facts.name
    assert changed.facts.fingerprint != encoder.facts.fingerprint
    assert changed.config["fit"] == "5 texts"
    assert (changed.passes, changed.blocks) == (encoder.passes, encoder.blocks)
    similarity = changed.similarity_pairwise(found, found)
    np.testing.assert_allclose(similarity, 1, atol=1e-5)
    elsewhere = dl.sentence_encoder(changed).encode(TEXTS)
    np.testing.assert_allclose(np.asarray(elsewhere), found.vectors, rtol=1e-5)


def test_no_setting_is_lost_of_a_change_of_a_change_or_beside_k(tiny_lens):
    encoder = dl.DySem(tiny_lens, ("en",), k=9)
    inner = Transform("z", FIT)(encoder, progress=False)
    assert inner.config["transform"] == "z"
    assert "of" not in inner.config
    dense = Transform("all_but_the_top", FIT, k=2)(dl.PromptEncoder(tiny_lens), progress=False)
    outer = Transform("centre", [*TEXTS, "It snows."])(inner, progress=False)
    assert outer.config["transform"] == "centre"
    assert outer.config["of"] == inner.config
    assert outer.config["encoder"] == "DySem"
    whole = Transform("mean_direction", ["It rains.", "It blows."])(outer, progress=False).config
    assert whole["of"]["of"]["transform"] == "z"
    assert "of" not in dense.config  # a dense encoder has no k
    with_k = Transform("all_but_the_top", FIT, k=2)(encoder, progress=False).config
    assert (with_k["k"], with_k["of"]["k"]) == (2, 9)


def test_an_encoder_with_sets_keeps_them_when_its_vectors_change(tiny_lens):
    dysem = dl.DySem(tiny_lens, ("en", "fr"), dl.ParallelTable({"en": TEXTS, "fr": FRENCH}), k=9)
    fit = {"en": FIT, "fr": [f"Oui, {text}" for text in FIT]}
    plain = dysem.encode(TEXTS, progress=False)
    changed = Transform("centre", fit)(dysem, progress=False)
    found = changed.encode(TEXTS, progress=False)
    assert torch.equal(found.sets, plain.sets)
    mean = dysem.encode_renderings(fit, progress=False).vectors.double().mean(0)
    torch.testing.assert_close(found.vectors, (plain.vectors.double() - mean).float())
    with pytest.raises(InputError, match="other coordinates"):
        Transform("pca", fit, k=2)(dysem)


@pytest.mark.parametrize("vector", ["mean", "source"])
def test_a_rotation_comes_before_the_sets_are_chosen(tiny_lens, vector):
    dysem = dl.DySem(tiny_lens, ("en", "fr"), k=9, vector=vector)
    renderings = {"en": TEXTS, "fr": FRENCH}
    changed = Transform("rotation", seed=4)(dysem)
    found = changed.encode_renderings(renderings, progress=False)
    s = []
    for code, texts in renderings.items():
        prompts = dl.wrap(texts, "prompteol", "language-specific", code)
        s.append(dl.capture(tiny_lens, prompts, "attn")["attn"])
    s = torch.stack(s, dim=1) @ random_rotation(tiny_lens.d_model, 4).float()
    torch.testing.assert_close(found.vectors, s.mean(1) if vector == "mean" else s[:, 0])
    assert torch.equal(found.sets, dl.consensus_set(s, 9))
    assert changed.name == f"{dysem.name}, rotated at random, seed 4"
    plain = dysem.encode_renderings(renderings, progress=False)  # which stays as it was
    assert not torch.equal(plain.sets, found.sets)


def test_each_language_is_centred_on_its_own_mean_before_the_consensus(tiny_lens):
    dysem = dl.DySem(tiny_lens, ("en", "fr"), k=9)
    fit = {"en": FIT, "fr": [f"Oui, {text}" for text in FIT]}
    renderings = {"en": TEXTS, "fr": FRENCH}
    changed = Transform("per_language", fit)(dysem, progress=False)
    found = changed.encode_renderings(renderings, progress=False)
    centred = []
    for code, texts in renderings.items():
        read = [
            dl.capture(tiny_lens, dl.wrap(part, "prompteol", "language-specific", code), "attn")
            for part in (texts, fit[code])
        ]
        centred.append(read[0]["attn"] - read[1]["attn"].mean(0))
    s = torch.stack(centred, dim=1)
    torch.testing.assert_close(found.vectors, s.mean(1), rtol=1e-3, atol=1e-5)
    assert torch.equal(found.sets, dl.consensus_set(s, 9))
    dense = Transform("per_language", fit)(dl.PromptEncoder(tiny_lens), progress=False)
    plain = dl.PromptEncoder(tiny_lens)
    expected = plain.encode(FRENCH).vectors - plain.encode(fit["fr"]).vectors.mean(0)
    torch.testing.assert_close(
        dense.encode(FRENCH, language="fr").vectors, expected, rtol=1e-3, atol=1e-4
    )
    with pytest.raises(InputError, match="no fitting texts in 'de', only in en, fr"):
        dense.encode(FRENCH, language="de")


def test_a_rotated_dense_encoder_has_the_same_similarities(tiny_lens):
    encoder = dl.PromptEncoder(tiny_lens)
    x, y = encoder.encode(TEXTS), Transform("rotation")(encoder).encode(TEXTS)
    np.testing.assert_allclose(encoder.similarity(y, y), encoder.similarity(x, x), atol=1e-5)


def test_texts_that_were_fitted_on_are_counted(tiny_lens):
    changed = Transform("centre", FIT)(dl.PromptEncoder(tiny_lens), progress=False)
    with pytest.warns(UserWarning, match="1 of 2 texts are among those that 'centre' was fitted"):
        changed.encode([FIT[0], TEXTS[0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        changed.encode(TEXTS)


def test_wrong_settings_are_refused(tiny_lens, tmp_path):
    encoder = dl.PromptEncoder(tiny_lens)
    for call, said in (
        (lambda: Transform("center"), "did you mean 'centre'"),
        (lambda: Transform("pca"), "'pca' needs k"),
        (lambda: Transform("z", k=3), "k=3 goes with pca, whitening, all_but_the_top"),
        (lambda: Transform("rotation", seed=-1), "seed"),
        (lambda: Transform("centre")("prompteol"), "takes an encoder"),
        (
            lambda: Transform("pca", FIT, k=5)(encoder, progress=False),
            "k=5 needs at least 6 fitting",
        ),
        (lambda: Transform("z", FIT[:2])(encoder, progress=False), "at least 4 fitting texts"),
        (lambda: Transform("centre", FIT[:1])(encoder), "two different texts"),
    ):
        with pytest.raises(InputError, match=said):
            call()
    changed = Transform("centre", FIT)(encoder, progress=False)
    with pytest.raises(InputError, match="fitted anew"):
        type(changed).load(changed.save(tmp_path / "saved.json"))
    assert len(KINDS) == 8
