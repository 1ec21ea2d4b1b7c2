"""A Ray cluster of two workers on this machine, one of which is killed in the middle of a shard."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

import dysem_lab as dl
from dysem_lab.batch import spread
from dysem_lab.batch.jobs import plan
from dysem_lab.cluster import pool
from dysem_lab.cluster.capture import Request, capture_shards
from dysem_lab.cluster.shards import shards
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.usefixtures("_one_thread")
N = 22


@pytest.fixture(scope="module")
def ran(tiny_folder, tmp_path_factory):
    """Return the request of a capture, its folder, and what `ray_run` said."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("no ray: pip install -e '.[cluster]'")
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
    done = subprocess.run(
        [sys.executable, "-m", "tests.ray_run", json.dumps(dataclasses.asdict(request))],
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


@pytest.mark.parametrize(
    ("machines", "workers", "share"),
    [
        ([{"CPU": 8}], None, (1, {"num_cpus": 8})),
        ([{"CPU": 8}], 3, (3, {"num_cpus": 2})),
        ([{"CPU": 6}, {"CPU": 2}], None, (2, {"num_cpus": 3})),  # both on the first
        ([{"CPU": 6}, {"CPU": 2}], 4, (4, {"num_cpus": 2})),
        ([{"CPU": 8, "GPU": 2}, {"CPU": 8, "GPU": 1}], None, (3, {"num_gpus": 1})),
        ([{"CPU": 8, "GPU": 2}], 1, (1, {"num_gpus": 1})),
    ],
)
def test_workers_have_a_gpu_each_or_an_equal_share_of_the_cores(machines, workers, share):
    nodes = [{"Alive": True, "Resources": machine} for machine in machines]
    nodes.append({"Alive": False, "Resources": {"CPU": 99, "GPU": 99}})
    assert pool.share_of(SimpleNamespace(nodes=lambda: nodes), workers) == share


def test_a_batch_is_spread_by_model_and_says_how_each_job_ended(tmp_path, tiny_folder, monkeypatch):
    given = []

    def in_turn(ray, workers, tasks):
        given.extend(tasks)
        return (workers[0].make(*task) for task in given)

    monkeypatch.setattr(spread, "connected", lambda: None)
    monkeypatch.setattr(spread, "hired", lambda ray, n, kind: [kind()])
    monkeypatch.setattr(spread, "pooled", in_turn)
    models = [str(tiny_folder(name)) for name in ("Llama", "Qwen3")]
    # Their study refuses its parameters, so that no notebook runs.
    wrong = {"languages": ["zz"]}
    jobs = plan(models, "demo", tmp_path / "figures", only=["02"], parameters=wrong)
    said = {}
    outcomes = spread.run_spread(jobs, 2, lambda job, *how: said.update({job.name: how[0]}))
    assert outcomes == said == {job.name: "failed" for job in jobs}
    assert len(outcomes) == 2
    assert [{job.parameters["model"] for job in group} for group, _ in given] == [
        {model} for model in models
    ]
    assert {n_parallel for _, n_parallel in given} == {2}
