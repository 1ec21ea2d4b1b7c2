"""Checks of lesson 4: consensus over languages, the joint set, and the similarity on it."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from checks.frame import (
    Lesson,
    NothingError,
    WrongError,
    drawn,
    require,
    require_close,
    require_same,
    require_tensor,
)
from checks.quiz4 import QUESTIONS

LESSON = Lesson(4, "Consensus and the joint set", QUESTIONS)
check, hint, progress, quiz = LESSON.check, LESSON.hint, LESSON.progress, LESSON.quiz

CENTRED = (
    "You subtract the mean of what is left on U: that is a correlation. Eqs. 16-17 take the values "
    "as they are."
)


def _mask(
    value: object, d: int, name: str, shapes: Mapping[tuple[int, ...], str] | None = None
) -> Tensor:
    """Return a value that is a tensor of d times True or False."""
    one = {(): "A set is a mask: one True or False per dimension, not one for all."}
    found = require_tensor(value, (d,), name, one | dict(shapes or {}))
    require(
        found.dtype == torch.bool,
        f"{name} must be a mask of True and False (dtype bool), but its dtype is {found.dtype}.",
    )
    return found


@LESSON.exercise(
    1,
    "The consensus set I(x)",
    hints=(
        "A dimension is in I(x) if it is positive in every language: one comparison, and one "
        "'for every' over the axis of the languages.",
        "vectors is [m, d]: the languages are axis 0. The method .all(dim=…) is the 'for every'.",
        "(vectors > 0).all(dim=0)",
    ),
)
def consensus(consensus_set: Callable[[Tensor], Tensor]) -> str:
    """Test strictness and 'for every' on dimensions that show one mistake each."""
    in_three_languages = (  # one row per dimension
        (1, 2, 3),
        (2, 0, 1),  # one is 0
        (9, 9, -1),
        (-1, -2, -3),
        (0.01, 0.02, 0.01),
        (-9, 1, 1),  # a majority with a negative mean
        (-1, -1, 9),  # a minority with a positive mean
        (1, -2, -2),  # the first language alone
    )
    vectors = torch.tensor(in_three_languages, dtype=torch.float32).T
    positive = vectors > 0
    found = _mask(
        consensus_set(vectors),
        8,
        "I(x)",
        {
            (3,): "This is one value per language. The question is asked of each dimension, over "
            "the languages: work along axis 0 of [m, d].",
            (3, 8): "This still has an axis of languages: where is the 'for every language' of "
            "Eq. 11?",
        },
    )
    require_close(
        found,
        torch.tensor([True, False, False, False, True, False, False, False]),
        mistakes={
            "You compare with >= : the consensus is strict (Eq. 11). A dimension that is exactly 0 "
            "in a language says nothing there.": (vectors >= 0).all(0),
            "You ask for one language that is positive; the consensus asks for all of them.": (
                positive.any(0)
            ),
            "You ask for a positive mean. One language with a large value must not outvote one "
            "with a negative value.": vectors.mean(0) > 0,
            "A majority is not enough: every language must be positive.": positive.sum(0) > 1.5,
            "You ask for the same sign. Dimensions that are negative in every language do not "
            "count (Eq. 11).": positive.all(0) | (vectors < 0).all(0),
            "You look at the size of the values (abs), but the sign is what counts.": (
                vectors.abs() > 0
            ).all(0),
            "You look at the first language only.": positive[0],
            "This is the complement: these dimensions are not in I(x).": ~positive.all(0),
        },
        otherwise="Dimensions 0 and 4 of the example are positive in all three languages, and no "
        "other.",
    )
    one = torch.tensor([[0.5, -0.5, 0.0]])
    require(
        consensus_set(one).tolist() == [True, False, False],
        "With one language I(x) must be its positive dimensions.",
    )
    more = torch.cat([vectors, torch.tensor([[-1.0, 1, 1, 1, 1, 1, 1, 1]])])
    require(
        consensus_set(more).nonzero().flatten().tolist() == [4],
        "With a fourth language the answer is wrong: is a number of languages fixed in the text?",
    )
    require_same(
        consensus_set,
        lambda vectors: (vectors > 0).all(0),
        [drawn(seed, (m, 12)) for seed, m in enumerate((2, 3, 2, 4))],
        "I(x) of random vectors",
        otherwise="In the examples it is right, but on random vectors it is not 'positive in every "
        "language'.",
    )
    return "Eq. 11: strictly positive in every language. A further language can only remove some."


@LESSON.exercise(
    2,
    "The k best of them: S(x)",
    hints=(
        "Only dimensions of I(x) may be chosen. Give all others a key that can never win.",
        "The ranking key is the mean over the languages (Eq. 12). "
        "mean.masked_fill(~Ix, -torch.inf) leaves only those of I(x).",
        "Take the indices of the k largest keys, set them to True in a mask of False, and finally "
        "& Ix, so that nothing is filled up where I(x) has fewer than k.",
    ),
)
def selection(select: Callable[[Tensor, Tensor, int], Tensor]) -> str:
    """Test order, restriction to I, and what happens when I is smaller than k."""
    vectors = torch.tensor([[1.0, 19.0, 4.0, 5.0, 1.0, 4.5], [2.0, -2.0, 3.0, -1.0, 5.0, 0.5]])
    Ix = (vectors > 0).all(dim=0)
    # I(x) has the dimensions 0, 2, 4, 5, with the means 1.5, 3.5, 3.0, 2.5; dimension 1 has 8.5
    result = select(vectors, Ix, 2)
    if isinstance(result, Tensor) and result.dtype in (torch.int64, torch.int32):
        raise WrongError(
            "These are indices. S(x) is a mask of True and False, so that sets can be joined with "
            "| and counted with .sum()."
        )

    def members(*dimensions: int) -> Tensor:
        return torch.isin(torch.arange(6), torch.tensor(dimensions))

    require_close(
        _mask(result, 6, "S(x)"),
        members(2, 4),
        mistakes={
            "You took the k largest means of all dimensions. Dimension 1 has the largest, but it "
            "is not in I(x): only dimensions of the consensus may be chosen (Eq. 13).": (
                members(1, 2)
            ),
            "These are the k smallest of I(x); the largest are asked for.": members(0, 5),
            "You rank by the first language; the key is the mean over the languages (Eq. 12).": (
                members(2, 5)
            ),
            "You rank by the largest value over the languages, so one language decides; the key is "
            "the mean (Eq. 12).": members(4, 5),
            "You took the first k of I(x) in their order, without ranking them.": members(0, 2),
            "This is all of I(x): k is not used.": Ix,
        },
        otherwise="In the example I(x) has the dimensions 0, 2, 4, 5 with the means 1.5, 3.5, 3.0, "
        "2.5, so with k = 2 the dimensions 2 and 4 are chosen.",
    )
    many = _mask(select(vectors, Ix, 5), 6, "S(x)")
    require(
        int(many.sum()) == 4,
        f"I(x) has 4 dimensions here and k is 5, but your set has {int(many.sum())}: it must not "
        "be filled up from outside. |S(x)| = min(k, |I(x)|).",
    )
    require(bool((many == Ix).all()), "With k above |I(x)| the set must be I(x) itself.")
    examples = []
    for seed, (m, d, k) in enumerate(((2, 20, 3), (3, 200, 6), (2, 30, 5), (4, 400, 5))):
        random = drawn(seed, (m, d))[0]
        examples.append((random, (random > 0).all(0), k))

    def chosen(keys: Tensor, Ix: Tensor, k: int) -> Tensor:
        """Return the k dimensions of Ix with the largest keys."""
        order = keys.masked_fill(~Ix, -torch.inf).argsort(descending=True)
        return torch.zeros_like(Ix).scatter(0, order[:k], True) & Ix

    require_same(
        select,
        lambda vectors, Ix, k: chosen(vectors.mean(0), Ix, k),
        examples,
        "S(x) of random vectors",
        mistakes={
            "You rank by the smallest value over the languages. That is another idea of being "
            "strong in all of them; DySem's key is the mean (Eq. 12).": (
                lambda vectors, Ix, k: chosen(vectors.amin(0), Ix, k)
            ),
            "You rank by the last language; the key is the mean over all (Eq. 12).": (
                lambda vectors, Ix, k: chosen(vectors[-1], Ix, k)
            ),
            "You rank by the median over the languages; the key is the mean (Eq. 12).": (
                lambda vectors, Ix, k: chosen(vectors.median(0).values, Ix, k)
            ),
        },
        otherwise="In the example it is right, but on random vectors these are not the k "
        "dimensions of I(x) with the largest mean.",
    )
    none = _mask(select(vectors, torch.zeros(6, dtype=torch.bool), 2), 6, "S(x)")
    require(not none.any(), "Where I(x) is empty S(x) must be empty too.")
    return (
        "Eq. 13: |S(x)| = min(k, |I(x)|). A small consensus gives a small set, never a padded one."
    )


@LESSON.exercise(
    3,
    "The joint set U(x, y)",
    hints=(
        "A dimension counts for the pair if it counts for one text or for the other.",
        "| is 'or' for masks, & is 'and'.",
    ),
)
def joint(joint_set: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Test the four cases of membership, the empty set, and symmetry."""
    Sx = torch.tensor([True, True, False, False])
    Sy = torch.tensor([True, False, True, False])
    result = joint_set(Sx, Sy)
    if isinstance(result, Tensor) and result.dtype != torch.bool:
        raise WrongError(
            f"U must be a mask of True and False, but its dtype is {result.dtype}: + counts, "
            "| joins."
        )
    require_close(
        _mask(result, 4, "U(x, y)"),
        torch.tensor([True, True, True, False]),
        mistakes={
            "This is the intersection (and). U(x, y) is the union (Eq. 14): what only one of the "
            "texts says is exactly what tells them apart.": Sx & Sy,
            "You leave out what both have (exclusive or); the union keeps it.": Sx ^ Sy,
            "This is S(x) alone: sim(x, y) and sim(y, x) would differ.": Sx,
            "This is S(y) alone: sim(x, y) and sim(y, x) would differ.": Sy,
            "This is the complement of the union.": ~(Sx | Sy),
        },
        otherwise="A dimension is in U(x, y) if it is in S(x), in S(y), or in both.",
    )
    empty = torch.zeros(4, dtype=torch.bool)
    require(
        joint_set(Sx, empty).tolist() == Sx.tolist(),
        "Where S(y) is empty U must be S(x) alone.",
    )
    require_same(
        joint_set,
        torch.logical_or,
        [[mask > 0.5 for mask in drawn(seed, (d,), (d,))] for seed, d in enumerate((9, 20))],
        "U of random sets",
        otherwise="In the example it is right, but on random sets it is not their union.",
    )
    return "Eq. 14: the union. If one text has an empty set, the other's set is used alone."


@LESSON.exercise(
    4,
    "The similarity on the joint set",
    hints=(
        "Set everything outside U to 0 in both vectors; what is left is the cosine of lesson 3.",
        "vx * U does that. The lengths, too, must be those of the restricted vectors.",
        "With an empty U both lengths are 0, and 0 / 0 is NaN by itself: do not protect the "
        "division against it.",
    ),
)
def similarity(sim: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """Test a cosine by hand, independence of what is outside U, symmetry, and the empty set."""
    # On three dimensions and two outside: on two a centred cosine is 1 or -1, whatever they are.
    vx, vy = torch.tensor([3.0, 4.0, 0.0, 7.0, 1.0]), torch.tensor([4.0, 3.0, 0.0, -5.0, 2.0])
    U = torch.tensor([True, True, True, False, False])
    dot = float((vx * vy * U).sum())

    def right(x: Tensor, y: Tensor, U: Tensor) -> Tensor:
        return torch.cosine_similarity(x[U], y[U], dim=0)

    def centred(x: Tensor, y: Tensor, U: Tensor) -> Tensor:
        return right(x - x[U].mean(), y - y[U].mean(), U)

    require_close(
        sim(vx, vy, U),
        0.96,
        "The similarity",
        mistakes={
            "U is not used: this is the plain cosine over all dimensions.": float(
                torch.cosine_similarity(vx, vy, dim=0)
            ),
            "The dot product is restricted to U, but the lengths are those of the whole vectors "
            "(Eqs. 16-17 restrict both vectors first).": dot / float(vx.norm() * vy.norm()),
            "This is the dot product on U: divide by the lengths of the restricted vectors.": dot,
            "These are the dimensions outside U: it is the other way round.": right(vx, vy, ~U),
            CENTRED: centred(vx, vy, U),
        },
        otherwise="For (3, 4, 0) and (4, 3, 0) it is (12 + 12) / (5 * 5) = 0.96.",
    )
    for changed, message in (
        (sim(vx + 100 * ~U, vy, U), "What stands outside U must have no influence."),
        (sim(vy, vx, U), "sim(x, y) and sim(y, x) must be equal."),
    ):
        require_close(changed, 0.96, "The similarity", otherwise=message)
    examples = []
    for seed, d in enumerate((7, 12, 30)):
        x, y, chosen = drawn(seed, (d,), (d,), (d,))
        examples.append((x + 1, y + 1, chosen > 0))
    require_same(
        sim,
        right,
        examples,
        "The similarity of random vectors",
        mistakes={
            CENTRED: centred,
            "You subtract the mean of the whole vector first. Eqs. 16-17 take the values as they "
            "are.": lambda x, y, U: right(x - x.mean(), y - y.mean(), U),
        },
        otherwise="In the example it is right, but on random vectors it is not the cosine on U.",
    )
    try:
        nothing = float(sim(vx, vy, torch.zeros(5, dtype=torch.bool)))
    except NothingError:
        raise WrongError(
            "With an empty joint set your function returns None. Return NaN, float('nan'), a "
            "number that says that there is none: whoever adds up or counts needs a number."
        ) from None
    require(
        math.isnan(nothing),
        f"With an empty joint set you return {nothing:g}. No dimension was compared, so there "
        "is no similarity: return NaN, which can be counted. A silent 0 would be ranked as if "
        "it had been measured.",
    )
    return "Eqs. 16-17: the cosine of what is left on U, and no number where nothing is left."


@LESSON.exercise(
    5,
    "What a further language does",
    hints=(
        "For each number of languages j = 1 … m: I(x) over the first j languages of every text, "
        "its size, and the mean of the sizes.",
        "(vectors[:, :j] > 0).all(dim=1).sum(dim=1) are the n sizes for the first j languages.",
        "Collect the m means in a list and make a tensor of it: torch.tensor([...]).",
    ),
)
def shrinking(sizes: Callable[[Tensor], Tensor], vectors: Tensor) -> str:
    """Test known sizes, that they never grow, and the model's vectors."""
    small = torch.tensor(
        [
            [[1.0, 1, 1, 1], [1, 1, -1, 1], [1, -1, -1, 1]],
            [[1.0, 1, -1, -1], [1, 1, 1, 1], [-1, 1, 1, 1]],
        ]
    )  # n = 2, m = 3, d = 4; sizes 4, 3, 2 and 2, 2, 1
    require_close(
        sizes(small),
        torch.tensor([3.0, 2.5, 1.5]),
        "The mean sizes for m = 1, 2, 3",
        shapes={
            (2,): "This is one number per text: take the mean over the texts, for each m.",
            (4,): "This is one number per dimension.",
            (2, 3): "The mean over the texts is missing.",
            (3, 2): "The mean over the texts is missing.",
            (): "This is one number; there is one for each number of languages.",
        },
        mistakes={
            "You count each language by itself, not the consensus of the first m: a dimension "
            "must be positive in all of them.": torch.tensor([3.0, 3.5, 2.5]),
            "You add the sizes over the texts; #Dim. is their mean.": torch.tensor([6.0, 5.0, 3.0]),
            "You count dimensions that are positive in one of the first m languages.": (
                torch.tensor([3.0, 4.0, 4.0])
            ),
            "You take the mean of the vectors over the texts first; each text has a set of its "
            "own.": torch.tensor([2.0, 2.0, 0.0]),
            "This is the share of the dimensions, not their number.": torch.tensor(
                [0.75, 0.625, 0.375]
            ),
            "The order is turned round: the first number is for one language.": torch.tensor(
                [1.5, 2.5, 3.0]
            ),
        },
        otherwise="In the example I(x) has 4, 3, 2 and I(y) 2, 2, 1 dimensions for 1, 2, 3 "
        "languages: the means are 3, 2.5 and 1.5.",
    )
    require_same(
        sizes,
        lambda v: torch.stack(
            [(v[:, :j] > 0).all(1).sum(1).float().mean() for j in range(1, v.shape[1] + 1)]
        ),
        [[drawn(seed, shape)[0] + 0.5] for seed, shape in enumerate([(5, 2, 9), (3, 4, 16)])],
        "The mean sizes of random texts",
        otherwise="In the example it is right, but on random vectors it is not the mean of |I(x)| "
        "for the first 1, 2, ..., m languages.",
    )
    ours = sizes(vectors).double()
    require(
        len(ours) == vectors.shape[1] and bool((ours.diff() <= 0).all()),
        "On the model's vectors there must be one size for each m, and they cannot grow.",
    )
    d, m = vectors.shape[-1], vectors.shape[1]
    chance = d / 2**m
    return (
        f"Of d = {d} dimensions {ours[-1]:.0f} are left for m = {m}. If signs were tossed like "
        f"coins {chance:.0f} would be: the languages agree far more often than by chance."
        if ours[-1] > 1.5 * chance
        else f"Of d = {d} dimensions {ours[-1]:.0f} are left for m = {m}; coins would leave "
        f"{chance:.0f}."
    )
