"""What each step of DySem adds to the score, which the paper does not ablate."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dysem_lab.consensus import consensus_set, resolve_k, top_k
from dysem_lab.errors import InputError
from dysem_lab.evaluate import mean_difference, score
from dysem_lab.joint import joint_cosine, joint_set
from dysem_lab.questions.random_sets import draw_sets
from dysem_lab.questions.study import Study

STEPS = ("source, all d", "mean, all d", "positive mean", "consensus", "top k")
CONTROLS = ("random, per pair", "random, shared", "bottom k", "intersection")


def ladder(
    study: Study,
    task: str,
    languages: Sequence[str],
    *,
    component: str = "attn",
    setting: str | None = None,
    template: str | None = None,
    k: int | float = 1024,
    seed: int = 0,
    n_random: int = 5,
) -> pd.DataFrame:
    """Score the method one step at a time, then with its last step replaced by controls.

    Steps: the source vector on all d dimensions; the mean over the languages on all d; on U of the
    dimensions whose mean is positive; on U of the consensus sets I(x) (Eq. 11); on U of the top k
    of them, S(x) (Eq. 13), which is DySem. Controls, each in place of the top k: random sets of
    equal size, drawn per pair or one for all pairs; the k consensus dimensions with the smallest
    mean; S(x) ∩ S(y) instead of the union. From "positive mean" on, each is scored with both
    semantic vectors, mean and source, on the same sets.

    Args:
        study: The model and its pairs.
        task: Name of a task of the study.
        languages: 𝓛.
        component: Internal vector.
        setting: Prompt setting; None is the study's first.
        template: Prompt template; None is the study's first.
        k: Dimensions per text, or fraction of d.
        seed: The first random draw, and the bootstraps.
        n_random: Random draws.

    Returns:
        One row per ``rung`` and ``vector``, in the order above, with ``kind`` ("step", "control")
        and the columns of `dysem_lab.evaluate.score`. ``step``, ``step_low``, ``step_high``: paired
        difference to the row named by ``against``, which is the step before, and for controls
        the top k; ``total``, ``total_low``, ``total_high``: to the first row. A random rung is the
        mean of its draws, its intervals span those of the draws, and ``draw_low``, ``draw_high``
        are the lowest and highest score of a draw. ``cut``: share of the texts whose consensus set
        is larger than k. Differences are over the pairs that both sides define (NaN below three).

    Raises:
        InputError: A name that the study does not have, k out of range, n_random below 1.
    """
    if n_random < 1:
        raise InputError(f"n_random must be at least 1 draw, got {n_random}")
    x = study.vectors(task, component, setting=setting, template=template, languages=languages)
    source = study.vectors(task, component, setting=setting, template=template, languages=["en"])
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
                **mean_difference("step", draws, base, gold, seed),
                **mean_difference("total", draws, first if before else None, gold, seed),
                "cut": cut if rung in ("top k", "bottom k") else np.nan,
            }
        )
    return pd.DataFrame(rows)


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
