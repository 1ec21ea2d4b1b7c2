"""Value aggregation: sentence vectors from the value vectors of attention, without the stream."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from dysem_lab.encoders.base import LensEncoder
from dysem_lab.errors import InputError, choices
from dysem_lab.inputs import one_of, whole_number
from dysem_lab.models.lens import LensModel
from dysem_lab.models.places import Place
from dysem_lab.prompts import parts_of, template_parts

# Variant → (name, component that is read, default template).
VARIANTS = {
    "va": ("VA", "value_mean", "none"),
    "wva": ("WVA", "z", "prompteol"),
    "aligned_wva": ("AlignedWVA", "attn_raw", "prompteol"),
}


class ValueAggregation(LensEncoder):
    """The mean over blocks of value vectors v, weighted value vectors z, or attention outputs.

    Args:
        lens: A loaded model.
        variant: "va" is the mean over all tokens of the value vectors, grouped heads once
            ``[n_kv_heads * d_head]``; "wva" weighs them by the last token's attention, which is z
            ``[n_heads * d_head]``; "aligned_wva" maps that by W_O into the residual stream, which
            is the attention output ``[d]`` before a post-attention norm where there is one.
        layers: "second_half" (blocks L // 2 to L - 1), "all", or (first, stop), 0-based. The
            abstract does not say which; the authors' released code for the trained variant takes
            the second half.
        template: A prompt as for `dysem_lab.PromptEncoder`, or "none" for the bare text. None is
            "none" for "va" and "prompteol" for the others, with which DySem compares.

    Raises:
        InputError: Unknown names, blocks that the model does not have.

    Source: arXiv 2602.01572. Only its abstract and the released code of its trained variant could
    be read, so layers and prompts are parameters here; DySem's Tables 1 and 5 have scores.
    """

    def __init__(
        self,
        lens: LensModel,
        variant: str = "aligned_wva",
        layers: str | Sequence[int] = "second_half",
        template: str | None = None,
    ) -> None:
        """Check the settings; no text is read yet."""
        super().__init__(lens)
        self.name, component, default = VARIANTS[one_of(variant, VARIANTS, "variant")]
        self.variant = variant
        self.template = default if template is None else template
        self.templates = parts_of(self.template)
        for part in self.templates:
            template_parts(part, "english", "en")
        blocks = blocks_of(layers, lens.n_layers)
        self.layers = layers if isinstance(layers, str) else [blocks.start, blocks.stop]
        self._place, self._n_summed = Place(component, blocks), len(blocks)
        self.passes = len(self.templates)
        self.blocks = self.passes * blocks.stop
        heads = {"va": lens.n_kv_heads, "wva": lens.n_heads}
        self.width = heads[variant] * lens.d_head if variant in heads else lens.d_model

    def _pooled(self, read: Float[Tensor, "n ..."]) -> Float[Tensor, "n width"]:
        return read.reshape(len(read), self.width) / self._n_summed


def blocks_of(layers: str | Sequence[int], n_layers: int) -> range:
    """Return the blocks that "second_half", "all" or (first, stop) stand for.

    Raises:
        InputError: Another name, or blocks that a model of so many does not have.
    """
    named = {"second_half": range(n_layers // 2, n_layers), "all": range(n_layers)}
    if isinstance(layers, str):
        if layers not in named:
            raise choices("layers", layers, (*named, "(first, stop)"))
        return named[layers]
    bounds = [whole_number(bound) for bound in layers] if isinstance(layers, tuple | list) else []
    match bounds:
        case [int(first), int(stop)] if 0 <= first < stop <= n_layers:
            return range(first, stop)
    raise InputError(
        f"layers must be (first, stop) with 0 <= first < stop <= {n_layers}, got {layers}"
    )
