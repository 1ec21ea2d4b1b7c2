"""Which pairs does the similarity get most wrong, and which heads make it so? Notebook 29.

Spearman's correlation is 1 − 6 Σ D² / (n (n² − 1)) without ties, D the difference of a pair's two
ranks: so the rank residuals are what the score loses, pair by pair.
"""

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy.stats import binomtest

from dysem_lab.consensus import consensus_set
from dysem_lab.display import amount
from dysem_lab.errors import InputError
from dysem_lab.evaluate import spearman
from dysem_lab.prompts import wrap
from dysem_lab.questions.asked import asked
from dysem_lab.questions.finding import Facts, Finding, facts_of
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.pair_parts import PairParts, pair_parts, part_means
from dysem_lab.questions.reference import corpus_of
from dysem_lab.questions.scores import only_task, require_order
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import PALETTE, annotate, layout, side_by_side

SHOWN = 6  # pairs that are written beside the figure
SURE = 6  # pairs of one kind that a coin would not give, at 5 %
WIDTH = 62  # characters of a text there


@dataclass(frozen=True, repr=False)
class Residuals(Finding):
    """Pairs by how far their similarity is from what their gold score predicts.

    Attributes:
        parts: Of the pairs that are furthest away, the parts that make them so: a row per pair and
            part.
    """

    parts: pd.DataFrame


def residuals(
    study: Study,
    languages: Sequence[str],
    *,
    k: int | float = 0.25,
    n_pairs: int = 10,
    n_parts: int = 3,
    centre: object = "demo",
) -> Residuals:
    """Order pairs by rank residual: the rank of their similarity less that of their gold score.

    The gold score is people's mean rating in the published tasks, and what its writers assigned in
    the demo set.

    The similarity is the cosine of A^L of the English passes on U = S(x) ∪ S(y), centred on a
    reference corpus: an exact sum of what heads wrote. Of the pairs that are furthest away, the
    heads are named that push them there: those that add most, beside what they add to all pairs
    on average, in the residual's direction. Parts are never held for more than one batch of texts.

    Args:
        study: Of one task. Its first template and first prompt setting are used.
        languages: 𝓛 of the consensus, which S(x) is chosen by.
        k: Dimensions per text, or a fraction of d.
        n_pairs: How many pairs are explained.
        n_parts: How many parts are named for each.
        centre: The reference corpus, in English: "demo", `STSData` or a mapping from languages to
            texts.

    Returns:
        One row per pair, furthest first: ``pair``, ``x``, ``y``, ``gold``, ``similarity``
        (centred), ``similarity_encoder`` (not centred), ``rank_gold`` and ``rank_similarity`` (from
        0 to 1, ties by their mean), ``residual``, their difference (above 0: more alike for the
        model than by the gold score), and ``share``, of the sum of squared residuals. NaN where a
        similarity is undefined. In ``parts`` for the first `n_pairs`: ``rank``, ``kind``,
        ``block``, ``head`` (0-based), ``added`` to this pair's similarity, ``usual``, the mean over
        all pairs, and ``push``, the difference of the two.

    Raises:
        InputError: Several tasks, fewer than 3 pairs, pairs with one score, an unknown language or
            k, or a corpus that is none.
        ModelError: The parts do not add up in this architecture.

    Source: rank residuals, Spearman (1904); parts, as for `dysem_lab.explain`.
    """
    given = asked(study, languages=languages, k=k, n_pairs=n_pairs)
    unsaid = asked(study, n_parts=n_parts)
    task, codes = only_task(study), given["languages"]
    if (n := len(study.data[task])) < 3:
        raise InputError(f"{amount(n, 'pair')} cannot be compared by rank; give 3 or more")
    require_order(study.data[task])
    corpus = corpus_of(centre, ["en"], "en")
    read = list(dict.fromkeys(["en", *codes]))
    study = study.prompted(study.templates[0], study.settings[0], read)
    prepare(study.needs("attn"), runs_the_model=True)
    template = study.templates[0]
    means = part_means(study.lens, wrap(corpus.renderings["en"], template))
    sets = consensus_set(study.vectors(task, "attn", languages=codes), k)
    v = study.vectors(task, "attn", languages=["en"])[:, 0]
    prompts = study.prompts(task, template, study.settings[0], "en").prompts
    parts = pair_parts(study.lens, prompts, v, sets, means)
    table = _table(parts, study, task)
    explained = _explained(parts, table.head(n_pairs), n_parts)
    facts = facts_of(study, **given, centre=corpus.name)
    reference = {"name": corpus.name, "digest": corpus.digest, "texts": corpus.n_texts}
    rows = [row.dropna().to_dict() for _, row in explained.iterrows()]  # a bias has no head
    recorded = {"reference": reference, "explained": rows}
    facts = replace(facts, unsaid=unsaid, recorded={**facts.recorded, **recorded})
    said = caption(table, explained)
    return Residuals("residuals", table, figure(table, explained, facts), said, facts, explained)


def _table(parts: PairParts, study: Study, task: str) -> pd.DataFrame:
    """Return one row per pair, furthest first."""
    data, n = study.data[task], len(study.data[task])
    texts = data.texts("en")
    table = pd.DataFrame({"pair": range(n), "x": texts[:n], "y": texts[n:], "gold": data.gold})
    table = table.assign(similarity=parts.similarity, similarity_encoder=parts.own)
    defined = table["similarity"].notna()
    for name in ("gold", "similarity"):
        ranks = table[name].where(defined).rank()
        table[f"rank_{name}"] = (ranks - 1) / max(1, int(defined.sum()) - 1)
    table["residual"] = table["rank_similarity"] - table["rank_gold"]
    squares = table["residual"] ** 2
    table["share"] = squares / squares.sum()
    order = table["residual"].abs().sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index(drop=True)


def _explained(parts: PairParts, furthest: pd.DataFrame, n_parts: int) -> pd.DataFrame:
    """Return the parts that push each pair in the direction of its residual."""
    usual = np.nanmean(parts.added, axis=0)
    rows = []
    for row in furthest[furthest["residual"].notna()].itertuples():
        push = parts.added[row.pair] - usual
        best = np.argsort(-push * np.sign(row.residual), kind="stable")[:n_parts]
        for rank, i in enumerate(best, 1):
            label = parts.labels[i]
            named = {"pair": row.pair, "rank": rank, "kind": label.kind}
            named |= {"block": label.block, "head": label.head}
            added = {"added": parts.added[row.pair, i], "usual": usual[i], "push": push[i]}
            rows.append({**named, **added})
    return pd.DataFrame(rows)


def figure(table: pd.DataFrame, parts: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return the ranks of all pairs, and the furthest ones in words.

    Args:
        table: Of `residuals`.
        parts: Its parts.
        facts: What it was measured on.
    """
    shown = table.head(SHOWN)
    drawn = side_by_side(["", ""], [0.44, 0.56], 0.02, shared_yaxes=False)
    for part, colour, size in ((table[SHOWN:], PALETTE[6], 5), (shown, PALETTE[0], 9)):
        drawn.add_scatter(
            x=part["rank_gold"],
            y=part["rank_similarity"],
            mode="markers+text" if size > 5 else "markers",
            text=[f"{i}" for i in range(1, 1 + len(part))] if size > 5 else None,
            textposition="top center",
            marker={"color": colour, "size": size, "opacity": 1 if size > 5 else 0.6},
            customdata=part[["x", "y"]],
            hovertemplate="%{customdata[0]}<br>%{customdata[1]}<extra></extra>",
            showlegend=False,
            row=1,
            col=1,
        )
    ends = {"range": [-0.06, 1.08], "row": 1, "col": 1}
    drawn.update_xaxes(title="rank of the gold score", **ends)
    drawn.update_yaxes(title="rank of the similarity", **ends)
    drawn.update_xaxes(visible=False, range=[0, 1], row=1, col=2)
    drawn.update_yaxes(visible=False, range=[0, 1], row=1, col=2)
    for i, (_, row) in enumerate(shown.iterrows()):
        texts = [textwrap.shorten(row[side], WIDTH, placeholder=" …") for side in ("x", "y")]
        of_pair = parts[parts["pair"] == row["pair"]]
        heads = ", ".join(f"{_name(part)} {part['push']:+.2f}" for _, part in of_pair.iterrows())
        escaped = [html.escape(text, quote=False) for text in texts]
        said = [f"<b>{i + 1}</b>  {escaped[0]}", escaped[1]]
        numbers = f"gold score {row['gold']:g}, residual {row['residual']:+.2f}, pushed by"
        said.append(f"<span style='color:#666666'>{numbers}<br>{heads}</span>")
        place = {"xanchor": "left", "yanchor": "top", "align": "left", "font": {"size": 12}}
        annotate(drawn, "<br>".join(said), 0.46, 1.02 - i / SHOWN, **place)
    return layout(drawn, "Which pairs does the similarity get most wrong?", facts, 740)


def caption(table: pd.DataFrame, parts: pd.DataFrame) -> str:
    """Return what was found in a sentence of meaning, then the numbers.

    Args:
        table: Of `residuals`.
        parts: Its parts.
    """
    kept = table[table["residual"].notna()]
    furthest = kept.head(max(1, round(len(kept) / 10)))
    alike = int((furthest["residual"] > 0).sum())
    n = len(furthest)
    kinds = {
        "pairs that the model finds more alike than their gold scores say": alike,
        "pairs that the model finds less alike than their gold scores say": n - alike,
    }
    most = max(kinds, key=lambda name: kinds[name])
    sure = binomtest(kinds[most], n).pvalue < 0.05
    lead = f"mostly on {most}" if sure else f"about equally on {' and on '.join(kinds)}"
    counted = str(kinds[most]) if sure else " and ".join(map(str, kinds.values()))
    said = (
        f"The score is lost {lead}: {counted} of the {n} pairs (a tenth) that are furthest from "
        f"their gold score, which make {furthest['share'].sum():.0%} of the squared rank residuals."
    )
    if n < SURE:
        said = (
            f"{amount(len(kept), 'pair')} are too few to say on which the score is lost; the one "
            f"that is furthest from its rating makes {kept['share'].iloc[0]:.0%} of the squared "
            "rank residuals."
        )
    often = parts.assign(name=[_name(row) for _, row in parts.iterrows()])["name"].value_counts()
    whole = spearman(kept["similarity"].to_numpy(), kept["gold"].to_numpy())
    return (
        f"{said} The part that most often pushes the {parts['pair'].nunique()} furthest there is "
        f"{often.index[0]} ({amount(often.iloc[0], 'pair')}). Spearman × 100 of the centred "
        f"similarity {whole:.1f} on {amount(len(kept), 'pair')}; residuals are differences of "
        "ranks, from 0 to 1."
    )


def _name(row: pd.Series) -> str:
    """Return a part in words."""
    block = f"block {row['block'] + 1:.0f}"
    return f"{block} head {row['head'] + 1:.0f}" if row["kind"] == "head" else f"{block} bias"
