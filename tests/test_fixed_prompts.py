"""The fixed prompts: the same questions, voices and seeds every time, and what was said to them kept side by side."""

import json
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch
import worlds
from judges_world import open_profile
from typer.testing import CliRunner

from mmo import cli, fixed_prompts, profiles, training
from mmo.fixed_prompts import (
    BUCKETS, FixedPrompt, as_prompts, keep_sounds, length_of, prompts_folder, read_prompts, write_heard, write_page, write_sounds,
)  # fmt: skip
from mmo.generation import Answer
from mmo.omni import OmniModel, save_model


@pytest.fixture
def profile(tmp_path):
    return open_profile(tmp_path / "world")


def answer(text: str, frames: int) -> Answer:
    samples = np.full(1920 * frames, 0.1, np.float32)
    return Answer(text, [], torch.zeros(8, frames, dtype=torch.long), True, True, samples)


def test_there_are_twenty_english_prompts_in_three_lengths():
    prompts = read_prompts()
    assert [each.number for each in prompts] == list(range(1, 21))
    assert Counter(each.bucket for each in prompts) == {"short": 8, "medium": 8, "long": 4}
    assert [each.bucket for each in prompts] == sorted((each.bucket for each in prompts), key=BUCKETS.index)
    assert all(each.text.isascii() and len(each.text.split()) >= 4 for each in prompts)


def test_a_list_that_would_make_figures_wrong_is_refused(tmp_path):
    path = tmp_path / "prompts.toml"
    for text, message in (('short = ["a"]\n', "wanted the lists short, medium, long"),
                          ('short = ["a"]\nmedium = ["a"]\nlong = ["b"]\n', "there twice"),
                          ('short = ["a"]\nmedium = [" "]\nlong = ["b"]\n', "empty")):  # fmt: skip
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_prompts(path)


def test_answers_are_counted_in_the_bounds_of_the_published_table():
    assert [length_of(words) for words in (0, 15, 16, 30, 31, 60, 61)] == ["short", "short", "medium", "medium", "long", "long", "longer"]


def test_a_prompt_keeps_its_voice_and_seed_whichever_others_are_asked():
    voices = {name: torch.full((3,), float(number)) for number, name in enumerate("abcd")}
    every = as_prompts(read_prompts(), worlds.tokenizer(), voices)
    few = as_prompts(read_prompts()[3:20:5], worlds.tokenizer(), voices)
    for one, other in zip(every[3:20:5], few, strict=True):
        assert one.seed == other.seed and torch.equal(one.speaker, other.speaker) and one.text_ids == other.text_ids
    assert len({prompt.seed for prompt in every}) == 20
    assert Counter(int(prompt.speaker[0]) for prompt in every) == dict.fromkeys(range(4), 5)


def test_what_was_said_is_kept_and_what_was_there_before_goes(tmp_path):
    prompts = [FixedPrompt(1, "short", "Say <b>."), FixedPrompt(12, "medium", "Say two.")]
    folder = prompts_folder(tmp_path, "t2a")
    write_sounds(folder, prompts, [answer("One.", 2), answer("Two.", 3)], ["a", "b"], "t2a.safetensors")
    assert sorted(path.name for path in folder.iterdir()) == ["01.wav", "12.wav", "said.json"]
    samples, rate = soundfile.read(folder / "12.wav")
    assert rate == 24_000 and len(samples) == 3 * 1920 and np.allclose(samples, 0.1, atol=1e-3)
    write_sounds(folder, prompts, [answer("One.", 0), answer("Two & three.", 3)], ["a", "b"], "t2a.safetensors")
    assert sorted(path.name for path in folder.iterdir()) == ["12.wav", "said.json"], "a silent answer has no sound, and the old one is gone"
    write_heard(folder, ["", "two and three"])
    told = json.loads((folder / "said.json").read_text())
    assert told["weights"] == "t2a.safetensors"
    first, second = told["answers"]
    assert (first["sound"], first["heard"], second["sound"], second["heard"]) == (None, "", "12.wav", "two and three")
    assert (second["prompt"], second["answer"], second["bucket"], second["voice"]) == ("Say two.", "Two & three.", "medium", "b")
    with pytest.raises(ValueError):
        write_heard(folder, ["too few"])


def test_the_page_sets_stages_side_by_side(tmp_path):
    prompts = [FixedPrompt(1, "short", "Say <b>."), FixedPrompt(2, "short", "Say two.")]
    for stage, count in (("i2t", 2), ("t2a", 1)):
        write_sounds(prompts_folder(tmp_path, stage), prompts[:count], [answer(f"{stage} & more", 1)] * count, ["a"], "w")
    text = write_page(tmp_path).read_text()
    assert text.index("after t2a") < text.index("after i2t")
    assert text.count("<tr>") == 3 and "Say &lt;b&gt;." in text and "t2a &amp; more" in text
    for sound in ("t2a/01.wav", "i2t/01.wav", "i2t/02.wav"):
        assert f"src='{sound}'" in text and (tmp_path / "prompts" / sound).is_file()
    assert "t2a/02.wav" not in text


def test_a_stages_weights_speak_and_the_same_weights_say_the_same(profile, tmp_path):
    torch.manual_seed(0)
    save_model(OmniModel(profile.model), tmp_path / "t2a.safetensors")
    page, folder = keep_sounds(profile, "t2a", tmp_path), prompts_folder(tmp_path, "t2a")
    assert page == tmp_path / "prompts" / "index.html" and page.is_file()
    told = json.loads((folder / "said.json").read_text())["answers"]
    assert len(told) == 20 and {each["voice"] for each in told} == {"voice-1", "voice-2"}
    sounds = {path.name: path.read_bytes() for path in folder.glob("*.wav")}
    assert sounds.keys() == {each["sound"] for each in told if each["sound"]} and sounds
    keep_sounds(profile, "t2a", tmp_path)
    assert {path.name: path.read_bytes() for path in folder.glob("*.wav")} == sounds


def test_training_ends_with_the_prompts_and_does_not_fail_for_want_of_a_codec(profile, tmp_path, monkeypatch):
    """`mmo train` asks after each stage that is done; training needs no codec, so its absence is told and no error."""
    asked = []

    def train(chosen, stage, budget, run, **options):
        torch.manual_seed(0)
        save_model(OmniModel(chosen.model), run / f"{stage}.safetensors")
        asked.append(stage)
        return type("Result", (), {"finished": True})

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(profiles, "profile", lambda name=None: profile)
    run = tmp_path / "run"
    run.mkdir()
    done = CliRunner().invoke(cli.app, ["train", "--stage", "t2a", "--run", str(run)])
    assert done.exit_code == 0 and "answered after t2a" in done.output, done.output
    assert len(json.loads((run / "prompts" / "t2a" / "said.json").read_text())["answers"]) == 20
    profile.codec_file.unlink()
    done = CliRunner().invoke(cli.app, ["train", "--stage", "all", "--fresh", "--run", str(run)])
    assert done.exit_code == 0 and asked == ["t2a", "t2a", "a2a", "i2t"]
    assert done.output.count("not asked after") == 3 and "codec.safetensors" in done.output
    assert not (run / "prompts" / "a2a").exists()
    fixed_prompts_before = (run / "prompts" / "t2a" / "said.json").stat().st_mtime_ns
    done = CliRunner().invoke(cli.app, ["train", "--stage", "t2a", "--budget", "smoke", "--run", str(run)])
    assert done.exit_code == 0 and "fixed prompts" not in done.output
    assert (run / "prompts" / "t2a" / "said.json").stat().st_mtime_ns == fixed_prompts_before


def test_missing_voices_are_named(profile):
    (profile.data_dir / "voices.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="voices.safetensors.*mmo fetch --profile toy --stage t2a"):
        fixed_prompts.read_voices(profile)
