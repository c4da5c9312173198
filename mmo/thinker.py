"""The Thinker: a decoder-only language model that also hears and sees.

It is cut in two at the *bridge*.  What leaves the lower layers goes on to the upper ones, which write the text, and
to the Talker, which speaks it.  Nothing above the bridge is heard; so where no text is wanted any more (the tail of
an answer, while its sound plays out) the upper layers can be left out, and nothing that is heard changes.

    text ids -> embedding (+ placed features) -> lower layers -> bridge -> upper layers -> norm -> text head
                                                                   |
                                                                   v
                                                                 Talker
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from mmo.config import ModelConfig
from mmo.moe import make_feed_forward, upcycle
from mmo.transformer import Block, KVCache, RMSNorm, Window, run_blocks
from mmo.weights import check_fit, read_tensors, settings_in, shapes, untied, write_tensors


class Thinker(nn.Module):
    """Embedding, blocks and final norm; the head is tied to the embedding and lives in `OmniModel`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config.thinker
        self.num_lower = config.bridge_layer + 1
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            Block(self.config, make_feed_forward(self.config)) for _ in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def lower(self, x: Tensor, window: Window, cache: KVCache | None = None) -> tuple[Tensor, list[Tensor]]:
        """Layers up to and including the bridge, (B, T, D) -> (B, T, D), and their auxiliary losses."""
        return run_blocks(list(self.layers)[: self.num_lower], x, window, cache)

    def upper(self, bridge: Tensor, window: Window, cache: KVCache | None = None, read: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Layers above the bridge and the final norm, (B, T, D) -> (B, T, D), or (N, D) at the places `read` (N,); and their auxiliary losses."""
        x, aux_losses = run_blocks(list(self.layers)[self.num_lower :], bridge, window, cache, self.num_lower, read)
        return self.norm(x), aux_losses


PREFIX = "model."  # the Thinker's name inside `OmniModel`, and in files
OTHER_PARTS = ("talker.", "audio_proj.", "vision_proj.")  # of an omni model: a Thinker may be read out of one
SHARED = ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim", "rms_norm_eps", "rope_theta")


def save_thinker(thinker: Thinker, config: ModelConfig, path: str | os.PathLike, dtype: torch.dtype) -> None:
    """Write the Thinker alone, names `model.*`, with the configuration as metadata, atomically."""
    state = {PREFIX + name: value.to(dtype) for name, value in thinker.state_dict().items()}
    write_tensors(path, state, {"config": json.dumps(config.to_dict())})


def load_thinker(thinker: Thinker, path: str | os.PathLike) -> None:
    """Copy a text-pretrained Thinker into `thinker`, as fp32: ours (.safetensors) or MiniMind's own (`llm_768.pth`).

    Names are `model.*` in both; MiniMind's file holds the tied head as well, and an omni model's other parts are passed over.
    A dense file loads into a mixture of experts too: every expert starts as a copy of the dense layer (`upcycle`),
    the routers stay as they are drawn.  Raises FileNotFoundError, or ValueError naming the settings or weights that
    do not fit.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no pretrained Thinker {path}: fetch it, or train one (python -m mmo.world.train_thinker)")
    found, metadata = read_tensors(path)
    state = {name: value.float() for name, value in untied(found, str(path)).items() if not name.startswith(OTHER_PARTS)}
    if "config" in metadata:  # sizes show in the shapes; how they are used does not
        theirs = settings_in(metadata, path).thinker
        unlike = {name: (getattr(theirs, name), getattr(thinker.config, name)) for name in SHARED}
        unlike = {name: pair for name, pair in unlike.items() if pair[0] != pair[1]}
        if unlike:
            raise ValueError(f"{path} does not fit this model (setting: file's, model's): {unlike}")
    if thinker.config.use_moe:
        state = upcycle(state, {PREFIX + name: value for name, value in thinker.state_dict().items()})
    check_fit({PREFIX + name: shape for name, shape in shapes(thinker).items()}, state, str(path))
    thinker.load_state_dict({name.removeprefix(PREFIX): value for name, value in state.items()})
