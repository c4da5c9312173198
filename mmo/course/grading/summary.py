"""Which exercises the class found hard, and which mistakes it made most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mmo.course.grading.grades import KINDS, Grade

NOT_RIGHT = ("wrong", "partly", "stopped")  # there was an answer, and something was said of it


@dataclass(frozen=True)
class Line:
    """One exercise over the class.  share: of its points that the class earned; kinds: how many grades of each kind."""

    exercise: str
    share: float
    kinds: dict[str, int]
    often: str  # what was said to most of those who did not get it right; "" where nobody was told the same as another
    times: int


@dataclass(frozen=True)
class Mistake:
    """What was said of several answers to one exercise, or of one.  words: the diagnosis; students: who was told it."""

    exercise: str
    words: str
    students: tuple[str, ...]


def seen_most(grades: Sequence[Grade], most: int = 10) -> list[Mistake]:
    """The mistakes of the class over all exercises, the one that most students made first; of equals the exercise that comes first."""
    found: dict[tuple[str, str], list[str]] = {}
    for grade in grades:
        if grade.kind in NOT_RIGHT:
            found.setdefault((grade.exercise, diagnosis(grade)), []).append(grade.student)
    mistakes = [Mistake(exercise, words, tuple(students)) for (exercise, words), students in found.items()]
    return sorted(mistakes, key=lambda each: (-len(each.students), each.exercise, each.words))[:most]


def diagnosis(grade: Grade) -> str:
    """The first line of a reason; what follows are the numbers of one student's result."""
    return grade.reason.strip().splitlines()[0]


def hardest_first(grades: Sequence[Grade]) -> list[Line]:
    """A line for each exercise, the one with the smallest share of points first."""
    by_exercise: dict[str, list[Grade]] = {}
    for grade in grades:
        by_exercise.setdefault(grade.exercise, []).append(grade)
    return sorted((line(exercise, group) for exercise, group in by_exercise.items()), key=lambda each: (each.share, each.exercise))


def line(exercise: str, group: Sequence[Grade]) -> Line:
    counts = Counter(grade.kind for grade in group)
    said = Counter(diagnosis(grade) for grade in group if grade.kind in NOT_RIGHT)
    often, times = said.most_common(1)[0] if said else ("", 0)
    often = often if times > 1 else ""
    share = sum(grade.points for grade in group) / sum(grade.of for grade in group)
    return Line(exercise, share, {kind: counts[kind] for kind in KINDS}, often, times)
