"""What mini's rows are like, and files of synthetic rows like them.

How many rows there are and how long T2A's are is known from public text; the rest is assumed, and `assumptions` says which is which.
T2A's lengths are those of the bench (`mmo.bench.rows`).  Codes, words, sounds and pictures are drawn: speed and memory do not depend
on what they say.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmo.bench.rows import SCHEMA, Lengths, synthetic_row
from mmo.config import ModelConfig
from mmo.profiles import profile

SAMPLE_RATE = 16_000
COLUMNS = pa.schema([*SCHEMA, ("question_audios", pa.list_(pa.binary())), ("image_bytes", pa.binary())])


@dataclass(frozen=True)
class Kind:
    """One file of mini.  Means are over rows; spreads are deviations of the logarithm."""

    rows: int  # of the real file
    lengths: Lengths = Lengths()
    question_seconds: float = 0.0  # of the spoken question; 0: there is none
    question_spread: float = 0.4
    picture: tuple[int, int] | None = None  # width and height in pixels
    spoken: bool = True  # whether the answer has its sound


# T2A: some 515 000 rows for 470 h, that is 41 frames a row.  A2A: some 77 000 rows for 75 h of questions.  I2T: what the manifest chooses.
MINI = {
    "t2a": Kind(515_000),
    "a2a": Kind(77_000, question_seconds=3.5),
    "i2t": Kind(64_000, lengths=Lengths(frames=94.0), picture=(640, 480), spoken=False),  # 94 frames stand for 20 words: none are kept
}


def assumptions(kinds: dict[str, Kind] = MINI) -> list[str]:
    """What is known of the rows, and what is only assumed."""
    t2a, a2a, i2t = kinds["t2a"], kinds["a2a"], kinds["i2t"]
    words = round(i2t.lengths.frames * 0.08 * i2t.lengths.words_a_second)
    return [
        f"rows: T2A {t2a.rows:,}, A2A {a2a.rows:,} (public text), I2T {i2t.rows:,} (chosen by data/manifest.toml)",
        f"T2A: {t2a.lengths.frames:g} frames an answer (470 h over the rows); shape of the distribution, words a question "
        f"({t2a.lengths.question_words:g}) and {t2a.lengths.words_a_second:g} words a second of speech are assumed",
        f"A2A: {a2a.question_seconds:g} s a question (75 h over the rows); answers as long as T2A's: assumed",
        f"I2T: one picture, {i2t.lengths.question_words:g} words asked, {words} answered, none spoken: assumed",
    ]


def make_sound(seconds: float, rng: np.random.Generator) -> bytes:
    """A FLAC file: a tone that wavers, over noise, so that nothing in it is silent."""
    import soundfile

    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    wave = 0.2 * np.sin(2 * np.pi * (rng.uniform(90, 250) * time + 2 * np.sin(3 * time))) + 0.02 * rng.standard_normal(len(time))
    out = io.BytesIO()
    soundfile.write(out, wave.astype(np.float32), SAMPLE_RATE, format="FLAC")
    return out.getvalue()


def make_picture(size: tuple[int, int], rng: np.random.Generator) -> bytes:
    """A JPEG file: a few drawn pixels, blown up."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC).save(out, "JPEG", quality=85)
    return out.getvalue()


def question_seconds(kind: Kind, rng: np.random.Generator) -> float:
    """One drawn length of a spoken question, at least half a second."""
    return max(0.5, float(rng.lognormal(np.log(kind.question_seconds) - kind.question_spread**2 / 2, kind.question_spread)))


def make_row(kind: Kind, config: ModelConfig, words: Sequence[str], rng: np.random.Generator) -> dict:
    """One row of the real schema."""
    row = synthetic_row(config, words, kind.lengths, rng) | {"question_audios": [], "image_bytes": None}
    if not kind.spoken:
        row |= {"answer_audios": [], "ref_audios": [], "spk_emb": []}
    if kind.question_seconds:
        row["question_audios"] = [make_sound(question_seconds(kind, rng), rng)]
    if kind.picture:
        row["image_bytes"] = make_picture(kind.picture, rng)
    return row


def world_words() -> list[str]:
    """Words to draw from; every tokenizer here has each of them as one token or few."""
    return (profile("tiny").data_dir / "words.txt").read_text(encoding="utf-8").split()


def write_rows(path: Path, kind: Kind, config: ModelConfig, count: int, seed: int) -> Path:
    """A parquet file of one row group, as public text describes mini's; the same seed gives the same rows."""
    rng, words = np.random.default_rng(seed), world_words()
    rows = [make_row(kind, config, words, rng) for _ in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, COLUMNS), path, row_group_size=count)
    return path


def silent(kind: Kind) -> Kind:
    """The same rows without sounds and pictures, where only lengths matter."""
    return replace(kind, question_seconds=0.0, picture=None)
