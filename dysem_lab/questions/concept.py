"""Does the consensus of several languages decode to a concept? The logit lens of its parts.

Notebook 30. Vectors of the last token, and parts of them, go through the final norm and the
unembedding; it is counted whether their top tokens are words of the text. A^L is a sum of what was
added to the stream, and no stream itself: it is read as if it were one, and so are its parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm.auto import tqdm

from dysem_lab.errors import InputError
from dysem_lab.evaluate import holm, mean_with_interval
from dysem_lab.inputs import at_least, names_of, one_of
from dysem_lab.models.readout import token_texts
from dysem_lab.questions.asked import asked
from dysem_lab.questions.concept_passes import Kind, Read, Reading, n_steps
from dysem_lab.questions.concept_picture import (
    DIFFERENCE,
    DIMENSION,
    DIRECTIONS,
    EACH,
    HEAD,
    MEAN,
    ON,
    SETS,
    TEXT,
    caption,
    figure,
)
from dysem_lab.questions.finding import Finding, facts_of
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.scores import only_task
from dysem_lab.questions.study import Study

COMPONENTS = ("attn", "resid", "ffn")  # sums over all blocks, in the basis of the stream
# Measures with an interval → the least and the most that they can be.
INTERVALS = {
    "words": (0.0, 1.0),
    "margin": None,
    "specific": (-1.0, 1.0),
    "difference": (-1.0, 1.0),
}
SHOWN = 6  # tokens of an example


@dataclass(frozen=True, repr=False)
class Concept(Finding):
    """A finding with examples.

    Attributes:
        examples: The first texts of the data whose S-part (mean over the languages, first
            component) has a word of theirs among its top tokens, and the first ones whose has not:
            a row per ``text``, ``component``, ``vector`` and ``part`` with the top ``tokens`` of
            the mean, ``hit`` (whether one of all that are counted is such a word), and ``answer``,
            the model's own top token in English.
    """

    examples: pd.DataFrame


def concept(
    study: Study,
    components: str | Sequence[str] = ("attn", "resid"),
    *,
    k: int | float = 0.25,
    top: int = 10,
    n_random: int = 20,
    n_sets: int = 1,
    n_examples: int = 2,
    seed: int = 0,
) -> Concept:
    """Ask what the logit lens reads in a text's vector, in its part on S(x), and in what is left.

    S(x) is the consensus set over all languages of the study (DySem Eqs. 11-13). Read are the
    vectors in every language and their mean: the whole, its part on S(x), off it, and on random
    sets of equal size; the same of the difference to another text (a quarter of the texts further
    on); the one dimension of S(x) that is most unusual for the text; and the output of one head. A
    random half of the pairs chooses the head (whose top tokens, in English, are most often words of
    the text, less those of another text) and says what is usual; all else is from the other half.

    A token is a word of a text if it is one of its words in any of the languages, or the first four
    letters or more of one. Words that more than 5 % of the texts have do not count. Another word
    for the same thing is missed so; the log-probability of the model's own answer sees it.

    Args:
        study: Of one task, in two languages or more. Its first template and first prompt setting
            are used.
        components: "attn" (A^L), "resid" (h^L), "ffn" (F^L).
        k: Dimensions of S(x), or a fraction of d.
        top: Tokens of a read-out that are looked at.
        n_random: Random directions. They have the mean norm of the whole vectors, which the final
            norm takes away again.
        n_sets: Random sets per text.
        n_examples: Texts of each kind in ``examples``.
        seed: Of the halves, of the first random set, of the directions, and of the bootstraps.

    Returns:
        One row per ``component`` ("one head" for what the chosen head writes), ``vector`` ("text",
        "difference", "one dimension", "random directions"), ``part`` ("S(x)", "off S(x)", "whole",
        "random sets") and ``language``: a code, "each" (mean over the languages of what is
        measured) or "mean" (the mean vector). ``n_texts``, ``n_draws``; ``n_dims``, mean size;
        ``words``, the share of texts that have a word, in any language, among the top tokens, with
        ``words_low``, ``words_high``; ``words_own``, a word in the same language ("mean": in any);
        ``words_other``, a word of another text; ``specific``, words minus words_other, with
        ``specific_low``, …; ``difference``, words of the part on S(x) minus words of this row, with
        ``difference_low``, …; ``log_p`` (nats) and ``rank`` (median) of the model's own top token
        in that language ("mean": of those in all languages, averaged); ``margin``, that
        log-probability minus that of another text's answer, where they differ, ``margin_low``, …;
        ``agreement``, the share of top tokens that two languages have in common, and
        ``agreement_other``, that two languages of two texts have. Intervals are 95 % bootstraps
        over pairs; where all pairs have the same share, such as 0, they reach as far as Wilson's
        interval of none among so many does. ``specific`` and ``difference`` are tested for "each"
        and "mean": ``…_p``, and ``…_holm`` corrected for all of them. A text whose S(x) is empty is
        left out of its rows.

    Raises:
        InputError: Several tasks, one language, fewer than 6 pairs, an unknown component, k or top.

    Source: the logit lens, nostalgebraist (2020); of heads, Elhage et al. (2021).
    """
    n_random = at_least(n_random, 2, "n_random")
    asks = asked(study, k=k, top=top, n_random=n_random, n_sets=n_sets, seed=seed)
    names = [one_of(name, COMPONENTS, "component") for name in names_of(components, "component")]
    unsaid = {"components": names, **asked(study, n_examples=n_examples)}
    task = only_task(study)
    n_pairs = len(study.data[task])
    if n_pairs < 6 or len(study.languages) < 2 or not names:
        raise InputError(
            "a concept is asked of a component, of 6 pairs or more in 2 languages or more; got "
            f"{names} of {n_pairs} pairs in {'/'.join(study.languages)}"
        )
    given = study.prompted(study.templates[0], study.settings[0])
    prepare(given.needs([*dict.fromkeys([*names, "resid"])]), runs_the_model=True)
    found: dict[Kind, Read] = {}
    with tqdm(total=n_steps(len(names), n_sets), desc="read-out", unit="part") as bar:
        reading = Reading(given, top, seed, bar.update)
        for name in names:
            found |= reading.component(name, k, n_random, n_sets)
        head, of_head = reading.head()
        found |= of_head
    scores = table(found, reading.codes, reading.half.unit, seed=seed)
    shown = _examples(found, reading, names[0], n_examples)
    facts = facts_of(given, languages=given.languages, **asks)
    n_texts = {"choosing": len(reading.choosing.first), "reporting": len(reading.half.first)}
    recorded = {"languages": given.languages, "head": head._asdict(), "texts": n_texts}
    recorded |= {"examples": shown.to_dict("records")}
    facts = replace(facts, unsaid=unsaid, recorded={**facts.recorded, **recorded})
    said = caption(scores, given.name, top, head)
    return Concept("concept", scores, figure(scores, shown, facts), said, facts, shown)


def table(
    found: dict[Kind, Read], codes: Sequence[str], unit: np.ndarray, *, seed: int = 0
) -> pd.DataFrame:
    """Return the table of `concept`.

    Args:
        found: What was read.
        codes: The languages, in the order of what was read.
        unit: What is resampled: the pair of each text.
        seed: Of the bootstraps.
    """
    rows = []
    for kind, read in found.items():
        family = Kind(kind.component, DIFFERENCE if kind.vector == DIFFERENCE else TEXT, ON)
        on = found.get(family)
        for view, language in enumerate([*codes, EACH, MEAN]):
            of = {name: _view(values, view) for name, values in read.values.items()}
            compared = {"words": of["words"], "margin": of["margin"]}
            compared["specific"] = of["words"] - of["words_other"]
            if on is not None and kind != family and kind.vector != DIMENSION:
                compared["difference"] = _view(on.values["words"], view) - of["words"]
            row: dict[str, Any] = {**kind._asdict(), "language": language}
            row |= {"n_texts": int((~np.isnan(of["words"])).sum()), "n_draws": read.n_draws}
            row["n_dims"] = read.n_dims
            for name in ("words_own", "words_other", "log_p", "agreement", "agreement_other"):
                row[name] = _mean(of[name])
            row["rank"] = float(np.nanmedian(of["rank"])) if row["n_texts"] else np.nan
            for name, within in INTERVALS.items():
                values = compared.get(name, np.full(len(unit), np.nan))
                mean = mean_with_interval(_per_unit(values, unit), within=within, seed=seed)
                row |= {
                    name: mean["mean"],
                    f"{name}_low": mean["low"],
                    f"{name}_high": mean["high"],
                }
                if name in ("specific", "difference"):
                    row[f"{name}_p"] = mean["p"] if language in (EACH, MEAN) else np.nan
            rows.append(row)
    scores = pd.DataFrame(rows)
    p = scores[["specific_p", "difference_p"]]
    corrected = holm(p.to_numpy().ravel()).reshape(p.shape)
    return scores.assign(specific_holm=corrected[:, 0], difference_holm=corrected[:, 1])


def _view(values: Any, view: int) -> Float[np.ndarray, " n"]:
    """Return a measure of each text in a language, in each of them (their mean), or of the mean."""
    array = values.double().numpy()
    m = array.shape[1] - 1
    if view != m:
        return array[:, min(view, m)]
    with np.errstate(invalid="ignore"):
        n_there = (~np.isnan(array[:, :m])).sum(1)
        return np.where(n_there, np.nansum(array[:, :m], 1) / np.maximum(n_there, 1), np.nan)


def _mean(values: Float[np.ndarray, " n"]) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else np.nan


def _per_unit(values: Float[np.ndarray, " n"], unit: np.ndarray) -> Float[np.ndarray, " units"]:
    """Return the mean over the texts of each unit that is resampled, where there is one."""
    return pd.Series(values).groupby(unit).mean().to_numpy()


def _examples(found: dict[Kind, Read], reading: Reading, component: str, n: int) -> pd.DataFrame:
    """Return the top tokens of the first texts that decode to a word of theirs, or do not."""
    hit = found[Kind(component, TEXT, ON)].values["words"][:, -1].numpy()
    chosen = [*np.flatnonzero(hit == 1)[:n], *np.flatnonzero(hit == 0)[:n]]
    answers = token_texts(reading.lens, reading.answers[:, 0].tolist())
    rows = []
    for i in chosen:
        for kind, read in found.items():
            shown = kind.component in (component, HEAD) and kind.vector != DIRECTIONS
            if shown and kind.part != SETS:
                tokens = token_texts(reading.lens, read.ids[i, :SHOWN].tolist())
                row = {"text": reading.english[i], "answer": answers[i], **kind._asdict()}
                row["hit"] = bool(read.values["words"][i, -1] == 1)
                rows.append({**row, "tokens": tokens})
    columns = ["text", "answer", *Kind._fields, "hit", "tokens"]
    return pd.DataFrame(rows, columns=columns)
