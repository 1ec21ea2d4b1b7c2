"""The field in one table: score, size and cost of every compared system. Notebook 24.

Over 400 lines: systems are scored and timed, and the table is written in four formats.
"""

import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from tqdm.auto import tqdm

from dysem_lab import paths
from dysem_lab.data.fit_texts import fit_texts
from dysem_lab.data.sts import STSData
from dysem_lab.display import amount
from dysem_lab.encoders.base import Encoder
from dysem_lab.encoders.settings import check_settings
from dysem_lab.encoders.systems import chosen_names, named_systems
from dysem_lab.encoders.transform import Transform
from dysem_lab.encoders.vectors import SemanticVectors, n_dims
from dysem_lab.errors import InputError, MissingTranslationError, choices
from dysem_lab.evaluate import (
    AGGREGATIONS,
    Part,
    aggregate_score,
    average_score,
    parts_of_task,
)
from dysem_lab.inputs import names_of, one_of
from dysem_lab.models.store import VectorStore
from dysem_lab.prompts import TEMPLATE_NAMES
from dysem_lab.questions.asked import asked
from dysem_lab.questions.cost import in_turns
from dysem_lab.questions.finding import Facts, Finding, facts_of
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.published import AVERAGE, N_PAIRS, SENTEVAL_SICKR, published
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import PALETTE, SCORE, error_bar, interval, layout
from dysem_lab.translation.paraphrases import Paraphrases, source_for
from dysem_lab.translation.translate import Translator

FORMATS = ("markdown", "latex", "csv", "json")
FREE, LEARNED = "training-free", "trained"
DESCRIBED = ["system", "method", "kind", "model", "settings", "passes", "blocks"]
OTHER = "#8C564B"  # the palette's seven are taken
# Group and colour of a system, by its name; or by a part of it that begins with a space.
GROUPS = {
    " DySem": ("DySem", PALETTE[0]),
    " + CP": ("Contrastive Prompting", PALETTE[2]),
    " + TP": ("Token Prepending", PALETTE[3]),
    " + GenEOL": ("GenEOL", OTHER),
    **dict.fromkeys(("VA", "WVA", "AlignedWVA"), ("value aggregation", PALETTE[5])),
    "mean pooling": ("mean pooling", PALETTE[6]),
    "Echo": ("Echo", PALETTE[4]),
}
PROMPT = ("one-word prompt", PALETTE[1])
TRAINED_GROUP = ("trained", "#000000")


def leaderboard(
    study: Study,
    methods: str | Sequence[str] = "all",
    languages: Sequence[str] | None = None,
    *,
    translator: Translator | None = None,
    k: int | float = 0.25,
    paraphrases: Paraphrases | None = None,
    centred_on: object = None,
    aggregation: str = "all",
    n_timed: int = 32,
    seed: int = 0,
) -> Finding:
    """Score every compared system on a study's tasks, and measure what it costs.

    Args:
        study: Its model, pairs and store.
        methods: As for `dysem_lab.named_systems`.
        languages: 𝓛 of DySem; None is the study's.
        translator: Makes the renderings; None takes those of the data.
        k: DySem's dimensions, or fraction of d.
        paraphrases: Of GenEOL, from a source as for `dysem_lab.paraphrased`; None takes those of
            the demo set on its own texts, and leaves GenEOL out of "all" on others.
        centred_on: Other texts, as for `dysem_lab.Transform`, such as "demo": each system has a
            second row, its vectors less their mean there ("…_centred"). None has no such rows.
        aggregation: As for `score_systems`.
        n_timed: As for `score_systems`.
        seed: As for `score_systems`.

    Returns:
        As from `score_systems`.

    Raises:
        InputError: As for `dysem_lab.named_systems` and `score_systems`, or texts to centre on that
            are scored.
    """
    given = asked(study, k=k, n_timed=n_timed, seed=seed)
    one_of(aggregation, AGGREGATIONS, "aggregation")
    codes = study.languages if languages is None else languages
    codes = list(check_settings(codes, setting="language-specific"))
    texts = [text for task in study.data for text in study.texts(task, "en")]
    by = source_for(texts, paraphrases)
    named = names_of(methods, "method")
    chosen_names(named, codes, by is not None)
    centre, given["centred_on"] = None, None
    if centred_on is not None:
        centre, fitted_on = Transform("centre", centred_on), fit_texts(centred_on, codes)
        if among := set(texts) & set(fitted_on.renderings["en"]):
            raise InputError(
                f"centred_on has {amount(len(among), 'text')} of those that are scored; give others"
            )
        given["centred_on"] = f"{fitted_on.name} ({fitted_on.digest})"
    prepare(study.needs("attn"), runs_the_model=True)
    systems = named_systems(study.lens, methods, codes, translator, k, by)
    if centre is not None:
        systems |= {
            f"{name}_centred": centre(of, store=study.store) for name, of in systems.items()
        }
    scores = score_systems(
        systems,
        study.data,
        store=study.store,
        aggregation=aggregation,
        n_timed=n_timed,
        seed=seed,
    )
    of_systems = {"methods": named, "languages": codes, "aggregation": aggregation}
    renderings = "of the data" if translator is None else translator.name
    made_by = {"translator": renderings, "paraphrases": by.name if by else None}
    facts = facts_of(study, **of_systems, **made_by, **given)
    return Finding("leaderboard", scores, figure(scores, facts), caption(scores), facts)


def score_systems(
    encoders: Mapping[str, Encoder],
    data: Mapping[str, STSData],
    *,
    store: VectorStore | None = None,
    aggregation: str = "all",
    n_timed: int = 32,
    rounds: int = 3,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Score systems on STS tasks, and measure what they cost.

    Args:
        encoders: Short name → system, from `dysem_lab.named_systems`.
        data: Task → pairs. DySem without a translator takes their renderings.
        store: Keeps vectors, so that an interrupted run goes on where it stopped.
        aggregation: As for `dysem_lab.evaluate.aggregate_score`.
        n_timed: The time is measured on so many texts of the tasks, without a store; 0 measures
            none.
        rounds: Times that each system encodes them, in turns.
        seed: Of the bootstraps and of the choice of texts.
        progress: Show a progress bar.

    Returns:
        One row per task and system: ``system`` (short name), ``method``, ``kind`` ("training-free"
        or "trained"), ``model``, ``settings`` (JSON), ``task``, ``data`` (task and split),
        ``source`` (where the pairs are from), the columns of
        `dysem_lab.evaluate.aggregate_score` (``n_dims`` is #Dim., or the width of dense vectors),
        ``passes`` and ``blocks`` per text, ``seconds`` per 1,000 texts (median of the rounds;
        DySem's translations are there before), ``n_timed`` (of so many texts) and ``note``: why a
        score is missing. With several
        tasks, a last block has the task "Avg.", NaN where a task has no score.

    Raises:
        InputError: No systems or no tasks.
    """
    one_of(aggregation, AGGREGATIONS, "aggregation")
    for given in (encoders, data):
        if not isinstance(given, Mapping) or not given:
            raise InputError(
                "give at least one system, from dysem_lab.named_systems, and one task, each by its "
                f"name, got {given!r:.80}"
            )
    rows: list[dict[str, object]] = []
    compared: dict[str, list[list[Part]]] = {name: [] for name in encoders}
    jobs = [(name, task) for name in encoders for task in data]
    with tqdm(jobs, desc="leaderboard", unit="task", disable=not progress) as bar:
        for name, task in bar:
            encoder, pairs = encoders[name], data[task]
            bar.set_postfix_str(f"{encoder.name}, {task}")
            labels = _described(name, encoder)
            labels |= {"task": task, "data": pairs.name, "source": pairs.source}
            try:
                e1, e2 = _encoded_pairs(encoder, pairs, store, progress)
            except MissingTranslationError as error:
                missing = dict.fromkeys(("spearman", "low", "high", "n_dims"), np.nan)
                missing |= {"n_pairs": 0, "n_undefined": len(pairs)}
                rows.append({**labels, **missing, "aggregation": aggregation, "note": str(error)})
                continue
            of_pairs = encoder.similarity_pairwise(e1, e2), pairs.gold, pairs.subset, aggregation
            compared[name].append(parts_of_task(*of_pairs))
            found = aggregate_score(*of_pairs, n_dims(e1, e2), seed=seed)
            rows.append({**labels, **found, "note": ""})
    table = pd.DataFrame(rows)
    if len(data) > 1:
        table = pd.concat([table, _averages(table, compared, len(data), seed)], ignore_index=True)
    timed = pd.DataFrame(columns=["seconds", "n_timed"], dtype=float)
    if n_timed:
        timed = _timed(encoders, data, n_timed, rounds, seed)
    return table.join(timed, on="system")


def _described(name: str, encoder: Encoder) -> dict[str, object]:
    """Return the columns that say what a system is."""
    known = encoder.lens or encoder.facts
    made_by = {"translator": encoder.translator.name} if encoder.translator else {}
    return {
        "system": name,
        "method": encoder.name,
        "kind": LEARNED if encoder.trained else FREE,
        "model": known.name if known else "",
        "settings": json.dumps(encoder.config | made_by, ensure_ascii=False, default=str),
        "passes": encoder.passes,
        "blocks": encoder.blocks,
    }


def _encoded_pairs(
    encoder: Encoder, pairs: STSData, store: VectorStore | None, progress: bool
) -> tuple[SemanticVectors, SemanticVectors]:
    """Return the encoded first and second sentences."""
    ready = () if encoder.translator else pairs.languages
    renderings = {code: pairs.texts(code) for code in {"en", *ready}}
    encoded = encoder.encode_renderings(renderings, store=store, progress=progress)
    return encoded[: len(pairs)], encoded[len(pairs) :]


def _averages(
    table: pd.DataFrame,
    compared: Mapping[str, list[list[Part]]],
    n_tasks: int,
    seed: int,
) -> pd.DataFrame:
    """Return the rows of the average over the tasks.

    The mean over T tasks of a mean over their parts is one mean over all parts, so it is resampled
    as one.
    """
    rows = []
    for name, tasks in compared.items():
        of_system = table[table["system"] == name]
        first = of_system.iloc[0]
        missing = of_system.loc[of_system["spearman"].isna(), "task"]
        parts = list(chain(*tasks)) if len(tasks) == n_tasks else []
        found = average_score(
            [(part.similarity, part.gold) for part in parts],
            of_system["n_dims"].mean(skipna=False),
            weights=[part.weight / n_tasks for part in parts],
            seed=seed,
        )
        note = "" if missing.empty else f"no score on {', '.join(missing)}"
        after = {"aggregation": first["aggregation"], "note": note}
        rows.append({**first[DESCRIBED], "task": AVERAGE, **found, **after})
    return pd.DataFrame(rows)


def _timed(
    encoders: Mapping[str, Encoder],
    data: Mapping[str, STSData],
    n_timed: int,
    rounds: int,
    seed: int,
) -> pd.DataFrame:
    """Return each system's seconds per 1,000 texts, all encoding the same texts in turns."""
    pairs = max(data.values(), key=lambda one: len(one.languages))
    chosen = pairs.sample(max(1, n_timed // 2), seed)
    seconds: dict[str, list[float]] = {}
    readable = {}
    for name, encoder in encoders.items():  # once without a clock: translations, first-call costs
        try:
            _encoded_pairs(encoder, chosen if encoder.translator else chosen.head(1), None, False)
            readable[name] = encoder
        except MissingTranslationError:
            continue
    for name in in_turns(list(readable), rounds):
        began = time.perf_counter()
        _encoded_pairs(readable[name], chosen, None, False)
        seconds.setdefault(name, []).append(time.perf_counter() - began)
    n_texts = 2 * len(chosen)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    per_1000 = {name: 1000 * median / n_texts for name, median in medians.items()}
    return pd.DataFrame({"seconds": per_1000, "n_timed": n_texts}, dtype=float)


def published_leaderboard(model: str | None = None) -> pd.DataFrame:
    """Return the published scores of all compared systems, one row per score.

    Args:
        model: A model's name in the papers, such as "LLaMA2-7B"; None is all.

    Returns:
        ``source``, ``table``, ``model``, ``method``, ``dims``, ``task`` (or "Avg." as printed),
        ``score``, ``n_pairs`` (SICK-R has 9,927 pairs in MTEB and 4,927 in SentEval; averages with
        the one and with the other are not strictly comparable), ``weights``: "not released" for
        SemPA, which nobody can run again.

    Raises:
        InputError: A model without published scores.
    """
    columns = ["source", "table", "model", "method", "dims", "task", "score", "n_pairs"]
    ours = published()
    named = [_published_method(row) for row in ours.to_dict("records")]
    other = pd.read_csv(paths.package_file("published_other.csv"), dtype={"table": str})
    long = other.rename(columns={"Avg": AVERAGE}).melt(
        id_vars=[name for name in other if name not in (*N_PAIRS, "Avg")],
        var_name="task",
        value_name="score",
    )
    # The papers of this file all evaluate with SentEval.
    sizes = {**N_PAIRS, "SICKR": SENTEVAL_SICKR}
    sizes[AVERAGE] = sum(sizes.values())
    long["n_pairs"] = long["task"].map(sizes)
    table = pd.concat([ours.assign(method=named)[columns], long[columns]], ignore_index=True)
    table["weights"] = np.where(table["method"].str.endswith("SemPA"), "not released", "")
    if model is None:
        return table
    one_of(model, table["model"].unique().tolist(), "model with published scores")
    return table[table["model"] == model].reset_index(drop=True)


def _published_method(row: Mapping[str, str]) -> str:
    """Return a published method with its prompt, where that is not the method itself."""
    prompt = TEMPLATE_NAMES.get(row["template"], row["method"])
    method = row["method"]
    if method == "DySem":
        method += f" ({', '.join(part for part in (row['setting'], row['vector']) if part)})"
    return method if prompt == row["method"] else f"{prompt} + {method}"


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """Return a leaderboard as it is read: a row per system, a column per task, best average first.

    Args:
        table: From `score_systems`.

    Returns:
        ``Method``, the tasks and the average, ``95 % interval`` of the last one, ``#Dim.``,
        ``passes``, ``blocks`` (per text) and ``s / 1,000`` (texts).
    """
    tasks = table["task"].unique().tolist()
    scores = table.pivot(index="system", columns="task", values="spearman")[tasks]
    last = table[table["task"] == tasks[-1]].set_index("system")
    interval = [
        "" if np.isnan(low) else f"{low:.1f} to {high:.1f}"
        for low, high in last[["low", "high"]].to_numpy()
    ]
    columns = {
        "n_dims": "#Dim.",
        "passes": "passes",
        "blocks": "blocks",
        "seconds": "s / 1,000",
    }
    cost = last.assign(**{"95 % interval": interval}).rename(columns=columns)
    board = scores.join(cost[["method", "95 % interval", *columns.values()]])
    board = board.sort_values(tasks[-1], ascending=False, kind="stable")
    board.insert(0, "Method", board.pop("method"))
    return board.reset_index(drop=True).rename_axis(columns=None)


def rendered(table: pd.DataFrame, kind: str) -> str:
    """Return a leaderboard as text.

    Args:
        table: From `score_systems`.
        kind: "markdown" and "latex" are `wide` with the best of a column in bold; "csv" and "json"
            are the table itself.

    Raises:
        InputError: Another kind.
    """
    if kind not in FORMATS:
        raise choices("format", kind, FORMATS)
    if kind == "csv":
        return table.to_csv(index=False)
    if kind == "json":
        return json.dumps(json.loads(table.to_json(orient="records")), indent=2) + "\n"
    board = wide(table)
    tasks = table["task"].unique().tolist()
    bold = "**{}**" if kind == "markdown" else r"\textbf{{{}}}"
    for task in tasks:
        seen = board[task].round(2)
        said = seen.map("{:.2f}".format).mask(seen.isna(), "–")
        board[task] = said.mask(seen == seen.max(), said.map(bold.format))
    board["#Dim."] = board["#Dim."].map(lambda dims: "" if np.isnan(dims) else f"{dims:.0f}")
    board["s / 1,000"] = board["s / 1,000"].map(lambda s: "" if np.isnan(s) else f"{s:.1f}")
    if kind == "markdown":
        return board.to_markdown(index=False, disable_numparse=True) + "\n"
    escaped = board.rename(columns=_latex).map(lambda cell: _latex(str(cell)))
    return escaped.to_latex(index=False, column_format="l" + "r" * (board.shape[1] - 1))


def _latex(text: str) -> str:
    """Return text with LaTeX's signs escaped, its own commands apart."""
    for sign in "%#_&":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("–", "--").replace("α", r"$\alpha$")


def published_wide(table: pd.DataFrame) -> pd.DataFrame:
    """Return `published_leaderboard` as `wide` shows ours, in a block of their own."""
    labels = ["model", "method", "dims", "source", "weights"]
    board = table.pivot_table(index=labels, columns="task", values="score", aggfunc="first")
    board = board[[*N_PAIRS, AVERAGE]].sort_values(AVERAGE, ascending=False, kind="stable")
    return board.reset_index().rename_axis(columns=None)


def group_of(method: str, kind: str) -> tuple[str, str]:
    """Return the family of a system, and its colour."""
    if kind == LEARNED:
        return TRAINED_GROUP
    marks = (mark for mark in GROUPS if mark == method or (mark[0] == " " and mark in method))
    return GROUPS.get(next(marks, ""), PROMPT)


def frontier(table: pd.DataFrame) -> pd.Series:
    """Return which systems no cheaper one beats in one task: none is faster and scores as much."""
    ordered = table.sort_values(["seconds", "spearman"], ascending=[True, False])
    best = ordered["spearman"].cummax()
    first = (ordered["spearman"] == best) & ~best.duplicated()
    return first.reindex(table.index) & table["spearman"].notna() & table["seconds"].notna()


def _overall(table: pd.DataFrame) -> pd.DataFrame:
    """Return the average, or the only task, best score last."""
    task = AVERAGE if AVERAGE in set(table["task"]) else table["task"].iloc[0]
    kept = table[(table["task"] == task) & table["spearman"].notna()]
    return kept.sort_values("spearman", kind="stable").reset_index(drop=True)


def figure(table: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return one row per system: its score with the interval, and its seconds per 1,000 texts.

    A ring marks the systems without training that no faster one of them beats. Times are points,
    as on a logarithmic axis the length of a bar has no meaning.
    """
    rows = _overall(table)
    rows["efficient"] = frontier(rows[rows["kind"] != LEARNED]).reindex(
        rows.index, fill_value=False
    )
    groups = list(map(group_of, rows["method"], rows["kind"]))
    rows[["group", "colour"]] = pd.DataFrame(groups, rows.index, ["group", "colour"])
    drawn = make_subplots(
        1, 2, shared_yaxes=True, column_widths=[0.6, 0.4], horizontal_spacing=0.03
    )
    labels = rows["method"].tolist()
    drawn.update_yaxes(categoryorder="array", categoryarray=labels, automargin=True)
    for (name, colour), part in rows.groupby(["group", "colour"], sort=False):
        common = {"legendgroup": name, "name": name, "y": part["method"]}
        drawn.add_scatter(
            x=part["spearman"],
            error_x=error_bar(part["spearman"], part["low"], part["high"]),
            mode="markers",
            marker={
                "color": colour,
                "size": 10,
                "line": {"color": "black", "width": 2.5 * part["efficient"]},
            },
            customdata=part[["n_dims", "passes", "blocks", "low", "high"]],
            hovertemplate=(
                "%{y}: %{x:.1f} [%{customdata[3]:.1f}, %{customdata[4]:.1f}]<br>"
                "#Dim. %{customdata[0]:.0f}, %{customdata[1]} passes, %{customdata[2]} blocks"
                "<extra></extra>"
            ),
            **common,
            row=1,
            col=1,
        )
        drawn.add_scatter(
            x=part["seconds"],
            mode="markers+text",
            marker={"color": colour, "size": 10},
            text=[f"\u2002{seconds:.0f}" for seconds in part["seconds"]],
            textposition="middle right",
            cliponaxis=False,
            showlegend=False,
            hovertemplate="%{y}: %{x:.1f} s per 1,000 texts<extra></extra>",
            **common,
            row=1,
            col=2,
        )
    task = rows["task"].iloc[0] if len(rows) else ""
    drawn.update_xaxes(title=f"{SCORE}, {task}", row=1, col=1)
    if rows["efficient"].any():  # a legend has no other place to say it
        ring = {"color": "white", "size": 10, "line": {"color": "black", "width": 2.5}}
        said = "ring: without training, and no faster one scores more"
        drawn.add_scatter(
            x=[None], y=[labels[0]], mode="markers", marker=ring, name=said, row=1, col=1
        )
    timed = rows["seconds"].dropna()
    ends = (timed.min() / 1.5, timed.max() * 3) if len(timed) else (1.0, 10.0)
    scale = {"type": "log", "dtick": 1, "range": [math.log10(end) for end in ends]}
    drawn.update_xaxes(title="seconds per 1,000 texts (log scale)", row=1, col=2, **scale)
    title = "What each method scores, and what it costs"
    drawn = layout(drawn, title, facts, 26 * len(rows) + 256)
    legend = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "yref": "paper"}
    return drawn.update_layout(legend=legend, margin_t=drawn.layout.margin.t + 66)


def caption(table: pd.DataFrame) -> str:
    """Return one line with the best system, the best that is not trained, and what it costs."""
    rows = _overall(table)
    if rows.empty:
        return f"{SCORE}: no system has a score."
    free = rows[rows["kind"] != LEARNED]
    n_tasks = table.loc[table["task"] != AVERAGE, "task"].nunique()
    over = rows["task"].iloc[0].replace(AVERAGE, f"mean of {n_tasks} tasks")

    def told(row: pd.Series) -> str:
        seconds = "" if np.isnan(row["seconds"]) else f", {row['seconds']:.0f} s per 1,000 texts"
        return f"{row['method']} {interval(row)}{seconds}"

    parts = [f"best without training is {told(free.iloc[-1])}"] if len(free) else []
    if len(learned := rows[rows["kind"] == LEARNED]):
        parts.append(f"best trained is {told(learned.iloc[-1])}")
    if len(free) and free["seconds"].notna().any():
        fastest = free.loc[free["seconds"].idxmin()]
        parts.append(f"fastest without training is {told(fastest)}")
    kept = free[frontier(free)]
    if len(kept):
        parts.append(f"no faster one of these beats {', '.join(kept['method'])}")
    missing = sorted(set(table["method"]) - set(rows["method"]))
    if missing:
        parts.append(f"not scored: {', '.join(missing)}")
    if rows["n_timed"].notna().any():
        parts.append(f"timed on {amount(rows['n_timed'].max(), 'text')}")
    return f"{SCORE}, {over}, of {amount(len(rows), 'system')}: {'; '.join(parts)}."
