"""What a student's folder holds: each file is read within bounds, or named with what to do; nothing in it raises, and nothing is unpacked."""

from __future__ import annotations

import json
import os
import subprocess
import zipfile

import pytest

from mmo.course import catalogue
from mmo.course.grading import files
from mmo.course.grading.files import File, files_of, misnamed
from mmo.course.grading.grade import known_variant
from mmo.course.grading.submissions import Submission, choose, loose_files, students

ENTRY = next(entry for entry in catalogue.read_course() if entry.number == "05")
NAME = f"{ENTRY.file}.ipynb"
OTHER = "07_sequence_and_delay"


def book(id: str = "05.rotate", **metadata) -> str:
    cell = {"cell_type": "code", "source": f'@exercise("{id}")\ndef answer(): pass'}
    return json.dumps({"cells": [cell], "metadata": metadata})


def archive_with(path, members: dict[str, str], kind: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, text in members.items():
            archive.writestr(name, text)


def problems(folder) -> list[str]:
    return [file.problem for file in files_of(folder) if file.problem]


# --- Names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, advice", [
    ("05_thinker.ipynb.txt", "05_thinker.ipynb.txt is not a notebook; rename it to 05_thinker.ipynb"),
    ("05_thinker.ipynb.json", "rename it to 05_thinker.ipynb"),
    ("my answers.ipynb (1)", "rename it to my answers.ipynb"),
    ("05_thinker.txt", "rename it to 05_thinker.ipynb"),
    ("05_thinker.py", "05_thinker.py is not a notebook; hand in 05_thinker.ipynb"),
    ("A1_train_a_codec.pdf", "hand in A1_train_a_codec.ipynb"),
    ("everything.rar", "is an archive that is not opened here; unpack it"),
    ("05.tar.gz", "is an archive that is not opened here"),
    ("notes.txt", None), ("essay.pdf", None), ("drawing.png", None),
])  # fmt: skip
def test_a_file_that_may_hold_a_notebook_is_named_with_what_to_do(name, advice):
    said = misnamed(name)
    assert said is None if advice is None else said is not None and advice in said


@pytest.mark.parametrize("name, stem", [("05_thinker.ipynb", "05_thinker"), ("05_thinker.ipynb.txt", "05_thinker"), ("final.v2.ipynb", "final.v2"), ("05_thinker.zip", "05_thinker"), ("plain", "plain")])
def test_the_stem_of_a_name_leaves_out_every_ending(name, stem, tmp_path):
    assert File(tmp_path / name).stem == stem


def test_a_misnamed_file_is_the_reason_for_its_own_notebook_only(tmp_path):
    (tmp_path / f"{NAME}.txt").write_text(book())
    found = files_of(tmp_path)
    assert choose("ada", ENTRY, found).problem == f"{NAME}.txt is not a notebook; rename it to {NAME}"
    other = next(entry for entry in catalogue.read_course() if entry.file == OTHER)
    assert choose("ada", other, found).problem == f"no {OTHER}.ipynb was handed in"


def test_a_good_file_is_graded_whatever_lies_beside_it(tmp_path):
    (tmp_path / NAME).write_text(book())
    (tmp_path / f"{NAME}.txt").write_text("x")
    (tmp_path / f"{ENTRY.file}.html").write_text("x")
    (tmp_path / "everything.rar").write_text("x")
    found = choose("ada", ENTRY, files_of(tmp_path))
    assert found.cells and not found.problem
    assert found.notes == (f"not graded: {NAME}.txt is not a notebook; rename it to {NAME}",), "a page beside a notebook is no mistake"


@pytest.mark.parametrize("name", ["05_THINKER.IPYNB", "homework.Ipynb"])
def test_capitals_in_the_ending_are_no_matter(name, tmp_path):
    (tmp_path / name).write_text(book())
    assert choose("ada", ENTRY, files_of(tmp_path)).cells


# --- Stamps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stamp, noted", [
    ({"variant": "autumn-25"}, False), ({}, False), ({"release": "0.1.0"}, False),
    ({"variant": 3}, True), ({"variant": ["a"]}, True), ({"variant": ""}, True), ({"variant": "a\nb"}, True), ({"variant": "x" * 101}, True), ({"variant": "\ud800"}, True),
    ([], True), ("text", True), (None, True),
])  # fmt: skip
def test_a_broken_stamp_keeps_nobody_from_grading(stamp, noted, tmp_path):
    (tmp_path / NAME).write_text(book(mmo=stamp))
    (file,) = files_of(tmp_path)
    assert file.cells and not file.problem
    assert bool(file.notes) == noted and all("is broken, and was not looked at" in words for words in file.notes)
    assert file.variant == (stamp.get("variant") if isinstance(stamp, dict) and not noted else None)


@pytest.mark.parametrize("metadata", [None, [], 3])
def test_so_does_broken_metadata(metadata, tmp_path):
    (tmp_path / NAME).write_text(json.dumps(json.loads(book()) | {"metadata": metadata}))
    assert files_of(tmp_path)[0].cells


def test_one_stray_variant_is_noted_and_a_whole_class_of_one_asks_for_the_word():
    own = [Submission(student, ENTRY, cells=("x",), variant=variant) for student, variant in (("ada", None), ("bob", None), ("cleo", "autumn-25"))]
    assert [len(each.notes) for each in known_variant(own, None)] == [0, 0, 1]
    with pytest.raises(ValueError, match="2 of 3 files are of a variant, cleo's 05_thinker for instance: grade with --variant 'autumn-25'"):
        known_variant([own[0], own[2], own[2]], None)
    assert not any(each.notes for each in known_variant(own, "none"))
    assert [len(each.notes) for each in known_variant(own, "autumn-25")] == [1, 1, 0]


# --- Archives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [NAME, f"homework/{NAME}", f"../../../{NAME}", f"/etc/{NAME}", f"..\\..\\{NAME}", f"C:\\{NAME}"])
def test_notebooks_in_an_archive_are_read_and_written_nowhere(name, tmp_path):
    home = tmp_path / "class" / "ada"
    home.mkdir(parents=True)
    archive_with(home / "homework.zip", {name: book(), f"__MACOSX/._{NAME}": "x", f".ipynb_checkpoints/{NAME}": "x", "essay.pdf": "x"})
    before = sorted(tmp_path.rglob("*"))
    (file,) = files_of(home)
    assert (file.name, file.stem, file.problem) == (f"{NAME} in homework.zip", ENTRY.file, None)
    assert choose("ada", ENTRY, [file]).notes == (f"the file is called {NAME} in homework.zip; known by its name as {NAME}",)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bomb_is_not_swelled(tmp_path, monkeypatch):
    """Read no further than the bound, whatever its header says."""
    monkeypatch.setattr(files, "LARGEST_FILE", 100_000)
    archive_with(tmp_path / "bomb.zip", {NAME: " " * 50_000_000, "second.ipynb": book()})
    assert (tmp_path / "bomb.zip").stat().st_size < 100_000
    bomb, second = files_of(tmp_path)
    assert bomb.size == 100_000 and "more than 0: clear its outputs" in bomb.problem
    assert second.cells, "what stands beside it is read"


def test_all_notebooks_of_a_student_together_have_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST_FOLDER", len(book()) + 10)
    archive_with(tmp_path / "a.zip", {"one.ipynb": book(), "two.ipynb": book()})
    (tmp_path / "b.ipynb").write_text(book())
    first, *others = files_of(tmp_path)
    assert first.cells and len(others) == 2 and all("was not read: the student's notebooks have more than" in other.problem for other in others)


def test_and_so_has_their_number(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_FILES", 3)
    archive_with(tmp_path / "a.zip", {f"{number}.ipynb": "" for number in range(50)})
    found = files_of(tmp_path)
    assert len(found) == 4 and "more than 3 notebooks" in found[-1].problem
    assert len(choose("ada", ENTRY, found).problem) < 500


def corrupted(path) -> None:
    """One byte of the packed notebook changed, so that its sum is another."""
    archive_with(path, {NAME: book() * 100}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)


def with_password(path) -> None:
    """The mark of an encrypted member, in both of its headers."""
    archive_with(path, {NAME: book()}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)


@pytest.mark.parametrize("make, words", [
    (lambda path: path.write_bytes(b"PK\x03\x04 cut off"), "cannot be opened as a zip"),
    (lambda path: path.write_text("no archive"), "cannot be opened as a zip"),
    (lambda path: path.mkdir(), None),
    (corrupted, "cannot be opened as a zip (Bad CRC-32"),
    (with_password, "encrypted"),
    (lambda path: archive_with(path, {}), "homework.zip holds no notebook"),
    (lambda path: archive_with(path, {"a.txt": "x"}), "homework.zip holds no notebook"),
    (lambda path: archive_with(path, {"inner.zip": "x"}), "inner.zip is an archive in an archive"),
    (lambda path: archive_with(path, {f"{NAME}.txt": "x"}), f"in homework.zip: {NAME}.txt is not a notebook; rename it to {NAME}"),
    (lambda path: archive_with(path, {NAME: book()}, zipfile.ZIP_LZMA), "packed in an unusual way"),
    (lambda path: archive_with(path, {NAME: "{"}), f"{NAME} in homework.zip is no notebook"),
])  # fmt: skip
def test_an_archive_that_cannot_be_read_is_named(make, words, tmp_path):
    make(tmp_path / "homework.zip")
    found = problems(tmp_path)
    assert found == [] if words is None else len(found) == 1 and words in found[0], found
    assert (found[0] if found else "no 05_thinker.ipynb") in choose("ada", ENTRY, files_of(tmp_path)).problem


def test_a_large_archive_is_not_opened(tmp_path):
    with (tmp_path / "large.zip").open("wb") as file:
        file.truncate(files.LARGEST_FILE + 1)
    assert "large.zip has more than 64 MB and was not opened; unpack it" in problems(tmp_path)[0]


# --- Folders -----------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    (tmp_path / "shut").mkdir()
    (tmp_path / NAME).write_text(book())
    scan = os.scandir

    def scandir(path):
        if os.path.basename(path) == "shut":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert [file.problem for file in files_of(tmp_path)] == [None, "the folder shut cannot be opened: Permission denied"]


@pytest.mark.skipif(os.name != "posix", reason="long paths")
def test_a_folder_of_any_depth_is_walked(tmp_path):
    """Deeper than Python's own recursion goes."""
    for depth in range(1, 1201):
        os.mkdir(f"{tmp_path}{'/a' * depth}")
    with open(f"{tmp_path}{'/a' * 1200}/{NAME}", "w") as file:
        file.write(book())
    try:
        assert files_of(tmp_path)[0].cells
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "a"], check=True)  # shutil.rmtree does not go as deep


def test_what_lies_beside_the_students_is_named(tmp_path):
    (tmp_path / "ada").mkdir()
    for name in (NAME, "ada.zip", "all.rar", "grades.csv", ".hidden.ipynb"):
        (tmp_path / name).write_text("x")
    assert students(tmp_path) == ["ada"]
    said = loose_files(tmp_path)
    assert [words.split()[0] for words in said] == [NAME, "ada.zip", "all.rar"]
    assert "unpack it into a folder with the student's name" in said[1]
