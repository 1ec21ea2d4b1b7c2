"""Which encoder made the vectors of an index: vectors of two encoders have no similarity.

The code that made them counts as well, by a number that is raised by hand.
"""

import json
from collections.abc import Mapping
from typing import Any

from dysem_lab.encoders.base import Encoder
from dysem_lab.encoders.saved import settings_of
from dysem_lab.errors import InputError

# What this package makes of a text with the same model and settings. Raise it by one when vectors
# or sets become others beyond rounding: by another template or normalisation of texts, another
# token or place that is read, another rule of the consensus, or a mended mistake in one of these.
# Leave it for what rounds otherwise, for speed, and for new options whose default changes nothing.
# A test fails where vectors moved and this did not. Indexes and shards of another number are not
# read, and texts of two are never in one; what a `VectorStore` keeps needs another `prompt_key`.
VECTORS = 1


def described(encoder: Encoder) -> dict[str, Any]:
    """Return an encoder as JSON values, with its translator's name.

    Raises:
        InputError: An encoder that is not of this package.
    """
    settings = settings_of(encoder)
    if encoder.translator is not None:
        settings["translator"] = encoder.translator.name
    return {**settings, "vectors": VECTORS}


def require_vectors(of: Mapping[str, Any], what: str, made_by: str, remedy: str) -> None:
    """Raise `InputError` where vectors are those of code that makes others now.

    Args:
        of: What is said of them, as in `described`; without a number it is the first.
        what: What they are in.
        made_by: The version of this package that made them.
        remedy: What to do about it.
    """
    if (number := of.get("vectors", 1)) != VECTORS:
        raise InputError(
            f"{what} was made by {made_by}, which makes other vectors of the same texts (vectors "
            f"{number!r:.20}, and {VECTORS} now): the two have no similarity; {remedy}, or use "
            "that version"
        )


def identity_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what has to agree: a model is told by its weights, whatever it is called.

    Args:
        settings: From `described`; empty where nothing is known.
    """
    if not settings:
        return {}
    config = {name: value for name, value in settings["config"].items() if name != "model"}
    model = settings.get("model") or {}
    kind = settings["encoder"].rpartition(".")[2]
    weights = {name: model[name] for name in ("fingerprint", "dtype") if name in model}
    made = {"encoder": kind, **weights, **config, "translator": settings.get("translator")}
    return json.loads(json.dumps(made))


def differences(there: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Return in words what differs between two identities; "" where nothing does."""
    names = dict.fromkeys([*there, *given])
    return "; ".join(
        f"{name} {there.get(name)!r:.120}, not {given.get(name)!r:.120}"
        for name in names
        if there.get(name) != given.get(name)
    )


def encoders_differ(there: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Return in words what differs between two encoders; "" where nothing does.

    Args:
        there: From `described`.
        given: Likewise.
    """
    made, asked = identity_of(there), identity_of(given)
    if made.get("fingerprint") != asked.get("fingerprint"):  # which says nothing to a reader
        made = {"model": there["config"].get("model"), **made}
        asked = {"model": given["config"].get("model"), **asked}
    return differences(made, asked)
