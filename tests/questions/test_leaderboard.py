"""Systems by name and the leaderboard: scores, averages and layouts against other computations."""

import csv
import io
import itertools
import json
import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

import dysem_lab as dl
from dysem_lab.encoders.systems import DYSEM, NAMES, PARAPHRASED, TRAINED, TRAINING_FREE
from dysem_lab.errors import InputError
from dysem_lab.models.record import counted
from dysem_lab.models.store import VectorStore
from dysem_lab.questions import leaderboard as board
from dysem_lab.questions import leaderboard_picture as pictures

pytestmark = pytest.mark.usefixtures("_one_thread")


@pytest.fixture(scope="module")
def data():
    whole = dl.load_data("demo", languages=["en", "fr", "de"])
    return {"one": whole.select(range(0, 60, 3)), "two": whole.select(range(1, 60, 4))}


@pytest.fixture(scope="module")
def encoders(tiny_lens):
    return {
        "mean": dl.MeanPooling(tiny_lens),
        "prompteol": dl.PromptEncoder(tiny_lens),
        "dysem": dl.DySem(tiny_lens, ["en", "fr"], k=0.25),
    }


@pytest.fixture(scope="module")
def table(encoders, data):
    return dl.score_systems(encoders, data, n_timed=4, rounds=1, progress=False)


def row_of(table, system, task):
    (row,) = table[(table["system"] == system) & (table["task"] == task)].to_dict("records")
    return row


# Scores


def test_scores_are_spearman_of_each_system_s_own_similarity(table, encoders, data):
    for (name, encoder), pairs in itertools.product(encoders.items(), data.values()):
        similarities = []
        for a, b, *renderings in zip(*pairs.sentences["en"], *pairs.sentences["fr"], strict=True):
            extra = {"renderings": {"fr": renderings}} if name == "dysem" else {}
            e = encoder.encode([a, b], progress=False, **extra)
            similarities.append(encoder.similarity(e[:1], e[1:]).item())
        expected = 100 * spearmanr(similarities, pairs.gold).statistic
        task = [task for task, each in data.items() if each is pairs]
        found = table[(table["system"] == name)].iloc[list(data).index(*task)]
        assert found["spearman"] == pytest.approx(expected, abs=0.2)
        assert found["low"] <= found["spearman"] <= found["high"]
        assert found["n_pairs"] == len(pairs)


def test_the_average_is_the_mean_of_the_tasks(table, encoders):
    for name in encoders:
        of_system = table[table["system"] == name]
        tasks, average = of_system.iloc[:-1], of_system.iloc[-1]
        assert average["task"] == "Avg."
        for column in ("spearman", "n_dims"):
            assert average[column] == pytest.approx(tasks[column].mean())
        assert average["n_pairs"] == tasks["n_pairs"].sum()


def test_dysem_s_dimensions_are_the_mean_size_of_its_joint_sets(table, encoders, data):
    for position, pairs in enumerate(data.values()):
        sizes = []
        for (a, b), (x, y) in zip(
            zip(*pairs.sentences["en"], strict=True),
            zip(*pairs.sentences["fr"], strict=True),
            strict=True,
        ):
            e = encoders["dysem"].encode([a, b], renderings={"fr": [x, y]}, progress=False)
            sizes.append(int((e.sets[0] | e.sets[1]).sum()))
        found = table[table["system"] == "dysem"].iloc[position]
        assert found["n_dims"] == pytest.approx(np.mean(sizes), abs=0.2)


def test_a_system_without_renderings_has_no_score_and_says_why(encoders, data):
    english = {"one": data["one"], "two": dl.load_data("demo").head(9)}
    table = dl.score_systems(encoders, english, n_timed=0, progress=False)
    row = table[table["system"] == "dysem"].iloc[1]
    assert math.isnan(row["spearman"])
    assert row["n_undefined"] == 9
    assert "no rendering of 18 texts" in row["note"]
    assert "give DySem a translator" in row["note"]
    average = row_of(table, "dysem", "Avg.")
    assert math.isnan(average["spearman"])
    assert average["note"] == "no score on two"
    assert not table[table["system"] != "dysem"]["spearman"].isna().any()
    assert table["seconds"].isna().all()


def test_a_translator_is_used_in_place_of_the_data_s_renderings(tiny_lens, data):
    words = {"en": data["one"].texts("en"), "fr": data["one"].texts("de")}
    other = dl.DySem(tiny_lens, ["en", "fr"], dl.ParallelTable(words), k=0.25)
    plain = dl.DySem(tiny_lens, ["en", "fr"], k=0.25)
    both = dl.score_systems({"a": other, "b": plain}, {"one": data["one"]}, n_timed=0)
    assert both["spearman"][0] != both["spearman"][1]


def test_each_system_may_be_centred_on_other_texts_beside_it(tiny_lens, tmp_path):
    store = VectorStore(tmp_path / "v.sqlite")
    study = dl.Study(tiny_lens, "demo", languages=["en", "fr"], pairs=12, store=store)
    other = dl.load_data("demo", languages=["en", "fr"]).select(range(60, 72))
    names = ["prompteol", "dysem"]
    table = dl.leaderboard(study, names, centred_on=other, n_timed=4).table.set_index("system")
    for name in names:  # to subtract a mean takes no time that is measured
        assert table["seconds"][f"{name}_centred"] == table["seconds"][name] > 0
    assert (table["n_timed"] == 4).all()
    assert list(table.index) == ["prompteol", "dysem", "prompteol_centred", "dysem_centred"]
    one, pairs = dl.PromptEncoder(tiny_lens), study.data["demo"]
    mean = one.encode(other.texts("en"), progress=False).vectors.mean(0)
    read = one.encode(pairs.texts("en"), progress=False).vectors - mean
    similarity = torch.nn.functional.cosine_similarity(read[:12], read[12:])
    expected = 100 * spearmanr(similarity, pairs.gold).statistic
    assert table["spearman"]["prompteol_centred"] == pytest.approx(expected, abs=0.05)
    assert table["n_dims"]["dysem_centred"] == table["n_dims"]["dysem"]  # the sets stay
    assert (table["kind"] == "training-free").all()
    found = dl.leaderboard(study, names, centred_on=other, n_timed=0)
    gains = [table["spearman"][f"{name}_centred"] - table["spearman"][name] for name in names]
    said = (
        f"{sum(gain > 0 for gain in gains)} of 2 score more, the median by {np.median(gains):+.1f}"
    )
    assert "of 2 systems: best without" in found.caption
    assert f"centred on other texts {said}" in found.caption
    assert "not scored" not in found.caption
    # One row for each system; the score on centred vectors is a diamond on it.
    rows = set(found.figure.layout.yaxis.categoryarray)
    assert rows == {table["method"][name] for name in names}
    (diamonds,) = [x for x in found.figure.data if "diamond" in str(x.name)]
    assert dict(zip(diamonds.y, diamonds.x, strict=True)) == pytest.approx(
        {table["method"][name]: table["spearman"][f"{name}_centred"] for name in names}
    )
    with pytest.raises(InputError, match="centred_on has 24 texts of those that are scored"):
        dl.leaderboard(study, names, centred_on="demo")


# Models of few blocks


@pytest.mark.filterwarnings("ignore:.*have no similarity")
def test_systems_that_a_model_has_too_few_blocks_for_are_left_out_and_named(tiny_lens, tmp_path):
    store = VectorStore(tmp_path / "v.sqlite")
    study = dl.Study(tiny_lens, "demo", languages=["en"], pairs=4, store=store)
    assert tiny_lens.n_layers == 3
    deep = [name for name in TRAINING_FREE if name.startswith(("tp", "cp"))]
    # The papers' settings change blocks 1 to 6, or contrast at block 4 or 6.
    with pytest.warns(UserWarning, match="is left out: ") as told:
        finding = dl.leaderboard(study, "all", n_timed=0)
    assert [str(one.message).split()[0] for one in told] == deep
    others = [name for name in TRAINING_FREE if name not in deep]
    assert finding.table["system"].tolist() == [*others, *PARAPHRASED]
    left_out = f" Left out, as the model's 3 blocks are too few for them: {', '.join(deep)}."
    assert left_out in finding.caption
    other = dl.Study(tiny_lens, "demo", pairs=4, store=VectorStore(tmp_path / "other.sqlite"))
    for name in ("tp", "cp_ns"):
        with counted(tiny_lens) as work, pytest.raises(InputError, match=r"block|layer"):
            dl.leaderboard(other, ["prompteol", name], n_timed=0)
        assert not work.rows


# Settings chosen on other pairs


@pytest.fixture(scope="module")
def deep_lens(tiny_folder):
    return dl.load_model(tiny_folder("Llama", 8))


@pytest.fixture(scope="module")
def choice_case(deep_lens, tmp_path_factory):
    """Return (pairs to choose on, study of other pairs, finding)."""
    whole = dl.load_data("demo", languages=["en", "fr"])
    dev, test = whole.select(range(60, 76)), whole.select(range(16))
    store = VectorStore(tmp_path_factory.mktemp("choice") / "v.sqlite")
    study = dl.Study(deep_lens, {"demo": test}, languages=["en", "fr"], store=store)
    names = ["prompteol", "cp_ns", "cp_nr", "dysem", "dysem_source"]
    return dev, study, dl.leaderboard(study, names, chosen_on=dev, n_timed=0)


def score_of(encoder, pairs):
    e1, e2 = (
        encoder.encode(pairs.sentences["en"][i], progress=False)
        if encoder.dense
        else encoder.encode(
            pairs.sentences["en"][i],
            renderings={"fr": pairs.sentences["fr"][i]},
            progress=False,
        )
        for i in range(2)
    )
    similarity = encoder.similarity_pairwise(e1, e2)
    return 100 * spearmanr(similarity, pairs.gold, nan_policy="omit").statistic


@pytest.mark.filterwarnings("ignore:.*have no similarity")
def test_the_chosen_settings_are_the_best_of_the_grid_on_the_other_pairs(choice_case, deep_lens):
    dev, study, finding = choice_case
    table = finding.table.set_index("system")
    fixed = ["prompteol", "cp_ns", "cp_nr", "dysem", "dysem_source"]
    assert list(table.index) == [*fixed, "cp_ns_chosen", "cp_nr_chosen", "dysem_chosen"]
    grids = {
        "cp_ns": [
            dl.ContrastivePrompting(deep_lens, layer, alpha=alpha)
            for layer in (1, 2, 3, 4)  # an eighth to a half of 8 blocks
            for alpha in (0.5, 1, 2, 4)
        ],
        "cp_nr": [dl.ContrastivePrompting(deep_lens, i, norm="recovering") for i in (1, 2, 3, 4)],
        "dysem": [
            dl.DySem(deep_lens, ["en", "fr"], k=k, component=c, setting=s, vector=v)
            for c in ("attn", "resid")
            for s in ("english", "language-specific")
            for v in ("mean", "source")
            for k in (0.125, 0.25, 0.5)
        ],
    }
    for name, grid in grids.items():
        row = table.loc[f"{name}_chosen"]
        on_dev = [score_of(encoder, dev) for encoder in grid]
        assert row["n_tried"] == len(grid)
        assert row["choosing_score"] == pytest.approx(max(on_dev), abs=0.3)  # rounding may swap two
        settings = json.loads(row["settings"])
        named = {"model": Path(deep_lens.name).name}  # of a path the table has the last part
        (best,) = [encoder for encoder in grid if encoder.config | named == settings]
        assert score_of(best, dev) == pytest.approx(max(on_dev), abs=0.3)
        assert row["spearman"] == pytest.approx(score_of(best, study.data["demo"]), abs=0.3)
        assert row["chosen_on"] == "demo"
        assert f"(best of {len(grid)} on demo)" in row["method"]
    assert (table.loc[fixed, "n_tried"] == 0).all()
    assert table.loc[fixed, "choosing_score"].isna().all()
    assert (table.loc[fixed, "chosen_on"] == "").all()


def test_the_caption_says_what_was_chosen_of_how_many_and_where(choice_case):
    _, _, finding = choice_case
    row = finding.table.set_index("system").loc["cp_ns_chosen"]
    settings = json.loads(row["settings"])
    said = f"PromptEOL + CP-NS, block {settings['layer'] + 1}, α = {settings['alpha']:g} (best of"
    assert row["method"].startswith(said)
    paper = finding.table.set_index("system").loc["cp_ns", "spearman"]
    assert "at settings chosen on other pairs " in finding.caption
    assert f"{said} 16 on demo) {row['spearman']:.1f} [" in finding.caption
    there = f"{row['choosing_score']:.1f} where it was chosen, at its paper's settings"
    assert f"({there} {paper:.1f})" in finding.caption
    recorded = finding.facts.record()["parameters"]["chosen_on"]
    assert recorded.startswith("demo, 16 pairs (")
    assert "that are scored" not in finding.caption


def test_without_other_pairs_the_caption_says_that_nothing_was_chosen(choice_case):
    dev, study, _ = choice_case
    finding = dl.leaderboard(study, ["prompteol", "cp_ns"], n_timed=0)
    assert "every system is at its paper's settings, none chosen on dev pairs" in finding.caption
    whole = dl.load_data("demo", languages=["en", "fr"])
    both = whole.select(range(12, 28))  # four of the scored pairs
    first, second = both.sentences["en"]  # in other letters, and in the other order
    changed = {"en": ([f"{text.upper()} !" for text in second], first)}
    both = both.__class__(**{**both.__dict__, "sentences": changed})
    finding = dl.leaderboard(study, ["cp_nr"], chosen_on=both, n_timed=0)
    assert "Settings were chosen on 12 pairs of demo, without the 4 that are" in finding.caption
    alone = whole.select(range(16, 28))
    rest = {"en": tuple(side[4:] for side in changed["en"])}
    unscored = alone.__class__(**{**alone.__dict__, "sentences": rest})
    same = dl.leaderboard(study, ["cp_nr"], chosen_on=unscored, n_timed=0).table
    assert same["choosing_score"][1] == pytest.approx(finding.table["choosing_score"][1])
    with pytest.raises(InputError, match="16 pairs, of which all but 0 are scored; give others"):
        dl.leaderboard(study, ["cp_nr"], chosen_on=study.data["demo"], n_timed=0)
    with pytest.raises(InputError, match="chosen_on must be pairs of load_data"):
        dl.leaderboard(study, ["cp_nr"], chosen_on="demo", n_timed=0)
    english = dev.__class__(**{**dev.__dict__, "sentences": {"en": dev.sentences["en"]}})
    with pytest.warns(UserWarning, match=r"dysem_chosen is left out: no rendering of 32 texts"):
        table = dl.leaderboard(study, ["prompteol", "dysem"], chosen_on=english, n_timed=0).table
    assert table["system"].tolist() == ["prompteol", "dysem"]


# Passes that several systems read


def test_what_several_systems_read_is_run_once_and_the_numbers_stay(deep_lens, data, tmp_path):
    names = ["mean", "va", "prompteol", "embed_filter", "wva", "aligned_wva", "cp_ns", "cp_nr"]
    systems = dl.named_systems(deep_lens, names)
    tokens, tables = [], []
    for together in (False, True):
        store = VectorStore(tmp_path / f"{together}.sqlite")
        with counted(deep_lens) as work:
            parts = [systems] if together else [{name: of} for name, of in systems.items()]
            found = [dl.score_systems(of, data, store=store, n_timed=0) for of in parts]
        tokens.append(work.tokens)
        tables.append(pd.concat(found).sort_values(["system", "task"], ignore_index=True))
    columns = ["system", "task", "spearman", "n_dims", "n_pairs"]
    pd.testing.assert_frame_equal(tables[0][columns], tables[1][columns], rtol=0, atol=0.05)
    # By themselves seven passes, as EmbedFilter reads PromptEOL's, and twice the auxiliary prompt
    # through five blocks. Together a pass without a prompt and one with it, the contrasts on one
    # more, and the auxiliary prompt once.
    assert tokens[1] < 0.5 * tokens[0]
    alone = {}
    for name, of in systems.items():
        alone[name] = dl.score_systems({name: of}, data, n_timed=0).set_index("task")["spearman"]
    shared = tables[1].set_index(["system", "task"])["spearman"]
    for name, scores in alone.items():
        assert shared[name].to_dict() == pytest.approx(scores.to_dict(), abs=0.05)


# Smaller samples


def test_systems_of_several_passes_may_have_a_smaller_sample(tiny_lens, encoders, data):
    table = dl.score_systems(encoders, data, several=6, n_timed=0, seed=3, progress=False)
    of = table.set_index(["system", "task"])
    for task, pairs in data.items():
        assert of.loc[("prompteol", task), "n_pairs"] == len(pairs)
        row = of.loc[("dysem", task)]
        assert row["n_pairs"] + row["n_undefined"] == 6
        expected = score_of(encoders["dysem"], pairs.sample(6, 3))
        assert row["spearman"] == pytest.approx(expected, abs=0.2)
    assert of.loc[("prompteol", "Avg."), "n_pairs"] == sum(map(len, data.values()))
    with pytest.raises(InputError, match="several must be a whole number of at least 1, got 0"):
        dl.score_systems(encoders, data, several=0)


def test_a_sample_of_several_passes_is_said(tiny_lens, tmp_path):
    store = VectorStore(tmp_path / "v.sqlite")
    study = dl.Study(tiny_lens, "demo", languages=["en", "fr"], pairs=12, store=store)
    finding = dl.leaderboard(study, ["prompteol", "dysem"], several=8, n_timed=0)
    assert "several passes are scored on a random sample of 8 pairs of each" in finding.caption
    assert "systems of several passes on at most 8 random pairs a task" in str(finding.facts)
    for methods, several in ((["prompteol", "dysem"], 12), ("prompteol", 8)):  # nothing is left out
        whole = dl.leaderboard(study, methods, several=several, n_timed=0)
        assert "random sample" not in whole.caption


def test_of_english_alone_settings_that_are_the_same_are_one(deep_lens, choice_case, tmp_path):
    dev, study, _ = choice_case
    english = dl.Study(deep_lens, study.data, store=VectorStore(tmp_path / "v.sqlite"))
    found = dl.leaderboard(english, "dysem", chosen_on=dev, n_timed=0)
    row = found.table.set_index("system").loc["dysem_chosen"]
    assert row["n_tried"] == 6  # component and k; prompt setting and v(x) change nothing
    assert "(best of 6 on demo)" in row["method"]


@pytest.mark.filterwarnings("ignore:Spearman is undefined")
def test_a_leaderboard_without_any_score_says_so(tiny_lens, data):
    study = dl.Study(tiny_lens, {"one": data["one"].select([0])}, languages=["en", "fr"])
    found = dl.leaderboard(study, ["prompteol", "dysem"], n_timed=0)
    assert found.caption == "Spearman × 100: no system has a score."
    alone = dl.leaderboard(study.on({"two": data["two"]}), "prompteol", n_timed=0)
    assert "others" not in alone.caption


# The cost of renderings


class Slow:
    """A translator that takes a tenth of a second per language."""

    name = "slow"

    def __init__(self):
        self.asked = []

    def translate(self, texts, source, target):
        self.asked.append((len(texts), target))
        time.sleep(0.1)
        return [f"{text} {target}" for text in texts]


def test_the_making_of_renderings_is_timed_without_the_cache(tiny_lens, data, tmp_path):
    by = Slow()
    cached = dl.CachedTranslator(by, tmp_path / "t.sqlite")
    one = data["one"]
    words = {code: one.texts(code) for code in one.languages}
    systems = {
        "prompteol": dl.PromptEncoder(tiny_lens),
        "made": dl.DySem(tiny_lens, ["en", "fr", "de"], cached, k=0.25),
        "same": dl.DySem(tiny_lens, ["en", "fr", "de"], cached, k=0.5),
        "table": dl.DySem(tiny_lens, ["en", "fr"], dl.ParallelTable(words), k=0.25),
        "given": dl.DySem(tiny_lens, ["en", "fr"], k=0.25),
    }
    table = dl.score_systems(systems, {"one": one}, n_timed=8, rounds=2, progress=False)
    of = table.set_index("system")
    added = of["with_renderings"] - of["seconds"]
    assert added["prompteol"] == 0
    # Two languages of a tenth of a second for 8 texts, as 1,000 texts.
    assert added["made"] == added["same"]
    assert added["made"] == pytest.approx(1000 * 0.2 / 8, rel=0.3)
    assert added[["table", "given"]].isna().all()
    n_different = len(set(one.sample(4, 0).texts("en")))
    assert by.asked[-4:] == [(n_different, code) for code in ("fr", "de")] * 2
    wide = board.wide(table)
    assert wide["with renderings"].isna().sum() == 2
    markdown = board.rendered(table, "markdown").splitlines()
    assert sum("not timed" in line for line in markdown) == 2
    caption, figure = pictures.caption(table), pictures.figure(table, "")
    assert "(? where they are of the data and not timed)" in caption
    said = [text for trace in figure.data for text in (trace.text or ()) if trace.xaxis == "x2"]
    assert sum(text.endswith(" + ?") for text in said) == 2
    assert sum(f" + {added['made']:.0f}" in text for text in said) == 2
    hollow = [trace for trace in figure.data if str(trace.name).startswith("hollow")]
    assert sorted(hollow[0].x) == pytest.approx(sorted(of.loc[["made", "same"], "with_renderings"]))


def test_geneol_is_there_where_paraphrases_are(tiny_lens, tmp_path):
    store = VectorStore(tmp_path / "v.sqlite")
    study = dl.Study(tiny_lens, "demo", pairs=12, store=store)
    finding = dl.leaderboard(study, ["prompteol", "geneol"], n_timed=0)
    row = finding.table.set_index("system").loc["geneol"]
    assert row["method"] == "PromptEOL + GenEOL (4 paraphrases)"
    assert '"translator": "demo set ' in row["settings"]
    assert Path(tiny_lens.name).is_absolute()  # which no table has: a path is of one machine
    assert row["model"] == json.loads(row["settings"])["model"] == Path(tiny_lens.name).name
    data = dl.load_data("demo", languages=["en", *(f"en-{i}" for i in (1, 2, 3, 4))]).head(12)
    one = dl.PromptEncoder(tiny_lens)
    read = [one.encode(data.texts(code), progress=False).vectors for code in data.languages]
    mean = torch.stack(read).mean(0)
    similarity = torch.nn.functional.cosine_similarity(mean[:12], mean[12:])
    expected = 100 * spearmanr(similarity, data.gold).statistic
    assert row["spearman"] == pytest.approx(expected, abs=0.05)
    assert finding.facts.settings["paraphrases"].startswith("demo set ")
    other = {
        "t": data.__class__(**{**data.__dict__, "sentences": {"en": (["A."] * 12, ["B."] * 12)}})
    }
    alone = dl.score_systems(dl.named_systems(tiny_lens, "geneol"), other, n_timed=0)
    assert "no paraphrase 'en-1' of 24 texts" in alone["note"][0]


def test_aggregation_is_recorded_and_matters(tiny_lens, data):
    pairs = dl.load_data("demo").select(range(40))
    subsets = ["a", "b"] * 20
    pairs = pairs.__class__(**{**pairs.__dict__, "subset": subsets})
    one = {"prompteol": dl.PromptEncoder(tiny_lens)}
    found = dl.score_systems(one, {"t": pairs}, aggregation="mean", n_timed=0, progress=False)
    e = one["prompteol"].encode(pairs.texts("en"), progress=False).vectors
    cosines = torch.cosine_similarity(e[:40], e[40:]).numpy()
    parts = [100 * spearmanr(cosines[i::2], pairs.gold[i::2]).statistic for i in range(2)]
    assert found["spearman"][0] == pytest.approx(np.mean(parts), abs=0.05)
    assert found["aggregation"].tolist() == ["mean"]


@pytest.mark.parametrize("aggregation", ["mean", "weighted"])
def test_the_interval_of_an_average_is_of_that_average(tiny_lens, aggregation):
    pairs = dl.load_data("demo").select(range(60))
    subsets = {"t": ["a", "b", "b"] * 20, "u": ["c"] * 15 + ["d"] * 45}
    data = {
        task: pairs.__class__(**{**pairs.__dict__, "subset": part})
        for task, part in subsets.items()
    }
    one = {"prompteol": dl.PromptEncoder(tiny_lens)}
    found = dl.score_systems(one, data, aggregation=aggregation, n_timed=0, progress=False)
    average = row_of(found, "prompteol", "Avg.")
    e = one["prompteol"].encode(pairs.texts("en"), progress=False).vectors
    cosines = torch.cosine_similarity(e[:60], e[60:]).numpy()
    generator, means = np.random.default_rng(5), []
    for _ in range(400):
        scores = []
        for part in (np.array(each) for each in subsets.values()):
            names = sorted(set(part))
            within = []
            for name in names:
                drawn = generator.choice(np.flatnonzero(part == name), (part == name).sum())
                within.append(100 * spearmanr(cosines[drawn], pairs.gold[drawn]).statistic)
            shares = [(part == name).mean() for name in names]
            scores.append(np.average(within, weights=shares if aggregation == "weighted" else None))
        means.append(np.mean(scores))
    assert average["low"] < average["spearman"] < average["high"]
    low, high = np.percentile(means, [2.5, 97.5])
    assert average["low"] == pytest.approx(low, abs=3)
    assert average["high"] == pytest.approx(high, abs=3)


def test_a_task_without_a_score_leaves_no_average(tiny_lens):
    pairs = dl.load_data("demo").select(range(20))
    constant = pairs.__class__(**{**pairs.__dict__, "gold": np.full(20, 3.0)})
    one = {"prompteol": dl.PromptEncoder(tiny_lens)}
    with pytest.warns(UserWarning, match=r"Spearman is undefined: .* 1 distinct ratings"):
        found = dl.score_systems(one, {"t": pairs, "u": constant}, n_timed=0, progress=False)
    average = row_of(found, "prompteol", "Avg.")
    assert math.isnan(average["spearman"])
    assert average["note"] == "no score on u"


def test_a_second_run_reads_the_store(tiny_lens, encoders, data, tmp_path):
    store = VectorStore(tmp_path / "v.sqlite")
    first = dl.score_systems(encoders, data, store=store, n_timed=0, progress=False)
    with counted(tiny_lens) as work:
        again = dl.score_systems(encoders, data, store=store, n_timed=0, progress=False)
    assert work.rows == 0
    pd.testing.assert_frame_equal(first, again)


def test_nothing_to_score_is_an_error(encoders, data):
    with pytest.raises(InputError, match="at least one system"):
        dl.score_systems({}, data)
    with pytest.raises(InputError, match="one task"):
        dl.score_systems(encoders, {})


def test_cost_columns_are_those_of_the_systems_and_time_is_positive(table, encoders):
    for name, encoder in encoders.items():
        rows = table[table["system"] == name]
        assert (rows["passes"] == encoder.passes).all()
        assert (rows["blocks"] == encoder.blocks).all()
        assert (rows["seconds"] > 0).all()
        assert (rows["n_timed"] == 4).all()
    assert row_of(table, "dysem", "Avg.")["blocks"] == 6  # two languages, three blocks
    assert (table["kind"] == "training-free").all()


# Names


def test_every_name_makes_a_system_with_the_paper_s_settings(tmp_path_factory, tiny_folder):
    from types import SimpleNamespace

    lens = SimpleNamespace(name="stub", n_layers=32, d_model=64, n_heads=4, n_kv_heads=2)
    lens.d_head, lens.post_norms, lens.tokenizer = 16, False, None
    made = dl.named_systems(lens, "all", ["en", "fr"])
    assert list(made) == [*TRAINING_FREE, *DYSEM]
    assert made["cp_ns"].config["layer"] == 4
    assert made["cp_ns"].config["alpha"] == 2
    assert made["cp_cot"].config["layer"] == made["cp_knowledge"].config["layer"] == 6
    assert made["tp"].config == {
        "model": "stub",
        "template": "prompteol",
        "start": 1,
        "exit": 7,
        "output_layer": 27,
        "placeholder": None,
        "seed": 0,
    }
    assert made["metaeol"].passes == 8
    assert made["ck"].blocks == 2 * 27
    assert made["va"].width == 2 * 16
    assert made["wva"].width == 4 * 16
    assert made["dysem"].k == 0.25
    assert not set(dl.named_systems(lens, "all")) & set(DYSEM), "one language is no consensus"
    rephrased = dl.named_systems(lens, "all", paraphrases="demo")
    assert list(rephrased) == [*TRAINING_FREE, *PARAPHRASED]
    assert rephrased["geneol"].passes == 5
    names = [each.name for each in made.values()]
    assert len(set(names)) == len(names), "no two rows of a table are called the same"


def test_an_unknown_name_lists_those_that_there_are(tiny_lens):
    with pytest.raises(InputError, match=r"prompteol2.*metaeol.*minilm.*all"):
        dl.named_systems(tiny_lens, ["prompteol", "prompteol2"])
    assert not set(TRAINED) & {*TRAINING_FREE, *DYSEM}
    assert len(set(NAMES)) == len(NAMES)


# Layouts


def test_csv_and_json_are_the_table_itself(table):
    rows = list(csv.DictReader(io.StringIO(board.rendered(table, "csv"))))
    assert [float(row["spearman"]) for row in rows] == pytest.approx(table["spearman"].tolist())
    again = pd.read_json(io.StringIO(board.rendered(table, "json")))
    assert again["system"].tolist() == table["system"].tolist()
    assert again["high"].tolist() == pytest.approx(table["high"].tolist())


def test_markdown_and_latex_have_a_row_per_system_and_the_best_in_bold(table):
    best = table[table["task"] == "Avg."].sort_values("spearman").iloc[-1]
    markdown = board.rendered(table, "markdown").splitlines()
    assert len(markdown) == 2 + 3
    cells = [cell.strip() for cell in markdown[2].strip("|").split("|")]
    assert cells[0] == best["method"]
    assert f"**{best['spearman']:.2f}**" in cells
    latex = board.rendered(table, "latex")
    rows = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 1 + 3
    assert {row.count("&") for row in rows} == {len(cells) - 1}
    assert rf"\textbf{{{best['spearman']:.2f}}}" in latex
    assert r"95 \% interval" in latex
    assert r"\#Dim." in latex


def test_an_unknown_format_is_named(table):
    with pytest.raises(InputError, match=r"html.*markdown"):
        board.rendered(table, "html")


def test_the_wide_table_is_sorted_by_the_average(table):
    wide = board.wide(table)
    assert wide["Avg."].tolist() == sorted(wide["Avg."], reverse=True)
    assert set(wide["Method"]) == set(table["method"])


# Published


def test_published_rows_are_the_papers_and_keep_their_sources_apart():
    found = dl.published_leaderboard("LLaMA2-7B")
    package = Path(dl.__file__).parent
    for name in ("published_dysem.csv", "published_other.csv"):
        with (package / name).open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["model"] != "LLaMA2-7B":
                    continue
                scores = found[
                    (found["source"] == row["source"])
                    & (found["score"] == float(row["Avg"]))
                    & (found["task"] == "Avg.")
                ]
                assert len(scores), row["method"]
    assert set(found.loc[found["weights"] == "not released", "method"]) == {"PromptEOL + SemPA"}
    tp = found[found["method"].str.endswith("+ TP") & (found["task"] == "SICKR")]
    assert tp["n_pairs"].unique().tolist() == [4927]
    wide = board.published_wide(found)
    assert wide["Avg."].is_monotonic_decreasing
    assert len(wide) == (found["task"] == "Avg.").sum(), "no two published rows fall together"


def test_a_model_without_published_scores_is_an_error():
    with pytest.raises(InputError, match="gpt-9"):
        dl.published_leaderboard("gpt-9")


# Figure


def by_hand(rows):
    columns = ["method", "kind", "spearman", "seconds"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(
        system=table["method"],
        task="one",
        low=table["spearman"] - 1,
        high=table["spearman"] + 2,
        n_dims=8,
        n_pairs=20,
        with_renderings=table["seconds"],
        passes=1,
        blocks=3,
        n_timed=16,
    )


def test_the_frontier_has_those_that_no_faster_system_beats():
    table = by_hand(
        [
            ("a", "training-free", 50.0, 10.0),
            ("b", "training-free", 60.0, 20.0),
            ("c", "training-free", 55.0, 30.0),  # slower than b and worse
            ("d", "training-free", 60.0, 25.0),  # as good as b, slower
            ("e", "training-free", 61.0, 90.0),
            ("f", "training-free", float("nan"), 1.0),
        ]
    )
    assert table["method"][pictures.frontier(table)].tolist() == ["a", "b", "e"]


def test_the_figure_shows_every_score_with_its_interval_and_its_time():
    table = by_hand(
        [
            ("PromptEOL", "training-free", 50.0, 10.0),
            ("PromptEOL + DySem (en/fr)", "training-free", 60.0, 20.0),
            ("MiniLM", "trained", 80.0, 2.0),
        ]
    )
    figure = pictures.figure(table, "a model")
    scores, seconds = (
        {
            y: x
            for trace in figure.data
            if trace.xaxis == axis
            for x, y in zip(trace.x, trace.y, strict=True)
            if x is not None
        }
        for axis in ("x", "x2")
    )
    assert scores == dict(zip(table["method"], table["spearman"], strict=True))
    assert seconds == dict(zip(table["method"], table["seconds"], strict=True))
    ring = "ring: without training, and no faster one scores more"
    names = {trace.name for trace in figure.data if trace.showlegend is not False}
    assert names == {"one-word prompt", "DySem", "trained", ring}
    assert list(figure.layout.yaxis.categoryarray)[-1] == "MiniLM"
    caption = pictures.caption(table)
    assert caption.startswith("Without training PromptEOL + DySem (en/fr) scores most, ")
    assert "best without training is PromptEOL + DySem (en/fr) 60.0 [59.0, 62.0], 20 s" in caption
    assert "best trained is MiniLM 80.0" in caption
    assert "beats PromptEOL, PromptEOL + DySem (en/fr)" in caption
    assert "timed on 16 texts" in caption


def test_every_system_has_a_group_of_its_family():
    groups = {
        "mean pooling": "mean pooling",
        "AlignedWVA": "value aggregation",
        "Echo": "Echo",
        "CK": "one-word prompt",
        "Pretended CoT + TP": "Token Prepending",
        "PromptEOL + CP-NS": "Contrastive Prompting",
        "PromptEOL + DySem (en/fr) on CP scaling": "DySem",
    }
    for method, group in groups.items():
        assert pictures.group_of(method, "training-free")[0] == group
    assert pictures.group_of("Echo", "trained")[0] == "trained"
    colours = [pictures.group_of(method, "training-free")[1] for method in groups]
    assert len(set(colours)) == len(colours)
