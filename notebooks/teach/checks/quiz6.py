"""The quiz of lesson 6: logit lens and causes."""

from checks.quiz import Question

QUESTIONS = (
    Question(
        "The lens shows the answer in the last blocks only. What do the middle blocks know of it?",
        "c",
        {
            "a": (
                "Nothing: it would show.",
                "The lens says what the output layer makes of a vector. The middle blocks may"
                " hold the answer in directions that only later blocks translate.",
            ),
            "b": (
                "All of it: they only cannot say it yet.",
                "That is a guess, and the lens does not support it either. A patch or an "
                "ablation of these blocks would test it.",
            ),
            "c": (
                "The lens does not say.",
                "A word in the lens is evidence, its absence is none: the lens reads with the"
                " output layer, which the middle blocks need not write for.",
            ),
        },
    ),
    Question(
        "Without the FFN of the first block everything collapses. Is it responsible for *cold*?",
        "a",
        {
            "a": (
                "That takes a comparison with other prompts.",
                "It is at work for every prompt. To be responsible for this answer, it would "
                "have to matter more for this one than for others.",
            ),
            "b": (
                "Yes: its effect is the largest of all.",
                "It is needed for every prompt, and so for this one. Necessary is not specific.",
            ),
            "c": (
                "No: a part so early cannot matter.",
                "It does: its removal costs more than that of any other part. It only is not "
                "known to matter for this answer in particular.",
            ),
        },
    ),
    Question(
        "A head's effect is larger than all forty of its random directions. Which p may you "
        "report?",
        "b",
        {
            "a": (
                "0.",
                "The head's own effect is one of the 41 draws, so the share is 1/41. Forty "
                "draws cannot show less.",
            ),
            "b": (
                "1/41.",
                "The effect itself counts as a draw: 1 of 41 is at least as large. That is "
                "about 0.024, the smallest that forty draws can show.",
            ),
            "c": (
                "0.05.",
                "The middle 95 % is what `low` and `high` are of. The share of draws at least"
                " as large is 1/41, about 0.024.",
            ),
        },
    ),
    Question(
        "Suppose that none of 270 heads differs from its random directions. How many have p ="
        " 1/41 all the same?",
        "c",
        {
            "a": (
                "None.",
                "If a head's effect is like its forty random ones, it is the largest of the "
                "41 in one case of 41.",
            ),
            "b": (
                "All, since each has an effect.",
                "Each has some effect; it is the largest of its 41 in one case of 41.",
            ),
            "c": (
                "Six or seven, on average.",
                "270/41 is about 6.6. So heads are chosen on some prompts and tested on others.",
            ),
        },
    ),
)
