"""What can a linear classifier read from the vectors? Notebook 21."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from dysem_lab.data.transfer_data import TransferData
from dysem_lab.display import amount
from dysem_lab.encoders.base import Encoder, PromptEncoder, templates_of
from dysem_lab.encoders.contrastive import ContrastivePrompting, check_output
from dysem_lab.inputs import at_least, seed_of
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.lens import LensModel
from dysem_lab.models.named import NamedModel
from dysem_lab.models.steering import Contrast, alpha_is_undone
from dysem_lab.models.store import VectorStore
from dysem_lab.questions.contrast_rows import EITHER
from dysem_lab.questions.finding import Facts, Finding
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.scores import LEVEL, certain, counted_once
from dysem_lab.questions.style import (
    PALETTE,
    difference_axis,
    gain,
    interval,
    layout,
    lines_down,
    measured,
    range_with_room,
    side_by_side,
)
from dysem_lab.questions.transfer_scores import AVERAGE, compare_encoders, tasks_of

ACCURACY = "accuracy × 100"
SCALING, RECOVERING = "CP, norm scaling", "CP, norm recovering"
MAJORITY = "#333333"
ROW, GAP = 22, 16  # in px: a method's line, the room between two tasks


def transfer(
    model: str | Path | LensModel,
    data: Sequence[TransferData],
    *,
    template: str = "prompteol",
    layer: int = 6,
    alpha: float = 4.0,
    inner_folds: int = 10,
    sample: int | None = None,
    seed: int = 0,
    store: VectorStore | None = None,
) -> Finding:
    """Say what a linear classifier reads from plain vectors, and from those of CP.

    Four ways to a vector: the plain prompt after the final norm and before the last block, and
    Contrastive Prompting with norm scaling and norm recovering before the last block.

    Args:
        model: A name for `dysem_lab.load_model`, or a model that is loaded already.
        data: Tasks, from `dysem_lab.load_transfer`.
        template: Of all prompts.
        layer: Block of the contrast, 0-based.
        alpha: Of norm scaling.
        inner_folds: As for `dysem_lab.transfer_scores`.
        sample: As for `dysem_lab.transfer_scores`.
        seed: Of the sample and of the bootstraps.
        store: Keeps vectors; None is the user's.

    Returns:
        As from `dysem_lab.compare_encoders`, with ``repeated``: whether an earlier row has the same
        vectors, as both norms give where a norm undoes α. Holm counts them once.

    Raises:
        InputError: As for `dysem_lab.compare_encoders`.

    Source: CP (arXiv 2505.12831), Table 6.
    """
    named, data = NamedModel(model), tasks_of(data)
    templates_of(template)
    if size := named.size():
        check_output("penultimate", Contrast(layer, alpha=alpha), size[0])
    inner_folds, seed = at_least(inner_folds, 2, "inner_folds"), seed_of(seed)
    sample = sample if sample is None else at_least(sample, 1, "sample")
    prepare(data=data, runs_the_model=True)
    lens = named.lens
    store = VectorStore() if store is None else store
    cp = partial(ContrastivePrompting, lens, layer, output_layer="penultimate", template=template)
    encoders: dict[str, Encoder] = {
        "plain, after the final norm": PromptEncoder(lens, template, "final"),
        "plain, penultimate block": PromptEncoder(lens, template, "penultimate"),
        SCALING: cp(norm="scaling", alpha=alpha),
        RECOVERING: cp(norm="recovering"),
    }
    scores = compare_encoders(
        {name: partial(encoder.encode, store=store) for name, encoder in encoders.items()},
        data,
        sample=sample,
        seed=seed,
        inner_folds=inner_folds,
    )
    undone = alpha_is_undone(Contrast(layer, alpha=alpha), lens)
    one = scores["method"].replace({RECOVERING: SCALING} if undone else {})
    scores = counted_once(scores, scores["task"] + "|" + one, "difference")
    shown = scores[~scores["repeated"]].replace({"method": {SCALING: EITHER} if undone else {}})
    said = caption(shown)
    if undone:
        said += " A norm undoes α, so both norms of CP are one setting, which is counted once."
    asked = {"template": template, "layer": layer, "alpha": alpha, "inner_folds": inner_folds}
    facts = facts_of_transfer(lens.facts, data, sample, seed, **asked)
    return Finding("transfer", scores, figure(shown, facts), said, facts)


def figure(table: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return accuracies on the left and, with several methods, paired differences on the right."""
    methods = list(dict.fromkeys(table["method"]))
    tasks = list(dict.fromkeys(table["task"]))
    step = ROW / (ROW * len(methods) + GAP)
    offsets = {name: step * (i - (len(methods) - 1) / 2) for i, name in enumerate(methods)}
    place = table["task"].map({task: i for i, task in enumerate(tasks)})
    place = place + table["method"].map(offsets)
    several = len(methods) > 1
    titles = ["accuracy", f"difference to {methods[0]}"] if several else ["accuracy"]
    drawn = side_by_side(titles, [0.52, 0.48] if several else [1.0], 0.04)
    difference = ["difference", "difference_low", "difference_high"]
    ends = range_with_room(table[["low", "high", "majority"]], 0.16)
    for i, method in enumerate(methods):
        rows = table["method"] == method
        part, y, colour = table[rows], place[rows], PALETTE[i % len(PALETTE)]
        said = {
            "customdata": part[["task"]],
            "hovertemplate": "%{customdata[0]}: %{x:.2f}",
        }
        values = part[["accuracy", "low", "high"]]
        measured(drawn, values, y, 1, method, colour, ".1f", _clear(part, ends), **said)
        if i:
            gains = part.apply(gain, axis=1, name="difference")
            beyond = part["difference_high"].clip(lower=0.0)  # not across the line at 0
            measured(drawn, part[difference], y, 2, method, colour, gains, beyond, **said)
    _majority(drawn, table, tasks, (len(methods) / 2 + 0.2) * step)
    lines_down(drawn, [_task_label(table, task) for task in tasks], 0.5, 0.5)
    drawn.update_xaxes(title=ACCURACY, range=ends, col=1)
    if several:
        bounds = table[difference[1:]].assign(zero=0.0)
        difference_axis(drawn, ACCURACY, range_with_room(bounds, 0.7), col=2)
    height = (ROW * len(methods) + GAP) * len(tasks) + 240
    under = f"{facts}, whiskers: 95 % intervals"
    layout(drawn, "What can a linear classifier read from the vectors?", under, max(420, height))
    return drawn.update_layout(margin_l=130)


def _clear(part: pd.DataFrame, ends: Sequence[float]) -> pd.Series:
    """Return where labels begin: at the end of an interval, or after a dotted line in the way."""
    label = 0.12 * (ends[1] - ends[0])  # as wide as "100.0" is in the narrower panel
    in_the_way = (part["majority"] >= part["high"]) & (part["majority"] <= part["high"] + label)
    return part["high"].where(~in_the_way, part["majority"])


def _task_label(table: pd.DataFrame, task: str) -> str:
    """Return the name of a task with the number of items that were scored."""
    if task == AVERAGE:
        return f"<b>{AVERAGE}</b>"
    small = f"n = {table.loc[table['task'] == task, 'n_test'].iloc[0]:,}"
    return f"{task}<br><span style='font-size:11px'>{small}</span>"


def _majority(figure: go.Figure, table: pd.DataFrame, tasks: Sequence[str], half: float) -> None:
    """Add a line per task at the accuracy of always answering its most frequent class."""
    first = table.drop_duplicates("task").set_index("task")["majority"]
    xs = [x for task in tasks for x in (first[task], first[task], None)]
    ys = [y for i in range(len(tasks)) for y in (i - half, i + half, None)]
    figure.add_scatter(
        x=xs,
        y=ys,
        mode="lines",
        line={"color": MAJORITY, "width": 2, "dash": "dot"},
        name="always the most frequent class",
        hovertemplate="always the most frequent class: %{x:.1f}",
        row=1,
        col=1,
    )


def caption(table: pd.DataFrame) -> str:
    """Return one line: every method's mean accuracy, and which differences are certain.

    A difference is certain where its p is below 0.05 after Holm, over all tasks and methods.
    """
    tasks = [task for task in dict.fromkeys(table["task"]) if task != AVERAGE]
    over = table[table["task"] == (AVERAGE if len(tasks) > 1 else tasks[0])]
    what = (
        f"Mean {ACCURACY} over {len(tasks)} tasks" if len(tasks) > 1 else f"{ACCURACY}, {tasks[0]}"
    )
    values = [f"{row['method']} {interval(row, 'accuracy')}" for _, row in over.iterrows()]
    majority = over["majority"].iloc[0]
    text = (
        f"{what[0].upper()}{what[1:]}: {', '.join(values)}; always answering the most frequent "
        f"class gives {majority:.1f}."
    )
    compared = table[(table["task"] != AVERAGE) & table["difference"].notna()]
    if compared.empty:
        return text
    against = table["method"].iloc[0]
    verdicts = []
    for method, rows in compared.groupby("method", sort=False):
        up, down = certain(rows, "difference")
        verdicts.append(f"{method} is above in {up} and below in {down} of {len(rows)}")
    holm = f"p < {LEVEL:g} after Holm over {amount(len(compared), 'comparison')}"
    return f"Against {against}, for certain ({holm}): {'; '.join(verdicts)}. {text}"


def facts_of_transfer(
    model: ModelFacts,
    data: Sequence[TransferData],
    sample: int | None = None,
    seed: int = 0,
    **settings: object,
) -> Facts:
    """Return the facts of what was measured on whole transfer tasks, or on a sample of each."""
    sampled = [one.sample(sample, seed) for one in data]
    used, whole = sum(map(len, sampled)), sum(map(len, data))
    label = data[0].task if len(data) == 1 else f"{len(data)} tasks"
    words = f"{label} with {used:,} items"
    if sample is not None and used < whole:
        words += f" (stratified sample of at most {sample:,} per split, of {whole:,}, seed {seed})"
    sources = [
        {
            "label": f"{one.task} {len(one):,} items",
            "task": one.task,
            "source": one.source,
            "origins": {split: one.origins.get(split, "not known") for split in one.splits},
            "digest": one.digest,
            "n_items": {split: len(labels) for split, labels in one.labels.items()},
            "n_blank": one.n_blank,
        }
        for one in data
    ]
    drawn = {"sample": sample, "seed": seed}
    return Facts(
        *(model, words, label, used, sources, settings, drawn),
        recorded={"sampling": {"pairs": None, "sample": sample, "seed": seed if sample else None}},
    )
