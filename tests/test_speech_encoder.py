"""The frozen ear, on a folder with random weights that goes through `funasr.AutoModel` like the real one.

Invariants: what a sound gives does not depend on its neighbours; loading and encoding leave the world as it was.
"""

import json
import logging
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmo.profiles import profile
from mmo.speech_encoder import SpeechEncoder, feature_count
from mmo.world import train_speech_encoder as training

RECIPE = training.Recipe(width=32, heads=2, feed_forward=48, blocks=2, text_blocks=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, the model it was written from)."""
    torch.manual_seed(1)
    model = training.build_model(RECIPE, len(training.token_list())).eval()
    mean, deviation = np.linspace(5, 12, 560), np.linspace(1, 3, 560)
    return training.write_folder(tmp_path_factory.mktemp("ear") / "folder", RECIPE, model, training.token_list(), mean, deviation), model


@pytest.fixture(scope="module")
def encoder(made):
    return SpeechEncoder.load(made[0])


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def test_the_folder_comes_back_as_it_was_written(made, encoder):
    folder, model = made
    assert encoder.dim == 32 and not encoder.model.training
    for name, value in model.state_dict().items():
        got = encoder.model.state_dict()[name]
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, value.half().float(), msg=name)
    assert all(value.dtype == torch.float16 for value in torch.load(folder / "model.pt", weights_only=True).values())
    assert encoder.frontend.dither == 0.0
    torch.testing.assert_close(encoder.frontend.cmvn[0], -torch.linspace(5, 12, 560), atol=1e-4, rtol=0)


def test_one_by_one_equals_padded_batch(encoder):
    waves = [noise(n, n) for n in (48_000, 400, 16_123, 31_999)]
    features, lengths = encoder.encode(waves)
    assert features.shape == (4, max(lengths), 32) and features.dtype == torch.float32
    for wave, feature, length in zip(waves, features, lengths.tolist()):
        alone, count = encoder.encode([wave])
        assert count.tolist() == [length]
        torch.testing.assert_close(feature[:length], alone[0], atol=1e-4, rtol=0)
        assert not feature[length:].any()


@pytest.mark.parametrize("samples", [400, 559, 560, 1_360, 1_519, 16_000, 47_999, *range(2_000, 4_000, 137)])
def test_lengths_are_sixteen_and_two_thirds_a_second(encoder, samples):
    _, lengths = encoder.encode([noise(samples)])
    assert lengths.item() == feature_count(samples)
    assert abs(feature_count(samples) - samples / 16_000 * 100 / 6) < 1.5


def test_a_sound_at_several_speeds(encoder):
    """At speed 1 what `encode` gives; faster is shorter; a sound that cannot be used is named as ever."""
    wave = torch.sin(2 * torch.pi * 300 * torch.arange(16_000) / 16_000)
    same, slow, fast = encoder.encode_at(wave, (1.0, 0.8, 1.25))
    assert torch.allclose(same, encoder.encode([wave])[0][0], atol=1e-5)
    assert len(slow) == feature_count(20_000) and len(fast) == feature_count(12_800)
    with pytest.raises(ValueError, match="sound 0"):
        encoder.encode_at(np.zeros(0, np.float32), (1.0, 1.1))


def test_encoding_is_repeatable_and_leaves_its_input(encoder):
    wave = noise(20_000)
    before = wave.copy()
    frames, lengths = encoder.frames([wave])
    kept = frames.clone()
    first, _ = encoder.encode_frames(frames, lengths)
    second, _ = encoder.encode([torch.from_numpy(wave)])
    torch.testing.assert_close(first, second, atol=0, rtol=0)
    np.testing.assert_array_equal(wave, before)
    torch.testing.assert_close(frames, kept, atol=0, rtol=0)
    assert not first.requires_grad and not first.is_inference()


def test_autocast_does_not_reach_the_encoder(encoder):
    wave = noise(20_000)
    plain, _ = encoder.encode([wave])
    with torch.autocast("cpu", torch.bfloat16):
        inside, _ = encoder.encode([wave])
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, plain, atol=0, rtol=0)


def test_loading_leaves_the_world_as_it_was(made, capfd):
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    wanted = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    root = logging.getLogger()
    handlers, level, threads = root.handlers[:], root.level, torch.get_num_threads()
    SpeechEncoder.load(made[0])
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == wanted
    assert (root.handlers, root.level, torch.get_num_threads()) == (handlers, level, threads)
    assert root.manager.disable == logging.NOTSET
    assert capfd.readouterr() == ("", "")


def test_transcribing_merges_repeats_and_drops_blanks(encoder):
    tokens = training.token_list()
    path = [tokens.index(word) if word else 0 for word in ("what", "what", "", "is", "", "two", "", "two", "two")]
    head = encoder.model.ctc.argmax
    encoder.model.ctc.argmax = lambda features: torch.tensor([path, path])
    try:
        assert encoder.spell(torch.zeros(2, 9, 32), torch.tensor([9, 4])) == ["what is two two", "what is"]
    finally:
        encoder.model.ctc.argmax = head
    assert isinstance(encoder.transcribe([noise(9_000)])[0], str)


@pytest.mark.parametrize("missing", ["model.pt", "config.yaml", "am.mvn", "tokens.json"])
def test_a_missing_file_is_named(made, tmp_path, missing):
    folder = shutil.copytree(made[0], tmp_path / "copy")
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        SpeechEncoder.load(folder)


def test_no_folder_and_no_device(made, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        SpeechEncoder.load(tmp_path / "nowhere")
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="cuda is not available"):
            SpeechEncoder.load(made[0], "cuda")


class Trap:
    """Unpickled as pickles usually are, it would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("environment", ["", "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
def test_a_program_in_the_weights_is_refused_and_not_run(made, tmp_path, monkeypatch, environment):
    """funasr reads model.pt, and leaves it to torch's default what a pickle may do; a variable of the environment could loosen that."""
    folder, sprung = shutil.copytree(made[0], tmp_path / "ear"), tmp_path / "sprung"
    torch.save(torch.load(folder / "model.pt", weights_only=True) | {"x": Trap(sprung)}, folder / "model.pt")
    if environment:
        monkeypatch.setenv(environment, "1")
    with pytest.raises(ValueError, match="model.pt: refused, nothing of it was run.*mmo fetch speech-encoder"):
        SpeechEncoder.load(folder)
    assert not sprung.exists()
    assert {name: os.environ[name] for name in os.environ if "WEIGHTS_ONLY_LOAD" in name} == ({environment: "1"} if environment else {})


def test_weights_of_another_size_or_with_a_gap_are_refused(made, tmp_path):
    folder = shutil.copytree(made[0], tmp_path / "copy")
    weights = torch.load(folder / "model.pt")
    torch.save({**weights, "encoder.after_norm.weight": torch.zeros(31)}, folder / "model.pt")
    with pytest.raises(ValueError, match="could not load"):
        SpeechEncoder.load(folder)
    del weights["encoder.after_norm.weight"]
    torch.save(weights, folder / "model.pt")
    with pytest.raises(ValueError, match="after_norm"):
        SpeechEncoder.load(folder)


@pytest.mark.parametrize(("waves", "rate", "message"), [
    ([np.zeros(16_000, np.float32)], 24_000, "resample"),
    ([], 16_000, "empty list"),
    ([np.zeros(900, np.float32), np.zeros(0, np.float32)], 16_000, "sound 1 is empty"),
    ([np.zeros(399, np.float32)], 16_000, "399 samples"),
    ([np.zeros((2, 900), np.float32)], 16_000, "one channel"),
    ([np.zeros(900, np.int16)], 16_000, "32768"),
    ([np.full(900, np.nan, np.float32)], 16_000, "NaN"),
])
def test_bad_sound_is_named(encoder, waves, rate, message):
    with pytest.raises(ValueError, match=message):
        encoder.encode(waves, rate)


# ---- its training


def test_training_hears_what_the_frontend_hears(encoder):
    """Without augmentation the training's own mel frames, stacked and normalised, are the frontend's."""
    for samples in (16_000, 20_321, 1_000):
        wave = noise(samples)
        frames = training.stack(training.log_mel(torch.from_numpy(wave)).numpy())
        frames = (frames - np.linspace(5, 12, 560)) / np.linspace(1, 3, 560)
        wanted, _ = encoder.frames([wave])
        np.testing.assert_allclose(frames, wanted[0].numpy(), atol=2e-3)


def test_warping_moves_a_formant():
    time = torch.arange(16_000) / 16_000
    low, same, high = (training.log_mel(0.1 * torch.sin(2 * torch.pi * 1_500 * time), warp).mean(0).argmax().item() for warp in (0.85, 1.0, 1.18))
    assert low != same != high and (low - same) * (high - same) < 0


def clips(count: int) -> list[training.Clip]:
    words, phones = training.token_list(), training.phone_list()
    ids = [[words.index(w) for w in ("what", "is", "two")], [words.index(w) for w in ("say", "red")]]
    sound = [[phones.index(p) for w in ws for p in training.pronunciations()[w]] for ws in (("what", "is", "two"), ("say", "red"))]
    return [training.Clip((noise(16_000 + 700 * i, i) * 32767).astype(np.int16), 16_000 if i % 2 else 24_000, "x", ("What is two?", "Say red.")[i % 2],
                          tuple(ids[i % 2]), tuple(sound[i % 2])) for i in range(count)]


def test_a_resumed_training_is_the_unbroken_one():
    recipe = training.Recipe(width=32, heads=2, feed_forward=48, blocks=1, text_blocks=1, steps=4, batch=4, warmup_steps=2)
    whole = training.Trainer(recipe, clips(8))
    losses = [whole.update(whole.batches[step]).item() for step in range(4)]
    assert np.isfinite(losses).all() and whole.skipped == 0
    broken = training.Trainer(recipe, clips(8))
    for step in range(2):
        broken.update(broken.batches[step])
    state = broken.state()
    resumed = training.Trainer(recipe, clips(8))
    resumed.restore(state)
    assert [resumed.update(resumed.batches[step]).item() for step in range(2, 4)] == losses[2:]
    other = training.Trainer(training.Recipe(width=32, heads=2, feed_forward=48, blocks=1, text_blocks=1, steps=4, batch=5, warmup_steps=2), clips(8))
    with pytest.raises(ValueError, match="batch"):
        other.restore(state)


def test_a_sitting_that_began_with_other_weights_is_refused(tmp_path, monkeypatch):
    """Else a second sitting finds the first one's end and trains nothing."""
    monkeypatch.setattr(training, "material", lambda *_: ([], [], []))
    monkeypatch.setattr(training, "Trainer", lambda *_: None)
    (tmp_path / "model.pt").write_bytes(b"weights")
    recipe = training.Recipe()
    for step, began, folder in ((4, "", "out"), (recipe.steps, "", "."), (recipe.steps, "others", "out"), (4, "others", ".")):
        torch.save({"step": step, "began": began}, tmp_path / "checkpoint.pt")
        with pytest.raises(ValueError, match="checkpoint.pt is of a sitting that began with other weights: delete it .*--build"):
            training.train(recipe, tmp_path / folder, tmp_path, start_from=tmp_path)
    torch.save({"step": recipe.steps, "began": "others"}, tmp_path / "checkpoint.pt")
    with pytest.raises(AttributeError):  # killed behind its new weights: it goes on, to a trainer that is none here
        training.train(recipe, tmp_path, tmp_path, start_from=tmp_path)


def test_a_voice_that_nobody_has_cannot_be_held_out(monkeypatch):
    monkeypatch.setattr(training, "load_clips", lambda folder, kind, choose, limit=None: [] if choose(SimpleNamespace(split="train", voice="nobody", spoken="Say red.")) else clips(2))
    with pytest.raises(ValueError, match="--hold-out nobody: no training question is in this voice; there are x"):
        training.material(training.Recipe(hold_out="nobody"), Path("nowhere"), None)


def test_word_errors_counts():
    class Deaf:
        def transcribe(self, waves):
            return ["what is red" for _ in waves]

    found = training.word_errors(Deaf(), clips(2))  # against "say red" and "what is two"
    assert (found["words"], found["sentences"]) == (5, 2)
    assert found["wer"] == pytest.approx((found["substitutions"] + found["deletions"] + found["insertions"]) / 5)
    assert found["sentences_right"] == 0


def test_every_word_has_phones_and_the_folder_says_so(made):
    assert json.loads((made[0] / "tokens.json").read_text())[0] == "<blank>"
    assert all(training.pronunciations()[word] for word in training.text.world_words())


# --- A second sitting --------------------------------------------------------------------------------------------


def test_normalisation_is_read_as_it_was_written(made):
    folder, _ = made
    mean, deviation = training.read_kaldi_mvn(folder / "am.mvn")
    assert np.allclose(mean, np.linspace(5, 12, 560), rtol=1e-5) and np.allclose(deviation, np.linspace(1, 3, 560), rtol=1e-5)


def test_a_second_sitting_begins_with_the_finished_weights(made):
    """Weights and normalisation of the folder, whatever the new clips would give."""
    folder, model = made
    clip = training.make_clip(np.random.default_rng(0).integers(-3000, 3000, 16_000).astype(np.int16), 16_000, "joe", "one plus one is two")
    trainer = training.Trainer(RECIPE, [clip], start_from=folder)
    for name, value in model.state_dict().items():
        assert torch.allclose(trainer.model.state_dict()[name].float(), value.float(), atol=2e-3), name
    assert np.allclose(trainer.mean, np.linspace(5, 12, 560), rtol=1e-5)


def test_disturbed_clips_are_always_disturbed_alike():
    clip = training.make_clip(np.random.default_rng(0).integers(-3000, 3000, 16_000).astype(np.int16), 16_000, "joe", "one plus one is two")
    first, second = training.disturbed([clip, clip]), training.disturbed([clip, clip])
    assert all(np.array_equal(one.samples, other.samples) for one, other in zip(first, second))
    assert first[0].targets == clip.targets and not np.array_equal(first[0].samples, clip.samples)
    assert not np.array_equal(first[0].samples, first[1].samples), "every clip has a room of its own"


# --- One clip, heard twice -----------------------------------------------------------------------------------------

TWICE = training.Recipe(width=32, heads=2, feed_forward=48, blocks=1, text_blocks=1, steps=4, batch=4, warmup_steps=2, agreement=1.0)


def test_second_hearings_lie_beside_the_first():
    """Same number of frames and same words, frame by frame comparable, and yet heard differently."""
    frames, lengths, words, word_lengths, *_ = training.Batches(clips(8), TWICE, training.HEARING)[10**6]
    first, second = frames.chunk(2)
    assert len(frames) == 2 * TWICE.batch and torch.equal(*lengths.chunk(2)) and torch.equal(*word_lengths.chunk(2)) and torch.equal(*words.chunk(2))
    assert all(not torch.equal(one, other) for one, other in zip(first, second))


def test_what_is_written_alike_costs_nothing():
    torch.manual_seed(0)
    half, there = torch.randn(3, 5, 8), torch.arange(5) < torch.tensor([5, 2, 4])[:, None]
    padded = half.masked_fill(~there[..., None], 9.0)  # what stands where nothing was said is nobody's business
    assert training.disagreement(torch.cat((half, padded)), there).item() == pytest.approx(0.0, abs=1e-6)
    assert training.disagreement(torch.cat((half, torch.randn(3, 5, 8))), there).item() > 0.1


def test_agreement_brings_two_hearings_together():
    """A few steps with a large weight: what is written of two throats comes nearer to each other."""
    torch.manual_seed(0)
    trainer = training.Trainer(replace(TWICE, agreement=50.0, learning_rate=5e-3), clips(8))
    batch = trainer.batches[0]
    there = torch.arange(batch[0].shape[1]) < batch[1][:TWICE.batch, None]

    def apart() -> float:
        trainer.model.eval()
        with torch.no_grad():
            return training.disagreement(trainer.model.ctc.ctc_lo(trainer.features(*batch[:2])), there).item()

    before = apart()
    for _ in range(4):
        trainer.update(batch)
    assert apart() < 0.9 * before and trainer.skipped == 0


def test_shipped_rows_are_clips():
    """The questions of the tiny world's test rows, by voice, with words that the encoder can write."""
    folder = profile("tiny").data_dir
    found = training.shipped_clips(folder, "test", lambda spoken: spoken.tier == "pair" and spoken.voice == "rms")
    assert len(found) == 30 and {clip.voice for clip in found} == {"rms"}
    assert all(0.4 < clip.seconds < 8 and clip.targets for clip in found)
    assert all(training.token_list()[i] in training.text.words(found[0].spoken) for i in found[0].targets)
