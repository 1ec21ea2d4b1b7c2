"""Lesson 5: contrastive prompting and activation patching."""

import itertools
import warnings
from collections.abc import Callable, Sequence

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
from checks.quiz5 import QUESTIONS
from checks.tools import every_block, fitted, tokens_of
from dysem_lab import ContrastivePrompting, LensModel, capture, wrap
from dysem_lab.errors import InputError
from dysem_lab.models.record import Hook
from dysem_lab.questions.style import layout

LESSON = Lesson(5, "Contrastive prompting and activation patching", QUESTIONS)
check, hint, progress, quiz = LESSON.check, LESSON.hint, LESSON.progress, LESSON.quiz

HookFunction = Callable[..., Tensor | None]
SENTENCES = ("A man is playing a guitar.", "Two swans landed on the frozen lake.")
FLAT = (
    "That is one vector, and z has a row for each head: read `attn.hook_z`, which is before W_O "
    "mixes the heads, and keep its rows."
)
QUESTION = ' means in one word:"'  # the end of the normal prompt


def forward(lens: LensModel, prompt: str, hooks: Sequence[Hook] = ()) -> Float[Tensor, "L pos d"]:
    """Run one prompt and return the residual stream after every block, at every token.

    Args:
        lens: The model.
        prompt: One prompt.
        hooks: As for `checks.tools.record`.
    """
    return every_block(lens, [prompt], "hook_out", hooks)[0]


def patched_everywhere(
    lens: LensModel, clean: str, corrupted: str, blocks: Sequence[int]
) -> tuple[Float[Tensor, "blocks pos"], float, float]:
    """Patch the clean run's residual stream into the corrupted run, at one place at a time.

    The metric is how much nearer the embedding (the last token after the last block but one) is to
    the clean run's than to the corrupted run's: the difference of its two cosines.

    Args:
        lens: The model.
        clean: Prompt that the vectors are taken from.
        corrupted: Prompt whose run they are put into, of as many tokens.
        blocks: Blocks after which the stream is replaced.

    Returns:
        The metric of each patched run, of the clean and of the corrupted run.

    Raises:
        InputError: The prompts differ in their number of tokens.
    """
    n_tokens, n_corrupted = (len(tokens_of(lens, prompt)) for prompt in (clean, corrupted))
    if n_tokens != n_corrupted:
        raise InputError(
            f"the prompts have {n_tokens} and {n_corrupted} tokens; patching needs as many, so "
            "exchange a word for one of the same number of tokens"
        )
    streams = torch.stack([forward(lens, prompt) for prompt in (clean, corrupted)])
    ends = streams[:, -2, -1]

    def metric(embeddings: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        to_clean, to_corrupted = (torch.cosine_similarity(embeddings, end, dim=-1) for end in ends)
        return to_clean - to_corrupted

    rows = torch.arange(n_tokens)
    found = []
    for block in blocks:
        new = streams[0, block]

        def patch(tensor: Tensor, hook: object, new: Tensor = new) -> Tensor:
            edited = tensor.clone()
            edited[rows, rows] = new.to(tensor)  # row i of the batch is patched at token i
            return edited

        hooks = [(f"blocks.{block}.hook_out", patch)]
        stream = every_block(lens, [corrupted] * n_tokens, "hook_out", hooks)
        found.append(metric(stream[:, -2, -1]))
    of_clean, of_corrupted = metric(ends).tolist()
    return torch.stack(found), of_clean, of_corrupted


def token_map(
    values: Float[Tensor, "blocks pos"],
    lens: LensModel,
    prompt: str,
    blocks: Sequence[int],
    title: str,
    unit: str,
) -> go.Figure:
    """Return a map of values over the tokens of a prompt and the blocks (counted from 1).

    Args:
        values: One row per block.
        lens: The model.
        prompt: Whose tokens.
        blocks: The rows' blocks, from 0.
        title: What is seen.
        unit: What the colour says.
    """
    tokens = [token.strip() or "␣" for token in tokens_of(lens, prompt)]
    figure = go.Figure(
        go.Heatmap(
            z=values.tolist(),
            y=[block + 1 for block in blocks],
            colorscale="Cividis",
            colorbar_title=unit,
            hovertemplate="token %{x}, block %{y}: %{z:.3f}<extra></extra>",
        )
    )
    figure.update_xaxes(title="token", tickvals=list(range(len(tokens))), ticktext=tokens)
    figure.update_yaxes(title="block")
    return fitted(layout(figure, title, f"{lens.label}, {prompt}", 460))


def head_outputs(
    lens: LensModel, layer: int, z: Float[Tensor, "head d_head"]
) -> Float[Tensor, "head d"]:
    """Return what each head adds to the attention output: its z through its part of W_O."""
    weights = lens.bridge.blocks[layer].attn.W_O.detach().float().cpu()
    return torch.einsum("hc,hcd->hd", z.float().cpu(), weights)


@LESSON.exercise(
    1,
    "The auxiliary prompt",
    hints=(
        'Print `dl.wrap([sentence])[0]`, the normal prompt. What would you write in front of "This '
        'sentence" to ask for what does not matter?',
        "Change only the words before the sentence: the contrast is taken at the last token, so "
        "both prompts have to end alike.",
        "An f-string with the sentence in it: `f'The irrelevant information of this sentence : \""
        '{sentence}" means in one word:"\'`.',
    ),
)
def auxiliary(auxiliary_prompt: Callable[[str], str]) -> str:
    """Test a function that asks for the irrelevant part of a sentence."""
    prompts = [auxiliary_prompt(sentence) for sentence in SENTENCES]
    for sentence, prompt in zip(SENTENCES, prompts, strict=True):
        (normal,) = wrap([sentence])
        require(
            isinstance(prompt, str), f"A prompt is a string, this is a {type(prompt).__name__}."
        )
        require(
            "{" not in prompt,
            f"The prompt still has a slot, {prompt!r}: is the f before the string missing?",
        )
        require(
            sentence in prompt,
            f"The sentence {sentence!r} is not in its prompt, {prompt!r}: a prompt has to be made "
            "for each sentence.",
        )
        require(
            prompt != normal,
            "That is the normal prompt. The auxiliary one must ask for something else about the "
            "same sentence: what is irrelevant in it.",
        )
        require(
            prompt.endswith(QUESTION),
            f"The prompt ends in {prompt[-22:]!r}, the normal one in {QUESTION!r}. Both are read "
            "at their last token, so both have to end alike, to the last character.",
        )
        require(
            "irrelevant" in prompt.lower(),
            "Nothing in the prompt asks for what is irrelevant. Without that both prompts ask for "
            "the meaning, and subtracting would remove the meaning itself.",
        )
    return (
        "Both prompts hold the sentence and end in the same token; they differ in what they ask "
        "for. What they have in common can now be subtracted."
    )


@LESSON.exercise(
    2,
    "Read z at one block",
    hints=(
        "The hook point is `blocks.{layer}.attn.hook_z`, and its tensor has the axes "
        "[batch, token, head, value].",
        "A hook function may only look: keep what you need in a dictionary outside, and return "
        "nothing.",
        'Inside the hook: `seen["z"] = tensor[0, -1]`; then `forward(lens, prompt, [(name, '
        'keep)])` and return `seen["z"]`.',
    ),
)
def reading_z(read_z: Callable[..., Tensor], lens: LensModel) -> str:
    """Test a function that reads the contextualised value vectors of the last token."""
    shape = lens.n_heads, lens.d_head
    for sentence in SENTENCES:
        (prompt,) = wrap([sentence])
        whole = every_block(lens, [prompt], "attn.hook_z")[0]
        n_tokens = whole.shape[1]
        for layer in (lens.n_layers - 1, 1):
            found = require_tensor(
                read_z(lens, prompt, layer),
                shape,
                "z",
                {
                    (1, n_tokens, *shape): "That is every token: take [0, -1], the last token of "
                    "the only prompt.",
                    (n_tokens, *shape): "That is every token: take the last one, -1.",
                    (1, *shape): "The batch axis is still there: take prompt 0.",
                    (lens.n_kv_heads, lens.d_head): "These are value vectors of the key-value "
                    "heads. z, after attention has mixed them over the tokens, is at "
                    "`attn.hook_z`.",
                    (lens.n_heads * lens.d_head,): FLAT,
                    (lens.d_model,): FLAT,
                },
            )
            z = whole[layer]
            # Whatever way it was read, W_O has to turn it into what attention wrote.
            wrote = capture(lens, [prompt], "attn_raw", layer, progress=False)["attn_raw"][0]
            mistakes = {
                "That is z of the first token, which has seen nothing of the sentence: the last "
                "token has index -1.": z[0],
                "That is z of the token before the last one: the last token has index -1.": z[-2],
                "That is the mean of z over the tokens: CP reads the last token alone.": z.mean(0),
                **{
                    f"Block {layer} was asked for and block {other} read: put the argument "
                    "`layer` into the name of the hook point; blocks count from 0.": (
                        whole[other, -1]
                    )
                    for other in range(lens.n_layers)
                },
            }
            require_close(
                head_outputs(lens, layer, found).sum(0),
                wrote,
                mistakes={
                    message: head_outputs(lens, layer, value).sum(0)
                    for message, value in mistakes.items()
                },
                otherwise=f"z of block {layer}, sent through that block's W_O, has to give what "
                "its attention wrote at the last token, and this does not.",
                tolerance=1e-3,
            )
    return (
        "W_O turns what you read into exactly what the attention of that block wrote at the last "
        "token, for two sentences and two blocks."
    )


@LESSON.exercise(
    3,
    "Subtract and rescale",
    hints=(
        "With D = v⁺ - v⁻: norm scaling is α D. Norm recovering keeps the direction of D and gives "
        "it the length that v⁺ had.",
        "A vector's direction is D / ‖D‖. The norm is over all heads together: `tensor.norm()` "
        "without a dim.",
        "`alpha * (plus - minus)`, and with `difference = plus - minus`: `difference * plus.norm() "
        "/ difference.norm()`.",
    ),
)
def subtracting(
    scale: Callable[[Tensor, Tensor, float], Tensor], recover: Callable[[Tensor, Tensor], Tensor]
) -> str:
    """Test norm scaling (NS) and norm recovering (NR)."""
    generator = torch.Generator().manual_seed(0)
    for alpha in (2.0, 0.5):
        plus, minus = torch.randn(2, 3, 4, generator=generator)
        difference = plus - minus
        require_close(
            scale(plus, minus, alpha),
            alpha * difference,
            "scale(plus, minus, alpha)",
            mistakes={
                "scale: the sign is turned round. The auxiliary vector is what we want to be rid "
                "of: subtract minus from plus.": -alpha * difference,
                "scale: α multiplies the whole difference, and here only v⁺. Brackets?": alpha
                * plus
                - minus,
                "scale: α multiplies the whole difference, and here only v⁻. Brackets?": plus
                - alpha * minus,
                "scale: that is the difference without α.": difference,
                "scale: α (v⁺ - v⁻) takes the place of v⁺, it is not added to it.": plus
                + alpha * difference,
                "scale: that is norm recovering. Norm scaling only multiplies by α.": difference
                * plus.norm()
                / difference.norm(),
            },
            otherwise="scale: for v⁺ = 3, v⁻ = 1 and α = 2 the result has to be 4.",
        )
        per_head = difference * plus.norm(dim=-1, keepdim=True)
        unit = difference / difference.norm()
        require_close(
            recover(plus, minus),
            unit * plus.norm(),
            "recover(plus, minus)",
            mistakes={
                "recover: you took the norm of each head by itself. CP takes one norm over all "
                "heads together, so that heads keep their share.": per_head
                / difference.norm(dim=-1, keepdim=True),
                "recover: that has length 1. It has to be as long as v⁺: multiply by its "
                "norm.": unit,
                "recover: that is as long as v⁻. The later blocks expect the length of v⁺, which "
                "it replaces.": unit * minus.norm(),
                "recover: the two norms have changed places: divide by ‖D‖ and multiply by "
                "‖v⁺‖.": difference * difference.norm() / plus.norm(),
                "recover: the sign is turned round: D = v⁺ - v⁻.": -unit * plus.norm(),
                "recover: that is D with its own length. Give it the length of v⁺.": difference,
                "recover: that is v⁺ itself: the direction has to be that of D.": plus,
            },
            otherwise="recover: the result has to point where v⁺ - v⁻ points and be as long as v⁺.",
        )
    return (
        "NS changes the length by α, NR keeps the length of v⁺; both point from the auxiliary "
        "vector to the normal one."
    )


@LESSON.exercise(
    4,
    "Patch the last token",
    hints=(
        "`patch_last` gets the new vectors now and returns a function that is called later, in the "
        "middle of the forward pass.",
        "Inside the hook, tensor[:, -1] is the last token of each prompt of the batch. Work on "
        "`tensor.clone()`.",
        "`edited = tensor.clone()`, `edited[:, -1] = new`, `return edited`.",
    ),
)
def patching(patch_last: Callable[[Tensor], HookFunction]) -> str:
    """Test a hook that replaces the last token's vectors and nothing else."""
    for seed, shape in enumerate([(2, 5, 3, 4), (3, 6, 8), (1, 4, 2, 3)]):
        tensor, new = drawn(seed, shape, shape[2:])
        hook = patch_last(new)
        require(
            callable(hook),
            f"patch_last has to return a function, the hook, and returned a {type(hook).__name__}. "
            "The tensor is there only later, when the model runs.",
        )
        given = tensor.clone()
        # TransformerLens calls a hook with the name `hook`, and None keeps the (same) tensor.
        returned = hook(given, hook=None)
        require(
            returned is not None or not torch.equal(given, tensor),
            "The hook changed nothing: it returns None, so the model goes on with the old tensor. "
            "Is a `return` missing?",
        )
        found = require_tensor(
            given if returned is None else returned,
            shape,
            "What the hook returns",
            {
                (shape[0], *shape[2:]): "That is the last token alone. Return the whole tensor "
                "with the last token replaced.",
                shape[2:]: "That is the new vector alone. Return the whole tensor with the last "
                "token replaced.",
            },
        )
        expected = torch.cat([tensor[:, :-1], new.expand(shape[0], 1, *shape[2:])], dim=1)
        first, added = tensor.clone(), tensor.clone()
        first[:, 0] = new
        added[:, -1] += new
        last_prompt = tensor.clone()
        last_prompt[-1] = new
        require_close(
            found,
            expected,
            mistakes={
                "The hook replaced every token. Then no token is left that carries the sentence: "
                "only the last one is to change.": new.expand(shape),
                "The hook replaced the first token: the last one has index -1.": first,
                "The hook added the new vector to the old one: it has to take its place.": added,
                "The hook changed the last prompt of the batch at every token: the axes are "
                "[batch, token, ...], so it is [:, -1].": last_prompt,
                "The hook returns the tensor as it was.": tensor,
            },
            otherwise="Only the last token may change, in each prompt of the batch, and it has to "
            "become `new`.",
        )
    return "The hook replaces the last token at any hook point, and leaves all others as they were."


def _recovered(patched: float, clean: float, corrupted: float) -> float:
    return (patched - corrupted) / (clean - corrupted)


@LESSON.exercise(
    5,
    "How much of an effect is recovered",
    hints=(
        "It is a share: 0 where patching changed nothing, 1 where it brought back all of the clean "
        "run. Where on the way from `corrupted` to `clean` is `patched`?",
        "The way from corrupted to clean is clean - corrupted.",
        "`(patched - corrupted) / (clean - corrupted)`.",
    ),
)
def recovering(recovered: Callable[..., Tensor | float]) -> str:
    """Test the normalised patching score."""
    examples = [  # patched, clean, corrupted
        (-1.0, 3.0, -1.0),
        (3.0, 3.0, -1.0),
        (0.0, 3.0, -1.0),
        (0.9, 0.5, -0.3),
        (0.5, 2.0, 1.0),
        (0.1, -0.4, 0.6),
    ]
    require_same(
        recovered,
        _recovered,
        examples,
        "recovered(...)",
        mistakes={
            "0 has to mean that nothing came back, and 1 everything; yours is the other way round. "
            "Measure from corrupted, not from clean.": lambda *of: 1 - _recovered(*of),
            "That is the change itself. Divide by the whole way from corrupted to clean, so that "
            "it is a share.": lambda patched, clean, corrupted: patched - corrupted,
            "You divide patched by clean. The corrupted run is not at 0, so subtract it from both "
            "first.": lambda patched, clean, corrupted: patched / clean,
            "You divide patched by corrupted. Neither run is at 0: subtract corrupted from patched "
            "and from clean first.": lambda patched, clean, corrupted: patched / corrupted,
            "The sign is turned round: a patch that goes towards clean counts as positive.": (
                lambda *of: -_recovered(*of)
            ),
            "You took the absolute value: a patch that leads away from clean has recovered less "
            "than nothing.": lambda *of: abs(_recovered(*of)),
            "You divide by the size of the way. Where clean is below corrupted the way goes down, "
            "and a patch that goes down with it has recovered something: no abs().": (
                lambda patched, clean, corrupted: (patched - corrupted) / abs(clean - corrupted)
            ),
            "You cut the result off at 0 and 1. A patch can overshoot, and hiding that would hide "
            "a finding.": lambda *of: min(max(_recovered(*of), 0.0), 1.0),
            "You cut the result off at 1. A patch can overshoot, and hiding that would hide a "
            "finding.": lambda *of: min(_recovered(*of), 1.0),
            "You cut the result off at 0. A patch can lead away from clean, and hiding that would "
            "hide a finding.": lambda *of: max(_recovered(*of), 0.0),
            "That is a percentage: a share is 1 for all of it.": lambda *of: 100 * _recovered(*of),
        },
        otherwise=lambda patched, clean, corrupted: (
            f"With clean = {clean:g} and corrupted = {corrupted:g}, patched = {patched:g} has "
            f"recovered {_recovered(patched, clean, corrupted):g} of the way."
        ),
    )
    require_close(
        recovered(torch.tensor([[3.0], [1.0]]), 3.0, -1.0),
        torch.tensor([[1.0], [0.5]]),
        "recovered(...) of a whole map",
        otherwise="A map is recovered elementwise.",
    )
    return "0 is the corrupted run, 1 the clean one, and overshooting stays visible."


@LESSON.exercise(
    6,
    "Does α matter here?",
    hints=(
        "Make two encoders with `dl.ContrastivePrompting`, alike but for `alpha`, and encode the "
        "sentence with both.",
        "`encoder.encode([sentence]).vectors[0]` is the embedding. The change is the norm of the "
        "difference of the two embeddings, divided by the norm of the one with α = 1.",
        "`settings = dict(layer=4, position=position)`, then `dl.ContrastivePrompting(lens, "
        "alpha=1.0, **settings)` and the same with `alpha=3.0`.",
    ),
)
def alpha_matters(
    alpha_effect: Callable[[LensModel, str, str], float], plain: LensModel, post_norm: LensModel
) -> str:
    """Test a function that measures what α does to an embedding."""
    shown: dict[tuple[str, str], float] = {}
    for lens, sentence in itertools.product((plain, post_norm), SENTENCES):
        at_heads = None
        for position in ("heads", "hidden"):
            where = f"alpha_effect for {lens.name} at {position!r}"
            found = require_number(alpha_effect(lens, sentence, position), where)
            one, three = _with_alpha(lens, sentence, position)
            change = float((three - one).norm())
            undone = position == "heads" and lens.post_norms
            mistakes = {
                f"{where} is the norm of the difference. Divide by the norm of the embedding with "
                "α = 1, so that models can be compared.": change,
                f"{where} is the cosine of the two embeddings: 1 would mean no change. Measure the "
                "change, which is 0 then.": float(torch.cosine_similarity(one, three, dim=0)),
                f"{where} is always measured at the heads: pass `position` on.": at_heads or -1.0,
                f"{where} is 0, as if both embeddings had the same α.": 0.0,
            }
            expected = change / float(one.norm())
            if undone:  # what is left is rounding
                require(
                    abs(found) < 1e-3,
                    f"{where} should be 0 but for rounding, because a norm follows and divides α "
                    f"out; yours is {found:.4g}. Is it a cosine, or do the two encoders differ in "
                    "more than α?",
                )
            else:
                require_close(
                    found,
                    expected,
                    mistakes=mistakes,
                    otherwise=f"{where} is {found:.4g}. Compare α = 3 with α = 1, layer 1, the "
                    "other settings as they are, and divide by the norm of the embedding with "
                    "α = 1.",
                    tolerance=1e-3,
                )
            at_heads = found if position == "heads" else at_heads
            shown.setdefault((lens.name, position), found)  # of the first sentence
    return (
        "; ".join(
            f"{name} at {position!r}: {value:.1%}" for (name, position), value in shown.items()
        )
        + ". Where attention's output is normalised before it is added, α is divided out."
    )


ALPHA_LAYER = 1


def _with_alpha(lens: LensModel, sentence: str, position: str) -> list[Tensor]:
    """Return the embeddings of a sentence with α = 1 and α = 3."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "alpha has no effect")
        return [
            ContrastivePrompting(lens, layer=ALPHA_LAYER, alpha=alpha, position=position)
            .encode([sentence], progress=False)
            .vectors[0]
            for alpha in (1.0, 3.0)
        ]
