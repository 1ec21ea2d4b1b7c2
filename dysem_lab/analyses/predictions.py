"""What a contrast changes: the prediction of the next token, and the residual stream below it."""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.errors import InputError
from dysem_lab.joint import cosine
from dysem_lab.models.capture import unique_prompts
from dysem_lab.models.lens import LensModel
from dysem_lab.models.readout import next_token_probabilities, token_texts
from dysem_lab.models.record import Edit, activations, finite
from dysem_lab.models.steering import Contrast, edit_of, warn_if_alpha_is_undone
from dysem_lab.prompts import Prompt

# English words that hold a sentence together and could stand in nearly any: a list of our own.
_WORDS = """
a an the this that these those some any each every no not all both either neither such
i you he she it we they me him her us them my your his its our their mine yours hers ours theirs
who whom whose which what where when why how there here
of in on at by for with from to into onto over under about as after before between through during
without within against upon among up down out off
and or but nor so if because while although though than then whether until since
am is are was were be been being do does did have has had having will would shall should can could
may might must too very just also only
"""
FUNCTION_WORDS = frozenset(_WORDS.split())


def next_tokens(
    lens: LensModel, prompts: Sequence[str], contrast: Contrast | None = None, top: int = 10
) -> pd.DataFrame:
    """Return the most probable next tokens of each prompt.

    Args:
        lens: The model.
        prompts: Prompts, made by `dysem_lab.wrap` where there is a contrast; repeated ones count
            once.
        contrast: The intervention; None is the plain prompt.
        top: Tokens per prompt.

    Returns:
        One row per prompt and rank: ``prompt`` (its position among the different prompts),
        ``text``, ``rank`` from 1, ``token`` (what it adds to the prompt), ``id``, ``probability``.

    Raises:
        InputError: As for `next_token_probabilities`, or `top` below 1 or above the number of
            tokens.
        ModelError: The prediction is not finite.

    Warns:
        UserWarning: α has no effect in this model, because a norm follows.
    """
    if contrast is not None:
        warn_if_alpha_is_undone(contrast, lens)
    table = _compared(lens, prompts, {"": contrast}, top)
    table = table.sort_values(["prompt", "rank"], kind="stable", ignore_index=True)
    return table[["prompt", "text", "rank", "token", "id", "probability"]]


def predictions(
    lens: LensModel, prompts: Sequence[str], variants: Mapping[str, Contrast | None], top: int = 10
) -> pd.DataFrame:
    """Compare the next tokens of the same prompts under several contrasts.

    Args:
        lens: The model.
        prompts: As for `next_tokens`.
        variants: Name → contrast, or None for the plain prompt. The first is what the others are
            compared with. Each runs once per prompt.
        top: Tokens per prompt and variant.

    Returns:
        One row per prompt, variant and token that is among the `top` of **any** variant of that
        prompt: the columns of `next_tokens`; ``variant``; ``function_word`` (whether the token is
        one of `FUNCTION_WORDS`, in any case, with or without a space before it). Then, over all
        tokens and so the same for all rows of a prompt and variant: ``total_variation``, half the
        summed absolute difference of the variant's distribution to that of the first variant (0
        for equal ones, 1 for disjoint ones); ``function_word_share``, the probability that the
        variant gives to all function words together.

    Raises:
        InputError: As for `next_tokens`, or no variants.
        ModelError: The prediction is not finite.

    Warns:
        UserWarning: α has no effect in this model, because a norm follows.

    Source: CP (arXiv 2505.12831), Table 7 shows next tokens; the two measures are ours.
    """
    if not variants:
        raise InputError("variants must name at least one contrast, or None for the plain prompt")
    for contrast in filter(None, variants.values()):
        warn_if_alpha_is_undone(contrast, lens)
    return _compared(lens, prompts, variants, top)


def _compared(
    lens: LensModel, prompts: Sequence[str], variants: Mapping[str, Contrast | None], top: int
) -> pd.DataFrame:
    unique = unique_prompts(prompts)
    found = {
        name: next_token_probabilities(lens, unique, edit_of(lens, contrast))
        for name, contrast in variants.items()
    }
    first, n_tokens = next(iter(found.values())), next(iter(found.values())).shape[1]
    if isinstance(top, bool) or not isinstance(top, int) or not 1 <= top <= n_tokens:
        raise InputError(f"top must be between 1 and {n_tokens}, got {top!r}")
    words = _function_word_ids(lens)
    rows = []
    for i, prompt in enumerate(unique):
        best = [probabilities[i].topk(top).indices.tolist() for probabilities in found.values()]
        ids = list(dict.fromkeys(token for of_variant in best for token in of_variant))
        texts = token_texts(lens, ids)
        for name, probabilities in found.items():
            p = probabilities[i]
            of_variant = {
                "prompt": i,
                "text": text_of(prompt),
                "variant": name,
                "total_variation": float((p.double() - first[i].double()).abs().sum() / 2),
                "function_word_share": float(p[sorted(words)].double().sum()),
            }
            rows += [
                {
                    **of_variant,
                    "rank": 1 + int((p > p[token]).sum()),
                    "token": text,
                    "id": token,
                    "probability": float(p[token]),
                    "function_word": token in words,
                }
                for token, text in zip(ids, texts, strict=True)
            ]
    columns = ["prompt", "text", "variant", "rank", "token", "id", "probability", "function_word"]
    return pd.DataFrame(rows)[[*columns, "total_variation", "function_word_share"]]


def stream_change(lens: LensModel, prompt: str, contrast: Contrast) -> pd.DataFrame:
    """Return how far a contrast moves the residual stream, at every token after every block.

    It is 0 before the block of the contrast, and at every token but the last, which the others do
    not see; with norm "self_scaling" all tokens move.

    Args:
        lens: The model.
        prompt: Made by `dysem_lab.wrap`.
        contrast: The intervention.

    Returns:
        One row per token and block: ``position`` and ``layer`` from 0, ``token``, ``change``
        (‖h' - h‖ / ‖h‖ with h' the stream under the contrast), ``cosine`` of h' with h.

    Raises:
        InputError: A prompt whose text is not known, or a block or head that the model does not
            have.
        ModelError: The stream is not finite.

    Warns:
        UserWarning: α has no effect in this model, because a norm follows.
    """
    unique_prompts([prompt])
    warn_if_alpha_is_undone(contrast, lens)
    points = [f"blocks.{layer}.hook_out" for layer in range(lens.n_layers)]

    def stream(edit: Edit | None) -> tuple[Float[Tensor, "L pos d"], list[int]]:
        read = activations(lens, [prompt], points, edit=edit)
        rows = torch.stack([read.seen[point][0].float().cpu() for point in points])
        return finite(lens, "the residual stream", rows), read.ids[0].tolist()

    plain, ids = stream(None)
    changed, _ = stream(edit_of(lens, contrast))
    change = (changed - plain).norm(dim=-1) / plain.norm(dim=-1)
    similarity = cosine(changed.flatten(0, 1), plain.flatten(0, 1)).view_as(change)
    tokens = token_texts(lens, ids)
    return pd.DataFrame(
        {
            "position": i,
            "token": token,
            "layer": layer,
            "change": float(change[layer, i]),
            "cosine": float(similarity[layer, i]),
        }
        for layer in range(lens.n_layers)
        for i, token in enumerate(tokens)
    )


def text_of(prompt: str) -> str:
    """Return the text inside a prompt; all of it where `dysem_lab.wrap` did not make it."""
    return prompt[prompt.start : prompt.stop] if isinstance(prompt, Prompt) else prompt


def _function_word_ids(lens: LensModel) -> set[int]:
    """Return the tokens that are function words; the vocabulary writes a space as Ġ or ▁."""
    vocabulary = lens.tokenizer.get_vocab()
    return {id for token, id in vocabulary.items() if token.lstrip("Ġ▁ ").lower() in FUNCTION_WORDS}
