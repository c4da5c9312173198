"""The independent judge: pocketsphinx, which knows the tiny world's words and nothing else of it.

It was trained by other people, on other voices, long before this course, so nothing here can have learnt to please it.
It hears any sequence of the world's words as equally likely: a loop over the words, no grammar of sentences and no word
pairs.  Written as JSGF such a loop is searched state by state (a tenth of real time); as a language model in which all
words are equally likely, pocketsphinx searches the same thing in a tree that words share (many times real time).

    judge = Judge.from_file("data/tiny/words.txt")
    heard = judge.transcribe([(samples, 24000), ...])       # one string each, in order

Words that differ only in a breath ("eight is", "a", "of") are lost even on perfect speech.  So every figure of the judge
stands beside its floor: the same figure on the uncoded recordings.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

import numpy as np
import soxr

SILENT = 1e-4  # of full scale: below, there is nothing to hear
RATE = 16_000  # what pocketsphinx's acoustic model was trained on
Sound = tuple[np.ndarray, int]  # mono samples in -1..1, and their rate in Hz


class Transcriber(Protocol):
    """What every judge does: this one here, and Whisper (whisper_judge.py)."""

    def transcribe(self, sounds: Sequence[Sound], workers: int = 2, progress: Callable[[int], None] | None = None) -> list[str]:
        """What is heard in each sound, in their order; progress is called with the number of sounds heard just now."""


@dataclass(frozen=True)
class Hearing:
    """How the judge listens.  Chosen on uncoded training speech (docs/judge.md), never on a model's answers.

    Each sound is heard once for every one of `warps`, with the frequency axis stretched by that factor, and the hearing counts
    that fits best: a vocal tract is longer or shorter than that of the judge's usual speakers (vocal tract length
    normalisation, Lee & Rose 1996).
    """

    warps: tuple[float, ...] = (0.90, 1.18)
    word_penalty: float = -30.0  # natural logarithm of what each further word costs, beyond its probability
    level: float = 0.07  # root mean square that every sound is brought to; 1 is full scale
    silence: float = 0.2  # seconds put before and behind
    second_pass: bool = False  # pocketsphinx's flat search over what its tree search has left: slower, no better here


# --- What it may hear --------------------------------------------------------------------------------------------


def word_loop(words: Sequence[str]) -> str:
    """A unigram language model (ARPA format): every word, and the end, equally likely whatever went before."""
    each = -math.log10(len(words) + 1)
    lines = ["\\data\\", f"ngram 1={len(words) + 2}", "", "\\1-grams:", "-99 <s>"]
    lines += [f"{each:.6f} {word}" for word in ("</s>", *words)]
    return "\n".join([*lines, "", "\\end\\", ""])


def pronunciations(words: Sequence[str], dictionary: Path) -> str:
    """The dictionary's lines for these words, all variants ("a", "a(2)").  Raises ValueError naming words it lacks."""
    wanted, lines = set(words), []
    for line in dictionary.read_text(encoding="utf-8").splitlines():
        if line.split(maxsplit=1)[0].split("(")[0] in wanted:
            lines.append(line)
    missing = sorted(wanted - {line.split(maxsplit=1)[0].split("(")[0] for line in lines})
    if missing:
        raise ValueError(f"the judge's dictionary ({dictionary.name}) lacks {', '.join(missing)}: choose other words")
    return "\n".join([*lines, ""])


def model_folder() -> Path:
    """Where the wheel of pocketsphinx keeps its acoustic model and dictionary."""
    from pocketsphinx import get_model_path

    return Path(get_model_path()) / "en-us"


# --- Listening ---------------------------------------------------------------------------------------------------


def at_16_khz(samples: np.ndarray, rate: int) -> np.ndarray:
    """Samples (N,) at `rate` Hz -> the same at 16 kHz, float32.  Raises ValueError where they are no finite numbers in one channel."""
    samples = np.asarray(samples, dtype=np.float32)
    if samples.ndim != 1 or not np.isfinite(samples).all():
        raise ValueError(f"wanted finite samples in one channel, got shape {samples.shape}")
    return soxr.resample(samples, rate, RATE, quality="VHQ") if rate != RATE and len(samples) else samples


def is_silent(samples: np.ndarray) -> bool:
    """Whether there is nothing to hear: asked for words in digital silence, a judge finds some."""
    return not np.any(np.abs(samples) > SILENT)


def prepare(samples: np.ndarray, rate: int, hearing: Hearing) -> bytes:
    """Samples (N,) at `rate` Hz -> 16-bit PCM at 16 kHz, level set, silence on both sides.

    Raises ValueError where samples are no finite numbers in one channel.
    """
    samples = at_16_khz(samples, rate)
    level = float(np.sqrt(np.mean(samples**2))) if len(samples) else 0.0
    if level > 1e-6:
        samples = samples * (hearing.level / level)
    silence = np.zeros(round(hearing.silence * RATE), np.float32)
    samples = np.concatenate([silence, samples, silence])
    return (np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes()


class Listener:
    """One decoder a warp.  What it hears in a sound depends on nothing that it heard before."""

    def __init__(self, folder: Path, hearing: Hearing) -> None:
        from pocketsphinx import Decoder

        self.hearing = hearing
        self.decoders = [Decoder(**decoder_settings(folder, hearing, warp)) for warp in hearing.warps]
        for decoder in self.decoders:  # one that has heard nothing yet scores its first sound otherwise than all that follow
            decode(decoder, prepare(np.random.default_rng(0).normal(0, 0.1, RATE // 4), RATE, hearing))

    def hear(self, sound: Sound) -> str:
        """The words in a sound, separated by spaces; "" where there are none."""
        pcm = prepare(*sound, self.hearing)
        if is_silent(sound[0]):
            return ""
        found = [decode(decoder, pcm) for decoder in self.decoders]
        return max(found)[1]


def decode(decoder, pcm: bytes) -> tuple[float, str]:
    """How well the best words fit, and these words; a logarithm, comparable for the same sound."""
    decoder.reinit_feat()  # its front end remembers the sound before, and where little decides that was heard
    decoder.start_utt()
    decoder.process_raw(pcm, full_utt=True)  # the whole at once, so that its own mean is taken out of it
    decoder.end_utt()
    found = decoder.hyp()
    return (found.best_score, found.hypstr.strip()) if found else (-math.inf, "")


def decoder_settings(folder: Path, hearing: Hearing, warp: float) -> dict:
    """Settings of pocketsphinx.  With equally likely words, model weight and insertion penalty are one number."""
    return dict(
        lm=str(folder / "words.lm"),
        dict=str(folder / "words.dict"),
        samprate=RATE,
        lw=1.0,
        fwdflatlw=1.0,
        wip=math.exp(hearing.word_penalty),
        warp_params=str(warp),
        fwdflat=hearing.second_pass,
        bestpath=False,  # searches the lattice for better word pairs, and here are none
        loglevel="FATAL",
    )


_listener: Listener | None = None  # of a worker process


def _start_worker(folder: Path, hearing: Hearing) -> None:
    global _listener
    _listener = Listener(folder, hearing)


def _hear(sound: Sound) -> str:
    return _listener.hear(sound)


class Judge:
    """Writes down what it hears, in the given words.

    words: lower case, each in pocketsphinx's dictionary (else ValueError naming those that are not).  Files of the word
    loop live in a temporary folder as long as the judge does.
    """

    POOL_SECONDS = 60.0  # of sound; below, starting processes costs more than they save

    def __init__(self, words: Iterable[str], hearing: Hearing = Hearing()) -> None:
        self.words = sorted(set(words))
        if not self.words:
            raise ValueError("the judge needs words")
        self.hearing = hearing
        dictionary = pronunciations(self.words, model_folder() / "cmudict-en-us.dict")
        self._folder = tempfile.TemporaryDirectory(prefix="mmo-judge-")
        self.folder = Path(self._folder.name)
        (self.folder / "words.dict").write_text(dictionary, encoding="utf-8")
        (self.folder / "words.lm").write_text(word_loop(self.words), encoding="utf-8")
        self._own: Listener | None = None

    @classmethod
    def from_file(cls, path: str | Path, hearing: Hearing = Hearing()) -> Judge:
        """Words from a file, one a line.  Raises FileNotFoundError saying what to do."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: the judge's words are missing; `mmo world build` writes them")
        return cls(path.read_text(encoding="utf-8").split(), hearing)

    def processes(self, workers: int) -> ProcessPoolExecutor:
        """Processes, since pocketsphinx holds the interpreter's lock; spawned, since torch's threads do not survive a fork."""
        return ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (self.folder, self.hearing))

    @contextmanager
    def beside(self) -> Iterator[Callable[[Sound], Future[str]]]:
        """A process that hears while this one does other work: a function from a sound to what will be heard in it.

        It hears one after the other.  When the block ends, all but the one or two that it has at hand are cancelled (`Future.cancelled`).
        If it dies (out of memory, say), what it had not heard by then, and all that comes, ends in BrokenProcessPool.
        """
        pool = self.processes(1)

        def hear(sound: Sound) -> Future[str]:
            try:
                return pool.submit(_hear, sound)
            except BrokenProcessPool as error:  # the pool says so of a sound that comes too late; here every sound has its future
                lost: Future[str] = Future()
                lost.set_exception(error)
                return lost

        try:
            yield hear
        finally:
            pool.shutdown(cancel_futures=True)

    def transcribe(
        self, sounds: Sequence[Sound], workers: int = 2, progress: Callable[[int], None] | None = None
    ) -> list[str]:
        """What is heard in each of (samples (N,) in -1..1, rate in Hz), in their order.

        workers: processes, where there is enough to hear for more than one.  progress: called with 1 for each sound.
        """
        seconds = sum(len(samples) / rate for samples, rate in sounds)
        if workers > 1 and len(sounds) > 1 and seconds > self.POOL_SECONDS:
            with self.processes(workers) as pool:
                return list(counted(pool.map(_hear, sounds, chunksize=4), progress))
        self._own = self._own or Listener(self.folder, self.hearing)
        return list(counted(map(self._own.hear, sounds), progress))


def counted(found: Iterable[str], progress: Callable[[int], None] | None) -> Iterable[str]:
    """The same, telling `progress` of each."""
    for each in found:
        if progress:
            progress(1)
        yield each
