"""SQLite files of the cache where they cannot be written, or are opened at the same moment."""

import sqlite3
import subprocess
import sys

import pytest

from dysem_lab.database import Database
from dysem_lab.errors import DataError
from dysem_lab.translation.parallel_table import ParallelTable
from dysem_lab.translation.translation_cache import CachedTranslator
from tests.unwritable import full_disk, read_only

SCHEMA = ["CREATE TABLE IF NOT EXISTS a (x)", "CREATE TABLE IF NOT EXISTS b (x)"]
TABLE = {"en": ["It rains.", "A dog."], "fr": ["Il pleut.", "Un chien."]}


@pytest.mark.parametrize("unwritable", [full_disk, read_only])
def test_known_renderings_are_read_where_nothing_can_be_written(open_folder, unwritable):
    path, table = open_folder / "translations.sqlite", ParallelTable(TABLE)
    CachedTranslator(table, path).translate(["It rains."], "en", "fr")
    with unwritable(open_folder):
        cached = CachedTranslator(table, path)
        assert cached.translate(["It rains."], "en", "fr") == ["Il pleut."]
        with pytest.raises(DataError, match=r"translations\.sqlite cannot be used now"):
            cached.translate(["A dog."], "en", "fr")
    assert cached.translate(["It rains.", "A dog."], "en", "fr") == TABLE["fr"]


@pytest.mark.parametrize("name", ["a?mode=ro", "a#b", "a%20b", "é 語", "a b", "{x}"])
def test_a_file_may_have_any_name(tmp_path, name):
    with Database(tmp_path / name, "test", SCHEMA).connection() as connection:
        connection.execute("INSERT INTO a VALUES (1)")
    assert {path.name for path in tmp_path.iterdir()} - {f"{name}.lock"} == {name}
    with Database(tmp_path / name, "test", SCHEMA).connection() as connection:
        assert connection.execute("SELECT x FROM a").fetchall() == [(1,)]


def test_a_table_that_is_not_there_yet_is_made(tmp_path):
    Database(tmp_path / "x", "test", SCHEMA[:1])
    with Database(tmp_path / "x", "test", SCHEMA).connection() as connection:
        assert connection.execute("SELECT count(*) FROM b").fetchone() == (0,)


def test_a_whole_file_is_opened_without_a_lock(tmp_path):
    Database(tmp_path / "x", "test", SCHEMA)
    (tmp_path / "x.lock").unlink(missing_ok=True)
    before = (tmp_path / "x").stat().st_mtime_ns
    with Database(tmp_path / "x", "test", SCHEMA).connection() as connection:
        connection.execute("SELECT * FROM a")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").stat().st_mtime_ns == before


def test_a_file_that_is_locked_is_an_error_that_says_so(tmp_path, monkeypatch):
    database = Database(tmp_path / "x", "test", SCHEMA)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **{**k, "timeout": 0}))
    with database.connection() as writer:
        writer.execute("BEGIN IMMEDIATE")
        with (
            pytest.raises(DataError, match=r"cannot be used now .*another process holds it"),
            database.connection() as other,
        ):
            other.execute("BEGIN IMMEDIATE")


OPEN = """
import sys
from pathlib import Path
from dysem_lab.database import Database
print("ready", flush=True)
sys.stdin.readline()
for number in range(30):
    schema = ["CREATE TABLE IF NOT EXISTS a (x)", "CREATE TABLE IF NOT EXISTS b (x)"]
    file = Path(sys.argv[1]) / str(number)
    with Database(file, "test", schema, application_id=7).connection() as connection:
        connection.execute("INSERT INTO b VALUES (1)")
"""


def test_processes_may_make_a_file_at_the_same_moment(tmp_path):
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-c", OPEN, str(tmp_path)]
    started = [subprocess.Popen(command, text=True, **pipes) for _ in range(3)]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    for number in range(30):
        with Database(tmp_path / str(number), "test", SCHEMA, application_id=7).connection() as c:
            assert c.execute("SELECT count(*) FROM b").fetchone() == (3,)
