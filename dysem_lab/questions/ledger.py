"""Measurements that take long, one pair of texts at a time: an interrupted run goes on."""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from typing import Any

from dysem_lab import paths


class Ledger:
    """What was measured of pairs, written to a file of the cache as it comes.

    Args:
        about: All that it depends on beside the texts, as JSON values.
    """

    def __init__(self, about: Sequence[Any]) -> None:
        """Read what an earlier run measured; half a line is no line."""
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        self._file = paths.removals_path(key)
        self._found: dict[str, list[dict[str, Any]]] = {}
        lines = self._file.read_text(encoding="utf-8").split("\n") if self._file.exists() else []
        for line in lines:
            with contextlib.suppress(json.JSONDecodeError):
                found = json.loads(line)
                self._found.setdefault(found.pop("pair"), []).append(found)

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def __getitem__(self, name: str) -> list[dict[str, Any]]:
        """Return what was measured of a pair, in the order in which it was."""
        return self._found.get(name, [])

    def add(self, name: str, found: dict[str, Any]) -> None:
        """Add something that was measured of a pair."""
        self._found.setdefault(name, []).append(found)
        with self._file.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps({"pair": name, **found}) + "\n")
