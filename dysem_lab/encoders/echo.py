"""Echo embeddings: the sentence twice, so that its second copy has seen all of it."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from dysem_lab.encoders.base import LensEncoder
from dysem_lab.errors import InputError
from dysem_lab.inputs import require_characters
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.lens import LensModel
from dysem_lab.models.passes import fit
from dysem_lab.models.places import Place
from dysem_lab.models.record import Edit
from dysem_lab.prompts import SLOT, Prompt, wrap

TEMPLATE = f"Rewrite the following paragraph: {SLOT}. The rewritten paragraph: {SLOT}"


class SecondCopy(Edit):
    """The plain forward pass with means over the second copy of the text only.

    Prefix, text, middle, text and suffix are cut into tokens separately, with the model's beginning
    token once, so that both copies have the same tokens.
    """

    def __init__(self, lens: LensModel, parts: Sequence[str]) -> None:
        """Cut prefix, middle and suffix of the template into tokens."""
        super().__init__(lens)
        self._parts = tuple(parts)
        bos = [lens.tokenizer.bos_token_id]
        begins = lens.tokenizer("a")["input_ids"][:1] == bos
        prefix, self._middle, self._suffix = (self._ids([part])[0] for part in parts)
        self._prefix = bos * begins + prefix

    @property
    def facts(self) -> ModelFacts:
        """The model's facts under a fingerprint of its own."""
        return self.lens.facts.edited("Echo", {"echo": list(self._parts)})

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        filled = [text or " " for text in texts]  # no tokenizer takes an empty batch entry for one
        rows = self.lens.tokenizer(filled, add_special_tokens=False)["input_ids"]
        return [row if text else [] for row, text in zip(rows, texts, strict=True)]

    def tokenize(self, prompts: Sequence[str], max_tokens: int) -> list[list[int]]:
        """Return the token ids of each prompt; both copies of an over-long text are shortened."""
        return fit(self.lens, prompts, max_tokens, self._rows)

    def _rows(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        texts = self._ids([prompt[prompt.start : prompt.stop] for prompt in prompts])
        return [[*self._prefix, *ids, *self._middle, *ids, *self._suffix] for ids in texts]

    def pooled(
        self, prompts: Sequence[str], mask: Int[Tensor, "batch pos"]
    ) -> Int[Tensor, "batch pos"]:
        """Return the tokens of the second copy."""
        lengths = mask.sum(1)
        around = len(self._prefix) + len(self._middle) + len(self._suffix)
        of_text = (lengths - around) // 2
        stop = (lengths - len(self._suffix))[:, None]
        position = torch.arange(mask.shape[1], device=mask.device)
        return ((position >= stop - of_text[:, None]) & (position < stop)).to(mask)


class Echo(LensEncoder):
    """The mean over the tokens of the second copy of the text, after the final norm.

    Args:
        lens: A loaded model.
        template: A prompt with two ``{text}`` slots. White space around the text is removed;
            nothing else is normalised.

    Raises:
        InputError: A template without exactly two slots.

    Source: Repetition Improves Language Model Embeddings, arXiv 2402.15449, Section 4.2 (prompt of
    the zero-shot experiments; the released code has templates for the trained model only).
    """

    name = "Echo"

    def __init__(self, lens: LensModel, template: str = TEMPLATE) -> None:
        """Check the template; no text is read yet."""
        super().__init__(lens)
        n_slots = template.count(SLOT) if isinstance(template, str) else 0
        if n_slots != 2:
            raise InputError(
                f"an echo template needs two {SLOT} slots, {template!r:.200} has {n_slots}"
            )
        require_characters(template, "the template")
        self.template = template
        self._parts, self._place = template.split(SLOT), Place("mean")

    def _passes(self, texts: Sequence[str]) -> Iterable[tuple[Sequence[str], Edit | None]]:
        prefix, middle, suffix = self._parts
        texts = [text.strip() for text in wrap(texts, "none")]
        prompts = [Prompt.build(prefix, text, middle + text + suffix) for text in texts]
        return [(prompts, SecondCopy(self.lens, self._parts))]
