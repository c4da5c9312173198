"""Answers of a fixed length: a generator whose codebook 0 never stops."""

from __future__ import annotations

from collections.abc import Sequence

from mmo.config import Decoding
from mmo.generation import Decoder, Generator, Prompt


class Unstoppable(Generator):
    """A generator whose codebook 0 never stops: `Decoding.max_frames` ends the speech."""

    def start(self, prompts: Sequence[Prompt], decoding: Decoding | None, speech: bool, end_token: int | None = None) -> Decoder:
        decoder = super().start(prompts, decoding, speech, end_token)
        decoder.allowed[0, self.config.audio_stop_token] = float("-inf")
        return decoder
