"""Our encoders as objects that sentence-transformers and its tools take for its own models.

Duck-typed, not subclassed: `similarity` is a property in sentence-transformers 5 and a method in 6,
and neither lets a model bring a similarity of its own. The library itself is not needed here.

A DySem similarity belongs to a pair of texts, so no vector of one text carries it under a plain
cosine. Its vectors and sets travel in one array `pack`, which `SentenceEncoder.similarity` and
`SentenceEncoder.similarity_pairwise` read.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.consensus import vectors_of
from dysem_lab.encoders.base import Encoder, require_encoder
from dysem_lab.encoders.saved import encoder_of, settings_of
from dysem_lab.encoders.settings import load_settings, save_settings
from dysem_lab.encoders.vectors import SemanticVectors, require_semantic
from dysem_lab.errors import InputError, ModelError
from dysem_lab.inputs import checked, real_number, whole_number
from dysem_lab.models.lens import LensModel
from dysem_lab.models.store import VectorStore
from dysem_lab.translation.translate import Translator

# What says that a dimension is in a text's set, and its negative that it is not. Its square is far
# below the rounding of float32, so cosines, dot products and distances of packed rows are those of
# the vectors; as no entry of a sound array is 0, halved, normalised or cut rows are recognised.
MARK = 2.0**-64

Embeddings = Tensor | np.ndarray | Sequence[Tensor] | Sequence[np.ndarray]


def pack(semantic: SemanticVectors) -> Float[Tensor, "n two_d"]:
    """Return vectors and sets as one finite array: v(x), then `MARK` for S(x) and −`MARK` else.

    Returns:
        float32 ``[n, 2d]``. The plain cosine of two rows is that of v(x) and v(y) on all d
        dimensions, so it is *not* DySem's similarity.
    """
    return torch.cat([semantic.vectors.float(), torch.where(semantic.sets, MARK, -MARK)], dim=1)


def unpack(packed: Embeddings) -> SemanticVectors:
    """Return the vectors and sets that `pack` put into an array.

    Args:
        packed: ``[n, 2d]``, or one row ``[2d]``.

    Raises:
        InputError: The second half of a row is no set.
    """
    rows = _rows(packed)
    width = rows.shape[1] // 2
    marks = rows[:, width:]
    if rows.shape[1] % 2 or not bool((marks.abs() == MARK).all()):
        raise InputError(
            f"an array of shape {tuple(rows.shape)} has no packed sets in its second half; give "
            "what encode returned, not normalised, truncated, quantised or in float16"
        )
    return SemanticVectors(rows[:, :width], marks > 0)


def sentence_encoder(
    encoder: Encoder, *, store: VectorStore | None = None, undefined: float = 0.0
) -> "SentenceEncoder":
    """Return an encoder as an object that sentence-transformers' tools take for its models.

    Args:
        encoder: `dysem_lab.DySem`, or an encoder with one vector per text, such as
            `dysem_lab.ContrastivePrompting` or `dysem_lab.encoders.base.PromptEncoder`.
        store: Where vectors are kept, so that none is computed twice.
        undefined: The similarity of a pair that has none (empty joint set, zero vector), in
            [-1, 1]: a ranking needs a number. 0 is that of orthogonal vectors, and what the
            released DySem code and sentence-transformers take; -1 ranks such pairs last. A warning
            counts them.

    Raises:
        InputError: No encoder of ours, or `undefined` out of range.
    """
    return SentenceEncoder(encoder, store=store, undefined=undefined)


class SentenceEncoder:
    """An encoder in the shape of `sentence_transformers.SentenceTransformer` (5 and 6).

    It is made by `sentence_encoder`, which says what the arguments are.

    Attributes:
        similarity_fn_name: "cosine", or "dysem".
        model_card_data: Where evaluators report; keeps nothing, as there is no model card.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        store: VectorStore | None = None,
        undefined: float = 0.0,
    ) -> None:
        """Check the arguments; no text is read yet."""
        self.encoder = require_encoder(encoder)
        value = real_number(undefined, "undefined")
        if not -1 <= value <= 1:  # NaN neither
            raise InputError(f"undefined must be a number between -1 and 1, got {undefined!r}")
        self.store, self.undefined = store, value
        self.similarity_fn_name = "cosine" if encoder.dense else "dysem"
        self.model_card_data = _NoCard()

    def __repr__(self) -> str:
        return f"SentenceEncoder({self.encoder!r})"

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        facts = self.encoder.facts
        return torch.device(facts.device if facts else "cpu")

    @property
    def max_seq_length(self) -> int | None:
        """Tokens of the longest prompt; longer ones have their text shortened, with a warning."""
        return self.encoder.max_tokens

    def get_embedding_dimension(self) -> int:
        """Return the width of an embedding: d, or 2d for the packed ones of DySem."""
        return self.encoder.width * (1 if self.encoder.dense else 2)

    get_sentence_embedding_dimension = get_embedding_dimension

    def encode(
        self,
        inputs: Sequence[str] | str | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        *,
        sentences: Sequence[str] | str | None = None,
        **kwargs: Any,
    ) -> np.ndarray | Tensor | list[Tensor]:
        """Return the embeddings of texts, float32 on the CPU, in an array unless told otherwise.

        The arguments are those of `sentence_transformers.SentenceTransformer.encode`; `sentences`
        is another name of `inputs`. What cannot be honoured is refused: a prompt but "" (it is a
        setting of the encoder), another output, precision or device than the encoder's, an option
        that is not named here, and of DySem, whose rows are packed (see `pack`), to be normalised
        or truncated. Batches are made by their number of tokens, so `batch_size` is only checked.
        Queries and documents are encoded alike: `encode_query` and `encode_document` are this.

        Returns:
            ``[n, width]``, for one text ``[width]``; without `convert_to_numpy` and
            `convert_to_tensor`, a list of n tensors.

        Raises:
            InputError: An option that cannot be honoured, an input that is no text.
        """
        if (inputs is None) == (sentences is None):
            raise InputError("encode needs texts, once: encode(['A text.'])")
        for flag in (show_progress_bar, convert_to_numpy, convert_to_tensor, normalize_embeddings):
            if not isinstance(flag, bool | int | np.bool_ | None):
                raise InputError(f"an option that is True or False cannot be {flag!r:.80}")
        for name, value in (("prompt_name", prompt_name), ("prompt", prompt)):
            if value is not None and not _is(value, ""):
                raise InputError(
                    f"{name}={value!r:.80}: the prompt is a setting of the encoder, here "
                    f"{self.encoder.name!r}; choose it there (template=…)"
                )
        if (whole_number(batch_size) or 0) <= 0:
            raise InputError(f"batch_size must be positive, got {batch_size!r:.80}")
        if not _is(output_value, "sentence_embedding"):
            raise InputError(
                f"output_value={output_value!r:.80} is not to be had, only 'sentence_embedding'; "
                "dysem_lab.capture reads single tokens"
            )
        if precision is not None and not _is(precision, "float32"):
            raise InputError(
                f"precision={precision!r:.80} is not to be had, only 'float32'; for vectors of a "
                "dense encoder use sentence_transformers.quantize_embeddings"
            )
        if device is not None and str(device) not in (str(self.device), self.device.type):
            raise InputError(
                f"device={device!r}, but the model is on {self.device}; load it there: "
                "load_model(name, device=…)"
            )
        dense, width = self.encoder.dense, self.encoder.width
        if truncate_dim is not None and not dense:
            raise InputError(
                f"truncate_dim={truncate_dim} would break DySem's packed vectors; it chooses "
                "its dimensions by k"
            )
        if truncate_dim is not None and not 1 <= (whole_number(truncate_dim) or 0) <= width:
            raise InputError(f"truncate_dim must be between 1 and {width}, got {truncate_dim!r}")
        unknown = [f"{name}={value!r}" for name, value in kwargs.items() if value is not None]
        if unknown:
            raise InputError(f"encode has no option {', '.join(unknown)} here; leave it out")
        given = sentences if inputs is None else inputs
        texts = checked([given] if isinstance(given, str) else given)  # type: ignore[arg-type]
        if normalize_embeddings and not dense:
            raise InputError(
                "normalize_embeddings=True would break DySem's packed vectors, whose similarity "
                "is a cosine already; leave it out"
            )
        encoded = self.encoder.encode(texts, store=self.store, progress=bool(show_progress_bar))
        encoded = require_semantic(encoded)  # one of your own may give something else
        rows = (encoded.vectors if dense else pack(encoded))[:, :truncate_dim]
        if normalize_embeddings:
            rows = torch.nn.functional.normalize(rows, dim=1)
        made: np.ndarray | Tensor | list[Tensor] = rows
        if not convert_to_tensor:
            made = rows.numpy() if convert_to_numpy else list(rows)
        return made[0] if isinstance(given, str) else made

    encode_query = encode_document = encode

    def similarity(
        self, embeddings1: Embeddings, embeddings2: Embeddings
    ) -> Float[Tensor, "n1 n2"]:
        """Return the encoder's similarity of every embedding of one with every one of the other.

        Both are what `encode` returned. A warning counts the pairs that have no similarity; they
        are `undefined`.
        """
        e1, e2 = self._unpacked(embeddings1), self._unpacked(embeddings2)
        return self.encoder.similarity(e1, e2, self.undefined)

    def similarity_pairwise(
        self, embeddings1: Embeddings, embeddings2: Embeddings
    ) -> Float[Tensor, " n"]:
        """Return the encoder's similarity of the i-th with the i-th; see `similarity`."""
        e1, e2 = self._unpacked(embeddings1), self._unpacked(embeddings2)
        return self.encoder.similarity_pairwise(e1, e2, self.undefined)

    def _unpacked(self, embeddings: Embeddings) -> SemanticVectors:
        return SemanticVectors(_rows(embeddings)) if self.encoder.dense else unpack(embeddings)

    def save(self, path: str | Path) -> Path:
        """Write the kind and settings of the encoder as JSON and return the file.

        The model is named, not copied; translator and store are not in it.

        Raises:
            InputError: An encoder that is not of this package, or the file cannot be written.
        """
        return save_settings(path, self._settings())

    @classmethod
    def load(
        cls,
        path: str | Path,
        lens: LensModel | None = None,
        *,
        translator: Translator | None = None,
        store: VectorStore | None = None,
    ) -> Self:
        """Return what `save` wrote, with a translator for DySem and a store for the vectors.

        The model is loaded by its name, unless it is given.

        Raises:
            InputError: The file is no such configuration, or was saved for another model.
            ModelError: The model cannot be loaded, or has other weights by now.
        """
        settings = load_settings(path, "SentenceEncoder")
        return cls._restored(settings, lens, translator, store, where=path)

    @classmethod
    def _restored(
        cls,
        settings: dict[str, Any],
        lens: LensModel | None,
        translator: Translator | None,
        store: VectorStore | None,
        device: str = "auto",
        where: str | Path = "this",
    ) -> Self:
        """Return what has these settings; errors as for `load`."""
        wrong = f"{where} is not a saved configuration of SentenceEncoder"
        if not isinstance(settings.get("undefined"), int | float):
            raise InputError(f"{wrong}: its 'undefined' is {settings.get('undefined')!r:.80}")
        encoder = encoder_of(settings, lens, translator, device, where)
        return cls(encoder, store=store, undefined=settings["undefined"])

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle a model of `load_model` by its name: it holds a lock and hooks.

        Raises:
            ModelError: A model that was built in memory.
        """
        lens = self.encoder.lens
        if lens is None:
            return super().__reduce_ex__(protocol)
        if lens.source == "in memory":
            raise ModelError(
                f"{lens.name!r} was built in memory, so no other process can load it by name; "
                "save model and tokenizer to a folder and use load_model(folder)"
            )
        given = None, self.encoder.translator, self.store, str(lens.device)
        return SentenceEncoder._restored, (self._settings(), *given)

    def _settings(self) -> dict[str, Any]:
        """Return as JSON values what `_restored` reads."""
        return {**settings_of(self.encoder), "undefined": self.undefined}


class _NoCard:
    """Takes what evaluators of sentence-transformers report to a model card, and keeps nothing."""

    def set_evaluation_metrics(self, *report: object, **more: object) -> None:
        """Do nothing."""


def _is(value: object, only: str) -> bool:
    return isinstance(value, str) and value == only  # an array would compare its elements


def _rows(embeddings: Embeddings) -> Float[Tensor, "n width"]:
    """Return embeddings as a float32 tensor with one row each."""
    if isinstance(embeddings, Tensor | np.ndarray):
        rows = embeddings
    elif not isinstance(embeddings, Sequence) or isinstance(embeddings, str):
        raise InputError(f"give what encode returned, got {type(embeddings).__name__}")
    elif not embeddings:
        raise InputError("no embeddings in the list; give what encode returned")
    else:
        parts = [vectors_of(row, f"embedding {i}") for i, row in enumerate(embeddings)]
        if len({part.shape for part in parts}) > 1:
            raise InputError("the embeddings are of several widths; give those of one encoder")
        rows = torch.stack(parts)
    rows = vectors_of(rows, "embeddings").float()
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2:
        raise InputError(f"embeddings of shape {tuple(rows.shape)}; give [n, width], from encode")
    return rows
