"""Both editions of every notebook, from their text form.

    solutions/NN_name.py       what people edit (jupytext, py:percent)
    solutions/NN_name.ipynb    the same cells, with the outputs of their last execution
    notebooks/NN_name.ipynb    the learner's: what stands between BEGIN and END SOLUTION is left out, no outputs

`build` writes them, and what else is made from course.yml: README's table, the line under each title, the line under
each exercise's heading.  The same source gives the same bytes, so `problems` (`mmo course build --check`) can compare.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from mmo.course import teaching
from mmo.course.badge import badge_cells
from mmo.course.catalogue import REPOSITORY, Notebook, read_course, repository_address, with_table
from mmo.course.exercises import Exercise, exercises_of, find, points_in, refuse_unmatched, worth
from mmo.course.links import broken_links
from mmo.course.nbgrader import CHECK, EXERCISE, cell_marks
from mmo.profiles import runs_root
from mmo.settled import settle

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
REGION = re.compile(rf"^([ \t]*){BEGIN}[ \t]*\n(.*?)^[ \t]*{END}[ \t]*$", re.MULTILINE | re.DOTALL)
EXERCISE_LINE = re.compile(r"^(# )?\*Exercise ([\w.]+).*$", re.MULTILINE)
REWARD = re.compile(r"\b\d+ points?\.")  # in the verdict on a right answer
TAKES_LINE = re.compile(r"^(# )?\*Takes\b.*$", re.MULTILINE)
CELL_SECONDS = 3600
LARGEST = 1_500_000  # bytes of an executed notebook
LEAK = 30  # characters: a line of a solution at least so long may not stand in the learner's edition
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


class BuildError(ValueError):
    """A source cannot be built; the message names file and cell."""


# --- Reading -----------------------------------------------------------------------------------------------------


def read_text(path: Path) -> NotebookNode:
    """The cells of a text form.  Raises BuildError where jupytext is not installed."""
    try:
        import jupytext
    except ModuleNotFoundError:
        raise BuildError("jupytext is missing; it comes with the extra `test`: pip install -e '.[test]'") from None
    return jupytext.read(path)


def with_lines(source: str, entry: Notebook) -> str:
    """A text form with its generated lines renewed.  Raises BuildError where the line of minutes and seconds is missing, ValueError for an exercise without points."""
    if not TAKES_LINE.search(source):
        raise BuildError(f"{entry.file}: there is no line that begins with *Takes: write one under the title, its words are filled in from course.yml")
    source = TAKES_LINE.sub(lambda found: (found[1] or "") + entry.line(), source)
    return EXERCISE_LINE.sub(lambda found: (found[1] or "") + find(found[2]).line(points_in(entry.exercises, found[2])), source)


def emptied(source: str) -> str:
    """A cell without its solutions.  Raises BuildError where a marker has no partner."""
    source = REGION.sub(lambda found: f"{found[1]}raise NotImplementedError", source)
    if BEGIN in source or END in source:
        raise BuildError(f"{BEGIN} or {END} without its partner in: {source[:60]!r}")
    return source


def regions(source: str) -> list[str]:
    """What stands between the markers."""
    return [found[2] for found in REGION.finditer(source)]


# --- Writing -----------------------------------------------------------------------------------------------------


def cell_ids(cells: list[NotebookNode]) -> Iterator[str]:
    """An id for each cell that follows from its text alone; the same text twice gets two."""
    seen: dict[str, int] = {}
    for cell in cells:
        text = f"{cell.cell_type}\n{cell.source}"
        seen[text] = seen.get(text, 0) + 1
        yield hashlib.sha256(f"{text}\n{seen[text]}".encode()).hexdigest()[:8]


def assembled(cells: list[NotebookNode], metadata: dict) -> NotebookNode:
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=metadata)
    notebook.nbformat_minor = 5
    return notebook


def plain_cell(cell: NotebookNode, source: str, id: str) -> NotebookNode:
    """A cell without outputs; of its metadata the tags stay, and what it is among slides."""
    make = nbformat.v4.new_code_cell if cell.cell_type == "code" else nbformat.v4.new_markdown_cell
    metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
    if kind := cell.metadata.get("slideshow", {}).get("slide_type"):
        metadata["slideshow"] = {"slide_type": kind}
    return make(source, id=id, metadata=metadata)


def learners(text: NotebookNode, points: Mapping[str, int], badge: tuple[str, str] | None = None) -> NotebookNode:
    """The learner's edition of a text form, marked for nbgrader with the exercises' points.  badge: two cells below the title, for Colab and Binder."""
    ids = cell_ids(text.cells)
    cells = [plain_cell(cell, emptied(cell.source) if cell.cell_type == "code" else cell.source, id) for cell, id in zip(text.cells, ids)]
    if badge:
        new = nbformat.v4.new_markdown_cell(badge[0], id="colab-badge"), nbformat.v4.new_code_cell(badge[1], id="colab-setup", metadata={"tags": ["colab"]})
        cells[1:1] = new
    return marked_for_nbgrader(assembled(cells, {"kernelspec": KERNEL, "language_info": {"name": "python"}}), points)


def marked_for_nbgrader(notebook: NotebookNode, points: Mapping[str, int]) -> NotebookNode:
    """The notebook, its answers and checks marked in place.  points: exercise id -> points.  Raises BuildError for a cell that cannot be marked."""
    for cell in notebook.cells:
        try:
            marks = cell_marks(cell.source, points) if cell.cell_type == "code" else None
        except ValueError as error:
            raise BuildError(str(error)) from None
        if marks:
            cell.metadata["nbgrader"] = marks
    return notebook


def with_rewards(cell: NotebookNode, points: Mapping[str, int]) -> None:
    """Let a kept verdict name the points that its exercise has now, in place."""
    for id in CHECK.findall(cell.source):
        for output in cell.outputs:
            for kind in {"text/plain", "text/html"} & set(output.get("data", {})):
                output.data[kind] = REWARD.sub(f"{worth(points_in(points, id))}.", output.data[kind])


def solved(text: NotebookNode, before: NotebookNode | None, points: Mapping[str, int]) -> NotebookNode:
    """The solution's notebook; outputs of an earlier execution stay if no code has changed since, what was live in them as words, rewards as `points` say.

    The earlier one may be papermill's copy: the cell that it injected is left out.
    """
    if before and before.metadata.get("widgets"):
        before = settle(before)
    cells = [plain_cell(cell, cell.source, id) for cell, id in zip(text.cells, cell_ids(text.cells))]
    code = [cell for cell in cells if cell.cell_type == "code"]
    old = [cell for cell in before.cells if cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", [])] if before else []
    if [cell.source for cell in code] == [cell.source for cell in old]:
        injected = before is not None and len(old) < sum(cell.cell_type == "code" for cell in before.cells)
        for number, (cell, earlier) in enumerate(zip(code, old), 1):
            cell.outputs, cell.execution_count = earlier.outputs, number if injected and earlier.execution_count else earlier.execution_count
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = cell.execution_count
            with_rewards(cell, points)
    jupytext_about = {"formats": "ipynb,py:percent"}
    return assembled(cells, {"jupytext": jupytext_about, "kernelspec": KERNEL, "language_info": {"name": "python"}})


def written(notebook: NotebookNode) -> str:
    """The bytes of a notebook file, always in the same order."""
    return nbformat.writes(notebook, version=4).rstrip("\n") + "\n"


@dataclass(frozen=True)
class Edition:
    """The files of one notebook."""

    entry: Notebook
    root: Path

    @property
    def text(self) -> Path:
        return self.root / "solutions" / f"{self.entry.file}.py"

    @property
    def solution(self) -> Path:
        return self.root / "solutions" / f"{self.entry.file}.ipynb"

    @property
    def learner(self) -> Path:
        return self.root / "notebooks" / f"{self.entry.file}.ipynb"


def contents(edition: Edition) -> dict[Path, str]:
    """What the notebook files should hold, given the text form as it is.  Raises BuildError."""
    if not edition.text.is_file():
        raise BuildError(f"course.yml lists {edition.entry.file}, but there is no {edition.text}")
    text = read_text(edition.text)
    before = nbformat.read(edition.solution, 4) if edition.solution.is_file() else None
    try:
        refuse_unmatched(edition.entry)
        badge = badge_cells(repository_address(edition.root), edition.entry.file)
        return {edition.solution: written(solved(text, before, edition.entry.exercises)), edition.learner: written(learners(text, edition.entry.exercises, badge))}
    except ValueError as error:
        raise BuildError(f"{edition.text.name}, or course.yml: {error}") from None


def build(root: Path = REPOSITORY) -> list[Path]:
    """Write everything that is generated; returns the files that changed.  Raises BuildError.

    A learner's notebook with outputs is somebody's work: it is kept under runs/kept before it is replaced.
    """
    course, changed = read_course(root), []
    wanted: dict[Path, str] = {root / "README.md": with_table((root / "README.md").read_text(encoding="utf-8"), course)}
    for entry in course:
        edition = Edition(entry, root)
        refuse_unmatched(entry)
        if edition.text.is_file():
            put(edition.text, with_lines(edition.text.read_text(encoding="utf-8"), entry), changed)
        wanted |= contents(edition)
    wanted |= teaching.contents(root)
    for path, text in wanted.items():
        put(path, text, changed)
    return changed


def put(path: Path, text: str, changed: list[Path]) -> None:
    """Write a file if it differs."""
    before = path.read_bytes() if path.is_file() else None
    if before is not None and before.replace(b"\r\n", b"\n") == text.encode():
        return
    if before and path.parent.name == "notebooks" and path.suffix == ".ipynb":
        keep_work(path, before)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    changed.append(path)


def keep_work(path: Path, before: bytes, always: bool = False) -> Path | None:
    """Lay a worked-on learner's notebook aside, byte for byte; returns where, None where nothing was worked on.  always: also where nothing shows it."""
    try:
        worked_on = any(was_worked_on(cell) for cell in nbformat.reads(before.decode(), 4).cells)
    except Exception:
        worked_on = True  # what no editor can read was whole once
    if not always and not worked_on:
        return None
    digest = hashlib.sha256(before).hexdigest()[:8]
    aside = runs_root() / "kept" / f"{path.stem}-{digest}.ipynb"
    aside.parent.mkdir(parents=True, exist_ok=True)
    aside.write_bytes(before)
    print(f"{path.name} was worked in; as it was it is kept in {aside}")
    return aside


STUB = re.compile(r"^[ \t]*raise NotImplementedError$", re.MULTILINE)  # as a line of its own: in a comment it is somebody's note


def was_worked_on(cell: NotebookNode) -> bool:
    """Whether a cell of a learner's notebook was run, or an answer was typed into it."""
    typed = "@exercise(" in cell.source and not STUB.search(cell.source)
    return bool(cell.get("outputs") or cell.get("execution_count")) or cell.cell_type == "code" and typed


def restore(number: str, root: Path = REPOSITORY) -> Path:
    """Make one learner's notebook as it was handed out; one that differs is kept aside.

    Raises ValueError for no such number, and in a hand-out, which has nothing to make it from.
    """
    for entry in read_course(root):
        if entry.number == number:
            edition = Edition(entry, root)
            if not edition.text.is_file():
                raise ValueError(f"there is no {edition.text.name} here to make it from: this is a hand-out. Copy the notebook from the hand-out as you got it")
            wanted = contents(edition)[edition.learner]
            before = edition.learner.read_bytes() if edition.learner.is_file() else b""
            if before and before.replace(b"\r\n", b"\n") != wanted.encode():  # what no editor can read is kept, too
                keep_work(edition.learner, before, always=True)
            edition.learner.write_text(wanted, encoding="utf-8")
            return edition.learner
    raise ValueError(f"no notebook {number!r} in course.yml")


# --- Checking ----------------------------------------------------------------------------------------------------


def problems(root: Path = REPOSITORY) -> list[str]:
    """Everything that is not as it should be, in words; nothing is written."""
    try:
        course = read_course(root)
    except (ValueError, FileNotFoundError) as error:
        return [str(error)]
    found = []
    readme = (root / "README.md").read_text(encoding="utf-8")
    try:
        if with_table(readme, course) != readme:
            found.append("README.md: its table of notebooks is not that of course.yml; run `mmo course build`")
    except ValueError as error:
        found.append(str(error))
    for entry in course:
        found += edition_problems(Edition(entry, root))
    listed = {entry.file for entry in course}
    strays = [path for folder in ("solutions", "notebooks") for path in sorted((root / folder).glob("*.ipynb")) if path.stem not in listed]
    found += [f"{path.relative_to(root)}: not in course.yml" for path in strays]
    found += teaching.problems(root)
    for path in [root / "README.md", *sorted((root / "docs").rglob("*.md"))]:
        found += broken_links(path, path.read_text(encoding="utf-8"), root) if path.is_file() else []
    return found


def edition_problems(edition: Edition) -> list[str]:
    """What is wrong with one notebook."""
    entry, root = edition.entry, edition.root
    try:
        wanted = contents(edition)
    except BuildError as error:
        return [str(error)]
    found = []
    source = edition.text.read_text(encoding="utf-8")
    if with_lines(source, entry) != source:
        found.append(f"{edition.text.name}: its generated lines are not those of course.yml and the exercises; run `mmo course build`")
    if f"# # {entry.number} · {entry.title}\n" not in source:
        found.append(f"{edition.text.name}: its title is not that of course.yml, {entry.number} · {entry.title}")
    for path, text in wanted.items():
        name = path.relative_to(root)
        if not path.is_file():
            found.append(f"{name}: missing; run `mmo course build`")
            continue
        there = path.read_text(encoding="utf-8")
        if there != text:
            found.append(f"{name}: differs from what {edition.text.name} gives; run `mmo course build`")
        if len(there.encode()) > LARGEST:
            found.append(f"{name}: {len(there.encode()) / 1e6:.2f} MB, more than {LARGEST / 1e6:g}")
        for cell in nbformat.reads(there, 4).cells:
            if cell.cell_type == "markdown":
                found += broken_links(path, cell.source, root)
    text = read_text(edition.text)
    if edition.learner.is_file():
        learner = nbformat.read(edition.learner, 4)
        found += [f"{edition.learner.relative_to(root)}: {leak}" for leak in leaks(text, learner)]
        found += [f"{edition.learner.relative_to(root)}: {flaw}" for flaw in signature_flaws(text, learner)]
    return found + [f"{edition.text.name}: {flaw}" for flaw in exercise_flaws(entry, text)]


def squeezed(text: str) -> str:
    """Without any white space."""
    return "".join(text.split())


def leaks(text: NotebookNode, learner: NotebookNode) -> list[str]:
    """Where the learner's edition shows a solution."""
    lines = {
        squeezed(line): line.strip()
        for cell in text.cells if cell.cell_type == "code"
        for region in regions(cell.source)
        for line in region.splitlines()
        if len(squeezed(line)) >= LEAK and not line.strip().startswith("#")
    }  # fmt: skip
    found = []
    for number, cell in enumerate(learner.cells):
        if BEGIN in cell.source or END in cell.source:
            found.append(f"leaked solution: cell {number + 1} holds a solution's marker")
        shown = squeezed(cell.source)
        found += [f"leaked solution: cell {number + 1} holds {line!r}" for short, line in lines.items() if short in shown]
        if cell.get("outputs") or cell.get("execution_count"):
            found.append(f"cell {number + 1} has outputs")
    return found


def definitions(notebook: NotebookNode) -> dict[str, ast.FunctionDef]:
    """Exercise id -> the function under its decorator."""
    found = {}
    for cell in notebook.cells:
        ids = EXERCISE.findall(cell.source) if cell.cell_type == "code" else []
        if not ids:
            continue
        code = "\n".join(line for line in cell.source.splitlines() if not line.startswith(("%", "!")))
        for node in ast.walk(ast.parse(code)):
            for decorator in getattr(node, "decorator_list", []):
                if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "exercise":
                    found[decorator.args[0].value] = node
    return found


def signature(function: ast.FunctionDef) -> str:
    """Name, parameters and annotations as text."""
    returns = f" -> {ast.unparse(function.returns)}" if function.returns else ""
    return f"{function.name}({ast.unparse(function.args)}){returns}"


def signature_flaws(text: NotebookNode, learner: NotebookNode) -> list[str]:
    """Where stub and solution disagree."""
    solutions, stubs = definitions(text), definitions(learner)
    found = [f"exercise {id} is missing" for id in solutions if id not in stubs]
    for id, stub in stubs.items():
        if id not in solutions:
            found.append(f"exercise {id} has no solution")
        elif signature(stub) != signature(solutions[id]):
            found.append(f"exercise {id}: the stub is {signature(stub)}, the solution {signature(solutions[id])}")
        elif "raise NotImplementedError" not in ast.unparse(stub):
            found.append(f"exercise {id}: the stub is not empty")
    return found


def exercise_flaws(entry: Notebook, text: NotebookNode) -> list[str]:
    """Where notebook, exercises and course.yml disagree."""
    known = exercises_of(entry.number)
    defined = definitions(text)
    found = [f"exercise {each.id} stands in no cell" for each in known if each.id not in defined]
    for id, function in defined.items():
        if id not in [each.id for each in known]:
            found.append(f"exercise {id} is not registered")
            continue
        named = [argument.arg for argument in function.args.args]
        reference = list(inspect.signature(find(id).reference).parameters)
        if named != reference:
            found.append(f"exercise {id}: parameters {named}, but {find(id).package_name}'s stand-in has {reference}")
        source = "\n".join(cell.source for cell in text.cells)
        if f'check("{id}")' not in source:
            found.append(f"exercise {id} is never checked")
        if find(id).line(entry.exercises[id]) not in source:
            found.append(f"exercise {id}: its line is missing (write `*Exercise {id} · *` under the heading and run `mmo course build`)")
    return found


# --- For the learner ---------------------------------------------------------------------------------------------


def solution_of(exercise: Exercise, root: Path = REPOSITORY) -> str:
    """The solved cell of an exercise, without the markers.  Raises ValueError where it is not found."""
    if not (root / "solutions").is_dir():
        raise ValueError(f"{exercise.id}: this is a hand-out, without solutions; ask whoever runs the course")
    for path in sorted((root / "solutions").glob(f"{exercise.notebook}_*.ipynb")):
        for cell in nbformat.read(path, 4).cells:
            if cell.cell_type == "code" and exercise.id in EXERCISE.findall(cell.source):
                return "\n".join(line for line in cell.source.splitlines() if line.strip() not in (BEGIN, END))
    raise ValueError(f"no solution of {exercise.id} in {root / 'solutions'}")


# --- Executing ---------------------------------------------------------------------------------------------------


def execute(entry: Notebook, root: Path = REPOSITORY) -> float:
    """Run a solution strictly from top to bottom and keep its outputs; returns the seconds it took.

    The kernel imports the package of `root` and gets MMO_STRICT=1: what a learner may leave open must be right here.
    A cell may take CELL_SECONDS: room for a crowded machine, and an end to an endless loop.
    """
    import os
    import time

    from nbclient import NotebookClient

    edition = Edition(entry, root)
    notebook = solved(read_text(edition.text), None, entry.exercises)
    environment = os.environ | {"MMO_STRICT": "1", "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    started = time.monotonic()
    client = NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name="python3", record_timing=False, resources={"metadata": {"path": str(edition.text.parent)}})
    client.execute(env=environment)
    seconds = time.monotonic() - started
    for cell in settle(notebook).cells:
        cell.metadata.pop("execution", None)
    notebook.metadata = solved(read_text(edition.text), None, entry.exercises).metadata
    edition.solution.write_text(written(notebook), encoding="utf-8")
    return seconds
