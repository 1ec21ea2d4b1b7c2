"""Shards of captured vectors: parquet files in one folder, at any fsspec address.

``capture.json`` says what all shards are of, and each shard says so itself; its columns are ``id``,
``text/en`` and ``vector/en/attn.sum`` for each language and place. A shard is written under another
name and renamed once it is whole; its pages have checksums.
"""

import contextlib
import json
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import xxhash
from jaxtyping import Float
from torch import Tensor

from dysem_lab.cluster.texts import UNREADABLE, Rows, file_system
from dysem_lab.encoders.base import LensEncoder
from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.errors import DataError, InputError
from dysem_lab.models.capture import space_of
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.places import Place, place
from dysem_lab.models.store import VectorStore, prompt_key
from dysem_lab.prompts import Prompt, template_parts, wrap
from dysem_lab.retrieval.identity import differences, require_vectors

MANIFEST = "capture.json"
OURS, SEAL = b"dysem_lab", b"dysem_lab_checksum"  # keys of a shard's metadata

Manifest = dict[str, Any]
Vectors = Mapping[tuple[str, str], Float[Tensor, "n ..."]]  # of (language, place)


def n_shards(manifest: Manifest) -> int:
    """Return how many shards a capture has."""
    return math.ceil(manifest["n_texts"] / manifest["rows"])


def other_capture(there: Manifest, given: Manifest) -> str:
    """Return in words what differs between two captures; "" where nothing does.

    A model is told by its weights, texts by what they are, and the version of this package by the
    vectors that it makes (`dysem_lab.retrieval.identity.VECTORS`), whatever they are called.
    """
    return differences(*map(_identity, (there, given)))


def _identity(manifest: Manifest) -> Manifest:
    model, told = manifest["model"], ("model", "texts", "made_by")
    named = {name: value for name, value in manifest.items() if name not in told}
    return {"model": model["fingerprint"], "dtype": model["dtype"], "vectors": 1, **named}


def _require_vectors(folder: str, manifest: Manifest) -> None:
    require_vectors(manifest, folder, manifest["made_by"], "capture the texts again")


def read_manifest(folder: str) -> Manifest | None:
    """Return what the shards of a folder are of, or None where that is not written down.

    Raises:
        DataError: The file is damaged, or the folder is none.
    """
    files, path = file_system(folder)
    try:
        manifest = json.loads(files.cat_file(f"{path}/{MANIFEST}"))
        _identity(manifest)
        return {**manifest, "rows": int(manifest["rows"]), "n_texts": int(manifest["n_texts"])}
    except FileNotFoundError:
        return None
    except OSError as error:  # the folder is a file, or a store that is out of reach
        raise DataError(f"{folder} cannot be read ({error}); give another folder") from error
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{folder}/{MANIFEST} is damaged ({error}); move it away") from error


def write_manifest(folder: str, manifest: Manifest) -> None:
    """Say what the shards of a folder will be of.

    Raises:
        InputError: They are of something else; names what differs.
        DataError: The folder cannot be written to.
    """
    there = read_manifest(folder)
    if there is not None:
        require_same(_identity(there), _identity(manifest), folder)
        return
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    _write_whole(folder, MANIFEST, lambda file: file.write(text.encode()))


def require_same(there: Manifest, given: Manifest, folder: str) -> None:
    """Raise `InputError` where what a folder says of its shards is not what they are to be."""
    if differs := differences(there, given):
        raise InputError(f"{folder} is another capture ({differs}); give another folder")


def name_of(number: int) -> str:
    """Return the name of a shard's file."""
    return f"shard-{number:08d}.parquet"


def write_shard(folder: str, manifest: Manifest, number: int, rows: Rows, vectors: Vectors) -> None:
    """Write a shard, whole or not at all.

    Raises:
        DataError: The folder cannot be written to.
    """
    import pyarrow as pa
    from pyarrow.parquet import write_table

    columns = {"id": pa.array(rows.ids, pa.string())}
    columns |= {f"text/{code}": pa.array(rows.texts[code], pa.string()) for code in rows.texts}
    for (code, where), tensor in vectors.items():
        values = tensor.numpy().reshape(len(rows.ids), -1)
        columns[f"vector/{code}/{where}"] = pa.FixedSizeListArray.from_arrays(
            pa.array(values.ravel()), values.shape[1]
        )
    said = json.dumps({**manifest, "shard": number})
    table = pa.table(columns).replace_schema_metadata({OURS: said, SEAL: _seal(said, rows)})
    # Mantissas are random: neither compression nor a dictionary makes them smaller.
    options: dict[str, Any] = {"compression": "none", "use_dictionary": False}
    options |= {"write_statistics": False, "write_page_checksum": True}
    _write_whole(folder, name_of(number), lambda file: write_table(table, file, **options))


def _seal(said: str, rows: Rows) -> str:
    """Return the checksum of what a shard says of itself, with its rows."""
    return xxhash.xxh3_64_hexdigest((said + rows.digest).encode())


def read_shard(folder: str, manifest: Manifest, number: int) -> tuple[Rows, Vectors]:
    """Return the rows of a shard and their vectors, once all of it is what was written.

    Raises:
        FileNotFoundError: There is none.
        InputError: It is of another capture; names what differs.
        DataError: It is damaged.
    """
    from pyarrow.parquet import ParquetFile

    files, path = file_system(folder)
    name = f"{path}/{name_of(number)}"
    try:
        with files.open(name, "rb") as file:
            table = ParquetFile(file, page_checksum_verification=True).read()
        text = table.schema.metadata[OURS].decode()
        said = json.loads(text)
        texts = {code: table[f"text/{code}"].to_pylist() for code in said["languages"]}
        rows = Rows(table["id"].to_pylist(), texts)
        if table.schema.metadata[SEAL].decode() != _seal(text, rows) or said.pop("shard") != number:
            raise ValueError("it is not what its checksum is of")
        vectors = {
            (code, where): _tensor(table[f"vector/{code}/{where}"], shape)
            for code in said["languages"]
            for where, shape in said["shapes"].items()
        }
    except FileNotFoundError:
        raise
    except (*UNREADABLE, KeyError, TypeError, RuntimeError, MemoryError) as error:
        raise DataError(
            f"{name} is damaged ({error}); `dysem-lab capture`, as before, makes it again"
        ) from error
    if differs := other_capture(said, manifest):
        raise InputError(f"{name} is of another capture ({differs}); give another folder")
    return rows, vectors


def _tensor(column: Any, shape: list[int]) -> Float[Tensor, "n ..."]:
    return torch.from_numpy(column.combine_chunks().flatten().to_numpy().copy()).reshape(-1, *shape)


def _write_whole(folder: str, name: str, write: Any) -> None:
    """Write a file under a name of its own, and rename it once it is whole."""
    files, path = file_system(folder)
    part = f"{path}/.{name}-{uuid.uuid4().hex[:12]}.part"
    try:
        files.makedirs(path, exist_ok=True)
        with files.open(part, "wb") as file:
            write(file)
        files.mv(part, f"{path}/{name}")
    except OSError as error:
        raise DataError(f"{folder} cannot be written to ({error}); give another folder") from error


def require_writable(folder: str) -> None:
    """Refuse a folder that takes no file, unless all shards are there already.

    Raises:
        DataError: As for `write_manifest`, or as for `read_manifest`.
    """
    files, path = file_system(folder)
    there = read_manifest(folder)
    if there and len(files.glob(f"{path}/shard-*.parquet")) >= n_shards(there):
        return
    is_new = not files.exists(path)
    name = f".{uuid.uuid4().hex[:12]}.part"  # `remove_parts` finds it, should this be killed
    _write_whole(folder, name, lambda file: file.write(b""))
    with contextlib.suppress(OSError):  # some stores have no folders
        files.rm(f"{path}/{name}")
        if is_new:
            files.rmdir(path)


def remove_parts(folder: str) -> None:
    """Remove what killed writers left."""
    files, path = file_system(folder)
    for part in files.glob(f"{path}/.*.part"):
        files.rm(part)


def captured(folder: str) -> Manifest:
    """Return what the shards of a folder are of.

    Raises:
        InputError: There is no capture.
        DataError: As for `read_manifest`.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise InputError(
            f"{folder} has no {MANIFEST}; give a folder that `dysem-lab capture` wrote"
        )
    return manifest


def require_captured(
    folder: str,
    codes: Sequence[str],
    language: str,
    component: str,
    template: str,
    setting: str,
    vector: str,
) -> None:
    """Raise an error where a capture has not what DySem reads; no shard and no model is read.

    Args:
        folder: Of the capture.
        codes: Languages of the consensus.
        language: Of the texts.
        component: As for `dysem_lab.DySem`.
        template: Likewise.
        setting: Likewise.
        vector: Likewise.

    Raises:
        InputError: It is named; or the vectors are those of code that makes others now.
    """
    manifest = captured(folder)
    _require_vectors(folder, manifest)
    there = manifest["languages"]
    if missing := [code for code in dict.fromkeys([*codes, language]) if code not in there]:
        raise InputError(
            f"{folder} has no texts in {', '.join(missing)}, but in {', '.join(there)}; give "
            "languages that were captured"
        )

    def frame(template: str, setting: str, code: str) -> object:
        return template == "none", template_parts(template, setting, code)

    where = str(Place(component))
    read = [*codes, *([language] if vector == "source" else [])]
    captured_so = (manifest["template"], manifest["setting"])
    same = all(frame(template, setting, code) == frame(*captured_so, code) for code in read)
    if where not in manifest["shapes"] or not same:
        raise InputError(
            f"{folder} has no {where} of {template!r}, {setting}, but "
            f"{', '.join(manifest['shapes'])} of {captured_so[0]!r}, {captured_so[1]}; give those, "
            "or capture the texts so"
        )


def shards(folder: str) -> Iterator[tuple[Manifest, Rows, Vectors]]:
    """Yield what each shard of a finished capture holds, one after the other.

    Raises:
        InputError: No capture there, or one that is not finished.
        DataError: A shard is damaged.
    """
    manifest = captured(folder)
    for number in range(n_shards(manifest)):
        try:
            yield manifest, *read_shard(folder, manifest, number)
        except FileNotFoundError:
            raise InputError(
                f"{folder} has no {name_of(number)} yet; `dysem-lab capture`, as before, makes it"
            ) from None


def require_different_ids(folder: str) -> None:
    """Raise `InputError` where a capture has an id twice; vectors and texts are not read.

    A shard that is missing or damaged is passed over: who reads the shards names it.
    """
    from pyarrow.parquet import ParquetFile

    files, path = file_system(folder)
    seen: set[str] = set()
    for number in range(n_shards(captured(folder))):
        ids, shard = [], f"{path}/{name_of(number)}"
        with contextlib.suppress(*UNREADABLE, KeyError), files.open(shard, "rb") as file:
            ids = ParquetFile(file).read(["id"])["id"].to_pylist()
        for name in ids:
            if name in seen:
                raise InputError(
                    f"{folder} has the id {name!r} twice; capture the texts with --ids that "
                    "differ, or without --ids"
                )
            seen.add(name)


def store_shards(folder: str, store: VectorStore) -> int:
    """Write the vectors of a capture into a store, and return of how many prompts.

    Raises:
        InputError: As for `shards`.
        DataError: As for `shards`, or the store cannot be written.
    """
    n = 0
    _require_vectors(folder, captured(folder))
    for manifest, rows, vectors in shards(folder):
        facts = ModelFacts(**manifest["model"])
        store.remember(facts)
        for code, prompts in _prompted(manifest, rows).items():
            of_code = {
                space_of(facts, place(name)): tensor
                for (of, name), tensor in vectors.items()
                if of == code
            }
            store.write(of_code, [prompt_key(prompt, manifest["max_tokens"]) for prompt in prompts])
            n += len(prompts)
    return n


def encoded_shards(
    folder: str, encoder: LensEncoder, language: str = "en"
) -> Iterator[tuple[Rows, SemanticVectors]]:
    """Yield the rows of each shard, with the vectors and sets that an encoder makes of them.

    Args:
        folder: Of a finished capture.
        encoder: One that reads a model, by a prompt and at a place that were captured.
        language: Of the texts, as for `Encoder.encode_renderings`.

    Raises:
        InputError: As for `shards`; or the capture is of another model, prompt or place.
        DataError: As for `shards`.
    """
    _require_vectors(folder, captured(folder))
    for manifest, rows, vectors in shards(folder):
        model, facts = ModelFacts(**manifest["model"]), encoder.facts
        if (model.fingerprint, model.dtype) != (facts.fingerprint, facts.dtype):
            raise InputError(
                f"{folder} is of {model.name} in {model.dtype} ({model.fingerprint}), not of "
                f"{facts.name} in {facts.dtype} ({facts.fingerprint}); load that model"
            )
        prompted = _prompted(manifest, rows)
        views = encoder.views(rows.texts, language)
        read = []
        for view in views:
            same = [code for code, prompts in prompted.items() if prompts == list(view.prompts)]
            found = [vectors.get((code, str(encoder.place))) for code in same]
            if view.edit is not None or not found or found[0] is None:
                raise InputError(
                    f"{folder} has no {encoder.place} of the prompts of {encoder.name} in "
                    f"{view.name}, but {', '.join(manifest['shapes'])} of "
                    f"{manifest['template']!r}, {manifest['setting']}, in {', '.join(rows.texts)}"
                )
            read.append(found[0])
        yield rows, encoder.combined(views, torch.stack(read))


def _prompted(manifest: Manifest, rows: Rows) -> dict[str, list[Prompt]]:
    """Return language → the prompts that a shard's vectors are of."""
    return {
        code: wrap(texts, manifest["template"], manifest["setting"], code)
        for code, texts in rows.texts.items()
    }
