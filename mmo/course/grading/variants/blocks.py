"""Variants of notebooks 01, 05 and 08: another distance, another norm, other pairs, groups, masks and gates, another mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmo.course.exercises import Case
from mmo.course.grading.variants.asked import Asked, Family
from mmo.course.tasks.talker import embed_codes
from mmo.course.tasks.thinker import drawn, rotate_neighbours


def family(name: str, id: str, docstring: str, hidden: Callable[[], Sequence[Case]] | None = None, **options: tuple[str, tuple[str, str], Callable]) -> Family:
    """One exercise; option -> (what is asked, two hints, the right function)."""
    return Family(
        name,
        {
            option.replace("_", " "): {id: Asked(words, f"{docstring} {words}".replace("**", ""), words.replace("**", ""), hints, function, hidden=hidden)}
            for option, (words, hints, function) in options.items()
        },
    )


# --- 01.nearest --------------------------------------------------------------------------------------------------


def nearest_in(norm: float) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    def nearest(x: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
        codes = torch.cdist(x, codebook, p=norm).argmin(dim=1)
        return codes, x - codebook[codes]

    return nearest


DISTANCES = family(
    "distance", "01.nearest", "x (N, D), codebook (C, D) -> codes (N,), int64, of the nearest entries, and what they leave (N, D).",
    city_blocks=("Near is what is near **by the sum of the absolute differences**, not by the straight line.", ("Differences of every point with every entry have shape (N, C, D).", "(x[:, None] - codebook).abs().sum(dim=-1)"), nearest_in(1.0)),
    largest_difference=("Near is what is near **by the largest of the absolute differences**, not by the straight line.", ("Differences of every point with every entry have shape (N, C, D).", "(x[:, None] - codebook).abs().amax(dim=-1)"), nearest_in(float("inf"))),
)  # fmt: skip


# --- Notebook 05 -------------------------------------------------------------------------------------------------


def normed(x: Tensor, eps: float) -> Tensor:
    return x * (x.square().mean(dim=-1, keepdim=True) + eps).rsqrt()


NORMS = family(
    "norm", "05.rms_norm", "x (..., D), weight (D,) -> (..., D).",
    offset=("The weight is stored as its difference from one: each vector is divided by its root mean square and multiplied by **1 + weight**.", ("With a weight of zero nothing but the division is left.", "Everything is as in the text but the last factor."), lambda x, weight, eps: normed(x, eps) * (1 + weight)),
    mean_absolute=("Each vector is divided by **its mean absolute value plus eps**, not by its root mean square, then multiplied by the weight.", ("There is no square and no root.", "x.abs().mean(dim=-1, keepdim=True) + eps"), lambda x, weight, eps: x / (x.abs().mean(dim=-1, keepdim=True) + eps) * weight),
)  # fmt: skip


def rotate_backwards(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos + right * sin, right * cos - left * sin), dim=-1)


PAIRS = family(
    "pairs", "05.rotate", "x (B, T, heads, E), cos and sin (T, 1, E / 2) -> the same shape.",
    neighbours=("A pair is made of **neighbours**: (x_0, x_1), (x_2, x_3) and so on; pair i turns by angle i.", ("x[..., ::2] and x[..., 1::2] are the two numbers of every pair.", "Afterwards they must lie side by side again: torch.stack along a new last dimension, then flatten the last two."), rotate_neighbours),
    backwards=("Pairs are (x_i, x_(i + E/2)) as in the text, but they turn **the other way round**.", ("Turning by minus an angle: which of cos and sin changes its sign?", "(left cos + right sin, right cos - left sin)"), rotate_backwards),
)  # fmt: skip


def in_pairs(kv: Tensor, times: int) -> Tensor:
    """Half as many groups: neighbouring key heads averaged two by two; a last one alone stays."""
    pairs = [pair.mean(dim=1, keepdim=True).expand_as(pair) for pair in kv.split(2, dim=1)]
    return torch.cat(pairs, dim=1).repeat_interleave(times, dim=1)


def in_one(kv: Tensor, times: int) -> Tensor:
    """One group for all query heads: multi-query attention, its head the mean, as models with more groups are converted (Ainslie et al., 2023)."""
    return kv.mean(dim=1, keepdim=True).repeat(1, kv.shape[1] * times, 1, 1)


GROUPS = family(
    "groups", "05.repeat_heads", "kv (B, G, S, E) -> (B, G * times, S, E).", lambda: [Case("5 heads, each for 4 queries", (drawn(2, 5, 3, 2, seed=75), 4)), Case("one head for 3 queries", (drawn(1, 1, 2, 3, seed=76), 3))],
    round_robin=("Query heads take the key heads **in turn**: 0 1 2 0 1 2, not 0 0 1 1 2 2.", ("Query head h uses key head h modulo G.", "The whole row of heads is repeated."), lambda kv, times: kv.repeat(1, times, 1, 1)),
    last_first=("Neighbours share a key head, but **the last key head comes first**: 2 2 1 1 0 0.", ("Turn the heads round, then repeat each.", "kv.flip(1)"), lambda kv, times: kv.flip(1).repeat_interleave(times, dim=1)),
    half_as_many=(
        "Your class's model has **half as many groups**: neighbouring key heads are averaged two by two, 0 with 1, 2 with 3, "
        "and whoever used one of them uses the average; a last one alone stays as it is.",
        ("As many heads come out as before: G * times.", "kv.split(2, dim=1) gives the pairs."), in_pairs,
    ),
    one_group=(
        "Your class's model has **one group**: all query heads use the average of all key heads.",
        ("As many heads come out as before: G * times, all alike.", "kv.mean(dim=1, keepdim=True)"), in_one,
    ),
)  # fmt: skip


def seen_in(window: int, first_too: bool = False) -> Callable[[int, int], Tensor]:
    """The causal mask, `window` positions wide; first_too: position 0 is always seen."""

    def seen(new: int, cached: int) -> Tensor:
        columns, own = torch.arange(cached + new), torch.arange(cached, cached + new)[:, None]
        near = (columns <= own) & (columns > own - window)
        return near | (columns == 0) if first_too else near

    return seen


MASKS = family(
    "mask", "05.seen", "(new, cached + new) of bool: True where the new position of that row may see the position of that column.",
    window_of_two=("A position sees **itself and the one before it**, nothing further back.", ("Two conditions, joined by &.", "columns <= own, and columns > own - 2"), seen_in(2)),
    window_of_three=("A position sees **itself and the two before it**, nothing further back.", ("Two conditions, joined by &.", "columns <= own, and columns > own - 3"), seen_in(3)),
    window_and_first=("A position sees **itself, the one before it, and always position 0**.", ("Three conditions: two joined by &, the third by |.", "columns <= own, columns > own - 2, columns == 0"), seen_in(2, first_too=True)),
)  # fmt: skip


def gated(opens: Callable[[Tensor], Tensor]) -> Callable:
    return lambda x, gate, up, down: F.linear(opens(F.linear(x, gate)) * F.linear(x, up), down)


GATES = family(
    "gate", "05.swiglu", "x (..., D), gate and up (inner, D), down (D, inner) -> (..., D).",
    geglu=("The gate goes through **F.gelu**, the exact one, not through a silu.", ("Everything else is as in the text.", "F.gelu(F.linear(x, gate))"), gated(F.gelu)),
    reglu=("The gate goes through **F.relu**, not through a silu.", ("Everything else is as in the text.", "F.relu(F.linear(x, gate))"), gated(F.relu)),
    glu=("The gate goes through **a sigmoid**, not through a silu.", ("Everything else is as in the text.", "F.linear(x, gate).sigmoid()"), gated(torch.sigmoid)),
)  # fmt: skip


# --- 08.embed ----------------------------------------------------------------------------------------------------

SIZES = family(
    "size", "08.embed", "codes (B, Q, T), base (A, D), tables (Q, A, R), outs (Q, D, R) -> (B, T, D).",
    sum=("The vectors of the codebooks are **added**, not averaged.", ("Everything else is as in the text.", "Which is how many times the mean?"), lambda codes, base, tables, outs: len(tables) * embed_codes(codes, base, tables, outs)),
    root=("The sum over the codebooks is divided by **the square root of Q**, not by Q.", ("Everything else is as in the text.", "Then the size of the vector does not hang on Q if the codebooks have nothing to do with each other."), lambda codes, base, tables, outs: len(tables) ** 0.5 * embed_codes(codes, base, tables, outs)),
)  # fmt: skip

FAMILIES = (DISTANCES, NORMS, PAIRS, GROUPS, MASKS, GATES, SIZES)
