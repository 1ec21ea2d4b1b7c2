"""Heads and residuals: against plain PyTorch hooks on tiny models, and by hand."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import rankdata, spearmanr
from transformers import AutoModelForCausalLM

import dysem_lab as dl
from dysem_lab.errors import InputError
from dysem_lab.models.edits import Together
from dysem_lab.models.parts import Part
from dysem_lab.models.record import counted
from dysem_lab.questions import heads_passes, heads_picture, pair_parts, residuals
from dysem_lab.questions.causal_passes import halves
from dysem_lab.questions.heads_passes import (
    attended_by_heads,
    edited_vectors,
    heads_of_equal_length,
    mean_z,
    together,
    without_heads,
)
from dysem_lab.questions.heads_picture import CHOSEN, PLAIN, RANDOM
from dysem_lab.questions.pair_parts import PairParts, PartMeans, against, shares_of_variance

CODES = ["en", "fr"]
KINDS = ["Llama", "Gemma2"]  # grouped-query attention; and with a post-norm

pytestmark = pytest.mark.usefixtures("_one_thread")


def study_of(folder, pairs=12):
    return dl.Study(folder, "demo", languages=CODES, pairs=pairs, settings="language-specific")


@pytest.fixture(scope="module", params=KINDS)
def study(request, tiny_folder):
    return study_of(tiny_folder(request.param))


@pytest.fixture(scope="module")
def plain_model(study):
    """Return the same model, untouched by any bridge."""
    found = AutoModelForCausalLM.from_pretrained(study.lens.name, dtype=torch.float32)
    found.set_attn_implementation("eager")
    return found.eval()


class Plain:
    """One pass of the untouched model: z, what attention writes, and its pattern, by hooks.

    Args:
        model: The model.
        ids: Of one prompt.
        replaced: (block, head) → what is put in the place of its z at the last token.
    """

    def __init__(self, model, ids, replaced=()):
        self.config, self.model = model.config, model
        self.size = getattr(self.config, "head_dim", None) or 32 // 4
        self.z, self.written, self.pattern = {}, {}, {}
        handles = []
        for block, layer in enumerate(model.model.layers):
            post = layer.post_attention_layernorm if self.has_post_norm else None
            handles.append(
                layer.self_attn.o_proj.register_forward_pre_hook(self._z(block, dict(replaced)))
            )
            handles.append(
                (post or layer.self_attn).register_forward_hook(self._keep(self.written, block))
            )
            handles.append(layer.self_attn.register_forward_hook(self._attention(block)))
        with torch.no_grad():
            model(ids[None])
        for handle in handles:
            handle.remove()

    @property
    def has_post_norm(self):
        return hasattr(self.model.model.layers[0], "pre_feedforward_layernorm")

    def _z(self, block, replaced):
        def hook(_, inputs):
            z = inputs[0].clone()
            last = z[0, -1].view(-1, self.size)
            self.z[block] = last.clone()
            for (of_block, head), values in replaced.items():
                if of_block == block:
                    last[head] = values
            return (z,)

        return hook

    def _keep(self, where, block):
        def hook(_, inputs, output):
            where[block] = (output[0] if isinstance(output, tuple) else output)[0, -1].clone()

        return hook

    def _attention(self, block):
        def hook(_, inputs, output):
            self.pattern[block] = output[1][0, :, -1].clone()

        return hook

    def head(self, block, head):
        """Return what a head writes into the stream; a post-norm's divisor is that of the pass."""
        layer = self.model.model.layers[block]
        W = layer.self_attn.o_proj.weight.detach()
        columns = W[:, head * self.size : (head + 1) * self.size]
        part = columns @ self.z[block][head]
        if not self.has_post_norm:
            return part
        norm, whole = layer.post_attention_layernorm, W @ self.z[block].flatten()
        scale = (whole.square().mean() + norm.eps).sqrt()
        return part / scale * (1 + norm.weight.detach())

    @property
    def whole(self):
        """Return A^L."""
        return torch.stack(list(self.written.values())).sum(0)


def ids_of(study, prompt):
    return torch.tensor(study.lens.tokenizer(prompt)["input_ids"])


# --- parts of pairs


def test_parts_of_pairs_are_those_of_plain_hooks(study, plain_model):
    lens, data = study.lens, study.data["demo"]
    prompts = study.prompts("demo", "prompteol", "language-specific", "en").prompts
    v = study.vectors("demo", "attn", languages=["en"])[:, 0]
    sets = dl.consensus_set(study.vectors("demo", "attn", languages=CODES), 8)
    corpus = [prompts[i] for i in (0, 3, 5, 7)]
    means = pair_parts.part_means(lens, [*corpus, corpus[0]], progress=False)
    found = pair_parts.pair_parts(lens, prompts, v, sets, means, progress=False)

    passes = {prompt: Plain(plain_model, ids_of(study, prompt)) for prompt in prompts}
    heads = [(label.block, label.head) for label in means.labels if label.kind == "head"]
    assert heads == [(block, head) for block in range(3) for head in range(4)]
    parts = {
        prompt: torch.stack([of.head(*head) for head in heads]).double()
        for prompt, of in passes.items()
    }
    E = torch.stack([parts[prompt] for prompt in corpus]).mean(0)
    torch.testing.assert_close(means.mean, E, atol=1e-4, rtol=1e-4)
    spread = torch.stack([(parts[prompt] - E).square().sum(-1) for prompt in corpus]).mean(0)
    torch.testing.assert_close(means.length, spread.sqrt(), atol=1e-4, rtol=1e-3)
    n, mu = len(data), E.sum(0)
    for i in range(n):
        x, y = passes[prompts[i]].whole.double() - mu, passes[prompts[n + i]].whole.double() - mu
        U = sets[i] | sets[n + i]
        x, y = x * U, y * U
        norms = x.norm() * y.norm()
        of_x = (parts[prompts[i]] - E) @ y / norms
        of_y = (parts[prompts[n + i]] - E) @ x / norms
        np.testing.assert_allclose(found.added[i], (of_x + of_y) / 2, atol=1e-4)
        assert found.similarity[i] == pytest.approx(float(x @ y / norms), abs=1e-4)
        own = torch.cosine_similarity(v[i] * U, v[n + i] * U, dim=0)
        assert found.own[i] == pytest.approx(float(own), abs=1e-5)
    on_set = [(passes[p].whole.double() - mu) * s for p, s in zip(prompts, sets, strict=True)]
    written = sum((parts[p] - E) @ of for p, of in zip(prompts, on_set, strict=True))
    np.testing.assert_allclose(found.written, written / written.sum(), atol=1e-4)


def test_a_pair_without_a_similarity_is_undefined(study):
    prompts = study.prompts("demo", "prompteol", "language-specific", "en").prompts[:4]
    v = study.vectors("demo", "attn", languages=["en"])[:4, 0]
    means = pair_parts.part_means(study.lens, prompts, progress=False)
    sets = torch.zeros(4, 32, dtype=torch.bool)
    sets[1] = True
    with pytest.warns(UserWarning, match="1 of 2 pairs have no similarity"):
        found = pair_parts.pair_parts(study.lens, prompts, v, sets, means, progress=False)
    assert np.isnan(found.added[0]).all()
    assert not np.isnan(found.added[1]).any()


def made_parts(added):
    added = np.asarray(added, dtype=float)
    labels = [Part("head", 0, i) for i in range(added.shape[1])]
    return PairParts(labels, added, np.ones(added.shape[1]), added.sum(1))


def test_shares_of_variance_by_hand():
    # The sum is 0, 2, 4: its variance is that of the first part (0, 1, 2) twice over.
    parts = made_parts([[0, 0, 0], [1, 1, 0], [2, 2, 0], [np.nan] * 3])
    np.testing.assert_allclose(shares_of_variance(parts), [0.5, 0.5, 0.0])
    assert shares_of_variance(made_parts(np.random.default_rng(0).normal(size=(9, 4)))).sum() == (
        pytest.approx(1)
    )


def test_a_score_beside_the_mean_of_others():
    rng = np.random.default_rng(1)
    gold, one, *others = rng.normal(size=(5, 40))
    one = one + gold
    found = against(one, others, gold, seed=3)
    expected = spearmanr(one, gold)[0] - np.mean([spearmanr(of, gold)[0] for of in others])
    assert found["difference"] == pytest.approx(100 * expected)
    rows = np.random.default_rng(3).integers(0, 40, size=(10_000, 40))[:200]
    gaps = [
        spearmanr(one[row], gold[row])[0]
        - np.mean([spearmanr(of[row], gold[row])[0] for of in others])
        for row in rows
    ]
    assert found["low"] == pytest.approx(100 * np.quantile(gaps, 0.025), abs=8)
    assert found["high"] == pytest.approx(100 * np.quantile(gaps, 0.975), abs=8)
    assert found["p"] < 0.01
    one[0] = np.nan  # that pair is left out of all
    rest = [spearmanr(of[1:], gold[1:])[0] for of in (one, *others)]
    found = against(one, others, gold)
    assert found["difference"] == pytest.approx(100 * (rest[0] - np.mean(rest[1:])))
    assert np.isnan(against(one[:3], [others[0][:3]], gold[:3])["p"])


# --- passes


def test_attention_is_that_of_plain_hooks(study, plain_model):
    (choosing, _) = halves(study, [0], ["en"])[0]
    prompts = choosing.prompts("en")
    found = attended_by_heads(study.lens, prompts, prompts[:2], [(1, 2), (2, 0)], progress=False)
    expected = torch.zeros(3, 4, 3)
    for prompt in prompts:
        pattern = Plain(plain_model, ids_of(study, prompt)).pattern
        spans = study.lens.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
        inside = [start < prompt.stop and stop > prompt.start for start, stop in spans]
        kind = [0] + [1 if of else 2 for of in inside[1:]]
        for block, weights in pattern.items():
            for token, of in enumerate(kind):
                expected[block, :, of] += weights[:, token] / len(prompts)
    torch.testing.assert_close(found.shares, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.shares.sum(-1), torch.ones(3, 4))
    assert set(found.tokens) == set(prompts[:2])
    tokens = found.tokens[prompts[0]][1, 2]
    weights = Plain(plain_model, ids_of(study, prompts[0])).pattern[1][2]
    assert [weight for _, weight in tokens] == pytest.approx(
        weights.topk(3).values.tolist(), abs=1e-4
    )


def test_mean_ablation_of_heads_is_that_of_plain_hooks(study, plain_model):
    choosing, reporting = halves(study, [0], ["en"])[0]
    z = mean_z(study.lens, choosing.prompts("en"))
    expected = torch.stack(
        [
            torch.stack(list(Plain(plain_model, ids_of(study, prompt)).z.values()))
            for prompt in choosing.prompts("en")
        ]
    ).mean(0)
    torch.testing.assert_close(z, expected, atol=1e-4, rtol=1e-3)
    sets = {"one": [(1, 2)], "several": [(0, 1), (1, 0), (1, 3), (2, 2)], "none": []}
    edits = {name: without_heads(study.lens, of, z) for name, of in sets.items()}
    prompts = reporting.prompts("en")
    found = edited_vectors(study.lens, prompts, edits, progress=False)
    for i, prompt in enumerate(prompts):
        for name, of in sets.items():
            replaced = [(head, z[head]) for head in of]
            plain = Plain(plain_model, ids_of(study, prompt), replaced)
            torch.testing.assert_close(found[name][i], plain.whole, atol=2e-3, rtol=1e-3)


def test_edits_that_are_made_together_have_a_fingerprint_of_their_own(study):
    lens, z = study.lens, torch.zeros(3, 4, study.lens.d_head)
    one, two = (without_heads(lens, of, z) for of in ([(0, 1)], [(0, 1), (2, 3)]))
    assert len({one.facts.fingerprint, two.facts.fingerprint, lens.fingerprint}) == 3
    assert not two.every_token
    all_tokens = dl.ablate(lens, "attn.0", tokens="all")
    assert Together(lens, [one, all_tokens]).every_token
    prompts = dl.wrap(["A cat sleeps.", "Rain fell."])
    both = dl.ablate(lens, "z.1", heads=[1, 3])
    apart = Together(lens, [dl.ablate(lens, "z.1", heads=[h]) for h in (1, 3)])
    read = [
        dl.capture(lens, prompts, "attn", edit=of, progress=False)["attn"] for of in (both, apart)
    ]
    torch.testing.assert_close(*read)


def made_means(lengths):
    labels = [Part("head", i // 4, i % 4) for i in range(len(lengths))]
    labels.append(Part("bias", 0))
    lengths = torch.tensor([*lengths, 100.0], dtype=torch.float64)
    return PartMeans(labels, torch.zeros(len(labels), 2), lengths, 5)


def test_random_heads_are_as_many_and_as_long_where_they_can_be():
    rng = np.random.default_rng(0)
    means = made_means(rng.uniform(1, 3, size=40).tolist())
    chosen = [(0, 1), (3, 2), (9, 3)]
    drawn = heads_of_equal_length(means, chosen, 20, 0)
    wanted = together(means, chosen)
    assert together(means, chosen[:1]) == pytest.approx(float(means.length[1]))
    for of in drawn:
        assert len(of) == len(set(of)) == 3
        assert not set(of) & set(chosen)
        assert together(means, of) == pytest.approx(wanted, rel=0.011)
    assert len({tuple(of) for of in drawn}) > 10
    assert drawn == heads_of_equal_length(means, chosen, 20, 0)
    assert drawn != heads_of_equal_length(means, chosen, 20, 1)


def test_where_the_chosen_heads_are_longest_more_random_ones_stand_beside_them():
    means = made_means([10.0, *[2.0] * 39])
    for of in heads_of_equal_length(means, [(0, 0)], 5, 0):
        assert len(of) == 25  # 25 × 2² = 10²
        assert together(means, of) == pytest.approx(10.0)


# --- the question


@pytest.fixture(scope="module")
def finding(study):
    return dl.heads(study, CODES, k=8, n_heads=(1, 3), n_draws=3, n_examples=2)


def test_a_table_has_every_part_and_the_shares_are_whole(finding):
    table = finding.table
    assert len(table) == 12
    for column in ("share", "share_chosen", "written"):
        assert table[column].sum() == pytest.approx(1)
    assert table["share_chosen"].is_monotonic_decreasing
    assert (table[["on_first", "on_text", "on_template"]].sum(axis=1) - 1).abs().max() < 1e-4
    np.testing.assert_allclose(table["p_holm"], dl_holm(table["p"]))
    assert len(finding.examples) == 2 * 8 * 3
    assert set(finding.examples["rank"]) == {1, 2, 3}


def dl_holm(p):
    order = np.argsort(p.to_numpy(), kind="stable")
    corrected = np.maximum.accumulate(np.arange(len(p), 0, -1) * p.to_numpy()[order])
    found = np.empty(len(p))
    found[order] = np.minimum(1, corrected)
    return found


def test_without_a_part_of_the_sum_the_score_is_that_of_the_rest(finding, study):
    choosing, reporting = halves(study, [0], ["en"])[0]
    means = pair_parts.part_means(study.lens, choosing.prompts("en"), progress=False)
    sets = dl.consensus_set(reporting.stream(2, CODES, "attn"), 8)[reporting.row]
    v = reporting.stream(2, ["en"], "attn")[:, 0][reporting.row]
    prompts = [reporting.prompts("en")[i] for i in reporting.row]
    parts = pair_parts.pair_parts(study.lens, prompts, v, sets, means, progress=False)
    gold = study.data["demo"].gold[reporting.pairs]
    whole = 100 * spearmanr(parts.similarity, gold)[0]
    row = finding.table.iloc[0]
    i = means.labels.index(Part("head", int(row["block"]), int(row["head"])))
    left = 100 * spearmanr(parts.similarity - parts.added[:, i], gold)[0]
    assert row["without"] == pytest.approx(left, abs=1e-6)
    assert row["change"] == pytest.approx(whole - left, abs=1e-6)


def test_the_ablation_takes_out_the_first_in_the_ranking(finding, study, plain_model):
    rows = finding.ablation.set_index(["n_heads", "which"])
    assert list(rows.index) == [(0, PLAIN), (1, CHOSEN), (1, RANDOM), (3, CHOSEN), (3, RANDOM)]
    assert rows["n_draws"].tolist() == [1, 1, 3, 1, 3]
    first = finding.table.iloc[:3]
    named = " ".join(f"{row.block}.{row.head}" for row in first.itertuples())
    assert rows.loc[(3, CHOSEN), "heads"] == named
    assert rows.loc[(1, CHOSEN), "heads"] == named.split()[0]
    choosing, reporting = halves(study, [0], ["en"])[0]
    z = mean_z(study.lens, choosing.prompts("en"))
    sets = dl.consensus_set(reporting.stream(2, CODES, "attn"), 8)
    mu = choosing.stream(2, ["en"], "attn")[:, 0].mean(0)
    gold = study.data["demo"].gold[reporting.pairs]
    replaced = [((row.block, row.head), z[row.block, row.head]) for row in first.itertuples()]
    for which, of in ((PLAIN, []), (CHOSEN, replaced)):
        ids = [ids_of(study, prompt) for prompt in reporting.prompts("en")]
        v = torch.stack([Plain(plain_model, one, of).whole for one in ids])
        x, y = torch.tensor(reporting.row).view(2, -1)
        U = sets[x] | sets[y]
        centred = torch.cosine_similarity((v[x] - mu) * U, (v[y] - mu) * U)
        own = torch.cosine_similarity(v[x] * U, v[y] * U)
        row = rows.loc[(3 if of else 0, which)]
        assert row["spearman"] == pytest.approx(100 * spearmanr(centred, gold)[0], abs=1e-6)
        assert row["spearman_encoder"] == pytest.approx(100 * spearmanr(own, gold)[0], abs=1e-6)
    plain = rows.loc[(0, PLAIN), "spearman"]
    tried = rows.drop((0, PLAIN))
    np.testing.assert_allclose(tried["lost"], plain - tried["spearman"], atol=1e-9)
    chosen, random = (tried.xs(which, level="which") for which in (CHOSEN, RANDOM))
    np.testing.assert_allclose(
        chosen["difference"], chosen["spearman"] - random["spearman"], atol=1e-9
    )
    np.testing.assert_allclose(chosen["p_holm"], dl_holm(chosen["p"]))
    assert (random["draw_low"] <= random["spearman"]).all()


def test_what_was_measured_is_said(finding, study):
    assert finding.facts.recorded["texts"]["reporting"] > 5
    assert f"{finding.facts.recorded['texts']['reporting']} texts" in finding.caption
    assert "heads chosen on the other half" in finding.caption
    assert "Left out of the sum alone" in finding.caption
    (choosing, reporting) = halves(study, [0], ["en"])[0]
    assert not set(choosing.pairs) & set(reporting.pairs)
    recorded = json.loads(json.dumps(finding.facts.record(), allow_nan=False))
    after = [row["spearman"] for row in recorded["ablation"]]
    assert after == pytest.approx(finding.ablation["spearman"].tolist())


def made_ablation(difference, p=0.001):
    rows = [{"n_heads": 0, "which": PLAIN, "spearman": 70.0}]
    for n in (2, 4):
        chosen = {"n_heads": n, "which": CHOSEN, "spearman": 60.0, "difference": difference}
        chosen |= {"difference_low": difference - 1, "difference_high": difference + 1, "p_holm": p}
        rows += [chosen, {"n_heads": n, "which": RANDOM, "spearman": 60.0 - difference}]
    table = pd.DataFrame(rows).assign(length=2.0, n_mean=3.0)
    return table.assign(low=table["spearman"] - 1, high=table["spearman"] + 1)


def shorter(ablation, n):
    """Return ablations where no heads write as much as the first n."""
    less = (ablation["which"] == RANDOM) & (ablation["n_heads"] == n)
    every = ablation["n_mean"].mask(less, 12 - n)
    return ablation.assign(length=ablation["length"].mask(less, 1.38), n_mean=every)


@pytest.mark.parametrize(
    ("ablation", "said"),
    [
        (made_ablation(-5.0), "are needed: without 2 or 4 of them the score is lower than without"),
        (
            pd.concat(
                [
                    made_ablation(-5.0).query("n_heads != 4"),
                    made_ablation(5.0).query("n_heads == 4"),
                ]
            ),
            "the score is lower than without random heads with parts as long, without 4 it is h",
        ),
        (made_ablation(5.0), "are not those that the score needs: without 2 or 4 of them it is hi"),
        (made_ablation(-5.0, 0.2), "are not needed more than others: without 2 or 4 of them the s"),
        (made_ablation(0.5), "are not needed more than others"),
        (
            shorter(made_ablation(-5.0), 4),
            "without 2 of them the score is lower than without random heads with parts as long. "
            "Nothing is said of 4 of them: all other heads have parts that are together 69% as lon",
        ),
        (
            shorter(shorter(made_ablation(-5.0), 2), 4),
            "cannot be compared with others. Nothing is said of 2 or 4 of them: all other heads "
            "have parts that are together 69% or 69% as long.",
        ),
        (
            made_ablation(-5.0).assign(length=[1.0, 2.0, 1.38, 2.0, 1.38], n_mean=3.0),
            "of 2 or 4 of them: the random heads beside them have parts that are together 69%",
        ),
    ],
)
def test_a_caption_begins_with_what_was_found(finding, ablation, said):
    caption = heads_picture.caption(finding.table, ablation, 30)
    assert caption.startswith("The heads whose parts tell pairs apart")
    assert said in caption
    begun = r"70\.0 \[69\.0, 71\.0\] before; after mean ablation of so many heads 2: 60\.0 \("
    assert re.search(rf"{begun}\d+ random", caption)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_heads": []}, "give n_heads, and 6 pairs or more"),
        ({"n_heads": [7]}, "n_heads must be 6 at most, half of them"),
        ({"n_heads": [0]}, "n_heads must be a whole number of at least 1"),
        ({"n_draws": 0}, "n_draws must be a whole number of at least 1"),
        ({"k": 0}, "k must be an integer >= 1 or a fraction"),
        ({"languages": ["en", "xx"]}, "unknown language 'xx'"),
    ],
)
def test_what_cannot_be_asked_is_refused(study, change, message):
    with counted(study.lens) as work, pytest.raises(InputError, match=message):
        dl.heads(study, **{"languages": CODES, **change})
    assert work.rows == 0


# --- residuals


def test_residuals_are_differences_of_ranks(study):
    found = dl.residuals(study, CODES, k=8, n_pairs=4, n_parts=2)
    table, n = found.table, len(study.data["demo"])
    assert sorted(table["pair"]) == list(range(n))
    by_pair = table.sort_values("pair")
    ranks = {name: (rankdata(by_pair[name]) - 1) / (n - 1) for name in ("gold", "similarity")}
    expected = ranks["similarity"] - ranks["gold"]
    np.testing.assert_allclose(by_pair["residual"], expected)
    assert table["residual"].abs().is_monotonic_decreasing
    np.testing.assert_allclose(by_pair["share"], expected**2 / (expected**2).sum())
    texts = study.data["demo"].texts("en")
    assert by_pair["x"].tolist() == texts[:n]
    assert by_pair["y"].tolist() == texts[n:]
    assert (
        f"{dl.spearman(by_pair['similarity'], by_pair['gold']):.1f} on {n} pairs" in found.caption
    )


def test_the_parts_of_a_residual_push_in_its_direction(study):
    found = dl.residuals(
        study, CODES, k=8, n_pairs=4, n_parts=2, centre={"en": ["A cat.", "Rain."]}
    )
    prompts = study.prompts("demo", "prompteol", "language-specific", "en").prompts
    v = study.vectors("demo", "attn", languages=["en"])[:, 0]
    sets = dl.consensus_set(study.vectors("demo", "attn", languages=CODES), 8)
    means = pair_parts.part_means(study.lens, dl.wrap(["A cat.", "Rain."]), progress=False)
    parts = pair_parts.pair_parts(study.lens, prompts, v, sets, means, progress=False)
    np.testing.assert_allclose(
        found.table.sort_values("pair")["similarity"], parts.similarity, atol=1e-6
    )
    push = parts.added - parts.added.mean(0)
    rows = found.parts
    assert rows.groupby("pair").size().tolist() == [2] * 4
    for pair, of_pair in rows.groupby("pair", sort=False):
        residual = found.table.set_index("pair").loc[pair, "residual"]
        best = np.argsort(-push[pair] * np.sign(residual), kind="stable")[:2]
        named = [(parts.labels[i].block, parts.labels[i].head) for i in best]
        assert list(zip(of_pair["block"], of_pair["head"], strict=True)) == named
        np.testing.assert_allclose(of_pair["push"], push[pair][best], atol=1e-9)
        np.testing.assert_allclose(of_pair["push"], of_pair["added"] - of_pair["usual"])


def test_pairs_with_one_score_are_refused_before_a_pass(study):
    data = study.data["demo"]
    same = dl.Study(study.lens, replace(data, gold=np.full(len(data), 3.0)), languages=CODES)
    for question in (dl.heads, dl.residuals):
        with (
            counted(study.lens) as work,
            pytest.raises(InputError, match="pairs with the one score 3 have no order"),
        ):
            question(same, CODES)
        assert work.rows == 0


def test_a_residual_needs_three_pairs(study):
    few = dl.Study(study.lens, "demo", languages=CODES, pairs=2)
    with pytest.raises(InputError, match="2 pairs cannot be compared by rank"):
        dl.residuals(few, CODES)


def test_parts_are_held_for_one_batch_at_a_time(study, monkeypatch):
    alive, most = 0, 0

    def counting(*given):
        nonlocal alive, most
        for batch, parts in split(*given, tokens_per_batch=64):
            alive += len(batch)
            most = max(most, alive)
            yield batch, parts
            alive -= len(batch)

    split = pair_parts.split
    monkeypatch.setattr(pair_parts, "split", counting)
    dl.residuals(study, CODES, k=8, n_pairs=1)
    assert 1 <= most <= 2


@pytest.mark.parametrize(("n", "said"), [(6, "6 pairs are too few"), (60, "the 6 pairs (a tenth)")])
def test_a_caption_of_few_pairs_says_that_they_are_few(n, said):
    residual = np.linspace(0.9, 0.1, n)
    columns = {"similarity": range(n), "gold": range(n), "residual": residual}
    table = pd.DataFrame({**columns, "share": residual**2 / (residual**2).sum()})
    parts = pd.DataFrame({"pair": [0], "kind": ["head"], "block": [0], "head": [0]})
    caption = residuals.caption(table, parts)
    assert said in caption
    assert ("mostly on pairs that the model finds more alike" in caption) == (n == 60)
    assert ("a tenth" in caption) == (n == 60)


def test_names_of_parts():
    assert residuals._name(pd.Series({"kind": "head", "block": 3, "head": 1})) == "block 4 head 2"
    assert residuals._name(pd.Series({"kind": "bias", "block": 0, "head": None})) == "block 1 bias"


def test_the_sources_of_a_shortened_text_leave_the_template_whole(study):
    (prompt,) = dl.wrap(["word " * 30])
    n = len(study.lens.tokenizer(prompt)["input_ids"])
    found = heads_passes._sources(study.lens, prompt, n - 20, n)
    whole = heads_passes._sources(study.lens, prompt, n, n)
    assert found.sum().item() == n - 20
    assert found[:, 2].sum() == whole[:, 2].sum()
    assert found[:, 1].sum() == whole[:, 1].sum() - 20
    assert found[n - 21, 2] == 1
