"""An index whose writer is killed, at every line of ours and at any moment: before or after."""

import contextlib
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

import dysem_lab as dl
from dysem_lab import database
from dysem_lab.retrieval import records

pytest.importorskip("numba", reason="no numba: pip install -e '.[index]'")
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the writer is a fork of this process"),
    pytest.mark.usefixtures("_one_thread"),
]
D = 6
OURS = {str(path) for path in Path(records.__file__).parent.glob("*.py")} | {database.__file__}


def texts(first, n):
    """Return vectors that say which text they are of."""
    numbers = torch.arange(first, first + n, dtype=torch.float32)[:, None]
    vectors = torch.cat([numbers, torch.ones(n, D - 1)], dim=1)
    return dl.SemanticVectors(vectors, torch.arange(D).expand(n, D) < 3)


def killed(write, at=None, after=None):
    """Run a writer in a process of its own, which is killed; return whether it came to its end.

    Args:
        write: What it does.
        at: The line of ours, counted as each runs for the first time, at which it kills itself.
        after: What is waited for before it is killed.
    """
    child = os.fork()
    if not child:
        lines = set()

        def trace(frame, event, argument):
            if frame.f_code.co_filename not in OURS:
                return None
            lines.add((frame.f_code.co_filename, frame.f_lineno))
            if len(lines) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace

        try:
            if at is not None:
                sys.settrace(trace)
            write()
        finally:
            os._exit(0)
    if after is not None:
        after()
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def state(folder):
    """Return the ids of a whole index, each of which has its own vector and is found by it."""
    index = dl.SemanticIndex.open(folder)
    ids = index.ids
    assert index.damaged().empty
    if ids:
        kept = index.vectors(ids)
        assert kept.vectors[:, 0].int().tolist() == ids
        assert sorted(index.search(kept[[0]], len(ids)).ids[0]) == ids
    return ids


def check_each_kill(folder, write, before, after, step):
    """Kill a writer at one line after the other, until it comes to its end."""
    at, seen = 1, set()
    while not killed(lambda: write(dl.SemanticIndex.open(folder)), at):
        ids = state(folder)
        assert ids in (before, after), at
        seen.add(len(ids))
        if ids == after:  # for the next kill
            index = dl.SemanticIndex.open(folder)
            index.delete([name for name in after if name not in before])
            gone = [name for name in before if name not in after]
            for name in gone:
                index.add([name], texts(name, 1))
            assert sorted(index.ids) == before
            if gone:
                index.delete(before)
                index.add(before, texts(0, len(before)))
        at += step
    assert state(folder) == after
    assert at > 50  # it was killed at many lines
    assert len(before) in seen


def test_a_writer_that_is_killed_leaves_the_state_before_or_after(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "rows_per_shard", lambda width, dtype: 4)
    folder = tmp_path / "index"
    index = dl.SemanticIndex.create(folder, D)
    index.add(range(5), texts(0, 5))
    check_each_kill(
        folder, lambda i: i.add(range(5, 15), texts(5, 10)), [*range(5)], [*range(15)], 8
    )
    index.delete(range(5, 15))
    check_each_kill(folder, lambda i: i.delete([0, 1, 2, 3]), [*range(5)], [4], 8)
    files = [path.name for path in folder.glob("shard-*")]
    index.add([99], texts(99, 1))  # the next writer removes what killed ones left
    assert len(list(folder.glob("shard-*"))) == 2
    assert files


def test_a_compaction_that_is_killed_loses_no_text_and_no_order(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "rows_per_shard", lambda width, dtype: 6)
    folder = tmp_path / "index"
    index = dl.SemanticIndex.create(folder, D)
    left = [i for i in range(24) if i % 3]

    def fill():
        index.delete(index.ids)
        index.compact()
        for first in range(0, 24, 4):
            index.add(range(first, first + 4), texts(first, 4))
        index.delete(range(0, 24, 3))

    def killed_in_the_second_step():
        renumber, calls = records.renumber, []

        def counted(*arguments):
            calls.append(arguments)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            renumber(*arguments)

        records.renumber = counted
        dl.SemanticIndex.open(folder).compact()

    fill()
    assert not killed(killed_in_the_second_step)
    assert state(folder) == left
    assert 0 < dl.SemanticIndex.open(folder).n_deleted < 8
    at, ended, deleted = 1, False, set()
    while not ended:
        fill()
        ended = killed(lambda: dl.SemanticIndex.open(folder).compact(), at)
        assert state(folder) == left, at
        deleted.add(dl.SemanticIndex.open(folder).n_deleted)
        at += 12
    assert deleted >= {0, 8}


def test_a_writer_that_is_killed_at_any_moment_loses_nothing_that_was_added(tmp_path):
    folder = tmp_path / "index"
    dl.SemanticIndex.create(folder, D)
    rng, done = random.Random(0), 0
    said, saying = os.pipe()

    def write():
        index = dl.SemanticIndex.open(folder)
        for first in range(done, done + 500, 5):
            index.add(range(first, first + 5), texts(first, 5))
            os.write(saying, b".")

    def wait():
        os.read(said, 1)  # until one is added
        time.sleep(rng.uniform(0, 0.05))

    for _ in range(8):
        assert not killed(write, after=wait)
        ids = state(folder)
        assert ids == list(range(len(ids)))
        assert len(ids) % 5 == 0
        assert len(ids) > done
        done = len(ids)
        os.set_blocking(said, False)
        with contextlib.suppress(BlockingIOError):
            os.read(said, 1000)  # of those that were added after the first
        os.set_blocking(said, True)
    os.close(said)
    os.close(saying)
