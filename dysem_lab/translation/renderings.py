"""Texts into their renderings: those that are given, else those of a translator."""

from collections.abc import Mapping, Sequence

from dysem_lab.display import amount
from dysem_lab.errors import InputError, MissingTranslationError
from dysem_lab.inputs import checked
from dysem_lab.translation.translate import Translator, label_of, required_renderings


def rendered(
    texts: Sequence[str],
    source: str,
    target: str,
    given: Mapping[str, Sequence[str]],
    translator: Translator | None,
    missing: str,
) -> list[str]:
    """Return n texts in another language, or as they are in their own.

    Those of a language that is not ``given`` are made by the translator, if there is one; else the
    error says what is ``missing``.

    Raises:
        InputError: Renderings that are not n, or not texts.
        MissingTranslationError: A rendering is neither given nor to be had.
    """
    if target == source:
        return list(texts)
    if target in given:
        column = checked(given[target], f"{target} rendering")
        if len(column) != len(texts):
            raise InputError(
                f"{amount(len(column), 'rendering')} in {target!r} for {amount(len(texts), 'text')}"
            )
        return column
    if not texts:
        return []
    if translator is None:
        raise MissingTranslationError(missing)
    made = translator.translate(texts, source, target)
    return required_renderings(made, texts, target, label_of(translator))
