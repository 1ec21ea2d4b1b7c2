"""The site: its strict build, and what it shows of notebooks that were run."""

import json
import os
import re
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import dysem_lab
from tests.conftest import REPOSITORY
from tests.notebooks.test_browser import CHROMIUM, FLAGS, SCREENSHOTS, SECONDS
from tests.system.test_docs import EXPLORER, GALLERY, HOMES, PAGES

for module in ("mkdocs", "material", "mkdocstrings_handlers.python", "latex2mathml", "nbclient"):
    pytest.importorskip(module, reason=f"no {module}: pip install -e '.[docs]'")

import notebook_pages  # noqa: E402 - its absence is said above
import run_notebooks  # noqa: E402
from run_notebooks import AS_FOUND, TEACH, run_lesson, solved  # noqa: E402

FIGURE = {
    "data": [{"type": "bar", "x": ["a", "</script>"], "y": [1, 3]}],
    "layout": {"title": {"text": "One<br><sup>of two</sup>"}, "height": 300, "width": 1000},
}
TABLE = (
    '<style scoped>th {}</style><table border="1" class="dataframe"><tr><td>8.25</td></tr></table>'
)
WIDGET = "application/vnd.jupyter.widget-view+json"
# What a kernel sends: a figure with the page that shows it elsewhere, and more.
SENT = [
    new_output("stream", name="stdout", text="printed <first>\n"),
    new_output("stream", name="stdout", text="and then\n"),
    new_output("stream", name="stderr", text="a bar of progress"),
    new_output("display_data", {WIDGET: {"model_id": "1"}, "text/plain": "a widget"}),
    new_output("display_data", {notebook_pages.FIGURE: FIGURE, "text/html": "another page"}),
    new_output(
        "execute_result", {"text/html": f"<style scoped></style>{TABLE}"}, execution_count=1
    ),
    new_output("display_data", {"text/plain": "Finding(x)"}),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return a folder as of `run_notebooks`: of notebook 01 and lesson 0, none of them was run."""
    folder = tmp_path_factory.mktemp("runs")
    (job,) = [j for j in run_notebooks.figure_jobs(folder) if j.notebook.stem.startswith("01")]
    lesson, copy = next(iter(run_notebooks.lesson_copies(folder).items()))
    figures = nbformat.read(job.notebook, as_version=4)
    figures.cells.insert(3, new_code_cell("k = 1024", metadata={"tags": ["injected-parameters"]}))
    course = nbformat.read(lesson, as_version=4)
    solved(course, (TEACH / "solutions" / "lesson0.py").read_text("utf-8"))
    for notebook, path in ((figures, job.executed), (course, copy)):
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = SENT
        path.parent.mkdir()
        nbformat.write(notebook, path)
    return folder


@pytest.fixture(scope="module")
def site(tiny_lens, runs, tmp_path_factory):
    """Return the built site, with the explorers of a random model: a page that is quickly made."""
    folder = tmp_path_factory.mktemp("site")
    pairs = dysem_lab.load_data("demo", languages=("en", "fr")).head(3)
    study = dysem_lab.Study(tiny_lens, pairs, languages=("en", "fr"))
    dysem_lab.export_explorer(study, folder / "page", explained=1, progress=False)
    (folder / "films").mkdir()
    (folder / "films" / "page.webm").write_bytes(b"a film")
    about = {"title": "A <page>.", "seconds": 61, "said": ["One.", "Two."]}
    about |= {"width": 1280, "height": 784}
    (folder / "films" / "page.json").write_text(json.dumps(about), "utf-8")
    out = folder / "site"
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "")
    nowhere = dict.fromkeys(proxies, "http://127.0.0.1:9")  # a request would fail the build
    made = {"DYSEM_LAB_PAGE": str(folder / "page"), "DYSEM_LAB_RUNS": str(runs)}
    made |= {"DYSEM_LAB_FILMS": str(folder / "films")}
    environment = {**os.environ, **nowhere, **made}
    done = subprocess.run(build, cwd=REPOSITORY, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return out


def test_the_site_needs_no_network(site):
    pages = {path: path.read_text("utf-8") for path in site.rglob("*.html")}
    assert len(pages) > len(PAGES) + 40
    for path, text in pages.items():
        assert not re.search(r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//', text), path
        assert not re.search(r'<link[^>]+rel="(?:stylesheet|preconnect)"[^>]+//', text), path
        assert 'class="arithmatex"' not in text, path
    assert (site / "mathematics" / "index.html").read_text("utf-8").count("<math ") > 30
    everything = "\n".join(pages.values())
    for name in dysem_lab.__all__:
        assert f'id="dysem_lab.{HOMES[name]}.{name}"' in everything, name
    gallery = (site / "figures" / "index.html").read_text("utf-8")
    images = re.findall(r'<img[^>]+src="([^"]+)"', gallery)
    assert len(images) == (REPOSITORY / GALLERY).read_text("utf-8").count("![")
    for image in images:
        assert (site / "figures" / image).is_file(), image
    assert not list(site.glob("*.py"))
    explorer = (site / EXPLORER).read_text("utf-8")
    (lesson,) = re.findall(r'href="([\w./]+/0_whole_game/index.html)"', explorer)
    assert "the whole game" in (site / EXPLORER).parent.joinpath(lesson).read_text("utf-8")
    (lesson,) = re.findall(r'href="([\w./]+)#lesson-0"', explorer)
    course = (site / EXPLORER).parent / lesson
    assert 'id="lesson-0"' in course.read_text("utf-8")
    assert "open_problems.ipynb" in course.read_text("utf-8")
    for name in re.findall(r'(?:src|href)="([\w.]+)"', explorer):
        assert (site / EXPLORER).with_name(name).is_file(), name


def test_a_film_stands_where_it_belongs_with_what_one_sees(site):
    shown = (site / "guide" / "page" / "index.html").read_text("utf-8")
    (address,) = re.findall(r'<video controls muted [^>]*src="([^"]+)"', shown)
    assert (site / "guide" / "page" / address).read_bytes() == b"a film"
    assert "A &lt;page&gt;. Silent, 61 seconds" in shown
    assert "<li>One.</li><li>Two.</li>" in shown
    for name in ("explore", "teach"):  # whose films were not made
        page = (site / "guide" / name / "index.html").read_text("utf-8")
        assert "<video" not in page
        assert "film:" not in page


def article(site, name):
    """Return what a page of a notebook says, without what is around it."""
    text = (site / "notebooks" / name / "index.html").read_text("utf-8")
    return text[text.index("<article") : text.index("</article>")]


def test_a_notebook_that_was_run_shows_what_it_showed(site):
    page = article(site, "01_decomposition")
    code_cells = 6
    assert page.count("printed &lt;first&gt;\nand then</pre>") == code_cells - 1  # not of the save
    assert page.count("<table><tr><td>8.25</td></tr></table>") == code_cells - 1
    assert "Not run" not in page
    for unwanted in ("a bar of progress", "a widget", "another page", "scoped", "<h1>k"):
        assert unwanted not in page
    drawn = re.findall(r'<script type="application/json">(.*?)</script>', page)
    assert [json.loads(one) for one in drawn] == [FIGURE] * (code_cells - 1)
    (plotly,) = re.findall(r'src="([\w./]*plotly.min.js)"', page)
    assert (site / "notebooks" / "01_decomposition" / plotly).stat().st_size > 1e6
    assert "its figures in the gallery" in page


def test_a_lesson_has_its_solutions_and_hints_folded(site):
    page = article(site, "teach/0_whole_game").replace(">\n<", "><")
    folded = re.findall(
        r'<details class="solution"><summary>Solution</summary>(.*?)</details>', page, re.DOTALL
    )
    assert len(folded) == 5 + 3  # exercises, and questions of the quiz
    assert "tree" in folded[0]
    assert all("printed &lt;first&gt;" in one for one in folded)
    outside = re.sub(r"<details.*?</details>", "", page, flags=re.DOTALL)
    assert "uprooted" not in outside
    assert re.search(r"<code>others &lt; similarity</code>", page)  # of a hint: it is Markdown


def test_what_was_not_run_says_so(site):
    for name in ("02_random_vs_semantic", "teach/1_residual_stream"):
        page = article(site, name)
        assert "without a run of this notebook" in page
        assert "printed" not in page
        assert "plotly.min.js" not in page
    listed = article(site, ".")
    assert listed.count("not run here") == len(run_notebooks.figure_jobs(run_notebooks.RUNS)) - 1


def test_no_mark_of_markdown_or_of_a_notebook_is_left(site):
    for path in sorted((site / "notebooks").rglob("index.html")):
        page = article(site, path.parent.relative_to(site / "notebooks"))
        assert "data-output" not in page
        assert 'href="' in page
        assert not re.search(r'href="[^"]+\.(?:ipynb|md)[#"]', page), path
        prose = re.sub(r"<(pre|code|script|math)\b.*?</\1>", "", page, flags=re.DOTALL)
        assert not re.search(r"\$|\*\*|`|\]\(|^- ", re.sub(r"<[^>]+>", "", prose), re.M), path


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (400, "dark")])
def test_figures_are_drawn_as_wide_as_there_is_room(site, width, theme):
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no browser: chromium is not installed")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    look = {"viewport": {"width": width, "height": 900}, "color_scheme": theme}
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page = browser.new_context(offline=True, **look).new_page()
        page.set_default_timeout(SECONDS * 1000)
        complaints = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto((site / "notebooks" / "01_decomposition" / "index.html").as_uri())
        box = page.locator(".figure-of-plotly").nth(2)
        box.scroll_into_view_if_needed()
        box.locator(".main-svg").first.wait_for()
        page.screenshot(path=SCREENSHOTS / f"site-notebook-{width}-{theme}.png")
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        drawn = box.locator(".main-svg").first.bounding_box()["width"]
        assert drawn == pytest.approx(max(640, box.bounding_box()["width"]), abs=2)
        assert "One" in box.get_attribute("aria-label")
        browser.close()
    assert complaints == []


# --- running


@pytest.fixture
def lesson(tmp_path):
    """Return the notebook of a lesson of one exercise, whose check wants 4."""
    cells = [
        new_markdown_cell("# Lesson 0: a tiny one"),
        new_code_cell("from checks import check"),
        new_code_cell("x = ...\ncheck(1, x)", metadata={"tags": ["exercise"]}),
        new_code_cell("2 * x"),
    ]
    for name in ("checks", "solutions"):
        (tmp_path / name).mkdir()
    check = "def check(number, x):\n    assert x == 4, f'{x} is wrong'\n    return 'solved'"
    (tmp_path / "checks" / "__init__.py").write_text(check, "utf-8")
    (tmp_path / "solutions" / "lesson0.py").write_text(
        "# %% exercise 1\nx = 4\ncheck(1, x)\n", "utf-8"
    )
    path = tmp_path / "0_tiny.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_a_lesson_runs_with_its_solutions_once(lesson, tmp_path, monkeypatch):
    copy = tmp_path / "runs" / "0_tiny.ipynb"
    assert run_lesson(lesson, copy) == ""
    exercise, doubled = nbformat.read(copy, as_version=4).cells[2:]
    assert exercise.metadata[AS_FOUND] == "x = ...\ncheck(1, x)"
    assert exercise.outputs[0].data["text/plain"] == "'solved'"
    assert doubled.outputs[0].data["text/plain"] == "8"
    assert notebook_pages.run_of(lesson, copy) is not None

    def called(*arguments, **options):
        raise AssertionError("it ran again")

    with monkeypatch.context() as patched:
        patched.setattr(run_notebooks, "NotebookClient", called)
        assert run_lesson(lesson, copy) == ""
    solution = tmp_path / "solutions" / "lesson0.py"
    solution.write_text("# %% exercise 1\nx = 5\ncheck(1, x)\n", "utf-8")
    assert "5 is wrong" in run_lesson(lesson, copy)
    # Of other cells than were run, nothing is shown.
    changed = nbformat.read(lesson, as_version=4)
    changed.cells[3].source = "3 * x"
    nbformat.write(changed, lesson)
    assert notebook_pages.run_of(lesson, copy) is None


def test_a_copy_that_is_cut_or_ended_in_an_error_is_not_shown(lesson, tmp_path):
    copy = tmp_path / "copy.ipynb"
    copy.write_text(lesson.read_text("utf-8")[:100], "utf-8")
    assert notebook_pages.run_of(lesson, copy) is None
    notebook = nbformat.read(lesson, as_version=4)
    notebook.cells[3].outputs = [new_output("error", ename="E", evalue="", traceback=[])]
    nbformat.write(notebook, copy)
    assert notebook_pages.run_of(lesson, copy) is None


@pytest.mark.parametrize(
    "path", run_notebooks.lesson_copies(run_notebooks.RUNS), ids=lambda p: p.stem
)
def test_every_exercise_and_question_has_a_solution(path):
    solutions = TEACH / "solutions" / f"lesson{path.stem[0]}.py"
    notebook = solved(nbformat.read(path, as_version=4), solutions.read_text("utf-8"))
    changed = [cell for cell in notebook.cells if AS_FOUND in cell.metadata]
    assert len(changed) > 5
    for cell in changed:
        compile(cell.source, path.name, "exec")
        assert "..." in cell.metadata[AS_FOUND]
        assert not re.search(r"= \.\.\.$|: \.\.\.$|, \.\.\.\)", cell.source, re.MULTILINE)
