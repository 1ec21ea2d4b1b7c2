"""The quiz of lesson 7: being sceptical."""

from checks.quiz import Question

QUESTIONS = (
    Question(
        "A random set for each pair is easy to beat, one random set for all pairs is not. Why?",
        "a",
        {
            "a": (
                "Another set for each pair disturbs the ranking by itself.",
                "Each pair is measured with another ruler. On all pairs of STS-B, Gemma has"
                " 30.4 so, and 68.8 with one random set for all pairs (figure 02).",
            ),
            "b": (
                "The sets for each pair are smaller.",
                "They have the size of each pair's joint set; the shared one has the mean of "
                "these sizes.",
            ),
            "c": (
                "The shared set happens to hold the good dimensions.",
                "Another seed gives another set: on STS-B five of 218 dimensions score from 67.5 "
                "to 70.1.",
            ),
        },
    ),
    Question(
        "Of the 1,379 test pairs of STS-B, 1,007 are also in STS12–16; a comparison of "
        "strings with MTEB's text finds 141. Somebody has tuned on STS12–16. How many test "
        "pairs were seen?",
        "c",
        {
            "a": (
                "141.",
                "That is what is left of them when one text is lower-cased and tokenised and "
                "the other is not. The sentences are the same ones.",
            ),
            "b": (
                "None, if only α and the layer were tuned.",
                "Choosing α by the scores of pairs uses these pairs' labels, and 1,007 of "
                "them come again in the test set.",
            ),
            "c": (
                "1,007.",
                "That is 73 % of the test set. A comparison of strings misses most of them, "
                "as the same text is spelled in two ways.",
            ),
        },
    ),
    Question(
        "Twelve methods are equally good, and each is compared with a baseline that is as "
        "good, at p < 0.05. How likely is some “finding”?",
        "b",
        {
            "a": (
                "5 %.",
                "That is the chance of one comparison. Twelve of them have twelve chances.",
            ),
            "b": (
                "46 %, if the comparisons are independent.",
                "1 − 0.95¹² = 0.46. Bonferroni's p < 0.05/12 brings it back below 0.05.",
            ),
            "c": (
                "60 %.",
                "12 × 5 % counts a world with two findings twice. 1 − 0.95¹² = 0.46.",
            ),
        },
    ),
    Question(
        "On these pairs averaging explains about all of DySem's gain. What is left for the "
        "selection?",
        "a",
        {
            "a": (
                "It keeps the score on an eighth of the dimensions.",
                "That is worth having, and another claim than that it raises the score.",
            ),
            "b": (
                "It raises the score, only less than the average does.",
                "The rungs after the average add nothing here; your `share_of_averaging` says so.",
            ),
            "c": (
                "Nothing, with any languages and model.",
                "This is one model, one small set and three languages. With European "
                "languages the average lowers Gemma's score on STS-B, and there the selection"
                " has to make up for it.",
            ),
        },
    ),
)
