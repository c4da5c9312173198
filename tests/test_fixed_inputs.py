"""The fixed sounds and pictures: the same rows, voices and seeds to the weights after each stage that can take them."""

import json
from dataclasses import replace

import pytest
import soundfile
import torch
import worlds
from judges_world import open_profile
from typer.testing import CliRunner

from mmo import cli, fixed_inputs, profiles, training
from mmo.fixed_inputs import COUNT, features_of, keep_replies, read_inputs
from mmo.fixed_prompts import prompts_folder
from mmo.omni import OmniModel, save_model


@pytest.fixture
def profile(tmp_path):
    return open_profile(tmp_path / "world")


def save_weights(profile, run, *stages):
    run.mkdir(exist_ok=True)
    for seed, stage in enumerate(stages):
        torch.manual_seed(seed)
        save_model(OmniModel(profile.model), run / f"{stage}.safetensors")


def replies(run, stage):
    return json.loads((prompts_folder(run, stage) / "replies.json").read_text())["answers"]


def test_each_stage_gets_what_it_has_learnt_to_take_and_always_the_same(profile):
    names = {stage: [each.name for each in read_inputs(profile, stage)] for stage in ("t2a", "a2a", "i2t")}
    heard, seen = ([f"{kind}-{n}" for n in range(1, COUNT + 1)] for kind in ("heard", "seen"))
    assert names == {"t2a": [], "a2a": heard, "i2t": heard + seen}
    for one, other in zip(read_inputs(profile, "a2a"), read_inputs(profile, "i2t")):
        assert one.data == other.data and one.number == other.number
    assert len({each.number for each in read_inputs(profile, "i2t")}) == 2 * COUNT, "no two share a seed"
    assert {each.file.split(".")[1] for each in read_inputs(profile, "i2t")} == {"wav", "png"}, "the ending is the content's"


def test_features_are_those_of_the_sounds_and_pictures_as_they_are(profile):
    """Undisturbed: disturbances are for training."""
    inputs, encoders = read_inputs(profile, "i2t"), worlds.toy_encoders()
    assert encoders.speech.augment is not None
    for each, found in zip(inputs, features_of(inputs, encoders), strict=True):
        frozen = encoders.speech if each.heard else encoders.vision
        (alone,) = frozen.encode([frozen.decode(each.data)])
        assert torch.allclose(found, torch.from_numpy(alone), atol=1e-2)  # stored as the cache stores them, in half precision
    with pytest.raises(FileNotFoundError, match="no encoder for pictures"):
        features_of(inputs, replace(encoders, vision=None))


def test_what_was_said_is_kept_beside_what_was_put(profile, tmp_path):
    run = tmp_path / "run"
    save_weights(profile, run, "t2a", "a2a", "i2t")
    assert keep_replies(profile, "t2a", run, worlds.toy_encoders()) is None and not (run / "prompts").exists()
    page = keep_replies(profile, "a2a", run, worlds.toy_encoders())
    assert keep_replies(profile, "i2t", run, worlds.toy_encoders()) == page == run / "prompts" / "inputs.html"
    assert len(replies(run, "a2a")) == COUNT and len(replies(run, "i2t")) == 2 * COUNT
    for stage in ("a2a", "i2t"):
        for told in replies(run, stage):
            assert (run / "prompts" / "inputs" / told["input"]).is_file() and told["recorded"] and told["question"]
            if told["sound"]:
                assert len(soundfile.read(prompts_folder(run, stage) / told["sound"])[0]) == 1920 * told["frames"]
    assert any(told["sound"] for told in replies(run, "a2a"))
    text = page.read_text()
    assert text.count("<tr>") == 1 + 2 * COUNT and "after a2a" in text and "after i2t" in text and "after t2a" not in text
    assert text.count("<img src='inputs/seen-") == COUNT and text.count("controls src='inputs/heard-") == COUNT
    assert text.count("<td>–</td>") == COUNT, "pictures were not put to the weights after A2A"


def test_the_same_weights_say_the_same_and_what_was_there_before_goes(profile, tmp_path):
    run = tmp_path / "run"
    save_weights(profile, run, "a2a")
    keep_replies(profile, "a2a", run, worlds.toy_encoders())
    first = replies(run, "a2a")
    (prompts_folder(run, "a2a") / "heard-9.wav").write_bytes(b"")
    keep_replies(profile, "a2a", run, worlds.toy_encoders())
    assert replies(run, "a2a") == first and not (prompts_folder(run, "a2a") / "heard-9.wav").exists()


def test_training_puts_them_when_a_stage_is_done_and_tells_what_is_missing(profile, tmp_path, monkeypatch):
    run = tmp_path / "run"
    save_weights(profile, run, "a2a")
    monkeypatch.setattr(training, "train", lambda *_, **__: type("Result", (), {"finished": True}))
    monkeypatch.setattr(profiles, "profile", lambda name=None: profile)
    monkeypatch.setattr(fixed_inputs, "default_encoders", lambda *_: worlds.toy_encoders())
    done = CliRunner().invoke(cli.app, ["train", "--stage", "a2a", "--run", str(run)])
    assert done.exit_code == 0 and f"the fixed sounds and pictures, answered after a2a: {run / 'prompts' / 'inputs.html'}" in done.output, done.output
    monkeypatch.setattr(fixed_inputs, "default_encoders", lambda *_: replace(worlds.toy_encoders(), speech=None))
    done = CliRunner().invoke(cli.app, ["train", "--stage", "a2a", "--run", str(run)])
    assert done.exit_code == 0 and "the fixed prompts, answered after a2a" in done.output, done.output
    assert "the fixed sounds and pictures were not asked after a2a: no encoder for spoken questions" in done.output
