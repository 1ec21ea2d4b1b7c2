"""The search explorer: nearest texts by naive loops, encoding stopped and resumed, its panel."""

import gc
import html
import math
import re

import numpy as np
import pytest
import torch

import dysem_lab as dl
from dysem_lab.encoders.base import Encoder
from dysem_lab.errors import InputError
from dysem_lab.explorers.panel import Cancelled
from dysem_lab.explorers.search_explorer import explore_search, nearest_text
from dysem_lab.models.loading import load_model
from dysem_lab.models.record import counted
from dysem_lab.questions import search as question
from dysem_lab.questions import why_near as reasons
from dysem_lab.questions.searched import CHUNK, Corpus
from dysem_lab.questions.why_near import why_near
from tests.notebooks.conftest import run_lines

EN = ["A man plays.", "A woman sings.", "The sea is cold.", "He reads a book.", "Dogs bark."]
FR = ["Un homme joue.", "Une femme chante.", "La mer est froide.", "Il lit.", "Les chiens aboient."]


class Known(Encoder):
    """An encoder whose vectors are given."""

    name, width, blocks = "known", 3, 0
    config = {"model": "none"}  # noqa: RUF012

    def __init__(self, vectors):
        self.vectors, self.asked = vectors, []

    def encode(self, texts, *, language="en", store=None, progress=True):
        self.asked.append(list(texts))
        rows = [self.vectors[text] for text in texts]
        return dl.SemanticVectors(torch.tensor(rows, dtype=torch.float32))


def naive(query, vectors, sets=None):
    """Return text → (similarity, size of the joint set), by loops; None where undefined."""
    found = {}
    for text, v in vectors.items():
        q = vectors[query]
        inside = [j for j in range(len(v)) if sets is None or sets[query][j] or sets[text][j]]
        norms = math.sqrt(sum(q[j] ** 2 for j in inside) * sum(v[j] ** 2 for j in inside))
        similarity = sum(q[j] * v[j] for j in inside) / norms if norms else None
        found[text] = similarity, len(inside)
    return found


def test_the_nearest_by_hand():
    vectors = {"q": (1, 0, 1), "a": (1, 0, 0), "b": (0, 1, 0), "c": (2, 0, 2), "d": (-1, 1, 0)}
    corpus = Corpus(Known(vectors), ["a", "b", "c", "d"])
    table = question.nearest(corpus, "q", n=3).table
    assert table["text"].tolist() == ["c", "a", "b"]
    assert table["rank"].tolist() == [1, 2, 3]
    assert table["position"].tolist() == [2, 0, 1]
    assert table["similarity"].tolist() == pytest.approx([1, 1 / math.sqrt(2), 0])
    assert table["n_dims"].tolist() == [3, 3, 3]
    # Centred on the mean of the corpus, (1/2, 1/2, 1/2): q is (1, -1, 1) / 2, c (3, -1, 3) / 2,
    # a (1, -1, -1) / 2, b (-1, 1, -1) / 2.
    assert table["top_dimensions"].tolist() == [[0, 2, 1], [0, 1], []]
    assert table["top_share"].tolist() == pytest.approx([7 / math.sqrt(3 * 19), 2 / 3, 0])


def test_a_text_without_a_vector_is_counted_and_comes_nowhere():
    vectors = {"q": (1, 0, 1), "a": (1, 0, 0), "zero": (0, 0, 0)}
    view = question.nearest(Corpus(Known(vectors), ["zero", "a"]), "q")
    assert view.table["text"].tolist() == ["a"]
    assert view.n_undefined == 1


class KnownSets(dl.DySem):
    """A DySem whose vectors and sets are given."""

    def __init__(self, lens, vectors, sets):
        super().__init__(lens, ("en",))
        self.vectors, self.sets = vectors, sets

    def encode(self, texts, language="en", renderings=None, *, store=None, progress=True):
        return dl.SemanticVectors(
            torch.tensor([self.vectors[text] for text in texts], dtype=torch.float32),
            torch.tensor([self.sets[text] for text in texts]),
        )


def test_joint_sets_against_loops_and_undefined_texts_are_counted(tiny_lens, recwarn):
    generator = np.random.default_rng(2)
    names = ["q", *(f"text {i}" for i in range(70))]
    vectors = {name: generator.normal(size=6).tolist() for name in names}
    sets = {name: (generator.random(6) < 0.3).tolist() for name in names}
    sets["q"] = [False] * 6  # then U is the text's own set, and a text without one is undefined
    texts = names[1:]
    view = question.nearest(Corpus(KnownSets(tiny_lens, vectors, sets), texts), "q", 100)
    expected = naive("q", vectors, sets)
    defined = {text: expected[text] for text in texts if expected[text][0] is not None}
    mean = np.float32([vectors[text] for text in texts]).astype(float).mean(0)
    assert 0 < view.n_undefined == len(texts) - len(defined)
    assert len(view.table) == len(defined)
    assert view.table["similarity"].is_monotonic_decreasing
    for row, shares in zip(view.table.itertuples(), view.shares, strict=True):
        similarity, size = defined[row.text]
        assert row.similarity == pytest.approx(similarity, abs=1e-5)
        assert row.n_dims == size
        assert texts[row.position] == row.text
        assert (~np.isnan(shares)).tolist() == sets[row.text]
        # The map has what is beyond the mean of all texts, as the named dimensions are.
        x, y = (np.array(vectors[name]) - mean for name in ("q", row.text))
        x, y = x[sets[row.text]], y[sets[row.text]]
        added = x * y / (np.linalg.norm(x) * np.linalg.norm(y))
        np.testing.assert_allclose(shares[sets[row.text]], added, atol=1e-6)
    assert f"{view.n_undefined} of 70 texts have no similarity" in nearest_text(view)
    assert not [w for w in recwarn if w.category is UserWarning]


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("dense", [False, True], ids=["sets", "dense"])
def test_an_index_finds_in_a_large_corpus_what_is_found_without_one(tiny_lens, monkeypatch, dense):
    pytest.importorskip("numba")
    generator = np.random.default_rng(3)
    texts = [f"text {i}" for i in range(90)]
    names = ["q", "empty", *texts]
    vectors = {name: (generator.normal(size=9) + 1).tolist() for name in names}
    sets = {name: (generator.random(9) < 0.3).tolist() for name in names}
    sets["empty"], vectors["text 7"] = [False] * 9, vectors["text 3"]  # of equal ones, the first
    sets["text 7"] = sets["text 3"]
    encoder = Known(vectors) if dense else KnownSets(tiny_lens, vectors, sets)
    corpus = Corpus(encoder, [*texts, "empty"])
    for query in ("q", "empty", "text 3"):
        without = question.nearest(corpus, query, 50)
        with monkeypatch.context() as patch:
            patch.setattr(question, "INDEXED", 1)
            found = question.nearest(corpus, query, 50)
        assert found.table["position"].tolist() == without.table["position"].tolist()
        np.testing.assert_allclose(
            found.table["similarity"], without.table["similarity"], atol=1e-6
        )
        np.testing.assert_array_equal(found.shares, without.shares)
        assert found.n_undefined == without.n_undefined
    folder = corpus.index().path
    assert folder.is_dir()
    del corpus
    gc.collect()
    assert not folder.exists()


def test_encoding_can_be_stopped_and_goes_on_where_it_was():
    texts = [f"{'long ' * (i % 7)}{i}" for i in range(80)]
    vectors = {text: (i, 1, -i) for i, text in enumerate(texts)}
    encoder, reported = Known(vectors), []
    corpus = Corpus(encoder, texts)

    def stop(done, total, what):
        reported.append((done, total))
        if done >= CHUNK:
            raise Cancelled

    with pytest.raises(Cancelled):
        corpus.encode(stop)
    assert reported == [(0, 80), (CHUNK, 80)]
    encoded = corpus.encode()
    assert sum(map(len, encoder.asked)) == 80  # none twice
    assert encoded.vectors.tolist() == [list(map(float, vectors[text])) for text in texts]
    corpus.encode()
    assert sum(map(len, encoder.asked)) == 80


@pytest.mark.parametrize("architecture", ["Llama", "Qwen3", "Phi3"])
def test_the_panel_shows_what_dysem_says(tiny_folder, architecture):
    lens = load_model(tiny_folder(architecture))
    dysem = dl.DySem(lens, ("en", "fr"), k=8)
    panel = explore_search(dysem, {"en": EN, "fr": FR}, n=3).wait()
    assert panel.message == ""
    encoded = dysem.encode(EN, renderings={"fr": FR}, progress=False)
    similarity = dysem.similarity(encoded[:1], encoded)[0]
    order = similarity.argsort(descending=True)[:3].tolist()
    names = {"encoder": dysem, "corpus": {"en": EN, "fr": FR}}
    table = run_lines(panel.python, names).table
    assert table["position"].tolist() == order
    assert table["similarity"].tolist() == pytest.approx(similarity[order].tolist(), abs=1e-5)
    sizes = [int((encoded.sets[0] | encoded.sets[i]).sum()) for i in order]
    assert table["n_dims"].tolist() == sizes
    cells = re.findall(r"<tr><td>\d+</td><td>([\d.]+)</td><td>(\d+)</td>", panel.text)
    assert [int(size) for _, size in cells] == sizes
    assert [float(s) for s, _ in cells] == pytest.approx(similarity[order].tolist(), abs=1e-4)
    with counted(lens) as work:  # more rows need no pass
        panel.set(n=5).wait(20)
    assert (work.rows, panel.message) == (0, "")
    assert panel.text.count('<td dir="auto">') == 5


def nearest_of(panel):
    """Return the similarity of the first of the list."""
    return float(re.search(r"<td>1</td><td>([\d.]+)", panel.text)[1])


def test_a_new_query_is_searched_in_the_languages_that_it_is_to_be_had_in(tiny_lens):
    corpus = {"en": EN, "fr": FR}
    panel = explore_search(dl.DySem(tiny_lens, ("en", "fr"), k=8), corpus, "A cat.").wait()

    def best(languages, renderings):
        dysem = dl.DySem(tiny_lens, languages, k=8)
        encoded = dysem.encode([*EN, "A cat."], renderings=renderings, progress=False)
        return dysem.similarity(encoded[-1:], encoded[:-1])[0].max().item()

    assert panel.message == ""
    assert "Read in English alone: there is no translation of “A cat.” into French" in panel.note
    assert nearest_of(panel) == pytest.approx(best(("en",), None), abs=2e-4)
    names = {"encoder": dl.DySem(tiny_lens, ("en", "fr"), k=8), "corpus": corpus, "dl": dl}
    table = run_lines(panel.python, names).table
    assert table["similarity"][0] == pytest.approx(nearest_of(panel), abs=1e-4)
    panel.set(renderings="fr: Un chat.").wait()
    assert (panel.message, panel.note) == ("", "")
    expected = best(("en", "fr"), {"fr": [*FR, "Un chat."]})
    assert nearest_of(panel) == pytest.approx(expected, abs=2e-4)
    panel.set(query="A dog.").wait()  # the typed line was of another query
    assert panel.controls["renderings"].value == ""
    assert "into French" in panel.note
    panel.set(query="Un chat.", language="fr", renderings="en: A cat.").wait()
    assert panel.note == ""
    assert nearest_of(panel) == pytest.approx(expected, abs=2e-4)
    panel.set(query=" ").wait()
    assert panel.message == "the query is empty; type a sentence"


def test_any_encoder_searches(tiny_lens):
    for encoder in (dl.MeanPooling(tiny_lens), dl.PromptEncoder(tiny_lens)):
        panel = explore_search(encoder, EN, EN[2]).wait()
        assert panel.message == ""
        vectors = encoder.encode(EN, progress=False).vectors
        expected = naive(EN[2], dict(zip(EN, vectors.tolist(), strict=True)))
        table = question.search(encoder, EN, EN[2]).table
        assert table["text"][0] == EN[2]
        for row in table.itertuples():
            assert row.similarity == pytest.approx(expected[row.text][0], abs=1e-5)
            assert row.n_dims == encoder.width
        assert encoder.name in panel.figure.layout.title.subtitle.text


def test_the_finding_says_what_is_nearest_and_what_was_asked(tiny_lens):
    dysem = dl.DySem(tiny_lens, ("en", "fr"), k=8)
    finding = dl.search(dysem, {"en": EN, "fr": FR}, "A cat.", 2, {"fr": "Un chat."})
    corpus = Corpus(dysem, {"en": EN, "fr": FR})
    found = question.nearest(corpus, "A cat.", 2, {"fr": "Un chat."})
    assert finding.table.equals(found.table)
    best = found.table.iloc[0]
    assert f"nearest to “A cat.” is “{best['text']}”" in str(finding)
    assert f"{best['similarity']:.4f} on {best['n_dims']} dimensions." in str(finding)
    assert str(finding.facts) == found.measured_on
    asked = finding.facts.record()["parameters"]
    assert asked["query"] == "A cat."
    assert asked["encoder"]["k"] == 8
    vectors = {"q": (1, 0, 1), "zero": (0, 0, 0)}
    empty = question.nearest(Corpus(Known(vectors), ["zero"]), "q")
    assert question.caption(empty).startswith("No text is near to “q”; 1 of 1 texts have no simil")
    with pytest.raises(InputError, match="'known' says nothing of its model"):
        question.search(Known(vectors), ["zero"], "q")


def test_the_figure_has_a_row_per_text():
    vectors = {"q": (1, 0, 1), "a" * 99: (1, 0, 0), "<b>": (0, 1, 0)}
    view = question.nearest(Corpus(Known(vectors), list(vectors)), "q")
    figure = question.figure(view)
    dots, shares = figure.data
    assert list(dots.x) == pytest.approx([1, 1 / math.sqrt(2), 0])
    np.testing.assert_allclose(shares.z, view.shares)
    labels = figure.layout.yaxis.ticktext
    assert labels[1] == "a" * (question.N_LETTERS - 1) + "…"
    assert labels[2] == "&lt;b&gt;"
    assert f"colours end at ±{shares.zmax:.1g}" in figure.layout.xaxis2.title.text
    assert "<b>" not in nearest_text(view).replace("<tbody>", "")


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([], "the corpus is empty; give a list of one or more texts"),
        ("text", r"texts must be a list of strings; give one as \['text'\]"),
        ({"fr": FR}, "unknown language of the texts 'en'; choose one of: fr"),
        ({"en": EN, "fr": FR[:2]}, "2 renderings in 'fr' for 5 texts"),
    ],
)
def test_what_is_no_corpus_is_refused(texts, said):
    with pytest.raises(InputError, match=said):
        Corpus(Known({}), texts)


def test_n_must_be_a_number_of_rows():
    corpus = Corpus(Known({"a": (1, 0, 0)}), ["a"])
    for n in (0, True, 1.5):
        with pytest.raises(InputError, match="n must be a whole number of at least 1, got"):
            question.nearest(corpus, "a", n)


def test_a_hit_is_explained_centred_on_the_corpus(tiny_lens):
    corpus = {"en": EN, "fr": FR}
    dysem = dl.DySem(tiny_lens, ("en", "fr"), k=8)
    panel = explore_search(dysem, corpus, n=3).wait()
    assert panel.controls["why"].value == ""  # on demand: the list alone runs nothing in parts
    assert "▸" not in panel.text
    table = question.search(dysem, corpus, EN[0], 3).table
    for why, hit in (("token", 2), ("head", 2), ("block", 3), ("dimension", 3)):
        panel.set(why=why, hit=hit).wait()
        assert panel.message == ""
        position = int(table["position"][hit - 1])
        x, y = ({code: of[i] for code, of in corpus.items()} for i in (0, position))
        other = "token" if why == "token" else None
        expected = dl.explain(dysem, x, y, why, other, corpus, progress=False)
        assert panel.figure.to_json() == expected.figure.to_json()
        assert f"<td>▸ {hit}</td>" in panel.text
        assert f"Hit {hit}: {html.escape(str(expected))}" in panel.text
        assert ("dl-map" in panel.text) == (why == "token")
        assert expected.encoder_similarity == pytest.approx(table["similarity"][hit - 1], abs=1e-5)
        found = run_lines(panel.python, {"encoder": dysem, "corpus": corpus})
        assert found.figure.to_json() == panel.figure.to_json()
    panel.set(n=1, why="head").wait()  # the last of the list, where it is shorter
    assert "<td>▸ 1</td>" in panel.text
    panel.set(why="").wait()
    assert "▸" not in panel.text
    assert len(run_lines(panel.python, {"encoder": dysem, "corpus": corpus}).table) == 1


def test_a_translator_renders_the_corpus_that_a_reason_is_centred_on(tiny_lens):
    table = dl.ParallelTable({"en": [*EN, "A cat."], "fr": [*FR, "Un chat."]})
    dysem = dl.DySem(tiny_lens, ("en", "fr"), table, k=8)
    found = why_near(Corpus(dysem, EN), "A cat.", 3, "head")
    x, y = {"en": "A cat.", "fr": "Un chat."}, {"en": EN[3], "fr": FR[3]}
    expected = dl.explain(dysem, x, y, "head", centre={"en": EN, "fr": FR}, progress=False)
    assert found.table.equals(expected.table)
    typed = why_near(Corpus(dysem, EN), "A cat.", 3, "head", {"fr": "Le chat."})
    assert typed.similarity != found.similarity


def test_a_large_corpus_is_centred_on_a_sample_of_it(tiny_lens, monkeypatch):
    seen = {}

    def spy(encoder, x, y, by, other, centre, **options):
        seen["centre"] = centre["en"]

    monkeypatch.setattr(reasons, "explain", spy)
    texts = [f"Text {i}." for i in range(reasons.N_CENTRE + 9)]
    why_near(Corpus(dl.PromptEncoder(tiny_lens), texts), "A.", 2, "head")
    assert len(set(seen["centre"])) == reasons.N_CENTRE
    assert set(seen["centre"]) < set(texts)


def test_an_encoder_without_parts_is_explained_by_dimension(tiny_lens):
    panel = explore_search(dl.MeanPooling(tiny_lens), EN).wait()
    assert [by for _, by in panel.controls["why"].options] == ["", "dimension"]
    panel.set(why="dimension", hit=2).wait()
    assert panel.message == ""
    with pytest.raises(InputError, match="position must be between 0 and 4, got 5"):
        why_near(Corpus(dl.MeanPooling(tiny_lens), EN), EN[0], 5)
    one = why_near(Corpus(dl.PromptEncoder(tiny_lens), ["A."]), "B.", 0, "head")
    assert "not centred" in str(one.facts)  # one text has no mean
