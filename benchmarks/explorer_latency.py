"""How long explorers take: to open in a notebook, for a move of k, and for a new sentence.

python benchmarks/explorer_latency.py
"""

import os
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import torch
from nbclient import NotebookClient

import dysem_lab as dl
from dysem_lab import paths
from dysem_lab.explorers.pair_explorer import explore_pair
from dysem_lab.explorers.panel import Panel
from dysem_lab.models.embedded import EMBEDDED

LANGUAGES = ("en", "ja", "ru")
N_SENTENCES = 5


def seconds(panel: Panel, **values: object) -> tuple[float, float]:
    """Return the time from the change of a control to the view that follows, and its CPU time."""
    begin, begin_cpu = time.perf_counter(), time.process_time()
    panel.set(**values).wait(600)
    passed = time.perf_counter() - begin, time.process_time() - begin_cpu
    assert not panel.message, panel.message
    return passed


def report(what: str, times: list[tuple[float, float]]) -> None:
    """Print medians; on a machine that does other work the CPU time is what the explorer needs."""
    wall, cpu = zip(*times, strict=True)
    print(
        f"{what}: median {statistics.median(wall):.3f} s (CPU {statistics.median(cpu):.3f} s), "
        f"worst {max(wall):.3f} s (CPU {max(cpu):.3f} s), {len(times)} times"
    )


def opened(notebook: Path) -> float:
    """Return the seconds from a new kernel to an explorer that shows its example.

    The model is converted and has passed its check, as after its first use; no vector is stored.
    """
    with tempfile.TemporaryDirectory() as cache:
        for folder in (paths.models_dir(), paths.passed_check_path("any").parent):
            Path(cache, folder.name).symlink_to(folder, target_is_directory=True)
        environment = {**os.environ, paths.CACHE_VARIABLE: cache}
        client = NotebookClient(nbformat.read(notebook, 4), timeout=600)
        begin = datetime.now(UTC)
        ran = client.execute(env=environment)  # and ends the kernel, which takes seconds
    last = [cell for cell in ran.cells if cell.cell_type == "code"][-1]
    end = datetime.fromisoformat(last.metadata["execution"]["shell.execute_reply"])
    return (end - begin).total_seconds()


def main() -> None:
    """Print the times on the embedded models; the targets are 20 s, 0.2 s and 2 s."""
    folder = Path(__file__).resolve().parent.parent / "notebooks" / "explore"
    for name in EMBEDDED:
        dl.load_model(name)  # checked here, where it was not before
    for notebook in sorted(folder.glob("*.ipynb")):
        print(f"{notebook.stem} opens in {opened(notebook):.1f} s")
    lens = dl.load_model("gemma-3-270m")
    data = dl.load_data("demo", languages=LANGUAGES)
    first, second = data.sentences["en"]
    table = dl.ParallelTable.from_data(data)
    panel = explore_pair(lens, first[0], second[0], LANGUAGES, table)
    seconds(panel, k=1)
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(f"{lens.name} on {lens.device}, {torch.get_num_threads()} threads, {load}")
    report("a move of k", [seconds(panel, k=k) for k in range(40, lens.d_model, 40)])
    new = [seconds(panel, first=text) for text in first[1 : 1 + N_SENTENCES]]
    report(f"a new sentence in {len(LANGUAGES)} languages", new)


if __name__ == "__main__":
    main()
