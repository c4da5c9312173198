"""`mmo say` with a toy profile: what is printed, what is written, what is refused, what is not imported."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import worlds
from safetensors.torch import save_file
from speakers import random_mimi
from typer.testing import CliRunner

from mmo import cli, say
from mmo.codec import codec_config, save_codec
from mmo.config import Decoding, ModelConfig
from mmo.generation import PICTURE_QUESTION
from mmo.omni import OmniModel, save_model
from mmo.profiles import REPOSITORY, Profile
from mmo.profiles import profile as find_profile

MODEL: ModelConfig = worlds.MODEL
WORDS = "what is three plus four seven circle square you see do the".split()
SHORT = Decoding(max_text=6, max_frames=6)


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Profile:
    """A profile whose files are all there; the weights are random."""
    torch.manual_seed(0)
    model = OmniModel(MODEL)
    save_model(model, tmp_path / "omni.safetensors")
    sizes = codec_config(n_filters=4, dimension=32, layers=1, bins=MODEL.num_codes, codebooks=8, feedforward=64)
    save_codec(random_mimi(sizes), sizes, tmp_path / "codec.safetensors")
    save_file({name: torch.randn(worlds.SPEAKER) for name in ("joe", "slt")}, tmp_path / "voices.safetensors")
    (tmp_path / "words.txt").write_text("\n".join(WORDS))
    settings = Profile(
        name="toy", model=MODEL, data_dir=tmp_path, tokenizer_dir=worlds.TOKENIZER, codec_file=tmp_path / "codec.safetensors",
        speech_encoder_dir=tmp_path / "ear", vision_encoder_dir=tmp_path / "eye", thinker_file=tmp_path / "thinker.safetensors",
        checkpoint_file=tmp_path / "omni.safetensors", stages={},
    )  # fmt: skip
    monkeypatch.setattr(say, "profile", lambda name: settings)
    monkeypatch.setenv("MMO_RUNS", str(tmp_path / "runs"))
    return settings


def ask(text="", audio=None, image=None, **settings):
    return say.say(say.Question(text, audio, image), **{"decoding": SHORT} | settings)


def test_text_question(toy, tmp_path, capsys):
    answer = ask("What is three plus four?", out=tmp_path / "deep" / "answer.wav")
    printed = capsys.readouterr()
    assert printed.out == answer.text + "\n"
    assert "came with the course" in printed.err and "tiny world does not know" not in printed.err
    samples, rate = soundfile.read(tmp_path / "deep" / "answer.wav")
    assert rate == 24000 and len(samples) == len(answer.samples) == answer.codes.shape[1] * 1920
    assert abs(samples - answer.samples.clip(-1, 1)).max() < 1e-4
    assert answer.first_audio_ms > 0 and answer.real_time_factor > 0


def test_seed_voice_and_greedy(toy, tmp_path):
    def codes(**settings):
        return ask("What is three plus four?", out=tmp_path / "answer.wav", **settings).codes.tolist()

    warm = Decoding(temperature=1.0, max_text=6, max_frames=6)
    assert codes(seed=1, decoding=warm) == codes(seed=1, decoding=warm) != codes(seed=2, decoding=warm)
    assert codes(seed=1, greedy=True) == codes(seed=2, greedy=True)
    assert codes(voice="joe", greedy=True) == codes(greedy=True)  # the first by name


def test_precision_of_the_weights(toy, tmp_path):
    """float32 is what is computed with anyway; the others answer too."""
    question, out = "What is three plus four?", tmp_path / "answer.wav"
    exact, same, *rough = (ask(question, out=out, greedy=True, precision=precision) for precision in (None, "float32", "bfloat16", "int8"))
    assert exact.codes.tolist() == same.codes.tolist() and all(answer.codes.shape[1] for answer in rough)
    assert CliRunner().invoke(cli.app, ["say", question, "--precision", "int4"]).exit_code == 2


@pytest.mark.parametrize("layout, name", [("pth", "sft_omni.pth"), ("transformers", "minimind-3o")])
def test_imported_weights_speak_as_before(toy, tmp_path, layout, name):
    """Out in either of the original's layouts and in again by the commands: the same answer, code by code."""
    for arguments in (["export", str(toy.checkpoint_file), "--to", str(tmp_path / name), "--layout", layout],
                      ["import", "minimind-3o", str(tmp_path / name), "--to", str(tmp_path / "imported.safetensors")]):  # fmt: skip
        assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    question, out = "What is three plus four?", tmp_path / "answer.wav"
    imported = ask(question, weights=tmp_path / "imported.safetensors", out=out)
    assert imported.codes.shape[1] > 0 and imported.codes.tolist() == ask(question, out=out).codes.tolist()


def test_weights_of_another_codec_are_refused_before_anything_is_said(toy, tmp_path):
    other = MODEL.replace(audio_vocab_size=200, audio_pad_token=129, audio_stop_token=130, audio_spk_token=131)
    save_model(OmniModel(other), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="other.safetensors speaks in 128 codes a codebook, the codec of the profile toy has 32.*--profile"):
        ask("What is three?", weights=tmp_path / "other.safetensors", out=tmp_path / "answer.wav")
    assert not (tmp_path / "answer.wav").exists()


def test_the_other_layout_of_mimi_is_said(toy, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(say, "codec_layout", lambda path: "transformers")
    ask("What is three?", out=tmp_path / "answer.wav")
    assert "codec: Mimi in the layout of transformers" in capsys.readouterr().err


def test_strange_words_are_noticed(toy, tmp_path, capsys):
    ask("What is 3 plus an elephant, or a squre?", out=tmp_path / "answer.wav")
    notice = capsys.readouterr().err
    assert '"3", "an", "elephant", "or", "a", "squre"' in notice
    assert "Write numbers as words" in notice and "Instead of squre: square" in notice


def test_an_open_world_knows_all_words(toy, tmp_path, capsys):
    (toy.data_dir / "words.txt").unlink()
    ask("What is an elephant?", out=tmp_path / "answer.wav")
    assert "does not know" not in capsys.readouterr().err


def test_sound_question(toy, tmp_path, capsys, monkeypatch):
    """Stereo, at another rate, in another format: the encoder gets one channel at 16 kHz."""
    heard = []

    class Ear:
        def encode_at(self, wave, speeds):
            heard.append(wave)
            return [torch.randn(4, worlds.SOUND_DIM) for _ in speeds]

        def spell(self, features, lengths):
            return ["what is zebra"]

    import mmo.speech_encoder

    monkeypatch.setattr(mmo.speech_encoder, "SpeechEncoder", SimpleNamespace(load=lambda folder: Ear()))
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)
    soundfile.write(tmp_path / "q.flac", np.stack((tone, np.zeros_like(tone)), axis=1), 44100)
    ask(audio=tmp_path / "q.flac", out=tmp_path / "answer.wav")
    assert heard[0].shape == (16000,) and abs(np.abs(heard[0]).max() - 0.15) < 0.02
    notes = capsys.readouterr().err
    assert "heard: what is zebra" in notes and 'does not know: "zebra"' in notes


def test_a_sound_too_long_for_the_model_is_refused_before_it_is_encoded(toy, tmp_path, monkeypatch):
    """The encoder's attention grows with the square of the length: ten minutes would take all memory."""
    import mmo.speech_encoder

    monkeypatch.setattr(mmo.speech_encoder, "SpeechEncoder", SimpleNamespace(load=lambda folder: pytest.fail("it is loaded")))
    soundfile.write(tmp_path / "long.wav", 0.1 * np.ones(16_000 * 120), 16_000)
    with pytest.raises(ValueError, match=r"long.wav: 120 s are 2000 positions, and there is room for \d+; cut it shorter"):
        ask(audio=tmp_path / "long.wav")


def test_the_question_is_not_written_over(toy, tmp_path):
    soundfile.write(tmp_path / "say.wav", 0.1 * np.ones(16_000), 16_000)
    before = (tmp_path / "say.wav").read_bytes()
    with pytest.raises(ValueError, match="that is the question itself"):
        say.say(say.Question(audio=tmp_path / "say.wav"), out=tmp_path / "say.wav")
    assert (tmp_path / "say.wav").read_bytes() == before


def test_a_picture_stands_where_the_question_says(toy, monkeypatch):
    monkeypatch.setattr(say, "see", lambda *_: [torch.zeros(worlds.PATCHES, worlds.PICTURE_DIM)])
    prompt, _ = say.make_prompt(say.Question("<image> What is it?", image="p.png"), toy, MODEL, None, 0)
    assert prompt.text_ids.count(MODEL.image_ids[0]) == worlds.PATCHES


def test_features_stand_at_their_placeholders(toy, monkeypatch):
    monkeypatch.setattr(say, "hear", lambda *_: [torch.zeros(4, worlds.SOUND_DIM), torch.zeros(5, worlds.SOUND_DIM)])
    monkeypatch.setattr(say, "see", lambda *_: [torch.full((worlds.PATCHES, worlds.PICTURE_DIM), float(look)) for look in range(3)])
    for question, sounds, pictures in (
        (say.Question(audio="q.wav"), 4, 0),
        (say.Question(image="p.png"), 0, worlds.PATCHES),
        (say.Question("What is it?", "q.wav", "p.png"), 4, worlds.PATCHES),
    ):
        prompt, _ = say.make_prompt(question, toy, MODEL, None, 0)
        assert (prompt.text_ids.count(MODEL.audio_ids[0]), prompt.text_ids.count(MODEL.image_ids[0])) == (sounds, pictures)
        assert [each.text_ids.count(MODEL.audio_ids[0]) for each in prompt.again] == [5] * bool(sounds), "heard again at another speed"
        assert [float(look[0, 0]) for look in prompt.looks] == [1.0, 2.0] * bool(pictures), "seen again from another place"
    seen, tokenizer = say.make_prompt(say.Question(image="p.png"), toy, MODEL, None, 0)
    assert PICTURE_QUESTION in tokenizer.decode(seen.text_ids)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "nothing to answer"),
        (["What is three?", "--voice", "tom"], "no voice 'tom'.*joe, slt"),
        (["--audio", "missing.wav"], "no sound file missing.wav"),
        (["What is three?", "--weights", "missing.safetensors"], "no model file missing"),
    ],
)
def test_refusals_are_one_line(toy, tmp_path, arguments, message):
    """What is wrong and what to do, without a traceback, and exit status 1."""
    result = CliRunner().invoke(cli.app, ["say", *arguments, "--out", str(tmp_path / "a.wav")])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    import re

    assert re.search(message, result.output), result.output


def test_unreadable_sound(toy, tmp_path):
    (tmp_path / "q.wav").write_text("this is no sound")
    with pytest.raises(ValueError, match="q.wav: unreadable sound.*WAV, FLAC"):
        ask(audio=tmp_path / "q.wav")


def test_a_text_question_imports_no_encoder():
    """transformers and funasr take seconds to import, and a text question needs neither."""
    heavy = {"transformers", "funasr", "scipy", "pyarrow", "torchaudio", "matplotlib", "pandas", "tensorboard"}
    code = f"import sys, mmo.say; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.skipif(not find_profile("tiny").checkpoint_file.is_file(), reason="needs the shipped weights")
def test_a_whole_answer_imports_no_encoder(tmp_path):
    """The command itself, from its first word to the sound on disk: what it imports on the way counts too."""
    heavy = {"transformers", "funasr", "scipy", "pyarrow", "torchaudio", "matplotlib", "pandas", "tensorboard"}
    out = tmp_path / "answer.wav"
    code = (
        "import sys; from mmo.cli import app\n"
        f"app(['say', 'What is three plus four?', '--profile', 'tiny', '--out', {str(out)!r}], standalone_mode=False)\n"
        f"print('imported', sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, env=os.environ | {"MMO_RUNS": str(tmp_path)}, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "imported []", done.stdout + done.stderr
    assert out.stat().st_size > 10_000 and "seven" in done.stdout
