"""A finding: what a question returns. A table, a figure, a line, and what they were measured on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from dysem_lab.data.sts import STSData
from dysem_lab.display import amount
from dysem_lab.models.facts import ModelFacts, shown
from dysem_lab.questions.names import NO_BREAK, said
from dysem_lab.questions.saving import file_name, record, save_figure
from dysem_lab.questions.study import Study
from dysem_lab.translation.named import translator_in


@dataclass(frozen=True)
class Facts:
    """What a finding was measured on. As a string it is the line under the figure's title.

    Attributes:
        model: The model.
        data: What is said of the data: name, how many, how they were drawn; "" is none.
        label: The data in a file name, and
        size: how many there are; None is no data.
        sources: One record per data set, as JSON values; its "label" is what the gallery shows.
        settings: Of the question, as it was asked: names → JSON values. Blocks are 0-based here
            ("layer"), and 1-based in words.
        unsaid: Settings that belong into the record, but not into the line.
        recorded: What else belongs into the record.
    """

    model: ModelFacts
    data: str = ""
    label: str = ""
    size: int | None = None
    sources: Sequence[Mapping[str, object]] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    unsaid: Mapping[str, object] = field(default_factory=dict)
    recorded: Mapping[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        words = [said(name, of) for name, of in self.settings.items() if of is not None]
        # No line ends between a block and the α that belongs to it.
        settings = ", ".join(words).replace(", α", f",{NO_BREAK}α")
        return ", ".join(filter(None, [self.model.label, self.data, settings]))

    def record(self) -> dict[str, object]:
        """Return what is needed to make it again: code, model, data, settings, versions."""
        parameters = {**self.settings, **self.unsaid}
        return record(self.model, self.sources, {**self.recorded, "parameters": parameters})


def facts_of(study: Study, tasks: Sequence[str] | None = None, /, **settings: object) -> Facts:
    """Return the facts of what was measured on a study.

    Args:
        study: Its model, pairs, templates and prompt settings are in them.
        tasks: Those that are named and counted, where others are the same pairs again; None is
            all.
        **settings: Of the question.
    """
    counted = [study.data[task] for task in (study.data if tasks is None else tasks)]
    sizes = [len(data) for data in counted]
    names = [data.name for data in counted]
    words = ""
    if len(names) == 1:
        words = f"{names[0]}, {amount(sizes[0], 'pair')}"
    elif names:
        words = f"{len(names)} tasks with {amount(sum(sizes), 'pair')}"
    pairs, sample = study.sampling["pairs"], study.sampling["sample"]
    if sample is not None and sample <= max(sizes, default=0):
        at_most = "at most " if sample > min(sizes) else ""
        first = f" from its first {pairs:,}" if pairs is not None else ""
        seed = f"seed {study.sampling['seed']}"
        if len(names) == 1:
            words = f"{names[0]}, {amount(sample, 'random pair')}{first} ({seed})"
        else:
            words += f" (random sample of {at_most}{sample:,} per task{first}, {seed})"
    elif pairs is not None and pairs <= max(sizes, default=0):
        words += " (the first of each task)" if len(names) > 1 else " (the first)"
    prompts = {"templates": study.templates, "prompt_settings": study.settings}
    return Facts(
        study.model,
        ", ".join(filter(None, [words, _translated(counted)])),
        (names[0] if len(names) == 1 else f"{len(names)} tasks") if names else "",
        sum(sizes) if names else None,
        sources_of(study),
        settings,
        recorded={"sampling": study.sampling, **prompts},
    )


def _translated(several: Sequence[STSData]) -> str:
    """Return in words which languages of the data a translator made; "" where it made none."""
    made: list[dict[str, list[str]]] = []
    for data in several:
        by_name: dict[str, list[str]] = {}
        for code in data.languages:
            if name := translator_in(data.origins.get(code, "")):
                by_name.setdefault(shown(name), []).append(code)
        made.append(by_name)
    names = list(dict.fromkeys(name for by_name in made for name in by_name))
    if not names:
        return ""
    if all(by_name == made[0] for by_name in made):
        return ", ".join(f"{'/'.join(made[0][name])} by {name}" for name in names)
    return f"translated by {' and '.join(names)} where the data have none"


def sources_of(study: Study) -> list[dict[str, object]]:
    """Return one record per task of a study, as JSON values."""
    return [
        {
            "label": f"{data.name} {amount(len(data), 'pair')} ({'/'.join(data.languages)})",
            "task": task,
            "name": data.name,
            "source": data.source,
            "origins": {code: data.origins.get(code, "not known") for code in data.languages},
            "digest": data.digest,
            "languages": list(data.languages),
            "n_pairs": len(data),
            "n_dropped": data.n_dropped,
        }
        for task, data in study.data.items()
    ]


@dataclass(frozen=True)
class Finding:
    """The answer to a question. Shows itself in a notebook, and prints as its caption.

    Attributes:
        kind: What is shown; file names begin with it.
        table: The numbers, tidy.
        figure: The picture of them.
        caption: One line with the numbers that matter.
        facts: What it was measured on.
        above: HTML that stands above the figure, in a notebook and on the saved page.
    """

    kind: str
    table: pd.DataFrame
    figure: go.Figure
    caption: str
    facts: Facts
    above: str = field(default="", kw_only=True)

    def __str__(self) -> str:
        return self.caption

    def __repr__(self) -> str:
        return f"Finding({self.kind}, {amount(len(self.table), 'row')}, {self.facts})"

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        print(self.caption)  # noqa: T201 - in a notebook
        if self.above:
            display(HTML(self.above))
        display(self.figure)

    @property
    def name(self) -> str:
        """The name of its files, without suffix: kind, model, data and how much of it."""
        return file_name(self.kind, self.facts.model, self.facts.label, self.facts.size)

    def save(self, out: str | Path) -> dict[str, Path]:
        """Write ``.png``, ``.html``, ``.csv`` and ``.json`` into a folder; return their paths.

        Raises:
            DataError: As for `dysem_lab.questions.saving.save_figure`.

        Warns:
            UserWarning: As there.
        """
        return save_figure(
            self.figure,
            self.table,
            self.name,
            out,
            self.facts.record(),
            self.caption,
            self.above,
        )
