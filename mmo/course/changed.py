"""Which notebooks a change touches: those whose own files changed, or a module that they import.

    touched(changed_files("HEAD"))      # what `mmo test --changed` runs
"""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterable
from pathlib import Path

from mmo.course.catalogue import REPOSITORY, Notebook, read_course
from mmo.course.exercises import TASKS


def changed_files(since: str = "HEAD", root: Path = REPOSITORY) -> set[str]:
    """Paths in the repository that differ from a commit, new ones included.  Raises ValueError where git says no."""
    found: set[str] = set()
    for command in (["diff", "--name-only", since], ["ls-files", "--others", "--exclude-standard"]):
        done = subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"git {' '.join(command)}: {done.stderr.strip()}")
        found |= set(done.stdout.splitlines())
    return found


def imported(source: str) -> set[str]:
    """Files of the package that a notebook's text form imports by name: "mmo/sequence.py"."""
    code = "\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("%", "!")))
    modules: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mmo":
            modules |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            modules |= {name.name for name in node.names if name.name.split(".")[0] == "mmo"}
    return {f"{module.replace('.', '/')}.py" for module in modules}


def touched(files: Iterable[str], root: Path = REPOSITORY) -> list[Notebook]:
    """The notebooks of the course that a change of these files touches, in their order."""
    files = set(files)
    found = []
    for entry in read_course(root):
        text = root / "solutions" / f"{entry.file}.py"
        own = {f"solutions/{entry.file}.py", f"solutions/{entry.file}.ipynb", f"notebooks/{entry.file}.ipynb"}
        if entry.number in TASKS:
            own.add(f"mmo/course/tasks/{TASKS[entry.number]}.py")
        if files & (own | (imported(text.read_text(encoding="utf-8")) if text.is_file() else set())):
            found.append(entry)
    return found
