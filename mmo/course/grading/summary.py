"""Which exercises the class found hard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mmo.course.grading.grades import KINDS, Grade


@dataclass(frozen=True)
class Line:
    """One exercise over the class.  share: of its points that the class earned; kinds: how many grades of each kind."""

    exercise: str
    share: float
    kinds: dict[str, int]
    often: str  # what was said to most of those who did not get it right; "" where nobody was told the same as another
    times: int


def hardest_first(grades: Sequence[Grade]) -> list[Line]:
    """A line for each exercise, the one with the smallest share of points first."""
    by_exercise: dict[str, list[Grade]] = {}
    for grade in grades:
        by_exercise.setdefault(grade.exercise, []).append(grade)
    return sorted((line(exercise, group) for exercise, group in by_exercise.items()), key=lambda each: (each.share, each.exercise))


def line(exercise: str, group: Sequence[Grade]) -> Line:
    counts = Counter(grade.kind for grade in group)
    # The first line is the diagnosis; what follows are the numbers of one student's result.
    said = Counter(grade.reason.splitlines()[0] for grade in group if grade.kind in ("wrong", "partly", "stopped"))
    often, times = said.most_common(1)[0] if said else ("", 0)
    often = often if times > 1 else ""
    share = sum(grade.points for grade in group) / sum(grade.of for grade in group)
    return Line(exercise, share, {kind: counts[kind] for kind in KINDS}, often, times)
