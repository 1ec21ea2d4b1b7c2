"""Tensors of a GGUF file that transformers passes over in silence."""

from pathlib import Path
from typing import Any

# Factors of the rotary frequencies, which transformers does not read: without them, those of a
# model that was trained with another scaling would be wrong.
ROPE_FACTORS = ("rope_freqs", "rope_factors_long", "rope_factors_short")


def unread_tensors(gguf: Path, model: Any) -> list[str]:
    """Return the names of tensors that the file has and that no weight of the model was made of.

    What a module of the model has no such weight for (a bias where the architecture has none), what
    is of no known name, and what is of blocks beyond the last one.

    Args:
        gguf: The file.
        model: What transformers made of it.
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
