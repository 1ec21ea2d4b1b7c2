"""Checks of lesson 1: hook points, and the residual stream as a sum."""

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from checks.frame import (
    Lesson,
    WrongError,
    describe,
    drawn,
    require,
    require_close,
    require_same,
)
from checks.quiz1 import QUESTIONS
from checks.tools import record
from dysem_lab import LensModel

LESSON = Lesson(1, "Hook points and the residual stream", QUESTIONS)
check, hint, progress, quiz = LESSON.check, LESSON.hint, LESSON.progress, LESSON.quiz

PARTS = ("before", "attention", "FFN", "after")


@LESSON.exercise(
    1,
    "Four hook points of a block",
    hints=(
        "List the candidates: [name for name in lens.bridge.hook_dict if 'blocks.0.' in name]. "
        "Look for `hook_in`, `hook_out` and two names that end in `_out`.",
        "What a block adds to the stream is read at the block, not inside its parts: "
        "`blocks.0.hook_…`, without `.attn.` or `.mlp.`.",
        'An f-string puts the number in: f"blocks.{layer}.hook_in".',
    ),
)
def hook_names(
    names_of: Callable[[int], Sequence[str]], lens: LensModel, prompts: Sequence[str]
) -> str:
    """Test that the four names exist and that before + attention + FFN = after."""
    for layer in (0, 2, lens.n_layers - 1):
        names = names_of(layer)
        require(
            isinstance(names, list | tuple) and len(names) == 4,
            f"Return four names, for {', '.join(PARTS)}, in this order.",
        )
        _check_layer(names, layer)
        for name, part in zip(names, PARTS, strict=True):
            require(
                name in lens.bridge.hook_dict,
                f"{lens.name} has no hook point {name!r} (for '{part}'). The names that exist are "
                "the keys of lens.bridge.hook_dict.",
            )
        require(len(set(names)) == 4, f"Two of the names are the same: {list(names)}.")
        _check_names(names)
        seen, _ = record(lens, prompts, names)
        before, attention, ffn, after = (seen[name] for name in names)
        require_close(
            before + attention + ffn,
            after,
            otherwise=f"In block {layer} the values read at your names do not add up: before + "
            "attention + FFN must be after. Are they in this order?",
        )
    return (
        "In every block, what comes in plus what attention and FFN add is what goes out: "
        "nothing else writes to the stream."
    )


def _check_layer(names: Sequence[str], layer: int) -> None:
    """Tell a wrong block number from a wrong name."""
    for name in names:
        number = re.match(r"blocks\.(\d+)\.", str(name))
        if number is None or int(number[1]) == layer:
            continue
        if int(number[1]) == layer + 1:
            message = (
                f"You count blocks from 1: for layer {layer} you name {name!r}. In code the first "
                "block is 0 (figures count from 1)."
            )
        else:
            message = (
                f"For layer {layer} you name {name!r}: the number is fixed in the text. Put "
                "`layer` into the name with an f-string."
            )
        raise WrongError(message)


def _check_names(names: Sequence[str]) -> None:
    """Tell what is read inside a part from what the block adds."""
    if any(name.endswith((".attn.hook_out", ".mlp.hook_out")) for name in names):
        raise WrongError(
            "`attn.hook_out` and `mlp.hook_out` are what the parts compute. This model normalises "
            "that once more before it is added to the stream; what is added is at "
            "`hook_attn_out` and `hook_mlp_out` of the block."
        )
    inputs = [name for name in names if name.endswith(("attn_in", "mlp_in", "_input"))]
    if inputs:
        raise WrongError(
            f"{inputs[0]!r} is what a part reads: a copy of the stream, which this model does not "
            "even make unless it is asked to. What a part *adds* is at a name that ends in `_out`, "
            "and the stream itself at `hook_in` and `hook_out`."
        )
    if names[1].endswith("mlp_out") and names[2].endswith("attn_out"):
        raise WrongError("Attention and FFN are exchanged: attention is second, FFN third.")
    if names[0].endswith(("hook_out", "resid_post")):
        raise WrongError(f"{names[0]!r} is what goes out of the block, but 'before' comes first.")


@LESSON.exercise(
    2,
    "The last token's vector",
    hints=(
        "The three axes are [batch, position, d]. Which one do you want to keep whole, "
        "and from which do you take one element?",
        "Position -1 is the last one. A colon keeps an axis: activation[:, …].",
    ),
)
def last_position(keep: Callable[[Tensor], Tensor]) -> str:
    """Test on a small activation that the last position of every prompt comes back."""
    activation = torch.arange(24.0).reshape(2, 4, 3)  # batch 2, positions 4, d 3
    require_close(
        keep(activation),
        torch.tensor([[9.0, 10.0, 11.0], [21.0, 22.0, 23.0]]),
        "The result for an activation [2, 4, 3]",
        shapes={
            (4, 3): "activation[-1] is the whole last prompt of the batch: the first axis is the "
            "batch, position is the second.",
            (2, 4): "You took the last dimension, not the last position: the axes are "
            "[batch, position, d].",
            (3,): "You kept one prompt only; every prompt of the batch has its last token.",
            (2, 1, 3): "A slice such as -1: keeps the axis; the index -1 drops it.",
        },
        mistakes={
            "This is the first token. A causal model has read nothing but that token there.": (
                activation[:, 0]
            ),
            "This is the mean over the positions, not the last one.": activation.mean(1),
            "This is the sum over the positions, not the last one.": activation.sum(1),
        },
        otherwise="These are not the values at the last position.",
    )
    require_same(
        keep,
        lambda activation: activation[:, -1],
        [drawn(seed, shape) for seed, shape in enumerate([(3, 5, 4), (2, 7, 6)])],
        "The result for a random activation",
        mistakes={
            "This is the largest value over the positions. It happens to be the last one where "
            "values grow; the last position is asked for, whatever is there.": (
                lambda activation: activation.amax(1)
            ),
        },
        otherwise="In one example it is right, but on random activations it is not the last "
        "position: is a size fixed in the text, or do you go by the values?",
    )
    return "One vector of width d per prompt: the last token is the only one that has read it all."


@LESSON.exercise(
    3,
    "The stream, rebuilt from what was written",
    hints=(
        "h^l = h^0 + (a^1 + … + a^l) + (f^1 + … + f^l). A sum that grows with l is a cumulative "
        "sum: torch.cumsum.",
        "The blocks are axis 1 of [n, L, d]. h0 is [n, d]: h0[:, None] is [n, 1, d], which "
        "broadcasts over the blocks.",
    ),
)
def rebuilt(rebuild: Callable[[Tensor, Tensor, Tensor], Tensor], acts: Mapping[str, Tensor]) -> str:
    """Test the sum on numbers that can be checked by hand and on the captured stream."""
    h0 = torch.tensor([[100.0, 0.0], [0.0, 200.0]])
    attn = torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3]).reshape(2, 3, 2)
    ffn = 10 * attn.flip(1)
    running = (attn + ffn).cumsum(1)
    start = h0[:, None]
    require_close(
        rebuild(h0, attn, ffn),
        start + running,
        "The stream for n = 2 prompts, L = 3 blocks and d = 2",
        shapes={
            (2, 2): "You summed over all blocks at once, which is only the last state h^L. The "
            "stream has a state after every block.",
            (3, 2): "The axis of the prompts is gone: you summed over the batch, not over the "
            "layers.",
            (2, 4, 2): "There is one state too many: h^0 itself is not asked for, only the state "
            "after each block.",
        },
        mistakes={
            "You summed over the batch, not over the layers: the axes are [n, L, d].": (
                start + (attn + ffn).cumsum(0)
            ),
            "You summed over the dimensions d, not over the layers: the axes are [n, L, d].": (
                start + (attn + ffn).cumsum(2)
            ),
            "h^0 is missing: the stream starts at the embedding, not at zero.": running,
            "You add h^0 again at every block; it is there once, at the start.": (
                (start + attn + ffn).cumsum(1)
            ),
            "Every block's state has only what that block wrote; what earlier blocks wrote "
            "stays in the stream (a cumulative sum).": start + attn + ffn,
            "The FFN outputs are missing.": start + attn.cumsum(1),
            "The attention outputs are missing.": start + ffn.cumsum(1),
            "Every state is the last one: you summed over all blocks at once.": (
                (start + running[:, -1:]).expand(2, 3, 2)
            ),
        },
        otherwise="From one state to the next (the first is h^0) the stream must grow by exactly "
        "what that block's attention and FFN wrote; yours does not. Try it by hand with L = 2 and "
        "d = 1.",
    )
    sizes = ((3, 4, 5), (1, 2, 3))  # n, L, d
    require_same(
        rebuild,
        lambda h0, attn, ffn: h0[:, None] + (attn + ffn).cumsum(1),
        [drawn(seed, (n, d), (n, L, d), (n, L, d)) for seed, (n, L, d) in enumerate(sizes)],
        "The stream of random parts",
        otherwise="In one example it is right, but on random vectors it is not: is a number of "
        "blocks or a width fixed in the text?",
    )
    resid, a, f = (acts[name] for name in ("resid", "attn", "ffn"))
    embedding = resid[:, 0] - a[:, 0] - f[:, 0]
    require_close(
        rebuild(embedding, a, f),
        resid,
        otherwise="On the small numbers it is right, but on the captured vectors it is not the "
        "stream that the model had: do you use a number of blocks or a width fixed in the text?",
        tolerance=1e-3,
    )
    return (
        "The last state is h^L = h^0 + A^L + F^L (DySem Eqs. 3-6), and yours is the one that the "
        "model computed."
    )


@LESSON.exercise(
    4,
    "How much of the result did a block write?",
    hints=(
        "How long is the shadow of the part on the line through h^L? A dot product measures it.",
        "The share of h^L itself must be 1: <h^L, h^L> divided by what?",
        "(parts @ whole) / (whole @ whole)",
    ),
)
def shares(share: Callable[[Tensor, Tensor], Tensor], acts: Mapping[str, Tensor]) -> str:
    """Test that shares are linear, that the whole has share 1, and that the parts' add up to 1."""
    whole = torch.tensor([3.0, 4.0])  # length 5
    parts = torch.tensor([[3.0, 4.0], [6.0, 8.0], [-4.0, 3.0], [-3.0, -4.0], [3.0, 0.0]])
    expected = torch.tensor([1.0, 2.0, 0.0, -1.0, 0.36])
    dot = parts @ whole
    require_close(
        share(parts, whole),
        expected,
        "The shares of 5 parts",
        shapes={
            (): "You summed over the parts as well; each has a share of its own.",
            (5, 2): "There is one number per dimension: the products must be summed over d.",
            (2,): "You summed over the parts, not over the dimensions.",
        },
        mistakes={
            "You divided by the length of h^L, not by its square: the share of h^L itself, which "
            "must be 1, comes out as its length.": dot / whole.norm(),
            "You did not divide: the share of h^L itself must be 1.": dot,
            "This is the cosine: it forgets how long the part is. A part twice as long must have "
            "twice the share.": dot / (whole.norm() * parts.norm(dim=1)),
            "You compare lengths only: a part that points the other way must have a negative "
            "share, one at a right angle none.": parts.norm(dim=1) / whole.norm(),
            "You took the absolute value: a part that points the other way must have a negative "
            "share.": expected.abs(),
        },
        otherwise="The share of h^L itself must be 1, of a part at a right angle 0, and of twice "
        "the part twice as much.",
    )
    require_same(
        share,
        lambda parts, whole: (parts @ whole) / (whole @ whole),
        [drawn(seed, (n, d), (d,)) for seed, (n, d) in enumerate(((4, 6), (7, 3)))],
        "The shares of random parts",
        otherwise="In one example it is right, but on random vectors it is not <p, h> / <h, h>.",
    )
    resid, a, f = (acts[name][0] for name in ("resid", "attn", "ffn"))
    embedding = resid[:1] - a[:1] - f[:1]
    total = share(torch.cat([embedding, a, f]), resid[-1]).sum()
    require_close(
        total,
        1.0,
        otherwise=f"On the captured stream the shares of h^0 and all parts add up to {total:.3f}, "
        "not to 1.",
        tolerance=1e-3,
    )
    return "The shares of h^0 and of all 2L parts add up to 1, because the parts add up to h^L."


@LESSON.exercise(
    5,
    "Which attention output is part of the sum?",
    hints=(
        "Compute both: is h^l - h^(l-1) - f^l equal to one of them? Use acts['resid'], "
        "acts['ffn'] and the difference of neighbouring blocks.",
        "What a norm does to a vector before it is added decides what arrives in the stream.",
    ),
)
def added(component: str, acts: Mapping[str, Tensor]) -> str:
    """Test on the captured stream which of the two components satisfies the identity."""
    require(
        component in ("attn", "attn_raw"),
        f'The answer is "attn" or "attn_raw", not {_shown(component)}. Type the '
        "name, in quotation marks.",
    )
    resid, ffn = acts["resid"], acts["ffn"]
    step = resid[:, 1:] - resid[:, :-1] - ffn[:, 1:]
    rest = step - acts[component][:, 1:]
    error = float(rest.norm() / step.norm())
    require(
        error < 1e-3,
        f"With {component!r} the sum is off by {100 * error:.0f} % of what attention adds. It is "
        "what the attention computes before this model's post-attention norm rescales it, and "
        "the stream only ever receives the rescaled vector.",
    )
    return (
        "`attn` is what the stream receives. In a model without a post-attention norm (Llama, "
        "Qwen) the two are equal; in Gemma reading the wrong one gives other vectors without "
        "any error."
    )


def _shown(answer: object) -> str:
    """Return an answer as it was typed, or what it is where that would fill a page."""
    return repr(answer) if isinstance(answer, str) else describe(answer)
