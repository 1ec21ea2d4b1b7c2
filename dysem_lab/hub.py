"""The hub, known in seconds with or without a network, and the commit that a name stands for there.

transformers and datasets ask for each file by itself and try each five times, so that without a
network their error comes after a minute; and a branch may move between two files.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

SECONDS = 5.0  # for the hub to answer
COMMIT_HEADER = "x-repo-commit"
CONFIGURATIONS = ("config.json", "adapter_config.json")  # a model has one of them
Result = TypeVar("Result")


class OnHub(NamedTuple):
    """Where the files of a model of the hub are; arguments of ``from_pretrained``."""

    revision: str  # the commit, 40 hex digits; what was asked for where a mirror does not tell it
    local_files_only: bool  # whether the hub cannot be reached, so that the cache must do


def cached_snapshot(hub_id: str, revision: str | None = None) -> Path | None:
    """Return the folder of the hub's cache with a model's files, named by the commit; or None.

    Raises:
        ValueError: No name that the hub could have.
    """
    from huggingface_hub import try_to_load_from_cache

    for name in CONFIGURATIONS:
        file = try_to_load_from_cache(hub_id, name, revision=revision or "main")
        if isinstance(file, str):
            return Path(file).parent
    return None


@contextmanager
def data_in_time() -> Iterator[None]:
    """Let datasets read its cache alone while this is open, if the hub does not answer."""
    from datasets import config

    was, config.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE or not _answers()
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = was


def _answers() -> bool:
    """Return whether there is a hub: any answer is one."""
    from huggingface_hub import constants, get_session

    seconds = float(os.environ.get("HF_HUB_ETAG_TIMEOUT", SECONDS))
    try:
        _within(seconds, partial(get_session().head, constants.ENDPOINT, timeout=seconds))
    except Exception:  # of the network, of a proxy
        return False
    return True


def find_on_hub(hub_id: str, revision: str | None = None) -> OnHub:
    """Ask the hub once which commit a branch or tag is now; else take the one of the cache.

    Raises:
        ValueError: No name that the hub could have.
        OSError: The hub does not have it, or cannot be reached and the cache has nothing either.
    """
    from huggingface_hub import constants

    cached = cached_snapshot(hub_id, revision)
    try:
        if constants.HF_HUB_OFFLINE:
            raise ConnectionError("HF_HUB_OFFLINE is set")
        return OnHub(_commit(hub_id, revision or "main"), False)
    except Exception as error:  # of the network, of a proxy, of the hub
        if cached is not None:
            return OnHub(cached.name, True)
        raise ConnectionError(
            f"the hub's cache on this machine has no {hub_id} ({revision or 'main'}), and the hub "
            f"gave none: {_first_line(error)}"
        ) from error


def _commit(hub_id: str, revision: str) -> str:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import RemoteEntryNotFoundError

    seconds = float(os.environ.get("HF_HUB_ETAG_TIMEOUT", SECONDS))
    commit = None
    for name in CONFIGURATIONS:
        url = hf_hub_url(hub_id, name, revision=revision)
        ask = partial(get_hf_file_metadata, url, timeout=seconds)
        try:
            commit = _within(seconds, ask).commit_hash
        except RemoteEntryNotFoundError as error:
            commit = error.response.headers.get(COMMIT_HEADER)
        else:
            hf_hub_download(hub_id, name, revision=revision)  # so that the cache knows the branch
            break
    return commit or revision


def _within(seconds: float, call: Callable[[], Result]) -> Result:
    """Return what a call returns, if it does so in time: looking up a name has no limit itself."""
    results: list[Result] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            results.append(call())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)  # which no exit waits for
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:g} seconds")
    return results[0]


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3]) or type(error).__name__
