"""Notebook 07."""

import torch

from mmo.course.exercises import Case
from mmo.course.tasks.sequence import PAD, STOP, codes
from mmo.sequence import delay


def delay_cases():
    return [Case(f"{Q} codebooks and {F} frames", (codes(Q, F, seed=7), pad, stop)) for Q, F, pad, stop in ((5, 9, PAD, STOP), (1, 3, PAD, STOP), (4, 2, 2049, 2050))]


def undelay_cases():
    whole = delay(codes(5, 7, seed=7), PAD, STOP)
    early = whole.clone()
    early[4, 6] = STOP  # codebook 4 stops in frame 2
    at_once = delay(codes(3, 4, seed=8), PAD, STOP)
    at_once[1, 1] = STOP  # codebook 1 stops in the first frame
    return [Case("5 codebooks", (whole, STOP)), Case("the last codebook stops early", (early, STOP)), Case("a stop in the first frame", (at_once, STOP))]


def labels_cases():
    text = torch.tensor([1, 3, 2, 5, 1, 7, 5, 60, 61, 2, 5] + [0] * 14)
    return [Case("5 codebooks and 6 frames", (text, codes(5, 6, seed=9), 7, 11, 2050)), Case("no frame at all", (text, codes(2, 0), 7, 11, STOP))]


def padding_cases():
    return [
        Case("twelve rows and a budget of 64", ([31, 4, 17, 9, 9, 22, 3, 40, 12, 5, 28, 16], 64)),
        Case("a row over the budget", ([50, 2, 3], 16)),
    ]


HIDDEN = {"07.delay": delay_cases, "07.undelay": undelay_cases, "07.labels": labels_cases, "07.padding": padding_cases}
