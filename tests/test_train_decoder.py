"""The decoder's last sitting: no code changes, true codes stand where they are told to, and a resumed training is an unbroken one."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

from mmo.codec import Codec, build_mimi, codec_config, draw_codebooks
from mmo.profiles import tiny
from mmo.speech_encoder import SpeechEncoder
from mmo.world.train_codec import falsified
from mmo.world.train_decoder import KNOWN, Batches, DecoderTraining, FeatureLoss, GlobalVarianceLoss, Trainer, Utterance, keep_start, mean_of, one_each, read_utterances, start_of, train, write_figures

SETTINGS = DecoderTraining(steps=4, warmup=1, batch_frames=24)


@pytest.fixture(scope="module")
def encoder() -> SpeechEncoder:
    return SpeechEncoder.load(tiny().speech_encoder_dir)


@pytest.fixture()
def codec() -> Codec:
    torch.manual_seed(0)
    return Codec(draw_codebooks(build_mimi(codec_config(n_filters=4, dimension=32, layers=1, feedforward=64, bins=16, codebooks=8))))


@pytest.fixture(scope="module")
def utterances() -> list[Utterance]:
    generator, found = torch.Generator().manual_seed(0), []
    for number in range(12):
        frames = 6 + number % 4
        codes = torch.randint(16, (8, frames), generator=generator)
        found.append(Utterance("ab"[number % 2], 0.1 * torch.randn(1920 * frames, generator=generator), codes))
    return found


def test_stored_codes_stay_valid(codec, encoder, utterances) -> None:
    sound = 0.1 * torch.randn(1, 1, 1920 * 5, generator=torch.Generator().manual_seed(1))
    codes, decoded = codec.encode(sound), codec.decode(codec.encode(sound))
    trainer = Trainer(codec, encoder, utterances, SETTINGS)
    for _ in range(2):
        trainer.update()
    assert torch.equal(codec.encode(sound), codes), "the sitting changed what sounds are encoded to"
    assert not torch.allclose(codec.decode(codes), decoded), "the sitting changed nothing"


def test_falsified_codes_begin_where_they_are_told(utterances) -> None:
    codes = utterances[0].codes[None]
    others = torch.full_like(codes, 15)
    found = falsified(codes, others, 3, 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(found[:, :3], codes[:, :3]) and (found[:, 3:] == 15).all()
    assert torch.equal(falsified(codes, others, 3, 0.0, torch.Generator().manual_seed(0)), codes), "a share of none changed something"


def kind_of(codes: torch.Tensor, sound: torch.Tensor, batch: Batches) -> str:
    """Which of the four kinds a batch is of, told by its first row."""
    if codes.shape[1] < 8:
        return "fewer"
    true = next(each.codes for each in batch.utterances if torch.equal(each.sound, sound[0, 0, : len(each.sound)]))
    same = (codes[0, :, : true.shape[1]] == true).all(dim=1)
    return "true" if same.all() else "strange" if same[KNOWN] else "unknown"


def test_every_kind_of_codes_comes_in_its_share(utterances) -> None:
    batches = Batches(utterances, replace(SETTINGS, unknown=0.5, strange=0.2, fewer=0.2))
    seen = Counter(kind_of(codes, sound, batches) for codes, sound, _ in map(batches.batch, range(300)))
    for kind, share in (("unknown", 0.5), ("strange", 0.2), ("fewer", 0.2), ("true", 0.1)):
        assert abs(seen[kind] / 300 - share) < 0.1, f"{kind}: {seen[kind]} of 300 steps, wanted about {share:.0%}"


def test_codebooks_0_and_1_are_always_true(utterances) -> None:
    batches = Batches(utterances, SETTINGS)
    for step in range(60):
        codes, sound, lengths = batches.batch(step)
        for row, length in enumerate(lengths):
            own = next(each for each in utterances if len(each.sound) == length and torch.equal(each.sound, sound[row, 0, :length]))
            assert torch.equal(codes[row, :KNOWN, : length // 1920], own.codes[:KNOWN]), f"step {step}, row {row}"


def test_twice_as_many_of_a_voice_are_drawn() -> None:
    spoken = [Utterance(voice, torch.zeros(1920), torch.zeros(8, 1, dtype=torch.long)) for voice in "ab" for _ in range(60)]
    for more, wanted in (((), 1 / 2), (("b",), 2 / 3)):
        batches = Batches(spoken, replace(SETTINGS, batch_frames=6, more=more))
        drawn = Counter(each.voice for step in range(200) for each in batches.chosen(random.Random(step)))
        share = drawn["b"] / drawn.total()
        assert abs(share - wanted) < 0.05, f"more of {more or 'none'}: {share:.2f} of what is drawn is b's, wanted about {wanted:.2f}"
    with pytest.raises(ValueError, match="more of c: the utterances are spoken by a, b"):
        Batches(spoken, replace(SETTINGS, more=("c",)))


def test_features_of_one_sound_do_not_differ(encoder) -> None:
    loss, sound = FeatureLoss(encoder), 0.1 * torch.randn(2, 1, 24_000, generator=torch.Generator().manual_seed(3))
    assert float(loss(sound, sound, [24_000, 19_200])) == 0.0
    heard = (sound + 0.05 * torch.randn(sound.shape, generator=torch.Generator().manual_seed(4))).requires_grad_()
    found = loss(heard, sound, [24_000, 19_200])
    found.backward()
    assert found.item() > 0 and heard.grad[1, 0, :12_000].abs().sum() > 0, "no gradient reaches the sound"


def test_variances_mind_smoothness_and_not_order() -> None:
    loss, lengths = GlobalVarianceLoss(), [24_000, 19_200]
    generator = torch.Generator().manual_seed(5)
    loudness = nn.functional.interpolate(torch.rand(2, 1, 50, generator=generator), size=24_000)
    sound = 0.1 * loudness * torch.randn(2, 1, 24_000, generator=generator)
    sound[1, :, 19_200:] = 0
    assert float(loss(sound, sound, lengths)) == 0.0
    backwards = torch.stack([sound[0].flip(-1), torch.cat([sound[1, :, :19_200].flip(-1), sound[1, :, 19_200:]], -1)])
    smooth = nn.functional.avg_pool1d(loudness, 9601, stride=1, padding=4800) * sound / loudness.clamp(min=0.01)
    assert loss(backwards, sound, lengths) < 0.2 * loss(smooth, sound, lengths), "a sound of even loudness varies as much as one backwards"
    longer = torch.cat([sound, torch.randn(2, 1, 9600, generator=generator)], -1)
    assert torch.allclose(loss(smooth, sound, lengths), loss(torch.cat([smooth, longer[..., 24_000:]], -1), longer, lengths), atol=0.02), "padding counts"


def test_resumed_is_unbroken(codec, encoder, utterances, tmp_path) -> None:
    state = {name: value.clone() for name, value in codec.model.state_dict().items()}
    unbroken = Trainer(codec, encoder, utterances, SETTINGS)
    for _ in range(4):
        unbroken.update()
    wanted = {name: value.clone() for name, value in codec.model.state_dict().items()}
    codec.model.load_state_dict(state)
    first = Trainer(codec, encoder, utterances, SETTINGS)
    for _ in range(2):
        first.update()
    torch.save(first.state() | {"curve": []}, tmp_path / "decoder.pt")
    codec.model.load_state_dict(state)
    train(Trainer(codec, encoder, utterances, SETTINGS), tmp_path)
    for name, value in codec.model.state_dict().items():
        assert torch.equal(value, wanted[name]), name


def test_another_sitting_does_not_go_on_from_this_ones_state(codec, encoder, utterances, tmp_path) -> None:
    train(Trainer(codec, encoder, utterances, replace(SETTINGS, steps=1)), tmp_path)
    with pytest.raises(ValueError, match=r"decoder\.pt.*other settings.*delete it"):
        train(Trainer(codec, encoder, utterances, SETTINGS), tmp_path)


def test_a_sitting_goes_on_with_no_other_codec(codec, encoder, utterances, tmp_path) -> None:
    """Its saved state holds a whole model, encoder and codebooks too: a new codec would be overwritten by the old one."""
    train(Trainer(codec, encoder, utterances, SETTINGS), tmp_path)
    with pytest.raises(ValueError, match=r"decoder\.pt.*another codec.*delete it"):
        train(Trainer(codec, encoder, utterances, SETTINGS), tmp_path)  # whose decoder has changed by now


def test_the_mean_of_two_sittings_keeps_what_neither_changed(codec, encoder, utterances) -> None:
    before = {name: value.clone() for name, value in codec.model.state_dict().items()}
    states = []
    for seed in (0, 1):
        codec.model.load_state_dict(before)
        trainer = Trainer(codec, encoder, utterances, replace(SETTINGS, seed=seed))
        trainer.update()
        states.append({name: value.clone() for name, value in codec.model.state_dict().items()})
    found = mean_of(states)
    for name, value in found.items():
        if torch.equal(states[0][name], before[name]) and torch.equal(states[1][name], before[name]):
            assert torch.equal(value, before[name]), f"{name}: neither sitting changed it"
        else:
            assert torch.allclose(value, (states[0][name] + states[1][name]) / 2), name
    moved = "decoder.model.0.conv.conv.weight"
    assert not torch.equal(found[moved], states[0][moved]), f"{moved}: the mean is one of the two"


def test_what_was_done_before_is_kept(tmp_path) -> None:
    path = tmp_path / "figures" / "decoder.json"
    for number in range(3):
        write_figures({"hours": number, "curve": [number]}, path)
    wanted = {"hours": 2, "curve": [2], "before": [{"hours": 0}, {"hours": 1}]}
    assert json.loads(path.read_text()) == wanted
    write_figures({"hours": 2, "curve": [2]}, path)  # killed behind its last line, and begun once more
    assert json.loads(path.read_text()) == wanted


def test_sittings_begin_with_the_codec_that_was_there_first(tmp_path) -> None:
    """A kill between the new weights and their figures must not make the new weights the beginning."""
    file, work = tmp_path / "codec.safetensors", tmp_path / "work"
    file.write_bytes(b"first")
    file.with_suffix(".json").write_text("{}")
    work.mkdir()
    assert start_of(file, work) == file, "of a run that wrote no weights nothing stays: a newer codec is begun with"
    kept = keep_start(file, work)
    file.write_bytes(b"second")
    assert start_of(file, work) == keep_start(kept, work) == kept
    assert kept.read_bytes() == b"first" and kept.with_suffix(".json").read_text() == "{}"
    assert sorted(path.name for path in work.iterdir()) == ["start.json", "start.safetensors"]


def test_a_setting_is_every_sittings_or_has_one_for_each() -> None:
    assert one_each([5, 6], [0.5], "features") == {5: 0.5, 6: 0.5}
    assert one_each([5, 6], [0.5, 1.0], "features") == {5: 0.5, 6: 1.0}
    with pytest.raises(ValueError, match="--unknown has 2 values for 3 sittings"):
        one_each([1, 2, 3], [0.25, 0.5], "unknown")


def test_no_speech_is_named(codec, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path.name}.*no training answer is spoken there; run `mmo world build`"):
        read_utterances(tmp_path, codec)
