"""What is choosing languages and m on the test labels worth? Notebook 12."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dysem_lab.bootstrap import MANY
from dysem_lab.data.sts import STSData, available_languages, load_data
from dysem_lab.data.sts_tasks import TASKS
from dysem_lab.display import amount
from dysem_lab.encoders.settings import VECTORS
from dysem_lab.errors import InputError, choices
from dysem_lab.evaluate import mean_difference, score, spearman
from dysem_lab.inputs import names_of, seed_of
from dysem_lab.questions.asked import asked, require_study
from dysem_lab.questions.finding import Facts, Finding, facts_of, sources_of
from dysem_lab.questions.grid import Cell, CellResult, sweep
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.scores import (
    LEVEL,
    by_holm,
    certain,
    mean_size,
    only_task,
    rank_languages,
    with_holm,
)
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import (
    SCORE,
    error_bar,
    gain,
    layout,
    noted,
    prompts_said,
    rows_of,
    whiskers,
)

CHOICE_COLOURS = {"test": "#D55E00", "dev": "#0072B2"}


def dev_and_test(
    source: str | Path = "demo",
    task: str | None = None,
    languages: Sequence[str] = ("en",),
    *,
    seed: int = 0,
) -> tuple[dict[str, STSData], dict[str, STSData]]:
    """Return pairs to choose on and pairs to report on, each as {task name: pairs}.

    Where the source has a dev split, these are its dev and test pairs; else the two halves of a
    seeded random split of its test pairs. The name of each data set says which.

    Args:
        source: As for `dysem_lab.load_data`.
        task: As for `dysem_lab.load_data`.
        languages: Codes wanted beside English.
        seed: Of the random split.

    Raises:
        InputError: Fewer than two pairs to split.
        DataError: As for `dysem_lab.load_data`.
    """
    codes = list(dict.fromkeys(["en", *names_of(languages, "language")]))
    if has_dev(source, task):
        dev, test = (load_data(source, task, split, codes) for split in ("dev", "test"))
        return {task or test.name: dev}, {task or test.name: test}
    everything = load_data(source, task, languages=codes)
    if len(everything) < 2:
        raise InputError(f"{everything.name} has {len(everything)} pair; halves need at least 2")
    order = np.random.default_rng(seed_of(seed)).permutation(len(everything))
    halves = [
        replace(
            everything.select(np.sort(part)),
            name=f"{everything.name}, random half {number}",
            source=f"{everything.source}, random half {number} of 2 (seed {seed})",
        )
        for number, part in enumerate(np.array_split(order, 2), start=1)
    ]
    return {task or everything.name: halves[0]}, {task or everything.name: halves[1]}


def has_dev(source: str | Path, task: str | None = None) -> bool:
    """Whether a source has dev pairs of a task, or of its own; arguments as for `load_data`.

    Raises:
        InputError: Unknown task, or what is no source.
    """
    if task is not None and task not in TASKS:
        raise choices("task", task, TASKS)
    has_splits = task is None or "{split}" in TASKS[task].folder[0]
    return has_splits and "en" in available_languages(source, task, "dev")


def shared_with(dev: STSData, test: STSData) -> dict[str, int]:
    """Return how many test pairs occur in dev, as whole pairs and with at least one sentence.

    Whatever their case and punctuation, as where `dysem_lab.leaderboard` chooses on other pairs.
    """
    known, tested = set(dev.english_pairs()), test.english_pairs()
    sentences = set().union(*known)
    return {
        "pairs": sum(pair in known for pair in tested),
        "with_a_sentence": sum(bool(pair & sentences) for pair in tested),
        "of": len(test),
    }


def honest_choice(
    dev: Study,
    test: Study,
    *,
    component: str = "attn",
    ks: Sequence[int | float] = (0.25,),
    ms: Sequence[int] | None = None,
    seed: int = 0,
) -> Finding:
    """Choose languages, m and k on the test labels and on the dev labels; report both on test.

    Either way, languages are ranked by the Spearman score of the plain cosine in that one language,
    and the m and k with the best score are taken (of equals the smaller m, then the k named
    first). The paper does both on the test labels. Choosing on dev uses no test label.

    Args:
        dev: Pairs to choose on, of one task.
        test: Pairs to report on, of the same task, in the same languages, with the same model. Its
            first template is used, in each prompt setting.
        component: Internal vector.
        ks: Dimensions per text, or fractions of d, to choose from.
        ms: Numbers of languages to choose from; None is all.
        seed: Of the bootstraps.

    Returns:
        One row per setting, ``vector``, ``chosen_on`` ("test", "dev"), m and k, with ``languages``
        (joined by "/", the first m of that ranking), ``choosing_score`` (on the pairs that the
        choice is made on), ``chosen``, and the columns of `dysem_lab.evaluate.score` on the test
        pairs. On the row chosen on test, ``optimism``, ``optimism_low``, ``optimism_high``,
        ``optimism_p``: how much it scores above the row chosen on dev, by paired bootstrap over the
        test pairs with both choices held fixed; ``optimism_p_holm``, corrected for all
        ``n_compared`` settings and vectors of the table. It can be negative: adding languages in
        the order of their own scores is a rule of thumb, not a search over all sets of languages.

    Raises:
        InputError: Several tasks, different models or languages, a name or number out of range, or
            no setting with a defined score.
    """
    require_study(dev)
    given = asked(test, component=component, ks=ks, seed=seed)
    given["ms"] = None if ms is None else asked(test, ms=ms)["ms"]
    task = only_task(test)
    _check(dev, test, task)
    prepare(dev.needs(component), test.needs(component))
    scores = table(dev, test, task, **given)
    candidates = list(test.task_languages(task))
    of_test = facts_of(test, languages=candidates, template=test.templates[0], **given)
    facts = replace(
        of_test,
        data=f"{of_test.data}, dev {dev.data[task].name} with "
        f"{amount(len(dev.data[task]), 'pair')}",
        recorded={**of_test.recorded, "chosen_on": sources_of(dev)},
    )
    return Finding("honest_choice", scores, figure(scores, facts), caption(scores), facts)


def _check(dev: Study, test: Study, task: str) -> None:
    """Raise `InputError` unless two studies have one model, task and languages."""
    known = [(one.known.fingerprint, one.known.dtype) for one in (dev, test) if one.known]
    if (dev.name, dev.dtype) != (test.name, test.dtype) or len(set(known)) > 1:
        raise InputError("dev and test must be studies of one model in one dtype")
    of_dev, of_test = dev.task_languages(task), test.task_languages(task)
    if set(of_dev) != set(of_test):
        raise InputError(
            f"dev has {'/'.join(of_dev)}, test {'/'.join(of_test)}; give both the same languages"
        )


def table(
    dev: Study,
    test: Study,
    task: str,
    component: str,
    ks: Sequence[int | float],
    ms: Sequence[int] | None,
    seed: int,
) -> pd.DataFrame:
    """Return the table of `honest_choice`."""
    gold = test.data[task].gold
    rows: list[dict[str, object]] = []
    for setting in test.settings:
        ranked = {
            name: _ranked(study, test, task, component, setting, ks, ms, seed)
            for name, study in (("test", test), ("dev", dev))
        }
        for vector in VECTORS:
            chosen = {name: best_cell(r.choosing, vector, ks) for name, r in ranked.items()}
            a, b = (ranked[name].reported[chosen[name]].similarity for name in ("test", "dev"))
            optimism = mean_difference("optimism", [a], [b], gold, seed, MANY)
            for name, (order, choosing, reported) in ranked.items():
                for cell, result in reported.items():
                    if cell.vector != vector:
                        continue
                    is_chosen = cell == chosen[name]
                    rows.append(
                        {
                            "setting": setting,
                            "vector": vector,
                            "chosen_on": name,
                            "m": cell.m,
                            "k": cell.k,
                            "languages": "/".join(order[: cell.m]),
                            "choosing_score": choosing[cell],
                            "chosen": is_chosen,
                            **score(result.similarity, gold, mean_size(result.sizes), seed=seed),
                            **(optimism if is_chosen and name == "test" else {}),
                        }
                    )
    return with_holm(pd.DataFrame(rows), "optimism")


class _Ranked(NamedTuple):
    """The settings to choose from, with the languages in one order.

    Attributes:
        order: All languages, best first on the pairs that the choice is made on.
        choosing: Score of each setting on those pairs.
        reported: Similarities under each setting of the pairs that are reported.
    """

    order: list[str]
    choosing: dict[Cell, float]
    reported: dict[Cell, CellResult]


def _ranked(
    study: Study,
    test: Study,
    task: str,
    component: str,
    setting: str,
    ks: Sequence[int | float],
    ms: Sequence[int] | None,
    seed: int,
) -> _Ranked:
    """Rank the languages and score every m and k on one study; apply them to the test study."""
    ranking = rank_languages(study, task, setting=setting, component=component, seed=seed)
    order = ranking["language"].tolist()

    def cells(of: Study) -> dict[Cell, CellResult]:
        x = of.vectors(task, component, setting=setting, languages=order)
        wanted = range(1, len(order) + 1) if ms is None else ms
        return sweep(x, x[:, order.index("en")], ks, wanted)

    own = cells(study)
    labels = study.data[task].gold
    choosing = {cell: spearman(result.similarity, labels) for cell, result in own.items()}
    return _Ranked(order, choosing, own if study is test else cells(test))


def best_cell(scores: Mapping[Cell, float], vector: str, ks: Sequence[int | float]) -> Cell:
    """Return the setting of one vector that scores best; of equals the smaller m, the earlier k.

    Raises:
        InputError: No setting has a defined score.
    """
    defined = [c for c, value in scores.items() if c.vector == vector and not np.isnan(value)]
    if not defined:
        raise InputError(f"no m and k gives the {vector} vector a defined score to choose by")
    return min(defined, key=lambda cell: (-scores[cell], cell.m, list(ks).index(cell.k)))


def figure(table: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return score on test against m, with languages ranked on test or on dev, and both choices."""
    panels = list(table.groupby(["setting", "vector"], sort=False))
    titles = [
        f"{prompts_said(setting)}, {vector}: {_verdict(part)}" for (setting, vector), part in panels
    ]
    n_rows = rows_of(panels, 2)
    figure = make_subplots(
        rows=n_rows,
        cols=2,
        shared_yaxes=True,
        subplot_titles=titles,
        horizontal_spacing=0.05,
        vertical_spacing=0.3 / n_rows,
    )
    for i, (_, part) in enumerate(panels):
        at = {"row": 1 + i // 2, "col": 1 + i % 2}
        for name, rows in part.groupby("chosen_on", sort=False):
            chosen = rows[rows["chosen"]].iloc[0]
            line = rows[rows["k"] == chosen["k"]].sort_values("m")
            colour = CHOICE_COLOURS[name]
            figure.add_scatter(
                x=line["m"],
                y=line["spearman"],
                mode="lines+markers",
                marker_size=4,
                line={"color": colour, "dash": "solid" if name == "test" else "dot"},
                name=f"languages ranked on {name}",
                legendgroup=f"{name} line",
                showlegend=i == 0,
                customdata=line[["languages", "n_dims"]],
                hovertemplate="%{customdata[0]}: %{y:.2f}<br>#Dim. %{customdata[1]:.0f}",
                **at,
            )
            figure.add_scatter(
                x=[chosen["m"] + {"test": -0.07, "dev": 0.07}[name]],
                y=[chosen["spearman"]],
                mode="markers",
                marker={
                    "color": colour,
                    "size": 14,
                    "symbol": {"test": "diamond-open", "dev": "circle-open"}[name],
                    "line_width": 3,
                },
                error_y=error_bar(*(pd.Series([chosen[c]]) for c in ("spearman", "low", "high"))),
                name=f"chosen on {name}",
                legendgroup=f"{name} choice",
                showlegend=i == 0,
                hovertemplate=f"{chosen['languages']}, k = {chosen['k']}: %{{y:.2f}}",
                **at,
            )
    figure.update_xaxes(dtick=1, title="m, number of languages")
    figure.update_yaxes(title=f"{SCORE} on test", col=1).update_yaxes(matches="y")
    figure.update_annotations(font_size=14)
    title = "What is choosing on the test labels worth? Above each panel: test choice − dev choice"
    notes = whiskers(table), f"* {by_holm(table, 'by')}"
    return layout(figure, title, noted(facts, *notes), 330 * n_rows + 150)


def caption(table: pd.DataFrame) -> str:
    """Return one line: both choices of every setting and vector, and their difference."""
    parts = []
    groups = list(table[table["chosen"]].groupby(["setting", "vector"], sort=False))
    several = table["k"].nunique() > 1
    for (setting, vector), rows in groups:
        test, dev = (rows[rows["chosen_on"] == name].iloc[0] for name in ("test", "dev"))
        ways = [
            f"{row['languages']}" + (f" (k = {row['k']})" if several else "") for row in (test, dev)
        ]
        prompts = prompts_said(setting)
        if _same_choice(rows):
            parts.append(f"{prompts}, {vector}: both choose {ways[0]}, {test['spearman']:.1f}")
        else:
            parts.append(
                f"{prompts}, {vector}: chosen on test {ways[0]} {test['spearman']:.1f}, chosen on "
                f"dev {ways[1]} {dev['spearman']:.1f}, difference {gain(test, 'optimism')}"
                + (" (certain)" if test["optimism_p_holm"] < LEVEL else "")
            )
    return (
        f"Choosing on the test labels scores higher for certain in {certain(table, 'optimism')[0]} "
        f"of {len(groups)} settings ({by_holm(table)}). {SCORE} on test. "
        f"{'; '.join(parts)}."
    )


def _verdict(part: pd.DataFrame) -> str:
    """Return what stands above a panel."""
    chosen = part[part["chosen"]]
    if _same_choice(chosen):
        return "the same choice"
    test = chosen[chosen["chosen_on"] == "test"].iloc[0]
    return gain(test, "optimism") + ("*" if test["optimism_p_holm"] < LEVEL else "")


def _same_choice(rows: pd.DataFrame) -> bool:
    """Return whether the two chosen rows of one setting and vector are one way to measure."""
    ways = zip(rows["languages"], rows["k"], strict=True)
    return len({(frozenset(languages.split("/")), k) for languages, k in ways}) == 1
