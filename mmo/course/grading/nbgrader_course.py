"""A course for nbgrader: `mmo course nbgrader DIR`.

    DIR/nbgrader_config.py
    DIR/README.md                                         the four commands
    DIR/source/07_sequence_and_delay/07_….ipynb           the solution, with nbgrader's marks and the hidden tests

`nbgrader generate_assignment` makes the students' version from it, `autograde` runs what came back, `generate_feedback` writes their pages.
The hidden tests stand between BEGIN and END HIDDEN TESTS in each check's cell; nbgrader takes them out for the students and puts them
back when it grades.
"""

from __future__ import annotations

import ast
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import nbformat
from nbformat import NotebookNode

from mmo.course.build import KERNEL, REGION, Edition, assembled, cell_ids, marked_for_nbgrader, plain_cell, written
from mmo.course.catalogue import REPOSITORY, Notebook, read_course
from mmo.course.exercises import exercises_of, refuse_unmatched
from mmo.course.grading.grade import chosen
from mmo.course.grading.variants.asked import Asked
from mmo.course.nbgrader import CHECK, EXERCISE
from mmo.course.release import asked_of, leads_outside, version_stamp, with_tasks, without_dead_links

HIDDEN_TESTS = """
### BEGIN HIDDEN TESTS
from mmo.course.grading.autograder import points_for

points_for({arguments})
### END HIDDEN TESTS"""
OF_A_VARIANT = """{indent}### BEGIN SOLUTION
{indent}from mmo.course.grading.variants import function_of

{indent}return function_of({id!r}, {name!r})({arguments})
{indent}### END SOLUTION"""
CONFIG = Path(__file__).with_name("nbgrader_config.py")
README = """# MiniMind-O by hand, for nbgrader: {stamp}

Made by `mmo course nbgrader`. Everything in `source/` holds solutions and hidden tests: it is yours alone.

    cd {folder}
    nbgrader generate_assignment {first}      # release/: what the students get
    # their files come back as submitted/STUDENT/{first}/{first}.ipynb
    nbgrader autograde {first}
    nbgrader generate_feedback {first}        # feedback/STUDENT/…: a page for each
    nbgrader export                                           # grades.csv

| assignment | exercises | points | runs in, a submission |
|---|---:|---:|---:|
{rows}

Run these where the whole course is installed (`pip install -e ".[class]"`): the hidden tests call `mmo.course.grading`, which no hand-out
holds. Students need the package without it: hand out `mmo course release --to FOLDER{variant}`.
"""


def write_nbgrader_course(to: Path, numbers: Sequence[str] = (), marked_points: float = 1.0, root: Path = REPOSITORY, variant: str | None = None) -> list[Notebook]:
    """Write a course of the notebooks with these numbers, or of all that have exercises, into `to`.

    marked_points: factor for an answer that calls the package's own function.  variant: what this class is asked, by name.  Raises ValueError for an unknown number, a notebook without
    exercises or a target that holds anything, FileNotFoundError where a solution is missing.  Nothing half-done is left.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ValueError(f"{to} is not empty; a course for nbgrader goes into a new folder")
    entries = chosen(numbers, root) if numbers else [entry for entry in read_course(root) if exercises_of(entry.number)]
    for entry in entries:
        refuse_unmatched(entry)
    asked = asked_of(entries, variant) if variant else {}
    texts = {entry.file: written(source(nbformat.read(Edition(entry, root).solution, 4), entry.exercises, marked_points, variant, asked)) for entry in entries}
    unfinished = to.with_name(to.name + ".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        for name, text in texts.items():
            folder = unfinished / "source" / name
            folder.mkdir(parents=True)
            (folder / f"{name}.ipynb").write_text(text, encoding="utf-8")
        (unfinished / CONFIG.name).write_text(config(variant), encoding="utf-8")
        (unfinished / "README.md").write_text(readme(entries, to, version_stamp(root), variant), encoding="utf-8")
        if to.exists():
            to.rmdir()
        unfinished.rename(to)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return entries


def source(
    solution: NotebookNode, points: Mapping[str, int], marked_points: float = 1.0, variant: str | None = None, asked: Mapping[str, Asked] = MappingProxyType({}),
) -> NotebookNode:  # fmt: skip
    """A solution as nbgrader wants it: marked with the exercises' points, without outputs, hidden tests in the cells of the checks; of a variant, its right functions called."""
    cells = [plain_cell(cell, cell.source, id) for cell, id in zip(solution.cells, cell_ids(solution.cells))]
    notebook = marked_for_nbgrader(assembled(cells, {"kernelspec": KERNEL, "language_info": {"name": "python"}}), points)
    for cell in notebook.cells:
        if cell.metadata.get("nbgrader", {}).get("grade"):
            cell.source += hidden_tests(CHECK.findall(cell.source)[0], marked_points, variant)
        for id in EXERCISE.findall(cell.source) if cell.cell_type == "code" else []:
            if id in asked:
                cell.source = REGION.sub(lambda region: OF_A_VARIANT.format(indent=region[1], name=variant, id=id, arguments=arguments_of(cell.source)), cell.source)
    with_tasks(notebook, asked)
    without_dead_links(notebook, leads_outside)  # each assignment lies in a folder of its own
    return notebook


def hidden_tests(id: str, marked_points: float = 1.0, variant: str | None = None) -> str:
    """The lines for one exercise; its points are the value of the cell."""
    arguments = [f'"{id}"', *([f"marked_points={marked_points:g}"] if marked_points != 1 else []), *([f"variant={variant!r}"] if variant else [])]
    return HIDDEN_TESTS.format(arguments=", ".join(arguments))


def arguments_of(source: str) -> str:
    """The names of the parameters of the function in a cell: "codes, pad, stop"."""
    function = next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
    return ", ".join(each.arg for each in function.args.args)


def config(variant: str | None) -> str:
    """nbgrader_config.py of a class."""
    return CONFIG.read_text(encoding="utf-8").replace("\nVARIANT = None", f"\nVARIANT = {variant!r}")


def readme(entries: Sequence[Notebook], folder: Path, stamp: str, variant: str | None = None) -> str:
    rows = [
        f"| {each.file} | {len(each.exercises)} | {each.points} | {f'{seconds} s' if (seconds := each.seconds.get('tiny')) else ''} |" for each in entries
    ]
    named = f" --variant {shlex.quote(variant)}" if variant else ""
    return README.format(variant=named, stamp=stamp, folder=folder.name, first=entries[0].file, rows="\n".join(rows))
