"""Notebook 09."""

import torch

from mmo.course.exercises import Case
from mmo.course.tasks.streaming import PAD, STOP, conv_case, drawn, numbered, overlap_case, uniforms


def stop_cases():
    sampled = torch.arange(6) * 10 + 3
    stopping = sampled.clone()
    stopping[0] = STOP
    return [
        Case("6 codebooks, the stop of codebook 0", (stopping[None], 12, torch.tensor([40]), PAD, STOP)),
        Case("6 codebooks, four steps behind the stop, and one in the middle", (torch.stack((sampled, sampled)), 14, torch.tensor([9, 40]), PAD, STOP)),
        Case("as many frames as are allowed", (sampled[None], 6, torch.tensor([5]), PAD, STOP)),
    ]


HIDDEN = {
    "09.conv": lambda: [
        conv_case("kernel 5, a piece of 9", 3, 5, 9, seed=70),
        conv_case("kernel 6, stride 3, a piece of 3", 2, 6, 3, stride=3, seed=71),
        conv_case("kernel 3, dilation 4, a piece of 2", 1, 3, 2, dilation=4, seed=72),
    ],
    "09.overlap": lambda: [overlap_case("kernel 6, stride 3, a piece of 4", 6, 3, 4, seed=70), overlap_case("kernel 9, stride 2, a piece of 2", 9, 2, 2, seed=71)],
    "09.choose": lambda: [
        Case("temperature 0.8, the 3 best of 20", (drawn(40, 20, seed=70), 0.8, 3, uniforms(40, 71))),
        Case("the one best", (drawn(16, 9, seed=72), 1.0, 1, uniforms(16, 73))),
        Case("temperature 2, all of 5", (drawn(50, 5, seed=74), 2.0, 0, uniforms(50, 75))),
    ],
    "09.straighten": lambda: [
        Case("6 codebooks, 5 steps held", (numbered(12, 6)[3:8], numbered(12, 6)[8])),
        Case("2 codebooks, the first step", (numbered(3, 2)[:0], numbered(3, 2)[0])),
        Case("2 codebooks, the second step", (numbered(3, 2)[:1], numbered(3, 2)[1])),
    ],
    "09.stop": stop_cases,
}
