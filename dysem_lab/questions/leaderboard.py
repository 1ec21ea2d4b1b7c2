"""The field in one table: score, size and cost of every compared system. Notebook 24.

Over 400 lines: systems are scored and timed, and the table is written in four formats.
"""

import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from dysem_lab import paths
from dysem_lab.data.fit_texts import fit_texts
from dysem_lab.data.sts import STSData
from dysem_lab.display import amount
from dysem_lab.encoders.aggregation import VARIANTS, blocks_of
from dysem_lab.encoders.base import Encoder
from dysem_lab.encoders.settings import check_settings
from dysem_lab.encoders.systems import TRAINING_FREE, chosen_names, named_systems
from dysem_lab.encoders.transform import Transform, Transformed
from dysem_lab.encoders.vectors import n_dims
from dysem_lab.errors import InputError, MissingTranslationError, choices
from dysem_lab.evaluate import (
    AGGREGATIONS,
    Part,
    aggregate_score,
    average_score,
    parts_of_task,
)
from dysem_lab.inputs import at_least, names_of, one_of
from dysem_lab.models.facts import shown
from dysem_lab.models.places import Place
from dysem_lab.models.store import VectorStore
from dysem_lab.prompts import TEMPLATE_NAMES
from dysem_lab.questions.asked import asked
from dysem_lab.questions.chosen import Chosen, chosen_systems
from dysem_lab.questions.cost import in_turns
from dysem_lab.questions.finding import Finding, facts_of
from dysem_lab.questions.leaderboard_picture import CENTRED, LEARNED, caption, figure
from dysem_lab.questions.needs import Need, prepare
from dysem_lab.questions.published import AVERAGE, N_PAIRS, SENTEVAL_SICKR, published
from dysem_lab.questions.shared_passes import encoded_pairs, renderings_of, run_together
from dysem_lab.questions.study import Study
from dysem_lab.translation.parallel_table import ParallelTable
from dysem_lab.translation.paraphrases import Paraphrases, source_for
from dysem_lab.translation.translate import Translator, identity_of
from dysem_lab.translation.translation_cache import CachedTranslator

FORMATS = ("markdown", "latex", "csv", "json")
FREE = "training-free"
DESCRIBED = ["system", "method", "kind", "model", "settings", "passes", "blocks"]


def leaderboard(
    study: Study,
    methods: str | Sequence[str] = "all",
    languages: Sequence[str] | None = None,
    *,
    translator: Translator | None = None,
    k: int | float = 0.25,
    paraphrases: Paraphrases | None = None,
    chosen_on: STSData | None = None,
    centred_on: object = None,
    aggregation: str = "all",
    several: int | None = None,
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
        chosen_on: Other pairs, such as the dev split of STS-B: DySem and each system of Contrastive
            Prompting have a further row at the settings that are best there, of the small grids of
            `dysem_lab.questions.chosen` ("…_chosen"). Those that are scored, too, are left out,
            and counted. None has the settings of the papers alone.
        centred_on: Other texts, as for `dysem_lab.Transform`, such as "demo": each system has a
            second row, its vectors less their mean there ("…_centred"). None has no such rows.
        aggregation: As for `score_systems`.
        several: As for `score_systems`.
        n_timed: As for `score_systems`.
        seed: As for `score_systems`.

    Returns:
        As from `score_systems`, and ``chosen_on`` (name of the pairs, "" of a system at its paper's
        settings), ``n_tried`` (settings tried there) and ``choosing_score`` (the best of them, on
        those pairs).

    Raises:
        InputError: As for `dysem_lab.named_systems`, before the model has read anything, and
            `score_systems`; texts to centre on that are scored; or fewer than three pairs to choose
            on that are not.

    Warns:
        UserWarning: As for `dysem_lab.named_systems`; the caption names what is left out, too.
    """
    given = asked(study, k=k, n_timed=n_timed, seed=seed)
    one_of(aggregation, AGGREGATIONS, "aggregation")
    several = several if several is None else at_least(several, 1, "several")
    codes = study.languages if languages is None else languages
    codes = list(check_settings(codes, setting="language-specific"))
    texts = [text for task in study.data for text in study.texts(task, "en")]
    by = source_for(texts, paraphrases)
    named = names_of(methods, "method")
    names = chosen_names(named, codes, by is not None)
    given["chosen_on"], given["several"] = None, several
    n_left_out = 0
    if chosen_on is not None:
        kept = _unscored(chosen_on, study)
        n_left_out, chosen_on = len(chosen_on) - len(kept), kept
        which = f" and not the {n_left_out:,} that are scored" if n_left_out else ""
        n_pairs = amount(len(kept), "pair")
        given["chosen_on"] = f"{kept.name}, {n_pairs}{which} ({kept.digest})"
    centre, given["centred_on"] = None, None
    if centred_on is not None:
        centre, fitted_on = Transform("centre", centred_on), fit_texts(centred_on, codes)
        if among := set(texts) & set(fitted_on.renderings["en"]):
            raise InputError(
                f"centred_on has {amount(len(among), 'text')} of those that are scored; give others"
            )
        given["centred_on"] = f"{fitted_on.name} ({fitted_on.digest})"
    other = [] if chosen_on is None else [chosen_on]
    systems: dict[str, Encoder] = {}

    def make() -> None:
        systems.update(named_systems(study.lens, methods, codes, translator, k, by))

    needed = _needs(study, names, several, seed)
    prepare(*needed, data=other, runs_the_model=True, check=make)  # refused before any pass
    chosen: dict[str, Chosen] = {}
    if chosen_on is not None:
        chosen = chosen_systems(systems, chosen_on, study.store)
        systems |= {name: one.encoder for name, one in chosen.items()}
    if centre is not None:
        systems |= {
            f"{name}{CENTRED}": centre(of, store=study.store) for name, of in systems.items()
        }
    scores = score_systems(
        systems,
        study.data,
        store=study.store,
        aggregation=aggregation,
        several=several,
        n_timed=n_timed,
        seed=seed,
    )
    scores = _with_choice(scores, chosen, chosen_on)
    of_systems = {"languages": codes, "aggregation": aggregation}
    renderings = "of the data" if translator is None else translator.name
    made_by = {"translator": renderings, "paraphrases": by.name if by else None}
    facts = facts_of(study, **of_systems, **made_by, **given)
    facts = replace(facts, unsaid={"methods": named})  # the figure has a row for each
    if translator is not None:
        recorded = {**facts.recorded, "translator": identity_of(translator)}
        facts = replace(facts, recorded=recorded)
    said = caption(scores)
    if too_deep := [name for name in names if name in TRAINING_FREE and name not in systems]:
        said += (
            f" Left out, as the model's {amount(study.n_layers, 'block')} are too few for them: "
            f"{', '.join(too_deep)}."
        )
    if chosen_on is not None and n_left_out:
        said += (
            f" Settings were chosen on {amount(len(chosen_on), 'pair')} of {chosen_on.name}, "
            f"without the {n_left_out:,} that are scored."
        )
    sampled = several is not None and any(len(of) > several for of in study.data.values())
    if several is not None and sampled and (scores["passes"] > 1).any():
        said += (
            " Systems of several passes are scored on a random sample of "
            f"{amount(several, 'pair')} of each task that has more."
        )
    return Finding("leaderboard", scores, figure(scores, facts), said, facts)


def _unscored(chosen_on: STSData, study: Study) -> STSData:
    """Return the pairs to choose on that are not scored, whatever their case and punctuation.

    STS-B is made of STS12 to STS16: three of four pairs of its dev split are scored in these.
    """
    if not isinstance(chosen_on, STSData) or "en" not in chosen_on.languages:
        raise InputError(
            "chosen_on must be pairs of load_data, such as load_data(source, 'STSB', 'dev'), got "
            f"{chosen_on!r:.80}"
        )

    scored = {pair for data in study.data.values() for pair in data.english_pairs()}
    kept = [i for i, pair in enumerate(chosen_on.english_pairs()) if pair not in scored]
    if len(kept) < 3:
        raise InputError(
            f"chosen_on has {amount(len(chosen_on), 'pair')}, of which all but {len(kept)} are "
            "scored; give others, such as a dev split"
        )
    return chosen_on.select(kept)


def _needs(study: Study, names: Sequence[str], several: int | None, seed: int) -> list[Need]:
    """Return what a batch captures beforehand: what most systems read, in one pass of each text."""
    english = study.prompted(languages=["en"]).needs("attn")
    read = [
        Place(VARIANTS[name][1], blocks_of("second_half", study.n_layers))
        for name in ("wva", "aligned_wva")
        if name in names
    ]
    sampled = {task: pairs.sample(several, seed) for task, pairs in study.data.items()}
    of_languages = study if several is None else study.on(sampled)
    return [replace(english, places=(*english.places, *read)), of_languages.needs("attn")]


def _with_choice(
    table: pd.DataFrame, chosen: Mapping[str, Chosen], chosen_on: STSData | None
) -> pd.DataFrame:
    """Return a table with the columns that say which settings were chosen, and of how many."""
    found = [chosen.get(name.removesuffix(CENTRED)) for name in table["system"]]
    return table.assign(
        chosen_on=[chosen_on.name if of and chosen_on else "" for of in found],
        n_tried=[of.n_tried if of else 0 for of in found],
        choosing_score=[of.score if of else np.nan for of in found],
    )


def score_systems(
    encoders: Mapping[str, Encoder],
    data: Mapping[str, STSData],
    *,
    store: VectorStore | None = None,
    aggregation: str = "all",
    several: int | None = None,
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
        several: Systems of more than one pass are scored on a random sample of so many pairs of
            each task; None is all. ``n_pairs`` says of how many a row is.
        n_timed: The time is measured on so many texts of the tasks, without a store; 0 measures
            none.
        rounds: Times that each system encodes them, in turns.
        seed: Of the bootstraps, the sample and the choice of texts.
        progress: Show a progress bar.

    Returns:
        One row per task and system: ``system`` (short name), ``method``, ``kind`` ("training-free"
        or "trained"), ``model``, ``settings`` (JSON), ``task``, ``data`` (task and split),
        ``source`` (where the pairs are from), the columns of
        `dysem_lab.evaluate.aggregate_score` (``n_dims`` is #Dim., or the width of dense vectors),
        ``passes`` and ``blocks`` per text, ``seconds`` per 1,000 texts (median of the rounds; the
        renderings that a system reads are there before), ``with_renderings`` (the seconds with the
        making of these in one batch; NaN where they are of the data or of a table, and nothing is
        there to be timed), ``n_timed`` (of so many texts) and ``note``: why a score is missing.
        With several tasks, a last block has the task "Avg.", NaN where a task has no score.

    Raises:
        InputError: No systems or no tasks.
    """
    one_of(aggregation, AGGREGATIONS, "aggregation")
    several = several if several is None else at_least(several, 1, "several")
    for given in (encoders, data):
        if not isinstance(given, Mapping) or not given:
            raise InputError(
                "give at least one system, from dysem_lab.named_systems, and one task, each by its "
                f"name, got {given!r:.80}"
            )
    rows: list[dict[str, object]] = []
    compared: dict[str, list[list[Part]]] = {name: [] for name in encoders}
    jobs = [(name, task) for name in encoders for task in data]
    sampled = {task: pairs.sample(several, seed) for task, pairs in data.items()}
    scored = {
        (name, task): (data if encoders[name].passes == 1 else sampled)[task] for name, task in jobs
    }
    if store is not None:
        systems = ((encoders[name], pairs) for (name, _), pairs in scored.items())
        run_together(systems, store, progress=progress)
    with tqdm(jobs, desc="leaderboard", unit="task", disable=not progress) as bar:
        for name, task in bar:
            encoder, pairs = encoders[name], scored[name, task]
            bar.set_postfix_str(f"{encoder.name}, {task}")
            labels = _described(name, encoder)
            labels |= {"task": task, "data": pairs.name, "source": pairs.source}
            try:
                e1, e2 = encoded_pairs(encoder, pairs, store, progress)
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
    timed = pd.DataFrame(columns=["seconds", "with_renderings", "n_timed"], dtype=float)
    if n_timed:
        timed = _timed(encoders, data, n_timed, rounds, seed)
    return table.join(timed, on="system")


def _described(name: str, encoder: Encoder) -> dict[str, object]:
    """Return the columns that say what a system is."""
    known = encoder.lens or encoder.facts
    made_by = {"translator": encoder.translator.name} if encoder.translator else {}
    settings = {**encoder.config, **made_by, **encoder.origin}
    if "model" in settings:
        settings["model"] = shown(str(settings["model"]))
    return {
        "system": name,
        "method": encoder.name,
        "kind": LEARNED if encoder.trained else FREE,
        "model": shown(known.name) if known else "",
        "settings": json.dumps(settings, ensure_ascii=False, default=str),
        "passes": encoder.passes,
        "blocks": encoder.blocks,
    }


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
    """Return each system's seconds per 1,000 texts, all encoding the same texts in turns.

    The making of renderings is timed by itself, once for all systems that have the same. A system
    whose vectors are changed takes the time of the one that makes them, where that is compared,
    too: what the change takes is far less than a pass.
    """
    plain = {id(encoder): name for name, encoder in encoders.items()}
    of_other = {
        name: plain[id(encoder.encoder)]
        for name, encoder in encoders.items()
        if isinstance(encoder, Transformed) and id(encoder.encoder) in plain
    }
    pairs = max(data.values(), key=lambda one: len(one.languages))
    chosen = pairs.sample(max(1, n_timed // 2), seed)
    ready: dict[str, dict[str, list[str]]] = {}
    for name, encoder in encoders.items():
        if name in of_other:
            continue
        given, by = renderings_of(encoder, chosen), encoder.translator
        try:
            if by is not None:
                given |= {c: by.translate(given["en"], "en", c) for c in _rendered_in(encoder)}
            # What only a first call costs.
            encoder.encode_renderings({of: some[:2] for of, some in given.items()}, progress=False)
        except MissingTranslationError:
            continue
        ready[name] = given
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    for name in in_turns(list(ready), rounds):
        began = time.perf_counter()
        encoders[name].encode_renderings(ready[name], progress=False)
        seconds[name].append(time.perf_counter() - began)
    making: dict[tuple[int, tuple[str, ...]], float] = {}
    times = {}
    for name, measured in seconds.items():
        of = id(encoders[name].translator), _rendered_in(encoders[name])
        if of not in making:
            making[of] = _seconds_of_renderings(encoders[name], ready[name]["en"], rounds)
        own = statistics.median(measured)
        times[name] = [1000 * value / (2 * len(chosen)) for value in (own, own + making[of])]
    times |= {name: times[other] for name, other in of_other.items() if other in times}
    columns = ["seconds", "with_renderings"]
    found = pd.DataFrame.from_dict(times, orient="index", columns=columns, dtype=float)
    return found.assign(n_timed=2.0 * len(chosen))


def _rendered_in(encoder: Encoder) -> tuple[str, ...]:
    """Return the languages, or codes of paraphrases, that a system needs of an English text."""
    return tuple(code for code in encoder.languages if code != "en")


def _seconds_of_renderings(encoder: Encoder, texts: Sequence[str], rounds: int) -> float:
    """Return the median time that the renderings of texts take that a system reads.

    NaN where nothing makes them: those of data and of tables are only looked up. A cache is passed
    by.
    """
    by, codes = encoder.translator, _rendered_in(encoder)
    by = by.translator if isinstance(by, CachedTranslator) else by
    if not codes:
        return 0.0
    if by is None or isinstance(by, ParallelTable):
        return math.nan
    different, seconds = list(dict.fromkeys(texts)), []
    for _ in range(rounds):
        began = time.perf_counter()
        for code in codes:
            by.translate(different, "en", code)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


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
        ``passes``, ``blocks`` (per text), ``s / 1,000`` (texts) and ``with renderings``: that with
        the making of these, NaN where it was not timed.
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
        "with_renderings": "with renderings",
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
    times = board[["s / 1,000", "with renderings"]]
    untimed = times.isna().to_numpy() @ [-1, 1] > 0
    for column in times:
        board[column] = times[column].map(lambda s: "" if np.isnan(s) else f"{s:.1f}")
    board.loc[untimed, "with renderings"] = "not timed"
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
