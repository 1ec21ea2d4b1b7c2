"""Changes of vectors that are fitted on other texts: controls that any encoder takes."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.data.fit_texts import FitTexts, fit_texts
from dysem_lab.display import amount
from dysem_lab.encoders.base import Encoder, texts_in
from dysem_lab.encoders.maps import (
    FITTED,
    PROJECTIONS,
    WITH_K,
    Map,
    directions_of,
    fitted,
    random_rotation,
    rotated,
)
from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.errors import InputError
from dysem_lab.inputs import checked, one_of, seed_of
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.lens import LensModel
from dysem_lab.models.store import VectorStore
from dysem_lab.translation.translate import Translator

BEFORE_SETS = ("per_language", "rotation")  # of what dimensions are chosen from
KINDS = (*FITTED, *BEFORE_SETS)


class Transform:
    """A change of vectors that is fitted on other texts, and applied to any encoder.

    ``dl.Transform("centre", fit="demo")(encoder)`` is an encoder, whose name says what it was
    fitted on. The kinds are those of `dysem_lab.encoders.maps.fitted`, and two that come before
    DySem chooses its sets: "per_language", s^(ℓ)(x) − μ_ℓ, and "rotation", x ↦ xQ with a random
    orthogonal Q. The others change the vectors and leave DySem's sets; "pca" and "whitening" have
    other coordinates, in which those sets mean nothing, and are for encoders whose sets are full.

    Args:
        kind: A name of `KINDS`.
        fit: Texts that are never those compared: a source of `dysem_lab.load_data`, loaded pairs,
            language → texts, or texts in one language. A rotation has none; the others need 2
            different texts at least, "z" 4, k principal directions k + 1, a whitening k + 3
            (`dysem_lab.encoders.maps.fewest_texts` says why).
        k: Principal directions that are removed ("all_but_the_top", 3) or kept ("pca",
            "whitening", which need it).
        seed: Of the rotation.

    Raises:
        InputError: An unknown kind, k where it has no meaning, or none where it is needed.

    Source: see `dysem_lab.encoders.maps.fitted`; per language: arXiv 2004.05160; the rotation is a
    control of our own.
    """

    def __init__(
        self, kind: str, fit: object = "demo", *, k: int | None = None, seed: int = 0
    ) -> None:
        """Check the settings; nothing is fitted yet."""
        self.kind, self.fit = one_of(kind, KINDS, "transform"), fit
        if k is not None and kind not in WITH_K:
            raise InputError(f"k={k!r} goes with {', '.join(WITH_K)}, not with {kind!r}")
        self.k = directions_of(kind, k)
        self.seed = seed_of(seed)

    def __repr__(self) -> str:
        return f"Transform({self.kind!r})"

    def label(self, of: str) -> str:
        """Return what is added to an encoder's name; `of` names the fitting texts."""
        directions = amount(self.k, "principal direction")
        return {
            "centre": f"centred on {of}",
            "z": f"z-scored on {of}",
            "mean_direction": f"without the mean direction of {of}",
            "all_but_the_top": f"without the mean and {directions} of {of}",
            "pca": f"on {directions} of {of}",
            "whitening": f"whitened to {directions} of {of}",
            "per_language": f"centred per language on {of}",
            "rotation": f"rotated at random, seed {self.seed}",
        }[self.kind]

    def __call__(
        self,
        encoder: Encoder,
        *,
        language: str = "en",
        store: VectorStore | None = None,
        progress: bool = True,
    ) -> "Transformed":
        """Fit on the texts as the encoder sees them, and return the encoder with the change.

        Args:
            encoder: Any encoder.
            language: The fitting texts' own.
            store: As for `Encoder.encode`.
            progress: As there.

        Raises:
            InputError: As for `fitted` and `fit_texts`, or a change that this encoder cannot have.
        """
        if not isinstance(encoder, Encoder):
            raise InputError(f"a transform takes an encoder, got {encoder!r:.80}")
        if not encoder.dense and self.kind in PROJECTIONS:
            raise InputError(
                f"{self.kind!r} has other coordinates than those that {encoder.name} chooses its "
                "sets from; use it with an encoder whose sets are full, or use 'rotation'"
            )
        chooses = not encoder.dense and self.kind in BEFORE_SETS
        if chooses and not hasattr(encoder, "views"):
            raise InputError(
                f"{self.kind!r} comes before the sets are chosen, which {encoder.name} does not "
                "offer; use it with DySem"
            )
        read: dict[str, Any] = {"store": store, "progress": progress}
        if self.kind == "rotation":
            return Transformed(encoder, self, None, language, self._rotate(encoder))
        texts = fit_texts(self.fit, encoder.languages, language)
        if self.kind == "per_language":
            means = _means(encoder, texts.renderings, language, **read)
            return Transformed(encoder, self, texts, language, means)
        vectors = encoder.encode_renderings(texts.renderings, language, **read).vectors
        return Transformed(encoder, self, texts, language, fitted(self.kind, vectors, self.k))

    def _rotate(self, encoder: Encoder) -> Map:
        rotation = random_rotation(encoder.width, self.seed)
        return lambda vectors: rotated(vectors, rotation)


def _means(
    encoder: Encoder, renderings: Mapping[str, Sequence[str]], language: str, **read: Any
) -> dict[str, Float[Tensor, " d"]]:
    """Return μ_ℓ: the mean vector of the fitting texts in each language."""
    if encoder.dense:
        return {
            code: encoder.encode(texts, language=code, **read).vectors.double().mean(0)
            for code, texts in renderings.items()
        }
    read_in: Any = encoder  # one that `Transform` knows to be of a model's passes
    views = read_in.views(renderings, language)
    means = read_in.read(views, **read).double().mean(1)
    return dict(zip([view.name for view in views], means, strict=True))


class Transformed(Encoder):
    """An encoder whose vectors are changed; made by `Transform`.

    Args:
        encoder: The encoder.
        transform: The change.
        fit: The texts that it was fitted on; None is none.
        language: Their own.
        change: Of the vectors; or the mean of each language.
    """

    def __init__(
        self,
        encoder: Encoder,
        transform: Transform,
        fit: FitTexts | None,
        language: str,
        change: Map | Mapping[str, Tensor],
    ) -> None:
        """Put the change where it belongs: on the vectors, or before sets are chosen."""
        self.transform, self.fit = transform, fit
        self.label = transform.label(fit.name if fit else "")
        self.name = f"{encoder.name}, {self.label}"
        self.width = transform.k if transform.kind in PROJECTIONS else encoder.width
        self.passes, self.blocks = encoder.passes, encoder.blocks
        self.languages = encoder.languages
        self._change, self._before = change, not encoder.dense and transform.kind in BEFORE_SETS
        self._fitted_on = set(fit.renderings[language]) if fit else set()
        self.encoder = encoder

    @property
    def dense(self) -> bool:  # type: ignore[override]
        """Whether every set is full."""
        return self.encoder.dense

    @property
    def trained(self) -> bool:  # type: ignore[override]
        """Whether the encoder was trained for sentences: to change its vectors trains nothing."""
        return self.encoder.trained

    @property
    def lens(self) -> LensModel | None:  # type: ignore[override]
        """The model of the encoder, if it reads one."""
        return self.encoder.lens

    @property
    def facts(self) -> ModelFacts | None:  # type: ignore[override]
        """Of the encoder's model, with the change and what it was fitted on."""
        facts = self.encoder.facts
        return facts.edited(self.label, self._settings) if facts else None

    @property
    def max_tokens(self) -> int | None:  # type: ignore[override]
        """Of the longest prompt."""
        return self.encoder.max_tokens

    @property
    def translator(self) -> Translator | None:  # type: ignore[override]
        """That of the encoder."""
        return self.encoder.translator

    @property
    def origin(self) -> Mapping[str, str]:  # type: ignore[override]
        """Where the weights of its encoder are from."""
        return self.encoder.origin

    @property
    def _settings(self) -> dict[str, Any]:
        fit = {"fit": self.fit.name, "fit_digest": self.fit.digest} if self.fit else {}
        transform = self.transform
        own = {}
        if transform.kind in WITH_K:
            own["k"] = transform.k
        if transform.kind == "rotation":
            own["seed"] = transform.seed
        return {"transform": transform.kind, **own, **fit}

    @property
    def config(self) -> dict[str, Any]:
        """The encoder's settings, the change, and what it was fitted on, as JSON values.

        Where both have a setting of one name, as of two changes or k, "of" has the encoder's.
        """
        inner, own = self.encoder.config, self._settings
        nested = {"of": inner} if inner.keys() & own.keys() else {}
        return {"encoder": type(self.encoder).__name__, **inner, **own, **nested}

    @classmethod
    def from_config(cls, *given: Any, **named: Any) -> NoReturn:
        """Raise `InputError`: what a transform was fitted on is not in its settings."""
        raise InputError(
            "a transform is fitted anew: load its encoder, and give it to dl.Transform(…)"
        )

    def encode(
        self,
        texts: Sequence[str],
        *,
        language: str = "en",
        store: VectorStore | None = None,
        progress: bool = True,
    ) -> SemanticVectors:
        """Return the encoder's vectors, changed; see `Encoder.encode`.

        Warns:
            UserWarning: How many of the texts are among those that the change was fitted on.
        """
        return self.encode_renderings({language: texts}, language, store=store, progress=progress)

    def encode_renderings(
        self,
        renderings: Mapping[str, Sequence[str]],
        language: str = "en",
        *,
        store: VectorStore | None = None,
        progress: bool = True,
    ) -> SemanticVectors:
        """Return the encoder's vectors, changed; see `Encoder.encode_renderings` and `encode`."""
        texts = checked(texts_in(language, renderings))
        if among := sum(text in self._fitted_on for text in texts):
            warnings.warn(
                f"{among} of {len(texts)} texts are among those that {self.transform.kind!r} was "
                "fitted on; fit on texts that are not compared",
                stacklevel=2,
            )
        encoder: Any = self.encoder
        read: dict[str, Any] = {"store": store, "progress": progress}
        if self._before:
            views = encoder.views(renderings, language)
            vectors = encoder.read(views, **read).transpose(0, 1)
            changed = self._of_languages(vectors, [view.name for view in views])
            return encoder.combined(views, changed.transpose(0, 1))
        encoded = encoder.encode_renderings(renderings, language, **read)
        if isinstance(self._change, Mapping):
            vectors = self._of_languages(encoded.vectors[:, None], [language])[:, 0]
        else:
            vectors = self._change(encoded.vectors)
        return SemanticVectors(vectors, *([] if encoded.full else [encoded.sets]))

    def _of_languages(
        self, vectors: Float[Tensor, "n m d"], codes: Sequence[str]
    ) -> Float[Tensor, "n m d"]:
        """Return s^(ℓ)(x) after the change: what sets are chosen from."""
        if not isinstance(self._change, Mapping):
            return self._change(vectors)
        for code in codes:
            if code not in self._change:
                raise InputError(
                    f"no fitting texts in {code!r}, only in {', '.join(self._change)}; give them "
                    "as fit={language: texts}"
                )
        means = torch.stack([self._change[code] for code in codes])
        return (vectors.double() - means).to(vectors.dtype)
