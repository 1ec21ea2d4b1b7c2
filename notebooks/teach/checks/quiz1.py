"""The quiz of lesson 1: the residual stream."""

from checks.quiz import Question

QUESTIONS = (
    Question(
        "You add up the shares of all parts in $h^L$: of the embedding, of every attention "
        "and of every FFN. What comes out?",
        "a",
        {
            "a": (
                "1, in every model.",
                "The parts add up to h^L, and the share of h^L in itself is <h^L, h^L> / "
                "<h^L, h^L> = 1.",
            ),
            "b": (
                "More than 1, since some parts are longer than $h^L$.",
                "A part may be longer than h^L, but then others point against it and have "
                "negative shares: all of them add up to 1.",
            ),
            "c": (
                "Less than 1, since a norm stands between the blocks.",
                "The norm stands before what *reads* the stream. What is written is added as "
                "it is, so the shares add up to 1.",
            ),
        },
    ),
    Question(
        'The identity holds with `"attn"` and not with `"attn_raw"` in Gemma. Why?',
        "c",
        {
            "a": (
                '`"attn_raw"` is of one head, `"attn"` of all heads.',
                "Both are of all heads of one block.",
            ),
            "b": (
                '`"attn_raw"` is the sum over the blocks so far.',
                "That is the cumulative output A^l. Both tensors here are of one block.",
            ),
            "c": (
                '`"attn_raw"` is read before a norm, and what the norm leaves is added.',
                "In this model a norm stands between what attention computes and the sum, so "
                "only what is read behind the norm is a term of it.",
            ),
        },
    ),
    Question(
        "An early and a late block write vectors of the same length, each at a right angle to"
        " its stream. Which changes the direction of its stream more?",
        "b",
        {
            "a": (
                "Both as much: the vectors are equally long.",
                "The stream grows from block to block, as the figure shows, and the same "
                "length turns a longer vector less.",
            ),
            "b": (
                "The early one, since the stream is shorter there.",
                "The stream grows from block to block, as the figure shows, and the same "
                "length turns a shorter vector more.",
            ),
            "c": (
                "Neither: readers normalise the stream.",
                "Normalising takes the length away and leaves the direction, and the "
                "direction is what they change.",
            ),
        },
    ),
    Question(
        "The embedding of the last token is the same for every sentence in the one-word "
        "prompt. What brings the sentence to the last token?",
        "a",
        {
            "a": (
                "Attention only.",
                "Attention is what reads from other tokens. An FFN sees one token: it can "
                "work on what attention has brought there, but it cannot fetch.",
            ),
            "b": (
                "FFNs only.",
                "An FFN sees one token at a time. Without attention, the last token would be "
                "the same for every sentence after every block.",
            ),
            "c": (
                "The embedding, since the tokenizer has seen the sentence.",
                "The embedding of a token depends on this token alone, and the last token is "
                "the same in every prompt.",
            ),
        },
    ),
)
