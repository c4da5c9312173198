"""Which notebooks a change touches, and why: what `mmo test --changed` runs.

    for entry, why in touched(changed_files("HEAD"), since="HEAD"):
        print(entry.number, why)        # 07 mmo/fused.py, by mmo/transformer.py, by mmo/sequence.py

A notebook is touched by its own files (text form, both editions, exercises, quiz, its entry in course.yml), by every module that it imports,
or that such a module imports in turn, inside functions too, and by the files under data/tiny that this code names: through a path of the profile
(`settings.codec_file`), through its recipe (`settings.stages`), or by their own name ("t2a-test.parquet", f"{split}.parquet").

Nothing is imported or run to find out: code is read as text.  So a module counts whole; what only one function of it reads counts too.
"""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePosixPath

import yaml

from mmo.course.catalogue import REPOSITORY, Notebook, read_course
from mmo.course.exercises import TASKS
from mmo.profiles import Profile
from mmo.profiles import profile as find_profile

DATA = "data/tiny/"
RECIPE = ("*-train.parquet", "*-validation.parquet")  # what `settings.stages` stands for: training reads the second beside the first
NOT_READ = (".md",)  # under data/tiny, for people
SETTINGS = ("mmo/profiles.py", "mmo/adjust.py", "mmo/manifest.py")  # they name what a profile has, and read none of it: whoever asks a profile for a file does


# --- What changed ------------------------------------------------------------------------------------------------


def git(root: Path, *words: str) -> str:
    """What git prints.  Raises ValueError where it says no."""
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def changed_files(since: str = "HEAD", root: Path = REPOSITORY) -> set[str]:
    """Paths in the repository that differ from a commit, new ones included.  Raises ValueError where git says no."""
    return {path for words in (["diff", "--name-only", since], ["ls-files", "--others", "--exclude-standard"]) for path in git(root, *words).splitlines()}


def changed_entries(since: str, root: Path) -> set[str]:
    """Numbers of the notebooks whose entry in course.yml is new, or not what it was in that commit; all where there was no such file."""
    try:
        before = yaml.safe_load(git(root, "show", f"{since}:course.yml"))["notebooks"]
    except (ValueError, TypeError, KeyError, yaml.YAMLError):
        before = []
    now = yaml.safe_load((root / "course.yml").read_text(encoding="utf-8"))["notebooks"]
    return {entry["number"] for entry in now if entry not in before}


# --- What code uses ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Used:
    """What one piece of code names."""

    modules: frozenset[str] = frozenset()  # dotted: mmo.sequence
    attributes: frozenset[str] = frozenset()  # codec_file, of settings.codec_file
    texts: frozenset[str] = frozenset()  # "t2a-test.parquet"; f"{split}.parquet" is the pattern "*.parquet"


@lru_cache(maxsize=None)
def used(source: str, package: str = "") -> Used:
    """What a module or the text form of a notebook uses.  package: the dotted name that "from ." stands for."""
    code = "\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("%", "!")))
    modules, attributes, texts = set(), set(), set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            modules |= {module, *(f"{module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            modules |= {name.name for name in node.names}
        elif isinstance(node, ast.Attribute):
            attributes.add(node.attr)
        elif isinstance(node, ast.JoinedStr):
            texts.add("".join(part.value if isinstance(part, ast.Constant) else "*" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.add(node.value)
            modules |= set(parents(node.value)) if all(word.isidentifier() for word in node.value.split(".")) else set()  # for importlib, python -m
    return Used(frozenset(name for name in modules if name.startswith("mmo.")), frozenset(attributes), frozenset(texts))


def parents(name: str) -> Iterator[str]:
    """ "mmo.course.desk" -> itself, "mmo.course", "mmo"."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def module_files(modules: Iterable[str], root: Path, gone: Iterable[str] = ()) -> set[str]:
    """Where those modules stand, and the __init__.py that Python runs on the way; names of functions and of what is not there fall out.

    gone: files that were there, and whose importers have changed with them.
    """
    found = set()
    for name in {each for module in modules for each in parents(module)}:
        place = name.replace(".", "/")
        found |= {path for path in (f"{place}.py", f"{place}/__init__.py") if path in gone or (root / path).is_file()}
    return found


def read_in(path: str, root: Path) -> Used:
    """What a file of the repository uses; nothing where there is no such file."""
    place = root / path
    return used(place.read_text(encoding="utf-8"), str(PurePosixPath(path).parent).replace("/", ".")) if place.is_file() else Used()


def ways(start: str, also: Iterable[str], root: Path, gone: Iterable[str] = ()) -> dict[str, str]:
    """Every file of the package that code in `start` imports, nearest first -> the file that imports it.  also: modules that it uses without an import.  gone: as in `module_files`."""
    found: dict[str, str] = {path: start for path in sorted(also) if (root / path).is_file()}
    ahead = [start, *found]
    for path in ahead:  # grows while it is read
        for each in sorted(module_files(read_in(path, root).modules, root, gone)):
            if each not in found and each != start:
                found[each] = path
                ahead.append(each)
    return found


# --- What reads a file of data -----------------------------------------------------------------------------------


def reads(file: str, asked: Profile) -> Callable[[Used], bool]:
    """Whether code reads this file under data/tiny.  asked: the profile whose paths lie there."""
    name = PurePosixPath(file).name
    owners = {attribute for attribute, place in profile_paths(asked).items() if file == place or file.startswith(f"{place}/") or stem(file) == stem(place)}
    if owners:
        return lambda code: bool(owners & code.attributes)
    if name.endswith(NOT_READ):
        return lambda code: False
    in_recipe = any(fnmatchcase(name, pattern) for pattern in RECIPE)
    return lambda code: any(names_file(text, name) for text in code.texts) or (in_recipe and "stages" in code.attributes)


def stem(path: str) -> str:
    """codec.safetensors and codec.json are one thing."""
    return str(PurePosixPath(path).with_suffix(""))


def names_file(text: str, name: str) -> bool:
    """Whether a text in code, taken as a pattern, is that file's name; both must at least know an ending, for "x" is any text."""
    ending = PurePosixPath(name).suffix
    return bool(ending) and (text == name or ("*" in text and text.endswith(ending) and fnmatchcase(name, text.rpartition("/")[2])))


def profile_paths(asked: Profile) -> dict[str, str]:
    """codec_file -> data/tiny/codec.safetensors, for every path of a profile below its data."""
    places = {each.name: getattr(asked, each.name) for each in fields(asked)}
    below = {name: place for name, place in places.items() if isinstance(place, Path) and asked.data_dir in place.parents}
    return {name: DATA + place.relative_to(asked.data_dir).as_posix() for name, place in below.items()}


# --- The notebooks -----------------------------------------------------------------------------------------------


def own_files(entry: Notebook) -> tuple[str, ...]:
    """The files that belong to one notebook alone."""
    return (f"solutions/{entry.file}.py", f"solutions/{entry.file}.ipynb", f"notebooks/{entry.file}.ipynb", f"mmo/course/quizzes/{entry.number}.yml")


def why_touched(entry: Notebook, files: set[str], root: Path, asked: Profile) -> str | None:
    """Why a change of these files touches a notebook, in words; None where it does not."""
    for own in own_files(entry):
        if own in files:
            return own
    start = f"solutions/{entry.file}.py"
    tasks = f"mmo/course/tasks/{TASKS[entry.number]}.py" if entry.number in TASKS else ""
    found = ways(start, filter(None, [tasks]), root, {path for path in files if not (root / path).is_file()})
    for path in found:
        if path in files:
            return by(path, start, found)
    for file in sorted(each for each in files if each.startswith(DATA)):
        is_read = reads(file, asked)
        reader = next((path for path in [start, *found] if path not in SETTINGS and is_read(read_in(path, root))), None)
        if reader:
            return file if reader == start else f"{file}, read by {by(reader, start, found)}"
    return None


def by(path: str, start: str, found: dict[str, str]) -> str:
    """ "mmo/fused.py, by mmo/transformer.py": the way from a module to the notebook."""
    steps = [path]
    while found[steps[-1]] != start:
        steps.append(found[steps[-1]])
    return ", by ".join(steps)


def touched(files: Iterable[str], root: Path = REPOSITORY, since: str = "HEAD", asked: Profile | None = None) -> list[tuple[Notebook, str]]:
    """The notebooks that a change of these files touches, in the course's order, each with the reason.

    since: the commit with which course.yml is compared where it is among them.  asked: the profile whose files are shipped; tiny's.
    """
    files = set(files)
    asked = asked or find_profile("tiny")
    entries = changed_entries(since, root) if "course.yml" in files else set()
    found = []
    for entry in read_course(root):
        why = "its entry in course.yml" if entry.number in entries else why_touched(entry, files, root, asked)
        if why:
            found.append((entry, why))
    return found
