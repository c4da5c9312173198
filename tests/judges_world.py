"""A toy world of open questions: toy rows without tiers, a codec that can be heard, toy judges that were taught nothing."""

from dataclasses import replace
from pathlib import Path

import judges
import numpy as np
import torch
import worlds
from safetensors.torch import save_file
from speakers import random_mimi

from mmo.codec import codec_config, save_codec
from mmo.config import Decoding
from mmo.profiles import Profile

CODEC = codec_config(n_filters=2, dimension=16, layers=1, feedforward=16, bins=worlds.MODEL.num_codes, codebooks=8, heads=2)
COLUMNS = [name for name in worlds.SCHEMA.names if name != "tier"]  # the real files have no tiers
VOICES = {"voice-1": [1.0, 0.0] * 3, "voice-2": [0.0, 1.0] * 3}  # at right angles


def make_test_rows(kind: str, count: int = 8) -> list[dict]:
    """Rows of both voices by turns, their answers long enough to tell a voice by."""
    rows = worlds.make_rows(kind, count, seed=5)
    for number, row in enumerate(rows):
        if kind != "i2t":
            row["spk_emb"] = list(VOICES.values())[number % 2]
            row["answer_audios"] = [worlds.codes(np.random.default_rng(number), 10)]  # 0.8 s
            row["ref_audios"] = worlds.codes(np.random.default_rng(100 + number), 12)
    return rows


def open_profile(folder: Path) -> Profile:
    """Everything but the judges is there; `add_judges` brings these."""
    toy = worlds.toy_profile(folder, rows=2)
    for kind in ("t2a", "a2a", "i2t"):
        worlds.write_rows(toy.data_dir / f"{kind}-test.parquet", make_test_rows(kind), COLUMNS)
    save_file({name: torch.tensor(vector) for name, vector in VOICES.items()}, toy.data_dir / "voices.safetensors")
    save_codec(random_mimi(CODEC), CODEC, toy.codec_file, torch.float32)
    return replace(
        toy,
        judge_dir=folder / "whisper-toy",
        judge_language="en",
        speaker_encoder_file=folder / "campplus" / "campplus_cn_common.bin",
        decoding=Decoding(max_text=4, max_frames=8),
    )


def add_judges(profile: Profile) -> None:
    judges.write_whisper(profile.judge_dir)
    judges.write_speaker_encoder(profile.speaker_encoder_file, worlds.SPEAKER)
