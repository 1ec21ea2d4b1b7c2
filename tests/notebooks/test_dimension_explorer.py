"""Facts of one dimension, against naive loops and a hand-made unembedding."""

from types import SimpleNamespace

import pytest
import torch
from plotly.callbacks import Points
from transformers import AutoModelForCausalLM, AutoTokenizer

from dysem_lab.data.sts import load_data
from dysem_lab.encoders.dysem import DySem
from dysem_lab.errors import InputError, MissingTranslationError
from dysem_lab.explorers.dimension_explorer import explore_dimensions
from dysem_lab.models.loading import load_model
from dysem_lab.models.readout import dimension_lens, norm_weight
from dysem_lab.models.record import counted
from dysem_lab.models.store import VectorStore
from dysem_lab.prompts import templates
from dysem_lab.questions.corpus import Corpus, read_corpus
from dysem_lab.questions.dimension import dimension, dimension_figure, dimension_text, survival
from dysem_lab.questions.dimension_facts import by_size, dimension_facts
from dysem_lab.questions.study import Study
from tests.notebooks.conftest import run_lines
from tests.notebooks.test_attention_explorer import passes
from tests.reference import read

pytestmark = pytest.mark.usefixtures("_one_thread")

TEXTS = ["A dog sleeps.", "It rains.", "A dog sleeps.", "Two children build a castle."]
RENDERINGS = {"fr": ["Un chien dort.", "Il pleut.", "Un chien dort.", "Deux enfants jouent."]}
UNIQUE = [0, 1, 3]


def by_hand(folder, component, setting):
    """Return [text][language] → the cumulative vector, as lists, from plain hooks."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    vectors = []
    for i in UNIQUE:
        vectors.append([])
        for code, text in (("en", TEXTS[i]), ("fr", RENDERINGS["fr"][i])):
            template = templates()["prompteol"]["en" if setting == "english" else code]
            found = read(model, tokenizer, template.replace("{text}", text))
            row = {"attn": found["attn"].sum(0), "resid": found["resid"][-1]}.get(component)
            vectors[-1].append((found["final"] if row is None else row).tolist())
    return vectors


@pytest.mark.parametrize("architecture", ["Llama", "Qwen3", "Phi3", "Gemma2"])
@pytest.mark.parametrize(
    ("component", "setting"),
    [("attn", "english"), ("resid", "language-specific"), ("final", "english")],
)
def test_facts_are_those_of_plain_hooks_and_loops(tiny_folder, architecture, component, setting):
    folder = tiny_folder(architecture)
    dysem = DySem(load_model(folder), ("en", "fr"))
    corpus = read_corpus(dysem, TEXTS, RENDERINGS)
    assert corpus.texts == [TEXTS[i] for i in UNIQUE]
    vectors = by_hand(folder, component, setting)
    sets = []
    for text in vectors:
        both = [j for j in range(32) if all(s[j] > 0 for s in text)]
        sets.append(sorted(both, key=lambda j: -sum(s[j] for s in text))[:5])
    frequency = [sum(j in chosen for chosen in sets) / 3 for j in range(32)]
    for j in (0, 7, 31, sets[0][0]):
        facts = dimension_facts(corpus, j, component=component, setting=setting, k=5, top=2)
        assert facts.frequency.tolist() == pytest.approx(frequency)
        means = [sum(s[j] for s in text) / 2 for text in vectors]
        order = sorted(range(3), key=lambda i: -means[i])[:2]
        assert facts.sentences["text"].tolist() == [corpus.texts[i] for i in order]
        assert facts.sentences["value"].tolist() == pytest.approx(
            [means[i] for i in order], abs=1e-4
        )
        assert facts.sentences["selected"].tolist() == [j in sets[i] for i in order]
        positive = [
            "/".join(c for c, s in zip(("en", "fr"), vectors[i], strict=True) if s[j] > 0)
            for i in order
        ]
        assert facts.sentences["positive"].tolist() == positive
        for position, row in enumerate(facts.languages.itertuples()):
            values = [text[position][j] for text in vectors]
            assert row.positive == pytest.approx(sum(v > 0 for v in values) / 3)
            assert row.value == pytest.approx(sum(values) / 3, abs=1e-4)


@pytest.fixture(scope="module")
def uneven_folder(tiny_folder, tmp_path_factory):
    """Return a function: architecture → folder of a model whose final norm has uneven weights."""

    def make(architecture):
        source = tiny_folder(architecture)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        with torch.no_grad():
            torch.manual_seed(1)
            model.model.norm.weight.add_(torch.randn_like(model.model.norm.weight))
        folder = tmp_path_factory.mktemp(f"uneven_{architecture.lower()}")
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize("architecture", ["Llama", "Qwen3", "Phi3", "Gemma2"])
def test_the_logit_lens_is_the_unembedding_by_hand(uneven_folder, architecture):
    folder = uneven_folder(architecture)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    unembedding = model.get_output_embeddings().weight.detach().double()  # [n_tokens, d]
    gamma = model.model.norm.weight.detach().double() + (architecture == "Gemma2")
    lens = load_model(folder)
    torch.testing.assert_close(norm_weight(lens).double(), gamma, atol=1e-4, rtol=1e-4)
    for j in (3, 30):
        for component, weight in (("attn", gamma[j]), ("final", 1.0)):
            effects = [float(weight * row[j]) for row in unembedding]
            mean = sum(effects) / len(effects)
            effects = [effect - mean for effect in effects]
            order = sorted(range(len(effects)), key=lambda t: -effects[t])
            table = dimension_lens(lens, j, component, 4)
            for direction, ids in (("promoted", order[:4]), ("demoted", order[::-1][:4])):
                part = table[table["direction"] == direction]
                assert part["id"].tolist() == ids
                assert part["effect"].tolist() == pytest.approx([effects[t] for t in ids], abs=1e-3)


def test_the_effect_is_what_the_logits_do_with_the_divisor_held_fixed(uneven_folder):
    folder = uneven_folder("Llama")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    torch.manual_seed(2)
    h, j = torch.randn(32, dtype=torch.float64), 11
    rms = float(h.square().mean().sqrt())
    raised = h.clone()
    raised[j] += rms  # one more RMS
    with torch.no_grad():
        before, after = (model.lm_head(model.model.norm.weight * x / rms) for x in (h, raised))
    change = after - before
    change = change - change.mean()
    for row in dimension_lens(load_model(folder), j, "resid", 3).itertuples():
        assert row.effect == pytest.approx(float(change[row.id]), abs=1e-4)


@pytest.fixture(scope="module")
def study(tiny_lens, tmp_path_factory):
    data = load_data("demo", languages=("en", "fr", "ja")).head(10)
    store = VectorStore(tmp_path_factory.mktemp("store") / "vectors.db")
    return Study(tiny_lens, data, languages=("en", "fr", "ja"), store=store)


def test_a_study_and_an_estimator_give_the_same_facts(study, tiny_lens):
    (task,) = study.data
    texts = study.texts(task, "en")
    renderings = {code: study.texts(task, code) for code in ("fr", "ja")}
    of_study = read_corpus(study)
    of_dysem = read_corpus(DySem(tiny_lens, ("en", "fr", "ja")), texts, renderings)
    assert of_study.texts == of_dysem.texts == list(dict.fromkeys(texts))
    assert of_study.components == ["attn", "ffn", "resid", "final"]
    for setting in ("english", "language-specific"):
        a, b = (
            dimension_facts(corpus, 5, setting=setting, m=2, k=8) for corpus in (of_study, of_dysem)
        )
        assert a.frequency.tolist() == b.frequency.tolist()
        assert a.sentences["text"].tolist() == b.sentences["text"].tolist()


def test_the_figure_shows_the_facts(study):
    facts = dimension_facts(read_corpus(study), 5, k=8, top=3)
    figure = dimension_figure(facts)
    points, band, chosen, shares, _, largest, languages, promoted, demoted, *rest = figure.data
    sentences, order = rest[0], by_size(facts.frequency)
    assert sorted(order) == list(range(32))
    assert list(points.customdata) == order
    assert list(points.y) == sorted(facts.frequency.tolist(), reverse=True)
    assert order[chosen.x[0] - 1] == 5
    low, high = facts.rotated.frequency.amin(0).tolist(), facts.rotated.frequency.amax(0).tolist()
    assert list(band.y) == high + low[::-1]
    assert list(shares.y) == sorted(facts.share.tolist(), reverse=True)
    assert shares.customdata[largest.x[0] - 1] == 5
    assert list(languages.y) == ["English", "French", "Japanese"]
    assert list(languages.x) == facts.languages["positive"].tolist()
    effects = facts.tokens["effect"].tolist()
    assert list(promoted.x) + list(demoted.x) == pytest.approx([abs(e) for e in effects])
    assert list(sentences.x) == facts.sentences["value"].tolist()
    said = dimension_text(facts)
    assert f"place {order.index(5) + 1} of 32" in said
    assert "γ_j W_U[t, j] minus its mean over all tokens" in said


def test_a_finding_of_a_study_has_the_facts_and_saves(study, tmp_path):
    facts = dimension_facts(read_corpus(study), 5, k=8, top=3)
    finding = dimension(study, 5, k=8, top=3)
    assert finding.figure.to_json() == dimension_figure(facts).to_json()
    sentences = finding.table[finding.table["kind"] == "sentence"]
    assert sentences["name"].tolist() == facts.sentences["text"].tolist()
    tokens = finding.table[finding.table["kind"] == "token demoted"]["value"].tolist()
    assert tokens == facts.tokens["effect"].tolist()[3:]
    assert finding.caption.startswith("Dimension 5 of A^L is in S(x) of")
    assert finding.facts.record()["parameters"]["k"] == 8
    n_texts = len(read_corpus(study).texts)
    assert finding.name.endswith(f"_demo-{n_texts}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"dimension": 32}, "dimension must be between 0 and 31, got 32"),
        ({"component": "z"}, "unknown component of this corpus 'z'; choose one of: attn, ffn, res"),
        ({"setting": "french"}, "unknown prompt setting of this corpus 'french'"),
        ({"m": 4}, "m must be between 1 and 3 languages, got 4"),
        ({"k": 0}, "k must be an integer >= 1"),
        ({"top": 0}, "top must be a whole number of at least 1, got 0"),
    ],
)
def test_errors_name_the_bad_value(study, arguments, said):
    with pytest.raises(InputError, match=said):
        dimension_facts(read_corpus(study), **arguments)


def test_a_corpus_without_texts_or_renderings_says_what_to_give(study, tiny_lens):
    dysem = DySem(tiny_lens, ("en", "fr"))
    with pytest.raises(InputError, match="texts must be a list of strings; give one as"):
        read_corpus(dysem, "A.")
    with pytest.raises(MissingTranslationError, match="no renderings of 1 text in 'fr': give"):
        read_corpus(dysem, ["A."])
    with pytest.raises(InputError, match="2 renderings in 'fr' for 1 text"):
        read_corpus(dysem, ["A."], {"fr": ["A.", "B."]})
    with pytest.raises(InputError, match="unknown task of this study 'stsb'; choose one of: demo"):
        read_corpus(study, "stsb")
    with pytest.raises(InputError, match="unknown component with a logit lens 'attn_raw'"):
        dimension_lens(tiny_lens, 0, "attn_raw")


def test_sliders_and_clicks_run_no_pass(study):
    panel = explore_dimensions(study, dimension=5, k=8)
    assert panel.message == ""
    assert "Dimension 5 of" in panel.figure.layout.title.text
    with passes(study.lens) as widths:
        panel.set(dimension=9, component="resid", setting="language-specific", m=2, k=4).wait()
        assert panel.message == ""
        assert "Dimension 9 of" in panel.figure.layout.title.text
        order = list(panel.figure.data[0].customdata)
        points = Points(point_inds=[3], xs=[4], ys=[0], trace_name="", trace_index=0)
        panel.plot.data[0]._dispatch_on_click(points, None)
        panel.wait()
    assert widths == []
    assert panel.controls["dimension"].value == order[3]
    assert f"Dimension {order[3]} of" in panel.figure.layout.title.text
    corpus = read_corpus(study)
    with counted(study.lens) as work:
        dimension_facts(corpus, 3, m=1)
        read_corpus(study)
    assert work.rows == 0


def test_a_typed_sentence_stands_where_a_loop_puts_it(tiny_folder):
    folder = tiny_folder("Llama")
    dysem = DySem(load_model(folder), ("en", "fr"))
    panel = explore_dimensions(dysem, TEXTS, RENDERINGS, dimension=7, k=5)
    panel.set(setting="language-specific").wait()
    vectors = by_hand(folder, "attn", "language-specific")

    def said(i, value, languages):
        """Return what the panel has to say of a text of the corpus."""
        same = [("en", "fr").index(code) for code in languages]
        below = sum(sum(text[j][7] for j in same) / len(same) < value for text in vectors) / 3
        positive = "/".join(c for c, j in zip(languages, same, strict=True) if vectors[i][j][7] > 0)
        share = f"more than {below:.0%}" if below else "no more than any text"
        return (
            f"</b> has {value:.4g} (mean over {'/'.join(languages)}), {share} of the corpus",
            f"and positive in {positive or 'no language'}.",
        )

    # The first of the corpus, then another one as if it were not in it, in one language and in two.
    for part in said(0, (vectors[0][0][7] + vectors[0][1][7]) / 2, ("en", "fr")):
        assert part in panel._answer.value
    other, as_typed = TEXTS[3], f"fr: {RENDERINGS['fr'][3]}"
    panel.set(text=other, renderings=as_typed).wait()
    assert (panel.message, panel.note) == ("", "")
    for part in said(2, (vectors[2][0][7] + vectors[2][1][7]) / 2, ("en", "fr")):
        assert part in panel._answer.value
    assert f'<td lang="fr" dir="auto">{RENDERINGS["fr"][3]}</td>' in panel.text  # what was read
    panel.set(text=f"{other} ").wait()
    panel.set(language="fr", text="Il pleut.").wait()
    assert "Read in French alone" in panel.note
    assert "<td lang" not in panel.text
    for part in said(1, vectors[1][1][7], ("fr",)):
        assert part in panel._answer.value
    panel.set(language="ja").wait()
    assert "the sentence is in none of these; open Settings" in panel.note
    assert (panel.message, panel.figure.data == ()) == ("", False)


def test_the_lines_of_python_reproduce_the_views(study, tiny_lens):
    dysem = DySem(tiny_lens, ("en", "fr"))
    names = {"study": study, "dysem": dysem, "texts": TEXTS, "renderings": RENDERINGS}
    for panel in (explore_dimensions(study), explore_dimensions(dysem, TEXTS, RENDERINGS)):
        panel.set(dimension=2, k=6).wait()
        found = run_lines(panel.python, names)
        assert found.figure.to_json() == panel.figure.to_json()


def test_the_embedded_model_promotes_readable_tokens(embedded):
    lens = embedded("smollm2-135m-instruct")
    table = dimension_lens(lens, 10, "attn", 5)
    weight = lens.bridge.original_model.get_output_embeddings().weight[:, 10].detach()
    norm = next(w for n, w in lens.bridge.original_model.named_parameters() if n.endswith(
        "norm._original_component.weight") and "layers" not in n)  # fmt: skip
    effect = (weight * norm.detach()[10]).double()
    effect -= effect.mean()
    assert table["id"].tolist()[0] == int(effect.argmax())
    assert table["effect"].tolist()[0] == pytest.approx(effect.max().item(), rel=1e-3)
    for row in table.itertuples():
        assert lens.tokenizer.decode([row.id]).strip() == row.token.strip() or "⟨" in row.token


def test_shares_and_agreement_by_loops(study):
    corpus = read_corpus(study)
    facts = dimension_facts(corpus, 5, m=2, k=8)
    vectors = corpus.vectors["english", "attn"][:, :2].double()
    v = [text.mean(0) for text in vectors]
    unit = [x / x.norm() for x in v]
    terms = sum(x * y for x in unit for y in unit)  # of the cosines of all pairs, by dimension
    torch.testing.assert_close(facts.share.double(), terms / terms.sum(), atol=1e-6, rtol=1e-5)
    for j in (0, 5, 31):
        values = [[float(s[j]) for s in text] for text in vectors]
        means = [sum(row[code] for row in values) / len(values) for code in (0, 1)]
        less = [[row[code] - means[code] for code in (0, 1)] for row in values]
        between = sum(((a + b) / 2) ** 2 for a, b in less)
        total = sum((a * a + b * b) / 2 for a, b in less)
        assert float(facts.agreement[j]) == pytest.approx(between / total, abs=1e-5)


def test_first_comes_a_dimension_of_half_the_texts_on_which_the_languages_agree(study):
    corpus = read_corpus(study)
    facts = dimension_facts(corpus, k=8)
    telling = [
        4 * f * (1 - f) * a
        for f, a in zip(facts.frequency.tolist(), facts.agreement.tolist(), strict=True)
    ]
    assert facts.dimension == max(range(32), key=telling.__getitem__)
    one = DySem(study.lens, "en")
    assert 0 <= dimension_facts(read_corpus(one, TEXTS)).dimension < 32
    assert dimension_facts(read_corpus(one, TEXTS[:1]), k=8).agreement.isfinite().all()


@pytest.mark.parametrize("n", [4, 40])  # fewer vectors than dimensions, and more
def test_rotations_are_those_of_the_whole_space(n):
    torch.manual_seed(0)
    vectors = torch.randn(n, 2, 16) + torch.randn(16)
    codes, lens = ("en", "fr"), SimpleNamespace(d_model=16)
    corpus = Corpus(lens, ["A."] * n, codes, {("s", "c"): vectors}, "texts")
    rotated = corpus.rotated("c", "s", 2, 5)
    assert rotated.frequency.shape == rotated.share.shape == (20, 16)
    # A rotation keeps every product, so the unit vectors' mean is as long as before.
    assert torch.allclose(rotated.share.sum(1), torch.ones(20), atol=1e-5)
    assert (rotated.share.diff() <= 0).all()
    assert (rotated.frequency.diff() <= 0).all()
    # Drawn in another way: whole rotations, of which the mean over many draws is compared.
    draws = []
    for seed in range(300):
        Q = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(seed))).Q
        turned = vectors @ (Q * torch.randn(16).sign())
        unit = torch.nn.functional.normalize(turned.mean(1), dim=-1).mean(0).square()
        sets = (turned > 0).all(1) * turned.mean(1)
        kth = sets.topk(5).values[:, -1:]
        frequency = ((sets > 0) & (sets >= kth)).float().mean(0)
        draws.append([(unit / unit.sum()).amax(), frequency.amax()])
    share, frequency = torch.tensor(draws).mean(0)
    spread = torch.tensor(draws).std(0) / 20**0.5
    assert abs(float(rotated.share[:, 0].mean() - share)) < 4 * float(spread[0])
    assert abs(float(rotated.frequency[:, 0].mean() - frequency)) < 4 * float(spread[1]) + 1e-6


def test_a_dimension_of_the_basis_does_not_survive_and_a_random_one_does(tiny_lens):
    torch.manual_seed(1)
    vectors = torch.randn(12, 2, 32)
    vectors[:, :, 3] += 40  # one dimension that all texts have

    def corpus_of(vectors):
        texts, kind = [f"Text {i}." for i in range(len(vectors))], ("english", "attn")
        return Corpus(tiny_lens, texts, ("en", "fr"), {kind: vectors}, "texts")

    corpus = corpus_of(vectors)
    facts = dimension_facts(corpus, 3, k=8)
    selected, share = facts.measures
    assert (selected.place, share.place) == (1, 1)
    assert selected.here == 1
    assert share.here > 0.9 > share.high
    assert not share.survives
    said = survival(facts)
    assert "In 20 random rotations of the space" in said
    assert "of the texts (100.0% here: " in said
    assert "here: more than in any rotation, so it is this basis's own)" in said
    rotated = torch.linalg.qr(torch.randn(32, 32)).Q
    turned = corpus_of(vectors @ rotated)
    survivors = [dimension_facts(turned, j, k=8).measures[0].survives for j in range(32)]
    assert sum(survivors) > 24
    table = dimension(corpus, 3, k=8).table
    rows = table[table["kind"] == "measure"]
    assert rows["name"].tolist() == ["in S(x), share of the texts", "share of the mean cosine"]
    assert (rows["rotated_low"] <= rows["rotated_high"]).all()
