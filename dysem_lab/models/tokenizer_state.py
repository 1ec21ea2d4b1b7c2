"""What a tokenizer does, as text that can be compared: settings, probes, vocabulary."""

import contextlib
import itertools
import json
from typing import Any

import xxhash
from transformers import PreTrainedTokenizerBase

PLAIN = (bool, int, float, str, type(None))
TOKENIZER_IDLE = {
    *("name_or_path", "verbose", "padding_side", "truncation_side", "model_max_length"),
    *("chat_template", "response_template", "clean_up_tokenization_spaces"),
    # Where it was read, and whether the hub was asked, not what it knows.
    *("vocab_file", "merges_file", "tokenizer_file", "is_local", "local_files_only"),
}
TOKENIZER_PARTS = ("normalizer", "pre_tokenizer", "post_processor")
TOKENIZER_SETTINGS = (
    *("dropout", "unk_token", "unk_id", "continuing_subword_prefix", "end_of_word_suffix"),
    *("fuse_unk", "byte_fallback", "ignore_merges", "max_input_chars_per_word"),
)
# Case, accents, compatibility forms, white space of all kinds, digits, scripts, rare characters.
PROBES = (
    "Hello  WÖRLD, it's naïve Ünïcode\n\n\tAt 12:30 we paid $1,234.50; don't re-enter ﬁ ＡＢ½…",
    " Это предложение. 日本語の文です。 العربية हिन्दी 한국어",
    "ß İ ı \u00a0\u2009 e\u0301 😀 \U0001f9ff",
    " ".join(map("".join, itertools.product("etaoinshrdlu", repeat=2))),  # the usual merges
)
SAMPLED_TOKENS = 64


def tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what a tokenizer makes of some texts, and its settings, as a text.

    Everything but the vocabulary, so that it can be compared each time.
    """
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    special.pop("pad_token", None)  # pads are never seen
    n_tokens = len(tokenizer)  # counted anew at each call, in milliseconds
    state: dict[str, Any] = {
        "settings": {
            key: value
            for key, value in vars(tokenizer).items()
            if isinstance(value, PLAIN) and key not in TOKENIZER_IDLE
        },
        "special": special,
        "n_tokens": n_tokens,
        "sample": tokenizer.convert_ids_to_tokens(
            list(range(0, n_tokens, max(1, n_tokens // SAMPLED_TOKENS)))
        ),
        "probes": [_ids(tokenizer, text) for text in (*PROBES, " ".join(special.values()))],
    }
    if backend := getattr(tokenizer, "backend_tokenizer", None):
        state |= {part: _part(getattr(backend, part)) for part in TOKENIZER_PARTS}
        state["kind"] = type(backend.model).__name__
        state |= {key: getattr(backend.model, key, None) for key in TOKENIZER_SETTINGS}
    return json.dumps(state, sort_keys=True, default=text_of)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int] | str:
    try:
        return tokenizer(text, verbose=False)["input_ids"]
    except Exception as error:  # some have no token for what they do not know
        return type(error).__name__


def _part(part: Any) -> str:
    """Return a part of a tokenizer as JSON; one that is written in Python by its class."""
    with contextlib.suppress(Exception):  # "Custom … cannot be serialized"
        return part.__getstate__().decode()
    return text_of(part)


def vocabulary_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a digest of all that a tokenizer knows: vocabulary, merges, added tokens."""
    digest, model = xxhash.xxh3_128(), b""
    with contextlib.suppress(Exception):  # written in Python, or no model of Rust at all
        model = tokenizer.backend_tokenizer.model.__getstate__()  # JSON with the vocabulary
    if pieces := getattr(tokenizer, "sp_model", None):
        model = pieces.serialized_model_proto()
    if not model:
        model = repr(sorted(tokenizer.get_vocab().items())).encode(errors="surrogatepass")
    digest.update(model)
    digest.update(repr(sorted(tokenizer.added_tokens_decoder.items())).encode())
    return digest.hexdigest()


def text_of(value: object) -> str:
    """Return a value as text that is the same in each process."""
    if isinstance(value, set | frozenset):
        return str(sorted(map(str, value)))
    text = repr(value)
    return type(value).__qualname__ if " at 0x" in text else text
