"""Notebook 08."""

import torch

from mmo.config import IGNORE
from mmo.course.exercises import Case
from mmo.course.tasks.talker import PAD, SPEAKER, drawn, toy_projection, whole


def input_cases():
    projections = toy_projection(7, 4, 4), toy_projection(8, 4, 4)
    first = torch.tensor([[PAD, PAD, SPEAKER, 1], [SPEAKER, 3, 4, 5], [PAD, 1, 2, 3]])
    scales = torch.tensor(2.0), torch.tensor(1.5)
    return [Case("3 rows, one of them without a voice", (drawn(3, 4, 4, seed=70), drawn(3, 4, 4, seed=71), first, drawn(3, 4, seed=72), *projections, *scales, SPEAKER))]


def loss_cases():
    labels = whole(12, 5, 9, seed=73)
    labels[:, 7:], labels[2, :3], labels[:, 6] = IGNORE, IGNORE, 13
    return [Case("5 codebooks, a stop of weight 4", (drawn(5, 9, 16, seed=74), labels, 13, 4.0, torch.tensor([3.0, 1.0, 1.0, 0.5, 0.25])))]


HIDDEN = {
    "08.embed": lambda: [
        Case("5 codebooks, one row of 3 positions", (whole(15, 1, 5, 3, seed=75), drawn(15, 4, seed=76), drawn(5, 15, 3, seed=77), drawn(5, 4, 3, seed=78))),
        Case("one codebook", (whole(10, 3, 1, 2, seed=79), drawn(10, 4, seed=80), drawn(1, 10, 2, seed=81), drawn(1, 4, 2, seed=82))),
    ],
    "08.heads": lambda: [Case("3 rows of 2 positions, 5 codebooks", (drawn(3, 2, 4, seed=83), drawn(14, 4, seed=84), drawn(5, 3, 4, seed=85), drawn(5, 14, 3, seed=86)))],
    "08.count": lambda: [Case(f"A {A}, D {D}, R {R}, Q {Q}", (A, D, R, Q)) for A, D, R, Q in ((1088, 256, 32, 4), (30, 8, 8, 1))],
    "08.input": input_cases,
    "08.loss": loss_cases,
}
