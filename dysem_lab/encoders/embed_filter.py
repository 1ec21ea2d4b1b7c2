"""EmbedFilter: what is left of an embedding between the ends of the unembedding's spectrum."""

from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.encoders.base import PromptEncoder
from dysem_lab.errors import InputError
from dysem_lab.inputs import at_least
from dysem_lab.models.lens import LensModel

ROWS = 8192  # of the unembedding that are held in float64 at once: 270 MB with d = 4096


def spectrum(unembedding: Float[Tensor, "vocabulary d"]) -> Float[Tensor, "d d"]:
    """Return the right singular vectors of a matrix as columns, by falling singular value.

    They are the eigenvectors of W_Uᵀ W_U, float64 on the CPU. Their signs mean nothing.
    """
    width = unembedding.shape[1]
    gram = torch.zeros(width, width, dtype=torch.float64)
    for rows in unembedding.detach().split(ROWS):
        part = rows.cpu().double()
        gram += part.T @ part
    return torch.linalg.eigh(gram).eigenvectors.flip(1)


class EmbedFilter(PromptEncoder):
    """A one-word prompt embedding after the final norm, on the middle of W_U's spectrum.

    The embedding's coordinates are those along right singular vectors of the unembedding W_U
    ``[vocabulary, d]``; of the d, ordered by singular value, the middle f = d // ratio are kept.

    Args:
        lens: A loaded model.
        ratio: d over the dimensions that are kept; 1 keeps all and changes no cosine.
        template: As for `dysem_lab.PromptEncoder`.

    Raises:
        InputError: A ratio below 1 or above d, or as for `dysem_lab.PromptEncoder`.

    Source: EmbedFilter, arXiv 2606.07502, and its released code; the paper uses ratios of 2 and
    more.
    """

    weighted_sum = False  # its coordinates are others than the stream's

    def __init__(self, lens: LensModel, ratio: int = 2, template: str = "prompteol") -> None:
        """Check the settings; the unembedding is read with the first text."""
        super().__init__(lens, template, "final")
        self.ratio = at_least(ratio, 1, "ratio")
        if self.ratio > lens.d_model:
            raise InputError(f"ratio must be at most d = {lens.d_model}, got {ratio}")
        self.width = lens.d_model // self.ratio
        self.name += f" + EmbedFilter (d/{self.ratio})"

    @cached_property
    def basis(self) -> Float[Tensor, "d f"]:
        """The middle right singular vectors of W_U, float64 on the CPU."""
        first = (self.lens.d_model - self.width) // 2
        head = self.lens.bridge.original_model.get_output_embeddings()
        return spectrum(head.weight)[:, first : first + self.width]

    def _pooled(self, read: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        return (read.double() @ self.basis).to(read.dtype)
