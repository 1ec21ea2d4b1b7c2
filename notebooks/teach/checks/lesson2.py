"""Checks of lesson 2: what attention reads, moves and writes; grouped-query attention."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from checks.frame import (
    Lesson,
    UnsolvedError,
    drawn,
    require,
    require_close,
    require_same,
    require_tensor,
)
from checks.quiz2 import QUESTIONS
from dysem_lab import LensModel

LESSON = Lesson(2, "Attention outputs, value vectors and grouped queries", QUESTIONS)
check, hint, progress, quiz = LESSON.check, LESSON.hint, LESSON.progress, LESSON.quiz


@LESSON.exercise(
    1,
    "The shapes at one token",
    hints=(
        "Three numbers make all the shapes: how many query heads read, how many key-value heads "
        "there are to be read, and how wide a head is.",
        "`value` is what there is to be read, so it counts key-value heads (lens.n_kv_heads); `z` "
        "is what each query head has read; `attn` is written to the stream of width lens.d_model.",
    ),
)
def shapes(answer: Mapping[str, Sequence[int]], lens: LensModel) -> str:
    """Test the three shapes against the model's own numbers."""
    require(
        isinstance(answer, Mapping) and set(answer) == {"value", "z", "attn"},
        'Give a dictionary with the keys "value", "z" and "attn".',
    )
    for name, shape in answer.items():
        if shape is ...:
            raise UnsolvedError(f'The shape of "{name}" is still to be filled in.')
        require(
            isinstance(shape, tuple | list | torch.Size),
            f'The shape of "{name}" must be a tuple, such as (2, 3); one axis is (2,), with a '
            "comma.",
        )
    n_heads, n_kv, d_head, d_model = lens.n_heads, lens.n_kv_heads, lens.d_head, lens.d_model
    value, z, attn = (tuple(answer[name]) for name in ("value", "z", "attn"))
    require(
        value != (n_heads, d_head),
        f'"value" has one vector per key-value head, and {lens.name} has {n_kv} of them for '
        f"{n_heads} query heads: several query heads share one (GQA).",
    )
    require(
        value[::-1] != (n_kv, d_head) and z[::-1] != (n_heads, d_head),
        "The head comes first, then its width: [heads, d_head].",
    )
    require(value == (n_kv, d_head), f'"value" is [key-value heads, d_head], not {list(value)}.')
    require(
        z != (n_kv, d_head),
        '"z" is what each query head has read. Heads that share values still read different '
        "mixtures of them, so there is one z per query head.",
    )
    require(
        z != (n_heads * d_head,),
        '"z" keeps the heads apart: [query heads, d_head]. W_O joins them later.',
    )
    require(z == (n_heads, d_head), f'"z" is [query heads, d_head], not {list(z)}.')
    require(
        attn == (d_model,),
        f'"attn" is added to the stream, so it must be as wide as the stream: ({d_model},), not '
        f"{attn}.",
    )
    return (
        f"{n_heads} query heads read from {n_kv} value vectors of width {d_head}; W_O brings what "
        f"they have read back to the stream's width {d_model}."
    )


@LESSON.exercise(
    2,
    "Which head reads which value vector?",
    hints=(
        "With 4 query heads and 2 value vectors, heads 0 and 1 share the first, 2 and 3 the "
        "second.",
        "torch.repeat_interleave repeats each element in place (a a b b), `repeat` the whole "
        "(a b a b).",
        "The axis of the heads is the second from the right: dim=-2.",
    ),
)
def groups(for_every_head: Callable[[Tensor, int], Tensor]) -> str:
    """Test on values that show where each came from that neighbours share one."""
    values = torch.tensor([[1.0, 10.0], [2.0, 20.0]])
    found = require_tensor(
        for_every_head(values, 6),
        (6, 2),
        "The values of 2 key-value heads for 6 query heads",
        mistakes={
            (2, 6): "You repeated the width of a head, not the heads.",
            (12, 2): "n_heads is how many there are afterwards, not how often each is repeated.",
            (2, 12): "n_heads is how many there are afterwards, and the axis is the heads'.",
            (2, 2): "Nothing was repeated.",
        },
    )
    require_close(found[:, 1], 10 * found[:, 0], otherwise="A value vector came apart.")
    require_close(
        found,
        values.repeat_interleave(3, dim=0),
        mistakes={
            "You repeat the whole list (a b a b a b). Query heads of one group stand next to each "
            "other: heads 0, 1, 2 read the first value vector (a a a b b b).": values.repeat(3, 1),
            "The order of the value vectors is turned round.": (
                values.flip(0).repeat_interleave(3, dim=0)
            ),
        },
        otherwise="Heads 0, 1 and 2 must read the first value vector, 3, 4 and 5 the second.",
    )
    require_close(
        for_every_head(values, 2), values, otherwise="Without sharing nothing must change."
    )
    several = torch.arange(24.0).reshape(3, 2, 4)  # [pos, n_kv, d_head]
    longer = require_tensor(
        for_every_head(several, 4),
        (3, 4, 4),
        "The values at 3 tokens, [3, 2, 4], for 4 query heads",
        mistakes=dict.fromkeys(
            ((6, 2, 4), (3, 2, 4)),
            "In [pos, heads, d_head] the heads are axis -2, not 0. Count axes from the right, so "
            "that it works with and without tokens.",
        ),
    )
    require_close(
        longer[:, 1::2], several, otherwise="Heads 1 and 3 must read value vectors 0 and 1."
    )
    sizes = ((5, 3, 4, 9), (2, 4, 2, 8))  # pos, n_kv, d_head, n_heads
    require_same(
        for_every_head,
        lambda v, n: v.repeat_interleave(n // v.shape[-2], -2),
        [(*drawn(seed, size[:3]), size[3]) for seed, size in enumerate(sizes)],
        "Random values for their heads",
        otherwise="In these examples it is right, but with other numbers of heads it is not: is "
        "one fixed in the text?",
    )
    return (
        "Neighbouring query heads share a value vector: fewer to keep in memory, as many readers."
    )


@LESSON.exercise(
    3,
    "What a head has read",
    hints=(
        "z at a query token is a weighted mean of the value vectors at the key tokens. The "
        "weights are that query's row of the pattern.",
        "Sum over the key axis: it is the last axis of the pattern and the first of the values.",
        'torch.einsum("hqk,khd->qhd", pattern, values)',
    ),
)
def reading(
    read: Callable[[Tensor, Tensor], Tensor], seen: Mapping[str, Tensor], layer: int
) -> str:
    """Test weighted means that are known, and the model's own z."""
    values = torch.tensor([[[1.0, 2.0]], [[3.0, 5.0]], [[8.0, 9.0]]]).repeat(1, 2, 1)
    values[:, 1] *= 10  # [key 3, heads 2, d_head 2]; head 1 has ten times the values of head 0
    alone = torch.eye(3).repeat(2, 1, 1)
    require_close(
        read(alone, values),
        values,
        "z for 3 tokens, 2 heads and d_head = 2",
        shapes={
            (2, 3, 2): "The heads come first in yours; the result is [query, heads, d_head].",
            (3, 2): "The heads are added together: each head has a z of its own.",
            (2, 2): "One z per token: the axis of the queries is gone.",
        },
        mistakes={
            "The softmax has been applied already: the pattern's rows add up to 1.": torch.einsum(
                "hqk,khd->qhd", alone.softmax(-1), values
            ),
        },
        otherwise="A token that attends to itself alone must read its own value vector, in every "
        "head; yours does not.",
    )
    sink = torch.zeros(2, 3, 3)
    sink[:, :, 0] = 1  # everyone reads the first token
    everyone_reads = values[:1].expand(3, 2, 2)
    require_close(
        read(sink, values),
        everyone_reads,
        mistakes={
            "You sum over the queries, not over the keys: a row of the pattern (one query) is what "
            "weighs the value vectors.": torch.einsum("hqk,qhd->khd", sink, values),
        },
        otherwise="Where every query attends to the first token only, every z must be the first "
        "token's value vector.",
    )
    heads = torch.stack([torch.eye(3), sink[1]])  # head 0 itself, head 1 the first token
    require_close(
        read(heads, values)[:, 1],
        everyone_reads[:, 1],
        otherwise="Each head must use its own pattern: you mix them, or use one for all.",
    )
    examples = []
    for seed, (h, p, e) in enumerate(((3, 5, 2), (2, 4, 6))):  # heads, tokens, d_head
        scores, random = drawn(seed, (h, p, p), (p, h, e))
        causal = scores.masked_fill(torch.ones(p, p).triu(1).bool(), -torch.inf).softmax(-1)
        examples.append((causal, random))
    require_same(
        read,
        lambda pattern, values: torch.einsum("hqk,khd->qhd", pattern, values),
        examples,
        "z of random patterns and values",
        mistakes={
            "You sum over the queries, not over the keys: a row of the pattern (one query) is what "
            "weighs the value vectors.": lambda p, v: torch.einsum("hqk,qhd->khd", p, v),
        },
        otherwise="Where a query attends to several tokens, its z must be the mean of their value "
        "vectors, weighted by its row of the pattern; yours is not.",
    )
    pattern, z = (seen[f"blocks.{layer}.attn.hook_{name}"][0] for name in ("pattern", "z"))
    value = seen[f"blocks.{layer}.attn.hook_v"][0]
    of_heads = value.repeat_interleave(pattern.shape[0] // value.shape[1], dim=1)
    require_close(
        read(pattern, of_heads),
        z,
        otherwise="On small tensors it is right, but it is not the model's z: is a number of "
        "tokens or heads fixed in the text?",
        tolerance=1e-3,
    )
    return (
        "Attention moves value vectors between tokens; the pattern says how much from where, and "
        "your z is the model's."
    )


@LESSON.exercise(
    4,
    "What each head writes",
    hints=(
        "Head h has a matrix of its own, W_O[h], of shape [d_head, d]: it takes z[h] to the "
        "stream's width.",
        "Keep the heads apart: the result is [n_heads, d], and only its sum is the attention "
        "output.",
        'torch.einsum("hi,hid->hd", z, W_O)',
    ),
)
def writing(
    write: Callable[[Tensor, Tensor], Tensor],
    z: Tensor,
    W_O: Tensor,
    attention_output: Tensor,
) -> str:
    """Test linearity head by head, and that the heads add up to the attention output."""
    small_z = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    small_W = torch.tensor(
        [[[1.0, 0.0, 5.0], [0.0, 1.0, 6.0]], [[10.0, 0.0, 7.0], [0.0, 10.0, 8.0]]]
    )
    require_close(
        write(small_z, small_W),
        torch.tensor([[1.0, 2.0, 17.0], [30.0, 40.0, 53.0]]),
        "What 2 heads write to a stream of width 3",
        shapes={
            (3,): "You added the heads together already. Keep them apart: their sum is the "
            "attention output, but the question is who wrote what.",
            (2, 2, 3): "The dimensions of the head are still there: z[h] @ W_O[h] sums over them.",
            (2, 2): "You multiplied with a transposed W_O[h]; it is [d_head, d].",
        },
        mistakes={
            "Every head uses the first head's matrix; head h has its own, W_O[h].": (
                small_z @ small_W[0]
            ),
            "Every head uses the sum of all matrices; head h has its own, W_O[h].": (
                small_z @ small_W.sum(0)
            ),
            "Each head reads the z of the other: pair z[h] with W_O[h].": torch.einsum(
                "hi,hid->hd", small_z.flip(0), small_W
            ),
        },
        otherwise="Head 0's matrix here copies z[0] into the first two dimensions, head 1's ten "
        "times z[1]; yours does not.",
    )
    nothing = small_z.clone()
    nothing[0] = 0
    require(
        float(write(nothing, small_W)[0].abs().max()) == 0,
        "A head that has read nothing (z = 0) must write nothing.",
    )
    sizes = ((4, 3, 5), (3, 6, 2))  # heads, d_head, d
    require_same(
        write,
        lambda z, W_O: torch.einsum("hi,hid->hd", z, W_O),
        [drawn(seed, (h, e), (h, e, d)) for seed, (h, e, d) in enumerate(sizes)],
        "What random heads write",
        otherwise="In one example it is right, but on random heads it is not z[h] @ W_O[h].",
    )
    require_close(
        write(z, W_O).sum(0),
        attention_output,
        otherwise="On the model's z the heads do not add up to the attention output.",
        tolerance=1e-3,
    )
    return "The attention output is a sum over heads, and each head can be studied by itself."


@LESSON.exercise(
    5,
    "How much attention rests on the first token?",
    hints=(
        "The pattern is [head, query, key]. Which query is the prompt's last token? Which key is "
        "its first?",
        "Index with -1 for the query and 0 for the key, and keep the heads.",
    ),
)
def resting(on_first: Callable[[Tensor], Tensor], seen: Mapping[str, Tensor], layer: int) -> str:
    """Test on a small pattern, then say what the model's heads do."""
    pattern = torch.tensor(
        [
            [[1.0, 0.0, 0.0], [0.3, 0.7, 0.0], [0.2, 0.1, 0.7]],
            [[1.0, 0.0, 0.0], [0.4, 0.6, 0.0], [0.9, 0.06, 0.04]],
        ]
    )
    require_close(
        on_first(pattern),
        torch.tensor([0.2, 0.9]),
        "The weights of 2 heads",
        shapes={
            (2, 3): "There is one weight per query (or key) still; only the last query is asked "
            "for, and only the first key.",
            (3,): "The heads are gone: the first axis is the head.",
            (): "This is one number for all heads; each has its own.",
        },
        mistakes={
            "You read query 0, key -1: what the first token reads from the last one, which is "
            "always 0 in a causal model. The query is the second axis, the key the third.": (
                pattern[:, 0, -1]
            ),
            "This is what the last token reads from itself, not from the first one.": (
                pattern[:, -1, -1]
            ),
            "This is what the first token reads from itself: always 1, it has nothing else.": (
                pattern[:, 0, 0]
            ),
            "This is the mean over all queries; only the last token's is asked for.": (
                pattern[:, :, 0].mean(1)
            ),
        },
        otherwise="These are not the weights that the last query gives to the first key.",
    )
    require_same(
        on_first,
        lambda pattern: pattern[:, -1, 0],
        [
            [drawn(seed, (h, p, p))[0].tril().abs()]
            for seed, (h, p) in enumerate(((3, 5), (4, 4), (2, 7)))
        ],
        "The weights of random heads",
        otherwise="In one example it is right, but on random patterns it is not the weight that "
        "the last query gives to the first key: is a position fixed in the text?",
    )
    pattern = seen[f"blocks.{layer}.attn.hook_pattern"][0]
    share = on_first(pattern)
    require(
        share.numel() == len(pattern), "On the model's pattern there must be one weight per head."
    )
    return (
        f"In block {layer + 1} the heads rest {100 * share.min():.0f} to {100 * share.max():.0f} % "
        "of their attention on the first token. That is often read as parking: a head that finds "
        "nothing to move has to put its weight somewhere. A large weight alone proves nothing."
    )
