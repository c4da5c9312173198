"""Notebook 04's stand-ins are the package's own module; runs are counted as the exercise says; a batch can be read without its sound."""

from __future__ import annotations

import torch

from mmo.course.tasks import projector as tasks
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
