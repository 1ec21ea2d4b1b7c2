"""What an index finds for a query: the texts, on which dimensions, and why."""

import numpy as np
import pandas as pd

from dysem_lab.encoders.base import Encoder
from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.errors import InputError
from dysem_lab.joint import joint_set
from dysem_lab.questions.explain import Explanation
from dysem_lab.questions.search import beyond_shared
from dysem_lab.questions.searched import Corpus, mean_of
from dysem_lab.questions.why_near import N_CENTRE, why_near
from dysem_lab.retrieval.index import SemanticIndex
from dysem_lab.retrieval.records import Id


def hits_of(
    index: SemanticIndex, queries: SemanticVectors, n: int = 10, first_stage: int | None = None
) -> list[pd.DataFrame]:
    """Return a table of the n nearest texts for each query, the nearest first.

    Args:
        index: What is searched.
        queries: v and S of texts.
        n: Rows of each table.
        first_stage: As for `SemanticIndex.search`.

    Returns:
        One row per hit: ``rank`` from 1, ``id``, ``text`` (None where it was not kept),
        ``similarity``, ``n_dims`` (|U|), ``top_dimensions`` and ``top_share``, of `beyond_shared`
        with the mean of up to `N_CENTRE` texts of the index, drawn at random. Where a first stage
        chose the texts that were looked at, ``attrs["first_stage"]`` names it.

    Raises:
        InputError: As for `SemanticIndex.search`, as are the other errors.
    """
    hits, tables = index.search(queries, n, first_stage=first_stage), []
    names = index.ids
    drawn = np.random.default_rng(0).permutation(len(names))[:N_CENTRE].tolist()
    shared = mean_of(index.vectors([names[i] for i in sorted(drawn)]).vectors)
    for i, (ids, scores) in enumerate(zip(hits.ids, hits.scores.tolist(), strict=True)):
        found = [name for name in ids if name is not None]
        texts, query = index.vectors(found), queries[[i]]
        U = joint_set(query.sets, texts.sets)
        top, together, _ = beyond_shared(query, texts, shared)
        tables.append(
            pd.DataFrame(
                {
                    "rank": range(1, len(found) + 1),
                    "id": pd.Series(found, dtype=object),
                    "text": pd.Series(index.texts(found), dtype=object),
                    "similarity": scores[: len(found)],
                    "n_dims": U.sum(1).tolist(),
                    "top_dimensions": top,
                    "top_share": together,
                }
            )
        )
        tables[-1].attrs["first_stage"] = hits.first_stage
    return tables


def why_hit(
    index: SemanticIndex,
    encoder: Encoder,
    query: str,
    name: Id,
    by: str = "dimension",
    language: str = "en",
) -> Explanation:
    """Say why a text of an index is near to a query, beside other texts of the index.

    Args:
        index: It kept its texts.
        encoder: That it was made with.
        query: The text that was searched for.
        name: Id of the hit.
        by: As for `dysem_lab.explain`.
        language: The texts' own.

    Raises:
        InputError: An index that did not keep the text, or as for `dysem_lab.explain`.
        MissingTranslationError: A rendering is not to be had.
    """
    (text,) = index.texts([name])
    if text is None:
        raise InputError(
            f"{index.path} did not keep the text of {name!r}; add it with its text to have it "
            "explained"
        )
    names = [other for other in index.ids if other != name]
    n = min(N_CENTRE - 1, len(names))
    drawn = sorted(np.random.default_rng(0).permutation(len(names))[:n].tolist())
    around = [other for other in index.texts([names[i] for i in drawn]) if other]
    return why_near(Corpus(encoder, [text, *around], language), query, 0, by)
