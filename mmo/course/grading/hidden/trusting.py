"""Notebook 12."""

import torch

from mmo.course.exercises import Case
from mmo.course.tasks.trusting import draws, hits

WORDS = (("b a a c b b".split(), "a b b c".split()), (["one"], ["two", "one"]), ("x y z z y x".split(), "z y x x".split()))


def change_cases():
    generator = torch.Generator().manual_seed(70)
    before, after = (torch.rand(33, generator=generator) < share for share in (0.5, 0.8))
    return [
        Case("33 questions, more right than before", (before, after, draws(400, 33, 70))),
        Case("12 questions, all lost", (hits(12, 12), hits(12, 0), draws(400, 12, 71))),
    ]


CAPTIONS = ("a small orange diamond right of a large black ring", "two pink crosses", "a moon above a large yellow triangle", "a large purple heart below a small white square", "a green cross left of an orange cross")

HIDDEN = {
    "12.blind": lambda: [Case(f"{len(seen)} seen, {len(asked)} asked, list {number}", (seen, asked)) for number, (seen, asked) in enumerate(WORDS, 1)],
    "12.told": lambda: [Case(f'"{caption}", told otherwise', (caption.split(),)) for caption in CAPTIONS],
    "12.interval": lambda: [Case(f"{right} of {count} right", (hits(count, right), draws(400, count, seed))) for count, right, seed in ((40, 3, 70), (5, 2, 71), (12, 0, 72))],
    "12.change": change_cases,
}
