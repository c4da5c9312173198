"""One answer, judged in a process of its own.

The answer's cell is run with nothing of the notebook but what it needs, then its function goes through the exercise's own cases and, if it
passes them, through the hidden ones.  Last, the check is given a typical mistake: if that passes now, the answer has changed the check.

What comes back is JSON text, never a pickle: a pickle from a student's process could run code in the instructor's.
"""

from __future__ import annotations

import base64
import builtins
import json
import linecache
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import torch

from mmo.course import desk
from mmo.course.exercises import Exercise, Verdict, drawn, find, judge, standard
from mmo.course.grading.answers import Answer
from mmo.course.grading.hidden import hidden_cases
from mmo.course.grading.limits import Limits, confine
from mmo.course.grading.marks import Trace, package_codes
from mmo.course.grading.variants import use

WARM = "MMO_GRADE_WARM"  # environment: numbers of the notebooks that a forking server prepares for
LOOKED_AT = ("check", "hint", "solution", "predict", "reveal", "quiz", "display")  # in a notebook they show something; here nobody looks


@dataclass(frozen=True)
class Job:
    """One answer to be judged.

    functions: exercise id -> name, of all exercises in the notebook; closed: folders not to be read; variant: what the class was asked.
    """

    answer: Answer
    functions: dict[str, str]
    limits: Limits
    closed: tuple[Path, ...] = ()
    variant: str | None = None


@dataclass(frozen=True)
class Result:
    """What came of an answer.

    visible, hidden: "passed", "wrong", "unsolved"; hidden is None where there are none or they were not reached.
    stopped: what ended it before there was a verdict.  called: the package's name for what the answer should have been.
    silenced: the answer took off the hook that watches it.  behind: the error of the cell's lines behind the function, which was judged all the same.
    """

    visible: str = "wrong"
    hidden: str | None = None
    words: str = ""
    stopped: str | None = None
    called: str | None = None
    picture: str | None = None  # PNG, base64
    alt: str = ""
    behind: str = ""
    silenced: bool = False


def main(job: Job, channel: Connection, folder: str, printed: str, token: str = "") -> None:
    """Judge one answer and send its Result as JSON, with the token: an answer that writes into the pipe itself does not know it.

    Runs once in a process, which is of no use afterwards.
    """
    redirect(printed)
    os.chdir(folder)
    sys.dont_write_bytecode = True
    torch.set_num_threads(1)
    use(job.variant)
    task = find(job.answer.id)
    cases = hidden_cases(task.id)
    confine(job.limits, Path(folder), job.closed)
    channel.send_bytes(json.dumps(used_so_far()).encode())  # ready: from here on the limits count
    try:
        result = examine(task, cases, job)
    except BaseException as error:  # exit(), KeyboardInterrupt, whatever it may raise: it is this answer's end only
        result = Result(stopped=f"it ended the process: {type(error).__name__} {error}".rstrip())
    channel.send_bytes(json.dumps({"token": token, "result": asdict(result)}).encode())
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass  # more than the limit, or closed by the answer; the pool measures the file
    os._exit(0)  # threads that the answer began end here


def used_so_far() -> dict:
    """Seconds of processor time and bytes of memory."""
    process = psutil.Process()
    times = process.cpu_times()
    return {"seconds": times.user + times.system, "memory": process.memory_info().rss}


def redirect(printed: str) -> None:
    """Nothing to read; everything that is printed goes into one file."""
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    with open(printed, "w") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    sys.stdin = open(0, closefd=False)
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)
    sys.stderr = open(2, "w", encoding="utf-8", errors="replace", closefd=False)


def examine(task: Exercise, cases: tuple, job: Job) -> Result:
    """Run the answer's cell and judge its function."""
    trace = Trace(package_codes(task))
    threading.setprofile(trace.note)  # a thread that the cell starts may work for the function later
    try:
        function, behind = defined(job)
    except Exception as error:  # whatever stands in the cell
        return Result(words=f"The cell stops before anything is checked: {error_in_cell(error)}")
    return replace(examine_function(task, cases, function, trace), behind=behind)


def examine_function(task: Exercise, cases: tuple, function: Callable, trace: Trace | None = None) -> Result:
    """Judge a function in the notebook's cases, then in the hidden ones."""
    trace, sketch = trace or Trace(package_codes(task)), Sketch()
    watched, quick = trace.watching(function), replace(task, picture=sketch.keep)
    visible = judge(quick, watched)
    hidden = judge(replace(quick, cases=lambda: cases), watched) if visible.passed and cases else None
    last = hidden or visible
    if last.passed and is_blind(quick):
        return Result(stopped="after it ran, the check lets a known mistake pass: the answer changes the check itself")
    if last.kind == "wrong" and task.picture and sketch.kept:
        last = replace(last, picture=drawn(task, *sketch.kept))
    return replace(as_result(visible, last, hidden, trace.called), silenced=trace.silenced)


@dataclass
class Sketch:
    """Keeps what a picture would be drawn of: drawing takes longer than judging, and a right answer needs none."""

    kept: tuple | None = None

    def keep(self, wanted, theirs) -> None:
        self.kept = (wanted, theirs)


def defined(job: Job) -> tuple[Callable, str]:
    """The function that the exercise's cell defines, and the error of the lines behind it, "" where they run.

    A scratch line behind a right function is no mistake in it.  Raises what the cell raises before; NameError where it defines no function.
    """
    names = names_before(job)
    file = f"<{job.answer.id}>"
    linecache.cache[file] = (len(job.answer.source), None, job.answer.source.splitlines(keepends=True), file)
    behind = ""
    try:
        exec(compile(job.answer.source, file, "exec"), names)
    except Exception as error:
        if job.answer.id not in desk.ATTEMPTS:
            raise
        behind = error_in_cell(error)
    if job.answer.id not in desk.ATTEMPTS:
        raise NameError(f"no function stands under @exercise({job.answer.id!r})")
    return desk.ATTEMPTS[job.answer.id].yours, behind


def names_before(job: Job) -> dict:
    """What an answer's cell finds: names of other cells, right functions of the other exercises, and stand-ins for what only shows something."""
    names: dict = {"__name__": "__main__", "__builtins__": builtins}
    exec(compile(job.answer.before, "<other cells>", "exec"), names)
    names |= {name: standard(id).reference for id, name in job.functions.items() if id != job.answer.id}
    names |= {name: shows_nothing for name in LOOKED_AT if getattr(names.get(name), "__module__", None) != "__main__"}  # a student's own stays
    names["exercise"] = desk.exercise
    return names


def shows_nothing(*arguments, **named) -> None:
    """Stands in for check, hint and their like: they write down a learner's progress, which is nothing to grade."""


def error_in_cell(error: Exception) -> str:
    """The error in words."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} (line {error.lineno} of the cell)"
    return f"{type(error).__name__}: {error}{elsewhere(f'{type(error).__name__}: {error}')}"


def elsewhere(words: str) -> str:
    """What to add where a name is missing: it may well be there in the notebook."""
    return " (an answer gets its arguments, imports, and functions of other cells; no values computed elsewhere in the notebook)" if "NameError" in words else ""


def is_blind(task: Exercise) -> bool:
    """Whether the check lets the first of the exercise's known mistakes pass."""
    return bool(task.bugs) and judge(task, task.bugs[0].wrong).passed


def as_result(visible: Verdict, last: Verdict, hidden: Verdict | None, called: str | None) -> Result:
    """Verdicts as what is sent; `last` decided."""
    words = last.words + elsewhere(last.words)
    if hidden and not hidden.passed:
        words = f"Right in the notebook's cases, wrong in others. {words}"
    picture = base64.b64encode(last.picture.png).decode() if last.picture else None
    return Result(visible.kind, hidden.kind if hidden else None, words, None, called, picture, last.picture.alt if last.picture else "")
