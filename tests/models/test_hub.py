"""Models of the hub, from a small hub of our own on this machine."""

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dysem_lab import hub
from dysem_lab.data.sts import load_data
from dysem_lab.errors import DataError
from dysem_lab.hub import cached_snapshot, find_on_hub
from dysem_lab.models.loading import load_model, size_of, source_digest

FIRST, SECOND = "1" * 40, "2" * 40


class Hub:
    """Repositories by owner and name: files, and the commit that each branch is at."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.refs = {"main": FIRST}
        self.asked: list[str] = []

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(path)
        if "/resolve/" not in path:  # a listing of a folder that no repository has
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        owner, name, _, revision, file = path.strip("/").split("/", 4)
        files = self.files.get(f"{owner}/{name}")
        if files is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        commit = self.refs.get(revision, revision if len(revision) == 40 else None)
        if commit is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if file not in files:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        content = files[file]
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{hash(content):x}"'}, content


@pytest.fixture
def our_hub(tmp_path, monkeypatch):
    """Serve a hub, and point the library at it and at an empty cache."""
    served = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, content = served.answer(self.path.partition("?")[0])
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    pointed(monkeypatch, f"http://127.0.0.1:{server.server_port}", tmp_path)
    yield served
    server.shutdown()
    server.server_close()


def pointed(monkeypatch, endpoint: str, folder) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", endpoint)
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # which remembers its endpoint
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def test_a_branch_is_the_commit_that_it_is_at_now(our_hub):
    our_hub.files["a/model"] = {"config.json": b"{}"}
    assert find_on_hub("a/model") == (FIRST, False)
    assert find_on_hub("a/model", "main") == (FIRST, False)
    assert cached_snapshot("a/model").name == FIRST
    our_hub.refs["main"] = SECOND
    our_hub.files["a/model"]["config.json"] = b'{"a": 1}'
    assert find_on_hub("a/model") == (SECOND, False)
    assert cached_snapshot("a/model").name == SECOND
    assert find_on_hub("a/model", FIRST) == (FIRST, False)


def test_an_adapter_has_a_configuration_of_its_own(our_hub):
    settings = {"base_model_name_or_path": "a/model"}
    our_hub.files["a/adapter"] = {"adapter_config.json": json.dumps(settings).encode()}
    assert find_on_hub("a/adapter") == (FIRST, False)
    assert cached_snapshot("a/adapter").name == FIRST


@pytest.mark.parametrize(
    ("hub_id", "revision", "message"),
    [
        ("a/absent", None, "Repository Not Found"),
        ("a/model", "v9", "Revision Not Found"),
    ],
)
def test_what_the_hub_does_not_have_is_named(our_hub, hub_id, revision, message):
    our_hub.files["a/model"] = {"config.json": b"{}"}
    with pytest.raises(OSError, match=f"no {hub_id} .*{message}"):
        find_on_hub(hub_id, revision)
    assert len(our_hub.asked) == 1, "asked once"


def test_without_a_network_the_cache_answers_at_once(our_hub, tmp_path, monkeypatch):
    our_hub.files["a/model"] = {"config.json": b"{}"}
    find_on_hub("a/model")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    for offline in (False, True):
        pointed(monkeypatch, f"http://127.0.0.1:{port}", tmp_path)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        start = time.monotonic()
        assert find_on_hub("a/model") == (FIRST, True)
        with pytest.raises(OSError, match="has no a/other"):
            find_on_hub("a/other")
        start = time.monotonic()
        with pytest.raises(DataError, match=r"cannot load .* from the hub.*use the demo set"):
            load_data("hub", "STS13")
        assert time.monotonic() - start < 4


def test_a_hub_that_never_answers_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        pointed(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path)
        start = time.monotonic()
        with pytest.raises(OSError, match=r"no answer within|timed out"):
            find_on_hub("a/model")
        assert time.monotonic() - start < 4


@pytest.mark.parametrize("hub_id", ["a/" + "b" * 300, "a b/c", "a/b/c", "-a/b", "a/b..c"])
def test_what_cannot_be_a_name_is_refused_without_asking(our_hub, hub_id):
    with pytest.raises(ValueError, match=r"(?i)repo.id"):
        find_on_hub(hub_id)
    assert our_hub.asked == []


def test_a_model_of_the_hub_is_loaded_at_one_commit_and_again_without_a_network(
    our_hub, tiny_folder, tmp_path, monkeypatch
):
    folder = tiny_folder("Llama")
    our_hub.files["a/model"] = {file.name: file.read_bytes() for file in folder.iterdir()}
    lens = load_model("a/model")
    assert lens.source.endswith(f" a/model@{FIRST}")
    assert lens.fingerprint == load_model(folder).fingerprint, "the same files"
    assert source_digest("a/model") == lens.source
    assert size_of("a/model") == (lens.n_layers, lens.d_model)

    config = json.loads(our_hub.files["a/model"]["config.json"])
    our_hub.files["a/model"]["config.json"] = json.dumps({**config, "rms_norm_eps": 0.5}).encode()
    our_hub.refs["main"] = SECOND
    moved = load_model("a/model")
    assert moved.source.endswith(f" a/model@{SECOND}")
    assert moved.fingerprint != lens.fingerprint
    assert load_model("a/model", revision=FIRST).fingerprint == lens.fingerprint

    pointed(monkeypatch, "http://127.0.0.1:9", tmp_path)
    start = time.monotonic()
    again = load_model("a/model")
    assert (again.source, again.fingerprint) == (moved.source, moved.fingerprint)
    assert time.monotonic() - start < 10
    assert load_model("a/model", revision=FIRST).fingerprint == lens.fingerprint


def test_what_was_changed_in_the_hubs_cache_is_another_model(our_hub, tiny_folder):
    folder = tiny_folder("Llama")
    our_hub.files["a/model"] = {file.name: file.read_bytes() for file in folder.iterdir()}
    lens = load_model("a/model")
    config = cached_snapshot("a/model") / "config.json"
    changed = {**json.loads(config.read_text()), "rms_norm_eps": 0.5}
    config.unlink()
    config.write_text(json.dumps(changed))
    assert source_digest("a/model") != lens.source
