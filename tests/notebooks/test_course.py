"""What all lessons have alike: badges, folded hints, quizzes; and the ten open problems."""

import importlib
import json
import re
from functools import partial

import nbformat
import pandas as pd
import pytest

import dysem_lab as dl
from checks.frame import Lesson
from checks.quiz import Question
from dysem_lab.errors import InputError
from tests.conftest import REPOSITORY
from tests.lesson_notebooks import TEACH, code_cells, notebook_of, solutions

LESSONS = range(9)
HEADING = re.compile(
    r"^### Exercise (\d+): .* \((●○○|●●○|●●●), (core|extra), (\d+) minutes?\)$", re.M
)


def lesson_of(number):
    return importlib.import_module(f"checks.lesson{number}").LESSON


def prose(number):
    """Return the markdown cells of a lesson."""
    cells = nbformat.read(notebook_of(number), as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "markdown"]


# Badges and hints


@pytest.mark.parametrize("number", LESSONS)
def test_the_core_exercises_of_a_lesson_take_20_minutes_or_less(number):
    text = "\n".join(prose(number))
    badges = {int(n): (badge, int(minutes)) for n, _, badge, minutes in HEADING.findall(text)}
    assert [*badges] == [*lesson_of(number).exercises]
    core = [minutes for badge, minutes in badges.values() if badge == "core"]
    assert 0 < len(core) < len(badges)
    assert sum(core) <= 20
    before = text.split("### Exercise 1")[0]
    said = "A **core** exercise is" if number == 0 else "(README.md#how-an-exercise-works)"
    assert said in before


def test_the_courses_page_says_how_an_exercise_works():
    page = (notebook_of(0).parent / "README.md").read_text(encoding="utf-8")
    said = page.split("\n## How an exercise works\n")[1].split("\n## ")[0]
    assert all(word in said for word in ("**Core**", "**extra**", "`hint(1)`", "`solutions/`"))


@pytest.mark.parametrize("number", LESSONS)
def test_the_hints_folded_under_an_exercise_are_those_that_hint_gives(number):
    for exercise, cell in ((HEADING.search(cell), cell) for cell in prose(number)):
        if exercise is None:
            assert "<details>" not in cell
            continue
        hints = lesson_of(number).exercises[int(exercise[1])].hints
        folded = [
            f"<details><summary>Hint {i}</summary>\n\n{hint}\n\n</details>"
            for i, hint in enumerate(hints, 1)
        ]
        assert cell.endswith("\n\n" + "\n\n".join(folded))
        assert cell.count("<details>") == len(hints)


# Quizzes

QUESTION = Question("Which?", "b", {"a": ("One.", "Not one."), "b": ("Two.", "Two it is.")})


@pytest.fixture
def lesson():
    made = Lesson(9, "Choosing", [QUESTION, QUESTION])

    @made.exercise(1, "Anything", hints=())
    def anything(value) -> str:
        return "done"

    return made


def test_an_answer_gets_its_sentence_and_an_open_question_stops_nothing(lesson):
    assert repr(lesson.quiz(1, "b")) == "✓ Question 1 of 2, b is right: Two it is."
    assert repr(lesson.quiz(1, " B ")) == "✓ Question 1 of 2, b is right: Two it is."
    assert repr(lesson.quiz(2, "a")) == "✗ Question 2 of 2, not a: Not one."
    for nothing in (..., None):
        still = lesson.quiz(2, nothing)
        assert repr(still).startswith("○ Question 2 of 2 is still open: Replace the `...` by the")
        assert "#999999" in still._repr_html_()
    for other in ("c", "", "ab", 2, ["b"]):
        told = lesson.quiz(1, other)
        assert told.text == f'The answers are "a", "b", and not {other!r}.'
    with pytest.raises(InputError, match="unknown question 3; choose one of: 1, 2"):
        lesson.quiz(3, "a")


def test_progress_counts_the_quiz_apart_from_the_exercises(lesson):
    lesson.quiz(1, "b")
    assert "0 of 1 exercises solved, 1 of 2 questions of the quiz\n" in repr(lesson.progress())
    assert "1 of 2 questions of the quiz" in lesson.progress()._repr_html_()
    lesson.quiz(1, "a")  # a right answer that is changed counts no more
    assert "0 of 2 questions" in repr(lesson.progress())
    lesson.check(1, 1)
    assert lesson.progress().complete
    assert "quiz" not in repr(Lesson(9, "Without").progress())


@pytest.mark.parametrize("number", LESSONS)
def test_the_notebook_asks_the_questions_of_the_quiz_and_leaves_them_open(number):
    questions = lesson_of(number).questions
    assert 3 <= len(questions) <= 5
    asked = [cell[cell.index("**1.**") :] for cell in prose(number) if "## Quiz (" in cell]
    asked += [cell for cell in prose(number) if re.match(r"\*\*\d\.\*\*", cell)]
    expected = [
        f"**{i}.** {question.text}\n\n"
        + "\n".join(f"- **{letter}** {text}" for letter, (text, _) in question.answers.items())
        for i, question in questions.items()
    ]
    assert asked == expected
    cells = [source for source, _ in code_cells(number) if source.startswith("quiz(")]
    assert cells == [f"quiz({i}, ...)" for i in questions]
    variables = {"quiz": lesson_of(number).quiz}
    for cell in cells:
        assert "still open" in repr(eval(cell, variables))


@pytest.mark.parametrize("number", LESSONS)
def test_solutions_answer_the_quiz_and_every_answer_has_a_sentence_of_its_own(number):
    lesson = lesson_of(number)
    solved = solutions(number, "quiz")
    assert [*solved] == [*lesson.questions]
    for i, question in lesson.questions.items():
        assert repr(eval(solved[i].strip(), {"quiz": lesson.quiz})).startswith("✓")
        assert [*question.answers] == ["a", "b", "c"]
        says = [sentence for _, sentence in question.answers.values()]
        assert len(set(says)) == 3
        texts = [text for text, _ in question.answers.values()]
        assert all(re.search(r"[.!]$", text) for text in [*says, *texts])
    assert len({question.right for question in lesson.questions.values()}) > 1
    assert f"{len(lesson.questions)} of {len(lesson.questions)} questions" in repr(
        lesson.progress()
    )


def says(lesson, question, letter):
    return lesson_of(lesson).questions[question].answers[letter][1]


def table(name):
    return pd.read_csv(REPOSITORY / "figures" / f"{name}.csv")


def test_the_numbers_of_the_quizzes_are_those_of_the_figures():
    sets = table("random_vs_semantic_gemma-3-270m_stsb-test-1379")
    sets = sets.assign(k=sets["k"].astype(float)).set_index(["k", "kind"])["spearman"]
    half = {kind: sets.loc[0.5, kind] for kind in ("random, shared", "random, per pair")}
    asked = lesson_of(4).questions[4].text
    assert f"218 dimensions {sets.loc[0.5, 'semantic'].item():.1f}" in asked
    assert f"640 dimensions {sets.loc[640, 'all dimensions'].item():.1f}" in asked
    assert f"for all pairs {half['random, shared'].mean():.1f}" in asked
    few = sets.loc[0.05, "random, shared"]
    assert f"{sets.loc[0.05, 'semantic'].item():.1f} on 44" in says(4, 4, "b")
    assert f"score {few.min():.1f} to {few.max():.1f}" in says(4, 4, "b")
    assert f"{half['random, per pair'].mean():.1f} so" in says(7, 1, "a")
    shared = half["random, shared"]
    assert f"from {shared.min():.1f} to {shared.max():.1f}" in says(7, 1, "c")
    parts = table("decomposition_gemma-3-270m_stsb-test-1379").set_index("method")["spearman"]
    assert f"English alone has {parts['A^L']:.1f}" in says(4, 4, "a")
    demo = table("decomposition_gemma-3-270m_demo-132").set_index("method")
    for method, name in (
        ("mean pooling", "mean pooling scores"),
        ("PromptEOL, N(h^L)", "PromptEOL"),
    ):
        score, low, high = demo.loc[method, ["spearman", "low", "high"]]
        assert f"{name} {score:.1f} [{low:.1f}, {high:.1f}]" in lesson_of(3).questions[1].text


def test_the_numbers_of_the_quizzes_are_those_that_arithmetic_gives():
    assert f"= {1 - 0.95**12:.2f}" in says(7, 3, "b")
    assert f"{270 / 41:.1f}" in says(6, 4, "c")
    assert f"{1 / 41:.3f}" in says(6, 3, "b")
    assert f"{100 * 1007 / 1379:.0f} %" in says(7, 2, "c")


def test_the_words_that_pairs_share_are_as_many_as_the_quiz_says():
    data = dl.load_data("demo")
    words = [set(re.findall(r"[a-z']+", text.lower())) for text in data.texts("en")]
    n = len(data)

    def shared(pairs):
        each = [len(words[i] & words[j]) / len(words[i] | words[j]) for i, j in pairs]
        return f"{100 * sum(each) / len(each):.0f} %"

    related = [(i, n + i) for i in range(n) if data.gold[i] >= 3.5]
    others = [(i, (i + shift) % (2 * n)) for shift in (7, 19, 41) for i in range(2 * n)]
    for letter in "bc":
        assert shared(related) in says(0, 2, letter)
        assert f"random pairs {shared(others)}" in says(0, 2, letter)


# Open problems


def open_problems():
    """Return the cells of the notebook of open problems."""
    notebook = nbformat.read(TEACH / "open_problems.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook.cells


STARTERS = [cell.source for cell in open_problems() if "starter" in cell.metadata.get("tags", [])]
ASKED = [cell.source for cell in open_problems() if re.match(r"## \d+\. ", cell.source)]


@pytest.fixture(scope="module")
def first_cell(tiny_folder, _one_thread):
    """Return the names that the first cell makes, of a random model and twenty pairs."""
    lens = dl.load_model(tiny_folder("Gemma2"))
    (source,) = (cell.source for cell in open_problems()[:2] if cell.cell_type == "code")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dl, "load_model", lambda name: lens)
        patch.setattr(dl, "Study", partial(dl.Study, pairs=20), raising=False)
        names = {}
        exec(compile(source, "<cell>", "exec"), names)
        yield names


@pytest.mark.filterwarnings("ignore")  # of random weights, some pairs have no similarity
@pytest.mark.parametrize("number", range(1, 11))
def test_a_starter_cell_needs_the_first_cell_alone_and_prints_a_number(number, first_cell, capsys):
    exec(compile(STARTERS[number - 1], "<cell>", "exec"), dict(first_cell))
    assert re.search(r"\d\.\d", capsys.readouterr().out)


def test_each_of_the_ten_says_why_it_is_open_what_would_answer_it_and_which_control_it_needs():
    assert len(ASKED) == len(STARTERS) == 10
    for number, text in enumerate(ASKED, 1):
        assert text.startswith(f"## {number}. ")
        parts = ("Question.", "Why it is open.", "An answer", "Control.")
        assert [text.count(f"**{part}**") for part in parts] == [1] * 4
    assert all(len(source.splitlines()) <= 20 for source in STARTERS)
    for cell in open_problems():
        assert cell.cell_type == "markdown" or not (cell.outputs or cell.execution_count)
        assert not re.search(r"dysem_lab\.|from dysem_lab", cell.source)


def test_what_an_open_problem_says_of_a_figure_is_what_the_figure_says():
    number = r"\d+\.\d+"
    for text in ASKED:
        why = re.search(r"\*\*Why it is open\.\*\* (.*)", text)[1]
        names = re.findall(r"`(\w+)`", re.sub(r"`dl\.\w+`", "", why))
        said, rows = "", []
        for name in names:
            files = [*(REPOSITORY / "figures").glob(f"{name}_*.json")]
            assert files, name
            said += " ".join(json.loads(file.read_text("utf-8"))["caption"] for file in files)
            for file in files:
                values = pd.read_csv(file.with_suffix(".csv")).select_dtypes("number").abs()
                rows += [{f"{of:.2f}" for of in row} for row in values.to_numpy()]
        why = re.sub(r"k = [\d.]+\d", "", why)
        # With its interval it is in a caption, or all three stand in one row of a table.
        for of_one in re.findall(rf"({number}) \[-?({number}), ({number})\]", why):
            in_caption = set(of_one) <= set(re.findall(number, said))
            assert in_caption or any(set(of_one) <= row for row in rows), (text, of_one)
        alone = re.sub(rf"{number} \[.*?\]", "", why)
        assert set(re.findall(number, alone)) <= set(re.findall(number, said)), text
