"""Figures onto disk: PNG, HTML, CSV and JSON, each whole or absent, with their provenance."""

import functools
import html
import json
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from dysem_lab import paths
from dysem_lab.analyses.study import Study
from dysem_lab.errors import InputError
from dysem_lab.models.store import ModelFacts
from dysem_lab.startup import import_nbformat

import_nbformat()  # before plotly does, to save a figure
PLOTLY_JS = "plotly.min.js"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
NO_BROWSER = (
    "no PNG was written: kaleido needs Chromium or Chrome and found none. Install one (Debian: "
    "apt-get install chromium fonts-noto-cjk; elsewhere: plotly_get_chrome) and run again; HTML, "
    "CSV and JSON are whole"
)
LIBRARIES = (
    *("torch", "transformers", "transformer-lens", "numpy", "scipy", "pandas", "plotly"),
    "scikit-learn",
)


def provenance(study: Study, parameters: Mapping[str, object]) -> dict[str, object]:
    """Return what is needed to make a figure again: code, model, data, parameters, versions."""
    data = [
        {
            "label": f"{data.name} {len(data):,} pairs ({'/'.join(data.languages)})",
            "task": task,
            "name": data.name,
            "source": data.source,
            "digest": data.digest,
            "languages": list(data.languages),
            "n_pairs": len(data),
            "n_dropped": data.n_dropped,
        }
        for task, data in study.data.items()
    ]
    return record(study.model, data, {"sampling": study.sampling, "parameters": dict(parameters)})


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
        "model": asdict(model),
        "data": [dict(one) for one in data],
        **settings,
        "versions": {"python": platform.python_version(), **library_versions()},
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
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
    try:
        git = ["git", "-C", str(root)]
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        status = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "--", "dysem_lab", "notebooks"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if status.stdout.strip() else "")


def figure_name(kind: str, study: Study) -> str:
    """Return the file name of a figure without its suffix: kind, model, data and sample size."""
    if not study.data:
        return file_name(kind, study.model)
    names = [data.name for data in study.data.values()]
    label = names[0] if len(names) == 1 else f"{len(names)} tasks"
    return file_name(kind, study.model, label, sum(map(len, study.data.values())))


def file_name(kind: str, model: ModelFacts, label: str = "", size: int | None = None) -> str:
    """Return a file name without its suffix: what, model, what data and how much of it."""
    measured_on = "" if size is None else f"_{slug(label)}-{size}"
    return f"{kind}_{slug(Path(model.name).name)}{measured_on}"


def slug(text: str) -> str:
    """Return a text as part of a file name: lower-case letters, digits and points, with hyphens."""
    return "-".join("".join(c if c.isalnum() or c == "." else " " for c in text).lower().split())


def save_figure(
    figure: go.Figure,
    table: pd.DataFrame,
    name: str,
    out: str | Path,
    provenance: Mapping[str, object],
    caption: str,
) -> dict[str, Path]:
    """Write ``<name>.png``, ``.html``, ``.csv`` and ``.json`` and return their paths.

    Each file appears whole or not at all. The HTML shares one ``plotly.min.js`` in the folder. The
    JSON is written last, so a figure that has one is complete.

    Args:
        figure: What is shown.
        table: The numbers behind it.
        name: File name without suffix, as from `figure_name`.
        out: Folder; created if absent.
        provenance: From `provenance`.
        caption: One line that says what is seen; kept in the JSON and used as alternative text.

    Warns:
        UserWarning: No browser was found, so there is no PNG; names the remedy.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if "/" in name or not name:
        raise InputError(f"a figure's name cannot be {name!r}; it becomes a file name")
    if not (out / PLOTLY_JS).exists():
        with atomic_write(out / PLOTLY_JS) as path:
            path.write_text(get_plotlyjs(), encoding="utf-8")
    written = {}
    if find_browser():
        with atomic_write(out / f"{name}.png") as path:
            figure.write_image(path, format="png", scale=1.5)
        written["png"] = out / f"{name}.png"
    else:
        warnings.warn(NO_BROWSER, stacklevel=2)
    with atomic_write(out / f"{name}.html") as path:
        page = figure.to_html(include_plotlyjs=PLOTLY_JS, div_id=name, config={"responsive": True})
        label = f'<html lang="en"><head><title>{html.escape(caption)}</title>'
        path.write_text(page.replace("<html><head>", label, 1), encoding="utf-8")
    with atomic_write(out / f"{name}.csv") as path:
        table.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")
    record = {"name": name, "caption": caption, **provenance}
    with atomic_write(out / f"{name}.json") as path:
        text = json.dumps(record, indent=2, ensure_ascii=False, default=str)
        path.write_text(text + "\n", encoding="utf-8")
    return written | {kind: out / f"{name}.{kind}" for kind in ("html", "csv", "json")}


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block ends well."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
    os.close(handle)
    try:
        yield Path(temporary)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def find_browser() -> str | None:
    """Return the Chromium or Chrome that kaleido will use for PNG export, or None."""
    named = os.environ.get("BROWSER_PATH")
    return named or next(filter(None, map(shutil.which, BROWSERS)), None)
