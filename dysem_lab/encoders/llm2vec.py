"""LLM2Vec: a decoder made to attend both ways, from its adapter checkpoints."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from huggingface_hub import snapshot_download
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from dysem_lab.encoders.checkpoints import (
    REMEDY,
    architecture_of,
    load_checkpoint,
    located,
    optional_package,
)
from dysem_lab.encoders.trained_base import TrainedEncoder, padded, token_ids_of, warn_shortened
from dysem_lab.errors import InputError, ModelError
from dysem_lab.models.loading import base_of
from dysem_lab.prompts import Prompt
from dysem_lab.weights import loading, require_whole

LLM2VEC_BASE = "McGill-NLP/LLM2Vec-Llama-2-7b-chat-hf-mntp"
LLM2VEC_ADAPTER = f"{LLM2VEC_BASE}-unsup-simcse"
LLM2VEC_TYPES = ("llama", "mistral", "gemma", "qwen2")
LLM2VEC_TOKENS = 512  # of the whole prompt
LLM2VEC_TEXT_TOKENS = 400  # of the text in it
STS_INSTRUCTION = "Retrieve semantically similar text:"
# What the llm2vec package puts before and after the input of a chat model, by the model's hub id.
CHAT_FORMATS = {
    "meta-llama/Llama-2-7b-chat-hf": ("[INST] ", " [/INST]"),
    "mistralai/Mistral-7B-Instruct-v0.2": ("[INST] ", " [/INST]"),
    "meta-llama/Meta-Llama-3-8B-Instruct": (
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
}


class LLM2Vec(TrainedEncoder):
    """LLM2Vec: a decoder that attends both ways, averaged over the text's tokens.

    The llm2vec package (0.2.3) needs transformers 4.44 at most, so it cannot be installed beside
    this one; the same model is built here with transformers and peft (extra ``llm2vec``): the
    base with every token attending to every other, its adapters merged, the mean over the last
    hidden states from the first token of the text to the end. The instruction, and what a chat
    format puts before it, are read but not averaged; what the format puts after the text is
    averaged too, as in the package. The package runs in bfloat16, this in float32.

    Args:
        base: A hub id or a folder: either an adapter that names its own base (the released
            ``…-mntp`` checkpoints) or a whole model.
        adapter: A hub id or a folder of the adapter that was trained on it; None is none.
        instruction: What stands before each text; "" is nothing.
        chat: What the chat format of the base puts before and after; None is what the llm2vec
            package takes for the hub id that `base` names, and nothing for others.
        device: "auto" is CUDA where there is one, else the CPU.

    Raises:
        InputError: A name that is neither a folder nor a hub id, or another architecture.
        ModelError: A package is missing, a model or adapter cannot be loaded or does not fit, or
            attention is not both ways.

    Source: LLM2Vec (arXiv 2404.05961), Section 2, and the code of llm2vec 0.2.3.
    """

    name, component = "LLM2Vec", "text mean"
    max_tokens = LLM2VEC_TOKENS

    def __init__(
        self,
        base: str | Path = LLM2VEC_BASE,
        adapter: str | Path | None = LLM2VEC_ADAPTER,
        *,
        instruction: str = STS_INSTRUCTION,
        chat: tuple[str, str] | None = None,
        device: str = "auto",
    ) -> None:
        """Load the base and merge its adapters."""
        self.base, self.adapter = str(base), None if adapter is None else str(adapter)
        self.instruction = instruction
        source, at = located(base)
        with loading(base, source, REMEDY):
            whole = base_of(source, at) or source
        adapters = [one for one in (base if whole != source else None, adapter) if one is not None]
        architecture_of(whole, LLM2VEC_TYPES)
        self.chat = list(CHAT_FORMATS.get(whole, ("", "")) if chat is None else chat)
        self.model, self.tokenizer = load_checkpoint(whole, None, device, tokenizer=source)
        for one in adapters:
            self.model = merged(self.model, one)
        self.tokenizer.pad_token = self.tokenizer.eos_token
        with torch.inference_mode():
            first, second = self.states([[0, 1], [0, 2]])[:, 0]
        if torch.equal(first, second):
            raise ModelError(
                f"{base}: a later token does not reach an earlier one, so transformers "
                f"{transformers.__version__} attends one way only; LLM2Vec needs both"
            )
        self._know(" + ".join(dict.fromkeys(map(str, (base, *adapters)))))

    def prompts(self, texts: Sequence[str]) -> list[str]:
        """Return each text after the instruction, in the chat format.

        Raises:
            InputError: A text over 400 tokens without white space where it could end earlier.

        Warns:
            UserWarning: How many texts were shortened to 400 tokens.
        """
        before, after = self.chat
        if self.instruction:
            before += f"{self.instruction.strip()} "
        shortened = [self._shortened(text) for text in texts]
        n_over = sum(short != text for short, text in zip(shortened, texts, strict=True))
        warn_shortened(n_over, LLM2VEC_TEXT_TOKENS)
        if any(self.chat):
            shortened = [text.rstrip() for text in shortened]
        return [Prompt.build(before, text, after) for text in shortened]

    def embed(self, prompts: Sequence[str]) -> Float[Tensor, "batch d"]:
        """Return the mean of the last hidden states from the text's first token on."""
        rows = [ids[: self.max_tokens] for ids in token_ids_of(self.tokenizer, prompts)]
        texts = [prompt[getattr(prompt, "start", 0) :] for prompt in prompts]
        n_pooled = list(map(len, token_ids_of(self.tokenizer, texts, special=False)))
        states = self.states(rows)
        return torch.stack([row[-n:].mean(0) for row, n in zip(states, n_pooled, strict=True)])

    def states(self, token_ids: Sequence[list[int]]) -> Float[Tensor, "batch pos d"]:
        """Return the last hidden states of left-padded rows; pads are seen by no token."""
        inputs = padded(token_ids, self.tokenizer, self.model.device, side="left")
        # A mask of four axes is taken as it is, so nothing makes it causal.
        hidden = (1 - inputs["attention_mask"].float())[:, None, None]
        both_ways = (hidden * torch.finfo(torch.float32).min).expand(-1, 1, hidden.shape[-1], -1)
        output = self.model(inputs["input_ids"], attention_mask=both_ways, use_cache=False)
        return output.last_hidden_state

    def _shortened(self, text: str) -> str:
        """Return the first words of the text, so many that they fit, as llm2vec counts them."""
        while True:
            n = len(token_ids_of(self.tokenizer, [text], special=False)[0])
            if n <= LLM2VEC_TEXT_TOKENS:
                return text
            words = text.split()
            share = LLM2VEC_TEXT_TOKENS / min(n, LLM2VEC_TOKENS)
            kept = " ".join(words[: int(len(words) * share)])
            if not kept:
                raise InputError(
                    f"a text of {n} tokens has no white space where it could be shortened to "
                    f"{LLM2VEC_TEXT_TOKENS}: {text[:40]!r}…; shorten it"
                )
            text = kept


def merged(model: PreTrainedModel, adapter: str | Path) -> PreTrainedModel:
    """Return the model with the weights of a peft adapter added to its own.

    Raises:
        InputError: A name that is neither a folder nor a hub id.
        ModelError: The adapter cannot be loaded, or is of another model.
    """
    peft = optional_package("peft", "llm2vec", "LLM2Vec")
    source, at = located(adapter)
    files = ["adapter_config.json", "adapter_model.safetensors"]
    with loading(adapter, source, REMEDY), warnings.catch_warnings():
        if at:
            source = snapshot_download(source, **at, allow_patterns=files)
        for file in files:
            if not (Path(source) / file).is_file():
                raise OSError(f"it has no {file}")
        warnings.filterwarnings("error", "Found missing adapter keys")
        with_adapter = peft.PeftModel.from_pretrained(model, source)
        with safe_open(Path(source) / files[1], "pt") as weights:
            there = set(weights.keys())
        own = set(peft.get_peft_model_state_dict(with_adapter))
        faults = {"missing_keys": own - there, "unexpected_keys": there - own}
        require_whole(adapter, {**faults, "mismatched_keys": (), "error_msgs": ()})
        return with_adapter.merge_and_unload().eval()
