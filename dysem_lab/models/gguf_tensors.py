"""Tensors and settings of a GGUF file that transformers passes over in silence."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

# Factors of the rotary frequencies, which transformers does not read: without them, those of a
# model that was trained with another scaling would be wrong.
ROPE_FACTORS = ("rope_freqs", "rope_factors_long", "rope_factors_short")
# The same for a scaling by one factor: its present name and the one of old files.
ROPE_SCALINGS = ("rope.scaling.factor", "rope.scale_linear")
# Settings that have a default in transformers, which may be another than the file's.
DEFAULTED = {
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
}


@contextmanager
def parsed_once() -> Iterator[None]:
    """Let whoever reads a GGUF file in this block have one reader of it, which is not to change.

    A reader parses the vocabulary, which takes seconds, and transformers makes three.
    """
    import gguf

    parse = cache(gguf.GGUFReader)
    with patch.object(gguf, "GGUFReader", lambda file: parse(str(file))):
        yield


def unread_tensors(gguf: Path, model: Any) -> list[str]:
    """Return the names of tensors that the file has and that no weight of the model was made of.

    What a module of the model has no such weight for (a bias where the architecture has none), what
    is of no known name, and what is of blocks beyond the last one.
    """
    from gguf import MODEL_ARCH_NAMES, GGUFReader, get_tensor_name_map

    reader = GGUFReader(gguf)
    architecture = str(reader.fields["general.architecture"].contents())
    kinds = {name: kind for kind, name in MODEL_ARCH_NAMES.items()}
    if architecture not in kinds:
        return []
    n_layers = model.config.get_text_config().num_hidden_layers
    of_gguf: dict[str, set[str]] = {}  # name in the file → names that modules have for it
    for module, (_, name) in get_tensor_name_map(kinds[architecture], n_layers).mapping.items():
        of_gguf.setdefault(name, set()).add(module)
    weights = set(model.state_dict())
    modules = {weight.rpartition(".")[0] for weight in weights}
    unread = []
    for tensor in reader.tensors:
        name, _, suffix = tensor.name.rpartition(".")
        here = of_gguf.get(name, set()) & modules
        if name in ROPE_FACTORS:
            is_read = bool((tensor.data == 1).all())
        elif name in of_gguf and not here:  # joined with others into one weight
            is_read = True
        else:
            is_read = any(f"{module}.{suffix}" in weights for module in here)
        if not is_read:
            unread.append(tensor.name)
    return unread


def unread_settings(gguf: Path, model: Any) -> list[str]:
    """Return the settings of attention that the file has and the model does not, with values."""
    from gguf import GGUFReader

    fields = GGUFReader(gguf).fields
    prefix = f"{fields['general.architecture'].contents()}."
    settings = {
        name: fields[prefix + name].contents()
        for name in ("rope.scaling.type", *ROPE_SCALINGS, *DEFAULTED)
        if prefix + name in fields
    }
    unread = []
    if settings.get("rope.scaling.type") != "none":
        unread = [name for name in ROPE_SCALINGS if settings.get(name, 0) not in (0, 1)]
    config = model.config.get_text_config()
    for name, own in DEFAULTED.items():
        value = getattr(config, own, None)
        if name in settings and value is not None and settings[name] != value:
            unread.append(name)
    return [f"{name} = {settings[name]}" for name in unread]
