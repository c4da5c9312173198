"""Notebook A2."""

import torch

from mmo.course.exercises import Case
from mmo.course.tasks.speech_training import path_scores, scores


def hide_cases():
    frames = 3 * torch.randn(10, 5, generator=torch.Generator().manual_seed(70)) - 1
    return [Case("bands and gaps that overlap", (frames, [(0, 3), (2, 2)], [(1, 4), (4, 3)])), Case("nothing to hide", (frames, [], []))]


HIDDEN = {
    "A2.ctc_loss": lambda: [
        Case("7 frames and the words 2 2 2", (scores(7, 4, 71), [2, 2, 2])),
        Case("12 frames and the words 4 1 4 3", (scores(12, 6, 72), [4, 1, 4, 3])),
        Case("one frame and one word", (scores(1, 3, 73), [1])),
    ],
    "A2.greedy": lambda: [Case("a long path", (path_scores(3, 3, 0, 3, 2, 2, 2, 0, 0, 1, 2),)), Case("one frame", (path_scores(2),))],
    "A2.hide": hide_cases,
}
