"""The rows of the tables of Contrastive Prompting: what was done, and which are one setting.

In a model whose norm undoes α, contrasts that differ by a positive factor have the same vectors.
They are counted once, and figures have one mark for them.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dysem_lab.models.lens import LensModel
from dysem_lab.models.places import output_place
from dysem_lab.models.steering import Contrast, alpha_is_undone
from dysem_lab.prompts import TEMPLATE_NAMES
from dysem_lab.questions.names import POSITION_NAMES, SYMBOLS
from dysem_lab.questions.scores import counted_once

PLAIN = "plain"
# The fields of a contrast that a table names, with their values for the plain prompt.
FIELDS: dict[str, object] = {
    "layer": pd.NA,
    "norm": "",
    "alpha": math.nan,
    "position": "",
    "auxiliary": "",
    "heads": "",
}
LABELS = ("template", "output_layer", "method", *FIELDS)
PROMPTS = {**TEMPLATE_NAMES, "ck": "CK (mean of CoT and KE)"}
EITHER = "CP (either norm)"  # where a norm undoes α
OF_ITS_OWN = ("head_recovering", "self_scaling")  # norms that change the direction, too
NO_GAIN = dict.fromkeys(("difference", "low", "high", "p"), math.nan)


def contrast_row(contrast: Contrast | None) -> dict[str, object]:
    """Return the columns that tell what was done: ``method`` and the fields of the contrast."""
    if contrast is None:
        return {"method": PLAIN, **FIELDS}
    settings = contrast.settings
    names = {"scaling": "CP-NS", "recovering": "CP-NR"}
    return {
        "method": names.get(contrast.norm, f"CP {contrast.norm}"),
        "layer": contrast.layer,
        "norm": contrast.norm,
        "alpha": math.nan if settings["alpha"] is None else settings["alpha"],
        "position": contrast.position,
        "auxiliary": "" if settings["auxiliary"] is None else contrast.auxiliary,
        "heads": "/".join(map(str, settings["heads"] or ())),
    }


class Method(NamedTuple):
    """A row of a table: a prompt, where its embedding is read, and what is done on the way."""

    template: str
    output_layer: int | str
    contrast: Contrast | None

    def labels(self) -> dict[str, object]:
        """Return its columns."""
        return {
            "template": self.template,
            "output_layer": self.output_layer,
            **contrast_row(self.contrast),
        }


def both_norms(
    layer: int, alpha: float, position: str = "heads", auxiliary: str = "irrelevant"
) -> list[Contrast | None]:
    """Return the plain prompt (None) and the contrasts of the paper's two norms.

    Args:
        layer: Block, 0-based.
        alpha: Of norm scaling.
        position: Of both, as for `dysem_lab.Contrast`.
        auxiliary: Of both.
    """
    recovering = Contrast(layer, "recovering", position=position, auxiliary=auxiliary)
    return [None, Contrast(layer, "scaling", alpha, position, auxiliary), recovering]


def prompt_name(template: object) -> str:
    """Return a template as the papers name it."""
    return PROMPTS.get(str(template), str(template))


# --- settings that are one


def once(table: pd.DataFrame, lens: LensModel) -> pd.DataFrame:
    """Return a table of contrasts, corrected by Holm, that counts the same vectors once.

    Where a norm undoes α (`alpha_is_undone`), all contrasts with a positive factor have the same
    vectors, norm recovering among them, and so have all with a negative one.

    Args:
        table: With the columns of `contrast_row`, and ``gain_p``. What is read is its
            ``component``, or else its ``output_layer``.
        lens: The model.

    Returns:
        The table with ``repeated``, as from `dysem_lab.questions.scores.counted_once`.
    """
    undone = [_is_undone(row, lens) for _, row in table.iterrows()]
    of_its_own = table["norm"] + table["alpha"].map(" {:g}".format)
    return counted_once(table, _directions(table) + of_its_own.mask(undone, ""))


def _is_undone(row: pd.Series, lens: LensModel) -> bool:
    """Whether the contrast of a row has the vectors of any other positive factor."""
    if row["method"] == PLAIN:
        return False
    contrast = Contrast(int(row["layer"]), position=row["position"], heads=heads_of(row))
    if "component" in row:
        return alpha_is_undone(contrast, lens, row["component"])
    return alpha_is_undone(contrast, lens, output_place(row["output_layer"], lens.n_layers))


def _directions(table: pd.DataFrame) -> pd.Series:
    """Return what tells the rows of a table apart but the length of what is patched in."""
    varied = ("task", "component", "vector", *LABELS)
    columns = [name for name in varied if name in table and name not in ("method", "norm", "alpha")]
    sign = np.sign(table["alpha"]).fillna(1.0)
    kind = table["norm"].where(table["norm"].isin(OF_ITS_OWN), table["method"] == PLAIN)
    rows = table[columns].assign(sign=sign, kind=kind).itertuples(index=False)
    return pd.Series(["|".join(map(str, row)) for row in rows], table.index)


def heads_of(row: Mapping[str, Any] | pd.Series) -> tuple[int, ...] | None:
    """Return which heads the contrast of a row replaces; None is all."""
    return tuple(int(head) for head in row["heads"].split("/")) if row["heads"] else None


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a table of contrasts that are compared with plain, each vector once."""
    return table[(table["method"] != PLAIN) & ~table["repeated"]]


def drawn_once(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of different vectors; of those that stand for both norms, ``method`` says so.

    Those have no ``alpha``, as any gives the same.
    """
    same = _directions(table)
    one = table["repeated"].groupby(same).transform("any")
    both = one & (table.groupby(same)["method"].transform("nunique") > 1)
    shown = table.assign(method=table["method"].mask(both, EITHER), alpha=table["alpha"].mask(one))
    return shown[~table["repeated"]]


def one_setting(table: pd.DataFrame) -> str:
    """Return the sentence on contrasts that are counted once, with a space before it; or ""."""
    if not table["repeated"].any():
        return ""
    steered = table[table["method"] != PLAIN]
    here = ""
    for column, names in (("position", POSITION_NAMES), ("component", SYMBOLS)):
        of = steered.loc[steered["repeated"], column].unique() if column in steered else []
        if len(of) and len(of) < steered[column].nunique():
            words = [names.get(value, value).split(",")[0] for value in of]
            here += f" at {' and '.join(words)}"
    return f" A norm undoes α{here}, so CP-NS and CP-NR are one setting, which is counted once."


def norms_said(table: pd.DataFrame) -> str:
    """Return what the methods that a figure shows are, for the line under its title."""
    names = {"CP-NS": "CP-NS: norm scaling", "CP-NR": "CP-NR: norm recovering"}
    names[EITHER] = "either norm: both are one setting, as a norm undoes α"
    there = set(table["method"])
    return ", ".join(words for method, words in names.items() if method in there)
