"""Floating point operations of one forward, counted from the configuration, and what cards can do at most.

Counted are matrix products, two operations for each multiply-and-add, as `torch.utils.flop_counter` does (a test compares the
two); norms, rotation, softmax and look-ups are left out.  Attention counts the whole T x T square, though a causal kernel may
skip half of it: for our lengths that is a few hundredths of the sum.  Forward and backward together count three forwards.

Letters: B batch, T positions, Q codebooks, A audio vocabulary, V text vocabulary, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mmo.config import IGNORE, ModelConfig, TransformerConfig
from mmo.data import Batch

BACKWARD = 3  # forward and backward, in forwards: the gradient of a product is two products
# Dense bf16 products with fp32 sums, TFLOP/s, from the makers' data sheets; the first name found in the card's decides.  None: another card than
# its namesake, or a slice of one, and nothing is said of its share.
NAMESAKES = ("MIG", "H200 NVL", "H100 NVL", "H100 PCIe", "RTX 4090 D", "RTX 4090 Laptop", "RTX 3090 Ti")
PEAKS = (*((name, None) for name in NAMESAKES), ("H200", 989.0), ("H100", 989.0), ("A100", 312.0), ("L40S", 362.0), ("RTX 4090", 165.2), ("RTX 3090", 71.2))


@dataclass(frozen=True)
class Work:
    """What of a batch is computed."""

    rows: int
    length: int  # positions a row, padding included
    upper: int  # positions a row that the Thinker's layers above the bridge read
    text_heads: int  # positions, of all rows together, that go through the text head
    audio_heads: int  # the same for the eight audio heads
    code_table: bool  # whether all codes' vectors are worked out once (ours in training) instead of each position's
    speaker: bool = False

    @classmethod
    def of_padded(cls, batch: Batch) -> Work:
        """The padded way: everything everywhere."""
        B, _, T = batch.input_ids.shape
        return cls(B, T, T, B * T, B * T, code_table=False, speaker=batch.speaker is not None)

    @classmethod
    def of_ours(cls, batch: Batch, config: ModelConfig) -> Work:
        """Ours: upper layers as far as there is text; heads, and the last blocks behind their attention, where there are labels."""
        B, _, T = batch.input_ids.shape
        text = int((batch.text_labels != IGNORE).sum())
        audio = int((batch.audio_labels != IGNORE).any(dim=1).sum())
        table = B * T >= config.audio_vocab_size
        return cls(B, T, batch.text_length, text, audio, code_table=table, speaker=batch.speaker is not None)


def block_flops(config: TransformerConfig, rows: int, length: int, read: int | None = None) -> int:
    """One block over `rows` rows of `length` positions; `read` of them together go on behind attention (default: all)."""
    D, heads = config.hidden_size, config.num_heads * config.head_dim
    seen = 2 * D * (heads + 2 * config.num_kv_heads * config.head_dim) + 4 * length * heads
    out = 2 * D * heads
    if config.use_moe:
        inner = 6 * D * config.moe_intermediate_size * config.num_experts_per_tok + 2 * D * config.num_experts
    else:
        inner = 6 * D * config.intermediate_size
    return rows * length * seen + (rows * length if read is None else read) * (out + inner)


def stack_flops(config: TransformerConfig, blocks: int, rows: int, length: int, read: int) -> int:
    """A stack of blocks, the last of which goes on at the `read` places only (a mixture's at all: its auxiliary loss is of all)."""
    if not blocks:
        return 0
    return (blocks - 1) * block_flops(config, rows, length) + block_flops(config, rows, length, None if config.use_moe else read)


def talker_input_flops(config: ModelConfig, work: Work) -> int:
    """Codes and bridge up to the Talker's first block."""
    D, W, R, Q, positions = config.hidden_size, config.talker_hidden_size, config.adapter_rank, config.num_codebooks, work.rows * work.length
    looked_up = config.audio_vocab_size if work.code_table else positions
    speaker = 2 * work.rows * config.spk_emb_size * W if work.speaker else 0
    return looked_up * Q * 2 * R * W + positions * (2 * D * D + 2 * D * W + 4 * W * W) + speaker


def forward_flops(config: ModelConfig, work: Work) -> int:
    """One forward of the whole model without encoders and projectors."""
    lower = config.bridge_layer + 1
    W, R, Q, A = config.talker_hidden_size, config.adapter_rank, config.num_codebooks, config.audio_vocab_size
    thinker = lower * block_flops(config.thinker, work.rows, work.length)
    thinker += stack_flops(config.thinker, config.num_hidden_layers - lower, work.rows, work.upper, work.text_heads)
    talker = stack_flops(config.talker, config.num_talker_hidden_layers, work.rows, work.length, work.audio_heads)
    heads = work.text_heads * 2 * config.hidden_size * config.vocab_size
    heads += work.audio_heads * (2 * W * A + Q * (2 * W * R + 2 * R * A))
    return thinker + talker_input_flops(config, work) + talker + heads


def peak_flops(device: torch.device) -> float | None:
    """What the card can do at most, FLOP/s in bf16; None for a CPU or a card that is not in the list."""
    if device.type != "cuda":
        return None
    peak = peak_of(torch.cuda.get_device_name(device))
    return None if peak is None else 1e12 * peak


def peak_of(name: str) -> float | None:
    """The peak of a card of this name, TFLOP/s."""
    return next((peak for part, peak in PEAKS if part in name), None)
