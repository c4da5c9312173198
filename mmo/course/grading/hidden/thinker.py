"""Notebook 05."""

import torch

from mmo.course.exercises import Case
from mmo.course.tasks.thinker import drawn
from mmo.transformer import rotary_table


def rotate_cases():
    cases = []
    for positions, heads, width, base in ((9, 3, 4, 1000.0), (1, 1, 16, 1e6)):
        cos, sin = (part[:, None] for part in rotary_table(width, positions, base, torch.device("cpu")))
        cases.append(Case(f"{positions} positions, {heads} heads of {width} numbers", (drawn(2, positions, heads, width, seed=70), cos, sin)))
    return cases


HIDDEN = {
    "05.rms_norm": lambda: [
        Case("vectors of 5 numbers, in one more dimension", (3 * drawn(2, 2, 4, 5, seed=71) + 1, 1 + 0.3 * drawn(5, seed=72), 1e-6)),
        Case("a large eps", (drawn(3, 6, seed=73), drawn(6, seed=74), 0.5)),
    ],
    "05.rotate": rotate_cases,
    "05.repeat_heads": lambda: [Case("one head for 4 queries", (drawn(2, 1, 3, 5, seed=75), 4)), Case("4 heads, each for 1 query", (drawn(1, 4, 2, 3, seed=76), 1))],
    "05.seen": lambda: [Case("6 new positions behind 2 cached", (6, 2)), Case("one position, alone", (1, 0)), Case("2 new positions behind 9", (2, 9))],
    "05.swiglu": lambda: [Case("width 4, inner width 4", (drawn(3, 4, seed=77), drawn(4, 4, seed=78), drawn(4, 4, seed=79), drawn(4, 4, seed=80)))],
    "05.next_token": lambda: [Case("one position, 12 tokens", (drawn(1, 4, seed=81), drawn(12, 4, seed=82))), Case("9 positions, 50 tokens", (drawn(9, 8, seed=83), drawn(50, 8, seed=84)))],
}
