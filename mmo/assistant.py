"""A finished model, ready to be asked by text, sound or picture: what the notebooks talk to.

    assistant = Assistant.load(settings, run)             # the run's last weights, else the shipped ones
    answer = assistant.ask("What is three plus four?", voice="slt")
    answer = assistant.ask(sound=samples)                 # 16 kHz
    answer = assistant.ask("What do you see?", picture=image)

Encoders are loaded when they are first needed.  `mmo say` does the same for files, with words of advice (say.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from mmo.chat import ChatTokenizer
from mmo.checkpoint import latest_weights
from mmo.codec import Codec
from mmo.config import Decoding
from mmo.generation import Answer, Generator, Prompt, lay_out
from mmo.omni import load_model
from mmo.profiles import Profile
from mmo.profiles import run_dir as default_run_dir
from mmo.twin import Precision
from mmo.weights import read_tensors

if TYPE_CHECKING:
    from PIL.Image import Image

    from mmo.speech_encoder import SpeechEncoder
    from mmo.vision_encoder import VisionEncoder


@dataclass(frozen=True)
class Assistant:
    """Model, codec and tokenizer of a profile, with the voices it can answer in (name to speaker vector)."""

    settings: Profile
    which: str  # a sentence: which weights these are
    generator: Generator
    voices: dict[str, Tensor]

    @classmethod
    def load(
        cls, settings: Profile, run_dir: Path | None = None, weights: Path | None = None, precision: Precision | None = None, compile: bool = False
    ) -> Assistant:
        """The given weights, else the run's last ones, else the shipped ones.  Raises FileNotFoundError where there are none.

        precision, compile: see `Generator`; compiling is for whoever asks many questions.
        """
        if weights is None:
            weights, which = latest_weights(settings, run_dir or default_run_dir(settings))
        else:
            which = f"weights: {weights}"
        model = load_model(weights)
        codec = Codec.load(settings.codec_file, num_codebooks=model.config.num_codebooks)
        tokenizer = ChatTokenizer.load(settings.tokenizer_dir)
        generator = Generator(model, codec, tokenizer, settings.decoding, precision=precision, compile=compile)
        voices = settings.data_dir / "voices.safetensors"
        return cls(settings, which, generator, read_tensors(voices)[0] if voices.is_file() else {})

    @cached_property
    def speech_encoder(self) -> SpeechEncoder:
        from mmo.speech_encoder import SpeechEncoder

        return SpeechEncoder.load(self.settings.speech_encoder_dir)

    @cached_property
    def vision_encoder(self) -> VisionEncoder:
        from mmo.vision_encoder import VisionEncoder

        return VisionEncoder.load(self.settings.vision_encoder_dir)

    def prompt(
        self, text: str = "", sound: np.ndarray | None = None, picture: Image | None = None, voice: str | None = None, seed: int = 0,
        decoding: Decoding | None = None,
    ) -> Prompt:  # fmt: skip
        """One question as training laid it out: words, a sound (N,) at 16 kHz, a picture, or several of these.

        decoding: by whose hearings and looks; default the profile's.  Raises ValueError where there is nothing to answer, or no such voice.
        """
        if not text and sound is None and picture is None:
            raise ValueError("nothing to answer: give text, sound or picture")
        if voice is not None and voice not in self.voices:
            raise ValueError(f"no voice {voice!r}; there are {', '.join(self.voices)}")
        speaker = self.voices[voice] if voice else next(iter(self.voices.values()), None)
        decoding = decoding or self.settings.decoding
        heard = () if sound is None else self.speech_encoder.encode_at(sound, decoding.hearings)
        seen = () if picture is None else self.vision_encoder.encode_at(picture, decoding.looks)
        return lay_out(self.generator.tokenizer, self.generator.config, text, heard, seen, speaker, seed)

    def ask(
        self, text: str = "", sound: np.ndarray | None = None, picture: Image | None = None, voice: str | None = None, seed: int = 0,
        decoding: Decoding | None = None,
    ) -> Answer:  # fmt: skip
        """The answer to one question, text and speech; see `prompt`."""
        return self.generator.answer(self.prompt(text, sound, picture, voice, seed, decoding), decoding)
