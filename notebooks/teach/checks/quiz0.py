"""The quiz of lesson 0: the whole game."""

from checks.quiz import Question

QUESTIONS = (
    Question(
        "Two sentences have a cosine of 0.97 in this model. What does that say?",
        "b",
        {
            "a": (
                "They mean much the same.",
                "All but 34 of the 34,716 pairs of texts of the demo set have a cosine above "
                "0.9 here, whatever they mean.",
            ),
            "b": (
                "Nothing yet: it depends on what unrelated sentences get.",
                "All but 34 of the 34,716 pairs of texts are above 0.9, so only a place among"
                " random pairs says where 0.97 stands.",
            ),
            "c": (
                "They are among the nearest 3 % of all pairs.",
                "A cosine is no share. The place is one, and it has to be counted among "
                "random pairs.",
            ),
        },
    ),
    Question(
        "Random weights put the related pairs of the demo set above three quarters of the "
        "random ones, too. Where can that come from?",
        "c",
        {
            "a": (
                "Random weights understand a little.",
                "They were drawn by a random generator and have seen no text: nothing in them"
                " is about sentences.",
            ),
            "b": (
                "The place is computed wrongly: it should be near 0.5.",
                "0.5 is the place of pairs that are like any two. Related pairs are not: they"
                " share words, 37 % of them on average, and random pairs 6 %.",
            ),
            "c": (
                "From the words that the two sentences have in common.",
                "Related pairs share 37 % of their words on average, random pairs 6 %, and "
                "equal tokens enter as equal vectors, whatever the weights are.",
            ),
        },
    ),
    Question(
        "The explanation under random weights adds up to its similarity exactly, too. What "
        "does that show?",
        "a",
        {
            "a": (
                "That adding up is no sign of knowing anything.",
                "A vector is a sum of what was read for any weights, so its terms add up for "
                "any weights. The gap between a number and its control is what counts.",
            ),
            "b": (
                "That the explanation is wrong, since there is nothing to explain.",
                "It is exact: its terms are what this model computed. There is just nothing "
                "learnt behind it.",
            ),
            "c": (
                "That its words are the right ones as well.",
                "Adding up says that no term is missing. Which words matter it does not test;"
                " lesson 8 does, by deleting them.",
            ),
        },
    ),
)
