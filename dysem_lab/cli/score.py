"""`dysem-lab evaluate`: scores on sentence pairs, the leaderboard, published numbers."""

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dysem_lab.cli.compare import translator_named
from dysem_lab.cli.terminal import (
    Data,
    Dtype,
    Json,
    Split,
    Template,
    codes_of,
    err,
    number,
    out,
    print_json,
    print_table,
    settings_of,
)
from dysem_lab.errors import InputError
from dysem_lab.inputs import one_of
from dysem_lab.translation.translate import check_translator

SPLITS = ("test", "dev")

if TYPE_CHECKING:
    import pandas as pd

    from dysem_lab.questions.main_results import DySemRow
    from dysem_lab.questions.study import Study


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
    split: Split = "test",
    languages: Annotated[
        str,
        typer.Option(
            help="Codes of the consensus, by comma; with a preset, those to choose its m from.",
            show_default="those of en,ja,ru that the data have; with a preset, of the paper's",
        ),
    ] = "",
    k: Annotated[
        str,
        typer.Option(
            "--k",
            help="Dimensions per text: an integer, or a fraction of d.",
            show_default="0.25, which is the paper's 1024 of 4096; with --compare 1024",
        ),
    ] = "",
    template: Template = "prompteol",
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
    seed: Annotated[
        int, typer.Option(min=0, help="Of the sample and the bootstrap intervals.")
    ] = 0,
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Score mean pooling, PromptEOL, h^L, A^L, F^L and DySem on sentence pairs.

    With --methods: every compared system in one table, with what it costs.

    With --compare: mean pooling, PromptEOL and DySem on A^L, each beside its published number. One
    of the paper's models has the settings of its Table 4 (and of the released script, where it has
    others), with languages ranked by their scores on the same pairs, as the paper does.
    """
    from dysem_lab.data.languages import LANGUAGES
    from dysem_lab.data.sts import USUAL_LANGUAGES, languages_among
    from dysem_lab.data.sts_tasks import TASKS
    from dysem_lab.models.names import check_name, preset_ids
    from dysem_lab.prompts import parts_of, template_parts

    # Whatever can be wrong is said before a model is loaded; names, before torch is imported.
    if preset and not compare:
        raise InputError("--preset goes with --compare; to evaluate it by itself, use --model")
    if methods and compare:
        raise InputError("--methods has the published numbers in a block of its own; no --compare")
    if not methods and (translator or output or aggregation != "all"):
        raise InputError("--translator, --format and --aggregation go with --methods")
    if methods and template != "prompteol":
        raise InputError("--template goes without --methods, whose systems name their own prompts")
    if output and as_json:
        raise InputError("give either --format or --json, not both")
    if not methods and len(parts_of(template)) > 1:
        raise InputError(
            f"--template {template} is several prompts, whose mean is one system: --methods "
            f"{template}"
        )
    kept = number(k or ("1024" if compare else "0.25"))
    one_of(split, SPLITS, "split")
    named = [*(task or []), *(codes_of(tasks) if tasks != "all" else ())]
    for each in named:
        one_of(each, TASKS, "task")
    if model:
        check_name(model)
    if preset:
        one_of(preset, preset_ids(), "preset")
    check_translator(translator)
    codes = codes_of(languages)
    for setting in settings_of(template):
        for code in codes or ["en"]:
            template_parts(template, setting, code)

    from dysem_lab.models.loading import DEFAULT_MODEL
    from dysem_lab.questions.main_results import paper_settings
    from dysem_lab.questions.published import N_PAIRS, preset_of
    from dysem_lab.questions.study import Study

    task = [*named, *(N_PAIRS if tasks == "all" else ())] or None
    name = model or preset or DEFAULT_MODEL
    drawn: dict[str, Any] = {"split": split, "pairs": pairs, "sample": sample, "seed": seed}
    drawn["dtype"] = dtype
    if methods:
        board = (codes_of(methods), codes, translator, kept, aggregation)
        _leaderboard(name, data, task, drawn, board, "json" if as_json else output)
        return
    known = (preset or preset_of(name)) if compare else ""
    rows = paper_settings(known) if known else None
    if not codes:
        wanted = LANGUAGES if known else USUAL_LANGUAGES
        codes = languages_among(data, task, split, tuple(wanted)) or ["en"]
    templates, settings = list(dict.fromkeys([template, "none"])), settings_of(template)
    study = _said(Study(name, data, task, codes, templates=templates, settings=settings, **drawn))
    if compare:
        _compare(study, codes, known, rows, kept, seed, as_json)
    else:
        _evaluate(study, codes, kept, seed, as_json)


def _said(study: "Study") -> "Study":
    """Return a study, once its data are named to who watches."""
    for pairs_of in study.data.values():
        err.print(pairs_of, highlight=False, markup=False)
    return study


def _leaderboard(
    model: str,
    data: str,
    tasks: list[str] | None,
    drawn: dict[str, Any],
    settings: tuple[list[str], list[str], str, int | float, str],
    output: str,
) -> None:
    """Print scores and costs of systems, and the published ones in a block of their own."""
    from dysem_lab.data.sts import available_languages
    from dysem_lab.encoders.systems import chosen_names, named_systems, needs_lens
    from dysem_lab.evaluate import AGGREGATIONS
    from dysem_lab.questions.leaderboard import (
        FORMATS,
        published_wide,
        rendered,
        score_systems,
        wide,
    )
    from dysem_lab.questions.leaderboard import published_leaderboard as papers
    from dysem_lab.questions.study import Study
    from dysem_lab.translation.paraphrases import source_for

    names, languages, translator, k, aggregation = settings
    if output:
        one_of(output, FORMATS, "format")
    one_of(aggregation, AGGREGATIONS, "aggregation")
    chosen_names(names, languages or ["en"])  # refuses those that do not exist
    made_by, usual = translator_named(None, translator)
    if made_by is None and not languages:
        named: list[str | None] = [*tasks] if tasks else [None]
        there = [available_languages(data, task, drawn["split"]) for task in named]
        languages = [code for code in ("en", "zh", "fr", "de") if all(code in of for of in there)]
    languages = languages or usual
    study = _said(Study(model, data, tasks, ["en"] if made_by else languages, **drawn))
    lens = study.lens if needs_lens(names) else None
    if lens is not None and output:
        err.print(lens.label, highlight=False, markup=False)
    texts = [text for task in study.data for text in study.texts(task, "en")]
    encoders = named_systems(lens, names, languages, made_by, k, source_for(texts))
    table = score_systems(
        encoders, study.data, store=study.store, aggregation=aggregation, seed=drawn["seed"]
    )
    for row in table[table["note"] != ""].itertuples():
        err.print(f"{row.method}, {row.task}: {row.note}", highlight=False, markup=False)
    if output:
        sys.stdout.write(rendered(table, output))
        return
    ours = (
        f"Spearman × 100{f' of {lens.label}' if lens else ''}; aggregation: {aggregation}; "
        f"DySem in {'/'.join(languages)}{f' by {translator}' if translator else ''}"
    )
    theirs = "Published for LLaMA2-7B; other models, SICK-R of 4,927 or 9,927 pairs"
    paper = published_wide(papers("LLaMA2-7B")).drop(columns=["source"])
    for title, board in ((ours, wide(table)), (theirs, paper)):
        print_table(title, board.columns, board.map(_cell).itertuples(index=False))


def _cell(value: object, form: str = ".2f") -> str:
    """Return a value for people, and nothing of a number that is none."""
    if isinstance(value, float):
        return "" if value != value else format(value, form)
    return str(value)


def _evaluate(
    study: "Study", languages: list[str], k: int | float, seed: int, as_json: bool
) -> None:
    """Print the decomposition of a study."""
    from dysem_lab.questions import decomposition
    from dysem_lab.questions.finding import facts_of

    study.capture(("final", "resid", "attn", "ffn"), progress=not as_json)
    table = decomposition.table(study, languages, k=k, seed=seed)
    if as_json:
        print_json({**_described(study, k, seed), "languages": languages, **_scores(table)})
        return
    columns = ("task", "method", "Spearman", "95 % interval", "#Dim.", "gain over plain")
    rows = [
        (
            row.task,
            row.method,
            f"{row.spearman:.2f}",
            f"{row.low:.1f} to {row.high:.1f}",
            f"{row.n_dims:.1f}",
            _cell(row.gain, "+.1f")
            and f"{row.gain:+.1f} ({row.gain_low:+.1f} to {row.gain_high:+.1f})",
        )
        for row in table.itertuples()
    ]
    title = str(facts_of(study, languages=languages, k=k, seed=seed))
    first = 0 if len(study.data) > 1 else 1
    print_table(title, columns[first:], (row[first:] for row in rows))


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
    from dysem_lab.questions import languages as languages_question
    from dysem_lab.questions import main_results
    from dysem_lab.questions.finding import facts_of
    from dysem_lab.questions.main_results import check_preset, comparison, remarks

    if preset:
        check_preset(study, preset)
    study.capture(("final", "resid", "attn", "ffn"), progress=not as_json)
    ranking = languages_question.table(study, seed=seed) if preset else None
    baselines = list(dict.fromkeys(["none", study.templates[0]]))
    table = comparison(
        main_results.table(
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
        print_json({**described, **_scores(table)})
        return
    print_table(
        str(facts_of(study, k=k, seed=seed)),
        ("method", "task", "m", "#Dim.", "reproduced", "published", "difference"),
        (
            (
                ", ".join(filter(None, (row.method, row.setting, row.vector, row.origin))),
                row.task,
                row.m,
                f"{row.n_dims:.0f}",
                f"{row.reproduced:.2f} ({row.low:.1f} to {row.high:.1f})",
                _cell(row.published) or "none",
                _cell(row.difference, "+.2f"),
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
        "weights": study.model.weights,
        "data": ", ".join(pairs_of.name for pairs_of in data),
        "source": ", ".join(dict.fromkeys(pairs_of.source for pairs_of in data)),
        "k": k,
        "template": study.templates[0],
        "aggregation": "all",
        **study.sampling,
        "seed": seed,
    }


def _scores(table: "pd.DataFrame") -> dict[str, object]:
    return {"scores": json.loads(table.to_json(orient="records"))}
