"""The quiz of lesson 3: the sentence vector."""

from checks.quiz import Question

QUESTIONS = (
    Question(
        "On the 132 demo pairs (Gemma; figure 01) mean pooling scores 25.3 [4.5, 43.8], PromptEOL "
        "38.5 [20.5, 55.3]. Is the prompt surely better on such pairs?",
        "c",
        {
            "a": (
                "Yes: 38.5 is larger than 25.3.",
                "These 132 pairs are a sample, as the wide intervals say. How sure the "
                "*difference* is, neither score tells.",
            ),
            "b": (
                "No: the intervals overlap, so the two are equal.",
                "Both were scored on the same pairs, so what is hard for both cancels. "
                "Overlapping intervals do not show that two methods are equal.",
            ),
            "c": (
                "These numbers do not say: it takes the interval of the difference.",
                "Both were scored on the same pairs, so the difference has an interval of its"
                " own; `dl.paired_difference` computes it, and lesson 7 builds it.",
            ),
        },
    ),
    Question(
        "In a batch that is padded on the right you read the last *position*, not the last "
        "real token. What happens?",
        "a",
        {
            "a": (
                "There is no message, and the shorter prompts get the vector of a padding token.",
                "All shapes are right, so nothing complains. The vectors are only worse, "
                "which a score shows and an error message does not.",
            ),
            "b": (
                "The model stops with an error.",
                "All shapes are as they should be, so nothing stops.",
            ),
            "c": (
                "Nothing changes: the mask hides the padding.",
                "The mask keeps real tokens from reading padding. At a padded position there "
                "still is a vector, and you would read it.",
            ),
        },
    ),
    Question(
        "All cosines lie between 0.7 and 0.95. You stretch them to 0 to 1, in the same order."
        " What happens to Spearman's correlation?",
        "b",
        {
            "a": (
                "It rises, since the band is as wide as that of the scores now.",
                "Spearman's correlation replaces values by ranks, and stretching leaves every"
                " rank where it was.",
            ),
            "b": (
                "Nothing: the ranks are the same.",
                "The order is the same, so the ranks are, and only they are correlated.",
            ),
            "c": (
                "It falls, since the differences are no longer the model's.",
                "It looks at ranks, not at differences, and the ranks are the same.",
            ),
        },
    ),
    Question(
        "The last token of every prompt is the same quotation mark. Why does its vector say "
        "something of the sentence?",
        "c",
        {
            "a": (
                "Its embedding holds the sentence.",
                "The embedding of the mark is the same for every sentence.",
            ),
            "b": (
                "The model was trained to give vectors for sentences.",
                "It was trained to predict the next token, and nothing else.",
            ),
            "c": (
                "Attention brought it there, and the next word depends on it.",
                "The prompt makes one word for the sentence the natural next token, so what "
                "predicts it has to hold something of the sentence.",
            ),
        },
    ),
)
