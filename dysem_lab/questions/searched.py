"""A corpus that is searched: what an encoder makes of its texts, computed once."""

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.display import Progress, amount, silent
from dysem_lab.encoders.base import Encoder, require_encoder, require_language
from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.errors import InputError, choices
from dysem_lab.inputs import checked, has_words
from dysem_lab.models.store import VectorStore
from dysem_lab.retrieval.index import SemanticIndex
from dysem_lab.translation.renderings import rendered

FEWEST = 3  # texts whose mean is subtracted
CHUNK = 32  # texts between two reports of progress


class Corpus:
    """Texts, and what an encoder makes of them: computed once, and kept as far as it got.

    Args:
        encoder: `dysem_lab.DySem`, or any other encoder of the package; the joint set of one
            without consensus sets is all its dimensions.
        texts: n texts, or language → the n texts in it, aligned by position, for a DySem that has
            no translator.
        language: The texts' own.
        store: As for `dysem_lab.capture`.

    Attributes:
        encoder: As given.
        texts: The n texts in their own language.
        renderings: Language → the n texts in it; empty where none are given.
        language: As given.

    Raises:
        InputError: No texts, languages of different lengths, no texts in their own language.
    """

    def __init__(
        self,
        encoder: Encoder,
        texts: Sequence[str] | Mapping[str, Sequence[str]],
        language: str = "en",
        store: VectorStore | None = None,
    ) -> None:
        """Take the texts; nothing is encoded yet."""
        require_encoder(encoder)
        require_language(language)
        self.renderings: Mapping[str, Sequence[str]] = {}
        if isinstance(texts, Mapping):
            if language not in texts:
                raise choices("language of the texts", language, texts)
            self.renderings = {code: checked(texts[code], f"{code} text") for code in texts}
            texts = self.renderings[language]
        texts = checked(texts)
        if not texts:
            raise InputError("the corpus is empty; give a list of one or more texts")
        for code, column in self.renderings.items():
            if len(column) != len(texts):
                raise InputError(
                    f"{amount(len(column), 'rendering')} in {code!r} for "
                    f"{amount(len(texts), 'text')}"
                )
        self.encoder, self.texts, self.language = encoder, texts, language
        self._store = store
        self._chunks: list[SemanticVectors] = []
        self._encoded: SemanticVectors | None = None
        self._queries: dict[tuple[str, ...], SemanticVectors] = {}
        self._index: SemanticIndex | None = None
        self._mean: Float[Tensor, " d"] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def encode(self, progress: Progress = silent) -> SemanticVectors:
        """Return v and S of the n texts.

        Args:
            progress: Called before each chunk; where it stops the work, the next call goes on.
        """
        if self._encoded is not None:
            return self._encoded
        # Texts of similar length together waste little padding.
        order = sorted(range(len(self)), key=lambda i: (-len(self.texts[i]), i))
        for start in range(len(self._chunks) * CHUNK, len(self), CHUNK):
            progress(start, len(self), "Encoding")
            rows = order[start : start + CHUNK]
            columns = {code: [column[i] for i in rows] for code, column in self.renderings.items()}
            self._chunks.append(self._encode([self.texts[i] for i in rows], columns))
        back = torch.tensor(order).argsort()
        self._encoded = SemanticVectors(
            torch.cat([chunk.vectors for chunk in self._chunks])[back],
            torch.cat([chunk.sets for chunk in self._chunks])[back],
        )
        return self._encoded

    def index(self, progress: Progress = silent) -> SemanticIndex:
        """Return the texts by their positions as an index, which lasts as long as the corpus."""
        if self._index is None:
            encoded, folder = self.encode(progress), tempfile.mkdtemp(prefix="dysem-lab-")
            progress(0, len(self), "Making an index of the corpus")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            index = SemanticIndex.create(Path(folder) / "index", encoded.vectors.shape[1])
            index.add(range(len(encoded)), encoded)
            self._index = index
        return self._index

    def mean(self) -> Float[Tensor, " d"]:
        """Return what all texts share, as `mean_of` says."""
        if self._mean is None:
            self._mean = mean_of(self.encode().vectors)
        return self._mean

    def encode_query(self, query: str, renderings: Mapping[str, str]) -> SemanticVectors:
        """Return v and S of a query, encoded once.

        Args:
            query: A text in the corpus's language; one of the corpus has its renderings.
            renderings: Language → the query in it; a translator of the encoder makes the rest.

        Raises:
            InputError: An empty query.
            MissingTranslationError: A rendering is neither given nor to be had.
        """
        columns = {code: [text] for code, text in self.of_query(query, renderings).items()}
        key = (query, *(f"{code}: {text}" for code, (text,) in columns.items()))
        if key not in self._queries:
            self._queries[key] = self._encode([query], columns)
        return self._queries[key]

    def of_query(self, query: str, renderings: Mapping[str, str]) -> dict[str, str]:
        """Return language → a query in it, as far as that is given or in the corpus.

        Raises:
            InputError: An empty query.
        """
        if isinstance(query, str) and not has_words(query):
            raise InputError("the query is empty; type a sentence")
        checked([query], "query")
        known = {}
        if query in self.texts:
            row = self.texts.index(query)
            known = {code: column[row] for code, column in self.renderings.items()}
        return {**known, **renderings}

    def in_languages(self, rows: Sequence[int]) -> dict[str, list[str]]:
        """Return language → some of the texts in it, for each language that the encoder reads.

        Raises:
            MissingTranslationError: A rendering is neither given nor to be had.
        """
        texts = [self.texts[i] for i in rows]
        given = {code: [column[i] for i in rows] for code, column in self.renderings.items()}
        found = {self.language: texts}
        for code in self.encoder.languages:
            missing = f"the corpus is not given in {code!r}, and there is no translator"
            found[code] = rendered(
                texts, self.language, code, given, self.encoder.translator, missing
            )
        return found

    def _encode(self, texts: list[str], columns: Mapping[str, Sequence[str]]) -> SemanticVectors:
        return self.encoder.encode_renderings(
            {**columns, self.language: texts}, self.language, store=self._store, progress=False
        )


def mean_of(corpus: Float[Tensor, "n d"]) -> Float[Tensor, " d"]:
    """Return the mean of a corpus in float64; 0 of fewer than three texts.

    Of two texts less their mean, all but the sign of their difference would be gone.
    """
    n, d = corpus.shape
    return corpus.mean(0, dtype=torch.float64) if n >= FEWEST else torch.zeros(d).double()
