"""Training's matrix products in bfloat16, on a processor that has units for them (AMX); all else stays in float32.

    products = QuickProducts(model)
    with products: loss = ...          # and loss.backward(), behind or inside the block

A narrow model gains nothing by autocast: norms and attention would follow into bfloat16, and each new shape costs, for oneDNN writes
a kernel for every shape that it meets (1.5 ms forward, 5 ms for the gradient of a weight of 512 x 192), and batches under a budget of positions
have hundreds.  So

- only products are rounded: what goes in, what comes out, and the gradients of both.  What stands between two of them (the gate of a
  feed-forward, the codes' logits on their way into the loss) stays rounded, for the way to float32 and back costs as much as a product;
- rows are filled up with zeros to a multiple of GRAIN, so a run has a few dozen shapes.

A product of 1280 x 192 x 512 takes 0.35 ms for 1.0 then (two threads, its two gradients 0.76 for 2.2).  Sums are taken in float32 by the units
themselves.  Where there are none (`profiles.has_units`), training computes as it always did.  A weight's gradient is rounded, too, and that of two
halves of a batch is not quite that of the whole then: several processes that share batches compute in float32 throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mmo.config import StageConfig
from mmo.moe import MixtureOfExperts
from mmo.profiles import has_units
from mmo.talker import CodeHead
from mmo.transformer import FeedForward

GRAIN = 128  # rows
SMALLEST = 64  # width from which a product is worth the way to bfloat16 and back


def are_wanted(stage: StageConfig, device: torch.device, dtype: torch.dtype, processes: int = 1) -> bool:
    """Whether a pass computes so here: asked for, in float32, with units for it, not where several processes share its batches.

    Compiled blocks compute as they are written; where a compiler is given up, products are quick at once, as if it had never been asked (`training.Stepper`).
    """
    return stage.quick_products and processes == 1 and dtype == torch.float32 and has_units(device)


class QuickProducts:
    """While the block lasts, the products of a model are computed in bfloat16 where gradients are wanted.

    Modules keep their classes and weights their names: only `forward` is another, in the object.  One that has another already keeps it.
    A router's choice among experts stays exact.  Gradients of gradients are refused.
    Hooks on the layers inside a feed-forward or the Talker's head are not called meanwhile: these are computed as a whole.
    """

    def __init__(self, model: nn.Module) -> None:
        routers = {module.gate for module in model.modules() if isinstance(module, MixtureOfExperts)}
        chosen = ((module, quick_forward(module)) for module in model.modules() if module not in routers)
        self.forwards = {module: forward for module, forward in chosen if forward is not None}
        self.replaced: list[list[nn.Module]] = []  # of each block within the others

    def __enter__(self) -> None:
        self.replaced.append([module for module in self.forwards if "forward" not in vars(module)])
        for module in self.replaced[-1]:
            module.forward = self.forwards[module]

    def __exit__(self, *error) -> None:
        for module in self.replaced.pop():
            del module.forward  # its class's own is there again


def quick_forward(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """What stands for the `forward` of a module; None where its own does.  A class made from one of these may compute something else."""
    kind = type(module)
    if kind is nn.Linear:
        quick, weight = linear, module.weight
    elif kind is FeedForward:
        quick, weight = feed_forward, module.gate_proj.weight
    elif kind is CodeHead:
        quick, weight = code_head, module.base.weight
    else:
        return None
    return partial(quick, module) if min(weight.shape) >= SMALLEST else None


def linear(module: nn.Linear, x: Tensor) -> Tensor:
    """x (..., K) -> (..., M)."""
    if not torch.is_grad_enabled():
        return nn.Linear.forward(module, x)
    out = Product.apply(x.reshape(-1, x.shape[-1]), module.weight).view(*x.shape[:-1], len(module.weight))
    return out if module.bias is None else out + module.bias


def feed_forward(module: FeedForward, x: Tensor) -> Tensor:
    """`FeedForward.forward`: x (..., K) -> (..., K)."""
    if not torch.is_grad_enabled():
        return FeedForward.forward(module, x)
    weights = (each.weight for each in (module.gate_proj, module.up_proj, module.down_proj))
    return GatedProduct.apply(x.reshape(-1, x.shape[-1]), *weights).view(x.shape)


def code_head(module: CodeHead, hidden: Tensor) -> Tensor:
    """`CodeHead.forward`, but logits (..., Q, A) in bfloat16, of which `fused.cross_entropies` takes losses and gradients as they are."""
    if not torch.is_grad_enabled():
        return CodeHead.forward(module, hidden)
    x = hidden.reshape(-1, hidden.shape[-1])  # (N, D)
    inner = torch.stack([adapter[0].weight for adapter in module.adapters])  # (Q, R, D)
    outer = torch.stack([adapter[2].weight for adapter in module.adapters])  # (Q, A, R)
    low = F.gelu(Product.apply(x, inner.flatten(0, 1))).view(len(x), *inner.shape[:2]).transpose(0, 1)  # (Q, N, R)
    logits = HeadProduct.apply(x, module.base.weight, low, outer)  # (Q, N, A)
    return logits.view(len(outer), *hidden.shape[:-1], outer.shape[1]).movedim(0, -2)


def rounded(x: Tensor) -> Tensor:
    """x (..., N, K) in bfloat16, with rows of zeros up to a multiple of GRAIN."""
    *some, N, K = x.shape
    filled = x.new_empty((*some, -(-N // GRAIN) * GRAIN, K), dtype=torch.bfloat16)
    filled[..., :N, :] = x
    filled[..., N:, :] = 0
    return filled


class Product(torch.autograd.Function):
    """x (N, K), weight (M, K) -> x weight^T (N, M), in the number format of x."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        rows, columns = rounded(x), weight.to(torch.bfloat16)
        ctx.save_for_backward(rows, columns)
        return (rows @ columns.mT)[: len(x)].to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, columns = ctx.saved_tensors
        own = rounded(grad)
        grad_x = (own @ columns)[: len(grad)].to(grad.dtype) if ctx.needs_input_grad[0] else None
        return grad_x, (own.mT @ rows).to(grad.dtype) if ctx.needs_input_grad[1] else None


class GatedProduct(torch.autograd.Function):
    """x (N, K) -> down(silu(gate x) up x) (N, K): one product for gate and up, and nothing in float32 on the way."""

    @staticmethod
    def forward(ctx, x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        rows, inner, outer = rounded(x), torch.cat((gate, up)).to(torch.bfloat16), down.to(torch.bfloat16)
        both = rows @ inner.mT  # (N, 2 M)
        gated, kept = both.chunk(2, dim=-1)
        opened = F.silu(gated)
        acted = opened * kept
        ctx.save_for_backward(rows, inner, outer, both, opened, acted)
        return (acted @ outer.mT)[: len(x)].to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, inner, outer, both, opened, acted = ctx.saved_tensors
        own = rounded(grad)
        at_acted = own @ outer
        gated, kept = both.chunk(2, dim=-1)
        at_both = torch.empty_like(both)
        at_gated, at_kept = at_both.chunk(2, dim=-1)
        torch.mul(at_acted, opened, out=at_kept)
        at_gated.copy_(torch.ops.aten.silu_backward(at_acted.mul_(kept), gated))
        grad_x = (at_both @ inner)[: len(grad)].to(grad.dtype) if ctx.needs_input_grad[0] else None
        if not any(ctx.needs_input_grad[1:]):
            return grad_x, None, None, None
        return grad_x, *(at_both.mT @ rows).to(grad.dtype).chunk(2), (own.mT @ acted).to(grad.dtype)


class HeadProduct(torch.autograd.Function):
    """x (N, D), base (A, D), low (Q, N, R), outer (Q, A, R) -> logits x base^T + low outer^T (Q, N, A) in bfloat16."""

    @staticmethod
    def forward(ctx, x: Tensor, base: Tensor, low: Tensor, outer: Tensor) -> Tensor:
        rows, columns, inside, outside = rounded(x), base.to(torch.bfloat16), rounded(low), outer.to(torch.bfloat16)
        ctx.save_for_backward(rows, columns, inside, outside)
        logits = torch.baddbmm((rows @ columns.mT).expand(len(low), -1, -1), inside, outside.mT)
        return logits[:, : len(x)].contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, columns, inside, outside = ctx.saved_tensors
        own = rounded(grad)  # (Q, N, A)
        shared, N = own.sum(dim=0), grad.shape[1]
        _, base_learns, _, outer_learns = ctx.needs_input_grad
        return (
            (shared @ columns)[:N].float(), (shared.mT @ rows).float() if base_learns else None,
            (own @ outside)[:, :N].float(), (own.mT @ inside).float() if outer_learns else None,
        )  # fmt: skip
