"""Google Colab: install what the course needs there, leave Colab's own torch alone, and say which profile fits the card.

The first cell of a notebook opened from its badge fetches the course and calls `prepare()`; elsewhere that cell does nothing.  Colab comes
with torch, NumPy and their kin, built for each other and for its driver; pip would gladly replace them.  So pip's resolver is not asked:
the packages that are missing are read from constraints.txt, which says what needs what, and each is installed alone, at its pinned version.
This module imports nothing that Colab may lack.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from mmo.doctor import Machine

REPOSITORY = Path(__file__).resolve().parents[1]
KEPT = ("torch", "torchaudio", "torchvision", "triton", "numpy", "scipy", "pandas")  # Colab's own, built for each other: never replaced
ITS_OWN = ("jupyterlab", "ipykernel", "ipywidgets")  # the notebook's front and kernel are Colab's; with all that only they need
PROFILES = ("mini", "tiny")  # the larger first


# --- What to install ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pin:
    """A line of constraints.txt that holds here.  via: who needs the package."""

    name: str
    version: str
    via: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What is to be installed ("moshi==0.2.13"), and what a person should know."""

    install: tuple[str, ...]
    notes: tuple[str, ...]


def read_pins(constraints: str) -> dict[str, Pin]:
    """Name -> pin, of the lines of constraints.txt whose marker holds for this Python and system."""
    pins: dict[str, Pin] = {}
    for block in re.split(r"^(?=[A-Za-z0-9])", constraints, flags=re.MULTILINE):
        line, _, comment = block.partition("\n")
        if not line.strip() or line.startswith("#"):
            continue
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            (specifier,) = requirement.specifier
            via = [canonicalize_name(word) for word in re.findall(r"^\s+#\s+(?:via\s+)?([\w.-]+)", comment, flags=re.MULTILINE) if word != "via"]
            pins[canonicalize_name(requirement.name)] = Pin(canonicalize_name(requirement.name), specifier.version, tuple(via))
    return pins


def needed(direct: Iterable[str], pins: Mapping[str, Pin]) -> list[str]:
    """The packages of these names and all that they need, whatever Colab brings and its front ends left out."""
    without = {*KEPT, *ITS_OWN}
    found = [name for name in direct if name not in without]
    for name in found:
        found += [pin.name for pin in pins.values() if name in pin.via and pin.name not in found and pin.name not in without and not pin.name.startswith("nvidia-")]
    return sorted(set(found))


def plan(requirements: Sequence[str], pins: Mapping[str, Pin], installed: Mapping[str, str]) -> Plan:
    """What is missing.  requirements: the package's own, as pyproject.toml has them; installed: canonical name -> version.

    Raises ValueError where a requirement is not pinned.
    """
    bounds = {}
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate():
            bounds[canonicalize_name(requirement.name)] = requirement.specifier
    unpinned = sorted(set(bounds) - set(pins))
    if unpinned:
        raise ValueError(f"constraints.txt does not pin {', '.join(unpinned)}")
    install, notes = [], []
    for name in needed(bounds, pins):
        present = installed.get(name)
        if present is None or not bounds.get(name, Requirement("x").specifier).contains(present, prereleases=True):
            install.append(f"{name}=={pins[name].version}")
    for name in KEPT:
        present = installed.get(name)
        if present is None or name not in bounds:
            continue
        if not bounds[name].contains(present.split("+")[0], prereleases=True):
            notes.append(f"{name} {present} is Colab's and stays; the course was tested with {pins[name].version}")
    if "torch" not in installed:
        notes.append("there is no torch here: this is no Colab runtime that the course knows")
    elif "torchaudio" not in installed:
        install.append(f"torchaudio=={installed['torch'].split('+')[0]}")  # the two must match
    return Plan(tuple(install), tuple(notes))


def installed_packages() -> dict[str, str]:
    """Canonical name -> version of what is installed here."""
    return {canonicalize_name(found.metadata["Name"]): found.version for found in importlib.metadata.distributions() if found.metadata["Name"]}


def packages_in_use() -> set[str]:
    """Canonical names of the packages of which something is imported here: Pillow where there is a module PIL."""
    modules = importlib.metadata.packages_distributions()
    return {canonicalize_name(name) for module, names in modules.items() if module in sys.modules for name in names}


def project_requirements(root: Path = REPOSITORY) -> list[str]:
    """The package's requirements, as pyproject.toml has them."""
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]


# --- Which profile fits ------------------------------------------------------------------------------------------


def fitting_profile(machine: Machine) -> tuple[str, str]:
    """(profile, why): the largest that this machine can run, judged by `mmo doctor`'s bounds."""
    from mmo.doctor import NEEDS

    cards = ", ".join(f"{gpu.name} with {gpu.memory:.0f} GB" for gpu in machine.gpus) or "no card"
    small = []
    for name in PROFILES:
        needs = NEEDS[name]
        lacks = [
            "" if needs.cards(machine.gpus) else f"{needs.gpus} card with {needs.gpu_memory:.0f} GB",
            f"{needs.memory:.0f} GB of memory" if machine.memory < needs.memory else "",
            f"{needs.disk:.0f} GB of disk" if machine.disk < needs.disk else "",
        ]
        if not any(lacks):
            return name, f"{cards}: {name}" + (f"; {'; '.join(small)}" if small else "")
        small.append(f"{name} needs {' and '.join(filter(None, lacks))}")
    return "tiny", f"{cards}: even tiny will be tight, {'; '.join(small)}"


# --- The cell's part ---------------------------------------------------------------------------------------------


def prepare(told: Callable[[str], None] = print, run: Callable[..., object] = subprocess.run, root: Path = REPOSITORY) -> str:
    """Install what is missing, check that torch is still the one there was, and say which profile fits; returns its name.

    Raises RuntimeError where pip fails, or where torch was replaced after all.
    """
    before = installed_packages()
    pins = read_pins((root / "constraints.txt").read_text(encoding="utf-8"))
    todo = plan(project_requirements(root), pins, before)
    for note in todo.notes:
        told(note)
    if todo.install:
        told(f"installing {len(todo.install)} packages; torch {before.get('torch')} stays")
        done = run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-warn-conflicts", *todo.install], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"pip could not install what the course needs:\n{done.stdout}{done.stderr}")
    importlib.invalidate_caches()
    after = installed_packages()
    if after.get("torch") != before.get("torch"):
        raise RuntimeError(f"torch was {before.get('torch')} and is now {after.get('torch')}: start a new runtime")
    stale = sorted(set(before) & {each.split("==")[0] for each in todo.install} & packages_in_use())
    if stale:
        told(f"in use already: {', '.join(stale)}. Restart the runtime (Runtime, Restart session), then run this cell again")
    from mmo.doctor import look_at_machine

    name, why = fitting_profile(look_at_machine())
    told(f"{why}. Set profile = {name!r} in the cell of parameters." if name != "tiny" else f"{why}. The cell of parameters has it already.")
    return name
