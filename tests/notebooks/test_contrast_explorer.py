"""A contrast while its settings move, against hooks of our own on an untouched model."""

import math
import warnings
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dysem_lab.encoders.base import PromptEncoder
from dysem_lab.encoders.contrastive import ContrastivePrompting
from dysem_lab.errors import InputError
from dysem_lab.explorers.contrast_explorer import effect_text, explore_contrast
from dysem_lab.models.loading import load_model
from dysem_lab.models.readout import next_token_probabilities
from dysem_lab.models.record import counted
from dysem_lab.models.steering import Contrast, as_edit
from dysem_lab.prompts import wrap
from dysem_lab.questions.contrast_effect import (
    contrast_effect,
    figure,
    read_effect,
    remark,
)
from dysem_lab.questions.steered import SteeredTexts
from tests.notebooks.conftest import run_lines
from tests.notebooks.test_attention_explorer import passes

pytestmark = pytest.mark.usefixtures("_one_thread")

TEXTS = ["A dog sleeps.", "A cat naps.", "Rain fell on the long road.", "猫が眠っている。."]
PROMPT = 'This sentence : "{}" means in one word:"'
AUXILIARY = 'The irrelevant information of this sentence : "{}" means in one word:"'


def by_hooks(folder, text, contrast, n_blocks):
    """Return the next-token probabilities and h after some blocks, from an untouched model."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    stream, minus, handles = {}, [], []
    for i, block in enumerate(model.model.layers):

        def keep(_, inputs, output, i=i):
            stream[i] = (output[0] if isinstance(output, tuple) else output)[0, -1]

        handles.append(block.register_forward_hook(keep))
    if contrast is not None:
        block = model.model.layers[contrast.layer]

        def changed(vectors):
            if not minus:
                minus.append(vectors[0, -1].clone())
                return vectors
            vectors = vectors.clone()
            difference = vectors[0, -1] - minus[0]
            if contrast.norm == "scaling":
                vectors[0, -1] = contrast.alpha * difference
            else:
                old = math.sqrt(sum(float(x) ** 2 for x in vectors[0, -1]))
                new = math.sqrt(sum(float(x) ** 2 for x in difference))
                vectors[0, -1] = difference * old / new
            return vectors

        if contrast.position == "heads":
            handle = block.self_attn.o_proj.register_forward_pre_hook(
                lambda _, inputs: (changed(inputs[0]),)
            )
        else:
            handle = block.mlp.register_forward_hook(lambda _, inputs, output: changed(output))
        handles.append(handle)
        with torch.no_grad():
            model(**tokenizer([AUXILIARY.format(text)], return_tensors="pt"))
    with torch.no_grad():
        logits = model(**tokenizer([PROMPT.format(text)], return_tensors="pt")).logits[0, -1]
    for handle in handles:
        handle.remove()
    return logits.softmax(-1), stream[n_blocks - 1]


@pytest.mark.parametrize("architecture", ["Llama", "Qwen3", "Phi3", "Gemma2"])
@pytest.mark.parametrize(
    "contrast",
    # At block 0 of the tiny Gemma 2 the last token's window is all template: D is rounding alone.
    [None, Contrast(1, alpha=1.5), Contrast(1, "recovering"), Contrast(1, position="ffn")],
    ids=str,
)
def test_predictions_and_embeddings_are_those_of_plain_hooks(tiny_folder, architecture, contrast):
    folder = tiny_folder(architecture)
    found = SteeredTexts(load_model(folder), TEXTS).read(contrast, 2)
    for i, text in enumerate(TEXTS):
        probabilities, vector = by_hooks(folder, text, contrast, 2)
        torch.testing.assert_close(found.vectors[i], vector, atol=2e-4, rtol=1e-3)
        if i == 0:
            torch.testing.assert_close(found.probabilities, probabilities, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize(
    "contrast",
    [
        Contrast(1, "self_scaling", 0.5),
        Contrast(1, "head_recovering", heads=(0, 2)),
        Contrast(0, "scaled_recovering", 3, "hidden", "sentiment"),
        Contrast(1, position="released_ffn"),
    ],
    ids=str,
)
def test_every_setting_equals_the_encoder_and_the_predictions_of_the_package(
    tiny_lens, monkeypatch, shares, contrast
):
    monkeypatch.setattr(tiny_lens, "shares_prefix", shares)
    found = SteeredTexts(tiny_lens, TEXTS).read(contrast, "penultimate")
    of = replace(contrast)
    encoder = ContrastivePrompting(
        tiny_lens, of.layer, of.norm, of.alpha, of.position, "penultimate", "prompteol",
        of.auxiliary, of.heads,
    )  # fmt: skip
    torch.testing.assert_close(found.vectors, encoder.encode(TEXTS).vectors, atol=2e-5, rtol=1e-4)
    expected = next_token_probabilities(tiny_lens, wrap(TEXTS[:1]), as_edit(tiny_lens, contrast))[0]
    torch.testing.assert_close(found.probabilities, expected, atol=1e-6, rtol=1e-4)


def test_a_setting_costs_one_pass_of_last_tokens_and_the_plain_prompt_is_read_once(tiny_lens):
    texts = SteeredTexts(tiny_lens, TEXTS)
    texts.read(None)
    with counted(tiny_lens) as work:
        texts.read(None)
    assert work.tokens == 0
    texts.read(Contrast(0))  # the auxiliary prompt runs
    for contrast in (
        Contrast(1, alpha=3.0),
        Contrast(0, "recovering"),
        Contrast(1, position="ffn"),
    ):
        with counted(tiny_lens) as work:
            texts.read(contrast)
        assert work.tokens == 3 * len(TEXTS)  # one token of each text through three blocks


def test_the_view_names_the_most_probable_tokens_and_compares_with_the_probes(tiny_lens):
    contrast = Contrast(1)
    view = read_effect(SteeredTexts(tiny_lens, TEXTS), contrast, "last", 5)
    plain = next_token_probabilities(tiny_lens, wrap(TEXTS[:1]))[0]
    steered = next_token_probabilities(tiny_lens, wrap(TEXTS[:1]), as_edit(tiny_lens, contrast))[0]
    assert view.moved == pytest.approx(float((plain - steered).abs().sum()) / 2, abs=1e-5)
    for variant, p in (("plain", plain), (str(contrast), steered)):
        rows = view.tokens[view.tokens["variant"] == variant]
        order = sorted(range(len(p)), key=lambda i: -float(p[i]))[:5]
        assert rows["id"].tolist() == order
        assert rows["probability"].tolist() == pytest.approx([float(p[i]) for i in order], rel=1e-3)
        best = set(plain.topk(5).indices.tolist())
        assert rows["known"].tolist() == [i in best for i in order]
    encoders = {
        "plain": PromptEncoder(tiny_lens, output_layer="last"),
        "steered": ContrastivePrompting(tiny_lens, 1, output_layer="last"),
    }
    assert view.probes["probe"].tolist() == TEXTS[1:]
    for name, encoder in encoders.items():
        text, *probes = encoder.encode(TEXTS).vectors.double()
        cosines = [float(text @ p / text.norm() / p.norm()) for p in probes]
        assert view.probes[name].tolist() == pytest.approx(cosines, abs=1e-5)
    assert view.probes["change"].tolist() == pytest.approx(
        [b - a for a, b in zip(view.probes["plain"], view.probes["steered"], strict=True)]
    )
    assert (
        "layer 2, scaling, α = 2, at the heads, before the output projection, auxiliary "
        "'irrelevant'" in view.measured_on
    )
    drawn = figure(view)
    assert list(drawn.data[1].x) == view.tokens["probability"].tolist()[5:]
    assert list(drawn.data[4].x) == view.probes["steered"].tolist()
    assert "猫が眠っている。." in effect_text(view)


def test_the_finding_has_tokens_and_probes_in_one_table_and_says_what_was_asked(tiny_lens):
    contrast = Contrast(1, alpha=2.5)
    view = read_effect(SteeredTexts(tiny_lens, TEXTS), contrast, "last", 5)
    finding = contrast_effect(tiny_lens, TEXTS[0], contrast, TEXTS[1:], output_layer="last", top=5)
    tokens, probes = (
        finding.table[finding.table["shown"] == shown] for shown in ("next token", "probe")
    )
    assert tokens["probability"].tolist() == view.tokens["probability"].tolist()
    assert tokens["id"].tolist() == view.tokens["id"].tolist()
    for variant, column in (("plain", "plain"), (str(contrast), "steered")):
        rows = probes[probes["variant"] == variant]
        assert rows["probe"].tolist() == TEXTS[1:]
        assert rows["cosine"].tolist() == view.probes[column].tolist()
    assert f"{view.moved:.1%} of the probability of the next token moves" in str(finding)
    assert f"“{TEXTS[1]}” {view.probes['plain'][0]:.4f} plain" in str(finding)
    assert str(finding.facts) == view.measured_on
    recorded = finding.facts.record()
    assert recorded["parameters"]["contrast"] == contrast.settings
    assert [one["label"] for one in recorded["data"]] == TEXTS


def test_what_has_no_effect_in_gemma_is_said_in_a_sentence(tiny_folder):
    gemma, llama = (load_model(tiny_folder(name)) for name in ("Gemma2", "Llama"))
    assert "alpha has no effect at position 'heads'" in remark(gemma, Contrast(1))
    assert remark(gemma, Contrast(1, position="hidden")) == ""
    assert remark(llama, Contrast(1)) == ""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        panel = explore_contrast(gemma, "Hi.", ["Ho."], contrast=Contrast(1))
        assert "alpha has no effect" in panel.text
        panel.set(position="hidden").wait()
    assert panel.message == ""
    assert "alpha has no effect" not in panel.text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"contrast": Contrast(3)}, "layer must be between 0 and 2 for .*, got 3"),
        ({"contrast": Contrast(2), "output_layer": 2}, "output_layer 2 is read before block 2"),
        ({"output_layer": "first"}, "unknown output layer 'first'"),
        ({"top": 0}, "top must be a whole number of at least 1, got 0"),
        ({"template": "none"}, "template 'none' has no prompt to contrast"),
        ({"text": ""}, "text 0 is empty"),
    ],
)
def test_errors_name_the_bad_value_and_the_remedy(tiny_lens, change, said):
    settings = {"text": "Hi.", "contrast": Contrast(0), "probes": ["Ho."], **change}
    with pytest.raises(InputError, match=said):
        contrast_effect(tiny_lens, **settings)


def test_a_text_without_probes_is_shown_too(tiny_lens):
    finding = contrast_effect(tiny_lens, "Hi.", Contrast(0), [])
    assert len(finding.figure.data[0].x) == 10
    assert finding.table["shown"].unique().tolist() == ["next token"]


def test_sliders_run_last_tokens_only_and_what_was_seen_runs_nothing(tiny_lens):
    panel = explore_contrast(tiny_lens, "Hi.", ["Ho there.", "No."], contrast=Contrast(0))
    assert panel.message == ""
    before = panel.figure.to_json()
    with passes(tiny_lens) as widths:
        panel.set(layer=2, alpha=3.5).wait()
    assert panel.message == ""
    assert set(widths) == {1}
    expected = read_effect(
        SteeredTexts(tiny_lens, ["Hi.", "Ho there.", "No."]), Contrast(1, alpha=3.5)
    )
    shown = panel.figure.data[1].x
    assert list(shown) == pytest.approx(expected.tokens["probability"].tolist()[10:], rel=1e-4)
    with passes(tiny_lens) as widths:
        panel.set(layer=1, alpha=2.0).wait()
    assert widths == []
    assert panel.figure.to_json() == before
    menus = {name: dict(panel.controls[name].options) for name in ("auxiliary", "output_layer")}
    assert menus["auxiliary"]["asks for the irrelevant information"] == "irrelevant"
    assert menus["output_layer"]["after block 2"] == 2
    assert menus["output_layer"]["after the last block but one"] == "penultimate"
    panel.set(layer=3, output_layer=2).wait()
    assert panel.message == (
        "the vector is read after block 2, which the contrast at layer 3 does not reach; choose a "
        "lower Layer, or open Settings and choose a later block under Vector read"
    )
    panel.set(output_layer="last", probes="A line.\n\n Another one.").wait()
    assert panel.message == ""
    assert "Another one." in panel.text


def test_the_line_of_python_reproduces_the_view(tiny_lens):
    panel = explore_contrast(tiny_lens, 'He\'s "in".', ["Ho."], contrast=Contrast(0), top=4)
    panel.set(norm="recovering", position="hidden", output_layer=3, auxiliary="entity").wait()
    assert panel.message == ""
    found = run_lines(panel.python, {"lens": tiny_lens})
    assert found.figure.to_json() == panel.figure.to_json()


def test_the_embedded_model_predicts_as_the_package_does_elsewhere(embedded):
    lens = embedded("smollm2-135m-instruct")
    contrast = Contrast(4)
    texts = SteeredTexts(lens, ["A dog sleeps.", "A puppy naps on the sofa."])
    found = texts.read(contrast, "penultimate")
    expected = next_token_probabilities(lens, wrap(["A dog sleeps."]), as_edit(lens, contrast))[0]
    torch.testing.assert_close(found.probabilities, expected, atol=1e-4, rtol=1e-2)
    encoder = ContrastivePrompting(lens, 4)
    vectors = encoder.encode(texts.texts).vectors
    error = (found.vectors - vectors).norm(dim=1) / vectors.norm(dim=1)
    assert float(error.max()) < 1e-3
