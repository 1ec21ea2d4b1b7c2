"""At which block to contrast, how strongly, and what is the choice worth? Notebook 16."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dysem_lab.display import amount
from dysem_lab.errors import InputError
from dysem_lab.models.steering import Contrast
from dysem_lab.questions.asked import asked, require_study
from dysem_lab.questions.contrast import contrast_scores
from dysem_lab.questions.contrast_rows import (
    EITHER,
    LABELS,
    PLAIN,
    compared,
    drawn_once,
    heads_of,
    norms_said,
    one_setting,
    prompt_name,
)
from dysem_lab.questions.contrast_sweeps import template_panels
from dysem_lab.questions.finding import Facts, Finding, facts_of, sources_of
from dysem_lab.questions.names import said
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.scores import LEVEL, by_holm, certain, with_holm
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import GAINS, gained, layout, one_of_each


@dataclass(frozen=True, repr=False)
class Search(Finding):
    """A finding on the pairs to choose on, and what its choice is worth on other pairs.

    Attributes:
        reported: From `chosen_and_oracle`.
        chosen: From `best_setting`: arguments for `dysem_lab.ContrastivePrompting`.
    """

    reported: pd.DataFrame
    chosen: dict[str, Any]


def layer_alpha(
    study: Study,
    test: Study,
    layers: Sequence[int],
    alphas: Sequence[float],
    output_layer: int | str = "penultimate",
    *,
    seed: int = 0,
) -> Search:
    """Try CP at each block, with each α and with norm recovering; report on other pairs.

    Args:
        study: The pairs to choose on: of one task, in the English setting.
        test: The same of the pairs to report on.
        layers: Blocks, 0-based.
        alphas: Of norm scaling.
        output_layer: Where the embedding is read, as for `dysem_lab.ContrastivePrompting`.
        seed: Of the bootstraps.

    Returns:
        As from `dysem_lab.questions.contrast.contrast_scores`, on the pairs to choose on: their
        name is the ``task``.

    Source: CP (arXiv 2505.12831), Figure 3 a-c; what the choice is worth is ours.
    """
    require_study(test)
    given = asked(study, layers=layers, alphas=alphas, output_layer=output_layer, seed=seed)
    contrasts: list[Contrast | None] = [None]
    contrasts += [Contrast(layer, "scaling", alpha) for layer in layers for alpha in alphas]
    recovering = [Contrast(layer, "recovering") for layer in layers]
    contrasts += recovering
    where: dict[str, Any] = {"contrasts": contrasts, "output_layers": [output_layer]}
    prepare(study.needs((), **where), test.needs((), **where))
    facts = facts_of(study, **given, position="heads")
    scores = contrast_scores(study, **where, seed=seed)
    # Both studies may call their task alike; the table says which pairs it is of.
    scores["task"] = scores["task"].map({task: pairs.name for task, pairs in study.data.items()})
    reported = chosen_and_oracle(scores, contrast_scores(test, **where, seed=seed))
    of_test = {"test": sources_of(test), "reported": reported.to_dict("records")}
    facts = replace(facts, recorded={**facts.recorded, **of_test})
    drawn, said = figure(scores, facts), caption(scores, reported)
    return Search("cp_layer_alpha", scores, drawn, said, facts, reported, best_setting(scores))


def best_setting(table: pd.DataFrame) -> dict[str, Any]:
    """Return the best contrast in a table of one task, as `dysem_lab.ContrastivePrompting` has it.

    Raises:
        InputError: The table is of several tasks, or has no contrast with a score.
    """
    tried = compared(table)
    tried = tried[tried["spearman"].notna()]
    if tried.empty or tried["task"].nunique() != 1:
        raise InputError("choose a setting from the scores of contrasts on one task")
    row = tried.loc[tried["spearman"].idxmax()]
    alpha = {} if math.isnan(row["alpha"]) else {"alpha": float(row["alpha"])}
    heads = {"heads": list(of_row)} if (of_row := heads_of(row)) else {}
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
        dev: From `dysem_lab.questions.contrast.contrast_scores`, of the pairs to choose on.
        test: The same contrasts on the pairs to report on.

    Returns:
        Rows of ``test`` with ``chosen_on`` ("dev", "test") before the other columns. Of dev's
        choices ``gain_p_holm`` is corrected for their number, of the best on test for all that
        were tried.
    """
    rows = []
    for template, tried in compared(dev).groupby("template", sort=False):
        there = compared(test[test["template"] == template])
        chosen = tried.loc[tried["spearman"].idxmax(), [*LABELS]]
        same = (there[[*LABELS]].fillna(0) == chosen.fillna(0)).all(axis=1)
        rows.append({"chosen_on": "dev", **there[same].iloc[0]})
        rows.append({"chosen_on": "test", **there.loc[there["spearman"].idxmax()]})
    found = pd.DataFrame(rows)
    of_dev = with_holm(found[found["chosen_on"] == "dev"])
    found.loc[of_dev.index, ["gain_p_holm", "n_compared"]] = of_dev[["gain_p_holm", "n_compared"]]
    return found


def figure(table: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return a heat map of block × α per template; norm recovering, which has no α, beside it.

    Where a norm undoes α, all positive ones and norm recovering are one column.
    """
    templates = list(dict.fromkeys(one_of_each(table, "task", "output_layer")["template"]))
    figure = template_panels(table, templates)
    steered = compared(drawn_once(table))
    # A few cells may lose far more than the others differ by; the colour ends before them.
    end = 1.5 * float(steered["gain"].abs().quantile(0.75)) or 1.0
    for column, template in enumerate(templates, start=1):
        part = steered[steered["template"] == template]
        alphas = part.apply(_column, axis=1)
        part, columns = part.assign(alpha=alphas), list(dict.fromkeys(alphas))
        shown, gains, p = (
            part.pivot(index="layer", columns="alpha", values=value)[columns]
            for value in ("spearman", "gain", "gain_p_holm")
        )
        stars = (p < LEVEL).replace({True: "*", False: ""})
        text = shown.map("{:.1f}".format).where(shown.notna(), "") + stars
        figure.add_heatmap(
            z=gains,
            x=columns,
            y=[f"block {layer + 1}" for layer in shown.index],
            text=text.to_numpy().tolist(),
            texttemplate="%{text}",
            colorscale=GAINS,
            zmin=-end,
            zmax=end,
            colorbar={"title": f"gain over<br>plain; ends<br>at ±{end:.1f}", "thickness": 14},
            showscale=column == len(templates),
            xgap=2,
            ygap=2,
            row=1,
            col=column,
        )
    norms = norms_said(steered[steered["method"] == EITHER]) or "NR: norm recovering"
    notes = f"written: the score (gain: * {by_holm(table, 'by')}), {norms}"
    layout(figure, "Where to contrast, and how strongly?", f"{facts}, {notes}", 500)
    return figure.update_layout(margin_r=120)


def _column(row: pd.Series) -> str:
    """Return how the column of a setting is called."""
    if not np.isnan(row["alpha"]):
        return f"α={row['alpha']:g}"
    names = {EITHER: "either norm,<br>any α", "CP-NR": "NR"}
    return names.get(row["method"], "α < 0")


def caption(table: pd.DataFrame, reported: pd.DataFrame) -> str:
    """Return one line: what each template's choice gains on other pairs and where it was made.

    Args:
        table: On the pairs to choose on.
        reported: From `chosen_and_oracle`.
    """
    parts, above = [], 0
    on_test = reported[reported["chosen_on"] == "dev"].set_index("template")
    for template, part in drawn_once(table).groupby("template", sort=False):
        plain = part[part["method"] == PLAIN]["spearman"].iloc[0]
        best, then = (
            part.loc[compared(part)["spearman"].idxmax()],
            on_test.loc[template],
        )
        above += then["gain"] > 0 and then["gain_p_holm"] < LEVEL
        alpha = "" if np.isnan(best["alpha"]) else f", α = {best['alpha']:g}"
        parts.append(
            f"{prompt_name(template)} {plain:.2f} plain, at best {best['spearman']:.2f} "
            f"({best['method']}, block {best['layer'] + 1}{alpha}; gain {gained(best)}), which on "
            f"the other pairs gains {gained(then)}"
        )
    tried = compared(table)
    up, _ = certain(tried)
    return (
        f"The chosen setting gains on new pairs too, for certain, under {above} of "
        f"{amount(len(parts), 'prompt')} (p < {LEVEL:g} after Holm over these). On the pairs that "
        f"it was chosen on, the gain is certain for {up} of {amount(len(tried), 'setting')} (p < "
        f"{LEVEL:g} after Holm)."
        f"{one_setting(table)} "
        f"{said('output_layer', table['output_layer'].iloc[0]).capitalize()}: {'; '.join(parts)}."
    )
