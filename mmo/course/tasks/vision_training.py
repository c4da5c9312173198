"""Appendix A3: captions that are nearly right, which pairs are true, and how retrieval is counted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmo.course.exercises import Bug, Case, Exercise
from mmo.course.pictures import compare_grids
from mmo.world import pictures
from mmo.world.text import COLOURS, SHAPES, SIZES, Scene, Thing
from mmo.world.train_vision_encoder import recall as package_recall

# --- A3.swaps ----------------------------------------------------------------------------------------------------


def swaps(size: str, colour: str, shape: str) -> list[tuple[str, str, str]]:
    """All things that differ from this one in exactly one attribute, sorted."""
    found = pictures.attribute_swaps(Scene((Thing(size, colour, shape),)))
    return sorted((each.things[0].size, each.things[0].colour, each.things[0].shape) for each in found)


def every_thing() -> list[tuple[str, str, str]]:
    return sorted((size, colour, shape) for size in SIZES for colour in COLOURS for shape in SHAPES)


def differences(one: Sequence[str], other: Sequence[str]) -> int:
    return sum(a != b for a, b in zip(one, other))


def swaps_of_middle_size_missing(size: str, colour: str, shape: str) -> list[tuple[str, str, str]]:
    return [each for each in swaps(size, colour, shape) if each[0] or each[0] == size]


SWAPS = Exercise(
    id="A3.swaps",
    title="Nearly right",
    difficulty=1,
    importance=3,
    minutes=8,
    looks="A sorted list of 2 + 8 + 8 things: the other sizes, the other colours, the other shapes.",
    hints=(
        "Go through every thing there is (three loops) and keep some. By how many attributes may a kept one differ?",
        "Count the places where the two triples differ, and keep those with exactly one: not none, not two.",
        "sorted(other for other in all triples if sum(a != b for a, b in zip(other, (size, colour, shape))) == 1)",
    ),
    reference=swaps,
    package_name="mmo.world.pictures.attribute_swaps",
    cases=lambda: [Case("a large red circle", ("large", "red", "circle")), Case("a blue star of middle size, which is written \"\"", ("", "blue", "star")), Case("a small white moon", ("small", "white", "moon"))],
    bugs=(
        Bug("The thing itself is in the list. As a negative it would teach that the right caption is wrong.", lambda *thing: sorted([*swaps(*thing), thing])),
        Bug("These differ in one attribute or more: nearly the whole world. What differs in everything is told apart by colour alone and teaches nothing.", lambda *thing: [each for each in every_thing() if differences(each, thing) >= 1]),
        Bug("These differ in all three attributes: the easiest negatives there are.", lambda *thing: [each for each in every_thing() if differences(each, thing) == 3]),
        Bug("These differ in exactly two attributes.", lambda *thing: [each for each in every_thing() if differences(each, thing) == 2]),
        Bug("Only the colour is swapped. Shape and size are what a tower learns last: it needs these negatives most.", lambda *thing: [each for each in swaps(*thing) if each[1] != thing[1]]),
        Bug("The sizes are never swapped.", lambda *thing: [each for each in swaps(*thing) if each[0] == thing[0]]),
        Bug("The middle size is missing; it is written \"\", and an empty string counts as False.", swaps_of_middle_size_missing),
        Bug("All are there, but not sorted.", lambda *thing: swaps(*thing)[::-1]),
    ),
)


# --- A3.together -------------------------------------------------------------------------------------------------


def together(pictures: Tensor, captions: Tensor) -> Tensor:
    """pictures (B,) and captions (N,), numbers of what each shows or says -> (B, N) bool: which pairs are true."""
    return pictures[:, None] == captions[None]


def together_cases() -> Sequence[Case]:
    return [
        Case("4 pictures, two of which show the same", (torch.tensor([4, 7, 4, 2]), torch.tensor([4, 7, 4, 2, 5, 6, 3, 1]))),
        Case("3 pictures, 3 captions and 3 wrong ones", (torch.tensor([4, 7, 9]), torch.tensor([4, 7, 9, 5, 8, 1]))),
        Case("a swapped caption that is right for another picture", (torch.tensor([4, 7, 9]), torch.tensor([4, 7, 9, 7, 8, 4]))),
    ]


def diagonal(pictures: Tensor, captions: Tensor) -> Tensor:
    return torch.eye(len(pictures), len(captions), dtype=torch.bool)


def diagonal_and_twins(pictures: Tensor, captions: Tensor) -> Tensor:
    """Only the first B captions are compared."""
    found = together(pictures, captions)
    found[:, len(pictures) :] = False
    return found


TOGETHER = Exercise(
    id="A3.together",
    title="Which pairs are true",
    difficulty=1,
    importance=3,
    minutes=6,
    looks="A diagonal, and a few more: a caption is true of every picture that shows what it says.",
    hints=(
        "The batch's own pairs lie on the diagonal. But two pictures of a batch may show the same. What is then true?",
        "A pair is true where the numbers are equal. Compare all with all: one as a column, one as a row.",
        "pictures[:, None] == captions[None]",
    ),
    reference=together,
    package_name="the comparison in mmo.world.train_vision_encoder.draw_batch",
    cases=together_cases,
    bugs=(
        Bug("Only the diagonal is true. Two pictures of a red ring are in the batch: each is now pushed away from a caption that is right.", diagonal),
        Bug("A swapped caption can be right for another picture of the batch. You mark all of them as wrong.", diagonal_and_twins),
        Bug("Rows and columns have changed places: a row is a picture.", lambda pictures, captions: together(captions, pictures)),
        Bug("The pairs are marked the other way round: True means that they belong together.", lambda pictures, captions: ~together(pictures, captions)),
    ),
    picture=lambda wanted, theirs: compare_grids(
        wanted.int(), theirs.int(), {0: "", 1: "yes"},
        rows=[f"picture {number}" for number in range(wanted.shape[0])], columns=[f"caption {number}" for number in range(wanted.shape[1])],
    ),
)


# --- A3.recall ---------------------------------------------------------------------------------------------------


def recall(pictures: Tensor, captions: Tensor) -> tuple[float, float]:
    """pictures (N, D), captions (N, D), row by row one pair -> share of pictures whose own caption is nearest, and of captions whose own picture is."""
    found = package_recall(pictures, captions)
    return found["caption_of_picture"], found["picture_of_caption"]


def recall_cases() -> Sequence[Case]:
    def pairs(N: int, D: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        first = torch.randn(N, D, generator=generator)
        second = first + noise * torch.randn(N, D, generator=generator)
        second[0] = first[1]  # picture 1 finds two captions, picture 0 none: the two directions differ
        return F.normalize(first, dim=1), F.normalize(second, dim=1)

    return [Case("8 pairs", pairs(8, 6, 0.2, 0)), Case("20 pairs, hard to tell apart", pairs(20, 4, 0.5, 1))]


def by_likeness(count):
    def wrong(pictures: Tensor, captions: Tensor):
        return count(pictures @ captions.T, torch.arange(len(pictures)))

    return wrong


def share(hits: Tensor) -> float:
    return hits.float().mean().item()


RECALL = Exercise(
    id="A3.recall",
    title="Recall at 1",
    difficulty=1,
    importance=2,
    minutes=8,
    looks="Two shares between 0 and 1. They need not be equal.",
    hints=(
        "likeness = pictures @ captions.T is (N, N): a row for each picture, a column for each caption. Where are the right pairs in it?",
        "For each picture the most alike caption: argmax along a row. It is right if it is the picture's own number.",
        "(likeness.argmax(dim=1) == torch.arange(N)).float().mean().item(), and the same with dim=0.",
    ),
    reference=recall,
    package_name="mmo.world.train_vision_encoder.recall",
    cases=recall_cases,
    bugs=(
        Bug("The two have changed places: the first is the caption of a picture, so the maximum runs over captions.", by_likeness(lambda likeness, own: (share(likeness.argmax(0) == own), share(likeness.argmax(1) == own)))),
        Bug("Both figures look in the same direction: one maximum must run along rows, the other along columns.", by_likeness(lambda likeness, own: (share(likeness.argmax(1) == own),) * 2)),
        Bug("You ask whether the right pair is alike (above 0), not whether it is the most alike of all.", by_likeness(lambda likeness, own: (share(likeness.diagonal() > 0),) * 2)),
        Bug("You look for the least alike.", by_likeness(lambda likeness, own: (share(likeness.argmin(1) == own), share(likeness.argmin(0) == own)))),
        Bug("You count hits, but do not divide by the number of pairs.", by_likeness(lambda likeness, own: (float((likeness.argmax(1) == own).sum()), float((likeness.argmax(0) == own).sum())))),
    ),
)

EXERCISES = (SWAPS, TOGETHER, RECALL)
