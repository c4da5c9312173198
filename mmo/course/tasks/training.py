"""Notebook 10: a past that lies, the learning rate's way, the average of the weights, Muon's even step, and where the loss begins."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mmo.config import StageConfig
from mmo.course.exercises import Bug, Case, Exercise
from mmo.course.pictures import compare_curves
from mmo.muon import COEFFICIENTS, STEPS, orthogonal
from mmo.omni import audio_loss_sums
from mmo.optimiser import rate_factor

# --- 10.lie ------------------------------------------------------------------------------------------------------


def lie(codes: Tensor, lies: Tensor, spoken: Tensor, drawn: Tensor, share: float) -> Tensor:
    """What `mmo.data.disturb` makes of the Talker's input, with its draws given: codes, lies (Q, T), spoken (T,) bool, drawn (T,) in [0, 1)."""
    return torch.where(spoken & (drawn < share), lies, codes)


def lie_cases() -> Sequence[Case]:
    def case(name: str, Q: int, T: int, first: int, share: float, seed: int) -> Case:
        generator = torch.Generator().manual_seed(seed)
        codes = torch.randint(512, (Q, T), generator=generator)
        lies = torch.randint(600, 1100, (Q, T), generator=generator)
        return Case(name, (codes, lies, torch.arange(T) >= first, torch.rand(T, generator=generator), share))

    return [
        case("3 codebooks, 12 positions, the answer from position 4 on, a share of 0.4", 3, 12, 4, 0.4, 3),
        case("a share of 0", 3, 12, 4, 0.0, 1),
        case("8 codebooks, 80 positions, a share of 0.05", 8, 80, 30, 0.05, 2),
    ]


LIE = Exercise(
    id="10.lie",
    title="A past that lies",
    difficulty=1,
    importance=3,
    minutes=6,
    looks="The same codes, but for some columns of the answer that are wholly of the other tensor; the prompt untouched.",
    hints=(
        "A position lies or does not, in all its codebooks together: one draw a position, not one a code.",
        "It lies where the answer is spoken and its draw is below `share`: a mask of shape (T,).",
        "torch.where(spoken & (drawn < share), lies, codes): the mask is broadcast over the codebooks.",
    ),
    reference=lie,
    package_name="mmo.data.disturb",
    cases=lie_cases,
    bugs=(
        Bug("The prompt lies, too. Only positions of the answer may: `spoken` says which.",
            lambda codes, lies, spoken, drawn, share: torch.where(drawn < share, lies, codes)),
        Bug("It is the other way round: these are the positions that should have stayed true. A draw below `share` lies, one in twenty at 0.05.",
            lambda codes, lies, spoken, drawn, share: torch.where(spoken & (drawn >= share), lies, codes)),
        Bug("Only codebook 0 lies. The others would still tell the true frame: a position lies in all codebooks or in none.",
            lambda codes, lies, spoken, drawn, share: torch.cat((lie(codes, lies, spoken, drawn, share)[:1], codes[1:]))),
        Bug("Everything spoken lies. A Talker that never sees a true past does not learn what to do with one.",
            lambda codes, lies, spoken, drawn, share: torch.where(spoken, lies, codes)),
    ),
)


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


# --- 10.even -----------------------------------------------------------------------------------------------------


def even(mean: Tensor) -> Tensor:
    """`mmo.muon.orthogonal` of one matrix (A, B), in float32."""
    return orthogonal(mean[None], torch.float32)[0]


def uneven(height: int, width: int, size: float, seed: int) -> Tensor:
    """(height, width) of Frobenius norm `size`, whose singular values fall from 1 to about a thirtieth of the first."""
    loud, _, silent = torch.linalg.svd(torch.randn(height, width, generator=torch.Generator().manual_seed(seed)), full_matrices=False)
    matrix = (loud * torch.logspace(0, -1.5, min(height, width))) @ silent
    return size * matrix / matrix.norm()


def even_cases() -> Sequence[Case]:
    shapes = ((4, 6, 0.3), (12, 5, 1.4), (6, 20, 0.02), (8, 8, 7.0))
    return [Case(f"a matrix of {height} rows, {width} columns and norm {size}", (uneven(height, width, size, seed),)) for seed, (height, width, size) in enumerate(shapes)]


def in_rounds(x: Tensor, rounds: int = STEPS, fifth: float = COEFFICIENTS[2], again: bool = False) -> Tensor:
    """The rounds, one after the other; `again`: the norm is divided out before each."""
    for _ in range(rounds):
        x = x / x.norm() if again else x
        gram = x @ x.T
        x = COEFFICIENTS[0] * x + COEFFICIENTS[1] * gram @ x + fifth * gram @ gram @ x
    return x


def entry_by_entry(mean: Tensor) -> Tensor:
    """The polynomial of each entry."""
    a, b, c = COEFFICIENTS
    x = mean / mean.norm()
    for _ in range(STEPS):
        x = a * x + b * x**3 + c * x**5
    return x


def exactly_one(mean: Tensor) -> Tensor:
    """U V^T: all singular values 1."""
    loud, _, silent = torch.linalg.svd(mean, full_matrices=False)
    return loud @ silent


UNDIVIDED = "The matrix goes in as it is. A singular value above 1.3 is thrown further out by every round, and a tiny matrix stays tiny: divide by its norm first, mean / mean.norm()."


def exploded(arguments: tuple, wanted: Tensor, theirs) -> str | None:
    """Rounds of a matrix that is too large end in nan, whichever way they are written."""
    return UNDIVIDED if isinstance(theirs, Tensor) and theirs.shape == wanted.shape and not theirs.isfinite().all() else None


def singular_values(wanted: Tensor, theirs: Tensor):
    alt = "The singular values of the wanted matrix and of yours."
    return compare_curves(torch.linalg.svdvals(wanted), torch.linalg.svdvals(theirs), "direction, loudest first", "singular value", alt, logarithmic=True)


EVEN = Exercise(
    id="10.even",
    title="No direction louder than another",
    difficulty=2,
    importance=2,
    minutes=10,
    looks="A matrix of the same shape whose singular values lie between about 0.7 and 1.2; only what was fainter than about two thousandths of the whole stays below.",
    hints=(
        "Write X as U S Vᵀ, and multiply X Xᵀ X out: what is left of the U and V in the middle, and what became of S?",
        "X Xᵀ X = U S³ Vᵀ, and once more in front of it, (X Xᵀ)² X = U S⁵ Vᵀ. So a round is a sum of three matrices of the same shape. Before the first round divide by the norm: then no s is above 1.",
        "x = mean / mean.norm(); five times: gram = x @ x.T; x = a * x + b * gram @ x + c * gram @ gram @ x.",
    ),
    reference=even,
    package_name="mmo.muon.orthogonal",
    cases=even_cases,
    bugs=(
        Bug(UNDIVIDED, in_rounds),
        Bug("That is the polynomial of each entry. The entries are not what is to be evened out: X Xᵀ X is a product of matrices, X³ entry by entry has other directions.", entry_by_entry),
        Bug("One round only. It multiplies a faint direction by 3.4 at most; five do so by hundreds.", lambda mean: in_rounds(mean / mean.norm(), 1)),
        Bug("The norm is divided out before every round. Once is enough, before the first: afterwards it makes all of them smaller again.", lambda mean: in_rounds(mean, again=True)),
        Bug("The fifth power is missing. It catches what the third throws down: (X Xᵀ)² X, times 2.0315.", lambda mean: in_rounds(mean / mean.norm(), fifth=0.0)),
        Bug("You divide by the largest singular value, which has to be searched for. The norm of all entries (Frobenius) is never smaller and costs one pass.",
            lambda mean: in_rounds(mean / torch.linalg.matrix_norm(mean, 2))),
        Bug("All singular values are 1 exactly: that is U Vᵀ from an SVD, right and dear. Muon is content with five rounds of products, which leave them near 1; do those.", exactly_one),
    ),
    probe=exploded,
    tolerance=1e-3,
    picture=singular_values,
)


# --- 10.begin ----------------------------------------------------------------------------------------------------


def begin(frames: Tensor, entries: int, stop_weight: float) -> float:
    """`mmo.omni.audio_loss_sums` of a head that gives every entry the same chance, on answers of frames (N,) frames, each ended by a stop."""
    labels = torch.tensor([label for count in frames.tolist() for label in [0] * count + [entries - 1]])
    total, count = audio_loss_sums(torch.zeros(1, len(labels), entries), labels[None], entries - 1, stop_weight)
    return float(total / count)


BEGIN = Exercise(
    id="10.begin",
    title="Where the loss begins",
    difficulty=2,
    importance=2,
    minutes=8,
    looks="A little above ln(entries): the shorter the answers, the more.",
    hints=(
        "What does one position cost when each of the entries has the chance 1 / entries?",
        "An answer of F frames has F + 1 labels, the last of which is the stop. Each costs ln(entries), but the stop counts stop_weight times in the sum.",
        "ln(entries) · Σ(F + stop_weight) / Σ(F + 1), sums over the answers: the denominator counts each label once.",
    ),
    reference=begin,
    package_name="mmo.omni.audio_loss_sums",
    cases=lambda: [
        Case("one answer of 30 frames, 576 entries, the stop ten times", (torch.tensor([30]), 576, 10.0)),
        Case("three answers", (torch.tensor([12, 25, 40]), 2112, 10.0)),
        Case("a stop that weighs as much as any code", (torch.tensor([12, 25]), 576, 1.0)),
    ],
    bugs=(
        Bug("That is ln(entries), what one code costs. The stop is in the mean, too, and counts stop_weight times in the sum, but once in the number of labels.",
            lambda frames, entries, stop_weight: math.log(entries)),
        Bug("The stop has no place in the denominator. It is a label as any other: F + 1 a row.",
            lambda frames, entries, stop_weight: math.log(entries) * float((frames + stop_weight).sum()) / float(frames.sum())),
        Bug("That is the mean of the answers' means. The sums run over all labels of the batch: a long answer counts for more.",
            lambda frames, entries, stop_weight: math.log(entries) * float(((frames + stop_weight) / (frames + 1)).mean())),
        Bug("The logarithm is to the base 2 (bits). Cross-entropy is in nats: the natural logarithm.",
            lambda frames, entries, stop_weight: math.log2(entries) * float((frames + stop_weight).sum()) / float((frames + 1).sum())),
    ),
)

EXERCISES = (LIE, RATE, AVERAGE, EVEN, BEGIN)
