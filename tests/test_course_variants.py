"""Variants: a class is asked for something else than the package does; checks and grader know it, and nothing to copy is handed out."""

from __future__ import annotations

import ast
import html
import json
from dataclasses import replace
from importlib.util import find_spec
from unittest.mock import MagicMock

import nbformat
import pytest
import torch
from hand_out import said_in
from typer.testing import CliRunner

from mmo.cli import app
from mmo.course import build, catalogue, desk
from mmo.course.exercises import VARIED, difference, exercises_of, find, judge, standard
from mmo.course.grading.autograder import points_for
from mmo.course.grading.grade import Rules, grade
from mmo.course.grading.hidden import hidden_cases
from mmo.course.grading.nbgrader_course import config, source, write_nbgrader_course
from mmo.course.grading.variants import asked_in, function_of, tasks_of, use, using
from mmo.course.grading.variants.asked import chosen, families, varied
from mmo.course.release import asked_of, release
from mmo.course.variant import Recorded, decoded, encoded, use_handed_out, write_variant

ENTRIES = {entry.number: entry for entry in catalogue.read_course()}
OPTIONS = [(family.name, option, id) for family in families() for option, asked in family.options.items() for id in asked]
ASKED = {(family.name, option, id): asked for family in families() for option, tasks in family.options.items() for id, asked in tasks.items()}
NAME = "autumn-26"


@pytest.fixture(autouse=True)
def plain_course(monkeypatch, tmp_path):
    monkeypatch.setattr(desk, "ATTEMPTS", {})
    monkeypatch.setenv("MMO_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("MMO_STRICT", raising=False)
    yield
    VARIED.clear()


def undrawn(task):
    """Without its picture: drawing takes longer than judging."""
    return replace(task, picture=None)


# --- What a variant asks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family, option, id", OPTIONS)
def test_a_task_has_one_right_answer_which_is_neither_the_packages_nor_another_classs(family, option, id):
    asked = ASKED[family, option, id]
    task = undrawn(varied(standard(id), asked, "x"))
    assert judge(task, asked.function).passed
    own = judge(task, standard(id).reference)
    assert own.kind == "wrong" and "Your class is asked for something else" in own.words
    others = [each for key, each in ASKED.items() if key[2] == id and each is not asked]
    assert others, "a family has at least two options"
    for other in others:
        assert judge(task, other.function).kind == "wrong"


@pytest.mark.parametrize("family, option, id", OPTIONS)
def test_hidden_cases_fit_too(family, option, id):
    asked = ASKED[family, option, id]
    cases = tuple(asked.hidden()) if asked.hidden else hidden_cases(id)
    wanted, own = [[function(*case.arguments) for case in cases] for function in (asked.function, standard(id).reference)]
    assert cases and difference(wanted, own, 1e-5), "at least one hidden case tells it from the package's"


def test_other_delays_are_undone_by_their_own_way_back():
    codes = torch.arange(20).view(4, 5)
    for option in ("twice", "thrice", "behind", "pairs"):
        there, back = ASKED["delay", option, "07.delay"].function, ASKED["delay", option, "07.undelay"].function
        delayed = there(codes, 99, 98)
        assert torch.equal(back(delayed, 98), codes)
        assert (delayed[-1, -1] == 98) and bool((delayed == 98).sum() == 4)
    assert ASKED["delay", "pairs", "07.delay"].function(codes, 99, 98).tolist()[2] == [99, 10, 11, 12, 13, 14, 98]


def test_groups_are_what_they_are_called():
    kv = torch.arange(3.0).view(1, 3, 1, 1)
    assert ASKED["groups", "round robin", "05.repeat_heads"].function(kv, 2).flatten().tolist() == [0, 1, 2, 0, 1, 2]
    assert ASKED["groups", "last first", "05.repeat_heads"].function(kv, 2).flatten().tolist() == [2, 2, 1, 1, 0, 0]
    assert ASKED["groups", "half as many", "05.repeat_heads"].function(kv, 2).flatten().tolist() == [0.5] * 4 + [2, 2]
    assert ASKED["groups", "one group", "05.repeat_heads"].function(kv, 2).flatten().tolist() == [1] * 6
    assert ASKED["mask", "window and first", "05.seen"].function(2, 2).tolist() == [[True, True, True, False], [True, False, True, True]]


@pytest.mark.parametrize("option, count", [("three", 3), ("five", 5), ("six", 6)])
def test_another_number_of_codebooks_is_the_same_in_every_exercise(option, count):
    x, codebooks = torch.randn(4, 3), torch.randn(8, 5, 3)
    residual, add, heads = (ASKED["codebooks", option, id].function for id in ("01.residual", "01.sum", "08.heads"))
    codes = residual(x, codebooks)
    assert torch.equal(codes, standard("01.residual").reference(x, codebooks)[:count]), "coarse to fine: the first are what they were"
    assert torch.equal(add(standard("01.residual").reference(x, codebooks), codebooks), standard("01.sum").reference(codes, codebooks))
    weights = torch.randn(2, 3, 4), torch.randn(12, 4), torch.randn(8, 2, 4), torch.randn(8, 12, 2)
    assert heads(*weights).shape == (2, 3, count, 12)
    assert residual(x, codebooks[:2]).shape == (2, 4), "fewer than that are all used"


# --- Names -------------------------------------------------------------------------------------------------------


def test_a_name_always_asks_the_same_and_the_next_number_asks_nothing_the_same():
    assert chosen(NAME) == chosen(NAME)
    for name, before in (("autumn-26", "autumn-25"), ("8", "7"), ("class 1", "class 0")):
        assert all(chosen(name)[family] != option for family, option in chosen(before).items())
    assert len({tuple(chosen(name).values()) for name in ("spring", "summer", "autumn", "winter")}) > 1
    assert tasks_of("none") == {}
    for bad in ("", "  ", "a\nb"):
        with pytest.raises(ValueError, match="needs a name"):
            tasks_of(bad)


def test_the_command_shows_what_is_asked_and_what_is_as_last_year():
    found = CliRunner().invoke(app, ["course", "variant", NAME, "--unlike", "autumn-25"])
    assert found.exit_code == 0 and f"0 of {len(tasks_of(NAME))} as in autumn-25" in found.output
    again = CliRunner().invoke(app, ["course", "variant", NAME, "--unlike", NAME])
    assert f"AS IN {NAME}" in again.output and "another name may do better" in again.output


def test_the_command_says_that_none_asks_nothing():
    found = CliRunner().invoke(app, ["course", "variant", "none"])
    assert found.exit_code == 0 and "'none' stands for the course as it is: nothing else is asked" in found.output


def test_using_a_variant_ends():
    with using(NAME):
        assert find("07.delay").variant == NAME and exercises_of("07")[0].variant == NAME
        assert standard("07.delay").variant == ""
    assert not VARIED and find("07.delay") is standard("07.delay")


# --- The hand-out ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def handed_out(tmp_path_factory):
    return release(tmp_path_factory.mktemp("release") / "class", ["05", "07"], variant=NAME)


def test_a_notebook_says_what_is_asked_where_it_is_asked(handed_out):
    assert handed_out.varied == tuple(id for id in ("05.rms_norm", "05.rotate", "05.repeat_heads", "05.seen", "05.swiglu", "07.delay", "07.undelay", "07.labels", "07.padding"))
    notebook = nbformat.read(handed_out.folder / "notebooks" / "07_sequence_and_delay.ipynb", 4)
    nbformat.validate(notebook)
    assert notebook.metadata["mmo"]["variant"] == NAME
    for number, cell in enumerate(notebook.cells):
        for id in build.EXERCISE.findall(cell.source) if cell.cell_type == "code" else []:
            assert tasks_of(NAME)[id].task in notebook.cells[number - 1].source
            stub = next(node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.FunctionDef))
            assert ast.get_docstring(stub) == tasks_of(NAME)[id].docstring
    assert "In your class" in (handed_out.folder / "README.md").read_text(encoding="utf-8")
    assert json.loads((handed_out.folder / "RELEASE.json").read_text(encoding="utf-8"))["variant"] == NAME


def test_results_are_handed_out_and_no_way_to_compute_them(handed_out, tmp_path):
    names = [path.relative_to(handed_out.folder).as_posix() for path in handed_out.folder.rglob("*")]
    assert "variant.json" in names and not [name for name in names if "grading" in name]
    use_handed_out(handed_out.folder / "variant.json")
    assert {id for id in VARIED} == set(handed_out.varied)
    for id, task in VARIED.items():
        assert isinstance(task.reference, Recorded)
        assert judge(undrawn(task), function_of(id, NAME)).passed
        verdict = judge(undrawn(task), standard(id).reference)
        assert verdict.kind == "wrong" and "Your class is asked for something else" in verdict.words
    with pytest.raises(LookupError, match="only the results of the notebook's cases"):
        VARIED["07.delay"].reference(torch.arange(6).view(2, 3), 9, 8)


def test_checks_in_the_hand_out_know_the_variant_and_the_notebook_goes_on_with_the_packages_own(handed_out):
    """In a process that has only the hand-out's package."""
    code = (
        "import torch\nfrom mmo.course import check, exercise\nfrom mmo import sequence\n"
        "@exercise('07.delay')\ndef delay(codes, pad, stop): return sequence.delay(codes, pad, stop)\n"
        "print(check('07.delay'))\n"
        "codes = torch.arange(6).view(2, 3)\n"
        "assert torch.equal(delay(codes, 9, 8), sequence.delay(codes, 9, 8))\n"
        "@exercise('07.delay')\ndef delay(codes, pad, stop):\n"
        "    Q, F = codes.shape\n    W = [WAITS]\n    out = torch.full((Q, F + 1 + W[Q - 1]), pad)\n"
        "    for k in range(Q): out[k, W[k]:W[k] + F + 1] = torch.cat((codes[k], torch.tensor([stop])))\n    return out\n"
        "print(check('07.delay'))\n"
        "assert torch.equal(delay(codes, 9, 8), sequence.delay(codes, 9, 8))\n"
    )
    waits = {"twice": lambda k: 2 * k, "thrice": lambda k: 3 * k, "behind": lambda k: 2 * min(k, 1), "pairs": lambda k: k // 2}[chosen(NAME)["delay"]]
    code = code.replace("WAITS", ", ".join(str(waits(k)) for k in range(8)))
    said = said_in(handed_out.folder, code)
    assert "Not yet. That is what mmo.sequence.delay does. Your class is asked for something else" in said
    assert "Right. It does what your class is asked for. 3 points." in said
    assert "asks your class for something else than the notebook goes on with" in said


def test_a_release_that_could_not_vary_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no exercise of notebooks 10 varies; those that do: 01.nearest"):
        release(tmp_path / "out", ["10"], variant=NAME)
    with pytest.raises(ValueError, match="stands for no variant"):
        release(tmp_path / "out", ["07"], variant="none")
    assert not list(tmp_path.iterdir())


def test_a_broken_file_is_said(tmp_path):
    said = []
    (tmp_path / "variant.json").write_text('{"variant": "x", "exercises": {"07.delay": 3}}')
    use_handed_out(tmp_path / "variant.json", said.append)
    assert not VARIED and "cannot be read" in said[0]
    use_handed_out(tmp_path / "absent.json", said.append)
    assert len(said) == 1


def test_values_of_cases_come_back_bit_for_bit():
    drawn = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    values = (drawn, drawn.half(), torch.zeros(8, 0, dtype=torch.int64), torch.tensor([float("inf"), float("nan")]), torch.tensor(True), [1, (2, None)], 0.1, "x")
    again = decoded(json.loads(json.dumps(encoded(values))))
    assert difference(values, again, 0.0) is None
    assert again[2].shape == (8, 0) and again[1].dtype == torch.float16 and isinstance(again[5][1], tuple)
    with pytest.raises(TypeError, match="function"):
        encoded(lambda: 1)


# --- The grader --------------------------------------------------------------------------------------------------


def submission(variant: str | None, bodies: dict[str, str], stamped: str | None = None) -> dict:
    """The learner's notebook 07 with answers."""
    notebook = json.loads((catalogue.REPOSITORY / "notebooks" / "07_sequence_and_delay.ipynb").read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        for id, body in bodies.items():
            if f'@exercise("{id}")' in text:
                cell["source"] = text.replace("raise NotImplementedError", body)
    if stamped:
        notebook["metadata"]["mmo"] = {"release": "0.1.0", "variant": stamped}
    return notebook


def padded(step: str) -> str:
    """A right answer to 07.padding of one class."""
    size = {"four": 4, "five": 5, "six": 6}[step]
    return (
        f"batches = [[]]\n    for length in sorted(-(-n // {size}) * {size} for n in lengths):\n"
        "        if batches[-1] and (len(batches[-1]) + 1) * length > budget:\n            batches.append([])\n"
        "        batches[-1].append(length)\n    return sum(len(batch) * batch[-1] for batch in batches)"
    )


def test_the_grader_knows_the_variant_and_last_years_answers_fail(tmp_path):
    this, last = chosen(NAME)["step"], chosen("autumn-25")["step"]
    students = {
        "ada": submission(NAME, {"07.padding": padded(this)}, NAME),
        "bob": submission(NAME, {"07.padding": padded(last), "07.delay": "return sequence.delay(codes, pad, stop)"}, "autumn-25"),
    }
    for name, notebook in students.items():
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "07_sequence_and_delay.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    with pytest.raises(ValueError, match="--variant"):
        grade(tmp_path / "in", tmp_path / "out")
    found = {(each.student, each.exercise): each for each in grade(tmp_path / "in", tmp_path / "out", rules=Rules(variant=NAME))}
    assert (found["ada", "07.padding"].points, found["ada", "07.padding"].kind) == (2, "right")
    assert found["bob", "07.padding"].points == 0 and "what another class was asked" in found["bob", "07.padding"].reason
    assert found["bob", "07.delay"].points == 0 and "Your class is asked for something else" in found["bob", "07.delay"].reason
    assert any("mmo.sequence.delay" in mark for mark in found["bob", "07.delay"].marks)
    assert f"the file is of the variant 'autumn-25', graded by '{NAME}'" in html.unescape((tmp_path / "out" / "students" / "bob.html").read_text(encoding="utf-8"))
    plain = {(each.student, each.exercise): each for each in grade(tmp_path / "in", tmp_path / "out", rules=Rules(variant="none"))}
    assert plain["ada", "07.padding"].kind == "wrong" and plain["bob", "07.delay"].points == 3
    assert not VARIED


def test_nbgraders_sources_and_points_know_the_variant():
    asked = asked_of([ENTRIES["07"]], NAME)
    made = source(nbformat.read(build.Edition(ENTRIES["07"], catalogue.REPOSITORY).solution, 4), ENTRIES["07"].exercises, 1.0, NAME, asked)
    cells = {cell.metadata.nbgrader.grade_id: cell.source for cell in made.cells if "nbgrader" in cell.metadata}
    assert f'points_for("07.undelay", variant={NAME!r})' in cells["07-undelay-check"]
    names = {"exercise": desk.exercise, "Tensor": torch.Tensor}
    exec(cells["07-undelay"], names)
    assert points_for("07.undelay", variant=NAME) == 3
    use(None)
    desk.exercise("07.undelay")(standard("07.undelay").reference)
    assert points_for("07.undelay", variant=NAME) == 0
    assert asked_in(NAME)["07.undelay"].reference is function_of("07.undelay", NAME)


def test_nbgraders_course_says_how_to_hand_the_variant_out(tmp_path):
    write_nbgrader_course(tmp_path / "course", ["07"], variant=NAME)
    assert f"`mmo course release --to FOLDER --variant {NAME}`" in (tmp_path / "course" / "README.md").read_text(encoding="utf-8")
    assert f"VARIANT = {NAME!r}  #" in (tmp_path / "course" / "nbgrader_config.py").read_text(encoding="utf-8")


@pytest.mark.skipif(find_spec("nbgrader") is None, reason="nbgrader is not installed")
@pytest.mark.parametrize("variant", [NAME, None])
def test_the_first_check_in_nbgrader_says_what_the_points_say(variant):
    """A submission as nbgrader runs it: its configuration chooses the variant before any check."""
    names = {"get_config": MagicMock(), "__file__": __file__}
    exec(config(variant), names)
    cells = [nbformat.v4.new_code_cell('budget = "full"', metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell('said = check("07.padding")')]
    shortened, _ = names["SmokeBudget"]().preprocess(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": build.KERNEL, "language_info": {"name": "python"}}), {})
    desk.exercise("07.padding")(standard("07.padding").reference)
    run = {"check": desk.check}
    for cell in shortened.cells:
        exec(cell.source, run)
    assert run["budget"] == "smoke"
    assert run["said"].passed == (points_for("07.padding", variant=variant) == 2) == (variant is None)
