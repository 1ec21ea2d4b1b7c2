"""Figures onto disk: PNG, HTML, CSV and JSON, each whole or absent, with their provenance."""

import errno
import functools
import hashlib
import html
import json
import math
import os
import platform
import re
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.offline import get_plotlyjs

from dysem_lab import paths
from dysem_lab.digests import code_digest
from dysem_lab.errors import DataError, InputError
from dysem_lab.inputs import path_of
from dysem_lab.models.embedded import provenance
from dysem_lab.models.facts import ModelFacts
from dysem_lab.startup import import_nbformat

import_nbformat()  # before plotly does, to save a figure
PLOTLY_JS = "plotly.min.js"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
NO_BROWSER = (
    "no PNG was written: kaleido needs Chromium or Chrome and found none. Install one (Debian: "
    "apt-get install chromium fonts-noto-cjk; elsewhere: plotly_get_chrome) and run again; HTML, "
    "CSV and JSON are whole"
)
# In bytes, of 255 that a file system allows: a name has a kind, a model and data.
LONGEST_SLUG = 80
LONGEST_NAME = 240
TALL = 2000  # pixels: a higher PNG is drawn at scale 1, or it would be over a megabyte
JOB_VARIABLE = "DYSEM_LAB_JOB"  # what a batch runs, as JSON: a notebook and its parameters
LIBRARIES = (
    *("torch", "transformers", "transformer-lens", "numpy", "scipy", "pandas", "plotly"),
    "scikit-learn",
)


def record(
    model: ModelFacts, data: Sequence[Mapping[str, object]], settings: Mapping[str, object]
) -> dict[str, object]:
    """Return the provenance of anything measured with a model.

    Args:
        model: Its facts.
        data: One mapping per data set; its "label" is what the gallery shows.
        settings: What else has to be known to make it again.
    """
    return {
        "dysem_lab": version("dysem-lab"),
        "git_commit": git_commit(),
        "code": code_digest()[:16],
        "model": {**asdict(model), "name": model.shown, **provenance(model.source)},
        **native({"data": data, **settings}),
        **made_by(),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **library_versions()},
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def native(value: Any) -> Any:
    """Return a value as JSON has it: arrays as lists, what is not finite as None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(native(name)): native(of) for name, of in value.items()}
    if isinstance(value, list | tuple | range | set | frozenset):
        return [native(of) for of in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)


def made_by() -> dict[str, object]:
    """Return what `dysem-lab figures --from` needs to make a figure again, where a batch runs.

    Returns:
        ``{"made_by": {"notebook": …, "parameters": {…}}}``, or nothing where a user saves.
    """
    job = os.environ.get(JOB_VARIABLE)
    return {"made_by": json.loads(job)} if job else {}


@functools.cache
def machine() -> dict[str, object]:
    """Return what times and the last digits depend on: processor, cores, threads in use."""
    facts = Path("/proc/cpuinfo")  # of Linux, where `platform` does not name the processor
    text = facts.read_text(encoding="utf-8", errors="replace") if facts.is_file() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    processor = named.group(1) if named else platform.processor() or platform.machine()
    return {
        "processor": processor,
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that numbers depend on."""
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            versions[library] = "absent"
    return versions


@functools.cache
def git_commit() -> str | None:
    """Return the commit of the checkout this package is in ("+" if changed), or None."""
    root = paths.package_file("").parent
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "-uno", "--", "dysem_lab", "notebooks")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed else "")


def file_name(kind: str, model: ModelFacts, label: str = "", size: int | None = None) -> str:
    """Return a file name without its suffix: what, model, what data and how much of it."""
    measured_on = "" if size is None else f"_{slug(label)}-{size}"
    return f"{kind}_{slug(Path(model.name).name)}{measured_on}"


def slug(text: str) -> str:
    """Return a text as part of a file name: lower-case letters, digits and points, with hyphens.

    A long one is cut, and one without any of these is a digest of the text.
    """
    plain = "-".join("".join(c if c.isalnum() or c == "." else " " for c in text).lower().split())
    if plain and len(plain.encode()) <= LONGEST_SLUG:
        return plain
    digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:8]
    start = plain.encode()[: LONGEST_SLUG - 9].decode(errors="ignore")
    return f"{start}-{digest}" if start else digest


def save_figure(
    figure: go.Figure,
    table: pd.DataFrame,
    name: str,
    out: str | Path,
    provenance: Mapping[str, object],
    caption: str,
    above: str = "",
) -> dict[str, Path]:
    """Write ``<name>.png``, ``.html``, ``.csv`` and ``.json`` and return their paths.

    Each file appears whole or not at all, and none before all are made. The HTML shares one
    ``plotly.min.js`` in the folder; a link in a text of the figure is shown there, not followed.
    The JSON is written last, so a figure that has one is complete. The CSV has the texts and names
    as they are: a spreadsheet takes one that begins with "=" for a formula.

    Args:
        figure: What is shown.
        table: The numbers behind it.
        name: File name without suffix, as from `file_name`.
        out: Folder; created if absent.
        provenance: From `record`.
        caption: One line that says what is seen; kept in the JSON and used as alternative text.
        above: HTML that stands above the figure on the page.

    Raises:
        InputError: The name cannot be one of a file.
        DataError: The files cannot be written, or the browser cannot draw the PNG.

    Warns:
        UserWarning: No browser was found, so there is no PNG; names the remedy.
    """
    out = path_of(out, "folder")
    plain = isinstance(name, str) and all(c.isalnum() or c in " ._+-" for c in name)
    if not plain or name[:1] in ("", " ", ".") or len(name.encode()) > LONGEST_NAME:
        raise InputError(
            f"a figure's name cannot be {name!r:.300}; it becomes a file name: letters, digits, "
            f"'.', '_', '+' and '-', of {LONGEST_NAME} bytes at most"
        )
    record = {"name": name, "caption": caption, **provenance}
    contents = {
        "html": _page(figure, name, caption, above),
        "csv": table.to_csv(index=False, float_format="%.6g", lineterminator="\n"),
        "json": json.dumps(record, indent=2, ensure_ascii=False) + "\n",
    }
    made = {kind: text.encode(errors="backslashreplace") for kind, text in contents.items()}
    if find_browser():
        made = {"png": _drawn(figure, name), **made}
    else:
        warnings.warn(NO_BROWSER, stacklevel=2)
    try:
        has_plotly = (out / PLOTLY_JS).exists()
    except OSError as error:
        raise unwritable(out, error) from error
    if not has_plotly:
        with atomic_write(out / PLOTLY_JS) as path:
            path.write_text(get_plotlyjs(), encoding="utf-8")
    paths_of = {kind: out / f"{name}.{kind}" for kind in made}
    with ExitStack() as files:
        # They are put in place in reverse: the JSON last.
        for kind in reversed(made):
            files.enter_context(atomic_write(paths_of[kind])).write_bytes(made[kind])
    return paths_of


def _drawn(figure: go.Figure, name: str) -> bytes:
    """Return a figure as PNG."""
    try:
        is_tall = (figure.layout.height or 0) > TALL
        return figure.to_image(format="png", scale=1.0 if is_tall else 1.5)
    except Exception as error:  # of a browser, in any of its kinds
        reason = " ".join(" ".join(map(str, error.args)).split())
        raise DataError(
            f"{find_browser()} cannot draw {name}.png ({type(error).__name__}: {reason:.300}); see "
            "that it starts, or name another one by BROWSER_PATH. Without any, HTML, CSV and JSON "
            "are written alone"
        ) from error


def _page(figure: go.Figure, name: str, caption: str, above: str) -> str:
    """Return a figure as HTML, with what stands above it."""
    page = figure.to_html(include_plotlyjs=PLOTLY_JS, div_id=name, config={"responsive": True})
    label = f'<html lang="en"><head><title>{html.escape(caption)}</title>'
    # Of the tags that plotly knows in a text, the link alone leads out of the page. Figures have
    # none of their own, so it comes with the name of a model or of data.
    page = re.sub(r"\\u003c(/?a\b)", r"&lt;\1", page, flags=re.IGNORECASE)
    page = re.sub(r"<html>\s*<head>", lambda _: label, page, count=1)
    return page.replace("<body>", f"<body>\n{above}", 1)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block ends well.

    Raises:
        DataError: The file cannot be written: the disk is full, its folder cannot be written to.
    """
    temporary = None
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder has its name")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, made = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
        temporary = Path(made)
        os.close(handle)
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> DataError:
    """Return the error for a file that cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "free some disk and try again" if full else "give a folder that you may write to"
    return DataError(f"{path} cannot be written ({error.strerror or error}); {remedy}")


def find_browser() -> str | None:
    """Return the Chromium or Chrome that kaleido will use for PNG export, or None."""
    named = os.environ.get("BROWSER_PATH")
    return named or next(filter(None, map(shutil.which, BROWSERS)), None)
