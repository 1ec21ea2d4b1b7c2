"""An encoder as JSON values: its kind, its settings, its model; and the encoder of such values."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dysem_lab.encoders.base import Encoder
from dysem_lab.encoders.systems import ENCODERS
from dysem_lab.errors import InputError, ModelError
from dysem_lab.inputs import one_of
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.lens import LensModel
from dysem_lab.models.loading import load_model
from dysem_lab.translation.translate import Translator


def settings_of(encoder: Encoder) -> dict[str, Any]:
    """Return the kind of an encoder, its settings and the identity of its model, as JSON values.

    A translator is not in it.

    Raises:
        InputError: An encoder that is not of this package.
    """
    kind = type(encoder)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if ENCODERS.get(name) is not kind:
        raise InputError(
            f"{kind.__name__} is not of dysem_lab, so it could not be found again; save its "
            "settings yourself"
        )
    settings: dict[str, Any] = {"encoder": name, "config": encoder.config}
    if encoder.lens is not None:
        facts = encoder.lens.facts
        settings["model"] = {
            "dtype": facts.dtype,
            "revision": commit_of(facts),
            "fingerprint": facts.fingerprint,
        }
    return settings


def encoder_of(
    settings: Mapping[str, Any],
    lens: LensModel | None = None,
    translator: Translator | None = None,
    device: str = "auto",
    where: str | Path = "this",
    what: str = "SentenceEncoder",
) -> Encoder:
    """Return the encoder that has these settings; its model is loaded, unless it is given.

    Args:
        settings: From `settings_of`.
        lens: Its model.
        translator: Of one that has languages.
        device: Where the model is loaded to.
        where: What an error calls the settings.
        what: What it says that they are of.

    Raises:
        InputError: These are no such settings, or of another model.
        ModelError: The model cannot be loaded, or has other weights by now.
    """
    wrong = f"{where} is not a saved configuration of {what}"
    for name, needed in (("encoder", str), ("config", dict)):
        if not isinstance(settings.get(name), needed):
            raise InputError(f"{wrong}: its {name!r} is {settings.get(name)!r:.80}")
    kind = ENCODERS[one_of(settings["encoder"], ENCODERS, "encoder")]
    config = settings["config"]
    if kind.needs_lens and lens is None:
        lens = _same_model(config, settings.get("model"), device, wrong)
    return kind.from_config(config, lens, where, translator=translator, device=device)


def commit_of(facts: ModelFacts) -> str | None:
    """Return the commit of a model of the hub; None for others, and where it is not known."""
    found = re.search(r"@([0-9a-f]{40})$", facts.source)
    return found[1] if found else None


def _same_model(config: dict[str, Any], saved: object, device: str, wrong: str) -> LensModel:
    """Load a model by name, once more; it has to be the saved one."""
    name, model = config.get("model"), saved if isinstance(saved, dict) else {}
    kinds = {"dtype": str, "revision": str | None, "fingerprint": str}
    known = all(isinstance(model.get(field), kind) for field, kind in kinds.items())
    if not isinstance(name, str) or not known:
        raise InputError(f"{wrong}: it does not say which model it was saved for")
    lens = load_model(name, revision=model["revision"], device=device, dtype=model["dtype"])
    if lens.fingerprint != model["fingerprint"]:
        raise ModelError(
            f"{name!r} has other weights or another tokenizer than when the encoder was saved "
            f"({lens.fingerprint}, then {model['fingerprint']}); bring the old ones back, "
            "or build the encoder anew"
        )
    return lens
