"""The judge of open speech: what it needs, that it hears the whole of every sound, and what it counts as the same."""

import json
import shutil

import judges
import numpy as np
import pytest
import torch
from judges import WINDOW, tone
from safetensors.torch import load_file, save_file

from mmo import whisper_judge
from mmo.measures import character_errors, word_errors
from mmo.whisper_judge import FILES, WhisperJudge


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return judges.write_whisper(tmp_path_factory.mktemp("judge") / "whisper-toy", judges.STEPS)


@pytest.fixture(scope="module")
def judge(folder):
    return WhisperJudge.load(folder)


# --- Its files -------------------------------------------------------------------------------------------------------


def test_the_folder_has_the_files_that_are_fetched(folder):
    from mmo.manifest import read_manifest

    fetched = read_manifest()["judge"].files
    assert set(FILES) == {file.path for file in fetched if not file.optional}
    assert set(FILES) <= {path.name for path in folder.iterdir()}, "the library itself saves a Whisper under these names"


def test_missing_files_are_named_and_so_is_the_command(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks config.json, .*model.safetensors; fetch it: mmo fetch judge"):
        WhisperJudge.load(tmp_path)
    for name in FILES:
        copied = shutil.copytree(folder, tmp_path / f"without-{name}")
        (copied / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"the judge lacks {name}; "):
            WhisperJudge.load(copied)


def test_what_the_manifest_calls_optional_is_not_needed(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copy")
    for name in ("added_tokens.json", "special_tokens_map.json"):
        (copied / name).unlink(missing_ok=True)
    assert WhisperJudge.load(copied).transcribe([(tone("red", 1.0), 24_000)]) == ["red"]


def test_damaged_files_and_weights_of_another_model_are_refused(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copy")
    weights = copied / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read .*fetch it again: mmo fetch judge"):
        WhisperJudge.load(copied)
    state = load_file(folder / "model.safetensors")
    lost = next(name for name in state if "fc1.weight" in name)
    save_file({name: value for name, value in state.items() if name != lost}, weights, {"format": "pt"})
    with pytest.raises(ValueError, match=f"not of one model: missing keys .*{lost}"):
        WhisperJudge.load(copied)
    weights.write_bytes(whole)
    (copied / "tokenizer_config.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        WhisperJudge.load(copied)


# --- Listening -------------------------------------------------------------------------------------------------------


def test_it_hears_each_word_at_any_rate_and_level(judge):
    for word in judges.TONES:
        sounds = [(tone(word, 1.0, rate, level), rate) for rate in (16_000, 24_000, 44_100) for level in (0.05, 0.4)]
        assert judge.transcribe(sounds) == [word] * 6


def test_order_is_kept_and_neighbours_do_not_matter(judge, monkeypatch):
    words = ["blue", "red", "green", "red", "blue", "green", "red"]
    sounds = [(tone(word, 0.4 + 0.2 * n, seed=n), 24_000) for n, word in enumerate(words)]
    told = []
    assert judge.transcribe(sounds, progress=told.append) == words and sum(told) == len(words)
    monkeypatch.setattr(whisper_judge, "BATCH", 2)
    assert judge.transcribe(sounds) == words


def test_a_sound_longer_than_the_window_is_heard_to_its_end(judge):
    """Two windows and a half: the last word sounds behind what one window holds."""
    long = np.concatenate([tone("red", WINDOW), tone("green", WINDOW), tone("blue", WINDOW / 2)])
    longer = np.concatenate([tone("blue", WINDOW), tone("blue", WINDOW), tone("red", WINDOW), tone("green", 1.0)])
    assert len(long) / 24_000 > 2 * WINDOW
    heard = judge.transcribe([(long, 24_000), (tone("green", 1.0), 24_000), (longer, 24_000), (long[: WINDOW * 24_000], 24_000)])
    assert heard == ["red green blue", "green", "blue blue red green", "red"]


def test_silence_and_nothing_at_all_are_no_words_and_no_error(judge):
    told = []
    assert judge.transcribe([]) == []
    silent = [(np.zeros(0, np.float32), 24_000), (np.zeros(24_000, np.float32), 24_000)]
    assert judge.transcribe([*silent, (tone("red", 1.0), 24_000)], progress=told.append) == ["", "", "red"]
    assert sum(told) == 3


@pytest.mark.parametrize("bad", [np.zeros((2, 100)), np.array([0.0, np.nan])])
def test_sound_that_is_none_is_refused(judge, bad):
    with pytest.raises(ValueError, match="finite samples in one channel"):
        judge.transcribe([(bad, 24_000)])


def test_a_loop_of_words_comes_to_an_end(judge):
    """A Whisper that never ends by itself writes no more than speech of that length can hold."""
    model = judges.toy_whisper(judge.processor.tokenizer)
    model.generation_config.eos_token_id = model.config.eos_token_id = 0  # the byte 0, which it never chooses here
    endless = WhisperJudge(model, judge.processor)
    for seconds in (0.2, 1.0):
        most = endless.most_tokens(int(seconds * 16_000))
        assert most < model.config.max_target_positions
        (heard,) = endless.transcribe([(tone("red", seconds), 24_000)])
        assert len(heard) <= most
    assert endless.most_tokens(30 * 16_000) == model.config.max_target_positions - 4


def test_the_language_is_told_or_found_out(folder, judge):
    given = {}

    def look(judge):
        original = judge.model.generate
        judge.model.generate = lambda **options: given.update(options) or original(**options)
        return judge.transcribe([(tone("red", 1.0), 24_000)])

    assert look(WhisperJudge.load(folder, language="en")) == ["red"] and given["language"] == "en"
    look(WhisperJudge.load(folder, language=None))
    assert given["language"] is None and given["task"] == "transcribe"
    english = WhisperJudge.load(folder)
    english.model.generation_config.is_multilingual = False  # as in whisper-small.en, which refuses to be told
    given.clear()
    look(english)
    assert "language" not in given and "task" not in given


def test_it_is_frozen_and_in_full_precision_under_autocast_too(judge, monkeypatch):
    assert not judge.model.training and not any(weight.requires_grad for weight in judge.model.parameters())
    assert {weight.dtype for weight in judge.model.parameters()} == {torch.float32}
    seen, real = [], judge.model.generate
    monkeypatch.setattr(judge.model, "generate", lambda **given: seen.append(torch.is_autocast_enabled("cpu")) or real(**given))
    with torch.autocast("cpu", torch.bfloat16):
        judge.transcribe([(0.1 * np.sin(np.arange(16_000) / 20).astype(np.float32), 16_000)])
    assert seen == [False]


# --- Comparing -------------------------------------------------------------------------------------------------------

SAME = [
    ("Twenty-one colours, please!", "21 colors please"),
    ("It's grey.", "it is gray"),
    ("We'll meet Dr. Smith at 5 o'clock.", "we will meet doctor smith at five o'clock"),
    ("One hundred and five dollars", "$105"),
    ("Um, I can't.", "I can not"),
    ("Well... yes.", "well yes"),
    ("", "..."),
]


@pytest.mark.parametrize(("said", "heard"), SAME)
def test_spelling_numbers_and_contractions_are_no_errors(judge, said, heard):
    assert judge.split(said) == judge.split(heard)


@pytest.mark.parametrize(
    ("said", "heard", "wer", "cer"),
    [
        ("The cat sat.", "the cat sat", 0.0, 0.0),
        ("The cat sat.", "the bat sat", 1 / 3, 1 / 11),  # one word of three, one character of "the cat sat"
        ("Red.", "red red", 1.0, 4 / 3),  # a word too many: " red"
        ("Three colours.", "", 1.0, 1.0),  # "3 colors": nothing of eight characters
        ("Seven apples", "8 apples", 0.5, 1 / 8),  # "7 apples"
    ],
)
def test_errors_by_hand(judge, said, heard, wer, cer):
    assert word_errors([said], [heard], judge.split).wer == pytest.approx(wer, abs=1e-4)
    assert character_errors([said], [heard], judge.split).cer == pytest.approx(cer, abs=1e-4)


def test_chinese_is_compared_by_characters(judge):
    assert judge.split("你好，世界！") == ["你", "好", "世", "界"]
    assert judge.split("My teacher is called 小明, and he's 20.") == ["my", "teacher", "is", "called", "小", "明", "and", "he", "is", "20"], "one sign splits no other word"
    assert word_errors(["你好，世界！"], ["你好世间"], judge.split).wer == pytest.approx(1 / 4)


def test_spelling_comes_from_the_folder(folder, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "copy")
    (copied / "normalizer.json").write_text(json.dumps({"blue": "azure"}))
    assert WhisperJudge.load(copied).split("Blue colour") == ["azure", "colour"]
