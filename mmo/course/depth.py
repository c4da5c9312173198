"""The other way to write a frame: a small transformer over its codebooks, one code after the other.

The large transformer runs once a frame and says what the frame is about.  Codebook 0 is read from its hidden state; then the depth
transformer writes the others, each knowing those before it (RQ-Transformer, Lee et al. 2022, arXiv:2203.01941; Moshi, Défossez et al.
2024, arXiv:2410.00037; that codebook 0 is the large one's own is CSM's way).  No staircase is needed, and no frame is guessed blindly.
The price is Q - 1 small steps in a row for every frame.

    large transformer       hidden --> code 0
    depth, position k - 1   linear(hidden) + linear(embedding(code k - 1)) --> code k        k = 1 ... Q - 1

>>> from mmo.config import ModelConfig
>>> config = ModelConfig(talker_hidden_size=96)
>>> depth = DepthTransformer(config, CodeEmbedding(config), width=64, rank=16)
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

    embed_tokens: the large transformer's own embedding of codes, shared.  width, rank, layers: the depth transformer's sizes.
    Codebook 0 has a whole head of its own, `first`; the others' heads are built as the Talker's are, a shared one with adapters.
    """

    def __init__(self, config: ModelConfig, embed_tokens: CodeEmbedding, width: int, rank: int, layers: int = 1) -> None:
        super().__init__()
        large, Q = config.talker_hidden_size, config.num_codebooks
        own = config.replace(talker_hidden_size=width, adapter_rank=rank, num_codebooks=Q - 1, num_talker_hidden_layers=layers, use_moe=False)
        self.config, self.num_codebooks = own.talker, Q
        self.first = nn.Linear(large, config.audio_vocab_size, bias=False)
        self.embed_tokens = embed_tokens
        self.condition = nn.Linear(large, width, bias=False)
        self.before = nn.Linear(large, width, bias=False)
        self.layers = nn.ModuleList(Block(self.config, FeedForward(width, self.config.intermediate_size)) for _ in range(layers))
        self.norm = RMSNorm(width, own.rms_norm_eps)
        self.lm_head = CodeHead(own)

    def embed(self, codes: Tensor, k: int) -> Tensor:
        """codes (N,) of codebook k -> (N, E)."""
        return self.before(self.embed_tokens.base(codes) + self.embed_tokens.adapters[k](codes))

    def head(self, state: Tensor, k: int) -> Tensor:
        """The state (N, E) that writes codebook k, from 1 on -> its logits (N, A)."""
        return self.lm_head.base(state) + self.lm_head.adapters[k - 1](state)

    def run(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """hidden (N, D), codes (N, n) of the first n codebooks, n > 0 -> (N, n, E): the states that write codes 1 .. n."""
        written = torch.stack([self.embed(codes[:, k], k) for k in range(codes.shape[1])], dim=1)  # (N, n, E)
        x = self.condition(hidden)[:, None] + written  # every position hears the large transformer
        x, _ = run_blocks(self.layers, x, make_window(self.config, x.shape[1], x.device))
        return self.norm(x)

    def forward(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """hidden (N, D), true codes (N, Q) -> logits (N, Q, A); those of code k know the codes before k only."""
        states = self.run(hidden, codes[:, :-1])
        others = [self.head(states[:, k - 1], k) for k in range(1, self.num_codebooks)]
        return torch.stack([self.first(hidden), *others], dim=1)

    def write(self, hidden: Tensor, choose: Callable[[Tensor], Tensor]) -> Tensor:
        """hidden (N, D) -> codes (N, Q), one after the other; choose: logits (N, A) -> codes (N,)."""
        codes = choose(self.first(hidden))[:, None]
        for k in range(1, self.num_codebooks):
            chosen = choose(self.head(self.run(hidden, codes)[:, -1], k))
            codes = torch.cat((codes, chosen[:, None]), dim=1)
        return codes
