"""Why are two texts similar? Sums that hold for every encoder, and what is refused."""

import math
import re
from typing import ClassVar

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import dysem_lab as dl
from dysem_lab import paths
from dysem_lab.encoders.base import Encoder
from dysem_lab.errors import InputError, ModelError
from dysem_lab.models.loading import load_model
from dysem_lab.models.record import counted
from dysem_lab.questions import explain_picture, saving
from dysem_lab.questions import reference as references
from dysem_lab.questions.explain import BY, explain, explain_difference
from dysem_lab.questions.reference import corpus_of, reference

X, Y, Z = "A man plays.", "A woman sings.", "It rains."
RENDERINGS = {"fr": ["Un homme joue.", "Une femme chante."]}
CORPUS = {
    "en": ["A dog.", "The bank is open.", "Two of them ran home.", "We like bread."],
    "fr": ["Un chien.", "La banque est ouverte.", "Deux sont rentrés.", "On aime le pain."],
}
pytestmark = pytest.mark.usefixtures("_one_thread")


def encoders(lens):
    return {
        "DySem": dl.DySem(lens, ("en", "fr"), k=0.5),
        "DySem, source": dl.DySem(lens, ("fr",), k=0.9, vector="source", component="resid"),
        "DySem, final": dl.DySem(lens, ("en",), k=1.0, component="final"),
        "DySem on CP": dl.DySem(
            lens, ("en", "fr"), k=0.5, setting="english", contrast=dl.Contrast(1)
        ),
        "F^L": dl.DySem(lens, ("en",), k=1.0, component="ffn"),
        "CK": dl.PromptEncoder(lens, "ck"),
        "CP": dl.ContrastivePrompting(lens, layer=1, output_layer="last"),
    }


def splits(name):
    if name == "F^L":
        return ("block", "ffn", "neuron", "language", "dimension")
    no_ffn = ("ffn", "neuron") if name in ("DySem", "DySem on CP") else ()
    return tuple(by for by in BY if by not in ("direction", *no_ffn))


NAMES = ("DySem", "DySem, source", "DySem, final", "DySem on CP", "F^L", "CK", "CP")


@pytest.mark.parametrize("name", NAMES)
def test_parts_add_up_centred_or_not(tiny_lens, name):
    encoder = encoders(tiny_lens)[name]
    renderings = RENDERINGS if "fr" in encoder.languages else None
    columns = {"en": [X, Y], **RENDERINGS}
    encoded = encoder.encode_renderings(columns, progress=False)
    own = encoder.similarity_pairwise(encoded[0], encoded[1]).item()
    corpus = encoder.encode_renderings(CORPUS, progress=False).vectors.double()
    U = encoded.sets[0] | encoded.sets[1]
    centred = (encoded.vectors.double() - corpus.mean(0))[:, U]
    expected = torch.cosine_similarity(centred[0], centred[1], dim=0).item()
    for by in splits(name):
        for other in (None, by) if by != "dimension" else (None,):
            raw = explain(encoder, X, Y, by, other, None, renderings, progress=False)
            assert raw.similarity == pytest.approx(own, abs=1e-5)
            assert raw.encoder_similarity == pytest.approx(own, abs=1e-6)
            found = explain(encoder, X, Y, by, other, CORPUS, renderings, progress=False)
            assert found.table["contribution"].sum() == pytest.approx(expected, abs=1e-5)
            assert found.similarity == pytest.approx(expected, abs=1e-5)
            assert found.encoder_similarity == raw.encoder_similarity
            if other:
                assert found.matrix().to_numpy().sum() == pytest.approx(expected, abs=1e-5)


def as_new(i, j, n=4):
    """Return by what texts of a corpus, less its mean, are combined to be like texts outside of it.

    They get the mean of the n − 2 others first, and then as much less of it as a mean of n varies
    less: both by what the two have in common, x + y.
    """
    combined = np.eye(n) - 1 / (n - 2)
    combined[:, [i, j]] = np.eye(n)[:, [i, j]]
    x, y = combined[[i, j]]
    common, apart = (x + y) / 2, (x - y) / 2
    common = common * math.sqrt((1 + 2 / n) / (1 + 2 / (n - 2)))
    return torch.tensor(np.stack([common + apart, common - apart]))


def test_random_pairs_are_those_of_the_corpus(tiny_lens):
    """What blocks add to random pairs, by hand: every ordered pair of four texts."""
    encoder = dl.DySem(tiny_lens, ("en",), k=1.0)
    corpus = corpus_of(CORPUS, ("en",), "en")
    found = reference(encoder, corpus, "block", "en")
    assert (found.n_texts, found.n_pairs) == (4, 12)
    acts = dl.capture(tiny_lens, dl.wrap(CORPUS["en"]), "attn", "each", progress=False)["attn"]
    sets = encoder.encode(CORPUS["en"], progress=False).sets
    parts = (acts - acts.mean(0)).double()

    def added(i, j, inside):
        U = sets[i] | sets[j]
        x, y = parts[[i, j]] if inside else torch.tensordot(as_new(i, j), parts, 1)
        norms = x.sum(0)[U].norm() * y.sum(0)[U].norm()
        return ((x * U) @ y.sum(0) / norms).numpy()

    for inside in (0, 2):
        found = reference(encoder, corpus, "block", "en", inside=inside)
        by_hand = [[added(i, j, inside) for j in range(4) if j != i] for i in range(4)]
        pairs = np.array(by_hand).reshape(12, -1)
        triples = np.array([y - z for of in by_hand for y in of for z in of if y is not z])
        for block in range(tiny_lens.n_layers):
            key = (None, "block", block, None)
            mean, spread = found.added[key]
            assert mean == pytest.approx(pairs[:, block].mean(), abs=2e-3)
            assert found.told_apart[key][0] == 0
            if inside:
                assert spread == pytest.approx(pairs.std(0)[block], abs=2e-3)
                assert found.told_apart[key][1] == pytest.approx(triples.std(0)[block], abs=2e-3)


class Drawn(Encoder):
    """Each text has a vector of its own, of independent dimensions about a common mean."""

    name, width = "drawn", 64
    config: ClassVar = {}

    def encode(self, texts, *, language="en", store=None, progress=True):
        rng = np.random.default_rng([int(text) for text in texts])
        drawn = 3 + rng.normal(size=(len(texts), self.width)) * np.linspace(2, 0.5, self.width)
        return dl.SemanticVectors(torch.tensor(drawn).float())


@pytest.mark.parametrize(("n", "n_corpora"), [(4, 250), (10, 50), (100, 8)])
def test_random_pairs_are_like_new_unrelated_ones(n, n_corpora):
    """Vectors that have nothing to do with each other, centred on a few others or on themselves."""
    encoder = Drawn()
    found: dict[int, list[float]] = {0: [], 2: []}
    expected: dict[int, list[float]] = {0: [], 2: []}
    for i in range(n_corpora):
        names = [str(i * n + j) for j in range(n)]
        corpus = corpus_of({"en": names}, (), "en")
        v = encoder.encode(corpus.renderings["en"]).vectors.double()
        rng = np.random.default_rng(i)
        new = 3 + rng.normal(size=(2, 400, 64)) * np.linspace(2, 0.5, 64)
        for inside in found:
            of = reference(encoder, corpus, "dimension", "en", inside=inside)
            found[inside].append(sum(mean for mean, _ in of.added.values()))
            x, y = torch.tensor(new) - v.mean(0)
            if inside:
                rows = torch.tensor([(a, b) for a in range(n) for b in range(n) if a != b])
                x, y = (v - v.mean(0))[rows.T]
            expected[inside].append(torch.cosine_similarity(x, y, -1).mean().item())
    for inside in found:
        assert np.mean(found[inside]) == pytest.approx(np.mean(expected[inside]), abs=0.4 / n)
    assert np.mean(expected[0]) == pytest.approx(1 / (n + 1), abs=0.2 / n)
    assert np.mean(expected[2]) == pytest.approx(-1 / (n - 1), abs=0.4 / n)


def test_neurons_of_a_pair_and_of_random_pairs_are_those_by_hand(tiny_folder):
    """Against the plain model: u at the last token times W_out, through the frozen post-norm."""
    lens = load_model(tiny_folder("Gemma2"))
    encoder = dl.DySem(lens, ("en",), k=0.5, component="ffn")
    texts = [*CORPUS["en"], X, Y]
    folder = tiny_folder("Gemma2")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    seen = {}

    def keep(name, given):
        def hook(module, args, output):
            seen[name] = (args[0] if given else output).detach()[0, -1].double()

        return hook

    for i, block in enumerate(model.model.layers):
        block.mlp.down_proj.register_forward_hook(keep((i, "u"), True))
        block.mlp.register_forward_hook(keep((i, "f"), False))
    parts = []
    for prompt in dl.wrap(texts, setting="language-specific", languages="en"):
        with torch.no_grad():
            model(**tokenizer(str(prompt), return_tensors="pt"))
        rows = []
        for i, block in enumerate(model.model.layers):
            norm = block.post_feedforward_layernorm
            gain = (1 + norm.weight.detach().double()) / (
                seen[i, "f"].square().mean() + norm.eps
            ).sqrt()
            rows.append(
                seen[i, "u"][:, None] * block.mlp.down_proj.weight.detach().double().T * gain
            )
        parts.append(torch.cat(rows))
    parts = torch.stack(parts)
    sets = encoder.encode(texts, progress=False).sets
    centred = parts - parts[:4].mean(0)

    def added(i, j, of=None):
        U, (x, y) = sets[i] | sets[j], centred[[i, j]] if of is None else of
        return x @ (y.sum(0) * U) / (x.sum(0)[U].norm() * y.sum(0)[U].norm())

    found = explain(encoder, X, Y, "neuron", None, CORPUS, progress=False).table
    assert found["kind"].eq("neuron").all()
    assert np.allclose(found["contribution"], added(4, 5).numpy(), atol=1e-5)
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    random = [added(i, j, torch.tensordot(as_new(i, j), parts[:4], 1)) for i, j in pairs]
    assert np.allclose(found["random"], torch.stack(random).mean(0).numpy(), atol=1e-4)
    inside = explain(encoder, *CORPUS["en"][:2], "neuron", None, CORPUS, progress=False).table
    random = torch.stack([added(i, j) for i, j in pairs])
    assert np.allclose(inside["random"], random.mean(0).numpy(), atol=1e-4)
    assert np.allclose(inside["spread"], random.std(0, correction=0).numpy(), atol=1e-4)
    three = (CORPUS["en"][0], Y, CORPUS["en"][1])
    found = explain_difference(encoder, *three, "neuron", CORPUS, progress=False).table
    assert np.allclose(found["contribution"], (added(0, 5) - added(0, 1)).numpy(), atol=1e-5)
    triples = [(i, j, k) for i in range(4) for j in range(4) for k in range(4)]
    triples = [added(i, j) - added(i, k) for i, j, k in triples if len({i, j, k}) == 3]
    spread = torch.stack(triples).std(0, correction=0).numpy()
    assert np.allclose(found["spread"], spread, atol=1e-4)
    assert np.allclose(found["random"], 0, atol=1e-9)


def test_directions_are_principal_components_and_what_they_do_not_hold(tiny_lens):
    encoder = dl.DySem(tiny_lens, ("en", "fr"), k=0.5)
    corpus = encoder.encode_renderings(CORPUS, progress=False).vectors.double().numpy()
    mean = corpus.mean(0)
    components = np.linalg.svd(corpus - mean, full_matrices=False)[2][:3]
    asked = {"renderings": RENDERINGS, "progress": False}
    found = explain(encoder, X, Y, "direction", None, CORPUS, directions=components, **asked)
    whole = explain(encoder, X, Y, "language", None, CORPUS, **asked)
    assert found.similarity == pytest.approx(whole.similarity, abs=1e-6)
    assert found.table["direction"].tolist()[:3] == [0, 1, 2]
    assert found.table["kind"].tolist() == ["direction"] * 3 + ["error"]
    encoded = encoder.encode_renderings({"en": [X, Y], **RENDERINGS}, progress=False)
    x, y = encoded.vectors.double().numpy() - mean
    U = (encoded.sets[0] | encoded.sets[1]).numpy()
    norms = np.linalg.norm(x[U]) * np.linalg.norm(y[U])
    for row, component in zip(found.table.itertuples(), components, strict=False):
        part = (x @ component) * component
        assert row.contribution == pytest.approx((part * U) @ y / norms, abs=1e-6)
    rest = x - (components @ x) @ components
    last = found.table.iloc[-1]
    assert last["contribution"] == pytest.approx((rest * U) @ y / norms, abs=1e-6)
    v = corpus - mean
    S = encoder.encode_renderings(CORPUS, progress=False).sets.numpy()
    errors = []
    for i in range(4):
        for j in set(range(4)) - {i}:
            on, (x, y) = S[i] | S[j], as_new(i, j).numpy() @ v
            left = x - (components @ x) @ components
            errors.append(left[on] @ y[on] / np.linalg.norm(x[on]) / np.linalg.norm(y[on]))
    assert last["random"] == pytest.approx(np.mean(errors), abs=1e-5)
    raw = explain(encoder, X, Y, "direction", None, None, directions=components, **asked)
    assert raw.similarity == pytest.approx(raw.encoder_similarity, abs=1e-6)
    both = explain(encoder, X, Y, "direction", "head", CORPUS, directions=components, **asked)
    assert both.similarity == pytest.approx(whole.similarity, abs=1e-6)
    assert np.allclose(both.matrix().sum(axis=1), found.table["contribution"], atol=1e-6)


def test_a_sparse_dictionary_has_its_own_encoder_and_names(tiny_lens):
    encoder = dl.PromptEncoder(tiny_lens)
    torch.manual_seed(0)
    d = tiny_lens.d_model
    decoder, bias = torch.randn(2 * d, d), torch.randn(d)
    names = [f"feature <{i}>" for i in range(2 * d)]

    def encode(vectors):
        return ((vectors - bias) @ decoder.T - 1).relu()

    dictionary = dl.Directions(decoder, names, encode)
    found = explain(encoder, X, Y, "direction", None, None, directions=dictionary, progress=False)
    x, y = encoder.encode([X, Y], progress=False).vectors.double()
    c, norms = encode(x.float()[None])[0].double(), x.norm() * y.norm()
    expected = c * (decoder.double() @ y) / norms
    assert found.table["direction"].tolist()[:-1] == names
    assert np.allclose(found.table["contribution"][:-1], expected, atol=1e-6)
    assert found.similarity == pytest.approx(torch.cosine_similarity(x, y, dim=0).item(), abs=1e-6)
    assert found.facts.record()["parameters"]["directions"]["n"] == 2 * d
    largest = expected.abs().argmax().item()
    assert f"feature &lt;{largest}&gt;" in found.caption or "error" in found.caption
    asked = {"directions": dictionary, "progress": False}
    centred = explain(encoder, X, Y, "direction", None, CORPUS, **asked)
    whole = explain(encoder, X, Y, "dimension", None, CORPUS, progress=False)
    assert centred.similarity == pytest.approx(whole.similarity, abs=1e-6)
    difference = explain_difference(encoder, X, Y, Z, "direction", CORPUS, **asked)
    assert np.allclose(difference.table["to_y"], centred.table["contribution"])
    pooled = dl.MeanPooling(tiny_lens)
    asked["directions"] = decoder[:3]
    of_any = explain(pooled, X, Y, "direction", None, CORPUS, **asked)
    by_dimension = explain(pooled, X, Y, "dimension", None, CORPUS, progress=False)
    assert of_any.similarity == pytest.approx(by_dimension.similarity, abs=1e-6)


def test_directions_are_given_where_they_are_asked_for(tiny_lens):
    encoder, some = dl.DySem(tiny_lens, ("en",), k=0.5), torch.eye(tiny_lens.d_model)[:2]
    with pytest.raises(InputError, match="go together; give both or neither"):
        explain(encoder, X, Y, "direction", None, None, progress=False)
    with pytest.raises(InputError, match="go together"):
        explain(encoder, X, Y, "head", None, None, directions=some, progress=False)
    with pytest.raises(InputError, match="directions have 3 dimensions, the vectors 32"):
        explain(encoder, X, Y, "direction", None, None, directions=torch.eye(3), progress=False)


def test_too_many_pairs_of_parts_are_refused(tiny_lens, monkeypatch):
    from dysem_lab.questions import explain as room

    encoder = dl.DySem(tiny_lens, ("en",), k=0.5, component="resid")
    added = explain(encoder, X, Y, "neuron", "block", CORPUS, progress=False)
    alone = explain(encoder, X, Y, "neuron", None, CORPUS, progress=False)
    assert np.allclose(added.matrix().sum(axis=1), alone.table["contribution"], atol=1e-6)
    monkeypatch.setattr(room, "MOST_ROWS", 100)
    with pytest.raises(
        InputError, match=r"146 parts of x times 4 of y are 584 rows, more than 100"
    ):
        explain(encoder, X, Y, "neuron", "block", None, progress=False)


def test_surprise_is_how_far_from_random_pairs(tiny_lens):
    found = explain(dl.DySem(tiny_lens, ("en",), k=0.5), X, Y, "head", None, CORPUS, progress=False)
    table = found.table
    by_hand = (table["contribution"] - table["random"]) / table["spread"]
    assert np.allclose(table["surprise"], by_hand)
    assert found.top(3)["contribution"].abs().is_monotonic_decreasing
    assert len(found.top(3)) == 3


def test_a_corpus_of_two_texts_has_no_random_pairs(tiny_lens):
    encoder = dl.DySem(tiny_lens, ("en",), k=0.5)
    for by in ("head", "token", "dimension"):
        found = explain(encoder, X, Y, by, None, {"en": CORPUS["en"][:2]}, progress=False)
        assert not {"random", "spread", "surprise"} & {*found.table}
        assert "random pairs" not in found.caption


def test_the_largest_dimensions_can_be_left_out(tiny_lens):
    encoder = dl.DySem(tiny_lens, ("en",), k=1.0)
    all_of_them = explain(encoder, X, Y, "dimension", None, CORPUS, progress=False)
    fewer = explain(encoder, X, Y, "dimension", None, CORPUS, None, 3, progress=False)
    left_out = set(all_of_them.table["dimension"]) - set(fewer.table["dimension"])
    corpus = encoder.encode(CORPUS["en"], progress=False).vectors
    unit = corpus / corpus.norm(dim=1, keepdim=True)
    largest = unit.mean(0).square().topk(3).indices.tolist()
    assert left_out == set(largest) & set(all_of_them.table["dimension"])
    raw = explain(encoder, X, Y, "dimension", None, None, None, 3, progress=False)
    assert raw.encoder_similarity == all_of_them.encoder_similarity


def test_a_difference_is_that_of_two_explanations(tiny_lens):
    encoder = dl.DySem(tiny_lens, ("en",), k=0.5)
    found = explain_difference(encoder, X, Y, Z, "head", CORPUS, progress=False)
    to_y, to_z = (
        explain(encoder, X, other, "head", None, CORPUS, progress=False) for other in (Y, Z)
    )
    assert np.allclose(found.table["to_y"], to_y.table["contribution"])
    assert np.allclose(found.table["to_z"], to_z.table["contribution"])
    assert found.similarity == pytest.approx(to_y.similarity - to_z.similarity)
    assert found.encoder_similarity == pytest.approx(
        to_y.encoder_similarity - to_z.encoder_similarity
    )
    by_dimension = explain_difference(encoder, X, Y, Z, "dimension", None, progress=False)
    assert by_dimension.table["contribution"].sum() == pytest.approx(
        by_dimension.encoder_similarity, abs=1e-5
    )


def test_a_difference_is_beside_random_triples(tiny_lens):
    encoder = dl.DySem(tiny_lens, ("en", "fr"), k=0.5)
    renderings = {"fr": [*RENDERINGS["fr"], "Il pleut."]}
    for by in ("head", "token", "language", "dimension"):
        found = explain_difference(encoder, X, Y, Z, by, CORPUS, renderings, progress=False)
        table = found.table.dropna(subset="surprise")
        assert len(table)
        assert np.allclose(table["random"], 0, atol=1e-9)
        assert np.allclose(table["surprise"], table["contribution"] / table["spread"], atol=1e-4)
        surprising = found.top(3, "surprise").index.tolist()
        assert surprising == found.table["surprise"].abs().nlargest(3).index.tolist()
        assert "random triples +0.000 ±" in found.caption
        assert "random pairs" not in found.caption + found.figure.to_json()
    two = {code: texts[:2] for code, texts in CORPUS.items()}
    found = explain_difference(encoder, X, Y, Z, "head", two, renderings, progress=False)
    assert "random" not in found.table


def test_a_difference_of_tokens_is_that_of_two_matrices(tiny_lens, tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "find_browser", lambda: None)  # a PNG is of no matter here
    encoder = dl.DySem(tiny_lens, ("en", "fr"), k=0.5)
    renderings = {"fr": [*RENDERINGS["fr"], "Il pleut."]}
    asked = {"centre": CORPUS, "progress": False}
    found = explain_difference(
        encoder, X, Y, Z, "token", by_other="token", renderings=renderings, **asked
    )
    to_y, to_z = (
        explain(encoder, X, other, "token", "token", renderings={"fr": fr}, **asked)
        for other, fr in ((Y, renderings["fr"][:2]), (Z, renderings["fr"][::2]))
    )
    matrix = found.matrix()
    whose = matrix.columns.get_level_values("other_text")
    for name, one, sign in (("y", to_y, 1), ("z", to_z, -1)):
        expected = sign * one.matrix().to_numpy()
        assert np.allclose(matrix.to_numpy()[:, whose == name], expected, atol=1e-7)
    assert found.similarity == pytest.approx(to_y.similarity - to_z.similarity, abs=1e-6)
    alone = explain_difference(encoder, X, Y, Z, "token", renderings=renderings, **asked)
    assert np.allclose(matrix.sum(axis=1), alone.table["contribution"], atol=1e-6)
    for one in ("x", "x, fr", "y", "y, fr", "z", "z, fr"):
        assert f'<span class="dl-name">{one}' in found.above
    assert "Orange pulls x to y, blue to z" in found.above
    assert found.above in found.save(tmp_path)["html"].read_text(encoding="utf-8")
    drawn = found.figure.data[0]
    assert sum(map(sum, drawn.z)) == pytest.approx(found.similarity, abs=1e-5)
    assert {text.split(":")[0] for text in found.figure.layout.xaxis.ticktext} == {"y", "z"}
    assert re.search(r" × [yz]: ", found.caption)
    by_head = explain_difference(
        encoder, X, Y, Z, "head", by_other="block", **asked | {"renderings": renderings}
    )
    assert by_head.similarity == pytest.approx(found.similarity, abs=1e-5)
    assert by_head.above == ""


def test_coloured_sentences_of_three_texts_in_any_script(tiny_lens):
    """Tokens in their order, escaped, each line in its own direction, no script, no address."""
    encoder = dl.DySem(tiny_lens, ("en",), k=0.9)
    x, y, z = "ريح <قوية>", "猫が寝る", "חתול & ישן"
    found = explain_difference(encoder, x, y, z, "token", None, by_other="token", progress=False)
    shown = re.sub(r"<style>.*?</style>", "", found.above, flags=re.S)
    assert shown.count('dir="auto"') >= 3
    assert "<script" not in found.above
    assert "http" not in found.above
    assert {"&lt;", "&amp;"} <= {*re.findall("&[a-z]+;", shown)}
    assert "<قوية>" not in shown
    n_tokens = {side: len(re.findall(rf"data-of={side} ", shown)) for side in "xyz"}
    whose = found.matrix().columns.get_level_values("other_text")
    assert n_tokens == {"x": len(found.matrix()), "y": sum(whose == "y"), "z": sum(whose == "z")}
    values = found.matrix().to_numpy()
    i, j = np.unravel_index(np.abs(values[:, whose == "z"]).argmax(), values[:, whose == "z"].shape)
    assert f":has(.dl-x{i}:hover) .dl-z{j}.dl-t" in found.above
    assert f":has(.dl-z{j}:hover) .dl-x{i}.dl-t" in found.above


def test_texts_that_cannot_be_told_apart_are_refused(tiny_lens):
    encoder = dl.DySem(tiny_lens, ("en",), k=0.5)
    for z in (Y, Y.removesuffix(".")):
        for one in (encoder, dl.MeanPooling(tiny_lens)):
            if one is encoder or z == Y:
                with pytest.raises(InputError, match="are one text to the encoder"):
                    explain_difference(one, X, Y, z, "dimension", CORPUS, progress=False)
    refused = [
        (("", Y, Z), {}, "empty"),
        ((X, Y, ""), {}, "empty"),
        ((X, Y, [Z]), {}, "a text must be a string"),
        ((X, Y, Z), {"centre": {"en": ["one", "one"]}}, "two different texts or more, got 1"),
        ((X, Y, Z), {"centre": {"en": [X, Y, Z]}}, "fewer than two other texts than those"),
        ((X, Y, Z), {"renderings": {"fr": ["un", "deux"]}}, "must be the 3 texts in it"),
        ((X, Y, Z), {"by_other": "dimension"}, "meets the same dimension"),
        ((X, Y, Z), {"drop_largest": 31}, "drop fewer"),
        ((X, Y, Z), {"by": "direction"}, "go together"),
    ]
    for texts, asked, said in refused:
        with pytest.raises(InputError, match=said):
            explain_difference(encoder, *texts, **{"centre": CORPUS, "progress": False, **asked})
    same = explain_difference(encoder, X, X, Z, "head", CORPUS, progress=False)
    assert same.table["to_y"].sum() == pytest.approx(1)


@pytest.mark.parametrize("name", ["gemma-3-270m", "smollm2-135m-instruct"])
def test_a_full_stop_and_the_quotation_mark_after_it_are_one_token(embedded, name):
    """Both tokenizers make one of them, which is of the text and of the template."""
    lens = embedded(name)
    encoder = dl.DySem(lens, ("en",), k=0.25)
    merged = {"A man plays": '."', "A man plays.": '."', "Who plays?": '."', "He said 'no'": "'\""}
    for text, token in merged.items():
        found = explain(encoder, text, "It rains.", "token", "token", None, progress=False)
        table = found.table.drop_duplicates("position")
        both = table[table["of_text"].eq(True) & table["of_template"].eq(True)]
        assert both["token"].tolist() == [token]
        of_text = "".join(table.loc[table["of_text"].eq(True), "token"])
        (prompt,) = dl.wrap([text])
        assert of_text == prompt[prompt.start : prompt.stop - 1] + token
        alone = table[table["of_text"].eq(True) & table["of_template"].eq(False)]
        assert "".join(alone["token"]) == of_text.removesuffix(token)
        assert found.above.count('dl-both"') == 2  # of x, and of y
        assert "a dotted line is below what it shares with the text" in found.above


def test_equal_and_short_texts(tiny_lens):
    encoder = dl.DySem(tiny_lens, ("en",), k=0.5)
    same = explain(encoder, X, X, "token", "token", CORPUS, progress=False)
    assert same.similarity == pytest.approx(1)
    short = explain(encoder, "a", "b", "token", None, CORPUS, progress=False)
    assert math.isfinite(short.similarity)


def test_what_has_no_answer_is_refused(tiny_lens):
    encoder = dl.DySem(tiny_lens, ("en",), k=0.5)
    for centre, said in (
        ({"en": ["one", "one"]}, "needs two different texts or more, got 1"),
        ({"fr": ["un", "deux"]}, "unknown language of the texts 'en'"),
        ("nothing", "no folder nothing; give 'demo'"),
        ({"en": ["one", ""]}, "empty"),
        (7, "must be a list of strings, got int"),
        (np.zeros((2, 32)), r"must be a list of strings, got ndarray of shape \(2, 32\)"),
    ):
        with pytest.raises(dl.DysemLabError, match=said):
            explain(encoder, X, Y, "head", None, centre, progress=False)
    swahili = dl.DySem(tiny_lens, ("sw",), k=0.5, setting="english")
    with pytest.raises(
        InputError, match=r"of demo\) has no sw; give one that has.* or centre=None"
    ):
        explain(swahili, X, Y, renderings={"sw": ["Paka.", "Mbwa."]}, progress=False)
    with pytest.raises(InputError, match="by"):
        explain(encoder, X, Y, "neurone", progress=False)
    with pytest.raises(InputError, match="meets the same dimension of y only"):
        explain(encoder, X, Y, "head", "dimension", None, progress=False)
    with pytest.raises(InputError, match="empty"):
        explain(encoder, X, "", "head", None, None, progress=False)
    with pytest.raises(InputError, match="drop fewer"):
        explain(encoder, X, Y, "head", None, CORPUS, None, 31, progress=False)
    for n in (-1, 32, True, math.nan):
        with pytest.raises(InputError, match="drop_largest must be between 0 and 31"):
            explain(encoder, X, Y, "head", None, CORPUS, None, n, progress=False)
    with pytest.raises(InputError, match="must be the 2 texts in it"):
        explain(encoder, X, Y, "head", None, None, {"fr": ["un"]}, progress=False)
    with pytest.raises(InputError, match="mean pooling is not kept as a sum of what a pass writes"):
        explain(dl.MeanPooling(tiny_lens), X, Y, "head", None, None, progress=False)
    with pytest.raises(InputError, match="encoder must be one of dysem-lab's"):
        explain("prompteol", X, Y, "head", None, None, progress=False)
    with pytest.raises(InputError, match="a text must be a string"):
        explain(encoder, X, [Y], "head", None, None, progress=False)
    with pytest.raises(InputError, match="was not split"):
        explain(encoder, X, Y, "head", None, None, progress=False).matrix()


def test_what_needs_no_pass_to_be_refused_is_refused_before_one(tiny_lens):
    encoder, new = dl.DySem(tiny_lens, ("en",), k=0.5), ("Nobody read this.", "Nor this one.")
    with counted(tiny_lens) as work:
        for given, said in (
            ({"centre": "nothing"}, "no folder nothing"),
            ({"centre": {"fr": ["un", "deux"]}}, "unknown language"),
            ({"centre": {"en": [*new, "One more."]}}, "fewer than two other texts"),
            ({"drop_largest": 32}, "drop_largest"),
            ({"by": "ffn"}, "'attn' is no sum over 'ffn'"),
            ({"by": "token", "by_other": "ffn"}, "'attn' is no sum over 'ffn'"),
            ({"by": "direction", "directions": np.ones((1, 31))}, "31 dimensions, the vectors 32"),
        ):
            given = {"centre": CORPUS, "progress": False, **given}
            with pytest.raises(dl.DysemLabError, match=said):
                explain(encoder, *new, **given)
            with pytest.raises(dl.DysemLabError, match=said):
                explain_difference(encoder, *new, "Nor that.", **given)
    assert work.rows == 0


def test_each_data_type_is_explained_by_its_own_pass(tiny_folder, tiny_lens):
    half = load_model(tiny_folder("Llama"), dtype="bfloat16")
    for lens, has_rounding in ((tiny_lens, False), (half, True)):
        encoder = dl.DySem(lens, ("en",), k=0.5)
        for centre in (None, {"en": CORPUS["en"][:3]}):
            found = explain(encoder, X, Y, "head", None, centre, progress=False)
            assert ("rounding" in set(found.table["kind"])) == has_rounding
            own = found.encoder_similarity
            assert centre or found.similarity == pytest.approx(own, abs=1e-6)


def test_each_data_type_is_centred_on_its_own_corpus(tiny_folder, tiny_lens):
    half = dl.DySem(load_model(tiny_folder("Llama"), dtype="bfloat16"), ("en",), k=0.5)
    corpus = {"en": CORPUS["en"][:5]}
    by_head = explain(half, X, Y, "head", None, corpus, progress=False)
    explain(dl.DySem(tiny_lens, ("en",), k=0.5), X, Y, "head", None, corpus, progress=False)
    references._references.clear()
    alone = explain(half, X, Y, "head", None, corpus, progress=False)
    assert by_head.similarity == alone.similarity
    full = explain(dl.DySem(tiny_lens, ("en",), k=0.5), X, Y, "head", None, corpus, progress=False)
    references._references.clear()
    again = explain(dl.DySem(tiny_lens, ("en",), k=0.5), X, Y, "head", None, corpus, progress=False)
    assert full.similarity == again.similarity != alone.similarity


def test_a_pass_under_hooks_that_were_left_is_not_remembered(tiny_folder):
    lens = load_model(tiny_folder("Llama"))
    encoder = dl.DySem(lens, ("en",), k=0.5)
    block = lens.bridge.original_model.model.layers[0]
    left = block.register_forward_hook(lambda module, given, out: out)
    for by in ("head", "language"):
        with pytest.raises(ModelError, match="hook"):
            explain(encoder, "Left.", Y, by, None, None, progress=False)
    left.remove()
    found = explain(encoder, "Left.", Y, "head", None, None, progress=False)
    assert found.similarity == pytest.approx(found.encoder_similarity, abs=1e-6)


def test_any_encoder_is_explained_by_dimension(tiny_lens):
    encoder = dl.MeanPooling(tiny_lens)
    found = explain(encoder, X, Y, "dimension", None, CORPUS, progress=False)
    vectors = encoder.encode([X, Y, *CORPUS["en"]], progress=False).vectors.double()
    x, y = vectors[:2] - vectors[2:].mean(0)
    assert found.similarity == pytest.approx(torch.cosine_similarity(x, y, dim=0).item(), abs=1e-5)


def test_figures_and_captions_say_the_numbers(tiny_lens, tmp_path):
    encoder = dl.DySem(tiny_lens, ("en", "fr"), k=0.5)
    for by, other in (
        ("head", None),
        ("token", "token"),
        ("token", None),
        ("dimension", None),
    ):
        found = explain(encoder, X, Y, by, other, CORPUS, RENDERINGS, progress=False)
        assert f"{found.similarity:.3f}" in found.caption
        assert f"{found.encoder_similarity:.3f}" in found.caption
        assert ("through which meaning came" in found.caption) == (by == "token")
        said = re.search(r"together ([+-][.\d]+); all others make ([+-][.\d]+)\.", found.caption)
        assert sum(map(float, said.groups())) == pytest.approx(found.similarity, abs=0.0011)
        assert "centred on 4 texts" in found.figure.layout.title.subtitle.text
        record = found.facts.record()
        assert record["parameters"]["by"] == by
        assert record["similarity"] == found.similarity == found.table["contribution"].sum()
        assert record["encoder_similarity"] == found.encoder_similarity
        assert record["said"] == str(found.facts)


def test_a_corpus_is_kept_on_disk_and_a_damaged_file_is_made_again(tiny_lens, monkeypatch):
    from dysem_lab.questions import reference as room
    from dysem_lab.questions import splits

    encoder = dl.DySem(tiny_lens, ("en", "fr"), k=0.5)
    corpus = {code: [*texts, code] for code, texts in CORPUS.items()}  # of this test alone
    runs = []
    run = splits._run
    monkeypatch.setattr(splits, "_run", lambda *given: runs.append(1) or run(*given))

    def again(by):
        splits._views.clear()
        room._references.clear()
        runs.clear()
        return reference(encoder, corpus_of(corpus, ("en", "fr"), "en"), by, "en"), len(runs)

    encoder = dl.DySem(tiny_lens, ("en", "fr"), k=0.5, component="resid")
    for by in ("neuron", "head", "token"):
        first, n_runs = again(by)
        assert n_runs == 2  # one for each language
        kept, n_runs = again(by)
        assert n_runs == 0
        assert kept.added == first.added
        assert torch.equal(kept.mean, first.mean)
        assert {key: value.tolist() for key, value in kept.split.means.items()} == {
            key: value.tolist() for key, value in first.split.means.items()
        }
    for damage in (lambda whole: whole[:100], lambda whole: whole[:-9] + b"\1" + whole[-8:]):
        for file in (paths.cache_dir() / "parts").iterdir():
            file.write_bytes(damage(file.read_bytes()))
        healed, n_runs = again(by)
        assert n_runs == 2
        assert healed.added == first.added
    monkeypatch.setattr(splits, "MOST_BYTES", 0)
    again("block")
    assert len([*(paths.cache_dir() / "parts").iterdir()]) == 1


def test_sentences_are_coloured_and_linked_without_a_script(tiny_lens, tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "find_browser", lambda: None)  # a PNG is of no matter here
    encoder = dl.DySem(tiny_lens, ("en", "fr"), k=0.5)
    found = explain(encoder, "<b> & 'x'", Y, "token", "token", None, RENDERINGS, progress=False)
    assert "<script" not in found.above
    assert "http" not in found.above
    assert "&lt;" in found.above
    assert "<b>" not in found.above
    assert ":has(.dl-x" in found.above
    assert 'dir="auto"' in found.above
    assert explain(encoder, X, Y, "head", None, None, RENDERINGS, progress=False).above == ""
    page = found.save(tmp_path)["html"].read_text(encoding="utf-8")
    assert found.above in page


def test_parts_beyond_the_range_of_half_precision_have_means_and_spreads(tiny_folder, monkeypatch):
    lens = load_model(tiny_folder("Llama"))
    dysem, corpus = dl.DySem(lens, ("en",), k=0.9), {"en": [*CORPUS["en"], "Of this test alone."]}
    plain = explain(dysem, X, Y, "head", None, corpus, progress=False).table
    monkeypatch.setattr(paths, "parts_path", lambda key: paths.cache_dir() / "large" / key)
    with torch.no_grad():
        for block in lens.bridge.blocks:
            block.attn.o.weight.mul_(2.0**20)  # a large power of two: the same digits
    large = explain(dl.DySem(lens, ("en",), k=0.9), X, Y, "head", None, corpus, progress=False)
    assert np.isfinite(large.table[["random", "spread", "surprise"]].to_numpy()).all()
    assert len(plain) == len(large.table)
    assert (large.table["spread"] > 0).all()


def test_the_largest_and_the_most_surprising(tiny_lens):
    encoder = dl.DySem(tiny_lens, ("en", "fr"), k=0.5)
    found = explain(encoder, X, Y, "head", None, CORPUS, RENDERINGS, progress=False)
    table = found.table
    assert found.top(3).index.tolist() == table["contribution"].abs().nlargest(3).index.tolist()
    surprising = found.top(3, "surprise")
    assert surprising.index.tolist() == table["surprise"].abs().nlargest(3).index.tolist()
    plain = explain(encoder, X, Y, "head", None, None, RENDERINGS, progress=False)
    with pytest.raises(InputError, match="unknown column 'surprise'"):
        plain.top(3, "surprise")


@pytest.mark.parametrize(
    ("x", "renderings", "message"),
    [
        (X, {"fr": "ab"}, "fr texts? must be a list of strings"),
        ({"en": X, "fr": "Un homme."}, RENDERINGS, "given twice in 'fr', and differ"),
        (X, {"en": ["Other.", "Texts."], **RENDERINGS}, "given twice in 'en', and differ"),
    ],
)
def test_renderings_that_are_no_texts_or_contradict(tiny_lens, x, renderings, message):
    encoder = dl.DySem(tiny_lens, ("en", "fr"), k=0.5)
    y = Y if isinstance(x, str) else {"en": Y, "fr": "Une femme."}
    with pytest.raises(InputError, match=message):
        explain(encoder, x, y, "head", None, None, renderings, progress=False)


def test_texts_of_the_corpus_are_counted_and_alone_refused(tiny_lens):
    encoder = dl.DySem(tiny_lens, ("en",), k=0.5)
    with pytest.raises(InputError, match="fewer than two other texts than those"):
        explain(encoder, X, Y, centre={"en": [X, Y]}, progress=False)
    found = explain(encoder, X, Y, centre={"en": [X, "A dog.", "It rains."]}, progress=False)
    assert "centred on 3 texts, 1 of these texts among them" in str(found.facts)


def test_what_is_left_out_without_centring_is_said(tiny_lens):
    encoder = dl.DySem(tiny_lens, ("en",), k=0.5)
    found = explain(encoder, X, Y, centre=None, drop_largest=2, progress=False)
    assert "without the 2 dimensions with the largest shares" in found.caption
    assert "largest dimensions of 264 texts of demo" in str(found.facts)


def test_the_passes_of_a_plain_encoder_are_called_by_the_names_of_their_prompts(tiny_lens):
    encoder = dl.PromptEncoder(tiny_lens, "prompteol", "attn.sum")
    found = explain(encoder, X, Y, "language", centre=None, progress=False)
    assert "PromptEOL" in found.caption
    assert "prompteol" not in found.caption
    assert explain_picture.names_of_parts(found.table) == ["PromptEOL"]
    above = explain(encoder, X, Y, "token", "token", centre=None, progress=False).above
    assert "x, PromptEOL" in above


def test_tokens_that_are_there_twice_are_told_apart(tiny_lens):
    encoder = dl.DySem(tiny_lens, ("en",), k=0.9)
    table = explain(encoder, "aaaa", "b", "token", centre=None, progress=False).table
    of_a = table[table["token"] == "a"]
    names = explain_picture._told_apart(table, of_a)
    assert names == [
        f"{name} (token {position + 1}, en)"
        for name, position in zip(
            explain_picture.names_of_parts(of_a), of_a["position"], strict=True
        )
    ]
    once = table[~table["token"].duplicated(keep=False)]
    assert explain_picture._told_apart(table, once) == explain_picture.names_of_parts(once)


def test_renderings_that_are_not_read_are_refused(tiny_lens):
    english = dl.DySem(tiny_lens, ("en",), k=0.5)
    for encoder in (english, dl.PromptEncoder(tiny_lens)):
        with pytest.raises(InputError, match=r"not read the renderings in 'fr', only 'en'; leave"):
            explain(encoder, X, Y, "head", None, None, RENDERINGS, progress=False)
    both = dl.DySem(tiny_lens, ("en", "fr"), k=0.5)
    given = {**RENDERINGS, "xx": ["a", "b"]}
    with pytest.raises(InputError, match="renderings in 'xx', only 'en', 'fr'; leave"):
        explain(both, X, Y, "head", None, None, given, progress=False)
    own = {"en": [X, Y]}
    assert explain(english, X, Y, "head", None, None, own, progress=False).similarity
    texts = ({"en": X, "fr": "Un homme joue."}, {"en": Y, "fr": "Une femme chante."})
    found = explain(english, *texts, "head", None, None, progress=False)  # rows of loaded data
    assert found.similarity == explain(english, X, Y, "head", None, None, progress=False).similarity


def test_words_of_a_text_that_is_cut_and_of_one_without_spaces(tiny_lens):
    encoder = dl.DySem(tiny_lens, ("en",), k=0.5)
    with pytest.warns(UserWarning, match="shortened"):
        found = explain(encoder, " ".join(["word"] * 300), Y, "token", centre=None, progress=False)
    assert found.words is not None
    assert len(found.words) < 300
    found = explain(encoder, "猫が寝る", Y, "token", centre=None, progress=False)
    assert found.words is None
    assert "no white space divides the text" in found.caption


def test_words_are_left_out_in_the_language_that_is_read(tiny_lens, monkeypatch):
    from dysem_lab.questions import explain as room
    from dysem_lab.questions.word_order import LEFT_OUT, Tested

    monkeypatch.setattr(room, "tested", lambda encoder, language: Tested(LEFT_OUT, "It leads."))
    encoder = dl.DySem(tiny_lens, ("fr",), k=0.5)
    found = explain(encoder, X, Y, "token", None, None, RENDERINGS, progress=False)
    whole = encoder.encode(["Un homme joue.", "Une femme chante."], language="fr", progress=False)
    part = encoder.encode(["Un homme"], language="fr", progress=False)
    x, y = part.vectors[0].double(), whole.vectors[1].double()
    U = whole.sets[0] | whole.sets[1]
    left = float(x[U] @ y[U] / (x[U].norm() * y[U].norm()))
    row = found.words.set_index("word").loc["joue."]
    assert row["left_out"] == pytest.approx(found.similarity - left, abs=1e-6)
