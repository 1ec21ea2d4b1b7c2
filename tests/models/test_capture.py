"""Capture against plain PyTorch hooks; batching, order, truncation, refusals."""

import threading
import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from dysem_lab.errors import InputError, ModelError
from dysem_lab.models import passes, record
from dysem_lab.models.capture import capture
from dysem_lab.models.loading import load_model, locate
from dysem_lab.models.passes import plan_batches
from dysem_lab.models.places import BLOCK_ORDER, COMPONENTS, MEANS, places
from dysem_lab.prompts import wrap
from tests.reference import read

TEXTS = [
    "A dog sleeps.",
    "Two children are building a sandcastle on the beach while their parents watch.",
    "Il pleut.",
    "猫がマットの上で眠っている。",
    "Short",
    "Бабушка приготовила огромный обед для всей семьи!",
    "A dog sleeps.",
]
ARCHITECTURES = ("Llama", "Qwen2", "Qwen3", "Phi3", "Mistral", "Gemma2")


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def check_against_hooks(lens, model, tokenizer, prompts, tolerance):
    names = list(COMPONENTS)
    each = capture(lens, prompts, names, layers="each", tokens_per_batch=256)
    total = capture(lens, prompts, names, layers="sum", tokens_per_batch=256)
    without_mean = [name for name in names if name != "mean"]  # with a shared prefix
    shared = capture(lens, prompts, without_mean, layers="sum", tokens_per_batch=256)
    for row, prompt in enumerate(prompts):
        expected = read(model, tokenizer, prompt)
        for name, vectors in expected.items():
            assert relative_error(each[name][row], vectors) < tolerance, (name, row, "each")
            if name in ("final", "mean"):
                summed = vectors
            else:
                summed = vectors[-1] if name == "resid" else vectors.sum(0)
            assert relative_error(total[name][row], summed) < tolerance, (name, row, "sum")
            if name != "mean":
                assert relative_error(shared[name][row], summed) < tolerance, (name, row, "shared")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("template", ["prompteol", "none"])
def test_every_component_equals_plain_hooks_on_tiny_models(tiny_folder, architecture, template):
    folder = tiny_folder(architecture)
    lens = load_model(folder)
    assert lens.shares_prefix
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    check_against_hooks(lens, model, tokenizer, wrap(TEXTS, template), 1e-4)


@pytest.mark.parametrize("name", ["gemma-3-270m", "smollm2-135m-instruct"])
def test_every_component_equals_plain_hooks_on_embedded_models(embedded, name):
    lens = embedded(name)
    model = AutoModelForCausalLM.from_pretrained(locate(name), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(locate(name))
    check_against_hooks(lens, model, tokenizer, wrap(TEXTS[1:6:2]), 1e-3)
    russian = wrap([TEXTS[5], "Идёт дождь."], "knowledge", "language-specific", "ru")
    check_against_hooks(lens, model, tokenizer, russian, 1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("layers", ["sum", 1])
def test_only_keys_and_values_of_the_last_block_are_of_every_token(
    tiny_folder, architecture, layers
):
    lens = load_model(tiny_folder(architecture))
    block = lens.bridge.blocks[1 if layers == 1 else lens.n_layers - 1]
    ways = {name: getattr(block.attn, name) for name in ("q", "k", "v", "o")}
    ways["ffn"] = block.mlp.out
    seen: dict[str, set[bool]] = {name: set() for name in ways}
    handles = [
        way.original_component.register_forward_pre_hook(
            lambda _, given, name=name: seen[name].add(given[0].shape[1] == 1)
        )
        for name, way in ways.items()
    ]
    names = [name for name in COMPONENTS if name not in MEANS]
    wanted = places(names, layers) if layers == "sum" else places(BLOCK_ORDER, layers)
    prompts, batches = wrap(TEXTS[:6]), []
    for way in (lens, replace(lens, last_alone=False)):
        batches.append(list(record.record(way, prompts, wanted, tokens_per_batch=256)))
        for name in ways:
            alone = way.last_alone and name not in ("k", "v")
            assert seen[name] == {alone}, name
            seen[name].clear()
    for handle in handles:
        handle.remove()
    assert len(batches[0]) > 1
    for (rows, short), (same, whole) in zip(*batches, strict=True):
        assert rows == same
        for each in wanted:
            torch.testing.assert_close(short[each], whole[each], rtol=1e-4, atol=1e-5)


def test_the_residual_stream_is_the_sum_of_its_parts(tiny_lens):
    acts = capture(tiny_lens, wrap(TEXTS))
    h0 = acts["resid"] - acts["attn"] - acts["ffn"]
    embedding = tiny_lens.bridge.original_model.get_input_embeddings().weight
    last = tiny_lens.tokenizer(wrap(TEXTS)[0])["input_ids"][-1]
    assert torch.allclose(h0, embedding[last].detach().expand_as(h0), atol=1e-4)


def test_shapes_dtypes_and_device_are_as_documented(tiny_lens):
    L, d = tiny_lens.n_layers, tiny_lens.d_model
    heads, kv, width = tiny_lens.n_heads, tiny_lens.n_kv_heads, tiny_lens.d_head
    prompts = wrap(TEXTS[:3])
    total = capture(tiny_lens, prompts, list(COMPONENTS))
    each = capture(tiny_lens, prompts, list(COMPONENTS), layers="each")
    for name in ("attn", "attn_raw", "ffn", "resid"):
        assert total[name].shape == (3, d)
        assert each[name].shape == (3, L, d)
    for name in ("final", "mean"):
        assert total[name].shape == each[name].shape == (3, d)
    assert total["value"].shape == (3, kv, width)
    assert each["z"].shape == (3, L, heads, width)
    assert kv < heads
    for tensor in (*total.values(), *each.values()):
        assert tensor.dtype == torch.float32
        assert tensor.device.type == "cpu"
        assert not tensor.is_inference()


def test_half_precision_models_give_float32_close_to_the_full_ones(tiny_folder):
    prompts = wrap(TEXTS)
    full = capture(load_model(tiny_folder("Llama")), prompts, "attn")["attn"]
    half_lens = load_model(tiny_folder("Llama"), dtype="bfloat16")
    half = capture(half_lens, prompts, "attn")["attn"]
    assert half_lens.dtype == torch.bfloat16
    assert half.dtype == torch.float32
    assert relative_error(half, full) < 0.05


def test_output_is_in_input_order_whatever_the_batches(tiny_lens):
    prompts = wrap(TEXTS)
    alone = torch.cat([capture(tiny_lens, [prompt], "resid")["resid"] for prompt in prompts])
    for budget in (1, 100, 500, 100_000):
        batched = capture(tiny_lens, prompts, "resid", tokens_per_batch=budget)["resid"]
        assert torch.allclose(batched, alone, atol=1e-4)


@pytest.mark.parametrize("component", ["mean", "final"])
def test_repeated_prompts_run_once_and_are_not_unembedded(tiny_lens, component):
    rows, unembedded = [], []
    model = tiny_lens.bridge.original_model
    handles = [
        model.get_input_embeddings().register_forward_hook(
            lambda module, inputs, output: rows.append(len(inputs[0]))
        ),
        model.get_output_embeddings().register_forward_hook(
            lambda module, inputs, output: unembedded.append(inputs[0].shape)
        ),
    ]
    try:
        capture(tiny_lens, wrap(["One.", "Two.", "One.", "One."], "none"), component)
    finally:
        for handle in handles:
            handle.remove()
    assert sum(rows) == 2
    assert not unembedded


def test_a_hook_in_the_unembedding_sees_the_last_position(tiny_lens):
    seen = []
    ids, mask = passes.pad(tiny_lens, [[5, 6, 7], [8, 9, 10]])
    hooks = [("unembed.hook_out", lambda tensor, hook: seen.append(tensor.shape))]
    record.forward(tiny_lens, ids, mask, hooks)
    assert seen == [(2, 1, tiny_lens.bridge.cfg.d_vocab)]


def test_empty_input_gives_empty_output_of_the_right_width(tiny_lens):
    acts = capture(tiny_lens, [], ("attn", "z"), layers="each")
    assert acts["attn"].shape == (0, tiny_lens.n_layers, tiny_lens.d_model)
    assert acts["z"].shape == (0, tiny_lens.n_layers, tiny_lens.n_heads, tiny_lens.d_head)


def test_over_long_texts_lose_their_end_and_prompts_keep_their_tail(tiny_lens):
    words = "word " * 400
    prompts = wrap([words, "Short."])
    with pytest.warns(UserWarning, match="1 of 2 texts were shortened to fit 120 tokens"):
        ids = passes.tokenize(tiny_lens, prompts, 120)
    assert len(ids[0]) <= 120
    shortened = tiny_lens.tokenizer.decode(ids[0])
    assert shortened.startswith('This sentence : "word word')
    assert shortened.endswith('" means in one word:"')
    assert len(ids[0]) >= 119, "as much of the text as fits is kept"
    with pytest.warns(UserWarning, match="shortened"):
        acts = capture(tiny_lens, prompts, "resid", max_tokens=120)
    expected = capture(tiny_lens, [shortened], "resid")["resid"][0]
    assert torch.allclose(acts["resid"][0], expected, atol=1e-4)


def test_a_plain_string_is_shortened_at_its_end(tiny_lens):
    with pytest.warns(UserWarning, match="1 of 1"):
        ids = passes.tokenize(tiny_lens, ["abc " * 100], 20)
    assert tiny_lens.tokenizer.decode(ids[0]) == ("abc " * 5).ljust(20)


def test_a_template_that_leaves_no_room_is_refused(tiny_lens):
    with pytest.raises(InputError, match="leaves no room for text"):
        capture(tiny_lens, wrap(["A dog sleeps."]), max_tokens=10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"components": "attention"},
            "'attention'; did you mean 'attn'. choose one of: attn, attn_raw",
        ),
        ({"layers": "all"}, "unknown layers 'all'; choose one of: sum, each"),
        ({"prompts": ["fine", "  "]}, "prompt 1 is empty"),
        ({"prompts": "a bare string"}, "must be a list"),
    ],
)
def test_bad_input_is_named(tiny_lens, arguments, message):
    with pytest.raises(InputError, match=message):
        capture(tiny_lens, **{"prompts": wrap(["A."]), **arguments})


def test_numbers_that_are_not_finite_are_refused(tiny_folder):
    lens = load_model(tiny_folder("Llama"))
    with torch.no_grad():
        lens.bridge.original_model.model.layers[1].mlp.down_proj.weight.fill_(torch.inf)
    with pytest.raises(ModelError, match=r"'ffn' is not finite in torch\.float32"):
        capture(lens, wrap(["A dog."]), "ffn")


def test_hooks_are_gone_after_an_error_and_the_next_call_is_right(tiny_lens, monkeypatch):
    prompts = wrap(TEXTS)
    before = capture(tiny_lens, prompts, "attn")["attn"]

    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(record.Reader, "_read", fail)
        with pytest.raises(KeyboardInterrupt):
            capture(tiny_lens, prompts, "attn")
    assert not any(point.fwd_hooks for point in tiny_lens.bridge.hook_dict.values())
    assert torch.equal(capture(tiny_lens, prompts, "attn")["attn"], before)


def test_threads_do_not_disturb_each_other(tiny_lens):
    inputs = [wrap([f"Sentence number {i} of {j}." for i in range(12)]) for j in range(6)]
    expected = [capture(tiny_lens, prompts, "attn")["attn"] for prompts in inputs]
    found = [None] * len(inputs)

    def work(index):
        for _ in range(3):
            found[index] = capture(tiny_lens, inputs[index], "attn", progress=False)["attn"]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_sum_keeps_memory_flat_in_the_number_of_layers(tiny_lens, monkeypatch):
    sizes = set()
    original = record.Reader._read

    def watch(self, tensor, block):
        original(self, tensor, block)
        sizes.add(tuple(self.rows.shape))

    monkeypatch.setattr(record.Reader, "_read", watch)
    capture(tiny_lens, wrap(TEXTS[:3]), "attn")
    assert sizes == {(3, tiny_lens.d_model)}


@given(
    lengths=st.lists(st.integers(1, 60), max_size=40),
    budget=st.integers(1, 300),
)
def test_batches_cover_every_prompt_once_within_the_budget(lengths, budget):
    batches = plan_batches(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert len(batch) == 1 or longest * len(batch) <= budget
    heads = [lengths[batch[0]] for batch in batches]
    assert heads == sorted(heads, reverse=True)


def test_no_warnings_on_ordinary_input(tiny_lens):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        capture(tiny_lens, wrap(TEXTS), list(COMPONENTS))


def test_one_layer_is_that_of_every_layer_and_no_later_block_runs(tiny_lens, demo):
    prompts = wrap(demo.texts()[:7])
    each = capture(tiny_lens, prompts, ("attn", "z", "resid"), "each")
    ran = []
    hooks = [
        (f"blocks.{i}.hook_in", lambda tensor, hook, i=i: ran.append(i))
        for i in range(tiny_lens.n_layers)
    ]
    for layer in range(tiny_lens.n_layers):
        ran.clear()
        with tiny_lens.bridge.hooks(fwd_hooks=hooks):
            one = capture(tiny_lens, prompts, ("attn", "z", "resid"), layer)
        for name, vectors in one.items():
            assert torch.allclose(vectors, each[name][:, layer], atol=1e-5), (name, layer)
        # The block after the last one may see its input, which is where the pass stops.
        assert {i for i in ran if i > layer} <= {layer + 1}
    with pytest.raises(InputError, match="layer must be between 0 and 2, got 3"):
        capture(tiny_lens, prompts, "attn", 3)
