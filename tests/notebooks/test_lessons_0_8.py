"""Lessons 0 and 8: solved and unsolved copies, and typical wrong answers with their messages."""

import re

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

import dysem_lab as dl
from checks import lesson0, lesson8
from checks.frame import NotSolvedError
from tests.conftest import WHOLE
from tests.lesson_notebooks import code_cells, exercise_number, notebook_of, run_lesson, solutions

LESSONS = {0: lesson0, 8: lesson8}
# What the notebooks say of the embedded model holds on its first pairs too; their exact numbers are
# those of the whole demo set, which takes ten times as long: DYSEM_LAB_WHOLE=1.
SOME = {0: 40, 8: 24}  # pairs
X, Y = "A cat sat on a mat.", "On a mat there was a cat."

pytestmark = pytest.mark.usefixtures("_one_thread")


@pytest.fixture(scope="module")
def tiny_gemma(tiny_folder):
    return dl.load_model(tiny_folder("Gemma2"))


@pytest.fixture
def _small(monkeypatch, tiny_gemma):
    """Let the notebooks run on a random model and the first twelve pairs."""
    load = dl.load_data
    monkeypatch.setattr(dl, "load_model", lambda name: tiny_gemma)
    monkeypatch.setattr(dl, "load_data", lambda *where, **options: load(*where, **options).head(12))


def told(lesson, number, *answers):
    """Return what a wrong answer is told."""
    with pytest.raises(NotSolvedError) as error:
        LESSONS[lesson].check(number, *answers)
    return " ".join(error.value.text.split())


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("lesson", LESSONS)
def test_a_solved_copy_passes_every_check_on_a_tiny_model(lesson, capsys):
    variables = run_lesson(lesson, solutions(lesson))
    assert LESSONS[lesson].progress().complete
    if lesson == 8:
        # The notebook says that all its numbers are the package's.
        heads, difference = variables["heads"], variables["difference"]
        assert variables["similarity"] == pytest.approx(heads.similarity, abs=1e-5)
        added, matrix = variables["added"], variables["matrix"]
        assert np.allclose(added, heads.table["contribution"], atol=1e-5)
        assert np.allclose(matrix, variables["crossed"], atol=1e-5)
        assert variables["error"] < 1e-5  # of the tokens
        theirs = difference.table["contribution"].to_numpy()
        assert np.allclose(added - variables["to_z"], theirs, atol=1e-5)
        # Lesson 2's sum over tokens is the same vector as that over heads.
        assert torch.allclose(variables["tokens_x"].sum(0), variables["A"][0], atol=1e-3)


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_solved_copy_says_what_the_notebook_says_of_the_embedded_model(
    lesson, embedded, monkeypatch
):
    lens = embedded("gemma-3-270m")
    monkeypatch.setattr(dl, "load_model", lambda name: lens)
    if not WHOLE:
        load = dl.load_data
        monkeypatch.setattr(dl, "load_data", lambda *where: load(*where).head(SOME[lesson]))
    variables = run_lesson(lesson, solutions(lesson))
    assert LESSONS[lesson].progress().complete
    (says_lesson_0 if lesson == 0 else says_lesson_8)(variables)


def says_lesson_0(variables):
    vectors = {"trained": variables["many"], "random": variables["fresh_many"]}
    table = lesson0.beside_scores(vectors, variables["data"]).set_index("model")
    assert table.loc["trained", "place"] > 0.98
    assert 0.6 < table.loc["random", "place"] < 0.9
    assert table.loc["trained", "low"] > 0 > table.loc["random", "low"]
    unit = torch.nn.functional.normalize(variables["many"], dim=-1)
    n = len(unit)
    cosines = (unit @ unit.T)[*torch.triu_indices(n, n, 1)]
    if WHOLE:
        assert len(cosines) == 34716
        assert int((cosines <= 0.9).sum()) == pytest.approx(34, abs=2)  # rounding differs
    assert float((cosines <= 0.9).float().mean()) < 0.002


def says_lesson_8(variables):
    vectors = variables["vectors"]
    i, j = variables["i"], variables["j"]
    assert len(variables["leaders"](vectors[i], vectors[j]).unique()) == 1
    centred = vectors - vectors.mean(0)
    assert len(variables["leaders"](centred[i], centred[j]).unique()) > 50
    gain = variables["gain_over_random"]
    table = lesson8.deletion_table(variables["words"], gain)
    blind = lesson8.deletion_table(variables["blind_words"], gain)
    largest = "largest attribution"
    assert table.loc[largest, "low"] > 0.05
    assert table.loc[largest, "hits"] > 0.6
    assert blind.loc[largest, "gain"] < table.loc[largest, "low"]
    if WHOLE:
        (pair,) = (words for _, words in variables["words"].groupby("pair") if _has(words, "sold"))
        first = pair.loc[pair["attribution"].idxmax()]
        assert first["word"] == "sold"
        assert first["drop"] < 0
        assert table["pairs"].unique().tolist() == [48]
        assert table.loc[largest, "gain"] == pytest.approx(0.12, abs=0.005)
        assert table.loc[largest, "hits"] == pytest.approx(0.73, abs=0.005)
        assert round(48 * table.loc[largest, "below random"]) == 3
        assert table.loc["a random word", "hits"] == pytest.approx(0.12, abs=0.005)
        assert blind.loc[largest, "gain"] == pytest.approx(0.04, abs=0.005)
        assert blind.loc[largest, "hits"] == pytest.approx(0.17, abs=0.005)


def _has(words, word):
    return word in set(words["word"]) and "sister" in set(words["word"])


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("lesson", LESSONS)
def test_an_unsolved_copy_stops_at_the_first_exercise_and_says_what_to_do(lesson):
    with pytest.raises(NotSolvedError, match=r"Exercise 1, .* is still open: .*hint\(1\)"):
        run_lesson(lesson, {})


@pytest.mark.parametrize("lesson", LESSONS)
def test_notebooks_have_goals_short_cells_no_outputs_and_every_exercise_once(lesson):
    notebook = nbformat.read(notebook_of(lesson), as_version=4)
    nbformat.validate(notebook)
    exercises = LESSONS[lesson].LESSON.exercises
    cells = code_cells(lesson)
    numbers = [exercise_number(source) for source, is_exercise in cells if is_exercise]
    assert numbers == sorted(solutions(lesson)) == list(exercises)
    assert all(len(source.splitlines()) <= 20 for source, _ in cells)
    for cell in notebook.cells:
        assert cell.cell_type == "markdown" or not (cell.outputs or cell.execution_count)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert text.startswith(f"# Lesson {lesson}: ")
    for needed in ("**You will be able to**", "**Time**", "## What you should take away"):
        assert needed in text
    for number, exercise in exercises.items():
        assert re.search(
            rf"### Exercise {number}: .* \((●○○|●●○|●●●), (core|extra), \d+ minutes?\)", text
        )
        assert all(re.search(r"[.`?)'\]]$", hint) for hint in exercise.hints)
        assert len(exercise.hints) >= 2


@pytest.mark.parametrize("lesson", LESSONS)
def test_sentences_of_the_examples_are_of_the_demo_set(lesson):
    texts = set(dl.load_data("demo").texts("en"))
    source = notebook_of(lesson).read_text(encoding="utf-8")
    source += (notebook_of(lesson).parent / "solutions" / f"lesson{lesson}.py").read_text("utf-8")
    quoted = re.findall(r'(?:first|second|[xyz]) = \\?"([A-Z][^"\\]+\.)', source)
    assert len(quoted) >= 2
    assert set(quoted) <= texts


# Lesson 0


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ((3, X), "`first` must be a sentence in quotation marks, but is 3"),
        ((X, "Cats."), "`second` has 1 of the 3 words"),
        ((X, f"{X.lower()} "), "The two sentences are the same"),
    ],
)
def test_lesson_0_wrong_sentences(answers, message):
    assert message in told(0, 1, *answers)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda s, o: (o < s).sum(), "divide by how many there are"),
        (lambda s, o: (o > s).float().mean(), "is not the share of those that are lower|*more*"),
        (lambda s, o: 0.5, "On random numbers it is not the share"),
        (lambda s, o: (o < s).float()[0::2].mean() if len(o) > 4 else 0.5, "On random numbers"),
        (lambda s, o: o < s, "must be one number"),
        (lambda s, o: s - o.mean(), "two are lower than 0.6"),
    ],
)
def test_lesson_0_wrong_places(answer, message):
    text = told(0, 2, answer)
    assert any(part in text for part in message.split("|"))


@pytest.fixture(scope="module")
def why(tiny_gemma):
    """Return an explanation with known parts: "cat" adds 0.3 in two places, "mats" 0.5 in one.

    As in the lesson, a token has a row with each of the other sentence's.
    """
    encoder = lesson0.encoder_of(tiny_gemma)
    data = dl.load_data("demo").head(3)
    found = dl.explain(encoder, "A cat.", "A mat.", "token", centre=data, progress=False)
    rows = [(" cat", True, 0.3), (" mats", True, 0.5), (" Con", True, 0.1), ("cat", True, 0.3)]
    rows += [(" end", True, 0.1), (".", True, 0.0), ("word", False, 0.9)]
    rows = [
        (position, token, of_text, part * share)
        for position, (token, of_text, part) in enumerate(rows)
        for share in (0.25, 0.75)
    ]
    table = pd.DataFrame(rows, columns=["position", "token", "of_text", "contribution"])
    object.__setattr__(found, "table", table)
    return found


@pytest.mark.parametrize("word", ["Cat", "cat ", "concat", "con", "“Cat”", "cat."])
def test_lesson_0_the_strongest_word_is_any_that_has_its_token(word, why):
    assert "Through 'cat' comes +0.600" in lesson0.check(3, word, why).text


def test_lesson_0_a_letter_a_sentence_and_the_template_are_no_word(why):
    assert "'mats' adds +0.500, and a token of the first sentence adds more" in told(
        0, 3, "mats", why
    )
    assert "'End.' adds +0.100, and a token" in told(0, 3, "End.", why)
    for word in ("word", "c", "at", "concatenated", "cat mats concat end."):
        assert "is no word of the first sentence. Its words: cat, mats, concat, end." in told(
            0, 3, word, why
        )
    assert "`word` is empty" in told(0, 3, " ", why)
    assert "in quotation marks" in told(0, 3, 5, why)


def test_lesson_0_wrong_controls():
    others = torch.tensor([0.1, 0.5, 0.7, 0.8])
    assert "above 75% of its random pairs" in lesson0.check(4, 0.75, 0.75, others).text
    assert "places can" in told(0, 4, 0.6, 0.6, others)
    assert "among its own random pairs" in told(0, 4, 1.0, 0.6, others)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("a", "A is what one would like to say"),
        ("C", "C throws too much away"),
        ("D", 'Answer "A", "B" or "C"'),
        (2, 'Answer "A", "B" or "C"'),
    ],
)
def test_lesson_0_wrong_claims(answer, message):
    assert message in told(0, 5, answer)
    assert lesson0.check(5, " b")


def test_lesson_0_random_pairs_are_no_pairs_of_the_set():
    texts = dl.load_data("demo").texts("en")
    n = len(texts)
    # Vectors at an angle of their own each: a cosine says which two they are of.
    angles = torch.arange(n) * torch.pi / n / 2
    vectors = torch.stack([angles.cos(), angles.sin()], 1)
    found = lesson0.random_pairs(vectors).reshape(len(lesson0.SHIFTS), n)
    for shift, cosines in zip(lesson0.SHIFTS, found, strict=True):
        expected = [float((angles[i] - angles[i - shift]).cos()) for i in range(n)]
        assert np.allclose(cosines, expected, atol=1e-5)
        assert shift not in (0, n // 2)


def test_lesson_0_places_and_scores_of_a_set_are_those_computed_by_hand():
    data = dl.load_data("demo").head(30)
    vectors = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    (row,) = lesson0.beside_scores({"one": vectors}, data).to_dict("records")
    own = torch.cosine_similarity(vectors[:30], vectors[30:])
    others = lesson0.random_pairs(vectors)
    places = [float((others < own[i]).double().mean()) for i in range(30) if data.gold[i] >= 3.5]
    assert row["place"] == pytest.approx(np.mean(places))
    assert row["related pairs"] == len(places)
    assert row["spearman"] == pytest.approx(dl.spearman(own, data.gold))


# Lesson 8


@pytest.fixture(scope="module")
def run(tiny_gemma):
    return lesson8.run(tiny_gemma, X)


def rms(x):
    return x.square().mean(-1, keepdim=True).sqrt()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda p, g: p * g / rms(p), "You divide each part by its own rms"),
        (lambda p, g: p / rms(p.sum(0)), "The gain g is missing"),
        (lambda p, g: p * g / p.sum(0).norm(), "has a mean in it"),
        (lambda p, g: p * g / rms(p.sum(0)) ** 2, "take its root"),
        (lambda p, g: p * g / p.square().mean().sqrt(), "of all parts' numbers together"),
        (lambda p, g: p * g / rms(p.mean(0)), "the rms of the parts' mean"),
        (lambda p, g: p * g, "Nothing was divided"),
        (lambda p, g: p.sum(0) * g / rms(p.sum(0)), "The parts are added together"),
        (lambda p, g: (p.sum(0) * g / rms(p.sum(0)) / len(p)).expand_as(p), "same proportion"),
    ],
)
def test_lesson_8_wrong_norms(answer, message, run):
    assert message in told(8, 1, answer, run)


def einsum(rule):
    return lambda pattern, values, W_O: torch.einsum(rule, pattern, values, W_O)


RIGHT = "hp,phe,hed->pd"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (einsum("hp,phe,hed->d"), "The tokens are added together"),
        (einsum("hp,phe,hed->hd"), "These are the heads, as in lesson 2"),
        (einsum("hp,phe,hed->hpd"), "Each token through each head is still there"),
        (einsum("hp,phe,hed->phd"), "Each token through each head is still there"),
        (einsum("hp,phe,hed->dp"), "The tokens come first"),
        (lambda p, v, W: torch.einsum("hp,phe->pe", p, v), "W_O is missing"),
        (lambda p, v, W: einsum(RIGHT)(torch.ones_like(p), v, W), "The pattern is missing"),
        (lambda p, v, W: einsum(RIGHT)(p, v, W[:1].expand_as(W)), "head 0's matrix"),
        (lambda p, v, W: einsum(RIGHT)(p[:1].expand_as(p), v, W), "the pattern of head 0"),
        (lambda p, v, W: einsum(RIGHT)(p, v, W) / len(p), "the mean over the heads"),
        (lambda p, v, W: einsum(RIGHT)(p.softmax(-1), v, W), "On random tensors it is not"),
    ],
)
def test_lesson_8_wrong_tokens(answer, message, run):
    assert message in told(8, 2, answer, run)


def over(x, y, below):
    return x @ y.T / below


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x, y: torch.cosine_similarity(x.sum(0), y.sum(0), dim=0), "the cosine itself"),
        (lambda x, y: over(y, x, x.sum(0).norm() * y.sum(0).norm()), "The parts of x are the rows"),
        (lambda x, y: torch.cosine_similarity(x[:, None], y[None], dim=-1), "cosines of the parts"),
        (lambda x, y: x @ y.T, "divide by the lengths of the two whole vectors"),
        (lambda x, y: over(x, y, x.norm() * y.norm()), "norm of all their numbers together"),
        (
            lambda x, y: over(x, y, x.norm(dim=-1).sum() * y.norm(dim=-1).sum()),
            "not the sum of its parts' lengths",
        ),
        (lambda x, y: over(x, y, x.sum(0).norm()), "the length of x only"),
        (lambda x, y: over(x, y, (x.sum(0).norm() * y.sum(0).norm()) ** 2), "squared lengths"),
        (lambda x, y: x.sum(0) * y.sum(0), "one term per dimension"),
        (lambda x, y: over(x, y, len(x) * len(y)), "have to add up to the cosine"),
    ],
)
def test_lesson_8_wrong_matrices(answer, message):
    assert message in told(8, 3, answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x, y: (x * y).abs().argmax(-1), "it does not add"),
        (lambda x, y: x.argmax(-1), "You look at x only"),
        (lambda x, y: y.argmax(-1), "You look at y only"),
        (lambda x, y: x.abs().argmax(-1), "You look at |x| only"),
        (lambda x, y: (x - y).abs().argmin(-1), "in which the two differ least"),
        (lambda x, y: (x + y).argmax(-1), "the terms are products"),
        (lambda x, y: (x * y).argmin(-1), "the smallest term"),
        (lambda x, y: (x * y).amax(-1), "its place is asked for"),
        (lambda x, y: (x * y).argmax(0), "one number per dimension"),
        (lambda x, y: (x * y).argmax(), "each pair has one that leads"),
        (lambda x, y: x * y, "which of each row is the largest"),
        (lambda x, y: torch.zeros(len(x)), "On random vectors"),
    ],
)
def test_lesson_8_wrong_leaders(answer, message):
    assert message in told(8, 4, answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda p, c: p - c.sum(1).mean(0), "the mean of the whole vector from every part"),
        (lambda p, c: p - c.mean((0, 1)), "You spread the mean of the whole vector evenly"),
        (lambda p, c: p - p.mean(0), "this text's own parts"),
        (lambda p, c: p - p.mean(-1, keepdim=True), "mean over the dimensions"),
        (lambda p, c: p - c[0], "one text of the corpus"),
        (lambda p, c: p + c.mean(0), "You add the mean"),
        (lambda p, c: p - c.sum(0), "divide it by their number"),
        (lambda p, c: p - c, "one result per text of the corpus"),
        (lambda p, c: p - c.median(0).values, "On random parts"),
    ],
)
def test_lesson_8_wrong_centring(answer, message):
    assert message in told(8, 5, answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda c, r: c - r.mean(0), "You do not divide by the spread"),
        (lambda c, r: (c - r.mean(0)) / r.var(0, correction=0), "not by its root"),
        (lambda c, r: c / r.std(0, correction=0), "You do not subtract"),
        (
            lambda c, r: (c - r.mean(0)) / (r.std(0, correction=0) / len(r) ** 0.5),
            "the standard error",
        ),
        (lambda c, r: (c - r.mean()) / r.std(correction=0), "one mean and one spread for all"),
        (lambda c, r: (c - r.mean(0)) / r.std(0), "with n - 1"),
        (lambda c, r: ((c - r.mean(0)) / r.std(0, correction=0)).abs(), "the absolute value"),
        (lambda c, r: (r.mean(0) - c) / r.std(0, correction=0), "The sign is turned round"),
        (lambda c, r: c - r, "one number per random pair still"),
        (lambda c, r: r.mean(1), "the random pairs are axis 0"),
        (lambda c, r: (c > r).float().mean(0), "On random numbers"),
    ],
)
def test_lesson_8_wrong_surprises(answer, message):
    assert message in told(8, 6, answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda d, a: d[a.argmax()], "A random word costs something too"),
        (lambda d, a: d.max() - d.mean(), "whether the *attribution* finds it"),
        (lambda d, a: d[a.abs().argmax()] - d.mean(), "the largest |attribution|"),
        (lambda d, a: d[a.argmax()] - a.mean(), "Both terms are drops"),
        (lambda d, a: d[a.argmax()] - d[a.argmin()], "chosen by the attribution itself"),
        (
            lambda d, a: d[a.argmax()] - (d.sum() - d[a.argmax()]) / (len(d) - 1),
            "the mean of the *other* words",
        ),
        (lambda d, a: d.mean() - d[a.argmax()], "The sign is turned round"),
        (lambda d, a: d[a.argmax()] / d.mean(), "a difference of drops"),
        (lambda d, a: d - d.mean(), "must be one number"),
        (lambda d, a: d[a.argmax()] - d.median(), "On random numbers"),
    ],
)
def test_lesson_8_wrong_gains(answer, message):
    assert message in told(8, 7, answer)


def test_lesson_8_a_run_is_what_the_pass_gives(tiny_gemma, tiny_lens, run):
    (prompt,) = dl.wrap([X])
    each = dl.capture(tiny_gemma, [prompt], ("attn", "attn_raw", "z"), "each")
    assert torch.allclose(run.attn, each["attn"][0], atol=1e-5)
    assert torch.allclose(run.heads.sum(1), each["attn_raw"][0], atol=1e-4)
    z = torch.einsum("lhp,lphe->lhe", run.pattern, run.values)
    assert torch.allclose(z, each["z"][0], atol=1e-5)
    assert len(run.tokens) == run.pattern.shape[-1]
    with pytest.raises(dl.DysemLabError, match="has no norm after its attention"):
        lesson8.run(tiny_lens, X)


def test_lesson_8_the_heads_of_a_corpus_add_up_to_its_vectors(tiny_gemma):
    def through_norm(parts, gain):
        return parts * gain / rms(parts.sum(0))

    parts = lesson8.corpus_by_head(tiny_gemma, [X, Y], through_norm)
    A = dl.capture(tiny_gemma, dl.wrap([X, Y]), "attn")["attn"]
    assert torch.allclose(parts.sum(1), A, atol=1e-3)


def test_lesson_8_random_pairs_are_no_pairs_of_the_set():
    found = lesson8.random_pairs(10, 300)
    assert len(found) == 300
    assert all(i != j and abs(i - j) != 5 for i, j in found)
    assert {i for i, _ in found} == set(range(10))


def test_lesson_8_deletions_follow_the_words_and_their_tokens(tiny_gemma):
    encoder = dl.PromptEncoder(tiny_gemma, output_layer="attn.sum")
    data = dl.load_data("demo").head(4)
    mean = encoder.encode(data.texts("en")).vectors.mean(0)
    table = lesson8.deletions(encoder, [(X, Y)], data, mean)
    assert table["word"].tolist() == X.split()
    why = dl.explain(encoder, X, Y, "token", centre=data, progress=False)
    own = why.table[why.table["of_text"].eq(True)]["contribution"].to_numpy()
    assert table["attribution"].sum() == pytest.approx(own.sum(), abs=1e-6)
    # One token per byte: the blank before a word is counted with it.
    assert table["attribution"][0] == pytest.approx(own[:1].sum(), abs=1e-6)
    assert table["attribution"][1] == pytest.approx(own[1:5].sum(), abs=1e-6)
    assert table["attribution"][5] == pytest.approx(own[-5:].sum(), abs=1e-6)
    short, y = encoder.encode(["A sat on a mat.", Y]).vectors - mean  # without "cat"
    left = float(torch.cosine_similarity(short, y, dim=0))
    assert table["drop"][1] == pytest.approx(why.similarity - left, abs=1e-5)


def test_lesson_8_the_table_of_deletions_counts_by_hand():
    words = pd.DataFrame(
        [
            (0, "a", 0.1, 0.0),
            (0, "longer", 0.0, 0.3),
            (0, "b", 0.5, 0.6),
            (1, "longest", 0.9, 0.1),
            (1, "c", 0.2, 0.5),
        ],
        columns=["pair", "word", "attribution", "drop"],
    )
    table = lesson8.deletion_table(words, lambda drops, by: drops[by.argmax()] - drops.mean())
    assert table["gain"].round(6).tolist() == [0.05, -0.1, 0.25, 0.0]
    assert table["hits"].tolist() == [0.5, 0.0, 1.0, pytest.approx((1 / 3 + 1 / 2) / 2)]
    assert table["below random"].tolist()[:3] == [0.5, 0.5, 0.0]
    assert table["pairs"].tolist() == [2] * 4
