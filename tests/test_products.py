"""Products in bfloat16: only products, only while gradients are wanted, few shapes, and a row's own result whoever stands beside it."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import worlds
from test_training import CPU, losses, profile, run, some_batch, stage_config  # noqa: F401  (profile is a fixture)
from torch import nn

from mmo import products
from mmo.bench.train import TrainBench, bench_train
from mmo.distributed import Group
from mmo.moe import MixtureOfExperts
from mmo.omni import OmniModel
from mmo.optimiser import Optimisers
from mmo.products import GRAIN, GatedProduct, HeadProduct, Product, QuickProducts, rounded
from mmo.profiles import STAGES
from mmo.profiles import profile as own_profile
from mmo.training import Stepper, losses_of, settings_key
from mmo.transformer import Attention, FeedForward, RMSNorm


@pytest.fixture
def units(monkeypatch):
    """Every CPU has units for bfloat16 (others than those compute it slowly, and the same), and every product is large enough."""
    monkeypatch.setattr(products, "has_units", lambda device: True)
    monkeypatch.setattr(products, "SMALLEST", 2)


def steps_behind(result):
    """Names of what the gradients of `result` will go through."""
    names, steps = set(), [result.grad_fn]
    while steps:
        step = steps.pop()
        names.add(step.name())
        steps += [each for each, _ in step.next_functions if each is not None]
    return names


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


@pytest.mark.parametrize("quick, shapes", [
    (Product.apply, [(700, 192), (512, 192)]), (GatedProduct.apply, [(700, 192), (512, 192), (512, 192), (192, 512)]),
    (HeadProduct.apply, [(700, 192), (576, 192), (8, 700, 64), (8, 576, 64)]),
], ids=["layer", "feed-forward", "head"])  # fmt: skip
def test_nor_at_tinys_own_sizes(quick, shapes):
    """With units for bfloat16 to the bit, and so its gradient; elsewhere a kernel may be chosen by the number of rows."""
    inputs = [drawn(*shape, seed=place) / shape[-1] ** 0.5 for place, shape in enumerate(shapes)]

    def first_five(count):
        some = [each[..., :count, :] if each.shape[-2] == 700 else each for each in inputs]
        sent = drawn(*quick(*inputs).shape, seed=9)[..., :count, :]
        out, to_rows, *_ = outcomes(quick, some, sent)
        return out[..., :5, :], to_rows[:5]

    alone = first_five(5)
    for count in (300, 700):
        for one, other in zip(alone, first_five(count), strict=True):
            same = torch.equal(one, other) if torch.cpu._is_amx_tile_supported() else torch.allclose(one, other, rtol=0.02, atol=0.02)
            assert same, count


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
    with QuickProducts(model):
        steps = steps_behind(losses_of(model, batch, stage_config(), CPU)[0])
    assert {"ProductBackward", "GatedProductBackward", "HeadProductBackward"} < steps and not steps & {"MmBackward0", "AddmmBackward0", "BmmBackward0"}, steps
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
    names = steps_behind(found)
    assert found.dtype == torch.bfloat16  # as the losses take it
    assert {"HeadProductBackward", "ProductBackward"} < names and not names & {"MmBackward0", "BmmBackward0", "BaddbmmBackward0", "AddmmBackward0"}, names
    torch.testing.assert_close(found.float(), head(hidden), rtol=0.05, atol=0.05)


def test_a_share_without_a_spoken_label_asks_the_head_about_nothing(units):
    head = OmniModel(worlds.MODEL).talker.lm_head
    with QuickProducts(head):
        logits = head(torch.empty(0, worlds.MODEL.talker_hidden_size, requires_grad=True))
    assert logits.shape == (0, worlds.MODEL.num_codebooks, worlds.MODEL.audio_vocab_size)
    logits.sum().backward()


def test_of_a_group_of_weights_those_learn_that_may(units):
    torch.manual_seed(0)
    layers, head = FeedForward(16, 24), OmniModel(worlds.MODEL).talker.lm_head
    layers.gate_proj.requires_grad_(False)
    head.base.requires_grad_(False)
    for module, width in ((layers, 16), (head, worlds.MODEL.talker_hidden_size)):
        with QuickProducts(module):
            module(drawn(5, width)).float().square().sum().backward()
        for name, parameter in module.named_parameters():
            assert (parameter.grad is not None and bool(parameter.grad.any())) == parameter.requires_grad, name


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
    monkeypatch.setattr(products, "SMALLEST", 2)
    model = OmniModel(worlds.MODEL.replace(use_moe=True))
    gates = {module.gate for module in model.modules() if isinstance(module, MixtureOfExperts)}
    chosen = set(QuickProducts(model).forwards)
    assert gates and len(chosen) > 20 and not gates & chosen


def test_an_expert_without_positions_has_gradients_of_zeros(monkeypatch):
    """As processes that share a batch need it."""
    monkeypatch.setattr(products, "SMALLEST", 8)
    expert = FeedForward(16, 24)
    with QuickProducts(expert):
        out = expert(torch.empty(0, 16, requires_grad=True))
    out.sum().backward()
    assert out.shape == (0, 16) and all(each.grad is not None and not each.grad.any() for each in expert.parameters())


def test_blocks_within_each_other_leave_nothing_behind():
    layer = nn.Linear(80, 70)
    quick = QuickProducts(layer)
    with quick:
        with quick:
            pass
        assert "forward" in vars(layer)
    assert "forward" not in vars(layer)


def test_what_is_made_from_a_layer_computes_its_own():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    assert not QuickProducts(nn.Sequential(Doubled(80, 70))).forwards


def test_gradients_of_gradients_are_refused():
    """They would be wrong: what was kept for the first ones is no function of anything."""
    weight = drawn(70, 80).requires_grad_()
    (gradient,) = torch.autograd.grad(Product.apply(drawn(3, 80), weight).square().sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_one_vector_is_a_row():
    layer = nn.Linear(80, 70)
    with QuickProducts(layer):
        found = layer(drawn(80))
    torch.testing.assert_close(found, layer(drawn(80)), rtol=0.03, atol=0.03)


def test_somebody_elses_forward_is_left_alone():
    layer = nn.Linear(80, 70)
    layer.forward = lambda x: x
    with QuickProducts(nn.Sequential(layer)):
        assert layer(torch.ones(3)).tolist() == [1, 1, 1]
    assert "forward" in vars(layer)


@pytest.mark.parametrize("asked, dtype, there, processes, quick", [
    (True, torch.float32, True, 1, True), (True, torch.float32, False, 1, False), (True, torch.bfloat16, True, 1, False),
    (False, torch.float32, True, 1, False), (True, torch.float32, True, 2, False),
])  # fmt: skip
def test_when_products_are_quick(profile, monkeypatch, asked, dtype, there, processes, quick):  # noqa: F811
    """Asked for, in float32, on a processor with such units, and not where several processes share a batch."""
    monkeypatch.setattr(products, "has_units", lambda device: there)
    monkeypatch.setattr("mmo.training.Sharing", lambda *given: None)
    group = Group(size=processes)
    stepper = Stepper(OmniModel(profile.model).train(), stage_config(optimiser="muon", quick_products=asked), 10, CPU, dtype, group=group)
    assert isinstance(stepper.rounding(), QuickProducts) == quick
    assert stepper.optimisers.muon.products == (torch.bfloat16 if quick else None)


@pytest.mark.parametrize("reason, quick", [(None, False), ("no C++ compiler was found", True)])
def test_compiled_blocks_compute_as_they_are_written(profile, monkeypatch, units, reason, quick):  # noqa: F811
    """And where the compiler was given up, products are quick, as if it had never been asked."""
    monkeypatch.setattr("mmo.training.Compilation", lambda *given, **named: SimpleNamespace(reason=reason))
    stepper = Stepper(OmniModel(profile.model).train(), stage_config(quick_products=True, compile=True), 10, CPU, torch.float32)
    assert isinstance(stepper.rounding(), QuickProducts) == quick


def test_a_card_has_no_need_of_them(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert products.has_units(CPU) and not products.has_units(torch.device("cuda"))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not products.has_units(CPU)


@pytest.mark.parametrize("shape", [(96, 96), (64, 192), (192, 64)])
def test_muons_own_products_too(shape):
    """The same direction to bfloat16's rounding."""
    moved = []
    for kind in (torch.float32, torch.bfloat16):
        weight = nn.Parameter(drawn(*shape))
        parameters = {"model.layers.0.mlp.up_proj.weight": weight, "model.norm.weight": nn.Parameter(torch.ones(4))}
        optimisers = Optimisers(parameters, stage_config(optimiser="muon", weight_decay=0.0), kind)
        weight.grad = drawn(*shape, seed=1)
        optimisers.muon.step()
        moved.append(weight.detach() - drawn(*shape))
    assert 0 < (moved[0] - moved[1]).norm() < 0.05 * moved[0].norm()


def test_a_step_that_is_not_finite_changes_nothing(profile, tmp_path, units):  # noqa: F811
    batch = some_batch(profile, tmp_path)
    torch.manual_seed(0)
    stepper = Stepper(OmniModel(profile.model).train(), stage_config(optimiser="muon", weight_decay=0.1, quick_products=True), 10, CPU, torch.float32)
    assert stepper.step(batch, 0)[-1] == 0
    before = {name: value.clone() for name, value in stepper.tensors().items() if not name.startswith("random")}
    assert stepper.step(replace(batch, speaker=torch.full_like(batch.speaker, float("inf"))), 1)[-1] == 1
    after = stepper.tensors()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_state_may_go_on_where_there_are_no_such_units(profile, monkeypatch):  # noqa: F811
    """What the recipe asks for counts, not what this machine has; of passes that ask for none it says nothing, as before there were any."""
    def key(asked, there):
        monkeypatch.setattr(products, "has_units", lambda device: there)
        return settings_key((stage_config(quick_products=asked),), profile, 0, torch.float32)

    assert key(True, False) == key(True, True) != key(False, True) == key(False, False)


def test_a_state_goes_on_on_another_kind_of_machine(profile, tmp_path, monkeypatch):  # noqa: F811
    quick = worlds.with_recipe(profile, quick_products=True)
    monkeypatch.setattr(products, "SMALLEST", 2)
    for there in (True, False):
        monkeypatch.setattr(products, "has_units", lambda device: there)
        asked = iter([False, True])
        result = run(quick, "t2a", tmp_path, pause=(lambda: next(asked, False)) if there else None)
        assert result.finished != there and result.skipped == 0


def test_resumed_equals_unbroken_with_them(profile, tmp_path, units):  # noqa: F811
    quick = worlds.with_recipe(profile, quick_products=True)
    whole = run(quick, "t2a", tmp_path / "whole")
    asked = iter([False, False, True])
    broken = run(quick, "t2a", tmp_path / "broken", pause=lambda: next(asked, False))
    assert not broken.finished
    resumed = run(quick, "t2a", tmp_path / "broken")
    assert resumed.finished and losses(resumed.log_file) == losses(whole.log_file)
    plain = run(profile, "t2a", tmp_path / "plain")
    assert losses(plain.log_file) != losses(whole.log_file), "nothing was rounded"


def test_all_stages_train_with_them(profile, tmp_path, units):  # noqa: F811
    """Projectors alone, sounds and pictures, rehearsed rows."""
    quick = worlds.with_recipe(profile, quick_products=True)
    for stage in STAGES:
        result = run(quick, stage, tmp_path)
        assert result.finished and result.skipped == 0, stage


@pytest.mark.parametrize("mixture", [False, True], ids=["dense", "experts"])
def test_a_batch_in_pieces_learns_what_the_whole_does(profile, tmp_path, units, mixture):  # noqa: F811
    """To bfloat16's rounding, for a weight's gradient is rounded in each piece."""
    batch, found = some_batch(profile, tmp_path), []
    for positions in (None, batch.size // 2):
        torch.manual_seed(0)
        model = OmniModel(profile.model.replace(use_moe=mixture)).train()
        stepper = Stepper(model, stage_config(quick_products=True), 10, CPU, torch.float32, positions)
        loss, _ = stepper.losses(batch)
        found.append((float(loss), {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}))
    (loss, gradients), (other, others) = found
    assert other == pytest.approx(loss, rel=5e-3) and set(others) == set(gradients)
    for name, gradient in gradients.items():
        if gradient.norm() > 1e-4 and not name.endswith("gate.weight"):  # a router's choice may tip over
            assert torch.cosine_similarity(others[name].flatten(), gradient.flatten(), dim=0) > 0.9, name


def test_the_bench_measures_them_where_there_are_units(profile, monkeypatch):  # noqa: F811
    settings = TrainBench(rows=2, updates=1, rounds=1, pool=8, baseline=False, full_batch=False, quick=True)
    for there in (True, False):
        monkeypatch.setattr(products, "has_units", lambda device: there)
        monkeypatch.setattr("mmo.bench.train.has_units", products.has_units)
        if there:
            report = bench_train(profile, settings, CPU)
            assert report.columns == ("ours", "ours, quick products") and "rows a second, ours with quick products over ours" in report.ratios
        else:
            with pytest.raises(ValueError, match="cpu here, without them"):
                bench_train(profile, settings, CPU)


def test_tiny_asks_for_them():
    for name in ("tiny", "tiny-moe"):
        assert all(each.quick_products for stage in STAGES for each in own_profile(name).stages[stage])
    assert not any(each.quick_products for stage in STAGES for each in own_profile("mini").stages[stage])
