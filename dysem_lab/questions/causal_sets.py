"""Which part of a text's vector is put in another's place: S(x), and every control of it.

What is replaced at a block is old + (new - old) on a part of the stream. The controls differ from
S(x) in one thing each: in which dimensions, how many, how long, whose, in which basis.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dysem_lab.consensus import consensus_set
from dysem_lab.models.readout import Readers
from dysem_lab.questions.random_sets import draw_sets

KL, GAIN = "kl", "gain"  # what is compared: of an ablation, and of an interchange
OWN = "S(x)"
SIZE, NORM = "random, equal size", "random, equal norm"
LARGEST, VARIANCE = "largest |v|", "largest variance"
SIZE_READ = "random, equal size and read norm"
OTHER = "another text's S"
ROTATED, ROTATED_READ = "random rotation", "random rotation, equal read norm"
COMPLEMENT, WHOLE = "complement of S(x)", "whole vector"
END = "S(x) of A^L"
READ, UNREAD = "S(x), most read", "S(x), least read"
# What S(x) has to beat: sets of its own size or norm. The others are larger, or parts of it; and a
# rotation as it is mixes large values into directions that are read strongly, so that it may move
# what is read by more than the whole vector does.
FAIR = (SIZE, NORM, SIZE_READ, LARGEST, VARIANCE, OTHER, ROTATED_READ)
KINDS = (OWN, *FAIR, ROTATED, END, READ, UNREAD, COMPLEMENT, WHOLE)
MOST = 0.9  # of what the next block reads, as squared singular values, lies in "most read"
SWAPS = 4  # per dimension, at most, until a random set is read as strongly as S(x)
NEAR = 0.01  # how far its read norm may be from that of S(x), as a share of it


class Draws(NamedTuple):
    """How often is drawn what is random.

    Attributes:
        sets: Random sets per text, of each kind.
        rotations: Random rotations of the stream.
        seed: Of all of them; those of two seeds differ.
    """

    sets: int
    rotations: int
    seed: int

    def seeds(self, n: int) -> range:
        """Return the seeds of n draws."""
        return range(self.seed * n, (self.seed + 1) * n)


class Part(NamedTuple):
    """A part of each text's vector.

    Attributes:
        masks: The dimensions of each text, or those of its coordinates in the basis.
        basis: A rotation of the stream; None is the model's own basis.
        span: Projection onto a subspace, after the dimensions are chosen; None is none.
        scale: How much of the part of each text is replaced; None is all of it.
    """

    masks: Bool[Tensor, "n d"]
    basis: Float[Tensor, "d d"] | None = None
    span: Float[Tensor, "d d"] | None = None
    scale: Float[Tensor, " n"] | None = None

    def of(self, change: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return the part of a change that is made."""
        if self.basis is not None:
            part = ((change @ self.basis) * self.masks) @ self.basis.T
        else:
            part = change * self.masks
        if self.span is not None:
            part = part @ self.span
        return part if self.scale is None else part * self.scale[:, None]


class At(NamedTuple):
    """What sets are chosen from, at one block.

    Attributes:
        languages: h^b of each text in the languages of the consensus.
        vector: v, in English.
        change: What the whole replacement would add.
        spread: Variance of v over a corpus.
        end: A^L in these languages, at the last block alone.
        readers: Of the next block, or of the unembedding; None where nobody asks.
    """

    languages: Float[Tensor, "n m d"]
    vector: Float[Tensor, "n d"]
    change: Float[Tensor, "n d"]
    spread: Float[Tensor, " d"]
    end: Float[Tensor, "n m d"] | None = None
    readers: Readers | None = None


def parts_of(
    at: At, k: int | float, draws: Draws, kinds: Sequence[str] = KINDS
) -> Mapping[str, list[Part]]:
    """Return S(x) and its controls, each as one part per draw.

    Those that need what is not there are left out: `END` before the last block, `READ` and
    `UNREAD` at it, and all that is said of reading without `At.readers`.

    Args:
        at: What sets are chosen from.
        k: Dimensions per text, or fraction of d.
        draws: How often is drawn.
        kinds: Of `KINDS`.
    """
    own = consensus_set(at.languages, k)
    sizes, d_model = own.sum(-1), own.shape[-1]
    seeds = draws.seeds(draws.sets)
    found: dict[str, list[Part]] = {}
    turned: list[Part] = []
    if {ROTATED, ROTATED_READ} & set(kinds):
        bases = [rotation(d_model, seed) for seed in draws.seeds(draws.rotations)]
        turned = [Part(consensus_set(at.languages @ Q, k), Q) for Q in bases]

    def largest(keys: Float[Tensor, "*n d"]) -> list[Part]:
        order = keys.expand_as(at.vector).argsort(dim=-1, descending=True, stable=True)
        return [Part(order.argsort(dim=-1) < sizes[:, None])]

    for kind in kinds:
        if kind == OWN:
            found[kind] = [Part(own)]
        elif kind == SIZE:
            found[kind] = [Part(draw_sets(sizes, d_model, seed)) for seed in seeds]
        elif kind == NORM:
            norms = Part(own).of(at.change).norm(dim=-1)
            found[kind] = [Part(draw_of_norm(at.change, norms, seed)) for seed in seeds]
        elif kind == LARGEST:
            found[kind] = largest(at.vector.abs())
        elif kind == VARIANCE:
            found[kind] = largest(at.spread)
        elif kind == OTHER:
            found[kind] = [Part(own.roll(1, 0))]
        elif kind == ROTATED:
            found[kind] = turned
        elif kind == SIZE_READ and at.readers is not None:
            found[kind] = [Part(draw_of_read_norm(at, own, seed)) for seed in seeds]
        elif kind == ROTATED_READ and at.readers is not None:
            wanted = at.readers.norm(Part(own).of(at.change))
            for part in turned:
                scale = wanted / at.readers.norm(part.of(at.change)).clamp(min=1e-30)
                found.setdefault(kind, []).append(part._replace(scale=scale))
        elif kind == END and at.end is not None:
            found[kind] = [Part(consensus_set(at.end, k))]
        elif kind in (READ, UNREAD) and at.readers is not None and at.end is None:
            most = at.readers.basis[:, : n_most(at.readers)]
            read = most @ most.T
            span = read if kind == READ else torch.eye(d_model) - read
            found[kind] = [Part(own, span=span)]
        elif kind == COMPLEMENT:
            found[kind] = [Part(~own)]
        elif kind == WHOLE:
            found[kind] = [Part(torch.ones_like(own))]
    return found


def n_most(readers: Readers) -> int:
    """Return how many directions hold `MOST` of what a block reads."""
    return int((readers.share.cumsum(0) < MOST).sum()) + 1


def draw_of_norm(
    change: Float[Tensor, "n d"], norms: Float[Tensor, " n"], seed: int
) -> Bool[Tensor, "n d"]:
    """Return random sets on which a change has nearly a given norm, and never more.

    In a random order each dimension joins that does not make the norm too large.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(change.shape, generator=generator).argsort(dim=-1)
    squared = change.double().square().gather(-1, order)
    left = norms.double().square() * (1 + 1e-6)  # rounding keeps nothing out
    joined = torch.zeros_like(order, dtype=torch.bool)
    for place in range(change.shape[1]):
        joined[:, place] = squared[:, place] <= left
        left = left - squared[:, place] * joined[:, place]
    return torch.zeros_like(joined).scatter(-1, order, joined)


def draw_of_read_norm(at: At, own: Bool[Tensor, "n d"], seed: int) -> Bool[Tensor, "n d"]:
    """Return random sets of the sizes of S(x) whose part of the change is read about as strongly.

    From a random set two random dimensions, one in it and one not, change places where that brings
    the read norm nearer to that of S(x), until it is within `NEAR`.

    Args:
        at: With what comes next reads.
        own: S(x) of each text.
        seed: Of the draw.
    """
    assert at.readers is not None
    sizes, change = own.sum(-1), at.change.double()
    generator = torch.Generator().manual_seed(seed)
    joined = draw_sets(sizes, own.shape[1], seed)
    gram = (at.readers.basis * at.readers.share).double() @ at.readers.basis.double().T
    wanted = (change * own @ gram * change * own).sum(-1)
    read = change * joined @ gram  # what each dimension's unit would add to half the square
    squared = (read * change * joined).sum(-1)
    rows, movable = torch.arange(len(own)), (sizes > 0) & (sizes < own.shape[1])
    for _ in range(SWAPS * own.shape[1]):
        far = (squared.sqrt() - wanted.sqrt()).abs() > NEAR * wanted.sqrt()
        if not (far & movable).any():
            break
        out, into = (
            torch.multinomial((of | ~movable[:, None]).float(), 1, generator=generator)[:, 0]
            for of in (joined, ~joined)
        )
        less, more = change[rows, out], change[rows, into]
        moved = 2 * (more * read[rows, into] - less * read[rows, out])
        moved += more**2 * gram[into, into] + less**2 * gram[out, out]
        moved -= 2 * less * more * gram[out, into]
        nearer = (squared + moved - wanted).abs() < (squared - wanted).abs()
        swap = far & movable & nearer
        joined[rows[swap], out[swap]], joined[rows[swap], into[swap]] = False, True
        squared = (squared + moved * swap).clamp(min=0)
        read += (more * swap)[:, None] * gram[into] - (less * swap)[:, None] * gram[out]
    return joined


def rotation(d_model: int, seed: int, n_columns: int | None = None) -> Float[Tensor, "d r"]:
    """Return a random rotation (or reflection), uniform over all of them, or columns of one.

    Source: Mezzadri, How to generate random matrices from the classical compact groups, 2007.
    """
    generator = torch.Generator().manual_seed(seed)
    Q, R = torch.linalg.qr(torch.randn(d_model, n_columns or d_model, generator=generator).double())
    return (Q * R.diagonal().sign()).float()
