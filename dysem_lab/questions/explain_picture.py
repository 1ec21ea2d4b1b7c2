"""The pictures of an explanation: maps of heads and of two texts, rows of tokens, bars; caption."""

from collections.abc import Callable

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dysem_lab.models.readout import label, visible
from dysem_lab.prompts import TEMPLATE_NAMES
from dysem_lab.questions.finding import Facts
from dysem_lab.questions.style import DIVERGING, PALETTE, layout, with_gaps

# The columns that say what a part is.
WHERE = (
    *("kind", "block", "head", "neuron", "token", "position", "language", "dimension"),
    "direction",
)
MANY = ("neuron", "dimension", "direction")  # of which the largest are shown, by size
SAID, N_BARS = 3, 24  # parts that a caption names, and that are drawn as bars
MAP_WIDTH = 430  # px that a map has at least in a panel


def of_three(table: pd.DataFrame) -> bool:
    """Return whether a table is of the difference of two similarities."""
    return "to_y" in table or "other_text" in table


def names_of_parts(table: pd.DataFrame, prefix: str = "") -> list[str]:
    """Return what each part is called in figures, where blocks and heads count from 1.

    Args:
        table: Of an explanation.
        prefix: "other_" for the parts of y.
    """
    parts = table.reindex(columns=[prefix + name for name in WHERE])
    return [_name_of(*row) for row in parts.astype(object).where(parts.notna(), None).to_numpy()]


def name_of_view(name: str) -> str:
    """Return what a pass over the texts is called: a language's code, or a template's name."""
    return TEMPLATE_NAMES.get(name, str(name))


def _name_of(
    kind: str,
    block: int | None,
    head: int | None,
    neuron: int | None,
    token: str | None,
    position: int | None,
    language: str | None,
    dimension: int | None,
    direction: int | str | None,
) -> str:
    if token is not None:
        return label(token) + (" (auxiliary)" if kind == "auxiliary" else "")
    if kind in ("language", "dimension"):
        return name_of_view(str(language)) if kind == "language" else str(dimension)
    if direction is not None:
        return visible(direction) if isinstance(direction, str) else f"direction {direction}"
    if block is None:
        return kind
    of_block = f"block {block + 1}"
    if head is not None:
        return f"{of_block} head {head + 1}"
    if neuron is not None:
        return f"{of_block} neuron {neuron + 1}"
    return of_block if kind == "block" else f"{of_block} {kind}"


def _names_of_others(
    rows: pd.DataFrame, named: Callable[[pd.DataFrame, str], list[str]]
) -> list[str]:
    """Return what the parts of y are called; with whose they are, where there is z too."""
    names = named(rows, "other_")
    if not of_three(rows):
        return names
    return [f"{text}: {name}" for text, name in zip(rows["other_text"], names, strict=True)]


def figure(table: pd.DataFrame, title: str, facts: Facts | str) -> go.Figure:
    """Return the parts of a similarity: a map of heads, of two texts' parts, or bars.

    Args:
        table: From `explain` or `explain_difference`.
        title: Of the figure.
        facts: What it was measured on.
    """
    if "other_kind" in table:
        drawn, height = _map(table)
    elif table["kind"].eq("token").any():
        drawn, height = _token_rows(table)
    elif table["kind"].eq("head").any():
        drawn, height = _head_map(table)
    else:
        drawn, height = _bars(table)
    return layout(drawn, title, facts, height)


def _coloured(values: object, bound: float, **options: object) -> dict[str, object]:
    """Return a map of contributions, in colours that are the same for both signs."""
    scale = {"colorscale": DIVERGING, "zmin": -bound, "zmax": bound}
    bar = {"colorbar": {"title": "adds", "thickness": 12, "tickformat": ".2g"}}
    return {"type": "heatmap", "z": values, **scale, **bar, **options}


def _bound(values: pd.Series) -> float:
    return float(values.abs().max()) or 1.0


def _head_map(table: pd.DataFrame) -> tuple[go.Figure, int]:
    """Return block × head; what is not a head has columns of its own."""
    columns = [
        f"head {head + 1}" if pd.notna(head) else kind
        for head, kind in zip(table["head"], table["kind"], strict=True)
    ]
    blocks = table["block"].astype("Int64").add(1).astype(str).replace("<NA>", "–")
    grid = table.assign(x=columns, y=blocks)
    xs, ys = grid["x"].drop_duplicates().tolist(), grid["y"].drop_duplicates().tolist()
    values = grid.pivot(index="y", columns="x", values="contribution").loc[ys, xs]
    said = grid.assign(said=_hover(table)).pivot(index="y", columns="x", values="said").loc[ys, xs]
    figure = go.Figure(
        _coloured(
            with_gaps(values.to_numpy()),
            _bound(table["contribution"]),
            x=xs,
            y=ys,
            customdata=said.fillna("").to_numpy(),
            hovertemplate="block %{y}, %{x}: %{z:.4f}%{customdata}<extra></extra>",
        )
    )
    figure.update_xaxes(type="category", title="what wrote it", showgrid=False)
    figure.update_yaxes(type="category", title="block", showgrid=False)
    return figure, max(420, 170 + 18 * len(ys))


def _random(table: pd.DataFrame) -> str:
    """Return what the parts are compared with."""
    return "random triples" if of_three(table) else "random pairs"


def _hover(table: pd.DataFrame) -> list[str]:
    """Return what is said of each part beside its contribution: what random texts get."""
    if "random" not in table:
        return [""] * len(table)
    return [
        f"<br>{_random(table)} {random:.4f} ± {spread:.4f}"
        for random, spread in zip(table["random"], table["spread"], strict=True)
    ]


def _token_rows(table: pd.DataFrame) -> tuple[go.Figure, int]:
    """Return the tokens of each language in a row, in the order of reading; others last."""
    groups = list(table.groupby("language", sort=False, dropna=False))
    figure = make_subplots(rows=len(groups), cols=1, vertical_spacing=0.5 / len(groups))
    bound = _bound(table["contribution"])
    for row, (language, part) in enumerate(groups, 1):
        places = list(range(len(part)))
        figure.add_trace(
            _coloured(
                [part["contribution"].tolist()],
                bound,
                x=places,
                y=[name_of_view(language)],
                customdata=[list(zip(names_of_parts(part), _hover(part), strict=True))],
                hovertemplate="%{customdata[0]}: %{z:.4f}%{customdata[1]}<extra></extra>",
                showscale=row == 1,
            ),
            row,
            1,
        )
        ticks = {"tickvals": places, "ticktext": names_of_parts(part), "tickangle": -60}
        figure.update_xaxes(**ticks, row=row, col=1)
    figure.update_xaxes(showgrid=False, zeroline=False)
    figure.update_yaxes(showgrid=False)
    return figure, 170 + 130 * len(groups)


def _map(table: pd.DataFrame) -> tuple[go.Figure, int]:
    """Return parts of x × parts of y, and of z, all tokens of a template as one."""
    table = _without_templates(table)
    others = [name for name in table if name.startswith("other_")]
    n_others = len(table.drop_duplicates(others))
    xs = names_of_parts(table.iloc[::n_others])
    ys = _names_of_others(table.iloc[:n_others], names_of_parts)
    values = table["contribution"].to_numpy().reshape(-1, n_others)
    x_places, y_places = list(range(len(xs))), list(range(len(ys)))
    figure = go.Figure(
        _coloured(
            values,
            _bound(table["contribution"]),
            x=y_places,
            y=x_places,
            customdata=[[f"{x} × {y}" for y in ys] for x in xs],
            hovertemplate="%{customdata}: %{z:.4f}<extra></extra>",
        )
    )
    quiet = {"showgrid": False, "zeroline": False}
    letters = {"size": max(5, min(12, MAP_WIDTH / len(ys) - 2.5))}
    title = "y, and z, whose sign is turned round" if of_three(table) else "y"
    figure.update_xaxes(
        tickvals=y_places, ticktext=ys, tickangle=-90, tickfont=letters, title=title, **quiet
    )
    figure.update_yaxes(
        tickvals=x_places,
        ticktext=xs,
        tickfont_size=12,
        title="x",
        autorange="reversed",
        **quiet,
    )
    return figure, max(460, 230 + 20 * len(xs))


def _without_templates(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of parts × parts with one row for all tokens of a language's template."""
    for prefix in ("", "other_"):
        if prefix + "of_text" in table:
            outside = table[prefix + "of_text"].eq(False).fillna(False)
            for name, one in (("token", "(template)"), ("position", -1)):
                table = table.assign(**{prefix + name: table[prefix + name].mask(outside, one)})
    columns = [name for name in table if name != "contribution"]
    return table.groupby(columns, sort=False, dropna=False, as_index=False)["contribution"].sum()


def _bars(table: pd.DataFrame) -> tuple[go.Figure, int]:
    """Return a bar for each part: in order, or the largest of many."""
    order = table["contribution"].abs().sort_values(ascending=False, kind="stable").index[:N_BARS]
    shown = table.loc[order if set(MANY) & set(table) else sorted(order)]
    rest = table["contribution"].sum() - shown["contribution"].sum()
    names = names_of_parts(shown)
    figure = go.Figure()
    figure.add_bar(
        x=shown["contribution"],
        y=names,
        orientation="h",
        marker_color=[PALETTE[0] if value > 0 else PALETTE[1] for value in shown["contribution"]],
        customdata=_hover(shown),
        hovertemplate="%{y}: %{x:.4f}%{customdata}<extra></extra>",
        showlegend=False,
        name="these three" if of_three(table) else "this pair",
    )
    if "random" in shown:
        figure.add_scatter(
            x=shown["random"],
            y=names,
            mode="markers",
            marker={"color": "#555555", "symbol": "line-ns-open", "size": 12},
            error_x={"type": "data", "array": shown["spread"], "thickness": 1.2, "width": 3},
            name=f"{_random(table)}, ± a standard deviation",
            hoverinfo="skip",
        )
    left = (
        f"; the other {len(table) - len(shown)} add {rest:.3f}" if len(table) > len(shown) else ""
    )
    figure.update_xaxes(title=f"adds to the similarity{left}")
    figure.update_yaxes(type="category", autorange="reversed")
    if table["kind"].eq("dimension").all():  # which their numbers alone do not say
        figure.update_yaxes(title="dimension")
    return figure, max(340, 230 + 22 * len(shown))


def caption(
    table: pd.DataFrame, similarity: float, own: float, centred: bool, n_largest: int = 0
) -> str:
    """Return one line: what the parts add up to, and which add most."""
    changes = ["once what all texts share is taken away"] * centred
    if n_largest:
        many = "dimension with the largest share" if n_largest == 1 else None
        many = many or f"{n_largest} dimensions with the largest shares"
        changes.append(f"without the {many} of all cosines")
    centred_on = ", ".join(changes) or "as the encoder has it"
    what = "The difference of the similarities" if of_three(table) else "The similarity"
    order = table["contribution"].abs().sort_values(ascending=False, kind="stable").index[:SAID]
    largest = table.loc[order]
    names = _told_apart(table, largest)
    if "other_kind" in table:
        others = _names_of_others(largest, lambda rows, _: _told_apart(table, rows, "other_"))
        names = [f"{x} × {y}" for x, y in zip(names, others, strict=True)]
    parts = [
        f"{name} {row['contribution']:+.3f}"
        + (
            f" ({_random(table)} {row['random']:+.3f} ± {row['spread']:.3f})"
            if "random" in row
            else ""
        )
        for name, (_, row) in zip(names, largest.iterrows(), strict=True)
    ]
    through = (
        " A token's part is the way through which meaning came, not the word that caused it."
        if table["kind"].eq("token").any()
        else ""
    )
    return (
        f"{what} {centred_on} is {similarity:.3f} (the encoder's own {own:.3f}). "
        f"{_largest(parts, table, largest)}{through}"
    )


def _told_apart(table: pd.DataFrame, rows: pd.DataFrame, prefix: str = "") -> list[str]:
    """Return names of parts for a sentence: with the place of a token that is there twice."""
    columns = [prefix + name for name in WHERE if prefix + name in table]
    every = pd.Series(names_of_parts(table.drop_duplicates(columns), prefix))
    twice = set(every[every.duplicated()])
    found = []
    for name, (_, row) in zip(names_of_parts(rows, prefix), rows.iterrows(), strict=True):
        if row[prefix + "kind"] == "dimension":
            name = f"dimension {name}"
        elif name in twice and pd.notna(row.get(prefix + "position")):
            of = row.get(prefix + "language")
            where = "" if pd.isna(of) else f", {name_of_view(of)}"
            name += f" (token {row[prefix + 'position'] + 1}{where})"
        found.append(name)
    return found


def _largest(said: list[str], table: pd.DataFrame, largest: pd.DataFrame) -> str:
    """Say the largest parts, and beside them what all the others make."""
    n_others = len(table) - len(largest)
    if not n_others:
        return f"Its parts are {', '.join(said)}."
    together = largest["contribution"].sum()
    others = table["contribution"].sum() - together
    return (
        f"Its {len(said)} largest parts of {len(table):,}, in either direction, are "
        f"{', '.join(said)}: together {together:+.3f}; all others make {others:+.3f}."
    )
