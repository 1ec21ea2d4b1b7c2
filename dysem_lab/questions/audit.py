"""Of DySem's gain over the plain cosine, what remains beside each control? Notebook 25."""

import html
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.consensus import consensus_set, resolve_k
from dysem_lab.data.sts import STSData
from dysem_lab.display import amount
from dysem_lab.errors import InputError
from dysem_lab.evaluate import holm, paired_difference, score
from dysem_lab.models.steering import Contrast
from dysem_lab.questions import floors
from dysem_lab.questions.asked import asked, require_same_shape, require_study
from dysem_lab.questions.controls import (
    CONTROLS,
    GROUPS,
    Control,
    Row,
    Vectors,
    choices_of_sets,
    coordinates,
    dysem,
    methods,
    parts,
    transforms,
    views,
    without_some_words,
)
from dysem_lab.questions.finding import Facts, Finding, facts_of
from dysem_lab.questions.names import NORM_NAMES
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.scores import only_task, pair_cosine, require_order
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import (
    PALETTE,
    SCORE,
    difference_axis,
    gain,
    layout,
    lines_down,
    measured,
    range_with_room,
    side_by_side,
)
from dysem_lab.questions.verdict import caption
from dysem_lab.translation.paraphrases import N_WRITTEN, Paraphrases, paraphrased, source_for

SCORES = ("spearman", "low", "high")
DIFFERENCES = ("difference", "difference_low", "difference_high")
VECTOR_COLOURS = {"mean": PALETTE[0], "source": PALETTE[1], "": PALETTE[6]}
VECTOR_NAMES = {"mean": "mean over languages", "source": "English vector", "": "no vector"}
OFFSETS = {"mean": -0.24, "source": 0.24, "": 0.0}
N_RESAMPLES = 2000  # of differences: the least p, corrected for all rows, has to be below 0.05
PART = Control("part", "plain cosine on these pairs alone", "is it one domain, or one length?")


def audit(
    study: Study,
    languages: Sequence[str],
    *,
    component: str = "attn",
    k: int | float = 0.25,
    fit: str | Path | STSData = "demo",
    fit_split: str = "test",
    n_rotations: int = 20,
    contrast: Contrast | None = None,
    random_weights: Study | None = None,
    paraphrases: Paraphrases | None = None,
    seed: int = 0,
) -> Finding:
    """Put every control beside DySem, and say which part of its gain remains.

    Args:
        study: Of one task. Its first template and first prompt setting are DySem's; as many of its
            templates as there are languages stand, in English, in their place in one control.
        languages: 𝓛.
        component: Internal vector.
        k: Dimensions per text, or fraction of d.
        fit: Other texts in the same languages, on which means, directions and fixed sets are
            fitted; those that are scored too are left out, and counted.
        fit_split: Of the source that `fit` names, "test" or "dev".
        n_rotations: Draws of everything that is random.
        contrast: Of Contrastive Prompting, whose plain cosine is put beside it.
        random_weights: A study of the same data and a model of the same shape that was never
            trained; without it that control is left out.
        paraphrases: In the place of m languages, the English text and m − 1 paraphrases, at most
            4: from a source as for `dysem_lab.paraphrased`. None takes those of the demo set on
            texts of the demo set, and leaves that control out on others.
        seed: The first draw, and the bootstraps.

    Returns:
        One row per control and ``vector``, with ``group``, ``formula``, ``asks`` and ``note``; the
        columns of `dysem_lab.evaluate.score`; ``difference``, ``difference_low``,
        ``difference_high``, ``p``: the paired difference to DySem, which is the first row;
        ``p_holm``, corrected for the ``n_tried`` rows that have one. A row of ``n_draws`` random
        draws is their mean, its intervals span theirs, its p is the largest, and ``draw_low``,
        ``draw_high`` are their lowest and highest score. NaN where ``note`` says why. A part of
        the pairs is the plain cosine on them, and its difference to DySem on them. The table in
        words is `dysem_lab.questions.verdict.verdict`.

    Raises:
        InputError: Several tasks, fewer than 3 pairs, pairs with one score, or that DySem or the
            plain cosine finds all equally similar, no language or one that the study does not have,
            k out of range, no draws, fewer than two other texts to fit on, or random weights of
            another shape or data.
        MissingTranslationError: The given paraphrases lack one of a text.
    """
    of_sets = {"component": component, "k": k, "n_rotations": n_rotations, "seed": seed}
    given = asked(study, languages=languages, **of_sets)
    task, codes = only_task(study), given["languages"]
    if len(study.data[task]) < 3:
        raise InputError(
            "an audit compares scores of 3 pairs or more; got "
            f"{amount(len(study.data[task]), 'pair')}"
        )
    require_order(study.data[task])
    prompts = [template for template in study.templates if template != "none"][: len(codes)]
    if not prompts:
        raise InputError("the study has no prompt, only 'none'; give it templates='prompteol'")
    setting, read = study.settings[0], list(dict.fromkeys(["en", *codes]))
    own = study.prompted(prompts[0], setting, read)
    other, english = own.on(fit, fit_split), study.prompted(prompts, setting, ["en"])
    steered = [part.prompted(settings="english", languages=["en"]) for part in (own, other)]
    untrained = None
    if random_weights is not None:
        require_study(random_weights)
        untrained = random_weights.prompted(prompts[0], setting, read)
        if untrained.texts(only_task(untrained), "en") != study.texts(task, "en"):
            raise InputError("random_weights must be a study of the same pairs; sample them alike")
    one_prompt = study.prompted(prompts[0], setting, ["en"])
    copies = _copies(one_prompt, len(codes) - 1, seed)
    rephrased, by = _rephrased(one_prompt, len(codes) - 1, paraphrases)
    needs = [part.needs(component) for part in (own, other, english, *copies, *rephrased)]
    if contrast is not None:
        needs += [part.needs(component, contrasts=contrast) for part in steered]
    if untrained is not None:
        needs.append(untrained.needs(component))
    kept, fitted_on = _other_texts(other, study.texts(task, "en"))
    prepare(*needs)

    def english_of(part: Study, **settings: Any) -> Float[Tensor, "twice_n d"]:
        return part.vectors(only_task(part), component, languages=["en"], **settings)[:, 0]

    def vectors_of(part: Study) -> Vectors:
        return Vectors(part.vectors(only_task(part), component, languages=codes), english_of(part))

    of, to_fit = vectors_of(own), vectors_of(other)
    to_fit = Vectors(to_fit.languages[kept], to_fit.english[kept])
    contrasted = None
    if contrast is not None:
        x, y = (english_of(part, contrast=contrast) for part in steered)
        contrasted = x, y[kept]
    views = torch.stack([english_of(english, template=name) for name in prompts], dim=1)
    shortened = torch.stack([of.english, *map(english_of, copies)], dim=1)
    reworded = next((part.vectors(only_task(part), component) for part in rephrased), None)
    size = resolve_k(k, of.english.shape[1])
    if untrained is not None:
        require_same_shape(untrained, own)
    rows = chain(
        _rows(
            *(of, to_fit, size, range(seed, seed + n_rotations)),
            *(contrasted, views, shortened, reworded),
        ),
        [_untrained(vectors_of(untrained) if untrained else None, size)],
        _floors(own, [other.texts(only_task(other), "en")[i] for i in kept]),
        _parts(own.data[task], of),
    )
    facts = facts_of(
        study,
        **given,
        template=prompts[0],
        setting=setting,
        contrasts=_in_words(contrast) if contrast else None,
        fitted_on=fitted_on,
        paraphrases=by,
    )
    fresh = None if random_weights is None else random_weights.name
    unsaid = {"fit": only_task(other), "fit_split": fit_split, "random_weights": fresh}
    unsaid["contrast"] = str(contrast) if contrast else None
    facts = replace(facts, unsaid=unsaid)
    scores = table(rows, study.data[task].gold, seed=seed)
    for row in (scores.iloc[0], scores[scores["control"] == "plain cosine"].iloc[0]):
        if np.isnan(row["spearman"]):
            raise InputError(
                f"{row['control']} finds all of these pairs equally similar, or has no similarity "
                "of them, so there is no gain to audit; give pairs of other texts"
            )
    return Finding("audit", scores, figure(scores, facts), caption(scores), facts)


def _other_texts(other: Study, scored: Sequence[str]) -> tuple[list[int], str]:
    """Return the rows of the different texts that are not scored, and what they are called."""
    ((name, data),) = other.data.items()
    there = {text: i for i, text in reversed([*enumerate(data.texts("en"))])}
    left_out = there.keys() & set(scored)
    kept = sorted(i for text, i in there.items() if text not in left_out)
    if len(kept) < 2:
        raise InputError(
            f"{len(left_out)} of the {len(there)} texts of {name} are scored, which leaves "
            f"{len(kept)} to fit on; fit on other texts, or score a sample of these"
        )
    said = f" ({len(left_out)} that are scored left out)" if left_out else ""
    return kept, f"{len(kept)} texts of {data.name}{said}"


def _copies(english: Study, n: int, seed: int) -> list[Study]:
    """Return studies of n copies of the English texts, each without some words."""
    data = english.data[only_task(english)]
    made = []
    for i in range(n):
        texts = without_some_words(data.texts("en"), seed + i)
        sides = texts[: len(data)], texts[len(data) :]
        made.append(english.on(replace(data, sentences={"en": sides})))
    return made


def _in_words(contrast: Contrast) -> str:
    """Return where a contrast is made, and how long its difference is, in words."""
    norm = f"α = {contrast.alpha:g}" if contrast.norm == "scaling" else NORM_NAMES[contrast.norm]
    return f"at block {contrast.layer + 1}, {norm}"


def _rephrased(
    english: Study, n: int, paraphrases: Paraphrases | None
) -> tuple[list[Study], str | None]:
    """Return the study of the English texts and n paraphrases, if there are such; and whose."""
    task = only_task(english)
    by = source_for(english.texts(task, "en"), paraphrases)
    if by is None or n < 1:
        return [], None
    pairs = paraphrased(english.data[task], by, min(n, N_WRITTEN))
    return [english.on({task: pairs}, languages=pairs.languages)], by.name


def _rows(
    of: Vectors,
    fit: Vectors,
    k: int,
    draws: Sequence[int],
    contrasted: tuple[Tensor, Tensor] | None,
    prompts: Float[Tensor, "n views d"],
    copies: Float[Tensor, "n m d"] | None = None,
    paraphrases: Float[Tensor, "n views d"] | None = None,
) -> Iterator[Row]:
    """Yield the controls that are made of vectors."""
    yield from methods(of, k, contrasted)
    chosen = consensus_set(of.languages, k).sum(-1).double().mean()
    yield from transforms(of, fit, max(1, round(float(chosen))))
    yield from coordinates(of, fit, k, draws)
    yield from choices_of_sets(of, fit, k, draws)
    yield from views(of, k, draws, prompts, copies, paraphrases)


def _untrained(of: Vectors | None, k: int) -> Row:
    if of is None:
        return Row("random weights", "", [], "no study of a model with fresh weights was given")
    vector = list(of.kinds)[-1]
    return Row("random weights", vector, [dysem(of, k, vector)])


def _floors(study: Study, fit: Sequence[str]) -> Iterator[Row]:
    texts = study.texts(only_task(study), "en")
    for name, similarity in (
        ("word overlap", floors.word_overlap(texts)),
        ("TF-IDF", floors.tf_idf(texts, fit)),
        ("input embeddings", floors.input_embeddings(study.lens, texts)),
        ("length difference", floors.length_difference(texts)),
    ):
        yield Row(name, "", [(torch.as_tensor(similarity), np.nan)])


def _parts(data: STSData, of: Vectors) -> Iterator[Row]:
    lengths = np.array([len(floors.words(text)) for text in data.texts("en")])
    return parts(pair_cosine(of.english), data.subset, lengths.reshape(2, -1).sum(0))


def table(rows: Iterable[Row], gold: Float[np.ndarray, " n"], *, seed: int = 0) -> pd.DataFrame:
    """Score rows, the first of which is DySem, and compare each with it; see `audit`."""
    found: list[dict[str, object]] = []
    reference: Tensor | None = None
    with warnings.catch_warnings():  # what is undefined is counted in the table
        warnings.filterwarnings("ignore", "Spearman is undefined|.* have no similarity")
        for row in rows:
            found.append(_scored(row, reference, gold, seed))
            reference = row.draws[0][0] if reference is None else reference
    scores = pd.DataFrame(found)
    scores["p_holm"] = holm(scores["p"].to_numpy())
    scores["n_tried"] = int(scores["p"].notna().sum())
    columns = [name for name in scores if name != "note"]
    return scores[[*columns, "note"]]


def _scored(
    row: Row, reference: Tensor | None, gold: Float[np.ndarray, " n"], seed: int
) -> dict[str, object]:
    """Return a row of the table, but for what is corrected over all of them."""
    at = np.arange(len(gold)) if row.pairs is None else row.pairs
    control = CONTROLS.get(row.control, PART)
    scores = pd.DataFrame(
        [score(similarity[at], gold[at], size, seed=seed) for similarity, size in row.draws]
    )
    differences = pd.DataFrame(
        [
            paired_difference(
                similarity[at], reference[at], gold[at], seed=seed, n_resamples=N_RESAMPLES
            )
            for similarity, _ in row.draws
            if reference is not None and int((similarity[at] + reference[at]).isfinite().sum()) >= 3
        ],
        columns=["difference", "low", "high", "p"],
    )
    empty = scores.empty
    return {
        "group": control.group,
        "control": row.control,
        "vector": row.vector,
        "formula": control.formula,
        "asks": control.asks,
        "spearman": np.nan if empty else scores["spearman"].mean(),
        "low": np.nan if empty else scores["low"].min(),
        "high": np.nan if empty else scores["high"].max(),
        "n_dims": np.nan if empty else scores["n_dims"].mean(),
        "n_pairs": len(at) if empty else int(scores["n_pairs"].min()),
        "n_undefined": 0 if empty else int(scores["n_undefined"].max()),
        "n_draws": len(scores),
        "draw_low": np.nan if empty else scores["spearman"].min(),
        "draw_high": np.nan if empty else scores["spearman"].max(),
        "difference": differences["difference"].mean(),
        "difference_low": differences["low"].min(),
        "difference_high": differences["high"].max(),
        "p": differences["p"].max(),
        "note": row.note,
    }


def figure(table: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return all controls from top to bottom: scores on the left, differences to DySem right."""
    shown = table[table["spearman"].notna()]
    lines: list[str] = []
    place = {}
    for group, part in shown.groupby("group", sort=False):
        lines.append(f"<b>{GROUPS[group]}</b>")
        for control in part["control"].unique():
            place[control] = len(lines)
            lines.append(html.escape(control, quote=False))
    figure = side_by_side(["score (dotted: DySem)", "paired difference to DySem"], [0.46, 0.54])
    ends = range_with_room(shown[[*DIFFERENCES]].assign(zero=0.0), 0.5)
    several = shown.groupby("control")["vector"].nunique()
    for vector, part in shown.groupby("vector", sort=False):
        name, colour = VECTOR_NAMES[vector], VECTOR_COLOURS[vector]
        y = part["control"].map(place)
        y += np.where(part["control"].map(several) > 1, OFFSETS[vector], 0)
        measured(figure, part[[*SCORES]], y, 1, name, colour, ".1f")
        part, y = part[part["difference"].notna()], y[part["difference"].notna()]
        if len(part):
            gains = part.apply(gain, axis=1, name="difference")
            measured(figure, part[[*DIFFERENCES]], y, 2, name, colour, gains, ends[1])
    lines_down(figure, lines)
    figure.add_vline(x=table.iloc[0]["spearman"], row=1, col=1, line={"dash": "dot", "width": 1})
    figure.update_xaxes(title=SCORE, range=range_with_room(shown[[*SCORES]]), col=1)
    difference_axis(figure, SCORE, ends, col=2)
    title = "Which part of DySem's gain remains beside each control?"
    return layout(figure, title, facts, 32 * len(lines) + 220)
