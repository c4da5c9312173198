"""Streaming: step by step is the same as all at once, and the first sound does not wait for the second."""

import pytest
import torch

from mmo.codec import Codec
from mmo.sequence import delay, undelay
from mmo.streaming import HEARD, SpeechStream, Straightener, earliest_start, waits
from speakers import random_mimi

PAD, STOP = 17, 18


@pytest.fixture(scope="module")
def codec():
    return Codec(random_mimi())


def random_codes(batch, frames, seed=0):
    return torch.randint(0, 16, (batch, 8, frames), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num_codebooks", [1, 2, 8])
def test_straightener_is_undelay(num_codebooks):
    """Pushing delayed streams step by step gives the frames that undelaying all of them gives."""
    codes = random_codes(1, 7)[0, :num_codebooks]
    delayed = delay(codes, PAD, STOP)
    straightener = Straightener(num_codebooks)
    frames = [straightener.push(step[None]) for step in delayed.T]
    assert all(frame is None for frame in frames[: num_codebooks - 1])
    whole = torch.cat([frame[0] for frame in frames if frame is not None], dim=-1)
    assert torch.equal(whole, undelay(delayed))
    assert torch.equal(whole[:, :7], codes)


@pytest.mark.parametrize("largest", [1, 3, 8])
def test_streamed_speech_equals_offline(codec, largest):
    codes = random_codes(2, 21)
    offline = codec.decode(codes)
    delayed = torch.stack([delay(row, PAD, STOP) for row in codes])
    with codec.streaming(2, largest) as decoder:
        stream = SpeechStream(decoder, 8, largest)
        pieces = [stream.push(delayed[..., step]) for step in range(delayed.shape[-1])] + [stream.finish()]
    pieces = [piece for piece in pieces if piece is not None]
    sound = torch.cat(pieces, dim=-1)
    assert sound.shape[-1] == 22 * 1920  # the frame of stops counts as codes 0; the caller cuts it off
    assert (sound[..., : 21 * 1920] - offline).abs().max() < 1e-5


def test_first_sound_is_not_kept_waiting(codec):
    """Frames come singly until one is heard, then in pieces that grow by one frame."""
    codes = random_codes(1, 30)
    assert codec.decode(codes[..., :1]).abs().max() > HEARD
    delayed = delay(codes[0], PAD, STOP)[None]
    with codec.streaming(1) as decoder:
        stream = SpeechStream(decoder, 8, largest=4)
        sizes = [0 if piece is None else piece.shape[-1] // 1920 for piece in map(stream.push, delayed.unbind(-1))]
    assert sizes[:7] == [0] * 7 and sizes[7] == 1  # the first frame is whole after 8 steps, and goes out at once
    assert [size for size in sizes if size] == [1, 1, 2, 3, *[4] * 6]  # 30 frames and that of the stops


def test_silence_is_passed_on_frame_by_frame(codec):
    """While nothing is heard yet, waiting for several frames would delay the first word."""

    class Silent:
        largest = 8

        def __init__(self):
            self.codec = codec

        def decode(self, codes):
            return torch.zeros(len(codes), 1, codes.shape[-1] * 1920)

    stream = SpeechStream(Silent(), 8)
    delayed = delay(random_codes(1, 10)[0], PAD, STOP)[None]
    assert {piece.shape[-1] for piece in map(stream.push, delayed.unbind(-1)) if piece is not None} == {1920}


@pytest.mark.parametrize(
    "ready, lengths, start",
    [
        ([50], [80], 50),
        ([50, 100, 150], [80, 80, 80], 50),  # faster than it plays
        ([50, 200, 350], [80, 80, 80], 190),  # slower: the last piece decides
        ([50, 300, 310], [80, 80, 80], 220),  # one late piece
    ],
)
def test_earliest_start_leaves_no_gap(ready, lengths, start):
    assert earliest_start(ready, lengths) == pytest.approx(start)


def test_earliest_start_wants_pieces():
    with pytest.raises(ValueError, match="at least one"):
        earliest_start([], [])


@pytest.mark.parametrize(
    "ready, lengths, found",
    [
        ([50, 100, 150], [80, 80, 80], [0, 0, 0]),  # faster than it plays
        ([50, 200, 350], [80, 80, 80], [0, 70, 70]),  # slower: a gap before each
        ([50, 300, 310], [80, 80, 80], [0, 170, 0]),  # one late piece, and the next is waiting already
        ([], [], []),
    ],
)
def test_a_player_waits_where_a_piece_is_late(ready, lengths, found):
    assert waits(ready, lengths) == found
    if ready:
        start = earliest_start(ready, lengths)
        assert not any(waits(ready, lengths, start - ready[0])), "the head start that `earliest_start` gives spares every wait"
