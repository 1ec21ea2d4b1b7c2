"""Renderings of a text in other languages: parallel tables and seq2seq models."""

import hashlib
import re
import threading
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch

from dysem_lab.data.languages import LANGUAGES
from dysem_lab.data.sts import STSData
from dysem_lab.data.tables import SUFFIXES, read_table
from dysem_lab.errors import DataError, MissingTranslationError, ModelError

NLLB = "facebook/nllb-200-distilled-600M"
# The main branch has pickle weights only; this is the hub's own conversion to safetensors.
NLLB_REVISION = "refs/pr/45"
_CODE = re.compile(r"[a-z]{2,3}(-[A-Za-z]{2,4})?")


class Translator(Protocol):
    """Anything that renders texts in another language.

    Attributes:
        name: Identity for the cache: two translators with one name give the same renderings.
    """

    name: str

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """Return one non-empty rendering per text.

        Args:
            texts: Texts in the source language.
            source: Its code.
            target: Code of the language wanted.

        Raises:
            MissingTranslationError: A text has no rendering; names text and language.
        """
        ...


class ParallelTable:
    """A translator that looks renderings up in parallel texts.

    Args:
        columns: Language code → texts, aligned by position. A text that occurs twice takes the
            rendering of its first occurrence; an empty entry is a missing translation.
        name: What to call the table in messages and in the cache.

    Raises:
        DataError: Columns of different lengths, or fewer than two languages.
    """

    def __init__(self, columns: Mapping[str, Sequence[str]], name: str = "table") -> None:
        """Keep the columns; see the class."""
        lengths = {code: len(texts) for code, texts in columns.items()}
        if len(lengths) < 2 or len(set(lengths.values())) != 1:
            raise DataError(
                f"{name}: need two or more columns of one length, named by language codes such as "
                f"'en' and 'ja', got {lengths or 'none'}"
            )
        self.columns = {
            code: ["" if pd.isna(text) else str(text) for text in texts]
            for code, texts in columns.items()
        }
        content = "\x1e".join("\x1f".join([c, *self.columns[c]]) for c in sorted(self.columns))
        self.name = f"{name} {hashlib.sha256(content.encode()).hexdigest()[:16]}"
        self._positions: dict[str, dict[str, int]] = {}

    @classmethod
    def from_data(cls, data: STSData) -> "ParallelTable":
        """Return the table of a data set that was loaded in several languages."""
        columns = {code: data.texts(code) for code in data.languages}
        return cls(columns, f"{data.name} {data.digest}")

    @classmethod
    def read(cls, path: str | Path) -> "ParallelTable":
        """Return the table in a file or folder.

        A file has one column per language, named by its code. A folder has one file per language,
        ``<anything>.<code>.<suffix>`` or ``<code>.<suffix>``: text lines (``.txt``), a ``text``
        column, or the ``sentence1`` and ``sentence2`` columns of STS files.

        Raises:
            DataError: Nothing that looks like two languages is there.
        """
        path = Path(path).expanduser()
        if path.is_dir():
            columns = {}
            for file in sorted(path.iterdir()):
                code = _language_of(file)
                if code in columns:
                    raise DataError(f"{path} has two files in {code!r}; keep one per language")
                if code:
                    columns[code] = _texts_of(file)
        elif path.is_file():
            table = read_table(path)
            columns = {
                str(code): table[code].tolist()
                for code in table.columns
                if _CODE.fullmatch(str(code))
            }
        else:
            raise DataError(f"no file or folder {path}; give a table with a column per language")
        return cls(columns, str(path))

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str]:
        """Return the rendering of each text; see `Translator`."""
        for code in (source, target):
            if code not in self.columns:
                raise MissingTranslationError(
                    f"{self.name} has no language {code!r}; it has {', '.join(self.columns)}"
                )
        if source not in self._positions:
            column = self.columns[source]
            self._positions[source] = {t: i for i, t in reversed(list(enumerate(column)))}
        positions = self._positions[source]
        renderings = []
        for text in texts:
            rendering = self.columns[target][positions[text]] if text in positions else ""
            renderings.append(required_rendering(rendering, text, target, self.name))
        return renderings


def required_rendering(rendering: str, text: str, target: str, name: str) -> str:
    """Return the rendering, or raise `MissingTranslationError` if it is empty."""
    if not rendering.strip():
        raise MissingTranslationError(
            f"{name} has no rendering in {target!r} of {text!r}; add it to the table, use a "
            "translator that can make it, or leave that language out"
        )
    return rendering


def _language_of(file: Path) -> str | None:
    """Return the language code in a file name, or None."""
    suffix = next((s for s in (*SUFFIXES[::-1], ".txt") if file.name.endswith(s)), None)
    if suffix is None:
        return None
    code = file.name.removesuffix(suffix).rpartition(".")[2]
    return code if _CODE.fullmatch(code) else None


def _texts_of(file: Path) -> list[str]:
    """Return the texts of a file that holds one language."""
    if file.suffix == ".txt":
        # Only a line feed ends a line: splitlines() would also break at U+2028, U+0085 and others.
        return file.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
    table = read_table(file)
    if "text" in table:
        return table["text"].tolist()
    if {"sentence1", "sentence2"} <= set(table.columns):
        return [*table["sentence1"], *table["sentence2"]]
    raise DataError(f"{file}: needs a column 'text', or 'sentence1' and 'sentence2'")


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

    Raises:
        ModelError: On first use, if the model cannot be loaded without pickle or remote code.
    """

    def __init__(
        self,
        model: str = NLLB,
        *,
        revision: str | None = None,
        pair: tuple[str, str] | None = None,
        device: str = "auto",
        batch_size: int = 16,
        max_new_tokens: int = 256,
    ) -> None:
        """Remember what to load; nothing is loaded before the first translation."""
        self.model = model
        self.revision = NLLB_REVISION if model == NLLB and revision is None else revision
        self.pair = pair
        self.device = device
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self.name = f"{model}@{self.revision or 'main'} greedy {max_new_tokens}"
        self._lock = threading.Lock()

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        wants_gpu = self.device == "auto" and torch.cuda.is_available()
        device = ("cuda" if wants_gpu else "cpu") if self.device == "auto" else self.device
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                self.model, revision=self.revision, trust_remote_code=False
            )
            model = AutoModelForSeq2SeqLM.from_pretrained(
                self.model, revision=self.revision, use_safetensors=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise ModelError(
                f"cannot load the translator {self.model!r}: {error}. Without a network, use a "
                "parallel table or a local folder with safetensors weights"
            ) from error
        return model.eval().to(device), tokenizer

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
        """Return the model's rendering of each text; see `Translator`."""
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
                batch = list(texts[start : start + self.batch_size])
                encoded = tokenizer(batch, return_tensors="pt", padding=True).to(model.device)
                ids = model.generate(
                    **encoded,
                    **arguments,
                    num_beams=1,
                    do_sample=False,
                    max_new_tokens=self.max_new_tokens,
                )
                self._warn_if_cut(ids, tokenizer.eos_token_id)
                renderings += tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [
            required_rendering(rendering, text, target, self.model)
            for rendering, text in zip(renderings, texts, strict=True)
        ]

    def _warn_if_cut(self, ids: torch.Tensor, end: int | None) -> None:
        # The output begins with the decoder's start token, which some models share with the end.
        unfinished = int((~(ids[:, 1:] == end).any(dim=1)).sum()) if end is not None else 0
        if unfinished and ids.shape[1] > self.max_new_tokens:
            warnings.warn(
                f"{unfinished} renderings were cut at max_new_tokens={self.max_new_tokens}",
                stacklevel=3,
            )
