"""Notebook 13."""

import torch

from mmo.course.exercises import Case


def drawn(*shape: int, seed: int = 70) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def likeness_cases():
    portraits = 5 * drawn(64) + drawn(5, 64, seed=71)
    return [
        Case("five voices, one of them itself", (portraits[3].clone(), portraits)),
        Case("a sound like nobody's", (5 * drawn(64) + drawn(64, seed=72), portraits[:2])),
    ]


HIDDEN = {
    "13.waits": lambda: [
        Case("every piece late", ([50.0, 200.0, 400.0, 700.0], [40.0, 40.0, 80.0, 80.0], 0.0)),
        Case("a head start that is just enough", ([30.0, 60.0, 300.0], [40.0, 60.0, 60.0], 170.0)),
        Case("a store that runs empty, is filled and runs empty again", ([10.0, 20.0, 190.0, 200.0, 210.0, 500.0], [80.0, 80.0, 80.0, 40.0, 40.0, 80.0], 5.0)),
    ],
    "13.in_play": lambda: [
        Case("three axes, temperature 0.3", (2 * drawn(2, 3, 40).float(), 0.3)),
        Case("two codes, one ten thousand times as likely", (torch.tensor([[9.21, 0.0]]), 1.0)),
        Case("hot, 5.0", (4 * drawn(4, 30).float(), 5.0)),
    ],
    "13.likeness": likeness_cases,
}
