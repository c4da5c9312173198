"""When memory runs out: the same loss and gradients from smaller pieces, and no step lost."""

from contextlib import nullcontext

import pytest
import torch
import worlds

from mmo import training
from mmo.config import IGNORE
from mmo.data import Batches, Layout
from mmo.omni import OmniModel
from mmo.pieces import TooLarge, is_out_of_memory, next_smaller, pieces, rows_a_piece
from mmo.training import Stepper, open_corpora, read_log, train

CPU = torch.device("cpu")


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setenv("MMO_CACHE", str(tmp_path / "cache"))
    return worlds.toy_profile(tmp_path)


def a_batch(profile, stage):
    config = profile.stages[stage][-1]
    corpora, shares = open_corpora(profile, config, worlds.toy_encoders())
    batch = next(Batches(corpora, shares, Layout(profile.model, worlds.tokenizer(), 160), 480, chunk_rows=32).start())
    assert len(batch.names) >= 4
    return batch, config.replace(code_dropout=0.3)


def run(profile, stage, folder, **options):
    return train(profile, stage, run_dir=folder, encoders=worlds.toy_encoders(), progress_bar=False, device=CPU, **options)


def short_of_memory(monkeypatch, positions, error=lambda: torch.OutOfMemoryError("CUDA out of memory (simulated)"), halfway=False):
    """Every forward of more than so many positions fails, before it or behind its backward; gives the list of sizes that failed."""
    failed = []
    real = training.losses_of

    def limited(model, batch, *rest):
        if torch.is_grad_enabled() and batch.size > positions:
            failed.append(batch.size)
            if halfway:
                real(model, batch, *rest)[0].backward()  # gradients of the failed attempt must not count
            raise error()
        return real(model, batch, *rest)

    monkeypatch.setattr(training, "losses_of", limited)
    return failed


# --- Pieces ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["t2a", "a2a", "i2t"])
@pytest.mark.parametrize("weights", [None, (4.0, 3.0, 2.0, 1.0, 0.5, 0.5, 0.5, 0.5)])
def test_pieces_give_the_loss_and_the_gradients_of_the_whole(profile, stage, weights):
    batch, config = a_batch(profile, stage)
    config = config.replace(codebook_weights=weights)
    found = {}
    for positions in (None, batch.size // 2, batch.input_ids.shape[2]):
        torch.manual_seed(0)
        stepper = Stepper(OmniModel(profile.model).train(), config, 10, CPU, torch.float32, positions)
        torch.manual_seed(1)  # of the dropout
        loss, parts = stepper.losses(batch)
        found[positions] = loss, parts, {name: p.grad for name, p in stepper.model.named_parameters() if p.grad is not None}
    loss, parts, gradients = found.pop(None)
    for other, others, theirs in found.values():
        assert torch.allclose(loss, other, rtol=1e-5) and torch.allclose(parts, others, rtol=1e-5, atol=1e-6)
        assert theirs.keys() == gradients.keys()
        for name, gradient in gradients.items():
            assert torch.allclose(gradient, theirs[name], rtol=1e-3, atol=1e-6), name


def test_pieces_are_all_rows_once_and_small_enough(profile):
    batch, _ = a_batch(profile, "i2t")
    for positions in (1, batch.input_ids.shape[2], 2 * batch.input_ids.shape[2] + 3, batch.size - 1):
        parts = list(pieces(batch, positions))
        assert sum((part.names for part in parts), ()) == batch.names
        assert all(len(part.names) <= rows_a_piece(batch, positions) for part in parts)
        assert all(bool(part.speaking) == bool((part.audio_labels != IGNORE).any()) for part in parts)
        for name in ("speaker", "audio_features", "image_features"):
            if getattr(batch, name) is not None:
                assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
    assert list(pieces(batch, batch.size)) == [batch] and list(pieces(batch, None)) == [batch]


# --- Running out -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("halfway", [False, True])
@pytest.mark.parametrize("error", [
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    lambda: RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
])  # fmt: skip
def test_no_step_is_lost_where_memory_runs_out(profile, tmp_path, monkeypatch, capsys, halfway, error):
    """The same steps, the same rows, the same losses as with enough memory, dropout's draws included; a message names the smaller number."""
    assert profile.stages["t2a"][0].code_dropout
    enough = run(profile, "t2a", tmp_path / "enough")
    failed = short_of_memory(monkeypatch, 250, error, halfway)
    short = run(profile, "t2a", tmp_path / "short")
    assert failed and max(failed) <= 480 and len(failed) < 12, "it should learn once how much fits, not at every step"
    said = capsys.readouterr()
    assert "out of memory with" in said.out + said.err and "MMO_POSITIONS=" in said.out + said.err
    assert short.finished and short.steps == enough.steps and short.rows == enough.rows and short.skipped == 0
    for a, b in zip(read_log(enough.log_file), read_log(short.log_file), strict=True):
        assert (a["step"], a["rows"], a["positions"], a["rate"]) == (b["step"], b["rows"], b["positions"], b["rate"])
        assert a["audio"] == pytest.approx(b["audio"], rel=1e-3) and a["text"] == pytest.approx(b["text"], rel=1e-3)
        assert a["norm"] == pytest.approx(b["norm"], rel=1e-2), "gradients of the failed attempt were counted, too"


def test_what_fits_is_remembered_by_the_saved_state(profile, tmp_path, monkeypatch):
    failed = short_of_memory(monkeypatch, 250)
    assert not run(profile, "t2a", tmp_path / "run", minutes=1e-9).finished
    first = len(failed)
    assert first >= 1
    result = run(profile, "t2a", tmp_path / "run")
    assert result.finished and len(failed) == first, "the resumed run tried again what does not fit"


def test_positions_at_once_is_where_it_begins(profile, tmp_path, monkeypatch):
    from dataclasses import replace

    failed = short_of_memory(monkeypatch, 250)
    assert run(replace(profile, positions_at_once=160), "t2a", tmp_path / "run").finished and not failed


def test_a_row_that_does_not_fit_says_what_to_do(profile, tmp_path, monkeypatch):
    short_of_memory(monkeypatch, 10)
    with pytest.raises(TooLarge, match="single row of .* positions does not fit.*max_length"):
        run(profile, "t2a", tmp_path / "run")


def test_an_optimiser_that_does_not_fit_is_another_matter(profile, tmp_path, monkeypatch):
    def no_room(self, bad):
        raise torch.OutOfMemoryError("CUDA out of memory (simulated)")

    monkeypatch.setattr(training.Optimisers, "step", no_room)
    with pytest.raises(TooLarge, match="optimiser.*no smaller batch helps"):
        run(profile, "t2a", tmp_path / "run")


class OneOfTwo:
    """What `shares.Sharing` is to a Stepper, in a process whose memory does not suffice."""

    size = 2

    def exchanging(self, now):
        return nullcontext()

    def pool_balance(self, batch, positions):
        return False

    def model(self, batch, keep, pooled):
        raise torch.OutOfMemoryError("CUDA out of memory (simulated)")


def test_one_of_several_processes_does_not_try_again(profile):
    """The others wait for its gradients: it says with what to start, which is what one process would have gone on with."""
    batch, config = a_batch(profile, "t2a")
    stepper = Stepper(OmniModel(profile.model).train(), config, 10, CPU, torch.float32)
    stepper.sharing = OneOfTwo()
    with pytest.raises(TooLarge, match=f"Several processes do not try again.*MMO_POSITIONS={next_smaller(batch, None)}, "):
        stepper.losses(batch)


def test_other_errors_are_not_taken_for_it(profile, tmp_path, monkeypatch):
    short_of_memory(monkeypatch, 250, lambda: RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run(profile, "t2a", tmp_path / "run")
    assert is_out_of_memory(MemoryError()) and not is_out_of_memory(RuntimeError("memory"))


def test_each_next_number_gives_smaller_pieces(profile):
    batch, _ = a_batch(profile, "t2a")
    tried, positions = [len(batch.names)], None
    while tried[-1] > 1:
        positions = next_smaller(batch, positions)
        tried.append(rows_a_piece(batch, positions))
    assert tried == sorted(set(tried), reverse=True)
    with pytest.raises(TooLarge):
        next_smaller(batch, positions)


def test_the_environment_sets_what_is_computed_at_once(monkeypatch):
    from mmo.profiles import profile as find_profile

    monkeypatch.setenv("MMO_POSITIONS", "4096")
    assert find_profile("mini").positions_at_once == 4096
    monkeypatch.setenv("MMO_POSITIONS", "many")
    with pytest.raises(ValueError, match="MMO_POSITIONS.*'many'"):
        find_profile("mini")
    monkeypatch.delenv("MMO_POSITIONS")
    assert find_profile("mini").positions_at_once is None
