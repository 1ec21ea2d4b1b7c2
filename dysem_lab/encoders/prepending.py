"""Token Prepending: a placeholder before the sentence that lets early tokens see the late ones."""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dysem_lab.encoders.base import PromptEncoder
from dysem_lab.errors import InputError
from dysem_lab.inputs import require_characters, seed_of, whole_number
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.lens import LensModel
from dysem_lab.models.passes import tokenize
from dysem_lab.models.record import Edit, Hook
from dysem_lab.prompts import Prompt, template_parts, wrap

# A character of private use: no text holds it, as one may hold the papers' "<PST>".
PLACEHOLDER = "\U000f5054"
# Of each model one copy of its tokenizer, as copying a large vocabulary takes seconds, and the
# fingerprint that the model had.
_TOKENIZERS: WeakKeyDictionary[LensModel, tuple[str, PreTrainedTokenizerBase]] = WeakKeyDictionary()
QUOTES = tuple("\"'“”‘’「『«")


class Prepending(Edit):
    """The change of the forward pass: block inputs at the placeholder become those at the end.

    For every block l with ``start <= l < exit``, x_l at the placeholder is replaced by x_l at the
    last token, one block after the other.

    The arguments are those of `TokenPrepending`, with what stands before the placeholder in every
    prompt and the tokenizer of `with_placeholder`.
    """

    every_token = True

    def __init__(
        self,
        lens: LensModel,
        prefix: str,
        start: int,
        stop: int,
        placeholder: str | None,
        seed: int,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        """Find the placeholder's position, which is the same in every prompt."""
        super().__init__(lens)
        self._settings = {
            "token prepending": prefix,
            "start": start,
            "exit": stop,
            "placeholder": placeholder,
            "seed": seed,
        }
        self._blocks = range(start, stop)
        self._with_placeholder = replace(lens, tokenizer=tokenizer)
        self._token = tokenizer.convert_tokens_to_ids(PLACEHOLDER)
        self._embedding: Tensor | None = None
        if placeholder is None:
            # Any id has an embedding to be replaced.
            self._stand_in = lens.tokenizer.pad_token_id
            generator = torch.Generator().manual_seed(seed)
            self._embedding = torch.randn(lens.d_model, generator=generator)
        else:
            self._stand_in = _only_token(lens, placeholder)
        self._position = tokenizer(prefix + PLACEHOLDER)["input_ids"].index(self._token)

    @property
    def facts(self) -> ModelFacts:
        """The model's facts under a fingerprint of its own."""
        label = f"TP blocks {self._blocks.start}-{self._blocks.stop}"
        return self.lens.facts.edited(label, self._settings)

    def tokenize(self, prompts: Sequence[str], max_tokens: int) -> list[list[int]]:
        """Return token ids with an existing id at the placeholder."""
        rows = tokenize(self._with_placeholder, prompts, max_tokens)
        return [[self._stand_in if id_ == self._token else id_ for id_ in row] for row in rows]

    def hooks(
        self,
        prompts: Sequence[str],
        mask: Int[Tensor, "batch pos"],
        rows: slice = slice(None),
    ) -> list[Hook]:
        """Return the hooks on the inputs of the blocks."""
        texts = torch.arange(len(mask), device=mask.device)[rows]
        last = mask.sum(1)[rows] - 1
        at = self._position

        def put(vectors: Callable[[Tensor], Tensor]) -> Callable[[Tensor, object], Tensor]:
            def edit(x: Float[Tensor, "batch pos d"], hook: object) -> Tensor:
                edited = x.clone()
                edited[rows, at] = vectors(x)
                return edited

            return edit

        prepend = put(lambda x: x[texts, last])
        hooks: list[Hook] = [(f"blocks.{layer}.hook_in", prepend) for layer in self._blocks]
        if self._embedding is not None:
            hooks.insert(0, ("blocks.0.hook_in", put(self._embedding.to)))
        return hooks


def with_placeholder(lens: LensModel) -> PreTrainedTokenizerBase:
    """Return a copy of the model's tokenizer that knows the placeholder as one token.

    The words around it are then cut into tokens as in the released code, which registers it too.
    """
    fingerprint, tokenizer = _TOKENIZERS.get(lens, ("", lens.tokenizer))
    if fingerprint != lens.fingerprint:
        tokenizer = copy.deepcopy(lens.tokenizer)
        tokenizer.add_tokens([PLACEHOLDER], special_tokens=True)
        _TOKENIZERS[lens] = lens.fingerprint, tokenizer
    return tokenizer


def _only_token(lens: LensModel, text: str) -> int:
    """Return the id of a text of one token."""
    if not isinstance(text, str):
        raise InputError(f"the placeholder must be a text of one token or None, got {text!r:.80}")
    require_characters(text, "the placeholder")
    ids = lens.tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise InputError(
            f"the placeholder {text!r} is {len(ids)} tokens of {lens.name}; give a text of one, "
            "such as ' the', or None for a random embedding"
        )
    return ids[0]


class TokenPrepending(PromptEncoder):
    """One-word prompts with a placeholder before the sentence that carries what comes after it.

    The prompt gets one token more, directly before the opening quote of the sentence. In the first
    blocks its input is replaced by that of the last token, so every word can attend to the whole
    sentence.

    Args:
        lens: A loaded model.
        template: As for `dysem_lab.PromptEncoder`; "metaeol" too.
        start: First block whose input is replaced, 0-based; the paper's "second layer" is 1.
        exit: The block after the last one whose input is replaced. The released configuration for
            LLaMA2 is 7 (inputs of the blocks 1 to 6), the paper's text says "after the 8th layer",
            which is 8: try both. With ``exit=start`` the placeholder is only there.
        output_layer: As for `dysem_lab.PromptEncoder`, but None is "penultimate". The paper reads
            LLaMA2 after 27 of 32 blocks with PromptEOL and Pretended CoT, and before the last one
            with Knowledge Enhancement and on the other models.
        placeholder: None draws the placeholder's embedding from N(0, 1), as the paper does, and
            takes it for the input of the first block as it is (Gemma multiplies the embeddings of
            tokens by √d); or a text of one token, whose embedding it then has.
        seed: Of that draw.

    Raises:
        InputError: Unknown names, blocks that the model does not have, an exit after the output
            layer, a placeholder of several tokens.

    Source: Token Prepending, arXiv 2412.11556, Section 3 and released configurations.
    """

    def __init__(
        self,
        lens: LensModel,
        template: str = "prompteol",
        start: int = 1,
        exit: int = 7,
        output_layer: int | str | None = None,
        placeholder: str | None = None,
        seed: int = 0,
    ) -> None:
        """Check the settings; no text is read yet."""
        output_layer = "penultimate" if output_layer is None else output_layer
        super().__init__(lens, template, output_layer)
        first, stop = whole_number(start), whole_number(exit)
        n_blocks = self._place.n_blocks(lens.n_layers)
        if first is None or stop is None or not 0 <= first <= stop <= n_blocks:
            raise InputError(
                f"start and exit must be blocks with 0 <= start <= exit <= {n_blocks} (the output "
                f"layer), got {start!r} and {exit!r}"
            )
        if placeholder is not None:
            _only_token(lens, placeholder)
        self.start, self.exit = first, stop
        self.placeholder, self.seed = placeholder, seed_of(seed)
        self.name += " + TP"

    def _passes(self, texts: Sequence[str]) -> Iterable[tuple[Sequence[str], Edit | None]]:
        settings = (self.start, self.exit, self.placeholder, self.seed)
        for template in self.templates:
            prefix, suffix = template_parts(template, "english", "en")
            before = prefix[: len(prefix) - prefix.endswith(QUOTES)]
            with_quote = f"{before}{PLACEHOLDER} {prefix[len(before) :]}"
            prompts = [
                Prompt.build(with_quote, prompt[prompt.start : prompt.stop], suffix)
                for prompt in wrap(texts, template)
            ]
            yield prompts, Prepending(self.lens, before, *settings, with_placeholder(self.lens))
