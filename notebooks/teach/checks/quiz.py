"""The quizzes of the course: what a question asks, and what is true of each answer to it.

A lesson's questions are in ``quiz<n>.py`` beside its checks. The notebook shows them as they are
here; its cell ``quiz(1, "b")`` tells whoever chose b what is true of b.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """One question on what a lesson measured.

    Attributes:
        text: What is asked.
        right: Letter of the right answer.
        answers: Letter → the answer, and the sentence that who chooses it is told.
    """

    text: str
    right: str
    answers: Mapping[str, tuple[str, str]]
