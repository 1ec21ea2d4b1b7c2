"""The estimator against its equations, and against known numbers on real data."""

import json

import pytest
import torch

from dysem_lab.data.sts import load_data
from dysem_lab.encoders.dysem import DySem, language_vectors, semantic_vectors
from dysem_lab.encoders.vectors import n_dims
from dysem_lab.errors import InputError, MissingTranslationError
from dysem_lab.evaluate import spearman
from dysem_lab.models.capture import capture
from dysem_lab.models.store import VectorStore
from dysem_lab.prompts import wrap
from dysem_lab.questions import decomposition, random_sets
from dysem_lab.questions.scores import pair_cosine, pair_similarity
from dysem_lab.questions.study import Study
from dysem_lab.translation.parallel_table import ParallelTable
from tests.conftest import WHOLE


def by_hand(lens, data, languages, source, k, setting, vector, rank_by):
    """Return v and S of the first sentences, straight from Eqs. 11-15 with Python loops."""
    acts = {
        code: capture(lens, wrap(data.sentences[code][0], "prompteol", setting, code), "attn")[
            "attn"
        ]
        for code in {*languages, source}
    }
    vectors, sets = [], []
    for i in range(len(data)):
        stack = [acts[code][i] for code in languages]
        mean = sum(stack) / len(stack)
        v = mean if vector == "mean" else acts[source][i]
        key = mean if rank_by == "mean" else v
        consensus = [j for j in range(lens.d_model) if all(s[j] > 0 for s in stack)]
        chosen = sorted(consensus, key=lambda j: (-key[j].item(), j))[:k]
        vectors.append(v)
        sets.append([j in chosen for j in range(lens.d_model)])
    return torch.stack(vectors), torch.tensor(sets)


@pytest.mark.parametrize("setting", ["english", "language-specific"])
@pytest.mark.parametrize("vector", ["source", "mean"])
@pytest.mark.parametrize("rank_by", ["mean", "vector"])
@pytest.mark.parametrize("languages", [("en", "ja"), ("ja", "ru")])
def test_encode_follows_the_equations(tiny_lens, demo, setting, vector, rank_by, languages):
    data = demo.head(5)
    dysem = DySem(
        tiny_lens,
        languages,
        ParallelTable.from_data(data),
        k=4,
        setting=setting,
        vector=vector,
        rank_by=rank_by,
    )
    encoded = dysem.encode(data.sentences["en"][0])
    v, S = by_hand(tiny_lens, data, languages, "en", 4, setting, vector, rank_by)
    assert torch.allclose(encoded.vectors, v, atol=1e-4)
    assert torch.equal(encoded.sets, S)
    second = dysem.encode(
        data.sentences["en"][1], renderings={code: data.sentences[code][1] for code in languages}
    )
    pairwise = dysem.similarity_pairwise(encoded, second)
    for i in range(len(data)):
        U = encoded.sets[i] | second.sets[i]
        x, y = encoded.vectors[i][U], second.vectors[i][U]
        assert pairwise[i].item() == pytest.approx((x @ y / x.norm() / y.norm()).item(), abs=1e-5)
    assert torch.allclose(dysem.similarity(encoded, second).diagonal(), pairwise, atol=1e-5)


def test_one_language_keeps_the_positive_coordinates(tiny_lens):
    encoded = DySem(tiny_lens, ("en",), k=1.0).encode(["A dog sleeps.", "It rains."])
    A = capture(tiny_lens, wrap(["A dog sleeps.", "It rains."]), "attn")["attn"]
    assert torch.equal(encoded.sets, A > 0)


def test_the_configuration_survives_json(tiny_lens, tmp_path):
    dysem = DySem(
        tiny_lens, ("en", "de"), k=0.25, component="resid", template="knowledge", rank_by="vector"
    )
    dysem.save(tmp_path / "dysem.json")
    again = DySem.load(tmp_path / "dysem.json", tiny_lens)
    assert again.config == dysem.config
    assert json.loads((tmp_path / "dysem.json").read_text())["k"] == 0.25
    assert repr(dysem) == repr(again)


def test_a_configuration_of_another_model_or_kind_is_refused(tiny_lens, tmp_path):
    file = tmp_path / "dysem.json"
    DySem(tiny_lens, ("en",)).save(file)
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "model": "other"}))
    with pytest.raises(InputError, match="settings of 'other', not of"):
        DySem.load(file, tiny_lens)
    for text in ("[1]", "not json", json.dumps({**config, "colour": "red"})):
        file.write_text(text)
        with pytest.raises(InputError, match="is not a saved configuration of DySem"):
            DySem.load(file, tiny_lens)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"component": "z"}, "unknown component 'z'; choose one of: attn, attn_raw"),
        ({"vector": "median"}, "'median'; did you mean 'mean'. choose one of: source, mean"),
        ({"rank_by": "size"}, "unknown rank_by 'size'"),
        ({"setting": "french"}, "unknown prompt setting 'french'; choose one of: english"),
        ({"template": "haiku"}, "unknown template 'haiku'"),
        ({"languages": ("en", "tlh")}, "unknown language 'tlh'; choose one of: en, zh"),
        ({"languages": ()}, "one or more different codes"),
        ({"languages": ("en", "en")}, "one or more different codes"),
        ({"k": 0}, "k must be an integer >= 1 or a fraction"),
        ({"k": 1.5}, "got 1.5"),
    ],
)
def test_bad_settings_are_refused_before_any_forward_pass(tiny_lens, arguments, message):
    with pytest.raises(InputError, match=message):
        DySem(tiny_lens, **arguments)


def test_missing_renderings_are_refused(tiny_lens):
    with pytest.raises(MissingTranslationError, match=r"'A dog sleeps\.'.* in 'ja'"):
        DySem(tiny_lens, ("en", "ja")).encode(["A dog sleeps."])
    table = ParallelTable({"en": ["A dog."], "ja": ["犬。"]})
    with pytest.raises(MissingTranslationError, match=r"no rendering in 'ja' of 'A cat\.'"):
        DySem(tiny_lens, ("en", "ja"), table).encode(["A dog.", "A cat."])
    with pytest.raises(InputError, match="2 renderings in 'ja' for 1 text"):
        DySem(tiny_lens, ("en", "ja")).encode(["A dog."], renderings={"ja": ["犬。", "猫。"]})


class Untouched:
    """A translator that must not be asked."""

    name = "untouched"

    def translate(self, texts, source, target):
        pytest.fail(f"asked for {texts}")


@pytest.mark.parametrize(
    ("texts", "renderings", "message"),
    [
        ("A dog.", {}, r"texts must be a list of strings; give one as \['A dog.'\]"),
        (["A dog.", " "], {}, "text 1 is empty or not a string: ' '"),
        (["A dog.", None], {}, "text 1 is empty or not a string: None"),
        (["A", "B"], {"ja": "あい"}, r"ja renderings must be a list of strings; .*\['あい'\]"),
        (["A", "B"], {"ja": ["あ", ""]}, "ja rendering 1 is empty or not a string: ''"),
    ],
)
def test_bad_texts_are_refused_before_they_are_translated(tiny_lens, texts, renderings, message):
    with pytest.raises(InputError, match=message):
        DySem(tiny_lens, ("en", "ja"), Untouched()).encode(texts, renderings=renderings)


@pytest.mark.parametrize("made", [["あ"], ["あ", None], ["あ", " "], ["あ", "い", "う"]])
def test_what_a_translator_gives_must_be_a_rendering_of_each_text(tiny_lens, made):
    class Wrong:
        name = "translator"

        def translate(self, texts, source, target):
            return made

    with pytest.raises(MissingTranslationError, match=r"translator (gave|has no rendering)"):
        DySem(tiny_lens, ("en", "ja"), Wrong()).encode(["A", "B"])


@pytest.mark.parametrize("languages", [("en",), ("en", "ja")])
def test_no_texts_give_no_vectors(tiny_lens, languages):
    encoded = DySem(tiny_lens, languages).encode([])
    assert encoded.vectors.shape == encoded.sets.shape == (0, tiny_lens.d_model)


def test_decomposition_rows_equal_their_own_definitions(tiny_lens, demo, tmp_path):
    data = demo.head(30)
    study = Study(tiny_lens, data, languages=["ja"], store=VectorStore(tmp_path / "v.sqlite"))
    table = decomposition.table(study, ["en", "ja"], k=6).set_index("method")
    A = capture(tiny_lens, wrap(data.texts("en")), "attn")["attn"]
    cosine = torch.nn.functional.cosine_similarity(A[:30], A[30:])
    assert table.loc["A^L", "spearman"] == pytest.approx(spearman(cosine, data.gold), abs=1e-6)
    dysem = DySem(tiny_lens, ("en", "ja"), ParallelTable.from_data(data), k=6, vector="source")
    similarity, dims = pair_similarity(dysem.encode(data.texts("en")))
    row = table.loc["DySem A^L, language-specific, source"]
    assert row["spearman"] == pytest.approx(spearman(similarity, data.gold), abs=1e-6)
    assert row["n_dims"] == dims
    assert row["gain"] == pytest.approx(row["spearman"] - table.loc["A^L", "spearman"], abs=1e-6)
    assert len(table) == 5 + 2 * 2 * 2


def test_random_sets_have_the_size_of_the_joint_sets(tiny_lens, demo, tmp_path):
    store = VectorStore(tmp_path / "v.sqlite")
    study = Study(tiny_lens, demo.head(20), languages=["ja"], store=store)
    table = random_sets.random_sets(study, ["en", "ja"], ks=[3, 0.5], n_seeds=2).table
    for _, part in table[table["kind"] != "all dimensions"].groupby("k"):
        size = part.loc[part["kind"] == "semantic", "n_dims"].item()
        per_pair = part.loc[part["kind"] == "random, per pair", "n_dims"]
        assert per_pair.tolist() == pytest.approx([size, size])
        shared = part.loc[part["kind"] == "random, shared", "n_dims"]
        assert shared.tolist() == [round(size)] * 2


# Score and dimensions of first pairs of STS-B test, en ja ru, by an independent implementation.
KNOWN = {
    600: {"attn": (80.34, 219.2), "attn_raw": (75.33, 218.2), "resid": (81.51, 196.5)},
    40: {"attn": (74.11, 209.0), "attn_raw": (68.71, 215.9), "resid": (74.60, 192.0)},
}
PLAIN = {600: 74.54, 40: 42.51}


def test_known_numbers_on_real_data(embedded, sts_folder):
    lens, n_pairs = embedded("gemma-3-270m"), 600 if WHOLE else 40
    data = load_data(sts_folder, "STSB", languages=("en", "ja", "ru")).head(n_pairs)
    components = ("attn", "attn_raw", "resid", "final")
    vectors = language_vectors(
        lens,
        {code: data.texts(code) for code in data.languages},
        components,
        setting="language-specific",
    )
    for component, (score, dims) in KNOWN[n_pairs].items():
        encoded = semantic_vectors(vectors[component], None, 1024)
        similarity, size = pair_similarity(encoded)
        assert spearman(similarity, data.gold) == pytest.approx(score, abs=0.05), component
        assert size == pytest.approx(dims, abs=0.5), component
        assert size == n_dims(encoded[:n_pairs], encoded[n_pairs:])
    plain = spearman(pair_cosine(vectors["final"][:, 0]), data.gold)
    assert plain == pytest.approx(PLAIN[n_pairs], abs=0.05)
