"""Projectors: two-layer MLPs that turn what an encoder heard or saw into words the Thinker can read.

The text holds placeholders; each takes the place of one feature:

    ids    7  9 <pad> <pad> <pad> <pad>  4        <pad> = <|audio_pad|>, or <|image_pad|> for pictures
    stream e7 e9  f0    f1    f2  e<pad> e4       three features for a run of four: the fourth keeps its embedding
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Projector(nn.Module):
    """LayerNorm -> Linear -> GELU (exact) -> Linear, from an encoder's width to the Thinker's."""

    def __init__(self, from_width: int, to_width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.LayerNorm(from_width), nn.Linear(from_width, to_width), nn.GELU(), nn.Linear(to_width, to_width)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(..., D_in) -> (..., D)."""
        return self.mlp(features)


def runs(ids: Tensor, placeholder: int) -> tuple[Tensor, Tensor]:
    """Which run of placeholders a position belongs to, and its place in it; both count from 0 and are -1 elsewhere.

    ids (B, T) -> (B, T), (B, T).  Runs are numbered row by row.

        ids      7  9 <pad> <pad>  4 <pad>
        run     -1 -1   0     0   -1   1
        offset  -1 -1   0     1   -1   0
    """
    here = ids == placeholder
    first = here.clone()
    first[:, 1:] &= ~here[:, :-1]
    position = torch.arange(ids.shape[1], device=ids.device)
    start = torch.where(first, position, 0).cummax(dim=1).values
    return torch.where(here, first.cumsum(dim=1) - 1, -1), torch.where(here, position - start, -1)


def place_features(
    stream: Tensor, ids: Tensor, placeholder: int, features: Tensor, lengths: Tensor | None = None
) -> Tensor:
    """Put projected features where their placeholders are.

    stream (B, T, D) embeddings; ids (B, T); features (B, R, N, D): features[b, r] fill the r-th run of placeholders in
    row b, as far as both reach.  lengths (B, R): how many of the N are valid (default: all).  What has no feature
    keeps its embedding: further runs, the rest of a long run.  Never asks the device for a value.
    """
    B, T, D = stream.shape
    _, R, N, _ = features.shape
    run, offset = runs(ids, placeholder)
    row = torch.arange(B, device=ids.device)[:, None]
    safe_run = run.clamp(0, R - 1)
    valid = N if lengths is None else lengths[row, safe_run].clamp(max=N)
    filled = (run >= 0) & (run < R) & (offset < valid)
    source = (row * R + safe_run) * N + offset.clamp(0, N - 1)  # index into all features, flattened
    chosen = features.reshape(-1, D).index_select(0, source.flatten()).view(B, T, D)
    return torch.where(filled[..., None], chosen.to(stream.dtype), stream)
