"""The quiz of lesson 4: consensus."""

from checks.quiz import Question

QUESTIONS = (
    Question(
        "A fifth language joins. What can happen to $I(x)$ of a text?",
        "b",
        {
            "a": (
                "It grows if the new language agrees well.",
                "A dimension of the new I(x) has to be positive in all five languages, so it "
                "was positive in the first four, too.",
            ),
            "b": (
                "It stays as it is or loses dimensions.",
                "Positive in five languages is a stronger condition than positive in four: no"
                " dimension can come in.",
            ),
            "c": (
                "It is a new set: dimensions come in and go.",
                "None can come in: whatever is positive in all five languages was so in the "
                "first four.",
            ),
        },
    ),
    Question(
        "With four languages, signs like coins would leave 640/16 = 40 dimensions, and far "
        "more are left. What does that show?",
        "a",
        {
            "a": (
                "That the signs in the languages hang together; not why.",
                "They may do so because of the meaning, and because all vectors are of one "
                "model and of prompts of one form. The count cannot tell these apart.",
            ),
            "b": (
                "That what is left is the meaning of the sentence.",
                "Dimensions that are in the consensus of nearly every text are left as well, "
                "and they tell no two sentences apart.",
            ),
            "c": (
                "That four languages are too few.",
                "More languages would leave fewer dimensions. Whether these are the meaning, "
                "no number of languages says.",
            ),
        },
    ),
    Question(
        "The joint set of a pair is empty. Why not score the pair as 0?",
        "c",
        {
            "a": (
                "Because 0 would be too low for most pairs.",
                "Whether it is too low or too high is unknown: nothing was compared. It would"
                " be ranked all the same.",
            ),
            "b": (
                "Because the cosine of all dimensions should be taken there.",
                "That is another method for these pairs. A table that mixes two methods has "
                "to say so.",
            ),
            "c": (
                "Because 0 would be ranked as if it had been measured.",
                "Nothing was compared, so there is no number. NaN can be counted and "
                "reported, and `n_undefined` does so.",
            ),
        },
    ),
    Question(
        "Gemma on all pairs of STS-B (en/ja/ru; figure 02): joint sets of 218 dimensions "
        "68.8, the mean over the languages on all 640 dimensions 69.4, one random set of 218 "
        "for all pairs 68.8. What has the sieve done?",
        "b",
        {
            "a": (
                "It has raised the score above that of English alone.",
                "The mean over the languages has, without any sieve: 69.4 on all dimensions, "
                "where English alone has 61.0.",
            ),
            "b": (
                "It has kept about the score on a third of the dimensions, as a random set does.",
                "68.8, and 68.8 on as many random ones: the gain is the average's. On few "
                "dimensions the sieve is ahead: 67.5 on 44, where five random sets score 54.5 to "
                "61.6.",
            ),
            "c": (
                "It has found the dimensions that hold the meaning.",
                "Then random ones should do worse, and one random set of the same size scores"
                " 68.8.",
            ),
        },
    ),
)
