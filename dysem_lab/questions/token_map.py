"""Texts with their tokens coloured by what they add to the similarity: HTML without scripts.

Pointing at a token of one text colours the tokens of the others by what the two add together: rules
of style alone, so it works in a notebook, in an exported page and without a network.
"""

import hashlib
import html
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from dysem_lab.models.readout import visible
from dysem_lab.questions.explain_picture import name_of_view, of_three
from dysem_lab.questions.style import PALETTE, rgba

LISTED = 8  # words that are named
LEAST = 0.04  # share of the largest value below which a colour would not be seen
STYLE = """
<style>
.dl-map {font: 16px/2 'Noto Sans','Noto Sans CJK SC','Noto Naskh Arabic',Arial,sans-serif;
  max-width: 1000px; margin: 0.5em 0}
.dl-map .dl-line {margin: 0.1em 0; overflow-wrap: anywhere}
.dl-map .dl-name, .dl-map .dl-note {color: #757575;
  color: color-mix(in srgb, currentColor 70%, transparent)} /* quiet on any ground */
.dl-map .dl-name {font-size: 12px; margin-inline-end: 0.6em; white-space: nowrap}
.dl-map .dl-t {border-radius: 3px; padding: 2px 0; white-space: pre-wrap; cursor: default}
.dl-map .dl-t.dl-frame {color: #757575;
  color: color-mix(in srgb, currentColor 70%, transparent); font-size: 13px}
.dl-map .dl-t.dl-both {border-bottom: 2px dotted #888}
.dl-map .dl-t:hover {outline: 2px solid #777}
.dl-map .dl-note {font-size: 12px; line-height: 1.5}
</style>
"""


def token_map(table: pd.DataFrame, words: pd.DataFrame | None = None) -> str:
    """Return the texts of an explanation by token with their tokens coloured, as HTML.

    Args:
        table: Of `dysem_lab.explain` or `dysem_lab.explain_difference` by "token", with
            ``by_other`` "token" or None (x alone).
        words: Its words, in the order in which the first of them are named.

    Returns:
        A fragment of a page. Orange adds to the similarity, blue takes away from it; of a
        difference, orange pulls x to y, blue to z. The tokens of the template are small and grey,
        those that it shares with the text have a dotted line below.
    """
    of_others = [name for name in table if name.startswith("other_")]
    n_others = len(table.drop_duplicates(of_others)) if of_others else 1
    added = table["contribution"].to_numpy().reshape(-1, n_others)
    sides = {"x": (table.drop(columns=of_others).iloc[::n_others], added.sum(1))}
    others = table[of_others].iloc[:n_others].rename(columns=lambda name: name[len("other_") :])
    whose = others["text"].tolist() if "text" in others else ["y"] * (n_others if of_others else 0)
    for side in dict.fromkeys(whose):
        mine = np.array(whose) == side
        sides[side] = others[mine], added.sum(0)[mine]
    bound = max(float(np.abs(of).max()) for _, of in sides.values()) or 1.0
    lines = [_lines(side, parts, totals, bound) for side, (parts, totals) in sides.items()]
    body = "".join("".join(of_language) for of_language in zip(*lines, strict=True))
    body += _listed(words)
    name = "dl-" + hashlib.sha256((body + str(added.sum())).encode()).hexdigest()[:8]
    rules = _links(name, added, whose) if whose else ""
    colours, others_are = "adds to the similarity, blue takes away from it", "text"
    if of_three(table):
        colours, others_are = "pulls x to y, blue to z", "texts"
    shared = ", a dotted line is below what it shares with the text" if "dl-both" in body else ""
    pointing = f" Point at a token to see with which tokens of the other {others_are} it does so."
    note = (
        f"Orange {colours}; small and grey is the template{shared}.{pointing if whose else ''}"
        " Hold the pointer still for the numbers."
    )
    return (
        f'{STYLE}<style>{rules}</style><div class="dl-map {name}">{body}'
        f'<div class="dl-note">{note}</div></div>'
    )


def _lines(
    side: str, parts: pd.DataFrame, totals: Float[np.ndarray, " parts"], bound: float
) -> list[str]:
    """Return a text's tokens, a line for each language."""
    lines = []
    places = parts.reset_index(drop=True)
    for language, mine in places.groupby("language", sort=False, dropna=False):
        tokens = mine[mine["token"].notna()]
        spans = []
        for i, row in tokens.iterrows():
            frame = "" if row["of_text"] else " dl-frame"
            frame += " dl-both" if row["of_text"] and row["of_template"] else ""
            token = visible(row["token"])
            spans.append(
                f'<span data-of={side} class="dl-t dl-{side}{i}{frame}" style="background:'
                f'{_colour(totals[i], bound)}" title="{totals[i]:+.4f}">{token}</span>'
            )
        others = mine[mine["token"].isna()]
        rest = [
            f"{kind} {totals[i]:+.3f}" for i, kind in zip(others.index, others["kind"], strict=True)
        ]
        shown = html.escape(side if pd.isna(language) else f"{side}, {name_of_view(language)}")
        said = f' <span class="dl-name">{html.escape(", ".join(rest))}</span>' if rest else ""
        lines.append(
            f'<div class="dl-line" dir="auto"><span class="dl-name">{shown}</span>'
            f"{'<wbr>'.join(spans)}{said}</div>"
        )
    return lines


def _listed(words: pd.DataFrame | None) -> str:
    """Return the first words in their order, with the number that they are ordered by."""
    if words is None:
        return ""
    order = "left_out" if "left_out" in words else "contribution"
    head = "the similarity loses without" if order == "left_out" else "largest parts of words"
    said = [
        f"{html.escape(word)} {value:+.3f}"
        for word, value in zip(words["word"][:LISTED], words[order], strict=False)
    ]
    return (
        f'<div class="dl-line" dir="auto"><span class="dl-name">x, {head}</span>'
        f"{', '.join(said)}</div>"
    )


def _links(name: str, added: Float[np.ndarray, "x others"], whose: Sequence[str]) -> str:
    """Return the rules that colour the other texts' tokens while one is pointed at."""
    bound = float(np.abs(added).max()) or 1.0
    rules = [
        f".{name}:has([data-of={side}]:hover) [data-of]:not([data-of={side}])"
        "{background:transparent!important}"
        for side in ("x", *dict.fromkeys(whose))
    ]
    first = {side: whose.index(side) for side in whose}
    for i, j in zip(*np.nonzero(np.abs(added) >= LEAST * bound), strict=True):
        x, other = f".dl-x{i}", f".dl-{whose[j]}{j - first[whose[j]]}"
        rules += [
            f".{name}:has({pointed}:hover) {shown}.dl-t"
            f"{{background:{_colour(added[i, j], bound)}!important}}"
            for pointed, shown in ((x, other), (other, x))
        ]
    return "".join(rules)


def _colour(value: float, bound: float) -> str:
    """Return a see-through colour: orange for more, blue for less."""
    share = min(1.0, abs(float(value)) / bound)
    return "transparent" if share < LEAST else rgba(PALETTE[0 if value > 0 else 1], 0.75 * share)
