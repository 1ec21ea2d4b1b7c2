"""The twelve candidate languages of the DySem paper (Section 4.1, "languages"), and paraphrases.

A paraphrase is a rendering in the text's own language. It has a code of its own, as a translation
has: "en-1" is the first paraphrase of texts in "en". Wherever codes of languages are given, such
codes may be among them.
"""

import re
from typing import NamedTuple

from dysem_lab.errors import InputError, choices
from dysem_lab.inputs import at_least


class Language(NamedTuple):
    """A candidate language.

    Attributes:
        code: ISO 639-1 code, used everywhere in this package.
        name: English name, for figures and messages.
        nllb: FLORES-200 code, as NLLB translators expect it.
        script: Unicode script of its letters as ``unicodedata`` names them, for checks.
    """

    code: str
    name: str
    nllb: str
    script: str


LANGUAGES: dict[str, Language] = {
    language.code: language
    for language in (
        Language("en", "English", "eng_Latn", "LATIN"),
        Language("zh", "Chinese", "zho_Hans", "CJK"),
        Language("fr", "French", "fra_Latn", "LATIN"),
        Language("de", "German", "deu_Latn", "LATIN"),
        Language("es", "Spanish", "spa_Latn", "LATIN"),
        Language("ru", "Russian", "rus_Cyrl", "CYRILLIC"),
        Language("ar", "Arabic", "arb_Arab", "ARABIC"),
        Language("ja", "Japanese", "jpn_Jpan", "CJK HIRAGANA KATAKANA"),
        Language("ko", "Korean", "kor_Hang", "HANGUL"),
        Language("it", "Italian", "ita_Latn", "LATIN"),
        Language("pt", "Portuguese", "por_Latn", "LATIN"),
        Language("hi", "Hindi", "hin_Deva", "DEVANAGARI"),
    )
}


_PARAPHRASE = re.compile(r"([a-z]{2,3})-[1-9][0-9]?")


def language(code: str) -> Language:
    """Return the language that a code stands for, which is one of the twelve.

    The language of paraphrases, such as "en-1", is that of the texts.
    """
    found = language_of(code)
    if not isinstance(found, str) or found not in LANGUAGES:
        # "English" is no code, and like none.
        named = {each.name.lower(): each.code for each in LANGUAGES.values()}
        raise choices("language", found, LANGUAGES, like=named.get(str(found).lower()))
    return LANGUAGES[found]


def language_of(code: str) -> str:
    """Return the language that texts under a code are in: "en" of "en" and of "en-1"."""
    found = _PARAPHRASE.fullmatch(code) if isinstance(code, str) else None
    return found[1] if found else code


def paraphrase_codes(n: int, code: str = "en") -> list[str]:
    """Return the codes of the first n paraphrases of texts in a language: "en-1", "en-2", ….

    Raises:
        InputError: n is no whole number from 0 to 99.
    """
    if at_least(n, 0, "the number of paraphrases") > 99:
        raise InputError(f"there can be at most 99 paraphrases of a text, got {n}")
    return [f"{code}-{i + 1}" for i in range(n)]
