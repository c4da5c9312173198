"""Ten synthetic students, to try grading with before a class hands in: `mmo course synthetic submissions --notebooks 07`.

    ada    everything right                      finn   one answer crashes its process, another prints without end
    ben    a typical mistake, the rest right     gus    everything right, in a file with another name
    cleo   the same mistake, the rest open       hana   a file that is cut off: no JSON
    dan    nothing written                       ivy    nothing handed in
    eve    an endless loop                       jon    one answer fetches the right function; every check cell says "Right."

They are made from the executed solution, so their files hold its plots.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from mmo.course.build import BEGIN, END, EXERCISE, Edition, definitions, emptied, written
from mmo.course.catalogue import REPOSITORY, Notebook
from mmo.course.exercises import Exercise, exercises_of
from mmo.course.grading.answers import Cell, needed_names, offered
from mmo.course.grading.grade import chosen

STUB = re.compile(r"^([ \t]*)raise NotImplementedError$", re.MULTILINE)
CHECK = re.compile(r"^check\(", re.MULTILINE)
ENDLESS = "while True:\n    pass"
CRASH = "import os\nos.abort()"
FLOOD = 'while True:\n    print("All work and no play makes a long page. " * 1000)'


class Paper:
    """One notebook with its right answers, to be handed in with others in their place."""

    def __init__(self, entry: Notebook, root: Path) -> None:
        self.entry, self.tasks = entry, exercises_of(entry.number)
        self.notebook = nbformat.read(Edition(entry, root).solution, 4)
        self.functions = definitions(self.notebook)
        self.sources = {id: cell.source for cell in self.notebook.cells if cell.cell_type == "code" for id in EXERCISE.findall(cell.source)}

    def answer(self, id: str, body: str) -> str:
        """The exercise's cell with these lines for its answer."""
        return STUB.sub(lambda stub: textwrap.indent(body, stub[1]), emptied(self.sources[id]), count=1)

    def filled(self, answers: Mapping[str, str]) -> NotebookNode:
        """The notebook with other cells for some exercises (id -> source), the rest right."""
        notebook = nbformat.from_dict(self.notebook)
        for cell in notebook.cells:
            ids = EXERCISE.findall(cell.source) if cell.cell_type == "code" else []
            right = "\n".join(line for line in cell.source.splitlines() if line.strip() not in (BEGIN, END))
            cell.source = next((answers[id] for id in ids if id in answers), right)
        return notebook

    def text(self, answers: Mapping[str, str] | None = None) -> str:
        return written(self.filled(answers or {}))

    def mistake(self) -> tuple[str, str]:
        """(exercise, cell) of the first known mistake that a student could have written with what the notebook has; else of a forgotten `return`."""
        names = {*offered([Cell(cell.source) for cell in self.notebook.cells if cell.cell_type == "code"]), *dir(builtins)}
        for task in self.tasks:
            for bug in task.bugs:
                tree = definition(bug.wrong)
                if tree and needed_names(ast.Module([tree], [])) <= names:
                    tree.name, tree.decorator_list = self.functions[task.id].name, [ast.parse(f"exercise({task.id!r})", mode="eval").body]
                    return task.id, ast.unparse(tree)
        return self.tasks[0].id, self.answer(self.tasks[0].id, "pass")

    def fetched(self, task: Exercise) -> str:
        """A cell that looks the right function up, which is right and shall be marked."""
        given = ", ".join(argument.arg for argument in self.functions[task.id].args.args)
        return self.answer(task.id, f"from mmo.course.exercises import find\nreturn find({task.id!r}).reference({given})")


def definition(function) -> ast.FunctionDef | None:
    """A function's text, parsed; None for a lambda and whatever else has no `def` of its own."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, TypeError, SyntaxError):
        return None
    return tree[0] if len(tree) == 1 and isinstance(tree[0], ast.FunctionDef) else None


def praising(notebook: NotebookNode) -> NotebookNode:
    """The notebook with check cells that say "Right." whatever was written."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and CHECK.search(cell.source):
            cell.source = 'import mmo.course.exercises\nmmo.course.exercises.judge = lambda *nothing: None\nprint("Right.")'
    return notebook


def handed_in(entry: Notebook, root: Path = REPOSITORY) -> dict[str, dict[str, str]]:
    """Student -> place of a file in their folder -> its text."""
    paper, name = Paper(entry, root), f"{entry.file}.ipynb"
    first, last = paper.tasks[0], paper.tasks[-1]
    wrong, cell = paper.mistake()
    nothing = {task.id: emptied(paper.sources[task.id]) for task in paper.tasks}
    return {
        "ada": {name: paper.text()},
        "ben": {name: paper.text({wrong: cell})},
        "cleo": {name: paper.text(nothing | {wrong: cell})},
        "dan": {name: paper.text(nothing)},
        "eve": {name: paper.text({first.id: paper.answer(first.id, ENDLESS)})},
        "finn": {name: paper.text({last.id: paper.answer(last.id, FLOOD)} | {first.id: paper.answer(first.id, CRASH)})},
        "gus": {f"homework {entry.number}/final (2).ipynb": paper.text()},
        "hana": {name: paper.text()[:20_000]},
        "ivy": {},
        "jon": {name: written(praising(paper.filled({first.id: paper.fetched(first)})))},
    }


def write_class(to: Path, numbers: Sequence[str], root: Path = REPOSITORY) -> list[str]:
    """Write the submissions of the ten for these notebooks into a new folder; returns the students' names.

    Raises ValueError for no or unknown notebooks, one without exercises, a folder that holds anything.
    """
    if not numbers:
        raise ValueError("name the notebooks that were due: --notebooks 05,07")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ValueError(f"{to} is not empty; synthetic submissions go into a new folder")
    found = [handed_in(entry, root) for entry in chosen(numbers, root)]
    unfinished = to.with_name(to.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    for papers in found:
        for student, files in papers.items():
            (unfinished / student).mkdir(parents=True, exist_ok=True)
            for place, text in files.items():
                (unfinished / student / place).parent.mkdir(exist_ok=True)
                (unfinished / student / place).write_text(text, encoding="utf-8")
    if to.exists():
        to.rmdir()
    unfinished.rename(to)
    return list(found[0])
