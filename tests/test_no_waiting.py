"""A step of training never asks its device for a value, and a step of decoding once: the host would wait until everything before is done.

Without a card this is shown by following the tensors: parameters and what `Batch.inputs` and `carry` bring count as being on
the device, and so does whatever is computed from them.  Operations whose result or whose shape the host must know are counted.
On a card `torch.cuda.set_sync_debug_mode` tells."""

from collections import Counter
from contextlib import contextmanager

import pytest
import torch
import worlds
from test_training import CPU, profile, stage_config  # noqa: F401  (profile is a fixture)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmo import data, omni
from mmo.bench.unstoppable import Unstoppable
from mmo.config import Decoding, StageConfig
from mmo.data import Batch, Batches, Layout
from mmo.generation import Finished
from mmo.omni import OmniModel
from mmo.training import FETCH_STEPS, Stepper, StageRun, open_corpora
from speakers import toy_model, toy_prompts

ASKS = {  # operations that the host waits for: they give it a number, or a shape that depends on values
    "_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount",
    "repeat_interleave", "_linalg_check_errors",
}  # fmt: skip
READS = ("tolist", "numpy", "item", "cpu", "__array__", "__bool__", "__float__", "__int__")  # some go round the dispatcher on a CPU


class Looks(TorchDispatchMode):
    """Counts looks at the device by operation."""

    def __init__(self):
        super().__init__()
        self.there, self.kept, self.counts = set(), [], Counter()

    def mark(self, tensor):
        self.there.add(id(tensor))
        self.kept.append(tensor)  # so that its id is nobody else's
        return tensor

    def on_device(self, values):
        return any(id(each) in self.there for each in tree_leaves(values) if isinstance(each, torch.Tensor))

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.overloadpacket._qualified_op_name.rpartition("::")[2]
        there = self.on_device((args, kwargs))
        by_mask = name in ("index", "index_put", "index_put_") and any(
            each.dtype in (torch.bool, torch.uint8) for each in tree_leaves(args[1]) if isinstance(each, torch.Tensor)
        )
        if there and (name in ASKS or by_mask):
            self.counts[name] += 1
        out = function(*args, **kwargs)
        if there:
            for each in tree_leaves(out):
                if isinstance(each, torch.Tensor):
                    self.mark(each)
        return out


@contextmanager
def looks_of(model, monkeypatch):
    """Counts what happens inside; the model's weights are on the device."""
    looks = Looks()
    for parameter in [*model.parameters(), *model.buffers()]:
        looks.mark(parameter)
    carry = omni.carry
    for module in (omni, data):
        monkeypatch.setattr(module, "carry", lambda values, device: looks.mark(carry(values, device).clone()))
    for name in READS:
        own = getattr(torch.Tensor, name)

        def read(self, *args, own=own, name=name, **named):
            if id(self) in looks.there:
                looks.counts[f".{name}()"] += 1
            return own(self, *args, **named)

        monkeypatch.setattr(torch.Tensor, name, read)
    with looks:
        yield looks
    monkeypatch.undo()


def some_batches(profile, count=3, stage="i2t"):  # noqa: F811
    """Sounds, pictures and text, silent rows and spoken ones."""
    corpora, shares = open_corpora(profile, profile.stages[stage][-1], worlds.toy_encoders())
    stream = Batches(corpora, shares, Layout(profile.model, worlds.tokenizer(), 160), 480, chunk_rows=32).start()
    return [next(stream) for _ in range(count)]


def looks_in_a_step(profile, monkeypatch, model, stage: StageConfig) -> Counter:  # noqa: F811
    batches = some_batches(profile)
    assert any(batch.audio_features is not None for batch in batches) and any(batch.image_features is not None for batch in batches)
    stepper = Stepper(model, stage, 10, CPU, torch.float32)
    for number, batch in enumerate(batches):  # the first step makes states and tables
        stepper.step(batch, number)
    with looks_of(model, monkeypatch) as looks:
        for number, batch in enumerate(batches, 3):
            stepper.step(batch, number)
    return looks.counts


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_step_asks_the_device_for_nothing(profile, monkeypatch, optimiser):  # noqa: F811
    """Forward, losses, gradients, clipping, update and average."""
    torch.manual_seed(0)
    stage = stage_config(optimiser=optimiser, ema_decay=0.9, code_dropout=0.2, codebook_weights=(4.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0))
    assert not looks_in_a_step(profile, monkeypatch, OmniModel(profile.model).train(), stage)


def test_experts_ask_once_a_layer(profile, monkeypatch):  # noqa: F811
    """How many positions each expert has: one copy of it a mixture, and no more (`bincount` would ask for its range besides)."""
    torch.manual_seed(0)
    model = OmniModel(profile.model.replace(use_moe=True)).train()
    mixtures = profile.model.num_hidden_layers + profile.model.num_talker_hidden_layers
    counts = looks_in_a_step(profile, monkeypatch, model, stage_config())
    assert counts.pop("_local_scalar_dense") == 2 * 3 * mixtures, "F.one_hot checks its ids' range, on a CPU only"
    assert counts == {".tolist()": 3 * mixtures}


def test_experts_in_one_product_ask_for_nothing(profile, monkeypatch):  # noqa: F811
    """Where a card has a grouped product, not even their counts: here torch's own, in float32 on a CPU."""
    monkeypatch.setattr("mmo.moe.grouped_in", lambda x: torch.float32)
    torch.manual_seed(0)
    model = OmniModel(profile.model.replace(use_moe=True)).train()
    counts = looks_in_a_step(profile, monkeypatch, model, stage_config())
    assert set(counts) == {"_local_scalar_dense"}, "F.one_hot checks its ids' range, on a CPU only"


@pytest.mark.parametrize("look", ["item", "mask", "bool"])
def test_a_look_is_seen(profile, monkeypatch, look):  # noqa: F811
    """The test itself can fail: one look a step, put into the loss."""
    from mmo import training

    own = training.losses_of

    def looking(*given):
        loss, parts = own(*given)
        if look == "item":
            parts = parts * (loss.detach().item() > 0)
        elif look == "mask":
            parts = parts + 0 * parts[parts > -1].sum()
        elif loss.isfinite():
            parts = parts * 1
        return loss, parts

    monkeypatch.setattr(training, "losses_of", looking)
    torch.manual_seed(0)
    batches, model = some_batches(profile, 1), OmniModel(profile.model).train()
    stepper = Stepper(model, stage_config(), 10, CPU, torch.float32)
    stepper.step(batches[0], 0)
    with monkeypatch.context() as inner, looks_of(model, inner) as looks:
        stepper.step(batches[0], 1)
    assert looks.counts


def test_the_losses_are_fetched_together(profile, tmp_path, monkeypatch):  # noqa: F811
    """Over a whole pass the device is looked at once for every FETCH_STEPS steps (and at validations), not once a step."""
    from mmo.training import train

    fetched, own = [], StageRun.fetch

    def counting(self, pending, log, bar):
        fetched.append(len(pending))
        own(self, pending, log, bar)

    monkeypatch.setattr(StageRun, "fetch", counting)
    train(profile, "t2a", run_dir=tmp_path / "run", encoders=worlds.toy_encoders(), progress_bar=False, device=CPU, steps=30, workers=0)
    assert sum(fetched) == 30 and max(fetched) == FETCH_STEPS


def test_batches_go_to_the_device_by_carry(profile, monkeypatch):  # noqa: F811
    """Every tensor of the inputs, and the labels that the heads need: nothing takes another way."""
    moved = []
    for module in (omni, data):
        monkeypatch.setattr(module, "carry", lambda values, device: (moved.append(tuple(values.shape)), values.to(device))[1])
    batch = some_batches(profile, 1)[0]
    inputs = batch.inputs("cpu")
    assert len(moved) == sum(isinstance(value, torch.Tensor) for value in inputs.values())
    own = {name for name in ("input_ids", "speaker", "audio_features", "audio_lengths", "image_features") if getattr(batch, name) is not None}
    assert own <= set(inputs) and isinstance(batch, Batch)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_step_on_a_card_never_waits(profile, optimiser):  # noqa: F811
    device = torch.device("cuda")
    torch.manual_seed(0)
    stage = stage_config(optimiser=optimiser, ema_decay=0.9, codebook_weights=(4.0,) * 8)
    stepper = Stepper(OmniModel(profile.model).to(device).train(), stage, 10, device, torch.float32)
    batches = [batch.pin_memory() for batch in some_batches(profile)]
    for number, batch in enumerate(batches):
        stepper.step(batch, number)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for number, batch in enumerate(batches, 3):
            stepper.step(batch, number)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_device_without_the_fused_kernel(profile, monkeypatch):  # noqa: F811
    """AdamW is then put together from several operations, to the same weights; a step that is not finite still changes nothing."""
    batch = some_batches(profile, 1)[0]
    found = {}
    for kind in ("fused", "not fused"):
        if kind == "not fused":
            monkeypatch.setattr("mmo.optimiser._get_fused_kernels_supported_devices", lambda: ["cuda"])
        torch.manual_seed(0)
        stepper = Stepper(OmniModel(profile.model).train(), stage_config(), 10, CPU, torch.float32)
        assert stepper.optimisers.fused == (kind == "fused") == stepper.optimisers.adam.defaults["fused"]
        for number in range(2):
            stepper.step(batch, number)
        found[kind] = [parameter.detach().clone() for parameter in stepper.parameters]
        spoilt = batch.__class__(**(vars(batch) | {"speaker": torch.full_like(batch.speaker, float("nan"))}))
        assert stepper.step(spoilt, 2)[-1] == 1
        assert all(torch.equal(parameter, kept) for parameter, kept in zip(stepper.parameters, found[kind], strict=True))
    torch.testing.assert_close(found["fused"], found["not fused"], rtol=1e-5, atol=1e-6)


# --- Decoding ----------------------------------------------------------------------------------------------------


def looks_in_an_answer(monkeypatch, frames, **settings) -> Counter:
    """Looks of two streamed prompts of unequal length, each cut after so many frames."""
    generator = Unstoppable(toy_model(), decoding=Decoding(temperature=1.0, text_temperature=1.0, max_text=4, max_frames=frames), **settings)
    with looks_of(generator.model, monkeypatch) as looks:
        answers = [event.answer for event in generator.stream(toy_prompts(5, 9)) if isinstance(event, Finished)]
    assert {answer.codes.shape[1] for answer in answers} == {frames}
    return looks.counts


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_step_of_decoding_looks_once(monkeypatch, precision):
    """Ten frames more are ten looks more, for all rows together; what the whole answer is asked for at its end is the same."""
    short = looks_in_an_answer(monkeypatch, 12, precision=precision)
    long = looks_in_an_answer(monkeypatch, 22, precision=precision)
    assert long - short == {".tolist()": 10}
