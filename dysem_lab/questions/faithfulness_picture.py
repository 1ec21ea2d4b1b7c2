"""What `dysem_lab.faithfulness` shows: curves, areas, and who wins in words."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dysem_lab.display import amount
from dysem_lab.questions.faithfulness_passes import (
    ANEW,
    FROZEN,
    GRADIENT,
    INTEGRATED,
    JACOBIAN,
    LEFT_OUT,
    METHODS,
    RANDOM,
    READING,
    REMOVALS,
    ROLLOUT,
    SUM,
    TEXT,
)
from dysem_lab.questions.finding import Facts
from dysem_lab.questions.style import PALETTE, error_bar, interval, layout, lines_down

DELETION, INSERTION = "deletion", "insertion"
MAIN = (TEXT, FROZEN, DELETION)  # what the winner is chosen by
LEVEL = 0.05
ENOUGH = 6  # pairs; on which of two orders all of fewer agree is chance too often to be sure
COLOURS = dict(zip((*METHODS, RANDOM), (*PALETTE[:6], "#999999"), strict=True))
REMOVED = {TEXT: "words dropped from the text", READING: "words hidden from the last token"}
MARKED = {  # (sets, curve) → symbol, and what it is
    (FROZEN, DELETION): ("circle", "deletion, U frozen"),
    (ANEW, DELETION): ("circle-open", "deletion, U anew"),
    (FROZEN, INSERTION): ("diamond", "insertion, U frozen"),
    (ANEW, INSERTION): ("diamond-open", "insertion, U anew"),
}
OFFSET = 0.17  # between the marks of a method
IN_WORDS = {
    SUM: "the exact sum",
    GRADIENT: "gradient × input",
    INTEGRATED: "integrated gradients",
    JACOBIAN: "the integrated Jacobian",
    ROLLOUT: "attention rollout",
    LEFT_OUT: "leave-one-out",
    RANDOM: "a random order",
}


def figure(table: pd.DataFrame, curves: pd.DataFrame, facts: Facts | str) -> go.Figure:
    """Return the deletion curves with U frozen, and below them all areas with their intervals.

    A dashed curve is the mean over fewer pairs, so it does not begin where the others do.

    Args:
        table: Of `dysem_lab.faithfulness`.
        curves: Its mean curves.
        facts: What it was measured on.
    """
    titles = [REMOVED[removal] for removal in REMOVALS]
    drawn = make_subplots(
        rows=2,
        cols=2,
        subplot_titles=[*titles, "", ""],
        row_heights=[0.42, 0.58],
        vertical_spacing=0.11,
        horizontal_spacing=0.05,
        shared_yaxes=True,
    )
    shown = curves[(curves["sets"] == FROZEN) & (curves["curve"] == DELETION)]
    for col, removal in enumerate(REMOVALS, 1):
        for method, part in shown[shown["removal"] == removal].groupby("method", sort=False):
            n = part["n_pairs"].iloc[0]
            dash = "dash" if n < shown["n_pairs"].max() else "solid"  # of fewer pairs
            drawn.add_scatter(
                x=part["fraction"],
                y=part["similarity"],
                mode="lines+markers",
                name=str(method),
                legendgroup="methods",
                showlegend=False,
                line={"color": COLOURS[str(method)], "dash": "dot" if method == RANDOM else dash},
                marker_size=5,
                hovertemplate=f"{method}, {amount(n, 'pair')}, %{{x:.0%}} removed: %{{y:.3f}}"
                "<extra></extra>",
                row=1,
                col=col,
            )
        drawn.update_xaxes(title="share of words removed", tickformat=".0%", row=1, col=col)
        _areas(drawn, table[table["removal"] == removal], col)
    drawn.update_yaxes(title="centred similarity, U frozen", row=1, col=1)
    title = "Which order of words finds what makes two texts similar?"
    if shown["n_pairs"].nunique() > 1:
        title += " (dashed: of fewer pairs)"
    return layout(drawn, title, facts, 920).update_layout(margin={"l": 230, "b": 120})


def _areas(drawn: go.Figure, table: pd.DataFrame, col: int) -> None:
    """Draw a line for each method with its areas."""
    methods = [name for name in (*METHODS, RANDOM) if name in set(table["method"])]
    lines = {method: float(i) for i, method in enumerate(methods)}
    for i, ((sets, curve), (symbol, name)) in enumerate(MARKED.items()):
        part = table[(table["sets"] == sets) & (table["curve"] == curve)]
        drawn.add_scatter(
            x=part["area"],
            y=part["method"].map(lines) + OFFSET * (i - 1.5),
            mode="markers",
            name=name,
            legendgroup=name,
            showlegend=col == 1,
            marker={
                "symbol": symbol,
                "size": 8,
                "color": [COLOURS[method] for method in part["method"]],
            },
            error_x={**error_bar(part["area"], part["low"], part["high"]), "color": "#777777"},
            hovertemplate=f"{name}: %{{x:.3f}}<extra></extra>",
            row=2,
            col=col,
        )
    zero = {"zeroline": True, "zerolinecolor": "#333333"}
    drawn.update_xaxes(title="area beside random orders / mean drop", **zero, row=2, col=col)
    counted = table.drop_duplicates("method").set_index("method")
    labels = [
        f"<span style='color:{COLOURS[name]}'><b>{name}</b></span><br>"
        f"{_passes(counted.loc[name])}, {amount(counted.loc[name, 'n_pairs'], 'pair')}"
        for name in methods
    ]
    lines_down(drawn, labels, row=2, col=col)


def caption(table: pd.DataFrame) -> str:
    """Return who wins in a sentence, then the areas under the main conditions, and the others.

    Only orders of all pairs can win; beside the others stands how many they have.

    Args:
        table: Of `dysem_lab.faithfulness`.
    """
    main = _where(table, *MAIN)
    order = main.drop(RANDOM).sort_values("area", ascending=False)
    inserted = _winner(_where(table, TEXT, FROZEN, INSERTION))
    said = [_meaning(main, _winner(main), inserted)]
    said.append(
        "Area between the deletion curve and that of random orders, in units of the full drop: "
        + ", ".join(
            f"{name} {interval(row, 'area', of='.2f')} ({_passes(row)}"
            + (
                f", {amount(row['n_pairs'], 'pair')}"
                if row["n_pairs"] < main["n_pairs"].max()
                else ""
            )
            + ")"
            for name, row in order.iterrows()
        )
        + f"; of {amount(main['n_pairs'].max(), 'pair')}."
    )
    if INTEGRATED in main.index and SUM in main.index:
        said.append(_beside_integrated(main.loc[INTEGRATED]))
    said.append(
        f"The exact sum's order does worse than random ones in {main.loc[SUM, 'worse']:.0%} of the "
        "pairs."
    )
    others = [
        f"{REMOVED[removal]}, U {sets}, {curve}: "
        f"{IN_WORDS[_winner(_where(table, removal, sets, curve))]}"
        for removal in REMOVALS
        for sets, curve in MARKED
        if (removal, sets, curve) != MAIN
    ]
    return " ".join([*said, f"Who leads elsewhere: {'; '.join(others)}."])


def _where(table: pd.DataFrame, removal: str, sets: str, curve: str) -> pd.DataFrame:
    """Return the rows of one kind of curve, by method."""
    kind = (table["removal"] == removal) & (table["sets"] == sets) & (table["curve"] == curve)
    return table[kind].set_index("method")


def _winner(rows: pd.DataFrame) -> str:
    """Return the order with the largest area, of those that all pairs have."""
    rows = rows.drop(RANDOM)
    return str(rows.loc[rows["n_pairs"] == rows["n_pairs"].max(), "area"].idxmax())


def _passes(row: pd.Series) -> str:
    return amount(row["passes"], "pass")


def _meaning(main: pd.DataFrame, first: str, inserted: str) -> str:
    """Return who wins, and whether the exact sum is behind beyond its interval.

    Args:
        main: Rows of the main conditions, by method.
        first: Who wins there.
        inserted: Who does by insertion.
    """
    other = f"; by insertion {IN_WORDS[inserted]} leads" if inserted != first else ""
    best = "finds the words that carry a similarity best by deletion"
    if main.loc[first, "low"] <= 0:
        best = "leads by deletion, though not surely ahead of random orders"
    surely = (main["p_holm"] < LEVEL) & (main["n_pairs"] >= ENOUGH)
    if first == SUM:
        behind = main[(main["ahead_low"] > 0) & surely].index
        names = [IN_WORDS[name] for name in behind if name != RANDOM]
        beaten = (
            f", surely ahead of {', '.join(names)}" if names else ", though ahead of none surely"
        )
        return f"The exact sum {best}{beaten}{other}."
    row = main.loc[first]
    sure = row["ahead_high"] < 0 and surely[first]
    far = -row[["ahead", "ahead_high", "ahead_low"]]
    gap = f"{far['ahead']:.2f} [{far['ahead_high']:.2f}, {far['ahead_low']:.2f}]"
    how = (
        f"ahead of the exact sum by {gap}" if sure else f"not surely ahead of the exact sum ({gap})"
    )
    name = IN_WORDS[first]
    return f"{name[0].upper()}{name[1:]} {best}, {how}{other}."


def _beside_integrated(row: pd.Series) -> str:
    """Return whether the exact sum's area is at least that of integrated gradients."""
    said = interval(row, "ahead", ("ahead_low", "ahead_high"), "+.2f")
    few = row["n_pairs"] < ENOUGH
    if row["ahead_low"] > 0 and not few:
        verdict = "is above that of"
    elif row["ahead_high"] < 0 and not few:
        verdict = "is below that of"
    else:
        verdict = "is not surely another than that of"
    return (
        f"The exact sum's area {verdict} integrated gradients, by {said} on the same "
        f"{amount(row['n_pairs'], 'pair')}, at one pass in place of {row['passes']:.0f}."
    )
