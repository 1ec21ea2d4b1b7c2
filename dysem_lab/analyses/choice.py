"""What choosing languages and m on the labels that are reported adds to the score."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from dysem_lab.data.sts import TASKS, STSData, available_languages, load_data
from dysem_lab.encoders.settings import VECTORS
from dysem_lab.errors import InputError, choices
from dysem_lab.evaluate import mean_difference, score, spearman
from dysem_lab.inputs import names_of
from dysem_lab.questions.grid import Cell, CellResult, sweep
from dysem_lab.questions.scores import rank_languages
from dysem_lab.questions.study import Study


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
    if task is not None and task not in TASKS:
        raise choices("task", task, TASKS)
    codes = list(dict.fromkeys(["en", *names_of(languages, "language")]))
    has_splits = task is None or "{split}" in TASKS[task].folder[0]
    if has_splits and "en" in available_languages(source, task, "dev"):
        dev, test = (load_data(source, task, split, codes) for split in ("dev", "test"))
        return {task or test.name: dev}, {task or test.name: test}
    everything = load_data(source, task, languages=codes)
    if len(everything) < 2:
        raise InputError(f"{everything.name} has {len(everything)} pair; halves need at least 2")
    order = np.random.default_rng(seed).permutation(len(everything))
    halves = [
        replace(
            everything.select(np.sort(part)),
            name=f"{everything.name}, random half {number}",
            source=f"{everything.source}, random half {number} of 2 (seed {seed})",
        )
        for number, part in enumerate(np.array_split(order, 2), start=1)
    ]
    return {task or everything.name: halves[0]}, {task or everything.name: halves[1]}


def shared_with(dev: STSData, test: STSData) -> dict[str, int]:
    """Return how many test pairs occur in dev, as whole pairs and with at least one sentence."""

    def pairs(data: STSData) -> list[frozenset[str]]:
        return [
            frozenset(s.strip() for s in pair) for pair in zip(*data.sentences["en"], strict=True)
        ]

    known = set(pairs(dev))
    sentences = set().union(*known)
    return {
        "pairs": sum(pair in known for pair in pairs(test)),
        "with_a_sentence": sum(bool(pair & sentences) for pair in pairs(test)),
        "of": len(test),
    }


def honest_choice(
    dev: Study,
    test: Study,
    task: str,
    *,
    component: str = "attn",
    template: str | None = None,
    ks: Sequence[int | float] = (1024,),
    ms: Sequence[int] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Choose languages, m and k on the test labels and on the dev labels; report both on test.

    Either way, languages are ranked by the Spearman score of the plain cosine in that one language,
    and the m and k with the best score are taken (of equals the smaller m, then the k named
    first). The paper does both on the test labels. Choosing on dev uses no test label.

    Args:
        dev: Pairs to choose on.
        test: Pairs to report on, in the same languages, with the same model.
        task: Name of a task that both studies have.
        component: Internal vector.
        template: Prompt template; None is the study's first.
        ks: Dimensions per text, or fractions of d, to choose from.
        ms: Numbers of languages to choose from; None is all.
        seed: Of the bootstraps.

    Returns:
        One row per setting, ``vector``, ``chosen_on`` ("test", "dev"), m and k, with ``languages``
        (joined by "/", the first m of that ranking), ``choosing_score`` (on the pairs that the
        choice is made on), ``chosen``, and the columns of `dysem_lab.evaluate.score` on the test
        pairs. On the row chosen on test, ``optimism``, ``optimism_low``, ``optimism_high``: how
        much it scores above the row chosen on dev, by paired bootstrap over the test pairs with
        both choices held fixed. It can be negative: adding languages in the order of their own
        scores is a rule of thumb, not a search over all sets of languages.

    Raises:
        InputError: Different models or languages, a name or number out of range, or no setting with
            a defined score.
    """
    if (dev.model.fingerprint, dev.model.dtype) != (test.model.fingerprint, test.model.dtype):
        raise InputError("dev and test must be studies of one model in one dtype")
    for study in (dev, test):
        study.texts(task, "en", [])  # a task that a study does not have is an error here
    if set(dev.task_languages(task)) != set(test.task_languages(task)):
        raise InputError(
            f"dev has {'/'.join(dev.task_languages(task))}, test "
            f"{'/'.join(test.task_languages(task))}; give both the same languages"
        )
    gold = test.data[task].gold
    rows: list[dict[str, object]] = []
    for setting in test.settings:
        ranked = {
            name: _ranked(study, test, task, component, setting, template, ks, ms, seed)
            for name, study in (("test", test), ("dev", dev))
        }
        for vector in VECTORS:
            chosen = {name: best_cell(r.choosing, vector, ks) for name, r in ranked.items()}
            a, b = (ranked[name].reported[chosen[name]].similarity for name in ("test", "dev"))
            optimism = mean_difference("optimism", [a], [b], gold, seed)
            for name, (order, choosing, reported) in ranked.items():
                for cell, result in reported.items():
                    if cell.vector != vector:
                        continue
                    size = float(result.sizes.double().mean())
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
                            **score(result.similarity, gold, size, seed=seed),
                            **(optimism if is_chosen and name == "test" else {}),
                        }
                    )
    return pd.DataFrame(rows)


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
    template: str | None,
    ks: Sequence[int | float],
    ms: Sequence[int] | None,
    seed: int,
) -> _Ranked:
    """Rank the languages and score every m and k on one study; apply them to the test study."""
    ranking = rank_languages(
        study, task, template=template, setting=setting, component=component, seed=seed
    )
    order = ranking["language"].tolist()

    def cells(of: Study) -> dict[Cell, CellResult]:
        x = of.vectors(task, component, template=template, setting=setting, languages=order)
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
