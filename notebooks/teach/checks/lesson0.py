"""Lesson 0: the whole game, with two sentences of one's own."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from checks.frame import Lesson, WrongError, drawn, require, require_close, require_same
from checks.quiz0 import QUESTIONS
from checks.tools import fitted
from dysem_lab import LensModel, PromptEncoder, STSData, score
from dysem_lab.questions.explain import Explanation
from dysem_lab.questions.style import PALETTE, layout

LESSON = Lesson(0, "The whole game", QUESTIONS)
check, hint, progress, quiz = LESSON.check, LESSON.hint, LESSON.progress, LESSON.quiz

LEAST_WORDS = 3
RELATED = 3.5  # a score of the demo set from which on two sentences mean much the same
SHIFTS = (7, 19, 41)  # from one sentence of the demo set to one of another pair


def encoder_of(lens: LensModel) -> PromptEncoder:
    """Return what makes a vector of a sentence here: A^L at the last token of a one-word prompt."""
    return PromptEncoder(lens, output_layer="attn.sum")


def read(lens: LensModel, texts: Sequence[str]) -> Float[Tensor, "n d"]:
    """Return the vectors of sentences."""
    return encoder_of(lens).encode(texts).vectors


def cosine(x: Float[Tensor, "n d"], y: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Return how similar the vectors of each pair are, between -1 and 1."""
    return torch.cosine_similarity(x, y)


def random_pairs(vectors: Float[Tensor, "n d"]) -> Float[Tensor, " pairs"]:
    """Return the similarities of sentences of a set with others of it, of other pairs."""
    return torch.cat([cosine(vectors, vectors.roll(shift, 0)) for shift in SHIFTS])


def place_figure(similarity: float, others: Float[Tensor, " pairs"], facts: str) -> go.Figure:
    """Return the random pairs' similarities as a histogram, with the two sentences' own in it."""
    figure = go.Figure(go.Histogram(x=others.tolist(), nbinsx=40, marker_color=PALETTE[6]))
    figure.add_vline(
        x=similarity,
        line_color=PALETTE[0],
        line_width=3,
        annotation_text="your two sentences",
        annotation_position="top left",
    )
    figure.update_xaxes(title="similarity")
    figure.update_yaxes(title="random pairs")
    return fitted(layout(figure, "A number among others", facts, 380))


def beside_scores(vectors: Mapping[str, Float[Tensor, "texts d"]], data: STSData) -> pd.DataFrame:
    """Return how models do on the whole demo set.

    Args:
        vectors: Model → the vectors of the set's texts: the first ones of all pairs, then the
            second ones.
        data: The set.

    Returns:
        One row per model: ``place``, the mean place among random pairs of those with a score of 3.5
        or more, ``spearman`` (× 100, over all pairs) with its 95 % interval ``low`` to ``high``,
        and the numbers of ``pairs``.
    """
    rows = []
    for model, of_texts in vectors.items():
        own = cosine(of_texts[: len(data)], of_texts[len(data) :])
        lower = own[:, None] > random_pairs(of_texts)[None]
        scored = score(own, data.gold)
        related = torch.as_tensor(data.gold) >= RELATED
        rows.append(
            {
                "model": model,
                "place": float(lower[related].double().mean()),
                "related pairs": int(related.sum()),
                **{name: scored[name] for name in ("spearman", "low", "high")},
                "pairs": len(data),
            }
        )
    return pd.DataFrame(rows)


def _place(similarity: float, others: Tensor) -> float:
    return float((others < similarity).double().mean())


@LESSON.exercise(
    1,
    "Two sentences of your own",
    hints=(
        "Any two English sentences of a few words, in quotation marks. Let them say nearly the "
        "same in other words: then there is something to explain.",
        'first = "The storm uprooted dozens of trees." and another way to say it.',
    ),
)
def two_sentences(first: str, second: str) -> str:
    """Test that there are two different sentences."""
    for name, sentence in (("first", first), ("second", second)):
        require(
            isinstance(sentence, str),
            f"`{name}` must be a sentence in quotation marks, but is {sentence!r:.40}.",
        )
        n_words = len(sentence.split())
        require(
            n_words >= LEAST_WORDS,
            f"`{name}` has {n_words} of the {LEAST_WORDS} words that a sentence has here at least.",
        )
    require(
        first.strip().lower() != second.strip().lower(),
        "The two sentences are the same, so there is nothing to find out: say it in other words.",
    )
    return "Two sentences. Before you run the next cell: how similar are they, from 0 to 1?"


@LESSON.exercise(
    2,
    "High, compared with what?",
    hints=(
        "`others < similarity` is True or False for each random pair.",
        "The share of True is the mean of it: `.float().mean()`.",
        "return (others < similarity).float().mean()",
    ),
)
def place(of: Callable[[float, Tensor], Tensor | float]) -> str:
    """Test the share of numbers that are lower, on a small case and on random ones."""
    others = torch.tensor([0.9, 0.1, 0.5, 0.7])
    value = of(0.6, others)
    require_close(
        value,
        0.5,
        "place(0.6, others)",
        mistakes={"This is how many pairs are lower; divide by how many there are.": 2.0},
        otherwise="Of 0.9, 0.1, 0.5 and 0.7 two are lower than 0.6: the place is 2/4.",
    )
    n_of = (5, 12, 40)
    require_same(
        of,
        _place,
        [(0.3 * seed, drawn(seed, (n,))[0]) for seed, n in enumerate(n_of)],
        "place(similarity, others)",
        otherwise="On random numbers it is not the share of those that are lower.",
        mistakes={
            "This is the share of the pairs that are *more* similar; those that are less similar "
            "are asked for.": lambda similarity, others: 1 - _place(similarity, others),
            "This is how many pairs are lower, not their share: divide by how many there are.": (
                lambda similarity, others: _place(similarity, others) * len(others)
            ),
            "This is the distance from the mean. A place counts the pairs that are "
            "lower.": lambda similarity, others: similarity - float(others.mean()),
        },
    )
    return "A place needs no scale: 0.5 is like any two sentences, 1 is above all of them."


@LESSON.exercise(
    3,
    "Why? Read it off",
    hints=(
        "Look at the upper sentence: which of its words has the deepest orange?",
        "Hold the pointer over a token to see its number. A long word may be two tokens; either "
        "of them, or the whole word, will do. A word that stands there twice counts with both.",
    ),
)
def strongest(word: str, why: Explanation) -> str:
    """Test that the word is the one of the first sentence that adds most to the similarity."""
    require(isinstance(word, str), f"`word` must be a word in quotation marks, not {word!r:.40}.")
    typed = _bare(word)
    require(typed, "`word` is empty: type the word.")
    # A row is a token with one of the other sentence: the sum is what the picture colours.
    own = (
        why.table[why.table["of_text"].eq(True)]
        .groupby("position", as_index=False)
        .agg({"token": "first", "contribution": "sum"})
    )
    begins = own["token"].str.match(r"\s").cumsum()
    found = pd.DataFrame({"token": own["token"].map(_bare), "contribution": own["contribution"]})
    found["word"] = own["token"].groupby(begins).transform("".join).map(_bare)
    found = found[found["token"] != ""]
    added = found.groupby("token")["contribution"].sum()
    words = found.loc[(found["token"] == typed) | (found["word"] == typed), "word"]
    mine = found.loc[found["word"].isin(words), "token"]
    require(
        len(mine),
        f"{word!r} is no word of the first sentence. Its words: "
        f"{', '.join(found['word'].unique())}.",
    )
    require(
        added.idxmax() in set(mine),
        f"{word!r} adds {added[mine.unique()].max():+.3f}, and a token of the first sentence adds "
        f"more: {added.max():+.3f}. Look for the deepest orange.",
    )
    return (
        f"Through {added.idxmax()!r} comes {added.max():+.3f} of {why.similarity:.3f}. It looks "
        "like a reason. Whether it is one, the picture does not say."
    )


@LESSON.exercise(
    4,
    "One control",
    hints=(
        "You have written the function already: `place` takes a number and the random pairs.",
        "Both have to be those of the model without training: fresh_similarity, fresh_others.",
        "control = place(fresh_similarity, fresh_others)",
    ),
)
def control(value: float, similarity: float, others: Tensor) -> str:
    """Test that it is the place under random weights, among that model's own random pairs."""
    expected = _place(similarity, others)
    require_close(
        value,
        expected,
        "control",
        mistakes={
            "That is the similarity itself. Two models' numbers cannot be compared, places can: "
            "use place(…).": similarity,
        },
        otherwise="The control is the place of the model without training, among its own random "
        "pairs: place(fresh_similarity, fresh_others). A number of one model among the pairs of "
        "the other says nothing.",
    )
    return (
        f"A model that has learnt nothing puts your two sentences above {expected:.0%} of its "
        "random pairs. Whatever that is, it is not understanding."
    )


def _bare(word: str) -> str:
    """Return a word without what stands around it; a mark alone is itself."""
    word = word.strip().lower()
    return word.strip("\"'“”‘’.,;:!?()") or word


CLAIMS = {
    "A": "The model has understood that the two sentences mean the same.",
    "B": "The vectors of these two are nearer to each other than those of most random pairs, and "
    "a model without training shows how much of that needs no understanding.",
    "C": "Such a number says nothing at all about sentences.",
}


@LESSON.exercise(
    5,
    "What may you say now?",
    hints=(
        "Which of the three says no more than what you measured, and no less?",
        "A is about understanding: what did you measure about that? C forgets the table above.",
    ),
)
def claim(letter: str) -> str:
    """Test which claim the numbers support."""
    chosen = letter.strip().upper() if isinstance(letter, str) else letter
    require(chosen in CLAIMS, f'Answer "A", "B" or "C", not {letter!r:.40}.')
    if chosen == "A":
        raise WrongError(
            "A is what one would like to say. You measured that two vectors are near, and that is "
            "also what shared words do in a model that has learnt nothing."
        )
    if chosen == "C":
        raise WrongError(
            "C throws too much away: over the whole set the trained model puts related pairs "
            "higher than the one without training does, and random weights are what tells you."
        )
    return "No more than was measured, and beside a control. That is the whole game."
