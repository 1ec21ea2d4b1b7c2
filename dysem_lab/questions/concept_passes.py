"""Reads the vectors of one half of a study's texts, and their parts, through the logit lens.

What `dysem_lab.questions.concept` compares: the whole, the part on S(x), what is left of it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dysem_lab.consensus import consensus_set
from dysem_lab.models.parts import Parts, split
from dysem_lab.models.places import Place
from dysem_lab.models.readout import random_directions, read_out
from dysem_lab.questions.causal_passes import Half, halves
from dysem_lab.questions.concept_picture import (
    DIFFERENCE,
    DIMENSION,
    DIRECTIONS,
    HEAD,
    OFF,
    ON,
    SETS,
    TEXT,
    WHOLE,
    Head,
)
from dysem_lab.questions.concept_words import Words
from dysem_lab.questions.random_sets import draw_sets
from dysem_lab.questions.study import Study


class Kind(NamedTuple):
    """Which vectors were read."""

    component: str
    vector: str
    part: str


class Read(NamedTuple):
    """What was read of n texts, in each of m languages and then in the mean over them.

    Attributes:
        values: Measure → its value; the mean over draws where there are several, NaN where a part
            is empty.
        n_dims: Mean size of the part.
        n_draws: How often it was drawn.
        ids: The top tokens of the mean over the languages, of the first draw.
    """

    values: Mapping[str, Float[Tensor, "n views"]]
    n_dims: float
    n_draws: int
    ids: Int[Tensor, "n top"]


def n_steps(n_components: int, n_sets: int) -> int:
    """Return how many times `Reading` says that it got on."""
    return n_components * (2 * (3 + n_sets) + 1) + 2


class Reading:
    """The texts of one half, the model's own answers, and what is read.

    Attributes:
        codes: The m languages.
        half: The texts that are read.
        choosing: Those that a head is chosen on.
        english: The texts that are read.
        answers: The model's own top token in each language.

    Args:
        study: In the languages and the prompt that the question is about.
        top: Tokens of a read-out that are looked at.
        seed: Of the halves, and of the first of all draws.
        tick: Called after each of `n_steps`.
    """

    def __init__(self, study: Study, top: int, seed: int, tick: Callable[[], object]) -> None:
        """Take the texts apart, and ask for the model's own answers."""
        self.lens, self.codes, self._top, self._seed = study.lens, study.languages, top, seed
        self._tick = tick
        self.choosing, self.half = halves(study, [seed], self.codes)[seed]
        self._n, self._last = len(self.half.first), study.n_layers - 1
        # Partners of a pair are about half of the texts away.
        order = torch.arange(self._n)
        self._subtracted = order.roll(-max(1, self._n // 4))
        self._other = order.roll(-max(1, self._n // 3))
        texts = {code: _texts(self.half, code) for code in self.codes}
        self.english = texts["en"]
        both = {code: [*mine, *_texts(self.choosing, code)] for code, mine in texts.items()}
        self._words = Words(self.lens, both)
        stream = self.half.stream(self._last, self.codes)
        self.answers = read_out(self.lens, stream.flatten(0, 1), 1).ids.view(self._n, -1)

    def component(self, name: str, k: int | float, n_random: int, n_sets: int) -> dict[Kind, Read]:
        """Return what is read of a component: parts, differences, a dimension, directions."""
        s = self.half.stream(self._last, self.codes, name)
        S, views = consensus_set(s, k), _with_mean(s)
        seeds = range(self._seed, self._seed + n_sets)
        drawn = [draw_sets(S.sum(-1), S.shape[-1], seed) for seed in seeds]
        sets = {ON: [S], OFF: [~S], WHOLE: [torch.ones_like(S)], SETS: drawn}
        found = {}
        for vector, of in ((TEXT, views), (DIFFERENCE, views - views[self._subtracted])):
            for part, masks in sets.items():
                found[Kind(name, vector, part)] = self._read(of, masks)
        known = self.choosing.stream(self._last, self.codes, name).mean(1)
        unusual = (s.mean(1) - known.mean(0)) / known.std(0).clamp(min=1e-30)
        most = unusual.masked_fill(~S, -torch.inf).argmax(-1, keepdim=True)
        one = torch.zeros_like(S).scatter(-1, most, True) & S
        found[Kind(name, DIMENSION, ON)] = self._read(views, [one])
        norm = float(s.norm(dim=-1).mean())
        directions = random_directions(self.lens, n_random, norm, self._seed)
        found[Kind(name, DIRECTIONS, WHOLE)] = self._read_directions(directions)
        return found

    def head(self) -> tuple[Head, dict[Kind, Read]]:
        """Choose a head on the other half, and return what is read of its output.

        It is the head whose top tokens, in English, are most often words of the text, and least
        often words of another text.
        """
        n = len(self.choosing.first)
        hits: dict[Head, float] = {}
        for rows, parts in split(self.lens, self.choosing.prompts("en"), Place("attn"), "head"):
            which = [self._n + row for row in rows]
            others = [self._n + (row + max(1, n // 3)) % n for row in rows]
            heads = _heads_of(parts)
            ids = read_out(self.lens, parts.vectors[:, [*heads]].flatten(0, 1), self._top).ids
            ids = ids.view(len(rows), len(heads), -1)
            own, other = (self._words.hits(ids, of).sum(0) for of in (which, others))
            for head, more in zip(heads.values(), (own - other).tolist(), strict=True):
                hits[head] = hits.get(head, 0) + more
        chosen = max(hits, key=lambda head: hits[head])
        s = torch.zeros(self._n, len(self.codes), self.lens.d_model)
        for i, code in enumerate(self.codes):
            for rows, parts in split(self.lens, self.half.prompts(code), Place("attn"), "head"):
                (at,) = (at for at, head in _heads_of(parts).items() if head == chosen)
                s[rows, i] = parts.vectors[:, at]
        views, everything = _with_mean(s), [torch.ones(s.shape[0], s.shape[2], dtype=torch.bool)]
        vectors = {TEXT: views, DIFFERENCE: views - views[self._subtracted]}
        return chosen, {
            Kind(HEAD, vector, WHOLE): self._read(of, everything) for vector, of in vectors.items()
        }

    def _read(
        self, views: Float[Tensor, "n views d"], masks: Sequence[Bool[Tensor, "n d"]]
    ) -> Read:
        """Return what is read of the vectors on each of some sets."""
        draws: list[dict[str, Tensor]] = []
        ids = []
        for mask in masks:
            part = views * mask[:, None]
            empty = ~part.any(-1)
            tokens, measured = self._measured(part)
            ids.append(tokens)
            draws.append({name: of.masked_fill(empty, torch.nan) for name, of in measured.items()})
            self._tick()
        values = {name: torch.stack([of[name] for of in draws]).mean(0) for name in draws[0]}
        size = torch.stack([*masks]).sum(-1).float().mean()
        return Read(values, float(size), len(masks), ids[0])

    def _measured(
        self, views: Float[Tensor, "n views d"]
    ) -> tuple[Int[Tensor, "n top"], dict[str, Float[Tensor, "n views"]]]:
        """Return the top tokens of the mean view, and every measure of all of them."""
        m, theirs = len(self.codes), self.answers[self._other]
        asked = torch.stack([self.answers, theirs], -1)  # [n, m, 2]
        single = read_out(self.lens, views[:, :m].flatten(0, 1), self._top, asked.flatten(0, 1))
        mean = read_out(self.lens, views[:, m], self._top, asked.flatten(1))
        ids = torch.cat([single.ids.view(self._n, m, -1), mean.ids[:, None]], 1)
        log_p = single.asked.view(self._n, m, 2), mean.asked.view(self._n, m, 2)
        rank = single.rank.view(self._n, m, 2), mean.rank.view(self._n, m, 2)
        differ = self.answers != theirs
        margins = [(of[..., 0] - of[..., 1]).where(differ, torch.nan) for of in log_p]
        values = self._counted(ids) | {
            "log_p": _beside(log_p[0][..., 0], log_p[1][..., 0].mean(1)),
            "rank": _beside(rank[0][..., 0].float(), rank[1][..., 0].float().median(1).values),
            "margin": _beside(margins[0], margins[1].nanmean(1)),
        }
        for name, second in (("agreement", ids), ("agreement_other", ids[self._other])):
            shared = _shared(ids[:, :m], second[:, :m])
            # Of each language with all others; the mean over them is that over their pairs.
            shared = (shared.sum(-1) - shared.diagonal(dim1=1, dim2=2)) / (m - 1)
            values[name] = _beside(shared, torch.full((self._n,), torch.nan))
        return mean.ids, values

    def _counted(self, ids: Int[Tensor, "n views ... top"]) -> dict[str, Tensor]:
        """Return whether tokens are words of the text, and of another text."""
        own, everywhere = list(range(self._n)), [*self.codes, None]
        in_own = [self._words.hits(ids[:, i], own, code) for i, code in enumerate(everywhere)]
        return {
            "words": self._words.hits(ids, own),
            "words_own": torch.stack(in_own, 1),
            "words_other": self._words.hits(ids, self._other.tolist()),
        }

    def _read_directions(self, directions: Float[Tensor, "draws d"]) -> Read:
        """Return what is read of directions, which are the same for every text and language."""
        m, theirs = len(self.codes), self.answers[self._other]
        tokens, which = torch.stack([self.answers, theirs]).unique(return_inverse=True)
        asked = tokens.expand(len(directions), -1)
        found = read_out(self.lens, directions, self._top, asked)
        ids = found.ids.expand(self._n, m + 1, *found.ids.shape)
        values = {name: of.mean(-1) for name, of in self._counted(ids).items()}
        log_p, rank = found.asked.mean(0)[which], found.rank.float().mean(0)[which[0]]
        margin = (log_p[0] - log_p[1]).where(self.answers != theirs, torch.nan)
        for name, of in (("log_p", log_p[0]), ("rank", rank), ("margin", margin)):
            values[name] = _beside(of, of.nanmean(1))
        shared, n = _shared(found.ids[None], found.ids[None])[0], len(directions)
        alike = (shared.sum() - n) / max(1, n * (n - 1))
        nothing = torch.full((self._n,), torch.nan)
        for name in ("agreement", "agreement_other"):
            values[name] = _beside(alike.expand(self._n, m), nothing)
        d_model, first = directions.shape[-1], found.ids[:1].expand(self._n, -1)
        return Read(values, d_model, n, first)


def _heads_of(parts: Parts) -> dict[int, Head]:
    """Return which of some parts are heads, and which heads they are."""
    return {
        at: Head(label.block, label.head)
        for at, label in enumerate(parts.labels)
        if label.block is not None and label.head is not None
    }


def _texts(half: Half, code: str) -> list[str]:
    """Return the different texts of a half in a language."""
    texts = half.study.texts(half.task, code, half.pairs.tolist())
    return [texts[i] for i in half.first]


def _with_mean(s: Float[Tensor, "n m d"]) -> Float[Tensor, "n views d"]:
    """Return vectors in each language, and their mean as the last one."""
    return torch.cat([s, s.mean(1, keepdim=True)], 1)


def _beside(single: Float[Tensor, "n m"], mean: Float[Tensor, " n"]) -> Float[Tensor, "n views"]:
    """Return values of each language, and that of the mean as the last one."""
    return torch.cat([single, mean[:, None]], 1)


def _shared(x: Int[Tensor, "n a top"], y: Int[Tensor, "n b top"]) -> Float[Tensor, "n a b"]:
    """Return the share of tokens that each two lists have in common."""
    same = x[:, :, None, :, None] == y[:, None, :, None, :]
    return same.any(-1).float().mean(-1)
