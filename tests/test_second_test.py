"""The second test: nothing in it stands in the shipped rows, and it is asked as the first one is."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmo import examination
from mmo.profiles import profile
from mmo.world import plan, second_test, speech

DATA = profile("tiny").data_dir


@pytest.fixture(scope="module")
def questions():
    return second_test.new_questions(DATA, 20)


@pytest.fixture(scope="module")
def seen():
    return second_test.new_pictures(DATA, 40)


def test_no_row_asks_what_it_asks(questions):
    asked = {each.question for each in questions}
    assert len(asked) == 20 and not asked & second_test.shipped(DATA, "a2a", "user")
    assert {(each.tier, each.split) for each in questions} == {("sentence", "test")}


def test_the_two_voices_take_turns(questions):
    assert [each.voice for each in questions] == 10 * list(plan.TEST_VOICES)


def test_no_caption_stands_in_a_row(seen):
    captions = {each.scene.caption for each in seen}
    assert len(captions) == 40 and not captions & second_test.shipped(DATA, "i2t", "assistant")


def test_it_is_the_same_every_time(questions, seen):
    assert second_test.new_questions(DATA, 20) == questions and second_test.new_pictures(DATA, 40) == seen
    assert second_test.new_pictures(DATA, 40, seed=second_test.SEED + 1) != seen


def test_the_world_is_small(monkeypatch):
    """There may be fewer than were asked for, and none twice."""
    monkeypatch.setattr(second_test, "PLANS", 2)
    found = second_test.new_questions(DATA, 10_000)
    assert 40 < len(found) < 300 and len({each.question for each in found}) == len(found)


def test_sounds_and_pictures_are_as_in_the_rows(questions, seen, monkeypatch):
    monkeypatch.setattr(speech, "synthesise", lambda *_: (np.random.default_rng(0).normal(0, 0.1, 22_050).astype(np.float32), 22_050))
    item, shown = second_test.spoken(questions[0]), second_test.shown(seen[0])
    info = soundfile.info(io.BytesIO(item.question_sound))
    assert (info.samplerate, info.subtype) == (16_000, "OPUS") and (item.question, item.truth) == (questions[0].question, questions[0].answer)
    assert Image.open(io.BytesIO(shown.picture)).format == "WEBP" and shown.truth == seen[0].scene.caption and shown.question


def test_without_the_synthesisers_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(second_test, "PROGRAMS", ("no-such-program",))
    with pytest.raises(FileNotFoundError, match="flite and Festival.*there is no no-such-program: install them"):
        second_test.both(profile("tiny"), tmp_path, 2)


def test_both_tests_are_asked_of_the_shipped_weights(tmp_path, monkeypatch, capsys):
    """Eight items each; the second test's sounds are the first one's here, for nobody may speak where tests run."""
    first = iter(examination.read_items(DATA / "a2a-test.parquet", profile("tiny").model, ("question_audios",)))
    monkeypatch.setattr(second_test, "spoken", lambda rendering: replace(next(first), voice=rendering.voice))
    monkeypatch.setattr(second_test, "PROGRAMS", ())
    monkeypatch.setattr("sys.argv", ["second_test", "--count", "8", "--run", str(tmp_path / "run")])
    second_test.main()
    found = json.loads((tmp_path / "run" / "second_test.json").read_text(encoding="utf-8"))
    for test in ("first", "second"):
        assert found[test]["questions"] == found[test]["pictures"] == 8
        assert found[test]["answer_accuracy"] >= 0.5 and found[test]["exact_match"] >= 0.5, found
    assert "exact_match_one_look" in capsys.readouterr().out
