"""Notebook 01: one step of residual quantisation, all of them, the way back, the bit rate, codes in use.

The quantiser itself is moshi's; the first three references are what it computes, which tests/test_course_codec.py shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mmo.codec import bit_rate, perplexity
from mmo.course.exercises import Bug, Case, Exercise
from mmo.course.pictures import compare_grids, compare_maps
from mmo.display import BLUE, INK, RED, Picture, drawing, finish


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- 01.nearest --------------------------------------------------------------------------------------------------


def nearest(x: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """x (N, D), codebook (C, D) -> codes (N,) of the nearest entries, and what is left (N, D)."""
    codes = torch.cdist(x, codebook).argmin(dim=1)
    return codes, x - codebook[codes]


# The first point is nearer to the second entry, though its absolute differences to the first add up to less.
POINTS = torch.tensor([[0.0, 0.0], [2.0, 1.0], [-1.0, 2.0], [0.2, -1.8], [-1.9, -0.4]])
ENTRIES = torch.tensor([[0.9, 0.0], [0.5, 0.5], [3.0, 3.0], [-1.5, 1.0], [0.5, -2.5]])


def nearest_cases() -> Sequence[Case]:
    return [
        Case("5 points and 5 entries in the plane", (POINTS, ENTRIES)),
        Case("12 points and 7 entries in 5 dimensions", (drawn(12, 5), drawn(7, 5, seed=1))),
        Case("one entry", (drawn(3, 4, seed=2), drawn(1, 4, seed=3))),
    ]


def nearest_by(score, sign=1):
    """The same with another choice of the entry: `score(x, codebook)` (N, C), the largest wins."""

    def wrong(x: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
        codes = score(x, codebook).argmax(dim=1)
        return codes, sign * (x - codebook[codes])

    return wrong


def nearest_point_of_each_entry(x: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    codes = torch.cdist(x, codebook).argmin(dim=0)
    return codes, x - codebook[codes]


def show_choices(wanted: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> Picture:
    """In the plane: each point, the entry its code names, and what is said to be left; else the residuals as maps."""
    if wanted[1].shape != POINTS.shape:
        return compare_maps(wanted[1], theirs[1], "What is left of each point; wanted, yours, difference.", xlabel="dimension", ylabel="point")
    with drawing(5.6, 2.9) as figure:
        for axes, (codes, left), title in zip(figure.subplots(1, 2), (wanted, theirs), ("wanted", "yours")):
            axes.scatter(*ENTRIES.T, color=RED, s=36, label="entries")
            axes.scatter(*POINTS.T, color=INK, s=14, label="points")
            for number, entry in enumerate(ENTRIES):
                axes.annotate(str(number), entry, textcoords="offset points", xytext=(7, -5), color=RED, fontsize=9)
            for entry, rest in zip(ENTRIES[codes], left):
                axes.annotate("", entry + rest, entry, arrowprops={"arrowstyle": "->", "color": BLUE, "linewidth": 1.2})
            axes.set(xlim=(-2.4, 4), ylim=(-3.4, 3.8), xticks=[], yticks=[])
            axes.grid(False)
            axes.set_title(title)
        figure.get_axes()[0].legend(loc="lower right")
        return finish(figure, "Points and entries in the plane; an arrow leads from each chosen entry along what is left, and ought to end at the point.")


NEAREST = Exercise(
    id="01.nearest",
    title="One step: the nearest entry and what it leaves",
    difficulty=1,
    importance=3,
    minutes=8,
    looks="A whole number for each point, and for each point the small vector from its entry to it.",
    hints=(
        "Each of the N points is compared with each of the C entries: a table of N x C distances. Broadcasting gives it, or torch.cdist.",
        "distances = torch.cdist(x, codebook) is (N, C). Along which dimension is the smallest wanted? `argmin` gives its place.",
        "codebook[codes] are the chosen entries, (N, D). What is left is the point minus its entry.",
    ),
    reference=nearest,
    package_name="moshi's EuclideanCodebook.encode with the rest taken off behind it",
    cases=nearest_cases,
    bugs=(
        Bug("You take the entry with the largest scalar product. A long entry wins that even from far away; wanted is the smallest distance.", nearest_by(lambda x, book: x @ book.T)),
        Bug("You take the entry that is farthest away: argmin of the distance, not argmax.", nearest_by(torch.cdist)),
        Bug("You found the nearest point for each entry. Wanted is the nearest entry for each point: the smallest along the other dimension of the N x C table.", nearest_point_of_each_entry),
        Bug("You add up absolute differences. Distance is meant in the plain sense, √Σ(x − e)²: one large difference then counts more than two half as large.", nearest_by(lambda x, book: -torch.cdist(x, book, p=1))),
        Bug("What is left has the wrong sign: it must be what is still to be added to the entry to get to the point, x − entry.", lambda x, book: (nearest(x, book)[0], -nearest(x, book)[1])),
        Bug("The codes are right, but you return the chosen entries. Wanted is what they leave: x minus its entry.", lambda x, book: (nearest(x, book)[0], book[nearest(x, book)[0]])),
    ),
    picture=show_choices,
)


# --- 01.residual -------------------------------------------------------------------------------------------------


def residual_codes(x: Tensor, codebooks: Tensor) -> Tensor:
    """x (N, D), codebooks (Q, C, D) -> codes (Q, N): each codebook quantises what those before it have left."""
    codes = []
    for codebook in codebooks:
        found, x = nearest(x, codebook)
        codes.append(found)
    return torch.stack(codes)


def shrinking(Q: int, C: int, D: int, seed: int) -> Tensor:
    """(Q, C, D) entries that get smaller from codebook to codebook, as residuals do."""
    return drawn(Q, C, D, seed=seed) * 0.6 ** torch.arange(Q)[:, None, None]


def residual_cases() -> Sequence[Case]:
    return [
        Case("6 points, 3 codebooks of 4 entries in the plane", (drawn(6, 2, seed=4), shrinking(3, 4, 2, 5))),
        Case("9 points, 8 codebooks of 16 entries in 6 dimensions", (drawn(9, 6, seed=6), shrinking(8, 16, 6, 7))),
        Case("one codebook", (drawn(5, 3, seed=8), shrinking(1, 8, 3, 9))),
    ]


def residual_none(x: Tensor, codebooks: Tensor) -> Tensor:
    return torch.stack([nearest(x, codebook)[0] for codebook in codebooks])


def residual_added(x: Tensor, codebooks: Tensor) -> Tensor:
    codes, left = [], x
    for codebook in codebooks:
        codes.append(nearest(left, codebook)[0])
        left = left + codebook[codes[-1]]
    return torch.stack(codes)


def residual_of_last_entry(x: Tensor, codebooks: Tensor) -> Tensor:
    codes, left = [], x
    for codebook in codebooks:
        codes.append(nearest(left, codebook)[0])
        left = x - codebook[codes[-1]]
    return torch.stack(codes)


def residual_from_the_end(x: Tensor, codebooks: Tensor) -> Tensor:
    return residual_codes(x, codebooks.flip(0)).flip(0)


def residual_one_table(x: Tensor, codebooks: Tensor) -> Tensor:
    return residual_codes(x, codebooks[:1].expand_as(codebooks))


RESIDUAL = Exercise(
    id="01.residual",
    title="Residual quantisation",
    difficulty=2,
    importance=3,
    minutes=8,
    looks="A grid of codes, a row a codebook; its first row is what one codebook alone would give.",
    hints=(
        "Your `nearest` gives a code and what it leaves. What does the next codebook get to see?",
        "A loop over the codebooks; in each round the vectors to be quantised are replaced by what is left of them.",
        "found, x = nearest(x, codebook), and collect `found`. torch.stack makes (Q, N) of them.",
    ),
    reference=residual_codes,
    package_name="moshi's ResidualVectorQuantizer.encode",
    cases=residual_cases,
    bugs=(
        Bug("Every codebook quantises the point itself. From the second on it must be what those before it have left.", residual_none),
        Bug("What is left grows: the chosen entry is added where it must be subtracted.", residual_added),
        Bug("Only the last entry is subtracted from the point. What is left must keep shrinking: subtract each entry from what was left before.", residual_of_last_entry),
        Bug("The codebooks are walked through from the last to the first. Codebook 0 takes the coarsest step, so it comes first.", residual_from_the_end),
        Bug("All steps use codebook 0. Each has a table of its own, made for what is left at its place.", residual_one_table),
        Bug("The grid lies on its side: (N, Q). Wanted is a row for each codebook, (Q, N).", lambda x, books: residual_codes(x, books).T),
    ),
    picture=lambda wanted, theirs: compare_grids(wanted, theirs),
)


# --- 01.sum ------------------------------------------------------------------------------------------------------


def sum_entries(codes: Tensor, codebooks: Tensor) -> Tensor:
    """codes (q, F), q <= Q, codebooks (Q, C, D) -> (F, D): the entries of each frame's codes, added."""
    return sum(codebook[row] for codebook, row in zip(codebooks, codes))


def sum_cases() -> Sequence[Case]:
    def codes(q, F, C, seed):
        return torch.randint(0, C, (q, F), generator=torch.Generator().manual_seed(seed))

    return [
        Case("3 codebooks, 4 frames", (codes(3, 4, 6, 10), shrinking(3, 6, 2, 11))),
        Case("8 codebooks, 5 frames", (codes(8, 5, 16, 12), shrinking(8, 16, 4, 13))),
        Case("only the first 2 of 4 codebooks", (codes(2, 3, 6, 14), shrinking(4, 6, 3, 15))),
    ]


SUM = Exercise(
    id="01.sum",
    title="The way back is a sum",
    difficulty=1,
    importance=3,
    minutes=6,
    looks="A vector for each frame; with each further codebook it comes nearer to what was quantised.",
    hints=(
        "Each codebook has said how far to go from where those before it got to. Where does one end up?",
        "codebooks[k][codes[k]] are codebook k's entries for all frames, (F, D).",
        "Add them over k. zip(codebooks, codes) stops with the shorter one, and so fewer codes than codebooks are no trouble.",
    ),
    reference=sum_entries,
    package_name="moshi's ResidualVectorQuantizer.decode",
    cases=sum_cases,
    bugs=(
        Bug("You average the entries. Each was chosen as what is still missing, so they add up in full.", lambda codes, books: sum_entries(codes, books) / len(codes)),
        Bug("Only the last codebook's entries are left: the loop overwrites where it should add.", lambda codes, books: books[len(codes) - 1][codes[-1]]),
        Bug("All codes are looked up in codebook 0. Code 5 of codebook 3 has nothing to do with code 5 of codebook 0.", lambda codes, books: sum(books[0][row] for row in codes)),
        Bug("The codes are matched with the last codebooks. Fewer rows than codebooks are the first ones.", lambda codes, books: sum_entries(codes, books[len(books) - len(codes) :])),
        Bug("The entries stand side by side, q · D numbers a frame. They must be added: the result is as wide as one entry.", lambda codes, books: torch.cat([book[row] for book, row in zip(books, codes)], dim=1)),
    ),
    gradients=(1,),
    picture=lambda wanted, theirs: compare_maps(wanted, theirs, xlabel="dimension", ylabel="frame"),
)


# --- 01.bitrate --------------------------------------------------------------------------------------------------

BITRATE = Exercise(
    id="01.bitrate",
    title="Bits a second",
    difficulty=1,
    importance=2,
    minutes=5,
    looks="One number; for Mimi it is a whole one, a little above a thousand.",
    hints=(
        "How many bits tell one of 4 apart, one of 8, one of 2048?",
        "A code that is one of C costs log2(C) bits. How many codes are there in a second?",
        "frame_rate * codebooks codes a second, each of math.log2(codes) bits.",
    ),
    reference=bit_rate,
    package_name="mmo.codec.bit_rate",
    cases=lambda: [
        Case("Mimi: 12.5 frames of 8 codes, each one of 2048", (12.5, 8, 2048)),
        Case("the tiny codec: 12.5 frames of 8 codes, each one of 512", (12.5, 8, 512)),
        Case("one codebook of 1000 codes, 50 frames a second", (50.0, 1, 1000)),
    ],
    bugs=(
        Bug("That is the natural logarithm. It counts in nats; bits want the logarithm to base 2.", lambda rate, Q, C: rate * Q * math.log(C)),
        Bug("You count the entries of a codebook. To name one of C entries takes log2(C) bits, not C.", lambda rate, Q, C: float(rate * Q * C)),
        Bug("That is the number of codes a second. Each of them is worth log2(codes) bits.", lambda rate, Q, C: float(rate * Q)),
        Bug("Those are the bits of one frame. How many frames are there in a second?", lambda rate, Q, C: Q * math.log2(C)),
        Bug("All codebooks went into one logarithm. A frame's codes are one of C to the power Q combinations, and log2(C^Q) is Q · log2(C).", lambda rate, Q, C: rate * math.log2(Q * C)),
        Bug("(2048).bit_length() is 12, but 2048 codes, numbered from 0, need 11 bits: log2. And where it is no whole number, such as log2(1000), that is what a code is worth on average.", lambda rate, Q, C: rate * Q * C.bit_length()),
        Bug("Those are bytes: wanted are bits.", lambda rate, Q, C: bit_rate(rate, Q, C) / 8),
        Bug("Those are kilobits: wanted are bits.", lambda rate, Q, C: bit_rate(rate, Q, C) / 1000),
    ),
)


# --- 01.perplexity -----------------------------------------------------------------------------------------------


def shares(codes: Tensor, num_codes: int) -> Tensor:
    return torch.bincount(codes.flatten(), minlength=num_codes).double() / codes.numel()


def entropy(codes: Tensor, num_codes: int) -> float:
    return math.log(perplexity(codes, num_codes))


def nan_probe(arguments: tuple, wanted: float, theirs) -> str | None:
    """The commonest trap: a code that never occurs."""
    try:
        lost = math.isnan(float(theirs))
    except (TypeError, ValueError):
        return None
    return "The result is no number. A code that never occurs has share 0, and 0 · log 0 is nan on a computer, though its limit is 0: leave such codes out." if lost else None


PERPLEXITY = Exercise(
    id="01.perplexity",
    title="Codes in use",
    difficulty=2,
    importance=2,
    minutes=8,
    looks="One number between 1 and the size of the codebook.",
    hints=(
        "First the shares: torch.bincount(codes, minlength=num_codes) counts each code; divide by the number of codes.",
        "The entropy is −Σ p log p over the codes that occur; 0 · log 0 counts as 0, so leave the zeros out.",
        "The perplexity is exp of the entropy in nats (natural logarithm), or 2 to the power of the entropy in bits. Return a float.",
    ),
    reference=perplexity,
    package_name="mmo.codec.perplexity",
    cases=lambda: [
        Case("codes 0 0 0 1 2 2 5 of 8", (torch.tensor([0, 0, 0, 1, 2, 2, 5]), 8)),
        Case("200 codes of 16", (torch.randint(0, 16, (200,), generator=torch.Generator().manual_seed(16)), 16)),
        Case("always the same code", (torch.full((9,), 3), 4)),
    ],
    bugs=(
        Bug("That is the entropy. The perplexity is exp of it: a number of codes.", entropy),
        Bug("Two logarithms got mixed: the entropy is in bits, but exp wants nats. Use 2 to the power of it, or the natural logarithm.", lambda codes, C: math.exp(entropy(codes, C) / math.log(2))),
        Bug("Two logarithms got mixed: the entropy is in nats, but 2 to the power of it wants bits. Use exp, or the logarithm to base 2.", lambda codes, C: 2 ** entropy(codes, C)),
        Bug("You count which codes occur at all. A code that occurs once in an hour then counts as much as the commonest one; weigh them by how often they occur.", lambda codes, C: float(len(codes.unique()))),
        Bug("That is 1 / Σp². It is a number of codes in use too, and a good one, but another one: the commonest codes weigh more. Wanted is exp of the entropy.", lambda codes, C: float(1 / (shares(codes, C) ** 2).sum())),
        Bug("The sign is lost: log p is negative, so the entropy is −Σ p log p, and the perplexity is at least 1.", lambda codes, C: 1 / perplexity(codes, C)),
        Bug("The counts were divided by the size of the codebook. Shares must add up to 1: divide by the number of codes you counted.", lambda codes, C: float((torch.special.entr(shares(codes, C) * codes.numel() / C)).sum().exp())),
    ),
    probe=nan_probe,
)

EXERCISES = (NEAREST, RESIDUAL, SUM, BITRATE, PERPLEXITY)
