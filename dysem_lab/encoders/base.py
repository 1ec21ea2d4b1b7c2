"""Sentence encoders: the interface of every compared system, and the ones that are a prompt.

An encoder has the shape of a sentence-transformers model: `encode`, `similarity` and
`similarity_pairwise`. `dysem_lab.sentence_encoder` turns one into an object that libraries take for
such a model.

Over 400 lines, as the classes with a prompt stay where saved settings name them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from inspect import Parameter, signature
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.consensus import vectors_of
from dysem_lab.data.languages import LANGUAGES
from dysem_lab.display import card
from dysem_lab.encoders.settings import load_settings, save_settings
from dysem_lab.encoders.vectors import SemanticVectors, require_semantic
from dysem_lab.errors import InputError, choices
from dysem_lab.inputs import by_language, checked, one_of
from dysem_lab.joint import all_pairs_cosine, all_pairs_similarity, pairwise_similarity
from dysem_lab.models.capture import capture
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.lens import LensModel, require_model
from dysem_lab.models.passes import MAX_TOKENS
from dysem_lab.models.places import Place, output_place
from dysem_lab.models.record import Edit
from dysem_lab.models.store import VectorStore
from dysem_lab.prompts import SLOT, TEMPLATE_NAMES, metaeol, parts_of, template_parts, wrap
from dysem_lab.translation.translate import Translator

# Where the paper of a prompt reads its embedding: PromptEOL and MetaEOL after the final norm,
# Pretended CoT and Knowledge Enhancement before the last block (arXiv 2404.03921). CK, their mean,
# is read as they are; its paper reads LLaMA2-7B after 27 blocks of 32 (`dysem_lab.named_systems`).
OUTPUT_OF = {"pretended_cot": "penultimate", "knowledge": "penultimate", "ck": "penultimate"}

Encoded = SemanticVectors | Tensor | np.ndarray
GIVEN = ("self", "lens", "translator", "device")  # arguments of constructors that are no settings


class Encoder(ABC):
    """Texts in, vectors with the sets of their dimensions out, compared on the union of two sets.

    Every compared system is one. The sets of a dense encoder are full, so that its similarity is
    the plain cosine; DySem chooses its dimensions.

    Attributes:
        settings: Names of the constructor's arguments that `config` has, kept as attributes: all
            but those of `GIVEN`, unless a class says others.
        optional: Those that may be missing.
        dense: Whether every set is full, so that a text is its vector.
        needs_lens: Whether it reads a model of `dysem_lab.load_model`.
        trained: Whether it was trained for sentences.
        name: What tables call it.
        width: Number of values of a vector.
        passes: Forward passes per text, begun ones included.
        blocks: Blocks that run per text, over all passes.
        lens: The model of `dysem_lab.load_model`, if it reads one.
        facts: Of the model that it reads, if it has one.
        max_tokens: Of the longest prompt, if that is known; longer ones have their text shortened,
            with a warning.
        languages: In which a text is read beside its own.
        translator: Renders texts in these languages, if there is one.
        origin: Where weights of its own are from, if it has any.
    """

    settings: ClassVar[Sequence[str]] = ()
    optional: ClassVar[Sequence[str]] = ()
    dense: ClassVar[bool] = True
    needs_lens: ClassVar[bool] = False
    trained: ClassVar[bool] = False
    name: str
    width: int
    passes: int = 1
    blocks: int
    lens: LensModel | None = None
    facts: ModelFacts | None = None
    max_tokens: int | None = None
    languages: Sequence[str] = ()
    translator: Translator | None = None
    origin: Mapping[str, str] = MappingProxyType({})

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls) and "settings" not in vars(cls):
            several = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
            cls.settings = tuple(
                name
                for name, argument in signature(cls.__init__).parameters.items()
                if name not in (*GIVEN, *cls.optional) and argument.kind not in several
            )

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Settings as JSON values."""

    @abstractmethod
    def encode(
        self,
        texts: Sequence[str],
        *,
        language: str = "en",
        store: VectorStore | None = None,
        progress: bool = True,
    ) -> SemanticVectors:
        """Return each text's vector and set: ``[n, width]``, float32 and bool, on the CPU.

        Args:
            texts: n texts in one language.
            language: Its code: the source language of DySem (Eq. 15). A dense encoder reads a text
                as it is, in its one prompt, whatever the language.
            store: Where vectors are kept, so that none is computed twice.
            progress: Show a progress bar.

        Raises:
            InputError: An empty text, or what is no list of texts; see `dysem_lab.inputs.checked`.
        """

    def encode_renderings(
        self,
        renderings: Mapping[str, Sequence[str]],
        language: str = "en",
        *,
        store: VectorStore | None = None,
        progress: bool = True,
    ) -> SemanticVectors:
        """Return the vectors and sets of texts that are there in several languages; see `encode`.

        Texts in other languages than `language` are read by the encoders that have ``languages``.

        Raises:
            InputError: No texts in `language`, or as for `encode`.
        """
        texts = texts_in(language, renderings)
        return self.encode(texts, language=language, store=store, progress=progress)

    def similarity(
        self, e1: Encoded, e2: Encoded, undefined: float = math.nan
    ) -> Float[Tensor, "n1 n2"]:
        """Return the similarity of every text of e1 with every text of e2 (DySem Eqs. 14–17).

        Args:
            e1: What `encode` gave; to a dense encoder, vectors ``[n1, d]`` will do.
            e2: Likewise, of n2 texts.
            undefined: As for `dysem_lab.all_pairs_similarity`, as are errors and warnings.
        """
        x, y = self._compared(e1, "vx"), self._compared(e2, "vy")
        if x.full and y.full:  # the same numbers by a third of the products
            return all_pairs_cosine(x.vectors, y.vectors, undefined)
        return all_pairs_similarity(x.vectors, y.vectors, x.sets, y.sets, undefined)

    def similarity_pairwise(
        self, e1: Encoded, e2: Encoded, undefined: float = math.nan
    ) -> Float[Tensor, " n"]:
        """Return the similarity of e1[i] with e2[i] for each i; see `similarity`."""
        x, y = self._compared(e1, "vx"), self._compared(e2, "vy")
        return pairwise_similarity(x.vectors, y.vectors, x.sets, y.sets, undefined)

    def _compared(self, encoded: Encoded, name: str) -> SemanticVectors:
        if not self.dense or (isinstance(encoded, SemanticVectors) and encoded.full):
            return require_semantic(encoded)
        return SemanticVectors(vectors_of(encoded, name))

    def save(self, where: str | Path) -> Path:
        """Write the settings as JSON and return the file; a translator is not in it.

        Raises:
            InputError: The file cannot be written.
        """
        return save_settings(where, self.config)

    @classmethod
    def load(cls, where: str | Path, lens: LensModel | None = None, **given: Any) -> Self:
        """Return the encoder that `save` wrote, with what `from_config` is given besides.

        Raises:
            InputError: The file is no such configuration, or was saved for another model.
        """
        return cls.from_config(load_settings(where, cls.__name__), lens, where, **given)

    @classmethod
    def from_config(
        cls,
        config: dict[str, Any],
        lens: LensModel | None = None,
        where: str | Path = "this",
        *,
        translator: Translator | None = None,
        device: str = "auto",
    ) -> Self:
        """Return the encoder with the settings of `config`; an error calls them `where`.

        The model is of those that read one (``needs_lens``), a translator of those that have
        ``languages``, the device of those that load a model themselves.

        Raises:
            InputError: Settings of another kind or model, or one that has no meaning.
        """
        needed = ("model", *cls.settings) if cls.needs_lens else cls.settings
        wrong = f"{where} is not a saved configuration of {cls.__name__}"
        if missing := [name for name in needed if name not in config]:
            raise InputError(f"{wrong}: it has no {', '.join(missing)}")
        if unknown := [name for name in config if name not in (*needed, *cls.optional)]:
            raise InputError(f"{wrong}: it has an unknown {', '.join(unknown)}")
        arguments = dict(config)
        if cls.needs_lens:
            lens = require_model(lens)
            if (model := arguments.pop("model")) != lens.name:
                raise InputError(
                    f"these are settings of {model!r}, not of {lens.name!r}; layers of one model "
                    f"mean nothing in another, so give {cls.__name__} your own"
                )
        given = {"lens": lens, "translator": translator, "device": device}
        taken = signature(cls).parameters
        return cls(**arguments, **{name: given[name] for name in given if name in taken})

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.config.items())
        return f"{type(self).__name__}({settings})"

    def _repr_html_(self) -> str:
        cost = {"width": self.width, "passes per text": self.passes, "blocks per text": self.blocks}
        model = self.lens or self.facts
        weights = {"weights": model.weights if model else None}
        made_by = {"translator": self.translator and self.translator.name} if self.languages else {}
        return card(self.name, {**self.config, **weights, **made_by, **cost})


class View(NamedTuple):
    """One of the passes over texts whose vectors an encoder puts together.

    Attributes:
        name: What tells it from the others: a language of DySem, or a template.
        prompts: One for each text.
        edit: The change of the forward pass; None is the plain pass.
        weight: Of its vectors in v(x), the weighted sum; 0 where they only choose dimensions.
    """

    name: str
    prompts: Sequence[str]
    edit: Edit | None
    weight: float


class LensEncoder(Encoder):
    """An encoder that reads a model of `dysem_lab.load_model`."""

    needs_lens = True
    lens: LensModel
    templates: Sequence[str] = ("none",)  # what is read is the mean over their prompts
    weighted_sum: bool = True  # v(x) is the sum of what is read in the views, by their weights
    _place: Place  # what is read at

    @abstractmethod
    def __init__(self, lens: LensModel, **settings: Any) -> None:
        """Take the model; subclasses name their settings."""
        self.lens = require_model(lens)
        self.width, self.blocks = lens.d_model, lens.n_layers

    @property
    def facts(self) -> ModelFacts:  # type: ignore[override]
        """Of the model, as it is now."""
        return self.lens.facts

    @property
    def max_tokens(self) -> int:  # type: ignore[override]
        """Of the longest prompt; longer ones have their text shortened, with a warning."""
        return min(MAX_TOKENS, self.lens.n_context)

    @property
    def config(self) -> dict[str, Any]:
        """The settings and the model's name as JSON values."""
        return {
            "model": self.lens.name,
            **{setting: getattr(self, setting) for setting in self.settings},
        }

    def encode(
        self,
        texts: Sequence[str],
        *,
        language: str = "en",
        store: VectorStore | None = None,
        progress: bool = True,
    ) -> SemanticVectors:
        """Return the mean over the prompts of what is read; see `Encoder.encode`."""
        require_language(language)
        return self._encoded(self.views({language: texts}, language), store, progress)

    @property
    def place(self) -> Place:
        """The vector that is read in each pass."""
        return self._place

    def views(self, renderings: Mapping[str, Sequence[str]], language: str = "en") -> list[View]:
        """Return the passes over texts that are there in several languages.

        Args and errors are those of `encode_renderings`.
        """
        passes = list(self._passes(checked(texts_in(language, renderings))))
        return [
            View(template, prompts, edit, 1 / len(passes))
            for template, (prompts, edit) in zip(self.templates, passes, strict=True)
        ]

    def combined(
        self, views: Sequence[View], read: Float[Tensor, "views n ..."]
    ) -> SemanticVectors:
        """Return the vectors and sets of n texts from what their passes gave at `place`.

        Args:
            views: From `views`.
            read: In each of them.
        """
        return SemanticVectors(self._pooled(read.mean(0)))

    def _encoded(
        self, views: Sequence[View], store: VectorStore | None, progress: bool
    ) -> SemanticVectors:
        """Run the passes over texts; see `Encoder.encode`."""
        return self.combined(views, self.read(views, store=store, progress=progress))

    def read(
        self, views: Sequence[View], *, store: VectorStore | None = None, progress: bool = True
    ) -> Float[Tensor, "views n ..."]:
        """Return what the passes give at `place`; see `Encoder.encode`."""
        component, blocks = self.place
        read = [
            capture(
                self.lens,
                view.prompts,
                component,
                blocks,
                edit=view.edit,
                store=store,
                progress=progress,
                description=f"{self.name}, {view.name}" if len(views) > 1 else self.name,
            )[component]
            for view in views
        ]
        return torch.stack(read)

    def _passes(self, texts: Sequence[str]) -> Iterable[tuple[Sequence[str], Edit | None]]:
        """Return the prompts in each template, and the change of their forward pass."""
        return [(wrap(texts, template), None) for template in self.templates]

    def _pooled(self, read: Float[Tensor, "n ..."]) -> Float[Tensor, "n width"]:
        """Return the vectors from what was read."""
        return read


def require_language(language: object) -> None:
    """Raise `InputError` where the code of a language is none at all."""
    if not isinstance(language, str):
        raise choices("language", language, LANGUAGES)


def texts_in(language: str, renderings: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """Return the texts in one of their languages.

    Raises:
        InputError: There are none in it.
    """
    of = by_language(renderings)
    return of[one_of(language, of, "language of the texts")]


def require_encoder(encoder: object) -> Encoder:
    """Return the encoder; raise `InputError` where it is something else, such as its name."""
    if not isinstance(encoder, Encoder):
        raise InputError(
            f"encoder must be one of dysem-lab's, such as DySem(lens), got {encoder!r:.80}"
        )
    return encoder


class MeanPooling(LensEncoder):
    """The mean over all tokens of the text after the final norm; no prompt.

    Tokens that the tokenizer adds by itself, such as a BOS, are in the mean: the papers do not say
    whether theirs are.

    Args:
        lens: A loaded model.

    Source: the "mean pooling" rows of CP (arXiv 2505.12831), Table 1, and DySem, Table 1.
    """

    name = "mean pooling"

    def __init__(self, lens: LensModel) -> None:
        """Take the model."""
        super().__init__(lens)
        self._place = Place("mean")


def templates_of(template: str) -> Sequence[str]:
    """Return the templates of an encoder's prompt: one, or the two of "ck".

    Raises:
        InputError: No template of a prompt.
    """
    if isinstance(template, str) and template == "none":
        raise InputError("template 'none' has no prompt; use 'prompteol', or MeanPooling")
    known = (*TEMPLATE_NAMES, *metaeol())
    if not isinstance(template, str) or (template not in known and SLOT not in template):
        raise choices("template", template, (*TEMPLATE_NAMES, f"any string with {SLOT}"))
    for part in parts_of(template):
        template_parts(part, "english", "en")
    return parts_of(template)


class PromptEncoder(LensEncoder):
    """The residual stream at the last token of a one-word prompt.

    Args:
        lens: A loaded model.
        template: "prompteol" (arXiv 2307.16645), "pretended_cot", "knowledge" (arXiv 2404.03921),
            "ck" (the mean of these two, arXiv 2505.12831), "metaeol" (the mean of eight prompts,
            arXiv 2402.18458), or a string with ``{text}``. Means are of the vectors as they are.
        output_layer: Number of blocks after which the embedding is read, 1 to L, or "penultimate",
            "last", "final" (after the final norm); no later block runs. Or another vector of the
            last token, such as "attn.sum" (A^L) or "ffn.sum" (F^L). None is the choice of the
            template's paper: "final" for PromptEOL and MetaEOL, "penultimate" for Pretended CoT and
            Knowledge Enhancement; for CK it is that of these two.

    Raises:
        InputError: An unknown template or output layer.
    """

    def __init__(
        self, lens: LensModel, template: str = "prompteol", output_layer: int | str | None = None
    ) -> None:
        """Check the settings; no text is read yet."""
        super().__init__(lens)
        self.template, self.templates = template, templates_of(template)
        self.output_layer = (
            OUTPUT_OF.get(template, "final") if output_layer is None else output_layer
        )
        self._place = output_place(self.output_layer, lens.n_layers)
        if not isinstance(self.output_layer, str):
            self.output_layer = int(self.output_layer)  # numpy's is no JSON value
        self.name = TEMPLATE_NAMES.get(template, template)
        if self._place.component not in ("resid", "final"):  # no embedding of the paper's
            self.name += f" ({self._place})"
        self.passes = len(self.templates)
        self.blocks = self.passes * self._place.n_blocks(lens.n_layers)
