"""A study: one model on sentence pairs in several languages, its vectors read from the store.

The questions ask a study for vectors. It knows which prompts they stand for, runs the model on
those that the store lacks, and leaves the model unloaded where nothing is missing. What a question
needs it says first (`prepare`), so that one capture makes it all, and a batch can plan it.

Over 400 lines, as texts, prompts and vectors of a study are looked up in one place.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from dysem_lab.data.sts import STSData, available_languages, load_tasks, require_languages
from dysem_lab.display import amount, card
from dysem_lab.encoders.contrastive import check_output
from dysem_lab.errors import InputError, choices
from dysem_lab.inputs import different, names_of, one_of, seed_of, several
from dysem_lab.models.capture import read_rows, space_of
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.facts import shown as shown_name
from dysem_lab.models.lens import LensModel
from dysem_lab.models.loading import DEFAULT_MODEL
from dysem_lab.models.named import NamedModel, UntrainedModel
from dysem_lab.models.passes import MAX_TOKENS
from dysem_lab.models.places import Blocks, Place, output_place, places
from dysem_lab.models.steering import Contrast, contrast_facts, require_contrast
from dysem_lab.models.store import VectorStore, prompt_key, require_store
from dysem_lab.prompts import SETTINGS, parts_of, template_parts, wrap
from dysem_lab.questions.needs import Need, Prompts, capture_needs, fill_missing, prepare
from dysem_lab.translation.named import translated, translator_of
from dysem_lab.translation.translate import Translator


class Study:
    """A model, its data and the prompts that the texts are put in.

    Args:
        model: A name for `dysem_lab.load_model`, or a model that is loaded already.
        data: A source for `dysem_lab.load_data`, which is read here, at the door, and nowhere else
            in a study; loaded pairs, or several of them by task name; ``{}`` is the model alone.
        tasks: Names of STS tasks in that source; None is its own set of pairs.
        languages: Codes wanted; each task uses those that it has, English first.
        templates: Prompt templates; "none" stands for the mean-pooling baseline, in English.
        settings: Prompt settings, "english" and "language-specific".
        split: "test" or "dev".
        pairs: The first so many pairs of each task.
        sample: A seeded random sample of so many pairs of each task.
        seed: Of the sample.
        store: Where vectors are kept; None is the user's store.
        device: As for `dysem_lab.load_model`.
        dtype: As for `dysem_lab.load_model`.
        translator: Makes renderings in those of the languages that a task lacks, as for
            `dysem_lab.translated`; None takes those that the data have.

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
        split: str = "test",
        pairs: int | None = None,
        sample: int | None = None,
        seed: int = 0,
        store: VectorStore | None = None,
        device: str = "auto",
        dtype: str = "auto",
        translator: str | Translator | None = None,
    ) -> None:
        """Check every name; the model is loaded when a vector is missing."""
        codes = list(dict.fromkeys(["en", *names_of(languages, "language")]))
        self.languages = codes
        self.templates = _parts(templates)
        self.settings = names_of(settings, "setting")
        self._check_prompts()
        named = None if tasks is None else names_of(tasks, "task")
        there = codes if translator is None else _there(data, named, split, codes)
        self.data = {
            task: pairs_of.head(pairs).sample(sample, seed)
            for task, pairs_of in _taken(data, named, split, there).items()
        }
        if translator is not None:
            made_by = translator_of(translator)
            self.data = {task: translated(of, codes, made_by) for task, of in self.data.items()}
            require_languages(codes, {task: of.languages for task, of in self.data.items()})
        self.sampling = {"pairs": pairs, "sample": sample, "seed": seed if sample else None}
        self.store = VectorStore() if store is None else require_store(store)
        self._model = NamedModel(model, device, dtype)
        self._wrapped: dict[tuple[str, str, str, str], Prompts] = {}

    def __repr__(self) -> str:
        sizes = ", ".join(
            f"{task} {amount(len(data), 'pair')} in {'/'.join(data.languages)}"
            for task, data in self.data.items()
        )
        weights = f" ({self._model.weights})" if self._model.weights else ""
        return f"Study({shown_name(self.name)}{weights}; {sizes})"

    def _repr_html_(self) -> str:
        sizes = {
            task: f"{amount(len(data), 'pair')} in {'/'.join(data.languages)}"
            for task, data in self.data.items()
        }
        prompts = {"templates": self.templates, "prompt settings": self.settings}
        shown = {"weights": self._model.weights, **sizes, **prompts}
        where = {"vectors in": str(self.store.path)}
        return card(f"Study of {shown_name(self.name)}", {**shown, **where})

    @property
    def name(self) -> str:
        """The name of the model."""
        return self._model.name

    @property
    def dtype(self) -> str:
        """The data type that the model computes in."""
        return self._model.dtype

    @property
    def lens(self) -> LensModel:
        """The model, loaded on first use; in a plan, a question that wants it ends here."""
        prepare(runs_the_model=True)
        return self._model.lens

    def release(self) -> None:
        """Let go of the loaded model; it is freed when no other study holds it."""
        self._model.release()

    @property
    def model(self) -> ModelFacts:
        """What is known of the model; it is loaded only if the store has never seen it.

        Raises:
            ModelError: As for `dysem_lab.capture` with a store.
        """
        return self._model.facts(self.store)

    @property
    def known(self) -> ModelFacts | None:
        """What is known of the model without loading it."""
        return self._model.known(self.store)

    @property
    def size(self) -> tuple[int, int] | None:
        """(L, d), from the configuration alone; None where that does not tell."""
        return self._model.size()

    @property
    def n_layers(self) -> int:
        """Number of blocks, from the configuration where that is enough."""
        return self.size[0] if self.size else self.model.n_layers

    def _check_prompts(self) -> None:
        for template in self.templates:
            for setting in self.settings:
                for code in self.languages:
                    template_parts(template, setting, code)

    def prompted(
        self,
        templates: str | Sequence[str] | None = None,
        settings: str | Sequence[str] | None = None,
        languages: str | Sequence[str] | None = None,
    ) -> "Study":
        """Return a study of the same model and pairs with other prompts; None leaves them.

        Raises:
            InputError: Unknown names, a language that this study does not have.
        """
        other = copy(self)
        if templates is not None:
            other.templates = _parts(templates)
        if settings is not None:
            other.settings = names_of(settings, "setting")
        if languages is not None:
            codes = names_of(languages, "language")
            other.languages = [one_of(code, self.languages, "language") for code in codes]
            other.data = {task: _only(codes, pairs) for task, pairs in self.data.items()}
        other._check_prompts()
        return other

    def untrained(self, seed: int = 0) -> "Study":
        """Return a study of the same pairs and prompts under a model that was never trained.

        It is made when it first has to run: `dysem_lab.untrained` of this one, as are the arguments
        and errors.
        """
        other = copy(self)
        other._model = UntrainedModel(self._model, seed_of(seed))
        return other

    def on(
        self,
        data: str | Path | STSData | Mapping[str, STSData],
        split: str = "test",
        languages: Sequence[str] | None = None,
    ) -> "Study":
        """Return a study of the same model and prompts on other pairs, such as those to fit on.

        Args:
            data: As for the class.
            split: As there.
            languages: Codes wanted; None is those of this study.

        Raises:
            InputError: A language that they do not have.
            DataError: As for `dysem_lab.load_data`.
        """
        other = copy(self)
        if languages is not None:
            other.languages = names_of(languages, "language")
            other._check_prompts()
        other.data = _taken(data, None, split, other.languages)
        other.sampling = {"pairs": None, "sample": None, "seed": None}
        other._wrapped = {}
        return other

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

    def prompts(self, task: str, template: str, setting: str, code: str) -> Prompts:
        """Return the prompts of a task's texts; each text is wrapped and hashed once."""
        # English prompts are the same in both settings.
        of = (task, template, setting if code != "en" else SETTINGS[0], code)
        if of not in self._wrapped:
            prompts = wrap(self.texts(task, code), template, setting, code)
            self._wrapped[of] = Prompts(prompts, [prompt_key(one, MAX_TOKENS) for one in prompts])
        return self._wrapped[of]

    def needs(
        self,
        components: str | Sequence[str] = "attn",
        *,
        each: str | Sequence[str] = (),
        output_layers: Sequence[int | str] | int | str = (),
        contrasts: Sequence[Contrast | None] | Contrast | None = (None,),
        templates: Sequence[str] | None = None,
    ) -> Need:
        """Return what a question will ask of this study.

        Args:
            components: Internal vectors that will be asked for, as cumulative vectors.
            each: Internal vectors that will be asked for at every layer.
            output_layers: Where embeddings will be asked for, as for
                `dysem_lab.ContrastivePrompting`; "all" is after every block that comes after the
                contrasts, and after the final norm.
            contrasts: Interventions under which all of it will be asked for; None is the plain
                prompt. They need the English setting, in which the auxiliary prompts are.
            templates: Of the study's, those under which it will be asked for; "ck" stands for its
                two. None is all.

        Raises:
            InputError: A component, layer or block that there is not, an output layer before a
                contrast, a contrast of prompts that are not in English, or a template that the
                study does not have.
        """
        if contrasts is None or isinstance(contrasts, Contrast):
            contrasts = [contrasts]
        for contrast in (given := several(contrasts, "contrasts")):
            if contrast is not None:
                require_contrast(contrast)
        contrasts = list(dict.fromkeys(given))
        if any(contrasts) and self.settings != ["english"]:
            raise InputError(
                "a contrast needs settings='english': the auxiliary prompts are in English only"
            )
        sums, layered = (names_of(names, "component") for names in (components, each))
        wanted = [
            *(places(sums) if sums else ()),
            *(places(layered, "each") if layered else ()),
        ]
        steered = [*filter(None, contrasts)]
        for place in wanted:
            for contrast in steered:
                contrast.check_reach(place, self.n_layers)
        for name in named_layers(output_layers, contrasts, self.n_layers):
            for contrast in steered:
                check_output(name, contrast, self.n_layers)
            wanted.append(output_place(name, self.n_layers))
        meant = self.templates if templates is None else _parts(templates)
        for template in meant:
            if template not in self.templates:
                raise choices("template of the study", template, self.templates)
        return Need(self, tuple(dict.fromkeys(wanted)), tuple(contrasts), tuple(meant))

    def capture(
        self,
        components: str | Sequence[str] = "attn",
        *,
        each: str | Sequence[str] = (),
        output_layers: Sequence[int | str] | int | str = (),
        contrasts: Sequence[Contrast | None] | Contrast | None = (None,),
        progress: bool = True,
    ) -> pd.DataFrame:
        """Run the model on every prompt that the store lacks; return the plan that was followed.

        One progress bar covers it all. An interrupted call loses at most the batch in flight; the
        same call again makes the rest. Arguments are those of `needs`.

        Raises:
            InputError: As for `needs`.
            ModelError: The disk has less room than the vectors will need.
        """
        need = self.needs(components, each=each, output_layers=output_layers, contrasts=contrasts)
        return capture_needs([need], progress=progress)

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
            InputError: A name that the study does not have, a language twice, or a block that the
                model does not have.
        """
        there = self.task_languages(task)
        codes = there if languages is None else different(languages, "language")
        template = template if template is not None else self.templates[0]
        setting = setting if setting is not None else self.settings[0]
        (place,) = places(component, layers)
        if not isinstance(place.blocks, str):
            place.check(self.n_layers)
        if contrast is not None:
            require_contrast(contrast)
            contrast.check_reach(place, self.n_layers)
        data = self._pairs_of(task)
        chosen = np.arange(len(data)) if pairs is None else data.positions(pairs)
        texts = [*chosen, *(chosen + len(data))]
        for code in codes:
            one_of(code, there, "language")
        columns = []
        for code in codes:
            prompts, keys = self.prompts(task, template, setting, code)
            unique = {keys[i]: prompts[i] for i in texts}
            row_of = {key: row for row, key in enumerate(unique)}
            rows = self._rows(unique, place, contrast)
            columns.append(rows[[row_of[keys[i]] for i in texts]])
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
        self, unique: Mapping[str, str], place: Place, contrast: Contrast | None
    ) -> Float[Tensor, "n ..."]:
        """Return the vectors of different prompts, by their keys; those not stored are captured."""
        facts = contrast_facts(self.model, contrast)
        rows, found = self.store.read(space_of(facts, place), list(unique))
        if rows is not None and found.all():
            return rows
        for _ in fill_missing(self, unique, [place], [contrast]):
            pass
        return read_rows(facts, self.store, list(unique), [place])[place]


def _parts(templates: str | Sequence[str]) -> list[str]:
    """Return the different templates that names stand for: "ck" is two."""
    return list(dict.fromkeys(chain(*map(parts_of, names_of(templates, "template")))))


def named_layers(
    named: Sequence[int | str] | int | str,
    contrasts: Sequence[Contrast | None],
    n_layers: int,
) -> list[int | str]:
    """Return output layers as a list; "all" are those after the contrasts (see `Study.needs`)."""
    if isinstance(named, str) and named == "all":
        first = max((contrast.layer for contrast in contrasts if contrast), default=0) + 1
        return [*range(first, n_layers + 1), "final"]
    return [named] if isinstance(named, str | int) else several(named, "output_layers", 0)


def _taken(
    data: str | Path | STSData | Mapping[str, STSData],
    tasks: Sequence[str] | None,
    split: str,
    codes: Sequence[str],
) -> dict[str, STSData]:
    """Return task name → pairs, each in those of the languages that it has.

    The one place where a study has data loaded: its last line, for a source by its name.
    """
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
        require_languages(codes, {name: pairs.languages for name, pairs in chosen.items()})
        return {name: _only(codes, pairs) for name, pairs in chosen.items()}
    return load_tasks(data, tasks, split, codes)


def _there(
    data: str | Path | STSData | Mapping[str, STSData],
    tasks: Sequence[str] | None,
    split: str,
    codes: Sequence[str],
) -> list[str]:
    """Return those of some languages that some task has already; arguments as for `_taken`."""
    if isinstance(data, str | Path):
        named: Sequence[str | None] = tasks or [None]
        of_tasks = [available_languages(data, task, split) for task in named]
    else:
        given = [data] if isinstance(data, STSData) else data.values()
        of_tasks = [pairs.languages for pairs in given]
    return [code for code in codes if any(code in of_task for of_task in of_tasks)]


def _only(codes: Sequence[str], pairs: STSData) -> STSData:
    """Return pairs in those of the languages that they have."""
    there = {code: pairs.sentences[code] for code in codes if code in pairs.languages}
    return replace(pairs, sentences=there)
