"""The twelve candidate languages of the DySem paper (Section 4.1, "languages")."""

from typing import NamedTuple

from dysem_lab.inputs import one_of


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


def language(code: str) -> Language:
    """Return the language with this code, which is one of the twelve."""
    return LANGUAGES[one_of(code, LANGUAGES, "language")]
