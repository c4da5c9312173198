"""Notebook 13: where a player stands still, how many codes are in play at a temperature, and whose voice a sound is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmo.course.clinic import likeness as package_likeness
from mmo.course.exercises import Bug, Case, Exercise
from mmo.course.pictures import compare_curves
from mmo.streaming import waits

# --- 13.waits ----------------------------------------------------------------------------------------------------


def waits_cases() -> Sequence[Case]:
    lengths = [80.0, 80.0, 160.0, 240.0]
    return [
        Case("five pieces, the second and the fourth too late", ([100.0, 250.0, 300.0, 600.0, 640.0], [80.0, 80.0, 160.0, 240.0, 240.0], 0.0)),
        Case("every piece in time", ([70.0, 90.0, 150.0, 260.0], lengths, 0.0)),
        Case("a piece that comes at the very moment", ([70.0, 150.0, 230.0, 390.0], lengths, 0.0)),
        Case("a head start of 100 ms, which is not enough", ([100.0, 250.0, 300.0, 800.0], lengths, 100.0)),
        Case("one piece", ([120.0], [80.0], 0.0)),
    ]


def waits_by_the_first_plan(ready: list[float], lengths: list[float], head_start: float) -> list[float]:
    """When each piece would be due if the player had never stood still."""
    due, found = ready[0] + head_start, []
    for at, length in zip(ready, lengths):
        found.append(max(0.0, at - due))
        due += length
    return found


def waits_between_arrivals(ready: list[float], lengths: list[float], head_start: float) -> list[float]:
    return [0.0] + [max(0.0, ready[i] - ready[i - 1] - lengths[i - 1]) for i in range(1, len(ready))]


def waits_below_nothing(ready: list[float], lengths: list[float], head_start: float) -> list[float]:
    free, found = ready[0] + head_start, []
    for at, length in zip(ready, lengths):
        found.append(at - free)
        free = max(free, at) + length
    return found


def waits_from_the_question(ready: list[float], lengths: list[float], head_start: float) -> list[float]:
    """As if the player were running when the question is asked."""
    first, *others = waits(ready, lengths, head_start)
    return [ready[0] + head_start, *others]


def waits_of_a_player_with_its_own_length(ready: list[float], lengths: list[float], head_start: float) -> list[float]:
    """Each piece against the end of itself."""
    free, found = ready[0] + head_start, []
    for at, length in zip(ready, lengths):
        free += length
        found.append(max(0.0, at - free))
        free = max(free, at)
    return found


WAITS = Exercise(
    id="13.waits",
    title="Where the player stands still",
    difficulty=2,
    importance=3,
    minutes=8,
    looks="One number a piece, in the unit of the times: 0 where it follows without a gap, and always 0 for the first.",
    hints=(
        "Keep one number while you go through the pieces: the moment from which the player is free.",
        "At first that is ready[0] + head_start. A piece that is ready later than that lets it stand still for the difference; one that is ready earlier, for 0.",
        "Then the piece is played: free = max(free, at) + length. So a wait puts off everything behind it.",
    ),
    reference=waits,
    package_name="mmo.streaming.waits",
    cases=waits_cases,
    bugs=(
        Bug("You go on with the first plan as if the player had never stood still. A wait puts off all that comes behind it, and later pieces have so much more time.", waits_by_the_first_plan),
        Bug("You compare a piece with the arrival of the one before. It may have arrived early and lain in store: what counts is when it has been played to its end.", waits_between_arrivals),
        Bug("A piece that is early gives a negative wait. It waits for the player, not the player for it: 0.", waits_below_nothing),
        Bug("The time up to the first sound is counted in. The player does not stand still, it has not begun.", waits_from_the_question),
        Bug("A piece is compared with its own end. It must be there when the one before it is over.", waits_of_a_player_with_its_own_length),
        Bug("The head start is not used: the player begins so much later, and has so much in store.", lambda ready, lengths, head_start: waits(ready, lengths)),
    ),
    picture=lambda wanted, theirs: compare_curves(wanted, theirs, "piece", "ms it stands still", alt="How long the player stands still before each piece, wanted and yours."),
)


# --- 13.in_play --------------------------------------------------------------------------------------------------


def in_play(logits: Tensor, temperature: float) -> Tensor:
    """exp of `torch.distributions.Categorical.entropy`: logits (..., A), temperature -> (...), between 1 and A."""
    shares = (logits.float() / temperature).softmax(dim=-1)
    return torch.special.entr(shares).sum(dim=-1).exp()


def in_play_cases() -> Sequence[Case]:
    drawn = torch.randn(3, 60, generator=torch.Generator().manual_seed(0))
    return [
        Case("60 codes, temperature 1", (3 * drawn, 1.0)),
        Case("the same at 0.6", (3 * drawn, 0.6)),
        Case("eight equally likely codes", (torch.zeros(2, 8), 0.5)),
        Case("nearly cold, 0.01: most chances are exactly 0", (3 * drawn, 0.01)),
    ]


def not_finite(logits: Tensor, temperature: float) -> Tensor:
    """0 · log 0 is not a number."""
    shares = (logits / temperature).softmax(dim=-1)
    return (-(shares * shares.log()).sum(dim=-1)).exp()


IN_PLAY = Exercise(
    id="13.in_play",
    title="How many codes are in play",
    difficulty=2,
    importance=3,
    minutes=8,
    looks="Near 1 where it is cold, the number of codes where all are equally likely; in between, the warmer the more.",
    hints=(
        "Divide the logits by the temperature, then softmax: shares of chance. How spread out they are is their entropy, H = -Σ p log p.",
        "A die of n equal faces has the entropy log n. So exp(H) is the number of equal faces that would be as uncertain.",
        "A chance of exactly 0 adds nothing, but 0 · log 0 is NaN: torch.special.entr(p) gives -p log p with 0 in its place.",
    ),
    reference=in_play,
    package_name="torch.distributions.Categorical.entropy (its exp)",
    cases=in_play_cases,
    bugs=(
        Bug("Somewhere a chance is exactly 0, and 0 · log 0 is NaN. Such a code adds nothing: torch.special.entr, or log_softmax and a mask.", not_finite),
        Bug("That is the entropy, in nats. As a number of codes it is exp of that: a die of n faces has the entropy log n.",
            lambda logits, temperature: in_play(logits, temperature).log()),
        Bug("The logits are multiplied by the temperature. Divided by it: cold must sharpen.", lambda logits, temperature: in_play(logits, 1 / temperature)),
        Bug("The temperature is not used.", lambda logits, temperature: in_play(logits, 1.0)),
    ),
)


# --- 13.likeness -------------------------------------------------------------------------------------------------


def likeness(spectrum: Tensor, portraits: Tensor) -> Tensor:
    """`mmo.course.clinic.likeness`: spectrum (M,), portraits (V, M) -> (V,), each -1 .. 1."""
    return torch.from_numpy(package_likeness(spectrum.numpy(), portraits.numpy()))


def likeness_cases() -> Sequence[Case]:
    generator = torch.Generator().manual_seed(4)
    common = 10 * torch.randn(64, generator=generator, dtype=torch.float64)
    portraits = common + torch.randn(3, 64, generator=generator, dtype=torch.float64)
    return [
        Case("a sound near the second of three voices", (portraits[1] + 0.3 * torch.randn(64, generator=generator, dtype=torch.float64), portraits)),
        Case("two voices", (0.8 * portraits[0] + 0.2 * portraits[2], portraits[[0, 2]])),
    ]


def uncentred(spectrum: Tensor, portraits: Tensor) -> Tensor:
    return F.cosine_similarity(spectrum[None], portraits, dim=1)


def centred_each(spectrum: Tensor, portraits: Tensor) -> Tensor:
    """Takes off each spectrum's own mean over the bands."""
    return F.cosine_similarity((spectrum - spectrum.mean())[None], portraits - portraits.mean(dim=1, keepdim=True), dim=1)


def without_length(spectrum: Tensor, portraits: Tensor) -> Tensor:
    middle = portraits.mean(dim=0)
    return (portraits - middle) @ (spectrum - middle)


def one_sided(spectrum: Tensor, portraits: Tensor) -> Tensor:
    return F.cosine_similarity(spectrum[None], portraits - portraits.mean(dim=0), dim=1)


LIKENESS = Exercise(
    id="13.likeness",
    title="Whose voice is it?",
    difficulty=1,
    importance=2,
    minutes=6,
    looks="One number a voice, 1 for the voice itself, below 0 for one that lies on the other side of the mean.",
    hints=(
        "All speech looks much alike: loud below, faint above. What tells voices apart is what differs from the mean of the portraits.",
        "Take the mean over the voices (dim=0) off the portraits and off the sound. Then the cosine: the product of both, over the product of their lengths.",
        "middle = portraits.mean(dim=0); F.cosine_similarity((spectrum - middle)[None], portraits - middle, dim=1).",
    ),
    reference=likeness,
    package_name="mmo.course.clinic.likeness",
    cases=likeness_cases,
    bugs=(
        Bug("Nothing is taken off. All speech looks alike to such a cosine: every voice comes out near 1.", uncentred),
        Bug("You took off each spectrum's own mean over the bands. What all voices share is the mean over the voices, band by band: portraits.mean(dim=0).", centred_each),
        Bug("That is a product without lengths: a louder contrast would pass for more likeness. Divide by both lengths.", without_length),
        Bug("The mean is taken off the portraits only. The sound holds it, too.", one_sided),
    ),
)

EXERCISES = (WAITS, IN_PLAY, LIKENESS)
