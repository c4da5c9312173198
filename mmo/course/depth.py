"""The other way to write a frame: a small transformer over its codebooks, one code after the other.

The large transformer runs once a frame and says what the frame is about; the depth transformer then writes the frame's Q codes, each
knowing those before it (RQ-Transformer, Lee et al. 2022, arXiv:2203.01941; Moshi, Défossez et al. 2024, arXiv:2410.00037; CSM).
No delay is needed, and no frame is guessed blindly.  The price is Q small steps in a row for every frame.

    position k of the depth transformer    reads  linear(hidden) + embedding(code k - 1)      writes  code k

>>> from mmo.config import ModelConfig
>>> depth = DepthTransformer(ModelConfig(talker_hidden_size=96), width=64, rank=16)
>>> depth(torch.zeros(5, 96), torch.zeros(5, 8, dtype=torch.long)).shape
torch.Size([5, 8, 2112])

It is here to be compared with the Talker's heads (notebook 08); the model of the course does not use it.

Letters: N frames, Q codebooks, A audio vocabulary, D the large transformer's width, E the depth transformer's width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmo.config import ModelConfig
from mmo.talker import CodeEmbedding, CodeHead
from mmo.transformer import Block, FeedForward, RMSNorm, make_window, run_blocks


class DepthTransformer(nn.Module):
    """One hidden state -> the codes of one frame, one after the other.

    width, rank, layers: its own sizes.  Embedding and heads are built as the Talker's are: shared tables with adapters.
    """

    def __init__(self, config: ModelConfig, width: int, rank: int, layers: int = 1) -> None:
        super().__init__()
        own = config.replace(talker_hidden_size=width, adapter_rank=rank, num_talker_hidden_layers=layers, use_moe=False)
        self.config, self.num_codebooks = own.talker, own.num_codebooks
        self.condition = nn.Linear(config.talker_hidden_size, width, bias=False)
        self.embed_tokens = CodeEmbedding(own)
        self.layers = nn.ModuleList(Block(self.config, FeedForward(width, self.config.intermediate_size)) for _ in range(layers))
        self.norm = RMSNorm(width, own.rms_norm_eps)
        self.lm_head = CodeHead(own)

    def embed(self, codes: Tensor, k: int) -> Tensor:
        """codes (N,) of codebook k -> (N, E)."""
        return self.embed_tokens.base(codes) + self.embed_tokens.adapters[k](codes)

    def head(self, hidden: Tensor, k: int) -> Tensor:
        """hidden (N, E) at position k -> logits of codebook k, (N, A)."""
        return self.lm_head.base(hidden) + self.lm_head.adapters[k](hidden)

    def run(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """hidden (N, D), codes (N, n) of the first n codebooks -> (N, n + 1, E): the states that write codes 0 .. n."""
        condition = self.condition(hidden)[:, None]  # (N, 1, E): every position hears it
        before = [self.embed(codes[:, k], k) for k in range(codes.shape[1])]
        before = torch.stack([torch.zeros_like(condition[:, 0]), *before], dim=1)  # (N, n + 1, E): nothing stands before code 0
        x = condition + before
        x, _ = run_blocks(self.layers, x, make_window(self.config, x.shape[1], x.device))
        return self.norm(x)

    def forward(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """hidden (N, D), true codes (N, Q) -> logits (N, Q, A); those of code k know the codes before k only."""
        states = self.run(hidden, codes[:, :-1])
        return torch.stack([self.head(states[:, k], k) for k in range(self.num_codebooks)], dim=1)

    def write(self, hidden: Tensor, choose: Callable[[Tensor], Tensor]) -> Tensor:
        """hidden (N, D) -> codes (N, Q), one after the other; choose: logits (N, A) -> codes (N,)."""
        codes = torch.empty(len(hidden), 0, dtype=torch.long, device=hidden.device)
        for k in range(self.num_codebooks):
            chosen = choose(self.head(self.run(hidden, codes)[:, -1], k))
            codes = torch.cat((codes, chosen[:, None]), dim=1)
        return codes
