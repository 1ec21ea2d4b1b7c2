"""The similarities of many pairs as sums of what each head wrote: a number per pair and part.

Texts are run one batch at a time, and of the vectors of their parts only inner products are kept.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from dysem_lab.bootstrap import MANY, correlations, interval, resamples, two_sided
from dysem_lab.joint import joint_cosine
from dysem_lab.models.lens import LensModel
from dysem_lab.models.parts import Part, split
from dysem_lab.models.places import Place

A_SUM = Place("attn")


class PartMeans(NamedTuple):
    """What each part of A^L is over a corpus.

    Attributes:
        labels: Heads, and biases where the model has some.
        mean: E[p]; they add up to μ.
        length: Root mean square of ‖p − E[p]‖.
        n_texts: Different texts.
    """

    labels: list[Part]
    mean: Float[Tensor, "parts d"]
    length: Float[Tensor, " parts"]
    n_texts: int


class PairParts(NamedTuple):
    """The centred similarity of n pairs on their joint sets, as a sum of parts.

    Attributes:
        labels: What each part is.
        added: What each adds to the similarity of each pair: the mean over both texts of
            <p − E[p], v − μ>_U / (‖v(x) − μ‖_U ‖v(y) − μ‖_U), v of the other text. NaN where a
            vector is zero on U.
        written: The share that each has of the squared length of v − μ on S(x), over all texts.
        own: The encoder's own similarity: on U too, but not centred.
    """

    labels: list[Part]
    added: Float[np.ndarray, "pairs parts"]
    written: Float[np.ndarray, " parts"]
    own: Float[np.ndarray, " pairs"]

    @property
    def similarity(self) -> Float[np.ndarray, " pairs"]:
        """The centred similarity: the sum."""
        return np.asarray(self.added.sum(1))


def part_means(lens: LensModel, prompts: Sequence[str], *, progress: bool = True) -> PartMeans:
    """Return what each part of A^L is over the different prompts of a corpus; one pass of each.

    Args:
        lens: The model.
        prompts: Of the corpus.
        progress: Show a progress bar.
    """
    unique, labels = list(dict.fromkeys(prompts)), list[Part]()
    total, squares = torch.zeros(1, 1), torch.zeros(1)
    with tqdm(total=len(unique), desc="parts of the corpus", disable=not progress) as bar:
        for batch, parts in split(lens, unique, A_SUM, "head"):
            labels, vectors = parts.labels, parts.vectors.double()
            total, squares = total + vectors.sum(0), squares + vectors.square().sum((0, 2))
            bar.update(len(batch))
    mean = total / len(unique)
    spread = squares / len(unique) - mean.square().sum(-1)
    return PartMeans(labels, mean, spread.clamp(min=0).sqrt(), len(unique))


def pair_parts(
    lens: LensModel,
    prompts: Sequence[str],
    vectors: Float[Tensor, "twice_n d"],
    sets: Bool[Tensor, "twice_n d"],
    means: PartMeans,
    *,
    progress: bool = True,
) -> PairParts:
    """Return the similarities of text i with text n + i in parts; one pass per different prompt.

    Args:
        lens: The model.
        prompts: First texts, then second ones.
        vectors: A^L of each.
        sets: S(x) of each.
        means: Of the corpus that all is centred on.
        progress: Show a progress bar.

    Source: the bilinear sum, BiLRP (arXiv 2405.06604).
    """
    n = len(prompts) // 2
    v, U = vectors.double() - means.mean.sum(0), sets[:n] | sets[n:]
    first, second = v[:n] * U, v[n:] * U
    norms = (first.norm(dim=-1) * second.norm(dim=-1))[:, None]
    norms = norms.where(norms > 0, torch.nan)
    # What the parts of each text are multiplied by.
    along, on_set = torch.cat([second / norms, first / norms]), v * sets
    rows: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(i)
    added = -along @ means.mean.T
    length = -on_set @ means.mean.T
    unique = list(rows)
    with tqdm(total=len(unique), desc="parts of the pairs", disable=not progress) as bar:
        for batch, parts in split(lens, unique, A_SUM, "head"):
            for i, of_text in zip(batch, parts.vectors.double(), strict=True):
                at = rows[unique[i]]
                added[at] += along[at] @ of_text.T
                length[at] += on_set[at] @ of_text.T
            bar.update(len(batch))
    own = joint_cosine(vectors[:n], vectors[n:], U)
    written = length.sum(0) / length.sum()
    both = (added[:n] + added[n:]) / 2
    return PairParts(means.labels, both.numpy(), written.numpy(), own.double().numpy())


def shares_of_variance(parts: PairParts) -> Float[np.ndarray, " parts"]:
    """Return how much of the variance of the similarity over pairs each part has; they sum to 1.

    The covariance of a part with the sum, over the variance of the sum.
    """
    kept = parts.added[~np.isnan(parts.added).any(1)]
    centred = kept - kept.mean(0)
    whole = centred.sum(1)
    return np.asarray(centred.T @ whole / (whole @ whole))


def against(
    one: Float[np.ndarray, " pairs"],
    others: Sequence[Float[np.ndarray, " pairs"]],
    gold: Float[np.ndarray, " pairs"],
    *,
    seed: int = 0,
) -> dict[str, float]:
    """Return how much one similarity scores above the mean of others, by paired bootstrap.

    Pairs that are undefined under any of them are left out.

    Returns:
        ``difference`` (Spearman × 100), ``low``, ``high`` (95 % interval over pairs), ``p`` (two-
        sided).
    """
    every = np.stack([one, *others])
    kept = ~np.isnan(every).any(0)
    every, gold = every[:, kept], gold[kept]
    if len(gold) < 3:
        return dict.fromkeys(("difference", "low", "high", "p"), np.nan)
    # The pairs as they are come first.
    counts = np.concatenate([np.ones((1, len(gold))), resamples(len(gold), MANY, seed)])
    found = [correlations(similarity, gold, counts) for similarity in every]
    gaps = found[0] - np.mean(found[1:], axis=0)
    low, high = interval(gaps[1:])
    return {"difference": float(gaps[0]), "low": low, "high": high, "p": two_sided(gaps[1:])}
