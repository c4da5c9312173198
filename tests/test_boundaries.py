"""Stage boundaries: `mmo train --stage all` goes on by the same command, wherever it was stopped, and trains nothing twice."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import worlds
from typer.testing import CliRunner

from mmo import cli, fixed_inputs, fixed_prompts, profiles, training
from mmo.checkpoint import how_made, made_file, save_state, started_from, state_file
from mmo.omni import OmniModel, load_model
from mmo.training import train

OTHER_SETTINGS, OTHER_WEIGHTS = "was made with other settings", "was made from other weights than are there now"


@pytest.fixture
def world(tmp_path, monkeypatch):
    """The toy world as profile tiny, with every state kept that a kill would leave."""
    monkeypatch.setenv("MMO_CACHE", str(tmp_path / "cache"))
    profile = worlds.toy_profile(tmp_path / "world")
    monkeypatch.setitem(profiles.PROFILES, "tiny", lambda: profile)
    monkeypatch.setattr(training, "default_encoders", lambda *_: worlds.toy_encoders())
    return profile


@pytest.fixture
def steps(monkeypatch):
    """Names of the passes of all steps that were done; `steps.stop_after` interrupts as a second Ctrl-C does, state unsaved."""

    class Steps(list):
        stop_after: int | None = None

    done, step = Steps(), training.Stepper.step

    def counted(self, batch, number):
        if done.stop_after is not None and len(done) == done.stop_after:
            done.stop_after = None
            raise KeyboardInterrupt
        done.append(self.stage.name)
        return step(self, batch, number)

    monkeypatch.setattr(training.Stepper, "step", counted)
    return done


def mmo_train(run: Path, *more: str, stage: str = "all"):
    return CliRunner().invoke(cli.app, ["train", "--profile", "tiny", "--stage", stage, "--run", str(run), "--workers", "0", *map(str, more)])


def marks(run: Path) -> dict[str, tuple[int, bytes]]:
    return {path.stem: (path.stat().st_mtime_ns, path.read_bytes()) for path in run.glob("???.safetensors")}


def test_killed_in_a2a_the_same_command_leaves_t2a_alone_and_goes_on_in_a2a(world, steps, tmp_path, monkeypatch):
    whole = mmo_train(tmp_path / "whole")
    assert whole.exit_code == 0 and steps == ["t2a"] * 6 + ["a2a-projector"] * 6 + ["a2a"] * 6 + ["i2t-projector"] * 6 + ["i2t"] * 6
    run, real = tmp_path / "run", training.StageRun
    monkeypatch.setattr(training, "StageRun", lambda profile, stage, folder, settings, encoders: real(profile, stage, folder, settings | {"save_at": {2}}, encoders))
    steps[:], steps.stop_after = [], 9  # in the fourth step of A2A's first pass
    assert mmo_train(run).exit_code == 130
    before = marks(run)
    assert set(before) == {"t2a"} and state_file(run, "a2a").is_file()
    steps.clear()
    done = mmo_train(run)
    assert done.exit_code == 0, done.output
    assert steps == ["a2a-projector"] * 4 + ["a2a"] * 6 + ["i2t-projector"] * 6 + ["i2t"] * 6, "two steps of A2A were saved"
    assert f"t2a: done already, with these settings ({run / 't2a.safetensors'})" in done.output
    assert marks(run)["t2a"] == before["t2a"]
    for stage in ("t2a", "a2a", "i2t"):  # as if it had never been stopped
        one, other = (load_model(folder / f"{stage}.safetensors").state_dict() for folder in (run, tmp_path / "whole"))
        assert all(torch.equal(one[name], other[name]) for name in one), stage


def test_what_is_done_is_passed_over_and_fresh_trains_it_anew(world, steps, tmp_path):
    assert mmo_train(tmp_path).exit_code == 0 and len(steps) == 30
    before = marks(tmp_path)
    again = mmo_train(tmp_path)
    assert again.exit_code == 0 and len(steps) == 30 and again.output.count("done already") == 3 and marks(tmp_path) == before
    assert mmo_train(tmp_path, "--fresh").exit_code == 0 and len(steps) == 60
    assert mmo_train(tmp_path, stage="t2a").exit_code == 0 and steps[60:] == ["t2a"] * 6, "a stage asked for by its name is trained"


def test_a_stage_of_other_settings_or_other_weights_is_trained_anew_and_it_is_said(world, steps, tmp_path):
    assert mmo_train(tmp_path).exit_code == 0
    steps.clear()
    assert mmo_train(tmp_path, "--seed", 1, stage="a2a").exit_code == 0
    done = mmo_train(tmp_path)
    assert done.exit_code == 0 and steps == (["a2a-projector"] * 6 + ["a2a"] * 6) * 2, "A2A as it was: I2T's start is what it was, too"
    assert f"a2a: {tmp_path / 'a2a.safetensors'} {OTHER_SETTINGS}" in done.output and done.output.count("done already") == 2
    steps.clear()
    done = mmo_train(tmp_path, "--seed", 1)
    assert len(steps) == 30 and done.output.count(OTHER_SETTINGS) == 3
    steps.clear()
    assert mmo_train(tmp_path, stage="t2a").exit_code == 0
    first = {path: path.read_bytes() for path in (tmp_path / "t2a.safetensors", made_file(tmp_path, "t2a"))}
    assert mmo_train(tmp_path, "--seed", 1).exit_code == 0
    for path, content in first.items():
        path.write_bytes(content)
    steps.clear()
    done = mmo_train(tmp_path)
    assert steps == ["a2a-projector"] * 6 + ["a2a"] * 6 + ["i2t-projector"] * 6 + ["i2t"] * 6
    assert "t2a: done already" in done.output and done.output.count(OTHER_SETTINGS) == 2


def test_weights_from_another_start_and_weights_that_do_not_tell_are_trained_anew(world, steps, tmp_path):
    assert mmo_train(tmp_path).exit_code == 0
    assert how_made(tmp_path, "i2t")["budget"] == "full"
    first = world.thinker_file.read_bytes()
    torch.manual_seed(5)
    worlds.save_thinker(OmniModel(worlds.MODEL).model, worlds.MODEL, world.thinker_file, torch.float32)
    assert world.thinker_file.read_bytes() != first
    done = mmo_train(tmp_path)
    assert len(steps) == 60 and done.output.count(OTHER_WEIGHTS) == 3, "each began from what the one before has become"
    unknown = f"t2a: it is not written down how {tmp_path / 't2a.safetensors'} was made; it is trained anew"
    for spoil in (lambda: made_file(tmp_path, "t2a").unlink(), lambda: made_file(tmp_path, "t2a").write_text("[]"),
                  lambda: training.save_model(OmniModel(worlds.MODEL), tmp_path / "t2a.safetensors")):  # fmt: skip
        spoil()
        steps.clear()
        done = mmo_train(tmp_path)
        assert unknown in done.output and steps == ["t2a"] * 6 and done.output.count("done already") == 2, "it became what it was, so the others stay"


def test_a_stage_whose_rows_have_changed_is_trained_anew(world, steps, tmp_path):
    """Of its own file, or of one that it rehearses; files that are gone tell nothing."""
    assert mmo_train(tmp_path).exit_code == 0
    for name, again in (("i2t-train", ["i2t-projector"] * 6 + ["i2t"] * 6), ("a2a-train", ["a2a-projector"] * 6 + ["a2a"] * 6 + ["i2t-projector"] * 6 + ["i2t"] * 6)):
        file = world.data_dir / f"{name}.parquet"
        pq.write_table(pq.read_table(file).slice(1), file)
        steps.clear()
        done = mmo_train(tmp_path)
        assert done.exit_code == 0 and steps == again, name
        assert f"was made on other rows than are there now ({name}.parquet); it is trained anew" in done.output
        assert mmo_train(tmp_path).output.count("done already") == 3, name
    file.unlink()
    steps.clear()
    assert mmo_train(tmp_path).output.count("done already") == 3 and not steps


def test_a_stage_of_another_encoder_is_trained_anew(world, steps, tmp_path, monkeypatch):
    assert mmo_train(tmp_path).exit_code == 0
    toy = worlds.toy_encoders()
    monkeypatch.setattr(training, "default_encoders", lambda *_: replace(toy, speech=replace(toy.speech, fingerprint="another ear")))
    steps.clear()
    done = mmo_train(tmp_path)
    assert "was made on other rows than are there now (a2a-train.parquet: features of question_audios); it is trained anew" in done.output
    assert "t2a: done already" in done.output and "a2a" in steps and "t2a" not in steps


def test_an_unfinished_stage_is_not_gone_on_with_from_other_weights(world, steps, tmp_path):
    train(world, "t2a", run_dir=tmp_path, progress_bar=False, workers=0)
    train(world, "a2a", run_dir=tmp_path, progress_bar=False, workers=0, pause=lambda: len(steps) == 9)
    unfinished = state_file(tmp_path, "a2a")
    assert started_from(unfinished)
    train(world, "t2a", run_dir=tmp_path, progress_bar=False, workers=0, seed=1)
    steps.clear()
    done = mmo_train(tmp_path, "--seed", 1, "--minutes", 1e-9)
    assert f"{unfinished} started from other weights than are there now; the stage begins anew" in done.output
    assert steps == ["a2a-projector"] and "t2a: done already" in done.output


def test_a_state_that_does_not_tell_its_start_is_gone_on_with(tmp_path):
    """States of an earlier version of the course."""
    save_state(tmp_path / "old.state.safetensors", {"x": torch.zeros(1)}, {"key": "k"})
    assert started_from(tmp_path / "old.state.safetensors") == ""


def test_minutes_are_the_commands_not_each_stages(world, tmp_path, monkeypatch):
    """Ninety minutes, of which T2A takes sixty: A2A has thirty left, and where it takes them all I2T does not begin."""
    clock, given = [1000.0], []

    def trained(chosen, stage, budget, run, minutes, **options):
        given.append((stage, round(minutes, 6)))
        clock[0] += 3600
        return type("Result", (), {"finished": True})

    monkeypatch.setattr(training, "train", trained)
    monkeypatch.setattr(cli.time, "monotonic", lambda: clock[0])
    done = mmo_train(tmp_path, "--minutes", 90)
    assert done.exit_code == 0 and given == [("t2a", 90), ("a2a", 30)]
    assert "the 90 minutes are over before i2t: the same command goes on" in done.output


# --- The fixed prompts ---------------------------------------------------------------------------------------------------


def kept(chosen, stage, run):
    (run / "prompts" / stage).mkdir(parents=True, exist_ok=True)
    for name in ("said.json", "replies.json"):
        (run / "prompts" / stage / name).write_text("{}")


def test_prompts_that_were_not_asked_any_more_are_asked_of_a_stage_that_is_passed_over(world, steps, tmp_path, monkeypatch):
    """Ctrl-C between a stage's last step and its last answer must not cost the answers."""
    object.__setattr__(world, "judge_dir", tmp_path / "judge")
    asked = []

    def keep_sounds(chosen, stage, run):
        asked.append(stage)
        if len(asked) == 1:
            raise KeyboardInterrupt
        kept(chosen, stage, run)

    monkeypatch.setattr(fixed_prompts, "keep_sounds", keep_sounds)
    monkeypatch.setattr(fixed_inputs, "keep_replies", lambda *_: None)
    assert mmo_train(tmp_path).exit_code == 130 and asked == ["t2a"]
    assert mmo_train(tmp_path).exit_code == 0 and asked == ["t2a", "t2a", "a2a", "i2t"] and len(steps) == 30
    assert mmo_train(tmp_path).exit_code == 0 and len(asked) == 4, "all were asked"


@pytest.fixture
def listening():
    """SIGINT as at a keyboard: a shell tells its background jobs to pass it over, and so it may have told the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_while_prompts_are_asked_stops_before_the_next_stage(world, steps, tmp_path, monkeypatch, listening):
    """The next stage may have hours of features to make before its first step."""
    object.__setattr__(world, "judge_dir", tmp_path / "judge")
    monkeypatch.setattr(fixed_prompts, "keep_sounds", lambda *_: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(fixed_inputs, "keep_replies", lambda *_: None)
    mmo_train(tmp_path)
    assert (tmp_path / "t2a.safetensors").is_file() and not (tmp_path / "log" / "a2a.jsonl").exists()


WORKER = """
import os, sys
sys.path[:0] = [{root!r}, {tests!r}]
import torch
torch.set_num_threads(1)
import worlds
from dataclasses import replace
from pathlib import Path
from mmo import cli, fixed_inputs, fixed_prompts, profiles, training
folder = Path(sys.argv[1])
profile = replace(worlds.toy_profile(folder / "world", write=False, steps=2), judge_dir=folder / "judge")
profiles.PROFILES["tiny"] = lambda: profile
training.default_encoders = lambda *_: worlds.toy_encoders()
def keep(name):
    def ask(chosen, stage, run):
        with open(folder / "asked", "a") as file:
            file.write(f"{{name}} {{stage}} {{os.environ['RANK']}}\\n")
    return ask
fixed_prompts.keep_sounds, fixed_inputs.keep_replies = keep("prompts"), keep("inputs")
sys.argv[1:] = ["train", "--profile", "tiny", "--stage", "all", "--workers", "0"]
cli.app()
"""


def test_of_two_processes_one_asks_and_both_pass_over_what_is_done(tmp_path):
    worlds.toy_profile(tmp_path / "world")
    script, tests = tmp_path / "worker.py", Path(__file__).resolve().parent
    script.write_text(WORKER.format(root=str(tests.parent), tests=str(tests)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MMO_CACHE": str(tmp_path / "cache"), "MMO_RUNS": str(tmp_path / "runs")}
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
    assert (done.stdout + done.stderr).count("done already") == 3, "said by one process"
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == [f"{what} {stage} 0" for stage in ("t2a", "a2a", "i2t") for what in ("prompts", "inputs")] * 2, asked
    result = json.loads((tmp_path / "runs" / "toy" / "log" / "i2t.result.json").read_text())
    assert result["finished"] and result["steps"] == 4
