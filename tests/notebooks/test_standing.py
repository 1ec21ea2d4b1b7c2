"""What a panel says of where a similarity stands, and that a pair has one number everywhere."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import dysem_lab as dl
from dysem_lab.cli import cli
from dysem_lab.display import silent
from dysem_lab.explorers.contrast_explorer import explore_contrast
from dysem_lab.explorers.examples import KINDS, example_pairs, pair_of
from dysem_lab.explorers.layer_explorer import explore_layers
from dysem_lab.explorers.pair_explorer import explore_pair
from dysem_lab.explorers.patch_explorer import explore_patch
from dysem_lab.explorers.search_explorer import explore_search
from dysem_lab.explorers.standing import Standing
from dysem_lab.models.loading import load_model
from dysem_lab.models.record import counted
from dysem_lab.questions.scale import scale

pytestmark = pytest.mark.usefixtures("_one_thread")

PAIR = example_pairs(["en"])["Paraphrase"]
X, Y = PAIR["first"], PAIR["second"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return dl.VectorStore(tmp_path_factory.mktemp("store") / "vectors.db")


def test_the_demo_pairs_are_offered_once_and_then_a_similarity_has_a_place(tiny_lens, store):
    panel = explore_pair(tiny_lens, X, Y, ("en",), show="paper", store=store)
    assert panel.message == ""
    assert re.match(
        r"Where does it stand\? Read the 132 demo pairs \(\d+ passes, about \d+ (s|min)\)",
        panel.offer.label,
    )
    assert "higher than" not in panel.text
    panel.accept().wait(120)
    assert (panel.message, panel.offer) == ("", None)
    for k in (8, 3):
        with counted(tiny_lens) as work:
            panel.set(k=k).wait()
        assert work.rows == 0
        found = scale(dl.DySem(tiny_lens, ("en",), k=k), store=store, progress=False)
        value = float(re.search(r'dysem-big">([\d.]+)<', panel.text)[1])
        said = r"</b>: higher than (\d+) % of the 132 pairs of the demo set; than"
        share = re.search(said, panel.text)
        # It is one of these pairs, so that rounding counts it or not.
        assert int(share[1]) == pytest.approx(100 * np.mean(found.pairs < value), abs=1.3)
    for other in (
        explore_layers(tiny_lens, X, Y, ("en",), store=store),
        explore_search(dl.DySem(tiny_lens, ("en",), k=8), [X, Y], store=store).wait(),
    ):
        assert (other.message, other.offer) == ("", None)
        assert "% of the 132 pairs of the demo set" in other.text


def test_a_scale_is_of_this_model_and_these_settings_alone(tiny_lens, tiny_folder, store):
    standing, encoder = Standing(store), dl.DySem(tiny_lens, ("en",), k=8)
    assert standing.of(encoder, 0.5)[0].startswith("higher than")
    english = dl.DySem(tiny_lens, ("en", "fr"), k=8, setting="english")
    for another in (dl.DySem(load_model(tiny_folder("Qwen3")), ("en",), k=8), english):
        said, offer = standing.of(another, 0.5)
        assert said == ""
        assert offer is not None
    assert standing.of(None, 0.5) == ("", None)  # what is no encoder of a model of ours


def test_plain_cosines_of_contrast_and_patch_have_a_place_too(tiny_lens, store):
    standing = Standing(store)
    _, offer = standing.scale(dl.PromptEncoder(tiny_lens, output_layer="last"))
    if offer is not None:  # DySem's passes of the same prompts have them
        offer.work(silent)
    contrast = explore_contrast(tiny_lens, X, [Y], output_layer="last", store=store)
    assert (contrast.message, contrast.offer) == ("", None)
    assert "plain, above so many of the 132 unrelated pairs of the demo set" in contrast.text
    assert re.search(r"</td><td>[-\d.]+</td><td>\d+ %</td>", contrast.text)
    patch = explore_patch(tiny_lens, X, Y, ("en",), store=store)  # of the same vectors
    assert patch.offer is None
    assert "As they are, the cosine of the two texts' h<sup>L</sup>" in patch.text


def test_a_pair_has_the_same_number_in_every_explorer_and_on_the_command_line(
    tiny_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folder, codes = tiny_folder("Llama"), ("en", "fr", "de")
    lens, data = load_model(folder), dl.load_data("demo", languages=codes)
    row = pair_of("paraphrase")
    columns = {code: [side[row] for side in sides] for code, sides in data.sentences.items()}
    assert columns["en"] == [X, Y]
    table = dl.ParallelTable(columns)
    pair = explore_pair(lens, X, Y, codes, table)
    layers = explore_layers(lens, X, Y, codes, table)
    search = explore_search(dl.DySem(lens, codes, table, k=0.25), [Y], X).wait()
    shown = [re.search(r'dysem-big">([\d.]+)<', one.text)[1] for one in (pair, layers, search)]
    pd.DataFrame(columns).to_csv("table.csv", index=False)
    asked = ["similarity", X, Y, "--model", str(folder), "--table", "table.csv", "--json"]
    printed = CliRunner().invoke(cli, asked)
    assert printed.exit_code == 0, printed.output
    found = json.loads(printed.stdout)
    assert found["languages"] == list(codes)
    assert len(set(shown)) == 1
    assert float(shown[0]) == pytest.approx(found["similarity"], abs=1e-4)


def test_an_example_of_each_kind_is_a_button_that_gives_an_answer(tiny_lens):
    examples = example_pairs(("en", "fr"))
    assert list(examples) == [*KINDS.values(), "Translation"]
    panel = explore_pair(tiny_lens, X, Y, ("en", "fr"), show="paper")
    for values in examples.values():
        panel.set(**values).wait()
        assert (panel.message, panel.note) == ("", "")
        assert panel.title == f"{values['first']} / {values['second']}"
    assert "Les abeilles" in panel.text  # the translation, as it is
    assert panel.state["languages"] == "en"
