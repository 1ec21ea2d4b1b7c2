"""The plan of large jobs: its page, hand-computed rows, and bytes that are those of real files."""

import importlib.util
import re

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import linregress

import dysem_lab as dl
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "guide" / "cluster.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def plan():
    spec = importlib.util.spec_from_file_location("plan", REPOSITORY / "benchmarks" / "plan.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_the_tables_that_the_script_prints(plan):
    assert f"<!-- plan: --rate 100 --price 1 -->\n\n{plan.tables(100, 1)}\n\n<!-- end" in PAGE


def test_the_page_has_the_slopes_of_the_committed_measurements():
    table = pd.read_csv(REPOSITORY / "benchmarks" / "cost_growth.csv")
    said = re.findall(r"^\| (\w+)[^|]*\| ([\d,]+) \| ([\d,]+) \| \d \| ([\d.]+) \|$", PAGE, re.M)
    assert len(said) == table["varied"].nunique() == 5
    for (_, least, most, slope), (_, rows) in zip(
        said, table.groupby("varied", sort=False), strict=True
    ):
        size = rows["size"]
        assert (f"{size.min():,}", f"{size.max():,}") == (least, most)
        found = linregress(np.log(size), np.log(rows["seconds"])).slope
        assert float(slope) == pytest.approx(found, abs=0.006)


def test_rows_are_what_a_hand_computes(plan):
    llama = plan.paper(each=True)[0]
    assert llama == ("LLaMA2-7B", 348_276, 348_276 * 3 * 32 * 4096 * 4)
    assert len(plan.paper(each=False)) == 10
    assert plan.corpus(640, 4) == ("d = 640, m = 4", 400_000_000, 1_024_000_000_000)
    assert plan.Job("", 7_200, 2 * 10**9).row(rate=2, price=3) == ["", "7,200", "2", "1.0", "3"]


def test_an_index_has_the_bytes_that_are_planned(plan, tmp_path):
    pytest.importorskip("numba", reason="no numba: pip install -e '.[index]'")
    n, d, k = 3000, 64, 16
    vectors = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    sets = torch.arange(d).expand(n, d) < k
    dl.SemanticIndex.create(tmp_path, d).add(range(n), dl.SemanticVectors(vectors, sets))
    size = sum(path.stat().st_size for path in tmp_path.glob("shard-*"))
    assert size == pytest.approx(plan.index_bytes(n, d, k), rel=0.002)


def test_the_texts_of_the_seven_tasks_are_as_many_as_are_planned(plan, sts_folder):
    tasks = (*(f"STS{year}" for year in range(12, 17)), "STSB", "SICKR")
    texts = [set(dl.load_data(sts_folder, task).texts()) for task in tasks]
    assert sum(map(len, texts)) == 29_601
    assert len(set().union(*texts)) == plan.N_TEXTS
