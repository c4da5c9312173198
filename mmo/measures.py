"""Figures of an evaluation, as pure functions: word errors, character errors, hits, and how far to trust them.

    figure = word_errors(["one plus one is two"], ["one plus is too"])
    figure.wer, figure.insertions, figure.deletions, figure.substitutions        # 0.4, 0.0, 0.2, 0.2

What counts as a word is the judge's business: `split`, here `words`, elsewhere `WhisperJudge.split`.

Intervals are bootstrap intervals by utterance (Bisani & Ney 2004): utterances, not words, are drawn anew, because the
words of one utterance go wrong together.  Where a sentence is asked several times (in two voices, say), `groups` names it: then
sentences are drawn, for what makes one of its answers wrong makes the other wrong, too.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jiwer
import numpy as np

# Words that the judge loses even in perfect speech.
FUNCTION_WORDS = frozenset({"a", "an", "the", "is", "of"})
RESAMPLES = 1000

Split = Callable[[str], list[str]]  # text -> its words, normalised


def words(text: str) -> list[str]:
    """The words of a text as the judge would write them: lower case, no punctuation."""
    return re.findall(r"[a-z]+", text.lower())


def content_words(text: str) -> list[str]:
    """The words without FUNCTION_WORDS."""
    return [word for word in words(text) if word not in FUNCTION_WORDS]


def same_words(one: str, other: str, split: Split = words) -> bool:
    """Whether two texts have the same words in the same order."""
    return split(one) == split(other)


def same_content(one: str, other: str) -> bool:
    """Whether two texts have the same words in the same order, FUNCTION_WORDS left out."""
    return content_words(one) == content_words(other)


def interval(errors: np.ndarray, sizes: np.ndarray, seed: int = 0, resamples: int = RESAMPLES, groups: Sequence | None = None) -> list[float] | None:
    """95 % bootstrap interval of sum(errors) / sum(sizes), utterances (N,) drawn with replacement; None where N is 0.

    groups: one label an utterance; what has the same is drawn together.
    """
    if not len(errors):
        return None
    if groups is not None:
        places: dict = {}
        index = [places.setdefault(label, len(places)) for label in groups]
        errors, sizes = np.bincount(index, errors), np.bincount(index, sizes)
    drawn = np.random.default_rng(seed).integers(len(errors), size=(resamples, len(errors)))
    rates = errors[drawn].sum(axis=1) / np.maximum(sizes[drawn].sum(axis=1), 1)
    return [round(float(edge), 4) for edge in np.percentile(rates, [2.5, 97.5])]


@dataclass(frozen=True)
class Errors:
    """Errors of some utterances, in words or characters: one entry each, (N,) integers."""

    sizes: np.ndarray  # words or characters that should be heard
    inserted: np.ndarray
    deleted: np.ndarray
    substituted: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        return self.inserted + self.deleted + self.substituted

    def rate(self, counts: np.ndarray) -> float | None:
        """counts per word; None where there are no words."""
        total = int(self.sizes.sum())
        return round(float(counts.sum()) / total, 4) if total else None

    @property
    def error_rate(self) -> float | None:
        return self.rate(self.errors)

    @property
    def insertions(self) -> float | None:
        return self.rate(self.inserted)

    @property
    def deletions(self) -> float | None:
        return self.rate(self.deleted)

    @property
    def substitutions(self) -> float | None:
        return self.rate(self.substituted)

    def interval(self, seed: int = 0, groups: Sequence | None = None) -> list[float] | None:
        """95 % interval of the error rate; groups as in `interval`."""
        return interval(self.errors, self.sizes, seed, groups=groups) if self.sizes.sum() else None


class WordErrors(Errors):
    @property
    def wer(self) -> float | None:
        return self.error_rate


class CharacterErrors(Errors):
    """A single space between two words is a character, too."""

    @property
    def cer(self) -> float | None:
        return self.error_rate


def word_errors(references: Sequence[str], heard: Sequence[str], split: Split = words) -> WordErrors:
    """Compare what was heard with what was said, utterance by utterance.  Raises ValueError where counts differ."""
    return WordErrors(*error_counts(references, heard, split, jiwer.process_words))


def character_errors(references: Sequence[str], heard: Sequence[str], split: Split = words) -> CharacterErrors:
    """The same by characters of the normalised words."""
    return CharacterErrors(*error_counts(references, heard, split, jiwer.process_characters))


def error_counts(references: Sequence[str], heard: Sequence[str], split: Split, align: Callable) -> np.ndarray:
    """(4, N): sizes, insertions, deletions, substitutions of each utterance.  align: one of jiwer's two."""
    if len(references) != len(heard):
        raise ValueError(f"{len(references)} references for {len(heard)} transcripts")
    counts = np.zeros((4, len(references)), dtype=int)
    for place, (reference, found) in enumerate(zip(references, heard)):
        aligned = align(" ".join(split(reference)), " ".join(split(found)))
        size = aligned.hits + aligned.substitutions + aligned.deletions
        counts[:, place] = size, aligned.insertions, aligned.deletions, aligned.substitutions
    return counts


def overlap(one: str, other: str, split: Split = words) -> float:
    """How many words two texts share, whatever their order: F1 of the two bags of words, 0 .. 1 (Rajpurkar and others 2016)."""
    ours, theirs = Counter(split(one)), Counter(split(other))
    shared = (ours & theirs).total()
    return 2 * shared / (ours.total() + theirs.total()) if shared else 0.0


def mean(values: Sequence[float]) -> float | None:
    """None where there are none."""
    return round(float(np.mean(values)), 4) if len(values) else None


def share(hits: Sequence[bool]) -> float | None:
    """Share of hits; None where nothing was tried."""
    return round(float(np.mean(hits)), 4) if len(hits) else None


def share_interval(hits: Sequence[bool], seed: int = 0, groups: Sequence | None = None) -> list[float] | None:
    """95 % interval of `share`; groups as in `interval`."""
    return interval(np.asarray(hits, dtype=float), np.ones(len(hits)), seed, groups=groups)


def spread(items: Sequence, count: int) -> list:
    """`count` of the items (or all, if there are fewer), evenly spread and in order: always the same ones."""
    if count >= len(items):
        return list(items)
    return [items[place * len(items) // count] for place in range(count)]


def swap(truths: Sequence[str], groups: Sequence | None = None, seed: int = 0, split: Split = words) -> list[int | None]:
    """For each item another one of its group whose truth has other words; None where its group has none.

    What swapped questions, swapped pictures and wrong sentences are drawn with.  groups: one label an item (default: all one group).
    """
    groups = [0] * len(truths) if groups is None else groups
    rng = random.Random(seed)
    said = [split(truth) for truth in truths]
    partners: list[int | None] = []
    for own, group in zip(said, groups, strict=True):
        others = [place for place, label in enumerate(groups) if label == group and said[place] != own]
        partners.append(rng.choice(others) if others else None)
    return partners


def frames_per_letter(texts: Sequence[str], frames: Sequence[int]) -> float:
    """How many codec frames speech takes for a letter, by the median utterance.  Raises ValueError without any letters."""
    rates = [count / len("".join(words(text))) for text, count in zip(texts, frames, strict=True) if words(text)]
    if not rates:
        raise ValueError("no spoken text to measure the pace of speech from")
    return float(np.median(rates))


def stopped_early(text: str, frames: int, pace: float, least: float = 0.6) -> bool:
    """Whether speech has less than `least` of the frames that its text takes at `pace` frames a letter."""
    return frames < least * pace * len("".join(words(text)))
