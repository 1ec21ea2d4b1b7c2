"""An audit in words, computed from its table: which part of DySem's gain remains beside what."""

from collections.abc import Sequence

import pandas as pd

from dysem_lab.display import amount
from dysem_lab.questions.style import SCORE

LEVEL = 0.05
NOTHING = "nothing remains"
# Those that give what DySem gives, or do not, by other means. The rest vary the methods themselves.
COMPETING = ("averaging", "transform", "coordinates", "choice", "views", "model", "floor")
VARIANTS = ("per-language centring",)


def caption(table: pd.DataFrame) -> str:
    """Return one line: the gain, what a random rotation does, and what remains of the gain."""
    rotations = table[table["control"] == "random rotation"].head(1)
    turned = [_rotation(row, table) for row in _each(rotations)]
    return " ".join([_lead(table), *turned, _conclusion(table)])


def verdict(table: pd.DataFrame) -> str:
    """Return the page: the gain, what each group of controls gives of it, and what remains.

    A control leaves something of the gain where DySem is above it: the interval of the paired
    difference is below 0, and so is Holm's corrected p below 0.05. A group leaves something where
    each of its controls does.
    """
    gained = _gained(table)
    lines = [_lead(table)]
    lines += [f"• {line}" for line in _groups(table) if line]
    if skipped := _skipped(table):
        lines.append(f"• Not tried: {skipped}.")
    lines.append(_conclusion(table))
    return "\n".join(lines if gained else [lines[0], _conclusion(table), *lines[1:-1]])


def remains(table: pd.DataFrame) -> pd.Series | None:
    """Return the row of the strongest control if DySem is above all of them, else None."""
    rows = _competing(table)
    if not _gained(table) or len(_reaching(rows)):
        return None
    return rows.loc[rows["difference"].idxmax()] if len(rows) else _plain(table)


def _lead(table: pd.DataFrame) -> str:
    reference, plain = table.iloc[0], _plain(table)
    gain = f"gains {_remaining(plain)} over"
    if _gain(table) < 0:
        gain = f"loses {_signed(plain).removeprefix('+')} against"
    return (
        f"DySem ({reference['vector']} vector) {gain} the plain cosine in English. {SCORE} of "
        f"{amount(reference['n_pairs'], 'pair')}: {reference['spearman']:.1f} on "
        f"{amount(reference['n_dims'], 'dimension')}, and {plain['spearman']:.1f}."
    )


def _conclusion(table: pd.DataFrame) -> str:
    if not _gained(table):
        return f"{_capital(NOTHING)}: these pairs show no gain to explain."
    rows = _competing(table)
    if (best := remains(table)) is not None:
        return (
            f"{_remaining(best)} of the gain remains beside the strongest of "
            f"{amount(len(rows), 'control')}, {_name(best)} (p {best['p_holm']:.3f}, corrected by "
            f"Holm for {amount(best['n_tried'], 'test')})."
        )
    reach = _reaching(rows)
    strongest = reach.loc[reach["difference"].idxmax()]
    return (
        f"{_capital(_left(strongest))} beside the strongest control, {_name(strongest)}, which "
        f"gives {_given(strongest, table):.1f} of {_gain(table):.1f}; DySem is not firmly above "
        f"{len(reach)} of {amount(len(rows), 'control')}."
    )


def _groups(table: pd.DataFrame) -> list[str]:
    """Return a line on each group of controls."""
    of = {name: part for name, part in table[table["spearman"].notna()].groupby("group")}
    empty = table.iloc[:0]
    transform = of.get("transform", empty)
    lines = [
        _line("In English alone", transform[transform["vector"] == "source"], table),
        _line("Averaging alone", of.get("averaging", empty), table),
        _line("The mean over languages, after", transform[transform["vector"] == "mean"], table),
        *(_rotation(row, table) for row in _each(of.get("coordinates", empty))),
        _line("Other dimensions in place of S(x)", of.get("choice", empty), table),
        _line("Other views in place of translations", of.get("views", empty), table),
        _line("Without training", of.get("model", empty), table),
        _line("Without a language model", of.get("floor", empty), table),
        _parts(of.get("part", empty)),
        _contrast(of["method"], table),
    ]
    return [line for line in lines if line]


def _line(about: str, rows: pd.DataFrame, table: pd.DataFrame) -> str:
    """Return what each control of a group gives of the gain, and what remains beside the best."""
    if not len(rows):
        return ""
    gives = ", ".join(f"{_sized(row)} {_given(row, table):.1f}" for row in _each(rows))
    if not _gained(table):
        return f"{about}, over the plain cosine: {gives}."
    said = f"{about}, of {_gain(table):.1f}: {gives}"
    reach = _reaching(rows)
    best = (reach if len(reach) else rows).sort_values("difference").iloc[-1]
    if not len(reach):
        return f"{said}; {_remaining(best)} remains beside the best of them."
    return f"{said}; {_left(best)} beside {best['control']} ({_signed(best)} over DySem)."


def _rotation(row: pd.Series, table: pd.DataFrame) -> str:
    """Return what DySem itself gives on other coordinates."""
    is_reference = row["vector"] == table.iloc[0]["vector"]
    if row["control"] in VARIANTS:
        return (
            f"Centred per language before the consensus, DySem scores {row['spearman']:.1f} "
            f"({_signed(row)} over DySem as it is)."
        )
    span = f"{row['draw_low']:.1f} to {row['draw_high']:.1f} in {amount(row['n_draws'], 'draw')}"
    scores = f"scores {row['spearman']:.1f} ({span})"
    if not is_reference:
        other = table[(table["control"] == "DySem") & (table["vector"] == row["vector"])].iloc[0]
        return (
            f"With the {row['vector']} vector, a random rotation {scores}, and DySem "
            f"{other['spearman']:.1f}."
        )
    if _below(row):
        effect = f"takes {_remaining(row)} away: the coordinates matter"
    elif row["difference_low"] > 0 and row["p_holm"] < LEVEL:
        effect = f"adds {_signed(row)[1:]}"
    else:
        effect = f"changes nothing that these pairs show ({_signed(row)})"
    return f"A random rotation {effect}; it {scores}."


def _parts(rows: pd.DataFrame) -> str:
    """Return the gain within each part of the pairs."""
    if not len(rows):
        return ""
    said = ", ".join(
        f"{row['control'].removeprefix('genre: ')} {_remaining(row)}" for row in _each(rows)
    )
    return f"The gain within parts of the pairs: {said}."


def _contrast(rows: pd.DataFrame, table: pd.DataFrame) -> str:
    """Return what Contrastive Prompting gives, if it is there."""
    found = [row for row in _each(rows) if row["control"].startswith("CP")]
    said = ", ".join(
        f"{row['control']} {row['spearman']:.1f} ({_signed(row)} over DySem)" for row in found
    )
    return f"The other method: {said}." if said else ""


def _skipped(table: pd.DataFrame) -> str:
    """Return which controls there are no numbers of, and why."""
    rows = table[table["spearman"].isna()].drop_duplicates(["control", "note"])
    return "; ".join(f"{row['control']} ({row['note'] or 'undefined'})" for row in _each(rows))


def _competing(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that could give what DySem gives."""
    rows = table[table["group"].isin(COMPETING) & ~table["control"].isin(VARIANTS)]
    same = (rows["control"] != "random rotation") | (rows["vector"] == table.iloc[0]["vector"])
    return rows[same & rows["difference"].notna()]


def _reaching(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that DySem is not firmly above."""
    return rows.loc[[name for name, row in rows.iterrows() if not _below(row)]]


def _plain(table: pd.DataFrame) -> pd.Series:
    return table[table["control"] == "plain cosine"].iloc[0]


def _gain(table: pd.DataFrame) -> float:
    return -_plain(table)["difference"]


def _gained(table: pd.DataFrame) -> bool:
    """Whether DySem is above the plain cosine."""
    return _below(_plain(table))


def _below(row: pd.Series) -> bool:
    """Whether a row is below DySem, after the correction for all that were tried."""
    return bool(row["difference_high"] < 0 and row["p_holm"] < LEVEL)


def _given(row: pd.Series, table: pd.DataFrame) -> float:
    """Return how much of the gain a control gives: its own gain over the plain cosine."""
    return _rounded(row["spearman"] - _plain(table)["spearman"])


def _left(row: pd.Series) -> str:
    """Return what is left of the gain beside a control that DySem is not firmly above."""
    return NOTHING if row["difference"] >= 0 else f"{NOTHING} that these pairs show"


def _sized(row: pd.Series) -> str:
    """Return a control, with its size where it has one."""
    return f"{row['control']} ({row['note']})" if row["note"] else row["control"]


def _name(row: pd.Series) -> str:
    of = {"source": " of English alone", "mean": " of the mean over languages"}
    plain = row["group"] == "transform"
    return f"{row['control']}{of[row['vector']] if plain else ''}"


def _remaining(row: pd.Series) -> str:
    """Return what DySem has over a row, with its interval."""
    return _said([-row["difference"], -row["difference_high"], -row["difference_low"]])


def _signed(row: pd.Series) -> str:
    value = _said([row["difference"], row["difference_low"], row["difference_high"]])
    return value if value.startswith("-") else f"+{value}"


def _said(values: Sequence[float]) -> str:
    value, low, high = (f"{_rounded(number):.1f}" for number in values)
    return f"{value} [{low}, {high}]"


def _rounded(number: float) -> float:
    """Return a number with one decimal; a negative that is none with one is 0."""
    return round(number, 1) + 0.0


def _each(rows: pd.DataFrame) -> list[pd.Series]:
    return [row for _, row in rows.iterrows()]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
