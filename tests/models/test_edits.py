"""Ablation and patching against plain PyTorch hooks, the residual identity and each other."""

import pytest
import torch

import dysem_lab as dl
from dysem_lab.errors import InputError
from dysem_lab.models.edits import ablate, contrast, patch
from dysem_lab.models.readout import logit_lens, next_token_probabilities
from dysem_lab.models.record import activations

TEXTS = ["A dog sleeps.", "Two children build a castle of sand.", "It rains."]


@pytest.fixture
def prompts():
    return dl.wrap(TEXTS)


def test_without_a_heads_z_the_stream_lacks_what_the_head_wrote(tiny_lens, prompts):
    layer, head = 2, 1  # the last block, after which nothing reacts but its FFN
    plain = dl.capture(tiny_lens, prompts, ("z", "attn"), layer)
    edited = dl.capture(
        tiny_lens, prompts, "attn", layer, edit=ablate(tiny_lens, "z.2", heads=[head])
    )
    W_O = tiny_lens.bridge.blocks[layer].attn.W_O[head].detach()
    wrote = plain["z"][:, head] @ W_O.float()
    torch.testing.assert_close(plain["attn"] - edited["attn"], wrote, atol=1e-5, rtol=1e-4)


def test_ablating_a_component_by_its_own_mean_sets_it_to_that(tiny_lens, prompts):
    mean = dl.capture(tiny_lens, prompts, "ffn", 1)["ffn"].mean(0)
    edited = dl.capture(tiny_lens, prompts, "ffn", 1, edit=ablate(tiny_lens, "ffn.1", mean))
    torch.testing.assert_close(edited["ffn"], mean.expand(3, -1))


def test_only_the_chosen_dimensions_go(tiny_lens, prompts):
    plain = dl.capture(tiny_lens, prompts, "resid", 1)["resid"]
    edit = ablate(tiny_lens, "resid.1", dimensions=[3, 5])
    edited = dl.capture(tiny_lens, prompts, "resid", 1, edit=edit)["resid"]
    assert not edited[:, [3, 5]].any()
    others = [j for j in range(tiny_lens.d_model) if j not in (3, 5)]
    torch.testing.assert_close(edited[:, others], plain[:, others])


@pytest.mark.parametrize("tokens", ["last", "all", 4])
def test_patching_a_prompt_with_itself_changes_nothing(tiny_lens, prompts, tokens):
    edit = patch(tiny_lens, dict(zip(prompts, prompts, strict=True)), "resid.0", tokens=tokens)
    plain = dl.capture(tiny_lens, prompts, "resid")["resid"]
    torch.testing.assert_close(dl.capture(tiny_lens, prompts, "resid", edit=edit)["resid"], plain)


def test_the_last_tokens_stream_of_another_prompt_brings_its_prediction(tiny_lens, prompts):
    last = tiny_lens.n_layers - 1
    edit = patch(tiny_lens, {prompts[0]: prompts[1]}, f"resid.{last}")
    found = next_token_probabilities(tiny_lens, prompts[:1], edit)
    torch.testing.assert_close(found, next_token_probabilities(tiny_lens, prompts[1:2]))


def test_a_patch_of_all_tokens_below_everything_is_the_other_pass(tiny_lens):
    one, other = dl.wrap(["A dog sleeps."]), dl.wrap(["A cat dances."])  # one token per byte
    edit = patch(tiny_lens, {one[0]: other[0]}, "resid.0", tokens="all")
    found = dl.capture(tiny_lens, one, "resid", edit=edit)["resid"]
    torch.testing.assert_close(found, dl.capture(tiny_lens, other, "resid")["resid"])


def test_one_position_alone_changes(tiny_lens, prompts):
    points = ["blocks.1.hook_out"]
    edit = ablate(tiny_lens, "resid.1", tokens=4)
    plain, edited = (activations(tiny_lens, prompts[:1], points, edit=e) for e in (None, edit))
    difference = (plain.seen[points[0]] - edited.seen[points[0]])[0].norm(dim=-1)
    assert difference[4] > 0
    assert not difference[[*range(4), *range(5, len(difference))]].any()


def test_edits_have_fingerprints_of_their_own(tiny_lens, prompts):
    edits = [
        ablate(tiny_lens, "ffn.1"),
        ablate(tiny_lens, "ffn.2"),
        ablate(tiny_lens, "ffn.1", tokens="all"),
        ablate(tiny_lens, "ffn.1", torch.ones(tiny_lens.d_model)),
        ablate(tiny_lens, "ffn.1", dimensions=[0]),
        patch(tiny_lens, {prompts[0]: prompts[1]}, "ffn.1"),
        patch(tiny_lens, {prompts[0]: prompts[2]}, "ffn.1"),
        contrast(tiny_lens, layer=1),
    ]
    prints = {edit.facts.fingerprint for edit in edits} | {tiny_lens.facts.fingerprint}
    assert len(prints) == len(edits) + 1
    assert ablate(tiny_lens, "ffn.1").facts.fingerprint == edits[0].facts.fingerprint


def test_the_logit_lens_ends_in_the_models_own_prediction(tiny_lens, prompts):
    table = logit_lens(tiny_lens, prompts, top=3)
    assert len(table) == 3 * tiny_lens.n_layers * 3
    own = next_token_probabilities(tiny_lens, prompts)
    last = table[table["layer"] == tiny_lens.n_layers - 1]
    for i, of_prompt in last.groupby("prompt"):
        expected = own[i].topk(3)
        assert of_prompt["id"].tolist() == expected.indices.tolist()
        assert of_prompt["probability"].tolist() == pytest.approx(
            expected.values.tolist(), rel=1e-4
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda lens: ablate(lens, "ffn.sum"), "ffn.sum is not one hook point; name a block"),
        (lambda lens: ablate(lens, "mean"), "mean is not one hook point"),
        (lambda lens: ablate(lens, "ffn.9"), "layer must be between 0 and 2, got 9"),
        (lambda lens: ablate(lens, "fnn.1"), "unknown component 'fnn'"),
        (lambda lens: ablate(lens, "z.1", dimensions=[0]), "z.1 has heads; choose among these"),
        (lambda lens: ablate(lens, "ffn.1", heads=[0]), "ffn.1 has dimensions; choose"),
        (lambda lens: ablate(lens, "z.1", heads=[4]), r"z.1 has parts 0 to 3, got \[4\]"),
        (lambda lens: ablate(lens, "ffn.1", torch.ones(3)), r"by has shape \(3,\), ffn.1 has"),
        (lambda lens: ablate(lens, "ffn.1", tokens="first"), "tokens must be 'last', 'all' or"),
    ],
)
def test_what_is_no_edit_is_refused(tiny_lens, make, message):
    with pytest.raises(InputError, match=message):
        make(tiny_lens)


def test_a_patch_needs_a_source_of_as_many_tokens(tiny_lens, prompts):
    with pytest.raises(InputError, match="no source is given for the prompt"):
        dl.capture(tiny_lens, prompts, edit=patch(tiny_lens, {}, "resid.0"))
    uneven = patch(tiny_lens, {prompts[0]: prompts[1]}, "resid.0", tokens="all")
    with pytest.raises(InputError, match="tokens, its source"):
        dl.capture(tiny_lens, prompts[:1], edit=uneven)
