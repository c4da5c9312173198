"""The ear: SenseVoice-Small, rented and frozen. A waveform goes in, one feature vector per 60 ms comes out.

SenseVoice (An et al., "FunAudioLLM", 2024) is a stack of SAN-M blocks (self-attention with a memory filter beside it) trained with CTC
to write down what it hears. We want its features, not its text:

    16 kHz waveform · 32768 → 80 log-mel values every 10 ms → 7 frames stacked, every 6th kept (560 values, 16.67 a second)
    → mean and variance from `am.mvn` → encoder → (B, N, D)

The four query tokens that SenseVoice puts before the sound to ask for language, emotion, event and style are left out: nobody asks here.

The real model and the tiny world's (`data/tiny/speech_encoder`) are folders of the same layout, and `funasr.AutoModel` loads both:

    encoder = SpeechEncoder.load(profile.speech_encoder_dir)
    features, lengths = encoder.encode([question])       # (1, N, D), (1,)
    print(encoder.transcribe([question]))                 # what it hears, by its own CTC head
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import pickle
import pkgutil
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from mmo.augmentation import change_speed
from mmo.full_precision import full_float32

SAMPLE_RATE = 16_000
WINDOW, HOP = 400, 160  # samples: 25 ms and 10 ms
STACK, STRIDE = 7, 6  # low frame rate: 7 mel frames become one vector, every 6th is kept
FILES = ("config.yaml", "model.pt", "am.mvn")
TOKENIZERS = ("tokens.json", "tokens.txt", "*bpe.model")
# What SenseVoice and CAM++ are made of. Importing these alone saves the seconds in which `import funasr` imports all of its models.
FUNASR_MODULES = ("auto.auto_model", "frontends.wav_frontend", "models.campplus.model", "models.sense_voice.model",
                  "models.specaug.specaug", "tokenizer.char_tokenizer", "tokenizer.sentencepiece_tokenizer")


def feature_count(samples: int) -> int:
    """How many feature vectors `samples` at 16 kHz give: 16.67 a second."""
    mel_frames = (samples - WINDOW) // HOP + 1
    return -(-mel_frames // STRIDE)


class SpeechEncoder:
    """A frozen SenseVoice with its frontend; always float32, in evaluation mode, outside autocast and without gradients.

    `dim` is the width D of the features, `device` where they come out.
    """

    def __init__(self, model: torch.nn.Module, frontend: torch.nn.Module, tokenizer=None, device: str | torch.device = "cpu"):
        self.device = torch.device(device)
        self.model = model.to(self.device).float().eval().requires_grad_(False)
        self.frontend, self.tokenizer = frontend, tokenizer
        self.frontend.dither = 0.0  # funasr adds random noise by default, in evaluation too
        self.dim: int = model.encoder.output_size()

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> SpeechEncoder:
        """Loads a FunASR model folder, the tiny one or the real SenseVoice-Small, through `funasr.AutoModel`.

        FileNotFoundError names the missing file. ValueError: weights that do not fit the folder's `config.yaml`.
        RuntimeError: `device` is not there. Random states, torch's threads and logging are left as they were.
        """
        folder = check_folder(Path(folder).resolve())
        device = check_device(torch.device(device))
        with undisturbed() as printed, tensors_only():
            try:
                loaded = auto_model()(model=str(folder), device=str(device), disable_update=True, disable_pbar=True, disable_log=True,
                                      ignore_init_mismatch=False, ncpu=torch.get_num_threads())
            except pickle.UnpicklingError as error:
                raise ValueError(f"{folder / 'model.pt'}: refused, nothing of it was run: it holds something else than tensors, or is damaged; "
                                 "fetch it again (`mmo fetch speech-encoder`)") from error  # fmt: skip
            except Exception as error:
                raise ValueError(f"{folder}: funasr could not load this folder ({error}); are config.yaml and model.pt of one model?") from error
        missing = [line for line in printed.getvalue().splitlines() if "miss key in ckpt" in line]
        if missing:
            raise ValueError(f"{folder / 'model.pt'} lacks {len(missing)} weights that config.yaml asks for: {missing[0]} …")
        return cls(loaded.model, loaded.kwargs["frontend"], loaded.kwargs["tokenizer"], device)

    def frames(self, waves: Sequence[np.ndarray | torch.Tensor], sample_rate: int = SAMPLE_RATE) -> tuple[torch.Tensor, torch.Tensor]:
        """The frontend alone. waves: 1-D, full scale 1. Returns (B, N, 560), zero where padded, and lengths (B,), on the CPU."""
        if sample_rate != SAMPLE_RATE:
            raise ValueError(f"the speech encoder hears {SAMPLE_RATE} Hz and got {sample_rate} Hz; resample first, for instance "
                             f"soxr.resample(samples, {sample_rate}, {SAMPLE_RATE})")
        if not len(waves):
            raise ValueError("an empty list of sounds; give at least one")
        checked = [check_wave(wave, number) for number, wave in enumerate(waves)]
        padded = torch.nn.utils.rnn.pad_sequence(checked, batch_first=True)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            return self.frontend(padded, [len(wave) for wave in checked])

    @torch.no_grad()
    def encode_frames(self, frames: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The encoder alone: (B, N, 560) and (B,) to features (B, N, D), zero where padded, and lengths (B,) int64."""
        frames = frames.to(self.device, torch.float32).clone()  # the encoder scales its input in place
        lengths = lengths.to(self.device)
        with full_float32(self.device):
            features, _ = self.model.encoder(frames, lengths)
        padding = torch.arange(features.shape[1], device=self.device) >= lengths[:, None]
        return features.masked_fill(padding[..., None], 0.0), lengths.long()

    def encode(self, waves: Sequence[np.ndarray | torch.Tensor], sample_rate: int = SAMPLE_RATE) -> tuple[torch.Tensor, torch.Tensor]:
        """waves: B sounds, 1-D floating point, full scale 1, 16 kHz, at least 25 ms. Returns features (B, N, D) and lengths (B,).

        What a sound gives does not depend on its neighbours in the batch. ValueError names the sound that cannot be used.
        """
        return self.encode_frames(*self.frames(waves, sample_rate))

    def encode_at(self, wave: np.ndarray | torch.Tensor, speeds: Sequence[float]) -> list[torch.Tensor]:
        """One sound (samples,) at 16 kHz, played at each of these speeds -> its features (N, D), fewer where it is faster.

        Pitch and formants go with the speed, as in speed perturbation (Ko et al., "Audio Augmentation for Speech Recognition", 2015).
        """
        samples = check_wave(wave, 0).numpy()
        features, lengths = self.encode([change_speed(samples, speed, SAMPLE_RATE, SAMPLE_RATE) for speed in speeds])
        return [row[:length] for row, length in zip(features, lengths.tolist(), strict=True)]

    @torch.no_grad()
    def transcribe(self, waves: Sequence[np.ndarray | torch.Tensor], sample_rate: int = SAMPLE_RATE) -> list[str]:
        """What the encoder's own CTC head makes of each sound, greedily. (Without query tokens: the tiny model is trained so.)"""
        return self.spell(*self.encode(waves, sample_rate))

    @torch.no_grad()
    def spell(self, features: torch.Tensor, lengths: torch.Tensor) -> list[str]:
        """Greedy CTC: the likeliest token of each feature vector, repeats merged, blanks dropped."""
        best = self.model.ctc.argmax(features.to(self.device))
        tokens = getattr(self.tokenizer, "token_list", None)
        found = []
        for row, length in zip(best, lengths.tolist()):
            ids = collapse(row[:length], self.model.blank_id)
            found.append(" ".join(tokens[token] for token in ids) if tokens else self.tokenizer.decode(ids))
        return found


def collapse(best: torch.Tensor, blank: int) -> list[int]:
    """CTC's way from one token a feature vector, best (N,), to what is written: repeats merged first, then blanks dropped.

    So a blank between two equal tokens keeps them apart (Graves et al., "Connectionist Temporal Classification", 2006).
    """
    return [token for token in torch.unique_consecutive(best).tolist() if token != blank]


def resynthesise(log_mel: torch.Tensor, rounds: int = 48) -> torch.Tensor:
    """A sound whose mel frames are about these: to hear what 80 numbers every 10 ms still say. (T, 80) -> (samples,), full scale 1.

    Bands are spread over the frequencies they came from, the frontend's pre-emphasis is undone, and phases, which no mel frame
    holds, are found by going back and forth between sound and spectrum (Griffin & Lim, "Signal Estimation from Modified
    Short-Time Fourier Transform", 1984). The same frames give the same sound.
    """
    import torchaudio.compliance.kaldi as kaldi

    size = 512  # the frontend's FFT
    bank, _ = kaldi.get_mel_banks(log_mel.shape[1], size, SAMPLE_RATE, 20.0, 0.0, 100.0, -500.0, 1.0)
    bank = torch.nn.functional.pad(bank, (0, 1))  # (bands, bins); Kaldi leaves the last bin out
    density = log_mel.exp() / bank.sum(dim=1)
    power = density @ bank / bank.sum(dim=0).clamp(min=1e-3)  # (T, bins)
    turn = torch.exp(-1j * torch.linspace(0, torch.pi, bank.shape[1]))
    magnitude = power.sqrt() / (1 - 0.97 * turn).abs() / 32768
    window = torch.hamming_window(WINDOW, periodic=False)
    place = torch.arange(len(log_mel))[:, None] * HOP + torch.arange(WINDOW)  # (T, WINDOW): sample numbers
    weight = torch.zeros(int(place[-1, -1]) + 1).index_add_(0, place.flatten(), (window**2).repeat(len(log_mel)))
    phase = 2 * torch.pi * torch.rand(magnitude.shape, generator=torch.Generator().manual_seed(0))
    for _ in range(rounds):
        pieces = torch.fft.irfft(torch.polar(magnitude, phase), n=size)[:, :WINDOW] * window
        wave = torch.zeros_like(weight).index_add_(0, place.flatten(), pieces.flatten()) / weight
        phase = torch.fft.rfft(wave[place] * window, n=size).angle()
    return wave


def check_folder(folder: Path) -> Path:
    """Raises FileNotFoundError that names what a FunASR model folder lacks."""
    hint = "fetch the model again, or train the tiny one: python -m mmo.world.train_speech_encoder"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; {hint}")
    missing = [name for name in FILES if not (folder / name).is_file()]
    if not any(any(folder.glob(pattern)) for pattern in TOKENIZERS):
        missing.append(" or ".join(TOKENIZERS))
    if missing:
        raise FileNotFoundError(f"{folder}: the speech encoder's folder lacks {', '.join(missing)}; {hint}")
    return folder


def check_device(device: torch.device) -> torch.device:
    """Raises RuntimeError where funasr would fall back to the CPU without a word."""
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}.get(device.type, lambda: True)()
    if not there:
        raise RuntimeError(f"device {device} is not available here; use device='cpu'")
    return device


def check_wave(wave: np.ndarray | torch.Tensor, number: int) -> torch.Tensor:
    """One sound as a float32 CPU tensor (N,); ValueError says what is wrong with sound `number`."""
    wave = torch.as_tensor(wave).detach().cpu()
    if wave.ndim != 1:
        raise ValueError(f"sound {number} has shape {tuple(wave.shape)}; one channel of shape (samples,) is needed")
    if not wave.is_floating_point():
        raise ValueError(f"sound {number} is {wave.dtype}; divide integer samples by full scale (32768 for int16) first")
    if len(wave) < WINDOW:
        raise ValueError(f"sound {number} is {'empty' if not len(wave) else f'only {len(wave)} samples long'}; "
                         f"at least {WINDOW} samples (25 ms at 16 kHz) are needed")
    if not torch.isfinite(wave).all():
        raise ValueError(f"sound {number} holds NaN or infinite samples")
    return wave.float()


def auto_model() -> type:
    """`funasr.AutoModel`, without importing every model that funasr knows."""
    if "funasr" not in sys.modules:
        walk, pkgutil.walk_packages = pkgutil.walk_packages, lambda *_, **__: iter(())
        try:
            importlib.import_module("funasr")
        finally:
            pkgutil.walk_packages = walk
    for name in FUNASR_MODULES:
        importlib.import_module(f"funasr.{name}")
    return sys.modules["funasr"].AutoModel


@contextlib.contextmanager
def tensors_only() -> Iterator[None]:
    """What is unpickled in here may hold tensors and plain containers alone, whatever the caller's environment says: funasr leaves it to that."""
    names = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    os.environ[names[0]] = "1"
    try:
        yield
    finally:
        del os.environ[names[0]]
        os.environ.update(before)


@contextlib.contextmanager
def undisturbed() -> Iterator[io.StringIO]:
    """Keeps what `AutoModel` changes on its way: all random states, torch's threads, logging. Yields what it printed."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    threads, root = torch.get_num_threads(), logging.getLogger()
    handlers, level, disabled = root.handlers[:], root.level, logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(printed):
            yield printed
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)
        torch.set_num_threads(threads)
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.disable(disabled)
