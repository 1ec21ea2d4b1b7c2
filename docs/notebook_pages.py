"""The notebooks as pages of the site: what `make docs` has run, with outputs, figures, solutions.

Notebooks are not run here. A copy that `docs/run_notebooks.py` has run is shown while its cells are
still those of the notebook; a page without one says so. Outputs never pass through Markdown: a page
has a mark for each, which becomes its HTML at the end.
"""

import html
import json
import os
import re
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from plotly.offline import get_plotlyjs

from dysem_lab import paths
from run_notebooks import AS_FOUND, NOTEBOOKS, RUNS, TEACH, figure_jobs, lesson_copies

FIGURE = "application/vnd.plotly.v1+json"
PLOTLY = "notebooks/plotly.min.js"
DRAW = "notebooks/figures.js"
MINE = "notebooks/"  # where the pages are
TAG = re.compile(r"<[^>]+>")
OUTPUTS: dict[str, list[str]] = {}  # page → HTML of its outputs
NOT_RUN = (
    '!!! note "Not run"\n\n    This site was built without a run of this notebook, so it shows no '
    "results. `make docs` runs it; `make lab` opens it."
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each figure notebook and lesson, their lists, and what draws figures."""
    OUTPUTS.clear()
    runs = Path(os.environ.get("DYSEM_LAB_RUNS", RUNS))
    figures = {job.notebook: job.executed for job in figure_jobs(runs)}
    lessons = lesson_copies(runs)
    shown = {path: run_of(path, copy) for path, copy in {**figures, **lessons}.items()}
    gallery = (NOTEBOOKS.parent / "figures" / "README.md").read_text(encoding="utf-8")
    for path, run in shown.items():
        back = "README.md" if path in lessons else "index.md"
        head = [f"[{'The course' if path in lessons else 'All notebooks'}]({back})"]
        if path in figures and f"\n## {number(path)}. {title(path)}\n" in gallery:
            head.append(f"[its figures in the gallery](../figures/README.md#{anchor(path)})")
        _add(files, config, path, page_of(path, run, " · ".join(head)))
    said = "*Its cells are yours to run: each takes minutes.*"
    problems = TEACH / "open_problems.ipynb"
    head = f"[The course](README.md)\n\n{said}"
    _add(files, config, problems, page_of(problems, None, head, ""))
    made = {"index.md": index(figures, shown)}
    for name in ("README.md", "TEACHING.md"):
        text = (TEACH / name).read_text(encoding="utf-8")
        text = text.replace("](solutions)", "](README.md)")
        made[f"teach/{name}"] = re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", text)
    for name, text in made.items():
        files.append(File.generated(config, MINE + name, content=text))
    files.append(File.generated(config, PLOTLY, content=get_plotlyjs()))
    script = Path(__file__).with_name("figures.js")
    files.append(File.generated(config, DRAW, abs_src_path=str(script)))
    return files


def on_page_content(content: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put outputs where their marks are, and what draws their figures below."""
    outputs = OUTPUTS.get(page.file.src_uri)
    if outputs is None:
        return content
    content = re.sub(
        r'<div data-output="(\d+)"></div>', lambda mark: outputs[int(mark[1])], content
    )
    if 'class="figure-of-plotly"' in content:
        for name in (PLOTLY, DRAW):
            file = files.get_file_from_path(name)
            content += f'<script defer src="{file.url_relative_to(page.file)}"></script>'
    return content


def run_of(path: Path, copy: Path) -> Any | None:
    """Return the notebook that was run, or None where it has other cells than the notebook now."""
    try:
        run = nbformat.read(copy, as_version=4)
    except (OSError, ValueError, nbformat.reader.NotJSONError):  # none, or one that is cut
        return None
    run.cells = [
        cell for cell in run.cells if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    before = [cell.metadata.get(AS_FOUND, cell.source) for cell in run.cells]
    failed = any(output.output_type == "error" for cell in run.cells for output in outputs_of(cell))
    now = [cell.source for cell in nbformat.read(path, as_version=4).cells]
    return None if failed or before != now else run


def page_of(path: Path, run: Any | None, head: str, not_run: str = NOT_RUN) -> str:
    """Return a notebook as Markdown, its outputs as marks; keep these for the page's HTML."""
    notebook = nbformat.read(path, as_version=4) if run is None else run
    outputs = OUTPUTS.setdefault(page_name(path), [])
    parts = [f"---\ntitle: {json.dumps(title(path))}\nhide: [navigation]\n---", head]
    for place, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source.replace("<details>", '<details markdown="1">'))
            parts += [not_run] if run is None and place == 0 and not_run else []
            continue
        found = cell.metadata.get(AS_FOUND)
        parts.append(fenced(cell.source if found is None else found))
        marks = []
        for shown in [] if cell.source.endswith(".save(out)") else map(html_of, outputs_of(cell)):
            if shown:
                marks.append(f'<div data-output="{len(outputs)}"></div>')
                outputs.append(shown)
        if found is None:
            parts += marks
        else:
            inside = "\n\n".join([fenced(cell.source), *marks])
            parts.append(
                f'<details class="solution" markdown="1"><summary>Solution</summary>\n\n{inside}'
                "\n\n</details>"
            )
    return "\n\n".join(parts)


def outputs_of(cell: Any) -> list[Any]:
    """Return the outputs of a cell; what a kernel printed in pieces is one again."""
    found: list[Any] = []
    for output in cell.get("outputs", []):
        streams = found and output.output_type == found[-1].output_type == "stream"
        if streams and output.name == found[-1].name:
            found[-1] = nbformat.from_dict({**found[-1], "text": found[-1].text + output.text})
        else:
            found.append(output)
    return found


def html_of(output: Any) -> str:
    """Return what a cell has shown as HTML; "" for progress bars, widgets and warnings."""
    if output.output_type == "stream":
        text = output.text.strip("\n") if output.name == "stdout" else ""
        text = text.replace(str(paths.cache_dir()), "the cache")  # it is of one machine
        return f'<pre class="printed">{html.escape(text)}</pre>' if text else ""
    data = output.get("data", {})
    if FIGURE in data:
        given = {name: data[FIGURE][name] for name in ("data", "layout")}
        said = TAG.sub(" ", str(given["layout"].get("title", {}).get("text", "figure")))
        drawn = json.dumps(given, separators=(",", ":")).replace("<", "\\u003c")
        height = int(given["layout"].get("height", 450))
        return (
            f'<div class="figure-of-plotly" role="figure" aria-label="{html.escape(said)}" '
            f'style="min-height:{height}px" data-search-exclude>'
            f'<script type="application/json">{drawn}</script></div>'
        )
    if "application/vnd.jupyter.widget-view+json" in data:
        return ""
    if "text/html" in data:
        table = re.sub(r'<table border="1" class="dataframe">', "<table>", data["text/html"])
        table = re.sub(r"<style scoped>.*?</style>", "", table, flags=re.DOTALL)
        return f'<div class="shown" data-search-exclude>{table}</div>'
    if "text/plain" in data:
        return f'<pre class="printed">{html.escape(data["text/plain"])}</pre>'
    return ""


def index(figures: dict[Path, Path], shown: dict[Path, Any | None]) -> str:
    """Return the list of the figure notebooks, by the question that each asks."""
    rows = ["| | question | |", "|---|---|---|"]
    for path in figures:
        said = "" if shown[path] else "not run here"
        rows.append(f"| {number(path)} | [{title(path)}]({path.stem}.md) | {said} |")
    return "\n".join(
        [
            "---\nhide: [toc]\n---",
            "# Notebooks\n",
            "Each asks one question, has one cell of parameters, and ends in a figure with its "
            "numbers. Here they are as they ran with these parameters, most on the demo set: 132 "
            "pairs (scores assigned by their writers), so the intervals are wide. The embedded "
            "models have 4-bit weights, dequantised, computed in float32. Larger runs are in the "
            "[gallery](../figures/README.md), the lessons in [the course](teach/README.md).\n",
            *rows,
            "\nThe notebooks of the [explorers](../guide/explore.md#explorers) need a kernel: "
            "`make lab` opens them, and [a page](../guide/page.md) does without.",
        ]
    )


def title(path: Path) -> str:
    """Return the title of a notebook."""
    first = nbformat.read(path, as_version=4).cells[0].source
    return first.splitlines()[0].removeprefix("# ")


def number(path: Path) -> str:
    """Return the number of a notebook."""
    return path.stem.partition("_")[0]


def anchor(path: Path) -> str:
    """Return where the gallery has a notebook's figures."""
    plain = re.sub(r"[^\w\s-]", "", f"{number(path)}. {title(path)}").strip().lower()
    return re.sub(r"[-\s]+", "-", plain)


def page_name(path: Path) -> str:
    """Return the page of a notebook."""
    return f"{MINE}{path.relative_to(NOTEBOOKS).with_suffix('.md').as_posix()}"


def fenced(source: str) -> str:
    """Return code as a block."""
    return f"````python\n{source}\n````"


def _add(files: Files, config: MkDocsConfig, path: Path, text: str) -> None:
    files.append(File.generated(config, page_name(path), content=text))
