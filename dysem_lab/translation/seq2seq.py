"""Renderings that a sequence-to-sequence model of transformers makes."""

import hashlib
import re
import threading
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dysem_lab.data.languages import LANGUAGES
from dysem_lab.digests import file_digest, folder_digest
from dysem_lab.errors import InputError, MissingTranslationError, ModelError
from dysem_lab.hub import find_on_hub
from dysem_lab.inputs import at_least, names_of, path_of
from dysem_lab.translation.translate import asked, required_renderings
from dysem_lab.weights import loading, require_whole

NLLB = "facebook/nllb-200-distilled-600M"
# The main branch has pickle weights only; this is the hub's own conversion to safetensors.
NLLB_REVISION = "refs/pr/45"
_REMEDY = "Without a network, use a parallel table or a local folder with safetensors weights"
_COMMIT = re.compile("[0-9a-f]{40}")


class _Source(NamedTuple):
    """Where a translator's model is loaded from, and what it is."""

    place: str  # a folder, or its name on the hub
    revision: str | None  # the commit on the hub; None for a folder
    local_files_only: bool  # whether the hub's cache on this machine must do
    identity: str  # the commit, or a digest of the folder


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
