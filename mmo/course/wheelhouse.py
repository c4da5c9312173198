"""Wheels for a room with slow internet: `mmo course wheelhouse DIR`, once, at home; then a stick or a shared folder, and no network.

    DIR/*.whl              every package at its pinned version, built where its makers publish source only
    DIR/constraints.txt    the pins
    DIR/INSTALL.txt        the command for the laptops

`pip wheel` collects and builds them for the Python and the system it runs on, so make one for each kind of machine in the room.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmo.colab import project_requirements
from mmo.course.catalogue import REPOSITORY

INSTALL = """Wheels for MiniMind-O by hand, for Python {python} on {system}.

In the folder of the course (its hand-out holds pyproject.toml), with DIR for the folder of this file:

    python{python} -m venv .venv
    .venv/bin/{command}
    .venv/bin/mmo doctor

On Windows it is `py -{python} -m venv .venv`, then `.venv\\Scripts\\{command}`.
"""


@dataclass(frozen=True)
class Wheelhouse:
    """What was collected.  command: for the laptops, with the folder's own place."""

    folder: Path
    wheels: int
    size: int  # bytes
    command: str


class WheelhouseError(RuntimeError):
    """pip could not collect the wheels, or not install from them; the message holds its words."""


def course_requirements(root: Path = REPOSITORY) -> list[str]:
    """What the course needs, and what `pip install -e .` needs to build it without a network."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    build = re.search(r"^requires = \[(.*?)\]", text, re.MULTILINE)[1]
    return [*project_requirements(root), *re.findall(r'"([^"]+)"', build)]


def make_wheelhouse(
    folder: Path, requirements: Sequence[str], constraints: Path = REPOSITORY / "constraints.txt", extra_index: str | None = None, pip_options: Sequence[str] = ()
) -> Wheelhouse:
    """Collect wheels into `folder`, and see that everything can be installed from it alone.

    A second call goes on where a first was cut off: wheels that lie there already are taken.  extra_index: one more address for pip, for
    instance of PyTorch's CPU builds.  pip_options: passed on to pip.  Raises WheelhouseError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(constraints, folder / "constraints.txt")
    more = ["--extra-index-url", extra_index] if extra_index else []
    pip("wheel", "--wheel-dir", str(folder), "--find-links", str(folder), "-c", str(constraints), *more, *pip_options, *requirements)
    pip("install", "--dry-run", "--ignore-installed", "--no-index", "--find-links", str(folder), "-c", str(folder / "constraints.txt"), *requirements)
    wheels = sorted(folder.glob("*.whl"))
    (folder / "INSTALL.txt").write_text(
        INSTALL.format(python=f"{sys.version_info.major}.{sys.version_info.minor}", system=sys.platform, command=install_command("DIR")), encoding="utf-8"
    )
    return Wheelhouse(folder, len(wheels), sum(path.stat().st_size for path in wheels), install_command(str(folder)))


def install_command(folder: str) -> str:
    """What installs the course from the wheels in a folder, without a network."""
    return f'python -m pip install --no-index --find-links "{folder}" -c "{folder}/constraints.txt" -e .'


def pip(*words: str) -> None:
    """Run pip of this Python.  Raises WheelhouseError with what it said last."""
    done = subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *words], capture_output=True, text=True)
    if done.returncode:
        raise WheelhouseError("\n".join((done.stdout + done.stderr).strip().splitlines()[-12:]))
