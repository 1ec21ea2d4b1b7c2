"""The gallery: figures under the notebooks that make them, each with what it was measured on."""

import json
import re

import pytest

from dysem_lab.figures.gallery import ELSEWHERE, measured_on, sections, write_gallery
from dysem_lab.jobs import notebooks


def record(name, model="m/Tiny-1B", caption="Says <b> & more.", **more):
    data = [{"label": "demo 24 pairs (en/ja)"}]
    return {
        "name": name,
        "caption": caption,
        "model": {"name": model, "dtype": "float32"},
        "data": data,
        **more,
    }


def test_figures_come_in_the_order_of_the_notebooks_that_make_them():
    names = (
        "transfer_tiny-1b_6-tasks-10",
        "stability_tiny-1b_demo-24",
        "selection_frequency_tiny-1b_demo-24",
        "cp_main_results_tiny-1b_demo-24",
        "main_results_tiny-1b_demo-24",
        "translators_zh_tiny-1b_demo-24",
        "my_own_tiny-1b_demo-24",
    )
    found = sections([record(name) for name in names], notebooks())
    numbers = [section.title.split(".")[0] for section in found]
    assert numbers == ["10", "13", "14", "15", "21", ELSEWHERE]
    assert [len(section.records) for section in found] == [1, 2, 1, 1, 1, 1]
    assert found[0].records[0]["name"] == "main_results_tiny-1b_demo-24"
    assert found[-1].records[0]["name"] == "my_own_tiny-1b_demo-24"


def test_each_figure_of_each_notebook_has_its_place():
    kinds = set()
    for path in notebooks().values():
        kinds |= set(re.findall(r'figure_name\(f?\\"([a-z_]+)', path.read_text("utf-8")))
    records = [record(f"{kind.strip('_')}_tiny-1b_demo-24") for kind in kinds]
    assert len(records) > 20
    assert all(part.title != ELSEWHERE for part in sections(records, notebooks()))


def test_what_a_figure_was_measured_on():
    assert measured_on(record("a_tiny-1b")) == "m/Tiny-1B (float32); demo 24 pairs (en/ja)"
    drawn = record("a_tiny-1b", sampling={"sample": 24, "seed": 3})
    assert measured_on(drawn).endswith(
        "(en/ja); drawn from the pairs that all its languages have, seed 3"
    )


@pytest.mark.parametrize("png", [True, False])
def test_pages_link_to_files_and_escape_captions(tmp_path, png):
    name = "components_tiny-1b_demo-24"
    (tmp_path / f"{name}.json").write_text(json.dumps(record(name)), encoding="utf-8")
    if png:
        (tmp_path / f"{name}.png").write_bytes(b"")
    write_gallery(tmp_path, notebooks())
    page = (tmp_path / "README.md").read_text("utf-8")
    assert f"(#{name})" in page
    assert f"\n### {name}\n" in page
    assert (f"]({name}.png)" in page) == png
    assert f"[CSV]({name}.csv)" in page
    index = (tmp_path / "index.html").read_text("utf-8")
    assert "Says &lt;b&gt; &amp; more." in index
    assert f'href="{name}.html"' in index
    assert (f'src="{name}.png"' in index) == png
