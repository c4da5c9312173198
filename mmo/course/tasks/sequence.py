"""Notebook 07: the delay pattern, the way back, labels, the cost of padding."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import torch
from torch import Tensor

from mmo.config import IGNORE
from mmo.course.exercises import Bug, Case, Exercise
from mmo.course.pictures import codebooks, compare_grids
from mmo.data import cut_at
from mmo.sequence import delay, undelay

PAD, STOP = 513, 514  # the tiny world's
SIGNS = {PAD: "", STOP: "stop", IGNORE: "·"}


def codes(Q: int, F: int, seed: int = 0) -> Tensor:
    """(Q, F) codes that are all different where there are few, so that a picture tells them apart."""
    return torch.randperm(512, generator=torch.Generator().manual_seed(seed))[: Q * F].view(Q, F)


# --- 07.delay ----------------------------------------------------------------------------------------------------


def delay_cases() -> Sequence[Case]:
    return [Case(f"{Q} codebooks and {F} frames", (codes(Q, F), PAD, STOP)) for Q, F in ((3, 4), (8, 5), (2, 1), (8, 0))]


def delay_not(codes: Tensor, pad: int, stop: int) -> Tensor:
    """All codebooks at once."""
    Q, F = codes.shape
    out = torch.full((Q, F + Q), pad)
    out[:, :F], out[:, F] = codes, stop
    return out


def delay_upside_down(codes: Tensor, pad: int, stop: int) -> Tensor:
    return delay(codes.flip(0), pad, stop).flip(0)


def delay_one_late(codes: Tensor, pad: int, stop: int) -> Tensor:
    return torch.cat((torch.full((len(codes), 1), pad), delay(codes, pad, stop)[:, :-1]), dim=1)


def delay_without_stop(codes: Tensor, pad: int, stop: int) -> Tensor:
    return delay(codes, pad, pad)


def delay_stop_in_one_column(codes: Tensor, pad: int, stop: int) -> Tensor:
    out = delay(codes, pad, pad)
    out[:, -1] = stop
    return out


def delay_short(codes: Tensor, pad: int, stop: int) -> Tensor:
    return delay(codes, pad, stop)[:, :-1]


DELAY = Exercise(
    id="07.delay",
    title="The delay pattern",
    difficulty=1,
    importance=3,
    minutes=8,
    looks="A staircase: codebook k begins k positions later than codebook 0, and each row ends with its stop sign.",
    hints=(
        "Draw it for 3 codebooks and 4 frames: how many columns does the last codebook need, its stop included?",
        "Begin with torch.full((Q, F + Q), pad), then fill one row at a time.",
        "In row k the codes stand in columns k to k + F - 1, the stop in column k + F.",
    ),
    reference=delay,
    package_name="mmo.sequence.delay",
    cases=delay_cases,
    bugs=(
        Bug("Every codebook starts at the same position: that is the parallel layout. Codebook k must wait k positions.", delay_not),
        Bug("The staircase runs the wrong way: the highest codebook comes first. Codebook 0 carries what is said; it must lead, for the others are written knowing it.", delay_upside_down),
        Bug("Everything is one position late: codebook 0 has no delay at all.", delay_one_late),
        Bug("The stop sign is missing: without it the model never learns to be silent.", delay_without_stop),
        Bug("All stop signs stand in the last column. Each codebook stops right behind its own last code, so the stops lie on a diagonal too.", delay_stop_in_one_column),
        Bug("The last codebook's stop sign has fallen off: the result needs F + Q columns.", delay_short),
    ),
    picture=lambda wanted, theirs: compare_grids(wanted, theirs, SIGNS, rows=codebooks(len(wanted))),
)


# --- 07.undelay --------------------------------------------------------------------------------------------------


def undelay_cases() -> Sequence[Case]:
    whole = delay(codes(3, 4), PAD, STOP)
    early = whole.clone()
    early[2, 4] = STOP  # codebook 2 stops in frame 2
    return [
        Case("a whole answer of 4 frames", (whole, STOP)),
        Case("an answer that is still being written", (delay(codes(3, 6, 1), PAD, STOP)[:, :5], STOP)),
        Case("a stop sign that comes early in one codebook", (early, STOP)),
        Case("fewer positions than codebooks", (whole[:, :2], STOP)),
    ]


def undelay_straight(delayed: Tensor, stop: int) -> Tensor:
    """Forgot to move the rows."""
    Q, L = delayed.shape
    found = delayed[:, : max(0, L - Q + 1)]
    return found[:, (found == stop).any(dim=0).cumsum(dim=0) == 0]


def undelay_wrong_way(delayed: Tensor, stop: int) -> Tensor:
    Q, L = delayed.shape
    F = max(0, L - Q + 1)
    found = torch.stack([delayed[k, Q - 1 - k : Q - 1 - k + F] for k in range(Q)])
    return found[:, (found == stop).any(dim=0).cumsum(dim=0) == 0]


def undelay_keeps_stop(delayed: Tensor, stop: int) -> Tensor:
    return undelay(delayed)


def undelay_first_codebook_only(delayed: Tensor, stop: int) -> Tensor:
    found = undelay(delayed)
    return found[:, (found[0] == stop).cumsum(dim=0) == 0]


def undelay_drops_frames(delayed: Tensor, stop: int) -> Tensor:
    found = undelay(delayed)
    return found[:, ~(found == stop).any(dim=0)]


def undelay_one_short(delayed: Tensor, stop: int) -> Tensor:
    return undelay(delayed[:, :-1], stop)


UNDELAY = Exercise(
    id="07.undelay",
    title="The way back",
    difficulty=2,
    importance=3,
    minutes=10,
    looks="Whole frames only, in upright columns; nothing from the first frame on in which any codebook has stopped.",
    hints=(
        "Of L positions, how many frames have all their codes? Try L = 1, L = Q - 1, L = Q.",
        "F = max(0, L - Q + 1). Row k moved left by k: delayed[k, k : k + F].",
        "(codes == stop).any(dim=0) says in which frames somebody stopped; its cumsum is 0 before the first of them.",
    ),
    reference=undelay,
    package_name="mmo.sequence.undelay",
    cases=undelay_cases,
    bugs=(
        Bug("The rows were not moved: a column still holds codes of Q different frames. Row k must go left by k.", undelay_straight),
        Bug("The rows were moved the wrong way round: codebook 0 moves by 0, the last by Q - 1.", undelay_wrong_way),
        Bug("The frames behind the stop are still there. They hold signs, and a sign is no sound.", undelay_keeps_stop),
        Bug("You watch codebook 0 only, but here another codebook stopped first. A frame needs all its codes.", undelay_first_codebook_only),
        Bug("Frames with a stop are dropped, but those behind them are kept. The answer is over at the first stop.", undelay_drops_frames),
        Bug("One frame is missing at the end: L positions hold L - Q + 1 whole frames.", undelay_one_short),
    ),
    picture=lambda wanted, theirs: compare_grids(wanted, theirs, SIGNS, rows=codebooks(len(wanted))),
)


# --- 07.labels ---------------------------------------------------------------------------------------------------


def labels(text: Tensor, codes: Tensor, first: int, last: int, stop: int) -> tuple[Tensor, Tensor]:
    """What `mmo.sequence.build_row` makes of an answer without a think block, in which `first` is the sound's anchor.

    text (N,), codes (Q, F) -> text labels (N - 1,), audio labels (Q, N - 1); tests hold it against build_row.
    """
    length = len(text)
    text_labels = torch.full((length,), IGNORE)
    text_labels[first:last] = text[first:last]
    audio_labels = torch.full((len(codes), length), IGNORE)
    delayed = delay(codes, IGNORE, stop)[:, : length - first - 1]
    audio_labels[:, first + 1 : first + 1 + delayed.shape[1]] = delayed
    return text_labels[1:], audio_labels[:, 1:]


def labels_cases() -> Sequence[Case]:
    text = torch.tensor([1, 9, 30, 2, 5, 1, 7, 5, 40, 41, 42, 2, 5] + [0] * 7)
    return [
        Case("3 codebooks and 4 frames", (text, codes(3, 4), 8, 13, STOP)),
        Case("an answer that is cut before its last stop", (text[:16], codes(3, 6, 1), 8, 13, STOP)),
    ]


def labels_unshifted(text, codes, first, last, stop):
    """The labels before the shift, cut to the same length."""
    text_labels, audio_labels = labels(text, codes, first, last, stop)
    blank = torch.full((len(codes), 1), IGNORE)
    return torch.cat((blank[0], text_labels[:-1])), torch.cat((blank, audio_labels[:, :-1]), dim=1)


def labels_early_sound(text, codes, first, last, stop):
    text_labels, audio_labels = labels(text, codes, first, last, stop)
    return text_labels, torch.cat((audio_labels[:, 1:], torch.full((len(codes), 1), IGNORE)), dim=1)


def labels_question_too(text, codes, first, last, stop):
    text_labels, audio_labels = labels(text, codes, first, last, stop)
    text_labels[: last - 1] = text[1:last]
    return text_labels, audio_labels


def labels_zero_pads(text, codes, first, last, stop):
    text_labels, audio_labels = labels(text, codes, first, last, stop)
    return text_labels.masked_fill(text_labels == IGNORE, 0), audio_labels.masked_fill(audio_labels == IGNORE, 0)


def labels_sound_pads(text, codes, first, last, stop):
    text_labels, audio_labels = labels(text, codes, first, last, stop)
    return text_labels, audio_labels.masked_fill(audio_labels == IGNORE, PAD)


def labels_without_stop(text, codes, first, last, stop):
    text_labels, audio_labels = labels(text, codes, first, last, stop)
    return text_labels, audio_labels.masked_fill(audio_labels == stop, IGNORE)


def labels_without_end(text, codes, first, last, stop):
    return labels(text, codes, first, last - 2, stop)[0], labels(text, codes, first, last, stop)[1]


LABELS = Exercise(
    id="07.labels",
    title="What is learnt, and what is not",
    difficulty=2,
    importance=3,
    minutes=12,
    looks="-100 nearly everywhere; in the text a short run of labels, in the codes a slanted band that ends in stops.",
    hints=(
        "Lay the labels out unshifted first: each stands where its token or code stands. Shift at the very end.",
        "Text: positions first to last - 1. Codes: delay(codes, -100, stop), from position first + 1 on, as far as there is room.",
        "The shift: labels[1:] and labels[:, 1:]. Then position t is asked for what stands at t + 1.",
    ),
    reference=labels,
    package_name="mmo.sequence.build_row",
    cases=labels_cases,
    bugs=(
        Bug("The shift by one is missing: position t is asked for what it already sees, so the loss falls to nothing and nothing is learnt.", labels_unshifted),
        Bug("The sound begins one position too early: code 0 stands at first + 1, behind the first word, so that there is a word to be said.", labels_early_sound),
        Bug("The question is learnt too. The model should answer questions, not ask them: labels only from `first` on.", labels_question_too),
        Bug("What is not learnt has label 0, and 0 is a real token and a real code. It must be -100, which cross-entropy skips.", labels_zero_pads),
        Bug("The pads of the codes are learnt. They stand for 'nothing here'; learnt, they would outnumber every sound. They must be -100.", labels_sound_pads),
        Bug("The stops are not learnt: the model would never end its speech.", labels_without_stop),
        Bug("The end of the text is not learnt: `last` already lies behind <|im_end|> and its newline, so nothing is to be taken off.", labels_without_end),
    ),
    picture=lambda wanted, theirs: compare_grids(
        torch.cat((wanted[1], wanted[0][None]))[:, 6:], torch.cat((theirs[1], theirs[0][None]))[:, 6:], SIGNS,
        rows=[*codebooks(len(wanted[1])), "text"], columns=[str(6 + t) for t in range(wanted[1][:, 6:].shape[1])],
    ),  # fmt: skip
)


# --- 07.padding --------------------------------------------------------------------------------------------------


def positions_computed(lengths: list[int], budget: int) -> int:
    """What `mmo.data.cut_at` makes of rows of these lengths: the sum over batches of rows times longest."""
    batches = cut_at([SimpleNamespace(length=length) for length in sorted(lengths)], budget)
    return sum(len(batch) * batch[-1].length for batch in batches if batch)


def computed(batches: list[list[int]]) -> int:
    return sum(len(batch) * max(batch) for batch in batches if batch)


def cut_plain(lengths: list[int], budget: int) -> list[list[int]]:
    """Batches under the budget in the order given."""
    batches: list[list[int]] = [[]]
    for length in lengths:
        if batches[-1] and (len(batches[-1]) + 1) * max(*batches[-1], length) > budget:
            batches.append([])
        batches[-1].append(length)
    return batches


def cut_overfull(lengths: list[int], budget: int) -> list[list[int]]:
    """A batch is closed only once it is too large."""
    batches: list[list[int]] = [[]]
    for length in sorted(lengths):
        batches[-1].append(length)
        if len(batches[-1]) * length > budget:
            batches.append([])
    return batches


def cut_before_full(lengths: list[int], budget: int) -> list[list[int]]:
    """Takes a batch that fills its budget for one that breaks it."""
    return cut_plain(sorted(lengths), budget - 1)


def cut_by_sum(lengths: list[int], budget: int) -> list[list[int]]:
    """The budget counts useful positions only."""
    batches: list[list[int]] = [[]]
    for length in sorted(lengths):
        if batches[-1] and sum(batches[-1]) + length > budget:
            batches.append([])
        batches[-1].append(length)
    return batches


PADDING = Exercise(
    id="07.padding",
    title="The cost of padding",
    difficulty=2,
    importance=2,
    minutes=10,
    looks="One whole number, a little above the sum of the lengths.",
    hints=(
        "Rows of like length should share a batch. Which order brings them together?",
        "Walk through sorted(lengths). A row joins the batch if (rows + 1) * its length still fits the budget; being the longest so far, it sets the width.",
        "A batch costs len(batch) * batch[-1]. Begin with one empty batch, and never refuse the first row of a batch.",
    ),
    reference=positions_computed,
    package_name="mmo.data.cut_at",
    cases=lambda: [
        Case("lengths 7, 3, 3, 8, 2, 7 and a budget of 16", ([7, 3, 3, 8, 2, 7], 16)),
        Case("lengths 5, 9, 5, 9, 5 and a budget of 20", ([5, 9, 5, 9, 5], 20)),
        Case("lengths 4, 2, 4, 7, 4 and a budget of 16, which four rows fill to the last place", ([4, 2, 4, 7, 4], 16)),
        Case("one row", ([12], 16)),
    ],
    bugs=(
        Bug("The rows were not sorted: a short row beside a long one is padded to the long one's length.", lambda lengths, budget: computed(cut_plain(lengths, budget))),
        Bug("That is the sum of the lengths: what is useful, not what is computed. A batch is a rectangle: rows times its longest.", lambda lengths, budget: sum(lengths)),
        Bug("Every row is padded to the longest of all. That is what we want to get away from: each batch has a longest of its own.", lambda lengths, budget: len(lengths) * max(lengths)),
        Bug("A batch goes over the budget before it is closed. Look whether the row still fits before you add it.", lambda lengths, budget: computed(cut_overfull(lengths, budget))),
        Bug("The budget is compared with the sum of the lengths. Memory holds the padding too: compare rows times longest.", lambda lengths, budget: computed(cut_by_sum(lengths, budget))),
        Bug("A batch that would fill the budget exactly is closed before it does. A budget may be used up: close it only where the row would go over.", lambda lengths, budget: computed(cut_before_full(lengths, budget))),
    ),
)

EXERCISES = (DELAY, UNDELAY, LABELS, PADDING)
