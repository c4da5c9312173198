"""Notebook 11."""

import torch

from mmo.course.exercises import Case
from mmo.course.tasks.errors import conversation
from mmo.sequence import THINK_WINDOW

PAIRS = (
    ("a small green star below a large white moon", "small green stars below a a large moon"),
    ("one", "one one one one"),
    ("one two three four five", "five four three two one"),
    ("hello", "good bye"),
)

SHARES = (([0.9, 0.1], [0.2, 0.7], [30.0, 4.0], [12.0, 40.0]), ([1.0], [0.5], [8.0], [20.0]), ([0.25] * 4, [0.9, 0.0, 0.3, 1.0], [5.0, 6.0, 7.0, 8.0], [50.0, 10.0, 20.0, 30.0]))



def begins_cases():
    said, ending = [60, 61, 62], [5, 9, 9]
    return [
        Case("nothing but a block, cut off behind it", (*conversation([7], [4, 9, 40, *ending], [])[:3], ending)),
        Case(f"a block that is closed at its token {THINK_WINDOW}", conversation([7, 8], [40] * (THINK_WINDOW - 1) + ending + said, [2])),
        Case(f"a block that would be closed at its token {THINK_WINDOW + 1}", conversation([7, 8], [40] * THINK_WINDOW + ending + said, [2])),
        Case("a closing sign of one token", ([7, 4, 40, 41, 5, 60, 2], 1, 6, [5])),
        Case("an answer that is cut off within its block", conversation([7, 8, 9], [4, 9, 40, 41], [])),
    ]


HIDDEN = {
    "11.begins": begins_cases,
    "11.word_errors": lambda: [Case(f'"{wanted}" heard as "{heard}"', (wanted.split(), heard.split())) for wanted, heard in PAIRS],
    "11.cost": lambda: [
        Case(f"{weights}, learning: {learns}", (torch.tensor(weights), torch.tensor(learns)))
        for weights, learns in (([7, 11, 13, 17], [False, True, False, True]), ([100], [True]), ([40, 9000, 300], [True, False, True]), ([5, 6], [False, True]))
    ],
    "11.labels": lambda: [Case(f"{len(each[0])} sources, silent {each[1]}", tuple(torch.tensor(values) for values in each)) for each in SHARES],
}
