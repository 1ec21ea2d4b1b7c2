"""The command line: thin doors to the same calls that notebooks make."""

import ast
import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from dysem_lab import paths
from dysem_lab.errors import DysemLabError, InputError, choices

if TYPE_CHECKING:
    import pandas as pd

    from dysem_lab.analyses.published import DySemRow
    from dysem_lab.analyses.study import Study
    from dysem_lab.batch import Job
    from dysem_lab.translation.translate import Translator

cli = typer.Typer(
    help="Where in a language model does sentence meaning live?",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
WIDE = 160  # columns where nobody watches: pipes and files, whose lines should stay whole


def _console(stderr: bool = False) -> Console:
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=WIDE)


out = _console()
err = _console(stderr=True)

Model = Annotated[
    str, typer.Option("--model", help="Embedded name, preset, hub id, folder, .gguf.")
]
Data = Annotated[str, typer.Option("--data", help="demo, stsb, hub or a folder of STS files.")]
Languages = Annotated[str, typer.Option("--languages", help="Codes of the consensus, by comma.")]
K = Annotated[str, typer.Option("--k", help="Dimensions per text: an integer, or a fraction of d.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


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


def _number(text: str) -> int | float:
    try:
        return float(text) if "." in text or "e" in text.lower() else int(text)
    except ValueError:
        raise InputError(
            f"--k must be an integer or a fraction such as 0.25, got {text!r}"
        ) from None


def _codes(text: str) -> list[str]:
    return [code for part in text.split(",") if (code := part.strip())]


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def _print_table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table; columns without names are facts with their values."""
    columns = list(columns)
    table = Table(
        title=title,
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        show_header=any(columns),
    )
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    out.print(table)


@cli.command(
    epilog="Example:  dysem-lab figures --data stsb --pairs 600 --only 01 -p k=0.25 -p seed=1"
)
def figures(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="Several times if wanted; without it, each notebook's own."),
    ] = None,
    data: Data = "demo",
    pairs: Annotated[int | None, typer.Option(min=1, help="First pairs only.")] = None,
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run.")] = False,
    as_json: Json = False,
) -> None:
    """Run the figure notebooks and write PNG, HTML, CSV and JSON; skip what is up to date."""
    from dysem_lab import batch
    from dysem_lab.figures.saving import NO_BROWSER, find_browser

    parameters = dict(_assignment(text) for text in parameter or [])
    parameters |= {
        name: value for name, value in (("pairs", pairs), ("sample", sample)) if value is not None
    }
    planned = batch.plan(model or [], data, folder, only=only or [], parameters=parameters)
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
        err.print(f"[{colour}]{outcome:>10}[/]  {job.name}  {seconds:.0f} s", highlight=False)
        if outcome == "failed":
            err.print(batch.failure(job), markup=False, highlight=False)

    try:
        with bar:
            outcomes = batch.run_batch(planned, jobs, report, progress)
    except KeyboardInterrupt:
        err.print("interrupted; finished figures are kept, the same command makes the rest")
        raise typer.Exit(130) from None
    if find_browser() is None:
        err.print(NO_BROWSER)
    failed = [name for name, outcome in outcomes.items() if outcome == "failed"]
    if as_json:
        _print_json(outcomes)
    else:
        out.print(
            f"{len(outcomes) - len(failed)} of {len(outcomes)} notebooks are up to date in {folder}"
        )
    if failed:
        raise typer.Exit(1)


def _dry_run(planned: list["Job"], as_json: bool) -> None:
    """Print what a batch would run and why, with its forward passes and the disk they need."""
    from dysem_lab import batch

    reasons = {job.name: job.why() for job in planned}
    needed = {
        need.job.name: need for need in batch.needs([job for job in planned if reasons[job.name]])
    }
    rows = [
        {
            "notebook": name,
            "state": "would run" if why else "up to date",
            "why": why,
            "passes": needed[name].passes if why else 0,
            "megabytes": _known(needed[name].megabytes) if why else 0.0,
        }
        for name, why in reasons.items()
    ]
    if as_json:
        _print_json(rows)
        return
    _print_table(
        "Batch",
        ("notebook", "state", "why", "forward passes", "MB of disk"),
        (
            (
                *(row["notebook"], row["state"], row["why"], f"{row['passes']:,}"),
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
        "(a text that several notebooks need is counted once)"
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
    except (ValueError, SyntaxError):
        return name, value  # a plain word, such as english


@cli.command(
    epilog="Example:  dysem-lab similarity 'It is raining.' 'Rain is falling.' --translator nllb"
)
def similarity(
    a: Annotated[str, typer.Argument(help="A text in English.")],
    b: Annotated[str, typer.Argument(help="Another.")],
    model: Model = "gemma-3-270m",
    languages: Languages = "",
    table: Annotated[
        Path | None,
        typer.Option(
            help="Parallel table: a file with a column, or a folder with a file, per language."
        ),
    ] = None,
    translator: Annotated[
        str,
        typer.Option(
            help="'apertium' (offline), 'nllb', or the hub id or folder of a seq2seq model."
        ),
    ] = "",
    k: K = "1024",
    component: Annotated[str, typer.Option(help="attn, ffn, resid, attn_raw or final.")] = "attn",
    template: Annotated[
        str, typer.Option(help="prompteol, pretended_cot, knowledge, …")
    ] = "prompteol",
    setting: Annotated[
        str, typer.Option(help="english or language-specific.")
    ] = "language-specific",
    vector: Annotated[str, typer.Option(help="mean or source.")] = "mean",
    as_json: Json = False,
) -> None:
    """Compare two texts with DySem, and with the plain cosine beside it.

    Renderings in other languages come from a table or a translator; without either, only English
    is used.
    """
    from dysem_lab.analyses.dysem_analyses import pair_cosine, pair_similarity
    from dysem_lab.encoders.dysem import DySem
    from dysem_lab.models.activations import capture
    from dysem_lab.models.loading import load_model
    from dysem_lab.prompts import wrap

    kept = _number(k)
    made_by, usual = _translator(table, translator)
    codes = _codes(languages) or usual
    lens = load_model(model)
    dysem = DySem(lens, codes, made_by, kept, component, template, setting, vector)
    value, dims = pair_similarity(dysem.encode([a, b]))
    prompts = wrap([a, b], template)
    plain = capture(lens, prompts, component)[component]
    result = {
        "similarity": value.item(),
        "n_dims": dims,
        "plain_cosine": pair_cosine(plain).item(),
        "d_model": lens.d_model,
        "translator": made_by.name if made_by else None,
        **dysem.config,
    }
    if as_json:
        _print_json(result)
        return
    rows = [
        ("DySem similarity", f"{result['similarity']:.4f}"),
        ("on dimensions (#Dim.)", f"{dims:.0f} of {lens.d_model}"),
        (f"plain cosine of {component}, English", f"{result['plain_cosine']:.4f}"),
        ("languages", "/".join(codes)),
        ("model", lens.name),
    ]
    _print_table("", ("", ""), rows)
    if made_by is None:
        err.print("English only: give --translator or --table for a consensus over languages.")


def _translator(table: Path | None, name: str) -> "tuple[Translator | None, list[str]]":
    """Return the translator, and the languages to take when none are named."""
    from dysem_lab.translation.apertium import ApertiumTranslator
    from dysem_lab.translation.translate import NLLB, ParallelTable, Seq2SeqTranslator
    from dysem_lab.translation.translation_cache import CachedTranslator

    if table is not None and name:
        raise InputError("give either --table or --translator, not both")
    if name == "apertium":
        apertium = ApertiumTranslator()
        reached = apertium.targets("en")
        others: list[str] = [code for code in ("es", "fr", "pt") if code in reached]
        return CachedTranslator(apertium), ["en", *(others or ["es"])]  # "es": says what to install
    if table is not None:
        return CachedTranslator(ParallelTable.read(table)), ["en", "ja", "ru"]
    if name:
        model = NLLB if name == "nllb" else name
        return CachedTranslator(Seq2SeqTranslator(model)), ["en", "ja", "ru"]
    return None, ["en"]


@cli.command(
    epilog="Example:  dysem-lab evaluate --data stsb --languages en,ja,ru --pairs 600   or:  "
    "dysem-lab evaluate --preset llama2-7b --compare --data hub --task STSB --task SICKR   or:  "
    "dysem-lab evaluate --methods all --tasks all --data hub --sample 200 --format latex"
)
def evaluate(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="Embedded name, preset, hub id, folder, .gguf.",
            show_default="gemma-3-270m, or the preset",
        ),
    ] = "",
    data: Data = "demo",
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="STS12 … STS16, STSB, SICKR or another form (SICKR-test, STS12-raw, …), for "
            "folders and hub; several times."
        ),
    ] = None,
    tasks: Annotated[str, typer.Option(help="The same by comma; 'all' is the papers' seven.")] = "",
    split: Annotated[str, typer.Option(help="test or dev.")] = "test",
    languages: Annotated[
        str,
        typer.Option(
            help="Codes of the consensus, by comma; with a preset, those to choose its m from.",
            show_default="en,ja,ru; with a preset, all of the paper's that the data have",
        ),
    ] = "",
    k: K = "1024",
    template: Annotated[
        str, typer.Option(help="prompteol, pretended_cot, knowledge, …")
    ] = "prompteol",
    pairs: Annotated[int | None, typer.Option(min=1, help="First pairs of each task only.")] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Random sample of so many pairs of each task.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Put the DySem paper's numbers beside ours.")
    ] = False,
    preset: Annotated[
        str,
        typer.Option(
            help="With --compare: one of the paper's ten models, with its settings; --model then "
            "says where its weights are."
        ),
    ] = "",
    methods: Annotated[
        str,
        typer.Option(
            help="The leaderboard instead: 'all' training-free systems, 'trained' ones, or names "
            "by comma, such as prompteol,metaeol,cp_ns,dysem,minilm."
        ),
    ] = "",
    translator: Annotated[
        str, typer.Option(help="With --methods: renders DySem's languages, as in 'similarity'.")
    ] = "",
    aggregation: Annotated[
        str, typer.Option(help="With --methods, over a task's subsets: all, mean or weighted.")
    ] = "all",
    output: Annotated[
        str, typer.Option("--format", help="With --methods: markdown, latex, csv or json.")
    ] = "",
    seed: Annotated[int, typer.Option(help="Of the sample and the bootstrap intervals.")] = 0,
    as_json: Json = False,
) -> None:
    """Score mean pooling, PromptEOL, h^L, A^L, F^L and DySem on sentence pairs.

    With --methods: every compared system in one table, with what it costs.

    With --compare: mean pooling, PromptEOL and DySem on A^L, each beside its published number. One
    of the paper's models has the settings of its Table 4 (and of the released script, where it has
    others), with languages ranked by their scores on the same pairs, as the paper does.
    """
    from dysem_lab.analyses.published import N_PAIRS, paper_settings, preset_of
    from dysem_lab.analyses.study import Study
    from dysem_lab.data.languages import LANGUAGES
    from dysem_lab.data.sts import available_languages
    from dysem_lab.models.loading import DEFAULT_MODEL

    if preset and not compare:
        raise InputError("--preset goes with --compare; to evaluate it by itself, use --model")
    if methods and compare:
        raise InputError("--methods has the published numbers in a block of its own; no --compare")
    if not methods and (translator or output or aggregation != "all"):
        raise InputError("--translator, --format and --aggregation go with --methods")
    if tasks:
        task = [*(task or []), *(N_PAIRS if tasks == "all" else _codes(tasks))]
    name = model or preset or DEFAULT_MODEL
    if methods:
        drawn = {"split": split, "pairs": pairs, "sample": sample, "seed": seed}
        board = (_codes(methods), _codes(languages), translator, _number(k), aggregation)
        _leaderboard(name, data, task, drawn, board, "json" if as_json else output)
        return
    known = (preset or preset_of(name)) if compare else ""
    rows = paper_settings(known) if known else None
    codes = _codes(languages) or ["en", "ja", "ru"]
    if compare and not languages:
        sources: list[str | None] = [*task] if task else [None]
        there = {code for each in sources for code in available_languages(data, each, split)}
        codes = [code for code in (LANGUAGES if known else codes) if code in there]
    study = Study(
        name,
        data,
        task or None,
        codes,
        templates=list(dict.fromkeys([template, "none"])),
        components=("final", "resid", "attn", "ffn"),
        split=split,
        pairs=pairs,
        sample=sample,
        seed=seed,
    )
    for pairs_of in study.data.values():
        err.print(pairs_of, highlight=False, markup=False)
    if compare:
        _compare(study, codes, known, rows, _number(k), seed, as_json)
    else:
        _evaluate(study, codes, _number(k), seed, as_json)


def _leaderboard(
    model: str,
    data: str,
    tasks: list[str] | None,
    drawn: dict[str, Any],
    settings: tuple[list[str], list[str], str, int | float, str],
    output: str,
) -> None:
    """Print scores and costs of systems, and the published ones in a block of their own.

    Args:
        model: Of the training-free systems.
        data: As for `dysem_lab.load_data`.
        tasks: Names; None is the source's own pairs.
        drawn: Split, pairs, sample and seed.
        settings: Systems, DySem's languages, its translator and k, the aggregation.
        output: A format of `dysem_lab.analyses.leaderboard.FORMATS`; "" is a table for people.
    """
    from dysem_lab.analyses.leaderboard import (
        FORMATS,
        published_wide,
        rendered,
        score_systems,
        wide,
    )
    from dysem_lab.analyses.leaderboard import published_leaderboard as papers
    from dysem_lab.analyses.study import Study
    from dysem_lab.data.sts import available_languages
    from dysem_lab.encoders.systems import named_systems

    names, languages, translator, k, aggregation = settings
    if output and output not in FORMATS:
        raise choices("format", output, FORMATS)
    made_by, usual = _translator(None, translator)
    if made_by is None and not languages:
        sources: list[str | None] = [*tasks] if tasks else [None]
        there = [available_languages(data, task, drawn["split"]) for task in sources]
        languages = [code for code in ("en", "zh", "fr", "de") if all(code in of for of in there)]
    languages = languages or usual
    study = Study(model, data, tasks, ["en"] if made_by else languages, **drawn)
    for pairs_of in study.data.values():
        err.print(pairs_of, highlight=False, markup=False)
    encoders = named_systems(study.lens, names, languages, made_by, k)
    table = score_systems(
        encoders, study.data, store=study.store, aggregation=aggregation, seed=drawn["seed"]
    )
    for row in table[table["note"] != ""].itertuples():
        err.print(f"{row.method}, {row.task}: {row.note}", highlight=False, markup=False)
    if output:
        sys.stdout.write(rendered(table, output))
        return
    board = wide(table)
    _print_table(
        f"Spearman × 100 of {study.name}; aggregation: {aggregation}; "
        f"DySem in {'/'.join(languages)}{f' by {translator}' if translator else ''}",
        board.columns,
        board.map(_cell).itertuples(index=False),
    )
    paper = published_wide(papers("LLaMA2-7B")).drop(columns=["source"])
    _print_table(
        "Published for LLaMA2-7B; other models, SICK-R of 4,927 or 9,927 pairs",
        paper.columns,
        paper.map(_cell).itertuples(index=False),
    )


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.2f}"
    return str(value)


def _evaluate(
    study: "Study", languages: list[str], k: int | float, seed: int, as_json: bool
) -> None:
    """Print the decomposition of a study."""
    from dysem_lab.analyses.dysem_analyses import decomposition
    from dysem_lab.figures.style import facts

    study.capture(progress=not as_json)
    table = decomposition(study, languages, k=k, seed=seed)
    if as_json:
        _print_json({**_described(study, k, seed), "languages": languages, **_scores(table)})
        return
    several = len(study.data) > 1
    columns = ("method", "Spearman", "95 % interval", "#Dim.", "gain over plain")
    rows = [
        (
            *([row.task] if several else []),
            row.method,
            f"{row.spearman:.2f}",
            f"{row.low:.1f} to {row.high:.1f}",
            f"{row.n_dims:.1f}",
            ""
            if row.gain != row.gain
            else f"{row.gain:+.1f} ({row.gain_low:+.1f} to {row.gain_high:+.1f})",
        )
        for row in table.itertuples()
    ]
    title = facts(study, languages=languages, k=k, seed=seed)
    _print_table(title, ("task", *columns) if several else columns, rows)


def _compare(
    study: "Study",
    languages: list[str],
    preset: str,
    rows: "list[DySemRow] | None",
    k: int | float,
    seed: int,
    as_json: bool,
) -> None:
    """Print the main results of a study beside the published ones."""
    from dysem_lab.analyses.dysem_analyses import single_languages
    from dysem_lab.analyses.published import check_preset, comparison, main_results, remarks
    from dysem_lab.figures.style import facts

    if preset:
        check_preset(study, preset)
    study.capture(progress=not as_json)
    ranking = single_languages(study, seed=seed) if preset else None
    baselines = list(dict.fromkeys(["none", study.templates[0]]))
    table = comparison(
        main_results(
            study,
            languages if ranking is None else ranking,
            rows=rows,
            k=k,
            baselines=baselines,
            preset=preset,
            seed=seed,
        )
    )
    said = remarks(table)
    if ranking is not None:
        said.append(
            "Languages are ranked by their scores on the labels that are reported on here, as in "
            "the paper: "
            + "; ".join(
                f"{task} {setting} {'/'.join(part['language'])}"
                for (task, setting), part in ranking.groupby(["task", "setting"], sort=False)
                if len(part) > 1
            )
            + "."
        )
    if as_json:
        described = {**_described(study, k, seed), "preset": preset or None, "remarks": said}
        _print_json({**described, **_scores(table)})
        return
    _print_table(
        facts(study, k=k, seed=seed),
        ("method", "task", "m", "#Dim.", "reproduced", "published", "difference"),
        (
            (
                ", ".join(filter(None, (row.method, row.setting, row.vector, row.origin))),
                row.task,
                row.m,
                f"{row.n_dims:.0f}",
                f"{row.reproduced:.2f} ({row.low:.1f} to {row.high:.1f})",
                "none" if row.published != row.published else f"{row.published:.2f}",
                "" if row.difference != row.difference else f"{row.difference:+.2f}",
            )
            for row in table.astype({"m": "string"}).fillna({"m": ""}).itertuples()
        ),
    )
    for sentence in said:
        out.print(f"• {sentence}", highlight=False, markup=False)


def _described(study: "Study", k: int | float, seed: int) -> dict[str, object]:
    data = study.data.values()
    return {
        "model": study.model.name,
        "data": ", ".join(pairs_of.name for pairs_of in data),
        "source": ", ".join(dict.fromkeys(pairs_of.source for pairs_of in data)),
        "k": k,
        "template": study.templates[0],
        "seed": seed,
    }


def _scores(table: "pd.DataFrame") -> dict[str, object]:
    return {"scores": json.loads(table.to_json(orient="records"))}


@cli.command(epilog="Example:  dysem-lab models --json")
def models(as_json: Json = False) -> None:
    """List the embedded models and the ten models of the DySem paper with its settings."""
    from dysem_lab.models.embedded import EMBEDDED, MANIFEST, converted_folder, installed_files
    from dysem_lab.models.loading import presets

    embedded = [
        {
            "name": model.name,
            "installed": installed_files(model) is not None,
            "converted": (converted_folder(model.sha256) / MANIFEST).is_file(),
            "install": model.install,
            "terms": model.terms,
        }
        for model in EMBEDDED.values()
    ]
    table = presets()
    if as_json:
        _print_json({"embedded": embedded, "presets": table.to_dict(orient="records")})
        return
    _print_table(
        "Embedded (no network needed)",
        ("name", "state", "install", "terms"),
        (
            (
                row["name"],
                "converted" if row["converted"] else "installed" if row["installed"] else "absent",
                row["install"],
                row["terms"],
            )
            for row in embedded
        ),
    )
    _print_table(
        "Presets: the models of the DySem paper (Table 4; m of the released script in brackets)",
        ("name", "hub id", "setting", "vector", "m", "L", "d"),
        (
            (
                row.preset,
                row.hf_id,
                row.setting,
                row.vector,
                row.m if row.m == row.m_in_repo_script else f"{row.m} [{row.m_in_repo_script}]",
                row.n_layers,
                row.d_model,
            )
            for row in table.itertuples()
        ),
    )


@cli.command(epilog="Example:  dysem-lab store --prune-model gemma-3-270m --prune-layers each")
def store(
    file: Annotated[
        Path | None, typer.Option("--file", help="Another store than the user's.")
    ] = None,
    prune_model: Annotated[
        str | None, typer.Option(help="Remove what is of this model: its name or fingerprint.")
    ] = None,
    prune_component: Annotated[
        str | None, typer.Option(help="Remove what is of this component.")
    ] = None,
    prune_layers: Annotated[
        str | None, typer.Option(help="Remove sum or each; with others, what matches all.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Read every row and count the damaged ones.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove damaged rows; the next run makes them again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what the vector store holds, prune it, and check it."""
    from dysem_lab.models.store import VectorStore

    if file is not None and not file.is_file():
        raise InputError(f"no file {file}; --file takes a store that a capture has made")
    kept = VectorStore(file)
    report: dict[str, object] = {"path": kept.path}
    pruned = {"model": prune_model, "component": prune_component, "layers": prune_layers}
    if any(value is not None for value in pruned.values()):
        before = kept.n_bytes
        report["removed_rows"] = kept.prune(**pruned)
        report["megabytes_given_back"] = (before - kept.n_bytes) / 1e6
    damaged = kept.check(repair=repair) if check or repair else 0
    if check or repair:
        report["damaged_rows"] = damaged
        report["repaired"] = repair
    table = kept.contents()
    report["megabytes"] = kept.n_bytes / 1e6
    if as_json:
        _print_json({**report, "contents": table.to_dict(orient="records")})
    else:
        facts = {
            name.replace("_", " "): f"{value:,.1f}" if isinstance(value, float) else value
            for name, value in report.items()
        }
        _print_table("Vector store", ("", ""), facts.items())
        columns = ["model", "dtype", "component", "layers", "precision", "rows"]
        _print_table(
            "",
            (*columns, "MB", "largest relative error"),
            (
                (*row[columns], f"{row['megabytes']:,.1f}", f"{row['error']:.1e}")
                for _, row in table.iterrows()
            ),
        )
    if damaged and not repair:
        raise typer.Exit(1)


@cli.command(epilog="Example:  dysem-lab doctor")
def doctor(as_json: Json = False) -> None:
    """Say what is installed, and which models, data, GPU, browser and translations are seen."""
    import platform

    import torch

    from dysem_lab import __version__
    from dysem_lab.figures.saving import NO_BROWSER, find_browser, library_versions
    from dysem_lab.models.embedded import EMBEDDED, installed_files
    from dysem_lab.translation.apertium import seen_directions

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    data = paths.local_data_dir()
    missing = [model.install for model in EMBEDDED.values() if installed_files(model) is None]
    browser = find_browser()
    facts = {
        "dysem-lab": __version__,
        "python": platform.python_version(),
        **library_versions(),
        "cores": torch.get_num_threads(),
        "GPU": gpu or "none; models run on the CPU in float32",
        "embedded models": "all installed" if not missing else f"missing: {'; '.join(missing)}",
        "cache": paths.cache_dir(),
        f"data ({paths.DATA_VARIABLE})": data
        or "not set; 'stsb' comes from the hub, 'demo' needs none",
        "notebooks": paths.notebooks_dir(),
        "browser for PNG": browser or NO_BROWSER,
        "apertium": seen_directions(),
    }
    if as_json:
        _print_json(facts)
    else:
        _print_table("dysem-lab doctor", ("", ""), facts.items())


if __name__ == "__main__":
    main()
