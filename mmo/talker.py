"""The Talker: hears the Thinker's bridge, reads the codes spoken so far, and predicts the next code of all codebooks.

Each position carries Q codes, one a codebook (delayed against each other: see sequence.py), and one forward predicts
Q codes at once: multi-token prediction without a loop.  Embedding and head each consist of one table shared by all
codebooks and a small adapter for each:

    embedding(codes) = mean_k [ shared[code_k] + Linear_k(GELU(table_k[code_k])) ]
    logits_k(h)      = shared(h) + Linear_k'(GELU(Linear_k(h)))

Input: embed_proj(bridge) * text_scale + codec_proj(embedding(codes)) * audio_scale, both scales learnt.  A speaker's
vector, where codebook 0 holds the speaker sign, stands for the code embedding.

Letters: B batch, T positions, Q codebooks, A audio vocabulary, R rank of the adapters, D the Talker's width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmo.config import ModelConfig
from mmo.fused import mean_of_codes
from mmo.moe import make_feed_forward
from mmo.transformer import Block, KVCache, RMSNorm, Window, run_blocks


class CodeEmbedding(nn.Module):
    """Q codes -> one vector: the mean over codebooks of a shared embedding plus a low-rank one of its own."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, width, rank = config.audio_vocab_size, config.talker_hidden_size, config.adapter_rank
        self.base = nn.Embedding(size, width)
        self.adapters = nn.ModuleList(
            nn.Sequential(nn.Embedding(size, rank), nn.GELU(), nn.Linear(rank, width, bias=False))
            for _ in range(config.num_codebooks)
        )

    def forward(self, codes: Tensor) -> Tensor:
        """codes (B, Q, T) -> (B, T, D).

        A batch of training has more positions than the vocabulary has codes: then it is cheaper to work out the
        vectors of all codes once (Q x A of them) and look them up.
        """
        B, Q, T = codes.shape
        if B * T < len(self.base.weight):
            return sum(self.base(codes[:, k]) + self.adapters[k](codes[:, k]) for k in range(Q)) / Q
        low = F.gelu(torch.stack([adapter[0].weight for adapter in self.adapters]))  # (Q, A, R)
        out = torch.stack([adapter[2].weight for adapter in self.adapters])  # (Q, D, R)
        tables = torch.baddbmm(self.base.weight.expand(Q, -1, -1), low, out.transpose(1, 2))  # (Q, A, D)
        return mean_of_codes(tables, codes)


class CodeHead(nn.Module):
    """One hidden state -> logits of all codebooks."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, width, rank = config.audio_vocab_size, config.talker_hidden_size, config.adapter_rank
        self.base = nn.Linear(width, size, bias=False)
        self.adapters = nn.ModuleList(
            nn.Sequential(nn.Linear(width, rank, bias=False), nn.GELU(), nn.Linear(rank, size, bias=False))
            for _ in range(config.num_codebooks)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden (..., D) -> logits (..., Q, A), a view of memory laid out as (Q, ..., A)."""
        x = hidden.reshape(-1, hidden.shape[-1])  # (N, D)
        inner = torch.stack([adapter[0].weight for adapter in self.adapters])  # (Q, R, D)
        outer = torch.stack([adapter[2].weight for adapter in self.adapters])  # (Q, A, R)
        Q, R, _ = inner.shape
        low = F.gelu(F.linear(x, inner.flatten(0, 1))).view(-1, Q, R).transpose(0, 1)  # (Q, N, R)
        shared = self.base(x).expand(Q, -1, -1)
        logits = torch.baddbmm(shared, low, outer.transpose(1, 2))  # (Q, N, A)
        return logits.view(Q, *hidden.shape[:-1], outer.shape[1]).movedim(0, -2)


def projection(from_width: int, to_width: int, eps: float) -> nn.Sequential:
    """Linear -> GELU -> Linear -> RMSNorm: brings bridge and codes to a common footing."""
    return nn.Sequential(
        nn.Linear(from_width, from_width), nn.GELU(), nn.Linear(from_width, to_width), RMSNorm(to_width, eps)
    )


class Talker(nn.Module):
    """The speaking half of the model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config.talker
        self.speaker_token = config.audio_spk_token
        width, eps = config.talker_hidden_size, config.rms_norm_eps
        self.layers = nn.ModuleList(
            Block(self.config, make_feed_forward(self.config)) for _ in range(config.num_talker_hidden_layers)
        )
        self.norm = RMSNorm(width, eps)
        self.embed_tokens = CodeEmbedding(config)
        self.lm_head = CodeHead(config)
        self.embed_proj = projection(config.hidden_size, width, eps)
        self.codec_proj = projection(width, width, eps)
        self.spk_proj = nn.Linear(config.spk_emb_size, width, bias=False)
        self.text_scale = nn.Parameter(torch.tensor(3.0))
        self.audio_scale = nn.Parameter(torch.tensor(1.0))

    def embed_codes(self, codes: Tensor, speaker: Tensor | None) -> Tensor:
        """codes (B, Q, T) -> (B, T, D); speaker (B, S) replaces the embedding where codebook 0 has the sign."""
        embedded = self.embed_tokens(codes)
        if speaker is None:
            return embedded
        sign = codes[:, 0, :, None] == self.speaker_token
        return torch.where(sign, self.spk_proj(speaker.to(embedded.dtype))[:, None], embedded)

    def forward(
        self,
        bridge: Tensor,
        codes: Tensor,
        speaker: Tensor | None,
        window: Window,
        cache: KVCache | None = None,
        code_dropout: float = 0.0,
        code_keep: Tensor | None = None,
        read: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """bridge (B, T, D of the Thinker), codes (B, Q, T) -> (B, T, D) after the final norm, or (N, D) at the flat places `read` (N,); and aux losses.

        code_dropout, in training only: dropout on the projected code embedding.  Codes are easier to continue than to
        derive from the text; unreliable history makes the Talker listen to the bridge (Tacotron's prenet, Wang et al.
        2017, arXiv:1703.10135).  code_keep (B, T, D): what each value is multiplied by, where that was drawn before (`draw_keep`).
        """
        spoken = self.codec_proj(self.embed_codes(codes, speaker))
        spoken = F.dropout(spoken, code_dropout, self.training) if code_keep is None else spoken * code_keep.to(spoken.dtype)
        x = self.embed_proj(bridge) * self.text_scale + spoken * self.audio_scale
        x = x.to(self.norm.weight.dtype)  # under autocast the sum would be rounded; the residual stream is not, as in the Thinker
        x, aux_losses = run_blocks(self.layers, x, window, cache, read=read)
        return self.norm(x), aux_losses


def draw_keep(shape: tuple[int, ...], dropout: float, device: torch.device) -> Tensor:
    """Dropout's factors: 0 with this probability, else 1 / (1 - dropout).  On a CPU these are the ones that `F.dropout` would draw now.

    Drawn before the forward for a whole batch, they can be dealt to whoever computes its rows: then no row's depend on who does.
    """
    return torch.empty(shape, device=device).bernoulli_(1 - dropout).div_(1 - dropout)
