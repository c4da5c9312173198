"""Training: a run that was killed goes on as if it had not been, and what is not finite changes nothing."""

import gc
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import worlds
from typer.testing import CliRunner

from mmo.checkpoint import latest_weights, load_state, save_state, snapshots_of
from mmo.config import IGNORE, Draws, Rehearsal, StageConfig
from mmo.data import Batches, Draws, Layout, collate, realise
from mmo.omni import TIED, OmniModel, load_model, loss_sums
from mmo.optimiser import Average, Optimisers, choose_trainable, is_hidden_matrix, rate_factor
from mmo.rows import DataError
from mmo.training import Encoders, StageRun, Stepper, losses_of, named, open_corpora, planned_passes, read_log, train

CPU = torch.device("cpu")


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setenv("MMO_CACHE", str(tmp_path / "cache"))
    return worlds.toy_profile(tmp_path)


def run(profile, stage, folder, **options):
    return train(profile, stage, run_dir=folder, encoders=worlds.toy_encoders(), progress_bar=False, device=CPU, **options)


def losses(path):
    return [(entry["step"], entry["pass"], entry["text"], entry["audio"], tuple(entry["codebooks"]), entry["norm"]) for entry in read_log(path)]


def stage_config(**changes):
    settings = dict(name="x", data=("x",), learning_rate=1e-3, steps=10, max_length=160, token_budget=480)
    return StageConfig(**(settings | changes))


def some_batch(profile, tmp_path, stage="t2a"):
    config = profile.stages[stage][-1]
    corpora, shares = open_corpora(profile, config, worlds.toy_encoders())
    return next(Batches(corpora, shares, Layout(profile.model, worlds.tokenizer(), 160), 480, chunk_rows=32).start())


# --- The whole way -----------------------------------------------------------------------------------------------


def test_three_stages_make_one_set_of_weights(profile, tmp_path):
    """T2A, A2A, I2T: each starts from the one before, learns what it should and leaves the rest."""
    folder = tmp_path / "run"
    results = {stage: run(profile, stage, folder) for stage in ("t2a", "a2a", "i2t")}
    for stage, result in results.items():
        assert result.finished and result.steps == result.total_steps == 6 * len(profile.stages[stage])
        assert result.skipped == 0 and not result.bad_rows and result.useful > 0.8
        assert len(read_log(result.log_file)) == result.total_steps
        assert not (folder / f"{stage}.state.safetensors").exists()
        assert list((folder / "tensorboard" / stage).glob("events*"))
    assert {entry["validation"] for entry in read_log(results["i2t"].log_file, validation=True)} == {
        "i2t-validation", "t2a-validation", "a2a-validation",
    }  # fmt: skip
    spoken, heard, seen = (load_model(result.model_file).state_dict() for result in results.values())
    assert torch.equal(spoken["vision_proj.mlp.1.weight"], heard["vision_proj.mlp.1.weight"])
    assert not torch.equal(spoken["audio_proj.mlp.1.weight"], heard["audio_proj.mlp.1.weight"])
    assert not torch.equal(heard["vision_proj.mlp.1.weight"], seen["vision_proj.mlp.1.weight"])


def test_what_a_training_held_is_let_go(profile, tmp_path, monkeypatch):
    """A notebook goes on in the same process: a mixture's weights, moments and averages are gigabytes there."""

    def alive():
        gc.collect()
        return sum(type(each) in (Stepper, StageRun) for each in gc.get_objects())

    before, then = alive(), []
    monkeypatch.setattr("mmo.memory.give_back", lambda device: then.append(alive()))
    run(profile, "t2a", tmp_path / "run")
    assert then and then[-1] == before, "held while freed memory was given back, or not given back at all"


def test_losses_fall(profile, tmp_path):
    folder = tmp_path / "run"
    log = read_log(run(profile, "t2a", folder, steps=60).log_file)
    first, last = log[:5], log[-5:]
    for name in ("text", "audio"):
        assert np.mean([entry[name] for entry in last]) < np.mean([entry[name] for entry in first])


def test_snapshots_are_the_weights_on_the_way(profile, tmp_path):
    """One a validation; the last is the finished model; keeping them changes nothing, and a fresh run throws the old ones away."""
    kept, plain = (run(profile, "t2a", tmp_path / name, steps=9, snapshots=keep) for name, keep in (("kept", True), ("plain", False)))
    found = snapshots_of(tmp_path / "kept", "t2a")
    assert [step for step, _ in found] == [3, 6, 9] and not snapshots_of(tmp_path / "plain", "t2a")
    assert losses(kept.log_file) == losses(plain.log_file)
    finished, last = load_model(kept.model_file).state_dict(), load_model(found[-1][1]).state_dict()
    assert all(torch.equal(value.half().float(), last[name]) for name, value in finished.items())
    run(profile, "t2a", tmp_path / "kept", steps=6, snapshots=True, fresh=True)
    assert [step for step, _ in snapshots_of(tmp_path / "kept", "t2a")] == [2, 4, 6]


def test_experts_train_by_the_same_words(profile, tmp_path):
    mixture = worlds.toy_profile(tmp_path, model=worlds.MODEL.replace(use_moe=True))
    result = run(mixture, "t2a", tmp_path / "moe", budget="smoke")
    assert result.finished and all(entry["aux"] > 0 for entry in read_log(result.log_file))
    assert load_model(result.model_file).config.use_moe


def test_a_projector_pass_moves_nothing_else(profile, tmp_path):
    batch = some_batch(profile, tmp_path, "a2a")
    torch.manual_seed(0)
    model = OmniModel(profile.model).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Stepper(model, stage_config(trainable="audio_proj"), 10, CPU, torch.float32).step(batch, 0)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("audio_proj.") for name in changed)
    with pytest.raises(ValueError, match="ears is no part of the model; there are all, audio_proj, "):
        choose_trainable(model, "ears")


def test_a_batch_that_nothing_learns_from_changes_nothing(profile, tmp_path):
    """A projector's pass may meet a batch without a sound: its losses are told, no weight moves, and the step counts."""
    config = profile.stages["a2a"][0]
    stepper = Stepper(OmniModel(profile.model).train(), config.replace(trainable="audio_proj"), 4, CPU, torch.float32)
    before = {name: value.clone() for name, value in stepper.model.state_dict().items()}
    figures = stepper.step(some_batch(profile, tmp_path, "t2a"), 0)
    assert figures[0] > 0 and figures[-2:].tolist() == [0, 0]
    assert all(torch.equal(value, before[name]) for name, value in stepper.model.state_dict().items())


def test_bf16_trains_like_fp32(profile, tmp_path):
    batch = some_batch(profile, tmp_path)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        stepper = Stepper(OmniModel(profile.model).train(), stage_config(), 10, CPU, dtype)
        found[dtype] = stepper.step(batch, 0)
        assert all(parameter.dtype == torch.float32 for parameter in stepper.parameters)
    torch.testing.assert_close(found[torch.float32][:11], found[torch.bfloat16][:11], rtol=0.03, atol=0.03)


# --- Interrupted -------------------------------------------------------------------------------------------------

WORKER = """
import sys, time
from dataclasses import replace
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
import torch
torch.set_num_threads(1)
import worlds
from mmo import training
folder = Path(sys.argv[1])
if sys.argv[2] == "kill":      # announce the step after which we may be killed
    fetch = training.StageRun.fetch
    def slow(self, pending, log, bar):
        fetch(self, pending, log, bar)
        print(self.progress.before + self.progress.step, flush=True)
        time.sleep(0.2)
    training.StageRun.fetch = slow
    training.FETCH_STEPS = 1
profile = worlds.toy_profile(folder)
training.train(profile, "a2a", run_dir=folder / "run", encoders=worlds.toy_encoders(), progress_bar=False,
               device=torch.device("cpu"), save_at=(2, 4))
"""


def test_killed_and_resumed_equals_unbroken(profile, tmp_path):
    """SIGKILL in the first pass and in the second, behind a saved state: the log and the weights are those of an unbroken run."""
    run(profile, "t2a", tmp_path / "run")
    start = (tmp_path / "run" / "t2a.safetensors").read_bytes()
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "t2a.safetensors").write_bytes(start)
    unbroken = run(profile, "a2a", whole)

    root, tests = Path(__file__).resolve().parents[1], Path(__file__).resolve().parent
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(root=str(root), tests=str(tests)))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for last in (3, 11):  # steps 2 and 4 of each pass are saved; the second pass begins at 6
        process = subprocess.Popen([sys.executable, script, tmp_path, "kill"], stdout=subprocess.PIPE, text=True, env=environment)
        for line in process.stdout:
            if line.strip().isdigit() and int(line) >= last:
                process.kill()  # SIGKILL, where there are signals
                break
        process.stdout.close()
        assert process.wait() != 0
        assert (tmp_path / "run" / "a2a.state.safetensors").is_file()
        assert not (tmp_path / "run" / "a2a.safetensors").exists()
    resumed = run(profile, "a2a", tmp_path / "run")
    assert resumed.finished and losses(resumed.log_file) == losses(unbroken.log_file)
    assert read_log(resumed.log_file, validation=True) == read_log(unbroken.log_file, validation=True)
    assert (resumed.rows, resumed.useful) == (unbroken.rows, unbroken.useful)
    one, other = load_model(resumed.model_file).state_dict(), load_model(unbroken.model_file).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


ANY_MOMENT = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
import torch
torch.set_num_threads(1)
import worlds
from mmo import products, training
products.has_units, products.SMALLEST = lambda device: True, 2
data, folder = Path(sys.argv[1]), Path(sys.argv[2])
profile = worlds.with_recipe(worlds.toy_profile(data, write=False), optimiser="muon", quick_products=True)
print("begins", flush=True)
training.train(profile, "a2a", run_dir=folder, encoders=worlds.toy_encoders(), progress_bar=False, device=torch.device("cpu"), save_at=range(1, 6))
"""


def test_killed_at_any_moment(profile, tmp_path, monkeypatch):
    """With tiny's optimiser and products: while features are made, before the first state, while one is written, in a validation, at the end."""
    monkeypatch.setattr("mmo.products.has_units", lambda device: True)
    monkeypatch.setattr("mmo.products.SMALLEST", 2)
    profile, kept = worlds.with_recipe(profile, optimiser="muon", quick_products=True), os.environ["MMO_CACHE"]
    start = run(profile, "t2a", tmp_path / "start").model_file.read_bytes()
    script, root = tmp_path / "worker.py", Path(__file__).resolve().parents[1]
    script.write_text(ANY_MOMENT.format(root=str(root), tests=str(root / "tests")))

    def begin(name):
        """A process that trains in a folder of its own, with a cache of its own, from where training begins."""
        folder = tmp_path / name
        folder.mkdir()
        (folder / "t2a.safetensors").write_bytes(start)
        shutil.copytree(kept, tmp_path / f"cache-{name}")
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MMO_CACHE": str(tmp_path / f"cache-{name}")}
        process = subprocess.Popen([sys.executable, script, tmp_path, folder], stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout.readline() == "begins\n"
        return process, folder, time.monotonic()

    process, whole, began = begin("whole")
    assert process.wait() == 0
    took = time.monotonic() - began
    wanted, weights = losses(whole / "log" / "a2a.jsonl"), (whole / "a2a.safetensors").read_bytes()
    assert len(wanted) == 12
    for share in (0.1, 0.35, 0.55, 0.75, 0.95):
        process, folder, _ = begin(f"killed-{share}")
        time.sleep(share * took)
        process.kill()
        process.wait()
        process.stdout.close()
        monkeypatch.setenv("MMO_CACHE", str(tmp_path / f"cache-killed-{share}"))
        if not (folder / "a2a.safetensors").exists():
            assert run(profile, "a2a", folder, save_at=range(1, 6)).finished
        assert losses(folder / "log" / "a2a.jsonl") == wanted, share
        assert (folder / "a2a.safetensors").read_bytes() == weights, share


def test_minutes_pause_and_change_nothing(profile, tmp_path):
    """A run cut into pieces by the clock has the losses of one that was not."""
    whole = run(profile, "t2a", tmp_path / "whole")
    pieces = 0
    while not (result := run(profile, "t2a", tmp_path / "pieces", minutes=1e-9)).finished:
        pieces += 1
        assert result.steps == pieces and "goes on" in str(result)
    assert pieces == 5 and losses(result.log_file) == losses(whole.log_file)


def test_state_of_other_settings_is_refused(profile, tmp_path):
    assert not run(profile, "t2a", tmp_path / "run", minutes=1e-9).finished
    with pytest.raises(ValueError, match="other settings.*fresh"):
        run(profile, "t2a", tmp_path / "run", seed=1)
    assert run(profile, "t2a", tmp_path / "run", seed=1, fresh=True).finished


def test_what_was_to_be_forgotten_is_forgotten(profile, tmp_path, monkeypatch):
    """Killed before it was saved, a fresh run leaves nothing of the one before that could be gone on with by mistake."""
    assert not run(profile, "t2a", tmp_path / "run", minutes=1e-9).finished
    monkeypatch.setattr(Stepper, "step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(profile, "t2a", tmp_path / "run", fresh=True)
    assert not (tmp_path / "run" / "t2a.state.safetensors").exists()
    monkeypatch.undo()
    assert "the same command without --fresh goes on" in str(run(profile, "t2a", tmp_path / "run", fresh=True, minutes=1e-9))


def test_a_pause_at_the_end_of_a_pass_is_one(profile, tmp_path):
    """The next pass may have features of hours to make: the state is saved before, and all is as if there had been no pause."""
    run(profile, "t2a", tmp_path / "run")
    steps = iter(range(1, 100))
    paused = run(profile, "a2a", tmp_path / "run", pause=lambda: next(steps) == 6)
    assert not paused.finished and paused.steps == 6
    resumed = run(profile, "a2a", tmp_path / "run")
    run(profile, "t2a", tmp_path / "whole")
    whole = run(profile, "a2a", tmp_path / "whole")
    assert resumed.finished and losses(resumed.log_file) == losses(whole.log_file)
    assert read_log(resumed.log_file, validation=True) == read_log(whole.log_file, validation=True)
    assert resumed.model_file.read_bytes() == whole.model_file.read_bytes()


def test_updates_of_the_average_are_counted_not_steps(profile, tmp_path, monkeypatch):
    """A step that teaches nothing is none of the average's; a young average's decay depends on their number."""
    step, taught = Stepper.step, []

    def every_second(self, batch, number):
        if number % 2:
            return torch.zeros(5 + self.model.config.num_codebooks)
        taught.append(self)
        return step(self, batch, number)

    monkeypatch.setattr(Stepper, "step", every_second)
    assert not run(profile, "t2a", tmp_path / "run", pause=lambda: len(taught) == 2).finished
    assert run(profile, "t2a", tmp_path / "run").finished
    assert taught[-1].average.updates == 3 == len(taught), "of six steps"


def test_state_of_other_rows_is_refused(profile, tmp_path):
    assert not run(profile, "t2a", tmp_path / "run", minutes=1e-9).finished
    path = profile.data_dir / "t2a-train.parquet"
    before = path.read_bytes()
    worlds.write_rows(path, worlds.make_rows("t2a", 40, seed=5))
    with pytest.raises(ValueError, match=r"t2a\.state.*other rows.*t2a-train.*fresh"):
        run(profile, "t2a", tmp_path / "run")
    path.write_bytes(before)
    assert run(profile, "t2a", tmp_path / "run").finished


def test_a_stage_begun_from_other_weights_begins_anew(profile, tmp_path, capsys):
    """In a notebook, too, where nobody asked how the stages stand."""
    folder = tmp_path / "run"
    run(profile, "t2a", folder)
    assert not run(profile, "a2a", folder, minutes=1e-9).finished
    run(profile, "t2a", folder, seed=1)
    run(profile, "a2a", folder)
    assert "started from other weights than are there now; the stage begins anew" in capsys.readouterr().out
    other = tmp_path / "other"
    run(profile, "t2a", other, seed=1)
    run(profile, "a2a", other)
    assert (folder / "a2a.safetensors").read_bytes() == (other / "a2a.safetensors").read_bytes()


def test_no_minutes_are_no_time(profile, tmp_path):
    assert run(profile, "t2a", tmp_path / "run", minutes=0.0).steps == 1


def test_held_out_losses_do_not_depend_on_how_rows_are_batched(profile, tmp_path):
    """Rows with sound and rows without, together or one by one."""
    torch.manual_seed(0)
    stepper = Stepper(OmniModel(profile.model), stage_config(codebook_weights=(4.0, 2.0, 1.5, 1.0, 1.0, 1.0, 1.0, 1.0)), 10, CPU, torch.float32)
    layout, examples = Layout(profile.model, worlds.tokenizer(), 160), []
    for stage in ("t2a", "i2t"):
        corpora, _ = open_corpora(profile, profile.stages[stage][0], worlds.toy_encoders())
        examples += [realise(corpora[0], number, 0, np.random.default_rng(0), layout) for number in range(6)]
    single = stepper.validate([collate([each], profile.model) for each in examples])
    together = stepper.validate([collate(examples[:3], profile.model), collate(examples[3:], profile.model)])
    for name in ("text", "audio", "codebooks"):
        assert together[name] == pytest.approx(single[name], rel=1e-4), name


@pytest.mark.parametrize("changes, words", [
    (dict(codebook_weights=(0.0,) * 8), "codebook_weights"), (dict(codebook_weights=(1.0, -1.0)), "codebook_weights"),
    (dict(steps=0), "0 steps"), (dict(steps=None, epochs=0.0), "0.0 epochs"),
    (dict(code_dropout=1.0), "code_dropout 1.0"), (dict(code_dropout=-0.1), "code_dropout -0.1"), (dict(clip_norm=0.0), "clip_norm 0.0"),
    (dict(sound_copies=0), "sound_copies 0"), (dict(picture_copies=0), "picture_copies 0"),
])  # fmt: skip
def test_a_recipe_that_cannot_be_trained_is_refused(changes, words):
    with pytest.raises(ValueError, match=f"stage x: .*{words}"):
        stage_config(**changes)


@pytest.mark.parametrize("changes, words", [
    (dict(hidden_length=(6, 2)), r"hidden_length \[6, 2\]"), (dict(hidden_length=(2,)), "hidden_length"), (dict(silent=1.5), "draws.silent 1.5"),
])  # fmt: skip
def test_draws_that_cannot_be_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Draws(**changes)


def test_steps_take_the_place_of_epochs_and_the_other_way_round():
    """Notebooks try a few steps of a pass, whatever its recipe counts in."""
    by_epochs = stage_config(steps=None, epochs=2.0)
    assert (by_epochs.replace(steps=5).steps, by_epochs.replace(steps=5).epochs) == (5, None)
    assert (stage_config(steps=5).replace(epochs=2.0).steps, stage_config(steps=5).replace(epochs=2.0).epochs) == (None, 2.0)
    assert by_epochs.replace(steps=None, learning_rate=1.0).epochs == 2.0


def test_what_is_read_of_an_optimiser_is_copied(profile):
    """What a file gave may be a view into it, and the next state takes that file's place (which Windows refuses while it is in use)."""
    stepper = Stepper(OmniModel(profile.model), stage_config(optimiser="muon"), 10, CPU, torch.float32)
    for parameter in stepper.parameters:
        parameter.grad = torch.ones_like(parameter)
    stepper.optimisers.step(torch.zeros(()))
    given = {name: value.clone() for name, value in stepper.optimisers.state().items()}
    stepper.optimisers.load(given)
    taken = stepper.optimisers.state()
    assert taken.keys() == given.keys() and all(torch.equal(taken[name], value) and taken[name].data_ptr() != value.data_ptr() for name, value in given.items())


def test_codebook_weights_are_one_for_each(profile):
    with pytest.raises(ValueError, match="codebook_weights has 3 numbers for 8 codebooks"):
        Stepper(OmniModel(profile.model), stage_config(codebook_weights=(4.0, 2.0, 1.0)), 10, CPU, torch.float32)


def test_state_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.state.safetensors"
    save_state(path, {"a": torch.ones(3)}, {"step": 1})
    monkeypatch.setattr("mmo.weights.os.replace", lambda *names: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save_state(path, {"a": torch.zeros(3)}, {"step": 2})
    tensors, about = load_state(path)
    assert about == {"step": 1} and tensors["a"].tolist() == [1, 1, 1]
    path.write_bytes(b"broken")
    with pytest.raises(ValueError, match="delete it"):
        load_state(path)


def test_t2a_starts_from_miniminds_text_weights_where_the_profile_says_so(tmp_path, monkeypatch, capsys):
    """As `mini` does: the Thinker from a .pth of half precision, its last layer as a start for the Talker's; else the Talker is drawn."""
    monkeypatch.setenv("MMO_CACHE", str(tmp_path / "cache"))
    sizes = worlds.MODEL.replace(num_attention_heads=8, num_key_value_heads=4, head_dim=4)  # the Talker's own, as at full size
    toy = worlds.toy_profile(tmp_path, model=sizes)
    torch.manual_seed(1)
    text = {f"model.{name}": value.half() for name, value in OmniModel(sizes).model.state_dict().items()}
    torch.save(text | {TIED: text["model.embed_tokens.weight"]}, tmp_path / "llm_768.pth")

    def start(talker_from_thinker):
        profile = replace(toy, thinker_file=tmp_path / "llm_768.pth", talker_from_thinker=talker_from_thinker)
        settings = dict(device=CPU, dtype=torch.float32, passes=profile.stages["t2a"], seed=0)
        return StageRun(profile, "t2a", tmp_path / "run", settings, worlds.toy_encoders()).model().state_dict()

    drawn, copied = start(False), start(True)
    assert all(torch.equal(copied[name], value.float()) for name, value in text.items())
    ours, theirs = "talker.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight"
    assert torch.equal(copied[ours], copied[theirs]) and not torch.equal(drawn[ours], drawn[theirs])
    assert "llm_768.pth), its last 1 layers as a start for the Talker's" in capsys.readouterr().out
    result = run(replace(toy, thinker_file=tmp_path / "llm_768.pth", talker_from_thinker=True), "t2a", tmp_path / "run", budget="smoke")
    assert result.finished and result.skipped == 0


def test_which_weights_a_stage_starts_from(profile, tmp_path):
    with pytest.raises(FileNotFoundError, match="mmo train --profile toy --stage t2a"):
        latest_weights(profile, tmp_path, before="a2a")
    profile.checkpoint_file.write_bytes(b"shipped")
    path, words = latest_weights(profile, tmp_path)
    assert path == profile.checkpoint_file and "came with the course" in words
    (tmp_path / "t2a.safetensors").write_bytes(b"own")
    (tmp_path / "i2t.safetensors").write_bytes(b"later")
    assert latest_weights(profile, tmp_path, before="a2a")[0] == tmp_path / "t2a.safetensors"
    assert latest_weights(profile, tmp_path)[0] == tmp_path / "i2t.safetensors"


# --- One step ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_step_that_is_not_finite_changes_nothing(profile, tmp_path, optimiser):
    batch = some_batch(profile, tmp_path)
    torch.manual_seed(0)
    stage = stage_config(optimiser=optimiser, weight_decay=0.1, ema_decay=0.9)
    stepper = Stepper(OmniModel(profile.model).train(), stage, 10, CPU, torch.float32)
    assert stepper.step(batch, 0)[-1] == 0, "moments of a good step, which could move the weights by themselves"
    before = {name: value.clone() for name, value in stepper.model.state_dict().items()}
    moments = {name: value.clone() for name, value in stepper.optimisers.state().items()}
    spoilt = batch.__class__(**(vars(batch) | {"speaker": torch.full_like(batch.speaker, float("inf"))}))
    assert stepper.step(spoilt, 1)[-1] == 1
    assert all(torch.equal(value, before[name]) for name, value in stepper.model.state_dict().items())
    assert all(torch.equal(value, stepper.optimisers.state()[name]) for name, value in moments.items())
    assert stepper.step(batch, 2)[-1] == 0
    assert any(not torch.equal(value, before[name]) for name, value in stepper.model.state_dict().items())


def test_skipped_steps_are_counted_and_shown(profile, tmp_path, monkeypatch):
    original = Stepper.step

    def sometimes_broken(self, batch, number):
        if number == 2:
            batch = batch.__class__(**(vars(batch) | {"speaker": torch.full_like(batch.speaker, float("nan"))}))
        return original(self, batch, number)

    monkeypatch.setattr(Stepper, "step", sometimes_broken)
    result = run(profile, "t2a", tmp_path / "run")
    assert result.finished and result.skipped == 1 and "1 steps skipped" in str(result)
    assert [entry["step"] for entry in read_log(result.log_file) if entry["skipped"]] == [2]


def test_bad_rows_are_listed_at_the_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MMO_CACHE", str(tmp_path / "cache"))
    profile = worlds.toy_profile(tmp_path)
    rows = worlds.make_rows("t2a", 20)
    rows[7]["spk_emb"] = [1.0]
    worlds.write_rows(profile.data_dir / "t2a-train.parquet", rows)
    result = run(profile, "t2a", tmp_path / "run", budget="smoke")
    assert [str(bad).split(":")[0] for bad in result.bad_rows] == ["t2a-train.parquet, row 7"]
    assert "t2a-train.parquet, row 7" in capsys.readouterr().out
    assert "row 7" in (tmp_path / "run" / "log" / "t2a.bad-rows.txt").read_text()
    with pytest.raises(DataError, match="row 7"):
        run(profile, "t2a", tmp_path / "strict", budget="smoke", strict=True)


def test_audio_loss_is_the_originals(profile, tmp_path):
    """Mean over codebooks of [sum of CE, 10 times where the stop is, over the number of labels], spelt out naively."""
    batch = some_batch(profile, tmp_path)
    torch.manual_seed(0)
    model = OmniModel(profile.model).eval()
    total, parts = losses_of(model, batch, stage_config(), CPU)
    logits = model(**{**batch.inputs(CPU), "text_length": None}).audio_logits
    expected = []
    for k in range(8):
        labels = batch.audio_labels[:, k]
        each = torch.nn.functional.cross_entropy(logits[:, k].flatten(0, 1), labels.flatten(), reduction="none")
        weight = 1 + 9 * (labels.flatten() == profile.model.audio_stop_token)
        expected.append((each * weight).sum() / (labels != IGNORE).sum())
    torch.testing.assert_close(parts[3:], torch.stack(expected), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(parts[1], torch.stack(expected).mean(), rtol=1e-4, atol=1e-4)
    weights = (4.0, 2.0, 1.5, 1.0, 1.0, 1.0, 1.0, 1.0)
    weighted = losses_of(model, batch, stage_config(codebook_weights=weights), CPU)[1]
    expected_mean = sum(w * e for w, e in zip(weights, expected)) / sum(weights)
    torch.testing.assert_close(weighted[1], expected_mean, rtol=1e-4, atol=1e-4)


def test_a_batch_without_sound_leaves_the_talker_out(profile, tmp_path):
    """Nothing is spoken: no audio loss, no gradient for the Talker, and the text's loss is the same with it and without."""
    batch = some_batch(profile, tmp_path, "i2t")
    silent = replace(batch, audio_labels=torch.full_like(batch.audio_labels, IGNORE), speaker=None)
    model = OmniModel(profile.model).train()
    total, parts = losses_of(model, silent, stage_config(), CPU)
    total.backward()
    assert named(parts)["audio"] == 0 and total > 0
    assert all(parameter.grad is None for parameter in model.talker.parameters())
    hidden = model.hidden_states(**silent.inputs(CPU) | {"speaking": None})
    assert hidden.audio is not None
    torch.testing.assert_close(loss_sums(model, hidden, silent.text_labels, silent.audio_labels).text_loss(), parts[0])
    with pytest.raises(ValueError, match="Talker was left out"):
        left_out = model.hidden_states(**batch.inputs(CPU) | {"speaking": ()})
        loss_sums(model, left_out, batch.text_labels, batch.audio_labels)


def test_only_rows_with_sound_to_learn_go_through_the_talker(profile, tmp_path):
    """Some rows are silent: loss and every gradient are those of all rows through the Talker, at fewer rows."""
    batch = some_batch(profile, tmp_path)
    labels = batch.audio_labels.clone()
    labels[1:-1] = IGNORE
    batch, rows = replace(batch, audio_labels=labels), []
    assert batch.speaking == (0, len(labels) - 1) and len(labels) > 2
    model = OmniModel(profile.model).train()
    model.talker.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    found = []
    for speaking in (batch.speaking, None):
        model.zero_grad()
        hidden = model.hidden_states(**batch.inputs(CPU) | {"speaking": speaking})
        sums = loss_sums(model, hidden, batch.text_labels, labels)
        (sums.text_loss() + sums.audio_loss()).backward()
        found.append([sums.text_loss(), sums.audio_loss(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert rows == [2, len(labels)]
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


# --- Rates, average, optimisers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
def test_rate_warms_up_and_ends_at_its_share(schedule):
    stage = stage_config(schedule=schedule, warmup_steps=10, final_rate=0.1)
    rates = [rate_factor(step, 200, stage) for step in range(200)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0) and rates[-1] == pytest.approx(0.1)
    assert all(later >= earlier for earlier, later in zip(rates[:10], rates[1:10]))
    assert all(later <= earlier + 1e-12 for earlier, later in zip(rates[10:], rates[11:]))
    if schedule == "wsd":
        assert rates[150] == 1.0


def test_short_runs_warm_up_shortly():
    assert rate_factor(2, 20, stage_config(warmup_steps=100)) == pytest.approx(1.0)


def test_average_follows_and_swaps():
    weight = torch.nn.Parameter(torch.zeros(2))
    average = Average({"w": weight}, 0.5)
    for _ in range(30):
        weight.data.fill_(1.0)
        average.update()
    assert 0.99 < float(average.values["w"][0]) <= 1.0
    weight.data.fill_(5.0)
    held = average.values["w"].clone()
    average.swap()
    assert torch.equal(weight.data, held) and average.values["w"].tolist() == [5.0, 5.0]


def test_muon_gets_hidden_matrices_only():
    model = OmniModel(worlds.MODEL.replace(use_moe=True))
    parameters = choose_trainable(model, "all")
    optimisers = Optimisers(parameters, stage_config(optimiser="muon"))
    names = {optimisers.names[parameter] for parameter in optimisers.muon.param_groups[0]["params"]}
    assert names == {name for name, parameter in parameters.items() if is_hidden_matrix(name, parameter)}
    assert "talker.layers.0.self_attn.q_proj.weight" in names and "model.layers.0.mlp.experts.0.up_proj.weight" in names
    assert not any("embed" in name or "lm_head" in name or name.endswith("gate.weight") for name in names)
    counted = sum(len(group["params"]) for optimiser, _ in optimisers.rates for group in optimiser.param_groups)
    assert counted == len(parameters)


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_saved_optimiser_goes_on_the_same(profile, tmp_path, optimiser):
    batch = some_batch(profile, tmp_path)
    stage = stage_config(optimiser=optimiser, ema_decay=0.9, code_dropout=0.3)

    def fresh():
        torch.manual_seed(0)
        return Stepper(OmniModel(profile.model).train(), stage, 10, CPU, torch.float32)

    first = fresh()
    for number in range(3):
        first.step(batch, number)
    save_state(tmp_path / "s.safetensors", first.tensors(), {})
    wanted = [first.step(batch, number) for number in (3, 4)]
    second = fresh()
    second.load(load_state(tmp_path / "s.safetensors")[0], 3)
    assert all(torch.equal(one, second.step(batch, number)) for one, number in zip(wanted, (3, 4)))
    assert all(value.dtype == torch.float32 for value in second.optimisers.state().values())


def test_weights_that_do_not_fit_are_named(profile, tmp_path):
    stepper = Stepper(OmniModel(profile.model), stage_config(), 10, CPU, torch.float32)
    tensors = stepper.tensors()
    del tensors["model/talker.text_scale"]
    with pytest.raises(ValueError, match="missing .*talker.text_scale"):
        stepper.load(tensors, 0)
    assert TIED not in tensors


# --- Budgets and the command line --------------------------------------------------------------------------------


def test_budgets(profile):
    assert [each.steps for each in planned_passes(profile, "a2a", "full", None)] == [6, 6]
    assert [each.steps for each in planned_passes(profile, "a2a", "smoke", None)] == [2, 2]
    assert [each.steps for each in planned_passes(profile, "a2a", "full", 60)] == [30, 30]
    with pytest.raises(ValueError, match="t2a, a2a, i2t"):
        planned_passes(profile, "t2v", "full", None)
    with pytest.raises(ValueError, match="full, smoke"):
        planned_passes(profile, "t2a", "weekend", None)


def test_epochs_become_steps(profile, tmp_path):
    stage = profile.stages["t2a"][0].replace(steps=None, epochs=2)
    profile.stages["t2a"] = (stage,)
    result = run(profile, "t2a", tmp_path / "run")
    assert result.rows == pytest.approx(80, abs=20)


def test_rows_of_text_alone_can_be_rehearsed(profile, tmp_path):
    """A file named for text needs no column of sound: its rows teach words and no code."""
    texts = [{**row, "answer_audios": [], "ref_audios": [], "spk_emb": []} for row in worlds.make_rows("t2a", 40)]
    worlds.write_rows(profile.data_dir / "text-train.parquet", texts)
    stage = replace(profile.stages["t2a"][0], rehearsal=(Rehearsal(("text-train.parquet",), 0.5, Draws.none()),))
    corpora, shares = open_corpora(profile, stage, Encoders(), strict=True)
    assert shares == [0.5, 0.5] and [len(corpus) for corpus in corpora] == [40, 40]
    layout = Layout(profile.model, worlds.tokenizer(), stage.max_length)
    (batch,) = [each for each, _ in zip(Batches(corpora[1:], [1.0], layout, stage.token_budget).start(), range(1))]
    assert (batch.text_labels != IGNORE).any() and (batch.audio_labels == IGNORE).all()


def test_missing_encoder_and_data_are_named(profile, tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights"):
        run(profile, "a2a", tmp_path / "run")
    run(profile, "t2a", tmp_path / "run", budget="smoke")
    with pytest.raises(FileNotFoundError, match="a2a-train.parquet has question_audios, but there is no encoder"):
        train(profile, "a2a", run_dir=tmp_path / "run", encoders=Encoders(), progress_bar=False)
    (profile.data_dir / "a2a-train.parquet").unlink()
    with pytest.raises(DataError, match="a2a-train.parquet: no such data file"):
        run(profile, "a2a", tmp_path / "run")


def test_command_line(profile, tmp_path, monkeypatch):
    from mmo import cli, profiles

    monkeypatch.setattr(profiles, "PROFILES", {"toy": lambda: profile})
    options = ["train", "--profile", "toy", "--stage", "t2a", "--budget", "smoke", "--run", str(tmp_path / "cli")]
    done = CliRunner().invoke(cli.app, options)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "cli" / "t2a.safetensors").is_file() and "t2a done" in done.output
    (profile.data_dir / "t2a-train.parquet").unlink()
    failed = CliRunner().invoke(cli.app, options)
    assert failed.exit_code == 1 and "t2a-train.parquet: no such data file" in failed.output
