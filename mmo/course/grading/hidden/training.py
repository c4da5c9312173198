"""Notebook 10."""

import torch

from mmo.course.exercises import Case
from mmo.course.tasks.training import uneven, weights


def lie_cases():
    def case(name: str, Q: int, T: int, spoken: range, share: float, seed: int) -> Case:
        generator = torch.Generator().manual_seed(seed)
        here = torch.zeros(T, dtype=torch.bool)
        here[list(spoken)] = True
        return Case(name, (torch.randint(512, (Q, T), generator=generator), torch.randint(512, (Q, T), generator=generator), here, torch.rand(T, generator=generator), share))

    return [
        case("the answer ends before the row does", 5, 40, range(10, 30), 0.5, 70),
        case("nothing is spoken", 2, 9, range(0), 0.9, 71),
        case("a share of 1", 2, 9, range(3, 9), 1.0, 72),
    ]


HIDDEN = {
    "10.lie": lie_cases,
    "10.rate": lambda: [Case(f"step {step} of {steps}, {warmup} of warm-up, down to {final}", (step, steps, warmup, final)) for step, steps, warmup, final in ((3, 100, 10, 0.0), (10, 100, 10, 0.0), (37, 100, 8, 0.25), (999, 1000, 1, 0.05))],
    "10.average": lambda: [Case(f"update {updates}, decay {decay}", (weights(70), weights(71), decay, updates)) for updates, decay in ((30, 0.999), (89, 0.9), (20000, 0.9999))],
    "10.even": lambda: [Case(f"{height} by {width}, norm {size}", (uneven(height, width, size, seed),)) for height, width, size, seed in ((10, 3, 0.5, 70), (3, 32, 2.0, 71), (16, 16, 0.001, 72))],
    "10.begin": lambda: [Case(f"{len(frames)} answers, {entries} entries, the stop {weight} times", (torch.tensor(frames), entries, weight)) for frames, entries, weight in (([3, 60], 100, 5.0), ([1], 576, 20.0), ([20] * 7, 2112, 0.5))],
}
