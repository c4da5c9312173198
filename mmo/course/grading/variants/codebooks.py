"""Variants of notebooks 01 and 08 with another number of codebooks: a class whose model has three, five or six, whatever is given.

Coarse to fine, and heads for the same codebooks: a name asks for the same number in every exercise, as one model would have it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmo.course.exercises import Case
from mmo.course.grading.variants.asked import Asked, Family
from mmo.course.tasks import codec, talker


def residual_of(count: int, x: Tensor, codebooks: Tensor) -> Tensor:
    """01.residual with the first `count` codebooks."""
    return codec.residual_codes(x, codebooks[:count])


def sum_of(count: int, codes: Tensor, codebooks: Tensor) -> Tensor:
    """01.sum with the first `count` codebooks."""
    return codec.sum_entries(codes[:count], codebooks[:count])


def heads_of(count: int, hidden: Tensor, base: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """08.heads with the first `count` codebooks."""
    return talker.read_heads(hidden, base, inner[:count], outer[:count])


def residual_case(points: int, Q: int, C: int, D: int, seed: int) -> Case:
    return Case(f"{points} points, {Q} codebooks of {C} entries in {D} dimensions", (codec.drawn(points, D, seed=seed), codec.shrinking(Q, C, D, seed + 1)))


def sum_case(Q: int, F: int, C: int, D: int, seed: int) -> Case:
    codes = torch.randint(0, C, (Q, F), generator=torch.Generator().manual_seed(seed))
    return Case(f"{Q} codebooks, {F} frames", (codes, codec.shrinking(Q, C, D, seed + 1)))


def heads_case(B: int, T: int, Q: int, seed: int) -> Case:
    A, D, R = 12, 4, 2
    weights = talker.drawn(A, D, seed=seed + 1), talker.drawn(Q, R, D, seed=seed + 2), talker.drawn(Q, A, R, seed=seed + 3)
    return Case(f"{B} rows of {T} positions, {Q} codebooks", (talker.drawn(B, T, D, seed=seed), *weights))


def first_ones(count: int, word: str) -> dict[str, Asked]:
    """The three exercises for a model with that many codebooks."""
    own = f"Your class's model has **{word} codebooks**, codebook 0 first. Where more are given, the others are not used; where fewer are, all of them are."
    plain = own.replace("**", "")
    few = f"Cut what is given to its first {word} before anything else; a slice may reach beyond the end."
    return {
        "01.residual": Asked(
            task=f"{own} The result has a row for each codebook in use.",
            docstring=f"x (N, D), codebooks (Q, C, D) -> codes (min(Q, {count}), N), int64. {plain}",
            looks=f"Whole numbers, a row a codebook, {word} rows at most.",
            hints=(few, "What the codebooks in use leave is left: nobody quantises it."),
            function=lambda x, codebooks: residual_of(count, x, codebooks),
            cases=lambda: [residual_case(6, 3, 4, 2, 4), residual_case(9, 8, 16, 6, 6), residual_case(5, 2, 8, 3, 8)],
            hidden=lambda: [residual_case(11, 7, 8, 4, 174), residual_case(1, 2, 6, 3, 176)],
        ),
        "01.sum": Asked(
            task=f"{own} Rows of codes for codebooks that your class has not are not added.",
            docstring=f"codes (q, F), q <= Q, codebooks (Q, C, D) -> (F, D), of the first {word} at most. {plain}",
            looks="One vector a frame.",
            hints=(few, "Codes and codebooks are cut alike."),
            function=lambda codes, codebooks: sum_of(count, codes, codebooks),
            cases=lambda: [sum_case(3, 4, 6, 2, 10), sum_case(8, 5, 16, 4, 12), sum_case(2, 3, 6, 3, 14)],
            hidden=lambda: [sum_case(7, 6, 9, 6, 178), sum_case(1, 4, 5, 2, 180)],
        ),
        "08.heads": Asked(
            task=f"{own} There are logits for the codebooks in use only.",
            docstring=f"hidden (B, T, D), base (A, D), inner (Q, R, D), outer (Q, A, R) -> logits (B, T, min(Q, {count}), A). {plain}",
            looks=f"Logits for each position and each codebook in use, {word} at most.",
            hints=(few, "inner and outer hold the adapters, one a codebook; the shared part is as it was."),
            function=lambda hidden, base, inner, outer: heads_of(count, hidden, base, inner, outer),
            cases=lambda: [heads_case(2, 3, 8, 20), heads_case(1, 4, 2, 24)],
            hidden=lambda: [heads_case(3, 2, 7, 183), heads_case(2, 1, 1, 187)],
        ),
    }


FAMILIES = (Family("codebooks", {"three": first_ones(3, "three"), "five": first_ones(5, "five"), "six": first_ones(6, "six")}),)
