"""Is a token a word of a text? In languages with and without spaces between their words."""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dysem_lab.models.lens import LensModel
from dysem_lab.models.readout import token_texts

APART = ("P", "S", "Z", "C")  # punctuation, symbols, separators, controls: between words
UNSPACED = ("zh", "ja")
LONGEST = 8  # signs of a token in a text without spaces
# Letters of a word that counts, and of a token that only begins one. Hangul has a sign for each
# syllable, and Devanagari writes many words with two letters.
SHORTEST, BEGINS = {"ko": 2, "hi": 2}, {"ko": 2}
ARTICLE = "\u0627\u0644"  # Arabic writes it as one word with its noun
RARE = 0.05  # share of all texts beyond which a word says nothing of one of them


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case; marks stay with the letter that they are on."""
    known = unicodedata.normalize("NFKC", text).casefold()
    apart = [" " if unicodedata.category(sign)[0] in APART else sign for sign in known]
    return "".join(apart).split()


def forms_of(text: str, code: str) -> set[str]:
    """Return all that a token may be to count as a word of a text.

    A word of three letters or more (Korean, Hindi: two), or the first four letters or more of one
    (Korean: two); in Chinese and Japanese, which write no spaces, two signs or more that stand
    together, or one that is a character of its own.

    Args:
        text: The text.
        code: Its language.
    """
    words = words_of(text)
    if code in UNSPACED:
        pieces = {
            word[start : start + length]
            for word in words
            for start in range(len(word))
            for length in range(1, LONGEST + 1)
        }
        return {piece for piece in pieces if len(piece) > 1 or _is_character(piece)}
    words += [word.removeprefix(ARTICLE) for word in words]
    begins = BEGINS.get(code, 4)
    return {
        word[:length]
        for word in words
        if len(word) >= SHORTEST.get(code, 3)
        for length in (*range(begins, len(word)), len(word))
    }


def _is_character(sign: str) -> bool:
    return unicodedata.name(sign, "").startswith("CJK UNIFIED")


class Words:
    """Which texts a token is a word of, leaving out the words that many of them have.

    Args:
        lens: The model whose tokens are looked at.
        texts: Language → n texts in it.
    """

    def __init__(self, lens: LensModel, texts: Mapping[str, Sequence[str]]) -> None:
        """Take the texts apart."""
        self._lens, self._form = lens, dict[int, str]()
        self._in: dict[str | None, list[set[str]]] = {}
        for code, column in texts.items():
            forms = [forms_of(text, code) for text in column]
            counts = Counter(form for of_text in forms for form in of_text)
            most = max(1, RARE * len(column))
            self._in[code] = [{form for form in of if counts[form] <= most} for of in forms]
        self._in[None] = [set().union(*of) for of in zip(*self._in.values(), strict=True)]

    def hits(
        self, ids: Int[Tensor, "n ... top"], which: Sequence[int], code: str | None = None
    ) -> Float[Tensor, "n ..."]:
        """Return 1 where any of some tokens is a word of a text, else 0.

        Args:
            ids: Tokens of n texts.
            which: The text that each is looked up in.
            code: The language of its words; None is any.
        """
        self._learn(ids)
        looked_up = ids.flatten(1, -2) if ids.ndim > 2 else ids[:, None]
        found = [
            any(self._form[token] in self._in[code][i] for token in tokens)
            for i, of_text in zip(which, looked_up.tolist(), strict=True)
            for tokens in of_text
        ]
        return torch.tensor(found).float().reshape(ids.shape[:-1])

    def _learn(self, ids: Tensor) -> None:
        """Know what each token is as a word: "" where it is none, or more than one."""
        new = [token for token in ids.unique().tolist() if token not in self._form]
        for token, text in zip(new, token_texts(self._lens, new), strict=True):
            words = words_of(text)
            self._form[token] = words[0] if len(words) == 1 else ""
