"""What every translator is: texts in, a rendering of each of them out."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from dysem_lab.display import amount
from dysem_lab.errors import InputError, MissingTranslationError, choices
from dysem_lab.inputs import (
    checked,
    half_of_a_pair,
    has_words,
    listed,
    path_of,
    require_characters,
)

NAMED = ("apertium", "nllb")


class Translator(Protocol):
    """Anything that renders texts in another language."""

    @property
    def name(self) -> str:
        """Identity for the cache: two translators with one name give the same renderings."""
        ...

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """Return one non-empty rendering per text, from one language into another.

        Raises:
            InputError: No list of texts, or a language that is no code.
            MissingTranslationError: A text has no rendering; names text and language.
        """
        ...


def label_of(translator: Translator) -> str:
    """Return what messages call a translator: its ``label``, where it has one, or its name."""
    return getattr(translator, "label", getattr(translator, "name", "the translator"))


def identity_of(translator: Translator) -> str:
    """Return what a record says of a translator: its name, and its ``packages`` where it has any.

    These are for people: the name alone is what renderings are kept by.
    """
    own = getattr(translator, "translator", translator)  # of a cached one
    packages: Mapping[str, str] = getattr(own, "packages", {})
    named = ", ".join(f"{name} {version}" for name, version in packages.items())
    return f"{translator.name} ({named})" if named else translator.name


def check_translator(name: str) -> None:
    """Raise `InputError` unless a name can be one of a translator; "" is none."""
    if name and name not in NAMED and "/" not in name and not path_of(name).is_dir():
        raise choices("translator", name, (*NAMED, "a folder", "owner/name on the hub"))


def asked(texts: Sequence[str], source: str, target: str) -> list[str]:
    """Return the texts that a translator is asked for as a list.

    Raises:
        InputError: They are none, see `dysem_lab.inputs.checked`, or a language is no code.
    """
    for what, code in (("source", source), ("target", target)):
        if not isinstance(code, str):
            raise InputError(f"the {what} must be the code of a language, got {code!r:.200}")
        require_characters(code, f"the {what}")
    return checked(texts)


def required_renderings(
    made: Sequence[str], texts: Sequence[str], target: str, name: str
) -> list[str]:
    """Return what a translator made of texts, once that is known to be a rendering of each.

    Raises:
        MissingTranslationError: There are not as many, or one has no words; names it.
    """
    made = listed(made, "rendering")
    if len(made) != len(texts):
        raise MissingTranslationError(
            f"{name} gave {amount(len(made), 'rendering')} in {target!r} of "
            f"{amount(len(texts), 'text')}"
        )
    for rendering, text in zip(made, texts, strict=True):
        words = isinstance(rendering, str) and has_words(rendering)
        if not words or half_of_a_pair(rendering):
            raise MissingTranslationError(
                f"{name} has no rendering in {target!r} of {text!r}; add it to the table, use a "
                "translator that can make it, or leave that language out"
            )
    return made
