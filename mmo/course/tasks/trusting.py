"""Notebook 12: how far a share of hits can be trusted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmo.course.exercises import Bug, Case, Exercise


def interval(hits: Tensor, drawn: Tensor) -> Tensor:
    """`mmo.measures.interval` for items of size 1, with the draws given: 2.5th and 97.5th percentile of the resampled shares."""
    shares = hits.double()[drawn].mean(dim=1)
    return torch.quantile(shares, torch.tensor([0.025, 0.975], dtype=torch.float64))


def draws(resamples: int, count: int, seed: int = 0) -> Tensor:
    return torch.randint(count, (resamples, count), generator=torch.Generator().manual_seed(seed))


def hits(count: int, right: int) -> Tensor:
    return torch.arange(count) < right


def cases() -> Sequence[Case]:
    return [
        Case("77 of 100 right", (hits(100, 77), draws(500, 100))),
        Case("8 of 10 right", (hits(10, 8), draws(500, 10, 1))),
        Case("all of 20 right", (hits(20, 20), draws(500, 20, 2))),
    ]


def of_the_hits(hits: Tensor, drawn: Tensor) -> Tensor:
    return torch.quantile(hits.double(), torch.tensor([0.025, 0.975], dtype=torch.float64))


def too_narrow(hits: Tensor, drawn: Tensor) -> Tensor:
    shares = hits.double()[drawn].mean(dim=1)
    return torch.quantile(shares, torch.tensor([0.25, 0.75], dtype=torch.float64))


def extremes(hits: Tensor, drawn: Tensor) -> Tensor:
    shares = hits.double()[drawn].mean(dim=1)
    return torch.stack((shares.min(), shares.max()))


def over_items(hits: Tensor, drawn: Tensor) -> Tensor:
    """Averages over the wrong axis."""
    shares = hits.double()[drawn].mean(dim=0)
    return torch.quantile(shares, torch.tensor([0.025, 0.975], dtype=torch.float64))


INTERVAL = Exercise(
    id="12.interval",
    title="How far to trust a share",
    difficulty=2,
    importance=3,
    minutes=10,
    points=3,
    looks="Two numbers around the share: wide for ten items, narrower for a hundred.",
    hints=(
        "Each row of `drawn` is another examination that might have happened: the same items, drawn with replacement.",
        "hits.double()[drawn] is (R, N); its mean over the last axis gives R shares.",
        "torch.quantile(shares, torch.tensor([0.025, 0.975], dtype=torch.float64)).",
    ),
    reference=interval,
    package_name="mmo.measures.interval",
    cases=cases,
    bugs=(
        Bug("These are percentiles of the single hits, 0s and 1s. First average each drawn examination, then take percentiles of the averages.", of_the_hits),
        Bug("That interval holds the middle half. For 95 % leave 2.5 % out on either side.", too_narrow),
        Bug("Smallest and largest of all draws: they move apart the more you draw. Take the 2.5th and 97.5th percentile.", extremes),
        Bug("You averaged over the draws, item by item. Average over the items of each draw (dim=1).", over_items),
    ),
)

EXERCISES = (INTERVAL,)
