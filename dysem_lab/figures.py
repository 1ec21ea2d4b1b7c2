"""Tables into plotly figures, and figures onto disk with their numbers and their provenance."""

import functools
import html
import json
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from dysem_lab import paths
from dysem_lab.data import STSData
from dysem_lab.errors import InputError
from dysem_lab.lens import LensModel

# Okabe and Ito's palette: distinct under the common colour-vision deficiencies.
COLOURS = {
    "baseline": "#999999",
    "part": "#0072B2",
    "DySem on A^L": "#D55E00",
    "DySem on h^L": "#009E73",
    "semantic": "#D55E00",
    "random, shared": "#0072B2",
    "random, per pair": "#56B4E9",
    "all dimensions": "#999999",
}
OTHER_COLOUR = "#CC79A7"
FONTS = "Noto Sans, Noto Sans CJK SC, Noto Naskh Arabic, Noto Sans Devanagari, Arial, sans-serif"
PLOTLY_JS = "plotly.min.js"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
NO_BROWSER = (
    "no PNG was written: kaleido needs Chromium or Chrome and found none. Install one (Debian: "
    "apt-get install chromium fonts-noto-cjk; elsewhere: plotly_get_chrome) and run again; HTML, "
    "CSV and JSON are whole"
)
LIBRARIES = ("torch", "transformers", "transformer-lens", "numpy", "scipy", "pandas", "plotly")


def _layout(figure: go.Figure, title: str, facts: str, height: int) -> go.Figure:
    """Give a figure the common look, with what it was measured on under the title."""
    return figure.update_layout(
        template="plotly_white",
        font={"family": FONTS, "size": 14},
        title={"text": f"{title}<br><sup>{facts}</sup>", "x": 0.01, "xanchor": "left"},
        height=height,
        width=1000,
        margin={"l": 20, "r": 40, "t": 90, "b": 60},
    )


def _superscript(text: str) -> str:
    return text.replace("^L", "<sup>L</sup>")


def facts(lens: LensModel, data: STSData, **settings: object) -> str:
    """Return the line that says what a figure was measured on."""
    dtype = str(lens.dtype).removeprefix("torch.")
    shown = [f"{lens.name} ({dtype})", data.name, f"{len(data):,} pairs"]
    shown += [
        f"{name} {'/'.join(value) if isinstance(value, list | tuple) else value}"
        for name, value in settings.items()
    ]
    return ", ".join(shown)


def decomposition_figure(table: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return horizontal bars with 95 % intervals, one per method, with #Dim. beside each.

    Args:
        table: From `dysem_lab.analyses.decomposition`.
        measured_on: From `facts`.
    """
    figure = go.Figure()
    rows = table.iloc[::-1]
    for group in table["group"].unique():
        part = rows[rows["group"] == group]
        figure.add_bar(
            orientation="h",
            name=_superscript(group),
            y=part["method"],
            x=part["spearman"],
            marker_color=COLOURS.get(group, OTHER_COLOUR),
            error_x={
                "array": part["high"] - part["spearman"],
                "arrayminus": part["spearman"] - part["low"],
                "color": "#333333",
                "thickness": 1.2,
            },
        )
    figure.add_scatter(
        mode="text",
        y=rows["method"],
        x=rows["high"],
        text=[
            f"  <b>{score:.1f}</b>  #Dim. {dims:.0f}"
            for score, dims in zip(rows["spearman"], rows["n_dims"], strict=True)
        ],
        textposition="middle right",
        cliponaxis=False,
        showlegend=False,
    )
    labels = [_superscript(method) for method in rows["method"]]
    figure.update_yaxes(
        categoryorder="array",
        categoryarray=rows["method"],
        tickvals=rows["method"],
        ticktext=labels,
        title=None,
    )
    figure.update_xaxes(
        title="Spearman × 100, with 95 % bootstrap interval",
        range=[min(0.0, table["low"].min()), 1.22 * table["high"].max()],
    )
    figure.update_layout(legend={"orientation": "h", "y": -0.12, "x": 0})
    title = "Which part of the residual stream carries sentence meaning?"
    return _layout(figure, title, measured_on, 34 * len(table) + 200)


def decomposition_caption(table: pd.DataFrame) -> str:
    """Return one line with the numbers that matter of a decomposition table."""
    score = table.set_index("method")["spearman"]
    best = table.loc[table["spearman"].idxmax()]
    return (
        f"Spearman × 100: mean pooling {score['mean pooling']:.1f}, PromptEOL "
        f"{score['PromptEOL, N(h^L)']:.1f}, plain h^L {score['h^L']:.1f}, A^L {score['A^L']:.1f}, "
        f"F^L {score['F^L']:.1f}; best is {best['method']} with {best['spearman']:.1f} "
        f"[{best['low']:.1f}, {best['high']:.1f}] on {best['n_dims']:.0f} dimensions."
    )


def random_vs_semantic_figure(table: pd.DataFrame, measured_on: str) -> go.Figure:
    """Return score against the number of dimensions: joint sets against random sets.

    The band of a random kind spans its seeds; the band of the joint sets is the 95 % bootstrap
    interval over pairs.

    Args:
        table: From `dysem_lab.analyses.random_vs_semantic`.
        measured_on: From `facts`.
    """
    figure = go.Figure()
    for kind in ("semantic", "random, shared", "random, per pair"):
        part = table[table["kind"] == kind]
        seeds = part.groupby("k", sort=False).agg(
            n_dims=("n_dims", "mean"),
            spearman=("spearman", "mean"),
            low=("low" if kind == "semantic" else "spearman", "min"),
            high=("high" if kind == "semantic" else "spearman", "max"),
        )
        colour = COLOURS[kind]
        figure.add_scatter(
            x=[*seeds["n_dims"], *seeds["n_dims"][::-1]],
            y=[*seeds["high"], *seeds["low"][::-1]],
            mode="lines",
            fill="toself",
            fillcolor=colour,
            opacity=0.18,
            line_width=0,
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_scatter(
            x=seeds["n_dims"],
            y=seeds["spearman"],
            mode="lines+markers",
            line_color=colour,
            name="joint sets (DySem)" if kind == "semantic" else kind,
            customdata=seeds.index.to_numpy(),
            hovertemplate="k = %{customdata}<br>#Dim. %{x:.0f}<br>%{y:.2f}",
        )
    dense = table[table["kind"] == "all dimensions"].iloc[0]
    figure.add_hline(
        y=dense["spearman"],
        line={"dash": "dash", "color": COLOURS["all dimensions"]},
        annotation_text=f"all {dense['n_dims']:.0f} dimensions: {dense['spearman']:.1f}",
        annotation_position="top left",
    )
    figure.update_xaxes(title="#Dim. (mean size of the sets)")
    figure.update_yaxes(title="Spearman × 100")
    figure.update_layout(legend={"orientation": "h", "y": -0.18, "x": 0})
    return _layout(figure, "Joint sets against random sets of equal size", measured_on, 520)


def random_vs_semantic_caption(table: pd.DataFrame) -> str:
    """Return one line with the numbers that matter of a random-against-semantic table."""
    largest = table[table["kind"] == "semantic"].iloc[-1]
    random = table[table["k"] == largest["k"]].groupby("kind")["spearman"]
    dense = table[table["kind"] == "all dimensions"].iloc[0]
    return (
        f"Spearman × 100 on {largest['n_dims']:.0f} dimensions: joint sets "
        f"{largest['spearman']:.1f}, one random set for all pairs "
        f"{random.mean()['random, shared']:.1f}, a random set for each pair "
        f"{random.mean()['random, per pair']:.1f} (means of {random.size()['random, shared']} "
        f"seeds); all {dense['n_dims']:.0f} dimensions {dense['spearman']:.1f}."
    )


def provenance(
    lens: LensModel, data: STSData, parameters: Mapping[str, object]
) -> dict[str, object]:
    """Return what is needed to make a figure again: code, model, data, parameters, versions."""
    return {
        "dysem_lab": version("dysem-lab"),
        "git_commit": git_commit(),
        "model": {
            "name": lens.name,
            "source": lens.source,
            "fingerprint": lens.fingerprint,
            "dtype": str(lens.dtype).removeprefix("torch."),
            "device": str(lens.device),
        },
        "data": {
            "name": data.name,
            "source": data.source,
            "digest": data.digest,
            "languages": list(data.languages),
            "n_pairs": len(data),
            "n_dropped": data.n_dropped,
        },
        "parameters": dict(parameters),
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


def figure_name(kind: str, lens: LensModel, data: STSData) -> str:
    """Return the file name of a figure without its suffix: kind, model, data and sample size."""

    def slug(text: str) -> str:
        return "-".join(
            "".join(c if c.isalnum() or c == "." else " " for c in text).lower().split()
        )

    return f"{kind}_{slug(Path(lens.name).name)}_{slug(data.name)}-{len(data)}"


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
