"""Renderings of a text in other languages: parallel tables and seq2seq models."""

import hashlib
import json
import re
import threading
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch

from dysem_lab.data.languages import LANGUAGES
from dysem_lab.data.sts import STSData, require_same_ratings
from dysem_lab.data.tables import (
    ROW_KEYS,
    SUFFIXES,
    keys_of,
    number_of,
    pair_numbers,
    read_lines,
    read_table,
    texts_of,
)
from dysem_lab.digests import file_digest, folder_digest
from dysem_lab.errors import DataError, InputError, MissingTranslationError, ModelError
from dysem_lab.hub import find_on_hub
from dysem_lab.inputs import (
    at_least,
    checked,
    half_of_a_pair,
    has_words,
    listed,
    names_of,
    path_of,
    require_characters,
)
from dysem_lab.weights import loading, require_whole

NLLB = "facebook/nllb-200-distilled-600M"
# The main branch has pickle weights only; this is the hub's own conversion to safetensors.
NLLB_REVISION = "refs/pr/45"
_REMEDY = "Without a network, use a parallel table or a local folder with safetensors weights"
_COMMIT = re.compile("[0-9a-f]{40}")
_CODE = re.compile(r"[a-z]{2,3}(-[A-Za-z]{2,4})?")
_COLUMNS = {False: ("text",), True: ("sentence1", "sentence2")}  # of texts, of pairs
SPLITS = frozenset(("train", "dev", "test", "trial", "valid", "val", "validation"))


class Translator(Protocol):
    """Anything that renders texts in another language."""

    @property
    def name(self) -> str:
        """Identity for the cache: two translators with one name give the same renderings."""
        ...

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """Return one non-empty rendering per text.

        Args:
            texts: Texts in the source language.
            source: Its code.
            target: Code of the language wanted.

        Raises:
            InputError: No list of texts, or a language that is no code.
            MissingTranslationError: A text has no rendering; names text and language.
        """
        ...


class ParallelTable:
    """A translator that looks renderings up in parallel texts.

    Args:
        columns: Language code → texts, aligned by position; a mapping or a table. A text that
            occurs twice takes the first rendering that it has; an empty entry is a missing
            translation.
        name: What to call the table in messages and in the cache.

    Raises:
        DataError: Columns of different lengths, fewer than two languages, or an entry that is no
            text.
        InputError: No mapping, or a column that is no list of texts.
    """

    def __init__(
        self, columns: Mapping[str, Sequence[str]] | pd.DataFrame, name: str = "table"
    ) -> None:
        """Keep the columns; see the class."""
        if not isinstance(columns, Mapping | pd.DataFrame):
            raise InputError(
                "columns must be a mapping from language codes to texts, such as "
                f"{{'en': […], 'ja': […]}}, got {type(columns).__name__}"
            )
        codes = names_of(list(columns), "language")
        given = [listed(texts, f"{code} text") for code, texts in columns.items()]
        lengths = dict(zip(codes, map(len, given), strict=True))
        if len(lengths) < 2 or len(lengths) < len(codes) or len(set(lengths.values())) != 1:
            raise DataError(
                f"{name}: need two or more columns of one length, named by language codes such as "
                f"'en' and 'ja', got {lengths or 'none'}"
            )
        self.columns = {
            code: texts_of(name, texts, code) for code, texts in zip(codes, given, strict=True)
        }
        content = json.dumps(sorted(self.columns.items()), ensure_ascii=False)
        self.name = f"{name} {hashlib.sha256(content.encode()).hexdigest()[:16]}"
        self._renderings: dict[tuple[str, str], dict[str, str]] = {}

    @classmethod
    def from_data(cls, data: STSData) -> "ParallelTable":
        """Return the table of a data set that was loaded in several languages."""
        if not isinstance(data, STSData):
            raise InputError(f"data must be pairs of load_data, got {data!r:.200}")
        columns = {code: data.texts(code) for code in data.languages}
        return cls(columns, f"{data.name} {data.digest}")

    @classmethod
    def read(cls, path: str | Path) -> "ParallelTable":
        """Return the table in a file or folder.

        A file has one column per language, named by its code. A folder has one file per language,
        ``<anything>.<code>.<suffix>`` or ``<code>.<suffix>``: text lines (``.txt``), a ``text``
        column, or the ``sentence1`` and ``sentence2`` columns of STS files. Such files are aligned
        as `dysem_lab.data.sts.load_data` aligns them: by their column ``row`` or ``pair_ID`` where
        they have one, and their ratings must agree. A text that another file lacks is a missing
        translation.

        Raises:
            DataError: Nothing that looks like two languages is there, files of different splits,
                or files that are not aligned.
        """
        path = path_of(path, "the parallel table")
        if path.is_dir():
            return cls(_columns_of(_files_of(path)), str(path))
        if not path.is_file():
            raise DataError(f"no file or folder {path}; give a table with a column per language")
        table = read_table(path)
        codes = [code for code in table if _CODE.fullmatch(code) and code not in ROW_KEYS]
        columns = {code: table[code].tolist() for code in codes}
        of_texts = {c: of for c, of in columns.items() if any(isinstance(t, str) for t in of)}
        return cls(of_texts, str(path))

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """Return the rendering of each text; see `Translator`."""
        texts = asked(texts, source, target)
        for code in (source, target):
            if code not in self.columns:
                raise MissingTranslationError(
                    f"{self.name} has no language {code!r}; it has {', '.join(self.columns)}"
                )
        if (source, target) not in self._renderings:
            pairs = list(zip(self.columns[source], self.columns[target], strict=True))
            self._renderings[source, target] = {t: r for t, r in reversed(pairs) if r}
        known = self._renderings[source, target]
        return required_renderings([known.get(t, "") for t in texts], texts, target, self.name)


def asked(texts: Sequence[str], source: str, target: str) -> list[str]:
    """Return the texts that a translator is asked for as a list.

    Raises:
        InputError: They are none, see `dysem_lab.inputs.checked`, or a language is no code.
    """
    for what, code in (("source", source), ("target", target)):
        if not isinstance(code, str):
            raise InputError(f"the {what} must be the code of a language, got {code!r:.200}")
        require_characters(code, f"the {what}")
    return checked(texts)


def required_renderings(
    made: Sequence[str], texts: Sequence[str], target: str, name: str
) -> list[str]:
    """Return what a translator made of texts, once that is known to be a rendering of each.

    Raises:
        MissingTranslationError: There are not as many, or one has no words; names it.
    """
    made = listed(made, "rendering")
    if len(made) != len(texts):
        raise MissingTranslationError(
            f"{name} gave {len(made)} renderings in {target!r} of {len(texts)} texts"
        )
    for rendering, text in zip(made, texts, strict=True):
        words = isinstance(rendering, str) and has_words(rendering)
        if not words or half_of_a_pair(rendering):
            raise MissingTranslationError(
                f"{name} has no rendering in {target!r} of {text!r}; add it to the table, use a "
                "translator that can make it, or leave that language out"
            )
    return made


def _files_of(folder: Path) -> dict[str, Path]:
    """Return language → file of a folder with one file for each, all of one split."""
    files: dict[str, Path] = {}
    splits: dict[frozenset[str], Path] = {}
    for file in sorted(folder.iterdir()):
        code, split = _language_of(file)
        if code is None or not file.is_file():
            continue
        if code in files:
            raise DataError(
                f"{folder} has two files in {code!r}, {files[code].name} and {file.name}; keep one "
                "per language"
            )
        files[code] = file
        if split:
            splits[split] = file
    if len(splits) > 1:
        one, other, *_ = splits.values()
        raise DataError(
            f"{one} and {other.name} are of different splits; give a folder with files of one split"
        )
    return files


def _language_of(file: Path) -> tuple[str | None, frozenset[str]]:
    """Return the language code in a file name, or None, and the names of splits before it."""
    suffix = next((s for s in (*SUFFIXES[::-1], ".txt") if file.name.endswith(s)), None)
    if suffix is None:
        return None, frozenset()
    before, _, code = file.name.removesuffix(suffix).rpartition(".")
    splits = SPLITS.intersection(re.findall("[a-z]+", before.lower()))
    return (code if _CODE.fullmatch(code) else None), splits


def _columns_of(files: Mapping[str, Path]) -> dict[str, list]:
    """Return language → texts of files that hold one language each, aligned."""
    tables = {code: (str(file), _table_of(file)) for code, file in files.items()}
    of_pairs = {code: "text" not in table for code, (_, table) in tables.items()}
    if any(of_pairs.values()) and not all(of_pairs.values()):
        numbered = [file for file, table in tables.values() if keys_of(table)]
        if numbered:
            raise DataError(
                f"{numbered[0]} has numbers of its rows, and other files are not of the same kind; "
                "give all of them a column 'text', or 'sentence1' and 'sentence2'"
            )
        return {
            code: [text for name in _COLUMNS[of_pairs[code]] for text in table[name]]
            for code, (_, table) in tables.items()
        }
    for code, numbers in pair_numbers(tables).items():
        tables[code][1].index = pd.Index(numbers)
    if all(of_pairs.values()):
        require_same_ratings(tables)
    rows = sorted(set().union(*(table.index for _, table in tables.values())))
    return {
        code: [text for name in _COLUMNS[of_pairs[code]] for text in table[name].reindex(rows)]
        for code, (_, table) in tables.items()
    }


def _table_of(file: Path) -> pd.DataFrame:
    """Return the table of a file that holds one language; its score is the English one, if any."""
    if file.suffix == ".txt":
        return pd.DataFrame({"text": pd.Series(read_lines(file), dtype=object)})
    table = read_table(file)
    if not any(set(columns) <= set(table.columns) for columns in _COLUMNS.values()):
        raise DataError(f"{file}: needs a column 'text', or 'sentence1' and 'sentence2'")
    if column := next((name for name in ("score_en", "score") if name in table), None):
        scores = [number_of(value) for value in table[column].tolist()]
        table["score"] = np.array(scores, dtype=np.float64)  # NaN where there is none
    return table.drop(columns="score_en", errors="ignore")


class _Source(NamedTuple):
    """Where a translator's model is loaded from, and what it is.

    Attributes:
        place: A folder, or its name on the hub.
        revision: The commit on the hub; None for a folder.
        local_files_only: Whether the hub's cache on this machine must do.
        identity: The commit, or a digest of the folder.
    """

    place: str
    revision: str | None
    local_files_only: bool
    identity: str


class Seq2SeqTranslator:
    """A transformers sequence-to-sequence model as a translator; greedy, so deterministic.

    Args:
        model: Hub id or local folder of a multilingual model whose tokenizer has language tokens
            (NLLB, M2M100, mBART), or of a one-pair model (Marian) together with `pair`.
        revision: Branch, tag or commit on the hub.
        pair: (source, target) codes of a model that knows one pair only.
        device: "auto", "cpu", "cuda", ….
        batch_size: Texts per generation.
        max_new_tokens: Longest rendering.

    Attributes:
        name: Identity for the cache: the model with its commit on the hub, or with a digest of its
            folder (weights, configuration, tokenizer, settings of generation), and the settings
            that change a rendering. It is found out once, without loading the model; a folder that
            is written to after that is refused.

    Raises:
        InputError: A size below 1, or a pair that is none.
        ModelError: On first use, if the model cannot be loaded without pickle or remote code, or
            its weights are not all there.
    """

    def __init__(
        self,
        model: str | Path = NLLB,
        *,
        revision: str | None = None,
        pair: tuple[str, str] | None = None,
        device: str = "auto",
        batch_size: int = 16,
        max_new_tokens: int = 256,
    ) -> None:
        """Remember what to load; nothing is loaded before the first translation."""
        if not isinstance(model, str | Path):
            raise InputError(f"model must be a hub id or a folder, got {model!r:.200}")
        self.model = str(model)
        self.revision = NLLB_REVISION if model == NLLB and revision is None else revision
        self.pair = None if pair is None else tuple(names_of(pair, "language"))
        if self.pair is not None and len(self.pair) != 2:
            raise InputError(f"pair must be two languages such as ('en', 'de'), got {pair!r:.200}")
        self.device = device
        self.batch_size = at_least(batch_size, 1, "batch_size")
        self.max_new_tokens = at_least(max_new_tokens, 1, "max_new_tokens")
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Identity for the cache; see the class."""
        of_pair = f" {'-'.join(self.pair)}" if self.pair else ""
        revision = f" {self.revision}" if self.revision and not self._source.revision else ""
        return (
            f"{self.model}@{self._source.identity}{revision} greedy {self.max_new_tokens}{of_pair}"
        )

    @cached_property
    def _source(self) -> _Source:
        with loading(self.model, remedy=_REMEDY):
            folder = path_of(self.model, "the translator's model")
            if folder.is_dir():
                return _Source(str(folder), None, True, _content_of(folder))
            if self.model.startswith((".", "/", "~")):
                raise ModelError(f"cannot load the translator: no folder {folder}. {_REMEDY}")
            if _COMMIT.fullmatch(self.revision or ""):
                return _Source(self.model, self.revision, False, str(self.revision))
            commit, is_cached = find_on_hub(self.model, self.revision)
            return _Source(self.model, commit, is_cached, commit)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        wants_gpu = self.device == "auto" and torch.cuda.is_available()
        device = ("cuda" if wants_gpu else "cpu") if self.device == "auto" else self.device
        place, revision, local_files_only, identity = self._source
        options: dict[str, Any] = {
            "revision": revision or "main",
            "local_files_only": local_files_only,
            "trust_remote_code": False,
        }
        with loading(self.model, place, _REMEDY):
            tokenizer = AutoTokenizer.from_pretrained(place, **options)
            model, info = AutoModelForSeq2SeqLM.from_pretrained(
                place,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # `require_whole` names them
                **options,
            )
            require_whole(self.model, info)
            if revision is None and _content_of(Path(place)) != identity:
                raise ModelError(
                    f"the files of {place} were changed after this translator was made; make it "
                    "again, so that its renderings are not taken for those of the old files"
                )
            limit = self._limit(model)
            if limit is not None and self.max_new_tokens > limit:
                raise InputError(
                    f"max_new_tokens is {self.max_new_tokens}, but {self.model} writes at most "
                    f"{limit} tokens; give at most so many"
                )
            return model.eval().to(device), tokenizer

    @staticmethod
    def _limit(model: Any) -> int | None:
        """Return how many tokens the model reads or writes at most; None where it has no limit."""
        return getattr(model.config, "max_position_embeddings", None)

    def _language(self, code: str) -> tuple[str, int]:
        """Return the tokenizer's name and token id of a language.

        Only language tokens count: "en" and "de" are ordinary pieces of many vocabularies, while
        a name such as "eng_Latn" cannot be one.
        """
        _, tokenizer = self._loaded
        flores = LANGUAGES[code].nllb if code in LANGUAGES else code
        if flores in tokenizer.get_vocab():
            return flores, tokenizer.convert_tokens_to_ids(flores)
        ids = getattr(tokenizer, "lang_code_to_id", None)  # M2M100: "en", mBART: "en_XX"
        if ids is None:
            special = map(str, tokenizer.extra_special_tokens)
            ids = {token: tokenizer.convert_tokens_to_ids(token) for token in special}
        for name in (code, *(name for name in ids if name.startswith(f"{code}_"))):
            if name in ids:
                return name, ids[name]
        raise MissingTranslationError(
            f"the tokenizer of {self.model} has no token for {code!r}; for a model of one language "
            "pair, say pair=('en', 'de') or the like"
        )

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """Return the model's rendering of each text; see `Translator`.

        Raises:
            InputError: A text has more tokens than the model reads; names it.
            ModelError: The model cannot be loaded, or breaks down.
        """
        texts = asked(texts, source, target)
        model, tokenizer = self._loaded
        arguments: dict[str, int] = {}
        if self.pair is None:
            source_name, _ = self._language(source)
            _, arguments["forced_bos_token_id"] = self._language(target)
        elif (source, target) != self.pair:
            raise MissingTranslationError(
                f"{self.model} translates {self.pair[0]} to {self.pair[1]} only, "
                f"not {source} to {target}"
            )
        renderings: list[str] = []
        with torch.inference_mode(), self._lock:
            if self.pair is None:  # a setting of the tokenizer, so only inside the lock
                tokenizer.src_lang = source_name
            for start in range(0, len(texts), self.batch_size):
                batch = texts[start : start + self.batch_size]
                encoded = tokenizer(batch, return_tensors="pt", padding=True).to(model.device)
                self._check_lengths(encoded["attention_mask"].sum(1), batch, start)
                try:
                    ids = model.generate(
                        **encoded,
                        **arguments,
                        num_beams=1,
                        do_sample=False,
                        max_new_tokens=self.max_new_tokens,
                    )
                except Exception as error:
                    raise ModelError(
                        f"{self.model} broke down on texts {start} to {start + len(batch) - 1} "
                        f"({error!s:.300}); if its memory does not do, lower batch_size"
                    ) from error
                self._warn_if_cut(ids, tokenizer.eos_token_id)
                renderings += tokenizer.batch_decode(ids, skip_special_tokens=True)
        return required_renderings(renderings, texts, target, self.model)

    def _check_lengths(self, n_tokens: torch.Tensor, batch: list[str], start: int) -> None:
        """Refuse a text that is longer than the model's positions; its end would be cut off."""
        limit = self._limit(self._loaded[0])
        if limit is not None and (longest := int(n_tokens.max())) > limit:
            index = int(n_tokens.argmax())
            raise InputError(
                f"text {start + index} has {longest} tokens, but {self.model} reads at most "
                f"{limit}: {batch[index][:60]!r} …; shorten it, or leave it out"
            )

    def _warn_if_cut(self, ids: torch.Tensor, end: int | None) -> None:
        # The output begins with the decoder's start token, which some models share with the end.
        unfinished = int((~(ids[:, 1:] == end).any(dim=1)).sum()) if end is not None else 0
        if unfinished and ids.shape[1] > self.max_new_tokens:
            warnings.warn(
                f"{unfinished} renderings were cut at max_new_tokens={self.max_new_tokens}",
                stacklevel=3,
            )


def _content_of(folder: Path) -> str:
    """Return a digest of all files of a folder that a translation depends on."""
    digest, settings = folder_digest(folder), folder / "generation_config.json"
    if settings.is_file():
        digest = hashlib.sha256(f"{digest} {file_digest(settings)}".encode()).hexdigest()
    return digest[:16]
