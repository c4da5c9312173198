"""What nbgrader's hidden tests call: the points of one answer, in the kernel in which the notebook runs.

nbgrader takes the value of a test cell as its points (and all points where there is none, so the value must stand last), and none
where anything was written to stderr.

Unlike `mmo course grade` this judges inside the student's own kernel, as nbgrader does: there is one process for the whole notebook, without
limits but nbgrader's on time.  A check that the answer has changed is told, as there, by a known mistake that must not pass.
"""

from __future__ import annotations

import contextlib
import sys

from mmo.course import desk
from mmo.course.catalogue import read_course
from mmo.course.exercises import Exercise, find
from mmo.course.grading.child import Result, examine_function
from mmo.course.grading.grades import judged, seen_while_running
from mmo.course.grading.hidden import hidden_cases
from mmo.course.grading.variants import use


def points_for(id: str, marked_points: float = 1.0, variant: str | None = None) -> float:
    """The points of the answer that was run last; prints the reason, and what a person should look at.

    marked_points: factor for an answer that calls the package's own function.  variant: what the class was asked, by name.
    """
    use(variant)
    task = find(id)
    attempt = desk.ATTEMPTS.get(id)
    if attempt is None:
        print(f"{id}: 0 of {task.points} points. Not there: no cell with @exercise({id!r}) was run to its end.")
        return 0.0
    with contextlib.redirect_stderr(sys.stdout):
        result = examine_function(task, hidden_cases(id), attempt.yours)
    share, _, reason = judged(result, hidden_share(task))
    marks = seen_while_running(result)
    points = round(task.points * share * (marked_points if marks else 1.0), 2)
    print(f"{id}: {points:g} of {task.points} points. {reason}")
    for mark in marks:
        print(f"LOOK: {mark}.")
    show_picture(result)
    return points


def hidden_share(task: Exercise) -> float:
    """Of its points, for the hidden cases, as course.yml has it."""
    return next(entry.share_of(task.id) for entry in read_course() if entry.number == task.notebook)


def show_picture(result: Result) -> None:
    """Draw what came out beside what was wanted, for an answer that is wrong."""
    if result.picture:
        import base64

        from IPython.display import Image, display

        display(Image(data=base64.b64decode(result.picture), format="png", alt=result.alt))
