"""Marks: answers that call the package's own function, or reach into the course's machinery.

The package holds every solution, so an answer can be one line.  Such an answer is told in two ways: by its text (imports are followed to
the full name), and by what happens while it runs (Python's profile hook sees the package's function being entered, whatever
it was called by).  A mark is for a person to look at; `mmo course grade --marked-points 0` makes it cost the points.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import CodeType

from mmo.course.exercises import Exercise, standard
from mmo.course.grading.answers import Answer, parsed

DOTTED = re.compile(r"\b(?:mmo|torch|funasr|moshi)(?:\.\w+)+")
MACHINERY = ("mmo.course.exercises", "mmo.course.tasks", "mmo.course.desk", "mmo.course.grading", "mmo.course.build")
TOOLS = ("importlib", "inspect", "gc", "ctypes", "_thread", "sys.modules", "sys.setprofile", "sys.settrace", "threading.setprofile", "threading.settrace")
INSIDE = frozenset((  # attributes by which a function reads what its callers hold, or another function's inside
    "_getframe", "_current_frames", "setprofile", "settrace", "f_back", "f_locals", "f_globals", "f_builtins", "f_code", "tb_frame", "gi_frame", "cr_frame",
    "__globals__", "__closure__", "__code__", "__torch_function__", "__torch_dispatch__",
))  # fmt: skip
SILENCED = "takes off the hook that watches it while it runs (sys.setprofile)"


def package_names(task: Exercise) -> tuple[str, ...]:
    """Full names under which the package has what the exercise asks for: "mmo.sequence.delay"."""
    own = (standard(task.id) if task.variant else task).reference  # what a variant asks is not in the package
    return tuple(dict.fromkeys([*DOTTED.findall(task.package_name), f"{own.__module__}.{own.__qualname__}"]))


def package_codes(task: Exercise) -> dict[CodeType, str]:
    """The code of those functions, by which they are known when they are entered, and their names."""
    found: dict[CodeType, str] = {}
    for name in package_names(task):
        thing = resolved(name)
        for part in (thing, getattr(thing, "forward", None) if isinstance(thing, type) else None):
            code = getattr(part, "__code__", None)
            if code is not None:
                found[code] = name
    for function in (task.reference, standard(task.id).reference):  # without a name of its own, as a lambda has none, it can be reached through the check
        if hasattr(function, "__code__"):
            found.setdefault(function.__code__, package_names(task)[0])
    return found


def resolved(name: str):
    """The thing of that full name; None where the name is only words."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            thing = getattr(thing, part, None)
        return thing
    return None


@dataclass
class Trace:
    """Watches a function, and threads it starts, for calls of the package's own.  called: the first that was seen; silenced: the hook was gone."""

    codes: dict[CodeType, str]
    called: str | None = field(default=None)
    silenced: bool = False

    def watching(self, function: Callable) -> Callable:
        """The function, watched while it runs."""

        def watched(*arguments):
            hook = self.note
            threading.setprofile(hook)
            sys.setprofile(hook)
            try:
                return function(*arguments)
            finally:
                self.silenced = self.silenced or sys.getprofile() is not hook
                sys.setprofile(None)
                threading.setprofile(None)

        return watched

    def note(self, frame, event: str, argument) -> None:
        if event == "call" and frame.f_code in self.codes:
            self.called = self.called or self.codes[frame.f_code]


# --- By its text -------------------------------------------------------------------------------------------------


def full_names(tree: ast.AST, imports: dict[str, str]) -> set[str]:
    """Dotted names in it, with imported names written out: `sequence.delay` is "mmo.sequence.delay"."""
    found = set()
    for node in ast.walk(tree):
        parts, part = [], node
        while isinstance(part, ast.Attribute):
            parts.insert(0, part.attr)
            part = part.value
        if isinstance(part, ast.Name):
            found.add(".".join([imports.get(part.id, part.id), *parts]))
    return found


def imported(tree: ast.AST) -> dict[str, str]:
    """Name -> full name, of every import in it."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.split(".")[0]: alias.name if alias.asname else alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def assigned(tree: ast.AST, imports: dict[str, str]) -> set[str]:
    """Full names that it gives a new value."""
    targets = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, (ast.Store, ast.Del))]
    return {max(full_names(target, imports), key=len, default="") for target in targets}


def begins(name: str, with_any: tuple[str, ...]) -> bool:
    return any(name == each or name.startswith(each + ".") for each in with_any)


def inside(tree: ast.AST) -> set[str]:
    """Of INSIDE, what it names: as an attribute, a name, a function of its own, or in a text, as for getattr."""
    found = set()
    for node in ast.walk(tree):
        named = (getattr(node, kind, None) for kind in ("attr", "id", "name", "value"))
        found |= {each for each in named if isinstance(each, str) and each in INSIDE}
    return found


def marks(answer: Answer, task: Exercise) -> tuple[str, ...]:
    """What of an answer's text a person should look at, in words; none for an answer of one's own."""
    tree = ast.Module([*parsed(answer.before), *parsed(answer.source)], [])
    imports = imported(tree)
    used = full_names(tree, imports) | set(imports.values())
    calls = sorted(name for name in used if begins(name, package_names(task)))
    reaches = sorted(name for name in used if begins(name, MACHINERY + TOOLS) or name in ("__import__", "exec", "eval"))
    reaches += sorted(inside(tree))
    changes = sorted(name for name in assigned(tree, imports) if begins(name, ("mmo", "torch")))
    return (
        *(f"uses {name}, which is what the exercise asks for" for name in calls[:1]),
        *(f"reaches for {name}" for name in reaches[:1]),
        *(f"gives {name} a new value" for name in changes[:1]),
    )
