"""How far does a contrast move the residual stream, and what is left at the end? Notebook 22."""

from dataclasses import replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.joint import cosine
from dysem_lab.models.capture import unique_prompts
from dysem_lab.models.lens import LensModel
from dysem_lab.models.readout import token_texts, visible
from dysem_lab.models.record import Edit, activations, finite
from dysem_lab.models.steering import Contrast, as_edit, warn_if_alpha_is_undone
from dysem_lab.prompts import wrap
from dysem_lab.questions.asked import asked
from dysem_lab.questions.finding import Facts, Finding, facts_of
from dysem_lab.questions.needs import prepare
from dysem_lab.questions.predictions import named_variants, only_template
from dysem_lab.questions.study import Study
from dysem_lab.questions.style import APART, METHOD_COLOURS, PALETTE, layout, side_by_side

CHANGE = [[0, "#F1F3F7"], [0.5, "#F0A35E"], [1, "#A63C00"]]


def stream_change(
    study: Study,
    sentence: str,
    layer: int,
    alpha: float,
    *,
    position: str = "heads",
    auxiliary: str = "irrelevant",
) -> Finding:
    """Follow the residual stream of a sentence's prompt under both norms of CP.

    Args:
        study: Its model and its template; it needs no data.
        sentence: In English.
        layer: Block of the contrast, 0-based.
        alpha: Of norm scaling.
        position: Where in the block, as for `dysem_lab.Contrast`.
        auxiliary: The auxiliary prompt, likewise.

    Returns:
        One row per ``variant``, token and block: ``position`` and ``layer`` from 0, ``token``,
        ``change`` (‖h' - h‖ / ‖h‖ with h' the stream under the contrast), ``cosine`` of h' with h.
        The change is 0 before the block of the contrast, and at every token but the last, which the
        others do not see.

    Raises:
        InputError: A block or head that the model does not have, or a study of several templates.
        ModelError: The stream is not finite.

    Warns:
        UserWarning: α has no effect in this model, because a norm follows.
    """
    given = asked(study, position=position, layer=layer, alpha=alpha)
    template = only_template(study)
    (prompt,) = wrap([sentence], template)
    variants = named_variants(layer, alpha, position, auxiliary)
    prepare(runs_the_model=True)
    facts = facts_of(study, template=template, **given)
    facts = replace(facts, unsaid={"sentence": sentence, "auxiliary": auxiliary})
    parts = [
        table(study.lens, prompt, contrast).assign(variant=name)
        for name, contrast in variants.items()
        if contrast
    ]
    moved = pd.concat(parts, ignore_index=True)
    return Finding("cp_stream", moved, figure(moved, facts), caption(moved), facts)


def table(lens: LensModel, prompt: str, contrast: Contrast) -> pd.DataFrame:
    """Return the table of `stream_change` for one contrast and one prompt, from `wrap`.

    With norm "self_scaling" all tokens move.
    """
    unique_prompts([prompt])
    warn_if_alpha_is_undone(contrast, lens)
    points = [f"blocks.{layer}.hook_out" for layer in range(lens.n_layers)]

    def stream(edit: Edit | None) -> tuple[Float[Tensor, "L pos d"], list[int]]:
        read = activations(lens, [prompt], points, edit=edit)
        rows = torch.stack([read.seen[point][0].float().cpu() for point in points])
        return finite(lens, "the residual stream", rows), read.ids[0].tolist()

    plain, ids = stream(None)
    changed, _ = stream(as_edit(lens, contrast))
    change = (changed - plain).norm(dim=-1) / plain.norm(dim=-1)
    similarity = cosine(changed.flatten(0, 1), plain.flatten(0, 1)).view_as(change)
    tokens = token_texts(lens, ids)
    return pd.DataFrame(
        {
            "position": i,
            "token": token,
            "layer": layer,
            "change": float(change[layer, i]),
            "cosine": float(similarity[layer, i]),
        }
        for layer in range(lens.n_layers)
        for i, token in enumerate(tokens)
    )


def figure(table: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return the change of the residual stream at every token, and at the last one in two ways.

    Blocks are 1-based here, as in the paper. The heat map is of the first variant.
    """
    variants = table["variant"].unique().tolist()
    first = table[table["variant"] == variants[0]]
    tokens = first.drop_duplicates("position").set_index("position")["token"].map(visible)
    n_blocks = int(table["layer"].max()) + 1
    height = 18 * n_blocks + 310
    titles = [
        f"{variants[0]}: ‖h′ − h‖ / ‖h‖ at every token",
        "the same, last token",
        "cosine of h′ with h, last token",
    ]
    figure = side_by_side(titles, [0.5, 0.25, 0.25])
    figure.add_heatmap(
        z=first.pivot(index="layer", columns="position", values="change"),
        x=tokens.index,
        y=np.sort(first["layer"].unique()) + 1,
        colorscale=CHANGE,
        zmin=0,
        xgap=1,
        ygap=1,
        colorbar={
            "orientation": "h",
            "x": 0.0,
            "xanchor": "left",
            "y": -115 / (height - 280),
            "yanchor": "top",
            "len": 0.47,
            "thickness": 12,
        },
        customdata=np.tile(tokens.to_numpy(), (first["layer"].nunique(), 1)),
        hovertemplate="%{customdata}, block %{y}: %{z:.3f}<extra></extra>",
        row=1,
        col=1,
    )
    last = table[table["position"] == table["position"].max()]
    for i, (name, part) in enumerate(last.groupby("variant", sort=False)):
        symbol, dash = APART[i % len(APART)]
        for column, value in ((2, "change"), (3, "cosine")):
            figure.add_scatter(
                x=part[value],
                y=part["layer"] + 1,
                mode="lines+markers",
                marker={"size": 6, "symbol": symbol},
                line={
                    "color": METHOD_COLOURS.get(name, PALETTE[i % len(PALETTE)]),
                    "dash": dash,
                },
                name=name,
                legendgroup=name,
                showlegend=column == 2,
                hovertemplate="block %{y}: %{x:.3f}",
                row=1,
                col=column,
            )
    figure.update_xaxes(
        tickvals=tokens.index, ticktext=tokens, tickangle=-90, showgrid=False, title=None, col=1
    )
    figure.update_xaxes(rangemode="tozero", col=2)
    figure.update_yaxes(title="after block", col=1)
    figure.update_yaxes(range=[0.5, n_blocks + 0.5], zeroline=False)
    title = "What moves in the residual stream?"
    return layout(figure, title, facts, height).update_layout(
        legend={"x": 0.55, "y": -115 / (height - 280)}, margin_b=180
    )


def caption(table: pd.DataFrame) -> str:
    """Return one line: where the stream begins to move, how far, and what is left at the end."""
    position = table["position"].max()
    parts, ways = [], set[str]()
    for name, rows in table.groupby("variant", sort=False):
        last = rows[rows["position"] == position].set_index("layer")
        moved = last.index[last["change"] > 0]
        if moved.empty:
            parts.append(f"{name}: nothing moves")
            continue
        start, lowest = moved.min(), last["cosine"].idxmin()
        if start < last.index[-1]:
            shrinks = last["change"].iloc[-1] < last.loc[start, "change"]
            ways.add("less" if shrinks else "more")
        parts.append(
            f"{name}: moved by {last.loc[start, 'change']:.0%} after block {start + 1}, most "
            f"({last['change'].max():.0%}) after block {last['change'].idxmax() + 1}, by "
            f"{last['change'].iloc[-1]:.0%} after the last of {len(last)}; cosine at least "
            f"{last.loc[lowest, 'cosine']:.3f} (block {lowest + 1})"
        )
    others = table.loc[table["position"] < position].groupby("variant", sort=False)["change"].max()
    still = [name for name, change in others.items() if change == 0]
    if len(still) == len(others):
        rest = "no other token moves at all"
    else:
        rest = f"other tokens move too under {', '.join(set(others.index) - set(still))}"
    lead = {
        (): "No later block has a say in what is changed",
        ("less",): "At the end less is left of the change than was made",
        ("more",): "Later blocks enlarge the change",
    }.get(tuple(ways), "Later blocks enlarge one change and shrink another")
    return (
        f"{lead}. Residual stream at the last token, relative to its norm. {'; '.join(parts)}; "
        f"{rest}."
    )
