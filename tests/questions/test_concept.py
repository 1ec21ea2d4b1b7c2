"""Does the consensus decode to a concept? Against plain unembedding by PyTorch, and by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

import dysem_lab as dl
from dysem_lab.errors import DysemLabError
from dysem_lab.evaluate import holm, mean_with_interval
from dysem_lab.models.capture import capture
from dysem_lab.models.loading import load_model
from dysem_lab.models.parts import split
from dysem_lab.models.places import Place
from dysem_lab.models.readout import random_directions, read_out
from dysem_lab.questions import concept_words, saving
from dysem_lab.questions.causal_passes import halves
from dysem_lab.questions.concept import concept, table
from dysem_lab.questions.concept_passes import Kind, Read, Reading
from dysem_lab.questions.concept_picture import (
    DIFFERENCE,
    DIMENSION,
    DIRECTIONS,
    EACH,
    HEAD,
    MEAN,
    OFF,
    ON,
    SETS,
    TEXT,
    WHOLE,
    Head,
    caption,
    figure,
)
from dysem_lab.questions.concept_words import Words, forms_of, words_of
from dysem_lab.questions.random_sets import draw_sets

CODES = ["en", "fr", "zh"]
TOP = 3
pytestmark = pytest.mark.usefixtures("_one_thread")


@pytest.fixture(scope="module")
def study(tiny_folder):
    return dl.Study(
        tiny_folder("Llama"), "demo", languages=CODES, pairs=8, settings="language-specific"
    )


def unembedded(model, vectors):
    with torch.no_grad():
        return model.lm_head(model.model.norm(vectors)).log_softmax(-1)


@pytest.fixture
def vocabulary(monkeypatch, study):
    """Let each token stand for a word of the texts: those of the tiny model are single bytes."""
    task = next(iter(study.data))
    words = [word for code in CODES for text in study.texts(task, code) for word in words_of(text)]
    known = sorted(word for word in set(words) if len(word) > 3)
    chosen = {token: known[(7 * token) % len(known)] for token in range(1000)}
    monkeypatch.setattr(
        concept_words, "token_texts", lambda lens, ids: [f" {chosen[i].upper()}." for i in ids]
    )
    return chosen


def words_by_text(study):
    """Return, of each half, the forms of each text in each language that no other text has."""
    task = next(iter(study.data))
    both = halves(study, [0], CODES)[0]
    forms = [
        {
            code: [
                forms_of(study.texts(task, code, half.pairs.tolist())[i], code) for i in half.first
            ]
            for code in CODES
        }
        for half in both
    ]
    every = {code: [of for half in forms for of in half[code]] for code in CODES}
    assert len(every["en"]) < 40  # 5 % of the texts is one
    return [
        {
            code: [
                {form for form in of if sum(form in one for one in every[code]) == 1}
                for of in column
            ]
            for code, column in half.items()
        }
        for half in forms
    ]


# --- words


def test_words_and_what_counts_as_one():
    assert words_of("Ein „Kühler“ Tag, don\u2019t!") == ["ein", "kühler", "tag", "don", "t"]
    assert words_of("घर में") == ["घर", "में"]
    assert forms_of("A guitar, ox", "en") == {"guit", "guita", "guitar"}
    assert forms_of("घर", "hi") == {"घर"}
    assert forms_of("고양이가", "ko") == {"고양", "고양이", "고양이가"}
    assert forms_of("الرجل", "ar") == {"الرج", "الرجل", "رجل"}
    assert forms_of("猫が上。", "zh") == {"猫", "猫が", "猫が上", "が上", "上"}


def test_a_hit_is_a_rare_word_of_the_text(monkeypatch, tiny_lens):
    said = {0: " Dogs", 1: "dog", 2: " the", 3: "chie", 4: "x y", 5: "⟨E7⟩", 6: "chien!"}
    monkeypatch.setattr(concept_words, "token_texts", lambda lens, ids: [said[i] for i in ids])
    texts = {"en": ["The dogs.", "The cats.", "The bird."], "fr": ["Le chien.", "Un.", "Deux."]}
    words = Words(tiny_lens, texts)
    ids = torch.tensor([[0, 2], [2, 4], [3, 5]])
    # "the" is in all three texts; no text but the first has a word for dogs.
    assert words.hits(ids, [0, 1, 2]).tolist() == [1, 0, 0]
    assert words.hits(ids, [1, 0, 0]).tolist() == [0, 0, 1]
    assert words.hits(ids, [0, 0, 0], "fr").tolist() == [0, 0, 1]
    assert words.hits(torch.tensor([[[1, 2], [6, 2]]]), [0]).tolist() == [[0, 1]]


# --- what is read


@pytest.mark.parametrize("architecture", ["Llama", "Gemma2"])
def test_a_read_out_is_the_unembedding_of_the_plain_llama(tiny_folder, architecture):
    lens = load_model(tiny_folder(architecture))
    model = AutoModelForCausalLM.from_pretrained(tiny_folder(architecture)).eval()
    torch.manual_seed(0)
    vectors, asked = torch.randn(300, lens.d_model), torch.randint(0, 100, (300, 2))
    found, expected = read_out(lens, vectors, 4, asked), unembedded(model, vectors)
    best = expected.topk(4)
    assert torch.equal(found.ids, best.indices)
    assert torch.allclose(found.log_p, best.values, atol=1e-4)
    assert torch.allclose(found.asked, expected.gather(1, asked), atol=1e-4)
    order = expected.argsort(dim=1, descending=True).argsort(dim=1)
    assert torch.equal(found.rank, order.gather(1, asked) + 1)
    assert read_out(lens, vectors, 1).rank.shape == (300, 0)


def test_random_directions_have_the_length_that_the_norm_takes_away(tiny_lens):
    short, long = (random_directions(tiny_lens, 20, norm, 3) for norm in (2.0, 50.0))
    assert torch.allclose(short.norm(dim=1), torch.full((20,), 2.0))
    assert torch.allclose(25 * short, long, rtol=1e-4)
    assert torch.equal(read_out(tiny_lens, short, 3).ids, read_out(tiny_lens, long, 3).ids)


def test_every_measure_is_that_of_the_plain_llama(study, plain_llama, vocabulary):
    """Parts, differences, words, agreement: each by a loop over texts and languages."""
    reading = Reading(study, TOP, 0, lambda: None)
    found = reading.component("attn", 0.5, 4, 2)
    half = halves(study, [0], CODES)[0][1]
    n, m = len(half.first), len(CODES)
    s = half.stream(study.n_layers - 1, CODES, "attn")
    h = half.stream(study.n_layers - 1, CODES)
    answers = unembedded(plain_llama, h).argmax(-1)
    assert torch.equal(reading.answers, answers)
    S = dl.consensus_set(s, 0.5)
    other, minus = [(i + n // 3) % n for i in range(n)], [(i + n // 4) % n for i in range(n)]
    random = [draw_sets(S.sum(-1), S.shape[-1], seed) for seed in (0, 1)]
    sets = {ON: [S], OFF: [~S], WHOLE: [torch.ones_like(S)], SETS: random}
    forms = words_by_text(study)[1]

    def is_word(token, i, codes):
        return any(vocabulary[token] in forms[code][i] for code in codes)

    for vector in (TEXT, DIFFERENCE):
        v = s if vector == TEXT else s - s[minus]
        for part, masks in sets.items():
            read = found[Kind("attn", vector, part)]
            assert (read.n_draws, read.n_dims) == (
                len(masks),
                pytest.approx(float(torch.stack(masks).sum(-1).float().mean())),
            )
            log_p = torch.stack(
                [unembedded(plain_llama, v * mask[:, None]) for mask in masks]
            )  # [draws, n, m, tokens]
            of_mean = torch.stack(
                [unembedded(plain_llama, v.mean(1) * mask) for mask in masks]
            )  # [draws, n, tokens]
            for i in range(n):
                theirs = answers[other[i]]
                for j, code in enumerate(CODES):
                    own = log_p[:, i, j, answers[i, j]]
                    assert read.values["log_p"][i, j] == pytest.approx(own.mean().item(), abs=1e-4)
                    ranks = 1 + (log_p[:, i, j] > own[:, None]).sum(-1)
                    assert read.values["rank"][i, j] == ranks.float().mean()
                    tops = log_p[:, i, j].topk(TOP).indices.tolist()
                    for name, at, codes in (
                        ("words", i, CODES),
                        ("words_own", i, [code]),
                        ("words_other", other[i], CODES),
                    ):
                        hits = [any(is_word(t, at, codes) for t in top) for top in tops]
                        assert read.values[name][i, j] == np.mean(hits)
                    if answers[i, j] != theirs[j]:
                        gap = (own - log_p[:, i, j, theirs[j]]).mean().item()
                        assert read.values["margin"][i, j] == pytest.approx(gap, abs=1e-4)
                    else:
                        assert read.values["margin"][i, j].isnan()
                    tokens = log_p.topk(TOP).indices
                    for name, at in (("agreement", i), ("agreement_other", other[i])):
                        shared = [
                            len({*draw[i, j].tolist()} & {*draw[at, k].tolist()}) / TOP
                            for draw in tokens
                            for k in range(m)
                            if k != j
                        ]
                        assert read.values[name][i, j] == pytest.approx(np.mean(shared))
                own = of_mean[:, i, answers[i]]
                assert read.values["log_p"][i, m] == pytest.approx(own.mean().item(), abs=1e-4)
                assert torch.equal(read.ids[i], of_mean[0, i].topk(TOP).indices)


def test_one_dimension_is_the_most_unusual_of_the_set(study, plain_llama, vocabulary):
    reading = Reading(study, TOP, 0, lambda: None)
    read = reading.component("resid", 0.5, 4, 1)[Kind("resid", DIMENSION, ON)]
    choosing, half = halves(study, [0], CODES)[0]
    s, known = (of.stream(study.n_layers - 1, CODES) for of in (half, choosing))
    S = dl.consensus_set(s, 0.5)
    for i in range(len(s)):
        unusual = (s[i].mean(0) - known.mean(1).mean(0)) / known.mean(1).std(0)
        j = max(S[i].nonzero()[:, 0].tolist(), key=lambda j: float(unusual[j]))
        alone = torch.zeros(s.shape[-1])
        alone[j] = s[i, :, j].mean()
        expected = unembedded(plain_llama, alone[None])[0].topk(TOP).indices
        assert torch.equal(read.ids[i], expected)


def test_random_directions_are_the_same_for_every_text(study, plain_llama, vocabulary):
    reading = Reading(study, TOP, 0, lambda: None)
    read = reading.component("attn", 0.5, 5, 1)[Kind("attn", DIRECTIONS, WHOLE)]
    directions = random_directions(study.lens, 5, 1.0, 0)
    log_p = unembedded(plain_llama, directions)
    for i, answers in enumerate(reading.answers):
        for j, answer in enumerate(answers):
            assert read.values["log_p"][i, j] == pytest.approx(
                log_p[:, answer].mean().item(), abs=1e-4
            )
    tops = [{*row} for row in log_p.topk(TOP).indices.tolist()]
    shared = [len(a & b) / TOP for a in tops for b in tops if a is not b]
    assert read.values["agreement"][0, 0] == pytest.approx(np.mean(shared))


def test_the_head_is_the_best_one_of_the_other_half(study, plain_llama, vocabulary):
    reading = Reading(study, TOP, 0, lambda: None)
    chosen, found = reading.head()
    choosing, half = halves(study, [0], CODES)[0]
    forms, counts = (
        [set().union(*of) for of in zip(*words_by_text(study)[0].values(), strict=True)],
        {},
    )
    n = len(forms)
    for rows, parts in split(study.lens, choosing.prompts("en"), Place("attn"), "head"):
        tops = unembedded(plain_llama, parts.vectors).topk(TOP).indices
        for i, of_text in zip(rows, tops, strict=True):
            for label, top in zip(parts.labels, of_text.tolist(), strict=True):
                words = [vocabulary[token] for token in top]
                own, other = (
                    any(word in forms[at] for word in words) for at in (i, (i + n // 3) % n)
                )
                at = Head(label.block, label.head)
                counts[at] = counts.get(at, 0) + own - other
    assert counts[chosen] == max(counts.values())
    ((_, parts),) = split(study.lens, half.prompts("fr")[:1], Place("attn"), "head")
    (at,) = (i for i, of in enumerate(parts.labels) if (of.block, of.head) == chosen)
    log_p = unembedded(plain_llama, parts.vectors[0, at])[reading.answers[0, 1]].item()
    read = found[Kind(HEAD, TEXT, WHOLE)]
    assert read.values["log_p"][0, 1] == pytest.approx(log_p, abs=1e-4)


def test_a_text_without_a_consensus_has_no_part(study, monkeypatch, vocabulary):
    from dysem_lab.questions import concept_passes

    whole = concept_passes.consensus_set

    def none_of_the_first(vectors, k):
        sets = whole(vectors, k)
        sets[0] = False
        return sets

    monkeypatch.setattr(concept_passes, "consensus_set", none_of_the_first)
    found = Reading(study, TOP, 0, lambda: None).component("attn", 0.5, 2, 1)
    for kind, read in found.items():
        empty = kind.part in (ON, SETS)
        assert read.values["words"][0].isnan().all() == empty
        assert not read.values["words"][1:].isnan().any()


# --- from what was read to the table


def read_of(words, other, own=None):
    values = {"words": words, "words_other": other, "words_own": words if own is None else own}
    names = ("log_p", "rank", "margin", "agreement", "agreement_other")
    values |= {name: torch.zeros_like(words) for name in names}
    return Read(values, 4.0, 1, torch.zeros(len(words), TOP, dtype=torch.long))


def test_the_table_is_that_of_its_texts():
    torch.manual_seed(0)
    on, off, other = (torch.randint(0, 2, (6, 3)).float() for _ in range(3))
    found = {
        Kind("attn", TEXT, ON): read_of(on, other),
        Kind("attn", TEXT, OFF): read_of(off, other),
    }
    unit = np.array([0, 0, 1, 1, 2, 2])  # texts of three pairs
    scores = table(found, ["en", "fr"], unit, seed=1)
    assert scores["language"].tolist() == ["en", "fr", EACH, MEAN] * 2
    at = scores.set_index(["part", "language"])
    assert at.loc[(ON, "fr"), "words"] == on[:, 1].mean()
    assert at.loc[(ON, EACH), "words"] == pytest.approx(on[:, :2].mean().item())
    gap = (on - off)[:, 2].double().numpy().reshape(3, 2).mean(1)
    expected = mean_with_interval(gap, seed=1)
    row = at.loc[(OFF, MEAN)]
    assert row["difference"] == pytest.approx(expected["mean"])
    assert row["difference_low"] == pytest.approx(expected["low"])
    assert row["difference_p"] == expected["p"]
    assert np.isnan(at.loc[(ON, MEAN), "difference"])
    assert at.loc[(OFF, MEAN), "specific"] == pytest.approx((off - other)[:, 2].mean().item())
    assert at.loc[(OFF, ["en", "fr"]), "specific_p"].isna().all()
    tests = scores[["specific_p", "difference_p"]].to_numpy().ravel()
    corrected = scores[["specific_holm", "difference_holm"]].to_numpy().ravel()
    assert np.allclose(corrected, holm(tests), equal_nan=True)
    assert np.isfinite(corrected).sum() == 6


@pytest.fixture(scope="module")
def finding(study):
    return concept(study, ("attn", "resid"), top=TOP, n_random=3, n_sets=2, n_examples=1)


def test_the_finding_says_what_it_was_measured_on(finding, study, tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "find_browser", lambda: None)  # a PNG is of no matter here
    rows = finding.table
    kinds = len(rows.drop_duplicates(["component", "vector", "part"]))
    assert kinds == 2 * (2 * 4 + 2) + 2
    assert len(rows) == kinds * (len(CODES) + 2)
    whole = rows.query("component == 'resid' and vector == 'text' and part == 'whole'")
    single = whole[whole["language"].isin(CODES)]
    assert (single["rank"] == 1).all()  # the model's own prediction
    record = finding.facts.record()
    assert record["languages"] == CODES
    assert record["parameters"]["top"] == TOP
    assert set(record["texts"]) == {"choosing", "reporting"}
    assert record["examples"]
    for path in finding.save(tmp_path).values():
        assert path.stat().st_size
    examples = finding.examples
    assert {*examples["part"]} == {ON, OFF, WHOLE}
    assert examples["tokens"].map(len).eq(min(6, TOP)).all()
    assert examples.groupby("text")["answer"].nunique().eq(1).all()


def test_the_caption_answers_as_the_table_does(finding):
    rows, head = finding.table, Head(1, 2)
    said = caption(rows, "a model", TOP, head)
    assert said.startswith(
        "On a model the consensus of 3 languages does not decode to a concept, on A^L or on h^L:"
    )
    assert "Block 2 head 3" in said
    on = (rows["vector"] == TEXT) & (rows["part"] == ON) & (rows["language"] == MEAN)
    sure = {"words": 0.25, "specific": 0.2, "specific_low": 0.1, "specific_holm": 0.01}
    rows = rows.assign(**{name: rows[name].mask(on, value) for name, value in sure.items()})
    said = caption(rows, "a model", TOP, head)
    assert "decodes to a word of the text in 25% of the texts and to none in 75%" in said
    assert "about as often as any other part of the vector" in said
    for part, sign in ((SETS, 1), (OFF, -1)):
        of = (rows["vector"] == TEXT) & (rows["part"] == part) & (rows["language"] == MEAN)
        compared = {"difference_low": sign * 0.1 - 0.05, "difference_high": sign * 0.1 + 0.05}
        compared["difference_holm"] = 0.01
        rows = rows.assign(
            **{name: rows[name].mask(of, of_row) for name, of_row in compared.items()}
        )
    said = caption(rows, "a model", TOP, head)
    assert "more often than random sets of its size, less often than what is left" in said


def test_the_figure_has_a_line_for_each_part_and_the_examples(finding):
    drawn = figure(finding.table, finding.examples, "facts")
    assert len(drawn.layout.yaxis.ticktext) == 12
    (shown,) = (trace for trace in drawn.data if trace.type == "table")
    assert len(shown.cells["values"][0]) == len(finding.examples)
    assert any(cell.startswith("the model says") for cell in shown.cells["values"][0])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"components": "final"}, "unknown component 'final'"),
        ({"components": []}, "6 pairs or more in 2 languages"),
        ({"k": 0}, "k must be"),
        ({"top": 0}, "top must be"),
        ({"top": 10_000}, "top must be between 1 and"),
        ({"n_random": 1}, "n_random must be a whole number of at least 2"),
        ({"n_sets": 0}, "n_sets must be"),
        ({"n_examples": -1}, "n_examples must be"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_what_makes_no_sense_is_refused(study, asked, said):
    with pytest.raises(DysemLabError, match=said):
        concept(study, **asked)


def test_one_language_and_few_pairs_are_refused(tiny_folder):
    for codes, pairs in ((["en"], 8), (CODES, 5)):
        few = dl.Study(
            tiny_folder("Llama"), "demo", languages=codes, pairs=pairs, settings="english"
        )
        with pytest.raises(DysemLabError, match=f"of {pairs} pairs in {'/'.join(codes)}"):
            concept(few)


def test_the_logit_lens_of_prompts_is_the_read_out_of_their_streams(tiny_lens):
    prompts = dl.wrap(["A dog.", "Rain."])
    stream = capture(tiny_lens, prompts, "resid", "each", progress=False)["resid"]
    found = dl.logit_lens(tiny_lens, prompts, top=2)
    expected = read_out(tiny_lens, stream.flatten(0, 1), 2)
    assert found["id"].tolist() == expected.ids.flatten().tolist()
    assert isinstance(found, pd.DataFrame)
    assert found["layer"].tolist() == [0, 0, 1, 1, 2, 2] * 2
