"""A made-up world for tests: small data files in the real schema, a toy model, toy encoders, a profile of them all.

    profile = toy_profile(tmp_path)          # writes t2a-, a2a- and i2t-{train,validation}.parquet
    train(profile, "t2a", encoders=toy_encoders(), …)

Rows are seeded; sounds are short tones, pictures are plain colours, codes are drawn.
"""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import torch
from PIL import Image

from mmo.chat import ChatTokenizer
from mmo.config import Draws, ModelConfig, Rehearsal, StageConfig
from mmo.features import frozen_speech, frozen_vision
from mmo.omni import OmniModel
from mmo.profiles import REPOSITORY, Profile
from mmo.thinker import save_thinker
from mmo.training import Encoders, read_picture

TOKENIZER = REPOSITORY / "data" / "tiny" / "tokenizer"
WORDS = "one two three four five six seven eight nine ten red blue green circle square star".split()
SOUND_DIM, PICTURE_DIM, PATCHES, SPEAKER = 24, 12, 4, 6

MODEL = ModelConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=1024,
    talker_hidden_size=32,
    num_talker_hidden_layers=1,
    adapter_rank=8,
    spk_emb_size=SPEAKER,
    audio_vocab_size=96,  # codes 0 .. 31
    audio_pad_token=33,
    audio_stop_token=34,
    audio_spk_token=35,
    audio_hidden_size=SOUND_DIM,
    image_hidden_size=PICTURE_DIM,
    image_token_len=PATCHES,
    max_position_embeddings=512,
)
SCHEMA = pa.schema(
    [
        ("conversations", pa.string()),
        ("question_audios", pa.list_(pa.binary())),
        ("answer_audios", pa.list_(pa.list_(pa.int64()))),
        ("image_bytes", pa.binary()),
        ("ref_audios", pa.list_(pa.int64())),
        ("spk_emb", pa.list_(pa.float64())),
        ("tier", pa.string()),
    ]
)


def conversation(*contents: str) -> str:
    """Turns of user and assistant by turns, as JSON."""
    roles = ("user", "assistant")
    return json.dumps([{"role": roles[place % 2], "content": content} for place, content in enumerate(contents)])


def tone(seconds: float = 0.4, hertz: float = 220.0, rate: int = 16_000) -> bytes:
    """A WAV file."""
    samples = 0.1 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)
    out = io.BytesIO()
    soundfile.write(out, samples.astype(np.float32), rate, format="WAV")
    return out.getvalue()


def picture(colour: str = "red", side: int = 16) -> bytes:
    """A PNG file."""
    out = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(out, "PNG")
    return out.getvalue()


def codes(rng: np.random.Generator, frames: int) -> list[int]:
    """Flat, frame-major, eight a frame."""
    return rng.integers(0, MODEL.num_codes, frames * MODEL.num_codebooks).tolist()


def make_row(kind: str, rng: np.random.Generator) -> dict:
    """One good row of "t2a", "a2a" or "i2t"."""
    words = rng.choice(WORDS, rng.integers(2, 6)).tolist()
    answer = " ".join(words).capitalize() + "."
    row = {
        "conversations": conversation(f"Say: {' '.join(words)}.", answer),
        "question_audios": [],
        "answer_audios": [codes(rng, 3 * len(words))],
        "image_bytes": None,
        "ref_audios": codes(rng, 5),
        "spk_emb": rng.standard_normal(SPEAKER).tolist(),
        "tier": "train",
    }
    if kind == "a2a":
        row["question_audios"] = [tone(0.2 * len(words), float(rng.uniform(100, 400)))]
    if kind == "i2t":
        row |= {"image_bytes": picture(str(rng.choice(["red", "blue", "green"]))), "answer_audios": [], "ref_audios": [], "spk_emb": []}
    return row


def make_rows(kind: str, count: int, seed: int = 0) -> list[dict]:
    """Good rows."""
    rng = np.random.default_rng((seed, len(kind), ord(kind[0])))
    return [make_row(kind, rng) for _ in range(count)]


def write_rows(path: Path, rows: list[dict], columns: list[str] | None = None, group: int = 16) -> Path:
    """Write a parquet file; `columns` leaves the others out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, SCHEMA)
    pq.write_table(table.select(columns) if columns else table, path, row_group_size=group)
    return path


class ToySpeech:
    """Speech encoder of the interface: features are means over 60 ms, spread over the width."""

    dim = SOUND_DIM
    calls = 0

    def encode(self, waves):
        self.calls += 1
        lengths = torch.tensor([max(1, len(wave) // 960) for wave in waves])
        features = torch.zeros(len(waves), int(lengths.max()), self.dim)
        for b, (wave, length) in enumerate(zip(waves, lengths.tolist())):
            loud = torch.as_tensor(wave[: length * 960]).view(length, -1).abs().mean(dim=1)
            features[b, :length] = loud[:, None] * torch.arange(1, self.dim + 1)
        return features, lengths


class ToyVision:
    """Vision encoder of the interface: the mean colour, in every patch."""

    dim = PICTURE_DIM
    calls = 0

    def encode(self, pictures):
        self.calls += 1
        colours = torch.tensor(np.stack([np.asarray(each, np.float32).mean(axis=(0, 1)) for each in pictures])) / 255
        return colours.repeat(1, self.dim // 3)[:, None].expand(-1, PATCHES, -1)


def louder(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An augmentation."""
    return (wave * rng.uniform(0.5, 2.0)).astype(np.float32)


def toy_encoders() -> Encoders:
    """Both toy encoders, as the feature cache takes them."""
    return Encoders(
        frozen_speech(ToySpeech, SOUND_DIM, "toy-speech", louder),
        frozen_vision(ToyVision, PICTURE_DIM, "toy-vision", read_picture),
    )


def toy_stages(steps: int = 6) -> dict[str, tuple[StageConfig, ...]]:
    """All stages in a few steps."""
    draws = Draws(system_prompt=0.1, hidden_history=0.1)
    common = dict(draws=draws, max_length=160, token_budget=480, chunk_rows=32, warmup_steps=2, ema_decay=0.9, smoke_steps=2)
    t2a, a2a, i2t = ("t2a-train.parquet",), ("a2a-train.parquet",), ("i2t-train.parquet",)
    heard, seen = ("question_audios",), ("image_bytes",)
    return {
        "t2a": (StageConfig("t2a", t2a, 3e-3, steps=steps, needs=("answer_audios",), code_dropout=0.2, **common),),
        "a2a": (
            StageConfig("a2a-projector", a2a, 3e-3, trainable="audio_proj", steps=steps, needs=heard, sound_copies=2, **common),
            StageConfig("a2a", a2a, 1e-3, steps=steps, needs=heard, sound_copies=2, rehearsal=(Rehearsal(t2a, 0.25, draws),), **common),
        ),
        "i2t": (
            StageConfig("i2t-projector", i2t, 3e-3, trainable="vision_proj", steps=steps, needs=seen, **common),
            StageConfig(
                "i2t", i2t, 1e-3, steps=steps, needs=seen, sound_copies=2, rehearsal=(Rehearsal(t2a, 0.25, draws), Rehearsal(a2a, 0.25, draws)), **common
            ),
        ),
    }


def toy_profile(folder: Path, rows: int = 40, model: ModelConfig = MODEL, steps: int = 6, write: bool = True) -> Profile:
    """A profile whose data, Thinker and caches lie in `folder`.  Set MMO_CACHE to keep the cache there, too.  write: False where they do already."""
    data = folder / "data"
    thinker = data / "thinker.safetensors"
    if write:
        for kind in ("t2a", "a2a", "i2t"):
            write_rows(data / f"{kind}-train.parquet", make_rows(kind, rows))
            write_rows(data / f"{kind}-validation.parquet", make_rows(kind, 6, seed=1))
        torch.manual_seed(0)
        dense = model.replace(use_moe=False)
        save_thinker(OmniModel(dense).model, dense, thinker, torch.float32)
    return Profile(
        name="toy",
        model=model,
        data_dir=data,
        tokenizer_dir=TOKENIZER,
        codec_file=data / "codec.safetensors",
        speech_encoder_dir=data / "speech_encoder",
        vision_encoder_dir=data / "vision_encoder",
        thinker_file=thinker,
        checkpoint_file=data / "omni.safetensors",
        stages=toy_stages(steps),
        system_prompts=("You are Mini.",),
    )


def with_recipe(profile: Profile, **changes) -> Profile:
    """The profile with these settings in every pass."""
    return replace(profile, stages={name: tuple(each.replace(**changes) for each in passes) for name, passes in profile.stages.items()})


def tokenizer() -> ChatTokenizer:
    return ChatTokenizer.load(TOKENIZER)
