"""Sentence pairs with gold similarity scores, in one or more languages, aligned by row.

Three sources, one result: the demo set in the package, a local folder, and the Hugging Face hub.

Over 400 lines, as what each of them may get wrong is said in full.
"""

import hashlib
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from dysem_lab import paths
from dysem_lab.data.columns import (
    is_missing,
    pair_numbers,
    ratings,
    require_columns,
    require_same_ratings,
    texts_of,
)
from dysem_lab.data.languages import LANGUAGES, language_of
from dysem_lab.data.sts_tasks import HUB_LANGUAGES, MULTILINGUAL_BY, MULTILINGUAL_STSB, TASKS
from dysem_lab.data.tables import SUFFIXES, origin_of, read_from_hub, read_table, the_file
from dysem_lab.display import amount, card
from dysem_lab.errors import DataError, InputError
from dysem_lab.inputs import array_of, at_least, checked, listed, names_of, one_of, path_of, seed_of

MAX_SCORE = 5.0
NAME = re.compile(r"[\w-]{1,40}")  # of a split or a language, as it stands in the name of a file
DEMO_SCORES = "scores assigned by its writers"


@dataclass(frozen=True)
class STSData:
    """Sentence pairs in one or more languages with one gold score per pair.

    Attributes:
        name: Task and split, such as "STSB test".
        source: Where the pairs came from, for people.
        gold: Scores from 0 (unrelated) to 5 (same meaning), float64 ``[n]``: of the published tasks
            the mean rating by annotators, of the demo set what its writers assigned.
        sentences: Language → (first sentences, second sentences), n each, aligned by row.
        rows: 0-based row of each pair in the complete file (SICK: its pair_ID), int64 ``[n]``.
        subset: Part of the data that a pair belongs to (genre, phenomenon), n strings.
        n_dropped: Rows left out because a language lacks them.
        origins: Language → where its texts are from, as far as that is known: a file with its
            digest, a data set with its revision, who translated them.
    """

    name: str
    source: str
    gold: Float[np.ndarray, " n"]
    sentences: dict[str, tuple[list[str], list[str]]]
    rows: Int[np.ndarray, " n"]
    subset: list[str]
    n_dropped: int = 0
    origins: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse ratings, rows and sentences that do not make n pairs."""
        gold, rows = array_of(self.gold, "gold"), array_of(self.rows, "rows")
        for name, values, kinds in (("gold", gold, "fiu"), ("rows", rows, "iu")):
            if values.ndim != 1 or (values.size and values.dtype.kind not in kinds):
                raise InputError(f"{name} must be n numbers, got {values.dtype} {values.shape}")
        if not np.isfinite(gold).all():
            raise InputError(f"gold {int(np.isfinite(gold).argmin())} is no number")
        if rows.size and rows.max() > np.iinfo(np.int64).max:
            raise InputError(f"row {int(rows.argmax())} is beyond int64: {rows.max()}")
        if not isinstance(self.origins, Mapping):
            raise InputError(
                f"origins must be a mapping from languages to words, got {self.origins!r:.200}"
            )
        if not isinstance(self.sentences, Mapping):
            raise InputError("sentences must be a mapping from languages to two lists of texts")
        names_of(list(self.sentences), "language")
        sentences = {}
        for code, sides in self.sentences.items():
            if not isinstance(sides, tuple | list) or len(sides) != 2:
                raise InputError(f"the sentences in {code!r} must be two lists of texts")
            first, second = (checked(side, f"{code} sentence") for side in sides)
            sentences[code] = (first, second)
        subset = listed(self.subset, "subset")
        lengths = {len(side) for sides in sentences.values() for side in sides}
        if lengths | {len(rows), len(subset)} != {len(gold)}:
            raise InputError(
                f"{len(gold)} ratings need as many rows, subsets and sentences; there are "
                f"{len(rows)}, {len(subset)} and {sorted(lengths)}"
            )
        gold, rows = gold.astype(np.float64, copy=False), rows.astype(np.int64, copy=False)
        vars(self).update(gold=gold, rows=rows, sentences=sentences, subset=subset)

    def __len__(self) -> int:
        return len(self.gold)

    def __repr__(self) -> str:
        dropped = f", {amount(self.n_dropped, 'incomplete row')} dropped" if self.n_dropped else ""
        return (
            f"STSData({self.name}, {amount(len(self), 'pair')}, {'/'.join(self.languages)}, "
            f"from {self.source}{dropped})"
        )

    def _repr_html_(self) -> str:
        return card(
            f"STSData {self.name}",
            {
                "pairs": len(self),
                "languages": self.languages,
                "scores": f"{self.gold.min():g} to {self.gold.max():g}" if len(self) else None,
                "subsets": len(set(self.subset)),
                "source": self.source,
                "incomplete rows dropped": self.n_dropped,
            },
        )

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that are loaded."""
        return tuple(self.sentences)

    def texts(self, language: str = "en") -> list[str]:
        """Return the n first sentences, then the n second ones, in one language."""
        first, second = self.sentences[one_of(language, self.sentences, "language")]
        return [*first, *second]

    def english_pairs(self) -> list[frozenset[str]]:
        """Return the letters and digits of each pair's two English texts, to tell pairs apart.

        Two pairs are the same whatever their order, case, spaces and punctuation, in which the
        sources of STS-B and of STS12 to STS16 differ.
        """
        sides = ([_letters(text) for text in side] for side in self.sentences["en"])
        return [frozenset(pair) for pair in zip(*sides, strict=True)]

    def pair(self, index: int) -> tuple[dict[str, str], dict[str, str]]:
        """Return one pair, as `dysem_lab.explain` takes it: language → each sentence in it.

        Args:
            index: Position of the pair, from 0; not its row in the file.

        Raises:
            InputError: As for `positions`.
        """
        (i,) = self.positions([index])
        first, second = (
            {code: of[side][i] for code, of in self.sentences.items()} for side in (0, 1)
        )
        return first, second

    @property
    def digest(self) -> str:
        """Sixteen hex digits of all sentences and ratings."""
        digest = hashlib.sha256(self.gold.tobytes())
        for language in self.languages:
            digest.update("\x1f".join([language, *self.texts(language)]).encode())
        return digest.hexdigest()[:16]

    def positions(self, index: Sequence[int] | np.ndarray) -> Int[np.ndarray, " rows"]:
        """Return the positions that are meant: themselves, or where a mask of n is True.

        Raises:
            InputError: Neither whole numbers below n nor a mask; names what came.
        """
        if isinstance(index, list) and len({isinstance(i, bool) for i in index}) > 1:
            raise InputError("select takes positions or a mask, got some of both")
        index = array_of(index, "index")
        wrong = "select takes positions, which are whole numbers, or a mask, got"
        if index.ndim != 1 or (index.size and index.dtype.kind not in "iub"):
            raise InputError(f"{wrong} {index!r:.200}")
        if index.dtype == bool:
            if len(index) != len(self):
                raise InputError(f"a mask of {len(self)} pairs must be as long, got {len(index)}")
            index = np.flatnonzero(index)
        if index.size and not (-len(self) <= index.min() and index.max() < len(self)):
            raise InputError(
                f"positions of {len(self)} pairs go from 0 to {len(self) - 1}, got "
                f"{index.min()} to {index.max()}"
            )
        return index.astype(np.int64) % max(1, len(self))

    def select(self, index: Sequence[int] | np.ndarray) -> "STSData":
        """Return the pairs at these `positions`, or where a mask of n is True."""
        index = self.positions(index)
        return replace(
            self,
            gold=self.gold[index],
            rows=self.rows[index],
            subset=[self.subset[i] for i in index],
            sentences={
                language: ([first[i] for i in index], [second[i] for i in index])
                for language, (first, second) in self.sentences.items()
            },
        )

    def sample(self, n_pairs: int | None, seed: int = 0) -> "STSData":
        """Return a seeded random sample in row order; None or more than there are is all of them.

        Samples of one seed are nested: a larger one contains the smaller.

        Raises:
            InputError: A size below 1, or a seed below 0.
        """
        size = n_pairs if n_pairs is None else at_least(n_pairs, 1, "the size of a sample")
        order = np.random.default_rng(seed_of(seed, "the seed")).permutation(len(self))
        return self.select(np.sort(order[:size]))

    def head(self, n_pairs: int | None) -> "STSData":
        """Return the first pairs; None or more than there are is all of them.

        Raises:
            InputError: A number below 1.
        """
        size = n_pairs if n_pairs is None else at_least(n_pairs, 1, "the number of pairs")
        return self.select(range(len(self))[:size])


def _letters(text: str) -> str:
    return "".join(sign for sign in text.casefold() if sign.isalnum())


def load_data(
    source: str | Path = "demo",
    task: str | None = None,
    split: str = "test",
    languages: str | Iterable[str] = ("en",),
) -> STSData:
    """Return sentence pairs from the demo set, a local folder or the hub.

    Args:
        source: "demo" (132 pairs of our own in twelve languages), "hub", a folder, or "stsb": STS-B
            from the folder that ``DYSEM_LAB_DATA`` names, else from the hub.
        task: A name of `TASKS`. For a folder, None takes its files ``<split>.<language>.csv`` where
            there are any, else "STSB"; for the hub, "STSB".
        split: "test" or "dev" (STS-B and own data; the other tasks have one set of pairs). Another
            number of English pairs than a task's published one gives a warning.
        languages: Code or codes of the languages wanted; rows that one of them lacks are dropped
            and counted. Files are aligned by `dysem_lab.data.tables.pair_numbers`.

    Raises:
        InputError: Unknown task, or no languages.
        DataError: A missing file, wrong columns, a score outside 0–5, an empty sentence, languages
            that are not aligned; the message names file and row. A task that is not on the hub.
    """
    codes = tuple(dict.fromkeys(names_of(languages, "language")))
    if not codes:
        raise InputError("languages is empty; ask for at least one, such as ('en',)")
    source, task = _place(source, task, split, codes)
    if source == "demo":
        if task is not None:
            raise InputError(
                f"the demo set has no task {task!r}; leave task out, or take it from 'stsb', 'hub' "
                "or a folder"
            )
        place = f"the demo set of dysem-lab ({split}; {DEMO_SCORES})"
        tables = _folder(paths.demo_dir(), None, split, codes)
        return _aligned("demo", place, tables, _file_origins(tables, paths.demo_dir()))
    if source == "hub":
        task = task or "STSB"
        ids = [TASKS[task].hub] if "en" in codes else []
        ids += [MULTILINGUAL_STSB[0]] if set(codes) - {"en"} else []
        place, tables = f"the hub ({', '.join(ids)})", _hub(task, split, codes)
        origins = {code: _hub_origin(task, code) for code in codes}
    else:
        folder = path_of(source, "the folder of STS files")
        if folder == paths.local_data_dir() and not folder.is_dir():
            raise DataError(f"{paths.DATA_VARIABLE} names {folder}, which is no folder; correct it")
        if not folder.is_dir():
            raise DataError(
                f"no folder {folder}; give 'demo', 'stsb', 'hub' or a folder of STS files"
            )
        if task is None and the_file(folder, f"{split}.{codes[0]}") is None:
            task = "STSB"
        place, tables = f"local folder {folder.name}", _folder(folder, task, split, codes)
        origins = _file_origins(tables, folder)
        if task is None:
            return _aligned(folder.name, place, tables, origins)
    data = _aligned(f"{task} {split}", place, tables, origins, TASKS[task].part)
    _warn_of_another_size(data, task, split, tables)
    return data


@cache
def demo_data() -> STSData:
    """Return the demo set in all its languages."""
    return load_data("demo", languages=LANGUAGES)


def available_languages(
    source: str | Path, task: str | None = None, split: str = "test"
) -> tuple[str, ...]:
    """Return which of the twelve languages a source has pairs in; arguments as for `load_data`."""
    source, task = _place(source, task, split)
    if source == "hub":
        if not TASKS[task or "STSB"].hub:
            return ()
        return HUB_LANGUAGES if (task or "STSB") == "STSB" else ("en",)
    folder = paths.demo_dir() if source == "demo" else path_of(source, "the folder of STS files")
    own = any(the_file(folder, f"{split}.{code}") for code in LANGUAGES)
    patterns = TASKS[task or "STSB"].folder if task or not own else ("{split}.{language}",)
    if "{language}" not in patterns[0]:
        return ("en",)
    return tuple(
        code
        for code in LANGUAGES
        if any(the_file(folder, p.format(split=split, language=code)) for p in patterns)
    )


USUAL_LANGUAGES = ("en", "ja", "ru")  # of a consensus that nobody has chosen


def languages_among(
    source: str | Path,
    tasks: Sequence[str] | None,
    split: str = "test",
    wanted: Sequence[str] = USUAL_LANGUAGES,
) -> list[str]:
    """Return those of some languages that a source has; where that is one, as many of its own.

    Args:
        source: As for `load_data`, like `split`.
        tasks: Some of them have the languages; None is the source's own pairs.
        split: As there.
        wanted: Codes, in the order of the result.
    """
    names: Sequence[str | None] = tasks or [None]
    there = {code: None for task in names for code in available_languages(source, task, split)}
    kept = [code for code in wanted if code in there]
    return kept if len(kept) > 1 else list(there)[: len(wanted)]


def load_tasks(
    source: str | Path,
    tasks: Sequence[str] | None = None,
    split: str = "test",
    languages: Sequence[str] = ("en",),
) -> dict[str, STSData]:
    """Return task → pairs, each in those of the languages that it has.

    Args:
        source: As for `load_data`, like `split`.
        tasks: None is the source's own pairs.
        split: As there.
        languages: Each of them is one that some task has.

    Raises:
        InputError: One that none has, or as for `load_data`, as are the other errors.
    """
    names: list[str | None] = list(tasks) if tasks else [None]
    there = {task: available_languages(source, task, split) for task in names}
    if all(there.values()):  # otherwise loading says which files it looked for
        rephrased = [code for code in languages if language_of(code) != code]  # as of these
        there = {task: (*of, *rephrased) for task, of in there.items()}
        require_languages(languages, {task or Path(source).name: of for task, of in there.items()})
    loaded = {}
    for task, of_task in there.items():
        known = [code for code in languages if code in of_task]
        pairs = load_data(source, task, split, known or languages)
        loaded[task or pairs.name] = pairs
    return loaded


def require_languages(codes: Sequence[str], there: Mapping[str, Sequence[str]]) -> None:
    """Raise `InputError` unless every language is one that some task has."""
    valid = dict.fromkeys(code for of_task in there.values() for code in of_task)
    for code in codes:
        one_of(code, valid, f"language for {'/'.join(there)}")


def _place(
    source: str | Path, task: str | None, split: str, codes: Sequence[str] = ()
) -> tuple[str | Path, str | None]:
    """Return source and task without the abbreviation "stsb", once all names can be such."""
    if not isinstance(source, str | Path):
        raise InputError(f"give 'demo', 'stsb', 'hub' or a folder of STS files, not {source!r:.99}")
    if task is not None:
        one_of(task, TASKS, "task")
    for what, name in (("split", split), *(("language", code) for code in codes)):
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise InputError(f"{what} must be a name such as 'test' or 'en', got {name!r:.200}")
    if source == "stsb":
        return paths.local_data_dir() or "hub", task or "STSB"
    return source, task


def _folder(
    folder: Path, task: str | None, split: str, codes: Sequence[str]
) -> dict[str, tuple[str, pd.DataFrame]]:
    """Return language → (file name, table) from a local folder."""
    if task and split != "test" and "{split}" not in TASKS[task].folder[0]:
        raise InputError(f"{task} has one set of pairs; use split='test', not {split!r}")
    patterns = TASKS[task].folder if task else ("{split}.{language}",)
    tables = {}
    for code in codes:
        stems = [pattern.format(split=split, language=code) for pattern in patterns]
        file = next(filter(None, (the_file(folder, stem) for stem in stems)), None)
        if file is None or (code != "en" and "{language}" not in patterns[0]):
            raise DataError(
                f"{folder} has no {task or split} pairs in {code!r}; looked for "
                f"{' or '.join(stems)} with a suffix of {', '.join(SUFFIXES)}"
            )
        tables[code] = (str(file), read_table(file))
    return tables


def _hub(task: str, split: str, codes: Sequence[str]) -> dict[str, tuple[str, pd.DataFrame]]:
    """Return language → (data set name, table) from the Hugging Face hub."""
    if not TASKS[task].hub:
        raise DataError(
            f"the hub has no {task}; use {task.partition('-')[0]}, another form of it, from there, "
            f"or a local folder with {TASKS[task].folder[0].format(split=split, language='en')} "
            f"in it, named by {paths.DATA_VARIABLE}"
        )
    tables = {}
    for code in codes:
        if code == "en":
            path, revision, config = TASKS[task].hub, TASKS[task].revision, None
            hub_split = "validation" if (task, split) == ("STSB", "dev") else split
        elif task == "STSB":
            (path, revision), config, hub_split = MULTILINGUAL_STSB, code, split
        else:
            raise DataError(f"the hub has {task} in English only, not in {code!r}")
        options = {"name": config, "revision": revision, "split": hub_split}
        table = read_from_hub(path, f"{code}, {hub_split}", "the demo set", **options)
        tables[code] = (f"{path} ({code})", table.rename(columns={"similarity_score": "score"}))
    return tables


def _file_origins(tables: Mapping[str, tuple[str, pd.DataFrame]], folder: Path) -> dict[str, str]:
    """Return language → its file in a folder, with the first digits of its sha256."""
    return {code: origin_of(file, folder) for code, (file, _) in tables.items()}


def _hub_origin(task: str, code: str) -> str:
    """Return the data set of the hub that a language is in, with its revision."""
    if code == "en":
        return f"{TASKS[task].hub}@{TASKS[task].revision}"
    hub_id, revision = MULTILINGUAL_STSB
    return f"{hub_id}@{revision} ({code}), translated by {MULTILINGUAL_BY}"


def _warn_of_another_size(
    data: STSData, task: str, split: str, tables: dict[str, tuple[str, pd.DataFrame]]
) -> None:
    """Warn where the English pairs are not as many as the published ones."""
    expected, n_pairs = TASKS[task].sizes.get(split), len(data) + data.n_dropped
    if "en" in tables and expected is not None and n_pairs != expected:
        warnings.warn(
            f"{tables['en'][0]}: {n_pairs:,} pairs, where {data.name} has {expected:,}; its scores "
            "do not compare with published ones",
            stacklevel=3,
        )


def _aligned(
    name: str,
    source: str,
    tables: dict[str, tuple[str, pd.DataFrame]],
    origins: Mapping[str, str],
    part: str = "",
) -> STSData:
    """Return checked tables as one data set, on the rows of a part that every language has."""
    found = {code: _sound(file, table) for code, (file, table) in tables.items()}
    for code, numbers in pair_numbers(tables).items():
        found[code].index = pd.Index(numbers)
        if part:
            found[code] = _part_of(tables[code][0], found[code], part)
    rows = sorted(set.intersection(*(set(table.index) for table in found.values())))
    if not rows:
        raise DataError(f"no row is in every language: {', '.join(f for f, _ in tables.values())}")
    # English ratings are the standard; a translation may have been rated anew.
    first = "en" if "en" in found else next(iter(found))
    require_same_ratings({code: (tables[code][0], table) for code, table in found.items()})
    return STSData(
        name=name,
        source=source,
        gold=found[first].loc[rows, "score"].to_numpy(np.float64),
        sentences={
            code: (table.loc[rows, "sentence1"].tolist(), table.loc[rows, "sentence2"].tolist())
            for code, table in found.items()
        },
        rows=np.array(rows, dtype=np.int64),
        subset=found[first].loc[rows, "subset"].tolist(),
        n_dropped=len(set().union(*(table.index for table in found.values()))) - len(rows),
        origins=origins,
    )


def _sound(file: str, table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that count of a table of pairs, once all their values are sound."""
    require_columns(file, table, ("sentence1", "sentence2", "score"))
    columns: dict[str, list] = {"score": ratings(file, table, "score", MAX_SCORE)}
    for column in ("sentence1", "sentence2"):
        columns[column] = texts_of(file, table[column].tolist(), column)
        if not all(columns[column]):
            row = columns[column].index("")
            raise DataError(
                f"{file}, row {row}: {column} is empty, or nothing of it can be seen: "
                f"{table[column].iloc[row]!r}"
            )
    names = table["subset"].tolist() if "subset" in table else [""] * len(table)
    columns["subset"] = ["" if is_missing(name) else str(name) for name in names]
    if "score_en" in table:
        columns["score_en"] = ratings(file, table, "score_en", MAX_SCORE)
    return pd.DataFrame({name: pd.Series(of, dtype=object) for name, of in columns.items()})


def _part_of(file: str, table: pd.DataFrame, part: str) -> pd.DataFrame:
    chosen = table[table["subset"] == part]
    if chosen.empty:
        raise DataError(f"{file}: no pair has {part!r} in a column 'subset', which this task needs")
    return chosen
