"""How a model's weights are stored, and in which data type they are computed with.

This is the one place that puts it into words: displays, figures and provenance say `described`.
"""

import json
import math
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from safetensors import safe_open

# Names in the headers of safetensors and GGUF files → torch's; every other type is a quantisation.
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def described(stored_as: str, dtype: str) -> str:
    """Return what is said of weights, such as "4-bit weights, dequantised, computed in float32".

    How they are stored is from `gguf_storage` or `safetensors_storage`; "" is not known.
    """
    if not stored_as:
        return f"weights computed in {dtype}"
    if stored_as == dtype:
        return f"{dtype} weights"
    dequantised = "" if stored_as in FLOATS.values() else ", dequantised"
    return f"{stored_as} weights{dequantised}, computed in {dtype}"


def gguf_storage(path: Path) -> str:
    """Return the quantisation of a GGUF file, such as "Q8_0", or the data type of its weights.

    That is the name that its header gives the mixture, such as "Q4_K_M", where tensors of that type
    are in the file; else the type that most of the weights have. Reading a header with a large
    vocabulary takes seconds.
    """
    from gguf import GGUFReader, LlamaFileType

    reader = GGUFReader(path)
    sizes: Counter[str] = Counter()
    for tensor in reader.tensors:
        sizes[tensor.tensor_type.name] += int(tensor.n_elements)
    field = reader.fields.get("general.file_type")
    number = None if field is None else field.contents()
    named = next((kind.name for kind in LlamaFileType if kind.value == number), "")
    mixture = named.removeprefix("MOSTLY_")
    if any(mixture.startswith(kind) for kind in sizes.keys() - FLOATS.keys()):
        return mixture
    return _most(sizes)


def gguf_tensor_types(path: Path) -> dict[str, int]:
    """Return the types that the tensors of a GGUF file have, with the number of each.

    A mixture such as "Q4_K_M" has several, and a name that says little of them.
    """
    from gguf import GGUFReader

    found = Counter(tensor.tensor_type.name for tensor in GGUFReader(path).tensors)
    return dict(found.most_common())


def safetensors_storage(folder: Path) -> str:
    """Return the quantisation that a checkpoint declares, or the data type that most weights have.

    "" where it has no such file.
    """
    if declared := _declared(folder):
        return declared
    sizes: Counter[str] = Counter()
    for _, kind, shape in _tensors(folder):
        sizes[kind] += math.prod(shape)
    return _most(sizes) if sizes else ""


def whole_number_weights(folder: Path, names: Collection[str]) -> list[str]:
    """Return those of a model's weights that its files have as whole numbers.

    Without the scales of a quantisation that the configuration declares they mean nothing.
    """
    return [name for name, kind, _ in _tensors(folder) if name in names and kind not in FLOATS]


def _declared(folder: Path) -> str:
    """Return the quantiser and the kind that a configuration names, such as "bitsandbytes nf4"."""
    config = folder / "config.json"
    content = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    settings = content.get("quantization_config")
    if not isinstance(settings, dict):
        return ""
    kind = f"{settings['bits']}-bit" if "bits" in settings else ""
    if settings.get("load_in_8bit"):
        kind = "int8"
    elif settings.get("load_in_4bit"):
        kind = settings.get("bnb_4bit_quant_type", "4-bit")
    return f"{settings.get('quant_method', 'quantised')} {kind}".strip()


def _tensors(folder: Path) -> Iterator[tuple[str, str, list[int]]]:
    """Yield the name, the data type and the shape of each tensor of a checkpoint."""
    files = {"model.safetensors"}
    index = folder / "model.safetensors.index.json"
    if index.is_file() and not (folder / "model.safetensors").is_file():
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    for path in filter(Path.is_file, (folder / name for name in files)):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                tensor = file.get_slice(name)
                yield name, tensor.get_dtype(), tensor.get_shape()


def _most(sizes: "Counter[str]") -> str:
    kind = sizes.most_common(1)[0][0]
    return FLOATS.get(kind, kind)
