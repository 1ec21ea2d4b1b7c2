"""The audit: controls against loops, its words on made-up vectors, and on a tiny model."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from typer.testing import CliRunner

import dysem_lab as dl
from dysem_lab.cli import cli
from dysem_lab.errors import InputError, MissingTranslationError
from dysem_lab.evaluate import holm, paired_difference, score
from dysem_lab.models.store import VectorStore
from dysem_lab.questions import audit, floors
from dysem_lab.questions.controls import (
    CONTROLS,
    GROUPS,
    Vectors,
    choices_of_sets,
    coordinates,
    dysem,
    methods,
    parts,
    transforms,
    views,
    without_some_words,
)
from dysem_lab.questions.verdict import caption, remains, verdict

pytestmark = pytest.mark.usefixtures("_one_thread")
LANGUAGES = ["en", "ja", "ru"]


def of(x):
    """Return vectors [n, m, d] whose first language is English."""
    x = torch.from_numpy(np.asarray(x)).float()
    return Vectors(x, x[:, 0])


def made_up_audit(scored, fit, gold, k, n_draws=3):
    prompts = scored.english[:, None]
    rows = audit._rows(scored, fit, k, range(n_draws), None, prompts)
    return audit.table(rows, np.asarray(gold))


def chance(n_pairs=150, d_model=24, m=3):
    """Return vectors and ratings that have nothing to do with each other."""
    rng = np.random.default_rng(0)
    x, fit = rng.normal(size=(2 * n_pairs, m, d_model)), rng.normal(size=(80, m, d_model))
    return of(x), of(fit), rng.normal(size=n_pairs)


def averaged(n_pairs=700, d_model=96, m=3):
    """Return vectors whose meaning lies in no coordinates, and whose noise translations average."""
    rng = np.random.default_rng(1)
    shared, first, second = rng.normal(size=(3, n_pairs, d_model))
    share = rng.uniform(size=(n_pairs, 1))
    texts = np.concatenate([share * shared + first, share * shared + second])
    gold = (texts[:n_pairs] * texts[n_pairs:]).sum(1)
    gold /= np.linalg.norm(texts[:n_pairs], axis=1) * np.linalg.norm(texts[n_pairs:], axis=1)
    noise = rng.normal(size=(2 * n_pairs, m, d_model))
    fit = rng.normal(size=(100, 1, d_model)) + rng.normal(size=(100, m, d_model))
    return of(texts[:, None] + 1.5 * noise), of(fit), gold


def concepts(n, d_model, size, rng):
    found = np.zeros((n, d_model))
    for row in found:
        row[rng.choice(d_model, size, replace=False)] = rng.lognormal(0, 1.2, size)
    return found


def in_coordinates(n_pairs=250, d_model=96, m=4, size=10):
    """Return vectors of which only those dimensions mean something that all languages agree on.

    A text has few concepts, each a positive value on an axis of its own. The other dimensions are
    noise: of another sign in each language, or negative in all of them.
    """
    rng = np.random.default_rng(0)
    first, other = concepts(n_pairs, d_model, size, rng), concepts(n_pairs, d_model, size, rng)
    kept = rng.uniform(size=n_pairs)[:, None] > rng.uniform(size=(n_pairs, d_model))
    second = np.where(kept, first, other)
    gold = (first * second).sum(1)
    gold /= np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)

    def rendered(meaning):
        off = meaning == 0
        negative = off & (rng.uniform(size=meaning.shape) < 0.3)
        base = np.where(negative, -2 * np.abs(rng.normal(size=meaning.shape)), meaning)
        scale = np.where(off & ~negative, 2.5, 0.05)[:, None]
        return base[:, None] + scale * rng.normal(size=(len(meaning), m, d_model))

    texts = rendered(np.concatenate([first, second]))
    return of(texts), of(rendered(concepts(200, d_model, size, rng))), gold


def test_of_vectors_without_any_effect_nothing_remains():
    table = made_up_audit(*chance(), k=6)
    page = verdict(table)
    assert remains(table) is None
    assert page.splitlines()[1].startswith("Nothing remains: these pairs show no gain")
    assert "remains beside" not in page
    assert "Nothing remains" in caption(table)


def test_no_gain_at_all_has_no_sign():
    rng = np.random.default_rng(4)
    x = np.repeat(np.abs(rng.normal(size=(80, 1, 8))), 3, axis=1)  # DySem is the plain cosine
    page = verdict(made_up_audit(of(x[:60]), of(x[60:]), rng.normal(size=30), k=8))
    assert "gains 0.0 [0.0, 0.0] over the plain cosine in English. " in page
    assert page.splitlines()[1].startswith("Nothing remains")
    assert "-0.0" not in page


def test_of_a_gain_by_averaging_nothing_remains_either():
    table = made_up_audit(*averaged(), k=48)
    page = verdict(table)
    assert remains(table) is None
    gain = table.iloc[0]["spearman"] - table.loc[table["control"] == "plain cosine", "spearman"]
    assert gain.item() > 5
    assert page.startswith(f"DySem (mean vector) gains {gain.item():.1f} [")
    assert "A random rotation changes nothing that these pairs show" in page
    assert "Averaging alone, of" in page
    assert "nothing remains beside mean o" in page
    assert page.splitlines()[-1].startswith("Nothing remains beside the strongest control")
    assert "\n" not in caption(table)


def test_of_a_gain_in_coordinates_something_remains_beside_every_control():
    table = made_up_audit(*in_coordinates(), k=10)
    best = remains(table)
    assert best is not None
    assert best["difference_high"] < 0
    assert best["p_holm"] < 0.05
    page = verdict(table)
    assert "the coordinates matter" in page
    last = page.splitlines()[-1]
    assert last.startswith(f"{-best['difference']:.1f} [{-best['difference_high']:.1f}, ")
    assert f"of the gain remains beside the strongest of 28 controls, {best['control']}" in last
    assert "othing remains" not in page
    # The same vectors after a rotation of the whole: no coordinates are left to choose.
    scored, fit, gold = in_coordinates()
    q = torch.linalg.qr(torch.randn(96, 96, generator=torch.Generator().manual_seed(5)))[0]
    turned = made_up_audit(of(scored.languages @ q), of(fit.languages @ q), gold, k=10, n_draws=2)
    assert remains(turned) is None


def test_words_are_dropped_at_their_rate_and_never_all():
    texts = ["one", "a b c d e f g h i j"] * 3000
    copies = without_some_words(texts, 3)
    assert copies == without_some_words(texts, 3) != without_some_words(texts, 4)
    assert set(copies[::2]) == {"one"}
    kept = sum(len(copy.split()) for copy in copies[1::2]) / 30000
    assert abs(kept - 0.9) < 0.01
    for copy in copies[1::2]:
        assert copy.split() == [word for word in texts[1].split() if word in copy.split()]


def test_copies_without_words_are_dysem_on_them():
    x = torch.randn(20, 3, 16, generator=torch.Generator().manual_seed(1)) + 0.3
    copies = torch.randn(20, 3, 16, generator=torch.Generator().manual_seed(2)) + 0.3
    found = {row.control: row for row in views(of(x.numpy()), 5, range(1), None, copies)}
    alone = dysem(Vectors(copies, x[:, 0]), 5, "mean")
    torch.testing.assert_close(found["dropped words"].draws[0][0], alone[0])
    one = {row.control: row for row in views(of(x[:, :1].numpy()), 5, range(1), None, None)}
    assert one["dropped words"].note == one["paraphrases"].note == "there is one language"


def test_holms_correction_by_hand():
    p = np.array([0.01, 0.04, np.nan, 0.03, 0.005])
    np.testing.assert_allclose(holm(p), [0.03, 0.06, np.nan, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.4, 0.9])), [0.8, 0.9])
    np.testing.assert_allclose(holm(np.array([0.6, 0.7])), [1, 1])
    assert np.isnan(holm(np.array([np.nan]))).all()


def cosines(x, y, chosen=None):
    chosen = np.ones_like(x, dtype=bool) if chosen is None else chosen
    return np.array(
        [
            (a[c] @ b[c]) / np.linalg.norm(a[c]) / np.linalg.norm(b[c])
            for a, b, c in zip(x, y, chosen, strict=True)
        ]
    )


def top(keys, allowed, k):
    chosen = np.zeros(len(keys), dtype=bool)
    chosen[sorted(np.flatnonzero(allowed), key=lambda j: -keys[j])[:k]] = True
    return chosen


def test_controls_are_those_of_loops():
    rng = np.random.default_rng(7)
    n, d, k = 12, 20, 5
    x, fit = rng.normal(size=(2 * n, 2, d)) + 0.4, rng.normal(size=(40, 2, d)) + 0.4
    x, fit = x.astype(np.float32), fit.astype(np.float32)
    scored, other, draws = of(x), of(fit), range(2)
    found = {
        (row.control, row.vector): row
        for rows in (
            methods(scored, k),
            transforms(scored, other, k),
            coordinates(scored, other, k, draws),
            choices_of_sets(scored, other, k, draws),
            views(scored, k, draws, torch.from_numpy(x[:, ::-1].copy())),
        )
        for row in rows
    }
    mean = x.mean(1)
    sets = np.array([top(v.mean(0), (v > 0).all(0), k) for v in x])
    union = sets[:n] | sets[n:]
    size = round(union.sum(1).mean())
    negative = np.array([top(-v.mean(0), (v < 0).all(0), k) for v in x])
    same = [top(abs(v.mean(0)), (v > 0).all(0) | (v < 0).all(0), k) for v in x]
    same = np.array(same)
    unit = fit.mean(1) / np.linalg.norm(fit.mean(1), axis=1, keepdims=True)
    share = sum(unit[i] * unit[j] for i in range(40) for j in range(40))
    variance = top(fit.mean(1).var(0), np.ones(d), size)
    often = np.array([top(v.mean(0), (v > 0).all(0), k) for v in fit]).sum(0)
    most = np.zeros(d, dtype=bool)
    most[np.argsort(-often, kind="stable")[:size]] = True
    centred = x - fit.mean(0)
    sets_c = np.array([top(v.mean(0), (v > 0).all(0), k) for v in centred])
    every = np.ones((n, d), dtype=bool)
    expected = {
        ("DySem", "mean"): cosines(mean[:n], mean[n:], union),
        ("DySem", "source"): cosines(x[:n, 0], x[n:, 0], union),
        ("plain cosine", "source"): cosines(x[:n, 0], x[n:, 0]),
        ("mean over languages", "mean"): cosines(mean[:n], mean[n:]),
        ("mean of cosines", ""): np.mean([cosines(x[:n, i], x[n:, i]) for i in (0, 1)], axis=0),
        ("centring", "mean"): cosines(*np.split(mean - fit.mean((0, 1)), 2)),
        ("z-scoring", "source"): cosines(
            *np.split((x[:, 0] - fit[:, 0].mean(0)) / fit[:, 0].std(0), 2)
        ),
        ("dropping the 3 largest", "mean"): cosines(
            mean[:n], mean[n:], every & ~top(share, np.ones(d), 3)
        ),
        ("per-language centring", "mean"): cosines(
            *np.split(centred.mean(1), 2), sets_c[:n] | sets_c[n:]
        ),
        ("negative consensus", "mean"): cosines(mean[:n], mean[n:], negative[:n] | negative[n:]),
        ("same sign", "mean"): cosines(mean[:n], mean[n:], same[:n] | same[n:]),
        ("top variance", "mean"): cosines(mean[:n], mean[n:], every & variance),
        ("most selected", "mean"): cosines(mean[:n], mean[n:], every & most),
        ("sets only", ""): (sets[:n] & sets[n:]).sum(1) / union.sum(1),
        ("English prompts", "mean"): cosines(mean[:n], mean[n:], union),  # in another order
    }
    for name, similarity in expected.items():
        ((given, _),) = found[name].draws
        np.testing.assert_allclose(given, similarity, atol=2e-6, err_msg=str(name))
    random = found["random set", "mean"].draws
    assert len(random) == 2
    assert all(n_dims == size for _, n_dims in random)
    assert len({tuple(similarity.tolist()) for similarity, _ in random}) == 2
    assert {row.control for row in found.values()} <= set(CONTROLS)


def test_a_row_is_scored_as_evaluate_does_and_draws_are_averaged():
    scored, fit, gold = averaged(n_pairs=60)
    table = made_up_audit(scored, fit, gold, 8).set_index(["control", "vector"])
    rows = {(row.control, row.vector): row for row in methods(scored, 8)}
    ((similarity, n_dims),) = rows["mean over languages", "mean"].draws
    ((reference, _),) = rows["DySem", "mean"].draws
    row = table.loc[("mean over languages", "mean")]
    for name, value in score(similarity, gold, n_dims).items():
        assert row[name] == value
    paired = paired_difference(similarity, reference, gold, n_resamples=audit.N_RESAMPLES)
    assert row["difference"] == paired["difference"]
    assert (row["difference_low"], row["difference_high"]) == (paired["low"], paired["high"])
    assert row["p"] == paired["p"]
    (turned, *_) = [r for r in coordinates(scored, fit, 8, range(3)) if r.vector == "mean"]
    values = [100 * spearmanr(s, gold).statistic for s, _ in turned.draws]
    row = table.loc[("random rotation", "mean")]
    assert row["spearman"] == pytest.approx(np.mean(values))
    assert (row["draw_low"], row["draw_high"]) == pytest.approx((min(values), max(values)))
    assert row["n_draws"] == 3
    tested = table["p"].notna()
    assert set(table["n_tried"]) == {tested.sum()}
    np.testing.assert_array_equal(table["p_holm"], holm(table["p"].to_numpy()))


def test_parts_are_genres_and_lengths_of_enough_pairs():
    plain = torch.linspace(0, 1, 40)
    genres = ["news/a"] * 15 + ["news/b"] * 5 + ["forums/c"] * 16 + ["few"] * 4
    rows = {row.control: row for row in parts(plain, genres, np.arange(40)[::-1])}
    assert rows["genre: news"].pairs.tolist() == list(range(20))
    assert rows["genre: few"].draws == []
    assert rows["genre: few"].note == "4 pairs, fewer than 10"
    assert rows["short texts"].pairs.tolist() == list(range(26, 40))
    assert rows["long texts"].pairs.tolist() == list(range(13))
    assert len(list(parts(plain, [""] * 40, np.arange(40)))) == 3


def test_floors_by_hand():
    texts = ["A dog runs", "It rains", "a dog sleeps now", "?!"]
    np.testing.assert_allclose(floors.word_overlap(texts), [2 / 5, 0])
    np.testing.assert_allclose(floors.length_difference(texts), [-1, -2])
    # Fitted on "a dog": ln(3/3) + 1 = 1 for a and dog, which are in both of them; a word that is in
    # none has ln 3 + 1.
    rare = np.log(3) + 1
    x, y = np.sqrt(2 + rare**2), np.sqrt(2 + 2 * rare**2)
    found = floors.tf_idf(texts, ["a dog", "dog a"])
    np.testing.assert_allclose(found, [2 / x / y, np.nan])
    assert np.isnan(floors.tf_idf(["?", "!"], ["a"])).all()
    assert np.isnan(floors.word_overlap(["?", "!"])).all()


def test_input_embeddings_are_means_over_tokens(tiny_lens):
    weights = tiny_lens.bridge.original_model.get_input_embeddings().weight.detach()
    ids = [tiny_lens.tokenizer.encode(text, add_special_tokens=False) for text in ("ab", "bc")]
    x, y = (weights[one].mean(0) for one in ids)
    expected = torch.nn.functional.cosine_similarity(x, y, dim=0)
    torch.testing.assert_close(floors.input_embeddings(tiny_lens, ["ab", "bc"])[0], expected)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return VectorStore(tmp_path_factory.mktemp("vectors") / "v.sqlite")


@pytest.fixture(scope="module")
def study(tiny_lens, store):
    data = dl.load_data("demo", languages=LANGUAGES).head(36)
    templates = ("prompteol", "pretended_cot")
    return dl.Study(
        tiny_lens, data, languages=LANGUAGES, templates=templates, settings="english", store=store
    )


@pytest.fixture
def _no_browser(monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", "none is started")
    monkeypatch.setattr("plotly.graph_objects.Figure.to_image", lambda figure, **options: b"PNG")


@pytest.mark.usefixtures("_no_browser")
def test_the_whole_question_on_a_tiny_model(study, tmp_path):
    contrast = dl.Contrast(1)
    options = {"k": 6, "n_rotations": 2, "contrast": contrast, "random_weights": study}
    finding = dl.audit(study, LANGUAGES, **options)
    table = finding.table
    assert table["group"].unique().tolist() == list(dict.fromkeys(table["group"]))
    assert set(table["group"]) == set(GROUPS)
    assert set(table["control"]) >= set(CONTROLS)
    whole = table.set_index(["control", "vector"])
    assert whole.loc[("DySem", "mean"), "n_pairs"] == 36
    # Its own weights stand in for random ones, and give what DySem gives.
    same = whole.loc[("random weights", "mean")]
    assert (same["difference"], same["p_holm"]) == (0, 1)
    x = study.vectors("demo", "attn", languages=["en"], contrast=contrast)[:, 0]
    steered = cosines(x[:36].numpy(), x[36:].numpy())
    expected = 100 * spearmanr(steered, study.data["demo"].gold).statistic
    assert whole.loc[("CP", "source"), "spearman"] == pytest.approx(expected)
    assert finding.facts.settings["fitted_on"] == "192 texts of demo (72 that are scored left out)"
    assert finding.caption == caption(table)
    assert "2 prompts for 3 languages" in whole.loc[("English prompts", "mean"), "note"]
    setting = f"contrast at block {contrast.layer + 1},\u00a0α = {contrast.alpha:g}"
    assert setting in str(finding.facts)
    assert finding.facts.unsaid["contrast"] == str(contrast)
    finding.save(tmp_path)
    saved = pd.read_csv(tmp_path / f"{finding.name}.csv")
    assert verdict(saved.fillna({"vector": "", "note": ""})) == verdict(table)
    ticks = finding.figure.layout.yaxis.ticktext
    assert set(table.loc[table["spearman"].notna(), "control"]) <= set(ticks)


def test_paraphrases_are_dysem_on_the_text_and_as_many_as_there_are_languages(study):
    options = {"k": 6, "n_rotations": 1}
    finding = dl.audit(study, LANGUAGES, **options)
    row = finding.table.set_index("control").loc["paraphrases"]
    data = dl.load_data("demo", languages=["en", "en-1", "en-2"]).head(36)
    encoder = dl.DySem(study.lens, data.languages, k=6, setting="english")
    renderings = {code: data.texts(code) for code in data.languages}
    encoded = encoder.encode_renderings(renderings, progress=False)
    similarity = encoder.similarity_pairwise(encoded[:36], encoded[36:])
    for name, value in score(similarity, data.gold, row["n_dims"]).items():
        assert row[name] == pytest.approx(value, abs=0.05), name
    assert (row["group"], row["vector"]) == ("views", "mean")
    assert row["note"] == "the text and 2 paraphrases for 3 languages"
    assert finding.facts.settings["paraphrases"].startswith("demo set ")
    page = verdict(finding.table)
    assert "paraphrases (the text and 2 paraphrases for 3 languages)" in page
    # Those of a table, which are the texts again: three equal views are the plain consensus.
    texts = data.texts("en")
    again = dl.ParallelTable({"en": texts, "en-1": texts, "en-2": texts}, "again")
    table = dl.audit(study, LANGUAGES, paraphrases=again, **options).table
    alone = dl.audit(study, ["en"], **options).table.iloc[0]
    found = table.set_index("control").loc["paraphrases"]
    assert found["spearman"] == pytest.approx(alone["spearman"], abs=0.05)
    fewer = dl.ParallelTable({"en": texts, "en-1": texts})
    with pytest.raises(MissingTranslationError, match="no language 'en-2'"):
        dl.audit(study, LANGUAGES, paraphrases=fewer, **options)


def test_of_texts_without_paraphrases_the_control_is_left_out_with_a_word(study):
    data = study.data["demo"]
    first, second = data.sentences["en"]
    other = replace(
        data, sentences={**data.sentences, "en": ([f"{t} Yes." for t in first], second)}
    )
    finding = dl.audit(study.on({"demo": other}), LANGUAGES, k=6, n_rotations=1)
    row = finding.table.set_index("control").loc["paraphrases"]
    assert np.isnan(row["spearman"])
    assert finding.facts.settings["paraphrases"] is None
    said = "paraphrases (none of these texts are there; give paraphrases=)"
    assert said in verdict(finding.table).split("Not tried: ")[1]


def test_more_languages_than_paraphrases_are_said(tiny_lens, store):
    codes = ["en", "fr", "de", "es", "it", "pt"]
    study = dl.Study(tiny_lens, "demo", languages=codes, pairs=12, store=store)
    table = dl.audit(study, codes, k=6, n_rotations=1).table.set_index("control")
    assert table.loc["paraphrases", "note"] == "the text and 4 paraphrases for 6 languages"


def test_with_english_alone_the_vector_is_the_source(study):
    table = dl.audit(study, ["en"], k=6, n_rotations=1).table
    assert set(table["vector"]) == {"source", ""}
    notes = table.set_index("control")["note"]
    assert notes["shuffled translations"] == "there is one language"
    assert "mean over languages" not in notes
    assert "(source vector)" in verdict(table)


def test_too_few_fitting_texts_leave_projections_out_with_a_word(study):
    fit = dl.load_data("demo", languages=LANGUAGES).select(range(100, 102))
    table = dl.audit(study, LANGUAGES, k=6, n_rotations=1, fit=fit).table
    row = table[table["control"] == "PCA-k"].iloc[0]
    assert np.isnan(row["spearman"])
    assert "needs at least 7 fitting texts that differ, got 4" in row["note"]
    assert "PCA-k ('pca' with k=6 needs" in verdict(table)


def test_what_has_no_answer_is_refused(study, tiny_folder):
    data = dl.load_data("demo", languages=LANGUAGES)
    other = dl.Study(
        tiny_folder("Llama", n_layers=2), data.head(36), languages=LANGUAGES, store=study.store
    )
    fewer = dl.Study(study.lens, data.head(30), languages=LANGUAGES, store=study.store)
    for options, said in (
        ({"fit": data.head(36)}, "72 of the 72 texts of demo are scored, which leaves 0 to fit on"),
        ({"n_rotations": 0}, "n_rotations must be a whole number of at least 1"),
        ({"languages": []}, r"languages must be one or more different codes, got \[\]"),
        ({"k": 0}, "k must be"),
        ({"languages": ["en", "de"]}, "unknown language 'de'"),
        ({"random_weights": other}, r"must have the model's \(L, d\) \(3, 32\), got \(2, 32\)"),
        ({"random_weights": fewer}, "a study of the same pairs"),
    ):
        with pytest.raises(InputError, match=said):
            dl.audit(study, **{"languages": LANGUAGES, "n_rotations": 1, **options})
    for n, said in ((1, "1 pair"), (2, "2 pairs")):
        few = dl.Study(study.lens, data.head(n), languages=LANGUAGES, store=study.store)
        with pytest.raises(InputError, match=f"of 3 pairs or more; got {said}"):
            dl.audit(few, LANGUAGES)
    same = {code: ([x[0]] * 3, [y[0]] * 3) for code, (x, y) in data.sentences.items()}
    three = data.head(3)
    for changed, said in (
        ({"gold": np.full(3, 2.5)}, "3 pairs with the one score 2.5 have no order"),
        ({"sentences": same, "gold": np.arange(3.0)}, "DySem finds all of these pairs equally sim"),
    ):
        pairs = dl.Study(study.lens, replace(three, **changed), languages=LANGUAGES)
        with pytest.raises(InputError, match=said):
            dl.audit(pairs, LANGUAGES, n_rotations=1)
    for question in (dl.audit, dl.heads, dl.residuals, dl.set_ablation):
        with pytest.raises(InputError, match=r"study must be a model with its pairs, .*got None"):
            question(None, LANGUAGES, *[[1]] * (question is dl.set_ablation))
    for question in (dl.concept, dl.faithfulness, dl.head_patching):
        with pytest.raises(InputError, match=r"dl\.Study\(model, data\), got 'demo'"):
            question("demo")
    bare = dl.Study(study.lens, data.head(6), templates="none", store=study.store)
    with pytest.raises(InputError, match="the study has no prompt"):
        dl.audit(bare, ["en"])


@pytest.mark.usefixtures("_no_browser")
def test_the_command_prints_the_page_or_json(tiny_folder, tmp_path):
    command = ["audit", "--model", str(tiny_folder("Llama")), "--sample", "24"]
    command += ["--languages", "en,fr", "--k", "6", "--rotations", "2"]

    def run(*more):
        return CliRunner().invoke(cli, [*command, *more], catch_exceptions=False)

    page = run()
    assert page.exit_code == 0
    assert "• A random rotation" in page.stdout
    assert "24 random pairs (seed 0)" in page.stdout
    given = json.loads(run("--json", "--out", str(tmp_path)).stdout)
    assert page.stdout.strip().endswith(given["verdict"])
    assert len(given["controls"]) > 35
    assert {path.suffix for path in tmp_path.iterdir()} >= {".csv", ".json", ".html"}
    with pytest.raises(InputError, match="unknown split"):
        run("--fit-split", "training")
    with pytest.raises(InputError, match="score a sample of these"):
        run("--sample", "132")
    command = [part for part in command if part not in ("--sample", "24")]
    assert "66 random pairs (seed 0)" in run().stdout  # the rest is the fit


def test_random_weights_are_of_the_same_shape_and_their_own(tiny_lens, study):
    state = torch.random.get_rng_state()
    fresh, again, other = (dl.untrained(tiny_lens, seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert (fresh.n_layers, fresh.d_model) == (tiny_lens.n_layers, tiny_lens.d_model)
    assert fresh.fingerprint == again.fingerprint
    assert len({tiny_lens.fingerprint, fresh.fingerprint, other.fingerprint}) == 3
    weights = fresh.bridge.original_model.get_input_embeddings().weight
    assert weights.std().item() == pytest.approx(0.02, rel=0.1)  # as transformers draws them
    data = dl.load_data("demo", languages=LANGUAGES).head(36)
    options = {"languages": LANGUAGES, "settings": "english", "store": study.store}
    random = dl.Study(fresh, data, **options)
    table = dl.audit(study, LANGUAGES, k=6, n_rotations=1, random_weights=random).table
    row = table[table["control"] == "random weights"].iloc[0]
    first, second = np.split(random.vectors("demo", "attn"), 2)
    sets = [dl.consensus_set(side, 6) for side in (first, second)]
    similarity = dl.pairwise_similarity(first.mean(1), second.mean(1), *sets)
    assert row["spearman"] == score(similarity, data.gold)["spearman"]
    assert "Without training, over the plain cosine: random weights" in verdict(table)  # no gain
