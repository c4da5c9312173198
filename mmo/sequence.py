"""The nine streams: how a conversation and its spoken answer become rows of numbers, and back.

A row of training has Q audio streams (one a codebook) over one stream of text, all on one clock of positions.
An answer "Four ." of three frames with Q = 3 codebooks, `ck.f` = code of codebook k in frame f, `-` = pad:

    position     0    1    2    3    4    5    6    7    8    9   10   11   12   13
    codebook 0   -    -    S   r0.0 r0.1  -   c0.0 c0.1 c0.2 STOP  -    -    -    -
    codebook 1   -    -    S   r1.0 r1.1  -    -   c1.0 c1.1 c1.2 STOP  -    -    -
    codebook 2   -    -    S   r2.0 r2.1  -    -    -   c2.0 c2.1 c2.2 STOP  -    -
    text        <im> user ...  <im> asst Four  .   <end> \n   pad  pad  pad  pad  pad
                                        ^
                                        audio_start: where the answer's text begins (behind an empty think block)

- **Delay.**  Code k of frame f sits at audio_start + 1 + k + f (MusicGen's delay pattern, Copet et al. 2023,
  arXiv:2306.05284): one position predicts all codebooks at once, yet codebook k is written knowing codebooks below it
  of the same frame.  Sound begins one position after the text, so that there is a word to be said.
- **Stop.**  Each codebook ends with the stop sign.  Where the row is cut, stops are lost: `Row.stop_cut` counts them.
- **Voice.**  The reference voice's codes `r` stand right-aligned before audio_start, *not* delayed, the last ones kept
  where room is short; the speaker sign `S` stands just before them in all codebooks (or just before audio_start).
  An answer without sound has neither.
- **Labels** are the streams themselves inside the last answer (text: with `<|im_end|>` and its newline; codes: with
  the stop), -100 elsewhere.  Then the usual shift by one: position t of the inputs is answered by label t + 1.

Prompts for generation come from the same functions (`build_prompt` is a row that ends before audio_start), so
what is fed in decoding is what was fed in training.  On the way back, `undelay` straightens the streams:

    c0.0 c0.1 c0.2 STOP  -    -                c0.0 c0.1 c0.2
     -   c1.0 c1.1 c1.2 STOP  -     undelay    c1.0 c1.1 c1.2
     -    -   c2.0 c2.1 c2.2 STOP  -------->   c2.0 c2.1 c2.2
                                    <--------
                                      delay

Letters: T positions, F codec frames, Q codebooks.  Everything is a CPU tensor of int64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmo.config import IGNORE, ModelConfig

STORED = 8  # codes a frame in every data file, the original's and ours
THINK_WINDOW = 50  # a leading think block must end within this many tokens of the answer's start


def frames(flat: Sequence[int], num_codebooks: int = STORED, num_codes: int | None = None) -> Tensor:
    """Flat, frame-major codes of a data file -> (Q, F).

    Raises ValueError where num_codebooks is not what a file's frames hold (nothing in the codes themselves would show it), where a
    frame is incomplete or, given num_codes, where a value is no code.
    """
    if num_codebooks != STORED:
        raise ValueError(
            f"the rows of a data file hold {STORED} codes a frame; cut by {num_codebooks} they would be frames of nonsense. "
            f"Read all {STORED}, then keep the first {num_codebooks}: frames(flat)[:{num_codebooks}]"
        )
    codes = torch.tensor(flat, dtype=torch.long)  # a copy: rows read from a memory map cannot be written to
    if codes.dim() != 1 or len(codes) % num_codebooks:
        raise ValueError(f"{codes.numel()} codes are no whole number of frames of {num_codebooks}")
    if num_codes is not None and len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < num_codes:
        raise ValueError(f"codes {int(codes.min())}..{int(codes.max())} leave the range 0..{num_codes - 1}")
    return codes.view(-1, num_codebooks).T


def delay(codes: Tensor, pad: int, stop: int) -> Tensor:
    """codes (Q, F) -> (Q, F + Q): row k is k pads, its F codes, the stop sign, pads."""
    Q, F = codes.shape
    delayed = torch.full((Q, F + Q), pad)
    slanted = delayed.as_strided((Q, F + 1), (F + Q + 1, 1))  # the same memory: its row k begins k places further right
    slanted[:, :F], slanted[:, F] = codes, stop
    return delayed


def undelay(delayed: Tensor, stop: int | None = None) -> Tensor:
    """delayed (Q, L) -> whole frames (Q, F), row k moved left by k: F = L - Q + 1, or 0 where L is shorter than that.

    With `stop`, frames from the first one on in which any codebook has the stop sign are cut off, so that
    undelay(delay(codes, pad, stop), stop) == codes.
    """
    Q, L = delayed.shape
    F = max(0, L - Q + 1)
    codes = torch.stack([delayed[k, k : k + F] for k in range(Q)])
    if stop is None:
        return codes
    stopped = (codes == stop).any(dim=0)
    return codes[:, stopped.cumsum(dim=0) == 0]


def find(ids: Sequence[int], pattern: Sequence[int], start: int = 0, end: int | None = None) -> int:
    """First position in start..end-1 (default: all) where `pattern` begins in `ids`, or -1."""
    ids, pattern = list(ids), list(pattern)
    for position in range(start, len(ids) if end is None else end):
        if ids[position : position + len(pattern)] == pattern:
            return position
    return -1


def find_assistant_ranges(text_ids: Sequence[int], bos: Sequence[int], eos: Sequence[int]) -> list[tuple[int, int]]:
    """[start, end) of each answer's text.

    `bos` are the ids of "<|im_start|>assistant\\n": start is behind them.  `eos` are those of "<|im_end|>\\n": end is
    where they begin, or the end of the text where they are missing because it was cut.
    """
    text_ids, ranges, position = list(text_ids), [], 0
    while (found := find(text_ids, bos, position)) >= 0:
        start = found + len(bos)
        end = find(text_ids, eos, start)
        if end < 0:
            ranges.append((start, len(text_ids)))
            break
        ranges.append((start, end))
        position = end + len(eos)
    return ranges


def audio_start(text_ids: Sequence[int], answer: tuple[int, int], think_end: Sequence[int]) -> int:
    """Where the answer's sound is anchored: its text's start, or behind a "</think>\\n\\n" (ids `think_end`) that
    begins within the next 50 tokens of it."""
    start, end = answer
    found = find(text_ids, think_end, start, min(end, start + THINK_WINDOW)) if think_end else -1
    return start if found < 0 else found + len(think_end)


def voice_streams(length: int, start: int, ref_codes: Tensor | None, has_speaker: bool, config: ModelConfig) -> Tensor:
    """(Q, length) of pads, with the reference voice right-aligned before `start` and the speaker sign before it.

    ref_codes (Q, F) or None.  Of a reference longer than the room the last frames are kept; the speaker sign has its
    place first.  A prompt without any room (start 0) gets neither.
    """
    streams = torch.full((config.num_codebooks, length), config.audio_pad_token)
    ref_start = start
    if ref_codes is not None and ref_codes.shape[1]:
        ref_start = min(start, max(int(has_speaker), start - ref_codes.shape[1]))
        if ref_start < start:
            streams[:, ref_start:start] = ref_codes[:, ref_start - start :]
    if has_speaker and ref_start > 0:
        streams[:, ref_start - 1] = config.audio_spk_token
    return streams


@dataclass(frozen=True)
class Row:
    """One row of training, shifted: `text_labels[t]` and `audio_labels[:, t]` answer `input_ids[:, t]`."""

    input_ids: Tensor  # (Q + 1, T): rows 0 .. Q-1 codes, row Q text
    text_labels: Tensor  # (T,), -100 = not learnt
    audio_labels: Tensor  # (Q, T), -100 = not learnt
    stop_cut: int  # codebooks whose stop sign fell behind the cut
    answer_cut: bool  # the whole last answer fell behind the cut: nothing in this row is learnt

    @property
    def text_length(self) -> int:
        """Positions up to the last text label: what the Thinker's upper layers must read (`text_length=`)."""
        labelled = (self.text_labels != IGNORE).nonzero()
        return int(labelled[-1]) + 1 if len(labelled) else 0


@dataclass(frozen=True)
class Markers:
    """Ids of the chat template's turning points, from the tokenizer."""

    assistant: tuple[int, ...]  # "<|im_start|>assistant\n"
    end: tuple[int, ...]  # "<|im_end|>\n"
    think_end: tuple[int, ...] = ()  # "</think>\n\n"

    @classmethod
    def from_tokenizer(cls, tokenizer) -> Markers:
        """Read them from a Hugging Face tokenizer."""

        def ids(text: str) -> tuple[int, ...]:
            return tuple(tokenizer(text, add_special_tokens=False).input_ids)

        return cls(ids("<|im_start|>assistant\n"), ids("<|im_end|>\n"), ids("</think>\n\n"))


def build_row(
    text_ids: Sequence[int],
    answer_codes: Tensor | None,
    config: ModelConfig,
    markers: Markers,
    *,
    ref_codes: Tensor | None = None,
    has_speaker: bool = False,
    max_length: int | None = None,
    pad: bool = False,
) -> Row:
    """A conversation and the sound of its last answer -> one row.

    text_ids: the whole tokenised conversation.  answer_codes, ref_codes: (Q, F), or None where there is no sound.
    max_length: the row is cut there, before the shift by one (so T <= max_length - 1); with pad=True it is also padded
    to it.  Without it T is as long as text and sound need.  Raises ValueError where the text has no answer.
    """
    if pad and max_length is None:
        raise ValueError("pad=True needs max_length")
    kept = list(text_ids)[:max_length]
    ranges = find_assistant_ranges(kept, markers.assistant, markers.end)
    answers = len(ranges) if len(kept) == len(text_ids) else count_answers(text_ids, markers)
    if not answers:
        raise ValueError("the conversation has no assistant turn, so there is nothing to learn")
    if len(ranges) < answers:
        return unlearnt_row(kept, config, max_length if pad else len(kept))

    start = audio_start(kept, ranges[-1], markers.think_end)
    has_sound = answer_codes is not None and answer_codes.shape[1] > 0
    Q = config.num_codebooks
    needed = max(len(kept), start + 1 + answer_codes.shape[1] + Q) if has_sound else len(kept)
    length = max_length if pad else min(needed, max_length or needed)

    text = fill(length, config.pad_token, kept)
    text_labels = torch.full((length,), IGNORE)
    first, last = ranges[-1][0], min(ranges[-1][1] + len(markers.end), len(kept))
    text_labels[first:last] = text[first:last]

    streams = voice_streams(length, start, ref_codes if has_sound else None, has_speaker and has_sound, config)
    audio_labels = torch.full_like(streams, IGNORE)
    stop_cut = 0
    if has_sound:
        room = slice(start + 1, start + 1 + answer_codes.shape[1] + Q)  # runs past the end where the row is cut
        fits = max(0, length - start - 1)
        streams[:, room] = delay(answer_codes, config.audio_pad_token, config.audio_stop_token)[:, :fits]
        audio_labels[:, room] = delay(answer_codes, IGNORE, config.audio_stop_token)[:, :fits]
        stop_cut = sum(start + 1 + k + answer_codes.shape[1] >= length for k in range(Q))
    return shift(streams, text, text_labels, audio_labels, stop_cut)


def count_answers(text_ids: Sequence[int], markers: Markers) -> int:
    """How many assistant turns a conversation has."""
    return len(find_assistant_ranges(text_ids, markers.assistant, markers.end))


def unlearnt_row(text_ids: Sequence[int], config: ModelConfig, length: int) -> Row:
    """A row whose last answer fell behind the cut: its codes belong to no text that is left, so nothing is learnt."""
    text = fill(length, config.pad_token, text_ids)
    streams = voice_streams(length, 0, None, False, config)
    labels = torch.full_like(streams, IGNORE)
    return shift(streams, text, labels[0], labels, config.num_codebooks, answer_cut=True)


def fill(length: int, pad: int, ids: Sequence[int]) -> Tensor:
    """ids, padded on the right to (length,)."""
    filled = torch.full((length,), pad)
    filled[: len(ids)] = torch.as_tensor(ids, dtype=torch.long)
    return filled


def shift(
    streams: Tensor, text: Tensor, text_labels: Tensor, audio_labels: Tensor, stop_cut: int, answer_cut: bool = False
) -> Row:
    """The shift by one: inputs lose their last position, labels their first."""
    return Row(
        input_ids=torch.cat((streams, text[None]))[:, :-1],
        text_labels=text_labels[1:],
        audio_labels=audio_labels[:, 1:],
        stop_cut=stop_cut,
        answer_cut=answer_cut,
    )


def build_prompt(
    text_ids: Sequence[int], config: ModelConfig, *, ref_codes: Tensor | None = None, has_speaker: bool = False
) -> Tensor:
    """The prompt of a spoken answer, (Q + 1, T): text up to where the answer begins, the voice in the streams above.

    text_ids end with "<|im_start|>assistant\\n" (and the empty think block, where the model was trained with one).
    The output at the last position predicts the answer's first token; its first code comes one position later.
    """
    text = torch.tensor(list(text_ids), dtype=torch.long)
    return torch.cat((voice_streams(len(text), len(text), ref_codes, has_speaker, config), text[None]))
