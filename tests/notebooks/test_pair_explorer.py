"""The pair explorer: its numbers against DySem and hand computations, its passes, its panel."""

import json
import math
import re

import numpy as np
import pytest
import torch

import dysem_lab as dl
from dysem_lab.errors import InputError, MissingTranslationError
from dysem_lab.explorers import pair_explorer
from dysem_lab.explorers.panel import Cancelled
from dysem_lab.models.loading import load_model
from dysem_lab.models.record import counted
from dysem_lab.questions import pair as question
from dysem_lab.questions import pair_view as reading
from tests.notebooks.conftest import run_lines

X = {"en": "A man plays.", "fr": "Un homme joue.", "ja": "男性が演奏する。"}
Y = {"en": "A woman sings.", "fr": "Une femme chante.", "ja": "女性が歌う。"}
RENDERINGS = {code: (X[code], Y[code]) for code in ("fr", "ja")}


def explore_pair(*given, **settings):
    """Return the panel on what the paper shows."""
    return pair_explorer.explore_pair(*given, **{"show": "paper", **settings})


def direct(lens, x=X, y=Y, languages=("en", "fr", "ja"), **settings):
    """Return the similarity of the estimator, without anything of the explorer."""
    dysem = dl.DySem(lens, languages, **settings)
    renderings = {code: [x[code], y[code]] for code in languages}
    encoded = dysem.encode([x["en"], y["en"]], "en", renderings, progress=False)
    return dysem.similarity_pairwise(encoded[:1], encoded[1:]).item(), encoded


def shown(panel):
    """Return the three numbers of a panel's text: DySem, |U| and the plain cosine."""
    similarity = re.search(r"DySem similarity (-?[\d.]+)", panel.text)
    size = re.search(r"\|U\| = (\d+)", panel.text)
    plain = re.search(r"plain cosine (-?[\d.]+)", panel.text)
    return float(similarity[1]), int(size[1]), float(plain[1])


class Given(reading.Captures):
    """Vectors by hand: en x, en y, ja x, ja y."""

    rows: tuple = ()

    def read(self, prompts, component, progress=None):
        assert len(prompts) == len(self.rows)
        return torch.tensor(self.rows, dtype=torch.float32)


def test_a_pair_by_hand(tiny_lens):
    given = Given(tiny_lens)
    given.rows = ((1, 2, -1, 4), (1, -1, 2, 3), (3, 2, 5, -1), (2, 1, 4, 1))
    x, y = ({code: text[code] for code in ("en", "ja")} for text in (X, Y))
    view = reading.pair_view(tiny_lens, x, y, k=1, captures=given)
    # x: positive in both {0, 1}, means 2 and 2, the lower wins. y: {0, 2, 3}, means 1.5, 3, 2.
    assert view.encoded.sets.tolist() == [[True, False, False, False], [False, False, True, False]]
    assert view.n_dims == 2
    assert view.similarity == pytest.approx(9 / math.sqrt(8 * 11.25))
    assert view.plain == pytest.approx(9 / math.sqrt(22 * 15))
    assert view.all_dimensions == pytest.approx(12 / math.sqrt(14.25 * 15.25))
    assert view.per_language["ja"] == pytest.approx((6 + 2 + 20 - 1) / math.sqrt(39 * 22))
    table = question.pair_table(view)
    assert table["dimension"].tolist() == [2, 0]
    assert table["contribution"].tolist() == pytest.approx([6 / math.sqrt(90), 3 / math.sqrt(90)])
    assert table["membership"].tolist() == ["in S(y) only", "in S(x) only"]
    assert table[["v_x", "v_y"]].to_numpy().tolist() == [[2, 3], [2, 1.5]]


def test_an_empty_joint_set_is_undefined_and_said(tiny_lens, recwarn):
    given = Given(tiny_lens)
    given.rows = ((-1, -2, -1), (-1, -1, -2))
    view = reading.pair_view(tiny_lens, {"en": "A."}, {"en": "B."}, captures=given)
    assert math.isnan(view.similarity)
    assert view.n_dims == 0
    assert "similarity undefined" in question.pair_text(view)
    assert "use fewer languages" in question.pair_text(view)
    assert question.pair_table(view).empty
    assert "undefined" in question.pair_figure(view).layout.title.text
    assert not [w for w in recwarn if w.category is UserWarning]


@pytest.mark.parametrize("architecture", ["Llama", "Qwen3", "Phi3"])
def test_the_panel_shows_the_numbers_of_dysem(tiny_folder, architecture):
    lens = load_model(tiny_folder(architecture))
    panel = explore_pair(lens, X["en"], Y["en"], renderings=RENDERINGS)
    similarity, encoded = direct(lens, k=0.25)
    size = int((encoded.sets[0] | encoded.sets[1]).sum())
    acts = dl.capture(
        lens, dl.wrap([X["en"], Y["en"]], "prompteol", "language-specific", "en"), "attn"
    )["attn"].numpy()
    plain = acts[0] @ acts[1] / np.linalg.norm(acts[0]) / np.linalg.norm(acts[1])
    assert panel.message == ""
    assert shown(panel) == (
        pytest.approx(similarity, abs=2e-4),
        size,
        pytest.approx(plain, abs=2e-4),
    )
    panel.set(
        k=5, component="resid", template="knowledge", setting="english", vector="source", m=2
    ).wait()
    expected, encoded = direct(
        lens,
        languages=("en", "fr"),
        k=5,
        component="resid",
        template="knowledge",
        setting="english",
        vector="source",
    )
    assert panel.message == ""
    assert shown(panel)[0] == pytest.approx(expected, abs=2e-4)
    found = run_lines(panel.python, {"lens": lens})
    assert found.table["contribution"].sum() == pytest.approx(expected, abs=1e-5)
    assert len(found.table) == shown(panel)[1]


def test_sliders_run_no_forward_pass(tiny_lens, tmp_path):
    store = dl.VectorStore(tmp_path / "vectors.db")  # of its own: no scale is there to be read
    panel = explore_pair(tiny_lens, X["en"], Y["en"], renderings=RENDERINGS, store=store)
    before = shown(panel)
    with counted(tiny_lens) as work:  # holds the model's lock: a pass on the thread would hang
        for move in ({"k": 2}, {"m": 1}, {"m": 3}, {"vector": "source"}, {"component": "ffn"}):
            panel.set(**move).wait(20)
            assert panel.message == ""
    assert work.rows == 0
    panel.set(k=8, vector="mean", component="attn").wait()
    assert shown(panel) == before


def test_a_new_sentence_runs_only_what_is_new(tiny_lens, monkeypatch):
    ran = []

    def spy(lens, prompts, *arguments, **options):
        ran.extend(prompts)
        return dl.capture(lens, prompts, *arguments, **options)

    monkeypatch.setattr(reading, "capture", spy)
    captures = reading.Captures(tiny_lens)
    reading.pair_view(tiny_lens, X, Y, captures=captures)
    assert len(ran) == 6
    ran.clear()
    new = {**X, "fr": "Un homme chante."}
    view = reading.pair_view(tiny_lens, new, Y, captures=captures)
    assert ran == dl.wrap(["Un homme chante."], "prompteol", "language-specific", "fr")
    assert view.similarity == pytest.approx(direct(tiny_lens, x=new, k=0.25)[0], abs=1e-5)
    ran.clear()
    reading.pair_view(tiny_lens, X, Y, ["en"], captures=captures, component="ffn_raw")
    assert len(ran) == 2  # not among the components that every pass reads


def test_reading_can_be_stopped_and_goes_on(tiny_lens):
    prompts = dl.wrap([f"Sentence {i}." for i in range(40)])
    captures, reported = reading.Captures(tiny_lens), []

    def stop_at_second(done, total, what):
        reported.append((done, total))
        if done:
            raise Cancelled

    with pytest.raises(Cancelled):
        captures.read(prompts, "attn", stop_at_second)
    assert reported == [(0, 40), (reading.CHUNK, 40)]
    reported.clear()
    rows = captures.read(prompts, "attn", lambda *report: reported.append(report[:2]))
    assert reported[0] == (0, 40 - reading.CHUNK)
    expected = dl.capture(tiny_lens, prompts, "attn", progress=False)["attn"]
    torch.testing.assert_close(rows, expected, atol=1e-4, rtol=1e-4)


def test_a_table_renders_and_typed_lines_go_before_it(tiny_lens):
    table = dl.ParallelTable({code: [X[code], Y[code]] for code in X})
    panel = explore_pair(tiny_lens, X["en"], Y["en"], ("en", "ja"), table)
    assert shown(panel)[0] == pytest.approx(
        direct(tiny_lens, languages=("en", "ja"), k=8)[0], abs=2e-4
    )
    panel.set(first_renderings="ja: 別の文。").wait()
    typed = direct(tiny_lens, x={**X, "ja": "別の文。"}, languages=("en", "ja"), k=8)[0]
    assert shown(panel)[0] == pytest.approx(typed, abs=2e-4)
    assert "別の文。" in panel.text
    panel.set(first=Y["en"]).wait()  # the typed line was of another sentence
    assert panel.controls["first_renderings"].value == ""
    assert shown(panel)[0] == pytest.approx(1.0)


class Counting:
    """A translator that remembers what it was asked."""

    name = "counting"

    def __init__(self):
        self.asked = []

    def translate(self, texts, source, target):
        self.asked.append((*texts, target))
        return [f"{target} {text}" for text in texts]


def test_nothing_is_translated_twice(tiny_lens):
    translator = Counting()
    panel = explore_pair(tiny_lens, "A.", "B.", ("en", "fr"), translator)
    panel.set(k=3).wait()
    assert translator.asked == [("A.", "fr"), ("B.", "fr")]


@pytest.mark.parametrize(
    ("move", "said"),
    [
        ({"languages": "en, xx"}, "unknown language 'xx'; choose one of: en, zh"),
        ({"languages": " "}, "no languages; write one or more codes"),
        ({"second": " "}, "the second sentence is empty; type a sentence"),
        ({"first_renderings": "Un homme"}, "'Un homme' is no rendering; write a code"),
        ({"first_renderings": "fr: a\nfr: b"}, "two renderings in 'fr'; keep one"),
    ],
)
def test_mistakes_are_sentences_in_the_panel(tiny_lens, move, said):
    panel = explore_pair(tiny_lens, X["en"], Y["en"], renderings=RENDERINGS)
    before = panel.text
    panel.set(**move).wait()
    assert re.search(said, panel.message)
    assert panel.text == before


@pytest.mark.parametrize(
    ("move", "languages", "said"),
    [
        ({"languages": "en, fr, de"}, ("en", "fr"), "into German.*as a line such as “de: …”"),
        ({"first": "A dog."}, ("en",), "Read in English alone: .* “A dog.” into French and Jap"),
        ({"languages": "fr, ja", "first": "A dog."}, ("en",), "Read in English alone"),
        ({"languages": "en, en, fr"}, ("en", "fr"), "^The line in Japanese is not used"),
        ({"languages": "en", "first_renderings": ""}, ("en",), "line in French and Japanese"),
    ],
)
def test_any_sentence_is_read_in_the_languages_that_it_is_to_be_had_in(
    tiny_lens, move, languages, said
):
    panel = explore_pair(tiny_lens, X["en"], Y["en"], renderings=RENDERINGS)
    panel.set(**move).wait()
    assert panel.message == ""
    assert re.search(said, panel.note)
    assert panel.note in panel._answer.value
    x = {**X, "en": panel.state["first"]}
    expected = direct(tiny_lens, x=x, languages=languages, k=8)[0]
    assert shown(panel)[0] == pytest.approx(expected, abs=2e-4)


def test_a_table_without_the_sentence_is_named_and_a_typed_line_takes_its_place(tiny_lens):
    table = dl.ParallelTable({"en": ["A.", "B."], "fr": ["B.", "C."]}, name="mine")
    panel = explore_pair(tiny_lens, "A.", "C.", ("en", "fr"), table)
    assert panel.message == ""
    assert "there is no translation of “C.” into French" in panel.note
    panel.set(second_renderings="fr: C.").wait()
    assert (panel.message, panel.note) == ("", "")
    panel.set(first="B.", second="A.", language="fr").wait()  # from French, by the same table
    assert "into English" in panel.note  # of "A.", which is none of its French texts
    panel.set(second="C.").wait()
    assert panel.note == ""
    assert "<td>English</td>" in panel.text


def test_m_reaches_as_far_as_there_are_languages(tiny_lens):
    panel = explore_pair(tiny_lens, X["en"], Y["en"], renderings=RENDERINGS)
    assert (panel.controls["m"].value, panel.controls["m"].max) == (3, 3)
    panel.set(languages="fr en").wait()
    assert (panel.controls["m"].value, panel.controls["m"].max) == (2, 2)
    assert shown(panel)[0] == pytest.approx(
        direct(tiny_lens, languages=("fr", "en"), k=8)[0], abs=2e-4
    )


def test_settings_that_do_not_exist_are_refused_at_once(tiny_lens):
    with pytest.raises(InputError, match="unknown component 'attention'"):
        explore_pair(tiny_lens, "A.", "B.", component="attention")
    with pytest.raises(InputError, match=r"renderings\['fr'\] must be x and y in it"):
        explore_pair(tiny_lens, "A.", "B.", renderings={"fr": ["A."]})
    with pytest.raises(MissingTranslationError, match="first sentence is not given in French"):
        reading.pair_view(tiny_lens, {"en": "A."}, Y, ["en", "fr"])


def test_the_figure_shows_the_sets_the_values_and_the_largest_contributions(tiny_lens):
    view = reading.pair_view(tiny_lens, X, Y)
    figure = question.pair_figure(view)
    members, values, *bars, _, _, _, _ = figure.data
    (Sx, Sy), (vx, vy) = view.encoded.sets.numpy(), view.encoded.vectors.numpy()
    assert (members.z[0] > 0).tolist() == Sx.tolist()
    assert (members.z[1] > 0).tolist() == Sy.tolist()
    assert (members.z[2] > 0).tolist() == (Sx | Sy).tolist()
    np.testing.assert_array_equal(values.z, np.stack([vx, vy]))
    heights = {int(j): float(h) for bar in bars for j, h in zip(bar.x, bar.y, strict=True)}
    inside = np.flatnonzero(Sx | Sy)
    norms = np.linalg.norm(vx[inside]) * np.linalg.norm(vy[inside])
    terms = {int(j): float(vx[j] * vy[j] / norms) for j in inside}
    largest = sorted(terms, key=lambda j: -abs(terms[j]))[: question.N_BARS]
    assert heights == pytest.approx({j: terms[j] for j in largest}, abs=1e-5)
    assert sum(terms.values()) == pytest.approx(view.similarity, abs=1e-5)
    assert f"{view.similarity:.4f}" in figure.layout.title.text
    both = [int(j) for j in largest if Sx[j] and Sy[j]]
    assert sorted(map(int, bars[2].x)) == sorted(both)
    assert bars[2].name == "in both sets"
    # Every colour of the map has a name, whether or not one of the bars has it.
    named = {trace.name: trace.marker.color for trace in figure.data if trace.x == (None,)}
    assert tuple(named) == question.MEMBERSHIP
    assert [colour for _, colour in members.colorscale][::2] == list(named.values())
    assert "1 % are beyond" in figure.layout.xaxis2.title.text


def test_a_finding_is_the_view_and_comes_from_the_store(tiny_lens, tmp_path):
    view = reading.pair_view(tiny_lens, X, Y, ("en", "ja"), k=8)
    store = dl.VectorStore(tmp_path / "vectors.db")
    for expected_passes in (True, False):
        with counted(tiny_lens) as work:
            finding = dl.pair(tiny_lens, X, Y, ("en", "ja"), k=8, store=store)
        assert bool(work.rows) == expected_passes
        assert finding.table["contribution"].sum() == pytest.approx(view.similarity, abs=1e-4)
        assert f"DySem similarity {view.similarity:.3f}" in finding.caption
        assert "<b>" not in finding.caption
        measured_on = finding.figure.layout.title.subtitle.text.replace("<br>", " ")
        assert str(finding.facts) in measured_on.replace("<sup>L</sup>", "^L")
    recorded = finding.facts.record()
    assert recorded["parameters"]["languages"] == ["en", "ja"]
    assert recorded["parameters"]["second"] == {"en": Y["en"], "ja": Y["ja"]}
    json.dumps(recorded)


def test_sentences_are_escaped(tiny_lens):
    view = reading.pair_view(tiny_lens, {"en": "<b>bold</b>"}, {"en": "B."})
    assert "<b>bold" not in question.pair_text(view)


def test_the_explorer_on_the_embedded_model(embedded, demo):
    lens, table = embedded("gemma-3-270m"), dl.ParallelTable.from_data(demo)
    first, second = (sentences[3] for sentences in demo.sentences["en"])
    panel = explore_pair(lens, first, second, ("en", "ja", "ru"), table, k=0.25)
    dysem = dl.DySem(lens, ("en", "ja", "ru"), table, k=0.25)
    encoded = dysem.encode([first, second], progress=False)
    expected = dysem.similarity_pairwise(encoded[:1], encoded[1:]).item()
    assert shown(panel)[0] == pytest.approx(expected, abs=2e-4)
    with counted(lens) as work:
        panel.set(k=40, m=2).wait(20)
    assert work.rows == 0
    assert panel.message == ""


def test_why_comes_first_and_is_the_explanation(tiny_lens):
    panel = pair_explorer.explore_pair(tiny_lens, X["en"], Y["en"], renderings=RENDERINGS, k=0.5)
    assert panel.controls["show"].value == "token"
    names = {"lens": tiny_lens}
    for show in ("token", "head", "block", "dimension"):
        panel.controls["show"].value = show
        panel.wait()
        assert not panel.message
        found = run_lines(panel.python, names)
        assert found.by == show
        assert f"{found.similarity:.3f}" in panel.text
        assert panel.figure.layout.title.text == found.figure.layout.title.text
        assert ("dl-map" in panel.text) == (show == "token")
        assert "DySem similarity" in panel.text
    panel.controls["component"].value = "ffn"
    panel.controls["show"].value = "token"  # F^L is no sum over tokens
    panel.wait()
    assert run_lines(panel.python, names).by == "block"
    assert not panel.message


@pytest.mark.parametrize(("by", "by_other"), [("token", "token"), ("head", None)])
def test_why_reads_each_text_once(tiny_lens, by, by_other):
    languages, centre = ("fr", "ja"), {code: [X[code], Y[code], "X.", "Y."] for code in X}
    dl.explain(dl.DySem(tiny_lens, languages), X, Y, by, by_other, centre)  # the corpus has run
    x, y = ({code: f"{by} {text}" for code, text in of.items()} for of in (X, Y))
    with counted(tiny_lens) as work:
        view, found = reading.why_similar(
            tiny_lens, x, y, languages, by, by_other, centre, k=8, component="attn"
        )
    # Both in fr and ja, and in en for the plain cosine; what a language's prompts begin with alike
    # may be a row of its own.
    assert 6 <= work.rows / tiny_lens.n_layers <= 9
    expected = reading.pair_view(tiny_lens, x, y, languages, k=8)
    torch.testing.assert_close(view.encoded.vectors, expected.encoded.vectors)
    assert view.encoded.sets.equal(expected.encoded.sets)
    assert view.per_language == pytest.approx(expected.per_language, abs=1e-5)
    assert view.plain == pytest.approx(expected.plain, abs=1e-5)
    assert found.encoder_similarity == pytest.approx(view.similarity, abs=1e-5)
    assert view.facts == expected.facts
    with counted(tiny_lens) as work:
        reading.why_similar(tiny_lens, x, y, ("fr",), by, by_other, centre, k=4)
    assert work.rows == 0  # another k, and fewer languages
