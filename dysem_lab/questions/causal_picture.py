"""What `set_ablation` and `set_interchange` show: a panel per block, and the meaning in words."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from dysem_lab.display import amount
from dysem_lab.models.readout import Readers
from dysem_lab.questions.causal_sets import (
    FAIR,
    GAIN,
    KINDS,
    KL,
    LARGEST,
    MOST,
    NORM,
    OTHER,
    OWN,
    READ,
    ROTATED,
    ROTATED_READ,
    SIZE,
    SIZE_READ,
    UNREAD,
    VARIANCE,
    WHOLE,
    n_most,
)
from dysem_lab.questions.finding import Facts
from dysem_lab.questions.style import (
    PALETTE,
    interval,
    layout,
    lines_down,
    measured,
    range_with_room,
    side_by_side,
    superscript,
)

LEVEL = 0.05
TRAINED, UNTRAINED = "trained", "random weights"
AXES = {
    KL: "KL(plain ‖ ablated), nats",
    GAIN: "gain, nats",
}
TITLES = {
    KL: "What does the model lose without S(x)?",
    GAIN: "Does the S-part of another text bring its answer? Gain of the donor's top token",
}
IN_WORDS = {
    SIZE: "random sets of equal size",
    NORM: "random sets of equal norm",
    SIZE_READ: "random sets of equal size and read norm",
    LARGEST: "the largest |v|",
    VARIANCE: "the dimensions of largest variance",
    OTHER: "another text's S",
    ROTATED_READ: "the same in random rotations with equal read norm",
}
OFFSET = 0.16  # between the lines of two languages


def figure(table: pd.DataFrame, main: str, facts: Facts | str) -> go.Figure:
    """Return a panel per block with a point and its interval per control; draws span a grey line.

    Args:
        table: Of `set_ablation` or `set_interchange`.
        main: Its measure, "kl" or "gain".
        facts: What it was measured on.
    """
    blocks = table.drop_duplicates("layer")
    titles = [f"block {row.layer + 1}, k = {_ks(row.k)}" for row in blocks.itertuples()]
    present = table.drop_duplicates(["model", "control"])
    present = [
        (model, control)
        for model, part in present.groupby("model", sort=False)
        for control in KINDS
        if control in set(part["control"])
    ]
    lines = {pair: float(i) for i, pair in enumerate(present)}
    labels = [
        ("" if model == TRAINED else f"<i>{model}:</i> ")
        + (f"<b>{name}</b>" if name == OWN else name)
        for model, name in present
    ]
    drawn = side_by_side(titles, gap=0.02)
    languages = list(dict.fromkeys(table["language"]))
    values = [main, f"{main}_low", f"{main}_high"]
    for col, layer in enumerate(blocks["layer"], 1):
        for i, language in enumerate(languages):
            part = table[(table["layer"] == layer) & (table["language"] == language)]
            y = pd.Series(
                [lines[row.model, row.control] for row in part.itertuples()], index=part.index
            )
            y = y + OFFSET * (2 * i - len(languages) + 1)
            for at, row in part[part["n_draws"] > 1].iterrows():
                drawn.add_scatter(
                    x=[row["draw_low"], row["draw_high"]],
                    y=[y[at], y[at]],
                    mode="lines",
                    line={"color": "#BBBBBB", "width": 7},
                    showlegend=False,
                    hoverinfo="skip",
                    row=1,
                    col=col,
                )
            name = "mean, 95 % interval" if len(languages) == 1 else f"receiver in {language}"
            ends = part[[values[2], "draw_high"]].max(axis=1)
            measured(drawn, part[values], y, col, name, PALETTE[i], _digits(part[main]), at=ends)
        of_block = table.loc[table["layer"] == layer, [*values[1:], "draw_low", "draw_high"]]
        drawn.update_xaxes(
            range=range_with_room(of_block.stack(), 0.3), title=AXES[main], row=1, col=col
        )
    if (table["n_draws"] > 1).any():  # a legend has no other place to say it
        wide = {"color": "#BBBBBB", "width": 7}
        said = "each draw and seed by itself"
        drawn.add_scatter(x=[None], y=[0], mode="lines", line=wide, name=said, row=1, col=1)
    lines_down(drawn, [superscript(label) for label in labels])
    height = 26 * len(labels) * (1 + 0.4 * (len(languages) - 1)) + 240
    drawn = layout(drawn, TITLES[main], facts, int(height))
    return drawn.update_layout(margin={"l": 240, "b": 110})


def _ks(chosen: str) -> str:
    """Return the k of a block, of which each seed may have chosen another, in words."""
    values = sorted(str(chosen).split("/"), key=float)
    return " or ".join(f"{k} d" if "." in k else k for k in values)


def caption(
    table: pd.DataFrame,
    main: str,
    lead: int,
    n_texts: tuple[int, int],
    led: str = "1 of 1 seed",
    reads: Readers | None = None,
) -> str:
    """Return what was found in a sentence of meaning, then the numbers of the leading block.

    Args:
        table: Of `set_ablation` or `set_interchange`.
        main: Its measure, "kl" or "gain".
        lead: The block that was chosen, 0-based.
        n_texts: Different texts in the halves that choose, and in those that are reported.
        led: How many of the seeds chose that block.
        reads: What the block after the leading one reads, where there is one.
    """
    trained = table[table["model"] == TRAINED]
    parts = []
    for language, of in trained.groupby("language", sort=False):
        at = of[of["layer"] == lead]
        n_all = sum(not any(_verdict(block)[1:]) for _, block in of.groupby("layer"))
        n_blocks = of["layer"].nunique()
        parts.append(
            f"{_meaning(at, main, lead, str(language))} (it beats all of them at {n_all} of "
            f"{amount(n_blocks, 'block')}). "
            f"{_numbers(at, main, n_texts[1])}"
        )
    if reads is not None:
        parts.append(_in_row_space(trained[trained["layer"] == lead], main, reads))
    floor = table[(table["model"] == UNTRAINED) & (table["layer"] == lead)].set_index("control")
    if len(floor):
        own, random = floor.loc[[OWN], main].mean(), floor.loc[[SIZE], main].mean()
        parts.append(f"With random weights: S(x) {own:.3f}, random sets {random:.3f}.")
    n_tests = int(table.filter(regex="^(.*_)?p$").count().sum())
    parts.append(
        f"Holm over {amount(n_tests, 'comparison')}; k and block chosen on {n_texts[0]} other "
        f"texts (this block by {led}, each with pairs and draws of its own)."
    )
    return " ".join(parts)


def _verdict(block: pd.DataFrame) -> tuple[list[str], list[str], list[str]]:
    """Return the sets of equal size or norm that S(x) is above, not surely off, and below."""
    fair = block[block["control"].isin(FAIR)]
    sure = fair["p_holm"] < LEVEL
    above, below = sure & (fair["difference_low"] > 0), sure & (fair["difference_high"] < 0)
    names = fair["control"]
    return names[above].tolist(), names[~above & ~below].tolist(), names[below].tolist()


def _meaning(at: pd.DataFrame, main: str, lead: int, language: str) -> str:
    """Return the claim in words, as the table has it."""
    above, level, below = _verdict(at)
    where = f"At block {lead + 1}"
    if main == GAIN:
        where = f"{where}, in passes in {language},"
    does = "taking S(x) out changes the answer" if main == KL else "S(x) brings the donor's answer"
    if not level and not below:
        return f"{where} {does} more than any other set of its size or norm"
    compared = [
        f"{how} {_listed(names)}"
        for how, names in (("more than", above), ("about as much as", level), ("less than", below))
        if names
    ]
    special = "" if above else " S(x) is nothing special:"
    first, *others = compared
    but = f", but {' and '.join(others)}" if others else ""
    return f"{where}{special} {does} {first}{but}"


def _listed(controls: Sequence[str]) -> str:
    """Return controls as a list in words."""
    names = [IN_WORDS[name] for name in controls]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _in_row_space(at: pd.DataFrame, main: str, reads: Readers) -> str:
    """Return what the part does that the next block reads, and what it does not."""
    d_model, of = len(reads.share), _digits(at[main])
    if reads.rank == d_model:
        space = f"The row space of what the next block reads is the whole stream ({d_model})"
    else:
        space = f"The next block reads {reads.rank} of {d_model} directions"
    bounds, rows = (f"{main}_low", f"{main}_high"), at.set_index(["control", "language"])
    brought = [
        " and ".join(
            f"{interval(rows.loc[part, language], main, bounds, of)} in passes in {language}"
            for language in at["language"].unique()
        )
        for part in (READ, UNREAD)
    ]
    return (
        f"{space}; on the {n_most(reads)} directions that hold {MOST:.0%} of it the S-part brings "
        f"{brought[0]}, on the rest {brought[1]}."
    )


def _digits(values: pd.Series) -> str:
    """Return how values are written: small ones with a third digit."""
    return "z.3f" if values.abs().max() < 0.1 else "z.2f"  # z: no negative zero


def _numbers(at: pd.DataFrame, main: str, n_texts: int) -> str:
    """Return the numbers of a block."""
    rows = at.set_index("control")
    own, of = rows.loc[OWN], _digits(at[main])
    said = [f"S(x) {interval(own, main, (f'{main}_low', f'{main}_high'), of)} on "]
    said[0] += amount(own["n_dims"], "dimension")
    if own["seed_low"] < own["seed_high"]:
        said[0] += f" (seeds {own['seed_low']:{of}} to {own['seed_high']:{of}})"
    fair = rows.loc[[name for name in FAIR if name in rows.index], main]
    named = dict.fromkeys([SIZE, fair.idxmax(), WHOLE])  # all others are in the table
    said += [f"{name} {rows.loc[name, main]:{of}}" for name in named]
    if ROTATED in rows.index:
        rotated = rows.loc[ROTATED]
        said[-1] += (
            f". Random rotations as they are: {rotated[main]:{of}}; they move what is read by "
            f"{rotated['share_read']:.2f} of the whole, S(x) by {own['share_read']:.2f}, so they "
            "are compared with equal read norm"
        )
    if main == KL:
        random = rows.loc[SIZE]
        sts = (
            f"STS {own['spearman_plain']:.1f} before, {own['spearman']:.1f} after "
            f"({_against(random, 'spearman', '.1f')})"
        )
        if own[["spearman_plain", "spearman"]].isna().any():
            sts = "no STS, as the scores or the similarities of these pairs are all equal"
        return (
            f"KL in nats over {n_texts} texts: {', '.join(said)}. Another top token in "
            f"{own['changed']:.0%} ({_against(random, 'changed', '.0%')}); {sts}."
        )
    return (
        f"Gain of the donor's top token in nats over {n_texts} texts: {', '.join(said)}. The top "
        f"token becomes the donor's in {own['became']:.0%} "
        f"({_against(rows.loc[SIZE], 'became', '.0%')}; whole vector: "
        f"{rows.loc[WHOLE, 'became']:.0%})."
    )


def _against(random: pd.Series, measure: str, of: str) -> str:
    """Return what random sets of equal size do, and the corrected p of the difference."""
    p = random[f"{measure}_p_holm"]
    return f"random sets of equal size: {random[measure]:{of}}, p = {p:.2g} by Holm"
