"""Whose file is which notebook.

    SUBMISSIONS/ada/07_sequence_and_delay.ipynb       one folder a student; further folders inside do not matter
    SUBMISSIONS/bob/homework/07_final (2).ipynb       a renamed file is known by the exercises in it

Nothing here raises for what a student did: a file that is missing, too large or broken gives a submission with a `problem`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmo.course.catalogue import Notebook
from mmo.course.grading.answers import Cell, code_cells, exercise_ids

LARGEST_FILE = 64_000_000  # bytes; a notebook with sounds in its outputs has a few million
LARGEST_CODE = 1_000_000  # characters in its code cells; the longest notebook of the course has forty thousand


@dataclass(frozen=True)
class Submission:
    """One student's one notebook.  cells: its code cells, none where `problem` says why it cannot be graded."""

    student: str
    notebook: Notebook
    cells: tuple[Cell, ...] = ()
    problem: str | None = None
    notes: tuple[str, ...] = ()  # what the student should know: the file was renamed, is of another release
    variant: str | None = None  # of the hand-out, as the file says


@dataclass(frozen=True)
class File:
    """A notebook file as it was handed in."""

    path: Path
    cells: tuple[Cell, ...] = ()
    problem: str | None = None
    release: str | None = None  # the stamp of `mmo course release`, where there is one
    variant: str | None = None  # its --variant

    @property
    def notebooks(self) -> set[str]:
        """Numbers of the notebooks whose exercises are in it."""
        return {id.split(".")[0] for id in exercise_ids(self.cells)}


def read_file(path: Path) -> File:
    """A file, or what is wrong with it."""
    name = printable(path.name)
    try:
        if not path.is_file():  # a folder, or a pipe, which would be waited for
            return File(path, problem=f"{name} is no file")
        size = path.stat().st_size
        if size > LARGEST_FILE:
            return File(path, problem=f"{name} has {size / 1e6:.0f} MB, more than {LARGEST_FILE / 1e6:.0f}: clear its outputs and hand it in again")
        found = json.loads(path.read_text(encoding="utf-8-sig"))  # some editors put a mark in front
        stamp = found.get("metadata", {}).get("mmo", {})
        release, variant = (printable(str(stamp[key])) if key in stamp else None for key in ("release", "variant"))
        cells = code_cells(found)
        code = sum(len(cell.source) for cell in cells)
        if code > LARGEST_CODE:
            return File(path, problem=f"{name} has {code / 1e6:.1f} million characters of code, more than {LARGEST_CODE / 1e6:g}: something was pasted into a code cell")
        return File(path, cells, release=release, variant=variant)
    except OSError as error:
        return File(path, problem=f"{name} cannot be opened: {error.strerror}")
    except (ValueError, RecursionError) as error:
        return File(path, problem=f"{name} is no notebook: {printable(str(error))}")
    except (AttributeError, KeyError, TypeError):
        return File(path, problem=f"{name} is JSON, but no notebook: it has no list of cells")


def printable(text: str) -> str:
    """A text that can be written as UTF-8: what cannot (a name in another encoding, half of a pair of surrogates) is written out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def students(folder: Path) -> list[str]:
    """The names of the students' folders.  Raises ValueError where there are none, or where files lie beside them."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    shown = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    loose = [path.name for path in shown if path.suffix == ".ipynb"]
    if loose:
        raise ValueError(f"{folder} holds notebooks that belong to nobody ({printable(', '.join(loose[:3]))}): give each student a folder, {folder.name}/NAME/…")
    names = [path.name for path in shown if path.is_dir()]
    if not names:
        raise ValueError(f"{folder} holds no student's folder: {folder.name}/NAME/07_….ipynb is expected")
    return names


def files_of(folder: Path) -> list[File]:
    """The notebook files in a student's folder, at any depth; links that lead out of it are not followed."""
    home = folder.resolve()
    paths = [path for path in sorted(folder.rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
    return [read_file(path) for path in paths if lies_in(path, home)]


def lies_in(path: Path, home: Path) -> bool:
    """Whether a path, or what it links to, lies in a folder; a link that leads round in a circle lies nowhere."""
    try:
        return path.resolve().is_relative_to(home)
    except (OSError, RuntimeError):
        return False


def choose(student: str, entry: Notebook, files: Sequence[File]) -> Submission:
    """The file that is this notebook: by its name, else by the exercises in it."""
    named = [file for file in files if file.path.stem == entry.file]
    similar = [file for file in files if entry.number in file.notebooks]
    broken = [file for file in files if file.problem]
    found = [*(file for file in named if not file.problem), *(file for file in similar if file not in named)]
    if not found:
        if named or broken:
            return Submission(student, entry, problem="; ".join(file.problem for file in named or broken))
        return Submission(student, entry, problem=f"no {entry.file}.ipynb was handed in")
    file = found[0]
    notes = [] if file.path.stem == entry.file else [f"the file is called {printable(file.path.name)}; known by its exercises as {entry.file}.ipynb"]
    if len(found) > 1:
        notes.append(f"graded is {printable(file.path.name)}, not {', '.join(printable(other.path.name) for other in found[1:])}")
    if not exercise_ids(file.cells):
        return Submission(student, entry, problem=f"{printable(file.path.name)} holds no exercise cell: every @exercise(...) is gone", notes=tuple(notes))
    return Submission(student, entry, file.cells, notes=tuple(notes + release_notes(file)), variant=file.variant)


def release_notes(file: File) -> list[str]:
    """A word where the file comes from another version of the course than the one that grades."""
    from mmo import __version__

    known = file.release is None or file.release.split("+")[0] == __version__
    return [] if known else [f"the file is of release {file.release}, graded by {__version__}"]


def collect(folder: Path, entries: Sequence[Notebook]) -> list[Submission]:
    """Every student's every notebook.  Raises ValueError where the folder has not one folder a student."""
    found = []
    for name in students(folder):
        files = files_of(folder / name)
        found += [choose(printable(name), entry, files) for entry in entries]
    return found


def handed_in(folder: Path, course: Sequence[Notebook]) -> list[Notebook]:
    """The notebooks with exercises that at least one student handed in.  Raises ValueError as `students` does."""
    files = [file for student in students(folder) for file in files_of(folder / student)]
    numbers = {number for file in files for number in file.notebooks}
    names = {file.path.stem for file in files}
    return [entry for entry in course if entry.points and (entry.number in numbers or entry.file in names)]
