"""Contrastive Prompting against plain PyTorch hooks; cost, stores, threads, refusals."""

import contextlib
import itertools
import json
import math
import re
import threading
import warnings
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from transformers import AutoModelForCausalLM, AutoTokenizer

import dysem_lab as dl
from dysem_lab.encoders.contrastive import (
    ContrastivePrompting,
    check_output,
    contrastive_settings,
)
from dysem_lab.encoders.dysem import DySem
from dysem_lab.errors import InputError, ModelError
from dysem_lab.joint import all_pairs_cosine, cosine
from dysem_lab.models import steering
from dysem_lab.models.capture import capture, fill_contrasts, missing_rows, read_rows
from dysem_lab.models.loading import load_model, locate
from dysem_lab.models.passes import pad, tokenize
from dysem_lab.models.places import COMPONENTS, Place, output_place, places
from dysem_lab.models.record import forward, record
from dysem_lab.models.steering import (
    NORMS,
    POSITIONS,
    AuxiliaryVectors,
    Contrast,
    Intervention,
    contrast_facts,
    contrasted,
)
from dysem_lab.models.store import VectorStore, prompt_key
from dysem_lab.prompts import wrap

pytestmark = pytest.mark.usefixtures("_one_thread")
alpha_may_be_undone = pytest.mark.filterwarnings("ignore:alpha has no effect")

# The papers' prompts, and each sentence as it stands in them.
TEMPLATES = {
    "prompteol": 'This sentence : "{text}" means in one word:"',
    "pretended_cot": 'After thinking step by step , this sentence : "{text}" means in one word:"',
    "knowledge": (
        "The essence of a sentence is often captured by its main subjects and actions, while "
        "descriptive terms provide additional but less central details. With this in mind , this "
        'sentence : "{text}" means in one word:"'
    ),
}
FREE = "In short, {text} is about"
AUXILIARIES = {
    "irrelevant": 'The irrelevant information of this sentence : "{text}" means in one word:"',
    "redundant": 'The redundant information of this sentence : "{text}" means in one word:"',
    "background": 'The background of this sentence : "{text}" means in one word:"',
    "descriptive": 'The descriptive term of this sentence : "{text}" means in one word:"',
    "sentiment": 'The sentence : "{text}" reflects the sentiment in one word:"',
    "entity": 'The sentence : "{text}" highlights the primary entity or relation in one word:"',
}
OWN = "Noise in {text} :"
SENTENCES = {
    "A dog sleeps.": "A dog sleeps.",
    'She said "hello" to all of the neighbours?': "She said 'hello' to all of the neighbours.",
    "猫が眠っている。": "猫が眠っている。.",
}
TEXTS = list(SENTENCES)
# Their windows see the end of a prompt only, so the auxiliary prompt needs an end of its own.
WINDOWED = ("Mistral", "Gemma2")
MANY = [f"{'A very ' * (i % 5)}big thing of kind {i} happens here." for i in range(11)]


# A second implementation: plain hooks on an untouched transformers model


def place(model, position, layer):
    """Return the module of a position, and whether its input is meant."""
    block = model.model.layers[layer]
    return {
        "heads": (block.self_attn.o_proj, True),
        "ffn": (block.mlp, False),
        "hidden": (block, False),
        "released_ffn": (block.mlp, True),
        "released_hidden": (block, True),
    }[position]


def plain_pass(model, tokenizer, prompt, *visits):
    """Run a prompt; each (module, of_input, function) maps a [tokens, width] tensor to a new one.

    Where two visit one module, the second sees what the first made.
    """
    handles = []
    for module, of_input, function in visits:

        def before(_, arguments, function=function):
            return (function(arguments[0][0].clone())[None], *arguments[1:])

        def after(_, arguments, output, function=function):
            parts = output if isinstance(output, tuple) else (output,)
            changed = function(parts[0][0].clone())[None]
            return (changed, *parts[1:]) if isinstance(output, tuple) else changed

        handles.append(
            module.register_forward_pre_hook(before)
            if of_input
            else module.register_forward_hook(after)
        )
    try:
        with torch.no_grad():
            model.model(**tokenizer([prompt], return_tensors="pt"))
    finally:
        for handle in handles:
            handle.remove()


def naive_contrast(v, minus, norm, alpha, d_head):
    """Return what replaces one vector, by the equations."""
    if norm == "self_scaling":
        return alpha * v
    difference = v - minus
    if norm == "scaling":
        return alpha * difference
    if norm == "head_recovering":
        heads = zip(v.split(d_head), difference.split(d_head), strict=True)
        return torch.cat([part * whole.norm() / part.norm() for whole, part in heads])
    recovered = difference * v.norm() / difference.norm()
    return alpha * recovered if norm == "scaled_recovering" else recovered


def plain_embedding(plain, text, contrast, output_layer, template, auxiliary):
    """Return the embedding of one normalised text, from a template and an auxiliary prompt."""
    model, tokenizer = plain
    n_layers, n_heads = model.config.num_hidden_layers, model.config.num_attention_heads
    kept = {}

    def keep_last(name):
        def keep(tensor):
            kept[name] = tensor[-1].clone()
            return tensor

        return keep

    subtracted = "heads" if contrast.position.startswith("released") else contrast.position
    plain_pass(
        model,
        tokenizer,
        auxiliary.replace("{text}", text),
        (*place(model, subtracted, contrast.layer), keep_last("minus")),
    )

    def change(tensor):
        width, d_head = tensor.shape[-1], kept["minus"].shape[-1] // n_heads
        columns = torch.arange(width)
        if contrast.heads is not None:
            columns = torch.cat([columns.split(d_head)[head] for head in contrast.heads])
        tokens = range(len(tensor)) if contrast.norm == "self_scaling" else [len(tensor) - 1]
        for token in tokens:
            tensor[token, columns] = naive_contrast(
                tensor[token, columns],
                kept["minus"][columns],
                contrast.norm,
                contrast.alpha,
                d_head,
            )
        return tensor

    if output_layer == "final":
        read = model.model.norm
    else:
        n_run = {"penultimate": n_layers - 1, "last": n_layers}.get(output_layer, output_layer)
        read = model.model.layers[n_run - 1]
    plain_pass(
        model,
        tokenizer,
        template.replace("{text}", text),
        (*place(model, contrast.position, contrast.layer), change),
        (read, False, keep_last("embedding")),
    )
    return kept["embedding"]


def plain_embeddings(plain, texts, encoder):
    """Return what an encoder's embeddings of raw texts have to be."""
    contrast, template = encoder.contrast, encoder.template
    auxiliary = AUXILIARIES.get(contrast.auxiliary, contrast.auxiliary)
    names = ("pretended_cot", "knowledge") if template == "ck" else (template,)
    of_templates = [
        torch.stack(
            [
                plain_embedding(
                    plain,
                    SENTENCES[text],
                    contrast,
                    encoder.output_layer,
                    TEMPLATES.get(name, name),
                    auxiliary,
                )
                for text in texts
            ]
        )
        for name in names
    ]
    return sum(of_templates) / len(of_templates)


def relative_errors(found, expected):
    return (found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)


def check_against_hooks(lens, plain, settings, texts, tolerance):
    encoder = ContrastivePrompting(lens, **settings)
    found, expected = encoder.encode(texts).vectors, plain_embeddings(plain, texts, encoder)
    assert found.dtype == torch.float32
    assert found.shape == (len(texts), lens.d_model)
    assert relative_errors(found, expected).max() < tolerance, settings


@pytest.fixture(scope="module")
def pair(tiny_folder):
    """Return a function: architecture → loaded model, and (plain copy, its tokenizer)."""
    made = {}

    def load(architecture):
        if architecture not in made:
            folder = tiny_folder(architecture)
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            made[architecture] = load_model(folder), (model, AutoTokenizer.from_pretrained(folder))
        return made[architecture]

    return load


def norms_and_positions(released=True):
    """Return every norm at every position where it exists."""
    return [
        (norm, position)
        for norm, position in itertools.product(NORMS, POSITIONS)
        if (released or not position.startswith("released"))
        and (norm != "head_recovering" or position == "heads")
    ]


@alpha_may_be_undone
@pytest.mark.parametrize("architecture", ["Llama", "Qwen2", "Qwen3", "Phi3", "Mistral", "Gemma2"])
def test_every_norm_at_every_position_equals_plain_hooks(pair, architecture):
    lens, plain = pair(architecture)
    auxiliaries = [*AUXILIARIES, OWN]
    if architecture in WINDOWED:
        auxiliaries = ["sentiment", "entity", OWN]
    # Layers, outputs, prompts and α go round with periods that differ.
    rounds = zip(
        norms_and_positions(released=architecture != "Qwen3"),
        itertools.cycle([(0, 2), (1, "penultimate"), (2, "last"), (0, 1), (1, "final")]),
        itertools.cycle(["prompteol", "pretended_cot", "knowledge", "ck", FREE, "prompteol"]),
        itertools.cycle(auxiliaries),
        itertools.cycle([0.5, -1.5, 3]),
        strict=False,
    )
    for (norm, position), (layer, output_layer), template, auxiliary, alpha in rounds:
        settings = {
            "layer": layer,
            "norm": norm,
            "alpha": alpha,
            "position": position,
            "output_layer": output_layer,
            "template": template,
            "auxiliary": auxiliary,
        }
        check_against_hooks(lens, plain, settings, TEXTS, 1e-4)


def test_every_layer_and_every_later_output_equal_plain_hooks(pair):
    lens, plain = pair("Llama")
    outputs = {1: 1, 2: 2, 3: 3, "penultimate": 2, "last": 3, "final": 3}
    n_checked = 0
    for layer, (output_layer, n_run) in itertools.product(range(3), outputs.items()):
        if n_run > layer:
            settings = {"layer": layer, "output_layer": output_layer}
            check_against_hooks(lens, plain, settings, TEXTS[:2], 1e-4)
            n_checked += 1
    assert n_checked == 6 + 5 + 3


@pytest.mark.parametrize("template", [*TEMPLATES, "ck", FREE])
def test_every_template_with_every_auxiliary_prompt_equals_plain_hooks(pair, template):
    lens, plain = pair("Llama")
    for auxiliary in (*AUXILIARIES, *AUXILIARIES.values(), OWN):
        settings = {"layer": 1, "template": template, "auxiliary": auxiliary}
        check_against_hooks(lens, plain, settings, TEXTS[:1], 1e-4)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("architecture", ["Llama", "Qwen3", "Gemma2"])
def test_chosen_heads_equal_plain_hooks(pair, architecture, norm):
    lens, plain = pair(architecture)
    for heads in [(2,), (0, 3), (3, 0, 1), (0, 1, 2, 3)]:
        settings = {"layer": 1, "norm": norm, "heads": heads, "output_layer": "last"}
        check_against_hooks(lens, plain, settings, TEXTS[:2], 1e-4)
    everything = ContrastivePrompting(lens, 1, "recovering").encode(TEXTS).vectors
    named = ContrastivePrompting(lens, 1, "recovering", heads=range(4)).encode(TEXTS).vectors
    assert torch.allclose(everything, named, atol=1e-5)


EMBEDDED_SETTINGS = {
    "gemma-3-270m": [
        {"output_layer": "penultimate"},
        {"layer": 6, "norm": "head_recovering", "template": "ck", "output_layer": 8},
        {"layer": 3, "position": "ffn", "norm": "recovering", "output_layer": "final"},
        {"layer": 5, "position": "hidden", "norm": "scaled_recovering", "output_layer": 7},
        {"heads": (1, 2), "template": FREE, "auxiliary": "entity", "output_layer": 6},
    ],
    "smollm2-135m-instruct": [
        {"output_layer": 27},
        {"layer": 6, "alpha": 3, "template": "ck", "auxiliary": "sentiment", "output_layer": 9},
        {"layer": 29, "norm": "scaled_recovering", "position": "hidden", "output_layer": "final"},
        {"norm": "recovering", "position": "released_ffn", "output_layer": 8, "template": FREE},
        {"layer": 2, "alpha": 0.5, "position": "released_hidden", "output_layer": 6},
        {"layer": 3, "norm": "self_scaling", "alpha": 1.5, "output_layer": 6},
    ],
}


@alpha_may_be_undone
@pytest.mark.parametrize("name", EMBEDDED_SETTINGS)
def test_embedded_models_equal_plain_hooks(embedded, name):
    lens = embedded(name)
    model = AutoModelForCausalLM.from_pretrained(locate(name), dtype=torch.float32).eval()
    plain = model, lens.tokenizer
    for settings in EMBEDDED_SETTINGS[name]:
        check_against_hooks(lens, plain, settings, TEXTS[1:], 1e-3)


def test_half_precision_gives_float32_close_to_the_full_one(tiny_folder, pair):
    half_lens = load_model(tiny_folder("Llama"), dtype="bfloat16")
    half = ContrastivePrompting(half_lens, 1, alpha=0.5).encode(TEXTS).vectors
    full = ContrastivePrompting(pair("Llama")[0], 1, alpha=0.5).encode(TEXTS).vectors
    assert half.dtype == torch.float32
    assert 0 < relative_errors(half, full).max() < 0.05


def test_order_repeats_and_batches_do_not_matter(pair):
    lens, _ = pair("Llama")
    encoder = ContrastivePrompting(lens, 1)
    alone = torch.cat([encoder.encode([text]).vectors for text in MANY])
    shuffled = [MANY[i] for i in (5, 0, 5, 10, 3, 3)]
    assert torch.allclose(encoder.encode(MANY).vectors, alone, atol=1e-4)
    assert torch.allclose(encoder.encode(shuffled).vectors, alone[[5, 0, 5, 10, 3, 3]], atol=1e-4)
    edit = Intervention(lens, encoder.contrast)
    for budget in (1, 150, 100_000):
        found = capture(lens, wrap(MANY), "resid", 1, edit=edit, tokens_per_batch=budget)["resid"]
        assert torch.allclose(found, alone, atol=1e-4)


def test_no_text_gives_no_embedding_of_the_right_width(tiny_lens):
    for template in ("prompteol", "ck"):
        found = ContrastivePrompting(tiny_lens, 1, template=template).encode([]).vectors
        assert found.shape == (0, tiny_lens.d_model)
        assert found.dtype == torch.float32


# The vectors that replace: `contrasted`

halves = st.floats(-1000, 1000, width=16)


@st.composite
def batches_of_heads(draw):
    """Draw v⁺ and v⁻, [batch, heads, d_head]; some rows are equal, none by rounding alone."""
    shape = draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=4))
    eighths = hnp.arrays(np.int16, shape, elements=st.integers(-8000, 8000))
    plus, minus = (draw(eighths).astype(np.float32) / 8 for _ in range(2))
    if draw(st.booleans()):
        minus[0] = plus[0]
    return torch.from_numpy(plus), torch.from_numpy(minus)


def test_contrasted_equals_a_case_computed_by_hand():
    plus = torch.tensor([[[3.0, 4.0], [0.0, 12.0]]])  # norms 5 and 12, together 13
    minus = torch.tensor([[[0.0, 0.0], [3.0, 8.0]]])
    difference = torch.tensor([[[3.0, 4.0], [-3.0, 4.0]]])  # norms 5 and 5
    expected = {
        "scaling": 2 * difference,
        "recovering": difference * 13 / math.sqrt(50),
        "scaled_recovering": difference * 26 / math.sqrt(50),
        "head_recovering": torch.tensor([[[3.0, 4.0], [-7.2, 9.6]]]),
        "self_scaling": 2 * plus,
    }
    assert set(expected) == set(NORMS)
    for norm, vectors in expected.items():
        found = contrasted(plus, minus, norm, 2.0)
        assert torch.allclose(found, vectors, atol=1e-6), norm
    assert torch.equal(contrasted(plus, None, "self_scaling", 0.5), plus / 2)


def test_what_rounding_leaves_of_equal_vectors_is_no_direction():
    generator = torch.Generator().manual_seed(0)
    plus = torch.randn(3, 4, 8, generator=generator)
    step = torch.randn(3, 4, 8, generator=generator)
    step *= torch.linalg.vector_norm(plus, dim=-1, keepdim=True) / step.norm(dim=-1, keepdim=True)
    for norm in NORMS[:-1]:
        assert not contrasted(plus, plus * (1 + 3e-7), norm).any(), norm
        assert not contrasted(plus, plus + 1e-6 * step, norm).any(), norm
        assert contrasted(plus, plus + 1e-4 * step, norm).all(), norm
        assert not contrasted(plus, plus + 6e-3 * step, norm, dtype=torch.bfloat16).any(), norm
        assert contrasted(plus, plus + 5e-2 * step, norm, dtype=torch.bfloat16).all(), norm


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_prompts_that_differ_outside_the_window_patch_nothing_in(dtype, tiny_folder, monkeypatch):
    lens = dl.load_model(tiny_folder("Gemma2"), dtype=dtype)  # a window of 16 tokens
    made = []

    def spied(*given):
        made.append((given[0].clone(), contrasted(*given)))
        return made[-1][1]

    monkeypatch.setattr("dysem_lab.models.steering.contrasted", spied)
    encoder = dl.ContrastivePrompting(lens, 0, norm="recovering", output_layer="penultimate")
    encoder.encode(["It is raining.", "The cat sleeps on the mat."], progress=False)
    assert any(plus.any() for plus, _ in made)
    assert not any(vectors.any() for _, vectors in made)


@given(batches_of_heads(), st.floats(-8, 8, width=16))
def test_recovering_keeps_norms_and_directions(vectors, alpha):
    plus, minus = vectors
    for row, other in zip(plus, minus, strict=True):
        difference, wanted = row - other, row.norm()
        whole, scaled, per_head = (
            contrasted(row[None], other[None], norm, alpha)[0]
            for norm in ("recovering", "scaled_recovering", "head_recovering")
        )
        if not difference.any():
            assert not whole.any()
            wanted = torch.tensor(0.0)
        assert torch.allclose(whole.norm(), wanted, rtol=1e-5)
        assert torch.allclose(whole * difference.norm(), difference * wanted, rtol=1e-4, atol=1e-5)
        assert torch.allclose(scaled, alpha * whole, rtol=1e-5)
        for head, new in enumerate(per_head):
            wanted = row[head].norm() * difference[head].any()
            assert torch.allclose(new.norm(), wanted, rtol=1e-5)
    flat = contrasted(plus.flatten(1), minus.flatten(1), "recovering")
    assert torch.equal(flat, contrasted(plus, minus, "recovering").flatten(1))


@given(batches_of_heads(), st.integers(-8, 8), st.integers(-8, 8))
def test_scaling_is_linear_in_alpha_and_in_the_vectors(vectors, alpha, beta):
    plus, minus = vectors
    for norm in ("scaling", "scaled_recovering", "self_scaling"):
        one, other, both = (
            contrasted(plus, minus, norm, factor) for factor in (alpha, beta, alpha + beta)
        )
        assert torch.allclose(one + other, both, rtol=1e-4, atol=1e-2), norm
    assert torch.equal(contrasted(plus, minus, "scaling", 1.0), plus - minus)
    assert torch.equal(
        contrasted(plus, minus, "scaling", alpha), -contrasted(minus, plus, "scaling", alpha)
    )


@given(batches_of_heads())
def test_rows_of_a_batch_do_not_know_each_other(vectors):
    plus, minus = vectors
    for norm in NORMS:
        together = contrasted(plus, minus, norm, 3.0)
        alone = [contrasted(plus[i : i + 1], minus[i : i + 1], norm, 3.0) for i in range(len(plus))]
        assert torch.allclose(together, torch.cat(alone), rtol=1e-6), norm


# Inside the pass


def watched(lens, prompts, names, hooks=()):
    """Return whole activations [batch, tokens, ...] of one right-padded pass, and its mask."""
    seen = {}
    ids, mask = pad(lens, tokenize(lens, prompts, 512))
    readers = [
        (name, lambda tensor, hook, name=name: seen.update({name: tensor.clone()}))
        for name in names
    ]
    forward(lens, ids, mask, [*hooks, *readers])
    return seen, mask


auxiliary_vectors = AuxiliaryVectors.__call__


def zeros(self, prompts, contrast):
    return torch.zeros_like(auxiliary_vectors(self, prompts, contrast))


def test_alpha_one_without_an_auxiliary_vector_changes_nothing(pair, monkeypatch):
    monkeypatch.setattr(AuxiliaryVectors, "__call__", zeros)
    for architecture in ("Llama", "Gemma2"):
        lens, _ = pair(architecture)
        prompts = wrap(TEXTS)
        plain = capture(lens, prompts, ("z", "resid", "final"), "each")
        for position in ("heads", "ffn", "hidden"):
            edit = Intervention(lens, Contrast(1, "scaling", 1.0, position))
            edited = capture(lens, prompts, ("z", "resid", "final"), "each", edit=edit)
            for name, vectors in plain.items():
                assert torch.equal(edited[name], vectors), (architecture, position, name)


def test_recovering_keeps_the_norm_of_z_and_head_recovering_that_of_each_head(pair):
    for architecture in ("Llama", "Qwen3", "Gemma2"):
        lens, _ = pair(architecture)
        prompts = wrap(TEXTS)
        plain = capture(lens, prompts, "z", 1)["z"]
        for norm, axes in {"recovering": (1, 2), "head_recovering": -1}.items():
            z = capture(lens, prompts, "z", 1, edit=Intervention(lens, Contrast(1, norm)))["z"]
            norms, wanted = (torch.linalg.vector_norm(each, dim=axes) for each in (z, plain))
            assert torch.allclose(norms, wanted, rtol=1e-4)
            assert relative_errors(z, plain).min() > 0.1, "it points elsewhere"


def test_heads_that_were_not_chosen_keep_their_vectors(tiny_lens):
    prompts = wrap(TEXTS)
    plain = capture(tiny_lens, prompts, "z", 1)["z"]
    edit = Intervention(tiny_lens, Contrast(1, "recovering", heads=(0, 2)))
    z = capture(tiny_lens, prompts, "z", 1, edit=edit)["z"]
    assert torch.allclose(z[:, [1, 3]], plain[:, [1, 3]], atol=1e-6)
    assert torch.allclose(
        z[:, [0, 2]].flatten(1).norm(dim=1), plain[:, [0, 2]].flatten(1).norm(dim=1), rtol=1e-4
    )
    assert relative_errors(z[:, [0, 2]], plain[:, [0, 2]]).min() > 0.1


@pytest.mark.parametrize("position", ["heads", "ffn", "hidden"])
@pytest.mark.parametrize("architecture", ["Llama", "Gemma2"])
def test_no_difference_leaves_no_vector_and_a_finite_embedding(pair, architecture, position):
    lens, _ = pair(architecture)
    components = {"heads": "z", "ffn": "ffn_raw", "hidden": "resid"}
    prompts = wrap(TEXTS[:1])
    for norm in ("recovering", "scaled_recovering", "head_recovering"):
        if norm == "head_recovering" and position != "heads":
            continue
        contrast = Contrast(1, norm, 2.0, position, auxiliary=TEMPLATES["prompteol"])
        edit = Intervention(lens, contrast)
        assert not capture(lens, prompts, components[position], 1, edit=edit)[
            components[position]
        ].any()
        after = capture(lens, prompts, ("resid", "final"), edit=edit)
        assert after["resid"].isfinite().all()
        assert after["final"].isfinite().all()
    settings = {"position": position, "auxiliary": TEMPLATES["prompteol"]}
    encoder = ContrastivePrompting(lens, 1, "recovering", output_layer="last", **settings)
    assert encoder.encode(TEXTS[:1]).vectors.isfinite().all()


@pytest.mark.parametrize("position", POSITIONS)
def test_only_the_last_token_changes(pair, position):
    for architecture in ("Llama", "Gemma2"):
        lens, _ = pair(architecture)
        prompts = wrap(TEXTS)
        hook = POSITIONS[position].hook.format(layer=1)
        later = [f"blocks.{layer}.hook_out" for layer in (1, 2)]
        names = ["blocks.0.hook_out", hook, *later]
        plain, mask = watched(lens, prompts, names)
        edit = Intervention(lens, Contrast(1, "scaling", 3.0, position))
        edited, _ = watched(lens, prompts, names, edit.hooks(prompts, mask))
        assert torch.equal(plain["blocks.0.hook_out"], edited["blocks.0.hook_out"])
        real = mask.bool()
        last = torch.nn.functional.one_hot(mask.sum(1) - 1, mask.shape[1]).bool()
        for name in (hook, *later):
            assert torch.equal(plain[name][real & ~last], edited[name][real & ~last]), name
            changes = (plain[name] - edited[name])[last].flatten(1).abs().amax(1)
            assert (changes > 1e-3).all(), name
        assert torch.equal(plain[hook][~last], edited[hook][~last]), "pads change as little"


def test_self_scaling_changes_every_token_and_needs_no_auxiliary_prompt(tiny_lens):
    prompts, name = wrap(TEXTS), "blocks.1.attn.hook_z"
    plain, mask = watched(tiny_lens, prompts, [name])
    edit = Intervention(tiny_lens, Contrast(1, "self_scaling", 3.0))
    with counted(tiny_lens) as (ran, _):
        hooks = edit.hooks(prompts, mask)
    assert not ran
    edited, _ = watched(tiny_lens, prompts, [name], hooks)
    assert torch.equal(edited[name], 3 * plain[name])
    assert edit.every_token


def test_a_row_without_a_difference_stays_as_it_is_beside_one_that_changes(pair, monkeypatch):
    def first_row_zero(self, prompts, contrast):
        return zeros(self, prompts, contrast) + torch.arange(len(prompts)).view(-1, 1, 1)

    monkeypatch.setattr(AuxiliaryVectors, "__call__", first_row_zero)
    lens, _ = pair("Llama")
    prompts, names = wrap(TEXTS), [f"blocks.{layer}.hook_out" for layer in range(3)]
    plain, mask = watched(lens, prompts, names)
    hooks = Intervention(lens, Contrast(1, "scaling", 1.0)).hooks(prompts, mask)
    edited, _ = watched(lens, prompts, names, hooks)
    for name in names:
        assert torch.equal(edited[name][0], plain[name][0])
    assert not torch.equal(edited[names[1]][1], plain[names[1]][1])
    assert not torch.equal(edited[names[1]][2], plain[names[1]][2])


# What a pass leaves behind


def no_hooks(lens):
    return not any(point.fwd_hooks for point in lens.bridge.hook_dict.values())


def test_hooks_are_gone_after_an_error_and_the_next_call_is_as_before(pair):
    lens, _ = pair("Llama")
    encoder = ContrastivePrompting(lens, 1)
    before = encoder.encode(TEXTS).vectors
    with pytest.raises(ModelError, match="'resid' is not finite"):
        ContrastivePrompting(lens, 1, alpha=1e300).encode(TEXTS)
    assert no_hooks(lens)
    assert torch.equal(encoder.encode(TEXTS).vectors, before)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_hooks_are_gone_after_an_interruption_inside_the_pass(pair, monkeypatch, error, tmp_path):
    lens, _ = pair("Llama")
    encoder = ContrastivePrompting(lens, 1, template="ck")
    before, whole_batch = encoder.encode(MANY).vectors, steering.contrasted
    calls = itertools.count()

    def second_time(*arguments):
        if next(calls):
            raise error("inside the pass")
        return whole_batch(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(steering, "contrasted", second_time)
        with pytest.raises(error, match="inside the pass"):
            encoder.encode(MANY)
        assert no_hooks(lens)
        store = VectorStore(tmp_path / "v.sqlite")
        with pytest.raises(error, match="inside the pass"):
            list(fill_contrasts(lens, wrap(MANY), [Contrast(1)], [Place("resid", 1)], store))
    assert no_hooks(lens)
    assert lens.lock.acquire(blocking=False), "the lock is free"
    lens.lock.release()
    assert torch.equal(encoder.encode(MANY).vectors, before)


def test_threads_do_not_disturb_each_other(pair):
    lens, _ = pair("Llama")
    encoders = [
        ContrastivePrompting(lens, 1),
        ContrastivePrompting(lens, 0, "recovering", auxiliary="entity", output_layer=3),
        ContrastivePrompting(lens, 1, "self_scaling", alpha=2),
    ]
    jobs = [(encoder, MANY[i::2]) for encoder in encoders for i in range(2)]
    expected = [encoder.encode(texts).vectors for encoder, texts in jobs]
    found = [[] for _ in jobs]

    def work(index):
        encoder, texts = jobs[index]
        for _ in range(3):
            found[index].append(encoder.encode(texts, progress=False).vectors)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, repeated in zip(expected, found, strict=True):
        assert len(repeated) == 3
        assert all(torch.allclose(one, other, atol=1e-5) for other in repeated)


# Cost


@contextlib.contextmanager
def counted(lens):
    """Count (block, tokens of a row) → rows that ran, and the rows that were unembedded."""
    ran, unembedded = Counter(), []
    handles = [
        lens.bridge.hook_dict[f"blocks.{layer}.hook_out"].register_forward_hook(
            lambda module, arguments, output, layer=layer: ran.update(
                {(layer, output.shape[1]): len(output)}
            )
        )
        for layer in range(lens.n_layers)
    ]
    head = lens.bridge.original_model.get_output_embeddings()
    handles.append(
        head.register_forward_hook(
            lambda module, arguments, output: unembedded.append(len(arguments[0]))
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        # These hooks only count; a store would refuse them as those of others.
        patch.setattr(type(lens), "check_own_pass", lambda lens: None)
        try:
            yield ran, unembedded
        finally:
            for handle in handles:
                handle.remove()


@pytest.mark.parametrize(("layer", "output_layer"), [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3)])
def test_blocks_that_run_per_text_are_those_that_are_needed(tiny_lens, layer, output_layer):
    for template, n_blocks in {
        "prompteol": output_layer + layer + 1,
        "ck": 2 * output_layer + layer + 1,
    }.items():
        encoder = ContrastivePrompting(
            tiny_lens, layer, output_layer=output_layer, template=template
        )
        with counted(tiny_lens) as (ran, unembedded):
            encoder.encode(TEXTS[:1])
        assert sum(ran.values()) == n_blocks
        assert max(block for block, _ in ran) == output_layer - 1
        assert not unembedded
        # Many texts share the beginnings of their prompts, at the cost of one row for each.
        with counted(tiny_lens) as (ran, _):
            encoder.encode(MANY)
        assert len(MANY) * n_blocks <= sum(ran.values()) <= (len(MANY) + 1) * n_blocks


def test_the_auxiliary_prompt_runs_no_later_block_and_is_not_unembedded(tiny_lens):
    for layer, position in itertools.product((0, 1), POSITIONS):
        contrast = Contrast(layer, position=position)
        with counted(tiny_lens) as (ran, unembedded):
            AuxiliaryVectors(tiny_lens, [contrast])(wrap(TEXTS[:2]), contrast)
        assert Counter(block for block, _ in ran.elements()) == {i: 2 for i in range(layer + 1)}
        assert not unembedded


def test_one_auxiliary_pass_serves_all_contrasts_that_share_it(tiny_lens):
    contrasts = [Contrast(0), Contrast(1, "recovering"), Contrast(1, position="ffn")]
    shared = AuxiliaryVectors(tiny_lens, contrasts)
    prompts = wrap(TEXTS[:2])
    with counted(tiny_lens) as (ran, _):
        together = [shared(prompts, contrast) for contrast in contrasts]
    assert sum(ran.values()) == 2 * 2
    for contrast, vectors in zip(contrasts, together, strict=True):
        alone = AuxiliaryVectors(tiny_lens, [contrast])(prompts, contrast)
        assert torch.allclose(vectors, alone, atol=1e-5)
    shared.forget()
    with counted(tiny_lens) as (ran, _):
        shared(prompts, contrasts[0])
    assert ran


# Models with a norm after the attention and after the FFN


def test_a_post_norm_undoes_alpha_and_the_warning_says_so(pair):
    lens, _ = pair("Gemma2")
    check_that_alpha_is_undone(lens, layer=1, texts=TEXTS)


def test_the_embedded_gemma_undoes_alpha_too(embedded):
    check_that_alpha_is_undone(embedded("gemma-3-270m"), layer=4, texts=TEXTS[:1])


def check_that_alpha_is_undone(lens, layer, texts):
    settings = {"layer": layer, "output_layer": layer + 1}
    for position in ("heads", "ffn"):
        recovered = ContrastivePrompting(lens, norm="recovering", position=position, **settings)
        expected = recovered.encode(texts).vectors
        # The norm's own epsilon is felt where a difference is short, as it is after the FFN.
        tolerance = 1e-4 if position == "heads" else 1e-3
        for norm, alpha in [("scaling", 2), ("scaling", 10), ("scaled_recovering", 3)]:
            message = f"alpha has no effect at position '{position}' of .*: a norm follows"
            with pytest.warns(UserWarning, match=message):
                encoder = ContrastivePrompting(
                    lens, norm=norm, alpha=alpha, position=position, **settings
                )
            assert relative_errors(encoder.encode(texts).vectors, expected).max() < tolerance
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [
            ContrastivePrompting(lens, alpha=alpha, **where, **settings).encode(texts).vectors
            for where in ({"position": "hidden"}, {"heads": (0,)})
            for alpha in (0.5, 3)
        ]
    for one, other in (found[:2], found[2:]):
        assert relative_errors(one, other).min() > 1e-2


def test_without_a_post_norm_alpha_matters_and_nothing_is_said(pair):
    lens, _ = pair("Llama")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for position in POSITIONS:
            one, other = (
                ContrastivePrompting(lens, 1, alpha=alpha, position=position).encode(TEXTS).vectors
                for alpha in (0.5, 3)
            )
            assert relative_errors(one, other).min() > 1e-2


# Many contrasts of the same prompts

CONTRASTS = [
    None,
    Contrast(1),
    Contrast(0, "recovering", auxiliary="sentiment"),
    Contrast(1, "self_scaling", 0.5),
    Contrast(1, "scaled_recovering", 0.5, "hidden"),
    Contrast(0, "scaling", 1, "ffn"),
    Contrast(1, "head_recovering", auxiliary=OWN),
    Contrast(0, "recovering", heads=(0, 2)),
]
WANTED = [Place("resid", 1), Place("final", "sum"), Place("attn", "each"), Place("z", 1)]


def new_store(folder, name="vectors"):
    return VectorStore(folder / f"{name}.sqlite", each="float32")


def stored(lens, store, prompts, contrast, wanted, max_tokens=512):
    keys = [prompt_key(prompt, max_tokens) for prompt in prompts]
    return read_rows(contrast_facts(lens.facts, contrast), store, keys, wanted)


def check_fill(lens, prompts, contrasts, wanted, folder, **limits):
    """Compare the vectors of each contrast with those of passes of its own."""
    store = new_store(folder, lens.bridge.original_model.config.model_type)
    assert sum(fill_contrasts(lens, prompts, contrasts, wanted, store, **limits)) >= len(prompts)
    max_tokens = limits.get("max_tokens", 512)
    for contrast in contrasts:
        edit = Intervention(lens, contrast) if contrast else None
        rows = stored(lens, store, prompts, contrast, wanted, max_tokens)
        for kind, found in rows.items():
            reached = contrast is None or contrast.reaches(kind, lens.n_layers)
            asked = {"edit": edit if reached else None, "max_tokens": max_tokens}
            expected = capture(lens, prompts, kind.component, kind.blocks, **asked)[kind.component]
            assert relative_errors(found, expected).max() < 1e-4, (contrast, kind)
    return store


@pytest.mark.parametrize("architecture", ["Llama", "Qwen3", "Phi3", "Mistral", "Gemma2"])
def test_split_passes_give_the_vectors_of_whole_ones(pair, architecture, tmp_path):
    lens, _ = pair(architecture)
    assert lens.shares_prefix
    contrasts = CONTRASTS
    if architecture in WINDOWED:
        contrasts = [replace(c, auxiliary=OWN) if c else None for c in CONTRASTS]
    prompts = wrap([*TEXTS, *MANY[:7]])
    assert len({len(prompt) for prompt in prompts}) > 5
    check_fill(lens, prompts, contrasts, WANTED, tmp_path, tokens_per_batch=200)


def test_split_passes_equal_plain_hooks(pair, tmp_path):
    lens, plain = pair("Llama")
    encoder = ContrastivePrompting(lens, 1, output_layer=2)
    store, prompts, wanted = new_store(tmp_path), wrap(TEXTS), [Place("resid", 1)]
    list(fill_contrasts(lens, prompts, [encoder.contrast], wanted, store))
    found = stored(lens, store, prompts, encoder.contrast, wanted)[wanted[0]]
    assert relative_errors(found, plain_embeddings(plain, TEXTS, encoder)).max() < 1e-4


def test_split_passes_of_an_embedded_model(embedded, tmp_path):
    lens = embedded("smollm2-135m-instruct")
    contrasts = [None, Contrast(3), Contrast(2, "recovering", position="hidden")]
    wanted, prompts = [Place("resid", 5)], wrap(TEXTS)
    store = new_store(tmp_path)
    list(fill_contrasts(lens, prompts, contrasts, wanted, store))
    for contrast in contrasts:
        edit = Intervention(lens, contrast) if contrast else None
        expected = capture(lens, prompts, "resid", 5, edit=edit)["resid"]
        found = stored(lens, store, prompts, contrast, wanted)[wanted[0]]
        assert relative_errors(found, expected).max() < 1e-3


def test_split_passes_of_one_prompt_and_of_prompts_of_one_token(pair, tmp_path):
    lens, _ = pair("Llama")
    bare = wrap([".", "A dog sleeps.", "It rains.", "'"], "{text}")
    assert [len(ids) for ids in tokenize(lens, bare, 512)] == [1, 13, 9, 1]
    check_fill(lens, bare, CONTRASTS, WANTED, tmp_path)
    alone = new_store(tmp_path, "alone")
    assert list(fill_contrasts(lens, bare[:1], CONTRASTS, WANTED, alone)) == [1, 1]
    for contrast in CONTRASTS:
        edit = Intervention(lens, contrast) if contrast else None
        expected = capture(lens, bare[:1], "resid", 1, edit=edit)["resid"]
        found = stored(lens, alone, bare[:1], contrast, WANTED)[Place("resid", 1)]
        assert relative_errors(found, expected).max() < 1e-4


@pytest.mark.filterwarnings("ignore:.*texts were shortened")
def test_split_passes_shorten_as_whole_ones_do(pair, tmp_path):
    lens, _ = pair("Llama")
    prompts = wrap(["word " * 200, "other " * 150, "Short.", "A dog sleeps."])
    check_fill(lens, prompts, CONTRASTS, WANTED, tmp_path, max_tokens=120)
    with pytest.warns(UserWarning, match="2 of 4 texts were shortened to fit 120 tokens"):
        list(
            fill_contrasts(
                lens, prompts, CONTRASTS[:2], WANTED, new_store(tmp_path, "b"), max_tokens=120
            )
        )


def test_where_beginnings_cannot_be_shared_each_contrast_has_whole_passes(pair, tmp_path):
    lens = replace(pair("Llama")[0], shares_prefix=False)
    prompts = wrap(TEXTS)
    with counted(lens) as (ran, _):
        check_fill(lens, prompts, CONTRASTS, WANTED, tmp_path)
    assert min(n_tokens for _, n_tokens in ran) >= min(map(len, prompts))
    encoder = ContrastivePrompting(lens, 1)
    shared = ContrastivePrompting(pair("Llama")[0], 1)
    assert torch.allclose(encoder.encode(TEXTS).vectors, shared.encode(TEXTS).vectors, atol=1e-5)


def test_the_store_gives_back_what_was_filled_without_a_pass(pair, tmp_path):
    lens, _ = pair("Llama")
    prompts = wrap(MANY)
    store = new_store(tmp_path)
    list(fill_contrasts(lens, prompts, CONTRASTS, WANTED, store))
    reopened = new_store(tmp_path)
    with counted(lens) as (ran, _):
        assert list(fill_contrasts(lens, prompts, CONTRASTS, WANTED, reopened)) == []
        rows = [
            capture(
                lens,
                prompts,
                "resid",
                1,
                edit=Intervention(lens, contrast) if contrast else None,
                store=reopened,
            )["resid"]
            for contrast in CONTRASTS
        ]
    assert not ran
    for contrast, found in zip(CONTRASTS, rows, strict=True):
        kept = stored(lens, store, prompts, contrast, WANTED)[Place("resid", 1)]
        assert torch.equal(found, kept)
    for one, other in itertools.combinations(rows, 2):
        assert not torch.allclose(one, other, atol=1e-2), "each contrast has rows of its own"
    assert reopened.check() == 0


def test_capture_with_a_contrast_keeps_it_apart_in_the_store(pair, tmp_path):
    lens, _ = pair("Llama")
    store, prompts = new_store(tmp_path), wrap(TEXTS)
    for contrast in (None, Contrast(1), None, Contrast(1, alpha=3), Contrast(1)):
        edit = Intervention(lens, contrast) if contrast else None
        found = capture(lens, prompts, ("attn", "resid"), edit=edit, store=store)
        expected = capture(lens, prompts, ("attn", "resid"), edit=edit)
        for name, vectors in expected.items():
            assert torch.allclose(found[name], vectors, atol=1e-5)
    models = set(store.contents()["model"])
    assert models == {
        lens.name,
        f"{lens.name} + CP scaling α=2 l=1",
        f"{lens.name} + CP scaling α=3 l=1",
    }


LAST_TOKEN_ONLY = [contrast for contrast in CONTRASTS if "self_scaling" not in str(contrast)]


def last_tokens(ran):
    """Return how many rows of one token went through the first block."""
    return ran[0, 1]


def test_an_interrupted_fill_is_resumed_and_makes_nothing_twice(pair, tmp_path):
    lens, _ = pair("Llama")
    prompts, limits = wrap(MANY), {"tokens_per_batch": 150}
    whole = new_store(tmp_path, "whole")
    with counted(lens) as (ran, _):
        sizes = list(fill_contrasts(lens, prompts, LAST_TOKEN_ONLY, WANTED, whole, **limits))
    assert sum(sizes) == len(prompts)
    assert len(sizes) > 4
    assert last_tokens(ran) == len(prompts) * len(LAST_TOKEN_ONLY)

    store = new_store(tmp_path, "interrupted")
    with counted(lens) as (before, _):
        passes = fill_contrasts(lens, prompts, LAST_TOKEN_ONLY, WANTED, store, **limits)
        done = next(passes) + next(passes)
        passes.close()
    assert done == sum(sizes[:2])
    with counted(lens) as (after, _):
        rest = list(fill_contrasts(lens, prompts, LAST_TOKEN_ONLY, WANTED, store, **limits))
    assert rest == sizes[2:]
    assert last_tokens(before) == done * len(LAST_TOKEN_ONLY)
    assert last_tokens(after) == (len(prompts) - done) * len(LAST_TOKEN_ONLY)
    for contrast in LAST_TOKEN_ONLY:
        found = stored(lens, store, prompts, contrast, WANTED)
        for kind, expected in stored(lens, whole, prompts, contrast, WANTED).items():
            assert torch.allclose(found[kind], expected, atol=1e-5)


def test_a_fill_that_fails_keeps_the_batches_before(pair, tmp_path, monkeypatch):
    lens, _ = pair("Llama")
    prompts, store = wrap(MANY[:5]), new_store(tmp_path)
    writes, write = itertools.count(1), VectorStore.write

    def second_time(self, vectors, keys):
        if next(writes) == 2:
            raise KeyboardInterrupt
        write(self, vectors, keys)

    with monkeypatch.context() as patch:
        patch.setattr(VectorStore, "write", second_time)
        with pytest.raises(KeyboardInterrupt):
            list(fill_contrasts(lens, prompts, LAST_TOKEN_ONLY, WANTED, store))
    keys = [prompt_key(prompt, 512) for prompt in prompts]
    lacking = [
        len(missing_rows(contrast_facts(lens.facts, contrast), store, keys, WANTED))
        for contrast in LAST_TOKEN_ONLY
    ]
    assert set(lacking) == {4}, "the longest prompt is a batch of its own"
    with counted(lens) as (ran, _):
        list(fill_contrasts(lens, prompts, LAST_TOKEN_ONLY, WANTED, store))
    assert last_tokens(ran) == sum(lacking)


def test_one_more_contrast_does_not_run_the_others_again(pair, tmp_path):
    lens, _ = pair("Llama")
    prompts, store = wrap(MANY), new_store(tmp_path)
    contrasts = CONTRASTS[:5]
    for n_contrasts in range(1, len(contrasts) + 1):
        with counted(lens) as (ran, _):
            list(fill_contrasts(lens, prompts, contrasts[:n_contrasts], WANTED, store))
        new = contrasts[n_contrasts - 1]
        if new in LAST_TOKEN_ONLY:
            assert last_tokens(ran) == len(prompts)
        else:
            assert last_tokens(ran) == 0
    for contrast in contrasts:
        stored(lens, store, prompts, contrast, WANTED)


def test_contrasts_that_lack_different_prompts_run_the_batches_that_they_lack(pair, tmp_path):
    lens, _ = pair("Llama")
    short, long = (
        wrap([f"Thing {i} is {word}." for i in range(4)]) for word in ("here", "over there")
    )
    store, contrast = new_store(tmp_path), Contrast(1)
    list(fill_contrasts(lens, short, [None], WANTED, store))
    list(fill_contrasts(lens, long[:2], [contrast], WANTED, store))
    before = stored(lens, store, short, None, WANTED)
    with counted(lens) as (ran, _):
        list(fill_contrasts(lens, [*short, *long], [None, contrast], WANTED, store))
    assert last_tokens(ran) == len(long) + len(short) + len(long)
    for each in (None, contrast):
        stored(lens, store, [*short, *long], each, WANTED)
    for kind, vectors in stored(lens, store, short, None, WANTED).items():
        assert torch.equal(vectors, before[kind])


def test_a_mean_over_tokens_is_refused_or_over_all_tokens(pair, tmp_path):
    lens, _ = pair("Llama")
    store, prompts, wanted = new_store(tmp_path), wrap(TEXTS), [Place("mean", "sum")]
    with contextlib.suppress(InputError):
        list(fill_contrasts(lens, prompts, [None], wanted, store))
        found = stored(lens, store, prompts, None, wanted)[wanted[0]]
        assert torch.allclose(found, capture(lens, prompts, "mean")["mean"], atol=1e-5)


def test_the_tokens_before_the_last_run_once_for_all_contrasts(pair, tmp_path):
    lens, _ = pair("Llama")
    prompts = wrap(TEXTS)
    with counted(lens) as (ran, _):
        list(fill_contrasts(lens, prompts, [Contrast(0)], WANTED, new_store(tmp_path, "one")))
    one = sum(ran.values()) - last_tokens(ran) * lens.n_layers
    contrasts = [Contrast(0, norm, alpha) for norm in ("scaling", "recovering") for alpha in (2, 3)]
    with counted(lens) as (ran, _):
        list(fill_contrasts(lens, prompts, contrasts, WANTED, new_store(tmp_path, "four")))
    assert last_tokens(ran) == 4 * len(prompts)
    assert sum(ran.values()) - last_tokens(ran) * lens.n_layers == one


def test_facts_tell_contrasts_apart_by_what_they_change(tiny_lens):
    facts = tiny_lens.facts
    assert contrast_facts(facts, None) == facts
    different = [
        *CONTRASTS[1:],
        Contrast(1, alpha=2.5),
        Contrast(0),
        Contrast(1, auxiliary="entity"),
        Contrast(1, position="ffn"),
        Contrast(1, "scaled_recovering"),
    ]
    fingerprints = [contrast_facts(facts, contrast).fingerprint for contrast in different]
    assert len({*fingerprints, facts.fingerprint}) == len(different) + 1
    sources = [contrast_facts(facts, contrast).source for contrast in different]
    assert len({*sources, facts.source}) == len(different) + 1
    for one, same in [
        (Contrast(1, "recovering", 2), Contrast(1, "recovering", 3)),
        (Contrast(1), Contrast(1, auxiliary=AUXILIARIES["irrelevant"])),
        (Contrast(1, heads=(0, 2)), Contrast(1, heads=(2, 0))),
        (Contrast(1, alpha=2), Contrast(1, alpha=2.0)),
        (Contrast(1, "self_scaling"), Contrast(1, "self_scaling", auxiliary=OWN)),
    ]:
        assert contrast_facts(facts, one).fingerprint == contrast_facts(facts, same).fingerprint


@alpha_may_be_undone
@pytest.mark.parametrize("position", POSITIONS)
def test_what_a_contrast_reaches_is_what_changes(tiny_folder, position):
    lens = load_model(tiny_folder("Llama"))
    prompts, contrast = wrap(["A dog runs."]), Contrast(1, position=position)
    if position.startswith("released") and lens.n_heads * lens.d_head != lens.d_model:
        pytest.skip("z is not as wide as the stream")
    edit = Intervention(lens, contrast)
    for blocks in (0, 1, 2, range(2), "sum", "each"):
        wanted = places([name for name in COMPONENTS if "mean" not in name], blocks)
        ((_, plain),) = record(lens, prompts, wanted)
        ((_, steered),) = record(lens, prompts, wanted, edit=edit)
        for place in wanted:
            changed = not torch.equal(plain[place], steered[place])
            assert contrast.reaches(place, lens.n_layers) == changed, place
            ask = partial(capture, lens, prompts, place.component, blocks, edit=edit)
            if changed:
                # Rounding: where this alone is read, the last block runs for the last token alone.
                torch.testing.assert_close(ask()[place.component], steered[place])
            else:  # what would be the plain vector is none of the contrast's
                with pytest.raises(InputError, match=f"{place} is read (in|before) block .* reach"):
                    ask()


def test_dysem_refuses_a_contrast_that_does_not_reach_its_component(tiny_lens):
    last = Contrast(tiny_lens.n_layers - 1, position="hidden")
    with pytest.raises(
        InputError, match=r"attn.sum is read in block 2 before .*an earlier layer than 2"
    ):
        DySem(tiny_lens, ["en"], k=4, setting="english", contrast=last)
    DySem(tiny_lens, ["en"], k=4, component="resid", setting="english", contrast=last)


# Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": 3}, "layer must be between 0 and 2 for .*, got 3"),
        ({"layer": -1}, "layer must be a block index from 0, got -1"),
        ({"layer": True}, "layer must be a block index from 0, got True"),
        ({"layer": 1.0}, r"layer must be a block index from 0, got 1\.0"),
        ({"layer": "1"}, "layer must be a block index from 0, got '1'"),
        ({"layer": 2}, "output_layer penultimate is read before block 2 has run.* use 3 or more"),
        ({"output_layer": 1}, "output_layer 1 is read before block 1 has run.* use 2 or more"),
        (
            {"output_layer": "attn.1", "position": "hidden"},
            r"output_layer attn\.1 is read in block 1 before position 'hidden'.* use 2 or more",
        ),
        ({"output_layer": "ffn.0-1", "position": "hidden"}, "before position 'hidden'"),
        ({"output_layer": "attn_raw.1", "position": "released_ffn"}, "before position 'released"),
        ({"output_layer": 0}, "output_layer must be between 1 and 3, got 0"),
        ({"output_layer": -1}, "output_layer must be between 1 and 3, got -1"),
        ({"output_layer": 4}, "output_layer must be between 1 and 3, got 4"),
        ({"output_layer": 2.0}, r"output_layer must be between 1 and 3, got 2\.0"),
        ({"output_layer": True}, "output_layer must be between 1 and 3, got True"),
        ({"output_layer": None}, "output_layer must be between 1 and 3, got None"),
        ({"output_layer": "middle"}, "unknown output layer 'middle'; .* penultimate, last, final"),
        ({"alpha": math.nan}, "alpha must be finite, got nan"),
        ({"alpha": math.inf}, "alpha must be finite, got inf"),
        ({"alpha": -math.inf}, "alpha must be finite, got -inf"),
        ({"alpha": "2"}, "alpha must be a number, got '2'"),
        ({"alpha": None}, "alpha must be a number, got None"),
        ({"alpha": True}, "alpha must be a number, got True"),
        ({"norm": "scale"}, "'scale'; did you mean 'scaling'. choose one of: scaling, recovering"),
        ({"position": "head"}, "'head'; did you mean 'heads'. choose one of: heads, ffn, hidden"),
        ({"auxiliary": "relevant"}, "'relevant'; did you mean 'irrelevant'. choose .* irrelevant"),
        ({"auxiliary": "{text} {text}"}, r"unknown auxiliary prompt '\{text\} \{text\}'"),
        ({"auxiliary": None}, "unknown auxiliary prompt None"),
        ({"template": "prompteo"}, "did you mean 'prompteol'. choose one of: prompteol"),
        ({"template": "{text} or {text}"}, r"template '\{text\} or \{text\}' has more than one"),
        ({"template": "none"}, "template 'none' has no prompt; use 'prompteol', or MeanPooling"),
        ({"heads": (0, 4)}, "heads must be between 0 and 3 for .*, got 4"),
        ({"heads": (-1,)}, "heads must be between 0 and 3 for .*, got -1"),
        ({"heads": (1, 1)}, r"heads must be one or more different indices, got \(1, 1\)"),
        ({"heads": ()}, r"heads must be one or more different indices, got \(\)"),
        ({"heads": (0,), "position": "ffn"}, "heads needs position='heads', got 'ffn'"),
        (
            {"norm": "head_recovering", "position": "ffn"},
            "norm='head_recovering' needs position='heads', got 'ffn'",
        ),
    ],
)
def test_bad_settings_are_named(tiny_lens, settings, message):
    with pytest.raises(InputError, match=message):
        ContrastivePrompting(tiny_lens, **{"layer": 1, **settings})


@pytest.mark.parametrize("heads", [(True,), (1.5,), ("1",)])
def test_heads_that_are_no_indices_are_named(tiny_lens, heads):
    with pytest.raises(InputError, match=re.escape(repr(heads[0]))):
        ContrastivePrompting(tiny_lens, 1, heads=heads)


@pytest.mark.parametrize("position", ["released_ffn", "released_hidden"])
def test_a_released_position_needs_heads_as_wide_as_the_stream(pair, position):
    lens, _ = pair("Qwen3")
    message = f"position '{position}' subtracts z, 4 heads of 12, from a vector of width 32"
    with pytest.raises(InputError, match=message):
        ContrastivePrompting(lens, 1, position=position)
    with pytest.raises(InputError, match=message):
        Intervention(lens, Contrast(1, position=position))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([""], "text 0 is empty"),
        (["A dog sleeps.", " \n"], r"text 1 is empty or not a string: ' \\n'"),
        (["A dog sleeps.", None], "text 1 is empty or not a string: None"),
        ("Dogs", "texts must be a list of strings; give one as .'Dogs'."),
    ],
)
def test_bad_texts_are_named(tiny_lens, texts, message):
    with pytest.raises(InputError, match=message):
        ContrastivePrompting(tiny_lens, 1).encode(texts)


def test_prompts_that_wrap_did_not_make_are_refused(tiny_lens, tmp_path):
    prompts, contrast = ["A plain prompt"], Contrast(1)
    message = "not a prompt made by dysem_lab.wrap, .*: 'A plain prompt'"
    with pytest.raises(InputError, match=message):
        capture(tiny_lens, prompts, "resid", edit=Intervention(tiny_lens, contrast))
    store = new_store(tmp_path)
    with pytest.raises(InputError, match=message):
        list(fill_contrasts(tiny_lens, prompts, [contrast], WANTED, store))


# Settings by name and by file


@pytest.mark.parametrize(
    "settings",
    [
        {"layer": 1},
        {"layer": 0, "norm": "recovering", "output_layer": 2, "heads": (2, 0)},
        {"layer": 1, "alpha": 0.25, "position": "hidden", "template": "ck", "auxiliary": OWN},
        {"layer": 2, "norm": "head_recovering", "output_layer": "final", "template": FREE},
    ],
)
def test_settings_survive_a_file_and_a_name(tiny_lens, tmp_path, settings):
    encoder = ContrastivePrompting(tiny_lens, **settings)
    for where in (tmp_path / "cp.json", str(tmp_path / "other.json"), "mine"):
        file = encoder.save(where)
        assert json.loads(file.read_text(encoding="utf-8"))["model"] == tiny_lens.name
        loaded = ContrastivePrompting.load(where, tiny_lens)
        assert loaded.config == encoder.config
        assert loaded.config.items() >= settings.items()
        assert repr(loaded) == repr(encoder)
    assert torch.equal(loaded.encode(TEXTS).vectors, encoder.encode(TEXTS).vectors)


def test_settings_that_cannot_be_used_are_refused(tiny_lens, pair, tmp_path):
    file = ContrastivePrompting(tiny_lens, 1).save(tmp_path / "cp.json")
    other = replace(tiny_lens, name="another")
    with pytest.raises(InputError, match=f"settings of '{tiny_lens.name}', not of 'another'"):
        ContrastivePrompting.load(file, other)
    with pytest.raises(InputError, match="'meta-llama/Llama-2-7b-hf', not of"):
        ContrastivePrompting.load("cp-llama2-7b-prompteol", tiny_lens)
    with pytest.raises(InputError, match=r"unknown CP settings 'absent'; .*cp-llama2-7b-knowledge"):
        ContrastivePrompting.load("absent", tiny_lens)
    with pytest.raises(InputError, match=r"cannot read .*no\.json .*give a file that"):
        ContrastivePrompting.load(tmp_path / "no.json", tiny_lens)
    config = json.loads(file.read_text(encoding="utf-8"))
    for damaged, message in [
        ("{", "is not a saved configuration of ContrastivePrompting"),
        ("[1]", "is not a saved configuration of ContrastivePrompting"),
        ("{}", "configuration of ContrastivePrompting: it has no model, layer"),
        (json.dumps({**config, "colour": 1}), "ContrastivePrompting: it has an unknown colour"),
        (json.dumps({**config, "layer": 7}), "layer must be between 0 and 2 .* got 7"),
    ]:
        file.write_text(damaged, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            ContrastivePrompting.load(file, tiny_lens)


def test_a_saved_name_hides_the_published_settings_of_that_name(tiny_lens):
    name = "cp-llama2-7b-released"
    file = ContrastivePrompting(tiny_lens, 1, alpha=0.75).save(name)
    try:
        assert ContrastivePrompting.load(name, tiny_lens).contrast.alpha == 0.75
    finally:
        file.unlink()


def test_the_published_settings_are_those_of_the_paper():
    published = contrastive_settings()
    n_layers = 32
    read_at = {}
    for name, settings in published.items():
        contrast = Contrast(
            **{key: settings[key] for key in ("layer", "norm", "alpha", "position", "auxiliary")}
        )
        assert settings["template"] in TEMPLATES
        assert settings["auxiliary"] == "irrelevant"
        assert settings["position"] == "heads"
        assert settings["norm"] == "scaling"
        read_at[name] = check_output(settings["output_layer"], contrast, n_layers)
    assert {kind.component for kind in read_at.values()} == {"resid"}
    # The paper's 5th and 7th layers, its grids of α, and the released code's README.
    expected = {
        "cp-llama2-7b-prompteol": ("prompteol", 4, 2, 27),
        "cp-llama2-7b-pretended_cot": ("pretended_cot", 6, 3, 27),
        "cp-llama2-7b-knowledge": ("knowledge", 6, 3, 31),
        "cp-llama2-7b-transfer": ("prompteol", 6, 4, 27),
        "cp-llama2-7b-released": ("prompteol", 4, 0.5, 27),
        "cp-llama3-8b-released": ("prompteol", 6, 0.25, 31),
    }
    assert {
        name: (
            settings["template"],
            settings["layer"],
            settings["alpha"],
            read_at[name].n_blocks(n_layers),
        )
        for name, settings in published.items()
    } == expected
    models = {name: settings["model"] for name, settings in published.items()}
    assert models.pop("cp-llama3-8b-released") == "meta-llama/Meta-Llama-3-8B"
    assert set(models.values()) == {"meta-llama/Llama-2-7b-hf"}


def test_output_layers_count_the_blocks_that_have_run():
    for n_layers in (1, 3, 32):
        numbers = {number: number for number in range(1, n_layers + 1)}
        if n_layers > 1:
            numbers["penultimate"] = n_layers - 1
        for output_layer, n_run in {**numbers, "last": n_layers, "final": n_layers}.items():
            wanted = output_place(output_layer, n_layers)
            assert wanted.n_blocks(n_layers) == n_run
            assert wanted.component == ("final" if output_layer == "final" else "resid")
    with pytest.raises(InputError, match="output_layer must be between 1 and 1, got 'penultimate'"):
        output_place("penultimate", 1)


# Similarities


def test_similarities_are_cosines_of_embeddings(tiny_lens):
    encoder = ContrastivePrompting(tiny_lens, 1)
    e1, e2 = encoder.encode(MANY[:5]).vectors, encoder.encode(MANY[4:9]).vectors
    rows = torch.nn.functional.cosine_similarity(e1, e2, dim=-1)
    pairs = torch.nn.functional.cosine_similarity(e1[:, None], e2[None, :3], dim=-1)
    assert torch.allclose(encoder.similarity_pairwise(e1, e2), rows, atol=1e-6)
    found = encoder.similarity(e1, e2[:3])
    assert found.shape == (5, 3)
    assert torch.allclose(found, pairs, atol=1e-6)
    assert found[4, 0] == pytest.approx(1, abs=1e-5), "the same text"


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(4)), elements=halves),
    hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(4)), elements=halves),
)
def test_cosines_equal_those_of_torch_where_they_are_defined(x, y):
    vx, vy = torch.from_numpy(x), torch.from_numpy(y)
    expected = torch.nn.functional.cosine_similarity(
        vx[:, None].double(), vy[None].double(), dim=-1, eps=1e-300
    )
    vanishes = ~vx.any(1)[:, None] | ~vy.any(1)[None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if vanishes.any() else "error")
        matrix = all_pairs_cosine(vx, vy)
        n = min(len(x), len(y))
        rows = cosine(vx[:n], vy[:n])
    assert torch.equal(matrix.isnan(), vanishes)
    assert torch.allclose(matrix[~vanishes].double(), expected[~vanishes], atol=1e-5)
    assert torch.allclose(rows, matrix.diagonal(), atol=1e-6, equal_nan=True)


def test_a_zero_vector_has_no_cosine_and_is_counted():
    x = torch.tensor([[1.0, 2.0], [0.0, 0.0], [3.0, -1.0]])
    with pytest.warns(UserWarning, match="5 of 9 pairs have no similarity"):
        matrix = all_pairs_cosine(x, x)
    assert matrix.isnan().tolist() == [[False, True, False], [True] * 3, [False, True, False]]
    with pytest.warns(UserWarning, match="1 of 3 pairs have no similarity"):
        assert cosine(x, x).isnan().tolist() == [False, True, False]
    with pytest.warns(UserWarning, match=r"they are 0\.0"):
        assert all_pairs_cosine(x, x, undefined=0.0)[1].tolist() == [0, 0, 0]


def test_vectors_of_different_widths_and_values_that_are_not_finite_have_no_cosine():
    x = torch.ones(2, 3)
    with pytest.raises(InputError, match="vectors of width 3 and 4 have no cosine"):
        all_pairs_cosine(x, torch.ones(2, 4))
    with pytest.raises(InputError, match=r"vx \(2, 3\), vy \(2, 4\)"):
        cosine(x, torch.ones(2, 4))
    for function in (all_pairs_cosine, cosine):
        for value in (math.nan, math.inf):
            with pytest.raises(InputError, match=f"vy.*{value}|vy .*finite|vy .*NaN"):
                function(x, torch.full((2, 3), value))


def test_empty_and_extreme_vectors_have_cosines():
    assert all_pairs_cosine(torch.zeros(0, 3), torch.ones(2, 3)).shape == (0, 2)
    assert cosine(torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0,)
    for size in (1e-38, 1e38):
        x = torch.tensor([[size, 0.0], [size, size]])
        expected = torch.tensor([[1.0, math.sqrt(0.5)], [math.sqrt(0.5), 1.0]])
        assert torch.allclose(all_pairs_cosine(x, x), expected, atol=1e-6)
        assert torch.allclose(cosine(x, x.flip(0)), torch.full((2,), math.sqrt(0.5)), atol=1e-6)
