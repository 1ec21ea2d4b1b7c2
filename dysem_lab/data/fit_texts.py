"""Other texts: those that a mean, principal directions or fixed sets are fitted on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dysem_lab.data.sts import STSData, load_data
from dysem_lab.errors import InputError, choices
from dysem_lab.inputs import by_language, checked


class FitTexts(NamedTuple):
    """Texts that something is fitted on.

    Attributes:
        name: What they are called: "264 texts of demo".
        renderings: Language → n different texts, aligned.
        digest: Sixteen hex digits of all of them.
    """

    name: str
    renderings: dict[str, list[str]]
    digest: str

    @property
    def n_texts(self) -> int:
        """How many different texts there are."""
        return len(next(iter(self.renderings.values())))


def fit_texts(given: object, languages: Sequence[str], language: str = "en") -> FitTexts:
    """Return the texts to fit on, each different one once.

    Args:
        given: "demo" or another source of `dysem_lab.load_data`, loaded pairs, language → texts, or
            texts in one language.
        languages: Codes of those of a source that are loaded beside the texts' own.
        language: The texts' own.

    Raises:
        InputError: Fewer than two different texts, none in `language`, or lengths that differ.
    """
    if isinstance(given, str):
        given = load_data(given, languages=list(dict.fromkeys([language, *languages])))
    if isinstance(given, STSData):
        of, named = f" of {given.name}", {code: given.texts(code) for code in given.languages}
    else:
        columns_given: Any = given if isinstance(given, Mapping) else {language: given}
        of, named = "", by_language(columns_given)
    if not named:
        raise InputError("there are no texts to fit on; give them as {language: texts}")
    if language not in named:
        raise choices("language of the texts", language, named)
    columns = {code: checked(column, f"{code} fitting text") for code, column in named.items()}
    if len({len(column) for column in columns.values()}) > 1:
        sizes = {code: len(column) for code, column in columns.items()}
        raise InputError(f"the fitting texts are not aligned over the languages: {sizes}")
    first = {text: i for i, text in reversed([*enumerate(columns[language])])}
    if len(first) < 2:
        raise InputError(
            f"a fit needs two different texts or more, got {len(first)}; the mean of one would be "
            "the text itself"
        )
    kept = sorted(first.values())
    renderings = {code: [column[i] for i in kept] for code, column in columns.items()}
    digest = hashlib.sha256(json.dumps(renderings).encode()).hexdigest()[:16]
    return FitTexts(f"{len(kept):,} texts{of}", renderings, digest)
