"""A Ray cluster of two workers on this machine, one of which is killed in the middle of a shard."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import torch

import dysem_lab as dl
from dysem_lab.cluster.capture import Request, capture_shards
from dysem_lab.cluster.shards import shards
from tests.conftest import REPOSITORY

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="no ray: pip install -e '.[cluster]'"
    ),
    pytest.mark.usefixtures("_one_thread"),
]
N = 22


@pytest.fixture(scope="module")
def ran(tiny_folder, tmp_path_factory):
    """Return the request of a capture, its folder, and what became of the jobs of `ray_run`."""
    folder = tmp_path_factory.mktemp("cluster")
    texts = [f"Sentence {i} of all{' and more' * (i % 5)}." for i in range(N)]
    pd.DataFrame({"text": texts}).to_parquet(folder / "texts.parquet")
    request = Request(
        texts=str(folder / "texts.parquet"),
        columns={"en": "text"},
        folder=str(folder / "shards"),
        model=str(tiny_folder("Llama")),
        rows=4,
    )
    figures = {"models": [request.model, str(tiny_folder("Qwen3"))], "out": str(folder / "figures")}
    given = {"request": dataclasses.asdict(request), "figures": figures}
    done = subprocess.run(
        [sys.executable, "-m", "tests.ray_run", json.dumps(given)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        # Workers are as important as the tests beside them, and have a thread each.
        env={**os.environ, "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    if "not started" in found:
        pytest.skip(f"Ray did not start on this machine: {found['not started']}")
    return request, folder, found


def test_a_worker_killed_in_the_middle_of_a_shard_loses_no_row_and_doubles_none(ran, tiny_lens):
    request, folder, found = ran
    assert (folder / "killed").read_text() == "shard 2"
    assert [how for how in found["said"] if len(how) == 3] == [[i, 6, "made"] for i in range(1, 7)]
    parts = list(shards(request.folder))
    ids = [name for _, rows, _ in parts for name in rows.ids]
    assert ids == [f"texts.parquet:{row}" for row in range(1, N + 1)]
    assert not list((folder / "shards").glob(".*.part"))
    for _, rows, vectors in parts:  # bit for bit what this process makes of the same texts
        alone = dl.capture(tiny_lens, dl.wrap(rows.texts["en"]), "attn")["attn"]
        assert torch.equal(vectors["en", "attn.sum"], alone)
    texts = [text for _, rows, _ in parts for text in rows.texts["en"]]
    plain = dl.capture(tiny_lens, dl.wrap(texts), "attn")["attn"]
    read = torch.cat([vectors["en", "attn.sum"] for _, _, vectors in parts])
    assert torch.allclose(read, plain, rtol=0, atol=2e-6)


def test_one_process_goes_on_with_the_shards_of_a_cluster(ran):
    request, folder, _ = ran
    (folder / "shards" / "shard-00000004.parquet").unlink()
    said = []
    capture_shards(request, report=lambda *how: said.append(how[2]))
    assert said == ["there"] * 4 + ["made", "there"]


def test_errors_of_workers_are_those_of_the_package(ran):
    full, killed, many = ran[2]["errors"]
    assert full == "DataError: the disk is full"
    assert killed.startswith("ModelError: a worker was lost 2 times at the same work")
    assert "3 workers, but the cluster has 2 cores" in many


def test_a_batch_is_spread_by_model_and_says_how_each_job_ended(ran):
    outcomes = ran[2]["outcomes"]
    assert len(outcomes) == 2
    assert set(outcomes.values()) == {"failed"}
    assert dict(how for how in ran[2]["said"] if len(how) == 2) == outcomes
