"""Which encoder made the vectors of an index: vectors of two encoders have no similarity."""

import json
from collections.abc import Mapping
from typing import Any

from dysem_lab.encoders.base import Encoder
from dysem_lab.encoders.saved import settings_of


def described(encoder: Encoder) -> dict[str, Any]:
    """Return an encoder as JSON values, with its translator's name.

    Raises:
        InputError: An encoder that is not of this package.
    """
    settings = settings_of(encoder)
    if encoder.translator is not None:
        settings["translator"] = encoder.translator.name
    return settings


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
