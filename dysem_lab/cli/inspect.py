"""`dysem-lab models`, `store` and `doctor`: what there is."""

import platform
from pathlib import Path
from typing import Annotated

import typer

from dysem_lab import paths
from dysem_lab.cli.terminal import Json, err, print_json, print_table
from dysem_lab.data.languages import LANGUAGES
from dysem_lab.errors import InputError


def models(as_json: Json = False) -> None:
    """List the embedded models and the ten models of the DySem paper with its settings."""
    from dysem_lab.models.embedded import EMBEDDED, MANIFEST, converted_folder, installed_files
    from dysem_lab.models.loading import presets, resolve_device

    dtype = resolve_device()[1]
    embedded = [
        {
            "name": model.name,
            "installed": installed_files(model) is not None,
            "weights": model.weights(dtype),
            "converted": (converted_folder(model.sha256) / MANIFEST).is_file(),
            "install": model.install,
            "terms": model.terms,
        }
        for model in EMBEDDED.values()
    ]
    table = presets()
    if as_json:
        print_json({"embedded": embedded, "presets": table.to_dict(orient="records")})
        return
    print_table(
        "Embedded (no network needed)",
        ("name", "state", "weights", "install", "terms"),
        (
            (row["name"], _state(row), row["weights"], row["install"], row["terms"])
            for row in embedded
        ),
    )
    m, script = table["m"].astype(str), table["m_in_repo_script"].astype(str)
    shown = table.assign(m=m.where(m == script, m + " [" + script + "]"))
    print_table(
        "Presets: the models of the DySem paper (Table 4; m of the released script in brackets)",
        ("name", "hub id", "setting", "vector", "m", "L", "d"),
        shown[["preset", "hf_id", "setting", "vector", "m", "n_layers", "d_model"]].to_numpy(),
    )


def _state(model: dict[str, object]) -> str:
    return next((state for state in ("converted", "installed") if model[state]), "absent")


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
    prune_unknown: Annotated[
        bool, typer.Option("--prune-unknown", help="Remove what is of models it does not know.")
    ] = False,
    load: Annotated[
        str, typer.Option(help="Take in the vectors of a folder that `dysem-lab capture` wrote.")
    ] = "",
    check: Annotated[
        bool, typer.Option("--check", help="Read every row and count the damaged ones.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove damaged rows; the next run makes them again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what the vector store holds, load shards into it, prune it, and check it."""
    from dysem_lab.models.store import VectorStore

    if file is not None and not file.is_file():
        raise InputError(f"no file {file}; --file takes a store that a capture has made")
    kept = VectorStore(file)
    report: dict[str, object] = {"path": kept.path}
    if load:
        from dysem_lab.cluster.shards import store_shards

        report["prompts_loaded"] = store_shards(load, kept)
    named = {"model": prune_model, "component": prune_component, "layers": prune_layers}
    pruned = [named] if any(value is not None for value in named.values()) else []
    if prune_unknown:
        pruned += [{"model": fingerprint} for fingerprint in kept.unknown()]
    if pruned or prune_unknown:
        before = kept.n_bytes
        report["removed_rows"] = sum(kept.prune(**what) for what in pruned)
        report["megabytes_given_back"] = (before - kept.n_bytes) / 1e6
    damaged = kept.check(repair=repair) if check or repair else 0
    if check or repair:
        report["damaged_rows"] = damaged
        report["repaired"] = repair
    table, unknown = kept.contents(), kept.unknown()
    report["megabytes"] = kept.n_bytes / 1e6
    report["unknown_models"] = unknown
    if as_json:
        print_json({**report, "contents": table.to_dict(orient="records")})
    else:
        facts = {
            name.replace("_", " "): f"{value:,.1f}" if isinstance(value, float) else value
            for name, value in report.items()
            if name != "unknown_models"
        }
        print_table("Vector store", ("", ""), facts.items())
        columns = ["model", "dtype", "component", "layers", "precision", "rows"]
        print_table(
            "",
            (*columns, "MB", "largest relative error"),
            (
                (*row[columns], f"{row['megabytes']:,.1f}", f"{row['error']:.1e}")
                for _, row in table.iterrows()
            ),
        )
        if unknown:
            of_them = table[table["fingerprint"].isin(unknown)]
            err.print(
                f"{of_them['rows'].sum():,} rows ({of_them['megabytes'].sum():,.1f} MB) are of "
                "models that this store does not know: made by an earlier version, say. Nothing "
                "reads them before such a model is loaded again; `dysem-lab store "
                "--prune-unknown` removes them",
                highlight=False,
                markup=False,
            )
    if damaged and not repair:
        raise typer.Exit(1)


def doctor(
    verify: Annotated[
        bool, typer.Option("--verify", help="Hash all files of models anew; say what differs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what is installed, and which models, data, GPU, browser and translations are seen."""
    import os

    import torch

    from dysem_lab import __version__
    from dysem_lab.digests import verify_digests
    from dysem_lab.models.embedded import EMBEDDED, installed_files, verify_models
    from dysem_lab.models.loading import resolve_device
    from dysem_lab.questions.saving import NO_BROWSER, find_browser, library_versions
    from dysem_lab.translation.apertium import reached, seen_directions

    gpu = "none; models are computed on the CPU in float32"
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_name()
    elif torch.backends.mps.is_available():
        gpu = (
            "Apple's, which nothing here was tried on: it is not taken by itself, and with "
            "device='mps' a model passes the load-time checks or is refused"
        )
    data = paths.local_data_dir()
    dtype = resolve_device()[1]
    browser = find_browser()
    facts = {
        "dysem-lab": __version__,
        "python": platform.python_version(),
        **library_versions(),
        "system": _system(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "GPU": gpu,
        **{
            f"embedded {model.name}": model.weights(dtype)
            if installed_files(model)
            else f"missing: {model.install}"
            for model in EMBEDDED.values()
        },
        "cache": _cache(),
        f"data ({paths.DATA_VARIABLE})": "not set; 'stsb' comes from the hub, 'demo' needs none"
        if data is None
        else data
        if data.is_dir()
        else f"{data}, which is no folder",
        "notebooks": paths.notebooks_dir(),
        "browser for PNG": browser or NO_BROWSER,
        "apertium": seen_directions(),
    }
    facts["verdict"] = _verdict(
        models=any(installed_files(model) for model in EMBEDDED.values()),
        folder=data is None or data.is_dir(),
        browser=browser is not None,
        languages=reached(),
    )
    verified = [*verify_models(), *verify_digests()] if verify else []
    if as_json:
        print_json({**facts, "files": verified} if verify else facts)
    else:
        print_table("dysem-lab doctor", ("", ""), facts.items())
    if verify and not as_json:
        rows = ((row["path"], row["state"]) for row in verified)
        print_table("Files of models, hashed anew", ("file", "state"), rows)
    if any(row["state"].startswith("DAMAGED") for row in verified):
        raise typer.Exit(1)


def _system() -> str:
    """Return the operating system, and whether anything here was tried on it."""
    named = f"{platform.system()} {platform.machine()}"
    if platform.system() == "Linux":
        return named
    return (
        f"{named}, which nothing here was tried on: a model passes the load-time checks or is "
        "refused, and each notebook of `dysem-lab figures` starts a process of its own"
    )


def _verdict(*, models: bool, folder: bool, browser: bool, languages: list[str]) -> str:
    """Return in a sentence what works here, and what does not."""
    without = [
        what
        for there, what in (
            (models, "a model that needs no network"),
            (folder, f"the folder that {paths.DATA_VARIABLE} names"),
            (browser, "PNG files of figures"),
            (languages, "renderings of typed sentences, but for those that you type in"),
        )
        if not there
    ]
    lacking = ", ".join(code for code in LANGUAGES if code not in ("en", *languages))
    typed = f"renderings of typed sentences in {', '.join(languages)}"
    if lacking:
        typed += f" (not in {lacking}: type those in, or take --translator nllb)"
    if not without:
        return f"all is here: models, figures with PNG files, {typed}"
    return f"works without: {'; '.join(without)} (see above)" + f"; {typed}" * bool(languages)


def _cache() -> Path | str:
    """Return the cache, or why there is none."""
    try:
        return paths.cache_dir()
    except InputError as error:
        return str(error)
