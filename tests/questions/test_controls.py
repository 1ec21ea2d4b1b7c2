"""What the paper leaves out: the ladder, the honest choice, stability of the sets, translators."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from dysem_lab.data.sts import STSData, load_data
from dysem_lab.errors import DataError, InputError
from dysem_lab.evaluate import paired_difference, score
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.loading import source_digest
from dysem_lab.models.passes import MAX_TOKENS
from dysem_lab.models.store import Space, VectorStore, prompt_key
from dysem_lab.prompts import wrap
from dysem_lab.questions import choice, ladder, overlap, selection_frequency, stability, translators
from dysem_lab.questions.grid import Cell
from dysem_lab.questions.study import Study

MODEL = "planted/model"


def made_up(gold, languages, name="made up", texts=None) -> STSData:
    """Return pairs whose sentences say which they are; `texts` names those of English."""
    n = len(gold)
    names = texts or [f"text {i}" for i in range(2 * n)]
    return STSData(
        name=name,
        source="a test",
        gold=np.asarray(gold, dtype=np.float64),
        sentences={
            code: (
                [f"{name}, {code}: {text}" for text in names[:n]],
                [f"{name}, {code}: {text}" for text in names[n:]],
            )
            for code in languages
        },
        rows=np.arange(n),
        subset=[""] * n,
    )


def planted(folder, tasks, vectors, **study_arguments) -> Study:
    """Return a study whose vectors are put into its store, so that no model is needed.

    Args:
        folder: Where the store is.
        tasks: Task → pairs.
        vectors: Task → language → vectors [2n, d], or (task, template, setting) → the same.
        study_arguments: For `Study`.
    """
    store = VectorStore(folder / "vectors.sqlite")
    first = np.asarray(next(iter(next(iter(vectors.values())).values())))
    facts = ModelFacts(
        MODEL, source_digest(MODEL), "f" * 16, "float32", "cpu", 3, first.shape[1], ""
    )
    store.remember(facts)
    space = Space(facts.fingerprint, facts.dtype, "attn", "sum")
    for key, by_language in vectors.items():
        task, template, setting = (key, "prompteol", "english") if isinstance(key, str) else key
        for code, rows in by_language.items():
            prompts = wrap(tasks[task].texts(code), template, setting, code)
            keys = [prompt_key(prompt, MAX_TOKENS) for prompt in prompts]
            store.write({space: torch.as_tensor(np.asarray(rows), dtype=torch.float32)}, keys)
    arguments = {"settings": "english", "dtype": "float32", **study_arguments}
    codes = {code for data in tasks.values() for code in data.languages}
    return Study(MODEL, tasks, languages=sorted(codes), store=store, **arguments)


def normal(shape, seed=0, shift=0.3):
    return np.random.default_rng(seed).normal(loc=shift, size=shape).astype(np.float32)


# Naive versions: plain loops over the equations.


def naive_top(means, allowed, k):
    return set(sorted(allowed, key=lambda j: (-means[j], j))[:k])


def naive_sets(vectors, k):
    """Return S(x) of each text from vectors [texts, languages, d] by Eqs. 11 to 13."""
    sets = []
    for rows in np.asarray(vectors, dtype=np.float64):
        allowed = [j for j in range(rows.shape[1]) if all(row[j] > 0 for row in rows)]
        sets.append(naive_top(rows.mean(0), allowed, k))
    return sets


def naive_cosines(v, sets):
    """Return the cosine of text i with text n + i on sets[i], None where there is none."""
    n = len(sets)
    values = []
    for i, dims in enumerate(sets):
        x, y = ([float(v[row][j]) for j in sorted(dims)] for row in (i, n + i))
        norms = math.hypot(*x) * math.hypot(*y)
        values.append(sum(a * b for a, b in zip(x, y, strict=True)) / norms if norms else None)
    return values


def naive_spearman(values, gold):
    kept = [i for i, value in enumerate(values) if value is not None]
    return 100 * spearmanr([values[i] for i in kept], [gold[i] for i in kept]).statistic


def naive_jaccard(a, b):
    return len(a & b) / len(a | b) if a | b else None


# The ladder


def test_each_rung_compares_on_the_dimensions_worked_out_by_hand():
    x = [[3.0, 2, -1, 4, 1, -2], [2, 2, 3, -1, 1, -2]]  # means 2.5, 2, 1, 1.5, 1, -2
    y = [[-1.0, 5, 1, 1, 2, -1], [-1, 1, 1, 2, -3, 3]]  # means -1, 3, 1, 1.5, -0.5, 1
    # I(x) = {0, 1, 4}, I(y) = {1, 2, 3}; the top 2 are {0, 1} and {1, 3}.
    rungs = dict(ladder.rung_sets(torch.tensor([x, y]), 2, range(3)))
    assert tuple(rungs) == (*ladder.STEPS, *ladder.CONTROLS)
    dims = {
        name: [set(U[0].nonzero()[:, 0].tolist()) for U in sets] for name, sets in rungs.items()
    }
    assert dims["source, all d"] == dims["mean, all d"] == [set(range(6))]
    assert dims["positive mean"] == [{0, 1, 2, 3, 4, 5}]
    assert dims["consensus"] == [{0, 1, 2, 3, 4}]
    assert dims["top k"] == [{0, 1, 3}]
    assert dims["bottom k"] == [{1, 4} | {2, 3}]
    assert dims["intersection"] == [{1}]
    for name in ("random, per pair", "random, shared"):
        assert [len(drawn) for drawn in dims[name]] == [3, 3, 3]
        assert len(set(map(frozenset, dims[name]))) > 1


def test_a_shared_random_set_is_one_for_all_pairs_and_of_the_mean_size():
    rungs = dict(ladder.rung_sets(torch.from_numpy(normal((40, 2, 30))), 5, range(2)))
    sizes = rungs["top k"][0].sum(-1)
    for shared, own in zip(rungs["random, shared"], rungs["random, per pair"], strict=True):
        assert (shared == shared[0]).all()
        assert int(shared[0].sum()) == round(float(sizes.double().mean()))
        assert own.sum(-1).tolist() == sizes.tolist()


@pytest.fixture(scope="module")
def ladder_case(tmp_path_factory):
    """Return (vectors by language, gold, the ladder's table) of a random case."""
    gold = np.random.default_rng(1).integers(0, 11, 20) / 2
    # Correlated within a pair, the more the higher it is rated.
    vectors = {code: normal((40, 12), seed) for seed, code in enumerate(("en", "ja", "ru"))}
    for rows in vectors.values():
        rows[20:] += gold[:, None].astype(np.float32) * rows[:20] / 4
    data = {"T": made_up(gold, ["en", "ja", "ru"])}
    study = planted(tmp_path_factory.mktemp("ladder"), data, {"T": vectors})
    with pytest.warns(UserWarning, match="pairs have no similarity"):
        table = ladder.ladder(study, ["ja", "ru"], k=2, seed=3, n_random=4).table
    return vectors, gold, table


def test_ladder_equals_loops_over_the_equations(ladder_case):
    vectors, gold, table = ladder_case
    n, k, everything = 20, 2, set(range(12))
    x = np.stack([vectors["ja"], vectors["ru"]], axis=1)
    mean = x.astype(np.float64).mean(1)
    allowed = [{j for j in range(12) if (rows[:, j] > 0).all()} for rows in x]
    chosen = naive_sets(x, k)
    lowest = [naive_top(-mean[i], dims, k) for i, dims in enumerate(allowed)]
    positive = [{j for j in everything if row[j] > 0} for row in mean]

    def union(sets):
        return [a | b for a, b in zip(sets[:n], sets[n:], strict=True)]

    expected = {
        "source, all d": [everything] * n,
        "mean, all d": [everything] * n,
        "positive mean": union(positive),
        "consensus": union(allowed),
        "top k": union(chosen),
        "bottom k": union(lowest),
        "intersection": [a & b for a, b in zip(chosen[:n], chosen[n:], strict=True)],
    }
    v = {"source": vectors["en"], "mean": mean}
    rows = table.set_index(["rung", "vector"])
    assert len(table) == 2 + 2 * 7
    similarity = {}
    for (rung, vector), row in rows.iterrows():
        if rung.startswith("random"):
            continue
        values = similarity[rung, vector] = naive_cosines(v[vector], expected[rung])
        assert row["spearman"] == pytest.approx(naive_spearman(values, gold), abs=1e-3)
        assert row["n_dims"] == pytest.approx(np.mean([len(s) for s in expected[rung]]))
        assert row["n_undefined"] == values.count(None)
    assert rows.loc[("intersection", "mean"), "n_undefined"] > 0
    before = {
        ("mean, all d", "mean"): ("source, all d", "source"),
        ("positive mean", "mean"): ("mean, all d", "mean"),
        ("positive mean", "source"): ("source, all d", "source"),
        ("consensus", "mean"): ("positive mean", "mean"),
        ("consensus", "source"): ("positive mean", "source"),
        ("top k", "mean"): ("consensus", "mean"),
        ("top k", "source"): ("consensus", "source"),
        ("bottom k", "mean"): ("top k", "mean"),
        ("bottom k", "source"): ("top k", "source"),
        ("intersection", "mean"): ("top k", "mean"),
        ("intersection", "source"): ("top k", "source"),
    }
    for key, other in before.items():
        row = rows.loc[key]
        assert row["against"] == f"{other[0]} ({other[1]})"
        for column, base in (("step", other), ("total", ("source, all d", "source"))):
            a, b = similarity[key], similarity[base]
            both = [i for i in range(n) if a[i] is not None and b[i] is not None]
            difference = naive_spearman([a[i] for i in both], gold[both]) - naive_spearman(
                [b[i] for i in both], gold[both]
            )
            assert row[column] == pytest.approx(difference, abs=1e-3)
            assert row[f"{column}_low"] <= row[f"{column}_high"]
    assert rows.loc[("source, all d", "source"), ["step", "total"]].isna().all()
    cut = np.mean([len(dims) > k for dims in allowed])
    assert rows.loc[("top k", "mean"), "cut"] == pytest.approx(cut)


def holm_by_hand(p):
    """Return p by Holm: the smallest n times, the next n − 1 times, never below the one before."""
    corrected, least = {}, 0.0
    for i, (row, value) in enumerate(p.sort_values(kind="stable").items()):
        least = max(least, min(1.0, (len(p) - i) * value))
        corrected[row] = least
    return corrected


def test_steps_and_controls_have_p_over_all_of_them(ladder_case):
    vectors, gold, table = ladder_case
    tested = table[table["against"] != ""]
    assert len(tested) == 15  # of 16 rows: the first one is against nothing
    assert (table["n_compared"] == 15).all()
    assert tested["step_p_holm"].to_dict() == pytest.approx(holm_by_hand(tested["step_p"]))
    assert table.loc[table["against"] == "", ["step_p", "step_p_holm"]].isna().all(axis=None)
    mean = np.stack([vectors["ja"], vectors["ru"]], axis=1).astype(np.float64).mean(1)
    everything = [set(range(12))] * 20
    one, other = (np.array(naive_cosines(v, everything)) for v in (mean, vectors["en"]))
    draws = np.random.default_rng(5).integers(0, 20, (3000, 20))
    found = [spearmanr(np.stack([one[i], other[i], gold[i]], 1)).statistic[2, :2] for i in draws]
    gaps = np.subtract(*np.transpose(found))
    p = 2 * min((gaps <= 0).mean(), (gaps >= 0).mean())
    row = table[table["rung"] == "mean, all d"].iloc[0]
    assert row["step_p"] == pytest.approx(p, abs=0.05)


def test_random_rungs_are_the_mean_of_their_draws_within_intervals_that_span_them(ladder_case):
    vectors, gold, table = ladder_case
    x = torch.from_numpy(np.stack([vectors["ja"], vectors["ru"]], axis=1))
    rungs = dict(ladder.rung_sets(x, 2, range(3, 7)))
    v = {"source": vectors["en"], "mean": x.double().mean(1).numpy()}
    of_top_k = [set(np.flatnonzero(u)) for u in rungs["top k"][0]]
    random = table[table["rung"].str.startswith("random")]
    assert len(random) == 4
    for row in random.itertuples():
        similarities = [
            np.array(naive_cosines(v[row.vector], [set(np.flatnonzero(u)) for u in U]))
            for U in rungs[row.rung]
        ]
        draws = pd.DataFrame(score(similarity, gold, seed=3) for similarity in similarities)
        assert row.spearman == pytest.approx(draws["spearman"].mean(), abs=1e-3)
        assert row.draw_low == pytest.approx(draws["spearman"].min(), abs=1e-3)
        assert row.draw_high == pytest.approx(draws["spearman"].max(), abs=1e-3)
        assert row.low == pytest.approx(draws["low"].min(), abs=1e-3)
        assert row.high == pytest.approx(draws["high"].max(), abs=1e-3)
        assert row.against == f"top k ({row.vector})"
        assert row.step_low <= row.step <= row.step_high
        top = np.array(naive_cosines(v[row.vector], of_top_k), dtype=float)
        p = [paired_difference(s, top, gold, seed=3, n_resamples=10_000)["p"] for s in similarities]
        assert row.step_p == pytest.approx(max(p), abs=1e-3)


def test_random_sets_of_all_dimensions_are_the_dense_mean(tmp_path):
    vectors = {code: normal((16, 5), seed, shift=6) for seed, code in enumerate(("en", "ja"))}
    data = {"T": made_up(np.arange(8) / 2, ["en", "ja"])}
    study = planted(tmp_path, data, {"T": vectors})
    table = ladder.ladder(study, ["en", "ja"], k=1.0, n_random=2).table
    scores = table[table["vector"] == "mean"]["spearman"]
    assert np.ptp(scores) == pytest.approx(0, abs=1e-9)  # all positive, so every rung is all of d
    later = table[(table["rung"] != "mean, all d") & (table["vector"] == "mean")]
    assert (later[["step", "step_low", "step_high"]] == 0).all(axis=None)
    assert (table["cut"].dropna() == 0).all()


def test_ladder_refuses_what_it_cannot_do(tmp_path):
    data = {"T": made_up([1.0, 2, 3], ["en", "ja"])}
    study = planted(tmp_path, data, {"T": {c: normal((6, 4)) for c in ("en", "ja")}})
    with pytest.raises(InputError, match="n_random must be a whole number of at least 1, got 0"):
        ladder.ladder(study, ["en"], n_random=0)
    with pytest.raises(InputError, match="unknown language 'ru'; choose one of"):
        ladder.ladder(study, ["en", "ru"])
    with pytest.raises(InputError, match="k must be"):
        ladder.ladder(study, ["en"], k=0)


# Honest choice


def angled(order, widest=1.3):
    """Return texts in the first quadrant whose pair i has a cosine that falls with order[i]."""
    angle = 0.1 + (widest - 0.1) * np.asarray(order) / len(order)
    first = np.tile([1.0, 1e-3], (len(order), 1))
    second = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.concatenate([first, second])


@pytest.fixture(scope="module")
def choice_case(tmp_path_factory):
    """Return (dev, test, orders): Japanese ranks pairs best on dev, Russian on test."""
    gold = np.arange(12) / 3
    best = list(range(12))[::-1]  # a higher rating has a smaller angle
    good = [best[i ^ 1] for i in range(12)]  # neighbours exchanged
    bad = [(7 * i) % 12 for i in range(12)]
    orders = {
        "dev": {"en": good, "ja": best, "ru": bad},
        "test": {"en": good, "ja": bad, "ru": best},
    }
    studies = []
    for split, by_language in orders.items():
        folder = tmp_path_factory.mktemp(split)
        data = {"T": made_up(gold, ["en", "ja", "ru"], name=split)}
        # English has angles of its own, so that no two means of languages tie.
        vectors = {
            code: angled(order, 1.0 if code == "en" else 1.3) for code, order in by_language.items()
        }
        studies.append(planted(folder, data, {"T": vectors}))
    return (*studies, orders)


def test_choices_differ_where_dev_and_test_disagree(choice_case):
    dev, test, orders = choice_case
    table = choice.honest_choice(dev, test, ks=[2]).table
    chosen = table[table["chosen"]].set_index(["vector", "chosen_on"])
    assert len(chosen) == 4
    # The mean over the single best language is that language: a perfect ranking where it is best.
    oracle, honest = chosen.loc[("mean", "test")], chosen.loc[("mean", "dev")]
    assert (oracle["languages"], oracle["m"]) == ("ru", 1)
    assert (honest["languages"], honest["m"]) == ("ja", 1)
    assert oracle["spearman"] == oracle["choosing_score"] == pytest.approx(100)
    assert honest["choosing_score"] == pytest.approx(100)
    gold = np.arange(12) / 3
    on_test = naive_spearman([-a for a in orders["test"]["ja"]], gold)
    assert honest["spearman"] == pytest.approx(on_test)
    assert oracle["optimism"] == pytest.approx(100 - on_test)
    assert oracle["optimism_low"] > 0
    assert np.isnan(honest["optimism"])


def test_every_number_of_languages_is_scored_in_both_orders(choice_case):
    dev, test, orders = choice_case
    table = choice.honest_choice(dev, test, ks=[2, 1]).table
    assert len(table) == 2 * 2 * 3 * 2
    assert table[["optimism"]].notna().sum().item() == 2
    ranked = table[table["m"] == 3].groupby("chosen_on")["languages"].unique()
    assert ranked["test"].tolist() == ["ru/en/ja"]
    assert ranked["dev"].tolist() == ["ja/en/ru"]
    two = table.query("chosen_on == 'dev' and m == 2 and k == 2 and vector == 'mean'").iloc[0]
    gold = np.arange(12) / 3
    v = (angled(orders["test"]["ja"]) + angled(orders["test"]["en"], 1.0)) / 2
    values = naive_cosines(v, [{0, 1}] * 12)
    assert two["spearman"] == pytest.approx(naive_spearman(values, gold), abs=1e-3)
    fewer = choice.honest_choice(dev, test, ks=[2], ms=[2]).table
    assert fewer["m"].unique().tolist() == [2]


def test_equal_scores_go_to_fewer_languages_and_the_k_named_first():
    scores = {Cell(m, k, "mean"): 50.0 for m in (1, 2) for k in (8, 4)}
    assert choice.best_cell(scores, "mean", [8, 4]) == Cell(1, 8, "mean")
    assert choice.best_cell(scores | {Cell(2, 4, "mean"): 51.0}, "mean", [8, 4]).m == 2
    nan = {cell: float("nan") for cell in scores}
    some = nan | {Cell(2, 4, "mean"): -3.0, Cell(1, 8, "source"): 90.0}
    assert choice.best_cell(some, "mean", [8, 4]) == Cell(2, 4, "mean")
    with pytest.raises(InputError, match="gives the mean vector a defined score"):
        choice.best_cell(nan, "mean", [8, 4])


def test_both_studies_need_the_same_languages_task_and_model(choice_case, tmp_path, monkeypatch):
    dev, test, _ = choice_case
    data = {"T": made_up([1.0, 2, 3], ["en", "ja"])}
    other = planted(tmp_path, data, {"T": {c: normal((6, 2)) for c in ("en", "ja")}})
    with pytest.raises(InputError, match="dev has en/ja, test en/ja/ru"):
        choice.honest_choice(other, test)
    (pairs,) = test.data.values()
    with pytest.raises(InputError, match="unknown task 'X'; choose one of: T"):
        choice.honest_choice(dev, test.on({"X": pairs}))
    half = planted(tmp_path, data, {"T": {"en": normal((6, 2))}})
    facts, own = replace(half.model, dtype="bfloat16"), type(half).known.fget
    of_study = property(lambda study: facts if study is half else own(study))
    monkeypatch.setattr(type(half), "known", of_study)
    with pytest.raises(InputError, match="one model in one dtype"):
        choice.honest_choice(half, test)
    with pytest.raises(InputError, match="m must be between 1 and 3"):
        choice.honest_choice(dev, test, ks=[2], ms=[4])


def test_demo_is_split_into_two_seeded_halves_that_say_so():
    (dev,), (test,) = (side.values() for side in choice.dev_and_test("demo", None, ["ja"], seed=5))
    whole = load_data("demo")
    assert (len(dev), len(test)) == (66, 66)
    assert sorted([*dev.rows, *test.rows]) == whole.rows.tolist()
    assert dev.languages == test.languages == ("en", "ja")
    assert (dev.name, test.name) == ("demo, random half 1", "demo, random half 2")
    assert "random half 2 of 2 (seed 5)" in test.source
    again, other = (
        next(iter(choice.dev_and_test("demo", seed=seed)[0].values())) for seed in (5, 6)
    )
    assert again.rows.tolist() == dev.rows.tolist() != other.rows.tolist()
    assert choice.shared_with(dev, test)["pairs"] == 0


def write_pairs(path, texts, row=None):
    table = pd.DataFrame(texts, columns=["sentence1", "sentence2"])
    table["score"] = [1.0, 2.0, 3.0, 4.0][: len(table)]
    if row is not None:
        table["row"] = row
        table["score"] = [[1.0, 2.0, 3.0, 4.0][i] for i in row]
    table.to_csv(path, index=False)


def test_a_folder_with_a_dev_split_is_not_cut(tmp_path):
    write_pairs(tmp_path / "dev.en.csv", [("a b", "c"), ("c", "d")])
    write_pairs(tmp_path / "test.en.csv", [("C ", "A, b."), ("e", "d!"), ("f", "g")])
    dev, test = choice.dev_and_test(tmp_path)
    assert [len(data) for side in (dev, test) for data in side.values()] == [2, 3]
    assert list(dev) == list(test)
    (dev,), (test,) = dev.values(), test.values()
    # "a b"/"c" is a pair of both, in the other order and spelling; "d" is a sentence of both.
    assert choice.shared_with(dev, test) == {"pairs": 1, "with_a_sentence": 2, "of": 3}
    with pytest.raises(DataError, match="has no dev pairs in 'ja'"):
        choice.dev_and_test(tmp_path, languages=["ja"])


def test_what_cannot_be_split_is_an_error(tmp_path):
    write_pairs(tmp_path / "test.en.csv", [("a", "b")])
    with pytest.raises(InputError, match="has 1 pair; halves need at least 2"):
        choice.dev_and_test(tmp_path)
    with pytest.raises(InputError, match=r"mean 'STSB'\? choose one of: STS12"):
        choice.dev_and_test(tmp_path, "STS99")


def test_stsb_dev_and_test_of_the_real_data_share_four_pairs(sts_folder):
    dev, test = choice.dev_and_test(sts_folder, "STSB")
    assert (dev["STSB"].name, test["STSB"].name) == ("STSB dev", "STSB test")
    shared = choice.shared_with(dev["STSB"], test["STSB"])
    assert shared == {"pairs": 4, "with_a_sentence": 103, "of": 1379}
    # SICK has one set of pairs, so it is cut.
    half, other = (side["SICKR"] for side in choice.dev_and_test(sts_folder, "SICKR"))
    assert len(half) + len(other) == 9927
    assert "random half" in half.name


# Stability


@given(
    st.integers(1, 6).flatmap(lambda d: st.tuples(st.just(d), st.integers(0, d), st.integers(0, d)))
)
def test_chance_is_the_mean_over_all_pairs_of_sets(case):
    d, a, b = case
    fixed = set(range(a))  # by symmetry one set may be held fixed
    values = [naive_jaccard(fixed, set(other)) for other in itertools.combinations(range(d), b)]
    chance = overlap.chance_jaccard(np.array([a]), np.array([b]), d)[0]
    if a == b == 0:
        assert np.isnan(chance)
    else:
        assert chance == pytest.approx(np.mean(values))


def test_chance_of_many_sizes_keeps_their_order(monkeypatch):
    sizes = np.random.default_rng(0).integers(0, 9, (2, 50))
    singly = [overlap.chance_jaccard(a[None], b[None], 9)[0] for a, b in sizes.T]
    monkeypatch.setattr(overlap, "VALUES_PER_CHUNK", 40)
    np.testing.assert_allclose(overlap.chance_jaccard(*sizes, 9), singly)
    large = overlap.chance_jaccard(np.array([1024]), np.array([1024]), 4096)[0]
    assert large == pytest.approx(256 / (2048 - 256), abs=1e-3)


@given(st.lists(st.tuples(*[st.lists(st.booleans(), min_size=4, max_size=4)] * 2), min_size=1))
def test_jaccard_equals_set_operations(rows):
    A, B = (torch.tensor([row[side] for row in rows]) for side in (0, 1))
    for value, (a, b) in zip(overlap.jaccard(A, B), rows, strict=True):
        expected = naive_jaccard(*({j for j in range(4) if s[j]} for s in (a, b)))
        assert (np.isnan(value) and expected is None) or value == expected


@pytest.fixture(scope="module")
def stable_case(tmp_path_factory):
    """Return (vectors, gold, texts, study): text 2 is the same as 0, and pair 4 two equal texts."""
    gold = [0.0, 0.5, 1.0, 2.5, 4.5, 5.0, 4.4, 3.0]
    texts = [f"text {i}" for i in range(16)]
    texts[2], texts[12] = texts[0], texts[4]
    vectors = {code: normal((16, 10), seed) for seed, code in enumerate(("en", "ja", "ru"))}
    for rows in vectors.values():
        rows[2], rows[12] = rows[0], rows[4]
    data = {"T": made_up(gold, ["en", "ja", "ru"], texts=texts)}
    study = planted(tmp_path_factory.mktemp("stable"), data, {"T": vectors})
    return vectors, np.array(gold), texts, study


def test_stability_equals_loops(stable_case):
    vectors, _, texts, study = stable_case
    codes, k = ["en", "ja", "ru"], 4
    table = stability.stability(study, codes, k=k).table.set_index(["varied", "level"])
    x = np.stack([vectors[code] for code in codes], axis=1)
    unique = [i for i in range(16) if texts[i] not in texts[:i]]
    assert len(unique) == 14

    def mean(a, b, at):
        values = [naive_jaccard(a[i], b[i]) for i in at]
        return np.mean([v for v in values if v is not None]), values.count(None)

    alone = {code: naive_sets(x[:, [i]], k) for i, code in enumerate(codes)}
    whole = naive_sets(x, k)
    expected = {
        ("language", f"{a} / {b}"): mean(alone[a], alone[b], unique)
        for a, b in (("en", "ja"), ("en", "ru"), ("ja", "ru"))
    }
    for i, code in enumerate(codes):
        without = naive_sets(np.delete(x, i, axis=1), k)
        expected["one language less", f"without {code}"] = mean(whole, without, unique)
    bins = {
        "0–1": [0, 1],
        "1–2": [2],
        "2–3": [3],
        "3–4": [7],
        "4–5": [5, 6],  # pair 4 is one text twice
        "≥ 4.5": [5],
    }
    for level, pairs in bins.items():
        expected["gold", level] = mean(whole[:8], whole[8:], pairs)
    assert list(table.index) == list(expected)
    for key, (jaccard, n_undefined) in expected.items():
        row = table.loc[key]
        assert row["jaccard"] == pytest.approx(jaccard)
        assert row["n_undefined"] == n_undefined
        count = len(bins[key[1]]) if key[0] == "gold" else 14
        assert row["n"] == count - n_undefined
        assert row["low"] <= row["jaccard"] <= row["high"]
    sizes = [[len(alone[code][i]) for i in unique] for code in ("en", "ja")]
    row = table.loc[("language", "en / ja")]
    assert row["size"] == pytest.approx(np.mean(sizes))
    chances = [overlap.chance_jaccard(*np.array([[a], [b]]), 10)[0] for a, b in np.transpose(sizes)]
    assert row["chance"] == pytest.approx(np.mean(chances))


def test_what_sets_share_whatever_the_text_is_told_from_what_the_text_decides(tmp_path):
    own = np.repeat(np.eye(6), 1, axis=0) - 0.5  # each text has one positive dimension of its own
    same = np.tile([1.0, 1, -1, -1, -1, -1], (6, 1))  # all texts have the same two
    for name, rows, other_text in (("own", own, 0.0), ("same", same, 1.0)):
        folder = tmp_path / name
        folder.mkdir()
        data = {"T": made_up([1.0, 2, 3], ["en", "ja"])}
        study = planted(folder, data, {"T": {"en": rows, "ja": rows}})
        table = stability.stability(study, ["en", "ja"], k=3).table
        language = table[table["varied"] == "language"].iloc[0]
        assert (language["jaccard"], language["low"], language["high"]) == (1, 1, 1)
        assert language["other_text"] == other_text


def test_other_studies_are_compared_two_by_two_on_their_own_pairs(stable_case, tmp_path):
    vectors, gold, texts, study = stable_case
    data = {"T": made_up(gold[:3], ["en", "ja"], texts=[*texts[:3], *texts[8:11]])}
    at = [0, 1, 2, 8, 9, 10]
    templates = {"prompteol": 1.0, "knowledge": 1.0, "pretended_cot": -1.0}
    read, few = {}, {}
    for name, sign in templates.items():
        folder = tmp_path / name
        folder.mkdir()
        read[name] = {code: sign * vectors[code][at] for code in ("en", "ja")}
        planting = {("T", name, "english"): read[name]}
        few[name] = planted(folder, data, planting, templates=name)
    table = stability.stability(study, ["en", "ja"], k=4, others={"template": few}).table
    rows = table[table["varied"] == "template"].set_index("level")
    assert list(rows.index) == [
        "PromptEOL / Knowledge Enhancement",
        "PromptEOL / Pretended CoT",
        "Knowledge Enhancement / Pretended CoT",
    ]
    assert rows.loc["PromptEOL / Knowledge Enhancement", "jaccard"] == 1  # the same vectors
    sets = {
        name: naive_sets(np.stack([by["en"], by["ja"]], axis=1), 4) for name, by in read.items()
    }
    unique = [0, 1, 3, 4, 5]
    values = [naive_jaccard(sets["prompteol"][i], sets["pretended_cot"][i]) for i in unique]
    defined = [value for value in values if value is not None]
    row = rows.loc["PromptEOL / Pretended CoT"]
    assert row["jaccard"] == pytest.approx(np.mean(defined))
    assert row["n"] == len(defined)
    others = {"dtype": {"a": few["prompteol"], "b": study}}
    with pytest.raises(InputError, match="vary the dtype have different pairs of T"):
        stability.stability(study, ["en", "ja"], k=4, others=others)


def test_one_language_may_be_given_by_its_code_alone(stable_case):
    study = stable_case[-1]
    for ask in (stability.stability, selection_frequency.selection_frequency, ladder.ladder):
        one, listed = ask(study, "ja", k=4), ask(study, ["ja"], k=4)
        pd.testing.assert_frame_equal(one.table, listed.table)


def test_stability_needs_two_texts(tmp_path):
    data = {"T": made_up([5.0], ["en"], texts=["same", "same"])}
    study = planted(tmp_path, data, {"T": {"en": np.ones((2, 3))}})
    with pytest.raises(InputError, match="T has 1 different texts; stability needs at least 2"):
        stability.stability(study, ["en"])


def test_selection_frequency_equals_counting(stable_case):
    vectors, _, texts, study = stable_case
    table = selection_frequency.selection_frequency(study, ["en", "ja"], k=3, seed=2).table
    sets = naive_sets(np.stack([vectors["en"], vectors["ja"]], axis=1), 3)
    unique = [i for i in range(16) if texts[i] not in texts[:i]]
    counts = [sum(j in sets[i] for i in unique) for j in range(10)]
    order = sorted(range(10), key=lambda j: (-counts[j], j))
    assert table["dimension"].tolist() == order
    assert table["frequency"].tolist() == pytest.approx([counts[j] / 14 for j in order])
    assert table["rank"].tolist() == list(range(1, 11))
    assert (table["n_texts"] == 14).all()
    # Random sets have the same sizes, so they select as often in all.
    assert table["random"].sum() == pytest.approx(table["frequency"].sum())
    assert table["random"].is_monotonic_decreasing


# Translators


def test_translation_sources_are_the_same_pairs_with_one_language_exchanged(tmp_path):
    english = [("a", "b"), ("c", "d"), ("e", "f")]
    write_pairs(tmp_path / "test.en.csv", english)
    write_pairs(tmp_path / "test.zh.csv", [("甲", "乙"), ("丙", "丁"), ("戊", "己")])
    write_pairs(tmp_path / "test.zh-TW.csv", [("甲2", "乙2"), ("戊2", "己2")], row=[0, 2])
    sources = translators.translation_sources(
        tmp_path, None, ["en"], "zh", label="one", other="zh-TW", other_label="two"
    )
    assert list(sources) == ["one", "two", "untranslated"]
    assert {name: data.texts("zh") for name, data in sources.items()} == {
        "one": ["甲", "戊", "乙", "己"],
        "two": ["甲2", "戊2", "乙2", "己2"],
        "untranslated": ["a", "e", "b", "f"],
    }
    for data in sources.values():
        assert data.texts("en") == ["a", "e", "b", "f"]
        assert data.gold.tolist() == [1.0, 3.0]
        assert data.languages == ("en", "zh")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_pairs(elsewhere / "test.en.csv", english)
    write_pairs(elsewhere / "test.zh.csv", [("A", "B"), ("C", "D"), ("E", "F")])
    second = translators.translation_sources(tmp_path, None, [], "zh", other_source=elsewhere)
    assert second["other"].texts("zh") == list("ACEBDF")
    assert list(translators.translation_sources(tmp_path, None, [], "zh")) == [
        "as given",
        "untranslated",
    ]
    write_pairs(elsewhere / "test.en.csv", [("a", "b"), ("c", "other"), ("e", "f")])
    with pytest.raises(InputError, match="the two need the same pairs in the same rows"):
        translators.translation_sources(tmp_path, None, [], "zh", other_source=elsewhere)
    with pytest.raises(InputError, match="'en' is what the translators start from"):
        translators.translation_sources(tmp_path, None, [], "en")
    with pytest.raises(InputError, match="labels must differ"):
        translators.translation_sources(tmp_path, None, [], "zh", label="untranslated")


def test_character_agreement_by_hand():
    pairs = [("abcd", "bcde"), ("same", "same"), ("ab", "xy"), ("東京都", "京都府")]
    agreement = translators.character_agreement(*zip(*pairs, strict=True))
    assert agreement.tolist() == pytest.approx([6 / 8, 1, 0, 4 / 6])


@pytest.fixture(scope="module")
def translator_case(tmp_path_factory):
    """Return (vectors by source, gold, table): the second source equals the first."""
    gold = np.random.default_rng(4).integers(0, 11, 15) / 2
    one = made_up(gold, ["en", "ru", "zh"])
    shared = {"en": normal((30, 9), 1), "ru": normal((30, 9), 2)}
    zh = {"one": normal((30, 9), 3), "other": normal((30, 9), 4)}
    renamed = replace(
        one,
        sentences={
            **one.sentences,
            "zh": tuple([f"{text}!" for text in side] for side in one.sentences["zh"]),
        },
    )
    tasks = {"one": one, "the same": one, "other": renamed}
    vectors = {name: {**shared, "zh": zh[name]} for name in zh}
    study = planted(tmp_path_factory.mktemp("translators"), tasks, vectors)
    table = translators.translators(study, "zh", ["ru", "en", "zh"], k=3).table
    return vectors, gold, table


def test_translators_equal_loops(translator_case):
    vectors, gold, table = translator_case
    n = 15
    rows = table.set_index(["method", "source"])
    orders = {"DySem en/zh": ["en", "zh"], "DySem en/zh/ru": ["en", "zh", "ru"]}
    assert table["method"].unique().tolist() == [
        "zh alone",
        *(f"{name}, {vector}" for name in orders for vector in ("source", "mean")),
    ]
    for source, by in vectors.items():
        alone = naive_cosines(by["zh"], [set(range(9))] * n)
        row = rows.loc[("zh alone", source)]
        assert row["spearman"] == pytest.approx(naive_spearman(alone, gold), abs=1e-3)
        for name, codes in orders.items():
            x = np.stack([by[code] for code in codes], axis=1)
            sets = naive_sets(x, 3)
            U = [a | b for a, b in zip(sets[:n], sets[n:], strict=True)]
            for vector, v in (("source", by["en"]), ("mean", x.astype(np.float64).mean(1))):
                row = rows.loc[(f"{name}, {vector}", source)]
                expected = naive_spearman(naive_cosines(v, U), gold)
                assert row["spearman"] == pytest.approx(expected, abs=1e-3)
                assert row["n_dims"] == pytest.approx(np.mean([len(u) for u in U]))
                assert row["m"] == len(codes)
    of_method = {"zh alone": ["zh"], **{f"{name}, mean": codes for name, codes in orders.items()}}
    for method, codes in of_method.items():
        both = (
            naive_sets(np.stack([by[code] for code in codes], axis=1), 3) for by in vectors.values()
        )
        values = [naive_jaccard(a, b) for a, b in zip(*both, strict=True)]
        overlap = np.mean([value for value in values if value is not None])
        assert rows.loc[(method, "other"), "jaccard"] == pytest.approx(overlap)


def test_the_same_translations_make_no_difference(translator_case):
    _, _, table = translator_case
    columns = ["difference", "difference_low", "difference_high"]
    same = table[table["source"] == "the same"]
    assert (same[columns] == 0).all(axis=None)
    assert (same[["difference_p", "difference_p_holm"]] == 1).all(axis=None)
    assert (same[["jaccard", "jaccard_low", "jaccard_high", "agreement"]] == 1).all(axis=None)
    first = table[table["source"] == "one"]
    assert first[[*columns, "jaccard", "agreement"]].isna().all(axis=None)
    other = table[table["source"] == "other"].set_index("method")
    own = first.set_index("method")
    assert other["difference"].to_numpy() == pytest.approx(
        (other["spearman"] - own["spearman"]).to_numpy()
    )
    assert (other["agreement"].between(0.9, 0.999)).all()  # one "!" in some twenty characters


def test_differences_between_translators_have_p_over_all_that_were_compared(translator_case):
    vectors, gold, table = translator_case
    tested = table[table["source"] != "one"]
    assert (tested["n_compared"] == 10).all()  # five methods, two sources
    by_hand = holm_by_hand(tested["difference_p"])
    assert tested["difference_p_holm"].to_dict() == pytest.approx(by_hand)
    one, other = (
        np.array(naive_cosines(vectors[name]["zh"], [set(range(9))] * 15)) for name in vectors
    )
    draws = np.random.default_rng(3).integers(0, 15, (3000, 15))
    gaps = np.array(
        [spearmanr(np.stack([other[i], one[i], gold[i]], 1)).statistic[2, :2] for i in draws]
    )
    gaps = gaps[:, 0] - gaps[:, 1]
    p = 2 * min((gaps <= 0).mean(), (gaps >= 0).mean())
    row = table[(table["method"] == "zh alone") & (table["source"] == "other")].iloc[0]
    assert row["difference_p"] == pytest.approx(p, abs=0.05)


def test_translators_refuse_what_they_cannot_compare(tmp_path):
    one, longer = made_up([1.0, 2, 3], ["en", "zh"]), made_up([1.0, 2, 3, 4], ["en", "zh"])
    rows = {code: normal((6, 4)) for code in ("en", "zh")}
    alone = planted(tmp_path, {"one": one}, {"one": rows})
    with pytest.raises(InputError, match=r"one source of translations \(one\)"):
        translators.translators(alone, "zh", ["en", "zh"])
    two = planted(tmp_path, {"one": one, "two": longer}, {"one": rows})
    with pytest.raises(InputError, match="'two' has other pairs than 'one'"):
        translators.translators(two, "zh", ["en", "zh"], k=2)
    with pytest.raises(InputError, match="unknown language of the consensus 'zh'; choose one of"):
        translators.translators(two, "zh", ["en"], k=2)


# Figures and captions


def numbers_in(figure):
    """Return every x and y that a figure shows, rounded."""
    values = [v for trace in figure.data for axis in (trace.x, trace.y) for v in axis]
    return {round(float(v), 6) for v in values if isinstance(v, int | float) and not math.isnan(v)}


def shown(figure, table, columns):
    wanted = table[columns].to_numpy().ravel()
    return {round(float(v), 6) for v in wanted if not np.isnan(v)} <= numbers_in(figure)


def test_ladder_figure_has_every_rung_and_its_caption_says_which_steps_matter(ladder_case):
    _, _, table = ladder_case
    figure = ladder.figure(table, "facts of the study")
    labels = " ".join(figure.layout.yaxis.ticktext)
    for rung in (*ladder.STEPS, *ladder.CONTROLS):
        assert ladder.SHOWN_RUNGS[rung] in labels
    undefined = int(
        table.set_index(["rung", "vector"]).loc[("intersection", "mean"), "n_undefined"]
    )
    assert f"{undefined} pairs undefined" in labels
    assert shown(figure, table, ["spearman", "step"])
    assert "* p &lt; 0.05 by Holm over 15 comparisons" in figure.layout.title.subtitle.text
    assert "facts of the study" in figure.layout.title.subtitle.text
    assert figure.layout.width == 1000

    by_hand = table.copy()
    row = by_hand.set_index(["rung", "vector"]).index.get_loc
    columns = ["step", "step_low", "step_high", "step_p_holm"]
    by_hand["step_p_holm"] = 0.051
    by_hand.loc[row(("mean, all d", "mean")), columns] = [8.25, 7.0, 9.5, 0.001]
    by_hand.loc[row(("positive mean", "mean")), columns] = [0.1, -0.3, 0.4, 0.5]
    by_hand.loc[row(("consensus", "mean")), columns] = [-2.0, -3.0, -1.0, 0.049]
    # Its interval excludes 0, which is not enough beside 14 others.
    by_hand.loc[row(("top k", "mean")), columns] = [-0.5, -1.0, -0.1, 0.051]
    by_hand.loc[row(("bottom k", "mean")), columns] = [-4.0, -5.0, -3.0, 0.01]
    caption = ladder.caption(by_hand)
    lead = "Mean over languages earns the most, +8.2; the other steps together -2.4. "
    assert caption.startswith(lead)
    lost = by_hand.assign(step=-by_hand["step"].abs())
    assert ladder.caption(lost).startswith("No step gains; positive mean costs least, -0.1; ")
    open_ = ladder.caption(by_hand.assign(step_p_holm=0.051))
    assert open_.startswith("No step gains for certain; most has mean over languages, +8.2; the ")
    assert "\n" not in caption
    certain, rest = caption.split(
        "Steps of the mean vector that are certain (p < 0.05 after Holm over 15 comparisons): "
    )[1].split("; steps that are not: ")
    assert certain == "mean over languages +8.2 [7.0, 9.5], consensus -2.0 [-3.0, -1.0]"
    assert rest.startswith("positive mean +0.1 [-0.3, 0.4], top k -0.5 [-1.0, -0.1]. In place of")
    assert "bottom k -4.0 [-5.0, -3.0] (certain)" in caption
    assert caption.count("(certain)") == 1
    traces = ladder.figure(by_hand, "").data
    texts = [text for trace in traces if trace.mode == "text" for text in trace.text]
    starred = [text.strip() for text in texts if text.endswith("*")]
    assert starred == ["+8.2 [7.0, 9.5]*", "-2.0 [-3.0, -1.0]*", "-4.0 [-5.0, -3.0]*"]
    assert f"{undefined} pairs without intersection" in caption
    for rung in ladder.CONTROLS:
        assert f"{rung} " in caption


def test_choice_figure_and_caption_show_both_choices(choice_case):
    dev, test, _ = choice_case
    table = choice.honest_choice(dev, test, ks=[2]).table
    figure = choice.figure(table, "facts")
    assert shown(figure, table, ["spearman"])
    titles = [annotation.text for annotation in figure.layout.annotations]
    oracle = table.assign(at=table.index)[table["optimism"].notna()].set_index("vector").loc["mean"]
    interval = f"[{oracle['optimism_low']:.1f}, {oracle['optimism_high']:.1f}]"
    star = "*" if oracle["optimism_p_holm"] < 0.05 else ""
    assert f"English prompts, mean: {oracle['optimism']:+.1f} {interval}{star}" in titles
    caption = choice.caption(table)
    assert "English prompts, mean: chosen on test ru 100.0, chosen on dev ja " in caption
    assert f", difference {oracle['optimism']:+.1f} {interval}" in caption
    n_certain = (table["optimism_p_holm"] < 0.05).sum()
    of_all = f"of 2 settings (p < 0.05 after Holm over 2 comparisons). {choice.SCORE} on test"
    assert f"higher for certain in {n_certain} {of_all}" in caption
    tested = table[table["optimism"].notna()]
    assert tested["optimism_p_holm"].to_dict() == pytest.approx(holm_by_hand(tested["optimism_p"]))
    assert (table["n_compared"] == 2).all()
    assert "* p &lt; 0.05 by Holm over 2" in figure.layout.title.subtitle.text
    for p, n, star in ((0.049, 1, "*"), (0.051, 0, "")):  # of intervals above 0 both
        new = {"optimism": 9.0, "optimism_low": 1.0, "optimism_high": 17.0, "optimism_p_holm": p}
        by_hand = table.copy()
        by_hand.loc[oracle["at"], list(new)] = list(new.values())
        by_hand.loc[by_hand.index != oracle["at"], "optimism_p_holm"] = 1.0
        said = choice.caption(by_hand)
        assert f"higher for certain in {n} {of_all}" in said
        assert said.count("(certain)") == n
        titles = [a.text for a in choice.figure(by_hand, "facts").layout.annotations]
        assert f"English prompts, mean: +9.0 [1.0, 17.0]{star}" in titles
    same = choice.honest_choice(test, test, ks=[2]).table
    assert "English prompts, mean: both choose ru, 100.0" in choice.caption(same)
    titles = [a.text for a in choice.figure(same, "facts").layout.annotations]
    assert "English prompts, mean: the same choice" in titles


def test_stability_figures_show_every_comparison(stable_case):
    _, _, _, study = stable_case
    table = stability.stability(study, ["en", "ja", "ru"], k=4).table
    figure = stability.figure(table, "facts")
    assert shown(figure, table, ["jaccard"])
    labels = " ".join(figure.layout.yaxis.ticktext).replace("<br>", " ")
    assert "language" in labels
    assert "one language less" in labels
    caption = stability.caption(table)
    for level in ("0–1", "1–2", "2–3", "3–4", "4–5", "≥ 4.5"):
        value = table.set_index("level").loc[level, "jaccard"]
        assert f"{level} {value:.2f}" in caption
    frequency = selection_frequency.selection_frequency(study, ["en", "ja"], k=3).table
    assert shown(
        selection_frequency.figure(frequency, "facts"), 100 * frequency, ["frequency", "random"]
    )


def test_frequency_caption_counts_universal_and_unused_dimensions():
    table = pd.DataFrame(
        {
            "rank": [1, 2, 3, 4],
            "dimension": [2, 0, 1, 3],
            "frequency": [1.0, 0.9, 0.01, 0.005],
            "random": [0.6, 0.5, 0.4, 0.4],
            "n_texts": 1200,
        }
    )
    caption = selection_frequency.caption(table)
    assert caption.startswith("Over 1,200 texts, 1 of 4 dimensions (25.0%) are selected for more")
    assert "and 1 (25.0%) for fewer than 1%" in caption
    assert caption.endswith("for 40.0% to 60.0%.")


def test_translators_figure_and_caption_name_every_source(translator_case):
    _, _, table = translator_case
    figure = translators.figure(table, "facts")
    assert shown(figure, table, ["spearman", "difference", "jaccard", "chance"])
    assert list(figure.layout.yaxis.ticktext) == table["method"].unique().tolist()
    assert {trace.name for trace in figure.data} >= {"one", "the same", "other"}
    caption = translators.caption(table)
    assert "the same against one: zh alone +0.0 [0.0, 0.0]" in caption
    row = table[(table["method"] == "zh alone") & (table["source"] == "other")].iloc[0]
    assert f"other against one: zh alone {row['difference']:+.1f} [" in caption
    others = table[table["source"] != "one"]
    surely = (others["difference_p_holm"] < 0.05).sum()
    said = f"for certain in {surely} of {len(others)} comparisons (p < 0.05 after Holm). Spearman"
    assert said in caption
    p = dict.fromkeys(others.index[:2], 0.049) | dict.fromkeys(others.index[2:4], 0.051)
    two = table.assign(difference=1.0, difference_p_holm=pd.Series(p))
    caption = translators.caption(two)
    assert f"for certain in 2 of {len(others)} comparisons" in caption
    assert caption.count("(certain)") == 2


# Findings: what they say that they were measured on


def test_a_question_about_one_task_refuses_several(tmp_path):
    one = made_up([1.0, 2, 3], ["en"])
    study = planted(tmp_path, {"A": one, "B": one}, {"A": {"en": normal((6, 4))}})
    for ask in (ladder.ladder, stability.stability, selection_frequency.selection_frequency):
        with pytest.raises(InputError, match="about one task, but the study has A, B; give one"):
            ask(study, ["en"], k=2)
    with pytest.raises(InputError, match="about one task, but the study has A, B; give one"):
        choice.honest_choice(study, study, ks=[2])


def test_the_honest_choice_records_what_it_was_chosen_on(choice_case):
    dev, test, _ = choice_case
    finding = choice.honest_choice(dev, test, ks=[2], seed=3)
    assert str(finding.facts).split(", ", 1)[1] == (
        "test, 12 pairs, dev dev with 12 pairs, languages en/ja/ru, PromptEOL, A^L, k = 2, seed 3"
    )
    record = finding.facts.record()
    assert [one["name"] for one in record["chosen_on"]] == ["dev"]
    assert [one["name"] for one in record["data"]] == ["test"]
    own = choice.table(dev, test, "T", "attn", [2], None, 3)
    pd.testing.assert_frame_equal(finding.table, own)


def test_stability_records_what_was_varied(stable_case):
    *_, study = stable_case
    others = {"dtype": {"float32": study, "again": study}, "template": {}}
    finding = stability.stability(study, "ja", k=4, others=others)
    assert ", 8 pairs, data type on 8 pairs, languages ja, PromptEOL" in str(finding.facts)
    varied = finding.facts.record()["varied"]
    assert list(varied) == ["dtype"]
    assert {name: one["dtype"] for name, one in varied["dtype"].items()} == {
        "float32": "float32",
        "again": "float32",
    }
    assert finding.table.set_index("varied").loc["dtype", "jaccard"] == 1


def test_translators_count_the_pairs_once_and_record_every_source(tmp_path):
    one = made_up([1.0, 2, 3], ["en", "zh"])
    rows = {code: normal((6, 4), seed, shift=3) for seed, code in enumerate(("en", "zh"))}
    study = planted(tmp_path, {"one": one, "two": one}, {"one": rows})
    finding = translators.translators(study, "zh", ["en", "zh"], k=2)
    assert finding.kind == "translators_zh"
    assert (finding.facts.label, finding.facts.size) == ("made up", 3)
    assert ", made up, 3 pairs, language zh, languages en/zh" in str(finding.facts)
    assert [one["task"] for one in finding.facts.record()["data"]] == ["one", "two"]
