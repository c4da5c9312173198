"""Muon (Jordan et al. 2024): momentum whose direction is made orthogonal, so that all directions of a matrix learn alike.

The same update as `torch.optim.Muon`, with two differences that decide its speed on a plain CPU:

- it computes in float32 there, unless a processor has units for bfloat16 (`products`: products.py).  torch's always computes in bfloat16, which processors without bfloat16 only emulate: one update
  of `tiny`'s matrices took 4.75 s of one such core;
- matrices of one shape are made orthogonal together, in a few batched products, and oblong ones by way of their gram matrices: 0.1 s of a core.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.775, 2.0315)  # of the quintic iteration: steepest at zero (Jordan et al.)
STEPS = 5
EPS = 1e-7


def product_dtype(device: torch.device) -> torch.dtype:
    """What the products are computed in: five rounds forgive bfloat16, which cards below compute capability 8.0 only emulate."""
    fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if fast else torch.float32


def orthogonal(matrices: Tensor, dtype: torch.dtype, used: Tensor | None = None) -> Tensor:
    """(N, A, B) -> (N, A, B), each nearly its own U V^T: singular values between about 0.5 and 1.5 (Newton-Schulz).  used: a scalar, 0 where all shall be 0, else 1.

    Every round multiplies x by a polynomial in its gram matrix x x^T.  Where x is much wider than high, the polynomials are
    multiplied among themselves, small and square, and meet x once at the end.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).to(dtype)
    norm = x.norm(dim=(1, 2), keepdim=True).clamp(min=EPS)
    x = x / (norm if used is None else norm / used.to(dtype))  # the largest singular value is at most 1
    if dtype == torch.float32 and x.shape[2] >= 2 * x.shape[1]:  # bfloat16 would lose the small singular values in the square
        product = all_rounds(x @ x.mT)
        if tall:  # multiplied on its other side, the result lies in memory as the weights do
            return (x.mT @ product.mT).to(matrices.dtype)
        x = product @ x
    else:
        for _ in range(STEPS):
            x = polynomial(x @ x.mT) @ x
    return (x.mT if tall else x).to(matrices.dtype)


def polynomial(gram: Tensor) -> Tensor:
    """gram (N, A, A) -> a I + b gram + c gram^2."""
    a, b, c = COEFFICIENTS
    found = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    found.diagonal(dim1=1, dim2=2).add_(a)
    return found


def all_rounds(gram: Tensor) -> Tensor:
    """gram (N, A, A) of x -> the product of all rounds' polynomials.  They commute, so each round's gram is the last one's, q gram q."""
    product = polynomial(gram)
    last = product
    for _ in range(STEPS - 1):
        gram = last @ gram @ last
        last = polynomial(gram)
        product = last @ product
    return product


class Muon(torch.optim.Optimizer):
    """For matrices only.  `momentum_buffer` is the state's one slot; weight decay is decoupled; Nesterov's look ahead."""

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], lr: float, weight_decay: float = 0.0, momentum: float = 0.95, products: torch.dtype | None = None
    ) -> None:
        """products: what they are computed in; default `product_dtype`."""
        self.products = products
        super().__init__(parameters, dict(lr=lr, weight_decay=weight_decay, momentum=momentum))
        for group in self.param_groups:
            if any(parameter.dim() != 2 for parameter in group["params"]):
                raise ValueError("Muon is for matrices; give vectors and tables to AdamW")

    @torch.no_grad()
    def step(self, bad: Tensor | None = None) -> None:
        """One update of every parameter that has a gradient; none, and no momentum, where `bad` (a scalar on the device) is 1.

        The host never asks for `bad`, so gradients that are not finite become zero and every change is multiplied by 1 - bad.
        """
        for group in self.param_groups:
            momentum, by_shape = group["momentum"], {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
            for (height, width), parameters in by_shape.items():
                ahead = self.ahead(parameters, momentum, bad)
                updates = orthogonal(ahead, self.products or product_dtype(ahead.device), None if bad is None else 1 - bad)
                rate, decay = group["lr"] * max(1.0, height / width) ** 0.5, group["lr"] * group["weight_decay"]
                if bad is not None:
                    decay = decay * (1 - bad)
                torch._foreach_mul_(parameters, 1 - decay)
                torch._foreach_add_(parameters, list(updates), alpha=-rate)

    def ahead(self, parameters: list[torch.nn.Parameter], momentum: float, bad: Tensor | None) -> Tensor:
        """The gradients (N, A, B) of matrices of one shape, carried on by their running means; the means take them in, unless `bad`."""
        gradients = torch.stack([parameter.grad for parameter in parameters])
        share = 1 - momentum
        if bad is not None:
            gradients.nan_to_num_(0.0, 0.0, 0.0)
            share = share * (1 - bad.to(gradients.dtype))
        means = []
        for parameter, gradient in zip(parameters, gradients, strict=True):
            state = self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(gradient)
            means.append(state["momentum_buffer"].lerp_(gradient, share))
        torch._foreach_lerp_(list(gradients), means, momentum)
        return gradients
