"""Checkpoints that are not whole."""

import pytest

from dysem_lab.errors import ModelError
from dysem_lab.weights import require_whole

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
