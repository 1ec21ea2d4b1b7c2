"""Weights that a checkpoint must have, since transformers fills gaps with random numbers."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from dysem_lab.errors import ModelError

# What checkpoints carry besides the weights of a model of text: tables that are computed, and the
# parts that see, hear or guess several tokens ahead.
KNOWN_EXTRAS = (
    "*inv_freq",
    "*position_ids",
    "*embed_positions.weights",
    "*masked_bias",
    "*vision_*",
    "*visual.*",
    "*audio_*",
    "*multi_modal_projector.*",
    "mtp.*",
)
SHOWN = 3


def require_whole(
    name: str | Path, info: Mapping[str, Any], *, optional: Iterable[str] = ()
) -> None:
    """Refuse a checkpoint that is not, key for key, what the architecture takes.

    A tied head that is not in the file is none of the missing keys.

    Args:
        name: What the error calls the checkpoint.
        info: What ``from_pretrained(…, output_loading_info=True)`` returns beside the model.
        optional: Patterns, such as "lm_head.*", of keys that may be absent, or there in excess,
            because nothing reads them.

    Raises:
        ModelError: Names the keys that are missing, that the architecture has no place for, or
            whose shape is another.
    """
    optional = tuple(optional)
    missing, extra = (
        sorted(key for key in info[kind] if not any(fnmatchcase(key, one) for one in allowed))
        for kind, allowed in (
            ("missing_keys", optional),
            ("unexpected_keys", (*optional, *KNOWN_EXTRAS)),
        )
    )
    other = sorted(f"{key} {tuple(found)}" for key, found, _ in info["mismatched_keys"])
    faults = [
        f"{what} {', '.join(keys[:SHOWN])}{f' and {len(keys) - SHOWN} more' * (len(keys) > SHOWN)}"
        for what, keys in (
            ("no weights for", missing),
            ("weights that the architecture has no place for:", extra),
            ("weights of another shape than the configuration says:", other),
        )
        if keys
    ]
    if faults or info["error_msgs"]:
        raise ModelError(
            f"{name} has {'; '.join([*faults, *map(str, info['error_msgs'])])}. What is missing "
            "would be random numbers, so it is refused; fetch or save the checkpoint anew, whole "
            "and with the configuration that it was trained with"
        )
