"""Decoding the padded way: caches that grow by torch.cat, one look at the device for every code of every codebook.

What is *fed* follows our rules (generation.py), not the original's three mismatches with its training, so that with greedy
choice both ways give the same text and the same codes (a test says so).  Everything runs at every step: the Thinker's upper layers and
its head while only sound is left, and all adapters of the code embedding and the heads one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmo.bench.padded import PaddedModel
from mmo.config import Decoding, each
from mmo.generation import Batch, Prompt
from mmo.omni import OmniModel
from mmo.sampling import allowed_codes
from mmo.sequence import undelay


@dataclass(frozen=True)
class Grown:
    """One answer."""

    text_ids: list[int]
    codes: Tensor  # (Q, F)
    steps: int  # forwards, the prompt's included


def choose_one(logits: Tensor, temperature: float, top_k: int) -> int:
    """logits (V,) -> one id.  The host waits for it."""
    if temperature == 0:
        return logits.argmax().item()
    values, ids = (logits.float() / temperature).topk(min(top_k or len(logits), len(logits)))
    return ids[torch.multinomial(F.softmax(values, dim=-1), 1)].item()


@torch.inference_mode()
def growing_answer(model: OmniModel, prompt: Prompt, decoding: Decoding, may_stop: bool = True) -> Grown:
    """Answer one prompt.  may_stop: False forbids codebook 0 its stop, so that `max_frames` decides."""
    padded, config = PaddedModel(model), model.config
    Q, device = config.num_codebooks, next(model.parameters()).device
    batch = Batch.collate([prompt], config, device)
    allowed = allowed_codes(config, device)
    if not may_stop:
        allowed[0, config.audio_stop_token] = -torch.inf
    temperatures, widths = each(decoding.temperature, Q), each(decoding.top_k, Q)
    text_end, speech_end, step = decoding.max_text, decoding.max_frames, 0
    text_ids, history = [], []
    out = padded(batch.input_ids, **batch.features, last_only=True)
    speaker = {"speaker": batch.features["speaker"]} if "speaker" in batch.features else {}
    while True:
        token = choose_one(out.text_logits[0, -1], decoding.text_temperature, decoding.text_top_k)
        text_end = step if token == config.im_end_token and step < text_end else text_end
        if step >= text_end:
            token = {0: config.im_end_token, 1: config.newline_token}.get(step - text_end, config.pad_token)
        else:
            text_ids.append(token)
        codes = []
        for k, logits in enumerate(out.audio_logits):
            code, frame = choose_one(logits[0, -1] + allowed[k], temperatures[k], widths[k]), step - 1 - k
            if k == 0 and code == config.audio_stop_token and 0 <= frame < speech_end:
                speech_end = frame
            if frame < 0 or frame > speech_end:
                code = config.audio_pad_token
            codes.append(config.audio_stop_token if frame == speech_end else code)
        history.append(codes)
        step += 1
        if step > text_end and step >= speech_end + Q:
            break
        fed = torch.tensor([[[code] for code in (*codes, token)]], device=device)
        out = padded(fed, **speaker, past=out.past, last_only=True)
    delayed = torch.tensor(history[1:]).T  # codebook 0's frame 0 was chosen at step 1
    return Grown(text_ids, undelay(delayed)[:, : max(0, speech_end)], step)
