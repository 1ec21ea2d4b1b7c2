"""The controls that a sceptical reader expects beside a gain: vectors in, similarities out.

Each keeps something of the method and takes something else away. Whatever is fitted, is fitted on
other texts than those that are compared.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dysem_lab.attribution import shares_of_mean_cosine
from dysem_lab.consensus import consensus_set, top_k
from dysem_lab.display import amount
from dysem_lab.encoders.dysem import semantic_vectors
from dysem_lab.encoders.maps import (
    PROJECTIONS,
    TOP,
    Map,
    fitted,
    random_rotation,
    rotated,
)
from dysem_lab.errors import InputError
from dysem_lab.joint import joint_cosine, joint_set
from dysem_lab.questions.random_sets import draw_sets
from dysem_lab.questions.scores import Scored, pair_cosine, pair_similarity

DROPPED = (1, 3, 10)  # dimensions of largest share of the mean cosine
FEWEST = 10  # pairs of a part of the data that is scored by itself
P_DROPPED = 0.1  # of each word of a copy, as of each unit in SimCSE (arXiv 2104.08821)

# Group → what its controls take away, or put in place of something.
GROUPS = {
    "method": "the methods themselves",
    "transform": "one change of the vectors, and no choice of dimensions",
    "averaging": "the mean over languages, and no choice of dimensions",
    "coordinates": "the same method on other coordinates",
    "choice": "other dimensions in place of S(x)",
    "views": "other views in place of translations",
    "model": "no training",
    "floor": "no language model",
    "part": "a part of the pairs",
}


class Control(NamedTuple):
    """What a control is.

    Attributes:
        group: A name of `GROUPS`.
        formula: In words or symbols.
        asks: The question that it answers.
    """

    group: str
    formula: str
    asks: str


TRANSFORMS = {
    "centring": "centre",
    "z-scoring": "z",
    "removing the mean direction": "mean_direction",
    f"centring and {TOP} principal directions": "all_but_the_top",
    "PCA-k": "pca",
    "whitening-k": "whitening",
}
CONTROLS = {
    "DySem": Control("method", "cosine of v(x), v(y) on S(x) ∪ S(y)", "the method"),
    "plain cosine": Control("method", "cosine of s(x), s(y) in English", "what DySem starts from"),
    "CP": Control("method", "plain cosine after a contrast", "the other method"),
    "CP, centred": Control("method", "x − μ after a contrast", "is it the common direction?"),
    "mean over languages": Control(
        "averaging", "cosine of the means over ℓ, all d", "is it the averaging alone?"
    ),
    "mean of cosines": Control(
        "averaging", "mean over ℓ of cos(s^ℓ(x), s^ℓ(y))", "mean of vectors or of scores?"
    ),
    "centring": Control("transform", "x − μ", "is it the common direction?"),
    "z-scoring": Control("transform", "(x − μ)/σ", "is it a few rogue dimensions?"),
    "removing the mean direction": Control(
        "transform", "x − (x·μ̂) μ̂", "is it the mean direction alone?"
    ),
    f"centring and {TOP} principal directions": Control(
        "transform", f"x − μ − Σ_(i≤{TOP}) u_i u_iᵀ (x − μ)", "is it a few common directions?"
    ),
    "PCA-k": Control("transform", "(x − μ) U_k", "does any subspace of that size do?"),
    "whitening-k": Control(
        "transform", "(x − μ) U_k Λ_k^(−1/2)", "does a whitened subspace of that size do?"
    ),
    **{
        f"dropping the {j} largest": Control(
            "transform",
            f"without the {j} dimensions of largest share of E[cos]",
            "is it massive activations?",
        )
        for j in DROPPED
    },
    "random rotation": Control(
        "coordinates", "DySem on xQ, Q random orthogonal", "do the coordinates matter at all?"
    ),
    "per-language centring": Control(
        "coordinates", "DySem on x^ℓ − μ_ℓ", "language identity or meaning?"
    ),
    "negative consensus": Control(
        "choice", "k most negative of those below 0 in every language", "does positive matter?"
    ),
    "same sign": Control("choice", "k largest |mean| of one sign in every language", "does it?"),
    "random set": Control(
        "choice", "one random set of |S(x) ∪ S(y)| for all", "would any dimensions do?"
    ),
    "top variance": Control(
        "choice", "one set of |S(x) ∪ S(y)| with most variance", "does it depend on the text?"
    ),
    "most selected": Control(
        "choice", "one set of |S(x) ∪ S(y)| most often in S", "does it depend on the text?"
    ),
    "sets only": Control("choice", "Jaccard(S(x), S(y))", "sets or values?"),
    "English prompts": Control(
        "views", "DySem on English prompts in place of languages", "translation or averaging?"
    ),
    "dropped words": Control(
        "views", "DySem on copies of English without some words", "translation or averaging?"
    ),
    "paraphrases": Control(
        "views", "DySem on paraphrases in place of languages", "translation or averaging?"
    ),
    "shuffled translations": Control(
        "views", "DySem with other texts' translations", "do translations have to be right?"
    ),
    "random weights": Control(
        "model", "DySem on fresh weights", "architecture and tokenizer alone?"
    ),
    "word overlap": Control("floor", "Jaccard of the words", "is it the words in common?"),
    "TF-IDF": Control("floor", "cosine of TF-IDF", "is it the rare words in common?"),
    "input embeddings": Control(
        "floor", "cosine of the mean input embeddings", "does it need any block?"
    ),
    "length difference": Control("floor", "−| |x| − |y| | in words", "is it the length?"),
}
VIEWS = [name for name, control in CONTROLS.items() if control.group == "views"]


class Vectors(NamedTuple):
    """s^(ℓ)(x) of texts; of pairs, the first texts and then the second ones.

    Attributes:
        languages: In the m languages of the consensus.
        english: In English alone.
    """

    languages: Float[Tensor, "n m d"]
    english: Float[Tensor, "n d"]

    @property
    def kinds(self) -> dict[str, Float[Tensor, "n d"]]:
        """v(x) by its name: "source", and "mean" where that is another."""
        mean = self.languages.mean(1)
        one = self.languages.shape[1] == 1 and torch.equal(mean, self.english)
        return {"source": self.english} if one else {"source": self.english, "mean": mean}


class Row(NamedTuple):
    """What a control gives.

    Attributes:
        control: A name of `CONTROLS`, or of a part of the pairs.
        vector: v(x), "mean" or "source"; "" where that has no meaning.
        draws: Similarities of the pairs and #Dim., of each random draw.
        note: With which size; or why there is nothing.
        pairs: Those that it is about; None is all.
    """

    control: str
    vector: str
    draws: list[Scored]
    note: str = ""
    pairs: Int[np.ndarray, " part"] | None = None


def methods(of: Vectors, k: int, contrasted: tuple[Tensor, Tensor] | None = None) -> Iterator[Row]:
    """Yield DySem, the plain cosine, CP, and the mean over languages on all d.

    Args:
        of: The pairs.
        k: Dimensions per text.
        contrasted: English vectors after a contrast, of the pairs and of the fitting texts.
    """
    for vector in reversed(of.kinds):
        yield Row("DySem", vector, [dysem(of, k, vector)])
    yield Row("plain cosine", "source", [_plain(of.english)])
    if contrasted is not None:
        x, other = contrasted
        yield Row("CP", "source", [_plain(x)])
        yield Row("CP, centred", "source", [_changed(x, fitted("centre", other))])
    if "mean" in of.kinds:
        yield Row("mean over languages", "mean", [_plain(of.kinds["mean"])])
        each = [pair_cosine(of.languages[:, i]) for i in range(of.languages.shape[1])]
        yield Row("mean of cosines", "", [(torch.stack(each).mean(0), of.english.shape[1])])


def transforms(of: Vectors, fit: Vectors, k: int) -> Iterator[Row]:
    """Yield what one change of the vectors gives, on all d, without DySem; k is the size of S."""
    for vector, x in of.kinds.items():
        other = fit.kinds[vector] if vector in fit.kinds else fit.languages.mean(1)
        for name, kind in TRANSFORMS.items():
            size = f"k = {k}" if kind in PROJECTIONS else ""
            try:
                change = fitted(kind, other, k if kind in PROJECTIONS else None)
            except InputError as error:
                yield Row(name, vector, [], str(error))
            else:
                yield Row(name, vector, [_changed(x, change)], size)
        largest = shares_of_mean_cosine(other).argsort(descending=True)
        for j in DROPPED:
            rest = largest[j:].sort().values
            if len(rest) < 2:
                yield Row(f"dropping the {j} largest", vector, [], f"d is only {x.shape[1]}")
            else:
                yield Row(f"dropping the {j} largest", vector, [_plain(x[:, rest])])


def coordinates(of: Vectors, fit: Vectors, k: int, draws: Sequence[int]) -> Iterator[Row]:
    """Yield DySem in random coordinates, and with each language centred before its sets."""
    turned: dict[str, list[Scored]] = {vector: [] for vector in of.kinds}
    for draw in draws:
        rotation = random_rotation(of.english.shape[1], draw)
        xq = Vectors(rotated(of.languages, rotation), rotated(of.english, rotation))
        for vector, scored in turned.items():
            scored.append(dysem(xq, k, vector))
    for vector in reversed(turned):
        yield Row("random rotation", vector, turned[vector])
    english, each = fit.english.double().mean(0), fit.languages.double().mean(0)
    centred = Vectors((of.languages - each).float(), (of.english - english).float())
    yield Row("per-language centring", _last(of), [dysem(centred, k, _last(of))])


def choices_of_sets(of: Vectors, fit: Vectors, k: int, draws: Sequence[int]) -> Iterator[Row]:
    """Yield other sets of dimensions in the place of S(x), on DySem's own vector."""
    vector = _last(of)
    v, x = of.kinds[vector], of.languages
    sets = consensus_set(x, k)
    n_pairs, d_model = len(x) // 2, x.shape[-1]
    joint = joint_set(sets[:n_pairs], sets[n_pairs:])
    sizes = joint.sum(-1).double().mean().round().long()[None]

    def on(sets: Bool[Tensor, "twice_n d"]) -> Scored:
        return _on(v, joint_set(sets[:n_pairs], sets[n_pairs:]))

    def fixed(keys: Float[Tensor, " d"]) -> Scored:
        everything = torch.ones(d_model, dtype=torch.bool)
        return _on(v, top_k(keys, everything, int(sizes)).expand(n_pairs, d_model))

    yield Row("negative consensus", vector, [on(consensus_set(-x, k))])
    same = (x > 0).all(1) | (x < 0).all(1)
    yield Row("same sign", vector, [on(top_k(x.mean(1).abs(), same, k))])
    random = [_on(v, draw_sets(sizes, d_model, draw).expand(n_pairs, d_model)) for draw in draws]
    yield Row("random set", vector, random)
    yield Row("top variance", vector, [fixed(fit.languages.mean(1).var(0))])
    yield Row("most selected", vector, [fixed(consensus_set(fit.languages, k).double().mean(0))])
    common = (sets[:n_pairs] & sets[n_pairs:]).sum(-1)
    jaccard = common / joint.sum(-1)  # NaN where both are empty
    yield Row("sets only", "", [(jaccard, float(joint.sum(-1).double().mean()))])


def views(
    of: Vectors,
    k: int,
    draws: Sequence[int],
    prompts: Float[Tensor, "n views d"] | None = None,
    copies: Float[Tensor, "n m d"] | None = None,
    paraphrases: Float[Tensor, "n views d"] | None = None,
) -> Iterator[Row]:
    """Yield DySem with other views of a text than its translations."""
    vector, m = _last(of), of.languages.shape[1]
    if m == 1:
        for name in VIEWS:
            yield Row(name, vector, [], "there is one language")
        return
    if prompts is None or prompts.shape[1] < 2:
        yield Row("English prompts", vector, [], "the study has one template; give it more")
    else:
        said = f"{prompts.shape[1]} prompts for {m} languages"
        yield Row("English prompts", "mean", [dysem(Vectors(prompts, of.english), k, "mean")], said)
    if copies is not None:
        made = "1 copy" if m == 2 else f"{m - 1} copies"
        said = f"{made}, each word left out with probability {P_DROPPED}, and the text"
        yield Row("dropped words", "mean", [dysem(Vectors(copies, of.english), k, "mean")], said)
    if paraphrases is None:
        yield Row("paraphrases", vector, [], "none of these texts are there; give paraphrases=")
    else:
        said = f"the text and {amount(paraphrases.shape[1] - 1, 'paraphrase')} for {m} languages"
        alone = dysem(Vectors(paraphrases, of.english), k, "mean")
        yield Row("paraphrases", "mean", [alone], said)
    scored = []
    for draw in draws:
        generator = torch.Generator().manual_seed(draw)
        columns = [of.languages[:, 0]]
        for i in range(1, m):
            order = torch.randperm(len(of.languages), generator=generator)
            columns.append(of.languages[order, i])
        scored.append(dysem(Vectors(torch.stack(columns, 1), of.english), k, vector))
    yield Row("shuffled translations", vector, scored)


def without_some_words(texts: Sequence[str], seed: int) -> list[str]:
    """Return copies in which each word is left out with probability `P_DROPPED`, not all of them.

    A word is what stands between spaces.
    """
    draws, copies = np.random.default_rng(seed), []
    for text in texts:
        words = text.split()
        kept = [word for word in words if draws.random() >= P_DROPPED]
        copies.append(" ".join(kept) if kept else text)
    return copies


def parts(
    plain: Float[Tensor, " n"], subsets: Sequence[str], lengths: Int[np.ndarray, " n"]
) -> Iterator[Row]:
    """Yield the plain cosine within each genre, and for short, middling and long pairs."""
    of_genre = np.array([subset.split("/")[0] for subset in subsets])
    places = {f"genre: {name}": np.flatnonzero(of_genre == name) for name in sorted({*of_genre})}
    if len(places) < 2:
        places = {}
    order = lengths.argsort(kind="stable")
    for name, of_length in zip(
        ("short", "middling", "long"), np.array_split(order, 3), strict=True
    ):
        places[f"{name} texts"] = np.sort(of_length)
    for name, pairs in places.items():
        if len(pairs) < FEWEST:
            yield Row(
                name, "source", [], f"{amount(len(pairs), 'pair')}, fewer than {FEWEST}", pairs
            )
        else:
            yield Row(name, "source", [(plain, np.nan)], amount(len(pairs), "pair"), pairs)


def dysem(of: Vectors, k: int, vector: str) -> Scored:
    """Return DySem's similarity of the pairs, and #Dim."""
    return pair_similarity(semantic_vectors(of.languages, of.english, k, vector=vector))


def _last(of: Vectors) -> str:
    """Return the name of DySem's vector: "mean", or "source" where English is the one language."""
    return list(of.kinds)[-1]


def _plain(x: Float[Tensor, "twice_n d"]) -> Scored:
    return pair_cosine(x), float(x.shape[1])


def _changed(x: Float[Tensor, "twice_n d"], change: Map) -> Scored:
    return _plain(change(x))


def _on(v: Float[Tensor, "twice_n d"], U: Bool[Tensor, "n d"]) -> Scored:
    n_pairs = len(U)
    return joint_cosine(v[:n_pairs], v[n_pairs:], U), float(U.sum(-1).double().mean())
