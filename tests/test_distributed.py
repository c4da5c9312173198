"""Shares of a batch teach what the whole batch teaches: in formulas, and with two processes that torchrun starts.

One start of two processes trains everything that is compared here with one process (`together`); others are killed or go wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import worlds
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from mmo.checkpoint import load_state
from mmo.training import read_log, train

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


# --- `mmo train` in two processes ------------------------------------------------------------------------------------

# A job: what is trained, and how its recipe differs from the toy world's.
JOBS = {
    "t2a": dict(stage="t2a", save_at=[2, 4]),
    "a2a": dict(stage="a2a", start="t2a", workers=1),
    "i2t": dict(stage="i2t", start="t2a", steps=8),
    "muon": dict(stage="t2a", recipe=dict(optimiser="muon", muon_rate=0.01), workers=1),
    "epochs": dict(stage="t2a", recipe=dict(steps=None, epochs=1.5), workers=2),
    "pieces": dict(stage="t2a", positions=100),
    "one row a batch": dict(stage="t2a", recipe=dict(token_budget=160), steps=3),
    "experts": dict(stage="t2a", experts=True),
    "mute": dict(stage="a2a", start="t2a", draws=dict(question=[0.02, 0.96, 0.02], system_prompt=0.0), recipe=dict(token_budget=200)),
}
SAME = dict(rel=3e-5, abs=1e-6)  # sums are added up in another order, and the next steps begin with what that makes of the weights

SCRIPT = """
import json, os, signal, sys
from dataclasses import replace
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
import torch
torch.set_num_threads(1)
import worlds
from mmo import config, data, training

def go(folder, job):
    model = worlds.MODEL.replace(use_moe=bool(job.get("experts")))
    profile = replace(worlds.toy_profile(folder, model=model, write=False), positions_at_once=job.get("positions"))
    passes = profile.stages[job["stage"]]
    recipe = job.get("recipe", dict()) | (dict(draws=config.Draws(**job["draws"])) if "draws" in job else dict())
    profile.stages[job["stage"]] = tuple(each.replace(**recipe) for each in passes)
    options = dict((name, job[name]) for name in ("steps", "minutes", "workers", "save_at", "strict") if name in job)
    return training.train(profile, job["stage"], run_dir=folder / job["run"], encoders=worlds.toy_encoders(), progress_bar=False,
                          device=torch.device("cpu"), **options)

def forbidden(*given, **named):
    raise AssertionError("process " + os.environ["RANK"] + " writes")

if __name__ == "__main__":
    if os.environ["RANK"] != "0":
        training.save_state = training.save_model = training.Log = training.write_result = forbidden
    folder, how = Path(sys.argv[1]), sys.argv[2]
    mine = os.environ["RANK"] == "1"
    if how == "kill" and mine:
        own = training.Stepper.step
        training.Stepper.step = lambda self, batch, number: os.kill(os.getpid(), signal.SIGKILL) if number == 3 else own(self, batch, number)
    if how == "broken row" and mine:
        def broken(self, *row):
            raise data.DataError("t2a-train.parquet, row 7: broken")
        data.Batches.example = broken
    if how == "other rows" and mine:
        training.StageRun.key = lambda self: "another"
    for job in json.loads(sys.argv[3]):
        go(folder, job)
"""


def script_in(folder):
    path = folder / "worker.py"
    path.write_text(SCRIPT.format(root=str(Path(__file__).resolve().parents[1]), tests=str(Path(__file__).resolve().parent)))
    return path


def in_two(folder, jobs, how="well", seconds=300):
    """torchrun with two processes, for these jobs one after the other."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script_in(folder)), str(folder), how]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MMO_CACHE": str(folder / "cache")}
    return subprocess.run([*command, json.dumps(jobs)], capture_output=True, text=True, timeout=seconds, env=environment)


def in_one(folder, job):
    """The same job here."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("worker", script_in(folder))
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    return worker.go(folder, job)


def job(name, run, folder, **changes):
    """A job of JOBS in a run's folder of its own, with the weights that it starts from."""
    chosen = JOBS[name] | {"run": run} | changes
    (folder / run).mkdir(exist_ok=True)
    if "start" in chosen:
        shutil.copy(folder / "start" / f"{chosen['start']}.safetensors", folder / run)
    return chosen


@dataclass(frozen=True)
class World:
    """Runs of one process, and what two made of the same jobs."""

    folder: Path
    said: str

    def log(self, run, name, validation=False):
        return read_log(self.folder / run / "log" / f"{JOBS[name]['stage']}.jsonl", validation)

    def weights(self, run, name):
        return load_file(self.folder / run / f"{JOBS[name]['stage']}.safetensors")


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Every job by one process and by two; one begun by two and ended by one ("two-one"), and the other way round ("one-two")."""
    folder = tmp_path_factory.mktemp("together")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMO_CACHE", str(folder / "cache"))
        worlds.toy_profile(folder)
        in_one(folder, dict(stage="t2a", run="start"))
        for name in JOBS:
            in_one(folder, job(name, f"{name}, one", folder))
        paused = dict(minutes=1e-9)
        for _ in range(2):
            assert not in_one(folder, job("a2a", "one-two", folder, **paused)).finished
        done = in_two(folder, [
            *(job(name, f"{name}, two", folder) for name in JOBS),
            job("a2a", "two-one", folder, **paused), job("a2a", "two-one", folder, **paused), job("a2a", "one-two", folder),
        ])  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        state = load_state(folder / "two-one" / "a2a.state.safetensors")[1]
        assert state["progress"]["step"] == 2, "both paused after every step"
        in_one(folder, job("a2a", "two-one", folder))
    return World(folder, done.stdout)


def same_entries(one, two, what):
    """Of two logs; gives the largest relative difference of a loss or a norm."""
    assert len(one) == len(two) > 0, what
    apart = [0.0]
    for a, b in zip(one, two):
        assert a.keys() == b.keys()
        for key in a:
            if key in ("text", "audio", "aux", "norm", "codebooks"):
                assert b[key] == pytest.approx(a[key], **SAME), f"{what}, step {a['step']}: {key}"
                if key != "codebooks" and a[key]:
                    apart.append(abs(b[key] / a[key] - 1))
            elif "seconds" not in key:
                assert a[key] == b[key], f"{what}, step {a['step']}: {key}"
    return max(apart)


@pytest.mark.parametrize("name", JOBS)
def test_two_processes_train_what_one_trains(together, name):
    """Losses of every step and of every validation, rows, positions, rates; and the weights.  With pytest -s the differences are told."""
    apart = max(
        same_entries(together.log(f"{name}, one", name, validation), together.log(f"{name}, two", name, validation), name)
        for validation in (False, True)
    )
    one, two = (together.weights(f"{name}, {number}", name) for number in ("one", "two"))
    assert one.keys() == two.keys()
    print(f"{name}: losses and norms {apart:.1e} apart (relative), weights {largest(one, two):.1e}")
    assert largest(one, two) < (1e-4 if name == "muon" else 1e-5), name


def test_steps_in_which_nothing_can_learn_are_among_them(together):
    """A projector's pass in which some whole batches have no sound: no process has a gradient then, and the next step has one again."""
    norms = [entry["norm"] > 0 for entry in together.log("mute, two", "mute") if entry["pass"] == "a2a-projector"]
    assert any(norms) and not all(norms)


@pytest.mark.parametrize("run", ["two-one", "one-two"])
def test_a_run_goes_on_with_another_number_of_processes(together, run):
    apart = same_entries(together.log("a2a, one", "a2a"), together.log(run, "a2a"), run)
    one, other = together.weights("a2a, one", "a2a"), together.weights(run, "a2a")
    print(f"{run}: losses and norms {apart:.1e} apart (relative), weights {largest(one, other):.1e}")
    assert largest(one, other) < 1e-5
    results = [json.loads((together.folder / each / "log" / "a2a.result.json").read_text()) for each in ("a2a, one", run)]
    for figure in ("rows", "useful", "answers_cut", "stops_cut", "steps", "total_steps"):
        assert results[0][figure] == results[1][figure], figure


def test_one_process_speaks_for_all(together):
    """Two would print every line twice."""
    assert together.said.count("t2a done after") == sum(each["stage"] == "t2a" for each in JOBS.values())


# --- What goes wrong in one ends all ---------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setenv("MMO_CACHE", str(tmp_path / "cache"))
    worlds.toy_profile(tmp_path)
    return tmp_path


def alive(folder):
    """Processes of the script that are still there."""
    import psutil

    return [each.pid for each in psutil.process_iter(["cmdline"]) if str(folder / "worker.py") in (each.info["cmdline"] or [])]


def test_a_killed_process_ends_all_and_nothing_is_lost(world):
    """SIGKILL in the fourth step of process 1: torchrun says which it was, the saved state stays, one process goes on from it."""
    done = in_two(world, [job("t2a", "run", world)], "kill")
    assert done.returncode != 0
    assert "rank      : 1 (local_rank: 1)" in done.stderr and "Signal 9 (SIGKILL)" in done.stderr, done.stderr[-3000:]
    deadline = time.monotonic() + 10
    while alive(world) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(world), "a process was left behind"
    assert load_state(world / "run" / "t2a.state.safetensors")[1]["progress"]["step"] == 2
    assert in_one(world, job("t2a", "run", world)).finished
    in_one(world, job("t2a", "whole", world))
    logs = [read_log(world / each / "log" / "t2a.jsonl") for each in ("whole", "run")]
    same_entries(*logs, "killed")


def test_a_broken_row_ends_all_and_is_named(world):
    done = in_two(world, [job("t2a", "run", world, workers=1)], "broken row")
    assert done.returncode != 0
    assert "process 1 of 2: DataError: t2a-train.parquet, row 7: broken" in done.stderr, done.stderr[-3000:]
    assert not (world / "run" / "t2a.safetensors").exists()


def test_processes_that_see_other_rows_do_not_begin(world):
    done = in_two(world, [job("t2a", "run", world)], "other rows")
    assert done.returncode != 0 and "rows and settings of process 1 are not those of process 0" in done.stderr


def test_a_bad_row_is_found_by_the_process_that_packs(world):
    rows = worlds.make_rows("t2a", 20)
    rows[7]["spk_emb"] = [1.0]
    worlds.write_rows(world / "data" / "t2a-train.parquet", rows)
    done = in_two(world, [job("t2a", "run", world, strict=True)])
    assert done.returncode != 0 and "process 0 of 2: DataError: t2a-train.parquet, row 7" in done.stderr, done.stderr[-3000:]
