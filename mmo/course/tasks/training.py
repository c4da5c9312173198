"""Notebook 10: the learning rate's way, and the average of the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmo.config import StageConfig
from mmo.course.exercises import Bug, Case, Exercise
from mmo.optimiser import rate_factor

# --- 10.rate -----------------------------------------------------------------------------------------------------


def rate(step: int, steps: int, warmup: int, final: float) -> float:
    """`mmo.optimiser.rate_factor` of a linear schedule."""
    stage = StageConfig("rate", ("none",), 1.0, steps=steps, warmup_steps=warmup, final_rate=final, schedule="linear")
    return rate_factor(step, steps, stage)


def rate_cases() -> Sequence[Case]:
    settings = (200, 20, 0.1)
    return [
        Case("the first step", (0, *settings)),
        Case("half-way through the warm-up", (9, *settings)),
        Case("the first step after it", (20, *settings)),
        Case("the middle", (110, *settings)),
        Case("the last step", (199, *settings)),
    ]


def rate_from_zero(step: int, steps: int, warmup: int, final: float) -> float:
    return step / warmup if step < warmup else rate(step, steps, warmup, final)


def rate_to_zero(step: int, steps: int, warmup: int, final: float) -> float:
    return rate(step, steps, warmup, 0.0)


def rate_without_warmup(step: int, steps: int, warmup: int, final: float) -> float:
    return 1 - (1 - final) * step / (steps - 1)


def rate_with_a_drop(step: int, steps: int, warmup: int, final: float) -> float:
    """The fall counts from step 0, so the rate drops where the warm-up ends."""
    return (step + 1) / warmup if step < warmup else 1 - (1 - final) * step / (steps - 1)


RATE = Exercise(
    id="10.rate",
    title="The learning rate's way",
    difficulty=1,
    importance=2,
    minutes=8,
    points=3,
    looks="A steep rise to 1 over the warm-up, then a straight line down to `final` at the last step.",
    hints=(
        "Two parts: while step < warmup the factor rises, afterwards it falls.",
        "In step 0 the factor is 1 / warmup, not 0: a step at rate 0 would be wasted. In step warmup - 1 it is 1.",
        "Behind the warm-up, done = (step - warmup) / (steps - 1 - warmup) runs from 0 to 1; the factor is 1 - (1 - final) * done.",
    ),
    reference=rate,
    package_name="mmo.optimiser.rate_factor",
    cases=rate_cases,
    bugs=(
        Bug("The first step has rate 0: nothing is learnt in it. Count steps from 1 while you warm up: (step + 1) / warmup.", rate_from_zero),
        Bug("The line runs down to 0. It should end at `final`, so that the last steps still learn.", rate_to_zero),
        Bug("There is no warm-up: the first steps, whose gradients are the wildest, get the whole rate.", rate_without_warmup),
        Bug("The rate drops where the warm-up ends: the fall must begin there, at 1, not have begun at step 0.", rate_with_a_drop),
    ),
)


# --- 10.average --------------------------------------------------------------------------------------------------


def average(old: Tensor, new: Tensor, decay: float, updates: int) -> Tensor:
    """What `mmo.optimiser.Average.update` makes of one weight; updates counts from 1."""
    keep = min(decay, (1 + updates) / (10 + updates))
    return keep * old + (1 - keep) * new


def weights(seed: int) -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))


def average_cases() -> Sequence[Case]:
    return [
        Case("a young average (update 1)", (weights(0), weights(1), 0.99, 1)),
        Case("an old one (update 5000)", (weights(0), weights(1), 0.99, 5000)),
    ]


AVERAGE = Exercise(
    id="10.average",
    title="The average of the weights",
    difficulty=1,
    importance=2,
    minutes=6,
    points=2,
    looks="Close to the new weights at first, close to the old average later.",
    hints=(
        "keep · old + (1 − keep) · new: the average keeps most of itself.",
        "keep is `decay`, but not more than (1 + updates) / (10 + updates): after one update that is 2 / 11.",
        "min(decay, (1 + updates) / (10 + updates)); nothing may be changed in place.",
    ),
    reference=average,
    package_name="mmo.optimiser.Average",
    cases=average_cases,
    bugs=(
        Bug("You keep `decay` of the old from the first update on: the untrained start lingers in the average for hundreds of steps.",
            lambda old, new, decay, updates: decay * old + (1 - decay) * new),
        Bug("Old and new have changed places: the average would forget everything but the last step.",
            lambda old, new, decay, updates: average(new, old, decay, updates)),
        Bug("That is the plain mean of all weights so far. It never forgets the beginning; the average should, slowly.",
            lambda old, new, decay, updates: old + (new - old) / updates),
    ),
)

EXERCISES = (RATE, AVERAGE)
