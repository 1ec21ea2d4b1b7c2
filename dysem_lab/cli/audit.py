"""`dysem-lab audit`: every control beside DySem, and a page of words."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dysem_lab.cli.terminal import (
    Data,
    Dtype,
    Json,
    K,
    Model,
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


def audit(
    model: Model = "gemma-3-270m",
    data: Data = "demo",
    task: Task = "",
    split: Split = "test",
    languages: Annotated[
        str,
        typer.Option(
            help="Codes of the consensus, by comma.",
            show_default="those of en,ja,ru that the data have",
        ),
    ] = "",
    templates: Annotated[
        str,
        typer.Option(help="DySem's prompt, and others that stand in the place of languages."),
    ] = "prompteol,pretended_cot,knowledge",
    setting: Annotated[str, typer.Option(help="english or language-specific.")] = (
        "language-specific"
    ),
    component: Annotated[str, typer.Option(help="attn, ffn, resid, attn_raw or final.")] = "attn",
    k: K = "0.25",
    fit: Annotated[
        str, typer.Option(help="Other texts to fit on, as for --data; scored ones are left out.")
    ] = "demo",
    fit_split: Annotated[str, typer.Option(help="test or dev, of the texts to fit on.")] = "test",
    random_weights: Annotated[
        bool,
        typer.Option(
            "--random-weights",
            help="Also read a model of this shape that was never trained: as many passes again.",
        ),
    ] = False,
    contrast_layer: Annotated[
        int | None,
        typer.Option(
            "--contrast-layer",
            min=0,
            help="Also read Contrastive Prompting, its contrast at this block (0-based).",
        ),
    ] = None,
    alpha: Annotated[float, typer.Option(help="Of that contrast's norm scaling.")] = 2.0,
    paraphrases: Annotated[
        str,
        typer.Option(
            help="File or folder with columns en, en-1, en-2, … of these texts; else the demo set's"
            " on its own texts."
        ),
    ] = "",
    rotations: Annotated[int, typer.Option(min=1, help="Draws of everything random.")] = 20,
    pairs: Pairs = None,
    sample: Sample = None,
    seed: Annotated[int, typer.Option(min=0, help="Of sample, draws and intervals.")] = 0,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Also write PNG, HTML, CSV and JSON there.")
    ] = None,
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Put every control beside DySem, and say which part of its gain remains."""
    from dysem_lab.data.sts import TASKS, languages_among, load_data
    from dysem_lab.models.names import check_name

    # Whatever can be wrong is said before a model is loaded; names, before torch is imported.
    kept = number(k)
    for each in (split, fit_split):
        one_of(each, SPLITS, "split")
    if task:
        one_of(task, TASKS, "task")
    check_name(model)
    codes = codes_of(languages) or languages_among(data, [task] if task else None, split)

    from dysem_lab.models.steering import Contrast
    from dysem_lab.questions.audit import audit as ask
    from dysem_lab.questions.study import Study
    from dysem_lab.questions.verdict import verdict

    contrast = None if contrast_layer is None else Contrast(contrast_layer, alpha=alpha)
    if (data, split) == (fit, fit_split) and pairs is sample is None:
        sample = len(load_data(data, task or None, split)) // 2
        err.print(f"half of the pairs are scored ({sample}); the fit is on the other texts")
    drawn = {"split": split, "pairs": pairs, "sample": sample, "seed": seed}
    prompts: dict[str, Any] = {"templates": codes_of(templates), "settings": setting, **drawn}
    study = Study(model, data, task or None, codes, dtype=dtype, **prompts)
    fresh = study.untrained(seed) if random_weights else None
    for pairs_of in study.data.values():
        err.print(pairs_of, highlight=False, markup=False)
    finding = ask(
        study,
        codes,
        component=component,
        k=kept,
        fit=fit,
        fit_split=fit_split,
        n_rotations=rotations,
        contrast=contrast,
        random_weights=fresh,
        paraphrases=paraphrases or None,
        seed=seed,
    )
    page = verdict(finding.table)
    if folder is not None:
        for path in finding.save(folder).values():
            err.print(f"wrote {path}", highlight=False, markup=False)
    if as_json:
        controls = json.loads(finding.table.to_json(orient="records"))
        print_json({**finding.facts.record(), "verdict": page, "controls": controls})
        return
    out.print(f"{finding.facts}\n\n{page}", highlight=False, markup=False, soft_wrap=True)
