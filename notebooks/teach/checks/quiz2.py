"""The quiz of lesson 2: attention."""

from checks.quiz import Question

QUESTIONS = (
    Question(
        "Heads 4, 5 and 6 of a block of SmolLM2 read the same value vectors. Why do they not "
        "write the same?",
        "b",
        {
            "a": (
                "The causal mask is another one for each head.",
                "The mask is the same for all heads: no token reads from a later one.",
            ),
            "b": (
                "Each has a pattern and a slice of $W_O$ of its own.",
                "They share keys and values. How they mix the values, and through which "
                "matrix the mixture goes, is each head's own.",
            ),
            "c": (
                "They do write the same: they are one group.",
                "They share keys and values, but each asks its own question, and so has a "
                "pattern of its own, and goes through its own slice of W_O.",
            ),
        },
    ),
    Question(
        "A head gives 0.95 of its attention to the first token. What do you know of what it "
        "writes?",
        "c",
        {
            "a": (
                "It writes what the first word of the sentence means.",
                "The first token belongs to the prompt, not to the sentence, and is the same "
                "one for every sentence.",
            ),
            "b": (
                "It writes nothing.",
                "It writes the mixture through W_O, which has a length; the figure shows it "
                "for each head. Whether it is short has to be measured.",
            ),
            "c": (
                "Little: value vectors and $W_O$ decide what arrives.",
                "The weight says where it reads. Your `write` says what arrives, and only an "
                "intervention what it does (lesson 6).",
            ),
        },
    ),
    Question(
        "Above the diagonal of every pattern there is 0. What follows for a sentence vector?",
        "a",
        {
            "a": (
                "Only the last token can have read the whole prompt.",
                "Each query reads from itself and from earlier tokens, so only the last one "
                "has all of them before it.",
            ),
            "b": (
                "The first token is the best one, since all others read from it.",
                "It is read *by* all others. It has itself read from nothing but itself.",
            ),
            "c": (
                "Any token will do, since each row adds up to 1.",
                "Each row adds up to 1 over the tokens that this query may see, and those are"
                " fewer for an earlier query.",
            ),
        },
    ),
    Question(
        "You exchange the z of two heads and leave $W_O$ as it is. Is the attention output "
        "the same?",
        "b",
        {
            "a": (
                "Yes: it is a sum over heads, and a sum has no order.",
                "The sum has no order, but its terms are others now: each z goes through the "
                "other head's slice of W_O.",
            ),
            "b": (
                "No: each z now goes through the other head's slice.",
                "The terms are z_h W_O^h. Exchange the z without the slices, and both terms "
                "are others.",
            ),
            "c": (
                "Yes, if the two heads are of one group.",
                "A group shares keys and values. W_O has a slice for each *query* head.",
            ),
        },
    ),
)
