"""KV-Embedding: every token may attend to the last one, through a slot before the first.

Built from the paper's abstract and summaries: no code was released and the text could not be read.
What they leave open is a parameter with the simplest default.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dysem_lab.data.sts import demo_data
from dysem_lab.encoders.aggregation import blocks_of
from dysem_lab.encoders.base import LensEncoder, templates_of
from dysem_lab.errors import InputError, ModelError
from dysem_lab.inputs import real_number
from dysem_lab.models.capture import capture
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.lens import LensModel
from dysem_lab.models.places import Place
from dysem_lab.models.record import Edit, Hook
from dysem_lab.prompts import SLOT, wrap

TEMPLATE = f'Context : "{SLOT}" Compress the context in one word:"'
BESIDE = 1  # blocks on either side of the one with the least intrinsic dimension


def intrinsic_dimension(x: Float[Tensor, "n d"]) -> float:
    """Return the TwoNN estimate: n over the sum of log r₂/r₁, distances to the nearest two.

    Rows that equal another are left out. NaN where fewer than three are left.

    Source: Facco et al., arXiv 1803.06992, with the estimator of maximum likelihood.
    """
    distances = torch.cdist(different := torch.unique(x.double(), dim=0), different)
    if len(different) < 3:
        return math.nan
    first, second = distances.fill_diagonal_(math.inf).topk(2, largest=False).values.unbind(1)
    return len(different) / float((second / first).log().sum())


class LastTokenSlot(Edit):
    """The change of the forward pass: a slot with the last token's key and value in some blocks.

    In each of the blocks the attention of every token has one key and value more, those of the last
    token of the same block, whose key keeps the last token's position. The softmax over all of them
    is that of the plain pass and the slot's share w = σ(s + bias − log Σ exp sⱼ), so that
    z becomes (1 − w) z + w v.

    Args:
        lens: The model.
        blocks: Those with a slot.
        bias: Added to the score of the slot.
    """

    every_token = True

    def __init__(self, lens: LensModel, blocks: range, bias: float) -> None:
        """Keep the settings."""
        super().__init__(lens)
        self._blocks, self._bias = blocks, bias

    @property
    def facts(self) -> ModelFacts:
        """The model's facts under a fingerprint of its own."""
        where = [self._blocks.start, self._blocks.stop]
        label = f"KV blocks {where[0]}-{where[1]}"
        return self.lens.facts.edited(label, {"last token slot": where, "bias": self._bias})

    def hooks(
        self,
        prompts: Sequence[str],
        mask: Int[Tensor, "batch pos"],
        rows: slice = slice(None),
    ) -> list[Hook]:
        """Return the hooks on queries, keys, values, scores and z of the blocks."""
        last = mask.sum(1)[rows] - 1
        return [hook for layer in self._blocks for hook in self._of_block(layer, last, rows)]

    def _of_block(self, layer: int, last: Int[Tensor, " texts"], rows: slice) -> Iterable[Hook]:
        lens, seen = self.lens, {}
        attention = lens.bridge.blocks[layer].attn.original_component
        texts = torch.arange(len(last), device=last.device)

        def keep(name: str) -> Callable[[Tensor, object], None]:
            def read(tensor: Tensor, hook: object) -> None:
                seen[name] = tensor[rows]

            return read

        def normaliser(scores: Float[Tensor, "batch heads pos pos"], hook: object) -> None:
            seen["total"] = scores[rows].float().logsumexp(-1).transpose(1, 2)

        def of_last(x: Tensor) -> Float[Tensor, "texts heads d_head"]:
            at_last = x.reshape(*x.shape[:2], -1, lens.d_head)[texts, last]
            return at_last.repeat_interleave(lens.n_heads // at_last.shape[1], 1)

        def mixed(z: Tensor, hook: object) -> Tensor:
            if len(seen) < 4:
                raise ModelError(
                    f"{lens.name}: block {layer} shows no rotated queries and keys; KV-Embedding "
                    "cannot be computed on this architecture"
                )
            q = seen["q"].reshape(*seen["q"].shape[:2], lens.n_heads, lens.d_head).float()
            score = torch.einsum("bphd,bhd->bph", q, of_last(seen["k"]).float())
            score = score * getattr(attention, "scaling", lens.d_head**-0.5)
            if cap := getattr(attention, "attn_logit_softcapping", None):
                score = cap * torch.tanh(score / cap)
            share = torch.sigmoid(score + self._bias - seen["total"])[..., None]
            own = z[rows].reshape(q.shape)
            slot = of_last(seen["v"]).unsqueeze(1).float()
            edited = z.clone()
            edited[rows] = torch.lerp(own.float(), slot, share).to(z.dtype).reshape(z[rows].shape)
            seen.clear()
            return edited

        point = f"blocks.{layer}.attn"
        yield f"{point}.hook_rot_q", keep("q")
        yield f"{point}.hook_rot_k", keep("k")
        yield f"{point}.hook_v", keep("v")
        yield f"{point}.hook_attn_scores", normaliser
        yield f"{point}.o.hook_in", mixed

    def pooled(
        self, prompts: Sequence[str], mask: Int[Tensor, "batch pos"]
    ) -> Int[Tensor, "batch pos"]:
        """Return weights with which the mean is that of the last token and the mean of all."""
        weights = mask.clone()
        weights[torch.arange(len(mask), device=mask.device), mask.sum(1) - 1] += mask.sum(1)
        return weights


class KVEmbedding(LensEncoder):
    """Half the last token and half the mean of all, after passes with a slot of the last token.

    Built from the paper's abstract and summaries, as is said in its name.

    Args:
        lens: A loaded model.
        layers: Blocks with a slot, as for `dysem_lab.ValueAggregation`. None are the one after
            which last tokens have the least intrinsic dimension, and those beside it; measured on
            the English sentences of the demo set with the first text.
        bias: Added to the attention score of the slot.
        template: As for `dysem_lab.PromptEncoder`.

    Raises:
        InputError: Blocks that the model does not have, a bias that is no number, or an unknown
            template.

    Source: KV-Embedding, arXiv 2601.01046. Prompt, bias, position of the slot and number of blocks
    are not in what could be read.
    """

    name = "KV-Embedding (from the abstract)"

    def __init__(
        self,
        lens: LensModel,
        layers: str | Sequence[int] | None = None,
        bias: float = 0.0,
        template: str = TEMPLATE,
    ) -> None:
        """Check the settings; no text is read yet."""
        super().__init__(lens)
        self.layers = layers
        if layers is not None:
            blocks = blocks_of(layers, lens.n_layers)
            self.layers = layers if isinstance(layers, str) else [blocks.start, blocks.stop]
        self.bias = real_number(bias, "bias")
        if not math.isfinite(self.bias):
            raise InputError(f"bias must be finite, got {bias}")
        self.template, self.templates = template, templates_of(template)
        self._place, self.passes = Place("mean"), len(self.templates)
        self.blocks = self.passes * lens.n_layers

    @cached_property
    def slots(self) -> range:
        """The blocks with a slot."""
        if self.layers is not None:
            return blocks_of(self.layers, self.lens.n_layers)
        prompts = wrap([*dict.fromkeys(demo_data().texts("en"))], self.templates[0])
        states = capture(self.lens, prompts, "resid", "each", progress=False)["resid"]
        dimensions = [intrinsic_dimension(of_block) for of_block in states.unbind(1)]
        least = min(range(len(dimensions)), key=dimensions.__getitem__)
        return range(max(0, least - BESIDE), min(self.lens.n_layers, least + BESIDE + 1))

    def _passes(self, texts: Sequence[str]) -> Iterable[tuple[Sequence[str], Edit | None]]:
        edit = LastTokenSlot(self.lens, self.slots, self.bias)
        return [(wrap(texts, template), edit) for template in self.templates]
