"""The quiz of lesson 8: why similar."""

from checks.quiz import Question

QUESTIONS = (
    Question(
        "Before centring, one dimension has the largest term in every one of the 400 random "
        "pairs. What does it explain?",
        "c",
        {
            "a": (
                "Why the two sentences x and y are similar.",
                "It leads for sentences that share nothing just as well, so it says nothing "
                "about these two.",
            ),
            "b": (
                "Nothing: it must be a mistake in the sum.",
                "The sum is exact. The dimension is large in every text, which is known of "
                "most language models.",
            ),
            "c": (
                "Why all sentences have a cosine near 1.",
                "It is large in every text. What all texts share has to go before two of them"
                " can be compared.",
            ),
        },
    ),
    Question(
        "*sold* has the deepest colour, and deleting it makes the similarity rise. What follows?",
        "b",
        {
            "a": (
                "The attribution does not add up.",
                "It adds up to the last digit. It splits what the model did with this sentence.",
            ),
            "b": (
                "For this pair, the largest part is not what the similarity needs most.",
                "The sum splits what the model did with this sentence; the deletion asks what"
                " it would have done with another. Here the two disagree.",
            ),
            "c": (
                "Attributions are useless.",
                "On the 48 pairs that mean much the same, deleting the word that it points at"
                " costs 0.12 more than deleting a random one. This pair is one of the 3 where"
                " it costs less.",
            ),
        },
    ),
    Question(
        "The attribution hits the most costly word in 73 % of the pairs; closed eyes hit 12 "
        "%, the same attribution under random weights 17 %. Which sentence is right?",
        "a",
        {
            "a": (
                "Most of the hits need a model that was trained.",
                "Random weights have sums that are as exact and pictures that are as neat, "
                "and hit little more often than chance.",
            ),
            "b": (
                "The attribution is right, as its sum is exact in both models.",
                "It is exact under random weights, too, and hits 17 % there. Exact is not the"
                " same as true.",
            ),
            "c": (
                "Nearly all of the hits are chance.",
                "Chance hits 12 %, and 73 % were hit.",
            ),
        },
    ),
    Question(
        "Why does each part lose its *own* mean, and not the mean of the whole vector?",
        "b",
        {
            "a": (
                "So that all parts are equally long.",
                "They are not, and need not be: a head that writes the same into every text "
                "has nothing left, others have much.",
            ),
            "b": (
                "So that the parts add up to the centred vector.",
                "The parts' own means add up to the mean of the whole vector, so it is gone once.",
            ),
            "c": (
                "It makes no difference: the sum is the same.",
                "Taken from each of p parts, the mean of the whole is gone p times, and the "
                "parts add up to another vector.",
            ),
        },
    ),
)
