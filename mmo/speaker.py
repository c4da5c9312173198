"""Whose voice it is: CAM++ (Wang and others 2023, arXiv:2303.00332), through `funasr`.  A sound goes in, a vector of the voice comes out.

    encoder = SpeakerEncoder.load("data/downloads/campplus/campplus_cn_common.bin")
    one, other = encoder.vectors([(samples, 24000), (more, 16000)])         # (192,) each
    similarity(one, other)                                                  # cosine, -1 .. 1

Rows of the real data carry such a vector (`spk_emb`): the original made them with this model, and the Talker is told its voice by
them.  Two sounds of one voice are far from 1 even on recordings, so a figure means little without its ceiling (recorded
speech of the same voice, through the codec) and its floor (another voice).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mmo.full_precision import full_float32
from mmo.judge import RATE, Sound, at_16_khz, is_silent
from mmo.speech_encoder import auto_model
from mmo.weights import check_finite, check_fit, read_tensors, shapes

SHORTEST = 0.5  # seconds; a voice cannot be told from less
OUTPUT = "xvector.dense.linear.weight"  # (S, …): its last layer
FETCH = "mmo fetch speaker-encoder"


class SpeakerEncoder:
    """A loaded CAM++: frozen, in fp32.  `dim` is the width S of its vectors: 192."""

    def __init__(self, model: torch.nn.Module, dim: int, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.model, self.dim = model.to(self.device).float().eval().requires_grad_(False), dim

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> SpeakerEncoder:
        """Reads the file of weights, every name and shape compared; a pickle in it runs nothing (weights.py).

        Raises FileNotFoundError saying what to fetch, ValueError where it is no CAM++.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no speaker encoder; fetch it: {FETCH}")
        state, _ = read_tensors(path)
        if OUTPUT not in state:
            raise ValueError(f"{path} is no CAM++: it has no {OUTPUT}")
        with torch.random.fork_rng(devices=[]):  # fresh weights are drawn, and thrown away
            model = build(len(state[OUTPUT]))
        # Counters of training steps, which nothing needs that does not train: a file may lack them.
        counters = {name: value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")}
        check_fit(shapes(model), counters | state, str(path))
        check_finite(state, str(path))
        model.load_state_dict(counters | state)
        return cls(model, len(state[OUTPUT]), device)

    @torch.inference_mode()
    def vectors(self, sounds: Sequence[Sound]) -> list[np.ndarray | None]:
        """The voice of each of (samples (N,) in -1..1, rate in Hz): (S,) float32; None where there is too little to hear.

        One at a time: the model's mean over time counts padding, too.
        Raises ValueError where samples are no finite numbers in one channel.
        """
        return [self.vector(at_16_khz(*sound)) for sound in sounds]

    def vector(self, wave: np.ndarray) -> np.ndarray | None:
        """The voice in one sound at 16 kHz."""
        from funasr.models.campplus.utils import extract_feature  # its 80 log-mel values, their mean over time taken out

        if len(wave) < SHORTEST * RATE or is_silent(wave):
            return None
        features, _, _ = extract_feature([torch.from_numpy(np.ascontiguousarray(wave))])
        with full_float32(self.device):
            return self.model(features.to(self.device, torch.float32))[0].cpu().numpy()


def build(dim: int = 192) -> torch.nn.Module:
    """funasr's CAM++ at its real size with fresh weights; dim: width of its vectors."""
    with contextlib.redirect_stdout(io.StringIO()):  # funasr greets
        auto_model()
        from funasr.models.campplus.model import CAMPPlus
    return CAMPPlus(embedding_size=dim)


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    """Cosine of two vectors (S,).  Raises ValueError where they are not of one width, or one is all zeros."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(f"vectors of voices have shapes {one.shape} and {other.shape}; both must be of one speaker encoder")
    size = np.linalg.norm(one) * np.linalg.norm(other)
    if not size > 0:
        raise ValueError("a vector of a voice is all zeros")
    return float(one @ other / size)
