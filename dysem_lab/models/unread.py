"""The edit that hides tokens from the last token, and what a text's tokens give it on average."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dysem_lab.display import Progress, silent
from dysem_lab.models.attended import attended
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.gradients import EMBEDDING
from dysem_lab.models.lens import LensModel
from dysem_lab.models.passes import batch_budget, plan_batches
from dysem_lab.models.places import Place
from dysem_lab.models.record import Edit, Hook
from dysem_lab.models.text_tokens import text_tokens
from dysem_lab.prompts import Prompt


class Unread(Edit):
    """What the last token reads of some tokens, taken out of z and replaced by a corpus mean.

    At every block and head z = Σ_t α_t v_t loses the terms of the hidden tokens t, whose streams
    and whose share in the softmax stay as they are, and gains what so many tokens of a text give
    on average. Later blocks read the last token's changed stream.

    Args:
        lens: The model.
        hidden: Of each row of the pass, which tokens are hidden; the rows are of equal length.
        added: Of each row, how many times the mean is put in their place.
        mean: At every block and head; from `text_means`.
    """

    def __init__(
        self,
        lens: LensModel,
        hidden: Bool[Tensor, "rows pos"],
        added: Float[Tensor, " rows"],
        mean: Float[Tensor, "L n_heads d_head"],
    ) -> None:
        """Take what the rows of a pass are to lose; nothing is run."""
        super().__init__(lens)
        self._hidden, self._added, self._mean = hidden, added, mean

    @property
    def facts(self) -> ModelFacts:
        """The model's facts under a fingerprint of the edited model's own."""
        values = [self._hidden.tolist(), self._added.tolist(), self._mean.tolist()]
        return self.lens.facts.edited("unread", {"hidden, added, mean": values})

    def hooks(
        self,
        prompts: Sequence[str],
        mask: Int[Tensor, "batch pos"],
        rows: slice = slice(None),
    ) -> list[Hook]:
        """Return the hooks that change what the last token of these prompts reads."""
        last = mask.sum(1)[rows] - 1  # a pass may be over last tokens only: then it is 0
        index = torch.arange(len(last), device=mask.device)
        hooks: list[Hook] = []
        for block in range(self.lens.n_layers):
            added = (self._added[:, None, None] * self._mean[block]).to(mask.device)

            def hide(pattern: Tensor, hook: object) -> Tensor:
                edited = pattern.clone()  # [batch, head, query, key]; a window has the last keys
                hidden = self._hidden[:, -pattern.shape[-1] :].to(pattern.device)
                of_rows = edited[rows]
                of_rows[index, :, last] = of_rows[index, :, last].masked_fill(hidden[:, None], 0)
                edited[rows] = of_rows
                return edited

            def add(z: Tensor, hook: object, added: Tensor = added) -> Tensor:
                edited = z.clone()
                of_rows = edited[rows]
                of_rows[index, last] += added.to(z)
                edited[rows] = of_rows
                return edited

            hooks.append((f"blocks.{block}.attn.hook_pattern", hide))
            ((_, point),) = Place("z", block).read_at(self.lens.n_layers)
            hooks.append((point, add))
        return hooks


class TextMeans(NamedTuple):
    """What the tokens of a corpus's texts have in common.

    Attributes:
        reading: E[Σ_t α_t v_t] over the tokens t of a text, at every block and head: what the last
            token reads of a whole text on average.
        embedding: The mean of h^0 over all these tokens.
    """

    reading: Float[Tensor, "L n_heads d_head"]
    embedding: Float[Tensor, " d"]


def text_means(
    lens: LensModel, prompts: Sequence[Prompt], progress: Progress = silent
) -> TextMeans:
    """Return what the tokens of texts have in common; one pass of each.

    Args:
        lens: The model.
        prompts: Made by `dysem_lab.wrap`.
        progress: Told of every batch.
    """
    blocks, point = range(lens.n_layers), EMBEDDING.read_at(lens.n_layers)[0][1]
    reading = torch.zeros(lens.n_layers, lens.n_heads, lens.d_head, dtype=torch.float64)
    embedding, n_tokens, done = torch.zeros(lens.d_model, dtype=torch.float64), 0, 0
    texts = [text_tokens(lens, prompt).text for prompt in prompts]
    for batch in plan_batches([text.stop for text in texts], batch_budget(lens, None)):
        found = attended(lens, [prompts[i] for i in batch], blocks, None, [point])
        inside = torch.zeros(found.seen[point].shape[:2])
        for row, i in enumerate(batch):
            inside[row, texts[i].start : texts[i].stop] = 1
        for block in blocks:
            reading[block] += torch.einsum("bt,bthe->he", inside, found.given(block))
        embedding += torch.einsum("bt,btd->d", inside, found.seen[point].float().cpu())
        n_tokens, done = n_tokens + int(inside.sum()), done + len(batch)
        progress(done, len(prompts), "corpus")
    return TextMeans((reading / len(prompts)).float(), (embedding / n_tokens).float())
