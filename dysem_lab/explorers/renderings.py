"""Sentences as people type them, and their renderings: typed lines, a table, a translator.

Every explorer takes its sentences through here, so that any of them gets an answer: where a
rendering is not to be had, the panel goes on with the languages that it has, and says so.
"""

import html
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from dysem_lab.data.languages import LANGUAGES
from dysem_lab.data.languages import language as language_named
from dysem_lab.errors import DysemLabError, InputError, MissingTranslationError, ModelError
from dysem_lab.explorers.controls import menu, text_box
from dysem_lab.explorers.examples import demo_table
from dysem_lab.inputs import by_language, checked, has_words, one_of
from dysem_lab.models.lens import LensModel
from dysem_lab.models.passes import MAX_TOKENS, characters_read
from dysem_lab.prompts import wrap
from dysem_lab.translation.apertium import ApertiumTranslator
from dysem_lab.translation.renderings import rendered
from dysem_lab.translation.translate import Translator
from dysem_lab.translation.translation_cache import CachedTranslator

EXAMPLE = "typed in by you, one a line, such as  fr: Il pleut."
SIDES = ("first", "second")  # names of the controls of two sentences
QUOTED = 40  # characters of a sentence in a note


def sentence_boxes(
    name: str, label: str, text: str, translations: str, typed: str = "", more: str = ""
) -> dict[str, Any]:
    """Return a box for a sentence and one for its translations, by the names of the controls.

    The translations are emptied when the sentence changes: they would be of another one.

    Args:
        name: Of the sentence's control.
        label: What the sentence is.
        text: The sentence.
        translations: Name of the other control.
        typed: What it holds at first, lines such as ``fr: Oui.``.
        more: Its label.
    """
    boxes = {
        name: text_box(label, text),
        translations: text_box(more or "Its translations", typed, rows=3, example=EXAMPLE),
    }

    def empty(change: object) -> None:
        boxes[translations].value = ""

    boxes[name].observe(empty, "value")
    return boxes


def pair_boxes(a: str, b: str, given: Mapping[str, Sequence[str]], language: str) -> dict[str, Any]:
    """Return the boxes of two sentences and of their translations, by the names of the controls.

    Args:
        a: The first sentence.
        b: The second.
        given: Language → both in it.
        language: Their own.
    """
    boxes: dict[str, Any] = {}
    for i, (side, name, text) in enumerate(zip(SIDES, "xy", (a, b), strict=True)):
        typed, more = typed_lines(given, i, language), f"Translations of {name}"
        boxes |= sentence_boxes(side, f"Sentence {name}", text, f"{side}_renderings", typed, more)
    return boxes


def language_boxes(codes: Sequence[str], language: str) -> dict[str, Any]:
    """Return the controls ``languages`` (𝓛, codes in order) and ``language``, the sentences' own.

    Raises:
        InputError: A language that is none of the twelve.
    """
    one_of(language, LANGUAGES, "language")
    names = [(f"{known.name} ({code})", code) for code, known in LANGUAGES.items()]
    return {
        "languages": text_box("Languages", ", ".join(codes)),
        "language": menu("You type in", names, language),
    }


def use_all(codes: str, m: Any) -> None:
    """Let a slider reach as far as there are languages, and use them all."""
    n_languages = max(1, len(codes.replace(",", " ").split()))
    m.max = n_languages
    m.value = n_languages


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
        if one_of(code, LANGUAGES, "language") in renderings:
            raise InputError(f"there are two renderings in {code!r}; keep one")
        renderings[code] = text
    return renderings


def parse_languages(codes: str) -> list[str]:
    """Return the language codes in a text such as ``en, ja, ru``, in their order, each once.

    Raises:
        InputError: An unknown language, or none.
    """
    found = [one_of(code, LANGUAGES, "language") for code in codes.replace(",", " ").split()]
    if not found:
        raise InputError("no languages; write one or more codes, as in 'en, ja, ru'")
    return list(dict.fromkeys(found))


def checked_renderings(given: Mapping[str, Sequence[str]] | None) -> dict[str, list[str]]:
    """Return language → renderings, once they are known to be texts.

    Raises:
        InputError: Anything else.
    """
    columns = by_language(given)
    return {code: checked(column, f"{code} rendering") for code, column in columns.items()}


def typed_lines(given: Mapping[str, Sequence[str]], i: int, language: str) -> str:
    """Return renderings of the i-th text as lines of a box."""
    return "\n".join(f"{code}: {texts[i]}" for code, texts in given.items() if code != language)


def typed_sentence(text: str, what: str) -> str:
    """Return a sentence from a box.

    Raises:
        InputError: It has no words, or a null character, which no translator takes.
    """
    if not has_words(text):
        raise InputError(f"the {what} is empty; type a sentence")
    if "\0" in text:
        raise InputError(f"the {what} has a null character, which is not seen; type it anew")
    return checked([text.strip()], what)[0]


class Rendered(NamedTuple):
    """Sentences in the languages that all of them are to be had in.

    Attributes:
        texts: For each sentence, language → it, its own language among them.
        languages: Of those that were asked for, the ones that all sentences have; the own language
            where there is none.
        note: What is missing, and how to give it; "" where nothing is.
    """

    texts: list[dict[str, str]]
    languages: list[str]
    note: str


class Renderer:
    """Renderings of sentences: typed in, of a translator, of the demo set, of Apertium.

    No text is translated twice.

    Args:
        translator: A table, or what else makes renderings that are not typed in; None is nothing.
    """

    def __init__(self, translator: Translator | None) -> None:
        """Begin without any rendering."""
        self.translator = translator
        self._known: dict[tuple[str, str, str], str | None] = {}

    def render(
        self,
        texts: Sequence[str],
        typed: Sequence[Mapping[str, str]],
        codes: Sequence[str],
        language: str,
        also: Sequence[str] = (),
    ) -> Rendered:
        """Return sentences in several languages, as far as they are to be had.

        Args:
            texts: n sentences.
            typed: For each, language → what was typed in.
            codes: 𝓛 as it was asked for, in order.
            language: The sentences' own.
            also: Other languages that were asked for, and are of no use now.
        """
        found: list[dict[str, str]] = []
        lacking: dict[str, list[str]] = {}
        for text, lines in zip(texts, typed, strict=True):
            found.append({language: text})
            for code in codes:
                made = lines.get(code) if code != language else text
                made = made or self._translated(text, language, code)
                if made is None:
                    lacking.setdefault(code, []).append(text)
                else:
                    found[-1][code] = made
        there = [code for code in codes if code not in lacking] or [language]
        kept = dict.fromkeys([language, *there])
        unused = {code for lines in typed for code in lines} - {*codes, *also, language}
        lacking = {code: lacking[code] for code in codes if code in lacking}
        own = language if any(language in lines for lines in typed) else ""
        notes = [_lacking(lacking, there, language), _unused(sorted(unused)), _own(own)]
        return Rendered(
            [{code: text[code] for code in kept} for text in found],
            there,
            " ".join(filter(None, notes)),
        )

    def _translated(self, text: str, source: str, target: str) -> str | None:
        key = (text, source, target)
        if key not in self._known:
            translators = (lambda: self.translator, demo_table, installed_translator)
            made = (_made(translator(), *key) for translator in translators)
            self._known[key] = next(filter(None, made), None)
        return self._known[key]


def _made(translator: Translator | None, text: str, source: str, target: str) -> str | None:
    """Return what a translator makes of a text; None where it makes nothing."""
    try:
        return rendered([text], source, target, {}, translator, "there is no translator")[0]
    except (MissingTranslationError, ModelError):
        return None


@cache
def installed_translator() -> Translator | None:
    """Return Apertium behind the cache of translations; None where one of them is not to be had."""
    try:
        return CachedTranslator(ApertiumTranslator())
    except DysemLabError:
        return None


def nowhere_read(what: str, codes: Sequence[str]) -> InputError:
    """Return the error of a text that is in none of the languages that a corpus is read in."""
    return InputError(
        f"the corpus is read in {_names(codes)}, and the {what} is in none of these; open Settings "
        f"and type it under the translations, as a line such as “{codes[0]}: …”"
    )


def _lacking(lacking: Mapping[str, Sequence[str]], there: Sequence[str], own: str) -> str:
    """Return which languages are left out, for want of which renderings, and what can be done."""
    if not lacking:
        return ""
    of_texts: dict[tuple[str, ...], list[str]] = {}
    for code, texts in lacking.items():
        of_texts.setdefault(tuple(dict.fromkeys(texts)), []).append(code)
    clauses = [
        f"of {' and '.join(f'“{short(text)}”' for text in texts)} into {_names(codes)}"
        for texts, codes in of_texts.items()
    ]
    return (
        f"Read in {_names(there)} alone: there is no translation {', and '.join(clauses)}. To have "
        "it in, open Settings and type it under the translations, as a line such as "
        f"“{next(iter(lacking))}: …”. If what you typed is not in {_names([own])}, choose its "
        "language there, under “You type in”."
    )


def _unused(codes: Sequence[str]) -> str:
    if not codes:
        return ""
    return f"The line in {_names(codes)} is not used: add “{codes[0]}” to the languages."


def _own(code: str) -> str:
    if not code:
        return ""
    return f"The line in {_names([code])} is not used: the sentences are typed in that language."


def _names(codes: Any) -> str:
    *names, last = (language_named(code).name for code in codes)
    return f"{', '.join(names)} and {last}" if names else last


def short(text: str) -> str:
    """Return the beginning of a sentence, to quote it."""
    return textwrap.shorten(text, QUOTED, placeholder=" …") if " " in text else text[:QUOTED]


def read_note(
    lens: LensModel, texts: Sequence[Mapping[str, str]], template: str, setting: str = "english"
) -> str:
    """Return what of texts is read otherwise than it stands there; "" where nothing is.

    Texts that are too long for the model, and special tokens that are typed in.

    Args:
        lens: The model.
        texts: Language → a sentence in it.
        template: As for `dysem_lab.wrap`, like `setting`.
        setting: Of the prompts.
    """
    cut = []
    for by_code in texts:
        read = [
            (characters_read(lens, prompt), len(text.strip()), text)
            for code, text in by_code.items()
            for prompt in wrap([text], template, setting, code)
        ]
        worst, of, text = min(read, key=lambda one: one[0] / one[1])
        if worst < of:
            cut.append(f"of “{short(text)}” the first {worst:,} of {of:,} characters")
    notes = [_special(lens, [text for by_code in texts for text in by_code.values()])]
    if cut:
        limit = min(MAX_TOKENS, lens.n_context)
        read_so = ", ".join(cut)
        notes.append(f"Too long for {limit} tokens with the prompt, so this was read: {read_so}.")
    return " ".join(filter(None, notes))


def _special(lens: LensModel, texts: Sequence[str]) -> str:
    """Return which of a tokenizer's special tokens stand in texts, and how to have letters read."""
    ids = {
        index
        for text in texts
        for index in lens.tokenizer(text, add_special_tokens=False)["input_ids"]
    }
    added = lens.tokenizer.added_tokens_decoder.items()
    found = [token.content for index, token in added if token.special and index in ids]
    # A token for what is unknown stands in no text.
    found = [token for token in found if any(token in text for text in texts)]
    if not found:
        return ""
    are = "is read as a special token" if len(found) == 1 else "are read as special tokens"
    first = found[0]
    return (
        f"{' and '.join(f'“{token}”' for token in found)} {are} of the model, not as letters; to "
        f"have the letters read, write a space in between, as in “{first[0]} {first[1:]}”."
    )


def readings(texts: Sequence[Mapping[str, str]], heads: Sequence[str]) -> str:
    """Return sentences in their languages as an HTML table.

    Args:
        texts: For each, language → it.
        heads: What each is called.
    """
    rows = "".join(
        f"<tr><td>{language_named(code).name}</td>"
        + "".join(f'<td lang="{code}" dir="auto">{html.escape(of[code])}</td>' for of in texts)
        + "</tr>"
        for code in texts[0]
    )
    titles = "".join(f"<th>{head}</th>" for head in ("Language", *heads))
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{rows}</tbody></table>"
