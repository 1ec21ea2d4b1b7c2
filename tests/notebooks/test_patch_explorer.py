"""The patch explorer: its numbers by plain PyTorch hooks, its passes, its panel."""

import re

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import dysem_lab as dl
from dysem_lab.errors import InputError, MissingTranslationError
from dysem_lab.explorers.patch_explorer import explore_patch
from dysem_lab.models.loading import load_model
from dysem_lab.questions.causal_sets import COMPLEMENT, LARGEST, OWN, ROTATED, SIZE, WHOLE, rotation
from dysem_lab.questions.patching import Exchange
from dysem_lab.questions.patching_picture import (
    DONOR,
    RECEIVER,
    SHOWN,
    _share,
    caption,
    figure,
)
from tests.notebooks.conftest import run_lines
from tests.notebooks.test_attention_explorer import passes

pytestmark = pytest.mark.usefixtures("_one_thread")

RECEIVED = "Two swans land."
GIVEN = {"en": "Light is fast.", "fr": "La lumière va vite."}
PROMPTS = [
    *dl.wrap([RECEIVED, GIVEN["en"]], "prompteol", "language-specific", "en"),
    *dl.wrap([GIVEN["fr"]], "prompteol", "language-specific", "fr"),
]


class ByHand:
    """An untouched model whose streams are read and replaced by PyTorch's own hooks."""

    def __init__(self, folder):
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def run(self, prompt, layer=None, change=None):
        """Return h^b of each block and the log-probabilities, at the last token."""
        streams = []

        def look(block):
            def hook(module, inputs, output):
                hidden = output[0] if isinstance(output, tuple) else output
                if block == layer:
                    hidden[0, -1] = change(hidden[0, -1].clone())
                streams.append(hidden[0, -1].clone())

            return hook

        blocks = enumerate(self.model.model.layers)
        handles = [block.register_forward_hook(look(i)) for i, block in blocks]
        with torch.no_grad():
            logits = self.model(**self.tokenizer([prompt], return_tensors="pt")).logits[0, -1]
        for handle in handles:
            handle.remove()
        return torch.stack(streams), logits.log_softmax(-1)


def consensus(vectors, k):
    """Return S(x) by a loop."""
    inside = [j for j in range(vectors.shape[1]) if all(vectors[:, j] > 0)]
    return sorted(inside, key=lambda j: -float(vectors[:, j].mean()))[:k]


@pytest.mark.parametrize("architecture", ["Llama", "Qwen3"])
def test_patches_are_those_of_plain_hooks(tiny_folder, architecture):
    folder, layer, k = tiny_folder(architecture), 0, 6
    hand, lens = ByHand(folder), load_model(folder)
    (mine, own), (theirs, wanted), (french, _) = (hand.run(prompt) for prompt in PROMPTS)
    of_donor = torch.stack([theirs[layer], french[layer]])
    S = consensus(of_donor, k)
    largest = theirs[layer].abs().argsort(descending=True)[: len(S)].tolist()
    Q = rotation(lens.d_model, 3)
    rotated = consensus(of_donor @ Q, k)
    sets = {
        OWN: S,
        LARGEST: largest,
        COMPLEMENT: [j for j in range(lens.d_model) if j not in S],
        WHOLE: list(range(lens.d_model)),
    }
    finding = dl.patch_effect(lens, RECEIVED, GIVEN, layer, k=k, n_draws=1, top=3, seed=3)
    table = finding.table.set_index("set")
    assert table.index.tolist() == [RECEIVER, *SHOWN, DONOR]

    def put(chosen, basis=None):
        def change(old):
            if basis is None:
                old[chosen] = theirs[layer][chosen]
                return old
            coordinates, new = old @ basis, theirs[layer] @ basis
            coordinates[chosen] = new[chosen]
            return coordinates @ basis.T

        return hand.run(PROMPTS[0], layer, change)

    way = theirs[-1] - mine[-1]
    cases = {name: put(chosen) for name, chosen in sets.items()} | {ROTATED: put(rotated, Q)}
    for name, (streams, log_p) in cases.items():
        row, end = table.loc[name], streams[-1]
        moved = float((end - mine[-1]) @ way / (way @ way))
        assert row.moved == row.moved_low == row.moved_high == pytest.approx(moved, abs=1e-4)
        gain = float((log_p - own)[wanted.argmax()])
        assert row.gain == pytest.approx(gain, abs=1e-4)
        for whose, of in (("donor", theirs[-1]), ("receiver", mine[-1])):
            expected = float(end @ of / end.norm() / of.norm())
            assert row[f"to_{whose}"] == pytest.approx(expected, abs=1e-4)
        top = log_p.exp().topk(3).values.tolist()
        assert [float(p) for p in re.findall(r" (\d\.\d\d)(?:,|$)", row.tokens)] == pytest.approx(
            top, abs=0.006
        )
    for name, chosen in sets.items():
        change = theirs[layer] - mine[layer]
        share = float(change[chosen].norm() / change.norm())
        assert table.loc[name, "n_dims"] == len(chosen)
        assert table.loc[name, "share"] == pytest.approx(share, abs=1e-4)
    assert table.loc[SIZE, "n_dims"] == len(S)
    assert table.loc[[RECEIVER, DONOR], "moved"].tolist() == pytest.approx([0, 1])


def test_the_whole_vector_at_the_last_block_is_the_donor(tiny_lens):
    finding = dl.patch_effect(tiny_lens, RECEIVED, GIVEN, tiny_lens.n_layers - 1, n_draws=3)
    table = finding.table.set_index("set")
    assert table.loc[WHOLE, "moved"] == pytest.approx(1, abs=1e-5)
    assert table.loc[WHOLE, "to_donor"] == pytest.approx(1, abs=1e-5)
    assert table.loc[WHOLE, "tokens"] == table.loc[DONOR, "tokens"]
    # Parts of a sum: what is in S(x), and what is not.
    assert table.loc[[OWN, COMPLEMENT], "moved"].sum() == pytest.approx(1, abs=1e-5)
    for name in (SIZE, ROTATED):
        row = table.loc[name]
        assert row.n_draws == 3
        assert row.moved_low < row.moved < row.moved_high
        assert row.gain_low < row.gain < row.gain_high


def test_the_caption_counts_the_draws_that_stay_behind(tiny_lens):
    effect = Exchange(tiny_lens, RECEIVED, GIVEN).effect(1, 6, n_draws=9)
    own, size, rotated = (effect.moved[name] for name in (OWN, SIZE, ROTATED))
    said = caption(effect)
    assert said.startswith("S(x) of the donor (")
    assert f"further than {int((size < own).sum())} of 9 random sets of its size" in said
    assert f"than {int((rotated < own).sum())} of 9 times the same construction" in said
    assert "One pair of texts is an example and no test" in said
    assert caption(effect, LARGEST).startswith("largest |v| of the donor (")
    again = Exchange(tiny_lens, RECEIVED, GIVEN).effect(1, 6, n_draws=9)
    assert effect.table.equals(again.table)
    drawn = figure(effect, LARGEST)
    *_, moved, gains = drawn.data
    names = [LARGEST, SIZE, ROTATED, COMPLEMENT, WHOLE]
    table = effect.table.set_index("set").loc[names]
    np.testing.assert_allclose(moved.x, table["moved"])
    np.testing.assert_allclose(gains.x, table["gain"])
    np.testing.assert_allclose(moved.x + moved.error_x.array, table["moved_high"])


def test_moves_run_the_last_token_alone_and_none_twice(tiny_lens):
    panel = explore_patch(tiny_lens, RECEIVED, GIVEN["en"], renderings={"fr": GIVEN["fr"]})
    assert panel.message == ""
    shown = panel.text
    with passes(tiny_lens) as widths:
        panel.set(layer=1, k=5).wait()
        assert widths
        assert set(widths) == {1}
        widths.clear()
        panel.set(dimensions=LARGEST).wait()
        assert "largest |v| of the donor" in panel.text
        assert widths == []
    assert panel.message == ""
    panel.set(layer=3 * tiny_lens.n_layers // 4 + 1, k=8, dimensions=OWN).wait()
    assert panel.text == shown


def test_the_line_of_python_reproduces_the_view(tiny_lens):
    table = dl.ParallelTable({code: [text] for code, text in GIVEN.items()})
    panel = explore_patch(tiny_lens, RECEIVED, GIVEN["en"], ("en", "fr"), table)
    for move in ({}, {"layer": 2, "k": 4}, {"dimensions": LARGEST, "setting": "english"}):
        panel.set(**move).wait()
        assert panel.message == ""
        found = run_lines(panel.python, {"lens": tiny_lens})
        assert found.figure.to_json() == panel.figure.to_json()
    assert "La lumière" in panel.python


@pytest.mark.parametrize(
    ("move", "said"),
    [
        ({"receiver": GIVEN["en"]}, "donor and receiver are the same text"),
        ({"languages": "en, xx"}, "unknown language 'xx'"),
        ({"renderings": "La lumière."}, "is no rendering; write a code"),
        ({"receiver": " "}, "the receiver is empty; type a sentence"),
    ],
)
def test_mistakes_are_sentences_in_the_panel(tiny_lens, move, said):
    panel = explore_patch(tiny_lens, RECEIVED, GIVEN["en"], renderings={"fr": GIVEN["fr"]})
    before = panel.text
    panel.set(**move).wait()
    assert re.search(said, panel.message)
    assert panel.text == before


@pytest.mark.parametrize("move", [{"languages": "en, fr, de"}, {"donor": "It rains."}])
def test_any_donor_is_read_in_the_languages_that_it_is_to_be_had_in(tiny_lens, move):
    panel = explore_patch(tiny_lens, RECEIVED, GIVEN["en"], renderings={"fr": GIVEN["fr"]})
    panel.set(**move).wait()
    assert panel.message == ""
    assert "there is no translation of" in panel.note
    found = run_lines(panel.python, {"lens": tiny_lens})
    assert found.figure.to_json() == panel.figure.to_json()


def test_settings_that_do_not_exist_are_refused(tiny_lens):
    with pytest.raises(InputError, match="unknown dimensions 'S'"):
        dl.patch_effect(tiny_lens, RECEIVED, GIVEN, 0, dimensions="S")
    with pytest.raises(InputError, match="layer must be between 0 and 2, got 99"):
        dl.patch_effect(tiny_lens, RECEIVED, GIVEN, 99)
    with pytest.raises(MissingTranslationError, match="donor is not given in Japanese"):
        dl.patch_effect(tiny_lens, RECEIVED, GIVEN, 0, ("en", "ja"))
    for wrong, said in (({"n_draws": 0}, "n_draws must be"), ({"top": 0}, "top must be")):
        with pytest.raises(InputError, match=said):
            dl.patch_effect(tiny_lens, RECEIVED, GIVEN, 0, **wrong)


def test_a_finding_says_what_was_asked_and_saves(tiny_lens, tmp_path):
    finding = dl.patch_effect(tiny_lens, RECEIVED, GIVEN, 1, k=4, n_draws=2)
    recorded = finding.facts.record()
    asked = {"layer": 1, "k": 4, "n_draws": 2, "top": 5, "seed": 0}
    asked |= {"donor": GIVEN, "receiver": RECEIVED}
    assert recorded["parameters"].items() >= asked.items()
    assert "block 2" in str(finding.facts)
    assert "block 2" in finding.figure.layout.title.text


def test_no_way_at_all_has_no_sign():
    assert _share(torch.tensor([-0.004, 0.001])) == "0%"
    assert _share(torch.tensor([-0.06, -0.08])) == "-7%"
