"""Appendix A4: shares of the batches, gradients that are averaged, denominators, the price of exchange."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmo.course.exercises import Bug, Case, Exercise
from mmo.distributed import share, share_of_mean, speed_up


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Normally distributed numbers, always the same."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- A4.shard ----------------------------------------------------------------------------------------------------


def share_in_blocks(count: int, rank: int, size: int) -> list[int]:
    each = count // size
    return list(range(rank * each, (rank + 1) * each))


SHARD = Exercise(
    id="A4.shard",
    title="A share of the batches",
    difficulty=1,
    importance=3,
    minutes=8,
    looks="Lists of equal length for all ranks, no number twice; the numbers of one step are neighbours.",
    hints=(
        "Deal the batches like cards: the first to rank 0, the next to rank 1, and round again.",
        "range(rank, count, size) deals. But look at 10 batches for 4: who gets a third one, and whom does it wait for?",
        "Only whole rounds: stop at count - count % size.",
    ),
    reference=share,
    package_name="mmo.distributed.share",
    cases=lambda: [
        Case("8 batches, rank 1 of 2", (8, 1, 2)),
        Case("10 batches, rank 0 of 4", (10, 0, 4)),
        Case("10 batches, rank 3 of 4", (10, 3, 4)),
        Case("3 batches, rank 1 of 8", (3, 1, 8)),
        Case("5 batches, alone", (5, 0, 1)),
    ],
    bugs=(
        Bug("Some ranks get one batch more. They would wait for gradients that the others never send, for ever: leave out what is no whole round.", lambda count, rank, size: list(range(rank, count, size))),
        Bug("Every rank gets everything: eight cards would do the same work eight times.", lambda count, rank, size: list(range(count))),
        Bug("Each rank gets a block of its own. Every batch is used once, but the ranks' batches of one step lie far apart: deal them in turn, so that a step takes neighbours, whatever the number of ranks.", share_in_blocks),
        Bug("Every size-th, but from 0 on for every rank: all ranks do the same share, and the rest is never seen.", lambda count, rank, size: list(range(0, count - count % size, size))),
    ),
)


# --- A4.average --------------------------------------------------------------------------------------------------


def average(gradients: list) -> Tensor:
    """One parameter's gradient on every rank, None where a rank has none -> what `average_gradients` gives all of them.

    A test holds it against mmo.distributed.average_gradients.  At least one rank has one.
    """
    shape = next(gradient for gradient in gradients if gradient is not None)
    return torch.stack([torch.zeros_like(shape) if gradient is None else gradient for gradient in gradients]).mean(dim=0)


def there(gradients: list) -> list:
    return [gradient for gradient in gradients if gradient is not None]


AVERAGE = Exercise(
    id="A4.average",
    title="The mean gradient",
    difficulty=1,
    importance=2,
    minutes=6,
    looks="One tensor of the gradient's shape, the same for all ranks.",
    hints=(
        "A rank whose batch never used this parameter has no gradient. What has it to say about it?",
        "No gradient is a gradient of zeros. Then it is a plain mean over all ranks.",
    ),
    reference=average,
    package_name="mmo.distributed.average_gradients",
    cases=lambda: [
        Case("two ranks", ([drawn(2, 3), drawn(2, 3, seed=1)],)),
        Case("four ranks, of which one has none", ([drawn(4), None, drawn(4, seed=1), drawn(4, seed=2)],)),
        Case("three ranks, of which the first two have none", ([None, None, drawn(3)],)),
    ],
    bugs=(
        Bug("Ranks without a gradient are left out of the mean. Then the step is too large for this parameter: they saw batches too, and their part is zero.", lambda gradients: torch.stack(there(gradients)).mean(dim=0)),
        Bug("That is the sum. With eight cards the step would be eight times as long.", lambda gradients: torch.stack(there(gradients)).sum(dim=0)),
        Bug("That is one rank's gradient. The ranks would drift apart.", lambda gradients: there(gradients)[0].clone()),
    ),
)


# --- A4.denominator ----------------------------------------------------------------------------------------------


def denominator_cases() -> Sequence[Case]:
    return [
        Case("text: 30 of 80 labels are here, 2 ranks", (torch.tensor(66.0), torch.tensor(30), torch.tensor(80), 2)),
        Case("three codebooks, 4 ranks", (torch.tensor([40.0, 90.0, 95.0]), torch.tensor([10, 12, 11]), torch.tensor([60, 61, 62]), 4)),
        Case("a share without any label, 2 ranks", (torch.tensor(0.0), torch.tensor(0), torch.tensor(50), 2)),
        Case("no label in any share, 2 ranks", (torch.tensor(0.0), torch.tensor(0), torch.tensor(0), 2), gradients=False),
    ]


def denominator(own_sum: Tensor, own_count: Tensor, whole_count: Tensor, size: int) -> Tensor:
    """`mmo.distributed.share_of_mean`, which has no use for the own count."""
    return share_of_mean(own_sum, whole_count, size)


DENOMINATOR = Exercise(
    id="A4.denominator",
    title="A share of the mean",
    difficulty=2,
    importance=3,
    minutes=12,
    looks="A loss of the shape of own_sum; averaged over the ranks it is the mean over all labels. Zero, not nan, where there is no label.",
    hints=(
        "Write the mean over all labels as a sum over ranks. What is one rank's part of it?",
        "own_sum / whole_count is the part. But the gradients are *averaged* over ranks, so each part is divided by `size` once more.",
        "size * own_sum / whole_count, with whole_count.clamp(min=1) for the batch without labels.",
    ),
    reference=denominator,
    package_name="mmo.distributed.share_of_mean",
    cases=denominator_cases,
    bugs=(
        Bug("That is the mean over this rank's labels. Averaged over ranks, a label in a poor share weighs more than one in a rich share.", lambda own_sum, own_count, whole_count, size: own_sum / own_count.clamp(min=1)),
        Bug("The ranks' losses are averaged afterwards, which divides by their number once more: multiply by `size`.", lambda own_sum, own_count, whole_count, size: own_sum / whole_count.clamp(min=1)),
        Bug("It divides by the number of ranks, though averaging does so already: that is size squared too small.", lambda own_sum, own_count, whole_count, size: own_sum / whole_count.clamp(min=1) / size),
        Bug("A step in which nothing is spoken has no audio label: 0 / 0 is nan, and nan goes to every weight. Clamp the count to at least 1.", lambda own_sum, own_count, whole_count, size: size * own_sum / whole_count),
    ),
    gradients=(0,),
)


# --- A4.speedup --------------------------------------------------------------------------------------------------


def one_way(work: float, gradient_bytes: float, bandwidth: float, cards: int) -> float:
    return work / (work / cards + (cards - 1) / cards * gradient_bytes / bandwidth)


def all_bytes(work: float, gradient_bytes: float, bandwidth: float, cards: int, times: int = 2) -> float:
    """As if each card sent its own part, too."""
    return work / (work / cards + times * gradient_bytes / bandwidth)


def to_one_card(work: float, gradient_bytes: float, bandwidth: float, cards: int) -> float:
    """All send to one card, which sends the mean to all."""
    return work / (work / cards + 2 * (cards - 1) * gradient_bytes / bandwidth)


def undivided(work: float, gradient_bytes: float, bandwidth: float, cards: int) -> float:
    return work / (work + 2 * (cards - 1) / cards * gradient_bytes / bandwidth)


SPEEDUP = Exercise(
    id="A4.speedup",
    title="What exchange costs",
    difficulty=2,
    importance=2,
    minutes=10,
    looks="A number between 0 and the number of cards; exactly 1 for one card.",
    hints=(
        "Time of one card over time of all cards. What are the two parts of the time of all?",
        "The work is divided by the number of cards. The exchange is not: a ring sends (n - 1)/n of the bytes twice.",
        "work / (work / cards + 2 * (cards - 1) / cards * gradient_bytes / bandwidth)",
    ),
    reference=speed_up,
    package_name="mmo.distributed.speed_up",
    cases=lambda: [
        Case("1 s of work, 0.5 GB at 10 GB/s, 8 cards", (1.0, 0.5e9, 10e9, 8)),
        Case("the same on 2 cards", (1.0, 0.5e9, 10e9, 2)),
        Case("0.1 s of work, 1 GB at 5 GB/s, 4 cards", (0.1, 1e9, 5e9, 4)),
        Case("one card", (1.0, 1e9, 1e9, 1)),
    ],
    bugs=(
        Bug("The exchange is missing: that is what an advertisement would say.", lambda work, gradient_bytes, bandwidth, cards: float(cards)),
        Bug("The bytes go round once only. First every card collects its part of the sum, then every card collects all sums: twice.", one_way),
        Bug("The factor (n - 1)/n is missing: of n parts each card has one itself and need not be sent it. With one card nothing is exchanged at all.", all_bytes),
        Bug("All the bytes go round, and once: (n - 1)/n of them do, and twice, once to collect the sums and once to hand them out.", lambda work, gradient_bytes, bandwidth, cards: all_bytes(work, gradient_bytes, bandwidth, cards, 1)),
        Bug("Everything goes through one card, which then has n - 1 times the traffic. In a ring all lines are busy at once.", to_one_card),
        Bug("The work is not divided: that is one card that also waits for others.", undivided),
        Bug("Upside down: that is the share of one card's time that is left.", lambda work, gradient_bytes, bandwidth, cards: 1 / speed_up(work, gradient_bytes, bandwidth, cards)),
    ),
)

EXERCISES = (SHARD, AVERAGE, DENOMINATOR, SPEEDUP)
