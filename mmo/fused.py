"""What autograd or torch's kernels do slowly, done quicker: RMSNorm and rotation with their gradients by hand, attention in bfloat16 on a CPU.

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


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension.

    The hand-written gradient is for the CPU; elsewhere torch's own function is fused already.  Under autocast x may be bf16 where the
    weight is fp32: on a CPU torch's function would then be one operation after the other in bf16, so x is made fp32 first, which is exacter and
    takes about half the time; so is the result, which `RMSNorm` (transformer.py) then rounds for products.  A compiler derives and fuses by itself.
    """
    by_hand = not torch.compiler.is_compiling() and torch.is_grad_enabled() and x.device.type == "cpu" and weight.dtype != torch.bfloat16
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
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return turn(grad, cos, -sin), None, None


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(left, right) -> (left cos - right sin, right cos + left sin), computed in fp32 at least."""
    left, right = x.chunk(2, dim=-1)
    turned = x * torch.cat((cos, cos), dim=-1)
    turned.addcmul_(torch.cat((right, left), dim=-1), torch.cat((-sin, sin), dim=-1))
    return turned.to(x.dtype)


SHORT = 256  # positions up to which attention by products is the quicker one
_longest = SHORT


@contextmanager
def as_on_a_card() -> Iterator[None]:
    """Attention by torch's kernel alone, which keeps no squares for its gradient: for counting on a CPU what a card will hold."""
    global _longest
    _longest = 0
    try:
        yield
    finally:
        _longest = SHORT


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Grouped-query attention: q (B, H, T, E), k and v (B, G, S, E) -> (B, H, T, E).  mask: True where a position is seen.

    One of torch's fused kernels, but for training in bf16 on a CPU: there the kernel's gradient takes five times as long as the products it
    is made of (54 rows of 75 positions, one thread: 182 ms for 37), as long as their squares are small.
    """
    short = causal and mask is None and q.shape[2] <= _longest
    slow = torch.is_grad_enabled() and q.device.type == "cpu" and q.dtype == torch.bfloat16
    if short and slow:
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
