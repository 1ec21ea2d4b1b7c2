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
from dysem_lab.questions.scores import pair_cosine
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import (
    PALETTE,
    SCORE,
    annotate,
    band,
    gain,
    interval,
    layout,
    noted,
    rows_of,
    whiskers,
)

TEMPERATURE = 0.1
COLUMNS = 4  # of panels
MARKS = {  # column → symbol, its size and name
    "best": ("star", 12, "best score on these pairs"),
    "chosen": ("circle-open", 15, "chosen without labels"),  # a star is seen through it
}


def layer_choice(study: Study, *, seed: int = 0) -> Finding:
    """Choose the layer of an embedding without labels, and say what that costs.

    The measure is `invariance`: at each layer, how well a text is told from the others by its
    renderings in the study's other languages, which may be paraphrases ("en-1"). No rating is read
    for it. Beside it are the scores, and the gap to the layer that scores best on these pairs,
    which nobody without their labels would know. Each task has a choice of its own.

    Args:
        study: Its tasks, one of them or more in English and other languages; its first template,
            in English prompts.
        seed: Of the bootstraps.

    Returns:
        One row per ``task`` and ``layer`` (0-based block after which h^l is read) with
        ``invariance``, the columns of `dysem_lab.evaluate.score` of the plain cosine in English;
        ``chosen`` and ``best``; ``difference``, ``difference_low``, ``difference_high``, ``p``:
        paired, to the chosen layer. In a task in English alone nothing is chosen.

    Raises:
        InputError: English alone, or fewer than two different texts.

    Source: choosing by invariance: arXiv 2502.02013, whose augmentations are random changes of the
    text; renderings in their place are ours.
    """
    asked(study, seed=seed)
    views = {
        task: [code for code in study.task_languages(task) if code != "en"] for task in study.data
    }
    if not any(views.values()):
        raise InputError(
            "an invariance needs renderings: give the study other languages, or paraphrases such "
            "as 'en-1'"
        )
    for task, codes in views.items():
        if codes and len(different_texts(study.texts(task, "en"))) < 2:
            raise InputError(
                f"an invariance needs two different texts or more, {task} has only one"
            )
    english = study.prompted(study.templates[0], "english")
    prepare(english.needs((), each="resid"))
    table = pd.concat(
        [_of_task(english, task, codes, seed) for task, codes in views.items()], ignore_index=True
    )
    codes = list(dict.fromkeys(code for of_task in views.values() for code in of_task))
    prompt = {"template": study.templates[0], "setting": "english", "component": "resid"}
    facts = facts_of(study, views=codes, **prompt, temperature=TEMPERATURE, seed=seed)
    return Finding("layer_choice", table, figure(table, facts), caption(table, codes), facts)


def _of_task(english: Study, task: str, codes: Sequence[str], seed: int) -> pd.DataFrame:
    """Return the rows of a task."""

    def at_layers(code: str) -> Float[Tensor, "twice_n L d"]:
        return english.vectors(task, "resid", languages=[code], layers="each")[:, 0]

    x, gold = at_layers("en"), english.data[task].gold
    n_layers, width = x.shape[1:]
    kept = different_texts(english.texts(task, "en"))
    measured = np.full((len(codes), n_layers), np.nan)
    for i, code in enumerate(codes):  # one at a time: all views at every layer are many gigabytes
        view = at_layers(code)
        for layer in range(n_layers):
            measured[i, layer] = invariance(x[kept, layer], view[kept, layer])
    of_layers = measured.mean(0) if codes else np.full(n_layers, np.nan)
    chosen = int(np.argmax(of_layers)) if codes else None
    similarity = [pair_cosine(x[:, layer]) for layer in range(n_layers)]
    rows = []
    for layer, (of_pairs, value) in enumerate(zip(similarity, of_layers, strict=True)):
        row = {"task": task, "layer": layer, "invariance": value}
        row |= score(of_pairs, gold, width, seed=seed) | {"chosen": layer == chosen}
        found = dict.fromkeys(("difference", "low", "high", "p"), np.nan)
        if chosen is not None:
            found = paired_difference(of_pairs, similarity[chosen], gold, seed=seed)
        row |= {"difference": found["difference"]}
        row |= {f"difference_{end}": found[end] for end in ("low", "high")}
        rows.append({**row, "p": found["p"]})
    table = pd.DataFrame(rows)
    table.insert(4, "best", table["spearman"] == table["spearman"].max())
    return table


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
    others = (logits.logsumexp(0) + logits.logsumexp(1)) / 2
    return float(np.log(len(x)) + (logits.diagonal() - others).mean())


def figure(table: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return scores against the layer, and below them the measure that reads no label, by task."""
    tasks = list(dict.fromkeys(table["task"]))
    columns, n_rows = min(COLUMNS, len(tasks)), rows_of(tasks, COLUMNS)
    names = [*tasks, *[""] * (n_rows * columns - len(tasks))] if len(tasks) > 1 else [""]
    titles = [
        title
        for start in range(0, len(names), columns)
        for title in [*names[start : start + columns], *[""] * columns]
    ]
    drawn = make_subplots(
        2 * n_rows,
        columns,
        subplot_titles=titles,
        horizontal_spacing=0.06,
        vertical_spacing=0.08 if n_rows == 1 else 0.22 / n_rows,  # titles of axes and of panels
    )
    named: set[str] = set()
    for i, (_, part) in enumerate(table.groupby("task", sort=False)):
        above, col = 1 + 2 * (i // columns), 1 + i % columns
        blocks = part["layer"] + 1
        where = {"row": above, "col": col}
        band(drawn, blocks, part["low"], part["high"], PALETTE[1], 0.12, **where)
        for row, (column, colour) in enumerate((("spearman", 1), ("invariance", 2)), above):
            drawn.add_scatter(
                x=blocks,
                y=part[column],
                mode="lines",
                line_color=PALETTE[colour],
                showlegend=False,
                row=row,
                col=col,
            )
        for name, (symbol, size, label) in MARKS.items():
            marked = part[part[name]].head(1)
            drawn.add_scatter(
                x=marked["layer"] + 1,
                y=marked["spearman"],
                mode="markers",
                name=label,
                legendgroup=name,
                showlegend=len(marked) > 0 and name not in named,
                marker={
                    "symbol": symbol,
                    "size": size,
                    "color": PALETTE[0],
                    "line": {"color": PALETTE[0], "width": 2},
                },
                cliponaxis=False,
                **where,
            )
            named |= {name} if len(marked) else set()
        room = max(0.5, 0.05 * len(blocks))  # for a mark at an end
        drawn.update_xaxes(range=[1 - room, blocks.max() + room], col=col)
        if part["invariance"].isna().all():
            middle = {"xref": "x domain", "yref": "y domain", "row": above + 1, "col": col}
            annotate(drawn, "no renderings", 0.5, 0.5, **middle)
            drawn.update_yaxes(showticklabels=False, row=above + 1, col=col)
        blocks_run = "blocks before the embedding is read" if len(tasks) == 1 else "blocks run"
        drawn.update_xaxes(title=blocks_run, row=above + 1, col=col)
    # Panels of one kind have one range: their heights are compared.
    ranges = [
        [float(np.nanmin(values)), float(np.nanmax(values))]
        for values in (table[["spearman", "low", "high"]], table["invariance"])
    ]
    for row in range(1, 2 * n_rows + 1):
        low, high = ranges[(row - 1) % 2]
        room = 0.06 * (high - low)
        drawn.update_yaxes(range=[low - room, high + room], nticks=6, row=row)
        drawn.update_yaxes(title=(SCORE, "invariance (nats)")[(row - 1) % 2], row=row, col=1)
    # Between the two panels of a task stands no title: the lower one takes the room.
    for i in range(len(tasks)):
        above, col = 1 + 2 * (i // columns), 1 + i % columns
        upper, lower = (drawn.get_subplot(above + j, col).yaxis for j in range(2))
        lower.domain = (lower.domain[0], upper.domain[0] - 0.08 / n_rows)
    title = "Which layer, without labels?"
    return layout(drawn, title, noted(facts, whiskers(table, "shaded")), 520 * n_rows + 180)


def caption(table: pd.DataFrame, codes: Sequence[str]) -> str:
    """Return the gap between the layer that is chosen without labels and the best, then scores."""
    measured = table[table["invariance"].notna()]
    chosen = measured[measured["chosen"]].set_index("task")
    best = measured[measured["best"]].drop_duplicates("task").set_index("task")
    last = measured.drop_duplicates("task", keep="last").set_index("task")
    of = f"{SCORE}, chosen by renderings in {'/'.join(codes)}"
    n_layers = table["layer"].nunique()
    alone = [task for task in table["task"].unique() if task not in chosen.index]
    left = f" Nothing can be chosen in English alone: {', '.join(alone)}." if alone else ""
    if len(chosen) > 1:
        mean = {name: rows["spearman"].mean() for name, rows in (("c", chosen), ("b", best))}
        blocks = ", ".join(
            f"{task} {chosen['layer'][task] + 1} ({best['layer'][task] + 1})"
            for task in chosen.index
        )
        return (
            f"A layer that is chosen without labels scores {mean['b'] - mean['c']:.1f} less than "
            f"the best of each task, on average. {of}, mean over {len(chosen)} tasks: "
            f"{mean['c']:.1f} where it is chosen, {mean['b']:.1f} at the best, "
            f"{last['spearman'].mean():.1f} after the last block. Chosen (best) blocks of "
            f"{n_layers}: {blocks}.{left}"
        )
    here, top, end = chosen.iloc[0], best.iloc[0], last.iloc[0]
    gap = "is the best on these pairs"
    if here["layer"] != top["layer"]:
        gap = (
            f"scores {gain(top, 'difference').removeprefix('+')} less than the best on these pairs"
        )
    return (
        f"The layer that is chosen without labels, block {here['layer'] + 1} of {n_layers}, {gap}. "
        f"{of}, on {amount(here['n_pairs'], 'pair')}: {interval(here)} where it is chosen, "
        f"{top['spearman']:.1f} at the best, block {top['layer'] + 1}, {end['spearman']:.1f} after "
        f"the last block.{left}"
    )
