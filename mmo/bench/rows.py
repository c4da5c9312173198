"""Rows to measure with: synthetic ones as long as mini's, or those of data/tiny.

Mini's T2A file is not needed to measure speed, only its lengths are: about 41 audio frames a row and a few dozen text tokens,
so that a row padded to 512 positions is useful to about 16 %.  Synthetic rows are drawn to these means (`Lengths`), written to a
parquet file of the real schema and read back by the course's own reader, so that everything behind the file is what trains.

The shape of the distributions is an assumption: only the means are known.  Frames and question words are log-normal; the answer
has as many words as its sound takes at 2.6 words a second.  Codes and words are drawn evenly: speed does not depend on them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmo.chat import ChatTokenizer
from mmo.config import Draws, ModelConfig
from mmo.data import Batches, Corpus, DataFile, Example, Layout
from mmo.profiles import Profile, profile
from mmo.rows import open_rows

FRAME_SECONDS = 0.08
PADDED_LENGTH = 512  # positions: what the original pads every row of T2A to
SOURCES = ("synthetic", "tiny")
T2A_FILES = {"synthetic": "synthetic.parquet", "tiny": "t2a-train.parquet"}
SCHEMA = pa.schema(
    [
        ("conversations", pa.string()),
        ("answer_audios", pa.list_(pa.list_(pa.int16()))),
        ("ref_audios", pa.list_(pa.int16())),
        ("spk_emb", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True)
class Lengths:
    """What synthetic rows are like.  Means are over rows; a spread is the standard deviation of the logarithm."""

    frames: float = 41.0  # codec frames of the answer: 3.3 s
    frames_spread: float = 0.5
    question_words: float = 14.0
    question_spread: float = 0.5
    words_a_second: float = 2.6
    reference_frames: int = 25  # they stand over the prompt and take no positions of their own

    def draw(self, mean: float, spread: float, rng: np.random.Generator) -> int:
        """One log-normal length, at least 1, with that mean."""
        return max(1, round(float(rng.lognormal(np.log(mean) - spread**2 / 2, spread))))


def synthetic_row(config: ModelConfig, words: Sequence[str], lengths: Lengths, rng: np.random.Generator) -> dict:
    """One row of the real schema."""
    frames = lengths.draw(lengths.frames, lengths.frames_spread, rng)
    answer = max(1, round(frames * FRAME_SECONDS * lengths.words_a_second))
    question = lengths.draw(lengths.question_words, lengths.question_spread, rng)
    turns = [
        {"role": role, "content": " ".join(rng.choice(words, count)).capitalize() + end}
        for role, count, end in (("user", question, "?"), ("assistant", answer, "."))
    ]
    codes = rng.integers(config.num_codes, size=(2, max(frames, lengths.reference_frames) * config.num_codebooks))
    return {
        "conversations": json.dumps(turns),
        "answer_audios": [codes[0, : frames * config.num_codebooks].tolist()],
        "ref_audios": codes[1, : lengths.reference_frames * config.num_codebooks].tolist(),
        "spk_emb": rng.standard_normal(config.spk_emb_size).tolist(),
    }


def write_synthetic(path: Path, config: ModelConfig, words: Sequence[str], count: int, seed: int, lengths: Lengths = Lengths()) -> Path:
    """A file of `count` synthetic rows; the same seed gives the same file."""
    rng = np.random.default_rng(seed)
    rows = [synthetic_row(config, words, lengths, rng) for _ in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)
    return path


@dataclass(frozen=True)
class BenchRows:
    """One file of rows, open, and how it becomes batches."""

    source: str  # one of SOURCES
    path: Path
    corpus: Corpus
    layout: Layout
    seed: int

    def batches(self, token_budget: int, chunk_rows: int) -> Batches:
        """The course's own batches of these rows: chunks of so many rows, batches of at most so many positions."""
        return Batches([self.corpus], [1.0], self.layout, token_budget, self.seed, chunk_rows)

    def examples(self, count: int) -> list[Example]:
        """The first `count` rows of an epoch, realised, shortest first."""
        return self.batches(self.layout.max_length, count).chunk(0)


def open_bench_rows(
    chosen: Profile, source: str, folder: Path, count: int, seed: int = 0, max_length: int = PADDED_LENGTH, draws: Draws | None = None
) -> BenchRows:
    """Rows for the profile's model.  draws: default those of the profile's T2A stage.

    `folder` takes the synthetic file and packed rows.  Synthetic rows are written with the tiny world's tokenizer, whose ids every
    model here has.  Raises ValueError for an unknown source, or where data/tiny does not fit the profile's model.
    """
    tiny = profile("tiny")
    if source not in SOURCES:
        raise ValueError(f"no rows {source!r}; there are {', '.join(SOURCES)}")
    if source == "tiny" and chosen.model.spk_emb_size != tiny.model.spk_emb_size:
        raise ValueError(f"rows of data/tiny do not fit the model of profile {chosen.name}; take --rows synthetic")
    if source == "synthetic":
        words = (tiny.data_dir / "words.txt").read_text(encoding="utf-8").split()
        path = write_synthetic(folder / T2A_FILES[source], chosen.model, words, count, seed)
    else:
        path = tiny.data_dir / T2A_FILES[source]
    file = DataFile(open_rows(path, chosen.model, folder, ("answer_audios",)))
    corpus = Corpus([file], draws or chosen.stages["t2a"][0].draws, chosen.system_prompts)
    layout = Layout(chosen.model, ChatTokenizer.load(tiny.tokenizer_dir), max_length)
    return BenchRows(source, path, corpus, layout, seed)


def length_figures(examples: Sequence[Example], padded_length: int = PADDED_LENGTH) -> dict[str, float]:
    """What the rows are like: mean positions and frames a row, and the share of a padded row that is useful."""
    positions = np.mean([each.length for each in examples])
    frames = np.mean([max(0, int((each.row.audio_labels[0] >= 0).sum()) - 1) for each in examples])  # the stop is labelled, too
    return {"positions a row": float(positions), "frames a row": float(frames), "useful, padded": float(positions) / padded_length}
