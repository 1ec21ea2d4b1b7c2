"""What is one dimension? Its sentences, its words, how often S(x) has it, what it adds to a cosine.

And is that its own, or does a random rotation of the space have such a dimension too? Dimensions
are counted from 0.
"""

import html
import math
import textwrap
from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

from dysem_lab.data.languages import language as language_named
from dysem_lab.inputs import index_of, one_of
from dysem_lab.models.readout import DEMOTED, PROMOTED, READ, label
from dysem_lab.questions.asked import asked
from dysem_lab.questions.corpus import Corpus, read_corpus
from dysem_lab.questions.dimension_facts import (
    DimensionFacts,
    OfSentence,
    by_size,
    dimension_facts,
)
from dysem_lab.questions.finding import Finding
from dysem_lab.questions.names import SYMBOLS
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import PALETTE, band, layout, superscript

LOGIT_LENS = {
    "stream": "what one more RMS of the stream in dimension j adds to a token's logit, compared "
    "with the mean token: γ_j W_U[t, j] minus its mean over all tokens t, with γ the weight of the "
    "final norm, whose divisor is held fixed",
    "final": "what one more unit in dimension j adds to a token's logit, compared with the mean "
    "token: W_U[t, j] minus its mean over all tokens t (this vector is after the final norm)",
}
WIDTH = 110  # characters of a sentence in the figure
ROTATED_COLOUR = PALETTE[6]
BARS: dict[str, Any] = {"orientation": "h", "showlegend": False}


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
    if not isinstance(corpus, Corpus):
        asked(corpus, component=one_of(component, READ, "component"), setting=setting, k=k, top=top)
        asked(corpus, **{} if m is None else {"m": m})
        if dimension is not None and corpus.size:
            index_of(dimension, corpus.size[1], "dimension")
        corpus = read_corpus(corpus)
    known = dimension_facts(
        corpus, dimension, component=component, setting=setting, m=m, k=k, top=top
    )
    figure, caption = dimension_figure(known), dimension_caption(known)
    kind = f"dimension-{known.dimension}"
    return Finding(kind, dimension_table(known), figure, caption, known.measured_on)


def dimension_figure(facts: DimensionFacts) -> go.Figure:
    """Return how often each dimension is selected, what it adds, and what is known of one.

    A grey band is what the dimension of the same place has in random rotations.

    Args:
        facts: From `dimension_facts`.
    """
    j = facts.dimension
    half, third = [{"colspan": 3}, None, None], [{"colspan": 2}, None]
    figure = make_subplots(
        rows=3,
        cols=6,
        specs=[[*half, *half], [*third, *third, *third], [{"colspan": 6}, *[None] * 5]],
        row_heights=[0.27, 0.34, 0.39],
        vertical_spacing=0.1,
        horizontal_spacing=0.08,
        subplot_titles=[
            f"in S(x) of {facts.frequency[j]:.1%} of the texts (grey: in rotations)",
            f"{_percent(facts.share[j])} of the mean cosine (grey: in rotations)",
            "positive, share of the texts",
            "tokens promoted",
            "tokens demoted",
            "sentences with the largest values (pale: not in S(x))",
        ],
    )
    _draw_places(figure, facts)
    _draw_languages(figure, facts)
    _draw_tokens(figure, facts)
    _draw_sentences(figure, facts)
    figure.update_annotations(font_size=13)
    symbol = superscript(SYMBOLS[facts.component])
    title = f"Dimension {j} of {symbol}"
    n_lines = max(int(facts.tokens["rank"].max()), len(facts.languages))
    height = 500 + 22 * (len(facts.sentences) + n_lines)
    return layout(figure, title, facts.measured_on, height)


def _draw_places(figure: go.Figure, facts: DimensionFacts) -> None:
    """Draw how often each dimension is selected, and what it adds, the largest first."""
    j, d = facts.dimension, len(facts.frequency)
    for column, values, rotated in (
        (1, facts.frequency, facts.rotated.frequency),
        (4, facts.share, facts.rotated.share),
    ):
        order = by_size(values)
        places, where = pd.Series(range(1, d + 1)), {"row": 1, "col": column}
        low, high = (pd.Series(of.numpy()) for of in (rotated.amin(0), rotated.amax(0)))
        figure.add_scatter(
            x=places,
            y=values[order].tolist(),
            mode="markers",
            marker={"size": 5, "color": PALETTE[1]},
            customdata=order,
            hovertemplate="dimension %{customdata}: %{y:.2%}<extra></extra>",
            showlegend=False,
            **where,
        )
        band(figure, places, low, high, ROTATED_COLOUR, 0.35, **where)
        figure.add_scatter(
            x=[order.index(j) + 1],
            y=[float(values[j])],
            mode="markers",
            marker={"size": 13, "color": PALETTE[0], "symbol": "diamond"},
            hovertemplate=f"dimension {j}: %{{y:.2%}}<extra></extra>",
            showlegend=False,
            **where,
        )
    figure.update_xaxes(title=f"place among the {d} dimensions", row=1)
    figure.update_yaxes(tickformat=".0%", rangemode="tozero", row=1, col=1)
    log: dict[str, Any] = {"type": "log", "row": 1, "col": 4}
    figure.update_xaxes(dtick=1, **log)
    lowest = min(-6, math.floor(math.log10(max(float(facts.share[j]), 1e-12))))
    decades = list(range(0, lowest - 1, -2))
    figure.update_yaxes(
        range=[lowest - 0.3, 0.3],
        tickvals=[10.0**of for of in decades],
        ticktext=[f"{100 * 10.0**of:.10g}%" for of in decades],
        **log,
    )


def _draw_languages(figure: go.Figure, facts: DimensionFacts) -> None:
    """Draw in how many of the texts the dimension is positive, by language."""
    names = [language_named(code).name for code in facts.languages["language"]]
    figure.add_bar(
        x=facts.languages["positive"],
        y=names,
        marker_color=PALETTE[2],
        customdata=facts.languages["value"],
        hovertemplate="%{y}: positive in %{x:.1%}, mean %{customdata:.3g}<extra></extra>",
        row=2,
        col=1,
        **BARS,
    )
    figure.update_xaxes(range=[0, 1], tickformat=".0%", row=2, col=1)
    figure.update_yaxes(autorange="reversed", row=2, col=1)


def _draw_tokens(figure: go.Figure, facts: DimensionFacts) -> None:
    """Draw the tokens that the dimension promotes, and those that it demotes."""
    n_tokens, longest = facts.tokens["rank"].max(), 2.1 * facts.tokens["effect"].abs().max()
    for column, direction, colour in ((3, PROMOTED, PALETTE[0]), (5, DEMOTED, PALETTE[1])):
        at = {"row": 2, "col": column}
        part = facts.tokens[facts.tokens["direction"] == direction]
        figure.add_bar(
            x=part["effect"].abs(),
            y=part["rank"],
            marker_color=colour,
            text=part["token"].map(label) + part["effect"].map("  {:+.3f}".format),
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{text}<extra></extra>",
            **at,
            **BARS,
        )
        figure.update_xaxes(range=[0, longest], showticklabels=False, showgrid=False, **at)
        figure.update_yaxes(range=[n_tokens + 0.6, 0.4], showticklabels=False, showgrid=False, **at)


def _draw_sentences(figure: go.Figure, facts: DimensionFacts) -> None:
    """Draw the sentences with the largest values."""
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
        **BARS,
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
    last = len(facts.sentences) + 0.6
    figure.update_yaxes(range=[last, 0.4], showticklabels=False, row=3)
    figure.update_xaxes(title="mean over the languages", row=3)


def survival(facts: DimensionFacts) -> str:
    """Return in a sentence whether what is measured of a dimension is its own.

    What lies within the range of the random rotations survives them: each has a dimension like it.
    What lies outside belongs to this dimension of the model's own basis.
    """
    said = []
    for of, where in zip(facts.measures, ("of the texts", "of their mean cosine"), strict=True):
        verdict = "it survives, these rotations have one like it"
        if not of.survives:
            most = "more" if of.here > of.high else "less"
            verdict = f"{most} than in any rotation, so it is this basis's own"
        ends = list(dict.fromkeys(map(_percent, (of.low, of.high))))
        said.append(f"{' to '.join(ends)} {where} ({_percent(of.here)} here: {verdict})")
    return (
        f"Does it survive a rotation? In {len(facts.rotated.share)} random rotations of the space "
        f"the dimension of the same place is in S(x) of {said[0]}, and has {said[1]}."
    )


def _percent(share: float | Tensor) -> str:
    """Return a share with as many digits as it needs."""
    number = 100 * float(share)
    return f"{number:.3g}%" if number < 10 else f"{number:.1f}%"


def dimension_table(facts: DimensionFacts) -> pd.DataFrame:
    """Return what is measured of a dimension, its sentences, languages and tokens in one table.

    Columns: ``kind`` ("measure", "sentence", "language", "token promoted", "token demoted"),
    ``rank`` (of a measure, the place among the dimensions), ``name`` (the measure, the sentence,
    the code, the token), ``value`` (the measure, s̄_j, the mean of s_j over the texts, the effect on
    the logit), ``selected`` (whether j is in the sentence's S(x)), ``positive`` (the languages in
    which the sentence has s_j > 0; the share of the texts that have it), ``rotated_low`` and
    ``rotated_high`` (of a measure: the least and the most that the dimension of the same place has
    in the random rotations).
    """
    measures = [
        {
            "kind": "measure",
            "rank": of.place,
            "name": of.name,
            "value": of.here,
            "rotated_low": of.low,
            "rotated_high": of.high,
        }
        for of in facts.measures
    ]
    sentences = facts.sentences.rename(columns={"text": "name"}).assign(kind="sentence")
    languages = facts.languages.rename(columns={"language": "name"}).assign(kind="language")
    tokens = facts.tokens.rename(columns={"token": "name", "effect": "value"})
    parts = [
        pd.DataFrame(measures),
        sentences,
        languages,
        tokens.assign(kind="token " + tokens["direction"]),
    ]
    columns = ["kind", "rank", "name", "value", "selected", "positive"]
    columns += ["rotated_low", "rotated_high"]
    return pd.concat(
        [part.reindex(columns=columns).astype(object) for part in parts], ignore_index=True
    )


def sentence_text(of: OfSentence, languages: Sequence[str]) -> str:
    """Return as HTML where a sentence stands on a dimension.

    Args:
        of: From `of_sentence`.
        languages: Those that the sentence was read in.
    """
    where = "in" if of.selected else "not in"
    positive = "/".join(of.positive) or "no language"
    share = {0.0: "any text", 1.0: "all"}.get(of.below, f"{of.below:.0%}")
    than = "no more than" if of.below == 0 else "more than"
    return (
        f"<p><b>The sentence</b> has {of.value:.4g} (mean over {'/'.join(languages)}), {than} "
        f"{share} of the corpus in the same languages. The dimension is {where} its S(x), "
        f"and positive in {positive}.</p>"
    )


def _measured(facts: DimensionFacts) -> str:
    """Return how frequent a dimension is, what it adds, and whether the languages agree on it."""
    j, d, (selected, share) = facts.dimension, len(facts.frequency), facts.measures
    agreed = ""
    if len(facts.languages) > 1:
        agreed = f"; {facts.agreement[j]:.0%} of its variance lies between texts, not languages"
    return (
        f"is in S(x) of {selected.here:.1%} of the texts (place {selected.place} of {d}) and has "
        f"{_percent(share.here)} of their mean cosine (place {share.place}){agreed}."
    )


def dimension_caption(facts: DimensionFacts) -> str:
    """Return the numbers of a dimension as one line."""
    tokens = {
        direction: ", ".join(label(token) for token in part["token"])
        for direction, part in facts.tokens.groupby("direction", sort=False)
    }
    return (
        f"Dimension {facts.dimension} of {SYMBOLS[facts.component]} {_measured(facts)} "
        f"{survival(facts)} Logit lens: promotes {tokens[PROMOTED]}; demotes {tokens[DEMOTED]}."
    )


def dimension_text(facts: DimensionFacts) -> str:
    """Return the numbers of a dimension as HTML, and what the logit lens of the figure is."""
    rows = "".join(
        f'<tr><td>{row.rank}</td><td dir="auto">{html.escape(row.text)}</td>'
        f"<td>{row.value:.4g}</td><td>{'yes' if row.selected else 'no'}</td>"
        f"<td>{row.positive}</td></tr>"
        for row in facts.sentences.itertuples()
    )
    computed = LOGIT_LENS["final" if facts.component == "final" else "stream"]
    return (
        f"<p><b>Dimension {facts.dimension}</b> {_measured(facts)}</p><p>{survival(facts)}</p>"
        "<table><thead><tr><th></th><th>Sentence</th><th>value</th><th>in S(x)</th>"
        f"<th>positive in</th></tr></thead><tbody>{rows}</tbody></table>"
        f"<p><small>Tokens promoted and demoted, by the logit lens: {computed}.</small></p>"
    )
