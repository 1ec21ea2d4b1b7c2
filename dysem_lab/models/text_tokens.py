"""Which tokens of a prompt are of its text, and of each word of it."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from dysem_lab.errors import ModelError
from dysem_lab.models.lens import LensModel
from dysem_lab.models.passes import MAX_TOKENS, fit
from dysem_lab.prompts import Prompt


class TextTokens(NamedTuple):
    """Where a text is in its prompt, by token.

    Attributes:
        prompt: As it is run: a long text is shortened in it.
        text: Positions of the text's tokens; one that it shares with the template is among them.
        words: Positions of the tokens of each word of the text, which white space divides; a token
            is of the first word that it has a character of.
    """

    prompt: Prompt
    text: range
    words: list[list[int]]


def text_tokens(lens: LensModel, prompt: Prompt) -> TextTokens:
    """Return which tokens of a prompt, as it is run, are of its text and of each of its words.

    Raises:
        ModelError: As for `split` by "token".
    """
    _, spans, one = character_spans(lens, prompt)

    def inside(start: int, stop: int) -> list[int]:
        return [i for i, (a, b) in enumerate(spans) if a < stop and b > start]

    words: list[list[int]] = []
    end = 0  # of the tokens that a word has already
    for word in re.finditer(r"\S+", one[one.start : one.stop]):
        found = inside(one.start + word.start(), one.start + word.end())
        words.append([i for i in found if i >= end])
        end = max([end, *(i + 1 for i in found)])
    text = inside(one.start, one.stop)
    return TextTokens(one, range(text[0], text[-1] + 1), words)


def character_spans(
    lens: LensModel, prompt: str
) -> tuple[list[int], list[tuple[int, int]], Prompt]:
    """Return the tokens of a prompt as it is run, the characters of each, and what they are of.

    Raises:
        ModelError: The tokenizer does not say which characters a token is of.
    """
    if not lens.tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer of {lens.name} does not say which characters a token is of; explain by "
            "'head' or 'block'"
        )
    found: dict[tuple[int, ...], tuple[list[tuple[int, int]], Prompt]] = {}

    def encode(prompts: Sequence[Prompt]) -> list[list[int]]:
        encoded = lens.tokenizer(list(prompts), return_offsets_mapping=True)
        rows = zip(prompts, encoded["input_ids"], encoded["offset_mapping"], strict=True)
        found.update({tuple(ids): (offsets, one) for one, ids, offsets in rows})
        return list(encoded["input_ids"])

    (ids,) = fit(lens, [prompt], MAX_TOKENS, encode)
    return ids, *found[tuple(ids)]
