"""What `heads` shows: the leading heads, all heads on a map, and the score without some."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dysem_lab.display import amount
from dysem_lab.questions.finding import Facts
from dysem_lab.questions.style import (
    DIVERGING,
    PALETTE,
    SCORE,
    band,
    error_bar,
    interval,
    layout,
    lines_down,
    range_with_room,
)

LEVEL = 0.05
PLAIN, CHOSEN, RANDOM = "plain pass", "largest parts", "random heads, equal length"
SHOWN = 10  # heads
AS_LONG = 0.9  # of the length of the heads; what writes less cannot be compared
ON = {"on_first": "first token", "on_text": "text", "on_template": "template"}


def figure(table: pd.DataFrame, ablation: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return panels of the leading heads above a map of all of them and the ablations.

    Args:
        table: Of `heads`.
        ablation: Its ablations.
        facts: What it was measured on.
    """
    heads = table[table["kind"] == "head"]
    grid = heads.pivot_table(index="block", columns="head", values="share")
    most = float(grid.abs().to_numpy().max())
    titles = [
        "share of the variance<br>of the similarity",
        "what its part adds<br>to the score (orange: certain)",
    ]
    titles += [
        "what it attends to",
        f"share of every head, darkest {most:.0%}<br>(orange above 0, blue below)",
    ]
    titles.append("the score after an ablation<br>(shaded: span of the random draws)")
    drawn = make_subplots(
        rows=2,
        cols=3,
        specs=[[{}, {}, {}], [{}, {"colspan": 2}, None]],
        subplot_titles=titles,
        horizontal_spacing=0.07,
        vertical_spacing=0.2,
        row_heights=[0.55, 0.45],
    )
    shown = heads.head(SHOWN).reset_index(drop=True)
    y, quiet = shown.index, {"showlegend": False, "row": 1}
    drawn.add_bar(
        x=shown["share"],
        y=y,
        orientation="h",
        marker_color=PALETTE[1],
        text=shown["share"].map("{:.0%}".format),
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{x:.3f}",
        col=1,
        **quiet,
    )
    ends = range_with_room(pd.concat([shown["share"], pd.Series([0.0])]))
    drawn.update_xaxes(range=ends, tickformat=".0%", row=1, col=1)
    sure = shown["p_holm"] < LEVEL
    drawn.add_scatter(
        x=shown["change"],
        y=y,
        mode="markers",
        marker={"size": 8, "color": np.where(sure, PALETTE[0], PALETTE[6])},
        error_x=error_bar(shown["change"], shown["low"], shown["high"]),
        hovertemplate="%{x:.2f}",
        col=2,
        **quiet,
    )
    drawn.update_xaxes(title=SCORE, zeroline=True, zerolinecolor="#333333", row=1, col=2)
    drawn.update_xaxes(title="share of attention", tickformat=".0%", row=1, col=3)
    for i, (name, said) in enumerate(ON.items()):
        drawn.add_bar(
            x=shown[name],
            y=y,
            orientation="h",
            name=said,
            marker_color=PALETTE[(6, 0, 4)[i]],
            hovertemplate="%{x:.2f}",
            legend="legend",
            row=1,
            col=3,
        )
    labels = [f"block {row.block + 1:.0f}, head {row.head + 1:.0f}" for row in shown.itertuples()]
    for col in (1, 2, 3):
        lines_down(drawn, labels if col == 1 else [""] * len(labels), row=1, col=col)
    drawn.add_heatmap(
        z=grid.to_numpy(),
        x=grid.columns + 1,
        y=grid.index + 1,
        colorscale=DIVERGING,
        zmin=-most,
        zmax=most,
        showscale=False,
        hovertemplate="block %{y:.0f}, head %{x:.0f}: %{z:.3f}<extra></extra>",
        row=2,
        col=1,
    )
    drawn.update_xaxes(title="head", row=2, col=1)
    drawn.update_yaxes(title="block", row=2, col=1)
    _score_after(drawn, ablation)
    drawn.update_layout(barmode="stack")
    drawn = layout(drawn, "Which heads write what tells texts apart?", facts, 860)
    drawn.update_annotations(font_size=13)
    return drawn.update_layout(margin={"l": 130, "b": 110})


def _score_after(drawn: go.Figure, ablation: pd.DataFrame) -> None:
    """Draw the score after each ablation beside the plain one."""
    plain = ablation[ablation["which"] == PLAIN].iloc[0]
    numbers = sorted(set(ablation["n_heads"]) - {0})
    places = pd.Series(range(len(numbers)), index=numbers)
    where = {"row": 2, "col": 2}
    drawn.add_scatter(
        x=[-0.3, len(numbers) - 0.7],
        y=[plain["spearman"]] * 2,
        mode="lines",
        line={"color": "#333333", "dash": "dot"},
        name=PLAIN,
        **where,
    )
    for i, which in enumerate((CHOSEN, RANDOM)):
        part = ablation[ablation["which"] == which]
        x = part["n_heads"].map(places)
        if which == RANDOM:
            band(drawn, x, part["draw_low"], part["draw_high"], PALETTE[1], **where)
        drawn.add_scatter(
            x=x + (0.06 if i else -0.06),
            y=part["spearman"],
            mode="markers+lines",
            marker={"color": PALETTE[i], "size": 8},
            error_y=error_bar(part["spearman"], part["low"], part["high"]),
            name=f"without the heads of {which}" if which == CHOSEN else f"without {which}",
            hovertemplate="%{y:.2f}",
            **where,
        )
    drawn.update_xaxes(
        title="heads taken out", tickvals=list(places), ticktext=list(map(str, numbers)), **where
    )
    drawn.update_yaxes(title=SCORE, **where)


def caption(table: pd.DataFrame, ablation: pd.DataFrame, n_texts: int) -> str:
    """Return what was found in a sentence of meaning, then the numbers.

    Args:
        table: Of `heads`.
        ablation: Its ablations.
        n_texts: Different texts of the half that is reported.
    """
    heads = table[table["kind"] == "head"]
    chosen = ablation[ablation["which"] == CHOSEN]
    random = ablation[ablation["which"] == RANDOM].set_index("n_heads")
    plain = ablation[ablation["which"] == PLAIN].iloc[0]
    long = chosen["n_heads"].map(random["length"]) / chosen["length"]
    fair, unfair = chosen[long >= AS_LONG], chosen[~(long >= AS_LONG)]
    worse = fair[(fair["p_holm"] < LEVEL) & (fair["difference_high"] < 0)]
    better = fair[(fair["p_holm"] < LEVEL) & (fair["difference_low"] > 0)]
    which, others = "The heads whose parts tell pairs apart", "random heads with parts as long"
    if len(worse) and len(better):
        found = (
            f"{which} are needed together, not one by one: without {_numbers(worse)} of them the "
            f"score is lower than without {others}, without {_numbers(better)} it is higher"
        )
    elif len(worse):
        found = (
            f"{which} are needed: without {_numbers(worse)} of them the score is lower than "
            f"without {others}"
        )
    elif len(better):
        found = (
            f"{which} are not those that the score needs: without {_numbers(better)} of them it is "
            f"higher than without {others}"
        )
    elif len(fair):
        found = (
            f"{which} are not needed more than others: without {_numbers(fair)} of them the score "
            f"is about what it is without {others}"
        )
    else:
        found = f"{which} cannot be compared with others"
    if len(unfair):
        drawn = unfair["n_heads"].map(random["n_mean"])
        every = (drawn >= len(heads) - unfair["n_heads"]).all()
        beside = "all other heads" if every else "the random heads beside them"
        found += (
            f". Nothing is said of {_numbers(unfair)} of them: {beside} have parts that are "
            f"together {_listed(f'{share:.0%}' for share in long[unfair.index])} as long"
        )
    lead = heads.iloc[0]
    many = heads.head(SHOWN)
    said = [
        f"{found}.",
        f"{len(many)} of {len(heads)} heads have {many['share'].sum():.0%} of the variance of the "
        f"similarity over pairs, block {lead['block'] + 1:.0f} head {lead['head'] + 1:.0f} alone "
        f"{lead['share']:.0%}; the last token attends there {lead['on_text']:.0%} to the text, "
        f"{lead['on_template']:.0%} to the template, {lead['on_first']:.0%} to the first token.",
        _raises(heads),
    ]
    after = []
    for _, row in chosen.iterrows():
        other = random.loc[row["n_heads"]]
        gap = interval(row, "difference", ("difference_low", "difference_high"), "+.1f")
        after.append(
            f"{row['n_heads']:.0f}: {row['spearman']:.1f} "
            f"({amount(other['n_mean'], 'random one')}, {other['length'] / row['length']:.0%} as "
            f"long: {other['spearman']:.1f}; difference {gap}, p = {row['p_holm']:.2g})"
        )
    said.append(
        f"{SCORE} of the centred similarity {interval(plain)} before; after mean ablation of so "
        f"many heads {', '.join(after)}. {amount(n_texts, 'text')}; heads chosen on the other "
        "half, where a part's length is the root mean square of ‖p − E[p]‖; p by Holm over the "
        f"numbers of heads, and over {amount(table['p'].notna().sum(), 'part')}."
    )
    return " ".join(said)


def _numbers(rows: pd.DataFrame) -> str:
    """Return numbers of heads as a list in words."""
    return _listed(str(n) for n in rows["n_heads"])


def _listed(said: Iterable[str]) -> str:
    *others, last = said
    return f"{', '.join(others)} or {last}" if others else last


def _raises(heads: pd.DataFrame) -> str:
    """Return which heads surely raise or lower the score by their part of the sum."""
    said = []
    for verb, sure in (("raise", heads["low"] > 0), ("lower", heads["high"] < 0)):
        rows = heads[sure & (heads["p_holm"] < LEVEL)]
        rows = rows.reindex(rows["change"].abs().sort_values(ascending=False).index)
        named = ", ".join(
            f"block {row.block + 1:.0f} head {row.head + 1:.0f} {row.change:+.1f}"
            for row in rows.head(3).itertuples()
        )
        said.append(f"{len(rows)} {verb} the score" + (f" ({named})" if named else ""))
    return f"Left out of the sum alone, {' and '.join(said)}."
