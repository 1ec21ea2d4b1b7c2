"""Renderings as people type them into boxes, lines such as ``fr: Oui.``, and from translators."""

from collections.abc import Mapping, Sequence
from typing import Any

from dysem_lab.data.languages import language as language_named
from dysem_lab.errors import InputError, MissingTranslationError
from dysem_lab.inputs import by_language, checked
from dysem_lab.translation.renderings import rendered
from dysem_lab.translation.translate import Translator

EXAMPLE = "typed in by you, one a line, such as  fr: Il pleut."


def parse_renderings(lines: str) -> dict[str, str]:
    """Return language → rendering from lines such as ``ja: 男性がギターを弾いている。``.

    Raises:
        InputError: A line without a language, an unknown or repeated language.
    """
    renderings: dict[str, str] = {}
    for line in filter(str.strip, lines.splitlines()):
        code, colon, text = (part.strip() for part in line.partition(":"))
        if not colon or not text:
            raise InputError(f"{line!r} is no rendering; write a code and a text, as in 'fr: Oui.'")
        if language_named(code).code in renderings:
            raise InputError(f"there are two renderings in {code!r}; keep one")
        renderings[code] = text
    return renderings


def parse_languages(codes: str) -> list[str]:
    """Return the language codes in a text such as ``en, ja, ru``, in their order.

    Raises:
        InputError: An unknown language, or none.
    """
    found = [language_named(code).code for code in codes.replace(",", " ").split()]
    if not found:
        raise InputError("no languages; write one or more codes, as in 'en, ja, ru'")
    return found


def checked_renderings(given: Mapping[str, Sequence[str]] | None) -> dict[str, list[str]]:
    """Return language → renderings, once they are known to be texts.

    Raises:
        InputError: Anything else.
    """
    columns = by_language(given)
    return {code: checked(column, f"{code} rendering") for code, column in columns.items()}


def empty_when_it_changes(sentence: Any, renderings: Any) -> None:
    """Empty a box of renderings when its sentence changes: they would be of another sentence."""

    def empty(change: object) -> None:
        renderings.value = ""

    sentence.observe(empty, "value")


class Renderer:
    """Renderings of texts, typed in or translated; no text is translated twice.

    Args:
        translator: Makes what is not typed in; None makes nothing.
        language: The texts' own.
    """

    def __init__(self, translator: Translator | None, language: str) -> None:
        """Begin without any rendering."""
        self.translator, self.language = translator, language
        self._known: dict[tuple[str, str], str] = {}

    def render(self, text: str, typed: Mapping[str, str], codes: Sequence[str]) -> dict[str, str]:
        """Return language → the text in it, without the languages that nothing is known in."""
        by_code = {self.language: text}
        for code in codes:
            if code == self.language:
                continue
            if code in typed:
                by_code[code] = typed[code]
            elif self.translator is not None:
                by_code[code] = self._translated(text, code)
        return by_code

    def _translated(self, text: str, code: str) -> str:
        if (text, code) not in self._known:
            try:
                (made,) = rendered([text], self.language, code, {}, self.translator, "")
            except MissingTranslationError as error:
                raise MissingTranslationError(
                    f"{error}; here you can also type it in, as a line '{code}: …'"
                ) from error
            self._known[text, code] = made
        return self._known[text, code]
