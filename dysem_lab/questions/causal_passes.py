"""Runs the model under many replacements of a part of the stream, and measures what follows.

What `dysem_lab.questions.causal` compares: ablations and interchanges at the last token of a block.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dysem_lab.joint import cosine
from dysem_lab.models.edits import patch
from dysem_lab.models.last_token import LastToken, Prefix, prefixes, record_edits
from dysem_lab.models.lens import LensModel
from dysem_lab.models.places import Place
from dysem_lab.models.readout import Readers, readers
from dysem_lab.models.record import Edit
from dysem_lab.prompts import Prompt
from dysem_lab.questions.causal_sets import GAIN, KL, READ, UNREAD, WHOLE, At, Draws, Part, parts_of
from dysem_lab.questions.scores import only_task, pair_cosine
from dysem_lab.questions.study import Study

ROWS = 256  # of logits that are held at once: 256 MB with a vocabulary of 2¹⁸
END_OF_STREAM = Place("resid")


class Key(NamedTuple):
    """Of one edit: the language of the passes, block, k, control, and draw."""

    language: str
    layer: int
    k: int | float
    control: str
    draw: int


Effect = Mapping[str, Float[Tensor, " n"]]  # measure → value of each text


class Half(NamedTuple):
    """Pairs of a study, and their different texts.

    Attributes:
        study: In the languages and the prompt that the question is about.
        pairs: Positions of the pairs.
        first: Where each different text is first met, in the pairs' first sentences, then second.
        row: Which of the different texts each sentence is.
    """

    study: Study
    pairs: np.ndarray
    first: list[int]
    row: list[int]

    @property
    def task(self) -> str:
        """The study's one task."""
        return only_task(self.study)

    @property
    def unit(self) -> np.ndarray:
        """The pair of each text: the two of a pair are alike, and so resampled together."""
        return np.array(self.first) % len(self.pairs)

    def texts(self) -> list[str]:
        """Return the different texts, in English."""
        texts = self.study.texts(self.task, "en", self.pairs.tolist())
        return [texts[i] for i in self.first]

    def prompts(self, code: str) -> list[Prompt]:
        """Return the prompt of each text in a language."""
        study, n = self.study, len(self.study.data[self.task])
        every = study.prompts(self.task, study.templates[0], study.settings[0], code).prompts
        rows = [*self.pairs, *(self.pairs + n)]
        return [every[rows[i]] for i in self.first]

    def stream(
        self, layer: int, codes: Sequence[str], component: str = "resid"
    ) -> Float[Tensor, "n m d"]:
        """Return h^b of each text, or another component's cumulative vector up to the end."""
        last = layer == self.study.n_layers - 1
        layers = "sum" if last else layer  # h^L is stored as the sum
        found = self.study.vectors(
            self.task, component, languages=codes, layers=layers, pairs=self.pairs.tolist()
        )
        return found[self.first]


Tried = Sequence[tuple[int, int | float]]  # (block, k)


class Measured(NamedTuple):
    """What edits did.

    Attributes:
        effects: Of each edit on each text.
        parts: Of what each edit replaced, on each text: size, share of the length of the whole
            change, and the same as what comes next reads it.
        similarity: Cosine of h^L of each pair after each edit, where STS is asked for; under None
            before any.
        gold: Ratings of the pairs.
        unit: What is resampled: the pair of each text.
        texts: The different texts, in English.
        seed: Of each text.
    """

    effects: dict[Key, Effect]
    parts: dict[Key, Float[Tensor, "3 n"]]
    similarity: dict[Key | None, Float[np.ndarray, " pairs"]]
    gold: Float[np.ndarray, " pairs"]
    unit: np.ndarray
    texts: list[str]
    seed: np.ndarray


def halves(
    study: Study, seeds: Sequence[int], codes: Sequence[str]
) -> dict[int, tuple[Half, Half]]:
    """Return for each seed pairs of its own, in two random halves: to choose on, to report on.

    A text that two sentences have in common, in any of the languages, is one.
    """
    order = np.random.default_rng(list(seeds)).permutation(len(study.data[only_task(study)]))
    found = {}
    for seed, own in zip(seeds, np.array_split(order, len(seeds)), strict=True):
        parts = own[: len(own) // 2], own[len(own) // 2 :]
        choosing, reporting = (_half(study, np.sort(part), codes) for part in parts)
        found[seed] = choosing, reporting
    return found


def _half(study: Study, pairs: np.ndarray, codes: Sequence[str]) -> Half:
    data = study.data[only_task(study)].select(pairs)
    first: list[int] = []
    row: list[int] = []
    seen: dict[tuple[str, str], int] = {}
    for i, said in enumerate(zip(*(data.texts(code) for code in codes), strict=True)):
        named = list(zip(codes, said, strict=True))
        known = [seen[name] for name in named if name in seen]
        if not known:
            first.append(i)
        row.append(known[0] if known else len(first) - 1)
        seen |= dict.fromkeys(named, row[-1])
    return Half(study, pairs, first, row)


def ablated(
    half: Half,
    corpus: Half,
    codes: Sequence[str],
    tried: Tried,
    kinds: Sequence[str],
    draws: Draws,
    by: str,
) -> Measured:
    """Return what ablations do to the texts of a half."""
    lens, prompts, edits, parts = half.study.lens, half.prompts("en"), {}, {}
    read = _readers(lens, tried, kinds)
    alone = [kind for kind in kinds if kind not in (READ, UNREAD)]  # these divide an interchange
    for layer, k in tried:
        v, known = half.stream(layer, ["en"])[:, 0], corpus.stream(layer, ["en"])[:, 0]
        new = known.mean(0) if by == "mean" else torch.zeros_like(known[0])
        at = _at(half, layer, codes, v, new - v, known, read.get(layer))
        for name, drawn in parts_of(at, k, draws, alone).items():
            for i, part in enumerate(drawn):
                key = Key("en", layer, k, name, i)
                edits[key] = _replaced(lens, layer, prompts, new.expand_as(v), v, part)
                parts[key] = _size_and_shares(part, new - v, at.readers)
    effects: dict[Key, Effect] = {}
    streams: dict[Key | None, Tensor] = {
        key: torch.zeros(len(prompts), lens.d_model) for key in (None, *edits)
    }
    for rows, plain, of_rows in _passes(lens, prompts, edits):
        p, streams[None][rows] = plain.log_p.exp(), plain.stream
        for key, edited in of_rows:
            found = {
                KL: (p * (plain.log_p - edited.log_p)).sum(-1).clamp(min=0),  # rounding
                "changed": (edited.top != plain.top).float(),
                "top": edited.top,
                "top_plain": plain.top,
            }
            _put(effects, key, found, rows, len(prompts))
            streams[key][rows] = edited.stream
    gold = half.study.data[half.task].gold[half.pairs]
    similarity = {
        key: pair_cosine(stream[half.row]).double().numpy() for key, stream in streams.items()
    }
    seed = np.full(len(prompts), draws.seed)
    return Measured(effects, parts, similarity, gold, half.unit, half.texts(), seed)


def exchanged(
    half: Half,
    corpus: Half,
    codes: Sequence[str],
    into: Sequence[str],
    tried: Tried,
    kinds: Sequence[str],
    draws: Draws,
) -> Measured:
    """Return what interchanges do to the passes of the texts of a half, in each language."""
    lens, n = half.study.lens, len(half.first)
    # The partner of a pair is about half of the texts away.
    donor = torch.arange(n).roll(max(1, n // 4))
    plain = {code: _plain(lens, half.prompts(code)) for code in dict.fromkeys(["en", *into])}
    read = _readers(lens, tried, kinds)
    effects: dict[Key, Effect] = {}
    parts = {}
    for code in into:
        prompts, edits = half.prompts(code), {}
        for layer, k in tried:
            v, old = half.stream(layer, ["en"])[:, 0][donor], half.stream(layer, [code])[:, 0]
            known = corpus.stream(layer, ["en"])[:, 0]
            at = _at(half, layer, codes, v, v - old, known, read.get(layer), donor)
            for name, drawn in parts_of(at, k, draws, kinds).items():
                for i, part in enumerate(drawn):
                    key = Key(code, layer, k, name, i)
                    edits[key] = _replaced(lens, layer, prompts, v, old, part)
                    parts[key] = _size_and_shares(part, v - old, at.readers)
        (theirs, end), rendered = (of[donor] for of in plain["en"]), plain[code][0][donor]
        for rows, before, of_rows in _passes(lens, prompts, edits):
            wanted, tokens = theirs[rows], torch.stack([theirs[rows], rendered[rows]], 1)
            for key, edited in of_rows:
                gained = edited.log_p.gather(1, tokens) - before.log_p.gather(1, tokens)
                became = (edited.top == wanted).float()
                found = {
                    GAIN: gained[:, 0],
                    "gain_rendering": gained[:, 1],
                    "became": became.where(before.top != wanted, torch.nan),
                    "to_donor": cosine(edited.stream, end[rows]),
                    "to_receiver": cosine(edited.stream, before.stream),
                    "plain_to_donor": cosine(before.stream, end[rows]),
                    "top": edited.top,
                    "top_plain": before.top,
                }
                _put(effects, key, found, rows, n)
    gold = half.study.data[half.task].gold[half.pairs]
    return Measured(effects, parts, {}, gold, half.unit, half.texts(), np.full(n, draws.seed))


def _at(
    half: Half,
    layer: int,
    codes: Sequence[str],
    vector: Float[Tensor, "n d"],
    change: Float[Tensor, "n d"],
    corpus: Float[Tensor, "n_corpus d"],
    read: Readers | None,
    order: Tensor | slice = slice(None),
) -> At:
    """Return what sets are chosen from; the texts that they are of in an order of their own."""
    last = layer == half.study.n_layers - 1
    return At(
        half.stream(layer, codes)[order],
        vector,
        change,
        corpus.var(0, correction=0),
        half.stream(layer, codes, "attn")[order] if last else None,
        read,
    )


def _replaced(
    lens: LensModel,
    layer: int,
    prompts: Sequence[str],
    new: Float[Tensor, "n d"],
    old: Float[Tensor, "n d"],
    part: Part,
) -> Edit:
    """Return the edit that puts a part of the new vectors into these prompts' passes."""
    # What is no set of dimensions of any basis is the whole of a vector of its own.
    if part.span is not None or part.scale is not None:
        return patch(
            lens, dict(zip(prompts, old + part.of(new - old), strict=True)), f"resid.{layer}"
        )
    sets = dict(zip(prompts, part.masks, strict=True))
    values = dict(zip(prompts, new, strict=True))
    return patch(lens, values, f"resid.{layer}", dimensions=sets, basis=part.basis)


class Read(NamedTuple):
    """What a pass says at the last token: log-probabilities of the next one, and h^L."""

    log_p: Float[Tensor, "n n_tokens"]
    stream: Float[Tensor, "n d"]

    @property
    def top(self) -> Int[Tensor, " n"]:
        """The most probable next token."""
        return self.log_p.argmax(-1)


def _read(of: LastToken) -> Read:
    assert of.logits is not None  # they were asked for
    return Read(of.logits.log_softmax(-1), of.vectors[END_OF_STREAM])


def _passes(
    lens: LensModel, prompts: Sequence[str], edits: Mapping[Key, Edit]
) -> Iterator[tuple[list[int], Read, Iterator[tuple[Key, Read]]]]:
    """Yield the positions of each batch of prompts, its plain pass, and all edited ones by name."""
    for prefix in prefixes(lens, prompts):
        plain = record_edits(lens, prefix, {"": Edit(lens)}, [END_OF_STREAM], logits=True)[""]
        yield prefix.rows, _read(plain), _edited(lens, prefix, edits)


def _edited(
    lens: LensModel, prefix: Prefix, edits: Mapping[Key, Edit]
) -> Iterator[tuple[Key, Read]]:
    names, at_once = list(edits), max(1, ROWS // len(prefix.rows))
    for start in range(0, len(names), at_once):
        some = {name: edits[name] for name in names[start : start + at_once]}
        found = record_edits(lens, prefix, some, [END_OF_STREAM], logits=True)
        yield from ((name, _read(edited)) for name, edited in found.items())


def _plain(lens: LensModel, prompts: Sequence[str]) -> tuple[Tensor, Float[Tensor, "n d"]]:
    """Return the top token and h^L of each plain pass."""
    top = torch.zeros(len(prompts), dtype=torch.long)
    stream = torch.zeros(len(prompts), lens.d_model)
    for rows, plain, _ in _passes(lens, prompts, {}):
        top[rows], stream[rows] = plain.top, plain.stream
    return top, stream


def _put(
    effects: dict[Key, Effect], key: Key, found: Mapping[str, Tensor], rows: list[int], n: int
) -> None:
    """Keep what was measured on some of the n texts."""
    whole = effects.setdefault(key, {name: torch.zeros(n).to(of) for name, of in found.items()})
    for name, of in found.items():
        whole[name][rows] = of


def _readers(lens: LensModel, tried: Tried, kinds: Sequence[str]) -> dict[int, Readers]:
    """Return what reads each block's stream; nothing where only a choice is made."""
    return {layer: readers(lens, layer + 1) for layer, _ in tried if WHOLE in kinds}


def _size_and_shares(
    part: Part, change: Float[Tensor, "n d"], read: Readers | None
) -> Float[Tensor, "3 n"]:
    moved = part.of(change)
    share = moved.norm(dim=-1) / change.norm(dim=-1)
    as_read = share * torch.nan if read is None else read.norm(moved) / read.norm(change)
    return torch.stack([part.masks.sum(-1).float(), share, as_read])
