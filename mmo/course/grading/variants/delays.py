"""Variants of notebook 07: another delay, another anchor of the sound, rows padded in larger steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmo.config import IGNORE
from mmo.course.exercises import Case
from mmo.course.grading.variants.asked import Asked, Family
from mmo.course.tasks.sequence import PAD, STOP, codes
from mmo.sequence import delay


def delayed_by(waits: Callable[[int], int]) -> Callable[[Tensor, int, int], Tensor]:
    """07.delay with another delay: codebook k waits `waits(k)` positions."""

    def delay_by(codes: Tensor, pad: int, stop: int) -> Tensor:
        Q, F = codes.shape
        delayed = torch.full((Q, F + 1 + waits(Q - 1)), pad)
        for k in range(Q):
            delayed[k, waits(k) : waits(k) + F + 1] = torch.cat((codes[k], torch.tensor([stop])))
        return delayed

    return delay_by


def undelayed_by(waits: Callable[[int], int]) -> Callable[[Tensor, int], Tensor]:
    """07.undelay of such a grid."""

    def undelay_by(delayed: Tensor, stop: int) -> Tensor:
        Q, L = delayed.shape
        F = max(0, L - waits(Q - 1))
        found = torch.stack([delayed[k, waits(k) : waits(k) + F] for k in range(Q)])
        return found[:, (found == stop).any(dim=0).cumsum(dim=0) == 0]

    return undelay_by


def undelay_cases(waits: Callable[[int], int], Q: int, F: int, seed: int) -> Sequence[Case]:
    """A whole answer, one that is still being written, an early stop, too few positions."""
    whole = delayed_by(waits)(codes(Q, F, seed), PAD, STOP)
    early = whole.clone()
    early[Q - 1, waits(Q - 1) + F - 2] = STOP
    return [
        Case(f"{Q} codebooks, a whole answer of {F} frames", (whole, STOP)),
        Case("an answer that is still being written", (whole[:, : waits(Q - 1) + 2], STOP)),
        Case("a stop sign that comes early in one codebook", (early, STOP)),
        Case("too few positions for one frame", (whole[:, : waits(Q - 1)], STOP)),
    ]


def other_delay(words: str, example: str, width: str, waits: Callable[[int], int]) -> dict[str, Asked]:
    """07.delay and 07.undelay for one delay."""
    return {
        "07.delay": Asked(
            task=f"{words} The result ends with the last codebook's stop sign. With three codebooks and three frames:\n\n{example}",
            docstring=f"codes (Q, F) -> (Q, {width}), int64: row k is its pads, its F codes, the stop sign, pads. {words}",
            looks=f"Each row ends with its stop sign; nothing but pads around. {words}",
            hints=("Draw it for three codebooks and two frames, and count the columns.", "torch.full with pad first; then each row's codes and its stop go where they belong."),
            function=delayed_by(waits),
        ),
        "07.undelay": Asked(
            task=f"The grid is that of your class: {words[0].lower()}{words[1:]} Give the whole frames, up to but not including the first in which any codebook has stopped.",
            docstring="delayed (Q, L) -> (Q, F) whole frames of your class's delay; none from the first stop on.",
            looks="Whole frames only, in upright columns; nothing from the first frame on in which any codebook has stopped.",
            hints=("How many positions must be there before the first frame is whole? The last codebook decides.", "Move each row left by its own delay, cut all to the same length, then look for the stop."),
            function=undelayed_by(waits),
            cases=lambda: undelay_cases(waits, 3, 5, 0),
            hidden=lambda: [*undelay_cases(waits, 5, 7, 7), *undelay_cases(waits, 2, 4, 8)[:2]],
        ),
    }


DELAYS = Family(
    "delay",
    {
        "twice": other_delay(
            "Codebook $k$ waits $2k$ positions.",
            "    c0.0 c0.1 c0.2 STOP  -    -    -    -\n     -    -   c1.0 c1.1 c1.2 STOP  -    -\n     -    -    -    -   c2.0 c2.1 c2.2 STOP", "F + 2 Q - 1", lambda k: 2 * k,
        ),
        "thrice": other_delay(
            "Codebook $k$ waits $3k$ positions.",
            "    c0.0 c0.1 c0.2 STOP  -    -    -    -    -    -\n     -    -    -   c1.0 c1.1 c1.2 STOP  -    -    -\n     -    -    -    -    -    -   c2.0 c2.1 c2.2 STOP", "F + 3 Q - 2", lambda k: 3 * k,
        ),
        "behind": other_delay(
            "Codebook 0 does not wait, and all others wait two positions.",
            "    c0.0 c0.1 c0.2 STOP  -    -\n     -    -   c1.0 c1.1 c1.2 STOP\n     -    -   c2.0 c2.1 c2.2 STOP", "F + 3, or F + 1 where Q is 1", lambda k: 2 * min(k, 1),
        ),
        "pairs": other_delay(
            "Codebooks wait in pairs: 0 and 1 not at all, 2 and 3 one position, 4 and 5 two, and so on.",
            "    c0.0 c0.1 c0.2 STOP  -\n    c1.0 c1.1 c1.2 STOP  -\n     -   c2.0 c2.1 c2.2 STOP", "F + 1 + (Q - 1) // 2", lambda k: k // 2,
        ),
    },
)  # fmt: skip


# --- 07.labels ---------------------------------------------------------------------------------------------------


def labels_from(anchor: int) -> Callable:
    """07.labels, the codes beginning `anchor` positions behind the text's first."""

    def labels(text: Tensor, codes: Tensor, first: int, last: int, stop: int) -> tuple[Tensor, Tensor]:
        text_labels, audio_labels = torch.full((len(text),), IGNORE), torch.full((len(codes), len(text)), IGNORE)
        text_labels[first:last] = text[first:last]
        staircase = delay(codes, IGNORE, stop)[:, : len(text) - first - anchor]
        audio_labels[:, first + anchor : first + anchor + staircase.shape[1]] = staircase
        return text_labels[1:], audio_labels[:, 1:]

    return labels


def other_anchor(anchor: int, words: str) -> dict[str, Asked]:
    return {
        "07.labels": Asked(
            task=f"The codes, delayed by $k$ and with their stops, begin **at position `{words}`**; the text stays where it is. Then comes the shift by one, as above.",
            docstring=f"text (N,), codes (Q, F) -> text labels (N - 1,), audio labels (Q, N - 1), int64, -100 where nothing is learnt. Codes from {words} on.",
            looks="-100 nearly everywhere; in the text a short run of labels, in the codes a slanted band that ends in stops.",
            hints=("Lay the labels out unshifted first: each stands where its token or code stands. Shift at the very end.", f"Codes: delay(codes, -100, stop), from position {words} on, as far as there is room."),
            function=labels_from(anchor),
        )
    }


ANCHORS = Family("anchor", {"with the word": other_anchor(0, "first"), "two behind": other_anchor(2, "first + 2"), "three behind": other_anchor(3, "first + 3")})


# --- 07.padding --------------------------------------------------------------------------------------------------


def computed_in_steps(step: int) -> Callable[[list[int], int], int]:
    """07.padding, every row first padded to a multiple of `step`."""

    def positions_computed(lengths: list[int], budget: int) -> int:
        batches: list[list[int]] = [[]]
        for length in sorted(-(-length // step) * step for length in lengths):
            if batches[-1] and (len(batches[-1]) + 1) * length > budget:
                batches.append([])
            batches[-1].append(length)
        return sum(len(batch) * batch[-1] for batch in batches)

    return positions_computed


def other_step(step: int) -> dict[str, Asked]:
    return {
        "07.padding": Asked(
            task=f"In your class rows are padded **to a multiple of {step}** (as hardware likes it), and the budget counts those pads too. Otherwise as above.",
            docstring=f"Rows sorted by length, each padded to a multiple of {step}, cut into batches of at most `budget` positions -> the sum of rows x longest.",
            looks="One whole number, above the sum of the lengths.",
            hints=("Where does a row's length enter: in the order, in the budget, or in both?", f"Round up first: -(-length // {step}) * {step}. Then everything is as above."),
            function=computed_in_steps(step),
        )
    }


STEPS = Family("step", {"four": other_step(4), "five": other_step(5), "six": other_step(6)})

FAMILIES = (DELAYS, ANCHORS, STEPS)
