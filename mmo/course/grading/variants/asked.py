"""What a task of a variant is, which tasks a name chooses, and the exercises as a class of that name has them."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mmo.course.exercises import VARIED, Bug, Case, Exercise, standard

NUMBERED = re.compile(r"(.*?)(\d*)")  # a name and the number at its end
PLAIN = "none"  # the name that stands for the course as it is


@dataclass(frozen=True)
class Asked:
    """What one exercise asks in a variant, instead of what the package does.

    function: right, of the exercise's signature.  cases, hidden: where the exercise's own arguments do not fit.
    """

    task: str  # Markdown, below the exercise's own text
    docstring: str  # of the stub: shapes, and what is asked
    looks: str
    hints: tuple[str, str]
    function: Callable
    cases: Callable[[], Sequence[Case]] | None = None
    hidden: Callable[[], Sequence[Case]] | None = None


@dataclass(frozen=True)
class Family:
    """Exercises that vary together.  options: name -> exercise id -> what is asked."""

    name: str
    options: Mapping[str, Mapping[str, Asked]]


def families() -> tuple[Family, ...]:
    from mmo.course.grading.variants.blocks import FAMILIES as blocks
    from mmo.course.grading.variants.codebooks import FAMILIES as codebooks
    from mmo.course.grading.variants.delays import FAMILIES as delays

    return (*blocks, *delays, *codebooks)


def known_name(name: str) -> str:
    """The name of a variant.  Raises ValueError for one that is empty or has line breaks: it goes into files and onto pages."""
    if not name.strip() or not name.isprintable():
        raise ValueError(f"a variant needs a name, for instance autumn-26, not {name!r}")
    return name.strip()


def chosen(name: str) -> dict[str, str]:
    """Family -> option, as the name chooses them; always the same for the same name.

    A number at its end counts on: autumn-26 asks for something else than autumn-25 in every family.
    """
    stem, number = NUMBERED.fullmatch(known_name(name)).groups()
    found = {}
    for family in families():
        begin = int.from_bytes(hashlib.sha256(f"{stem}\n{family.name}".encode()).digest()[:8], "big")
        found[family.name] = list(family.options)[(begin + int(number or 0)) % len(family.options)]
    return found


def tasks_of(name: str) -> dict[str, Asked]:
    """Exercise id -> what a class of that name is asked; nothing for "none"."""
    if name == PLAIN:
        return {}
    options = chosen(name)
    return {id: asked for family in families() for id, asked in family.options[options[family.name]].items()}


def asked_in(name: str) -> dict[str, Exercise]:
    """Exercise id -> the exercise as a class of that name has it: its right function, and the package's and other variants' as known mistakes."""
    return {id: varied(standard(id), asked, name) for id, asked in tasks_of(name).items()}


def varied(plain: Exercise, asked: Asked, name: str) -> Exercise:
    others = [each[plain.id].function for family in families() for each in family.options.values() if plain.id in each and each[plain.id] is not asked]
    return replace(
        plain, variant=name, looks=asked.looks, hints=asked.hints, reference=asked.function, cases=asked.cases or plain.cases, gradients=(), probe=None,
        bugs=(course_own(plain), *(Bug("That is what another class was asked. Read what yours is.", other) for other in others)),
    )


def course_own(plain: Exercise) -> Bug:
    """Whoever copies from the package, or from a class without a variant."""
    return Bug(f"That is what {plain.package_name} does. Your class is asked for something else: read the task again.", plain.reference)


def hidden_of(id: str, name: str) -> tuple[Case, ...] | None:
    """Hidden cases of a variant's own; None where the exercise's fit."""
    make = tasks_of(name)[id].hidden
    return tuple(make()) if make else None


def function_of(id: str, name: str) -> Callable:
    """What is right in a variant."""
    return tasks_of(name)[id].function


def use(name: str | None) -> None:
    """From now on exercises are those of that variant; of the course as it is for None and "none"."""
    VARIED.clear()
    VARIED.update(asked_in(name) if name else {})


@contextlib.contextmanager
def using(name: str | None) -> Iterator[None]:
    """Exercises of a variant for a while."""
    before = dict(VARIED)
    use(name)
    try:
        yield
    finally:
        VARIED.clear()
        VARIED.update(before)
