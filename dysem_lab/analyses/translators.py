"""How much hangs on the translator: the same pairs through several sources."""

from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from dysem_lab.consensus import consensus_set
from dysem_lab.data.sts import STSData, load_data
from dysem_lab.errors import InputError
from dysem_lab.evaluate import mean_difference, score
from dysem_lab.inputs import names_of
from dysem_lab.questions.grid import sweep
from dysem_lab.questions.overlap import different_texts, overlap
from dysem_lab.questions.scores import pair_cosine
from dysem_lab.questions.study import Study

UNTRANSLATED = "untranslated"


def translation_sources(
    source: str | Path,
    task: str | None,
    languages: Sequence[str],
    language: str,
    *,
    label: str = "as given",
    other: str | None = None,
    other_source: str | Path | None = None,
    other_label: str = "other",
) -> dict[str, STSData]:
    """Return the same pairs with one language from different translation sources.

    Args:
        source: As for `dysem_lab.load_data`; its rendering in `language` is the first source.
        task: As for `dysem_lab.load_data`.
        languages: The languages of the pairs.
        language: The one whose translations are exchanged.
        label: What to call the first source.
        other: Code of the second rendering, such as "zh-TW"; None is `language`, which then needs
            `other_source`.
        other_source: Where the second rendering is; None is `source`.
        other_label: What to call the second source.

    Returns:
        Label → pairs whose `language` is from that source, on the rows that all have. The last is
        "untranslated": the English text in the place of the translation, the reference that no
        translator should fall below.

    Raises:
        InputError: English as the language, labels that are not different, or a second source whose
            English is not the same.
        DataError: As for `dysem_lab.load_data`.
    """
    if language == "en":
        raise InputError("'en' is what the translators start from; take another language")
    if len({label, other_label, UNTRANSLATED}) < 3:
        raise InputError(f"labels must differ, got {label!r}, {other_label!r}, {UNTRANSLATED!r}")
    codes = ["en", *names_of(languages, "language"), language]
    given = load_data(source, task, languages=codes)
    seconds = {}
    if other is not None or other_source is not None:
        code = other or language
        second = load_data(other_source or source, task, languages=["en", code])
        common = np.intersect1d(given.rows, second.rows)
        given, second = (data.select(np.isin(data.rows, common)) for data in (given, second))
        if not len(common) or given.texts("en") != second.texts("en"):
            raise InputError(
                f"the English of {second.name} ({second.source}) is not that of {given.name} "
                f"({given.source}); the two need the same pairs in the same rows"
            )
        seconds[other_label] = second.sentences[code]
    renderings = {label: given.sentences[language], **seconds, UNTRANSLATED: given.sentences["en"]}
    return {
        name: replace(
            given,
            source=f"{given.source}; {language}: {name}",
            sentences={**given.sentences, language: rendering},
        )
        for name, rendering in renderings.items()
    }


def character_agreement(a: Sequence[str], b: Sequence[str]) -> Float[np.ndarray, " n"]:
    """Return the share of characters that each two texts have in common, in order.

    `difflib.SequenceMatcher.ratio`: twice the characters in matching blocks, by all characters.
    """
    return np.array(
        [SequenceMatcher(None, x, y, autojunk=False).ratio() for x, y in zip(a, b, strict=True)]
    )


def translators(
    study: Study,
    language: str,
    languages: Sequence[str],
    *,
    component: str = "attn",
    setting: str | None = None,
    template: str | None = None,
    k: int | float = 1024,
    seed: int = 0,
) -> pd.DataFrame:
    """Score one language and the consensus with the translations of each source.

    Args:
        study: Its tasks are the same pairs with `language` from different sources, as
            `translation_sources` makes them; the first one is what the others are compared with.
        language: The language whose translations differ.
        languages: 𝓛, `language` among them.
        component: Internal vector.
        setting: Prompt setting; None is the study's first.
        template: Prompt template; None is the study's first.
        k: Dimensions per text, or fraction of d.
        seed: Of the bootstraps.

    Returns:
        One row per ``method`` and ``source``. Methods: the plain cosine of the language alone; and
        DySem with each semantic vector, on English and the language (the language alone where
        English is not in `languages`), then on all `languages`. Columns ``m``, ``vector``, those of
        `dysem_lab.evaluate.score`; to the first source ``difference``, ``difference_low``,
        ``difference_high`` (paired), ``jaccard``, ``jaccard_low``, ``jaccard_high`` and ``chance``
        of the sets that the method selects (for the language alone its top k), and ``agreement``
        (mean `character_agreement` of the renderings). NaN for the first source itself.

    Raises:
        InputError: Fewer than two sources, pairs that differ, or `language` not in `languages`.
    """
    first, *rest = study.data
    if not rest:
        raise InputError(f"one source of translations ({first}); compare at least two")
    languages = names_of(languages, "language")
    if language not in languages:
        raise InputError(f"{language!r} is not among the languages {'/'.join(languages)}; add it")
    gold, texts = study.data[first].gold, study.texts(first, "en")
    for name in rest:
        if study.texts(name, "en") != texts or (study.data[name].gold != gold).any():
            raise InputError(f"{name!r} has other pairs than {first!r}; give the same ones")
    order = sorted(languages, key=lambda code: (code != "en", code != language))
    ms = sorted({order.index(language) + 1, len(order)})
    unique = different_texts(texts)
    similarities: dict[tuple[str, str], Tensor] = {}
    sets: dict[tuple[str, int], Tensor] = {}
    rows: list[dict[str, object]] = []
    for name in study.data:
        x, english = (
            study.vectors(name, component, setting=setting, template=template, languages=codes)
            for codes in (order, ["en"])
        )
        alone = x[:, [order.index(language)]]
        sets[name, 0] = consensus_set(alone[unique], k)
        for m in ms:
            sets[name, m] = consensus_set(x[unique, :m], k)
        methods = [(f"{language} alone", 0, "", pair_cosine(alone[:, 0]), float(x.shape[-1]))]
        for cell, result in sweep(x, english[:, 0], [k], ms).items():
            label = f"DySem {_joined(order[: cell.m])}, {cell.vector}"
            size = float(result.sizes.double().mean())
            methods.append((label, cell.m, cell.vector, result.similarity, size))
        renderings = [study.texts(task, language) for task in (name, first)]
        agreement = character_agreement(*([side[i] for i in unique] for side in renderings))
        for method, m, vector, similarity, size in methods:
            similarities[method, name] = similarity
            row = {"method": method, "source": name, "m": m or 1, "vector": vector}
            row |= score(similarity, gold, size, seed=seed)
            if name != first:
                row |= mean_difference(
                    "difference", [similarity], [similarities[method, first]], gold, seed
                )
                shared = overlap(sets[first, m], sets[name, m], seed)
                row |= {
                    "jaccard": shared["jaccard"],
                    "jaccard_low": shared["low"],
                    "jaccard_high": shared["high"],
                    "chance": shared["chance"],
                    "agreement": float(agreement.mean()),
                }
            rows.append(row)
    table = pd.DataFrame(rows)
    position = {method: i for i, method in enumerate(dict.fromkeys(table["method"]))}
    return table.sort_values("method", key=lambda c: c.map(position), kind="stable").reset_index(
        drop=True
    )


def _joined(codes: Sequence[str]) -> str:
    return "/".join(codes) if len(codes) <= 4 else f"{len(codes)} languages"
