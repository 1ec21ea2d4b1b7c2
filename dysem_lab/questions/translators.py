"""How much hangs on the translator? The same pairs through several sources. Notebook 14."""

from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from torch import Tensor

from dysem_lab.bootstrap import MANY
from dysem_lab.consensus import consensus_set
from dysem_lab.data.sts import STSData, load_data
from dysem_lab.display import amount
from dysem_lab.errors import InputError
from dysem_lab.evaluate import paired_difference, score
from dysem_lab.inputs import names_of, one_of
from dysem_lab.questions.asked import asked
from dysem_lab.questions.contrast_rows import NO_GAIN
from dysem_lab.questions.finding import Facts, Finding, facts_of
from dysem_lab.questions.grid import sweep
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.overlap import different_texts, overlap
from dysem_lab.questions.scores import (
    LEVEL,
    by_holm,
    certain,
    gain_columns,
    mean_size,
    one_prompt,
    pair_cosine,
    with_holm,
)
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import (
    CHANCE,
    PALETTE,
    SCORE,
    difference_axis,
    gain,
    layout,
    lines_down,
    measured,
    noted,
    range_with_room,
    side_by_side,
    whiskers,
)

UNTRANSLATED = "untranslated"


def translators(
    study: Study,
    language: str,
    languages: Sequence[str],
    *,
    component: str = "attn",
    k: int | float = 0.25,
    seed: int = 0,
) -> Finding:
    """Score one language and the consensus with the translations of each source.

    Args:
        study: Its tasks are the same pairs with `language` from different sources, as
            `translation_sources` makes them; the first one is what the others are compared with.
            Its first template and first prompt setting are used.
        language: The language whose translations differ.
        languages: 𝓛, `language` among them.
        component: Internal vector.
        k: Dimensions per text, or fraction of d.
        seed: Of the bootstraps.

    Returns:
        One row per ``method`` and ``source``. Methods: the plain cosine of the language alone; and
        DySem with each semantic vector, on English and the language (the language alone where
        English is not in `languages`), then on all `languages`. Columns ``m``, ``vector``, those of
        `dysem_lab.evaluate.score`; to the first source ``difference``, ``difference_low``,
        ``difference_high``, ``difference_p`` (paired), ``difference_p_holm``, corrected for all
        ``n_compared`` of the table, ``jaccard``, ``jaccard_low``, ``jaccard_high`` and ``chance``
        of the sets that the method selects (for the language alone its top k), and ``agreement``
        (mean `character_agreement` of the renderings). NaN for the first source itself.

    Raises:
        InputError: Fewer than two sources, pairs that differ, or `language` not in `languages`.
    """
    given = asked(study, languages=languages, component=component, k=k, seed=seed)
    one_of(language, given["languages"], "language of the consensus")
    _check(study)
    prepare(study.needs(component))
    scores = table(study, language, **given)
    facts = facts_of(study, [*study.data][:1], language=language, **one_prompt(study, given))
    drawn, said = figure(scores, facts), caption(scores)
    return Finding(f"translators_{language}", scores, drawn, said, facts)


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
        seconds[other_label] = second.sentences[code], second.origins[code]
    renderings = {
        label: (given.sentences[language], given.origins[language]),
        **seconds,
        UNTRANSLATED: (given.sentences["en"], given.origins["en"]),
    }
    return {
        name: replace(
            given,
            source=f"{given.source}; {language}: {name}",
            sentences={**given.sentences, language: rendering},
            origins={**given.origins, language: origin},
        )
        for name, (rendering, origin) in renderings.items()
    }


def character_agreement(a: Sequence[str], b: Sequence[str]) -> Float[np.ndarray, " n"]:
    """Return the share of characters that each two texts have in common, in order.

    `difflib.SequenceMatcher.ratio`: twice the characters in matching blocks, by all characters.
    """
    return np.array(
        [SequenceMatcher(None, x, y, autojunk=False).ratio() for x, y in zip(a, b, strict=True)]
    )


def _check(study: Study) -> None:
    """Raise `InputError` unless the study has the same pairs from two sources or more."""
    first, *rest = study.data
    if not rest:
        raise InputError(f"one source of translations ({first}); compare at least two")
    gold, texts = study.data[first].gold, study.texts(first, "en")
    for name in rest:
        if study.texts(name, "en") != texts or (study.data[name].gold != gold).any():
            raise InputError(f"{name!r} has other pairs than {first!r}; give the same ones")


def table(
    study: Study,
    language: str,
    languages: Sequence[str],
    component: str,
    k: int | float,
    seed: int,
) -> pd.DataFrame:
    """Return the table of `translators`."""
    first = next(iter(study.data))
    gold, texts = study.data[first].gold, study.texts(first, "en")
    order = sorted(languages, key=lambda code: (code != "en", code != language))
    ms = sorted({order.index(language) + 1, len(order)})
    unique = different_texts(texts)
    similarities: dict[tuple[str, str], Tensor] = {}
    sets: dict[tuple[str, int], Tensor] = {}
    rows: list[dict[str, object]] = []
    for name in study.data:
        x, english = (study.vectors(name, component, languages=codes) for codes in (order, ["en"]))
        alone = x[:, [order.index(language)]]
        sets[name, 0] = consensus_set(alone[unique], k)
        for m in ms:
            sets[name, m] = consensus_set(x[unique, :m], k)
        methods = [(f"{language} alone", 0, "", pair_cosine(alone[:, 0]), float(x.shape[-1]))]
        for cell, result in sweep(x, english[:, 0], [k], ms).items():
            label = f"DySem {_joined(order[: cell.m])}, {cell.vector}"
            size = mean_size(result.sizes)
            methods.append((label, cell.m, cell.vector, result.similarity, size))
        renderings = [study.texts(task, language) for task in (name, first)]
        agreement = character_agreement(*([side[i] for i in unique] for side in renderings))
        for method, m, vector, similarity, size in methods:
            similarities[method, name] = similarity
            row = {"method": method, "source": name, "m": m or 1, "vector": vector}
            row |= score(similarity, gold, size, seed=seed)
            if name != first:
                row |= _difference(similarity, similarities[method, first], gold, seed)
                shared = overlap(sets[first, m], sets[name, m], seed)
                row |= {
                    "jaccard": shared["jaccard"],
                    "jaccard_low": shared["low"],
                    "jaccard_high": shared["high"],
                    "chance": shared["chance"],
                    "agreement": float(agreement.mean()),
                }
            rows.append(row)
    tidy = with_holm(pd.DataFrame(rows), "difference")
    of_method = [part for _, part in tidy.groupby("method", sort=False)]
    return pd.concat(of_method, ignore_index=True)


def _difference(
    similarity: Tensor, first: Tensor, gold: Float[np.ndarray, " n"], seed: int
) -> dict[str, float]:
    """Return the columns of a paired difference; NaN where fewer than three pairs have one."""
    paired = NO_GAIN
    if int((similarity + first).isfinite().sum()) >= 3:
        paired = paired_difference(similarity, first, gold, seed=seed, n_resamples=MANY)
    return gain_columns(paired, "difference")


def _joined(codes: Sequence[str]) -> str:
    return "/".join(codes) if len(codes) <= 4 else f"{len(codes)} languages"


def figure(table: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return scores, paired differences and overlap of the sets for each translation source."""
    sources = table["source"].unique().tolist()
    methods = table["method"].unique().tolist()
    titles = ["score", f"difference to {sources[0]}", f"overlap with {sources[0]}"]
    figure = side_by_side(titles, [0.36, 0.36, 0.28])
    offsets = np.linspace(-0.25, 0.25, len(sources))
    difference = ["difference", "difference_low", "difference_high"]
    differences = range_with_room(table[difference].assign(zero=0.0), 0.8)
    for i, name in enumerate(sources):
        part = table[table["source"] == name]
        y = part["method"].map({m: j for j, m in enumerate(methods)}) + offsets[i]
        colour = PALETTE[i % len(PALETTE)]
        measured(figure, part[["spearman", "low", "high"]], y, 1, name, colour, ".1f")
        if i:
            stars = (part["difference_p_holm"] < LEVEL).map({True: "*", False: ""})
            gains = part.apply(gain, axis=1, name="difference") + stars
            measured(figure, part[difference], y, 2, name, colour, gains, differences[1])
            shared = part[["jaccard", "jaccard_low", "jaccard_high"]]
            measured(figure, shared, y, 3, name, colour, ".2f")
            figure.add_scatter(
                x=part["chance"],
                y=y,
                mode="markers",
                marker={"color": CHANCE, "size": 14, "symbol": "line-ns", "line_width": 3},
                marker_line_color=CHANCE,
                name="two random sets",
                legendgroup="chance",
                showlegend=i == 1,
                hovertemplate="two random sets: %{x:.3f}",
                row=1,
                col=3,
            )
    lines_down(figure, methods, 0.5, 0.5)
    figure.update_xaxes(title=SCORE, range=range_with_room(table[["low", "high"]]), col=1)
    difference_axis(figure, SCORE, differences, col=2)
    ticks = [0, 0.25, 0.5, 0.75, 1]
    figure.update_xaxes(title="Jaccard index of the sets", range=[0, 1.25], tickvals=ticks, col=3)
    title = "How much hangs on the translator?"
    height = 26 * len(methods) * len(sources) + 40 * len(methods) + 220
    note = f"* {by_holm(table, 'by')}"
    return layout(figure, title, noted(facts, whiskers(table), note), height)


def caption(table: pd.DataFrame) -> str:
    """Return one line: each source against the first one, by method."""
    first = table["source"].iloc[0]
    scores = table.set_index(["method", "source"])["spearman"]
    parts = []
    for source, rows in table[table["source"] != first].groupby("source", sort=False):
        differences = [
            f"{row['method']} {gain(row, 'difference')}"
            + (" (certain)" if row["difference_p_holm"] < LEVEL else "")
            for _, row in rows.iterrows()
        ]
        overlaps = rows.drop_duplicates("m")
        parts.append(
            f"{source} against {first}: {', '.join(differences)}; Jaccard index of the sets "
            f"{overlaps['jaccard'].min():.2f} to {overlaps['jaccard'].max():.2f} (random "
            f"{rows['chance'].max():.2f}), characters in common {rows['agreement'].iloc[0]:.0%}"
        )
    compared = table[table["source"] != first]
    lead = (
        "Another source of the translations changes the score for certain in "
        f"{sum(certain(compared, 'difference'))} of {amount(len(compared), 'comparison')} "
        f"(p < {LEVEL:g} after Holm)"
    )
    own = ", ".join(f"{method} {scores[method, first]:.1f}" for method in table["method"].unique())
    return f"{lead}. {SCORE} with {first}: {own}. {'. '.join(parts)}."
