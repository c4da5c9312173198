"""Every notebook runs from the first cell to the last on the shipped tiny world, within its time, as a learner would run it."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest

from mmo.course.catalogue import read_course
from mmo.weekend import NOTEBOOKS, Watch, run_notebook

REPOSITORY = Path(__file__).resolve().parents[1]
SOLUTIONS = REPOSITORY / "solutions"
COURSE = [entry.file for entry in read_course()]
TAUGHT = [name for name in COURSE if f"{name}.ipynb" not in NOTEBOOKS.values()]  # in any order, side by side
LIMIT = 900.0  # seconds a notebook may take here, on a slow and busy machine


def in_a_group(folder: str, name: str):
    """A case that may run beside any other."""
    return pytest.param(folder, name, marks=pytest.mark.xdist_group(f"{folder}-{name}"), id=f"{folder}-{name}")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """One folder for all notebooks: each goes on from the weights of the one before."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.notebook
@pytest.mark.parametrize("folder", ["solutions", "notebooks"])
@pytest.mark.parametrize("stage", list(NOTEBOOKS))
def test_runs_to_its_end_and_sounds(stage: str, folder: str, runs: Path, monkeypatch) -> None:
    """Smoke budget, one after the other: every cell runs; there is a sound to listen to and a picture to look at."""
    from rich.console import Console

    monkeypatch.setenv("MMO_RUNS", str(runs / folder))
    monkeypatch.setenv("MMO_CACHE", str(runs / "cache"))  # features are the same for both editions
    monkeypatch.setenv("MMO_STRICT", "1" if folder == "solutions" else "0")
    copy = runs / folder / NOTEBOOKS[stage]
    run_notebook(REPOSITORY / folder / copy.name, copy, {"profile": "tiny", "budget": "smoke"}, Watch(Console(quiet=True)), LIMIT)
    outputs = [output for cell in nbformat.read(copy, 4).cells if cell.cell_type == "code" for output in cell.outputs]
    shown = [output.data for output in outputs if output.output_type == "display_data"]
    assert any("<audio" in data.get("text/html", "") for data in shown), f"{copy.name}: nothing to listen to"
    assert any("image/png" in data for data in shown), f"{copy.name}: nothing to look at"


@pytest.mark.notebook
@pytest.mark.parametrize(("folder", "name"), [in_a_group(folder, name) for name in TAUGHT for folder in ("solutions", "notebooks")])
def test_runs_solved_and_unsolved(folder: str, name: str, runs: Path, monkeypatch) -> None:
    """The solution strictly; the learner's edition as it is handed out, with every exercise open: nothing blocks."""
    from rich.console import Console

    monkeypatch.setenv("MMO_RUNS", str(runs))
    monkeypatch.setenv("MMO_STRICT", "1" if folder == "solutions" else "0")
    copy = runs / folder / f"{name}.ipynb"
    run_notebook(REPOSITORY / folder / copy.name, copy, {"profile": "tiny", "budget": "smoke"}, Watch(Console(quiet=True)), LIMIT)
    cells = [cell for cell in nbformat.read(copy, 4).cells if cell.cell_type == "code"]
    shown = [output.data for cell in cells for output in cell.outputs if output.output_type in ("display_data", "execute_result")]
    assert any("image/png" in data for data in shown), f"{copy.name}: nothing to look at"
    verdicts = [data["text/plain"] for cell, data in zip(cells, map(result, cells)) if cell.source.startswith("check(") and data]
    wanted = "Right." if folder == "solutions" else "Still open."
    assert verdicts and all(wanted in verdict for verdict in verdicts)


def result(cell) -> dict | None:
    """The value a cell shows, if any."""
    return next((output.data for output in cell.outputs if output.output_type == "execute_result"), None)


@pytest.mark.parametrize("name", COURSE)
def test_is_its_text_form(name: str) -> None:
    """`NAME.ipynb` holds the cells of `NAME.py`, which is what people edit: `jupytext --to ipynb solutions/NAME.py`."""
    import jupytext

    text, notebook = jupytext.read(SOLUTIONS / f"{name}.py"), nbformat.read(SOLUTIONS / f"{name}.ipynb", 4)
    wanted = [(cell.cell_type, cell.source) for cell in text.cells]
    assert wanted == [(cell.cell_type, cell.source) for cell in notebook.cells], f"{name}.ipynb and {name}.py differ"


def calls(name: str, function: str) -> dict[str, ast.Call]:
    """The calls of `predict` or `reveal` in a solution, by the prediction's id."""
    tree = ast.parse((SOLUTIONS / f"{name}.py").read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == function]
    return {node.args[0].value: node for node in found}


@pytest.mark.parametrize("name", COURSE)
def test_every_prediction_is_answered(name: str) -> None:
    """Each `predict` has a `reveal` behind it, and no `reveal` is without a prediction."""
    asked, answered = calls(name, "predict"), calls(name, "reveal")
    assert asked.keys() == answered.keys()
    early = [each for each in asked if answered[each].lineno < asked[each].lineno]
    assert not early, f"{name}: told before it is asked: {early}"


@pytest.mark.parametrize("name", COURSE)
def test_the_answer_to_a_prediction_is_computed(name: str) -> None:
    """The truth comes out of the cell: no number or word that somebody wrote down once."""
    written_down = [id for id, call in calls(name, "reveal").items() if not any(isinstance(node, ast.Name) for node in ast.walk(call.args[1]))]
    assert not written_down, f"{name}: {written_down}"
