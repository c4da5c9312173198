"""The learner's side: attempts, checks, hints, predictions.

Nothing blocks.  An exercise that is not solved yet, or whose check failed, is answered by the package's own function,
and that is said once; the notebook runs on to its end.  With MMO_STRICT=1, which is how solutions are executed, nothing
stands in and a failed check is an error; nothing is written down then either.
"""

from __future__ import annotations

import contextlib
import functools
import html
import sys
from collections.abc import Callable

from mmo.course import progress
from mmo.course.catalogue import REPOSITORY
from mmo.course.exercises import Exercise, Verdict, find, is_stub, judge, standard
from mmo.course.progress import strict

ATTEMPTS: dict[str, Attempt] = {}
HINTS_SHOWN: dict[str, int] = {}


class CheckFailed(AssertionError):
    """With MMO_STRICT=1: an exercise's check did not pass."""


class Attempt:
    """A learner's function, and the package's own in reserve.  `attempt.yours` is always the learner's."""

    def __init__(self, task: Exercise, yours: Callable) -> None:
        functools.update_wrapper(self, yours)
        self.task, self.yours = task, yours
        self.verdict: Verdict | None = None
        self.said = False

    def __call__(self, *arguments, **named):
        if self.task.variant:  # the notebook goes on with the course's own, right or wrong
            return self.fall_back("asks your class for something else than the notebook goes on with", *arguments, **named)
        if strict():
            return self.yours(*arguments, **named)
        if self.verdict and not self.verdict.passed:
            why = "is still open" if self.verdict.kind == "unsolved" else "is not right yet"
            return self.fall_back(why, *arguments, **named)
        try:
            return self.yours(*arguments, **named)
        except Exception as error:
            if is_stub(error):
                return self.fall_back("is still open", *arguments, **named)
            if not self.verdict:  # not checked yet: the learner is at work on it and wants to see the error
                raise
            return self.fall_back(f"stopped here ({type(error).__name__}: {error})", *arguments, **named)

    def fall_back(self, why: str, *arguments, **named):
        """The package's own function, and one line that says so."""
        if not self.said:
            self.said = True
            print(f"{self.task.id} {why}: {self.task.package_name} stands in. Your own is {self.__name__}.yours.")
        own = standard(self.task.id) if self.task.variant else self.task
        return own.reference(*arguments, **named)


def exercise(id: str) -> Callable[[Callable], Attempt]:
    """Decorator: this function is an attempt at that exercise."""
    task = find(id)

    def attempt(function: Callable) -> Attempt:
        ATTEMPTS[id] = Attempt(task, function)
        return ATTEMPTS[id]

    return attempt


def check(id: str) -> Verdict:
    """Judge the last attempt.  Raises CheckFailed only with MMO_STRICT=1."""
    task = find(id)
    attempt = ATTEMPTS.get(id)
    if attempt is None:
        verdict = Verdict(id, "unsolved", f'No attempt yet: run the cell with @exercise("{id}") first.')
    else:
        with contextlib.redirect_stderr(sys.stdout):  # a warning is no failure; nbgrader gives no points to a test that wrote to stderr
            verdict = attempt.verdict = judge(task, attempt.yours)
        attempt.said = False
    if strict():
        if not verdict.passed:
            raise CheckFailed(repr(verdict))
    elif verdict.kind != "unsolved":
        progress.note_attempt(id, verdict.passed)
    return verdict


class Words:
    """A few lines of HTML with a plain form."""

    def __init__(self, plain: str, page: str) -> None:
        self.plain, self.page = plain, page

    def __repr__(self) -> str:
        return self.plain

    def _repr_html_(self) -> str:
        return self.page


def framed(plain: str, title: str) -> Words:
    return Words(
        f"{title} {plain}",
        f'<div style="border-left:4px solid #56B4E9;padding:2px 10px;margin:4px 0"><b>{html.escape(title)}</b> {html.escape(plain)}</div>',
    )


def hint(id: str, number: int | None = None) -> Words:
    """The next hint each time, or the one of that number (from 1).  After the last comes the last again."""
    task = find(id)
    last = len(task.hints)
    shown = min(number or HINTS_SHOWN.get(id, 0) + 1, last)
    HINTS_SHOWN[id] = shown
    if not strict():
        progress.note_hint(id, shown)
    more = "Once more for the next." if shown < last else last_words(id)
    return framed(f"{task.hints[shown - 1]} {more}", f"{id} · hint {shown} of {last}.")


def last_words(id: str) -> str:
    """What comes after the last hint: a hand-out has no solutions."""
    return f'That was the last; solution("{id}") opens one.' if (REPOSITORY / "solutions").is_dir() else "That was the last."


def solution(id: str) -> Words:
    """A solution, folded: it stands in solutions/, not in the learner's notebook."""
    from mmo.course.build import solution_of

    code = solution_of(find(id))
    return Words(code, f"<details><summary>{html.escape(id)}: one way to do it</summary><pre>{html.escape(code)}</pre></details>")


# --- Predictions -------------------------------------------------------------------------------------------------


def predict(id: str, question: str, mine=None) -> Words:
    """Commit a prediction: a number, or a word.  None is no prediction; the notebook asks for none to go on.

    The first one counts: a prediction that is changed after the fact is none.
    """
    if mine is None:
        return framed(f"{question} Write your answer in place of None, run the cell, then go on.", "Predict.")
    mine = plain(mine)
    committed = mine if strict() else progress.note_prediction(id, mine=mine)["mine"]
    kept = "" if committed == mine else f" (you first said {committed}, and that one counts)"
    return framed(f"{question} You say {mine}{kept}.", "Predicted.")


def plain(mine) -> bool | int | float | str:
    """A prediction as it can be kept: what was computed, a tensor or an array of one number, as that number; anything else as it is written."""
    if not isinstance(mine, str) and getattr(mine, "shape", None) in ((), (1,)):
        mine = mine.item()
    return mine if isinstance(mine, (bool, int, float, str)) else str(mine)


def reveal(id: str, truth, unit: str = "") -> Words:
    """The truth beside the prediction; several of which each is as true as the others may be given as a list."""
    truths = list(truth) if isinstance(truth, (list, tuple)) else [truth]
    named = " and ".join(map(str, truths)) if len(truths) > 1 else truths[0]
    entry = {} if strict() else progress.note_prediction(id, truth=named)
    said = entry.get("mine")
    behind = f" {unit}" if unit else ""
    close = next((words for words in (closeness(said, each) for each in truths) if words), "")
    plain = f"{named}{behind}." + ("" if said is None else f" You predicted {said}{close}.")
    return framed(plain, "It is")


def closeness(said, truth) -> str:
    """How far off, in words."""
    try:
        said, truth = float(said), float(truth)
    except (TypeError, ValueError):
        return ", and that is it" if str(said).strip().lower() == str(truth).strip().lower() else ""
    if said == truth:
        return ", and that is it"
    if said > 0 and truth > 0:
        ratio = max(said / truth, truth / said)
        return ", close" if ratio < 1.2 else f", {ratio:.1f} times too {'much' if said > truth else 'little'}"
    return f", {abs(said - truth):g} off"
