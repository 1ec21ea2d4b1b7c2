"""KV-Embedding against Hugging Face's own model with one key and value more in its attention."""

import math

import numpy as np
import pytest
import torch
from transformers import AttentionInterface, AutoModelForCausalLM

import dysem_lab as dl
from dysem_lab.encoders.kv_embedding import KVEmbedding, intrinsic_dimension
from dysem_lab.errors import InputError
from dysem_lab.models.loading import load_model

pytestmark = pytest.mark.usefixtures("_one_thread")
TEXTS = ["A dog sleeps.", "Nobody knows the way home.", "Rain"]
BIAS, SLOTS = 0.7, range(1, 3)


def with_slot(module, query, key, value, attention_mask, scaling, softcap=None, **options):
    """Return attention over all earlier tokens, and over a slot that stands before the first."""
    n_tokens = query.shape[2]
    key, value = (
        x.repeat_interleave(query.shape[1] // x.shape[1], 1) if x.shape[1] < query.shape[1] else x
        for x in (key, value)
    )
    behind = torch.arange(n_tokens)[:, None] - torch.arange(n_tokens)
    seen = behind >= 0
    if window := getattr(module, "sliding_window", None):
        seen &= behind < window
    scores = query @ key.transpose(2, 3) * scaling
    slot = query @ key[:, :, -1:].transpose(2, 3) * scaling
    if softcap:
        scores, slot = (softcap * torch.tanh(x / softcap) for x in (scores, slot))
    scores = scores.masked_fill(~seen, -torch.inf)
    if module.layer_idx in SLOTS:
        scores = torch.cat([slot + BIAS, scores], -1)
        value = torch.cat([value[:, :, -1:], value], 2)
    return (scores.softmax(-1) @ value).transpose(1, 2), None


AttentionInterface.register("with_slot", with_slot)


@pytest.mark.parametrize("architecture", ["Llama", "Qwen3", "Gemma2"])
def test_it_is_what_a_model_with_one_more_key_and_value_gives(tiny_folder, architecture):
    folder = tiny_folder(architecture)
    lens = load_model(folder, dtype="float32", device="cpu")
    encoder = KVEmbedding(lens, [1, 3], BIAS)
    found = encoder.encode(TEXTS, progress=False).vectors.numpy()  # in one batch, with padding
    model = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="with_slot", dtype=torch.float32
    )
    expected = []
    for text in TEXTS:
        prompt = f'Context : "{text}" Compress the context in one word:"'
        if not text.endswith("."):
            prompt = prompt.replace(f'{text}"', f'{text}."', 1)
        with torch.no_grad():
            inputs = lens.tokenizer(prompt, return_tensors="pt")
            states = model(**inputs, output_hidden_states=True).hidden_states[-1][0]
        expected.append((states.mean(0) + states[-1]) / 2)
    np.testing.assert_allclose(found, torch.stack(expected).numpy(), atol=2e-4)


def test_a_slot_that_counts_nothing_leaves_the_plain_pass(tiny_lens):
    none = KVEmbedding(tiny_lens, (0, 3), bias=-1e4, template='"{text}" in a word:"')
    much = KVEmbedding(tiny_lens, (0, 3), bias=5.0, template='"{text}" in a word:"')
    prompts = dl.wrap(TEXTS, '"{text}" in a word:"')
    plain = dl.capture(tiny_lens, prompts, ["final", "mean"], progress=False)
    expected = (plain["final"] + plain["mean"]) / 2
    found = none.encode(TEXTS, progress=False).vectors
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (much.encode(TEXTS, progress=False).vectors - expected).abs().max() > 1e-2


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_intrinsic_dimension_of_a_cloud_is_that_of_its_space(n):
    generator = np.random.default_rng(0)
    cloud = generator.random((2000, n)) @ np.linalg.qr(generator.normal(size=(12, n)))[0].T
    assert intrinsic_dimension(torch.from_numpy(cloud)) == pytest.approx(n, rel=0.12)
    same = torch.zeros(5, 3)
    assert math.isnan(intrinsic_dimension(same))


def test_blocks_are_chosen_without_labels_and_settings_come_back(tiny_lens, tmp_path):
    encoder = KVEmbedding(tiny_lens)
    texts = list(dict.fromkeys(dl.load_data("demo").texts("en")))
    states = dl.capture(
        tiny_lens, dl.wrap(texts, encoder.template), "resid", "each", progress=False
    )["resid"]
    least = min(range(3), key=lambda block: intrinsic_dimension(states[:, block]))
    assert encoder.slots == range(max(0, least - 1), min(3, least + 2))
    again = KVEmbedding.load(encoder.save(tmp_path / "kv.json"), tiny_lens)
    assert again.config == encoder.config
    with pytest.raises(InputError, match="bias"):
        KVEmbedding(tiny_lens, bias=math.nan)
