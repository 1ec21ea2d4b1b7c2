"""A capture of any number of texts into shards, by one process or by the workers of a Ray cluster.

The list of shards is fixed by the input, and a shard that exists is done: whoever is killed, the
same call makes what is missing. Ray restarts lost workers and gives them their shard again.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import xxhash

from dysem_lab.cluster import texts
from dysem_lab.cluster.pool import connected, errors_of, hired, pooled, share_of
from dysem_lab.cluster.shards import (
    Manifest,
    n_shards,
    other_capture,
    read_manifest,
    read_shard,
    remove_parts,
    require_same,
    require_writable,
    write_manifest,
    write_shard,
)
from dysem_lab.cluster.texts import Rows
from dysem_lab.errors import DataError, InputError, ModelError, some_of
from dysem_lab.inputs import at_least, one_of
from dysem_lab.models.capture import capture
from dysem_lab.models.lens import LensModel
from dysem_lab.models.loading import load_model, require_found, resolve_device, size_of
from dysem_lab.models.names import check_name, local_path
from dysem_lab.models.passes import MAX_TOKENS
from dysem_lab.models.places import Blocks, places
from dysem_lab.models.record import row_shape
from dysem_lab.prompts import template_parts, wrap
from dysem_lab.retrieval.identity import VECTORS

ENGINES = ("local", "ray")
CONFIGURATIONS = ("config.json", "adapter_config.json")  # one of which a model's folder has

Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Request:
    """What is captured, of which texts, into which folder.

    Attributes:
        texts: A file or a pattern of files, parquet or JSON lines, at any fsspec address.
        columns: Language → column of its texts.
        folder: An fsspec address that all workers write to.
        ids: Column of the ids; "" is the file's name and the row.
        model: As for `dysem_lab.load_model`, by every worker.
        dtype: Likewise.
        components: As for `dysem_lab.capture`.
        layers: Likewise.
        template: As for `dysem_lab.prompts.wrap`.
        setting: Likewise.
        rows: Texts of a shard: what a lost worker does again, and what is in memory.
    """

    texts: str
    columns: dict[str, str]
    folder: str
    ids: str = ""
    model: str = "gemma-3-270m"
    dtype: str = "auto"
    components: tuple[str, ...] = ("attn",)
    layers: Blocks = "sum"
    template: str = "prompteol"
    setting: str = "language-specific"
    rows: int = 4096

    def checked(self) -> "Request":
        """Return the request with addresses that every process understands.

        Raises:
            InputError: A name that does not exist, a block that the model does not have as far as
                that is known before it is loaded, no rows, or an address that cannot be reached.
            ModelError: As for `dysem_lab.models.names.check_name`, or a folder of no model.
        """
        wanted = places(self.components, self.layers)
        at_least(self.rows, 1, "rows")
        for code in self.columns:
            template_parts(self.template, self.setting, code)
        resolve_device(dtype=self.dtype)
        check_name(self.model)
        path = local_path(self.model)
        if path and path.is_dir() and not any((path / name).is_file() for name in CONFIGURATIONS):
            raise ModelError(f"{path} has no config.json; give the folder of a model")
        if isinstance(self.layers, int) and (size := size_of(self.model)):
            for place in wanted:
                place.check(size[0])
        return dataclasses.replace(
            self,
            texts=texts.absolute(self.texts),
            folder=texts.absolute(self.folder),
            model=str(path.resolve()) if path else self.model,
        )

    @property
    def said(self) -> dict[str, Any]:
        """What the shards are of, as far as that is known before the model is."""
        return {
            "template": self.template,
            "setting": self.setting,
            "languages": list(self.columns),
            "max_tokens": MAX_TOKENS,
            "rows": self.rows,
            "vectors": VECTORS,
        }

    def check_folder(self) -> None:
        """Raise an error where the folder is known to be of another capture, or is damaged."""
        there = read_manifest(self.folder)
        if there is None:
            return
        asked = {**self.said, "shapes": sorted(map(str, places(self.components, self.layers)))}
        if self.dtype != "auto":
            asked["dtype"] = self.dtype
        of = {"vectors": 1, **there, "shapes": sorted(there.get("shapes", ())), **there["model"]}
        require_same({name: of.get(name) for name in asked}, asked, self.folder)

    def read(self) -> Iterator[Rows]:
        """Yield the rows of one shard after the other."""
        return texts.rows(self.texts, self.columns, self.ids, self.rows)


class Worker:
    """What makes shards: it holds the model, which is loaded on first use."""

    def __init__(self, request: Request) -> None:
        """Take the request, so that a worker that is made again knows it."""
        self.request = request

    @cached_property
    def lens(self) -> LensModel:
        """The model."""
        return load_model(self.request.model, dtype=self.request.dtype)

    def manifest(self) -> Manifest:
        """Return what the shards are of, but for the texts."""
        from dysem_lab import __version__

        request, shapes = self.request, {}
        for place in places(request.components, request.layers):
            place.check(self.lens.n_layers)
            shapes[str(place)] = list(row_shape(self.lens, place))
        self.lens.check_own_pass()
        return {
            "model": dataclasses.asdict(self.lens.facts),
            "shapes": shapes,
            **request.said,
            "made_by": f"dysem-lab {__version__}",
        }

    def make(self, manifest: Manifest, number: int, rows: Rows) -> str:
        """Make a shard unless it is there, whole; return "made", "there", or what was damaged."""
        outcome = "made"
        try:
            read_shard(self.request.folder, manifest, number)
            return "there"
        except FileNotFoundError:
            pass
        except DataError as error:
            outcome = str(error)
        request, vectors = self.request, {}
        for code, column in rows.texts.items():
            prompts = wrap(column, request.template, request.setting, code)
            read = capture(self.lens, prompts, request.components, request.layers, progress=False)
            for place in places(request.components, request.layers):
                vectors[code, str(place)] = read[place.component]
        write_shard(request.folder, manifest, number, rows, vectors)
        return outcome


Task = tuple[Manifest, int, Rows]
Crew = tuple[list[Manifest], Callable[[Iterable[Task]], Iterator[str]]]


def capture_shards(
    request: Request,
    engine: str = "local",
    n_workers: int | None = None,
    report: Report | None = None,
) -> Manifest:
    """Make the shards of a capture that are not there yet, and return what they are of.

    All texts are read once before the model is: a row without words, or an id that is there twice,
    ends the job before it begins. So does a model that is not to be found, or a folder that cannot
    be written to.

    Args:
        request: What is captured.
        engine: "local" is this process; "ray" the cluster that ``RAY_ADDRESS`` names or that runs
            on this machine, else one of this machine's cores.
        n_workers: Of Ray; None is one for each GPU or, where there is none, for each machine.
        report: Called with the shards done, all shards, and what `Worker.make` returned.

    Raises:
        InputError: As for `Request.checked` and `texts.rows`; ids that are there twice; or the
            folder has shards of another model, prompt, place, input or version, which are named.
        DataError: As for `texts.rows`, or the folder cannot be written to.
        ModelError: As for `dysem_lab.load_model` and `dysem_lab.capture`; Ray is not installed; a
            worker was lost whenever it made a certain shard; workers' models differ.
    """
    one_of(engine, ENGINES, "engine")
    request = request.checked()
    request.check_folder()
    crew = _here
    if engine == "ray":
        ray = connected()
        share_of(ray, n_workers)  # too many are refused before all texts are read
        crew = partial(_on_ray, ray, n_workers)
    else:
        require_found(request.model)  # of Ray, the workers may reach a hub that this one does not
    require_writable(request.folder)
    n_texts, digest, seen = 0, xxhash.xxh3_64(), set[str]()
    for rows in request.read():
        if request.ids:  # without a column they differ
            _require_different(rows.ids, seen, request)
        n_texts += len(rows.ids)
        digest.update(rows.digest.encode())
    if not n_texts:
        raise DataError(f"{request.texts} has no rows; give it texts")
    (manifest, *others), made = crew(request)
    if differs := next(filter(None, (other_capture(other, manifest) for other in others)), ""):
        raise ModelError(
            f"workers do not have the same {request.model!r} ({differs}); give all machines the "
            "same files and version, and name the --dtype"
        )
    manifest |= {"texts": request.texts, "n_texts": n_texts, "digest": digest.hexdigest()}
    write_manifest(request.folder, manifest)
    tasks = ((manifest, number, rows) for number, rows in enumerate(request.read()))
    for done, outcome in enumerate(made(tasks), 1):
        if report is not None:
            report(done, n_shards(manifest), outcome)
    remove_parts(request.folder)
    return manifest


def _require_different(ids: Iterable[str], seen: set[str], request: Request) -> None:
    """Raise `InputError` where ids were seen before; then they all were."""
    twice = []
    for name in ids:
        if name in seen:
            twice.append(repr(name))
        seen.add(name)
    if twice:
        raise InputError(
            f"{request.texts} has ids twice in its column {request.ids}: {some_of(twice)}; give a "
            "column whose values differ with --ids, or leave --ids out"
        )


def _here(request: Request) -> Crew:
    """Return a crew of one, in this process."""
    worker = Worker(request)
    return [worker.manifest()], lambda tasks: (worker.make(*task) for task in tasks)


def _on_ray(ray: Any, n_workers: int | None, request: Request) -> Crew:
    """Return a crew of actors, each with a model."""
    workers = hired(ray, n_workers, Worker, request)
    with errors_of(ray):
        manifests = ray.get([worker.manifest.remote() for worker in workers])
    return manifests, partial(pooled, ray, workers)
