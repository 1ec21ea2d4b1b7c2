"""What is known of one dimension of a corpus, and of the same place in random rotations."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.consensus import consensus_set, resolve_k
from dysem_lab.inputs import at_least, index_of
from dysem_lab.models.readout import dimension_lens
from dysem_lab.questions.corpus import Corpus, Measured
from dysem_lab.questions.finding import Facts

SELECTED, SHARE = "in S(x), share of the texts", "share of the mean cosine"  # what is measured


class Measure(NamedTuple):
    """One measure of one dimension, beside what random rotations of the space have.

    Attributes:
        name: What is measured.
        here: Of the dimension.
        place: Among all dimensions, the largest first, from 1.
        low: The least that the dimension of the same place has in a rotation.
        high: The most.
    """

    name: str
    here: float
    place: int
    low: float
    high: float

    @property
    def survives(self) -> bool:
        """Whether a random rotation has such a dimension too."""
        return self.low <= self.here <= self.high


class DimensionFacts(NamedTuple):
    """What is known of one dimension of a corpus.

    Attributes:
        dimension: j, from 0.
        component: Of which vector.
        frequency: Share of the texts whose S(x) has each dimension, float32 ``[d]``.
        share: Of each in the mean cosine of two texts' v (the mean over the languages), ``[d]``.
        rotated: Both in random rotations of the space, the largest first.
        agreement: Whether the languages agree on what texts have it, ``[d]``; see `agreement`.
        sentences: The texts with the largest mean over the languages: ``rank``, ``text``,
            ``value`` (s̄_j), ``selected`` (whether j is in S(x)), ``positive`` (codes of the
            languages in which s_j > 0, joined by "/").
        languages: One row per ``language``: ``positive`` (share of the texts with s_j > 0),
            ``value`` (mean of s_j over the texts).
        tokens: From `dimension_lens`.
        settings: component, setting, m and k.
        measured_on: Model, data, languages and settings.
    """

    dimension: int
    component: str
    frequency: Float[Tensor, " d"]
    share: Float[Tensor, " d"]
    rotated: Measured
    agreement: Float[Tensor, " d"]
    sentences: pd.DataFrame
    languages: pd.DataFrame
    tokens: pd.DataFrame
    settings: dict[str, Any]
    measured_on: Facts

    @property
    def measures(self) -> list[Measure]:
        """How often the dimension is selected, and its share of the mean cosine."""
        found = []
        for name, values, rotated in (
            (SELECTED, self.frequency, self.rotated.frequency),
            (SHARE, self.share, self.rotated.share),
        ):
            place = by_size(values).index(self.dimension)
            low, high = (float(of) for of in torch.aminmax(rotated[:, place]))
            found.append(Measure(name, float(values[self.dimension]), place + 1, low, high))
        return found


def dimension_facts(
    corpus: Corpus,
    dimension: int | None = None,
    *,
    component: str = "attn",
    setting: str = "english",
    m: int | None = None,
    k: int | float = 0.25,
    top: int = 10,
) -> DimensionFacts:
    """Return what is known of one dimension.

    Args:
        corpus: From `read_corpus`.
        dimension: j, from 0; None is `most_telling`.
        component: Vector, one of `READ` that the corpus has.
        setting: Prompt setting.
        m: The first so many languages; None is all.
        k: Dimensions per text, or fraction of d.
        top: Sentences, and tokens of each direction.

    Raises:
        InputError: A name that the corpus does not have; m, k or the dimension out of range; `top`
            below 1.
    """
    m, top = len(corpus.languages) if m is None else m, at_least(top, 1, "top")
    vectors = corpus.read(component, setting, m)
    sets = corpus.sets(component, setting, m, k)
    asked = (component, setting, m, k)
    j = most_telling(corpus, *asked)
    if dimension is not None:
        j = index_of(dimension, vectors.shape[-1], "dimension")
    values, codes = vectors[:, :, j], corpus.languages[:m]
    mean = values.mean(1)
    best = mean.sort(descending=True, stable=True).indices[:top].tolist()
    sentences = pd.DataFrame(
        {
            "rank": rank,
            "text": corpus.texts[row],
            "value": float(mean[row]),
            "selected": bool(sets[row, j]),
            "positive": "/".join(
                code for code, value in zip(codes, values[row].tolist(), strict=True) if value > 0
            ),
        }
        for rank, row in enumerate(best, 1)
    )
    languages = pd.DataFrame(
        {
            "language": codes,
            "positive": (values > 0).float().mean(0).tolist(),
            "value": values.mean(0).tolist(),
        }
    )
    settings = {"component": component, "setting": setting, "m": m, "k": k}
    return DimensionFacts(
        j,
        component,
        *corpus.measured(*asked),
        corpus.rotated(*asked),
        agreement(vectors),
        sentences,
        languages,
        dimension_lens(corpus.lens, j, component, top),
        settings,
        Facts(
            corpus.lens.facts,
            f"{corpus.said}, {'/'.join(codes)}, {setting}, k = {k:g}",
            corpus.label,
            len(corpus.texts),
            unsaid={"dimension": j, **settings, "languages": codes, "top": top},
        ),
    )


class OfSentence(NamedTuple):
    """What a dimension has in one sentence, and where that stands in a corpus.

    Attributes:
        value: s̄_j, the mean over the sentence's languages.
        below: Share of the corpus' texts whose mean over the same languages is smaller.
        selected: Whether j is in S(x) of these languages.
        positive: Those of them in which s_j > 0.
    """

    value: float
    below: float
    selected: bool
    positive: list[str]


def of_sentence(
    corpus: Corpus,
    vectors: Float[Tensor, "m d"],
    languages: Sequence[str],
    dimension: int,
    *,
    component: str = "attn",
    setting: str = "english",
    k: int | float = 0.25,
) -> OfSentence:
    """Return what a dimension has in a sentence that need not be one of the corpus.

    Args:
        corpus: From `read_corpus`.
        vectors: s^(ℓ) of the sentence in its languages, read as the corpus is.
        languages: Their codes, each of the corpus.
        dimension: j, from 0.
        component: As for `dimension_facts`, like `setting` and `k`.
        setting: Of the prompts.
        k: Dimensions per text, or fraction of d.
    """
    all_languages = corpus.read(component, setting, len(corpus.languages))
    same = [corpus.languages.index(code) for code in languages]
    value = vectors[:, dimension].mean()
    of_corpus = all_languages[:, same, dimension].mean(1)
    return OfSentence(
        float(value),
        float((of_corpus < value).float().mean()),
        bool(consensus_set(vectors[None], resolve_k(k, vectors.shape[-1]))[0, dimension]),
        [code for code, s in zip(languages, vectors, strict=True) if s[dimension] > 0],
    )


def most_telling(corpus: Corpus, component: str, setting: str, m: int, k: int | float) -> int:
    """Return the dimension that is in S(x) of about half of the texts, and of the same ones.

    The largest 4 f (1 - f) times `agreement`, with f the share of the texts that select it.
    """
    frequency = corpus.measured(component, setting, m, k).frequency
    agreed = agreement(corpus.read(component, setting, m))
    return int((4 * frequency * (1 - frequency) * agreed).argmax())


def agreement(vectors: Float[Tensor, "n m d"]) -> Float[Tensor, " d"]:
    """Return how far the languages agree, for each dimension, on which texts have much of it.

    The share of the variance over texts and languages, each language less its mean, that lies
    between the texts: 1 where all languages rank and space the texts alike, 1/m where they have
    nothing in common, 0 where a dimension is constant.
    """
    centred = vectors.double() - vectors.double().mean(0)
    between, total = centred.mean(1).square().mean(0), centred.square().mean((0, 1))
    return (between / total.clamp(min=1e-300)).float()


def by_size(values: Float[Tensor, " d"]) -> list[int]:
    """Return the dimensions in the order of the figure: the largest first."""
    return values.sort(descending=True, stable=True).indices.tolist()
