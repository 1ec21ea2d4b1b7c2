"""The jobs of a batch: which notebook runs with which parameters, why, and what it has to capture.

Nothing here runs a model or a notebook; of a notebook, its cells with the tags "parameters",
"study" and "question" are read.
"""

import contextlib
import hashlib
import io
import json
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from dysem_lab.batch.cells import defaults, notebooks, read_cells, tagged
from dysem_lab.batch.seeds import folder_of
from dysem_lab.data.sts import languages_among
from dysem_lab.digests import code_digest, file_digest
from dysem_lab.errors import InputError, choices
from dysem_lab.inputs import path_of
from dysem_lab.models.embedded import EMBEDDED
from dysem_lab.models.loading import source_digest
from dysem_lab.models.names import check_name, local_path
from dysem_lab.models.store import Space
from dysem_lab.questions import saving
from dysem_lab.questions.needs import Ask, Need, Planned, planning

EXECUTED = "executed"  # folder of executed notebooks, logs and stamps inside the output folder
LISTS_OR_NONE = ("tasks", "transfer_tasks")  # parameters of notebooks
TEXTS = ("x", "y", "z")  # likewise; figures are named by them
LONGEST_NAME = 200  # bytes of a job's; a file system allows 255, suffix included
SOURCES = ("demo", "stsb", "hub")  # of `load_data`, whatever folders are here
ELSEWHERE = "…/"  # before the last part of a path, all that a record has of it


@dataclass(frozen=True)
class Job:
    """One notebook with one set of parameters.

    Attributes:
        notebook: The parameterised notebook.
        parameters: Every parameter, the defaults of the notebook included; ``out`` is not one.
        out: Folder that gets the figures.
        other_languages: Whether the data do not have all languages that the notebook comes with, so
            that the parameter has others.
    """

    notebook: Path
    parameters: Mapping[str, object]
    out: Path
    other_languages: bool = False

    @property
    def name(self) -> str:
        """Notebook and what tells its figures' files, or their folder, from others."""
        given: dict[str, Any] = {key: value for key, value in self.parameters.items() if value}
        values = [given[key] for key in ("model", "data") if key in given]
        for tasks in (given[key] for key in LISTS_OR_NONE if key in given):
            values.append(f"{len(tasks)}-tasks" if len(tasks) > 1 else tasks[0])
        values += [given["split"]] if given.get("split", "test") != "test" else []
        values += [given[key] for key in ("language", "pairs", "sample") if key in given]
        values += [f"seed-{given['seed']}"] if "seed" in given else []
        if texts := [given[key] for key in TEXTS if key in given]:
            values.append(hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:8])
        name = "_".join([self.notebook.stem, *(Path(str(value)).name for value in values)])
        encoded = name.encode(errors="replace")
        if len(encoded) <= LONGEST_NAME:
            return name
        digest = hashlib.sha256(encoded).hexdigest()[:8]
        return f"{encoded[: LONGEST_NAME - 9].decode(errors='ignore')}-{digest}"

    @property
    def made_by(self) -> dict[str, object]:
        """What makes the same figures again, on any machine; of a path it has the last part alone.

        Such a value begins with `ELSEWHERE`. ``folder`` is there for another seed's figures.
        """
        parameters = {name: _on_any_machine(value) for name, value in self.parameters.items()}
        folder = folder_of(self.out)
        return {
            "notebook": self.notebook.stem,
            "parameters": parameters,
            **({"folder": folder} if folder else {}),
        }

    @property
    def stamp(self) -> Path:
        """The file that says what the job's figures were made from."""
        return self.out / EXECUTED / f"{self.name}.json"

    @property
    def executed(self) -> Path:
        """The executed copy of the notebook."""
        return self.out / EXECUTED / f"{self.name}.ipynb"

    @property
    def log(self) -> Path:
        """What papermill and the kernel printed."""
        return self.out / EXECUTED / f"{self.name}.log"

    def inputs(self) -> dict[str, object]:
        """Return everything that the figures depend on.

        The notebook's cells, the parameters, data, model weights and this package's code, and
        whether there is a browser for PNG files.
        """
        cells = read_cells(self.notebook)
        sources = json.dumps([(cell.cell_type, cell.source) for cell in cells])
        return {
            "notebook": hashlib.sha256(sources.encode()).hexdigest(),
            "parameters": dict(self.parameters),
            "data": self.digests_of_data,
            "model": source_digest(str(self.parameters["model"])),
            "code": code_digest(),
            "PNG export": saving.find_browser() is not None,
        }

    @cached_property
    def _made(self) -> dict[str, Any]:
        """What the notebook's cells make of its parameters, and what its questions ask.

        The cells with the tags "study" and "question" are run here on their own; a question ends
        once it has said what it needs. Parameters that they refuse leave only the ``error``: the
        notebook will fail on them as well.
        """
        namespace: dict[str, Any] = dict(self.parameters)
        try:
            with contextlib.redirect_stdout(io.StringIO()), planning() as asked:
                for source in tagged(self.notebook, "study"):
                    exec(compile(source, str(self.notebook), "exec"), namespace)
                for source in tagged(self.notebook, "question"):
                    with contextlib.suppress(Planned):
                        exec(compile(source, str(self.notebook), "exec"), namespace)
        except Exception as error:
            return {"error": error}
        return {"asked": asked}

    @property
    def problem(self) -> str:
        """Why the notebook is bound to fail, as far as its study tells; "" where nothing does."""
        error = self._made.get("error")
        return "" if error is None else f"{type(error).__name__}: {error}"

    @property
    def runs_the_model(self) -> bool:
        """Whether cells run the model besides the capture, which no plan counts."""
        return any(ask.runs_the_model for ask in self._asked)

    @property
    def digests_of_data(self) -> list[str]:
        """The digest of each data set that its questions read."""
        return list(dict.fromkeys(digest for ask in self._asked for digest in ask.digests))

    @property
    def _asked(self) -> list[Ask]:
        return self._made.get("asked", [])

    @property
    def vectors(self) -> list[Need]:
        """The vectors that the notebook needs."""
        return [need for ask in self._asked for need in ask.needs]

    @property
    def n_texts(self) -> int:
        """How many prompts these vectors are of."""
        return sum(len(unique) for need in self.vectors for *_, unique in need.groups())

    def why(self) -> str:
        """Return why the job has to run, or "" if it is up to date."""
        try:
            stamp = json.loads(self.stamp.read_text(encoding="utf-8"))
            before, files = dict(stamp["inputs"]), dict(stamp["files"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):  # none, or none of ours
            return "not made yet"
        now = json.loads(json.dumps(self.inputs()))
        if changed := [name for name in now if before.get(name) != now[name]]:
            return f"changed: {', '.join(changed)}"
        for name, digest in files.items():
            file = self.out / str(name)
            try:
                if not file.is_file():
                    return f"{name} is gone"
                if file_digest(file, "sha256", remembered=False) != digest:
                    return f"{name} was changed"
            except OSError as error:
                return f"{name} cannot be read ({error.strerror})"
        return ""


def plan(
    models: Sequence[str],
    data: str,
    out: str | Path,
    *,
    only: Sequence[str] = (),
    parameters: Mapping[str, object] | None = None,
) -> list[Job]:
    """Return the jobs of a batch: each notebook for each model.

    Args:
        models: Names for `dysem_lab.load_model`; empty leaves each notebook its own.
        data: Source for `dysem_lab.load_data`. Of the languages that a notebook comes with, it
            keeps those that the data have; what is given in ``parameters`` stays as it is.
        out: Output folder.
        only: Notebook names, or their beginnings; empty is all.
        parameters: Values for notebook parameters; a notebook that lacks one keeps its own. Where
            it is a list, a single value stands for a list of one.

    Raises:
        InputError: An unknown model or notebook, a parameter that no notebook has or whose value is
            of another kind than the notebook's own, a notebook without a parameters cell, or two
            models whose files would have the same names.
        ModelError: As for `dysem_lab.models.names.check_name`.
    """
    given = dict(parameters or {})
    for name in ("data", "out"):
        if name in given:
            raise InputError(f"{name!r} is no notebook parameter here; give --{name}")
    if "model" in given:
        if models:
            raise InputError("the model is given both by --model and by -p model; leave one out")
        models = [given["model"]]  # type: ignore[list-item]
    for model in models:
        check_name(model)
    available = notebooks()
    for name in only:
        if not any(stem.startswith(name) for stem in available):
            raise choices("notebook", name, available)
    chosen = {
        stem: path for stem, path in available.items() if not only or stem.startswith(tuple(only))
    }
    given["data"] = _resolved(data, "data", SOURCES)
    own_of = {stem: defaults(path) for stem, path in chosen.items()}
    unknown = set(given) - {"data"} - set().union(*own_of.values())
    if unknown:
        known = sorted(set().union(*own_of.values()) - {"data", "out"})
        raise choices("notebook parameter", sorted(unknown)[0], known)
    jobs = []
    found = [_resolved(model, "model", EMBEDDED) for model in models]
    for of_model in [{"model": model} for model in found] or [{}]:
        for stem, path in chosen.items():
            own = own_of[stem]
            used = {
                name: _fitting(name, value, own[name])
                for name, value in {**given, **of_model}.items()
                if name in own
            }
            merged = {name: value for name, value in {**own, **used}.items() if name != "out"}
            own_languages = merged.get("languages")
            if own_languages and "languages" not in used and not merged.get("translator"):
                merged["languages"] = _languages_of_data(merged)
            others = merged.get("languages") != own_languages
            jobs.append(Job(path, merged, Path(out), others))
    _check_names(jobs)
    return jobs


def _languages_of_data(parameters: Mapping[str, Any]) -> list[str]:
    """Return the languages for a notebook that lets the data choose among its own.

    Where the data have but one the notebook keeps its own, and says which there are.
    """
    own, split = parameters["languages"], parameters.get("split", "test")
    try:
        found = languages_among(parameters["data"], parameters.get("tasks"), split, own)
    except InputError:  # of the source or a task; the notebook says so
        return own
    return found if len(found) > 1 else own


def _resolved(name: str, what: str, known: Collection[str]) -> str:
    """Return a name, as an absolute path where it is one on this machine and no known name."""
    path = path_of(name, what)
    return str(path.resolve()) if name not in known and path.exists() else name


def _on_any_machine(value: object) -> object:
    """Return a parameter's value; of a path on this machine the last part, marked as such."""
    if isinstance(value, str) and Path(value).name != value and local_path(value) is not None:
        return f"{ELSEWHERE}{Path(value).name}"
    return value


def _fitting(name: str, value: object, own: object) -> object:
    """Return a value for a parameter, once it is of the kind of the notebook's own.

    A single value is a list of one where the notebook has a list.
    """
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(own, list) or (name in LISTS_OR_NONE and value is not None):
        value = value if isinstance(value, list) else [value]
        only_numbers = isinstance(own, list) and own and all(map(_is_number, own))
        kind = "numbers in a list" if only_numbers else "a list of strings or numbers"
        fits = all(
            _is_number(each) or (isinstance(each, str) and not only_numbers) for each in value
        )
    elif _is_number(own):
        kind, fits = "a number", _is_number(value)
    elif isinstance(own, str):
        kind, fits = "a string", isinstance(value, str) or _is_number(value)
    elif isinstance(own, dict):
        kind, fits = (
            "a mapping of strings",
            isinstance(value, dict)
            and all(isinstance(part, str) for pair in value.items() for part in pair),
        )
    else:
        kind = "a number, a string or a list of these"
        parts = value if isinstance(value, list) else [value]
        fits = all(
            part is None or isinstance(part, str | bool) or _is_number(part) for part in parts
        )
    if not fits:
        raise InputError(
            f"notebook parameter {name!r} must be {kind}, such as {own!r}, got {value!r:.200}"
        )
    return value


def _is_number(value: object) -> bool:
    """Whether a value is a number that JSON has."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _check_names(jobs: Sequence[Job]) -> None:
    """Raise an error where two jobs would write the same files."""
    of_name: dict[str, Job] = {}
    for job in jobs:
        other = of_name.setdefault(saving.slug(job.name), job)  # as in the names of figures
        if other is not job:
            raise InputError(
                f"models {other.parameters['model']!r} and {job.parameters['model']!r} would both "
                f"write {job.name}: name a model once, and give folders names of their own"
            )


@dataclass(frozen=True)
class JobNeed:
    """What a job still has to capture, over what the jobs before it will have captured."""

    job: Job
    plans: list[tuple[Need, pd.DataFrame]]  # the vectors that it needs, with their plans

    @property
    def passes(self) -> int:
        """Forward passes."""
        return sum(int(plan["passes"].sum()) for _, plan in self.plans)

    @property
    def megabytes(self) -> float:
        """Disk that the vectors will take; NaN where that is not known before a model loads."""
        return sum(float(plan["megabytes"].sum(skipna=False)) for _, plan in self.plans)


def needs(jobs: Sequence[Job]) -> list[JobNeed]:
    """Return what each job has to capture, in the order that makes no text run twice.

    Those who want every layer come first: their passes give the sums as well.
    """
    asked = [(job, job.vectors) for job in jobs]
    asked.sort(key=lambda pair: not any(need.reads_each for need in pair[1]))
    planned: defaultdict[tuple[str, str], set[tuple[str, Space]]] = defaultdict(set)
    return [
        JobNeed(
            job,
            [(need, need.plan(planned[need.study.name, need.study.dtype])) for need in of_job],
        )
        for job, of_job in asked
    ]
