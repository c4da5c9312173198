"""The whole model: text, sound and pictures in; text and Q streams of codes out, at every position.

    row Q      text ids --> embedding, features placed --> Thinker's lower layers --> upper layers --> text logits
                                                                   | bridge
    rows 0..Q-1  codes --> code embedding -------------------> Talker ------------------------------> audio logits

>>> from mmo.config import ModelConfig
>>> model = OmniModel(ModelConfig(hidden_size=64, num_hidden_layers=2, talker_hidden_size=64, vocab_size=300)).eval()
>>> ids = torch.zeros(1, 9, 5, dtype=torch.long)
>>> out = model(ids)
>>> out.text_logits.shape, out.audio_logits.shape
(torch.Size([1, 5, 300]), torch.Size([1, 8, 5, 2112]))

Decoding keeps a cache; rows may have prompts of different length, padded on the right (`lengths`):

    cache = model.make_cache(batch, max_length)
    hidden = model.hidden_states(prompts, cache=cache, lengths=[9, 7])     # prompts (2, Q + 1, 9)
    last = last_hidden(hidden.text, [9, 7])                                # (2, 1, D)
    hidden = model.hidden_states(step_ids, cache=cache)                    # step_ids (2, Q + 1, 1), and so on

Parameter names are the original's (interchange.py reads and writes its checkpoints).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmo import memory
from mmo.config import IGNORE, ModelConfig
from mmo.fused import cross_entropies
from mmo.projector import Projector, place_features
from mmo.talker import Talker
from mmo.thinker import Thinker
from mmo.transformer import CacheLengths, KVCache, make_window, pick
from mmo.weights import EMBEDDING, PICKLES, TIED, check_fit, read_tensors, settings_in, shapes, untied, write_tensors


@dataclass(frozen=True)
class Hidden:
    """Last hidden states, before the heads; of some places only, (N, D) each, where `hidden_states` was told which are `read`."""

    text: Tensor | None  # (B, T', D) after the Thinker's norm; None where only the tail was run
    audio: Tensor | None  # (B, T, D of the Talker) after the Talker's norm; None where it was left out
    aux_loss: Tensor  # scalar: sum over all mixtures of experts; 0 for dense models and in eval mode


@dataclass(frozen=True)
class Places:
    """Where hidden states are read, on the model's device: flat places, row after row."""

    text: Tensor  # (N,) among B x T'
    audio: Tensor  # (M,) among rows that speak x T


@dataclass(frozen=True)
class OmniOutput:
    """Logits of all positions."""

    text_logits: Tensor  # (B, T, V)
    audio_logits: Tensor  # (B, Q, T, A)
    aux_loss: Tensor


class OmniCache:
    """Preallocated keys and values of Thinker and Talker, and how many positions each row holds."""

    def __init__(self, config: ModelConfig, batch: int, max_length: int, dtype: torch.dtype, device) -> None:
        self.lengths = CacheLengths(batch, max_length, device)
        self.thinker = KVCache(config.thinker, batch, max_length, dtype, device)
        self.talker = KVCache(config.talker, batch, max_length, dtype, device)
        self.tail = False  # once the upper layers were skipped, their cache has a gap: no text after that

    @property
    def length(self) -> int:
        """Positions in the longest row."""
        return max(self.lengths.rows)


class OmniModel(nn.Module):
    """Thinker, Talker and the two projectors."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Thinker(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.lm_head.weight = self.model.embed_tokens.weight
        self.talker = Talker(config)
        self.audio_proj = Projector(config.audio_hidden_size, config.hidden_size)
        self.vision_proj = Projector(config.image_hidden_size, config.hidden_size)
        init_weights(self)

    def make_cache(self, batch: int, max_length: int, dtype: torch.dtype | None = None, device=None) -> OmniCache:
        """An empty cache for `batch` rows of at most `max_length` positions (default dtype, device: the model's)."""
        weight = self.model.embed_tokens.weight  # not the head's: in a twin for decoding that may be int8
        return OmniCache(self.config, batch, max_length, dtype or weight.dtype, device or weight.device)

    def embed(
        self,
        text_ids: Tensor,
        audio_features: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        image_features: Tensor | None = None,
    ) -> Tensor:
        """text_ids (B, T) -> (B, T, D) with projected features in the place of their placeholders."""
        x = self.model.embed_tokens(text_ids)
        if audio_features is not None:
            features = self.audio_proj(audio_features.to(x.dtype))[:, None]  # one run a row: (B, 1, N, D)
            lengths = None if audio_lengths is None else audio_lengths.to(x.device)[:, None]
            x = place_features(x, text_ids, self.config.audio_ids[0], features, lengths)
        if image_features is not None:
            features = self.vision_proj(image_features.to(x.dtype))
            features = features if features.dim() == 4 else features[:, None]  # (B, I, P, D)
            x = place_features(x, text_ids, self.config.image_ids[0], features)
        return x

    def hidden_states(
        self,
        input_ids: Tensor,
        *,
        speaker: Tensor | None = None,
        audio_features: Tensor | None = None,
        audio_lengths: Tensor | None = None,
        image_features: Tensor | None = None,
        cache: OmniCache | None = None,
        lengths: Sequence[int] | None = None,
        tail: bool = False,
        text_length: int | None = None,
        code_dropout: float = 0.0,
        code_keep: Tensor | None = None,
        speaking: Sequence[int] | None = None,
        read: Places | None = None,
    ) -> Hidden:
        """Run both halves of the model.

        input_ids (B, Q + 1, T): rows 0 .. Q-1 codes, row Q text.  speaker (B, S), used where codebook 0 holds the
        speaker sign.  audio_features (B, N, D_audio) of the speech encoder, of which audio_lengths (B) are valid, for
        each row's first run of <|audio_pad|>; image_features (B, P, D_image) or (B, I, P, D_image) of the vision
        encoder, picture i for the i-th run of <|image_pad|>.  Pass features with the positions of their placeholders.

        cache: continue after what it holds, and append these positions to it.  lengths: how many of the T positions
        of each row are real, the rest being padding on the right (default: all); read outputs at lengths[b] - 1.

        tail: skip the Thinker's layers above the bridge (no text is wanted any more); text_length: run them on the
        first text_length positions only.  Either changes nothing that is heard.
        code_dropout, code_keep: see `Talker.forward`; the latter is of the rows that go through the Talker.
        speaking: for training, the rows in which something is spoken (default: all).  Only these go through the Talker; the
        others' Hidden.audio is zero, and with () it is None.  It leaves the loss as it is (but for the experts' auxiliary one).
        read: for training, where the heads will look (`labelled_places`): the last block of each half computes the rest of itself there only.

        Raises ValueError where shapes or settings do not fit together.
        """
        self._check(input_ids, cache, lengths, tail, text_length, speaking, read)
        text_ids, codes = input_ids[:, -1], input_ids[:, :-1]
        T, device = input_ids.shape[-1], input_ids.device
        held = cache.lengths if cache else None
        window = make_window(self.model.config, T, device, held)
        thinker_cache, talker_cache = (cache.thinker, cache.talker) if cache else (None, None)

        x = self.embed(text_ids, audio_features, audio_lengths, image_features)
        bridge, aux_losses = self.model.lower(x, window, thinker_cache)
        text = None
        if text_length == 0:
            text = bridge[:, :0] if read is None else bridge[0, :0]
        elif not tail:
            above = bridge
            if text_length is not None and text_length < T:
                above, window = bridge[:, :text_length], make_window(self.model.config, text_length, device)
            text, more = self.model.upper(above, window, thinker_cache, None if read is None else read.text)
            aux_losses += more
        talker_window = make_window(self.talker.config, T, device, held)
        if speaking is None or len(speaking) == len(input_ids):
            audio, more = self.talker(bridge, codes, speaker, talker_window, talker_cache, code_dropout, code_keep, None if read is None else read.audio)
        else:
            audio, more = self._talk(speaking, bridge, codes, speaker, talker_window, code_dropout, code_keep, read)
        aux_losses += more
        if cache:
            cache.lengths.advance([T] * len(input_ids) if lengths is None else list(lengths))
            cache.tail |= tail
        aux_loss = torch.stack(aux_losses).sum() if aux_losses else bridge.new_zeros(())
        return Hidden(text, audio, aux_loss)

    def _talk(self, speaking, bridge, codes, speaker, window, code_dropout, code_keep, read) -> tuple[Tensor | None, list[Tensor]]:
        """The Talker on some rows only: its states in their places, zeros in the others', or (N, D) where it is read; None where there are no rows."""
        if not len(speaking):
            return None, []
        rows = carry(torch.tensor(speaking), bridge.device)
        speaker = None if speaker is None else speaker[rows]
        some, aux_losses = self.talker(bridge[rows], codes[rows], speaker, window, None, code_dropout, code_keep, None if read is None else read.audio)
        if read is not None:
            return some, aux_losses
        return some.new_zeros(len(bridge), *some.shape[1:]).index_copy(0, rows, some), aux_losses

    def _check(self, input_ids, cache, lengths, tail, text_length, speaking, read=None) -> None:
        B, rows, T = input_ids.shape
        if rows != self.config.num_codebooks + 1:
            raise ValueError(f"input_ids has {rows} rows, wanted {self.config.num_codebooks} of codes and one of text")
        if cache is None:
            if lengths is not None:
                raise ValueError("lengths go with a cache; without one, read outputs at the positions you want")
            return
        if speaking is not None:
            raise ValueError("speaking is for training; a cache needs the Talker's keys and values of every row")
        if read is not None:
            raise ValueError("read is for training; with a cache take the last position of each row (last_hidden)")
        if text_length is not None:
            raise ValueError("text_length is for training; with a cache use tail=True")
        if cache.tail and not tail:
            raise ValueError("this cache has skipped layers above the bridge (tail=True): it can give no more text")
        if len(cache.lengths.rows) != B:
            raise ValueError(f"the cache holds {len(cache.lengths.rows)} rows, the input {B}")
        if lengths is not None and (len(lengths) != B or not all(0 < length <= T for length in lengths)):
            raise ValueError(f"lengths must be {B} numbers in 1..{T}, got {list(lengths)}")

    def text_head(self, hidden: Tensor) -> Tensor:
        """(..., D) -> logits (..., V)."""
        return self.lm_head(hidden)

    def audio_head(self, hidden: Tensor) -> Tensor:
        """(..., D of the Talker) -> logits (..., Q, A)."""
        return self.talker.lm_head(hidden)

    def forward(self, input_ids: Tensor, **inputs) -> OmniOutput:
        """Logits of all positions; arguments as in `hidden_states`."""
        hidden = self.hidden_states(input_ids, **inputs)
        audio_logits = self.audio_head(hidden.audio).movedim(-2, 1)
        return OmniOutput(self.text_head(hidden.text), audio_logits, hidden.aux_loss)


def last_hidden(hidden: Tensor, lengths: Sequence[int]) -> Tensor:
    """hidden (B, T, D) of right-padded rows -> (B, 1, D) at each row's last real position."""
    last = torch.tensor(lengths, device=hidden.device) - 1
    return hidden[torch.arange(len(hidden), device=hidden.device), last][:, None]


# --- Losses ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LossSums:
    """Numerators and denominators of the losses, so that batches of any shape add up to the same mean."""

    text: Tensor  # scalar: sum of cross-entropies
    text_count: Tensor  # scalar
    audio: Tensor  # (Q,) weighted sums
    audio_count: Tensor  # (Q,) labelled positions, each counted once whatever its weight

    def text_loss(self) -> Tensor:
        """Mean cross-entropy over labelled positions."""
        return self.text / self.text_count.clamp(min=1)

    def audio_loss(self, codebook_weights: Tensor | None = None) -> Tensor:
        """Mean over codebooks (weighted, if weights (Q,) are given) of each one's sum / count."""
        each = self.audio / self.audio_count.clamp(min=1)
        return each.mean() if codebook_weights is None else (each * codebook_weights).sum() / codebook_weights.sum()


def text_loss_sums(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """logits (..., V), labels (...) with -100 where nothing is learnt -> sum of cross-entropies, count."""
    loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), labels.flatten(), reduction="sum")
    return loss, (labels != IGNORE).sum()


def audio_loss_sums(
    logits: Tensor, labels: Tensor, stop_token: int, stop_weight: float = 10.0
) -> tuple[Tensor, Tensor]:
    """logits (Q, ..., A), labels (Q, ...) -> weighted sums (Q,), counts (Q,).

    The stop weighs `stop_weight` in the numerator (one position in dozens, and it ends the speech); the denominator
    counts positions.
    """
    Q = len(labels)
    each = cross_entropies(logits.reshape(-1, logits.shape[-1]), labels.flatten()).view(Q, -1)
    labels = labels.reshape(Q, -1)
    each = torch.where(labels == stop_token, each * stop_weight, each)
    return each.sum(dim=1), (labels != IGNORE).sum(dim=1)


def loss_sums(
    model: OmniModel, hidden: Hidden, text_labels: Tensor, audio_labels: Tensor, stop_weight: float = 10.0
) -> LossSums:
    """Losses from hidden states, through the heads at labelled positions only: most positions have no label.

    text_labels (B, T), audio_labels (B, Q, T), aligned with the logits (no further shift), -100 = not learnt.
    Labels may stay on the CPU while the model is elsewhere: then the device is never asked how many there are.
    Hidden states may be those of the labelled positions already (`labelled_places`).
    """
    text_here = text_labels != IGNORE
    read = hidden.text.shape[1] if hidden.text.dim() == 3 else text_labels.shape[1]
    if read < text_labels.shape[1] and text_here[:, read:].any():
        raise ValueError(f"text is labelled behind the first {read} positions: text_length must reach the last label")
    text_hidden, text_targets = labelled(hidden.text, text_labels[:, :read, None], text_here[:, :read])
    text = text_loss_sums(model.text_head(text_hidden), text_targets[:, 0])
    audio_here = (audio_labels != IGNORE).any(dim=1)
    if hidden.audio is None:
        if audio_here.any():
            raise ValueError("sound is labelled, but the Talker was left out (speaking=())")
        nothing = hidden.text.new_zeros(audio_labels.shape[1], dtype=torch.float32)
        return LossSums(*text, nothing, nothing.long())
    audio_hidden, audio_targets = labelled(hidden.audio, audio_labels.transpose(1, 2), audio_here)
    logits = model.audio_head(audio_hidden).movedim(-2, 0)  # (Q, N, A)
    audio = audio_loss_sums(logits, audio_targets.T, model.config.audio_stop_token, stop_weight)
    return LossSums(*text, *audio)


def labelled(hidden: Tensor, labels: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
    """hidden (B, T, D), labels (B, T, K), here (B, T) -> rows (N, D) and (N, K) where `here` is true; hidden may be these rows already."""
    index = here.flatten().nonzero()[:, 0]
    labels = carry(labels.flatten(0, 1)[index], hidden.device)
    if hidden.dim() == 3:
        return pick(hidden, carry(index, hidden.device)), labels
    if len(hidden) != len(labels):
        raise ValueError(f"{len(labels)} positions are labelled, and hidden states of {len(hidden)} are there: read those of labelled_places")
    return hidden, labels


def labelled_places(
    text_labels: Tensor, audio_labels: Tensor, text_length: int, speaking: Sequence[int] | None, device: torch.device | str
) -> Places:
    """Where there are labels, text_labels (B, T) up to text_length and audio_labels (B, Q, T) of the rows that speak, for `hidden_states(read=)`."""
    spoken = (audio_labels if speaking is None else audio_labels[list(speaking)]) != IGNORE
    found = (text_labels[:, :text_length] != IGNORE, spoken.any(dim=1))
    return Places(*(carry(here.flatten().nonzero()[:, 0], device) for here in found))


def carry(values: Tensor, device: torch.device | str) -> Tensor:
    """To the device without waiting for it: on the way to a CUDA device through pinned memory.

    A copy from ordinary memory waits until the device has done all that was asked of it before.
    """
    if torch.device(device).type == "cuda" and values.device.type == "cpu" and not values.is_pinned():
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


# --- Weights -----------------------------------------------------------------------------------------------------


def init_weights(model: OmniModel) -> None:
    """Draw fresh weights: matrices with std 0.55 / sqrt(inputs) (GPT's 0.02 at width 768), projections back into the
    stream divided by sqrt(2 layers) as in GPT-2, the tied embedding with 0.02, code tables with 1."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            std = 0.55 / module.in_features**0.5
            if name.endswith(("o_proj", "down_proj")):
                stack = model.talker if name.startswith("talker.") else model.model
                std /= (2 * len(stack.layers)) ** 0.5
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
    nn.init.normal_(model.model.embed_tokens.weight, std=0.02)


def load_weights(model: OmniModel, state: dict[str, Tensor], source: str) -> None:
    """Copy `state` into the (uncompiled) model.  Raises ValueError naming missing, unexpected and misshapen keys."""
    state = untied(state, source)
    check_fit(shapes(model), state, source)
    model.load_state_dict(state | {TIED: state[EMBEDDING]})


def save_model(model: OmniModel, path: str | os.PathLike, dtype: torch.dtype | None = None, onto_disk: bool = False) -> None:
    """Write weights (as `dtype`, default as they are) and configuration to one .safetensors file, atomically; onto_disk as in `write_tensors`."""
    state = {name: value.to(dtype or value.dtype) for name, value in model.state_dict().items() if name != TIED}
    write_model(state, model.config, path, onto_disk=onto_disk)


def write_model(state: dict[str, Tensor], config: ModelConfig, path: str | os.PathLike, about: dict[str, str] | None = None, onto_disk: bool = False) -> None:
    """What `save_model` does, from weights by name (without the tied head); `about` is further metadata."""
    write_tensors(path, state, {"config": json.dumps(config.to_dict())} | (about or {}), onto_disk)


def read_model(path: str | os.PathLike, config: ModelConfig | None = None) -> tuple[dict[str, Tensor], ModelConfig, dict[str, str]]:
    """Weights by name as they stand in the file, configuration (`config`, else the file's) and metadata; errors as `load_model`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no model file {path}: train one first, or fetch it")
    if path.suffix in PICKLES:
        raise ValueError(f"{path} is no file of ours; weights of the original are read in by: mmo import minimind-3o {path}")
    state, metadata = read_tensors(path)
    if config is None:
        if "config" not in metadata:
            raise ValueError(f"{path}: no model configuration in the file's metadata; pass config=")
        config = settings_in(metadata, path)
    return state, config, metadata


def load_model(path: str | os.PathLike, config: ModelConfig | None = None) -> OmniModel:
    """Read what `save_model` wrote, in fp32 on the CPU, in eval mode.

    `config` overrides the one in the file (the sizes must fit the weights).  Raises FileNotFoundError where there is
    no such file, ValueError where it has no configuration, or keys or shapes do not fit.
    """
    state, config, _ = read_model(path, config)
    memory.keep(config.use_moe)  # before the weights come: they lie on huge pages then
    model = OmniModel(config)
    load_weights(model, {name: value.float() for name, value in state.items()}, str(path))
    return model.eval()


def start_talker(model: OmniModel) -> None:
    """Copy the Thinker's last layers into the Talker's, as many as it has: it starts from blocks that know language.

    The original does so wherever it starts from text weights.  Raises ValueError where the layers are of another shape.
    """
    count, given = len(model.talker.layers), len(model.model.layers)
    if count > given:
        raise ValueError(f"the Talker has {count} layers, the Thinker only {given} to start them from")
    last = model.model.layers[given - count :]
    check_fit(shapes(model.talker.layers), last.state_dict(), "the Thinker's last layers, as a start for the Talker's")
    model.talker.layers.load_state_dict(last.state_dict())
