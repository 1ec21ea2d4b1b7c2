"""Pairs of the demo set to begin with: one of each kind that a similarity should tell apart."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from dysem_lab.data.sts import demo_data
from dysem_lab.translation.parallel_table import ParallelTable

# The kind of pair in the demo set → what a button says; as on the static pages.
KINDS = {
    "paraphrase": "Paraphrase",
    "negation": "Negation",
    "word-sense": "Word sense",
    "unrelated": "Unrelated",
}


@cache
def demo_table() -> ParallelTable:
    """Return the demo set as a translator of its own sentences."""
    return ParallelTable.from_data(demo_data())


def pair_of(kind: str) -> int:
    """Return the row of the demo set's first pair of a kind."""
    return next(i for i, of in enumerate(demo_data().subset) if of.partition("/")[0] == kind)


def example_pairs(codes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what a button says → the controls ``first``, ``second``, ``languages``, ``language``.

    A translation is a sentence beside itself in French, both read as they are in the English
    prompt: with its renderings the two would be the same.

    Args:
        codes: The languages of the others.
    """
    data, languages = demo_data(), {"languages": ", ".join(codes), "language": "en"}
    firsts, seconds = data.sentences["en"]
    rows = {label: pair_of(kind) for kind, label in KINDS.items()}
    found = {
        label: {"first": firsts[i], "second": seconds[i], **languages} for label, i in rows.items()
    }
    i = pair_of("paraphrase")
    translated = {"first": firsts[i], "second": data.sentences["fr"][0][i]}
    return {**found, "Translation": {**translated, "languages": "en", "language": "en"}}
