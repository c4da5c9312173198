"""Batches made ahead by other processes: the same batches, in the same order, early enough, and errors as they are."""

import multiprocessing
import os
import signal
import sys
import time

import pytest
import torch
import worlds
from test_training import CPU, losses, profile, run  # noqa: F401  (profile is a fixture)

from mmo.data import Batches, Counts, Layout
from mmo.loader import BatchesAhead, LoaderDied, default_workers
from mmo.omni import load_model
from mmo.rows import DataError
from mmo.training import open_corpora


def make_batches(profile, stage="a2a", chunk_rows=12):  # noqa: F811
    config = profile.stages[stage][-1]
    corpora, shares = open_corpora(profile, config, worlds.toy_encoders())
    return Batches(corpora, shares, Layout(profile.model, worlds.tokenizer(), 160), 480, chunk_rows=chunk_rows)


def take(batches, count, workers, chunk=0, number=0):
    with BatchesAhead(batches, chunk, number, workers) as stream:
        return [next(stream) for _ in range(count)]


def same(one, other):
    values = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in values)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_batches_made_ahead_are_those_made_here(profile, workers):  # noqa: F811
    """Over several chunks, of unequal numbers of batches, with sounds, draws and positions: equal to the bit."""
    here = take(make_batches(profile), 13, 0)
    ahead = take(make_batches(profile), 13, workers)
    assert here[-1].position[0] >= 3
    assert all(same(one, other) for one, other in zip(here, ahead, strict=True))


@pytest.mark.parametrize("workers", [1, 2])
def test_they_begin_at_any_batch(profile, workers):  # noqa: F811
    whole = take(make_batches(profile), 9, 0)
    for stop in (1, 4, 6):
        rest = take(make_batches(profile), 9 - stop, workers, *whole[stop - 1].position)
        assert all(same(one, other) for one, other in zip(whole[stop:], rest, strict=True)), f"stopped after {stop}"


def test_the_next_chunk_is_made_while_the_model_works(profile, monkeypatch):  # noqa: F811
    """With the first batch in hand and none asked for since, the worker goes on into the next chunk."""
    begun = multiprocessing.get_context("fork").Value("i", -1)
    plan = Batches.plan

    def watched(self, number):
        begun.value = number
        return plan(self, number)

    monkeypatch.setattr(Batches, "plan", watched)
    batches = make_batches(profile, chunk_rows=4)
    with BatchesAhead(batches, workers=1) as stream:
        first = next(stream)
        assert first.position in ((0, 1), (1, 0))
        deadline = time.monotonic() + 30
        while begun.value < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert begun.value >= 1
    begun.value = -1
    with BatchesAhead(batches, workers=0) as stream:
        next(stream)
        assert begun.value == 0, "without workers a chunk is made when its turn comes"


@pytest.mark.parametrize("stage", ["t2a", "a2a"])
def test_training_is_the_same_with_any_number_of_workers(profile, tmp_path, stage):  # noqa: F811
    """Losses, norms, counts and weights to the bit: with dropout, whose random numbers nobody else may draw."""
    if stage == "a2a":
        run(profile, "t2a", tmp_path / "start")
    results = {}
    for workers in (0, 2):
        folder = tmp_path / f"{stage}-{workers}"
        if stage == "a2a":
            folder.mkdir()
            (folder / "t2a.safetensors").write_bytes((tmp_path / "start" / "t2a.safetensors").read_bytes())
        results[workers] = run(profile, stage, folder, workers=workers)
    here, ahead = results[0], results[2]
    assert losses(here.log_file) == losses(ahead.log_file)
    assert (here.rows, here.answers_cut, here.stops_cut, here.useful) == (ahead.rows, ahead.answers_cut, ahead.stops_cut, ahead.useful)
    one, other = load_model(here.model_file).state_dict(), load_model(ahead.model_file).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_resumed_with_workers_equals_unbroken_without(profile, tmp_path):  # noqa: F811
    """Paused after every step, each time with batches made ahead that nobody trained on: they have not happened."""
    whole = run(profile, "t2a", tmp_path / "whole", workers=0)
    while not (result := run(profile, "t2a", tmp_path / "pieces", minutes=1e-9, workers=1)).finished:
        pass
    assert losses(result.log_file) == losses(whole.log_file)
    assert (result.rows, result.useful) == (whole.rows, whole.useful)
    one, other = load_model(result.model_file).state_dict(), load_model(whole.model_file).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_only_what_was_trained_on_is_counted(profile, tmp_path):  # noqa: F811
    result = run(profile, "t2a", tmp_path / "run", workers=1)
    batches = make_batches(profile, "t2a", chunk_rows=32)
    counts = Counts()
    for batch in take(batches, result.steps, 0):
        counts.add(batch)
    assert result.rows == counts.rows


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_arrives_as_it_is(profile, workers, monkeypatch):  # noqa: F811
    def broken(self, number):
        raise DataError("t2a-train.parquet, row 7: broken")

    monkeypatch.setattr(Batches, "plan", broken)
    with pytest.raises(DataError, match="^t2a-train.parquet, row 7: broken$"):
        take(make_batches(profile), 1, workers)


def test_a_worker_that_dies_is_named(profile, monkeypatch):  # noqa: F811
    def killed(self, number):
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(Batches, "plan", killed)
    with pytest.raises(RuntimeError, match="a loader process died .*--workers 0"):
        take(make_batches(profile), 1, 1)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signal for one process")
def test_a_worker_leaves_interrupts_to_the_trainer(profile, request):  # noqa: F811
    """A terminal's Ctrl-C reaches all processes; the trainer wants its batches until it has saved."""
    wanted = take(make_batches(profile), 6, 0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have told the tests to pass it over
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with BatchesAhead(make_batches(profile), workers=1) as stream:
        found = [next(stream)]
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGINT)
        assert multiprocessing.active_children()
        found += [next(stream) for _ in range(5)]
    assert all(same(*pair) for pair in zip(wanted, found, strict=True))


def test_torchs_own_word_of_a_dead_worker_is_named_wherever_it_comes_up(profile):  # noqa: F811
    """torch raises it from a signal, mostly while the model computes."""
    with pytest.raises(LoaderDied, match="a loader process died .*--workers 0"), BatchesAhead(make_batches(profile), workers=0):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    with pytest.raises(RuntimeError, match="^shapes do not fit$"), BatchesAhead(make_batches(profile), workers=0):
        raise RuntimeError("shapes do not fit")


def test_how_many_by_default(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.setattr(sys, "platform", "linux")
    assert default_workers(CPU) == 1 and default_workers(torch.device("cuda")) == 4
    monkeypatch.setattr(sys, "platform", "darwin")
    assert default_workers(CPU) == 0
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    assert default_workers(CPU) == 0 and default_workers(torch.device("cuda")) == 1
    with pytest.raises(ValueError, match="workers -1"):
        BatchesAhead(None, workers=-1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs a CUDA device")
def test_batches_for_a_card_are_pinned(profile):  # noqa: F811
    for workers in (0, 1):
        with BatchesAhead(make_batches(profile), workers=workers, pin=True) as stream:
            batch = next(stream)
            assert batch.input_ids.is_pinned() and batch.audio_features.is_pinned()
