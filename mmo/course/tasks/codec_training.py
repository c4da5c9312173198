"""Appendix A1: the distance of spectrograms, gradients through codes, codebooks that follow and that die."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmo.course.exercises import Bug, Case, Exercise
from mmo.course.pictures import compare_maps
from mmo.world.train_codec import log_distance


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- A1.mel_loss -------------------------------------------------------------------------------------------------


def mel_loss(heard: Tensor, wanted: Tensor, floor: float) -> Tensor:
    """heard, wanted (..., bands, T) magnitudes -> mean absolute plus mean squared difference of log(x + floor)."""
    return log_distance(heard, wanted, floor)


def mel_cases() -> Sequence[Case]:
    loud, other = (drawn(2, 5, 7, seed=seed).abs() * 3 for seed in (0, 1))
    faint = torch.zeros(1, 4, 6)
    faint[0, 1] = 1e-4
    return [Case("two sounds of like loudness, floor 0.05", (loud, other, 0.05)), Case("near silence against silence", (faint, torch.zeros(1, 4, 6), 0.05)),
            Case("two sounds, floor 1", (loud, other, 1.0))]


def by_difference(how, logarithm=lambda x, floor: (x + floor).log()):
    return lambda heard, wanted, floor: how(logarithm(heard, floor) - logarithm(wanted, floor))


def both(difference: Tensor) -> Tensor:
    return difference.abs().mean() + difference.square().mean()


MEL_LOSS = Exercise(
    id="A1.mel_loss",
    title="How far two sounds lie apart",
    difficulty=1,
    importance=3,
    minutes=8,
    looks="One number: 0 for equal sounds, and hardly more where both are nearly silent.",
    hints=(
        "The ear hears ratios: compare logarithms. The floor goes in before the logarithm, so that silence does not become minus infinity.",
        "difference = (heard + floor).log() - (wanted + floor).log(). Two means are made of it, and added.",
        "difference.abs().mean() + difference.square().mean()",
    ),
    reference=mel_loss,
    package_name="mmo.world.train_codec.log_distance",
    cases=mel_cases,
    bugs=(
        Bug("The floor is missing: the logarithm of silence is minus infinity.", by_difference(both, lambda x, floor: (x + 1e-12).log())),
        Bug("The floor cuts (clamp) where it should be added: below it the gradient is zero, so what is too quiet is never learnt.", by_difference(both, lambda x, floor: x.clamp(min=floor).log())),
        Bug("The magnitudes are compared, not their logarithms: only the loudest vowels would count.", by_difference(both, lambda x, floor: x)),
        Bug("The floor is added behind the logarithm, where it cancels out.", by_difference(both, lambda x, floor: (x + 1e-9).log() + floor)),
        Bug("The squared part is missing: it makes a missing formant cost more than many small errors.", by_difference(lambda d: d.abs().mean())),
        Bug("The absolute part is missing: the square alone hardly sees small differences.", by_difference(lambda d: d.square().mean())),
        Bug("You sum where you should average: the loss would grow with the length of the sound.", by_difference(lambda d: d.abs().sum() + d.square().sum())),
        Bug("That is the decadic logarithm; the natural one is wanted.", by_difference(both, lambda x, floor: (x + floor).log10())),
    ),
    gradients=(0,),
)


# --- A1.straight_through -----------------------------------------------------------------------------------------


def straight_through(latent: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
    """latent (N, D), entries (N, D) its codebook entries -> entries with the latent's gradient (N, D), commitment loss.

    What `moshi`'s VectorQuantization does in training; tests hold it against that.
    """
    passed = latent + (entries - latent).detach()
    return passed, (latent - entries.detach()).square().mean()


def straight_cases() -> Sequence[Case]:
    return [Case(f"{N} vectors of {D} numbers", (drawn(N, D), drawn(N, D, seed=1))) for N, D in ((3, 4), (6, 2))]


def with_loss(passed, loss=lambda latent, entries: (latent - entries.detach()).square().mean()):
    return lambda latent, entries: (passed(latent, entries), loss(latent, entries))


def right_passed(latent: Tensor, entries: Tensor) -> Tensor:
    return straight_through(latent, entries)[0]


STRAIGHT_THROUGH = Exercise(
    id="A1.straight_through",
    title="A gradient through a choice",
    difficulty=2,
    importance=3,
    minutes=10,
    looks="Forwards the entries, backwards as if they were the latent; beside it one number that pulls the latent to its entry.",
    hints=(
        "Choosing the nearest entry has no derivative. Write the entry as: latent + (what must be added to it). Which of the two parts may carry a gradient?",
        "x.detach() is x as a constant. With passed = latent + constant the gradient of passed is handed to latent unchanged.",
        "passed = latent + (entries - latent).detach(); commitment = (latent - entries.detach()).square().mean().",
    ),
    reference=straight_through,
    package_name="moshi's VectorQuantization in training",
    cases=straight_cases,
    bugs=(
        Bug("The latent itself comes out: the detach is on the wrong side, and the decoder never meets a code.", with_loss(lambda latent, entries: entries + (latent - entries).detach())),
        Bug("The values are the entries, but no gradient reaches the encoder from the decoder: either they are returned as they are, or nothing is detached, and in latent + (entries - latent) the two gradients of the latent cancel out.", with_loss(lambda latent, entries: entries * 1.0)),
        Bug("The commitment does not pull the latent: the latent is detached in it. Detach the entries.", with_loss(right_passed, lambda latent, entries: (latent.detach() - entries).square().mean())),
        Bug("The commitment does not pull the latent: it is compared with `passed`, which moves along with it. Compare it with the entries, detached.", with_loss(right_passed, lambda latent, entries: (latent - right_passed(latent, entries)).square().mean())),
        Bug("The commitment moves the entries, too: they are not detached in it. It is there to pull the latent to its entry; the entries follow by a running mean of their own (the next exercise).", with_loss(right_passed, lambda latent, entries: (latent - entries).square().mean())),
        Bug("The commitment is summed, not averaged: it would grow with the batch.", with_loss(right_passed, lambda latent, entries: (latent - entries.detach()).square().sum())),
        Bug("The commitment takes absolute values: wanted is the mean square.", with_loss(right_passed, lambda latent, entries: (latent - entries.detach()).abs().mean())),
    ),
    gradients=(0, 1),
    picture=lambda wanted, theirs: compare_maps(wanted[0].detach(), theirs[0].detach(), xlabel="number", ylabel="vector"),
)


# --- A1.update_codebook ------------------------------------------------------------------------------------------


def update_codebook(usage: Tensor, sums: Tensor, latent: Tensor, codes: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    """usage (K,), sums (K, D), latent (N, D), codes (N,) -> usage and sums after one batch; an entry is sums / usage.

    What `moshi`'s EuclideanCodebook does with every batch in training; tests hold it against that.
    """
    chosen = torch.nn.functional.one_hot(codes, len(usage)).to(latent.dtype)  # (N, K)
    return decay * usage + (1 - decay) * chosen.sum(dim=0), decay * sums + (1 - decay) * chosen.T @ latent


def update_cases() -> Sequence[Case]:
    def case(N: int, K: int, D: int, decay: float) -> tuple:
        codes = torch.arange(N) * 3 % max(1, K - 1)  # the last entry is never chosen
        return (drawn(K, seed=2).abs() + 0.5, drawn(K, D), drawn(N, D, seed=1), codes, decay)

    return [Case("7 vectors and 4 entries, decay 0.9", case(7, 4, 3, 0.9)), Case("12 vectors and 5 entries, decay 0.99", case(12, 5, 2, 0.99))]


def update_means(usage, sums, latent, codes, decay):
    chosen = torch.nn.functional.one_hot(codes, len(usage)).to(latent.dtype)
    means = chosen.T @ latent / chosen.sum(dim=0).clamp(min=1)[:, None]
    return update_codebook(usage, sums, latent, codes, decay)[0], decay * sums + (1 - decay) * means


def update_hit_only(usage, sums, latent, codes, decay):
    new_usage, new_sums = update_codebook(usage, sums, latent, codes, decay)
    hit = torch.bincount(codes, minlength=len(usage)) > 0
    return torch.where(hit, new_usage, usage), torch.where(hit[:, None], new_sums, sums)


def update_overwriting(usage, sums, latent, codes, decay):
    """Indexed assignment: of several vectors with one code only the last is kept."""
    counts, added = torch.zeros_like(usage), torch.zeros_like(sums)
    for code, vector in zip(codes, latent):
        counts[code], added[code] = 1.0, vector
    return decay * usage + (1 - decay) * counts, decay * sums + (1 - decay) * added


UPDATE_CODEBOOK = Exercise(
    id="A1.update_codebook",
    title="A codebook that follows",
    difficulty=2,
    importance=2,
    minutes=12,
    looks="Two running means: how often each entry was chosen, and the sum of what chose it. What was not chosen fades in both alike.",
    hints=(
        "No gradient is needed: count which vectors chose which entry, and add up those vectors. torch.nn.functional.one_hot(codes, K) says who chose whom.",
        "counts = chosen.sum(dim=0) is (K,); added = chosen.T @ latent is (K, D), with chosen (N, K) as floats.",
        "Each running mean: decay * old + (1 - decay) * new, for all entries, chosen or not.",
    ),
    reference=update_codebook,
    package_name="moshi's EuclideanCodebook in training",
    cases=update_cases,
    bugs=(
        Bug("Old and new have changed places: with a decay near 1 the old must weigh most.", lambda usage, sums, latent, codes, decay: update_codebook(usage, sums, latent, codes, 1 - decay)),
        Bug("The new part is added in full: (1 - decay) is missing. Both settle 1 / (1 - decay) times too large, a hundredfold at 0.99, and are no means any more.", lambda usage, sums, latent, codes, decay: tuple(decay * old + (new - decay * old) / (1 - decay) for old, new in zip((usage, sums), update_codebook(usage, sums, latent, codes, decay)))),
        Bug("The batch's means are averaged, not its sums: then dividing by the usage divides twice.", update_means),
        Bug("Entries that nobody chose do not fade. They must, in usage and sum alike: so their place stays, and their death shows.", update_hit_only),
        Bug("Of several vectors with one code only the last is counted: indexed assignment overwrites. Add them up (one_hot, index_add, scatter_add).", update_overwriting),
        Bug("The sums are divided by the usage already. Keep both apart; the quotient is made where an entry is needed.", lambda usage, sums, latent, codes, decay: (update_codebook(usage, sums, latent, codes, decay)[0], update_codebook(usage, sums, latent, codes, decay)[1] / update_codebook(usage, sums, latent, codes, decay)[0][:, None])),
    ),
)


# --- A1.dead -----------------------------------------------------------------------------------------------------


def dead(usage: Tensor, ratio: float) -> Tensor:
    """usage (K,) -> (K,) bool: entries used less than `ratio` times what each would get if all were used alike.

    What `moshi`'s EuclideanCodebook replaces by a vector of the batch; tests hold it against that.
    """
    return usage < ratio * usage.sum() / len(usage)


DEAD = Exercise(
    id="A1.dead",
    title="Which entries are dead",
    difficulty=1,
    importance=2,
    minutes=5,
    looks="A True for every entry that hardly anybody chooses; whatever the size of a batch.",
    hints=(
        "Usage depends on how many vectors a batch has. Compare it with the share that each entry would have if all were used alike.",
        "That share is usage.mean(). Dead is what lies below ratio times it.",
        "usage < ratio * usage.mean()",
    ),
    reference=dead,
    package_name="the check in moshi's EuclideanCodebook",
    cases=lambda: [Case("usages 5, 0.15, 3, 0, 0.4 and a ratio of 0.1", (torch.tensor([5.0, 0.15, 3.0, 0.0, 0.4]), 0.1)),
                   Case("the same usages a hundred times as large", (torch.tensor([500.0, 15.0, 300.0, 0.0, 40.0]), 0.1)),
                   Case("usages 1, 0.3, 0.04, 0.6 and a ratio of 0.5", (torch.tensor([1.0, 0.3, 0.04, 0.6]), 0.5))],
    bugs=(
        Bug("The ratio itself is the threshold. With larger batches every usage grows, and nothing would ever be dead.", lambda usage, ratio: usage < ratio),
        Bug("You compare with the largest usage: one popular entry would have half the others killed.", lambda usage, ratio: usage < ratio * usage.max()),
        Bug("You compare with the sum of all usages. An even share of it is sum / K.", lambda usage, ratio: usage < ratio * usage.sum()),
        Bug("The living are marked, not the dead.", lambda usage, ratio: ~dead(usage, ratio)),
        Bug("Only a usage of exactly 0 counts as dead. A running mean fades for ever and never gets there.", lambda usage, ratio: usage == 0),
    ),
)

EXERCISES = (MEL_LOSS, STRAIGHT_THROUGH, UPDATE_CODEBOOK, DEAD)
