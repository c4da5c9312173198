"""Notebook 15."""

import torch

from mmo.course.exercises import Case
from mmo.course.tasks.breaking import STOP, codes, late


def choose_cases():
    logits = torch.stack([torch.linspace(-2, 2, 33)[torch.randperm(33, generator=torch.Generator().manual_seed(seed))].half() for seed in range(70, 76)])
    return [Case("33 logits at temperature 0.7", (logits, torch.tensor([0.02, 0.31, 0.52, 0.66, 0.83, 0.97]), 0.7))]


def pooled_cases():
    return [
        Case("9 sentences in 4 groups, one of them empty", (torch.tensor([1, 0, 3, 2, 2, 0, 5, 1, 1]), torch.tensor([4, 6, 3, 8, 2, 7, 5, 9, 1]), torch.tensor([3, 0, 0, 3, 1, 1, 0, 3, 0]), 4)),
        Case("one sentence", (torch.tensor([2]), torch.tensor([8]), torch.tensor([0]), 1)),
    ]


HIDDEN = {
    "15.given": lambda: [
        Case(f"{Q} codebooks, {F} frames, step {step}, {given} of them given", (codes(Q, F, 70), 600 + torch.arange(Q), step, given, STOP)) for Q, F, step, given in ((6, 4, 5, 3), (6, 4, 2, 6), (3, 7, 8, 1), (5, 2, 4, 5))
    ],
    "15.blame": lambda: [Case(f"{len(rates)} joints, {rates}", (torch.tensor(rates, dtype=torch.float64),)) for rates in ([0.05, 0.5], [0.3, 0.3, 0.2, 0.6], [0.4])],
    "15.pooled": pooled_cases,
    "15.exponent": lambda: [
        Case("two widths", (torch.tensor([100, 300]), torch.tensor([7000, 61_000]))),
        Case("four widths, nearly linear", (torch.tensor([24, 40, 80, 320]), torch.tensor([2100, 3700, 7000, 29_000]))),
    ],
    "15.bits": lambda: [
        Case("five codebooks, losses rising", (torch.tensor([0.01, 0.4, 1.7, 2.9, 5.2]), torch.tensor([87, 90, 93, 96, 99]), 320)),
        Case("one codebook by heart", (torch.zeros(1), torch.tensor([64]), 1024)),
    ],
    "15.choose": choose_cases,
    "15.fate": lambda: [
        Case("seven small numbers, twice as large", (torch.tensor([1e-9, -1.4e-8, 1.6e-8, -4e-8, 0.0, 3e-5, -2.0]), 2.0, torch.float16)),
        Case("large numbers of both signs", (torch.tensor([-40000.0, 33000.0, 32757.0, 12.0, -0.0, 5e-9]), 2.0, torch.float16)),
        Case("bfloat16 at its own end", (torch.tensor([3.4e38, -1e-40, 1e-41, 2.0]), 1.0, torch.bfloat16)),
    ],
    "15.lags": lambda: [
        Case("6 codebooks, each with a lag of its own", (codes(6, 12, 71), late(codes(6, 12, 71), (2, 0, -1, 1, -2, 0)), 3)),
        Case("all of them two frames late", (codes(2, 10, 72), late(codes(2, 10, 72), (2, 2)), 4)),
    ],
}
