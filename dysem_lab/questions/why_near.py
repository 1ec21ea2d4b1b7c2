"""Why is a text of a corpus near to a query? What a search found, as a sum of parts."""

from collections.abc import Mapping, Sequence

import numpy as np

from dysem_lab.display import Progress, silent
from dysem_lab.inputs import index_of
from dysem_lab.questions.explain import Explanation, explain
from dysem_lab.questions.searched import Corpus

N_CENTRE = 64  # texts of the corpus that a reason is centred on: it runs them once, in parts


def why_near(
    corpus: Corpus,
    query: str,
    position: int,
    by: str = "token",
    renderings: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> Explanation:
    """Say why a text of a corpus is near to a query: `dysem_lab.explain`, centred on the corpus.

    What all texts that are searched share is gone, so what is left tells this one from the others.
    Of a corpus with more than `N_CENTRE` texts so many are drawn at random.

    Args:
        corpus: As for `nearest`, like `query` and `renderings`.
        query: A text in the corpus's language; it is x.
        position: Of the text in the corpus, from 0; it is y.
        by: As for `dysem_lab.explain`; by "token", y is split too.
        renderings: Language → the query in it.
        progress: Told while the corpus runs through the model, split in this way for the first
            time.

    Raises:
        InputError: As for `dysem_lab.explain`, an empty query, or a position outside the corpus.
        MissingTranslationError: A rendering is neither given nor to be had.
    """
    n = len(corpus)
    position = index_of(position, n, "position")
    rows: Sequence[int] = range(n)
    if n > N_CENTRE:
        rows = sorted(np.random.default_rng(0).choice(n, N_CENTRE, replace=False).tolist())
    x = {**corpus.of_query(query, renderings or {}), corpus.language: query}
    y = {code: of[0] for code, of in corpus.in_languages([position]).items()}
    centre = corpus.in_languages(rows) if len(set(corpus.texts)) > 1 else None
    other = by if by == "token" else None
    return explain(
        corpus.encoder, x, y, by, other, centre, language=corpus.language, progress=progress
    )
