"""Labelled texts of the transfer tasks: our own small set, a local folder, or the hub.

Seven tasks of SentEval (arXiv 1803.05449), as in Contrastive Prompting (CP), arXiv 2505.12831,
Table 6, and two small ones that ship in the package.

Over 400 lines, as the form of each task and what a source may get wrong are said in full.
"""

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Int

from dysem_lab import paths
from dysem_lab.data.columns import is_missing, require_columns, texts_of
from dysem_lab.data.tables import SUFFIXES, origin_of, read_from_hub, read_table, the_file
from dysem_lab.display import amount
from dysem_lab.errors import DataError, InputError
from dysem_lab.inputs import at_least, checked, one_of, path_of, seed_of


class TransferTask(NamedTuple):
    """What is known of a task before its files are read."""

    sizes: dict[str, int]  # split → texts in SentEval, blank ones left out
    # Labels as the files have them; the position is the integer label.
    classes: tuple[str, ...] = ("0", "1")
    columns: tuple[str, ...] = ("text",)  # columns of the texts


Part = tuple[str, pd.DataFrame]  # a file or a part of the hub, with its table


class HubPart(NamedTuple):
    """A part of a task on the Hugging Face hub, with its columns of texts and of labels."""

    path: str
    split: str
    config: str | None = None
    columns: tuple[str, ...] = ("text",)
    label: str = "label"


TRANSFER_TASKS: dict[str, TransferTask] = {
    "MR": TransferTask({"all": 10662}),
    "CR": TransferTask({"all": 3771}),
    "SUBJ": TransferTask({"all": 10000}),
    "MPQA": TransferTask({"all": 10603}),
    "SST2": TransferTask({"train": 67349, "dev": 872, "test": 1821}),
    "TREC": TransferTask(
        {"train": 5452, "test": 500}, ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")
    ),
    "MRPC": TransferTask({"train": 4076, "test": 1725}, columns=("sentence1", "sentence2")),
}
DEMO_TASKS: dict[str, TransferTask] = {
    "opinion": TransferTask({"all": 60}, ("negative", "positive")),
    "question": TransferTask({"all": 60}, ("number", "person", "place")),
}


def _parts(path: str, *splits: str, **columns: Any) -> tuple[HubPart, ...]:
    return tuple(HubPart(path, split, **columns) for split in splits)


_GLUE: dict[str, Any] = {"config": "mrpc", "columns": ("sentence1", "sentence2")}
_TREC: dict[str, Any] = {"label": "label_coarse_original"}
_SENTENCE: dict[str, Any] = {"columns": ("sentence",)}
HUB: dict[str, dict[str, tuple[HubPart, ...]]] = {
    "MR": {
        "all": _parts("cornell-movie-review-data/rotten_tomatoes", "train", "validation", "test")
    },
    "CR": {"all": _parts("SetFit/SentEval-CR", "train", "test")},
    "SUBJ": {"all": _parts("SetFit/subj", "train", "test")},
    # Its dev split is taken from the others: 8,603 + 2,000 are all texts already.
    "MPQA": {"all": _parts("jxm/mpqa", "train", "test", **_SENTENCE)},
    # SetFit/sst2 has whole sentences only in train; SentEval trains on the phrases.
    "SST2": {
        "train": _parts("stanfordnlp/sst2", "train", **_SENTENCE),
        "dev": _parts("SetFit/sst2", "validation"),
        "test": _parts("SetFit/sst2", "test"),
    },
    "TREC": {split: _parts("SetFit/TREC-QC", split, **_TREC) for split in ("train", "test")},
    "MRPC": {
        "train": _parts("nyu-mll/glue", "train", "validation", **_GLUE),
        "test": _parts("nyu-mll/glue", "test", **_GLUE),
    },
}


@dataclass(frozen=True)
class TransferData:
    """Labelled texts, or pairs of texts, of one task.

    Attributes:
        task: Name of the task.
        source: Where the texts came from, for people.
        classes: Name of each class; its position is the integer label.
        texts: Split → (n texts,) or (n first, n second texts). The splits are "all" (to be
            cross-validated), "train" and "test", or "train", "dev" and "test".
        labels: Split → integer labels ``[n]``.
        n_blank: Blank texts that were left out.
        origins: Split → where its texts are from, as far as that is known: a file with its digest,
            data sets of the hub.
    """

    task: str
    source: str
    classes: tuple[str, ...]
    texts: dict[str, tuple[list[str], ...]]
    labels: dict[str, Int[np.ndarray, " n"]]
    n_blank: int = 0
    origins: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse texts and labels that do not make n items."""
        if not isinstance(self.origins, Mapping):
            raise InputError(
                f"origins must be a mapping from splits to words, got {self.origins!r:.200}"
            )
        given = (self.texts, self.labels)
        if not all(isinstance(of, Mapping) for of in given) or set(self.texts) != set(self.labels):
            raise InputError("texts and labels must be mappings from the same splits")
        texts, labels, n_classes = {}, {}, len(self.classes)
        for split, columns in self.texts.items():
            if not isinstance(columns, tuple | list) or len(columns) not in (1, 2):
                raise InputError(f"the texts of {split!r} must be one list of texts, or two")
            texts[split] = tuple(checked(column, f"{split} text") for column in columns)
            of = labels[split] = np.asarray(self.labels[split])
            if of.ndim != 1 or any(len(column) != len(of) for column in texts[split]):
                raise InputError(
                    f"{split!r} needs one label per item; there are labels {of.shape} for "
                    f"{' and '.join(str(len(column)) for column in texts[split])} texts"
                )
            whole = of.dtype.kind in "iu" and 0 <= of.min(initial=0) <= of.max(initial=0)
            if len(of) and not (whole and of.max() < n_classes):
                raise InputError(
                    f"labels of {split!r} must be whole numbers from 0 to {n_classes - 1}, the "
                    f"positions of the classes, got {of!r:.200}"
                )
        vars(self).update(texts=texts, labels=labels)

    def __len__(self) -> int:
        return sum(len(labels) for labels in self.labels.values())

    def __repr__(self) -> str:
        sizes = ", ".join(f"{split} {len(labels):,}" for split, labels in self.labels.items())
        kind = "pairs" if self.is_pairs else "texts"
        blank = f", {amount(self.n_blank, 'blank one')} left out" if self.n_blank else ""
        return (
            f"TransferData({self.task}, {kind}: {sizes}, {len(self.classes)} classes, "
            f"from {self.source}{blank})"
        )

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.texts)

    @property
    def is_pairs(self) -> bool:
        """Whether the items are pairs of texts."""
        return any(len(columns) == 2 for columns in self.texts.values())

    @property
    def digest(self) -> str:
        """Sixteen hex digits of all texts and labels."""
        digest = hashlib.sha256("\x1f".join([self.task, *self.classes]).encode())
        for split, columns in self.texts.items():
            for texts in columns:
                digest.update("\x1f".join([split, *texts]).encode())
            digest.update(self.labels[split].astype(np.int64).tobytes())
        return digest.hexdigest()[:16]

    def sample(self, n_texts: int | None, seed: int = 0) -> "TransferData":
        """Return a seeded stratified random sample of so many items of each split, in their order.

        Each class keeps its share, rounded so that the sizes add up. None, or more than there are,
        is all of a split.

        Raises:
            InputError: A size below 1, or a seed below 0.
        """
        if n_texts is None:
            return self
        size = at_least(n_texts, 1, "the size of a sample")
        rng = np.random.default_rng(seed_of(seed, "the seed"))
        kept = {
            split: _stratified(labels, min(size, len(labels)), rng)
            for split, labels in self.labels.items()
        }
        return replace(
            self,
            texts={
                split: tuple([texts[i] for i in kept[split]] for texts in columns)
                for split, columns in self.texts.items()
            },
            labels={split: labels[kept[split]] for split, labels in self.labels.items()},
        )


def _stratified(
    labels: Int[np.ndarray, " n"], size: int, rng: np.random.Generator
) -> Int[np.ndarray, " size"]:
    """Return the positions of a random sample in which each class keeps its share."""
    share = np.bincount(labels) * size / len(labels)
    counts = np.floor(share).astype(int)
    largest = np.argsort(counts - share, kind="stable")
    counts[largest[: size - counts.sum()]] += 1
    chosen = [
        rng.permutation(np.flatnonzero(labels == label))[:count]
        for label, count in enumerate(counts)
    ]
    return np.sort(np.concatenate(chosen))


def available_tasks(source: str | Path) -> tuple[str, ...]:
    """Return the transfer tasks that a source has; arguments as for `load_transfer`.

    Raises:
        DataError: A folder without any.
    """
    place = _place(source)
    if place == "demo":
        return tuple(DEMO_TASKS)
    if place == "hub":
        return tuple(TRANSFER_TASKS)
    there = tuple(
        name
        for name, task in TRANSFER_TASKS.items()
        if all(the_file(Path(place), _stem(name, split)) for split in task.sizes)
    )
    if not there:
        raise DataError(
            f"{place} has none of the transfer tasks; it needs files such as MR, TREC.train and "
            f"TREC.test, in it or in its folder 'transfer', with a suffix of {', '.join(SUFFIXES)}"
        )
    return there


def load_transfer(source: str | Path, task: str) -> TransferData:
    """Return one transfer task from our own small set, a local folder or the hub.

    White space is normalised (single blanks between words), as SentEval does.

    Args:
        source: "demo" (60 opinions and 60 questions of our own, CC0, written for this package),
            "hub", a folder, or "stsb": the folder that ``DYSEM_LAB_DATA`` names, else the hub. A
            folder has ``MR``, ``CR``, ``SUBJ``, ``MPQA``, ``SST2.train``, ``SST2.dev``,
            ``SST2.test``, ``TREC.train``, ``TREC.test``, ``MRPC.train``, ``MRPC.test`` with one of
            `dysem_lab.data.tables.SUFFIXES`, itself or in a folder ``transfer``. Columns are
            ``text`` and ``label`` (0 or 1; TREC: ABBR, DESC, ENTY, HUM, LOC, NUM), for MRPC
            ``sentence1``, ``sentence2`` and ``label``.
        task: A name of `TRANSFER_TASKS`; for "demo", "opinion" or "question".

    Raises:
        InputError: Unknown task.
        DataError: No such folder or file, a missing column, an unknown label, no texts; the message
            names file and row.

    Warns:
        UserWarning: How many blank texts were left out (CR has 4, MPQA 3); that a set of the hub
            has not as many texts as SentEval's.

    The sets of the hub are the well-known ones without loading scripts (`HUB`). They are not
    pinned to a commit and not the same files as SentEval's: MRPC is not tokenised, the order and a
    few texts differ, and which class of SUBJ is 1 may differ, which no accuracy depends on.
    """
    place = _place(source)
    known = DEMO_TASKS if place == "demo" else TRANSFER_TASKS
    one_of(task, known, "transfer task")
    if place == "demo":
        path = paths.package_file("demo_transfer.csv")
        table = read_table(path).query("task == @task")
        tables = {"all": [(str(path), table)]}
        origins = {"all": origin_of(path, path.parent)}
        return _checked(task, known[task], "the demo set of dysem-lab", tables, origins)
    if place == "hub":
        ids = dict.fromkeys(part.path for parts in HUB[task].values() for part in parts)
        tables, origins = _hub(task), _hub_origins(task)
        data = _checked(task, known[task], f"the hub ({', '.join(ids)})", tables, origins)
        _warn_of_other_sizes(data)
        return data
    tables = _folder(place, task)
    origins = {split: origin_of(file, place) for split, ((file, _),) in tables.items()}
    return _checked(task, known[task], f"local folder {Path(place).name}", tables, origins)


def _place(source: str | Path) -> str | Path:
    """Return "demo", "hub", or the folder that has the files."""
    if isinstance(source, str) and source == "stsb":
        source = paths.local_data_dir() or "hub"
    if isinstance(source, str) and source in ("demo", "hub"):
        return source
    folder = path_of(source, "the folder of transfer tasks")
    if not folder.is_dir():
        raise DataError(
            f"no folder {folder}; give 'demo', 'stsb', 'hub' or a folder of transfer tasks"
        )
    inside = folder / "transfer"
    return inside if inside.is_dir() else folder


def _stem(task: str, split: str) -> str:
    """Return the name of the file of a split, without its suffix."""
    return task if split == "all" else f"{task}.{split}"


def _folder(folder: str | Path, task: str) -> dict[str, list[Part]]:
    """Return split → its file with its table."""
    tables = {}
    for split in TRANSFER_TASKS[task].sizes:
        path = the_file(Path(folder), _stem(task, split))
        if path is None:
            raise DataError(
                f"{folder} has no {_stem(task, split)} with a suffix of {', '.join(SUFFIXES)}; it "
                f"is the {split} split of {task}"
            )
        tables[split] = [(str(path), read_table(path))]
    return tables


def _hub(task: str) -> dict[str, list[Part]]:
    """Return split → its parts on the Hugging Face hub with their tables."""
    tables: dict[str, list[Part]] = {}
    for split, parts in HUB[task].items():
        for part in parts:
            options = {"name": part.config, "split": part.split}
            table = read_from_hub(part.path, part.split, "'demo'", **options)
            names = dict(zip(part.columns, TRANSFER_TASKS[task].columns, strict=True))
            if part.label != "label":
                table = table.drop(columns="label", errors="ignore")
            table = table.rename(columns={**names, part.label: "label"})
            tables.setdefault(split, []).append((f"{part.path} ({part.split})", table))
    return tables


def _hub_origins(task: str) -> dict[str, str]:
    """Return split → its parts on the Hugging Face hub, which are not pinned."""
    return {
        split: ", ".join(
            f"{part.path} ({', '.join(filter(None, (part.config, part.split)))})" for part in parts
        )
        + ", revision not pinned"
        for split, parts in HUB[task].items()
    }


def _warn_of_other_sizes(data: TransferData) -> None:
    expected = TRANSFER_TASKS[data.task].sizes
    others = [
        f"{split} {len(labels):,}, SentEval's {expected[split]:,}"
        for split, labels in data.labels.items()
        if len(labels) != expected[split]
    ]
    if others:
        warnings.warn(
            f"{data.task} of the hub has not as many texts as SentEval's: {'; '.join(others)}",
            stacklevel=3,
        )


def _checked(
    name: str,
    task: TransferTask,
    source: str,
    tables: Mapping[str, Sequence[Part]],
    origins: Mapping[str, str],
) -> TransferData:
    """Return tables as a data set, once their columns and values are sound."""
    texts: dict[str, tuple[list[str], ...]] = {}
    labels: dict[str, Int[np.ndarray, " n"]] = {}
    blank: list[str] = []
    n_blank = 0
    for split, files in tables.items():
        items: list[tuple[tuple[str, ...], int]] = []
        for file, table in files:
            found = list(_items(file, table, task))
            kept = [item for item in found if all(item[0])]
            if n := len(found) - len(kept):
                blank.append(f"{n} of {len(found):,} in {file}")
            n_blank += n
            items += kept
        if not items:
            raise DataError(f"{files[0][0]}: no texts; {name} needs some in its {split} split")
        texts[split] = tuple(map(list, zip(*(of for of, _ in items), strict=True)))
        labels[split] = np.array([label for _, label in items], dtype=np.int64)
    if blank:
        warnings.warn(f"{name}: blank texts are left out: {'; '.join(blank)}", stacklevel=3)
    return TransferData(name, source, task.classes, texts, labels, n_blank, origins)


def _items(
    file: str, table: pd.DataFrame, task: TransferTask
) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield the texts and the integer label of each row of a file."""
    require_columns(file, table, (*task.columns, "label"))
    columns = []
    for column in task.columns:
        for row, value in enumerate(table[column].tolist()):
            if is_missing(value):
                raise DataError(f"{file}, row {row}: {column} is {value!r}, not a text")
        columns.append(
            [" ".join(text.split()) for text in texts_of(file, table[column].tolist(), column)]
        )
    for row, (label, *texts) in enumerate(zip(table["label"].tolist(), *columns, strict=True)):
        if str(label) not in task.classes:
            raise DataError(
                f"{file}, row {row}: label {label!r:.200} is none of {', '.join(task.classes)}"
            )
        yield tuple(texts), task.classes.index(str(label))
