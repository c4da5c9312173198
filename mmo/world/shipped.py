"""The sound that comes with the repository: enough to train a small codec or a small ear without any synthesiser.

    for each in answers(settings.data_dir):                 # 24 kHz, two voices, the judge's floor is measured on them
    for each in questions(settings.data_dir, "train"):      # 16 kHz, Ogg Opus, many voices; "test": two voices never heard

The shipped parts themselves were trained on the whole of `build/world/speech` (ten hours and more of answers), which is not shipped.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import soundfile


@dataclass(frozen=True)
class Spoken:
    """One sentence as sound: int16 `samples` (N,) at `rate` Hz, who says it, what is said, and the row's tier."""

    samples: np.ndarray
    rate: int
    voice: str
    text: str
    tier: str

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


def opened(sound: bytes) -> tuple[np.ndarray, int]:
    """An encoded sound as int16 samples and their rate."""
    return soundfile.read(io.BytesIO(sound), dtype="int16")


def answers(data_dir: Path) -> list[Spoken]:
    """The uncoded spoken answers of `t2a-test.parquet`, 24 kHz: 440 in all, each sentence in both answer voices."""
    columns = ["conversations", "answer_sound", "voice", "tier"]
    rows = pq.read_table(data_dir / "t2a-test.parquet", columns=columns).to_pylist()
    return [Spoken(*opened(row["answer_sound"]), row["voice"], said(row["conversations"], "assistant"), row["tier"]) for row in rows if row["answer_sound"]]


def questions(data_dir: Path, split: str) -> Iterator[Spoken]:
    """The spoken questions of `a2a-{split}.parquet`, 16 kHz, in the file's order."""
    file = pq.ParquetFile(data_dir / f"a2a-{split}.parquet")
    for batch in file.iter_batches(200, columns=["conversations", "question_audios", "voice", "tier"]):
        for row in batch.to_pylist():
            yield Spoken(*opened(row["question_audios"][-1]), row["voice"], said(row["conversations"], "user"), row["tier"])


def said(conversation: str, role: str) -> str:
    """The last turn of that role."""
    return next(turn["content"] for turn in reversed(json.loads(conversation)) if turn["role"] == role)
