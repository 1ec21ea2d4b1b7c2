"""Parts of the last token's vectors, against plain hooks of an untouched transformers model."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dysem_lab.errors import InputError, ModelError
from dysem_lab.models import record
from dysem_lab.models.capture import capture
from dysem_lab.models.edits import ablate, contrast
from dysem_lab.models.loading import load_model
from dysem_lab.models.parts import HALF_TOLERANCE, SPLITS, neurons, split
from dysem_lab.models.places import place
from dysem_lab.models.record import norm_of
from dysem_lab.prompts import wrap

ARCHITECTURES = ("Llama", "Qwen2", "Qwen3", "Phi3", "Mistral", "Gemma2")
TEXTS = ["A dog runs.", "Some people sing a song.", "犬が走る。"]
pytestmark = pytest.mark.usefixtures("_one_thread")


def parts_of(lens, prompts, where, by, edit=None):
    found = {}
    for batch, parts in split(lens, prompts, place(where), by, edit):
        for i, vectors, whole in zip(batch, parts.vectors, parts.whole, strict=True):
            found[i] = (parts.labels, vectors, whole)
            if by == "neuron":
                fixed = neurons(lens, place(where), edit)
                written = torch.cat(
                    [parts.weights[batch.index(i), :, None] * fixed.vectors, vectors]
                )
                found[i] = ([*fixed.labels, *parts.labels], written, whole)
    return [found[i] for i in range(len(prompts))]


class Plain:
    """An untouched model with hooks of its own: what heads, tokens and FFNs write, by hand."""

    def __init__(self, folder):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
        self.config = self.model.config
        self.d_head = getattr(self.config, "head_dim", None) or (
            self.config.hidden_size // self.config.num_attention_heads
        )

    def run(self, prompt):
        seen, handles = {}, []

        def keep(name, what):
            def hook(module, args, output):
                seen[name] = (args[0] if what == "in" else output).detach()

            return hook

        for i, block in enumerate(self.model.model.layers):
            attention = block.self_attn
            values = getattr(attention, "v_proj", None) or attention.qkv_proj
            for name, module, what in (
                (("z", i), attention.o_proj, "in"),
                (("v", i), values, "out"),
                (("o", i), attention.o_proj, "out"),
                (("f", i), block.mlp, "out"),
                (("u", i), block.mlp.down_proj, "in"),
            ):
                handles.append(module.register_forward_hook(keep(name, what)))
        ids = self.tokenizer(prompt, return_tensors="pt")
        with torch.no_grad():
            result = self.model(**ids, output_attentions=True, output_hidden_states=True)
        for handle in handles:
            handle.remove()
        return seen, result

    def heads(self, prompt, token=None):
        """What each head writes at the last token, of one source token or of all."""
        seen, result = self.run(prompt)
        rows = {}
        n_heads, n_kv = self.config.num_attention_heads, self.config.num_key_value_heads
        for i, block in enumerate(self.model.model.layers):
            W = block.self_attn.o_proj.weight.detach()
            values = seen["v", i][0, :, -n_kv * self.d_head :].view(-1, n_kv, self.d_head)
            norm = getattr(block, "pre_feedforward_layernorm", None) is not None
            for head in range(n_heads):
                z = seen["z", i][0, -1].view(n_heads, self.d_head)[head]
                if token is not None:
                    pattern = result.attentions[i][0, head, -1, token]
                    z = pattern * values[token, head // (n_heads // n_kv)]
                written = W[:, head * self.d_head : (head + 1) * self.d_head] @ z
                if norm:  # Gemma 2: the RMSNorm after it, with the divisor of the whole
                    after = block.post_attention_layernorm
                    rms = (seen["o", i][0, -1].square().mean() + after.eps).sqrt()
                    written = written / rms * (1 + after.weight.detach())
                rows[i, head] = written
        return rows

    def neurons(self, prompt):
        """What each neuron writes at the last token, block after block."""
        seen, _ = self.run(prompt)
        rows = []
        for i, block in enumerate(self.model.model.layers):
            written = block.mlp.down_proj.weight.detach().T * seen["u", i][0, -1, :, None]
            if getattr(block, "post_feedforward_layernorm", None) is not None:
                after = block.post_feedforward_layernorm
                rms = (seen["f", i][0, -1].square().mean() + after.eps).sqrt()
                written = written / rms * (1 + after.weight.detach())
            rows.append(written)
        return torch.cat(rows)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_heads_and_tokens_are_those_of_plain_hooks(tiny_folder, architecture):
    folder = tiny_folder(architecture)
    lens, plain = load_model(folder), Plain(folder)
    prompts = wrap(TEXTS)
    by_head, by_token = (parts_of(lens, prompts, "attn", by) for by in ("head", "token"))
    for i, prompt in enumerate(prompts):
        expected = plain.heads(prompt)
        labels, vectors, _ = by_head[i]
        assert [(p.block, p.head) for p in labels] == list(expected)
        assert torch.allclose(vectors, torch.stack([*expected.values()]), atol=1e-4, rtol=1e-3)
        labels, vectors, _ = by_token[i]
        for position in (0, len(labels) // 2, len(labels) - 1):
            written = sum(plain.heads(prompt, position).values())
            assert torch.allclose(vectors[position], written, atol=1e-4, rtol=1e-3)
            assert labels[position].position == position


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_neurons_are_those_of_plain_hooks(tiny_folder, architecture):
    folder = tiny_folder(architecture)
    lens, plain = load_model(folder), Plain(folder)
    prompts = wrap(TEXTS)
    for where in ("ffn", "resid"):
        for prompt, (labels, vectors, _) in zip(
            prompts, parts_of(lens, prompts, where, "neuron"), strict=True
        ):
            expected = plain.neurons(prompt)
            n = len(expected)
            assert [(p.block, p.neuron) for p in labels[:n]] == [
                (block, i) for block in range(lens.n_layers) for i in range(n // lens.n_layers)
            ]
            assert torch.allclose(vectors[:n], expected, atol=1e-4, rtol=1e-3)
            others = {"ffn": [], "resid": ["attention", "embedding"]}[where]
            assert [label.kind for label in labels[n:]] == others


def test_neurons_of_the_final_norm_are_its_gain_times_those_of_the_stream(tiny_folder):
    lens = load_model(tiny_folder("Gemma2"))
    prompts = wrap(TEXTS)
    norm = lens.bridge.original_model.model.norm
    streams = capture(lens, prompts, "resid", progress=False)["resid"]
    of_stream, of_final = (parts_of(lens, prompts, at, "neuron") for at in ("resid", "final"))
    for stream, (_, before, _), (_, after, _) in zip(streams, of_stream, of_final, strict=True):
        rms = (stream.square().mean() + norm.eps).sqrt()
        expected = before / rms * (1 + norm.weight.detach())
        assert torch.allclose(after, expected, atol=1e-4, rtol=1e-3)


def test_neurons_that_are_not_there_are_refused(tiny_lens, monkeypatch):
    prompts = wrap(TEXTS)
    with pytest.raises(InputError, match="'attn' is no sum over 'neuron'"):
        parts_of(tiny_lens, prompts, "attn", "neuron")
    for position in ("ffn", "released_ffn"):
        edit = contrast(tiny_lens, layer=1, position=position, alpha=1.0)
        with pytest.raises(InputError, match="replaces what the FFN of block 1 writes"):
            parts_of(tiny_lens, prompts, "resid", "neuron", edit)
        ((labels, _, _), *_) = parts_of(tiny_lens, prompts, "resid", "ffn", edit)
        assert {label.kind for label in labels} == {"ffn", "attention", "embedding"}
    edit = contrast(tiny_lens, layer=1, position="hidden", alpha=1.0)
    for labels, vectors, whole in parts_of(tiny_lens, prompts, "resid", "neuron", edit):
        assert {label.block for label in labels if label.kind == "neuron"} == {2}
        assert torch.allclose(vectors.sum(0), whole, atol=1e-4)
    monkeypatch.setattr(record, "NEURONS", "blocks.{layer}.mlp.experts.hook_in")
    with pytest.raises(ModelError, match=r"block 0 does not show its neurons.*by 'ffn'"):
        parts_of(tiny_lens, prompts, "ffn", "neuron")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parts_add_up_to_what_is_captured(tiny_folder, architecture):
    lens = load_model(tiny_folder(architecture))
    prompts = wrap(TEXTS)
    for where, ways in (
        ("attn", ("head", "token", "block")),
        ("attn_raw", ("head", "token", "block")),
        ("ffn", ("block", "ffn", "neuron")),
        ("ffn_raw", ("ffn", "neuron")),
        ("resid", ("head", "token", "block", "ffn", "neuron")),
        ("resid.1", ("head", "token", "neuron")),
        ("final", ("head", "token", "block", "neuron")),
    ):
        component, blocks = place(where)
        captured = capture(lens, prompts, component, blocks, progress=False)[component]
        for by in ways:
            for row, (_, vectors, whole) in zip(
                captured, parts_of(lens, prompts, where, by), strict=True
            ):
                assert torch.allclose(whole, row, atol=1e-4, rtol=1e-4)
                assert torch.allclose(vectors.sum(0), row, atol=1e-4, rtol=1e-4)


CONTRASTS = (
    {},
    {"norm": "recovering"},
    {"norm": "head_recovering", "heads": (0, 2)},
    {"norm": "self_scaling"},
    {"position": "ffn", "alpha": 1.0},
    {"position": "hidden", "alpha": 1.0},
    {"position": "released_ffn", "alpha": 1.0},
    {"position": "released_hidden", "alpha": 1.0},
)


@pytest.mark.parametrize("settings", CONTRASTS, ids=str)
def test_steered_passes_add_up(tiny_lens, settings):
    edit = contrast(tiny_lens, layer=1, **settings)
    prompts = wrap(TEXTS)
    position = settings.get("position", "heads")
    for where in ("attn", "resid"):
        captured = capture(tiny_lens, prompts, where, edit=edit, progress=False)[where]
        for by in ("head", "token"):
            for row, (labels, vectors, _) in zip(
                captured, parts_of(tiny_lens, prompts, where, by, edit), strict=True
            ):
                assert torch.allclose(vectors.sum(0), row, atol=1e-4, rtol=1e-4)
                kinds = {label.kind for label in labels}
                replaced = where == "resid" and position.endswith("hidden")
                assert ("edit" in kinds) == replaced
                assert ("embedding" in kinds) == (where == "resid" and not replaced)
                if by == "token" and not replaced:
                    subtracts = position == "heads" and settings.get("norm") != "self_scaling"
                    assert ("auxiliary" in kinds) == subtracts


def test_the_tokens_of_the_auxiliary_prompt_are_marked(tiny_lens):
    (prompt,) = wrap(TEXTS[:1])
    edit = contrast(tiny_lens, layer=1, alpha=1.0)
    ((labels, _, _),) = parts_of(tiny_lens, [prompt], "attn", "token", edit)
    ((plain_labels, _, _),) = parts_of(tiny_lens, [prompt], "attn", "token")
    assert [label for label in labels if label.kind == "token"] == plain_labels
    own = [label.token for label in labels if label.kind == "auxiliary" and label.of_text]
    assert "".join(own) == "A dog runs."


def test_tokens_know_which_of_them_are_the_text(tiny_lens):
    (prompt,) = wrap(TEXTS[1:2])
    ((labels, _, _),) = parts_of(tiny_lens, [prompt], "attn", "token")
    assert "".join(label.token for label in labels if label.of_text) == TEXTS[1]
    around = [label for label in labels if not label.of_text]
    assert all(label.of_template for label in around)
    assert "".join(label.token for label in around).endswith('" means in one word:"')


def test_what_does_not_decompose_is_refused_with_what_does(tiny_lens):
    prompts = wrap(TEXTS)
    with pytest.raises(InputError, match="'attn' is no sum over 'ffn'; split it by token, head"):
        parts_of(tiny_lens, prompts, "attn", "ffn")
    with pytest.raises(InputError, match="'mean' is no sum over 'token'; split it by language"):
        parts_of(tiny_lens, prompts, "mean", "token")
    with pytest.raises(InputError, match="or take the component attn or attn_raw or resid"):
        parts_of(tiny_lens, prompts, "ffn", "token")
    with pytest.raises(InputError, match="plain pass, or of one under a contrast"):
        parts_of(tiny_lens, prompts, "attn", "head", ablate(tiny_lens, "attn.1"))


@pytest.mark.parametrize("architecture", ["Llama", "Gemma2"])
def test_one_block_and_several_are_split_as_all_are(tiny_folder, architecture):
    lens = load_model(tiny_folder(architecture))
    prompts = wrap(TEXTS)
    for where, blocks in (("attn.1", [1]), ("attn.0-1", [0, 1]), ("ffn_raw.1", [1])):
        name, at = place(where)
        read = capture(lens, prompts, name, at, progress=False)[name]
        for by in SPLITS[name]:
            found = parts_of(lens, prompts, where, by)
            for (labels, vectors, whole), expected in zip(found, read, strict=True):
                assert {label.block for label in labels} - {None} <= {*blocks}
                assert torch.allclose(vectors.sum(0), expected, atol=1e-5)
                assert torch.allclose(whole, expected, atol=1e-5)
    with pytest.raises(InputError, match=r"resid\.0-1 adds up streams"):
        parts_of(lens, prompts, "resid.0-1", "head")


def test_a_sum_that_does_not_hold_is_said(tiny_lens, monkeypatch):
    from dysem_lab.models import parts

    def wrong(lens, block):
        return torch.ones(lens.n_heads, lens.d_head, lens.d_model), None

    monkeypatch.setattr(parts, "output_matrix", wrong)
    with pytest.raises(ModelError, match=r"parts of attn\.sum by head are .* away from it"):
        parts_of(tiny_lens, wrap(TEXTS), "attn", "head")


def test_half_precision_has_a_row_for_rounding(tiny_folder):
    lens = load_model(tiny_folder("Gemma2"), dtype="bfloat16")
    for by in ("head", "neuron"):
        ((labels, vectors, whole),) = parts_of(lens, wrap(TEXTS[:1]), "resid", by)
        assert labels[-1].kind == "rounding"
        assert torch.allclose(vectors.sum(0), whole, atol=1e-4)
        assert vectors[-1].norm() < HALF_TOLERANCE * whole.norm()


def test_a_norm_is_asked_for_what_it_is(tiny_folder):
    lens = load_model(tiny_folder("Gemma2"))
    norm = norm_of(lens, "blocks.1.ln1_post")
    module = lens.bridge.original_model.model.layers[1].post_attention_layernorm
    assert torch.allclose(norm.gain, 1 + module.weight.detach(), atol=1e-5)
    assert not norm.bias.any()
    assert not norm.centres
