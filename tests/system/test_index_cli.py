"""`dysem-lab index` on a tiny model: from texts to hits, and what is wrong on the way."""

import json
import re

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import dysem_lab as dl
from dysem_lab.cli import cli
from dysem_lab.errors import DysemLabError, InputError
from dysem_lab.retrieval import records

pytest.importorskip("numba", reason="no numba: pip install -e '.[index]'")
pytestmark = pytest.mark.usefixtures("_one_thread")
LINES = ["A dog sleeps.", "", "It rains.", "A man plays the guitar.", "Somebody makes music."]


def run(*arguments):
    """Return what a command says; an error of ours is raised."""
    result = CliRunner().invoke(cli, ["index", *map(str, arguments)])
    if isinstance(result.exception, DysemLabError):
        raise result.exception
    assert result.exception is None or result.exit_code == 1, result.output
    return result


def asked(*arguments):
    return json.loads(run(*arguments, "--json").stdout)


@pytest.fixture
def built(tmp_path, tiny_folder):
    """Return an index of four texts, and what was said of it."""
    texts = tmp_path / "corpus.txt"
    texts.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    build = ("build", tmp_path / "index", texts, "--model", tiny_folder("Llama"))
    return tmp_path / "index", build


def test_from_texts_to_hits(built, tmp_path):
    folder, build = built
    assert asked(*build)["added"] == 4
    assert asked(*build) | {"megabytes": 0} == {
        "index": str(folder),
        "added": 0,
        "there already": 4,
        "texts": 4,
        "megabytes": 0,
    }
    ((first, *rest),) = [of["hits"] for of in asked("search", folder, "It rains.", "-n", 3)]
    assert first["text"] == "It rains."
    assert first["id"] == "corpus.txt:3"
    assert first["similarity"] == pytest.approx(1, abs=1e-6)
    assert 0 < len(first["top_dimensions"]) <= 5
    assert len(rest) == 2
    more = tmp_path / "more.csv"
    more.write_text("name,text\nn1,The sun shines.\nn2,It snows.\n", encoding="utf-8")
    assert asked("add", folder, more, "--ids", "name")["texts"] == 6
    assert asked("delete", folder, "corpus.txt:3", "n2")["texts"] == 4
    ((hit, *_),) = [of["hits"] for of in asked("search", folder, "It rains.")]
    assert hit["id"] != "corpus.txt:3"
    facts = asked("info", folder, "--check")
    assert (facts["texts"], facts["encoder"], facts["damaged texts"]) == (4, "DySem", 0)
    assert "megabytes" in run("info", folder).output


def test_a_first_stage_and_compaction_say_what_they_did(built):
    pytest.importorskip("faiss")
    folder, build = built
    run(*build)
    with pytest.raises(InputError, match="no first stage"):
        run("search", folder, "It rains.", "--first-stage", 20)
    said = asked("first-stage", folder, "--candidates", 20)
    assert said["recall@10"] == 1  # of four texts all are looked at
    search = ("search", folder, "It rains.", "-n", 3)
    (exact,), (found,) = asked(*search), asked(*search, "--first-stage", 20)
    assert found["hits"] == exact["hits"]
    assert (exact["first_stage"], found["first_stage"][:13]) == (None, "20 candidates")
    shown = run(*search, "--first-stage", 20).output
    assert "Not all texts were looked at: 20 candidates of faiss" in shown
    assert "with 20 it found 100.0% of the 10 nearest" in shown
    run("delete", folder, "corpus.txt:1")
    facts = asked("info", folder)
    assert (facts["deleted texts on disk"], facts["recall@10"]) == (1, 1)
    assert asked("compact", folder)["removed"] == 1
    facts = asked("info", folder)
    assert facts["deleted texts on disk"] == 0
    assert "recall@10" not in facts
    assert asked(*search)[0]["hits"][0]["text"] == "It rains."


def test_the_dimensions_of_a_hit_are_those_beyond_what_all_texts_share(built):
    folder, build = built
    run(*build)
    ((_, hit, *_),) = [of["hits"] for of in asked("search", folder, "It rains.", "-n", 3)]
    index = dl.SemanticIndex.open(folder)
    every = index.vectors(index.ids)
    mean = every.vectors.double().numpy().mean(0)
    x, y = (index.vectors([name]) for name in ("corpus.txt:3", hit["id"]))
    U = (x.sets | y.sets)[0].numpy()
    a, b = ((of.vectors[0].double().numpy() - mean) * U for of in (x, y))
    added = a * b / (np.linalg.norm(a) * np.linalg.norm(b))
    top = [j for j in np.argsort(-added, kind="stable")[:5].tolist() if added[j] > 0]
    assert hit["top_dimensions"] == top
    assert hit["top_share"] == pytest.approx(added[top].sum(), abs=1e-5)


def test_a_hit_says_why_it_was_found(built):
    folder, build = built
    run(*build)
    for by in ("dimension", "token"):
        said = asked("search", folder, "A dog sleeps.", "--why", by, "--hit", 2)[0]["why"]
        assert "similar" in said, said
    shown = run("search", folder, "A dog sleeps.", "--why", "head").output
    assert "Nearest to: A dog sleeps." in shown
    assert "Hit 1: " in shown


def test_a_damaged_shard_is_made_anew_from_the_texts(built):
    folder, build = built
    run(*build)
    (path,) = folder.glob("shard-*")
    whole = bytearray(path.read_bytes())
    whole[100] ^= 1
    path.write_bytes(whole)
    with pytest.raises(DysemLabError, match="index repair"):
        run("search", folder, "It rains.")
    damaged = run("info", folder, "--check")
    assert damaged.exit_code == 1
    assert path.name in damaged.output
    assert asked("repair", folder)["made anew"] == 4
    assert asked("search", folder, "It rains.")[0]["hits"][0]["id"] == "corpus.txt:3"
    assert asked("repair", folder)["made anew"] == 0


def test_fewer_bytes_say_what_they_do_to_the_ranking(tmp_path, tiny_folder):
    texts = tmp_path / "corpus.txt"
    texts.write_text("\n".join(f"Text {i} of all." for i in range(12)), encoding="utf-8")
    build = ("build", tmp_path / "index", texts, "--model", tiny_folder("Llama"))
    kept = asked(*build, "--stored", "int8")["10 nearest kept by int8 (of 12 texts)"]
    assert 0.5 < kept <= 1
    with pytest.raises(InputError, match="stores int8, not float32"):
        run(*build, "--stored", "float32")
    assert asked(*build)["there already"] == 12  # in what the index has


def test_an_id_that_is_a_number_can_be_deleted(tmp_path):
    index = dl.SemanticIndex.create(tmp_path / "index", 2)
    index.add([7, "7", 8, -9], dl.SemanticVectors(torch.ones(4, 2)))
    assert asked("delete", tmp_path / "index", "7", "8")["texts"] == 2
    assert index.ids == [7, -9]
    run("delete", tmp_path / "index", "--", "7", "-9")
    assert index.ids == []
    with pytest.raises(InputError, match="no text '8'"):
        run("delete", tmp_path / "index", "8")


def test_a_build_that_was_killed_at_its_very_beginning_goes_on(built):
    folder, build = built
    records.database(folder)  # tables, and nothing in them yet
    assert asked(*build)["added"] == 4


def test_what_is_wrong_is_said(built, tmp_path, tiny_folder):
    folder, build = built
    run(*build)
    table = tmp_path / "table.csv"
    table.write_text("a,b\nOne.,Two.\n", encoding="utf-8")
    other = tmp_path / "other" / "corpus.txt"
    other.parent.mkdir()
    other.write_text("Another text.\n", encoding="utf-8")
    for arguments, said in (
        ((*build, "--k", "8"), "k 0.25, not 8"),
        ((*build, "--stored", "int4"), "did you mean 'int8'"),
        ((*build, "--method", "dysm"), "did you mean 'dysem'"),
        (("add", folder, table), "unknown column"),
        (("add", folder, tmp_path / "none.txt"), "no file"),
        (("add", folder, other), "has another text as 'corpus.txt:1'"),
        (("search", folder, " "), "query 0 is empty"),
        (("search", folder, "A.", "--why", "heads"), "did you mean 'head'"),
        (("search", folder, "A.", "--why", "head", "--hit", "9"), "has 4 hits"),
        (("search", tmp_path / "none", "A."), "no index at"),
        (("delete", folder, "x"), "no text 'x'"),
    ):
        with pytest.raises(InputError, match=said):
            run(*arguments)


WRONG = {
    "index build {new} {texts} --stored int4": "unknown data type 'int4'; did you mean 'int8'",
    "index build {new} {texts} --method dysm": "unknown method 'dysm'; did you mean 'dysem'",
    "index build {new} {texts} --component atn": "unknown component 'atn'; did you mean 'attn'",
    "index build {new} {texts} --template prompteo": "did you mean 'prompteol'",
    "index build {new} {texts} --setting englsh": "did you mean 'english'",
    "index build {new} {texts} --vector men": "did you mean 'mean'",
    "index build {new} {texts} --k 0": "an integer >= 1",
    "index build {new} {texts} --model gema-3-270m": "did you mean 'gemma-3-270m'",
    "index build {new} {texts} --languages en,xx": "unknown language 'xx'",
    "index build {new} {texts} --languages en,en": "one or more different codes",
    "index build {new} {texts} --languages en,ja": "en,ja of texts in 'en' needs --translator",
    "index build {new} {texts} --language fr": "en of texts in 'fr' needs --translator or --table",
    "index build {new} {texts} --translator apertum": "did you mean 'apertium'",
    "index build {new} {texts} --table {table} --translator nllb": "either --table or --translator",
    "index build {new} {texts} --table {table}": "no rendering in 'ja' of 'It rains.'",
    "index build {new} {texts} --table {table} --languages en,ko": "'ko'",
    "index build {new} {texts} --table {odd}": "unknown language 'xx'",
    "index build {new} {texts} --method mean --component ffn": "go with --method dysem; 'mean'",
    "index build {new} {texts} --method dysem_source --setting english": "go with --method dysem",
    "index build {new} {texts} --method geneol": "geneol needs paraphrases",
    "index build {new}": "either a file of texts or --shards",
    "index build {new} {texts} --shards {shards}": "either a file of texts or --shards",
    "index build {new} none.txt": "no file none.txt",
    "index build {new} {table} --column text": "unknown column of .* 'text'",
    "index build {new} {table} --column en --ids no": "unknown column of .* 'no'",
    "index build {new} {twice} --ids name": "ids that are given twice: 'a'",
    "index build {texts} {texts}": "is a file; give the folder of an index",
    "index build {index} {texts} --stored int8": "stores float32, not int8",
    "index build {index} {texts} --k 8": "was made with k 0.25, not 8",
    "index build {index} {texts} --component ffn": "was made with component 'attn', not 'ffn'",
    "index build {index} {other}": "has another text as 'corpus.txt:1'; delete it first",
    "index add {index} {other}": "has another text as 'corpus.txt:1'; delete it first",
    "index build {new} --shards {texts}": "cannot be read",
    "index build {new} --shards {new}": "has no capture.json",
    "index build {new} --shards {shards} --column en": "have texts and ids of their own",
    "index build {new} --shards {shards} --method minilm": "and trained methods go with a file",
    "index build {new} --shards {shards} --languages en,fr": "has no texts in fr, but in en",
    "index build {new} --shards {shards} --language fr": "has no texts in fr, but in en",
    "index build {new} --shards {shards} --component ffn": "has no ffn.sum of 'prompteol'",
    "index build {new} --shards {shards} --template knowledge": "has no attn.sum of 'knowledge'",
    "index build {new} --shards {shards} --method dysem_resid": "has no resid.sum",
    "capture {new} {rows} --layers foo": "unknown layers 'foo'; choose one of: sum, each, a block",
    "capture {new} {rows} --layers ²": "unknown layers '²'",
    "capture {new} {rows} --layers 18": "layer must be between 0 and 17, got 18",
    "capture {new} {rows} --model {model} --layers 3": "layer must be between 0 and 2, got 3",
    "capture {new} {rows} --components atn": "unknown component 'atn'; did you mean 'attn'",
    "capture {new} {rows} --components ,": "no component is named",
    "capture {new} {rows} --dtype half": "unknown dtype 'half'",
    "capture {new} {rows} --model gema-3-270m": "did you mean 'gemma-3-270m'",
    "capture {new} {rows} --model {empty}": "has no config.json; give the folder of a model",
    "capture {new} {rows} --template prompteo": "did you mean 'prompteol'",
    "capture {new} {rows} --setting englsh": "did you mean 'english'",
    "capture {new} {rows} --languages en,xx": "unknown language 'xx'",
    "capture {new} {rows} --languages en,fr --column text": "has one language, not en, fr",
    "capture {new} {rows} --column no": "has no column no, but en",
    "capture {new} {rows} --ids no": "has no column no, but en",
    "capture {new} {texts}": "ends in none of .parquet",
    "capture {new} none.parquet": "no file none.parquet",
    "capture {new} {pattern} --column en": "b.jsonl has no column en, but fr",
    "capture {new} {rows} --workers 2": "--workers goes with --engine ray",
    "capture {new} {rows} --engine rayy": "unknown engine 'rayy'; did you mean 'ray'",
    "capture {new}://x {rows}": "cannot reach",
    "capture {texts} {rows}": "cannot be read",
    "capture {shards} {rows} --rows 9": "is another capture .rows 4096, not 9",
    "capture {shards} {rows} --components ffn": r"shapes \['attn.sum'\], not \['ffn.sum'\]",
    "capture {shards} {rows} --dtype bfloat16": "dtype 'float32', not 'bfloat16'",
    "capture {shards} {rows} --setting english": "setting 'language-specific', not 'english'",
}


@pytest.fixture(scope="module")
def places(tmp_path_factory, tiny_folder):
    """Return what the commands of `WRONG` name."""
    folder = tmp_path_factory.mktemp("wrong")
    files = {
        "corpus.txt": "\n".join(LINES),
        "other/corpus.txt": "Another text.",
        "table.csv": "en,ja\nA dog sleeps.,犬が寝ている。\n",
        "odd.csv": "en,xx\nA dog sleeps.,Xx.\n",
        "twice.csv": "name,text\na,One.\na,Two.\n",
        "rows.jsonl": '{"en": "A dog sleeps."}\n{"en": "It rains."}\n',
        "more/a.jsonl": '{"en": "A dog sleeps."}\n',
        "more/b.jsonl": '{"fr": "Il pleut."}\n',
        "empty/README.md": "",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    texts, rows, model = folder / "corpus.txt", folder / "rows.jsonl", tiny_folder("Llama")
    run("build", folder / "index", texts, "--model", model)
    shown = CliRunner().invoke(
        cli, ["capture", str(folder / "shards"), str(rows), "--model", str(model)]
    )
    assert shown.exit_code == 0, shown.output
    tables = {name: folder / f"{name}.csv" for name in ("table", "odd", "twice")}
    named = {name: folder / name for name in ("new", "index", "shards", "empty")}
    other, pattern = folder / "other" / "corpus.txt", folder / "more" / "*.jsonl"
    return {
        **{**tables, **named, "texts": texts, "rows": rows, "model": model},
        **{"other": other, "pattern": pattern},
    }


@pytest.mark.parametrize("command", WRONG)
def test_what_is_wrong_is_said_before_a_model_is_loaded(places, monkeypatch, command):
    for module in ("models.loading", "encoders.saved", "cluster.capture"):
        monkeypatch.setattr(f"dysem_lab.{module}.load_model", lambda *_, **__: pytest.fail("loads"))
    if command.startswith("capture"):  # nor all texts read
        monkeypatch.setattr("dysem_lab.cluster.texts._parts", lambda *_: pytest.fail("reads"))
    result = CliRunner().invoke(cli, [each.format(**places) for each in command.split()])
    assert isinstance(result.exception, DysemLabError), result.output
    assert re.search(WRONG[command], str(result.exception)), result.exception
    assert not places["new"].exists()


def test_an_index_of_code_that_makes_other_vectors_is_refused_before_a_model_is_loaded(
    built, monkeypatch
):
    folder, build = built
    run(*build)
    monkeypatch.setattr("dysem_lab.retrieval.identity.VECTORS", 2)
    for module in ("models.loading", "encoders.saved"):
        monkeypatch.setattr(f"dysem_lab.{module}.load_model", lambda *_, **__: pytest.fail("loads"))
    said = (
        r"was made by dysem-lab .* makes other vectors .*\(vectors 1, and 2 now\).* another index"
    )
    for command in (build, ("add", folder, build[2]), ("search", folder, "A text.")):
        with pytest.raises(InputError, match=said):
            run(*command)
    assert asked("info", folder)["texts"] == 4
    assert asked("delete", folder, "corpus.txt:3")["texts"] == 3


def test_texts_that_int8_leaves_nothing_of_are_counted(tmp_path, tiny_folder, monkeypatch):
    texts = tmp_path / "corpus.txt"
    texts.write_text("\n".join(f"Text {i} of all." for i in range(12)), encoding="utf-8")
    build = ("build", tmp_path / "index", texts, "--model", tiny_folder("Llama"))
    encode = dl.DySem.encode

    def with_a_giant(self, *arguments, **options):
        found = encode(self, *arguments, **options)
        return dl.SemanticVectors(
            found.vectors * torch.tensor([1e6] + [1.0] * 11)[:, None], found.sets
        )

    monkeypatch.setattr(dl.DySem, "encode", with_a_giant)
    said = asked(*build, "--stored", "int8")
    index = dl.SemanticIndex.open(tmp_path / "index")
    kept = index.vectors(index.ids)
    zero = int(((kept.vectors * kept.sets) == 0).all(1).sum())
    assert said["texts that are zero on their set in int8"] == zero > 5


def test_an_index_without_texts_or_encoder_says_what_to_do(tmp_path):
    index = dl.SemanticIndex.create(tmp_path / "index", 3)
    index.add(["a"], dl.SemanticVectors(torch.ones(1, 3)))
    with pytest.raises(InputError, match="does not say what made its vectors"):
        run("search", tmp_path / "index", "A text.")
    (path,) = (tmp_path / "index").glob("shard-*")
    path.write_bytes(b"")
    with pytest.raises(InputError, match="did not keep the texts"):
        run("repair", tmp_path / "index")
