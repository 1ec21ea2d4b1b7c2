"""A capture in shards: texts in, shards out, and what reads them; bad input and damaged shards."""

import contextlib
import functools
import json
import os
import signal
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import constants

import dysem_lab as dl
from dysem_lab.cluster import capture as sharded
from dysem_lab.cluster.shards import encoded_shards, name_of, shards, store_shards
from dysem_lab.cluster.texts import languages_of, rows
from dysem_lab.errors import DataError, DysemLabError, InputError, ModelError
from dysem_lab.models.capture import missing_rows
from dysem_lab.models.places import Place
from dysem_lab.models.store import prompt_key

pytestmark = pytest.mark.usefixtures("_one_thread")
N = 11


@pytest.fixture(scope="module")
def table():
    """Return texts in two languages, of different lengths."""
    return pd.DataFrame(
        {
            "id": [f"t{i}" for i in range(N)],
            "en": [f"Sentence {i} of them{' and more' * (i % 4)}." for i in range(N)],
            "fr": [f"Phrase {i}{' encore' * (i % 3)}." for i in range(N)],
        }
    )


@pytest.fixture(scope="module")
def loaded():
    """Return `load_model`, which loads each model once."""
    return functools.cache(sharded.load_model)


@pytest.fixture
def request_for(tiny_folder, table, tmp_path, loaded, monkeypatch):
    """Return a function that makes the request of a capture into a folder of its own."""
    monkeypatch.setattr(sharded, "load_model", loaded)
    texts = tmp_path / "texts.parquet"
    table.to_parquet(texts)
    usual = {
        "texts": str(texts),
        "columns": {"en": "en", "fr": "fr"},
        "folder": str(tmp_path / "shards"),
        "ids": "id",
        "model": str(tiny_folder("Llama")),
        "rows": 4,
    }
    return lambda **other: sharded.Request(**{**usual, **other})


def captured(request, **how):
    said = []
    sharded.capture_shards(request, report=lambda *progress: said.append(progress), **how)
    assert [done for done, _, _ in said] == list(range(1, len(said) + 1))
    return [outcome for _, _, outcome in said]


def whole(folder):
    """Return the ids of all shards, and all vectors, joined."""
    read = list(shards(folder))
    keys = read[0][2].keys()
    return (
        [name for _, part, _ in read for name in part.ids],
        {key: torch.cat([vectors[key] for _, _, vectors in read]) for key in keys},
    )


def test_shards_hold_what_a_plain_capture_of_each_language_gives(request_for, table, tiny_lens):
    request = request_for(components=("attn", "resid"), layers="each")
    assert captured(request) == ["made"] * 3
    ids, vectors = whole(request.folder)
    assert ids == table["id"].tolist()
    for code in ("en", "fr"):
        prompts = dl.wrap(table[code].tolist(), "prompteol", "language-specific", code)
        for name, plain in dl.capture(tiny_lens, prompts, ("attn", "resid"), "each").items():
            assert torch.allclose(vectors[code, f"{name}.each"], plain, rtol=0, atol=2e-6)
    read = pd.read_parquet(f"{request.folder}/{name_of(1)}")  # anybody can read them
    assert read["text/fr"].tolist() == table["fr"].tolist()[4:8]
    assert np.array_equal(read["vector/fr/attn.each"][0], vectors["fr", "attn.each"][4].ravel())
    assert captured(request) == ["there"] * 3


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_json_lines_and_patterns_of_files_are_the_same_texts(suffix, table, tmp_path):
    for part in range(3):
        piece = table.iloc[part * 4 : part * 4 + 4]
        piece.to_json(tmp_path / f"part-{part}{suffix}", orient="records", lines=True)
    given = list(rows(f"file://{tmp_path}/part-*{suffix}", {"en": "en", "fr": "fr"}, "id", 5))
    assert [len(part.ids) for part in given] == [5, 5, 1]
    assert [name for part in given for name in part.ids] == table["id"].tolist()
    assert [text for part in given for text in part.texts["fr"]] == table["fr"].tolist()
    (unnamed,) = rows(f"{tmp_path}/part-*{suffix}", {"en": "en"}, n=99)
    assert unnamed.ids[3:5] == [f"part-0{suffix}:4", f"part-1{suffix}:1"]


def test_texts_may_be_at_any_address_of_fsspec(table):
    import fsspec

    with fsspec.open("memory://corpus/a.jsonl", "w") as file:
        table.to_json(file, orient="records", lines=True)
    (given,) = rows("memory://corpus/*.jsonl", {"en": "en"}, n=99)
    assert given.texts["en"] == table["en"].tolist()
    with pytest.raises(InputError, match="cannot reach 'nowhere://x'"):
        next(rows("nowhere://x", {"en": "en"}))


def test_languages_are_columns_that_are_codes_or_english_text(tmp_path, table):
    table.to_parquet(tmp_path / "codes.parquet")
    assert languages_of(tmp_path / "codes.parquet") == {"en": "en", "fr": "fr"}
    (tmp_path / "one.jsonl").write_text('{"text": "A.", "n": 1}\n')
    assert languages_of(tmp_path / "one.jsonl") == {"en": "text"}
    assert languages_of(tmp_path / "one.jsonl", ["ja"], "satz") == {"ja": "satz"}
    with pytest.raises(InputError, match="has one language, not en, fr"):
        languages_of(tmp_path / "one.jsonl", ["en", "fr"], "text")
    (tmp_path / "none.jsonl").write_text('{"n": 1}\n')
    with pytest.raises(InputError, match=r"no column 'text'.*but n; name one with --column"):
        languages_of(tmp_path / "none.jsonl")


BAD = {
    "a.txt": (b"A text.\n", "ends in none of .parquet"),
    "a.csv": (b"en\nA text.\n", "ends in none of .parquet"),
    "empty.jsonl": (b"", "has no rows"),
    "empty.parquet": (b"", "cannot be read"),
    "cut.jsonl.gz": (b"\x1f\x8b\x08\x00", "cannot be read"),
    "column.jsonl": (b'{"fr": "Oui."}\n', "has no column en, but fr"),
    "none.jsonl": (b'{"en": "A."}\n{"en": null}\n', "row 2: en is None, not a text"),
    "nan.jsonl": (b'{"en": "A."}\n{"en": NaN}\n', "row 2: en is nan, not a text"),
    "lacks.jsonl": (b'{"en": "A."}\n\n{"fr": "B."}\n', "row 2: en is None, not a text"),
    "blank.jsonl": (b'{"en": " "}\n', "row 1: en is ' ', not a text"),
    "number.jsonl": (b'{"en": 3}\n', "row 1: en is 3, not a text"),
    "half.jsonl": (b'{"en": "a \\ud800"}\n', "row 1: en holds .* half of a surrogate pair"),
    "list.jsonl": (b'["A."]\n', "row 1: .* is no object with columns"),
    "json.jsonl": (b'{"en": "A."}\n{"en": \n', "row 2: .* is no JSON"),
    "latin.jsonl": (b'{"en": "\xe9"}\n', "cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_texts_are_refused_by_file_and_row_before_a_model_is_loaded(
    name, request_for, tmp_path, monkeypatch
):
    monkeypatch.setattr(sharded, "load_model", None)
    content, said = BAD[name]
    (tmp_path / name).write_bytes(content)
    request = request_for(texts=str(tmp_path / name), columns={"en": "en"}, ids="")
    with pytest.raises(DysemLabError, match=said):
        sharded.capture_shards(request)
    assert not (tmp_path / "shards").exists()


def test_ids_that_are_there_twice_are_named_before_a_model_is_loaded(
    request_for, table, tmp_path, monkeypatch
):
    monkeypatch.setattr(sharded, "load_model", None)
    twice = tmp_path / "twice.jsonl"
    ids = ["a", "b", "c", "d", "b", "e", "f", "c", "g", "h", "i"]  # in shards of four
    table.assign(id=ids).to_json(twice, orient="records", lines=True)
    told = r"twice\.jsonl has ids twice in its column id: 'b', 'c'; give a column .* --ids out"
    with pytest.raises(InputError, match=told):
        sharded.capture_shards(request_for(texts=str(twice)))
    assert not (tmp_path / "shards").exists()


def test_a_model_that_is_not_to_be_found_is_refused_before_all_texts_are_read(
    request_for, tmp_path, monkeypatch
):
    monkeypatch.setattr(sharded.Request, "read", lambda self: pytest.fail("texts were read"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    told = r"load nobody/has-this: the hub's cache .* has no nobody/has-this .*\nWithout a network"
    with pytest.raises(ModelError, match=told):
        sharded.capture_shards(request_for(model="nobody/has-this"))
    assert not (tmp_path / "shards").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_all_texts_are_read(
    request_for, monkeypatch
):
    monkeypatch.setattr(sharded.Request, "read", lambda self: pytest.fail("texts were read"))
    for folder in ("/proc", "/proc/shards"):  # where root cannot write either
        with pytest.raises(DataError, match=rf"{folder} cannot be written to .*; give another"):
            sharded.capture_shards(request_for(folder=folder))


def test_a_capture_that_is_whole_may_lie_where_nothing_can_be_written(request_for, monkeypatch):
    captured(request_for())
    wrote = "dysem_lab.cluster.shards._write_whole"
    monkeypatch.setattr(wrote, lambda *_: pytest.fail("a file was written"))
    assert captured(request_for()) == ["there"] * 3


def test_parquet_without_texts_is_refused(request_for, tmp_path, table):
    with pytest.raises(DataError, match="has no column de, but id, en, fr"):
        sharded.capture_shards(request_for(columns={"de": "de"}))
    path = tmp_path / "missing.parquet"
    table.assign(en=[*table["en"][:-1], None]).to_parquet(path)
    with pytest.raises(DataError, match=f"row {N}: en is None"):
        sharded.capture_shards(request_for(texts=str(path)))
    table.head(0).to_parquet(path)
    with pytest.raises(DataError, match="has no rows"):
        sharded.capture_shards(request_for(texts=str(path)))
    with pytest.raises(InputError, match="no file"):
        sharded.capture_shards(request_for(texts=str(tmp_path / "no-*.parquet")))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"components": ("zzz",)}, "unknown component 'zzz'"),
        ({"layers": 7}, "layer must be between 0 and 2, got 7"),
        ({"template": "zzz"}, "zzz"),
        ({"setting": "zzz"}, "zzz"),
        ({"rows": 0}, "rows must be a whole number of at least 1"),
        ({"folder": "nowhere://x"}, "cannot reach"),
    ],
)
def test_names_that_do_not_exist_are_refused(other, said, request_for):
    with pytest.raises(InputError, match=said):
        sharded.capture_shards(request_for(**other))
    with pytest.raises(InputError, match="unknown engine 'rayy'; did you mean 'ray'"):
        sharded.capture_shards(request_for(), "rayy")


def test_too_many_workers_are_refused_before_all_texts_are_read(request_for, monkeypatch):
    nodes = [{"Alive": True, "Resources": {"CPU": 2}}]
    monkeypatch.setattr(sharded, "connected", lambda: SimpleNamespace(nodes=lambda: nodes))
    monkeypatch.setattr("dysem_lab.cluster.texts._parts", None)
    with pytest.raises(InputError, match="3 workers, but the cluster has 2 cores"):
        sharded.capture_shards(request_for(), "ray", 3)


def test_a_folder_of_another_capture_is_refused_by_what_differs(
    request_for, loaded, tiny_folder, table, tmp_path, monkeypatch
):
    request = request_for()
    captured(request)
    before = whole(request.folder)[1]
    changed = tmp_path / "changed.parquet"
    table.assign(fr=table["fr"].str.upper()).to_parquet(changed)
    for other, said in (
        ({"model": str(tiny_folder("Qwen3"))}, "model '.*', not '.*'"),
        ({"dtype": "bfloat16"}, "dtype 'float32', not 'bfloat16'"),
        ({"components": ("ffn",)}, "shapes .*attn.sum.*ffn.sum"),
        ({"setting": "english"}, "setting 'language-specific', not 'english'"),
        ({"columns": {"en": "en"}}, "languages"),
        ({"rows": 5}, "rows 4, not 5"),
        ({"texts": str(changed)}, "digest"),
    ):
        with pytest.raises(InputError, match=f"is another capture .*{said}"):
            sharded.capture_shards(replace(request, **other))
    monkeypatch.setattr(dl, "__version__", "9.9")  # whose vectors are the same
    assert captured(request) == ["there"] * 3
    monkeypatch.setattr(sharded, "VECTORS", 2)
    with pytest.raises(InputError, match=r"is another capture .*vectors 1, not 2"):
        sharded.capture_shards(request)
    monkeypatch.setattr("dysem_lab.retrieval.identity.VECTORS", 2)
    encoder = dl.DySem(loaded(request.model), ("en",), k=4)
    for use in (
        lambda: next(encoded_shards(request.folder, encoder)),
        lambda: store_shards(request.folder, dl.VectorStore(tmp_path / "vectors.sqlite")),
    ):
        with pytest.raises(InputError, match=r"other vectors .*vectors 1, and 2 now.* texts again"):
            use()
    monkeypatch.undo()
    monkeypatch.setattr(sharded, "load_model", loaded)
    (tmp_path / "shards" / "capture.json").write_text('{"rows": 4, "n_texts": 11}')
    with pytest.raises(DataError, match=r"capture\.json is damaged .*move it away"):
        sharded.capture_shards(request)
    # One that lost its manifest: its shards still say what they are of.
    (tmp_path / "shards" / "capture.json").unlink()
    with pytest.raises(InputError, match=f"{name_of(0)} is of another capture .*setting"):
        sharded.capture_shards(replace(request, setting="english"))
    (tmp_path / "shards" / "capture.json").unlink()
    assert captured(request) == ["there"] * 3
    assert all(torch.equal(before[key], now) for key, now in whole(request.folder)[1].items())


def test_a_damaged_shard_is_named_and_made_again(request_for, tmp_path):
    request = request_for(columns={"en": "en"})
    captured(request)
    file = tmp_path / "shards" / name_of(1)
    content = file.read_bytes()
    before = whole(request.folder)
    rng = np.random.default_rng(0)
    flipped = [bytearray(content) for _ in range(6)]
    for copy, at in zip(flipped, rng.integers(200, len(content) - 1200, 6), strict=True):
        copy[at] ^= 1 << rng.integers(8)
    cut = [content[:-1], content[: len(content) // 2], b"", b"PAR1"]
    swapped = (tmp_path / "shards" / name_of(0)).read_bytes()  # whole, but of other texts
    for bad in (*cut, swapped, *flipped[:2]):
        file.write_bytes(bad)
        with pytest.raises(DataError, match=f"{name_of(1)} is damaged .*makes it again"):
            list(shards(request.folder))
        there, again, after = captured(request)
        assert (there, after) == ("there", "there")
        assert f"{name_of(1)} is damaged" in again
        now = whole(request.folder)
        assert now[0] == before[0]
        assert torch.equal(now[1]["en", "attn.sum"], before[1]["en", "attn.sum"])
    for bad in flipped[2:]:  # is seen, or changes no value
        file.write_bytes(bad)
        with contextlib.suppress(DataError):
            now = whole(request.folder)
            assert torch.equal(now[1]["en", "attn.sum"], before[1]["en", "attn.sum"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the writer is a fork of this process")
def test_a_process_that_is_killed_while_it_writes_a_shard_loses_none_and_doubles_none(
    request_for, tmp_path, monkeypatch
):
    request = request_for()
    child = os.fork()
    if not child:
        from pyarrow import parquet

        write, written = parquet.write_table, []

        def half(table, file, **options):
            written.append(table)
            if len(written) == 2:
                file.write(b"PAR1 and half a shard")
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            write(table, file, **options)

        parquet.write_table = half
        try:
            sharded.capture_shards(request)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    folder = tmp_path / "shards"
    assert (folder / name_of(0)).is_file()
    assert len(list(folder.glob(".*.part"))) == 1
    with pytest.raises(InputError, match=f"has no {name_of(1)} yet"):
        list(shards(request.folder))
    assert captured(request) == ["there", "made", "made"]
    undisturbed = request_for(folder=str(tmp_path / "other"))
    captured(undisturbed)
    (ids, vectors), (same_ids, same) = whole(request.folder), whole(undisturbed.folder)
    assert ids == same_ids
    assert all(torch.equal(vectors[key], same[key]) for key in same)
    assert not list(folder.glob(".*.part"))


def test_a_store_takes_the_vectors_in_as_if_it_had_captured_them(
    request_for, table, tiny_lens, tmp_path
):
    request = request_for(setting="english")
    captured(request)
    store = dl.VectorStore(tmp_path / "store.sqlite")
    assert store_shards(request.folder, store) == 2 * N
    prompts = dl.wrap(table["fr"].tolist(), "prompteol", "english", "fr")
    keys = [prompt_key(prompt, 512) for prompt in prompts]
    assert missing_rows(tiny_lens.facts, store, keys, [Place("attn")]) == []
    stored = dl.capture(tiny_lens, prompts, "attn", store=store)["attn"]
    assert torch.equal(stored, whole(request.folder)[1]["fr", "attn.sum"])
    assert store.contents()["model"].tolist() == [str(request.model)]
    with pytest.raises(InputError, match=r"has no capture\.json; give a folder"):
        store_shards(str(tmp_path), store)


def test_encoders_make_of_shards_what_they_make_of_texts(
    request_for, table, tiny_lens, tiny_folder
):
    request = request_for(components=("attn", "final"))
    captured(request)
    renderings = {code: table[code].tolist() for code in ("en", "fr")}
    dysem = dl.DySem(tiny_lens, ("en", "fr"), None, 0.25)
    source = dl.DySem(tiny_lens, ("en", "fr"), None, 0.25, vector="source")
    for encoder in (dysem, source, dl.PromptEncoder(tiny_lens)):
        parts = list(encoded_shards(request.folder, encoder, "en"))
        asked = encoder.encode_renderings(renderings, "en", progress=False)
        assert [name for part, _ in parts for name in part.ids] == table["id"].tolist()
        vectors = torch.cat([made.vectors for _, made in parts])
        assert torch.allclose(vectors, asked.vectors, rtol=0, atol=2e-6)
        assert torch.equal(torch.cat([made.sets for _, made in parts]), asked.sets)
    for encoder, said in (
        (dl.DySem(tiny_lens, ("en",), None, 0.25, component="ffn"), "no ffn.sum of the prompts"),
        (dl.DySem(tiny_lens, ("en", "fr"), None, 0.25, setting="english"), "in fr, but attn.sum"),
        (dl.PromptEncoder(tiny_lens, "pretended_cot"), "but attn.sum, final of 'prompteol'"),
        (dl.DySem(dl.load_model(tiny_folder("Qwen3")), ("en",), None, 0.25), "load that model"),
    ):
        with pytest.raises(InputError, match=said):
            list(encoded_shards(request.folder, encoder, "en"))


def test_the_command_line_captures_and_builds_an_index_of_shards(request_for, table, tmp_path):
    pytest.importorskip("numba", reason="no numba: pip install -e '.[index]'")
    from typer.testing import CliRunner

    from dysem_lab.cli import cli

    def run(*arguments):
        found = CliRunner().invoke(cli, [*map(str, arguments), "--json"], catch_exceptions=False)
        return json.loads(found.stdout)

    request = request_for()
    model = ("--model", request.model)
    made = run("capture", request.folder, request.texts, "--ids", "id", "--rows", 4, *model)
    assert made["texts"] == N
    assert (made["shards"], made["made now"]) == (3, 3)
    assert made["columns of vectors"] == ["en/attn.sum", "fr/attn.sum"]
    index = ("index", "build", tmp_path / "index", "--shards", request.folder, *model)
    assert run(*index)["added"] == N
    assert run(*index)["there already"] == N
    there = dl.SemanticIndex.open(tmp_path / "index")
    assert there.ids == table["id"].tolist()
    assert there.texts(["t3"]) == [table["en"][3]]
    assert (
        run("store", "--file", _store(tmp_path), "--load", request.folder)["prompts_loaded"] == 22
    )
    with pytest.raises(InputError, match="either a file of texts or --shards"):
        run("index", "build", tmp_path / "index", *model)
    whole = request_for(folder=str(tmp_path / "one shard"), rows=N)
    captured(whole)
    index = ("index", "build", tmp_path / "int8", "--shards", whole.folder, *model)
    assert 0.5 < run(*index, "--stored", "int8")[f"10 nearest kept by int8 (of {N} texts)"] <= 1


def test_an_index_of_shards_has_their_data_type_and_refuses_ids_that_are_there_twice(
    request_for, table, tmp_path, monkeypatch
):
    pytest.importorskip("numba", reason="no numba: pip install -e '.[index]'")
    from typer.testing import CliRunner

    from dysem_lab.cli import cli

    def run(*arguments):
        return CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False)

    request = request_for(dtype="bfloat16", columns={"en": "en"})
    captured(request)
    build = ("index", "build", tmp_path / "index", "--model", request.model, "--shards")
    assert run(*build, request.folder).exit_code == 0
    there = dl.SemanticIndex.open(tmp_path / "index")
    assert there.encoder["model"]["dtype"] == "bfloat16"
    lens = dl.load_model(request.model, dtype="bfloat16")
    made = dl.DySem(lens, ("en",), None, 0.25).encode(table["en"].tolist(), progress=False)
    assert torch.allclose(there.vectors(there.ids).vectors, made.vectors.float(), atol=0.1)

    twice = tmp_path / "twice.parquet"
    table.assign(id=[f"t{i % 9}" for i in range(N)]).to_parquet(twice)  # of different shards
    request = request_for(texts=str(twice), folder=str(tmp_path / "twice"))
    with monkeypatch.context() as patch:  # as captures were made before
        patch.setattr(sharded, "_require_different", lambda *_: None)
        captured(request)
    build = ("index", "build", tmp_path / "new", "--model", request.model, "--shards")
    with pytest.raises(InputError, match="has the id 't0' twice; capture the texts with --ids"):
        run(*build, request.folder)
    assert not (tmp_path / "new").exists()


def _store(folder):
    path = folder / "store.sqlite"
    dl.VectorStore(path)
    return path


def test_workers_that_would_make_different_vectors_are_refused(request_for, monkeypatch):
    def mixed(request):
        (manifest,), _ = sharded_here(request)
        half = {**manifest, "model": {**manifest["model"], "dtype": "bfloat16"}}
        return [manifest, manifest, half], None

    sharded_here = sharded._here
    monkeypatch.setattr(sharded, "_here", mixed)
    with pytest.raises(
        ModelError, match=r"same .*dtype 'bfloat16', not 'float32'.*name the --dtype"
    ):
        sharded.capture_shards(request_for())


def test_without_ray_the_error_names_the_extra(request_for, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModelError, match=r"pip install 'dysem-lab\[cluster\]'"):
        sharded.capture_shards(request_for(), "ray")
