"""The words of an explained text in the order that deletion curves favour (notebook 28).

That order was measured for some models, with one setting of DySem, by `dysem_lab.faithfulness`, and
ships with the package. Of other settings it says nothing. The exact sum is what it is, whatever
order the words are listed in.
"""

from functools import cache
from typing import NamedTuple

import pandas as pd

from dysem_lab import paths
from dysem_lab.encoders.base import LensEncoder
from dysem_lab.prompts import TEMPLATE_NAMES
from dysem_lab.questions.names import SYMBOLS

SUM, LEFT_OUT = "exact sum", "leave-one-out"
UNTESTED = (
    "Whether this order of words is true of this model, read in this way, dl.faithfulness tests "
    "(notebook 28)."
)
OF_DIFFERENCE = "Deletion curves test the order of words of a similarity, not of a difference."


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


def tested(encoder: LensEncoder, language: str) -> Tested | None:
    """Return what deletion curves of a model said; None where they were not measured.

    Args:
        encoder: It reads the model in the way that is asked for; of one whose sets are full nothing
            was measured.
        language: That it reads.
    """
    rows = _table()
    model, template = encoder.facts, getattr(encoder, "template", None)
    asked = (model and model.fingerprint, encoder.place.component, template, language)
    columns = ("fingerprint", "component", "template", "language")
    for column, of in zip(columns, asked, strict=True):
        rows = rows[rows[column] == of]
    rows = rows.set_index("method")
    if encoder.dense or SUM not in rows.index:
        return None
    own = rows.loc[SUM]
    winner = str(rows.loc[rows["n_pairs"] == own["n_pairs"], "area"].idxmax())
    first = rows.loc[winner]
    read = f"{SYMBOLS[own['component']]}, {own['language']}, "
    read += f"{TEMPLATE_NAMES.get(own['template'], own['template'])}, k {own['k']:g}"
    said = f"Deletion curves of this model ({read}; {own['data']}, {own['n_pairs']} pairs, notebook"
    said += " 28): "
    if winner == SUM:
        return Tested(winner, said + f"the exact sum leads, with {_area(own)}.")
    behind = f"{-first['ahead']:.2f} [{-first['ahead_high']:.2f}, {-first['ahead_low']:.2f}]"
    said += f"{winner} leads with {_area(first)}, the exact sum has {_area(own)} and is {behind} "
    return Tested(winner, f"{said}behind.")


def _area(row: pd.Series) -> str:
    return f"{row['area']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
