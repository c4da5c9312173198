"""Notebook 13: how many codes are in play at a temperature, and whose voice a sound is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmo.course.clinic import likeness as package_likeness
from mmo.course.exercises import Bug, Case, Exercise

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

EXERCISES = (IN_PLAY, LIKENESS)
