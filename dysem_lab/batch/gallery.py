"""The gallery of a folder of figures, in the order and under the questions of the notebooks."""

import csv
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from dysem_lab.batch.cells import read_cells
from dysem_lab.batch.seeds import records_of_seeds, said_of_seeds
from dysem_lab.data.sts import DEMO_SCORES
from dysem_lab.display import amount, say
from dysem_lab.models.embedded import stored_as_of
from dysem_lab.models.storage import described
from dysem_lab.questions.saving import atomic_write, slug

PAGE = "README.md"
INDEX = "index.html"
COVERAGE = "coverage.csv"  # figures and tables of the papers, and the kinds of figure that answer
# A notebook's figures have its name, or one of these.
ALSO = {
    "languages": ("language_overlap",),
    "layers": ("layer_choice",),
    "stability": ("selection_frequency",),
    "what_changes": ("cp_predictions", "cp_stream"),
    "why_similar": ("explain", "explain_difference", "head_ablation"),
    "causal": ("set_ablation", "set_interchange"),
    "readout": ("concept",),
    "faithfulness": ("head_patching",),
    "heads": ("residuals",),
}
ELSEWHERE = "Other figures"
AGAIN = (
    "A figure is made again, with all its parameters, by dysem-lab figures --from NAME.json, and "
    "all of a folder by dysem-lab figures --from FOLDER."
)
SPREAD = "spread over seeds"  # of a record that is read here
LARGEST_RECORD = 2**24  # bytes
LONGEST_LINK = 32  # characters that a link shows of the texts that a figure's name begins with
# What Markdown, in any of its kinds, may take for more than a character of a text: markup, a
# formula, a link that it makes of a bare address, or the beginning of a list or a heading. An
# interval such as [40.2, 68.7] is none of these, unless what follows makes it a link.
INTERVAL = r"(?P<interval>(?<!^)\[[-−]?[\d.]+, [-−]?[\d.]+\](?![(\[:]))"
ACTIVE = re.compile(
    rf"""{INTERVAL}|[\\`*\[\]{{}}<>&~$|"@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.|^[-+=#:]"""
    r"|(?<=^\d)[.)]|(?<=^\d\d)[.)]",
    re.IGNORECASE,
)
STYLE = """
:root { color-scheme: light dark; font-family: system-ui, sans-serif; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; line-height: 1.5; }
figure { margin: 2rem 0; }
img { width: 100%; background: white; }
"""


class Section(NamedTuple):
    """A notebook and the figures that it made."""

    title: str  # the notebook's number and title
    records: list[dict[str, Any]]  # what the figures' JSON files say, by name


def write_gallery(out: Path, notebooks: Mapping[str, Path]) -> None:
    """Write the gallery of a folder, each figure with its caption: README.md and index.html.

    The folder has the figures with their JSON files; the notebooks, by stem, are in reading order.
    """
    records = records_of(sorted(out.glob("*.json")))
    found = sections(records, notebooks)
    of_seeds = records_of(records_of_seeds(out))
    notes = [*_notes(records), *([said_of_code([*records, *of_seeds]), AGAIN] if records else [])]
    for name, text in ((PAGE, _markdown(found, notes, out)), (INDEX, _html(found, notes, out))):
        with atomic_write(out / name) as path:
            path.write_bytes((text + "\n").encode(errors="replace"))


def records_of(files: Sequence[Path]) -> list[dict[str, Any]]:
    """Return what JSON files say of the figures beside them; those that are not ours are named."""
    return [*filter(None, map(_record, files))]


def _record(file: Path) -> dict[str, Any] | None:
    """Return what a JSON file says of the figure beside it, or None, said, where it is not ours."""
    try:
        if not file.is_file():  # a folder, or a pipe that would be waited for
            raise ValueError("it is no file")
        if file.stat().st_size > LARGEST_RECORD:
            raise ValueError("it is too large")
        record = json.loads(file.read_text(encoding="utf-8"))
        texts = [record["name"], record["caption"], measured_on(record)]
        texts += [record["model"]["name"], record["model"]["dtype"]]
        texts += [record["model"].get("weights", ""), *_sources(record), *_code(record)]
        if not all(isinstance(text, str) for text in texts) or record["name"] != file.stem:
            raise ValueError("it is of something else")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        say(f"{file} is no record of a figure ({reason:.200}); the gallery is made without it")
        return None
    return {**record, SPREAD: said_of_seeds(file.parent, file.stem)}


def sections(records: Sequence[dict[str, Any]], notebooks: Mapping[str, Path]) -> list[Section]:
    """Return the figures by the notebook that makes them, in reading order; others come last."""
    left = list(records)
    found = []
    for stem, path in notebooks.items():
        number, _, kind = stem.partition("_")
        cells = read_cells(path)
        title = next(cell.source for cell in cells if cell.cell_type == "markdown")
        own = [record for record in left if _kind(record, (kind, *ALSO.get(kind, ())))]
        left = [record for record in left if record not in own]
        if own:
            heading = title.splitlines()[0].removeprefix("# ")
            found.append(Section(f"{number}. {heading}", own))
    return [*found, *([Section(ELSEWHERE, left)] if left else [])]


def measured_on(record: Mapping[str, Any]) -> str:
    """Return one line that says with which model and data a figure was made."""
    data = ", ".join(dict.fromkeys(one["label"] for one in record["data"]))
    if _of_demo(record):
        data += f", {DEMO_SCORES}"
    drawn = record.get("sampling", {})
    if data and drawn.get("sample"):
        data += f"; drawn from the pairs that all its languages have, seed {drawn['seed']}"
    return "; ".join(filter(None, (_model(record), data, record.get(SPREAD, ""))))


def _model(record: Mapping[str, Any]) -> str:
    """Return a figure's model with what is said of its weights."""
    model = record["model"]
    # Older records do not say it.
    stored_as = stored_as_of(model.get("source", "").partition(" ")[0])
    return f"{model['name']} ({model.get('weights') or described(stored_as, model['dtype'])})"


def _notes(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what has to be known of the models and the data of all figures."""
    models = ", ".join(dict.fromkeys(map(_model, records)))
    notes = [f"Models: {models}."] if models else []
    if any(map(_of_demo, records)):
        notes.append(f"The demo set: {DEMO_SCORES}, not ratings by people.")
    return notes


def said_of_code(records: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence that says whether one code made all figures, or which made how many.

    A record names its code by a digest and by the commit; an older one by the commit alone, which
    says little where files had been changed since ("+").
    """
    made: dict[str, list[str]] = {}  # by each code, the commit of each figure
    for record in records:
        code, commit = _code(record)
        made.setdefault(code, []).append(commit)
    figures, unsaid = amount(len(records), "figure"), len(made.pop("", ()))
    parts = [
        f"{len(commits):,} by {_shown_code(code, commits)}"
        for code, commits in sorted(made.items(), key=lambda item: -len(item[1]))
    ]
    if not made:
        return f"Their records do not say which code made the figures here ({figures})."
    doubtful = unsaid or any(code.endswith("+") for code in made)
    if len(made) == 1 and not doubtful:
        only = parts[0].partition(" by ")[2]
        return f"One version of the code made all figures here ({figures}): {only}."
    if unsaid:
        parts.append(f"{unsaid:,} without saying by which")
    n_codes = ("At least " if doubtful else "") + amount(len(made), "version")
    return f"{n_codes} of the code made the figures here ({figures}): {', '.join(parts)}."


def _shown_code(code: str, commits: Sequence[str]) -> str:
    """Return words for a code, by its digest and the commits that it was found in."""
    named = [
        f"{commit[:8]} with changes" if commit.endswith("+") else commit[:8]
        for commit in dict.fromkeys(filter(None, commits))
    ]
    words = f"commit{'s' * (len(named) > 1)} {', '.join(named)}" if named else "no commit"
    return words if code in commits else f"digest {code} ({words})"


def _code(record: Mapping[str, Any]) -> tuple[str, str]:
    """Return the code that made a figure, by its digest or else its commit, and the commit."""
    commit = record.get("git_commit") or ""
    return record.get("code") or commit, commit


def _sources(record: Mapping[str, Any]) -> list[str]:
    """Return where a figure's data came from, as far as its record says."""
    return [one.get("source", "") for one in record["data"]]


def _of_demo(record: Mapping[str, Any]) -> bool:
    """Whether a figure is of the demo set's pairs, whose scores nobody but its writers gave."""
    return any(source.startswith("the demo set of dysem-lab (") for source in _sources(record))


def _kind(record: Mapping[str, Any], kinds: Sequence[str]) -> bool:
    """Whether a figure's name is of one of these kinds: the kind, then the model."""
    model = slug(Path(record["model"]["name"]).name)
    before = record["name"].split(f"_{model}")[0]
    return any(before == kind or before.startswith(f"{kind}_") for kind in kinds)


def plain(text: str) -> str:
    """Return a text as Markdown that shows it as it is, in one line."""

    def shown(found: re.Match[str]) -> str:
        return found[0] if found["interval"] else f"&#{ord(found[0])};"

    return ACTIVE.sub(shown, " ".join(text.split()))


def _markdown(found: Sequence[Section], notes: Sequence[str], out: Path) -> str:
    lines = [
        "# Figures",
        "",
        "Made by `dysem-lab figures`, in the order of the notebooks. Each figure has its numbers",
        "(CSV) and provenance (JSON) beside it; the interactive pages (HTML, with an index) are",
        "made where you run the command.",
        "",
        *(line for note in notes for line in (plain(note), "")),
    ]
    for section in found:
        links = (
            f"[{plain(_about(record))}](#{_anchor(record['name'])})" for record in section.records
        )
        lines.append(f"- {section.title} {' · '.join(links)}")
    lines += _coverage(found, out / COVERAGE)
    for section in found:
        lines += ["", f"## {section.title}"]
        for record in section.records:
            name, caption = quote(record["name"]), plain(record["caption"])
            lines += ["", f"### {plain(record['name'])}", ""]
            if (out / f"{record['name']}.png").exists():
                lines += [f"![{caption}]({name}.png)", ""]
            lines += [caption, ""]
            measured = plain(measured_on(record))
            lines.append(f"{measured} · [CSV]({name}.csv) · [JSON]({name}.json)")
    return "\n".join(lines)


def _coverage(found: Sequence[Section], file: Path) -> list[str]:
    """Return a table of what the papers show, with links to the figures of each model.

    The demo set stands beside a paper's figure only where a model has no other that does.
    """
    if not file.is_file():
        return []
    records = [record for section in found for record in section.records]
    models = list(dict.fromkeys(record["model"]["name"] for record in records))
    lines = ["", "## What the papers show, and where it is here", ""]
    lines.append(f"| in the paper | what it shows | {' | '.join(map(plain, models))} | note |")
    lines.append("|---" * (3 + len(models)) + "|")
    with file.open(encoding="utf-8", newline="") as opened:
        for row in csv.DictReader(opened):
            kinds = [*filter(None, row["figures"].split(";"))]
            cells = [f"{row['source']}, {row['item']}", row["shows"]]
            for model in models:
                of_model = [
                    record
                    for record in records
                    if record["model"]["name"] == model and _kind(record, kinds)
                ]
                links = [
                    f"[{plain(_data(record))}](#{_anchor(record['name'])})"
                    for record in [one for one in of_model if not _of_demo(one)] or of_model
                ]
                cells.append(", ".join(links) or ("not made" if kinds else "–"))
            lines.append(f"| {' | '.join([*cells, row['note']])} |")
    return lines


def _html(found: Sequence[Section], notes: Sequence[str], out: Path) -> str:
    lines = [
        "<!doctype html>",
        '<html lang="en"><meta charset="utf-8"><title>Figures</title>',
        f"<style>{STYLE}</style>",
        "<h1>Figures</h1>",
        *(f"<p>{html.escape(note)}</p>" for note in notes),
    ]
    for section in found:
        lines.append(f"<h2>{html.escape(section.title)}</h2>")
        for record in section.records:
            shown, caption = html.escape(record["name"]), html.escape(record["caption"])
            name = quote(record["name"])
            lines.append(f'<figure id="{shown}"><a href="{name}.html">')
            if (out / f"{record['name']}.png").exists():
                shown = f'<img src="{name}.png" alt="{caption}" loading="lazy">'
            lines += [
                f"{shown}</a>",
                f"<figcaption>{caption}<br><small>{html.escape(measured_on(record))}",
                f'· <a href="{name}.csv">CSV</a> · <a href="{name}.json">JSON</a></small>',
                "</figcaption></figure>",
            ]
    return "\n".join([*lines, "</html>"])


def _anchor(name: str) -> str:
    """Return the anchor of a heading, which keeps letters, digits, ``_`` and ``-`` of it."""
    return quote(re.sub(r"[^\w-]", "", name).lower())


def _about(record: Mapping[str, Any]) -> str:
    """Return what tells a figure from the others of its notebook."""
    kind, rest = _parts(record)
    of_model = " ".join(filter(None, (record["model"]["name"], rest)))
    return f"{kind.replace('_', ' ')}, {of_model}"


def _data(record: Mapping[str, Any]) -> str:
    """Return the kind of a figure and what its name says of the data."""
    kind, rest = _parts(record)
    return " ".join(filter(None, (kind.replace("_", " "), rest)))


def _parts(record: Mapping[str, Any]) -> tuple[str, str]:
    """Return what stands in a figure's name before its model, and the beginning of the rest."""
    kind, _, rest = record["name"].partition(f"_{slug(Path(record['model']['name']).name)}")
    rest = rest.removeprefix("_")
    return kind, rest if len(rest) <= LONGEST_LINK else f"{rest[:LONGEST_LINK].rstrip('-.')}…"
