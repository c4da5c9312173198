"""Notebook 00: its warm-ups mean what the package does, its map and table show what is there."""

from __future__ import annotations

import pytest
import torch

from mmo.codec import Codec, codec_config
from mmo.course import progress, status
from mmo.course.catalogue import read_course
from mmo.course.exercises import judge
from mmo.course.map import BOXES, show_map
from mmo.course.pictures import show_machine
from mmo.course.tasks import warm_up
from mmo.doctor import NEEDS, Gpu, Machine
from speakers import random_mimi


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("MMO_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("MMO_STRICT", raising=False)


@pytest.mark.parametrize("samples", [1, 1919, 1920, 1921, 5000])
def test_frames_are_the_codecs(samples):
    codec = Codec(random_mimi(codec_config(n_filters=4, dimension=32, layers=1, bins=16, codebooks=8, feedforward=64)))
    wave = torch.randn(samples, generator=torch.Generator().manual_seed(0))
    frames = warm_up.cut_frames(wave, codec.frame_size)
    assert len(frames) == codec.frames(samples)
    assert torch.equal(frames.flatten(), codec.whole_frames(wave[None, None], codec.sample_rate)[0, 0])


def test_mistakes_written_by_hand_are_diagnosed():
    def overflowing(logits, labels):
        known = labels != -100
        probabilities = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
        return -probabilities[known, labels[known]].log().mean()

    def padded_by_hand(wave, size):
        return torch.cat((wave, torch.zeros(size - len(wave) % size))).reshape(-1, size)

    assert "log_softmax" in judge(warm_up.LOSS, overflowing).words
    assert "whole frame of silence" in judge(warm_up.FRAMES, padded_by_hand).words
    assert "same shape" not in judge(warm_up.FRAMES, lambda wave, size: wave).words
    assert judge(warm_up.LOSS, torch.nn.functional.cross_entropy).passed


def test_the_map_has_every_notebook():
    numbers = [each.number for each in read_course()]
    assert set(numbers) <= set(BOXES)
    drawn = show_map(numbers, {"05": 0.5}, ("01", "05"))
    assert drawn.png.startswith(b"\x89PNG") and "Marked way: 01, 05" in drawn.alt
    assert "Not there yet: 15." in show_map([number for number in BOXES if number != "15"]).alt


def test_a_machine_is_drawn_with_what_it_can_run():
    ready = dict.fromkeys(NEEDS, True)
    assert "It can run tiny, tiny-moe." in show_machine(Machine(2, 8.0, 100.0, ()), NEEDS, ready).alt
    large = Machine(16, 64.0, 500.0, (Gpu("a card", 25.3, True),))
    assert "It can run tiny, tiny-moe, mini, mini-moe." in show_machine(large, NEEDS, ready).alt
    assert "It can run none of them." in show_machine(large, NEEDS, dict.fromkeys(NEEDS, False)).alt


def test_the_page_shows_points_and_ears(monkeypatch):
    progress.note_attempt("07.delay", True)
    progress.note_round("01.abx3", {"right": 7, "trials": 8})
    progress.note_round("01.dictation", {"clips": 5, "wer": 0.25, "judge": 0.4})
    page = status.status_page()
    assert "3 of 12 ✓ delay" in repr(page) and "01.abx3: 7 of 8" in repr(page) and "01.dictation: WER 25 %" in repr(page)
    assert page._repr_html_().count("<tr>") == len(read_course())
    assert status.shares(progress.load()["exercises"])["07"] == 0.25
    monkeypatch.setenv("MMO_STRICT", "1")
    assert "3 of 12" not in repr(status.status_page())
