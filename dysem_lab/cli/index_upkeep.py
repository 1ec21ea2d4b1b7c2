"""`dysem-lab index info|repair|first-stage|compact`: what an index is, and what is done to it."""

from typing import Annotated, Any

import typer

from dysem_lab.cli.index import Folder, Language, Table, Translator, encoded, opened, say
from dysem_lab.cli.index_search import index
from dysem_lab.cli.terminal import Json, err
from dysem_lab.errors import InputError


@index.command(epilog="Example:  dysem-lab index info my-index --check")
def info(
    folder: Folder,
    check: Annotated[
        bool, typer.Option("--check", help="Read every shard, and name the damaged ones.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what an index holds, and what made its vectors."""
    from dysem_lab.retrieval.index import SemanticIndex

    there = SemanticIndex.open(folder)
    facts: dict[str, Any] = {
        "index": folder,
        "texts": len(there),
        "width": there.width,
        "stored": there.dtype,
        "megabytes": there.n_bytes / 1e6,
        "deleted texts on disk": there.n_deleted,
        **(there.first_stage or {}),
        "made by": there.made_by,
        **_flat(there.encoder),
    }
    damaged = there.damaged() if check else None
    if damaged is not None:
        facts["damaged texts"] = len(damaged)
        facts["damaged shards"] = sorted(set(damaged["shard"]))
    say(facts, as_json)
    if damaged is not None and len(damaged):
        err.print(f"`dysem-lab index repair {folder}` makes them anew", highlight=False)
        raise typer.Exit(1)


@index.command(epilog="Example:  dysem-lab index repair my-index")
def repair(
    folder: Folder,
    table: Table = None,
    translator: Translator = "",
    language: Language = "en",
    as_json: Json = False,
) -> None:
    """Encode the texts of damaged shards again, from the texts that the index kept."""
    from dysem_lab.retrieval.index import SemanticIndex

    damaged = SemanticIndex.open(folder).damaged()
    if damaged["text"].isna().any():
        raise InputError(
            f"{folder} did not keep the texts of its damaged shards; add them with replace=True"
        )
    if len(damaged):
        there, encoder = opened(folder, table, translator)
        texts = damaged["text"].tolist()
        for rows, vectors in encoded(encoder, texts, language, as_json):
            there.add(damaged["id"].tolist()[rows], vectors, texts[rows], replace=True)
    say({"index": folder, "made anew": len(damaged)}, as_json)


@index.command("first-stage", epilog="Example:  dysem-lab index first-stage my-index")
def first_stage(
    folder: Folder,
    candidates: Annotated[
        int, typer.Option(min=11, help="Texts that it hands on where its recall is measured.")
    ] = 1000,
    share: Annotated[
        float, typer.Option(min=0, max=1, help="Of its lists, that a query reads; 1 misses least.")
    ] = 0.125,
    as_json: Json = False,
) -> None:
    """Build what `search --first-stage N` asks, and say what share of the 10 nearest it finds."""
    from dysem_lab.retrieval.index import SemanticIndex

    said = SemanticIndex.open(folder).build_first_stage(candidates, share)
    say({"index": folder, **said}, as_json)


@index.command(epilog="Example:  dysem-lab index compact my-index")
def compact(folder: Folder, as_json: Json = False) -> None:
    """Give the disk back what deleted texts take, and join small shards; a first stage goes."""
    from dysem_lab.retrieval.index import SemanticIndex

    there = SemanticIndex.open(folder)
    removed = there.compact()
    say({"index": folder, "removed": removed, "megabytes": there.n_bytes / 1e6}, as_json)


def _flat(encoder: dict[str, Any]) -> dict[str, Any]:
    """Return what is said of an encoder, its settings one by one."""
    kind = {"encoder": encoder.get("encoder", "not said").rpartition(".")[2]}
    weights = {f"model {name}": value for name, value in (encoder.get("model") or {}).items()}
    made = {"translator": encoder["translator"]} if "translator" in encoder else {}
    return {**kind, **encoder.get("config", {}), **weights, **made}
