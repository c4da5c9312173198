"""Notebook 05: the parts of a decoder block, the mask with a cache, one step of writing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from mmo.config import ModelConfig
from mmo.course.exercises import Bug, Case, Exercise
from mmo.course.pictures import compare_grids
from mmo.fused import rms_norm, rotate
from mmo.sampling import Chooser
from mmo.transformer import CacheLengths, FeedForward, make_window, rotary_table


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, always the same."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- 05.rms_norm -------------------------------------------------------------------------------------------------


def scale(x: Tensor, eps: float) -> Tensor:
    return (x.square().mean(dim=-1, keepdim=True) + eps).rsqrt()


def centred(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x = x - x.mean(dim=-1, keepdim=True)
    return x * scale(x, eps) * weight


RMS_NORM = Exercise(
    id="05.rms_norm",
    title="RMSNorm",
    difficulty=1,
    importance=2,
    minutes=6,
    looks="The same shape; with weight 1 the mean square of each vector is 1, however large it was.",
    hints=(
        "Each vector along the last dimension is divided by its own root mean square; nothing is subtracted.",
        "x.square().mean(dim=-1, keepdim=True) is the mean square. eps goes in before the root.",
        "torch.rsqrt is one over the root. Multiply by weight last.",
    ),
    reference=rms_norm,
    package_name="mmo.fused.rms_norm",
    cases=lambda: [
        Case("vectors of 8 numbers", (drawn(2, 3, 8), 1 + 0.1 * drawn(8, seed=1), 1e-6)),
        Case("very small vectors", (1e-3 * drawn(2, 3, 8, seed=2), torch.ones(8), 1e-6)),
    ],
    bugs=(
        Bug("The mean was subtracted: that is LayerNorm. RMSNorm only scales.", centred),
        Bug("You divided by the mean square, not by its root.", lambda x, weight, eps: x * scale(x, eps) ** 2 * weight),
        Bug("You summed the squares. It is the mean, so that the width does not matter.", lambda x, weight, eps: x * (x.square().sum(-1, keepdim=True) + eps).rsqrt() * weight),
        Bug("The mean runs over another dimension than the last: positions are mixed, and a position would see the later ones.", lambda x, weight, eps: x * (x.square().mean(-2, keepdim=True) + eps).rsqrt() * weight),
        Bug("The weight is missing.", lambda x, weight, eps: x * scale(x, eps)),
        Bug("eps stands outside the root. Inside it bounds small vectors by its own root, a thousandth here.", lambda x, weight, eps: x / (x.square().mean(-1, keepdim=True).sqrt() + eps) * weight),
    ),
    gradients=(0, 1),
)


# --- 05.rotate ---------------------------------------------------------------------------------------------------


def rotate_neighbours(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs (x_0, x_1), (x_2, x_3), ... as in the paper."""
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)


def rotate_half_only(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right), dim=-1)


def rotate_sign(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos + right * sin, right * cos + left * sin), dim=-1)


def rotate_cases() -> Sequence[Case]:
    cos, sin = (part[:, None] for part in rotary_table(8, 5, 100.0, torch.device("cpu")))
    return [Case("5 positions, 2 heads of 8 numbers", (drawn(1, 5, 2, 8), cos, sin))]


ROTATE = Exercise(
    id="05.rotate",
    title="Rotary positions",
    difficulty=2,
    importance=3,
    minutes=10,
    looks="The same shape and the same lengths of vectors; position 0 is not turned at all.",
    hints=(
        "A head of E numbers is E/2 points in a plane. Here point i is (x_i, x_(i + E/2)): one number from each half.",
        "left, right = x.chunk(2, dim=-1). Turning by an angle: (left cos - right sin, right cos + left sin).",
        "Put the halves together again with torch.cat along the last dimension.",
    ),
    reference=rotate,
    package_name="mmo.fused.rotate",
    cases=rotate_cases,
    bugs=(
        Bug("You paired neighbours (x_0, x_1), as the paper does. These weights were trained with halves: x_i turns with x_(i + E/2).", rotate_neighbours),
        Bug("It turns the other way round: the signs of the two sines are swapped.", lambda x, cos, sin: rotate(x, cos, -sin)),
        Bug("One sine has the wrong sign, so this is no rotation: lengths change.", rotate_sign),
        Bug("Only the first half was turned; the second half of each pair must turn with it.", rotate_half_only),
        Bug("Nothing was turned.", lambda x, cos, sin: x.clone()),
    ),
    gradients=(0,),
)


# --- 05.repeat_heads ---------------------------------------------------------------------------------------------


def repeat_heads(kv: Tensor, times: int) -> Tensor:
    """What `enable_gqa=True` makes of keys and values; a test holds it against torch's attention."""
    return kv.repeat_interleave(times, dim=1)


REPEAT = Exercise(
    id="05.repeat_heads",
    title="Grouped queries",
    difficulty=1,
    importance=2,
    minutes=5,
    looks="Twice the heads: 0 0 1 1 2 2 ...",
    hints=(
        "Query heads 0 and 1 share key head 0, heads 2 and 3 share key head 1, and so on. Write the list of key heads down.",
        "torch.repeat_interleave repeats each entry in its place; torch.repeat repeats the whole row.",
    ),
    reference=repeat_heads,
    package_name="enable_gqa=True in mmo.transformer.Attention",
    cases=lambda: [Case("3 heads, each for 2 queries", (drawn(1, 3, 4, 2), 2)), Case("2 heads, each for 3 queries", (drawn(2, 2, 3, 2, seed=1), 3))],
    bugs=(
        Bug("The heads come in the order 0 1 2 0 1 2: query heads 0 and 1 would use different keys. Neighbours share: 0 0 1 1 2 2.", lambda kv, times: kv.repeat(1, times, 1, 1)),
        Bug("Positions were repeated, not heads: the heads are dimension 1.", lambda kv, times: kv.repeat_interleave(times, dim=2)),
        Bug("The numbers inside the heads were repeated, not the heads: those are dimension 1.", lambda kv, times: kv.repeat_interleave(times, dim=3)),
    ),
    gradients=(0,),
)


# --- 05.seen -----------------------------------------------------------------------------------------------------

TOY = ModelConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64).thinker


def seen(new: int, cached: int) -> Tensor:
    """The mask of `mmo.transformer.make_window`; where that leaves it out (None), what it stands for."""
    lengths = CacheLengths(1, 64, "cpu")
    lengths.advance([cached])
    window = make_window(TOY, new, "cpu", lengths)
    if window.mask is not None:
        return window.mask[0, 0]
    return torch.ones(new, cached + new, dtype=torch.bool).tril(cached)


def all_true(new: int, cached: int) -> Tensor:
    return torch.ones(new, cached + new, dtype=torch.bool)


def probe_mask(arguments: tuple, wanted: Tensor, theirs) -> str | None:
    """A mask that is wrong in its own way still says where it looks."""
    if not isinstance(theirs, Tensor) or theirs.shape != wanted.shape or theirs.dtype != torch.bool:
        return None
    ahead, missed = (theirs & ~wanted).nonzero(), (wanted & ~theirs).nonzero()
    cached = arguments[1]
    if len(ahead):
        return f"Position {int(ahead[0, 0]) + cached} sees position {int(ahead[0, 1])}, which is not written yet."
    return f"Position {int(missed[0, 0]) + cached} does not see position {int(missed[0, 1])}, though it is written." if len(missed) else None


SEEN = Exercise(
    id="05.seen",
    title="The causal mask with a cache",
    difficulty=2,
    importance=3,
    minutes=10,
    looks="A triangle, and to its left a full rectangle as wide as the cache.",
    hints=(
        "Without a cache it is the lower triangle, the diagonal included: a position sees itself.",
        "The new position i stands at position cached + i of the whole text. Which columns may it see?",
        "torch.arange(cached + new) <= torch.arange(cached, cached + new)[:, None]",
    ),
    reference=seen,
    package_name="mmo.transformer.make_window",
    cases=lambda: [Case("4 new positions behind 3 cached", (4, 3)), Case("4 new positions and no cache", (4, 0)), Case("one new position behind 5", (1, 5))],
    bugs=(
        Bug("The triangle forgets the cache: new position 0 sees only the first cached one. It stands behind all of them.", lambda new, cached: all_true(new, cached).tril()),
        Bug("Position t sees t + 1: the answer is in the question. In training the loss would fall to nothing, and in writing there is no t + 1.", lambda new, cached: all_true(new, cached).tril(cached + 1)),
        Bug("A position does not see itself. It must: its own word is the newest that it knows.", lambda new, cached: all_true(new, cached).tril(cached - 1)),
        Bug("True and False are swapped: True means seen.", lambda new, cached: ~all_true(new, cached).tril(cached)),
        Bug("Everything is seen, the future too.", all_true),
    ),
    probe=probe_mask,
    picture=lambda wanted, theirs: compare_grids(
        wanted.int(), theirs.int(), {0: "", 1: "sees"},
        rows=[f"{t} asks" for t in range(wanted.shape[1] - len(wanted), wanted.shape[1])],
        columns=[f"is {t} seen?" for t in range(wanted.shape[1])],
    ),
)


# --- 05.swiglu ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def empty_feed_forward(width: int, inner: int) -> FeedForward:
    return FeedForward(width, inner)


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """`mmo.transformer.FeedForward` with these weights."""
    weights = {"gate_proj.weight": gate, "up_proj.weight": up, "down_proj.weight": down}
    return functional_call(empty_feed_forward(gate.shape[1], gate.shape[0]), weights, (x,))


SWIGLU = Exercise(
    id="05.swiglu",
    title="SwiGLU",
    difficulty=1,
    importance=2,
    minutes=6,
    looks="The same shape as x: up to the inner width and back.",
    hints=(
        "Three matrices: two lead up side by side, one leads back. F.linear(x, gate) multiplies by a weight of shape (out, in).",
        "One of the two ways up goes through F.silu and then opens or closes the other: they are multiplied, number by number.",
        "F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)",
    ),
    reference=swiglu,
    package_name="mmo.transformer.FeedForward",
    cases=lambda: [Case("width 6, inner width 10", (drawn(2, 3, 6), drawn(10, 6, seed=1), drawn(10, 6, seed=2), drawn(6, 10, seed=3)))],
    bugs=(
        Bug("The silu is on `up`. It belongs on `gate`; the two matrices were trained in these roles.", lambda x, gate, up, down: swiglu(x, up, gate, down)),
        Bug("That is a sigmoid, not a silu: silu(x) = x * sigmoid(x).", lambda x, gate, up, down: F.linear(F.linear(x, gate).sigmoid() * F.linear(x, up), down)),
        Bug("That is a gelu, not a silu: GEGLU instead of SwiGLU.", lambda x, gate, up, down: F.linear(F.gelu(F.linear(x, gate)) * F.linear(x, up), down)),
        Bug("The two ways up were added. A gate multiplies.", lambda x, gate, up, down: F.linear(F.silu(F.linear(x, gate)) + F.linear(x, up), down)),
        Bug("The silu is missing.", lambda x, gate, up, down: F.linear(F.linear(x, gate) * F.linear(x, up), down)),
    ),
    gradients=(0, 1),
    tolerance=1e-4,
)


# --- 05.next_token -----------------------------------------------------------------------------------------------


def next_token(hidden: Tensor, embedding: Tensor) -> int:
    """The greedy choice behind the last position, by `mmo.sampling.Chooser`."""
    logits = hidden[-1] @ embedding.T
    return int(Chooser([0.0], [0], len(embedding))(logits[None, None], None))


NEXT = Exercise(
    id="05.next_token",
    title="One step of writing",
    difficulty=1,
    importance=3,
    minutes=5,
    looks="One whole number: the id of the token that the model holds most likely.",
    hints=(
        "Which position knows the whole text so far?",
        "The head is the embedding, used backwards: a logit is the product of the hidden state with a token's vector.",
        "int((hidden[-1] @ embedding.T).argmax())",
    ),
    reference=next_token,
    package_name="mmo.sampling.Chooser",
    cases=lambda: [Case("5 positions, 40 tokens", (drawn(5, 6, seed=7), drawn(40, 6, seed=1))), Case("7 positions, 30 tokens", (drawn(7, 6, seed=2), drawn(30, 6, seed=3)))],
    bugs=(
        Bug("That is what the first position holds likely, and it has seen one token. Take the last.", lambda hidden, embedding: int((hidden[0] @ embedding.T).argmax())),
        Bug("That is the position of the largest of all logits, counted through. Take the last position, then the largest.", lambda hidden, embedding: int((hidden @ embedding.T).argmax())),
        Bug("That is the least likely token.", lambda hidden, embedding: int((hidden[-1] @ embedding.T).argmin())),
    ),
)

EXERCISES = (RMS_NORM, ROTATE, REPEAT, SEEN, SWIGLU, NEXT)
