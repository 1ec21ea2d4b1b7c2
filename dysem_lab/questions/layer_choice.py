"""Which layer, without labels? The one at which a text is nearest to its own renderings."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from plotly.subplots import make_subplots
from torch import Tensor

from dysem_lab.display import amount
from dysem_lab.errors import InputError
from dysem_lab.evaluate import paired_difference, score
from dysem_lab.questions.asked import asked
from dysem_lab.questions.finding import Facts, Finding, facts_of
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.overlap import different_texts
from dysem_lab.questions.scores import only_task, pair_cosine
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import PALETTE, SCORE, band, layout

TEMPERATURE = 0.1


def layer_choice(study: Study, *, seed: int = 0) -> Finding:
    """Choose the layer of an embedding without labels, and say what that costs.

    The measure is `invariance`: at each layer, how well a text is told from the others by its
    renderings in the study's other languages, which may be paraphrases ("en-1"). No rating is read
    for it. Beside it are the scores, and the gap to the layer that scores best on these pairs,
    which nobody without their labels would know.

    Args:
        study: Of one task, in English and other languages; its first template, in English prompts.
        seed: Of the bootstraps.

    Returns:
        One row per ``layer`` (0-based block after which h^l is read) with ``invariance``, the
        columns of `dysem_lab.evaluate.score` of the plain cosine in English; ``chosen`` and
        ``best``; ``difference``, ``difference_low``, ``difference_high``, ``p``: paired, to the
        chosen layer.

    Raises:
        InputError: Several tasks, English alone, or fewer than two different texts.

    Source: choosing by invariance: arXiv 2502.02013, whose augmentations are random changes of the
    text; renderings in their place are ours.
    """
    asked(study, seed=seed)
    task = only_task(study)
    codes = [code for code in study.task_languages(task) if code != "en"]
    if not codes:
        raise InputError(
            "an invariance needs renderings: give the study other languages, or paraphrases such "
            "as 'en-1'"
        )
    kept = different_texts(study.texts(task, "en"))
    if len(kept) < 2:
        raise InputError("an invariance needs two different texts or more, the study has one")
    english = study.prompted(study.templates[0], "english")
    prepare(english.needs((), each="resid"))
    x, *views = english.vectors(task, "resid", languages=["en", *codes], layers="each").unbind(1)
    gold, width = study.data[task].gold, x.shape[-1]
    similarity = [pair_cosine(x[:, layer]) for layer in range(x.shape[1])]
    measured = [
        float(np.mean([invariance(x[kept, layer], view[kept, layer]) for view in views]))
        for layer in range(x.shape[1])
    ]
    chosen = int(np.argmax(measured))
    rows = []
    for layer, (of_pairs, value) in enumerate(zip(similarity, measured, strict=True)):
        found = paired_difference(of_pairs, similarity[chosen], gold, seed=seed)
        difference = {f"difference_{name}": found[name] for name in ("low", "high")}
        rows.append(
            {
                "layer": layer,
                "invariance": value,
                **score(of_pairs, gold, width, seed=seed),
                "chosen": layer == chosen,
                "difference": found["difference"],
                **difference,
                "p": found["p"],
            }
        )
    table = pd.DataFrame(rows)
    table.insert(3, "best", table["spearman"] == table["spearman"].max())
    prompt = {"template": study.templates[0], "setting": "english", "component": "resid"}
    facts = facts_of(study, views=codes, **prompt, temperature=TEMPERATURE, seed=seed)
    return Finding("layer_choice", table, figure(table, facts), caption(table, codes), facts)


def invariance(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], temperature: float = TEMPERATURE
) -> float:
    """Return the InfoNCE bound on what x_i and y_i share, in nats: at most log n.

    It is log n plus the mean of log softmax over j of cos(x_i, y_j)/τ at j = i, of x among y and of
    y among x. At 0, a text is as near to others' renderings as to its own.

    Source: van den Oord et al., arXiv 1807.03748, Section 2.3.
    """
    x, y = (torch.nn.functional.normalize(one.double(), dim=-1) for one in (x, y))
    logits = x @ y.T / temperature
    own = (logits.log_softmax(0).diagonal() + logits.log_softmax(1).diagonal()).mean() / 2
    return float(np.log(len(x)) + own)


def figure(table: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return scores against the layer, and below them the measure that reads no label."""
    drawn = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.08)
    blocks = table["layer"] + 1
    band(drawn, blocks, table["low"], table["high"], PALETTE[1], 0.12, row=1, col=1)
    for row, (column, colour) in enumerate((("spearman", 1), ("invariance", 2)), 1):
        drawn.add_scatter(
            x=blocks,
            y=table[column],
            line_color=PALETTE[colour],
            showlegend=False,
            row=row,
            col=1,
        )
    for name, symbol, label in (
        ("chosen", "circle", "chosen without labels"),
        ("best", "star", "best score on these pairs"),
    ):
        part = table[table[name]].head(1)
        drawn.add_scatter(
            x=part["layer"] + 1,
            y=part["spearman"],
            mode="markers",
            name=label,
            marker={"symbol": symbol, "size": 13, "color": PALETTE[0]},
            row=1,
            col=1,
        )
    drawn.update_yaxes(title=SCORE, row=1)
    drawn.update_yaxes(title="invariance (nats)", row=2)
    drawn.update_xaxes(title="blocks before the embedding is read", row=2)
    return layout(drawn, "Which layer, without labels?", facts, 620)


def caption(table: pd.DataFrame, codes: Sequence[str]) -> str:
    """Return one line: the layer that is chosen without labels, and the gap to the best."""
    chosen, best, last = (
        table[table["chosen"]].iloc[0],
        table[table["best"]].iloc[0],
        table.iloc[-1],
    )
    gap = "it is the best one"
    if chosen["layer"] != best["layer"]:
        low, high = best["difference_low"], best["difference_high"]
        gap = (
            f"{best['difference']:.1f} [{low:.1f}, {high:.1f}] below the best on these pairs, "
            f"block {best['layer'] + 1} with {best['spearman']:.1f}"
        )
    return (
        f"{SCORE} of {amount(chosen['n_pairs'], 'pair')}. Without labels, by renderings in "
        f"{'/'.join(codes)}, the layer is block {chosen['layer'] + 1} of {len(table)} with "
        f"{chosen['spearman']:.1f}: {gap}; after the last block it is {last['spearman']:.1f}."
    )
