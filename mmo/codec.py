"""Mimi, the speech codec: 24 kHz sound <-> codes (B, Q, F), 12.5 frames a second (Défossez et al. 2024, arXiv:2410.00037).

The codec is `moshi`'s own `MimiModel`; here it is only built, loaded, saved, and given checks and names.  The tiny
world's codec is the same class with small numbers, so one loader serves both; Mimi as `transformers` saves it loads too.

>>> codec = Codec(build_mimi(codec_config(n_filters=4, dimension=32, layers=1, feedforward=64, bins=16, codebooks=8)))
>>> codes = codec.encode(torch.zeros(1, 1, 3 * codec.frame_size))
>>> codes.shape, codec.decode(codes).shape
(torch.Size([1, 8, 3]), torch.Size([1, 1, 5760]))

A frame is exactly 1920 samples.  Streaming decodes a frame (or a few) at a time and equals decoding at once:

    with codec.streaming(batch=1) as stream:
        for frame in codes.split(1, dim=-1):      # (1, Q, 1)
            play(stream.decode(frame))            # (1, 1, 1920)

Letters: B batch, Q codebooks, F frames.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from moshi.models import loaders
from moshi.models.compression import MimiModel
from moshi.modules.transformer import RingKVCache, StreamingMultiheadAttention
from moshi.utils.compile import no_compile, no_cuda_graph
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmo.full_precision import full_float32
from mmo.mimi_layout import Layout, layout_of, moshi_sizes, moshi_state
from mmo.weights import read_settings, read_tensors, write_whole

REAL_FILE = loaders.MIMI_NAME  # tokenizer-e351c8d8-checkpoint125.safetensors, in kyutai/moshiko-pytorch-bf16


# --- Building ----------------------------------------------------------------------------------------------------


def codec_config(
    n_filters: int = 64,
    dimension: int = 512,
    layers: int = 8,
    bins: int = 2048,
    codebooks: int = 32,
    *,
    heads: int = 8,
    feedforward: int | None = None,
    code_dimension: int | None = None,
    context: int = 250,
    ratios: Sequence[int] = (8, 6, 5, 4),
) -> dict:
    """Sizes of a Mimi, as moshi's `get_mimi` takes them; the defaults are the real one's.

    n_filters: channels next to the waveform, doubled at each of `ratios`.  dimension: width of the latent and of the
    two transformers of `layers` layers.  bins: codes a codebook.  feedforward: default 4 x dimension.  code_dimension:
    width in which codes are compared, default dimension / 2.  context: positions (25 a second) a layer looks back.
    """
    seanet = {
        "channels": 1,
        "dimension": dimension,
        "causal": True,
        "n_filters": n_filters,
        "n_residual_layers": 1,
        "activation": "ELU",
        "compress": 2,
        "dilation_base": 2,
        "disable_norm_outer_blocks": 0,
        "kernel_size": 7,
        "residual_kernel_size": 3,
        "last_kernel_size": 3,
        "norm": "none",
        "pad_mode": "constant",
        "ratios": list(ratios),
        "true_skip": True,
    }
    quantizer = {
        "dimension": code_dimension or dimension // 2,
        "n_q": codebooks,
        "bins": bins,
        "input_dimension": dimension,
        "output_dimension": dimension,
    }
    transformer = {
        "d_model": dimension,
        "num_heads": heads,
        "num_layers": layers,
        "causal": True,
        "layer_scale": 0.01,
        "context": context,
        "conv_layout": True,
        "max_period": 10000,
        "gating": "none",
        "norm": "layer_norm",
        "positional_embedding": "rope",
        "dim_feedforward": feedforward or 4 * dimension,
        "input_dimension": dimension,
        "output_dimensions": [dimension],
    }
    return {
        "sample_rate": 24000,
        "channels": 1,
        "frame_rate": 12.5,
        "seanet": seanet,
        "quantizer": quantizer,
        "transformer": transformer,
    }


def build_mimi(config: dict) -> MimiModel:
    """moshi's MimiModel of these sizes with fresh weights, in eval mode, all its codebooks in use."""
    return loaders.get_mimi(None, config, num_codebooks=config["quantizer"]["n_q"])


@torch.no_grad()
def draw_codebooks(model: MimiModel) -> MimiModel:
    """Fresh codebooks are all zero, and every code would sound alike: draw them, for rehearsals and benches."""
    for name, value in model.state_dict().items():
        if name.endswith("embedding_sum"):
            value.normal_()
        if name.endswith("cluster_usage"):
            value.fill_(1.0)
    return model


def save_codec(
    model: MimiModel, config: dict, path: str | os.PathLike, dtype: torch.dtype = torch.float16
) -> None:
    """Write weights in moshi's layout to `path` and the sizes beside it (`<stem>.json`), both atomically.

    moshi keeps a codebook as a running sum of vectors and a running count, whose quotient is the code's vector.  What
    is written is the quotient over a count of 1: the same codebook, without two roundings and out of fp16's way.
    Rounding moves a few codes to a neighbour, so data must be encoded with the codec as loaded from its file.
    """
    state = {name: value.detach().float().cpu() for name, value in model.state_dict().items()}
    for name in [name for name in state if name.endswith("cluster_usage")]:
        total = name.replace("cluster_usage", "embedding_sum")
        state[total] = state[total] / state[name].clamp(min=1e-5)[:, None]  # the clamp of moshi's EuclideanCodebook
        state[name] = torch.ones_like(state[name])
    state = {name: value.to(dtype).contiguous() for name, value in state.items()}
    too_large = sorted(name for name, value in state.items() if not value.isfinite().all())
    if too_large:
        raise ValueError(f"{path}: these weights are not finite as {dtype}: {too_large}")
    path = Path(path)
    write_whole(path, lambda unfinished: save_file(state, unfinished))
    write_whole(path.with_suffix(".json"), lambda unfinished: unfinished.write_text(json.dumps(config, indent=1) + "\n"))


def load_mimi(path: str | os.PathLike, device: torch.device | str = "cpu", num_codebooks: int = 8) -> MimiModel:
    """Read a file in moshi's layout or in that of transformers, in fp32; which it is shows in its names.

    Sizes stand beside it: in `<stem>.json` for moshi's layout (the real file needs none), in `config.json` for transformers'.
    Raises FileNotFoundError where there is no file, ValueError where sizes are unknown or do not fit the weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no codec file {path}: fetch it (`mmo fetch codec`), or train one (appendix A1)")
    state, _ = read_tensors(path)
    config, sizes = read_sizes(path, layout_of(state, str(path)))
    try:
        available = config["quantizer"]["n_q"]
        model = build_mimi(config)
    except (KeyError, TypeError, AttributeError, ArithmeticError, AssertionError) as error:
        raise ValueError(f"{path}: no codec can be built of the sizes in {sizes} ({error!r}); is that file damaged?") from error
    if not 2 <= num_codebooks <= available:
        raise ValueError(f"{path} has {available} codebooks; num_codebooks must lie in 2..{available}")
    source = f"{path} does not fit the sizes in {sizes}"
    if layout_of(state, str(path)) == "transformers":
        state = moshi_state(state, model.state_dict(), config["transformer"]["num_heads"], source)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{source}: {error}") from error
    model.set_num_codebooks(num_codebooks)
    return model.requires_grad_(False).to(device)


def read_sizes(path: Path, layout: Layout) -> tuple[dict, str]:
    """Sizes of a codec file as `codec_config` gives them, and where they stand."""
    sizes = path.with_name("config.json") if layout == "transformers" else path.with_suffix(".json")
    if sizes.is_file():
        settings = read_settings(sizes)
        if layout == "moshi":
            return settings, sizes.name
        try:
            return codec_config(**moshi_sizes(settings, str(sizes))), sizes.name
        except (TypeError, ArithmeticError) as error:
            raise ValueError(f"{sizes}: these are no sizes of a Mimi ({error!r}); is the file damaged?") from error
    if layout == "moshi" and path.name != REAL_FILE:
        raise ValueError(f"{path}: its sizes are unknown; wanted {sizes.name} beside it, or the name {REAL_FILE}")
    return codec_config(), f"the real Mimi ({sizes.name} is missing)"


def codec_layout(path: str | os.PathLike) -> Layout:
    """Which layout a codec file is in, from its table of names alone.  Raises ValueError where it is no Mimi."""
    try:
        with safe_open(path, framework="pt") as file:
            return layout_of(file.keys(), str(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, or damaged ({error}): fetch it again") from error


# --- Figures of codes --------------------------------------------------------------------------------------------


def bit_rate(frame_rate: float, codebooks: int, codes: int) -> float:
    """Bits a second of a stream with `codebooks` codes a frame, each one of `codes`: Mimi's 12.5, 8, 2048 give 1100."""
    return frame_rate * codebooks * math.log2(codes)


def perplexity(codes: Tensor, num_codes: int) -> float:
    """codes (N,) of one codebook -> how many of its `num_codes` codes are in use: exp of the entropy, 1 .. num_codes.

    A codebook whose codes are all equally frequent has perplexity `num_codes`; its logarithm to base 2 is the bits
    that a code really carries.  Raises ValueError where there are no codes.
    """
    if not codes.numel():
        raise ValueError("no codes to count")
    shares = torch.bincount(codes.flatten(), minlength=num_codes).double() / codes.numel()
    return float(torch.special.entr(shares).sum().exp())  # entr(p) = -p log p, and 0 where p is 0


# --- Using -------------------------------------------------------------------------------------------------------


class Quantiser(NamedTuple):
    """The parts of a residual quantiser of q codebooks, each of C entries of width d; the latent has width D."""

    project_in: Tensor  # (d, D)
    codebooks: Tensor  # (q, C, d)
    project_out: Tensor  # (D, d)


class Codec:
    """A loaded Mimi: frozen, in fp32, with `num_codebooks` codebooks in use."""

    def __init__(self, model: MimiModel) -> None:
        self.model = model.eval()

    @classmethod
    def load(cls, path: str | os.PathLike, device: torch.device | str = "cpu", num_codebooks: int = 8) -> Codec:
        """Read a codec file; see `load_mimi`."""
        return cls(load_mimi(path, device, num_codebooks))

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def sample_rate(self) -> int:
        """Samples a second: 24 000."""
        return self.model.sample_rate

    @property
    def frame_size(self) -> int:
        """Samples a frame: 1920, that is 80 ms."""
        return self.model.frame_size

    @property
    def frame_rate(self) -> float:
        """Frames a second: 12.5."""
        return self.model.frame_rate

    @property
    def num_codebooks(self) -> int:
        return self.model.num_codebooks

    @property
    def num_codes(self) -> int:
        """Codes a codebook has: 2048, in the tiny world 512."""
        return self.model.cardinality

    @property
    def bit_rate(self) -> float:
        """Bits a second of the codebooks in use."""
        return bit_rate(self.frame_rate, self.num_codebooks, self.num_codes)

    def frames(self, samples: int) -> int:
        """How many frames hold this many samples; the last one may be partly silence."""
        return -(-samples // self.frame_size)

    def encode(self, wave: Tensor, sample_rate: int = 24000) -> Tensor:
        """wave (B, 1, samples), in -1..1 -> codes (B, Q, F), F = frames(samples); what is missing is silence.

        `sample_rate` is that of `wave`; another than the codec's is an error (resample first), not a squeaky voice.
        """
        wave = self.whole_frames(wave, sample_rate)
        with torch.inference_mode(), self.plainly():
            return self.model.encode(wave).clone()

    def latents(self, wave: Tensor, sample_rate: int = 24000) -> Tensor:
        """wave (B, 1, samples) -> what is quantised: latents (B, D, F), one vector a frame.  Errors as in `encode`."""
        wave = self.whole_frames(wave, sample_rate)
        with torch.no_grad(), self.plainly():  # not inference_mode: one may want to go on from here with gradients
            return self.model.encode_to_latent(wave, quantize=False)

    def whole_frames(self, wave: Tensor, sample_rate: int) -> Tensor:
        """wave (B, 1, samples), checked and filled with silence to whole frames, where the codec is."""
        if sample_rate != self.sample_rate:
            raise ValueError(f"sound at {sample_rate} Hz, but the codec wants {self.sample_rate}: resample it first")
        if wave.dim() != 3 or wave.shape[1] != 1:
            raise ValueError(f"wave has shape {tuple(wave.shape)}, wanted (B, 1, samples): one channel")
        if not wave.shape[-1]:
            raise ValueError("no sound to encode: 0 samples")
        self.check_idle()
        missing = self.frames(wave.shape[-1]) * self.frame_size - wave.shape[-1]
        return torch.nn.functional.pad(wave.to(self.device, torch.float32), (0, missing))

    def quantisers(self) -> tuple[Quantiser, Quantiser]:
        """The two residual quantisers of a Mimi: codebook 0 has one of its own, the other codebooks in use share the second.

        Both start from the same latent, and what they give is added.  So codebook 1 does not see what codebook 0 left.
        """

        def parts(quantiser) -> Quantiser:
            books = [layer.embedding for layer in quantiser.vq.layers[: quantiser.num_codebooks]]
            return Quantiser(quantiser.input_proj.weight[..., 0], torch.stack(books), quantiser.output_proj.weight[..., 0])

        return parts(self.model.quantizer.rvq_first), parts(self.model.quantizer.rvq_rest)

    def decode(self, codes: Tensor) -> Tensor:
        """codes (B, Q, F) -> wave (B, 1, 1920 F).  Rows may be padded on the right: what follows is not heard before.

        Fewer codebooks than Q are allowed (coarser sound); more, or a code out of range, are a ValueError.
        """
        self.check(codes)
        self.check_idle()
        if not codes.shape[-1]:
            return torch.zeros(len(codes), 1, 0, device=self.device)
        with torch.inference_mode(), self.plainly():
            return self.model.decode(codes.to(self.device)).clone()

    @contextmanager
    def plainly(self) -> Iterator[None]:
        """moshi on a card as on a CPU: operation by operation (its compiler and its CUDA graphs want one shape; ours change), in full float32."""
        with no_compile(), no_cuda_graph(), full_float32(self.device):
            yield

    def check_idle(self) -> None:
        """Raise RuntimeError inside a `streaming` block: moshi would take the call for the stream's next frames."""
        if self.model.is_streaming:
            raise RuntimeError("this codec is streaming: leave the block first, or load a second codec")

    def check(self, codes: Tensor) -> None:
        """Raise ValueError where codes (B, Q, F) are no codes of this codec."""
        if codes.dim() != 3 or not 1 <= codes.shape[1] <= self.num_codebooks:
            raise ValueError(f"codes have shape {tuple(codes.shape)}, wanted (B, 1..{self.num_codebooks}, F)")
        # A range check asks the device for a value, so it is made where codes come from outside, on the host.
        if codes.numel() and codes.device.type == "cpu":
            low, high = (int(value) for value in codes.aminmax())
            if low < 0 or high >= self.num_codes:
                raise ValueError(f"codes {low}..{high} leave the range 0..{self.num_codes - 1}: strip pad and stop")

    @contextmanager
    def streaming(self, batch: int = 1, largest: int = 8) -> Iterator[StreamingDecoder]:
        """Decode codes as they come: `with codec.streaming(batch) as stream: stream.decode(codes)`.

        largest: the most frames in one call.  One stream at a time for one codec, else RuntimeError; leaving the block forgets its state.
        """
        self.check_idle()
        with self.model.streaming(batch):
            widen_context(self.model, batch, largest)
            yield StreamingDecoder(self, largest)


class StreamingDecoder:
    """What `Codec.streaming` hands out."""

    def __init__(self, codec: Codec, largest: int) -> None:
        self.codec = codec
        self.largest = largest

    def decode(self, codes: Tensor) -> Tensor:
        """The next codes (B, Q, n), 1 <= n <= largest -> the next (B, 1, 1920 n) samples."""
        self.codec.check(codes)
        if not 1 <= codes.shape[-1] <= self.largest:
            raise ValueError(f"{codes.shape[-1]} frames in one call, wanted 1..{self.largest} (streaming's `largest`)")
        with torch.inference_mode(), self.codec.plainly():
            return self.codec.model.decode(codes.to(self.codec.device)).clone()


def widen_context(model: MimiModel, batch: int, largest: int) -> None:
    """Give the streaming decoder's attention room for a whole call.

    moshi's ring of keys is as long as the context, and a call first writes all its keys and then looks back: of n
    positions in one call the first no longer finds its n - 1 oldest keys.  After ten seconds of sound that is heard as
    a difference (1e-3) to decoding at once.  With room for context + n - 1 keys both are equal; masks keep the context.
    """
    positions = largest * round(model.encoder_frame_rate / model.frame_rate)
    for module in model.decoder_transformer.modules():
        if isinstance(module, StreamingMultiheadAttention):
            state = module._streaming_state
            old = state.kv_cache
            _, _, heads, _, width = old.cache.shape
            state.kv_cache = RingKVCache(
                batch, heads, width, module.context + positions - 1, device=old.cache.device, dtype=old.cache.dtype
            )
