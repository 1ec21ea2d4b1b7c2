"""Lesson 6: the logit lens, and causal tests of what it shows."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from checks.frame import (
    Lesson,
    drawn,
    require,
    require_close,
    require_number,
    require_same,
    require_tensor,
)
from checks.lesson5 import HookFunction, forward, head_outputs
from checks.quiz6 import QUESTIONS
from checks.tools import fitted, record
from dysem_lab import LensModel, spearman
from dysem_lab.models.passes import MAX_TOKENS, tokenize
from dysem_lab.models.record import Hook
from dysem_lab.questions.style import PALETTE, layout

LESSON = Lesson(6, "Logit lens and causal tests", QUESTIONS)
check, hint, progress, quiz = LESSON.check, LESSON.hint, LESSON.progress, LESSON.quiz

FAR = 2  # times the second largest effect: a point that far out would flatten all others
PROMPTS = ("The Eiffel Tower is in the city of", "The opposite of hot is")


def token_id(lens: LensModel, prompt: str, answer: str) -> int:
    """Return the token that the model would have to predict next to begin an answer."""
    before, whole = tokenize(lens, [prompt, prompt + answer], MAX_TOKENS)
    return whole[len(before)]


def lens_table(lens: LensModel, probabilities: Float[Tensor, "L n_tokens"]) -> pd.DataFrame:
    """Return the three most probable tokens of each block, counted from 0, with probabilities."""
    values, ids = probabilities.topk(3)
    rows = [
        {
            f"rank {rank + 1}": f"{lens.tokenizer.decode([token])!r} {value:.2f}"
            for rank, (token, value) in enumerate(zip(row, of_row, strict=True))
        }
        for row, of_row in zip(ids.tolist(), values.tolist(), strict=True)
    ]
    return pd.DataFrame(rows).rename_axis("layer")


def part_effects(
    lens: LensModel,
    prompt: str,
    token: int,
    ablate: Callable[[int | None], HookFunction],
    drop: Callable[[Tensor, Tensor, int], float],
) -> pd.DataFrame:
    """Ablate every head and every FFN at the last token, one at a time.

    Args:
        lens: The model.
        prompt: One prompt.
        token: Whose probability is watched.
        ablate: Head → hook for z; None → hook for the FFN output.
        drop: (probabilities before, probabilities after, token) → effect.

    Returns:
        One row per part: ``layer`` and ``head`` from 0 (head -1 is the FFN), ``size`` (the norm of
        what the part adds to the stream at the last token) and ``effect``.
    """
    before = _next_token(lens, [prompt])[0]
    z, ffn = "blocks.{}.attn.hook_z", "blocks.{}.hook_mlp_out"
    names = [name.format(layer) for layer in range(lens.n_layers) for name in (z, ffn)]
    seen, _ = record(lens, [prompt], names)
    rows = []
    for layer in range(lens.n_layers):
        hooks = [_on_row(z.format(layer), row, ablate(row)) for row in range(lens.n_heads)]
        hooks.append(_on_row(ffn.format(layer), lens.n_heads, ablate(None)))
        wrote = [
            *head_outputs(lens, layer, seen[z.format(layer)][0, -1]),
            seen[ffn.format(layer)][0, -1],
        ]
        for row, after in enumerate(_next_token(lens, [prompt] * len(wrote), hooks)):
            is_head = row < lens.n_heads
            rows.append(
                {
                    "layer": layer,
                    "head": row if is_head else -1,
                    "size": float(wrote[row].norm()),
                    "effect": float(drop(before, after, token)),
                }
            )
    return pd.DataFrame(rows)


def random_effects(
    lens: LensModel,
    prompt: str,
    token: int,
    layer: int,
    head: int,
    random_like: Callable[[Tensor, int], Tensor],
    drop: Callable[[Tensor, Tensor, int], float],
    n_draws: int = 40,
) -> list[float]:
    """Take random directions, as long as what a head writes, out of the attention output.

    Args:
        lens: A model without a norm after its attention.
        prompt: One prompt.
        token: Whose probability is watched.
        layer: Block.
        head: Whose output is replaced by random directions, at the last token.
        random_like: (vector, seed) → random vector of its length.
        drop: As for `part_effects`.
        n_draws: Random directions, of seeds 0, 1, ….

    Returns:
        The effect of each.
    """
    before = _next_token(lens, [prompt])[0]
    name = f"blocks.{layer}.attn.hook_z"
    seen, _ = record(lens, [prompt], [name])
    wrote = head_outputs(lens, layer, seen[name][0, -1])[head]
    directions = torch.stack([random_like(wrote, seed) for seed in range(n_draws)])

    def subtract(tensor: Tensor, hook: object) -> Tensor:
        edited = tensor.clone()
        edited[:, -1] -= directions.to(tensor)
        return edited

    hooks = [(f"blocks.{layer}.hook_attn_out", subtract)]
    afters = _next_token(lens, [prompt] * n_draws, hooks)
    return [float(drop(before, after, token)) for after in afters]


def effects_figure(effects: pd.DataFrame, facts: str) -> go.Figure:
    """Return the size of each part against the effect of ablating it.

    A part whose effect is more than twice that of all others would flatten them; it stands at the
    edge with its number.

    Args:
        effects: From `part_effects`.
        facts: What it was measured on.
    """
    figure = go.Figure()
    names = [
        f"block {layer + 1}, " + (f"head {head + 1}" if head >= 0 else "FFN")
        for layer, head in zip(effects["layer"], effects["head"], strict=True)
    ]
    shown = effects.assign(name=names, y=effects["effect"])
    largest = effects["effect"].abs().nlargest(2)
    off = largest.index[:1] if largest.iloc[0] > FAR * largest.iloc[-1] else largest.index[:0]
    for i in off:
        edge = 1.3 * largest.iloc[-1] * np.sign(effects.loc[i, "effect"])
        shown.loc[i, "y"] = edge
        figure.add_annotation(
            x=np.log10(effects.loc[i, "size"]),
            y=edge,
            text=f"{shown.loc[i, 'name']}: {effects.loc[i, 'effect']:.1f}, off the scale",
            showarrow=False,
            xanchor="right" if effects.loc[i, "size"] > effects["size"].median() else "left",
            xshift=-8 if effects.loc[i, "size"] > effects["size"].median() else 8,
        )
    for is_head, name, colour in ((True, "head", PALETTE[1]), (False, "FFN", PALETTE[0])):
        part = shown[(shown["head"] >= 0) == is_head]
        figure.add_scatter(
            x=part["size"],
            y=part["y"],
            mode="markers",
            name=name,
            marker_color=colour,
            text=part["name"],
            customdata=part["effect"],
            hovertemplate="%{text}: size %{x:.2f}, effect %{customdata:.3f}<extra></extra>",
        )
    figure.update_xaxes(title="size: norm of what the part adds at the last token", type="log")
    figure.update_yaxes(title="effect: loss of log-probability (nats)")
    rho = spearman(effects["size"].to_numpy(), effects["effect"].abs().to_numpy())
    title = f"Size and |effect|: rank correlation {rho / 100:.2f}, over all parts"
    return fitted(layout(figure, title, facts, 460))


def _on_row(name: str, row: int, edit: HookFunction) -> Hook:
    """Return a hook that acts on one row of the batch only."""

    def on_row(tensor: Tensor, hook: object) -> Tensor:
        edited = tensor.clone()
        given = edited[row : row + 1].clone()
        returned = edit(given, hook=hook)
        edited[row : row + 1] = given if returned is None else returned
        return edited

    return name, on_row


def _next_token(
    lens: LensModel, prompts: Sequence[str], hooks: Sequence[Hook] = ()
) -> Float[Tensor, "batch n_tokens"]:
    """Return next-token probabilities of prompts of equal length, with hooks as for `record`."""
    seen, _ = record(lens, prompts, ["unembed.hook_out"], hooks=hooks)
    return seen["unembed.hook_out"][:, -1].float().softmax(-1).cpu()


def _unembedded(
    lens: LensModel, prompt: str, stream: Float[Tensor, "L d"], point: str
) -> Float[Tensor, "L n_tokens"]:
    """Return the logits where a hook point sees the stream of each block at the last token."""

    def put_in(tensor: Tensor, hook: object) -> Tensor:
        edited = tensor.clone()
        edited[:, -1] = stream.to(tensor)
        return edited

    prompts = [prompt] * len(stream)
    seen, _ = record(lens, prompts, ["unembed.hook_out"], hooks=[(point, put_in)])
    return seen["unembed.hook_out"][:, -1].float().cpu()


@LESSON.exercise(
    1,
    "The logit lens",
    hints=(
        "After the last block the model does three things: final norm, unembedding, softmax. Do "
        "the same to every block's stream.",
        "`lens.bridge.ln_final` and `lens.bridge.unembed` are modules: call them. They want a "
        "batch axis: give them `stream[None]` and take `[0]` of the result.",
        "`lens.bridge.unembed(lens.bridge.ln_final(stream[None]))[0].softmax(-1)`.",
    ),
)
def logit_lens(read_out: Callable[[LensModel, Tensor], Tensor], lens: LensModel) -> str:
    """Test a function from the stream of every block to the next token's probabilities."""
    for prompt in PROMPTS:
        own = _next_token(lens, [prompt])[0]
        stream = forward(lens, prompt)[:, -1]
        shape = (lens.n_layers, len(own))
        with torch.inference_mode(), lens.lock:
            found = require_tensor(
                read_out(lens, stream),
                shape,
                "The result",
                {
                    (1, *shape): "The batch axis that the modules want is still there: take [0].",
                    (len(own),): "There is one distribution for each block: read all rows of the "
                    "stream, not only the last.",
                },
            ).cpu()
        raw = _unembedded(lens, prompt, stream, "unembed.hook_in")
        normed = _unembedded(lens, prompt, stream, f"blocks.{lens.n_layers - 1}.hook_out")
        require_close(
            found[-1],
            own,
            mistakes={
                "These are logits. Probabilities add up to 1: is the softmax missing?": normed[-1],
                "These are log-probabilities: softmax, not log_softmax.": (
                    normed[-1].log_softmax(-1)
                ),
                "The softmax runs over the blocks. It has to run over the tokens, the last axis: "
                "softmax(-1).": normed.softmax(0)[-1],
                "The final norm is missing: the unembedding has only ever seen normalised "
                "vectors, so without it the distribution is far too sharp or too flat.": (
                    raw[-1].softmax(-1)
                ),
                "The norm is missing, and so is the softmax.": raw[-1],
            },
            otherwise="After the last block nothing is left to do but to read out, so the last row "
            "has to be the model's own prediction. Yours is another.",
            tolerance=1e-2,
        )
        total = found.sum(-1)
        require_close(
            total,
            torch.ones_like(total),
            otherwise="Each block's probabilities have to add up to 1.",
            tolerance=1e-3,
        )
        with torch.inference_mode(), lens.lock:
            alone = read_out(lens, stream[:2]).cpu()
        require_close(
            found[:2],
            alone,
            otherwise="A block's row may not depend on the other blocks: read out the first two "
            "alone, and they change.",
            tolerance=1e-2,
        )
    return "The last row is the model's own prediction; the rows above are what it would have been."


@LESSON.exercise(
    2,
    "Since when is it settled?",
    hints=(
        "`probabilities.argmax(-1) == token` says at which blocks the token is on top.",
        "A token that leads, loses the lead and gets it back is settled only since the last time. "
        "Look for the last block at which it was not on top.",
        "Count from the end: walk back over the blocks while the token is on top; the last one "
        "that you pass is the answer, and without any it is `len(probabilities)`.",
    ),
)
def settling(settled: Callable[[Tensor, int], int]) -> str:
    """Test a function that finds the block from which on a token stays on top."""
    for leads in ("0100011", "1111111", "0000001", "1001111", "0111110", "0000000"):
        on_top = torch.tensor([float(letter) for letter in leads])
        # Token 1 is the one asked for; token 0 or 2 leads where it does not.
        probabilities = torch.stack([0.7 - 0.6 * on_top, 0.1 + 0.6 * on_top, 0.0 * on_top + 0.2], 1)
        never = leads[-1] == "0"
        expected = len(leads) if never else len(leads.rstrip("1"))
        blocks = ", ".join(str(i) for i, letter in enumerate(leads) if letter == "1") or "no block"
        case = f"If the token is on top at {blocks} of blocks 0 to {len(leads) - 1}"
        found = require_number(settled(probabilities, 1), f"settled(...), {case[3:]}")
        mistakes = {
            f"{case}, it is settled since {expected}. You give the block where it first gets on "
            "top, but it loses the lead again.": float(leads.find("1")),
            f"{case}, it is settled since block {expected}. You count blocks from 1; code counts "
            "from 0.": expected + 1.0,
            f"{case}, it is settled since {expected}. You count the blocks at which it leads.": (
                float(leads.count("1"))
            ),
            f"{case}, it is settled since {expected}. You give the last block at which it does "
            "not lead, not the one after it.": expected - 1.0,
        }
        other = f"{case}, it is settled since {expected}, not {found:g}."
        if never:
            mistakes = {}
            other = (
                f"{case}, it does not lead at the end, so it is never settled. Return the number "
                f"of blocks then ({expected}), not {found:g}."
            )
        require_close(found, float(expected), mistakes=mistakes, otherwise=other)

    def right(probabilities: Tensor, token: int) -> float:
        misses = (probabilities.argmax(-1) != token).nonzero().flatten().tolist()
        return float(misses[-1] + 1 if misses else 0)

    examples = []
    for seed, (n_blocks, token) in enumerate(((6, 2), (9, 0), (12, 3))):
        random = drawn(seed, (n_blocks, 4))[0]
        random[n_blocks // 2 :, token] += 4  # leads from somewhere on
        examples.append((random.softmax(-1), token))
    require_same(
        settled,
        right,
        examples,
        "settled(...)",
        otherwise="In the examples it is right, but with other tokens and numbers of blocks it is "
        "not: do you use `token`, and the length of the probabilities?",
    )
    return "Settled means: on top there and at every later block."


@LESSON.exercise(
    3,
    "Take a part away",
    hints=(
        "As in lesson 5, `ablate` returns a function that is called in the forward pass with "
        "`(tensor, hook)`.",
        "z has the axes [batch, token, head, value], the FFN output [batch, token, d]. Which "
        "index is the last token, which the head?",
        "`edited = tensor.clone()`; then `edited[:, -1, head] = 0` for a head and `edited[:, -1] "
        "= 0` if head is None; `return edited`.",
    ),
)
def ablating(ablate: Callable[[int | None], HookFunction]) -> str:
    """Test hooks that set a head's z, or the FFN output, to zero at the last token."""
    for seed, (head, shape) in enumerate(
        ((1, (2, 4, 3, 5)), (0, (2, 4, 3, 5)), (2, (1, 5, 4, 3)), (None, (2, 4, 6)))
    ):
        tensor = drawn(seed, shape)[0]
        what = "the FFN output (head is None)" if head is None else f"head {head}"
        hook = ablate(head)
        require(callable(hook), f"ablate({head}) has to return a function, the hook.")
        given = tensor.clone()
        returned = hook(given, hook=None)
        found = require_tensor(
            given if returned is None else returned, shape, f"What the hook for {what} returns"
        )
        part = (slice(None), -1) if head is None else (slice(None), -1, head)
        expected = _zeroed(tensor, part)
        mistakes = {f"The hook for {what} changed nothing: is a `return` missing?": tensor}
        if head is not None:
            mistakes |= {
                "The hook ablates the head at every token. The other tokens then change too, and "
                "the effect is no longer that of the last token's head.": _zeroed(
                    tensor, (slice(None), slice(None), head)
                ),
                "The hook ablates all heads of the last token: `[:, -1, head]` is one of them.": (
                    _zeroed(tensor, (slice(None), -1))
                ),
                "You use `head` as the index of a token: the axes are [batch, token, head, "
                "value].": _zeroed(tensor, (slice(None), head)),
                "You use `head` as the index of a value: the axes are [batch, token, head, "
                "value].": _zeroed(tensor, (slice(None), -1, slice(None), head)),
                "The hook ablates the first token: the last one is -1.": _zeroed(
                    tensor, (slice(None), 0, head)
                ),
                "You keep this head and ablate all others. It is the other way round.": torch.cat(
                    [tensor[:, :-1], tensor[:, -1:] - expected[:, -1:]], dim=1
                ),
            }
        else:
            mistakes |= {
                "The hook for the FFN changes every token: only the last one is meant.": (
                    torch.zeros_like(tensor)
                ),
                "The hook for the FFN sets one value to zero: it has no heads, so all of [:, -1] "
                "goes.": _zeroed(tensor, (slice(None), -1, 0)),
            }
        require_close(
            found,
            expected,
            mistakes=mistakes,
            otherwise=f"The hook for {what} has to set that part of the last token to zero, in "
            "every prompt of the batch, and leave everything else as it was.",
        )
    return "One part of one token is gone, the rest is as it was: what changes now is due to it."


def _zeroed(tensor: Tensor, part: tuple[int | slice, ...]) -> Tensor:
    edited = tensor.clone()
    edited[part] = 0
    return edited


@LESSON.exercise(
    4,
    "How large is the effect?",
    hints=(
        "A part that helped the token leaves it less probable when it is gone: a positive effect.",
        "log p before - log p after. From 0.5 to 0.25 and from 0.002 to 0.001 are the same effect.",
        "`(before[token].log() - after[token].log()).item()`.",
    ),
)
def dropping(drop: Callable[[Tensor, Tensor, int], float]) -> str:
    """Test the loss of log-probability."""
    examples = []
    for token, p, q in ((0, 0.5, 0.25), (1, 0.2, 0.4), (2, 0.002, 0.001), (0, 0.3, 0.3)):
        before, after = torch.full((3,), (1 - p) / 2), torch.full((3,), (1 - q) / 2)
        before[token], after[token] = p, q
        examples.append((before, after, token))

    def right(before: Tensor, after: Tensor, token: int) -> float:
        return float((before[token] / after[token]).log())

    def of_top(before: Tensor, after: Tensor, token: int) -> float:
        return right(before, after, int(before.argmax()))

    require_same(
        drop,
        right,
        examples,
        "drop(...)",
        mistakes={
            "The sign is turned round: a part that helped has a positive drop when it is taken "
            "away.": lambda *of: -right(*of),
            "You took the absolute value: where the token is more probable without the part the "
            "drop is negative.": lambda *of: abs(right(*of)),
            "You cut the drop off at 0: where the token is more probable without the part it is "
            "negative, and that is a finding.": lambda *of: max(right(*of), 0.0),
            "You subtract probabilities. Then 0.002 → 0.001 hardly counts, although the token lost "
            "half of what it had: subtract logarithms.": lambda b, a, token: b[token] - a[token],
            "That is the ratio. Its logarithm is 0 where nothing changed.": (
                lambda b, a, token: b[token] / a[token]
            ),
            "That is the ratio, the wrong way round; the logarithm of before / after is asked "
            "for.": lambda b, a, token: a[token] / b[token],
            "That is the logarithm to base 2 (bits); nats, the natural one, are asked for: "
            ".log().": lambda *of: right(*of) / math.log(2),
            "That is the logarithm to base 10; nats, the natural one, are asked for: .log().": (
                lambda *of: right(*of) / math.log(10)
            ),
            "You look at the most probable token, not at the one asked for.": of_top,
            "That is the share that was lost. Use the difference of logarithms.": (
                lambda b, a, token: (b[token] - a[token]) / b[token]
            ),
            "That is how probable the token is afterwards; its loss is asked for.": (
                lambda b, a, token: a[token]
            ),
            "These are logarithms of what is left; the loss is log before - log after.": (
                lambda b, a, token: a[token].log()
            ),
        },
        otherwise=lambda b, a, token: (
            f"When token {token} goes from {b[token]:g} to {a[token]:g}, the drop has to be "
            f"{right(b, a, token):.3f} nats."
        ),
        tolerance=1e-3,
    )
    return (
        "In nats: 0 is no effect, 0.69 is half of the probability lost; below 0 the part had "
        "worked against the token, which is more probable without it."
    )


@LESSON.exercise(
    5,
    "A random direction, as long",
    hints=(
        "A direction without preference: independent normal numbers, `torch.randn`, then scaled.",
        "`torch.Generator().manual_seed(seed)` makes a draw repeatable and another for each seed.",
        "`r = torch.randn(vector.shape, generator=torch.Generator().manual_seed(seed))`, then "
        "`r * vector.norm() / r.norm()`.",
    ),
)
def randoms(random_like: Callable[[Tensor, int], Tensor]) -> str:
    """Test the control: length, repeatability, and no direction preferred."""
    vector = torch.linspace(-2.0, 5.0, 400)
    draws = []
    for seed in range(12):
        draw = require_tensor(random_like(vector, seed), (400,), "random_like(vector, seed)")
        length, wanted = float(draw.norm()), float(vector.norm())
        require_close(
            length,
            wanted,
            mistakes={
                "It has length 1. The control has to disturb as much as the real thing: multiply "
                "by vector.norm().": 1.0,
                "It is as long as the square of the norm says: multiply by the norm, not by its "
                "square.": wanted**2,
            },
            otherwise=f"It is {length:.2f} long and the vector {wanted:.2f}. A longer or shorter "
            "control is no fair one: divide by its own norm first.",
            tolerance=1e-3,
        )
        require(
            torch.equal(random_like(vector, seed), draw),
            f"Seed {seed} gives another vector each time, so nobody can repeat your result: use a "
            "generator with the seed.",
        )
        draws.append(draw / draw.norm())
    directions = torch.stack(draws)
    cosines = directions @ directions.T
    off = cosines[~torch.eye(12, dtype=torch.bool)]
    require(
        float(off.abs().max()) < 0.999,
        "Different seeds give the same direction (or its opposite): use `seed`.",
    )
    require(
        not torch.allclose(
            directions.abs().sort(-1).values, (vector.abs() / wanted).sort().values, atol=1e-4
        ),
        "That is the vector with its values shuffled or with other signs. It keeps the large "
        "values, so it is not a direction without preference: draw new numbers.",
    )
    require(
        float(off.mean()) < 0.2,
        f"Your directions are alike (mean cosine {float(off.mean()):.2f}; independent ones have "
        "0). Uniform numbers between 0 and 1 are all positive: use torch.randn.",
    )
    to_vector = directions @ (vector / wanted)
    require(
        float(to_vector.abs().mean()) < 0.25,
        f"Your directions still point along the vector (mean |cosine| "
        f"{float(to_vector.abs().mean()):.2f}): do not add to it, draw anew.",
    )
    other = drawn(0, (3, 50))[0]
    found = require_tensor(random_like(other, 1), (3, 50), "random_like(a vector of another shape)")
    require_close(
        float(found.norm()),
        float(other.norm()),
        otherwise="Another vector has another length, and its random direction has to have that "
        "one: is a length or a shape fixed in the text?",
    )
    return "Same length, no preferred direction, repeatable: a fair control."


@LESSON.exercise(
    6,
    "Larger than chance?",
    hints=(
        "How many of the random effects are at least as large as the real one?",
        "The real one could be just another draw, so it counts among the draws: add 1 above and "
        "below. Then p is never 0.",
        "`(1 + sum(abs(c) >= abs(effect) for c in controls)) / (1 + len(controls))`.",
    ),
)
def chance(p_value: Callable[[float, Sequence[float]], float]) -> str:
    """Test the two-sided permutation p-value against random directions."""
    controls = [0.1, -0.3, 0.2, 0.05, -0.1, 0.4, -0.25, 0.0, 0.15]
    for effect, n_larger in ((-0.35, 1), (0.2, 4), (1.0, 0), (0.0, 9)):
        found = require_number(p_value(effect, list(controls)), "p_value(...)")
        above = sum(control >= effect for control in controls)
        case = f"With effect {effect:g}, {n_larger} of 9 controls are at least as large in size"
        expected = (1 + n_larger) / 10
        require_close(
            found,
            expected,
            mistakes={
                f"{case}. You give {n_larger}/9: then an effect larger than all nine controls "
                "would have p = 0, which nine draws cannot show. Count the effect itself among "
                "the draws.": n_larger / 9,
                f"{case}. You count the smaller ones: a large effect has to give a small p.": (
                    1 - n_larger / 9
                ),
                f"{case}. You count the smaller ones: a large effect has to give a small "
                "p-value.": (10 - n_larger) / 10,
                f"{case}. You compare with the sign, so that a strong negative effect never "
                "counts: compare sizes, abs().": (1 + above) / 10,
                f"{case}. You compare with the sign, and p can be 0: compare sizes, abs(), and "
                "count the effect itself among the draws.": above / 9,
                f"{case}, that is the number itself: divide by the number of draws.": (
                    1.0 + n_larger
                ),
                f"{case}. Equal counts as well: >=, not >.": (
                    1 + sum(abs(control) > abs(effect) for control in controls)
                )
                / 10,
            },
            otherwise=f"{case}, so p = ({n_larger} + 1) / (9 + 1) = {expected:g}, not {found:g}.",
        )
    require_same(
        p_value,
        lambda effect, found: (1 + sum(abs(c) >= abs(effect) for c in found)) / (1 + len(found)),
        [(0.4 * seed - 0.9, drawn(seed, (n,))[0].tolist()) for seed, n in enumerate((19, 40, 6))],
        "p_value(...)",
        otherwise="With nine controls it is right, but with other numbers of them it is not: is "
        "one fixed in the text?",
    )
    return "p is the share of draws, the effect among them, that are at least as large."


def control_table(
    effects: pd.DataFrame,
    controls: Callable[[int, int], Sequence[float]],
    p_value: Callable[[float, Sequence[float]], float],
    n_parts: int = 3,
) -> pd.DataFrame:
    """Compare the heads of largest effect and of largest size with random directions.

    Args:
        effects: From `part_effects`.
        controls: (layer, head) → effects of random directions.
        p_value: (effect, controls) → p.
        n_parts: Heads of each kind.

    Returns:
        One row per head: ``why`` it is here, ``layer`` and ``head`` from 0, ``size``, ``effect``,
        ``low`` and ``high`` (the middle 95 % of the controls) and ``p``.
    """
    heads = effects[effects["head"] >= 0]
    largest = {
        "largest effect": heads.sort_values("effect", ascending=False, key=np.abs),
        "largest size": heads.sort_values("size", ascending=False),
    }
    rows = []
    for why, ordered in largest.items():
        for row in ordered.head(n_parts).itertuples():
            effects_of_random = controls(row.layer, row.head)
            low, high = np.quantile(effects_of_random, [0.025, 0.975])
            rows.append(
                {
                    "why": why,
                    "layer": row.layer,
                    "head": row.head,
                    "size": row.size,
                    "effect": row.effect,
                    "low": low,
                    "high": high,
                    "p": p_value(row.effect, effects_of_random),
                }
            )
    return pd.DataFrame(rows).set_index("why")
