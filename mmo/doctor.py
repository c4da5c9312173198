"""What can run on this machine, what is missing, and what to do about it.

Every check gives a `Finding`; the tables only print them. The exit status is non-zero when the chosen profile cannot
run here, so that a script may ask first: `mmo doctor && mmo weekend`.
"""

import contextlib
import importlib
import importlib.metadata
import io
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import mmo

REPOSITORY = Path(__file__).resolve().parents[1]
RENEW = "`make venv`, or: python -m pip install -c constraints.txt -e '.[test]'"
# distribution -> the module to import; a distribution that is there but cannot be imported is the commoner fault
MAIN_PACKAGES = {
    "torch": "torch", "torchaudio": "torchaudio", "transformers": "transformers", "moshi": "moshi.models",
    "funasr": "funasr", "pocketsphinx": "pocketsphinx", "safetensors": "safetensors", "pyarrow": "pyarrow.parquet",
    "soundfile": "soundfile", "soxr": "soxr", "jiwer": "jiwer", "matplotlib": "matplotlib", "papermill": "papermill",
    "nbconvert": "nbconvert", "jupyterlab": "jupyterlab", "ipywidgets": "ipywidgets",
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `advice` says what to do and is empty when all is well."""

    what: str
    found: str
    fine: bool = True
    advice: str = ""


@dataclass(frozen=True)
class Gpu:
    """A CUDA device; memory in GB of 10^9 bytes."""

    name: str
    memory: float
    bf16: bool


REPORTED = 0.95  # of what a card is sold with: a 3090 reports 25.3 GB, an L4 or an A10, sold with as many, 23.7


@dataclass(frozen=True)
class Needs:
    """What a profile needs of the machine, in GB of 10^9 bytes; each of `gpus` cards was sold with `gpu_memory` or more, or it goes slowly with `least_gpu_memory`."""

    memory: float
    disk: float
    gpus: int = 0
    gpu_memory: float = 0.0
    least_gpu_memory: float | None = None  # None: as much as gpu_memory

    def cards(self, gpus: Sequence[Gpu], slowly: bool = False) -> bool:
        """Whether these cards will do; slowly: with the least that may do."""
        wanted = self.least_gpu_memory if slowly and self.least_gpu_memory else self.gpu_memory
        return sum(gpu.memory >= REPORTED * wanted for gpu in gpus) >= self.gpus


@dataclass(frozen=True)
class Machine:
    """What there is; memory and free disk in GB of 10^9 bytes."""

    cores: int
    memory: float
    disk: float
    gpus: tuple[Gpu, ...]


# tiny: the bounds of the course. mini: memory and disk are estimates, not measured yet.  With a T4's 15.6 GB it would
# do, counted (`mmo plan --profile mini --card t4`: 9.6 GB in float32, without the attention scores).
NEEDS = {
    "tiny": Needs(memory=6, disk=2),
    "tiny-moe": Needs(memory=6, disk=2),
    "mini": Needs(memory=16, disk=40, gpus=1, gpu_memory=24, least_gpu_memory=15),
    "mini-moe": Needs(memory=16, disk=40, gpus=1, gpu_memory=24),
    "full": Needs(memory=64, disk=200, gpus=8, gpu_memory=24),
}
PARTS = ("data_dir", "tokenizer_dir", "codec_file", "speech_encoder_dir", "vision_encoder_dir", "thinker_file")


def pinned_versions(constraints: Path = REPOSITORY / "constraints.txt") -> dict[str, str]:
    """Canonical package name -> version that constraints.txt pins for this Python and system."""
    pins = {}
    for line in constraints.read_text(encoding="utf-8").splitlines():
        line = line.split("#")[0].strip()
        if not line:
            continue
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            (specifier,) = requirement.specifier
            pins[canonicalize_name(requirement.name)] = specifier.version
    return pins


def installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_package(name: str, module: str, pins: dict[str, str]) -> Finding:
    """Is a main package there, at its pinned version (a build such as +cpu is the same version), and importable?"""
    version = installed_version(name)
    if version is None:
        return Finding(name, "not installed", False, RENEW)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # funasr greets with advice on ffmpeg, which nothing here needs
            importlib.import_module(module)
    except Exception as error:  # whatever a broken installation raises: OSError, ImportError, AttributeError, …
        return Finding(name, f"{version} cannot be imported: {error}", False, RENEW)
    pin = pins[canonicalize_name(name)]
    if version.split("+")[0] != pin:
        return Finding(name, f"{version}, not the pinned {pin}", True, RENEW)
    return Finding(name, version)


def check_packages() -> Iterator[Finding]:
    """Python, the main packages one by one, and the rest against constraints.txt in one line."""
    pins = pinned_versions()
    version = platform.python_version_tuple()
    supported = (3, 10) <= (int(version[0]), int(version[1])) <= (3, 12)
    yield Finding("Python", f"{platform.python_version()} on {platform.platform(terse=True)}", supported,
                  "" if supported else "use Python 3.10, 3.11 or 3.12: make venv PYTHON=python3.11 VENV=.venv311")
    yield Finding("mmo", mmo.__version__)
    for name, module in MAIN_PACKAGES.items():
        yield check_package(name, module, pins)
    others = {name: installed_version(name) for name in pins if name not in MAIN_PACKAGES}
    differing = [name for name, found in others.items() if found and found.split("+")[0] != pins[name]]
    count = sum(found is not None for found in others.values())
    if differing:
        yield Finding("others", f"{len(differing)} of {count} not as pinned: {', '.join(differing)}", True, RENEW)
    else:
        yield Finding("others", f"{count} packages, all as pinned")


GROUPS, PROCESS_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def memory_limit() -> int:
    """Bytes of memory this process may use: the machine's, or those of its control groups (cgroup v2: a container's, a seat's on a hub) where these are less."""
    found = [psutil.virtual_memory().total]
    own = PROCESS_GROUP.read_text().splitlines() if PROCESS_GROUP.is_file() else []
    place = next((line.removeprefix("0::/") for line in own if line.startswith("0::/")), "")
    groups = GROUPS / place
    for folder in (groups, *(each for each in groups.parents if each.is_relative_to(GROUPS))):
        limit = folder / "memory.max"
        if limit.is_file() and (text := limit.read_text().strip()) != "max":
            found.append(int(text))
    return min(found)


def look_at_machine() -> Machine:
    """Measure cores, memory, free disk where downloads and runs lie (the scarcer of both), and GPUs. Needs torch."""
    import torch

    def gpu(number: int) -> Gpu:
        found = torch.cuda.get_device_properties(number)
        return Gpu(f"{found.name}, sm_{found.major}{found.minor}", found.total_memory / 1e9, found.major >= 8)

    return Machine(
        cores=os.cpu_count() or 1,
        memory=memory_limit() / 1e9,
        disk=free_at(scarcest()) / 1e9,
        gpus=tuple(gpu(number) for number in range(torch.cuda.device_count())),
    )


def scarcest() -> Path:
    """Of the folders that fill, downloads and runs, the one with less room."""
    from mmo.manifest import downloads_root
    from mmo.profiles import runs_root

    return min((runs_root(), downloads_root()), key=free_at)


def free_at(place: Path) -> int:
    """Bytes free where a folder lies, or will lie."""
    there = next(each for each in (place.absolute(), *place.absolute().parents) if each.exists())
    return shutil.disk_usage(there).free


def held_for(name: str) -> int:
    """Bytes of the downloads that a profile needs and that are there."""
    from mmo.manifest import downloads_root, read_manifest, select

    places = {downloads_root() / file.to for artefact in select(read_manifest(), name) for file in artefact.files}
    return sum(each.stat().st_size for each in places if each.is_file())


def check_machine(machine: Machine) -> Iterator[Finding]:
    import torch

    from mmo.profiles import has_units

    units = "; with units for bfloat16 (AMX), on which tiny trains a quarter quicker" if has_units(torch.device("cpu")) else ""
    yield Finding("processor", f"{machine.cores} cores, torch uses {torch.get_num_threads()} threads{units}")
    if not machine.gpus:
        apple = torch.backends.mps.is_available()
        yield Finding("GPU", "Apple's, not used: all computes on the processor" if apple else "none: tiny runs on the processor, mini needs a GPU")
    for gpu in machine.gpus:
        yield Finding("GPU", f"{gpu.name}, {gpu.memory:.0f} GB, CUDA {torch.version.cuda}, bf16 "
                      f"{'yes' if gpu.bf16 else 'no'}")
    free = psutil.virtual_memory().available / 1e9
    yield Finding("memory", f"{machine.memory:.1f} GB, {free:.1f} GB free now")
    yield Finding("disk", f"{machine.disk:.0f} GB free in {scarcest()}")
    yield check_runs()


def check_runs() -> Finding:
    """Runs, progress and caches need a folder that can be written."""
    from mmo.profiles import runs_root

    folder = runs_root()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Finding("runs", f"{folder} cannot be written: {error.strerror}", False, "set MMO_RUNS to a folder of yours")
    return Finding("runs", f"go to {folder}")


def check_sound() -> Finding:
    """libsndfile reads back what it wrote, as WAV and as Ogg Opus (the compressed questions of the tiny world)."""
    import numpy
    import soundfile

    wave = 0.5 * numpy.sin(2 * numpy.pi * 440 * numpy.arange(24000) / 24000).astype("float32")
    for container, coding in (("WAV", "PCM_16"), ("OGG", "OPUS")):
        buffer = io.BytesIO()
        try:
            soundfile.write(buffer, wave, 24000, format=container, subtype=coding)
            buffer.seek(0)
            back, _ = soundfile.read(buffer)
        except (RuntimeError, ValueError) as error:
            return Finding("sound files", f"{container}/{coding}: {error}", False, RENEW)
        if len(back) != len(wave):
            return Finding("sound files", f"{container}/{coding}: {len(wave)} samples came back as {len(back)}",
                           False, RENEW)
    return Finding("sound files", f"soundfile with libsndfile {soundfile.__libsndfile_version__}: WAV, Ogg Opus")


def check_judge() -> Finding:
    """The independent judge's acoustic model comes in pocketsphinx' wheel."""
    import pocketsphinx

    model = Path(pocketsphinx.get_model_path("en-us/en-us"))
    there = model.is_dir()
    return Finding("judge", f"pocketsphinx, acoustic model {'there' if there else f'missing at {model}'}", there,
                   "" if there else RENEW)


def check_kernel() -> Finding:
    """Notebooks run in the kernel `python3`; it must be this environment's, not one of another installation."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        return Finding("notebook kernel", "python3 is missing", False, RENEW)
    # jupyter_client puts the running interpreter in the place of a bare name.
    bare = spec.argv[0] in ("python", "python3", f"python{sys.version_info.major}.{sys.version_info.minor}")
    program = sys.executable if bare else spec.argv[0]
    ours = Path(program).parent.absolute() == Path(sys.executable).parent.absolute()  # links not followed: all environments link to one Python
    return Finding("notebook kernel", f"{spec.display_name}: {program}, from {spec.resource_dir}", ours,
                   "" if ours else f"{sys.executable} -m ipykernel install --sys-prefix")


def missing_files(profile) -> list[str]:
    """What of a profile's frozen parts, pretrained Thinker and training data is not there."""
    from mmo.rows import files_of

    missing = [str(path) for part in PARTS if not (path := getattr(profile, part)).exists()]
    patterns = dict.fromkeys(pattern for stage in profile.stages.values() for step in stage for pattern in step.data)
    return missing + [str(profile.data_dir / name) for name in patterns if not files_of(profile.data_dir, name)]


def check_profile(name: str, machine: Machine) -> Finding:
    """Can a profile run here: is the machine large enough, and are its files there?"""
    from mmo.profiles import profile

    needs, chosen = NEEDS[name], profile(name)
    lacking, advice = [], []
    if machine.memory < needs.memory:
        lacking.append(f"{needs.memory:.0f} GB of memory")
        advice.append("a machine with more memory" if name == "tiny" else "use tiny")
    wanted = needs.disk - (0 if name.startswith("tiny") else held_for(name) / 1e9)  # what is fetched already needs no room
    if machine.disk < wanted:
        lacking.append(f"{wanted:.0f} GB of free disk")
        advice.append(f"make room in {scarcest()}, or set MMO_DOWNLOADS and MMO_RUNS to folders on another disk")
    if not needs.cards(machine.gpus, slowly=True):
        slowly = f" ({needs.least_gpu_memory:.0f} would do, slowly)" if needs.least_gpu_memory else ""
        lacking.append(f"{needs.gpus} GPU with {needs.gpu_memory:.0f} GB{slowly}")
        advice.append("a driver and a CUDA build of torch if the card is there (docs/install.md), else use tiny")
    if damaged := damaged_files(chosen):
        lacking.append("whole files: " + ", ".join(damaged))
        advice.append("clone the repository again, or git checkout these" if name.startswith("tiny") else f"delete these, then mmo fetch --profile {name}")
    if missing := missing_files(chosen):
        lacking.append("files: " + ", ".join(missing))
        advice.append("they come with the repository: clone it again" if name.startswith("tiny")
                      else f"mmo fetch --profile {name}")
    able = "can run" + (slow_words(machine.gpus) if machine.gpus and not needs.cards(machine.gpus) else "")
    try:
        able += codec_words(chosen.codec_file) + judge_words(chosen)
    except ValueError as error:
        lacking.append(f"a codec that can be read: {error}")
        advice.append("clone the repository again" if name.startswith("tiny") else f"mmo fetch --profile {name}")
    return Finding(name, able if not lacking else "lacks " + "; ".join(lacking), not lacking, "; ".join(advice))


def slow_words(gpus: Sequence[Gpu]) -> str:
    """What to expect of the largest card where it is smaller than the recipe was made for."""
    card = max(gpus, key=lambda gpu: gpu.memory)
    return f" slowly: {card.name} has {card.memory:.0f} GB" + ("" if card.bf16 else " and no bf16") + " (counted, not tried: docs/rehearsal.md)"


def damaged_files(profile) -> list[str]:
    """Weights that are there and cut short or no weights at all, as far as their first lines tell."""
    from safetensors import SafetensorError, safe_open

    places = [getattr(profile, part) for part in (*PARTS, "checkpoint_file")]
    files = [file for place in places for file in (sorted(place.glob("*.safetensors")) if place.is_dir() else [place])]
    found = []
    for file in dict.fromkeys(file for file in files if file.suffix == ".safetensors" and file.is_file()):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError):
            found.append(str(file))
    return found


def codec_words(file: Path) -> str:
    """In which layout the profile's Mimi is, where there is one."""
    if not file.is_file():
        return ""
    from mmo.codec import codec_layout

    return f", Mimi in the layout of {codec_layout(file)} ({file.name})"


def judge_words(profile) -> str:
    """What `mmo evaluate` still needs; training and speaking do without."""
    wanted = {} if profile.judge_dir is None else {"judge": profile.judge_dir / "model.safetensors", "speaker-encoder": profile.speaker_encoder_file}
    lacking = [name for name, path in wanted.items() if not path.is_file()]
    return f"; to judge its speech: mmo fetch {' '.join(lacking)}" if lacking else ""


def show(console: Console, title: str, findings: list[Finding]) -> None:
    table = Table(title=title, title_justify="left", show_header=False, title_style="bold")
    for finding in findings:
        mark = "[red]✗" if not finding.fine else "[yellow]![/]" if finding.advice else "[green]✓"
        advice = f"\n[bold]→ {escape(finding.advice)}[/]" if finding.advice else ""
        table.add_row(mark, finding.what, escape(finding.found) + advice)
    console.print(table)


def main(profile_name: str | None = None, console: Console | None = None) -> int:
    """Print the tables; 0 when the chosen profile (MMO_PROFILE or tiny by default) can run here, else 1."""
    from mmo.profiles import profile

    console = console or Console()
    chosen = profile(profile_name).name
    with console.status("importing everything once (half a minute the first time)"):
        packages = list(check_packages())
    show(console, "Packages", packages)
    if not all(finding.fine for finding in packages):
        console.print("The rest needs these packages first.")
        return 1
    machine = look_at_machine()
    machine_findings = list(check_machine(machine))
    show(console, "Machine", machine_findings)
    tools = [check_sound(), check_judge(), check_kernel()]
    show(console, "Sound and notebooks", tools)
    profiles = [check_profile(name, machine) for name in NEEDS]
    show(console, "Profiles", profiles)
    ready = all(finding.fine for finding in [*machine_findings, *tools]) and all(found.fine for found in profiles if found.what == chosen)
    console.print(f"{chosen}: {'ready, `mmo weekend` is next' if ready else 'cannot run yet, see above'}")
    return 0 if ready else 1
