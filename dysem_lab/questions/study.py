"""A study: one model on sentence pairs in several languages, captured once, read from the store.

The analyses ask a study for vectors. It knows which prompts they stand for, runs the model on those
that the store lacks, and leaves the model unloaded where nothing is missing.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from dysem_lab.data.sts import STSData, available_languages, load_data
from dysem_lab.display import card, say
from dysem_lab.encoders.contrastive import check_output
from dysem_lab.errors import InputError, ModelError, choices
from dysem_lab.inputs import names_of
from dysem_lab.models.capture import (
    fill,
    fill_contrasts,
    missing_rows,
    read_rows,
    space_of,
    stored_with,
    unique_prompts,
)
from dysem_lab.models.embedded import EMBEDDED
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.lens import LensModel
from dysem_lab.models.loading import (
    DEFAULT_MODEL,
    load_model,
    resolve_device,
    size_of,
    source_digest,
)
from dysem_lab.models.passes import MAX_TOKENS
from dysem_lab.models.places import Blocks, Place, output_place, places
from dysem_lab.models.steering import Contrast, contrast_facts, warn_if_alpha_is_undone
from dysem_lab.models.store import Space, VectorStore, prompt_key
from dysem_lab.prompts import SETTINGS, parts_of, template_parts, wrap

# Studies of one model share it for as long as one of them holds it.
_LOADED: WeakValueDictionary[tuple[str, str, str], LensModel] = WeakValueDictionary()
# Stands for a model that the store has never seen, in plans.
_UNKNOWN = ModelFacts("", "", "", "", "", 0, 0, "")


class Study:
    """A model, its data and the vectors that an analysis needs.

    Args:
        model: A name for `dysem_lab.load_model`, or a model that is loaded already.
        data: A source for `dysem_lab.load_data`, loaded pairs, or several of them by task name;
            ``{}`` is the model alone.
        tasks: Names of STS tasks in that source; None is its own set of pairs.
        languages: Codes wanted; each task uses those that it has, English first.
        templates: Prompt templates; "none" stands for the mean-pooling baseline, in English.
        settings: Prompt settings, "english" and "language-specific".
        components: Internal vectors that will be asked for, as cumulative vectors.
        each: Internal vectors that will be asked for at every layer.
        output_layers: Where embeddings will be asked for, as for `dysem_lab.ContrastivePrompting`;
            "all" is after every block that comes after the contrasts, and after the final norm.
        contrasts: Interventions under which all of it will be asked for; None is the plain prompt.
            They need the English setting, in which the auxiliary prompts are.
        split: "test" or "dev".
        pairs: The first so many pairs of each task.
        sample: A seeded random sample of so many pairs of each task.
        seed: Of the sample.
        store: Where vectors are kept; None is the user's store.
        device: As for `dysem_lab.load_model`.
        dtype: As for `dysem_lab.load_model`.

    Raises:
        InputError: Unknown names, a language that no task has, a number of pairs below 1.
        DataError: As for `dysem_lab.load_data`.
    """

    def __init__(
        self,
        model: str | Path | LensModel = DEFAULT_MODEL,
        data: str | Path | STSData | Mapping[str, STSData] = "demo",
        tasks: str | Sequence[str] | None = None,
        languages: str | Iterable[str] = ("en",),
        *,
        templates: str | Sequence[str] = "prompteol",
        settings: str | Sequence[str] = SETTINGS,
        components: str | Sequence[str] = "attn",
        each: str | Sequence[str] = (),
        output_layers: Sequence[int | str] | int | str = (),
        contrasts: Sequence[Contrast | None] | Contrast | None = (None,),
        split: str = "test",
        pairs: int | None = None,
        sample: int | None = None,
        seed: int = 0,
        store: VectorStore | None = None,
        device: str = "auto",
        dtype: str = "auto",
    ) -> None:
        """Load the pairs and check every name; the model is loaded when a vector is missing."""
        codes = list(dict.fromkeys(["en", *names_of(languages, "language")]))
        self.languages = codes
        given = names_of(templates, "template")
        self.templates = list(
            dict.fromkeys(name for names in map(parts_of, given) for name in names)
        )
        self.settings = names_of(settings, "setting")
        if contrasts is None or isinstance(contrasts, Contrast):
            contrasts = [contrasts]
        self.contrasts = list(dict.fromkeys(contrasts))
        if any(self.contrasts) and self.settings != ["english"]:
            raise InputError(
                "a contrast needs settings='english': the auxiliary prompts are in English only"
            )
        self._cumulative_and_each = [
            *(places(components) if components else ()),
            *(places(each, "each") if each else ()),
        ]
        if isinstance(output_layers, str | int) and output_layers != "all":
            output_layers = [output_layers]
        self._output_layers = output_layers
        for template in self.templates:
            for setting in self.settings:
                for code in codes:
                    template_parts(template, setting, code)
        named = None if tasks is None else names_of(tasks, "task")
        self.data = {
            task: pairs_of.head(pairs).sample(sample, seed)
            for task, pairs_of in _loaded(data, named, split, codes).items()
        }
        self.sampling = {"pairs": pairs, "sample": sample, "seed": seed if sample else None}
        self.store = store if store is not None else VectorStore()
        self._model = model
        self._device, self._dtype = resolve_device(device, dtype)

    def __repr__(self) -> str:
        sizes = ", ".join(
            f"{task} {len(data):,} pairs in {'/'.join(data.languages)}"
            for task, data in self.data.items()
        )
        weights = f" ({self._weights})" if self._weights else ""
        return f"Study({self.name}{weights}; {sizes})"

    def _repr_html_(self) -> str:
        sizes = {
            task: f"{len(data):,} pairs in {'/'.join(data.languages)}"
            for task, data in self.data.items()
        }
        contrasts = [str(contrast or "plain") for contrast in self.contrasts]
        settings = {
            "templates": self.templates,
            "prompt settings": self.settings,
            "contrasts": contrasts if any(self.contrasts) else None,
            "vectors in": str(self.store.path),
        }
        return card(f"Study of {self.name}", {"weights": self._weights, **sizes, **settings})

    @property
    def name(self) -> str:
        """The name of the model."""
        return self._model.name if isinstance(self._model, LensModel) else str(self._model)

    @property
    def dtype(self) -> str:
        """The data type of the model's weights."""
        return self._model.facts.dtype if isinstance(self._model, LensModel) else self._dtype

    @cached_property
    def output_layers(self) -> list[int | str]:
        """Where embeddings will be asked for."""
        if self._output_layers != "all":
            return list(self._output_layers)
        first = max((contrast.layer for contrast in self.contrasts if contrast), default=0) + 1
        return [*range(first, self.n_layers + 1), "final"]

    @cached_property
    def wanted(self) -> list[Place]:
        """What will be read of each prompt.

        Raises:
            InputError: An output layer that the model does not have, or one before a contrast.
        """
        if not self._output_layers:
            return self._cumulative_and_each
        outputs = [output_place(name, self.n_layers) for name in self.output_layers]
        for contrast in filter(None, self.contrasts):
            for name in self.output_layers:
                check_output(name, contrast, self.n_layers)
        return list(dict.fromkeys([*self._cumulative_and_each, *outputs]))

    @property
    def n_layers(self) -> int:
        """Number of blocks, from the configuration where that is enough."""
        size = size_of(self.name) if not isinstance(self._model, LensModel) else None
        return size[0] if size else self.model.n_layers

    @property
    def reads_each(self) -> bool:
        """Whether vectors of every layer will be asked for."""
        return any(place.blocks == "each" for place in self.wanted)

    @cached_property
    def lens(self) -> LensModel:
        """The model, loaded on first use."""
        if isinstance(self._model, LensModel):
            return self._model
        key = (source_digest(self._model), self._device, self._dtype)
        lens = _LOADED.get(key)
        if lens is None or lens.facts.source != lens.source:  # changed in memory by its user
            lens = load_model(self._model, device=self._device, dtype=self._dtype)
            _LOADED[key] = lens
        return lens

    def release(self) -> None:
        """Let go of the loaded model; it is freed when no other study holds it."""
        self.__dict__.pop("lens", None)

    @property
    def _weights(self) -> str | None:
        """What is said of the model's weights, where that is known already."""
        if isinstance(self._model, LensModel):
            return self._model.weights
        if "_named_model" in self.__dict__:
            return self._named_model.weights
        return EMBEDDED[self.name].weights(self._dtype) if self.name in EMBEDDED else None

    @property
    def model(self) -> ModelFacts:
        """What is known of the model; it is loaded only if the store has never seen it.

        Raises:
            ModelError: As for `dysem_lab.capture` with a store.
        """
        if isinstance(self._model, LensModel):
            self._model.check_own_pass()
            return self._model.facts  # its user may change it
        return self._named_model

    @cached_property
    def _named_model(self) -> ModelFacts:
        return self._known_model or self.lens.facts

    @property
    def _known_model(self) -> ModelFacts | None:
        if isinstance(self._model, LensModel):
            return self._model.facts
        return self.store.recall(source_digest(self._model), self._dtype)

    def task_languages(self, task: str) -> list[str]:
        """Return the languages of this study that a task has."""
        return list(self._pairs_of(task).languages)

    def texts(self, task: str, language: str, pairs: Sequence[int] | None = None) -> list[str]:
        """Return the first sentences of a task's pairs, then the second ones."""
        data = self._pairs_of(task)
        return (data if pairs is None else data.select(pairs)).texts(language)

    def _pairs_of(self, task: str) -> STSData:
        if task not in self.data:
            raise choices("task", task, self.data)
        return self.data[task]

    def _wanted_of(self, template: str) -> list[Place]:
        return places("mean") if template == "none" else self.wanted

    def _groups(self) -> Iterator[tuple[str, str, str, list[str]]]:
        """Yield (template, setting, language, prompts) of everything that will be asked for."""
        for template in self.templates:
            for code in ["en"] if template == "none" else self.languages:
                texts = [
                    text
                    for task, data in self.data.items()
                    if code in data.languages
                    for text in self.texts(task, code)
                ]
                if not texts:
                    continue
                # English prompts are the same in both settings.
                for setting in self.settings[:1] if code == "en" else self.settings:
                    yield (
                        template,
                        setting,
                        code,
                        unique_prompts(wrap(texts, template, setting, code)),
                    )

    def plan(self, planned: set[tuple[str, Space]] | None = None) -> pd.DataFrame:
        """Return how many forward passes and how much disk the study still needs.

        Args:
            planned: What studies of this model before this one will have captured; what this one
                adds is added to it.

        Returns:
            One row per template, setting and language: ``texts`` (different prompts), ``passes``
            (those that the store lacks; one pass serves all contrasts of the last token),
            ``megabytes`` (what they will add; NaN where neither the store nor the model's
            configuration tells the width).
        """
        planned = set() if planned is None else planned
        rows = []
        for template, setting, code, prompts in self._groups():
            keys = [prompt_key(prompt, MAX_TOKENS) for prompt in prompts]
            wanted = self._wanted_of(template)
            new = {
                contrast: self._new(keys, wanted, contrast, planned)
                for contrast in self._contrasts_of(template)
            }
            together = [
                part for contrast, part in new.items() if not (contrast and contrast.every_token)
            ]
            alone = [part for contrast, part in new.items() if contrast and contrast.every_token]
            rows.append(
                {
                    "template": template,
                    "setting": setting,
                    "language": code,
                    "texts": len(prompts),
                    "passes": len(set().union(*together)) + sum(map(len, alone)),
                    "megabytes": sum(map(len, new.values())) * self._row_bytes(wanted) / 1e6,
                }
            )
        columns = ["template", "setting", "language", "texts", "passes", "megabytes"]
        return pd.DataFrame(rows, columns=columns)

    def _new(
        self,
        keys: list[str],
        wanted: list[Place],
        contrast: Contrast | None,
        planned: set[tuple[str, Space]],
    ) -> set[str]:
        """Return the prompts that neither the store nor the plan so far has; plan them."""
        known = self._known_model
        facts = contrast_facts(known or _UNKNOWN, contrast)
        lacking = {
            (keys[i], space_of(facts, place))
            for place in wanted
            for i in (missing_rows(facts, self.store, keys, [place]) if known else range(len(keys)))
        }
        new = {key for key, _ in lacking - planned}
        planned.update(
            (key, space_of(facts, place)) for key in new for place in self._stored(wanted)
        )
        return new

    def _contrasts_of(self, template: str) -> list[Contrast | None]:
        return [None] if template == "none" else self.contrasts

    def _stored(self, wanted: list[Place]) -> list[Place]:
        return wanted if any(self.contrasts) else stored_with(wanted)

    def _row_bytes(self, wanted: list[Place]) -> float:
        """Return the bytes that one captured prompt adds to the store."""
        known = self._known_model
        size = (known.n_layers, known.d_model) if known else size_of(self.name)
        if size is None:
            return float("nan")
        n_layers, d_model = size
        return sum(
            self.store.row_bytes(
                str(place.blocks), d_model * (n_layers if place.blocks == "each" else 1)
            )
            for place in self._stored(wanted)
        )

    def capture(self, *, progress: bool = True) -> pd.DataFrame:
        """Run the model on every prompt that the store lacks; return the plan that was followed.

        One progress bar covers it all. An interrupted call loses at most the batch in flight; the
        same call again makes the rest.

        Raises:
            ModelError: The disk has less room than the vectors will need.
        """
        plan = self.plan()
        n_passes = int(plan["passes"].sum())
        if progress and n_passes:
            megabytes = plan["megabytes"].sum(skipna=False)
            size = "" if np.isnan(megabytes) else f", about {megabytes:,.0f} MB"
            say(
                f"{n_passes:,} forward passes (of {plan['texts'].sum():,} prompts; the others are "
                f"stored){size} in {self.store.path}"
            )
        hidden = not progress or not n_passes
        with tqdm(total=n_passes, desc="capture", unit="text", disable=hidden) as bar:
            for n_texts in self.fill(plan):
                bar.update(n_texts)
        return plan

    def fill(self, plan: pd.DataFrame) -> Iterator[int]:
        """Capture what a plan counts, yielding after each batch how many texts it held.

        Raises:
            ModelError: The disk has less room than the vectors will need.
        """
        if not plan["passes"].sum():
            return
        megabytes, free = plan["megabytes"].sum(), shutil.disk_usage(self.store.path.parent).free
        if megabytes > free / 1e6:
            raise ModelError(
                f"the vectors need about {megabytes:,.0f} MB in {self.store.path}, but only "
                f"{free / 1e6:,.0f} MB are free; take a smaller sample, or prune with "
                "`dysem-lab store`"
            )
        alike: dict[tuple[str, str], list[str]] = {}  # whose beginning is computed once for all
        for template, setting, code, prompts in self._groups():
            begins = "english" if setting == "english" else code
            alike.setdefault((template, begins), []).extend(prompts)
        for (template, _), repeated in alike.items():
            prompts = unique_prompts(repeated)
            wanted, contrasts = self._wanted_of(template), self._contrasts_of(template)
            yield from self._fill(prompts, wanted, contrasts)

    def _fill(
        self, prompts: list[str], wanted: list[Place], contrasts: list[Contrast | None]
    ) -> Iterator[int]:
        if any(contrasts):
            for contrast in filter(None, contrasts):
                warn_if_alpha_is_undone(contrast, self.lens)
            yield from fill_contrasts(self.lens, prompts, contrasts, wanted, self.store)
        else:
            keys = [prompt_key(prompt, MAX_TOKENS) for prompt in prompts]
            only = missing_rows(self.lens.facts, self.store, keys, wanted)
            yield from fill(self.lens, prompts, wanted, self.store, only)

    def vectors(
        self,
        task: str,
        component: str = "attn",
        *,
        template: str | None = None,
        setting: str | None = None,
        languages: str | Sequence[str] | None = None,
        layers: Blocks = "sum",
        pairs: Sequence[int] | None = None,
        contrast: Contrast | None = None,
    ) -> Float[Tensor, "twice_n m ..."]:
        """Return s^(ℓ)(x) of a task's texts, first sentences and then second ones.

        Args:
            task: Name of a task of this study.
            component: Internal vector.
            template: Prompt template; None is the study's first.
            setting: Prompt setting; None is the study's first.
            languages: Different codes in the order wanted; None is all that the task has.
            layers: "sum", "each", a block index or a range of blocks.
            pairs: Positions of the pairs wanted; None is all.
            contrast: The intervention; None is the plain prompt.

        Returns:
            Float32 ``[2n, m, d]``, or ``[2n, m, L, d]`` for "each".

        Raises:
            InputError: A name that the study does not have, a language twice.
        """
        there = self.task_languages(task)
        codes = there if languages is None else names_of(languages, "language")
        if len(set(codes)) < len(codes) or not codes:
            raise InputError(f"languages must be one or more different codes, got {codes}")
        template = template if template is not None else self.templates[0]
        setting = setting if setting is not None else self.settings[0]
        (place,) = places(component, layers)
        per_language = [
            wrap(self.texts(task, code, pairs), template, setting, code) for code in codes
        ]
        columns = []
        for prompts in per_language:
            unique = unique_prompts(prompts)
            rows = self._rows(unique, place, contrast)
            position = {prompt: row for row, prompt in enumerate(unique)}
            columns.append(rows[[position[prompt] for prompt in prompts]])
        return torch.stack(columns, dim=1)

    def embeddings(
        self,
        task: str,
        output_layer: int | str,
        *,
        template: str | None = None,
        contrast: Contrast | None = None,
        pairs: Sequence[int] | None = None,
    ) -> Float[Tensor, "twice_n d"]:
        """Return the English embeddings of a task's texts, first sentences and then second ones.

        Args:
            task: Name of a task of this study.
            output_layer: As for `dysem_lab.ContrastivePrompting`.
            template: Prompt template; None is the study's first; "ck" is the mean of two.
            contrast: The intervention; None is the plain prompt.
            pairs: Positions of the pairs wanted; None is all.
        """
        place = output_place(output_layer, self.n_layers)
        parts = [
            self.vectors(
                task,
                place.component,
                template=name,
                setting="english",
                languages=["en"],
                layers=place.blocks,
                pairs=pairs,
                contrast=contrast,
            )[:, 0]
            for name in parts_of(template if template is not None else self.templates[0])
        ]
        return torch.stack(parts).mean(0)

    def _rows(
        self, prompts: list[str], place: Place, contrast: Contrast | None
    ) -> Float[Tensor, "n ..."]:
        facts = contrast_facts(self.model, contrast)
        keys = [prompt_key(prompt, MAX_TOKENS) for prompt in prompts]
        rows, found = self.store.read(space_of(facts, place), keys)
        if rows is not None and found.all():
            return rows
        for _ in self._fill(prompts, [place], [contrast]):
            pass
        return read_rows(facts, self.store, keys, [place])[place]


def _loaded(
    data: str | Path | STSData | Mapping[str, STSData],
    tasks: Sequence[str] | None,
    split: str,
    codes: Sequence[str],
) -> dict[str, STSData]:
    """Return task name → pairs, each in those of the languages that it has."""
    if isinstance(data, STSData):
        data = {data.name: data}
    if isinstance(data, Mapping):
        for name in tasks or ():
            if name not in data:
                raise choices("task", name, data)
        chosen = {name: data[name] for name in tasks or data}
        for name, pairs in chosen.items():
            if not isinstance(pairs, STSData):
                raise InputError(f"data[{name!r}] must be pairs of load_data, got {pairs!r:.200}")
        if not chosen:
            return {}
        _check_languages(codes, {name: pairs.languages for name, pairs in chosen.items()})
        return {name: _only(codes, pairs) for name, pairs in chosen.items()}
    names: list[str | None] = list(tasks) if tasks else [None]
    there = {task: available_languages(data, task, split) for task in names}
    if all(there.values()):  # otherwise loading says which files it looked for
        _check_languages(codes, {task or Path(data).name: of for task, of in there.items()})
    loaded = {}
    for task, of_task in there.items():
        pairs = load_data(data, task, split, [code for code in codes if code in of_task] or codes)
        loaded[task or pairs.name] = pairs
    return loaded


def _check_languages(codes: Sequence[str], there: Mapping[str, Sequence[str]]) -> None:
    """Raise an error unless every language is one that some task has."""
    valid = dict.fromkeys(code for of_task in there.values() for code in of_task)
    for code in codes:
        if code not in valid:
            raise choices(f"language for {'/'.join(there)}", code, valid)


def _only(codes: Sequence[str], pairs: STSData) -> STSData:
    """Return pairs in those of the languages that they have."""
    there = {code: pairs.sentences[code] for code in codes if code in pairs.languages}
    return replace(pairs, sentences=there)
