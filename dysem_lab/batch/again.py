"""Jobs from records: what made the figures of a folder, or one of them, to be made again."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dysem_lab.batch.cells import notebooks
from dysem_lab.batch.jobs import ELSEWHERE, SOURCES, Job, plan
from dysem_lab.batch.seeds import FOLDER, folder_of, records_of_seeds
from dysem_lab.display import amount
from dysem_lab.errors import InputError
from dysem_lab.inputs import one_of, path_of
from dysem_lab.models.loading import source_digest

FOLDER_OF_SEED = re.compile(rf"{FOLDER}/\d+")
OF_A_BATCH = "the .json beside a figure that `dysem-lab figures` has made"


class Recorded(NamedTuple):
    """What a record says that its figure was made from."""

    file: Path
    parameters: dict[str, Any]  # a path by its last part
    data: dict[str, str]  # digest → how the data are called
    model: str  # as from `source_digest`; "" where it is not said


class MadeAgain(NamedTuple):
    """What records name."""

    jobs: list[Job]  # each once, in the order of the notebooks
    n_records: int  # JSON files that were read
    silent: list[Path]  # those of them that do not say what made them
    recorded: list[tuple[Job, Recorded]]  # the others, each with the job that makes it again


def again(
    place: str | Path,
    out: str | Path,
    *,
    models: Sequence[str] = (),
    data: str | None = None,
    parameters: Mapping[str, object] | None = None,
) -> MadeAgain:
    """Return the jobs that made the saved figures of a folder, or one of them, from their records.

    Figures of other seeds, in ``seeds/…`` of a folder, go to the same folders of ``out``. Of a path
    on the machine that made a figure its record has the last part alone. Where that is here, the
    last three arguments say, by paths with the same last part.

    Args:
        place: A figure's ``.json``, or the folder.
        out: Output folder.
        models: Paths of models. For a single figure one model of any kind, in place of its own.
        data: The path of data; for a single figure any source, in place of its own.
        parameters: Paths for other parameters, by their names.

    Raises:
        InputError: No record says how to make it again, one names a path that is not given, what
            is given is the path of none, or as for `dysem_lab.batch.jobs.plan`.
    """
    path = path_of(place, "file or folder")
    is_folder = path.is_dir()
    files = [*sorted(path.glob("*.json")), *records_of_seeds(path)] if is_folder else [path]
    made: dict[str, tuple[Path, dict[str, Any]]] = {}  # by its JSON, so that each job comes once
    recorded: dict[str, list[Recorded]] = {}  # likewise
    silent = []
    for file in files:
        try:
            made_by, of_file = _made_by(file)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            if not is_folder:
                raise InputError(
                    f"{file} does not say how to make it again ({type(error).__name__}: "
                    f"{error!s:.200}); give {OF_A_BATCH}"
                ) from None
            silent.append(file)
        else:
            key = json.dumps(made_by, sort_keys=True)
            made.setdefault(key, (file, made_by))
            recorded.setdefault(key, []).append(of_file)
    if not made:
        raise InputError(
            f"none of {amount(len(files), 'record')} in {path} says how to make it again; a record "
            f"is {OF_A_BATCH}"
        )
    if is_folder:
        here = _Here(models, data, parameters or {})
        chosen = [(file, of, here.completed(of["parameters"])) for file, of in made.values()]
        here.check(path)
    else:
        ((file, of),) = made.values()
        chosen = [(file, of, _replaced(file, of["parameters"], models, data, parameters or {}))]
    jobs = [_job(file, of, values, Path(out)) for file, of, values in chosen]
    named: dict[str, Path] = {}
    for job, (file, *_) in zip(jobs, chosen, strict=True):
        if (other := named.setdefault(job.name, file)) != file:
            raise InputError(
                f"{other} and {file} would both be made by {job.name}; make them one after the "
                "other, each into a folder of its own"
            )
    of_jobs = [(job, of) for job, key in zip(jobs, made, strict=True) for of in recorded[key]]
    in_order = sorted(jobs, key=lambda job: job.notebook.stem)
    return MadeAgain(in_order, len(files), silent, of_jobs)


def require_same(found: MadeAgain) -> None:
    """Refuse other data or another model under the names that records have; no model runs.

    What was given in place of a record's own may be another, and so may all that a record made
    before there were digests names.

    Raises:
        InputError: The digests of the record are not those of what is here.
        ModelError: As for `dysem_lab.models.loading.source_digest`.
    """
    for job, recorded in found.recorded:
        if job.problem:  # the notebook itself ends with that
            continue
        own = {name: _is_own(name, job.parameters[name], recorded) for name in job.parameters}
        model, asked = str(job.parameters["model"]), job.digests_of_data
        other = [
            f"{called or 'data'} had the digest {digest}"
            for digest, called in recorded.data.items()
            if digest not in asked
        ]
        here = [digest for digest in asked if digest not in recorded.data]
        what = differs = ""
        if other and here and all(is_own for name, is_own in own.items() if name != "model"):
            what, differs = "data", f"{'; '.join(other)}; here is {', '.join(here)}"
        elif recorded.model and own["model"]:
            # The first word tells the weights; what a GGUF file is converted to comes after it.
            was, now = (of.split()[0] for of in (recorded.model, source_digest(model)))
            if was != now and "@" not in was + now:  # of the hub, before its files are here
                what, differs = "weights", f"{model} had the digest {was}; here is {now}"
        if what:
            raise InputError(
                f"{recorded.file} was measured on other {what} of the same name: {differs}. Give "
                f"those {what}, or make a new figure, without --from: dysem-lab figures --only "
                f"{job.notebook.stem}"
            )


def _is_own(name: str, value: object, recorded: Recorded) -> bool:
    """Return whether a parameter has a record's own value, or a path that stands for it."""
    was = recorded.parameters.get(name, value)  # a notebook may have got a parameter since
    last = _last_part(name, was)
    return value == was or (bool(last) and Path(str(value)).name == last)


def _made_by(file: Path) -> tuple[dict[str, Any], Recorded]:
    """Return what a record says of the job that made it, and of what it was made from."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        made_by = record["made_by"]
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    folder = str(made_by.get("folder", "")) or folder_of(file.parent)
    if folder and not FOLDER_OF_SEED.fullmatch(folder):
        raise ValueError(f"{folder!r} is no folder of a seed")
    named = {"notebook": str(made_by["notebook"]), "parameters": dict(made_by["parameters"])}
    data, model = record.get("data") or (), record.get("model") or {}
    of_data = {str(one["digest"]): str(one.get("label", "")) for one in data if "digest" in one}
    recorded = Recorded(
        file, dict(named["parameters"]), of_data, str(model.get("source") or "").strip()
    )
    return {**named, "folder": folder}, recorded


def _job(file: Path, made_by: Mapping[str, Any], values: dict[str, Any], out: Path) -> Job:
    """Return the job of a record with all its values, those of paths included."""
    if folder_of(out) != made_by["folder"]:
        out = out / made_by["folder"]
    model, data = values.pop("model", None), values.pop("data", None) or "demo"
    models = [str(model)] if model else []
    try:
        one_of(made_by["notebook"], notebooks(), "notebook")  # `plan` takes its beginning, too
        (job,) = plan(models, str(data), out, only=[made_by["notebook"]], parameters=values)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    return job


def _last_part(name: str, value: object) -> str:
    """Return the last part of a path that a record has instead of it; "" where it has all."""
    if isinstance(value, str) and value.startswith(ELSEWHERE):
        return value.removeprefix(ELSEWHERE)
    # Of before paths were marked.
    return str(value) if name == "data" and value is not None and value not in SOURCES else ""


def _option(name: str, value: str) -> str:
    """Return how the command line is given a parameter."""
    return f"--{name} {value}" if name in ("model", "data") else f"-p {name}={value}"


def _replaced(
    file: Path,
    recorded: Mapping[str, Any],
    models: Sequence[str],
    data: str | None,
    parameters: Mapping[str, object],
) -> dict[str, Any]:
    """Return the values of one record, with those that are given in their places."""
    if len(models) > 1:
        raise InputError(f"a figure has one model, and --model names {', '.join(models)}")
    values = dict(recorded)
    values |= {"model": models[0]} if models else {}
    values |= {"data": data} if data is not None else {}
    for name, value in parameters.items():
        if not _last_part(name, recorded.get(name)):
            raise InputError(
                f"{file} says itself what {name} is; with --from, -p gives paths alone"
            )
        values[name] = value
    for name, value in values.items():
        if last := _last_part(name, value) if value == recorded.get(name) else "":
            raise InputError(
                f"{file} was made from a folder or file named {last!r}; give it with "
                f"{_option(name, 'PATH')}"
            )
    return values


class _Here:
    """Where the paths that records name are on this machine."""

    def __init__(
        self, models: Sequence[str], data: str | None, parameters: Mapping[str, object]
    ) -> None:
        given = [("model", model) for model in models] + [("data", data)] * (data is not None)
        given += [(name, str(value)) for name, value in parameters.items()]
        self.places: dict[tuple[str, str], str] = {}
        for name, value in given:
            last, path = Path(str(value)).name, str(value)
            if (other := self.places.setdefault((name, last), path)) != path:
                raise InputError(
                    f"{other} and {path} could both be the {name} that records call {last!r}; give "
                    "one of them"
                )
        self.used: set[tuple[str, str]] = set()
        self.missing: Counter[tuple[str, str]] = Counter()

    def completed(self, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Return a record's values with the paths; what is missing is noted for `check`."""
        values = dict(recorded)
        for name, value in recorded.items():
            if last := _last_part(name, value):
                if (name, last) in self.places:
                    values[name] = self.places[name, last]
                    self.used.add((name, last))
                else:
                    self.missing[name, last] += 1
        return values

    def check(self, folder: Path) -> None:
        """Raise an error where a path is missing, or one is given that no record names."""
        if self.missing:
            options = ", ".join(
                f"{_option(name, f'PATH/{last}')} ({n})"
                for (name, last), n in sorted(self.missing.items())
            )
            raise InputError(
                f"records in {folder} name folders or files of another machine by their last part; "
                f"say where they are here (of so many notebooks each): {options}"
            )
        for name, last in self.places.keys() - self.used:
            raise InputError(
                f"no record in {folder} names a folder or file {last!r} as its {name}; of a folder "
                "of figures, all else is as the records say"
            )
