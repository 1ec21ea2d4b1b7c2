"""A corpus to look at dimensions in: its texts, and their vectors in every language and setting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dysem_lab.attribution import shares_of_mean_cosine
from dysem_lab.consensus import consensus_set, resolve_k
from dysem_lab.display import Progress, amount, silent
from dysem_lab.encoders.dysem import DySem, language_vectors
from dysem_lab.errors import InputError
from dysem_lab.inputs import by_language, checked, one_of
from dysem_lab.models.lens import LensModel
from dysem_lab.models.readout import READ
from dysem_lab.prompts import SETTINGS, TEMPLATES
from dysem_lab.questions.causal_sets import rotation
from dysem_lab.questions.grid import check_ms
from dysem_lab.questions.study import Study
from dysem_lab.translation.renderings import rendered

N_ROTATIONS = 20


class Measured(NamedTuple):
    """What is measured of each dimension of a corpus, or of its rotations, the largest first there.

    Attributes:
        frequency: Share of the texts whose S(x) has it.
        share: Of the mean cosine of two texts' v, the mean over the languages.
    """

    frequency: Float[Tensor, "*rotations d"]
    share: Float[Tensor, "*rotations d"]


@dataclass(eq=False)
class Corpus:
    """Texts and their vectors, for looking at dimensions.

    Attributes:
        lens: The model.
        texts: n different texts in one language.
        languages: Codes of the m languages.
        vectors: (setting, component) → s^(ℓ) of each text, float32 ``[n, m, d]``.
        said: What is said of the data: its name, where it has one, and the number of texts.
        label: The data in a file name.
    """

    lens: LensModel
    texts: list[str]
    languages: tuple[str, ...]
    vectors: Mapping[tuple[str, str], Float[Tensor, "n m d"]]
    said: str
    label: str = "texts"
    _sets: dict[tuple[object, ...], Tensor] = field(default_factory=dict, repr=False)
    _rotated: dict[tuple[object, ...], Measured] = field(default_factory=dict, repr=False)

    @property
    def settings(self) -> list[str]:
        """The prompt settings that were captured."""
        return list(dict.fromkeys(setting for setting, _ in self.vectors))

    @property
    def components(self) -> list[str]:
        """The components that were captured."""
        return list(dict.fromkeys(component for _, component in self.vectors))

    def read(self, component: str, setting: str, m: int) -> Float[Tensor, "n m d"]:
        """Return s^(ℓ) of each text in the first m languages.

        Raises:
            InputError: A name that the corpus does not have, or m out of range.
        """
        one_of(setting, self.settings, "prompt setting of this corpus")
        one_of(component, self.components, "component of this corpus")
        check_ms([m], len(self.languages))
        return self.vectors[setting, component][:, :m]

    def sets(self, component: str, setting: str, m: int, k: int | float) -> Bool[Tensor, "n d"]:
        """Return S(x) of each text (DySem Eqs. 11-13); the last ones are kept.

        Raises:
            InputError: As for `read`, or k out of range.
        """
        key = (component, setting, m, resolve_k(k, self.lens.d_model))
        if key not in self._sets:
            self._sets.clear()
            self._sets[key] = consensus_set(self.read(component, setting, m), key[-1])
        return self._sets[key]

    def measured(self, component: str, setting: str, m: int, k: int | float) -> Measured:
        """Return what is measured of each dimension.

        Raises:
            InputError: As for `sets`.
        """
        vectors = self.read(component, setting, m)
        return _measured(vectors, self.sets(component, setting, m, k))

    def rotated(self, component: str, setting: str, m: int, k: int | float) -> Measured:
        """Return the same of `N_ROTATIONS` random rotations of the space, each sorted.

        The dimensions of a rotation are directions at random, of which S(x) is chosen in the same
        way: no one of them is a dimension of the corpus, but each has a place. The last ones are
        kept.

        Raises:
            InputError: As for `sets`.
        """
        vectors = self.read(component, setting, m)
        key = (component, setting, m, resolve_k(k, self.lens.d_model))
        if key not in self._rotated:
            # Of a rotation only what it makes of the vectors' span is needed.
            span, coordinates = torch.linalg.qr(vectors.flatten(0, 1).T.double())
            found = []
            for seed in range(N_ROTATIONS):
                frame = rotation(len(span), seed, span.shape[1]).double()
                turned = (coordinates.T @ frame.T).float().view_as(vectors)
                of = _measured(turned, consensus_set(turned, key[-1]))
                found.append([values.sort(descending=True).values for values in of])
            self._rotated.clear()
            self._rotated[key] = Measured(*map(torch.stack, zip(*found, strict=True)))
        return self._rotated[key]


def _measured(vectors: Float[Tensor, "n m d"], sets: Bool[Tensor, "n d"]) -> Measured:
    return Measured(sets.float().mean(0), shares_of_mean_cosine(vectors.mean(1)).float())


def read_corpus(
    source: DySem | Study,
    texts: Sequence[str] | str | None = None,
    renderings: Mapping[str, Sequence[str]] | None = None,
    *,
    language: str = "en",
    progress: Progress = silent,
) -> Corpus:
    """Return the vectors of a corpus.

    Args:
        source: An estimator, whose model, languages, template, contrast and translator are used; or
            a study, whose model, first template, settings and components are.
        texts: The texts, for an estimator; the name of a task, for a study (None is its first).
        renderings: Language → the texts in it, for an estimator; its translator makes the rest.
        language: The texts' own, for an estimator.
        progress: Called between batches.

    Raises:
        InputError: No texts.
        MissingTranslationError: A rendering is neither given nor to be had.
    """
    if isinstance(source, Study):
        return _of_study(source, texts, progress)
    if not isinstance(source, DySem):
        raise InputError(f"a corpus is of a dl.DySem or a dl.Study, got {source!r:.80}")
    texts = checked(() if texts is None else texts)
    if not texts:
        raise InputError("texts is empty; give a corpus of one or more")
    unique, rendered_in = (
        list(dict.fromkeys(texts)),
        _renderings(source, texts, renderings, language, progress),
    )
    free = source.template not in TEMPLATES or source.contrast is not None
    settings = SETTINGS[:1] if free else SETTINGS
    vectors = {}
    for i, setting in enumerate(settings):
        parts = []
        for j, (code, in_it) in enumerate(rendered_in.items()):
            progress(i * len(rendered_in) + j, len(settings) * len(rendered_in), "Reading")
            parts.append(
                language_vectors(
                    source.lens,
                    {code: in_it},
                    READ,
                    source.template,
                    setting,
                    source.contrast,
                    progress=False,
                )
            )
        for name in READ:
            vectors[setting, name] = torch.cat([part[name] for part in parts], dim=1)
    return Corpus(source.lens, unique, source.languages, vectors, amount(len(unique), "text"))


def _renderings(
    dysem: DySem,
    texts: Sequence[str],
    renderings: Mapping[str, Sequence[str]] | None,
    language: str,
    progress: Progress,
) -> dict[str, list[str]]:
    """Return language → the different texts in it."""
    unique = list(dict.fromkeys(texts))
    rows = [texts.index(text) for text in unique]
    given, found = by_language(renderings), {}
    for code in dysem.languages:
        if code in given and code != language:  # aligned with all texts, the same ones again too
            column = rendered(texts, language, code, given, None, "")
            found[code] = [column[row] for row in rows]
            continue
        if code != language and dysem.translator:
            progress(len(found), len(dysem.languages), "Translating")
        missing = (
            f"no renderings of {amount(len(unique), 'text')} in {code!r}: give them, or DySem a "
            "translator"
        )
        found[code] = rendered(unique, language, code, {}, dysem.translator, missing)
    return found


def _of_study(study: Study, task: Sequence[str] | str | None, progress: Progress) -> Corpus:
    need = study.needs(READ)
    task = one_of(
        next(iter(study.data), "") if task is None else task, study.data, "task of this study"
    )
    need.capture(progress)
    texts = study.texts(task, "en")
    unique = list(dict.fromkeys(texts))
    rows = [texts.index(text) for text in unique]
    vectors = {
        (setting, name): study.vectors(task, name, setting=setting)[rows]
        for setting in study.settings
        for name in READ
    }
    name, codes = study.data[task].name, tuple(study.task_languages(task))
    return Corpus(
        study.lens, unique, codes, vectors, f"{name}, {amount(len(unique), 'text')}", name
    )
