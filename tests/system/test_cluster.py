"""A local Ray cluster of two workers, one of which is killed when it has written half a shard."""

import os
import signal
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
import torch

import dysem_lab as dl
from dysem_lab.batch import spread
from dysem_lab.batch.jobs import plan
from dysem_lab.cluster import capture as sharded
from dysem_lab.cluster.shards import shards
from dysem_lab.errors import DataError, InputError, ModelError

ray = pytest.importorskip("ray", reason="no ray: pip install -e '.[cluster]'")
pytestmark = [
    pytest.mark.usefixtures("_one_thread"),
    # Ray's own: files of workers that it leaves to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
N = 22


@pytest.fixture(scope="module")
def _cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # else other tests leave them no time
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
        yield
        ray.shutdown()


class KilledOnce(sharded.Worker):
    """A worker that is killed in the middle of its second shard, if none was before."""

    n_made = 0

    def make(self, manifest, number, rows):
        from pyarrow import parquet

        killed = Path(self.request.folder.removeprefix("file://")).parent / "killed"
        whole = parquet.write_table

        def half(table, file, **options):
            file.write(b"PAR1 and half a shard")
            file.flush()
            killed.write_text(f"{os.getpid()} {number}")
            os.kill(os.getpid(), signal.SIGKILL)

        self.n_made += 1
        if number == 2 and not killed.exists():
            parquet.write_table = half
        try:
            return super().make(manifest, number, rows)
        finally:
            parquet.write_table = whole


@pytest.fixture
def request_of(tiny_folder, tmp_path):
    texts = [f"Sentence {i} of all{' and more' * (i % 5)}." for i in range(N)]
    pd.DataFrame({"text": texts}).to_parquet(tmp_path / "texts.parquet")
    return sharded.Request(
        texts=str(tmp_path / "texts.parquet"),
        columns={"en": "text"},
        folder=str(tmp_path / "shards"),
        model=str(tiny_folder("Llama")),
        rows=4,
    )


@pytest.mark.usefixtures("_cluster")
def test_a_worker_killed_in_the_middle_of_a_shard_loses_no_row_and_doubles_none(
    request_of, tmp_path, monkeypatch, tiny_lens
):
    monkeypatch.setattr(sharded, "Worker", KilledOnce)
    said = []
    sharded.capture_shards(request_of, "ray", 2, lambda *how: said.append(how))
    assert (tmp_path / "killed").read_text().endswith(" 2")
    assert said == [(done, 6, "made") for done in range(1, 7)]
    parts = list(shards(request_of.folder))
    ids = [name for _, rows, _ in parts for name in rows.ids]
    assert ids == [f"texts.parquet:{row}" for row in range(1, N + 1)]
    assert not list((tmp_path / "shards").glob(".*.part"))
    for _, rows, vectors in parts:  # bit for bit what this process makes of a shard
        alone = dl.capture(
            tiny_lens, dl.wrap(rows.texts["en"], setting="language-specific"), "attn"
        )
        assert torch.equal(vectors["en", "attn.sum"], alone["attn"])
    texts = [text for _, rows, _ in parts for text in rows.texts["en"]]
    plain = dl.capture(tiny_lens, dl.wrap(texts, setting="language-specific"), "attn")["attn"]
    all_of_them = torch.cat([vectors["en", "attn.sum"] for _, _, vectors in parts])
    assert torch.allclose(all_of_them, plain, rtol=0, atol=2e-6)
    monkeypatch.undo()
    said.clear()
    sharded.capture_shards(request_of, "local", None, lambda *how: said.append(how))
    assert {outcome for *_, outcome in said} == {"there"}


class Broken:
    """A worker whose every task ends in an error, or in its death."""

    def make(self, how):
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise DataError(how)


@pytest.mark.usefixtures("_cluster")
def test_errors_of_workers_are_those_of_the_package(monkeypatch):
    pool = sharded.hired.__globals__
    monkeypatch.setitem(pool, "TRIES", 1)
    workers = sharded.hired(ray, 1, Broken)
    with pytest.raises(DataError, match="the disk is full"):
        list(sharded.pooled(ray, workers, [("the disk is full",)]))
    with pytest.raises(ModelError, match="lost 2 times at the same work .*--rows"):
        list(sharded.pooled(ray, workers, [("killed",)]))
    with pytest.raises(InputError, match="3 workers, but the cluster has 2 cores"):
        sharded.hired(ray, 3, Broken)


@pytest.mark.usefixtures("_cluster")
def test_a_batch_is_spread_by_model_and_ends_as_it_does_here(tiny_folder, tmp_path, monkeypatch):
    """Jobs that end before a notebook runs: their study refuses its parameters."""
    given = {"parameters": {"pairs": 4, "languages": ["en", "zz"]}, "only": ["02"]}
    models = [str(tiny_folder(name)) for name in ("Llama", "Qwen3")]
    jobs = plan(models, "demo", tmp_path / "figures", **given)
    assert all(job.problem for job in jobs)
    ended = []
    outcomes = spread.run_spread(jobs, 1, lambda job, *how: ended.append((job.name, how[0])))
    assert outcomes == dict(ended) == {job.name: "failed" for job in jobs}
    assert asdict(jobs[0])["out"] == tmp_path / "figures"
