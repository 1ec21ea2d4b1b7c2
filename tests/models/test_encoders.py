"""Training-free encoders against plain hooks on an untouched model; cost, stores, refusals."""

import contextlib
import json
import re
import warnings
from collections import Counter
from dataclasses import replace
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from dysem_lab.encoders.aggregation import ValueAggregation
from dysem_lab.encoders.base import MeanPooling, PromptEncoder
from dysem_lab.encoders.dysem import DySem
from dysem_lab.encoders.echo import Echo
from dysem_lab.encoders.prepending import TokenPrepending
from dysem_lab.encoders.systems import output_of
from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.errors import InputError
from dysem_lab.joint import all_pairs_cosine, all_pairs_similarity, cosine
from dysem_lab.models import passes
from dysem_lab.models.capture import capture
from dysem_lab.models.loading import load_model, locate
from dysem_lab.models.places import output_place
from dysem_lab.models.record import counted
from dysem_lab.models.store import VectorStore
from dysem_lab.prompts import wrap
from tests.conftest import SPECIAL, tiny_config

pytestmark = pytest.mark.usefixtures("_one_thread")

# The papers' prompts, copied by hand.
PROMPTEOL = 'This sentence : "{text}" means in one word:"'
COT = 'After thinking step by step , this sentence : "{text}" means in one word:"'
KNOWLEDGE = (
    "The essence of a sentence is often captured by its main subjects and actions, while "
    "descriptive terms provide additional but less central details. With this in mind , this "
    'sentence : "{text}" means in one word:"'
)
METAEOL = [
    "In this task, you're presented with a text excerpt. Your task is to categorize the excerpt "
    "into a broad category such as 'Education', 'Technology', 'Health', 'Business', "
    "'Environment', 'Politics', or 'Culture'. These categories help in organizing content for "
    'better accessibility and targeting. For this task, this sentence : "{text}" should be '
    'classified under one general category in one word:"',
    "In this task, you're given a statement and you need to determine whether it's presenting an "
    "'Opinion' or a 'Fact'. This distinction is vital for information verification, educational "
    'purposes, and content analysis. For this task, this sentence : "{text}" discriminates '
    'between opinion and fact in one word:"',
    "In this task, you're given a review from an online platform. Your task is to generate a "
    "rating for the product based on the review on a scale of 1-5, where 1 means 'extremely "
    "negative' and 5 means 'extremely positive'. For this task, this sentence : \"{text}\" "
    'reflects the sentiment in one word:"',
    "In this task, you're reading a personal diary entry. Your task is to identify the "
    "predominant emotion expressed, such as joy, sadness, anger, fear, or love. For this task, "
    'this sentence : "{text}" conveys the emotion in one word:"',
    "In this task, you're presented with two sentences. Your task is to assess whether the "
    "sentences convey the same meaning. Use 'identical', 'similar', 'different', or 'unrelated' "
    "to describe the relationship. To enhance the performance of this task, this sentence : "
    '"{text}" means in one word:"',
    "In this task, you're given a sentence and a phrase. Your task is to determine if the phrase "
    "can be a contextual synonym within the given sentence. Options include 'yes', 'no', or "
    "'partially'. To enhance the performance of this task, this sentence : \"{text}\" means in "
    'one word:"',
    "In this task, you're examining a news article. Your task is to extract the most critical "
    'fact from the article. For this task, this sentence : "{text}" encapsulates the key fact in '
    'one word:"',
    "In this task, you're reviewing a scientific abstract. Your task is to identify the main "
    "entities (e.g., proteins, diseases) and their relations (e.g., causes, treats). For this "
    'task, this sentence : "{text}" highlights the primary entity or relation in one word:"',
]
PARTS = {
    "prompteol": [PROMPTEOL],
    "pretended_cot": [COT],
    "knowledge": [KNOWLEDGE],
    "ck": [COT, KNOWLEDGE],
    "metaeol": METAEOL,
}
FREE = "In short, {text} is about"
CURLY = "This sentence: “{text}” means in one word: “"
ECHO = "Rewrite the following paragraph: {text}. The rewritten paragraph: {text}"
ECHO_WITH_END = "Say it: {text}\nAgain: {text} (the end)"

TEXTS = [
    "A dog sleeps.",
    'She said "hello" to all of the neighbours?',
    "  the stock market of {text} fell! ",
    "猫が眠っている。",
]
MANY = [f"{'A very ' * (i % 5)}big thing of kind {i} happens here." for i in range(7)]
LETTERS = "zqxj"  # no two of them are one token, so a text of them is cut letter by letter
LONG = LETTERS * 200
N_BLOCKS = 5


# Tiny random models with a tokenizer that begins texts with <s> and whose tokens cross the
# boundaries between template and text.


@pytest.fixture(scope="session")
def merging_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*TEXTS, *MANY, *METAEOL, COT, KNOWLEDGE, ECHO], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory, merging_tokenizer):
    """Return a function: architecture → loaded model, and its untouched copy."""
    made = {}

    def load(architecture):
        if architecture not in made:
            torch.manual_seed(1)
            small = tiny_config(architecture, len(merging_tokenizer))
            settings = {**small.to_dict(), "num_hidden_layers": N_BLOCKS}
            settings.pop("layer_types", None)
            model = AutoModelForCausalLM.from_config(
                type(small).from_dict(settings), dtype=torch.float32
            )
            for weights in model.parameters():
                of_norm = weights.ndim == 1
                noise = torch.randn(weights.shape) * (0.1 if of_norm else 0.2)
                weights.data = weights.data + noise if of_norm else noise
            folder = tmp_path_factory.mktemp(architecture.lower())
            model.save_pretrained(folder)
            merging_tokenizer.save_pretrained(folder)
            made[architecture] = (
                load_model(folder),
                Plain(folder, AutoTokenizer.from_pretrained(folder), begins=True),
            )
        return made[architecture]

    return load


@pytest.fixture(scope="module")
def lens(pair):
    return pair("Llama")[0]


# A second implementation


class Plain:
    """A transformers model, eager, and a copy of its tokenizer that knows the placeholder."""

    def __init__(self, folder, tokenizer, begins):
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        self.tokenizer = tokenizer
        self.registered = AutoTokenizer.from_pretrained(folder)
        self.registered.add_tokens(["<PST>"])
        self.placeholder = self.registered.convert_tokens_to_ids("<PST>")
        self.begin = [self.tokenizer.bos_token_id] if begins else []
        n_rows = self.model.get_input_embeddings().weight.shape[0]
        self.model.resize_token_embeddings(max(n_rows, self.placeholder + 1), mean_resizing=False)

    def place(self, vector):
        """Give the placeholder an embedding, as the first block gets it."""
        scaled = self.model.config.model_type.startswith("gemma")  # by √d, after the look-up
        scale = self.model.config.hidden_size**0.5 if scaled else 1.0
        with torch.no_grad():
            self.model.get_input_embeddings().weight[self.placeholder] = vector / scale


def plain_pass(plain, rows, change=None):
    """Run left-padded token ids; change = (blocks, function of a block's input [n, tokens, d])."""
    model, width = plain.model, max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    values, last, handles = [], [], []
    for layer, block in enumerate(model.model.layers):
        # Values are the last third of Phi-3's fused projection.
        attention = block.self_attn
        projection = attention.v_proj if hasattr(attention, "v_proj") else attention.qkv_proj
        handles.append(
            projection.register_forward_hook(lambda module, inputs, out: values.append(out))
        )
        if change is not None and layer in change[0]:
            handles.append(
                block.register_forward_pre_hook(
                    lambda module, inputs: (change[1](ids, inputs[0].clone()), *inputs[1:])
                )
            )
    handles.append(
        model.model.norm.register_forward_pre_hook(lambda module, inputs: last.append(inputs[0]))
    )
    try:
        with torch.no_grad():
            out = model.model(
                input_ids=ids,
                attention_mask=mask,
                output_hidden_states=True,
                output_attentions=True,
                use_cache=False,
            )
    finally:
        for handle in handles:
            handle.remove()
    n_kv = model.config.num_key_value_heads
    d_head = getattr(model.config, "head_dim", None)
    d_head = d_head or model.config.hidden_size // model.config.num_attention_heads
    return SimpleNamespace(
        ids=ids,
        mask=mask,
        hidden=out.hidden_states,
        last=last[0],
        patterns=out.attentions,
        values=[v[..., -n_kv * d_head :].unflatten(-1, (n_kv, d_head)) for v in values],
    )


def normalized(text):
    text = text.strip()
    if text[-1] not in [".", "?", '"', "'"]:
        text = text + "."
    text = text.replace('"', "'")
    if text[-1] == "?":
        text = text[:-1] + "."
    return text


def filled(template, text):
    before, after = template.split("{text}")
    return before + text + after


def at_output(seen, output_layer, n_blocks):
    """Return the last token's vector where a prompt encoder reads it."""
    if output_layer in ("last", n_blocks):
        return seen.last[:, -1]
    index = {"final": -1, "penultimate": -2}.get(output_layer, output_layer)
    return seen.hidden[index][:, -1]  # 0 is the embedding; -1 is after the final norm


def plain_mean(plain, texts):
    seen = plain_pass(plain, plain.tokenizer(texts)["input_ids"])
    total = torch.zeros(len(texts), plain.model.config.hidden_size)
    for row, (vectors, mask) in enumerate(zip(seen.hidden[-1], seen.mask, strict=True)):
        total[row] = vectors[mask.bool()].mean(0)
    return total


def plain_prompt(plain, texts, template, output_layer):
    n_blocks = plain.model.config.num_hidden_layers
    vectors = 0
    for part in PARTS.get(template, [template]):
        prompts = [filled(part, normalized(text)) for text in texts]
        seen = plain_pass(plain, plain.tokenizer(prompts)["input_ids"])
        vectors = vectors + at_output(seen, output_layer, n_blocks)
    return vectors / len(PARTS.get(template, [template]))


def with_placeholder(template):
    """Return the template with the placeholder before the quote that opens the sentence."""
    before, after = template.split("{text}")
    if before.endswith(('"', "“")):
        return before[:-1] + "<PST> " + before[-1] + "{text}" + after
    return before + "<PST> {text}" + after


def plain_prepending(plain, texts, template, start, exit, output_layer, placeholder, seed):
    model = plain.model
    if placeholder is None:
        generator = torch.Generator().manual_seed(seed)
        plain.place(torch.randn(model.config.hidden_size, generator=generator))
    else:
        (token,) = plain.tokenizer(placeholder, add_special_tokens=False)["input_ids"]
        weights = model.get_input_embeddings().weight
        with torch.no_grad():
            weights[plain.placeholder] = weights[token]

    def prepend(ids, x):
        for row, position in (ids == plain.placeholder).nonzero().tolist():
            x[row, position] = x[row, -1]
        return x

    vectors = 0
    for part in PARTS.get(template, [template]):
        prompts = [filled(with_placeholder(part), normalized(text)) for text in texts]
        rows = plain.registered(prompts)["input_ids"]
        seen = plain_pass(plain, rows, (range(start, exit), prepend))
        assert (seen.ids == plain.placeholder).sum(1).tolist() == [1] * len(texts)
        vectors = vectors + at_output(seen, output_layer, model.config.num_hidden_layers)
    return vectors / len(PARTS.get(template, [template]))


def pieces(plain, text, template):
    """Return prefix (with the beginning token), text, middle, text and suffix as token ids."""
    prefix, middle, suffix = template.split("{text}")

    def ids(piece):
        return plain.tokenizer(piece, add_special_tokens=False)["input_ids"] if piece else []

    return [plain.begin + ids(prefix), ids(text), ids(middle), ids(text), ids(suffix)]


def plain_echo(plain, texts, template=ECHO):
    parts = [pieces(plain, text.strip(), template) for text in texts]
    seen = plain_pass(plain, [list(chain(*row)) for row in parts])
    vectors = []
    for states, (_, _, _, copy, suffix) in zip(seen.hidden[-1], parts, strict=True):
        stop = len(states) - len(suffix)
        vectors.append(states[stop - len(copy) : stop].mean(0))
    return torch.stack(vectors)


def plain_values(plain, texts, variant, first, stop, template):
    """Return the mean over blocks of values, of pattern times values, or of W_O of that."""
    vectors, parts = 0, PARTS.get(template, [template])
    for part in parts:
        prompts = [text if part == "none" else filled(part, normalized(text)) for text in texts]
        seen = plain_pass(plain, plain.tokenizer(prompts)["input_ids"])
        rows = []
        for row, mask in enumerate(seen.mask.bool()):
            total = 0
            for layer in range(first, stop):
                value = seen.values[layer][row]  # [tokens, n_kv, d_head]
                if variant == "va":
                    total = total + value[mask].mean(0).flatten()
                    continue
                pattern = seen.patterns[layer][row, :, -1]  # [heads, tokens]
                group = len(pattern) // value.shape[1]
                heads = [pattern[h] @ value[:, h // group] for h in range(len(pattern))]
                z = torch.cat(heads)
                w_o = plain.model.model.layers[layer].self_attn.o_proj.weight
                total = total + (z if variant == "wva" else w_o @ z)
            rows.append(total / (stop - first))
        vectors = vectors + torch.stack(rows)
    return (vectors / len(parts)).detach()


def check(encoder, texts, expected, tolerance):
    found = encoder.encode(texts, progress=False).vectors
    assert found.dtype == torch.float32
    assert found.device.type == "cpu"
    assert found.shape == expected.shape == (len(texts), encoder.width)
    errors = (found - expected).norm(dim=1) / expected.norm(dim=1)
    assert errors.max() < tolerance, (encoder, errors)


ARCHITECTURES = ["Llama", "Qwen3", "Phi3", "Gemma2"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_mean_pooling_equals_transformers(pair, architecture):
    lens, plain = pair(architecture)
    check(MeanPooling(lens), TEXTS, plain_mean(plain, TEXTS), 1e-4)


@pytest.mark.parametrize("template", [*PARTS, FREE, CURLY, "{text}", "{text} , in short :"])
def test_every_prompt_equals_transformers(pair, template):
    lens, plain = pair("Llama")
    output_layer = {"prompteol": "final", "metaeol": "final"}.get(template)
    if output_layer is None:
        output_layer = "penultimate" if template in PARTS else "final"
    encoder = PromptEncoder(lens, template)
    assert encoder.output_layer == output_layer
    check(encoder, TEXTS, plain_prompt(plain, TEXTS, template, output_layer), 1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_prompts_at_every_output_equal_transformers(pair, architecture):
    lens, plain = pair(architecture)
    for output_layer in (*range(1, N_BLOCKS + 1), "penultimate", "last", "final"):
        encoder = PromptEncoder(lens, "prompteol", output_layer)
        expected = plain_prompt(plain, TEXTS, "prompteol", output_layer)
        check(encoder, TEXTS, expected, 1e-4)
    expected = plain_prompt(plain, TEXTS[:2], "metaeol", "final")
    check(PromptEncoder(lens, "metaeol"), TEXTS[:2], expected, 1e-4)


# template, start, exit, output layer, placeholder, seed
PREPENDINGS = [
    ("prompteol", 1, 2, "penultimate", None, 0),
    ("prompteol", 1, N_BLOCKS - 1, "penultimate", None, 3),
    ("prompteol", 1, 1, "final", None, 0),
    ("prompteol", 2, 2, 2, " the", 0),
    ("pretended_cot", 1, 2, "last", " the", 0),
    ("knowledge", 2, N_BLOCKS - 1, N_BLOCKS - 1, " of", 1),
    ("ck", 0, 3, 3, None, 1),
    ("prompteol", 0, N_BLOCKS, "last", " the", 0),
    (FREE, 1, 3, "final", None, 2),
    (CURLY, 1, 3, 4, None, 0),
    ("{text} , in short :", 1, 2, "final", None, 0),
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_token_prepending_equals_plain_hooks(pair, architecture):
    lens, plain = pair(architecture)
    for settings in PREPENDINGS:
        expected = plain_prepending(plain, TEXTS, *settings)
        check(TokenPrepending(lens, *settings), TEXTS, expected, 1e-4)
    settings = ("metaeol", 1, 3, "penultimate", None, 0)
    expected = plain_prepending(plain, TEXTS[:2], *settings)
    check(TokenPrepending(lens, *settings), TEXTS[:2], expected, 1e-4)


def test_token_prepending_without_blocks_is_a_plain_pass_with_a_placeholder(pair):
    lens, plain = pair("Llama")
    prompts = [filled(PROMPTEOL, normalized(text)) for text in TEXTS]
    at_quote = [prompt.replace(' : "', ' : <PST> "', 1) for prompt in prompts]
    (token,) = plain.tokenizer(" the", add_special_tokens=False)["input_ids"]
    rows = [
        [token if id_ == plain.placeholder else id_ for id_ in row]
        for row in plain.registered(at_quote)["input_ids"]
    ]
    expected = plain_pass(plain, rows).hidden[-1][:, -1]
    found = [
        TokenPrepending(lens, "prompteol", start, start, "final", " the") for start in (0, 1, 4)
    ]
    for encoder in found:
        check(encoder, TEXTS, expected, 1e-4)
    assert (
        found[0].encode(TEXTS).vectors - PromptEncoder(lens).encode(TEXTS).vectors
    ).abs().max() > 1e-2


def test_token_prepending_defaults_and_what_they_do(pair):
    lens, _ = pair("Llama")
    encoder = TokenPrepending(lens, exit=4)
    settings = (encoder.start, encoder.output_layer, encoder.placeholder, encoder.seed)
    assert settings == (1, "penultimate", None, 0)
    base = encoder.encode(TEXTS).vectors
    for other in (
        TokenPrepending(lens, exit=3),
        TokenPrepending(lens, start=2, exit=4),
        TokenPrepending(lens, exit=4, seed=1),
        TokenPrepending(lens, exit=4, placeholder=" the"),
        PromptEncoder(lens, "prompteol", "penultimate"),
    ):
        assert (other.encode(TEXTS).vectors - base).norm() > 1e-3 * base.norm(), other


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_echo_equals_separate_pieces_and_a_mean_over_the_second_copy(pair, architecture):
    lens, plain = pair(architecture)
    check(Echo(lens), TEXTS, plain_echo(plain, TEXTS), 1e-4)
    expected = plain_echo(plain, TEXTS, ECHO_WITH_END)
    check(Echo(lens, ECHO_WITH_END), TEXTS, expected, 1e-4)
    check(Echo(lens, "{text}{text}"), TEXTS, plain_echo(plain, TEXTS, "{text}{text}"), 1e-4)


def test_echo_pieces_are_not_those_of_the_whole_prompt(pair):
    # Otherwise the test above would not notice tokens across the boundaries.
    _, plain = pair("Llama")
    parts = [pieces(plain, text.strip(), ECHO) for text in TEXTS]
    whole = plain.tokenizer([text.strip().join(ECHO.split("{text}")) for text in TEXTS])
    joined = [list(chain(*row)) for row in parts]
    assert any(a != b for a, b in zip(joined, whole["input_ids"], strict=True))
    assert [row.count(plain.begin[0]) for row in joined] == [1] * len(TEXTS)


VALUES = [
    ("va", "second_half", None),
    ("va", "all", "prompteol"),
    ("va", (1, 3), "none"),
    ("va", (0, 1), "ck"),
    ("wva", "second_half", None),
    ("wva", "all", "pretended_cot"),
    ("wva", (2, 3), "none"),
    ("wva", (0, 4), "ck"),
    ("aligned_wva", "second_half", None),
    ("aligned_wva", "all", "knowledge"),
    ("aligned_wva", (0, 2), FREE),
    ("aligned_wva", [4, 5], "ck"),
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_value_aggregation_equals_patterns_times_values(pair, architecture):
    lens, plain = pair(architecture)
    named = {"second_half": (N_BLOCKS // 2, N_BLOCKS), "all": (0, N_BLOCKS)}
    defaults = {"va": "none", "wva": "prompteol", "aligned_wva": "prompteol"}
    for variant, layers, template in VALUES:
        first, stop = named[layers] if isinstance(layers, str) else layers
        encoder = ValueAggregation(lens, variant, layers, template)
        template = defaults[variant] if template is None else template
        expected = plain_values(plain, TEXTS, variant, first, stop, template)
        check(encoder, TEXTS, expected, 1e-4)


def test_widths_are_those_of_values_of_heads_and_of_the_stream(pair):
    widths = {
        "Llama": {"va": 2 * 8, "wva": 4 * 8, "aligned_wva": 32},
        "Qwen3": {"va": 2 * 12, "wva": 4 * 12, "aligned_wva": 32},
    }
    for architecture, expected in widths.items():
        lens, _ = pair(architecture)
        found = {variant: ValueAggregation(lens, variant).width for variant in expected}
        assert found == expected


# Embedded models


@pytest.mark.parametrize("name", ["gemma-3-270m", "smollm2-135m-instruct"])
def test_embedded_models_equal_plain_transformers(embedded, name):
    lens = embedded(name)
    gemma = name.startswith("gemma")
    plain, texts = Plain(locate(name), lens.tokenizer, begins=gemma), TEXTS[1:]
    n = plain.model.config.num_hidden_layers
    check(MeanPooling(lens), texts, plain_mean(plain, texts), 1e-3)
    check(Echo(lens), texts, plain_echo(plain, texts), 1e-3)
    template, output_layer = ("ck", "penultimate") if gemma else ("prompteol", "final")
    expected = plain_prompt(plain, texts, template, output_layer)
    check(PromptEncoder(lens, template), texts, expected, 1e-3)
    settings = ("prompteol", 1, 7, "penultimate", None, 0)
    if not gemma:
        settings = ("pretended_cot", 1, 4, n - 3, " the", 0)
    expected = plain_prepending(plain, texts, *settings)
    check(TokenPrepending(lens, *settings), texts, expected, 1e-3)
    variants = {"va": "none", "aligned_wva" if gemma else "wva": "prompteol"}
    for variant, template in variants.items():
        expected = plain_values(plain, texts, variant, n // 2, n, template)
        check(ValueAggregation(lens, variant), texts, expected, 1e-3)


# One list of everything, for what all encoders have in common


def everything(lens):
    return [
        MeanPooling(lens),
        PromptEncoder(lens),
        PromptEncoder(lens, "ck"),
        PromptEncoder(lens, "metaeol", 3),
        PromptEncoder(lens, FREE, "last"),
        TokenPrepending(lens, exit=3),
        TokenPrepending(lens, exit=3, seed=1),
        TokenPrepending(lens, exit=4),
        TokenPrepending(lens, start=2, exit=4),
        TokenPrepending(lens, exit=3, placeholder=" the"),
        TokenPrepending(lens, "ck", 1, 2, 3, " of"),
        Echo(lens),
        Echo(lens, ECHO_WITH_END),
        ValueAggregation(lens, "va"),
        ValueAggregation(lens, "va", (0, 2), "prompteol"),
        ValueAggregation(lens, "wva", "all"),
        ValueAggregation(lens, "aligned_wva"),
        ValueAggregation(lens, "aligned_wva", (1, 4), "ck"),
    ]


def test_order_repeats_and_batches_do_not_matter(pair, monkeypatch):
    lens, _ = pair("Gemma2")
    wanted = [5, 0, 5, 6, 3, 3]
    for encoder in everything(lens):
        alone = torch.cat([encoder.encode([text]).vectors for text in MANY])
        scale = alone.abs().max()
        assert (encoder.encode(MANY).vectors - alone).abs().max() < 1e-5 * scale, encoder
        found = encoder.encode([MANY[i] for i in wanted]).vectors
        assert (found - alone[wanted]).abs().max() < 1e-5 * scale, encoder
        with monkeypatch.context() as patch:
            patch.setitem(passes.TOKENS_PER_BATCH, "cpu", 150)
            assert (encoder.encode(MANY).vectors - alone).abs().max() < 1e-5 * scale, encoder


def test_half_precision_gives_float32_close_to_the_full_one(tiny_folder, tiny_lens):
    half = load_model(tiny_folder("Llama"), dtype="bfloat16")
    for make in (
        MeanPooling,
        PromptEncoder,
        lambda lens: TokenPrepending(lens, exit=2),
        lambda lens: TokenPrepending(lens, exit=2, placeholder="a"),
        Echo,
        lambda lens: ValueAggregation(lens, "va"),
        lambda lens: ValueAggregation(lens, "wva"),
        ValueAggregation,
    ):
        found, full = (
            make(half).encode(TEXTS[:2]).vectors,
            make(tiny_lens).encode(TEXTS[:2]).vectors,
        )
        assert found.dtype == torch.float32
        assert 0 < (found - full).norm() / full.norm() < 0.05


def test_no_text_gives_no_vector_of_the_right_width(lens, tmp_path):
    store = VectorStore(tmp_path / "v.sqlite")
    for encoder in everything(lens):
        for found in (encoder.encode([]).vectors, encoder.encode((), store=store).vectors):
            assert found.shape == (0, encoder.width), encoder
            assert found.dtype == torch.float32


def test_similarities_are_cosines(lens):
    for encoder in (TokenPrepending(lens, exit=2), ValueAggregation(lens, "va")):
        e1, e2 = encoder.encode(MANY[:3]).vectors, encoder.encode(MANY[2:5]).vectors
        matrix = torch.nn.functional.cosine_similarity(e1[:, None], e2[None], dim=-1)
        assert torch.allclose(encoder.similarity(e1, e2), matrix, atol=1e-6)
        assert torch.allclose(encoder.similarity_pairwise(e1, e2), matrix.diagonal(), atol=1e-6)


# Texts that are too long


def longest(n_tokens_of):
    """Return the length of the longest beginning of LONG that has at most 512 tokens."""
    return max(n for n in range(1, len(LONG) + 1) if n_tokens_of(LONG[:n]) <= 512)


def test_letters_of_the_long_text_are_one_token_each(pair):
    _, plain = pair("Llama")
    assert len(plain.tokenizer(LONG, add_special_tokens=False)["input_ids"]) == len(LONG) == 800


def shortened(encoder, n_short=1):
    texts = [TEXTS[0], LONG]
    with pytest.warns(UserWarning, match="1 of 2 texts were shortened to fit 512 tokens") as seen:
        found = encoder.encode(texts).vectors
    assert len(seen) == n_short
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.allclose(found[:1], encoder.encode(TEXTS[:1]).vectors, atol=1e-5)
    return found[1]


def test_an_over_long_text_is_shortened_and_its_template_is_whole(pair):
    lens, plain = pair("Llama")

    def ids(tokenizer, template, text):
        return tokenizer(filled(template, text))["input_ids"]

    n = longest(lambda text: len(ids(plain.tokenizer, PROMPTEOL, text)))
    rows = [ids(plain.tokenizer, PROMPTEOL, LONG[:n])]
    assert len(rows[0]) == 512
    expected = plain_pass(plain, rows).hidden[-1][0, -1]
    assert torch.allclose(shortened(PromptEncoder(lens)), expected, atol=1e-4)

    template = with_placeholder(PROMPTEOL)
    n = longest(lambda text: len(ids(plain.registered, template, text)))
    (token,) = plain.tokenizer(" the", add_special_tokens=False)["input_ids"]
    row = ids(plain.registered, template, LONG[:n])
    position = row.index(plain.placeholder)
    row[position] = token

    def prepend(_, x):
        x[0, position] = x[0, -1]
        return x

    expected = plain_pass(plain, [row], (range(1, 3), prepend)).hidden[-2][0, -1]
    found = shortened(TokenPrepending(lens, exit=3, placeholder=" the"))
    assert torch.allclose(found, expected, atol=1e-4)

    n = longest(lambda text: len(plain.tokenizer(text)["input_ids"]))
    expected = plain_mean(plain, [LONG[:n]])[0]
    assert torch.allclose(shortened(MeanPooling(lens)), expected, atol=1e-4)
    expected = plain_values(plain, [LONG[:n]], "va", 2, 5, "none")[0]
    assert torch.allclose(shortened(ValueAggregation(lens, "va")), expected, atol=1e-4)
    shortened(PromptEncoder(lens, "ck"), n_short=2)


@pytest.mark.parametrize("template", [ECHO, ECHO_WITH_END])
def test_both_copies_of_an_over_long_text_are_shortened(pair, template):
    lens, plain = pair("Llama")
    n = longest(lambda text: sum(map(len, pieces(plain, text, template))))
    assert 200 < n < 256
    expected = plain_echo(plain, [LONG[:n]], template)[0]
    assert torch.allclose(shortened(Echo(lens, template)), expected, atol=1e-4)


def test_a_template_without_room_for_text_is_refused(lens):
    full = f"{LONG} {{text}}"
    for encoder in (
        PromptEncoder(lens, full),
        TokenPrepending(lens, full, exit=2),
        Echo(lens, f"{full} {{text}}"),
    ):
        with pytest.raises(InputError, match="template longer than 512 tokens leaves no room"):
            encoder.encode(TEXTS[:1])


# Cost


@contextlib.contextmanager
def rows_of_blocks(lens):
    """Count block → rows that went through it."""
    ran = Counter()
    handles = [
        lens.bridge.hook_dict[f"blocks.{layer}.hook_out"].register_forward_hook(
            lambda module, inputs, out, layer=layer: ran.update({layer: len(out)})
        )
        for layer in range(lens.n_layers)
    ]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


# Passes and blocks of each, from the definition of the encoder.
COSTS = [(1, 5), (1, 5), (2, 8), (8, 24), (1, 5), *[(1, 4)] * 5, (2, 6), (1, 5), (1, 5)]
COSTS += [(1, 5), (1, 2), (1, 5), (1, 5), (2, 8)]


def test_passes_and_blocks_are_those_that_run(pair):
    for architecture in ("Llama", "Gemma2"):
        lens, _ = pair(architecture)
        for encoder, (n_passes, n_blocks) in zip(everything(lens), COSTS, strict=True):
            with rows_of_blocks(lens) as ran, counted(lens) as work:
                encoder.encode([TEXTS[1]] * 3)
            assert ran[0] == encoder.passes == n_passes, encoder
            assert sum(ran.values()) == work.rows == encoder.blocks == n_blocks, encoder
            assert max(ran) == n_blocks // n_passes - 1, encoder
            # A beginning that all prompts have in common may be one row more in each pass.
            with counted(lens) as work:
                encoder.encode(MANY)
            assert len(MANY) * n_blocks <= work.rows <= (len(MANY) + 1) * n_blocks, encoder


def test_a_store_gives_the_same_numbers_and_spares_the_second_pass(lens, tmp_path):
    store = VectorStore(tmp_path / "v.sqlite")
    encoders = everything(lens)
    plain = [encoder.encode(TEXTS).vectors for encoder in encoders]
    for encoder, expected in zip(encoders, plain, strict=True):
        first = encoder.encode(TEXTS[1:], store=store).vectors
        assert torch.allclose(first, expected[1:], atol=1e-5), encoder
    # All are in one file by now, and none of them takes another's vectors.
    for encoder, expected in zip(everything(lens), plain, strict=True):
        with counted(lens) as work:
            again = encoder.encode(TEXTS[:0:-1], store=store).vectors
        assert work.rows == 0, encoder
        assert torch.allclose(again, expected[1:].flip(0), atol=1e-5), encoder
        with counted(lens) as work:
            found = encoder.encode(TEXTS, store=store).vectors
        n_rows = work.rows / encoder.passes
        assert 0 < n_rows <= 2 * lens.n_layers, "one new text, and a beginning in common"
        assert torch.allclose(found, expected, atol=1e-5), encoder
        with counted(lens) as work:
            encoder.encode(TEXTS, store=store)
        assert work.rows == 0


def test_a_store_keeps_means_over_other_tokens_of_one_prompt_apart(lens, tmp_path):
    store = VectorStore(tmp_path / "v.sqlite")
    for template in ("{text} {text} so so", "{text} so {text} so", "{text} so so {text}"):
        encoder = Echo(lens, template)
        expected = encoder.encode(["so"]).vectors
        assert torch.allclose(encoder.encode(["so"], store=store).vectors, expected, atol=1e-5), (
            template
        )


def test_hooks_and_the_tokenizer_of_the_model_stay_as_they_were(lens):
    vocabulary = lens.tokenizer.get_vocab()
    before = PromptEncoder(lens).encode(TEXTS).vectors
    for encoder in everything(lens):
        encoder.encode(TEXTS)
    assert lens.tokenizer.get_vocab() == vocabulary
    assert "<PST>" not in vocabulary
    assert not any(point.fwd_hooks for point in lens.bridge.hook_dict.values())
    assert torch.equal(PromptEncoder(lens).encode(TEXTS).vectors, before)


# Settings


def test_settings_survive_a_file(lens, tmp_path):
    for index, encoder in enumerate(everything(lens)):
        file = encoder.save(tmp_path / f"{index}.json")
        assert json.loads(file.read_text(encoding="utf-8")) == encoder.config
        assert encoder.config["model"] == lens.name
        for where in (file, str(file)):
            loaded = type(encoder).load(where, lens)
            assert loaded.config == encoder.config
            assert (repr(loaded), loaded.name) == (repr(encoder), encoder.name)
            assert (loaded.blocks, loaded.width) == (encoder.blocks, encoder.width)
        assert torch.equal(loaded.encode(TEXTS[:2]).vectors, encoder.encode(TEXTS[:2]).vectors)


def test_numbers_of_numpy_are_settings_too(lens, tmp_path):
    two, three = np.int64(2), np.int64(3)
    for encoder in (
        PromptEncoder(lens, output_layer=two),
        TokenPrepending(lens, start=two, exit=three, output_layer=three),
        ValueAggregation(lens, layers=(two, three)),
    ):
        file = encoder.save(tmp_path / "encoder.json")
        assert type(encoder).load(file, lens).config == encoder.config


def test_settings_of_another_model_and_damaged_ones_are_refused(lens, tmp_path):
    other = replace(lens, name="another")
    file = tmp_path / "encoder.json"
    for encoder in everything(lens):
        encoder.save(file)
        message = f"settings of '{re.escape(lens.name)}', not of 'another'.*own"
        with pytest.raises(InputError, match=message):
            type(encoder).load(file, other)
        name = type(encoder).__name__
        for damaged in ("{", "[1]", "{}", json.dumps({**encoder.config, "colour": 1})):
            file.write_text(damaged, encoding="utf-8")
            with pytest.raises(InputError, match=f"not a saved configuration of {name}"):
                type(encoder).load(file, lens)
        with pytest.raises(InputError, match=r"cannot read .*absent\.json .*; give a file that"):
            type(encoder).load(tmp_path / "absent.json", lens)


@pytest.mark.parametrize(
    ("saved", "other"),
    [
        (Echo, MeanPooling),
        (PromptEncoder, Echo),
        (PromptEncoder, TokenPrepending),
        (MeanPooling, PromptEncoder),
        (MeanPooling, Echo),
        (MeanPooling, ValueAggregation),
    ],
)
def test_settings_of_another_encoder_are_refused(lens, tmp_path, saved, other):
    file = saved(lens).save(tmp_path / "encoder.json")
    with pytest.raises(InputError, match=f"not a saved configuration of {other.__name__}"):
        other.load(file, lens)


def test_names_for_tables(lens):
    names = {
        "mean pooling": MeanPooling(lens),
        "PromptEOL": PromptEncoder(lens),
        "Pretended CoT": PromptEncoder(lens, "pretended_cot"),
        "Knowledge Enhancement": PromptEncoder(lens, "knowledge"),
        "CK": PromptEncoder(lens, "ck"),
        "MetaEOL": PromptEncoder(lens, "metaeol"),
        FREE: PromptEncoder(lens, FREE),
        "PromptEOL + TP": TokenPrepending(lens, exit=2),
        "MetaEOL + TP": TokenPrepending(lens, "metaeol", exit=2),
        "Echo": Echo(lens),
        "VA": ValueAggregation(lens, "va"),
        "WVA": ValueAggregation(lens, "wva"),
        "AlignedWVA": ValueAggregation(lens),
    }
    assert {name: encoder.name for name, encoder in names.items()} == {name: name for name in names}


# Refusals


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([""], "text 0 is empty"),
        (["A dog sleeps.", " \n"], r"text 1 is empty or not a string: ' \\n'; give it words"),
        (["A dog sleeps.", None], "text 1 is empty or not a string: None"),
        ("Dogs", "texts must be a list of strings; give one as .'Dogs'."),
    ],
)
def test_bad_texts_are_named(lens, texts, message):
    for encoder in everything(lens):
        with pytest.raises(InputError, match=message):
            encoder.encode(texts)


TOO_MANY_SLOTS = r"template '\{text\} or \{text\}' has more than one"
BOUNDS = "start and exit must be blocks with 0 <= start <= exit <= "
LAYERS = r"layers must be \(first, stop\) with 0 <= first < stop <= 5, got "


@pytest.mark.parametrize(
    ("encoder", "settings", "message"),
    [
        (PromptEncoder, {"template": "prompteo"}, "unknown template 'prompteo'; .* prompteol"),
        (PromptEncoder, {"template": "none"}, "'none' has no prompt; use .* or MeanPooling"),
        (PromptEncoder, {"template": "{text} or {text}"}, TOO_MANY_SLOTS),
        (PromptEncoder, {"output_layer": "middle"}, "'middle'; .* penultimate, last, final"),
        (PromptEncoder, {"output_layer": 0}, "output_layer must be between 1 and 5, got 0"),
        (PromptEncoder, {"output_layer": -2}, "output_layer must be between 1 and 5, got -2"),
        (PromptEncoder, {"output_layer": 6}, "output_layer must be between 1 and 5, got 6"),
        (PromptEncoder, {"output_layer": 2.0}, r"between 1 and 5, got 2\.0"),
        (PromptEncoder, {"output_layer": True}, "between 1 and 5, got True"),
        (TokenPrepending, {}, f"{BOUNDS}4 .*output layer.*, got 1 and 7"),
        (TokenPrepending, {"template": "prompteo"}, "unknown template 'prompteo'"),
        (TokenPrepending, {"template": "none", "exit": 2}, "'none' has no prompt"),
        (TokenPrepending, {"exit": 5}, f"{BOUNDS}4 .*output layer.*, got 1 and 5"),
        (TokenPrepending, {"exit": 6, "output_layer": "final"}, f"{BOUNDS}5 .*got 1 and 6"),
        (TokenPrepending, {"exit": 3, "output_layer": 2}, f"{BOUNDS}2 .*got 1 and 3"),
        (TokenPrepending, {"exit": 3, "start": -1}, f"{BOUNDS}4 .*got -1 and 3"),
        (TokenPrepending, {"exit": 2, "start": 3}, f"{BOUNDS}4 .*got 3 and 2"),
        (TokenPrepending, {"exit": 2.0}, rf"{BOUNDS}4 .*got 1 and 2\.0"),
        (TokenPrepending, {"exit": 2, "start": True}, f"{BOUNDS}4 .*got True and 2"),
        (TokenPrepending, {"exit": None}, f"{BOUNDS}4 .*got 1 and None"),
        (TokenPrepending, {"exit": 2, "output_layer": "middle"}, "'middle'; .* penultimate"),
        (TokenPrepending, {"exit": 2, "output_layer": 9}, "between 1 and 5, got 9"),
        (TokenPrepending, {"exit": 2, "placeholder": " zqx"}, "placeholder ' zqx' is 4 tokens"),
        (TokenPrepending, {"exit": 2, "placeholder": ""}, "placeholder '' is 0 tokens .* ' the'"),
        (Echo, {"template": "Say {text}"}, r"two \{text\} slots, 'Say \{text\}' has 1"),
        (Echo, {"template": "Say"}, r"two \{text\} slots, 'Say' has 0"),
        (Echo, {"template": "{text}{text}{text}"}, r"two \{text\} slots, .* has 3"),
        (ValueAggregation, {"variant": "vva"}, "unknown variant 'vva'; .* va, wva, aligned_wva"),
        (ValueAggregation, {"template": "prompteo"}, "unknown template 'prompteo'"),
        (ValueAggregation, {"template": "{text} or {text}"}, TOO_MANY_SLOTS),
        (ValueAggregation, {"layers": "first_half"}, "unknown layers 'first_half'; .* second_half"),
        (ValueAggregation, {"layers": (0, 6)}, rf"{LAYERS}\(0, 6\)"),
        (ValueAggregation, {"layers": (-1, 2)}, rf"{LAYERS}\(-1, 2\)"),
        (ValueAggregation, {"layers": (2, 2)}, rf"{LAYERS}\(2, 2\)"),
        (ValueAggregation, {"layers": (3, 1)}, rf"{LAYERS}\(3, 1\)"),
        (ValueAggregation, {"layers": (1,)}, rf"{LAYERS}\(1,\)"),
        (ValueAggregation, {"layers": (0, 1, 2)}, rf"{LAYERS}\(0, 1, 2\)"),
        (ValueAggregation, {"layers": ()}, rf"{LAYERS}\(\)"),
        (ValueAggregation, {"layers": (0.0, 2.0)}, rf"{LAYERS}\(0\.0, 2\.0\)"),
        (ValueAggregation, {"layers": (False, True)}, rf"{LAYERS}\(False, True\)"),
        (ValueAggregation, {"layers": 3}, f"{LAYERS}3"),
        (ValueAggregation, {"layers": range(1, 3)}, rf"{LAYERS}range\(1, 3\)"),
    ],
)
def test_bad_settings_are_named(lens, encoder, settings, message):
    with pytest.raises(InputError, match=message):
        encoder(lens, **settings)


def test_output_layers_are_read_where_that_many_blocks_have_run():
    for n_layers in (2, 5, 32):
        for output_layer, n_run in {1: 1, "penultimate": n_layers - 1, "last": n_layers}.items():
            wanted = output_place(output_layer, n_layers)
            assert (wanted.component, wanted.n_blocks(n_layers)) == ("resid", n_run)
        final = output_place("final", n_layers)
        assert (final.component, final.n_blocks(n_layers)) == ("final", n_layers)


def test_a_text_with_the_placeholder_in_it_is_no_second_placeholder(pair):
    lens, plain = pair("Llama")
    text = "The mark <PST> is a word."
    encoder = TokenPrepending(lens, exit=3, placeholder=" the", output_layer="final")
    (token,) = plain.tokenizer(" the", add_special_tokens=False)["input_ids"]
    before = plain.tokenizer("This sentence : ")["input_ids"]
    after = plain.tokenizer(f' "{text}" means in one word:"', add_special_tokens=False)
    row = [*before, token, *after["input_ids"]]

    def prepend(_, x):
        x[0, len(before)] = x[0, -1]
        return x

    expected = plain_pass(plain, [row], (range(1, 3), prepend)).hidden[-1][:, -1]
    check(encoder, [text], expected, 1e-4)


@pytest.mark.parametrize(("n_layers", "expected"), [(32, 27), (3, "penultimate")])
def test_a_model_as_deep_as_the_papers_is_read_where_the_papers_read_it(n_layers, expected):
    assert output_of(SimpleNamespace(n_layers=n_layers)) == expected


def test_similarities_take_arrays(tiny_lens):
    encoder = MeanPooling(tiny_lens)
    vectors = encoder.encode(TEXTS[:2]).vectors
    assert torch.equal(
        encoder.similarity(vectors.numpy(), vectors.numpy()), encoder.similarity(vectors, vectors)
    )
    assert encoder.similarity_pairwise(vectors.numpy(), vectors.numpy()).shape == (2,)


def test_a_dense_vector_has_a_full_set_that_takes_no_memory(tiny_lens):
    encoder = MeanPooling(tiny_lens)
    encoded = encoder.encode(TEXTS, language="fr")
    assert encoded.full
    assert encoded.sets.shape == encoded.vectors.shape
    assert encoded.sets.all()
    assert (
        encoded.sets.untyped_storage().nbytes() == encoded[1:].sets.untyped_storage().nbytes() == 1
    )
    array = np.asarray(encoded)
    assert (array.dtype, array.shape) == (np.float32, (len(TEXTS), encoder.width))
    np.testing.assert_array_equal(array, encoded.vectors)
    np.testing.assert_array_equal(np.asarray(encoded, dtype=np.float64), encoded.vectors.double())
    assert encoded.masked() is encoded.vectors
    with pytest.raises(InputError, match="unknown language 3"):
        encoder.encode(TEXTS, language=3)


def test_sets_that_are_not_full_are_no_array():
    sets = torch.tensor([[True, True], [True, False]])
    encoded = SemanticVectors(torch.ones(2, 2), sets)
    assert not encoded.full
    with pytest.raises(InputError, match=r"give their \.vectors or \.masked\(\)"):
        np.asarray(encoded)
    assert encoded[:1].full
    np.testing.assert_array_equal(np.asarray(encoded[:1]), [[1, 1]])


def test_full_sets_give_the_plain_cosine_to_the_last_bit(tiny_lens):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(70, 40, generator=generator), torch.randn(50, 40, generator=generator)
    encoder, full = DySem(tiny_lens, "en"), torch.ones(70, 40, dtype=torch.bool)
    e1, e2 = SemanticVectors(x), SemanticVectors(y)
    pairs = all_pairs_similarity(x, y, full, full[:50])
    for one in (encoder, MeanPooling(tiny_lens)):
        assert torch.equal(one.similarity(e1, e2), pairs)
        assert torch.equal(one.similarity_pairwise(e1[:50], e2), cosine(x[:50], y))
    assert torch.equal(all_pairs_cosine(x, y), pairs)


def test_every_encoder_takes_the_renderings_that_it_reads(tiny_lens):
    renderings = {"en": TEXTS, "fr": TEXTS[::-1]}
    for encoder in (MeanPooling(tiny_lens), DySem(tiny_lens, ("en", "fr"), k=8)):
        options = {} if encoder.dense else {"renderings": renderings}
        found = encoder.encode_renderings(renderings)
        expected = encoder.encode(TEXTS, **options)
        assert torch.equal(found.vectors, expected.vectors)
        assert torch.equal(found.sets, expected.sets)
        with pytest.raises(InputError, match="unknown language of the texts 'de'"):
            encoder.encode_renderings(renderings, "de")


def test_any_vector_of_the_last_token_is_an_embedding(tiny_lens):
    texts = ["A dog runs.", "It rains."]
    for where, component in (("attn.sum", "attn"), ("ffn.sum", "ffn"), ("resid.1", "resid")):
        encoder = PromptEncoder(tiny_lens, "prompteol", where)
        layers = 1 if component == "resid" else "sum"
        read = capture(tiny_lens, wrap(texts), component, layers, progress=False)[component]
        assert torch.equal(encoder.encode(texts, progress=False).vectors, read)
        assert PromptEncoder.from_config(encoder.config, tiny_lens).output_layer == where
        assert encoder.name == ("PromptEOL" if component == "resid" else f"PromptEOL ({where})")
    for wrong in ("value.1", "attn.each", "mean.sum", "attn.9", "attn.one"):
        with pytest.raises(InputError):
            PromptEncoder(tiny_lens, "prompteol", wrong)
