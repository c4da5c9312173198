"""What makes notebooks a course: exercises that answer back, predictions, progress, and the building of both editions.

In a notebook:

    from mmo.course import check, exercise, hint, predict, reveal, solution

    @exercise("07.delay")
    def delay(codes, pad, stop): ...

    check("07.delay")          # right, or what is wrong and where to look
    hint("07.delay")           # one step further each time
    solution("07.delay")       # folded away until it is opened

    predict("07.first", "After how many positions is the first frame whole?", None)   # your number instead of None
    reveal("07.first", 8)

    quiz("07")                 # questions with an explanation for each choice

This package is a leaf: notebooks use it, `mmo/cli.py` calls it, nothing else imports it.
"""

from pathlib import Path

from mmo.course.desk import check, exercise, hint, predict, reveal, solution
from mmo.course.questions import quiz
from mmo.course.variant import FILE, use_handed_out

use_handed_out(Path(__file__).resolve().parents[2] / FILE)  # only a hand-out with a variant has it

__all__ = ["check", "exercise", "hint", "predict", "quiz", "reveal", "solution"]
