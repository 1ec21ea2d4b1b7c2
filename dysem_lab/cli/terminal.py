"""What all commands share: consoles, tables, options and their values."""

import json
import sys
from collections.abc import Iterable
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dysem_lab.errors import InputError
from dysem_lab.inputs import check_k, one_of

ENGINES = ("local", "ray")
WIDE = 160  # columns where nobody watches: pipes and files, whose lines should stay whole


def _console(stderr: bool = False) -> Console:
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=WIDE)


out = _console()
err = _console(stderr=True)

Model = Annotated[
    str, typer.Option("--model", help="Embedded name, preset, hub id, folder, .gguf.")
]
Dtype = Annotated[
    str,
    typer.Option(
        "--dtype", help="Compute in float32, bfloat16 or float16; auto is bfloat16 on a GPU alone."
    ),
]
Data = Annotated[str, typer.Option("--data", help="demo, stsb, hub or a folder of STS files.")]
Languages = Annotated[str, typer.Option("--languages", help="Codes of the consensus, by comma.")]
K = Annotated[str, typer.Option("--k", help="Dimensions per text: an integer, or a fraction of d.")]
Template = Annotated[
    str,
    typer.Option(help="prompteol, pretended_cot, knowledge, or a string with {text} for English."),
]
Setting = Annotated[
    str,
    typer.Option(
        help="english or language-specific.",
        show_default="language-specific; english for a template of your own",
    ),
]
Task = Annotated[str, typer.Option(help="STS12 … STS16, STSB, SICKR or another form of a task.")]
Split = Annotated[str, typer.Option(help="test or dev.")]
Pairs = Annotated[int | None, typer.Option(min=1, help="First pairs only.")]
Sample = Annotated[int | None, typer.Option(min=1, help="Random sample of so many.")]
Engine = Annotated[str, typer.Option(help="local, or ray: the workers of a Ray cluster.")]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="Of --engine ray.", show_default="one for each GPU, or for each machine"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


def number(text: str) -> int | float:
    """Return the value of --k.

    Raises:
        InputError: It is no number, or none that k can be.
    """
    try:
        value = float(text) if "." in text or "e" in text.lower() else int(text)
    except ValueError:
        raise InputError(
            f"--k must be an integer or a fraction such as 0.25, got {text!r:.100}"
        ) from None
    return check_k(value, what="--k")


def check_engine(engine: str, workers: int | None) -> None:
    """Raise `InputError` unless there is such an engine, and workers only where it has them."""
    one_of(engine, ENGINES, "engine")
    if workers is not None and engine != "ray":
        raise InputError("--workers goes with --engine ray; leave it out, or give that engine")


def settings_of(template: str) -> list[str]:
    """Return the prompt settings that a template has: one of our own is in English only."""
    from dysem_lab.prompts import SETTINGS, TEMPLATES

    return list(SETTINGS) if template in TEMPLATES else ["english"]


def codes_of(text: str) -> list[str]:
    """Return what a text lists by comma."""
    return [code for part in text.split(",") if (code := part.strip())]


def print_json(value: object) -> None:
    """Print a value as JSON."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table; columns without names are facts with their values."""
    columns = list(columns)
    table = Table(
        title=escape(title),
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        show_header=any(columns),
    )
    for index, column in enumerate(columns):
        table.add_column(escape(column), no_wrap=index == 0, overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    out.print(table)
