"""The weekend in one command: run the final notebooks one after the other, evaluate, and make a page to listen to.

    run_weekend("tiny", "full")   # runs/tiny/notebooks/*.ipynb, runs/tiny/report.json, runs/tiny/weekend.html

- Each notebook runs through papermill in a kernel of its own, so that its memory is given back before the next.
- papermill saves the executed copy at every cell start and every 30 s within a cell: whatever happens, the copy tells
  how far it came. A failure, a dead kernel and a signal all name the cell.
- Memory is sampled over this process and all its children, kernels and data workers included.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import papermill
import psutil
from filelock import FileLock, Timeout
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from rich.console import Console
from rich.markup import escape

from mmo.report import write_report
from mmo.weekend_page import PAGE, write_page

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOKS = {  # the key names the notebook's seconds in report.json
    "t2a": "10_train_t2a.ipynb",
    "a2a": "11_train_a2a.ipynb",
    "i2t": "12_train_i2t.ipynb",
    "talk": "13_talk_to_it.ipynb",
}
SAMPLE_SECONDS = 0.5
HEARTBEAT_SECONDS = 60.0  # a line this often where the output is no terminal
# On a crowded machine nbclient's own 60 and 4 seconds are too few: beside a training, the 4 passed behind a cell that only printed.
START_SECONDS = 300  # that a kernel may take to start
OUTPUT_SECONDS = 300  # that a cell's last output may take to arrive when the cell has ended


Evaluate = Callable[[str, Path, str], dict]


class NotebookFailed(RuntimeError):
    """A notebook did not come to its end; the message names the cell and where the executed copy lies."""


class OutOfTime(RuntimeError):
    """A notebook took longer than it may."""


class Stopped(SystemExit):
    """SIGTERM arrived. No `Exception`, so that nothing on the way takes it for an error of its own and goes on."""


@dataclass
class Watch:
    """What is running now, for how long, with how much memory: read by the progress line and by error messages."""

    console: Console
    running: str = "starting"
    cell: NotebookNode | None = None  # the running one; None before a notebook's first
    number: int = 0  # of the running cell, from 0
    where: str = "its start, before any cell"  # the running cell in words
    started: float = field(default_factory=time.monotonic)
    rss: int = 0  # bytes, now
    peak_rss: int = 0  # bytes
    limit: float | None = None  # seconds the running thing may take

    def starts(self, what: str, limit: float | None = None) -> None:
        self.running, self.started, self.limit = what, time.monotonic(), limit
        self.cell, self.number, self.where = None, 0, Watch.where

    def cell_starts(self, cells: list, number: int) -> None:
        # In words at once: papermill inserts cells of its own above one that fails.
        self.cell, self.number = cells[number], number
        self.where = f'cell {number + 1} of {len(cells)}, "{title_of(cells, number)}"'

    def check_time(self) -> None:
        """Raises OutOfTime where the limit has passed; within a cell, the kernel's own timeout does the same."""
        if self.limit is not None and time.monotonic() - self.started > self.limit:
            raise OutOfTime(f"more than its {self.limit:.0f} seconds have passed")

    def line(self) -> str:
        """The progress line: what runs, for how long, with how much memory, and the last words it printed."""
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        where = f"{self.running}: {self.where}" if self.cell else self.running
        words = last_words(self.cell) if self.cell else ""
        return f"{where} · {minutes:02d}:{seconds:02d} · {self.rss / 1e9:.1f} GB · {words}".rstrip(" ·")

    def sample(self) -> None:
        """Take the resident memory of this process and all its descendants, shared pages counted in each."""
        me = psutil.Process()
        self.rss = 0
        for process in [me, *me.children(recursive=True)]:
            try:
                self.rss += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue  # it ended between the two calls
        self.peak_rss = max(self.peak_rss, self.rss)

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Sample memory and show the progress line, from a thread, until the block ends."""
        stop = threading.Event()
        terminal = self.console.is_terminal
        status = self.console.status("") if terminal else nullcontext()

        def loop() -> None:
            shown = time.monotonic()
            while not stop.wait(SAMPLE_SECONDS):
                self.sample()
                if terminal:
                    status.update(escape(self.line()))
                elif time.monotonic() - shown >= HEARTBEAT_SECONDS:
                    self.console.print(self.line(), markup=False)
                    shown = time.monotonic()

        self.sample()
        thread = threading.Thread(target=loop, daemon=True)
        with status:
            thread.start()
            try:
                yield
            finally:
                stop.set()
                thread.join()


def title_of(cells: list, number: int) -> str:
    """The last Markdown heading at or before a cell, else the cell's first line of code."""
    for cell in reversed(cells[: number + 1]):
        if cell.cell_type == "markdown":
            headings = [line for line in cell.source.splitlines() if line.startswith("#")]
            if headings:
                return headings[-1].lstrip("# ").strip()
    return cells[number].source.strip().split("\n")[0][:60]


def last_words(cell) -> str:
    """The last line a cell has printed so far (a progress bar's, say), at most 80 characters."""
    printed = [output.text for output in cell.get("outputs", []) if output.output_type == "stream"]
    lines = printed[-1].replace("\r", "\n").split("\n") if printed else []
    return next((line.strip()[:80] for line in reversed(lines) if line.strip()), "")


class WatchedEngine(NBClientEngine):
    """papermill's own engine, which also says what runs and marks the cell in which a kernel or this process died."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, *, watch: Watch, **settings):
        cell_start = nb_man.cell_start

        def watched_start(cell, cell_index=None, **rest):
            watch.cell_starts(nb_man.nb.cells, cell_index)
            watch.check_time()
            cell_start(cell, cell_index, **rest)

        nb_man.cell_start = watched_start
        try:
            return super().execute_managed_notebook(nb_man, kernel_name, **settings)
        except BaseException:
            # On its way out papermill marks all cells "completed" up to the first that failed: the running one did, or none has begun.
            nb_man.cell_exception(nb_man.nb.cells[watch.number], cell_index=watch.number)
            raise


papermill_engines.register("mmo", WatchedEngine)


def run_notebook(source: Path, copy: Path, parameters: dict, watch: Watch, limit: float | None = None) -> float:
    """Execute one notebook into `copy`; returns its seconds. Raises NotebookFailed, which names the cell.

    limit: seconds that the notebook may take; no single cell may take longer either.
    """
    if not source.is_file():
        raise NotebookFailed(f"{source} is not there")
    copy.parent.mkdir(parents=True, exist_ok=True)
    watch.starts(source.stem, limit)
    try:
        papermill.execute_notebook(
            source, copy, parameters=parameters, engine_name="mmo", watch=watch, progress_bar=False,
            cwd=source.parent, autosave_cell_every=30, extra_arguments=["--log-level=ERROR"],
            execution_timeout=None if limit is None else int(limit), start_timeout=START_SECONDS, iopub_timeout=OUTPUT_SECONDS,
        )
    except PapermillExecutionError as error:
        reason = f"{error.ename}: {error.evalue}"
    except DeadKernelError:
        reason = "its kernel died (out of memory is the usual cause; `mmo doctor` shows how much there is)"
    except OutOfTime as error:
        reason = str(error)
    except RuntimeError as error:  # what a kernel that does not answer comes to
        if watch.cell:
            raise
        reason = f"its kernel did not start: {error}"
    except CellTimeoutError as error:
        reason = f"the cell alone took longer than the {limit:.0f} seconds that the notebook has" if limit else str(error).strip().split("\n")[0]
        if "IOPub" in str(error):
            reason = f"the cell ended, but what it printed did not arrive within {OUTPUT_SECONDS} seconds: the machine is too busy"
    except (KeyboardInterrupt, Stopped):
        reason = "stopped from outside"
    else:
        return time.monotonic() - watch.started
    raise NotebookFailed(f"{source.name} failed in {watch.where}: {reason}\nThe executed copy is {copy}")


def is_whole(copy: Path, source: Path) -> bool:
    """Whether an executed copy has come to its end, and is of the notebook as it is now."""
    try:
        executed, asked = nbformat.read(copy, 4), nbformat.read(source, 4)
    except (OSError, ValueError):
        return False
    cells = [cell for cell in executed.cells if "injected-parameters" not in cell.metadata.get("tags", ())]
    ended = all(cell.metadata.get("papermill", {}).get("status") == "completed" for cell in executed.cells if cell.cell_type == "code")
    return ended and [cell.source for cell in cells] == [cell.source for cell in asked.cells]


@contextmanager
def kernel_environment(runs: Path, **more: str) -> Iterator[None]:
    """Kernels import this very package and write beside us, wherever they are started from.  more: further variables."""
    before = dict(os.environ)
    path = [str(REPOSITORY), *filter(None, [before.get("PYTHONPATH")])]
    os.environ.update(PYTHONPATH=os.pathsep.join(path), MMO_RUNS=str(runs), **more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into `Stopped`, so that the kernel is ended and the cell is named."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    def stop(number, frame):
        raise Stopped(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_weekend(
    profile_name: str,
    budget: str,
    *,
    run_dir: Path,
    evaluate: Evaluate,
    finish: Callable[[dict], dict] = lambda report: report,
    sources: Path = REPOSITORY / "solutions",
    notebooks: dict[str, str] = NOTEBOOKS,
    console: Console | None = None,
    done: Callable[[str], bool] = lambda stage: False,
    fresh: bool = False,
) -> dict:
    """Run the notebooks, evaluate, write `report.json` and `weekend.html` into `run_dir`; returns the report.

    Where an earlier call was stopped before its report, notebooks that it executed whole, and whose stage is `done(stage)`, are passed over,
    and the next one goes on from what its training saved.  fresh: everything anew.

    `evaluate(profile name, run_dir, budget)` measures the finished checkpoint and returns the report's figures; to
    these are added `seconds` per notebook, for the evaluation and in all, and `peak_rss_mb` (MB of 10^6 bytes, the
    largest sampled sum over this process and its children). Raises NotebookFailed.
    """
    run_dir = Path(run_dir).resolve()
    run_dir.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(run_dir / ".weekend.lock").acquire(timeout=0)
    except Timeout:
        raise NotebookFailed(f"another `mmo weekend` is at work in {run_dir}: wait for it, or give this one a folder of its own with MMO_RUNS") from None
    with lock:
        begins = fresh or (run_dir / PAGE).is_file()  # the last thing that a weekend writes; a report may be `mmo evaluate`'s
        if begins:  # in front of the page: what an earlier weekend has executed is not passed over, should this one be stopped at once
            for file in notebooks.values():
                (run_dir / "notebooks" / file).unlink(missing_ok=True)
        if fresh:
            for state in run_dir.glob("*.state.safetensors"):
                state.unlink()
        return alone(profile_name, budget, run_dir, evaluate, finish, sources, notebooks, console or Console(), lambda stage: not begins and done(stage))


def alone(
    profile_name: str, budget: str, run_dir: Path, evaluate: Evaluate, finish: Callable[[dict], dict], sources: Path, notebooks: dict[str, str],
    console: Console, done: Callable[[str], bool],
) -> dict:  # fmt: skip
    """`run_weekend`, where no other works in the same folder."""
    # What was done in an earlier sitting is not on this one's clock.
    went_on = sorted(path.name for path in run_dir.glob("*.state.safetensors"))
    for stale in (PAGE, "report.json"):  # an earlier run's figures must not stand beside this one's notebooks
        (run_dir / stale).unlink(missing_ok=True)
    watch = Watch(console)
    seconds: dict[str, float] = {}
    started = time.monotonic()
    copies = [run_dir / "notebooks" / file for file in notebooks.values()]
    # Strictly: a solution whose check fails is an error, and solved exercises are not written into the learner's progress.
    with kernel_environment(run_dir.parent, MMO_STRICT="1"), stop_on_sigterm(), watch.showing():
        passing = True
        for (stage, file), copy in zip(notebooks.items(), copies):
            passing = passing and is_whole(copy, sources / file) and done(stage)
            if passing:
                watch.console.print(f"{file}: done in an earlier sitting")
                went_on.append(file)
                continue
            watch.console.print(f"{file} …")
            seconds[stage] = run_notebook(sources / file, copy, {"profile": profile_name, "budget": budget}, watch)
            watch.console.print(f"{file} done in {seconds[stage]:.0f} s")
        watch.console.print("evaluation …")
        watch.starts("evaluation")
        report = evaluate(profile_name, run_dir, budget)
        seconds["evaluate"] = time.monotonic() - watch.started
    seconds["total"] = time.monotonic() - started
    report = report | {
        "profile": profile_name,
        "budget": budget,
        "seconds": report.get("seconds", {}) | {name: None if went_on else round(seconds[name], 1) for name in (*notebooks, "evaluate", "total")},
        "peak_rss_mb": None if went_on else round(watch.peak_rss / 1e6),
    }
    if went_on:
        watch.console.print(f"it went on from an earlier sitting ({', '.join(went_on)}): the report holds no seconds and no memory")
    report = finish(report)
    write_report(run_dir / "report.json", report)
    page = write_page(run_dir, copies, report)
    watch.console.print(f"\nListen: {page}\nFigures: {run_dir / 'report.json'}")
    watch.console.print(f"{seconds['total'] / 60:.1f} minutes, at most {watch.peak_rss / 1e9:.2f} GB of memory")
    return report


def main(profile_name: str | None, budget: str, fresh: bool = False) -> int:
    """`mmo weekend`: exit status 0, or 1 with the failing cell named."""
    # Imported here, before anything runs: a missing part must not show only after half an hour of training.
    from mmo.boundaries import find_standing
    from mmo.evaluation import evaluate_run
    from mmo.profiles import STAGES, profile, run_dir
    from mmo.report import finish

    chosen = profile(profile_name)
    folder = run_dir(chosen, budget)

    def done(stage: str) -> bool:
        return stage not in STAGES or find_standing(chosen, stage, budget, folder).done

    try:
        run_weekend(chosen.full_name, budget, run_dir=folder, evaluate=evaluate_run, finish=finish, done=done, fresh=fresh)
    except NotebookFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0
