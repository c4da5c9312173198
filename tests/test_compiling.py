"""torch.compile: the same numbers, a bounded number of graphs over all shapes, and off with a reason where it fails."""

import pytest
import torch
import worlds
from test_training import CPU, losses, profile, run, stage_config  # noqa: F401  (profile is a fixture)

from mmo.compiling import GRAPHS, Compilation
from mmo.data import Batches, Layout
from mmo.loader import BatchesAhead
from mmo.omni import OmniModel
from mmo.training import Stepper, open_corpora

TRACED = "eager"  # traces as always, and then runs the graph as it is: compiling kernels takes minutes


@pytest.fixture(autouse=True)
def forgotten():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def traced(monkeypatch):
    monkeypatch.setattr("mmo.training.Compilation", lambda *given, **named: Compilation(*given, backend=TRACED, **named))


def batches_of(profile, count, stage="a2a"):  # noqa: F811
    corpora, shares = open_corpora(profile, profile.stages[stage][-1], worlds.toy_encoders())
    with BatchesAhead(Batches(corpora, shares, Layout(profile.model, worlds.tokenizer(), 160), 480, chunk_rows=12)) as stream:
        return [next(stream) for _ in range(count)]


def stepper_of(profile, **changes):  # noqa: F811
    torch.manual_seed(0)
    return Stepper(OmniModel(profile.model).train(), stage_config(**changes), 20, CPU, torch.float32)


def test_same_losses_and_few_graphs_over_many_shapes(profile, traced, capsys):  # noqa: F811
    """Rows, positions and text lengths differ in every batch, some are silent, some held out: the graphs stay as many."""
    batches = batches_of(profile, 12)
    shapes = {(*batch.input_ids.shape, batch.text_length) for batch in batches}
    assert len(shapes) >= 10
    plain, compiled = stepper_of(profile, code_dropout=0.2), stepper_of(profile, code_dropout=0.2, compile=True)
    assert "graphs for 3 blocks" in capsys.readouterr().out
    torch.manual_seed(1)
    wanted = [plain.step(batch, number) for number, batch in enumerate(batches)]
    torch.manual_seed(1)
    found = [compiled.step(batch, number) for number, batch in enumerate(batches)]
    torch.testing.assert_close(found[0][:3], wanted[0][:3], rtol=1e-5, atol=1e-5)  # from the same weights
    torch.testing.assert_close(torch.stack(found), torch.stack(wanted), rtol=2e-3, atol=2e-4)  # after a dozen updates
    first = compiled.compilation.graphs
    assert compiled.compilation.reason is None and first <= GRAPHS // 2
    held_out, own = (stepper.validate(batches[:2]) for stepper in (compiled, plain))
    assert (held_out["text"], held_out["audio"]) == pytest.approx((own["text"], own["audio"]), rel=1e-2)
    for number, batch in enumerate(batches_of(profile, 4, "t2a")):
        compiled.step(batch, number)
    assert compiled.compilation.graphs <= GRAPHS and compiled.compilation.reason is None


def test_trying_it_leaves_no_trace(profile, traced):  # noqa: F811
    """No gradient, no random number, no other name for a weight."""
    plain = stepper_of(profile)
    state = torch.get_rng_state()
    compiled = stepper_of(profile, compile=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in compiled.parameters)
    assert list(plain.tensors()) == list(compiled.tensors())


def test_the_next_pass_compiles_the_blocks_and_not_what_was_compiled(profile, traced):  # noqa: F811
    """A stage's passes share the model: its blocks are compiled anew, from what is written."""
    model = OmniModel(profile.model).train()
    for trainable in ("audio_proj", "all"):
        compiled = Stepper(model, stage_config(trainable=trainable, compile=True), 10, CPU, torch.float32).compilation
        assert compiled.reason is None
        for block in compiled.blocks:
            assert block.forward._torchdynamo_orig_callable.__func__ is type(block).forward


def test_a_pass_that_is_not_compiled_has_the_blocks_as_they_are_written(profile, traced):  # noqa: F811
    model = OmniModel(profile.model).train()
    blocks = Stepper(model, stage_config(trainable="audio_proj", compile=True), 10, CPU, torch.float32).compilation.blocks
    assert all("forward" in vars(block) for block in blocks)
    assert Stepper(model, stage_config(), 10, CPU, torch.float32).compilation is None
    assert not any("forward" in vars(block) for block in blocks)


def broken(*_):
    raise OSError("no C++ compiler was found")


@pytest.mark.parametrize("when", ["at once", "in a later step", "in the first validation"])
def test_where_it_fails_training_goes_on_and_says_why(profile, tmp_path, monkeypatch, capsys, when):  # noqa: F811
    """The same losses as without it, to the bit: the failing step is done again with the same random numbers."""
    whole = run(profile, "t2a", tmp_path / "plain")
    calls = []

    def backend(graph, inputs):
        calls.append(len(inputs))
        if when == "in the first validation":
            return graph.forward if torch.is_grad_enabled() else broken()
        return broken() if when == "at once" or len(calls) > 2 else graph.forward

    monkeypatch.setattr("mmo.training.Compilation", lambda *given, **named: Compilation(*given, backend=backend, **named))
    if when == "in a later step":  # the batch shapes of training ask for no further graph: forget those of the trial
        step = Stepper.step

        def forgetful(self, batch, number):
            if number == 3:
                torch._dynamo.reset()
            return step(self, batch, number)

        monkeypatch.setattr(Stepper, "step", forgetful)
    result = run(profile, "t2a", tmp_path / "tried", compile=True)
    out = capsys.readouterr().out
    assert out.count("torch.compile is off and training goes on without it: OSError: no C++ compiler was found") == 1
    assert result.finished and result.skipped == 0
    if when == "at once":
        assert losses(result.log_file) == losses(whole.log_file)
    else:
        assert len(calls) > (2 if when == "in a later step" else 0)
        for one, other in zip(losses(result.log_file), losses(whole.log_file), strict=True):
            assert one[2:4] == pytest.approx(other[2:4], rel=1e-3)


def test_too_many_graphs_are_given_up(profile, traced, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr("mmo.compiling.GRAPHS", 1)
    with torch._dynamo.config.patch(recompile_limit=1):  # monkeypatch would leave torch without the setting
        compiled = stepper_of(profile, compile=True)
        for number, batch in enumerate(batches_of(profile, 4)):
            compiled.step(batch, number)
    assert "torch.compile is off and training goes on without it: FailOnRecompileLimitHit" in capsys.readouterr().out
    assert all("forward" not in vars(block) for block in compiled.compilation.blocks)


def test_experts_are_not_compiled_and_it_is_said(profile, capsys):  # noqa: F811
    torch.manual_seed(0)
    stepper = Stepper(OmniModel(profile.model.replace(use_moe=True)).train(), stage_config(compile=True), 10, CPU, torch.float32)
    assert "experts are handed their positions by counts" in stepper.compilation.reason
    assert stepper.compilation.reason in capsys.readouterr().out
    assert torch.isfinite(stepper.step(batches_of(profile, 1)[0], 0)).all()


def test_off_unless_asked_for(profile):  # noqa: F811
    assert stepper_of(profile).compilation is None
