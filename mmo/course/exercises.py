"""What an exercise is, and how an attempt at it is judged.

An attempt is called with the exercise's cases and compared with the package's own function: shape, kind of number,
finiteness, values, gradients.  Where it differs, the typical mistakes of the exercise are tried: each is a wrong
function, and if it gives what the learner's gives, its words are the diagnosis.  So a diagnosis is never a guess; what fits one case alone, or one of several gradients,
begins with "Perhaps".

    verdict = judge(find("07.delay"), their_delay)
    verdict.kind        # "passed", "wrong" or "unsolved"
    verdict.words       # "Every codebook starts at the same position: ..."
"""

from __future__ import annotations

import base64
import html
import importlib
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmo.course.catalogue import Notebook, listed_points
from mmo.display import GREEN, GREY, RED, Picture

TASKS = {  # notebook -> module in mmo/course/tasks
    "00": "warm_up",
    "01": "codec",
    "02": "hearing",
    "03": "vision",
    "04": "projector",
    "05": "thinker",
    "06": "mixture",
    "07": "sequence",
    "08": "talker",
    "09": "streaming",
    "10": "training",
    "11": "errors",
    "12": "trusting",
    "13": "talking",
    "14": "dense_moe",
    "15": "breaking",
    "A1": "codec_training",
    "A2": "speech_training",
    "A3": "vision_training",
    "A4": "scale",
}
KINDS = {"passed": ("Right.", GREEN), "wrong": ("Not yet.", RED), "unsolved": ("Still open.", GREY)}


@dataclass(frozen=True)
class Bug:
    """A typical mistake: a wrong function of the reference's signature, and what to say to somebody who made it."""

    words: str
    wrong: Callable


@dataclass(frozen=True)
class Case:
    """One call: arguments, and words for them."""

    name: str
    arguments: tuple
    gradients: bool = True  # False: there the gradients mean nothing, and any will do


def worth(points: int) -> str:
    return f"{points} point" if points == 1 else f"{points} points"


@dataclass(frozen=True)
class Exercise:
    """One exercise.  difficulty and importance: 1 to 3.  minutes: for somebody who meets it for the first time.  Its points stand in course.yml."""

    id: str  # "07.delay": notebook, name
    title: str
    difficulty: int
    importance: int
    minutes: int
    looks: str  # what the result should look like
    hints: tuple[str, ...]  # from a nudge to almost the answer
    reference: Callable  # the package's own; stands in where there is no solution
    package_name: str  # what the package calls it: "mmo.sequence.delay"
    cases: Callable[[], Sequence[Case]]
    bugs: tuple[Bug, ...] = ()
    probe: Callable[[tuple, Any, Any], str | None] | None = None  # (arguments, wanted, theirs) -> diagnosis
    gradients: tuple[int, ...] = ()  # arguments whose gradients are the reference's: where it has none, none may flow
    tolerance: float = 1e-5  # of floating numbers, absolute and relative
    picture: Callable[[Any, Any], Picture] | None = None  # (wanted, theirs), drawn for the case that failed, else for the first
    variant: str = ""  # the name of a class's variant that asks for something else than the package does

    @property
    def notebook(self) -> str:
        return self.id.split(".")[0]

    @property
    def points(self) -> int:
        """What course.yml gives it.  Raises ValueError where it gives nothing."""
        return points_in(listed_points().get(self.notebook, {}), self.id)

    @property
    def reward(self) -> str:
        """ "3 points.", for a verdict; "" in a hand-out that does not list the notebook: its points are known where it was handed out."""
        return f"{worth(self.points)}." if self.notebook in listed_points() else ""

    def line(self, points: int) -> str:
        """The line of Markdown under the exercise's heading; `mmo course build` keeps it true."""
        return (
            f"*Exercise {self.id} · difficulty {dots(self.difficulty)} · importance {dots(self.importance)} · {self.minutes} minutes · "
            f'{worth(points)} · stuck? `hint("{self.id}")`*'
        )


def dots(number: int) -> str:
    """2 -> "●●○"."""
    return "●" * number + "○" * (3 - number)


def points_in(listed: Mapping[str, int], id: str) -> int:
    """The points of an exercise.  Raises ValueError that says where to write them."""
    if id not in listed:
        raise ValueError(f"course.yml gives exercise {id} no points: write {id}: 3 under `exercises` of notebook {id.split('.')[0]}")
    return listed[id]


VARIED: dict[str, Exercise] = {}  # exercise id -> how a class with a variant has it; empty without (mmo/course/variant.py)


def exercises_of(notebook: str) -> tuple[Exercise, ...]:
    """The exercises of a notebook ("07") in their order; none where it has none."""
    if notebook not in TASKS:
        return ()
    return tuple(VARIED.get(each.id, each) for each in importlib.import_module(f"mmo.course.tasks.{TASKS[notebook]}").EXERCISES)


def refuse_unmatched(entry: Notebook) -> None:
    """Raises ValueError naming an exercise without points in course.yml, or points without an exercise."""
    ids = [each.id for each in exercises_of(entry.number)]
    for id in ids:
        points_in(entry.exercises, id)
    strays = [id for id in entry.exercises if id not in ids]
    if strays:
        raise ValueError(f"course.yml, {entry.file}: points for {', '.join(strays)}, but there is no such exercise; there are {', '.join(ids) or 'none'}")


def standard(id: str) -> Exercise:
    """The exercise as the course has it, whatever a variant asks."""
    return next(each for each in importlib.import_module(f"mmo.course.tasks.{TASKS[id.split('.')[0]]}").EXERCISES if each.id == id)


def all_exercises() -> tuple[Exercise, ...]:
    """Every exercise, by notebook."""
    return tuple(each for notebook in sorted(TASKS) for each in exercises_of(notebook))


def find(id: str) -> Exercise:
    """The exercise of that id.  Raises ValueError with the ids of its notebook, or of all."""
    known = exercises_of(id.split(".")[0])
    for each in known:
        if each.id == id:
            return each
    names = ", ".join(each.id for each in known or all_exercises())
    raise ValueError(f"no exercise {id!r}; there are {names}")


# --- Verdict -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """What came of an attempt; a notebook shows it as the value of a cell."""

    id: str
    kind: str  # "passed", "wrong", "unsolved"
    words: str
    picture: Picture | None = None

    @property
    def passed(self) -> bool:
        return self.kind == "passed"

    def __repr__(self) -> str:
        return f"{self.id}: {KINDS[self.kind][0]} {self.words}"

    def _repr_html_(self) -> str:
        opening, colour = KINDS[self.kind]
        drawn = ""
        if self.picture:
            data = base64.b64encode(self.picture.png).decode()
            drawn = f'<img alt="{html.escape(self.picture.alt)}" style="max-width:100%" src="data:image/png;base64,{data}">'
        words = html.escape(self.words).replace("\n", "<br>")
        return (
            f'<div style="border-left:4px solid {colour};padding:2px 10px;margin:4px 0">'
            f"<b>{self.id} · {opening}</b> {words}</div>{drawn}"
        )


# --- Judging -----------------------------------------------------------------------------------------------------


def judge(exercise: Exercise, function: Callable) -> Verdict:
    """Call `function` with every case; the first that is wrong decides.

    What is wanted is computed after the function has returned: while it runs, the right result is nowhere to be found.
    """
    first = None
    for case in exercise.cases():
        given = copies(case.arguments)
        try:
            theirs = function(*given)
        except Exception as error:  # whatever a learner's code may raise is theirs to read
            if is_stub(error):
                return Verdict(exercise.id, "unsolved", f'{exercise.title}. {exercise.looks} For a nudge: hint("{exercise.id}").')
            return Verdict(exercise.id, "wrong", f"With {case.name} it stops: {where(error)}")
        wanted = exercise.reference(*copies(case.arguments))
        flaw = difference(wanted, theirs, exercise.tolerance)
        if flaw:
            words = f"With {case.name}: {flaw}"
            diagnosis = diagnose(exercise, function, case, wanted, theirs)
            return Verdict(exercise.id, "wrong", f"{diagnosis}\n({words})" if diagnosis else words, drawn(exercise, wanted, theirs))
        first = first or (wanted, theirs)
        changed = [number for number, value in enumerate(given) if difference(case.arguments[number], value, 0.0)]
        if changed:
            return Verdict(
                exercise.id, "wrong", f"The result is right, but argument {changed[0] + 1} was changed in place. Whoever called you still needs it: "
                "work on a new tensor or on a clone.",
            )
        flaw = gradient_flaw(exercise, function, case) if case.gradients else None
        if flaw:
            words = f"With {case.name}: {flaw}"
            diagnosis = diagnose_gradient(exercise, function, case)
            return Verdict(exercise.id, "wrong", f"{diagnosis}\n({words})" if diagnosis else words)
    asked = "your class is asked for" if exercise.variant else f"{exercise.package_name} does"
    return Verdict(exercise.id, "passed", f"It does what {asked}. {exercise.reward}".rstrip(), drawn(exercise, *first))


def is_stub(error: Exception) -> bool:
    """Whether it is the learner's edition's own `raise NotImplementedError`: torch raises one, too, with words, where it has no kernel for a dtype."""
    return isinstance(error, NotImplementedError) and not error.args


def copies(arguments: tuple) -> tuple:
    """Arguments that may be spoilt."""
    return tuple(copy_of(value) for value in arguments)


def copy_of(value):
    """An argument that may be spoilt, with the tensors and lists in it; a module is itself."""
    if isinstance(value, Tensor):
        return value.clone()
    return type(value)(copy_of(each) for each in value) if type(value) in (list, tuple) else value


def where(error: Exception) -> str:
    """The error, and the learner's line that raised it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/mmo/course/" not in frame.filename.replace("\\", "/")]
    line = f' (line {frames[0].lineno} of the cell: "{frames[0].line}")' if frames and frames[0].line else ""
    return f"{type(error).__name__}: {error}{line}"


def diagnose(exercise: Exercise, function: Callable, case: Case, wanted, theirs) -> str | None:
    """The words of the mistake that gives what the learner's function gives: in all cases if there is one, else in this one, and then with a "perhaps"."""
    here = [bug for bug in exercise.bugs if same(outcome(bug.wrong, case), theirs, exercise.tolerance)]
    for bug in here:
        if all(same(outcome(bug.wrong, each), outcome(function, each), exercise.tolerance) for each in exercise.cases()):
            return bug.words
    if here:
        return f"Perhaps: {here[0].words}"
    return exercise.probe(case.arguments, wanted, theirs) if exercise.probe else None


def outcome(function: Callable, case: Case):
    """The result of a call, or the kind of its failure."""
    try:
        return function(*copies(case.arguments))
    except Exception as error:
        return f"{type(error).__name__}"


def same(one, other, tolerance: float) -> bool:
    return difference(one, other, tolerance) is None


def difference(wanted, theirs, tolerance: float) -> str | None:
    """What distinguishes a result from the wanted one, in words; None where nothing does."""
    wanted, theirs = plain(wanted), plain(theirs)
    if isinstance(wanted, (tuple, list)):
        results = list(theirs) if isinstance(theirs, (tuple, list)) else None
        if results is None or len(results) != len(wanted):
            return f"wanted {len(wanted)} results, got {describe(theirs)}."
        found = (difference(one, other, tolerance) for one, other in zip(wanted, results))
        return next((f"result {number + 1}: {flaw}" for number, flaw in enumerate(found) if flaw), None)
    if isinstance(wanted, Tensor):
        return tensor_difference(wanted, theirs, tolerance)
    if isinstance(wanted, (int, float)) and isinstance(theirs, Tensor) and theirs.numel() != 1:
        return f"wanted a single number, got {describe(theirs)}."
    if isinstance(wanted, float) and isinstance(theirs, (int, float, np.number, Tensor)) and not isinstance(theirs, bool):
        close = abs(float(theirs) - wanted) <= tolerance * (1 + abs(wanted))
        return None if close else f"wanted {wanted:.6g}, got {float(theirs):.6g}."
    if isinstance(wanted, int) and isinstance(theirs, Tensor) and theirs.numel() == 1:
        theirs = theirs.item()
    if theirs is None and wanted is not None:
        return "got None: is there a `return`?"
    return None if type(theirs) is type(wanted) and theirs == wanted else f"wanted {wanted!r}, got {theirs!r}."


def plain(value):
    """A number of numpy as Python's, a tensor of a subclass as a plain one: a subclass might answer for itself when it is compared."""
    if isinstance(value, np.generic):
        return value.item()
    if issubclass(type(value), Tensor) and type(value) is not Tensor and type(value).__torch_dispatch__ is Tensor.__torch_dispatch__:
        with torch._C.DisableTorchFunction():
            return Tensor.as_subclass(value, Tensor)
    return value


def describe(value) -> str:
    """A value in few words."""
    if issubclass(type(value), Tensor) and type(value) is not Tensor:
        return f"a {type(value).__name__}, which is no plain tensor"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if value is None:
        return "None: is there a `return`?"
    return f"{type(value).__name__} {value!r:.60}"


def tensor_difference(wanted: Tensor, theirs, tolerance: float) -> str | None:
    """As `difference`, of a tensor; whatever the function has hung into torch's functions stays out of it."""
    with torch._C.DisableTorchFunction():
        return compared(wanted, theirs, tolerance)


def compared(wanted: Tensor, theirs, tolerance: float) -> str | None:
    if type(theirs) is not Tensor:
        return f"wanted a tensor of shape {tuple(wanted.shape)}, got {describe(theirs)}"
    if (theirs.layout, theirs.device) != (wanted.layout, wanted.device):
        return f"wanted a {wanted.layout} tensor on {wanted.device}, got a {theirs.layout} one on {theirs.device}."
    if theirs.shape != wanted.shape:
        return f"the shape is {tuple(theirs.shape)}, wanted {tuple(wanted.shape)}."
    if theirs.dtype != wanted.dtype:
        return f"the dtype is {theirs.dtype}, wanted {wanted.dtype}."
    wanted, theirs = wanted.detach(), theirs.detach()
    if wanted.is_floating_point():
        if not theirs.isfinite().all() and wanted.isfinite().all():
            return f"{int((~theirs.isfinite()).sum())} of {theirs.numel()} values are not finite."
        wrong = ~torch.isclose(theirs, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)
    else:
        wrong = theirs != wanted
    if not wrong.any():
        return None
    first = tuple(int(axis) for axis in wrong.nonzero()[0])
    place = f" at [{', '.join(map(str, first))}]" if first else ""
    return f"{int(wrong.sum())} of {wrong.numel()} values differ; the first{place}: wanted {number(wanted[first])}, got {number(theirs[first])}."


def number(value: Tensor) -> str:
    return f"{value.item():.5g}" if value.is_floating_point() else str(value.item())


def gradient_flaw(exercise: Exercise, function: Callable, case: Case) -> str | None:
    """What is wrong with the gradients, in words."""
    for argument in exercise.gradients:
        wanted = gradient(exercise.reference, case, argument)
        try:
            theirs = gradient(function, case, argument)
        except Exception as error:  # a .numpy() for instance, which no gradient passes
            return f"the values are right, but their gradient cannot be taken. {where(error)}"
        if wanted is None:  # nothing may be learnt there
            if theirs is not None and theirs.any():
                return f"the values are right, but argument {argument + 1} gets a gradient, and must get none."
            continue
        if theirs is None:
            if not wanted.any():
                continue  # an argument that this case has no use for: zeros, or none at all
            return f"no gradient reaches argument {argument + 1}. A .detach(), .item(), .data or torch.no_grad() cuts it off."
        flaw = tensor_difference(wanted, theirs, max(exercise.tolerance, 1e-4))
        if flaw:
            return f"the values are right, but the gradient of argument {argument + 1} is not: {flaw}"
    return None


def diagnose_gradient(exercise: Exercise, function: Callable, case: Case) -> str | None:
    """The words of the mistake with right values that has the learner's gradients: all of them, or else the first that is wrong."""
    tolerance = max(exercise.tolerance, 1e-4)
    try:
        wanted, theirs = ([gradient(each, case, argument) for argument in exercise.gradients] for each in (exercise.reference, function))
    except Exception:
        return None  # the flaw itself says what stops it
    found = [
        (bug.words, [gradient(bug.wrong, case, argument) for argument in exercise.gradients])
        for bug in exercise.bugs
        if same(outcome(bug.wrong, case), outcome(exercise.reference, case), exercise.tolerance)
    ]
    theirs = [zeros if own is None and zeros is not None and not zeros.any() else own for zeros, own in zip(wanted, theirs, strict=True)]
    first = next(place for place, pair in enumerate(zip(wanted, theirs, strict=True)) if not same(*pair, tolerance))
    exact = (words for words, own in found if same(own, theirs, tolerance))
    partly = (f"Perhaps: {words}" for words, own in found if same(own[first], theirs[first], tolerance))
    return next(exact, next(partly, None))


def gradient(function: Callable, case: Case, argument: int) -> Tensor | None:
    """The gradient of a fixed weighted sum of the result, or results, with respect to one argument."""
    arguments = copies(case.arguments)
    arguments[argument].requires_grad_(True)
    with torch.enable_grad():
        result = function(*arguments)
        results = [plain(each) for each in (result if isinstance(result, (tuple, list)) else (result,)) if isinstance(each, Tensor) and each.requires_grad]
        if not results:
            return None
        sum((each * torch.linspace(-1, 1, each.numel(), dtype=each.dtype).view(each.shape)).sum() for each in results).backward()
    return arguments[argument].grad


def drawn(exercise: Exercise, wanted, theirs) -> Picture | None:
    """Both results side by side, where the exercise has a picture and the learner's result can be drawn."""
    if exercise.picture is None:
        return None
    try:
        return exercise.picture(wanted, theirs)
    except Exception:  # a wrong result may have any shape; the words have said so
        return None
