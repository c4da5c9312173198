"""nbgrader's marks on the cells of a learner's notebook, as `mmo course build` writes them.

    @exercise("07.delay")  ->  a solution cell, grade_id "07-delay"
    check("07.delay")      ->  a locked autograder test, grade_id "07-delay-check", worth the exercise's points

Whoever has no nbgrader sees nothing of them.  The schema is nbgrader's third (nbgrader/nbgraderformat/v3.json); a test holds every notebook
against nbgrader's own validator.  `mmo course nbgrader DIR` (mmo/course/grading/nbgrader_course.py) lays out a course that it runs on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

SCHEMA_VERSION = 3
EXERCISE = re.compile(r'@exercise\("([^"]+)"\)')
CHECK = re.compile(r'^check\("([^"]+)"\)', re.MULTILINE)


def solution_id(id: str) -> str:
    """ "07.delay" -> "07-delay": nbgrader allows letters, digits, "_" and "-"."""
    return id.replace(".", "-")


def check_id(id: str) -> str:
    """ "07.delay" -> "07-delay-check"."""
    return f"{solution_id(id)}-check"


def cell_marks(source: str, points: Mapping[str, int]) -> dict | None:
    """nbgrader's metadata for a code cell; None where it is neither an answer nor a check.  points: exercise id -> points, as course.yml has them.

    Raises ValueError for a cell that is both, or holds more than one of either: it could not be given points; and for a check without points.
    """
    from mmo.course.exercises import points_in

    answers, checks = EXERCISE.findall(source), CHECK.findall(source)
    if len(answers) + len(checks) > 1:
        raise ValueError(f"a cell of its own is needed for each of: {', '.join([*answers, *(f'check of {id}' for id in checks)])}")
    marks = {"grade": False, "locked": False, "schema_version": SCHEMA_VERSION, "solution": False, "task": False}
    for id in answers:
        return marks | {"grade_id": solution_id(id), "solution": True}
    for id in checks:
        return marks | {"grade_id": check_id(id), "grade": True, "locked": True, "points": points_in(points, id)}
    return None
