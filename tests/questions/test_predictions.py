"""Next tokens and residual streams under a contrast, against plain transformers and plain hooks."""

import contextlib
import math
import warnings
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from dysem_lab.errors import InputError, ModelError
from dysem_lab.models import readout
from dysem_lab.models.loading import load_model, locate
from dysem_lab.models.steering import Contrast, as_edit
from dysem_lab.prompts import wrap
from dysem_lab.questions import predictions, stream
from dysem_lab.questions.study import Study
from tests.conftest import tiny_config

pytestmark = pytest.mark.usefixtures("_one_thread")

TEXTS = ["A dog sleeps.", "Rain fell on the long road to the sea.", "猫が眠っている。"]
PROMPT = 'This sentence : "{}" means in one word:"'
AUXILIARIES = {
    "irrelevant": 'The irrelevant information of this sentence : "{text}" means in one word:"'
}
IN_PROMPT = [*TEXTS[:2], "猫が眠っている。."]  # normalised, as the papers' code does


# A second implementation: an untouched model, and hooks of our own on it


@contextlib.contextmanager
def hooked(module, function, of_input=False):
    """Replace what a module gives, or takes, by a function of it."""

    def after(_, arguments, output):
        first, *rest = output if isinstance(output, tuple) else (output,)
        return (function(first), *rest) if isinstance(output, tuple) else function(first)

    def before(_, arguments):
        return (function(arguments[0]), *arguments[1:])

    handle = (
        module.register_forward_pre_hook(before)
        if of_input
        else module.register_forward_hook(after)
    )
    try:
        yield
    finally:
        handle.remove()


def place(model, position, layer):
    block = model.model.layers[layer]
    return {
        "heads": (block.self_attn.o_proj, True),
        "ffn": (block.mlp, False),
        "hidden": (block, False),
    }[position]


def plain_pass(model, tokenizer, prompt):
    """Return the next-token probabilities, and the residual stream after every block."""
    with torch.no_grad(), contextlib.ExitStack() as stack:
        stream = {}
        for layer, block in enumerate(model.model.layers):
            keep = lambda tensor, layer=layer: stream.__setitem__(layer, tensor[0]) or tensor  # noqa: E731
            stack.enter_context(hooked(block, keep))
        logits = model(**tokenizer([prompt], return_tensors="pt")).logits[0, -1]
    return logits.softmax(-1), torch.stack([stream[layer] for layer in sorted(stream)])


def contrasted_pass(model, tokenizer, text, contrast):
    """Return the same with the auxiliary prompt subtracted at the last token."""
    module, of_input = place(model, contrast.position, contrast.layer)
    minus = []

    def keep(tensor):
        minus.append(tensor[0, -1].clone())
        return tensor

    def change(tensor):
        tensor = tensor.clone()
        v = tensor[0, -1].clone()
        difference = v - minus[0]
        if difference.norm() <= 1e-5 * v.norm():  # the window of block 0 ends before they differ
            difference = torch.zeros_like(difference)
        if contrast.norm == "scaling":
            tensor[0, -1] = contrast.alpha * difference
        elif contrast.norm == "recovering":
            tensor[0, -1] = difference * v.norm() / difference.norm().clamp(min=1e-30)
        else:
            tensor *= contrast.alpha
        return tensor

    with hooked(module, keep, of_input):
        auxiliary = AUXILIARIES.get(contrast.auxiliary, contrast.auxiliary)
        plain_pass(model, tokenizer, auxiliary.format(text=text))
    with hooked(module, change, of_input):
        return plain_pass(model, tokenizer, PROMPT.format(text))


@pytest.fixture(scope="module")
def pair(tiny_folder):
    """Return a function: architecture → loaded model, and a plain copy with its tokenizer."""
    made = {}

    def load(architecture):
        if architecture not in made:
            folder = tiny_folder(architecture)
            made[architecture] = load_model(folder), plain_copy(folder)
        return made[architecture]

    return load


def plain_copy(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


CONTRASTS = [
    Contrast(1, "scaling", 2.0),
    Contrast(2, "scaling", -0.5),
    Contrast(0, "recovering"),
    Contrast(1, "scaling", 3.0, "ffn"),
    Contrast(1, "recovering", position="hidden"),
    Contrast(1, "self_scaling", 3.0),
]


# Next-token probabilities


@pytest.mark.filterwarnings("ignore:alpha has no effect")
@pytest.mark.parametrize("architecture", ["Llama", "Qwen2", "Qwen3", "Phi3", "Mistral", "Gemma2"])
def test_probabilities_are_those_of_transformers_plain_and_under_a_contrast(pair, architecture):
    lens, (model, tokenizer) = pair(architecture)
    prompts = wrap(TEXTS)
    assert prompts == [PROMPT.format(text) for text in IN_PROMPT]
    plain = torch.stack([plain_pass(model, tokenizer, prompt)[0] for prompt in prompts])
    found = readout.next_token_probabilities(lens, prompts)
    assert found.dtype == torch.float32
    assert torch.allclose(found, plain, atol=1e-5)
    assert torch.allclose(found.sum(1), torch.ones(3))
    for contrast in CONTRASTS:
        if architecture == "Mistral":  # its window sees little but the end, so ends have to differ
            contrast = replace(contrast, auxiliary="Noise in {text} :")
        expected = torch.stack(
            [contrasted_pass(model, tokenizer, text, contrast)[0] for text in IN_PROMPT]
        )
        found = readout.next_token_probabilities(lens, prompts, as_edit(lens, contrast))
        assert torch.allclose(found, expected, atol=1e-5), contrast
        if architecture == "Llama":
            assert (expected - plain).abs().max() > 1e-3, contrast


@pytest.mark.parametrize("architecture", ["Gemma2", "Gemma3Text"])
def test_a_soft_cap_of_the_logits_is_part_of_the_prediction(architecture, tiny_tokenizer, tmp_path):
    import transformers

    settings = tiny_config("Gemma2", len(tiny_tokenizer)).to_dict()
    settings = {key: settings[key] for key in ("vocab_size", "hidden_size", "intermediate_size")}
    config = getattr(transformers, f"{architecture}Config")(
        **settings,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        final_logit_softcapping=0.5,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for weights in model.parameters():
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, std=0.2)
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    model, tokenizer = plain_copy(tmp_path)
    capped, _ = plain_pass(model, tokenizer, PROMPT.format(TEXTS[0]))
    model.config.final_logit_softcapping = None
    free, _ = plain_pass(model, tokenizer, PROMPT.format(TEXTS[0]))
    found = readout.next_token_probabilities(load_model(tmp_path), wrap(TEXTS[:1]))[0]
    assert torch.allclose(found, capped, atol=1e-6)
    assert (free - capped).abs().max() > 1e-3, "the cap matters here"
    assert found.max() / found.min() < math.exp(2 * 0.5) * 1.001


def test_an_embedded_model_predicts_what_transformers_says(embedded):
    lens = embedded("smollm2-135m-instruct")
    model, tokenizer = plain_copy(locate("smollm2-135m-instruct"))
    contrast = Contrast(4, "recovering")
    found = readout.next_token_probabilities(lens, wrap(TEXTS[:1]))[0]
    expected, _ = plain_pass(model, tokenizer, PROMPT.format(TEXTS[0]))
    assert torch.allclose(found, expected, atol=1e-4)
    found = readout.next_token_probabilities(lens, wrap(TEXTS[:1]), as_edit(lens, contrast))[0]
    expected, _ = contrasted_pass(model, tokenizer, TEXTS[0], contrast)
    assert torch.allclose(found, expected, atol=1e-4)


def test_one_pass_per_prompt_and_variant_with_one_position_unembedded(tiny_lens):
    ran, unembedded = Counter(), []
    handles = [
        tiny_lens.bridge.hook_dict[f"blocks.{layer}.hook_out"].register_forward_hook(
            lambda module, arguments, output, layer=layer: ran.update([layer])
        )
        for layer in range(3)
    ]
    head = tiny_lens.bridge.original_model.get_output_embeddings()
    handles.append(
        head.register_forward_hook(lambda _, arguments, output: unembedded.append(output.shape[:2]))
    )
    try:
        variants = {"plain": None, "NS": Contrast(1), "NR": Contrast(0, "recovering")}
        predictions.table(tiny_lens, wrap(TEXTS[:2]), variants, 3)
    finally:
        for handle in handles:
            handle.remove()
    # Two prompts: three whole passes each, and auxiliary ones of two blocks and of one.
    assert ran == {0: 2 * (3 + 2), 1: 2 * (3 + 1), 2: 2 * 3}
    assert unembedded == [(1, 1)] * 6


def test_hooks_are_gone_after_a_pass_and_after_an_error(tiny_lens):
    points = tiny_lens.bridge.hook_dict.values()
    before = readout.next_token_probabilities(tiny_lens, wrap(TEXTS))
    readout.next_token_probabilities(tiny_lens, wrap(TEXTS), as_edit(tiny_lens, Contrast(1)))
    stream.table(tiny_lens, wrap(TEXTS)[0], Contrast(1))
    broken = Contrast(1, alpha=1e300)
    with pytest.raises(ModelError, match=r"the prediction is not finite in torch\.float32; take"):
        predictions.next_tokens(tiny_lens, wrap(TEXTS), broken)
    with pytest.raises(ModelError, match=r"the residual stream is not finite in torch\.float32"):
        stream.table(tiny_lens, wrap(TEXTS)[0], broken)
    assert not any(point.fwd_hooks for point in points)
    assert torch.equal(readout.next_token_probabilities(tiny_lens, wrap(TEXTS)), before)


# The tables


def test_next_tokens_are_the_largest_probabilities_in_order(pair):
    lens, (model, tokenizer) = pair("Llama")
    table = predictions.next_tokens(lens, wrap(TEXTS), top=5)
    assert list(table) == ["prompt", "text", "rank", "token", "id", "probability"]
    assert len(table) == 3 * 5
    for i, text in enumerate(IN_PROMPT):
        p, _ = plain_pass(model, tokenizer, PROMPT.format(text))
        best = sorted(range(len(p)), key=lambda token: -p[token])[:5]
        rows = table[table["prompt"] == i]
        assert rows["text"].unique().tolist() == [text]
        assert rows["rank"].tolist() == [1, 2, 3, 4, 5]
        assert rows["id"].tolist() == best
        assert rows["probability"].tolist() == pytest.approx([float(p[t]) for t in best], abs=1e-5)
    changed = predictions.next_tokens(lens, wrap(TEXTS), Contrast(1), 2)
    p, _ = contrasted_pass(model, tokenizer, IN_PROMPT[0], Contrast(1))
    assert changed["id"].iloc[0] == int(p.argmax())
    assert changed["probability"].iloc[0] == pytest.approx(float(p.max()), abs=1e-5)


def test_a_plain_string_can_be_continued_and_repeats_count_once(tiny_lens):
    table = predictions.next_tokens(tiny_lens, ["One two", "Three", "One two"], top=1)
    assert table["text"].tolist() == ["One two", "Three"]


def test_predictions_compare_the_tops_of_all_variants_with_the_first(pair):
    lens, (model, tokenizer) = pair("Llama")
    contrasts = {"NS": Contrast(1, alpha=3.0), "NR": Contrast(0, "recovering")}
    table = predictions.table(lens, wrap(TEXTS), {"plain": None, **contrasts}, top=4)
    for i, text in enumerate(IN_PROMPT):
        p = {"plain": plain_pass(model, tokenizer, PROMPT.format(text))[0]}
        p |= {k: contrasted_pass(model, tokenizer, text, c)[0] for k, c in contrasts.items()}
        tops = {k: sorted(range(len(v)), key=lambda t, v=v: -v[t])[:4] for k, v in p.items()}
        union = set().union(*tops.values())
        assert len(union) > 4, "the variants differ here"
        for variant in p:
            rows = table[(table["prompt"] == i) & (table["variant"] == variant)].set_index("id")
            assert set(rows.index) == union
            moved = sum(
                abs(float(a) - float(b)) for a, b in zip(p[variant], p["plain"], strict=True)
            )
            assert rows["total_variation"].tolist() == pytest.approx(
                [moved / 2] * len(rows), abs=1e-5
            )
            for token in union:
                better = sum(float(x) > float(p[variant][token]) for x in p[variant])
                assert rows.loc[token, "rank"] == 1 + better
                assert rows.loc[token, "probability"] == pytest.approx(
                    float(p[variant][token]), abs=1e-5
                )
    assert (table[table["variant"] == "plain"]["total_variation"] == 0).all()
    assert (table[table["variant"] != "plain"]["total_variation"] > 0.01).all()


def test_the_share_of_function_words_sums_over_all_their_tokens(pair):
    lens, (model, tokenizer) = pair("Llama")
    table = predictions.table(lens, wrap(TEXTS[:1]), {"plain": None, "NS": Contrast(1)}, 50)
    # The tokenizer has one token per byte, so the only function words are one letter long.
    expected = {"a", "A", "i", "I"}
    assert set(table[table["function_word"]]["token"]) <= expected
    for variant, p in (
        ("plain", plain_pass(model, tokenizer, PROMPT.format(TEXTS[0]))[0]),
        ("NS", contrasted_pass(model, tokenizer, TEXTS[0], Contrast(1))[0]),
    ):
        share = sum(float(p[tokenizer.convert_tokens_to_ids(letter)]) for letter in expected)
        found = table[table["variant"] == variant]["function_word_share"].unique()
        assert found.tolist() == pytest.approx([share], abs=1e-5)
        assert share > 1e-4


WORDS = ["<pad>", "<s>", "</s>", '"', "▁the", "the", "▁The", "▁dog", "dogs", "<0xE3>", "▁"]


@pytest.fixture(scope="module")
def spaced_lens(tiny_lens):
    """Return the tiny model with a tokenizer that hides the first space of a decoded text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    assert fast.decode([4]) == "the"
    return replace(tiny_lens, tokenizer=fast)


def test_tokens_keep_their_space_and_odd_ones_can_be_told(spaced_lens):
    tokens = predictions.next_tokens(spaced_lens, ["▁dog"], top=259).set_index("id")["token"]
    expected = [*WORDS[:4], " the", "the", " The", " dog", "dogs", "⟨E3⟩", " "]
    assert [tokens[i] for i in range(len(WORDS))] == expected
    assert tokens[200] == "⟨200⟩", "the model has more tokens than its tokenizer"


def test_function_words_count_with_and_without_their_space_and_in_any_case(spaced_lens):
    table = predictions.table(spaced_lens, ["▁dog"], {"plain": None}, top=259)
    assert set(table.loc[table["function_word"], "id"]) == {4, 5, 6}
    share = table.loc[table["function_word"], "probability"].sum()
    assert table["function_word_share"].tolist() == pytest.approx([share] * 259, rel=1e-5)


def test_real_tokens_are_what_the_prompt_goes_on_with(embedded):
    lens = embedded("smollm2-135m-instruct")
    prompt = wrap(TEXTS[:1])[0]
    table = predictions.next_tokens(lens, [prompt], top=60)
    ids = lens.tokenizer([prompt])["input_ids"][0]
    whole = [lens.tokenizer.decode([*ids, token]) for token in table["id"]]
    pairs = [
        (text.removeprefix(prompt), token)
        for text, token in zip(whole, table["token"], strict=True)
        if "\ufffd" not in text
    ]
    assert len(pairs) > 40
    assert all(text == token for text, token in pairs)
    assert not table["token"].str.contains("\ufffd").any(), "half a character has a name"
    assert table["token"].str.startswith(" ").any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], None, 3), "there are no prompts"),
        ((["Fine.", "  "], None, 3), "prompt 1 is empty"),
        (("One text", None, 3), r"give one as \['One text'\]"),
        ((["Fine."], None, 0), "top must be between 1 and 259, got 0"),
        ((["Fine."], None, 260), "top must be between 1 and 259, got 260"),
        ((["Fine."], None, True), "got True"),
        ((["Fine."], Contrast(1), 3), "not a prompt made by dysem_lab.wrap"),
        ((wrap(["Fine."]), Contrast(3), 3), "layer must be between 0 and 2"),
    ],
)
def test_refusals_of_next_tokens_name_the_value_and_the_remedy(tiny_lens, arguments, message):
    with pytest.raises(InputError, match=message):
        predictions.next_tokens(tiny_lens, *arguments)


def test_other_refusals(tiny_lens):
    with pytest.raises(InputError, match="variants must name at least one contrast"):
        predictions.table(tiny_lens, wrap(TEXTS), {})
    with pytest.raises(InputError, match=r"not a prompt made by dysem_lab\.wrap"):
        stream.table(tiny_lens, "A plain string", Contrast(1))
    with pytest.raises(InputError, match="prompt 0 is empty"):
        stream.table(tiny_lens, "", Contrast(1))


def test_alpha_without_effect_is_said_and_both_norms_predict_the_same(pair):
    lens, _ = pair("Gemma2")
    variants = {"plain": None, "CP-NS": Contrast(1, alpha=3.0), "CP-NR": Contrast(1, "recovering")}
    with pytest.warns(UserWarning, match="alpha has no effect"):
        table = predictions.table(lens, wrap(TEXTS), variants)
    wide = table.pivot(index=["prompt", "id"], columns="variant", values="probability")
    assert np.allclose(wide["CP-NS"], wide["CP-NR"], atol=1e-4)
    assert not np.allclose(wide["CP-NS"], wide["plain"], atol=1e-4)
    assert "CP-NS and CP-NR predict the same" in predictions.caption(table)
    with pytest.warns(UserWarning, match="alpha has no effect"):
        predictions.next_tokens(lens, wrap(TEXTS[:1]), Contrast(1))
    with pytest.warns(UserWarning, match="alpha has no effect"):
        stream.table(lens, wrap(TEXTS)[0], Contrast(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictions.next_tokens(lens, wrap(TEXTS[:1]), Contrast(1, "recovering"))


# The residual stream


@pytest.mark.filterwarnings("ignore:alpha has no effect")
@pytest.mark.parametrize("architecture", ["Llama", "Gemma2"])
@pytest.mark.parametrize("contrast", CONTRASTS, ids=str)
def test_change_and_cosine_of_the_stream_equal_plain_hooks(pair, architecture, contrast):
    lens, (model, tokenizer) = pair(architecture)
    table = stream.table(lens, wrap(TEXTS[:1])[0], contrast)
    _, h = plain_pass(model, tokenizer, PROMPT.format(TEXTS[0]))
    _, changed = contrasted_pass(model, tokenizer, TEXTS[0], contrast)
    n_layers, n_tokens, _ = h.shape
    assert len(table) == n_layers * n_tokens
    rows = table.set_index(["layer", "position"])
    for layer in range(n_layers):
        for token in range(n_tokens):
            a, b = h[layer, token].double(), changed[layer, token].double()
            row = rows.loc[(layer, token)]
            assert row["change"] == pytest.approx(float((b - a).norm() / a.norm()), abs=1e-5)
            assert row["cosine"] == pytest.approx(float(a @ b / a.norm() / b.norm()), abs=1e-5)


def test_only_the_last_token_moves_and_only_from_the_block_on(tiny_lens):
    prompt = wrap(TEXTS)[1]
    for layer in range(3):
        table = stream.table(tiny_lens, prompt, Contrast(layer))
        moves = (table["layer"] >= layer) & (table["position"] == table["position"].max())
        assert (table.loc[moves, "change"] > 1e-3).all()
        assert (table.loc[~moves, "change"] == 0).all()
    every = stream.table(tiny_lens, prompt, Contrast(1, "self_scaling", 3.0))
    assert (every.loc[every["layer"] >= 1, "change"] > 0).all()
    assert (every.loc[every["layer"] == 0, "change"] == 0).all()


def test_tokens_of_the_stream_are_those_of_the_prompt(tiny_lens, embedded):
    prompt = wrap(TEXTS[:1])[0]
    table = stream.table(tiny_lens, prompt, Contrast(1))
    tokens = table[table["layer"] == 0].sort_values("position")["token"]
    assert "".join(tokens).removeprefix("<s>") == prompt
    table = stream.table(embedded("smollm2-135m-instruct"), prompt, Contrast(1))
    tokens = table[table["layer"] == 0].sort_values("position")["token"].tolist()
    assert tokens[:3] == ["This", " sentence", " :"]
    assert "".join(tokens) == prompt


# Figures and captions


def table_of(shares, probabilities, moved=None):
    """Return a table of two tokens per prompt: shares[variant][prompt], probabilities likewise."""
    rows = []
    for variant, of_prompts in shares.items():
        for i, share in enumerate(of_prompts):
            for token, p in enumerate(probabilities[variant][i]):
                rows.append(
                    {
                        "prompt": i,
                        "text": f"Sentence <{i}> & more.",
                        "variant": variant,
                        "rank": 1 + sum(q > p for q in probabilities[variant][i]),
                        "token": [" the", "<b>", "\n"][token],
                        "id": token,
                        "probability": p,
                        "function_word": token == 0,
                        "total_variation": (moved or {}).get(variant, 0.0),
                        "function_word_share": share,
                    }
                )
    return pd.DataFrame(rows)


BASE = {"plain": [[0.5, 0.3, 0.1]] * 2, "CP-NS": [[0.2, 0.4, 0.3], [0.5, 0.3, 0.1]]}


def test_the_caption_says_which_way_function_words_go():
    towards = table_of({"plain": [0.2, 0.4], "CP-NS": [0.4, 0.3]}, BASE, {"CP-NS": 0.25})
    caption = predictions.caption(towards)
    assert "Next token of 2 sentences, means. plain: function words 30.0%" in caption
    assert (
        "CP-NS: 25% of the probability moves, another first token in 1 of 2, function words 35.0% "
        "(more in 1 of 2)"
    ) in caption
    assert caption.startswith("CP moves probability towards function words here")
    away = table_of({"plain": [0.2, 0.4], "CP-NS": [0.1, 0.3]}, BASE)
    assert "away from function words, as it is meant to" in predictions.caption(away)
    three = {**BASE, "CP-NR": BASE["CP-NS"]}
    mixed = table_of({"plain": [0.2, 0.4], "CP-NS": [0.1, 0.3], "CP-NR": [0.3, 0.4]}, three)
    caption = predictions.caption(mixed)
    assert "not move probability in one direction" in caption
    assert "CP-NS and CP-NR predict the same" in caption
    assert "plain and" not in caption
    alone = table_of({"plain": [0.2, 0.4]}, BASE)
    assert predictions.caption(alone).endswith("function words 30.0%.")


def test_the_figure_has_every_list_in_order_with_colours_that_mean_something():
    table = table_of({"plain": [0.2, 0.4], "CP-NS": [0.4, 0.3]}, BASE, {"CP-NS": 0.25})
    shown = table[(table["id"] < 2) | (table["variant"] == "CP-NS") & (table["prompt"] == 0)]
    extra = table[(table["id"] == 2) & (table["variant"] == "plain") & (table["prompt"] == 0)]
    figure = predictions.figure(pd.concat([shown, extra]), "a model")
    bars = [trace for trace in figure.data if trace.x[0] is not None]
    assert len(bars) == 4
    assert [list(bar.x) for bar in bars[:2]] == [[0.5, 0.3], [0.4, 0.3]]
    assert list(bars[0].text) == ["␣the  0.500", "&lt;b&gt;  0.300"]
    assert list(bars[1].text) == ["&lt;b&gt;  0.400", "⏎  0.300"]
    word, other = predictions.FUNCTION_WORD, predictions.OTHER_TOKEN
    assert list(bars[0].marker.color) == [word, other]
    assert list(bars[1].marker.color) == [other, "#FFFFFF"], "hollow: not in plain's list"
    assert list(bars[1].marker.line.color) == [other, other]
    lines = [annotation.text for annotation in figure.layout.annotations]
    assert "plain: function words 20%" in lines
    assert "CP-NS: 25% moved, function words 40%" in lines
    assert "<b>Sentence &lt;1&gt; &amp; more.</b>" in lines
    assert figure.layout.width == 1000
    assert "a model" in figure.layout.title.subtitle.text


def test_a_figure_says_that_a_prompt_ends_a_question_with_a_full_stop(tiny_lens):
    study = Study(tiny_lens, {}, templates="prompteol", settings="english")
    for sentence, asks in (("Who is it?", True), ("It rains.", False)):
        found = predictions.predictions(study, [sentence], 1, 2.0, top=2)
        under = found.figure.layout.title.subtitle.text.replace("<br>", " ")
        assert ("it ends “?” as “.”" in under) == asks
        shown = sentence.replace("?", ".")
        assert f"<b>{shown}</b>" in [note.text for note in found.figure.layout.annotations]


def stream_table():
    rows = []
    changes = {"CP-NS": [0, 0.5, 0.125], "CP-NR": [0, 0, 0.25], "none": [0, 0, 0]}
    for variant, of_layers in changes.items():
        for layer, change in enumerate(of_layers):
            for position in range(3):
                rows.append(
                    {
                        "position": position,
                        "token": ["<s>", " in", ':"'][position],
                        "layer": layer,
                        "change": change if position == 2 else 0.0,
                        "cosine": 1 - change / 2 if position == 2 else 1.0,
                        "variant": variant,
                    }
                )
    return pd.DataFrame(rows)


def test_the_stream_caption_says_where_it_starts_and_what_is_left():
    caption = stream.caption(stream_table())
    assert caption.startswith("At the end less is left of the change than was made. ")
    grown = stream_table()
    grown.loc[(grown["variant"] == "CP-NS") & (grown["layer"] == 2), "change"] = 0.75
    assert stream.caption(grown).startswith("Later blocks enlarge the change. ")
    assert (
        "CP-NS: moved by 50% after block 2, most (50%) after block 2, by 12% after the last of 3; "
        "cosine at least 0.750 (block 2)"
    ) in caption
    assert "CP-NR: moved by 25% after block 3" in caption
    assert "none: nothing moves" in caption
    assert caption.endswith("no other token moves at all.")
    table = stream_table()
    table.loc[(table["variant"] == "CP-NR") & (table["layer"] == 2), "change"] = 0.3
    assert stream.caption(table).endswith("other tokens move too under CP-NR.")


def test_the_stream_figure_has_the_heat_map_and_both_lines():
    figure = stream.figure(stream_table(), "a model")
    heat, *lines = figure.data
    assert np.array(heat.z).tolist() == [[0, 0, 0], [0, 0, 0.5], [0, 0, 0.125]]
    assert list(heat.y) == [1, 2, 3], "blocks count from 1 in figures"
    assert list(figure.layout.xaxis.ticktext) == ["&lt;s&gt;", "␣in", ':"']
    assert len(lines) == 2 * 3
    assert list(lines[0].x) == [0, 0.5, 0.125]
    assert list(lines[1].x) == [1, 0.75, 0.9375]
    assert list(lines[0].y) == [1, 2, 3]
    assert [line.name for line in lines[::2]] == ["CP-NS", "CP-NR", "none"]


def test_the_words_are_lower_case_and_common():
    assert all(word == word.lower().strip() for word in predictions.FUNCTION_WORDS)
    assert {"a", "the", "she", "of", "and", "is"} <= predictions.FUNCTION_WORDS
    assert not {"dog", "monday", "reset", "sleeps"} & predictions.FUNCTION_WORDS


def test_control_characters_are_shown_by_their_codes():
    assert readout.visible(" a\x04\x0c<\u200b") == "␣a\\x04\\x0c&lt;\\u200b"
