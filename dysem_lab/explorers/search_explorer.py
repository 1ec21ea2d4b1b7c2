"""The sentences of a corpus nearest to a query, on which dimensions, and why."""

import html
from collections.abc import Mapping, Sequence

from dysem_lab.data.languages import LANGUAGES
from dysem_lab.display import Progress
from dysem_lab.encoders.base import Encoder, LensEncoder
from dysem_lab.explorers.controls import menu, slider
from dysem_lab.explorers.panel import Panel, State, View
from dysem_lab.explorers.python import IMPORT, call
from dysem_lab.explorers.renderings import (
    Rendered,
    Renderer,
    language_boxes,
    nowhere_read,
    parse_renderings,
    read_note,
    readings,
    sentence_boxes,
    typed_sentence,
)
from dysem_lab.explorers.standing import Standing, headline
from dysem_lab.inputs import checked
from dysem_lab.models.parts import SPLITS
from dysem_lab.models.store import VectorStore
from dysem_lab.questions.search import Nearest, figure, nearest, search, undefined
from dysem_lab.questions.searched import Corpus
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
    plain: bool | None = None,
) -> Panel:
    """Return a panel that searches a corpus, which is encoded once, with progress and Cancel.

    It returns at once and encodes in the background; ``panel.wait()`` waits for it. A query that is
    not to be had in one of the encoder's languages is searched for in the others, and that is said.
    Controls: ``query``, ``renderings`` (the query in other languages, lines such as ``fr: Oui.``;
    emptied when the query changes), ``language`` (the query's own, where the encoder reads
    several), ``n``, ``why`` (what the chosen hit is explained by, under the list:
    `dysem_lab.explain`, centred on the corpus that is searched, which then runs once more, in
    parts), ``hit`` (its rank).

    Args:
        encoder: `dysem_lab.DySem` or any other; the Python of the panel calls it ``encoder``.
        corpus: As for `Corpus`; the Python calls it ``corpus``.
        query: None is the first text.
        n: Rows at first.
        language: The texts' own.
        store: As for `dysem_lab.capture`.
        plain: As for `Panel`.

    Raises:
        DysemLabError: ipywidgets is missing.
        InputError: No texts, or renderings of another length.
    """
    encoded = Corpus(encoder, corpus, language, store)
    query = encoded.texts[0] if query is None else checked([query], "query")[0]
    n_most = min(50, len(encoded))
    controls = {
        **sentence_boxes("query", "Query", query, "renderings"),
        "why": menu("Explain", _reasons(encoder), ""),
        "hit": slider("Hit", min(1 + (query in encoded.texts), n_most), 1, n_most),
        "n": slider("Sentences", min(n, n_most), 1, n_most),
    }
    if encoder.languages and language in LANGUAGES:
        controls["language"] = language_boxes(encoder.languages, language)["language"]
    searched = {tuple(encoder.languages): encoded}
    shown: dict[str, int] = {}  # the position of the hit that is explained
    source, standing = Renderer(encoder.translator), Standing(store)

    def asked(state: State) -> Rendered:
        """Return the query in the encoder's languages, as far as it is to be had in them."""
        text, own = typed_sentence(state["query"], "query"), state.get("language", language)
        known = encoded.of_query(text, {}) if own == language else {}
        typed = {**known, **parse_renderings(state["renderings"])}
        codes = dict.fromkeys([*encoder.languages, language])
        found = source.render([text], [typed], [*codes], own, [*LANGUAGES])
        if encoder.languages and not {*found.languages} & {*encoder.languages}:
            raise nowhere_read("query", encoder.languages)
        if language not in encoder.languages:  # of no use but to name the query
            return found._replace(languages=[c for c in found.languages if c != language])
        return found

    def searching(codes: Sequence[str]) -> Corpus:
        """Return the corpus as an encoder has it that reads some of the languages."""
        key = tuple(codes) if encoder.languages else ()
        if key not in searched:
            config, of = {**encoder.config, "languages": list(key)}, type(encoder)
            smaller = of.from_config(config, encoder.lens, translator=encoder.translator)
            searched[key] = Corpus(smaller, corpus, language, store)
        return searched[key]

    def update(state: State, progress: Progress) -> View:
        read = asked(state)
        (texts,), there = read.texts, searching(read.languages)
        text = texts.get(language, state["query"].strip())
        found = nearest(there, text, state["n"], texts, progress)
        place, offer = "", None
        others = found.table[found.table["text"] != text]
        if len(others):
            best = others.iloc[0]
            said, offer = standing.of(there.encoder, float(best["similarity"]), language)
            named = f"similarity of the nearest, “{html.escape(best['text'])}”"
            place = headline(named, float(best["similarity"]), said)
        note = " ".join(filter(None, (read.note, _cut(there.encoder, texts))))
        below = readings([texts], ["Query"]) if len(texts) > 1 else ""
        if not state["why"] or found.table.empty:
            return View(figure(found), nearest_text(found) + below, note, offer, place)
        hit = min(state["hit"], len(found.table))
        shown.update(position=int(found.table["position"].iloc[hit - 1]))
        why = why_near(there, text, shown["position"], state["why"], texts, progress)
        said = f"<p>Hit {hit}: {html.escape(str(why))}</p>"
        listed = nearest_text(found, hit)
        return View(why.figure, f"{listed}{why.above}{said}{below}", note, offer, place)

    def python(state: State) -> str:
        read = asked(state)
        (texts,) = read.texts
        text = texts.get(language, state["query"].strip())
        others = {code: of for code, of in texts.items() if code != language}
        known = encoded.of_query(text, {})
        given = None if all(known.get(code) == of for code, of in others.items()) else others
        lines = [IMPORT]
        if encoder.languages and read.languages != list(encoder.languages):
            config = f"{{**encoder.config, 'languages': {read.languages!r}}}"
            lines.append(
                f"encoder = dl.DySem.from_config({config}, encoder.lens, "
                "translator=encoder.translator)"
            )
        own = {} if language == "en" else {"language": language}
        if not state["why"] or not shown:
            named = {"n": state["n"], "renderings": given, **own}
            lines.append(call("dl.search", search, "encoder", "corpus", repr(text), **named))
            return "\n".join(lines)
        corpus_of = call("Corpus", Corpus, "encoder", "corpus", **own)
        hit = (corpus_of, repr(text), repr(shown["position"]), repr(state["why"]))
        return "\n".join(
            [
                *lines,
                "from dysem_lab.questions.searched import Corpus",
                "from dysem_lab.questions.why_near import why_near",
                "",
                call("why_near", why_near, *hit, renderings=given),
            ]
        )

    return Panel(
        controls,
        update,
        python,
        lambda state: f"Nearest to: {state['query']}",
        folded=[name for name in controls if name in ("renderings", "language", "n")],
        plain=plain,
    ).start()


def _cut(encoder: Encoder, texts: Mapping[str, str]) -> str:
    """Return how much of a query an encoder reads; "" where it is all of it, or not ours."""
    if not isinstance(encoder, LensEncoder):
        return ""
    if encoder.languages:
        asked = encoder.config
        return read_note(encoder.lens, [texts], asked["template"], asked["setting"])
    first = dict([next(iter(texts.items()))])
    return read_note(encoder.lens, [first], encoder.templates[0])


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
        "<th>Adds most, once what all share is gone (together)</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
        f"{said}"
    )
