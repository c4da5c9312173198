"""What autograd or torch's kernels do slowly, done quicker: RMSNorm, rotation and codes looked up with their gradients by hand; attention and losses in
bfloat16 on a CPU.

RMSNorm and the rotation of queries and keys do little arithmetic, but autograd derives their gradients step by step,
and each step reads and writes a whole tensor.  The gradients below take about half the passes: forward and backward
of one RMSNorm went from 3.7 to 2.1 ms over (32, 64, 192) and from 4.8 to 2.8 ms over (32, 64, 8, 24), on one thread of a
busy CPU.  They compute the same numbers (tests compare them with autograd's); without this module the model would be
slower, nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmo.config import IGNORE


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension.

    The hand-written gradient is for the CPU; elsewhere torch's own function is fused already.  Under autocast x may be bf16 where the
    weight is fp32: on a CPU torch's function would then be one operation after the other in bf16, so x is made fp32 first, which is exacter and
    takes about half the time; so is the result, which `RMSNorm` (transformer.py) then rounds for products.  A compiler derives and fuses by itself.
    """
    by_hand = trains_on_cpu(x) and not torch.compiler.is_compiling() and weight.dtype != torch.bfloat16
    if by_hand and x.dtype in (weight.dtype, torch.bfloat16):
        return RMSNormFunction.apply(x.to(weight.dtype), weight, eps)
    return F.rms_norm(x, weight.shape, weight.to(x.dtype), eps)


def as_read(x: Tensor, kind: torch.dtype) -> Tensor:
    """x in the format that a product reads: autocast's, where it is on, else `kind`.

    Autocast itself brings x there for each product anew: three copies where queries, keys and values read one input, and three gradients to be
    brought back.
    """
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else kind)


class RMSNormFunction(torch.autograd.Function):
    """With n = x / rms(x):  y = n w,  dw = sum dy n,  dx = (dy w - n mean(dy w n)) / rms(x)."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        width = x.shape[-1]
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(width).add_(eps).rsqrt_()
        normed = x * scale
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        normed, scale, weight = ctx.saved_tensors
        width = len(weight)
        product = (grad * normed).reshape(-1, width)
        mean = torch.mv(product, weight).view(scale.shape).div_(width)
        grad_x = (grad * weight).addcmul_(normed, mean, value=-1).mul_(scale)
        return grad_x, product.sum(dim=0) if ctx.needs_input_grad[1] else None, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pair (x_i, x_(i + E/2)) by its position's angle, computed in fp32 at least.  x (..., T, heads, E), cos and sin (..., T, 1, E/2)."""
    by_hand = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return RotateFunction.apply(x, cos, sin) if by_hand else turn(x, cos, sin)


class RotateFunction(torch.autograd.Function):
    """The gradient of a rotation is the rotation back."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return turn(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return turn(grad, cos, -sin), None, None


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(left, right) -> (left cos - right sin, right cos + left sin), computed in fp32 at least."""
    left, right = x.chunk(2, dim=-1)
    turned = x * torch.cat((cos, cos), dim=-1)
    turned.addcmul_(torch.cat((right, left), dim=-1), torch.cat((-sin, sin), dim=-1))
    return turned.to(x.dtype)


_as_on_a_card = False


@contextmanager
def as_on_a_card() -> Iterator[None]:
    """Nothing but torch's kernels, which keep other tensors for their gradients: for counting on a CPU what a card will hold."""
    global _as_on_a_card
    _as_on_a_card = True
    try:
        yield
    finally:
        _as_on_a_card = False


def trains_on_cpu(x: Tensor) -> bool:
    """Whether gradients are wanted on a CPU, and nobody counts what a card would hold."""
    return torch.is_grad_enabled() and x.device.type == "cpu" and not _as_on_a_card


SHORT = 256  # positions up to which attention by products is the quicker one


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Grouped-query attention: q (B, H, T, E), k and v (B, G, S, E) -> (B, H, T, E).  mask: True where a position is seen.

    One of torch's fused kernels, but for training in bf16 on a CPU: there the kernel's gradient takes five times as long as the products it
    is made of (54 rows of 75 positions, one thread: 182 ms for 37), as long as their squares are small.
    """
    if causal and mask is None and q.shape[2] <= SHORT and q.dtype == torch.bfloat16 and trains_on_cpu(q):
        return attend_by_products(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True)


def attend_by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention spelt out.  The H / G query heads that share a key head stand below each other, so no key is repeated."""
    B, H, T, E = q.shape
    G = k.shape[1]
    hidden = q.new_full((T, T), -math.inf).triu(1).repeat(H // G, 1)
    q, k, v = q.reshape(B * G, -1, E), k.reshape(B * G, T, E), v.reshape(B * G, T, E)
    scores = torch.baddbmm(hidden, q, k.transpose(1, 2), alpha=E**-0.5)  # (B G, H / G T, T)
    return torch.bmm(scores.softmax(dim=-1), v).view(B, H, T, E)


def mean_of_codes(tables: Tensor, codes: Tensor) -> Tensor:
    """tables (Q, A, D), codes (B, Q, T) -> (B, T, D): each position's Q vectors, one of each codebook's table, averaged."""
    Q, A, D = tables.shape
    rows = codes.transpose(1, 2) + A * torch.arange(Q, device=codes.device)  # (B, T, Q) of all tables below each other
    if trains_on_cpu(tables) and not torch.compiler.is_compiling():
        return MeanOfCodes.apply(tables, codes, rows)
    return F.embedding(rows, tables.flatten(0, 1)).mean(dim=2)


class MeanOfCodes(torch.autograd.Function):
    """The same sums, to the bit, without Q vectors a position in memory, there and back: 71 ms for 174 (Q = 8, 4 050 positions, D = 768, fp32, one thread)."""

    @staticmethod
    def forward(ctx, tables: Tensor, codes: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(codes)
        ctx.size = tables.shape[1]
        return F.embedding_bag(rows.flatten(0, 1), tables.flatten(0, 1), mode="mean").view(*rows.shape[:2], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (codes,) = ctx.saved_tensors
        each = (grad / codes.shape[1]).flatten(0, 1)  # (B T, D), what every codebook's vector gets
        return torch.stack([torch.ops.aten.embedding_dense_backward(each, own.flatten(), ctx.size, -1, False) for own in codes.unbind(1)]), None, None


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """logits (N, A), labels (N,), -100 where nothing is learnt -> (N,) fp32, 0 there: -log softmax(logits)[label].

    In bf16 on a CPU some rows at a time: torch would write logits, their log softmax and two gradients of them in fp32, each twice as large as the logits.
    """
    if logits.dtype == torch.bfloat16 and trains_on_cpu(logits):
        return CrossEntropies.apply(logits, labels)
    return F.cross_entropy(logits.float(), labels, reduction="none", ignore_index=IGNORE)


AT_ONCE = 1 << 18  # logits: 1 MiB in fp32, which stays in a core's cache


class CrossEntropies(torch.autograd.Function):
    """The gradient is softmax(logits), less 1 at the label; nothing is kept for it but the logits."""

    @staticmethod
    def forward(ctx, logits: Tensor, labels: Tensor) -> Tensor:
        ctx.save_for_backward(logits, labels)
        rows = max(1, AT_ONCE // logits.shape[1])
        some = zip(logits.split(rows), labels.split(rows))
        return torch.cat([F.nll_loss(part.float().log_softmax(dim=-1), own, reduction="none", ignore_index=IGNORE) for part, own in some])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        logits, labels = ctx.saved_tensors
        grad, labels, result = torch.where(labels == IGNORE, 0, grad)[:, None], labels.clamp(min=0)[:, None], torch.empty_like(logits)
        rows = max(1, AT_ONCE // logits.shape[1])
        for part, own, wanted, into in zip(*(each.split(rows) for each in (logits, grad, labels, result))):
            into.copy_(part.float().softmax(dim=-1).mul_(own).scatter_add_(1, wanted, -own))
        return result, None
