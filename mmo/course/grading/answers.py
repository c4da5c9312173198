"""The answers in a notebook: its exercise cells, and what else of it each of them needs.

An answer is the cell with `@exercise("07.delay")`.  It may use what the notebook imports, and functions, classes and
written-out values (`LIMIT = 3`) that the student defined in other cells; nothing else of the notebook is run.  The functions of the
other exercises are there too, always right ones: a mistake costs its points once.
"""

from __future__ import annotations

import ast
import re
import symtable
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

DECORATED = re.compile(r"""^[ \t]*@exercise\(\s*(["'])(.+?)\1\s*\)""", re.MULTILINE)

PNG = re.compile(r"iVBORw0KGgo[A-Za-z0-9+/]*={0,2}")  # PNG's first eight bytes, in base64, and more of it


@dataclass(frozen=True)
class Cell:
    """A code cell: its text without lines for IPython, and the PNG pictures in its outputs, in base64."""

    source: str
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What is run for one exercise: first `before`, then `source`."""

    id: str
    source: str
    before: str = ""


def code_cells(notebook: dict) -> tuple[Cell, ...]:
    """The code cells of a notebook as JSON gives it.  Raises AttributeError, KeyError or TypeError where it is none."""
    found = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
            found.append(Cell(without_magics(source), tuple(pictures_of(cell))))
    return tuple(found)


def without_magics(source: str) -> str:
    """Lines for IPython (`%%time`, `!pip`) left empty, so that line numbers stay."""
    return "\n".join("" if line.startswith(("%", "!", "?")) else line for line in source.splitlines())


def pictures_of(cell: dict) -> Iterator[str]:
    """PNG pictures in the outputs of a cell, in base64; what only pretends to be one, and broken outputs, are left out."""
    outputs = cell.get("outputs")
    for output in outputs if isinstance(outputs, list) else ():
        data = output.get("data") if isinstance(output, dict) else None
        data = data.get("image/png") if isinstance(data, dict) else None
        data = "".join(each for each in data if isinstance(each, str)) if isinstance(data, list) else data
        if isinstance(data, str) and PNG.fullmatch(found := "".join(data.split())):
            yield found


def ids_in(source: str) -> list[str]:
    """Ids of the exercises in a cell, be it Python or not yet."""
    return [found[2] for found in DECORATED.finditer(source)]


def exercise_ids(cells: Sequence[Cell]) -> set[str]:
    """Ids of the exercises that stand in these cells."""
    return {id for cell in cells for id in ids_in(cell.source)}


def parsed(source: str) -> list[ast.stmt]:
    """The statements of a cell; none where it is no Python."""
    try:
        return ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def needed_names(tree: ast.AST) -> set[str]:
    """Names that it reads and does not make itself: a function's own variables are none of them.  None where it is no program."""
    try:
        waiting, found = [symtable.symtable(ast.unparse(tree), "cell", "exec")], set()
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    while waiting:
        table = waiting.pop()
        waiting += table.get_children()
        here = table.get_type() == "module"
        found |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced() and (here or symbol.is_global())}
    return found


def bound_names(statement: ast.stmt) -> set[str]:
    """Names that an import, a definition or an assignment of a written-out value makes; none for other statements."""
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name.split(".")[0] for alias in statement.names}
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, ast.Assign) and is_written_out(statement.value):
        parts = [part for target in statement.targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
        return {part.id for part in parts if isinstance(part, ast.Name)} if all(isinstance(part, ast.Name) for part in parts) else set()
    return set()


def is_written_out(value: ast.expr) -> bool:
    """Whether a value is a literal."""
    try:
        ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def is_exercise(statement: ast.stmt) -> bool:
    return any("exercise" in needed_names(decorator) for decorator in getattr(statement, "decorator_list", []))


def offered(cells: Sequence[Cell]) -> dict[str, ast.stmt]:
    """Name -> the last statement outside the exercises that makes it."""
    statements = [statement for cell in cells for statement in parsed(cell.source) if not is_exercise(statement)]
    return {name: statement for statement in statements for name in bound_names(statement)}


def needed(source: str, offers: dict[str, ast.stmt]) -> str:
    """The statements on offer that a cell needs, and that these need, in the order in which they must be run."""
    chosen: list[ast.stmt] = []
    seen: set[str] = set()

    def want(names: set[str]) -> None:
        for name in sorted(names & set(offers) - seen):
            seen.add(name)
            want(needed_names(offers[name]))
            if offers[name] not in chosen:
                chosen.append(offers[name])

    for statement in parsed(source):
        want(needed_names(statement))
    imports_first = sorted(chosen, key=lambda statement: not isinstance(statement, (ast.Import, ast.ImportFrom)))
    return "\n".join(ast.unparse(statement) for statement in imports_first)


def answers_of(cells: Sequence[Cell], clean: Sequence[Cell] = ()) -> dict[str, Answer]:
    """Exercise id -> its answer; of several cells with one id the last counts, as it does in the notebook.

    clean: the cells of the notebook as it is handed out, whose imports stand in where a student's are gone.
    """
    offers = offered(clean) | offered(cells)
    found = {}
    for cell in cells:
        for id in ids_in(cell.source):
            own = [name for statement in parsed(cell.source) for name in bound_names(statement)]
            found[id] = Answer(id, cell.source, needed(cell.source, {name: made for name, made in offers.items() if name not in own}))
    return found
