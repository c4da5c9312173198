"""Decoding with some of the streams given: where on the way from words to sound is something lost?

    answers = forced(generator, prompts, texts, codes, given=3)

The model writes its answer step by step as ever (generation.py).  But before a step is fed, the text is replaced by the true text
and the codes of the first `given` codebooks by the true ones, each at its own place on the diagonal.  The other codebooks are
the Talker's, which hears the true ones as if it had said them itself.  given = 0 leaves all codes to it; with all of them given
nothing of it is left, and what is heard is the codec alone.

Letters: B batch, Q codebooks, F frames, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmo.config import Decoding
from mmo.generation import Answer, Decoder, Generator, Prompt, decode_all, evaluating


def given_codes(codes: Tensor, chosen: Tensor, step: int, given: int, stop: int) -> Tensor:
    """True codes (Q, F) and those chosen in this step (Q,) -> (Q,) what is fed.

    In step s codebook k is at frame s - 1 - k.  The first `given` codebooks say the true code there, behind the last frame the
    stop; where they have not begun, or have ended, and in all other codebooks, what was chosen stays.
    """
    fed, F = chosen.clone(), codes.shape[1]
    for k in range(given):
        frame = step - 1 - k
        if 0 <= frame < F:
            fed[k] = codes[k, frame]
        elif frame == F:
            fed[k] = stop
    return fed


class GivenCodes:
    """A decoder's choice of codes, the first codebooks replaced."""

    def __init__(self, decoder: Decoder, codes: Sequence[Tensor], given: int) -> None:
        self.decoder, self.choose, self.codes, self.given = decoder, decoder.choose_codes, codes, given

    def __call__(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """logits (B, Q, V), uniform (B, Q) -> (B, Q)."""
        chosen, decoder = self.choose(logits, uniform), self.decoder
        rows = [given_codes(codes, row, decoder.step, self.given, decoder.config.audio_stop_token) for codes, row in zip(self.codes, chosen, strict=True)]
        return torch.stack(rows)


class GivenText:
    """A decoder's choice of text, replaced: each row's ids, then the end."""

    def __init__(self, decoder: Decoder, texts: Sequence[Sequence[int]]) -> None:
        self.decoder, self.texts = decoder, texts

    def __call__(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """-> (B, 1)."""
        step, end = self.decoder.step, self.decoder.config.im_end_token
        return torch.tensor([[ids[step] if step < len(ids) else end] for ids in self.texts], device=logits.device)


@torch.no_grad()
def forced(
    generator: Generator,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    codes: Sequence[Tensor],
    given: int,
    decoding: Decoding | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Answer]:
    """Answers whose text is `texts` and whose first `given` codebooks are those of `codes` (Q, F) each.

    All prompts make one batch.  Raises ValueError where counts differ, `given` is no number of codebooks, or a true answer is
    longer than the decoding allows.
    """
    decoding, config = decoding or generator.decoding, generator.config
    ids = [generator.tokenizer.encode(text) for text in texts]
    if not len(prompts) == len(texts) == len(codes):
        raise ValueError(f"{len(prompts)} prompts, {len(texts)} texts, {len(codes)} codes: one of each is needed")
    if not 0 <= given <= config.num_codebooks:
        raise ValueError(f"given is {given}; there are {config.num_codebooks} codebooks")
    if max(map(len, ids)) > decoding.max_text or max(each.shape[1] for each in codes) > decoding.max_frames:
        raise ValueError(f"an answer is longer than max_text {decoding.max_text} or max_frames {decoding.max_frames}")
    with evaluating(generator.model):
        decoder = generator.start(prompts, decoding, speech=True)
        decoder.choose_text = GivenText(decoder, ids)
        decoder.choose_codes = GivenCodes(decoder, [each.to(decoder.device) for each in codes], given)
        for _ in decoder.run(drop=False):
            if progress:
                progress(1)
        answers = [Answer(generator.text(text), text, found, *ended) for text, found, *ended in decoder.results()]
    if generator.codec is None:
        return answers
    waves = decode_all(generator.codec, [answer.codes for answer in answers])
    return [replace(answer, samples=wave) for answer, wave in zip(answers, waves, strict=True)]
