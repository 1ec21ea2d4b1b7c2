"""Translators by name, and pairs with the renderings that a translator makes of them."""

import re
from collections.abc import Sequence
from dataclasses import replace

from dysem_lab.data.sts import STSData
from dysem_lab.errors import InputError, MissingTranslationError
from dysem_lab.inputs import names_of
from dysem_lab.translation.translate import (
    Translator,
    check_translator,
    identity_of,
    label_of,
    required_renderings,
)
from dysem_lab.translation.translation_cache import CachedTranslator

MADE_BY = "English by "  # begins the origin of what a translator made


def translator_of(translator: str | Translator) -> Translator:
    """Return a translator by its name, behind the cache; one that is made already is returned.

    Args:
        translator: "apertium", "nllb", the folder or hub id of another sequence-to-sequence model;
            or anything with ``name`` and ``translate``.

    Raises:
        InputError: Another name, or no translator.
        ModelError: It is not installed, or cannot be loaded.
    """
    if not isinstance(translator, str):
        if isinstance(getattr(translator, "name", None), str) and hasattr(translator, "translate"):
            return translator
        raise InputError(f"translator must be one or the name of one, got {translator!r:.200}")
    check_translator(translator)
    from dysem_lab.translation.apertium import ApertiumTranslator
    from dysem_lab.translation.seq2seq import NLLB, Seq2SeqTranslator

    if translator == "apertium":
        return CachedTranslator(ApertiumTranslator())
    return CachedTranslator(Seq2SeqTranslator(NLLB if translator == "nllb" else translator))


def translated(
    data: STSData, languages: str | Sequence[str], translator: str | Translator = "apertium"
) -> STSData:
    """Return pairs with renderings in those of some languages that they lack, made from English.

    Where the data have a language, its renderings stay. A language that the translator does not
    reach from English is left out, and so is a pair with a sentence that it has no rendering of
    (it counts as ``n_dropped``). The source of the pairs names the translator and its languages.

    Args:
        data: Pairs in English.
        languages: Codes wanted.
        translator: As for `translator_of`.

    Raises:
        InputError: No pairs in English, no codes, or as for `translator_of`.
        MissingTranslationError: It renders no pair in one of the languages that it reaches.
        ModelError: As for `translator_of`.
    """
    if not isinstance(data, STSData):
        raise InputError(f"data must be pairs of load_data, got {data!r:.80}")
    texts, by = data.texts("en"), translator_of(translator)
    wanted = [code for code in names_of(languages, "language") if code not in data.sentences]
    made = {code: _known(by, texts, code) for code in wanted if _reaches(by, code)}
    if not made:
        return data
    whole = [all(of[text] for of in made.values()) for text in texts]
    kept = [i for i in range(len(data)) if whole[i] and whole[i + len(data)]]
    if not kept:
        raise MissingTranslationError(
            f"{label_of(by)} renders no pair of {data.name} in {', '.join(made)}; leave out a "
            "language, or use another translator"
        )
    left = data.select(kept)
    first, second = left.sentences["en"]
    sentences = {
        code: ([of[text] for text in first], [of[text] for text in second])
        for code, of in made.items()
    }
    return replace(
        left,
        source=f"{data.source}; {'/'.join(made)} from English by {by.name}",
        sentences={**left.sentences, **sentences},
        n_dropped=data.n_dropped + len(data) - len(kept),
        origins={**left.origins, **dict.fromkeys(made, f"{MADE_BY}{identity_of(by)}")},
    )


def translator_in(origin: str) -> str:
    """Return what made the renderings of an origin that `translated` wrote; "" of another one.

    Without digest, packages and what follows a model's name, which are for the record.
    """
    if not origin.startswith(MADE_BY):
        return ""
    name = origin.removeprefix(MADE_BY).partition("@")[0]
    return re.sub(r"( [0-9a-f]{16})?( \(.*\))?$", "", name)


def _reaches(translator: Translator, code: str) -> bool:
    """Whether a translator can go from English to a language, which it says of no texts as well."""
    own = translator.translator if isinstance(translator, CachedTranslator) else translator
    try:
        own.translate([], "en", code)
    except MissingTranslationError:
        return False
    return True


def _known(translator: Translator, texts: Sequence[str], code: str) -> dict[str, str]:
    """Return text → rendering, or "" of a text that the translator has none of."""
    different = list(dict.fromkeys(texts))
    try:
        made = required_renderings(
            translator.translate(different, "en", code), different, code, label_of(translator)
        )
    except MissingTranslationError:
        if len(different) == 1:
            return {different[0]: ""}
        middle = len(different) // 2
        return _known(translator, different[:middle], code) | _known(
            translator, different[middle:], code
        )
    return dict(zip(different, made, strict=True))
