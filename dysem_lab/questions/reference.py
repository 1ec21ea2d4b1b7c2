"""What parts add to texts that have nothing to do with each other: the corpus of an explanation."""

import json
import math
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dysem_lab.attribution import (
    Directions,
    shares_of_mean_cosine,
    towards_new_pairs,
    weights_of,
    without_largest,
)
from dysem_lab.data.fit_texts import FitTexts, fit_texts
from dysem_lab.data.sts import demo_data
from dysem_lab.display import Progress, silent
from dysem_lab.encoders.base import Encoder
from dysem_lab.errors import InputError
from dysem_lab.questions.splits import (
    BY_PASS,
    Key,
    Split,
    along,
    fixed_of,
    in_parts,
    keys_of,
    split_texts,
)

KEPT = 16  # corpora, under one encoder and split in one way, that are remembered
PARTNERS = 4  # random other texts that each text of the corpus is compared with
SAMPLE_BYTES = 2**24  # of a corpus's parts in one view that are kept for what random pairs give


def corpus_of(given: object, languages: Sequence[str], language: str) -> FitTexts:
    """Return a reference corpus in the languages that an encoder reads.

    Args:
        given: As for `dysem_lab.data.fit_texts.fit_texts`.
        languages: Codes of those.
        language: That of the texts themselves.

    Raises:
        InputError: As there, or a language that the corpus does not have.
    """
    demo = isinstance(given, str) and given == "demo"  # an array has no one answer to ==
    found = fit_texts(demo_data() if demo else given, languages, language)
    if lacking := [code for code in (language, *languages) if code not in found.renderings]:
        raise InputError(
            f"the reference corpus ({found.name}) has no {', '.join(lacking)}; give one that has, "
            f"as centre={{'{lacking[0]}': […]}}, or centre=None"
        )
    return found


@dataclass(frozen=True, eq=False)
class Reference:
    """What the parts of a text are centred on, and what they add to random pairs.

    Attributes:
        name: Of the corpus.
        digest: Of it.
        n_texts: Its different texts.
        split: The corpus in parts; None by "dimension".
        mean: μ, the mean of its vectors.
        shares: Each dimension's share of the mean cosine of two of its texts.
        added: Key → mean and standard deviation of what it adds to the centred similarity of
            random pairs, as of texts that are not in the corpus; none of two texts, which are one
            pair.
        told_apart: Key → the same of what it adds to the difference of two such similarities:
            random triples of x, y and z, each with y and z exchanged too, so that the mean is 0.
        n_pairs: How many pairs those are.
        seed: Of the random pairs.
    """

    name: str
    digest: str
    n_texts: int
    split: Split | None
    mean: Float[Tensor, " d"]
    shares: Float[Tensor, " d"]
    added: dict[Key, tuple[float, float]]
    told_apart: dict[Key, tuple[float, float]]
    n_pairs: int
    seed: int


def reference(
    encoder: Encoder,
    corpus: FitTexts,
    by: str,
    language: str,
    n_largest: int = 0,
    *,
    directions: Directions | None = None,
    inside: int = 0,
    seed: int = 0,
    progress: Progress = silent,
) -> Reference:
    """Return what parts are centred on, and what they add to random pairs of the corpus.

    Args:
        encoder: The encoder; one of a `LensModel` unless `by` is "dimension".
        corpus: The texts.
        by: As for `split_texts`, or "dimension", or "direction".
        language: Of the texts.
        n_largest: Dimensions with the largest shares that are left out of joint sets.
        directions: By "direction", which.
        inside: How many of the two texts that are compared with random pairs are in the corpus: its
            mean leans to them, so that they are less alike once it is subtracted.
        seed: Of the random pairs: up to four for each text.
        progress: Told while the corpus runs through the model. What it gave is kept, so that
            another k, or fewer languages of these, need no pass.
    """
    asked = (by, language, n_largest, inside, seed)
    measured = partial(_measured, encoder, corpus, *asked, progress)
    if directions is not None:  # what a user's function gives may differ from call to call
        return measured(directions)
    # A fingerprint is of the weights as they are stored, whatever they are computed in.
    facts = encoder.facts
    model = facts and (facts.fingerprint, facts.dtype, facts.device)
    key = json.dumps((encoder.config, model, corpus.digest, *asked), sort_keys=True)
    if key not in _references:
        _references[key] = measured(None)
    _references.move_to_end(key)
    while len(_references) > KEPT:
        _references.popitem(last=False)
    return _references[key]


_references: OrderedDict[str, Reference] = OrderedDict()


def _measured(
    encoder: Encoder,
    corpus: FitTexts,
    by: str,
    language: str,
    n_largest: int,
    inside: int,
    seed: int,
    progress: Progress,
    directions: Directions | None,
) -> Reference:
    """Run the corpus, and measure what its parts add to random pairs of it."""
    split, views = None, []
    if in_parts(encoder):
        views = encoder.views(corpus.renderings, language)
        read_by = by if by in BY_PASS else "language"  # the others need no parts
        split = split_texts(encoder, views, read_by, budget=SAMPLE_BYTES, progress=progress)
        encoded = encoder.combined(views, split.read)
    else:
        with warnings.catch_warnings():
            # A `Transform` of the encoder may be fitted on them too: they are not compared here.
            warnings.filterwarnings("ignore", r"\d+ of \d+ texts are among those")
            encoded = encoder.encode_renderings(corpus.renderings, language, progress=False)
    vectors, sets = encoded.vectors.float(), encoded.sets
    mean, shares = vectors.double().mean(0).float(), shares_of_mean_cosine(vectors)
    rng, n, n_pairs = np.random.default_rng(seed), len(vectors), 0
    delta = towards_new_pairs(n, inside) if n > 2 else 0.0  # of two nothing is said
    parted = (
        None if by == "dimension" else split if directions is None else along(vectors, directions)
    )
    fixed = fixed_of(encoder, by, views, directions)
    # Key → the number, the sum and the sum of squares of what the part adds to pairs, to triples.
    sums: dict[tuple[Key, ...], Float[Tensor, "2 moments parts"]] = {}
    of_fixed: Tensor | float = 0.0
    for i in range(n if parted is None else len(parted.texts)):
        of_pairs, others = [], np.delete(np.arange(n), i)
        for j in rng.choice(others, min(PARTNERS, n - 1), replace=False):
            try:
                U = without_largest(sets[i] | sets[j], shares, n_largest)
                of_pairs.append(_as_of_new(vectors[i] - mean, vectors[j] - mean, U, delta))
            except InputError:  # a pair without a similarity
                continue
        if not of_pairs:
            continue
        n_pairs, pairs = n_pairs + len(of_pairs), torch.stack(of_pairs, 1)
        if parted is None:
            keys, added = dimension_keys(vectors.shape[1]), (vectors[i] - mean)[:, None] * pairs
        else:
            text = parted.texts[i]
            keys, added = tuple(text.keys), (text.vectors - parted.expected(text)).double() @ pairs
            if fixed is not None:
                unit = (fixed.vectors @ pairs.to(fixed.vectors.dtype)).double()
                of_fixed = of_fixed + _moments((text.weights - parted.weights)[:, None] * unit)
        sums[keys] = sums.get(keys, 0) + _moments(added)
    if fixed is not None and isinstance(of_fixed, Tensor):
        sums[tuple((None, *key) for key in keys_of(fixed.labels))] = of_fixed
    added_by: dict[Key, Float[Tensor, "2 moments"]] = {}
    for keys, moments in sums.items():
        for key, of_key in zip(keys, moments.unbind(-1), strict=True):
            added_by[key] = added_by.get(key, 0) + of_key
    if n == 2:  # one pair, read both ways: the spread would be the rounding
        added_by = {}
    by_pair, by_triple = (
        {key: _mean_and_spread(*moments[i].tolist()) for key, moments in added_by.items()}
        for i in range(2)
    )
    by_triple = {key: (0.0, spread) for key, (_, spread) in by_triple.items()}  # but for rounding
    about = (corpus.name, corpus.digest, corpus.n_texts)
    return Reference(*about, parted, mean, shares, by_pair, by_triple, n_pairs, seed)


def _as_of_new(
    x: Float[Tensor, " d"], y: Float[Tensor, " d"], U: Bool[Tensor, " d"], delta: float
) -> Float[Tensor, " d"]:
    """Return by what a centred part of x is multiplied for what it adds to a pair of new texts.

    Such a part is (1 + δ) p(x) + δ p(y). That of y is not at hand; over all ordered pairs it adds
    as much as that of x adds with x in the place of y.
    """
    both = delta * (x.double() + y.double())
    new_x, new_y = x.double() + both, y.double() + both
    return (1 + delta) * weights_of(new_x, new_y, U) + delta * weights_of(new_y, new_x, U)


def _moments(added: Float[Tensor, "parts pairs"]) -> Float[Tensor, "2 moments parts"]:
    """Return the moments of what parts of a text add to pairs, and to the differences of two."""
    n = added.shape[1]
    i, j = (1 - torch.eye(n)).nonzero().T
    both = added, added[:, i] - added[:, j]
    return torch.stack([torch.stack([of**0, of, of**2]).sum(-1) for of in both])


def dimension_keys(width: int) -> tuple[Key, ...]:
    """Return the keys of the dimensions."""
    return tuple((None, "dimension", j, None) for j in range(width))


def _mean_and_spread(n: float, total: float, squares: float) -> tuple[float, float]:
    """Return mean and standard deviation from the three sums; NaN of none."""
    if not n:
        return math.nan, math.nan
    mean = total / n
    variance = squares / n - mean * mean
    return mean, 0.0 if variance < 0 else math.sqrt(variance)  # of a NaN both are one
