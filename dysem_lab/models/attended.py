"""What the last token reads of each token: attention patterns and values of one pass."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dysem_lab.models.lens import LensModel
from dysem_lab.models.record import Edit, activations


class Attended(NamedTuple):
    """What a pass over a few prompts shows of its attention; see `Activations`."""

    lens: LensModel
    seen: dict[str, Tensor]
    last_token: Int[Tensor, " batch"]

    def last(self, point: str) -> Float[Tensor, "batch ..."]:
        """Return what a hook point gave at the last token."""
        return self._at_last(self.seen[point])

    def _at_last(self, tensor: Tensor) -> Tensor:
        rows = torch.arange(len(tensor), device=tensor.device)
        return tensor[rows, self.last_token].float().cpu()

    def given(self, block: int) -> Float[Tensor, "batch pos n_heads d_head"]:
        """Return α v: what the heads of the last token read of each token; 0 of padding."""
        pattern = self.seen[f"blocks.{block}.attn.hook_pattern"]  # [batch, head, query, key]
        values = self.seen[f"blocks.{block}.attn.hook_v"].float().cpu()
        values = values.view(*values.shape[:2], -1, self.lens.d_head)
        values = values.repeat_interleave(self.lens.n_heads // values.shape[2], 2)
        return self._at_last(pattern.transpose(1, 2)).transpose(1, 2)[..., None] * values


def attended(
    lens: LensModel,
    prompts: Sequence[str],
    blocks: Sequence[int],
    edit: Edit | None,
    points: list[str],
) -> Attended:
    """Return what a pass shows of some blocks' attention, and at other points."""
    names = [f"blocks.{block}.attn.hook_{name}" for block in blocks for name in ("pattern", "v")]
    found = activations(lens, prompts, [*dict.fromkeys([*points, *names])], edit=edit)
    return Attended(lens, found.seen, found.mask.sum(1) - 1)
