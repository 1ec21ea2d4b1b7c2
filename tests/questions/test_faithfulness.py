"""Deletion, insertion and gradients: hand-made scores, explicit re-encoding, plain autograd."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

import dysem_lab as dl
from dysem_lab import paths
from dysem_lab.attribution import area_above, kept_words, removal_counts
from dysem_lab.encoders.dysem import DySem
from dysem_lab.errors import InputError
from dysem_lab.models.gradients import embedding_gradients, head_gradients, midpoints
from dysem_lab.models.last_token import prefixes
from dysem_lab.models.places import place
from dysem_lab.models.record import activations
from dysem_lab.models.text_tokens import text_tokens
from dysem_lab.questions import faithfulness as question
from dysem_lab.questions import word_order
from dysem_lab.questions.faithfulness_passes import (
    ANEW,
    FROZEN,
    GRADIENT,
    INTEGRATED,
    JACOBIAN,
    LEFT_OUT,
    METHODS,
    RANDOM,
    READING,
    REMOVALS,
    ROLLOUT,
    SETS,
    SUM,
    TEXT,
    Pair,
    Plan,
    Removals,
    bits,
)
from dysem_lab.questions.faithfulness_picture import DELETION, INSERTION
from dysem_lab.questions.reference import corpus_of
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.usefixtures("_one_thread")

CORPUS = ["A cat sleeps.", "Rain fell all night.", "She reads an old book.", "Two men run."]
FIRST = ["A man plays.", "The red dog barks loudly.", "Go."]
SECOND = ["Someone plays music.", "A dog makes noise.", "Stop there."]
ARCHITECTURES = ["Llama", "Gemma2"]  # without and with post-norms; both with grouped queries
PLAN = Plan(4, 3, 8, frozenset([0, 1, 2]), frozenset([0, 1]), 0)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def lens(request, tiny_folder):
    return dl.load_model(tiny_folder(request.param))


@pytest.fixture(scope="module")
def removals(lens):
    return made(lens)


def made(lens, first=FIRST, second=SECOND, plan=PLAN):
    encoder = DySem(lens, ["en"], k=0.25, setting="english")
    corpus = corpus_of(CORPUS, encoder.languages, "en")
    return Removals(encoder, first, second, corpus, plan, lambda *_: None)


@pytest.fixture(scope="module")
def pairs(removals):
    return removals.measure()


# --- curves and areas by hand


def test_a_fraction_and_its_complement_remove_all_words_together():
    for n in range(1, 30):
        fractions = [i / 5 for i in range(6)]
        counts = removal_counts(n, fractions)
        assert counts[0] == 0
        assert counts[-1] == n
        assert counts == sorted(counts)
        assert [n - count for count in counts] == counts[::-1]
        assert all(abs(c - f * n) <= 0.5 + 1e-9 for c, f in zip(counts, fractions, strict=True))


def test_words_are_removed_largest_first_and_of_equal_ones_the_first():
    kept = kept_words(np.array([0.1, 0.5, -0.2, 0.5]), [0, 1, 2, 3, 4])
    assert [bits(row) for row in kept] == ["1111", "1011", "1010", "0010", "0000"]


def test_the_area_between_curves_by_hand():
    # A triangle of height 1 over a base of 1.
    assert area_above(np.array([0.0, 1.0, 0.0]), np.zeros(3), [0, 0.5, 1]) == pytest.approx(0.5)
    assert area_above(np.zeros(3), np.array([0.0, 1.0, 0.0]), [0, 0.5, 1]) == pytest.approx(-0.5)


def additive(weights):
    """Return a pair whose similarity is the sum of the weights of the words that are left."""
    n = len(weights)
    every = {
        bits(row): [float(row @ weights), float(row @ weights)]
        for row in (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool)
    }
    scores = {method: list(weights) for method in METHODS}
    scores[ROLLOUT] = list(-weights)  # the worst order
    words = [f"w{i}" for i in range(n)]
    return Pair(words, scores, dict.fromkeys(REMOVALS, every))


def test_areas_of_an_additive_similarity_are_those_computed_by_hand():
    plan = Plan(4, 2, 1, frozenset(), frozenset(), 0)
    pair = additive(np.array([4.0, 1.0, 3.0, 2.0]))
    areas, drops = question.measured([pair], plan)
    assert (drops == 10).all()
    falling = np.array([10, 6, 3, 1, 0])  # 4, 3, 2, 1 removed in turn
    slowest = np.array([10, 9, 7, 4, 0])
    random = np.mean(
        [
            [10 - np.array([4, 1, 3, 2])[np.argsort(-scores)][:count].sum() for count in range(5)]
            for scores in plan.random_orders(pair.words)
        ],
        axis=0,
    )

    def area(values):
        return float(((values[1:] + values[:-1]) / 2).sum() / 4)

    for removal in REMOVALS:
        for sets in SETS:
            found = {
                (curve, method): areas[removal, sets, curve, method][0]
                for curve in (DELETION, INSERTION)
                for method in (SUM, ROLLOUT)
            }
            assert found[DELETION, SUM] == pytest.approx(area(random - falling))
            assert found[DELETION, ROLLOUT] == pytest.approx(area(random - slowest))
            assert found[INSERTION, SUM] == pytest.approx(area((10 - falling) - random[::-1]))
    others = plan.random_orders(pair.words)
    one, two = (
        np.array([kept @ np.array([4, 1, 3, 2]) for kept in kept_words(scores, range(5))])
        for scores in others
    )
    assert areas[TEXT, FROZEN, DELETION, RANDOM][0] == pytest.approx(area(two - one))


def test_in_an_additive_similarity_the_true_weights_win_and_their_negatives_lose():
    rng = np.random.default_rng(1)
    plan = Plan(4, 3, 1, frozenset(), frozenset(), 0)
    given = [additive(rng.random(6)) for _ in range(20)]
    table = question._table(given, plan, question.measured(given, plan))
    rows = table[(table["removal"] == TEXT) & (table["sets"] == FROZEN)]
    by = rows.set_index(["curve", "method"])
    for curve in (DELETION, INSERTION):
        assert by.loc[(curve, SUM), "low"] > 0
        assert by.loc[(curve, ROLLOUT), "high"] < 0
        assert by.loc[(curve, ROLLOUT), "ahead_low"] > 0
        assert by.loc[(curve, INTEGRATED), "ahead"] == 0
    assert by.loc[(DELETION, SUM), "rank"] == pytest.approx(1)
    assert by.loc[(DELETION, ROLLOUT), "rank"] == pytest.approx(-1)
    assert by.loc[(DELETION, SUM), "worse"] == 0
    assert by.loc[(DELETION, ROLLOUT), "worse"] == 1
    assert by.loc[(DELETION, INTEGRATED), "passes"] == 2
    assert by.loc[(DELETION, LEFT_OUT), "passes"] == 7
    said = question.caption(table)
    assert "in 0% of the pairs" in said
    assert "of 20 pairs" in said
    assert "best by deletion, surely ahead of" in said
    assert "; by insertion" not in said
    other = (table["curve"] == INSERTION) & (table["method"] == LEFT_OUT)
    led = question.caption(table.assign(area=table["area"].where(~other, 2.0)))
    assert "best by deletion, surely ahead of" in led
    assert "; by insertion leave-one-out leads." in led
    few = question.caption(table.assign(n_pairs=5))
    assert "best by deletion, though ahead of none surely" in few
    assert "is not surely another than that of integrated gradients" in few
    chance = question.caption(table.assign(low=-1.0))
    assert chance.startswith("The exact sum leads by deletion, though not surely ahead of random")
    failing = question._failing(
        question._of_pairs(given, question.measured(given, plan), ["x"] * 20, ["y"] * 20)
    )
    assert len(failing) == 0


# --- words and tokens


def test_each_word_has_the_tokens_of_its_characters(lens):
    (prompt,) = dl.wrap(['He said "no way" – twice'])
    found = text_tokens(lens, prompt)
    ids = lens.tokenizer(prompt)["input_ids"]
    assert [lens.tokenizer.decode([ids[i] for i in word]).strip() for word in found.words] == [
        *("He", "said", "'no", "way'", "–", "twice."),
    ]
    inside = lens.tokenizer.decode(ids[found.text.start : found.text.stop])
    assert inside == prompt[prompt.start : prompt.stop]


# --- gradients


def plain(lens, tiny_folder, request):
    name = request.node.callspec.params["lens"]
    folder = tiny_folder(name)
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def summed_attention(model, embeddings):
    """Return A^L of the last token by plain hooks on the untouched model, with gradients."""
    outputs, handles = [], []
    for layer in model.model.layers:
        normed = hasattr(layer, "pre_feedforward_layernorm")  # Gemma 2: a norm before adding
        module = layer.post_attention_layernorm if normed else layer.self_attn
        handles.append(module.register_forward_hook(lambda _, __, out: outputs.append(out)))
    model(inputs_embeds=embeddings)
    for handle in handles:
        handle.remove()
    return sum((out[0] if isinstance(out, tuple) else out)[:, -1] for out in outputs)


def test_gradients_on_the_way_are_those_of_autograd_on_the_untouched_model(
    lens, tiny_folder, request
):
    model = plain(lens, tiny_folder, request)
    (prompt,) = dl.wrap(["A man plays."])
    text = text_tokens(lens, prompt).text
    weights, baseline = torch.randn(2, lens.d_model, generator=torch.Generator().manual_seed(0))
    found = embedding_gradients(
        lens,
        prompt,
        text,
        place("attn.sum"),
        lambda v: (v * weights).sum(-1) ** 2,
        baseline,
        torch.tensor([0.3, 1.0]),
    )
    ids = torch.tensor([lens.tokenizer(prompt)["input_ids"]])
    whole = model.get_input_embeddings()(ids).detach()
    inside = slice(text.start, text.stop)
    torch.testing.assert_close(found.inputs, whole[0, inside])
    for point, vector, gradient in zip([0.3, 1.0], found.vectors, found.gradients, strict=True):
        moved = whole.clone()
        moved[0, inside] = baseline + point * (moved[0, inside] - baseline)
        moved = moved.requires_grad_()
        read = summed_attention(model, moved)
        ((read * weights).sum() ** 2).backward()
        torch.testing.assert_close(vector, read[0].detach(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(gradient, moved.grad[0, inside], atol=1e-3, rtol=1e-3)


def test_integrated_gradients_add_up_to_what_changes(removals):
    """Completeness: the sum over tokens is the difference of the two ends."""
    of, prompt = removals.objective(0), removals.prompts[0]
    path, _ = removals._path(prompt, of, torch.tensor([0.0, 1.0]))
    low, high = of(path.vectors)
    _, added = removals._path(prompt, of, midpoints(400))
    assert added.sum().item() == pytest.approx((high - low).item(), abs=0.02)


def test_of_a_linear_reading_the_integral_is_weight_times_difference(lens):
    """At block 0's input the vector is the embedding itself, so gradients are known."""
    (prompt,) = dl.wrap(["A man plays."])
    tokens = text_tokens(lens, prompt)
    ids = lens.tokenizer(prompt)["input_ids"]
    last = range(len(ids) - 1, len(ids))  # only the last token's embedding is read there
    weights = torch.randn(lens.d_model, generator=torch.Generator().manual_seed(2))
    baseline = torch.ones(lens.d_model)
    found = embedding_gradients(
        lens, prompt, last, place("resid_pre.0"), lambda v: v @ weights, baseline, midpoints(5)
    )
    torch.testing.assert_close(found.gradients, weights.expand(5, 1, -1).clone())
    assert tokens.text.stop < len(ids)


def test_the_jacobians_order_is_that_of_all_backward_passes(removals):
    """d backward passes a step, all pairs of tokens, and the sum over those of y."""
    i, steps = 0, removals.plan.steps
    U = removals.x.sets[i] | removals.y.sets[i]
    sides = []
    for prompt in (removals.prompts[i], removals.other_prompts[i]):
        text = text_tokens(removals.lens, prompt).text
        rows = []
        for j in range(removals.lens.d_model):
            path = embedding_gradients(
                removals.lens,
                prompt,
                text,
                removals.encoder.place,
                lambda v, j=j: v[:, j],
                removals.means.embedding,
                midpoints(steps),
            )
            rows.append(((path.inputs - removals.means.embedding) * path.gradients.mean(0)).sum(-1))
        sides.append(torch.stack(rows, 1) * U)  # [tokens, d]
    text = text_tokens(removals.lens, removals.prompts[i]).text
    found = removals._jacobian(i)[text.start :]
    y = (
        removals.y.vectors[i]
        - removals._path(removals.other_prompts[i], lambda v: v.sum(-1), torch.zeros(1))[0].vectors[
            0
        ]
    )
    torch.testing.assert_close(found.float(), sides[0] @ (y * U), atol=1e-3, rtol=1e-3)
    # Completeness makes the sum over y's tokens the change of y's vector, up to the steps.
    matrix = sides[0] @ sides[1].T
    assert np.corrcoef(matrix.sum(1).numpy(), found.numpy())[0, 1] > 0.99


def test_gradients_by_heads_are_what_small_changes_do(lens):
    prompts = dl.wrap(["A man plays.", "A dog barks."])
    (prefix,) = prefixes(lens, prompts)
    weights = torch.randn(lens.d_model, generator=torch.Generator().manual_seed(1))

    def of(vectors):
        return vectors @ weights

    where = place("attn.sum")
    z, gradients = head_gradients(lens, prefix, where, of)
    known = dl.capture(lens, prompts, "z", "each", progress=False)["z"]
    torch.testing.assert_close(z, known[prefix.rows], atol=1e-4, rtol=1e-4)
    plain = of(dl.capture(lens, prompts, "attn", progress=False)["attn"])[prefix.rows]
    for block, head in ((0, 1), (2, 3)):
        moved = z[:, block].clone()
        step = 1e-2 * torch.sign(gradients[:, block, head])
        moved[:, head] += step
        change = []
        for row, prompt in enumerate(prefix.prompts):
            edit = dl.ablate(lens, f"z.{block}", moved[row], heads=[head])
            read = dl.capture(lens, [prompt], "attn", edit=edit, progress=False)["attn"]
            change.append((of(read) - plain[row]).item())
        expected = (step * gradients[:, block, head]).sum(-1)
        assert change == pytest.approx(expected.tolist(), rel=0.15)


# --- words taken away


def test_similarities_are_those_of_the_shortened_texts(removals, pairs):
    """Every set of words that was run, encoded again as a text of its own."""
    encoder, mean = removals.encoder, removals.reference.mean.double()
    corpus = encoder.encode(CORPUS, progress=False).vectors.double()
    torch.testing.assert_close(mean, corpus.mean(0), atol=1e-5, rtol=1e-5)
    for i, (pair, other) in enumerate(zip(pairs, SECOND, strict=True)):
        y = encoder.encode([other], progress=False)
        whole = encoder.encode([FIRST[i]], progress=False)
        for kept, (frozen, anew) in pair.similarity[TEXT].items():
            words = [word for word, one in zip(pair.words, kept, strict=True) if one == "1"]
            if not words:
                continue
            x = encoder.encode([" ".join(words)], progress=False)
            for Sx, found in ((whole.sets[0], frozen), (x.sets[0], anew)):
                U = Sx | y.sets[0]
                a, b = x.vectors[0].double() - mean, y.vectors[0].double() - mean
                expected = (a[U] @ b[U]) / (a[U].norm() * b[U].norm())
                assert found == pytest.approx(expected.item(), abs=1e-4)


def test_without_any_word_the_template_stands_alone(removals, pairs):
    (prompt,) = dl.wrap(["x"])
    alone = prompt[: prompt.start] + prompt[prompt.stop :]
    v = dl.capture(removals.lens, [alone], "attn", progress=False)["attn"]
    n = len(pairs[0].words)
    found = removals._similarities(0, removals._combined([alone], v))[0]
    assert pairs[0].similarity[TEXT]["0" * n] == pytest.approx(found, abs=1e-5)


def test_hiding_words_from_the_last_token_is_what_plain_hooks_give(
    lens, removals, pairs, tiny_folder, request
):
    """Take α_t v_t out of z by hooks on W_O's input of the untouched model, and add the mean."""
    model = plain(lens, tiny_folder, request)
    i, n = 1, len(pairs[1].words)
    prompt = removals.prompts[i]
    tokens = text_tokens(lens, prompt)
    ids = torch.tensor([lens.tokenizer(prompt)["input_ids"]])
    kept = next(one for one in pairs[i].similarity[READING] if 0 < one.count("0") < n)
    hidden = [t for word, one in zip(tokens.words, kept, strict=True) if one == "0" for t in word]
    groups = lens.n_heads // lens.n_kv_heads
    share, handles = len(hidden) / len(tokens.text), []

    def hide(block, layer):
        values = []

        def see(_, __, out):
            shape = out.shape[1], lens.n_kv_heads, lens.d_head
            values.append(out[0].view(shape).repeat_interleave(groups, 1))

        def change(_, arguments):
            # The pattern of the pass as it is, from queries that earlier blocks have changed.
            pattern = layer.self_attn.pattern[0, :, -1]  # [head, key]
            z = arguments[0].clone()
            read = torch.einsum("ht,the->he", pattern[:, hidden], values[0][hidden])
            z[0, -1] += (share * removals.means.reading[block] - read).flatten()
            return (z,)

        attention = layer.self_attn
        handles.append(attention.v_proj.register_forward_hook(see))
        handles.append(attention.o_proj.register_forward_pre_hook(change))

    from transformers.models.gemma2 import modeling_gemma2
    from transformers.models.llama import modeling_llama

    module = modeling_gemma2 if "Gemma" in type(model).__name__ else modeling_llama
    eager = module.eager_attention_forward

    def remembering(attention, *arguments, **options):
        out, weights = eager(attention, *arguments, **options)
        attention.pattern = weights
        return out, weights

    with pytest.MonkeyPatch.context() as patched, torch.no_grad():
        patched.setattr(module, "eager_attention_forward", remembering)
        for block, layer in enumerate(model.model.layers):
            hide(block, layer)
        read = summed_attention(model, model.get_input_embeddings()(ids))
    for handle in handles:
        handle.remove()
    expected = removals._similarities(i, removals._combined([prompt], read))[0]
    assert pairs[i].similarity[READING][kept] == pytest.approx(expected, abs=1e-3)
    whole = "1" * n
    assert pairs[i].similarity[READING][whole] == pytest.approx(
        pairs[i].similarity[TEXT][whole], abs=1e-4
    )


def test_leave_one_out_is_what_the_similarity_loses(pairs):
    for pair in pairs:
        n = len(pair.words)
        known = pair.similarity[TEXT]
        for word, score in enumerate(pair.scores[LEFT_OUT]):
            without = "1" * word + "0" + "1" * (n - word - 1)
            assert score == pytest.approx(known["1" * n][0] - known[without][0])


def test_the_exact_sum_is_that_of_explain(removals, pairs):
    explained = dl.explain(
        removals.encoder,
        " ".join(pairs[1].words),
        SECOND[1],
        "token",
        centre=CORPUS,
        progress=False,
    )
    tokens = explained.table.set_index("position")["contribution"]
    words = text_tokens(removals.lens, removals.prompts[1]).words
    expected = [tokens.loc[word].sum() for word in words]
    assert pairs[1].scores[SUM] == pytest.approx(expected, abs=1e-6)


def test_rollout_is_the_product_of_the_mixed_patterns(removals, pairs):
    lens, prompt = removals.lens, removals.prompts[1]
    points = [f"blocks.{block}.attn.hook_pattern" for block in range(lens.n_layers)]
    seen = activations(lens, [prompt], points).seen
    product = torch.eye(len(lens.tokenizer(prompt)["input_ids"]))
    for point in points:
        mixed = (seen[point][0].mean(0) + torch.eye(len(product))) / 2
        product = mixed @ product
    words = text_tokens(lens, prompt).words
    expected = [product[-1, word].sum().item() for word in words]
    assert pairs[1].scores[ROLLOUT] == pytest.approx(expected, rel=1e-3)


def test_an_interrupted_run_goes_on(lens, pairs, monkeypatch):
    again = made(lens)
    monkeypatch.setattr(again, "_encoded", None)  # a pass would raise
    monkeypatch.setattr(again, "_unread", None)
    monkeypatch.setattr(again, "_parts", None)
    found = again.measure()
    assert [pair.scores.keys() for pair in found] == [pair.scores.keys() for pair in pairs]
    assert json.dumps([vars(pair) for pair in found]) == json.dumps([vars(p) for p in pairs])
    assert all(set(METHODS) - set(pair.scores) <= {JACOBIAN} for pair in found)
    assert INTEGRATED in found[2].scores
    assert JACOBIAN not in found[2].scores


# --- the order of words in an explanation


@pytest.fixture
def measured_order(lens, monkeypatch):
    """Return a function: method → what is known is that its order leads for the tiny model."""

    def lead(winner):
        areas = {"exact sum": 0.1, "leave-one-out": 0.1, winner: 0.3}
        rows = [
            {
                **{"model": "tiny", "fingerprint": lens.fingerprint, "data": "some pairs"},
                **{"component": "attn", "template": "prompteol", "language": "en", "k": 0.25},
                **{"n_pairs": 7, "method": method, "area": area, "low": 0.0, "high": 0.4},
                **{"ahead": 0.1 - area, "ahead_low": -0.3, "ahead_high": -0.1},
            }
            for method, area in areas.items()
        ]
        monkeypatch.setattr(word_order, "_table", lambda: pd.DataFrame(rows))

    return lead


def explained(removals):
    x = " ".join(removals.words[1])
    return dl.explain(removals.encoder, x, SECOND[1], "token", centre=CORPUS, progress=False)


def test_words_are_listed_in_the_order_that_won(removals, pairs, measured_order):
    measured_order("leave-one-out")
    found = explained(removals)
    left_out = np.array(pairs[1].scores[LEFT_OUT])
    order = np.argsort(-left_out, kind="stable")
    assert found.words["position"].tolist() == order.tolist()
    assert found.words["left_out"].to_numpy() == pytest.approx(left_out[order], abs=1e-4)
    sums = np.array(pairs[1].scores[SUM])
    assert found.words["contribution"].to_numpy() == pytest.approx(sums[order], abs=1e-6)
    assert found.words["word"].tolist() == [pairs[1].words[i] for i in order]
    assert (
        "(A^L, en, PromptEOL, k 0.25; some pairs, 7 pairs, notebook 28): leave-one-out leads with "
        "0.30" in found.caption
    )
    assert "0.20 [0.10, 0.30] behind" in found.caption
    assert "the similarity loses without" in found.above
    measured_order("exact sum")
    again = explained(removals)
    assert again.words["position"].tolist() == np.argsort(-sums, kind="stable").tolist()
    assert "left_out" not in again.words
    assert "the exact sum leads, with 0.30 [0.00, 0.40]." in again.caption
    assert again.similarity == found.similarity  # the exact sum stays what it is
    assert again.table.equals(found.table)


def test_of_a_model_that_was_not_tested_this_is_said(removals):
    found = explained(removals)
    assert found.caption.endswith("dl.faithfulness tests (notebook 28).")
    assert "left_out" not in found.words
    assert found.words["contribution"].is_monotonic_decreasing


def test_what_was_measured_with_one_setting_is_not_said_of_another(lens, measured_order):
    measured_order("leave-one-out")
    corpus = {"en": CORPUS, "fr": CORPUS}
    given = {"fr": ["Un homme joue.", "Une femme chante."]}
    for encoder in (
        DySem(lens, ["en"], k=0.25, setting="english", component="resid"),
        DySem(lens, ["en"], k=0.25, setting="english", template="knowledge"),
        DySem(lens, ["fr"], k=0.25, setting="english"),
        dl.PromptEncoder(lens),
        dl.PromptEncoder(lens, output_layer="attn.1"),  # without sets
    ):
        texts = (encoder, "A man plays.", "A woman sings.")
        renderings = given if "fr" in (encoder.languages or ()) else None
        found = dl.explain(*texts, "token", None, corpus, renderings, progress=False)
        assert found.caption.endswith("dl.faithfulness tests (notebook 28).")
        assert "left_out" not in found.words
    encoder = DySem(lens, ["en"], k=0.25, setting="english")
    texts = (encoder, "A man plays.", "A woman sings.", "It rains.")
    found = dl.explain_difference(*texts, "token", corpus, progress=False)
    assert found.caption.endswith("of a similarity, not of a difference.")
    assert "left_out" not in found.words


def test_a_word_of_one_language_has_no_counterpart_in_another(lens):
    encoder = DySem(lens, ["en", "fr"], k=0.5, setting="english")
    corpus = {"en": CORPUS, "fr": [text.upper() for text in CORPUS]}
    given = {"fr": ["Un homme.", "Une femme."]}
    found = dl.explain(
        encoder, "A man.", "A woman.", "token", centre=corpus, renderings=given, progress=False
    )
    assert found.words is None
    assert "notebook 28" not in found.caption


def test_what_ships_is_what_the_committed_figures_say():
    shipped = pd.read_csv(paths.package_file("tested_orders.csv"))
    figures = REPOSITORY / "figures"
    for model, rows in shipped.groupby("model"):
        (record,) = figures.glob(f"faithfulness_{model}_*.json")
        said = json.loads(record.read_text(encoding="utf-8"))
        assert set(rows["fingerprint"]) == {said["model"]["fingerprint"]}
        assert [*rows["template"].unique()] == said["templates"]
        assert [*rows["language"].unique()] == said["data"][0]["languages"]
        for name in ("component", "k"):
            assert [*rows[name].unique()] == [said["parameters"][name]]
        table = pd.read_csv(record.with_suffix(".csv"))
        kind = "removal == 'text' and sets == 'frozen' and curve == 'deletion'"
        table = table.query(kind).set_index("method").drop(index=RANDOM)
        columns = ["area", "low", "high", "ahead", "ahead_low", "ahead_high"]
        found = rows.set_index("method")
        np.testing.assert_allclose(found[columns], table.loc[found.index, columns], atol=1e-9)
        assert found["n_pairs"].to_dict() == table["n_pairs"].to_dict()


# --- the questions


@pytest.fixture(scope="module")
def study(tiny_folder):
    data = dl.load_data("demo").head(5)
    return dl.Study(tiny_folder("Llama"), data, settings="english")


def test_a_finding_of_faithfulness(study, tmp_path):
    found = dl.faithfulness(study, centre=CORPUS, integrated=3, jacobian=1, steps=2)
    table = found.table
    assert len(table) == len(REMOVALS) * len(SETS) * 2 * (len(METHODS) + 1)
    by = table.set_index(["removal", "sets", "curve", "method"])
    assert by.loc[(TEXT, FROZEN, DELETION, SUM), "n_pairs"] == 5
    assert by.loc[(TEXT, ANEW, DELETION, INTEGRATED), "n_pairs"] == 3
    assert by.loc[(READING, ANEW, INSERTION, JACOBIAN), "n_pairs"] == 1
    assert by.loc[(TEXT, FROZEN, DELETION, GRADIENT), "passes"] == 2
    own = by.loc[(TEXT, FROZEN, DELETION, SUM)]
    of_pairs = found.pairs[found.pairs["method"] == SUM]
    assert own["area"] == pytest.approx(of_pairs["area"].mean() / of_pairs["drop"].mean())
    assert own["worse"] == (of_pairs["area"] < 0).mean()
    first = table.query("removal == 'text' and sets == 'frozen' and curve == 'deletion'")
    first = first[(first["method"] != RANDOM) & (first["n_pairs"] == 5)]  # those of all pairs
    winner = first.set_index("method")["area"].idxmax()
    assert found.caption.lower().startswith(
        {SUM: "the exact", LEFT_OUT: "leave", ROLLOUT: "attention r", JACOBIAN: "the int"}.get(
            winner, winner
        )[:5]
    )
    assert f"{own['area']:.2f} [{own['low']:.2f}, {own['high']:.2f}]" in found.caption
    assert (found.failing["area"] < 0).all()
    assert found.figure.layout.title.text.startswith("Which order of words")
    assert len(found.curves) == len(REMOVALS) * len(SETS) * 2 * (len(METHODS) + 1) * 5


def test_a_finding_of_head_patching_is_exact_where_nothing_comes_after(study):
    """In the last block A^L is what heads write: the estimates are what the cosine's slope says."""
    found = dl.head_patching(study, centre=CORPUS)
    assert found.table["estimate"].tolist() == ["gradient patching", "exact sum"]
    assert (found.table["n_pairs"] == 5).all()
    assert (found.table["n_heads"] == study.lens.n_layers * study.lens.n_heads).all()
    assert found.table["r"].between(-1, 1).all()
    assert found.table.set_index("estimate").loc["gradient patching", "r"] > 0.5
    again = dl.head_patching(study, centre=CORPUS)
    assert again.table.equals(found.table)
    block, head = 1, 2
    encoder = DySem(study.lens, ["en"], k=0.25, setting="english")
    mean = encoder.encode(CORPUS, progress=False).vectors.double().mean(0)
    z = dl.capture(study.lens, dl.wrap(CORPUS), "z", "each", progress=False)["z"].mean(0)
    edit = dl.ablate(study.lens, f"z.{block}", z[block], heads=[head])
    first, second = (
        study.data["demo"].sentences["en"]
        if "demo" in study.data
        else next(iter(study.data.values())).sentences["en"]
    )
    changes = []
    for one, other in zip(first, second, strict=True):
        x, y = encoder.encode([one], progress=False), encoder.encode([other], progress=False)
        U, b = (x.sets | y.sets)[0], y.vectors[0].double() - mean
        after = dl.capture(study.lens, dl.wrap([one]), "attn", edit=edit, progress=False)["attn"][0]
        cosines = [
            ((v - mean)[U] @ b[U] / ((v - mean)[U].norm() * b[U].norm())).item()
            for v in (after.double(), x.vectors[0].double())
        ]
        changes.append(cosines[0] - cosines[1])
    row = found.heads[(found.heads["block"] == block) & (found.heads["head"] == head)]
    assert row["ablation"].item() == pytest.approx(np.mean(changes), abs=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"centre": None}, "give centre a corpus"),
        ({"n_random": 1}, "n_random"),
        ({"steps": 0}, "steps"),
        ({"n_points": 1}, "n_points"),
        ({"component": "ffn"}, "token"),
    ],
)
def test_what_cannot_be_is_said(study, options, message):
    with pytest.raises(InputError, match=message):
        dl.faithfulness(study, **{"centre": CORPUS, "integrated": 0, "steps": 1, **options})


def test_heads_need_a_corpus_too(study):
    with pytest.raises(InputError, match="give centre a corpus"):
        dl.head_patching(study, centre=None)
