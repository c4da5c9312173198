"""The codec's training: what it does to codes is what it says, in training only, and the same for the same step."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mmo.codec import build_mimi, codec_config
from mmo.world import train_codec
from mmo.world.train_codec import FalseCodes, quantise, unquantised


@pytest.fixture()
def model():
    torch.manual_seed(0)
    return build_mimi(codec_config(n_filters=4, dimension=32, layers=1, feedforward=64, bins=16, codebooks=8)).train()


@pytest.fixture()
def seen(model):
    """What the later codebooks gave before false codes came in: its hook runs first."""
    found = SimpleNamespace(result=None)

    def keep(module, inputs, result):
        found.result = result

    model.quantizer.rvq_rest.register_forward_hook(keep)
    return found


def difference(model, seen, step: int, false_codes: FalseCodes) -> torch.Tensor:
    """(B, D, F): what false codes add to the quantised latent in this step."""
    latent = torch.randn(3, 32, 20, generator=torch.Generator().manual_seed(1))
    model.quantizer(latent, 12.5)  # k-means sets the codebooks on first sight
    false_codes.start(step)
    changed = model.quantizer.rvq_rest(latent, 12.5).x
    return (changed - seen.result.x).detach()


def test_changes_some_frames_in_training(model, seen) -> None:
    false_codes = FalseCodes(model.quantizer.rvq_rest, share=1.0)
    changed = [difference(model, seen, step, false_codes).abs().sum(dim=(0, 1)) > 1e-6 for step in range(6)]
    assert any(hit.any() for hit in changed), "no frame was changed in six steps"


def test_a_step_draws_the_same_again(model, seen) -> None:
    false_codes = FalseCodes(model.quantizer.rvq_rest, share=0.5)
    model.quantizer.eval()  # codebooks must not move between the two
    model.quantizer.rvq_rest.training = True
    for step in range(4):
        first, again = (difference(model, seen, step, false_codes) for _ in range(2))
        assert torch.equal(first, again), f"step {step} drew other codes the second time"


def test_leaves_two_codebooks_alone(model, seen) -> None:
    """With codebooks 0 and 1 only there is nothing to falsify: a decoder may always trust them."""
    false_codes = FalseCodes(model.quantizer.rvq_rest, share=1.0)
    model.quantizer.rvq_rest.n_q = 1
    assert all(not difference(model, seen, step, false_codes).any() for step in range(6))


def test_a_finished_codec_is_not_disturbed(model, seen) -> None:
    false_codes = FalseCodes(model.quantizer.rvq_rest, share=1.0)
    model.eval()
    assert all(not difference(model, seen, step, false_codes).any() for step in range(6))


def test_unquantised_is_what_training_hears_before_codes_begin(model) -> None:
    wave = 0.1 * torch.randn(2, 1, 3 * 1920, generator=torch.Generator().manual_seed(0))
    quantise(model, False)
    wanted = model(wave).x
    torch.testing.assert_close(unquantised(model.eval(), wave), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("began", ["", "of others"])
def test_a_sitting_that_began_with_other_weights_is_refused(tmp_path, monkeypatch, began) -> None:
    """Else a second sitting finds the first one's end and trains nothing."""
    monkeypatch.setattr(train_codec, "Trainer", lambda *_: None)
    torch.save({"began": began}, tmp_path / "codec.pt")
    (tmp_path / "start.safetensors").write_bytes(b"weights")
    with pytest.raises(ValueError, match="codec.pt is of a sitting that began with other weights: delete it .*--build"):
        train_codec.train([], [], train_codec.CodecTraining(), tmp_path, start_from=tmp_path / "start.safetensors")
