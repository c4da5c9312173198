"""Notebook 12: what is right without looking, one picture told from its other thing, how far a share of hits can be trusted, and a change of it."""

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


def around_the_mean(hits: Tensor, drawn: Tensor) -> Tensor:
    """Mean ± 1.96 standard deviations of the resampled shares."""
    shares = hits.double()[drawn].mean(dim=1)
    return shares.mean() + 1.96 * shares.std() * torch.tensor([-1.0, 1.0], dtype=torch.float64)


NORMAL = "That is the mean with 1.96 standard deviations to either side: as wide above as below, even beyond 0 or 1. The percentiles of the drawn shares need no such shape."


def normal_probe(arguments: tuple, wanted: Tensor, theirs) -> str | None:
    """The same rule with the deviation got in another way: of the hits over √N, or with N - 1."""
    hits, drawn = arguments
    if not isinstance(theirs, Tensor) or theirs.shape != (2,):
        return None
    middle, half = float(theirs.double().mean()), float(theirs[1] - theirs[0]) / 2
    share = float(hits.double().mean())
    plain = 1.96 * (share * (1 - share) / len(hits)) ** 0.5
    return NORMAL if abs(middle - share) < 0.01 and abs(half - plain) < 0.1 * plain else None


INTERVAL = Exercise(
    id="12.interval",
    title="How far to trust a share",
    difficulty=2,
    importance=3,
    minutes=10,
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
        Bug(NORMAL, around_the_mean),
    ),
    probe=normal_probe,
)

# --- 12.change ---------------------------------------------------------------------------------------------------


def change(before: Tensor, after: Tensor, drawn: Tensor) -> Tensor:
    """`mmo.measures.interval` of the items' differences: each draw takes the same items before and after."""
    return interval(after.long() - before.long(), drawn)


def change_cases() -> Sequence[Case]:
    generator = torch.Generator().manual_seed(3)
    before = torch.rand(60, generator=generator) < 0.9
    lost = torch.rand(60, generator=generator) < 0.1
    return [
        Case("60 questions, a few of them lost", (before, before & ~lost, draws(500, 60))),
        Case("40 questions, as many won as lost", (hits(40, 20), hits(40, 20).roll(3), draws(500, 40, 1))),
        Case("nothing changed", (hits(20, 15), hits(20, 15), draws(500, 20, 2))),
    ]


def unpaired(before: Tensor, after: Tensor, drawn: Tensor) -> Tensor:
    """Other items before than after."""
    shares = after.double()[drawn].mean(dim=1) - before.double()[drawn.flip(0)].mean(dim=1)
    return torch.quantile(shares, torch.tensor([0.025, 0.975], dtype=torch.float64))


CHANGE = Exercise(
    id="12.change",
    title="Is it forgotten, or is it chance?",
    difficulty=2,
    importance=3,
    minutes=8,
    looks="Two numbers around the difference of the two shares; both 0 where nothing changed.",
    hints=(
        "The same questions were asked before and after. Which part of the swing do both shares have in common?",
        "Take the difference item by item, -1, 0 or 1, and then do with it what you did with the hits.",
        "(after.double() - before.double())[drawn].mean(dim=1), then the two percentiles.",
    ),
    reference=change,
    package_name="mmo.measures.interval",
    cases=change_cases,
    bugs=(
        Bug("It is before minus after: what was lost would come out as won.", lambda before, after, drawn: change(after, before, drawn)),
        Bug("Before and after are drawn apart. They were asked the same questions: draw the questions, once, and take both answers to each.", unpaired),
        Bug("You subtract the edges of two intervals. The percentiles of a difference are not the difference of percentiles: subtract first, item by item.",
            lambda before, after, drawn: interval(after, drawn) - interval(before, drawn)),
        Bug("The sign is gone: answers won and answers lost add up. Only the sum of both with their signs says whether it got better.",
            lambda before, after, drawn: interval((after != before), drawn)),
    ),
)


# --- 12.blind ----------------------------------------------------------------------------------------------------


def blind(seen: list[str], asked: list[str]) -> float:
    """Share of `asked` that is right when the answer is always the most frequent of `seen` (of equals the first in it)."""
    answer = max(dict.fromkeys(seen), key=seen.count)
    return asked.count(answer) / len(asked)


def uniform(seen: list[str], asked: list[str]) -> float:
    return 1 / len(set(seen))


BLIND = Exercise(
    id="12.blind",
    title="Right without looking",
    difficulty=1,
    importance=2,
    minutes=5,
    looks="A share between 0 and 1: what a model gets that has never opened its eyes.",
    hints=(
        "Without a picture the best answer is always the same one. Which?",
        "The most frequent one of the training; of equally frequent ones take the first that comes.",
        "max(dict.fromkeys(seen), key=seen.count), then the share of `asked` that equals it.",
    ),
    reference=blind,
    package_name="a count of the most frequent answer",
    cases=lambda: [
        Case("red is the most frequent of both", (["red", "blue", "red", "green"], ["red", "red", "blue", "green"])),
        Case("another one is frequent in the test", (["red", "blue", "red", "green"], ["blue", "blue", "red", "blue", "green"])),
        Case("two equally frequent", (["blue", "red", "red", "blue"], ["red", "blue", "blue"])),
        Case("two equally frequent, the other one first", (["red", "blue", "blue", "red"], ["red", "blue", "blue"])),
        Case("the answer never asked for", (["star", "star", "moon"], ["moon", "heart"])),
    ],
    bugs=(
        Bug("You took the most frequent one of the test. Nobody who answers has seen that: count in what was learnt from.",
            lambda seen, asked: blind(asked, asked)),
        Bug("Of equally frequent answers you take the first of the alphabet, or whichever one a set gives. Take the one that came first: dict.fromkeys keeps the order.",
            lambda seen, asked: blind(sorted(seen), asked)),
        Bug("That is a throw of dice among all answers. A model that knows how often each comes does better: always the most frequent.", uniform),
        Bug("That is how often the answer comes in training. What counts is how often it is right in the test.", lambda seen, asked: blind(seen, seen)),
    ),
)


# --- 12.told -----------------------------------------------------------------------------------------------------

BACK = {"above": "below", "below": "above", "left": "right", "right": "left"}


def told(said: list[str]) -> list[str]:
    """The words of `mmo.world.pictures.mirrored`'s caption, from those of a caption; tests hold it against that."""
    return told_by(said)


def told_by(said: list[str], back: dict[str, str] = BACK, changes_places: bool = True, keeps_of: bool = True) -> list[str]:
    """The caption told from its other thing, with one thing done otherwise."""
    at = next((place for place, word in enumerate(said) if word in BACK), None)
    if at is None:
        return list(said)
    behind = at + 1 + (said[at + 1 : at + 2] == ["of"])
    relation = [back.get(said[at], said[at]), *said[at + 1 : behind]]
    if not keeps_of:
        behind, relation = at + 1, relation[:1]
    first, second = said[:at], said[behind:]
    return second + relation + first if changes_places else first + relation + second


def told_cases() -> Sequence[Case]:
    captions = ("a large red circle above a blue square", "a small star left of a large green moon", "an orange ring right of a small pink cross", "a diamond below a heart", "three blue stars", "a large white cross")
    return [Case(f'"{caption}"', (caption.split(),)) for caption in captions]


TOLD = Exercise(
    id="12.told",
    title="The same picture, told from the other thing",
    difficulty=1,
    importance=2,
    minutes=6,
    looks="As many words as before; told twice over, the caption is what it was.",
    hints=(
        "Find the word that says where. What stands in front of it is one thing, what stands behind it is the other.",
        "The things change places, and the relation turns: what is above has the other below. \"left of\" and \"right of\" are two words; the \"of\" belongs to neither thing.",
        "With at the place of that word and rest what follows it (without \"of\"): rest + [turned word] + (\"of\", if there was one) + said[:at]. Without such a word: the caption as it is.",
    ),
    reference=told,
    package_name="mmo.world.pictures.mirrored",
    cases=told_cases,
    bugs=(
        Bug("The things have changed places, but the relation has not turned: that is another picture. Above becomes below, left becomes right, and back.", lambda said: told_by(said, back={})),
        Bug("The relation has turned, but the things stand where they stood: that is another picture, too.", lambda said: told_by(said, changes_places=False)),
        Bug("\"of\" went along with the second thing. It belongs to the relation: \"left of\" becomes \"right of\".", lambda said: told_by(said, keeps_of=False)),
        Bug("Only above and below are turned. A star left of a moon has the moon on its right.", lambda said: told_by(said, back={"above": "below", "below": "above"})),
        Bug("Only left and right are turned. A circle above a square has the square below it.", lambda said: told_by(said, back={"left": "right", "right": "left"})),
        Bug("All words are turned round. Within a thing their order stays: a large red circle.", lambda said: [BACK.get(word, word) for word in reversed(said)]),
        Bug("A caption without a relation has no other way to be told. Give it back as it is.", lambda said: told_by(said) if set(said) & set(BACK) else []),
    ),
)

EXERCISES = (BLIND, TOLD, INTERVAL, CHANGE)
