"""`dysem-lab figures`: the batch job."""

import ast
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dysem_lab import paths
from dysem_lab.cli.terminal import (
    Engine,
    Json,
    Pairs,
    Workers,
    check_engine,
    err,
    out,
    print_json,
    print_table,
)
from dysem_lab.display import amount
from dysem_lab.errors import InputError

if TYPE_CHECKING:
    from dysem_lab.batch.again import MadeAgain
    from dysem_lab.batch.jobs import Job

WORDS = {"true": True, "false": False, "null": None}  # JSON's, beside Python's own


def figures(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="Several times if wanted; without it, each notebook's own."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="demo, stsb, hub or a folder of STS files.")
    ] = None,
    pairs: Pairs = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Random pairs of each task; -p seed=… chooses them.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Notebook name or its beginning; several times.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Notebooks that run at once.")] = 1,
    folder: Annotated[Path, typer.Option("--out", help="Where the figures go.")] = Path("figures"),
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--parameter", help="name=value for the notebooks; several times."),
    ] = None,
    from_record: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="A figure's .json, or a folder of them: make them again, with all parameters.",
        ),
    ] = None,
    engine: Engine = "local",
    workers: Workers = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run.")] = False,
    as_json: Json = False,
) -> None:
    """Run the figure notebooks and write PNG, HTML, CSV and JSON; skip what is up to date."""
    check_engine(engine, workers)
    from dysem_lab.batch import run as batch
    from dysem_lab.batch.again import again, require_same
    from dysem_lab.batch.jobs import plan
    from dysem_lab.questions.saving import NO_BROWSER, find_browser

    parameters = dict(map(_assignment, parameter or []))
    for name, value in (("pairs", pairs), ("sample", sample)):
        if value is not None and parameters.setdefault(name, value) != value:
            raise InputError(f"--{name} and -p {name} differ; leave one out")
    if from_record is not None:
        if only or pairs is not None or sample is not None:
            raise InputError(
                "--from takes all from the records; give --model, --data and -p for paths alone"
            )
        found = again(from_record, folder, models=model or [], data=data, parameters=parameters)
        planned = found.jobs
        _say_silent(found, from_record)
        require_same(found)
    else:
        planned = plan(
            model or [],
            "demo" if data is None else data,
            folder,
            only=only or [],
            parameters=parameters,
        )
    _say_other_languages(planned)
    if dry_run:
        _dry_run(planned, as_json)
        return

    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description} {task.completed:,.0f} of {task.total:,.0f}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    )
    captured = bar.add_task("texts captured", total=1, visible=False)
    task = bar.add_task("notebooks", total=len(planned))

    tenths_said = 0

    def progress(done: int, total: int) -> None:
        nonlocal tenths_said
        bar.update(captured, completed=done, total=total, visible=done < total)
        if not err.is_terminal and (tenths := 10 * done // total) > tenths_said:
            tenths_said = tenths
            err.print(f"captured {done:,} of {total:,} texts")

    def report(job: "Job", outcome: str, seconds: float) -> None:
        bar.advance(task)
        colour = {"made": "green", "failed": "red"}.get(outcome, "cyan")
        said = f"[{colour}]{outcome:>10}[/]  {escape(job.name)}  {seconds:.0f} s"
        err.print(said, highlight=False)
        if outcome == "failed":
            err.print(batch.failure(job), markup=False, highlight=False)

    try:
        with bar:
            if engine == "ray":
                from dysem_lab.batch.spread import run_spread

                outcomes = run_spread(planned, jobs, report, workers)
            else:
                outcomes = batch.run_batch(planned, jobs, report, progress)
    except KeyboardInterrupt:
        err.print("interrupted; finished figures are kept, the same command makes the rest")
        raise typer.Exit(130) from None
    if find_browser() is None:
        err.print(NO_BROWSER)
    failed = [name for name, outcome in outcomes.items() if outcome == "failed"]
    if as_json:
        print_json(outcomes)
    else:
        out.print(
            f"{len(outcomes) - len(failed)} of {len(outcomes)} notebooks are up to date in "
            f"{escape(str(folder))}"
        )
    if failed:
        raise typer.Exit(1)


def _say_silent(found: "MadeAgain", folder: Path) -> None:
    """Print which records of a folder do not say what made them."""
    if found.silent:
        names = ", ".join(file.relative_to(folder).as_posix() for file in found.silent)
        err.print(
            f"{len(found.silent)} of {amount(found.n_records, 'record')} in {folder} do not say "
            f"how to make them again, and are left as they are: {names}",
            markup=False,
            highlight=False,
        )


def _say_other_languages(planned: list["Job"]) -> None:
    """Print which notebooks run in other languages than they come with."""
    ran_in: dict[str, dict[str, None]] = {}
    for job in planned:
        if job.other_languages:
            codes = ", ".join(job.parameters["languages"])  # type: ignore[arg-type]
            ran_in.setdefault(codes, {})[job.notebook.stem[:2]] = None
    for codes, numbers in ran_in.items():
        err.print(
            f"the data lack languages of notebook {', '.join(numbers)}: in {codes} instead "
            "(-p languages=… gives others)",
            markup=False,
            highlight=False,
        )


def _dry_run(planned: list["Job"], as_json: bool) -> None:
    """Print what a batch would run and why, with its forward passes and the disk they need."""
    from dysem_lab.batch.jobs import needs

    reasons = {job.name: job.why() for job in planned}
    needed = {need.job.name: need for need in needs([job for job in planned if reasons[job.name]])}
    rows = [
        {
            "notebook": name,
            "state": "would fail" if job.problem else "would run" if why else "up to date",
            "why": job.problem or why,
            "passes": needed[name].passes if why else 0,
            "megabytes": _known(needed[name].megabytes) if why else 0.0,
            "runs_the_model": bool(why) and job.runs_the_model,
        }
        for job, (name, why) in zip(planned, reasons.items(), strict=True)
    ]
    if as_json:
        print_json(rows)
        return
    print_table(
        "Batch",
        ("notebook", "state", "why", "forward passes", "MB of disk"),
        (
            (
                *(row["notebook"], row["state"], row["why"]),
                f"{row['passes']:,}{' and its own' if row['runs_the_model'] else ''}",
                "unknown" if row["megabytes"] is None else row["megabytes"],
            )
            for row in rows
        ),
    )
    passes = sum(need.passes for need in needed.values())
    size = _known(sum(need.megabytes for need in needed.values()))
    out.print(
        f"{passes:,} forward passes, {'unknown' if size is None else f'{size:,.1f}'} MB in "
        f"{paths.vectors_path()} "
        "(a text that several notebooks need is counted once; what a notebook runs of its own, "
        "such as a time that it measures, is not counted)",
        markup=False,
    )


def _known(megabytes: float) -> float | None:
    """Return a size, or None where it is NaN: JSON has no NaN."""
    return None if math.isnan(megabytes) else round(megabytes, 1)


def _assignment(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise InputError(f"-p {text!r} is not name=value")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return name, WORDS.get(value, value)  # a plain word, such as english
