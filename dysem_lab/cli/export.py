"""`dysem-lab export-explorer`: the explorers as static pages."""

from pathlib import Path
from typing import Annotated

import typer

from dysem_lab.cli.terminal import (
    Data,
    Json,
    Pairs,
    Sample,
    Split,
    Task,
    codes_of,
    err,
    number,
    out,
    print_json,
)
from dysem_lab.inputs import one_of

SPLITS = ("test", "dev")


def export_explorer(
    folder: Annotated[Path, typer.Option("--out", help="Folder of the page; made if absent.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Embedded name, preset, hub id, folder, .gguf; several times.",
            show_default="both embedded models",
        ),
    ] = None,
    data: Data = "demo",
    task: Task = "",
    split: Split = "test",
    languages: Annotated[
        str,
        typer.Option(
            help="Languages that the page has, by comma.", show_default="all that the data have"
        ),
    ] = "",
    consensus: Annotated[
        str,
        typer.Option(
            help="Languages of the first view, the curves and the explanations, by comma.",
            show_default="en,fr,de",
        ),
    ] = "",
    k: Annotated[
        str, typer.Option("--k", help="Dimensions per text of these: an integer, or a fraction.")
    ] = "0.25",
    pairs: Pairs = None,
    sample: Sample = None,
    explained: Annotated[
        int | None, typer.Option(min=0, help="Pairs that are explained.", show_default="all")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample.")] = 0,
    as_json: Json = False,
) -> None:
    """Write the explorers as a page that needs nothing: no server, no network, no installation.

    It computes DySem in the browser on the vectors that are captured here. Stopped, the same
    command goes on where it was.
    """
    from dysem_lab.data.sts import TASKS, available_languages
    from dysem_lab.models.embedded import EMBEDDED
    from dysem_lab.models.names import check_name

    # Whatever can be wrong is said before a model is loaded; names, before torch is imported.
    kept = number(k)
    one_of(split, SPLITS, "split")
    if task:
        one_of(task, TASKS, "task")
    models = model or list(EMBEDDED)
    for name in models:
        check_name(name)
    codes = codes_of(languages) or list(available_languages(data, task or None, split))

    from dysem_lab.pages.export import export_explorer as export
    from dysem_lab.questions.study import Study

    drawn = {"split": split, "pairs": pairs, "sample": sample, "seed": seed}
    studies = [Study(name, data, task or None, codes, **drawn) for name in models]  # type: ignore[arg-type]
    for pairs_of in studies[0].data.values():
        err.print(pairs_of, highlight=False, markup=False)
    page = export(studies, folder, codes_of(consensus) or None, kept, explained)
    if as_json:
        print_json({"page": page, "models": models, "languages": codes})
    else:
        out.print(f"open {page}", highlight=False, markup=False, soft_wrap=True)
