"""The words of an explained text in the order that deletion curves favour (notebook 28).

That order was measured for some models by `dysem_lab.faithfulness`, and ships with the package. The
exact sum is what it is, whatever order the words are listed in.
"""

from functools import cache
from typing import NamedTuple

import pandas as pd

from dysem_lab import paths
from dysem_lab.models.facts import ModelFacts

SUM, LEFT_OUT = "exact sum", "leave-one-out"
UNTESTED = "Whether this order of words is true of this model, dl.faithfulness tests (notebook 28)."


class Tested(NamedTuple):
    """What deletion curves of a model said.

    Attributes:
        winner: The order in which the similarity falls fastest.
        said: All of it in a line.
    """

    winner: str
    said: str


@cache
def _table() -> pd.DataFrame:
    return pd.read_csv(paths.package_file("tested_orders.csv"))


def tested(model: ModelFacts | None) -> Tested | None:
    """Return what deletion curves of a model said; None where they were not measured."""
    rows = _table()
    rows = rows[rows["fingerprint"] == (model and model.fingerprint)].set_index("method")
    if SUM not in rows.index:
        return None
    own = rows.loc[SUM]
    winner = str(rows.loc[rows["n_pairs"] == own["n_pairs"], "area"].idxmax())
    first = rows.loc[winner]
    said = f"Deletion curves of this model ({own['data']}, {own['n_pairs']} pairs, notebook 28): "
    if winner == SUM:
        return Tested(winner, said + f"the exact sum leads, with {_area(own)}.")
    behind = f"{-first['ahead']:.2f} [{-first['ahead_high']:.2f}, {-first['ahead_low']:.2f}]"
    said += f"{winner} leads with {_area(first)}, the exact sum has {_area(own)} and is {behind} "
    return Tested(winner, f"{said}behind.")


def _area(row: pd.Series) -> str:
    return f"{row['area']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
