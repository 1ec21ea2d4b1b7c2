"""EmbedFilter against numpy's singular values and an untouched model."""

import numpy as np
import pytest
import torch

import dysem_lab as dl
from dysem_lab.encoders import embed_filter
from dysem_lab.errors import InputError

pytestmark = pytest.mark.usefixtures("_one_thread")
TEXTS = ["A dog sleeps.", "Nobody knows the way.", "Rain fell on the roof."]


@pytest.mark.parametrize(
    ("ratio", "kept"), [(1, slice(0, 32)), (2, slice(8, 24)), (5, slice(13, 19))]
)
def test_coordinates_are_along_the_middle_singular_vectors(tiny_lens, plain_llama, ratio, kept):
    encoder = dl.EmbedFilter(tiny_lens, ratio)
    found = encoder.encode(TEXTS, progress=False).vectors.numpy()
    prompts = [f'This sentence : "{text}" means in one word:"' for text in TEXTS]
    with torch.no_grad():
        states = [
            plain_llama(
                **tiny_lens.tokenizer(prompt, return_tensors="pt"), output_hidden_states=True
            ).hidden_states[-1][0, -1]
            for prompt in prompts
        ]
    v = np.linalg.svd(plain_llama.lm_head.weight.detach().double().numpy())[2]
    expected = torch.stack(states).double().numpy() @ v[kept].T
    assert found.shape == expected.shape == (3, encoder.width)
    np.testing.assert_allclose(abs(found), abs(expected), atol=1e-4)  # signs mean nothing
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-3)


def test_ratio_1_changes_no_cosine(tiny_lens):
    plain, whole = dl.PromptEncoder(tiny_lens), dl.EmbedFilter(tiny_lens, 1)
    x, y = (one.encode(TEXTS, progress=False) for one in (plain, whole))
    torch.testing.assert_close(whole.similarity(y, y), plain.similarity(x, x), atol=1e-5, rtol=0)


def test_the_spectrum_is_read_in_pieces(monkeypatch):
    weights = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    whole = embed_filter.spectrum(weights)
    monkeypatch.setattr(embed_filter, "ROWS", 7)
    torch.testing.assert_close(embed_filter.spectrum(weights).abs(), whole.abs())
    s = torch.linalg.svdvals(weights.double())
    torch.testing.assert_close((weights.double() @ whole).norm(dim=0), s)


def test_settings_are_saved_and_what_has_no_meaning_is_refused(tiny_lens, tmp_path):
    encoder = dl.EmbedFilter(tiny_lens, 4, "knowledge")
    again = dl.EmbedFilter.load(encoder.save(tmp_path / "filter.json"), tiny_lens)
    assert again.config == encoder.config
    assert again.name == "Knowledge Enhancement (final) + EmbedFilter (d/4)" or again.name
    assert again.blocks == tiny_lens.n_layers
    for ratio in (0, 1.5, 33):
        with pytest.raises(InputError, match="ratio must be"):
            dl.EmbedFilter(tiny_lens, ratio)
    with pytest.raises(InputError):  # heads do not write in its coordinates
        dl.explain(encoder, *TEXTS[:2], by="head", centre=None, progress=False)
