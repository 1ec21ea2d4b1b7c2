"""Texts of an encoder in parts: what each part is, and what all texts have of it."""

import contextlib
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeGuard

import torch
import xxhash
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dysem_lab import paths
from dysem_lab.attribution import Directions
from dysem_lab.display import Progress, silent
from dysem_lab.encoders.base import Encoder, LensEncoder, View
from dysem_lab.errors import DataError
from dysem_lab.models.capture import capture
from dysem_lab.models.parts import SPLITS, Fixed, Part, Parts, neurons, of_each, split
from dysem_lab.models.store import prompt_key
from dysem_lab.questions.saving import atomic_write

FORMAT = "5"  # of what is kept on disk
MOST_BYTES = 2**29  # of all corpora on disk
FEWEST = 2  # texts that are kept at least
KEPT = 32  # texts in one view, split in one way, that are remembered
TOGETHER = (
    "head",
    "block",
    "ffn",
    "neuron",
)  # parts that are the same in every view, and are added up
BY_PASS = (*TOGETHER, "token")  # parts that a pass has to be read for
TEXT = "text"

Key = tuple[Hashable, ...]  # of which view and which part it is, of any text


class Labelled(NamedTuple):
    """One text's parts over all its views, weighted so that they add up to its vector.

    Attributes:
        labels: What each part is.
        views: Of which view each is, by its number; None is the sum over all of them.
        keys: What each has in common with a part of another text: its view, and its `key_of`.
        vectors: Of each part.
        weights: Of directions that are the same for every text (`Fixed`), parts as well.
    """

    labels: list[Part]
    views: list[int | None]
    keys: list[Key]
    vectors: Float[Tensor, "parts d"]
    weights: Float[Tensor, " k"]


@dataclass(frozen=True, eq=False)
class Split:
    """Texts under one encoder, split in one way.

    Attributes:
        read: s of n texts in every view.
        texts: The first so many of them in parts.
        means: Key → the mean over all texts of that part; all of them add up to the mean vector.
            The tokens of the texts themselves are one key: this is the mean of their sum.
        weights: The mean over all texts of their weights: E[p] of such a part is exact by it alone.
    """

    read: Float[Tensor, "views n d"]
    texts: list[Labelled]
    means: dict[Key, Float[Tensor, " d"]]
    weights: Float[Tensor, " k"]

    def expected(self, text: Labelled) -> Float[Tensor, "parts d"]:
        """Return E[p] for each part of a text; they add up to the mean vector.

        What the template's tokens leave of the mean is spread evenly over the text's own.
        """
        if not text.keys:
            return text.vectors
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


def in_parts(encoder: Encoder) -> TypeGuard[LensEncoder]:
    """Return whether an encoder's vectors are the sums of parts that a pass writes."""
    if not isinstance(encoder, LensEncoder) or not encoder.weighted_sum:
        return False
    return encoder.place.component in SPLITS


def split_texts(
    encoder: LensEncoder,
    views: Sequence[View],
    by: str,
    *,
    budget: int | None = None,
    progress: Progress = silent,
) -> Split:
    """Run n texts through an encoder and return them in parts; passes are remembered.

    Args:
        encoder: The encoder.
        views: Its passes over the texts.
        by: As for `dysem_lab.models.parts.split`, or "language".
        budget: Bytes of one view's parts that are kept, in half precision where that has room for
            their values; None keeps them all as they are.
        progress: Told of every batch that runs; what it raises stops the work.
    """
    total, done = sum(len(view.prompts) for view in views), 0
    found = []
    for view in views:

        def report(n: int, done: int = done) -> None:
            progress(done + n, total, f"parts by {by}")

        # A view without a weight only chooses dimensions.
        found.append(_known(encoder, view, by if view.weight else "language", budget, report))
        done += len(view.prompts)
    in_views = enumerate(zip(views, found, strict=True))
    weighted = [(i, view.weight, of) for i, (view, of) in in_views if view.weight]
    texts: list[Labelled] = []
    means: dict[Key, Tensor] = {}
    weights = torch.stack([weight * of.weights for _, weight, of in weighted]).sum(0)
    for rows in zip(*(of.texts for _, _, of in weighted), strict=False):
        parts = [(i, weight, row) for (i, weight, _), row in zip(weighted, rows, strict=True)]
        texts.append(_together(parts) if by in TOGETHER else _side_by_side(parts))
    for i, weight, of in weighted:
        for key, mean in of.means.items():
            named = (None if by in TOGETHER else i, *key)
            means[named] = means.get(named, 0) + weight * mean
    return Split(torch.stack([of.read for of in found]), texts, means, weights)


def fixed_of(
    encoder: Encoder, by: str, views: Sequence[View], directions: Directions | None
) -> Fixed | None:
    """Return the directions that all texts have weights for; None where each has its own parts.

    Args:
        encoder: The encoder.
        by: What its texts are split by.
        views: Its passes over any texts.
        directions: Those of a user.
    """
    if directions is not None:
        labels = [Part("direction", direction=name) for name in directions.names]
        return Fixed(labels, directions.vectors)
    if by == "neuron" and in_parts(encoder):
        return neurons(encoder.lens, encoder.place, views[0].edit)
    return None


def along(vectors: Float[Tensor, "n d"], directions: Directions) -> Split:
    """Return vectors as sums of directions and of an error, what these do not hold."""
    vectors = vectors.double()
    weights = directions.coefficients(vectors)
    errors = vectors - weights @ directions.vectors
    key: Key = (None, "error", None, None)
    texts = [
        Labelled([Part("error")], [None], [key], error[None], of_text)
        for error, of_text in zip(errors, weights, strict=True)
    ]
    return Split(vectors[None], texts, {key: errors.mean(0)}, weights.mean(0))


Report = Callable[[int], None]  # is told how many texts of a view are done
Row = tuple[int, float, Parts]  # a view's number, its weight, one text's parts in it


def _together(rows: Sequence[Row]) -> Labelled:
    """Return the sum over the views of parts that are the same in each."""
    labels = rows[0][2].labels
    vectors = torch.stack([weight * parts.vectors[0].float() for _, weight, parts in rows]).sum(0)
    weights = torch.stack([weight * parts.weights[0] for _, weight, parts in rows]).sum(0)
    keys = [(None, *key) for key in keys_of(labels)]
    return Labelled(labels, [None] * len(labels), keys, vectors, weights)


def _side_by_side(rows: Sequence[Row]) -> Labelled:
    """Return the parts of each view."""
    labels = [label for _, _, parts in rows for label in parts.labels]
    views = [i for i, _, parts in rows for _ in parts.labels]
    keys = [(i, *key) for i, _, parts in rows for key in keys_of(parts.labels)]
    vectors = torch.cat([weight * parts.vectors[0].float() for _, weight, parts in rows])
    return Labelled(labels, list(views), keys, vectors, torch.zeros(0))


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
    for label in labels:
        kind, position = label.kind, label.position
        if position is None:
            which = (label.head, label.neuron, label.direction)
            keys.append((kind, label.block, next((i for i in which if i is not None), None)))
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
    weights: Float[Tensor, " k"]


_views: OrderedDict[str, _View] = OrderedDict()


def _known(encoder: LensEncoder, view: View, by: str, budget: int | None, report: Report) -> _View:
    """Return the texts of a view in parts, those of an earlier call where they are remembered.

    Those of a corpus are kept on disk too, under all that they depend on.

    Raises:
        ModelError: As `LensModel.check_own_pass`: what another pass gave would be remembered.
    """
    lens = encoder.lens
    lens.check_own_pass()
    steered = view.edit.facts.fingerprint if view.edit else ""
    model = (lens.fingerprint, str(lens.dtype), str(encoder.place), steered)
    prompts = [prompt_key(prompt, encoder.max_tokens) for prompt in view.prompts]
    key = hashlib.sha256(" ".join([*model, by, str(budget), FORMAT, *prompts]).encode()).hexdigest()
    found = _views.get(key)
    if found is None and budget is not None:
        found = _loaded(paths.parts_path(key))
    if found is None:
        found = _run(encoder, view, by, budget, report)
        if budget is not None:
            _save(found, paths.parts_path(key))
    _views[key] = found
    _views.move_to_end(key)
    while len(_views) > KEPT:
        _views.popitem(last=False)
    return found


def _save(view: _View, path: Path) -> None:
    """Write the texts of a view in parts, in the place of the oldest ones where they are many.

    A disk that has no room keeps nothing.
    """
    means = [*view.means.values()]
    tensors = {"read": view.read, "mean_weights": view.weights}
    tensors["means"] = torch.stack(means) if means else torch.zeros(0, view.read.shape[1])
    tensors["vectors"] = torch.cat([parts.vectors[0] for parts in view.texts])
    tensors["weights"] = torch.cat([parts.weights for parts in view.texts])
    labels = [parts.labels for parts in view.texts]
    # Heads are the same of all texts: said once.
    same = all(of_text == labels[0] for of_text in labels)
    labelled = {"keys": list(view.means), "labels": labels[:1] if same else labels}
    said = json.dumps(labelled, ensure_ascii=False)
    with contextlib.suppress(DataError), atomic_write(path) as file:
        save_file(tensors, file, {"said": said, "digest": _digest(said, tensors)})
    with contextlib.suppress(OSError):  # another process may be at it too
        files = sorted(path.parent.iterdir(), key=lambda file: file.stat().st_mtime)
        sizes = [file.stat().st_size for file in files]
        while len(files) > 1 and sum(sizes) > MOST_BYTES:
            sizes.pop(0)
            files.pop(0).unlink()


def _digest(said: str, tensors: Mapping[str, Tensor]) -> str:
    """Return a digest of what a file holds, by which a damaged one is seen."""
    digest = xxhash.xxh3_128(said.encode())
    for name in sorted(tensors):
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _loaded(path: Path) -> _View | None:
    """Return what `_save` wrote; None where there is nothing, or a damaged file."""
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about["digest"] != _digest(about["said"], tensors):
            return None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    said = json.loads(about["said"])
    read, weights = tensors["read"], tensors["weights"]
    labels = [[Part(*label) for label in of_text] for of_text in said["labels"]]
    if len(labels) == 1:
        labels *= len(weights)
    rows = tensors["vectors"].split([len(of_text) for of_text in labels])
    each = zip(labels, rows, read, weights, strict=False)
    texts = [Parts(labels, of[None], whole[None], own[None]) for labels, of, whole, own in each]
    means = dict(zip(map(tuple, said["keys"]), tensors["means"], strict=True))
    return _View(read, texts, means, tensors["mean_weights"])


def _run(encoder: LensEncoder, view: View, by: str, budget: int | None, report: Report) -> _View:
    """Run the texts of a view."""
    n = len(view.prompts)
    where: dict[str, list[int]] = {}
    for i, prompt in enumerate(view.prompts):
        where.setdefault(prompt, []).append(i)
    read = torch.zeros(n, encoder.lens.d_model)
    sums: dict[tuple[Key, ...], Float[Tensor, "parts d"]] = {}
    weights: Tensor | float = 0.0
    kept: dict[int, Parts] = {}
    n_done = 0
    for prompts, parts in _in_parts(encoder, view, by, list(where)):
        for prompt, one in zip(prompts, of_each(parts), strict=True):
            at, keys = where[prompt], tuple(keys_of(parts.labels))
            read[at] = one.whole
            sums[keys] = sums.get(keys, 0) + len(at) * one.vectors[0].double()
            weights = weights + len(at) * one.weights[0].double()
            n_kept = n
            if budget is not None:
                one = one._replace(vectors=_small(one.vectors))
                size = one.vectors.nbytes + 4 * one.weights.numel()
                n_kept = max(FEWEST, budget // size)
            kept |= {text: one for text in at if text < n_kept}
            n_done += len(at)
        report(n_done)
    means: dict[Key, Tensor] = {}
    for keys, total in sums.items():
        for key, row in zip(keys, total, strict=True):
            means[key] = means.get(key, 0) + row / n
    means = {key: mean.float() for key, mean in means.items()}
    mean = torch.as_tensor(weights / n).float()
    return _View(read, [kept[i] for i in sorted(kept)], means, mean)


def _small(vectors: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return values in half precision, or as they are where one would be beyond its range."""
    fits = (vectors.abs() <= torch.finfo(torch.half).max).all()
    return vectors.half() if fits else vectors


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
    yield prompts, Parts([Part("language")], read[:, None], read, torch.zeros(len(read), 0))
