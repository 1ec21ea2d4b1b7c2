"""The DySem estimator: texts in, semantic vectors with their consensus sets out."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.consensus import consensus_set, vectors_of
from dysem_lab.display import amount
from dysem_lab.encoders.base import LensEncoder, View, require_language, texts_in
from dysem_lab.encoders.settings import RANKINGS, VECTORS, check_settings
from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.errors import InputError
from dysem_lab.inputs import by_language, check_k, checked, one_of
from dysem_lab.models.capture import capture
from dysem_lab.models.lens import LensModel
from dysem_lab.models.places import Place
from dysem_lab.models.steering import (
    Contrast,
    Intervention,
    check_contrast,
    warn_if_alpha_is_undone,
)
from dysem_lab.models.store import VectorStore
from dysem_lab.prompts import TEMPLATE_NAMES, wrap
from dysem_lab.translation.renderings import rendered
from dysem_lab.translation.translate import Translator


def language_vectors(
    lens: LensModel,
    renderings: Mapping[str, Sequence[str]],
    components: str | Sequence[str],
    template: str = "prompteol",
    setting: str = "english",
    contrast: Contrast | None = None,
    *,
    store: VectorStore | None = None,
    progress: bool = True,
) -> dict[str, Float[Tensor, "n m d"]]:
    """Return s^(ℓ)(x): cumulative vectors of n texts in m languages, for each component.

    Args:
        lens: The model.
        renderings: Language → the n texts in it, aligned by position; of a table, a column.
        components: Names of `dysem_lab.models.places.COMPONENTS`.
        template: As for `dysem_lab.prompts.wrap`.
        setting: As for `dysem_lab.prompts.wrap`.
        contrast: An intervention of Contrastive Prompting; None is the plain prompt.
        store: As for `dysem_lab.capture`.
        progress: Show progress bars.

    Raises:
        InputError: Languages with other numbers of texts, or as for `dysem_lab.prompts.wrap`.

    Source: DySem Eqs. 9 (prompt) and 3–6 (components).
    """
    texts = {c: checked(column, f"{c} rendering") for c, column in by_language(renderings).items()}
    lengths = {code: len(column) for code, column in texts.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"languages with other numbers of texts are not aligned: {lengths}")
    edit = Intervention(lens, contrast) if contrast else None
    per_language = [
        capture(
            lens,
            wrap(column, template, setting, code),
            components,
            edit=edit,
            store=store,
            progress=progress,
            description=f"capture {code}",
        )
        for code, column in texts.items()
    ]
    return {
        name: torch.stack([acts[name] for acts in per_language], dim=1)
        for name in (per_language[0] if per_language else ())
    }


def semantic_vectors(
    vectors: Float[Tensor, "n m d"],
    source: Float[Tensor, "n d"] | None,
    k: int | float,
    *,
    vector: str = "mean",
    rank_by: str = "mean",
) -> SemanticVectors:
    """Return v(x) and S(x) of n texts from their vectors in m languages.

    Args:
        vectors: s^(ℓ)(x) in the languages of the consensus.
        source: s^(source)(x), needed for ``vector="source"``.
        k: Number of dimensions or fraction of d.
        vector: "mean" over the languages, or "source" (Eq. 15).
        rank_by: "mean" ranks by the mean over the languages (Eq. 12, the paper), "vector" by v(x)
            (the released code).

    Raises:
        InputError: Vectors of other shapes or not finite, k out of range, an unknown name, or no
            source where it is needed.
    """
    one_of(vector, VECTORS, "vector")
    one_of(rank_by, RANKINGS, "rank_by")
    vectors = vectors_of(vectors, "vectors")
    if vectors.ndim != 3 or vectors.shape[1] == 0:
        raise InputError(f"vectors must be [n, m, d] with m >= 1, got {tuple(vectors.shape)}")
    mean = vectors.mean(dim=1)
    v = mean if vector == "mean" else source
    if v is None:
        raise InputError("vector='source' needs the vectors of the source language")
    v = vectors_of(v, "the semantic vectors")
    return SemanticVectors(v, consensus_set(vectors, k, mean if rank_by == "mean" else v))


class DySem(LensEncoder):
    """Training-free sentence vectors on the dimensions that hold in every language.

    Args:
        lens: A loaded model.
        languages: Codes of the m languages 𝓛 of the consensus.
        translator: Renders texts in those languages; None works where `encode` is given the
            renderings, or where the texts' own language is the only one.
        k: Dimensions per text: an integer, or a fraction of d (1024 of 4096 in the paper is 0.25).
        component: "attn" (A^L, the paper's choice), "ffn" (F^L), "resid" (h^L), "attn_raw",
            "final".
        template: A name of `dysem_lab.prompts.TEMPLATES`, or a string with ``{text}``.
        setting: "english" puts every rendering in the English template, "language-specific" in the
            template of its language.
        vector: "mean" over the languages or "source" (Eq. 15).
        rank_by: "mean" (the paper) or "vector" (the released code).
        contrast: Contrastive Prompting on the way to s^(ℓ)(x), in the English setting; None is the
            paper's DySem. No paper combines the two.

    Raises:
        InputError: A name that does not exist, k out of range, no or repeated languages, a contrast
            that the model cannot have or in another setting than "english".

    Source: DySem, arXiv 2605.29751, Section 3, Eqs. 9–17.
    """

    optional: ClassVar[Sequence[str]] = ("contrast",)
    dense = False
    languages: tuple[str, ...]

    def __init__(
        self,
        lens: LensModel,
        languages: Sequence[str] = ("en", "zh", "fr", "de"),
        translator: Translator | None = None,
        k: int | float = 1024,
        component: str = "attn",
        template: str = "prompteol",
        setting: str = "language-specific",
        vector: str = "mean",
        rank_by: str = "mean",
        contrast: Contrast | None = None,
    ) -> None:
        """Check the settings; no text is read yet."""
        super().__init__(lens)
        languages = check_settings(languages, component, template, setting, vector, rank_by)
        self.k = check_k(k, lens.d_model)
        if translator is not None and not hasattr(translator, "name"):  # as strings have none
            raise InputError(
                f"translator must be one, such as a ParallelTable, got {translator!r:.80}"
            )
        if contrast is not None:
            check_contrast(contrast, lens)
            contrast.check_reach(Place(component), lens.n_layers)
            if setting != "english":
                raise InputError(
                    "a contrast needs setting='english': the auxiliary prompts are in English only"
                )
            warn_if_alpha_is_undone(contrast, lens)
        self.languages, self.translator = languages, translator
        self.component, self.template, self.setting = component, template, setting
        self.vector, self.rank_by, self.contrast = vector, rank_by, contrast
        components = [] if component == "attn" else [component]
        of_prompt = "LS" if setting == "language-specific" else setting
        named = ", ".join([*components, of_prompt, vector, f"m={len(languages)}"])
        steered = f" on {contrast}" if contrast else ""
        self.name = f"{TEMPLATE_NAMES.get(template, template)} + DySem ({named}){steered}"
        # Of a text in English, which is read in each language, and for v(x) in its own.
        self.passes = len({*languages, *(["en"] if vector == "source" else [])})
        self.blocks = self.passes * lens.n_layers
        if contrast and not contrast.every_token:  # auxiliary passes end after block l
            self.blocks += self.passes * (contrast.layer + 1)
            self.passes *= 2

    @property
    def config(self) -> dict[str, Any]:
        """The settings and the model's name as JSON values; the translator is not one."""
        contrast = {"contrast": asdict(self.contrast)} if self.contrast else {}
        return {**super().config, "languages": list(self.languages), **contrast}

    @classmethod
    def from_config(
        cls,
        config: dict[str, Any],
        lens: LensModel | None = None,
        where: str | Path = "this",
        **given: Any,
    ) -> Self:
        """Return the estimator; see `Encoder.from_config`."""
        if (steering := config.get("contrast")) is not None:
            names = {field.name for field in fields(Contrast)}
            if not isinstance(steering, dict) or steering.keys() != names:
                raise InputError(
                    f"{where} is not a saved configuration of DySem: its contrast needs "
                    f"{', '.join(sorted(names))}"
                )
            config = {**config, "contrast": Contrast(**steering)}
        return super().from_config(config, lens, where, **given)

    def encode(
        self,
        texts: Sequence[str],
        language: str = "en",
        renderings: Mapping[str, Sequence[str]] | pd.DataFrame | None = None,
        *,
        store: VectorStore | None = None,
        progress: bool = True,
    ) -> SemanticVectors:
        """Return v(x) and S(x) of each text.

        Args:
            texts: n texts in one language.
            language: Its code; the source language of Eq. 15.
            renderings: Ready translations, language → n texts, or a table with a column for each
                language and a row for each text; the translator makes the rest.
            store: As for `Encoder.encode`.
            progress: As for `Encoder.encode`.

        Raises:
            InputError: As for `Encoder.encode`, or renderings of another length.
            MissingTranslationError: A rendering is neither given nor to be had.
        """
        texts = checked(texts)
        require_language(language)
        given = by_language(renderings)
        return self._encoded(self.views({**given, language: texts}, language), store, progress)

    def encode_renderings(
        self,
        renderings: Mapping[str, Sequence[str]],
        language: str = "en",
        *,
        store: VectorStore | None = None,
        progress: bool = True,
    ) -> SemanticVectors:
        """Return v(x) and S(x) of each text; see `Encoder.encode_renderings`."""
        texts = texts_in(language, renderings)
        return self.encode(texts, language, renderings, store=store, progress=progress)

    @property
    def place(self) -> Place:
        """The cumulative vector that is read in each language."""
        return Place(self.component)

    def views(self, renderings: Mapping[str, Sequence[str]], language: str = "en") -> list[View]:
        """Return the passes over the renderings in each of 𝓛, and in the source where v is its.

        Args and errors are those of `encode_renderings`.
        """
        texts = checked(texts_in(language, renderings))
        of_source = self.vector == "source"
        edit = Intervention(self.lens, self.contrast) if self.contrast else None
        views = []
        for code in dict.fromkeys([*self.languages, *([language] if of_source else [])]):
            missing = (
                f"no rendering of {amount(len(texts), 'text')} (such as "
                f"{texts[0] if texts else ''!r}) in {code!r}: give DySem a translator, "
                f"give encode the renderings, or use languages=({language!r},)"
            )
            in_code = rendered(texts, language, code, renderings, self.translator, missing)
            prompts = wrap(in_code, self.template, self.setting, code)
            weight = float(code == language) if of_source else 1 / len(self.languages)
            views.append(View(code, prompts, edit, weight))
        return views

    def combined(self, views: Sequence[View], read: Float[Tensor, "views n d"]) -> SemanticVectors:
        """Return v(x) and S(x) from s^(ℓ)(x); see `semantic_vectors`."""
        source = None
        if self.vector == "source":
            source = read[[view.weight for view in views].index(1)]
        of_languages = read[: len(self.languages)].transpose(0, 1).contiguous()
        settings = {"vector": self.vector, "rank_by": self.rank_by}
        return semantic_vectors(of_languages, source, self.k, **settings)
