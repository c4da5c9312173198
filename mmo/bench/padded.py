"""The padded way: how the original computes, over the same weights.  What `mmo bench` compares with.

Rebuilt from the original's structure (MiniMind-O, model/model_omni.py and trainer/train_sft_omni.py), in our names:

- every row is padded to one length, and every layer and all nine heads compute every position of it
- codebooks are embedded and read in Python loops, one adapter after the other
- a feature takes the place of its placeholder by walking through each row's ids on the host
- keys and values are repeated for their query heads, RMSNorm and rotation are spelt out and left to autograd
- experts are visited one by one, the host asking each time whether there is anything to do
- losses are taken over all positions and masked afterwards; the optimiser is AdamW as torch gives it

Not rebuilt, in its favour: encoders run in every step (here their features are given), the logits' repetition penalty.
It computes the same numbers as `OmniModel` (tests compare losses, gradients and codes).

Letters: B batch, T positions, Q codebooks, H query heads, G key/value heads, E width of one head, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmo.config import IGNORE, TransformerConfig
from mmo.data import Batch, Example, collate
from mmo.moe import MixtureOfExperts
from mmo.omni import OmniModel
from mmo.transformer import Attention, Block, RMSNorm, rotary_table

Past = tuple[Tensor, Tensor]  # keys and values of one layer, (B, S, G, E) each


@dataclass(frozen=True)
class PaddedOutput:
    """Logits of all positions, as the original returns them."""

    text_logits: Tensor  # (B, T, V)
    audio_logits: list[Tensor]  # Q of (B, T, A)
    aux_loss: Tensor
    past: list[Past]  # of all layers, the Thinker's first


# --- Blocks ------------------------------------------------------------------------------------------------------


def plain_norm(norm: RMSNorm, x: Tensor) -> Tensor:
    """RMSNorm as it is written in the paper, in fp32."""
    wide = x.float()
    return norm.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + norm.eps)).type_as(x)


def rotate_half(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x (B, T, heads, E), cos and sin (T, E)."""
    left, right = x.chunk(2, dim=-1)
    turned = torch.cat((-right, left), dim=-1)
    return (x * cos[:, None] + turned * sin[:, None]).to(x.dtype)


def repeat_heads(x: Tensor, times: int) -> Tensor:
    """x (B, S, G, E) -> (B, S, G times, E): a copy of keys and values for every query head."""
    B, S, G, E = x.shape
    return x[:, :, :, None].expand(B, S, G, times, E).reshape(B, S, G * times, E)


def plain_attention(layer: Attention, x: Tensor, cos: Tensor, sin: Tensor, past: Past | None) -> tuple[Tensor, Past]:
    """x (B, T, D) -> (B, T, D), and keys and values grown by T."""
    B, T, _ = x.shape
    E = layer.head_dim
    q, k, v = (project(x).view(B, T, -1, E) for project in (layer.q_proj, layer.k_proj, layer.v_proj))
    q, k = rotate_half(plain_norm(layer.q_norm, q), cos, sin), rotate_half(plain_norm(layer.k_norm, k), cos, sin)
    if past is not None:
        k, v = torch.cat((past[0], k), dim=1), torch.cat((past[1], v), dim=1)
    present = (k, v)
    times = q.shape[2] // k.shape[2]
    q, k, v = q.transpose(1, 2), repeat_heads(k, times).transpose(1, 2), repeat_heads(v, times).transpose(1, 2)
    if T > 1 and past is None:
        heard = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
        scores = q @ k.transpose(-2, -1) / math.sqrt(E)
        scores = scores + torch.full((T, k.shape[2]), -torch.inf, device=x.device).triu(k.shape[2] - T + 1)
        heard = F.softmax(scores.float(), dim=-1).type_as(q) @ v
    return layer.o_proj(heard.transpose(1, 2).reshape(B, T, -1)), present


def visited_experts(mixture: MixtureOfExperts, x: Tensor) -> tuple[Tensor, Tensor]:
    """x (B, T, D) -> the same, expert by expert, and the auxiliary loss."""
    flat = x.reshape(-1, x.shape[-1])
    gates, chosen, scores = mixture.route(flat)
    out = torch.zeros_like(flat)
    for number, expert in enumerate(mixture.experts):
        mask = chosen == number
        if mask.any():  # the host waits here
            rows = mask.any(dim=-1).nonzero().flatten()
            out.index_add_(0, rows, (expert(flat[rows]) * gates[mask].view(-1, 1)).to(out.dtype))
        elif mixture.training:
            out[0, 0] += 0 * sum(parameter.sum() for parameter in expert.parameters())
    return out.view_as(x), mixture.balance_loss(scores, chosen)


def plain_block(block: Block, x: Tensor, cos: Tensor, sin: Tensor, past: Past | None) -> tuple[Tensor, Past, Tensor | None]:
    """One block: x (B, T, D), its keys and values, the auxiliary loss of a mixture."""
    heard, present = plain_attention(block.self_attn, plain_norm(block.input_layernorm, x), cos, sin, past)
    x = x + heard
    normed = plain_norm(block.post_attention_layernorm, x)
    out, aux = visited_experts(block.mlp, normed) if isinstance(block.mlp, MixtureOfExperts) else (block.mlp(normed), None)
    return x + out, present, aux


def full_table(config: TransformerConfig, start: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (T, E) of the positions from `start` on."""
    cos, sin = rotary_table(config.head_dim, config.max_positions, config.rope_theta, device)
    return tuple(torch.cat((part, part), dim=-1)[start : start + length] for part in (cos, sin))


# --- Features ----------------------------------------------------------------------------------------------------


def walk_and_place(ids: Tensor, x: Tensor, placeholder: int, features: Sequence[Sequence[Tensor]]) -> Tensor:
    """Put features[b][r] (N, D) into row b's r-th run of placeholders, walking through ids (B, T) on the host."""
    placed = []
    for row, seq, waiting in zip(x, ids.tolist(), features, strict=True):
        position, run = 0, 0
        while position < len(seq):
            if seq[position] != placeholder:
                position += 1
                continue
            start = position
            while position < len(seq) and seq[position] == placeholder:
                position += 1
            if run < len(waiting):
                size = min(len(waiting[run]), position - start)
                row = torch.cat((row[:start], waiting[run][:size].to(row.dtype), row[start + size :]))
            run += 1
        placed.append(row)
    return torch.stack(placed)


# --- The model ---------------------------------------------------------------------------------------------------


class PaddedModel:
    """Computes an `OmniModel`'s weights the padded way.  Holds the model itself: what trains one trains the other."""

    def __init__(self, model: OmniModel) -> None:
        self.model, self.config = model, model.config

    def embed(self, ids: Tensor, audio_features, audio_lengths, image_features) -> Tensor:
        """Text ids (B, T) -> (B, T, D), features placed; arguments as in `OmniModel.hidden_states`."""
        model, x = self.model, self.model.model.embed_tokens(ids)
        if audio_features is not None:
            lengths = [audio_features.shape[1]] * len(ids) if audio_lengths is None else audio_lengths.tolist()
            heard = [[model.audio_proj(row[None, :length])[0]] for row, length in zip(audio_features, lengths, strict=True)]
            x = walk_and_place(ids, x, self.config.audio_ids[0], heard)
        if image_features is not None:
            seen = image_features if image_features.dim() == 4 else image_features[:, None]
            x = walk_and_place(ids, x, self.config.image_ids[0], model.vision_proj(seen))
        return x

    def embed_codes(self, codes: Tensor, speaker: Tensor | None) -> Tensor:
        """codes (B, Q, T) -> (B, T, D), one codebook after the other."""
        talker, embedding = self.model.talker, self.model.talker.embed_tokens
        base = embedding.base(codes)
        parts = [base[:, k] + adapter(codes[:, k]) for k, adapter in enumerate(embedding.adapters)]
        embedded = sum(parts) / len(parts)
        if speaker is None:
            return embedded
        sign = (codes[:, 0] == self.config.audio_spk_token)[..., None]
        return torch.where(sign, talker.spk_proj(speaker)[:, None], embedded)

    def project(self, layers: nn.Sequential, x: Tensor) -> Tensor:
        """One of the Talker's two projections, its RMSNorm spelt out."""
        return plain_norm(layers[3], layers[2](layers[1](layers[0](x))))

    def heads(self, hidden: Tensor) -> list[Tensor]:
        """hidden (B, T, D) -> Q of (B, T, A), one codebook after the other."""
        head = self.model.talker.lm_head
        base = head.base(hidden)
        return [base + adapter(hidden) for adapter in head.adapters]

    def __call__(
        self,
        input_ids: Tensor,
        *,
        speaker: Tensor | None = None,
        audio_features: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        image_features: Tensor | None = None,
        past: Sequence[Past] | None = None,
        last_only: bool = False,
    ) -> PaddedOutput:
        """input_ids (B, Q + 1, T) -> logits of all positions (last_only: of the last one).  past: go on after it."""
        model, T = self.model, input_ids.shape[-1]
        start = past[0][0].shape[1] if past else 0
        blocks = [*model.model.layers, *model.talker.layers]
        held, presents, aux_losses = list(past or [None] * len(blocks)), [], []
        x = self.embed(input_ids[:, -1], audio_features, audio_lengths, image_features)
        bridge = x
        table = full_table(model.model.config, start, T, x.device)
        for number, layer in enumerate(model.model.layers):
            x, present, aux = plain_block(layer, x, *table, held[number])
            presents.append(present)
            aux_losses.append(aux)
            bridge = x if number == self.config.bridge_layer else bridge
        text = plain_norm(model.model.norm, x)
        talker = model.talker
        x = self.project(talker.embed_proj, bridge) * talker.text_scale
        x = x + self.project(talker.codec_proj, self.embed_codes(input_ids[:, :-1], speaker)) * talker.audio_scale
        table = full_table(talker.config, start, T, x.device)
        for number, layer in enumerate(talker.layers, len(model.model.layers)):
            x, present, aux = plain_block(layer, x, *table, held[number])
            presents.append(present)
            aux_losses.append(aux)
        audio = plain_norm(talker.norm, x)
        if last_only:
            text, audio = text[:, -1:], audio[:, -1:]
        aux_loss = sum((aux for aux in aux_losses if aux is not None), text.new_zeros(()))
        return PaddedOutput(model.text_head(text), self.heads(audio), aux_loss, presents)


# --- Training ----------------------------------------------------------------------------------------------------


def pad_batch(examples: Sequence[Example], config, length: int) -> Batch:
    """Examples -> a batch in which every row has `length` positions.  Raises ValueError where one is longer."""
    batch = collate(examples, config)
    more = length - batch.input_ids.shape[-1]
    if more < 0:
        raise ValueError(f"a row has {batch.input_ids.shape[-1]} positions: it does not fit into {length}")
    codes, text = batch.input_ids[:, :-1], batch.input_ids[:, -1:]
    codes, text = F.pad(codes, (0, more), value=config.audio_pad_token), F.pad(text, (0, more), value=config.pad_token)
    return Batch(
        **{name: getattr(batch, name) for name in ("speaker", "audio_features", "audio_lengths", "image_features", "names", "useful")},
        input_ids=torch.cat((codes, text), dim=1),
        text_labels=F.pad(batch.text_labels, (0, more), value=IGNORE),
        audio_labels=F.pad(batch.audio_labels, (0, more), value=IGNORE),
        text_length=length,
        stop_cut=batch.stop_cut,
    )


def padded_losses(padded: PaddedModel, batch: Batch, stop_weight: float, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Text, audio and auxiliary loss over all positions, masked afterwards."""
    inputs = {name: value for name, value in batch.inputs(device).items() if name not in ("text_length", "speaking")}
    out = padded(**inputs)
    labels, audio_labels = batch.text_labels.to(device), batch.audio_labels.to(device)
    each = F.cross_entropy(out.text_logits.flatten(0, 1), labels.flatten(), reduction="none")
    mask = (labels.flatten() != IGNORE).float()
    text = (each * mask).sum() / mask.sum().clamp(min=1)
    audio = text.new_zeros(())
    for k, logits in enumerate(out.audio_logits):
        target = audio_labels[:, k].flatten()
        each = F.cross_entropy(logits.flatten(0, 1), target, reduction="none")
        mask = (target != IGNORE).float()
        stop = (target == padded.config.audio_stop_token).float()
        if mask.sum() > 0:  # the host waits here, once a codebook
            audio = audio + (each * mask * (1 + stop * (stop_weight - 1))).sum() / mask.sum()
    return text, audio / len(out.audio_logits), out.aux_loss


class PaddedStepper:
    """One update the padded way: loss over all positions, clipped gradients, AdamW as torch gives it."""

    def __init__(
        self, model: OmniModel, learning_rate: float, clip_norm: float, stop_weight: float, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.padded, self.device, self.dtype = PaddedModel(model), device, dtype
        self.clip_norm, self.stop_weight = clip_norm, stop_weight
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=learning_rate)

    def step(self, batch: Batch) -> Tensor:
        """(3,) on the device: text, audio and auxiliary loss before the update."""
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            losses = torch.stack(padded_losses(self.padded, batch, self.stop_weight, self.device))
        losses.sum().backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return losses.detach()
