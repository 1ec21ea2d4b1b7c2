"""Runs the model for `dysem_lab.questions.heads`: what heads attend to, and passes without some."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from dysem_lab.models.edits import Together, ablate
from dysem_lab.models.last_token import prefixes, record_edits
from dysem_lab.models.lens import LensModel
from dysem_lab.models.passes import MAX_TOKENS, batch_budget, plan_batches
from dysem_lab.models.places import Place
from dysem_lab.models.readout import token_texts
from dysem_lab.models.record import Edit, activations, record
from dysem_lab.prompts import Prompt
from dysem_lab.questions.pair_parts import A_SUM, PartMeans

Head = tuple[int, int]  # block and head, 0-based
SOURCES = ("first", "text", "template")  # what the last token's attention goes to
SWAPS = 200  # per draw, at most, until random heads write as much as those that they stand beside
NEAR = 0.02  # how far the length of their parts may be from it, as a share
N_TOKENS = 3  # of an example, those that most attention goes to
Key = TypeVar("Key", bound=Hashable)


class Attention(NamedTuple):
    """What the last token of prompts attends to.

    Attributes:
        shares: Of each head's attention, what goes to the first token of the prompt, to the text
            and to the rest of the template; the mean over prompts.
        tokens: For each prompt that is an example, each head's most attended tokens.
    """

    shares: Float[Tensor, "L n_heads 3"]
    tokens: dict[str, dict[Head, list[tuple[str, float]]]]


def attended_by_heads(
    lens: LensModel,
    prompts: Sequence[Prompt],
    examples: Sequence[str],
    heads: Sequence[Head],
    *,
    progress: bool = True,
) -> Attention:
    """Return what every head of the last token attends to; one pass per prompt.

    Args:
        lens: The model.
        prompts: Different ones.
        examples: Those whose tokens are named.
        heads: Of which heads.
        progress: Show a progress bar.
    """
    points = [f"blocks.{block}.attn.hook_pattern" for block in range(lens.n_layers)]
    total = torch.zeros(lens.n_layers, lens.n_heads, len(SOURCES), dtype=torch.float64)
    tokens: dict[str, dict[Head, list[tuple[str, float]]]] = {}
    lengths = list(map(len, Edit(lens).tokenize(prompts, MAX_TOKENS)))
    with tqdm(total=len(prompts), desc="attention", disable=not progress) as bar:
        for batch in plan_batches(lengths, batch_budget(lens, None)):
            seen, ids, mask = activations(lens, [prompts[i] for i in batch], points)
            rows, last = torch.arange(len(batch)), mask.sum(1) - 1
            sizes = mask.sum(1).tolist()
            goes_to = torch.stack(
                [
                    _sources(lens, prompts[i], n, len(ids[0]))
                    for i, n in zip(batch, sizes, strict=True)
                ]
            )
            for block, point in enumerate(points):
                weights = seen[point][rows, :, last].double().cpu()  # [batch, head, key]
                total[block] += torch.einsum("bht,bts->hs", weights, goes_to)
                for row, i in enumerate(batch):
                    if prompts[i] in examples:
                        found = tokens.setdefault(prompts[i], {})
                        for head in (one for b, one in heads if b == block):
                            best = weights[row, head].topk(min(N_TOKENS, int(last[row]) + 1))
                            said = token_texts(lens, ids[row][best.indices].tolist())
                            pairs = zip(said, best.values.tolist(), strict=True)
                            found[block, head] = list(pairs)
            bar.update(len(batch))
    return Attention((total / len(prompts)).float(), tokens)


def _sources(lens: LensModel, prompt: Prompt, n: int, n_padded: int) -> Float[Tensor, "pos 3"]:
    """Return which of `SOURCES` each of the n tokens of a prompt is; 0 of padding.

    A token of both text and template is one of the text. Where the text was shortened, the template
    is whole.
    """
    spans = lens.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    of_text = [start < prompt.stop and stop > prompt.start for start, stop in spans]
    found = torch.zeros(n_padded, len(SOURCES), dtype=torch.float64)
    found[:n, 2] = 1
    if any(of_text):
        text = slice(of_text.index(True), n - of_text[::-1].index(True))
        found[text, 1:] = torch.tensor([1.0, 0.0], dtype=torch.float64)
    found[0] = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    return found


def mean_z(lens: LensModel, prompts: Sequence[str]) -> Float[Tensor, "L n_heads d_head"]:
    """Return the mean over prompts of what each head of the last token gives to W_O."""
    places = [Place("z", block) for block in range(lens.n_layers)]
    total = torch.zeros(lens.n_layers, lens.n_heads, lens.d_head, dtype=torch.float64)
    for _, read in record(lens, prompts, places):
        total += torch.stack([read[place].double().sum(0) for place in places])
    return (total / len(prompts)).float()


def without_heads(
    lens: LensModel, heads: Sequence[Head], by: Float[Tensor, "L n_heads d_head"]
) -> Edit:
    """Return the edit that puts means in the place of some heads' z at the last token."""
    of_block: dict[int, list[int]] = {}
    for block, head in heads:
        of_block.setdefault(block, []).append(head)
    edits = [ablate(lens, f"z.{b}", by[b], heads=of) for b, of in sorted(of_block.items())]
    return Together(lens, edits)


def edited_vectors(
    lens: LensModel,
    prompts: Sequence[str],
    edits: Mapping[Key, Edit],
    place: Place = A_SUM,
    *,
    progress: bool = True,
) -> dict[Key, Float[Tensor, "n d"]]:
    """Return a vector of prompts, A^L by default, under each of many edits of the last token."""
    found = {key: torch.zeros(len(prompts), lens.d_model) for key in edits}
    with tqdm(total=len(prompts), desc="without heads", disable=not progress) as bar:
        for prefix in prefixes(lens, prompts):
            for key, read in record_edits(lens, prefix, edits, [place]).items():
                found[key][prefix.rows] = read.vectors[place]
            bar.update(len(prefix.rows))
    return found


def squared_lengths(means: PartMeans) -> dict[Head, float]:
    """Return the mean squared length of each head's centred part."""
    labelled = zip(means.labels, means.length.square().tolist(), strict=True)
    return {(part.block, part.head): of for part, of in labelled if part.kind == "head"}  # type: ignore[misc]


def together(means: PartMeans, heads: Sequence[Head]) -> float:
    """Return how long the parts of heads are together: the root of the sum of their squares."""
    squares = squared_lengths(means)
    return math.sqrt(sum(squares[head] for head in heads))


def heads_of_equal_length(
    means: PartMeans, chosen: Sequence[Head], n_draws: int, seed: int
) -> list[list[Head]]:
    """Return random other heads whose parts are together about as long as those of chosen heads.

    As many as those, where so many can be as long: one in and one out change places where that
    brings the sum of their mean squared lengths nearer, until it is within `NEAR`. Where even the
    longest others are not, each joins in a random order that does not make the sum too large, until
    it is as near.

    Args:
        means: Of all parts.
        chosen: The heads.
        n_draws: Number of draws.
        seed: Of the draws.
    """
    squares = squared_lengths(means)
    wanted = sum(squares[head] for head in chosen)
    others = [head for head in squares if head not in chosen]
    longest = sorted((squares[head] for head in others), reverse=True)[: len(chosen)]
    enough = sum(longest) >= (1 - NEAR) * wanted
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(n_draws):
        order = [others[i] for i in rng.permutation(len(others))]
        if enough:
            found = _swapped(squares, order, len(chosen), wanted, rng)
        else:
            found, total = [], 0.0
            for head in order:
                if total < (1 - NEAR) * wanted and total + squares[head] <= wanted:
                    found, total = [*found, head], total + squares[head]
        drawn.append(sorted(found))
    return drawn


def _swapped(
    squares: Mapping[Head, float],
    order: Sequence[Head],
    n: int,
    wanted: float,
    rng: np.random.Generator,
) -> list[Head]:
    """Return n heads, the first ones changed for others until they are together about as long."""
    inside, outside = list(order[:n]), list(order[n:])
    total = sum(squares[head] for head in inside)
    for _ in range(SWAPS * n if outside else 0):
        if abs(total - wanted) <= NEAR * wanted:
            break
        i, j = rng.integers(len(inside)), rng.integers(len(outside))
        new = total - squares[inside[i]] + squares[outside[j]]
        if abs(new - wanted) < abs(total - wanted):
            inside[i], outside[j], total = outside[j], inside[i], new
    return inside
