"""Notebook 03."""

import torch
import torch.nn.functional as F

from mmo.course.exercises import Case
from mmo.course.tasks.vision import drawn, numbered


def unit(*shape: int, seed: int) -> torch.Tensor:
    return F.normalize(drawn(*shape, seed=seed), dim=-1)


def loss_cases():
    some = torch.tensor([[True, False, True, False, False], [False, True, False, False, False]])
    return [
        Case("2 pictures and 5 captions, one of them true for none", (unit(2, 6, seed=70), unit(5, 6, seed=71), some, torch.tensor(1.7), torch.tensor(-4.0))),
        Case("one pair", (unit(1, 4, seed=72), unit(1, 4, seed=73), torch.ones(1, 1, dtype=torch.bool), torch.tensor(0.0), torch.tensor(0.5))),
    ]


HIDDEN = {
    "03.patchify": lambda: [Case(f"{C} channels, {S} x {S} pixels, patches of {size}", (numbered(C, S), size)) for C, S, size in ((2, 15, 3), (4, 8, 8), (3, 10, 1))],
    "03.embed": lambda: [Case("6 patches of 2 x 3 x 3 into 7 features", (drawn(6, 18, seed=74), drawn(7, 2, 3, 3, seed=75), drawn(7, seed=76), drawn(6, 7, seed=77)))],
    "03.attention": lambda: [Case(f"{P} patches, a head {d} wide", (drawn(P, d, seed=78), drawn(P, d, seed=79), drawn(P, d, seed=80))) for P, d in ((1, 5), (9, 16))],
    "03.sigmoid_loss": loss_cases,
    "03.probe": lambda: [Case("30 pictures, 5 features, 3 classes, strength 0.5", (drawn(30, 5, seed=81) - 0.2, torch.arange(30) * 5 % 3, 3, 0.5))],
}
