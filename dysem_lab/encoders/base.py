"""Sentence encoders: the interface of every compared system, and the ones that are a prompt.

An encoder has the shape of a sentence-transformers model: `encode`, `similarity` and
`similarity_pairwise`. `dysem_lab.sentence_encoder` turns one into an object that libraries take for
such a model.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.display import card
from dysem_lab.errors import InputError, choices
from dysem_lab.inputs import checked, path_of
from dysem_lab.joint import all_pairs_cosine, cosine
from dysem_lab.models.capture import capture
from dysem_lab.models.lens import LensModel
from dysem_lab.models.places import Place, output_place
from dysem_lab.models.record import Edit
from dysem_lab.models.store import VectorStore
from dysem_lab.prompts import (
    SLOT,
    TEMPLATE_NAMES,
    metaeol,
    parts_of,
    template_parts,
    wrap,
)

# Where the paper of a prompt reads its embedding: PromptEOL and MetaEOL after the final norm,
# Pretended CoT and Knowledge Enhancement before the last block (arXiv 2404.03921). CK, their mean,
# is read as they are; its paper reads LLaMA2-7B after 27 blocks of 32 (`dysem_lab.named_systems`).
OUTPUT_OF = {"pretended_cot": "penultimate", "knowledge": "penultimate", "ck": "penultimate"}


class DenseEncoder(ABC):
    """Texts in, one vector per text out, compared by their cosine.

    Attributes:
        name: What tables call it.
        width: Number of values of a vector.
        passes: Forward passes per text, begun ones included.
        blocks: Blocks that run per text, over all passes.
        config: Settings as JSON values.
    """

    name: str
    width: int
    passes: int = 1
    blocks: int

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Settings as JSON values."""

    @abstractmethod
    def encode(
        self, texts: Sequence[str], *, store: VectorStore | None = None, progress: bool = True
    ) -> Float[Tensor, "n width"]:
        """Return the vector of each text: float32, on the CPU.

        Args:
            texts: n texts in English.
            store: Where vectors are kept, so that none is computed twice.
            progress: Show a progress bar.

        Raises:
            InputError: An empty text, or what is no list of texts; see `dysem_lab.inputs.checked`.
        """

    def similarity(
        self, e1: Float[Tensor, "n1 d"], e2: Float[Tensor, "n2 d"]
    ) -> Float[Tensor, "n1 n2"]:
        """Return the cosine of every row of e1 with every row of e2; see `all_pairs_cosine`."""
        return all_pairs_cosine(e1, e2)

    def similarity_pairwise(
        self, e1: Float[Tensor, "n d"], e2: Float[Tensor, "n d"]
    ) -> Float[Tensor, " n"]:
        """Return the cosine of e1[i] with e2[i] for each i; see `dysem_lab.joint.cosine`."""
        return cosine(e1, e2)

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.config.items())
        return f"{type(self).__name__}({settings})"

    def _repr_html_(self) -> str:
        cost = {"width": self.width, "passes per text": self.passes, "blocks per text": self.blocks}
        model = getattr(self, "lens", None) or getattr(self, "facts", None)
        return card(self.name, {**self.config, "weights": model.weights if model else None, **cost})


class LensEncoder(DenseEncoder):
    """An encoder that reads a model of `dysem_lab.load_model`.

    Subclasses name in ``settings`` the arguments of their constructor; they are kept in attributes
    of the same name.
    """

    settings: ClassVar[Sequence[str]]
    lens: LensModel

    @abstractmethod
    def __init__(self, lens: LensModel, **settings: Any) -> None:
        """Take the model; subclasses name their settings."""

    @property
    def config(self) -> dict[str, Any]:
        """The settings and the model's name as JSON values."""
        return {
            "model": self.lens.name,
            **{setting: getattr(self, setting) for setting in self.settings},
        }

    def save(self, where: str | Path) -> Path:
        """Write the settings as JSON and return the file.

        Raises:
            InputError: The file cannot be written.
        """
        return save_settings(where, self.config)

    @classmethod
    def load(cls, where: str | Path, lens: LensModel) -> Self:
        """Return the encoder that `save` wrote, on a model that is loaded already.

        Raises:
            InputError: The file is no such configuration, or was saved for another model.
        """
        return cls.from_config(load_settings(where, cls.__name__), lens, where)

    @classmethod
    def from_config(
        cls, config: dict[str, Any], lens: LensModel, where: str | Path = "this"
    ) -> Self:
        """Return the encoder with the settings of `config`.

        Args:
            config: As `LensEncoder.config` gives it.
            lens: The model, loaded already.
            where: What an error calls the settings.

        Raises:
            InputError: Settings of another kind or model, or one that has no meaning.
        """
        return cls(lens, **settings_for(lens, config, cls.__name__, cls.settings, where))


def save_settings(where: str | Path, settings: dict[str, Any]) -> Path:
    """Write settings as JSON and return the file.

    Raises:
        InputError: The file cannot be written.
    """
    path = path_of(where)
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path} ({error}); give the path of a file") from error
    return path


def load_settings(where: str | Path, kind: str) -> dict[str, Any]:
    """Return what `save_settings` wrote.

    Args:
        where: The file.
        kind: Whose settings they should be.

    Raises:
        InputError: The file cannot be read, or holds no JSON object.
    """
    path = path_of(where)
    try:
        if path.exists() and not path.is_file():  # a folder, or a device that never ends
            raise OSError("it is no file")
        settings = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {where} ({error}); give a file that `save` wrote") from error
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, nested without an end
        raise InputError(f"{where} is not a saved configuration of {kind}: {error}") from error
    if not isinstance(settings, dict):
        raise InputError(
            f"{where} is not a saved configuration of {kind}: its JSON is no object of settings"
        )
    return settings


def settings_for(
    lens: LensModel,
    config: dict[str, Any],
    kind: str,
    needed: Collection[str],
    where: str | Path = "this",
    optional: Collection[str] = (),
) -> dict[str, Any]:
    """Return saved settings without the model's name, once they are known to be of that model.

    Args:
        lens: The model.
        config: The settings, the model's name among them.
        kind: Whose settings they should be.
        needed: The settings that there have to be.
        where: What an error calls them.
        optional: The settings that there may be.

    Raises:
        InputError: A setting too few or too many, or settings of another model.
    """
    needed = ("model", *needed)
    wrong = f"{where} is not a saved configuration of {kind}"
    if missing := [name for name in needed if name not in config]:
        raise InputError(f"{wrong}: it has no {', '.join(missing)}")
    if unknown := [name for name in config if name not in (*needed, *optional)]:
        raise InputError(f"{wrong}: it has an unknown {', '.join(unknown)}")
    if config["model"] != lens.name:
        raise InputError(
            f"these are settings of {config['model']!r}, not of {lens.name!r}; layers of one model "
            f"mean nothing in another, so give {kind} your own"
        )
    return {name: value for name, value in config.items() if name != "model"}


def require_model(lens: object) -> None:
    """Raise `InputError` where something else than a model is given, such as the name of one."""
    if not hasattr(lens, "d_model"):
        raise InputError(
            f"lens must be a model of load_model, got {lens!r:.80}; use lens = load_model(name)"
        )


def mean_vectors(
    lens: LensModel,
    parts: Sequence[Sequence[str]],
    place: Place,
    edits: Sequence[Edit | None],
    store: VectorStore | None,
    progress: bool,
    description: str,
) -> Float[Tensor, "n ..."]:
    """Return the mean over several prompts of each text of the vectors that are read.

    Args:
        lens: The model.
        parts: The prompts of the n texts, for each template.
        place: What is read.
        edits: The change of the forward pass, for each template.
        store: As for `dysem_lab.capture`.
        progress: As for `dysem_lab.capture`.
        description: As for `dysem_lab.capture`.
    """
    component, layers = place
    return torch.stack(
        [
            capture(
                lens,
                prompts,
                component,
                layers,
                edit=edit,
                store=store,
                progress=progress,
                description=description,
            )[component]
            for prompts, edit in zip(parts, edits, strict=True)
        ]
    ).mean(0)


class MeanPooling(LensEncoder):
    """The mean over all tokens of the text after the final norm; no prompt.

    Tokens that the tokenizer adds by itself, such as a BOS, are in the mean: the papers do not say
    whether theirs are.

    Args:
        lens: A loaded model.

    Source: the "mean pooling" rows of CP (arXiv 2505.12831), Table 1, and DySem, Table 1.
    """

    name = "mean pooling"
    settings: ClassVar[Sequence[str]] = ()

    def __init__(self, lens: LensModel) -> None:
        """Take the model."""
        require_model(lens)
        self.lens, self.width, self.blocks = lens, lens.d_model, lens.n_layers

    def encode(
        self, texts: Sequence[str], *, store: VectorStore | None = None, progress: bool = True
    ) -> Float[Tensor, "n d"]:
        """Return the embedding of each text; see `DenseEncoder.encode`."""
        prompts = [wrap(texts, "none")]
        place = Place("mean")
        return mean_vectors(self.lens, prompts, place, [None], store, progress, self.name)


class PromptEncoder(LensEncoder):
    """The residual stream at the last token of a one-word prompt.

    Args:
        lens: A loaded model.
        template: "prompteol" (arXiv 2307.16645), "pretended_cot", "knowledge" (arXiv 2404.03921),
            "ck" (the mean of these two, arXiv 2505.12831), "metaeol" (the mean of eight prompts,
            arXiv 2402.18458), or a string with ``{text}``. Means are of the vectors as they are.
        output_layer: Number of blocks after which the embedding is read, 1 to L, or "penultimate",
            "last", "final" (after the final norm); no later block runs. None is the choice of the
            template's paper: "final" for PromptEOL and MetaEOL, "penultimate" for Pretended CoT and
            Knowledge Enhancement; for CK it is that of these two.

    Raises:
        InputError: An unknown template or output layer.
    """

    settings: ClassVar[Sequence[str]] = ("template", "output_layer")

    def __init__(
        self, lens: LensModel, template: str = "prompteol", output_layer: int | str | None = None
    ) -> None:
        """Check the settings; no text is read yet."""
        require_model(lens)
        self.lens, self.width = lens, lens.d_model
        self.template = template
        self.templates = parts_of(template)
        if template == "none":
            raise InputError("template 'none' has no prompt; use 'prompteol', or MeanPooling")
        if template not in (*TEMPLATE_NAMES, *metaeol()) and SLOT not in template:
            raise choices("template", template, (*TEMPLATE_NAMES, f"any string with {SLOT}"))
        for part in self.templates:
            template_parts(part, "english", "en")
        self.output_layer = (
            OUTPUT_OF.get(template, "final") if output_layer is None else output_layer
        )
        self._output = output_place(self.output_layer, lens.n_layers)
        if not isinstance(self.output_layer, str):
            self.output_layer = int(self.output_layer)  # numpy's is no JSON value

    @property
    def name(self) -> str:  # type: ignore[override]
        """The prompt's name."""
        return TEMPLATE_NAMES.get(self.template, self.template)

    @property
    def passes(self) -> int:  # type: ignore[override]
        """Forward passes per text."""
        return len(self.templates)

    @property
    def blocks(self) -> int:  # type: ignore[override]
        """Blocks that run per text."""
        return len(self.templates) * self._output.n_blocks(self.lens.n_layers)

    def encode(
        self, texts: Sequence[str], *, store: VectorStore | None = None, progress: bool = True
    ) -> Float[Tensor, "n d"]:
        """Return the embedding of each text; see `DenseEncoder.encode`."""
        texts = checked(texts)
        parts = [self._prompts(texts, template) for template in self.templates]
        return mean_vectors(
            self.lens, parts, self._output, self._edits(), store, progress, self.name
        )

    def _prompts(self, texts: Sequence[str], template: str) -> Sequence[str]:
        return wrap(texts, template)

    def _edits(self) -> Sequence[Edit | None]:
        """Return the change of the forward pass of each template."""
        return [None] * len(self.templates)
