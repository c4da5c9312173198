"""Notebook 12."""

from mmo.course.exercises import Case
from mmo.course.tasks.trusting import draws, hits

HIDDEN = {"12.interval": lambda: [Case(f"{right} of {count} right", (hits(count, right), draws(400, count, seed))) for count, right, seed in ((40, 3, 70), (5, 2, 71), (12, 0, 72))]}
