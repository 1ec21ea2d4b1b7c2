"""What parts add to texts that have nothing to do with each other: the corpus of an explanation."""

import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from dysem_lab.attribution import (
    by_dimension,
    one_sided,
    shares_of_mean_cosine,
    without_largest,
)
from dysem_lab.data.sts import STSData, load_data
from dysem_lab.encoders.base import Encoder, LensEncoder, View
from dysem_lab.errors import InputError
from dysem_lab.inputs import by_language, checked
from dysem_lab.models.capture import capture
from dysem_lab.models.parts import Part, Parts, split

PARTNERS = 4  # random other texts that each text of the corpus is compared with
SAMPLE_BYTES = 2**25  # of a corpus's parts in one view that are kept for what random pairs give
KEPT = 32  # texts in one view, split in one way, that are remembered
FEWEST = 2
TOGETHER = ("head", "block", "ffn")  # parts that are the same in every view, and are added up
BY_PASS = (*TOGETHER, "token")  # parts that a pass has to be read for
TEXT = "text"

Key = tuple[Hashable, ...]  # of which view and which part it is, of any text


class Corpus(NamedTuple):
    """Texts that parts are centred on.

    Attributes:
        name: What it is called.
        renderings: Language → n different texts, aligned.
        digest: Of all of them.
    """

    name: str
    renderings: dict[str, list[str]]
    digest: str

    def __len__(self) -> int:
        return len(next(iter(self.renderings.values()), []))


def corpus_of(given: object, languages: Sequence[str], language: str) -> Corpus:
    """Return a reference corpus in the languages that an encoder reads.

    Args:
        given: "demo", an `STSData`, or language → texts.
        languages: Codes of those.
        language: That of the texts themselves.

    Raises:
        InputError: Something else, a language that it does not have, or fewer than two different
            texts.
    """
    wanted = tuple(dict.fromkeys([language, *languages]))
    if isinstance(given, str) and given == "demo":
        given = load_data("demo", languages=wanted)
    if isinstance(given, STSData):
        name, columns = given.name, {code: given.texts(code) for code in given.languages}
    elif isinstance(given, Mapping):
        name, columns = "own corpus", by_language(given)
    else:
        raise InputError(
            f"centre must be 'demo', STSData, a mapping from languages to texts, or None, got "
            f"{given!r:.80}"
        )
    lacking = [code for code in wanted if code not in columns]
    if lacking:
        raise InputError(
            f"the reference corpus {name!r} has no {', '.join(lacking)}; give one that has, as "
            f"centre={{'{lacking[0]}': […]}}, or centre=None"
        )
    columns = {code: checked(columns[code], f"{code} reference text") for code in wanted}
    if len({len(column) for column in columns.values()}) > 1:
        raise InputError(
            f"the languages of the reference corpus {name!r} have other numbers of texts"
        )
    once = sorted({text: i for i, text in reversed([*enumerate(columns[language])])}.values())
    if len(once) < FEWEST:
        raise InputError(
            f"the reference corpus {name!r} has {len(once)} different text; its mean would be the "
            "text itself, so give at least two"
        )
    renderings = {code: [column[i] for i in once] for code, column in columns.items()}
    digest = hashlib.sha256(json.dumps(renderings).encode()).hexdigest()[:16]
    return Corpus(name, renderings, digest)


class Labelled(NamedTuple):
    """One text's parts over all its views, weighted so that they add up to its vector.

    Attributes:
        labels: What each part is.
        views: Of which view each is, by its number; None is the sum over all of them.
        keys: What each has in common with a part of another text: its view, and its `key_of`.
        vectors: Of each part.
    """

    labels: list[Part]
    views: list[int | None]
    keys: list[Key]
    vectors: Float[Tensor, "parts d"]


@dataclass(frozen=True, eq=False)
class Split:
    """Texts under one encoder, split in one way.

    Attributes:
        read: s of n texts in every view.
        texts: The first so many of them in parts.
        means: Key → the mean over all texts of that part; all of them add up to the mean vector.
            The tokens of the texts themselves are one key: this is the mean of their sum.
    """

    read: Float[Tensor, "views n d"]
    texts: list[Labelled]
    means: dict[Key, Float[Tensor, " d"]]

    def expected(self, text: Labelled) -> Float[Tensor, "parts d"]:
        """Return E[p] for each part of a text; they add up to the mean vector.

        What the template's tokens leave of the mean is spread evenly over the text's own.
        """
        width = text.vectors.shape[-1]
        found = torch.stack([self.means.get(key, torch.zeros(width)) for key in text.keys])
        own = torch.tensor([TEXT in key for key in text.keys])
        for view in dict.fromkeys(text.views):
            of_view = torch.tensor([other == view for other in text.views])
            mine = own & of_view
            if mine.any():
                whole = torch.stack([m for key, m in self.means.items() if key[0] == view]).sum(0)
                found[mine] = (whole - found[of_view & ~own].sum(0)) / mine.sum()
        return found


def split_texts(
    encoder: LensEncoder,
    views: Sequence[View],
    by: str,
    *,
    budget: int | None = None,
    progress: bool = False,
) -> Split:
    """Run n texts through an encoder and return them in parts; passes are remembered.

    Args:
        encoder: The encoder.
        views: Its passes over the texts.
        by: As for `dysem_lab.models.parts.split`, or "language".
        budget: Bytes of one view's parts that are kept, in half precision; None keeps them all as
            they are.
        progress: Show a progress bar.
    """
    n_passes = sum(len(view.prompts) for view in views)
    with tqdm(total=n_passes, desc=f"parts by {by}", unit="text", disable=not progress) as bar:
        found = [
            # A view without a weight only chooses dimensions.
            _known(encoder, view, by if view.weight else "language", budget, bar)
            for view in views
        ]
    in_views = enumerate(zip(views, found, strict=True))
    weighted = [(i, view.weight, of) for i, (view, of) in in_views if view.weight]
    texts: list[Labelled] = []
    means: dict[Key, Tensor] = {}
    for rows in zip(*(of.texts for _, _, of in weighted), strict=False):
        parts = [(i, weight, row) for (i, weight, _), row in zip(weighted, rows, strict=True)]
        texts.append(_together(parts) if by in TOGETHER else _side_by_side(parts))
    for i, weight, of in weighted:
        for key, mean in of.means.items():
            named = (None if by in TOGETHER else i, *key)
            means[named] = means.get(named, 0) + weight * mean
    return Split(torch.stack([of.read for of in found]), texts, means)


Row = tuple[int, float, Parts]  # a view's number, its weight, one text's parts in it


def _together(rows: Sequence[Row]) -> Labelled:
    """Return the sum over the views of parts that are the same in each."""
    labels = rows[0][2].labels
    vectors = torch.stack([weight * parts.vectors[0].float() for _, weight, parts in rows]).sum(0)
    return Labelled(
        labels, [None] * len(labels), [(None, *key) for key in keys_of(labels)], vectors
    )


def _side_by_side(rows: Sequence[Row]) -> Labelled:
    """Return the parts of each view."""
    labels = [label for _, _, parts in rows for label in parts.labels]
    views = [i for i, _, parts in rows for _ in parts.labels]
    keys = [(i, *key) for i, _, parts in rows for key in keys_of(parts.labels)]
    vectors = torch.cat([weight * parts.vectors[0].float() for _, weight, parts in rows])
    return Labelled(labels, list(views), keys, vectors)


def keys_of(labels: Sequence[Part]) -> list[Key]:
    """Return what each part of a prompt has in common with one of another prompt.

    A token of the template is known by its distance from the beginning or the end of its prompt;
    those of the text correspond to none in particular, and have one key together.
    """
    places: dict[str, list[int]] = {}
    inside: dict[str, list[int]] = {}
    for label in labels:
        if label.position is not None:
            places.setdefault(label.kind, []).append(label.position)
            if label.of_text:
                inside.setdefault(label.kind, []).append(label.position)
    keys: list[Key] = []
    for kind, block, head, position, *_ in labels:
        if position is None:
            keys.append((kind, block, head))
            continue
        own = inside.get(kind, [0])
        if own[0] <= position <= own[-1]:
            keys.append((kind, TEXT, None))
        elif position < own[0]:
            keys.append((kind, "start", position))
        else:
            keys.append((kind, "end", places[kind][-1] + 1 - position))
    return keys


class _View(NamedTuple):
    """Texts in one view: what was read, the parts of the first so many, and the means of all."""

    read: Float[Tensor, "n d"]
    texts: list[Parts]
    means: dict[Key, Float[Tensor, " d"]]


_views: OrderedDict[str, _View] = OrderedDict()


def _known(
    encoder: LensEncoder, view: View, by: str, budget: int | None, bar: "tqdm[NoReturn]"
) -> _View:
    """Return the texts of a view in parts, those of an earlier call where they are remembered."""
    steered = view.edit.facts.fingerprint if view.edit else ""
    model = (encoder.lens.fingerprint, str(encoder.place), by, steered, str(budget))
    key = hashlib.sha256("\x1f".join([*model, *view.prompts]).encode()).hexdigest()
    if key not in _views:
        _views[key] = _run(encoder, view, by, budget, bar)
    else:
        bar.update(len(view.prompts))
    _views.move_to_end(key)
    while len(_views) > KEPT:
        _views.popitem(last=False)
    return _views[key]


def _run(
    encoder: LensEncoder, view: View, by: str, budget: int | None, bar: "tqdm[NoReturn]"
) -> _View:
    """Run the texts of a view."""
    n = len(view.prompts)
    where: dict[str, list[int]] = {}
    for i, prompt in enumerate(view.prompts):
        where.setdefault(prompt, []).append(i)
    read = torch.zeros(n, encoder.lens.d_model)
    sums: dict[tuple[Key, ...], Float[Tensor, "parts d"]] = {}
    kept: dict[int, Parts] = {}
    for prompts, parts in _in_parts(encoder, view, by, list(where)):
        of_each = zip(prompts, parts.vectors.split(1), parts.whole.split(1), strict=True)
        for prompt, vectors, whole in of_each:
            at, keys = where[prompt], tuple(keys_of(parts.labels))
            read[at] = whole
            sums[keys] = sums.get(keys, 0) + len(at) * vectors[0].double()
            n_kept = n if budget is None else max(FEWEST, budget // (2 * vectors.numel()))
            one = Parts(parts.labels, vectors if budget is None else vectors.half(), whole)
            kept |= {text: one for text in at if text < n_kept}
            bar.update(len(at))
    means: dict[Key, Tensor] = {}
    for keys, total in sums.items():
        for key, row in zip(keys, total, strict=True):
            means[key] = means.get(key, 0) + row / n
    means = {key: mean.float() for key, mean in means.items()}
    return _View(read, [kept[i] for i in sorted(kept)], means)


def _in_parts(
    encoder: LensEncoder, view: View, by: str, prompts: list[str]
) -> Iterator[tuple[list[str], Parts]]:
    """Yield different prompts of a view in parts, a few at a time."""
    if by in BY_PASS:
        for batch, parts in split(encoder.lens, prompts, encoder.place, by, view.edit):
            yield [prompts[i] for i in batch], parts
        return
    name, blocks = encoder.place
    read = capture(encoder.lens, prompts, name, blocks, edit=view.edit, progress=False)[name]
    yield prompts, Parts([Part("language")], read[:, None], read)


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
            random pairs.
        n_pairs: How many those are.
        seed: Of the random pairs.
    """

    name: str
    digest: str
    n_texts: int
    split: Split | None
    mean: Float[Tensor, " d"]
    shares: Float[Tensor, " d"]
    added: dict[Key, tuple[float, float]]
    n_pairs: int
    seed: int


def reference(
    encoder: Encoder,
    corpus: Corpus,
    by: str,
    language: str,
    n_largest: int = 0,
    *,
    seed: int = 0,
    progress: bool = True,
) -> Reference:
    """Return what parts are centred on, and what they add to random pairs of the corpus.

    Args:
        encoder: The encoder; one of a `LensModel` unless `by` is "dimension".
        corpus: The texts.
        by: As for `split_texts`, or "dimension".
        language: Of the texts.
        n_largest: Dimensions with the largest shares that are left out of joint sets.
        seed: Of the random pairs: up to four for each text.
        progress: Show a progress bar while the corpus runs through the model. What it gave is kept,
            so that another k, or fewer languages of these, need no pass.
    """
    split = None
    if by == "dimension" or not isinstance(encoder, LensEncoder):
        encoded = encoder.encode_renderings(corpus.renderings, language, progress=progress)
    else:
        views = encoder.views(corpus.renderings, language)
        split = split_texts(encoder, views, by, budget=SAMPLE_BYTES, progress=progress)
        encoded = encoder.combined(views, split.read)
    vectors, sets = encoded.vectors.float(), encoded.sets
    mean, shares = vectors.double().mean(0).float(), shares_of_mean_cosine(vectors)
    rng, n, n_pairs = np.random.default_rng(seed), len(vectors), 0
    sums: dict[tuple[Key, ...], Float[Tensor, "moments parts"]] = {}
    for i in range(n if split is None else len(split.texts)):
        keys, parts = dimension_keys(vectors.shape[1]), None
        if split is not None:
            text = split.texts[i]
            keys, parts = tuple(text.keys), text.vectors - split.expected(text)
        x = vectors[i] - mean
        others = np.delete(np.arange(n), i)
        for j in rng.choice(others, min(PARTNERS, n - 1), replace=False):
            y, U = vectors[j] - mean, sets[i] | sets[j]
            try:
                U = without_largest(U, shares, n_largest)
                added = by_dimension(x, y, U) if parts is None else one_sided(parts, x, y, U)
            except InputError:  # a pair without a similarity
                continue
            n_pairs += 1
            moments = torch.stack([torch.ones_like(added), added, added.square()])
            sums[keys] = sums.get(keys, 0) + moments
    added_by: dict[Key, Float[Tensor, " moments"]] = {}
    for keys, moments in sums.items():
        for key, of_key in zip(keys, moments.T, strict=True):
            added_by[key] = added_by.get(key, 0) + of_key
    spread = {key: _mean_and_spread(*moments.tolist()) for key, moments in added_by.items()}
    about = (corpus.name, corpus.digest, len(corpus))
    return Reference(*about, split, mean, shares, spread, n_pairs, seed)


def dimension_keys(width: int) -> tuple[Key, ...]:
    """Return the keys of the dimensions."""
    return tuple((None, "dimension", j, None) for j in range(width))


def _mean_and_spread(n: float, total: float, squares: float) -> tuple[float, float]:
    """Return mean and standard deviation from the three sums."""
    mean = total / n
    return mean, math.sqrt(max(0.0, squares / n - mean * mean))
