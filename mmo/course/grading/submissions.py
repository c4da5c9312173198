"""Whose file is which notebook.

    SUBMISSIONS/ada/07_sequence_and_delay.ipynb       one folder a student; further folders and zip archives inside do not matter
    SUBMISSIONS/bob/homework/07_final (2).ipynb       a renamed file is known by the exercises in it

Nothing here raises for what a student did: a file that is missing, too large or broken gives a submission with a `problem`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmo.course.catalogue import Notebook
from mmo.course.grading.answers import Cell, exercise_ids
from mmo.course.grading.files import COURSE_NAME, LEFT_OUT, File, files_of, misnamed, printable

MOST_WORDS = 5  # of one student's broken files, in a reason


@dataclass(frozen=True)
class Submission:
    """One student's one notebook.  cells: its code cells, none where `problem` says why it cannot be graded."""

    student: str
    notebook: Notebook
    cells: tuple[Cell, ...] = ()
    problem: str | None = None
    notes: tuple[str, ...] = ()  # what the student should know: the file was renamed, is of another release
    variant: str | None = None  # of the hand-out, as the file says


def students(folder: Path) -> list[str]:
    """The names of the students' folders.  Raises ValueError where there are none."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    names = [path.name for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".") and path.name not in LEFT_OUT]
    if not names:
        raise ValueError("; ".join([f"{folder} holds no student's folder: {folder.name}/NAME/07_….ipynb is expected", *loose_files(folder)[:3]]))
    return names


def loose_files(folder: Path) -> list[str]:
    """What lies beside the students' folders and is, or may hold, somebody's notebook: each in words, with what to do."""
    names = [path.name for path in sorted(folder.iterdir()) if not path.is_dir() and not path.name.startswith(".")]
    names = [name for name in names if name.lower().endswith((".ipynb", ".zip")) or misnamed(name)]
    advice = {name: "unpack it into a folder" if name.lower().endswith(".zip") else "put it into the folder" for name in names}
    return [f"{printable(name)} belongs to nobody and was not graded: {do} with the student's name, {folder.name}/NAME/" for name, do in advice.items()]


def choose(student: str, entry: Notebook, files: Sequence[File]) -> Submission:
    """The file that is this notebook: by the exercises in it; of several, and where none has any, by its name."""
    named = [file for file in files if file.stem == entry.file]
    found = [*(file for file in named if not file.problem), *(file for file in files if entry.number in file.notebooks and file not in named)]
    found.sort(key=lambda file: entry.number not in file.notebooks)  # two files may bear each other's names
    unread = [file.problem for file in named if file.problem]
    if not found:
        absent = f"no {entry.file}.ipynb was handed in"
        return Submission(student, entry, problem="; ".join(unread or [absent, *unplaced(files)]))
    file = found[0]
    known_by = "name" if file in named else "exercises"
    notes = [] if file.name == f"{entry.file}.ipynb" else [f"the file is called {file.name}; known by its {known_by} as {entry.file}.ipynb"]
    if len(found) > 1:
        notes.append(f"graded is {file.name}, not {', '.join(other.name for other in found[1:])}")
    notes += [f"not graded: {each.problem}" for each in named if each.problem and ".ipynb" in each.name.lower()]  # a page or a script beside it is no mistake
    if not exercise_ids(file.cells):
        return Submission(student, entry, problem=f"{file.name} holds no exercise cell: every @exercise(...) is gone", notes=tuple(notes))
    return Submission(student, entry, file.cells, notes=(*notes, *file.notes, *release_notes(file)), variant=file.variant)


def unplaced(files: Sequence[File]) -> list[str]:
    """What is wrong with the files that may be any notebook, as an archive may: those that do not bear the name of one."""
    found = [file.problem for file in files if file.problem and not COURSE_NAME.fullmatch(file.stem)]
    return [*found[:MOST_WORDS], *([f"and {len(found) - MOST_WORDS} more"] if len(found) > MOST_WORDS else [])]


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
        own = [choose(printable(name), entry, files) for entry in entries]
        if all(not each.problem for each in own):  # else it stands there
            own[0] = replace(own[0], notes=(*own[0].notes, *(f"not graded: {words}" for words in unplaced(files))))
        found += own
    return found


def handed_in(folder: Path, course: Sequence[Notebook]) -> list[Notebook]:
    """The notebooks with exercises that at least one student handed in.  Raises ValueError as `students` does."""
    files = [file for student in students(folder) for file in files_of(folder / student)]
    numbers = {number for file in files for number in file.notebooks}
    names = {file.stem for file in files}
    return [entry for entry in course if entry.points and (entry.number in numbers or entry.file in names)]
