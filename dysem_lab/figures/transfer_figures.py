"""The tables of `dysem_lab.analyses.transfer` into a figure, one line, and their provenance."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dysem_lab.analyses.transfer import AVERAGE
from dysem_lab.data.transfer_data import TransferData
from dysem_lab.models.facts import ModelFacts
from dysem_lab.questions.saving import file_name, record
from dysem_lab.questions.style import PALETTE, error_bar, layout

ACCURACY = "accuracy × 100"
MAJORITY = "#333333"
ROW, GAP = 22, 16  # in px: a method's line, the room between two tasks


def transfer_figure(table: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return accuracies on the left and, with several methods, paired differences on the right.

    Args:
        table: From `dysem_lab.analyses.transfer.compare_encoders`.
        measured_on: From `transfer_facts`.
    """
    methods = list(dict.fromkeys(table["method"]))
    tasks = list(dict.fromkeys(table["task"]))
    step = ROW / (ROW * len(methods) + GAP)
    offsets = {name: step * (i - (len(methods) - 1) / 2) for i, name in enumerate(methods)}
    place = table["task"].map({task: i for i, task in enumerate(tasks)})
    place = place + table["method"].map(offsets)
    several = len(methods) > 1
    titles = ["accuracy", f"difference to {methods[0]}"] if several else ["accuracy"]
    figure = make_subplots(
        rows=1,
        cols=len(titles),
        shared_yaxes=True,
        horizontal_spacing=0.04,
        column_widths=[0.52, 0.48] if several else [1.0],
        subplot_titles=titles,
    )
    gains = table.apply(_gain, axis=1)
    for i, method in enumerate(methods):
        rows = table["method"] == method
        part, y, colour = table[rows], place[rows], PALETTE[i % len(PALETTE)]
        _points(figure, part, "accuracy", ("low", "high"), y, 1, method, colour)
        _texts(figure, part["accuracy"].map("{:.1f}".format), part["high"], y, 1, colour)
        if i:
            bounds = ("difference_low", "difference_high")
            _points(figure, part, "difference", bounds, y, 2, method, colour)
            beyond = part["difference_high"].clip(lower=0.0)  # not across the line at 0
            _texts(figure, gains[rows], beyond, y, 2, colour)
    _majority(figure, table, tasks, (len(methods) / 2 + 0.2) * step)
    figure.update_yaxes(
        tickvals=list(range(len(tasks))),
        ticktext=[_task_label(table, task) for task in tasks],
        range=[len(tasks) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )
    shown = pd.concat([table["low"], table["high"], table["majority"]])
    figure.update_xaxes(title=ACCURACY, range=_range(shown, 0.16), col=1)
    if several:
        differences = pd.concat([table["difference_low"], table["difference_high"], pd.Series([0])])
        figure.update_xaxes(
            title=f"difference in {ACCURACY}",
            range=_range(differences, 0.7),
            zeroline=True,
            zerolinecolor="#333333",
            col=2,
        )
    height = (ROW * len(methods) + GAP) * len(tasks) + 240
    layout(
        figure, "What can a linear classifier read from the vectors?", measured_on, max(420, height)
    )
    return figure.update_layout(margin_l=130)


def _task_label(table: pd.DataFrame, task: str) -> str:
    """Return the name of a task with the number of items that were scored."""
    if task == AVERAGE:
        return f"<b>{AVERAGE}</b>"
    small = f"n = {table.loc[table['task'] == task, 'n_test'].iloc[0]:,}"
    return f"{task}<br><span style='font-size:11px'>{small}</span>"


def _points(
    figure: go.Figure,
    part: pd.DataFrame,
    value: str,
    bounds: tuple[str, str],
    y: pd.Series,
    col: int,
    method: str,
    colour: str,
) -> None:
    """Add one method's points with their intervals to a panel; the first panel names it."""
    low, high = (part[name] for name in bounds)
    figure.add_scatter(
        x=part[value],
        y=y,
        mode="markers",
        name=method,
        legendgroup=method,
        showlegend=col == 1,
        marker={"color": colour, "size": 8},
        error_x=error_bar(part[value], low, high),
        customdata=part[["task"]],
        hovertemplate="%{customdata[0]}: %{x:.2f}",
        row=1,
        col=col,
    )


def _texts(
    figure: go.Figure, text: pd.Series, x: pd.Series, y: pd.Series, col: int, colour: str
) -> None:
    """Add texts that begin where the intervals end."""
    figure.add_scatter(
        x=x,
        y=y,
        mode="text",
        text="\u2002" + text,
        textposition="middle right",
        textfont={"size": 12, "color": colour},
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
        row=1,
        col=col,
    )


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


def _gain(row: pd.Series) -> str:
    """Return a difference with its interval, with two digits where one would hide its side of 0."""
    values = row["difference"], row["difference_low"], row["difference_high"]
    if np.isnan(values[0]):
        return ""
    digits = 2 if any(0 < abs(bound) < 0.05 for bound in values[1:]) else 1
    value, low, high = (f"{number:.{digits}f}" for number in values)
    return f"{'' if values[0] < 0 else '+'}{value} [{low}, {high}]"


def _range(values: pd.Series, room: float) -> list[float]:
    """Return an axis range with room on the right for text, as a share of the span."""
    low, high = float(values.min()), float(values.max())
    span = max(high - low, 1e-6)
    return [low - 0.06 * span, high + room * span]


def transfer_caption(table: pd.DataFrame) -> str:
    """Return one line: every method's mean accuracy, and which differences are certain.

    A difference is certain where its 95 % interval excludes 0.
    """
    tasks = [task for task in dict.fromkeys(table["task"]) if task != AVERAGE]
    over = table[table["task"] == (AVERAGE if len(tasks) > 1 else tasks[0])]
    what = (
        f"Mean {ACCURACY} over {len(tasks)} tasks" if len(tasks) > 1 else f"{ACCURACY}, {tasks[0]}"
    )
    values = [
        f"{row.method} {row.accuracy:.1f} [{row.low:.1f}, {row.high:.1f}]"
        for row in over.itertuples()
    ]
    majority = over["majority"].iloc[0]
    text = (
        f"{what[0].upper()}{what[1:]}: {', '.join(values)}; always answering the most frequent "
        f"class gives {majority:.1f}."
    )
    compared = table[(table["task"] != AVERAGE) & table["difference"].notna()]
    if compared.empty:
        return text
    against = table["method"].iloc[0]
    verdicts = [
        f"{method} is above in {int((rows['difference_low'] > 0).sum())} and below in "
        f"{int((rows['difference_high'] < 0).sum())} of {len(rows)}"
        for method, rows in compared.groupby("method", sort=False)
    ]
    return f"{text} Against {against}, for certain (95 %): {'; '.join(verdicts)}."


def transfer_facts(model: ModelFacts, table: pd.DataFrame, **settings: object) -> str:
    """Return the line that says what a transfer figure was measured on.

    Args:
        model: Facts of the model.
        table: From `dysem_lab.analyses.transfer.compare_encoders` or `transfer_scores`.
        settings: What else the line says.
    """
    tasks = table[table["task"] != AVERAGE].drop_duplicates("task")
    name = tasks["task"].iloc[0] if len(tasks) == 1 else f"{len(tasks)} tasks"
    shown = [model.label, f"{name} with {tasks['n_texts'].sum():,} items"]
    sampled = tasks.dropna(subset=["sample"])
    if len(sampled):
        shown[-1] += (
            f" (stratified sample of at most {sampled['sample'].max():,} per split, of "
            f"{tasks['n_all'].sum():,}, seed {sampled['seed'].iloc[0]})"
        )
    folds = tasks["inner_folds"].dropna()
    shown += [f"C by {folds.iloc[0]} folds"] if len(folds) else []
    return ", ".join([*shown, *(f"{key} {value}" for key, value in settings.items())])


def transfer_name(model: ModelFacts, data: Sequence[TransferData], sample: int | None) -> str:
    """Return the file name of a transfer figure: model, tasks and the number of items used."""
    label = data[0].task if len(data) == 1 else f"{len(data)} tasks"
    return file_name("transfer", model, label, sum(len(one.sample(sample)) for one in data))


def transfer_provenance(
    model: ModelFacts, data: Sequence[TransferData], parameters: Mapping[str, object]
) -> dict[str, object]:
    """Return what is needed to make a transfer figure again, for `dysem_lab.save_figure`.

    Args:
        model: Facts of the model.
        data: The whole tasks.
        parameters: Of the notebook or script, the sample among them.
    """
    sets = [
        {
            "label": f"{one.task} {len(one):,} items",
            "task": one.task,
            "source": one.source,
            "digest": one.digest,
            "n_items": {split: len(labels) for split, labels in one.labels.items()},
            "n_blank": one.n_blank,
        }
        for one in data
    ]
    return record(model, sets, {"parameters": dict(parameters)})
