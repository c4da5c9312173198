"""Notebook 04."""

import torch

from mmo.course.exercises import Case
from mmo.course.tasks.projector import PAD, drawn, tokens


def weights(narrow: int, wide: int) -> tuple[torch.Tensor, ...]:
    shapes = ((narrow,), (narrow,), (wide, narrow), (wide,), (wide, wide), (wide,))
    return tuple(0.4 * drawn(*shape, seed=70 + place) + float(place == 0) for place, shape in enumerate(shapes))


def place_case(name: str, ids: torch.Tensor, features: torch.Tensor, lengths: torch.Tensor | None = None) -> Case:
    return Case(name, (0.5 * drawn(*ids.shape, features.shape[-1], seed=80), ids, PAD, drawn(*features.shape, seed=81) - 2, lengths))


HIDDEN = {
    "04.projector": lambda: [
        Case("3 features, 10 wide, for a stream of width 6", (4 * drawn(3, 10, seed=82) + 2, *weights(10, 6))),
        Case("2 x 2 x 3 features, 5 wide, for a stream of width 7", (drawn(2, 2, 3, 5, seed=83), *weights(5, 7))),
    ],
    "04.parameters": lambda: [Case(f"from {narrow} to {wide}", (narrow, wide)) for narrow, wide in ((7, 2), (560, 1024), (1, 1))],
    "04.runs": lambda: [
        Case("nothing but placeholders, and none", (torch.tensor([[4, 4, 4], [1, 2, 3]]), 4)),
        Case("single placeholders, each a run of its own", (torch.tensor([[7, 1, 7, 2, 7, 7, 3, 7]]), 7)),
    ],
    "04.place_features": lambda: [
        place_case("three rows, each with another length", tokens("w___ww__", "ww____ww", "_wwwwww_"), drawn(3, 1, 4, 5), torch.tensor([[3], [4], [1]])),
        place_case("two pictures of 3 patches in one row", tokens("___w___w"), drawn(1, 2, 3, 2)),
    ],
}
