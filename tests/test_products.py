"""Products in bfloat16: only products, only while gradients are wanted, few shapes, and a row's own result whoever stands beside it."""

from contextlib import nullcontext

import pytest
import torch
import worlds
from test_training import CPU, losses, profile, run, some_batch, stage_config  # noqa: F401  (profile is a fixture)
from torch import nn

from mmo import products
from mmo.moe import MixtureOfExperts
from mmo.omni import OmniModel
from mmo.optimiser import Optimisers
from mmo.products import GRAIN, GatedProduct, HeadProduct, Product, QuickProducts, rounded
from mmo.profiles import STAGES
from mmo.profiles import profile as own_profile
from mmo.training import Stepper, losses_of
from mmo.transformer import Attention, FeedForward, RMSNorm


@pytest.fixture
def units(monkeypatch):
    """Every CPU has units for bfloat16 (others than those compute it slowly, and the same), and every product is large enough."""
    monkeypatch.setattr("mmo.training.has_units", lambda device: True)
    monkeypatch.setattr(products, "SMALLEST", 2)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def outcomes(function, inputs, sent):
    """What comes out, and the gradients of all that goes in, as float32."""
    inputs = [each.detach().requires_grad_() for each in inputs]
    out = function(*inputs)
    return [out.detach().float(), *(each.float() for each in torch.autograd.grad(out, inputs, sent.to(out.dtype)))]


def gated(x, gate, up, down):
    return (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T


def headed(x, base, low, outer):
    return x @ base.T + low @ outer.mT


@pytest.mark.parametrize("quick, plain, shapes, wide", [
    (Product.apply, lambda x, weight: x @ weight.T, [(37, 48), (24, 48)], (37, 24)),
    (GatedProduct.apply, gated, [(37, 48), (80, 48), (80, 48), (48, 80)], (37, 48)),
    (HeadProduct.apply, headed, [(37, 48), (24, 48), (8, 37, 16), (8, 24, 16)], (8, 37, 24)),
], ids=["layer", "feed-forward", "head"])  # fmt: skip
def test_products_and_their_gradients_are_float32s_to_bfloat16s_rounding(quick, plain, shapes, wide):
    inputs = [drawn(*shape, seed=place) / shape[-1] ** 0.5 for place, shape in enumerate(shapes)]
    sent = drawn(*wide, seed=9)
    for place, (found, wanted) in enumerate(zip(outcomes(quick, inputs, sent), outcomes(plain, inputs, sent), strict=True)):
        assert found.shape == wanted.shape and 0 < (found - wanted).norm() < 0.01 * wanted.norm(), "the result" if not place else f"gradient {place - 1}"


def test_rows_of_zeros_add_nothing_to_a_weights_gradient():
    """What bfloat16 says of the rows alone."""
    x, weight, sent = drawn(37, 48), drawn(24, 48, seed=1).requires_grad_(), drawn(37, 24, seed=2)
    (found,) = torch.autograd.grad(Product.apply(x, weight), weight, sent)
    torch.testing.assert_close(found, sent.bfloat16().float().T @ x.bfloat16().float(), rtol=2**-7, atol=1e-3)


def test_a_row_does_not_know_how_many_stand_beside_it():
    x, weight = drawn(GRAIN, 48), drawn(24, 48, seed=1).requires_grad_()
    all_of_them = Product.apply(x, weight)
    for count in (1, 5, GRAIN - 1):
        assert torch.equal(Product.apply(x[:count], weight), all_of_them[:count]), count


def test_batches_of_any_size_have_few_shapes():
    assert {len(rounded(torch.ones(count, 4))) for count in range(1, 4 * GRAIN + 1)} == {GRAIN, 2 * GRAIN, 3 * GRAIN, 4 * GRAIN}


def test_bias_and_shape_are_those_of_a_linear_layer():
    layer = nn.Linear(80, 70)
    x = drawn(3, 5, 80)
    with QuickProducts(layer):
        found = layer(x)
    assert found.shape == (3, 5, 70)
    torch.testing.assert_close(found, layer(x), rtol=0.03, atol=0.03)


def test_all_products_of_the_model_and_nothing_else_are_rounded(profile, tmp_path, units):  # noqa: F811
    """A loss near float32's, gradients that point the same way; norms and attention see float32."""
    batch = some_batch(profile, tmp_path)
    torch.manual_seed(0)
    model = OmniModel(profile.model).train()
    seen = []
    kept = (RMSNorm, Attention, FeedForward, nn.Linear)
    hooks = [module.register_forward_hook(lambda module, given, out: seen.append(out.dtype)) for module in model.modules() if isinstance(module, kept)]

    def outcome(context):
        model.zero_grad()
        with context:
            loss, _ = losses_of(model, batch, stage_config(), CPU)
        loss.backward()
        return loss.item(), {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}

    wanted, gradients = outcome(nullcontext())
    found, own = outcome(QuickProducts(model))
    assert found != wanted and found == pytest.approx(wanted, rel=5e-3)
    assert set(own) == set(gradients) and seen and set(seen) == {torch.float32}
    for name, gradient in gradients.items():
        if gradient.norm() > 1e-6:
            assert torch.cosine_similarity(own[name].flatten(), gradient.flatten(), dim=0) > 0.98, name
    for hook in hooks:
        hook.remove()


def test_the_talkers_head_is_among_them(units):
    head = OmniModel(worlds.MODEL).talker.lm_head
    hidden = drawn(11, worlds.MODEL.talker_hidden_size).requires_grad_()
    with QuickProducts(head):
        found = head(hidden)
    names, steps = set(), [found.grad_fn]
    while steps:
        step = steps.pop()
        names.add(step.name())
        steps += [each for each, _ in step.next_functions if each is not None]
    assert found.dtype == torch.bfloat16  # as the losses take it
    assert {"HeadProductBackward", "ProductBackward"} < names and not names & {"MmBackward0", "BmmBackward0", "BaddbmmBackward0", "AddmmBackward0"}, names
    torch.testing.assert_close(found.float(), head(hidden), rtol=0.05, atol=0.05)


def test_without_gradients_nothing_changes(profile, tmp_path, units):  # noqa: F811
    """Validation and answers are computed in float32."""
    batch = some_batch(profile, tmp_path)
    model = OmniModel(profile.model).eval()
    with torch.no_grad():
        wanted = losses_of(model, batch, stage_config(), CPU)[1]
        with QuickProducts(model):
            assert torch.equal(losses_of(model, batch, stage_config(), CPU)[1], wanted)


def test_behind_the_block_the_model_is_as_it_was(profile):  # noqa: F811
    model = OmniModel(profile.model)
    with pytest.raises(RuntimeError), QuickProducts(model):
        raise RuntimeError
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_router_chooses_by_exact_numbers(monkeypatch):
    monkeypatch.setattr(products, "SMALLEST", 8)
    model = OmniModel(worlds.MODEL.replace(use_moe=True))
    gates = {module.gate for module in model.modules() if isinstance(module, MixtureOfExperts)}
    chosen = set(QuickProducts(model).forwards)
    assert gates and len(chosen) > 20 and not gates & chosen


@pytest.mark.parametrize("changes, dtype, there, quick", [
    ({}, torch.float32, True, True), ({}, torch.float32, False, False), ({}, torch.bfloat16, True, False),
    (dict(quick_products=False), torch.float32, True, False), (dict(compile=True), torch.float32, True, False),
])  # fmt: skip
def test_when_products_are_quick(profile, monkeypatch, changes, dtype, there, quick):  # noqa: F811
    """Asked for, in float32, on a processor with such units, and not where blocks are compiled."""
    monkeypatch.setattr("mmo.training.has_units", lambda device: there)
    monkeypatch.setattr("mmo.training.Compilation", lambda *given, **named: None)
    stepper = Stepper(OmniModel(profile.model).train(), stage_config(optimiser="muon", **{"quick_products": True} | changes), 10, CPU, dtype)
    assert isinstance(stepper.products, QuickProducts) == quick
    assert stepper.optimisers.muon.products == (torch.bfloat16 if quick else None)


def test_a_card_has_no_need_of_them(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert products.has_units(CPU) and not products.has_units(torch.device("cuda"))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not products.has_units(CPU)


def test_muons_own_products_too():
    """The same direction to bfloat16's rounding."""
    moved = []
    for kind in (torch.float32, torch.bfloat16):
        weight = nn.Parameter(drawn(24, 24))
        parameters = {"model.layers.0.mlp.up_proj.weight": weight, "model.norm.weight": nn.Parameter(torch.ones(4))}
        optimisers = Optimisers(parameters, stage_config(optimiser="muon", weight_decay=0.0), kind)
        weight.grad = drawn(24, 24, seed=1)
        optimisers.muon.step()
        moved.append(weight.detach() - drawn(24, 24))
    assert 0 < (moved[0] - moved[1]).norm() < 0.05 * moved[0].norm()


def test_resumed_equals_unbroken_with_them(profile, tmp_path, units):  # noqa: F811
    stages = {name: tuple(each.replace(quick_products=True) for each in passes) for name, passes in profile.stages.items()}
    quick = profile.__class__(**{**vars(profile), "stages": stages})
    whole = run(quick, "t2a", tmp_path / "whole")
    asked = iter([False, False, True])
    broken = run(quick, "t2a", tmp_path / "broken", pause=lambda: next(asked, False))
    assert not broken.finished
    resumed = run(quick, "t2a", tmp_path / "broken")
    assert resumed.finished and losses(resumed.log_file) == losses(whole.log_file)
    plain = run(profile, "t2a", tmp_path / "plain")
    assert losses(plain.log_file) != losses(whole.log_file), "nothing was rounded"


def test_tiny_asks_for_them():
    for name in ("tiny", "tiny-moe"):
        assert all(each.quick_products for stage in STAGES for each in own_profile(name).stages[stage])
    assert not any(each.quick_products for stage in STAGES for each in own_profile("mini").stages[stage])
