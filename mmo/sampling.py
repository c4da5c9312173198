"""Choosing the next token: temperature, top-k, and a uniform number for each choice.

All rows and all codebooks are chosen in one go, without asking the device for a value; the settings are
`config.Decoding`.  Randomness comes from outside as uniform numbers, drawn per row from the row's own seed: so a row's
answer does not depend on who shares its batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmo.config import Decoding, ModelConfig
from mmo.omni import carry

__all__ = ["Chooser", "Decoding", "Noise", "allowed_codes"]


class Chooser:
    """Picks one of V from logits (..., V), for settings that broadcast over the leading dimensions."""

    def __init__(self, temperature: Sequence[float], top_k: Sequence[int], size: int, device=None) -> None:
        widths = [min(k, size) if k else size for k in top_k]
        self.greedy = not any(temperature)
        self.width = 1 if self.greedy else max(widths)
        self.temperature = torch.tensor(temperature, device=device)[:, None]  # (Q, 1)
        rank = torch.arange(self.width, device=device)
        width = torch.tensor([k if t else 1 for k, t in zip(widths, temperature, strict=True)], device=device)
        self.left_out = rank >= width[:, None]  # (Q, K): places behind a codebook's own top_k; greedy keeps one

    def __call__(self, logits: Tensor, uniform: Tensor | None) -> Tensor:
        """logits (B, Q, V) in any dtype, uniform (B, Q) in 0..1 -> ids (B, Q).  Probabilities are fp32."""
        if self.greedy:
            return logits.argmax(dim=-1)
        values, ids = logits.float().topk(self.width, dim=-1)  # sorted: best first
        values = (values / self.temperature.clamp(min=1e-6)).masked_fill(self.left_out, -torch.inf)
        heap = values.softmax(dim=-1).cumsum(dim=-1)
        place = (heap < uniform[..., None] * heap[..., -1:]).sum(dim=-1, keepdim=True)
        return ids.gather(-1, place.clamp(max=self.width - 1))[..., 0]


class Noise:
    """Uniform numbers for rows with seeds of their own, drawn in blocks so that a step costs one slice."""

    BLOCK = 64

    def __init__(self, seeds: Sequence[int], width: int, device=None) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.width, self.device = width, device or "cpu"
        self.block, self.used = None, self.BLOCK

    def next(self) -> Tensor:
        """(B, width) in 0..1, for one step."""
        if self.used == self.BLOCK:
            drawn = [torch.rand(self.BLOCK, self.width, generator=generator) for generator in self.generators]
            self.block, self.used = carry(torch.stack(drawn, dim=1), self.device), 0
        self.used += 1
        return self.block[self.used - 1]

    def select(self, rows: Sequence[int], index: Tensor) -> None:
        """Go on with these rows only (the same places twice: for the host and on the device)."""
        self.generators = [self.generators[row] for row in rows]
        self.block = self.block[:, index]


def allowed_codes(config: ModelConfig, device=None) -> Tensor:
    """(Q, A): 0 for what may be said, -inf for what may not.

    Codes may, and codebook 0 may stop.  The other codebooks stop where codebook 0 did, so that all frames are whole.
    """
    allowed = torch.full((config.num_codebooks, config.audio_vocab_size), -torch.inf, device=device)
    allowed[:, : config.num_codes] = 0
    allowed[0, config.audio_stop_token] = 0
    return allowed
