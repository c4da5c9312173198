"""Notebook 06."""

import torch

from mmo.course.exercises import Case
from mmo.course.tasks.mixture import scored
from mmo.course.tasks.thinker import drawn


def balance_cases():
    one, two = scored(12, 3, seed=90), scored(7, 6, seed=91)
    return [
        Case("12 positions, 3 experts, one each", (one, one.topk(1).indices)),
        Case("7 positions, 6 experts, three each", (two, two.topk(3).indices)),
        Case("everything to expert 1", (scored(5, 2, seed=92), torch.ones(5, 1, dtype=torch.long))),
    ]


HIDDEN = {
    "06.parameters": lambda: [Case("one expert", (5, 7, 1, 1)), Case("width 768, inner 2432, 4 experts, 1 a position", (768, 2432, 4, 1)), Case("all of 3 experts", (4, 9, 3, 3))],
    "06.route": lambda: [
        Case("5 positions, 3 experts, the best, as it is", (drawn(5, 6, seed=93), drawn(3, 6, seed=94), 1, False)),
        Case("4 positions, 5 experts, the best three, renormalised", (drawn(4, 6, seed=95), drawn(5, 6, seed=96), 3, True)),
    ],
    "06.dispatch": lambda: [
        Case("one position", (drawn(1, 3, seed=97), torch.tensor([1]), drawn(2, 3, 3, seed=98))),
        Case("all to the last expert", (drawn(6, 3, seed=99), torch.full((6,), 2), drawn(3, 3, 3, seed=100))),
        Case("12 positions, 5 experts", (drawn(12, 4, seed=101), torch.tensor([4, 1, 0, 3, 3, 2, 4, 0, 0, 1, 2, 4]), drawn(5, 4, 4, seed=102))),
    ],
    "06.balance": balance_cases,
}
