"""`torch.compile` for training: on the blocks, for all shapes at once, and off with a reason where it does not work.

    compilation = Compilation(model, device, dtype, tell=print)       # compiles and tries; .reason says why not
    compilation.run(work)                                             # work(), and once more without it where a compiler fails

- **What.**  Each decoder block by itself (regional compilation): all blocks of a stack share one graph, so a model of twelve
  compiles two.  Around them stay the heads, whose number of labelled positions is another in every batch.
- **Shapes.**  Batches under a budget of positions have hundreds of shapes.  Padding them to a few would give back what the buckets
  have won, so rows and positions are symbols in the graphs (`dynamic=True`).  What else may differ (one row or several, gradients or none,
  what learns) makes further graphs, at most GRAPHS; beyond, the compiler is given up rather than asked for ever.
- **Fall-back.**  A missing C++ compiler or Triton, an operation it cannot do, a graph too many: said once a pass, and the run goes on
  as if it had never been asked.  The step in which it happens is done again with the same random numbers.

Weights keep their names and the module its class: only `forward` of each block is replaced, in the object.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from mmo.checkpoint import random_state, set_random_state
from mmo.graphs import BACKEND, compile_errors, why
from mmo.moe import MixtureOfExperts
from mmo.omni import OmniModel
from mmo.transformer import Block

GRAPHS = 16  # at most, of blocks: two stacks x gradients or none x one row or several x what learns

Result = TypeVar("Result")


def graphs_made() -> int:
    """How many graphs this process has compiled so far."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


class Compilation:
    """The compiled blocks of one model.  `reason` is None while they are compiled, else why they are not."""

    def __init__(
        self, model: OmniModel, device: torch.device, dtype: torch.dtype, backend: str = BACKEND, tell: Callable[[str], None] = print
    ) -> None:
        self.model, self.device, self.dtype, self.tell = model, device, dtype, tell
        self.blocks = [module for module in model.modules() if isinstance(module, Block)]
        self.reason: str | None = None
        self.first_graph = graphs_made()
        if any(isinstance(block.mlp, MixtureOfExperts) for block in self.blocks):
            self.turn_off("experts are handed their positions by counts that the host must know, which no graph can hold")
            return
        restore(self.blocks)  # of an earlier pass, which may have learnt other weights
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
        for block in self.blocks:
            block.forward = torch.compile(block.forward, backend=backend, dynamic=True, fullgraph=True)
        started = time.monotonic()
        self.run(self.probe)
        if self.reason is None:
            self.tell(f"torch.compile: {self.graphs} graphs for {len(self.blocks)} blocks in {time.monotonic() - started:.0f} s")

    @property
    def graphs(self) -> int:
        """Graphs compiled since."""
        return graphs_made() - self.first_graph

    def probe(self) -> None:
        """Forward and backward of a few positions: what is missing shows here.  Weights, gradients and random numbers stay."""
        config, state = self.model.config, random_state(self.device)
        ids = torch.full((2, config.num_codebooks + 1, 16), config.audio_pad_token, device=self.device)
        ids[:, -1] = config.im_end_token
        held = {parameter: parameter.grad for parameter in self.model.parameters()}
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            hidden = self.model.hidden_states(ids)
            loss = hidden.text.float().sum() + hidden.audio.float().sum()
        if loss.requires_grad:
            loss.backward()
        for parameter, gradient in held.items():
            parameter.grad = gradient
        set_random_state(state, self.device)

    def run(self, work: Callable[[], Result], undo: Callable[[], None] = lambda: None) -> Result:
        """work(); where a compiler fails in it, the blocks are as they were before, `undo` is called, and work() is done again."""
        if self.reason is not None:
            return work()
        state = random_state(self.device)
        try:
            return work()
        except compile_errors() as error:
            self.turn_off(why(error))
            set_random_state(state, self.device)
            undo()
            return work()

    def turn_off(self, reason: str) -> None:
        """Back to the blocks as they are written."""
        self.reason = reason
        restore(self.blocks)
        self.tell(f"torch.compile is off and training goes on without it: {reason}")


def uncompiled(model: OmniModel) -> None:
    """The blocks as they are written, where an earlier pass has compiled them."""
    restore([module for module in model.modules() if isinstance(module, Block)])


def restore(blocks: list[nn.Module]) -> None:
    """Each block's own `forward` again."""
    for block in blocks:
        block.__dict__.pop("forward", None)
