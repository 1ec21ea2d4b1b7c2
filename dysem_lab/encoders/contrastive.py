"""Contrastive Prompting as an encoder, and its settings by name."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar, Self

from dysem_lab import paths
from dysem_lab.encoders.base import PromptEncoder
from dysem_lab.errors import InputError, choices
from dysem_lab.inputs import path_of
from dysem_lab.models.lens import LensModel, require_model
from dysem_lab.models.places import Place, output_place
from dysem_lab.models.record import Edit
from dysem_lab.models.steering import (
    Contrast,
    Intervention,
    check_contrast,
    warn_if_alpha_is_undone,
)

_SETTINGS = "contrastive_settings.json"


def contrastive_settings() -> dict[str, dict[str, Any]]:
    """Return the settings of the CP paper and of its released code, by name.

    Source: CP (arXiv 2505.12831), Section 4.1 (its block numbers count from 1) and the README of
    the released code, whose blocks count from 0.
    """
    return json.loads(paths.package_file(_SETTINGS).read_text(encoding="utf-8"))


def _settings_file(where: str | Path) -> Path:
    """Return the file that a path ending in ``.json`` is, or that keeps settings under a name."""
    path = path_of(where, "a path that ends in .json, or a name,")
    if path.suffix == ".json":
        return path
    if str(where) in ("", ".", "..") or path.name != str(where):
        raise InputError(f"{str(where)!r} is no name; give one without /, or a path with .json")
    return paths.settings_path(str(where))


def check_output(output_layer: int | str, contrast: Contrast, n_layers: int) -> Place:
    """Return where an embedding is read, once that is known to be after the contrast.

    Raises:
        InputError: A contrast at a block that the model does not have, not an output layer, or one
            that the intervention does not reach.
    """
    place = output_place(output_layer, n_layers)
    contrast.check_reach(place, n_layers, f"output_layer {output_layer}")
    return place


class ContrastivePrompting(PromptEncoder):
    """Training-free sentence vectors steered away from what an auxiliary prompt says.

    Args:
        lens: A loaded model.
        layer: Block l, 0-based, of the intervention.
        norm: As for `dysem_lab.models.steering.Contrast`: "scaling", "recovering", and the released
            code's "scaled_recovering", "head_recovering", "self_scaling".
        alpha: α, for the norms that scale.
        position: "heads" (z before W_O, the paper's choice), "ffn", "hidden", "released_ffn",
            "released_hidden".
        output_layer: Number of blocks after which the embedding is read, 1 to L, or "penultimate",
            "last", "final" (after the final norm). No later block runs.
        template: "prompteol", "pretended_cot", "knowledge", "ck" (the mean of the embeddings of
            the last two, which share the auxiliary pass), or a string with ``{text}``.
        auxiliary: "irrelevant", "redundant", "background", "descriptive", "sentiment", "entity",
            or a string with ``{text}``.
        heads: Only these heads, at position "heads"; None is all.

    Raises:
        InputError: A name that does not exist, a block, head or output layer that the model does
            not have, an output layer before the intervention, α that is not finite.

    Warns:
        UserWarning: α has no effect in this model, because a norm follows.

    Source: CP, arXiv 2505.12831, Section 3. Its best settings for LLaMA2-7B are
    `contrastive_settings`.
    """

    settings: ClassVar[Sequence[str]] = (
        *(field.name for field in fields(Contrast)),
        "output_layer",
        "template",
    )

    def __init__(
        self,
        lens: LensModel,
        layer: int = 4,
        norm: str = "scaling",
        alpha: float = 2.0,
        position: str = "heads",
        output_layer: int | str = "penultimate",
        template: str = "prompteol",
        auxiliary: str = "irrelevant",
        heads: Sequence[int] | None = None,
    ) -> None:
        """Check the settings; no text is read yet."""
        require_model(lens)
        chosen = tuple(heads) if isinstance(heads, Iterable) else heads
        self.contrast = Contrast(layer, norm, alpha, position, auxiliary, chosen)
        check_contrast(self.contrast, lens)
        check_output(output_layer, self.contrast, lens.n_layers)
        super().__init__(lens, template, output_layer)
        warn_if_alpha_is_undone(self.contrast, lens)
        norms = {"scaling": "CP-NS", "recovering": "CP-NR"}
        self.name += f" + {norms.get(norm, f'CP {norm}')}"
        if not self.contrast.every_token:  # the auxiliary pass ends after block l
            self.passes += 1
            self.blocks += self.contrast.layer + 1

    @property
    def config(self) -> dict[str, Any]:
        """The settings and the model's name as JSON values."""
        return {
            "model": self.lens.name,
            **asdict(self.contrast),
            "output_layer": self.output_layer,
            "template": self.template,
        }

    def save(self, where: str | Path) -> Path:
        """Write the settings as JSON and return the file.

        Args:
            where: A path that ends in ``.json``, or a name under which `load` finds them.
        """
        return super().save(_settings_file(where))

    @classmethod
    def load(cls, where: str | Path, lens: LensModel | None = None, **given: Any) -> Self:
        """Return the encoder that `save` wrote, or one of the paper's by a name of its settings.

        Raises:
            InputError: No such settings, or settings of another model.
        """
        published = contrastive_settings()
        path = _settings_file(where)
        if path.exists() or Path(where).suffix == ".json":
            return super().load(path, lens)
        if str(where) not in published:
            saved = sorted(file.stem for file in path.parent.glob("*.json"))
            raise choices("CP settings", where, (*saved, *published))
        # The paper's settings say nothing of heads: all of them.
        return cls.from_config({**published[str(where)], "heads": None}, lens, where)

    def _passes(self, texts: Sequence[str]) -> Iterable[tuple[Sequence[str], Edit | None]]:
        edit = Intervention(self.lens, self.contrast)  # all templates share its auxiliary passes
        return [(prompts, edit) for prompts, _ in super()._passes(texts)]
