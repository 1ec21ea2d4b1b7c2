"""Ablation and interchange of S(x): against plain PyTorch hooks, hand-made sets, and properties."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

import dysem_lab as dl
from dysem_lab.errors import DysemLabError, InputError
from dysem_lab.evaluate import holm, mean_with_interval
from dysem_lab.models.readout import Readers, readers
from dysem_lab.questions import causal_passes, causal_picture, causal_sets
from dysem_lab.questions.causal_passes import Key, ablated, exchanged, halves
from dysem_lab.questions.causal_sets import (
    COMPLEMENT,
    END,
    FAIR,
    GAIN,
    KINDS,
    KL,
    LARGEST,
    NORM,
    OTHER,
    OWN,
    READ,
    ROTATED,
    ROTATED_READ,
    SIZE,
    SIZE_READ,
    UNREAD,
    VARIANCE,
    WHOLE,
    At,
    Draws,
    Part,
    parts_of,
)

CODES = ["en", "fr"]
FEW = Draws(sets=2, rotations=2, seed=0)

pytestmark = pytest.mark.usefixtures("_one_thread")


@pytest.fixture(scope="module")
def study(tiny_folder):
    return dl.Study(
        tiny_folder("Llama"), "demo", languages=CODES, pairs=12, settings="language-specific"
    )


# --- statistics


def test_holm_by_hand():
    found = holm(np.array([0.04, 0.01, np.nan, 0.03]))
    # 0.01 × 3, 0.03 × 2, and 0.04 × 1, which must not be below the one before it.
    np.testing.assert_allclose(found, [0.06, 0.03, np.nan, 0.06])
    assert holm(np.array([0.6, 0.7])).tolist() == [1.0, 1.0]
    assert len(holm(np.array([]))) == 0
    with pytest.raises(InputError, match="p must be a row of numbers from 0 to 1"):
        holm(np.array([0.5, 1.5]))


def test_a_mean_has_the_interval_of_its_resampled_means():
    values = np.array([1.0, 2.0, np.nan, 6.0])
    found = mean_with_interval(values, n_resamples=2000)
    assert found["mean"] == 3.0
    drawn = np.random.default_rng(0).integers(0, 3, size=(2000, 3))
    low, high = np.quantile(np.array([1.0, 2.0, 6.0])[drawn].mean(1), [0.025, 0.975])
    assert (found["low"], found["high"]) == pytest.approx((low, high))
    assert found["p"] == 1 / 2000  # no resample is at 0 or below
    assert mean_with_interval(np.array([-1.0, 1.0]))["p"] == 1.0
    assert np.isnan(list(mean_with_interval(np.array([np.nan])).values())).all()


# --- sets


def random_at(n=5, d=16, **others):
    generator = torch.Generator().manual_seed(0)
    languages = torch.randn(n, 2, d, generator=generator)
    change, spread = torch.randn(n, d, generator=generator), torch.rand(d, generator=generator)
    return At(languages, languages[:, 0], change, spread, **others)


def test_each_control_differs_from_the_set_in_one_thing():
    at = random_at()
    parts = parts_of(at, 3, FEW)
    own = parts[OWN][0].masks
    assert (own == torch.stack([dl.consensus_set(x, 3) for x in at.languages])).all()
    sizes = own.sum(-1)
    for kind in (SIZE, LARGEST, VARIANCE):
        assert all((part.masks.sum(-1) == sizes).all() for part in parts[kind])
    assert (parts[COMPLEMENT][0].masks == ~own).all()
    assert parts[WHOLE][0].masks.all()
    assert (parts[OTHER][0].masks == own[[4, 0, 1, 2, 3]]).all()
    for i, size in enumerate(sizes):
        largest, most = parts[LARGEST][0].masks[i], parts[VARIANCE][0].masks[i]
        assert set(largest.nonzero()[:, 0].tolist()) == set(
            at.vector[i].abs().argsort(descending=True)[:size].tolist()
        )
        assert set(most.nonzero()[:, 0].tolist()) == set(
            at.spread.argsort(descending=True)[:size].tolist()
        )
    for part in parts[ROTATED]:
        turned = torch.stack([dl.consensus_set(x @ part.basis, 3) for x in at.languages])
        assert (part.masks == turned).all()
    assert {kind: len(drawn) for kind, drawn in parts.items() if len(drawn) > 1} == {
        SIZE: 2,
        NORM: 2,
        ROTATED: 2,
    }
    assert not {END, READ, UNREAD, SIZE_READ, ROTATED_READ} & set(parts)  # nobody says what reads


def test_a_random_set_of_equal_norm_comes_near_and_not_above():
    change = torch.randn(20, 300, generator=torch.Generator().manual_seed(3))
    norms = torch.linspace(0.0, 12.0, 20)
    for seed in range(3):
        found = Part(causal_sets.draw_of_norm(change, norms, seed)).of(change).norm(dim=-1)
        assert (found <= norms * (1 + 2e-6)).all()
        assert (found[1:] > 0.97 * norms[1:]).all()
        assert found[0] == 0
    everything = causal_sets.draw_of_norm(change, change.norm(dim=-1), 0)
    assert everything.all()


def test_a_set_of_equal_size_and_read_norm_is_read_as_strongly():
    share = torch.linspace(1, 0, 200).softmax(0)
    at = random_at(6, 200, readers=Readers(causal_sets.rotation(200, 9), share, 200))
    parts = parts_of(at, 0.2, FEW, [OWN, SIZE, SIZE_READ, ROTATED, ROTATED_READ])
    own = parts[OWN][0]
    # By the matrix of what reads: the length of W c for the part c of the change.
    gram = (at.readers.basis * at.readers.share).double() @ at.readers.basis.double().T

    def read(part):
        moved = part.of(at.change).double()
        return torch.einsum("nd,de,ne->n", moved, gram, moved).sqrt()

    for part in parts[SIZE_READ]:
        assert part.masks.sum(-1).equal(own.masks.sum(-1))
        assert ((read(part) - read(own)).abs() <= 0.011 * read(own)).all()
    assert not parts[SIZE_READ][0].masks.equal(parts[SIZE_READ][1].masks)
    assert all((read(part) / read(own) - 1).abs().max() > 0.02 for part in parts[SIZE])
    for turned, part in zip(parts[ROTATED], parts[ROTATED_READ], strict=True):
        torch.testing.assert_close(read(part), read(own))
        factor = (read(own) / read(turned)).float()[:, None]
        torch.testing.assert_close(part.of(at.change), turned.of(at.change) * factor)


def test_empty_and_whole_sets_have_nothing_to_swap(study):
    at = random_at(3, 32, readers=readers(study.lens, 1))
    own = torch.zeros(3, 32, dtype=torch.bool)
    own[1], own[2, :5] = True, True
    found = causal_sets.draw_of_read_norm(at, own, 0)
    assert found.sum(-1).tolist() == [0, 32, 5]


def test_draws_of_two_seeds_differ():
    drawn = [set(Draws(3, 7, seed).seeds(7)) for seed in range(3)]
    assert len(set.union(*drawn)) == 21


def test_where_all_languages_are_positive_the_whole_vector_is_the_set():
    at = random_at()
    parts = parts_of(at._replace(languages=at.languages.abs()), 16, FEW)
    assert parts[OWN][0].masks.equal(parts[WHOLE][0].masks)
    assert not parts[COMPLEMENT][0].masks.any()


def test_what_is_read_and_what_is_not_add_up_to_the_set(study):
    at = random_at(d=32, readers=readers(study.lens, 1))
    parts = parts_of(at, 8, FEW)
    read, unread, own = (parts[kind][0].of(at.change) for kind in (READ, UNREAD, OWN))
    torch.testing.assert_close(read + unread, own)
    assert (read * unread).sum(-1).abs().max() < 1e-4


def test_rotations_are_rotations_and_differ():
    Q, other = causal_sets.rotation(16, 0), causal_sets.rotation(16, 1)
    torch.testing.assert_close(Q.T @ Q, torch.eye(16), atol=1e-5, rtol=0)
    assert not Q.equal(other)
    assert Q.equal(causal_sets.rotation(16, 0))


@pytest.mark.parametrize("architecture", ["Llama", "Gemma2"])
def test_what_a_block_reads_is_the_row_space_of_its_weights(tiny_folder, architecture):
    folder = tiny_folder(architecture)
    block = AutoModelForCausalLM.from_pretrained(folder).model.layers[1]
    gemma = architecture == "Gemma2"  # whose norms multiply by 1 + weight
    norms = (
        block.input_layernorm,
        block.pre_feedforward_layernorm if gemma else block.post_attention_layernorm,
    )
    attention, mlp = block.self_attn, block.mlp
    readings = (
        [attention.q_proj, attention.k_proj, attention.v_proj],
        [mlp.up_proj, mlp.gate_proj],
    )
    stacked = torch.cat(
        [
            linear.weight.detach() * (norm.weight.detach() + gemma)
            for norm, linears in zip(norms, readings, strict=True)
            for linear in linears
        ]
    )
    found = readers(dl.load_model(folder), 1)
    _, values, rows = torch.linalg.svd(stacked, full_matrices=False)
    torch.testing.assert_close(found.share, values**2 / (values**2).sum(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        (found.basis[:, :5].T @ rows[:5].T).abs(), torch.eye(5), atol=2e-3, rtol=0
    )
    assert found.rank == 32
    vectors = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        found.norm(vectors),
        (vectors @ stacked.T).norm(dim=-1) / stacked.norm(),
        atol=1e-4,
        rtol=1e-3,
    )
    with pytest.raises(InputError, match="layer must be between 0 and 2"):
        readers(dl.load_model(folder), 4)


def test_after_the_last_block_the_unembedding_reads(study, plain_llama):
    weight = plain_llama.lm_head.weight.detach() * plain_llama.model.norm.weight.detach()
    centred = weight - weight.mean(0)
    vectors = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    expected = (vectors @ centred.T).norm(dim=-1) / centred.norm()
    torch.testing.assert_close(readers(study.lens, 3).norm(vectors), expected, atol=1e-4, rtol=1e-3)


# --- passes, against plain hooks


def answers(model, tokenizer, prompt, layer=None, change=None):
    """Return log-probabilities after a prompt and h^b, h^L there, by hooks; h^b may be changed."""
    seen = {}

    def edit(_, inputs, output):
        stream = output[0] if isinstance(output, tuple) else output
        seen["at"] = stream[0, -1].clone()
        if change is not None:
            stream[0, -1] = change(stream[0, -1])

    def end(_, inputs, output):
        seen["end"] = (output[0] if isinstance(output, tuple) else output)[0, -1].clone()

    blocks = model.model.layers
    handles = [blocks[-1].register_forward_hook(end)]
    if layer is not None:
        handles.insert(0, blocks[layer].register_forward_hook(edit))
    try:
        with torch.no_grad():
            logits = model(**tokenizer([prompt], return_tensors="pt")).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()
    return logits.log_softmax(-1), seen.get("at"), seen["end"]


def consensus(rows, k):
    positive = [j for j in range(len(rows[0])) if all(row[j] > 0 for row in rows)]
    best = sorted(positive, key=lambda j: (-sum(float(row[j]) for row in rows), j))[:k]
    return torch.tensor([j in best for j in range(len(rows[0]))])


@pytest.mark.parametrize("layer", [0, 1])
def test_ablations_are_those_of_plain_hooks(study, plain_llama, layer):
    choosing, reporting = halves(study, [0], ["en"])[0]
    tokenizer = study.lens.tokenizer
    found = ablated(reporting, choosing, CODES, [(layer, 4)], [OWN, COMPLEMENT], FEW, "mean")
    mean = torch.stack(
        [answers(plain_llama, tokenizer, p, layer)[1] for p in choosing.prompts("en")]
    ).mean(0)
    for i, prompts in enumerate(zip(*(reporting.prompts(code) for code in CODES), strict=True)):
        streams = [answers(plain_llama, tokenizer, prompt, layer)[1] for prompt in prompts]
        before = answers(plain_llama, tokenizer, prompts[0])[0]
        own = consensus(streams, 4)
        for control, mask in ((OWN, own), (COMPLEMENT, ~own)):
            after = answers(
                plain_llama, tokenizer, prompts[0], layer, lambda h, m=mask: torch.where(m, mean, h)
            )[0]
            effect = found.effects[Key("en", layer, 4, control, 0)]
            kl = float((before.exp() * (before - after)).sum())
            assert float(effect[KL][i]) == pytest.approx(kl, abs=1e-3, rel=1e-3)
            assert bool(effect["changed"][i]) == (int(before.argmax()) != int(after.argmax()))


def test_interchanges_are_those_of_plain_hooks(study, plain_llama):
    layer = 1
    choosing, reporting = halves(study, [0], CODES)[0]
    tokenizer = study.lens.tokenizer
    found = exchanged(reporting, choosing, CODES, CODES, [(layer, 4)], [OWN, WHOLE], FEW)
    prompts = {code: reporting.prompts(code) for code in CODES}
    n = len(prompts["en"])
    for i in range(n):
        donor = (i - n // 4) % n
        says, given, end = answers(plain_llama, tokenizer, prompts["en"][donor], layer)
        both = [answers(plain_llama, tokenizer, prompts[c][donor], layer)[1] for c in CODES]
        wanted = int(says.argmax())
        for code in CODES:
            before = answers(plain_llama, tokenizer, prompts[code][i])[0]
            also = int(answers(plain_llama, tokenizer, prompts[code][donor])[0].argmax())
            for control, mask in ((OWN, consensus(both, 4)), (WHOLE, torch.ones(32) > 0)):
                after, _, after_end = answers(
                    plain_llama,
                    tokenizer,
                    prompts[code][i],
                    layer,
                    lambda h, m=mask, v=given: torch.where(m, v, h),
                )
                effect = found.effects[Key(code, layer, 4, control, 0)]
                gained = after - before
                assert float(effect[GAIN][i]) == pytest.approx(float(gained[wanted]), abs=1e-3)
                rendering = float(effect["gain_rendering"][i])
                assert rendering == pytest.approx(float(gained[also]), abs=1e-3)
                similarity = torch.cosine_similarity(after_end, end, dim=0)
                assert float(effect["to_donor"][i]) == pytest.approx(float(similarity), abs=1e-3)
                if int(before.argmax()) == wanted:
                    assert effect["became"][i].isnan()
                else:
                    assert effect["became"][i] == (int(after.argmax()) == wanted)


def test_an_identity_for_a_rotation_gives_the_unrotated_number(study, monkeypatch):
    monkeypatch.setattr(causal_sets, "rotation", lambda d, seed: torch.eye(d))
    choosing, reporting = halves(study, [0], ["en"])[0]
    for measured in (
        ablated(reporting, choosing, CODES, [(1, 4)], [OWN, ROTATED], FEW, "mean"),
        exchanged(reporting, choosing, CODES, CODES, [(1, 4)], [OWN, ROTATED], FEW),
    ):
        for key, effect in measured.effects.items():
            own = measured.effects[key._replace(control=OWN, draw=0)]
            for name in effect:
                torch.testing.assert_close(
                    effect[name], own[name], atol=1e-4, rtol=1e-3, equal_nan=True
                )


def test_a_text_that_gets_its_own_part_stays_as_it_is(study):
    _, half = halves(study, [0], ["en"])[0]
    prompts, v = half.prompts("en"), half.stream(1, ["en"])[:, 0]
    own = parts_of(random_at(len(prompts), 32, readers=readers(study.lens, 2)), 8, FEW)
    edits = {
        Key("en", 1, 8, kind, 0): causal_passes._replaced(study.lens, 1, prompts, v, v, drawn[0])
        for kind, drawn in own.items()
    }
    for _, plain, of_rows in causal_passes._passes(study.lens, prompts, edits):
        for _, edited in of_rows:
            torch.testing.assert_close(edited.log_p, plain.log_p, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(edited.stream, plain.stream, atol=1e-4, rtol=1e-4)


def test_the_whole_of_the_last_block_brings_the_donors_answer_itself(study):
    choosing, reporting = halves(study, [0], CODES)[0]
    found = exchanged(reporting, choosing, CODES, CODES, [(2, 4)], [WHOLE], FEW)
    for effect in found.effects.values():
        became = effect["became"]
        assert became[~became.isnan()].all()
        torch.testing.assert_close(effect["to_donor"], torch.ones(len(became)))


def test_texts_that_are_met_twice_are_one(study, tmp_path):
    data = study.data["demo"]
    both = dl.Study(study.lens, data.select([0, 1, 2, 3, 0, 1, 2, 3]), languages=CODES)
    for half in halves(both, [0], ["en"])[0]:
        texts = data.select(half.pairs % 4).texts("en")
        assert len(half.first) == len(set(texts))
        assert [texts[half.first[row]] for row in half.row] == texts
        assert len(set(half.prompts("en"))) == len(half.first)


# --- the questions


@pytest.fixture(scope="module")
def findings(study):
    floor = dl.Study(study.lens, "demo", languages=CODES, pairs=12, settings="language-specific")
    few = {"n_random": 2, "n_rotations": 2, "ks": [3, 6], "random_weights": floor, "seeds": (0, 1)}
    return {
        KL: dl.set_ablation(study, CODES, [0, 2], **few),
        GAIN: dl.set_interchange(study, CODES, [0, 2], **few),
    }


@pytest.mark.parametrize("main", [KL, GAIN])
def test_a_table_compares_the_set_with_every_control(findings, main):
    finding = findings[main]
    table = finding.table
    trained = table[table["model"] == "trained"]
    assert set(trained["control"]) == set(KINDS) - (set() if main == GAIN else {READ, UNREAD})
    languages = CODES if main == GAIN else ["en"]
    keys = ["layer", "language"]
    parts = {key: part for key, part in trained.groupby(keys)}
    assert set(parts) == {(b, code) for b in (0, 2) for code in languages}
    for (layer, _), part in parts.items():
        assert (END in set(part["control"])) == (layer == 2)
        if main == GAIN:
            assert (READ in set(part["control"])) == (layer == 0)
        rows = part.set_index("control")
        assert (rows["n_draws"][[SIZE, NORM, SIZE_READ, ROTATED, ROTATED_READ]] == 4).all()
        assert (rows["seed_low"] <= rows["seed_high"]).all()
        assert (rows["draw_low"] <= rows["seed_low"] + 1e-6).all()
        assert rows.loc[OWN, [name for name in rows if "difference" in name]].isna().all()
        others = rows.drop(OWN)
        np.testing.assert_allclose(
            others["difference"], rows.loc[OWN, main] - others[main], atol=1e-6
        )
        assert rows.loc[WHOLE, "share"] == pytest.approx(1)
        assert rows.loc[WHOLE, "share_read"] == pytest.approx(1)
        assert (rows["share_read"] > 0).all()
        assert (rows[f"{main}_low"] <= rows[main]).all()
        assert rows.loc[NORM, "share"] == pytest.approx(rows.loc[OWN, "share"], abs=0.1)
        read = rows.loc[[SIZE_READ, ROTATED_READ], "share_read"]
        assert read.to_numpy() == pytest.approx(rows.loc[OWN, "share_read"], abs=0.1)
    floor = table[table["model"] == "random weights"].set_index([*keys, "control"])
    same = trained.set_index([*keys, "control"]).loc[floor.index]
    np.testing.assert_allclose(floor[main], same[main], atol=1e-5)  # the same model stands in
    texts = finding.facts.recorded["texts"]
    assert sum(texts["reporting"]) == trained["n_texts"].iloc[0]
    assert f"chosen on {sum(texts['choosing'])} other texts" in finding.caption
    assert len(finding.facts.recorded["exceptions"]) == len(finding.exceptions)
    assert len(finding.figure.layout.annotations) >= 2


@pytest.mark.parametrize("main", [KL, GAIN])
def test_every_p_of_a_table_is_corrected_for_all_of_them(findings, main):
    table = findings[main].table
    named = ["", "changed_", "spearman_"] if main == KL else ["", "gain_rendering_", "became_"]
    raw = table[[f"{name}p" for name in named]].to_numpy()
    found = table[[f"{name}p_holm" for name in named]].to_numpy()
    np.testing.assert_allclose(found.ravel(), holm(raw.ravel()))
    assert (found >= raw)[~np.isnan(raw)].all()
    assert f"Holm over {(~np.isnan(raw)).sum()} comparisons" in findings[main].caption


def test_differences_of_the_other_measures_are_paired(findings):
    rows = findings[KL].table.set_index(["model", "layer", "control"])
    own, other = (rows.loc[("trained", 0, kind)] for kind in (OWN, OTHER))
    difference = own["spearman"] - other["spearman"]
    assert other["spearman_difference"] == pytest.approx(difference)
    assert rows["changed_difference"].dropna().between(-1, 1).all()


def test_the_texts_of_all_seeds_are_measured_once_and_pooled(findings, study):
    divided = halves(study, (0, 1), ["en"])
    pairs = [pair for of_seed in divided.values() for half in of_seed for pair in half.pairs]
    assert sorted(pairs) == list(range(12))
    of_seeds, by_pair = [], []
    for seed, (choosing, reporting) in divided.items():
        tried = [(0, findings[KL].facts.recorded["chosen"][seed]["1"])]
        draws = Draws(2, 2, seed)
        one = ablated(reporting, choosing, CODES, tried, [OWN], draws, "mean")
        (effect,) = one.effects.values()
        values = effect[KL].double().numpy()
        of_seeds.append(values.mean())
        by_pair += [values[reporting.unit == pair].mean() for pair in set(reporting.unit)]
    row = findings[KL].table.iloc[0]
    assert (row["layer"], row["control"]) == (0, OWN)
    assert row[KL] == pytest.approx(np.mean(by_pair), rel=1e-4)
    spread = row["seed_low"], row["seed_high"]
    assert spread == pytest.approx((min(of_seeds), max(of_seeds)), rel=1e-4)


@pytest.mark.parametrize("main", [KL, GAIN])
def test_k_and_block_are_chosen_on_the_other_half(findings, main):
    finding = findings[main]
    choice = finding.choice
    keys = ["seed", "layer"]
    assert (choice.groupby(keys)["chosen"].sum() == 1).all()
    for _, of_block in choice.groupby(keys):
        best = of_block.loc[of_block["difference"].idxmax()]
        assert best["chosen"]
    leads = choice[choice["leads"]]
    assert leads["seed"].tolist() == [0, 1]
    for row in leads.itertuples():
        assert row.difference == choice[choice["seed"] == row.seed]["difference"].max()
    for layer, of_block in choice[choice["chosen"]].groupby("layer"):
        (used,) = finding.table[finding.table["layer"] == layer]["k"].unique()
        assert used == "/".join(dict.fromkeys(f"{k:g}" for k in of_block["k"]))
    lead = finding.facts.recorded["lead"]
    n = (leads["layer"] == lead).sum()
    assert n == leads["layer"].value_counts().max()
    assert f"block {lead + 1}" in finding.caption
    assert f"this block by {n} of 2 seeds" in finding.caption


def test_sts_is_that_of_the_stream_at_the_end(findings, study):
    table = findings[KL].table
    first, second, gold = [], [], []
    for _, reporting in halves(study, (0, 1), ["en"]).values():
        pairs = reporting.pairs
        stream = study.vectors("demo", "resid", languages=["en"], pairs=pairs.tolist())[:, 0]
        first.append(stream[: len(pairs)])
        second.append(stream[len(pairs) :])
        gold.append(study.data["demo"].gold[pairs])
    similarity = torch.cosine_similarity(torch.cat(first), torch.cat(second), dim=-1)
    expected = dl.spearman(similarity, np.concatenate(gold))
    assert table["spearman_plain"].to_numpy() == pytest.approx(expected)
    last = table[(table["layer"] == 2) & (table["control"] == WHOLE)]
    assert last["spearman"].isna().all()  # all streams are the mean


def test_a_share_that_is_the_same_for_all_texts_has_an_interval_all_the_same(findings):
    for main, name in ((KL, "changed"), (GAIN, "became")):
        table = findings[main].table
        table = table[table[f"{name}_difference"].notna()]
        assert len(table)
        assert (table[f"{name}_difference_low"] < table[f"{name}_difference_high"]).all()


def test_the_exceptions_are_the_texts_where_the_set_does_least(findings):
    for finding in findings.values():
        rows = finding.exceptions
        for _, part in rows.groupby("language"):
            assert (part["own"] - part["random"]).is_monotonic_increasing


def made_up(differences, main=KL):
    """Return a table of one block where S(x) differs so much from each fair control."""
    rows = [{"control": OWN, main: 1.0, "difference": np.nan, "p": np.nan}]
    rows += [
        {"control": name, main: 1.0 - d, "difference": d, "p": 0.001 if d else 0.9}
        for name, d in zip(FAIR, differences, strict=True)
    ]
    rows.append({"control": ROTATED, main: 4.0, "difference": -3.0, "p": 0.001})
    rows.append({"control": WHOLE, main: 3.0, "difference": -2.0, "p": 0.001})
    table = pd.DataFrame(rows).assign(model="trained", language="en", layer=4, k=0.1, n_dims=9)
    table = table.assign(share_read=2.0, seed_low=1.0, seed_high=1.0)
    table["difference_low"] = table["difference"] - 0.05
    table["difference_high"] = table["difference"] + 0.05
    for name in ("", "changed_", "spearman_", "became_"):
        table[f"{name}p_holm"] = holm(table["p"].to_numpy())
    table[f"{main}_low"], table[f"{main}_high"] = table[main] - 0.1, table[main] + 0.1
    measures = {"changed": 0.5, "spearman": 60.0, "spearman_plain": 70.0, "became": 0.25}
    return table.assign(n_draws=1, draw_low=0.0, draw_high=1.0, **measures)


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ([0.5] * 7, "taking S(x) out changes the answer more than any other set of its size"),
        (
            [0.0] * 7,
            "S(x) is nothing special: taking S(x) out changes the answer about as much as random",
        ),
        (
            [0.5, 0.0, 0.5, 0.5, 0.5, 0.5, -0.5],
            "the answer more than random sets of equal size, random sets of equal size and read "
            "norm, the largest |v|, the dimensions of largest variance and another text's S, but "
            "about as much as random sets of equal norm and less than the same in random "
            "rotations with equal read norm (it beats all of them at 0 of 1",
        ),
        ([-0.5] * 7, "S(x) is nothing special: taking S(x) out changes the answer less than"),
    ],
)
def test_a_caption_begins_with_what_it_means(differences, said):
    caption = causal_picture.caption(made_up(differences), KL, 4, (20, 30))
    assert caption.startswith("At block 5")
    assert said in caption
    assert "S(x) 1.00 [0.90, 1.10] on 9 dimensions" in caption
    assert "Holm over 9 comparisons" in caption
    assert (
        "Random rotations as they are: 4.00; they move what is read by 2.00 of the whole, S(x) by "
        "2.00, so they are compared with equal read norm"
    ) in caption


def test_a_caption_of_an_interchange_says_whose_answer():
    caption = causal_picture.caption(made_up([0.5] * 7, GAIN), GAIN, 4, (20, 30))
    assert caption.startswith(
        "At block 5, in passes in en, S(x) brings the donor's answer more than any other set"
    )
    assert "becomes the donor's in 25% (random sets of equal size: 25%, p = 0.009 by" in caption


@pytest.mark.parametrize(
    ("rank", "said"),
    [
        (4, "The row space of what the next block reads is the whole stream (4); on the 2"),
        (3, "The next block reads 3 of 4 directions; on the 2 directions that hold 90% of it"),
    ],
)
def test_a_caption_says_what_the_next_block_reads(rank, said):
    table = pd.concat([made_up([0.5] * 7, GAIN).assign(language=code) for code in ("en", "fr")])
    parts = [
        table.iloc[:1].assign(
            control=kind, language=code, gain=v, gain_low=v - 0.1, gain_high=v + 0.1
        )
        for kind, code, v in (
            (READ, "en", 0.7),
            (READ, "fr", 0.5),
            (UNREAD, "en", 0.3),
            (UNREAD, "fr", 0.2),
        )
    ]
    reads = Readers(torch.eye(4), torch.tensor([0.6, 0.35, 0.05, 0.0]), rank)
    caption = causal_picture.caption(pd.concat([table, *parts]), GAIN, 4, (20, 30), reads=reads)
    assert said in caption
    assert (
        "the S-part brings 0.70 [0.60, 0.80] in passes in en and 0.50 [0.40, 0.60] in passes in "
        "fr, on the rest 0.30 [0.20, 0.40] in passes in en and 0.20 [0.10, 0.30] in passes in fr."
    ) in caption


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": []}, "layers must be one or more values in a list"),
        ({"ks": []}, "ks must be one or more values in a list"),
        ({"ks": [0]}, "k must be an integer >= 1 or a fraction"),
        ({"layers": [3]}, "layer must be between 0 and 2, got 3"),
        ({"languages": ["en", "xx"]}, "unknown language 'xx'"),
        ({"n_rotations": 0}, "n_rotations must be a whole number of at least 1"),
        ({"seeds": []}, "seeds must be one or more different numbers"),
        ({"seeds": [1, 1]}, "seeds must be one or more different numbers"),
        ({"seeds": [-1]}, "seed must be a whole number of at least 0"),
        ({"n_random": 0}, "n_random must be a whole number of at least 1"),
        ({"by": "noise"}, "unknown replacement 'noise'"),
    ],
)
def test_what_cannot_be_tested_is_refused(study, change, message):
    given = {"languages": CODES, "layers": [0], "seeds": [0], **change}
    with pytest.raises(DysemLabError, match=message):
        dl.set_ablation(study, **given)


def test_too_few_pairs_and_another_models_pairs_are_refused(study):
    few = dl.Study(study.lens, "demo", languages=CODES, pairs=11)
    with pytest.raises(InputError, match="11 pairs cannot be dealt to 3 seeds"):
        dl.set_interchange(few, CODES, [0])
    with pytest.raises(InputError, match="5 pairs cannot be dealt to 1 seed,"):
        dl.set_ablation(few.on(study.data["demo"].head(5)), CODES, [0], seeds=[0])
    other = dl.Study(study.lens, "demo", languages=CODES, pairs=7)
    with pytest.raises(InputError, match="a study of the same pairs"):
        dl.set_ablation(study, CODES, [0], random_weights=other, seeds=[0])
