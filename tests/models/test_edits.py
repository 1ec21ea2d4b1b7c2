"""Ablation and patching against plain PyTorch hooks, the residual identity and each other."""

from itertools import product

import numpy as np
import pytest
import torch

import dysem_lab as dl
from dysem_lab.errors import InputError
from dysem_lab.models.capture import capture
from dysem_lab.models.edits import ablate, contrast, patch
from dysem_lab.models.last_token import prefixes, record_edits
from dysem_lab.models.places import Place
from dysem_lab.models.readout import logit_lens, next_token_probabilities
from dysem_lab.models.record import activations, counted, record

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


@pytest.fixture
def sets(tiny_lens, prompts):
    """Return another random set of dimensions for each prompt, the last one empty."""
    masks = torch.rand(3, tiny_lens.d_model, generator=torch.Generator().manual_seed(1)) > 0.5
    masks[2] = False
    return dict(zip(prompts, masks, strict=True))


@pytest.fixture
def rotation(tiny_lens):
    """Return a random rotation of the stream."""
    generator = torch.Generator().manual_seed(2)
    square = torch.randn(tiny_lens.d_model, tiny_lens.d_model, generator=generator)
    return torch.linalg.qr(square).Q


def test_a_mask_for_all_is_the_list_of_its_dimensions(tiny_lens, prompts):
    mask = torch.zeros(tiny_lens.d_model, dtype=torch.bool)
    mask[[3, 5]] = True
    edits = [ablate(tiny_lens, "resid.1", dimensions=d) for d in ([3, 5], mask, mask.numpy())]
    found = [dl.capture(tiny_lens, prompts, "resid", edit=edit)["resid"] for edit in edits]
    assert found[0].equal(found[1])
    assert found[0].equal(found[2])
    assert len({edit.facts.fingerprint for edit in edits}) == 1


@pytest.mark.parametrize("tokens", ["last", "all", 4])
def test_each_prompt_has_a_set_of_its_own(tiny_lens, prompts, sets, tokens):
    points = ["blocks.1.hook_out"]
    edit = ablate(tiny_lens, "resid.1", tokens=tokens, dimensions=sets)
    plain, edited = (activations(tiny_lens, prompts, points, edit=e) for e in (None, edit))
    for i, prompt in enumerate(prompts):
        n = int(plain.mask[i].sum())
        old, new = plain.seen[points[0]][i, :n], edited.seen[points[0]][i, :n]
        changed = list(range(n)) if tokens == "all" else [n - 1 if tokens == "last" else tokens]
        expected = old.clone()
        expected[changed] = old[changed].masked_fill(sets[prompt], 0.0)
        torch.testing.assert_close(new, expected)


def test_a_set_in_rotated_coordinates_is_replaced_and_rotated_back(
    tiny_lens, prompts, sets, rotation
):
    by = torch.linspace(-1, 1, tiny_lens.d_model)
    plain = dl.capture(tiny_lens, prompts, "resid", 1)["resid"]
    edit = ablate(tiny_lens, "resid.1", by, dimensions=sets, basis=rotation)
    found = dl.capture(tiny_lens, prompts, "resid", 1, edit=edit)["resid"]
    masks = torch.stack([sets[prompt] for prompt in prompts])
    expected = torch.where(masks, by @ rotation, plain @ rotation) @ rotation.T
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_identity_as_a_basis_is_no_basis(tiny_lens, prompts, sets):
    one = torch.eye(tiny_lens.d_model)
    plain, rotated = (
        dl.capture(tiny_lens, prompts, edit=ablate(tiny_lens, "resid.0", dimensions=sets, basis=b))[
            "attn"
        ]
        for b in (None, one)
    )
    torch.testing.assert_close(rotated, plain, atol=1e-5, rtol=1e-5)


def test_only_a_directions_part_goes(tiny_lens, prompts, rotation):
    direction = rotation[:, :1]
    edit = ablate(tiny_lens, "resid.1", basis=direction)
    plain, edited = (
        dl.capture(tiny_lens, prompts, "resid", 1, edit=e)["resid"] for e in (None, edit)
    )
    torch.testing.assert_close(edited, plain - (plain @ direction) @ direction.T)
    assert (edited @ direction).abs().max() < 1e-4


def test_patching_with_values_is_patching_from_the_prompt_that_has_them(tiny_lens, prompts, sets):
    vectors = dl.capture(tiny_lens, prompts, "resid", 1)["resid"].roll(1, 0)
    sources = dict(zip(prompts, [prompts[2], *prompts[:2]], strict=True))
    from_prompts = patch(tiny_lens, sources, "resid.1", dimensions=sets)
    with_values = patch(
        tiny_lens, dict(zip(prompts, vectors, strict=True)), "resid.1", dimensions=sets
    )
    expected, found = (
        dl.capture(tiny_lens, prompts, "resid", edit=edit)["resid"]
        for edit in (from_prompts, with_values)
    )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_many_edits_of_sets_and_subspaces_at_once_are_each_alone(
    tiny_lens, prompts, sets, rotation
):
    edits = {
        "sets": ablate(tiny_lens, "resid.1", dimensions=sets),
        "rotated": ablate(tiny_lens, "resid.1", dimensions=sets, basis=rotation),
        "shared": ablate(tiny_lens, "resid.0", dimensions=[1, 2]),
    }
    for prefix in prefixes(tiny_lens, prompts):
        found = record_edits(tiny_lens, prefix, edits, [Place("resid")], logits=True)
        for name, edit in edits.items():
            alone = dl.capture(tiny_lens, prefix.prompts, "resid", edit=edit)["resid"]
            torch.testing.assert_close(
                found[name].vectors[Place("resid")], alone, atol=1e-4, rtol=1e-4
            )
            expected = next_token_probabilities(tiny_lens, prefix.prompts, edit)
            torch.testing.assert_close(
                found[name].logits.softmax(-1), expected, atol=1e-4, rtol=1e-4
            )


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


def test_edits_have_fingerprints_of_their_own(tiny_lens, prompts, sets, rotation):
    edits = [
        ablate(tiny_lens, "ffn.1"),
        ablate(tiny_lens, "ffn.2"),
        ablate(tiny_lens, "ffn.1", tokens="all"),
        ablate(tiny_lens, "ffn.1", torch.ones(tiny_lens.d_model)),
        ablate(tiny_lens, "ffn.1", dimensions=[0]),
        patch(tiny_lens, {prompts[0]: prompts[1]}, "ffn.1"),
        patch(tiny_lens, {prompts[0]: prompts[2]}, "ffn.1"),
        ablate(tiny_lens, "ffn.1", dimensions=sets),
        ablate(tiny_lens, "ffn.1", dimensions=sets | {prompts[0]: ~sets[prompts[0]]}),
        ablate(tiny_lens, "ffn.1", basis=rotation),
        ablate(tiny_lens, "ffn.1", basis=rotation[:, :1]),
        ablate(tiny_lens, "ffn.1", dimensions=sets, basis=rotation),
        patch(tiny_lens, {prompts[0]: torch.ones(tiny_lens.d_model)}, "ffn.1"),
        patch(tiny_lens, {prompts[0]: torch.zeros(tiny_lens.d_model)}, "ffn.1"),
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
        (lambda lens: ablate(lens, "ffn.1", dimensions=40), r"ffn.1 has parts 0 to 31, got \[40\]"),
        (lambda lens: ablate(lens, "ffn.1", dimensions="all"), "ffn.1 has parts 0 to 31"),
        (lambda lens: ablate(lens, "ffn.1", "mean"), "by must be numbers"),
        (lambda lens: ablate(lens, "ffn.1", basis="Q"), "basis must be numbers"),
        (lambda lens: ablate(lens, "ffn.1", torch.full((32,), torch.nan)), "by has a NaN"),
        (
            lambda lens: ablate(lens, "ffn.1", dimensions=torch.ones(31, dtype=torch.bool)),
            "a set of dimensions of ffn.1 must be a mask of 32 booleans",
        ),
        (lambda lens: ablate(lens, "ffn.1", dimensions={"A.": [1]}), "must be a mask of 32 bool"),
        (lambda lens: ablate(lens, "ffn.1", dimensions=[True] * 32), "ffn.1 has parts 0 to 31"),
        (
            lambda lens: ablate(lens, "ffn.1", basis=torch.eye(32)[:, :2], dimensions=[2]),
            "ffn.1 has parts 0 to 1",
        ),
        (lambda lens: ablate(lens, "ffn.1", basis=torch.ones(32, 2)), "take torch.linalg.qr"),
        (lambda lens: ablate(lens, "ffn.1", basis=torch.eye(32) * torch.nan), "not orthonormal"),
        (
            lambda lens: ablate(lens, "ffn.1", basis=torch.eye(31)),
            r"needs \[32, r\], r from 1 to 3",
        ),
        (
            lambda lens: ablate(lens, "ffn.1", basis=torch.ones(32, 0)),
            r"shape \(32, 0\), ffn.1 nee",
        ),
        (lambda lens: ablate(lens, "z.1", basis=torch.eye(4)), "z.1 has heads; a basis is of one"),
        (lambda lens: patch(lens, {"A.": torch.ones(3)}, "ffn.1"), r"a source has shape \(3,\)"),
        (
            lambda lens: patch(lens, {"A.": torch.ones(32), "B.": "A."}, "ffn.1"),
            "all prompts or all values; make two patches",
        ),
    ],
)
def test_what_is_no_edit_is_refused(tiny_lens, make, message):
    with pytest.raises(InputError, match=message):
        make(tiny_lens)


def test_an_edit_of_another_model_or_what_is_no_edit_is_refused(tiny_lens, prompts, tmp_path):
    other, store = dl.untrained(tiny_lens, 5), dl.VectorStore(tmp_path / "v.sqlite")
    for edit, said in (
        (dl.ablate(other, "attn.1"), "edit is of another model"),
        (dl.Contrast(1), "must be one of dl.ablate, dl.patch or dl.contrast, got Contrast"),
        ("attn.1", "got str"),
    ):
        for run in (
            lambda edit: dl.capture(tiny_lens, prompts, "attn", edit=edit, store=store),
            lambda edit: dl.logit_lens(tiny_lens, prompts, edit=edit),
            lambda edit: dl.next_token_probabilities(tiny_lens, prompts, edit),
        ):
            with pytest.raises(InputError, match=said):
                run(edit)


def test_an_edit_that_is_kept_follows_weights_that_change_in_memory(tiny_folder, tmp_path):
    lens = dl.load_model(tiny_folder("Llama"))
    prompts, store = dl.wrap(["The sea is cold.", "Dogs bark."]), dl.VectorStore(tmp_path / "v")
    kept = [dl.ablate(lens, "attn.1"), dl.contrast(lens, layer=1)]
    for edit in kept:
        dl.capture(lens, prompts, "attn", edit=edit, store=store)
    with torch.no_grad():
        lens.bridge.original_model.model.layers[0].self_attn.v_proj.weight.mul_(3)
    anew = [dl.ablate(lens, "attn.1"), dl.contrast(lens, layer=1)]
    for old, new in zip(kept, anew, strict=True):
        expected = dl.capture(lens, prompts, "attn", edit=new)["attn"]
        for of in (None, store):
            found = dl.capture(lens, prompts, "attn", edit=old, store=of)["attn"]
            torch.testing.assert_close(found, expected)


def test_a_patch_needs_a_source_of_as_many_tokens(tiny_lens, prompts):
    with pytest.raises(InputError, match="no source is given for the prompt"):
        dl.capture(tiny_lens, prompts, edit=patch(tiny_lens, {}, "resid.0"))
    uneven = patch(tiny_lens, {prompts[0]: prompts[1]}, "resid.0", tokens="all")
    with pytest.raises(InputError, match="tokens, its source"):
        dl.capture(tiny_lens, prompts[:1], edit=uneven)


def test_a_prompt_without_a_set_or_values_is_refused(tiny_lens, prompts, sets):
    given = {prompt: sets[prompt] for prompt in prompts[:2]}
    with pytest.raises(InputError, match="no dimensions are given for the prompt"):
        dl.capture(tiny_lens, prompts, edit=ablate(tiny_lens, "ffn.1", dimensions=given))
    values = {prompts[0]: torch.ones(tiny_lens.d_model)}
    with pytest.raises(InputError, match="no source is given for the prompt"):
        dl.capture(tiny_lens, prompts, edit=patch(tiny_lens, values, "ffn.1"))


def test_the_logit_lens_of_vectors_is_that_of_streams(tiny_lens, prompts):
    stream = capture(tiny_lens, prompts[:2], "resid", "each", progress=False)["resid"]
    of_streams = logit_lens(tiny_lens, prompts[:2], top=4)
    for layer in range(tiny_lens.n_layers):
        of_vectors = logit_lens(tiny_lens, stream[:, layer], top=4)
        expected = of_streams[of_streams["layer"] == layer]
        assert of_vectors["id"].tolist() == expected["id"].tolist()
        assert np.allclose(of_vectors["probability"], expected["probability"], atol=1e-5)
        assert of_vectors["vector"].tolist() == [0] * 4 + [1] * 4
    with counted(tiny_lens) as work, pytest.raises(InputError, match="top must be a whole number"):
        logit_lens(tiny_lens, prompts[:2], top=0)
    assert work.rows == 0
    again = logit_lens(tiny_lens, stream[:, 0], top=4, seed=0)
    assert again["random"].tolist() == logit_lens(tiny_lens, stream[:, 0], top=4)["random"].tolist()
    assert again["random"].iloc[:4].is_monotonic_decreasing
    assert (
        again["random"].tolist()
        != logit_lens(tiny_lens, stream[:, 0], 4, seed=1)["random"].tolist()
    )


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (torch.ones(3), r"must be \[n, 32\], got \(3,\)"),
        (torch.ones(2, 3), r"must be \[n, 32\]"),
        (torch.ones(0, 32), "must be"),
        (torch.zeros(1, 32), "vector 0 is not finite, or has no direction"),
        (torch.full((1, 32), torch.nan), "vector 0 is not finite"),
        ([0.5] * 32, r"strings, got 0\.5 at 0; vectors are read as one tensor or array \[n, 32\]"),
        ([[0.5] * 32], r"strings, got \[0\.5, .* at 0; vectors are read as one tensor"),
        (("A cat.", torch.ones(32)), r"prompts must be strings, got tensor\("),
    ],
)
def test_vectors_without_a_logit_lens_are_refused(tiny_lens, vectors, said):
    with pytest.raises(InputError, match=said):
        logit_lens(tiny_lens, vectors)


@pytest.mark.parametrize("architecture", ["Llama", "Gemma2"])
def test_what_an_edit_does_not_reach_is_refused_and_nothing_else(tiny_folder, architecture):
    lens = dl.load_model(tiny_folder(architecture))
    own = dl.wrap(TEXTS[:1])
    parts = ("resid_pre", "value", "z", "attn_raw", "attn", "ffn_raw", "ffn", "resid")
    read = [Place(name, layer) for name in parts for layer in range(3)]
    read += [Place(name) for name in ("attn", "ffn", "resid", "final", "mean")]
    plain = {place: next(iter(record(lens, own, [place])))[1][place] for place in read}
    for name, layer in [*product(parts, (0, 2)), ("final", None)]:
        edit = ablate(lens, name if layer is None else f"{name}.{layer}")
        for place in read:
            found = next(iter(record(lens, own, [place], edit=edit)))[1][place]
            # Without a norm behind it, what a module gives is what is added to the stream.
            same = place == Place(f"{name}_raw", layer)
            if same or torch.equal(found, plain[place]):
                with pytest.raises(InputError, match="would not reach"):
                    edit.check_reach(place)
            else:
                edit.check_reach(place)
