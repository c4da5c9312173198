"""Notebook A3."""

import torch
import torch.nn.functional as F

from mmo.course.exercises import Case


def pairs(N: int, D: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    first, noise = torch.randn(2, N, D, generator=torch.Generator().manual_seed(seed))
    return F.normalize(first, dim=1), F.normalize(first + 0.7 * noise, dim=1)


HIDDEN = {
    "A3.swaps": lambda: [Case(f"a {size} {colour} {shape}", (size, colour, shape)) for size, colour, shape in (("large", "white", "star"), ("small", "blue", "circle"))],
    "A3.together": lambda: [
        Case("5 pictures and 7 captions, one of them true for three", (torch.tensor([2, 2, 3, 2, 8]), torch.tensor([3, 2, 5, 8, 1, 0, 9]))),
        Case("one picture, no true caption", (torch.tensor([1]), torch.tensor([2, 3]))),
    ],
    "A3.recall": lambda: [Case("15 pairs", pairs(15, 5, 70)), Case("one pair", pairs(1, 4, 71))],
}
