"""The frame of the course's self-checks: an answer in, one helpful sentence out.

A lesson is a module with a `Lesson` and one checked function per exercise::

    # checks/lesson1.py
    LESSON = Lesson(1, "Hook points and the residual stream")
    check, hint, progress, quiz = LESSON.check, LESSON.hint, LESSON.progress, LESSON.quiz

    @LESSON.exercise(2, "Cumulative sums", hints=("What is A^2 for a^1 = 1, a^2 = 2?", "…"))
    def cumulative(add_up: Callable[[Tensor], Tensor]) -> str:
        each = torch.tensor([[1.0], [2.0], [4.0]])
        require_close(
            add_up(each),
            torch.tensor([[1.0], [3.0], [7.0]]),
            "cumulative",
            mistakes={"you summed over all blocks at once: …": torch.full((3, 1), 7.0)},
            otherwise="A^2 must be a^1 + a^2",
        )
        return "A^l grows by a^l at every block."  # the green sentence: what was shown

and a notebook whose exercise cells (cell tag "exercise") end with the call::

    from checks.lesson1 import check, hint, progress, quiz  # in the first cell

    def cumulative(each):  # an exercise cell, as the student finds it
        ...

    check(2, cumulative)

What a lesson can rely on:

* A check gets the answers as they were passed, tests properties of them (shapes, identities,
  invariances, hand-computed small cases), and returns a sentence; it fails through `WrongError`,
  most often raised by `require`, `require_tensor`, `require_number`, `require_close` (one case) or
  `require_same` (several, most often random: a wrong answer may agree on one). It never
  has to deal with an unsolved cell: ``...``, ``None`` and ``NotImplementedError`` are caught here,
  in variables and in what functions return, and so are errors inside a student's function, which
  are told with their line. Functions get copies of tensors: no answer can change a check's data.
  Whatever else a check needs (the model, captured vectors) the notebook passes after the answer.
* A solved exercise gives a `Solved`, shown in green as the value of the cell. Anything else raises
  `NotSolvedError`, which IPython shows as its sentence in red, without a traceback: "Run All" stops
  at the first open exercise.
* ``hint(n)`` gives the hints of an exercise one after another, ``progress()`` what is solved. The
  notebook has the same hints folded under each exercise, word for word.
* The questions of its quiz, ``Lesson(1, "…", QUESTIONS)``, are in ``quiz<n>.py``. ``quiz(1, "b")``
  always returns a `Note`, in grey while the answer is ``...``: no later cell needs an answer, so
  "Run All" goes on.

Solutions are ``notebooks/teach/solutions/lesson<n>.py``: the solved cells, each after a line
``# %% exercise <number>`` or ``# %% quiz <number>``. ``tests/lesson_notebooks.py`` runs a notebook
with or without them.

Over 400 lines, as whatever a check needs is imported from one place.
"""

import copy
import html
import inspect
import numbers
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any, NoReturn

import torch
from torch import Tensor

from checks.quiz import Question
from dysem_lab.errors import DysemLabError, InputError, choices

GREEN, RED, GREY = "#009E73", "#D55E00", "#999999"
TOLERANCE = 1e-4


class WrongError(DysemLabError):
    """What is wrong with an answer, in a sentence for the student."""


class NothingError(WrongError):
    """A function that gave a value for other inputs, and None for this one."""


class UnsolvedError(DysemLabError):
    """An answer that is still to be filled in."""


@dataclass(frozen=True)
class Note:
    """A sentence in a colour: HTML in JupyterLab, plain text elsewhere."""

    mark: str
    heading: str
    text: str
    colour: str

    def __repr__(self) -> str:
        return f"{self.mark} {self.heading}: {self.text}"

    def _repr_html_(self) -> str:
        text = html.escape(self.text).replace("\n", "<br>")
        return (
            f'<div style="border-left:4px solid {self.colour};padding:4px 12px">'
            f'<b style="color:{self.colour}">{self.mark} {html.escape(self.heading)}</b><br>'
            f"{text}</div>"
        )


class Solved(Note):
    """The answer has every property that was asked for."""


class NotSolvedError(DysemLabError):
    """An exercise that is wrong or still open; IPython shows it as a sentence."""

    def __init__(self, heading: str, text: str, todo: str) -> None:
        """Keep the sentence; `todo` says how to go on."""
        super().__init__(f"{heading}: {text} {todo}")
        self.heading, self.text, self.todo = heading, text, todo

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows in place of a traceback."""
        return [f"\x1b[1;31m✗ {self.heading}\x1b[0m", self.text, self.todo]


@dataclass(frozen=True)
class Exercise:
    """One exercise: what tests an answer, and its hints from gentle to plain."""

    title: str
    test: Callable[..., str]
    hints: tuple[str, ...]


@dataclass(frozen=True)
class Progress:
    """Which exercises of a lesson are solved, and how many questions of its quiz."""

    lesson: str
    titles: Mapping[int, str]
    solved: frozenset[int]
    answered: frozenset[int] = frozenset()
    n_questions: int = 0

    @property
    def complete(self) -> bool:
        """Whether every exercise is solved; the quiz is counted apart."""
        return self.solved == frozenset(self.titles)

    def __repr__(self) -> str:
        heading = f"{self.lesson}: {len(self.solved)} of {len(self.titles)} exercises solved"
        if self.n_questions:
            heading += f", {len(self.answered)} of {self.n_questions} questions of the quiz"
        lines = [heading]
        for number, title in self.titles.items():
            lines.append(f"  {'✓' if number in self.solved else '○'} {number}. {title}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<li style="color:{GREEN if number in self.solved else GREY};list-style:none">'
            f"{'✓' if number in self.solved else '○'} {number}. {html.escape(title)}</li>"
            for number, title in self.titles.items()
        )
        heading = html.escape(repr(self).splitlines()[0])
        return f'<b>{heading}</b><ul style="margin:4px 0;padding-left:8px">{rows}</ul>'


class Lesson:
    """The exercises of one lesson and what a student has solved of them.

    Args:
        number: Of the lesson.
        title: Of the lesson.
        questions: Of its quiz, numbered from 1.
    """

    def __init__(self, number: int, title: str, questions: Sequence[Question] = ()) -> None:
        """Begin without exercises; `exercise` adds them."""
        self.name = f"Lesson {number}, {title}"
        self.number = number
        self.exercises: dict[int, Exercise] = {}
        self.questions = dict(enumerate(questions, 1))
        self._solved: set[int] = set()
        self._answered: set[int] = set()
        self._hints_given: dict[int, int] = {}

    def exercise(
        self, number: int, title: str, hints: Sequence[str]
    ) -> Callable[[Callable[..., str]], Callable[..., str]]:
        """Return a decorator that makes a function the check of an exercise.

        The function takes what a student passes to ``check`` after the number, raises `WrongError`,
        and returns the sentence for a right answer.
        """

        def add(test: Callable[..., str]) -> Callable[..., str]:
            self.exercises[number] = Exercise(title, test, tuple(hints))
            return test

        return add

    def check(self, number: int, *answers: object) -> Solved:
        """Return a green sentence for a right answer.

        Args:
            number: Of the exercise.
            answers: What the exercise asks for, and what else its check needs.

        Raises:
            NotSolvedError: The answer is open or wrong; the message says what to look at.
            InputError: There is no such exercise, or it takes other arguments.
        """
        exercise = self._exercise(number)
        heading = f"Exercise {number}, {exercise.title}"
        try:
            inspect.signature(exercise.test).bind(*answers)
        except TypeError as error:
            names = ", ".join(inspect.signature(exercise.test).parameters)
            raise InputError(f"call it as check({number}, {names}): {error}") from None
        self._solved.discard(number)
        hint = f"hint({number}) gives a hint." if exercise.hints else ""
        try:
            text = exercise.test(*map(_guarded, answers))
        except UnsolvedError as unsolved:
            raise NotSolvedError(f"{heading} is still open", str(unsolved), hint) from None
        except WrongError as wrong:
            raise NotSolvedError(f"{heading} is not right yet", str(wrong), hint) from None
        except Exception as error:
            # An answer of a kind that the check did not foresee is no reason for a traceback.
            told = f"The check cannot use {describe(answers[0])}: {_named(error)}."
            raise NotSolvedError(f"{heading} is not right yet", told, hint) from error
        self._solved.add(number)
        return Solved("✓", f"{heading} is solved", text, GREEN)

    def hint(self, number: int) -> Note:
        """Return the next hint of an exercise, again the last one when there are no more."""
        exercise = self._exercise(number)
        if not exercise.hints:
            return Note("?", f"Exercise {number}", "There is no hint for this one.", GREY)
        given = min(self._hints_given.get(number, 0), len(exercise.hints) - 1)
        self._hints_given[number] = given + 1
        heading = f"Hint {given + 1} of {len(exercise.hints)} for exercise {number}"
        last = given + 1 == len(exercise.hints)
        more = f"\nA solution is in solutions/lesson{self.number}.py." if last else ""
        return Note("?", heading, exercise.hints[given] + more, "#0072B2")

    def quiz(self, number: int, answer: Any) -> Note:
        """Return what is true of an answer to a question of the quiz, whichever it is.

        Args:
            number: Of the question.
            answer: A letter; ``...`` is an open question.

        Raises:
            InputError: There is no such question.
        """
        if number not in self.questions:
            raise choices("question", number, sorted(self.questions))
        question = self.questions[number]
        heading = f"Question {number} of {len(self.questions)}"
        self._answered.discard(number)
        if answer is ... or answer is None:
            todo = f'Replace the `...` by the letter of your answer: quiz({number}, "a").'
            return Note("○", f"{heading} is still open", todo, GREY)
        letter = answer.strip().lower() if isinstance(answer, str) else ""
        if letter not in question.answers:
            letters = ", ".join(f'"{one}"' for one in question.answers)
            text = f"The answers are {letters}, and not {answer!r:.40}."
            return Note("✗", heading, text, RED)
        _, says = question.answers[letter]
        if letter != question.right:
            return Note("✗", f"{heading}, not {letter}", says, RED)
        self._answered.add(number)
        return Note("✓", f"{heading}, {letter} is right", says, GREEN)

    def progress(self) -> Progress:
        """Return which exercises are solved, and how many questions are answered rightly."""
        titles = {number: exercise.title for number, exercise in sorted(self.exercises.items())}
        solved, answered = frozenset(self._solved), frozenset(self._answered)
        return Progress(self.name, titles, solved, answered, len(self.questions))

    def _exercise(self, number: int) -> Exercise:
        if number not in self.exercises:
            raise choices("exercise", number, sorted(self.exercises))
        return self.exercises[number]


OPEN = "Replace the `...` in the cell by your answer and run the cell again."


def _guarded(answer: Any) -> Any:
    """Return the answer once it is known to be filled in; a function guards what it returns."""
    if answer is ... or answer is None:
        raise UnsolvedError(OPEN)
    if not isinstance(answer, FunctionType):
        return answer
    gave = False  # anything, for an earlier input

    def call(*arguments: Any) -> Any:
        nonlocal gave
        copies = [_copied(argument) for argument in arguments]
        try:
            value = answer(*copies)
        except (WrongError, UnsolvedError):
            raise
        except NotImplementedError:
            raise UnsolvedError(
                f"Replace the body of `{answer.__name__}` by yours and run the cell again."
            ) from None
        except Exception as error:
            _tell(answer, arguments, error)
        if value is None and gave:
            given = ", ".join(map(describe, arguments))
            raise NothingError(
                f"`{answer.__name__}` returned a value for other inputs, and None when it was "
                f"given {given}. Every way through it has to end in a `return` with a value."
            )
        if value is ... or value is None:
            raise UnsolvedError(
                f"`{answer.__name__}` returns nothing: its body is still to be written, "
                "or it ends without a `return`."
            )
        gave = True
        return value

    return call


def _copied(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return argument.clone()
    return copy.copy(argument) if isinstance(argument, list | dict) else argument


def _tell(function: FunctionType, arguments: Iterable[object], error: Exception) -> NoReturn:
    """Raise `WrongError` with where in the student's function an error happened."""
    lines = [
        line
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code is function.__code__
    ]
    where = f" in line {lines[0]} of its cell" if lines else ""
    given = ", ".join(describe(argument) for argument in arguments)
    raise WrongError(
        f"`{function.__name__}` stopped{where} when it was given {given}: {_named(error)}."
    ) from error


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).rstrip('.')}"


def describe(value: object) -> str:
    """Return what a value is, in a few words for a message."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    if callable(value):
        return "your function"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"


def require(condition: object, message: str) -> None:
    """Raise `WrongError` with the message unless the condition holds."""
    if not condition:
        raise WrongError(message)


def require_tensor(
    value: Any,
    shape: Sequence[int],
    name: str,
    mistakes: Mapping[tuple[int, ...], str] | None = None,
) -> Tensor:
    """Return a value that is a tensor of this shape.

    Args:
        value: What the student gave.
        shape: That it must have.
        name: What it is called in messages.
        mistakes: Shape of a typical mistake → what it says of the answer.

    Raises:
        WrongError: It is no tensor, or has another shape.
    """
    require(isinstance(value, Tensor), f"{name} must be a tensor, but is {describe(value)}.")
    found = tuple(value.shape)
    if found != tuple(shape):
        why = (mistakes or {}).get(found, "")
        message = f"{name} must have shape {list(shape)}, but has {list(found)}. {why}"
        raise WrongError(message.strip())
    return value


def require_number(value: Any, name: str) -> float:
    """Return a value that is one finite number, also as a tensor of one element.

    Raises:
        WrongError: It is anything else.
    """
    if isinstance(value, Tensor):
        require(
            value.numel() == 1,
            f"{name} must be one number, but is {describe(value)}: is an index or a mean missing?",
        )
        value = value.item()
    require(
        isinstance(value, numbers.Real) and not isinstance(value, bool),
        f"{name} must be a number, but is {describe(value)}.",
    )
    require(value == value, f"{name} is NaN: is there a division by zero?")
    return float(value)


def require_close(
    found: Any,
    expected: Tensor | float,
    name: str | None = None,
    *,
    otherwise: str,
    shapes: Mapping[tuple[int, ...], str] | None = None,
    mistakes: Mapping[str, Tensor | float] | None = None,
    tolerance: float = TOLERANCE,
) -> Any:
    """Return a value that agrees with another one.

    Args:
        found: What the student gave.
        expected: What a property or a case computed by hand says that it must be.
        name: What it is called in messages about its kind and shape; None where these were tested
            before.
        otherwise: Message where no mistake explains the value.
        shapes: Shape of a typical mistake → what it says of the answer.
        mistakes: Message → the value that the mistake gives, or anything of another shape; the
            first that agrees is told.
        tolerance: Largest error, relative to the largest expected value.

    Raises:
        WrongError: It is of another kind or shape, or does not agree; names a typical mistake
            where one explains it.
    """
    if name and isinstance(expected, Tensor):
        found = require_tensor(found, expected.shape, name, shapes)
    elif name:
        found = require_number(found, name)
    if _agree(found, expected, tolerance):
        return found
    for message, value in (mistakes or {}).items():
        if _agree(found, value, tolerance):
            raise WrongError(message)
    raise WrongError(otherwise)


def require_same(
    answer: Callable[..., Any],
    right: Callable[..., Tensor | float],
    examples: Iterable[Sequence[Any]],
    name: str,
    *,
    otherwise: str | Callable[..., str],
    shapes: Mapping[tuple[int, ...], str] | None = None,
    mistakes: Mapping[str, Callable[..., Any]] | None = None,
    tolerance: float = TOLERANCE,
) -> None:
    """Test a student's function on several examples, as a wrong one may agree on one of them.

    Args:
        answer: The function.
        right: What it must return, by another way of computing it.
        examples: The arguments of each call: two or more, most often drawn at random.
        name: As for `require_close`, as are shapes and tolerance.
        otherwise: Message where no mistake explains the values, or a function that makes one of
            the first example that is wrong.
        shapes: Of typical mistakes in the first example.
        mistakes: Message → what the mistake computes; told where it explains every example.
        tolerance: Largest error.

    Raises:
        WrongError: As for `require_close`.
    """
    given = [tuple(example) for example in examples]
    found: list[tuple[Any, Any]] = []
    for i, example in enumerate(given):
        expected, value = right(*example), answer(*map(_copied, example))
        if isinstance(expected, Tensor):
            known = shapes if i == 0 else None
            found.append((require_tensor(value, expected.shape, name, known), expected))
        else:
            found.append((require_number(value, name), expected))
    wrong_at = [i for i, of in enumerate(found) if not _agree(*of, tolerance)]
    if not wrong_at:
        return
    for message, wrong in (mistakes or {}).items():
        pairs = zip(found, given, strict=True)
        if all(_agree(value, wrong(*example), tolerance) for (value, _), example in pairs):
            raise WrongError(message)
    raise WrongError(otherwise(*given[wrong_at[0]]) if callable(otherwise) else otherwise)


def drawn(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Return tensors of normal numbers, the same ones for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def _agree(found: Tensor | float, expected: Tensor | float, tolerance: float) -> bool:
    a, b = (torch.as_tensor(value).detach().double() for value in (found, expected))
    if a.shape != b.shape:
        return False
    if not a.numel():
        return True
    scale = max(float(b.abs().max()), 1e-12)
    return bool((a - b).abs().max() <= tolerance * scale)
