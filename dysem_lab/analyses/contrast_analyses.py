"""Contrastive Prompting scored beside the plain prompt at the same output layer."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from dysem_lab.encoders.dysem import semantic_vectors
from dysem_lab.encoders.settings import VECTORS
from dysem_lab.errors import InputError
from dysem_lab.evaluate import average_difference, average_score, paired_difference, score
from dysem_lab.models.steering import Contrast
from dysem_lab.questions.published import AVERAGE
from dysem_lab.questions.scores import pair_cosine, pair_similarity
from dysem_lab.questions.study import Study

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


LABELS = ("template", "output_layer", "method", *FIELDS)


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


def contrast_scores(
    study: Study,
    *,
    templates: Sequence[str] | None = None,
    output_layers: Sequence[int | str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Score every contrast of a study, and how much it gains on the plain prompt.

    The gain is over the plain prompt **at the same output layer**, on the same pairs: the papers
    compare with the plain prompt at another layer, so part of their gain is the layer's.

    Args:
        study: Its tasks and contrasts span the table; None must be one of the contrasts.
        templates: "ck" is the mean of the embeddings of Pretended CoT and Knowledge Enhancement;
            None is the study's.
        output_layers: As for `dysem_lab.ContrastivePrompting`; None is the study's.
        seed: Of the bootstraps.

    Returns:
        One row per task, template, output layer and contrast, and of several tasks their mean
        ("Avg."): ``method`` ("plain", "CP-NS",
        "CP-NR", …), ``layer`` (0-based block), ``norm``, ``alpha``, ``position``, ``auxiliary``,
        ``heads``, the columns of `dysem_lab.score`, and ``gain``, ``gain_low``, ``gain_high``
        (paired bootstrap; NaN for the plain prompt).

    Raises:
        InputError: The study has no plain prompt to compare with.

    Source: CP (arXiv 2505.12831), Tables 1, 2, 4, 5 and Figure 3.
    """
    if None not in study.contrasts:
        raise InputError("the study needs None among its contrasts: the plain prompt to compare")
    rows = []
    measured: dict[Method, list[tuple[Tensor, Tensor, np.ndarray]]] = {}
    for task, data in study.data.items():
        for method, similarity, plain in _similarities(study, task, templates, output_layers):
            of_task = similarity, plain, data.gold
            measured.setdefault(method, []).append(of_task)
            gain = _NO_GAIN
            if method.contrast is not None:
                gain = paired_difference(*of_task, seed=seed)
            result = score(similarity, data.gold, study.model.d_model, seed=seed)
            rows.append({"task": task, **method.labels(), **result, **_gain(gain)})
    if len(study.data) > 1:
        for method, tasks in measured.items():
            scored = [(steered, gold) for steered, _, gold in tasks]
            result = average_score(scored, study.model.d_model, seed=seed)
            gain = average_difference(tasks, seed=seed) if method.contrast else _NO_GAIN
            rows.append({"task": AVERAGE, **method.labels(), **result, **_gain(gain)})
    return pd.DataFrame(rows)


_NO_GAIN = dict.fromkeys(("difference", "low", "high"), math.nan)


def _gain(difference: Mapping[str, float]) -> dict[str, float]:
    names = {"gain": "difference", "gain_low": "low", "gain_high": "high"}
    return {name: difference[column] for name, column in names.items()}


def _similarities(
    study: Study,
    task: str,
    templates: Sequence[str] | None,
    output_layers: Sequence[int | str] | None,
) -> Iterator[tuple["Method", Float[Tensor, " n"], Float[Tensor, " n"]]]:
    """Yield each method with its cosine of each pair, and that of the plain prompt."""
    for template in templates if templates is not None else study.templates:
        for output_layer in output_layers if output_layers is not None else study.output_layers:
            cosines = {
                contrast: pair_cosine(
                    study.embeddings(task, output_layer, template=template, contrast=contrast)
                )
                for contrast in study.contrasts
            }
            for contrast, similarity in cosines.items():
                yield Method(template, output_layer, contrast), similarity, cosines[None]


def best_setting(table: pd.DataFrame) -> dict[str, Any]:
    """Return the settings of the best contrast in a table of one task.

    Returns:
        Arguments for `dysem_lab.ContrastivePrompting`.

    Raises:
        InputError: The table is of several tasks, or has no contrast with a score.
    """
    tried = table[(table["method"] != PLAIN) & table["spearman"].notna()]
    if tried.empty or tried["task"].nunique() != 1:
        raise InputError("choose a setting from the scores of contrasts on one task")
    row = tried.loc[tried["spearman"].idxmax()]
    alpha = {} if math.isnan(row["alpha"]) else {"alpha": float(row["alpha"])}
    heads = {"heads": [int(head) for head in row["heads"].split("/")]} if row["heads"] else {}
    auxiliary = {"auxiliary": row["auxiliary"]} if row["auxiliary"] else {}
    return {
        "layer": int(row["layer"]),
        "norm": row["norm"],
        **alpha,
        "position": row["position"],
        "output_layer": row["output_layer"],
        "template": row["template"],
        **auxiliary,
        **heads,
    }


def chosen_and_oracle(dev: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    """Return, per template, the test row of the setting that dev chose, and the best on test.

    Args:
        dev: From `contrast_scores`, of the pairs to choose on.
        test: The same contrasts on the pairs to report on.

    Returns:
        Rows of ``test`` with ``chosen_on`` ("dev", "test") before the other columns.
    """
    rows = []
    for template, tried in dev[dev["method"] != PLAIN].groupby("template", sort=False):
        there = test[(test["template"] == template) & (test["method"] != PLAIN)]
        chosen = tried.loc[tried["spearman"].idxmax(), [*LABELS]]
        same = (there[[*LABELS]].fillna(0) == chosen.fillna(0)).all(axis=1)
        rows.append({"chosen_on": "dev", **there[same].iloc[0]})
        rows.append({"chosen_on": "test", **there.loc[there["spearman"].idxmax()]})
    return pd.DataFrame(rows)


def combined_scores(
    study: Study,
    task: str,
    languages: Sequence[str],
    *,
    components: Sequence[str] = ("attn", "resid"),
    k: int | float = 0.25,
    seed: int = 0,
) -> pd.DataFrame:
    """Score DySem on the vectors of each contrast of a study: the two methods combined.

    Args:
        study: With the English setting; None among its contrasts is DySem alone.
        task: Name of a task.
        languages: Of the consensus.
        components: Internal vectors s^(ℓ).
        k: Dimensions per text, or fraction of d.
        seed: Of the bootstraps.

    Returns:
        One row per component, contrast and ``vector`` ("plain cosine" in English, "source",
        "mean"), with the columns of `contrast_scores`; the gain is over the same without contrast.
    """
    gold = study.data[task].gold
    rows = []
    for component in components:
        without: dict[str, Tensor] = {}
        for contrast in sorted(study.contrasts, key=lambda one: one is not None):
            vectors = study.vectors(task, component, languages=languages, contrast=contrast)
            source = study.vectors(task, component, languages=["en"], contrast=contrast)[:, 0]
            cells = {"plain cosine": (pair_cosine(source), float(study.model.d_model))}
            for vector in VECTORS:
                cells[vector] = pair_similarity(semantic_vectors(vectors, source, k, vector=vector))
            for vector, (similarity, n_dims) in cells.items():
                gain = _NO_GAIN
                if contrast is None:
                    without[vector] = similarity
                elif vector in without:
                    gain = paired_difference(similarity, without[vector], gold, seed=seed)
                rows.append(
                    {
                        "task": task,
                        "component": component,
                        "vector": vector,
                        **contrast_row(contrast),
                        **score(similarity, gold, n_dims, seed=seed),
                        **_gain(gain),
                    }
                )
    return pd.DataFrame(rows)
