"""Models that are not whole, damaged or not there: refused by name, never random, never a trace."""

import errno
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from dysem_lab import digests, paths
from dysem_lab.cli import cli
from dysem_lab.digests import file_digest
from dysem_lab.encoders.llm2vec import LLM2Vec
from dysem_lab.encoders.trained import PromptBERT, SentenceBERT, SimCSE
from dysem_lab.errors import DysemLabError, InputError, ModelError
from dysem_lab.models import embedded as embedded_models
from dysem_lab.models.capture import capture
from dysem_lab.models.embedded import EMBEDDED, MANIFEST, conversion_faults, ensure_gguf
from dysem_lab.models.loading import load_model, resolve_device, size_of, source_digest
from dysem_lab.models.names import check_name
from dysem_lab.models.places import places
from dysem_lab.prompts import wrap

pytestmark = pytest.mark.usefixtures("_one_thread")

UP = "model.layers.1.mlp.up_proj.weight"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 538090408\n"


@pytest.fixture
def folder(tiny_folder, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_folder("Llama"), tmp_path / "model"))


def with_weights(folder: Path, change) -> Path:
    weights = load_file(folder / "model.safetensors")
    changed = change(weights) or weights
    save_file(
        {name: tensor.contiguous() for name, tensor in changed.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    return folder


def edited(file: Path, **fields) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, **fields}), encoding="utf-8")


def without(*names):
    return lambda weights: {key: tensor for key, tensor in weights.items() if key not in names}


def prefixed(prefix):
    return lambda weights: {prefix + key: tensor for key, tensor in weights.items()}


# Weights that are not there


def test_weights_as_whole_numbers_without_their_scales_are_refused(folder):
    def quantised(weights):
        weights[UP] = (weights[UP] / weights[UP].abs().max() * 127).round().to(torch.int8)

    with pytest.raises(ModelError, match=rf"has {re.escape(UP)} as whole numbers, and its config"):
        load_model(with_weights(folder, quantised))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(UP), rf"no weights for {UP}\. "),
        (without("model.norm.weight"), r"no weights for model\.norm\.weight"),
        (
            without("model.layers.2.input_layernorm.weight"),
            r"no weights for model\.layers\.2\.input_layernorm\.weight",
        ),
        (without("lm_head.weight"), r"no weights for lm_head\.weight"),
        (without("model.embed_tokens.weight"), r"no weights for model\.embed_tokens\.weight"),
        (prefixed("_orig_mod."), r"no weights for lm_head\.weight.*no place for: _orig_mod\."),
        (prefixed("module."), r"no weights for lm_head\.weight.*no place for: module\."),
        (
            lambda weights: {**weights, "model.layers.0.self_attn.q_proj.bias": torch.ones(32)},
            r"no place for: model\.layers\.0\.self_attn\.q_proj\.bias",
        ),
        (
            lambda weights: {**weights, "model.layers.3.mlp.up_proj.weight": torch.ones(48, 32)},
            r"no place for: model\.layers\.3\.mlp\.up_proj\.weight",
        ),
        (lambda weights: {**weights, UP: torch.ones(40, 32)}, "size|shape|mismatch"),
        (lambda weights: {"a": torch.ones(1)}, "and 27 more"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused_by_name(folder, change, message):
    for _ in range(2):
        with pytest.raises(ModelError, match=message):
            load_model(with_weights(folder, change))


@pytest.mark.parametrize(
    "key", ["model.layers.0.self_attn.rotary_emb.inv_freq", "vision_tower.patch.weight"]
)
def test_known_extras_are_no_reason_to_refuse(folder, tiny_folder, key):
    with_weights(folder, lambda weights: {**weights, key: torch.ones(4)})
    prompts = wrap(["It rains."])
    found = capture(load_model(folder), prompts, "resid")["resid"]
    torch.testing.assert_close(
        found, capture(load_model(tiny_folder("Llama")), prompts, "resid")["resid"]
    )


def test_a_tied_head_need_not_be_in_the_file(folder):
    edited(folder / "config.json", tie_word_embeddings=True)
    lens = load_model(with_weights(folder, without("lm_head.weight")))
    model = lens.bridge.original_model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_sharded_checkpoint_needs_every_shard(folder, tmp_path):
    sharded = tmp_path / "sharded"
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.save_pretrained(sharded, max_shard_size="40KB")
    AutoTokenizer.from_pretrained(folder).save_pretrained(sharded)
    shards = sorted(sharded.glob("*.safetensors"))
    assert len(shards) > 2
    prompts = wrap(["It rains."])
    whole = load_model(sharded)
    torch.testing.assert_close(
        capture(whole, prompts, "resid")["resid"],
        capture(load_model(folder), prompts, "resid")["resid"],
    )
    content = shards[1].read_bytes()
    shards[1].write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=f"{shards[1].name} is cut or damaged"):
        load_model(sharded)
    shards[1].unlink()
    with pytest.raises(ModelError, match=shards[1].name):
        load_model(sharded)
    index = sharded / "model.safetensors.index.json"
    kept = json.loads(index.read_text())
    kept["weight_map"] = {k: v for k, v in kept["weight_map"].items() if v != shards[1].name}
    index.write_text(json.dumps(kept))
    with pytest.raises(ModelError, match="no weights for"):
        load_model(sharded)


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory):
    """Return a function: tensors to add or take away → a GGUF file of two random blocks."""

    def make(change=lambda tensors: tensors, name: str = "tiny") -> Path:
        file = tmp_path_factory.mktemp("gguf") / f"{name}.gguf"
        writer = gguf.GGUFWriter(file, "llama")
        writer.add_name("tiny")
        writer.add_context_length(64)
        writer.add_embedding_length(32)
        writer.add_block_count(2)
        writer.add_feed_forward_length(48)
        writer.add_head_count(4)
        writer.add_head_count_kv(2)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_dimension_count(8)
        writer.add_vocab_size(300)
        tokens = [*map(str, range(10)), "t", *(f"t{number}" for number in range(289))]
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(tokens)
        writer.add_token_scores([0.0] * 300)
        writer.add_token_merges(["t 1", "t 2"])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        draw = np.random.default_rng(0).normal
        shapes = {"token_embd.weight": (300, 32), "output_norm.weight": (32,)}
        shapes["output.weight"] = (300, 32)
        for block in range(2):
            shapes |= {
                f"blk.{block}.{part}.weight": shape
                for part, shape in {
                    "attn_norm": (32,),
                    "ffn_norm": (32,),
                    "attn_q": (32, 32),
                    "attn_k": (16, 32),
                    "attn_v": (16, 32),
                    "attn_output": (32, 32),
                    "ffn_gate": (48, 32),
                    "ffn_up": (48, 32),
                    "ffn_down": (32, 48),
                }.items()
            }
        tensors = {key: draw(size=shape).astype(np.float32) for key, shape in shapes.items()}
        for key, tensor in change(tensors).items():
            writer.add_tensor(key, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return file

    return make


def renamed(old, new):
    return lambda tensors: {new if key == old else key: value for key, value in tensors.items()}


def added(key, value):
    return lambda tensors: {**tensors, key: value}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            renamed("blk.1.ffn_up.weight", "blk.1.ffn_uq.weight"),
            rf"no weights for {UP}; .*no place for: blk\.1\.ffn_uq\.weight",
        ),
        (renamed("output_norm.weight", "norm.weight"), r"no weights for model\.norm\.weight"),
        (
            lambda tensors: {k: v for k, v in tensors.items() if k != "blk.0.attn_norm.weight"},
            r"no weights for model\.layers\.0\.input_layernorm\.weight",
        ),
        (added("blk.0.attn_q.bias", np.ones(32, np.float32)), r"place for: blk\.0\.attn_q\.bias"),
        (added("blk.2.ffn_up.weight", np.ones((48, 32), np.float32)), r"blk\.2\.ffn_up\.weight"),
        (added("rope_freqs.weight", np.full(4, 8, np.float32)), r"place for: rope_freqs\.weight"),
        (added("blk.1.ffn_up.weight", np.ones((40, 32), np.float32)), "size|shape|mismatch"),
    ],
)
def test_a_gguf_file_that_is_not_whole_is_not_converted(
    tiny_gguf, change, message, tmp_path, monkeypatch
):
    monkeypatch.setenv(paths.CACHE_VARIABLE, str(tmp_path))
    with pytest.raises(ModelError, match=message):
        load_model(tiny_gguf(change))
    assert not [path for path in (tmp_path / "models").iterdir() if path.is_dir()]


def test_a_whole_gguf_file_is_converted(tiny_gguf, tmp_path, monkeypatch):
    monkeypatch.setenv(paths.CACHE_VARIABLE, str(tmp_path))
    converted = ensure_gguf(tiny_gguf(added("rope_freqs.weight", np.ones(4, np.float32))))
    assert len(load_file(converted / "model.safetensors")) == 3 + 2 * 9


@pytest.fixture(scope="module")
def bert(tmp_path_factory, tiny_tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer, pad_token="<pad>", mask_token="</s>"
    )
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "make",
    [
        lambda path: SimCSE(path, supervised=False),
        lambda path: PromptBERT(path, supervised=False),
        SentenceBERT,
    ],
)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without("bert.encoder.layer.1.output.LayerNorm.weight"),
            r"no weights for encoder\.layer\.1\.output\.LayerNorm\.weight",
        ),
        (prefixed("_orig_mod."), "no weights for embeddings"),
        (
            lambda weights: {**weights, "bert.encoder.layer.2.output.dense.bias": torch.ones(32)},
            r"no place for: .*encoder\.layer\.2\.output\.dense\.bias",
        ),
        (
            lambda weights: {**weights, "bert.encoder.layer.1.output.dense.bias": torch.ones(3)},
            "size|shape|mismatch",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_trained_encoder_that_is_not_whole_is_refused(bert, tmp_path, make, change, message):
    path = Path(shutil.copytree(bert, tmp_path / "bert"))
    make(path)  # heads of what it was trained for are there in excess, a pooler is not there
    with pytest.raises(ModelError, match=message):
        make(with_weights(path, change))


# Damage to converted weights


@pytest.fixture
def converted(tiny_gguf, tmp_path, monkeypatch):
    """Return a GGUF file and the folder that it was converted to."""
    monkeypatch.setenv(paths.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(digests, "TICK", -1.0)  # files are old at once
    file = tiny_gguf()
    return file, ensure_gguf(file)


def flip(file: Path, at: int, bit: int = 0) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1 << bit
    file.write_bytes(content)


def sha_of(file: Path) -> str:
    return file_digest(file, "sha256", remembered=False)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_flipped_bit_is_named_and_the_conversion_is_made_again(converted, name, capsys):
    file, folder = converted
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    digest = source_digest(file)
    for at in (0, 100, len(before[name]) // 2, len(before[name]) - 1):
        flip(folder / name, at, at % 8)
        assert conversion_faults(folder, sha_of(file)) == [
            f"{name} has other bytes than were written"
        ]
        capsys.readouterr()
        assert ensure_gguf(file) == folder
        said = capsys.readouterr()
        assert f"{name} has other bytes than were written" in said.err + said.out
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert source_digest(file) == digest
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json is gone"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "is damaged"),
        (lambda folder: (folder / MANIFEST).write_text("[]"), "is damaged"),
        (lambda folder: edited(folder / MANIFEST, files=None), "is damaged"),
        (lambda folder: edited(folder / MANIFEST, source_sha256="0"), "names another source"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "was put in later"),
    ],
)
def test_other_damage_has_a_conversion_made_again(converted, damage, fault):
    file, folder = converted
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    damage(folder)
    (found,) = conversion_faults(folder, sha_of(file))
    assert fault in found
    assert ensure_gguf(file) == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_conversion_of_before_is_made_again(converted, capsys):
    file, folder = converted
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["files"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert ensure_gguf(file) == folder
    assert "files" in json.loads((folder / MANIFEST).read_text())
    assert "of an earlier version" in capsys.readouterr().err


def test_a_whole_conversion_is_read_once(converted, monkeypatch):
    file, folder = converted
    ensure_gguf(file)
    monkeypatch.setattr(digests, "_hashed", lambda *_: pytest.fail("read again"))
    assert ensure_gguf(file) == folder
    source_digest(file)


def test_a_full_disk_is_named_and_leaves_nothing(tiny_gguf, tmp_path, monkeypatch):
    monkeypatch.setenv(paths.CACHE_VARIABLE, str(tmp_path))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(embedded_models.shutil, "copyfileobj", full)
    with pytest.raises(ModelError, match=r"the disk, .*is full .*; free some") as caught:
        load_model(tiny_gguf())
    assert isinstance(caught.value.__cause__, OSError)
    assert not [path for path in (tmp_path / "models").iterdir() if path.is_dir()]


# Whatever libraries raise


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("model.safetensors", cut, r"model\.safetensors is cut or damaged"),
        ("model.safetensors", lambda file: file.write_bytes(LFS), "git lfs pull"),
        ("model.safetensors", lambda file: file.write_bytes(b""), r"model\.safetensors is cut"),
        ("model.safetensors", lambda file: file.write_bytes(b"\xff" * 999), "cut or damaged"),
        ("config.json", lambda file: file.write_bytes(LFS), "git lfs pull"),
        ("config.json", lambda file: file.write_text("{"), r"config\.json is no JSON"),
        ("config.json", lambda file: file.write_text("[]"), "cannot load"),
        ("config.json", lambda file: file.write_text("3"), "cannot load"),
        ("config.json", lambda file: file.write_bytes(b"\xff\xfe{"), r"config\.json is no JSON"),
        ("config.json", lambda file: file.write_text("[" * 10**5), r"config\.json is no JSON"),
        ("config.json", lambda file: edited(file, hidden_size="wide"), "cannot load"),
        ("config.json", lambda file: edited(file, hidden_size=-1), "cannot load"),
        ("config.json", lambda file: edited(file, num_hidden_layers=0), "."),
        ("config.json", lambda file: edited(file, model_type="unheard-of"), "cannot load"),
        ("config.json", lambda file: edited(file, model_type=3), "cannot load"),
        ("config.json", lambda file: edited(file, hidden_act="no such"), "cannot load"),
        ("config.json", lambda file: edited(file, pad_token_id=9999), "cannot load"),
        ("config.json", lambda file: edited(file, vocab_size=100), "size|shape|mismatch"),
        ("config.json", lambda file: edited(file, num_attention_heads=3), "cannot load|size"),
        ("config.json", lambda file: file.unlink(), "cannot load"),
        ("tokenizer.json", lambda file: file.write_bytes(LFS), "git lfs pull"),
        ("tokenizer.json", lambda file: file.write_text("{}"), "cannot load"),
        ("tokenizer.json", lambda file: file.write_text("null"), "cannot load"),
        ("tokenizer.json", lambda file: edited(file, model={"type": "BPE"}), "cannot load"),
        ("tokenizer.json", cut, r"tokenizer\.json is no JSON"),
        ("tokenizer_config.json", lambda file: file.write_text("{"), r"tokenizer_config\.json is"),
    ],
)
def test_a_damaged_file_is_one_error_with_its_cause(folder, name, damage, message):
    damage(folder / name)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)


def test_a_folder_of_something_else_is_no_model(tmp_path):
    for content in ([], ["notes.txt"], ["config.json"]):
        for name in content:
            (tmp_path / name).write_text("{}")
        with pytest.raises(ModelError, match="cannot load"):
            load_model(tmp_path)


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "banana", "meta", "mps:3", "", "cpu:x"])
def test_a_device_that_is_not_there_is_named(folder, device):
    if torch.cuda.is_available() and device == "cuda":
        pytest.skip("it is there")
    for use in (
        lambda: load_model(folder, device=device),
        lambda: resolve_device(device),
        lambda: SimCSE(folder, supervised=False, device=device),
    ):
        with pytest.raises(ModelError, match="cannot be used here"):
            use()


@pytest.mark.parametrize("dtype", ["int8", "", None, torch.float32, ["float32"]])
def test_a_data_type_that_is_none_is_named(folder, dtype):
    with pytest.raises(InputError, match="unknown dtype"):
        load_model(folder, dtype=dtype)


@pytest.mark.parametrize(
    "name",
    [
        *("x" * 300, "a/" + "b" * 300, "/" + "c" * 300, "~nobody-of-this-name/model"),
        *("", " ", "a\0b", "a b/c d", "a/b/c", "../..//nowhere", "-a/b", "ä/ö", "model.gguf"),
        *("folder/model.gguf", "x" * 300 + ".gguf", 3, None, ["gemma-3-270m"], 1.5, b"gemma"),
    ],
)
def test_what_is_no_name_is_refused_before_anything_is_asked(name, monkeypatch):
    monkeypatch.setattr("dysem_lab.models.loading.find_on_hub", lambda *_: pytest.fail("asked"))
    for use in (check_name, load_model, source_digest):
        with pytest.raises(DysemLabError):
            use(name)
    assert size_of(name) is None


@pytest.mark.parametrize("encoder", [SimCSE, PromptBERT])
@pytest.mark.parametrize("name", ["x" * 300, "a/" + "b" * 300, "", "a\0b/c", "a b/c", "~no/x"])
def test_a_trained_encoder_of_no_name_is_refused(encoder, name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DysemLabError):
        encoder(name, supervised=False)
    with pytest.raises(DysemLabError):
        LLM2Vec(name)
    with pytest.raises(DysemLabError):
        SentenceBERT(name)


def test_an_interrupt_is_an_interrupt(folder, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_model(folder)


def test_files_that_change_while_they_are_read_are_refused(folder, monkeypatch):
    whole = AutoTokenizer.from_pretrained

    def retrained(*arguments, **options):
        with_weights(folder, lambda weights: {**weights, UP: weights[UP] * 2})
        return whole(*arguments, **options)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", retrained)
    with pytest.raises(ModelError, match="changed while it was read"):
        load_model(folder)


# Inputs


def test_a_pad_token_beyond_the_embedding_is_replaced(folder, tiny_folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    lens = load_model(folder)
    assert lens.tokenizer.pad_token_id < lens.n_embeddings < len(lens.tokenizer)
    prompts = wrap(["It rains.", "Two children build a castle of sand on the beach."])
    expected = capture(load_model(tiny_folder("Llama")), prompts, "resid")["resid"]
    assert torch.equal(capture(lens, prompts, "resid")["resid"], expected)


def test_a_token_without_an_embedding_is_named(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["castle"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match=r"'tokenizer' failed: 259 tokens .* 'castle'"):
        load_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["zebra"])
    edited(folder / "tokenizer.json", added_tokens=[])
    lens = load_model(folder)
    lens.tokenizer.add_tokens(["zebra"])
    assert capture(lens, wrap(["A horse."]), "attn")["attn"].shape == (1, 32)
    with pytest.raises(InputError, match="the token 'zebra' with id 259, but only 259 tokens"):
        capture(lens, wrap(["A horse.", "A zebra."]), "attn")


def test_a_tokenizer_that_cuts_at_random_is_refused(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["dropout"] = 0.1
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"drops a share of 0\.1"):
        load_model(folder)


def test_a_trained_encoder_needs_a_pad_token_with_an_embedding(bert, tmp_path):
    path = Path(shutil.copytree(bert, tmp_path / "bert"))
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(path)
    with pytest.raises(ModelError, match=r"pads with '\[PAD\]' \(id 259\)"):
        SimCSE(path, supervised=False)
    encoder = SimCSE(bert, supervised=False)
    encoder.tokenizer.add_tokens(["zebra"])
    with pytest.raises(InputError, match="the token 'zebra' with id 259"):
        encoder.encode(["A zebra."])


@pytest.mark.parametrize(
    "layers", [True, False, None, 1.0, "1", "all", [0], (0, 1), np.array([0]), np.array("sum"), {}]
)
def test_layers_that_are_none_are_refused(tiny_lens, layers):
    for use in (
        lambda: places("attn", layers),
        lambda: capture(tiny_lens, wrap(["It rains."]), "attn", layers),
        lambda: capture(tiny_lens, wrap(["It rains."]), "final", layers),
    ):
        with pytest.raises(InputError, match="unknown layers"):
            use()


@pytest.mark.parametrize("layer", [np.int64(1), np.uint8(1), torch.tensor(1), np.array(1)])
def test_a_block_index_of_another_library_is_one(tiny_lens, layer):
    prompts = wrap(["It rains."])
    assert places("attn", layer) == places("attn", 1)
    assert str(places("attn", layer)[0].blocks) == "1"
    found = capture(tiny_lens, prompts, "attn", layer)["attn"]
    assert torch.equal(found, capture(tiny_lens, prompts, "attn", 1)["attn"])


@pytest.mark.parametrize("components", [[], (), {}, [None], [["attn"]], 3, None, {"attn"}])
def test_components_that_are_none_are_refused(tiny_lens, components):
    for use in (
        lambda: places(components),
        lambda: capture(tiny_lens, wrap(["It rains."]), components),
    ):
        with pytest.raises(InputError, match="component"):
            use()


@pytest.mark.parametrize(
    "options",
    [{"max_tokens": 0}, {"max_tokens": 1.5}, {"tokens_per_batch": 0}, {"max_tokens": None}],
)
def test_limits_that_are_none_are_refused(tiny_lens, options):
    with pytest.raises(InputError, match="must be a whole number of at least 1"):
        capture(tiny_lens, wrap(["It rains."]), **options)


# Waiting


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("gemma-3-270", "gemma-3-270m"),
        ("Gemma-3-270M", "gemma-3-270m"),
        ("gemma3-270m", "gemma-3-270m"),
        ("smollm2-135m", "smollm2-135m-instruct"),
        ("lama2-7b", "llama2-7b"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_right_one(name, suggestion):
    with pytest.raises(InputError, match=f"did you mean '{suggestion}'"):
        check_name(name)


def test_an_unknown_name_like_no_other_has_no_suggestion():
    with pytest.raises(InputError, match="choose one of") as caught:
        check_name("zzzz")
    assert "did you mean" not in str(caught.value)


def test_names_are_checked_without_heavy_imports():
    code = (
        "import sys; from dysem_lab.models.names import check_name\n"
        "try: check_name('gemma-3-270')\n"
        "except ValueError as error: print(error)\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "did you mean 'gemma-3-270m'?" in found.stdout


def test_without_a_network_a_model_that_is_not_there_is_known_in_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}",
    )
    for use in (
        lambda: load_model("Qwen/Qwen3-8B"),
        lambda: SimCSE("Qwen/Qwen3-8B", supervised=False),
        lambda: LLM2Vec("Qwen/Qwen3-8B"),
    ):
        start = time.monotonic()
        with pytest.raises(ModelError, match=r"has no Qwen/Qwen3-8B \(main\).*\n.*give a folder"):
            use()
        assert time.monotonic() - start < 6
    with pytest.raises(ModelError, match="did you mean 'Qwen/Qwen3-8B-Base'"):
        load_model("Qwen/Qwen3-8b-bas")


def test_every_embedded_model_has_a_name_that_is_known():
    for name in EMBEDDED:
        check_name(name)


# The doctor


def test_the_doctor_hashes_everything_anew(converted, tmp_path, monkeypatch):
    monkeypatch.setattr(embedded_models, "installed_files", lambda model: None)
    file, folder = converted

    def verified() -> tuple[int, dict[str, str]]:
        result = CliRunner().invoke(cli, ["doctor", "--verify", "--json"])
        rows = json.loads(result.stdout)["files"]
        return result.exit_code, {row["path"]: row["state"] for row in rows}

    code, states = verified()
    assert code == 0
    assert states[str(folder)] == "as converted"
    assert states[str(folder / "model.safetensors")] == "as remembered"
    assert states[str(file)] == "as remembered"
    weights, whole = folder / "model.safetensors", digests._state
    before = whole(weights)
    flip(weights, 5000)
    monkeypatch.setattr(digests, "_state", lambda file: before if file == weights else whole(file))
    assert conversion_faults(folder, sha_of(file)) == [], "its times and its size are the same"
    code, states = verified()
    assert code == 1
    assert "DAMAGED: model.safetensors has other bytes than were written" in states[str(folder)]
    ensure_gguf(file)
    assert verified()[0] == 0, "loading made it again"


def test_the_doctor_names_a_damaged_package(tmp_path, monkeypatch):
    monkeypatch.setenv(paths.CACHE_VARIABLE, str(tmp_path))
    damaged = tmp_path / "part.gguf"
    damaged.write_bytes(b"another")
    monkeypatch.setattr(embedded_models, "installed_files", lambda model: [damaged])
    result = CliRunner().invoke(cli, ["doctor", "--verify"])
    assert result.exit_code == 1
    assert "DAMAGED: not the published file" in " ".join(result.stdout.split())
