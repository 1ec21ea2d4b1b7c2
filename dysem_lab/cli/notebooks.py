"""`dysem-lab notebooks` and `lab`: the notebooks in a folder of one's own, and JupyterLab on it."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from dysem_lab import paths
from dysem_lab.cli.terminal import Json, out, print_json
from dysem_lab.errors import DysemLabError, InputError

NOT_COPIED = {"__pycache__", ".ipynb_checkpoints"}


def notebooks(
    folder: Annotated[Path, typer.Argument(help="Where they go; made if it is not there.")],
    as_json: Json = False,
) -> None:
    """Copy the notebooks into a folder: figures, explorers, and the course with its solutions.

    A file that is there and differs, such as a notebook that you have worked in, is left as it is
    and named.
    """
    report = copy_notebooks(folder)
    if as_json:
        print_json({"folder": folder, **report})
    else:
        _tell(folder, report)


def lab(
    folder: Annotated[Path, typer.Argument(help="Opened; gets the notebooks if it is new.")] = Path(
        "dysem-lab-notebooks"
    ),
) -> None:
    """Open JupyterLab on a folder of notebooks; one that is not there, or empty, gets them first.

    To add to a folder what a new version brings, use `dysem-lab notebooks`.
    """
    try:
        from jupyterlab.labapp import main
    except ImportError as error:
        raise DysemLabError(
            f"`dysem-lab lab` needs JupyterLab ({error}); pip install 'dysem-lab[lab]'"
        ) from error
    if not (folder.is_dir() and any(folder.iterdir())):
        _tell(folder, copy_notebooks(folder))
    main([f"--ServerApp.root_dir={folder.resolve()}"])


def copy_notebooks(folder: Path) -> dict[str, list[str]]:
    """Copy the notebooks, with what lies beside them, into a folder.

    Returns:
        Names of files by what became of them: ``copied``, ``unchanged`` (there already, the same)
        and ``kept`` (there already and different, so not overwritten).

    Raises:
        InputError: The folder is that of the notebooks themselves, or cannot be written.
    """
    source = paths.notebooks_dir().resolve()
    if folder.resolve().is_relative_to(source):
        raise InputError(f"{folder} is where the notebooks are copied from; name another folder")
    report: dict[str, list[str]] = {"copied": [], "unchanged": [], "kept": []}
    try:
        for path in sorted(source.rglob("*")):
            name = path.relative_to(source)
            if path.is_file() and not NOT_COPIED & set(name.parts):
                report[_copied(path, folder / name)].append(name.as_posix())
    except OSError as error:
        raise InputError(
            f"cannot copy the notebooks to {folder} ({error}); name a folder that you may write to"
        ) from error
    return report


def _copied(source: Path, target: Path) -> str:
    """Copy a file if there is none, and return what became of it."""
    if target.is_file() and target.read_bytes() == source.read_bytes():
        return "unchanged"
    if target.exists() or target.is_symlink():
        return "kept"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    shutil.copyfile(source, partial)
    partial.replace(target)  # so that what is there is whole, whenever this is stopped
    return "copied"


def _tell(folder: Path, report: dict[str, list[str]]) -> None:
    out.print(
        f"{len(report['copied'])} files copied to {folder}, {len(report['unchanged'])} were there",
        markup=False,
    )
    for name in report["kept"]:
        out.print(
            f"left as it is: {folder / name} differs from this version's; to get that, rename or "
            "delete yours and run `dysem-lab notebooks` again",
            markup=False,
        )
