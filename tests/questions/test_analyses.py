"""The paper's analyses against loops over vectors that were captured without a store."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from dysem_lab.data.sts import load_data
from dysem_lab.encoders.dysem import VECTORS
from dysem_lab.errors import InputError
from dysem_lab.evaluate import score
from dysem_lab.models.capture import capture
from dysem_lab.models.loading import load_model
from dysem_lab.models.store import VectorStore
from dysem_lab.prompts import SETTINGS, wrap
from dysem_lab.questions import components, decomposition, languages, layers, random_sets, scores
from dysem_lab.questions.names import SYMBOLS
from dysem_lab.questions.random_sets import draw_sets
from dysem_lab.questions.scores import pair_cosine
from dysem_lab.questions.study import Study
from tests.reference import dysem_pair

pytestmark = pytest.mark.usefixtures("_one_thread")
LANGUAGES = ("en", "ja", "ru")
SCORE = ["spearman", "low", "high", "n_dims", "n_pairs", "n_undefined"]


@pytest.fixture(scope="module")
def tasks():
    """Return sixteen pairs in three languages, and ten others in English and Japanese."""
    demo = load_data("demo", languages=LANGUAGES)
    fewer = demo.select(range(40, 50))
    fewer = replace(fewer, sentences={code: fewer.sentences[code] for code in ("en", "ja")})
    # Pair 9 is too long for a tokenizer of bytes under the template "knowledge".
    return {"many": demo.select([i for i in range(17) if i != 9]), "few": fewer}


@pytest.fixture(scope="module")
def study(tiny_lens, tasks, tmp_path_factory):
    store = VectorStore(tmp_path_factory.mktemp("vectors") / "v.sqlite", each="float32")
    made = Study(
        tiny_lens,
        tasks,
        languages=LANGUAGES,
        templates=("prompteol", "knowledge", "none"),
        store=store,
    )
    components = ("attn", "attn_raw", "ffn", "resid", "final")
    made.capture(components, each=("attn", "ffn"), progress=False)
    return made


@pytest.fixture(scope="module")
def one_task(study, tasks):
    """Return a study of the larger task alone, whose vectors are all in the store."""
    templates = ("prompteol", "none")
    many = {"many": tasks["many"]}
    return Study(study.lens, many, languages=LANGUAGES, templates=templates, store=study.store)


@pytest.fixture(scope="module")
def read(tiny_lens, tasks):
    """Return a function that captures one language of a task in double precision."""

    @cache
    def vectors(task, code, component="attn", setting="english", template="prompteol", layer=None):
        prompts = wrap(tasks[task].texts(code), template, setting, code)
        layers = "sum" if layer is None else "each"
        found = capture(tiny_lens, prompts, component, layers)[component]
        return (found if layer is None else found[:, layer]).double().numpy()

    return vectors


def cosines(vectors):
    n_pairs = len(vectors) // 2
    return [
        sum(a * b for a, b in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y)
        for x, y in zip(vectors[:n_pairs], vectors[n_pairs:], strict=True)
    ]


def dysem(by_language, source, k, vector):
    """Return the similarities of pairs and #Dim. by loops over the equations."""
    n_pairs, source = len(source) // 2, source.tolist()
    texts = list(zip(*(vectors.tolist() for vectors in by_language), strict=True))
    pairs = [
        dysem_pair(texts[i], texts[n_pairs + i], source[i], source[n_pairs + i], k, vector)
        for i in range(n_pairs)
    ]
    return [similarity for similarity, _ in pairs], sum(size for _, size in pairs) / n_pairs


def check(row, similarities, n_dims, gold, seed=0):
    """Compare a row with the score of similarities that were computed here."""
    assert row["spearman"] == pytest.approx(100 * spearmanr(similarities, gold).statistic, abs=1e-6)
    assert row["n_dims"] == pytest.approx(n_dims, abs=1e-6)
    assert (row["n_pairs"], row["n_undefined"]) == (len(gold), 0)
    expected = score(np.array(similarities), gold, seed=seed)
    assert row["low"] == pytest.approx(expected["low"], abs=1e-6)
    assert row["high"] == pytest.approx(expected["high"], abs=1e-6)


def rows(table):
    return [row for _, row in table.iterrows()]


# --- helpers


def test_pair_cosines_are_those_of_the_two_halves():
    vectors = torch.randn(12, 7, generator=torch.Generator().manual_seed(0))
    assert pair_cosine(vectors).tolist() == pytest.approx(cosines(vectors.double().numpy()))
    vectors[2] = 0
    with pytest.warns(UserWarning, match="1 of 6 pairs have no similarity"):
        found = pair_cosine(vectors)
    assert found.isnan().nonzero().tolist() == [[2]]


def test_random_sets_have_their_sizes_and_every_dimension_is_as_likely():
    sizes = torch.tensor([0, 1, 3, 8] * 2000)
    sets = draw_sets(sizes, 8, seed=5)
    assert torch.equal(sets.sum(-1), sizes)
    # Each count is binomial(2000, 3/8): standard deviation 22.
    assert (abs(sets[2::4].sum(0) - 750) < 110).all()
    assert torch.equal(sets, draw_sets(sizes, 8, seed=5))
    assert not torch.equal(sets, draw_sets(sizes, 8, seed=6))


# --- components


def test_component_scores_are_cosines_and_the_positive_dimensions_of_one_language(
    study, read, tasks
):
    table = components.components(study, k=6, seed=3).table
    labels = table[["task", "component", "method"]].values.tolist()
    assert labels == [
        [task, component, method]
        for task in tasks
        for component in ("resid", "attn", "ffn")
        for method in ("all dimensions", "DySem, m = 1")
    ]
    for row in rows(table):
        english = read(row["task"], "en", row["component"])
        if row["method"] == "all dimensions":
            similarities, n_dims = cosines(english), 32
        else:
            similarities, n_dims = dysem([english], english, 6, "mean")
        check(row, similarities, n_dims, tasks[row["task"]].gold, seed=3)


def test_attention_before_a_post_norm_is_scored_where_it_differs(tiny_folder, tasks, tmp_path):
    lens = load_model(tiny_folder("Gemma2"))
    study = Study(lens, tasks["few"], store=VectorStore(tmp_path / "v.sqlite"))
    table = components.components(study, k=0.5).table
    assert table["component"].unique().tolist() == ["resid", "attn", "attn_raw", "ffn"]
    plain = table[table["method"] == "all dimensions"].set_index("component")
    raw = capture(lens, wrap(tasks["few"].texts("en")), "attn_raw")["attn_raw"].double().numpy()
    check(plain.loc["attn_raw"], cosines(raw), 32, tasks["few"].gold)


def test_attention_before_a_post_norm_is_kept_where_it_is_all_that_was_asked_for(study):
    table = components.components(study, ["attn_raw"], k=6).table
    assert table["component"].tolist() == ["attn_raw"] * 4


# --- single languages


@pytest.mark.parametrize("component", ["attn", "resid"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_languages_are_ranked_by_their_plain_cosine(study, read, tasks, setting, component):
    table = scores.rank_languages(study, "many", setting=setting, component=component, seed=2)
    for row in rows(table):
        vectors = read("many", row["language"], component, setting)
        check(row, cosines(vectors), 32, tasks["many"].gold, seed=2)
    assert sorted(table["language"]) == sorted(LANGUAGES)
    assert table["spearman"].is_monotonic_decreasing
    assert table["rank"].tolist() == [1, 2, 3]
    assert set(table["task"]) == {"many"}
    assert set(table["setting"]) == {setting}


def test_languages_can_be_ranked_under_another_template(study, read, tasks):
    table = scores.rank_languages(study, "few", template="knowledge").set_index("language")
    assert set(table.index) == {"en", "ja"}
    assert set(table["setting"]) == {"english"}  # the study's first
    vectors = read("few", "ja", template="knowledge")
    check(table.loc["ja"], cosines(vectors), 32, tasks["few"].gold)


def test_single_languages_are_the_rankings_of_every_task_and_setting(study):
    table = languages.table(study, component="ffn", seed=1)
    groups = {key: part.reset_index(drop=True) for key, part in table.groupby(["task", "setting"])}
    assert set(groups) == {(task, setting) for task in ("many", "few") for setting in SETTINGS}
    for (task, setting), part in groups.items():
        expected = scores.rank_languages(study, task, setting=setting, component="ffn", seed=1)
        assert part.equals(expected)


def test_a_task_that_does_not_exist_is_named(study):
    with pytest.raises(InputError, match="unknown task 'STSB'; choose one of: many, few"):
        scores.rank_languages(study, "STSB")
    with pytest.raises(InputError, match="unknown task 'STSB'; choose one of: many, few"):
        languages.language_overlap(study, "STSB", setting="english")


def test_overlap_is_the_mean_jaccard_index_of_the_sets_of_two_languages(study, read):
    setting = "language-specific"
    overlap, chance = languages.overlaps(study, "many", setting, "attn", 5)
    assert overlap.index.tolist() == overlap.columns.tolist() == list(LANGUAGES)
    sets = {}
    for code in LANGUAGES:
        sets[code] = []
        for row in read("many", code, setting=setting):
            positive = [(-value, j) for j, value in enumerate(row) if value > 0]
            sets[code].append({j for _, j in sorted(positive)[:5]})
    for a in LANGUAGES:
        for b in LANGUAGES:
            values = [len(x & y) / len(x | y) for x, y in zip(sets[a], sets[b], strict=True)]
            assert overlap.loc[a, b] == pytest.approx(sum(values) / len(values), abs=1e-6)
    assert {len(one) for of_code in sets.values() for one in of_code} == {5}
    # Two random sets of 5 of 32 share 25/32 on average.
    assert chance == pytest.approx((25 / 32) / (10 - 25 / 32))


# --- the grid


def naive_order(read, tasks, task, setting, component="attn", template="prompteol"):
    """Return the languages of a task, the best plain cosine first."""
    scores = {
        code: spearmanr(
            cosines(read(task, code, component, setting, template)), tasks[task].gold
        ).statistic
        for code in tasks[task].languages
    }
    return sorted(scores, key=scores.__getitem__, reverse=True)


def test_every_row_of_the_grid_is_its_own_definition(study, read, tasks):
    """Order of languages, cells and scores, all from vectors that never saw the store."""
    table = scores.grid(study, [4, 0.5], components=("attn", "resid"), seed=4)
    labels = ["task", "template", "setting", "component", "m", "k", "vector"]
    assert {tuple(row) for row in table[labels].values.tolist()} == {
        (task, template, setting, component, m, k, vector)
        for task, data in tasks.items()
        for template in ("prompteol", "knowledge")
        for setting in SETTINGS
        for component in ("attn", "resid")
        for m in range(1, len(data.languages) + 1)
        for k in (4, 0.5)
        for vector in VECTORS
    }
    assert len(table) == 2 * 2 * 2 * (3 + 2) * 2 * 2
    orders = set()
    for row in rows(table):
        task, template, setting, component = (row[name] for name in labels[:4])
        order = naive_order(read, tasks, task, setting, component, template)[: row["m"]]
        assert row["languages"] == "/".join(order)
        orders.add(row["languages"])
        by_language = [read(task, code, component, setting, template) for code in order]
        source = read(task, "en", component, template=template)
        k = 4 if row["k"] == 4 else 16
        similarities, n_dims = dysem(by_language, source, k, row["vector"])
        check(row, similarities, n_dims, tasks[task].gold, seed=4)
    assert len(orders) > 5  # or the order would not have been tested


def test_an_order_of_languages_can_be_given(one_task, read, tasks):
    order = ["ru", "en"]
    table = scores.grid(one_task, [6], [2], vectors=["source"], languages=order)
    assert table["languages"].tolist() == ["ru/en"] * 2
    by_setting = {"english": ["ja"], "language-specific": ["ru", "ja", "en"]}
    table = scores.grid(one_task, [6], vectors=["source"], languages=by_setting)
    assert table[["setting", "m", "languages"]].values.tolist() == [
        ["english", 1, "ja"],
        ["language-specific", 1, "ru"],
        ["language-specific", 2, "ru/ja"],
        ["language-specific", 3, "ru/ja/en"],
    ]
    # The source stays English whether or not it is in the consensus.
    similarities, n_dims = dysem([read("many", "ja")], read("many", "en"), 6, "source")
    check(table.iloc[0], similarities, n_dims, tasks["many"].gold)


def test_a_task_without_so_many_languages_uses_all_that_it_has(study):
    table = scores.grid(study, [6], [3, 2], vectors=["mean"], languages=LANGUAGES)
    found = table[["task", "template", "setting", "m"]].values.tolist()
    assert [row[::3] for row in found if row[1:3] == ["prompteol", "english"]] == [
        ["many", 3],
        ["many", 2],
        ["few", 2],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ks": [0]}, "k must be an integer >= 1"),
        ({"ms": [4]}, "m must be between 1 and 3 languages, got 4"),
        ({"ms": [0]}, "m must be between 1 and 3 languages, got 0"),
        ({"ms": [3], "languages": ["en", "ja"]}, "between 1 and 2 languages, got 3"),
        ({"vectors": ["median"]}, "'median'; did you mean 'mean'. choose one of: source, mean"),
        ({"components": ["heads"]}, "unknown component 'heads'; choose one of: attn"),
        ({"languages": ["en", "de"]}, "unknown language 'de'; choose one of: en, ja, ru"),
        ({"languages": ["en", "ja", "en"]}, "one or more different codes"),
        (
            {"languages": {"english": ["en"]}},
            "unknown prompt setting with an order of languages 'language-specific'; .*: english",
        ),
    ],
)
def test_settings_of_the_grid_that_make_no_sense_are_refused(study, arguments, message):
    with pytest.raises(InputError, match=message):
        scores.grid(study, **{"ks": [4], **arguments})


def test_plain_scores_are_the_cosines_of_each_template(study, read, tasks):
    table = scores.plain_scores(study, {"final": "final", "attn": "attn"}, 2)
    assert table[["task", "template", "component"]].values.tolist() == [
        [task, template, component]
        for task in tasks
        for template in ("prompteol", "knowledge", "none")
        for component in ("final", "attn")
    ]
    for row in rows(table):
        vectors = read(row["task"], "en", row["component"], template=row["template"])
        check(row, cosines(vectors), 32, tasks[row["task"]].gold, seed=2)


# --- layers


@pytest.mark.parametrize("component", ["attn", "ffn"])
def test_layers_alone_and_summed_are_their_own_definitions(study, read, tasks, component):
    order = {"english": ["ja", "en", "ru"], "language-specific": ["ru", "ja", "en"]}
    table = layers.table(study, 2, component=component, k=5, languages=order, seed=6)
    labels = ["task", "setting", "vector", "kind", "layer"]
    assert {tuple(row) for row in table[labels].values.tolist()} == {
        (task, setting, vector, kind, layer)
        for task in tasks
        for setting in SETTINGS
        for vector in VECTORS
        for kind in ("layer-wise", "cumulative")
        for layer in range(3)
    }
    assert len(table) == 2 * 2 * 2 * 2 * 3
    for row in rows(table):
        task, setting, vector, kind, layer = (row[name] for name in labels)
        codes = [code for code in order[setting] if code in tasks[task].languages][:2]
        assert row["languages"] == "/".join(codes)
        first = layer if kind == "layer-wise" else 0

        def vectors(code, setting, task=task, first=first, layer=layer):
            parts = (read(task, code, component, setting, layer=i) for i in range(layer + 1))
            return sum(list(parts)[first:])

        by_language = [vectors(code, setting) for code in codes]
        similarities, n_dims = dysem(by_language, vectors("en", "english"), 5, vector)
        check(row, similarities, n_dims, tasks[task].gold, seed=6)


def test_the_last_sum_over_layers_is_the_cumulative_vector_of_the_grid(study):
    of_layers = layers.table(study, 2, k=6)
    last = of_layers[(of_layers["kind"] == "cumulative") & (of_layers["layer"] == 2)]
    columns = ["task", "setting", "vector", "languages"]
    grid = scores.grid(study, [6], [2])
    grid = grid[grid["template"] == "prompteol"].set_index(columns)
    assert len(last) == len(grid) == 2 * 2 * 2
    for row in rows(last):
        expected = grid.loc[tuple(row[columns])]
        assert row[SCORE].tolist() == pytest.approx(expected[SCORE].tolist(), abs=1e-6)


def test_layers_of_more_pairs_than_fit_at_once_are_put_together(one_task, monkeypatch):
    arguments = {"k": 6, "languages": ["ja", "ru"]}  # so that English is read apart
    whole = layers.table(one_task, 2, **arguments)
    monkeypatch.setattr("dysem_lab.questions.grid.PAIRS_PER_CHUNK", 5)
    chunked = layers.table(one_task, 2, **arguments)
    assert chunked.drop(columns=SCORE).equals(whole.drop(columns=SCORE))
    np.testing.assert_allclose(chunked[SCORE], whole[SCORE], atol=1e-9)


def test_a_task_with_fewer_languages_uses_all_it_has(study):
    table = layers.table(study, 3, k=6, vectors=["mean"], languages=LANGUAGES)
    assert set(table.loc[table["task"] == "many", "languages"]) == {"en/ja/ru"}
    assert set(table.loc[table["task"] == "few", "languages"]) == {"en/ja"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"m": 4}, "m must be between 1 and 3 languages, got 4"),
        ({"m": 3, "languages": ["en", "ja"]}, "between 1 and 2 languages, got 3"),
        # h^l is a sum already: summing it over layers again has no meaning.
        ({"component": "resid"}, "'resid'; choose one of: attn, attn_raw, ffn"),
        ({"component": "final"}, "'final'; choose one of: attn, attn_raw, ffn"),
        ({"component": "heads"}, "'heads'; choose one of: attn, attn_raw, ffn"),
        ({"vectors": ["median"]}, "unknown vector 'median'"),
        ({"k": 0}, "k must be an integer >= 1"),
        ({"languages": ["en", "de"]}, "unknown language 'de'; choose one of: en, ja, ru"),
    ],
)
def test_settings_of_layers_that_make_no_sense_are_refused(study, arguments, message):
    with pytest.raises(InputError, match=message):
        layers.table(study, **{"m": 2, **arguments})


# --- parts of the stream, and random sets


def test_every_row_of_the_decomposition_is_its_own_definition(study, read, tasks):
    languages = ["ja", "en"]
    table = decomposition.table(study, languages, k=6, components=("attn", "ffn"), seed=5)
    assert len(table) == 2 * (5 + 2 * 2 * 2)
    for task, part in table.groupby("task", sort=False):
        gold = tasks[task].gold
        rest = iter(rows(part))
        for method, component, template in (
            ("mean pooling", "mean", "none"),
            ("PromptEOL, N(h^L)", "final", "prompteol"),
            ("h^L", "resid", "prompteol"),
            ("A^L", "attn", "prompteol"),
            ("F^L", "ffn", "prompteol"),
        ):
            row = next(rest)
            assert (row["method"], row["component"]) == (method, component)
            check(row, cosines(read(task, "en", component, template=template)), 32, gold, seed=5)
            assert math.isnan(row["gain"])
        for row in rest:
            component, setting, vector = (row[name] for name in ("component", "setting", "vector"))
            symbol = SYMBOLS[component]
            assert row["group"] == f"DySem on {symbol}"
            assert row["method"] == f"DySem {symbol}, {setting}, {vector}"
            english = read(task, "en", component)
            by_language = [read(task, code, component, setting) for code in languages]
            similarities, n_dims = dysem(by_language, english, 6, vector)
            check(row, similarities, n_dims, gold, seed=5)
            plain = 100 * spearmanr(cosines(english), gold).statistic
            assert row["gain"] == pytest.approx(row["spearman"] - plain, abs=1e-6)
            assert row["gain_low"] <= row["gain"] <= row["gain_high"]
        chosen = part.dropna(subset="setting")
        assert len(chosen.drop_duplicates(["component", "setting", "vector"])) == 8


def test_the_decomposition_names_the_prompt_that_was_used(tiny_lens, tmp_path):
    of_pairs = load_data("demo", languages=("en", "ja")).head(6)
    store = VectorStore(tmp_path / "v.sqlite")
    study = Study(
        tiny_lens,
        of_pairs,
        languages=["ja"],
        templates=["pretended_cot", "none"],
        store=store,
    )
    study.capture(["final", "resid", "attn", "ffn", "mean"], progress=False)
    table = decomposition.table(study, ["en", "ja"])
    assert "Pretended CoT, N(h^L)" in set(table["method"])
    assert ", Pretended CoT " in decomposition.caption(table)


def test_a_language_that_a_task_lacks_is_an_error_and_not_left_out(study):
    with pytest.raises(InputError, match="unknown language 'ru'; choose one of: en, ja"):
        decomposition.table(study, LANGUAGES, k=6)
    with pytest.raises(InputError, match="unknown language 'ru'; choose one of: en, ja"):
        random_sets.random_sets(study, LANGUAGES)


@pytest.mark.parametrize("vector", VECTORS)
def test_random_sets_are_compared_at_the_size_of_the_joint_sets(one_task, read, tasks, vector):
    languages, gold = ["ru", "ja"], tasks["many"].gold
    asked = {"vector": vector, "ks": [3, 0.5], "n_seeds": 2, "seed": 7}
    table = random_sets.random_sets(one_task, languages, **asked).table
    assert len(table) == 2 * (1 + 2 * 2) + 1
    by_language = [read("many", code) for code in languages]
    source = read("many", "en")
    v = source if vector == "source" else sum(by_language) / 2
    texts = list(zip(*by_language, strict=True))
    for k, of_k in table[table["kind"] != "all dimensions"].groupby("k"):
        k = 3 if k == 3 else 16
        similarities, n_dims = dysem(by_language, source, k, vector)
        semantic = of_k[of_k["kind"] == "semantic"].iloc[0]
        check(semantic, similarities, n_dims, gold, seed=7)
        sizes = [
            dysem_pair(texts[i], texts[16 + i], source[i], source[16 + i], k, vector)[1]
            for i in range(16)
        ]
        shared = [round(n_dims)] * 16
        for kind, wanted in (("random, per pair", sizes), ("random, shared", shared)):
            found = of_k[of_k["kind"] == kind].set_index("random_seed")
            assert found.index.tolist() == [7, 8]
            for draw, row in found.iterrows():
                mask = draw_sets(torch.tensor(wanted), 32, int(draw)).numpy()
                mask = mask if kind == "random, per pair" else mask[[0] * 16]
                drawn = [cosines(v[[i, 16 + i]][:, mask[i]])[0] for i in range(16)]
                check(row, drawn, sum(wanted) / 16, gold, seed=7)
    dense = table[table["kind"] == "all dimensions"].iloc[0]
    check(dense, cosines(v), 32, gold, seed=7)


def test_what_an_analysis_reads_was_captured_by_the_study(study, one_task, monkeypatch):
    """After capture no analysis runs the model, whatever it is asked for."""

    def refuse(*_):
        raise AssertionError("a forward pass")

    monkeypatch.setattr("dysem_lab.models.record.forward", refuse)
    components.components(study)
    languages.table(study, component="resid")
    scores.grid(study, [0.25], components=("ffn",))
    layers.table(study, 2, component="ffn")
    decomposition.table(one_task, LANGUAGES, components=("attn", "ffn"))
    of_sets = random_sets.random_sets(one_task, LANGUAGES, n_seeds=1)
    assert "PromptEOL, English prompts, " in str(of_sets.facts).replace("\u00a0", " ")
    overlap = languages.language_overlap(study, "many", setting="english")
    assert "PromptEOL, task many, " in str(overlap.facts)
    alone = languages.language_overlap(one_task, setting="english")
    assert "task" not in str(alone.facts)  # it is named as the data
    assert alone.facts.record()["parameters"]["task"] in one_task.data
