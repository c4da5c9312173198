"""What a new user gets wrong on the command line ends with a sentence that names the thing and what to do, and loses nothing."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import worlds
from safetensors.torch import save_file
from typer.testing import CliRunner

from mmo import cli, doctor, profiles, training, weights
from mmo.checkpoint import load_state, save_state
from mmo.profiles import REPOSITORY
from mmo.vision_encoder import VisionEncoder
from mmo.weights import write_pickle, write_tensors


def told(*words: str, status: int = 1) -> str:
    """What `mmo …` says where it cannot go on: a sentence in one line (a usage error in a frame), never a traceback."""
    result = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), f"{words}: {result.exception!r}"
    assert result.exit_code == status and "Traceback" not in result.output, result.output
    return " ".join(result.output.replace("│", " ").split())


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """`--profile tiny` is a toy world whose encoders are stand-ins; runs go below tmp_path."""
    profile = worlds.toy_profile(tmp_path / "world")
    monkeypatch.setitem(profiles.PROFILES, "tiny", lambda: profile)
    monkeypatch.setattr(training, "default_encoders", lambda *_: worlds.toy_encoders())
    monkeypatch.setenv("MMO_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MMO_CACHE", str(tmp_path / "cache"))
    return profile


def cut_short(source: Path, target: Path) -> Path:
    """Half of a file, as an interrupted copy leaves it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    data = source.read_bytes()
    target.write_bytes(data[: len(data) // 2])
    return target


# --- Names and files ---------------------------------------------------------------------------------------------


def test_a_profile_that_is_none_is_named_with_those_there_are():
    assert "no profile 'tniy'; there are tiny, tiny-moe" in told("say", "hello", "--profile", "tniy", status=2)


@pytest.mark.parametrize("stage", ["t2a", "a2a"])
def test_a_stage_whose_weights_are_not_there_says_where_they_come_from(tmp_path, monkeypatch, stage):
    monkeypatch.setenv("MMO_DOWNLOADS", str(tmp_path))
    said = told("train", "--stage", stage, "--profile", "mini", "--run", tmp_path / "run")
    assert said.startswith("mmo train: ") and "mmo fetch" in said


def test_without_weights_mini_names_both_ways_to_get_some(tmp_path, monkeypatch):
    monkeypatch.setenv("MMO_DOWNLOADS", str(tmp_path))
    monkeypatch.setenv("MMO_RUNS", str(tmp_path / "runs"))
    said = told("say", "hello", "--profile", "mini", "--out", tmp_path / "say.wav")
    assert "train first: mmo train --profile mini --stage t2a, or read in the original's: mmo import minimind-3o FILE" in said


def test_a_picture_that_is_text_is_named(tmp_path):
    (tmp_path / "picture.png").write_text("not a picture")
    assert "picture.png: not a picture that can be read" in told("say", "--image", tmp_path / "picture.png", "--out", tmp_path / "say.wav")


@pytest.mark.parametrize(("name", "words"), [("say.mp3", "give a name that ends in .wav"), ("folder.wav", "it is a folder, and a file is wanted"), ("file/say.wav", "a file stands where a folder is wanted")])
def test_a_place_for_the_answer_that_is_none_is_refused_before_anything_is_said(tmp_path, name, words):
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "file").write_text("")
    said = told("say", "What is two plus two?", "--out", tmp_path / name)
    assert words in said and "Two" not in said, said


def test_a_folder_that_holds_no_batch_cannot_be_resumed(tmp_path):
    (tmp_path / "t2a.safetensors").write_text("")
    assert "holds no batch that could be resumed" in told("course", "run", "--resume", tmp_path)


@pytest.mark.parametrize("option", [("--steps", "0"), ("--minutes", "-1"), ("--workers", "-1")])
def test_less_than_nothing_is_refused(option):
    assert f"Invalid value for '{option[0]}'" in told("train", "--stage", "t2a", *option, status=2)


# --- Damaged weights ---------------------------------------------------------------------------------------------


def test_weights_cut_short_are_named(tmp_path):
    file = cut_short(REPOSITORY / "data/tiny/omni.safetensors", tmp_path / "mine.safetensors")
    assert f"{file} is no safetensors file, or damaged" in told("say", "hello", "--weights", file, "--out", tmp_path / "say.wav")


def test_voices_cut_short_are_named(toy, tmp_path, monkeypatch):
    from mmo.say import read_voice

    save_file({"joe": torch.zeros(4)}, tmp_path / "whole.safetensors")
    cut_short(tmp_path / "whole.safetensors", toy.data_dir / "voices.safetensors")
    with pytest.raises(ValueError, match="voices.safetensors is no safetensors file, or damaged"):
        read_voice(toy, None)


def test_an_eye_cut_short_is_named(tmp_path):
    eye = tmp_path / "eye"
    shutil.copytree(REPOSITORY / "data/tiny/vision_encoder", eye)
    cut_short(REPOSITORY / "data/tiny/vision_encoder/model.safetensors", eye / "model.safetensors")
    with pytest.raises(ValueError, match="eye/model.safetensors is no safetensors file, or damaged"):
        VisionEncoder.load(eye)


def test_a_saved_state_cut_short_is_named_with_what_to_do(toy, tmp_path):
    run = tmp_path / "run"
    save_state(run / "whole.safetensors", {"x": torch.zeros(100)}, {})
    cut_short(run / "whole.safetensors", run / "t2a.state.safetensors")
    assert "t2a.state.safetensors is no saved training state" in told("train", "--stage", "t2a", "--run", run)


def test_doctor_names_damaged_weights(tmp_path):
    tiny = profiles.profile("tiny")
    assert doctor.damaged_files(tiny) == []
    file = cut_short(tiny.thinker_file, tmp_path / "thinker.safetensors")
    assert doctor.damaged_files(replace(tiny, thinker_file=file, data_dir=tmp_path / "none")) == [str(file)]


# --- Runs --------------------------------------------------------------------------------------------------------


def test_a_run_of_another_profile_is_not_gone_on_from(toy, tmp_path, monkeypatch):
    run = tmp_path / "run"
    assert CliRunner().invoke(cli.app, ["train", "--stage", "t2a", "--run", str(run), "--minutes", "0.0001"]).exit_code == 0
    monkeypatch.setitem(profiles.PROFILES, "tiny-moe", lambda: replace(toy, name="tiny-moe", model=toy.model.replace(use_moe=True)))
    said = told("train", "--stage", "t2a", "--run", run, "--profile", "tiny-moe")
    assert "was made with other settings" in said and "--fresh" in said


def test_weights_of_another_profile_are_not_gone_on_from(toy, tmp_path, monkeypatch):
    run = tmp_path / "run"
    assert CliRunner().invoke(cli.app, ["train", "--stage", "t2a", "--run", str(run)]).exit_code == 0
    monkeypatch.setitem(profiles.PROFILES, "tiny-moe", lambda: replace(toy, name="tiny-moe", model=toy.model.replace(use_moe=True)))
    said = told("train", "--stage", "a2a", "--run", run, "--profile", "tiny-moe")
    assert f"{run / 't2a.safetensors'}: missing" in said and "weights of another profile than tiny-moe?" in said
    assert [path.name for path in run.glob("*.safetensors")] == ["t2a.safetensors"]


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_run_folder_that_is_a_file_is_named(toy, tmp_path, place):
    (tmp_path / "file").write_text("")
    said = told("train", "--stage", "t2a", "--run", tmp_path / place)
    assert said.startswith(f"mmo train: {tmp_path / 'file'}") and "a file stands where a folder is wanted" in said


@pytest.mark.parametrize(("number", "words"), [(errno.EACCES, "you may not read or write there"), (errno.EROFS, "that disk can only be read")])
def test_a_run_folder_that_cannot_be_written_is_named(toy, tmp_path, monkeypatch, number, words):
    """Simulated, since a superuser may write everywhere."""

    def refuse(self, *_, **__):
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    said = told("train", "--stage", "t2a", "--run", tmp_path / "run")
    assert f"{tmp_path / 'run' / 'log'}: {words}" in said and "MMO_RUNS" in said


def full_disk(*_, **__):
    """What a write raises where there is no space: it does not know the file's name."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_while_a_state_is_saved_is_named_and_the_last_state_stays(toy, tmp_path, monkeypatch):
    run = tmp_path / "run"
    assert CliRunner().invoke(cli.app, ["train", "--stage", "t2a", "--run", str(run), "--minutes", "0.0001"]).exit_code == 0
    before = (run / "t2a.state.safetensors").read_bytes()
    monkeypatch.setattr(weights, "safetensors_header", full_disk)
    said = told("train", "--stage", "t2a", "--run", run, "--minutes", "0.0001")
    assert f"{run / 't2a.state.safetensors'}: no space is left on that disk" in said and "MMO_RUNS" in said
    assert (run / "t2a.state.safetensors").read_bytes() == before and not list(run.glob("*.tmp"))
    monkeypatch.undo()
    load_state(run / "t2a.state.safetensors")


def test_a_full_disk_while_weights_are_written_leaves_the_old_ones(tmp_path, monkeypatch):
    file = tmp_path / "weights.safetensors"
    write_tensors(file, {"x": torch.zeros(3)}, {})
    before = file.read_bytes()
    monkeypatch.setattr(weights, "safetensors_header", full_disk)  # the unfinished file is open by then
    with pytest.raises(OSError) as error:
        write_tensors(file, {"x": torch.ones(3)}, {})
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(file))
    assert file.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_the_libraries_own_words_for_a_full_disk_are_known():
    """/dev/full refuses every write: what safetensors and torch raise there is what is told."""
    with pytest.raises(OSError) as error, weights.naming_disk_errors(Path("x")):
        save_file({"x": torch.zeros(10)}, "/dev/full")
    assert error.value.errno == errno.ENOSPC
    with pytest.raises((ValueError, OSError), match="space"), weights.naming_disk_errors(Path("x")):
        torch.save({"x": torch.zeros(1_000_000)}, "/dev/full")
    with pytest.raises(OSError) as error, weights.naming_disk_errors(Path("x")), open("/dev/full", "wb") as file:
        file.write(bytes(1_000_000))
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, "x")


TYPES = [torch.int64, torch.float64, torch.float32, torch.int32, torch.bfloat16, torch.float16, torch.int16, torch.int8, torch.uint8, torch.bool]


def test_our_files_are_the_librarys_byte_for_byte(tmp_path):
    """`write_tensors` writes what safetensors' own `save_file` does, tensor by tensor: every type, no axis, no element, views, odd names."""
    tensors = {f"type {number}": torch.arange(3 + number).to(kind) for number, kind in enumerate(TYPES)}
    tensors |= {"é \"quoted\"": torch.randn(2, 3), "none": torch.zeros(0, 4), "single": torch.tensor(3), "view": torch.randn(4, 6).T[1:3]}
    for about in ({"about": 'a "word" and é'}, {}):
        write_tensors(tmp_path / "ours", tensors, about)
        save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "theirs", metadata=about)
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes(), about


def test_a_parameter_is_written_without_its_gradient(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(2))
    write_tensors(tmp_path / "x.safetensors", {"x": parameter}, {})
    assert weights.read_tensors(tmp_path / "x.safetensors")[0]["x"].tolist() == [1, 1]


def test_a_whole_pickle_takes_its_place(tmp_path):
    write_pickle(tmp_path / "x.pth", {"x": torch.ones(2)})
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def test_an_error_of_the_disk_that_is_not_the_callers_keeps_its_traceback():
    with pytest.raises(OSError, match="odd"), cli.plain_errors("mmo x"):
        raise OSError(errno.EIO, "odd")


# --- Two trainings in one folder ---------------------------------------------------------------------------------

HOLD = "import sys\nfrom pathlib import Path\nfrom mmo.distributed import Group\nfrom mmo.training import alone_in\nwith alone_in(Path(sys.argv[1]), Group()):\n    print('in', flush=True)\n    sys.stdin.read()\n"


@pytest.fixture
def held(tmp_path):
    """A folder in which another process trains."""
    folder = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "in\n"
    yield folder, process
    process.kill()
    process.wait()


def test_two_trainings_in_one_folder_are_one_too_many(toy, held, monkeypatch):
    monkeypatch.setattr(training, "LOCK_SECONDS", 0.1)
    folder, process = held
    said = told("train", "--stage", "t2a", "--run", folder)
    assert f"mmo train: {folder}: another training is at work in this folder" in said and "--run FOLDER" in said
    assert [path.name for path in folder.iterdir()] == ["log"], "the second one wrote something"
    process.kill()  # as a machine that runs out of memory would
    process.wait()
    assert CliRunner().invoke(cli.app, ["train", "--stage", "t2a", "--run", str(folder)]).exit_code == 0


def test_two_trainings_of_one_process_are_one_too_many(toy, tmp_path, monkeypatch):
    """Two notebooks' threads, say; and a folder is free again whatever ended the training in it."""
    from mmo.distributed import Group

    monkeypatch.setattr(training, "LOCK_SECONDS", 0.1)
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with training.alone_in(tmp_path, Group()):
            inside.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(60)
    with pytest.raises(ValueError, match="another training"), training.alone_in(tmp_path, Group()):
        pass
    leave.set()
    thread.join()
    with pytest.raises(KeyError), training.alone_in(tmp_path, Group()):
        raise KeyError("broken")
    with training.alone_in(tmp_path, Group()):
        pass
