"""Imported by the server that grading processes are forked from: what every answer needs, loaded once.

Nothing here runs a backward pass: threads that torch starts for one would not live on in a forked process.
"""

import os

import torch

from mmo.course.catalogue import listed_points
from mmo.course.exercises import drawn, exercises_of
from mmo.course.grading import child  # noqa: F401  (what a forked process runs)
from mmo.course.grading.hidden import hidden_cases
from mmo.course.grading.marks import package_codes

torch.set_num_threads(1)


def prepare(number: str) -> None:
    """Call the references of a notebook once, so that what they load late is there, and draw once, for the fonts."""
    listed_points()
    for task in exercises_of(number):
        for case in [*task.cases()[:1], *hidden_cases(task.id)[:1]]:
            wanted = task.reference(*case.arguments)
        drawn(task, wanted, wanted)
        package_codes(task)


for each in filter(None, os.environ.get(child.WARM, "").split(",")):
    prepare(each)
