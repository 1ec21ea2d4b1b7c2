"""Heads of an explanation taken out of a pass: against plain PyTorch hooks on tiny models."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

import dysem_lab as dl
from dysem_lab.display import amount
from dysem_lab.errors import InputError
from dysem_lab.models.record import counted
from dysem_lab.questions.head_ablation import caption
from dysem_lab.questions.heads_picture import CHOSEN, PLAIN, RANDOM
from tests.questions.test_heads import Plain

X, Y = "A man plays.", "A woman sings."
CORPUS = {
    "en": ["A dog.", "The bank is open.", "Two of them ran home.", "We like bread."],
    "fr": ["Un chien.", "La banque est ouverte.", "Deux sont rentrés.", "On aime le pain."],
}
RENDERINGS = {"fr": ["Un homme joue.", "Une femme chante."]}
pytestmark = pytest.mark.usefixtures("_one_thread")


@pytest.mark.parametrize("kind", ["Llama", "Gemma2"])
def test_what_is_left_is_that_of_plain_hooks(tiny_folder, kind):
    lens = dl.load_model(tiny_folder(kind))
    model = AutoModelForCausalLM.from_pretrained(tiny_folder(kind), dtype=torch.float32)
    model.set_attn_implementation("eager")
    encoder = dl.DySem(lens, ("en", "fr"), k=0.5)
    why = dl.explain(encoder, X, Y, "head", None, CORPUS, RENDERINGS, progress=False)
    top = why.top(2, "surprise")
    found = dl.head_ablation(
        encoder, X, Y, top, CORPUS, RENDERINGS, n_draws=4, seed=1, progress=False
    )

    def written(text, code, replaced=()):
        (prompt,) = dl.wrap([text], setting="language-specific", languages=code)
        ids = lens.tokenizer(str(prompt), return_tensors="pt")["input_ids"][0]
        of = Plain(model, ids, replaced)
        return sum(of.written.values()).detach().double(), of.z

    def mean_of(text, codes, replaced=None):
        each = [written(text[c], c, (replaced or {}).get(c, ())) for c in codes]
        return torch.stack([of for of, _ in each]).mean(0)

    texts = [{c: CORPUS[c][i] for c in CORPUS} for i in range(4)]
    x, y = ({"en": e, "fr": f} for e, f in zip((X, Y), RENDERINGS["fr"], strict=True))
    mu = torch.stack([mean_of(text, CORPUS) for text in texts]).mean(0)
    sets = encoder.encode([X, Y], renderings=RENDERINGS, progress=False).sets
    U, other = sets[0] | sets[1], mean_of(y, CORPUS) - mu

    def similarity(heads):
        replaced = {}
        for c in CORPUS:
            z = [written(text, c)[1] for text in CORPUS[c]]
            replaced[c] = [
                ((b, h), torch.stack([of[b][h] for of in z]).mean(0).detach()) for b, h in heads
            ]
        left = mean_of(x, CORPUS, replaced) - mu
        return torch.cosine_similarity(left[U], other[U], dim=0).item()

    table = found.table
    assert table["which"].tolist() == [PLAIN, CHOSEN, *[RANDOM] * 4]
    chosen = list(zip(top["block"], top["head"], strict=True))
    assert found.similarity == pytest.approx(why.similarity, abs=1e-5)
    for row in table.itertuples():
        heads = [tuple(map(int, one.split("."))) for one in row.heads.split(", ") if one]
        assert row.n_heads == len(heads)
        assert row.similarity == pytest.approx(similarity(heads), abs=1e-4)
        if row.which == CHOSEN:
            assert heads == chosen
        if row.which == RANDOM:
            assert not {*heads} & {*chosen}
    assert found.predicted == pytest.approx(found.similarity - top["contribution"].sum(), abs=1e-5)
    block, head = chosen[0]
    assert (
        f"{table['similarity'][1]:.3f} without block {block + 1} head {head + 1}" in found.caption
    )
    assert [*map(tuple, found.facts.record()["parameters"]["heads"])] == chosen


def test_the_verdict_needs_enough_sets_that_write_as_much():
    """Of the largest heads there may be one set of others, or only sets that write less."""
    draws = [f"0.{i}" for i in range(19)]
    rows = [(PLAIN, "", 0, 0.0, 0.5), (CHOSEN, "1.0", 1, 2.0, 0.3)]
    rows += [(RANDOM, of, 4, 1.96, 0.48) for of in draws]
    table = pd.DataFrame(rows, columns=["which", "heads", "n_heads", "length", "similarity"])
    table["change"] = table["similarity"] - 0.5
    assert "on this head more than on random ones that wrote as much" in caption(table, 0.4)
    assert "(4 on average, 98% as long), of which 0 of 19 different draws" in caption(table, 0.4)
    one_as_much = table.assign(change=table["change"].where(table["heads"] != "0.3", 0.2))
    assert "on this head not clearly more than on random ones" in caption(one_as_much, 0.4)
    less = table.assign(length=table["length"].where(table["which"] != RANDOM, 1.4))
    assert "The random heads write less than this head" in caption(less, 0.4)
    assert "(4 on average, 70% as long)" in caption(less, 0.4)
    for few in (table[:-1], table.assign(heads=table["heads"].where(table.index < 2, "0.0"))):
        n = few.loc[few["which"] == RANDOM, "heads"].nunique()
        draws = amount(n, "different draw")
        assert f"too few other sets of heads to tell ({draws})" in caption(few, 0.4)
        assert "wrote as much" not in caption(few, 0.4)


def test_any_vector_that_is_written_by_heads(tiny_lens):
    """Of a stream and after the final norm; the last block's heads, which no later one reads."""
    encoder = dl.DySem(tiny_lens, ("en",), k=1.0, component="resid")
    last = tiny_lens.n_layers - 1
    found = dl.head_ablation(encoder, X, Y, [(last, 0)], CORPUS, n_draws=2, progress=False)
    assert found.name.startswith("head_ablation_")
    assert np.isfinite(found.table["similarity"]).all()
    whole = dl.PromptEncoder(tiny_lens)
    assert len(dl.head_ablation(whole, X, Y, [(last, 0)], CORPUS, n_draws=2, progress=False).table)


def test_what_has_no_answer_is_refused(tiny_lens):
    encoder = dl.DySem(tiny_lens, ("en",), k=0.5)
    every = [(b, h) for b in range(tiny_lens.n_layers) for h in range(tiny_lens.n_heads)]
    for heads, said in (
        ([], "heads must be some of blocks 0 to"),
        ([(0, 99)], "heads must be some of"),
        ([(-1, 0)], "heads must be some of"),
        ([0.5, 1.0], "must be pairs of block and head"),
        (every, "give fewer"),
        (pd.DataFrame({"block": [1]}), "no columns block and head"),
        (pd.DataFrame({"block": [1], "head": [None]}), "heads must be some of"),
    ):
        with counted(tiny_lens) as work, pytest.raises(InputError, match=said):
            dl.head_ablation(encoder, "Nobody read this.", Y, heads, CORPUS, progress=False)
        assert work.rows == 0
    with pytest.raises(InputError, match="give centre a corpus"):
        dl.head_ablation(encoder, X, Y, [(0, 0)], None, progress=False)
    steered = dl.DySem(tiny_lens, ("en",), k=0.5, setting="english", contrast=dl.Contrast(1))
    with pytest.raises(InputError, match="without a contrast"):
        dl.head_ablation(steered, X, Y, [(0, 0)], CORPUS, progress=False)
