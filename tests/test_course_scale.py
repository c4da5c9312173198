"""Appendix A4's stand-ins are what mmo.distributed does; and an appendix has its place in the course like any notebook."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from mmo.course import catalogue, progress
from mmo.course.exercises import all_exercises, find, judge
from mmo.course.tasks import scale
from mmo.distributed import Group, average_gradients, share_of_mean


@dataclass(frozen=True)
class Beside(Group):
    """A group whose other processes have these gradients."""

    others: tuple = ()

    def sum(self, values):
        return values + sum(self.others)


@pytest.mark.parametrize("case", range(3))
def test_average_is_average_gradients_on_every_rank(case):
    """Whichever rank one is, the gradient one goes on with is the same."""
    gradients = scale.AVERAGE.cases()[case].arguments[0]
    shape = next(gradient.shape for gradient in gradients if gradient is not None)
    filled = [torch.zeros(shape) if gradient is None else gradient for gradient in gradients]
    for rank, own in enumerate(gradients):
        parameter = nn.Parameter(torch.zeros(shape))
        parameter.grad = None if own is None else own.clone()
        others = tuple(each.flatten() for number, each in enumerate(filled) if number != rank)
        average_gradients([parameter], Beside(rank, len(gradients), others))
        torch.testing.assert_close(parameter.grad, scale.average(gradients))


def test_denominator_is_share_of_mean():
    for case in scale.denominator_cases():
        own_sum, _, whole_count, size = case.arguments
        torch.testing.assert_close(scale.denominator(*case.arguments), share_of_mean(own_sum, whole_count, size))


def deal_by_hand(count, rank, size):
    return [number for number in range(count) if number % size == rank]


def plain_mean(own_sum, own_count, whole_count, size):
    return own_sum / torch.maximum(own_count, torch.ones_like(own_count))


@pytest.mark.parametrize(
    "id, wrong, words",
    [
        ("A4.shard", deal_by_hand, "for ever"),
        ("A4.average", lambda gradients: sum(g for g in gradients if g is not None) / sum(g is not None for g in gradients), "left out of the mean"),
        ("A4.denominator", plain_mean, "this rank's labels"),
        ("A4.speedup", lambda work, gradient_bytes, bandwidth, cards: work / (work / cards + gradient_bytes / bandwidth), "wanted"),
    ],
)
def test_mistakes_written_by_hand_are_diagnosed(id, wrong, words):
    verdict = judge(find(id), wrong)
    assert verdict.kind == "wrong"
    assert words in verdict.words


def zero_where_there_is_no_label(own_sum, own_count, whole_count, size):
    return torch.where(whole_count > 0, size * own_sum / whole_count.clamp(min=1), torch.zeros_like(own_sum))


def test_without_any_label_zero_is_right_however_it_comes_about():
    """The gradient of a mean over nothing means nothing."""
    assert judge(find("A4.denominator"), zero_where_there_is_no_label).passed
    assert judge(find("A4.denominator"), lambda own_sum, own_count, whole_count, size: size * own_sum / whole_count if whole_count.any() else torch.zeros_like(own_sum)).passed


def test_an_appendix_stands_behind_the_notebooks(tmp_path, monkeypatch):
    monkeypatch.setenv("MMO_RUNS", str(tmp_path))
    numbers = [entry.number for entry in catalogue.read_course()]
    assert numbers == sorted(numbers) and numbers[-1] == "A4"
    assert [each.notebook for each in all_exercises()][-4:] == ["A4"] * 4
    assert "| A4 | [Scale out](notebooks/A4_scale_out.ipynb)" in catalogue.table(catalogue.read_course())
    progress.note_attempt("A4.shard", True)
    progress.note_attempt("09.conv", True)
    assert progress.reset("A4") == 1
