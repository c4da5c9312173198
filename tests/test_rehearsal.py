"""The dress rehearsal, at toy sizes: the same commands, the same layouts, small weights."""

import json
import os
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mmo.profiles import STAND_INS, profile
from mmo.rehearsal import plan as planning
from mmo.rehearsal import report
from mmo.rehearsal.rows import MINI
from mmo.rehearsal.stages import Runner, RehearsalFailed, rehearse_stage
from mmo.rehearsal.stand_ins import Sizes, downloads_at, write_stand_ins

TOY = Sizes(
    model=dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=1100, talker_hidden_size=32,
        num_talker_hidden_layers=1, adapter_rank=8, audio_vocab_size=96, audio_pad_token=33, audio_stop_token=34, audio_spk_token=35,
        audio_hidden_size=24, image_hidden_size=16, image_token_len=4, max_position_embeddings=2048,
    ),
    stages=dict(chunk_rows=64),
    codec=dict(n_filters=4, dimension=32, layers=1, feedforward=64, bins=32, codebooks=8),
    speech=dict(output_size=24, attention_heads=2, linear_units=32, num_blocks=2, tp_blocks=1),
    speech_tokens=40,
    vision=dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8),
    rows=48,
    decoding=dict(max_text=4, max_frames=3),
)  # fmt: skip


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    return write_stand_ins("mini", tmp_path_factory.mktemp("downloads"), TOY, say=lambda words: None)


@pytest.fixture
def chosen(stand_ins, tmp_path, monkeypatch):
    monkeypatch.setenv("MMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MMO_DOWNLOADS", str(stand_ins))
    return profile("mini")


# --- Stand-ins -------------------------------------------------------------------------------------------------------


def test_every_loader_reads_its_stand_in(chosen):
    """The course's own loaders, not the code that wrote them."""
    from mmo.chat import ChatTokenizer
    from mmo.codec import Codec
    from mmo.doctor import missing_files
    from mmo.omni import OmniModel
    from mmo.speech_encoder import SpeechEncoder
    from mmo.thinker import load_thinker
    from mmo.vision_encoder import VisionEncoder, open_picture

    assert chosen.stand_ins and missing_files(chosen) == []
    assert len(ChatTokenizer.load(chosen.tokenizer_dir)) == 1100
    codec = Codec.load(chosen.codec_file)
    codes = torch.arange(24).view(1, 8, 3)
    assert codec.decode(codes).std() > 0, "a codec of empty codebooks says nothing"
    load_thinker(OmniModel(chosen.model).model, chosen.thinker_file)
    ear = SpeechEncoder.load(chosen.speech_encoder_dir)
    features, lengths = ear.encode([np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.1])
    assert features.shape[2] == 24 and features.std() > 0 and isinstance(ear.spell(features, lengths)[0], str)
    eye = VisionEncoder.load(chosen.vision_encoder_dir)
    row = pq.read_table(chosen.data_dir / "sft_i2t_mini.parquet").slice(0, 1).to_pylist()[0]
    assert eye.encode([open_picture(row["image_bytes"])]).shape == (1, 4, 16)


def test_the_real_thing_is_never_touched(stand_ins, tmp_path):
    (tmp_path / "mine.bin").write_bytes(b"1")
    with pytest.raises(ValueError, match="no stand-ins"):
        write_stand_ins("mini", tmp_path, TOY)
    with pytest.raises(ValueError, match="other sizes"):
        write_stand_ins("mini", stand_ins, Sizes())
    with pytest.raises(ValueError, match="downloads nothing"):
        write_stand_ins("tiny", tmp_path / "new", TOY)
    assert "MMO_DOWNLOADS" not in os.environ or os.environ["MMO_DOWNLOADS"] != str(tmp_path)


def test_stand_ins_are_made_once(stand_ins):
    before = {path: path.stat().st_mtime_ns for path in stand_ins.rglob("*") if path.is_file() and path.name != STAND_INS}
    said = []
    write_stand_ins("mini-moe", stand_ins, TOY, say=said.append)
    assert not said and before == {path: path.stat().st_mtime_ns for path in before}
    assert len([path for path in before if path.suffix == ".parquet" and "sft_" in path.name]) == 3


def test_without_stand_ins_the_profile_is_the_real_one(tmp_path):
    with downloads_at(tmp_path):
        real = profile("mini")
    assert not real.stand_ins and real.model.hidden_size == 768 and real.codec_file.is_relative_to(tmp_path)
    assert real.decoding.max_frames == 375 and real.stages["t2a"][0].chunk_rows == 4096


# --- Running ---------------------------------------------------------------------------------------------------------


def test_a_stage_is_killed_and_goes_on(stand_ins, tmp_path):
    """A real child process, a real SIGKILL; the log has every step once."""
    runner = Runner("mini", stand_ins, tmp_path, positions=768)
    found = rehearse_stage(runner, "t2a", steps=40)
    assert found.steps == 40 and 1 <= found.killed_at < 40 and found.memory > 100e6
    assert found.passes["t2a"]["rows"] > 0 and found.passes["t2a"]["seconds"] > 0
    assert (runner.run_dir / "t2a.safetensors").is_file()


def test_a_stage_that_fails_is_told_with_its_last_words(stand_ins, tmp_path):
    runner = Runner("mini", stand_ins, tmp_path)
    with pytest.raises(RehearsalFailed, match="(?s)before it saved a state.*no weights"):
        rehearse_stage(runner, "a2a")
    with pytest.raises(RehearsalFailed, match="status 2"):
        runner.expect("train", "--stage", "nothing")


def test_a_stage_that_ends_too_soon_is_told(stand_ins, tmp_path, monkeypatch):
    monkeypatch.setattr(Runner, "run", lambda self, *arguments, kill_when=None: __import__("mmo.rehearsal.stages", fromlist=["Ran"]).Ran(0, 1.0, 1, ""))
    with pytest.raises(RehearsalFailed, match="before it could be killed"):
        rehearse_stage(Runner("mini", stand_ins, tmp_path), "t2a")
