"""Where a block looks: attention weights, which the package's fast attention never writes down.

    shares = attention_shares(block.self_attn, block.input_layernorm(x), window)     # (B, H, T, T), rows sum to 1
    heard = hear_by(block.self_attn, block.input_layernorm(x), shares)               # what the block hears, given them

With shares as they are `hear_by` gives what the attention itself gives; with some of them set to 0 the block is blind there.

Letters: B batch, T positions, H query heads, G key and value heads, E width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmo.fused import rotate
from mmo.transformer import Attention, Window


def attention_shares(attention: Attention, x: Tensor, window: Window) -> Tensor:
    """x (B, T, D), normed, from position 0 on -> (B, H, T, T): how much each position takes from each; for a window without cache."""
    B, T, _ = x.shape
    q = rotate(attention.q_norm(attention.q_proj(x).view(B, T, -1, attention.head_dim)), window.cos, window.sin)  # (B, T, H, E)
    k = rotate(attention.k_norm(attention.k_proj(x).view(B, T, -1, attention.head_dim)), window.cos, window.sin)  # (B, T, G, E)
    keys = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)  # (B, T, H, E): query heads that are neighbours share a key head
    scores = q.transpose(1, 2) @ keys.permute(0, 2, 3, 1) / attention.head_dim**0.5  # (B, H, T, T)
    unseen = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)
    return scores.masked_fill(unseen, -torch.inf).softmax(dim=-1)


def hear_by(attention: Attention, x: Tensor, shares: Tensor) -> Tensor:
    """x (B, T, D), normed, and shares (B, H, T, T) -> (B, T, D): the attention's output with these shares."""
    B, T, _ = x.shape
    v = attention.v_proj(x).view(B, T, -1, attention.head_dim)
    values = v.repeat_interleave(shares.shape[1] // v.shape[2], dim=2).transpose(1, 2)  # (B, H, T, E)
    return attention.o_proj((shares @ values).transpose(1, 2).reshape(B, T, -1))
