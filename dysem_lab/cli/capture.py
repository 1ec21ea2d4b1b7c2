"""`dysem-lab capture`: vectors of any number of texts, in shards."""

from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dysem_lab.cli.terminal import (
    Dtype,
    Engine,
    Json,
    Model,
    Setting,
    Template,
    Workers,
    check_engine,
    codes_of,
    err,
    print_json,
    print_table,
    settings_of,
)


def capture(
    folder: Annotated[str, typer.Argument(help="Where the shards go: a folder or fsspec address.")],
    texts: Annotated[
        str,
        typer.Argument(
            help="A .parquet, .jsonl or .jsonl.gz, or a pattern of several; fsspec addresses too."
        ),
    ],
    languages: Annotated[
        str,
        typer.Option(
            help="Codes of columns, by comma.",
            show_default="columns that are codes, or text as English",
        ),
    ] = "",
    column: Annotated[str, typer.Option(help="Column of the texts of one language.")] = "",
    ids: Annotated[
        str, typer.Option("--ids", help="Column of their ids.", show_default="file name:row")
    ] = "",
    model: Model = "gemma-3-270m",
    dtype: Dtype = "auto",
    components: Annotated[str, typer.Option(help="What is read, by comma.")] = "attn",
    layers: Annotated[str, typer.Option(help="sum, each, or the index of a block.")] = "sum",
    template: Template = "prompteol",
    setting: Setting = "",
    rows: Annotated[int, typer.Option(min=1, help="Texts of a shard.")] = 4096,
    engine: Engine = "local",
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Read vectors of any number of texts into shards; stopped, the same command goes on."""
    check_engine(engine, workers)

    from dysem_lab.cluster.capture import Request, capture_shards
    from dysem_lab.cluster.shards import n_shards
    from dysem_lab.cluster.texts import languages_of

    request = Request(
        texts=texts,
        columns=languages_of(texts, codes_of(languages), column),
        folder=folder,
        ids=ids,
        model=model,
        dtype=dtype,
        components=tuple(codes_of(components)),
        layers=int(layers) if layers.isdecimal() else layers,
        template=template,
        setting=setting or settings_of(template)[-1],
        rows=rows,
    )
    bar = Progress(
        TextColumn("shards {task.completed:,.0f} of {task.total:,.0f}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    )
    shown = bar.add_task("", total=1, visible=False)
    outcomes: dict[str, int] = {"made": 0, "there": 0}

    def report(done: int, total: int, outcome: str) -> None:
        bar.update(shown, completed=done, total=total, visible=True)
        if outcome not in outcomes:
            err.print(f"made again: {outcome}", highlight=False, markup=False)
            outcome = "made"
        outcomes[outcome] += 1

    with bar:
        manifest = capture_shards(request, engine, workers, report)
    facts = {
        "folder": folder,
        "texts": manifest["n_texts"],
        "shards": n_shards(manifest),
        "made now": outcomes["made"],
        "model": manifest["model"]["name"],
        "columns of vectors": [
            f"{c}/{p}" for c in manifest["languages"] for p in manifest["shapes"]
        ],
    }
    if as_json:
        print_json(facts)
    else:
        print_table("", ("", ""), facts.items())
