"""The decoder trained on alone: codes stay what they were to the integer, mistakes stand where they should, resumed is unbroken."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmo.codec import Codec, build_mimi, codec_config, save_codec
from mmo.world.train_codec import CodecTraining
from mmo.world.train_decoder import DecoderTraining, mistaken, train

CONFIG = codec_config(n_filters=4, dimension=32, layers=1, feedforward=64, bins=16, codebooks=8)
SETTINGS = DecoderTraining(steps=4, learning_rate=1e-2, warmup=1, batch=CodecTraining(batch_seconds=1.0))
SOUNDS = [(3000 * np.sin(np.arange(9600 + 400 * i) / (9 + i))).astype(np.int16) for i in range(48)]
SENTENCES = ["one is two"] * len(SOUNDS)


@pytest.fixture()
def codec_file(tmp_path):
    torch.manual_seed(0)
    model = build_mimi(CONFIG).train()
    model(torch.randn(4, 1, 19200))  # k-means sets the codebooks on first sight
    save_codec(model.eval(), CONFIG, tmp_path / "codec.safetensors")
    return tmp_path / "codec.safetensors"


def test_codes_stay_and_sound_changes(codec_file, tmp_path):
    wave = torch.randn(2, 1, 9600, generator=torch.Generator().manual_seed(3)) * 0.1
    before = Codec.load(codec_file)
    codes, sound = before.encode(wave), before.decode(before.encode(wave))
    save_codec(train(Codec.load(codec_file), SOUNDS, SENTENCES, SETTINGS, tmp_path).model, CONFIG, tmp_path / "after.safetensors")
    after = Codec.load(tmp_path / "after.safetensors")
    assert torch.equal(after.encode(wave), codes), "a code moved: every row of the data would have to be encoded again"
    assert (after.decode(codes) - sound).abs().max() > 1e-4, "the decoder did not learn"


def test_resumed_is_unbroken(codec_file, tmp_path):
    whole = train(Codec.load(codec_file), SOUNDS, SENTENCES, SETTINGS, tmp_path / "whole", save_every=2)
    state = torch.load(tmp_path / "whole" / "decoder.pt", weights_only=True)
    assert state["step"] == 4

    class Killed(Exception):
        pass

    class UntilThree(list):
        def __getitem__(self, place):
            calls.append(place)
            if len(calls) > 130:  # in the third batch
                raise Killed
            return super().__getitem__(place)

    calls: list[int] = []
    for sounds in (UntilThree(SOUNDS), SOUNDS):
        try:
            again = train(Codec.load(codec_file), sounds, SENTENCES, SETTINGS, tmp_path / "broken", save_every=1)
        except Killed:
            assert torch.load(tmp_path / "broken" / "decoder.pt", weights_only=True)["step"] < 4
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), f"{name} differs after a resumed training"


def test_mistakes_leave_two_codebooks_alone():
    codes = torch.randint(512, (3, 8, 20), generator=torch.Generator().manual_seed(0))
    settings = replace(SETTINGS, true_share=0.0)
    changed = torch.stack([mistaken(codes, settings, step) != codes for step in range(40)])
    assert not changed[:, :, :2].any()
    assert changed[:, :, 2].any() and changed[:, :, 7].any()
    assert torch.equal(mistaken(codes, settings, 7), mistaken(codes, settings, 7))


def test_some_batches_have_no_mistakes():
    codes = torch.randint(512, (3, 8, 20), generator=torch.Generator().manual_seed(0))
    true = sum(torch.equal(mistaken(codes, DecoderTraining(), step), codes) for step in range(300)) / 300
    assert true == pytest.approx(0.3, abs=0.08)
