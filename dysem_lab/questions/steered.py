"""Texts whose contrast moves: all that it does not change is run once, and kept."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.display import Progress, silent
from dysem_lab.encoders.contrastive import check_output
from dysem_lab.errors import InputError
from dysem_lab.inputs import checked
from dysem_lab.models.last_token import Prefix, prefixes, record_edits
from dysem_lab.models.lens import LensModel
from dysem_lab.models.places import Place, output_place
from dysem_lab.models.record import Edit, finite
from dysem_lab.models.steering import (
    POSITIONS,
    AuxiliaryVectors,
    Contrast,
    Intervention,
    check_contrast,
)
from dysem_lab.prompts import wrap


class Steered(NamedTuple):
    """What a text and the probes give under one contrast, or plain.

    Attributes:
        probabilities: Of the next token after the text's prompt, float32 ``[n_tokens]``.
        vectors: The embedding of the text and then of each probe, float32 ``[1 + n_probes, d]``.
    """

    probabilities: Float[Tensor, " n_tokens"]
    vectors: Float[Tensor, "n d"]


class SteeredTexts:
    """Texts under one prompt, with everything kept that a contrast does not change.

    A contrast changes the last token only. So all tokens before it are run once, each auxiliary
    prompt once for all blocks and positions, and a setting costs one pass of the last tokens. Norm
    "self_scaling", which changes every token, and a model whose beginnings cannot be shared cost a
    whole pass.

    Args:
        lens: The model.
        texts: The text, and then the probes.
        template: As for `dysem_lab.wrap`; a prompt, and one alone.
        progress: Called between the passes.

    Raises:
        InputError: An empty text, an unknown template, or one that is no single prompt.
    """

    def __init__(
        self,
        lens: LensModel,
        texts: Sequence[str],
        template: str = "prompteol",
        progress: Progress = silent,
    ) -> None:
        """Run the tokens that no contrast changes."""
        if template == "none":
            raise InputError("template 'none' has no prompt to contrast; use 'prompteol'")
        self.lens, self.texts, self.template = lens, checked(texts), template
        self._prompts = wrap(self.texts, template)
        self._auxiliary: dict[str, AuxiliaryVectors] = {}
        self._plain: dict[Place, Steered] = {}
        self._prefixes: list[Prefix] = []
        for prefix in prefixes(lens, self._prompts):
            progress(len(self._prefixes), len(self._prefixes) + 1, "Reading")
            self._prefixes.append(prefix)

    def read(
        self, contrast: Contrast | None = None, output_layer: int | str = "penultimate"
    ) -> Steered:
        """Return the prediction and the embeddings under a contrast; None is the plain prompt.

        Args:
            contrast: The intervention.
            output_layer: As for `dysem_lab.ContrastivePrompting`.

        Raises:
            InputError: A block or head that the model does not have, or an output layer that is
                before the contrast.
            ModelError: A vector or the prediction is not finite.
        """
        n_layers = self.lens.n_layers
        edit = Edit(self.lens)
        if contrast is None:
            place = output_place(output_layer, n_layers)
            if place in self._plain:
                return self._plain[place]
        else:
            edit = Intervention(self.lens, contrast, self._auxiliary_of(contrast))
            place = check_output(output_layer, contrast, n_layers)
        vectors = torch.empty(len(self.texts), self.lens.d_model)
        for prefix in self._prefixes:
            (read,) = record_edits(self.lens, prefix, {"": edit}, [place], logits=True).values()
            vectors[prefix.rows] = read.vectors[place]
            if read.logits is not None and 0 in prefix.rows:
                prediction = read.logits[prefix.rows.index(0)]
        finite(self.lens, "the prediction", prediction)
        result = Steered(prediction.softmax(-1), vectors)
        if contrast is None:
            self._plain[place] = result
        return result

    def _auxiliary_of(self, contrast: Contrast) -> AuxiliaryVectors | None:
        """Return the vectors of an auxiliary prompt, read at all blocks and positions at once."""
        check_contrast(contrast, self.lens)
        name = contrast.auxiliary
        if contrast.every_token:
            return None
        if name not in self._auxiliary:
            places = itertools.product(range(self.lens.n_layers), POSITIONS)
            everywhere = [Contrast(block, position=p, auxiliary=name) for block, p in places]
            self._auxiliary[name] = AuxiliaryVectors(self.lens, everywhere)
            self._auxiliary[name](self._prompts, contrast)
        return self._auxiliary[name]
