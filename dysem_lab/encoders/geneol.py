"""GenEOL: the mean over a text and texts that say the same."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.data.languages import paraphrase_codes
from dysem_lab.display import amount
from dysem_lab.encoders.base import PromptEncoder, View, texts_in
from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.errors import InputError
from dysem_lab.inputs import at_least, checked
from dysem_lab.models.lens import LensModel
from dysem_lab.models.store import VectorStore
from dysem_lab.translation.paraphrases import N_WRITTEN, Paraphrases, source_of
from dysem_lab.translation.renderings import rendered


class GenEOL(PromptEncoder):
    """The mean of one-word prompt embeddings over a text and its paraphrases.

    The paper has an instruction-tuned model write transformations that keep the meaning:
    paraphrases, summaries, and both in turn. Here they are given, as translations are: by a table,
    or by a translator that asks such a model for the renderings "en-1", "en-2", … of a text in
    "en". Its published scores are of transformations by a model, not of any that are given here.

    Args:
        lens: A loaded model.
        n_paraphrases: Transformations per text.
        translator: Has or makes them, as for `dysem_lab.paraphrased`; None works where
            `encode_renderings` is given them by their codes.
        template: As for `dysem_lab.PromptEncoder`; the mean is over its prompts too.
        output_layer: As for `dysem_lab.PromptEncoder`.
        normalized: Each embedding is divided by its length before the mean.

    Raises:
        InputError: No transformations, a translator that is none, or as for
            `dysem_lab.PromptEncoder`.

    Source: GenEOL, arXiv 2410.14635: text and transformations averaged; several prompts, layer and
    normalisation are options of the released code.
    """

    def __init__(
        self,
        lens: LensModel,
        n_paraphrases: int = N_WRITTEN,
        translator: Paraphrases | None = None,
        template: str = "prompteol",
        output_layer: int | str | None = None,
        normalized: bool = False,
    ) -> None:
        """Check the settings; no text is read yet."""
        super().__init__(lens, template, output_layer)
        self.n_paraphrases = at_least(n_paraphrases, 1, "n_paraphrases")
        if not isinstance(normalized, bool):
            raise InputError(f"normalized must be True or False, got {normalized!r:.200}")
        self.translator = None if translator is None else source_of(translator)
        self.normalized, self.weighted_sum = normalized, not normalized
        self.languages = paraphrase_codes(self.n_paraphrases)
        of_unit = ", normalised" if normalized else ""
        self.name += f" + GenEOL ({self.n_paraphrases} paraphrases{of_unit})"
        self.passes *= 1 + self.n_paraphrases
        self.blocks *= 1 + self.n_paraphrases

    def encode_renderings(
        self,
        renderings: Mapping[str, Sequence[str]],
        language: str = "en",
        *,
        store: VectorStore | None = None,
        progress: bool = True,
    ) -> SemanticVectors:
        """Return the vectors of texts whose paraphrases are among the renderings, or are made.

        Args and errors are those of `Encoder.encode_renderings`.

        Raises:
            MissingTranslationError: A paraphrase is neither given nor to be had.
        """
        return self._encoded(self.views(renderings, language), store, progress)

    def views(self, renderings: Mapping[str, Sequence[str]], language: str = "en") -> list[View]:
        """Return the passes over the texts and each of their paraphrases, in each template.

        Args and errors are those of `encode_renderings`.
        """
        texts = checked(texts_in(language, renderings))
        found = []
        for code in [language, *paraphrase_codes(self.n_paraphrases, language)]:
            missing = (
                f"no paraphrase {code!r} of {amount(len(texts), 'text')} (such as "
                f"{texts[0] if texts else ''!r}): give GenEOL a table or translator that has it, "
                "or pairs of dysem_lab.paraphrased"
            )
            column = rendered(texts, language, code, renderings, self.translator, missing)
            for template, (prompts, edit) in zip(self.templates, self._passes(column), strict=True):
                name = code if len(self.templates) == 1 else f"{code}, {template}"
                found.append(View(name, prompts, edit, 1 / self.passes))
        return found

    def combined(self, views: Sequence[View], read: Float[Tensor, "views n d"]) -> SemanticVectors:
        """Return the mean over the passes, of unit vectors where that was asked."""
        if self.normalized:
            read = torch.nn.functional.normalize(read, dim=-1)
        return super().combined(views, read)
