"""What data/tiny holds is what the course says of it: splits, hours, voices, pictures, the frozen parts' bounds, and its weight in bytes."""

import json
from functools import lru_cache

import numpy as np
import pyarrow.parquet as pq
import pytest

from mmo.profiles import profile
from mmo.vision_encoder import open_picture
from mmo.world import card, plan, train_speech_encoder, train_vision_encoder

DATA = profile("tiny").data_dir
TASKS = ("t2a", "a2a", "i2t")
HELD_OUT = ("sentence", "pair", "fact")


@lru_cache
def rows(task, split, *columns):
    return pq.read_table(DATA / f"{task}-{split}.parquet", columns=list(columns)).to_pylist()


def said(task, split, tier=None):
    """(question, answer) of each row."""
    found = rows(task, split, "conversations", "tier")
    turns = (json.loads(row["conversations"]) for row in found if tier in (None, row["tier"]))
    return [(asked["content"], answer["content"]) for asked, answer in turns]


def figures(name):
    return json.loads((DATA / "figures" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("task", TASKS)
def test_rows_to_learn_from_are_of_the_training_tier_and_tests_of_the_three_others(task):
    assert {row["tier"] for row in rows(task, "train", "conversations", "tier")} == {"train"}
    assert {row["tier"] for row in rows(task, "test", "conversations", "tier")} == set(HELD_OUT)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", ["test", "validation"])
def test_what_is_asked_is_not_in_the_rows_to_learn_from(task, split):
    """Of pictures the answer: their question is always one of a few."""
    learnt, asked = (set(said(task, part)) if task != "i2t" else {answer for _, answer in said(task, part)} for part in ("train", split))
    assert asked and not asked & learnt


def test_a_fact_is_in_no_text():
    """Nor is a picture's caption of that tier: neither typed, nor spoken, nor written under a picture."""
    learnt = {pair for task in TASKS for pair in said(task, "train")} | set(said("text", "train"))
    withheld = {pair for task in ("t2a", "a2a") for pair in said(task, "test", "fact")}
    assert withheld and not withheld & learnt


def test_ten_hours_of_answers_are_spoken():
    frames = sum(len(codes) for row in rows("t2a", "train", "answer_audios") for codes in row["answer_audios"]) / 8
    assert frames / 12.5 / 3600 >= 10


def test_questions_come_in_many_voices_and_two_are_kept_for_the_test():
    voices = {split: {row["voice"] for row in rows("a2a", split, "voice")} for split in ("train", "validation", "test")}
    assert len(voices["train"]) >= 8 and voices["test"] == set(plan.TEST_VOICES) and len(voices["test"]) == 2
    assert not voices["test"] & (voices["train"] | voices["validation"])


def test_four_thousand_small_pictures():
    found = [row["image_bytes"] for row in rows("i2t", "train", "image_bytes")]
    assert len(found) >= 4000 and all(picture[:4] == b"RIFF" and picture[8:12] == b"WEBP" for picture in found)
    assert max(map(len, found)) < 4000


def test_every_artefact_keeps_its_budget_of_bytes():
    found = {pattern: size / 1e6 for pattern, size, _ in card.sizes(DATA)}
    assert all(0 < found[pattern] <= budget for pattern, budget in card.BUDGET.items()), found
    assert sum(found.values()) <= card.TOTAL == 60
    everything = sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file())
    assert everything - 1e6 * sum(found.values()) < 0.2e6, "files that no budget names"


def test_the_data_card_is_what_the_files_say():
    assert (DATA / "README.md").read_text(encoding="utf-8") == card.card(DATA), "python -m mmo.world.card writes it anew"


def test_the_codec_costs_at_most_five_points_of_the_judges_words():
    for voice, found in figures("codec")["voices"].items():
        assert set(found["wer_by_codebooks"]) == set("12345678")
        assert found["wer_by_codebooks"]["8"] <= found["wer_judge_floor"] + 0.05, voice


def test_the_ear_hears_sentences_and_voices_that_it_never_heard():
    """The shipped weights on the shipped sounds; the figure in the card is theirs."""
    encoder = train_speech_encoder.SpeechEncoder.load(DATA / "speech_encoder")
    clips = train_speech_encoder.shipped_clips(DATA, "test", lambda spoken: spoken.tier == "sentence")
    assert {clip.voice for clip in clips} == set(plan.TEST_VOICES)
    found, told = train_speech_encoder.word_errors(encoder, clips), figures("speech_encoder")["test"]["sentence"]["all"]
    assert found["wer"] <= 0.08 and found["sentences"] == told["sentences"] and abs(found["wer"] - told["wer"]) < 0.005, found


def test_the_eye_finds_the_caption_among_a_hundred():
    """The shipped weights on the shipped pictures: captions that differ in one attribute, and those with above and below exchanged, are among them."""
    settings = train_vision_encoder.Settings()
    model = train_vision_encoder.load_pair(DATA / "vision_encoder")
    of_tier = [row for row in rows("i2t", "test", "conversations", "image_bytes", "tier") if row["tier"] == "sentence"][:100]
    captions = [json.loads(row["conversations"])[1]["content"] for row in of_tier]
    assert any(one.replace("above", "below") == other for one in captions if "above" in one for other in captions)
    pixels = np.stack([train_vision_encoder.fitted(open_picture(row["image_bytes"]), settings.side) for row in of_tier])
    found = train_vision_encoder.recall(train_vision_encoder.see(model, pixels)[1], train_vision_encoder.say(model, captions))
    told = figures("vision_encoder")["retrieval"]["sentence"]["shipped_pool"]
    assert found["caption_of_picture"] >= 0.9 and abs(found["caption_of_picture"] - told["caption_of_picture"]) < 0.02, found
    assert found["control_wrong_picture"] < 0.05
