"""A clean hand-out for a class: `mmo course release --to DIR --notebooks 05,07`.

    notebooks/     the learner's edition of the chosen ones, made anew from the solutions, stamped with the version
    mmo/           the package, without mmo/course/grading, which holds the hidden cases
    data/tiny/     the tiny world
    course.yml, environment.yml, constraints.txt, pyproject.toml, licences, docs/install.md, README.md, RELEASE.json

No solutions/, no tests, no history.  The package is what the notebooks build, so it does hold the right functions: see
docs/instructor/grading.md for how to live with that.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import unquote

import nbformat
import yaml
from nbformat import NotebookNode

from mmo import __version__
from mmo.course.build import BuildError, Edition, leaks, learners, written
from mmo.course.catalogue import REPOSITORY, Notebook, read_course

FILES = ("environment.yml", "constraints.txt", "pyproject.toml", "LICENSE", "LICENSE-text", "docs/install.md")
FOLDERS = ("mmo", "data/tiny")
LEFT_OUT = ("__pycache__", "*.pyc", ".ipynb_checkpoints", ".*", "grading")
WORDS_AND_TARGET = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")
README = """# MiniMind-O by hand: hand-out {stamp}

{count} notebooks of a course in which you build a small model that hears, sees and speaks. No GPU is needed, and no network once the
packages are installed ([how to install](docs/install.md), also without gigabytes of CUDA):

    python3 -m venv .venv
    .venv/bin/python -m pip install -c constraints.txt -e .
    .venv/bin/mmo doctor
    .venv/bin/python -m jupyterlab notebooks

On Windows it is `py -3.11 -m venv .venv`, then `.venv\\Scripts\\python` and `.venv\\Scripts\\mmo`.

| | notebook | aim | minutes | points |
|---|---|---|---:|---:|
{rows}

Write your answers into the cells with `@exercise(...)`. `check(...)` says what is wrong, `hint(...)` helps a step further, and nothing blocks:
where you have no answer yet, the package's own function stands in. Functions that an answer needs may stand in other cells; values computed
elsewhere in the notebook may not be used in it. Hand in the notebooks under their own names.
"""


@dataclass(frozen=True)
class Release:
    """What was handed out."""

    folder: Path
    stamp: str  # "0.1.0+3f2a91c0de"
    notebooks: tuple[Notebook, ...]


def release(to: Path, numbers: Sequence[str] = (), root: Path = REPOSITORY) -> Release:
    """Write a hand-out of the notebooks with these numbers, or of all, into `to`.

    Raises ValueError for an unknown number or a target that holds anything, BuildError where a notebook would show a solution,
    FileNotFoundError where a part is missing.  Whatever is raised, nothing half-done is left.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ValueError(f"{to} is not empty; a hand-out goes into a new folder")
    entries = chosen(numbers, root)
    stamp = version_stamp(root)
    unfinished = to.with_name(to.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        fill(unfinished, entries, stamp, root)
        if to.exists():
            to.rmdir()
        unfinished.rename(to)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Release(to, stamp, tuple(entries))


def chosen(numbers: Sequence[str], root: Path) -> list[Notebook]:
    """The notebooks of those numbers, in the course's order.  Raises ValueError for an unknown one."""
    course = read_course(root)
    unknown = sorted(set(numbers) - {entry.number for entry in course})
    if unknown:
        raise ValueError(f"no notebook {', '.join(unknown)}; there are {', '.join(entry.number for entry in course)}")
    return [entry for entry in course if not numbers or entry.number in numbers]


def version_stamp(root: Path) -> str:
    """The package's version, and where there is a git history the commit; ".changed" where files differ from it."""
    try:
        commit = git(root, "rev-parse", "--short=10", "HEAD")
        changed = git(root, "status", "--porcelain", "--untracked-files=no")
    except (FileNotFoundError, subprocess.CalledProcessError):  # no git here, or no repository: a copy of the course
        return __version__
    return f"{__version__}+{commit}{'.changed' if changed else ''}"


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True).stdout.strip()


def fill(folder: Path, entries: Sequence[Notebook], stamp: str, root: Path) -> None:
    """Write every part of a hand-out."""
    for name in FOLDERS:
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, folder / name)
    without_test_tools(folder / "environment.yml")
    (folder / "notebooks").mkdir()
    names = {entry.file for entry in entries}
    for entry in entries:
        (folder / "notebooks" / f"{entry.file}.ipynb").write_text(clean_notebook(entry, stamp, names, root), encoding="utf-8")
    (folder / "course.yml").write_text(course_file(entries, root), encoding="utf-8")
    (folder / "README.md").write_text(readme(entries, stamp), encoding="utf-8")
    about = {"release": stamp, "version": __version__, "notebooks": [entry.number for entry in entries], "made": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    (folder / "RELEASE.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def without_test_tools(path: Path) -> None:
    """A hand-out has no tests to run."""
    path.write_text(path.read_text(encoding="utf-8").replace(".[test]", ".").replace(" and the test tools", ""), encoding="utf-8")


def clean_notebook(entry: Notebook, stamp: str, names: set[str], root: Path) -> str:
    """The learner's edition, from the solution's cells, with links that lead somewhere in a hand-out of notebooks `names`.

    Raises BuildError where a line of a solution stands in it, FileNotFoundError where there is no solution to make it from.
    """
    source = nbformat.read(Edition(entry, root).solution, 4)
    notebook = learners(source)
    found = leaks(source, notebook)
    if found:
        raise BuildError(f"{entry.file}: {'; '.join(found)}")
    without_dead_links(notebook, lambda target: is_handed_out(target, names))
    notebook.metadata["mmo"] = {"release": stamp}
    return written(notebook)


def without_dead_links(notebook: NotebookNode, lives: Callable[[str], bool]) -> None:
    """Make plain words of the links that lead nowhere, in place."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = WORDS_AND_TARGET.sub(lambda link: link[0] if lives(link[2]) else link[1], cell.source)


def leads_outside(target: str) -> bool:
    """Whether a link leads to the web or stays in its cell."""
    return bool(re.match(r"[a-z]+:", target)) or target.startswith(("#", "attachment:"))


def is_handed_out(target: str, names: set[str]) -> bool:
    """Whether a link of a notebook leads to something that is handed out, or outside the course."""
    if leads_outside(target):
        return True
    path = unquote(target.split("#")[0])
    if path.endswith(".ipynb"):
        return "/" not in path and Path(path).stem in names
    inside = path.removeprefix("../")
    return inside in FILES or (inside.startswith(("mmo/", "data/tiny/")) and "/grading" not in inside)


def course_file(entries: Sequence[Notebook], root: Path) -> str:
    """course.yml with the chosen notebooks only, and what they need among these."""
    numbers = {entry.number for entry in entries}
    listed = yaml.safe_load((root / "course.yml").read_text(encoding="utf-8"))["notebooks"]
    kept = [each | {"needs": [number for number in each.get("needs") or [] if number in numbers]} for each in listed if each["number"] in numbers]
    return yaml.safe_dump({"notebooks": kept}, allow_unicode=True, sort_keys=False)


def readme(entries: Sequence[Notebook], stamp: str) -> str:
    rows = [
        f"| {each.number} | [{each.title}](notebooks/{each.file}.ipynb) | {each.aim} | {each.minutes.get('tiny', '')} | {each.points or ''} |" for each in entries
    ]
    return README.format(stamp=stamp, count=len(entries), rows="\n".join(rows))
