"""The gallery: figures under the notebooks that make them, each with what it was measured on."""

import functools
import html
import json
import os
import re
import subprocess
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import markdown
import pandas as pd
import plotly.graph_objects as go
import pytest
from markdown_it import MarkdownIt

from dysem_lab.batch.cells import notebooks
from dysem_lab.batch.gallery import (
    ALSO,
    ELSEWHERE,
    measured_on,
    plain,
    records_of,
    said_of_code,
    sections,
    write_gallery,
)
from dysem_lab.batch.seeds import records_of_seeds, spread
from dysem_lab.data.sts import load_data
from dysem_lab.errors import DataError, InputError
from dysem_lab.models.embedded import EMBEDDED
from dysem_lab.questions import saving
from dysem_lab.questions.style import layout
from tests.conftest import REPOSITORY

WEIGHTS = "bfloat16 weights, computed in float32"


def record(name, model="m/Tiny-1B", caption="Says <b> & more.", **more):
    data = [{"label": "demo 24 pairs (en/ja)"}]
    return {
        "name": name,
        "caption": caption,
        "model": {"name": model, "dtype": "float32", "weights": WEIGHTS},
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
    of_texts = ("pair", "pair_layers", "layer_curves", "dimension", "attention", "contrast_effect")
    of_texts += ("patching", "search")
    files = {path.stem: path for path in (REPOSITORY / "dysem_lab" / "questions").glob("*.py")}
    texts = {name: path.read_text("utf-8") for name, path in files.items()}
    findings = re.findall(r"class (\w+)\(Finding\)", "".join(texts.values()))
    made = re.compile(rf'\b(?:Finding|{"|".join(findings)})\(\s*f?"([a-z_]+)')
    kinds = set()
    for name, text in texts.items():
        if name not in of_texts:  # what no notebook saves
            kinds |= set(made.findall(text))
    records = [record(f"{kind.strip('_')}_tiny-1b_demo-24") for kind in kinds]
    assert len(records) > 15
    assert all(part.title != ELSEWHERE for part in sections(records, notebooks()))


def test_what_a_figure_was_measured_on():
    assert measured_on(record("a_tiny-1b")) == f"m/Tiny-1B ({WEIGHTS}); demo 24 pairs (en/ja)"
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
    for text in (page, index):
        assert f"Models: m/Tiny-1B ({WEIGHTS})." in text
        assert "demo set" not in text
    assert f'href="{name}.html"' in index
    assert (f'src="{name}.png"' in index) == png


def test_a_figure_of_the_demo_set_has_the_page_say_whose_scores_they_are(tmp_path):
    made = record("components_tiny-1b_demo-24")
    made["data"][0]["source"] = load_data("demo").source
    (tmp_path / f"{made['name']}.json").write_text(json.dumps(made), encoding="utf-8")
    write_gallery(tmp_path, notebooks())
    for page in ("README.md", "index.html"):
        text = (tmp_path / page).read_text("utf-8")
        assert "scores assigned by its writers, not ratings by people" in text
        line = "demo 24 pairs (en/ja), scores assigned by its writers ·"
        assert line in " ".join(text.split()), "beside the figure itself"


def test_a_record_made_before_weights_were_described_says_what_is_known():
    old = record("a_tiny-1b")
    del old["model"]["weights"]
    assert measured_on(old).startswith("m/Tiny-1B (weights computed in float32);")
    old["model"]["source"] = f"{EMBEDDED['gemma-3-270m'].sha256} and of its conversion"
    assert measured_on(old).startswith(
        "m/Tiny-1B (4-bit weights, dequantised, computed in float32);"
    )


# What others wrote: texts that are no markup, and files that are no records

HOSTILE = (
    "<script>document.title='fired'</script>",
    "<img src=x onerror=\"document.title='fired'\">",
    "![x](x\" onerror=\"document.title='fired')",
    "[click](javascript:document.title='fired')",
    "](x) <svg onload=document.title='fired'>",
    "[x]: javascript:document.title='fired'",
    "[1.5, 2.0](javascript:document.title='fired')",
    "<https://evil.example> https://evil.example www.evil.example me@evil.example",
    '<a href="https://evil.example">here</a>',
    "</figcaption></figure><iframe src='javascript:document.title=1'></iframe>",
    "&lt;script&gt;document.title='fired'&lt;/script&gt;",
    "{: onclick=document.title='fired' }",
    "*a* **b** `c` _d_ __e__ ~~f~~ $x$ # g | h \\ i",
    "# a heading",
    "1. a list",
    "- a list",
    "> a quotation",
    "first line\n\n# second",
    "~~~\ncode",
)


class Rendered(HTMLParser):
    """The tags with their attributes, and the text, of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def targets(page: Rendered) -> set[str]:
    return {
        attributes[kind]
        for _, attributes in page.tags
        for kind in ("href", "src")
        if kind in attributes
    }


def write_records(folder, texts):
    """Write a figure per text, which is the caption, and the name of model and data."""
    folder.mkdir(exist_ok=True)
    for number, text in enumerate(texts):
        name = f"components_{number}"
        of_text = record(name, model=text, caption=text) | {"data": [{"label": text}]}
        (folder / f"{name}.json").write_text(json.dumps(of_text), encoding="utf-8")
        (folder / f"{name}.png").write_bytes(b"")
    write_gallery(folder, notebooks())


EXTENSIONS = ["extra", "toc", "attr_list", "sane_lists", "admonition", "wikilinks", "nl2br"]
RENDERERS = {
    "Python-Markdown": markdown.markdown,
    "with extensions": functools.partial(markdown.markdown, extensions=EXTENSIONS),
    "CommonMark": MarkdownIt("commonmark").enable(["table", "strikethrough"]).render,
}


def rendered(folder, renderer="CommonMark") -> list[Rendered]:
    """Return the two pages of a gallery."""
    page = (folder / "README.md").read_text("utf-8")
    index = (folder / "index.html").read_text("utf-8")
    return [Rendered(RENDERERS[renderer](page)), Rendered(index)]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("renderer", RENDERERS)
def test_a_text_is_shown_as_it_is_whatever_it_looks_like(tmp_path, text, renderer):
    write_records(tmp_path / "a", ["harmless"])
    write_records(tmp_path / "b", [text])
    shown = " ".join(text.split())
    pages = zip(*(rendered(tmp_path / folder, renderer) for folder in "ab"), strict=True)
    for harmless, page in pages:
        assert targets(page) == targets(harmless)
        assert [tag for tag, _ in page.tags] == [tag for tag, _ in harmless.tags]
        for (_, expected), (tag, attributes) in zip(harmless.tags, page.tags, strict=True):
            assert attributes.keys() == expected.keys()
            if tag == "img":
                assert " ".join(attributes["alt"].split()) == shown
        text_of_page = " ".join(page.text.split())
        assert text_of_page == " ".join(harmless.text.split()).replace("harmless", shown)


def test_an_interval_stays_readable_in_markdown():
    text = "best is A^L with 69.2 [65.6, 72.9], or [-1.5, 2] and [−1, 3]."
    assert plain(text) == text


def test_the_name_of_a_file_is_no_markup(tmp_path):
    name = "a [x](javascript:alert(1)) <b onclick=alert(1)> #?%22 é"
    (tmp_path / f"{name}.json").write_text(json.dumps(record(name)), encoding="utf-8")
    write_gallery(tmp_path, notebooks())
    for page in rendered(tmp_path):
        assert not any(tag == "b" for tag, _ in page.tags)
        for target in targets(page):
            if re.fullmatch(r"#[\w%-]+", target):  # as a heading's anchor has it
                assert unquote(target).startswith("#axjavascriptalert1bonclickalert1")
                continue
            assert re.match(r"#?a%20%5Bx%5D%28javascript%3Aalert", target)
            assert unquote(target).removeprefix("#").startswith(name)


def opened(page) -> str:
    """Return a page as Chromium shows it."""
    if saving.find_browser() is None:
        pytest.skip("no Chromium")
    command = [saving.find_browser(), "--headless", "--no-sandbox", "--disable-gpu"]
    command += ["--virtual-time-budget=4000", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout


def test_nothing_fires_in_a_browser(tmp_path):
    write_records(tmp_path, HOSTILE)
    page = RENDERERS["CommonMark"]((tmp_path / "README.md").read_text("utf-8"))
    readme = tmp_path / "rendered.html"
    readme.write_text(f"<title>Figures</title>{page}", encoding="utf-8")
    for shown in (tmp_path / "index.html", readme):
        assert "<title>Figures</title>" in opened(shown)
    readme.write_text(f"<title>Figures</title>{HOSTILE[0]}", encoding="utf-8")
    assert "<title>fired</title>" in opened(readme), "the check would see it"


def test_a_page_of_a_figure_has_no_link_of_somebody_else(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "_drawn", lambda figure, name: b"")
    links = [f"<a href='{to}'>here</a>" for to in ("https://evil.example", "javascript:alert(1)")]
    links.append('<A\thref="https://evil.example">here</A>')
    name = "<script>document.title='fired'</script> & " + links[0]
    figure = go.Figure(go.Bar(x=links, y=[1, 2, 3], name=links[0], hovertext=links))
    layout(figure, f"<b>Bold</b> {links[2]}", name, 400)
    saving.save_figure(figure, pd.DataFrame({"a": [1]}), "mine", tmp_path, {}, name)
    page = opened(tmp_path / "mine.html")
    assert f"<title>{html.escape(name, quote=False)}</title>" in page
    assert '<tspan style="font-weight:bold">Bold</tspan>' in page
    assert (
        "&lt;script&gt;document.title='fired'&lt;/script&gt; &amp; &lt;a href='https://evil" in page
    )
    assert not [
        target for target in targets(Rendered(page)) if "evil" in target or "alert" in target
    ]


CUT = json.dumps(record("x"))[:-20]


@pytest.mark.parametrize(
    "content",
    [
        *(
            b"",
            b"{",
            b"[]",
            b"3",
            b"null",
            b'"text"',
            b"\xff\xfe\x00",
            bytes(range(256)),
            b"[" * 10**5,
        ),
        CUT.encode(),
        *(
            json.dumps({**record("x"), **change}).encode()
            for change in (
                {"name": "another"},
                {"name": 3},
                {"caption": None},
                {"model": "m"},
                {"model": {"name": 3, "dtype": "float32"}},
                {"model": {"name": "m"}},
                {"model": {"name": "m", "dtype": "float32", "weights": 3}},
                {"model": {"name": "m", "dtype": "float32", "source": 3}},
                {"data": 3},
                {"data": ["label"]},
                {"data": [{"label": 3}]},
                {"data": [{"label": "", "source": 3}]},
                {"sampling": [1]},
                {"sampling": {"sample": 3}},
            )
        ),
    ],
)
def test_a_json_that_is_no_record_is_named_and_left_out(tmp_path, capsys, content):
    name = "components_tiny-1b_demo-24"
    (tmp_path / f"{name}.json").write_text(json.dumps(record(name)), encoding="utf-8")
    (tmp_path / "x.json").write_bytes(content)
    write_gallery(tmp_path, notebooks())
    said = capsys.readouterr().err
    assert f"{tmp_path / 'x.json'} is no record of a figure" in said
    assert name not in said
    assert f"### {name}" in (tmp_path / "README.md").read_text("utf-8")
    assert (tmp_path / "x.json").read_bytes() == content


def test_what_is_no_file_is_left_out_too(tmp_path, capsys):
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "gone.json").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.json")
    write_gallery(tmp_path, notebooks())
    assert capsys.readouterr().err.count("is no record of a figure") == 3


# Files that cannot be written


def small_figure(out, name="mine", caption="What is seen."):
    figure, table = go.Figure(go.Bar(y=[1])), pd.DataFrame({"a": [1.5]})
    return saving.save_figure(figure, table, name, out, {"seed": 0}, caption)


@pytest.fixture
def fake_browser(monkeypatch):
    """Draw every figure at once, as a browser would."""
    monkeypatch.setattr(saving, "find_browser", lambda: "chromium")
    monkeypatch.setattr(go.Figure, "to_image", lambda figure, **how: b"PNG")


@pytest.mark.parametrize("kind", ["png", "html", "csv", "json", "plotly.min.js"])
def test_a_folder_in_place_of_a_file_is_named_and_nothing_is_written(tmp_path, fake_browser, kind):
    taken = tmp_path / ("plotly.min.js" if kind == "plotly.min.js" else f"mine.{kind}")
    if kind == "plotly.min.js":  # whatever it is, it is not written over
        (tmp_path / "out").write_text("a file")
        out, taken = tmp_path / "out", tmp_path / "out"
    else:
        taken.mkdir()
        out = tmp_path
    with pytest.raises(DataError, match=f"{taken}.* cannot be written"):
        small_figure(out)
    assert {path.name for path in tmp_path.iterdir()} <= {taken.name, "plotly.min.js"}


def test_a_full_disk_leaves_the_figure_of_before(tmp_path, fake_browser, monkeypatch):
    written = small_figure(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    write = type(tmp_path).write_bytes

    def full(path, content):
        if path.suffix == ".csv":
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(type(tmp_path), "write_bytes", full)
    with pytest.raises(DataError, match=r"mine\.csv cannot be written \(No space.*free some disk"):
        small_figure(tmp_path, caption="Another.")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert set(written) == {"png", "html", "csv", "json"}


@pytest.mark.parametrize("browser", ["/nowhere/chrome", "/bin/false"])
def test_a_browser_that_does_not_draw_is_named_and_nothing_is_written(
    tmp_path, monkeypatch, browser
):
    monkeypatch.setenv("BROWSER_PATH", browser)
    with pytest.raises(DataError, match=rf"{browser} cannot draw mine\.png .*BROWSER_PATH"):
        small_figure(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../up",
        "a/b",
        "a\\b",
        "a\0b",
        ".hidden",
        " ",
        "x" * 300,
        'a"b',
        "a<b>",
        "a\nb",
        "é" * 130,
        3,
        None,
    ],
)
def test_a_name_that_no_file_may_have_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"a figure's name cannot be .*letters, digits"):
        small_figure(tmp_path, name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Qwen3-8B", "qwen3-8b"),
        ("../../etc/passwd", "..-..-etc-passwd"),
        ('a<b>:"c|?*\\', "a-b-c"),
        ("日本語 モデル", "日本語-モデル"),
    ],
)
def test_a_slug_is_a_part_of_a_file_name(text, expected):
    assert saving.slug(text) == expected


@pytest.mark.parametrize("text", ["x" * 300, "語" * 300, "é" * 41, "🤖", "???", ""])
def test_what_makes_no_name_gets_one_of_its_own(text):
    found = saving.slug(text)
    assert 8 <= len(found.encode()) <= 80
    assert found == saving.slug(found)
    assert found != saving.slug(f"{text}!?x")


def test_a_long_name_of_a_model_gives_files(tmp_path, fake_browser):
    from dysem_lab.models.facts import ModelFacts

    facts = ModelFacts("語" * 200, "s", "f", "float32", "cpu", 1, 1, "")
    name = saving.file_name("selection_frequency", facts, "x" * 300, 24)
    assert len(list(small_figure(tmp_path, name).values())) == 4


FOUND = re.compile(r"## What we found\n(.*)", re.DOTALL)
FIGURE = re.compile(r"`(\w[\w.-]+_[\w.-]+)`|figures/README\.md#([\w-]+)")
# What has digits and is no finding: names, links, mathematics, the share of an interval, the date.
NO_NUMBERS = re.compile(
    r"\]\([^)]*\)|`[^`]*`|\$[^$]*\$|Gemma 3 270M|SmolLM2 135M|× 100|95 %|"
    r"notebooks? \d\d(?: (?:to|and) \d\d)?|On \d+ \w+ \d{4}"
)
MANY = 250  # rows of a table in which almost any number is found, so that only the caption counts
NUMBER = r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?%?"
VALUE = re.compile(rf"(?<![\w.,])({NUMBER})(?: \[({NUMBER}), ({NUMBER})\])?(?![\w-])")


def values_of(text):
    """Return the numbers of a text, each with the ends of its interval, "" where it has none."""
    return VALUE.findall(NO_NUMBERS.sub(" ", text))


def rounds_to(values, number):
    """Say which values are the number as it is written; without a sign it may be of either."""
    digits = number.replace(",", "").removesuffix("%")
    scaled = 100 * values if number.endswith("%") else values
    scaled = scaled if digits[0] in "+-" else scaled.abs()
    return scaled.map(f"{{:.{len(digits.partition('.')[2])}f}}".format) == digits.removeprefix("+")


def in_table(table, value, low, high):
    """Say whether a number is in a table, with an interval in one row with its ends."""
    columns = table.select_dtypes("number")
    ends = [name for name in columns if re.search(r"(^|_)(low|high)$", name)]
    if not low:
        return any(rounds_to(columns[name].dropna(), value).any() for name in {*columns} - {*ends})
    signed = [n if n[0] in "+-" else f"+{n}" for n in (value, low, high)]
    for name in {*columns} - {*ends}:
        for pair in ((f"{name}_low", f"{name}_high"), ("low", "high")):
            if {*pair} <= {*ends}:
                rows = columns[[name, *pair]].dropna()
                in_row = [rounds_to(rows[x], n) for x, n in zip((name, *pair), signed, strict=True)]
                if (in_row[0] & in_row[1] & in_row[2]).any():
                    return True
    return False


def in_caption(caption, value, low, high):
    """Say whether a caption has a number; a loss may be said without its sign."""
    said = {tuple(n.removeprefix("+") for n in found) for found in values_of(caption)}
    said = said if low else {(number, "", "") for number, *_ in said}
    ways = [(value, low, high)]
    if value[0] not in "+-":
        ways.append((f"-{value}", high and f"-{high}", low and f"-{low}"))
    return any(tuple(n.removeprefix("+") for n in way) in said for way in ways)


def in_settings(record, value, low, _high):
    """Say whether a number is a setting: of the sample, the question or the model."""
    model = {k: v for k, v in record["model"].items() if k != "tensor_types"}  # no setting
    settings = [*(record.get(name) for name in ("parameters", "sampling")), model]
    sizes = [data.get("n_pairs") for data in record["data"]]
    numbers = re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", json.dumps([settings, sizes]))
    return not low and value.replace(",", "") in numbers


def of_choice(table):
    """Return a table; of a large one that marks what was chosen, only the rows that were."""
    return table[table["chosen"]] if len(table) >= MANY and "chosen" in table else table


def sections_on_findings():
    """Yield the name, the text, and the records and tables of what each notebook found."""
    for path in sorted((REPOSITORY / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if found := FOUND.match("".join(cell["source"])):
                names = ["".join(name) for name in FIGURE.findall(found[1])]
                files = [REPOSITORY / "figures" / name for name in names]
                records = [json.loads(Path(f"{file}.json").read_text("utf-8")) for file in files]
                tables = [pd.read_csv(f"{file}.csv") for file in files]
                yield (
                    path.stem,
                    found[1],
                    records,
                    [x for x in map(of_choice, tables) if len(x) < MANY],
                )


def test_what_notebooks_say_was_found_is_in_the_tables_of_their_figures():
    numbers = []
    for stem, text, records, tables in sections_on_findings():
        numbers.append(int(stem[:2]))
        assert {record["model"]["name"] for record in records} == {*EMBEDDED}, stem
        for found in values_of(text):
            assert (
                any(in_caption(record["caption"], *found) for record in records)
                or any(in_table(table, *found) for table in tables)
                or any(in_settings(record, *found) for record in records)
            ), (stem, found)
        (said,) = re.findall(r"^On (\d+ \w+ \d{4}), with ", text.strip())
        times = {datetime.fromisoformat(record["time"]) for record in records}
        assert said in {f"{time.day} {time:%B %Y}" for time in times}, (stem, said)
    assert numbers == [*range(1, 31)]


def test_the_results_page_says_of_explanations_what_their_notebooks_say():
    said = (REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8")
    points = re.findall(r"^- \*\*.*?\(notebook (\d\d), (.*?)\).*$", said, re.MULTILINE)
    lines = re.findall(r"^- \*\*.*?\(notebook \d\d, .*$", said, re.MULTILINE)
    assert [number for number, _ in points] == ["25", "27", "28", "29", "30"]
    for (number, size), line in zip(points, lines, strict=True):
        (path,) = (REPOSITORY / "notebooks").glob(f"{number}_*.ipynb")
        cells = ["".join(cell["source"]) for cell in json.loads(path.read_text("utf-8"))["cells"]]
        (found,) = (cell for cell in cells if FOUND.match(cell))
        for value in [*re.findall(r"-?\d+\.\d+", line), size.split(" ")[0]]:
            assert re.search(rf"(?<![\d.]){re.escape(value)}(?!\d)", found), (number, value)


def test_what_the_papers_show_is_linked_to_the_figures_of_each_model(tmp_path):
    for name, model in (("k_sweep_a_demo", "m/a"), ("k_sweep_a_stsb", "m/a"), ("m_sweep_b", "m/b")):
        (tmp_path / f"{name}.json").write_text(json.dumps(record(name, model)))
    (tmp_path / "coverage.csv").write_text(
        "source,item,shows,figures,note\n"
        "DySem,Figure 9,dimensions,k_sweep;m_sweep,\n"
        "DySem,Figure 6,languages,m_sweep,\n"
        "CP,Figure 1,the idea,,a drawing\n"
    )
    write_gallery(tmp_path, notebooks())
    text = (tmp_path / "README.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith(("| DySem", "| CP"))
    ]
    both = "[k sweep demo](#k_sweep_a_demo), [k sweep stsb](#k_sweep_a_stsb)"
    assert [[cell.replace("&#95;", "_") for cell in row] for row in rows] == [
        ["DySem, Figure 9", "dimensions", "[m sweep](#m_sweep_b)", both, ""],
        ["DySem, Figure 6", "languages", "[m sweep](#m_sweep_b)", "not made", ""],
        ["CP, Figure 1", "the idea", "–", "–", "a drawing"],
    ]


def test_a_figure_of_the_demo_set_stands_beside_a_papers_only_where_there_is_no_other(tmp_path):
    source = load_data("demo").source
    for name, model in (("k_sweep_a_demo", "m/a"), ("k_sweep_a_stsb", "m/a"), ("k_sweep_b", "m/b")):
        made = record(name, model)
        if name != "k_sweep_a_stsb":
            made["data"][0]["source"] = source
        (tmp_path / f"{name}.json").write_text(json.dumps(made))
    (tmp_path / "coverage.csv").write_text(
        "source,item,shows,figures,note\nDySem,Figure 9,dimensions,k_sweep,\n"
    )
    write_gallery(tmp_path, notebooks())
    text = html.unescape((tmp_path / "README.md").read_text())
    assert "\n| in the paper | what it shows | m/a | m/b | note |\n" in text
    found = "[k sweep stsb](#k_sweep_a_stsb) | [k sweep](#k_sweep_b) |"
    assert f"\n| DySem, Figure 9 | dimensions | {found}  |\n" in text


def test_every_kind_of_figure_that_covers_the_papers_is_one_that_a_notebook_makes():
    rows = pd.read_csv(REPOSITORY / "figures" / "coverage.csv").fillna("")
    kinds = {kind for row in rows["figures"] for kind in row.split(";") if kind}
    made = {path.stem.partition("_")[2] for path in notebooks().values()}
    made |= {kind for kinds_of in ALSO.values() for kind in kinds_of}
    assert kinds <= made
    assert all(rows["figures"].ne("") | rows["note"].ne(""))


# --- other samples


def rows_of(scores, languages="en/fr"):
    table = pd.DataFrame({"task": ["a", "a", "b"], "m": [1, 2, 1], "spearman": scores})
    return table.assign(languages=languages)


def test_the_spread_over_seeds_is_that_of_the_same_rows():
    tables = [rows_of([50.0, 60.0, 70.0]), rows_of([51.0, 64.0, 70.5], "en/de").iloc[::-1]]
    assert spread(tables) == ("spearman", 1.0, 4.0)
    drawn = pd.concat([rows_of([40.0, 60.0, 70.0]), rows_of([60.0, 60.0, 70.0])])  # random draws
    assert spread([drawn, rows_of([50.0, 60.0, 71.0])]) == ("spearman", 0.0, 1.0)
    assert spread([tables[0], tables[0].drop(columns="spearman")]) is None
    assert spread([tables[0], rows_of([1.0, 2.0, 3.0]).assign(task="c")]) is None


def test_the_gallery_says_how_far_rows_move_with_the_seed(tmp_path):
    name = "m_sweep_tiny-1b_demo-24"
    (tmp_path / f"{name}.json").write_text(json.dumps(record(name)), encoding="utf-8")
    rows_of([50.0, 60.0, 70.0]).to_csv(tmp_path / f"{name}.csv", index=False)
    write_gallery(tmp_path, notebooks())
    assert "random samples" not in (tmp_path / "README.md").read_text()
    for seed, scores in ((1, [51.0, 61.0, 71.0]), (2, [50.0, 63.0, 70.0])):
        folder = tmp_path / "seeds" / str(seed)
        folder.mkdir(parents=True)
        rows_of(scores).to_csv(folder / f"{name}.csv", index=False)
    write_gallery(tmp_path, notebooks())
    said = "over 3 random samples of the pairs a row's spearman moves by 1 (median) and at most 3"
    assert said in html.unescape((tmp_path / "README.md").read_text())
    assert said in html.unescape((tmp_path / "index.html").read_text())


# --- which code made the figures

NEW = {"code": "0123456789abcdef", "git_commit": "7e09fc8" + "0" * 33}
OTHER = {"code": "fedcba9876543210", "git_commit": "2f59853" + "0" * 33}
CHANGED = {"code": "00112233445566ff", "git_commit": NEW["git_commit"] + "+"}
OLD = {"git_commit": "09629080" + "0" * 32}
ONE = "One version of the code made all figures here ({}): "
SEVERAL = "{} of the code made the figures here ({}): "


@pytest.mark.parametrize(
    ("of_figures", "said"),
    [
        ([NEW] * 2, ONE.format("2 figures") + "digest 0123456789abcdef (commit 7e09fc80)."),
        # Commits that change nothing that makes figures; a folder without git.
        (
            [NEW, NEW | {"git_commit": OTHER["git_commit"]}, NEW | {"git_commit": None}],
            ONE.format("3 figures") + "digest 0123456789abcdef (commits 7e09fc80, 2f598530).",
        ),
        (
            [NEW | {"git_commit": None}],
            ONE.format("1 figure") + "digest 0123456789abcdef (no commit).",
        ),
        (
            [CHANGED],
            ONE.format("1 figure") + "digest 00112233445566ff (commit 7e09fc80 with changes).",
        ),
        ([OLD] * 3, ONE.format("3 figures") + "commit 09629080."),
        (
            [OTHER, NEW, NEW],
            SEVERAL.format("2 versions", "3 figures")
            + "2 by digest 0123456789abcdef (commit 7e09fc80), "
            + "1 by digest fedcba9876543210 (commit 2f598530).",
        ),
        (
            [NEW, OLD, OLD, {}],
            SEVERAL.format("At least 2 versions", "4 figures")
            + "2 by commit 09629080, 1 by digest 0123456789abcdef (commit 7e09fc80), "
            + "1 without saying by which.",
        ),
        # What had been changed since a commit is not known without a digest.
        (
            [{"git_commit": OLD["git_commit"] + "+"}] * 2,
            SEVERAL.format("At least 1 version", "2 figures")
            + "2 by commit 09629080 with changes.",
        ),
        (
            [{}, {"git_commit": None}],
            "Their records do not say which code made the figures here (2 figures).",
        ),
    ],
)
def test_the_gallery_says_whether_one_code_made_its_figures(tmp_path, of_figures, said):
    for number, made_by in enumerate(of_figures):
        # The last of several is of another seed.
        folder = tmp_path / "seeds" / "1" if 0 < number == len(of_figures) - 1 else tmp_path
        folder.mkdir(parents=True, exist_ok=True)
        made = record(f"components_{number}_tiny-1b_demo-24", **made_by)
        (folder / f"{made['name']}.json").write_text(json.dumps(made), encoding="utf-8")
    write_gallery(tmp_path, notebooks())
    for page in ("README.md", "index.html"):
        text = html.unescape((tmp_path / page).read_text("utf-8"))
        assert f"{said}\n" in text.replace("</p>", "\n")
        assert "by dysem-lab figures --from NAME.json" in text


def test_a_gallery_of_no_figures_says_nothing_of_their_code(tmp_path):
    write_gallery(tmp_path, notebooks())
    assert "code" not in (tmp_path / "README.md").read_text("utf-8")


def committed():
    folder = REPOSITORY / "figures"
    return [*sorted(folder.glob("*.json")), *records_of_seeds(folder)]


def test_the_committed_figures_are_of_one_code_once_all_say_of_which():
    """Records of before had no digest; from the day that all have one, it is one, committed.

    A model that a user adds later has one code of its own.
    """
    records = records_of(committed())
    page = html.unescape((REPOSITORY / "figures" / "README.md").read_text("utf-8"))
    assert said_of_code(records) in page
    if all("code" in made for made in records):
        codes = {}
        for made in records:
            model = made["model"]["name"]
            codes.setdefault("ours" if model in EMBEDDED else model, set()).add(made["code"])
        assert {model: len(of_model) for model, of_model in codes.items()} == dict.fromkeys(
            codes, 1
        )
        assert not [made["name"] for made in records if (made["git_commit"] or "+")[-1] == "+"]


def lacking(file):
    """What a figure's record does not say of how the figure is made again, or has not beside it."""
    made = json.loads(file.read_text("utf-8"))
    missing = [
        key
        for key in ("code", "git_commit", "versions", "machine", "time", "caption")
        if not made.get(key)
    ]
    missing += [key for key in ("notebook", "parameters") if not made.get("made_by", {}).get(key)]
    missing += [
        key for key in ("name", "fingerprint", "dtype", "weights") if not made["model"].get(key)
    ]
    missing += [
        f"{key} of {data.get('label')}"
        for data in made["data"]
        for key in ("digest", *(["origins"] if "n_pairs" in data else []))
        if not data.get(key)
    ]
    return missing + [kind for kind in (".csv", ".png") if not file.with_suffix(kind).is_file()]


def test_a_committed_figure_says_what_it_takes_to_make_it_again():
    """Of whichever model, so also of one that somebody adds; older records have no code."""
    files = [file for file in committed() if "code" in json.loads(file.read_text("utf-8"))]
    assert {file.name: found for file in files if (found := lacking(file))} == {}
