"""What a question needs: said before anything runs, so that one capture makes it all.

A batch asks all its questions first (`planning`), captures what they need by one model at a time,
and then lets them answer from the store.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from dysem_lab.data.sts import STSData
from dysem_lab.data.transfer_data import TransferData
from dysem_lab.display import Progress, amount, say
from dysem_lab.errors import InputError, ModelError
from dysem_lab.models.capture import fill, fill_contrasts, missing_rows, space_of, stored_with
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.lens import LensModel
from dysem_lab.models.places import Place, places
from dysem_lab.models.steering import Contrast, contrast_facts, warn_if_alpha_is_undone
from dysem_lab.models.store import Space, VectorStore

# Stands for a model that the store has never seen, in plans.
_UNKNOWN = ModelFacts("", "", "", "", "", 0, 0, "")


class Prompts(NamedTuple):
    """The prompts of a task's texts, and their keys in the store."""

    prompts: Sequence[str]
    keys: list[str]


class Prompted(Protocol):
    """What is needed of a study (`dysem_lab.questions.study.Study`) to capture its prompts."""

    templates: list[str]
    settings: list[str]
    languages: list[str]
    data: dict[str, STSData]
    store: VectorStore

    @property
    def name(self) -> str:
        """The name of the model."""
        ...

    @property
    def dtype(self) -> str:
        """The data type that the model computes in."""
        ...

    @property
    def lens(self) -> LensModel:
        """The model, loaded on first use."""
        ...

    @property
    def known(self) -> ModelFacts | None:
        """What is known of the model without loading it."""
        ...

    @property
    def size(self) -> tuple[int, int] | None:
        """(L, d), where that is known without loading the model."""
        ...

    def prompts(self, task: str, template: str, setting: str, code: str) -> Prompts:
        """Return the prompts of a task's texts."""
        ...

    def release(self) -> None:
        """Let go of the loaded model."""
        ...


@dataclass(frozen=True)
class Need:
    """What a question will ask of a study; from `Study.needs`.

    Attributes:
        study: The study; its tasks, prompt settings and languages are all meant.
        places: What will be read of each prompt; "none" is read by mean pooling instead.
        contrasts: Under which interventions; None is the plain prompt.
        templates: Of the study's, those that are meant.
    """

    study: Prompted
    places: tuple[Place, ...]
    contrasts: tuple[Contrast | None, ...]
    templates: tuple[str, ...]

    @property
    def reads_each(self) -> bool:
        """Whether vectors of every layer will be asked for."""
        return any(place.blocks == "each" for place in self.places)

    def places_of(self, template: str) -> tuple[Place, ...]:
        """Return what will be read of a template's prompts."""
        return tuple(places("mean")) if template == "none" else self.places

    def contrasts_of(self, template: str) -> tuple[Contrast | None, ...]:
        """Return the interventions under which a template's prompts will run."""
        return (None,) if template == "none" else self.contrasts

    def groups(self) -> Iterator[tuple[str, str, str, dict[str, str]]]:
        """Yield (template, setting, language, key → prompt) of everything that is meant."""
        study = self.study
        for template in self.templates:
            for code in ["en"] if template == "none" else study.languages:
                # English prompts are the same in both settings.
                for setting in study.settings[:1] if code == "en" else study.settings:
                    unique: dict[str, str] = {}
                    for task, data in study.data.items():
                        if code in data.languages:
                            prompts, keys = study.prompts(task, template, setting, code)
                            unique |= dict(zip(keys, prompts, strict=True))
                    if unique:
                        yield template, setting, code, unique

    def plan(self, planned: set[tuple[str, Space]] | None = None) -> pd.DataFrame:
        """Return how many forward passes and how much disk it still takes.

        Args:
            planned: What needs of this model before this one will have captured; what this one
                adds is added to it.

        Returns:
            One row per template, setting and language: ``texts`` (different prompts), ``passes``
            (those that the store lacks; one pass serves all contrasts of the last token),
            ``megabytes`` (what they will add; NaN where neither the store nor the model's
            configuration tells the width).
        """
        planned = set() if planned is None else planned
        rows = []
        for template, setting, code, unique in self.groups():
            wanted = self.places_of(template)
            new = {
                contrast: self._new(list(unique), wanted, contrast, planned)
                for contrast in self.contrasts_of(template)
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
                    "texts": len(unique),
                    "passes": len(set().union(*together)) + sum(map(len, alone)),
                    "megabytes": sum(map(len, new.values())) * self._row_bytes(wanted) / 1e6,
                }
            )
        columns = ["template", "setting", "language", "texts", "passes", "megabytes"]
        return pd.DataFrame(rows, columns=columns)

    def _new(
        self,
        keys: list[str],
        wanted: Sequence[Place],
        contrast: Contrast | None,
        planned: set[tuple[str, Space]],
    ) -> set[str]:
        """Return the prompts that neither the store nor the plan so far has; plan them."""
        store, known = self.study.store, self.study.known
        facts = contrast_facts(known or _UNKNOWN, contrast)
        lacking = {
            (keys[i], space_of(facts, place))
            for place in wanted
            for i in (missing_rows(facts, store, keys, [place]) if known else range(len(keys)))
        }
        new = {key for key, _ in lacking - planned}
        planned.update(
            (key, space_of(facts, place)) for key in new for place in self._stored(wanted)
        )
        return new

    def _stored(self, wanted: Sequence[Place]) -> Sequence[Place]:
        return wanted if any(self.contrasts) else stored_with(wanted)

    def _row_bytes(self, wanted: Sequence[Place]) -> float:
        """Return the bytes that one captured prompt adds to the store."""
        known = self.study.known
        size = (known.n_layers, known.d_model) if known else self.study.size
        if size is None:
            return float("nan")
        n_layers, d_model = size
        return sum(
            self.study.store.row_bytes(
                str(place.blocks), d_model * (n_layers if place.blocks == "each" else 1)
            )
            for place in self._stored(wanted)
        )

    def fill(self, plan: pd.DataFrame) -> Iterator[int]:
        """Capture what a plan counts, yielding after each batch how many texts it held.

        Raises:
            ModelError: The disk has less room than the vectors will need.
        """
        if not plan["passes"].sum():
            return
        store = self.study.store
        megabytes, free = plan["megabytes"].sum(), shutil.disk_usage(store.path.parent).free
        if megabytes > free / 1e6:
            raise ModelError(
                f"the vectors need about {megabytes:,.0f} MB in {store.path}, but only "
                f"{free / 1e6:,.0f} MB are free; take a smaller sample, or prune with "
                "`dysem-lab store`"
            )
        alike: dict[tuple[str, str], dict[str, str]] = {}  # whose beginning is computed once
        for template, setting, code, unique in self.groups():
            begins = "english" if setting == "english" else code
            alike.setdefault((template, begins), {}).update(unique)
        for (template, _), unique in alike.items():
            wanted, contrasts = self.places_of(template), self.contrasts_of(template)
            yield from fill_missing(self.study, unique, wanted, contrasts)

    def capture(self, progress: Progress) -> None:
        """Run the model on every prompt that the store lacks, reporting after each batch.

        Raises:
            ModelError: As for `fill`.
        """
        plan = self.plan()
        done, total = 0, int(plan["passes"].sum())
        if total:
            progress(done, total, "Capture")
        for n_texts in self.fill(plan):
            done += n_texts
            progress(done, total, "Capture")


def fill_missing(
    study: Prompted,
    unique: Mapping[str, str],
    wanted: Sequence[Place],
    contrasts: Sequence[Contrast | None],
) -> Iterator[int]:
    """Capture those of different prompts, by their keys, that the store lacks."""
    prompts = list(unique.values())
    if any(contrasts):
        for contrast in filter(None, contrasts):
            warn_if_alpha_is_undone(contrast, study.lens)
        yield from fill_contrasts(study.lens, prompts, contrasts, wanted, study.store)
    else:
        keys = list(unique)
        only = missing_rows(study.lens.facts, study.store, keys, wanted)
        yield from fill(study.lens, prompts, keys, wanted, study.store, only)


def capture_needs(needs: Sequence[Need], *, progress: bool = True) -> pd.DataFrame:
    """Run the models on every prompt that the store lacks; return the plan that was followed.

    Raises:
        ModelError: The disk has less room than the vectors will need.
    """
    planned: dict[tuple[str, str], set[tuple[str, Space]]] = {}
    plans = [
        need.plan(planned.setdefault((need.study.name, need.study.dtype), set())) for need in needs
    ]
    whole = pd.concat(plans, ignore_index=True)
    n_passes = int(whole["passes"].sum())
    if progress and n_passes:
        megabytes = whole["megabytes"].sum(skipna=False)
        size = "" if np.isnan(megabytes) else f", about {megabytes:,.0f} MB"
        stores = " and ".join(dict.fromkeys(str(need.study.store.path) for need in needs))
        say(
            f"{amount(n_passes, 'forward pass')} (of {whole['texts'].sum():,} prompts; the others "
            f"are stored){size} in {stores}"
        )
    hidden = not progress or not n_passes
    with tqdm(total=n_passes, desc="capture", unit="text", disable=hidden) as bar:
        for need, plan in zip(needs, plans, strict=True):
            for n_texts in need.fill(plan):
                bar.update(n_texts)
    return whole


# --- what a question needs, said before anything runs


class Planned(Exception):  # noqa: N818 - nothing is wrong
    """Ends a question in a plan, once it has said what it needs."""


@dataclass
class Ask:
    """What a question said that it needs.

    Attributes:
        needs: Vectors, by study.
        digests: Of all data that it reads.
        runs_the_model: Whether it runs the model besides, which no plan counts.
    """

    needs: list[Need]
    digests: list[str]
    runs_the_model: bool


_asked: ContextVar[list[Ask] | None] = ContextVar("asked", default=None)


@contextmanager
def planning() -> Iterator[list[Ask]]:
    """Collect what questions need: inside, each ends in `Planned` instead of computing."""
    asked: list[Ask] = []
    token = _asked.set(asked)
    try:
        yield asked
    finally:
        _asked.reset(token)


def prepare(
    *needs: Need,
    data: Iterable[STSData | TransferData] = (),
    runs_the_model: bool = False,
    check: Callable[[], None] | None = None,
) -> None:
    """Say what a question needs, and capture it: the first thing that a question does.

    Args:
        needs: Vectors, from `Study.needs`.
        data: What it reads besides the studies' pairs.
        runs_the_model: It will run the model besides, which no plan counts.
        check: Refuses what only the loaded model shows to be wrong; no plan calls it.

    Raises:
        Planned: In a plan, which ends here.
        InputError: A study has no pairs.
        ModelError: As for `capture_needs`.
    """
    if any(not need.study.data for need in needs):
        raise InputError("the study has no pairs; give it some, as dl.Study(model, 'demo')")
    asked = _asked.get()
    if asked is not None:
        studies = [pairs for need in needs for pairs in need.study.data.values()]
        digests = [one.digest for one in (*studies, *data)]
        asked.append(Ask(list(needs), digests, runs_the_model))
        raise Planned
    if check is not None:
        check()
    if needs:
        capture_needs(needs)
