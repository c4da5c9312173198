"""Grading a class: what an answer earns, what is reported for whom, and that nobody's file keeps the others from their grades.

One class of synthetic students is graded once, end to end; each test then looks at one student.  Everybody's other exercises are
solved, so that a disaster is seen to stay where it happened.
"""

from __future__ import annotations

import csv
import html
import json
import multiprocessing
import os
import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import torch
from typer.testing import CliRunner

from mmo.cli import app
from mmo.course import catalogue, desk
from mmo.course.build import BEGIN, END, Edition, definitions
from mmo.course.exercises import TASKS, all_exercises, find, judge
from mmo.course.grading import pages, pool
from mmo.course.grading.answers import Answer, answers_of, code_cells, needed, offered
from mmo.course.grading.child import Result
from mmo.course.grading.files import LARGEST_FILE, read_file
from mmo.course.grading.grade import Rules, chosen, clean, grade, refuse_strange
from mmo.course.grading.grades import Grade
from mmo.course.grading.grades import graded as graded_as
from mmo.course.grading.hidden import hidden_cases
from mmo.course.grading.limits import Limits, NotWhileGrading, check_address, check_file, is_loopback
from mmo.course.grading.marks import Trace, marks, package_codes
from mmo.course.grading.pages import COLUMNS, harmless
from mmo.course.grading.pool import Outcome, method
from mmo.course.grading.report import show_class
from mmo.course.grading.summary import hardest_first, seen_most

FILE = "07_sequence_and_delay.ipynb"
LINKS = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes and links")
ENTRY = next(entry for entry in catalogue.read_course() if entry.number == "07")
SOLVED = json.loads((catalogue.REPOSITORY / "solutions" / FILE).read_text(encoding="utf-8"))
LEARNERS = json.loads((catalogue.REPOSITORY / "notebooks" / FILE).read_text(encoding="utf-8"))
HEADER = '@exercise("07.delay")\ndef delay(codes, pad, stop):\n'

# --- A class of synthetic students -------------------------------------------------------------------------------


def with_answer(body: str, above: str = "", elsewhere: str = "", below: str = "") -> dict:
    """The solved notebook, with another answer to 07.delay, more in its cell above and below, and perhaps a cell of the student's own."""
    notebook = json.loads(json.dumps(SOLVED))
    for cell in notebook["cells"]:
        if '@exercise("07.delay")' in "".join(cell["source"]):
            cell["source"] = above + HEADER + "\n".join(f"    {line}" for line in body.splitlines()) + below
    if elsewhere:
        notebook["cells"].insert(3, {"cell_type": "code", "source": elsewhere, "outputs": [], "execution_count": None, "metadata": {}})
    return notebook


def with_check_that_always_says_right() -> dict:
    """A wrong answer, and check cells that praise it."""
    notebook = with_answer("return codes", elsewhere='def check(id):\n    print("Right.")')
    for cell in notebook["cells"]:
        if 'check("07' in "".join(cell["source"]):
            cell["source"] = 'import mmo.course.exercises as e\ne.judge = lambda *a: None\nprint("Right. It does what mmo.sequence.delay does. 3 points.")'
    return notebook


RIGHT = """Q, F = codes.shape
delayed = torch.full((Q, F + Q), pad)
for k, row in enumerate(codes):
    delayed[k, k : k + F], delayed[k, k + F] = row, stop
return delayed"""
LOOKING = """
print(delay(torch.arange(6).view(2, 3), 9, 8).shape)
delay?
check("07.delay")
display(hint("07.delay"), solution("07.delay"))
reveal("07.delay", predict("07.delay", "How long?", 3))
quiz("07")"""
ONLY_FOR_THE_SIZES_SHOWN = """if len(codes) not in (2, 3, 8):
    return codes
delayed = torch.full((len(codes), codes.shape[1] + len(codes)), pad)
for k, row in enumerate(codes):
    delayed[k, k : k + len(row)], delayed[k, k + len(row)] = row, stop
return delayed"""
BY_A_HELPER = """rows = []
for k, row in enumerate(codes):
    rows.append(one_row(row, k, len(codes), pad, stop))
return np.stack(rows) if rows is None else torch.stack(rows)"""
THE_HELPER = """import numpy as np
ENDS = 1
def one_row(row, k, Q, pad, stop):
    return torch.cat((filled(k, pad), row, filled(ENDS, stop), filled(Q - k - ENDS, pad)))
def filled(count, value):
    return torch.full((count,), value)
raise RuntimeError("no cell of a submission is run")"""
YES = """class Yes(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, arguments=(), named=None):
        if function in (torch.isclose, torch.Tensor.__ne__, torch.Tensor.ne):
            return torch.zeros(arguments[0].shape, dtype=torch.bool) == (function is torch.isclose)
        return super().__torch_function__(function, types, arguments, named)"""

ANSWERS = {
    "right": SOLVED,
    "empty": LEARNERS,
    "looking": with_answer(RIGHT, below=LOOKING),
    "scratch": with_answer(RIGHT, below="\nprint(delay(codes, PAD, STOP).shape)"),
    "wrong scratch": with_answer("return codes", below="\nprint(delay(my_codes, 3, 4).shape)"),
    "hidden": with_answer(ONLY_FOR_THE_SIZES_SHOWN),
    "staircase": with_answer("Q, F = codes.shape\nreturn torch.stack([torch.cat((torch.full((Q - 1 - k,), pad), codes[k], torch.tensor([stop]), torch.full((k,), pad))) for k in range(Q)])"),
    "helper": with_answer(BY_A_HELPER, elsewhere=THE_HELPER),
    "elsewhere": with_answer("return torch.full((len(codes), 3), PAD)"),
    "syntax": with_answer("return return"),
    "praise": with_check_that_always_says_right(),
    "patch": with_answer("return codes", above="import mmo.course.exercises\nmmo.course.exercises.difference = lambda *a: None\n"),
    "package": with_answer("return sequence.delay(codes, pad, stop)"),
    "disguise": with_answer("return getattr(sequence, 'de' + 'lay')(codes, pad, stop)"),
    "thread": with_answer("import threading\ngot = []\nthread = threading.Thread(target=lambda: got.append(getattr(sequence, 'de' + 'lay')(codes, pad, stop)))\nthread.start()\nthread.join()\nreturn got[0]"),
    "early thread": with_answer(
        "tasks.put((codes, pad, stop))\nreturn done.get()",
        above="import queue, threading\ntasks, done = queue.Queue(), queue.Queue()\n"
        "threading.Thread(target=lambda: [done.put(getattr(sequence, 'de' + 'lay')(*each)) for each in iter(tasks.get, None)], daemon=True).start()\n",
    ),
    "silencer": with_answer("import sys\nvars(sys)['set' + 'profile'](None)\nreturn getattr(sequence, 'de' + 'lay')(codes, pad, stop)"),
    "peeping": with_answer("import sys\nreturn sys._getframe(2).f_locals['wanted']"),
    "peeping back": with_answer("try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    return e.__traceback__.tb_frame.f_back.f_back.f_locals['wanted']"),
    "yes": with_answer("return Yes(torch.zeros(len(codes), codes.shape[1] + len(codes), dtype=codes.dtype))", elsewhere=YES),
    "loop": with_answer("while True: pass"),
    "sleep": with_answer("import time\ntime.sleep(3600)"),
    "exit": with_answer("import os\nos._exit(3)"),
    "farewell": with_answer("raise SystemExit('bye')"),
    "segfault": with_answer("import ctypes\nctypes.string_at(0)"),
    "flood": with_answer("while True: print('all work and no play ' * 10000)"),
    "memory": with_answer("heap = [bytearray(10**8) for _ in range(100)]"),
    "network": with_answer("import urllib.request\nreturn urllib.request.urlopen('http://192.0.2.1/')"),
    "program": with_answer("import subprocess\nreturn subprocess.run(['ls'])"),
    "thief": with_answer(f"return open({str(catalogue.REPOSITORY / 'solutions' / FILE)!r}).read()"),
    "curious": with_answer(f"return open({str(catalogue.REPOSITORY / 'mmo' / 'course' / 'grading' / 'hidden' / 'sequence.py')!r}).read()"),
    "tester": with_answer(f"return open({str(Path(__file__))!r}).read()"),
    "vandal": with_answer(f"import os\nos.remove({str(catalogue.REPOSITORY / 'course.yml')!r})"),
    "forger": with_answer("import gc\nfrom multiprocessing.connection import Connection\nfor thing in gc.get_objects():\n    if isinstance(thing, Connection): thing.send_bytes(b'[1]')"),
    "mute": with_answer(
        "import gc\nfrom multiprocessing.connection import Connection\nfor thing in gc.get_objects():\n"
        "    if isinstance(thing, Connection): thing.send_bytes(b'{\"visible\": \"wrong\", \"words\": \"\"}')"
    ),
    "own verdict": with_answer(
        "import gc, os\nfrom multiprocessing.connection import Connection\nfor thing in gc.get_objects():\n"
        "    if isinstance(thing, Connection): thing.send_bytes(b'{\"visible\": \"passed\", \"hidden\": \"passed\", \"words\": \"Right.\"}')\nos._exit(0)"
    ),
    "mover": with_answer(f"import os\nopen('own.txt', 'w').close()\nos.rename('own.txt', {str(catalogue.REPOSITORY / 'moved.txt')!r})"),
    "linker": with_answer(f"import os\nopen('own.txt', 'w').close()\nos.symlink(os.path.abspath('own.txt'), {str(catalogue.REPOSITORY / 'moved.txt')!r})"),
    "climber": with_answer(f"import os\nfolder = os.open({str(catalogue.REPOSITORY)!r}, os.O_RDONLY)\nreturn os.open('solutions/{FILE}', os.O_RDONLY, dir_fd=folder)"),
    "lister": with_answer(f"import os\nreturn os.listdir({str(catalogue.REPOSITORY / 'solutions')!r})"),
    "files": with_answer("number = 0\nwhile True:\n    open(f'{number}.txt', 'w').write('x' * 90_000)\n    number += 1"),
    "stall": with_answer(
        "import gc, os, struct, time\nfrom multiprocessing.connection import Connection\n"
        "for thing in gc.get_objects():\n    if isinstance(thing, Connection): os.write(thing.fileno(), struct.pack('!i', 1000))\ntime.sleep(3600)"
    ),
    "surrogate": with_answer("raise ValueError(chr(0xD800) + ' is half of a pair')"),
    "script": with_answer("raise ValueError('<script>alert(1)</script>')"),
    "=cmd": LEARNERS,
}
LONG = "l" * 253
ANSWERS |= {name: json.loads(json.dumps(SOLVED)) for name in ("stray", "stamp", "outputs")}
ANSWERS["stray"]["metadata"]["mmo"] = {"release": "0.1.0", "variant": "autumn-25"}
ANSWERS["stamp"]["metadata"]["mmo"] = {"release": 7, "variant": ["autumn-25"]}
ANSWERS["outputs"]["cells"][2]["outputs"] = [3, {"data": None}, {"data": {"image/png": "iVBORw0KGgo\ud800"}}]
ANSWERS["outputs"]["cells"][2]["cell_type"] = "code"
PASTED = with_answer("return codes", elsewhere="numbers = [" + "0, " * 400_000 + "]")
DEEP = with_answer("return codes", elsewhere="x = " + "-" * 20_000 + "1\ny = x" + ".real" * 20_000)
TEXTS = {"broken": '{"cells": [', "strange": '{"cells": 3}', "nothing": "", "pasted": json.dumps(PASTED), "marked": "\ufeff" + json.dumps(SOLVED), "deep": json.dumps(DEEP)}

BYTES = {"utf-16": json.dumps(SOLVED).encode("utf-16"), "latin": json.dumps(SOLVED, ensure_ascii=False).encode("latin-1", "replace"), "old": b'{"nbformat": 3, "worksheets": [{"cells": []}]}'}


def class_of(folder: Path) -> None:
    """Everybody's folder."""
    for name, notebook in ANSWERS.items():
        (folder / name).mkdir(parents=True)
        (folder / name / FILE).write_text(json.dumps(notebook), encoding="utf-8")
    for name, text in TEXTS.items():
        (folder / name).mkdir()
        (folder / name / FILE).write_text(text, encoding="utf-8")
    for name, data in BYTES.items():
        (folder / name).mkdir()
        (folder / name / FILE).write_bytes(data)
    (folder / "missing").mkdir()
    (folder / "ending").mkdir()
    (folder / "ending" / f"{FILE}.txt").write_text(json.dumps(SOLVED), encoding="utf-8")
    (folder / "zipped").mkdir()
    with zipfile.ZipFile(folder / "zipped" / "homework.zip", "w") as archive:
        archive.writestr(f"../../../{FILE}", json.dumps(SOLVED))
    (folder / LONG).mkdir()
    (folder / LONG / FILE).write_text(json.dumps(SOLVED), encoding="utf-8")
    (folder / FILE).write_text(json.dumps(SOLVED), encoding="utf-8")  # of nobody
    (folder / "renamed" / "my homework").mkdir(parents=True)
    (folder / "renamed" / "my homework" / "final (2).ipynb").write_text(json.dumps(SOLVED), encoding="utf-8")
    (folder / "swapped").mkdir()
    shutil.copy(catalogue.REPOSITORY / "solutions" / "05_thinker.ipynb", folder / "swapped" / FILE)
    (folder / "swapped" / "05_thinker.ipynb").write_text(json.dumps(SOLVED), encoding="utf-8")
    (folder / "__MACOSX" / "right").mkdir(parents=True)
    (folder / "folder" / FILE).mkdir(parents=True)
    if hasattr(os, "mkfifo"):
        for name in ("pipe", "circle"):
            (folder / name).mkdir()
        os.mkfifo(folder / "pipe" / FILE)
        (folder / "circle" / FILE).symlink_to(FILE)
    if sys.platform == "linux":  # names in another encoding, as an archive of another system leaves them
        odd = folder / os.fsdecode(b"zo\xeb")
        odd.mkdir()
        (odd / os.fsdecode(b"\xfcbung.ipynb")).write_text(json.dumps(SOLVED), encoding="utf-8")
    (folder / "huge").mkdir()
    with (folder / "huge" / FILE).open("wb") as file:
        file.truncate(2_000_000_000)  # two gigabytes, of which the disk holds nothing


class Graded:
    """The class, graded: `graded.of("loop")` is the grade of that student's 07.delay."""

    def __init__(self, out: Path, grades: list[Grade], warned: list[str], told: list[str]) -> None:
        self.out, self.grades, self.warned, self.told = out, grades, warned, told

    def of(self, student: str, exercise: str = "07.delay") -> Grade:
        return next(grade for grade in self.grades if (grade.student, grade.exercise) == (student, exercise))

    def page(self, student: str) -> str:
        return (self.out / "students" / f"{student}.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def graded(tmp_path_factory) -> Graded:
    folder = tmp_path_factory.mktemp("class")
    class_of(folder / "submissions")
    rules = Rules(Limits(seconds=3, memory=600_000_000, output=100_000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "PATIENCE_FOR_RESULT", 5)
        warned: list[str] = []
        told: list[str] = []
        return Graded(folder / "grades", grade(folder / "submissions", folder / "grades", ["07"], rules, told=told.append, warned=warned.append), warned, told)


# --- What an answer earns ----------------------------------------------------------------------------------------


def test_a_right_answer_earns_all_points_and_an_empty_one_none(graded):
    assert (graded.of("right").points, graded.of("right").kind) == (3, "right")
    assert (graded.of("empty").points, graded.of("empty").kind) == (0, "open")


def test_an_answer_that_fits_only_the_cases_shown_earns_half(graded):
    found = graded.of("hidden")
    assert (found.points, found.kind) == (1.5, "partly")
    assert "Right in the notebook's cases, wrong in others" in found.reason


def test_a_wrong_answer_gets_the_diagnosis_of_the_check_and_its_picture(graded):
    found = graded.of("staircase")
    assert found.points == 0
    assert "The staircase runs the wrong way" in found.reason
    assert f"data:image/png;base64,{found.picture}" in graded.page("staircase")


def test_helpers_and_imports_of_other_cells_come_along_and_nothing_else_is_run(graded):
    assert graded.of("helper").kind == "right", graded.of("helper").reason


def test_lines_that_look_at_the_answer_in_its_own_cell_cost_nothing(graded):
    assert (graded.of("looking").points, graded.of("looking").reason) == (3, "Right, in hidden cases too.")


def test_a_function_is_judged_where_its_cell_stops_behind_it_and_the_student_is_told(graded):
    found = graded.of("scratch")
    assert (found.points, found.kind) == (3, "right")
    assert "Right, in hidden cases too.\nBehind the function its cell stops: NameError: name 'codes' is not defined" in found.reason
    found = graded.of("wrong scratch")
    assert (found.points, found.kind) == (0, "wrong")
    assert "parallel layout" not in found.reason.splitlines()[-1] and "name 'my_codes' is not defined" in found.reason.splitlines()[-1]


def test_a_value_computed_elsewhere_is_missed_in_words_that_say_why(graded):
    assert "NameError" in graded.of("elsewhere").reason
    assert "no values computed elsewhere" in graded.of("elsewhere").reason


def test_a_mistake_costs_its_points_once(graded):
    """The answer to 07.labels calls delay; where that is wrong, the right one stands in."""
    for student in ("staircase", "loop", "exit", "syntax", "patch", "forger"):
        assert [graded.of(student, id).points for id in ("07.undelay", "07.labels", "07.padding")] == [3, 4, 2], student


# --- What must not help ------------------------------------------------------------------------------------------


def test_changed_check_cells_change_nothing(graded):
    assert graded.of("praise").points == 0
    assert graded.of("praise").kind == "wrong"


def test_an_answer_that_changes_the_check_from_within_is_found_out(graded):
    found = graded.of("patch")
    assert found.points == 0
    assert "changes the check itself" in found.reason
    assert any("new value" in mark or "reaches for" in mark for mark in found.marks)


def test_an_answer_that_calls_the_package_is_marked(graded):
    assert graded.of("package").marks == ("uses mmo.sequence.delay, which is what the exercise asks for",)
    assert "[LOOK: uses mmo.sequence.delay" in graded.of("package").reasons


def test_an_answer_that_calls_the_package_by_another_name_is_marked_too(graded):
    assert graded.of("disguise").marks == ("calls mmo.sequence.delay while it runs",)


@pytest.mark.parametrize("student", ["thread", "early thread"])
def test_a_call_of_the_package_in_a_thread_is_seen(graded, student):
    assert graded.of(student).marks == ("calls mmo.sequence.delay while it runs",)


def test_an_answer_that_takes_off_the_hook_is_marked(graded):
    assert graded.of("silencer").marks == ("takes off the hook that watches it while it runs (sys.setprofile)",)


@pytest.mark.parametrize("student", ["peeping", "peeping back"])
def test_what_is_wanted_cannot_be_read_from_the_check_and_who_tries_is_marked(graded, student):
    assert (graded.of(student).points, graded.of(student).kind) == (0, "wrong")
    assert graded.of(student).marks[0].startswith("reaches for ")


def test_a_tensor_that_answers_for_itself_is_compared_as_a_plain_one(graded):
    assert (graded.of("yes").points, graded.of("yes").kind) == (0, "wrong")
    assert graded.of("yes").marks == ("reaches for __torch_function__",)


def test_nobody_else_is_marked(graded):
    expected = {"package", "disguise", "patch", "forger", "mute", "own verdict", "stall", "segfault"}  # the last five import gc and ctypes
    expected |= {"thread", "early thread", "silencer", "peeping", "peeping back", "yes"}
    assert {found.student for found in graded.grades if found.marks} == expected


# --- Disasters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "student, words",
    [
        ("loop", "still running after 3 seconds"),
        ("sleep", "it waits for something"),
        ("exit", "ended the process, status 3"),
        ("farewell", "ended the process: SystemExit bye"),
        ("segfault", "crashed the process"),
        ("flood", "printed more than 0.1 MB"),
        ("memory", "more than 0.6 GB of memory"),
        ("forger", "what it sent is no verdict"),
        ("mute", "what it sent is no verdict"),
        ("own verdict", "what it sent is no verdict"),
        ("stall", "what it sent is no verdict"),
    ],
)
def test_an_answer_that_goes_too_far_is_stopped_and_reported(graded, student, words):
    found = graded.of(student)
    assert (found.points, found.kind) == (0, "stopped"), found.reason
    assert words in found.reason


@pytest.mark.parametrize(
    "student, words",
    [
        ("network", "no network while grading"),
        ("program", "no other programs while grading"),
        ("thief", "not to be read while grading"),
        ("curious", "sequence.py is not to be read while grading"),
        ("tester", "test_course_grading.py is not to be read while grading"),
        ("vandal", "no files outside its own folder"),
        ("mover", "no files outside its own folder"),
        ("linker", "no files outside its own folder"),
        ("climber", "no folders are to be opened while grading"),
        ("lister", "solutions is not to be read while grading"),
        ("files", "no more than 100 files"),
        ("surrogate", "\\ud800 is half of a pair"),
        ("syntax", "SyntaxError"),
    ],
)
def test_an_answer_that_reaches_too_far_is_wrong_and_told_why(graded, student, words):
    found = graded.of(student)
    assert (found.points, found.kind) == (0, "wrong"), found.reason
    assert words in found.reason


def test_submissions_and_grades_are_closed_where_they_were_named_from_here_too(tmp_path, monkeypatch):
    """`mmo course grade submissions --out grades`, as the docs have it."""
    others = {"spy": tmp_path / "submissions" / "ada" / FILE, "snoop": tmp_path / "grades" / "grades.csv"}
    for name, aim in others.items():
        (tmp_path / "submissions" / name).mkdir(parents=True)
        notebook = with_answer(f"return open({str(aim)!r}).read()")
        (tmp_path / "submissions" / name / FILE).write_text(json.dumps(notebook), encoding="utf-8")
    (tmp_path / "submissions" / "ada").mkdir()
    others["spy"].write_text(json.dumps(SOLVED), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    grade(Path("submissions"), Path("grades"), ["07"])
    again = grade(Path("submissions"), Path("grades"), ["07"])
    for found in again:
        if found.exercise == "07.delay" and found.student in others:
            assert (found.points, found.kind) == (0, "wrong") and f"{others[found.student].name} is not to be read while grading" in found.reason


def test_a_notebook_as_it_is_handed_out_is_made_from_its_solution(tmp_path):
    """In `notebooks/` the instructor may be at work."""
    (tmp_path / "solutions").mkdir()
    (tmp_path / "solutions" / FILE).write_text(json.dumps(SOLVED), encoding="utf-8")
    made = clean(ENTRY, tmp_path)
    assert made.functions["07.delay"] == "delay" and made.functions == clean(ENTRY, catalogue.REPOSITORY).functions


def test_interrupted_while_it_writes_nothing_is_lost(tmp_path, monkeypatch):
    """Neither an earlier grading's pages, nor the way to grade again."""
    out = tmp_path / "grades"
    pages.write_pages(out, [], [], [])
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pages, "class_page", interrupted)
    for place in (out, tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt):
            pages.write_pages(place, [], [], [])
        refuse_strange(place, tmp_path / "submissions")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before and not (tmp_path / "new").exists()
    (tmp_path / "new" / pages.UNFINISHED).mkdir(parents=True)  # what a kill leaves
    refuse_strange(tmp_path / "new", tmp_path / "submissions")


def test_the_repository_is_as_it_was(graded):
    assert (catalogue.REPOSITORY / "course.yml").is_file() and not os.path.lexists(catalogue.REPOSITORY / "moved.txt")


@pytest.mark.parametrize(
    "student, words",
    [
        ("missing", f"no {FILE} was handed in"),
        ("broken", "is no notebook"),
        ("strange", "no notebook"),
        ("nothing", "is no notebook"),
        ("huge", "2000 MB"),
        ("pasted", "characters of code, more than 200,000"),
        ("utf-16", "is not written in UTF-8, but in UTF-16: save it as UTF-8"),
        ("latin", "is not written in UTF-8: save it as UTF-8"),
        ("old", "is in a notebook's old format: open it in Jupyter and save it again"),
        ("folder", "is no file"),
        pytest.param("pipe", "is no file", marks=LINKS),
        pytest.param("circle", f"no {FILE} was handed in", marks=LINKS),
    ],
)
def test_a_file_that_cannot_be_graded_is_reported_for_every_exercise(graded, student, words):
    for id in ("07.delay", "07.undelay", "07.labels", "07.padding"):
        assert (graded.of(student, id).points, graded.of(student, id).kind) == (0, "missing")
        assert words in graded.of(student, id).reason


def test_a_renamed_file_is_known_by_its_exercises(graded):
    assert graded.of("renamed").points == 3
    assert "the file is called final (2).ipynb" in graded.page("renamed")


def test_two_files_that_bear_each_others_names_are_known_by_their_exercises(graded):
    assert graded.of("swapped").points == 3
    assert "the file is called 05_thinker.ipynb; known by its exercises" in graded.page("swapped")


def test_what_a_mac_lays_beside_the_folders_is_nobody(graded):
    assert not [found for found in graded.grades if found.student == "__MACOSX"]


def test_a_notebook_under_another_ending_is_named_with_what_to_do(graded):
    assert graded.of("ending").kind == "missing"
    assert f"{FILE}.txt is not a notebook; rename it to {FILE}" in graded.of("ending").reason
    assert f"student ending: {FILE}.txt is not a notebook; rename it to {FILE}" in graded.warned


def test_a_notebook_in_an_archive_is_graded_and_lands_nowhere(graded):
    assert graded.of("zipped").kind == "right"
    assert f"the file is called {FILE} in homework.zip" in graded.page("zipped")
    assert not list(graded.out.parent.parent.glob(FILE)) and not (graded.out.parent / FILE).exists()


def test_a_notebook_of_nobody_stops_nobody(graded):
    words = f"{FILE} belongs to nobody and was not graded: put it into the folder with the student's name, submissions/NAME/"
    assert words in graded.warned and words in html.unescape((graded.out / "class.html").read_text(encoding="utf-8"))


def test_a_stray_or_broken_stamp_stops_nobody_and_is_named(graded):
    """In one student's file: a variant that the class has not, a variant that is no text."""
    assert (graded.of("stray").kind, graded.of("stamp").kind) == ("right", "right")
    assert "student stray: the file is of the variant 'autumn-25', which is not your class's: graded by the course as it is" in graded.warned
    assert "student stamp: its metadata `mmo.variant` is broken, and was not looked at" in graded.warned
    assert "autumn-25" in graded.page("stray") and "mmo.release` is broken" in graded.page("stamp")


def test_broken_outputs_and_a_long_name_stop_nobody(graded):
    assert (graded.of("outputs").kind, graded.of(LONG).kind) == ("right", "right")
    (page,) = (graded.out / "students").glob("lll*.html")
    assert f'href="students/{page.name}"' in (graded.out / "class.html").read_text(encoding="utf-8")


def test_what_a_file_holds_beside_its_answers_costs_nothing(graded):
    """A mark in front of the JSON; code so deep that it cannot be read, in a cell that no answer needs."""
    assert graded.of("marked").kind == "right"
    assert [graded.of("deep", id).kind for id in ("07.delay", "07.undelay")] == ["wrong", "right"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_names_in_another_encoding_are_written_out(graded):
    assert graded.of(r"zo\udceb").kind == "right"
    assert r"the file is called \udcfcbung.ipynb" in graded.page(r"zo\udceb")
    assert r"zo\udceb,07," in (graded.out / "grades.csv").read_text(encoding="utf-8")


# --- What is written ---------------------------------------------------------------------------------------------


def test_grades_csv_has_a_line_for_everybody(graded):
    with (graded.out / "grades.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    students = {each.student for each in graded.grades}
    assert students >= {*ANSWERS, *TEXTS, "missing", "renamed", "folder", "huge"}
    assert len(rows) == len(graded.grades) == 4 * len(students)
    assert all(row["reason"] and "\n" not in row["reason"] for row in rows)
    half = next(row for row in rows if (row["student"], row["exercise"]) == ("hidden", "07.delay"))
    assert (half["notebook"], half["points"]) == ("07", "1.5")


def test_no_spreadsheet_takes_a_name_for_a_formula(graded):
    assert harmless("=cmd") == "'=cmd"
    assert "\n'=cmd,07" in (graded.out / "grades.csv").read_text(encoding="utf-8").replace("\r\n", "\n")


def test_what_a_student_wrote_is_text_on_the_page(graded):
    page = graded.page("script")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_plots_of_the_file_are_on_the_page(graded):
    plots = [output["data"]["image/png"] for cell in SOLVED["cells"] for output in cell.get("outputs", ()) if "image/png" in output.get("data", {})]
    assert plots
    assert "".join(plots[0]).replace("\n", "")[:60] in graded.page("right")


def test_a_file_without_plots_says_so(graded):
    assert "The file has no saved plots." in graded.page("empty")
    assert "saved plots" not in graded.page("right") + graded.page("broken")


def test_who_is_graded_is_told_once_each(graded):
    names = [words.split(" is graded, ")[0] for words in graded.told]
    assert len(set(names)) == len(names) and {"right", "loop"} <= set(names) and "missing" not in names
    assert graded.told[-1].endswith(f"{len(names)} of {len(names)} students")


def test_the_class_page_has_the_hardest_exercise_first(graded):
    lines = hardest_first(graded.grades)
    assert lines[0].exercise == "07.delay"
    assert [line.share for line in lines] == sorted(line.share for line in lines)
    page = (graded.out / "class.html").read_text(encoding="utf-8")
    assert page.index("07.delay") < page.index("07.labels")
    assert 'href="students/renamed.html"' in page
    assert "the file is called final (2).ipynb" in page and "2000 MB" in page, "what is the matter with a file is seen at once"


def test_the_class_page_ranks_the_mistakes_seen_most(graded):
    mistakes = seen_most(graded.grades, most=99)
    counts = [len(each.students) for each in mistakes]
    assert counts == sorted(counts, reverse=True) and counts[0] > 1
    assert {each.words for each in mistakes} >= {graded.of("staircase").reason.splitlines()[0], graded.of("loop").reason.splitlines()[0]}
    page = html.unescape((graded.out / "class.html").read_text(encoding="utf-8"))
    ranked = page[page.index("Mistakes seen most") : page.index("<h2>Students</h2>")]
    places = [ranked.index(f"<td>{each.exercise}</td><td>{each.words}</td><td>{', '.join(each.students)}</td>") for each in mistakes[:10]]
    assert places == sorted(places) and ranked.count("<tr>") == 1 + min(10, len(mistakes))


def test_a_mistake_is_counted_over_the_class_whatever_numbers_follow_it():
    def told(student: str, exercise: str, reason: str, kind: str = "wrong") -> Grade:
        return Grade(student, exercise[:2], exercise, 0.0, 3, kind, reason)

    found = seen_most([
        told("a", "07.delay", "One."), told("a", "05.seen", "Two.\n(3 of 4)"), told("b", "05.seen", "Two.\n(1 of 4)"), told("c", "05.seen", "Two.", "partly"), told("b", "07.delay", "One."),
        told("c", "07.delay", "Still open", "open"), told("d", "05.seen", "Right.", "right"), told("d", "07.delay", "Not there", "missing"), told("d", "05.rotate", "Three.", "stopped"),
    ])  # fmt: skip
    assert [(each.exercise, each.words, each.students) for each in found] == [("05.seen", "Two.", ("a", "b", "c")), ("07.delay", "One.", ("a", "b")), ("05.rotate", "Three.", ("d",))]
    assert seen_most([]) == [] and len(seen_most([told(str(n), "05.seen", str(n)) for n in range(30)])) == 10


def test_the_summary_counts_what_was_said_most():
    def said(student: str, words: str) -> Grade:
        return Grade(student, "07", "07.delay", 0.0, 3, "wrong", words)

    line = hardest_first([said("a", "One.\n(With 3 codebooks)"), said("b", "One.\n(With 8 codebooks)"), said("c", "Two.")])[0]
    assert (line.often, line.times, line.share) == ("One.", 2, 0.0)
    assert hardest_first([said("a", "One."), said("b", "Two.")])[0].often == ""


def test_the_class_on_the_terminal(graded, capsys):
    show_class(graded.grades)
    shown = capsys.readouterr().out
    assert shown.index("07.delay") < shown.index("07.labels")
    assert "To look at: " in shown and "package 07.delay" in shown


def test_the_command_grades_and_says_where(tmp_path):
    """From the command line, with what was due: who handed in nothing is in the table too."""
    (tmp_path / "in" / "ada").mkdir(parents=True)
    found = CliRunner().invoke(app, ["course", "grade", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--notebooks", "07"])
    assert found.exit_code == 0, found.output
    assert "4 grades in" in found.output
    assert (tmp_path / "out" / "grades.csv").read_text(encoding="utf-8").count("ada,07,07.") == 4
    refused = CliRunner().invoke(app, ["course", "grade", str(tmp_path / "in"), "--out", str(tmp_path / "out2")])
    assert refused.exit_code == 1 and "name those that were due" in refused.output


def test_a_stopped_grading_says_that_nothing_was_written(tmp_path, monkeypatch):
    (tmp_path / "in" / "ada").mkdir(parents=True)

    def stopped(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr("mmo.course.grading.grade.run_all", stopped)
    found = CliRunner().invoke(app, ["course", "grade", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--notebooks", "07"])
    assert found.exit_code == 130 and "stopped: nothing was written" in found.output and "Traceback" not in found.output
    assert not (tmp_path / "out").exists()


def test_marked_points_take_the_points_of_marked_answers():
    """A factor of 0 takes them, 1 leaves them."""
    outcome = Outcome(Result("passed", "passed", called="mmo.sequence.delay"), "", 0.0)
    points = [graded_as("ada", find("07.delay"), ENTRY, outcome, (), factor).points for factor in (0.0, 0.5, 1.0)]
    assert points == [0, 1.5, 3]


def test_the_hidden_share_is_the_notebooks():
    half_right = Outcome(Result("passed", "wrong", "Wrong."), "", 0.0)
    assert [graded_as("ada", find("07.delay"), replace(ENTRY, hidden_share=share), half_right, (), 1.0).points for share in (0.0, 0.5, 1.0)] == [3, 1.5, 0]


def test_points_are_the_entrys():
    right = Outcome(Result("passed", "passed"), "", 0.0)
    found = graded_as("ada", find("07.delay"), replace(ENTRY, exercises=ENTRY.exercises | {"07.delay": 7}), right, (), 1.0)
    assert (found.points, found.of) == (7, 7)


def test_a_single_exercise_may_have_a_hidden_share_of_its_own(tmp_path):
    text = (catalogue.REPOSITORY / "course.yml").read_text(encoding="utf-8")
    place = f"    file: {FILE.removesuffix('.ipynb')}\n"

    def read(added: str):
        (tmp_path / "course.yml").write_text(text.replace(place, place + added), encoding="utf-8")
        return next(entry for entry in catalogue.read_course(tmp_path) if entry.number == "07")

    entry = read("    hidden_share: 0.4\n    hidden_shares: {07.delay: 0.25}\n")
    assert (entry.share_of("07.delay"), entry.share_of("07.labels")) == (0.25, 0.4)
    with pytest.raises(ValueError, match="hidden_shares names '07.dealy'; its exercises are 07.delay"):
        read("    hidden_shares: {07.dealy: 0.25}\n")
    with pytest.raises(ValueError, match="hidden_shares of 07.delay must lie between 0 and 1, not 2"):
        read("    hidden_shares: {07.delay: 2}\n")
    with pytest.raises(ValueError, match="hidden_shares must give shares by exercise, not 0.25; one for all is hidden_share"):
        read("    hidden_shares: 0.25\n")


# --- What is refused before anything is run ------------------------------------------------------------------------


def test_grades_are_not_written_among_other_things(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("")
    with pytest.raises(ValueError, match="other things than grades"):
        grade(tmp_path / "in", tmp_path / "out")
    with pytest.raises(ValueError, match="taken for a student's folder"):
        grade(tmp_path / "in", tmp_path / "in" / "grades")


def test_submissions_need_a_folder_for_each_student(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match="no student's folder"):
        grade(tmp_path / "in", tmp_path / "out", ["07"])
    (tmp_path / "in" / FILE).write_text("{}")
    with pytest.raises(ValueError, match=f"no student's folder.*{FILE} belongs to nobody"):
        grade(tmp_path / "in", tmp_path / "out", ["07"])


def test_unknown_notebooks_and_those_without_exercises_are_refused(monkeypatch):
    monkeypatch.delitem(TASKS, "13")
    with pytest.raises(ValueError, match="no notebook '99'"):
        chosen(["99"], catalogue.REPOSITORY)
    with pytest.raises(ValueError, match="13 has no exercises"):
        chosen(["13"], catalogue.REPOSITORY)


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"memory": -1}, {"output": 0}])
def test_limits_must_be_positive(wrong):
    with pytest.raises(ValueError, match="greater than 0"):
        Limits(**wrong)


# --- Parts -------------------------------------------------------------------------------------------------------


def test_only_what_an_answer_needs_is_taken_from_other_cells():
    cells = [{"cell_type": "code", "source": source} for source in ("import math\nimport torch", "def half(x):\n    return x / TWO\nTWO = 2", "LATER = half(8)", "def other():\n    pass")]
    before = needed("def f(x):\n    return half(x) + LATER", offered(code_cells({"cells": cells})))
    assert "TWO = 2" in before and "def half" in before
    assert "math" not in before and "other" not in before and "LATER" not in before


def test_what_is_tried_out_below_changes_no_answer():
    """F is a module where the answer stands, a number at the notebook's end, and there something that is not on offer."""
    answer = "@exercise('07.delay')\ndef f(x):\n    return F(x) + half(x)"
    above = ["from math import floor as F", "def half(x):\n    return x / 2", answer]
    for scratch in ("F = 3", "F = codes.shape[1]", "def half(x):\n    return 9"):
        names: dict = {"exercise": lambda id: lambda function: function}
        made = answers_of(code_cells({"cells": [{"cell_type": "code", "source": source} for source in (*above, scratch)]}))["07.delay"]
        exec(f"{made.before}\n{made.source}", names)
        assert names["f"](3.0) == 4.5, scratch
    assert "F = 3" in answers_of(code_cells({"cells": [{"cell_type": "code", "source": source} for source in (answer, "F = 3", "def half(x):\n    return x")]}))["07.delay"].before


def run_before(*sources: str, answer: str) -> dict:
    """The names that are there before an answer's cell runs, where other cells are these."""
    cells = code_cells({"cells": [{"cell_type": "code", "source": source} for source in (*sources, f"@exercise('07.delay')\n{answer}")]})
    names: dict = {}
    exec(answers_of(cells)["07.delay"].before, names)
    return names


@pytest.mark.parametrize("source, name", [
    ("W: int = 3", "W"),
    ("shift = lambda x: x + LATER", "shift"),
    ("import torch\nF = torch.nn.functional", "F"),
    ("import torch\nACTS = {'relu': torch.relu, 'none': lambda x: x}", "ACTS"),
    ("TWO = 2\nFOUR: int = TWO * TWO", "FOUR"),
    ("seen = set()", "seen"),
    ("try:\n    import not_there as fast\n    print('fast')\nexcept ImportError:\n    import math as fast", "fast"),
    ("if train(3):\n    import math\nelse:\n    import cmath as math", "math"),
    ("from math import *\nfrom not_there import *", "sqrt"),
])  # fmt: skip
def test_names_that_other_cells_make_without_running_anything_are_there(source, name):
    assert name in run_before(source, answer=f"def delay(codes):\n    return {name}")


@pytest.mark.parametrize("source", ["x = train()", "x = model.inner", "x = [1, train()]", "x = x + 1", "if train():\n    x = 1", "x: int"])
def test_what_would_run_the_notebook_is_not_there_and_breaks_nothing(source):
    assert "x" not in run_before(source, answer="def delay(codes):\n    return x")


def test_a_counter_for_global_is_there():
    answer = "def delay(codes):\n    global N_CALLS\n    N_CALLS += 1"
    assert run_before("N_CALLS = 0", answer=answer)["N_CALLS"] == 0
    assert run_before("N_CALLS = 0", answer="def delay(codes):\n    pass\nN_CALLS += 1")["N_CALLS"] == 0


def test_an_alias_of_the_same_name_keeps_the_import():
    assert run_before("from torch import nn\nnn = nn.functional", answer="def delay(codes):\n    return nn")["nn"] is torch.nn


def test_of_two_cells_with_one_exercise_the_last_counts():
    cells = code_cells({"cells": [{"cell_type": "code", "source": f"@exercise('07.delay')\ndef delay():\n    return {n}"} for n in (1, 2)]})
    assert "return 2" in answers_of(cells)["07.delay"].source


def test_an_exercise_in_a_comment_is_none():
    assert answers_of(code_cells({"cells": [{"cell_type": "code", "source": '# @exercise("07.delay")'}]})) == {}


@pytest.mark.parametrize("source, marked", [
    ("from mmo.sequence import delay as d\nd(codes)", "uses mmo.sequence.delay"),
    ("import mmo.sequence as s\ns.delay(codes)", "uses mmo.sequence.delay"),
    ("from mmo.course.exercises import find\nfind('07.delay').reference", "reaches for mmo.course.exercises.find"),
    ("import sys\nsys.modules['mmo.sequence']", "reaches for sys.modules"),
    ("import sys\nsys._getframe(2).f_locals", "reaches for _getframe"),
    ("import sys\nnext(iter(sys._current_frames().values()))", "reaches for _current_frames"),
    ("getattr(delay, '__globals__')", "reaches for __globals__"),
    ("(lambda: 0).__closure__", "reaches for __closure__"),
    ("(n for n in ()).gi_frame", "reaches for gi_frame"),
    ("import threading\nthreading.setprofile(None)", "reaches for threading.setprofile"),
    ("from mmo import sequence\nsequence.delay = print", "gives mmo.sequence.delay a new value"),
])  # fmt: skip
def test_marks_follow_imports_to_the_full_name(source, marked):
    assert any(mark.startswith(marked) for mark in marks(Answer("07.delay", source), find("07.delay")))


def test_what_an_answer_is_compared_with_is_known_when_it_is_entered():
    for task in all_exercises():
        assert getattr(task.reference, "__code__", None) in {None, *package_codes(task)}, task.id


def test_a_files_size_is_looked_at_before_it_is_read(tmp_path):
    path = tmp_path / "large.ipynb"
    with path.open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    assert "more than 64" in read_file(path).problem


def test_this_machine_is_no_network():
    assert all(is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", b"localhost", None))
    assert not any(is_loopback(host) for host in ("127.0.0.1.example.org", "192.0.2.1", "example.org"))
    check_address("/a/unix/socket")
    with pytest.raises(NotWhileGrading):
        check_address(("192.0.2.1", 80))


def test_an_answer_writes_in_its_own_folder_only(tmp_path):
    home, shut = f"{tmp_path}{os.sep}", (f"{tmp_path / 'shut'}{os.sep}",)
    check_file(str(tmp_path / "mine.txt"), os.O_WRONLY | os.O_CREAT, home, ())
    check_file("/elsewhere/read.txt", os.O_RDONLY, home, shut)
    for path, flags in ((str(tmp_path / ".." / "other.txt"), os.O_WRONLY), (str(tmp_path / "shut" / "a"), os.O_RDONLY)):
        with pytest.raises(NotWhileGrading):
            check_file(path, flags, home, shut)


# --- Hidden cases ------------------------------------------------------------------------------------------------

HIDDEN = [each.id for each in all_exercises() if hidden_cases(each.id)]


def solutions() -> dict[str, Answer]:
    """Exercise id -> the solution's cell and what it needs, as a submission's would be taken."""
    found = {}
    for entry in catalogue.read_course():
        path = Edition(entry, catalogue.REPOSITORY).solution
        text = path.read_text(encoding="utf-8").replace(BEGIN, "").replace(END, "")
        found |= answers_of(code_cells(json.loads(text)))
    return found


@pytest.fixture(scope="module")
def solved() -> dict[str, Answer]:
    return solutions()


def function_of(answer: Answer):
    """The function of an answer, in a namespace as grading makes it."""
    names: dict = {}
    exec(answer.before, names)
    entry = next(each for each in catalogue.read_course() if each.number == answer.id.split(".")[0])
    learner = nbformat.read(Edition(entry, catalogue.REPOSITORY).learner, 4)
    names |= {function.name: find(id).reference for id, function in definitions(learner).items()}
    names["exercise"] = desk.exercise
    exec(answer.source, names)
    return desk.ATTEMPTS[answer.id].yours


def test_hidden_cases_are_many():
    assert len(HIDDEN) >= 60


@pytest.mark.parametrize("id", HIDDEN)
def test_solution_is_graded_right_in_hidden_cases_and_without_a_mark(id, solved):
    """The solution stands for a student who did it well: full points, and nothing to look at."""
    task = replace(find(id), picture=None)  # drawing takes longer than all the rest
    trace = Trace(package_codes(task))
    watched = trace.watching(function_of(solved[id]))
    verdict = judge(replace(task, cases=lambda: hidden_cases(id)), watched)
    assert verdict.passed, verdict.words
    assert judge(task, watched).passed
    assert marks(solved[id], task) == ()
    assert trace.called is None


@pytest.mark.parametrize("id", HIDDEN)
def test_hidden_cases_are_others_than_those_shown(id):
    names = [case.name for case in hidden_cases(id)]
    assert len(set(names)) == len(names)
    assert not set(names) & {case.name for case in find(id).cases()}


def test_processes_are_forked_where_the_platform_can():
    assert method() == ("forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn")
    assert torch.get_num_threads() == 1
