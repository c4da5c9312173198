"""Ear training: scores mean what they say, rounds are kept, and where nobody can press a button there is something to see and hear."""

from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest
import torch

from mmo.course import ears, progress

RATE = 24000


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("MMO_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("MMO_STRICT", raising=False)


def tone(frequency: float, loudness: float = 0.1, seconds: float = 0.3) -> np.ndarray:
    return (loudness * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


LOW, HIGH = tone(300), tone(600)


# --- Figures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trials", [1, 4, 8])
def test_chance_is_what_counting_all_rounds_gives(trials):
    scores = [sum(answers) for answers in product((0, 1), repeat=trials)]
    for right in range(trials + 1):
        assert ears.chance(right, trials) == pytest.approx(np.mean([score >= right for score in scores]))


def test_how_many_right_answers_show_something():
    assert [ears.needed(trials) for trials in (1, 4, 5, 8, 16)] == [None, None, 5, 7, 12]
    assert "You hear the difference" in ears.judgement(7, 8)
    assert "does not show" in ears.judgement(6, 8)
    with pytest.raises(ValueError, match="9 right answers"):
        ears.chance(9, 8)


def test_all_sounds_are_equally_loud():
    """Else the louder one is told by its loudness."""
    loud, soft = (ears.levelled(tone(300, loudness)) for loudness in (0.9, 0.001))
    assert np.sqrt(np.mean(loud**2)) == pytest.approx(np.sqrt(np.mean(soft**2)), rel=1e-3)
    assert not ears.levelled(np.zeros(100, np.float32)).any()
    click = np.zeros(24000, np.float32)
    click[5] = 0.5
    assert np.abs(ears.levelled(click)).max() <= 0.99


@pytest.mark.parametrize("sounds, count", [(LOW, 1), (torch.from_numpy(LOW), 1), ([LOW, HIGH], 2), (torch.zeros(1, 1, 50), 1)])
def test_one_sound_or_several(sounds, count):
    assert len(ears.several(sounds)) == count


# --- ABX ---------------------------------------------------------------------------------------------------------


def test_rounds_are_drawn_anew_but_the_first_is_always_the_same():
    pairs = [LOW, HIGH, tone(450)], [HIGH, LOW, tone(500)]
    first, same, other = (ears.abx("01.x", *pairs, RATE, trials=6, seed=seed, live=False).plan for seed in (0, 0, 1))
    assert first == same != other
    assert sorted(pair for pair, _ in first) == [0, 0, 1, 1, 2, 2]
    assert {is_a for _, is_a in ears.abx("01.x", *pairs, RATE, trials=40, live=False).plan} == {True, False}


def test_x_is_one_of_the_two():
    test = ears.abx("01.x", LOW, HIGH, RATE, names=("low", "high"), trials=20, live=False)
    for trial, (_, is_a) in enumerate(test.plan):
        played = test.sounds(trial)
        assert np.array_equal(played["X: which is it?"], played["A: low" if is_a else "B: high"])
        assert not np.array_equal(played["X: which is it?"], played["B: high" if is_a else "A: low"])


def press(test: ears.Abx, rights: list[bool]) -> None:
    for right in rights:
        truth = test.plan[len(test.answers)][1]
        test.choices[0 if truth == right else 1].click()


def test_buttons_play_a_round_to_its_end_and_keep_the_score():
    test = ears.abx("01.x", LOW, HIGH, RATE, trials=4, live=True)
    assert test._repr_mimebundle_()["application/vnd.jupyter.widget-view+json"]
    assert "Trial 1 of 4" in test.players.value and test.players.value.count("<audio") == 3
    press(test, [True, False])
    assert ">No:</b>" in test.verdict.value and "1 of 2 so far" in test.verdict.value
    press(test, [True, True])
    assert progress.rounds("01.x") == [{"right": 3, "trials": 4, "p": 0.3125}]
    assert "3 of 4 right, p = 0.312" in test.verdict.value and "<img" in test.verdict.value
    assert all(button.disabled for button in test.choices)
    first = test.plan
    test.again.click()
    assert "3 of 4" in test.verdict.value and not test.done and "Trial 1 of 4" in test.players.value
    press(test, [True] * 4)
    assert [each["right"] for each in progress.rounds("01.x")] == [3, 4]
    assert len(first) == len(test.plan)
    assert progress.reset("01") == 1 and progress.rounds("01.x") == []


def test_strict_keeps_no_score(monkeypatch):
    monkeypatch.setenv("MMO_STRICT", "1")
    test = ears.abx("01.x", LOW, HIGH, RATE, trials=1, live=False)
    test.answer(True)
    assert not progress.progress_file().exists()
    with pytest.raises(ValueError, match="over"):
        test.answer(True)


def test_abx_without_buttons_is_a_picture_and_one_trial():
    page = ears.abx("01.x", [LOW] * 5, [HIGH] * 5, RATE, names=("low <", "high"), texts=["beep"] * 5, live=False)._repr_mimebundle_()["text/html"]
    assert page.count("<audio") == 3 and page.count("data:image/png") == 3
    assert "A, low &lt;: beep" in page and "<summary>X is" in page
    assert len(page) < 150_000


def test_nobody_works_in_a_test():
    assert not ears.abx("01.x", LOW, HIGH, RATE).live


def test_unequal_sides_are_refused():
    with pytest.raises(ValueError, match="2 sounds A, but 1 sounds B"):
        ears.abx("01.x", [LOW, HIGH], [LOW], RATE)
    with pytest.raises(ValueError, match="2 transcripts for 1 pairs"):
        ears.abx("01.x", LOW, HIGH, RATE, texts=["a", "b"])
    with pytest.raises(ValueError, match="no sound"):
        ears.abx("01.x", [], [], RATE)


# --- Dictation ---------------------------------------------------------------------------------------------------

TEXTS = ["A red heart.", "Two plus one is three.", "Hello."]
HEARD = ["a red heart", "two plus one three", "yellow"]


def plain(page: str) -> str:
    return " ".join(re.sub("<[^>]*>", " ", page).split())


def test_a_dictation_is_written_down_and_kept():
    calls = []

    def judge(sounds):
        calls.append([len(samples) for samples, rate in sounds if rate == RATE])
        return HEARD

    test = ears.dictation("01.d", [LOW, HIGH, LOW], TEXTS, RATE, heard=judge, live=True)
    assert test._repr_mimebundle_()["application/vnd.jupyter.widget-view+json"]
    for place, words in enumerate(["a red heart", "7 plus one", "Two plus two is three!", "hello"]):
        test.line.value = words
        test.next.click()
        if place == 1:
            assert "seven, not 7" in test.said.value and len(test.written) == 1
        if place == 2:
            assert "<s" in test.said.value and plain(test.said.value) == "Clip 2: two plus two one is three"
    assert test.over and test.next.disabled
    assert calls == [[len(LOW)] * 3]
    assert test.yours.wer == pytest.approx(1 / 9, abs=1e-4) and test.judges.wer == pytest.approx(2 / 9, abs=1e-4)
    assert progress.rounds("01.d") == [{"clips": 3, "wer": test.yours.wer, "judge": test.judges.wer}]
    assert "Two plus one is three." in test.said.value and "<img" in test.said.value


def test_ending_early_compares_the_same_clips():
    test = ears.dictation("01.d", [LOW, HIGH, LOW], TEXTS, RATE, heard=HEARD, live=True)
    test.box
    test.line.value = "a heart"
    test.next.click()
    test.stop.click()
    assert progress.rounds("01.d") == [{"clips": 1, "wer": 0.3333, "judge": 0.0}]
    test.stop.click()
    assert len(progress.rounds("01.d")) == 1
    with pytest.raises(ValueError, match="over"):
        test.write("more")


def test_ending_at_once_keeps_nothing():
    test = ears.dictation("01.d", [LOW], TEXTS[:1], RATE, live=True)
    test.box
    test.stop.click()
    assert "Nothing was written" in test.said.value and progress.rounds("01.d") == []


def test_dictation_without_buttons_is_a_picture_and_one_clip():
    test = ears.dictation("01.d", [LOW, HIGH, LOW], TEXTS, RATE, heard=HEARD, live=False)
    page = test._repr_mimebundle_()["text/html"]
    assert page.count("<audio") == 1 and page.count("data:image/png") == 2
    assert "A red heart." in page and "22 %" in repr(test)
    assert ears.dictation("01.d", [LOW], TEXTS[:1], RATE, live=False)._repr_mimebundle_()["text/html"]


@pytest.mark.parametrize("clips, texts, heard, words", [([LOW], TEXTS, None, "1 clips for 3 texts"), ([], [], None, "0 clips"), ([LOW], TEXTS[:1], HEARD, "3 transcripts")])
def test_what_does_not_fit_is_refused(clips, texts, heard, words):
    with pytest.raises(ValueError, match=words):
        ears.dictation("01.d", clips, texts, RATE, heard=heard)


def test_progress_files_from_before_are_read():
    file = progress.progress_file()
    file.parent.mkdir(parents=True)
    file.write_text('{"version": 1, "exercises": {"07.delay": {"passed": true}}, "predictions": {}}')
    progress.note_round("01.x", {"right": 1, "trials": 1})
    assert progress.load()["exercises"]["07.delay"]["passed"] and progress.rounds("01.x")
