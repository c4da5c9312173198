"""Building the tiny world: encoding the spoken answers, shard by shard."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mmo.codec import Codec, build_mimi, codec_config, save_codec
from mmo.digests import sha256_of
from mmo.world import build, plan

LENGTHS = (3000, 9000, 1920, 5000, 100)  # samples; 2, 5, 1, 3 and 1 frames


@pytest.fixture
def spoken(tmp_path):
    """A tiny codec, and five answers of noise in two shards as `mmo.world.speech` writes them."""
    torch.manual_seed(0)
    config = codec_config(n_filters=4, dimension=32, layers=1, feedforward=64, bins=16, codebooks=8)
    save_codec(build_mimi(config), config, tmp_path / "codec.safetensors")
    rng = np.random.default_rng(0)
    sounds = [(rng.normal(size=n) * 2000).astype(np.int16) for n in LENGTHS]
    for number, ids in enumerate(([0, 1, 2], [3, 4])):
        np.savez(tmp_path / f"answers-{number:04d}.npz", samples=np.concatenate([sounds[i] for i in ids]),
                 lengths=np.array([LENGTHS[i] for i in ids]), ids=np.array(ids))
    first = plan.Rendering(0, "train", "train", "plus", "joe", 1.0, 0, "question", "answer", "answer")
    return tmp_path, sounds, [replace(first, id=i) for i in range(len(sounds))]


def test_codes_of_a_shard_are_those_of_each_sound_alone(spoken):
    folder, sounds, answers = spoken
    build.encode_answers(answers, folder / "codec.safetensors", folder, folder / "codes.npz", workers=1)
    found, codec = build.load_codes(folder / "codes.npz"), Codec.load(folder / "codec.safetensors")
    assert sorted(found) == [r.id for r in answers]
    for i, sound in enumerate(sounds):
        frames = -(-len(sound) // codec.frame_size)
        wave = torch.zeros(1, 1, frames * codec.frame_size)
        wave[0, 0, : len(sound)] = torch.from_numpy(sound.astype(np.float32) / 32768)
        assert np.array_equal(found[i], codec.encode(wave)[0].numpy()), f"rendering {i}"


def test_only_the_wanted_answers_are_encoded_and_a_shard_may_hold_none(spoken):
    folder, _, answers = spoken
    build.encode_answers(answers[:2], folder / "codec.safetensors", folder, folder / "codes.npz", workers=1)
    assert sorted(build.load_codes(folder / "codes.npz")) == [0, 1]


def test_a_step_is_done_once_its_figures_are_written(tmp_path):
    """Killed in between, it is made again; the figures of other weights do not pass for its own."""
    result, figures, made = tmp_path / "model.pt", tmp_path / "figures.json", []

    def make() -> None:
        result.touch()
        made.append(figures.exists())
        if len(made) == 1:
            raise KeyboardInterrupt
        figures.touch()

    figures.touch()  # of the weights before
    with pytest.raises(KeyboardInterrupt):
        build.step("ear", result, make, figures)
    build.step("ear", result, make, figures)
    build.step("ear", result, make, figures)
    assert made == [False, False]


def test_an_answer_that_is_not_spoken_is_an_error_that_says_how_to_go_on(spoken):
    folder, _, answers = spoken
    with pytest.raises(FileNotFoundError, match=r"1 of 6 answers are not spoken yet; run `mmo world build` again"):
        build.encode_answers([*answers, replace(answers[0], id=99)], folder / "codec.safetensors", folder, folder / "codes.npz", workers=1)


def test_a_new_codec_forgets_what_was_made_of_the_old_one(tmp_path):
    data, work = tmp_path / "data", tmp_path / "work"
    for path in (data / "figures" / "decoder.json", data / "t2a-test.parquet", work / "codes.npz", work / "decoder" / "start.json", data / "figures" / "codec.json"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    build.forget_codec(data, work)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["codec.json"], "its curve is kept"


def test_figures_of_another_codec_are_no_figures(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "codec.safetensors").write_bytes(b"weights")
    assert not build.is_measured(tmp_path)
    (tmp_path / "figures" / "codec.json").write_text(json.dumps({"codec": sha256_of(tmp_path / "codec.safetensors")}))
    assert build.is_measured(tmp_path)
    (tmp_path / "codec.safetensors").write_bytes(b"others")
    assert not build.is_measured(tmp_path)


def test_the_shipped_figures_are_of_the_shipped_codec():
    assert build.is_measured(build.DATA)
