"""The decoder block that Thinker and Talker are both made of, and the cache that lets it decode step by step.

Choices (minimind-3, which is Qwen3's block in small):
- RMSNorm before each half, no biases anywhere
- rotary positions, rotate-half form, theta 1e6 (Su et al. 2021, arXiv:2104.09864)
- grouped-query attention: several query heads share one key/value head (Ainslie et al. 2023, arXiv:2305.13245)
- RMSNorm on every query and key head, which keeps attention logits bounded (QK-norm, arXiv:2010.04245)
- SwiGLU (Shazeer 2020, arXiv:2002.05202)
- a preallocated key/value cache whose rows may have different lengths

Letters: B batch, T positions of this call, S positions that can be seen, H query heads, G key/value heads,
D width, E width of one head.

Padding stands on the right.  A causal model never looks right, so no mask is needed for it; and since a row's own
length says where its next position is written, prompts of unequal length decode together, each row at its true
positions:

    row 0   a b c d .        lengths [4, 2]: the next step writes slot 4 of row 0 and slot 2 of row 1, over
    row 1   e f . . .        whatever the padding left there, and each row sees its own slots only
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmo.config import TransformerConfig
from mmo.fused import as_read, attend, rms_norm, rotate


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang & Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, wide: bool = False) -> Tensor:
        """x (..., D) -> the same shape.  wide: leave it as exact as it was computed, for what is no product; else as products read it."""
        normed = rms_norm(x, self.weight, self.eps)
        return normed if wide else as_read(normed, x.dtype)


@lru_cache(maxsize=16)
def rotary_table(head_dim: int, positions: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (positions, head_dim / 2) in fp32; frequency i is theta^(-2i / head_dim).

    Kept outside the modules, so that casting a model to bf16 does not round its positions.
    """
    with torch.inference_mode(False):  # a table first made while generating must still serve training
        frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2, device=device).float() / head_dim)
        angles = torch.outer(torch.arange(positions, device=device).float(), frequencies)
        return angles.cos(), angles.sin()


class KVCache:
    """Keys and values of one stack of blocks: two tensors (layers, B, G, capacity, E), written in place."""

    def __init__(self, config: TransformerConfig, batch: int, capacity: int, dtype: torch.dtype, device) -> None:
        shape = (config.num_layers, batch, config.num_kv_heads, capacity, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)


    def select(self, rows: Tensor) -> None:
        """Keep some rows of the batch, by their places (B,) on the device."""
        self.keys, self.values = self.keys.index_select(1, rows), self.values.index_select(1, rows)


class CacheLengths:
    """How many positions each row of a cache holds; shared by all stacks that decode together.

    `rows` lives on the host, so that shapes are known without asking the device; `tensor` (B,) on the device.
    """

    def __init__(self, batch: int, capacity: int, device) -> None:
        self.capacity = capacity
        self.rows = [0] * batch
        self.tensor = torch.zeros(batch, dtype=torch.long, device=device)

    def advance(self, added: Sequence[int]) -> None:
        """Count `added[b]` more positions in row b."""
        self.rows = [length + more for length, more in zip(self.rows, added, strict=True)]
        if len(set(added)) == 1:
            self.tensor += added[0]
        else:
            self.tensor += torch.tensor(added, device=self.tensor.device)

    @property
    def uniform(self) -> bool:
        """Whether all rows are equally long: then slices do, and single steps need no mask."""
        return min(self.rows) == max(self.rows)


@dataclass(frozen=True)
class Window:
    """Where the T positions of one call stand and what they may see; made once, used by every block of a stack."""

    cos: Tensor  # (T or B x T, 1, E / 2)
    sin: Tensor
    mask: Tensor | None = None  # (B or 1, 1, T, S) True where seen; None: causal from position 0, or a single step
    causal: bool = True
    start: int = 0  # first slot to write, where rows are equally long
    end: int = 0  # one past the last slot that any row may see
    slots: Tensor | None = None  # (B, T) slots to write, where rows differ in length


def make_window(config: TransformerConfig, length: int, device, lengths: CacheLengths | None = None) -> Window:
    """The window of `length` new positions, after those in the cache (`lengths`) or from position 0 without one.

    Raises ValueError where positions run past the cache's capacity or the configured maximum.
    """
    start = max(lengths.rows) if lengths else 0
    end = start + length
    if end > config.max_positions:
        raise ValueError(f"position {end} exceeds max_position_embeddings {config.max_positions}: shorten the input")
    if lengths and end > lengths.capacity:
        raise ValueError(f"position {end} exceeds the cache's max_length {lengths.capacity}: make a longer cache")
    table = rotary_table(config.head_dim, config.max_positions, config.rope_theta, torch.device(device))

    if lengths is None or lengths.uniform:
        cos, sin = (part[start:end, None] for part in table)
        if start == 0 or length == 1:
            return Window(cos, sin, causal=start == 0, start=start, end=end)
        seen = torch.arange(end, device=device) <= torch.arange(start, end, device=device)[:, None]
        return Window(cos, sin, seen[None, None], causal=False, start=start, end=end)

    return slot_window(table, lengths.tensor[:, None] + torch.arange(length, device=device), end)


def slot_window(table: tuple[Tensor, Tensor], slots: Tensor, end: int) -> Window:
    """The window of positions `slots` (B, T), which are known to the device alone; `end`: one past the last slot that may be seen.

    Where `end` is the cache's capacity, all shapes are the same at every step, as a graph of operations needs them.
    """
    cos, sin = (part[slots][:, :, None] for part in table)
    seen = torch.arange(end, device=slots.device) <= slots[:, None, :, None]
    return Window(cos, sin, seen, causal=False, end=end, slots=slots)


class Attention(nn.Module):
    """Grouped-query attention with normalised, rotated queries and keys."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        width, head = config.hidden_size, config.head_dim
        self.q_proj = nn.Linear(width, config.num_heads * head, bias=False)
        self.k_proj = nn.Linear(width, config.num_kv_heads * head, bias=False)
        self.v_proj = nn.Linear(width, config.num_kv_heads * head, bias=False)
        self.o_proj = nn.Linear(config.num_heads * head, width, bias=False)
        self.q_norm = RMSNorm(head, config.rms_norm_eps)
        self.k_norm = RMSNorm(head, config.rms_norm_eps)

    def forward(self, x: Tensor, window: Window, cache: KVCache | None = None, layer: int = 0, read: Tensor | None = None) -> Tensor:
        """x (B, T, D) -> (B, T, D).  With a cache, keys and values of this call are written to its `layer`.

        read (N,): flat places among the B x T, as in `Block`; then -> (N, D).
        """
        B, T, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(B, T, -1, self.head_dim), wide=True)  # (B, T, H, E)
        k = self.k_norm(self.k_proj(x).view(B, T, -1, self.head_dim), wide=True)  # (B, T, G, E)
        v = self.v_proj(x).view(B, T, -1, self.head_dim)
        q = as_read(rotate(q, window.cos, window.sin), v.dtype)
        k = as_read(rotate(k, window.cos, window.sin), v.dtype)
        if cache is not None:
            k, v = write_cache(k, v, window, cache, layer)  # (B, G, S, E)
        else:
            k, v = k.transpose(1, 2), v.transpose(1, 2)
        causal = True if window.causal and T > 1 else False  # decided here: a compiler has a symbol for T, and attention wants a bool
        heard = attend(q.transpose(1, 2), k, v, window.mask, causal)
        return self.o_proj(pick(heard.transpose(1, 2).reshape(B, T, -1), read))


def write_cache(k: Tensor, v: Tensor, window: Window, cache: KVCache, layer: int) -> tuple[Tensor, Tensor]:
    """Store k and v (B, T, G, E) where the window says; return all that can be seen, (B, G, S, E) each."""
    keys, values = cache.keys[layer], cache.values[layer]
    if window.slots is None:
        keys[:, :, window.start : window.end] = k.transpose(1, 2)
        values[:, :, window.start : window.end] = v.transpose(1, 2)
    else:
        rows = torch.arange(k.shape[0], device=k.device)[:, None]
        keys[rows, :, window.slots] = k.to(keys.dtype)
        values[rows, :, window.slots] = v.to(values.dtype)
    return keys[:, :, : window.end], values[:, :, : window.end]


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Attention, then feed-forward, each on normalised input and added to the stream.

    `feed_forward` is a `FeedForward`, or a mixture of them that returns (output, auxiliary loss).

    read (N,): flat places among the B x T whose output is wanted, where nothing behind this block reads the others.  Keys and values are
    still those of all positions; the rest of the block, four fifths of its work (`bench/flops.py`), is done at these only, and the output is (N, D).
    """

    def __init__(self, config: TransformerConfig, feed_forward: nn.Module) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = feed_forward
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, x: Tensor, window: Window, cache: KVCache | None = None, layer: int = 0, read: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """x (B, T, D) -> the same shape, or (N, D) with `read`; and the auxiliary loss of a mixture (None where dense)."""
        wanted = () if read is None else (read,)  # attention that was made for decoding (twin.py) knows no such choice
        x = pick(x, read) + self.self_attn(self.input_layernorm(x), window, cache, layer, *wanted)
        out = self.mlp(self.post_attention_layernorm(x))
        out, aux_loss = out if isinstance(out, tuple) else (out, None)
        return x + out, aux_loss


def pick(x: Tensor, places: Tensor | None) -> Tensor:
    """x (B, T, D), flat places (N,) -> (N, D); x itself where all are wanted."""
    return x if places is None else x.flatten(0, 1).index_select(0, places)


def run_blocks(
    blocks: Sequence[Block], x: Tensor, window: Window, cache: KVCache | None = None, first_layer: int = 0, read: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Pass x (B, T, D) through blocks; `first_layer` is the first one's place in the cache.  Also the aux losses.

    read (N,): what of the last block's output is wanted, see `Block`; then -> (N, D).
    """
    aux_losses = []
    for layer, block in enumerate(blocks, first_layer):
        last = layer + 1 == first_layer + len(blocks)
        x, aux_loss = block(x, window, cache, layer, read if last else None)
        if aux_loss is not None:
            aux_losses.append(aux_loss)
    return (x if blocks else pick(x, read)), aux_losses
