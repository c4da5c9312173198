"""Every command that README, the docs, the notebooks and the package's own messages name is there, with the options and choices they name.

Nothing is run: a command line is held against what `--help` is made of, the parameters of the typer apps, of a module's argparse, the Makefile's targets.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import re
import shlex
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import typer

from mmo.cli import app
from mmo.profiles import PROFILES

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "data/tiny/README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
NOTEBOOKS = sorted((REPOSITORY / "solutions").glob("*.py"))
MODULES = sorted((REPOSITORY / "mmo").rglob("*.py"))
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
COMMAND = re.compile(r"(?:^|(?<=\s)|(?<=/))(mmo|make|python\S* -m mmo(?:\.\w+)*|torchrun .*-m (?:-- )?mmo)(?=\s|$)(.*)")
END = re.compile(r"\s#\s.*|\s*(?:&&|;|→| > | \| ).*")
PLACEHOLDER = re.compile(r".*…|.*\{.*\}.*|[A-Z_]+|DIR/.*|\*")  # FILE, NN, …: whatever one puts there
ROOT = typer.main.get_command(app)


# --- Finding commands --------------------------------------------------------------------------------------------


def snippets(path: Path) -> Iterator[tuple[int, str]]:
    """Line number and text of whatever is set as code in a page; in Python files only what stands between backquotes."""
    fenced = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fenced ^= line.lstrip().startswith("```")
        if path.suffix != ".py" and (fenced or line.startswith("    ")) and not line.lstrip().startswith(("- ", "* ", "`")):
            yield number, line.strip()
        yield from ((number, code) for code in INLINE.findall(line))


def commands(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Line number, program and words of every command of ours that a page names."""
    for number, code in snippets(path):
        for part in re.split(r"\s&&\s", code):
            found = COMMAND.search(part)
            if not found:
                continue
            program = "mmo" if found[1].endswith("-m mmo") or found[1].startswith("torchrun") else found[1]
            try:
                words = shlex.split(END.sub("", found[2]))
            except ValueError:  # half of a quotation
                continue
            yield number, program, words


# --- Holding them against what is there --------------------------------------------------------------------------


def flaw_of(program: str, words: list[str]) -> str | None:
    """What is wrong with a command line, in words; None where nothing is."""
    if program == "make":
        return make_flaw(words)
    if program == "mmo":
        return command_flaw(ROOT, "mmo", words)
    return module_flaw(program.split()[-1], words)


def command_flaw(command, name: str, words: list[str]) -> str | None:
    """A command line of `mmo`: commands, options, choices."""
    if hasattr(command, "commands"):
        if not words or words[0] == "--help" or PLACEHOLDER.fullmatch(words[0]):
            return None
        for each in words[0].split("|"):  # `mmo bench train|decode`
            if each not in command.commands:
                return f"{name} has no command {each!r}; there are {', '.join(command.commands)}"
        return command_flaw(command.commands[words[0].split("|")[0]], f"{name} {words[0]}", words[1:])
    options = {option: each for each in command.params if each.param_type_name == "option" for option in (*each.opts, *each.secondary_opts)}
    places = [each for each in command.params if each.param_type_name == "argument"]
    free = command.context_settings.get("allow_extra_args", False)
    while words:
        word, *words = words
        if word == "--":
            return None
        if word == "--help" or PLACEHOLDER.fullmatch(word) and not places:
            continue
        if word.startswith("--"):
            option, _, given = word.partition("=")
            if option not in options:
                return f"{name} has no option {option}; there are {', '.join(options)}"
            if not options[option].is_flag:
                value = given or (words.pop(0) if words else None)
                flaw = value_flaw(command, options[option], f"{name} {option}", value)
                if flaw:
                    return flaw
        elif places:
            flaw = value_flaw(command, places[0], f"{name} {places[0].name}", word)
            if flaw:
                return flaw
            places = places if places[0].nargs == -1 else places[1:]
        elif not free:
            return f"{name} takes no {word!r} there"
    return None


def choices_of(command, name: str) -> tuple[str, ...]:
    """What a parameter may be, where its annotation lists it: Literal["t2a", "a2a"], also in `… | None` or a list."""

    def listed(hint) -> Iterator[str]:
        for each in get_args(hint):
            yield from (each,) if isinstance(each, str) else listed(each)

    return tuple(listed(get_type_hints(inspect.unwrap(command.callback))[name]))


def value_flaw(command, parameter, name: str, value: str | None) -> str | None:
    """Whether a value is one of the choices."""
    if value is None:
        return f"{name} has no value"
    if PLACEHOLDER.fullmatch(value):
        return None
    choices = choices_of(command, parameter.name)
    if choices and value not in choices:
        return f"{name} is not {value!r}; there are {', '.join(choices)}"
    if parameter.name == "profile" and value.split(",")[0] not in PROFILES:
        return f"{name}: no profile {value!r}"
    return None


def make_flaw(words: list[str]) -> str | None:
    """A command line of make: targets and variables of the Makefile."""
    text = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets, variables = set(re.findall(r"^([a-z-]+):", text, re.MULTILINE)), set(re.findall(r"^([A-Z_]+) *\??=", text, re.MULTILINE))
    for word in words:
        variable, is_set, _ = word.partition("=")
        if is_set and variable not in variables:
            return f"the Makefile has no variable {variable}"
        if not is_set and not PLACEHOLDER.fullmatch(word) and word not in targets:
            return f"the Makefile has no target {word!r}; there are {', '.join(sorted(targets))}"
    return None


def module_flaw(module: str, words: list[str]) -> str | None:
    """A command line of `python -m mmo.…`: the module can be run, and its `--help` lists the options."""
    path = REPOSITORY / f"{module.replace('.', '/')}.py"
    if not path.is_file() or "__main__" not in path.read_text(encoding="utf-8"):
        return f"there is no {module} to run"
    known = options_of(module) if "argparse" in path.read_text(encoding="utf-8") else set()
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]
    return f"{module} has no option {', '.join(unknown)}; there are {', '.join(sorted(known)) or 'none'}" if unknown else None


@lru_cache(maxsize=None)
def options_of(module: str) -> set[str]:
    """The options that a module's `--help` lists.  Parsers are made where they are used, so it is asked; argparse ends it there."""
    told = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(told), pytest.raises(SystemExit) as ended:
        patch.setattr("sys.argv", [module, "--help"])
        importlib.import_module(module).main()
    assert ended.value.code == 0, f"{module} --help ended with {ended.value.code}"
    return set(re.findall(r"(?<![\w-])--[a-z-]+", told.getvalue()))


# --- The tests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paths", [PAGES, NOTEBOOKS, MODULES], ids=["pages", "notebooks", "modules"])
def test_every_command_that_is_named_is_there(paths):
    found = [f"{path.relative_to(REPOSITORY)}:{number}: {flaw}" for path in paths for number, program, words in commands(path) if (flaw := flaw_of(program, words))]
    assert not found, "\n".join(["", *found])


def test_commands_are_found_where_there_are_some():
    """The test above is of no use if nothing is found."""
    found = [" ".join([program, *words]) for path in PAGES for _, program, words in commands(path)]
    assert len(found) > 150
    for wanted in ("mmo say --audio question.wav", "make weekend TORCH_INDEX=https://download.pytorch.org/whl/cpu", "mmo train --profile full --stage all", "python -m mmo.curve --minutes 5,10,20,40,80", "mmo plan --profile mini --card rtx3090"):
        assert wanted in found, wanted


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("mmo sai", "no command 'sai'"), ("mmo bench train|decoding", "no command 'decoding'"), ("mmo say --picture x.png", "no option --picture"), ("mmo train --stage t3a", "--stage is not 't3a'"),
        ("mmo say --profile huge", "no profile 'huge'"), ("mmo import minimind-4 FILE", "is not 'minimind-4'"), ("mmo doctor now", "takes no 'now'"), ("mmo train --stage", "has no value"),
        ("make weekends", "no target 'weekends'"), ("make weekend BUDGETS=smoke", "no variable BUDGETS"), ("python -m mmo.curves", "no mmo.curves to run"), ("python -m mmo.curve --hours 3", "no option --hours"),
        ("python -m mmo.sequence", "no mmo.sequence to run"), ("torchrun --nproc-per-node 2 -m mmo training", "no command 'training'"),
    ],
)  # fmt: skip
def test_a_wrong_command_is_named(tmp_path, line, words):
    (tmp_path / "page.md").write_text(f"Text.\n\n    {line}   # why\n\nAnd `{line}`.\n")
    flaws = [flaw_of(program, rest) for _, program, rest in commands(tmp_path / "page.md")]
    assert len(flaws) == 2 and all(words in flaw for flaw in flaws), flaws


@pytest.mark.parametrize("line", ["mmo say …", "mmo test -- -k codec", "mmo course grade DIR --out grades", "mmo train --stage t2a --profile tiny,lr=3e-4", "mmo rehearse --no-notebooks", "make VENV=/x weekend", "python -m mmo test --changed"])
def test_a_right_command_is_not(tmp_path, line):
    (tmp_path / "page.md").write_text(f"`{line}`\n")
    assert [flaw_of(program, rest) for _, program, rest in commands(tmp_path / "page.md")] == [None]
