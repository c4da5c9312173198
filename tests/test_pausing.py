"""Ctrl-C pauses a training: nothing is lost, and the same command goes on as if it had not been pressed."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import worlds

from mmo.checkpoint import load_state
from mmo.pausing import pausing
from mmo.training import read_log, train

WORKER = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are told to pass it over
sys.path[:0] = [{root!r}, {tests!r}]
import torch
torch.set_num_threads(1)
import worlds
from pathlib import Path
from mmo import cli, profiles, training
folder = Path(sys.argv[1])
profile = worlds.toy_profile(folder / "world", write=False)
profiles.PROFILES["tiny"] = lambda: profile
training.default_encoders = lambda *_: worlds.toy_encoders()
step = training.Stepper.step
def slow(self, batch, number):
    print(f"\\nat {{number}}", flush=True)
    time.sleep(0.3)
    return step(self, batch, number)
training.Stepper.step = slow
sys.argv[1:] = ["train", "--profile", "tiny", "--stage", "t2a", "--run", str(folder / "run"), "--workers", "1"]
cli.app()
"""


def losses(path):
    return [(entry["step"], entry["text"], entry["audio"], entry["norm"]) for entry in read_log(path)]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends Ctrl-C to a group of processes in a way of its own")
def test_ctrl_c_saves_and_the_same_command_goes_on_as_if_nothing_had_been(tmp_path, monkeypatch):
    """A real process with a loader's process, and a real SIGINT to both, as a terminal sends it."""
    monkeypatch.setenv("MMO_CACHE", str(tmp_path / "cache"))
    profile = worlds.toy_profile(tmp_path / "world")
    options = dict(encoders=worlds.toy_encoders(), progress_bar=False, device=torch.device("cpu"))
    whole = train(profile, "t2a", run_dir=tmp_path / "whole", **options)
    script, tests = tmp_path / "worker.py", Path(__file__).resolve().parent
    script.write_text(WORKER.format(root=str(tests.parent), tests=str(tests)))
    process = subprocess.Popen([sys.executable, script, tmp_path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True)  # fmt: skip
    said = []
    for line in process.stdout:
        said.append(line)
        if line.strip() == "at 2":
            os.killpg(process.pid, signal.SIGINT)
    told = "".join(said)
    assert process.wait(60) == 130 and "Traceback" not in told, told
    assert "Ctrl-C: the step in hand is finished" in told and "paused at step 3 of 6: the same command goes on" in told
    assert load_state(tmp_path / "run" / "t2a.state.safetensors")[1]["progress"]["step"] == 3
    resumed = train(profile, "t2a", run_dir=tmp_path / "run", **options)
    assert resumed.finished and losses(resumed.log_file) == losses(whole.log_file)


@pytest.fixture()
def listening():
    """SIGINT as at a keyboard: a shell tells its background jobs to pass it over, and so it may have told the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_asks_and_the_second_stops_at_once(listening):
    heard = []
    before = signal.getsignal(signal.SIGINT)
    with pausing(heard.append) as pause:
        assert not pause()
        os.kill(os.getpid(), signal.SIGINT)
        assert pause() and len(heard) == 1 and "once more stops at once" in heard[0]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()
    assert signal.getsignal(signal.SIGINT) is before, "behind the block Ctrl-C is what it was"


def test_what_is_passed_over_stays_passed_over_and_torchrun_is_left_alone(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pausing(print) as pause:
            os.kill(os.getpid(), signal.SIGINT)
            assert pause is None and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pausing(print) as pause:
        assert pause is None, "the processes would have to ask each other behind every step"
        assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_asks_nothing():
    """Only the main thread is told of signals."""
    found = []

    def work():
        with pausing(print) as pause:
            found.append(pause)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [None]
