"""How far a figure's numbers move when another random sample is drawn.

The same figure with other seeds lies in folders named by them: ``seeds/1``, ``seeds/2``, ….
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dysem_lab.display import amount

FOLDER = "seeds"
SCORES = ("spearman", "accuracy", "difference", "gain", "jaccard")  # the first that a table has
# What tells rows apart besides texts; of texts, these follow from the sample.
COUNTS = ("layer", "m", "k", "alpha", "output_layer", "rank")
OF_THE_SAMPLE = ("languages", "note", "data", "source_digest")


def folder_of(out: Path) -> str:
    """Return such a folder's place in that of the figures, "seeds/1"; "" of any other folder."""
    place = out.absolute()
    return f"{FOLDER}/{place.name}" if place.parent.name == FOLDER and place.name.isdigit() else ""


def records_of_seeds(out: Path) -> list[Path]:
    """Return the JSON files of all figures with other seeds, in the order of these."""
    found = sorted((out / FOLDER).glob("*/*.json"))
    return sorted(found, key=lambda file: file.parent.name.zfill(9))


def seeds_of(out: Path, name: str) -> list[Path]:
    """Return the tables of a figure with other seeds, in the order of these."""
    return sorted((out / FOLDER).glob(f"*/{name}.csv"), key=lambda file: file.parent.name.zfill(9))


def spread(tables: Sequence[pd.DataFrame]) -> tuple[str, float, float] | None:
    """Return the first score that tables have, and how far a row of it moves between them.

    A row's mean is taken where a table has it several times, as random draws are.

    Returns:
        The score's name, and the median and the greatest of the rows' ranges (most − least); None
        where the tables have no score or no row in common.
    """
    score = next((one for one in SCORES if all(one in table for table in tables)), None)
    if score is None:
        return None
    keys = [
        name
        for name, column in tables[0].items()
        if (name in COUNTS or not pd.api.types.is_numeric_dtype(column))
        and name not in OF_THE_SAMPLE
        and all(name in table for table in tables)
    ]
    if not keys:
        return None
    of_each = [
        table.astype(dict.fromkeys(keys, str)).groupby(keys)[score].mean() for table in tables
    ]
    wide = pd.concat(of_each, axis=1, join="inner").dropna()
    if wide.empty:
        return None
    ranges = wide.max(axis=1) - wide.min(axis=1)
    return score, float(ranges.median()), float(ranges.max())


def said_of_seeds(out: Path, name: str) -> str:
    """Return a sentence on the spread over seeds of a figure of a folder; "" where it has one."""
    others = seeds_of(out, name)
    files = [out / f"{name}.csv", *others]
    if not others or not files[0].is_file():
        return ""
    found = spread([pd.read_csv(file) for file in files])
    if found is None:
        return ""
    score, median, most = found
    return (
        f"over {amount(len(files), 'random sample')} of the pairs a row's {score} moves by "
        f"{median:.3g} (median) and at most {most:.3g}"
    )
