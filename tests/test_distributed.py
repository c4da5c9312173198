"""Shares of a batch teach what the whole batch teaches: in formulas, and with two processes that torchrun starts."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from mmo.distributed import Group, average_gradients, exchange_seconds, share, share_of_mean, speed_up


@pytest.mark.parametrize("count, size", [(8, 2), (9, 2), (3, 4), (17, 8), (5, 1)])
def test_shares_are_equal_disjoint_and_leave_out_less_than_a_round(count, size):
    shares = [share(count, rank, size) for rank in range(size)]
    assert len({len(each) for each in shares}) == 1
    together = [number for each in shares for number in each]
    assert len(set(together)) == len(together) > count - size
    assert all(abs(a - b) < size for step in zip(*shares) for a in step for b in step)


def test_averaged_shares_are_the_mean_over_all():
    """Unlike counts, as shares have."""
    x, parts = torch.randn(10, requires_grad=True), (slice(0, 7), slice(7, 10))
    whole = x.square().mean()
    wanted = torch.autograd.grad(whole, x)[0]
    shares = [share_of_mean(x[part].square().sum(), torch.tensor(10), 2) for part in parts]
    torch.testing.assert_close(torch.stack(shares).mean(), whole)
    torch.testing.assert_close(torch.autograd.grad(torch.stack(shares).mean(), x)[0], wanted)


@dataclass(frozen=True)
class Beside(Group):
    """A group of two, of which the other process has gradients of 3 everywhere."""

    size: int = 2

    def sum(self, values):
        return values + 3


def test_a_missing_gradient_counts_as_zeros():
    with_one, without = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(4))
    with_one.grad = torch.full((2, 3), 5.0)
    average_gradients([with_one, without], Beside())
    assert with_one.grad.eq(4).all() and with_one.grad.shape == (2, 3)
    assert without.grad.eq(1.5).all()


def test_the_ring_never_sends_all_bytes_more_than_twice():
    assert exchange_seconds(100, 10, 1) == 0
    assert exchange_seconds(100, 10, 2) == 10
    assert exchange_seconds(100, 10, 1000) < 20
    assert speed_up(1.0, 0, 1, 8) == 8
    assert speed_up(1.0, 1e9, 1e9, 8) < 1


def run(out, *arguments, processes=1):
    command = [sys.executable, "-m"]
    command += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"] if processes > 1 else []
    done = subprocess.run([*command, "mmo.distributed", "--steps", "2", "--rows", "6", "--out", str(out), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with safe_open(out, "pt") as file:
        return load_file(out), json.loads(file.metadata()["losses"])


def largest(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_two_processes_learn_what_one_learns(tmp_path):
    """torchrun, gloo, unequal counts: equal weights with shared denominators; other weights with each its own mean."""
    alone, losses = run(tmp_path / "one.safetensors")
    together, same_losses = run(tmp_path / "two.safetensors", processes=2)
    apart, _ = run(tmp_path / "own.safetensors", "--own-means", processes=2)
    assert losses == pytest.approx(same_losses, rel=1e-5)
    assert largest(alone, together) < 1e-5
    assert largest(alone, apart) > 20 * largest(alone, together)
