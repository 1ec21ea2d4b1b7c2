"""Two texts as DySem sees them, and why they are similar: what is read of a pair.

Each text goes through the model once, whatever is asked of it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.data.languages import language as language_named
from dysem_lab.display import Progress, silent
from dysem_lab.encoders.base import View
from dysem_lab.encoders.dysem import DySem, semantic_vectors
from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.errors import MissingTranslationError
from dysem_lab.inputs import by_language, has_words, names_of
from dysem_lab.joint import joint_set
from dysem_lab.models.capture import CUMULATIVE, capture, unique_prompts
from dysem_lab.models.lens import LensModel
from dysem_lab.models.store import VectorStore
from dysem_lab.prompts import TEMPLATE_NAMES, wrap
from dysem_lab.questions.explain import Explanation, Texts, explanation
from dysem_lab.questions.finding import Facts
from dysem_lab.questions.names import SYMBOLS
from dysem_lab.questions.scores import pair_cosine, pair_similarity
from dysem_lab.questions.splits import split_texts

CHUNK = 16  # prompts between two reports of progress


class Captures:
    """Cumulative vectors of prompts, kept in memory so that none goes through the model twice.

    One pass reads every cumulative component, so changing the component needs no pass either.

    Args:
        lens: The model.
        store: As for `dysem_lab.capture`.
    """

    def __init__(self, lens: LensModel, store: VectorStore | None = None) -> None:
        """Begin without any vector."""
        self.lens, self.store = lens, store
        self._known: dict[tuple[str, str, str], Float[Tensor, " d"]] = {}

    def read(
        self, prompts: Sequence[str], component: str, progress: Progress = silent
    ) -> Float[Tensor, "n d"]:
        """Return one component of each prompt, running the model for the new ones only.

        Args:
            prompts: n prompts, as `dysem_lab.wrap` makes them.
            component: One of `dysem_lab.models.places.VECTOR_COMPONENTS`.
            progress: Called before each chunk of prompts; what was read before it stops stays.
        """
        model = self.lens.fingerprint  # another one after its weights were edited
        new = [p for p in unique_prompts(prompts) if (model, p, component) not in self._known]
        together = tuple(dict.fromkeys([component, *(kind.component for kind in CUMULATIVE)]))
        for start in range(0, len(new), CHUNK):
            progress(start, len(new), "Reading")
            chunk = new[start : start + CHUNK]
            captured = capture(self.lens, chunk, together, store=self.store, progress=False)
            for name, rows in captured.items():
                self._known |= {(model, p, name): row for p, row in zip(chunk, rows, strict=True)}
        return torch.stack([self._known[model, prompt, component] for prompt in prompts])


@dataclass(frozen=True, eq=False)
class PairView:
    """Two texts x and y as DySem sees them.

    Attributes:
        encoded: v and S of x and y, two rows.
        first: Language → x in it.
        second: Language → y in it.
        encoder: The DySem that they are seen by; its languages are 𝓛.
        language: The texts' own, of the plain cosine.
        similarity: Of x and y on U (Eqs. 16–17); NaN where U is empty.
        n_dims: |U|.
        all_dimensions: Cosine of v(x) and v(y) on all d dimensions.
        plain: Cosine of s^(source)(x) and s^(source)(y) on all d: no consensus, no mean.
        per_language: Language → that cosine in each of 𝓛.
    """

    encoded: SemanticVectors
    first: Mapping[str, str]
    second: Mapping[str, str]
    encoder: DySem
    language: str
    similarity: float
    n_dims: int
    all_dimensions: float
    plain: float
    per_language: dict[str, float]

    @property
    def facts(self) -> Facts:
        """What it was measured on."""
        of = self.encoder
        shown = [
            TEMPLATE_NAMES.get(of.template, of.template),
            of.setting,
            "/".join(of.languages),
            SYMBOLS.get(of.component, of.component),
            f"{of.vector} vector",
            f"k {of.k}",
        ]
        names = ("k", "component", "template", "setting", "vector", "languages")
        settings = {name: getattr(of, name) for name in names}
        texts = {"first": dict(self.first), "second": dict(self.second), "language": self.language}
        label = f"{self.first[self.language]} / {self.second[self.language]}"
        return Facts(of.facts, ", ".join(shown), label, 1, unsaid={**texts, **settings})


def pair_view(
    lens: LensModel,
    first: Mapping[str, str],
    second: Mapping[str, str],
    languages: Sequence[str] | None = None,
    *,
    k: int | float = 0.25,
    component: str = "attn",
    template: str = "prompteol",
    setting: str = "language-specific",
    vector: str = "mean",
    language: str = "en",
    captures: Captures | None = None,
    progress: Progress = silent,
) -> PairView:
    """Return how similar two texts are under DySem, and on which dimensions.

    Args:
        lens: The model.
        first: Language → x in it, among them the text itself.
        second: Language → y in it.
        languages: 𝓛; None is all that `first` has.
        k: As for `dysem_lab.DySem`, like the next four.
        component: Cumulative vector.
        template: Prompt template.
        setting: "english" or "language-specific".
        vector: "mean" or "source".
        language: The texts' own.
        captures: Vectors that are known already; new ones are added to it.
        progress: Called between batches of prompts.

    Raises:
        InputError: As for `dysem_lab.DySem`.
        MissingTranslationError: A text is not given in one of the languages.

    Source: DySem Eqs. 9–17.
    """
    encoder, columns = _asked(
        lens,
        first,
        second,
        languages,
        language,
        dict(k=k, component=component, template=template, setting=setting, vector=vector),
    )
    captures = captures or Captures(lens)
    prompts = [wrap(texts, template, setting, code) for code, texts in columns.items()]
    rows = captures.read([p for texts in prompts for p in texts], component, progress)
    read = dict(zip(columns, rows.view(len(columns), 2, -1), strict=True))
    vectors = torch.stack([read[code] for code in encoder.languages], 1)
    encoded = semantic_vectors(vectors, read[language], k, vector=vector)
    return _view(encoder, columns, language, read, encoded)


def why_similar(
    lens: LensModel,
    first: Mapping[str, str],
    second: Mapping[str, str],
    languages: Sequence[str] | None = None,
    by: str = "token",
    by_other: str | None = None,
    centre: object = "demo",
    *,
    language: str = "en",
    progress: Progress = silent,
    **settings: Any,
) -> tuple[PairView, Explanation | None]:
    """Return how similar two texts are under DySem, and why, from one reading of each.

    Args:
        lens: As for `pair_view`, like the next three and `language`.
        first: x.
        second: y.
        languages: 𝓛.
        by: As for `dysem_lab.explain`, like the next two.
        by_other: By what y is split.
        centre: The reference corpus.
        language: The texts' own.
        progress: Told while the corpus runs through the model.
        settings: k, component, template, setting and vector, as for `dysem_lab.DySem`.

    Returns:
        What `pair_view` and `dysem_lab.explain` return; no explanation of an undefined similarity.

    Raises:
        InputError: As for `pair_view` and `dysem_lab.explain`, as are the other errors.
    """
    encoder, columns = _asked(lens, first, second, languages, language, settings)
    texts = Texts(encoder, columns, by, centre, 0, language, progress)
    assert texts.read is not None  # of a model of ours
    read = dict(zip(texts.views, texts.read, strict=True))
    if language not in read:  # the plain cosine alone is in it
        prompts = wrap(columns[language], encoder.template, encoder.setting, language)
        own = View(language, prompts, None, 1)
        read[language] = split_texts(encoder, [own], "language").read[0]
    view = _view(encoder, columns, language, read, texts.encoded)
    return view, None if math.isnan(view.similarity) else explanation(texts, by_other)


def _asked(
    lens: LensModel,
    first: Mapping[str, str],
    second: Mapping[str, str],
    languages: Sequence[str] | None,
    language: str,
    settings: dict[str, Any],
) -> tuple[DySem, dict[str, list[str]]]:
    """Return the estimator, and language → both texts in it.

    Raises:
        InputError: As for `pair_view`, as is the other error.
    """
    first, second = by_language(first), by_language(second)
    codes = tuple(first if languages is None else names_of(languages, "language"))
    encoder = DySem(lens, codes, **settings)
    wanted = list(dict.fromkeys([*codes, language]))
    for text, renderings in (("first sentence", first), ("second sentence", second)):
        require_renderings(text, renderings, wanted)
    return encoder, {code: [first[code], second[code]] for code in wanted}


def require_renderings(text: str, renderings: Mapping[str, str], codes: Sequence[str]) -> None:
    """Raise `MissingTranslationError` where a text is not given in one of the languages."""
    for code in codes:
        given = renderings.get(code, "")
        if isinstance(given, str) and not has_words(given):
            raise MissingTranslationError(
                f"the {text} is not given in {language_named(code).name} ({code}); type it in as a "
                f"line '{code}: …', or leave {code!r} out of the languages"
            )


def _view(
    encoder: DySem,
    columns: Mapping[str, Sequence[str]],
    language: str,
    read: Mapping[str, Float[Tensor, "2 d"]],
    encoded: SemanticVectors,
) -> PairView:
    """Return what is said of two texts, from s^(ℓ) of both in each language."""
    similarity = pair_similarity(encoded)[0].item() if encoded.sets.any() else math.nan
    return PairView(
        encoded,
        {code: x for code, (x, _) in columns.items()},
        {code: y for code, (_, y) in columns.items()},
        encoder,
        language,
        similarity,
        int(joint_set(*encoded.sets).sum()),
        pair_cosine(encoded.vectors).item(),
        pair_cosine(read[language]).item(),
        {code: pair_cosine(read[code]).item() for code in encoder.languages},
    )
