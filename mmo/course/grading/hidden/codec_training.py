"""Notebook A1."""

import torch

from mmo.course.exercises import Case
from mmo.course.tasks.codec_training import drawn


def update_case(N: int, K: int, D: int, decay: float) -> Case:
    codes = torch.randint(0, K, (N,), generator=torch.Generator().manual_seed(70))
    return Case(f"{N} vectors and {K} entries, decay {decay}", (drawn(K, seed=71).abs() + 1, drawn(K, D, seed=72), drawn(N, D, seed=73), codes, decay))


HIDDEN = {
    "A1.mel_loss": lambda: [Case(f"floor {floor}", (drawn(3, 4, 6, seed=74).abs(), 2 * drawn(3, 4, 6, seed=75).abs(), floor)) for floor in (0.01, 0.5)],
    "A1.straight_through": lambda: [Case(f"{N} vectors of {D} numbers", (drawn(N, D, seed=76), drawn(N, D, seed=77))) for N, D in ((1, 9), (8, 3))],
    "A1.update_codebook": lambda: [update_case(20, 6, 4, 0.8), update_case(1, 3, 5, 0.99)],
    "A1.dead": lambda: [
        Case("all used alike", (torch.full((6,), 2.5), 0.9)),
        Case("usages 9, 0.01, 0.02, 0.5 and a ratio of 0.2", (torch.tensor([9.0, 0.01, 0.02, 0.5]), 0.2)),
    ],
}
