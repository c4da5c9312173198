"""The exercises of a class whose hand-out was made with `mmo course release --variant NAME`: its file variant.json.

The file holds what is asked and, for each case of each check, the right result as numbers.  It does not hold how to compute it, and neither
does the package, so nothing is there to copy.  Where the notebook goes on with the function, the package's own stands in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mmo.course.exercises import VARIED, Bug, Case, Exercise, difference, standard

FILE = "variant.json"


def encoded(value):
    """A value of a case as JSON knows it: tensors become {"tensor": numbers, "shape", "dtype"}, tuples {"tuple": […]}."""
    if isinstance(value, Tensor):
        return {"tensor": value.detach().flatten().tolist(), "shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, tuple):
        return {"tuple": [encoded(each) for each in value]}
    if isinstance(value, list):
        return [encoded(each) for each in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"no case of a variant may hold a {type(value).__name__}")


def decoded(value):
    """The value again, bit for bit."""
    if isinstance(value, dict):
        if "tuple" in value:
            return tuple(decoded(each) for each in value["tuple"])
        return torch.tensor(value["tensor"], dtype=getattr(torch, value["dtype"])).reshape(value["shape"])
    return [decoded(each) for each in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Recorded:
    """A right function that knows the right results of a few calls, and no others."""

    id: str
    calls: tuple[tuple[tuple, object], ...]

    def __call__(self, *arguments):
        """Raises LookupError for other arguments."""
        for known, result in self.calls:
            if difference(known, arguments, 0.0) is None:
                return result.clone() if isinstance(result, Tensor) else result
        raise LookupError(f"{self.id}: of your class's variant only the results of the notebook's cases are known here")


def recorded(task: Exercise) -> dict:
    """What a hand-out holds of an exercise of a variant."""
    cases = [{"name": case.name, "arguments": encoded(tuple(case.arguments)), "result": encoded(task.reference(*case.arguments))} for case in task.cases()]
    return {"looks": task.looks, "hints": list(task.hints), "own": task.bugs[0].words, "cases": cases}


def restored(id: str, entry: Mapping, name: str) -> Exercise:
    """The exercise again, with results in the place of a function."""
    plain = standard(id)
    cases = tuple(Case(each["name"], decoded(each["arguments"])) for each in entry["cases"])
    calls = tuple((case.arguments, decoded(each["result"])) for case, each in zip(cases, entry["cases"]))
    return replace(
        plain, variant=name, looks=entry["looks"], hints=tuple(entry["hints"]), reference=Recorded(id, calls), cases=lambda: cases, gradients=(), probe=None,
        bugs=(Bug(entry["own"], plain.reference),),
    )


def write_variant(path: Path, name: str, tasks: Mapping[str, Exercise]) -> None:
    path.write_text(json.dumps({"variant": name, "exercises": {id: recorded(task) for id, task in tasks.items()}}, indent=1) + "\n", encoding="utf-8")


def use_handed_out(path: Path, told: Callable[[str], None] = print) -> None:
    """From now on exercises are those of the variant in that file, if it is there.  One that cannot be read is said, not ignored in silence."""
    if not path.is_file():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        VARIED.update({id: restored(id, entry, found["variant"]) for id, entry in found["exercises"].items()})
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        told(f"{path} cannot be read ({error!r}): checks compare with the package, not with what your class is asked. Take the file from the hand-out again.")
