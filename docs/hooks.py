"""What the site takes from elsewhere: gallery, explorers, names, options, lessons; MathML."""

import ast
import html
import json
import os
import re
from pathlib import Path

import typer
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import dysem_lab
from dysem_lab.cli import cli
from dysem_lab.data.sts import load_data
from dysem_lab.models.embedded import EMBEDDED, installed_files
from dysem_lab.models.loading import DEFAULT_MODEL
from dysem_lab.pages.export import EXAMPLES, USUAL, copy_pages, export_explorer, is_whole
from dysem_lab.questions.study import Study

REPOSITORY = Path(__file__).resolve().parent.parent
STUB = (REPOSITORY / "dysem_lab" / "__init__.pyi").read_text(encoding="utf-8")
HOMES = {name: home for home, name in re.findall(r"^from \.([\w.]+) import (\w+)", STUB, re.M)}
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
NAME = re.compile(r"<code>((?:dysem_lab|dl)\.[\w.]+)</code>")
FILM = re.compile(r"<!-- film: (\w+) -->")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the gallery, with the files that it links to, and the explorers as a static page."""
    folder = REPOSITORY / "figures"
    linked = re.findall(r"\]\(([^)#]+)\)", (folder / "README.md").read_text(encoding="utf-8"))
    for name in ("README.md", *sorted(set(linked))):
        files.append(File.generated(config, f"figures/{name}", abs_src_path=str(folder / name)))
    page = explorer_page()
    for path in filter(Path.is_file, sorted(page.rglob("*"))):
        name = f"explorer/{path.relative_to(page).as_posix()}"
        if name == "explorer/index.html":
            whole = with_lesson(path.read_text(encoding="utf-8"))
            files.append(File.generated(config, name, content=whole))
        else:
            files.append(File.generated(config, name, abs_src_path=str(path)))
    for path in sorted(films().glob("*.webm")):
        files.append(File.generated(config, f"films/{path.name}", abs_src_path=str(path)))
    return files


def films() -> Path:
    """Return the folder of the silent films: what `make films` made, or DYSEM_LAB_FILMS."""
    return Path(os.environ.get("DYSEM_LAB_FILMS", REPOSITORY / "build" / "films"))


def explorer_page() -> Path:
    """Return the folder of the page that computes the explorers in a browser.

    It is the one that `dysem-lab export-explorer --out build/explorer` made, or that DYSEM_LAB_PAGE
    names. Where nobody has, a small one is made here: one model, a pair of each phenomenon, three
    languages.
    """
    whole = Path(os.environ.get("DYSEM_LAB_PAGE", REPOSITORY / "build" / "explorer"))
    page = whole if is_whole(whole) else REPOSITORY / "build" / "explorer-small"
    if not is_whole(page):
        demo = load_data("demo", languages=USUAL)
        kinds = [subset.partition("/")[0] for subset in demo.subset]
        pairs = demo.select([kinds.index(kind) for kind in dict.fromkeys(kinds)])
        if not installed_files(EMBEDDED[DEFAULT_MODEL]):
            page.mkdir(parents=True, exist_ok=True)
            (page / "index.html").write_text(
                "<!doctype html><title>dysem-lab</title><p>The embedded model was not there when "
                "this site was built: make a page with dysem-lab export-explorer."
            )
            return page
        export_explorer(Study(data=pairs, languages=USUAL), page, explained=len(EXAMPLES))
    copy_pages(page)
    return page


def with_lesson(page: str) -> str:
    """Return the explorers' page with a way to lesson 0, which only this site has beside it."""
    link = (
        '<p class="quiet">What does such a number say? <a href="../notebooks/teach/0_whole_game/'
        'index.html">Lesson 0 of the course</a> asks it of two sentences of your own, in fifteen '
        "minutes; "
        '<a href="../guide/teach/index.html#lesson-0">how to open it</a>.</p>\n'
    )
    return page.replace("</main>", f"{link}</main>")


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put what is made here where a page asks for it."""
    for marker, text in MADE.items():
        if f"<!-- {marker} -->" in markdown:
            markdown = markdown.replace(f"<!-- {marker} -->", text())

    def shown(mark: re.Match[str]) -> str:
        file = files.get_file_from_path(f"films/{mark[1]}.webm")
        return film(mark[1], file.url_relative_to(page.file)) if file else ""

    return FILM.sub(shown, markdown)


def film(name: str, address: str) -> str:
    """Return a silent film with its caption; what one sees in it, in words too."""
    about = json.loads((films() / f"{name}.json").read_text(encoding="utf-8"))
    title, *said = map(html.escape, [about["title"], *about["said"]])
    seen = "".join(f"<li>{sentence}</li>" for sentence in said)
    return (
        f'<figure class="film"><video controls muted preload="metadata" src="{address}" '
        f'width="{about["width"]}" height="{about["height"]}" aria-label="{title}"></video>\n'
        f"<figcaption>{title} Silent, {about['seconds']} seconds; waiting is left out.\n"
        f"<details><summary>What one sees, in words</summary><ol>{seen}</ol></details>"
        "</figcaption></figure>"
    )


def on_page_content(content: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the page with formulas as MathML, and package names in code as links."""
    return NAME.sub(_linked, FORMULA.sub(_mathml, content))


def readme_example() -> str:
    """Return the README's example in Python with what it prints."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    return "\n\n".join(re.findall(r"```(?:python|text)\n.*?```", readme, re.DOTALL)[:2])


def public_names() -> str:
    """Return a table of the names that `import dysem_lab` gives, by module, with a line each."""
    rows = ["| name | module | what it is |", "|---|---|---|"]
    for name in dysem_lab.__all__:
        path = f"dysem_lab.{HOMES[name]}"
        rows.append(f"| [`{name}`][{path}.{name}] | `{path}` | {_first_line(HOMES[name], name)} |")
    return "\n".join(rows)


def explorers() -> str:
    """Return a table of the functions that return an explorer."""
    rows = ["| explorer | what it is |", "|---|---|"]
    for path in sorted((REPOSITORY / "dysem_lab" / "explorers").glob("*_explorer.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("explore_"):
                home = f"explorers.{path.stem}"
                target = f"dysem_lab.{home}.{node.name}"
                rows.append(f"| [`{node.name}`][{target}] | {_first_line(home, node.name)} |")
    return "\n".join(rows)


def lessons() -> str:
    """Return a table of the course, with the time that each notebook says it takes."""
    rows = ["| lesson | notebook | time |", "|---|---|---|"]
    for path in sorted((REPOSITORY / "notebooks" / "teach").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "".join(line for cell in cells for line in [*cell["source"], "\n"])
        title = re.search(r"^# (.+)$", text, re.MULTILINE)
        time = re.search(r"\*\*Time\*\* (.+)$", text, re.MULTILINE)
        columns = [found[1] if found else "" for found in (title, time)]
        rows.append(f"| {columns[0]} | `{path.name}` | {columns[1]} |")
    return "\n".join(rows)


def command_line() -> str:
    """Return a section for each command of `dysem-lab`: what it does, and its options."""
    sections = []
    for name, command in commands_of(typer.main.get_command(cli)).items():
        rows = ["| option | default | what it does |", "|---|---|---|"]
        for option in command.params:
            names = ", ".join(f"`{text}`" for text in option.opts if option.name != "help")
            default = getattr(option, "show_default", None)
            if not isinstance(default, str):
                default = "" if option.default in (None, False, "") else str(option.default)
            rows.append(f"| {names} | {default} | {getattr(option, 'help', None) or ''} |")
        example = (command.epilog or "").removeprefix("Example:")
        examples = "\n".join(part.strip() for part in example.split(" or: "))
        sections += [f"## {name}", command.help or "", f"```sh\n{examples}\n```", "\n".join(rows)]
    return "\n\n".join(sections)


def commands_of(group: typer.core.TyperGroup) -> dict[str, typer.core.TyperCommand]:
    """Return each command by its words, those of a group too."""
    found = {}
    for name, command in group.commands.items():
        inner = commands_of(command) if hasattr(command, "commands") else {"": command}
        found |= {f"{name} {word}".strip(): of for word, of in inner.items()}
    return found


def _first_line(module: str, name: str) -> str:
    """Return the first line of a name's docstring, read without importing its module."""
    path = REPOSITORY.joinpath("dysem_lab", *module.split(".")).with_suffix(".py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return (ast.get_docstring(node) or "").split("\n", 1)[0].replace("|", r"\|")
    return ""


def _mathml(found: re.Match[str]) -> str:
    display = "block" if found[2] == "[" else "inline"
    return convert(html.unescape(found[3]).strip(), display=display)


def _linked(found: re.Match[str]) -> str:
    """Return a name in code as a reference that stays plain where the site has no such name."""
    rest = found[1].split(".")[1:]
    if rest and rest[0] in HOMES:
        rest = [HOMES[rest[0]], *rest]
    target = ".".join(["dysem_lab", *rest])
    return f'<autoref identifier="{target}" optional>{found[0]}</autoref>'


MADE = {
    "example of the README": readme_example,
    "explorers": explorers,
    "lessons": lessons,
    "public names": public_names,
    "command line": command_line,
}
