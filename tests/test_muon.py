"""Muon: torch's own update, in float32 on the CPU."""

import pytest
import torch
from torch import nn

from mmo.muon import Muon, all_rounds, orthogonal


@pytest.mark.parametrize("shape", [(16, 16), (24, 8), (8, 24)])
def test_singular_values_become_alike(shape):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 1.0, 100.0]).view(3, 1, 1)
    values = torch.linalg.svdvals(orthogonal(matrices, torch.float32))
    assert values.min() > 0.3 and values.max() < 1.6, values


def test_wide_matrices_take_the_short_way_to_the_same_place():
    """The product of all rounds' polynomials times x is x after all rounds."""
    x = torch.randn(2, 8, 24, generator=torch.Generator().manual_seed(0))
    x = x / x.norm(dim=(1, 2), keepdim=True)
    expected = x
    for _ in range(5):
        gram = expected @ expected.mT
        expected = (3.4445 * torch.eye(8) - 4.775 * gram + 2.0315 * gram @ gram) @ expected
    assert torch.allclose(all_rounds(x @ x.mT) @ x, expected, atol=1e-5)
    assert torch.allclose(orthogonal(x, torch.float32), expected, atol=1e-5)


def test_updates_are_torchs():
    """Same parameters, same gradients: within bfloat16's rounding, in which torch computes."""
    torch.manual_seed(0)
    start = [torch.randn(shape) for shape in ((12, 20), (20, 12), (12, 20), (8, 20), (20, 8))]
    ours, theirs = ([nn.Parameter(each.clone()) for each in start] for _ in range(2))
    optimisers = Muon(ours, lr=0.02, weight_decay=0.1), torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1)
    for step in range(4):
        for one, other in zip(ours, theirs):
            one.grad = torch.randn(one.shape, generator=torch.Generator().manual_seed(step))
            other.grad = one.grad.clone()
        for optimiser in optimisers:
            optimiser.step()
    for one, other, begun in zip(ours, theirs, start):
        moved = (one - begun).norm()
        assert (one - other).norm() < 0.02 * moved, "the two have parted"


def test_a_parameter_without_gradient_stays():
    parameter = nn.Parameter(torch.ones(4, 4))
    Muon([parameter], lr=0.1, weight_decay=0.1).step()
    assert torch.equal(parameter, torch.ones(4, 4))


def test_vectors_are_refused():
    with pytest.raises(ValueError, match="matrices"):
        Muon([nn.Parameter(torch.ones(4))], lr=0.1)
