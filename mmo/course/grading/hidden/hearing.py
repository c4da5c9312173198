"""Notebook 02."""

import torch

from mmo.course.exercises import Case
from mmo.course.tasks.hearing import drawn, humming, numbered

HIDDEN = {
    "02.windows": lambda: [Case(f"{samples} samples, windows of {size} every {hop}", (humming(samples, seed=70), size, hop)) for samples, size, hop in ((57, 10, 3), (801, 200, 80))],
    "02.mel_bank": lambda: [Case(f"{bands} bands over {size // 2 + 1} bins at {rate} Hz, from {low} Hz", (bands, size, rate, low)) for bands, size, rate, low in ((12, 256, 24_000, 40.0), (23, 256, 8_000, 64.0))],
    "02.stack": lambda: [Case(f"{T} frames of {D}, {width} stacked every {stride}", (numbered(T, D), width, stride)) for T, D, width, stride in ((12, 4, 7, 6), (20, 2, 3, 4), (7, 1, 5, 5))],
    "02.normalise": lambda: [Case(f"{N} frames of {D}", (2 * drawn(N, D, seed=71) - 3, 1 + drawn(D, seed=72), 0.5 + drawn(D, seed=73).abs())) for N, D in ((1, 6), (12, 80))],
    "02.collapse": lambda: [
        Case("a long row", (torch.tensor([0, 3, 3, 3, 0, 0, 3, 8, 8, 1, 0, 1, 1, 8]), 0)),
        Case("one sign", (torch.tensor([5]), 0)),
        Case("a blank whose number is 3", (torch.tensor([3, 1, 1, 3, 1, 0, 0, 3]), 3)),
    ],
}
