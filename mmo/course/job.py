"""One notebook of a batch, in a process of its own: `python -m mmo.course.job SPEC.json`; `mmo course run` starts these.

SPEC.json holds source, copy, page, outcome (paths), parameters, runs (the folder for MMO_RUNS), limit (seconds, or null).  Whatever
happens, the executed copy reaches as far as the notebook did, and outcome and page are written.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import nbformat
from rich.console import Console

from mmo.report import write_report
from mmo.weekend import NotebookFailed, Watch, kernel_environment, run_notebook, stop_on_sigterm


def run_job(spec: dict) -> dict:
    """Execute a notebook; returns its outcome: state ("done", "failed", "stopped"), seconds, memory, and where and why it failed."""
    watch = Watch(Console())
    copy = Path(spec["copy"])
    outcome = {"state": "done", "parameters": spec["parameters"]}
    started = time.monotonic()
    with kernel_environment(Path(spec["runs"])), stop_on_sigterm(), watch.showing():
        try:
            run_notebook(Path(spec["source"]), copy, spec["parameters"], watch, spec["limit"])
        except NotebookFailed as error:
            stopped = "stopped from outside" in str(error)
            outcome |= {"state": "stopped" if stopped else "failed", "cell": watch.number + 1 if watch.cell else 0, "reason": str(error).split("\n")[0]}
    return outcome | {"seconds": round(time.monotonic() - started, 1), "peak_rss_mb": round(watch.peak_rss / 1e6)}


def write_page(copy: Path, page: Path) -> None:
    """The executed copy as one HTML file that needs no network."""
    from mmo.course.book import CSS, PageExporter, without_network

    body, _ = PageExporter(template_name="lab", embed_images=True).from_notebook_node(nbformat.read(copy, 4), {"metadata": {"name": copy.stem}})
    page.write_text(without_network(body).replace("<main", f"{CSS}<main", 1), encoding="utf-8")


def main(path: Path) -> int:
    """Run the job described in a file; exit status 0 where the notebook came to its end."""
    spec = json.loads(path.read_text(encoding="utf-8"))
    outcome = run_job(spec)
    write_report(Path(spec["outcome"]), outcome)
    if Path(spec["copy"]).is_file():
        write_page(Path(spec["copy"]), Path(spec["page"]))
    if outcome["state"] != "done":
        print(outcome["reason"], file=sys.stderr)
    return 0 if outcome["state"] == "done" else 1


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
