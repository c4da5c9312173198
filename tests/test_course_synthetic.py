"""The synthetic class: each of the ten fails in the way that its name stands for, and grading tells them apart."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from mmo.cli import app
from mmo.course.catalogue import read_course
from mmo.course.exercises import TASKS, exercises_of, find
from mmo.course.grading.answers import answers_of, code_cells
from mmo.course.grading.grade import Rules, grade
from mmo.course.grading.limits import Limits
from mmo.course.grading.synthetic import handed_in, write_class

WITH_EXERCISES = [entry for entry in read_course() if entry.points]


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    write_class(folder / "in", ["07"])
    rules = Rules(Limits(seconds=3, memory=600_000_000, output=100_000))
    grades = grade(folder / "in", folder / "out", ["07"], rules)
    return {(each.student, each.exercise): each for each in grades}


@pytest.mark.parametrize(
    ("student", "points", "kinds"),
    [
        ("ada", 12, ("right", "right", "right", "right")),
        ("ben", 9, ("wrong", "right", "right", "right")),
        ("cleo", 0, ("wrong", "open", "open", "open")),
        ("dan", 0, ("open", "open", "open", "open")),
        ("eve", 9, ("stopped", "right", "right", "right")),
        ("finn", 7, ("stopped", "right", "right", "stopped")),
        ("gus", 12, ("right", "right", "right", "right")),
        ("hana", 0, ("missing", "missing", "missing", "missing")),
        ("ivy", 0, ("missing", "missing", "missing", "missing")),
        ("jon", 12, ("right", "right", "right", "right")),
    ],
)
def test_everybody_gets_what_they_stand_for(graded, student, points, kinds):
    own = [graded[student, f"07.{name}"] for name in ("delay", "undelay", "labels", "padding")]
    assert tuple(each.kind for each in own) == kinds, [each.reason for each in own]
    assert sum(each.points for each in own) == points


def test_reasons_say_what_happened(graded):
    for student, exercise, words in (
        ("ben", "07.delay", find("07.delay").bugs[0].words), ("eve", "07.delay", "still running"), ("finn", "07.delay", "crashed the process (SIGABRT)"),
        ("finn", "07.padding", "printed more than"), ("hana", "07.delay", "is no notebook"), ("ivy", "07.delay", "no 07_sequence_and_delay.ipynb was handed in"),
    ):  # fmt: skip
        assert words in graded[student, exercise].reason
    assert [key for key, each in graded.items() if each.marks] == [("jon", "07.delay")], "only who fetched the right function is marked"


@pytest.mark.parametrize("entry", WITH_EXERCISES, ids=lambda entry: entry.number)
def test_every_notebook_has_such_a_class(entry):
    """Each file is what it shall be: an answer a cell, open ones open, one mistake that the check knows."""
    papers = handed_in(entry)
    ids = {task.id for task in exercises_of(entry.number)}
    right, open_ones, wrong = (answers_of(code_cells(json.loads(papers[name][f"{entry.file}.ipynb"]))) for name in ("ada", "dan", "ben"))
    assert set(right) == set(open_ones) == set(wrong) == ids and len(papers) == 10
    for id in ids:
        assert "SOLUTION" not in right[id].source and "raise NotImplementedError" in open_ones[id].source
    (changed,) = [id for id in ids if wrong[id].source != right[id].source]
    compile(wrong[changed].source, changed, "exec")


def test_it_goes_into_a_new_folder(tmp_path, monkeypatch):
    monkeypatch.delitem(TASKS, "13")  # as if it had none
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    for to, notebooks, words in ((tmp_path / "mine", "07", "is not empty"), (tmp_path / "new", "13", "13 has no exercises"), (tmp_path / "new", "99", "no notebook '99'"), (tmp_path / "new", ",", "name the notebooks")):
        found = CliRunner().invoke(app, ["course", "synthetic", str(to), "--notebooks", notebooks])
        assert found.exit_code == 1 and words in found.output, found.output
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
