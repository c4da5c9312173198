"""Notebook A4."""

import torch

from mmo.course.exercises import Case
from mmo.course.tasks.scale import drawn

HIDDEN = {
    "A4.shard": lambda: [Case(f"{batches} batches, rank {rank} of {size}", (batches, rank, size)) for batches, rank, size in ((17, 2, 3), (16, 7, 8), (1, 0, 2), (0, 1, 4))],
    "A4.average": lambda: [Case("five ranks, two of which have none", ([None, drawn(2, 2, seed=70), drawn(2, 2, seed=71), None, drawn(2, 2, seed=72)],)), Case("alone", ([drawn(3, seed=73)],))],
    "A4.denominator": lambda: [Case("two codebooks, 8 ranks", (torch.tensor([12.0, 7.5]), torch.tensor([3, 2]), torch.tensor([40, 41]), 8))],
    "A4.speedup": lambda: [Case(f"{work} s of work, {size / 1e9:g} GB at {rate / 1e9:g} GB/s, {cards} cards", (work, size, rate, cards)) for work, size, rate, cards in ((2.0, 4e9, 2e9, 3), (0.25, 1e8, 2.5e10, 16))],
}
