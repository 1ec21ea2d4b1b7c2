"""Loading: embedded models, folders, GGUF files, presets, load-time checks, refusals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer, MambaConfig

from dysem_lab import paths
from dysem_lab.digests import folder_digest
from dysem_lab.errors import InputError, ModelError
from dysem_lab.models import checks, embedded
from dysem_lab.models.capture import capture
from dysem_lab.models.checks import check_model
from dysem_lab.models.embedded import EMBEDDED, EmbeddedModel, ensure_embedded, ensure_gguf
from dysem_lab.models.lens import boot
from dysem_lab.models.loading import load_model, presets, size_of
from dysem_lab.prompts import wrap

SMALL = "smollm2-135m-instruct"
CONVERT = "from pathlib import Path; from dysem_lab.models.embedded import ensure_gguf"


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DYSEM_LAB_CACHE", str(tmp_path / "dysem-lab"))
    return tmp_path / "dysem-lab" / "models"


def start_conversion(file: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", f"{CONVERT}; print(ensure_gguf(Path({str(file)!r})))"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_conversion_leaves_nothing_and_two_at_once_make_one(tiny_gguf, own_cache):
    file = tiny_gguf()
    killed = start_conversion(file)
    while not list(own_cache.glob("*.partial/model.gguf")) and killed.poll() is None:
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    finished = [
        path for path in own_cache.iterdir() if path.is_dir() and ".partial" not in path.name
    ]
    assert finished == []

    both = [start_conversion(file), start_conversion(file)]
    results = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    folders = {output.strip() for output, _ in results}
    assert len(folders) == 1
    said = [errors.count("Its licence is what its source says.") for _, errors in results]
    assert sorted(said) == [0, 1], "terms are shown once, by the process that converts"
    folder = Path(folders.pop())
    assert not list(own_cache.glob("*.partial"))
    assert (folder / "model.safetensors").exists()
    assert not list(folder.glob("*.gguf"))


def test_bytes_that_are_not_the_published_ones_are_refused(own_cache, tmp_path, monkeypatch):
    package = tmp_path / "fake_model_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "weights.gguf").write_bytes(b"GGUF, but another")
    monkeypatch.syspath_prepend(tmp_path)
    fake = EmbeddedModel(
        "fake", (("fake_model_package", "weights.gguf"),), "0" * 64, "pip x", "none", 1, 2
    )
    monkeypatch.setitem(EMBEDDED, "fake", fake)
    with pytest.raises(
        ModelError, match=r"sha256 of the installed files is [0-9a-f]{64}, published 0"
    ):
        ensure_embedded("fake")
    assert not [path for path in own_cache.iterdir() if path.is_dir()]


def test_an_embedded_model_that_is_not_installed_says_what_to_install(own_cache, monkeypatch):
    absent = EmbeddedModel(
        "absent", (("no_such_package", "x"),), "0" * 64, "pip install it", "none", 1, 2
    )
    monkeypatch.setitem(EMBEDDED, "absent", absent)
    with pytest.raises(ModelError, match="'absent' is not installed; pip install it"):
        load_model("absent")


def test_a_gguf_file_gives_the_embedded_models_vectors(embedded, tmp_path):
    known = embedded(SMALL)
    (file,) = embedded_files()
    copy = tmp_path / "some-model.gguf"
    copy.symlink_to(file)
    folder = ensure_embedded(SMALL)
    assert ensure_gguf(copy) == folder, "conversions are found by content"
    lens = load_model(copy)
    prompts = wrap(["A dog sleeps.", "It rains in the mountains."])
    one, other = (capture(model, prompts, "attn")["attn"] for model in (lens, known))
    assert torch.equal(one, other)
    assert lens.fingerprint == known.fingerprint
    assert lens.source == known.source == f"{EMBEDDED[SMALL].sha256} {folder_digest(folder)}"


@pytest.fixture
def tiny_gguf(own_cache, tmp_path):
    """Return a function: changes of tensors and settings → a GGUF file of a random Llama."""
    shapes = {"token_embd": (48, 32), "output_norm": (32,)}
    for block in ("blk.0.", "blk.1."):
        shapes |= {block + name: (32,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {block + name: (32, 32) for name in ("attn_q", "attn_output")}
        shapes |= {block + name: (16, 32) for name in ("attn_k", "attn_v")}
        shapes |= {block + name: (40, 32) for name in ("ffn_gate", "ffn_up")}
        shapes |= {block + "ffn_down": (32, 40)}

    def write(change=lambda tensors: None, settings=()) -> Path:
        values = np.random.default_rng(0)
        tensors = {
            f"{name}.weight": values.normal(0, 0.2, shape).astype(np.float32)
            for name, shape in shapes.items()
        }
        change(tensors)
        writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
        writer.add_block_count(2)
        writer.add_context_length(64)
        writer.add_embedding_length(32)
        writer.add_feed_forward_length(40)
        writer.add_head_count(4)
        writer.add_head_count_kv(2)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_freq_base(10000.0)
        writer.add_vocab_size(48)
        for name, value in settings:
            add = writer.add_string if isinstance(value, str) else writer.add_float32
            add(f"llama.{name}", value)
        letters = [chr(code) for code in range(ord("!"), ord("!") + 46)]
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list([*letters, "</s>", "!!"])
        writer.add_token_types([1] * 48)
        writer.add_token_merges(["! !"])
        writer.add_eos_token_id(46)
        for name, tensor in tensors.items():
            writer.add_tensor(name, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return tmp_path / "tiny.gguf"

    return write


UP = "blk.1.ffn_up.weight"


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (lambda t: t.update({UP + "s": t.pop(UP)}), (), r"no weights for .*mlp\.up_proj"),
        (lambda t: t.pop("output_norm.weight"), (), r"no weights for model\.norm\.weight"),
        (lambda t: t.update({"blk.0.attn_q.bias": t["output_norm.weight"]}), (), "no place for"),
        (lambda t: t.update({UP: t[UP].T.copy()}), (), r"another shape .*up_proj"),
        (None, [("rope.scaling.factor", 8.0)], r"has rope\.scaling\.factor = 8.0, .*safetensors"),
        (None, [("rope.scaling.type", "yarn"), ("rope.scaling.factor", 4.0)], r"factor = 4\.0"),
        (None, [("rope.scale_linear", 2.0)], r"rope\.scale_linear = 2\.0"),
    ],
)
def test_a_gguf_of_which_something_would_not_be_read_is_refused(
    tiny_gguf, change, settings, message
):
    file = tiny_gguf(change or (lambda tensors: None), settings)
    with pytest.raises(ModelError, match=message):
        ensure_gguf(file)


@pytest.mark.parametrize(
    "settings",
    [
        (),
        [("rope.scaling.factor", 1.0)],
        [("rope.scaling.type", "none"), ("rope.scaling.factor", 8.0)],
        [("attention.sliding_window", 16.0)],  # which no Llama has
    ],
)
def test_a_gguf_of_which_all_is_read_is_converted(tiny_gguf, settings):
    assert (ensure_gguf(tiny_gguf(settings=settings)) / "model.safetensors").is_file()


def test_a_gguf_is_parsed_once_and_a_later_reader_is_the_librarys(tiny_gguf, monkeypatch):
    parsed = []

    class Reader(gguf.GGUFReader):
        def __init__(self, file):
            parsed.append(str(file))
            super().__init__(file)

    monkeypatch.setattr(gguf, "GGUFReader", Reader)
    ensure_gguf(tiny_gguf())
    assert len(parsed) == 1
    assert gguf.GGUFReader is Reader


def test_a_file_that_is_no_gguf_is_refused(own_cache, tmp_path):
    file = tmp_path / "mine.gguf"
    file.write_bytes(b"not a model")
    with pytest.raises(ModelError, match=r"cannot load mine\.gguf: .*\n.*fetch .*mine\.gguf"):
        load_model(file)
    assert not [path for path in own_cache.iterdir() if path.is_dir()]


def embedded_files() -> list[Path]:
    files = embedded.installed_files(EMBEDDED[SMALL])
    assert files is not None
    return files


def test_compacting_a_json_file_keeps_what_it_says(tmp_path):
    said = {"vocab": {"▁犬": 0, 'a "quoted" \\ token': 1, "\u2028": 2}, "merges": [["▁", "犬"]]}
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(said, indent=2), encoding="utf-8")
    embedded._compact(file)
    written = file.read_text(encoding="utf-8")
    assert json.loads(written) == said
    assert ": " not in written
    assert "\n" not in written


def test_embedded_models_are_what_they_are_said_to_be(embedded):
    gemma, small = embedded("gemma-3-270m"), embedded(SMALL)
    assert (gemma.n_layers, gemma.d_model, gemma.n_heads, gemma.n_kv_heads, gemma.d_head) == (
        *(18, 640, 4, 1, 256),
    )
    assert (small.n_layers, small.d_model, small.n_heads, small.n_kv_heads, small.d_head) == (
        *(30, 576, 9, 3, 64),
    )
    assert gemma.dtype == torch.float32 or torch.cuda.is_available()
    assert "gemma-3-270m" in repr(gemma)


def test_presets_are_the_ten_models_of_table_4():
    table = presets()
    assert table["preset"].nunique() == 10
    assert set(table["setting"]) == {"english", "language-specific"}
    llama = table.set_index(["preset", "setting"]).loc[("llama2-7b", "english")]
    assert (llama["hf_id"], llama["vector"]) == ("meta-llama/Llama-2-7b-hf", "source")
    assert (llama["m"], llama["m_in_repo_script"]) == (9, 12)


def test_a_tokenizer_that_begins_with_bos_is_loaded_once(tiny_folder, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder("Llama"), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    begin = tokenizer.bos_token or tokenizer.eos_token
    tokenizer.bos_token = begin
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.bos_token_id)]
    )
    tokenizer.save_pretrained(folder)
    loaded = AutoTokenizer.from_pretrained(folder)
    assert loaded("It rains.")["input_ids"][0] == loaded.bos_token_id
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: pytest.fail("again"))
    lens = boot(model, loaded, "tiny")
    assert lens.bridge.tokenizer is lens.tokenizer
    assert lens.tokenizer.padding_side == "left"
    assert lens.bridge.cfg.tokenizer_prepends_bos


def test_pickle_weights_are_refused(tiny_folder, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_folder("Llama"), folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="must be safetensors"):
        load_model(folder)


def test_remote_code_is_refused(tiny_folder, tmp_path):
    folder = tmp_path / "remote"
    shutil.copytree(tiny_folder("Llama"), folder)
    config = (folder / "config.json").read_text()
    config = config.replace(
        '"model_type": "llama"',
        '"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config", '
        '"AutoModelForCausalLM": "evil.Model"}',
    )
    (folder / "config.json").write_text(config)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(ModelError):
        load_model(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("gemma-4", {}, InputError, "unknown model 'gemma-4'.* choose one of: gemma-3-270m"),
        ("./nowhere", {}, ModelError, "no folder nowhere"),
        ("nowhere.gguf", {}, ModelError, "no file nowhere.gguf"),
        ("gemma-3-270m", {"dtype": "int8"}, InputError, "unknown dtype 'int8'"),
    ],
)
def test_what_cannot_be_loaded_is_named(name, arguments, error, message):
    with pytest.raises(error, match=message):
        load_model(name, **arguments)


def test_a_revision_is_for_the_hub(tiny_folder):
    with pytest.raises(InputError, match="revision='main' is for hub models"):
        load_model(tiny_folder("Llama"), revision="main")


def test_an_unreachable_hub_model_says_what_needs_no_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="that comes with a package: gemma-3-270m"):
        load_model("nobody/no-such-model")


def fresh(tiny_folder, architecture="Llama"):
    folder = tiny_folder(architecture)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return boot(model.eval(), AutoTokenizer.from_pretrained(folder), "broken")


def test_a_broken_residual_identity_is_refused_with_its_block(tiny_folder):
    lens = fresh(tiny_folder)
    lens.bridge.add_perma_hook("blocks.1.hook_out", lambda tensor, hook: tensor * 1.01)
    with pytest.raises(
        ModelError, match="broken: the load-time check 'residual identity' failed: block 1"
    ):
        check_model(lens)


def test_vectors_that_depend_on_left_padding_are_refused(tiny_folder):
    lens = fresh(tiny_folder)

    def add_position(tensor, hook):
        return tensor + torch.arange(tensor.shape[1])[None, :, None] * 0.1

    lens.bridge.add_perma_hook("blocks.0.hook_in", add_position)
    with pytest.raises(ModelError, match=r"check 'left padding' failed: .* differs from"):
        check_model(lens)


def test_a_model_whose_prefix_cannot_be_shared_is_captured_without(tiny_folder, monkeypatch):
    lens = fresh(tiny_folder)
    monkeypatch.setattr("dysem_lab.models.record.keys_and_values", lambda *_: 1 / 0)
    monkeypatch.setattr(checks, "PREFIX_ERRORS", (*checks.PREFIX_ERRORS, ZeroDivisionError))
    check_model(lens)
    assert not lens.shares_prefix
    assert lens.last_alone
    assert capture(lens, wrap(["One.", "Another one."]), "attn")["attn"].shape == (2, lens.d_model)


def test_a_model_whose_last_block_needs_every_token_is_captured_with_them(tiny_folder, monkeypatch):
    lens = fresh(tiny_folder)
    prompts = wrap(["One.", "Another one."])
    expected = capture(lens, prompts, "attn")["attn"]
    # As in an architecture whose last token needs what others have there.
    keys = ("attn.k.hook_in", "attn.k.hook_out")
    monkeypatch.setattr("dysem_lab.models.record.ALONE", (keys,))
    assert not torch.allclose(capture(lens, prompts, "attn")["attn"], expected, atol=1e-3)
    check_model(lens)
    assert (lens.shares_prefix, lens.last_alone) == (True, False)
    torch.testing.assert_close(capture(lens, prompts, "attn")["attn"], expected)


def test_a_hook_point_that_does_not_fire_is_refused(tiny_folder, monkeypatch):
    lens = fresh(tiny_folder)
    components = {
        **checks.COMPONENTS,
        "extra": checks.COMPONENTS["attn"]._replace(hook="blocks.{layer}.no"),
    }
    monkeypatch.setattr(checks, "COMPONENTS", components)
    with pytest.raises(ModelError, match="check 'hooks fire' failed"):
        check_model(lens)


@pytest.fixture
def counted_checks(tmp_path, monkeypatch) -> list[str]:
    """Return the names of the models that are checked from here on, with no check on record."""
    monkeypatch.setenv("DYSEM_LAB_CACHE", str(tmp_path / "dysem-lab"))
    seen: list[str] = []

    def check(lens):
        seen.append(lens.name)
        return check_model(lens)

    monkeypatch.setattr(checks, "check_model", check)
    return seen


def test_a_model_that_passed_is_not_checked_again(tiny_folder, counted_checks):
    folder = tiny_folder("Llama")
    for _ in range(2):
        assert load_model(folder).shares_prefix
    assert counted_checks == [str(folder)]


def test_what_a_check_depends_on_has_it_made_again(
    tiny_folder, tmp_path, counted_checks, monkeypatch
):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder("Llama"), folder)
    load_model(folder, dtype="float32")
    load_model(folder, dtype="bfloat16")
    assert len(counted_checks) == 2
    weights = load_file(folder / "model.safetensors")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    load_model(folder, dtype="float32")
    assert len(counted_checks) == 2, "the same weights"
    weights["model.norm.weight"][0] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    load_model(folder, dtype="float32")
    assert len(counted_checks) == 3
    monkeypatch.setattr(checks, "version", lambda package: "another")
    load_model(folder, dtype="float32")
    assert len(counted_checks) == 4


def test_a_damaged_record_of_a_check_is_no_pass(tiny_folder, counted_checks):
    folder = tiny_folder("Llama")
    load_model(folder)
    (record,) = paths.passed_check_path("any").parent.iterdir()
    for damage in ("", "{", "[]", '{"model": "it"}'):
        record.write_text(damage)
        load_model(folder)
    assert len(counted_checks) == 5


def test_what_a_passed_check_found_is_remembered(tiny_folder, counted_checks, monkeypatch):
    folder = tiny_folder("Llama")
    with monkeypatch.context() as broken:
        broken.setattr("dysem_lab.models.record.keys_and_values", lambda *_: 1 / 0)
        broken.setattr(checks, "PREFIX_ERRORS", (*checks.PREFIX_ERRORS, ZeroDivisionError))
        assert not load_model(folder).shares_prefix
    assert not load_model(folder).shares_prefix
    assert len(counted_checks) == 1


def test_a_failed_check_is_made_each_time(tiny_folder, counted_checks, monkeypatch):
    monkeypatch.setattr(checks, "FULL_TOLERANCE", -1.0)
    for _ in range(2):
        with pytest.raises(ModelError, match="the load-time check") as failed:
            load_model(tiny_folder("Llama"), dtype="float32")
        assert failed.value.__context__ is None, "a missing record is nobody's business"
    assert len(counted_checks) == 2


def test_a_cache_that_cannot_be_written_has_the_check_made_each_time(
    tiny_folder, counted_checks, monkeypatch
):
    def refuse(key):
        raise PermissionError(key)

    monkeypatch.setattr(paths, "passed_check_path", refuse)
    for _ in range(2):
        load_model(tiny_folder("Llama"))
    assert len(counted_checks) == 2


@pytest.mark.parametrize("shape", [(16,), (1,), ()])
def test_weights_of_another_shape_are_refused_by_name(tiny_folder, tmp_path, shape):
    folder = Path(shutil.copytree(tiny_folder("Llama"), tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(shape)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"another shape .*: model\.norm\.weight \("):
        load_model(folder)


@pytest.mark.parametrize("device", [None, "cpu0", -1, "meta", 1.5])
def test_what_is_no_device_here_is_refused(tiny_folder, device):
    with pytest.raises(ModelError, match=r"device .* cannot be used here"):
        load_model(tiny_folder("Llama"), device=device)


def test_vectors_are_float32_whatever_the_default_is(tiny_folder):
    lens = load_model(tiny_folder("Llama"))
    expected = capture(lens, ["A dog sleeps."], "attn")["attn"]
    torch.set_default_dtype(torch.float64)
    try:
        found = capture(lens, ["A dog sleeps."], "attn")["attn"]
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_an_architecture_without_attention_is_refused(tmp_path, tiny_tokenizer):
    config = MambaConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=32, num_hidden_layers=2, state_size=4
    )
    config.architectures = ["MambaForCausalLM"]
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError):
        load_model(tmp_path)


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_size_of_an_embedded_model_is_known_before_it_is_converted(
    name, embedded, monkeypatch, tmp_path
):
    lens = embedded(name)
    monkeypatch.setenv(paths.CACHE_VARIABLE, str(tmp_path))  # nothing is converted there
    assert size_of(name) == (lens.n_layers, lens.d_model)


def test_the_size_of_a_model_that_cannot_be_asked_is_unknown(tmp_path):
    assert size_of(tmp_path / "absent") is None
    assert size_of("\ud800") is size_of(None) is None
