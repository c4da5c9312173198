"""Optimisers, learning rates and the average of the weights.

- AdamW, fused where the device has the kernel; matrices decay, norms, biases, scales and embeddings do not
- optionally Muon (muon.py) on the blocks' hidden matrices: their updates are made orthogonal, so that all
  directions of a matrix learn alike; everything else stays with AdamW
- warm-up, then cosine, linear, or "wsd" (constant, then down over the last fifth) to a share of the rate
- an exponential moving average of the weights, which is what gets evaluated and shipped

Nothing here asks the device for a value: a step whose loss is not finite is skipped by the fused kernel itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils._foreach_utils import _get_fused_kernels_supported_devices

from mmo.config import StageConfig
from mmo.muon import Muon

BETAS = (0.9, 0.95)  # the second is lower than Adam's own 0.999: runs of some thousand steps have no time for more


def choose_trainable(model: nn.Module, trainable: str) -> dict[str, nn.Parameter]:
    """Freeze all but the named parts ("all", or first names joined by "+"); returns what learns, by name.

    Raises ValueError where a name is no part of the model.
    """
    parts = trainable.split("+")
    known = {name.split(".")[0] for name, _ in model.named_parameters()}
    unknown = sorted(set(parts) - known - {"all"})
    if unknown:
        raise ValueError(f"trainable: {', '.join(unknown)} is no part of the model; there are all, {', '.join(sorted(known))}")
    chosen = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("all" in parts or name.split(".")[0] in parts)
        if parameter.requires_grad:
            chosen[name] = parameter
    return chosen


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon may have it: a matrix inside a block, and not a router (few rows, and not a map of features)."""
    return ".layers." in name and parameter.dim() == 2 and not name.endswith(".gate.weight")


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Weight decay is for matrices that multiply; embeddings are looked up, vectors scale and shift."""
    looked_up = "embed_tokens" in name and not name.endswith(".2.weight")  # .2 is the Linear of a code adapter
    return parameter.dim() >= 2 and not looked_up


def has_fused_kernel(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether AdamW has one kernel for all it does, on the devices of these parameters (CPU, CUDA, MPS and some more)."""
    return {parameter.device.type for parameter in parameters} <= set(_get_fused_kernels_supported_devices())


class Optimisers:
    """AdamW, or Muon and AdamW, over named parameters."""

    def __init__(self, parameters: dict[str, nn.Parameter], stage: StageConfig, products: torch.dtype | None = None) -> None:
        """products: what Muon computes its own in; default what suits the device (`muon.product_dtype`)."""
        self.names = {parameter: name for name, parameter in parameters.items()}
        muon = {n: p for n, p in parameters.items() if stage.optimiser == "muon" and is_hidden_matrix(n, p)}
        rest = {n: p for n, p in parameters.items() if n not in muon}
        groups = [
            {"params": [p for n, p in rest.items() if decays(n, p)], "weight_decay": stage.weight_decay},
            {"params": [p for n, p in rest.items() if not decays(n, p)], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        self.fused = has_fused_kernel(rest.values())
        self.adam = torch.optim.AdamW(groups, lr=stage.learning_rate, betas=BETAS, fused=self.fused)
        self.muon = Muon(muon.values(), lr=stage.muon_rate, weight_decay=stage.weight_decay, products=products) if muon else None
        self.rates = [(self.adam, stage.learning_rate)] + ([(self.muon, stage.muon_rate)] if muon else [])

    def set_rate(self, factor: float) -> None:
        """All rates to `factor` of their peaks."""
        for optimiser, peak in self.rates:
            for group in optimiser.param_groups:
                group["lr"] = peak * factor

    def step(self, bad: Tensor) -> None:
        """One update, unless `bad` (a scalar on the device, 1 where gradients are not finite).

        AdamW's fused kernel skips by itself, as our Muon does; on a device without that kernel the host asks for `bad`, once a step.
        """
        if self.fused:
            self.adam.grad_scale, self.adam.found_inf = None, bad
            self.adam.step()
        elif not bad.item():
            self.adam.step()
        if self.muon:
            self.muon.step(bad)

    def zero_grad(self) -> None:
        for parameter in self.names:
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """fp32 state by "parameter|slot"."""
        found = {}
        for optimiser, _ in self.rates:
            for parameter, slots in optimiser.state.items():
                found |= {f"{self.names[parameter]}|{slot}": value for slot, value in slots.items()}
        return found

    def load(self, state: dict[str, Tensor]) -> None:
        """What `state` gave.  Raises ValueError naming parameters that do not learn in this stage."""
        by_name = {name: parameter for parameter, name in self.names.items()}
        owner = {p: optimiser for optimiser, _ in self.rates for group in optimiser.param_groups for p in group["params"]}
        unknown = sorted({key.split("|")[0] for key in state} - set(by_name))
        if unknown:
            raise ValueError(f"the saved optimiser knows {unknown[:3]} …, which do not learn here: other settings?")
        for key, value in state.items():
            name, slot = key.split("|")
            parameter = by_name[name]
            owner[parameter].state[parameter][slot] = value.to(parameter.device, copy=True)  # a copy: what was read may be a view into the file


def rate_factor(step: int, steps: int, stage: StageConfig) -> float:
    """Share of the peak rate in step 0 … steps - 1: linear warm-up, then down to `final_rate`.

    Warm-up is cut to a tenth of a run that is too short for it (budget "smoke").
    """
    warmup = min(stage.warmup_steps, max(1, steps // 10))
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - 1 - warmup)
    if stage.schedule == "constant":
        return 1.0
    if stage.schedule == "cosine":
        fall = (1 - math.cos(math.pi * done)) / 2
    else:
        fall = done if stage.schedule == "linear" else max(0.0, done - 0.8) / 0.2
    return 1 - (1 - stage.final_rate) * fall


class Average:
    """Exponential moving average of parameters; young averages forget faster, so that the start does not linger."""

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.parameters = parameters
        self.values = {name: parameter.detach().clone() for name, parameter in parameters.items()} if decay else {}

    def update(self) -> None:
        """After every step."""
        self.updates += 1
        if self.decay:
            keep = min(self.decay, (1 + self.updates) / (10 + self.updates))
            torch._foreach_lerp_(list(self.values.values()), [p.detach() for p in self.parameters.values()], 1 - keep)

    def swap(self) -> None:
        """Exchange weights and average: to evaluate, and back."""
        for name, value in self.values.items():
            parameter = self.parameters[name].data
            held = parameter.clone()
            parameter.copy_(value)
            value.copy_(held)
