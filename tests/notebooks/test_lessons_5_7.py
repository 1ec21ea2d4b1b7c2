"""Lessons 5 to 7: solved and unsolved copies, and typical wrong answers with their messages."""

import re
from functools import partial

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

import dysem_lab as dl
from checks import lesson0, lesson5, lesson6, lesson7, lesson8
from checks.frame import NotSolvedError, Solved
from checks.lesson5 import forward
from checks.tools import attention_map, curves, shown, tokens_of
from dysem_lab.questions.finding import Facts
from tests.lesson_notebooks import code_cells, exercise_number, run_lesson, solutions

LESSONS = {5: lesson5, 6: lesson6, 7: lesson7}


@pytest.fixture(scope="module")
def tiny_gemma(tiny_folder):
    return dl.load_model(tiny_folder("Gemma2"))


@pytest.fixture
def _tiny_models(monkeypatch, tiny_lens, tiny_gemma):
    models = {"smollm2-135m-instruct": tiny_lens, "gemma-3-270m": tiny_gemma}
    monkeypatch.setattr(dl, "load_model", models.__getitem__, raising=False)
    # The prompts have a token per byte here, so the whole demo set would take long.
    monkeypatch.setattr(dl, "Study", partial(dl.Study, pairs=20), raising=False)


def told(lesson, number, *answers):
    """Return what a wrong answer is told."""
    with pytest.raises(NotSolvedError) as error:
        LESSONS[lesson].check(number, *answers)
    return " ".join(error.value.text.split())


@pytest.mark.usefixtures("_tiny_models", "_one_thread")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("lesson", LESSONS)
def test_a_solved_copy_passes_every_check_on_tiny_models(lesson):
    run_lesson(lesson, solutions(lesson))
    assert LESSONS[lesson].progress().complete


@pytest.mark.filterwarnings("ignore:alpha has no effect")
@pytest.mark.parametrize("lesson", [5, 6])
def test_a_solved_copy_passes_every_check_on_the_embedded_models(lesson, embedded, monkeypatch):
    for name in ("smollm2-135m-instruct", "gemma-3-270m"):
        embedded(name)  # skips where it is absent
    monkeypatch.setattr(dl, "load_model", embedded, raising=False)
    variables = run_lesson(lesson, solutions(lesson))
    assert LESSONS[lesson].progress().complete
    if lesson == 5:
        # The notebook says that only the last token changes, and only from the block on.
        change, layer = variables["change"], variables["layer"]
        assert float(change[:, :-1].max()) == 0
        assert float(change[:layer].max()) == 0
        assert float(change[layer:, -1].min()) > 0
        assert torch.allclose(variables["theirs"], variables["yours"], atol=1e-2)
    else:
        # The notebook says that the answer arrives in the last blocks, and is the most probable.
        assert variables["settled"](variables["probabilities"], variables["token"]) in (28, 29)


@pytest.mark.usefixtures("_tiny_models", "_one_thread")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("lesson", LESSONS)
def test_an_unsolved_copy_stops_at_the_first_exercise_and_says_what_to_do(lesson):
    with pytest.raises(NotSolvedError, match=r"Exercise 1, .* is still open: .*hint\(1\)"):
        run_lesson(lesson, {})


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_exercise_has_a_cell_a_solution_and_hints(lesson):
    cells = code_cells(lesson)
    numbers = [exercise_number(source) for source, is_exercise in cells if is_exercise]
    exercises = LESSONS[lesson].LESSON.exercises
    assert numbers == sorted(solutions(lesson)) == list(exercises) == list(range(1, 7))
    assert all(len(exercise.hints) == 3 for exercise in exercises.values())
    assert all(len(source.splitlines()) <= 20 for source, _ in cells)


# Lesson 5


SUFFIX = ' means in one word:"'


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda s: f'This sentence : "{s}"{SUFFIX}', "That is the normal prompt"),
        (lambda s: 'The irrelevant part of "{s}"' + SUFFIX, "is the f before the string missing"),
        (
            lambda s: f'The irrelevant part of "A man is playing a guitar."{SUFFIX}',
            "a prompt has to be made for each sentence",
        ),
        (lambda s: f'The irrelevant part of this sentence : "{s}" is', "both have to end alike"),
        (lambda s: f'The irrelevant part of "{s}"{SUFFIX} ', "to the last character"),
        (lambda s: f'The whole of this sentence : "{s}"{SUFFIX}', "asks for what is irrelevant"),
        (lambda s: [s], "A prompt is a string, this is a list"),
    ],
)
def test_wrong_auxiliary_prompts(answer, message):
    assert message in told(5, 1, answer)


def reading(point, take, shift=0):
    def read(lens, prompt, layer):
        seen = {}

        def keep(tensor, hook):
            seen["it"] = take(tensor)

        forward(lens, prompt, [(f"blocks.{layer + shift}.{point}", keep)])
        return seen["it"]

    return read


Z = "attn.hook_z"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (reading(Z, lambda t: t), "That is every token: take [0, -1]"),
        (reading(Z, lambda t: t[0]), "That is every token: take the last one"),
        (reading(Z, lambda t: t[:, -1]), "The batch axis is still there"),
        (reading(Z, lambda t: t[0, 0]), "z of the first token"),
        (reading(Z, lambda t: t[0].mean(0)), "mean of z over the tokens"),
        (reading(Z, lambda t: t[0, -1], shift=-1), "blocks count from 0"),
        (reading("attn.hook_v", lambda t: t[0, -1]), "value vectors of the key-value heads"),
        (reading("attn.hook_out", lambda t: t[0, -1]), "read `attn.hook_z`"),
        (
            lambda lens, prompt, layer: reading(Z, lambda t: t[0, -1])(lens, prompt, 0),
            "Block 2 was asked for and block 0 read",
        ),
        (
            lambda lens, prompt, layer: reading(Z, lambda t: t[0, -1])(lens, prompt, 1),
            "and block 1 read",
        ),
        (reading("attn.z", lambda t: t[0, -1]), "stopped in line"),
    ],
)
def test_wrong_readings_of_z(answer, message, tiny_lens):
    assert message in told(5, 2, answer, tiny_lens)


def scale(plus, minus, alpha):
    return alpha * (plus - minus)


def recover(plus, minus):
    return (plus - minus) * plus.norm() / (plus - minus).norm()


def by_head(plus, minus):
    difference = plus - minus
    norms = [vectors.norm(dim=-1, keepdim=True) for vectors in (plus, difference)]
    return difference * norms[0] / norms[1]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ((lambda p, m, a: a * (m - p), recover), "scale: the sign is turned round"),
        ((lambda p, m, a: a * p - m, recover), "and here only v⁺"),
        ((lambda p, m, a: p - a * m, recover), "and here only v⁻"),
        ((lambda p, m, a: p - m, recover), "the difference without α"),
        ((lambda p, m, a: p + a * (p - m), recover), "it is not added to it"),
        ((lambda p, m, a: recover(p, m), recover), "that is norm recovering"),
        ((scale, by_head), "the norm of each head by itself"),
        ((scale, lambda p, m: (p - m) / (p - m).norm()), "that has length 1"),
        ((scale, lambda p, m: (p - m) * m.norm() / (p - m).norm()), "as long as v⁻"),
        ((scale, lambda p, m: (p - m) * (p - m).norm() / p.norm()), "have changed places"),
        ((scale, lambda p, m: p - m), "D with its own length"),
        ((scale, lambda p, m: p), "that is v⁺ itself"),
        ((scale, lambda p, m: -recover(p, m)), "recover: the sign is turned round"),
        ((scale, lambda p, m: recover(p, m).sum()), "must have shape [3, 4], but has []"),
    ],
)
def test_wrong_differences(answers, message):
    assert message in told(5, 3, *answers)


def hooking(edit):
    """Return a `patch_last` whose hook edits a copy by edit(tensor, new) and returns it."""

    def patch_last(new):
        def replace(tensor, hook):
            edited = tensor.clone()
            edit(edited, new)
            return edited

        return replace

    return patch_last


def put(index):
    return hooking(lambda tensor, new: tensor.__setitem__(index, new))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (put(slice(None)), "replaced every token"),
        (put((slice(None), 0)), "replaced the first token"),
        (put(-1), "changed the last prompt of the batch at every token"),
        (hooking(lambda t, new: t[:, -1].add_(new)), "added the new vector to the old one"),
        (hooking(lambda t, new: None), "returns the tensor as it was"),
        (lambda new: lambda tensor, hook: None, "Is a `return` missing?"),
        (lambda new: lambda tensor, hook: new, "That is the new vector alone"),
        (lambda new: new, "has to return a function, the hook"),
        (lambda new: lambda tensor: tensor, "unexpected keyword argument 'hook'"),
        (hooking(lambda t, new: t[:, -1].fill_(-1)), "it has to become `new`"),
        (hooking(lambda t, new: t[:, -1].copy_(new.abs().neg())), "it has to become `new`"),
    ],
)
def test_wrong_patches(answer, message):
    assert message in told(5, 4, answer)


def test_a_patch_in_place_is_as_right_as_a_copy():
    def patch_last(new):
        def replace(tensor, hook):
            tensor[:, -1] = new

        return replace

    assert isinstance(lesson5.check(4, patch_last), Solved)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda p, c, k: p - k, "Divide by the whole way"),
        (lambda p, c, k: (p - c) / (k - c), "the other way round"),
        (lambda p, c, k: p / c, "subtract it from both first"),
        (lambda p, c, k: min(max((p - k) / (c - k), 0.0), 1.0), "You cut the result off"),
        (lambda p, c, k: min((p - k) / (c - k), 1.0), "You cut the result off at 1."),
        (lambda p, c, k: max((p - k) / (c - k), 0.0), "You cut the result off at 0."),
        (lambda p, c, k: (k - p) / (c - k), "The sign is turned round"),
        # Each of these agrees with another mistake on one example.
        (lambda p, c, k: abs((p - k) / (c - k)), "the absolute value"),
        (lambda p, c, k: p / k, "You divide patched by corrupted"),
        (lambda p, c, k: (p - k) / abs(c - k), "by the size of the way"),
        (lambda p, c, k: 100 * (p - k) / (c - k), "That is a percentage"),
        (lambda p, c, k: float((p - k) / (c - k)), "stopped in line"),  # not of a whole map
        (lambda p, c, k: (p + 1) / 4, "With clean = 0.5 and corrupted = -0.3, patched = 0.9"),
        (lambda p, c, k: (p - k) / (abs(c) + abs(k)), "With clean = 2 and corrupted = 1"),
    ],
)
def test_wrong_shares_recovered(answer, message):
    assert message in told(5, 5, answer)


def embeddings(lens, sentence, position, alphas=(1.0, 3.0)):
    return [
        dl.ContrastivePrompting(lens, layer=1, alpha=alpha, position=position)
        .encode([sentence])
        .vectors[0]
        for alpha in alphas
    ]


def effect(lens, sentence, position, alphas=(1.0, 3.0)):
    one, three = embeddings(lens, sentence, position, alphas)
    return float((three - one).norm() / one.norm())


def absolute(lens, sentence, position):
    one, three = embeddings(lens, sentence, position)
    return float((three - one).norm())


def as_cosine(lens, sentence, position):
    one, three = embeddings(lens, sentence, position)
    return float(one @ three / one.norm() / three.norm())


@pytest.mark.filterwarnings("ignore:alpha has no effect")
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (absolute, "Divide by the norm of the embedding"),
        (as_cosine, "is the cosine of the two embeddings"),
        (lambda m, s, p: effect(m, s, "heads"), "always measured at the heads"),
        (lambda m, s, p: effect(m, s, p, (3.0, 3.0)), "as if both embeddings had the same α"),
        (lambda m, s, p: effect(m, s, p, (1.0, 5.0)), "Compare α = 3 with α = 1"),
        (lambda m, s, p: embeddings(m, s, p)[1] - embeddings(m, s, p)[0], "must be one number"),
        (lambda m, s, p: p == "heads", "must be a number, but is bool"),
        (
            lambda m, s, p: as_cosine(m, s, p) if m.post_norms else effect(m, s, p),
            "should be 0 but for rounding",
        ),
        (lambda m, s, p: effect(m, lesson5.SENTENCES[0], p), "Compare α = 3 with α = 1"),
    ],
)
def test_wrong_effects_of_alpha(answer, message, tiny_lens, tiny_gemma):
    assert message in told(5, 6, answer, tiny_lens, tiny_gemma)


def test_the_patching_map_is_0_before_the_changed_word_and_1_at_the_last_token_late(tiny_lens):
    prompts = dl.wrap(["A cat sat.", "A dog sat."])
    blocks = range(tiny_lens.n_layers - 1)
    m, clean, corrupted = lesson5.patched_everywhere(tiny_lens, *prompts, blocks)
    changed = prompts[0].index("cat")  # one token per byte, and no token before the first
    assert clean == pytest.approx(-corrupted, abs=1e-5)
    assert torch.allclose(m[:, :changed], torch.tensor(corrupted), atol=1e-5)
    assert float(m[-1, -1]) == pytest.approx(clean, abs=1e-5)
    # Patching by hand at one place: the clean stream in the corrupted run.
    streams = [forward(tiny_lens, prompt) for prompt in prompts]

    def put_clean(tensor, hook):
        tensor[:, changed + 1] = streams[0][0, changed + 1]
        return tensor

    end = forward(tiny_lens, prompts[1], [("blocks.0.hook_out", put_clean)])[-2, -1]
    cosines = [
        float(torch.nn.functional.cosine_similarity(end, stream[-2, -1], dim=0))
        for stream in streams
    ]
    assert float(m[0, changed + 1]) == pytest.approx(cosines[0] - cosines[1], abs=1e-5)
    with pytest.raises(dl.DysemLabError, match="patching needs as many"):
        lesson5.patched_everywhere(tiny_lens, *dl.wrap(["A cat.", "A horse."]), blocks)


# Lesson 6


def through(norm=True, end=lambda logits: logits.softmax(-1)):
    def read_out(lens, stream):
        x = lens.bridge.ln_final(stream[None]) if norm else stream[None]
        return end(lens.bridge.unembed(x)[0])

    return read_out


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (through(norm=False), "The final norm is missing"),
        (through(end=lambda logits: logits), "These are logits"),
        (through(end=lambda logits: logits.log_softmax(-1)), "These are log-probabilities"),
        (through(end=lambda logits: logits.softmax(0)), "The softmax runs over the blocks"),
        (through(end=lambda logits: logits[-1].softmax(-1)), "one distribution for each block"),
        (through(end=lambda logits: logits[None].softmax(-1)), "batch axis"),
        (through(end=lambda logits: logits.flip(0).softmax(-1)), "the model's own prediction"),
    ],
)
def test_wrong_logit_lenses(answer, message, tiny_lens):
    assert message in told(6, 1, answer, tiny_lens)


def lead(probabilities, token):
    return (probabilities.argmax(-1) == token).tolist()


def settled(probabilities, token):
    on_top = lead(probabilities, token)
    return max((i + 1 for i, there in enumerate(on_top) if not there), default=0)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda p, t: lead(p, t).index(True), "it loses the lead again"),
        (lambda p, t: settled(p, t) + 1, "You count blocks from 1"),
        (lambda p, t: sum(lead(p, t)), "count the blocks at which it leads"),
        (lambda p, t: settled(p, t) - 1, "the last block at which it does not lead"),
        (
            lambda p, t: settled(p, t) if settled(p, t) < len(p) else -1,
            "it is never settled. Return the number of blocks",
        ),
        (lambda p, t: "late", "must be a number"),
        (lambda p, t: settled(p, 1), "do you use `token`"),
    ],
)
def test_wrong_blocks_of_settling(answer, message):
    assert message in told(6, 2, answer)


def ablating(index):
    """Return an `ablate` that sets index(head) of a copy to zero."""

    def ablate(head):
        def remove(tensor, hook):
            edited = tensor.clone()
            edited[index(head)] = 0
            return edited

        return remove

    return ablate


ALL = slice(None)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (ablating(lambda head: (ALL, ALL, head)), "ablates the head at every token"),
        (ablating(lambda head: (ALL, -1)), "ablates all heads"),
        (ablating(lambda head: (ALL, head)), "as the index of a token"),
        (ablating(lambda head: (ALL, -1, ALL, head)), "as the index of a value"),
        (ablating(lambda head: (ALL, 0, head)), "ablates the first token"),
        (
            ablating(lambda head: (ALL, -1, [i for i in range(3) if i != head])),
            "You keep this head and ablate all others",
        ),
        (lambda head: lambda tensor, hook: None, "changed nothing"),
        (
            ablating(lambda head: ALL if head is None else (ALL, -1, head)),
            "The hook for the FFN changes every token",
        ),
        (
            ablating(lambda head: (ALL, -1, 0 if head is None else head)),
            "sets one value to zero",
        ),
        (lambda head: 0, "has to return a function"),
        (ablating(lambda head: (ALL, -1, ALL if head is None else min(head, 1))), "head 2"),
    ],
)
def test_wrong_ablations(answer, message):
    assert message in told(6, 3, answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda b, a, t: (a[t] / b[t]).log(), "The sign is turned round"),
        (lambda b, a, t: (b[t] / a[t]).log().abs(), "the absolute value"),
        (lambda b, a, t: max(0.0, float((b[t] / a[t]).log())), "You cut the drop off at 0"),
        (lambda b, a, t: b[t] - a[t], "subtract logarithms"),
        (lambda b, a, t: b[t] / a[t], "That is the ratio."),
        (lambda b, a, t: a[t] / b[t], "the wrong way round"),
        (lambda b, a, t: a[t].log(), "logarithms of what is left"),
        (
            lambda b, a, t: b[t].log(),
            "from 0.5 to 0.25, the drop has to be 0.693",
        ),
        (lambda b, a, t: (b[t] / a[t]).log2(), "to base 2"),
        (lambda b, a, t: (b[t] / a[t]).log10(), "to base 10"),
        (lambda b, a, t: (b.max() / a[b.argmax()]).log(), "the most probable token"),
        (lambda b, a, t: (b[t] - a[t]) / b[t], "the share that was lost"),
        (lambda b, a, t: (b / a).log(), "must be one number"),
    ],
)
def test_wrong_effects(answer, message):
    assert message in told(6, 4, answer)


def drawn(vector, seed, draw=torch.randn):
    return draw(vector.shape, generator=torch.Generator().manual_seed(seed))


def as_long(draw, vector):
    return draw * vector.norm() / draw.norm()


LENGTH = torch.linspace(-2.0, 5.0, 400).norm()  # of the check's own example


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda v, s: drawn(v, s) / drawn(v, s).norm(), "It has length 1"),
        (lambda v, s: drawn(v, s), "A longer or shorter control is no fair one"),
        (lambda v, s: as_long(torch.randn(v.shape), v), "another vector each time"),
        (lambda v, s: as_long(drawn(v, 0), v), "Different seeds give the same direction"),
        (lambda v, s: as_long(drawn(v, s, torch.rand), v), "use torch.randn"),
        (lambda v, s: v[drawn(v, s).argsort()], "with its values shuffled"),
        (lambda v, s: v * drawn(v, s).sign(), "or with other signs"),
        (lambda v, s: as_long(v.norm() * drawn(v, s) / 9 + v, v), "still point along the vector"),
        (
            lambda v, s: drawn(v, s) * LENGTH / drawn(v, s).norm(),
            "Another vector has another l",
        ),
        (lambda v, s: as_long(drawn(torch.ones(400), s), v), "must have shape [3, 50]"),
    ],
)
def test_wrong_random_directions(answer, message):
    assert message in told(6, 5, answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda e, c: sum(abs(x) >= abs(e) for x in c) / len(c), "nine draws cannot show"),
        (lambda e, c: sum(abs(x) < abs(e) for x in c) / len(c), "You count the smaller ones"),
        (lambda e, c: (1 + sum(x >= e for x in c)) / (1 + len(c)), "compare sizes"),
        (lambda e, c: 1 + sum(abs(x) >= abs(e) for x in c), "divide by the number of draws"),
        (
            lambda e, c: (1 + sum(abs(x) > abs(e) for x in c)) / (1 + len(c)),
            "Equal counts as well",
        ),
        (lambda e, c: abs(e) / max(map(abs, c)), "so p = "),
        (lambda e, c: (1 + sum(abs(x) >= abs(e) for x in c)) / 10, "with other numbers of them"),
    ],
)
def test_wrong_p_values(answer, message):
    assert message in told(6, 6, answer)


def test_a_part_that_worked_against_the_token_is_not_said_to_have_helped():
    def loss(before, after, token):
        return (before[token] / after[token]).log()

    text = lesson6.check(4, loss).text
    assert "below 0 the part had worked against the token" in text
    assert "helped" not in text


def test_the_table_of_the_lens_has_one_numbering_from_0_as_the_exercise(tiny_lens):
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]])
    table = lesson6.lens_table(tiny_lens, probabilities)
    assert table.index.tolist() == [0, 1]
    assert table.index.name == "layer"
    assert table.columns.tolist() == ["rank 1", "rank 2", "rank 3"]
    assert table["rank 1"][0] == f"{tiny_lens.tokenizer.decode([0])!r} 0.70"


@pytest.mark.parametrize("far", [0.5, 9.0, -9.0])
def test_one_part_far_out_does_not_flatten_the_figure_of_all_others(far):
    effects = pd.DataFrame(
        {
            "layer": [0, 0, 1, 1],
            "head": [0, -1, 0, -1],
            "size": [1.0, 10.0, 2.0, 3.0],
            "effect": [0.2, far, -0.3, 0.4],
        }
    )
    figure = lesson6.effects_figure(effects, "facts")
    drawn = np.concatenate([trace.y for trace in figure.data])
    assert np.abs(drawn).max() <= 0.6
    assert [*figure.data[1].customdata] == [far, 0.4]  # what the pointer says
    assert [note.text for note in figure.layout.annotations] == (
        [f"block 1, FFN: {far:.1f}, off the scale"] if abs(far) > 1 else []
    )


def test_figures_of_lessons_fit_a_cell(tiny_lens):
    (prompt,) = dl.wrap(["A cat."])
    n_tokens = len(tokens_of(tiny_lens, prompt))
    numbers = {"size": [1.0, 2, 3], "effect": [0.1, 1, -0.5]}
    effects = pd.DataFrame({"layer": [0, 1, 1], "head": [0, 1, -1], **numbers})
    figures = [
        curves({"one": [1.0, 2.0]}, "title", "facts", "x", "y"),
        attention_map(torch.eye(n_tokens), tokens_of(tiny_lens, prompt), "title", "facts"),
        lesson5.token_map(torch.zeros(3, n_tokens), tiny_lens, prompt, range(3), "title", "unit"),
        lesson6.effects_figure(effects, "facts"),
        lesson0.place_figure(0.5, torch.rand(20), "facts"),
        lesson8.parts_figure(torch.rand(3, 4), "title", "facts", "unit"),
    ]
    assert all(figure.layout.width <= 832 for figure in figures)
    figure = go.Figure(layout={"width": 1000})
    finding = dl.Finding("one", pd.DataFrame(), figure, "caption", Facts(tiny_lens.facts))
    assert shown(finding) is finding
    assert finding.figure.layout.width <= 832


@pytest.mark.parametrize("lesson", range(9))
def test_a_finding_that_a_lesson_shows_fits_its_cell(lesson):
    for source, _ in code_cells(lesson):
        calls = re.findall(r"\b(?:dl\.(?:explain|ladder)\(|finding$|why$)", source.splitlines()[-1])
        assert not calls or "shown(" in source.splitlines()[-1] or ".table" in source, source


def test_part_effects_are_those_of_whole_passes_with_the_same_hook(tiny_lens):
    prompt, ablate, log = lesson6.PROMPTS[0], ablating(lambda h: (ALL, -1, h)), []

    def either(head):
        return ablate(head) if head is not None else ablating(lambda _: (ALL, -1))(None)

    def note(before, after, token):
        log.append(after)
        return float(before[token] - after[token])

    table = lesson6.part_effects(tiny_lens, prompt, 7, either, note)
    assert len(table) == tiny_lens.n_layers * (tiny_lens.n_heads + 1)
    for row in (1, 4, 9):  # two heads and an FFN
        layer, head = table.loc[row, ["layer", "head"]]
        point = f"blocks.{layer}.attn.hook_z" if head >= 0 else f"blocks.{layer}.hook_mlp_out"
        hook = (point, either(int(head) if head >= 0 else None))
        end = forward(tiny_lens, prompt, [hook])[-1:, -1]
        with torch.inference_mode():
            expected = through()(tiny_lens, end)[0]
        assert torch.allclose(log[row], expected, atol=1e-5)


# Lesson 7


def order(sizes, d, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(sizes), d, generator=generator).argsort(-1).argsort(-1)


def with_replacement(sizes, d, seed):
    generator = torch.Generator().manual_seed(seed)
    sets = torch.zeros(len(sizes), d, dtype=torch.bool)
    for row, size in enumerate(sizes.tolist()):
        sets[row, torch.randint(d, (size,), generator=generator)] = True
    return sets


def coins(sizes, d, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(sizes), d, generator=generator) < sizes[:, None] / d


def first_half(sizes, d, seed):
    return order(sizes, d, seed) + 20 * (torch.arange(d) > 60)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (with_replacement, "drawing the same one twice"),
        (coins, "choosing each dimension by a coin"),
        (lambda n, d, s: order(n, d, s) < 20, "has 20 dimensions and not 0"),
        (lambda n, d, s: (order(n, d, s) < n[:, None]).float(), "have to be True and False"),
        (lambda n, d, s: order(n, d, 0) < n[:, None], "Seeds 0 and 1 give the same sets"),
        (
            lambda n, d, s: torch.rand(len(n), d).argsort(-1).argsort(-1) < n[:, None],
            "nobody can repeat your result",
        ),
        (lambda n, d, s: (torch.arange(d) + s) % d < n[:, None], "have the same dimensions"),
        (lambda n, d, s: order(n, d, s)[0] < 20, "has a size of its own"),
        (
            lambda n, d, s: torch.nn.functional.pad(order(n, 80, s) < n[:, None], (0, 0))[:, :d],
            "of 17 they are not",
        ),
        (
            lambda n, d, s: first_half(n, d, s).argsort(-1).argsort(-1) < n[:, None],
            "prefers no dimension",
        ),
    ],
)
def test_wrong_controls(answer, message):
    assert message in told(7, 1, answer)


def score_of(table, method, layer=None):
    rows = table[table["method"] == method]
    return (rows if layer is None else rows[rows["output_layer"] == layer])["spearman"]


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        (lambda t, m: score_of(t, "plain", "final").item(), "what happens in papers"),
        (lambda t, m: score_of(t, "plain").mean(), "the mean of all plain rows"),
        (lambda t, m: score_of(t, "plain").max(), "the best plain prompt anywhere"),
        (lambda t, m: 0.0, "That is the score itself"),
        (lambda t, m: 67.0 if m == "CP-NS" else 60.0, "is not the gain over the plain prompt at"),
    ],
)
def test_wrong_baselines(baseline, message):
    assert message in told(7, 2, lambda t, m: score_of(t, m).item() - baseline(t, m))


def form(pair):
    return frozenset(sentence.strip().lower() for sentence in pair)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda dev, test: sum(pair in dev for pair in test), "sentences exchanged"),
        (
            lambda dev, test: sum(set(pair) in [set(d) for d in dev] for pair in test),
            "Capitals and blanks",
        ),
        (
            lambda dev, test: sum(form(p) <= frozenset().union(*map(form, dev)) for p in test),
            "Compare pairs, not sentences",
        ),
        (
            lambda dev, test: sum(any(form(p) & form(d) for d in dev) for p in test),
            "Compare pairs, not sentences",
        ),
        (lambda dev, test: len({form(p) for p in dev} & {form(p) for p in test}), "counts twice"),
        (
            lambda dev, test: sum(any(form(p) <= form(d) for d in dev) for p in test),
            "A sentence beside itself",
        ),
        (
            lambda dev, test: sum(form(p) in map(form, dev) for p in test) / len(test) / 2,
            "is no number of pairs",
        ),
    ],
)
def test_wrong_counts_of_seen_pairs(answer, message):
    assert message in told(7, 3, answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda dev, test: max(test.values()), "you had to look at the test labels"),
        (lambda dev, test: max(dev.values()), "You report the dev score"),
        (lambda dev, test: sum(test.values()) / len(test), "the mean over all of them"),
        (lambda dev, test: test[min(dev, key=dev.get)], "the worst one on dev"),
        (lambda dev, test: next(iter(test.values())), "the first one of the test scores"),
        (lambda dev, test: dev[max(test, key=test.get)], "choose on test and report dev"),
        (lambda dev, test: test[sorted(dev, key=dev.get)[-2]], "On dev fr is best"),
        (lambda dev, test: max(dev, key=dev.get), "must be a number, but is str"),
        (
            lambda dev, test: list(test.values())[int(np.argmax(list(dev.values())))],
            "go by the name",
        ),
        (lambda dev, test: test.get("fr", 50.0), "On dev system"),
    ],
)
def test_wrong_choices(answer, message):
    assert message in told(7, 4, answer)


def bootstrap(tails=(0.025, 0.975), paired=True, replace=True, share=1.0, end=np.quantile):
    def paired_interval(a, b, gold, seed):
        rng, n = np.random.default_rng(seed), len(gold)
        size = int(share * n)
        differences = []
        for _ in range(400):
            first = rng.choice(n, size, replace=replace)
            second = first if paired else rng.choice(n, size, replace=replace)
            differences.append(
                dl.spearman(a[first], gold[first]) - dl.spearman(b[second], gold[second])
            )
        return end(differences, tails)

    return paired_interval


def as_many(values, n):
    return np.resize(values, n)


def too_narrow(differences, tails):
    middle, spread = np.mean(differences), np.std(differences) / np.sqrt(120)
    return middle - 2 * spread, middle + 2 * spread


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (bootstrap(paired=False), "use the same pairs for both methods"),
        (bootstrap(replace=False), "Resample *with* replacement"),
        (bootstrap(tails=(0.05, 0.95)), "gives 90 %"),
        (bootstrap(tails=(0.25, 0.75)), "the middle 50 %"),
        (bootstrap(tails=(0.975, 0.025)), "is turned round"),
        (bootstrap(share=0.3), "have all n pairs"),
        (bootstrap(end=too_narrow), "as if divided by √n"),
        (bootstrap(end=lambda differences, tails: np.mean(differences)), "two numbers"),
        (
            lambda a, b, gold, seed: bootstrap()(a, b, gold, np.random.SeedSequence().entropy),
            "Is the seed used",
        ),
        (lambda a, b, gold, seed: bootstrap()(b, a, gold, seed), "Is it a - b"),
        (
            lambda a, b, gold, seed: bootstrap()(*(as_many(v, 120) for v in (a, b, gold)), seed),
            "is the number of pairs fixed in the text",
        ),
    ],
)
def test_wrong_intervals(answer, message):
    assert message in told(7, 5, answer)


def rung(table, name, vector="mean"):
    return table.set_index(["rung", "vector"])["spearman"][name, vector]


def share(mean="mean, all d", top="mean"):
    def of(table):
        source = rung(table, "source, all d", "source")
        return (rung(table, mean) - source) / (rung(table, "top k", top) - source)

    return of


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda t: 1 - share()(t), "the share of what comes after averaging"),
        (lambda t: rung(t, "mean, all d") / rung(t, "top k"), "You divide two scores"),
        (
            lambda t: rung(t, "mean, all d") - rung(t, "source, all d", "source"),
            "the gain of averaging in points",
        ),
        (lambda t: 1 / share()(t), "the wrong way round"),
        (share(top="source"), "take the vector 'mean'"),
        (share(mean="positive mean"), "you take 'positive mean'"),
        (lambda t: min(share()(t), 1.0), "You cut the share off at 1"),
        (lambda t: max(share()(t), 0.0), "You cut the share off at 0"),
        (lambda t: 100 * share()(t), "That is a percentage"),
    ],
)
def test_wrong_shares_of_averaging(answer, message):
    assert message in told(7, 6, answer, None) or message in told(7, 6, answer, object())


def test_the_phenomenon_table_averages_places_in_the_ranking():
    data = dl.load_data("demo", languages=["en"]).select([0, 1, 2, 3])
    table = lesson7.phenomenon_table(data, torch.tensor([0.1, 0.9, 0.5, 0.7]))
    kinds = [name.split("/")[0] for name in data.subset]
    assert sorted(table.index) == sorted(set(kinds))
    places = {0.1: 0.25, 0.5: 0.5, 0.7: 0.75, 0.9: 1.0}
    antonym = [i for i, kind in enumerate(kinds) if kind == "antonym"]
    expected = np.mean([places[[0.1, 0.9, 0.5, 0.7][i]] for i in antonym])
    assert table.loc["antonym", "model"] == pytest.approx(expected)
    assert int(table["pairs"].sum()) == 4


def test_equal_systems_flatter_whoever_chooses_on_the_test_pairs():
    dev, test = lesson7.equal_systems(n_systems=12, n_pairs=66)
    assert dev.shape == test.shape == (500, 12)
    assert abs(dev.mean() - test.mean()) < 1  # equally good
    chosen = test[np.arange(500), dev.argmax(axis=1)].mean()
    assert abs(chosen - test.mean()) < 2 < test.max(axis=1).mean() - chosen
    assert lesson7.chance_of_a_finding(12) == pytest.approx(1 - 0.95**12)


@pytest.mark.parametrize("lesson", LESSONS)
def test_messages_are_sentences(lesson):
    for exercise in LESSONS[lesson].LESSON.exercises.values():
        assert all(re.search(r"[.`?)'\]]$", hint) for hint in exercise.hints)
