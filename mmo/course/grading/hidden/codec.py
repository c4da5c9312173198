"""Notebook 01."""

import torch

from mmo.course.exercises import Case
from mmo.course.tasks.codec import drawn, shrinking


def codes(Q: int, F: int, C: int, seed: int) -> torch.Tensor:
    return torch.randint(0, C, (Q, F), generator=torch.Generator().manual_seed(seed))


HIDDEN = {
    "01.nearest": lambda: [
        Case("20 points and 9 entries in 3 dimensions", (drawn(20, 3, seed=70), drawn(9, 3, seed=71))),
        Case("one point, far from all entries", (drawn(1, 6, seed=72) + 9, drawn(5, 6, seed=73))),
    ],
    "01.residual": lambda: [
        Case("11 points, 5 codebooks of 8 entries in 4 dimensions", (drawn(11, 4, seed=74), shrinking(5, 8, 4, 75))),
        Case("one point, 2 codebooks", (drawn(1, 3, seed=76), shrinking(2, 6, 3, 77))),
    ],
    "01.sum": lambda: [
        Case("5 codebooks, 7 frames", (codes(5, 7, 9, 78), shrinking(5, 9, 6, 79))),
        Case("only the first of 3 codebooks", (codes(1, 4, 5, 80), shrinking(3, 5, 2, 81))),
    ],
    "01.bitrate": lambda: [Case("75 frames of 32 codes, each one of 1024", (75.0, 32, 1024)), Case("25 frames of 3 codes, each one of 300", (25.0, 3, 300))],
    "01.perplexity": lambda: [
        Case("500 codes of 40", (torch.randint(0, 40, (500,), generator=torch.Generator().manual_seed(82)), 40)),
        Case("each of 6 codes twice, of 64", (torch.arange(6).repeat(2), 64)),
    ],
}
