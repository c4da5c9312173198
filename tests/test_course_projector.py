"""Notebook 04's stand-ins are the package's own module; runs are counted as the exercise says; a batch can be read without its sound."""

from __future__ import annotations

import pytest
import torch

from mmo.config import IGNORE
from mmo.course.exercises import find, judge
from mmo.course.tasks import projector as tasks
from mmo.data import Batch
from mmo.projector import Projector, runs


def test_projector_is_the_module():
    torch.manual_seed(0)
    module = Projector(6, 10)
    features = torch.randn(2, 3, 6)
    norm, first, _, second = module.mlp
    ours = tasks.projector(features, norm.weight, norm.bias, first.weight, first.bias, second.weight, second.bias)
    assert torch.equal(ours, module(features))


def test_runs_count_row_by_row():
    ids = torch.tensor([[7, 9, 5, 5, 4, 5], [5, 5, 5, 1, 1, 1]])
    run, offset = runs(ids, 5)
    assert run.tolist() == [[-1, -1, 0, 0, -1, 1], [0, 0, 0, -1, -1, -1]]
    assert offset.tolist() == [[-1, -1, 0, 1, -1, 0], [0, 1, 2, -1, -1, -1]]


def test_by_hand_is_the_package_where_no_mistake_is_chosen():
    for case in tasks.place_cases():
        assert torch.equal(tasks.place_by_hand(*case.arguments), tasks.place_features(*case.arguments))
    for case in tasks.runs_cases():
        assert all(map(torch.equal, tasks.runs_by_hand(*case.arguments), runs(*case.arguments)))


def scattered(stream, ids, placeholder, features, lengths=None):
    """The one-liner that works as long as every sound is as long as the longest."""
    return stream.masked_scatter((ids == placeholder)[..., None], features)


def in_place(stream, ids, placeholder, features, lengths=None):
    stream[:] = tasks.place_features(stream, ids, placeholder, features, lengths)
    return stream


def cut_off(stream, ids, placeholder, features, lengths=None):
    return tasks.place_features(stream, ids, placeholder, features.detach(), lengths)


@pytest.mark.parametrize("id, wrong, words", [
    ("04.place_features", scattered, "handed out one after the other"),
    ("04.place_features", in_place, "argument 1 was changed in place"),
    ("04.place_features", cut_off, "no gradient reaches argument 4"),
    ("04.projector", lambda f, s, h, a, b, c, d: torch.relu(torch.nn.functional.layer_norm(f, s.shape, s, h) @ a.T + b) @ c.T + d, "a ReLU"),
    ("04.projector", lambda f, s, h, a, b, c, d: f @ a + b, "RuntimeError"),
    ("04.parameters", lambda f, t: f * t + t * t, "wanted"),
    ("04.runs", lambda ids, placeholder: ((ids == placeholder).cumsum(1), (ids == placeholder).cumsum(1)), "result 1"),
])  # fmt: skip
def test_mistakes_written_by_hand_are_diagnosed(id, wrong, words):
    verdict = judge(find(id), wrong)
    assert verdict.kind == "wrong" and words in verdict.words


def test_a_batch_read_without_its_sound():
    """Cut behind the last text label; nothing of the sound is learnt; what is no padding is counted anew."""
    text_labels = torch.full((2, 9), IGNORE)
    text_labels[0, 2:4], text_labels[1, 3:6] = 7, 8
    batch = Batch(
        input_ids=torch.arange(2 * 9 * 9).view(2, 9, 9), text_labels=text_labels, audio_labels=torch.ones(2, 8, 9, dtype=torch.long), speaker=None,
        audio_features=None, audio_lengths=None, image_features=None, text_length=6, names=("a", "b"), useful=18, stop_cut=0,
    )  # fmt: skip
    read = batch.written()
    assert torch.equal(read.input_ids, batch.input_ids[..., :6]) and torch.equal(read.text_labels, text_labels[:, :6])
    assert read.audio_labels.shape == (2, 8, 6) and (read.audio_labels == IGNORE).all() and read.speaking == ()
    assert read.useful == 4 + 6 and read.size == 12
