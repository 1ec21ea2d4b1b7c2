"""Which heads write what tells texts apart, what do they attend to, and are they needed?

Notebook 29. A^L is a sum of what heads wrote, so the similarity of two texts is one too. What the
largest terms are is measured on one half of the pairs, and tested on the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from torch import Tensor

from dysem_lab.consensus import consensus_set
from dysem_lab.errors import InputError
from dysem_lab.evaluate import holm, score, spearman
from dysem_lab.inputs import array_of, at_least
from dysem_lab.joint import joint_cosine
from dysem_lab.questions.asked import asked
from dysem_lab.questions.causal_passes import Half, halves
from dysem_lab.questions.finding import Finding, facts_of
from dysem_lab.questions.heads_passes import (
    SOURCES,
    Attention,
    Head,
    attended_by_heads,
    edited_vectors,
    heads_of_equal_length,
    mean_z,
    together,
    without_heads,
)
from dysem_lab.questions.heads_picture import CHOSEN, PLAIN, RANDOM, caption, figure
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.pair_parts import (
    PairParts,
    PartMeans,
    against,
    pair_parts,
    part_means,
    shares_of_variance,
)
from dysem_lab.questions.scores import only_task, require_order
from dysem_lab.questions.study import Study

N_NAMED = 8  # heads whose attention is shown by example


@dataclass(frozen=True, repr=False)
class Heads(Finding):
    """A finding about heads; what was chosen was chosen on other pairs than those of the tables.

    Attributes:
        ablation: STS before and after some heads are taken out: a row for each number of them, for
            those with the largest parts and for random ones.
        examples: What the leading heads attend to in a few prompts: a row per head, text and token.
    """

    ablation: pd.DataFrame
    examples: pd.DataFrame


def heads(
    study: Study,
    languages: Sequence[str],
    *,
    k: int | float = 0.25,
    n_heads: Sequence[int] = (1, 2, 4, 8),
    n_draws: int = 20,
    n_examples: int = 3,
    seed: int = 0,
) -> Heads:
    """Say which heads write the part of A^L on S(x) that tells pairs apart, and take them out.

    The similarity is the cosine of A^L of the English passes on U = S(x) ∪ S(y), centred on one
    half of the pairs: an exact sum of heads' parts, each centred on its own mean. Heads are ranked
    there by their share of the variance of this similarity over pairs. On the other half stand
    what is left of the score without the part of each head in the sum (no pass is run, U and the
    norms are given), and what is left of it when heads are really taken out: their z at the last
    token is replaced by its mean over the first half, and later blocks read that.

    Args:
        study: Of one task. Its first template and first prompt setting are used.
        languages: 𝓛 of the consensus, which S(x) is chosen by.
        k: Dimensions per text, or a fraction of d.
        n_heads: How many heads are taken out, the first in the ranking.
        n_draws: Draws of random other heads whose parts are together about as long: as many, or
            more where no so many others are as long.
        n_examples: Texts for which is said which tokens the leading heads attend to.
        seed: Of the halves, the draws and the bootstraps.

    Returns:
        One row per part of A^L (``kind``: heads, and biases where there are any), first in the
        ranking first: ``block``, ``head`` (0-based); ``share`` of the variance of the similarity
        over pairs (they sum to 1), ``share_chosen`` the same on the half that ranks; ``written``,
        the share of the squared length of centred A^L on S(x); ``length``, root mean square of
        ‖p − E[p]‖; ``without``, Spearman × 100 without this part of the sum, ``change``, by how
        much the part raises the score (below 0: lowers), with ``low``, ``high``, ``p`` and
        ``p_holm`` over all parts; ``on_first``, ``on_text``, ``on_template``: what the last
        token's attention goes to, the first token of the prompt, the text, the rest of the
        template. In ``ablation`` for each number of heads and each of ``which``: ``heads``;
        ``n_draws``, and ``n_mean``, heads of a draw; ``length`` of their parts together;
        ``spearman``, ``low``, ``high`` of the centred similarity after, ``draw_low``,
        ``draw_high`` over draws; ``spearman_encoder``, of the same cosine not centred; ``lost``,
        against the plain pass, with ``lost_low`` and ``lost_high``; ``difference`` to the mean of
        the random draws, with its interval, ``p``, and ``p_holm`` over the numbers that were
        tried. Intervals are 95 % bootstraps over pairs.

    Raises:
        InputError: Several tasks, fewer than 6 pairs, pairs with one score, an unknown language,
            k, or as many heads as leave no random ones.
        ModelError: The parts do not add up in this architecture.

    Source: heads of a sum, Gandelsman et al. (arXiv 2310.05916); mean ablation, Wang et al.
        (arXiv 2211.00593).
    """
    given = asked(study, languages=languages, k=k, n_draws=n_draws, seed=seed)
    n_examples = asked(study, n_examples=n_examples)["n_examples"]
    task, codes = only_task(study), given["languages"]
    numbers = [at_least(n, 1, "n_heads") for n in array_of(n_heads, "n_heads").ravel().tolist()]
    n_pairs = len(study.data[task])
    if not numbers or n_pairs < 6:
        raise InputError(f"give n_heads, and 6 pairs or more; got {numbers} of {n_pairs}")
    require_order(study.data[task])
    read = list(dict.fromkeys(["en", *codes]))
    study = study.prompted(study.templates[0], study.settings[0], read)

    def check() -> None:
        if max(numbers) > (most := study.lens.n_layers * study.lens.n_heads // 2):
            raise InputError(f"n_heads must be {most} at most, half of them, got {numbers}")

    prepare(study.needs("attn"), runs_the_model=True, check=check)
    lens, (choosing, reporting) = study.lens, halves(study, [seed], ["en"])[seed]
    means = part_means(lens, choosing.prompts("en"))
    ranked = shares_of_variance(_parts(choosing, codes, k, means))
    table = _table(_parts(reporting, codes, k, means), ranked, means, _gold(reporting), seed)
    of_heads = table[table["kind"] == "head"]
    order = list(zip(of_heads["block"].astype(int), of_heads["head"].astype(int), strict=True))
    prompts = reporting.prompts("en")
    seen = attended_by_heads(lens, prompts, prompts[:n_examples], order[:N_NAMED])
    table = table.assign(**_attention_columns(table, seen))
    tried = {
        (n, which): of
        for n in numbers
        for which, of in (
            (CHOSEN, [order[:n]]),
            (RANDOM, heads_of_equal_length(means, order[:n], n_draws, seed)),
        )
    }
    ablation = _ablation(choosing, reporting, codes, k, means, tried, seed)
    facts = facts_of(study, **given, n_heads=numbers)
    sizes = {"choosing": len(choosing.first), "reporting": len(reporting.first)}
    examples = _examples(seen, reporting)
    rows = [row.dropna().to_dict() for _, row in ablation.iterrows()]  # JSON has no NaN
    recorded = {"texts": sizes, "ablation": rows, "examples": examples.to_dict("records")}
    facts = replace(
        facts, unsaid={"n_examples": n_examples}, recorded={**facts.recorded, **recorded}
    )
    said = caption(table, ablation, sizes["reporting"])
    return Heads("heads", table, figure(table, ablation, facts), said, facts, ablation, examples)


def _vectors(
    half: Half, codes: Sequence[str], k: int | float
) -> tuple[Float[Tensor, "n d"], Bool[Tensor, "n d"]]:
    """Return A^L of the English pass and S(x) of each different text."""
    last = half.study.n_layers - 1
    sets = consensus_set(half.stream(last, codes, "attn"), k)
    return half.stream(last, ["en"], "attn")[:, 0], sets


def _gold(half: Half) -> Float[np.ndarray, " pairs"]:
    return half.study.data[half.task].gold[half.pairs]


def _parts(half: Half, codes: Sequence[str], k: int | float, means: PartMeans) -> PairParts:
    """Return the similarities of the pairs of a half in parts."""
    (v, sets), prompts, rows = _vectors(half, codes, k), half.prompts("en"), half.row
    return pair_parts(half.study.lens, [prompts[i] for i in rows], v[rows], sets[rows], means)


def _table(
    parts: PairParts,
    ranked: Float[np.ndarray, " parts"],
    means: PartMeans,
    gold: Float[np.ndarray, " pairs"],
    seed: int,
) -> pd.DataFrame:
    """Return one row per part, those first that come first on the other half."""
    rows = []
    shares, whole = shares_of_variance(parts), parts.similarity
    with_score = score(whole, gold, seed=seed)["spearman"]
    for i, label in enumerate(parts.labels):
        left = against(whole, [whole - parts.added[:, i]], gold, seed=seed)
        row: dict[str, Any] = {"kind": label.kind, "block": label.block, "head": label.head}
        row |= {"share": shares[i], "share_chosen": ranked[i], "written": parts.written[i]}
        row |= {"length": float(means.length[i]), "without": with_score - left["difference"]}
        row |= {"change": left["difference"], "low": left["low"], "high": left["high"]}
        rows.append({**row, "p": left["p"]})
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(table["p"].to_numpy())
    return table.sort_values("share_chosen", ascending=False, kind="stable", ignore_index=True)


def _attention_columns(table: pd.DataFrame, seen: Attention) -> dict[str, list[float]]:
    """Return what each head's attention goes to; NaN of what is no head."""
    found = [
        seen.shares[int(row.block), int(row.head)].tolist()
        if row.kind == "head"
        else [np.nan] * len(SOURCES)
        for row in table.itertuples()
    ]
    return {
        f"on_{name}": list(of) for name, of in zip(SOURCES, zip(*found, strict=True), strict=True)
    }


def _ablation(
    choosing: Half,
    reporting: Half,
    codes: Sequence[str],
    k: int | float,
    means: PartMeans,
    tried: Mapping[tuple[int, str], Sequence[Sequence[Head]]],
    seed: int,
) -> pd.DataFrame:
    """Return STS of the plain pass and after each ablation; see `heads`."""
    lens, gold = reporting.study.lens, _gold(reporting)
    (v, sets), mean = _vectors(reporting, codes, k), means.mean.sum(0).float()
    z = mean_z(lens, choosing.prompts("en"))
    edits = {
        (*key, i): without_heads(lens, of, z)
        for key, draws in tried.items()
        for i, of in enumerate(draws)
    }
    first, second = np.array(reporting.row).reshape(2, -1)
    U = sets[first] | sets[second]

    def similarities(vectors: Float[Tensor, "n d"]) -> tuple[np.ndarray, np.ndarray]:
        pairs = vectors[first], vectors[second]
        centred = joint_cosine(pairs[0] - mean, pairs[1] - mean, U)
        return centred.double().numpy(), joint_cosine(*pairs, U).double().numpy()

    plain, plain_own = similarities(v)
    edited = edited_vectors(lens, reporting.prompts("en"), edits)
    after = {key: similarities(vectors) for key, vectors in edited.items()}
    row = {"n_heads": 0, "which": PLAIN, "heads": "", "n_draws": 1, "n_mean": 0.0, "length": 0.0}
    own = score(plain_own, gold, seed=seed)["spearman"]
    rows = [{**row, **_scored([plain], gold, seed), "spearman_encoder": own}]
    for (n, which), draws in tried.items():
        found = [after[n, which, i] for i in range(len(draws))]
        centred = [one for one, _ in found]
        named = " ".join(f"{block}.{head}" for block, head in draws[0])
        row = {"n_heads": n, "which": which, "heads": named if which == CHOSEN else ""}
        sizes = {"n_draws": len(draws), "n_mean": float(np.mean([len(of) for of in draws]))}
        row |= {**sizes, "length": float(np.mean([together(means, of) for of in draws]))}
        row |= _scored(centred, gold, seed)
        row["spearman_encoder"] = float(np.mean([spearman(one, gold) for _, one in found]))
        row |= _ends("lost", against(plain, centred, gold, seed=seed))
        if which == CHOSEN:
            others = [after[n, RANDOM, i][0] for i in range(len(tried[n, RANDOM]))]
            compared = against(centred[0], others, gold, seed=seed)
            row |= {**_ends("difference", compared), "p": compared["p"]}
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"].to_numpy()))


def _ends(name: str, found: Mapping[str, float]) -> dict[str, float]:
    """Return a difference and its interval as the columns of a name."""
    return {name: found["difference"], f"{name}_low": found["low"], f"{name}_high": found["high"]}


def _scored(
    draws: Sequence[Float[np.ndarray, " pairs"]], gold: Float[np.ndarray, " pairs"], seed: int
) -> dict[str, float]:
    """Return the mean score of draws with its interval, and the lowest and highest of them."""
    every = pd.DataFrame([score(one, gold, seed=seed) for one in draws])
    row = every[["spearman", "low", "high"]].mean().to_dict()
    return {**row, "draw_low": every["spearman"].min(), "draw_high": every["spearman"].max()}


def _examples(seen: Attention, half: Half) -> pd.DataFrame:
    """Return a row per leading head, example and token."""
    columns = ["block", "head", "text", "rank", "token", "weight"]
    texts = dict(zip(map(str, half.prompts("en")), half.texts(), strict=True))
    rows = [
        (*head, texts[prompt], rank, token, weight)
        for prompt, of_prompt in seen.tokens.items()
        for head, tokens in of_prompt.items()
        for rank, (token, weight) in enumerate(tokens, 1)
    ]
    return pd.DataFrame(rows, columns=columns).sort_values(columns[:4], ignore_index=True)
