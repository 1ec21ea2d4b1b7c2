"""Which step of the method earns the score? The paper does not ablate it. Notebook 11."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dysem_lab.bootstrap import MANY
from dysem_lab.consensus import consensus_set, resolve_k, top_k
from dysem_lab.display import amount
from dysem_lab.evaluate import mean_difference, score
from dysem_lab.joint import joint_cosine, joint_set
from dysem_lab.questions.asked import asked
from dysem_lab.questions.finding import Facts, Finding, facts_of
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.random_sets import draw_sets
from dysem_lab.questions.scores import LEVEL, by_holm, one_prompt, only_task, with_holm
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import (
    SCORE,
    difference_axis,
    gain,
    layout,
    lines_down,
    measured,
    noted,
    range_with_room,
    side_by_side,
    whiskers,
)

STEPS = ("source, all d", "mean, all d", "positive mean", "consensus", "top k")
CONTROLS = ("random, per pair", "random, shared", "bottom k", "intersection")
VECTOR_COLOURS = {"mean": "#D55E00", "source": "#0072B2"}
SHOWN_RUNGS = {
    "source, all d": "source vector, all dimensions",
    "mean, all d": "mean over languages, all dimensions",
    "positive mean": "positive mean",
    "consensus": "consensus: positive in every language",
    "top k": "top k of the consensus = DySem",
    "random, per pair": "random set for each pair",
    "random, shared": "one random set for all pairs",
    "bottom k": "bottom k of the consensus",
    "intersection": "top k, intersection for union",
}
STEP_NAMES = {
    "mean, all d": "mean over languages",
    "positive mean": "positive mean",
    "consensus": "consensus",
    "top k": "top k",
}


def ladder(
    study: Study,
    languages: Sequence[str],
    *,
    component: str = "attn",
    k: int | float = 0.25,
    seed: int = 0,
    n_random: int = 5,
) -> Finding:
    """Score the method one step at a time, then with its last step replaced by controls.

    Steps: the source vector on all d dimensions; the mean over the languages on all d; on U of the
    dimensions whose mean is positive; on U of the consensus sets I(x) (Eq. 11); on U of the top k
    of them, S(x) (Eq. 13), which is DySem. Controls, each in place of the top k: random sets of
    equal size, drawn per pair or one for all pairs; the k consensus dimensions with the smallest
    mean; S(x) ∩ S(y) instead of the union. From "positive mean" on, each is scored with both
    semantic vectors, mean and source, on the same sets.

    Args:
        study: Of one task. Its first template and first prompt setting are used.
        languages: 𝓛.
        component: Internal vector.
        k: Dimensions per text, or fraction of d.
        seed: The first random draw, and the bootstraps.
        n_random: Random draws.

    Returns:
        One row per ``rung`` and ``vector``, in the order above, with ``kind`` ("step", "control")
        and the columns of `dysem_lab.evaluate.score`. ``step``, ``step_low``, ``step_high``,
        ``step_p``: paired difference to the row named by ``against``, which is the step before, and
        for controls the top k; ``step_p_holm``, corrected for all ``n_compared`` of the table.
        ``total``, ``total_low``, ``total_high``: difference to the first row. A random rung is the
        mean of its draws, its intervals span those of the draws, its p is their largest, and
        ``draw_low``, ``draw_high`` are the lowest and highest score of a draw. ``cut``: share of
        the texts whose consensus set is larger than k. Differences are over the pairs that both
        sides define (NaN below three).

    Raises:
        InputError: Several tasks, a name that the study does not have, k out of range, n_random
            below 1.
    """
    of_sets = {"component": component, "k": k, "n_random": n_random, "seed": seed}
    given = asked(study, languages=languages, **of_sets)
    only_task(study)
    prepare(study.needs(component))
    facts, scores = facts_of(study, **one_prompt(study, given)), table(study, **given)
    return Finding("ladder", scores, figure(scores, facts), caption(scores), facts)


def table(
    study: Study, languages: Sequence[str], component: str, k: int | float, seed: int, n_random: int
) -> pd.DataFrame:
    """Return the table of `ladder`."""
    task = only_task(study)
    x = study.vectors(task, component, languages=languages)
    source = study.vectors(task, component, languages=["en"])
    gold = study.data[task].gold
    n_pairs, n_kept = len(gold), resolve_k(k, x.shape[-1])
    v = {"source": source[:, 0], "mean": x.mean(dim=1)}
    similarities: dict[tuple[str, str], list[Tensor]] = {}
    sizes: dict[str, list[float]] = {}
    for rung, sets in rung_sets(x, n_kept, range(seed, seed + n_random)):
        sizes[rung] = [float(U.sum(-1).double().mean()) for U in sets]
        for vector in _vectors_of(rung):
            similarities[rung, vector] = [
                joint_cosine(v[vector][:n_pairs], v[vector][n_pairs:], U) for U in sets
            ]
    cut = float(((x > 0).all(dim=1).sum(-1) > n_kept).double().mean())
    first = similarities[STEPS[0], "source"]
    rows = []
    for (rung, vector), draws in similarities.items():
        before = _before(rung, vector)
        base = similarities[before] if before else None
        scores = pd.DataFrame(
            score(s, gold, size, seed=seed) for s, size in zip(draws, sizes[rung], strict=True)
        )
        total = mean_difference("total", draws, first if before else None, gold, seed, MANY)
        del total["total_p"]  # the steps are what is tested
        rows.append(
            {
                "rung": rung,
                "vector": vector,
                "kind": "step" if rung in STEPS else "control",
                "spearman": scores["spearman"].mean(),
                "low": scores["low"].min(),
                "high": scores["high"].max(),
                "n_dims": scores["n_dims"].mean(),
                "n_pairs": scores["n_pairs"].min(),
                "n_undefined": scores["n_undefined"].max(),
                "draw_low": scores["spearman"].min(),
                "draw_high": scores["spearman"].max(),
                "against": f"{before[0]} ({before[1]})" if before else "",
                **mean_difference("step", draws, base, gold, seed, MANY),
                **total,
                "cut": cut if rung in ("top k", "bottom k") else np.nan,
            }
        )
    return with_holm(pd.DataFrame(rows), "step")


def rung_sets(
    x: Float[Tensor, "twice_n m d"], k: int, draws: Sequence[int]
) -> Iterator[tuple[str, list[Bool[Tensor, "n d"]]]]:
    """Yield each rung of the ladder with the dimensions on which it compares each pair.

    Args:
        x: s^(ℓ)(x) of the first texts of n pairs, then of the second ones.
        k: Number of dimensions.
        draws: Seeds of the random sets; a random rung has one set of sets for each.
    """
    n_pairs, d_model = len(x) // 2, x.shape[-1]
    mean = x.mean(dim=1)
    consensus = (x > 0).all(dim=1)
    selected = consensus_set(x, k)

    def union(sets: Bool[Tensor, "twice_n d"]) -> Bool[Tensor, "n d"]:
        return joint_set(sets[:n_pairs], sets[n_pairs:])

    joint = union(selected)
    sizes = joint.sum(-1)
    shared = sizes.double().mean().round().long()[None]
    everything = torch.ones_like(joint)
    yield "source, all d", [everything]
    yield "mean, all d", [everything]
    yield "positive mean", [union(mean > 0)]
    yield "consensus", [union(consensus)]
    yield "top k", [joint]
    yield "random, per pair", [draw_sets(sizes, d_model, draw) for draw in draws]
    yield (
        "random, shared",
        [draw_sets(shared, d_model, draw).expand_as(joint) for draw in draws],
    )
    yield "bottom k", [union(top_k(-mean, consensus, k))]
    yield "intersection", [selected[:n_pairs] & selected[n_pairs:]]


def _vectors_of(rung: str) -> tuple[str, ...]:
    return {"source, all d": ("source",), "mean, all d": ("mean",)}.get(rung, ("mean", "source"))


def _before(rung: str, vector: str) -> tuple[str, str] | None:
    """Return the row against which a row is measured; None for the first one."""
    if rung in CONTROLS:
        return "top k", vector
    position = STEPS.index(rung)
    if position == 0:
        return None
    # The source vector has no rung of its own mean: its sets start from all dimensions.
    if position == 1 or (position, vector) == (2, "source"):
        return STEPS[0], "source"
    return STEPS[position - 1], vector


def figure(table: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return the rungs from top to bottom: scores on the left, paired steps on the right."""
    figure = side_by_side(["score", "paired difference"], [0.42, 0.58])
    steps = table.loc[table["kind"] == "step", "rung"].unique().tolist()
    controls = table.loc[table["kind"] == "control", "rung"].unique().tolist()
    lines = ["<b>steps, each against the one before</b>", *steps]
    lines += ["<b>in place of top k, each against it</b>", *controls]
    place = {name: i for i, name in enumerate(lines)}
    step = ["step", "step_low", "step_high"]
    ends = range_with_room(table[step].assign(zero=0.0), 0.6)
    for vector, part in table.groupby("vector", sort=False):
        name, colour = f"{vector} vector", VECTOR_COLOURS[vector]
        both = part["rung"].map(table.groupby("rung")["vector"].nunique()) > 1
        y = part["rung"].map(place) + np.where(both, {"mean": -0.18, "source": 0.18}[vector], 0)
        measured(figure, part[["spearman", "low", "high"]], y, 1, name, colour, ".1f")
        part, y = part[part["against"] != ""], y[part["against"] != ""]
        if len(part):
            stars = (part["step_p_holm"] < LEVEL).map({True: "*", False: ""})
            gains = part.apply(gain, axis=1, name="step") + stars
            measured(figure, part[step], y, 2, name, colour, gains, ends[1])
    labels = [_rung_label(name, table) if name in SHOWN_RUNGS else name for name in lines]
    lines_down(figure, labels, above=0.5)
    figure.update_xaxes(title=SCORE, range=range_with_room(table[["low", "high"]]), col=1)
    difference_axis(figure, SCORE, ends, col=2)
    title, note = "Which step of the method earns the score?", f"* {by_holm(table, 'by')}"
    marks = f"{whiskers(table)}; of random sets they span those of the draws"
    height = 44 * len(lines) + 200
    return layout(figure, title, noted(facts, marks, note), height)


def _rung_label(rung: str, table: pd.DataFrame) -> str:
    """Return the name of a rung with its #Dim. and its undefined pairs."""
    part = table[table["rung"] == rung]
    undefined = int(part["n_undefined"].max())
    lost = f", {amount(undefined, 'pair')} undefined" if undefined else ""
    size = f"#Dim. {part['n_dims'].iloc[0]:.0f}{lost}"
    return f"{SHOWN_RUNGS[rung]}<br><span style='font-size:11px'>{size}</span>"


def caption(table: pd.DataFrame) -> str:
    """Return one line: where the ladder starts and ends, and which steps are certain.

    A step is certain where its p is below 0.05 after Holm, over all steps and controls.
    """
    rows = table.set_index(["rung", "vector"])
    first = rows.loc[("source, all d", "source")]
    end = {vector: rows.loc[("top k", vector)] for vector in ("mean", "source")}
    chain = [(name, rows.loc[(rung, "mean")]) for rung, name in STEP_NAMES.items()]
    sure = [f"{name} {gain(row, 'step')}" for name, row in chain if row["step_p_holm"] < LEVEL]
    rest = [f"{name} {gain(row, 'step')}" for name, row in chain if not row["step_p_holm"] < LEVEL]
    others = [
        f"{rung} {gain(row, 'step')}" + (" (certain)" if row["step_p_holm"] < LEVEL else "")
        for (rung, vector), row in rows[rows["kind"] == "control"].iterrows()
        if vector == "mean"
    ]
    undefined = table[table["n_undefined"] > 0].drop_duplicates("rung")
    lost = [
        f"{amount(row.n_undefined, 'pair')} without {row.rung}" for row in undefined.itertuples()
    ]
    cut = end["mean"]["cut"]
    largest, step = max(chain, key=lambda one: one[1]["step"])
    others_add = sum(row["step"] for name, row in chain if name != largest)
    lead = f"{largest.capitalize()} earns the most"
    if step["step"] <= 0:
        lead = f"No step gains; {largest} costs least"
    elif not step["step_p_holm"] < LEVEL:
        lead = f"No step gains for certain; most has {largest}"
    parts = [
        f"{lead}, {step['step']:+.1f}; the other steps together "
        f"{others_add:+.1f}. {SCORE}: source vector on all {first['n_dims']:.0f} dimensions "
        f"{first['spearman']:.1f}; "
        f"DySem with the mean vector {end['mean']['spearman']:.1f} "
        f"({gain(end['mean'], 'total')}) and with the source vector "
        f"{end['source']['spearman']:.1f} ({gain(end['source'], 'total')}) on "
        f"{end['mean']['n_dims']:.0f}",
        f"Steps of the mean vector that are certain ({by_holm(table)}): "
        f"{', '.join(sure) or 'none'}",
        f"steps that are not: {', '.join(rest) or 'none'}",
        f"In place of top k: {', '.join(others)}",
    ]
    if cut < 1:
        parts.append(f"k cuts the consensus of {cut:.0%} of the texts and leaves the others whole")
    if lost:
        parts.append(f"Undefined: {', '.join(lost)}")
    return ". ".join(parts[:2]) + "; " + ". ".join(parts[2:]) + "."
