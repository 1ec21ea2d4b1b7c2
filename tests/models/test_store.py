"""The vector store: rows, precision, damage, processes; capture through it; its command."""

import json
import re
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from typer.testing import CliRunner

from dysem_lab import paths
from dysem_lab.cli import cli, main
from dysem_lab.errors import DataError, InputError
from dysem_lab.models import record
from dysem_lab.models.capture import capture
from dysem_lab.models.facts import ModelFacts
from dysem_lab.models.loading import load_model
from dysem_lab.models.places import COMPONENTS
from dysem_lab.models.store import APPLICATION_ID, Space, VectorStore, prompt_key
from dysem_lab.prompts import Prompt, wrap
from tests.unwritable import full_disk, read_only

SUM = Space("0123456789abcdef", "float32", "attn", "sum")
EACH = SUM._replace(layers="each")
FACTS = ModelFacts(
    "gemma-3-270m", "sha256 of it", SUM.fingerprint, "float32", "cpu", 3, 32, "4-bit weights"
)


def keys(n: int, tag: str = "") -> list[str]:
    return [prompt_key(f"{tag}{index}", 512) for index in range(n)]


def vectors(n: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def same(store: VectorStore, space: Space, prompts: list[str], expected: torch.Tensor) -> bool:
    rows, found = store.read(space, prompts)
    return bool(found.all()) and torch.equal(rows, expected)


# Rows


def test_what_is_written_is_read_in_any_order_with_repeats_and_gaps(tmp_path):
    store = VectorStore(tmp_path / "v.sqlite")
    fingerprints = count()
    numbers = st.integers(0, 12)

    @settings(max_examples=60)
    @given(st.data(), hnp.array_shapes(max_dims=3, max_side=4), st.sampled_from(["sum", "each"]))
    def check(data, shape, layers):
        space = Space(f"{next(fingerprints):016x}", "float32", "attn", layers)
        dtype = np.float32 if layers == "sum" else np.float16
        kept: dict[int, np.ndarray] = {}
        for batch in data.draw(st.lists(st.lists(numbers, max_size=8), max_size=3)):
            wide = {"allow_nan": False, "allow_infinity": False, "width": 32}
            if layers == "each":
                wide |= {"min_value": -60000, "max_value": 60000}
            rows = data.draw(
                hnp.arrays(np.float32, (len(batch), *shape), elements=st.floats(**wide))
            )
            store.write({space: torch.from_numpy(rows)}, [prompt_key(str(i), 512) for i in batch])
            for number, row in zip(batch, rows, strict=True):
                kept.setdefault(number, row.astype(dtype).astype(np.float32))
        asked = data.draw(st.lists(numbers, max_size=20))
        names = [prompt_key(str(i), 512) for i in asked]
        rows, found = store.read(space, names)
        assert found.tolist() == [number in kept for number in asked]
        assert store.has(space, names).tolist() == found.tolist()
        if rows is None:
            assert not kept
            return
        assert rows.dtype == torch.float32
        assert rows.shape == (len(asked), *shape)
        for number, row in zip(asked, rows.numpy(), strict=True):
            assert row.tobytes() == kept.get(number, np.zeros(shape, np.float32)).tobytes()

    check()
    assert store.check() == 0


def test_more_prompts_than_fit_in_one_query(tmp_path):
    store, rows, prompts = VectorStore(tmp_path / "v.sqlite"), vectors(1203, 5), keys(1203)
    store.write({SUM: rows}, prompts)
    order = torch.randperm(1203, generator=torch.Generator().manual_seed(1)).tolist()
    assert same(store, SUM, [prompts[i] for i in order], rows[order])


def test_rows_of_other_models_dtypes_components_and_layers_never_mix(tmp_path):
    store, prompts = VectorStore(tmp_path / "v.sqlite", each="float32"), keys(3)
    spaces = [
        Space(fingerprint, dtype, component, layers)
        for fingerprint in ("a" * 16, "b" * 16)
        for dtype in ("float32", "bfloat16")
        for component in ("attn", "ffn")
        for layers in ("sum", "each", "0", "1")
    ]
    rows = {space: vectors(3, 4, seed=seed) for seed, space in enumerate(spaces)}
    store.write(rows, prompts)
    for space, expected in rows.items():
        assert same(store, space, prompts, expected)
    assert store.read(SUM, prompts)[0] is None
    assert not store.has(SUM, prompts).any()


@settings(max_examples=200)
@given(st.text(), st.integers(1, 999), st.text(), st.integers(1, 999), st.data())
def test_the_key_is_of_the_exact_prompt_its_text_and_the_limit(a, limit, b, other, data):
    assert prompt_key(a, limit) == prompt_key(Prompt.build("", a, ""), limit)
    assert (prompt_key(a, limit) == prompt_key(b, other)) == ((a, limit) == (b, other))
    cut = data.draw(st.integers(0, len(a)))
    spans = {prompt_key(Prompt.build(a[:cut], a[cut:], ""), limit), prompt_key(a, limit)}
    assert len(spans) == (1 if cut == 0 else 2)
    assert re.fullmatch("[0-9a-f]{32}", prompt_key(a, limit))


def test_rows_that_are_there_stay(tmp_path):
    store = VectorStore(tmp_path / "v.sqlite")
    store.write({SUM: vectors(2, 4)}, keys(2))
    store.write({SUM: vectors(3, 4, seed=1)}, keys(3))
    expected = torch.cat([vectors(2, 4), vectors(3, 4, seed=1)[2:]])
    assert same(store, SUM, keys(3), expected)


def test_nothing_can_be_written_and_read(tmp_path):
    store = VectorStore(tmp_path / "v.sqlite")
    assert store.contents().empty
    assert store.read(SUM, [])[0] is None
    store.write({SUM: torch.empty(0, 4)}, [])
    rows, found = store.read(SUM, [])
    assert rows.shape == (0, 4)
    assert found.shape == (0,)
    assert store.contents()["rows"].tolist() == [0]


def test_rows_that_cannot_be_right_are_refused(tmp_path):
    store = VectorStore(tmp_path / "v.sqlite")
    with pytest.raises(InputError, match="2 rows for 3 prompts"):
        store.write({SUM: vectors(2, 4)}, keys(3))
    store.write({SUM: vectors(3, 4)}, keys(3))
    with pytest.raises(InputError, match=r"shape \[5\].*shape \[4\].*`dysem-lab store` prunes"):
        store.write({SUM: vectors(3, 5)}, keys(3, "other"))
    assert not store.has(SUM, keys(3, "other")).any()
    with pytest.raises(InputError, match="unknown precision 'int8'; choose one of: float32"):
        VectorStore(tmp_path / "w.sqlite", each="int8")


@pytest.mark.parametrize(
    "rows",
    [
        torch.ones(3, 0),
        torch.ones(3, 2, 0),
        torch.tensor(1.0),
        torch.ones(3, 4, dtype=torch.float64),  # rounded without a word
        torch.ones(3, 4, dtype=torch.int64),
        torch.ones(3, 4, dtype=torch.bool),
        torch.ones(3, 4, dtype=torch.complex64),
        torch.full((3, 4), float("nan")),
        torch.tensor([[1.0, 2, float("inf"), 4]] * 3),
        np.ones((3, 4), np.float32),
        [[1.0] * 4] * 3,
        None,
    ],
)
def test_what_are_no_rows_is_refused_and_the_file_stays_whole(tmp_path, rows):
    store = VectorStore(tmp_path / "v.sqlite")
    store.write({SUM: vectors(3, 4)}, keys(3))
    with pytest.raises(InputError, match=r"rows of attn (must be|have a NaN)"):
        store.write({SUM._replace(layers="0"): vectors(3, 4), SUM: rows}, keys(3, "other"))
    assert same(store, SUM, keys(3), vectors(3, 4))
    assert store.check() == 0
    assert len(store.contents()) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_rows_with_a_gradient_are_kept_exactly(tmp_path, dtype):
    store, rows = VectorStore(tmp_path / "v.sqlite"), vectors(3, 4).to(dtype)
    store.write({SUM: rows.clone().requires_grad_()}, keys(3))
    assert same(store, SUM, keys(3), rows.float())


@pytest.mark.parametrize(
    "prompts", ["ab" * 16, ["ab"], ["zz" * 16], [3], [None], [b"ab" * 16], 3, None, ["a dog"]]
)
def test_what_are_no_keys_is_refused(tmp_path, prompts):
    store = VectorStore(tmp_path / "v.sqlite")
    for use in (
        lambda: store.read(SUM, prompts),
        lambda: store.has(SUM, prompts),
        lambda: store.write({SUM: vectors(1, 4)}, prompts),
    ):
        with pytest.raises(InputError, match="keys of prompts are a list of what `prompt_key`"):
            use()


@pytest.mark.parametrize("space", [tuple(SUM), SUM._replace(layers=3), None, "attn"])
def test_what_is_no_space_is_refused(tmp_path, space):
    store = VectorStore(tmp_path / "v.sqlite")
    for use in (
        lambda: store.read(space, keys(1)),
        lambda: store.has(space, keys(1)),
        lambda: store.write({space: vectors(1, 4)}, keys(1)),
    ):
        with pytest.raises(InputError, match="a space is a Space of four strings"):
            use()


@pytest.mark.parametrize("path", ["\0", "x" * 300, 3, b"v.sqlite"])
def test_a_path_that_no_file_can_have_is_refused(path):
    with pytest.raises(InputError, match=r"the store .*path"):
        VectorStore(path)


def test_a_new_file_is_as_it_should_be_and_opening_it_is_cheap(tmp_path):
    store = VectorStore(tmp_path / "folder" / "v.sqlite")
    connection = sqlite3.connect(store.path)
    for setting, expected in (
        ("page_size", 65536),
        ("auto_vacuum", 2),
        ("journal_mode", "delete"),
        ("application_id", APPLICATION_ID),
    ):
        assert connection.execute(f"PRAGMA {setting}").fetchone() == (expected,)
    connection.close()
    store.write({SUM: vectors(500, 64)}, keys(500))
    took = []
    for _ in range(10):
        start = time.perf_counter()
        VectorStore(store.path)
        took.append(time.perf_counter() - start)
    assert min(took) < 0.05


def test_the_size_on_disk_is_near_what_is_foretold(tmp_path):
    for layers, n_values, n in (("sum", 640, 3000), ("each", 18 * 640, 300), ("each", 131072, 40)):
        store = VectorStore(tmp_path / f"{n}.sqlite")
        empty = store.n_bytes
        rows = vectors(n, n_values)
        store.write({SUM._replace(layers=layers): rows}, keys(n))
        foretold = n * store.row_bytes(layers, n_values)
        assert foretold == pytest.approx(store.n_bytes - empty, rel=0.15)


# Precision


def relative_error_by_hand(rows: np.ndarray) -> float:
    worst = 0.0
    for row in rows.astype(np.float64).reshape(len(rows), -1):
        norm = sum(x * x for x in row) ** 0.5
        lost = sum((float(np.float16(x)) - x) ** 2 for x in row) ** 0.5
        worst = max(worst, lost / norm if norm else 0.0)
    return worst


@pytest.mark.parametrize("scale", [1.0, 3e4, 1e-3, 1e-6, 1e-20, 1e-38])
def test_the_error_of_float16_is_the_largest_of_a_row(tmp_path, scale):
    store = VectorStore(tmp_path / "v.sqlite")
    rows = (torch.rand(7, 3, 11, generator=torch.Generator().manual_seed(2)) - 0.5) * scale
    rows[3] = 0
    store.write({EACH: rows[:5]}, keys(5))
    first = store.contents()["error"].item()
    assert first == pytest.approx(relative_error_by_hand(rows[:5].numpy()), rel=1e-3)
    store.write({EACH: rows[5:]}, keys(2, "more"))
    expected = relative_error_by_hand(rows.numpy())
    assert store.contents()["error"].item() == pytest.approx(expected, rel=1e-3)
    halves = torch.from_numpy(rows[:5].numpy().astype(np.float16).astype(np.float32))
    assert same(store, EACH, keys(5), halves)


def test_the_error_of_many_wide_rows_is_the_largest(tmp_path):
    store, rows = VectorStore(tmp_path / "v.sqlite"), vectors(70, 9, 4097).double().numpy()
    store.write({EACH: torch.from_numpy(rows).float()}, keys(70))
    rows = rows.reshape(70, -1)
    lost = np.linalg.norm(rows.astype(np.float16) - rows, axis=1)
    expected = (lost / np.linalg.norm(rows, axis=1)).max()
    assert store.contents()["error"].item() == pytest.approx(expected, rel=1e-3)


def test_rows_that_are_float16_are_kept_as_they_are(tmp_path):
    store, rows = VectorStore(tmp_path / "v.sqlite"), vectors(5, 3, 7).half()
    store.write({EACH: rows}, keys(5))
    assert same(store, EACH, keys(5), rows.float())
    assert store.contents()["error"].tolist() == [0]


def test_float32_has_no_error(tmp_path):
    store = VectorStore(tmp_path / "v.sqlite", each="float32")
    store.write({SUM: vectors(4, 9), EACH: vectors(4, 3, 9)}, keys(4))
    assert store.contents()["error"].tolist() == [0, 0]


def test_a_value_beyond_float16_is_refused_with_a_remedy_and_nothing_is_kept(tmp_path):
    store, rows = VectorStore(tmp_path / "v.sqlite"), vectors(3, 4)
    rows[1, 2] = -70000
    with pytest.raises(
        InputError, match=r"attn \(each\) has a value of 7e\+04, too large.*each='float32'"
    ):
        store.write({SUM: rows, EACH: rows}, keys(3))
    assert not store.has(SUM, keys(3)).any()
    exact = VectorStore(store.path, each="float32")
    exact.write({SUM: rows, EACH: rows}, keys(3))
    assert same(exact, EACH, keys(3), rows)
    with pytest.raises(InputError, match=r"attn \(sum\).*sums='float32'"):
        VectorStore(tmp_path / "w.sqlite", sums="float16").write({SUM: rows}, keys(3))


def test_float16_rows_never_answer_for_float32_but_float32_rows_do_for_float16(tmp_path):
    halves = VectorStore(tmp_path / "v.sqlite", each="float16")
    exact = VectorStore(tmp_path / "v.sqlite", each="float32")
    rows = vectors(4, 3, 8)
    rounded = rows.half().float()
    halves.write({EACH: rows[:2]}, keys(2))
    assert not exact.has(EACH, keys(4)).any()
    assert exact.read(EACH, keys(4))[0] is None
    exact.write({EACH: rows[1:]}, keys(4)[1:])
    assert exact.has(EACH, keys(4)).tolist() == [False, True, True, True]
    assert torch.equal(exact.read(EACH, keys(4))[0][1:], rows[1:])
    assert same(halves, EACH, keys(4), torch.cat([rounded[:1], rows[1:]]))
    assert halves.contents()["precision"].tolist() == ["float16", "float32"]
    small = VectorStore(tmp_path / "w.sqlite", sums="float16")
    small.write({SUM: rows}, keys(4))
    assert same(small, SUM, keys(4), rounded)


# Damage


def filled(path: Path, n: int = 40, width: int = 100) -> torch.Tensor:
    rows = vectors(n, width)
    store = VectorStore(path)
    store.write({SUM: rows, EACH: rows.reshape(n, 2, -1).half().float()}, keys(n))
    store.remember(FACTS)
    return rows


def garbage(path):
    path.write_bytes(b"this is no database, whatever its name says\n" * 3000)


def half_garbage(path):
    filled(path)
    path.write_bytes(path.read_bytes()[:65536] + b"\xff" * 200_000)


def cut_in_the_middle(path):
    filled(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def cut_in_the_header(path):
    filled(path)
    path.write_bytes(path.read_bytes()[:50])


def cut_by_a_page(path):
    filled(path)
    path.write_bytes(path.read_bytes()[:-65536])


def something_else(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE rows (word TEXT)")
    connection.commit()
    connection.close()


def another_format(path, by=1):
    filled(path)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA application_id={APPLICATION_ID + by}")
    connection.close()


def format_before(path):
    another_format(path, by=-1)


def a_folder(path):
    path.mkdir()


def other_columns(path):
    filled(path)
    connection = sqlite3.connect(path)
    connection.execute("ALTER TABLE chunks RENAME COLUMN vectors TO value")
    connection.close()


@pytest.mark.parametrize(
    ("damage", "remedy"),
    [
        (garbage, "file is not a database.*move it away"),
        (half_garbage, "move it away"),
        (cut_in_the_middle, "malformed.*move it away"),
        (cut_in_the_header, "malformed.*move it away"),
        (cut_by_a_page, "malformed.*move it away"),
        (something_else, "of something else, not a vector store; give another path"),
        (another_format, r"of another format \(.; this version of dysem-lab reads 2\)"),
        (format_before, r"of another format \(.; this version of dysem-lab reads 2\)"),
        (a_folder, "unable to open.*check that you may write to its folder"),
        (other_columns, "no such column: vectors.*move it away"),
    ],
)
def test_a_file_that_is_no_whole_store_is_named_with_a_remedy(tmp_path, damage, remedy):
    path = tmp_path / "broken.sqlite"
    damage(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(DataError, match=rf"(?s)broken\.sqlite.*{remedy}"):
        VectorStore(path).read(SUM, keys(40))
    assert before is None or path.read_bytes() == before


def test_a_place_where_no_file_can_be_is_named(tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(
        DataError, match=r"no vector store can be made at .*v\.sqlite.*another path"
    ):
        VectorStore(tmp_path / "file" / "v.sqlite")


# Places that cannot be written


@pytest.mark.parametrize("unwritable", [full_disk, read_only])
def test_reading_needs_no_writing(tiny_lens, open_folder, passes, unwritable):
    rows, prompts = filled(open_folder / "v.sqlite"), wrap(SENTENCES)
    made = capture(tiny_lens, prompts, store=VectorStore(open_folder / "v.sqlite"))
    passes.clear()
    elsewhere = replace(tiny_lens.facts, device="elsewhere")
    with unwritable(open_folder):
        store = VectorStore(open_folder / "v.sqlite")
        assert same(store, SUM, keys(40), rows)
        assert store.has(SUM, keys(40)).all()
        assert (store.check(), len(store.contents())) == (0, 7)
        store.remember(elsewhere)  # a convenience, so no error where it cannot be kept
        assert store.recall(FACTS.source, "float32") == FACTS
        again = capture(tiny_lens, prompts, store=store)
    assert passes == []
    for name, vectors_ in made.items():
        assert torch.equal(again[name], vectors_)


@pytest.mark.parametrize(
    ("unwritable", "remedy"),
    [(full_disk, "is full"), (read_only, "check that you may write to its folder")],
)
def test_what_cannot_be_written_is_an_error_and_nothing_is_lost(
    tiny_lens, open_folder, unwritable, remedy
):
    rows = filled(open_folder / "v.sqlite")
    store = VectorStore(open_folder / "v.sqlite")
    uses = (
        lambda: store.write({SUM: vectors(300, 100)}, keys(300, "new")),
        lambda: store.prune(layers="sum"),
        lambda: capture(tiny_lens, wrap(SENTENCES), store=store),
        lambda: VectorStore(open_folder / "other.sqlite"),
    )
    with unwritable(open_folder):
        for use in uses:
            with pytest.raises(DataError, match=rf"{open_folder}.*({remedy}|another path)"):
                use()
    assert same(store, SUM, keys(40), rows)
    assert store.check() == 0
    store.write({SUM: vectors(300, 100)}, keys(300, "new"))
    assert same(store, SUM, keys(300, "new"), vectors(300, 100))


def test_what_a_killed_writer_left_is_mended_or_said(open_folder):
    path = open_folder / "v.sqlite"
    rows = filled(path, n=300, width=2000)
    killed = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA cache_size=1")  # so that pages go into the file before the commit
connection.execute("UPDATE chunks SET vectors=zeroblob(10000)")
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", killed, path]).returncode == 9
    assert (open_folder / "v.sqlite-journal").exists()
    with (
        read_only(open_folder),
        pytest.raises(DataError, match="killed left it half-written; open it"),
    ):
        VectorStore(path)
    for file in open_folder.iterdir():
        file.chmod(0o644)
    assert same(VectorStore(path), SUM, keys(300), rows)


def test_a_store_that_is_gone_is_named_and_not_made_anew(tmp_path):
    filled(tmp_path / "v.sqlite")
    store = VectorStore(tmp_path / "v.sqlite")
    store.path.unlink()
    with pytest.raises(DataError, match=r"v\.sqlite cannot be used now .*; it is gone"):
        store.read(SUM, keys(2))
    assert not store.path.exists()


def flip(path: Path, position: int, mask: int = 0xFF) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ mask]))


@pytest.mark.parametrize("mask", [0xFF, 0x01])
@pytest.mark.parametrize("part", ["first value", "middle", "last value"])
def test_a_flipped_byte_in_a_row_is_an_error_until_the_row_is_repaired(tmp_path, part, mask):
    path = tmp_path / "v.sqlite"
    rows = filled(path)
    blob = rows[17].numpy().tobytes()
    at = path.read_bytes().index(blob)
    assert path.read_bytes().count(blob) == 1
    offsets = {
        "first value": 0,
        "middle": len(blob) // 2,
        "last value": len(blob) - 1,
    }
    flip(path, at + offsets[part], mask)
    store, prompts = VectorStore(path), keys(40)
    with pytest.raises(DataError, match=r"(?s)v\.sqlite is damaged: .*--repair"):
        store.read(SUM, prompts[17:18])
    assert same(store, EACH, prompts, rows.reshape(40, 2, -1).half().float())
    assert store.check() == store.check(repair=True) == 40  # they share a chunk
    assert store.check() == 0
    assert not store.has(SUM, prompts).any()
    assert store.has(EACH, prompts).all()
    store.write({SUM: rows}, prompts)
    assert same(store, SUM, prompts, rows)


def change(path: Path, statement: str, *values: object) -> None:
    connection = sqlite3.connect(path)
    assert connection.execute(statement, values).rowcount == 1
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("prompt", bytes(16)),
        ("prompt", "text"),
        ("chunk", None),
        ("chunk", 999),
        ("chunk", 2),  # of another space
        ("chunk", 3),  # of other rows
        ("chunk", "text"),
        ("chunk", 2**63 - 1),
        ("space", 9),
        ("space", "text"),
    ],
)
def test_a_row_that_is_not_where_it_should_be_is_an_error_until_it_is_repaired(
    tmp_path, column, value
):
    path = tmp_path / "v.sqlite"
    rows, prompts = filled(path), keys(50)
    rows = torch.cat([rows, vectors(10, 100)])
    VectorStore(path).write({SUM: rows[40:]}, prompts[40:])
    change(
        path,
        f"UPDATE rows SET {column}=? WHERE space=1 AND prompt=?",
        value,
        bytes.fromhex(prompts[0]),
    )
    store = VectorStore(path)
    if column == "chunk":  # otherwise the row is not there
        with pytest.raises(DataError, match=f"{prompts[0]}.*does not match its checksum"):
            store.read(SUM, prompts)
    assert same(store, SUM, prompts[1:], rows[1:])
    n_damaged = 1 if column == "chunk" else 2  # the row that is lost, and one that is nowhere
    assert store.check() == n_damaged
    assert store.check(repair=True) == n_damaged
    assert same(store, SUM, prompts, rows)
    assert store.check() == 0


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("vectors", value) for value in (None, 7, "text", b"", b"short")),
        *(("keys", value) for value in (None, "text", b"", b"short", bytes(640))),
        *(("checksum", value) for value in (None, "text", bytes(8))),
        *(("space", value) for value in (None, 2, 9, "text")),
        ("id", 999),
    ],
)
def test_rows_of_a_chunk_that_is_not_whole_are_errors_until_they_are_repaired(
    tmp_path, column, value
):
    path = tmp_path / "v.sqlite"
    rows, prompts = filled(path), keys(50)
    VectorStore(path).write({SUM: vectors(10, 100)}, prompts[40:])
    change(path, f"UPDATE chunks SET {column}=? WHERE id=1", value)
    store = VectorStore(path)
    with pytest.raises(DataError, match="does not match its checksum"):
        store.read(SUM, prompts)
    assert same(store, SUM, prompts[40:], vectors(10, 100))
    assert store.check() == store.check(repair=True) == 40
    assert store.check() == 0
    moved = column == "id"  # the chunk itself is whole
    assert store.has(SUM, prompts).tolist() == [moved or i >= 40 for i in range(50)]
    store.write({SUM: rows}, prompts[:40])
    assert same(store, SUM, prompts, torch.cat([rows, vectors(10, 100)]))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("shape", "[100"),
        ("shape", "[-100]"),
        ("shape", "[1e2]"),
        ("shape", None),
        ("precision", "float64"),
        ("error", "small"),
        ("fingerprint", None),
        ("component", b"attn"),
    ],
)
def test_a_description_of_rows_that_makes_no_sense_is_an_error(tmp_path, column, value):
    path = tmp_path / "v.sqlite"
    filled(path)
    change(path, f"UPDATE spaces SET {column}=? WHERE id=1", value)
    store = VectorStore(path)
    for use in (
        lambda: store.read(SUM, keys(2)),
        lambda: store.has(SUM, keys(2)),
        lambda: store.write({SUM: vectors(2, 100)}, keys(2)),
        lambda: store.prune(layers="sum"),
        store.contents,
        store.check,
    ):
        with pytest.raises(DataError, match=r"(?s)v\.sqlite is damaged: .*move it away"):
            use()


def test_a_description_of_rows_with_another_size_is_an_error(tmp_path):
    path = tmp_path / "v.sqlite"
    filled(path)
    change(path, "UPDATE spaces SET shape='[101]' WHERE id=1")
    with pytest.raises(DataError, match="does not match its checksum"):
        VectorStore(path).read(SUM, keys(2))


@pytest.mark.parametrize(
    "facts",
    [
        *(None, "{", "[]", "3", '{"name": "gemma"}', '{"checksum": 1}', b"{}", "[" * 9999),
        json.dumps(asdict(FACTS)),  # of a version whose fingerprints nothing has any more
        json.dumps({**asdict(FACTS), "n_layers": 4, "checksum": "0" * 16}),
    ],
)
def test_a_model_whose_facts_cannot_be_read_is_not_known(tmp_path, facts):
    path = tmp_path / "v.sqlite"
    filled(path)
    change(path, "UPDATE models SET facts=?", facts)
    store = VectorStore(path)
    assert store.recall(FACTS.source, "float32") is None
    assert set(store.contents()["model"]) == {SUM.fingerprint}
    store.remember(FACTS)
    assert store.recall(FACTS.source, "float32") == FACTS


def test_an_index_that_lost_a_row_is_found_and_mended(tmp_path):
    path = tmp_path / "v.sqlite"
    rows, key = filled(path), bytes.fromhex(keys(40)[9])
    change(path, "DELETE FROM rows WHERE space=1 AND prompt=?", key)
    store = VectorStore(path)
    assert store.check() == 1
    store.write({SUM: rows}, keys(40))  # as a run would that does not find the row
    assert same(store, SUM, keys(40), rows)
    assert store.check() == 0
    change(path, "DELETE FROM rows WHERE space=1 AND prompt=?", key)
    assert store.check(repair=True) == 1
    assert store.check() == 0
    assert same(store, SUM, keys(40), rows)
    assert store.contents()["rows"].tolist() == [40, 40]


def test_a_damaged_index_of_what_is_not_a_row_is_found(tmp_path):
    path = tmp_path / "v.sqlite"
    filled(path)
    connection = sqlite3.connect(path)
    query = "SELECT rootpage FROM sqlite_master WHERE name='sqlite_autoindex_spaces_1'"
    page = connection.execute(query).fetchone()[0]
    connection.close()
    flip(path, path.read_bytes().index(SUM.fingerprint.encode(), (page - 1) * 65536), 0x01)
    for repair in (False, True):
        with pytest.raises(DataError, match=r"v\.sqlite is damaged.*index.*move it away"):
            VectorStore(path).check(repair=repair)


LAYER = SUM._replace(layers="1")


def test_whatever_byte_is_flipped_nothing_wrong_comes_and_nothing_crashes(tmp_path):
    whole_path, path = tmp_path / "whole.sqlite", tmp_path / "v.sqlite"
    rows = filled(whole_path, n=12, width=20)
    expected = {SUM: rows, EACH: rows.reshape(12, 2, -1).half().float()}
    expected[LAYER] = vectors(12, 20, seed=1)
    VectorStore(whole_path).write({LAYER: expected[LAYER]}, keys(12))
    truth = VectorStore(whole_path).contents()
    unknown = truth.assign(model=truth["fingerprint"])
    whole = whole_path.read_bytes()
    used = np.flatnonzero(np.frombuffer(whole, np.uint8))
    generator = np.random.default_rng(0)
    outcomes = []
    for position in [*used[used < 120], *generator.choice(used, 180, replace=False)]:
        path.write_bytes(whole)
        flip(path, int(position), int(generator.choice([1 << generator.integers(8), 0xFF])))
        for suffix in ("-wal", "-shm", "-journal"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        outcome = "right"
        for step in ("read", "has", "contents", "recall", "check", "repair", "read"):
            try:
                store = VectorStore(path)
                if step == "read":
                    for space, values in expected.items():
                        read, found = store.read(space, keys(12))
                        assert read is None or torch.equal(read[found], values[found])
                        if not found.all():
                            outcome = "missing"
                elif step == "has":
                    assert not store.has(SUM._replace(layers="3"), keys(12)).any()
                elif step == "contents":
                    table = store.contents()
                    assert table.equals(truth) or table.equals(unknown)
                elif step == "recall":
                    assert store.recall(FACTS.source, "float32") in (None, FACTS)
                else:
                    store.check(repair=step == "repair")
            except DataError as error:
                outcome = "error" if "v.sqlite" in str(error) else f"without a name: {error}"
        outcomes.append(outcome)
    assert set(outcomes) == {"right", "missing", "error"}
    assert outcomes.count("error") > 20


def test_rows_of_one_layer_are_never_those_of_another(tmp_path):
    path = tmp_path / "v.sqlite"
    VectorStore(path).write({LAYER: vectors(3, 4)}, keys(3))
    change(path, "UPDATE spaces SET layers='3'")  # one bit
    for layers in ("1", "3"):
        for use in (VectorStore(path).read, VectorStore(path).has):
            with pytest.raises(DataError, match=r"'3'.* does not match its checksum"):
                use(SUM._replace(layers=layers), keys(3))


def test_a_store_of_before_the_seals_is_read(tmp_path):
    path = tmp_path / "v.sqlite"
    rows = filled(path)
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE seals")
    connection.close()
    store = VectorStore(path)
    assert same(store, SUM, keys(40), rows)
    store.write({SUM: vectors(2, 100)}, keys(2, "new"))
    assert same(store, SUM, keys(40), rows)
    assert store.check() == 0


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM rows WHERE space=1", "DELETE FROM chunks WHERE id=1", "DELETE FROM spaces"],
)
def test_an_index_that_disagrees_with_the_rows_is_said(tmp_path, statement):
    path = tmp_path / "v.sqlite"
    filled(path)
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()
    with pytest.raises(DataError, match=r"v\.sqlite.* its index disagrees .*--repair"):
        VectorStore(path).contents()
    assert VectorStore(path).check(repair=True) > 0
    VectorStore(path).contents()


# What is inside


def test_contents_say_what_is_there(tmp_path):
    store = VectorStore(tmp_path / "v.sqlite")
    store.write({SUM: vectors(40, 100), EACH: vectors(40, 3, 100)}, keys(40))
    store.write({SUM._replace(fingerprint="f" * 16): vectors(5, 7)}, keys(5))
    store.remember(FACTS)
    table = store.contents()
    columns = ["model", "dtype", "component", "layers", "precision", "rows"]
    assert table[columns].to_numpy().tolist() == [
        ["f" * 16, "float32", "attn", "sum", "float32", 5],
        ["gemma-3-270m", "float32", "attn", "each", "float16", 40],
        ["gemma-3-270m", "float32", "attn", "sum", "float32", 40],
    ]
    expected = [5 * 7 * 4 / 1e6, 40 * 300 * 2 / 1e6, 40 * 100 * 4 / 1e6]
    assert table["megabytes"].tolist() == pytest.approx(expected)
    assert "v.sqlite" in repr(store)


def test_facts_of_a_model_are_remembered_by_source_and_dtype(tmp_path):
    store = VectorStore(tmp_path / "v.sqlite")
    assert store.recall(FACTS.source, "float32") is None
    store.remember(FACTS)
    half = replace(FACTS, dtype="bfloat16", fingerprint="f" * 16)
    store.remember(half)
    again = VectorStore(store.path)
    assert again.recall(FACTS.source, "float32") == FACTS
    assert again.recall(FACTS.source, "bfloat16") == half
    assert again.recall("another", "float32") is None
    store.remember(replace(FACTS, device="cuda:0"))
    assert again.recall(FACTS.source, "float32").device == "cuda:0"


def big(path: Path) -> tuple[VectorStore, dict[Space, torch.Tensor]]:
    """Return a store with six spaces of a megabyte each."""
    store = VectorStore(path, each="float32")
    spaces = [
        SUM._replace(fingerprint=fingerprint, component=component, layers=layers)
        for fingerprint in (SUM.fingerprint, "f" * 16)
        for component, layers in (("attn", "sum"), ("ffn", "sum"), ("attn", "each"))
    ]
    rows = {space: vectors(250, 1000, seed=seed) for seed, space in enumerate(spaces)}
    for at in range(0, 250, 50):
        part = {space: values[at : at + 50] for space, values in rows.items()}
        store.write(part, keys(250)[at : at + 50])
    store.remember(FACTS)
    store.remember(replace(FACTS, source="a folder", name="/models/gemma"))
    return store, rows


@pytest.mark.parametrize(
    ("what", "n_spaces"),
    [
        ({"model": "gemma-3-270m"}, 3),
        ({"model": "/models/gemma"}, 3),
        ({"model": SUM.fingerprint}, 3),
        ({"component": "attn"}, 4),
        ({"layers": "each"}, 2),
        ({"model": "f" * 16, "component": "attn", "layers": "sum"}, 1),
        ({"dtype": "float32"}, 6),
    ],
)
def test_pruning_gives_the_disk_back_and_keeps_the_rest(tmp_path, what, n_spaces):
    store, rows = big(tmp_path / "v.sqlite")
    before = store.n_bytes
    if what == {"dtype": "float32"}:  # everything, in two steps
        assert store.prune(layers="sum") + store.prune(layers="each") == 6 * 250
    else:
        assert store.prune(**what) == n_spaces * 250
    assert before - store.n_bytes > 0.9 * n_spaces * 250 * 4000
    removed = 0
    for space, values in rows.items():
        if store.has(space, keys(250)).any():
            assert same(store, space, keys(250), values)
        else:
            removed += 1
    assert removed == n_spaces == 6 - len(store.contents())
    assert store.check() == 0


def test_a_prune_that_says_or_matches_nothing_is_an_error(tmp_path):
    store, _ = big(tmp_path / "v.sqlite")
    with pytest.raises(InputError, match=r"say what to remove; .* delete .*v\.sqlite"):
        store.prune()
    with pytest.raises(InputError, match=r"nothing matches; .*v\.sqlite has .*gemma.*/attn/sum"):
        store.prune(component="z")
    with pytest.raises(InputError, match="has no rows"):
        VectorStore(tmp_path / "w.sqlite").prune(layers="sum")


def test_a_pruned_space_can_be_filled_again(tmp_path):
    store, rows = big(tmp_path / "v.sqlite")
    store.prune(layers="each")
    again = {space: values for space, values in rows.items() if space.layers == "each"}
    store.write(again, keys(250))
    for space, values in rows.items():
        assert same(store, space, keys(250), values)


# Threads and processes


def test_threads_may_write_and_read_at_once(tmp_path):
    store, wrong = VectorStore(tmp_path / "v.sqlite"), []

    def work(number):
        try:
            for turn in range(5):
                tag = f"{number} {turn} "
                store.write({SUM: vectors(20, 30, seed=number * 10 + turn)}, keys(20, tag))
                if not same(store, SUM, keys(20, tag), vectors(20, 30, seed=number * 10 + turn)):
                    wrong.append(tag)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert store.contents()["rows"].tolist() == [400]


def test_a_store_opens_and_reads_while_another_writes(tmp_path):
    rows = filled(tmp_path / "v.sqlite")
    writer = sqlite3.connect(tmp_path / "v.sqlite")
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM rows")
    start = time.perf_counter()
    assert same(VectorStore(tmp_path / "v.sqlite"), SUM, keys(40), rows)
    assert time.perf_counter() - start < 5
    writer.rollback()
    writer.close()


# Reads the same batches as the writers write, until all are there.
READ_AND_WRITE = """
import time
from itertools import count
import torch
from dysem_lab.models.store import Space, VectorStore, prompt_key
a, b = Space("f" * 16, "float32", "attn", "sum"), Space("f" * 16, "float32", "ffn", "sum")

def batch(number, turn):
    keys = [prompt_key(f"{number} {turn} {i}", 512) for i in range(30)]
    return keys, torch.full((30, 500), float(100 * number + turn)) + torch.arange(30)[:, None]

def write(store, number):
    for turn in count():
        keys, rows = batch(number, turn)
        store.write({a: rows, b: -rows}, keys)
        time.sleep(0.005)  # a batch is computed before it is written

def read(store):
    n_read = 0
    while n_read < 2 * 20 * 2 * 30:
        n_read = 0
        for number in (0, 1):
            for turn in range(20):
                keys, rows = batch(number, turn)
                for space, expected in ((a, rows), (b, -rows)):
                    read, found = store.read(space, keys)
                    assert found.all() or not found.any()
                    assert read is None or torch.equal(read[found], expected[found])
                    n_read += int(found.sum())
"""
PROCESS = (
    READ_AND_WRITE
    + """
import sys
print("ready", flush=True)
sys.stdin.readline()
store, role = VectorStore(sys.argv[1]), sys.argv[2]
read(store) if role == "reader" else write(store, int(role))
"""
)


@pytest.fixture
def start():
    """Return a function that starts Python in another process, which ends with the test."""
    started = []

    def start(*arguments: object) -> subprocess.Popen:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [sys.executable, "-c", *map(str, arguments)]
        started.append(subprocess.Popen(command, text=True, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_processes_share_a_file_and_killed_writers_lose_at_most_their_batch(tmp_path, start):
    path, here = tmp_path / "v.sqlite", {}
    exec(READ_AND_WRITE, here)
    *writers, reader = [start(PROCESS, path, role) for role in (0, 1, "reader")]
    for process in (*writers, reader):
        assert process.stdout.readline() == "ready\n"
    for process in (*writers, reader):  # all make the file at the same moment
        process.stdin.write("go\n")
        process.stdin.flush()
    store = VectorStore(path)
    here["read"](store)
    _, errors = reader.communicate(timeout=60)
    assert reader.returncode == 0, errors
    for process in writers:
        assert process.poll() is None, process.stderr.read()
        process.kill()
        process.wait()
    assert store.check() == 0
    here["read"](store)
    counts = store.contents()["rows"]
    assert counts[0] == counts[1]
    assert counts[0] % 30 == 0


# Capture


@pytest.fixture
def passes(monkeypatch):
    """Return a list that gets the number of prompts of each forward pass."""
    counted = []
    run, keys_and_values = record.forward, record.keys_and_values

    def counting_run(lens, ids, *rest):
        counted.append(len(ids))
        return run(lens, ids, *rest)

    def counting_prefix(lens, ids, *rest):
        counted.append(0)
        return keys_and_values(lens, ids, *rest)

    monkeypatch.setattr(record, "forward", counting_run)
    monkeypatch.setattr(record, "keys_and_values", counting_prefix)
    return counted


SENTENCES = [
    "A dog sleeps.",
    "Two children build a sandcastle.",
    "Il pleut.",
    "猫が眠っている。",
    "Бабушка приготовила обед!",
]


def test_a_sentence_is_computed_once_across_data_sets_and_runs(tiny_lens, tmp_path, passes):
    path, prompts = tmp_path / "v.sqlite", wrap(SENTENCES)
    first = capture(tiny_lens, prompts, store=VectorStore(path))
    assert sum(passes) == 5
    passes.clear()
    again = capture(tiny_lens, prompts, store=VectorStore(path))
    assert passes == []
    other = capture(tiny_lens, [prompts[3], *prompts[3:], prompts[0]], store=VectorStore(path))
    assert passes == []
    for name in ("attn", "ffn", "resid"):
        assert torch.equal(first[name], again[name])
        assert torch.equal(first[name][[3, 3, 4, 0]], other[name])
    more = capture(tiny_lens, [*wrap(["One more."]), *prompts], store=VectorStore(path))
    assert sum(passes) == 1
    assert torch.equal(more["attn"][1:], first["attn"])


def test_the_sums_are_stored_along_and_need_no_pass_later(tiny_lens, tmp_path, passes):
    store, prompts = VectorStore(tmp_path / "v.sqlite"), wrap(SENTENCES)
    capture(tiny_lens, prompts, "value", "each", store=store)
    passes.clear()
    sums = ["attn", "attn_raw", "ffn", "resid", "final"]
    stored = capture(tiny_lens, prompts, sums, store=store)
    capture(tiny_lens, prompts, "final", "each", store=store)  # the same as of "sum"
    assert passes == []
    direct = capture(tiny_lens, prompts, sums)
    for name in sums:
        assert torch.equal(stored[name], direct[name])


@pytest.mark.parametrize("layers", ["sum", "each", 1])
def test_capture_with_a_store_is_capture_without(tiny_lens, tmp_path, layers):
    prompts = wrap([*SENTENCES, SENTENCES[0]])
    names = [name for name in COMPONENTS if name != "mean"]
    direct = capture(tiny_lens, prompts, names, layers)
    mean = capture(tiny_lens, prompts, "mean", layers)
    exact = VectorStore(tmp_path / "exact.sqlite", each="float32")
    halves = VectorStore(tmp_path / "halves.sqlite", sums="float16", each="float16")
    for _ in range(2):  # made, then read
        stored = capture(tiny_lens, prompts, names, layers, store=exact)
        rounded = capture(tiny_lens, prompts, names, layers, store=halves)
        assert list(stored) == list(rounded) == names
        for name in names:
            assert torch.equal(stored[name], direct[name])
            assert torch.equal(rounded[name], direct[name].half().float())
        assert torch.equal(
            capture(tiny_lens, prompts, "mean", layers, store=exact)["mean"], mean["mean"]
        )
    worst = max(
        relative_error_by_hand(vectors.numpy())
        for name, vectors in direct.items()
        if name in ("value", "z")
    )
    assert halves.contents()["error"].max() >= worst * 0.999


def test_models_dtypes_and_limits_have_rows_of_their_own(tiny_folder, tiny_lens, tmp_path, passes):
    store, prompts = VectorStore(tmp_path / "v.sqlite"), wrap(SENTENCES)
    lenses = [
        tiny_lens,
        load_model(tiny_folder("Qwen2")),
        load_model(tiny_folder("Llama"), dtype="bfloat16"),
    ]
    for lens in lenses:
        passes.clear()
        stored = capture(lens, prompts, "attn", store=store)["attn"]
        assert sum(passes) == 5
        assert torch.equal(stored, capture(lens, prompts, "attn")["attn"])
    with pytest.warns(UserWarning, match="shortened to fit 60 tokens"):
        short = capture(tiny_lens, prompts, "attn", store=store, max_tokens=60)["attn"]
    whole = capture(tiny_lens, prompts, "attn", store=store)["attn"]
    assert not torch.equal(short[1], whole[1])
    assert not torch.equal(
        capture(lenses[1], prompts, "attn", store=store)["attn"],
        capture(lenses[2], prompts, "attn", store=store)["attn"],
    )


def test_no_prompts_are_no_rows_with_a_store_too(tiny_lens, tmp_path):
    expected = capture(tiny_lens, [])
    stored = capture(tiny_lens, [], store=VectorStore(tmp_path / "v.sqlite"))
    assert {name: rows.shape for name, rows in stored.items()} == {
        name: rows.shape for name, rows in expected.items()
    }


def test_threads_may_capture_through_one_store(tiny_lens, tmp_path):
    store, prompts = VectorStore(tmp_path / "v.sqlite"), wrap(SENTENCES)
    direct, wrong = capture(tiny_lens, prompts, "attn")["attn"], []

    def work(order):
        try:
            rows = capture(tiny_lens, [prompts[i] for i in order], "attn", store=store)["attn"]
            if not torch.allclose(rows, direct[order], atol=1e-5):
                wrong.append(order)
        except Exception as error:
            wrong.append(error)

    threads = [
        threading.Thread(target=work, args=(order,)) for order in ([0, 1, 2], [2, 3], [4, 3, 0])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


CAPTURE = """
import sys, time
from dysem_lab.models import capture, record
from dysem_lab.models.loading import load_model
from dysem_lab.prompts import wrap
from dysem_lab.models.store import VectorStore
folder, path, texts = sys.argv[1], sys.argv[2], sys.argv[3].split("|")
lens, run = load_model(folder), record.forward

def slow_run(*arguments):
    time.sleep(0.05)
    run(*arguments)

record.forward = slow_run
capture.capture(lens, wrap(texts), ("attn", "z"), "each", progress=False,
                    store=VectorStore(path, each="float32"), tokens_per_batch=250)
"""


def test_a_killed_capture_loses_at_most_its_batch_and_ends_bitwise_equal(
    tiny_folder, tiny_lens, tmp_path, passes, start
):
    texts = [f"{SENTENCES[i % 5]} {'again ' * (i % 7)}{i}" for i in range(60)]
    path = tmp_path / "killed.sqlite"
    process = start(CAPTURE, tiny_folder("Llama"), path, "|".join(texts))
    done = 0
    while done < 10:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
        if path.exists():  # made by the other process, so it has rows or none
            table = VectorStore(path).contents()
            done = int(table["rows"].max()) if len(table) else 0
    process.kill()
    process.wait()

    store = VectorStore(path, each="float32")
    assert store.check() == 0
    counts = store.contents()["rows"]
    stored = int(counts.iloc[0])
    assert (counts == stored).all()
    assert 10 <= stored < 60
    arguments = {"components": ("attn", "z"), "layers": "each", "tokens_per_batch": 250}
    rest = capture(tiny_lens, wrap(texts), store=store, **arguments)
    assert sum(passes) == 60 - stored
    n_rest = len(passes)
    passes.clear()
    undisturbed = VectorStore(tmp_path / "undisturbed.sqlite", each="float32")
    expected = capture(tiny_lens, wrap(texts), store=undisturbed, **arguments)
    assert n_rest < len(passes)
    for name in ("attn", "z"):
        assert torch.equal(rest[name], expected[name])


# The command


def run(*arguments):
    return CliRunner().invoke(
        cli, ["store", *[str(argument) for argument in arguments]], catch_exceptions=False
    )


def test_the_command_says_what_is_inside(tmp_path, monkeypatch):
    monkeypatch.setenv(paths.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    empty = json.loads(run("--json").stdout)
    assert empty["contents"] == []
    assert empty["path"] == str(tmp_path / "vectors.sqlite")
    store = VectorStore()
    store.write(
        {SUM: vectors(250, 1000), EACH: vectors(40, 3, 100).repeat(7, 1, 1)[:250]}, keys(250)
    )
    store.remember(FACTS)
    found = json.loads(run("--json").stdout)
    assert [row["model"] for row in found["contents"]] == ["gemma-3-270m"] * 2
    assert [row["rows"] for row in found["contents"]] == [250, 250]
    assert 0 < found["contents"][0]["error"] < 1e-3
    assert found["megabytes"] == pytest.approx(store.n_bytes / 1e6)
    shown = run().output
    for words in ("vectors.sqlite", "gemma-3-270m", "float16", "largest relative error", "1.0"):
        assert words in shown


def test_the_command_prunes(tmp_path):
    store, _ = big(tmp_path / "v.sqlite")
    pruned = json.loads(
        run(
            "--file", store.path, "--prune-model", "f" * 16, "--prune-layers", "sum", "--json"
        ).stdout
    )
    assert pruned["removed_rows"] == 500
    assert pruned["megabytes_given_back"] > 1.8
    assert len(pruned["contents"]) == 4
    shown = " ".join(run("--file", store.path, "--prune-component", "ffn").output.split())
    assert "removed rows 250" in shown
    assert re.search(r"megabytes given back [01]\.\d", shown)


def test_the_command_says_whose_rows_nobody_reads_and_prunes_them(tmp_path):
    store, _ = big(tmp_path / "v.sqlite")  # of "f" * 16, nothing is known
    shown = run("--file", store.path)
    said = " ".join(shown.output.split())
    assert "750 rows (3.0 MB) are of models that this store does not know" in said
    assert json.loads(run("--file", store.path, "--json").stdout)["unknown_models"] == ["f" * 16]
    pruned = json.loads(run("--file", store.path, "--prune-unknown", "--json").stdout)
    assert (pruned["removed_rows"], pruned["unknown_models"]) == (750, [])
    assert len(pruned["contents"]) == 3
    again = run("--file", store.path, "--prune-unknown")
    assert "does not know" not in again.output
    assert re.search(r"removed rows +0", again.output)


def test_the_command_checks_and_repairs(tmp_path):
    path = tmp_path / "v.sqlite"
    rows = filled(path)
    whole = run("--file", path, "--check")
    assert whole.exit_code == 0
    assert re.search(r"damaged rows +0", whole.output)
    flip(path, path.read_bytes().index(rows[3].numpy().tobytes()) + 7)
    damaged = run("--file", path, "--check", "--json")
    assert damaged.exit_code == 1
    assert json.loads(damaged.stdout)["damaged_rows"] == 40
    repaired = run("--file", path, "--repair", "--json")
    assert repaired.exit_code == 0
    assert json.loads(repaired.stdout)["damaged_rows"] == 40
    assert run("--file", path, "--check").exit_code == 0
    assert VectorStore(path).contents()["rows"].tolist() == [40, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--file", "/nowhere/v.sqlite"), "no file /nowhere/v.sqlite"),
        (("--file", "{path}", "--prune-component", "neuron"), "nothing matches;"),
        (("--file", "{broken}"), "broken.sqlite is not a usable vector store"),
    ],
)
def test_errors_of_the_command_are_sentences(tmp_path, monkeypatch, capsys, arguments, message):
    filled(tmp_path / "v.sqlite")
    garbage(tmp_path / "broken.sqlite")
    places = {"path": tmp_path / "v.sqlite", "broken": tmp_path / "broken.sqlite"}
    filled_in = [argument.format(**places) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["dysem-lab", "store", *filled_in])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    shown = capsys.readouterr().err
    assert message in " ".join(shown.split()).replace("- ", "-")
    assert "Traceback" not in shown


def test_the_help_has_an_example():
    shown = " ".join(run("--help").output.split())
    assert "Example: dysem-lab store --prune-model gemma-3-270m --prune-layers each" in shown
