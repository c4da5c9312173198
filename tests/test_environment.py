"""The environment's files agree with each other, and `mmo doctor` says what is true."""

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from rich.console import Console

from mmo import doctor
from mmo.manifest import read_manifest, select

ROOT = doctor.REPOSITORY
# What a package may be installed on: python_full_version, sys_platform, platform_machine (os_name follows).
TARGETS = [
    (python, system, machine)
    for python in ("3.10.13", "3.11.7", "3.12.1")
    for system, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("win32", "AMD64"))
]


def environment(python: str, system: str, machine: str) -> dict[str, str]:
    """A PEP 508 marker environment."""
    return {
        "python_full_version": python, "python_version": python.rpartition(".")[0], "sys_platform": system,
        "platform_machine": machine, "os_name": "nt" if system == "win32" else "posix",
        "platform_system": {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}[system],
        "implementation_name": "cpython", "platform_python_implementation": "CPython", "extra": "",
    }


def toml_block(name: str, text: str) -> list[str]:
    """The strings of a TOML array `name = [...]` in pyproject.toml (tomllib came with Python 3.11)."""
    array = re.search(rf"^{name} = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL).group(1)
    return re.findall(r'^\s*"([^"]+)"', array, re.MULTILINE)


@pytest.fixture(scope="module")
def pyproject():
    return (ROOT / "pyproject.toml").read_text()


@pytest.fixture(scope="module")
def constraints():
    lines = (line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def pins_for(constraints, target) -> dict[str, list[str]]:
    """Package -> the versions that hold on a target (there must never be more than one)."""
    pins: dict[str, list[str]] = {}
    for requirement in constraints:
        if requirement.marker is None or requirement.marker.evaluate(environment(*target)):
            pins.setdefault(canonicalize_name(requirement.name), []).append(str(requirement.specifier))
    return pins


@pytest.mark.parametrize("target", TARGETS, ids="-".join)
def test_every_dependency_is_pinned_once_within_its_bounds(pyproject, constraints, target):
    pins = pins_for(constraints, target)
    for name, specifiers in pins.items():
        assert len(specifiers) == 1, f"{name} has {len(specifiers)} versions on {target}: {specifiers}"
        assert re.fullmatch(r"==[^*,]+", specifiers[0]), f"{name} is not pinned: {specifiers[0]}"
    for extra in ("dependencies", "world", "test"):
        for text in toml_block(extra, pyproject):
            requirement = Requirement(text)
            if requirement.marker and not requirement.marker.evaluate(environment(*target)):
                continue
            (pin,) = pins[canonicalize_name(requirement.name)]
            assert Version(pin[2:]) in requirement.specifier, f"{text} against {pin} on {target}"


def test_what_is_installed_is_pinned(constraints):
    """Everything that our dependencies pull in, to the last, is in constraints.txt for this Python and system."""
    from importlib.metadata import PackageNotFoundError, requires

    pinned = doctor.pinned_versions()
    pyproject = (ROOT / "pyproject.toml").read_text()
    ours = [Requirement(text) for text in toml_block("dependencies", pyproject) + toml_block("test", pyproject)]
    todo = [requirement for requirement in ours if requirement.marker is None or requirement.marker.evaluate({"extra": ""})]
    seen, walked = set(), 0
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        key = (name, frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        assert name in pinned, f"{name} is not in constraints.txt: `make constraints`"
        try:
            needed = requires(name) or []
        except PackageNotFoundError:
            continue  # doctor's business
        walked += 1
        for child in map(Requirement, needed):
            extras = requirement.extras or {""}
            if child.marker is None or any(child.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(child)
    assert walked > 100, "the walk over the dependencies stopped early"


def test_constraints_name_no_registry():
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert "://" not in line and not line.startswith("-"), f"constraints.txt: {line}"


def test_versions_that_must_stay_together(constraints):
    for target in TARGETS:
        pins = {name: versions[0][2:] for name, versions in pins_for(constraints, target).items()}
        assert pins["torch"] == pins["torchaudio"], "torchaudio must match torch"
        assert Version(pins["torch"]) < Version("2.10") and Version(pins["numpy"]) < Version("2.3"), "moshi's bounds"
        assert Version(pins["huggingface-hub"]) < Version("1.0"), "transformers 4.57 does not accept 1.x"


def test_conda_and_pip_install_the_same(pyproject):
    """environment.yml adds nothing of its own: Python, pip, and then pyproject's dependencies under the same pins."""
    content = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, last = content["dependencies"]
    assert conda == ["python=3.11", "pip"]
    assert last == {"pip": ["-c constraints.txt", "-e .[test]"]}
    assert '-c constraints.txt' in (ROOT / "Makefile").read_text()
    (build,) = toml_block_inline("requires", pyproject)
    assert f"{build}\n" in (ROOT / "constraints.txt").read_text(), f"the build tool {build} has another pin"


@pytest.mark.skipif(shutil.which("bash") is None or sys.platform == "win32", reason="no bash")
@pytest.mark.parametrize("failing, status", [(None, 0), ("test", 2), ("weekend", 2)])
def test_ci_ends_with_the_closing_line_of_the_tests(tmp_path, failing, status):
    """Whatever follows or fails, the last line is pytest's, and the exit status is the truth."""
    make = tmp_path / "make"
    make.write_text(
        "#!/usr/bin/env bash\n"
        "[ ! -t 0 ] || exit 9\n"
        '[ "$1" != test ] || echo "========= 3 passed, 1 skipped in 75.12s (0:01:15) ========="\n'
        'echo "make: $*"\n'
        f'[ "$1" != "{failing}" ] || exit 2\n'
    )
    make.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run([ROOT / ".ci" / "run"], env=os.environ | {"PATH": path}, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert done.stdout.splitlines()[-1] == "========= 3 passed, 1 skipped in 75.12s (0:01:15) ========="
    assert ("make: weekend BUDGET=smoke" in done.stdout) == (failing != "test")
    assert ("failed with status" in done.stdout) == (status != 0)


def toml_block_inline(name: str, text: str) -> list[str]:
    return re.findall(r'"([^"]+)"', re.search(rf"^{name} = \[(.*)\]$", text, re.MULTILINE).group(1))


# -- doctor ------------------------------------------------------------------------------------------------------------

LARGE = doctor.Machine(cores=2, memory=32.0, disk=500.0, gpus=(doctor.Gpu("RTX 3090, sm_86", 25.4, True),))


@pytest.fixture
def profiles(monkeypatch, tmp_path):
    """A profiles module whose tiny files are all there and whose mini files are not."""
    stages = {"t2a": (SimpleNamespace(data=("t2a-*.parquet",)),)}
    for part in doctor.PARTS:
        (tmp_path / "tiny" / part).mkdir(parents=True)
    (tmp_path / "tiny" / "data_dir" / "t2a-train.parquet").touch()

    def profile(name=None):
        name = name or "tiny"
        folder = tmp_path / name.split("-")[0]
        return SimpleNamespace(name=name, stages=stages, judge_dir=None, checkpoint_file=folder / "omni.safetensors", **{part: folder / part for part in doctor.PARTS})

    monkeypatch.setitem(sys.modules, "mmo.profiles", SimpleNamespace(profile=profile, runs_root=lambda: tmp_path / "runs", has_units=lambda device: True))
    return tmp_path


def test_doctor_runs_and_finds_tiny_ready(profiles, monkeypatch):
    monkeypatch.setattr(doctor, "look_at_machine", lambda: LARGE)
    screen = Console(file=io.StringIO(), width=140)
    status = doctor.main(None, screen)
    said = screen.file.getvalue()
    assert status == 0, said
    for part in ("torch", "pocketsphinx", "memory", "sound files", "judge", "notebook kernel", "tiny: ready",
                 "mmo fetch --profile mini"):
        assert part in said, f"{part!r} is missing in:\n{said}"


@pytest.mark.parametrize(
    "machine, words",
    [
        (doctor.Machine(2, 4.0, 500.0, ()), "6 GB of memory"),
        (doctor.Machine(2, 32.0, 0.5, ()), "2 GB of free disk"),
    ],
)
def test_doctor_fails_where_tiny_cannot_run(profiles, monkeypatch, machine, words):
    monkeypatch.setattr(doctor, "look_at_machine", lambda: machine)
    screen = Console(file=io.StringIO(), width=140)
    assert doctor.main(None, screen) == 1
    assert words in screen.file.getvalue() and "tiny: cannot run yet" in screen.file.getvalue()


def test_doctor_names_missing_files_and_what_brings_them(profiles):
    (profiles / "tiny" / "codec_file").rmdir()
    tiny, mini = (doctor.check_profile(name, LARGE) for name in ("tiny", "mini"))
    assert not tiny.fine and str(profiles / "tiny" / "codec_file") in tiny.found and "clone" in tiny.advice
    assert not mini.fine and mini.advice == "mmo fetch --profile mini"


def test_doctor_names_a_damaged_codec_and_goes_on(profiles):
    """A pointer of git-lfs, or a download cut short, lies where Mimi should."""
    (profiles / "tiny" / "codec_file").rmdir()
    (profiles / "tiny" / "codec_file").write_bytes(b"version https://git-l")
    tiny = doctor.check_profile("tiny", LARGE)
    assert not tiny.fine and "no safetensors file, or damaged" in tiny.found and "clone" in tiny.advice


def test_doctor_names_missing_training_data(profiles):
    (profiles / "tiny" / "data_dir" / "t2a-train.parquet").unlink()
    tiny = doctor.check_profile("tiny", LARGE)
    assert not tiny.fine and "t2a-*.parquet" in tiny.found


def test_doctor_takes_shards_for_their_file(profiles):
    folder = profiles / "tiny" / "data_dir"
    (folder / "t2a-train.parquet").rename(folder / "t2a-train-00000-of-00002.parquet")
    profile = sys.modules["mmo.profiles"].profile("tiny")
    profile.stages["t2a"][0].data = ("t2a-train.parquet",)
    assert not doctor.missing_files(profile)


def test_doctor_knows_the_needs_of_every_profile():
    from mmo.profiles import PROFILES, profile

    assert set(doctor.NEEDS) == set(PROFILES)
    for name in PROFILES:
        assert all(isinstance(text, str) for text in doctor.missing_files(profile(name)))


def test_doctor_wants_a_gpu_for_mini_and_eight_for_full(profiles):
    without = doctor.Machine(2, 32.0, 500.0, ())
    assert "1 GPU with 24 GB" in doctor.check_profile("mini", without).found
    assert "GPU" not in doctor.check_profile("mini", LARGE).found
    assert "8 GPU with 24 GB" in doctor.check_profile("full", LARGE).found
    assert "GPU" not in doctor.check_profile("tiny", without).found


@pytest.mark.parametrize(("place", "limits", "wanted"), [
    ("/", {"": "2000"}, 2000),  # in a container, which sees its own group as the root
    ("/system.slice/jupyter-ada.service", {"system.slice": "max", "system.slice/jupyter-ada.service": "3000"}, 3000),  # a seat on a hub
    ("/outer/inner", {"outer": "1000", "outer/inner": "4000"}, 1000),
    ("/", {}, None),
])  # fmt: skip
def test_the_memory_of_a_seat_is_its_groups(tmp_path, monkeypatch, place, limits, wanted):
    for folder, text in limits.items():
        (tmp_path / "groups" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / folder / "memory.max").write_text(f"{text}\n")
    (tmp_path / "own").write_text(f"0::{place}\n")
    monkeypatch.setattr(doctor, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(doctor, "PROCESS_GROUP", tmp_path / "own")
    assert doctor.memory_limit() == (wanted or doctor.psutil.virtual_memory().total)


@pytest.mark.parametrize(("memory", "enough"), [(25.3, True), (23.7, True), (22.0, False)], ids=["RTX 3090", "L4 and A10", "22 GB"])
def test_a_card_sold_with_24_gb_counts_as_such_whatever_it_reports(memory, enough):
    assert doctor.NEEDS["mini-moe"].cards([doctor.Gpu("a card", memory, True)]) == enough


def test_doctor_says_that_a_t4_goes_slowly(profiles):
    """As docs/rehearsal.md: memory is no obstacle there, float32 is."""
    machine = doctor.Machine(2, 32.0, 500.0, (doctor.Gpu("Tesla T4, sm_75", 15.6, False),))
    for part in doctor.PARTS:
        (profiles / "mini" / part).mkdir(parents=True)
    (profiles / "mini" / "data_dir" / "t2a-train.parquet").touch()
    found = doctor.check_profile("mini", machine)
    assert found.fine and "can run slowly: Tesla T4, sm_75 has 16 GB and no bf16" in found.found
    assert "slowly" not in doctor.check_profile("mini", LARGE).found
    assert "1 GPU with 24 GB" in doctor.check_profile("mini-moe", machine).found and "8 GPU" in doctor.check_profile("full", machine).found
    small = doctor.Machine(2, 32.0, 500.0, (doctor.Gpu("GTX 1080, sm_61", 8.5, False),))
    assert "1 GPU with 24 GB (15 would do, slowly)" in doctor.check_profile("mini", small).found


def test_doctor_sees_packages_that_are_missing_broken_or_of_another_version(monkeypatch, tmp_path):
    (tmp_path / "mmo_broken_module.py").write_text("raise OSError('libsomething.so: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    versions = {"ours": "1.2+cpu", "older": "1.1", "broken": "1.2", "absent": None}
    monkeypatch.setattr(doctor, "installed_version", versions.get)
    pins = dict.fromkeys(versions, "1.2")
    ours, older, absent = (doctor.check_package(name, "json", pins) for name in ("ours", "older", "absent"))
    broken = doctor.check_package("broken", "mmo_broken_module", pins)
    assert ours == doctor.Finding("ours", "1.2+cpu")
    assert older.fine and "not the pinned 1.2" in older.found and "make venv" in older.advice
    assert not absent.fine and absent.found == "not installed"
    assert not broken.fine and "libsomething.so" in broken.found


def test_what_is_fetched_already_needs_no_room(profiles, monkeypatch, tmp_path):
    monkeypatch.setenv("MMO_DOWNLOADS", str(tmp_path / "downloads"))
    (tmp_path / "downloads").mkdir()
    scarce = doctor.Machine(2, 32.0, 39.0, LARGE.gpus)
    of_mini = select(read_manifest(), "mini")[0].files[0].to
    for place in ("another.parquet", of_mini):
        assert "40 GB of free disk" in doctor.check_profile("mini", scarce).found, "what mini does not need gives it no room"
        (tmp_path / "downloads" / place).parent.mkdir(parents=True, exist_ok=True)
        with open(tmp_path / "downloads" / place, "wb") as file:
            file.truncate(2_000_000_000)
    found = doctor.check_profile("mini", scarce)
    assert "of free disk" not in found.found and "of free disk" in doctor.check_profile("mini", doctor.Machine(2, 32.0, 30.0, LARGE.gpus)).found
    assert "MMO_DOWNLOADS" in doctor.check_profile("mini", doctor.Machine(2, 32.0, 30.0, LARGE.gpus)).advice


def test_disk_is_measured_where_things_go(monkeypatch, tmp_path):
    """Also into folders that are not made yet."""
    asked = []
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: asked.append(Path(place)) or type("Usage", (), {"free": 7_000_000_000}))
    monkeypatch.setenv("MMO_DOWNLOADS", str(tmp_path / "new" / "downloads"))
    monkeypatch.setenv("MMO_RUNS", str(tmp_path))
    assert doctor.look_at_machine().disk == 7.0 and asked == [tmp_path] * 3, "both places, and the scarcer once more"


def test_doctor_tells_environments_of_one_python_apart(tmp_path, monkeypatch):
    """In all of them bin/python is a link to the same program."""
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "python").symlink_to(Path(sys.executable).resolve())
    monkeypatch.setattr(sys, "executable", str(tmp_path / "ours" / "python"))
    for name, fine in (("ours", True), ("theirs", False)):
        spec = KernelSpec(argv=[str(tmp_path / name / "python"), "-m", "ipykernel_launcher"], display_name="Python 3", resource_dir="/kernels")
        monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", lambda self, _, spec=spec: spec)
        assert doctor.check_kernel().fine == fine, name


@pytest.mark.parametrize("program, fine", [("python", True), (sys.executable, True), ("/elsewhere/python", False)])
def test_doctor_finds_a_kernel_of_another_installation(monkeypatch, program, fine):
    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

    spec = KernelSpec(argv=[program, "-m", "ipykernel_launcher"], display_name="Python 3", resource_dir="/kernels")
    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", lambda self, name: spec)
    found = doctor.check_kernel()
    assert found.fine == fine and bool(found.advice) != fine


def test_pins_are_read_for_this_python(tmp_path):
    file = tmp_path / "constraints.txt"
    file.write_text("# a comment\nA_b==1.0 ; python_full_version < '3'\n    # via c\nA_b==2.0 ; python_version >= '3'\n")
    assert doctor.pinned_versions(file) == {"a-b": "2.0"}
