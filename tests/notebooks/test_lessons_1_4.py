"""The course's frame and lessons 1 to 4: solved, unsolved, and with typical wrong answers."""

import io
import re
from contextlib import redirect_stdout

import nbformat
import numpy as np
import pytest
import torch
from scipy.stats import rankdata

import dysem_lab as dl
from checks import lesson1, lesson2, lesson3, lesson4
from checks.frame import (
    Lesson,
    NotSolvedError,
    require,
    require_close,
    require_number,
    require_tensor,
)
from checks.tools import record, tokens_of
from dysem_lab.errors import InputError
from tests.lesson_notebooks import code_cells, exercise_number, notebook_of, run_lesson, solutions

LESSONS = {1: lesson1, 2: lesson2, 3: lesson3, 4: lesson4}
MODELS = {1: "gemma-3-270m", 2: "smollm2-135m-instruct", 3: "gemma-3-270m", 4: "gemma-3-270m"}
PROMPTS = dl.wrap(["A man is washing his car."])

pytestmark = pytest.mark.usefixtures("_one_thread")


@pytest.fixture
def lesson():
    """Return a lesson with one exercise: double a tensor."""
    made = Lesson(9, "Doubling")

    @made.exercise(1, "Twice", hints=("Add it to itself.", "x + x"))
    def twice(double) -> str:
        found = require_tensor(double(torch.tensor([1.0, 2.0])), (2,), "twice x")
        require_close(
            found,
            torch.tensor([2.0, 4.0]),
            mistakes={"you squared it": torch.tensor([1.0, 4.0])},
            otherwise="2 x must be x + x",
        )
        return "doubled"

    @made.exercise(2, "A number", hints=())
    def number(value) -> str:
        require(require_number(value, "value") > 0, "value must be positive")
        return "positive"

    return made


def test_a_right_answer_gives_a_green_sentence_in_html_and_text(lesson):
    result = lesson.check(1, lambda x: 2 * x)
    assert repr(result) == "✓ Exercise 1, Twice is solved: doubled"
    assert "#009E73" in result._repr_html_()
    assert "doubled" in result._repr_html_()


@pytest.mark.parametrize("number", [2, 2.5, np.int64(2), np.float32(2.5), torch.tensor(2.5)])
def test_a_number_may_be_of_any_library(lesson, number):
    assert repr(lesson.check(2, number)) == "✓ Exercise 2, A number is solved: positive"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (..., r"Exercise 1, Twice is still open: Replace the `\.\.\.` .* hint\(1\) gives a hint"),
        (None, "still open"),
        (lambda x: None, "`<lambda>` returns nothing: .* without a `return`"),
        (lambda x: ..., "still open: `<lambda>` returns nothing"),
        (lambda x: x**2, "not right yet: you squared it"),
        (lambda x: x + 1, r"2 x must be x \+ x"),
        (lambda x: x[:1], r"twice x must have shape \[2\], but has \[1\]"),
        (lambda x: [2.0, 4.0], r"twice x must be a tensor, but is list \[2\.0, 4\.0\]"),
        (lambda: 1, r"`<lambda>` stopped when it was given a tensor of shape \[2\]: TypeError"),
        (5, r"The check cannot use int 5: TypeError"),
    ],
)
def test_whatever_is_no_right_answer_gets_a_sentence(lesson, answer, message):
    with pytest.raises(NotSolvedError, match=message):
        lesson.check(1, answer)


def test_a_way_through_without_a_return_is_wrong_and_not_open(lesson):
    made = Lesson(9, "Signs")

    @made.exercise(1, "Sign", hints=())
    def sign(function) -> str:
        require(function(1.0) == 1 and function(-2.0) == -1, "wrong")
        return "right"

    said = "not right yet.* None when it was given float -2"
    with pytest.raises(NotSolvedError, match=said):
        made.check(1, lambda x: 1 if x > 0 else None)


def test_an_unwritten_function_is_open_and_an_error_in_one_is_told_with_its_line(lesson):
    def unwritten(x):
        raise NotImplementedError

    with pytest.raises(NotSolvedError, match="is still open: Replace the body of `unwritten`"):
        lesson.check(1, unwritten)
    cell: dict[str, object] = {}
    exec(compile("def f(x):\n    y = 2 * x\n    return y[5]\n", "<cell>", "exec"), cell)
    with pytest.raises(NotSolvedError, match=r"`f` stopped in line 3 of its cell .* IndexError"):
        lesson.check(1, cell["f"])


def test_a_function_that_changes_its_argument_cannot_change_the_check(lesson):
    given = torch.tensor([1.0])
    made = Lesson(9, "Copies")

    @made.exercise(1, "Copy", hints=())
    def copy(function) -> str:
        function(given)
        return "same"

    made.check(1, lambda x: x.zero_())
    assert given.item() == 1.0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(3), r"must be one number, but is a tensor of shape \[3\]"),
        ("five", "must be a number, but is str 'five'"),
        (True, "must be a number, but is bool True"),
        (float("nan"), "is NaN"),
        (-1, "must be positive"),
    ],
)
def test_a_number_is_asked_for(lesson, value, message):
    with pytest.raises(NotSolvedError, match=message):
        lesson.check(2, value)
    lesson.check(2, torch.tensor([3.0]))
    lesson.check(2, np.float64(3.0))


def test_hints_come_one_after_another_and_the_last_names_the_solutions(lesson):
    assert repr(lesson.hint(1)) == "? Hint 1 of 2 for exercise 1: Add it to itself."
    shown = [lesson.hint(1).text for _ in range(2)]
    assert shown == ["x + x\nA solution is in solutions/lesson9.py."] * 2
    assert "no hint" in lesson.hint(2).text


def test_progress_counts_what_is_solved_and_forgets_what_is_broken_again(lesson):
    assert not lesson.progress().complete
    lesson.check(1, lambda x: 2 * x)
    assert "1 of 2 exercises solved\n  ✓ 1. Twice\n  ○ 2. A number" in repr(lesson.progress())
    assert "✓ 1. Twice" in lesson.progress()._repr_html_()
    with pytest.raises(NotSolvedError):
        lesson.check(1, lambda x: x)
    lesson.check(2, 1.0)
    assert lesson.progress().solved == {2}
    lesson.check(1, lambda x: 2 * x)
    assert lesson.progress().complete


def test_a_wrong_call_of_check_names_the_right_one(lesson):
    with pytest.raises(InputError, match="unknown exercise 7; choose one of: 1, 2"):
        lesson.check(7, 1)
    with pytest.raises(InputError, match=r"call it as check\(1, double\)"):
        lesson.check(1)


def test_ipython_shows_the_sentence_and_no_traceback(lesson):
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell()
    shell.user_ns["check"] = lesson.check
    printed = io.StringIO()
    with redirect_stdout(printed):
        result = shell.run_cell("check(1, ...)")
    assert isinstance(result.error_in_exec, NotSolvedError)
    plain = re.sub(r"\x1b\[[\d;]*m", "", printed.getvalue())
    assert "✗ Exercise 1, Twice is still open\nReplace the `...`" in plain
    assert "Traceback" not in plain
    assert "checks.py" not in plain


@pytest.mark.parametrize("number", LESSONS)
def test_notebooks_have_goals_short_cells_no_outputs_and_every_exercise_once(number):
    notebook = nbformat.read(notebook_of(number), as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(number)
    exercises = LESSONS[number].LESSON.exercises
    assert [exercise_number(source) for source, is_exercise in cells if is_exercise] == [*exercises]
    assert [*solutions(number)] == [*exercises]
    assert all(len(source.splitlines()) <= 20 for source, _ in cells)
    for cell in notebook.cells:
        assert cell.cell_type == "markdown" or not (cell.outputs or cell.execution_count)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert text.startswith(f"# Lesson {number}: ")
    for needed in ("**You will be able to**", "**Time**", "## What you should take away"):
        assert needed in text
    for exercise in exercises:
        heading = rf"### Exercise {exercise}: .* \((●○○|●●○|●●●), (core|extra), \d+ minutes\)"
        assert re.search(heading, text)
    assert all(exercise.hints for exercise in exercises.values())


@pytest.mark.parametrize("number", LESSONS)
def test_a_solved_copy_runs_and_passes_every_check(number, embedded, monkeypatch):
    lens, load = embedded(MODELS[number]), dl.load_data
    monkeypatch.setattr(dl, "load_model", lambda name: lens)
    # Twelve pairs: whether the cells run and the checks pass does not depend on how many there are.
    monkeypatch.setattr(dl, "load_data", lambda *where, **options: load(*where, **options).head(12))
    progress = LESSONS[number].LESSON.progress
    variables = run_lesson(number, solutions(number))
    assert variables["lens"] is lens
    assert progress().complete, progress()


@pytest.mark.parametrize("number", LESSONS)
def test_an_unsolved_copy_stops_at_the_first_exercise_with_a_sentence(
    number, embedded, monkeypatch
):
    lens = embedded(MODELS[number])
    monkeypatch.setattr(dl, "load_model", lambda name: lens)
    with pytest.raises(NotSolvedError, match=r"Exercise 1, .* is still open: .* hint\(1\)"):
        run_lesson(number, {})


# Typical wrong answers: exercise, answer, what the sentence says.

BLOCK = "blocks.{}.{}"


def names(*parts, shift=0):
    return lambda layer: [BLOCK.format(layer + shift, part) for part in parts]


NAMES_WRONG = [
    (names("hook_in", "hook_attn_out", "hook_mlp_out", "hook_out", shift=1), "count blocks from 1"),
    (lambda layer: names("hook_in", "hook_attn_out", "hook_mlp_out", "hook_out")(0), "f-string"),
    (names("hook_in", "attn.hook_out", "mlp.hook_out", "hook_out"), "normalises that once more"),
    (names("hook_in", "hook_mlp_out", "hook_attn_out", "hook_out"), "are exchanged"),
    (names("hook_out", "hook_attn_out", "hook_mlp_out", "hook_in"), "'before' comes first"),
    (names("hook_in", "hook_attn", "hook_mlp_out", "hook_out"), "no hook point 'blocks.0.hook_att"),
    (names("hook_in", "hook_attn_out", "hook_mlp_out"), "Return four names"),
    (names("hook_in", "hook_attn_out", "hook_mlp_out", "hook_resid_mid"), "do not add up"),
    (names("hook_in", "hook_attn_in", "hook_mlp_out", "hook_out"), "attn_in' is what a part reads"),
    (names("hook_in", "hook_attn_out", "hook_mlp_in", "hook_out"), "mlp_in' is what a part reads"),
    (names("hook_attn_in", "hook_attn_out", "hook_mlp_out", "hook_out"), "stream itself at `hook_"),
]


@pytest.mark.parametrize(("answer", "message"), NAMES_WRONG)
def test_lesson_1_wrong_hook_points(answer, message, embedded):
    with pytest.raises(NotSolvedError, match=message):
        lesson1.check(1, answer, embedded("gemma-3-270m"), PROMPTS)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda a: a[-1], "the first axis is the batch"),
        (lambda a: a[..., -1], "the last dimension, not the last position"),
        (lambda a: a[0, -1], "one prompt only"),
        (lambda a: a[:, -1:], "the index -1 drops it"),
        (lambda a: a[:, 0], "the first token"),
        (lambda a: a.mean(1), "the mean over the positions"),
        (lambda a: a.amax(1), "the largest value over the positions. It happens to be the last"),
        (lambda a: a[:, 3], "stopped .* IndexError|on random activations"),
        (lambda a: a[:, min(3, a.shape[1] - 1)], "is a size fixed in the text"),
    ],
)
def test_lesson_1_wrong_last_position(answer, message):
    with pytest.raises(NotSolvedError, match=message):
        lesson1.check(2, answer)


@pytest.fixture(scope="module")
def stream():
    """Return captured vectors of a stream made by hand, with a norm after attention."""
    generator = torch.Generator().manual_seed(0)
    attn, ffn = torch.randn(2, 2, 4, 6, generator=generator)
    h0 = torch.ones(2, 1, 6)
    return {"resid": h0 + (attn + ffn).cumsum(1), "attn": attn, "ffn": ffn, "attn_raw": 3 * attn}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda h0, a, f: h0 + (a + f).sum(1), "only the last state"),
        (lambda h0, a, f: h0[0] + (a + f).sum(0), "summed over the batch, not over the layers"),
        (lambda h0, a, f: h0[:, None] + (a + f).cumsum(0), "summed over the batch, not over the l"),
        (lambda h0, a, f: h0[:, None] + (a + f).cumsum(2), "dimensions d, not over the layers"),
        (lambda h0, a, f: (a + f).cumsum(1), r"h\^0 is missing"),
        (lambda h0, a, f: (h0[:, None] + a + f).cumsum(1), r"add h\^0 again at every block"),
        (lambda h0, a, f: h0[:, None] + a + f, "only what that block wrote"),
        (lambda h0, a, f: h0[:, None] + a.cumsum(1), "The FFN outputs are missing"),
        (lambda h0, a, f: h0[:, None] + f.cumsum(1), "The attention outputs are missing"),
        (lambda h0, a, f: h0 + (a + f).cumsum(1), "RuntimeError: The size of tensor a"),
        (lambda h0, a, f: h0[:, None] + 11 * a.cumsum(1), "must grow by exactly"),
        (lambda h0, a, f: h0[:, None] + (a + f).abs().cumsum(1), "on random vectors it is not"),
    ],
)
def test_lesson_1_wrong_streams(answer, message, stream):
    with pytest.raises(NotSolvedError, match=message):
        lesson1.check(3, answer, stream)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda p, w: (p @ w) / w.norm(), "by the length of h.L, not by its square"),
        (lambda p, w: p @ w, "You did not divide"),
        (lambda p, w: torch.cosine_similarity(p, w[None], dim=1), "This is the cosine"),
        (lambda p, w: p.norm(dim=1) / w.norm(), "lengths only"),
        (lambda p, w: ((p @ w) / (w @ w)).abs(), "absolute value"),
        (lambda p, w: (p * w) / (w @ w), "summed over d"),
        (lambda p, w: ((p @ w) / (w @ w)).sum(), "summed over the parts as well"),
        (lambda p, w: (p @ w) / 25, "on random vectors it is not"),
    ],
)
def test_lesson_1_wrong_shares(answer, message, stream):
    with pytest.raises(NotSolvedError, match=message):
        lesson1.check(4, answer, stream)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (..., "still open"),
        ("attn_raw", "off by 200 % .* before this model's post-attention norm"),
        ("ffn", "not 'ffn'"),
        (torch.ones(2, 4, 6), r"not a tensor of shape \[2, 4, 6\]\. Type the name"),
    ],
)
def test_lesson_1_wrong_components(answer, message, stream):
    with pytest.raises(NotSolvedError, match=message):
        lesson1.check(5, answer, stream)
    assert "the stream receives" in lesson1.check(5, "attn", stream).text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": (4, 8)}, "several query heads share one"),
        ({"value": (8, 2)}, "The head comes first"),
        ({"z": (2, 8)}, "still read different mixtures"),
        ({"z": (32,)}, "keeps the heads apart"),
        ({"attn": (4, 8)}, "as wide as the stream"),
        ({"attn": 32}, "must be a tuple"),
        ({"attn": ...}, 'is still open: The shape of "attn"'),
        ({"other": (1,)}, "Give a dictionary with the keys"),
    ],
)
def test_lesson_2_wrong_shapes(change, message, tiny_lens):
    assert (tiny_lens.n_heads, tiny_lens.n_kv_heads, tiny_lens.d_head) == (4, 2, 8)
    right = {"value": (2, 8), "z": (4, 8), "attn": (32,)}
    lesson2.check(1, right, tiny_lens)
    with pytest.raises(NotSolvedError, match=message):
        lesson2.check(1, right | change, tiny_lens)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda v, n: v.repeat(n // v.shape[-2], 1), r"a b a b a b.*heads 0, 1, 2 read the first"),
        (lambda v, n: v.repeat_interleave(n, dim=-2), "how many there are afterwards"),
        (lambda v, n: v.repeat_interleave(n // 2, dim=-1), "the width of a head, not the heads"),
        (
            lambda v, n: v.repeat_interleave(n // v.shape[0], dim=0),
            "Count axes from the right",
        ),
        (lambda v, n: v, "Nothing was repeated"),
        (
            lambda v, n: v[..., [min(i * 2 // n, 1) for i in range(n)], :],
            "with other numbers of heads it is not",
        ),
    ],
)
def test_lesson_2_wrong_groups(answer, message):
    with pytest.raises(NotSolvedError, match=message):
        lesson2.check(2, answer)


@pytest.fixture(scope="module")
def layer_of_tiny(tiny_lens):
    """Return what hook points of one layer of a random model saw, by name."""
    parts = ("attn.hook_v", "attn.hook_pattern", "attn.hook_z", "hook_attn_out")
    return record(tiny_lens, PROMPTS, [f"blocks.1.{part}" for part in parts])[0]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda p, v: torch.einsum("hqk,qhd->khd", p, v), "over the queries, not over the keys"),
        (lambda p, v: torch.einsum("hqk,khd->hqd", p, v), "The heads come first in yours"),
        (lambda p, v: torch.einsum("hqk,khd->qd", p, v), "The heads are added together"),
        (
            lambda p, v: torch.einsum("hqk,khd->qhd", p.softmax(-1), v),
            "The softmax has been applied already",
        ),
        (
            lambda p, v: torch.einsum("qk,khd->qhd", p[0], v),
            "Each head must use its own pattern",
        ),
        (
            lambda p, v: torch.stack([v[p[h].argmax(-1), h] for h in range(len(p))], 1),
            "Where a query attends to several tokens",
        ),
    ],
)
def test_lesson_2_wrong_readings(answer, message, layer_of_tiny):
    with pytest.raises(NotSolvedError, match=message):
        lesson2.check(3, answer, layer_of_tiny, 1)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda z, W: torch.einsum("hi,hid->d", z, W), "added the heads together already"),
        (lambda z, W: z @ W[0], "Every head uses the first head's matrix"),
        (lambda z, W: z @ W.sum(0), "Every head uses the sum of all matrices"),
        (lambda z, W: z[..., None] * W, "sums over them"),
        (lambda z, W: torch.einsum("hi,hid->hd", z.flip(0), W), "the z of the other"),
        (lambda z, W: torch.einsum("hi,hid->hd", z, W) + 1, "copies z"),
        (lambda z, W: torch.einsum("hi,hid->hd", z.abs(), W), "on random heads it is not"),
    ],
)
def test_lesson_2_wrong_writings(answer, message, layer_of_tiny, tiny_lens):
    z = layer_of_tiny["blocks.1.attn.hook_z"][0, -1]
    W_O = tiny_lens.bridge.blocks[1].attn.W_O.detach()
    out = layer_of_tiny["blocks.1.hook_attn_out"][0, -1]
    with pytest.raises(NotSolvedError, match=message):
        lesson2.check(4, answer, z, W_O, out)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda p: p[:, 0, -1], "what the first token reads from the last one"),
        (lambda p: p[:, -1, -1], "from itself, not from the first"),
        (lambda p: p[:, 0, 0], "always 1"),
        (lambda p: p[:, :, 0].mean(1), "mean over all queries"),
        (lambda p: p[:, :, 0], "one weight per query"),
        (lambda p: p[0, -1], "The heads are gone"),
        (lambda p: p[:, -1, 0].mean(), "one number for all heads"),
        (lambda p: p[:, 2, 0], "is a position fixed in the text"),
    ],
)
def test_lesson_2_wrong_weights(answer, message, layer_of_tiny):
    with pytest.raises(NotSolvedError, match=message):
        lesson2.check(5, answer, layer_of_tiny, 1)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda s: s, "This is the bare sentence"),
        (lambda s: f'In one word, this means: "{s}"', "The sentence stands at the end"),
        (lambda s: f'This sentence : "{s}" means in one word: ', "ends in white space"),
        (lambda s: f'This sentence : "{s}" means in one word', "ends in 'd'"),
        (lambda s: 'This sentence : "{sentence}" means in one word:"', "put an f before"),
        (lambda s: 'This sentence : "A dog." means in one word:"', "is not in your"),
        (lambda s: 7, "must be a string"),
        (lambda s: f"{s} In one word{'?' * (len(s) % 2)}:" + "\"'"[len(s) % 2], "differs between"),
    ],
)
def test_lesson_3_wrong_prompts(answer, message, tiny_lens):
    with pytest.raises(NotSolvedError, match=message):
        lesson3.check(1, answer, tiny_lens)


def test_lesson_3_takes_any_wording(tiny_lens):
    for prompt in ("« {} » en un mot : «", "{} Summarised in one word:"):
        assert "same token" in lesson3.check(1, lambda s, p=prompt: p.format(s), tiny_lens).text


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda m: torch.full((len(m),), m.shape[1] - 1), "last padded token, not the last real"),
        (lambda m: torch.full((len(m),), -1), "-1 is the last position of the row"),
        (lambda m: m.shape[1] - 1, "This is one number, 4, for all prompts"),
        (lambda m: m.sum(1), "number of real tokens. Positions count from 0"),
        (lambda m: m.sum(1) - 1, "only where padding is on the right"),
        (lambda m: m.argmax(1), "the first real token"),
        (lambda m: m.argmin(1), "first padding"),
        (lambda m: m.sum(0) - 1, "work along the other axis"),
        (lambda m: m.sum() - 1, "This is one number"),
        (
            lambda m: torch.where(m[:, -1] > 0, 4, m.sum(1) - 1),
            "with other lengths it is not",
        ),
    ],
)
def test_lesson_3_wrong_last_tokens(answer, message):
    with pytest.raises(NotSolvedError, match=message):
        lesson3.check(2, answer)


def test_lesson_3_takes_another_way_to_the_last_token():
    lesson3.check(2, lambda m: m.shape[1] - 1 - m.flip(1).argmax(1))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda h, m: h.mean(1), "padding is counted like words"),
        (lambda h, m: (h * m[..., None]).mean(1), "you still divide by all positions"),
        (lambda h, m: (h * m[..., None]).sum(1), "This is the sum"),
        (lambda h, m: (h * m[..., None]).sum(1) / m.sum(), "of the whole batch"),
        (lambda h, m: h.mean(0), "over the prompts of the batch"),
        (lambda h, m: h.mean(2), "over the dimensions"),
        (lambda h, m: h[torch.arange(len(h)), m.sum(1) - 1], "last real token's vector"),
        (lambda h, m: (h * m[..., None]).amax(1), "the largest value over the tokens"),
        (
            lambda h, m: (h[:, 0] + h[torch.arange(len(h)), m.sum(1) - 1]) / 2,
            "on random vectors it is not the mean",
        ),
    ],
)
def test_lesson_3_wrong_means(answer, message):
    with pytest.raises(NotSolvedError, match=message):
        lesson3.check(3, answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x, y: (x * y).sum(-1), "This is the dot product"),
        (lambda x, y: (x * y).sum(-1) / x.norm(dim=-1), "one length only"),
        (lambda x, y: (x * y).sum(-1) / y.norm(dim=-1), "one length only"),
        (lambda x, y: (x * y).sum(-1) / (x.norm() * y.norm()), "of all vectors together"),
        (lambda x, y: (x * y).sum(-1) / ((x**2).sum(-1) * (y**2).sum(-1)), "squared lengths"),
        (lambda x, y: x @ y.T, "every vector of x with every vector of y"),
        (lambda x, y: 1 - torch.cosine_similarity(x, y), "distance 1 - cos"),
        (lambda x, y: torch.cosine_similarity(x, y, dim=0), "summed over the pairs"),
        (lambda x, y: torch.cosine_similarity(x, y).acos(), "its cosine is asked for"),
        (
            lambda x, y: (
                (torch.cosine_similarity(x, y) * 2**0.5).round() / 2**0.5
                if (torch.cosine_similarity(x, y).abs() - 0.5**0.5).abs().min() > 1e-6
                else torch.cosine_similarity(x, y)
            ),
            "on random vectors it is not the cosine",
        ),
    ],
)
def test_lesson_3_wrong_cosines(answer, message):
    with pytest.raises(NotSolvedError, match=message):
        lesson3.check(4, answer)


def without_ties(differences):
    n = len(differences)
    return 100 * (1 - 6 * (differences**2).sum() / (n * (n**2 - 1)))


def ranks_without_ties(values):
    return np.argsort(np.argsort(np.asarray(values), kind="stable"), kind="stable")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda s, g: 100 * np.corrcoef(s, g)[0, 1], "Pearson's correlation of the values"),
        (lambda s, g: np.corrcoef(s, g)[0, 1], "Pearson's correlation of the values"),
        (lambda s, g: dl.spearman(s, g) / 100, "x 100; yours is between -1 and 1"),
        (lambda s, g: abs(dl.spearman(s, g)), "keep the sign"),
        (lambda s, g: without_ties(rankdata(s) - rankdata(g)), "only where no ranks are tied"),
        (
            lambda s, g: 100 * np.corrcoef(np.argsort(s.numpy()), np.argsort(g.numpy()))[0, 1],
            "`argsort` lists",
        ),
        (
            lambda s, g: 100 * np.corrcoef(ranks_without_ties(s), ranks_without_ties(g))[0, 1],
            "Ties share their mean rank",
        ),
        (lambda s, g: np.corrcoef(s, g), "must be a number"),
        (
            lambda s, g: dl.spearman(s, g) if len(s) < 6 else 100 * np.corrcoef(s, g)[0, 1],
            "on random lists with ties",
        ),
    ],
)
def test_lesson_3_wrong_correlations(answer, message):
    with pytest.raises(NotSolvedError, match=message):
        lesson3.check(5, answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda v: (v >= 0).all(0), r"You compare with >= : the consensus is strict \(Eq. 11\)"),
        (lambda v: (v > 0).any(0), "one language that is positive"),
        (lambda v: v.mean(0) > 0, "a positive mean"),
        (lambda v: (v > 0).float().mean(0) > 0.5, "A majority is not enough"),
        (lambda v: (v > 0).all(0) | (v < 0).all(0), "the same sign"),
        (lambda v: v[0] > 0, "the first language only"),
        (lambda v: (v > 0).all(1), "one value per language"),
        (lambda v: v > 0, "where is the 'for every language'"),
        (lambda v: (v > 0).all(), "not one for all"),
        (lambda v: (v > 0).all(0).float(), "dtype bool"),
        (lambda v: (v[0] > 0) & (v[1] > 0) & (v[2] > 0), "stopped .* IndexError"),
    ],
)
def test_lesson_4_wrong_consensus(answer, message):
    with pytest.raises(NotSolvedError, match=message):
        lesson4.check(1, answer)


def chosen(keys, k):
    return torch.zeros(len(keys), dtype=torch.bool).scatter(0, keys.topk(k).indices, True)


def best(keys, Ix, k):
    return chosen(keys.masked_fill(~Ix, -1e9), k) & Ix


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda v, Ix, k: chosen(v.mean(0), k), "not in I.x.: only dimensions of the consensus"),
        (lambda v, Ix, k: chosen(v.mean(0), k) & Ix, "the dimensions 2 and 4 are chosen"),
        (
            lambda v, Ix, k: chosen(v[0].masked_fill(~Ix, -1e9), k) & Ix,
            "rank by the first language",
        ),
        (lambda v, Ix, k: chosen(-v.mean(0).masked_fill(~Ix, 1e9), k) & Ix, "the k smallest"),
        (lambda v, Ix, k: Ix & (Ix.cumsum(0) <= k), "without ranking them"),
        (lambda v, Ix, k: Ix, "k is not used"),
        (lambda v, Ix, k: v.mean(0).masked_fill(~Ix, -1e9).topk(k).indices, "These are indices"),
        (lambda v, Ix, k: chosen(v.mean(0).masked_fill(~Ix, -1e9), k), "must not be filled up"),
        (lambda v, Ix, k: best(v.amin(0), Ix, k), "You rank by the smallest value"),
        (lambda v, Ix, k: best(v.amax(0), Ix, k), "You rank by the largest value"),
        (lambda v, Ix, k: best(v[-1], Ix, k), "You rank by the last language"),
        (lambda v, Ix, k: best(v.median(0).values, Ix, k), "by the median over the languages"),
    ],
)
def test_lesson_4_wrong_selection(answer, message):
    with pytest.raises(NotSolvedError, match=message):
        lesson4.check(2, answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda a, b: a & b, "This is the intersection"),
        (lambda a, b: a ^ b, "You leave out what both have"),
        (lambda a, b: a.int() + b.int(), "counts, | joins"),
        (lambda a, b: a, r"S\(x\) alone"),
        (lambda a, b: b, r"S\(y\) alone"),
        (lambda a, b: ~(a | b), "complement"),
        (lambda a, b: (a | b) & (torch.arange(len(a)) < 4), "on random sets it is not"),
    ],
)
def test_lesson_4_wrong_joint_sets(answer, message):
    with pytest.raises(NotSolvedError, match=message):
        lesson4.check(3, answer)


def restricted(x, y, U):
    return torch.cosine_similarity(x[U], y[U], dim=0)


def centred_on(x, y, U):
    return restricted(x - x[U].mean(), y - y[U].mean(), U)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x, y, U: torch.cosine_similarity(x, y, dim=0), "U is not used"),
        (lambda x, y, U: (x * y * U).sum() / (x.norm() * y.norm()), "those of the whole vectors"),
        (lambda x, y, U: (x * y * U).sum(), "the dot product on U"),
        (lambda x, y, U: restricted(x, y, ~U), "the dimensions outside U"),
        (centred_on, "You subtract the mean of what is left on U: that is a correlation"),
        (lambda x, y, U: restricted(x - x.mean(), y - y.mean(), U), r"For \(3, 4, 0\)"),
        (lambda x, y, U: restricted(x, y, U) if U.any() else None, "function returns None. Return"),
        (lambda x, y, U: restricted(x.abs(), y.abs(), U), "on random vectors it is not"),
        (lambda x, y, U: (x * U) * (y * U), "must be one number"),
        (restricted, "With an empty joint set you return 0.*A silent 0"),
        (lambda x, y, U: (x[U] @ y[U]) / (x[U].norm() * y[U].norm() + 1e-9), "A silent 0"),
    ],
)
def test_lesson_4_wrong_similarities(answer, message):
    with pytest.raises(NotSolvedError, match=message):
        lesson4.check(4, answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda v: (v > 0).sum(2).float().mean(0), "each language by itself"),
        (lambda v: (v > 0).long().cumprod(1).sum((0, 2)), "add the sizes over the texts"),
        (lambda v: (v > 0).float().cumprod(1).mean((0, 2)), "the share of the dimensions"),
        (lambda v: (v > 0).long().cummax(1)[0].sum(2).float().mean(0), "in one of the first m"),
        (lambda v: (v > 0).long().cumprod(1).sum(2), "The mean over the texts is missing"),
        (lambda v: (v > 0).all(1).sum(1).float(), "one number per text"),
        (lambda v: (v > 0).all(1).sum(1).float().mean(), "one for each number of languages"),
        (lambda v: (v.mean(0) > 0).long().cumprod(0).sum(1), "each text has a set of its own"),
        (
            lambda v: (v > 0).float().cumprod(1).sum((0, 2)) / 2,
            "on random vectors it is not the mean",
        ),
    ],
)
def test_lesson_4_wrong_sizes(answer, message):
    vectors = torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(NotSolvedError, match=message):
        lesson4.check(5, answer, vectors)


def test_recorded_activations_are_those_that_capture_reads(tiny_lens):
    prompts = dl.wrap(["A cat.", "A much longer sentence about a dog."])
    captured = dl.capture(tiny_lens, prompts, "resid", layers=1)["resid"]
    for side in ("right", "left"):
        seen, mask = record(tiny_lens, prompts, ["blocks.1.hook_resid_post"], side)
        whole = seen["blocks.1.hook_resid_post"]
        for row in range(2):
            last = int(mask[row].nonzero().max())
            torch.testing.assert_close(whole[row, last], captured[row], atol=1e-4, rtol=1e-4)
    assert "".join(tokens_of(tiny_lens, "A cat.")) == "A cat."
