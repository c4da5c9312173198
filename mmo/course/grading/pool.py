"""Many answers, each in a process of its own, each watched and stopped where it goes too far.

Where the platform can (Linux, macOS) the processes are forked from a server that has imported torch and the exercises once (multiprocessing's
forkserver): one is ready in milliseconds.  Windows starts each anew and imports torch each time, some seconds an answer.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import secrets
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from mmo.course.grading.child import WARM, Job, Result, main
from mmo.course.grading.files import printable
from mmo.course.grading.limits import MEGABYTE, Limits

PAUSE = 0.02  # seconds between two looks at what runs
PATIENCE_AT_START = 600  # seconds until a process is ready; the first waits for the server, which imports torch
PATIENCE_FOR_RESULT = 60  # seconds until the rest of a message is there
LONGEST_RESULT = 8 * MEGABYTE  # of JSON, its picture included
NO_VERDICT = "what it sent is no verdict: the answer meddles with the process it runs in"
VERDICTS = ("passed", "wrong", "unsolved")
SHOWN = 2000  # characters of what an answer printed


@dataclass(frozen=True)
class Outcome:
    """A result, what the answer printed (its beginning), and the seconds it took by the clock."""

    result: Result
    printed: str
    seconds: float


@dataclass
class Running:
    """A process at work.  What it used before it was ready (imports, the server's start) is not the answer's."""

    number: int
    job: Job
    process: BaseProcess
    channel: Connection
    printed: Path
    begun: float  # by the clock: since its start, then since it was ready
    token: str = ""  # comes back with the result
    ready: bool = False
    watched: psutil.Process | None = None  # None too where it was over before anybody looked
    seconds: float = 0.0  # of processor time used when it was ready
    memory: int = 0  # bytes it had then
    looked: float = 0.0  # when it was last seen, by the clock
    idle: float = 0.0  # seconds in which it was seen asleep


class CannotStart(RuntimeError):
    """No process could be made ready: nothing of a student's has run in it yet."""


def run_all(jobs: Sequence[Job], workers: int, warm: Sequence[str] = (), told: Callable[[int, Outcome], None] = lambda number, outcome: None) -> list[Outcome]:
    """Run every job, `workers` at a time; outcomes in the order of the jobs.

    warm: numbers of the notebooks ("07") that a forking server prepares for.  told: called with each outcome as it comes.
    Raises ValueError for fewer than one worker, CannotStart where the machine lets no process run.
    """
    if workers < 1:
        raise ValueError(f"at least one worker is needed, not {workers}")
    outcomes: dict[int, Outcome] = {}
    waiting, running = list(enumerate(jobs))[::-1], []
    with tempfile.TemporaryDirectory(prefix="mmo-grade-") as scratch, quiet_machine(warm):
        context = multiprocessing.get_context(method())
        if method() == "forkserver":
            context.set_forkserver_preload(["mmo.course.grading.warm"])
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    running.append(begin(*waiting.pop(), context, Path(scratch)))
                for each in list(running):
                    result = look(each)
                    if result:
                        running.remove(each)
                        outcomes[each.number] = finished(each, result)
                        told(each.number, outcomes[each.number])
                time.sleep(PAUSE)
        finally:
            for each in running:
                end(each)
    return [outcomes[number] for number in range(len(jobs))]


def method() -> str:
    """How processes are made here."""
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


@contextlib.contextmanager
def quiet_machine(warm: Sequence[str]) -> Iterator[None]:
    """One thread for each process, no GPU: a forked process could not use its parent's."""
    wanted = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "agg", WARM: ",".join(warm)}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def begin(number: int, job: Job, context, scratch: Path) -> Running:
    """Start a process for a job."""
    folder = scratch / str(number)
    folder.mkdir()
    printed = scratch / f"{number}.txt"
    ours, theirs = context.Pipe(duplex=False)
    token = secrets.token_hex(16)
    process = context.Process(target=main, args=(job, theirs, str(folder), str(printed), token), daemon=True)
    process.start()
    theirs.close()
    return Running(number, job, process, ours, printed, time.monotonic(), token)


def look(each: Running) -> Result | None:
    """The result of a process if there is one, if it has ended, or if it had to be stopped; None while it works.

    Raises CannotStart where a process does not get as far as the answer: that is the machine's fault, not the student's.
    """
    if not each.ready:
        wait_until_ready(each)
        return None
    if each.channel.poll():
        return received(each)
    if not each.process.is_alive():
        return received(each) if each.channel.poll() else Result(stopped=how_it_ended(each.process.exitcode, each.job.limits))
    too_much = excess(each, each.job.limits)
    return Result(stopped=too_much) if too_much else None


def wait_until_ready(each: Running) -> None:
    """Note what a process has used when it says that it is ready."""
    if each.channel.poll():
        try:
            message = json.loads(each.channel.recv_bytes(LONGEST_RESULT))
        except EOFError:
            raise CannotStart(f"a process for {each.job.answer.id} ended before the answer was run; its last words: {beginning(each.printed) or 'none'}") from None
        each.ready, each.seconds, each.memory = True, message["seconds"], message["memory"]
        each.begun = each.looked = time.monotonic()
        with contextlib.suppress(psutil.NoSuchProcess):
            each.watched = psutil.Process(each.process.pid)
    elif time.monotonic() - each.begun > PATIENCE_AT_START:
        raise CannotStart(f"a process was not ready after {PATIENCE_AT_START} seconds")


def received(each: Running) -> Result:
    """What a process sent.  Whatever it sent, this does not raise, and it does not wait for ever for the rest of what was begun."""
    found: list[bytes | Exception] = []
    reader = threading.Thread(target=lambda: found.append(message_of(each.channel)), daemon=True)
    reader.start()
    reader.join(PATIENCE_FOR_RESULT)
    if not found:  # it announced more than it sends
        each.process.kill()
        return Result(stopped=NO_VERDICT)
    if isinstance(found[0], EOFError):
        each.process.join(5)
        return Result(stopped=how_it_ended(each.process.exitcode, each.job.limits))
    try:
        sent = json.loads(found[0])
        if not secrets.compare_digest(str(sent.pop("token", "")), each.token):
            return Result(stopped=NO_VERDICT)
        return checked(sent["result"])
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return Result(stopped=NO_VERDICT)


def message_of(channel: Connection) -> bytes | Exception:
    """The next message, or why there is none."""
    try:
        return channel.recv_bytes(LONGEST_RESULT)
    except (EOFError, OSError) as error:
        return error


def checked(sent: dict) -> Result:
    """A Result whose parts are of the right kind, that says something, and printable.  Raises TypeError otherwise."""
    result = Result(**sent)
    texts = (result.visible, result.words, result.alt, result.behind)
    maybe = (result.hidden, result.stopped, result.called, result.picture)
    if not all(isinstance(each, str) for each in texts) or not all(each is None or isinstance(each, str) for each in maybe) or not isinstance(result.silenced, bool):
        raise TypeError("not a Result")
    if result.visible not in VERDICTS or not (result.words.strip() or result.stopped):
        raise TypeError("a Result that says nothing")
    return Result(**{name: printable(value) if isinstance(value, str) else value for name, value in asdict(result).items()})


def how_it_ended(code: int | None, limits: Limits) -> str:
    """An end without a verdict, in words."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in {each.value for each in signal.Signals} else str(-code)
        if name == "SIGXCPU":
            return endless(limits)
        return f"it crashed the process ({name})"
    return f"it ended the process, status {code}"


def endless(limits: Limits) -> str:
    return f"it was still running after {limits.seconds:g} seconds, as an endless loop is"


def excess(each: Running, limits: Limits) -> str | None:
    """What a process has too much of, in words."""
    if each.printed.is_file() and each.printed.stat().st_size >= limits.output:
        return too_long(limits)
    if each.watched is None:
        return None
    try:
        used, memory, status = each.watched.cpu_times(), each.watched.memory_info().rss, each.watched.status()
    except psutil.Error:  # it has just ended; the next look sees that
        return None
    now = time.monotonic()
    # A process that wants to run and may not, on a crowded machine, is not idle.
    each.idle += now - each.looked if status == psutil.STATUS_SLEEPING else 0.0
    each.looked = now
    if used.user + used.system > each.seconds + limits.seconds:
        return endless(limits)
    if each.idle > limits.seconds or now - each.begun > limits.seconds * limits.patience:
        return f"it had not ended after {now - each.begun:.0f} seconds by the clock: it waits for something"
    return too_large(limits) if memory > each.memory + limits.memory else None


def too_long(limits: Limits) -> str:
    return f"it printed more than {limits.output / MEGABYTE:g} MB"


def too_large(limits: Limits) -> str:
    return f"it wanted more than {limits.memory / 1000 / MEGABYTE:g} GB of memory"


def finished(each: Running, result: Result) -> Outcome:
    """The outcome of a process that is over, or will be after this."""
    end(each)
    size = each.printed.stat().st_size if each.printed.is_file() else 0
    if not result.stopped and size >= each.job.limits.output:
        result = replace(result, stopped=too_long(each.job.limits))
    elif not result.stopped and any(sign in result.words for sign in ("MemoryError", "can't allocate memory", "not enough memory")):
        result = replace(result, stopped=too_large(each.job.limits))
    return Outcome(result, beginning(each.printed), time.monotonic() - each.begun)


def beginning(printed: Path) -> str:
    """What an answer printed, its beginning; the file goes, for a class may print gigabytes before it is through."""
    if not printed.is_file():
        return ""
    with printed.open(encoding="utf-8", errors="replace") as file:
        text = file.read(SHOWN)
    with contextlib.suppress(PermissionError):  # Windows: somebody still holds it; it goes with its folder
        printed.unlink()
    return text


def end(each: Running) -> None:
    """Stop a process and whatever it has started."""
    with contextlib.suppress(psutil.Error):
        family = psutil.Process(each.process.pid).children(recursive=True)
        for member in family:
            member.kill()
    each.process.kill()
    each.process.join(5)
    each.channel.close()
