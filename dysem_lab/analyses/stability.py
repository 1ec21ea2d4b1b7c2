"""What the sets S(x) depend on, and how often a dimension is selected."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from scipy.special import gammaln
from torch import Tensor

from dysem_lab.consensus import consensus_set
from dysem_lab.errors import InputError
from dysem_lab.evaluate import LEVEL, N_RESAMPLES
from dysem_lab.inputs import names_of
from dysem_lab.questions.random_sets import draw_sets
from dysem_lab.questions.study import Study

PARAPHRASE = 4.5  # gold ratings from here on count as the same meaning
VALUES_PER_CHUNK = 2_000_000  # of the chance level; bounds the memory to about 100 MB


def jaccard(A: Bool[Tensor, "n d"], B: Bool[Tensor, "n d"]) -> Float[np.ndarray, " n"]:
    """Return |A ∩ B| / |A ∪ B| of each row, NaN where both are empty."""
    common, either = (A & B).sum(-1).double(), (A | B).sum(-1).double()
    return (common / either).numpy()  # 0 / 0 is NaN


def chance_jaccard(
    sizes_a: Int[np.ndarray, " n"], sizes_b: Int[np.ndarray, " n"], d_model: int
) -> Float[np.ndarray, " n"]:
    """Return the expected Jaccard index of two independent random sets of these sizes out of d.

    The overlap h of two such sets is hypergeometric, so this is Σ_h P(h) h / (a + b − h), exactly;
    NaN where both sets are empty.
    """
    log_factorial = gammaln(np.arange(d_model + 2) + 1)

    def log_choose(n: np.ndarray, r: np.ndarray) -> np.ndarray:
        return log_factorial[n] - log_factorial[r] - log_factorial[n - r]

    sizes, row = np.unique(np.stack([sizes_a, sizes_b]), axis=1, return_inverse=True)
    expected = []
    h = np.arange(int(sizes.min(axis=0).max(initial=0)) + 1)
    n_chunks = max(1, sizes.shape[1] * len(h) // VALUES_PER_CHUNK)
    for chunk in np.array_split(sizes, n_chunks, axis=1):
        a, b = chunk[0][:, None], chunk[1][:, None]
        possible = (h <= a) & (h <= b) & (a + b - h <= d_model)
        overlap = np.where(possible, h, np.maximum(0, a + b - d_model))
        log_p = log_choose(a, overlap) + log_choose(d_model - a, b - overlap)
        p = np.exp(log_p - log_choose(np.full_like(b, d_model), b)) * possible
        with np.errstate(invalid="ignore"):
            expected.append((p * (overlap / (a + b - overlap))).sum(1))
    return np.concatenate(expected)[row.reshape(-1)]


def stability(
    study: Study,
    task: str,
    languages: Sequence[str],
    *,
    component: str = "attn",
    setting: str | None = None,
    template: str | None = None,
    k: int | float = 1024,
    seed: int = 0,
    others: Mapping[str, Mapping[str, Study]] | None = None,
) -> pd.DataFrame:
    """Return how far S(x) stays the same when something about the text changes.

    ``varied`` is "language" (the top k of each language alone, every two languages), "one language
    less" (S(x) with and without a language), "gold" (S(x) against S(y) of the pairs rated 0–1, …,
    4–5, and those from 4.5, which are paraphrases), and the keys of ``others``.

    Args:
        study: The model and its pairs.
        task: Name of a task of the study.
        languages: 𝓛.
        component: Internal vector.
        setting: Prompt setting; None is the study's first.
        template: Prompt template; None is the study's first.
        k: Dimensions per text, or fraction of d.
        seed: Of the intervals and of the drawing of another text.
        others: What else is varied → name → a study in which it has that value, such as
            ``{"dtype": {"float32": a, "bfloat16": b}}``; every two of the same key are compared, in
            their own first template and setting. They need this task on the same pairs as each
            other, which may be fewer than in `study`.

    Returns:
        One row per ``varied`` and ``level`` with ``jaccard`` (mean over texts, or pairs for
        "gold"), ``low``, ``high`` (its 95 % bootstrap interval), ``other_text`` (the same
        comparison with the second set from another text, drawn at random: what sets have in common
        whatever the text), ``chance`` (expected of two random sets of the same sizes), ``size``
        (mean size of the sets), ``n`` (texts or pairs that count: different English texts, and
        pairs of two different ones) and ``n_undefined`` (both sets empty; left out).

    Raises:
        InputError: A name that the study does not have, fewer than two different texts, or other
            studies with different pairs.
    """
    languages = names_of(languages, "language")
    x = study.vectors(task, component, setting=setting, template=template, languages=languages)
    texts = study.texts(task, "en")
    unique = different_texts(texts)
    if len(unique) < 2:
        raise InputError(f"{task} has {len(unique)} different texts; stability needs at least 2")
    sets, once = consensus_set(x, k), x[unique]
    rows: list[dict[str, object]] = []

    def compare(varied: str, level: str, A: Tensor, B: Tensor) -> None:
        rows.append({"varied": varied, "level": level, **overlap(A, B, seed)})

    alone = [consensus_set(once[:, [i]], k) for i in range(len(languages))]
    for i, j in combinations(range(len(languages)), 2):
        compare("language", f"{languages[i]} / {languages[j]}", alone[i], alone[j])
    if len(languages) > 1:
        for i, code in enumerate(languages):
            rest = [j for j in range(len(languages)) if j != i]
            compare(
                "one language less",
                f"without {code}",
                sets[unique],
                consensus_set(once[:, rest], k),
            )
    n_pairs, gold = len(texts) // 2, study.data[task].gold
    different = np.array([a != b for a, b in zip(texts[:n_pairs], texts[n_pairs:], strict=True)])
    for level, rated in _gold_bins(gold).items():
        pairs = np.flatnonzero(rated & different)
        if len(pairs):
            compare("gold", level, sets[pairs], sets[n_pairs + pairs])
    for varied, studies in (others or {}).items():
        read = {
            name: consensus_set(other.vectors(task, component, languages=languages), k)
            for name, other in studies.items()
        }
        if len({tuple(other.texts(task, "en")) for other in studies.values()}) > 1:
            raise InputError(f"the studies that vary the {varied} have different pairs of {task}")
        for a, b in combinations(studies, 2):
            at = different_texts(studies[a].texts(task, "en"))
            compare(varied, f"{a} / {b}", read[a][at], read[b][at])
    return pd.DataFrame(rows)


def _gold_bins(gold: Float[np.ndarray, " n"]) -> dict[str, Bool[np.ndarray, " n"]]:
    """Return which pairs are rated 0–1, …, 4–5 (the last with its upper end), and from 4.5."""
    bins = {f"{i}–{i + 1}": (gold >= i) & ((gold < i + 1) | (i == 4)) for i in range(5)}
    return {**bins, f"≥ {PARAPHRASE}": gold >= PARAPHRASE}


def different_texts(texts: Sequence[str]) -> list[int]:
    """Return the position at which each different text occurs first."""
    return sorted({text: i for i, text in reversed(list(enumerate(texts)))}.values())


def overlap(A: Bool[Tensor, "n d"], B: Bool[Tensor, "n d"], seed: int) -> dict[str, float]:
    """Return the mean Jaccard index of A[i] and B[i], its interval and what to compare it with."""
    values = jaccard(A, B)
    sizes = [S.sum(-1).numpy() for S in (A, B)]
    kept = ~np.isnan(values)
    low = high = mean = chance = other = np.nan
    generator = np.random.default_rng(seed)
    if kept.any():
        mean, n = float(values[kept].mean()), int(kept.sum())
        drawn = generator.integers(0, n, size=(N_RESAMPLES, n))
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(values[kept][drawn].mean(1), [tail, 1 - tail])
        chance = float(chance_jaccard(sizes[0][kept], sizes[1][kept], A.shape[-1]).mean())
    if len(A) > 1:
        order = torch.from_numpy(generator.permutation(len(A)))
        mismatched = jaccard(A[order], B[order.roll(1)])
        other = float(np.mean(mismatched[~np.isnan(mismatched)]))
    return {
        "jaccard": mean,
        "low": float(low),
        "high": float(high),
        "other_text": other,
        "chance": chance,
        "size": float(np.mean(sizes)),
        "n": int(kept.sum()),
        "n_undefined": int((~kept).sum()),
    }


def selection_frequency(
    study: Study,
    task: str,
    languages: Sequence[str],
    *,
    component: str = "attn",
    setting: str | None = None,
    template: str | None = None,
    k: int | float = 1024,
    seed: int = 0,
) -> pd.DataFrame:
    """Return how often each dimension is in S(x), over the different texts of a task.

    Args:
        study: The model and its pairs.
        task: Name of a task of the study.
        languages: 𝓛.
        component: Internal vector.
        setting: Prompt setting; None is the study's first.
        template: Prompt template; None is the study's first.
        k: Dimensions per text, or fraction of d.
        seed: Of the random sets.

    Returns:
        One row per dimension, the most frequent first: ``rank`` (from 1), ``dimension`` (0-based
        index), ``frequency`` (share of the texts), ``random`` (the frequency at that rank when
        every text draws as many dimensions at random) and ``n_texts``.
    """
    x = study.vectors(task, component, setting=setting, template=template, languages=languages)
    sets = consensus_set(x, k)[different_texts(study.texts(task, "en"))]
    drawn = draw_sets(sets.sum(-1), sets.shape[-1], seed)
    frequency, dimension = sets.double().mean(0).sort(descending=True, stable=True)
    return pd.DataFrame(
        {
            "rank": np.arange(1, len(frequency) + 1),
            "dimension": dimension.numpy(),
            "frequency": frequency.numpy(),
            "random": drawn.double().mean(0).sort(descending=True).values.numpy(),
            "n_texts": len(sets),
        }
    )
