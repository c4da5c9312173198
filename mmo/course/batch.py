"""Many notebooks, or the same ones with several settings, without anybody watching.

    mmo course run --notebooks 10-12 --profile mini --set lr=3e-4 --jobs 2
    mmo course run --notebooks 10 --budget smoke --set code_dropout=0,0.4      # a sweep: one folder each, one table for both
    mmo course run --resume runs/batch/20261125-153000                         # what is done stays; the rest is run

    runs/batch/20261125-153000/
        batch.json                 what was asked for
        report.json  index.html    every job with its state, the losses, the sounds side by side
        tiny,code_dropout=0-smoke/ one variant: its weights and logs, and for each notebook in notebooks/
            10_train_t2a.ipynb     the executed copy, as far as it came
            10_train_t2a.html      the same as a page
            10_train_t2a.json      state, seconds, memory, the failing cell
            10_train_t2a.log       what the process said

Each notebook runs in a process of its own (mmo/course/job.py); within a variant it waits for those it builds on, and is skipped where
one of them failed.  A setting is a notebook's own parameter, or one of the profile's (mmo/adjust.py); anything else is refused.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

import papermill
from filelock import FileLock, Timeout
from rich.console import Console

from mmo.adjust import ALIASES, combinations, known_settings, setting_of, split_list
from mmo.course.batch_page import batch_page
from mmo.course.catalogue import REPOSITORY, Notebook, read_course
from mmo.profiles import profile as find_profile
from mmo.profiles import run_dir, runs_root
from mmo.report import write_report
from mmo.weekend import Stopped, stop_on_sigterm

OWN = ("profile", "budget")  # parameters that have options of their own
POLL_SECONDS = 0.2
GRACE_SECONDS = 60.0  # for a job to save its copy when it is stopped


@dataclass(frozen=True)
class Batch:
    """What was asked for; batch.json."""

    notebooks: tuple[str, ...]  # numbers, in the course's order
    profile: str = "tiny"
    budget: str = "full"
    settings: dict[str, list[str]] = field(default_factory=dict)  # name -> values as text, several for a sweep
    edition: str = "solutions"  # or "notebooks"
    minutes: float | None = None  # a notebook may take


@dataclass(frozen=True)
class Job:
    """One notebook of one variant."""

    entry: Notebook
    variant: str  # the profile's full name
    folder: Path  # of the variant
    source: Path
    parameters: dict
    needs: tuple[str, ...]  # numbers of notebooks of this batch

    def file(self, ending: str) -> Path:
        return self.folder / "notebooks" / f"{self.entry.file}.{ending}"

    @property
    def name(self) -> str:
        return f"{self.entry.number} with {self.variant}"

    def outcome(self) -> dict:
        """What is known of it; state "waiting" where nothing is."""
        try:
            return json.loads(self.file("json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return {"state": "waiting"}


# --- What to run -------------------------------------------------------------------------------------------------


def expand(text: str, course: Sequence[Notebook]) -> tuple[str, ...]:
    """ "10-12,A1" -> ("10", "11", "12", "A1"), in the course's order.  Raises ValueError for what is not there."""
    numbers, chosen = [entry.number for entry in course], set()
    for part in split_list(text):
        first, dash, last = part.partition("-")
        for number in (first, last) if dash else (first,):
            if number not in numbers:
                raise ValueError(f"no notebook {number!r}; there are {', '.join(numbers)}")
        places = numbers.index(first), numbers.index(last if dash else first)
        if places[0] > places[1]:
            raise ValueError(f"{part}: {first} comes behind {last}")
        chosen |= set(numbers[places[0] : places[1] + 1])
    if not chosen:
        raise ValueError("no notebook chosen")
    return tuple(number for number in numbers if number in chosen)


def read_settings(texts: Sequence[str]) -> dict[str, list[str]]:
    """ ["lr=3e-4", "code_dropout=0,0.4"] -> {"learning_rate": ["3e-4"], "code_dropout": ["0", "0.4"]}.  Raises ValueError."""
    found: dict[str, list[str]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or not split_list(values):
            raise ValueError(f"{text!r}: a setting is written name=value, several values name=a,b,c")
        *before, last = name.strip().split(".")
        key = ".".join([*before, ALIASES.get(last, last)])
        if key in OWN:
            raise ValueError(f"{key} has an option of its own: --{key}")
        if key in found:
            raise ValueError(f"{key} is set twice; several values are written {key}=a,b")
        found[key] = split_list(values)
    return found


def parameters_of(source: Path) -> tuple[str, ...]:
    """The names in a notebook's cell of parameters."""
    return tuple(papermill.inspect_notebook(str(source)))


def plan(batch: Batch, folder: Path, root: Path = REPOSITORY) -> list[Job]:
    """Every job, variant by variant.  Raises ValueError for an unknown setting, naming the known ones, FileNotFoundError for a missing notebook."""
    course = {entry.number: entry for entry in read_course(root)}
    entries = [course[number] for number in batch.notebooks]
    sources = {entry.number: root / batch.edition / f"{entry.file}.ipynb" for entry in entries}
    missing = [str(path) for path in sources.values() if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"no such notebook: {', '.join(missing)}")
    own = {number: parameters_of(path) for number, path in sources.items()}
    stages = find_profile(batch.profile).stages
    for key in batch.settings:
        if not any(key in names for names in own.values()):
            check_setting(key, stages, own)
    jobs, seen = [], {}
    for choice in combinations(batch.settings):
        given = {key: text for key, text in choice.items() if any(key in names for names in own.values())}
        changes = "".join(f",{key}={text}" for key, text in choice.items() if key not in given)
        profile = find_profile(batch.profile + changes)
        place = variant_folder(folder, profile, batch.budget, given)
        if place in seen:
            raise ValueError(f"{written(seen[place])} and {written(choice)} are the same values: once is enough")
        seen[place] = choice
        for entry in entries:
            parameters = {"profile": profile.full_name, "budget": batch.budget} | {key: value_of(text) for key, text in given.items() if key in own[entry.number]}
            needs = tuple(number for number in batch.notebooks if number in all_needs(entry, course))
            jobs.append(Job(entry, place.relative_to(folder).as_posix(), place, sources[entry.number], parameters, needs))
    return jobs


def written(choice: dict[str, str]) -> str:
    return ", ".join(f"{key}={text}" for key, text in choice.items())


def check_setting(key: str, stages: dict, own: dict[str, tuple[str, ...]]) -> None:
    """Raises ValueError where a setting is neither a profile's nor a notebook's."""
    try:
        setting_of(key, stages)
    except ValueError:
        names = sorted({name for each in own.values() for name in each})
        raise ValueError(
            f"no notebook of this batch has a parameter {key!r}, and no profile such a setting. Parameters: {', '.join(names)}. "
            f"Settings: {', '.join(known_settings())}; those of training also with a stage in front, {next(iter(stages))}.learning_rate"
        ) from None


def variant_folder(folder: Path, profile, budget: str, given: dict[str, str]) -> Path:
    """Where a variant's runs go: what its notebooks find under MMO_RUNS; with parameters of their own, in a folder below for each choice."""
    name = ",".join(f"{key}={text}" for key, text in given.items())
    return folder / run_dir(profile, budget).name if not name else folder / name / run_dir(profile, budget).name


def value_of(text: str):
    """A parameter's value: a number, a list, true or false where it reads like one, else the text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def all_needs(entry: Notebook, course: dict[str, Notebook]) -> set[str]:
    """The numbers of all notebooks that one builds on, however far back."""
    return {need for number in entry.needs for need in {number} | all_needs(course[number], course)}


# --- Running it --------------------------------------------------------------------------------------------------


def new_folder(under: Path | None = None) -> Path:
    """A dated folder of one's own, made now: two runs that begin in the same second get one each."""
    under = under or runs_root() / "batch"
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    found = under / stamp
    count = 1
    while True:
        try:
            found.mkdir(parents=True)
            return found
        except FileExistsError:
            if not found.is_dir():  # what stands there, or above it, is a file
                raise
            count += 1
            found = under / f"{stamp}-{count}"


def write_batch(folder: Path, batch: Batch) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_report(folder / "batch.json", asdict(batch))


def read_batch(folder: Path) -> Batch:
    """What a folder's batch asked for.  Raises ValueError where it is none."""
    try:
        found = json.loads((folder / "batch.json").read_text(encoding="utf-8"))
        return Batch(**found | {"notebooks": tuple(found["notebooks"])})
    except (FileNotFoundError, json.JSONDecodeError, TypeError, KeyError) as error:
        raise ValueError(f"{folder} holds no batch that could be resumed ({type(error).__name__}: {error})") from None


def run_batch(batch: Batch, folder: Path, jobs: int = 1, root: Path = REPOSITORY, console: Console | None = None) -> dict:
    """Run what is not done yet, `jobs` notebooks at a time; returns the report, which is written with the page whatever happens.

    Raises what `plan` raises, before anything runs.  Ctrl-C and SIGTERM end the running notebooks, each with its copy saved, and then raise.
    """
    folder = Path(folder).resolve()
    try:
        planned = plan(batch, folder, root)
    except Exception:
        with suppress(OSError):  # a new folder is empty still, any other one stays
            folder.rmdir()
        raise
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / ".batch.lock").acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another `mmo course run` is at work in {folder}: wait for it") from None
    with lock:
        return alone(batch, folder, planned, jobs, console or Console())


def alone(batch: Batch, folder: Path, planned: list[Job], jobs: int, console: Console) -> dict:
    """`run_batch`, where no other works in the same folder."""
    write_batch(folder, batch)
    for job in planned:
        if job.outcome()["state"] != "done":
            job.file("json").unlink(missing_ok=True)
    try:
        with stop_on_sigterm():
            work_off(planned, batch, jobs, console)
    finally:
        report = finish(batch, planned, folder)
        counts = {state: sum(each["state"] == state for each in report["jobs"]) for state in dict.fromkeys(each["state"] for each in report["jobs"])}
        console.print(f"{', '.join(f'{count} {state}' for state, count in counts.items())}: {folder / 'index.html'}", markup=False, soft_wrap=True)
    return report


def work_off(planned: list[Job], batch: Batch, jobs: int, console: Console) -> None:
    """Start what is ready, wait for what runs, until nothing is left."""
    waiting = [job for job in planned if job.outcome()["state"] == "waiting"]
    running: dict[subprocess.Popen, Job] = {}
    try:
        while waiting or running:
            for process in [process for process in running if process.poll() is not None]:
                ended(running.pop(process), process.returncode, console)
            for job in list(waiting):
                states = {other.entry.number: other.outcome()["state"] for other in planned if other.folder == job.folder}
                lost = [number for number in job.needs if states[number] in ("failed", "stopped", "skipped")]
                if lost:
                    waiting.remove(job)
                    note(job, {"state": "skipped", "reason": f"it builds on {', '.join(lost)}, which did not come to the end"})
                    console.print(f"{job.name}: skipped, it builds on {', '.join(lost)}", markup=False, soft_wrap=True)
                elif len(running) < jobs and all(states[number] == "done" for number in job.needs):
                    waiting.remove(job)
                    console.print(f"{job.name} …", markup=False, soft_wrap=True)
                    running[start(job, batch, jobs)] = job
            time.sleep(POLL_SECONDS)
    except (KeyboardInterrupt, Stopped):
        console.print("stopping …")
        stop(running, console)
        raise


def start(job: Job, batch: Batch, jobs: int) -> subprocess.Popen:
    """Start a job's process.  It leads a group of its own, so that Ctrl-C reaches it through us and once."""
    job.file("json").parent.mkdir(parents=True, exist_ok=True)
    spec = {
        "source": str(job.source), "copy": str(job.file("ipynb")), "page": str(job.file("html")), "outcome": str(job.file("json")),
        "parameters": job.parameters, "runs": str(job.folder.parent), "limit": None if batch.minutes is None else 60 * batch.minutes,
    }  # fmt: skip
    job.file("job.json").write_text(json.dumps(spec, indent=1), encoding="utf-8")
    command = [sys.executable, "-m", "mmo.course.job", str(job.file("job.json"))]
    with open(job.file("log"), "w", encoding="utf-8") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment(batch, jobs), cwd=REPOSITORY, start_new_session=os.name != "nt")


def environment(batch: Batch, jobs: int) -> dict[str, str]:
    """Of a job's process: this package, the cache that all runs share, and a fair share of the cores."""
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    changed = {"PYTHONPATH": path, "MMO_CACHE": os.environ.get("MMO_CACHE") or str((runs_root() / "cache").resolve())}
    if batch.edition == "solutions":
        changed["MMO_STRICT"] = "1"  # nothing stands in for an answer there, and a check that fails is an error
    if jobs > 1 and "OMP_NUM_THREADS" not in os.environ:
        changed["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
    return os.environ | changed


def ended(job: Job, status: int, console: Console) -> None:
    """A job's process is over: what came of it."""
    outcome = job.outcome()
    if outcome["state"] == "waiting":  # it left no outcome: killed from outside, or broken before it began
        last = job.file("log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        outcome = {"state": "failed", "reason": f"its process ended with status {status}: {last[0]} ({job.file('log')})"}
        note(job, outcome)
    words = f"{outcome['seconds']:.0f} s" if outcome["state"] == "done" else outcome["reason"]
    console.print(f"{job.name}: {outcome['state']}, {words}", markup=False, soft_wrap=True)


def note(job: Job, outcome: dict) -> None:
    job.file("json").parent.mkdir(parents=True, exist_ok=True)
    write_report(job.file("json"), outcome)


def stop(running: dict[subprocess.Popen, Job], console: Console) -> None:
    """End all running jobs: each saves its copy first; who does not end in time is killed."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave kernels behind
    try:
        for process in running:
            process.terminate()
        until = time.monotonic() + GRACE_SECONDS
        for process, job in running.items():
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                kill_group(process)
                process.wait()
            ended(job, process.returncode, console)
    finally:
        signal.signal(signal.SIGINT, before)


def kill_group(process: subprocess.Popen) -> None:
    """A job and its kernel."""
    if os.name == "nt":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)


# --- The report --------------------------------------------------------------------------------------------------


def finish(batch: Batch, planned: Sequence[Job], folder: Path) -> dict:
    """Write report.json and index.html from what lies in the folder; returns the report."""
    rows = [{"variant": job.variant, "notebook": job.entry.number, "copy": relative(job.file("ipynb"), folder), "page": relative(job.file("html"), folder)} | job.outcome() for job in planned]
    variants = {job.variant: job.folder for job in planned}
    report = {"asked": asdict(batch), "jobs": rows, "losses": {name: last_losses(place) for name, place in variants.items()}}
    write_report(folder / "report.json", report)
    (folder / "index.html").write_text(batch_page(report, folder, {entry.number: entry.title for entry in (job.entry for job in planned)}), encoding="utf-8")
    return report


def relative(path: Path, folder: Path) -> str | None:
    """A file's place under the folder; None where it is not there."""
    return path.relative_to(folder).as_posix() if path.is_file() else None


def last_losses(run: Path) -> dict[str, dict]:
    """Stage -> the last held-out losses in a variant's logs."""
    from mmo.training import read_log

    found = {}
    for path in sorted((run / "log").glob("*.jsonl")):
        entries = [each for each in read_log(path, validation=True) if str(each["validation"]).startswith(path.stem)]
        if entries:
            last = {key: entries[-1][key] for key in ("step", "text", "audio") if key in entries[-1]}
            found[path.stem] = {key: value if math.isfinite(value) else None for key, value in last.items()}  # JSON knows no NaN: a rate of 3e4 for 3e-4
    return found


def main(ask: Callable[[], tuple[Batch, Path]], jobs: int) -> int:
    """`mmo course run`: exit status 0 where every notebook came to its end, 130 where it was stopped, else 1."""
    try:
        batch, folder = ask()
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    try:
        report = run_batch(batch, folder, jobs)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    except (KeyboardInterrupt, Stopped):
        print(f"stopped; go on with: mmo course run --resume {folder}", file=sys.stderr)
        return 130
    return 0 if all(each["state"] == "done" for each in report["jobs"]) else 1
