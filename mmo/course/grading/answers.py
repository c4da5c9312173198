"""The answers in a notebook: its exercise cells, and what else of it each of them needs.

An answer is the cell with `@exercise("07.delay")`.  It may use what the notebook imports, and functions, classes and written-out
values (`LIMIT = 3`, `SHIFT = lambda x: x + 1`, `F = torch.nn.functional`, `TWICE = 2 * LIMIT`) that the student defined in other cells; nothing
else of the notebook is run.  The functions of the other exercises are there too, always right ones: a mistake costs its points once.
"""

from __future__ import annotations

import ast
import builtins
import re
import symtable
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

DECORATED = re.compile(r"""^[ \t]*@exercise\(\s*(["'])(.+?)\1\s*\)""", re.MULTILINE)

MAGIC = re.compile(r"[%!?].*|[\w.]+\?{1,2}\s*")  # a line for IPython: %%time, !pip, ?delay, delay?

WRITTEN_OUT = (  # of these alone a value may be written: what runs nothing of the notebook
    ast.Constant, ast.Tuple, ast.List, ast.Set, ast.Dict, ast.Name, ast.Attribute, ast.Subscript, ast.Slice, ast.Lambda, ast.BinOp, ast.UnaryOp,
    ast.operator, ast.unaryop, ast.expr_context,
)  # fmt: skip
EMPTY = {ast.dump(ast.parse(f"{kind}()", mode="eval").body) for kind in ("set", "dict", "list", "tuple")}

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
    """Lines for IPython (`%%time`, `!pip`, `delay?`) left empty, so that line numbers stay."""
    return "\n".join("" if MAGIC.fullmatch(line) else line for line in source.splitlines())


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
    """Names that it reads and does not make itself: a function's own variables are none of them.  None where it is no program.

    What `global` lets a function change, and what `+=` changes, must be there before.
    """
    try:
        waiting, found = [symtable.symtable(ast.unparse(tree), "cell", "exec")], set()
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    while waiting:
        table = waiting.pop()
        waiting += table.get_children()
        here = table.get_type() == "module"
        found |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_referenced() and (here or symbol.is_global())}
        found |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_declared_global()}
    if isinstance(tree, ast.AugAssign) and isinstance(tree.target, ast.Name):
        found.add(tree.target.id)
    return found


def bound_names(statement: ast.stmt) -> set[str]:
    """Names that an import, a definition or an assignment of a written-out value makes; none for other statements."""
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name.split(".")[0] for alias in statement.names}
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, ast.Try):
        return {name for each in branches(statement) for name in bound_names(each)}
    if isinstance(statement, (ast.Assign, ast.AnnAssign)) and is_written_out(statement.value):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        parts = [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
        return {part.id for part in parts if isinstance(part, ast.Name)} if all(isinstance(part, ast.Name) for part in parts) else set()
    return set()


def branches(statement: ast.Try) -> list[ast.stmt]:
    """What stands directly in a `try`, in all its parts."""
    return [*statement.body, *(each for handler in statement.handlers for each in handler.body), *statement.orelse, *statement.finalbody]


def is_written_out(value: ast.expr | None) -> bool:
    """Whether a value is made of literals, names, operators and lambdas alone: nothing is called for it but `set()` and its like."""
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Call) and ast.dump(node) in EMPTY:
            continue
        if not isinstance(node, WRITTEN_OUT):
            return False
        waiting += [] if isinstance(node, ast.Lambda) else ast.iter_child_nodes(node)  # what stands in a lambda waits for its call
    return True


def is_star(statement: ast.stmt) -> bool:
    """Whether it is `from … import *`, of which nobody knows what it makes."""
    return isinstance(statement, ast.ImportFrom) and any(alias.name == "*" for alias in statement.names)


def makers(statements: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that may be taken out of a cell: its own, the imports under an `if`, and of a `try` what makes names."""
    for statement in statements:
        if isinstance(statement, ast.If):  # what is asked is not evaluated: the first import of a name is taken
            yield from (each for each in makers([*statement.orelse, *statement.body]) if isinstance(each, (ast.Import, ast.ImportFrom, ast.Try)))
        elif isinstance(statement, ast.Try):
            yield made_only(statement)
        else:
            yield statement


def made_only(statement: ast.Try) -> ast.Try:
    """A `try` in which nothing is left but what makes names."""

    def kept(body: list[ast.stmt]) -> list[ast.stmt]:
        return [each for each in makers(body) if bound_names(each)] or [ast.Pass()]

    handlers = [ast.ExceptHandler(each.type, each.name, kept(each.body)) for each in statement.handlers]
    return ast.Try(kept(statement.body), handlers, kept(statement.orelse) if handlers else [], kept(statement.finalbody))


def is_exercise(statement: ast.stmt) -> bool:
    return any("exercise" in needed_names(decorator) for decorator in getattr(statement, "decorator_list", []))


def offered(cells: Sequence[Cell]) -> dict[str, ast.stmt]:
    """Name -> the last statement outside the exercises that makes it.  A value that reads what is not on offer is none itself: the one before it counts then."""
    statements = [statement for cell in cells for statement in makers(parsed(cell.source)) if not is_exercise(statement) and not is_star(statement)]
    offers: dict[str, list[ast.stmt]] = {}
    for statement in statements:
        for name in bound_names(statement):
            if name not in read_at_once(statement):
                offers.setdefault(name, []).append(statement)
    while unmade := [name for name, made in offers.items() if read_at_once(made[-1]) - set(offers) - set(dir(builtins))]:
        for name in unmade:
            offers[name].pop()
            if not offers[name]:
                del offers[name]
    return {name: made[-1] for name, made in offers.items()}


def read_at_once(statement: ast.stmt) -> set[str]:
    """Names that must be there when an assignment is run: `F = torch.nn.functional` reads torch, a lambda nothing before it is called."""
    if not isinstance(statement, (ast.Assign, ast.AnnAssign)):
        return set()
    found, waiting = set(), [statement.value, *([statement.annotation] if isinstance(statement, ast.AnnAssign) else [])]
    while waiting:
        node = waiting.pop()
        found |= {node.id} if isinstance(node, ast.Name) else set()
        waiting += [] if isinstance(node, ast.Lambda) else ast.iter_child_nodes(node)
    return found


def stars(cells: Sequence[Cell]) -> str:
    """Every `from … import *` of the cells; one that cannot be had here is left out."""
    found = [ast.unparse(statement) for cell in cells for statement in makers(parsed(cell.source)) if is_star(statement)]
    return "".join(f"try:\n    {each}\nexcept ImportError:\n    pass\n" for each in dict.fromkeys(found))


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
    return "\n".join(ast.unparse(ast.fix_missing_locations(statement)) for statement in imports_first)


def answers_of(cells: Sequence[Cell], clean: Sequence[Cell] = ()) -> dict[str, Answer]:
    """Exercise id -> its answer; of several cells with one id the last counts, as it does in the notebook.

    clean: the cells of the notebook as it is handed out, whose imports stand in where a student's are gone.  What a name is, is said by the
    last cell up to the answer's that makes it, else by one below: what is tried out at the notebook's end does not change what the answer was checked with.
    """
    every, found = stars(cells), {}
    for place, cell in enumerate(cells):
        ids = ids_in(cell.source)
        offers = offered([*clean, *cells[place + 1 :], *cells[: place + 1]]) if ids else {}
        for id in ids:
            own = {name for statement in parsed(cell.source) for name in bound_names(statement) - read_at_once(statement)}
            found[id] = Answer(id, cell.source, every + needed(cell.source, {name: made for name, made in offers.items() if name not in own}))
    return found
