"""Does S(x) hold the meaning of x, for the model itself? Ablation and interchange. Notebook 27.

At the last token of block b the part of the residual stream on S(x) is replaced, and the forward
pass goes on. What follows is compared with what the same does to other parts of the stream.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from dysem_lab.display import amount
from dysem_lab.errors import InputError
from dysem_lab.inputs import array_of, one_of, seed_of
from dysem_lab.models.lens import LensModel
from dysem_lab.models.readout import readers, token_texts
from dysem_lab.questions.asked import asked, codes_of, require_same_shape, require_study
from dysem_lab.questions.causal_passes import (
    Half,
    Key,
    Measured,
    Tried,
    ablated,
    exchanged,
    halves,
)
from dysem_lab.questions.causal_picture import TRAINED, UNTRAINED, caption, figure
from dysem_lab.questions.causal_sets import GAIN, KINDS, KL, NORM, OWN, SIZE, WHOLE, Draws
from dysem_lab.questions.causal_table import corrected, mean_over_draws, pooled, rows_of
from dysem_lab.questions.finding import Finding, facts_of
from dysem_lab.questions.needs import Need, prepare
from dysem_lab.questions.scores import only_task
from dysem_lab.questions.study import Study

__all__ = ["CausalTest", "set_ablation", "set_interchange"]

BY = ("mean", "zero")
TRIED = (OWN, SIZE)  # where block and k are chosen
FLOOR = (OWN, SIZE, NORM, WHOLE)  # of random weights
N_EXCEPTIONS = 10
SEEDS = (0, 1, 2)


@dataclass(frozen=True, repr=False)
class CausalTest(Finding):
    """A finding on one half of the pairs; blocks and k were compared on the other.

    Attributes:
        choice: What the other half said: a row per seed, block and k; ``chosen`` marks k of each
            block, ``leads`` the block with the largest difference. The caption is about the block
            that leads for most seeds.
        exceptions: The texts for which S(x) does least in comparison with random sets of its size,
            at that block.
    """

    choice: pd.DataFrame
    exceptions: pd.DataFrame


def set_ablation(
    study: Study,
    languages: Sequence[str],
    layers: Sequence[int],
    *,
    ks: Sequence[int | float] = (0.1, 0.25),
    by: str = "mean",
    n_random: int = 1,
    n_rotations: int = 7,
    random_weights: Study | None = None,
    seeds: Sequence[int] = SEEDS,
) -> CausalTest:
    """Take S(x) out of the residual stream at the last token, and see what the model loses.

    S(x) is the consensus set of h^b (Eqs. 11-13) of the text in the languages, at the block itself.
    It is replaced in the English pass by the mean over other texts, or by zero. k of each block,
    and the block that the caption is about, are chosen on a random half of the pairs, by the
    difference to random sets of equal size; that half is also the corpus of the mean and of the
    variances. Everything in the table is from the other half. The pairs are dealt to the seeds,
    and each has choices, random sets and rotations of its own: 21 rotations, where there are 7 for
    each of three seeds.

    Args:
        study: Of one task. Its first template and first prompt setting are used.
        languages: 𝓛 of the consensus.
        layers: Blocks b, 0-based.
        ks: Dimensions per text, or fractions of d.
        by: What stands in the place of a part: "mean" or "zero".
        n_random: Random sets per text and seed, of each kind.
        n_rotations: Random rotations per seed, in which the same construction is repeated.
        random_weights: A study of the same data and of `dysem_lab.untrained` of the model, the
            floor; None leaves it out.
        seeds: Different ones, each of its pairs, halves and draws; the first of the bootstraps.

    Returns:
        One row per ``model`` ("trained" or "random weights"), ``layer`` and ``control`` (`KINDS` of
        `dysem_lab.questions.causal_sets`), with ``k``, those that the seeds chose; ``n_draws``;
        ``n_dims``, mean size; ``share``, mean length of what is taken out as a share of taking out
        all; ``share_read``, the same as the next block, or after the last one the unembedding,
        reads it; ``kl``, the mean KL(plain ‖ ablated) of the next token in nats, ``kl_low``,
        ``kl_high``; ``seed_low``, ``seed_high``, over the seeds, and ``draw_low``, ``draw_high``,
        over their draws; ``changed``, share of texts with another top token; ``spearman``, ``low``,
        ``high``: STS of the cosines of h^L after the ablation (NaN where all are equal),
        ``spearman_plain`` before it; ``difference``: KL of S(x) minus that of
        the control, paired, with ``difference_low``, ``difference_high`` and ``p``; the same of the
        other two measures, as ``changed_difference`` and ``spearman_difference`` (of several draws
        the mean, the widest interval and the largest p); and ``p_holm``, ``changed_p_holm`` and
        ``spearman_p_holm``, corrected for all p of the table together. Intervals are 95 %
        bootstraps over pairs, whose two texts are resampled together; a row of several draws is
        their mean.

    Raises:
        InputError: Several tasks, fewer than 6 pairs or 4 per seed, an unknown name, block or k, no
            random set or rotation, no seed or one twice, or random weights of another shape or
            other pairs.

    Source: mean ablation, Wang et al. (arXiv 2211.00593); the controls are ours.
    """
    one_of(by, BY, "replacement")
    of_sets = {"layers": layers, "ks": ks, "n_random": n_random, "n_rotations": n_rotations}
    given = asked(study, languages=languages, **of_sets)
    drawn, codes = _draws(n_random, n_rotations, seeds), given["languages"]
    models = _prepared(_checked(study, codes, len(drawn)), given["layers"], random_weights)

    def measure(
        half: Half, corpus: Half, tried: Tried, kinds: Sequence[str], seed: int
    ) -> Measured:
        return ablated(half, corpus, codes, tried, kinds, drawn[seed], by)

    return _tested("set_ablation", KL, models, measure, {**given, "by": by, "seeds": list(drawn)})


def set_interchange(
    study: Study,
    languages: Sequence[str],
    layers: Sequence[int],
    *,
    receivers: Sequence[str] | None = None,
    ks: Sequence[int | float] = (0.1, 0.25),
    n_random: int = 1,
    n_rotations: int = 7,
    random_weights: Study | None = None,
    seeds: Sequence[int] = SEEDS,
) -> CausalTest:
    """Put the S-part of an English text into the pass of another text: is its answer the donor's?

    S is the donor's S(x), as for `set_ablation`; the vectors are h^b of the donor's English pass.
    Receivers are passes of another text, in English and in other languages. Texts that are met
    twice, in any of these languages, are used once.

    Args:
        study: As for `set_ablation`; its languages are those of `languages` and `receivers`.
        languages: 𝓛 of the consensus.
        layers: Blocks b, 0-based.
        receivers: Languages of the passes that are changed; None is English and the last of 𝓛.
        ks: As for `set_ablation`.
        n_random: As there.
        n_rotations: As there.
        random_weights: As there.
        seeds: As there, and of nothing else: a text's donor is a quarter of the texts further on.

    Returns:
        As `set_ablation`, for each ``language`` of the receivers, with other measures: ``gain``,
        the mean change of the log-probability (nats) of the donor's own top token, ``gain_low``,
        ``gain_high``; ``gain_rendering``, that of the top token of the donor's rendering in the
        receiver's language; ``became``, the share of texts whose top token becomes the donor's,
        among the ``n_differ`` whose own is another; ``to_donor``, ``to_receiver``, cosines of h^L
        with the donor's and with the receiver's own, and ``plain_to_donor`` before. ``share`` is of
        the length of the whole change, and ``difference`` of gains; it is there of
        ``gain_rendering`` and ``became`` too. Two more rows per block but the last divide S(x) into
        the directions that hold 90 % of what the next block reads, and the rest.

    Raises:
        InputError: As for `set_ablation`.

    Source: Geiger et al. (arXiv 2106.02997); the division, Makelov et al. (arXiv 2311.17030).
    """
    of_sets = {"layers": layers, "ks": ks, "n_random": n_random, "n_rotations": n_rotations}
    given = asked(study, languages=languages, **of_sets)
    drawn, codes = _draws(n_random, n_rotations, seeds), given["languages"]
    into = codes_of(study, [*dict.fromkeys(["en", codes[-1]])] if receivers is None else receivers)
    own = _checked(study, [*codes, *into], len(drawn))
    models = _prepared(own, given["layers"], random_weights)

    def measure(
        half: Half, corpus: Half, tried: Tried, kinds: Sequence[str], seed: int
    ) -> Measured:
        return exchanged(half, corpus, codes, into, tried, kinds, drawn[seed])

    given |= {"receivers": into, "seeds": list(drawn)}
    return _tested("set_interchange", GAIN, models, measure, given)


def _draws(n_random: int, n_rotations: int, seeds: Sequence[int]) -> dict[int, Draws]:
    """Return what each seed draws, once all are known to be numbers."""
    given = [seed_of(seed) for seed in array_of(seeds, "seeds").ravel().tolist()]
    if not given or len(set(given)) < len(given):
        raise InputError(f"seeds must be one or more different numbers, got {seeds!r:.80}")
    return {seed: Draws(n_random, n_rotations, seed) for seed in given}


def _checked(study: Study, codes: Sequence[str], n_seeds: int) -> Study:
    """Return the study with the one prompt and the languages that are asked about."""
    least = max(6, 4 * n_seeds)
    task = only_task(study)
    if (n := len(study.data[task])) < least:
        raise InputError(
            f"{amount(n, 'pair')} cannot be dealt to {amount(n_seeds, 'seed')}, in halves that "
            f"choose and report; give {least} or more"
        )
    read = list(dict.fromkeys(["en", *codes]))
    return study.prompted(study.templates[0], study.settings[0], read)


def _prepared(study: Study, layers: Sequence[int], floor: Study | None) -> dict[str, Study]:
    """Return name → study of each model, once their vectors are there."""
    models = {TRAINED: study}
    if floor is not None:
        require_study(floor)
        models[UNTRAINED] = _checked(floor, study.languages, 1)
    needs: list[Need] = []
    for of in models.values():
        needs.append(of.needs((), output_layers=[layer + 1 for layer in layers]))
        if of.n_layers - 1 in layers:
            needs.append(of.needs("attn"))
    if len({of.data[only_task(of)].digest for of in models.values()}) > 1:
        raise InputError("random_weights must be a study of the same pairs; sample them alike")
    prepare(*needs, runs_the_model=True)
    if floor is not None:
        require_same_shape(floor, study)
    return models


def _tested(
    kind: str,
    main: str,
    models: Mapping[str, Study],
    measure: Callable[[Half, Half, Tried, Sequence[str], int], Measured],
    given: dict[str, Any],
) -> CausalTest:
    """Choose k and block on one half, measure on the other, and compare with every control."""
    study, seeds = models[TRAINED], given["seeds"]
    codes = study.languages if main == GAIN else ["en"]
    tried = [(layer, k) for layer in given["layers"] for k in given["ks"]]
    divided = {name: halves(of, seeds, codes) for name, of in models.items()}
    measured: dict[str, list[Measured]] = {name: [] for name in models}
    choices, ks = [], []
    for seed in seeds:
        choosing, _ = divided[TRAINED][seed]
        choice = _choice(measure(choosing, choosing, tried, TRIED, seed), main)
        choices.append(choice.assign(seed=seed))
        ks.append({row.layer: row.k for row in choice[choice["chosen"]].itertuples()})
        for name, of_seeds in divided.items():
            corpus, half = of_seeds[seed]
            kinds = KINDS if name == TRAINED else FLOOR
            measured[name].append(measure(half, corpus, list(ks[-1].items()), kinds, seed))
    choice = pd.concat(choices, ignore_index=True)
    leads = choice[choice["leads"]].groupby("layer")["difference"].agg(["size", "mean"])
    lead = int(leads.sort_values(["size", "mean"]).index[-1])
    every = {name: pooled(of) for name, of in measured.items()}
    rows = [row for name, of in every.items() for row in rows_of(of, main, name, seeds[0])]
    table = corrected(pd.DataFrame(rows))
    chosen = {layer: dict.fromkeys(f"{of[layer]:g}" for of in ks) for layer in given["layers"]}
    table.insert(3, "k", ["/".join(chosen[layer]) for layer in table["layer"]])
    exceptions = _exceptions(every[TRAINED], main, lead, study.lens)
    sizes = [
        [len(half.first) for half in of] for of in zip(*divided[TRAINED].values(), strict=True)
    ]
    facts = facts_of(study, **given)
    recorded = {
        "texts": dict(zip(("choosing", "reporting"), sizes, strict=True)),
        "chosen": [{str(layer + 1): k for layer, k in of.items()} for of in ks],
        "lead": lead,
        "random_weights": models[UNTRAINED].name if UNTRAINED in models else None,
        "exceptions": exceptions.to_dict("records"),
    }
    facts = replace(facts, recorded={**facts.recorded, **recorded})
    reads = readers(study.lens, lead + 1) if main == GAIN and lead + 1 < study.n_layers else None
    led = f"{leads.loc[lead, 'size']} of {amount(len(seeds), 'seed')}"
    said = caption(table, main, lead, (sum(sizes[0]), sum(sizes[1])), led, reads)
    drawn = figure(table, main, facts)
    return CausalTest(kind, table, drawn, said, facts, choice, exceptions)


def _choice(found: Measured, main: str) -> pd.DataFrame:
    """Return how much more S(x) does than random sets for each block and k, and the choice."""
    rows = []
    for layer, k in dict.fromkeys((key.layer, key.k) for key in found.effects):
        own, random = (mean_over_draws(found, main, layer, k, control) for control in TRIED)
        rows.append({"layer": layer, "k": k, "own": own.mean(), "random": random.mean()})
    table = pd.DataFrame(rows)
    table["difference"] = table["own"] - table["random"]
    best = table.groupby("layer", sort=False)["difference"].idxmax()
    table["chosen"] = table.index.isin(best)
    table["leads"] = table.index == table["difference"].idxmax()
    return table


def _exceptions(found: Measured, main: str, layer: int, lens: LensModel) -> pd.DataFrame:
    """Return the texts for which S(x) does least in comparison with random sets of its size."""
    rows = []
    for language in dict.fromkeys(key.language for key in found.effects):
        own, random = (
            mean_over_draws(found, main, layer, 0, control, language) for control in TRIED
        )
        effect = found.effects[Key(language, layer, 0, OWN, 0)]
        for i in (own - random).argsort(kind="stable")[:N_EXCEPTIONS]:
            was, top = token_texts(lens, [int(effect[of][i]) for of in ("top_plain", "top")])
            row = {
                "seed": int(found.seed[i]),
                "language": language,
                "text": found.texts[i],
                "own": own[i],
                "random": random[i],
            }
            rows.append({**row, "top_plain": was, "top": top})
    return pd.DataFrame(rows)
