"""What a model's key covers: a change of its files or in memory gives another, or is refused."""

import copy
import json
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformer_lens.conversion_utils.conversion_steps.base_tensor_conversion import (
    BaseTensorConversion,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from dysem_lab.encoders.contrastive import ContrastivePrompting
from dysem_lab.encoders.echo import Echo
from dysem_lab.encoders.prepending import TokenPrepending
from dysem_lab.encoders.trained import SimCSE
from dysem_lab.errors import ModelError
from dysem_lab.models.capture import capture
from dysem_lab.models.lens import boot
from dysem_lab.models.loading import load_model, source_digest
from dysem_lab.models.store import VectorStore
from dysem_lab.models.tokenizer_state import tokenizer_state
from dysem_lab.prompts import wrap
from dysem_lab.questions.study import Study

pytestmark = pytest.mark.usefixtures("_one_thread")

ARCHITECTURES = ("Llama", "Qwen2", "Qwen3", "Phi3", "Mistral", "Gemma2")
TEXTS = ("A Dog sleeps.", "It rains, and rains, and the café is closed.")


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """Return a function: architecture → a copy of the folder of a random model."""

    def copied(architecture: str = "Llama", name: str = "model") -> Path:
        return Path(shutil.copytree(tiny_folder(architecture), tmp_path / name))

    return copied


@pytest.fixture
def store(tmp_path) -> VectorStore:
    return VectorStore(tmp_path / "vectors.sqlite")


def vectors(lens, store=None, components="resid", **options):
    return capture(lens, wrap(TEXTS), components, store=store, progress=False, **options)


def edited(path: Path, change) -> None:
    """Change the content of a JSON file in place."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def in_memory(folder: Path, name="built"):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return boot(model.eval(), AutoTokenizer.from_pretrained(folder), name)


# Files


@pytest.mark.parametrize(
    ("architecture", "field", "value"),
    [
        ("Llama", "rope_parameters", {"rope_type": "default", "rope_theta": 1e6}),
        ("Llama", "rope_parameters", {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}),
        ("Llama", "rms_norm_eps", 0.5),
        ("Llama", "hidden_act", "gelu"),
        ("Qwen3", "rms_norm_eps", 0.5),
        ("Mistral", "sliding_window", 3),
        ("Gemma2", "attn_logit_softcapping", 0.1),
        ("Gemma2", "query_pre_attn_scalar", 1),
        ("Gemma2", "sliding_window", 3),
        ("Gemma2", "hidden_activation", "relu"),
        ("Gemma2", "layer_types", ["full_attention"] * 3),
    ],
)
def test_a_changed_field_of_the_configuration_is_another_model(
    folder, store, architecture, field, value
):
    path = folder(architecture)
    before, source = load_model(path), source_digest(path)
    old = vectors(before, store)["resid"]
    edited(path / "config.json", lambda config: config.update({field: value}))
    after = load_model(path)
    assert after.fingerprint != before.fingerprint
    assert source_digest(path) == after.source != source
    new = vectors(after, store)["resid"]
    assert torch.equal(new, vectors(after)["resid"]), "never the old model's"
    assert not torch.allclose(new, old)


def with_part(name, value):
    return lambda content: content.update({name: value})


BOS = {"SpecialToken": {"id": "<s>", "type_id": 0}}
LOWERCASE = with_part("normalizer", {"type": "Lowercase"})
ADDED = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word", "special"), False)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("tokenizer.json", LOWERCASE),
        ("tokenizer.json", with_part("normalizer", {"type": "NFD"})),
        (
            "tokenizer.json",
            with_part("normalizer", {"type": "Replace", "pattern": {"String": "a"}, "content": ""}),
        ),
        (
            "tokenizer.json",
            with_part(
                "pre_tokenizer",
                {
                    "type": "ByteLevel",
                    "add_prefix_space": True,
                    "trim_offsets": True,
                    "use_regex": True,
                },
            ),
        ),
        (
            "tokenizer.json",
            with_part(
                "post_processor",
                {
                    "type": "TemplateProcessing",
                    "single": [BOS, {"Sequence": {"id": "A", "type_id": 0}}],
                    "pair": [],
                    "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
                },
            ),
        ),
        (
            "tokenizer.json",
            lambda content: content["added_tokens"].append(
                {**ADDED, "id": content["model"]["vocab"]["a"], "content": "a", "lstrip": True}
            ),
        ),
        (
            "tokenizer.json",
            lambda content: content["model"]["vocab"].update(
                a=content["model"]["vocab"]["b"], b=content["model"]["vocab"]["a"]
            ),
        ),
    ],
    ids=["lowercase", "NFD", "replace", "prefix", "BOS", "added", "swapped"],
)
def test_a_changed_part_of_the_tokenizer_is_another_model(folder, store, file, change):
    path = folder()
    before = load_model(path)
    old = vectors(before, store)["resid"]
    edited(path / file, change)
    after = load_model(path)
    assert after.fingerprint != before.fingerprint
    assert source_digest(path) == after.source != before.source
    new = vectors(after, store)["resid"]
    assert torch.equal(new, vectors(after)["resid"])
    assert not torch.equal(new, old)


@pytest.mark.parametrize(
    "file", ["tokenizer_config.json", "special_tokens_map.json", "merges.txt", "tokenizer.model"]
)
def test_every_file_of_a_tokenizer_counts(folder, file):
    path = folder()
    before = source_digest(path)
    (path / file).write_text((path / file).read_text() + " " if (path / file).exists() else "{}")
    assert source_digest(path) != before


@given(st.data())
def test_one_step_of_one_element_anywhere_is_another_model(tiny_folder, tmp_path_factory, data):
    path = Path(shutil.copytree(tiny_folder("Llama"), tmp_path_factory.mktemp("copy") / "model"))
    before = source_digest(path)
    weights = load_file(path / "model.safetensors")
    name = data.draw(st.sampled_from(sorted(weights)))
    flat = weights[name].view(-1)
    at = data.draw(st.integers(0, len(flat) - 1))
    flat[at] = torch.nextafter(flat[at], torch.tensor(torch.inf))
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    assert source_digest(path) != before


def test_equal_folders_are_one_model_and_what_is_not_read_does_not_count(folder):
    first, second = folder(name="first"), folder(name="second")
    (second / "README.md").write_text("about it")
    edited(second / "generation_config.json", lambda content: content.update(temperature=2))
    assert source_digest(first) == source_digest(second)
    one, other = load_model(first), load_model(second)
    assert one.fingerprint == other.fingerprint
    assert one.facts.source == source_digest(first)


def test_a_store_is_read_without_loading_only_while_the_files_are_the_same(
    folder, store, demo, monkeypatch
):
    path = folder()

    def study() -> Study:
        return Study(path, demo, templates="none", store=store, device="cpu", dtype="float32")

    first = study()
    first.capture(progress=False)
    before = first.vectors("demo", "mean")
    with monkeypatch.context() as patch:
        patch.setattr("dysem_lab.models.named.load_model", lambda *_, **__: pytest.fail("loaded"))
        assert torch.equal(study().vectors("demo", "mean"), before)
    edited(path / "config.json", lambda config: config.update(rms_norm_eps=0.5))
    again = study()
    assert again.needs().plan()["passes"].sum() > 0
    again.capture(progress=False)
    expected = capture(load_model(path), wrap(demo.texts("en"), "none"), "mean")["mean"]
    assert torch.allclose(again.vectors("demo", "mean")[:, 0], expected, atol=1e-5)
    assert not torch.allclose(again.vectors("demo", "mean"), before)


@pytest.fixture
def adapted(folder, tmp_path):
    """Return the folders of an adapter and of its base."""
    peft = pytest.importorskip("peft")
    base, adapter = folder(), tmp_path / "adapter"
    torch.manual_seed(0)
    settings = peft.LoraConfig(target_modules=["q_proj", "up_proj"], r=2, init_lora_weights=False)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(adapter)
    AutoTokenizer.from_pretrained(base).save_pretrained(adapter)
    return adapter, base


def test_the_base_of_an_adapter_is_part_of_it(adapted, store):
    adapter, base = adapted
    first, digest = load_model(adapter), source_digest(adapter)
    assert first.source == digest
    old = vectors(first, store)["resid"]
    whole = AutoModelForCausalLM.from_pretrained(adapter, dtype=torch.float32)
    same = boot(whole.eval(), AutoTokenizer.from_pretrained(adapter), "as transformers loads it")
    assert torch.equal(vectors(same)["resid"], old)
    assert not torch.allclose(vectors(load_model(base))["resid"], old)
    retrained = load_file(base / "model.safetensors")
    retrained["model.layers.1.mlp.down_proj.weight"] *= 1.5
    save_file(retrained, base / "model.safetensors", {"format": "pt"})
    second = load_model(adapter)
    assert second.fingerprint != first.fingerprint
    assert source_digest(adapter) == second.source != digest
    new = vectors(second, store)["resid"]
    assert torch.equal(new, vectors(second)["resid"])
    assert not torch.allclose(new, old)


def test_the_base_of_an_adapter_must_be_whole_and_no_adapter(adapted, tmp_path):
    adapter, base = adapted
    settings = adapter / "adapter_config.json"
    edited(settings, lambda content: content.update(base_model_name_or_path=str(adapter)))
    with pytest.raises(ModelError, match="comes back to itself"):
        load_model(adapter)
    edited(settings, lambda content: content.update(base_model_name_or_path=None))
    with pytest.raises(ModelError, match=r"adapter_config\.json names no base"):
        load_model(adapter)
    edited(settings, lambda content: content.update(base_model_name_or_path=str(base)))
    edited(settings, lambda content: content.update(r=content["r"] + 1))
    with pytest.raises(ModelError, match=r"another shape .*lora_A"):
        load_model(adapter)
    edited(settings, lambda content: content.update(r=content["r"] - 1))
    nested = tmp_path / "nested"
    shutil.copytree(adapter, nested)
    edited(
        nested / "adapter_config.json",
        lambda content: content.update(base_model_name_or_path=str(adapter)),
    )
    with pytest.raises(ModelError, match="adapter of an adapter"):
        load_model(nested)
    weights = load_file(base / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"no weights for model\.layers\.1\.mlp\.up_proj"):
        load_model(adapter)


# Memory


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_capturing_does_not_change_a_model(tiny_folder, store, architecture):
    path = tiny_folder(architecture)
    loaded, built, again = load_model(path), in_memory(path), in_memory(path, "another name")
    before = loaded.fingerprint, built.fingerprint
    assert again.fingerprint == built.fingerprint != loaded.fingerprint
    for lens in (loaded, built):
        for layers in ("sum", "each"):
            vectors(lens, store, ("attn", "ffn_raw", "value", "z", "final", "mean"), layers=layers)
        ContrastivePrompting(lens, layer=1, alpha=2.0, position="hidden").encode(TEXTS, store=store)
        Echo(lens).encode(TEXTS, store=store)
        TokenPrepending(lens, exit=2).encode(TEXTS, store=store)
        vectors(lens, store, tokens_per_batch=1)
    assert (loaded.fingerprint, built.fingerprint) == before
    assert loaded.facts.source == source_digest(path)


def test_the_fingerprint_of_a_model_in_memory_is_the_same_in_another_process(tiny_folder):
    path = tiny_folder("Gemma2")
    code = (
        "import sys, torch; from pathlib import Path; "
        "from tests.models.test_identity import in_memory; "
        "print(in_memory(Path(sys.argv[1])).fingerprint)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert found.stdout.split()[-1] == in_memory(path).fingerprint


def parameter(lens, name):
    model = lens.bridge.original_model
    return next(p for n, p in model.named_parameters() if n.endswith(name))


def add_one_step(tensor) -> None:
    flat = tensor.view(-1)
    flat[7] = torch.nextafter(flat[7], torch.tensor(torch.inf))


@torch.no_grad()
def in_place(lens) -> None:
    add_one_step(parameter(lens, "up_proj._original_component.weight"))


@torch.inference_mode()
def in_inference_mode(lens) -> None:
    add_one_step(parameter(lens, "o_proj._original_component.weight"))


@torch.no_grad()
def one_norm(lens) -> None:
    add_one_step(parameter(lens, "norm._original_component.weight"))


@torch.no_grad()
def one_embedding(lens) -> None:
    parameter(lens, "embed_tokens._original_component.weight")[70] += 1


@torch.no_grad()
def a_head_of_o_proj(lens) -> None:
    parameter(lens, "o_proj._original_component.weight")[:, :8] = 0


def through_data(lens) -> None:
    parameter(lens, "up_proj._original_component.weight").data.mul_(1.5)


def other_data(lens) -> None:
    weights = parameter(lens, "down_proj._original_component.weight")
    changed = weights.data.clone()
    add_one_step(changed)
    weights.data = changed


def another_parameter(lens) -> None:
    module = lens.bridge.original_model.get_submodule(
        "model.layers.0._original_component.mlp.up_proj._original_component"
    )
    changed = module.weight.detach().clone()
    add_one_step(changed)
    module.weight = nn.Parameter(changed)


def fused_step(lens) -> None:
    weights = parameter(lens, "up_proj._original_component.weight")
    weights.grad = torch.ones_like(weights)
    torch.optim.AdamW([weights], lr=0.1, fused=True).step()
    weights.grad = None


def loaded_state(lens) -> None:
    module = lens.bridge.original_model.get_submodule(
        "model.layers.1._original_component.mlp.up_proj._original_component"
    )
    module.load_state_dict({name: tensor * 2 for name, tensor in module.state_dict().items()})


@torch.no_grad()
def rotary_frequencies(lens) -> None:
    buffers = lens.bridge.original_model.named_buffers()
    next(b for n, b in buffers if n.endswith("inv_freq") and "original_inv" not in n).mul_(0.5)


def rotary_scaling(lens) -> None:
    for module in lens.bridge.original_model.modules():
        if hasattr(module, "attention_scaling"):
            module.attention_scaling = 2.0


def a_norms_epsilon(lens) -> None:
    for module in lens.bridge.original_model.modules():
        if "variance_epsilon" in vars(module):
            module.variance_epsilon = 0.5


def configuration(lens) -> None:
    lens.bridge.original_model.config.rms_norm_eps = 0.5


def bridge_configuration(lens) -> None:
    lens.bridge.cfg.eps = 0.5


def half(lens) -> None:
    lens.bridge.original_model.half()


def added_token(lens) -> None:
    lens.tokenizer.add_tokens(["zebra"])


def added_flag(lens) -> None:
    lens.tokenizer.add_tokens([AddedToken("</s>", lstrip=True, special=True)])


def normalizer(lens) -> None:
    lens.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()


def pre_tokenizer(lens) -> None:
    lens.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def begins(lens) -> None:
    lens.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )


def merges(lens) -> None:
    backend = lens.tokenizer.backend_tokenizer
    vocabulary = lens.tokenizer.get_vocab()
    vocabulary["in"] = vocabulary.pop("~")
    backend.model = models.BPE(vocabulary, [("i", "n")])


def another_tokenizer(lens) -> None:
    lens.tokenizer = transformers.AutoTokenizer.from_pretrained(lens.tokenizer.name_or_path)
    lens.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()


CHANGES = (
    *(in_place, in_inference_mode, one_norm, one_embedding, a_head_of_o_proj, through_data),
    *(other_data, another_parameter, fused_step, loaded_state, rotary_frequencies),
    *(rotary_scaling, a_norms_epsilon, configuration, bridge_configuration, half),
    *(added_token, added_flag, normalizer, pre_tokenizer, begins, merges, another_tokenizer),
)


@pytest.mark.parametrize("way", [load_model, in_memory])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_in_memory_is_another_model(tiny_folder, store, change, way):
    lens = way(tiny_folder("Llama"))
    before = lens.facts
    vectors(lens, store)
    change(lens)
    assert lens.fingerprint != before.fingerprint
    assert lens.facts.source != before.source, "no one takes it for what is in the files"
    assert lens.fingerprint == lens.fingerprint
    assert torch.equal(vectors(lens, store)["resid"], vectors(lens)["resid"])
    other = way(tiny_folder("Llama"))
    change(other)
    assert other.fingerprint == lens.fingerprint, "the same change is the same model"


def test_an_undone_change_of_a_model_in_memory_is_undone(tiny_folder):
    lens = in_memory(tiny_folder("Llama"))
    before, weights = lens.fingerprint, parameter(lens, "up_proj._original_component.weight")
    with torch.no_grad():
        weights.mul_(2)
        assert lens.fingerprint != before
        weights.div_(2)
    assert lens.fingerprint == before


def test_what_no_vector_depends_on_changes_nothing(tiny_folder):
    lens = load_model(tiny_folder("Llama"))
    before = lens.facts
    lens.tokenizer.padding_side = "right"
    lens.tokenizer.chat_template = "{{ messages }}"
    lens.tokenizer.pad_token = "</s>"
    lens.tokenizer(["a", "b c"], padding=True, truncation=True, max_length=2)
    lens.bridge.original_model.zero_grad()
    lens.name = "another name"
    with lens.bridge.hooks(fwd_hooks=[("blocks.0.hook_in", doubled)]):
        # Such hooks are on during each pass of another thread; a store refuses those of others.
        assert lens.facts.fingerprint == before.fingerprint
    assert lens.facts.fingerprint == before.fingerprint
    assert lens.facts.source == before.source


def test_weights_made_in_inference_mode_are_hashed_each_time(tiny_folder):
    with torch.inference_mode():
        loaded, built = load_model(tiny_folder("Llama")), in_memory(tiny_folder("Llama"))
        before = loaded.fingerprint, built.fingerprint
        for lens in (loaded, built):
            add_one_step(parameter(lens, "up_proj._original_component.weight"))
        assert loaded.fingerprint != before[0]
        assert built.fingerprint != before[1]


def test_a_study_of_a_model_that_was_changed_reads_no_old_vectors(tiny_folder, store, demo):
    lens = in_memory(tiny_folder("Llama"))
    study = Study(lens, demo, templates="none", store=store)
    study.capture(progress=False)
    before = study.vectors("demo", "mean")
    in_place(lens)
    assert study.needs().plan()["passes"].sum() == len(set(demo.texts("en")))
    study.capture(progress=False)
    after = study.vectors("demo", "mean")
    assert not torch.equal(after, before)


def test_a_contrast_on_a_model_that_was_changed_reads_no_old_vectors(tiny_folder, store):
    lens = load_model(tiny_folder("Llama"))
    encoder = ContrastivePrompting(lens, layer=1)
    encoder.encode(TEXTS, store=store)
    with torch.no_grad():
        parameter(lens, "up_proj._original_component.weight").mul_(1.5)
    after = encoder.encode(TEXTS, store=store).vectors
    assert torch.allclose(after, encoder.encode(TEXTS).vectors, atol=1e-5)


def test_a_placeholder_is_put_into_the_tokenizer_that_there_is(tiny_folder, store):
    lens = load_model(tiny_folder("Llama"))
    before = TokenPrepending(lens, exit=2).encode(TEXTS).vectors
    normalizer(lens)
    after = TokenPrepending(lens, exit=2).encode(TEXTS).vectors
    assert not torch.allclose(after, before)


# Passes that are not the model's own


def double(*arguments):
    return arguments[-1] * 2 if isinstance(arguments[-1], torch.Tensor) else None


def doubled(tensor, hook):
    return tensor * 2


def hook_point(lens):
    lens.bridge.add_hook("blocks.1.hook_out", doubled)
    return "blocks.1.hook_out"


def permanent_hook(lens):
    lens.bridge.add_perma_hook("blocks.0.attn.hook_z", doubled)
    return r"blocks\.0\.attn\.o\.hook_in"  # which that is a name of


def hook_on_the_point(lens):
    lens.bridge.hook_dict["blocks.2.hook_in"].add_hook(doubled)
    return "blocks.2.hook_in"


def reading_hook(lens):
    lens.bridge.add_hook("blocks.1.hook_out", lambda tensor, hook: None)
    return "blocks.1.hook_out"


def torch_hook(lens):
    lens.bridge.blocks[1].register_forward_hook(lambda module, inputs, output: output)
    return r"model\.layers\.1"


def torch_pre_hook(lens):
    module = lens.bridge.original_model.model.norm
    module.register_forward_pre_hook(lambda module, inputs: inputs)
    return "norm"


def hook_on_the_model(lens):
    lens.bridge.original_model.register_forward_hook(lambda module, inputs, output: output)
    return "the model"


def hook_inside(lens):
    module = lens.bridge.original_model.get_submodule(
        "model.layers.0._original_component.mlp.up_proj._original_component"
    )
    module.register_forward_hook(lambda module, inputs, output: output * 2)
    return "up_proj"


def other_forward(lens):
    module = lens.bridge.original_model.get_submodule(
        "model.layers.0._original_component.mlp.up_proj._original_component"
    )
    forward = module.forward
    module.forward = lambda x: forward(x) * 2
    return r"functions were put in: .*up_proj.*forward"


def other_module(lens):
    mlp = lens.bridge.original_model.get_submodule("model.layers.0._original_component.mlp")
    mlp = getattr(mlp, "_original_component", mlp)
    mlp.act_fn = nn.ReLU()
    return r"modules were put in: .*act_fn"


def adapter_in_memory(lens):
    peft = pytest.importorskip("peft")
    linear = lens.bridge.original_model.get_submodule(
        "model.layers.0._original_component.mlp.up_proj"
    )
    settings = peft.LoraConfig(r=2, init_lora_weights=False)
    linear._original_component = peft.tuners.lora.Linear(
        linear._original_component, "default", settings, r=2
    )
    return "modules were put in"


def training(lens):
    lens.bridge.train()
    return "training mode"


def training_one(lens):
    lens.bridge.original_model.get_submodule("model.layers.1").train()
    return "training mode"


class Doubling(BaseTensorConversion):
    def handle_conversion(self, tensor, *context):
        return tensor * 2

    def revert(self, tensor, *context):
        return tensor


def conversion_of_a_hook_point(lens):
    lens.bridge.hook_dict["blocks.2.hook_out"].hook_conversion = Doubling()
    return r"functions were put in: .*hook_conversion"


INTRUSIONS = (
    *(hook_point, permanent_hook, hook_on_the_point, reading_hook, torch_hook, torch_pre_hook),
    *(hook_on_the_model, hook_inside, other_forward, other_module, adapter_in_memory),
    *(training, training_one, conversion_of_a_hook_point),
)


@pytest.mark.parametrize("intrude", INTRUSIONS)
def test_a_store_takes_only_passes_of_the_model_itself(tiny_folder, store, demo, intrude):
    lens = load_model(tiny_folder("Llama"))
    before = vectors(lens, store)["resid"]
    study = Study(lens, demo, templates="none", store=store)
    study.capture(progress=False)
    message = intrude(lens)
    with pytest.raises(ModelError, match=message):
        vectors(lens, store)
    for use in (
        lambda: study.vectors("demo", "mean"),
        lambda: ContrastivePrompting(lens, layer=1).encode(TEXTS, store=store),
        lambda: Echo(lens).encode(TEXTS, store=store),
        lambda: Study(lens, demo, settings="english", store=store).capture(
            contrasts=[None, ContrastivePrompting(lens, layer=1).contrast], progress=False
        ),
    ):  # fmt: skip
        with pytest.raises(ModelError, match=message):
            use()
    assert vectors(lens)["resid"].shape == before.shape, "without a store it is the user's business"


class Another(nn.ReLU):
    """An activation of the user's own code, which no key can cover."""


@pytest.mark.parametrize("intrude", ["hook", "forward", "module"])
def test_what_was_put_in_before_a_model_was_booted_is_no_part_of_it(tiny_folder, store, intrude):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder("Llama"), dtype=torch.float32)
    mlp = model.model.layers[1].mlp
    if intrude == "hook":
        mlp.up_proj.register_forward_hook(lambda module, inputs, output: output * 2)
    elif intrude == "forward":
        mlp.up_proj.forward = lambda x: x[..., :1].expand(*x.shape[:-1], 48)
    else:
        mlp.act_fn = Another()
    lens = boot(model, AutoTokenizer.from_pretrained(tiny_folder("Llama")), "built")
    with pytest.raises(ModelError, match=r"hooks are on|functions were put in|modules were put in"):
        vectors(lens, store)
    assert vectors(lens)["resid"].shape == (2, 32)


def test_a_model_that_was_being_trained_is_booted_for_evaluation(tiny_folder, store):
    config = transformers.AutoConfig.from_pretrained(tiny_folder("Llama"), attention_dropout=0.9)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
    lens = boot(model, AutoTokenizer.from_pretrained(tiny_folder("Llama")), "built")
    assert torch.equal(vectors(lens, store)["resid"], vectors(lens)["resid"])


def test_replaced_weights_are_freed(tiny_folder):
    lens = load_model(tiny_folder("Llama"))
    module = lens.bridge.original_model.get_submodule(
        "model.layers.0._original_component.mlp.up_proj._original_component"
    )
    old, before = weakref.ref(module.weight), lens.fingerprint
    module.weight = nn.Parameter(module.weight.detach().clone())
    assert lens.fingerprint != before
    assert old() is None


def test_hooks_of_a_context_are_refused_and_gone_after_it(tiny_folder, store):
    lens = load_model(tiny_folder("Llama"))
    before = vectors(lens, store)["resid"]
    with (
        lens.bridge.hooks(fwd_hooks=[("blocks.0.hook_in", doubled)]),
        pytest.raises(ModelError, match=r"hooks are on blocks\.0\.hook_in"),
    ):
        vectors(lens, store)
    lens.bridge.add_hook("blocks.1.hook_out", doubled)
    lens.bridge.reset_hooks()
    assert torch.equal(vectors(lens, store)["resid"], before)


def test_global_hooks_and_lower_precision_are_refused(tiny_folder, store):
    lens = load_model(tiny_folder("Llama"))
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with pytest.raises(ModelError, match="global hooks"):
            vectors(lens, store)
    finally:
        handle.remove()
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(ModelError, match="autocast is on for cpu"),
    ):
        vectors(lens, store)
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(ModelError, match="products of float32 are in bf16 on cpu"):
            vectors(lens, store)
    finally:
        torch.set_float32_matmul_precision("highest")
    vectors(lens, store)


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_a_lower_precision_of_one_backend_is_refused(tiny_folder, store, precision):
    lens, products = load_model(tiny_folder("Llama")), torch.backends.mkldnn.matmul
    before = products.fp32_precision
    products.fp32_precision = precision
    try:
        with pytest.raises(ModelError, match=f"products of float32 are in {precision} on cpu"):
            vectors(lens, store)
    finally:
        products.fp32_precision = before


@pytest.mark.parametrize("load", [load_model, in_memory])
def test_a_hook_that_was_on_before_a_model_was_loaded_is_no_part_of_it(tiny_folder, store, load):
    whole = vectors(load(tiny_folder("Llama")), store)["resid"]
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: output * 2 if isinstance(module, nn.Linear) else None
    )
    try:
        lens = load(tiny_folder("Llama"))
        with pytest.raises(ModelError, match="global hooks"):
            vectors(lens, store)
    finally:
        handle.remove()
    assert torch.equal(vectors(lens, store)["resid"], whole)


def test_a_capture_in_another_thread_is_no_intrusion(tiny_folder, store):
    from concurrent.futures import ThreadPoolExecutor

    lens = load_model(tiny_folder("Llama"))
    texts = [[f"{word} number {number}." for number in range(20)] for word in ("One", "Two", "Six")]

    def work(of_one):
        prompts = wrap(of_one)
        return capture(lens, prompts, "resid", store=store, tokens_per_batch=64, progress=False)[
            "resid"
        ]

    expected = [capture(lens, wrap(of_one), "resid")["resid"] for of_one in texts]
    with ThreadPoolExecutor() as pool:
        for found, right in zip(pool.map(work, texts), expected, strict=True):
            assert torch.allclose(found, right, atol=1e-5)


# Trained encoders


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory, tiny_tokenizer):
    folder = tmp_path_factory.mktemp("bert")
    config = transformers.BertConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda path: edited(path / "config.json", lambda c: c.update(layer_norm_eps=0.5)),
        lambda path: edited(path / "config.json", lambda c: c.update(hidden_act="relu")),
        lambda path: edited(path / "tokenizer.json", LOWERCASE),
    ],
)
def test_a_trained_encoder_is_told_by_all_of_its_files(bert_folder, tmp_path, store, change):
    path = Path(shutil.copytree(bert_folder, tmp_path / "bert"))
    first, same = SimCSE(path, supervised=False), SimCSE(bert_folder, supervised=False)
    assert first.facts.fingerprint == same.facts.fingerprint, "wherever the folder is"
    old = first.encode(TEXTS, store=store).vectors
    change(path)
    second = SimCSE(path, supervised=False)
    assert second.facts.fingerprint != first.facts.fingerprint
    new = second.encode(TEXTS, store=store).vectors
    assert torch.equal(new, second.encode(TEXTS).vectors)
    assert not torch.equal(new, old)


def test_a_trained_encoder_that_is_changed_in_memory_is_another(bert_folder, store):
    encoder = SimCSE(bert_folder, supervised=True)
    before = encoder.encode(TEXTS, store=store).vectors
    with torch.no_grad():
        encoder.model.encoder.layer[1].output.dense.weight[0, 0] += 1
    after = encoder.encode(TEXTS, store=store).vectors
    assert torch.equal(after, encoder.encode(TEXTS).vectors)
    assert not torch.equal(after, before)
    encoder.model.encoder.layer[0].register_forward_hook(lambda *_: None)
    with pytest.raises(ModelError, match=r"hooks are on encoder\.layer\.0"):
        encoder.encode(TEXTS, store=store)
    encoder = SimCSE(bert_folder, supervised=True)
    encoder.model.train()
    with pytest.raises(ModelError, match="training mode"):
        encoder.encode(TEXTS, store=store)


@pytest.mark.parametrize("supervised", [True, False])
def test_pads_count_nowhere_whatever_the_tokenizer_says_of_their_side(
    bert_folder, tmp_path, store, supervised
):
    expected = SimCSE(bert_folder, supervised=supervised).encode(TEXTS).vectors
    path = Path(shutil.copytree(bert_folder, tmp_path / "bert"))
    edited(path / "tokenizer_config.json", lambda c: c.update(padding_side="left"))
    encoder = SimCSE(path, supervised=supervised)
    assert torch.equal(encoder.encode(TEXTS).vectors, expected)
    encoder = SimCSE(bert_folder, supervised=supervised)
    encoder.tokenizer.padding_side = "left"
    assert torch.equal(encoder.encode(TEXTS, store=store).vectors, expected)


def test_another_network_in_a_trained_encoder_is_refused_by_a_store(bert_folder, store):
    encoder = SimCSE(bert_folder, supervised=False)
    encoder.encode(TEXTS, store=store)
    encoder.model = copy.deepcopy(encoder.model)
    with torch.no_grad():
        encoder.model.encoder.layer[1].output.dense.weight[0, 0] += 1
    with pytest.raises(ModelError, match="modules were put in"):
        encoder.encode(TEXTS, store=store)


def test_a_pooler_that_is_not_there_has_no_part_in_the_key(bert_folder, tmp_path):
    path = Path(shutil.copytree(bert_folder, tmp_path / "bert"))
    weights = load_file(path / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("pooler.")}
    save_file(kept, path / "model.safetensors", {"format": "pt"})
    facts = [SimCSE(path, supervised=False).facts for _ in range(2)]
    assert facts[0] == facts[1]


def test_where_a_tokenizer_was_read_from_is_not_what_it_knows(tiny_tokenizer):
    there, elsewhere = copy.deepcopy(tiny_tokenizer), copy.deepcopy(tiny_tokenizer)
    there.vocab_file, elsewhere.vocab_file = "/a/vocab.txt", "/b/vocab.txt"
    there.is_local, elsewhere.is_local = True, False
    there.local_files_only, elsewhere.local_files_only = False, True
    assert tokenizer_state(there) == tokenizer_state(elsewhere)
