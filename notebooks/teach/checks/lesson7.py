"""Lesson 7: being sceptical of a score."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from checks.frame import (
    Lesson,
    WrongError,
    require,
    require_close,
    require_number,
    require_same,
    require_tensor,
)
from checks.quiz7 import QUESTIONS
from dysem_lab import STSData, paired_difference, score, spearman

LESSON = Lesson(7, "Being sceptical", QUESTIONS)
check, hint, progress, quiz = LESSON.check, LESSON.hint, LESSON.progress, LESSON.quiz

Pair = tuple[str, str]


def phenomenon_table(data: STSData, similarity: Tensor) -> pd.DataFrame:
    """Return what one score hides: gold and model, for each phenomenon of the demo set.

    Args:
        data: Pairs whose subset begins with the phenomenon, such as "negation/news".
        similarity: Of the pairs.

    Returns:
        One row per phenomenon: ``pairs``, ``gold``, the mean gold score as a place among all pairs
        (0 is the lowest score, 1 the highest), ``model``, the mean place of the similarity, and
        ``model - gold``: above 0, the model finds these pairs more alike than their scores say.
    """
    table = pd.DataFrame(
        {
            "phenomenon": [name.split("/")[0] for name in data.subset],
            "gold": pd.Series(data.gold).rank(pct=True),
            "model": pd.Series(similarity.numpy()).rank(pct=True),
        }
    )
    grouped = table.groupby("phenomenon")
    means = grouped[["gold", "model"]].mean()
    means.insert(0, "pairs", grouped.size())
    means["model - gold"] = means["model"] - means["gold"]
    return means.sort_values("model - gold", ascending=False)


def chance_of_a_finding(n_comparisons: int, level: float = 0.05) -> float:
    """Return how probable at least one false finding is in independent comparisons."""
    return 1 - (1 - level) ** n_comparisons


def equal_systems(
    n_systems: int, n_pairs: int, n_worlds: int = 500, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Simulate systems that are equally good, scored on two sets of pairs.

    Every system is the gold score with fresh noise of the same strength, so any difference between
    them is luck.

    Args:
        n_systems: To choose from.
        n_pairs: Of each set.
        n_worlds: Repetitions.
        seed: Of the noise.

    Returns:
        Correlations × 100 on the dev and on the test pairs, each ``[world, system]``.
    """
    generator = np.random.default_rng(seed)

    def scores() -> np.ndarray:
        gold = generator.standard_normal((n_worlds, 1, n_pairs))
        noisy = gold + generator.standard_normal((n_worlds, n_systems, n_pairs))
        x, y = (values - values.mean(-1, keepdims=True) for values in (gold, noisy))
        return 100 * (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))

    return scores(), scores()


@LESSON.exercise(
    1,
    "Random sets of equal size",
    hints=(
        "Shuffle the d dimensions of each row and take the first sizes[i] of them.",
        "`torch.rand(n, d, generator=...)` gives every dimension a number; `.argsort(-1)` makes a "
        "random order out of it.",
        "The rank of a dimension is `order.argsort(-1)`; the dimensions whose rank is below "
        "`sizes[:, None]` are the set.",
    ),
)
def control(random_sets: Callable[[Tensor, int, int], Tensor]) -> str:
    """Test sizes, repeatability and that no dimension is preferred."""
    sizes, d = torch.tensor([0, 3, 40, 80, *[20] * 596]), 80
    first = require_tensor(
        random_sets(sizes, d, 0),
        (600, d),
        "random_sets(sizes, d, seed)",
        {
            (80,): "One set for all pairs is a good control too, but here each row has a size of "
            "its own."
        },
    )
    require(
        first.dtype == torch.bool,
        f"The sets have to be True and False (a boolean tensor), these are {first.dtype}.",
    )
    found = first.sum(-1)
    wrong = (found != sizes).nonzero().flatten()
    if len(wrong):
        row, nearly = int(wrong[0]), (found.double() - sizes).abs().mean() < 6
        raise WrongError(
            f"Row {row} has {int(found[row])} dimensions and not {int(sizes[row])}. "
            + (
                "On average the sizes may be right, but a control has to have the same size in "
                "each pair: choosing each dimension by a coin, or drawing the same one twice, does "
                "not give that."
                if nearly
                else "Each row has to have as many as sizes says."
            )
        )
    require(
        torch.equal(random_sets(sizes, d, 0), first),
        "The same seed gives other sets each time, so nobody can repeat your result: use "
        "`torch.Generator().manual_seed(seed)`.",
    )
    require(
        not torch.equal(random_sets(sizes, d, 1), first),
        "Seeds 0 and 1 give the same sets, so five draws would be one: use `seed`.",
    )
    require(
        not bool((first[4:] == first[4]).all()),
        "All rows of equal size have the same dimensions: draw anew for each pair.",
    )
    often = first[4:].double().mean(0)
    require(
        float(often.min()) > 0.12 and float(often.max()) < 0.4,
        f"Dimension {int(often.argmax())} is in {float(often.max()):.0%} of the sets of 20 and "
        f"dimension {int(often.argmin())} in {float(often.min()):.0%}; by chance all are in about "
        "25 %. A random set prefers no dimension.",
    )
    few = torch.tensor([2, 9, 0, 17])
    other = require_tensor(random_sets(few, 17, 3), (4, 17), "random_sets of 17 dimensions")
    require(
        other.sum(-1).tolist() == few.tolist(),
        "With 80 dimensions the sizes are right, but of 17 they are not: is a number fixed in the "
        "text?",
    )
    return "Equal size in every pair, no dimension preferred, and repeatable: a fair control."


@LESSON.exercise(
    2,
    "The baseline at the same layer",
    hints=(
        "Which row differs from the method's row in nothing but the method?",
        "Find the layer of the method: `layer = table.loc[table.method == method, "
        "'output_layer'].item()`.",
        "Then the row with `(table.method == 'plain') & (table.output_layer == layer)`, and the "
        "difference of the two `spearman`.",
    ),
)
def fair(fair_gain: Callable[[pd.DataFrame, str], float]) -> str:
    """Test that a gain is measured against the plain prompt at the method's own output layer."""
    table = pd.DataFrame(
        {
            "method": ["plain", "plain", "plain", "CP-NS", "CP-NR"],
            "output_layer": ["last", "penultimate", "final", "penultimate", "last"],
            "spearman": [60.0, 67.0, 64.0, 68.0, 71.0],
        }
    )
    value = {(m, o): s for m, o, s in table.itertuples(index=False)}
    for shuffle in (0, 1, 2):
        mixed = table.sample(frac=1, random_state=shuffle).reset_index(drop=True)
        first_plain = mixed.loc[mixed["method"] == "plain", "spearman"].iloc[0]
        for method, layer in (("CP-NS", "penultimate"), ("CP-NR", "last")):
            own = value[method, layer]
            expected = own - value["plain", layer]
            found = require_number(fair_gain(mixed.copy(), method), f"fair_gain(table, {method!r})")
            case = f"{method} scores {own:g} at layer {layer!r}"
            require_close(
                found,
                expected,
                mistakes={
                    f"{case}. You compare with the plain prompt after the final norm, "
                    f"{value['plain', 'final']:g}: then what the other layer is worth counts as "
                    "the method's gain. That is what happens in papers.": (
                        own - value["plain", "final"]
                    ),
                    f"{case}. You turned the sign round: a better method has a positive "
                    "gain.": -expected,
                    f"{case}. That is the score itself: subtract the baseline's.": own,
                    f"{case}. That is the gain in per cent of the baseline; differences in points "
                    "are asked for.": 100 * expected / value["plain", layer],
                    f"{case}. You compare with the mean of all plain rows; only the one at "
                    "the same layer is the baseline.": own - 191 / 3,
                    f"{case}. You compare with the best plain prompt anywhere. That is a fair "
                    "question too, but another one: what does the method add at its layer?": (
                        own - 67.0
                    ),
                    f"{case}. You take the first plain row of the table, whatever layer it is "
                    "from. Choose it by its layer.": own - float(first_plain),
                },
                otherwise=f"{case} and the plain prompt there {value['plain', layer]:g}: the gain "
                f"is {expected:g}, not {found:g}.",
            )
    rng = np.random.default_rng(0)
    layers = ["last", "penultimate", "final"]
    tables = []
    for _ in range(3):
        rows = [
            ("plain", layer, score)
            for layer, score in zip(layers, rng.uniform(40, 70, 3), strict=True)
        ]
        rows += [(f"M{i}", rng.choice(layers), rng.uniform(40, 70)) for i in range(3)]
        made_up = pd.DataFrame(rows, columns=["method", "output_layer", "spearman"])
        tables += [(made_up.sample(frac=1, random_state=0), f"M{i}") for i in range(3)]

    def right(table: pd.DataFrame, method: str) -> float:
        own = table[table["method"] == method].iloc[0]
        plain = table[table["method"] == "plain"].set_index("output_layer")["spearman"]
        return float(own["spearman"] - plain[own["output_layer"]])

    require_same(
        fair_gain,
        right,
        tables,
        "fair_gain(table, method)",
        otherwise="In one table it is right, but in made-up ones with other methods and scores it "
        "is not the gain over the plain prompt at the method's own layer.",
    )
    return "What is left is the method's own: the layer's share has cancelled."


@LESSON.exercise(
    3,
    "Pairs that were seen before",
    hints=(
        "A pair is the same with its sentences exchanged, and with other capitals or blanks at "
        "the ends. Bring both to one form first.",
        "`frozenset` forgets the order: frozenset(['a', 'b']) == frozenset(['b', 'a']).",
        "Make `known = {frozenset(s.strip().lower() for s in pair) for pair in dev}` and count the "
        "test pairs whose form is in it.",
    ),
)
def leaked(seen_before: Callable[[Sequence[Pair], Sequence[Pair]], int]) -> str:
    """Test the number of test pairs that the dev pairs contain, in any order and spelling."""
    dev = [("A dog runs.", "A cat sits."), ("It rains.", "The sun shines."), ("One.", "Two.")]
    cases: list[tuple[list[Pair], int, str]] = [
        ([("Three.", "Four.")], 0, "You count pairs that are in neither form among the others."),
        ([("A dog runs.", "A cat sits.")], 1, "A pair that is there word for word is not counted."),
        (
            [("A cat sits.", "A dog runs.")],
            1,
            "A pair with its sentences exchanged is the same pair, and you do not count it. Use a "
            "set of the two sentences.",
        ),
        (
            [("a dog runs.", " A cat sits. ")],
            1,
            "Capitals and blanks at the ends hide a pair from you: STS12 as MTEB has it is in "
            "lower case, STS-B is not. Use strip() and lower().",
        ),
        (
            [("A dog runs.", "The sun shines.")],
            0,
            "Both sentences were seen, but in different pairs, so this pair's rating was not. "
            "Compare pairs, not sentences.",
        ),
        (
            [("A dog runs.", "Five.")],
            0,
            "One sentence of the pair was seen; the pair, and its rating, was not.",
        ),
        (
            [("One.", "Two."), ("One.", "Two."), ("Six.", "Two.")],
            2,
            "A pair that is twice in the test set counts twice there, because it is scored twice: "
            "count the test pairs, not the different ones.",
        ),
        (
            [("One.", "One.")],
            0,
            "A sentence beside itself is not the pair ('One.', 'Two.'): both have to be there.",
        ),
    ]
    for test, expected, message in cases:
        found = require_number(seen_before(list(dev), list(test)), "seen_before(dev, test)")
        require(
            found in range(len(test) + 1),
            f"{found:g} is no number of pairs: count them, do not divide.",
        )
        require(found == expected, message)
    require(
        seen_before(dev[:1], dev) == 1,
        "Of three test pairs one is in dev, and you count another number: do you go through the "
        "test pairs?",
    )
    return "Order, capitals and blanks cannot hide a pair from you any more."


@LESSON.exercise(
    4,
    "Choose here, report there",
    hints=(
        "Which name has the best dev score? The test scores may not be looked at for that.",
        "`max(dev, key=dev.get)` is the name of the best.",
        "`return test[max(dev, key=dev.get)]`.",
    ),
)
def honest(honest_score: Callable[[Mapping[str, float], Mapping[str, float]], float]) -> str:
    """Test that the choice is made on dev and reported on test."""
    rng = np.random.default_rng(0)
    worlds: list[tuple[dict[str, float], dict[str, float]]] = []
    dev = {"ja": 61.0, "en": 58.0, "fr": 64.0, "de": 40.0}
    worlds.append((dev, {"ja": 66.0, "en": 59.0, "fr": 60.0, "de": 41.0}))
    worlds.append((dev, {"de": 20.0, "fr": 50.0, "en": 30.0, "ja": 70.0}))
    for n in (3, 6, 12):
        names = [f"system {i}" for i in range(n)]
        dev_scores, test_scores = (
            dict(zip(names, rng.uniform(40, 70, n), strict=True)) for _ in range(2)
        )
        worlds.append((dev_scores, dict(sorted(test_scores.items(), key=lambda item: item[1]))))

    def same_place(dev: Mapping[str, float], test: Mapping[str, float]) -> float:
        return list(test.values())[list(dev.values()).index(max(dev.values()))]

    def right(dev: Mapping[str, float], test: Mapping[str, float]) -> float:
        return test[max(dev, key=lambda name: dev[name])]

    require_same(
        honest_score,
        right,
        worlds,
        "honest_score(dev, test)",
        mistakes={
            "You report the best test score. To know that it is the best you had to look at the "
            "test labels: choose on dev.": lambda dev, test: max(test.values()),
            "You report the dev score of the choice. It was chosen for being high there, so it "
            "flatters: report the test score.": lambda dev, test: max(dev.values()),
            "You report the mean over all of them: the score of the chosen one is asked for.": (
                lambda dev, test: sum(test.values()) / len(test)
            ),
            "You choose the worst one on dev.": (
                lambda dev, test: test[min(dev, key=lambda name: dev[name])]
            ),
            "You take the same place in both dictionaries. They are in different orders: go by the "
            "name.": same_place,
            "You take the first one of the test scores.": lambda dev, test: next(
                iter(test.values())
            ),
            "You take the last one of the test scores.": lambda dev, test: [*test.values()][-1],
            "You choose on test and report dev: it is the other way round.": (
                lambda dev, test: dev[max(test, key=lambda name: test[name])]
            ),
        },
        otherwise=lambda dev, test: (
            f"On dev {max(dev, key=lambda name: dev[name])} is best, so its test score, "
            f"{right(dev, test):.1f}, is to be reported."
        ),
    )
    return "The test labels had no say in the choice, so the score is not flattered."


@LESSON.exercise(
    5,
    "The interval of a difference",
    hints=(
        "Draw n pairs with replacement, and score both methods on these same pairs. Do that 400 "
        "times and look at the differences.",
        "`rng = np.random.default_rng(seed)` and `drawn = rng.integers(0, n, n)` are the positions "
        "of one resample; index a, b and gold with it.",
        "Append `dl.spearman(a[drawn], gold[drawn]) - dl.spearman(b[drawn], gold[drawn])` and "
        "return `np.quantile(differences, [0.025, 0.975])`.",
    ),
)
def interval(paired_interval: Callable[..., Sequence[float]]) -> str:
    """Test a paired percentile bootstrap by its properties."""
    rng = np.random.default_rng(0)
    n = 120
    gold = rng.uniform(0, 5, n).round(1)
    shared = gold + rng.normal(0, 2.0, n)
    a, b = shared + rng.normal(0, 0.6, n), shared + rng.normal(0, 1.2, n)
    difference = spearman(a, gold) - spearman(b, gold)
    low, high = _two_numbers(paired_interval(a, b, gold, 0), "paired_interval(a, b, gold, seed)")
    require(low <= high, f"The lower end comes first: [{low:.1f}, {high:.1f}] is turned round.")
    require(
        high - low > 0,
        "The interval has no width: every resample gave the same difference. Resample *with* "
        "replacement; a shuffled set of pairs is the same set.",
    )
    same = _two_numbers(paired_interval(a, a.copy(), gold, 0), "paired_interval(a, a, gold, seed)")
    require(
        max(map(abs, same)) < 1e-9,
        f"A method against itself gets [{same[0]:.1f}, {same[1]:.1f}] and not [0, 0]. You draw "
        "other pairs for the second method than for the first, or shuffle the ratings: use the "
        "same pairs for both methods.",
    )
    require(
        low < difference < high,
        f"The difference is {difference:.1f} and your interval [{low:.1f}, {high:.1f}] does not "
        "contain it. Is it a - b, × 100, and from the pairs as they belong together?",
    )
    # One interval of 400 resamples is too uncertain itself to tell 90 % from 95 %.
    others = [_two_numbers(paired_interval(a, b, gold, seed), "an interval") for seed in (1, 2)]
    width = np.mean([end - start for start, end in [(low, high), *others]])
    reference = paired_difference(a, b, gold, n_resamples=4000)
    ratio = width / (reference["high"] - reference["low"])
    wide = f"Your interval is {ratio:.0%} as wide as the 95 % one"
    require(
        ratio > 0.15,
        f"{wide}, as if divided by √n. The spread of the resamples is itself the uncertainty of "
        "the difference: do not divide it again.",
    )
    require(
        ratio > 0.6,
        f"{wide}, like the middle 50 % or one standard deviation to each side. Cut off 2.5 % at "
        "each end: quantiles 0.025 and 0.975.",
    )
    require(
        ratio > 0.915,
        f"{wide}. Cutting off 5 % at each end gives 90 %: the quantiles are 0.025 and 0.975, and "
        "each resample has as many pairs as there are.",
    )
    require(
        ratio < 1.15,
        f"{wide}. Does each resample have all n pairs, and are the quantiles 0.025 and 0.975?",
    )
    swapped = _two_numbers(paired_interval(b, a, gold, 0), "paired_interval(b, a, gold, seed)")
    require(
        abs(swapped[0] + high) < 1e-6 and abs(swapped[1] + low) < 1e-6,
        "With the methods exchanged and the same seed the interval has to change its sign and "
        "nothing else. Is the seed used, `np.random.default_rng(seed)`?",
    )
    few = a[:40], b[:40], gold[:40]
    low_few, high_few = _two_numbers(paired_interval(*few, 0), "paired_interval of 40 pairs")
    of_few = paired_difference(*few, n_resamples=4000)
    require(
        0.75 < (high_few - low_few) / (of_few["high"] - of_few["low"]) < 1.3,
        "Of 120 pairs your interval is right, but not of 40: is the number of pairs fixed in the "
        "text?",
    )
    alone = score(a, gold)
    own = alone["high"] - alone["low"]
    return (
        f"The interval of the difference is {high - low:.1f} points wide, that of one score by "
        f"itself {own:.1f}: what both methods share has cancelled."
    )


def _two_numbers(value: Any, name: str) -> tuple[float, float]:
    """Return the ends of an interval."""
    ends = value.tolist() if isinstance(value, np.ndarray | Tensor) else value
    require(
        isinstance(ends, tuple | list) and len(ends) == 2,
        f"{name} has to return two numbers, the lower and the upper end.",
    )
    low, high = (require_number(float(end), f"An end of {name}") for end in ends)
    return low, high


@LESSON.exercise(
    6,
    "How much does averaging alone explain?",
    hints=(
        "Three scores are enough: the first rung, 'source, all d'; the second, 'mean, all d'; and "
        "DySem, which is 'top k' with the vector 'mean'.",
        "The whole gain is DySem - source. The part of averaging is mean - source.",
        "`scores = table.set_index(['rung', 'vector'])['spearman']`, then `scores['mean, all d', "
        "'mean']` and so on.",
    ),
)
def averaging(share_of_averaging: Callable[[pd.DataFrame], float], table: pd.DataFrame) -> str:
    """Test the share on made-up ladders and tell it for the measured one."""
    for source, mean, positive, top, top_source in (
        (30.0, 45.0, 47.0, 50.0, 33.0),
        (50.0, 44.0, 46.0, 60.0, 52.0),
        (40.0, 62.0, 61.0, 60.0, 41.0),
    ):
        made_up = _ladder(source, mean, positive, top, top_source)
        found = require_number(share_of_averaging(made_up), "share_of_averaging(table)")
        expected = (mean - source) / (top - source)
        require_close(
            found,
            expected,
            mistakes={
                "That is the share of what comes after averaging. The part of averaging is "
                "mean - source.": 1 - expected,
                "You divide two scores. Both begin at the source's score, not at 0: subtract it "
                "from both.": mean / top,
                "That is the gain of averaging in points; divide it by the whole gain, "
                "DySem - source.": mean - source,
                "You divide the wrong way round: the part over the whole.": 1 / expected,
                "For DySem you take the row 'top k' with the vector 'source'. Averaging is part of "
                "DySem as it is scored here: take the vector 'mean'.": (
                    (mean - source) / (top_source - source)
                ),
                "For averaging alone you take 'positive mean', which already leaves out "
                "dimensions. 'mean, all d' has them all.": (positive - source) / (top - source),
                "You cut the share off at 1. Above 1 it says something: choosing dimensions lost "
                "some of what averaging won.": min(expected, 1.0),
                "You cut the share off at 0. Below 0 it says something: averaging lowered the "
                "score.": max(expected, 0.0),
                "That is a percentage: a share is 1 for all of the gain.": 100 * expected,
            },
            otherwise=f"With source {source:g}, mean {mean:g} and DySem {top:g} the share is "
            f"{expected:.2f}, not {found:.2f}.",
        )
    measured = share_of_averaging(table)
    rows = table.set_index(["rung", "vector"])
    total, low, high = rows.loc[("mean, all d", "mean"), ["step", "step_low", "step_high"]]
    return (
        f"On these pairs averaging alone has {measured:.0%} of DySem's gain: {total:+.1f} points "
        f"[{low:+.1f}, {high:+.1f}], before any dimension is chosen."
    )


def _ladder(
    source: float, mean: float, positive: float, top: float, top_source: float
) -> pd.DataFrame:
    """Return a table like that of `dysem_lab.questions.ladder.table`, its rows in another order."""
    rows = [
        ("top k", "source", top_source),
        ("positive mean", "mean", positive),
        ("source, all d", "source", source),
        ("top k", "mean", top),
        ("mean, all d", "mean", mean),
    ]
    return pd.DataFrame(rows, columns=["rung", "vector", "spearman"])
