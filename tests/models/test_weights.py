"""Checkpoints that are not whole."""

import errno
import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from dysem_lab.errors import InputError, ModelError
from dysem_lab.weights import loading, require_whole

WHOLE = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set()}
GATE = "model.layers.1.mlp.gate_proj.weight"


def info(**faults) -> dict:
    return {**WHOLE, "error_msgs": [], **faults}


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"missing_keys": {GATE}}, rf"m has no weights for {GATE}\. What is missing"),
        ({"missing_keys": set("edcba")}, "no weights for a, b, c and 2 more"),
        ({"unexpected_keys": {f"_orig_mod.{GATE}"}}, rf"no place for: _orig_mod\.{GATE}"),
        ({"mismatched_keys": {(GATE, (3, 4), (5, 4))}}, rf"another shape .*: {GATE} \(3, 4\)"),
        ({"error_msgs": ["size mismatch"]}, "m has size mismatch"),
        ({"missing_keys": {"vision_tower.a"}}, "no weights for vision_tower.a"),
    ],
)
def test_a_checkpoint_with_gaps_is_refused_by_name(faults, message):
    with pytest.raises(ModelError, match=message):
        require_whole("m", info(**faults))


@pytest.mark.parametrize(
    ("faults", "optional"),
    [
        ({}, ()),
        ({"unexpected_keys": {"model.layers.0.self_attn.rotary_emb.inv_freq"}}, ()),
        ({"unexpected_keys": {"embeddings.position_ids", "vision_tower.patch.weight"}}, ()),
        ({"unexpected_keys": {"lm_head.weight"}}, ("lm_head.*",)),
        ({"missing_keys": {"pooler.dense.weight"}}, ("pooler.*", "cls.*")),
    ],
)
def test_what_nothing_reads_may_be_absent_or_in_excess(faults, optional):
    require_whole("m", info(**faults), optional=optional)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("size mismatch for a.weight"), "cannot load m: size mismatch for a.weight"),
        *(
            (OSError(code, "No space left on device"), "the disk, or .*, is full .*free some")
            for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        ),
        (MemoryError(), "not enough memory"),
        (RuntimeError("[enforce fail] can't allocate memory: you tried 9 bytes"), "not enough mem"),
        (torch.OutOfMemoryError("CUDA out of memory"), "not enough memory"),
        (AssertionError(), "cannot load m: AssertionError"),
        (KeyError("gelu_newer"), "cannot load m: KeyError 'gelu_newer'"),
        (RecursionError("maximum recursion depth exceeded"), "maximum recursion"),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "invalid start byte"), "invalid start byte"),
    ],
)
def test_whatever_a_library_raises_becomes_one_error(error, message):
    with pytest.raises(ModelError, match=message) as caught, loading("m", remedy="Fetch it."):
        raise error
    assert caught.value.__cause__ is error
    assert str(caught.value).endswith("\nFetch it.")


@pytest.mark.parametrize("error", [InputError("k"), ModelError("m"), KeyboardInterrupt()])
def test_our_own_errors_and_interrupts_pass(error):
    with pytest.raises(type(error)) as caught, loading("m"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", lambda whole: whole[:-8], "model.safetensors is cut or damaged"),
        ("model.safetensors", lambda whole: whole[:20], "model.safetensors is cut or damaged"),
        ("model.safetensors", lambda whole: b"", "model.safetensors is cut or damaged"),
        (
            "model.safetensors",
            lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "pointer of git LFS",
        ),
        ("config.json", lambda whole: b'{"a": 1,', r"config.json is no JSON \(JSONDecodeError"),
        ("config.json", lambda whole: b"\xff\xfe", r"config.json is no JSON \(UnicodeDecodeError"),
        ("config.json", lambda whole: b"[" * 10**5, r"config.json is no JSON \(RecursionError"),
        ("config.json", lambda whole: b"[1]", "config.json is no JSON object"),
        ("tokenizer.json", lambda whole: b"null", "tokenizer.json is no JSON object"),
        ("tokenizer.json", lambda whole: b"version https://git-lfs.github.com/", "git lfs pull"),
    ],
)
def test_the_damaged_file_is_named(tmp_path, name, content, message):
    save_file({"a": np.ones(9)}, tmp_path / "model.safetensors")
    for file in ("config.json", "tokenizer.json"):
        (tmp_path / file).write_text(json.dumps({"a": 1}))
    damaged = tmp_path / name
    damaged.write_bytes(content(damaged.read_bytes()))
    with pytest.raises(ModelError, match=message) as caught, loading("m", tmp_path, "Fetch it."):
        raise ValueError("something that a library says of it")
    assert str(damaged) in str(caught.value)
