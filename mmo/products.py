"""Training's matrix products in bfloat16, on a processor that has units for them (AMX); all else stays in float32.

    products = QuickProducts(model)
    with products: loss = ...          # and loss.backward(), behind or inside the block

A narrow model gains nothing by autocast: norms, gates and attention would follow into bfloat16, and each new shape costs, for oneDNN writes
a kernel for every shape that it meets (1.5 ms forward, 5 ms for the gradient of a weight of 512 x 192), and batches under a budget of positions
have hundreds.  So

- only products are rounded: what goes in, what comes out, and the gradients of both;
- rows are filled up with zeros to a multiple of GRAIN, so a run has a few dozen shapes.

A product of 1280 x 192 x 512 takes 0.35 ms for 1.0 then (two threads, its two gradients 0.76 for 2.2), and an update of `tiny` a quarter less time.
Sums are taken in float32 by the units themselves.  Where there are none (`possible`), training computes as it always did.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmo.talker import CodeHead

GRAIN = 128  # rows
SMALLEST = 64  # width from which a product is worth the way to bfloat16 and back; a router's choice among experts stays exact


def has_units(device: torch.device) -> bool:
    """Whether products of bfloat16 are quicker here than those of float32: a CPU with AMX.  AVX512-BF16 is not enough (`profiles.compute_dtype`)."""
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()


class QuickProducts:
    """While the block lasts, the linear layers and the Talker's head of a model compute their products in bfloat16 where gradients are wanted."""

    def __init__(self, model: nn.Module) -> None:
        self.forwards = {}
        for module in model.modules():
            if isinstance(module, nn.Linear) and min(module.weight.shape) >= SMALLEST:
                self.forwards[module] = partial(layer, module)
            elif isinstance(module, CodeHead):
                self.forwards[module] = partial(head, module)

    def __enter__(self) -> None:
        for module, forward in self.forwards.items():
            module.forward = forward

    def __exit__(self, *error) -> None:
        for module in self.forwards:
            del module.forward  # its class's own is there again


def layer(module: nn.Linear, x: Tensor) -> Tensor:
    """x (..., K) -> (..., M)."""
    return linear(x, module.weight, module.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: x (..., K), weight (M, K), bias (M,) -> (..., M)."""
    if not torch.is_grad_enabled():
        return F.linear(x, weight, bias)
    out = Product.apply(x.flatten(0, -2), weight).unflatten(0, x.shape[:-1])
    return out if bias is None else out + bias


class InHead(TorchFunctionMode):
    """The products that the Talker's head spells out itself: of its adapters, stacked."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.linear:
            return linear(*args)
        if func is torch.baddbmm and torch.is_grad_enabled():
            added, x, weights = args
            return Product.apply(x, weights.mT) + added
        return func(*args, **(kwargs or {}))


def head(module: CodeHead, hidden: Tensor) -> Tensor:
    """`CodeHead.forward` with these products."""
    with InHead():
        return CodeHead.forward(module, hidden)


class Product(torch.autograd.Function):
    """x (..., N, K), weight (..., M, K) -> x weight^T (..., N, M), in the number format of x."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        rows, columns = rounded(x), weight.to(torch.bfloat16)
        ctx.save_for_backward(rows, columns)
        return (rows @ columns.mT)[..., : x.shape[-2], :].to(x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, columns = ctx.saved_tensors
        own = rounded(grad)
        grad_x = (own @ columns)[..., : grad.shape[-2], :].to(grad.dtype) if ctx.needs_input_grad[0] else None
        return grad_x, (own.mT @ rows).to(grad.dtype) if ctx.needs_input_grad[1] else None


def rounded(x: Tensor) -> Tensor:
    """x (..., N, K) in bfloat16, with rows of zeros up to a multiple of GRAIN."""
    *some, N, K = x.shape
    filled = x.new_empty((*some, -(-N // GRAIN) * GRAIN, K), dtype=torch.bfloat16)
    filled[..., :N, :] = x
    filled[..., N:, :] = 0
    return filled
