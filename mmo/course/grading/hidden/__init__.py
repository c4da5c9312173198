"""Cases that no learner has seen: other numbers, other sizes, and edges that the notebook's cases leave out.

Each module holds `HIDDEN`: exercise id -> a function that gives the cases.  An answer meets them only after it has passed the notebook's
own, and they carry half of the points (`hidden_share` and `hidden_shares` in course.yml).
"""

from __future__ import annotations

import importlib
import importlib.util

from mmo.course.exercises import TASKS, VARIED, Case
from mmo.course.grading.variants import hidden_of


def hidden_cases(id: str) -> tuple[Case, ...]:
    """The hidden cases of an exercise, those of a variant where one is in use; none where it has none."""
    varied = VARIED.get(id)
    own = hidden_of(id, varied.variant) if varied else None
    if own is not None:
        return own
    module = f"{__name__}.{TASKS.get(id.split('.')[0])}"
    if importlib.util.find_spec(module) is None:
        return ()
    make = importlib.import_module(module).HIDDEN.get(id)
    return tuple(make()) if make else ()
