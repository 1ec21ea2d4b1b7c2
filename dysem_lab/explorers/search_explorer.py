"""The sentences of a corpus nearest to a query, on which dimensions, and why."""

import html
from collections.abc import Mapping, Sequence

from dysem_lab.display import Progress
from dysem_lab.encoders.base import Encoder
from dysem_lab.explorers.panel import Panel, State, View, menu, slider, text_box
from dysem_lab.explorers.renderings import EXAMPLE, empty_when_it_changes, parse_renderings
from dysem_lab.inputs import checked
from dysem_lab.models.parts import SPLITS
from dysem_lab.models.store import VectorStore
from dysem_lab.questions.search import Corpus, Nearest, figure, nearest, undefined
from dysem_lab.questions.splits import in_parts
from dysem_lab.questions.why_near import why_near

WHY = {
    "the list alone": "",
    "why: which words": "token",
    "why: which heads": "head",
    "why: which blocks": "block",
    "why: which dimensions": "dimension",
}


def explore_search(
    encoder: Encoder,
    corpus: Sequence[str] | Mapping[str, Sequence[str]],
    query: str | None = None,
    *,
    n: int = 10,
    language: str = "en",
    store: VectorStore | None = None,
) -> Panel:
    """Return a panel that searches a corpus, which is encoded once, with progress and Cancel.

    It returns at once and encodes in the background; ``panel.wait()`` waits for it. Controls:
    ``query``, ``renderings`` (the query in other languages, lines such as ``fr: Oui.``, where the
    encoder has no translator; emptied when the query changes), ``n``, ``why`` (what the chosen hit
    is explained by, under the list: `dysem_lab.explain`, centred on the corpus that is searched,
    which then runs once more, in parts), ``hit`` (its rank).

    Args:
        encoder: `dysem_lab.DySem` or any other; the copied line of Python calls it ``encoder``.
        corpus: As for `Corpus`; the copied line calls it ``corpus``.
        query: None is the first text.
        n: Rows at first.
        language: The texts' own.
        store: As for `dysem_lab.capture`.

    Raises:
        DysemLabError: ipywidgets is missing.
        InputError: No texts, or renderings of another length.
    """
    encoded = Corpus(encoder, corpus, language, store)
    query = encoded.texts[0] if query is None else checked([query], "query")[0]
    n_most = min(50, len(encoded))
    controls = {
        "query": text_box("Query", query),
        "renderings": text_box("Its translations", rows=3, example=EXAMPLE),
        "why": menu("Explain", _reasons(encoder), ""),
        "hit": slider("Hit", min(1 + (query in encoded.texts), n_most), 1, n_most),
        "n": slider("Sentences", min(n, n_most), 1, n_most),
    }
    empty_when_it_changes(controls["query"], controls["renderings"])
    shown: dict[str, int] = {}  # the position of the hit that is explained

    def update(state: State, progress: Progress) -> View:
        renderings = parse_renderings(state["renderings"])
        found = nearest(encoded, state["query"], state["n"], renderings, progress)
        if not state["why"] or found.table.empty:
            return View(figure(found), nearest_text(found))
        hit = min(state["hit"], len(found.table))
        shown.update(position=int(found.table["position"].iloc[hit - 1]))
        why = why_near(
            encoded, state["query"], shown["position"], state["why"], renderings, progress
        )
        said = f"<p>Hit {hit}: {html.escape(str(why))}</p>"
        return View(why.figure, f"{nearest_text(found, hit)}{why.above}{said}")

    def python(state: State) -> str:
        renderings = parse_renderings(state["renderings"])
        line = (
            "from dysem_lab.questions.search import Corpus, search; "
            f"table = search(encoder, corpus, {state['query']!r}, n={state['n']}, "
            f"renderings={renderings!r}, language={language!r}).table; "
        )
        if not state["why"] or not shown:
            return f"{line}table"
        return (
            f"{line}from dysem_lab.questions.why_near import why_near; "
            f"why_near(Corpus(encoder, corpus, {language!r}), {state['query']!r}, "
            f"{shown['position']}, {state['why']!r}, {renderings!r})"
        )

    return Panel(controls, update, python, "search").start()


def _reasons(encoder: Encoder) -> list[tuple[str, str]]:
    """Return what a hit of an encoder can be explained by."""
    parts = SPLITS[encoder.place.component] if in_parts(encoder) else ()
    return [(name, by) for name, by in WHY.items() if by in ("", "dimension", *parts)]


def nearest_text(found: Nearest, hit: int | None = None) -> str:
    """Return the nearest texts as an HTML table, with a mark at a rank that is explained."""
    rows = "".join(
        f"<tr><td>{'▸ ' if row.rank == hit else ''}{row.rank}</td>"
        f"<td>{row.similarity:.4f}</td><td>{row.n_dims}</td>"
        f'<td dir="auto">{html.escape(row.text)}</td>'
        f"<td>{', '.join(map(str, row.top_dimensions))} ({row.top_share:.3f})</td></tr>"
        for row in found.table.itertuples()
    )
    said = f"<p>{undefined(found)}.</p>" if found.n_undefined else ""
    return (
        "<table><thead><tr><th>Rank</th><th>Similarity</th><th>|U|</th><th>Sentence</th>"
        f"<th>Dimensions that add most (together)</th></tr></thead><tbody>{rows}</tbody></table>"
        f"{said}"
    )
