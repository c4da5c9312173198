"""The judge of open speech: Whisper (Radford and others 2022), through `transformers`.

    judge = WhisperJudge.load("data/downloads/whisper-small", language="en")
    heard = judge.transcribe([(samples, 24000), ...])       # one string each, in order
    judge.split("Twenty-one colours, please!")              # ["21", "colors", "please"]

It has no part in the model: what the model hears with is SenseVoice.  It knows a language, though, so it mends words that were
said badly and completes sentences: a figure of it is kinder than a word loop's (judge.py), and stands beside the codec's ceiling.

- Sounds that fit into its window (30 s) are heard in batches, without time stamps.  Longer ones go through the library's own
  long form, window after window, each beginning where the last whole segment ended.
- Written numbers and spelling must not count as errors: `split` normalises both sides as Whisper's authors do.
- It writes at most TOKENS_A_SECOND: an unclear sound may send it into a loop, which would otherwise fill its whole memory of text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from mmo.full_precision import full_float32
from mmo.judge import RATE, Sound, at_16_khz, is_silent

FILES = (
    "config.json", "generation_config.json", "preprocessor_config.json", "tokenizer_config.json", "vocab.json", "merges.txt",
    "normalizer.json", "model.safetensors",
)  # fmt: skip
FETCH = "mmo fetch judge"
BATCH = 16  # sounds at once
TOKENS_A_SECOND = 15  # fast speech has six; Chinese, two a character, ten
TOKENS_BESIDE = 32  # however short the sound is
PROMPT_TOKENS = 4  # start, language, task, no time stamps
CHINESE = re.compile(r"[\u3400-\u9fff]")


def missing_files(folder: Path) -> list[str]:
    """Names of the files that a Whisper's folder lacks."""
    return [name for name in FILES if not (folder / name).is_file()]


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class WhisperJudge:
    """A loaded Whisper: frozen, in fp32 (what it hears should not depend on the card), greedy.

    language: two letters, or None where it shall find out by itself.
    """

    def __init__(
        self, model: WhisperForConditionalGeneration, processor: WhisperProcessor, language: str | None = "en", name: str = "whisper"
    ) -> None:
        self.model, self.processor = model.float().eval().requires_grad_(False), processor
        self.language, self.name = language, name

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu", language: str | None = "en") -> WhisperJudge:
        """Reads a folder as the hub has it; nothing is fetched, and no code runs from it.

        Raises FileNotFoundError naming what is missing, ValueError where the files cannot be read or are not of one model.
        """
        folder = Path(folder)
        if lacking := missing_files(folder):
            raise FileNotFoundError(f"{folder}: the judge lacks {', '.join(lacking)}; fetch it: {FETCH}")
        try:
            processor = WhisperProcessor.from_pretrained(folder, local_files_only=True)
            model, told = WhisperForConditionalGeneration.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
        except Exception as error:  # whatever a damaged file makes the library raise
            raise ValueError(f"{folder}: the judge cannot be read ({first_line(error)}); fetch it again: {FETCH}") from error
        if wrong := [f"{kind.replace('_', ' ')} {sorted(names)[:3]}" for kind, names in told.items() if names]:
            raise ValueError(f"{folder}: weights and config.json are not of one model: {'; '.join(wrong)}")
        if model.config.vocab_size < len(processor.tokenizer):
            raise ValueError(
                f"{folder}: the tokenizer has {len(processor.tokenizer)} pieces, the model {model.config.vocab_size}: not of one model"
            )
        return cls(model.to(device), processor, language, folder.name)

    # --- Listening ---------------------------------------------------------------------------------------------------

    @property
    def window(self) -> int:
        """Samples at 16 kHz that it hears at once: 30 s."""
        return self.processor.feature_extractor.n_samples

    def transcribe(self, sounds: Sequence[Sound], workers: int = 1, progress: Callable[[int], None] | None = None) -> list[str]:
        """What is heard in each of (samples (N,) in -1..1, rate in Hz), in their order; "" in silence.

        workers: not used, sounds share batches instead.  progress: called with the number of sounds heard just now.
        Raises ValueError where samples are no finite numbers in one channel.
        """
        heard = [""] * len(sounds)
        waves = [at_16_khz(*sound) for sound in sounds]
        audible = [place for place, wave in enumerate(waves) if not is_silent(wave)]
        if progress and len(audible) < len(sounds):
            progress(len(sounds) - len(audible))
        for places in self.batches(audible, waves):
            for place, text in zip(places, self.hear([waves[place] for place in places]), strict=True):
                heard[place] = text
            if progress:
                progress(len(places))
        return heard

    def batches(self, places: Sequence[int], waves: Sequence[np.ndarray]) -> Iterator[list[int]]:
        """Sounds that fit into the window together, then those that do not, each kind by length."""
        for long in (False, True):
            chosen = sorted((place for place in places if (len(waves[place]) > self.window) == long), key=lambda place: len(waves[place]))
            for first in range(0, len(chosen), BATCH):
                yield chosen[first : first + BATCH]

    @torch.inference_mode()
    def hear(self, waves: Sequence[np.ndarray]) -> list[str]:
        """One batch: waves (N,) at 16 kHz, all within the window or all beyond it."""
        longest = max(len(wave) for wave in waves)
        beyond = longest > self.window
        kept = {"truncation": False, "padding": "longest"} if beyond else {}  # else padded to the window, as in Whisper's training
        with full_float32(self.model.device), torch.autocast("cpu", enabled=False):  # the mel frames are made on the processor
            found = self.processor.feature_extractor(list(waves), sampling_rate=RATE, return_attention_mask=True, return_tensors="pt", **kept)
            tokens = self.model.generate(
                input_features=found.input_features.to(self.model.device, self.model.dtype),
                attention_mask=found.attention_mask.to(self.model.device),
                return_timestamps=beyond,
                max_new_tokens=self.most_tokens(min(longest, self.window)),
                **self.asked_for(),
            )
        return [text.strip() for text in self.processor.batch_decode(tokens, skip_special_tokens=True)]

    def most_tokens(self, samples: int) -> int:
        """How much it may write for so many samples of sound."""
        wanted = math.ceil(TOKENS_A_SECOND * samples / RATE) + TOKENS_BESIDE
        return min(wanted, self.model.config.max_target_positions - PROMPT_TOKENS)

    def asked_for(self) -> dict[str, str | None]:
        """Language and task; a Whisper that only knows English (its name ends in .en) may not be told."""
        if not getattr(self.model.generation_config, "is_multilingual", True):
            return {}
        return {"language": self.language, "task": "transcribe"}

    # --- Comparing ---------------------------------------------------------------------------------------------------

    @cached_property
    def english(self) -> EnglishTextNormalizer:
        return EnglishTextNormalizer(self.processor.tokenizer.english_spelling_normalizer)

    def split(self, text: str) -> list[str]:
        """The words of a text, normalised: case, punctuation, numbers, contractions, American spelling.

        Chinese has no spaces between words: each of its characters is one, also within an English sentence.
        """
        apart = CHINESE.sub(r" \g<0> ", text)
        # Of an ellipsis the English normaliser leaves a full stop by itself, which nobody can hear.
        return [word for word in self.english(apart).split() if any(sign.isalnum() for sign in word)]
