"""Speech while it is being thought of: delayed codes go in step by step, sound comes out frame by frame.

    step    codebook 0   1   2        frame f is whole once codebook Q - 1 has it, Q - 1 steps after codebook 0
     s       c0.0        -   -
     s + 1   c0.1    c1.0    -
     s + 2   c0.2    c1.1 c2.0        frame 0 = (c0.0, c1.0, c2.0) is whole: 80 ms of sound

The first frames are decoded singly, until something is heard: nobody should wait for the second frame to hear the
first.  Then a few at a time, which costs less; the pieces grow by one frame each, so that what was handed out before
plays while the next piece is made.  The sound is that of decoding all frames at once (tests: to 1e-5).

Letters: B batch, Q codebooks, F frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmo.codec import StreamingDecoder

HEARD = 0.01  # of full scale: a frame whose peak is above has been heard


class Straightener:
    """Undelays streams that are still growing: `sequence.undelay`, one step at a time."""

    def __init__(self, num_codebooks: int) -> None:
        self.Q = num_codebooks
        self.steps: list[Tensor] = []  # (B, Q) each: the last Q of them

    def push(self, codes: Tensor) -> Tensor | None:
        """Codes (B, Q) of the next step, the first of them codebook 0's frame 0 -> the frame (B, Q, 1) they complete."""
        self.steps = [*self.steps[1 - self.Q :], codes] if self.Q > 1 else [codes]
        if len(self.steps) < self.Q:
            return None
        return torch.stack([self.steps[k][:, k] for k in range(self.Q)], dim=1)[..., None]


class SpeechStream:
    """From the Talker's steps to sound.

    with codec.streaming(batch) as decoder:
        stream = SpeechStream(decoder, num_codebooks=8)
        for codes in steps:                       # (B, Q)
            if (sound := stream.push(codes)) is not None:
                play(sound)                       # (B, 1, 1920 n)
        if (sound := stream.finish()) is not None: ...
    """

    def __init__(self, decoder: StreamingDecoder, num_codebooks: int, largest: int = 4) -> None:
        self.decoder = decoder
        self.straightener = Straightener(num_codebooks)
        self.largest = min(largest, decoder.largest)
        self.size = 1  # frames in the next piece
        self.heard = False
        self.waiting: list[Tensor] = []

    def push(self, codes: Tensor) -> Tensor | None:
        """Codes (B, Q) of one step -> the sound (B, 1, 1920 n) that is ready now, if any.

        Rows that have ended stay in the batch: what is no code counts as code 0 there, and their sound is for the
        caller to leave out.
        """
        frame = self.straightener.push(codes)
        if frame is None:
            return None
        self.waiting.append(torch.where(frame < self.decoder.codec.num_codes, frame, 0))
        return self.decode() if len(self.waiting) >= self.size else None

    def finish(self) -> Tensor | None:
        """The sound of the frames that were still waiting to be decoded together."""
        return self.decode() if self.waiting else None

    def decode(self) -> Tensor:
        """Decode what waits; plan how much to wait for next time."""
        sound = self.decoder.decode(torch.cat(self.waiting, dim=-1)).cpu()
        self.waiting = []
        if self.heard:
            self.size = min(self.size + 1, self.largest)
        self.heard = self.heard or bool(sound.abs().amax() > HEARD)
        return sound


def earliest_start(ready: Sequence[float], lengths: Sequence[float]) -> float:
    """When playing may begin so that it never has to wait: pieces i are ready at ready[i] and play for lengths[i].

    Piece i is wanted when all before it have been played, so the start is the largest of ready[i] minus their lengths.
    The unit is the caller's.  Raises ValueError where there is no piece.
    """
    if not ready or len(ready) != len(lengths):
        raise ValueError(f"wanted as many lengths as times, and at least one; got {len(ready)} and {len(lengths)}")
    start, played = ready[0], 0.0
    for at, length in zip(ready, lengths):
        start, played = max(start, at - played), played + length
    return start


def waits(ready: Sequence[float], lengths: Sequence[float], head_start: float = 0.0) -> list[float]:
    """How long a player stands still before each piece: 0 where it follows without a gap.

    Pieces i are ready at ready[i] and play for lengths[i]; the player begins `head_start` after the first piece is there and plays
    each as soon as it is there and the one before is over.  The unit is the caller's.
    """
    free, found = (ready[0] if ready else 0.0) + head_start, []
    for at, length in zip(ready, lengths, strict=True):
        found.append(max(0.0, at - free))
        free = max(free, at) + length
    return found
