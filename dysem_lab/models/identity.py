"""What tells a loaded model from every other, and whether its forward pass is still its own.

A model that was loaded from files is told by their contents; one that was built in memory by all of
its tensors, its configuration and its tokenizer. Changes in memory count from then on: a tensor
whose version counter, memory or object moved is hashed again, whole. What no digest can describe,
such as a hook, is an objection to keeping vectors under the model's name.

These changes leave no trace here: values written past the version counter (through ``tensor.data``,
numpy, or an optimiser's fused step) that leave 16 evenly spaced elements of the tensor as they
were; methods replaced in a class, not in an object; an entry of a tokenizer's vocabulary that is
changed inside its Rust object and that no probe meets; objects that modules hold; and modes of
torch that replace functions.
"""

import copy
import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import xxhash
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from dysem_lab.errors import ModelError
from dysem_lab.models.own_pass import functions_of, is_hook_point, objections
from dysem_lab.models.tokenizer_state import PLAIN, text_of, tokenizer_state, vocabulary_digest

N_SAMPLED = 16  # elements of each tensor, looked at each time
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an element
# Attributes and settings that no number depends on.
IDLE = {
    *("training", "name_or_path", "_name_or_path", "_commit_hash", "transformers_version"),
    *("model_name", "tokenizer_name", "tokenizer", "device", "n_devices"),
    *("gradient_checkpointing", "architectures", "context_level"),  # the last of hooks that are on
}
# What dynamic rotary embeddings keep of the longest input so far.
MOVING = ("max_seq_len_cached", "inv_freq")
DYNAMIC_ROPE = ("dynamic", "longrope")


class Identity:
    """Of one or more networks and a tokenizer, which are now what they are known by.

    Args:
        networks: Modules that a forward pass goes through.
        tokenizer: The tokenizer.
        content: Digest of the files that they were loaded from; None where they are in memory only.
        is_ours: Whether this package loaded them, so that nobody's code was put in before.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        tokenizer: PreTrainedTokenizerBase,
        content: str | None = None,
        is_ours: bool = False,
    ) -> None:
        """Note the state; no weights are read before the digest is asked for."""
        self._content = content
        self._is_ours = is_ours
        self._first = self._last = _Snapshot(networks, tokenizer)
        self._known: tuple[str, bool] | None = None
        self._lock = threading.Lock()
        self._checksums: dict[str, tuple[_Mark, str]] = {}
        self._vocabulary = ("", "")

    def digest(
        self, networks: Sequence[nn.Module], tokenizer: PreTrainedTokenizerBase
    ) -> tuple[str, bool]:
        """Return sixteen hex digits of all that a pass depends on now, and whether it changed."""
        with self._lock:
            if not self._last.still(networks, tokenizer):
                now = _Snapshot(networks, tokenizer)
                self._last.forget_tensors()
                self._last, self._known = now, None
            if self._known is None:
                self._known = self._described()
            return self._known

    def _described(self) -> tuple[str, bool]:
        first, now = self._first, self._last
        if self._content is None:
            checksums = {name: self._checksum(name) for name in now.marks}
            parts = [checksums, now.kinds, now.settings, now.tokenizer_state, self._vocabulary_now]
            return _short(parts), False
        changed: dict[str, object] = {
            name: self._checksum(name)
            for name, mark in now.marks.items()
            if first.marks.get(name) != mark or mark.version is None
        }
        changed |= dict.fromkeys(first.marks.keys() - now.marks.keys())
        before, after = (
            {**state.kinds, **state.settings, "tokenizer": state.tokenizer_state}
            for state in (first, now)
        )
        names = before.keys() | after.keys()
        changed |= {name: after.get(name) for name in names if before.get(name) != after.get(name)}
        if not changed:
            return self._content[:16], False
        return _short([self._content, changed]), True

    def _checksum(self, name: str) -> str:
        """Return the checksum of a tensor; one that has not moved since the last is not read."""
        mark = self._last.marks[name]
        known = self._checksums.get(name)
        if known is None or known[0] != mark or mark.version is None:
            self._checksums[name] = known = (mark, _checksum(self._last.tensors[name]))
        return known[1]

    @property
    def _vocabulary_now(self) -> str:
        tokenizer = self._last.tokenizer
        key = f"{id(tokenizer)} {self._last.tokenizer_state}"
        if self._vocabulary[0] != key:
            self._vocabulary = (key, vocabulary_digest(tokenizer))
        return self._vocabulary[1]

    def require_own_pass(self, name: str, networks: Sequence[nn.Module], remedy: str) -> None:
        """Raise an error unless a forward pass is the model's own, so that a store may keep it.

        Raises:
            ModelError: Names hook points with hooks of others, modules that were put in, functions
                that were replaced, modules in training mode, or a lower precision that is on; and
                the remedy.
        """
        known = self._last.has_tree(networks)
        modules = self._last.modules if known else dict(_named_modules(networks))
        first = self._first
        if found := objections(modules, first.numbers, first.functions, self._is_ours):
            raise ModelError(
                f"{name}: {'; '.join(found)}. A store would keep its vectors as those of the "
                f"model as it is; undo this ({remedy}), or read vectors without a store"
            )


class _Mark(NamedTuple):
    """What moves when a tensor is replaced or changed, as far as that can be seen at once."""

    number: int
    version: int | None  # of a tensor made in inference mode, which counts none
    pointer: int
    kind: str
    sample: bytes


class _Snapshot:
    """The state of networks and a tokenizer, and a quick way to see whether it is still that.

    Attributes:
        modules: Name → module.
        numbers: Of the modules, as objects.
        tensors: Module/key → parameter or buffer.
        marks: The same → its mark.
        kinds: Module → its class.
        settings: Plain attributes of the modules, and the fields of their configurations.
        functions: (number of a module, name) → function that the object carries itself.
    """

    def __init__(self, networks: Sequence[nn.Module], tokenizer: PreTrainedTokenizerBase) -> None:
        self.networks, self.tokenizer = list(networks), tokenizer
        self.modules = dict(_named_modules(networks))
        self.numbers = set(map(id, self.modules.values()))
        self.tokenizer_state = tokenizer_state(tokenizer)
        self.kinds = {name: type(module).__qualname__ for name, module in self.modules.items()}
        self.functions = {
            (id(module), key): function
            for module in self.modules.values()
            for key, function in functions_of(module)
        }
        self._children = [
            (module._modules, list(map(id, module._modules.values())))
            for module in self.modules.values()
        ]
        self._note_settings()
        self._note_tensors()

    def _note_settings(self) -> None:
        settings: list[tuple[str, dict[str, Any], str, Any]] = []
        configs: dict[int, Any] = {}
        self._sizes = []
        for name, module in self.modules.items():
            if is_hook_point(module):
                continue
            own = vars(module)
            self._sizes.append((own, len(own)))
            for key, value in own.items():
                if key in ("config", "cfg") and hasattr(value, "__dict__"):
                    configs.setdefault(id(value), value)
                elif _counts(key) and _is_plain(value):
                    settings.append((f"{name}/{key}", own, key, copy.copy(value)))
        self._settings = [(own, key, value) for _, own, key, value in settings]
        self._configs = list(configs.values())
        self._fields = _fields(self._configs)
        self.settings = {name: value for name, _, _, value in settings} | self._fields

    def _note_tensors(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._owners: list[tuple[dict[str, Any], str, int]] = []
        for name, module in self.modules.items():
            moving = any(kind in str(vars(module).get("rope_type")) for kind in DYNAMIC_ROPE)
            for owner in (module._parameters, module._buffers):
                for key, tensor in owner.items():
                    if tensor is not None and not (moving and key.endswith(MOVING)):
                        self.tensors[f"{name}/{key}"] = tensor
                        self._owners.append((owner, key, id(tensor)))
        self._owned = [
            (owner, len(owner))
            for module in self.modules.values()
            for owner in (module._parameters, module._buffers)
        ]
        tensors = list(self.tensors.values())
        self._counts = [(_version(tensor), tensor.data_ptr()) for tensor in tensors]
        groups: dict[tuple[torch.device, int], list[int]] = {}
        for index, tensor in enumerate(tensors):
            groups.setdefault((tensor.device, tensor.element_size()), []).append(index)
        # Views, so that looking again is one call for all of them.
        self._views = [[_spread(tensors[index]) for index in group] for group in groups.values()]
        self._samples = [_joined(views) for views in self._views]
        samples = [b""] * len(tensors)
        for group, views, joined in zip(groups.values(), self._views, self._samples, strict=True):
            start = 0
            for index, view in zip(group, views, strict=True):
                stop = start + view.numel() * view.element_size()
                samples[index], start = joined[start:stop], stop
        self.marks = {
            name: _Mark(
                id(tensor),
                version,
                pointer,
                f"{tensor.dtype} {tuple(tensor.shape)} {tensor.stride()} {tensor.device}",
                sample,
            )
            for (name, tensor), (version, pointer), sample in zip(
                self.tensors.items(), self._counts, samples, strict=True
            )
        }

    def forget_tensors(self) -> None:
        """Let go of the tensors, so that replaced ones are freed; the marks stay."""
        self.tensors, self._views = {}, []

    def has_tree(self, networks: Sequence[nn.Module]) -> bool:
        """Return whether the modules are the same objects at the same places."""
        return all(
            one is other for one, other in zip(networks, self.networks, strict=True)
        ) and all(list(map(id, there.values())) == ids for there, ids in self._children)

    def still(self, networks: Sequence[nn.Module], tokenizer: PreTrainedTokenizerBase) -> bool:
        """Return whether nothing has changed since."""
        return (
            self.has_tree(networks)
            and all(len(owner) == n for owner, n in self._owned)
            and all(id(owner.get(key)) == number for owner, key, number in self._owners)
            and all(
                version is not None and tensor.data_ptr() == pointer and _version(tensor) == version
                for tensor, (version, pointer) in zip(
                    self.tensors.values(), self._counts, strict=True
                )
            )
            and all(len(own) == n for own, n in self._sizes)
            and all(own.get(key) == value for own, key, value in self._settings)
            and _fields(self._configs) == self._fields
            and tokenizer is self.tokenizer
            and tokenizer_state(tokenizer) == self.tokenizer_state
            and list(map(_joined, self._views)) == self._samples
        )


def _named_modules(networks: Sequence[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, module) of all modules, each once."""
    seen: set[nn.Module] = set()
    for number, network in enumerate(networks):
        for name, module in network.named_modules(memo=seen):
            yield (f"{number}.{name}" if number else name), module


def _counts(key: str) -> bool:
    """Return whether numbers may depend on an attribute of this name."""
    return key not in IDLE and not key.startswith("_") and not key.endswith(MOVING)


def _is_plain(value: object) -> bool:
    """Return whether a value is a number or a text, or a container of some."""
    if isinstance(value, list | tuple):
        return all(isinstance(item, PLAIN) for item in value)
    if isinstance(value, dict):
        return all(isinstance(item, PLAIN) for pair in value.items() for item in pair)
    return isinstance(value, PLAIN)


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _spread(tensor: Tensor) -> Tensor:
    """Return a view of evenly spaced elements of a tensor as whole numbers."""
    n, word = tensor.numel(), WORDS.get(tensor.element_size())
    if word is None or not tensor.is_contiguous():
        return torch.empty(0, dtype=word or torch.uint8, device=tensor.device)
    return tensor.detach().view(word).as_strided((min(n, N_SAMPLED),), (max(1, n // N_SAMPLED),))


def _joined(views: Sequence[Tensor]) -> bytes:
    return torch.cat(list(views)).cpu().numpy().tobytes()


def _checksum(tensor: Tensor) -> str:
    """Return the checksum of all values of a tensor, with its shape and data type."""
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return f"{tensor.dtype} {tuple(tensor.shape)} {xxhash.xxh3_128_hexdigest(values.data)}"


def _fields(configs: Sequence[Any]) -> dict[str, str]:
    """Return the fields of configurations as texts."""
    return {
        f"config {number}/{key}": text_of(value)
        for number, config in enumerate(configs)
        for key, value in vars(config).items()
        if key not in IDLE
    }


def _short(parts: object) -> str:
    """Return sixteen hex digits of JSON values."""
    return xxhash.xxh3_128_hexdigest(json.dumps(parts, sort_keys=True).encode())[:16]
