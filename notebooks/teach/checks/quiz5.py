"""The quiz of lesson 5: contrast and patching."""

from checks.quiz import Question

QUESTIONS = (
    Question(
        "The steered run differs from the plain one in the last column only. Why do the "
        "earlier tokens stay as they were?",
        "b",
        {
            "a": (
                "The contrast is too weak to reach them.",
                "With α = 1000 they would stay as well: they cannot read what stands after them.",
            ),
            "b": (
                "No token reads from a later one.",
                "The hook changes the last token, and attention looks back only, so nothing "
                "of it can reach the tokens before.",
            ),
            "c": (
                "CP puts their vectors back afterwards.",
                "Nothing is put back: what was never changed, and reads nothing that was, is "
                "as before.",
            ),
        },
    ),
    Question(
        "Patching the word itself after an early block recovers nearly all of the effect, "
        "patching the last token there nearly none. What follows?",
        "c",
        {
            "a": (
                "This block computes what a cat is.",
                "The patch says where the difference is after the block, not who put it "
                "there: the two words' embeddings differ already.",
            ),
            "b": (
                "The last token does not matter.",
                "The embedding is read there. The difference comes to it late, within a few "
                "blocks, as the map shows.",
            ),
            "c": (
                "At this depth, what tells cat from dog is at the word.",
                "Putting it in there is enough to bring the cat back, and the last token does"
                " not have it yet.",
            ),
        },
    ),
    Question(
        "On Gemma, at the heads, the score is the same for every α. What has been found?",
        "a",
        {
            "a": (
                "Nothing about CP: the norm after attention undoes α.",
                "The norm divides by the length, so the factor cancels. A knob that is not "
                "connected gives a flat curve.",
            ),
            "b": (
                "CP is robust to the choice of α.",
                "Robust would be: the vectors change and the score does not. Here the vectors"
                " do not change.",
            ),
            "c": (
                "In Gemma the heads have no influence.",
                "Their direction goes through the norm; only their common length is lost.",
            ),
        },
    ),
    Question(
        "Patching a place recovers 1.0. What may you call the place?",
        "b",
        {
            "a": (
                "Necessary for the difference.",
                "For that it would have to be taken away. The difference could be in a second"
                " place as well.",
            ),
            "b": (
                "Sufficient in this run.",
                "What was put in there brought back the whole effect, for this pair of "
                "sentences. Whether it is needed takes an ablation (lesson 6).",
            ),
            "c": (
                "The place where the model stores the word.",
                "It is one pair and one run. For a claim on words the map is averaged over "
                "many pairs, with a control.",
            ),
        },
    ),
)
