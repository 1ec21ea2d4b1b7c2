"""The command line: thin doors to the same calls that notebooks make."""

import sys
from typing import NoReturn

import typer
from rich.markup import escape

from dysem_lab.cli.audit import audit
from dysem_lab.cli.capture import capture
from dysem_lab.cli.compare import similarity
from dysem_lab.cli.export import export_explorer
from dysem_lab.cli.index_upkeep import index
from dysem_lab.cli.inspect import doctor, models, store
from dysem_lab.cli.notebooks import lab, notebooks
from dysem_lab.cli.run import figures
from dysem_lab.cli.score import evaluate
from dysem_lab.cli.terminal import err
from dysem_lab.errors import DysemLabError

cli = typer.Typer(
    help="Where in a language model does sentence meaning live?",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command, example in (
    (figures, "dysem-lab figures --data stsb --pairs 600 --only 01 -p k=0.25 -p seed=1"),
    (similarity, "dysem-lab similarity 'It is raining.' 'Rain is falling.' --translator nllb"),
    (
        evaluate,
        "dysem-lab evaluate --data stsb --languages en,ja,ru --pairs 600   or:  "
        "dysem-lab evaluate --preset llama2-7b --compare --data hub --task STSB --task SICKR   or:"
        "  dysem-lab evaluate --methods all --tasks all --data hub --sample 200 --format latex",
    ),
    (audit, "dysem-lab audit --model gemma-3-270m --data stsb --sample 400"),
    (capture, "dysem-lab capture my-shards 's3://bucket/texts/*.parquet' --engine ray"),
    (models, "dysem-lab models --json"),
    (store, "dysem-lab store --prune-model gemma-3-270m --prune-layers each"),
    (doctor, "dysem-lab doctor"),
    (notebooks, "dysem-lab notebooks my-notebooks"),
    (lab, "dysem-lab lab my-notebooks"),
    (
        export_explorer,
        "dysem-lab export-explorer --out my-page --data my-pairs --model gemma-3-270m",
    ),
):
    cli.command(epilog=f"Example:  {example}")(command)
cli.add_typer(index, name="index")


def main() -> None:
    """Run the command line; errors made for people are shown without a traceback."""
    try:
        cli()
    except DysemLabError as error:
        _fail(str(error))
    except ImportError as error:
        _fail(f"{error}; install it with: pip install 'dysem-lab[figures,lab]'")


def _fail(message: str) -> NoReturn:
    err.print(f"[bold red]error:[/] {escape(message)}", highlight=False)
    sys.exit(1)
