"""`dysem-lab index search`: the texts of a corpus on disk that are nearest, and why."""

import json
from typing import Annotated, Any

import typer

from dysem_lab.cli.index import Folder, Language, Table, Translator, index, opened
from dysem_lab.cli.terminal import Json, out, print_json, print_table
from dysem_lab.errors import InputError
from dysem_lab.inputs import checked, one_of

WHY = ("dimension", "token", "head", "block")


@index.command(epilog="Example:  dysem-lab index search my-index 'It is raining.' -n 5 --why token")
def search(
    folder: Folder,
    queries: Annotated[list[str], typer.Argument(help="One or more texts.")],
    n: Annotated[int, typer.Option("-n", min=1, help="Hits of each.")] = 10,
    why: Annotated[
        str, typer.Option(help="Explain a hit by dimension, token, head or block.")
    ] = "",
    hit: Annotated[int, typer.Option(min=1, help="Rank of the hit that is explained.")] = 1,
    first_stage: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Look at so many texts alone, from `dysem-lab index first-stage`; some can be "
            "missed.",
            show_default="look at all",
        ),
    ] = None,
    table: Table = None,
    translator: Translator = "",
    language: Language = "en",
    as_json: Json = False,
) -> None:
    """Say which texts of an index are nearest to a text, on which dimensions, and why."""
    checked(queries, "query")
    if why:
        one_of(why, WHY, "explanation")
    there, encoder = opened(folder, table, translator)

    from dysem_lab.models.store import VectorStore
    from dysem_lab.questions.indexed import hits_of, why_hit

    asked = encoder.encode(queries, language=language, store=VectorStore(), progress=not as_json)
    found = hits_of(there, asked, n, first_stage)
    reasons: list[Any] = [None] * len(queries)
    if why:
        for i, (query, hits) in enumerate(zip(queries, found, strict=True)):
            if hit > len(hits):
                raise InputError(f"--hit {hit}: {query!r:.80} has {len(hits)} hits")
            reasons[i] = why_hit(there, encoder, query, hits["id"].iloc[hit - 1], why, language)
    if as_json:
        print_json(
            [
                {
                    "query": query,
                    "hits": json.loads(hits.to_json(orient="records")),
                    "first_stage": hits.attrs["first_stage"],
                    "why": str(reason) if reason else None,
                }
                for query, hits, reason in zip(queries, found, reasons, strict=True)
            ]
        )
        return
    if first_stage is not None:
        said = there.first_stage or {}
        recall = said.get("recall@10")
        measured = f"; with {said['candidates']:,} it found {recall:.1%}" if recall else ""
        out.print(
            f"Not all texts were looked at: {found[0].attrs['first_stage']}{measured} of the 10 "
            "nearest",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    for query, hits, reason in zip(queries, found, reasons, strict=True):
        print_table(
            f"Nearest to: {query}",
            ("rank", "similarity", "|U|", "id", "text", "adds most, once what all share is gone"),
            (
                (
                    row.rank,
                    f"{row.similarity:.4f}",
                    row.n_dims,
                    row.id,
                    row.text or "",
                    f"{', '.join(map(str, row.top_dimensions))} ({row.top_share:.3f})",
                )
                for row in hits.itertuples()
            ),
        )
        if reason is not None:
            out.print(f"Hit {hit}: {reason}", highlight=False, markup=False, soft_wrap=True)
