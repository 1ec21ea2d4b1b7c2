"""What is known of a model without having it loaded: its name, its identity and its size."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


def shown(name: str) -> str:
    """Return a model's name; of a folder on this machine, its last part."""
    return Path(name).name if Path(name).is_absolute() else name


@dataclass(frozen=True)
class ModelFacts:
    """What is said of a model, and kept in the store, so that nobody has to load it for that."""

    name: str  # the name that it was loaded by
    source: str  # digest of where the weights came from
    fingerprint: str  # of weights and tokenizer
    dtype: str  # in which it is computed
    device: str  # where it ran
    n_layers: int  # number of blocks, L
    d_model: int  # width of the residual stream, d
    weights: str  # what is said of them, from `dysem_lab.models.storage.described`

    @property
    def shown(self) -> str:
        """The name as figures and records have it."""
        return shown(self.name)

    @property
    def label(self) -> str:
        """The name with what is said of the weights."""
        return f"{self.shown} ({self.weights})"

    def edited(self, label: str, settings: Mapping[str, Any]) -> "ModelFacts":
        """Return the facts of this model with a change of its forward pass.

        Args:
            label: What the change is called.
            settings: What it consists of, as JSON values: they make the fingerprint.
        """
        text = json.dumps(settings, sort_keys=True).encode()
        digest = hashlib.sha256(text).hexdigest()[:16]
        return replace(
            self,
            name=f"{self.name} + {label}",
            source=f"{self.source} + {digest}",
            fingerprint=f"{self.fingerprint}+{digest}",
        )
