"""Notebooks 10 to 12: what their exercises are compared with is what the package computes."""

import numpy as np
import pytest
import torch
from torch import nn

from mmo.course.tasks import errors, training, trusting
from mmo.measures import interval
from mmo.measures import word_errors as package_word_errors
from mmo.optimiser import Average


def test_average_is_the_packages():
    parameter = nn.Parameter(torch.randn(3, 4))
    kept = Average({"w": parameter}, 0.9)
    wanted = parameter.detach().clone()
    for update in range(1, 30):
        parameter.data += torch.randn(3, 4)
        kept.update()
        wanted = training.average(wanted, parameter.detach(), 0.9, update)
    torch.testing.assert_close(kept.values["w"], wanted)


@pytest.mark.parametrize("case", range(len(errors.cases())))
def test_word_errors_are_the_packages(case):
    wanted, heard = errors.cases()[case].arguments
    counted = package_word_errors([" ".join(wanted)], [" ".join(heard)])
    assert errors.word_errors(wanted, heard) == int(counted.errors.sum())


def test_interval_is_the_packages():
    hits = (torch.arange(80) % 4 > 0)
    drawn = torch.from_numpy(np.random.default_rng(0).integers(80, size=(1000, 80)))
    found = interval(hits.numpy().astype(int), np.ones(80, dtype=int), 0)
    assert [round(float(edge), 4) for edge in trusting.interval(hits, drawn)] == found
