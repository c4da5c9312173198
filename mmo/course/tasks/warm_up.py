"""Notebook 00: two warm-ups of the ten-minute check."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmo.config import IGNORE
from mmo.course.exercises import Bug, Case, Exercise
from mmo.course.pictures import compare_grids


# --- 00.frames ---------------------------------------------------------------------------------------------------


def cut_frames(wave: Tensor, size: int) -> Tensor:
    """wave (n,) -> (F, size): frames in a row, the last one filled with silence; as `Codec.whole_frames` fills it."""
    return F.pad(wave, (0, -len(wave) % size)).view(-1, size)


def frames_cases() -> Sequence[Case]:
    return [
        Case("10 samples in frames of 4", (torch.arange(1.0, 11.0), 4)),
        Case("12 samples in frames of 4: nothing to fill", (torch.arange(1.0, 13.0), 4)),
        Case("3 samples in frames of 5", (torch.arange(1.0, 4.0), 5)),
    ]


def frames_without_rest(wave: Tensor, size: int) -> Tensor:
    return wave[: len(wave) // size * size].view(-1, size)


def frames_filled_in_front(wave: Tensor, size: int) -> Tensor:
    return F.pad(wave, (-len(wave) % size, 0)).view(-1, size)


def frames_always_filled(wave: Tensor, size: int) -> Tensor:
    return F.pad(wave, (0, size - len(wave) % size)).view(-1, size)


def frames_by_columns(wave: Tensor, size: int) -> Tensor:
    return F.pad(wave, (0, -len(wave) % size)).view(size, -1).T.contiguous()


FRAMES = Exercise(
    id="00.frames",
    title="Cutting sound into frames",
    difficulty=1,
    importance=2,
    minutes=4,
    looks="A grid: the first row is the first `size` samples; zeros only at the end of the last row.",
    hints=(
        "How many samples are missing in the last frame? With 10 samples and frames of 4 it is 2; with 12 it is 0.",
        "-len(wave) % size is that number. torch.nn.functional.pad(wave, (0, missing)) puts zeros behind.",
        "A tensor of F · size numbers becomes (F, size) with .view(-1, size): rows are filled one after the other.",
    ),
    reference=cut_frames,
    package_name="mmo.codec.Codec.whole_frames with a cut behind it",
    cases=frames_cases,
    bugs=(
        Bug("The last samples are lost: what does not fill a frame must be filled up with zeros, not dropped.", frames_without_rest),
        Bug("The zeros stand in front. Sound begins at its beginning: fill up behind.", frames_filled_in_front),
        Bug("Where the samples fill whole frames there is nothing to fill, but you add a whole frame of silence.", frames_always_filled),
        Bug("Neighbouring samples stand below each other. A row must hold neighbours: view(-1, size), without transposing.", frames_by_columns),
    ),
    picture=lambda wanted, theirs: compare_grids(wanted.long(), theirs.long(), {0: ""}),
)


# --- 00.loss -----------------------------------------------------------------------------------------------------


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """logits (T, V), labels (T,) -> the mean cross-entropy over the positions that have a label (not -100)."""
    return F.cross_entropy(logits, labels, ignore_index=IGNORE)


def loss_cases() -> Sequence[Case]:
    def logits(T, V, seed):
        return 2 * torch.randn(T, V, generator=torch.Generator().manual_seed(seed))

    return [
        Case("5 positions, 5 codes, two of the positions without a label", (logits(5, 5, 0), torch.tensor([2, -100, 0, 4, -100]))),
        Case("7 positions, 12 codes, all with a label", (logits(7, 12, 1), torch.arange(7) + 3)),
        Case("large logits", (400 * logits(4, 6, 2), torch.tensor([0, 5, -100, 1]))),
    ]


def loss_over_all(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum") / len(labels)


def loss_of_pads_too(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels.clamp(min=0))


def loss_across_positions(logits: Tensor, labels: Tensor) -> Tensor:
    known = labels != IGNORE
    return -logits.log_softmax(dim=0)[known, labels[known]].mean()


def loss_without_log(logits: Tensor, labels: Tensor) -> Tensor:
    known = labels != IGNORE
    return -logits.softmax(dim=1)[known, labels[known]].mean()


def loss_of_logits(logits: Tensor, labels: Tensor) -> Tensor:
    known = labels != IGNORE
    return -logits[known, labels[known]].mean()


def overflow_probe(arguments: tuple, wanted, theirs) -> str | None:
    if isinstance(theirs, Tensor) and theirs.numel() == 1 and not theirs.isfinite():
        return "exp of a large logit, or log of a probability that was rounded to 0, is no number any more. log_softmax takes the maximum out first."
    return None


LOSS = Exercise(
    id="00.loss",
    title="Cross-entropy with gaps",
    difficulty=1,
    importance=3,
    minutes=5,
    looks="One number, above 0; for logits that are all alike it is ln V.",
    hints=(
        "Cross-entropy is −log p of the right answer. `logits.log_softmax(dim=…)` gives log p: along which dimension do the probabilities add up to 1?",
        "known = labels != -100 are the positions that count. Take only these.",
        "-log_p[known, labels[known]].mean() is it; F.cross_entropy with its own defaults does the same.",
    ),
    reference=loss,
    package_name="torch's cross_entropy",
    cases=loss_cases,
    bugs=(
        Bug("You divide by all positions. Those without a label do not count, in the denominator either.", loss_over_all),
        Bug("Positions with the label -100 are learnt as if the label were 0. They must not count at all.", loss_of_pads_too),
        Bug("The probabilities add up to 1 along the positions. They must do so along the codes: dim=1.", loss_across_positions),
        Bug("The logarithm is missing: cross-entropy is −log p, not −p.", loss_without_log),
        Bug("Those are logits, not log-probabilities: subtract the log of the sum of exp, which log_softmax does.", loss_of_logits),
    ),
    probe=overflow_probe,
    gradients=(0,),
)

EXERCISES = (FRAMES, LOSS)
