"""nbgrader: learners' notebooks carry its marks, and the real nbgrader hands out, grades and comments on a course of ours.

What needs nbgrader skips, and says so, where it is not installed: pip install -c constraints.txt -e ".[class]".
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import MagicMock

import jupytext
import nbformat
import pytest
from typer.testing import CliRunner

from mmo.cli import app
from mmo.course import catalogue, desk, grading
from mmo.course.build import BuildError, Edition, learners, marked_for_nbgrader
from mmo.course.exercises import TASKS, exercises_of, find
from mmo.course.grading.autograder import points_for
from mmo.course.grading.nbgrader_course import hidden_tests, source, write_nbgrader_course
from mmo.course.nbgrader import cell_marks, check_id, solution_id

ENTRIES = {entry.number: entry for entry in catalogue.read_course()}
GRADED = [number for number in ENTRIES if exercises_of(number)]
ABSENT = 'nbgrader is not installed: pip install -c constraints.txt -e ".[class]"'
needs_nbgrader = pytest.mark.skipif(find_spec("nbgrader") is None, reason=ABSENT)
NAME = "05_thinker"


def learners_edition(number: str):
    return nbformat.read(Edition(ENTRIES[number], catalogue.REPOSITORY).learner, 4)


def marks_in(notebook) -> dict[str, dict]:
    """grade_id -> nbgrader's metadata."""
    found = [cell.metadata.nbgrader for cell in notebook.cells if "nbgrader" in cell.metadata]
    assert len({each.grade_id for each in found}) == len(found), "every id is there once"
    return {each.grade_id: each for each in found}


# --- Marks in the learner's notebooks ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", GRADED)
def test_answers_and_checks_are_marked_with_the_points_of_course_yml(number):
    marks = marks_in(learners_edition(number))
    tasks = exercises_of(number)
    assert set(marks) == {solution_id(task.id) for task in tasks} | {check_id(task.id) for task in tasks}
    for task in tasks:
        answer, test = marks[solution_id(task.id)], marks[check_id(task.id)]
        assert (answer.solution, answer.grade, answer.locked) == (True, False, False)
        assert (test.solution, test.grade, test.locked, test.points) == (False, True, True, task.points)
    assert sum(each.get("points", 0) for each in marks.values()) == ENTRIES[number].points


@needs_nbgrader
@pytest.mark.parametrize("number", GRADED)
def test_nbgrader_itself_finds_the_marks_valid(number):
    from nbgrader.nbgraderformat import MetadataValidator

    MetadataValidator().validate_nb(learners_edition(number))
    MetadataValidator().validate_nb(source(nbformat.read(Edition(ENTRIES[number], catalogue.REPOSITORY).solution, 4), ENTRIES[number].exercises))


def test_marks_survive_the_way_through_a_text_form():
    notebook = learners_edition("07")
    again = jupytext.reads(jupytext.writes(notebook, "py:percent"), "py:percent")
    assert [(cell.source, cell.metadata.get("nbgrader")) for cell in again.cells] == [(cell.source, cell.metadata.get("nbgrader")) for cell in notebook.cells]


def test_a_cell_that_could_not_be_given_points_is_refused():
    assert cell_marks("x = 1", {}) is None
    with pytest.raises(ValueError, match="07.delay, 07.undelay"):
        cell_marks('@exercise("07.delay")\ndef a(): ...\n@exercise("07.undelay")\ndef b(): ...', {})
    cell = nbformat.v4.new_code_cell('check("07.delay")\ncheck("07.undelay")')
    with pytest.raises(BuildError, match="check of 07.delay"):
        learners(nbformat.v4.new_notebook(cells=[cell]), {})


# --- The sources -------------------------------------------------------------------------------------------------


def test_a_source_holds_solution_and_hidden_tests_and_no_dead_link():
    made = source(nbformat.read(Edition(ENTRIES["07"], catalogue.REPOSITORY).solution, 4), ENTRIES["07"].exercises)
    cells = {cell.metadata.nbgrader.grade_id: cell.source for cell in made.cells if "nbgrader" in cell.metadata}
    assert "### BEGIN SOLUTION" in cells["07-delay"]
    assert cells["07-delay-check"].startswith('check("07.delay")\n### BEGIN HIDDEN TESTS\n')
    assert cells["07-delay-check"].splitlines()[-2:] == ['points_for("07.delay")', "### END HIDDEN TESTS"]
    assert not any(cell.get("outputs") for cell in made.cells)
    assert not re.search(r"\]\((?!https?:|#)", "".join(cell.source for cell in made.cells if cell.cell_type == "markdown"))
    assert 'points_for("07.delay", marked_points=0)' in hidden_tests("07.delay", 0.0)


def test_a_course_goes_into_a_new_folder_only_and_nothing_half_done_is_left(tmp_path, monkeypatch):
    monkeypatch.delitem(TASKS, "13")  # as if it had none
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        write_nbgrader_course(tmp_path / "mine", ["05"])
    with pytest.raises(ValueError, match="notebook 13 has no exercises"):
        write_nbgrader_course(tmp_path / "other", ["13"])
    (tmp_path / "course").mkdir()
    (tmp_path / "course" / "course.yml").write_text((catalogue.REPOSITORY / "course.yml").read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(FileNotFoundError):
        write_nbgrader_course(tmp_path / "other", ["05"], root=tmp_path / "course")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["course", "mine"]


def test_without_numbers_all_that_can_be_graded_are_laid_out(tmp_path):
    found = CliRunner().invoke(app, ["course", "nbgrader", str(tmp_path / "course")])
    assert found.exit_code == 0, found.output
    assert sorted(path.name for path in (tmp_path / "course" / "source").iterdir()) == sorted(ENTRIES[number].file for number in GRADED)
    assert f"nbgrader autograde {ENTRIES[GRADED[0]].file}" in (tmp_path / "course" / "README.md").read_text(encoding="utf-8")
    assert (ABSENT.split(": ")[1] in found.output) == (find_spec("nbgrader") is None)


# --- Points ------------------------------------------------------------------------------------------------------


@pytest.fixture
def attempts(monkeypatch):
    """A kernel in which nothing was run yet."""
    monkeypatch.setattr(desk, "ATTEMPTS", {})
    return lambda id, function: desk.exercise(id)(function)


def test_points_for_right_open_wrong_and_absent_answers(attempts, capsys):
    assert points_for("05.rms_norm") == 0.0
    assert "no cell with @exercise" in capsys.readouterr().out
    attempts("05.repeat_heads", lambda kv, times: kv[:, :, None].expand(-1, -1, times, -1, -1).flatten(1, 2))
    assert points_for("05.repeat_heads") == 2.0
    attempts("05.repeat_heads", lambda kv, times: kv.repeat(1, times, 1, 1))
    assert points_for("05.repeat_heads") == 0.0
    assert "Neighbours share" in capsys.readouterr().out
    attempts("05.repeat_heads", find("05.repeat_heads").bugs[0].wrong)
    assert points_for("05.repeat_heads") == 0.0


def test_points_for_an_answer_that_fails_hidden_cases_only(attempts, capsys):
    attempts("05.repeat_heads", lambda kv, times: kv.repeat_interleave(times, dim=1) if times in (2, 3) else kv.flip(1))
    assert points_for("05.repeat_heads") == 1.0
    assert "wrong in others" in capsys.readouterr().out


def test_an_answer_that_calls_the_package_is_marked_and_may_cost_its_points(attempts, capsys):
    from mmo import fused

    attempts("05.rms_norm", lambda x, weight, eps: fused.rms_norm(x, weight, eps))
    assert points_for("05.rms_norm") == 2.0
    assert points_for("05.rms_norm", marked_points=0.0) == 0.0
    assert "LOOK: calls mmo.fused.rms_norm" in capsys.readouterr().out


def test_a_warning_while_an_answer_is_judged_stays_off_stderr(attempts, capsys):
    """nbgrader gives no points to a test that wrote there."""

    def warns(hidden, embedding):
        print("careful", file=sys.stderr)
        return int((embedding @ hidden[-1]).argmax())

    attempts("05.next_token", warns)
    assert points_for("05.next_token") == 2.0
    desk.check("05.next_token")
    written = capsys.readouterr()
    assert written.err == "" and "careful" in written.out


# --- The real nbgrader -------------------------------------------------------------------------------------------


def solved(number: str = "05"):
    """The solution as a student would hand it in: without hidden tests."""
    return marked_for_nbgrader(nbformat.read(Edition(ENTRIES[number], catalogue.REPOSITORY).solution, 4), ENTRIES[number].exercises)


def cell_of(notebook, grade_id: str):
    return next(cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("grade_id") == grade_id)


def header(notebook, grade_id: str) -> str:
    """Decorator and signature of an answer."""
    return cell_of(notebook, grade_id).source.split('"""')[0].rstrip() + "\n"


def partial(release):
    """Two right answers, one that is right in the visible cases only, one open, one wrong with a check that praises it, one of the package."""
    whole = solved()
    for id in ("05-rotate", "05-swiglu"):
        cell_of(release, id).source = cell_of(whole, id).source
    cell_of(release, "05-repeat_heads").source = header(whole, "05-repeat_heads") + "    return kv.repeat_interleave(times, dim=1) if times in (2, 3) else kv.flip(1)"
    cell_of(release, "05-seen").source = header(whole, "05-seen") + "    return torch.ones(new, cached + new, dtype=torch.bool)"
    cell_of(release, "05-seen-check").source = "3.0"
    cell_of(release, "05-seen-check").metadata.nbgrader["points"] = 100
    cell_of(release, "05-next_token").source = header(whole, "05-next_token") + "    return next_token_of_the_book(hidden, embedding)"
    return release


def broken():
    """A syntax error, a cell that stops, a check that is gone, a check that ends the notebook's good mood; the rest is right."""
    notebook = solved()
    cell_of(notebook, "05-rms_norm").source = header(notebook, "05-rms_norm") + "    return return"
    cell_of(notebook, "05-rotate").source = header(notebook, "05-rotate") + "    raise RuntimeError('I give up')"
    notebook.cells.remove(cell_of(notebook, "05-swiglu-check"))
    notebook.cells.insert(4, nbformat.v4.new_code_cell("1 / 0"))
    return notebook


WANTED = {  # by student: points of 05.rms_norm (2), rotate (3), repeat_heads (2), seen (3), swiglu (2), next_token (2)
    "full": [2, 3, 2, 3, 2, 2],
    "partial": [0, 3, 1, 0, 2, 0],
    "broken": [0, 0, 2, 3, 2, 2],
}


def nbgrader(folder: Path, step: str, name: str = NAME) -> subprocess.CompletedProcess:
    """One command of the real nbgrader, in the course's folder."""
    environment = {name: value for name, value in os.environ.items() if name not in ("MMO_RUNS", "MMO_STRICT")}
    environment |= {"PYTHONPATH": str(catalogue.REPOSITORY), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    # nbgrader calls alembic by its name, which lies beside this Python whether or not its environment is active.
    environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), environment.get("PATH", "")))
    return subprocess.run([sys.executable, "-m", "nbgrader", step, name], cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course of one notebook, handed out, handed in by three students, graded and commented."""
    folder = tmp_path_factory.mktemp("nbgrader") / "course"
    write_nbgrader_course(folder, ["05"])
    done = [nbgrader(folder, "generate_assignment")]
    assert done[0].returncode == 0, done[0].stderr
    release = nbformat.read(folder / "release" / NAME / f"{NAME}.ipynb", 4)
    for student, notebook in {"full": solved(), "partial": partial(release), "broken": broken()}.items():
        place = folder / "submitted" / student / NAME
        place.mkdir(parents=True)
        nbformat.write(notebook, place / f"{NAME}.ipynb")
    for step in ("autograde", "generate_feedback"):
        done.append(nbgrader(folder, step))
        assert done[-1].returncode == 0, done[-1].stderr
    return folder


@needs_nbgrader
@pytest.mark.notebook
def test_what_students_get_is_the_learners_edition_cell_by_cell(course):
    release, edition = nbformat.read(course / "release" / NAME / f"{NAME}.ipynb", 4), learners_edition("05")
    code = [cell for cell in release.cells if cell.cell_type == "code"]
    assert [cell.source for cell in code] == [cell.source for cell in edition.cells if cell.cell_type == "code"]
    assert {id: marks.points for id, marks in marks_in(release).items() if marks.grade} == {check_id(task.id): task.points for task in exercises_of("05")}
    text = json.dumps(release)
    assert "HIDDEN" not in text and "points_for" not in text and "BEGIN SOLUTION" not in text


@needs_nbgrader
@pytest.mark.notebook
@pytest.mark.parametrize("student", WANTED)
def test_nbgrader_gives_the_points(course, student):
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        submission = book.find_submission_notebook(NAME, NAME, student)
        found = {grade.name: grade.score for grade in submission.grades}
        assert not any(grade.needs_manual_grade for grade in submission.grades)
    assert [found[check_id(task.id)] for task in exercises_of("05")] == WANTED[student]


@needs_nbgrader
@pytest.mark.notebook
def test_a_submission_is_run_with_the_budget_smoke_and_notes_nothing_elsewhere(course):
    graded = nbformat.read(course / "autograded" / "full" / NAME / f"{NAME}.ipynb", 4)
    injected = [cell.source for cell in graded.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    assert injected and 'budget = "smoke"' in injected[0] and "unlink" not in injected[0], "who runs the copy again keeps their own progress"
    assert not [output for cell in graded.cells if cell.cell_type == "code" for output in cell.outputs if output.output_type == "error"]
    assert (course / "runs" / "progress.json").is_file()


@needs_nbgrader
def test_what_the_submission_before_predicted_is_forgotten(tmp_path, monkeypatch):
    """All are run in one folder, and a first prediction counts."""
    monkeypatch.setenv("MMO_RUNS", "of somebody")
    monkeypatch.delenv("MMO_STRICT", raising=False)
    (tmp_path / "nbgrader_config.py").write_text((Path(grading.__file__).parent / "nbgrader_config.py").read_text(encoding="utf-8"), encoding="utf-8")
    names = {"__file__": str(tmp_path / "nbgrader_config.py"), "get_config": lambda: MagicMock()}
    exec(compile((tmp_path / "nbgrader_config.py").read_text(encoding="utf-8"), "nbgrader_config.py", "exec"), names)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "progress.json").write_text("{}")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('budget = "full"', metadata={"tags": ["parameters"]})])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    names["SmokeBudget"]().preprocess(notebook, {})
    assert not (tmp_path / "runs" / "progress.json").exists()


@needs_nbgrader
@pytest.mark.notebook
def test_feedback_says_what_was_wrong(course):
    pages = {student: (course / "feedback" / student / NAME / f"{NAME}.html").read_text(encoding="utf-8") for student in WANTED}
    assert "05.rms_norm: 2 of 2 points. Right, in hidden cases too." in pages["full"]
    assert "Still open" in pages["partial"] and "wrong in others" in pages["partial"] and "Everything is seen, the future too." in pages["partial"]
    assert "I give up" in pages["broken"]


@needs_nbgrader
@pytest.mark.notebook
@pytest.mark.slow
def test_a_training_notebook_is_graded_too(tmp_path):
    """Notebook 10, which trains: run with the budget `smoke`, inside nbgrader's limit for a cell.  One answer is wrong; the rest is right."""
    from nbgrader.api import Gradebook

    folder, name = tmp_path / "course", "10_train_t2a"
    write_nbgrader_course(folder, ["10"])
    tasks, handed_in = exercises_of("10"), solved("10")
    wrong = solution_id(tasks[0].id)
    cell_of(handed_in, wrong).source = header(handed_in, wrong) + "    return None"
    place = folder / "submitted" / "ada" / name
    place.mkdir(parents=True)
    nbformat.write(handed_in, place / f"{name}.ipynb")
    for step in ("generate_assignment", "autograde", "generate_feedback"):
        started = time.monotonic()
        done = nbgrader(folder, step, name)
        print(f"{step}: {time.monotonic() - started:.0f} s")
        assert done.returncode == 0, done.stderr
    graded = nbformat.read(folder / "autograded" / "ada" / name / f"{name}.ipynb", 4)
    assert ['budget = "smoke"' in cell.source for cell in graded.cells if "injected-parameters" in cell.metadata.get("tags", [])] == [True]
    assert not [output for cell in graded.cells if cell.cell_type == "code" for output in cell.outputs if output.output_type == "error"]
    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}") as book:
        found = {grade.name: grade.score for grade in book.find_submission_notebook(name, name, "ada").grades}
    assert [found[check_id(task.id)] for task in tasks] == [0, *(task.points for task in tasks[1:])]
    page = (folder / "feedback" / "ada" / name / f"{name}.html").read_text(encoding="utf-8")
    assert "None: is there a `return`?" in page and "Right, in hidden cases too." in page
