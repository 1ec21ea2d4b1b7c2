"""The layer without labels: its measure against a loop, and the whole question on a tiny model."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

import dysem_lab as dl
from dysem_lab.errors import InputError
from dysem_lab.evaluate import paired_difference
from dysem_lab.questions.layer_choice import invariance

pytestmark = pytest.mark.usefixtures("_one_thread")


def by_hand(x, y, temperature):
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    y = y / np.linalg.norm(y, axis=1, keepdims=True)
    found = []
    for a, b in ((x, y), (y, x)):
        for i, row in enumerate(a):
            weights = [math.exp(row @ other / temperature) for other in b]
            found.append(math.log(len(b)) + math.log(weights[i] / sum(weights)))
    return np.mean(found)


def test_invariance_is_that_of_a_loop_and_knows_its_ends():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 7, 5))
    for temperature in (0.1, 1.0):
        found = invariance(torch.tensor(x), torch.tensor(y), temperature)
        assert found == pytest.approx(by_hand(x, y, temperature))
    basis = torch.eye(6)
    assert invariance(basis, 3 * basis, 0.01) == pytest.approx(math.log(6))
    alike = torch.ones(6, 4)
    assert invariance(alike, alike) == pytest.approx(0, abs=1e-12)
    assert invariance(basis, basis.roll(1, 0)) < 0


@pytest.fixture(scope="module")
def study(tiny_lens, tmp_path_factory):
    store = dl.VectorStore(tmp_path_factory.mktemp("vectors") / "v.sqlite")
    codes = ["en", "fr", "en-1"]
    return dl.Study(tiny_lens, "demo", languages=codes, pairs=15, store=store)


def test_the_layer_is_chosen_by_renderings_and_judged_by_scores(study):
    finding = dl.layer_choice(study)
    table = finding.table
    data = study.data["demo"]
    cosines, measured = [], []
    for layer in range(3):
        x, french, again = (
            dl.PromptEncoder(study.lens, output_layer=layer + 1)
            .encode(data.texts(code), progress=False)
            .vectors.double()
            .numpy()
            for code in ("en", "fr", "en-1")
        )
        measured.append(np.mean([by_hand(x, y, 0.1) for y in (french, again)]))
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        cosines.append((unit[:15] * unit[15:]).sum(1))
    np.testing.assert_allclose(table["invariance"], measured, atol=1e-3)
    scores = [100 * spearmanr(one, data.gold).statistic for one in cosines]
    np.testing.assert_allclose(table["spearman"], scores, atol=0.5)
    chosen, best = int(np.argmax(measured)), int(np.argmax(scores))
    assert table.index[table["chosen"]].tolist() == [chosen]
    assert table["best"].idxmax() == best
    gap = paired_difference(cosines[best], cosines[chosen], data.gold)
    assert table["difference"][best] == pytest.approx(gap["difference"], abs=0.5)
    assert finding.caption.startswith(
        f"The layer that is chosen without labels, block {chosen + 1} of 3, "
    )
    assert finding.facts.settings["views"] == ["fr", "en-1"]
    assert "renderings in fr/en-1" in str(finding.facts)
    band, *lines = finding.figure.data
    assert band.fill == "toself"
    assert list(lines[0].y) == table["spearman"].tolist()
    assert list(lines[1].y) == table["invariance"].tolist()
    marks = {trace.name: trace.x[0] - 1 for trace in lines[2:]}
    assert marks == {"chosen without labels": chosen, "best score on these pairs": best}


def test_each_task_has_its_own_choice_and_one_in_english_none(study, tiny_lens):
    pairs = study.data["demo"]
    english = dataclasses.replace(pairs, sentences={"en": pairs.sentences["en"]})
    tasks = {"first": pairs.head(15), "alone": english, "second": pairs.select(range(6, 15))}
    several = dl.Study(tiny_lens, tasks, languages=study.languages, store=study.store)
    found = dl.layer_choice(several)
    by_task = dict(iter(found.table.groupby("task", sort=False)))
    assert list(by_task) == list(tasks)
    alone = by_task.pop("alone")
    assert alone[["invariance", "difference", "p"]].isna().all(axis=None)
    assert not alone["chosen"].any()
    assert alone["best"].any()
    for task, part in by_task.items():
        own = dl.layer_choice(several.on({task: tasks[task]})).table
        pd.testing.assert_frame_equal(part.reset_index(drop=True), own)
    chosen, best = (
        np.mean([part.loc[part[name], "spearman"].iloc[0] for part in by_task.values()])
        for name in ("chosen", "best")
    )
    assert found.caption.startswith(
        f"A layer that is chosen without labels scores {best - chosen:.1f} less than the best of "
        "each task, on average. "
    )
    assert found.caption.endswith("Nothing can be chosen in English alone: alone.")
    titles = [annotation.text for annotation in found.figure.layout.annotations]
    assert titles == [*tasks, "no renderings"]
    names = [trace.name for trace in found.figure.data if trace.showlegend]
    assert names == ["best score on these pairs", "chosen without labels"]
    # Panels of one kind have one range, and a mark at the last block is whole.
    ranges = [tuple(axis.range) for axis in found.figure.select_yaxes()]
    assert [len(set(ranges[row * 3 : row * 3 + 3])) for row in (0, 1)] == [1, 1]
    (low, high), last = ranges[0], found.table["layer"].max() + 1
    assert low < found.table["low"].min()
    assert high > found.table["high"].max()
    assert all(axis.range[1] >= last + 0.5 for axis in found.figure.select_xaxes())


def test_what_has_no_answer_is_refused(study):
    with pytest.raises(InputError, match="an invariance needs renderings"):
        dl.layer_choice(study.prompted(languages=["en"]))
    same = {language: (["One."] * 3,) * 2 for language in ("en", "fr")}
    one = dataclasses.replace(study.data["demo"].head(3), sentences=same)
    with pytest.raises(InputError, match="needs two different texts or more, demo has only one"):
        dl.layer_choice(study.on({"demo": one}, languages=["en", "fr"]))
