"""Verdicts into points.

An exercise that passes its visible cases but not the hidden ones earns the visible share; the rest of the points is the hidden cases'.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmo.course.catalogue import Notebook
from mmo.course.exercises import Exercise
from mmo.course.grading.marks import SILENCED
from mmo.course.grading.pool import Outcome

KINDS = ("right", "partly", "wrong", "open", "stopped", "missing")


@dataclass(frozen=True)
class Grade:
    """One student's one exercise: a line of grades.csv, and what the student's page shows of it."""

    student: str
    notebook: str
    exercise: str
    points: float
    of: int
    kind: str  # one of KINDS
    reason: str
    marks: tuple[str, ...] = ()
    picture: str | None = None  # PNG, base64
    alt: str = ""
    printed: str = ""

    @property
    def reasons(self) -> str:
        """Reason and marks as one line."""
        marked = "".join(f"[LOOK: {mark}] " for mark in self.marks)
        return " ".join((marked + self.reason).split())


def without_answer(student: str, task: Exercise, entry: Notebook, problem: str) -> Grade:
    """No points, where there is nothing to judge."""
    return Grade(student, task.notebook, task.id, 0.0, entry.exercises[task.id], "missing", problem)


def graded(student: str, task: Exercise, entry: Notebook, outcome: Outcome, marks: tuple[str, ...], marked_points: float) -> Grade:
    """The grade for an outcome.  entry: what course.yml says of points and hidden shares; marked_points: factor for a marked answer."""
    result, of = outcome.result, entry.exercises[task.id]
    marks = marks or seen_while_running(result)
    share, kind, reason = judged(result, entry.share_of(task.id))
    points = round(of * share * (marked_points if marks else 1.0), 2)
    return Grade(student, task.notebook, task.id, points, of, kind, reason, marks, result.picture, result.alt, outcome.printed)


def seen_while_running(result) -> tuple[str, ...]:
    """What of a run a person should look at, in words."""
    called = (f"calls {result.called} while it runs",) if result.called else ()
    return called + ((SILENCED,) if result.silenced else ())


def judged(result, hidden_share: float) -> tuple[float, str, str]:
    """(share of the points, kind, reason) of a result."""
    share, kind, reason = verdict_of(result, hidden_share)
    behind = f"\nBehind the function its cell stops: {result.behind}. The function was judged all the same." if result.behind else ""
    return share, kind, reason + behind


def verdict_of(result, hidden_share: float) -> tuple[float, str, str]:
    """As `judged`, of the function alone."""
    if result.stopped:
        return 0.0, "stopped", f"Stopped: {result.stopped}."
    if result.visible == "unsolved":
        return 0.0, "open", "Still open: it raises NotImplementedError."
    if result.visible != "passed":
        return 0.0, "wrong", result.words
    if result.hidden not in (None, "passed"):
        return 1.0 - hidden_share, "partly", result.words
    return 1.0, "right", "Right, in hidden cases too." if result.hidden else "Right."
