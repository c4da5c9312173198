"""Notebooks 10 to 13 themselves, through papermill, on the stand-ins: each in a kernel of its own, and each once.

    rehearse_notebooks(runner)      # <work>/notebooks/10_train_t2a.ipynb …; by name: seconds, memory of the kernel

They get `profile=mini budget=rehearse` and train in a run of their own, `<work>/notebooks/mini-rehearse`.  What came to its end is kept: a note
beside the executed copy says what it was made from (`keys_of`), and where all of that is still the same the next call takes the note's figures.
From the first notebook on that is missing, failed or was made from something else, everything runs anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import torch
from rich.console import Console

from mmo.checkpoint import stage_file
from mmo.profiles import REPOSITORY, STAGES, STAND_INS, runs_root
from mmo.rehearsal.stages import Runner, held
from mmo.report import write_report
from mmo.weekend import NOTEBOOKS, NotebookFailed, Watch, run_notebook, stop_on_sigterm

BUDGET = "rehearse"


def course_notebooks() -> dict[str, Path]:
    """The course's own, by the stage that each trains; "talk" trains none."""
    return {name: REPOSITORY / "solutions" / file for name, file in NOTEBOOKS.items()}


def rehearse_notebooks(
    runner: Runner, notebooks: Mapping[str, Path] | None = None, fresh: bool = False, tell: Callable[[dict], None] = lambda found: None
) -> dict[str, dict]:
    """Execute notebooks in their order; by name: file, seconds, memory (bytes at most, of the kernel and what it started), kept.

    notebooks: name to source, by default the course's 10 to 13.  fresh: run those anew that are finished.  tell: gets what is known so far, after each.
    Raises `NotebookFailed`, which names the cell; the executed copy stays, and `tell` has heard of it.
    """
    notebooks = course_notebooks() if notebooks is None else notebooks
    runs = runner.work / "notebooks"
    run = runs / f"{runner.name}-{BUDGET}"
    keys = keys_of(runner, notebooks)
    found = {} if fresh else finished(runs, run, notebooks, keys)
    for told in found.values():
        runner.say(f"{told['file']}: kept from before ({told['seconds']:.0f} s, at most {told['memory'] / 1e9:.1f} GB)")
    tell(found)
    left = [name for name in notebooks if name not in found]
    forget(runs, run, [notebooks[name] for name in left], [name for name in left if name in STAGES])
    folder = "" if runner.work.parent == (runs_root() / "rehearsal").resolve() else f" --folder {shlex.quote(str(runner.work.parent))}"
    # Strictly: a solution whose check fails is an error.
    with environment(runner.environment() | {"MMO_RUNS": str(runs), "MMO_STRICT": "1"}), stop_on_sigterm():
        for name in left:
            source = notebooks[name]
            try:
                found[name] = execute(runner, source, runs / source.name, keys[name])
            except NotebookFailed as error:
                found[name] = {"file": source.name, "failed": str(error)}
                raise NotebookFailed(f"{error}\n`mmo rehearse --profile {runner.name} --only-notebooks{folder}` goes on with this notebook") from error
            finally:
                tell(found)
            shutil.rmtree(run / "snapshots", ignore_errors=True)  # looked at by the notebook that made them; a mixture's fill 9 GB
    return found


def execute(runner: Runner, source: Path, copy: Path, key: str) -> dict:
    """One notebook to its end, and the note that it got there."""
    watch = KernelWatch(Console(stderr=True))
    with watch.showing():
        seconds = run_notebook(source, copy, {"profile": runner.name, "budget": BUDGET}, watch)
    told = {"file": source.name, "seconds": seconds, "memory": watch.peak_rss}
    write_report(note_of(copy), told | {"made_from": key})
    runner.say(f"{source.name}: {seconds:.0f} s, at most {watch.peak_rss / 1e9:.1f} GB")
    return told | {"kept": False}


# --- What is kept ----------------------------------------------------------------------------------------------------


def note_of(copy: Path) -> Path:
    """Where it is written that an executed copy is whole."""
    return copy.with_suffix(".done.json")


def keys_of(runner: Runner, notebooks: Mapping[str, Path]) -> dict[str, str]:
    """By name, 16 hexadecimal digits of all that a notebook's run depends on: stand-ins, settings, the package, itself, and those before it.

    Raises NotebookFailed where a source is missing.
    """
    digest = hashlib.sha256(f"{runner.name} {runner.positions} {torch.__version__}".encode())
    digest.update((runner.folder / STAND_INS).read_bytes())
    for path in sorted((REPOSITORY / "mmo").rglob("*.py")):
        digest.update(f"{path.relative_to(REPOSITORY)}\n".encode() + path.read_bytes())
    found = {}
    for name, source in notebooks.items():
        if not source.is_file():
            raise NotebookFailed(f"{source} is not there")
        digest.update(source.read_bytes())
        found[name] = digest.hexdigest()[:16]
    return found


def finished(runs: Path, run: Path, notebooks: Mapping[str, Path], keys: Mapping[str, str]) -> dict[str, dict]:
    """The notebooks that need not run again, up to the first that must: its copy, its note and the weights it trained are there."""
    found = {}
    for name, source in notebooks.items():
        copy = runs / source.name
        needed = [copy, note_of(copy), *([stage_file(run, name)] if name in STAGES else [])]
        if not all(path.is_file() for path in needed):
            break
        told = json.loads(note_of(copy).read_text(encoding="utf-8"))
        if told.pop("made_from") != keys[name]:
            break
        found[name] = told | {"kept": True}
    return found


def forget(runs: Path, run: Path, sources: Sequence[Path], stages: Sequence[str]) -> None:
    """Delete notes, weights and states of what runs anew, so that the first of these begins where those before it ended."""
    for source in sources:
        note_of(runs / source.name).unlink(missing_ok=True)
    for stage in stages:
        for left in (stage_file(run, stage), run / f"{stage}.state.safetensors"):
            left.unlink(missing_ok=True)
    shutil.rmtree(run / "snapshots", ignore_errors=True)


# --- Running ---------------------------------------------------------------------------------------------------------


class KernelWatch(Watch):
    """A watch that weighs kernels alone: this process only waits for them."""

    def sample(self) -> None:
        """Take what the kernel holds now, and the most that it and what it started ever held."""
        for child in psutil.Process().children():
            with suppress(psutil.Error, OSError):  # it may end between two looks
                if any("ipykernel" in word for word in child.cmdline()):
                    self.rss = child.memory_info().rss
                    self.peak_rss = max(self.peak_rss, held(child.pid))


@contextmanager
def environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """The process's environment, which kernels inherit, is `wanted` until the block ends."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
