"""A clean hand-out for a class: `mmo course release --to DIR --notebooks 05,07`.

    notebooks/     the learner's edition of the chosen ones, made anew from the solutions, stamped with the version
    mmo/           the package, without mmo/course/grading, which holds the hidden cases
    data/tiny/     the tiny world
    course.yml, environment.yml, constraints.txt, pyproject.toml, licences, docs/install.md, README.md, RELEASE.json
    variant.json   with --variant NAME: what this class is asked, and the right results of the checks' cases (mmo/course/variant.py)
    binder/        with --repository ADDRESS: what Binder makes an image from; each notebook then has badges for Colab and Binder (mmo/course/badge.py)

No solutions/, no tests, no history.  The package is what the notebooks build, so it does hold the right functions: see
docs/instructor/grading.md for how to live with that.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

import nbformat
import yaml
from nbformat import NotebookNode

from mmo import __version__
from mmo.course.badge import badge_cells, binder_badge, owner_and_name
from mmo.course.build import EXERCISE, BuildError, Edition, leaks, learners, plain_cell, written
from mmo.course.catalogue import REPOSITORY, Notebook, chosen
from mmo.course.exercises import exercises_of, refuse_unmatched
from mmo.course.nbgrader import solution_id
from mmo.course.variant import FILE, write_variant

FILES = ("environment.yml", "constraints.txt", "pyproject.toml", "LICENSE", "LICENSE-text", "docs/install.md")
FOLDERS = ("mmo", "data/tiny")
BINDER = "binder"
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
OF_A_VARIANT = """
Some exercises ask your class for something else than the package does; it stands above them, under **In your class**. There the notebook goes
on with the package's own function, whatever you wrote; try yours as `NAME.yours(…)`.
"""
ONLINE = """
## Without installing

{badge}

Each notebook has two badges below its title. Colab opens it on a machine of Google's: its first cell fetches this hand-out, `{repository}`, and installs
what is missing there. Binder needs no account and has one to two GB of memory; save your notebook on your own machine before it ends.
"""
IN_YOUR_CLASS = "**In your class** this exercise asks for something else. {task}\n\nYour function is judged by that. Try it as `{name}.yours(…)`: where the notebook goes on with `{name}`, it is the course's own."
DOCSTRING = re.compile(r'""".*?"""', re.DOTALL)


@dataclass(frozen=True)
class Online:
    """Where a hand-out will be published: its own address on GitHub, not the course's, and the branch.  Raises ValueError for what Colab cannot open."""

    repository: str
    branch: str = "main"

    def __post_init__(self) -> None:
        owner_and_name(self.repository, self.branch)


@dataclass(frozen=True)
class Release:
    """What was handed out."""

    folder: Path
    stamp: str  # "0.1.0+3f2a91c0de"
    notebooks: tuple[Notebook, ...]
    varied: tuple[str, ...] = ()  # ids of the exercises that ask this class for something else


def release(to: Path, numbers: Sequence[str] = (), root: Path = REPOSITORY, variant: str | None = None, online: Online | None = None) -> Release:
    """Write a hand-out of the notebooks with these numbers, or of all, into `to`.

    variant: any name; it chooses what some exercises ask this class (mmo/course/grading/variants).  online: where it will be published, for badges and Binder.
    Raises ValueError for an unknown number, a variant of which these notebooks have nothing, or a target that holds anything, BuildError where a notebook would show a solution,
    FileNotFoundError where a part is missing.  Whatever is raised, nothing half-done is left.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ValueError(f"{to} is not empty; a hand-out goes into a new folder")
    entries = chosen(numbers, root)
    for entry in entries:
        refuse_unmatched(entry)
    stamp = version_stamp(root)
    asked = asked_of(entries, variant) if variant else {}
    unfinished = to.with_name(to.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        fill(unfinished, entries, stamp, root, variant, asked, online)
        if to.exists():
            to.rmdir()
        unfinished.rename(to)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return Release(to, stamp, tuple(entries), tuple(asked))


def asked_of(entries: Sequence[Notebook], variant: str) -> dict:
    """Exercise id -> what the variant asks, of the exercises in these notebooks.

    Raises ValueError where there is none, and in a hand-out, which does not hold the variants.
    """
    try:
        from mmo.course.grading.variants import PLAIN, known_name, tasks_of
    except ModuleNotFoundError:
        raise ValueError("this is a hand-out: variants are made in the whole course") from None
    if known_name(variant) == PLAIN:
        raise ValueError(f"{PLAIN!r} stands for no variant; leave --variant out, or give another name")
    tasks = tasks_of(variant)
    ids = [task.id for entry in entries for task in exercises_of(entry.number) if task.id in tasks]
    if not ids:
        raise ValueError(f"no exercise of notebooks {', '.join(entry.number for entry in entries)} varies; those that do: {', '.join(tasks)}")
    return {id: tasks[id] for id in ids}


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


def fill(
    folder: Path, entries: Sequence[Notebook], stamp: str, root: Path, variant: str | None = None, asked: Mapping[str, Any] = MappingProxyType({}), online: Online | None = None,
) -> None:  # fmt: skip
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
        (folder / "notebooks" / f"{entry.file}.ipynb").write_text(clean_notebook(entry, stamp, names, root, variant, asked, online), encoding="utf-8")
    (folder / "course.yml").write_text(course_file(entries, root, online), encoding="utf-8")
    (folder / "README.md").write_text(readme(entries, stamp) + (OF_A_VARIANT if asked else "") + (ways_online(online) if online else ""), encoding="utf-8")
    if online:
        shutil.copytree(root / BINDER, folder / BINDER, ignore=shutil.ignore_patterns(*LEFT_OUT))  # with its modes: repo2docker runs postBuild
    about = {"release": stamp, "version": __version__, "notebooks": [entry.number for entry in entries], "made": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    if online:
        about |= {"repository": online.repository, "branch": online.branch}
    if variant:
        from mmo.course.grading.variants import asked_in

        about["variant"] = variant
        write_variant(folder / FILE, variant, {id: task for id, task in asked_in(variant).items() if id in asked})
    (folder / "RELEASE.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def without_test_tools(path: Path) -> None:
    """A hand-out has no tests to run."""
    path.write_text(path.read_text(encoding="utf-8").replace(".[test]", ".").replace(" and the test tools", ""), encoding="utf-8")


def clean_notebook(
    entry: Notebook, stamp: str, names: set[str], root: Path, variant: str | None = None, asked: Mapping[str, Any] = MappingProxyType({}), online: Online | None = None,
) -> str:  # fmt: skip
    """The learner's edition, from the solution's cells, with links that lead somewhere in a hand-out of notebooks `names`.

    Raises BuildError where a line of a solution stands in it, FileNotFoundError where there is no solution to make it from.
    """
    source = nbformat.read(Edition(entry, root).solution, 4)
    notebook = learners(source, entry.exercises, badge_cells(online.repository, entry.file, online.branch) if online else None)
    found = leaks(source, notebook)
    if found:
        raise BuildError(f"{entry.file}: {'; '.join(found)}")
    without_dead_links(notebook, lambda target: is_handed_out(target, names))
    with_tasks(notebook, asked)
    notebook.metadata["mmo"] = {"release": stamp} | ({"variant": variant} if variant else {})
    return written(notebook)


def with_tasks(notebook: NotebookNode, asked: Mapping[str, Any]) -> None:
    """Say above each varied exercise what is asked, and in its docstring, in place.  Raises BuildError for a stub without a docstring."""
    cells = []
    for cell in notebook.cells:
        ids = [id for id in EXERCISE.findall(cell.source) if id in asked] if cell.cell_type == "code" else []
        for id in ids:
            name = re.search(r"^def (\w+)", cell.source, re.MULTILINE)[1]
            if not DOCSTRING.search(cell.source):
                raise BuildError(f"{id}: its stub has no docstring to say what a variant asks")
            cell.source = DOCSTRING.sub(lambda _: f'"""{asked[id].docstring}"""', cell.source, count=1)
            cells.append(plain_cell(nbformat.v4.new_markdown_cell(), IN_YOUR_CLASS.format(task=asked[id].task, name=name), f"variant-{solution_id(id)}"))
        cells.append(cell)
    notebook.cells = cells


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


def course_file(entries: Sequence[Notebook], root: Path, online: Online | None = None) -> str:
    """course.yml with the chosen notebooks only, and what they need among these; and where the hand-out is published."""
    numbers = {entry.number for entry in entries}
    listed = yaml.safe_load((root / "course.yml").read_text(encoding="utf-8"))["notebooks"]
    kept = [each | {"needs": [number for number in each.get("needs") or [] if number in numbers]} for each in listed if each["number"] in numbers]
    address = {"repository": online.repository} if online else {}
    return yaml.safe_dump(address | {"notebooks": kept}, allow_unicode=True, sort_keys=False)


def ways_online(online: Online) -> str:
    """What the README says of Colab and Binder."""
    return ONLINE.format(badge=binder_badge(online.repository, online.branch), repository=online.repository)


def readme(entries: Sequence[Notebook], stamp: str) -> str:
    rows = [
        f"| {each.number} | [{each.title}](notebooks/{each.file}.ipynb) | {each.aim} | {each.minutes.get('tiny', '')} | {each.points or ''} |" for each in entries
    ]
    return README.format(stamp=stamp, count=len(entries), rows="\n".join(rows))
