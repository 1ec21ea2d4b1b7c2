"""Which texts of a corpus are nearest to a query, and on which dimensions?"""

import hashlib
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.display import Progress, amount, silent
from dysem_lab.encoders.base import Encoder, require_encoder
from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.errors import InputError
from dysem_lab.inputs import at_least
from dysem_lab.joint import contributions, joint_set
from dysem_lab.models.store import VectorStore
from dysem_lab.questions.finding import Facts, Finding
from dysem_lab.questions.searched import Corpus
from dysem_lab.questions.style import DIVERGING, PALETTE, layout, with_gaps

N_LETTERS = 44  # of a sentence in a figure; the table beside it has it whole
N_TOP = 5  # dimensions that are named
INDEXED = 5000  # texts from which on an index on disk is faster than the work of making it


def search(
    encoder: Encoder,
    corpus: Sequence[str] | Mapping[str, Sequence[str]],
    query: str,
    n: int = 10,
    renderings: Mapping[str, str] | None = None,
    *,
    language: str = "en",
    store: VectorStore | None = None,
) -> Finding:
    """Find the n texts of a corpus that are nearest to a query, the nearest first.

    For many queries of one corpus, make a `Corpus` and ask `nearest`: it is encoded once.

    Args:
        encoder: As for `Corpus`, like `corpus`, `language` and `store`.
        corpus: Its texts, or language → texts.
        query: A text in the corpus's language.
        n: Rows; fewer where the corpus has fewer.
        renderings: Language → the query in it.
        language: The texts' own.
        store: As for `dysem_lab.capture`.

    Raises:
        InputError: As for `Corpus` and `nearest`, or an encoder that says nothing of its model.
        MissingTranslationError: The encoder needs a rendering of the query that is not to be had.

    Source: DySem Eqs. 14–17.
    """
    require_encoder(encoder)
    model = encoder.lens.facts if encoder.lens else encoder.facts
    if model is None:
        raise InputError(
            f"the encoder {encoder.name!r} says nothing of its model, and a finding does; give it "
            "facts, or ask dysem_lab.questions.search.nearest"
        )
    texts = Corpus(encoder, corpus, language, store)
    digest = hashlib.sha256("\x1f".join(texts.texts).encode()).hexdigest()[:16]
    asked = {
        "encoder": {"name": encoder.name, **encoder.config},
        "corpus": {"n_texts": len(texts), "digest": digest},
        "query": query,
        "n": n,
        "renderings": renderings,
        "language": language,
    }
    found = nearest(texts, query, n, renderings)
    facts = Facts(
        model,
        f"{encoder.name}, {amount(found.n_texts, 'text')}",
        query,
        found.n_texts,
        [{"label": amount(found.n_texts, "text"), "language": language}],
        unsaid=asked,
    )
    return Finding("search", found.table, figure(found), caption(found), facts)


@dataclass(frozen=True, eq=False)
class Nearest:
    """The nearest texts to a query.

    Attributes:
        query: What was asked.
        table: One row per text: ``rank`` from 1, ``position`` in the corpus, ``text``,
            ``similarity``, ``n_dims`` (|U|), ``top_dimensions`` and ``top_share``, of
            `beyond_shared`.
        shares: What each dimension adds to the cosine of each row once what all texts share is
            taken away (`beyond_shared`); NaN outside the joint set.
        n_texts: Of the corpus.
        n_undefined: Texts that have no similarity to the query (empty joint set, or a vector that
            is zero on it).
        measured_on: Model, encoder and size of the corpus.
    """

    query: str
    table: pd.DataFrame
    shares: Float[np.ndarray, "n d"]
    n_texts: int
    n_undefined: int
    measured_on: str


def beyond_shared(
    query: SemanticVectors, texts: SemanticVectors, mean: Float[Tensor, " d"]
) -> tuple[list[list[int]], list[float], Float[Tensor, "m d"]]:
    """Return which dimensions add most to similarities once what all texts share is taken away.

    As they are, the same few dimensions add most to every similarity: they are large in all texts.

    Args:
        query: The vector and set of one text.
        texts: Those of m texts.
        mean: From `mean_of`.

    Returns:
        Of each text up to 5 dimensions of the joint set that add most, those above 0; what they
        add together to the cosine of the centred vectors on it; and what each dimension adds.
    """
    x, y = query.vectors.double() - mean, texts.vectors.double() - mean
    shares = contributions(x.expand_as(y), y, joint_set(query.sets, texts.sets))
    top = [
        [j for j in row.sort(descending=True, stable=True).indices[:N_TOP].tolist() if row[j] > 0]
        for row in shares
    ]
    return top, [row[js].sum().item() for row, js in zip(shares, top, strict=True)], shares


def _best(
    corpus: Corpus, asked: SemanticVectors, n: int, progress: Progress
) -> tuple[list[int], Float[np.ndarray, " m"], int]:
    """Return positions and similarities of the n nearest texts, and how many have none."""
    encoded, plain = corpus.encode(), type(corpus.encoder).similarity is Encoder.similarity
    if plain and len(corpus) >= INDEXED and find_spec("numba"):
        hits = corpus.index(progress).search(asked, n)
        found = [position for position in hits.ids[0] if position is not None]
        return found, hits.scores[0, : len(found)].numpy(), int(hits.n_undefined[0])
    U = joint_set(asked.sets, encoded.sets)
    on_both = ((asked.vectors != 0) & U).any(1) & ((encoded.vectors != 0) & U).any(1)
    defined = on_both.nonzero()[:, 0]
    similarity = corpus.encoder.similarity(asked, encoded[defined])[0]
    best = similarity.sort(descending=True, stable=True).indices[:n]
    return defined[best].tolist(), similarity[best].numpy(), len(corpus) - len(defined)


def nearest(
    corpus: Corpus,
    query: str,
    n: int = 10,
    renderings: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> Nearest:
    """Return the n texts of a corpus that are nearest to a query, the nearest first.

    Args:
        corpus: Encoded now, where it is not yet.
        query: A text in the corpus's language.
        n: Rows; fewer where the corpus has fewer.
        renderings: Language → the query in it.
        progress: As for `Corpus.encode`.

    Raises:
        InputError: An empty query, or n below 1.
        MissingTranslationError: The encoder needs a rendering of the query that is not to be had.

    Source: DySem Eqs. 14–17.
    """
    n = at_least(n, 1, "n")
    asked = corpus.encode_query(query, renderings or {})
    encoded = corpus.encode(progress)
    positions, similarity, n_undefined = _best(corpus, asked, n, progress)
    chosen = encoded[positions]
    U = joint_set(asked.sets, chosen.sets)
    top, together, shares = beyond_shared(asked, chosen, corpus.mean())
    table = pd.DataFrame(
        {
            "rank": range(1, len(positions) + 1),
            "position": positions,
            "text": [corpus.texts[i] for i in positions],
            "similarity": similarity,
            "n_dims": U.sum(1).numpy(),
            "top_dimensions": top,
            "top_share": together,
        }
    )
    masked = shares.masked_fill(~U, torch.nan).numpy()
    encoder = corpus.encoder
    model = encoder.lens or encoder.facts
    label = model.label if model else encoder.config["model"]
    measured_on = f"{label}, {encoder.name}, {amount(len(corpus), 'text')}"
    return Nearest(query, table, masked, len(corpus), n_undefined, measured_on)


def figure(found: Nearest) -> go.Figure:
    """Return the nearest texts with their similarity, and what each dimension adds.

    What dimensions add is to the cosine less what all texts share, as in the table: as they are,
    the same few would be dark in every row.

    A row of the map is empty outside of the joint set of query and text; colours are clipped at
    the 95th percentile, so that a few large dimensions do not hide the others.

    Args:
        found: From `nearest`.
    """
    table, d = found.table, found.shares.shape[1]
    rows = list(range(len(table)))
    bound = float(np.nanquantile(np.abs(found.shares), 0.95)) if rows else 0.0
    dots = {
        "type": "scatter",
        "mode": "markers",
        "x": table["similarity"].to_numpy(),
        "y": rows,
        "marker": {"size": 11, "color": PALETTE[0]},
        "customdata": np.stack([table["text"].map(html.escape), table["n_dims"]], axis=1),
        "hovertemplate": "%{customdata[0]}<br>%{x:.4f} on %{customdata[1]} dimensions"
        "<extra></extra>",
        "showlegend": False,
    }
    shares = {
        "type": "heatmap",
        "z": with_gaps(found.shares),
        "y": rows,
        "xaxis": "x2",
        "zmin": -bound or -1.0,
        "zmax": bound or 1.0,
        "colorscale": DIVERGING,
        "colorbar": {"thickness": 10, "tickformat": ".1g", "nticks": 5},
        "hovertemplate": "dimension %{x}: %{z:.4f}<extra></extra>",
        "hoverongaps": False,
        "ygap": 2,
    }
    axes = {
        "yaxis": {
            "tickvals": rows,
            "ticktext": [_shortened(text, N_LETTERS) for text in table["text"]],
            "range": [len(rows) - 0.5, -0.5],
            "tickfont": {"size": 12},
            "automargin": True,
        },
        "xaxis": {"domain": [0, 0.3], "title": "similarity", "nticks": 4, "tickangle": 0},
        "xaxis2": {
            "domain": [0.34, 1],
            "title": f"what each of {d} dimensions adds<br>"
            f"<sup>beyond what all share; colours end at ±{bound:.1g}</sup>",
            "range": [-0.5, d - 0.5],
            "showgrid": False,
        },
    }
    title = f"Nearest to: {_shortened(found.query, 2 * N_LETTERS)}"
    figure = go.Figure([dots, shares], axes)
    return layout(figure, title, found.measured_on, 30 * len(table) + 240).update_layout(
        margin_l=20, margin_b=80
    )


def _shortened(text: str, n_letters: int) -> str:
    cut = text if len(text) <= n_letters else text[: n_letters - 1] + "…"
    return html.escape(cut, quote=False)


def caption(found: Nearest) -> str:
    """Return one line: the nearest text, how near it is, and how many have no similarity."""
    said = f"; {undefined(found)}" if found.n_undefined else ""
    if found.table.empty:
        return f"No text is near to “{found.query}”{said}."
    best = found.table.iloc[0]
    return (
        f"Of {amount(found.n_texts, 'text')} the nearest to “{found.query}” is “{best['text']}”, "
        f"similarity {best['similarity']:.4f} on {amount(best['n_dims'], 'dimension')}{said}."
    )


def undefined(found: Nearest) -> str:
    """Return how many texts have no similarity to the query, and why."""
    return (
        f"{found.n_undefined} of {found.n_texts} texts have no similarity to the query: no "
        "dimension is in either consensus set"
    )
