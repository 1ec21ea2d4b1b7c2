"""Gradients of a number read off a prompt's last token: by its embeddings, and by its heads.

Only activations have gradients; those of the weights are never asked for.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache

from dysem_lab.models.last_token import Prefix
from dysem_lab.models.lens import LensModel
from dysem_lab.models.passes import MAX_TOKENS, batch_budget, pad, tokenize, worth_sharing
from dysem_lab.models.places import Place
from dysem_lab.models.record import Hook, Reader, activations, finite, forward, keys_and_values

EMBEDDING = Place("resid_pre", 0)  # h^0, after what an architecture does to its embeddings

# Vectors of some rows → one number of each row.
Objective = Callable[[Float[Tensor, "rows d"]], Float[Tensor, " rows"]]


class Path(NamedTuple):
    """What the straight way from a baseline to a text's embeddings gave, float32 on the CPU.

    Attributes:
        inputs: h^0 of the text's tokens.
        vectors: What was read at the last token at each point of the way.
        gradients: Of the objective there, by the embedding of each token of the text.
    """

    inputs: Float[Tensor, "tokens d"]
    vectors: Float[Tensor, "points d"]
    gradients: Float[Tensor, "points tokens d"]


def midpoints(steps: int) -> Float[Tensor, " steps"]:
    """Return where a way of so many steps is read: in the middle of each."""
    return (torch.arange(steps) + 0.5) / steps


def embedding_gradients(
    lens: LensModel,
    prompt: str,
    text: range,
    place: Place,
    objective: Objective,
    baseline: Float[Tensor, " d"],
    points: Float[Tensor, " points"],
) -> Path:
    """Return an objective's gradient on the straight way from a baseline to a text's embeddings.

    At the point α each token of the text has r + α (h^0 − r) in the place of its embedding h^0;
    the template stays as it is. The tokens before the text run once for all points.

    Args:
        lens: The model.
        prompt: The prompt.
        text: Positions of the text's tokens.
        place: Where the vector is read, at the last token.
        objective: Of that vector; each row's number depends on that row only.
        baseline: r, the same for every token.
        points: α; 1 is the text itself.

    Source: Sundararajan et al., Axiomatic Attribution for Deep Networks (arXiv 1703.01365).
    """
    (token_ids,) = tokenize(lens, [prompt], MAX_TOKENS)
    n_blocks, ids = place.n_blocks(lens.n_layers), pad(lens, [token_ids])[0]
    point = EMBEDDING.read_at(lens.n_layers)[0][1]
    seen = activations(lens, [prompt], [point], n_blocks=1).seen[point][0]
    inputs, r = seen[text.start : text.stop], baseline.to(seen)
    n_before, before = 0, None
    if lens.shares_prefix and worth_sharing(text.start, len(points)):
        n_before = text.start
        before = keys_and_values(lens, ids[:, :n_before], None, n_blocks)
    own = ids[:, n_before:]
    vectors, gradients = [], []
    for some in points.to(seen).split(max(1, batch_budget(lens, None) // own.shape[1])):
        leaf = (r + some[:, None, None] * (inputs - r)).requires_grad_()

        def put(tensor: Tensor, hook: object, leaf: Tensor = leaf) -> Tensor:
            start = text.start - n_before
            return torch.cat([tensor[:, :start], leaf, tensor[:, start + len(text) :]], 1)

        rows = own.expand(len(some), -1)
        read = _read(lens, rows, len(token_ids), [(point, put)], before, place)
        (gradient,) = _gradients(objective, read, [leaf])
        vectors.append(read.detach())
        gradients.append(finite(lens, "a gradient", gradient.float().cpu()))
    return Path(inputs.float().cpu(), torch.cat(vectors), torch.cat(gradients))


def head_gradients(
    lens: LensModel, prefix: Prefix, place: Place, objective: Objective
) -> tuple[Float[Tensor, "batch L n_heads d_head"], Float[Tensor, "batch L n_heads d_head"]]:
    """Return z of each head at the last token, and an objective's gradient by it.

    One pass over the last token, and one backward. The gradient goes through all that later blocks
    make of a head's output. Of blocks that `place` does not read, it is 0.

    Args:
        lens: The model.
        prefix: From `dysem_lab.models.last_token.prefixes`.
        place: As for `embedding_gradients`.
        objective: As there.
    """
    n_tokens, ids = prefix.ids.shape[1], prefix.ids
    if prefix.before is not None:
        ids = ids[:, -1:]
    point = EMBEDDING.read_at(lens.n_layers)[0][1]
    seen: list[Tensor] = []

    def start(tensor: Tensor, hook: object) -> Tensor:
        return tensor.detach().requires_grad_()  # also where the weights are frozen

    def see(tensor: Tensor, hook: object) -> Tensor:
        # The pass goes on with what a hook gives, not with what it sees, which may be a view.
        seen.append(tensor.clone())
        return seen[-1]

    blocks = Place("z", range(place.n_blocks(lens.n_layers)))
    hooks: list[Hook] = [(point, start)]
    hooks += [(name, see) for _, name in blocks.read_at(lens.n_layers)]
    read = _read(lens, ids, n_tokens, hooks, prefix.before, place)
    found = _gradients(objective, read, seen)
    shape = (len(ids), lens.n_heads, lens.d_head)
    z, gradients = (
        torch.stack([tensor[:, -1].detach().float().cpu().reshape(shape) for tensor in of], 1)
        for of in (seen, found)
    )
    return z, finite(lens, "a gradient", gradients)


def _read(
    lens: LensModel,
    ids: Int[Tensor, "rows pos"],
    n_tokens: int,
    hooks: list[Hook],
    before: Cache | None,
    place: Place,
) -> Float[Tensor, "rows d"]:
    """Run rows without padding and return their vectors, which a backward pass can begin at."""
    reader = Reader(place, lens, torch.ones_like(ids))
    every = ids.new_ones(len(ids), n_tokens)
    n_blocks = place.n_blocks(lens.n_layers)
    forward(lens, ids, every, [*hooks, *reader.hooks()], before, n_blocks, gradients=True)
    return reader.read()


def _gradients(
    objective: Objective, read: Float[Tensor, "rows d"], by: list[Tensor]
) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        total = objective(read).sum()  # each row's number has a gradient of its own row only
    return torch.autograd.grad(total, by, allow_unused=True, materialize_grads=True)
