"""What one seat of a class takes: the memory and the seconds of one run of a notebook, `mmo course seat --notebooks 05,07`."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient
from papermill.parameterize import parameterize_notebook

from mmo.course.build import CELL_SECONDS, Edition
from mmo.course.catalogue import REPOSITORY, Notebook
from mmo.memory import private_bytes

PAUSE = 0.2  # seconds between two looks


@dataclass(frozen=True)
class Seat:
    """One run.  memory: bytes at the peak, shared libraries included; private: of them, those that no other seat shares."""

    notebook: Notebook
    memory: int
    private: int
    seconds: float  # by the clock
    busy: float  # of processor time


def measure_seat(entry: Notebook, budget: str, runs: Path, root: Path = REPOSITORY) -> Seat:
    """Run a solution in a kernel of its own, on one thread, and watch it.  What it writes goes to `runs`.

    Raises nbclient's CellExecutionError where a cell fails.
    """
    import os

    notebook = nbformat.read(Edition(entry, root).solution, 4)
    notebook.metadata.setdefault("papermill", {})
    for cell in notebook.cells:
        cell.metadata.setdefault("tags", [])
    notebook = parameterize_notebook(notebook, {"profile": "tiny", "budget": budget})
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]), "MMO_RUNS": str(runs), "MMO_STRICT": "1", "OMP_NUM_THREADS": "1",
    }
    client = NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name="python3", extra_arguments=["--log-level=ERROR", "--HistoryManager.hist_file=:memory:"], resources={"metadata": {"path": str(root / "solutions")}})
    begun, peak = time.monotonic(), Peak()
    with client.setup_kernel(env=environment):
        watcher = threading.Thread(target=peak.watch, args=(client.km.provisioner.pid,), daemon=True)
        watcher.start()
        try:
            for index, cell in enumerate(notebook.cells):
                client.execute_cell(cell, index)
        finally:
            peak.over.set()
            watcher.join()
    return Seat(entry, peak.memory, peak.private, time.monotonic() - begun, peak.busy)


class Peak:
    """The most that a process and its children held at once."""

    def __init__(self) -> None:
        self.memory = self.private = 0
        self.busy = 0.0
        self.over = threading.Event()

    def watch(self, pid: int) -> None:
        """Look until `over` is set."""
        while not self.over.wait(PAUSE):
            try:
                self.look(psutil.Process(pid))
            except psutil.NoSuchProcess:  # it or a child of it has just ended; `over` ends the watching
                continue

    def look(self, process: psutil.Process) -> None:
        found = [process, *process.children(recursive=True)]
        self.memory = max(self.memory, sum(each.memory_info().rss for each in found))
        self.private = max(self.private, sum(private_bytes(each) for each in found))
        times = process.cpu_times()
        self.busy = times.user + times.system + times.children_user + times.children_system  # of children those that have ended
