"""The methods of DySem's main results measured here, beside the paper's numbers. Notebook 10.

Over 400 lines, as it is one table: what is measured, what is published, and how both are shown.
"""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.consensus import resolve_k
from dysem_lab.display import amount
from dysem_lab.encoders.base import Encoder
from dysem_lab.encoders.contrastive import ContrastivePrompting
from dysem_lab.encoders.prepending import TokenPrepending
from dysem_lab.encoders.settings import VECTORS
from dysem_lab.encoders.systems import named_systems
from dysem_lab.errors import InputError, choices
from dysem_lab.evaluate import Scores, average_score, score
from dysem_lab.inputs import at_least, different, names_of, one_of
from dysem_lab.joint import joint_cosine
from dysem_lab.models.loading import presets
from dysem_lab.prompts import TEMPLATE_NAMES
from dysem_lab.questions.asked import asked
from dysem_lab.questions.finding import Facts, Finding, facts_of
from dysem_lab.questions.grid import sweep
from dysem_lab.questions.names import NO_BREAK
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.published import (
    AVERAGE,
    BASELINES,
    N_PAIRS,
    SENTEVAL_SICKR,
    UNSTATED,
    paper_task,
    preset_of,
    published,
    settings_of,
)
from dysem_lab.questions.scores import ALIGNED, mean_size
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import SCORE, annotate, interval, layout, noted

LABELS = [
    *("model", "preset", "method", "template", "setting", "vector", "origin", "k", "m"),
    "languages",
]
PLAIN = {
    **dict.fromkeys(("setting", "vector", "origin", "note"), ""),
    **{"k": None, "m": None, "languages": "en"},
}
# Systems of `named_systems` that the paper compares with, as its tables call them.
SYSTEMS = {
    ALIGNED: {"method": "AlignedWVA", "template": "prompteol"},
    "tp": {"method": "Token Prepending", "template": ""},
    "cp_ns": {"method": "Contrastive Prompting(Scaling)", "template": ""},
    "cp_nr": {"method": "Contrastive Prompting(Recovering)", "template": ""},
}
LEAST_BLOCKS = 8  # Token Prepending changes the first 7, and reads before the last
Cell = tuple[dict[str, object], Float[Tensor, " n"], float]  # labels, similarities, #Dim.
WIDTH, COLUMN, CHARACTER = 960, 110, 6.9  # in px: the table, a column at most, a letter
# Heights in px; plotly gives a cell with markup 17 per line and 16 around them in any case.
TITLE, HEADER, ROW, TALL_ROW, NOTE = 38, 34, 34, 51, 19
NOTE_WIDTH = 150  # characters of a line of notes
INK, LINE, SHADE = "#2a3f5f", "#dfe4ea", "#e8eef4"
SMALL = "<span style='font-size:10px;color:#555555'>{}</span>"
LEGEND = (
    f"{SCORE}. Bold is the best of a column, underlined the second best; ties share the mark. "
    "In small type: 95 % bootstrap interval."
)
SENTEVAL_MARK = "†"


class DySemRow(NamedTuple):
    """One DySem row of a table of results.

    Attributes:
        setting: Prompt setting.
        vector: "mean" or "source".
        m: The first m languages; None is all that a task has.
        origin: Where these settings come from; empty for one's own.
    """

    setting: str
    vector: str
    m: int | None = None
    origin: str = ""


def paper_settings(preset: str) -> list[DySemRow]:
    """Return the DySem rows of one of the ten models: Table 4's, and where the script differs, its.

    Raises:
        InputError: Unknown preset.
    """
    rows = []
    for row in settings_of(preset).itertuples():
        rows.append(DySemRow(row.setting, row.vector, row.m, "Table 4"))
        if row.m_in_repo_script != row.m:
            rows.append(DySemRow(row.setting, row.vector, row.m_in_repo_script, "released script"))
    return rows


def main_results(
    study: Study,
    languages: Sequence[str] | None = None,
    m: int | None = None,
    *,
    k: int | float = 0.25,
    seed: int = 0,
) -> Finding:
    """Score the methods of the paper's main results, with its own numbers where there are any.

    Mean pooling, the one-word prompts and the systems of `SYSTEMS` are plain cosines in English on
    all dimensions; the latter at their papers' settings for LLaMA2-7B, not tuned for a model, and
    left out of one that has too few blocks for them. DySem is on A^L with the study's first
    template; a task that has fewer than m languages uses those that it has. A task in English only
    has m = 1, where all rows of DySem are the same.

    Args:
        study: Model, tasks and languages.
        languages: The order in which they are added; None is the study's.
        m: The first so many of them; None is all that a task has.
        k: Dimensions per text, or fraction of d.
        seed: Of the bootstraps.

    Returns:
        `comparison` of: one row per task and method with ``model``, ``preset`` (empty for other
        models), ``task``, ``method``, ``template``, ``setting``, ``vector``, ``origin``, ``k`` (as
        a number of dimensions), ``m``, ``languages`` (joined by "/"), ``note``, and the columns of
        `dysem_lab.evaluate.score`. With several tasks, a last block has the task "Avg.":
        `average_score` over the tasks that every method has a score for.

    Raises:
        InputError: A language or template, m or k that does not exist.

    Source: DySem Tables 1 and 2.
    """
    given = asked(study, k=k, seed=seed)
    m = m if m is None else at_least(m, 1, "m")
    named = study.languages if languages is None else different(languages, "language")
    for code in named:
        one_of(code, study.languages, "language of this study")
    english = study.prompted(list(BASELINES), "english", "en")
    prepare(study.needs("attn"), english.needs("final"), runs_the_model=True)
    facts = facts_of(study, languages=named, m=m, **given)
    systems = _systems_of(study)
    scores = table(study, languages, m, systems=systems, **given)
    prompt = TEMPLATE_NAMES.get(study.templates[0], study.templates[0])
    of_rows = [f"DySem on A^L with {prompt}", *_settings_in_words(systems)]
    drawn, said = figure(scores, noted(facts, *of_rows)), caption(scores)
    return Finding("main_results", comparison(scores), drawn, said, facts)


def table(
    study: Study,
    languages: Sequence[str] | pd.DataFrame | None = None,
    m: int | None = None,
    *,
    rows: Sequence[DySemRow] | None = None,
    k: int | float = 0.25,
    baselines: Sequence[str] = tuple(BASELINES),
    systems: Mapping[str, Encoder] | None = None,
    preset: str | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Return our numbers of `main_results`, as the paper's own settings may vary them.

    Args:
        study: As there, like `m`, `k` and `seed`.
        languages: As there, or an order for each task and setting as
            `dysem_lab.questions.languages.table` ranks them.
        m: The first so many of them.
        rows: DySem's rows, such as from `paper_settings`; None is each prompt setting with each
            semantic vector and this `m`.
        k: Dimensions per text, or fraction of d.
        baselines: Templates of the plain cosines; "none" is mean pooling.
        systems: Names of `SYSTEMS` → the systems of the model; None is none.
        preset: Which of the paper's models this is; None tells by its name.
        seed: Of the bootstraps.

    Raises:
        InputError: As there, or a preset whose model has another size than this one.
    """
    if rows is None:
        settings = product(study.settings, VECTORS)
        rows = [DySemRow(setting, vector, m) for setting, vector in settings]
    elif m is not None:
        raise InputError(f"m={m} and rows that have their own m exclude each other; give one")
    for row in rows:
        if row.m is not None:
            at_least(row.m, 1, "m")
    preset = preset_of(study.model.name) if preset is None else preset
    if preset:
        check_preset(study, preset)
    results: list[dict[str, object]] = []
    measured: list[list[tuple[Scores, Scores]]] = []  # [task][method]
    for task, data in study.data.items():
        cells = [
            *(_baseline(study, task, template) for template in baselines),
            *(_system(study, task, name, of) for name, of in (systems or {}).items()),
            *(_dysem(study, task, _order(study, languages, task, row), row, k) for row in rows),
        ]
        measured.append([(similarity, data.gold) for _, similarity, _ in cells])
        place = {"model": study.model.shown, "preset": preset, "task": paper_task(data)}
        for labels, similarity, n_dims in cells:
            results.append({**place, **labels, **score(similarity, data.gold, n_dims, seed=seed)})
    scores = pd.DataFrame(results)
    if len(study.data) > 1:
        scores = pd.concat([scores, _averages(scores, measured, seed)], ignore_index=True)
    return scores.astype({"k": "Int64", "m": "Int64"})


def check_preset(study: Study, preset: str) -> None:
    """Raise `InputError` where a study's model cannot be the preset, by its depth and width."""
    facts = settings_of(preset).iloc[0]
    if (study.model.n_layers, study.model.d_model) != (facts["n_layers"], facts["d_model"]):
        raise InputError(
            f"{study.model.name} with L={study.model.n_layers}, d={study.model.d_model} is not "
            f"{preset}, which has L={facts['n_layers']}, d={facts['d_model']}; leave the preset out"
        )


def _baseline(study: Study, task: str, template: str) -> Cell:
    """Return the plain cosine of one template's vectors in English."""
    if template not in BASELINES:
        raise choices("template of a baseline", template, BASELINES)
    component = "mean" if template == "none" else "final"
    x = study.vectors(task, component, template=template, setting="english", languages=["en"])[:, 0]
    n_pairs, d_model = len(x) // 2, x.shape[1]
    everything = torch.ones(n_pairs, d_model, dtype=torch.bool)
    labels: dict[str, object] = {"method": BASELINES[template], "template": template, **PLAIN}
    return labels, joint_cosine(x[:n_pairs], x[n_pairs:], everything), d_model


def _systems_of(study: Study) -> dict[str, Encoder]:
    """Return the systems of `SYSTEMS` that a study's model has the blocks for."""
    deep = study.n_layers >= LEAST_BLOCKS
    return named_systems(study.lens, [name for name in SYSTEMS if deep or name == ALIGNED])


def _settings_in_words(systems: Mapping[str, Encoder]) -> list[str]:
    """Return where Token Prepending and Contrastive Prompting act; blocks are 1-based."""
    words = []
    for encoder in systems.values():
        if isinstance(encoder, TokenPrepending):
            words.append(f"Token Prepending in blocks {encoder.start + 1} to {encoder.exit}")
        elif isinstance(encoder, ContrastivePrompting) and encoder.contrast.norm == "scaling":
            of = encoder.contrast  # the other one has its block, and no α
            words.append(
                f"Contrastive Prompting at block {of.layer + 1} (scaling: α = {of.alpha:g})"
            )
    return words


def _system(study: Study, task: str, name: str, encoder: Encoder) -> Cell:
    """Return the similarities that a system gives to a task's pairs in English."""
    encoded = encoder.encode(study.texts(task, "en"), store=study.store)
    n_pairs = len(encoded) // 2
    similarity = encoder.similarity_pairwise(encoded[:n_pairs], encoded[n_pairs:])
    return {**SYSTEMS[name], **PLAIN}, similarity, encoder.width


def _order(
    study: Study, languages: Sequence[str] | pd.DataFrame | None, task: str, row: DySemRow
) -> list[str]:
    """Return a task's languages in the order in which they are added; English if none is left."""
    there = study.task_languages(task)
    if languages is None:
        return there
    if isinstance(languages, pd.DataFrame):
        place = (languages["task"] == task) & (languages["setting"] == row.setting)
        return languages[place].sort_values("rank")["language"].tolist()
    order = names_of(languages, "language")
    for code in order:
        if code not in study.languages:
            raise choices("language of this study", code, study.languages)
    return [code for code in order if code in there] or ["en"]


def _dysem(study: Study, task: str, order: list[str], row: DySemRow, k: int | float) -> Cell:
    """Return DySem on A^L with the first m languages of an order."""
    wanted = len(order) if row.m is None else row.m
    m = min(wanted, len(order))
    x = study.vectors(task, "attn", setting=row.setting, languages=order[:m])
    source = study.vectors(task, "attn", setting=row.setting, languages=["en"])[:, 0]
    (result,) = sweep(x, source, [k], [m], [row.vector]).values()
    note = ""
    if study.task_languages(task) == ["en"]:
        note = "English only, so m = 1"
    elif m < wanted:
        note = f"m = {m} in place of {wanted}, for want of languages"
    labels = {"method": "DySem", "template": study.templates[0], **row._asdict()}
    labels |= {"k": resolve_k(k, x.shape[-1]), "m": m}
    labels |= {"languages": "/".join(order[:m]), "note": note}
    return labels, result.similarity, mean_size(result.sizes)


def _averages(
    table: pd.DataFrame, measured: Sequence[Sequence[tuple[Scores, Scores]]], seed: int
) -> pd.DataFrame:
    """Return one row per method over the tasks that every method has a score for."""
    tasks, kept = list(dict.fromkeys(table["task"])), averaged_tasks(table)
    left_out = [task for task in tasks if task not in kept]
    note = f"without {', '.join(left_out)}, where a method has no score" if left_out else ""
    rows = []
    for i in range(len(measured[0])):
        parts = table.iloc[i :: len(measured[0])]
        # What differs between the tasks, such as the number of languages, is left blank.
        blank = {"k": None, "m": None}
        labels = {
            name: parts[name].iloc[0]
            if parts[name].nunique(dropna=False) == 1
            else blank.get(name, "")
            for name in LABELS
        }
        used = [methods[i] for task, methods in zip(tasks, measured, strict=True) if task in kept]
        n_dims = parts.loc[parts["task"].isin(kept), "n_dims"].mean()
        average = average_score(used, n_dims, seed=seed)
        rows.append({**labels, "task": AVERAGE, "note": note, **average})
    return pd.DataFrame(rows)


def averaged_tasks(table: pd.DataFrame) -> list[str]:
    """Return the tasks that the average of a table of results is over: those without a NaN."""
    parts = table[table["task"] != AVERAGE]
    whole = parts["spearman"].notna().groupby(parts["task"], sort=False).all()
    return whole.index[whole].tolist()


def comparison(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of results with the published numbers beside them.

    The published average is over the same tasks: the printed one for all seven, else the mean of
    the printed scores.

    Args:
        table: From `table`.

    Returns:
        The table with ``reproduced`` for ``spearman``, and with ``published``, ``difference``
        (reproduced − published), ``published_dims``, ``published_pairs`` (of the paper's set) and
        ``published_vector`` ("unspecified" in Table 5). All are NaN where the paper has no number;
        `remarks` says so in words.
    """
    keys = ["method", "template", "setting", "task"]
    columns = {"score": "published", "dims": "published_dims", "n_pairs": "published_pairs"}
    columns["vector"] = "published_vector"
    preset = table["preset"].iloc[0]
    known = published(preset) if preset else published().iloc[:0]
    known = _same_average(known, averaged_tasks(table))[[*keys, *columns]].rename(columns=columns)
    result = table.rename(columns={"spearman": "reproduced"})
    result = result.merge(known, how="left", on=keys, validate="many_to_one")
    same = (result["vector"] == result["published_vector"]) | (result["vector"] == "")
    same |= result["published_vector"] == UNSTATED
    result[list(columns.values())] = result[list(columns.values())].where(same)
    difference = result["reproduced"] - result["published"]
    result.insert(result.columns.get_loc("published") + 1, "difference", difference)
    return result


def _same_average(known: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """Return published scores with averages over these tasks, or none if one is not published."""
    if set(tasks) == set(N_PAIRS):
        return known
    scores = known[known["task"] != AVERAGE]
    if not set(tasks) <= set(N_PAIRS):
        return scores
    rest = [name for name in known if name not in ("task", "score", "n_pairs")]
    parts = scores[scores["task"].isin(tasks)].groupby(rest, sort=False, as_index=False)
    averages = parts.agg({"score": "mean", "n_pairs": "sum"}).assign(task=AVERAGE)
    return pd.concat([scores, averages], ignore_index=True)


def remarks(compared: pd.DataFrame) -> list[str]:
    """Return what a reader of a `comparison` must know besides its numbers, one sentence each."""
    sentences = []
    preset = compared["preset"].iloc[0]
    tasks = compared[compared["task"] != AVERAGE]
    unknown = [task for task in tasks["task"].unique() if task not in N_PAIRS]
    if not preset:
        sentences.append(
            f"No published number exists for {compared['model'].iloc[0]}: the DySem paper is about "
            f"{', '.join(presets()['preset'].unique())}."
        )
    elif unknown:
        sentences.append(
            f"No published number exists for {', '.join(unknown)}: the DySem paper reports the "
            f"test sets of {', '.join(N_PAIRS)}."
        )
    both = tasks.dropna(subset=["published"]).drop_duplicates("task")
    fewer = [
        f"{row.task} {n_pairs:,} of {row.published_pairs:,.0f}"
        for row in both.itertuples()
        if (n_pairs := row.n_pairs + row.n_undefined) != row.published_pairs
    ]
    if fewer:
        sentences.append(f"Not all of the paper's pairs are here: {', '.join(fewer)}.")
    ks = compared.dropna(subset=["k", "published"])["k"].unique()
    paper_k = settings_of(preset)["k"].iloc[0] if preset else None
    sentences += [f"k is {k} here, {paper_k} in the paper." for k in ks if k != paper_k]
    stated = compared.dropna(subset=["published"])
    stated = stated[(stated["method"] == "DySem") & (stated["published_vector"] != UNSTATED)]
    if len(stated):
        ms = [f"{row.m} ({row.setting}, {row.vector})" for row in settings_of(preset).itertuples()]
        sentences.append(f"In the paper, m is {' and '.join(ms)} in every task.")
    if "SICKR" in set(both["task"]):
        sentences.append(
            f"The published SICK-R, and averages with it, have {N_PAIRS['SICKR']:,} pairs (MTEB), "
            f"not the {SENTEVAL_SICKR:,} of SentEval."
        )
    if (compared["published_vector"] == UNSTATED).any():
        sentences.append(
            "For this template the paper does not say which semantic vector and how many languages "
            "its DySem rows have (Table 5); each of ours stands beside the same number."
        )
    for note, part in compared[compared["note"] != ""].groupby("note", sort=False):
        sentences.append(f"{', '.join(part['task'].unique())}: {note}.")
    return sentences


class Block(NamedTuple):
    """One table of the figure.

    Attributes:
        title: Line above it.
        columns: Header → texts of its cells; the first is "Method", the rows' labels.
        row_height: In px.
    """

    title: str
    columns: dict[str, list[str]]
    row_height: int

    @property
    def height(self) -> int:
        """Height of title, header and rows in px."""
        n_rows = len(self.columns["Method"])
        return TITLE + HEADER + self.row_height * n_rows + 4  # for its lower edge

    @property
    def label_width(self) -> float:
        """Width of the first column in px."""
        labels = self.columns["Method"]
        return 20 + CHARACTER * max(len(text.partition("<br>")[0]) for text in labels)


def marks(scores: Sequence[float]) -> list[str]:
    """Return "best", "second" or "" for each score, as it is seen: at two decimals.

    Equal scores share a mark; NaN has none.
    """
    seen = [round(value, 2) for value in scores]
    best = sorted({value for value in seen if not np.isnan(value)}, reverse=True)[:2]
    names = dict(zip(best, ("best", "second"), strict=False))
    return [names.get(value, "") for value in seen]


def _marked(scores: Sequence[float]) -> list[str]:
    tags = {"best": "<b>{}</b>", "second": "<u>{}</u>", "": "{}"}
    return [
        "–" if np.isnan(value) else tags[mark].format(f"{value:.2f}")
        for value, mark in zip(scores, marks(scores), strict=True)
    ]


def _measured(table: pd.DataFrame) -> Block:
    """Return our rows, each score with its interval."""
    tasks = {name: part for name, part in table.groupby("task", sort=False)}
    whole = tasks.get(AVERAGE, next(iter(tasks.values())))
    columns = {"Method": [_two_lines(_label(row)) for row in whole.to_dict("records")]}
    for task, part in tasks.items():
        columns[task] = [
            text + ("" if np.isnan(low) else "<br>" + SMALL.format(f"[{low:.1f}, {high:.1f}]"))
            for text, low, high in zip(
                _marked(part["spearman"].tolist()), part["low"], part["high"], strict=True
            )
        ]
    ms = [part["m"].tolist() for part in tasks.values()]
    columns["m"] = [_two_lines(_span(row)) for row in zip(*ms, strict=True)]
    columns["#Dim."] = [_two_lines(f"{dims:.0f}") for dims in whole["n_dims"]]
    return Block("Measured here", columns, TALL_ROW)


def _two_lines(text: str) -> str:
    """Return a text at the height of the scores, which have their intervals below."""
    return text if "<br>" in text else f"{text}<br>{SMALL.format(NO_BREAK)}"


def _shown(method: str) -> str:
    """Return a method as it is spelt; the paper's tables have no space before a bracket."""
    return method.replace("Prompting(", "Prompting (")


def _label(row: dict[str, str]) -> str:
    if row["method"] != "DySem":
        return _shown(row["method"])
    template = row["template"]
    prompt = "" if template == "prompteol" else TEMPLATE_NAMES.get(template, template)
    small = ", ".join(part for part in (prompt, row["origin"]) if part)
    label = f"DySem, {row['setting'].replace('english', 'English')}, {row['vector']}"
    return label + (f"<br>{SMALL.format(small)}" if small else "")


def _span(ms: Sequence[object]) -> str:
    """Return the numbers of languages that a row has in the tasks."""
    known = sorted({int(m) for m in ms if not pd.isna(m)})  # type: ignore[call-overload]
    return "" if not known else "–".join(map(str, dict.fromkeys((known[0], known[-1]))))


def _published(preset: str) -> Block:
    """Return the paper's rows of one model."""
    table = published(preset)
    methods = table.groupby(["table", "method", "template", "setting"], sort=False)
    rows = [part.set_index("task") for _, part in methods]
    senteval = [bool(part.loc["SICKR", "n_pairs"] == SENTEVAL_SICKR) for part in rows]
    columns = {"Method": [_published_label(part.iloc[0].to_dict()) for part in rows]}
    for task in (*N_PAIRS, AVERAGE):
        texts = _marked([part.loc[task, "score"] for part in rows])
        if task in ("SICKR", AVERAGE):
            texts = [text + SENTEVAL_MARK * old for text, old in zip(texts, senteval, strict=True)]
        columns[task] = texts
    columns["#Dim."] = [f"{part['dims'].iloc[0]:.0f}" for part in rows]
    title = f"Published for {preset}: DySem, arXiv 2605.29751v1, Tables 1, 2 and 5"
    if any(senteval):
        title += (
            f"   ({SENTEVAL_MARK} SICK-R of {SENTEVAL_SICKR:,} pairs, "
            f"the others of {N_PAIRS['SICKR']:,})"
        )
    return Block(title, columns, ROW)


def _published_label(row: dict[str, str]) -> str:
    prompt = TEMPLATE_NAMES.get(row["template"], "") if row["table"] == "5" else ""
    vector = row["vector"] if row["method"] == "DySem" and not prompt else ""
    prompt = "" if prompt == row["method"] else prompt
    setting = row["setting"].replace("english", "English")
    return ", ".join(filter(None, (_shown(row["method"]), prompt, setting, vector)))


def figure(table: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return our rows as a table, with the published rows of this model below, if there are any."""
    preset = table["preset"].iloc[0]
    blocks = [_measured(table), *([_published(preset)] if preset else [])]
    sentences = [LEGEND, *remarks(comparison(table))]
    notes = [line for text in sentences for line in textwrap.wrap(text, NOTE_WIDTH)]
    inside = sum(block.height for block in blocks) + 20 + NOTE * len(notes)
    drawn = go.Figure()
    top = 0
    for block in blocks:
        _draw(drawn, block, top, inside)
        top += block.height
    placed = {"xanchor": "left", "yanchor": "top", "align": "left", "font_size": 12}
    annotate(drawn, "<br>".join(notes), 0, 1 - (top + 10) / inside, **placed)
    drawn = layout(drawn, "Main results: DySem beside other methods", facts, 100)
    height = inside + drawn.layout.margin.t
    margin = {"l": 20, "r": 20, "b": 0}
    return drawn.update_layout(height=height, title_y=1 - 32 / height, margin=margin)


def _draw(drawn: go.Figure, block: Block, top: int, inside: int) -> None:
    """Add one table with its upper edge at a height, in px of so many inside the margins."""
    others = len(block.columns) - 1
    left = block.label_width
    width = min((WIDTH - left) / others, COLUMN)
    end = (left + width * others) / WIDTH
    font = {"size": 13, "color": INK}
    placed = {"xanchor": "left", "yanchor": "middle", "font": font}
    annotate(drawn, f"<b>{block.title}</b>", 0, 1 - (top + TITLE / 2) / inside, **placed)
    common = {"line_color": LINE, "align": ["left", *["center"] * others], "font": font}
    drawn.add_table(
        domain={
            "x": [0, end],
            "y": [max(0.0, 1 - (top + block.height) / inside), 1 - (top + TITLE) / inside],
        },
        columnwidth=[left, *[width] * others],
        header={
            "values": [f"<b>{name}</b>" for name in block.columns],
            **{"height": HEADER, "fill_color": SHADE, **common},
        },
        cells={
            "values": list(block.columns.values()),
            **{"height": block.row_height, "fill_color": "white", **common},
        },
    )


def caption(table: pd.DataFrame) -> str:
    """Return one line with the numbers that matter of a table of main results."""
    task = AVERAGE if AVERAGE in set(table["task"]) else table["task"].iloc[0]
    compared = comparison(table)
    part = compared[compared["task"] == task]
    n_tasks = table.loc[table["task"] != AVERAGE, "task"].nunique()
    what = f"mean of {n_tasks} tasks" if task == AVERAGE else task
    scores = [
        f"{_shown(row.method)} {row.reproduced:.1f}"
        for row in part.itertuples()
        if row.method != "DySem"
    ]
    if len(dysem := part.loc[part["method"] == "DySem", "reproduced"]):
        scores.append(f"DySem {dysem.min():.1f} to {dysem.max():.1f}")
    scored = part.dropna(subset=["reproduced"])
    if scored.empty:
        return f"{SCORE}, {what}: no method has a score."
    best = scored.loc[scored["reproduced"].idxmax()]
    label = _label(best.to_dict()).partition("<br>")[0]
    languages = "" if pd.isna(best["m"]) else f", m = {best['m']}"
    line = (
        f"{_beside_others(scored)}{SCORE}, {what}: {', '.join(scores)}; best is {label} with "
        f"{interval(best, 'reproduced')} on {amount(best['n_dims'], 'dimension')}{languages}."
    )
    gaps = part["difference"].dropna()
    if gaps.empty:
        return f"{line} No published number to compare with."
    return (
        f"{line} {len(gaps)} rows have a published number; differences to it "
        f"{gaps.min():+.1f} to {gaps.max():+.1f}."
    )


def _beside_others(scored: pd.DataFrame) -> str:
    """Return a sentence: DySem at its best beside the best other method, where there are both."""
    is_ours = scored["method"] == "DySem"
    if is_ours.all() or not is_ours.any():
        return ""
    others = scored[~is_ours]
    best = others.loc[others["reproduced"].idxmax()]
    gap = scored.loc[is_ours, "reproduced"].max() - best["reproduced"]
    other = f"{_shown(best['method'])}, the best other method"
    if abs(gap) < 0.05:
        return f"DySem at its best scores as much as {other}. "
    side = "ahead of" if gap > 0 else "behind"
    return f"DySem at its best is {side} {other}, by {abs(gap):.1f} (not tested). "
