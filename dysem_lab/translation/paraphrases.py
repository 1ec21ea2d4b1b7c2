"""Paraphrases of texts: renderings in their own language, by the protocol of translations."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from dysem_lab.data.languages import paraphrase_codes
from dysem_lab.data.sts import STSData, load_data
from dysem_lab.errors import InputError, MissingTranslationError
from dysem_lab.inputs import at_least, path_of
from dysem_lab.translation.parallel_table import ParallelTable
from dysem_lab.translation.translate import Translator, required_renderings

N_WRITTEN = 4  # paraphrases of each text of the demo set

Paraphrases = str | Path | Translator


def paraphrased(
    data: STSData, paraphrases: Paraphrases = "demo", n: int = N_WRITTEN, language: str = "en"
) -> STSData:
    """Return pairs with n paraphrases of each sentence beside the renderings that they have.

    Every question takes them as it takes translations: `dysem_lab.Study` and `dysem_lab.DySem` with
    ``languages=["en", "en-1", "en-2"]``, where `m_sweep` then asks "how many paraphrases?". Their
    prompts are those of the language.

    Args:
        data: Pairs.
        paraphrases: Where they are from. "demo" are those of the demo set (`dysem_lab.load_data`
            gives them too, by their codes); a file or folder is read as by
            `dysem_lab.ParallelTable.read`, with columns such as ``en``, ``en-1``, ``en-2``. A
            table, or any object with ``name`` and ``translate``, such as one that asks a model to
            rephrase, is asked for texts of "en" in "en-1", "en-2", ….
        n: How many of each sentence.
        language: The sentences' own.

    Raises:
        InputError: No source of paraphrases, n below 1, or no sentences in that language.
        DataError: A file or folder that is no such table.
        MissingTranslationError: A sentence has fewer paraphrases.
    """
    if not isinstance(data, STSData):
        raise InputError(f"data must be pairs of load_data, got {data!r:.80}")
    by = source_of(paraphrases)
    texts = data.texts(language)
    found = {}
    for code in paraphrase_codes(at_least(n, 1, "n"), language):
        made = required_renderings(by.translate(texts, language, code), texts, code, by.name)
        found[code] = made[: len(data)], made[len(data) :]
    origins = {**data.origins, **dict.fromkeys(found, f"{language} by {by.name}")}
    return replace(data, sentences={**data.sentences, **found}, origins=origins)


def source_of(paraphrases: Paraphrases) -> Translator:
    """Return what makes or looks up paraphrases; see `paraphrased`."""
    if isinstance(paraphrases, str) and paraphrases == "demo":
        return _of_demo()
    if isinstance(paraphrases, str | Path):
        return ParallelTable.read(path_of(paraphrases, "the paraphrases"))
    if not hasattr(paraphrases, "translate") or not isinstance(
        getattr(paraphrases, "name", None), str
    ):
        raise InputError(
            "paraphrases must be 'demo', a file or folder with columns such as 'en' and 'en-1', or "
            f"a table or translator that has them, got {paraphrases!r:.200}"
        )
    return paraphrases


def source_for(texts: Sequence[str], paraphrases: Paraphrases | None = None) -> Translator | None:
    """Return the given source; where none is given, the demo set's if it knows all the texts."""
    if paraphrases is not None:
        return source_of(paraphrases)
    try:
        _of_demo().translate(texts, "en", paraphrase_codes(1)[0])
    except MissingTranslationError:
        return None
    return _of_demo()


@cache
def _of_demo() -> ParallelTable:
    data = load_data("demo", languages=["en", *paraphrase_codes(N_WRITTEN)])
    return ParallelTable({code: data.texts(code) for code in data.languages}, "demo set")
