"""The tables of `set_ablation` and `set_interchange`: what was measured, beside every control."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.evaluate import holm, mean_with_interval, paired_difference, score, spearman
from dysem_lab.questions.causal_passes import Key, Measured
from dysem_lab.questions.causal_sets import GAIN, KL, OWN

COMPARED = {KL: (KL, "changed"), GAIN: (GAIN, "gain_rendering", "became")}  # and STS
SHARES = ("changed", "became")
ROUNDING = 1e-6  # of cosines of streams in float32
N_RESAMPLES = 10_000  # no p is below its inverse, which Holm's factor leaves room for


def pooled(found: Sequence[Measured]) -> Measured:
    """Return what was measured on the texts of several seeds as one, without k, which they chose.

    No pair belongs to two seeds. Draw i of all texts is draw i of each seed.
    """
    effects: dict[Key, dict[str, list[Tensor]]] = {}
    parts: dict[Key, list[Tensor]] = {}
    similarity: dict[Key | None, list[np.ndarray]] = {}
    for of in found:
        for key, effect in of.effects.items():
            for measure, values in effect.items():
                effects.setdefault(_without_k(key), {}).setdefault(measure, []).append(values)
            parts.setdefault(_without_k(key), []).append(of.parts[key])
        for name, cosines in of.similarity.items():
            similarity.setdefault(name and _without_k(name), []).append(cosines)
    starts = np.cumsum([0, *(1 + of.unit.max() for of in found)])
    return Measured(
        {key: {name: torch.cat(all_) for name, all_ in of.items()} for key, of in effects.items()},
        {key: torch.cat(all_, 1) for key, all_ in parts.items()},
        {key: np.concatenate(all_) for key, all_ in similarity.items()},
        np.concatenate([of.gold for of in found]),
        np.concatenate([start + of.unit for start, of in zip(starts, found, strict=False)]),
        [text for of in found for text in of.texts],
        np.concatenate([of.seed for of in found]),
    )


def _without_k(key: Key) -> Key:
    return key._replace(k=0)


def mean_over_draws(
    found: Measured,
    measure: str,
    layer: int,
    k: int | float,
    control: str,
    language: str | None = None,
) -> Float[np.ndarray, " n"]:
    """Return a measure of each text, its mean over draws and languages."""
    effects = [
        effect[measure].double().numpy()
        for key, effect in found.effects.items()
        if (key.layer, key.k, key.control) == (layer, k, control)
        and language in (None, key.language)
    ]
    return np.mean(effects, axis=0)


def rows_of(found: Measured, main: str, model: str, seed: int) -> list[dict[str, Any]]:
    """Return one row per language, block and control.

    Args:
        found: Of all seeds, from `pooled`.
        main: The measure, "kl" or "gain".
        model: Its name in the table.
        seed: Of the bootstraps.
    """
    groups: dict[tuple[str, int, int | float, str], list[Key]] = {}
    for key in found.effects:
        groups.setdefault(key[:4], []).append(key)
    seeds = [found.seed == one for one in np.unique(found.seed)]
    rows = []
    for (language, layer, k, control), keys in groups.items():
        own_key = Key(language, layer, k, OWN, 0)
        parts = torch.stack([found.parts[key] for key in keys], 1)  # [3, draws, n]
        size, share, read = parts.flatten(1).nanmean(1).tolist()
        of_draws = [found.effects[key][main].double().numpy() for key in keys]
        draws = [values[one].mean() for values in of_draws for one in seeds]
        row: dict[str, Any] = {"model": model, "language": language, "layer": layer}
        row |= {"control": control, "n_draws": len(draws), "n_dims": size}
        row |= {"share": share, "share_read": read, "n_texts": len(found.unit)}
        compared: dict[str, float] = {}
        for measure in found.effects[keys[0]]:
            if measure in ("top", "top_plain"):
                continue
            of_texts = mean_over_draws(found, measure, layer, k, control, language)
            if measure == main:
                mean = _with_interval(of_texts, found.unit, seed)
                row |= {main: mean["mean"]}
                row |= {f"{main}_{end}": mean[end] for end in ("low", "high")}
                row |= {"draw_low": min(draws), "draw_high": max(draws)}
                of_seeds = [of_texts[one].mean() for one in seeds]
                row |= {"seed_low": min(of_seeds), "seed_high": max(of_seeds)}
            else:
                row[measure] = float(pd.Series(of_texts).mean())
            if measure == "became":
                row["n_differ"] = int((~np.isnan(of_texts)).sum())
            # In an English receiver the donor's rendering is the donor: one test, not two.
            if measure in COMPARED[main] and (measure, language) != ("gain_rendering", "en"):
                own = mean_over_draws(found, measure, layer, k, OWN, language)
                within = (-1.0, 1.0) if measure in SHARES else None
                gap = _with_interval(own - of_texts, found.unit, seed, within)
                compared |= _difference(measure if measure != main else "", gap)
        if found.similarity:
            row |= _sts(found, keys, seed)
            compared |= _difference("spearman", _sts_difference(found, own_key, keys, seed))
        rows.append({**row, **(dict.fromkeys(compared, np.nan) if control == OWN else compared)})
    return rows


def _difference(measure: str, found: Mapping[str, float]) -> dict[str, float]:
    """Return a paired difference as the columns of a measure; "" is the main one."""
    before = f"{measure}_" if measure else ""
    names = {"difference": "mean", "difference_low": "low", "difference_high": "high", "p": "p"}
    return {before + name: found[of] for name, of in names.items()}


def _with_interval(
    values: Float[np.ndarray, " n"],
    unit: np.ndarray,
    seed: int,
    within: tuple[float, float] | None = None,
) -> dict[str, float]:
    """Return the mean over the units that are resampled of the mean of their texts; no NaN."""
    kept = ~np.isnan(values)
    _, of = np.unique(unit[kept], return_inverse=True)
    means = np.bincount(of, values[kept]) / np.bincount(of)
    return mean_with_interval(means, within=within, seed=seed)


def _sts(found: Measured, keys: Sequence[Key], seed: int) -> dict[str, float]:
    """Return the score of the cosines, the mean over draws; NaN where only rounding tells them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Spearman is undefined")
        scored = pd.DataFrame(
            [score(_told_apart(found.similarity[key]), found.gold, seed=seed) for key in keys]
        )
        plain = spearman(found.similarity[None], found.gold)
    return {**scored[["spearman", "low", "high"]].mean().to_dict(), "spearman_plain": plain}


def _told_apart(similarity: Float[np.ndarray, " pairs"]) -> Float[np.ndarray, " pairs"]:
    """Return the cosines, or one for all where they are equal but for float32's rounding."""
    alike = np.nanmax(similarity, initial=-1) - np.nanmin(similarity, initial=1) < ROUNDING
    return np.full_like(similarity, 1.0) if alike else similarity


def _sts_difference(found: Measured, own: Key, keys: Sequence[Key], seed: int) -> dict[str, float]:
    """Return the mean difference of the score to those of draws, the widest interval, largest p."""
    cosines = found.similarity
    pairs = [(_told_apart(cosines[own]), _told_apart(cosines[key])) for key in keys]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Spearman is undefined")
        every = pd.DataFrame(
            [
                paired_difference(*both, found.gold, seed=seed, n_resamples=N_RESAMPLES)
                for both in pairs
                if np.isfinite(sum(both)).sum() >= 3
            ],
            columns=["difference", "low", "high", "p"],
        )
    mean, low, high = every["difference"].mean(), every["low"].min(), every["high"].max()
    return {
        "mean": float(mean),
        "low": float(low),
        "high": float(high),
        "p": float(every["p"].max()),
    }


def corrected(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with Holm's correction for all of its p together."""
    columns = [name for name in table if name == "p" or name.endswith("_p")]
    every = holm(table[columns].to_numpy().ravel()).reshape(-1, len(columns))
    return table.assign(**{f"{name}_holm": every[:, i] for i, name in enumerate(columns)})
