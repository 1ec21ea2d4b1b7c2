"""What is one dimension? Its sentences, its logit lens, its languages, how often S(x) has it.

Dimensions are counted from 0.
"""

import html
import textwrap
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from dysem_lab.data.languages import language as language_named
from dysem_lab.errors import InputError
from dysem_lab.inputs import whole_number
from dysem_lab.models.readout import DEMOTED, PROMOTED, dimension_index, dimension_lens, label
from dysem_lab.questions.corpus import Corpus, read_corpus
from dysem_lab.questions.finding import Facts, Finding
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import PALETTE, SYMBOLS, layout, superscript

LOGIT_LENS = {
    "stream": "what one more RMS of the stream in dimension j adds to a token's logit, compared "
    "with the mean token: γ_j W_U[t, j] minus its mean over all tokens t, with γ the weight of the "
    "final norm, whose divisor is held fixed",
    "final": "what one more unit in dimension j adds to a token's logit, compared with the mean "
    "token: W_U[t, j] minus its mean over all tokens t (this vector is after the final norm)",
}
WIDTH = 110  # characters of a sentence in the figure


def dimension(
    corpus: Corpus | Study,
    dimension: int | None = None,
    *,
    component: str = "attn",
    setting: str = "english",
    m: int | None = None,
    k: int | float = 0.25,
    top: int = 10,
) -> Finding:
    """Say what is known of one dimension of a corpus.

    Args, errors and defaults are those of `dimension_facts`; a study is read as a corpus (its first
    task). The table is that of `dimension_table`.
    """
    corpus = corpus if isinstance(corpus, Corpus) else read_corpus(corpus)
    known = dimension_facts(
        corpus, dimension, component=component, setting=setting, m=m, k=k, top=top
    )
    figure, caption = dimension_figure(known), dimension_caption(known)
    kind = f"dimension-{known.dimension}"
    return Finding(kind, dimension_table(known), figure, caption, known.measured_on)


class DimensionFacts(NamedTuple):
    """What is known of one dimension of a corpus.

    Attributes:
        dimension: j, from 0.
        component: Of which vector.
        frequency: Share of the texts whose S(x) has each dimension, float32 ``[d]``.
        sentences: The texts with the largest mean over the languages: ``rank``, ``text``,
            ``value`` (s̄_j), ``selected`` (whether j is in S(x)), ``positive`` (codes of the
            languages in which s_j > 0, joined by "/").
        languages: One row per ``language``: ``positive`` (share of the texts with s_j > 0),
            ``value`` (mean of s_j over the texts).
        tokens: From `dimension_lens`.
        settings: component, setting, m and k.
        measured_on: Model, data, languages and settings.
    """

    dimension: int
    component: str
    frequency: Float[Tensor, " d"]
    sentences: pd.DataFrame
    languages: pd.DataFrame
    tokens: pd.DataFrame
    settings: dict[str, Any]
    measured_on: Facts


def dimension_facts(
    corpus: Corpus,
    dimension: int | None = None,
    *,
    component: str = "attn",
    setting: str = "english",
    m: int | None = None,
    k: int | float = 0.25,
    top: int = 10,
) -> DimensionFacts:
    """Return what is known of one dimension.

    Args:
        corpus: From `read_corpus`.
        dimension: j, from 0; None is the one that the most sets have.
        component: Vector, one of `READ` that the corpus has.
        setting: Prompt setting.
        m: The first so many languages; None is all.
        k: Dimensions per text, or fraction of d.
        top: Sentences, and tokens of each direction.

    Raises:
        InputError: A name that the corpus does not have; m, k or the dimension out of range; `top`
            below 1.
    """
    m = len(corpus.languages) if m is None else m
    if whole_number(top) is None or top < 1:
        raise InputError(f"top must be a whole number from 1, got {top!r}")
    vectors = corpus.read(component, setting, m)
    sets = corpus.sets(component, setting, m, k)
    frequency = sets.float().mean(0)
    j = dimension_index(int(frequency.argmax()) if dimension is None else dimension, len(frequency))
    values, codes = vectors[:, :, j], corpus.languages[:m]
    mean = values.mean(1)
    best = mean.sort(descending=True, stable=True).indices[:top].tolist()
    sentences = pd.DataFrame(
        {
            "rank": rank,
            "text": corpus.texts[row],
            "value": float(mean[row]),
            "selected": bool(sets[row, j]),
            "positive": "/".join(
                code for code, value in zip(codes, values[row].tolist(), strict=True) if value > 0
            ),
        }
        for rank, row in enumerate(best, 1)
    )
    languages = pd.DataFrame(
        {
            "language": codes,
            "positive": (values > 0).float().mean(0).tolist(),
            "value": values.mean(0).tolist(),
        }
    )
    settings = {"component": component, "setting": setting, "m": m, "k": k}
    return DimensionFacts(
        j,
        component,
        frequency,
        sentences,
        languages,
        dimension_lens(corpus.lens, j, component, top),
        settings,
        Facts(
            corpus.lens.facts,
            f"{corpus.said}, {'/'.join(codes)}, {setting}, k = {k:g}",
            corpus.label,
            len(corpus.texts),
            recorded={"asked": {"dimension": j, **settings, "languages": list(codes), "top": top}},
        ),
    )


def dimension_figure(facts: DimensionFacts) -> go.Figure:
    """Return how often each dimension is selected, and what is known of one.

    Args:
        facts: From `dimension_facts`.
    """
    j, d = facts.dimension, len(facts.frequency)
    figure = make_subplots(
        rows=3,
        cols=3,
        specs=[[{"colspan": 3}, None, None], [{}, {}, {}], [{"colspan": 3}, None, None]],
        row_heights=[0.27, 0.34, 0.39],
        vertical_spacing=0.1,
        horizontal_spacing=0.08,
        subplot_titles=[
            f"in S(x) of {facts.frequency[j]:.1%} of the texts",
            "positive, share of the texts",
            "tokens promoted",
            "tokens demoted",
            "sentences with the largest values (pale: not in S(x))",
        ],
    )
    order = by_frequency(facts.frequency)
    figure.add_scatter(
        x=list(range(1, d + 1)),
        y=facts.frequency[order].tolist(),
        mode="markers",
        marker={"size": 5, "color": PALETTE[1]},
        customdata=order,
        hovertemplate="dimension %{customdata}: %{y:.1%}<extra></extra>",
        showlegend=False,
        row=1,
        col=1,
    )
    figure.add_scatter(
        x=[order.index(j) + 1],
        y=[float(facts.frequency[j])],
        mode="markers",
        marker={"size": 13, "color": PALETTE[0], "symbol": "diamond"},
        hovertemplate=f"dimension {j}: %{{y:.1%}}<extra></extra>",
        showlegend=False,
        row=1,
        col=1,
    )
    names = [language_named(code).name for code in facts.languages["language"]]
    bars = {"orientation": "h", "showlegend": False}
    figure.add_bar(
        x=facts.languages["positive"],
        y=names,
        marker_color=PALETTE[2],
        customdata=facts.languages["value"],
        hovertemplate="%{y}: positive in %{x:.1%}, mean %{customdata:.3g}<extra></extra>",
        row=2,
        col=1,
        **bars,
    )
    for column, (direction, colour) in enumerate(
        ((PROMOTED, PALETTE[0]), (DEMOTED, PALETTE[1])), 2
    ):
        part = facts.tokens[facts.tokens["direction"] == direction]
        figure.add_bar(
            x=part["effect"].abs(),
            y=part["rank"],
            marker_color=colour,
            text=part["token"].map(label) + part["effect"].map("  {:+.3f}".format),
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{text}<extra></extra>",
            row=2,
            col=column,
            **bars,
        )
    figure.add_bar(
        x=facts.sentences["value"],
        y=facts.sentences["rank"],
        marker={
            "color": PALETTE[3],
            "opacity": facts.sentences["selected"].map({True: 0.65, False: 0.2}),
        },
        customdata=facts.sentences["positive"],
        hovertemplate="%{x:.4g}, positive in %{customdata}<extra></extra>",
        row=3,
        col=1,
        **bars,
    )
    figure.add_scatter(
        x=[0] * len(facts.sentences),
        y=facts.sentences["rank"],
        mode="text",
        text=[
            f" {label(textwrap.shorten(text, WIDTH, placeholder=' …')).replace('␣', ' ')}"
            for text in facts.sentences["text"]
        ],
        textposition="middle right",
        hoverinfo="skip",
        showlegend=False,
        row=3,
        col=1,
    )
    n_tokens, n_sentences = facts.tokens["rank"].max(), len(facts.sentences)
    longest = 2.1 * facts.tokens["effect"].abs().max()
    figure.update_xaxes(title=f"the {d} dimensions, the most frequent first", row=1)
    figure.update_yaxes(tickformat=".0%", rangemode="tozero", row=1)
    figure.update_xaxes(range=[0, 1], tickformat=".0%", row=2, col=1)
    figure.update_yaxes(autorange="reversed", row=2, col=1)
    for column in (2, 3):
        figure.update_xaxes(
            range=[0, longest], showticklabels=False, showgrid=False, row=2, col=column
        )
        figure.update_yaxes(
            range=[n_tokens + 0.6, 0.4], showticklabels=False, showgrid=False, row=2, col=column
        )
    figure.update_yaxes(range=[n_sentences + 0.6, 0.4], showticklabels=False, row=3)
    figure.update_xaxes(title="mean over the languages", row=3)
    figure.update_annotations(font_size=13)
    symbol = superscript(SYMBOLS[facts.component])
    title = f"Dimension {j} of {symbol}"
    height = 500 + 22 * (n_sentences + max(int(n_tokens), len(names)))
    return layout(figure, title, facts.measured_on, height)


def by_frequency(frequency: Float[Tensor, " d"]) -> list[int]:
    """Return the dimensions in the order of the figure: the most frequent first."""
    return frequency.sort(descending=True, stable=True).indices.tolist()


def dimension_table(facts: DimensionFacts) -> pd.DataFrame:
    """Return sentences, languages and tokens of a dimension in one table.

    Columns: ``kind`` ("sentence", "language", "token promoted", "token demoted"), ``rank``,
    ``name`` (the sentence, the code, the token), ``value`` (s̄_j, the mean of s_j over the texts,
    the effect on the logit), ``selected`` (whether j is in the sentence's S(x)), ``positive`` (the
    languages in which the sentence has s_j > 0; the share of the texts that have it).
    """
    sentences = facts.sentences.rename(columns={"text": "name"}).assign(kind="sentence")
    languages = facts.languages.rename(columns={"language": "name"}).assign(kind="language")
    tokens = facts.tokens.rename(columns={"token": "name", "effect": "value"})
    parts = [sentences, languages, tokens.assign(kind="token " + tokens["direction"])]
    columns = ["kind", "rank", "name", "value", "selected", "positive"]
    return pd.concat(
        [part.reindex(columns=columns).astype(object) for part in parts], ignore_index=True
    )


def _said(facts: DimensionFacts, lens: str) -> str:
    """Return how frequent a dimension is, and its tokens."""
    j, place = facts.dimension, by_frequency(facts.frequency).index(facts.dimension) + 1
    tokens = {
        direction: ", ".join(label(token) for token in part["token"])
        for direction, part in facts.tokens.groupby("direction", sort=False)
    }
    return (
        f"is in S(x) of {facts.frequency[j]:.1%} of the texts (place {place} of "
        f"{len(facts.frequency)}). {lens}: promotes {tokens[PROMOTED]}; demotes {tokens[DEMOTED]}."
    )


def dimension_caption(facts: DimensionFacts) -> str:
    """Return the numbers of a dimension as one line."""
    return f"Dimension {facts.dimension} of {SYMBOLS[facts.component]} {_said(facts, 'Logit lens')}"


def dimension_text(facts: DimensionFacts) -> str:
    """Return the numbers of a dimension as HTML, and what its logit lens is."""
    rows = "".join(
        f'<tr><td>{row.rank}</td><td dir="auto">{html.escape(row.text)}</td>'
        f"<td>{row.value:.4g}</td><td>{'yes' if row.selected else 'no'}</td>"
        f"<td>{row.positive}</td></tr>"
        for row in facts.sentences.itertuples()
    )
    computed = LOGIT_LENS["final" if facts.component == "final" else "stream"]
    return (
        f"<p><b>Dimension {facts.dimension}</b> {_said(facts, f'Logit lens ({computed})')}</p>"
        "<table><thead><tr><th></th><th>Sentence</th><th>value</th><th>in S(x)</th>"
        f"<th>positive in</th></tr></thead><tbody>{rows}</tbody></table>"
    )
