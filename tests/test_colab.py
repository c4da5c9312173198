"""Colab: its own torch stays, what is missing is installed at its pin and alone, and the card decides the profile."""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace

import pytest

from mmo import colab
from mmo.colab import Pin, fitting_profile, needed, plan, prepare, project_requirements, read_pins
from mmo.doctor import Gpu, Machine

PINS = read_pins((colab.REPOSITORY / "constraints.txt").read_text(encoding="utf-8"))
# As a Colab runtime may be: its own torch and NumPy, a newer transformers, no moshi.
COLAB = {"torch": "2.9.0+cu126", "torchaudio": "2.9.0+cu126", "torchvision": "0.24.0+cu126", "triton": "3.5.0", "numpy": "2.0.2", "scipy": "1.16.3", "pandas": "2.2.2",
         "transformers": "4.57.6", "huggingface-hub": "0.36.0", "safetensors": "0.7.0", "tokenizers": "0.22.1", "pyarrow": "18.1.0", "pillow": "11.3.0", "soundfile": "0.13.1",
         "soxr": "1.0.0", "pyyaml": "6.0.3", "requests": "2.32.4", "matplotlib": "3.10.0", "tensorboard": "2.19.0", "tqdm": "4.67.1", "ipykernel": "6.17.1", "nbclient": "0.10.2",
         "nbconvert": "7.16.6", "nbformat": "5.10.4", "packaging": "25.0", "psutil": "5.9.5", "rich": "13.9.4", "typer": "0.20.0"}  # fmt: skip


def names(install) -> set[str]:
    return {each.split("==")[0] for each in install}


def test_constraints_are_read_with_who_needs_what():
    assert PINS["moshi"] == Pin("moshi", "0.2.13", ("mmo",))
    assert "moshi" in PINS["sphn"].via and "moshi" in PINS["bitsandbytes"].via
    assert set(PINS["aiohttp"].via) == {"moshi", "papermill"}
    here = "a==1 ; python_full_version < '3'\n    # via b\na==2 ; python_full_version >= '3'\n    # via\n    #   b\n    #   mmo (pyproject.toml)\n"
    assert read_pins(here) == {"a": Pin("a", "2", ("b", "mmo"))}


def test_what_is_missing_is_installed_at_its_pin_and_nothing_of_torchs():
    todo = plan(project_requirements(), PINS, COLAB)
    assert {"moshi", "funasr", "sphn", "pocketsphinx", "jiwer", "papermill"} <= names(todo.install)
    assert f"moshi=={PINS['moshi'].version}" in todo.install
    touched = names(todo.install)
    assert not touched & {"torch", "torchaudio", "torchvision", "triton", "numpy", "scipy", "transformers", "matplotlib"}
    assert not [name for name in touched if name.startswith("nvidia-")]
    assert not touched & {"jupyterlab", "ipykernel", "ipywidgets", "jupyter-server", "piper-tts", "nbgrader", "pytest"}
    assert todo.notes == ("torch 2.9.0+cu126 is Colab's and stays; the course was tested with 2.9.1", "torchaudio 2.9.0+cu126 is Colab's and stays; the course was tested with 2.9.1")


def test_what_breaks_the_course_is_replaced_but_never_torch_or_numpy():
    todo = plan(project_requirements(), PINS, COLAB | {"huggingface-hub": "1.2.0", "transformers": "5.0.0", "torch": "2.10.0+cu128", "numpy": "2.4.0"})
    assert {f"huggingface-hub=={PINS['huggingface-hub'].version}", f"transformers=={PINS['transformers'].version}"} <= set(todo.install)
    assert not names(todo.install) & {"torch", "numpy"}
    assert any(note.startswith("torch 2.10.0+cu128 is Colab's and stays") for note in todo.notes)
    assert any(note.startswith("numpy 2.4.0 is Colab's and stays") for note in todo.notes)


def test_torchaudio_must_match_the_torch_that_is_there():
    todo = plan(project_requirements(), PINS, {name: version for name, version in COLAB.items() if name != "torchaudio"})
    assert "torchaudio==2.9.0" in todo.install


def test_without_torch_or_a_pin_it_is_said():
    assert any("no torch here" in note for note in plan(["tqdm"], PINS, {}).notes)
    with pytest.raises(ValueError, match="does not pin no-such-package"):
        plan(["no-such-package"], PINS, COLAB)


def test_what_only_a_left_out_package_needs_is_left_out():
    pins = {name: Pin(name, "1", via) for name, via in {"a": ("mmo",), "b": ("a",), "c": ("b",), "jupyterlab": ("mmo",), "d": ("jupyterlab",), "e": ("a", "jupyterlab")}.items()}
    assert needed(["a", "jupyterlab"], pins) == ["a", "b", "c", "e"]


# --- Cards -------------------------------------------------------------------------------------------------------


def machine(*gpus: Gpu, memory: float = 54.0, disk: float = 100.0) -> Machine:
    return Machine(cores=2, memory=memory, disk=disk, gpus=gpus)


@pytest.mark.parametrize(
    "found, profile, words",
    [
        (machine(memory=13.6), "tiny", "no card: tiny; mini needs 1 card with 24 GB and 16 GB of memory"),
        (machine(Gpu("Tesla T4, sm_75", 15.8, False), memory=13.6), "tiny", "Tesla T4, sm_75 with 16 GB: tiny; mini needs 1 card with 24 GB"),
        (machine(Gpu("NVIDIA L4, sm_89", 23.7, True)), "mini", "NVIDIA L4, sm_89 with 24 GB: mini"),
        (machine(Gpu("NVIDIA A100-SXM4-40GB, sm_80", 42.4, True)), "mini", "NVIDIA A100-SXM4-40GB, sm_80 with 42 GB: mini"),
        (machine(Gpu("NVIDIA A100-SXM4-40GB, sm_80", 42.4, True), disk=20.0), "tiny", "mini needs 40 GB of disk"),
        (machine(memory=3.0, disk=1.0), "tiny", "even tiny will be tight"),
    ],
)
def test_the_card_decides_the_profile(found, profile, words):
    name, why = fitting_profile(found)
    assert name == profile and words in why


# --- The cell ----------------------------------------------------------------------------------------------------


@pytest.fixture
def runtime(monkeypatch):
    """A Colab runtime with a card; pip is only written down."""
    state = SimpleNamespace(installed=dict(COLAB), commands=[], said=[], code=0, breaks_torch=False)

    def run(command, **options):
        state.commands.append(command)
        if not state.code:
            state.installed |= dict(each.split("==") for each in command if "==" in each)
            if state.breaks_torch:
                state.installed["torch"] = "2.9.1"
        return SimpleNamespace(returncode=state.code, stdout="", stderr="no space left")

    monkeypatch.setattr(colab, "installed_packages", lambda: dict(state.installed))
    monkeypatch.setattr("mmo.doctor.look_at_machine", lambda: machine(Gpu("NVIDIA A100-SXM4-40GB, sm_80", 42.4, True)))
    state.prepare = lambda: prepare(state.said.append, run)
    return state


def test_preparing_installs_once_each_package_alone(runtime):
    assert runtime.prepare() == "mini"
    (command,) = runtime.commands
    assert command[:4] == [sys.executable, "-m", "pip", "install"] and "--no-deps" in command
    assert "Set profile = 'mini' in the cell of parameters." in runtime.said[-1]
    assert runtime.prepare() == "mini" and len(runtime.commands) == 1, "nothing is missing the second time"


def test_a_failed_or_harmful_installation_is_an_error(runtime):
    runtime.code = 1
    with pytest.raises(RuntimeError, match="no space left"):
        runtime.prepare()
    runtime.code, runtime.breaks_torch = 0, True
    with pytest.raises(RuntimeError, match=r"torch was 2.9.0\+cu126 and is now 2.9.1"):
        runtime.prepare()


@pytest.mark.parametrize("name, module", [("huggingface-hub", "huggingface_hub"), ("pillow", "PIL"), ("pyyaml", "yaml")])
def test_a_replaced_package_that_is_in_use_asks_for_a_restart(runtime, monkeypatch, name, module):
    """Whatever its module is called."""
    importlib.import_module(module)
    runtime.installed[name] = "0.1"
    monkeypatch.setattr(colab, "project_requirements", lambda root: [f"{name}>0.1"])
    runtime.prepare()
    assert [words for words in runtime.said if words.startswith("in use already") and name in words], runtime.said


def test_a_package_that_is_new_here_or_that_nobody_imported_asks_for_nothing(runtime, monkeypatch):
    del runtime.installed["pillow"]
    runtime.installed["pyyaml"] = "0.1"
    monkeypatch.setattr(colab, "project_requirements", lambda root: ["pyyaml>0.1", "pillow"])
    monkeypatch.setattr(colab, "packages_in_use", lambda: {"pillow", "torch"})
    runtime.prepare()
    (command,) = runtime.commands
    assert {"pyyaml", "pillow"} <= names(command) and not any("in use already" in words for words in runtime.said)
