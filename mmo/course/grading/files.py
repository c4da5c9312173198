"""The files of a student's folder: which are notebooks, what is in them, and in words what is wrong with the others.

    ada/07_sequence_and_delay.ipynb        read
    bob/homework.zip                       its notebooks are read, in memory: nothing is unpacked, so no path in it leads anywhere
    cleo/05_thinker.ipynb.txt              named, with the name that it must have
    dan/everything.rar                     named, with what to do

Nothing here raises for what a student did.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmo.course.grading.answers import Cell, code_cells, exercise_ids

MEGABYTE = 1_000_000
LARGEST_FILE = 64 * MEGABYTE  # a notebook with sounds in its outputs has a few; an archive may have no more either
LARGEST_FOLDER = 256 * MEGABYTE  # all notebooks of one student, unpacked
MOST_FILES = 200  # notebooks of one student
LARGEST_CODE = 200_000  # characters in the code cells; the longest notebook of the course has forty-five thousand
LONGEST_STAMP = 100  # characters of a release's or a variant's name
LEFT_OUT = (".ipynb_checkpoints", "__MACOSX")  # copies that JupyterLab and macOS make
ARCHIVES = (".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz")
COURSE_NAME = re.compile(r"(?:\d\d|A\d)_\w+", re.ASCII)  # 07_sequence_and_delay
OTHER_KINDS = (".json", ".txt")  # a notebook that was saved under another ending; .py, .html and .pdf are copies of another kind
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # first bytes, as some editors write them
UNREADABLE = (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error)  # RuntimeError: a password; NotImplementedError is one


@dataclass(frozen=True)
class File:
    """A file as it was handed in: a notebook with its cells, or a `problem` that says what is wrong and what to do.

    path: its own, or below its archive's.  size: bytes that were read.
    """

    path: Path
    cells: tuple[Cell, ...] = ()
    problem: str | None = None
    release: str | None = None  # the stamp of `mmo course release`, where there is one
    variant: str | None = None  # its --variant
    notes: tuple[str, ...] = ()  # what is odd in it and keeps nobody from grading it
    archive: str | None = None  # the archive in which it came
    size: int = 0

    @property
    def name(self) -> str:
        """As it may be shown."""
        return printable(self.path.name) + (f" in {self.archive}" if self.archive else "")

    @property
    def stem(self) -> str:
        """Its name up to what the endings begin with: of 05_thinker.ipynb.txt too it is 05_thinker."""
        found = re.match(r"(.+?)(?:\.ipynb\b.*|\.[^.]*)?$", self.path.name, re.IGNORECASE | re.DOTALL)
        return found[1] if found else self.path.name

    @property
    def notebooks(self) -> set[str]:
        """Numbers of the notebooks whose exercises are in it."""
        return {id.split(".")[0] for id in exercise_ids(self.cells)}


def printable(text: str) -> str:
    """A text that can be written as UTF-8: what cannot (a name in another encoding, half of a pair of surrogates) is written out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


# --- A folder ----------------------------------------------------------------------------------------------------


def files_of(folder: Path) -> list[File]:
    """The notebooks in a student's folder, at any depth and in zip archives, and what should have been one."""
    home, left, found = folder.resolve(), LARGEST_FOLDER, []
    for path in paths_in(folder):
        for file in [path] if isinstance(path, File) else files_at(path, home, left):
            left -= file.size
            found.append(file)
            if len(found) == MOST_FILES:
                return [*found, File(folder, problem=f"there are more than {MOST_FILES} notebooks; the others were not looked at")]
    return found


def paths_in(folder: Path) -> Iterator[Path | File]:
    """Everything in a folder and the folders below it, in order; links to folders are not followed.  A File where a folder cannot be listed."""
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(here) as entries:
                inside = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            yield File(here, problem=f"the folder {printable(here.name)} cannot be opened: {error.strerror}")
            continue
        for entry in inside:
            if not entry.is_dir(follow_symlinks=False) or entry.name.endswith(".ipynb"):
                yield Path(entry.path)
        waiting += [Path(entry.path) for entry in inside[::-1] if entry.is_dir(follow_symlinks=False) and entry.name not in LEFT_OUT]


def files_at(path: Path, home: Path, left: int) -> Iterator[File]:
    """What a path gives: one notebook, the notebooks of an archive, one that is named only, or nothing.  left: bytes that may be read."""
    if path.name.startswith(".") or not lies_in(path, home):
        return
    kind = path.suffix.lower()
    if kind == ".ipynb":
        yield read_file(path, left)
    elif kind == ".zip":
        yield from read_archive(path, left)
    else:
        advice = misnamed(path.name)
        if advice:
            yield File(path, problem=advice)


def lies_in(path: Path, home: Path) -> bool:
    """Whether a path, or what it links to, lies in a folder; a link that leads round in a circle lies nowhere."""
    try:
        return path.resolve().is_relative_to(home)
    except (OSError, RuntimeError):
        return False


def misnamed(name: str) -> str | None:
    """What to do with a file that is no notebook but may hold one; None for any other file."""
    shown, suffix = printable(name), Path(name).suffix.lower()
    if suffix in ARCHIVES:
        return f"{shown} is an archive that is not opened here; unpack it into the student's folder"
    inside = re.match(r"(.+?\.ipynb)\W", name, re.IGNORECASE | re.DOTALL)
    if inside:
        return f"{shown} is not a notebook; rename it to {printable(inside[1])}"
    stem = Path(name).stem
    if COURSE_NAME.fullmatch(stem):
        return f"{shown} is not a notebook; {'rename it to' if suffix in OTHER_KINDS else 'hand in'} {stem}.ipynb"
    return None


# --- A notebook --------------------------------------------------------------------------------------------------


def read_file(path: Path, left: int = LARGEST_FOLDER) -> File:
    """A notebook file, or what is wrong with it.  left: bytes that may still be read of this student's."""
    name = printable(path.name)
    try:
        if not path.is_file():  # a folder, or a pipe, which would be waited for
            return File(path, problem=f"{name} is no file")
        problem = too_large(name, path.stat().st_size, left)
        return File(path, problem=problem) if problem else read_notebook(path, path.read_bytes())
    except OSError as error:
        return File(path, problem=f"{name} cannot be opened: {error.strerror}")


def too_large(name: str, size: int, left: int) -> str | None:
    """Why a file of that size is not read; None for one that is."""
    if size > LARGEST_FILE:
        return f"{name} has {size / MEGABYTE:.0f} MB, more than {LARGEST_FILE / MEGABYTE:.0f}: clear its outputs and hand it in again"
    if size > left:
        return f"{name} was not read: the student's notebooks have more than {LARGEST_FOLDER / MEGABYTE:.0f} MB in all; keep one of each"
    return None


def read_notebook(path: Path, data: bytes, archive: str | None = None) -> File:
    """The notebook in these bytes, or what is wrong with it."""
    blank = File(path, archive=archive, size=len(data))

    def wrong(words: str) -> File:
        return File(path, problem=f"{blank.name} {words}", archive=archive, size=len(data))

    found = None
    try:
        found = json.loads(data.decode("utf-8-sig"))  # some editors put a mark in front
        cells = code_cells(found)
    except UnicodeDecodeError:
        return wrong(f"is not written in UTF-8{', but in UTF-16' if data.startswith(UTF_16) else ''}: save it as UTF-8")
    except (ValueError, RecursionError) as error:
        return wrong(f"is no notebook: {printable(str(error))}")
    except (AttributeError, KeyError, TypeError):
        if isinstance(found, dict) and "worksheets" in found:
            return wrong("is in a notebook's old format: open it in Jupyter and save it again")
        return wrong("is JSON, but no notebook: it has no list of cells")
    code = sum(len(cell.source) for cell in cells)
    if code > LARGEST_CODE:
        return wrong(f"has {code:,} characters of code, more than {LARGEST_CODE:,}: something was pasted into a code cell")
    stamps, notes = stamps_of(found)
    return File(path, cells, release=stamps["release"], variant=stamps["variant"], notes=notes, archive=archive, size=len(data))


def stamps_of(notebook: dict) -> tuple[dict[str, str | None], tuple[str, ...]]:
    """Release and variant that `mmo course release` wrote into a file, None where it did not; notes on what no release writes."""
    metadata = notebook.get("metadata")
    stamp = metadata.get("mmo", {}) if isinstance(metadata, dict) else {}
    if not isinstance(stamp, dict):
        return {"release": None, "variant": None}, ("its metadata `mmo` is broken, and was not looked at",)
    found, notes = {}, []
    for key in ("release", "variant"):
        value = stamp.get(key)
        sound = isinstance(value, str) and 0 < len(value.strip()) <= LONGEST_STAMP and value.isprintable()
        found[key] = value.strip() if sound else None
        if key in stamp and not sound:
            notes.append(f"its metadata `mmo.{key}` is broken, and was not looked at")
    return found, tuple(notes)


# --- An archive --------------------------------------------------------------------------------------------------


def read_archive(path: Path, left: int) -> Iterator[File]:
    """The notebooks in a zip archive, read in memory and never unpacked, or what is wrong with it.  left: bytes that may be read."""
    name, empty = printable(path.name), True
    try:
        if not path.is_file():
            yield File(path, problem=f"{name} is no file")
            return
        if path.stat().st_size > LARGEST_FILE:
            yield File(path, problem=f"{name} has more than {LARGEST_FILE / MEGABYTE:.0f} MB and was not opened; unpack it into the student's folder")
            return
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                parts = re.split(r"[/\\]", member.filename)
                if member.is_dir() or parts[-1].startswith(".") or set(parts) & set(LEFT_OUT):
                    continue
                file = read_member(path, archive, member, parts[-1], left)
                if file:
                    left, empty = left - file.size, False
                    yield file
    except UNREADABLE as error:
        empty = False
        yield File(path, problem=f"{name} cannot be opened as a zip ({printable(str(error))}); unpack it into the student's folder")
    if empty:
        yield File(path, problem=f"{name} holds no notebook")


def read_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str, left: int) -> File | None:
    """One file of an archive; None for one that is no notebook and need not be.  What its header says of its size is not believed."""
    place, shown = path / name, printable(path.name)
    if not name.lower().endswith(".ipynb"):
        advice = "is an archive in an archive; unpack both into the student's folder" if name.lower().endswith(".zip") else None
        problem = f"{printable(name)} {advice}" if advice else misnamed(name)
        return File(place, problem=f"in {shown}: {problem}", archive=shown) if problem else None
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others may ask for gigabytes to unpack a few bytes
        return File(place, problem=f"{printable(name)} in {shown} is packed in an unusual way; unpack it into the student's folder", archive=shown)
    most = min(LARGEST_FILE, left)
    with archive.open(member) as file:
        data = file.read(most + 1)
    if len(data) > most:
        words = too_large(f"{printable(name)} in {shown}", len(data), left) or ""
        return File(place, problem=words, archive=shown, size=most)
    return read_notebook(place, data, shown)
